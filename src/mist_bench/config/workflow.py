"""What only the Snakefile needs: whether files outside have changed, and what to say at the end."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable
from functools import cache
from pathlib import Path

# as in datasets.sources, which takes longer to import
DIGITS = "MIST_BENCH_DATA"
DIGIT_PLACES = ("", "MNIST/raw/", "mnist/")


def unwritable(folder: Path) -> str | None:
    """Return in one line why nothing can be written to ``folder``; ``None`` if all is well."""
    place = folder
    while not place.exists() and place != place.parent:
        place = place.parent
    if not place.is_dir():
        return f"{place}: a file is where the results folder should be; move it away"
    if not os.access(place, os.W_OK | os.X_OK):
        return f"{place}: not writable; change its owner or run elsewhere (snakemake --directory)"
    return None


@cache
def tree_digest(folder: Path) -> str:
    """Return a hash of the names, sizes and times of all files below a folder, '' without one.

    It tells that photographs were added or changed, without reading them.
    """
    if not folder.is_dir():
        return ""
    paths, seen = [], set()
    for place, inside, names in os.walk(folder, followlinks=True):
        if os.path.realpath(place) in seen:  # a link to a folder above
            inside.clear()
            continue
        seen.add(os.path.realpath(place))
        paths += [Path(place, name) for name in names]
    return _digest(folder, paths)


def digits_digest(folder: str | None) -> str:
    """Return a hash of the sizes and times of MNIST's files in the user's folder, '' without one.

    Nothing else in that folder counts: other data sets may lie there, too.
    """
    if not folder:
        return ""
    root = Path(folder)
    return _digest(root, [path for place in DIGIT_PLACES for path in root.glob(f"{place}*-ubyte*")])


def _digest(folder: Path, paths: Iterable[Path]) -> str:
    """Return a hash of the names, sizes and times of files below a folder."""
    lines = []
    for path in paths:
        with contextlib.suppress(OSError):  # a link to nothing
            stat = path.stat()
            lines.append(f"{path.relative_to(folder)} {stat.st_size} {stat.st_mtime_ns}")
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()[:12]


def sampled(results: Path) -> list[str]:
    """Return in one line which datasets of all presets hold a sample of their source only."""
    found: dict[str, list[str]] = {}
    for path in sorted(results.glob("*/datasets/*/manifest.json")):
        with contextlib.suppress(OSError, ValueError):
            source = json.loads(path.read_text(encoding="utf-8")).get("source") or ""
            if source.startswith("a sample of"):
                found.setdefault(source, []).append(str(path.parent.relative_to(results)))
    return [
        f"Only {source}: {', '.join(names)}. For all of MNIST, put its four files into a folder, "
        f"set {DIGITS} to it and call again"
        for source, names in found.items()
    ]


def produced(results: Path, since: float) -> list[str]:
    """Return the tables, figures and reports of all presets written after ``since`` (Unix time).

    Files that differ only in their suffix are one entry: ``table1.{csv,md,tex}``.
    """
    patterns = ("*/metrics.csv", "*/tables/*", "*/figures/*", "*/report/*.html")
    kinds: dict[Path, list[str]] = {}
    for path in (path for pattern in patterns for path in sorted(results.glob(pattern))):
        if path.stat().st_mtime >= since:
            kinds.setdefault(path.with_suffix(""), []).append(path.suffix.removeprefix("."))
    return [
        f"{stem}.{suffixes[0]}" if len(suffixes) == 1 else f"{stem}.{{{','.join(suffixes)}}}"
        for stem, suffixes in kinds.items()
    ]


def step_seconds(origin: Path) -> dict[tuple[str, str], float]:
    """Return (experiment, method) -> seconds of a training step, of its slowest published run.

    Args:
        origin: origin.json of a preset's reference results; a preset without any has no runs.
    """
    slowest: dict[tuple[str, str], float] = {}
    for run in json.loads(origin.read_text(encoding="utf-8")) if origin.is_file() else []:
        key = run["experiment"], run["method"]
        seconds = run.get("seconds") or run["cpu_seconds"]  # some records have the processor's only
        slowest[key] = max(slowest.get(key, 0), seconds / run["steps"])
    return slowest

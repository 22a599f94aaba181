"""Copy what is worth keeping of a preset's results into results/reference, with its origin."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mist_bench.config.schema import Config
from mist_bench.config.targets import figure_input, figure_runs, run_folder
from mist_bench.reporting.aggregate import OTHER_SETTINGS, collect, read_json
from mist_bench.reporting.figures.write import DRAWN

TEXTS = ("tables/*.csv", "tables/*.md", "tables/*.tex", "metrics.csv", "bench/*")
CURVES = ("train.csv", "val.csv", "config.json")
ORIGIN = ("commit", "device", "cpu", "gpu", "cores", "python", "system", "versions", "threads")


def publish(config: Config, results: Path, reference: Path) -> list[Path]:
    """Copy tables, figures, metrics and curves to ``reference`` and write origin.json there.

    ``reference`` is replaced as a whole, once everything is there. The files in it are returned.

    Raises:
        ValueError: if no run has ended, or one has other settings than the configuration's, or
            comes from code that was not committed.
    """
    found = collect(config, results)
    for run in found[found["status"] == OTHER_SETTINGS].itertuples():
        folder = run_folder(results, run.experiment, run.method, run.seed)
        raise ValueError(f"{folder}: other settings ({run.reason}); run it again or remove it")
    runs = found[found["status"] == "ok"]
    keys = runs[["experiment", "method", "seed"]].drop_duplicates().itertuples(index=False)
    records = {key: read_json(run_folder(results, *key) / "run.json") or {} for key in keys}
    if not records:
        raise ValueError(f"{results}: no finished run to publish")
    for key, record in records.items():
        commit = record.get("commit") or "unknown"
        if "dirty" in commit or commit == "unknown":
            raise ValueError(f"{run_folder(results, *key)}: from uncommitted code; commit, rerun")
    fresh = reference.with_name(f".{reference.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    for pattern in (*TEXTS, *_pictures(config, results)):
        for path in sorted(results.glob(pattern)):
            _copy(path, fresh / path.relative_to(results))
    for key in records:
        folder = run_folder(results, *key)
        for name in CURVES:
            _copy(folder / name, fresh / folder.relative_to(results) / name)
    origin = [_origin(key, record) for key, record in records.items()]
    (fresh / "origin.json").write_text(json.dumps(origin, indent=1) + "\n", encoding="utf-8")
    shutil.rmtree(reference, ignore_errors=True)
    fresh.rename(reference)
    return sorted(path for path in reference.rglob("*") if path.is_file())


def _pictures(config: Config, results: Path) -> Iterator[str]:
    """Yield the figures whose runs are all there: the page of another may say "not run"."""
    for name in DRAWN:
        folders = [run_folder(results, *run) for run in figure_runs(config, name)]
        if folders and all((folder / figure_input(name)).is_file() for folder in folders):
            yield f"figures/{name}.png"


def _origin(key: tuple, record: dict[str, Any]) -> dict[str, Any]:
    """Return which run it is, what it cost and where it was made."""
    experiment, method, seed = key
    cost = {name: round(record.get(name, 0), 1) for name in ("seconds", "cpu_seconds")}
    return {
        **{"experiment": experiment, "method": method, "seed": int(seed)},
        "steps": record.get("steps"),
        **cost,
        "peak_memory_mib": round(record.get("peak_memory_mib", 0)),
        "parameters": record.get("parameters"),
        **{name: record.get(name) for name in ORIGIN},
    }


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)

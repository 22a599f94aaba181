"""The folders of checkpoints: what they are called, and which of them are no longer needed."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

from filelock import FileLock, Timeout

from mist_bench.config.provenance import fingerprint


def work_name(config: str, code: Mapping[str, str], data: str, device: str) -> str:
    """Return the folder's name of a run: no two configs, codes, data or devices share one.

    Args:
        config: the run's specification as canonical JSON.
        code: digests of the code that trains.
        data: digest of the dataset's manifest.
        device: ``cpu`` or ``cuda``.

    Raises:
        ValueError: if ``config`` is no specification of a run.
    """
    run = json.loads(config)
    try:
        names = f"{run['experiment']}-{run['method']}-seed{run['seed']}"
    except (KeyError, TypeError):
        raise ValueError(f"no specification of a run: {config[:50]}") from None
    return f"{names}-{fingerprint(config, dict(code), data, device)}"


def finished_work(results: Path) -> set[str]:
    """Return the names of the folders that the finished runs below a preset's folder have used."""
    names = set()
    for path in results.glob("runs/*/*/seed*/run.json"):
        try:
            config = path.with_name("config.json").read_text(encoding="utf-8").strip()
            record = json.loads(path.read_text(encoding="utf-8"))
            names.add(work_name(config, record["code"], record["manifest"], record["device"]))
        except (OSError, ValueError, KeyError, TypeError):
            continue  # of imported weights, say: no training of this suite has ended so
    return names


def remove_finished(results: Path) -> int:
    """Remove the checkpoints of finished runs, but none in use; return how many are gone.

    A run that is trained anew, with another setting, code, data or device, has another folder.
    """
    removed = 0
    for name in sorted(finished_work(results)):
        folder = results / "work" / name
        if not folder.is_dir():
            continue
        try:
            with FileLock(folder / "lock", timeout=0):  # as the training does
                shutil.rmtree(folder)
        except Timeout:
            continue
        removed += 1
    return removed

"""What a run leaves to read: curves, a plain log, live progress, TensorBoard events, a record."""

import csv
import json
import logging
import math
import resource
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn
from torch import Tensor

from mist_bench.config.resolve import canonical
from mist_bench.config.schema import RunSpec, Training
from mist_bench.models.tensors import read
from mist_bench.run.checkpoint import check_weights, sync
from mist_bench.run.machine import commit, machine

RUN_FILES = (
    "config.json",
    "train.csv",
    "val.csv",
    "heatmaps.npz",
    "weights.safetensors",
    "run.json",
)
PEAKS = ("peak_memory_mib", "peak_gpu_memory_mib")
logger = logging.getLogger("mist_bench")


class RunLog:
    """The curves of a run: kept in memory, stored with each checkpoint, written at the end.

    Rows are means over the steps since the last row. The scalars of a step stay where they are, on
    a GPU perhaps, until a row, a checkpoint or a validation needs them. A terminal shows a
    progress bar; anything else gets one plain line a row.
    """

    def __init__(self, work: Path, info: Mapping[str, Any], training: Training, device: object):
        self._work, self._training = work, training
        self._rows = {name: list(info.get(name, [])) for name in ("train", "val")}
        self._sums: dict[str, float] = dict(info.get("sums", {}))
        self._names: list[str] = list(info.get("names", []))
        self._unread: dict[int, Mapping[str, Tensor | float]] = {}  # by step
        self._best = info.get("best")
        # of the code that was loaded, not of what the folder holds when the run ends
        self.commits = list(dict.fromkeys([*info.get("commits", []), str(commit())]))
        self.device = str(device)
        self._start = info["step"]
        self._resumed = info.get("resumed", -1) + 1
        self._peaks = {name: info.get(name, 0.0) for name in PEAKS}
        self._wall = time.monotonic() - info.get("seconds", 0.0)
        self._cpu = time.process_time() - info.get("cpu_seconds", 0.0)
        columns = ("training", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        # not console.is_terminal: FORCE_COLOR would put control characters into a log file
        hidden = not sys.stderr.isatty()
        self._progress = Progress(*columns, console=Console(stderr=True), disable=hidden)
        self._events = _event_writer(work / "tensorboard", self._start + 1)
        began = f"continuing after step {self._start}" if self._start else "starting"
        logger.info(
            "%s: %d steps of %d images on %s", began, training.steps, training.batch_size, device
        )

    def __enter__(self) -> "RunLog":
        self._progress.start()
        self._bar = self._progress.add_task("", total=self._training.steps, completed=self._start)
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()
        if self._events:
            self._events.close()

    def step(self, step: int, scalars: Mapping[str, Tensor | float]) -> None:
        """Take the scalars of one step; every ``log_every`` steps they become a row.

        Raises:
            ValueError: if their names are not those of the first step, or, with a row, as ``read``.
        """
        if "loss" not in scalars:
            raise ValueError(f"train_step logged no loss at step {step}: it is compulsory")
        self._names = self._names or sorted(scalars)
        if sorted(scalars) != self._names:
            raise ValueError(
                f"train_step logged {', '.join(sorted(scalars))} at step {step}, but "
                f"{', '.join(self._names)} before; it must log the same every time"
            )
        for name, value in scalars.items():
            if isinstance(value, Tensor) and value.shape != ():
                raise ValueError(
                    f"train_step logged {name} of shape {tuple(value.shape)} at step {step}; "
                    "it must be one number, of shape ()"
                )
        self._unread[step] = {
            name: value.detach() if isinstance(value, Tensor) else value
            for name, value in scalars.items()
        }
        self._progress.update(self._bar, completed=step)
        if step % self._training.log_every and step != self._training.steps:
            return
        self.read()
        count = self._sums.pop("steps")
        means = {name: value / count for name, value in self._sums.items()}
        self._sums = {}
        self._add("train", {"step": step, "seconds": self.seconds, **means})

    def read(self) -> None:
        """Read the scalars of the steps since the last call; a GPU then ends its work first.

        Raises:
            ValueError: for the first that is not a finite number.
        """
        rows, self._unread = self._unread, {}
        for step, scalars in zip(rows, read(list(rows.values())), strict=True):
            check_finite(scalars, step)
            for name, value in scalars.items():
                self._sums[name] = self._sums.get(name, 0.0) + value
            self._sums["steps"] = self._sums.get("steps", 0) + 1

    def validation(self, step: int, score: float) -> bool:
        """Take a validation score; return whether it is the best so far (ties: the earlier)."""
        best = self._best is None or score > self._best
        self._best = score if best else self._best
        self._add("val", {"step": step, "seconds": self.seconds, "score": score})
        return best and self._training.select != "last"

    def snapshot(self, step: int, heatmap: torch.Tensor | None) -> None:
        """Keep the (h, w) heatmap of the first validation image, for methods that have one."""
        if heatmap is None:
            return
        folder = self._work / "heatmaps"
        folder.mkdir(exist_ok=True)
        fresh = folder / "new.npy"
        np.save(fresh, heatmap.detach().cpu().numpy().astype(np.float16))
        fresh.replace(folder / f"{step:08d}.npy")  # after a kill, the same file again

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps.

        Raises:
            ValueError: as ``read``, so that nothing that has diverged is stored.
        """
        self.read()
        return {
            **self._rows,
            "sums": self._sums,
            "best": self._best,
            "commits": self.commits,
            "names": self._names,
            **self.cost(),
        }

    def cost(self) -> dict[str, float]:
        """Return wall and processor seconds, summed over restarts, how many there were, peaks."""
        cpu = time.process_time() - self._cpu
        peaks = {name: max(self._peaks[name], now) for name, now in peak_memory().items()}
        return {"seconds": self.seconds, "cpu_seconds": cpu, "resumed": self._resumed, **peaks}

    @property
    def seconds(self) -> float:
        """Return the wall seconds so far."""
        return time.monotonic() - self._wall

    def write(self, out: Path) -> None:
        """Write train.csv and val.csv, and heatmaps.npz: ``steps`` (S,), ``heatmaps`` (S, h, w)."""
        for name, rows in self._rows.items():
            write_csv(out / f"{name}.csv", rows)
        files = sorted((self._work / "heatmaps").glob("*.npy"))
        maps = np.stack([np.load(path) for path in files]) if files else np.empty((0, 0, 0))
        steps = np.array([int(path.stem) for path in files], dtype=np.int64)
        np.savez_compressed(out / "heatmaps.npz", steps=steps, heatmaps=maps)

    def _add(self, name: str, row: dict[str, float]) -> None:
        self._rows[name].append(row)
        text = " ".join(f"{key} {_short(value)}" for key, value in row.items())
        logger.info("%s %s", name, text)
        if self._events:
            for key in row.keys() - {"step"}:
                self._events.add_scalar(f"{name}/{key}", row[key], row["step"])


def check_finite(scalars: Mapping[str, float], step: int) -> None:
    """Raise a ``ValueError`` that names the first scalar that is not a finite number."""
    for name, value in scalars.items():
        if not math.isfinite(value):
            raise ValueError(
                f"{name} is {value} at step {step}: training has diverged; "
                "lower the learning rate or the keypoint step"
            )


def peak_memory() -> dict[str, float]:
    """Return the most memory that this process has held, and on a GPU, in MiB; keys: ``PEAKS``."""
    unit = 2**20 if sys.platform == "darwin" else 2**10  # macOS counts bytes, Linux KiB
    gpu = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return dict(zip(PEAKS, (held / unit, gpu / 2**20), strict=True))


def write_run(
    out: Path, weights: Path, log: RunLog, spec: RunSpec, facts: Mapping[str, Any]
) -> None:
    """Put a finished run's files into ``out``, all or none; run.json, which says so, comes last.

    Raises:
        ValueError: if ``weights`` are missing or damaged; ``out`` stays as it is.
    """
    check_weights(weights)
    record = {
        "status": "ok",
        "steps": spec.training.steps,
        "threads": spec.training.threads,
        **log.cost(),
        **facts,
        **machine(),
        "commit": ", ".join(log.commits),
        "device": log.device,
    }
    fresh = out / "new"
    shutil.rmtree(fresh, ignore_errors=True)
    try:
        fresh.mkdir()
        log.write(fresh)
        shutil.copyfile(weights, fresh / "weights.safetensors")
        (fresh / "config.json").write_text(canonical(spec) + "\n", encoding="utf-8")
        (fresh / "run.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        (out / "run.json").unlink(missing_ok=True)  # of a run before this one
        for name in RUN_FILES:
            sync(fresh / name)
            (fresh / name).replace(out / name)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows of the same keys to a CSV, gaps empty."""
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
        table.writeheader()
        table.writerows({k: _short(v) for k, v in row.items()} for row in rows)


def _short(value: Any) -> Any:
    """Return a float as text with 6 significant digits, all else as it is."""
    return f"{value:.6g}" if isinstance(value, float) else value


def _event_writer(folder: Path, purge_step: int) -> Any:
    """Return a TensorBoard writer, or ``None`` where tensorboard is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=purge_step)

"""The training loop: steps, validation, checkpoints, and a record of what it cost.

A run may be killed at any moment: the same command goes on from its last checkpoint and ends with
the same weights, bit for bit on the same machine and number of threads.
"""

import math
import os
import signal
from collections.abc import Mapping
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from torch import Tensor
from torch.optim import Optimizer

from mist_bench.config.provenance import file_digest, fingerprint
from mist_bench.config.schema import RunSpec, Training
from mist_bench.datasets.files import load_split
from mist_bench.evaluation.choice import validation_score
from mist_bench.run import checkpoint
from mist_bench.run.batches import Arrays, check_labels, choose, make_batch
from mist_bench.run.method import build_method, choose_device, seed_torch, use_deterministic_torch
from mist_bench.run.prediction import predict_split
from mist_bench.run.record import RunLog, check_finite, write_run
from mist_bench.types import Method

EARLY = (1, 2, 5, 10, 20, 50, 100, 200, 500)  # steps whose heatmap is kept besides: Figure 7


class Interrupted(RuntimeError):  # noqa: N818  (not an error: the run goes on later)
    """The run was told to stop and has stored where it was."""


def train(
    spec: RunSpec, data: Path, out: Path, work: Path, device: str, code: Mapping[str, str]
) -> None:
    """Train one run and write its weights, curves and record to ``out``.

    Args:
        spec: what to train.
        data: folder of its dataset.
        out: the run's folder; written at the end.
        work: folder for checkpoints, of this run alone.
        device: ``auto``, ``cpu`` or ``cuda``.
        code: digests of the code in use, recorded and part of the checkpoint's identity.

    Raises:
        ValueError: for a non-finite loss, a foreign checkpoint, or a run that is already going on.
        Interrupted: after SIGTERM or the death of the parent; the checkpoint is stored.
    """
    work.mkdir(parents=True, exist_ok=True)
    out.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(work / "lock", timeout=0), StopSignal() as stop:
            _train(spec, data, out, work, choose_device(device), code, stop)
    except Timeout:
        raise ValueError(f"{work}: another process is training this run") from None


def _train(
    spec: RunSpec,
    data: Path,
    out: Path,
    work: Path,
    device: torch.device,
    code: Mapping[str, str],
    stop: "StopSignal",
) -> None:
    training = spec.training
    use_deterministic_torch(training.threads, tf32=training.precision == "tf32")
    split, val = load_split(data, "train"), load_split(data, "val")
    check_labels(split, spec.task)
    method = build_method(spec, device)
    manifest = file_digest(data / "manifest.json")
    identity = fingerprint(spec.model_dump(mode="json"), dict(code), manifest, str(device))
    remember_learning_rates(method.optimizers)
    seed_torch(spec.seed, "method")
    info = checkpoint.load(work, method, identity) or {"step": 0}
    log = RunLog(work, info, training, device)

    def store(step: int) -> None:
        checkpoint.save(work, method, {"identity": identity, "step": step, **log.state()})

    with log:
        for step in range(info["step"] + 1, training.steps + 1):
            try:
                log.step(step, make_step(method, split, spec, step, device))
            except (ValueError, RuntimeError):
                log.read()  # a loss that was not a number says more than what it has led to
                raise
            if step % training.validate_every == 0 or step == training.steps:
                log.read()
                total = sum(one.detach().abs().sum() for one in method.parameters())
                check_finite({"the sum of weights": float(total)}, step)
                seen = predict_split(method, val["images"], training.batch_size, device)
                is_best = log.validation(step, validation_score(seen, val, spec))
                log.snapshot(step, seen[0].heatmap)
                if is_best or training.select == "last":
                    checkpoint.save_weights(work / "kept.safetensors", method)
            elif step in EARLY:
                log.snapshot(step, predict_split(method, val["images"][:1], 1, device)[0].heatmap)
            stopping = stop.requested()  # asked once: a signal may come between two lines
            if step % training.checkpoint_every == 0 or stopping:
                store(step)
            if stopping and step < training.steps:
                done = f"{step} of {training.steps}"
                raise Interrupted(f"stopped after step {done}; the same command goes on from there")
        store(training.steps)
    parameters = sum(parameter.numel() for parameter in method.parameters())
    facts = {"code": dict(code), "manifest": manifest, "parameters": parameters}
    write_run(out, work / "kept.safetensors", log, spec, facts)


def make_step(
    method: Method, split: Arrays, spec: RunSpec, step: int, device: torch.device
) -> Mapping[str, Tensor | float]:
    """Make the training step of that number (from 1) and return its scalars, perhaps unread."""
    training = spec.training
    scale_learning_rates(method.optimizers, schedule(step, training))
    index = choose(spec.seed, step, training.batch_size, len(split["images"]))
    method.train()
    batch = make_batch(split, index, method.supervision, device, spec.task)
    with narrow_products(training.precision, device):
        return method.train_step(batch)


def narrow_products(precision: str, device: torch.device) -> torch.autocast:
    """Return the context of a training step: products and convolutions in bfloat16, if told so.

    Sampled patches are such products. Weights and their updates stay float32; so do heatmaps,
    masks and probabilities, which are converted where a network ends. Nothing is cached, for a step
    goes on with the weights that it has just updated, and first uses some of them without gradient.
    """
    narrow = precision == "bfloat16"
    return torch.autocast(device.type, torch.bfloat16, enabled=narrow, cache_enabled=False)


def remember_learning_rates(optimizers: Mapping[str, Optimizer]) -> None:
    """Remember every group's learning rate as the one that the schedule scales."""
    for optimizer in optimizers.values():
        for group in optimizer.param_groups:
            group["initial_lr"] = group["lr"]


def scale_learning_rates(optimizers: Mapping[str, Optimizer], factor: float) -> None:
    """Set every learning rate to ``factor`` times its initial value."""
    for optimizer in optimizers.values():
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor


def schedule(step: int, training: Training) -> float:
    """Return the learning-rate factor of a step (from 1): linear warm-up, then cosine decay."""
    if step <= training.warmup:
        return step / training.warmup
    done = (step - training.warmup) / max(training.steps - training.warmup, 1)
    cosine = 0.5 * (1 + math.cos(math.pi * done))
    return training.final_lr + (1 - training.final_lr) * cosine


class StopSignal:
    """Notices SIGTERM, SIGINT and the death of the parent process."""

    def __enter__(self) -> "StopSignal":
        self._parent, self._asked = os.getppid(), False
        self._before = {s: signal.signal(s, self._ask) for s in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, *_: object) -> None:
        self._asked = True

    def requested(self) -> bool:
        """Return whether to store a checkpoint and stop."""
        return self._asked or os.getppid() != self._parent

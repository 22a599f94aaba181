"""Everything a run needs to go on after a kill, in two files without pickle.

``state.safetensors`` holds tensors (weights, optimizer moments, torch's random
state), ``state.json`` the numbers and the identity of the run. A checkpoint is one folder that is
renamed into place, so that there is always a whole one.
"""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mist_bench.types import Method

FOLDER = "checkpoint"


def save(work: Path, method: Method, info: dict[str, Any]) -> None:
    """Write a checkpoint into ``work``, replacing the one before only once it is whole."""
    tensors: dict[str, Tensor] = {"rng.cpu": torch.get_rng_state()}
    if torch.cuda.is_initialized():  # a run on the CPU takes no memory of a GPU
        tensors["rng.cuda"] = torch.cuda.get_rng_state()
    tensors |= {f"method.{key}": value for key, value in method.state_dict().items()}
    groups: dict[str, Any] = {}
    for name, optimizer in method.optimizers.items():
        state = optimizer.state_dict()
        groups[name] = state["param_groups"]
        for index, entries in state["state"].items():
            tensors |= {f"optimizer.{name}.{index}.{key}": v for key, v in entries.items()}
    fresh = work / f"{FOLDER}.new"
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    save_tensors(fresh / "state.safetensors", tensors)
    (fresh / "state.json").write_text(json.dumps({**info, "param_groups": groups}))
    sync(fresh / "state.json")
    sync(fresh)
    old = work / f"{FOLDER}.old"
    if (work / FOLDER).exists():  # else the old one is all there is, after a kill between renames
        shutil.rmtree(old, ignore_errors=True)
        (work / FOLDER).rename(old)
    fresh.rename(work / FOLDER)
    sync(work)
    shutil.rmtree(old, ignore_errors=True)


def load(work: Path, method: Method, identity: str) -> dict[str, Any] | None:
    """Restore ``method`` from the checkpoint of ``work`` and return its numbers; ``None`` without.

    Raises:
        ValueError: if the checkpoint is damaged, or its identity, the digest of config, code, data
            and device, another.
    """
    folder = next((work / f for f in (FOLDER, f"{FOLDER}.old") if (work / f).is_dir()), None)
    if folder is None:
        return None
    try:
        info = json.loads((folder / "state.json").read_text())
        tensors = load_file(folder / "state.safetensors")
        stored, groups = info["identity"], info["param_groups"]
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise ValueError(
            f"{folder}: damaged checkpoint ({error}); delete {work} to start over"
        ) from None
    if stored != identity:
        raise ValueError(
            f"{folder}: checkpoint of another config, code, data or device; delete {work}"
        )
    method.load_state_dict(_under(tensors, "method"))
    for name, optimizer in method.optimizers.items():
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in _under(tensors, f"optimizer.{name}").items():
            index, _, entry = key.partition(".")
            state.setdefault(int(index), {})[entry] = value
        optimizer.load_state_dict({"state": state, "param_groups": groups[name]})
        _restore_layout(optimizer)
    torch.set_rng_state(tensors["rng.cpu"])
    if "rng.cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["rng.cuda"])
    return info


def save_weights(path: Path, module: nn.Module) -> None:
    """Write the weights and buffers of ``module``, whole or not at all."""
    fresh = path.with_suffix(".new")
    save_tensors(fresh, module.state_dict())
    fresh.replace(path)
    sync(path.parent)


def check_weights(path: Path) -> None:
    """Raise a ``ValueError``, which tells what to delete, unless a file holds whole weights."""
    try:
        load_file(path)
    except (OSError, ValueError, SafetensorError) as error:
        raise ValueError(
            f"{path}: damaged weights ({error}); delete {path.parent} to start over"
        ) from None


def save_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write ``tensors`` to ``path``, and have the disk hold them.

    Raises:
        OSError: in one line that names the file, if it cannot be written.
    """
    try:
        save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, path)
    except SafetensorError as error:  # its own type, also for a full disk
        path.unlink(missing_ok=True)
        raise OSError(f"{path}: cannot be written: {error}") from None
    sync(path)


def sync(path: Path) -> None:
    """Wait until the disk holds a file or folder: a power loss may leave a name without content."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def _restore_layout(optimizer: torch.optim.Optimizer) -> None:
    """Give moments the memory layout of their weights, which fused optimizers take for granted."""
    for parameter, entries in optimizer.state.items():
        for name, value in entries.items():
            if value.dim() > 0 and value.shape == parameter.shape:
                entries[name] = torch.empty_like(parameter).copy_(value)


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    start = f"{prefix}."
    return {key.removeprefix(start): one for key, one in tensors.items() if key.startswith(start)}

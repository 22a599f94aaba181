"""What a run is built of: its random streams, its device, torch's settings, its method."""

import importlib
import os
import textwrap
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from mist_bench.config.keywords import call_check, keyword_values, keywords_of
from mist_bench.config.schema import RunSpec
from mist_bench.types import Method

PURPOSES = ("init", "order", "method")


def stream(seed: int, purpose: str, *index: int) -> np.random.Generator:
    """Return the generator of one purpose of a run: a draw for one never shifts another.

    Args:
        seed: the run's seed; 0 is a seed like any other.
        purpose: one of ``PURPOSES``.
        index: further numbers, such as the epoch, that make the stream stateless.
    """
    return np.random.default_rng([seed, PURPOSES.index(purpose), *index])


def seed_torch(seed: int, purpose: str) -> None:
    """Seed torch's global generators from the stream of ``purpose``."""
    torch.manual_seed(int(stream(seed, purpose).integers(2**63)))


def choose_device(name: str) -> torch.device:
    """Return the device of ``auto``, ``cpu`` or ``cuda``.

    Raises:
        ValueError: if CUDA is asked for and there is none.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("device: cuda was asked for, but torch finds no GPU; use auto or cpu")
    return torch.device(name)


def use_deterministic_torch(threads: int, *, tf32: bool = False) -> None:
    """Make torch give the same bits on the same machine with ``threads`` CPU threads.

    Numbers below 1.2e-38 are taken for 0: processors are many times slower with such (Esl16's
    windows are as dark as that; a step took 1.37 times as long).

    Args:
        threads: CPU threads of numeric code.
        tf32: whether an NVIDIA GPU may round the factors of float32 products to 11 bits; torch's
            own default lets convolutions do so.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.backends.cuda.matmul.allow_tf32 = tf32
    torch.backends.cudnn.allow_tf32 = tf32
    torch.set_flush_denormal(True)  # before there are other threads, which do as the first
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # a tenth of a step, same bits


def build_method(spec: RunSpec, device: torch.device) -> Method:
    """Return the method of ``spec``, initialized from its seed, on ``device``."""
    seed_torch(spec.seed, "init")
    module = importlib.import_module(spec.module)
    params = keyword_values("params", module.build, spec.params, spec.task.kind)
    if check := getattr(module, "check", None):
        every = keywords_of(module.build).model_fields
        call_check(check, spec.task, {k: f.default for k, f in every.items()} | params)
    method = module.build(spec.task, **params)
    for name in ("supervision", "optimizers", "train_step", "predict", "to"):
        if not hasattr(method, name):
            kind = type(method).__name__
            raise ValueError(f"{spec.module}: {kind} has no {name}, as types.Method asks for")
    method = method.to(device)
    if device.type != "cpu":  # CUDA's fused Adam wants gradients of the weights' strides
        for optimizer in method.optimizers.values():
            for group in optimizer.param_groups:
                if group.get("fused"):
                    group["fused"] = None  # torch's default, which is fast there
    return method


def load_method(spec: RunSpec, weights: Path, device: torch.device) -> Method:
    """Return the method of ``spec`` with trained weights, on ``device``.

    Raises:
        ValueError: if the weights are damaged or of another network.
    """
    method = build_method(spec, device)
    try:
        method.load_state_dict(load_file(weights))
    except (SafetensorError, RuntimeError) as error:
        reason = textwrap.shorten(str(error), 300)  # torch lists every tensor
        raise ValueError(f"{weights}: not the weights of {spec.module}: {reason}") from None
    return method

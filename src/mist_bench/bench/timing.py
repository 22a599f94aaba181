"""The measuring instruments: time of repeated calls, operations, memory, and this core's speed."""

import ctypes
import gc
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

LEAST_REPEATS = 3  # a median, least and most of fewer say nothing
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass(frozen=True)
class Case:
    """Something to measure: ``run`` is timed, ``prepare``, called before it each time, is not."""

    name: str
    run: Callable[[], object]
    images: int = 0  # that one call works on; 0 if it is not about images
    prepare: Callable[[], object] | None = None

    def once(self) -> tuple[float, float]:
        """Return wall and processor seconds of one call."""
        if self.prepare:
            self.prepare()
        wall, cpu = time.perf_counter(), time.process_time()
        self.run()
        return time.perf_counter() - wall, time.process_time() - cpu


@dataclass(frozen=True)
class Timing:
    """The seconds of repeated calls, in the order made."""

    wall: tuple[float, ...]  # on the clock
    cpu: tuple[float, ...]  # of this process, over all its threads


def alternate(cases: Sequence[Case], *, repeats: int, limit: float) -> list[Timing]:
    """Return ``collect`` of ``cases`` after one call of each to warm up."""
    for case in cases:
        case.once()
    return collect(cases, repeats=repeats, limit=limit)


def collect(cases: Sequence[Case], *, repeats: int, limit: float) -> list[Timing]:
    """Return the timings of ``cases``, called in turn: A B A B, so that all see the same load.

    There are at most ``repeats`` rounds; once there are three, none begins after ``limit`` seconds.
    """
    rounds: list[list[tuple[float, float]]] = []
    end = time.perf_counter() + limit
    while len(rounds) < repeats and (len(rounds) < LEAST_REPEATS or time.perf_counter() < end):
        rounds.append([case.once() for case in cases])
    return [Timing(*zip(*of_one, strict=True)) for of_one in zip(*rounds, strict=True)]


class FlopCount(TorchDispatchMode):
    """Counts the floating-point operations of matrix products and convolutions, 2 a product.

    torch's formulas; its own FlopCounterMode cannot be used, since its module hooks refuse
    ``torch.autograd.grad``.
    """

    def __init__(self):
        super().__init__()
        self.total = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: Mapping | None = None
    ) -> Any:
        """Run one operator and add its operations."""
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        formula = flop_registry.get(func.overloadpacket)
        if formula:
            self.total += formula(*args, **kwargs, out_val=out)
        return out


def count_flops(case: Case) -> int:
    """Return the floating-point operations of one call; element-wise work is not counted."""
    if case.prepare:
        case.prepare()
    with FlopCount() as counted:
        case.run()
    return counted.total


def peak_flops(*, repeats: int = 10, side: int = 1024) -> dict[str, float]:
    """Return the fastest float32 operations per processor second of two large operators.

    The fastest call counts, for nothing can make a core faster. ``side`` is that of the matrices;
    the convolution has about as many operations.
    """
    matrix = torch.randn(side, side)
    size = side // 16
    maps = torch.randn(8, size, size, size).contiguous(memory_format=torch.channels_last)
    weights = torch.randn(size, size, 3, 3).contiguous(memory_format=torch.channels_last)
    cases = [
        Case("matrix_product", lambda: matrix @ matrix),
        Case("convolution", lambda: F.conv2d(maps, weights, padding=1)),
    ]
    with torch.no_grad():
        timings = alternate(cases, repeats=repeats, limit=10)
        return {
            case.name: count_flops(case) / min(timing.cpu)
            for case, timing in zip(cases, timings, strict=True)
        }


def memory_growth(run: Callable[[], object]) -> float | None:
    """Return by how much ``run`` raises the resident set at its height, MiB.

    ``None`` where the system cannot say (Linux only).
    """
    gc.collect()
    try:
        # glibc keeps freed memory: without this, a call could seem to need none
        ctypes.CDLL(None).malloc_trim(0)
        CLEAR.write_text("5")
        before = _status("VmRSS")
    except (AttributeError, OSError):
        return None
    run()
    return max(_status("VmHWM") - before, 0.0)


def _status(key: str) -> float:
    """Return an entry of /proc/self/status in MiB."""
    return int(re.search(rf"{key}:\s*(\d+)", STATUS.read_text())[1]) / 2**10

"""How many training steps a machine makes when several runs train beside each other.

A small network leaves most of a large GPU idle, for its host cannot send kernels fast enough: then
several runs at once (``MIST_BENCH_RUNS_PER_GPU``) end earlier than one after another.
"""

import multiprocessing
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.synchronize import Barrier

import torch
from torch import Tensor

from mist_bench.bench.cases import Setup, read_spec
from mist_bench.bench.records import Result, Row, spread
from mist_bench.config.schema import RunSpec
from mist_bench.models.tensors import read
from mist_bench.run.method import choose_device, use_deterministic_torch

ROUNDS = 3  # in each of which every number of runs has its turn
SECONDS = 5.0  # of a turn
WARM = 3  # steps, in which memory is allocated
Turn = tuple[int, float, float]  # steps, wall and processor seconds
Turns = Mapping[int, Sequence[Sequence[Turn]]]  # runs at once -> rounds -> processes


def bench_sharing(
    *, preset: str, experiment: str, method: str, device: str, runs: Sequence[int]
) -> Result:
    """Time training steps of one configuration while other processes make the same.

    ``runs`` says how many at once, each number once a round.

    Raises:
        ValueError: if a process has died, of too little memory perhaps.
    """
    _, spec = read_spec(preset, experiment, method)
    chosen = str(choose_device(device))
    use_deterministic_torch(spec.training.threads)  # for the record
    about = f"Training steps of {method} on {experiment}, preset {preset}, runs at once"
    turns = take_turns(spec, chosen, runs)
    return Result(sharing_rows(turns), spec, about, {"device": chosen})


def take_turns(spec: RunSpec, device: str, runs: Sequence[int]) -> Turns:
    """Return what processes did that trained at the same time: so many as ``runs`` say, in turn."""
    context, most = multiprocessing.get_context("spawn"), max(runs)  # a fork cannot use CUDA
    turns: dict[int, list[list[Turn]]] = {count: [] for count in runs}
    given = (spec, device, context.Barrier(most))
    try:
        with ProcessPoolExecutor(most, context, prepare, given) as pool:
            list(pool.map(wait_for_all, range(most)))
            for _ in range(ROUNDS):
                for count, found in turns.items():  # a process that is busy takes no second task
                    found.append(list(pool.map(train_for, [SECONDS] * count)))
    except BrokenProcessPool:
        raise ValueError("a training process has died: see its words above") from None
    return turns


def sharing_rows(turns: Turns) -> list[Row]:
    """Return, of each number of runs, seconds of a step, steps per second of one and of all runs.

    Also the ratio of the latter to that of the first number.
    """
    rows: list[Row] = []
    totals = {n: [sum(k / s for k, s, _ in one) for one in found] for n, found in turns.items()}
    base = next(iter(totals.values()))
    for count, found in turns.items():
        each, name = [turn for one in found for turn in one], f"{count} at once"
        rows += [
            spread(name, "wall_time", [wall / steps for steps, wall, _ in each], "s"),
            spread(name, "cpu_time", [cpu / steps for steps, _, cpu in each], "s"),
            spread(name, "step_rate", [steps / wall for steps, wall, _ in each], "steps/s"),
            spread(name, "step_rate_of_all", totals[count], "steps/s"),
            spread(name, "ratio", [one / b for one, b in zip(totals[count], base, strict=True)]),
        ]
    return rows


class Worker:
    """What a process trains, once it is prepared."""

    step: Callable[[], Mapping[str, Tensor | float]]
    log_every: int
    barrier: Barrier


def prepare(spec: RunSpec, device: str, barrier: Barrier) -> None:
    """Build a run in a new process and make its first steps."""
    use_deterministic_torch(spec.training.threads, tf32=spec.training.precision == "tf32")
    Worker.step = Setup(spec, device=torch.device(device)).step
    Worker.log_every, Worker.barrier = spec.training.log_every, barrier
    for _ in range(WARM):
        read([Worker.step()])


def wait_for_all(_: int) -> None:
    """Wait until every process is prepared."""
    Worker.barrier.wait()


def train_for(seconds: float) -> Turn:
    """Make steps for a time, reading their scalars as often as training does, and at the end."""
    wall, cpu = time.perf_counter(), time.process_time()
    steps, unread = 0, []
    while time.perf_counter() - wall < seconds:
        unread.append(Worker.step())
        steps += 1
        if len(unread) == Worker.log_every:
            read(unread)
            unread = []
    read(unread)
    return steps, time.perf_counter() - wall, time.process_time() - cpu

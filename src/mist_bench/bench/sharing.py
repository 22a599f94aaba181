"""How many training steps a machine makes when several runs train beside each other."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from torch import Tensor

from mist_bench.bench.compare import read_spec, write_results
from mist_bench.bench.records import Row, spread
from mist_bench.config.schema import RunSpec
from mist_bench.forecast.costs import training_step
from mist_bench.models.tensors import read
from mist_bench.run.method import choose_device, use_deterministic_torch

ROUNDS = 3  # in each of which every number of runs has its turn
SECONDS = 5.0  # of a turn
WARM = 3  # steps, in which memory is allocated
READY = 600.0  # seconds after which a process that has not made them is given up
Turn = tuple[int, float, float]  # steps, wall and processor seconds
Scalars = Mapping[str, Tensor | float]


def bench_sharing(
    out: Path, *, preset: str, experiment: str, method: str, device: str, runs: Sequence[int]
) -> list[Row]:
    """Time training steps of one configuration while other processes make the same.

    A small network leaves most of a large GPU idle, for its host cannot send kernels fast enough:
    then several runs at once (``MIST_BENCH_RUNS_PER_GPU``) end earlier than one after another.

    Args:
        out: folder for sharing.csv, sharing.json and sharing.png.
        preset: of the configuration.
        experiment: of the configuration.
        method: key of ``methods``.
        device: ``auto``, ``cpu`` or ``cuda``.
        runs: how many at once, each number once a round.

    Returns:
        The rows of sharing.csv: for each number, seconds of a step of one run, steps per second
        of one and of all, and the latter as a ratio to the first number's.

    Raises:
        ConfigError: in one line, for an unknown name.
        ValueError: if a process has died, of too little memory perhaps.
    """
    config, spec = read_spec(preset, experiment, method)
    floats, chosen = config.datasets[spec.dataset].features is not None, choose_device(device)
    use_deterministic_torch(spec.training.threads)  # for the record
    turns: dict[int, list[list[Turn]]] = {count: [] for count in runs}
    with workers(max(runs), spec, str(chosen), floats) as links:
        for _ in range(ROUNDS):
            for count, found in turns.items():
                found.append(one_turn(links[:count]))
    facts = {"spec": spec.model_dump(mode="json"), "device": str(chosen)}
    about = f"Training steps of {method} on {experiment}, preset {preset}, runs at once"
    rows = sharing_rows(turns)
    write_results(out, "sharing", rows, facts, [], about=about)
    return rows


def sharing_rows(turns: dict[int, list[list[Turn]]]) -> list[Row]:
    """Return the rows of what was counted: runs at once -> rounds -> processes."""
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


@contextmanager
def workers(count: int, spec: RunSpec, device: str, floats: bool) -> Iterator[list[Connection]]:
    """Start processes that are ready to train, and stop them at the end."""
    context = multiprocessing.get_context("spawn")  # a fork cannot use CUDA
    with ExitStack() as stack:
        links = []
        for _ in range(count):
            here, there = context.Pipe()
            links.append(stack.enter_context(closing(here)))
            process = context.Process(target=work, args=(spec, device, floats, there), daemon=True)
            process.start()
            stack.callback(process.terminate)
            there.close()  # so that its death ends the pipe
        for link in links:
            if not link.poll(READY):
                raise ValueError(f"a training process was not ready in {READY:.0f} s")
            with living():
                link.recv()
        yield links


def one_turn(links: Sequence[Connection]) -> list[Turn]:
    """Return what each of the processes behind ``links`` did at the same time."""
    with living():
        for link in links:
            link.send(SECONDS)
        return [link.recv() for link in links]


@contextmanager
def living() -> Iterator[None]:
    """Raise a ``ValueError`` where a process that is spoken to has died."""
    try:
        yield
    except (EOFError, ConnectionError):
        raise ValueError("a training process has died: see its words above") from None


def work(spec: RunSpec, device: str, floats: bool, link: Connection) -> None:
    """Train as long as it is told to through ``link``, and tell what was done."""
    use_deterministic_torch(spec.training.threads, tf32=spec.training.precision == "tf32")
    _, _, step = training_step(spec, torch.device(device), floats=floats)
    for _ in range(WARM):
        read([step()])
    link.send(None)
    while True:
        try:
            seconds = link.recv()
        except EOFError:
            return
        link.send(train_for(seconds, step, spec.training.log_every))


def train_for(seconds: float, step: Callable[[], Scalars], log_every: int) -> Turn:
    """Make steps for a time, reading their scalars as often as training does, and at the end."""
    wall, cpu = time.perf_counter(), time.process_time()
    steps, unread = 0, []
    while time.perf_counter() - wall < seconds:
        unread.append(step())
        steps += 1
        if len(unread) == log_every:
            read(unread)
            unread = []
    read(unread)
    return steps, time.perf_counter() - wall, time.process_time() - cpu

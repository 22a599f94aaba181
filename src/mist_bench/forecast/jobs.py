"""``mist-bench plan``: what a target needs, how long it takes and how much it stores, beforehand.

A forecast is the number of steps or images times what one costs here, which ``costs`` times.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from mist_bench.config import resolve as settings
from mist_bench.config import targets
from mist_bench.config.keywords import ConfigError
from mist_bench.config.schema import Config, DatasetSpec, FeatureSpec, RunSpec

if TYPE_CHECKING:
    from mist_bench.forecast.costs import Cost

Kind = Literal["dataset", "features", "run"]  # in the order in which they are made
HALF = 2  # bytes of a float16, as features are stored
logger = logging.getLogger("mist_bench")


@dataclass(frozen=True)
class Job:
    """Equal work: the runs of a method on an experiment, a dataset, or its features."""

    kind: Kind
    spec: RunSpec | DatasetSpec | FeatureSpec  # of runs, with the first seed
    todo: int  # of runs, one per seed
    done: int  # before
    units: int  # steps of a run, or images
    predicted: int = 0  # images, in a run's validations and at its end
    tested: int = 0  # images whose predictions are stored
    size: int = 0  # bytes of a dataset or its features; a run's are measured

    @property
    def names(self) -> tuple[str, str]:
        """Experiment and method, or dataset and what is made of it."""
        if isinstance(self.spec, RunSpec):
            return self.spec.experiment, self.spec.method
        if isinstance(self.spec, FeatureSpec):
            return self.spec.dataset, "features"
        return self.spec.name, "images"

    @property
    def threads(self) -> int:
        """CPU threads that one of them uses."""
        return self.spec.training.threads if isinstance(self.spec, RunSpec) else 1


@dataclass(frozen=True)
class Forecast:
    """A job with what one of its units costs; ``None`` if all of it is done."""

    job: Job
    cost: Cost | None

    @property
    def seconds(self) -> float | None:
        """Seconds that one job keeps a core busy, or a GPU; ``None`` where nothing was timed."""
        job, cost = self.job, self.cost
        if cost is None or cost.seconds is None:
            return None
        return cost.start + job.units * cost.seconds + job.predicted * cost.predict

    @property
    def size(self) -> float:
        """Bytes that one job stores, before compression."""
        measured = self.cost.weights + self.job.tested * self.cost.prediction if self.cost else 0
        return self.job.size + measured


def target_runs(config: Config, target: str, results: Path) -> list[targets.Run]:
    """Return the runs that a target needs, each once.

    Args:
        config: of the preset.
        target: ``tables``, ``figures``, ``report``, or the name of a table or figure.
        results: the preset's folder; the report keeps the rivals fresh that have metrics in it.

    Raises:
        ConfigError: for an unknown target, with the nearest known one.
    """
    all_of = {"tables": targets.TABLES, "figures": tuple(targets.FIGURES)}
    known = [*all_of, "report", *targets.tables(config), *targets.FIGURES]
    settings.check_names("target", [target], known)
    if target == "report":  # its metrics are of every experiment
        lists = [targets.experiment_runs(config, name) for name in config.experiments]
        lists.append(targets.evaluated_rivals(config, results))
    else:
        names = all_of.get(target, (target,))
        lists = [targets.figure_runs(config, name) for name in names if name in targets.FIGURES]
        lists += [targets.table_runs(config, name) for name in names if name not in targets.FIGURES]
    return list(dict.fromkeys(chain.from_iterable(lists)))


def plan_jobs(config: Config, target: str, results: Path) -> list[Job]:
    """Return the datasets, features and runs that a target needs, in the order they are made.

    The arguments are those of ``target_runs``; what is in ``results`` is not made again.

    Raises:
        ConfigError: for an unknown target, or one that the preset has no run for.
    """
    seeds: dict[tuple[str, str], list[bool]] = {}
    for run in target_runs(config, target, results):
        spec = settings.run_spec(config, *run)
        seeds.setdefault(run[:2], []).append(is_done(targets.run_folder(results, *run), spec))
    if not seeds:
        raise ConfigError(f"{target}: preset {config.preset} has no run for it")
    runs = [run_job(config, *names, finished) for names, finished in seeds.items()]
    needed = dict.fromkeys(job.spec.dataset for job in runs if job.todo)
    data = [job for name in needed for job in data_jobs(config, name, results)]
    return sorted(data, key=lambda job: job.kind) + runs  # dataset before features


def is_done(folder: Path, spec: RunSpec) -> bool:
    """Return whether a run has ended, with the settings it would have now; code is not compared."""
    own = folder / "config.json"
    if not ((folder / "run.json").is_file() and own.is_file()):
        return False
    return own.read_text(encoding="utf-8").strip() == settings.canonical(spec)


def run_job(config: Config, experiment: str, method: str, finished: Sequence[bool]) -> Job:
    """Return the runs of a method on an experiment, of which some may be ``finished``."""
    spec = settings.run_spec(config, experiment, method, config.seeds[0])
    training, sizes = spec.training, config.datasets[spec.dataset].sizes
    validations = math.ceil(training.steps / training.validate_every)  # the last step has one
    return Job(
        "run",
        spec,
        todo=len(finished) - sum(finished),
        done=sum(finished),
        units=training.steps,
        predicted=validations * sizes["val"] + sizes["test"],
        tested=sizes["test"],
    )


def data_jobs(config: Config, name: str, results: Path) -> list[Job]:
    """Return the dataset ``name`` and, where methods see these, its features."""
    dataset = config.datasets[name]
    images = sum(dataset.sizes.values())
    there = (results / "datasets" / name / "manifest.json").is_file()
    spec = settings.dataset_spec(config, name)
    size = images * math.prod(dataset.image_size)
    jobs = [Job("dataset", spec, int(not there), int(there), images, size=size)]
    if dataset.features:
        shape, _ = settings.input_size(config, dataset)
        versions = images + dataset.sizes["train"] * (dataset.features.draws - 1)
        there = (results / "features" / name / "manifest.json").is_file()
        features, size = settings.feature_spec(config, name), HALF * versions * math.prod(shape)
        jobs.append(Job("features", features, int(not there), int(there), versions, size=size))
    return jobs


def forecast(config: Config, jobs: Iterable[Job], *, limit: float) -> list[Forecast]:
    """Return what each job costs, see ``measurer``; of runs whose steps are equal, one is timed."""
    from mist_bench.forecast.costs import measurer

    measure = measurer(config, limit)
    known: dict[str, Cost] = {}
    found = []
    for job in jobs:
        key = cost_key(job.spec)
        if job.todo and key not in known:
            logger.info("timing %s, %s", *job.names)
            known[key] = measure(job.spec)
        found.append(Forecast(job, known[key] if job.todo else None))
    return found


def cost_key(spec: RunSpec | DatasetSpec | FeatureSpec) -> str:
    """Return what the cost of a step or an image depends on: not on seed, data or budget."""
    if isinstance(spec, RunSpec):
        training = spec.training
        budget = (training.batch_size, training.threads, training.precision)
        return repr((spec.module, spec.task, spec.params, budget))
    return type(spec).__name__ + settings.canonical(spec)


def core_seconds(forecasts: Iterable[Forecast]) -> float:
    """Return the seconds of all jobs together, as far as they were timed."""
    return sum(one.job.todo * (one.seconds or 0.0) for one in forecasts)


def wall_seconds(forecasts: Iterable[Forecast], cores: int) -> float:
    """Return the seconds until all is done: first all datasets, then features, then runs.

    Snakemake begins to train before the last dataset is there, and is that much faster.
    """
    stages: dict[Kind, list[tuple[float, int]]] = {}
    for one in forecasts:
        # jobs queue for the GPU; without one, seconds are those of all threads together
        gpu = one.cost is not None and one.cost.gpu
        threads = cores if gpu else min(one.job.threads, cores)
        seconds = (one.seconds or 0.0) / (1 if gpu else threads)
        stages.setdefault(one.job.kind, []).extend([(seconds, threads)] * one.job.todo)
    return sum(makespan(stage, cores) for stage in stages.values())


def makespan(jobs: Iterable[tuple[float, int]], cores: int) -> float:
    """Return when the last of ``jobs`` ends, if the longest that is left begins whenever it can.

    ``jobs`` are the seconds and cores of each, not more than the ``cores`` that there are.
    """
    free = [0.0] * cores  # when each core is free
    for seconds, threads in sorted(jobs, reverse=True):
        free.sort()
        free[:threads] = [free[threads - 1] + seconds] * threads
    return max(free)

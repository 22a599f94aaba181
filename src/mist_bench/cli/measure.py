"""What things cost: a forecast of a target, and the benchmarks."""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

import yaml

from mist_bench.cli.command import (
    COMMANDS,
    DEVICES,
    PRESET,
    Command,
    Option,
    command,
    option,
    paths,
    positive,
)
from mist_bench.config import resolve as settings
from mist_bench.config import targets
from mist_bench.config.keywords import ConfigError
from mist_bench.config.schema import Config
from mist_bench.config.user import user_text
from mist_bench.run.gpu_lease import gpu_lease


@command(
    option("target", nargs="?", default="tables", help="table1, ..., figures, figure1, report"),
    PRESET,
    option(
        "--config",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="settings as for snakemake, such as seeds=[0,1,2]; or a resolved config.json",
    ),
    option(
        "--cores",
        type=positive,
        default=getattr(os, "process_cpu_count", os.cpu_count)(),
        help="to work on (%(default)s)",
    ),
    option("--seconds", type=float, default=5.0, help="to time a method's steps in (%(default)s)"),
)
def plan(options: argparse.Namespace) -> None:
    """Forecast the time and disk of a target, before anything starts: mist-bench plan table2."""
    from mist_bench.forecast import jobs, text

    config = planned_config(options.preset, options.config)
    needed = jobs.plan_jobs(config, options.target, Path("results", config.preset))
    with gpu_lease(config.device):  # what is timed has a GPU for itself
        found = jobs.forecast(config, needed, limit=options.seconds)
    print(text.text(found, options.cores))


def planned_config(preset: str | None, given: Sequence[str]) -> Config:
    """Return the configuration of a preset, of a resolved config.json, or of changes to a preset.

    Args:
        preset: its name; that of config.yaml if ``None``.
        given: one file, or ``KEY=VALUE`` pairs as in Snakemake's ``--config``.

    Raises:
        ConfigError: in one line, for what is neither, or an unknown key.
    """
    if len(given) == 1 and "=" not in given[0]:
        return settings.parse(given[0], Path(given[0]).read_text(encoding="utf-8"))
    if odd := [pair for pair in given if "=" not in pair]:
        raise ConfigError(f"--config: KEY=VALUE is expected, got {odd[0]!r}")
    pairs = dict(pair.split("=", 1) for pair in given)
    named = {"preset": preset} if preset else {}
    try:  # as Snakemake does: mappings and lists of text, which the schema reads
        pairs = {key: yaml.load(value, yaml.BaseLoader) for key, value in pairs.items()}
    except yaml.YAMLError as error:
        raise ConfigError(f"--config: {error}") from None
    return settings.load(targets.SETTINGS, user_text(pairs) | named)


def bench(options: argparse.Namespace) -> None:
    """Run a benchmark, whose keywords are the options, and print what it found."""
    from mist_bench.bench.runner import run

    own = {"command", "kind", "handler", "out"}
    given = {name: value for name, value in vars(options).items() if name not in own}
    print(run(options.kind, options.out, **given))


def fraction(text: str) -> float:
    """Return a number in (0, 1]."""
    number = float(text)
    if not 0 < number <= 1:
        raise argparse.ArgumentTypeError(f"must be above 0 and at most 1, got {text}")
    return number


def repeats(most: int) -> Option:
    """Return the option for how many calls are timed, if the time allows so many."""
    return option("--repeats", type=positive, default=most, help="most timed calls (%(default)s)")


OF = option("--preset", default="cpu", help="of workflow/config (%(default)s)")
EXPERIMENT = option("--experiment", default="mnist_hard_classification", help="(%(default)s)")
RUN = (OF, EXPERIMENT, option("--method", default="mist", help="key of methods (%(default)s)"))
AGAINST = (
    "also compare training steps with a preset's, with 'official', or with KEY=VALUE of the "
    "method, such as detector.stride=2"
)


def kind(name: str, words: str, *own: Option) -> None:
    """Declare a benchmark with its own options."""
    out = paths(out="folder for CSV, record and plot")
    COMMANDS[f"bench {name}"] = Command(words, (*out, *own), bench)


kind(
    "stages",
    "time every stage of one configuration",
    *RUN,
    repeats(30),
    option("--only", nargs="+", default=[], metavar="STAGE", help="these stages alone"),
    option("--against", metavar="NAME", help=AGAINST),
)
kind("methods", "time a step of each method of an experiment in turn", OF, EXPERIMENT, repeats(30))
kind("official", "compare the official code's training step with this suite's", repeats(5))
kind("scaling", "fit how time and memory grow with patches, canvas and images", OF, repeats(3))
kind("memory", "peak memory of masks and of MIST's selection against locations", OF)
kind(
    "learning",
    "time until Both on val reaches given values, on real data",
    *RUN,
    option("--reach", nargs="+", type=fraction, default=[0.8, 0.9, 0.95], help="values of Both"),
    option("--limit", type=positive, default=300, help="most processor seconds (%(default)s)"),
)
kind(
    "sharing",
    "count training steps when several runs share a GPU, or the cores",
    *RUN,
    option("--device", choices=DEVICES, default="auto", help="(%(default)s)"),
    option("--runs", nargs="+", type=positive, default=[1, 2, 4], help="runs at once"),
)

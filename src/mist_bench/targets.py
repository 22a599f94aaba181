"""What the workflow asks for: the runs behind each table and figure, and the user's settings.

Shared by the Snakefile and the command line, hence torch-free and quick to import.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from mist_bench.schema import Config
from mist_bench.signatures import ConfigError, check_names, hint

TABLES = ("table1", "table2", "table3", "table4", "table4_classes", "table5")
# table that the paper lacks -> its table of the same runs
DETAILS = {"table4_classes": "table4"}
# table -> its experiment, and the methods that stand beside the experiment's rivals
EXTENDED = {"table3_extended": ("mnist_hard_classification", ("mist", "soft_topk"))}
WORKFLOW = Path(__file__).resolve().parents[2] / "workflow"  # an editable install: the clone's
SETTINGS = WORKFLOW / "config"
PAPER = WORKFLOW / "resources" / "paper_results.csv"
# experiment -> methods of each figure of the paper; () stands for every method that competes
FIGURES: dict[str, dict[str, tuple[str, ...]]] = {
    "figure1": {"mnist_hard_reconstruction": ("mist",)},
    "figure2": {"mnist_easy_reconstruction": (), "mnist_hard_reconstruction": ()},
    "figure3": {"mnist_hard_reconstruction": ("mist",)},
    "figure4": {"gabor_reconstruction": ("mist",)},
    "figure5": {"mnist_hard_classification": ("mist", "channelwise")},
    "figure6": {"pascal_coco_classification": ("mist", "soft_topk")},
    "figure7": {"mnist_hard_classification": ("mist",)},
    "figure8": {"mnist_uneven_reconstruction": ("mist",)},
}
# as in datasets.sources, which takes longer to import
DIGITS = "MIST_BENCH_DATA"
DIGIT_PLACES = ("", "MNIST/raw/", "mnist/")
TRACED = ("figure1",)  # drawn from the stages of a run, not from its predictions
CURVES = ("figure7",)  # of these, every seed's training is shown, and an image of the val split
EXPONENT = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")
Run = tuple[str, str, int]  # experiment, method, seed
Row = tuple[str, str, str]  # table, experiment, method


def paper_rows(paper: Path, table: str) -> list[Row]:
    """Return what the paper's results have a row for: table, experiment, method.

    Args:
        paper: CSV file with the columns table, experiment, method, metric, value, note.
        table: ``table1`` ... ``table5``, which must have a row.

    Raises:
        ConfigError: if the file cannot be read, lacks a column, or says nothing about the table.
    """
    try:
        with paper.open(encoding="utf-8", newline="") as file:
            lines = list(csv.DictReader(file))
        rows = [(line["table"], line["experiment"], line["method"]) for line in lines]
    except OSError as error:
        raise ConfigError(f"{paper}: cannot be read: {error.strerror}") from None
    except KeyError as error:
        raise ConfigError(f"{paper}: column {error} is missing") from None
    if table not in {row[0] for row in rows}:
        raise ConfigError(f"{paper}: no row for {table!r}{hint(table, TABLES)}")
    return rows


def table_methods(
    rows: Iterable[Row], table: str, experiment: str, methods: Sequence[str]
) -> list[str]:
    """Return the methods of an experiment in a table of the paper.

    Those that the paper shows there, then those of ``methods`` that it shows in no table with this
    experiment: a new method competes in all of them, but Table 3 trains none of Table 2's.
    """
    known = [(name, method) for name, of, method in rows if of == experiment]
    shown = [method for name, method in known if name == table]
    elsewhere = {method for name, method in known if name != table}
    return list(dict.fromkeys([*shown, *(m for m in methods if m not in elsewhere)]))


def table_runs(config: Config, table: str, paper: Path = PAPER) -> list[Run]:
    """Return the runs of a table: its methods, as far as the config has them in its experiments.

    Rivals are in the extended tables only.
    """
    if table in EXTENDED:
        experiment, beside = EXTENDED[table]
        runs = [run for run in experiment_runs(config, experiment) if run[1] in beside]
        return runs + rival_runs(config, experiment)
    table = DETAILS.get(table, table)
    rows = paper_rows(paper, table)
    runs = []
    for name in dict.fromkeys(of for where, of, _ in rows if where == table):
        own = experiment_runs(config, name)
        shown = table_methods(rows, table, name, [method for _, method, _ in own])
        runs += [run for run in own if run[1] in shown]
    return runs


def figure_runs(config: Config, figure: str) -> list[Run]:
    """Return the runs that a figure shows, as far as the config knows them."""
    check_names("figure", [figure], FIGURES)
    # where it shows images, those of one run per method
    seeds = config.seeds if figure in CURVES else config.seeds[:1]
    return [
        run
        for name, methods in FIGURES[figure].items()
        for run in experiment_runs(config, name)
        if run[2] in seeds and (not methods or run[1] in methods)
    ]


def step_seconds(origin: Path) -> dict[tuple[str, str], float]:
    """Return (experiment, method) -> seconds of a training step, of its slowest published run.

    Args:
        origin: origin.json of a preset's reference results; a preset without any has no runs.
    """
    slowest: dict[tuple[str, str], float] = {}
    for run in json.loads(origin.read_text(encoding="utf-8")) if origin.is_file() else []:
        key = run["experiment"], run["method"]
        slowest[key] = max(slowest.get(key, 0), run["seconds"] / run["steps"])
    return slowest


def figure_input(figure: str) -> str:
    """Return which file of each of its runs a figure is drawn from."""
    if figure in CURVES:
        return "heatmaps.npz"
    return "trace.npz" if figure in TRACED else "predictions.npz"


def figure_split(figure: str) -> str:
    """Return the split whose images a figure shows."""
    return "val" if figure in CURVES else "test"


def experiment_runs(config: Config, experiment: str) -> list[Run]:
    """Return the runs of one experiment: methods x seeds; none if the config lacks it."""
    setup = config.experiments.get(experiment)
    methods = setup.methods if setup else []
    return [(experiment, method, seed) for method in methods for seed in config.seeds]


def rival_runs(config: Config, experiment: str) -> list[Run]:
    """Return the runs of one experiment that only an extended table shows."""
    setup = config.experiments.get(experiment)
    rivals = setup.rivals if setup else []
    return [(experiment, method, seed) for method in rivals for seed in config.seeds]


def evaluated_rivals(config: Config, results: Path) -> list[Run]:
    """Return the runs of rivals that have metrics: the report lists them, but trains none."""
    runs = [run for name in config.experiments for run in rival_runs(config, name)]
    return [run for run in runs if (run_folder(results, run) / "metrics.json").exists()]


def extended_made(config: Config, results: Path) -> list[str]:
    """Return the extended tables that were made, as far as all their rivals have metrics.

    The report keeps them fresh. One that was made with --partial would have it train rivals.
    """
    there = set(evaluated_rivals(config, results))
    return [
        name
        for name, (experiment, _) in EXTENDED.items()
        if (results / "tables" / f"{name}.csv").exists()
        and there.issuperset(rival_runs(config, experiment))
    ]


def run_folder(results: Path, run: Run) -> Path:
    """Return the folder of a run below the preset's results."""
    experiment, method, seed = run
    return results / "runs" / experiment / method / f"seed{seed}"


def input_folder(config: Config, dataset: str) -> Path:
    """Return the folder of what methods see of a dataset: its images, or features of them."""
    kind = "features" if config.datasets[dataset].features else "datasets"
    return Path("results", config.preset, kind, dataset)


def check_run(config: Config, experiment: str, method: str) -> None:
    """Raise a ``ConfigError`` unless ``method`` can do the task of ``experiment``."""
    check_names("experiment", [experiment], config.experiments)
    task = config.experiments[experiment].task
    able = [name for name, entry in config.methods.items() if task in entry.params]
    check_names(f"method of {experiment}", [method], able)


def typed(value: Any) -> Any:
    """Return ``value`` with its strings read as YAML, in every mapping and list.

    Snakemake hands over ``--config training='{steps: 20}'`` as strings only. ``1e-3`` becomes a
    number here, although YAML 1.1 asks for ``1.0e-3``.
    """
    if isinstance(value, Mapping):
        return {key: typed(item) for key, item in value.items()}
    if isinstance(value, list):
        return [typed(item) for item in value]
    if not isinstance(value, str):
        return value
    try:
        return float(value) if EXPONENT.fullmatch(value) else yaml.safe_load(value)
    except yaml.YAMLError:
        return value


def unwritable(folder: Path) -> str | None:
    """Return in one line why nothing can be written to ``folder``; ``None`` if all is well."""
    place = folder
    while not place.exists() and place != place.parent:
        place = place.parent
    if not place.is_dir():
        return f"{place}: a file is where the results folder should be; move it away"
    if not os.access(place, os.W_OK | os.X_OK):
        return f"{place}: not writable; change its owner or run elsewhere (snakemake --directory)"
    return None


@cache
def tree_digest(folder: Path) -> str:
    """Return a hash of the names, sizes and times of all files below a folder, '' without one.

    It tells that photographs were added or changed, without reading them.
    """
    if not folder.is_dir():
        return ""
    paths, seen = [], set()
    for place, inside, names in os.walk(folder, followlinks=True):
        if os.path.realpath(place) in seen:  # a link to a folder above
            inside.clear()
            continue
        seen.add(os.path.realpath(place))
        paths += [Path(place, name) for name in names]
    return _digest(folder, paths)


def digits_digest(folder: str | None) -> str:
    """Return a hash of the sizes and times of MNIST's files in the user's folder, '' without one.

    Nothing else in that folder counts: other data sets may lie there, too.
    """
    if not folder:
        return ""
    root = Path(folder)
    return _digest(root, [path for place in DIGIT_PLACES for path in root.glob(f"{place}*-ubyte*")])


def _digest(folder: Path, paths: Iterable[Path]) -> str:
    """Return a hash of the names, sizes and times of files below a folder."""
    lines = []
    for path in paths:
        with contextlib.suppress(OSError):  # a link to nothing
            stat = path.stat()
            lines.append(f"{path.relative_to(folder)} {stat.st_size} {stat.st_mtime_ns}")
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()[:12]


def sampled(results: Path) -> list[str]:
    """Return in one line which datasets of all presets hold a sample of their source only."""
    found: dict[str, list[str]] = {}
    for path in sorted(results.glob("*/datasets/*/manifest.json")):
        with contextlib.suppress(OSError, ValueError):
            source = json.loads(path.read_text(encoding="utf-8")).get("source") or ""
            if source.startswith("a sample of"):
                found.setdefault(source, []).append(str(path.parent.relative_to(results)))
    return [
        f"Only {source}: {', '.join(names)}. For all of MNIST, put its four files into a folder, "
        f"set {DIGITS} to it and call again"
        for source, names in found.items()
    ]


def produced(results: Path, since: float) -> list[str]:
    """Return the tables, figures and reports of all presets written after ``since`` (Unix time).

    Files that differ only in their suffix are one entry: ``table1.{csv,md,tex}``.
    """
    patterns = ("*/metrics.csv", "*/tables/*", "*/figures/*", "*/report/*.html")
    kinds: dict[Path, list[str]] = {}
    for path in (path for pattern in patterns for path in sorted(results.glob(pattern))):
        if path.stat().st_mtime >= since:
            kinds.setdefault(path.with_suffix(""), []).append(path.suffix.removeprefix("."))
    return [
        f"{stem}.{suffixes[0]}" if len(suffixes) == 1 else f"{stem}.{{{','.join(suffixes)}}}"
        for stem, suffixes in kinds.items()
    ]

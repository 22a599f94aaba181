"""What the workflow asks for: the runs behind each table and figure, and where they are stored.

Shared by the Snakefile and the command line, hence torch-free and quick to import.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

from mist_bench.config.keywords import ConfigError, check_names, hint
from mist_bench.config.schema import Config

TABLES = ("table1", "table2", "table3", "table4", "table4_classes", "table5")
# table that the paper lacks -> its table of the same runs
DETAILS = {"table4_classes": "table4"}
# table -> its experiment, and the methods that stand beside the experiment's rivals
EXTENDED = {"table3_extended": ("mnist_hard_classification", ("mist", "soft_topk"))}
# table that compares candidates -> what the names of its experiments begin with
SEARCHES = {"calibration": "calibrate_", "tuning": "tune_"}
GENERIC = "table_"  # and the name of an experiment: its methods and rivals
WORKFLOW = Path(__file__).resolve().parents[3] / "workflow"  # an editable install: the clone's
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
TRACED = ("figure1",)  # drawn from the stages of a run, not from its predictions
CURVES = ("figure7",)  # of these, every seed's training is shown, and an image of the val split
Run = tuple[str, str, int]  # experiment, method, seed
Row = tuple[str, str, str]  # table, experiment, method


def tables(config: Config) -> list[str]:
    """Return the names of all tables that can be made of a configuration."""
    generic = [f"{GENERIC}{experiment}" for experiment in config.experiments]
    return [*TABLES, *EXTENDED, *generic, *SEARCHES]


def table_experiment(config: Config, table: str) -> str | None:
    """Return the experiment of a generic table, ``None`` for any other table."""
    name = table.removeprefix(GENERIC)
    return name if name != table and name in config.experiments else None


def table_runs(config: Config, table: str, paper: Path = PAPER) -> list[Run]:
    """Return the runs of a table: its methods, as far as the config has them in its experiments.

    Rivals are in generic and extended tables only.
    """
    if experiment := table_experiment(config, table):
        return experiment_runs(config, experiment) + rival_runs(config, experiment)
    if table in EXTENDED:
        experiment, beside = EXTENDED[table]
        runs = [run for run in experiment_runs(config, experiment) if run[1] in beside]
        return runs + rival_runs(config, experiment)
    if table in SEARCHES:
        return [run for name in candidates(config, table) for run in experiment_runs(config, name)]
    table = DETAILS.get(table, table)
    rows = paper_rows(paper, table)
    runs = []
    for name in dict.fromkeys(of for where, of, _ in rows if where == table):
        own = experiment_runs(config, name)
        shown = table_methods(rows, table, name, [method for _, method, _ in own])
        runs += [run for run in own if run[1] in shown]
    return runs


def table_input(table: str) -> str:
    """Return which file of each of its runs a table is made from: tuning looks at no test image."""
    return "val_metrics.json" if table == "tuning" else "metrics.json"


def candidates(config: Config, table: str) -> list[str]:
    """Return the experiments that a table of ``SEARCHES`` compares."""
    return [name for name in config.experiments if name.startswith(SEARCHES[table])]


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
    """Return the runs of one experiment that only its generic or extended table shows."""
    setup = config.experiments.get(experiment)
    rivals = setup.rivals if setup else []
    return [(experiment, method, seed) for method in rivals for seed in config.seeds]


def evaluated_rivals(config: Config, results: Path) -> list[Run]:
    """Return the runs of rivals that have metrics: the report lists them, but trains none."""
    runs = [run for name in config.experiments for run in rival_runs(config, name)]
    return [run for run in runs if (run_folder(results, *run) / "metrics.json").exists()]


def more_tables(config: Config, results: Path) -> list[str]:
    """Return the generic and extended tables that were made: the report shows them, too."""
    names = [name for name in tables(config) if name not in (*TABLES, *SEARCHES)]
    return [name for name in names if (results / "tables" / f"{name}.csv").exists()]


def extended_made(config: Config, results: Path) -> list[str]:
    """Return those of ``more_tables`` all of whose rivals have metrics.

    The report keeps them fresh. One that was made with --partial would have it train rivals.
    """
    trained = {run for name in config.experiments for run in experiment_runs(config, name)}
    there = trained.union(evaluated_rivals(config, results))
    made = more_tables(config, results)
    return [name for name in made if there.issuperset(table_runs(config, name))]


def run_folder(results: Path, experiment: str, method: str, seed: int) -> Path:
    """Return the folder of a run below the preset's results."""
    return results / "runs" / experiment / method / f"seed{seed}"


def input_folder(config: Config, dataset: str) -> Path:
    """Return the folder of what methods see of a dataset: its images, or features of them."""
    kind = "features" if config.datasets[dataset].features else "datasets"
    return Path("results", config.preset, kind, dataset)


def check_run(config: Config, experiment: str, method: str) -> None:
    """Raise a ``ConfigError`` unless ``method`` can do the task of ``experiment``."""
    check_names("experiment", [experiment], config.experiments)
    task, omitted = config.experiments[experiment].task, config.experiments[experiment].omitted
    if method in omitted:
        raise ConfigError(omitted[method])
    setups = [setup for setup in config.experiments.values() if setup.task == task]
    compete = {name for setup in setups for name in setup.methods + setup.rivals}
    able = [k for k, entry in config.methods.items() if k in compete or task in entry.params]
    check_names(f"method of {experiment}", [method], able)

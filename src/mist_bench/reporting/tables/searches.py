"""Tables that say how a parameter was chosen: of the data (calibration) or a method (tuning).

Calibration: the paper does not publish how MNIST-hard's digits are placed and composed. Each
candidate is a dataset of the preset ``calibration``; the one whose *supervised* bound comes closest
to Table 2 is used. MIST is never consulted.

Tuning: the one sensitive parameter of each method, by short runs of the preset ``tuning`` on the
val split; no test image is looked at. The score is the one that the tables are about: MIST's
settings were found by it too, and a score without boxes ranks candidates otherwise.
"""

from pathlib import Path

import pandas as pd

from mist_bench.config import resolve as settings
from mist_bench.config.keywords import ConfigError
from mist_bench.config.schema import Config
from mist_bench.config.targets import SEARCHES, candidates, run_folder, table_input
from mist_bench.reporting.aggregate import collect, read_json
from mist_bench.reporting.files import read_paper
from mist_bench.reporting.tables.grid import Column, Grid

FORMATS = {"calibration": "%.4f", "tuning": "%.6g"}  # of numbers
TITLES = {
    "calibration": "Supervised bound of each candidate generator of MNIST-hard, beside the paper's",
    "tuning": "Score of each candidate parameter on the val split",
}
GENERATOR = ("radius", "margin", "composite")  # parameters of the data that are calibrated
METRICS = ("iou50", "classification", "both")
TUNED = ["dataset", "method", "parameter", "value", "metric", "val_score", "n", "chosen"]


def search_table(name: str, config: Config, results: Path) -> pd.DataFrame:
    """Return one row per candidate of a search.

    Raises:
        ConfigError: if the preset has no candidates.
    """
    if not candidates(config, name):
        known = f"no experiment {SEARCHES[name]}*; use preset={name}"
        raise ConfigError(f"preset {config.preset}: {known}")
    make = calibration_table if name == "calibration" else tuning_table
    return make(config, results)


def search_grid(name: str, config: Config, table: pd.DataFrame) -> Grid:
    """Return the table of a search, ready to print."""
    numbers = dict.fromkeys(table.select_dtypes(float), FORMATS[name].__mod__)
    texts = [
        ["" if pd.isna(value) else numbers.get(key, str)(value) for value in column]
        for key, column in table.items()
    ]
    rows = [(first, rest) for first, *rest in zip(*texts, strict=True)]
    columns = [Column("", str(key)) for key in table.columns[1:]]
    seeds = ", ".join(map(str, config.seeds))
    caption = f"{TITLES[name]}. Preset {config.preset}; seeds {seeds}."
    return Grid(name, caption, columns, rows)


def calibration_table(config: Config, results: Path) -> pd.DataFrame:
    """Return one row per candidate generator, the closest to the paper first.

    It has the generator's parameters, the mean of each metric over ``n`` seeds, the paper's values,
    and ``gap``, the mean absolute difference; empty metrics where no run has ended.
    """
    paper = read_paper().query("table == 'table2' and method == 'supervised'")
    published = paper.set_index("metric")["value"]
    runs = collect(config, results)
    rows = []
    for name in candidates(config, "calibration"):
        params = settings.dataset_spec(config, config.experiments[name].dataset).params
        mine = runs[(runs.experiment == name) & (runs.status == "ok")]
        means = mine.groupby("metric")["value"].mean()
        row = {"experiment": name, **{key: params.get(key) for key in GENERATOR}}
        row |= {metric: means.get(metric) for metric in METRICS}
        row |= {f"paper_{metric}": published[metric] for metric in METRICS}
        gaps = [abs(row[metric] - published[metric]) for metric in METRICS if metric in means]
        row["gap"] = sum(gaps) / len(gaps) if gaps else None
        row["n"] = mine.seed.nunique()
        rows.append(row)
    return pd.DataFrame(rows).sort_values("gap", ignore_index=True)


def tuning_table(config: Config, results: Path) -> pd.DataFrame:
    """Return one row per candidate value of a method's one parameter, by dataset and method.

    ``val_score`` is the mean over ``n`` seeds of ``metric`` on the val split, empty where no run
    has ended; ``chosen`` marks the best of a method on a dataset, of equals the first, once all its
    candidates have run.

    Raises:
        ConfigError: if a method has another number of parameters.
    """
    rows = [
        _tuned(config, results, experiment, method)
        for experiment in candidates(config, "tuning")
        for method in config.experiments[experiment].methods
    ]
    table = pd.DataFrame(rows, columns=TUNED[:-1]).astype({"val_score": float})
    group = ["dataset", "method"]
    finished = table.groupby(group)["n"].transform("min") > 0
    best = table[finished].groupby(group)["val_score"].idxmax()
    table["chosen"] = table.index.isin(best)
    return table.sort_values(group, kind="stable", ignore_index=True)


def _tuned(config: Config, results: Path, experiment: str, method: str) -> tuple:
    """Return what a candidate is and how it scored."""
    own = config.methods[method].experiments.get(experiment)
    (leaves,) = pd.json_normalize(own.params if own else {}).to_dict("records")
    if len(leaves) != 1:
        raise ConfigError(
            f"methods.{method}.experiments.{experiment}.params: one parameter is tuned at a time, "
            f"got {len(leaves)}"
        )
    ((name, value),) = leaves.items()
    dataset = config.experiments[experiment].dataset
    # with a background, an image's objects are not all there is to find (Table 4)
    metric = "both" if config.datasets[dataset].background is None else "f1"
    folders = [run_folder(results, experiment, method, seed) for seed in config.seeds]
    found = [read_json(folder / table_input("tuning")) for folder in folders]
    scores = [one["metrics"][metric] for one in found if one]
    score = sum(scores) / len(scores) if scores else None
    return dataset, method, name, value, metric, score, len(scores)

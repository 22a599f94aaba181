"""How the one sensitive parameter of each method was chosen: by short runs, on the val split.

The score is the one that the tables are about, on images of the val split: MIST's settings were
found by it too, and a score without boxes ranks candidates otherwise. No test image is looked at.
Each method of the preset ``tuning`` has one parameter with a value per experiment.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from mist_bench.config.keywords import ConfigError
from mist_bench.config.schema import Config
from mist_bench.config.targets import run_folder
from mist_bench.reporting.aggregate import read_json
from mist_bench.reporting.files import write_text

PREFIX = "tune_"
COLUMNS = ["dataset", "method", "parameter", "value", "metric", "val_score", "n", "chosen"]


def tuning_table(config: Config, results: Path) -> pd.DataFrame:
    """Return one row per candidate value, by dataset and method.

    Args:
        config: its experiments ``tune_*`` are the candidates, each with one parameter a method.
        results: the preset's folder.

    Returns:
        ``COLUMNS``: ``val_score`` is the mean over ``n`` seeds of ``metric`` on the val split,
        empty where no run has ended; ``chosen`` marks the best of a method on a dataset, of equals
        the first, once all its candidates have run.

    Raises:
        ConfigError: if there are no candidates, or a method has another number of parameters.
    """
    rows = [
        _row(config, results, experiment, method)
        for experiment, setup in config.experiments.items()
        if experiment.startswith(PREFIX)
        for method in setup.methods
    ]
    if not rows:
        raise ConfigError(f"preset {config.preset}: no experiment {PREFIX}*; use preset=tuning")
    table = pd.DataFrame(rows, columns=COLUMNS[:-1]).astype({"val_score": float})
    group = ["dataset", "method"]
    finished = table.groupby(group)["n"].transform("min") > 0
    best = table[finished].groupby(group)["val_score"].idxmax()
    table["chosen"] = table.index.isin(best)
    return table.sort_values(group, kind="stable", ignore_index=True)


def _row(config: Config, results: Path, experiment: str, method: str) -> tuple:
    """Return what a candidate is and how it scored."""
    own = config.methods[method].experiments.get(experiment)
    params = own.params if own else {}
    if len(params) != 1:
        raise ConfigError(
            f"methods.{method}.experiments.{experiment}.params: one parameter is tuned at a time, "
            f"got {len(params)}"
        )
    ((name, value),) = params.items()
    dataset = config.experiments[experiment].dataset
    # with a background, an image's objects are not all there is to find (Table 4)
    metric = "both" if config.datasets[dataset].background is None else "f1"
    folders = [run_folder(results, experiment, method, seed) for seed in config.seeds]
    found = [read_json(folder / "val_metrics.json") for folder in folders]
    scores = [one["metrics"][metric] for one in found if one]
    score = sum(scores) / len(scores) if scores else None
    return dataset, method, name, value, metric, score, len(scores)


def write_tuning(config: Config, results: Path, out: Path) -> None:
    """Write ``tuning_table`` as CSV to ``out``, whole or not at all."""
    write_text(out, tuning_table(config, results).to_csv(index=False, float_format="%.6g"))

"""How the softness of each differentiable top-K was chosen: by short runs, on the val split.

The score is the one of val.csv, which needs no boxes (``training.validation_score``); no test image
is looked at. Each method of the preset ``tuning`` has one parameter with a value per experiment.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from mist_bench.config import Config, ConfigError
from mist_bench.reporting.aggregate import run_folder
from mist_bench.reporting.files import write_text

PREFIX = "tune_"
COLUMNS = ["method", "parameter", "value", "val_score", "n", "chosen"]


def tuning_table(config: Config, results: Path) -> pd.DataFrame:
    """Return one row per candidate value, by method.

    Args:
        config: its experiments ``tune_*`` are the candidates, each with one parameter a method.
        results: the preset's folder.

    Returns:
        ``COLUMNS``: ``val_score`` is the mean over ``n`` seeds of the score after the last step,
        empty where no run has ended; ``chosen`` marks the best of a method, of equals the first,
        once all its candidates have run.

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
    finished = table.groupby("method")["n"].transform("min") > 0
    best = table[finished].groupby("method")["val_score"].idxmax()
    table["chosen"] = table.index.isin(best)
    return table.sort_values("method", kind="stable", ignore_index=True)


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
    paths = [run_folder(results, experiment, method, seed) / "val.csv" for seed in config.seeds]
    scores = [pd.read_csv(path)["score"].iloc[-1] for path in paths if path.is_file()]
    return method, name, value, sum(scores) / len(scores) if scores else None, len(scores)


def write_tuning(config: Config, results: Path, out: Path) -> None:
    """Write ``tuning_table`` as CSV to ``out``, whole or not at all."""
    write_text(out, tuning_table(config, results).to_csv(index=False, float_format="%.6g"))

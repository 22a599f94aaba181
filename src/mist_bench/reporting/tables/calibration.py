"""How MNIST-hard's unpublished parameters were chosen: by the supervised bound of the paper.

The paper does not publish how its digits are placed and composed. Each candidate is a dataset of
the preset ``calibration``; the one whose *supervised* bound comes closest to Table 2 is used. MIST
is never consulted.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from mist_bench.config.schema import Config
from mist_bench.reporting.aggregate import collect
from mist_bench.reporting.files import read_paper, write_text

PREFIX = "calibrate_"
PARAMETERS = ("radius", "margin", "composite")
METRICS = ("iou50", "classification", "both")


def calibration_table(config: Config, results: Path) -> pd.DataFrame:
    """Return one row per candidate generator, the closest to the paper first.

    Args:
        config: its experiments ``calibrate_*`` are the candidates.
        results: the preset's folder.

    Returns:
        The generator's parameters, the mean of each metric over ``n`` seeds, the paper's values,
        and ``gap``, the mean absolute difference; empty metrics where no run has ended.
    """
    paper = read_paper().query("table == 'table2' and method == 'supervised'")
    published = paper.set_index("metric")["value"]
    runs = collect(config, results)
    rows = []
    for name, setup in config.experiments.items():
        if not name.startswith(PREFIX):
            continue
        params = config.datasets[setup.dataset].params
        mine = runs[(runs.experiment == name) & (runs.status == "ok")]
        means = mine.groupby("metric")["value"].mean()
        row = {"experiment": name, **{key: params.get(key) for key in PARAMETERS}}
        row |= {metric: means.get(metric) for metric in METRICS}
        row |= {f"paper_{metric}": published[metric] for metric in METRICS}
        gaps = [abs(row[metric] - published[metric]) for metric in METRICS if metric in means]
        row["gap"] = sum(gaps) / len(gaps) if gaps else None
        row["n"] = mine.seed.nunique()
        rows.append(row)
    if not rows:
        raise ValueError(f"preset {config.preset}: no experiment {PREFIX}*; use preset=calibration")
    return pd.DataFrame(rows).sort_values("gap", ignore_index=True)


def write_calibration(config: Config, results: Path, out: Path) -> None:
    """Write ``calibration_table`` as CSV to ``out``, whole or not at all."""
    write_text(out, calibration_table(config, results).to_csv(index=False, float_format="%.4f"))

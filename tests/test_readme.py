import re
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
REFERENCE = ROOT / "results" / "reference" / "cpu" / "tables"
METRICS = {"IOU 50%": "iou50", "Classif.": "classification", "Both": "both"}
METHODS = {
    "MIST": "mist",
    "Ch.-wise": "channelwise",
    "Supervised": "supervised",
    "Xie20": "soft_topk",
}
EXPERIMENTS = {"MNIST-hard": "mnist_hard_classification", "MNIST-3": "mnist_3_classification"}
ROW = re.compile(r"^\| (MNIST-\S+) \| (\S+) \|(.+)\|$", re.MULTILINE)


def claims():
    """Return every number of the README's table of claims, with what it claims to be."""
    header = next(line for line in README.splitlines() if line.startswith("| set | method |"))
    columns = [cell.strip() for cell in header.strip("|").split("|")][2:]
    return [
        pytest.param(
            EXPERIMENTS[name],
            METHODS[method],
            METRICS[column],
            cell,
            id=f"{name}-{method}-{column}",
        )
        for name, method, cells in ROW.findall(README)
        for column, cell in zip(columns, cells.split("|"), strict=True)
        if column in METRICS
    ]


@pytest.mark.parametrize(("experiment", "method", "metric", "cell"), claims())
def test_a_claim_is_the_reference_tables_number(experiment, method, metric, cell):
    tables = pd.concat(pd.read_csv(path) for path in REFERENCE.glob("table[23].csv"))
    rows = tables[(tables.experiment == experiment) & (tables.method == method)]
    rows = rows[rows.metric == metric]
    ours, paper = re.fullmatch(r" ([\d.]+) \((?:paper )?([\d.]+)\) ", cell).groups()
    assert f"{100 * rows['mean'].iloc[0]:.1f}" == ours
    assert f"{100 * rows['paper'].dropna().iloc[0]:.1f}" == paper


def test_there_are_claims():
    assert len(claims()) >= 9

import pytest

from mist_bench.config.keywords import fields_at, parameters
from mist_bench.reporting.files import read_deviations, read_paper
from mist_bench.reporting.tables.layouts import LAYOUTS


def test_the_papers_numbers_are_complete():
    paper = read_paper()
    assert list(paper.columns) == ["table", "experiment", "method", "metric", "value", "note"]
    # 3 x 5, 3 x 3, 3 x 4, 2 x 3 and 3 cells; four of Table 1 are dashes
    assert paper.groupby("table").size().to_dict() == {
        "table1": 15,
        "table2": 9,
        "table3": 12,
        "table4": 6,
        "table5": 3,
    }
    assert paper["value"].notna().sum() == 41
    assert (paper.loc[paper["value"].isna(), "note"] == "not in the paper").all()
    assert not paper.duplicated(["table", "experiment", "method", "metric"]).any()


@pytest.mark.parametrize(
    ("table", "experiment", "method", "metric", "value"),
    [
        ("table1", "mnist_hard_reconstruction", "channelwise", "rmse", 0.128),
        ("table1", "mnist_easy_reconstruction", "landmarks", "rmse", 0.169),
        ("table2", "mnist_hard_classification", "supervised", "classification", 0.987),
        ("table2", "mnist_hard_classification", "mist", "both", 0.975),
        ("table3", "mnist_3_classification", "soft_topk", "classification", 0.974),
        ("table3", "mnist_hard_classification", "soft_topk", "both", 0.713),
        ("table4", "pascal_coco_classification", "mist", "f1", 0.679),
        ("table5", "mnist_count_6_9_classification", "mist", "ap50", 0.901),
    ],
)
def test_numbers_of_the_paper_by_hand(table, experiment, method, metric, value):
    paper = read_paper()
    row = paper[
        (paper["table"] == table)
        & (paper["experiment"] == experiment)
        & (paper["method"] == method)
        & (paper["metric"] == metric)
    ]
    assert row["value"].tolist() == [value]


def test_the_papers_f1_follows_from_its_precision_and_recall():
    rows = (
        read_paper()
        .query("table == 'table4'")
        .pivot(index="method", columns="metric", values="value")
    )
    f1 = 2 * rows["precision"] * rows["recall"] / (rows["precision"] + rows["recall"])
    assert (f1 - rows["f1"]).abs().max() < 0.001


def test_every_number_of_the_paper_has_a_place_in_a_layout():
    for row in read_paper().itertuples():
        layout = LAYOUTS[row.table]
        assert row.experiment in layout.experiments
        assert row.metric in {metric.paper for metric in layout.metrics}


def test_deviations_are_complete():
    deviations = read_deviations()
    assert list(deviations.columns) == [
        "id",
        "paper",
        "official_code",
        "choice",
        "config_key",
        "effect",
    ]
    expected = [f"{k}{i}" for k, n in (("D", 17), ("B", 9), ("U", 21)) for i in range(1, n + 1)]
    assert set(expected) <= set(deviations["id"])
    assert deviations["id"].is_unique
    assert (deviations.map(len) > 0).all(axis=None)


def test_deviations_name_keys_that_exist():
    prefix = "methods.mist.params.classification."
    named = [key for key in read_deviations()["config_key"] if key.startswith(prefix)]
    assert len(named) >= 8
    model = parameters("mist_bench.mist", "build")
    for key in named:
        *path, last = key.removeprefix(prefix).split(".")
        assert last in fields_at(model, tuple(path)), key

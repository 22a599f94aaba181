"""Tables the paper lacks: the extended one, and that of any experiment."""

import pandas as pd
import pytest
from test_reporting_tables import HARD, make_config, put_run, set_source

from mist_bench.reporting.aggregate import collect, costs
from mist_bench.reporting.html import write_report
from mist_bench.reporting.tables.write import write_table


@pytest.fixture
def config():
    plain = make_config(seeds=[0])
    setup = plain.experiments[HARD].model_copy(update={"rivals": ["rival"]})
    return plain.model_copy(update={"experiments": plain.experiments | {HARD: setup}})


@pytest.fixture
def results(tmp_path):
    folder = tmp_path / "cpu"
    (folder / "datasets" / "mnist_hard").mkdir(parents=True)
    set_source(folder, "MNIST, torchvision mirror")
    put_run(folder, "mist", 0, {"both": 0.976}, cpu_seconds=300, peak_memory_mib=912.4)
    put_run(folder, "rival", 0, {"both": 0.5}, cpu_seconds=600, peak_memory_mib=1234.5)
    return folder


def test_costs_by_hand():
    assert costs({"steps": 4, "seconds": 2.0, "cpu_seconds": 1, "peak_memory_mib": 9}) == {
        "seconds_per_step": 0.5,
        "cpu_seconds_per_step": 0.25,
        "peak_memory_mib": 9,
    }
    assert costs({"seconds": 2.0}) == {}


def test_a_rival_has_its_numbers_and_no_verdict(config, results):
    write_table("table3_extended", config, results, results / "tables")
    path = results / "tables" / "table3_extended.csv"
    frame = pd.read_csv(path, keep_default_na=False).set_index(["method", "metric"])
    assert (frame.loc[("rival", "both"), "mean"], frame.loc[("rival", "both"), "paper"]) == (
        "0.5",
        "",
    )
    assert frame.loc[("rival", "both"), "verdict"] == "not specified"
    assert float(frame.loc[("rival", "cpu_seconds_per_step"), "mean"]) == 0.2  # 600 s, 3,000 steps
    assert float(frame.loc[("mist", "peak_memory_mib"), "mean"]) == 912.4
    assert frame.loc[("mist", "peak_memory_mib"), "verdict"] == "not specified"
    # MIST's numbers stand beside the paper's, as in Table 3
    assert float(frame.loc[("mist", "both"), "paper"]) == 0.975
    assert frame.loc[("mist", "both"), "verdict"] == "reproduced (single run)"


def test_its_rows_and_columns(config, results):
    write_table("table3_extended", config, results, results / "tables")
    lines = (results / "tables" / "table3_extended.md").read_text().splitlines()
    assert lines[0].startswith("**Table 3 extended beyond the paper. Differentiable top-K")
    start = lines.index("|  | MIST | soft\\_topk | My\\_rival |")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[start + 2 :]]
    labels = ["IOU 50%", "Classif.", "Both", "Seconds per step", "Processor seconds per step"]
    assert [row[0] for row in rows[:6]] == [*labels, "Peak memory, MiB"]
    assert rows[2] == ["Both", "97.6% / 97.5% (R)", "not run / 71.3%", "50.0% / - (-)"]
    assert rows[4][3] == ".200 / - (-)"
    assert rows[5][3] == "1234 / - (-)"


def generic(config, results, **metrics):
    """Return what the Markdown of an experiment's table says and its rows, of one run of MIST."""
    put_run(results, "mist", 0, metrics, experiment="mine")
    write_table("table_mine", config, results, results / "tables")
    lines = (results / "tables" / "table_mine.md").read_text().splitlines()
    rows = [line.strip("| ").split(" | ") for line in lines if line.startswith("|")]
    return lines, [rows[0], *rows[2:]]


def with_experiment(config, dataset=None, **changes):
    """Return the config with the experiment ``mine`` instead, on a dataset of its own."""
    setup = config.experiments[HARD].model_copy(update={"dataset": "made_up", **changes})
    data = config.datasets["mnist_hard"].model_copy(update=dataset or {})
    return config.model_copy(update={"experiments": {"mine": setup}, "datasets": {"made_up": data}})


@pytest.mark.parametrize(
    ("changes", "dataset", "headings"),
    [
        ({}, {}, ["IOU 50%", "Classif.", "Both"]),
        ({}, {"background": 0}, ["Precision", "Recall", "F1", "AP.50"]),
        ({"task": "reconstruction"}, {}, ["RMSE", "IOU 50%, no label used"]),
        (
            {"task": "reconstruction"},
            {"params": {"counts": [0, 1]}},
            ["RMSE", "IOU 50%, no label used", "Right number"],
        ),
    ],
)
def test_the_table_of_an_experiment_has_the_metrics_of_its_task(
    config, tmp_path, changes, dataset, headings
):
    found = with_experiment(config, dataset, **changes)
    values = {"both": 0.5, "ap50": 0.5, "iou50": 0.5}
    lines, rows = generic(found, tmp_path / "cpu", **values)
    kind = changes.get("task", "classification").capitalize()
    assert lines[0].startswith(
        f"**Experiment mine. {kind} on made\\_up, K = 9. Preset cpu; seeds 0"
    )
    assert lines[2] == "Each cell: ours alone; the paper has no such table."
    assert rows[0] == headings
    assert [row[0] for row in rows[1:]] == ["MIST", "Ch.-wise", "My\\_rival"]
    assert "50.0%" in rows[1]
    assert set(rows[3][1:]) == {"not run"}
    frame = pd.read_csv(tmp_path / "cpu/tables/table_mine.csv", keep_default_na=False)
    assert set(frame.paper) == set(frame.delta) == {""}


@pytest.mark.parametrize("table", ["table2", "table_mnist_hard_classification"])
def test_a_method_without_a_budget_is_not_run_and_says_why(config, results, table):
    setup = config.experiments[HARD].model_copy(
        update={"methods": ["mist"], "omitted": {"channelwise": "no budget for it"}}
    )
    config = config.model_copy(update={"experiments": {HARD: setup}})
    write_table(table, config, results, results / "tables")
    lines = (results / "tables" / f"{table}.md").read_text().splitlines()
    assert "- Ch.-wise on MNIST-hard: not run: no budget for it." in [
        line.replace("mnist\\_hard\\_classification", "MNIST-hard") for line in lines
    ]


@pytest.mark.parametrize("name", ["table2", "table3"])
def test_the_papers_tables_do_not_show_rivals(config, results, name):
    write_table(name, config, results, results / "tables")
    assert "rival" not in (results / "tables" / f"{name}.csv").read_text()


def test_rivals_are_collected(config, results):
    frame = collect(config, results)
    assert set(frame[frame.experiment == HARD].method) == {"mist", "channelwise", "rival"}
    assert frame[(frame.method == "rival") & (frame.metric == "both")].value.tolist() == [0.5]


@pytest.mark.parametrize(
    ("name", "title"),
    [("table3_extended", "Table 3, extended"), (f"table_{HARD}", f"Experiment {HARD}")],
)
def test_the_report_shows_it_once_it_is_made(config, results, name, title):
    write_report(config, results, results / "report")
    page, heading = results / "report" / "index.html", f'<h2 id="{name}">{title}</h2>'
    assert heading not in page.read_text()
    write_table(name, config, results, results / "tables")
    write_report(config, results, results / "report")
    assert heading in page.read_text()

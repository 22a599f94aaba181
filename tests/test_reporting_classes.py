"""Table 4 and its companion by class: rows, dashes, and no claim from a stand-in."""

import json

import numpy as np
import pandas as pd
import pytest
from test_reporting_tables import config_of, make_config, put_run

from mist_bench.config.schema import Config
from mist_bench.datasets.photographs.voc import VOC_CLASSES
from mist_bench.reporting.html import write_report
from mist_bench.reporting.tables.layouts import LAYOUTS
from mist_bench.reporting.tables.write import write_table

PASCAL = "pascal_coco_classification"
STAND_IN = "a stand-in for VOC and COCO drawn from OpenMoji"
TOTALS = {"precision": 0.874, "recall": 0.4, "f1": 0.549, "f1_official": 0.548}
TOTALS |= {"ap_center": 0.31, "ap50": 0.12}
# 3 of 4 detections of a person are right, and found 3 of its 5; a cat is never found, nor a dog met
BY_CLASS = {
    "precision_class15": 0.75,
    "recall_class15": 0.6,
    "f1_class15": 6 / 9,
    "instances_class15": 5.0,
    "precision_class08": None,
    "recall_class08": 0.0,
    "f1_class08": 0.0,
    "instances_class08": 2.0,
    "precision_class12": 0.0,
    "recall_class12": None,
    "f1_class12": 0.0,
    "instances_class12": 0.0,
}


def pascal_config(preset="cpu", seeds=(0,), methods=("mist", "soft_topk")) -> Config:
    """A config of PASCAL+COCO alone, with both of the paper's methods."""
    plain = make_config(preset=preset, seeds=seeds).model_dump(mode="json")
    (dataset,) = plain["datasets"].values()
    (experiment, _) = plain["experiments"].values()
    mist = plain["methods"]["mist"]
    labels = {"mist": "MIST", "soft_topk": "Xie20"}
    return config_of(
        **plain
        | {
            "datasets": {"pascal_coco": dataset | {"num_classes": 21, "background": 0}},
            "experiments": {
                PASCAL: experiment
                | {"dataset": "pascal_coco", "num_instances": 2, "methods": list(methods)}
            },
            "methods": {name: mist | {"label": label} for name, label in labels.items()},
        }
    )


@pytest.fixture
def results(tmp_path):
    """The folder of preset cpu, with a stand-in and one run of MIST."""
    return put_pascal(tmp_path / "cpu")


def put_pascal(folder, source=STAND_IN):
    data = folder / "datasets" / "pascal_coco"
    data.mkdir(parents=True)
    (data / "manifest.json").write_text(json.dumps({"source": source}))
    put_run(folder, "mist", 0, TOTALS | BY_CLASS, experiment=PASCAL)
    return folder


def frame_of(name, results, config=None) -> pd.DataFrame:
    write_table(name, config or pascal_config(), results, results / "tables")
    frame = pd.read_csv(results / "tables" / f"{name}.csv", keep_default_na=False)
    return frame.set_index(["method", "metric"])


def rows_of(name, results):
    """Return heading and rows of the Markdown table, cell by cell."""
    lines = (results / "tables" / f"{name}.md").read_text().splitlines()
    table = [line for line in lines if line.startswith("|") and not line.startswith("|---")]
    return [[cell.strip() for cell in line[1:-1].split("|")] for line in table]


def test_table4_has_both_average_precisions_without_a_paper_value(results):
    frame = frame_of("table4", results)
    for metric, mean in (("ap_center", 0.31), ("ap50", 0.12)):
        row = frame.loc[("mist", metric)]
        assert (float(row["mean"]), row["paper"], row["verdict"]) == (mean, "", "not specified")
    heading, mist, xie20 = rows_of("table4", results)
    assert heading[-2:] == ["AP, center inside", "AP.50"]
    assert mist[:2] == ["MIST", "87.4% / 87.4% (-)"]
    assert mist[-2:] == ["31.0% / - (-)", "12.0% / - (-)"]
    assert xie20[:2] == ["Xie20", "not run / 72.7%"]


def test_a_stand_in_is_never_judged_though_the_papers_value_stands_beside_it(results):
    frame = frame_of("table4", results)
    for metric, paper in (("precision", 0.874), ("f1", 0.679), ("f1_official", 0.679)):
        row = frame.loc[("mist", metric)]
        assert float(row["paper"]) == paper
        assert (row["verdict"], row["delta"]) == ("no claim: stand-in data", "")
    for kind in ("md", "tex"):
        text = (results / "tables" / f"table4.{kind}").read_text()
        assert f"Data: PASCAL+COCO: {STAND_IN}." in text
        assert "MIST on PASCAL+COCO: no claim: stand-in data." in text


def test_how_easy_the_location_of_one_object_is(results):
    """One that covers 30% of a square of side 1 holds its center by its place alone."""
    frame_of("table4", results)
    text = (results / "tables" / "table4.md").read_text()
    assert "always up to an aspect ratio of 1.2, in 63% of random squares at 2" in text
    for aspect, share in ((1.2, 1), (2, 0.63)):
        width = (0.3 / aspect) ** 0.5  # the shorter side; along the longer, the center is inside
        starts = np.linspace(0, 1 - width, 10_001)
        inside = (starts <= 0.5) & (starts + width >= 0.5)
        assert inside.mean() == pytest.approx(share, abs=0.005)


def test_photographs_are_judged(tmp_path):
    folder = put_pascal(tmp_path / "cpu", source="PASCAL VOC 2007 and COCO 2017")
    frame = frame_of("table4", folder)
    assert frame.loc[("mist", "precision"), "verdict"] == "reproduced (single run)"
    assert float(frame.loc[("mist", "f1"), "delta"]) == pytest.approx(-0.13)


def test_the_table_by_class_has_the_classes_as_rows(results):
    frame_of("table4_classes", results)
    heading, *rows = rows_of("table4_classes", results)
    scores = ["Precision", "Recall", "F1"]
    assert heading == [
        "",
        *(f"MIST: {score}" for score in scores),
        *(f"Xie20: {score}" for score in scores),
        "Instances",
    ]
    assert [row[0] for row in rows] == list(VOC_CLASSES[1:])
    by_name = {row[0]: row[1:] for row in rows}
    gone = ["not run"] * 3
    assert by_name["person"] == ["75.0%", "60.0%", "66.7%", *gone, "5"]
    assert by_name["cat"] == ["-", "0.0%", "0.0%", *gone, "2"]
    assert by_name["dog"] == ["0.0%", "-", "0.0%", *gone, "0"]


def test_its_csv_is_in_the_long_form(results):
    frame = frame_of("table4_classes", results)
    assert len(frame) == 2 * 20 * 4
    row = frame.loc[("mist", "f1_class15")]
    assert (row["table"], row["experiment"]) == ("table4_classes", PASCAL)
    assert (float(row["mean"]), row["n"], row["paper"]) == (0.666667, 1, "")
    assert row["verdict"] == "not specified"
    undefined = frame.loc[("mist", "precision_class08")]
    assert (undefined["mean"], undefined["n"]) == ("", 0)
    assert undefined["verdict"] == "not specified: a ratio without a denominator"
    reason = "not run: seed 0: no metrics.json"
    assert frame.loc[("soft_topk", "f1_class15"), "verdict"] == reason


def test_what_is_said_around_it(results):
    frame_of("table4_classes", results)
    for kind in ("md", "tex"):
        text = (results / "tables" / f"table4_classes.{kind}").read_text().replace("\\_", "_")
        assert "Table 4 extended beyond the paper. Instance level localization" in text
        assert STAND_IN in text
        assert "Each cell: ours alone; the paper has no such table." in text
        assert "Reproduced:" not in text  # no rule where nothing is compared
        assert "Xie20 on PASCAL+COCO: not run: seed 0: no metrics.json." in text


def test_latex_by_class_is_balanced_and_grouped(results):
    frame_of("table4_classes", results)
    text = (results / "tables" / "table4_classes.tex").read_text()
    spans = r" & \multicolumn{3}{c}{MIST} & \multicolumn{3}{c}{Xie20} & \multicolumn{1}{c}{} \\"
    assert spans in text.splitlines()
    assert r"person & 75.0\% & 60.0\% & 66.7\% & not run & not run & not run & 5 \\" in text
    assert text.count("{") == text.count("}")


def test_the_number_of_instances_is_that_of_a_method_that_has_run(tmp_path):
    folder = tmp_path / "cpu"
    put_run(folder, "soft_topk", 0, BY_CLASS, experiment=PASCAL)
    frame_of("table4_classes", folder)
    assert [row[-1] for row in rows_of("table4_classes", folder) if row[0] == "person"] == ["5"]


def test_means_over_seeds_have_their_interval(results):
    put_run(results, "mist", 1, BY_CLASS | {"f1_class15": 8 / 9}, experiment=PASCAL)
    frame = frame_of("table4_classes", results, pascal_config(seeds=[0, 1]))
    assert float(frame.loc[("mist", "f1_class15"), "mean"]) == pytest.approx(7 / 9, abs=1e-6)
    (person,) = [row for row in rows_of("table4_classes", results) if row[0] == "person"]
    # half width t(.975, 1) / 9 = 12.706 / 9, more than there is
    assert person[3] == "77.8% [0.0%, 100.0%]"
    text = (results / "tables" / "table4_classes.md").read_text()
    assert "- Intervals of percentages end at 0% and 100%." in text.splitlines()


def test_seeds_that_are_lost_or_lack_a_metric_are_noted_where_the_paper_has_no_value(results):
    put_run(results, "mist", 1, BY_CLASS | {"f1_class15": None}, experiment=PASCAL)
    frame = frame_of("table4_classes", results, pascal_config(seeds=[0, 1, 2]))
    lost = "of 3 seeds missing: seed 2: no metrics.json"
    assert frame.loc[("mist", "recall_class15"), "verdict"] == f"not specified; {lost}"
    gap = f"not specified; n = 1, no value in 1 of 2 runs; {lost}"
    row = frame.loc[("mist", "f1_class15")]
    assert (float(row["mean"]), row["n"], row["verdict"]) == (0.666667, 1, gap)
    notes = (results / "tables" / "table4_classes.md").read_text().splitlines()
    assert f"- MIST on PASCAL+COCO: not specified; {lost}." in notes
    assert f"- person F1 of MIST on PASCAL+COCO: {gap}." in notes


def test_it_is_made_for_a_config_without_the_experiment(tmp_path):
    folder = tmp_path / "cpu"
    write_table("table4_classes", make_config(), folder, folder / "tables")
    rows = rows_of("table4_classes", folder)[1:]
    assert len(rows) == 20
    assert set(rows[0][1:]) == {"-"}


def test_the_report_shows_it_after_table4(results):
    write_report(pascal_config(), results, results / "report")
    page = (results / "report" / "index.html").read_text()
    places = [page.index(f'<h2 id="{name}">') for name in ("table4", "table4_classes", "table5")]
    assert places == sorted(places)
    assert '<h2 id="table4_classes">Table 4, classes</h2>' in page
    assert '<th scope="row">pottedplant</th>' in page


def test_the_layout_names_every_class_once():
    metrics = LAYOUTS["table4_classes"].metrics
    assert [(one.name, one.row) for one in metrics if one.label == "F1"] == [
        (f"f1_class{number:02d}", VOC_CLASSES[number]) for number in range(1, 21)
    ]
    assert VOC_CLASSES[0] == "background"
    assert list(VOC_CLASSES[1:]) == sorted(set(VOC_CLASSES[1:]))

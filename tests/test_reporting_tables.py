import json
import math

import pandas as pd
import pytest

from mist_bench.config.schema import Config
from mist_bench.reporting.tables.write import write_table

CSV_COLUMNS = "table,experiment,method,metric,mean,ci_low,ci_high,n,paper,delta,verdict"
HARD = "mnist_hard_classification"


def config_of(**content) -> Config:
    """The config of what would be in a config.json."""
    return Config.model_validate_json(json.dumps(content))


def make_config(preset="cpu", seeds=(0, 1, 2), methods=("mist", "channelwise")) -> Config:
    """A config of two experiments on one dataset; ``rival`` is a method the paper lacks."""
    budget = dict.fromkeys(
        ("steps", "batch_size", "validate_every", "checkpoint_every", "log_every"), 10
    )
    experiment = {
        "task": "classification",
        "dataset": "mnist_hard",
        "num_instances": 9,
        "methods": list(methods),
    }
    labels = {"mist": "MIST", "channelwise": "Ch.-wise", "rival": "My_rival"}
    return config_of(
        preset=preset,
        seeds=list(seeds),
        device="cpu",
        training=budget,
        datasets={
            "mnist_hard": {
                "module": "mist_bench.datasets.multi_mnist",
                "image_size": [1, 80, 80],
                "num_classes": 10,
                "box_size": 20,
                "sizes": {"train": 1, "val": 1, "test": 1},
                "seed": 0,
            }
        },
        experiments={
            HARD: experiment,
            "mnist_count_6_9_classification": experiment | {"methods": ["mist"]},
        },
        methods={
            name: {"module": "mist_bench.mist", "label": label} for name, label in labels.items()
        },
    )


def put_run(results, method, seed, metrics, experiment=HARD, **record):
    """Store what a finished run leaves for reporting."""
    folder = results / "runs" / experiment / method / f"seed{seed}"
    folder.mkdir(parents=True)
    names = {"preset": results.name, "experiment": experiment, "method": method, "seed": seed}
    content = names | {"status": "ok", "images": 10, "instances": 90, "metrics": metrics}
    (folder / "metrics.json").write_text(json.dumps(content))
    run = {"status": "ok", "steps": 3000, "seconds": 420.5, "commit": "abc"} | record
    (folder / "run.json").write_text(json.dumps(run))


@pytest.fixture
def results(tmp_path):
    """The folder of preset cpu, with a dataset's manifest and no run."""
    folder = tmp_path / "cpu"
    (folder / "datasets" / "mnist_hard").mkdir(parents=True)
    set_source(folder, "MNIST, torchvision mirror")
    return folder


def set_source(results, source):
    manifest = results / "datasets" / "mnist_hard" / "manifest.json"
    manifest.write_text(json.dumps({"source": source}))


def table(name, config, results) -> pd.DataFrame:
    write_table(name, config, results, results / "tables")
    frame = pd.read_csv(results / "tables" / f"{name}.csv", keep_default_na=False)
    return frame.set_index(["experiment", "method", "metric"])


def test_a_cell_by_hand(results):
    for seed, value in enumerate((0.96, 0.97, 0.98)):
        put_run(results, "mist", seed, {"iou50": value})
    row = table("table2", make_config(), results).loc[(HARD, "mist", "iou50")]
    # mean .97, standard error .01 / sqrt(3), t(.975, 2) = 4.302653
    assert float(row["mean"]) == pytest.approx(0.97)
    assert float(row["ci_low"]) == pytest.approx(0.97 - 4.302653 * 0.01 / math.sqrt(3), abs=1e-6)
    assert float(row["ci_high"]) == pytest.approx(0.97 + 4.302653 * 0.01 / math.sqrt(3), abs=1e-6)
    assert float(row["paper"]) == 0.978
    assert float(row["delta"]) == pytest.approx(-0.008)
    assert row["n"] == 3
    assert row["verdict"] == "reproduced"  # .008 off, the tolerance is .01


def test_csv_has_exactly_the_published_columns(results):
    table("table2", make_config(), results)
    text = (results / "tables" / "table2.csv").read_text()
    assert text.splitlines()[0] == CSV_COLUMNS
    assert text.splitlines()[1].startswith(f"table2,{HARD},mist,iou50,,,,0,0.978,,not run: seed 0:")


def test_direction_and_failure_to_reproduce(results):
    config = make_config(seeds=[0])
    put_run(results, "mist", 0, {"iou50": 0.90, "both": 0.50})
    put_run(results, "channelwise", 0, {"iou50": 0.60, "both": 0.80})
    frame = table("table2", config, results)
    assert frame.loc[(HARD, "mist", "iou50"), "verdict"] == "direction only (single run)"
    assert frame.loc[(HARD, "channelwise", "iou50"), "verdict"] == "direction only (single run)"
    assert frame.loc[(HARD, "mist", "both"), "verdict"] == "not reproduced (single run)"
    assert frame.loc[(HARD, "channelwise", "both"), "verdict"] == "not reproduced (single run)"
    assert frame.loc[(HARD, "mist", "iou50"), "ci_low"] == ""


def test_official_metrics_are_compared_with_the_same_paper_value(results):
    put_run(results, "mist", 0, {"both": 0.90, "both_official": 0.974})
    put_run(results, "channelwise", 0, {"both": 0.95})
    frame = table("table2", make_config(seeds=[0]), results)
    assert float(frame.loc[(HARD, "mist", "both_official"), "paper"]) == 0.975
    assert frame.loc[(HARD, "mist", "both_official"), "verdict"] == "reproduced (single run)"
    assert frame.loc[(HARD, "mist", "both"), "verdict"] == "not reproduced (single run)"


def test_runs_that_are_missing_or_failed_are_counted_with_their_reason(results):
    put_run(results, "mist", 0, {"iou50": 0.978})
    log = results / "runs" / HARD / "mist" / "seed1" / "train.log"
    log.parent.mkdir()
    log.write_text("step 7\nmist-bench train: loss is nan at step 8\n")
    frame = table("table2", make_config(), results)
    row = frame.loc[(HARD, "mist", "iou50")]
    assert row["n"] == 1
    assert row["verdict"] == (
        "reproduced (single run); of 3 seeds missing: "
        "seed 1: failed: train: loss is nan at step 8; seed 2: no metrics.json"
    )


def test_what_the_config_does_not_run_says_so(results):
    frame = table("table3", make_config(), results)
    three = "mnist_3_classification"
    assert frame.loc[(HARD, "soft_topk", "both"), "verdict"] == (
        f"not run: the config does not run soft_topk in {HARD}"
    )
    assert frame.loc[(three, "mist", "both"), "verdict"] == (
        f"not run: the config does not run mist in {three}"
    )
    assert float(frame.loc[(HARD, "soft_topk", "both"), "paper"]) == 0.713


@pytest.mark.parametrize("name", [f"table{i}" for i in range(1, 6)])
def test_every_table_is_made_from_nothing(name, results):
    frame = table(name, make_config(), results)
    assert frame["verdict"].str.match("not (run: |specified)").all()
    assert (frame["n"] == 0).all()
    for kind in ("md", "tex"):
        assert (results / "tables" / f"{name}.{kind}").stat().st_size > 500


def test_a_dash_of_the_paper_is_not_specified(results):
    frame = table("table1", make_config(), results)
    cell = frame.loc[("gabor_reconstruction", "grid", "rmse")]
    assert (cell["paper"], cell["verdict"]) == ("", "not specified: not in the paper")


def test_a_rival_the_paper_lacks_is_an_extra_column(results):
    put_run(results, "rival", 0, {"both": 0.99})
    config = make_config(seeds=[0], methods=("mist", "rival"))
    frame = table("table2", config, results)
    assert frame.loc[(HARD, "rival", "both"), "verdict"] == "not specified"
    assert frame.loc[(HARD, "rival", "both"), "delta"] == ""
    assert list(dict.fromkeys(frame.reset_index()["method"])) == [
        "mist",
        "channelwise",
        "supervised",
        "rival",
    ]
    assert "My\\_rival" in (results / "tables" / "table2.tex").read_text()


@pytest.mark.parametrize(
    ("preset", "source", "verdict"),
    [
        ("smoke", "MNIST", "no claim: smoke"),
        ("cpu", "a Stand-in drawn from OpenMoji", "no claim: stand-in data"),
        ("cpu", "digits, unverified", "no claim: digits, unverified"),
        ("cpu", "a sample of 5,000 digits", "no claim: a sample of 5,000 digits"),
    ],
)
def test_no_claim_is_made_from_smoke_or_stand_in_data(preset, source, verdict, tmp_path):
    folder = tmp_path / preset
    (folder / "datasets" / "mnist_hard").mkdir(parents=True)
    set_source(folder, source)
    put_run(folder, "mist", 0, {"both": 0.975})
    frame = table("table2", make_config(preset=preset, seeds=[0]), folder)
    row = frame.loc[(HARD, "mist", "both")]
    assert (row["verdict"], row["delta"]) == (verdict, "")


def test_no_claim_is_made_from_data_of_unknown_source(results):
    put_run(results, "mist", 0, {"both": 0.975})
    (results / "datasets" / "mnist_hard" / "manifest.json").unlink()
    frame = table("table2", make_config(seeds=[0]), results)
    assert frame.loc[(HARD, "mist", "both"), "verdict"] == "no claim: the data have no manifest"


def test_markdown_has_the_papers_rows_and_columns(results):
    put_run(results, "mist", 0, {"iou50": 0.931})
    table("table2", make_config(seeds=[0]), results)
    lines = (results / "tables" / "table2.md").read_text().splitlines()
    assert lines[0].startswith("**Table 2 of the paper. Instance detection and classification")
    assert "Preset cpu; seeds 0" in lines[0]
    assert "MNIST, torchvision mirror" in lines[0]
    start = lines.index("|  | MIST | Ch.-wise | supervised |")
    rows = [line.split(" | ")[0].strip("| ") for line in lines[start + 2 : start + 8]]
    assert rows == [
        "IOU 50%",
        "IOU 50% (official)",
        "Classif.",
        "Classif. (official)",
        "Both",
        "Both (official)",
    ]
    assert lines[start + 2] == (
        "| IOU 50% | 93.1% / 97.8% (J) | not run / 25.4% | not run / 99.6% |"
    )
    assert any(line.startswith("- Reproduced: our mean is within the tolerance") for line in lines)
    assert "J not judged" in lines[2]


def test_latex_is_escaped_and_grouped(results):
    table("table3", make_config(seeds=[0]), results)
    text = (results / "tables" / "table3.tex").read_text()
    assert r"\multicolumn{2}{c}{MNIST-3 digits} & \multicolumn{2}{c}{MNIST-hard} \\" in text
    body = text.splitlines()[1:]
    assert not [line for line in body if "%" in line.replace(r"\%", "")]
    assert "_" not in text.replace(r"\_", "")
    assert text.count("{") - text.count(r"\{") == text.count("}") - text.count(r"\}")


def test_an_unknown_table_is_an_error(results):
    with pytest.raises(ValueError, match="table: 'table6' is unknown; did you mean 'table"):
        write_table("table6", make_config(), results, results / "tables")

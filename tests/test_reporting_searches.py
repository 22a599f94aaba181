"""Calibration and tuning by hand, and that the presets use nothing that was not tried."""

import json
from functools import reduce

import pytest
from test_reporting_tables import put_run

from mist_bench.config import resolve as settings
from mist_bench.config import targets
from mist_bench.config.keywords import ConfigError
from mist_bench.reporting.tables.searches import calibration_table, tuning_table
from mist_bench.reporting.tables.write import write_table


@pytest.fixture
def calibration():
    return settings.load(targets.SETTINGS, {"preset": "calibration"})


@pytest.fixture
def tuning():
    return settings.load(targets.SETTINGS, {"preset": "tuning"})


def put_score(results, experiment, method, score, seed=0, metric="both"):
    folder = results / "runs" / experiment / method / f"seed{seed}"
    folder.mkdir(parents=True)
    metrics = {"both": 0.99, "f1": 0.99} | {metric: score}
    (folder / "val_metrics.json").write_text(json.dumps({"metrics": metrics}))


def test_the_best_score_is_chosen(tuning, tmp_path):
    put_score(tmp_path, "tune_soft", "soft_topk", 0.5)
    put_score(tmp_path, "tune_medium", "soft_topk", 0.6)
    put_score(tmp_path, "tune_sharp", "soft_topk", 0.7)
    for experiment, score in (("tune_soft", 0.7), ("tune_medium", 0.8), ("tune_sharp", 0.8)):
        put_score(tmp_path, experiment, "lapsum", score)  # of equals, the first
    put_score(tmp_path, "tune_three_soft", "soft_topk", 0.9)  # of another dataset
    put_score(tmp_path, "tune_soft", "sparse_topk", 0.9)  # the other candidates have not run
    table = tuning_table(tuning, tmp_path)
    columns = ["dataset", "method", "parameter", "value", "metric", "val_score", "n", "chosen"]
    assert list(table.columns) == columns
    mine = table[(table.method == "soft_topk") & (table.dataset == "mnist_hard")]
    assert mine[["parameter", "value", "val_score", "chosen"]].to_numpy().tolist() == [
        ["epsilon", 0.1, 0.5, False],
        ["epsilon", 0.05, 0.6, False],
        ["epsilon", 0.01, 0.7, True],
    ]
    assert table[table.method == "lapsum"].chosen.tolist() == [False, True, False]
    assert table[table.method == "sparse_topk"].n.tolist() == [1, 0, 0]
    assert not table[table.method == "sparse_topk"].chosen.any()


def test_seeds_are_averaged(tuning, tmp_path):
    both = tuning.model_copy(update={"seeds": [0, 1]})
    for seed, score in enumerate((0.5, 0.8)):
        put_score(tmp_path, "tune_soft", "lapsum", score, seed=seed)
    row = tuning_table(both, tmp_path).query("method == 'lapsum'").iloc[0]
    assert (row.val_score, row.n) == (pytest.approx(0.65), 2)


def test_the_files_have_every_candidate(tuning, tmp_path):
    write_table("tuning", tuning, tmp_path, tmp_path)
    lines = (tmp_path / "tuning.csv").read_text().splitlines()
    runs = targets.table_runs(tuning, "tuning")
    assert len(lines) == 1 + len(runs)
    assert "mnist_hard,attention_sampling,entropy_weight,0.001,both,,0,False" in lines
    shown = (tmp_path / "tuning.md").read_text().splitlines()
    assert (
        "| mnist\\_hard | attention\\_sampling | entropy\\_weight | 0.001 | both |  | 0 | False |"
        in shown
    )
    assert "0.001 & both" in (tmp_path / "tuning.tex").read_text()
    assert targets.table_input("tuning") == "val_metrics.json"


@pytest.mark.parametrize("name", targets.SEARCHES)
def test_a_preset_without_candidates_is_refused(tmp_path, name):
    config = settings.load(targets.SETTINGS, {"preset": "smoke"})
    with pytest.raises(ConfigError, match=f"preset={name}"):
        write_table(name, config, tmp_path, tmp_path)


def test_one_parameter_is_tuned_at_a_time(tmp_path):
    change = {"params": {"temperature": 1, "samples": 9}}
    methods = {"perturbed_topk": {"experiments": {"tune_soft": change}}}
    config = settings.load(targets.SETTINGS, {"preset": "tuning", "methods": methods})
    with pytest.raises(ConfigError, match=r"perturbed_topk\.experiments\.tune_soft.*got 2"):
        tuning_table(config, tmp_path)


@pytest.mark.parametrize("preset", ["cpu", "paper"])
def test_the_presets_use_candidates(tuning, tmp_path, preset):
    config = settings.load(targets.SETTINGS, {"preset": preset})
    table = tuning_table(tuning, tmp_path)
    assert set(table.dataset) == {"mnist_hard", "mnist_3", "pascal_coco"}
    for (dataset, method, name), rows in table.groupby(["dataset", "method", "parameter"]):
        if (preset, method) == ("paper", "mist"):
            continue  # its keypoint step is published
        run = settings.run_spec(config, f"{dataset}_classification", method, 0)
        value = reduce(dict.__getitem__, name.split("."), run.params)
        assert value in rows.value.tolist(), (dataset, method)


def test_with_a_background_candidates_are_judged_by_f1(tuning, tmp_path):
    names = [name for name in tuning.experiments if name.startswith("tune_natural_")]
    for number, name in enumerate(names):
        put_score(tmp_path, name, "soft_topk", number / 10, metric="f1")
    rows = tuning_table(tuning, tmp_path).query("dataset == 'pascal_coco' and n > 0")
    assert set(rows.metric) == {"f1"}
    assert rows.val_score.tolist() == [number / 10 for number in range(len(names))]
    assert rows.chosen.tolist() == [False] * (len(names) - 1) + [True]


def test_the_candidate_nearest_to_the_papers_supervised_bound_comes_first(calibration, tmp_path):
    # the paper's Table 2, supervised: 99.6 %, 98.7 %, 98.6 %
    near = {"iou50": 0.986, "classification": 0.977, "both": 0.956}
    far = {"iou50": 0.896, "classification": 0.887, "both": 0.886}
    results = tmp_path / "calibration"
    put_run(results, "supervised", 0, far, experiment="calibrate_radius_18")
    put_run(results, "supervised", 0, near, experiment="calibrate_radius_16")
    table = calibration_table(calibration, results).set_index("experiment")
    assert table.index[0] == "calibrate_radius_16"
    assert table.gap.iloc[0] == pytest.approx((0.01 + 0.01 + 0.03) / 3)
    assert table.gap.iloc[1] == pytest.approx(0.1)
    assert table.loc["calibrate_radius_16", "radius"] == 16
    assert table.loc["calibrate_clipped_sum", "composite"] == "clipped_sum"
    assert table.loc["calibrate_clipped_sum", "n"] == 0

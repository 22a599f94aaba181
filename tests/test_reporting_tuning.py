"""The tuning table by hand, and that the presets use nothing that was not tried."""

import json

import pytest

from mist_bench.cli import main as cli
from mist_bench.config import resolve as settings
from mist_bench.config import targets
from mist_bench.config.resolve import ConfigError
from mist_bench.reporting.tables.tuning import tuning_table, write_tuning


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


def test_the_file_has_every_candidate(tuning, tmp_path):
    write_tuning(tuning, tmp_path, tmp_path / "tables" / "tuning.csv")
    lines = (tmp_path / "tables" / "tuning.csv").read_text().splitlines()
    candidates = [
        len(setup.methods) for name, setup in tuning.experiments.items() if name.startswith("tune_")
    ]
    assert len(lines) == 1 + sum(candidates)
    assert "mnist_hard,attention_sampling,entropy_weight,0.001,both,,0,False" in lines


def test_the_command_line_writes_it_beside_the_presets_results(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["tuning", "--preset", "tuning"]) == 0
    assert (tmp_path / "results" / "tuning" / "tables" / "tuning.csv").is_file()


def test_a_preset_without_candidates_is_refused(tmp_path):
    config = settings.load(targets.SETTINGS, {"preset": "smoke"})
    with pytest.raises(ConfigError, match="preset=tuning"):
        tuning_table(config, tmp_path)


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
        assert run.params[name] in rows.value.tolist(), (dataset, method)


def test_with_a_background_candidates_are_judged_by_f1(tuning, tmp_path):
    names = [name for name in tuning.experiments if name.startswith("tune_natural_")]
    for number, name in enumerate(names):
        put_score(tmp_path, name, "soft_topk", number / 10, metric="f1")
    rows = tuning_table(tuning, tmp_path).query("dataset == 'pascal_coco' and n > 0")
    assert set(rows.metric) == {"f1"}
    assert rows.val_score.tolist() == [number / 10 for number in range(len(names))]
    assert rows.chosen.tolist() == [False] * (len(names) - 1) + [True]

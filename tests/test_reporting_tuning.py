"""The tuning table by hand, and that the presets use nothing that was not tried."""

import pytest

from mist_bench import cli, targets
from mist_bench import config as settings
from mist_bench.config import ConfigError
from mist_bench.reporting.tuning import tuning_table, write_tuning


@pytest.fixture
def tuning():
    return settings.load(targets.SETTINGS, {"preset": "tuning"})


def put_score(results, experiment, method, *scores, seed=0):
    folder = results / "runs" / experiment / method / f"seed{seed}"
    folder.mkdir(parents=True)
    rows = [f"{step},{step / 10},{score}" for step, score in enumerate(scores, 1)]
    (folder / "val.csv").write_text("\n".join(["step,seconds,score", *rows, ""]))


def test_the_best_score_after_the_last_step_is_chosen(tuning, tmp_path):
    put_score(tmp_path, "tune_soft", "soft_topk", 0.9, 0.5)  # the best once, not at the end
    put_score(tmp_path, "tune_medium", "soft_topk", 0.6)
    put_score(tmp_path, "tune_sharp", "soft_topk", 0.7)
    for experiment, score in (("tune_soft", 0.7), ("tune_medium", 0.8), ("tune_sharp", 0.8)):
        put_score(tmp_path, experiment, "lapsum", score)  # of equals, the first
    put_score(tmp_path, "tune_soft", "sparse_topk", 0.9)  # the other candidates have not run
    table = tuning_table(tuning, tmp_path)
    assert list(table.columns) == ["method", "parameter", "value", "val_score", "n", "chosen"]
    mine = table[table.method == "soft_topk"]
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
    assert len(lines) == 1 + 3 * len(tuning.experiments["tune_soft"].methods)
    assert "attention_sampling,entropy_weight,0.001,,0,False" in lines


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
    for (method, name), rows in tuning_table(tuning, tmp_path).groupby(["method", "parameter"]):
        params = config.methods[method].params["classification"]
        assert params[name] in rows.value.tolist(), method

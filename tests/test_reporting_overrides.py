"""Runs of other settings than the preset's: not its results, and said so."""

import json

import pytest
from test_reporting_tables import HARD, put_run, set_source

from mist_bench.config import resolve as settings
from mist_bench.config import targets
from mist_bench.reporting.aggregate import changed_setting, changes_of_preset
from mist_bench.reporting.tables.write import write_table


def load(**changes):
    return settings.load(targets.SETTINGS, {"preset": "cpu", "seeds": [0], **changes})


@pytest.fixture
def results(tmp_path):
    """The folder of preset cpu with one run of 20 steps of MIST."""
    folder = tmp_path / "cpu"
    (folder / "datasets" / "mnist_hard").mkdir(parents=True)
    set_source(folder, "MNIST")
    put_run(folder, "mist", 0, {"both": 0.975})
    spec = settings.run_spec(twenty_steps(), HARD, "mist", 0)
    own = folder / "runs" / HARD / "mist" / "seed0" / "config.json"
    own.write_text(settings.canonical(spec))
    return folder


def twenty_steps():
    return load(methods={"mist": {"experiments": {HARD: {"training": {"steps": 20}}}}})


def markdown(config, results):
    write_table("table2", config, results, results / "tables")
    return (results / "tables" / "table2.md").read_text().splitlines()


def test_a_run_of_other_settings_is_not_the_presets(results):
    lines = markdown(load(), results)
    steps = settings.run_spec(load(), HARD, "mist", 0).training.steps
    reason = f"not run: seed 0: other settings: training.steps: 20 -> {steps}."
    assert f"- MIST on MNIST-hard: {reason}" in lines
    (both,) = [line for line in lines if line.startswith("| Both |")]
    assert both.startswith("| Both | not run / 97.5% |")
    assert "Changed from the preset" not in lines[0]


def test_it_is_the_result_of_its_own_settings_which_the_caption_names(results):
    lines = markdown(twenty_steps(), results)
    (both,) = [line for line in lines if line.startswith("| Both |")]
    assert both.startswith("| Both | 97.5% / 97.5% (R) |")
    assert "Changed from the preset: methods.mist.experiments" in lines[0]


def test_a_setting_that_did_not_exist_yet_is_not_another_one(results):
    spec = settings.run_spec(load(), HARD, "mist", 0)
    then = json.loads(settings.canonical(spec))
    assert changed_setting(then, spec) == ""
    del then["training"]["precision"], then["params"]["betas"]
    assert changed_setting(then, spec) == ""
    then["training"]["log_every"] += 1  # changes no result
    assert changed_setting(then, spec) == ""
    then["params"]["gone"] = 1
    assert changed_setting(then, spec) == "params.gone: 1 -> (not set)"


def test_changes_are_named_without_paths_and_lists():
    changed = load(training={"batch_size": 3}, pascal_coco={"root": "photos/mine"}, device="cpu")
    assert changes_of_preset(changed) == [
        "datasets.pascal_coco.params.root",
        f"training.batch_size: {load().training.batch_size} -> 3",
    ]
    assert changes_of_preset(changed.model_copy(update={"preset": "mine"})) == []

"""Runs of other settings than the preset's: not its results, and said so."""

import json

import pytest
from test_reporting_tables import HARD, put_run, set_source

from mist_bench.config import resolve as settings
from mist_bench.config import targets
from mist_bench.reporting.aggregate import changed_setting, changed_words, changes_of_preset
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
    steps = settings.run_spec(load(), HARD, "mist", 0).training.steps
    assert f"Changed from the preset: training.steps: {steps} -> 20 (MIST). Data" in lines[0]


def test_a_setting_that_did_not_exist_yet_is_not_another_one(results):
    spec = settings.run_spec(load(), HARD, "mist", 0)
    then = json.loads(settings.canonical(spec))
    assert changed_setting(then, spec) == ""
    del then["training"]["precision"], then["params"]["mirror"]
    assert changed_setting(then, spec) == ""
    then["training"]["log_every"] += 1  # changes no result
    assert changed_setting(then, spec) == ""
    then["params"]["gone"] = 1
    assert changed_setting(then, spec) == "params.gone: 1 -> (not set)"


def test_changes_are_those_that_reach_the_runs(tmp_path):
    natural, digits = ("pascal_coco_classification", "mist"), (HARD, "mist")
    changed = load(
        pascal_coco={"root": str(tmp_path)}, device="cpu", training={"log_every": 7, "warmup": 9}
    )
    warmup = f"training.warmup: {load().training.warmup} -> 9"
    assert changes_of_preset(changed, [digits]) == [warmup]
    assert changes_of_preset(changed, [digits, natural]) == [
        warmup,
        "datasets.pascal_coco.params.root (pascal_coco_classification)",
    ]
    assert changes_of_preset(changed.model_copy(update={"preset": "mine"}), [digits]) == []


def test_changes_name_the_methods_they_are_of():
    changed = twenty_steps()
    runs = [(HARD, "mist"), (HARD, "channelwise"), ("mnist_3_classification", "mist")]
    steps = settings.run_spec(load(), HARD, "mist", 0).training.steps
    line = f"training.steps: {steps} -> 20"
    assert changes_of_preset(changed, runs) == [f"{line} (MIST on {HARD})"]
    assert changes_of_preset(changed, runs[:2]) == [f"{line} (MIST)"]
    assert changes_of_preset(changed, runs[:1]) == [line]
    assert changes_of_preset(changed, runs[1:]) == []


def test_a_method_of_the_users_is_not_in_the_preset():
    entry = {"module": "mist_bench.mist", "label": "Mine", "experiments": {HARD: {}}}
    changed = load(methods={"mine": entry}, experiments={HARD: {"methods": ["mist", "mine"]}})
    changes = changes_of_preset(changed, [(HARD, "mist"), (HARD, "mine")])
    assert changes == ["not in the preset (Mine)"]
    assert changed_words(changed, [(HARD, "mist")]) == ""


def test_a_caption_names_three_changes():
    changed = load(training={"warmup": 9, "batch_size": 3, "final_lr": 0.5, "validate_every": 77})
    words = changed_words(changed, [(HARD, "mist")])
    assert words.startswith("Changed from the preset: training.batch_size: ")
    assert words.endswith(", 1 more. ")

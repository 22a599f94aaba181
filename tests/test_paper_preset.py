"""Every method of the paper preset trains on a CPU and goes on after a kill, bit for bit.

Its networks have their published sizes; a batch is one image, and there are two to train on.
"""

import json
import shutil

import pytest
from conftest import configuration
from spies import CODE, same_results, stop_at

from mist_bench.bench.cases import made_up
from mist_bench.config import resolve as settings
from mist_bench.datasets.files import Split, save_manifest, save_split
from mist_bench.run import record as runlog
from mist_bench.run import training
from mist_bench.run.training import train

BEFORE, AFTER = 3, 2  # steps up to the checkpoint, in the middle of an epoch, and after it
SIZES = {"train": 2, "val": 1, "test": 1}
SLOW = {  # one step each
    ("pascal_coco_classification", "mist"),  # patches of 256 x 32 x 32
    ("pascal_coco_classification", "soft_topk"),
    ("mnist_easy_reconstruction", "landmarks"),  # maps of 96 x 96 px
}


def different_runs():
    """Return one run of each method, task and set of parameters that competes somewhere."""
    config = configuration("paper")
    found = {}
    for name, experiment in config.experiments.items():
        for method in experiment.methods + experiment.rivals:
            spec = settings.run_spec(config, name, method, 0)
            found.setdefault(repr((method, spec.module, spec.params)), spec)
    return [pytest.param(one, id=f"{one.experiment}-{one.method}") for one in found.values()]


def test_all_methods_of_the_preset_are_here():
    config = configuration("paper")
    assert {case.values[0].method for case in different_runs()} == set(config.methods)


@pytest.mark.parametrize("spec", different_runs())
def test_a_resumed_run_ends_like_an_uninterrupted_one(spec, tmp_path, monkeypatch):
    before, after = (1, 1) if (spec.experiment, spec.method) in SLOW else (BEFORE, AFTER)
    steps = before + after
    budget = {"steps": steps, "batch_size": 1, "checkpoint_every": before, "log_every": 1}
    few = spec.training.model_copy(update={**budget, "validate_every": steps})
    spec = spec.model_copy(update={"training": few})
    data, work, copy = tmp_path / "data", tmp_path / "work", tmp_path / "copy"
    data.mkdir()
    entries = {
        name: save_split(data, name, Split(made_up(spec.task, size), "noise"))
        for name, size in SIZES.items()
    }
    save_manifest(data, {"name": "noise", "splits": entries})
    with monkeypatch.context() as patch:
        # what a kill in the step after the checkpoint would leave
        stop_at(patch, before + 1, lambda: shutil.copytree(work, copy), training, "make_batch")
        train(spec, data, tmp_path / "whole", work, "cpu", CODE)
    made = []
    monkeypatch.setattr(runlog, "check_finite", lambda _, step: made.append(step))
    train(spec, data, tmp_path / "resumed", copy, "cpu", CODE)
    assert set(made) == {*range(before + 1, steps + 1)}
    same_results(tmp_path / "whole", tmp_path / "resumed")
    assert json.loads((tmp_path / "resumed" / "run.json").read_text())["resumed"] == 1

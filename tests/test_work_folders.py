"""The folders of checkpoints: their names, and that only those of finished runs go."""

import json

import pytest
from filelock import FileLock
from spies import Killed, kill_hard, stop_at

from mist_bench.cli import main as cli
from mist_bench.config import resolve as settings
from mist_bench.config import targets
from mist_bench.run.work_folders import work_name

pytestmark = pytest.mark.usefixtures("here")
RUN = ("mnist_hard_classification", "mist", 0)
FACTS = {"code": {"a": "1"}, "manifest": "data", "device": "cpu"}


@pytest.fixture
def config(smoke):
    return settings.canonical(settings.run_spec(smoke, *RUN))


def finish(results, config, record):
    """Store what a finished training leaves, and its work folder."""
    folder = targets.run_folder(results, *RUN)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(config + "\n")
    (folder / "run.json").write_text(json.dumps(record))
    name = work_name(config, *FACTS.values())
    (results / "work" / name / "checkpoint").mkdir(parents=True)
    return name


def left(results):
    return {path.name for path in (results / "work").iterdir()}


def test_names_differ_in_config_code_data_and_device(config):
    names = {
        work_name(config, {"a": "1"}, "data", "cpu"),
        work_name(config.replace('"seed":0', '"seed":1'), {"a": "1"}, "data", "cpu"),
        work_name(config, {"a": "2"}, "data", "cpu"),
        work_name(config, {"a": "1"}, "other", "cpu"),
        work_name(config, {"a": "1"}, "data", "cuda"),
    }
    assert len(names) == 5
    assert all(name.startswith("mnist_hard_classification-mist-seed") for name in names)


def test_what_is_no_specification_of_a_run_has_no_name():
    with pytest.raises(ValueError, match="no specification of a run"):
        work_name("{}", {}, "data", "cpu")


def test_only_the_folder_that_the_finished_run_used_is_removed(capsys, here, config):
    results = here / "results/smoke"
    done = finish(results, config, FACTS)
    longer = config.replace('"steps":', '"steps":1')
    others = {
        work_name(longer, *FACTS.values()),  # the same run with another setting, not finished
        work_name(config, {"a": "2"}, "data", "cpu"),
        work_name(config.replace('"seed":0', '"seed":1'), *FACTS.values()),
    }
    for name in others:
        (results / "work" / name).mkdir()
    assert cli.main(["clean-work", "--preset", "smoke"]) == 0
    assert capsys.readouterr().out == "results/smoke/work: 1 removed\n"
    assert left(results) == others
    assert done not in others


def test_a_folder_in_use_stays(here, config):
    results = here / "results/smoke"
    name = finish(results, config, FACTS)
    with FileLock(results / "work" / name / "lock"):
        assert cli.main(["clean-work", "--preset", "smoke"]) == 0
        assert left(results) == {name}
    assert cli.main(["clean-work", "--preset", "smoke"]) == 0
    assert left(results) == set()


def test_a_record_of_another_kind_removes_nothing(here, config):
    results = here / "results/smoke"
    name = finish(results, config, {"status": "ok"})
    assert cli.main(["clean-work", "--preset", "smoke"]) == 0
    assert left(results) == {name}


def test_a_real_training_leaves_what_names_its_folder(
    tiny_spec, tiny_dataset, here, monkeypatch, capsys
):
    spec = tiny_spec(steps=2, validate_every=2, checkpoint_every=1)
    results = here / "results/smoke"
    arguments = ["train", "--spec", settings.canonical(spec), "--device", "cpu"]
    arguments += ["--manifest", str(tiny_dataset / "manifest.json"), "--work"]
    arguments += [str(results / "work"), "--record"]
    other = tiny_spec(steps=3, validate_every=3, checkpoint_every=1)
    with monkeypatch.context() as patch:
        stop_at(patch, 3, kill_hard)
        again = [text if text[0] != "{" else settings.canonical(other) for text in arguments]
        with pytest.raises(Killed):
            cli.main([*again, "elsewhere/run.json"])
    (unfinished,) = left(results)
    record = targets.run_folder(results, *RUN) / "run.json"
    assert cli.main([*arguments, str(record)]) == 0
    assert len(left(results)) == 2
    assert cli.main(["clean-work", "--preset", "smoke"]) == 0
    assert left(results) == {unfinished}

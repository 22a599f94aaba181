"""The time to given values of Both: by a method whose course is known, and from end to end."""

import csv
import json
import math

import pytest

from mist_bench.bench import learning
from mist_bench.bench.learning import Look, first, learn
from mist_bench.cli import main as cli

pytestmark = pytest.mark.usefixtures("torch_settings")
LOOKS = [Look(10, 1.5, 0.3, 0.4, 0.5), Look(20, 3.0, 0.9, 0.9, 0.9), Look(30, 4.5, 0.7, 0.8, 0.8)]


def test_the_first_look_that_saw_a_value_counts():
    assert first(LOOKS, 0.3) == 1.5
    assert first(LOOKS, 0.31) == 3.0
    assert first(LOOKS, 0.9) == 3.0
    assert math.isnan(first(LOOKS, 0.91))


@pytest.fixture
def watched(monkeypatch, clock):
    """A function that makes the looks of a spy's training: a step takes 2 s, Both grows by .1."""

    def watch(spy, spec, data, every, **options):
        original = learning.training.make_batch
        monkeypatch.setattr(learning.time, "process_time", lambda: clock[0])

        def make_batch(*arguments):
            clock[0] += 2
            return original(*arguments)

        def compute(*_):
            clock[0] += 1000  # a look is not training
            return dict.fromkeys(learning.METRICS, round(0.1 * int(spy.count), 6))

        monkeypatch.setattr(learning.training, "make_batch", make_batch)
        monkeypatch.setattr(learning, "compute", compute)
        monkeypatch.setattr(learning, "EVERY", every)
        return learn(spec, data, **options)

    return watch


@pytest.mark.parametrize(
    ("until", "limit", "steps"),
    [(0.4, 99, [2, 4]), (0.31, 99, [2, 4]), (1.0, 7, [2, 4]), (1.0, 9, [2, 4, 5])],
)
def test_training_ends_at_the_goal_or_at_the_limit(
    spy, spy_spec, tiny_dataset, watched, until, limit, steps
):
    looks = watched(spy, spy_spec(), tiny_dataset, until=until, every=2, limit=limit)
    assert [look.step for look in looks] == steps
    assert [look.seconds for look in looks] == [2 * step for step in steps]
    assert len(spy.batches) == steps[-1]


def test_the_schedule_is_that_of_the_whole_run(spy, spy_spec, tiny_dataset, watched):
    spec = spy_spec(steps=12, warmup=4)
    watched(spy, spec, tiny_dataset, until=0.6, every=1, limit=99)
    expected = [0.1 * learning.training.schedule(step, spec.training) for step in range(1, 7)]
    assert spy.rates == pytest.approx(expected)


def test_the_command_writes_curve_times_record_and_picture(tmp_path, digit_folder, capsys):
    options = ["--preset", "smoke", "--reach", ".01", ".999", "--limit", "1"]
    assert cli.main(["bench", "learning", "--out", str(tmp_path / "out"), *options]) == 0
    out = tmp_path / "out"
    with (out / "learning.csv").open() as file:
        rows = {row["stage"]: row for row in csv.DictReader(file)}
    assert list(rows) == ["1%", "99.9%", "last", "process"]
    with (out / "learning_curve.csv").open() as file:
        looks = list(csv.DictReader(file))
    assert float(looks[-1]["both"]) == float(rows["last"]["value"])
    assert all(float(look["seconds"]) > 0 for look in looks)
    assert json.loads((out / "learning.json").read_text())["spec"]["method"] == "mist"
    assert (out / "learning.png").read_bytes()[1:4] == b"PNG"
    assert "peak_memory" in capsys.readouterr().out


def test_what_cannot_be_timed_is_refused(tmp_path, capsys):
    command = ["bench", "learning", "--out", str(tmp_path / "out"), "--experiment"]
    assert cli.main([*command, "mnist_hard_reconstruction"]) != 0
    assert "only the learning of a classification of images is timed" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    with pytest.raises(SystemExit):
        cli.main([*command, "mnist_hard_classification", "--reach", "1.5"])

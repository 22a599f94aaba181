"""The benchmarks: instruments by hand, the official step as an oracle, files from tiny sizes."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest

from mist_bench.bench import cases, plots, records, scaling, stages, steps, timing
from mist_bench.bench.cases import made_up, made_up_predictions
from mist_bench.bench.records import Row, spread
from mist_bench.bench.runner import rows_text, run, write_rows
from mist_bench.bench.timing import Case
from mist_bench.cli import main as cli
from mist_bench.config import resolve as settings
from mist_bench.config import targets
from mist_bench.config.files import merge
from mist_bench.types import TaskSpec

pytestmark = pytest.mark.usefixtures("torch_settings")
HARD = "mnist_hard_classification"
TINY = TaskSpec("classification", (1, 48, 48), num_instances=2, num_classes=10, box_size=8.0)
SMALL = {"detector": {"channels": 4}, "classifier": {"channels": 2}}


def small_spec(preset, **params):
    """Return a preset's MIST on images of 48 px, with networks of a few channels."""
    spec = cases.read_spec(preset, HARD, "mist")[1]
    training = spec.training.model_copy(update={"batch_size": 2})
    params = merge(merge(spec.params, SMALL), params)
    return spec.model_copy(update={"task": TINY, "params": params, "training": training})


@pytest.fixture
def tiny_presets(monkeypatch):
    """Every preset is read with its sizes cut down; the slow instruments are replaced."""
    original = cases.read_spec
    small = {name: small_spec(name) for name in ("smoke", "cpu", "paper")}

    def read_spec(preset, experiment, method):
        config, spec = original(preset, experiment, method)
        return config, small[preset] if method == "mist" else spec

    def memory_growth(run):
        run()
        return 1.0

    for module in (cases, stages, steps, scaling):
        monkeypatch.setattr(module, "read_spec", read_spec)
    for module in (stages, scaling):
        monkeypatch.setattr(module, "memory_growth", memory_growth)
    monkeypatch.setattr(stages, "peak_flops", lambda: timing.peak_flops(repeats=3, side=64))
    monkeypatch.setattr(stages, "SCENES", 4)


def read_csv(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_what_is_made_up_has_the_sizes_of_the_task():
    task = TaskSpec("classification", (3, 40, 30), num_instances=4, num_classes=7, box_size=9.0)
    split = made_up(task, 50)
    assert split["images"].shape == (50, 3, 40, 30)
    assert split["boxes"].shape == (50, 4, 4)
    x, y = split["boxes"][..., 0], split["boxes"][..., 1]
    assert min(x.min(), y.min()) >= 0
    assert 20 < x.max() <= 29 < y.max() <= 39
    found = made_up_predictions(task, split)
    assert found["labels"].max() == 6
    assert 0.5 < (found["labels"] == split["labels"]).mean() < 1
    assert (found["boxes"] != split["boxes"]).any()
    features = made_up(replace(task, image_size=(4, 5, 6)), 2)["images"]
    assert (features.dtype, features.max() <= 1) == (np.float16, True)


# files


def test_stages_write_what_they_measure(tiny_presets, tmp_path):
    options = {"preset": "smoke", "experiment": HARD, "method": "mist", "repeats": 2, "only": []}
    text = run("stages", tmp_path, **options, against="keypoints.lr=1")
    stored = read_csv(tmp_path / "stages.csv")
    assert list(stored[0]) == ["stage", "quantity", "value", "unit", "n", "min", "max"]
    assert [row["stage"] for row in stored] == [line.split()[0] for line in text.splitlines()]
    values = {(row["stage"], row["quantity"]): row for row in stored}
    timed = [stage for stage, quantity in values if quantity == "wall_time"]
    assert timed == [
        *("data", "heatmap", "selection", "sampling", "update_task", "update_keypoints"),
        *("update_detector", "train_step", "prediction", "evaluation", "table"),
    ]
    for stage in timed:
        row = values[stage, "wall_time"]
        assert 0 < float(row["min"]) <= float(row["value"]) <= float(row["max"])
    step = values["train_step", "image_rate"]
    assert float(step["value"]) == pytest.approx(
        2 * float(values["train_step", "step_rate"]["value"]), rel=1e-5
    )
    # a pass to find keypoints and one to learn from; one for tau, whose gradient moves them too
    passes = ("heatmap", "heatmap", "update_task", "update_detector")
    parts = [float(values[stage, "operations"]["value"]) for stage in passes]
    assert float(values["train_step", "operations"]["value"]) == pytest.approx(sum(parts), rel=1e-4)
    pairs = read_csv(tmp_path / "stages_pairs.csv")
    assert [row["first"] for row in pairs] == ["keypoints.lr=1"] * 2
    for row in pairs:
        ratio = float(row["first_wall"]) / float(row["second_wall"])
        assert float(row["ratio"]) == pytest.approx(ratio, rel=1e-4)
    middle = sum(float(row["ratio"]) for row in pairs) / 2
    assert float(values["keypoints.lr=1/smoke", "wall_ratio"]["value"]) == pytest.approx(
        middle, rel=1e-4
    )
    record = json.loads((tmp_path / "stages.json").read_text())
    assert (record["threads"], record["spec"]["method"]) == (1, "mist")
    assert (tmp_path / "stages.png").read_bytes().startswith(b"\x89PNG")


def test_chosen_stages_alone_and_a_preset_against_itself(tiny_presets):
    options = {"preset": "cpu", "experiment": HARD, "method": "mist", "repeats": 1}
    found = stages.bench_stages(**options, only=["data"], against="cpu")
    assert {row.stage for row in found.rows} == {"core", "data", "process", "cpu again/cpu"}


def test_the_official_comparison_has_every_pair(tiny_presets, tmp_path):
    run("official", tmp_path, repeats=2)
    pairs = read_csv(tmp_path / "official_pairs.csv")
    assert [(row["first"], row["second"], row["pair"]) for row in pairs] == [
        *[("official", "paper", "1"), ("official", "paper", "2")],
        *[("official", "cpu", "1"), ("official", "cpu", "2")],
        *[("paper", "cpu", "1"), ("paper", "cpu", "2")],
    ]
    assert all(float(row["ratio"]) > 0 and float(row["cpu_ratio"]) > 0 for row in pairs)
    rows = read_csv(tmp_path / "official.csv")
    operations = {r["stage"]: float(r["value"]) for r in rows if r["quantity"] == "operations"}
    assert operations["official"] > operations["paper"] > operations["cpu"]


def test_the_steps_of_all_methods_are_timed_in_turn(tmp_path, monkeypatch):
    held = []

    def grow(run):  # a step really holds something, and each is measured three times
        held.append(run())
        return 10.0 + len(held)

    monkeypatch.setattr(steps, "memory_growth", grow)
    run("methods", tmp_path, preset="smoke", experiment=HARD, repeats=1)
    found = {(row["stage"], row["quantity"]): row for row in read_csv(tmp_path / "methods.csv")}
    setup = settings.load(targets.SETTINGS, {"preset": "smoke"}).experiments[HARD]
    names = [stage for stage, quantity in found if quantity == "cpu_time"]
    assert names == [*setup.methods, *setup.rivals]
    assert {found[name, "cpu_time"]["n"] for name in names} == {"1"}
    assert found["mist", "memory_growth"]["value"] == "12"
    assert found["mist", "memory_growth"]["n"] == "3"
    assert len(held) == 3 * len(names)
    assert set(json.loads((tmp_path / "methods.json").read_text())["specs"]) == set(names)
    assert (tmp_path / "methods.png").stat().st_size > 0


def test_ratios_are_per_image(clock):
    def wait(seconds):
        clock[0] += seconds

    cases = {"a": Case("", lambda: wait(6), 2), "b": Case("", lambda: wait(3), 4)}
    timings, pairs = steps.compare(cases, repeats=2)
    # 3 s against .75 s an image
    assert pairs == [records.Pair(i, "a", "b", 6, 3, 4, 4) for i in (1, 2)]
    assert timings["b"].wall == (3, 3)
    assert steps.pair_rows(pairs)[0] == Row("a/b", "wall_ratio", 4, "", 2, 4, 4)


def test_scaling_skips_what_takes_too_long(tiny_presets, tmp_path, monkeypatch):
    monkeypatch.setattr(scaling, "LAYOUTS", 4)
    monkeypatch.setattr(scaling, "SCENES", 4)
    monkeypatch.setattr(scaling, "WIDE", 64)
    sizes = {"instances": (1, 2), "canvas": (48, 64), "images": (4, 10**9)}
    monkeypatch.setattr(scaling, "SIZES", sizes)
    run("scaling", tmp_path, preset="smoke", repeats=1)
    stored = read_csv(tmp_path / "scaling.csv")
    assert list(stored[0]) == [
        *("axis", "size", "operation", "quantity", "value", "unit", "n", "min", "max", "status"),
    ]
    skipped = [row for row in stored if row["status"] != "ok"]
    assert {row["axis"] for row in skipped} == {"images"}
    assert all(row["value"] == "" and "limit 20 s" in row["status"] for row in skipped)
    fits = [row for row in stored if row["quantity"] == "exponent of cpu_time"]
    fitted = {(row["axis"], row["operation"]) for row in fits}
    assert {("instances", "train_step"), ("canvas", "prediction")} <= fitted
    assert not [axis for axis, _ in fitted if axis == "images"]
    assert (tmp_path / "scaling.png").read_bytes().startswith(b"\x89PNG")


def test_numbers_in_a_csv_are_short(tmp_path):
    rows = [spread("a", "b", [0.1, 1 / 3, 4.0], "s"), Row("a", "c", 2.0)]
    write_rows(tmp_path / "rows.csv", rows)
    assert (tmp_path / "rows.csv").read_text().splitlines()[1:] == [
        "a,b,0.333333,s,3,0.1,4",
        "a,c,2,,1,,",
    ]
    assert "n=3 [0.1, 4]" in rows_text(rows)


def test_a_plot_shows_every_stage():
    rows = [spread(stage, name, [1e-3]) for stage in "ab" for name in ("wall_time", "cpu_time")]
    figure = plots.draw_stages(rows)
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["a", "b"]


# errors


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--preset", "cpuu"], "did you mean 'cpu'?"),
        (["--experiment", "mnist_hard"], "experiment: 'mnist_hard' is unknown"),
        (["--method", "misst"], "did you mean 'mist'?"),
        (["--preset", "smoke", "--only", "samplin"], "did you mean 'sampling'?"),
        (["--against", "papr"], "did you mean 'paper'?"),
        (["--against", "detector.strid=2"], "did you mean 'stride'?"),
        (["--against", "detector.stride=3"], "detector.stride"),
        (["--experiment", "mnist_hard_reconstruction"], "classification alone"),
    ],
)
def test_a_wrong_name_is_one_line(capsys, tmp_path, monkeypatch, arguments, words):
    monkeypatch.setattr(stages, "peak_flops", lambda: {"none": 1.0})
    out = tmp_path / "out"
    assert cli.main(["bench", "stages", "--out", str(out), *arguments]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert words in lines[0]
    assert not out.exists()


@pytest.mark.parametrize("repeats", ["0", "many"])
def test_repeats_are_a_positive_number(capsys, repeats):
    with pytest.raises(SystemExit, match="2"):
        cli.main(["bench", "official", "--out", "out", "--repeats", repeats])
    assert "--repeats" in capsys.readouterr().err


def test_a_variant_changes_one_key():
    spec = cases.read_spec("cpu", HARD, "mist")[1]
    changed = cases.variant("detector.stride=2", spec)
    assert changed.params["detector"] == {**spec.params["detector"], "stride": 2}
    assert changed.params | {"detector": None} == spec.params | {"detector": None}
    assert cases.variant("keypoints.lr=1e-3", spec).params["keypoints"]["lr"] == 0.001
    assert cases.variant("keypoints.clip=null", spec).params["keypoints"]["clip"] is None


def test_the_options_are_those_of_the_benchmarks(tmp_path, monkeypatch, capsys):
    given = {}

    def bench_official(**options):
        given.update(options)
        return records.Result([spread("a", n, [1.0]) for n in ("wall_time", "cpu_time")], {}, "a")

    monkeypatch.setattr(steps, "bench_official", bench_official)
    out = tmp_path / "out"
    assert cli.main(["bench", "official", "--out", str(out), "--repeats", "2"]) == 0
    assert given == {"repeats": 2}
    assert capsys.readouterr().out.splitlines()[0].startswith("a ")
    assert {path.name for path in out.iterdir()} == {
        *("official.csv", "official.json", "official.png")
    }

"""The benchmarks: instruments by hand, the official step as an oracle, files from tiny sizes."""

import csv
import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st
from torch import nn

from mist_bench import cli, targets
from mist_bench import config as settings
from mist_bench.bench import command, compare, plots, scaling, stages, timing
from mist_bench.bench.cases import Setup, make_predictions, make_scenes
from mist_bench.bench.official import OfficialStep, gather_patches, square_softmax, square_top_k
from mist_bench.bench.records import Row, rows_text, spread, write_rows
from mist_bench.bench.timing import Case
from mist_bench.models.sampler import sample_patches
from mist_bench.models.selection import local_spatial_softmax, to_keypoints, top_k
from mist_bench.prediction import build_method
from mist_bench.types import TaskSpec

CPU = torch.device("cpu")
TINY = TaskSpec("classification", (1, 48, 48), num_instances=2, num_classes=10, box_size=8.0)
SMALL = {"detector_channels": 4, "classifier_channels": 2}


@pytest.fixture(scope="module", autouse=True)
def torch_settings():
    """A benchmark sets threads and determinism for its process; tests after it need theirs."""
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    timing.count_flops(Case("", lambda: torch.zeros(1)))  # its first use imports for two seconds
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)


def small_spec(preset, **params):
    """Return a preset's MIST on images of 48 px, with networks of a few channels."""
    spec = compare.read_spec(preset, "mnist_hard_classification", "mist")[1]
    training = spec.training.model_copy(update={"batch_size": 2})
    params = spec.params | SMALL | params
    return spec.model_copy(update={"task": TINY, "params": params, "training": training})


@pytest.fixture
def tiny_presets(monkeypatch):
    """Every preset is read with its sizes cut down; the slow instruments are replaced."""
    original = compare.read_spec
    specs = {name: small_spec(name) for name in ("smoke", "cpu", "paper")}

    def read_spec(preset, experiment, method):
        config, spec = original(preset, experiment, method)
        return config, specs[preset] if method == "mist" else spec

    def memory_growth(run):
        run()
        return 1.0

    for module in (compare, stages, scaling):
        monkeypatch.setattr(module, "read_spec", read_spec)
    for module in (stages, scaling):
        monkeypatch.setattr(module, "memory_growth", memory_growth)
    monkeypatch.setattr(stages, "peak_flops", lambda: timing.peak_flops(repeats=3, side=64))


def read_csv(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


# instruments


def test_the_operations_of_a_convolution_by_hand():
    """5 images, 3 to 7 channels, 3x3 taps, 10x12 outputs, 2 operations per product."""
    maps, weight = torch.rand(5, 3, 12, 14), torch.rand(7, 3, 3, 3)
    assert timing.count_flops(Case("", lambda: F.conv2d(maps, weight))) == 5 * 7 * 120 * 27 * 2


def test_the_operations_of_a_backward_pass_are_counted_also_by_autograd_grad():
    """A linear layer of 4 to 5 on 3 rows: once forward, once for the input's gradient."""
    layer, rows = nn.Linear(4, 5, bias=False), torch.rand(3, 4, requires_grad=True)
    case = Case("", lambda: torch.autograd.grad(layer(rows).sum(), rows))
    assert timing.count_flops(case) == 2 * (3 * 4 * 5 * 2)


def test_elementwise_work_is_not_counted():
    assert timing.count_flops(Case("", lambda: torch.rand(9).exp().sum())) == 0


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still unless the test moves it; the processor's runs half as fast."""
    now = [0.0]
    clocks = SimpleNamespace(perf_counter=lambda: now[0], process_time=lambda: now[0] / 2)
    monkeypatch.setattr(timing, "time", clocks)
    return now


def test_neither_the_first_call_nor_preparation_is_timed(clock):
    durations = iter([50.0, 1.0, 2.0, 4.0])

    def run():
        clock[0] += next(durations)

    def prepare():
        clock[0] += 100

    found = timing.measure(Case("", run, prepare=prepare), repeats=3, limit=60)
    assert found == timing.Timing((1, 2, 4), (0.5, 1, 2))


def test_no_call_begins_after_the_limit(clock):
    def run():
        clock[0] += 10

    assert len(timing.measure(Case("", run), repeats=99, limit=45).wall) == 5


@pytest.mark.parametrize(("repeats", "calls"), [(9, 3), (2, 2)])
def test_a_spent_limit_leaves_three_calls(repeats, calls):
    assert len(timing.measure(Case("", int), repeats=repeats, limit=0).wall) == calls


def test_cases_alternate():
    made = []
    cases = [Case(name, lambda name=name: made.append(name)) for name in "ab"]
    timing.alternate(cases, repeats=2, limit=60)
    assert made == list("ababab")


def test_the_core_is_measured_by_both_operators():
    peak = timing.peak_flops(repeats=3, side=64)
    assert set(peak) == {"matrix_product", "convolution"}
    assert min(peak.values()) > 1e6


@pytest.mark.skipif(not timing.CLEAR.exists(), reason="Linux only")
def test_memory_growth_is_the_height_not_the_rest():
    def run():
        del [bytearray(b"1") * 50_000_000][0]

    assert 47 < timing.memory_growth(run) < 60  # 50 MB are 47.7 MiB


def test_memory_growth_is_left_out_where_the_system_cannot_say(monkeypatch, tmp_path):
    monkeypatch.setattr(timing, "CLEAR", tmp_path / "none" / "clear_refs")
    assert timing.memory_growth(int) is None


def test_a_fitted_exponent_by_hand():
    assert scaling.fit_exponent([1, 10, 100], [3, 300, 30_000]) == pytest.approx(2)
    # two points: log10(11 / 2)
    assert scaling.fit_exponent([1, 10], [2, 11]) == pytest.approx(math.log10(5.5))


def test_exponents_of_all_and_of_the_last_two_points():
    def point(size, value):
        return scaling.Point("images", size, "batch", "cpu_time", value, "s", 3)

    fits = scaling.exponents([point(1, 1), point(10, 1), point(100, 100), point(1000, None)])
    assert [(fit.quantity, fit.n) for fit in fits] == [
        ("exponent of cpu_time", 3),
        ("last exponent of cpu_time", 2),
    ]
    # least squares over log sizes -1, 0, 1 about their mean: (2 - 0) / 2
    assert [fit.value for fit in fits] == pytest.approx([1, 2])


# the official step


@given(seed=st.integers(0, 999), channels=st.sampled_from([1, 3]))
@hypothesis(max_examples=15, deadline=None)
def test_gathering_equals_the_sampler_in_values_and_gradients(seed, channels):
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(2, channels, 9, 12, dtype=torch.float64, generator=generator)
    unit = torch.rand(2, 3, 4, dtype=torch.float64, generator=generator)
    scale, shift = torch.tensor([[24.0, 18, 9, 9], [-6, -4.5, 1, 1]], dtype=torch.float64)
    boxes = unit * scale + shift  # also outside
    boxes[0] = boxes[0].round()  # samples on the pixels' centers
    boxes.requires_grad_()
    weights = torch.rand(2, 3, channels, 5, 5, dtype=torch.float64, generator=generator)
    patches = [sample(images, boxes, 5) for sample in (gather_patches, sample_patches)]
    torch.testing.assert_close(*patches)
    grads = [torch.autograd.grad((one * weights).sum(), boxes)[0] for one in patches]
    torch.testing.assert_close(*grads)


def test_gathering_by_hand():
    image = torch.tensor([[[[0.0, 1.0, 2.0], [10.0, 11.0, 12.0], [20.0, 21.0, 22.0]]]])
    # samples at x = .5 and 2.5, y = 1 and 2: half of the last column's neighbor is outside
    patch = gather_patches(image, torch.tensor([[[1.5, 1.5, 2.0, 1.0]]]), 2)
    assert patch.tolist() == [[[[[10.5, 6.0], [20.5, 11.0]]]]]


def test_square_windows_give_what_separable_ones_do():
    logits = torch.randn(2, 20, 22, dtype=torch.float64)
    expected = local_spatial_softmax(logits, 5, 10.0, maximum="global")
    torch.testing.assert_close(square_softmax(logits, 5, 10.0), expected)
    index, _ = top_k(expected, 3, 5)
    torch.testing.assert_close(square_top_k(expected, 3, 5), to_keypoints(index, 22))


def test_the_official_step_makes_the_updates_of_mist():
    spec = small_spec("paper", keypoint_lr=3)
    setups = [Setup(spec, 2), Setup(spec, 2)]
    for setup in setups:  # Adam's first step would only show the sign of a gradient
        for name, module in (("detector", "detector"), ("task", "classifier")):
            weights = getattr(setup.method, module).parameters()
            setup.method.optimizers[name] = torch.optim.SGD(weights, lr=0.1)
    before = {name: value.clone() for name, value in setups[0].method.state_dict().items()}
    logged = OfficialStep(setups[0].method)(setups[0].batch)
    scalars = setups[1].method.train_step(setups[1].batch)
    assert logged == pytest.approx(scalars["loss"], rel=0.2)  # before and after the keypoints move
    assert 0.01 < scalars["keypoint_shift"] < 2  # off the start, not out of the image
    after, expected = (setup.method.state_dict() for setup in setups)
    for name, value in after.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-5)
    moved = {name.split(".")[0] for name, value in after.items() if (value != before[name]).any()}
    assert moved == {"detector", "classifier"}


def test_another_recipe_is_not_called_official():
    with pytest.raises(ValueError, match="as in the preset 'paper'"):
        OfficialStep(build_method(small_spec("cpu"), CPU))


# cases


def test_scenes_have_the_sizes_of_the_task():
    task = TaskSpec("classification", (3, 40, 30), num_instances=4, num_classes=7, box_size=9.0)
    split = make_scenes(np.random.default_rng(0), 5, task)
    assert split["images"].shape == (5, 3, 40, 30)
    x, y = split["boxes"][..., 0], split["boxes"][..., 1]
    assert (x.min(), y.min()) >= (4, 4)
    assert (x.max(), y.max()) <= (25, 35)
    for image, (cx, cy, _, _) in zip(split["images"], split["boxes"][:, 0], strict=True):
        assert image[0, int(cy) - 4 : int(cy) + 5, int(cx) - 4 : int(cx) + 5].mean() > 50
    found = make_predictions(np.random.default_rng(0), split, task)
    assert found["labels"].max() < 7
    assert (found["boxes"] != split["boxes"]).any()


# files


def test_stages_write_what_they_measure(tiny_presets, tmp_path):
    rows = stages.bench_stages(
        tmp_path,
        preset="smoke",
        experiment="mnist_hard_classification",
        method="mist",
        repeats=2,
        against="keypoint_lr=1",
        images=4,
    )
    stored = read_csv(tmp_path / "stages.csv")
    assert list(stored[0]) == ["stage", "quantity", "value", "unit", "n", "min", "max"]
    assert [row["stage"] for row in stored] == [row.stage for row in rows]
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
    # one pass for tau, whose gradient moves the keypoints too
    parts = [float(values[s, "operations"]["value"]) for s in ("heatmap", "update_task")]
    parts.append(float(values["update_detector", "operations"]["value"]))
    assert float(values["train_step", "operations"]["value"]) == pytest.approx(sum(parts), rel=1e-4)
    pairs = read_csv(tmp_path / "stages_pairs.csv")
    assert [row["first"] for row in pairs] == ["keypoint_lr=1"] * 2
    for row in pairs:
        ratio = float(row["first_wall"]) / float(row["second_wall"])
        assert float(row["ratio"]) == pytest.approx(ratio, rel=1e-4)
    middle = sum(float(row["ratio"]) for row in pairs) / 2
    assert float(values["keypoint_lr=1/smoke", "wall_ratio"]["value"]) == pytest.approx(
        middle, rel=1e-4
    )
    record = json.loads((tmp_path / "stages.json").read_text())
    assert (record["threads"], record["spec"]["method"]) == (1, "mist")
    assert (tmp_path / "stages.png").read_bytes().startswith(b"\x89PNG")


def test_chosen_stages_alone_and_a_preset_against_itself(tiny_presets, tmp_path):
    rows = stages.bench_stages(
        tmp_path,
        preset="cpu",
        experiment="mnist_hard_classification",
        method="mist",
        repeats=1,
        only=["data"],
        against="cpu",
        images=4,
    )
    assert {row.stage for row in rows} == {"core", "data", "process", "cpu again/cpu"}


def test_the_official_comparison_has_every_pair(tiny_presets, tmp_path):
    rows = compare.bench_official(tmp_path, repeats=2)
    pairs = read_csv(tmp_path / "official_pairs.csv")
    assert [(row["first"], row["second"], row["pair"]) for row in pairs] == [
        *[("official", "paper", "1"), ("official", "paper", "2")],
        *[("official", "cpu", "1"), ("official", "cpu", "2")],
        *[("paper", "cpu", "1"), ("paper", "cpu", "2")],
    ]
    assert all(float(row["ratio"]) > 0 and float(row["cpu_ratio"]) > 0 for row in pairs)
    operations = {row.stage: row.value for row in rows if row.quantity == "operations"}
    assert operations["official"] > operations["paper"] > operations["cpu"]


def test_ratios_are_per_image(clock):
    def run(seconds):
        clock[0] += seconds

    cases = {"a": Case("", lambda: run(6), 2), "b": Case("", lambda: run(3), 4)}
    timings, pairs = compare.compare(cases, repeats=2)
    # 3 s against .75 s an image
    assert pairs == [compare.Pair(i, "a", "b", 6, 3, 4, 4) for i in (1, 2)]
    assert timings["b"].wall == (3, 3)
    assert compare.pair_rows(pairs)[0] == Row("a/b", "wall_ratio", 4, "", 2, 4, 4)


def test_scaling_skips_what_takes_too_long(tiny_presets, tmp_path, monkeypatch):
    monkeypatch.setattr(scaling, "LAYOUTS", 4)
    monkeypatch.setattr(scaling, "SCENES", 4)
    monkeypatch.setattr(scaling, "WIDE", 64)
    sizes = {"instances": (1, 2), "canvas": (48, 64), "images": (4, 10**9)}
    points = scaling.bench_scaling(tmp_path, preset="smoke", repeats=1, sizes=sizes, limit=20)
    stored = read_csv(tmp_path / "scaling.csv")
    assert list(stored[0]) == [
        *("axis", "size", "operation", "quantity", "value", "unit", "n", "min", "max", "status"),
    ]
    skipped = [row for row in stored if row["status"] != "ok"]
    assert {row["axis"] for row in skipped} == {"images"}
    assert all(row["value"] == "" and "limit 20 s" in row["status"] for row in skipped)
    fitted = {(p.axis, p.operation) for p in points if p.quantity == "exponent of cpu_time"}
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
    figure = plots.draw_stages(rows, "a machine")
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
        (["--against", "heatmap_strid=2"], "did you mean 'heatmap_stride'?"),
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


def test_the_command_line_hands_everything_over(capsys, tmp_path, monkeypatch):
    given = {}

    def record(out, **options):
        given[out.name] = options
        return []

    for kind in ("stages", "official", "scaling"):
        monkeypatch.setattr(command, f"bench_{kind}", record)
    for kind in ("stages", "official", "scaling"):
        assert cli.main(["bench", kind, "--out", str(tmp_path / kind), "--repeats", "2"]) == 0
    assert given["official"] == {"repeats": 2}
    assert given["scaling"] == {"repeats": 2, "preset": "cpu"}
    assert given["stages"]["only"] == []
    assert given["stages"]["experiment"] in settings.load(targets.SETTINGS).experiments

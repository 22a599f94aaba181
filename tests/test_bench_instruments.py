"""What the benchmarks measure with, by hand, and the official step, against this suite's."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st
from torch import nn

from mist_bench.bench import records, timing
from mist_bench.bench.cases import Setup
from mist_bench.bench.timing import Case
from mist_bench.models.sampler import sample_patches
from mist_bench.models.selection import local_spatial_softmax, to_keypoints, top_k
from mist_bench.official.step import OfficialStep, gather_patches, square_softmax, square_top_k
from mist_bench.run.method import build_method
from tests.test_bench import small_spec

pytestmark = pytest.mark.usefixtures("torch_settings")
CPU = torch.device("cpu")


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


def test_neither_the_first_call_nor_preparation_is_timed(clock):
    durations = iter([50.0, 1.0, 2.0, 4.0])

    def run():
        clock[0] += next(durations)

    def prepare():
        clock[0] += 100

    (found,) = timing.alternate([Case("", run, prepare=prepare)], repeats=3, limit=60)
    assert found == timing.Timing((1, 2, 4), (0.5, 1, 2))


def test_no_call_begins_after_the_limit(clock):
    def run():
        clock[0] += 10

    assert len(timing.alternate([Case("", run)], repeats=99, limit=45)[0].wall) == 5


@pytest.mark.parametrize(("repeats", "calls"), [(9, 3), (2, 2)])
def test_a_spent_limit_leaves_three_calls(repeats, calls):
    assert len(timing.alternate([Case("", int)], repeats=repeats, limit=0)[0].wall) == calls


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


def test_exponents_of_all_and_of_the_last_two_points():
    def point(size, value):
        return records.Point("images", size, "batch", "cpu_time", value, "s", 3)

    fits = records.exponents([point(1, 1), point(10, 1), point(100, 100), point(1000, None)])
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
    spec = small_spec("paper", keypoints={"lr": 3})
    setups = [Setup(spec), Setup(spec)]
    for setup in setups:  # Adam's first step would only show the sign of a gradient
        for name, module in (("detector", "detector"), ("task", "head")):
            weights = getattr(setup.method, module).parameters()
            setup.method.optimizers[name] = torch.optim.SGD(weights, lr=0.1)
    before = {name: value.clone() for name, value in setups[0].method.state_dict().items()}
    logged = OfficialStep(setups[0].method)(setups[0].batch())
    scalars = setups[1].method.train_step(setups[1].batch())
    # before and after the keypoints move
    assert logged == pytest.approx(scalars["loss"].item(), rel=0.2)
    assert 0.01 < scalars["keypoint_shift"] < 2  # off the start, not out of the image
    after, expected = (setup.method.state_dict() for setup in setups)
    for name, value in after.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-5)
    moved = {name.split(".")[0] for name, value in after.items() if (value != before[name]).any()}
    assert moved == {"detector", "head"}


def test_another_recipe_is_not_called_official():
    with pytest.raises(ValueError, match="as in the preset 'paper'"):
        OfficialStep(build_method(small_spec("cpu"), CPU))

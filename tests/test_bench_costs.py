"""What a step or an image costs, by a clock that the test moves."""

import sys
from dataclasses import replace
from types import ModuleType

import pytest
import torch
from conftest import TINY, tiny_arrays
from torch import nn

from mist_bench.backbones import resnet
from mist_bench.bench.cases import made_up
from mist_bench.bench.timing import Case
from mist_bench.config import resolve as settings
from mist_bench.config import targets
from mist_bench.datasets.files import Split, check_arrays
from mist_bench.forecast import costs
from mist_bench.types import Prediction

pytestmark = pytest.mark.usefixtures("torch_settings")
CPU = torch.device("cpu")


def moving(clock, seconds):
    """Return a call that takes the next of ``seconds`` on the clock, and the list of its calls."""
    calls, left = [], iter(seconds)

    def run():
        clock[0] += next(left)
        calls.append(clock[0])

    return run, calls


@pytest.fixture(scope="module")
def paper():
    return settings.load(targets.SETTINGS, {"preset": "paper"})


def test_the_first_two_calls_do_not_count(clock):
    run, calls = moving(clock, [5, 4, 1, 1, 1, 1])
    timing = costs.time_calls(Case("", run), calls=4, limit=100)
    assert timing.wall == (1, 1, 1, 1)
    assert len(calls) == 6


def test_a_slow_call_is_timed_once(clock):
    run, calls = moving(clock, [8])
    timing = costs.time_calls(Case("", run), calls=4, limit=11)  # 3 x 8 / 2 of the processor
    assert (timing.wall, timing.cpu, len(calls)) == ((8,), (4,), 1)


def test_calls_end_when_the_time_is_over(clock):
    run, _ = moving(clock, [2] * 9)
    assert len(costs.time_calls(Case("", run), calls=20, limit=9).wall) == 5  # begun within 9 s


def test_the_processor_counts_unless_a_gpu_works(clock):
    run, _ = moving(clock, [1, 1, 1, 3])
    timing = costs.time_calls(Case("", run), calls=2, limit=100)
    assert costs.mean_of(timing, gpu=False) == 1
    assert costs.mean_of(timing, gpu=True) == 2


def test_made_up_splits_are_valid():
    split = made_up(replace(TINY, num_classes=0), 3)
    check_arrays(split, "made up")
    assert (split["labels"] == 0).all()


def test_a_run_costs_its_steps_and_predictions(spy, spy_spec, clock, monkeypatch):
    spec = spy_spec(batch_size=4, threads=1)
    step = type(spy).train_step

    def slow(seconds, function):
        def run(self, given):
            clock[0] += seconds
            return function(self, given)

        return run

    monkeypatch.setattr(type(spy), "train_step", slow(0.5, step))
    monkeypatch.setattr(type(spy), "predict", slow(0.2, lambda self, images: [box()] * len(images)))
    cost = costs.run_cost(spec, CPU, limit=2.8, start=7.0)
    assert cost.seconds == pytest.approx(0.25)  # the processor's clock runs half as fast
    assert (cost.timed, len(spy.batches)) == (6, 3 + 6)
    assert cost.predict == pytest.approx(0.1 / 4)
    assert cost.start == 3 * 7  # training, prediction, evaluation
    assert all(batch.images.shape == (4, 1, 24, 24) for batch in spy.batches)
    assert cost.weights == 3 * 4  # one float32, stored three times; no moments
    # of an image: count, a box, score and label
    assert cost.prediction == 8 + 16 + 4 + 8
    assert torch.are_deterministic_algorithms_enabled()


def box():
    return Prediction(torch.ones(1, 4), torch.ones(1), torch.zeros(1, dtype=torch.int64))


def test_moments_are_stored_in_the_checkpoint_only():
    method = nn.Linear(3, 2, bias=False)
    method.optimizers = {"all": torch.optim.Adam(method.parameters())}
    method(torch.ones(3)).sum().backward()
    method.optimizers["all"].step()
    assert costs.stored_bytes(method) == 3 * 24 + 2 * 24 + 4  # two moments and a count


@pytest.fixture
def dataset(clock, monkeypatch, paper):
    """A specification whose images take half a second of the processor each, a split 3 more."""
    module, sizes = ModuleType("slow"), []

    def make_split(split, size, rng):
        sizes.append(size)
        clock[0] += 6 + size
        return Split(tiny_arrays(size, 0), "slow")

    module.make_split, module.sizes = make_split, sizes
    monkeypatch.setitem(sys.modules, "slow", module)
    spec = settings.dataset_spec(paper, "mnist_hard")
    shape = {"module": "slow", "image_size": (1, 24, 24), "params": {}}
    return module, spec.model_copy(update=shape)


def test_a_dataset_costs_its_images_and_the_start_of_each_split(dataset):
    module, spec = dataset
    cost = costs.dataset_cost(spec, limit=34)
    assert module.sizes == [1, 8, 64]
    assert cost == costs.Cost(0.5, timed=64, start=3 * 3)
    assert costs.dataset_cost(spec, limit=36) == costs.Cost(0.5, timed=512, start=3 * 3)


def test_a_dataset_that_cannot_be_made_says_why(dataset, monkeypatch):
    module, spec = dataset

    def make_split(split, size, rng):
        raise ValueError("no digits\nhere")

    monkeypatch.setattr(module, "make_split", make_split)
    cost = costs.dataset_cost(spec, limit=1)
    assert cost == costs.Cost(None, note="datasets.mnist_hard: no digits here")


def test_photographs_are_not_touched(paper, monkeypatch):
    monkeypatch.setattr(costs, "build_dataset", None)
    measure = costs.measurer(paper, limit=1)
    assert measure(settings.dataset_spec(paper, "pascal_coco")).note == "photographs"


def test_features_cost_what_the_backbone_takes(paper, clock, monkeypatch):
    module, seen = ModuleType("backbone"), []

    def look(images):
        clock[0] += 2
        seen.append(images)
        return images

    network = nn.Identity()
    network.forward = look
    module.build = lambda **params: network
    monkeypatch.setitem(sys.modules, "backbone", module)
    spec = settings.feature_spec(paper, "pascal_coco")
    spec = spec.model_copy(
        update={"network": spec.network.model_copy(update={"module": "backbone", "params": {}})}
    )
    cost = costs.feature_cost(spec, CPU, image_size=(3, 8, 8), limit=8, start=1.5)
    # 4 images a pass; 2 passes to warm up, and those that begin within 8 s
    assert cost == costs.Cost(0.25, timed=16, start=1.5)
    assert {tuple(images.shape) for images in seen} == {(4, 3, 8, 8)}
    assert not network.training


def test_weights_are_not_downloaded_to_be_timed(paper, monkeypatch):
    monkeypatch.setattr(resnet, "_downloaded", None)
    spec = settings.feature_spec(paper, "pascal_coco")
    assert spec.network.module == resnet.__name__
    cost = costs.feature_cost(spec, CPU, image_size=(3, 32, 32), limit=0, start=0)
    assert (cost.timed, cost.seconds > 0) == (4, True)

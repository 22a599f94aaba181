"""The contract of ``mist_bench.types``, for every method the presets configure.

A new entry in the config is tested here without a new test.
"""

from itertools import pairwise

import pytest
import torch
from conftest import configuration

from mist_bench.bench.cases import made_up
from mist_bench.config import resolve as settings
from mist_bench.run.batches import make_batch
from mist_bench.run.method import build_method, use_deterministic_torch

CPU = torch.device("cpu")
PRESETS = ("smoke", "cpu")
B = 2


def configured(presets=PRESETS):
    """Return one specification per preset, method and task, whether or not it competes."""
    found = []
    for preset in presets:
        config = configuration(preset)
        experiments = {one.task: name for name, one in reversed(config.experiments.items())}
        for method, entry in config.methods.items():
            setups = config.experiments.values()
            own = {one.task for one in setups if method in one.methods + one.rivals}
            for task in sorted((entry.params.keys() | own) & experiments.keys()):
                spec = settings.run_spec(config, experiments[task], method, 0)
                found.append(pytest.param(spec, id=f"{preset}-{method}-{task}"))
        found += on_features(config)
    return found


def on_features(config):
    """Return the runs that see features instead of images."""
    return [
        pytest.param(
            settings.run_spec(config, name, method, 0), id=f"{config.preset}-{method}-{name}"
        )
        for name, setup in config.experiments.items()
        if config.datasets[setup.dataset].features
        for method in setup.methods
    ]


every_method = pytest.mark.parametrize("spec", configured())


@pytest.fixture(autouse=True)
def deterministic():
    use_deterministic_torch(1)


def batch_of(spec, supervision):
    return make_batch(made_up(spec.task, B), [*range(B)], supervision, CPU, spec.task)


def trained(spec, steps=1):
    """Return the method after ``steps`` steps, and the scalars of the last."""
    method = build_method(spec, CPU)
    torch.manual_seed(0)
    for _ in range(steps):
        scalars = method.train().train_step(batch_of(spec, method.supervision))
    return method, scalars


def values(prediction):
    """Return what is not None in a prediction, by name."""
    return {name: value for name, value in vars(prediction).items() if value is not None}


@every_method
def test_a_step_returns_finite_scalars_and_steps_every_optimizer(spec):
    method = build_method(spec, CPU)
    before = [one.detach().clone() for one in method.parameters()]
    assert isinstance(method, torch.nn.Module)
    assert method.supervision in ("none", "labels", "boxes")
    scalars = method.train().train_step(batch_of(spec, method.supervision))
    assert "loss" in scalars
    assert not {"step", "steps", "seconds"} & scalars.keys()  # columns of train.csv
    for name, value in scalars.items():
        value = torch.as_tensor(value)  # a number is allowed, though a GPU has to wait for it
        assert value.shape == (), name
        assert not value.requires_grad, name
        assert value.isfinite(), name
    owned = {id(p) for o in method.optimizers.values() for g in o.param_groups for p in g["params"]}
    trainable = [p for p in method.parameters() if p.requires_grad]
    assert {id(p) for p in trainable} == owned
    changed = [not p.equal(q) for p, q in zip(method.parameters(), before, strict=True)]
    assert any(changed) == bool(owned)
    for optimizer in method.optimizers.values():
        assert optimizer.state


@every_method
def test_predictions_are_valid(spec):
    method, _ = trained(spec)
    task, images = spec.task, batch_of(spec, "none").images
    predictions = method.eval().predict(images)
    assert len(predictions) == B
    for one in predictions:
        K = len(one.scores)
        assert K in range(task.num_instances + 1)
        assert (one.boxes.shape, one.boxes.dtype) == ((K, 4), torch.float32)
        assert one.boxes.isfinite().all()
        assert (one.boxes[:, 2:] > 0).all()
        assert (one.scores.shape, one.scores.dtype) == ((K,), torch.float32)
        assert not one.scores.isnan().any()
        assert not any(value.requires_grad for value in values(one).values())
        if task.kind == "classification":
            C = task.num_classes
            assert (one.labels.shape, one.labels.dtype) == ((K,), torch.int64)
            assert ((one.labels >= 0) & (one.labels < C)).all()
            assert (one.probs.shape, one.probs.dtype) == ((K, C), torch.float32)
            torch.testing.assert_close(one.probs.sum(-1), torch.ones(K))
            assert one.probs.argmax(-1).equal(one.labels)
            assert one.reconstruction is None
        else:
            assert one.reconstruction.shape == task.image_size
            assert one.reconstruction.dtype == torch.float32
            assert one.reconstruction.isfinite().all()
            assert one.labels is None
            assert one.probs is None


@every_method
def test_weights_carry_everything_that_predictions_need(spec):
    method, _ = trained(spec)
    other = build_method(spec.model_copy(update={"seed": 1}), CPU)
    other.load_state_dict(method.state_dict())
    images = batch_of(spec, "none").images
    for one, two in zip(method.eval().predict(images), other.eval().predict(images), strict=True):
        assert values(one).keys() == values(two).keys()
        for name, value in values(one).items():
            assert getattr(two, name).equal(value), name


@every_method
def test_the_same_seed_gives_the_same_weights(spec):
    (one, first), (two, second) = trained(spec, 2), trained(spec, 2)
    assert first == second
    for name, value in one.state_dict().items():
        assert two.state_dict()[name].equal(value), name


@every_method
def test_predicting_changes_nothing_and_ignores_the_batch(spec):
    method, _ = trained(spec)
    before = {name: value.clone() for name, value in method.state_dict().items()}
    images = batch_of(spec, "none").images
    together = method.eval().predict(images)
    torch.manual_seed(123)  # nor does it draw random numbers
    alone = [method.predict(image[None])[0] for image in images]
    for one, two in zip(together, alone, strict=True):
        for name, value in values(one).items():
            torch.testing.assert_close(getattr(two, name), value, atol=1e-4, rtol=1e-4)
    for name, value in method.state_dict().items():
        assert value.equal(before[name]), name


def test_scores_rank_the_detections_of_mist():
    (spec,) = (one.values[0] for one in configured() if one.id == "smoke-mist-classification")
    method, _ = trained(spec)
    for one in method.eval().predict(batch_of(spec, "none").images):
        assert all(high >= low for high, low in pairwise(one.scores.tolist()))

"""MIST's three updates: what each changes, and in which order."""

import pytest
import torch
from conftest import tiny_arrays

from mist_bench import mist
from mist_bench.models import views
from mist_bench.models.heads import label_histogram
from mist_bench.models.keypoint_step import KeypointStep
from mist_bench.models.specs import AutoencoderSpec, DetectorSpec, OfficialSpec
from mist_bench.run.batches import make_batch
from mist_bench.run.method import build_method
from mist_bench.types import TaskSpec

CPU = torch.device("cpu")
POINTS = DetectorSpec(target_sigma=0, offset_kernel=1)
PAPER = DetectorSpec(networks="official", stride=1)


def batch_of(size):
    """The first ``size`` of ten images, with labels."""
    return make_batch(tiny_arrays(10, seed=0), list(range(size)), "labels", CPU)


def copies(module):
    return [parameter.detach().clone() for parameter in module.parameters()]


def changed(module, before):
    return any(not now.equal(old) for now, old in zip(module.parameters(), before, strict=True))


def inputs(method, batch):
    """The images, E_K(H(I)) and label histogram of a batch."""
    heatmap, offsets = method.detector(batch.images)
    boxes, _ = method.detector.extract(heatmap, offsets, 2)
    return batch.images, boxes, label_histogram(batch.labels, 3)


def test_the_task_step_changes_the_classifier_only(tiny_mist):
    method = tiny_mist()
    before = copies(method.head), copies(method.detector)
    method.update_task(*inputs(method, batch_of(4)))
    assert changed(method.head, before[0])
    assert not changed(method.detector, before[1])


def test_the_heatmap_step_changes_the_detector_only(tiny_mist):
    # without learning rate for tau, all that changes weights is the last stage
    method = tiny_mist(adam={"lr_task": 0})
    before = copies(method.head), copies(method.detector)
    method.train_step(batch_of(4))
    assert not changed(method.head, before[0])
    assert changed(method.detector, before[1])


class Recorder:
    """Wraps a method's stages and notes which ran, and the boxes they were given and returned."""

    def __init__(self, method, monkeypatch):
        self.calls = []
        for owner, name in (
            (method, "update_task"),
            (method, "update_keypoints"),
            (method.detector, "loss"),
        ):
            monkeypatch.setattr(owner, name, self.noting(name, getattr(owner, name)))

    def noting(self, name, function):
        def call(*arguments):
            result = function(*arguments)
            self.calls.append((name, arguments, result))
            return result

        return call

    @property
    def names(self):
        return [name for name, _, _ in self.calls]


@pytest.mark.parametrize(
    ("order", "stages"),
    [
        ("joint", ["update_task", "loss"]),
        ("x_tau_eta", ["update_keypoints", "update_task", "loss"]),
        ("tau_x_eta", ["update_task", "update_keypoints", "loss"]),
    ],
)
def test_the_stages_run_in_the_stated_order(tiny_mist, monkeypatch, order, stages):
    method = tiny_mist(keypoints={"order": order}, mirror=False, shift=0)
    calls = Recorder(method, monkeypatch)
    method.train_step(batch_of(4))
    assert calls.names == stages


def test_the_classifier_learns_at_the_moved_boxes_in_the_official_order(tiny_mist, monkeypatch):
    method = tiny_mist(keypoints={"order": "x_tau_eta"}, mirror=False, shift=0)
    calls = Recorder(method, monkeypatch)
    method.train_step(batch_of(4))
    (_, _, moved), (_, task, _), (_, eta, _) = calls.calls
    assert task[1].equal(moved)
    assert eta[2].equal(moved)


def test_the_classifier_learns_at_the_extracted_boxes_in_algorithm_1(tiny_mist, monkeypatch):
    method = tiny_mist(keypoints={"order": "tau_x_eta"}, mirror=False, shift=0)
    calls = Recorder(method, monkeypatch)
    method.train_step(batch_of(4))
    (_, task, _), (_, keypoints, moved), (_, eta, _) = calls.calls
    assert task[1].equal(keypoints[1])
    assert eta[2].equal(moved)
    assert not moved.equal(task[1])


def test_the_joint_step_is_one_keypoint_step_before_the_classifier_moves(tiny_mist, monkeypatch):
    batch = batch_of(4)
    one, other = tiny_mist(mirror=False, shift=0), tiny_mist(mirror=False, shift=0)
    calls = Recorder(one, monkeypatch)
    one.train_step(batch)
    expected = other.update_keypoints(*inputs(other, batch))
    torch.testing.assert_close(calls.calls[-1][1][2], expected, atol=1e-4, rtol=1e-4)


def test_the_detector_learns_from_reflections_and_the_classifier_does_not(tiny_mist, monkeypatch):
    method, batch = tiny_mist(mirror=True, shift=0), batch_of(8)
    seen = []
    forward = method.detector.network.forward
    monkeypatch.setattr(
        method.detector.network, "forward", lambda images: seen.append(images) or forward(images)
    )
    calls = Recorder(method, monkeypatch)
    torch.manual_seed(0)
    method.train_step(batch)
    (_, task, (_, grad)), (_, eta, _) = calls.calls
    flips = {
        axes
        for image, original in zip(seen[0], batch.images, strict=True)
        for axes in ((), (-1,), (-2,), (-1, -2))
        if image.equal(original.flip(axes))
    }
    assert len(flips) > 2
    assert task[0].equal(batch.images)
    moved = method.keypoints.move(task[1], task[1], grad)
    # boxes come back to the reflected image, one by one
    for i, (image, original) in enumerate(zip(seen[0], batch.images, strict=True)):
        x, y = moved[i, :, 0], moved[i, :, 1]
        options = [(x, y), (23 - x, y), (x, 23 - y), (23 - x, 23 - y)]
        kinds = [(), (-1,), (-2,), (-1, -2)]
        allowed = [
            torch.stack(option, -1)
            for option, axes in zip(options, kinds, strict=True)
            if image.equal(original.flip(axes))
        ]
        assert any(torch.allclose(eta[2][i, :, :2], option, atol=1e-4) for option in allowed)


def test_keypoints_are_found_in_the_image_and_learned_in_a_shifted_view(tiny_mist, monkeypatch):
    method, batch = tiny_mist(mirror=False, shift=2), batch_of(4)
    seen, xy = [], torch.tensor([[1, -2], [0, 0], [2, 2], [-1, 0]])

    class Known(views.Shift):
        def __init__(self, images, longest):
            super().__init__(images, longest)
            self.xy = xy

    monkeypatch.setattr(views, "Shift", Known)
    forward = method.detector.network.forward
    monkeypatch.setattr(
        method.detector.network, "forward", lambda images: seen.append(images) or forward(images)
    )
    calls = Recorder(method, monkeypatch)
    method.train_step(batch)
    (_, task, (_, grad)), (_, eta, _) = calls.calls
    first, second = seen
    assert first.equal(task[0])
    assert first.equal(batch.images)
    for image, view, (x, y) in zip(batch.images, second, xy.tolist(), strict=True):
        assert view[:, 3:21, 3:21].equal(image[:, 3 - y : 21 - y, 3 - x : 21 - x])
    moved = method.keypoints.move(task[1], task[1], grad)
    torch.testing.assert_close(eta[2][..., :2], moved[..., :2] + xy[:, None])
    assert eta[2][..., 2:].equal(moved[..., 2:])


@pytest.mark.parametrize("order", ["joint", "x_tau_eta", "tau_x_eta"])
def test_moved_boxes_are_learned_where_the_view_has_them(tiny_mist, monkeypatch, order):
    method, batch = tiny_mist(keypoints={"order": order}, mirror=True, shift=2), batch_of(8)
    seen, made, moves = [], [], []

    class Kept(views.View):
        def __init__(self, images, **options):
            super().__init__(images, **options)
            made.append(self)

    monkeypatch.setattr(mist, "View", Kept)
    forward, move = method.detector.network.forward, KeypointStep.move
    monkeypatch.setattr(
        method.detector.network, "forward", lambda images: seen.append(images) or forward(images)
    )
    monkeypatch.setattr(
        KeypointStep, "move", lambda *arguments: moves.append(move(*arguments)) or moves[-1]
    )
    calls = Recorder(method, monkeypatch)
    method.train_step(batch)
    (view,) = made
    assert [type(part) for part in view.parts] == [views.Mirror, views.Shift]
    assert seen[0].equal(batch.images)
    assert seen[1].equal(view.images(batch.images))
    assert not seen[1].equal(seen[0])
    (heatmap_loss,) = [arguments for name, arguments, _ in calls.calls if name == "loss"]
    assert heatmap_loss[2].equal(view.boxes(moves[-1]))


def test_images_that_are_explained_weigh_more(tiny_mist, monkeypatch):
    """The gradient of the heatmap network is that of exp(-a L_task) ||G - H||^2."""
    method, batch = tiny_mist(mirror=False, shift=0, sample_weight=5), batch_of(4)
    other = tiny_mist(mirror=False, shift=0)
    calls = Recorder(method, monkeypatch)
    method.train_step(batch)
    (_, _, (task_loss, _)), (_, eta, _) = calls.calls
    heatmap, offsets = other.detector(batch.images)
    loss = sum(other.detector.loss(heatmap, offsets, eta[2]))
    (torch.exp(-5 * task_loss) * loss).mean().backward()
    found = [one.grad for one in method.detector.parameters()]
    wanted = [one.grad for one in other.detector.parameters()]
    torch.testing.assert_close(found, wanted, atol=1e-6, rtol=1e-4)


def test_predictions_do_not_depend_on_the_batch(tiny_mist):
    method, batch = tiny_mist(), batch_of(6)
    for _ in range(3):
        method.train_step(batch)
    method.eval()
    together = method.predict(batch.images)
    shuffled = method.predict(batch.images.flip(0))[::-1]
    alone = [method.predict(image[None])[0] for image in batch.images]
    for one, two, three in zip(together, shuffled, alone, strict=True):
        for name in ("boxes", "scores", "probs"):
            for other in (two, three):
                torch.testing.assert_close(
                    getattr(one, name), getattr(other, name), atol=1e-4, rtol=1e-4
                )


def test_the_losses_fall_on_a_few_images(tiny_mist):
    rates = {"lr_detector": 5e-3, "lr_task": 5e-3}
    method, batch = tiny_mist(seed=1, classifier={"channels": 8}, adam=rates), batch_of(8)
    torch.manual_seed(0)
    rows = [method.train_step(batch) for _ in range(60)]
    assert set(rows[0]) == {"loss", "heatmap_loss", "offset_loss", "keypoint_shift"}
    for name in ("loss", "heatmap_loss"):
        losses = torch.tensor([row[name] for row in rows])
        assert losses[-10:].mean() < 0.6 * losses[:10].mean()


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"ignore_background": True}, "needs a task with a background"),
        ({"ignore_background": True, "background": 0, "detector": POINTS}, "target_sigma > 0"),
        ({"ignore_background": True, "background": 0, "scales": (0.5, 1.0)}, "one scale"),
        ({"full_contribution": 0.5, "scales": (0.5, 1.0)}, "full_contribution needs .* one scale"),
        ({"full_contribution": 1, "detector": POINTS}, "full_contribution needs target_sigma > 0"),
        ({"kind": "reconstruction", "scales": (0.5, 1.0)}, "whole_pixels needs one scale"),
        ({"official": OfficialSpec()}, "needs gray images and networks official"),
        ({"official": OfficialSpec(), "detector": PAPER, "channels": 3}, "needs gray images"),
    ],
)
def test_values_that_exclude_each_other_are_refused(params, words):
    given = {
        "detector": DetectorSpec(),
        "scales": (1.0,),
        "autoencoder": AutoencoderSpec(),
        "ignore_background": False,
        "full_contribution": None,
        "official": None,
    } | params
    task = TaskSpec(
        kind=given.pop("kind", "classification"),
        image_size=(given.pop("channels", 1), 24, 24),
        num_instances=2,
        num_classes=3,
        box_size=8.0,
        background=given.pop("background", None),
    )
    with pytest.raises(ValueError, match=words):
        mist.check(task, **given)


def test_values_that_fit_the_task_are_taken():
    task = TaskSpec("classification", (1, 24, 24), 2, 3, 8.0, background=0)
    given = {"detector": PAPER, "scales": (1.0,), "autoencoder": AutoencoderSpec()}
    mist.check(
        task, **given, ignore_background=True, full_contribution=0.5, official=OfficialSpec()
    )


def test_more_patches_than_cells_are_refused(tiny_spec):
    task = TaskSpec("classification", (1, 24, 24), 37, 3, 8.0)
    method = build_method(tiny_spec().model_copy(update={"task": task}), CPU)
    with pytest.raises(ValueError, match="cannot select 37 of 36 cells"):
        method.train_step(batch_of(2))

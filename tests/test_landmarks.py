"""The Zha18 baseline: detection, its losses together, phases, and boxes in pixels."""

import math
from dataclasses import replace

import pytest
import torch

from mist_bench.baselines import landmarks as zha18
from mist_bench.baselines.parts.hourglass import HourglassSpec
from mist_bench.baselines.parts.landmarks import DecoderSpec
from mist_bench.baselines.parts.warps import Warp, WarpSpec
from mist_bench.models.specs import AdamSpec
from mist_bench.types import Batch, TaskSpec

TASK = TaskSpec("reconstruction", (1, 24, 24), num_instances=2, num_classes=0, box_size=8.0)
PARAMS = {
    "detector": HourglassSpec(levels=((8, 8), (8,)), channels=8),
    "features": HourglassSpec(levels=((8,), (8,)), channels=8),
    "decoder": DecoderSpec(levels=((16, 16), (16,)), channels=16, descriptors=4, gaussians=2),
    "objective": zha18.ObjectiveSpec(
        concentration=10, separation=3, separation_width=0.1, equivariance=100
    ),
    "phases": zha18.PhaseSpec(starts=(0.5,), reconstruction=(0.5, 2), lr_factors=(1, 1)),
    "warps": WarpSpec(points=3, translation=0.2, scaling=0.1),
    "adam": AdamSpec(lr=1e-2),
}


def build(task=TASK, padding=4, schedule_steps=4, **changes):
    """Return the small method; mappings change single fields of its specs."""
    torch.manual_seed(0)
    for name, spec in PARAMS.items():
        changes[name] = spec.model_copy(update=changes.get(name, {}))
    return zha18.build(task, padding=padding, schedule_steps=schedule_steps, **changes)


def batch_of(size):
    """Return images of two bright squares, one on the left and one on the right."""
    images = torch.zeros(size, 1, 24, 24)
    tops = torch.randint(0, 18, (size, 2), generator=torch.Generator().manual_seed(0))
    for image, (one, two) in zip(images, tops.tolist(), strict=True):
        image[0, one : one + 6, 3:9] = 1
        image[0, two : two + 6, 15:21] = 1
    return Batch(images)


def test_heatmaps_sum_to_one_over_channels():
    method = build()
    maps = method.detect(method.pad(batch_of(3).images))
    assert maps.shape == (3, 3, 8, 8)  # 24 px and 4 px on either side, 4 px a cell
    assert maps.min() > 0
    torch.testing.assert_close(maps.sum(1), torch.ones(3, 8, 8))


def test_the_frame_is_the_mean_of_the_border():
    image = torch.zeros(1, 1, 24, 24)
    image[0, 0, 0, 1:5] = 0.5
    image[0, 0, 8:12, 8:12] = 1
    padded = build().pad(image)
    assert padded.shape == (1, 1, 32, 32)
    torch.testing.assert_close(padded[..., 4:-4, 4:-4], image)
    torch.testing.assert_close(padded[..., :4, :].unique(), torch.tensor([4 * 0.5 / 96]))


def test_without_a_warp_nothing_is_lost_to_equivariance():
    off = dict.fromkeys(("bending", "translation", "rotation", "scaling"), 0)
    assert build(warps=off).losses(batch_of(4).images)["equivariance"].item() < 1e-8
    assert build().losses(batch_of(4).images)["equivariance"].item() > 1e-4


def bright_cells(cells):
    """Return the logits of a detector whose two landmarks are where cells are bright."""
    brightness = 100 * cells.mean(1, keepdim=True)
    return torch.cat([brightness, brightness, torch.full_like(brightness, 50)], dim=1)


@pytest.mark.parametrize(("knows_the_warp", "wanted"), [(True, 0), (False, 2 * (2 * 8 / 24) ** 2)])
def test_an_equivariant_detector_loses_nothing(monkeypatch, knows_the_warp, wanted):
    """Images move by two cells, 8 of 24 px; if nothing is brought back, both landmarks lose."""
    method = build()
    shift = torch.tensor([[[1.0, 0.0, 2 * 8 / 32], [0.0, 1.0, 0.0]]])
    warp = Warp(shift, 2, torch.zeros(1, 7, 2))
    monkeypatch.setattr(zha18, "random_warp", lambda images, spec: warp)
    monkeypatch.setattr(method.detector, "forward", bright_cells)
    if not knows_the_warp:
        monkeypatch.setattr(Warp, "points", lambda self, points: points)
    images = torch.zeros(1, 1, 24, 24)
    images[..., 8:12, 12:16] = 1
    assert method.losses(images)["equivariance"].item() == pytest.approx(wanted, abs=1e-5)


def test_the_loss_is_the_weighted_sum_of_its_parts():
    method = build()
    for weight in (0.5, 0.5, 2, 2, 2):  # half of four steps, then the second phase
        seen = method.train_step(batch_of(4))
        wanted = weight * seen["reconstruction"] + 10 * seen["concentration"]
        wanted += 3 * seen["separation"] + 100 * seen["equivariance"]
        assert seen["loss"].item() == pytest.approx(wanted.item(), rel=1e-5)


def test_the_reconstruction_loss_is_half_the_squared_error():
    method, images = build(), batch_of(2).images
    method.reconstruct = lambda padded, maps, landmarks: images + 0.1
    seen = method.losses(images)["reconstruction"].item()
    assert seen == pytest.approx(0.5 * 24 * 24 * 0.1**2, rel=1e-4)


def test_phases_by_hand():
    phases = zha18.PhaseSpec(starts=(1 / 3, 2 / 3))
    steps = (0, 99, 100, 199, 200, 299, 1000)
    assert [phases.at(step, 300) for step in steps] == [0, 0, 1, 1, 2, 2, 2]
    with pytest.raises(ValueError, match=r"each phase, .* got 1, 3 and 3"):
        zha18.PhaseSpec(starts=(0.5,))


def test_the_learning_rate_has_phases_and_is_given_back():
    method = build(phases={"lr_factors": (0, 1)})
    before = [one.detach().clone() for one in method.parameters()]
    for changes in (False, False, True):
        method.train_step(batch_of(2))
        same = [one.equal(old) for one, old in zip(method.parameters(), before, strict=True)]
        assert all(same) != changes
        assert method.optimizers["all"].param_groups[0]["lr"] == 1e-2


def test_weights_carry_the_step():
    method = build()
    for _ in range(3):
        method.train_step(batch_of(2))
    other = build()
    other.load_state_dict(method.state_dict())
    assert (int(other.step), other.done) == (3, 3)
    assert int(build().step) == 0


def test_boxes_are_at_the_landmarks_and_small_maps_score_higher(monkeypatch):
    method = build().eval()
    maps = torch.full((1, 3, 8, 8), 1e-9)
    maps[0, 0, 2, 5] = 1  # one cell
    maps[0, 1, 4, 1] = maps[0, 1, 4, 3] = 0.5  # two
    monkeypatch.setattr(method, "detect", lambda padded: maps)
    (seen,) = method.predict(batch_of(1).images)
    at = lambda cell: 4 * cell + 1.5 - 4  # noqa: E731  (center of a cell without the frame)
    wanted = torch.tensor([[at(5), at(2), 8, 8], [at(2), at(4), 8, 8]])
    torch.testing.assert_close(seen.boxes, wanted, atol=1e-3, rtol=0)
    std = (4 / 24) / 2  # 4 px along x, none along y
    assert seen.scores[1].item() == pytest.approx(-2 * math.pi * math.e * std**2, rel=1e-2)
    assert seen.scores[0] > seen.scores[1]


def test_reconstructions_depend_on_landmarks_and_on_descriptors():
    method = build()  # training: the first maps would be faint without batch statistics
    padded = method.pad(batch_of(2).images)
    maps = method.detect(padded)
    here, there = torch.zeros(2, 2, 2), torch.full((2, 2, 2), 0.3)
    first = method.reconstruct(padded, maps, here)
    assert first.shape == (2, 1, 24, 24)
    assert not first.allclose(method.reconstruct(padded, maps, there))
    assert not first[0].allclose(first[1])  # same landmarks, other images


def test_the_loss_falls_on_a_few_images():
    method, batch = build(schedule_steps=100, objective={"equivariance": 10}), batch_of(8)
    seen = [method.train_step(batch) for _ in range(20)]
    for name in ("loss", "reconstruction"):
        assert seen[-1][name] < 0.7 * seen[0][name]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task": replace(TASK, image_size=(1, 24, 32))}, "square images, not .* 24 x 32"),
        ({"schedule_steps": None}, "needs schedule_steps"),
        ({"padding": 5}, "34 px cannot be divided"),
        (
            {"decoder": DecoderSpec(levels=((8,),) * 3, channels=8)},
            "24 px cannot be .* and then halved 2",
        ),
    ],
)
def test_what_does_not_fit_is_refused(change, message):
    names = ("detector", "features", "decoder")
    values = {"task": TASK, "padding": 4, "stride": 4, "schedule_steps": 4}
    values |= {name: PARAMS[name] for name in names} | change
    with pytest.raises(ValueError, match=message):
        zha18.check(values.pop("task"), **values)

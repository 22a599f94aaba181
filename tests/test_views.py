"""Reflections and shifts of a batch, and boxes that go with them."""

import torch

from mist_bench.models.sampler import sample_patches
from mist_bench.models.views import Mirror, Shift, View


def mirrors():
    """Reflections of all four kinds, and the images they belong to."""
    images = torch.rand(4, 2, 9, 12, generator=torch.Generator().manual_seed(0))
    mirror = Mirror(images)
    mirror.x, mirror.y = torch.tensor([[False, True, False, True], [False, False, True, True]])
    return mirror, images


def test_a_reflection_undoes_itself():
    mirror, images = mirrors()
    boxes = 10 * torch.rand(len(images), 3, 4)
    assert mirror.images(mirror.images(images)).equal(images)
    torch.testing.assert_close(mirror.boxes(mirror.boxes(boxes)), boxes)


def test_a_reflection_by_hand():
    image = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    mirror = Mirror(image)
    mirror.x, mirror.y = torch.tensor([True]), torch.tensor([False])
    assert mirror.images(image).tolist() == [[[[2.0, 1.0], [4.0, 3.0]]]]
    assert mirror.boxes(torch.tensor([[[0.0, 0.0, 3, 5]]])).tolist() == [[[1, 0, 3, 5]]]


def test_a_reflected_box_shows_the_reflected_patch():
    mirror, images = mirrors()
    boxes = torch.rand(len(images), 3, 4) * torch.tensor([12.0, 9, 6, 6])
    patches = sample_patches(images, boxes, 5)
    reflected = sample_patches(mirror.images(images), mirror.boxes(boxes), 5)
    for i in range(len(images)):
        axes = [axis for axis, flip in ((-1, mirror.x[i]), (-2, mirror.y[i])) if flip]
        torch.testing.assert_close(reflected[i], patches[i].flip(axes))


def test_reflections_come_from_torchs_seed():
    images = torch.rand(32, 1, 4, 4)
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        mirror = Mirror(images)
        drawn.append(torch.stack([mirror.x, mirror.y]))
    assert drawn[0].equal(drawn[1])
    assert not drawn[0].equal(drawn[2])


def test_a_shift_by_hand():
    image = torch.tensor([[[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]]])
    shift = Shift(image, 1)
    shift.xy = torch.tensor([[1, -1]])  # right and up
    assert shift.images(image).tolist() == [[[[4.0, 4.0, 5.0], [4.0, 4.0, 5.0]]]]
    assert shift.boxes(torch.tensor([[[1.0, 1.0, 3, 5]]])).tolist() == [[[2, 0, 3, 5]]]


def test_a_shifted_box_shows_the_same_patch():
    images = torch.rand(6, 2, 16, 20, generator=torch.Generator().manual_seed(0))
    shift = Shift(images, 2)
    boxes = torch.tensor([[[9.2, 7.4, 6, 6], [10.0, 8.0, 5, 4]]]).expand(6, -1, -1)
    moved = sample_patches(shift.images(images), shift.boxes(boxes), 5)
    torch.testing.assert_close(moved, sample_patches(images, boxes, 5))


def test_shifts_are_whole_and_go_both_ways_on_each_axis():
    torch.manual_seed(0)
    xy = Shift(torch.zeros(400, 1, 2, 2), 2).xy
    for axis in (0, 1):
        assert sorted(set(xy[:, axis].tolist())) == [-2, -1, 0, 1, 2]


def test_a_view_reflects_and_then_shifts():
    torch.manual_seed(0)
    images, boxes = torch.rand(8, 1, 12, 10), 6 * torch.rand(8, 2, 4)
    view = View(images, mirror=True, shift=2)
    mirror, shift = view.parts
    assert (type(mirror), type(shift)) == (Mirror, Shift)
    assert view.images(images).equal(shift.images(mirror.images(images)))
    assert view.boxes(boxes).equal(shift.boxes(mirror.boxes(boxes)))


def test_a_view_without_parts_is_the_batch():
    images, boxes = torch.rand(2, 1, 4, 4), torch.rand(2, 3, 4)
    view = View(images, mirror=False)
    assert view.images(images) is images
    assert view.boxes(boxes) is boxes

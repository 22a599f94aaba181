"""S and its inverse: hand cases, then ``grid_sample`` as an oracle for values and gradients."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from mist_bench.models.sampler import hat_weights, paste_patches, sample_patches, sampling_axis

F64 = torch.float64


def by_grid_sample(images, boxes, size):
    """S by torch: ``align_corners=True`` puts -1 and 1 on the centers of the outer pixels."""
    B, C, H, W = images.shape
    K = boxes.shape[1]
    steps = torch.linspace(-0.5, 0.5, size, dtype=boxes.dtype)
    x, y, width, height = (one[..., None] for one in boxes.unbind(-1))
    xs, ys = 2 * (x + width * steps) / (W - 1) - 1, 2 * (y + height * steps) / (H - 1) - 1
    grid = torch.stack(
        [
            xs[:, :, None, :].expand(B, K, size, size),
            ys[:, :, :, None].expand(B, K, size, size),
        ],
        dim=-1,
    )
    repeated = images[:, None].expand(B, K, C, H, W).flatten(0, 1)
    patches = F.grid_sample(repeated, grid.flatten(0, 1), align_corners=True)
    return patches.view(B, K, C, size, size)


def random_boxes(generator, B, K, height, width):
    """Boxes whose centers lie up to half an image outside."""
    unit = torch.rand(B, K, 4, dtype=F64, generator=generator)
    scale = torch.tensor([2 * width, 2 * height, width, height], dtype=F64)
    shift = torch.tensor([-width / 2, -height / 2, 1, 1], dtype=F64)
    return unit * scale + shift


def test_outer_samples_lie_on_the_edge_of_the_box():
    axis = sampling_axis(torch.tensor([[10.0]]), torch.tensor([[20.0]]), 5)
    assert axis.tolist() == [[[0.0, 5.0, 10.0, 15.0, 20.0]]]


def test_hat_weights_by_hand():
    weights = hat_weights(torch.tensor([1.25, -0.25, 3.5, 2.0]), 4)
    assert weights.tolist() == [[0, 0.75, 0.25, 0], [0.75, 0, 0, 0], [0, 0, 0, 0.5], [0, 0, 1, 0]]


def test_a_patch_by_hand():
    image = torch.tensor([[[[0.0, 1.0, 2.0], [10.0, 11.0, 12.0], [20.0, 21.0, 22.0]]]])
    patch = sample_patches(image, torch.tensor([[[1.5, 1.0, 1.0, 2.0]]]), 2)
    # columns 1 and 2, rows 0 and 2
    assert patch.tolist() == [[[[[1.0, 2.0], [21.0, 22.0]]]]]


def test_outside_the_image_is_zero():
    patch = sample_patches(torch.ones(1, 1, 4, 4), torch.tensor([[[0.0, 0.0, 4.0, 4.0]]]), 3)
    assert patch.tolist() == [[[[[0, 0, 0], [0, 1, 1], [0, 1, 1]]]]]


def test_a_ramp_is_sampled_exactly():
    x = torch.arange(12, dtype=F64)
    ramp = (3 * x + 5 * x[:, None])[None, None]
    boxes = torch.tensor([[[5.3, 6.1, 4.0, 7.0]]], dtype=F64)
    patch = sample_patches(ramp, boxes, 3)[0, 0, 0]
    xs = torch.tensor([3.3, 5.3, 7.3], dtype=F64)
    ys = torch.tensor([2.6, 6.1, 9.6], dtype=F64)
    torch.testing.assert_close(patch, 3 * xs + 5 * ys[:, None])


@pytest.mark.parametrize("center", [5.3, 5.0])  # between pixels, and on their centers
def test_the_gradient_of_a_ramp_is_its_slope(center):
    x = torch.arange(12, dtype=F64)
    ramp = (3 * x + 5 * x[:, None])[None, None]
    boxes = torch.tensor([[[center, center, 4.0, 4.0]]], dtype=F64, requires_grad=True)
    sample_patches(ramp, boxes, 5).sum().backward()
    torch.testing.assert_close(boxes.grad[0, 0, :2], torch.tensor([25 * 3.0, 25 * 5.0], dtype=F64))


@pytest.mark.parametrize("seed", range(3))
def test_values_and_gradients_are_those_of_grid_sample(seed):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(2, 3, 11, 14, dtype=F64, generator=generator, requires_grad=True)
    boxes = random_boxes(generator, 2, 6, 11, 14).requires_grad_()
    weight = torch.randn(2, 6, 3, 7, 7, dtype=F64, generator=generator)
    patches, expected = sample_patches(images, boxes, 7), by_grid_sample(images, boxes, 7)
    assert (patches == 0).any()  # some boxes leave the image
    torch.testing.assert_close(patches, expected)
    found = torch.autograd.grad((weight * patches).sum(), (images, boxes))
    wanted = torch.autograd.grad((weight * expected).sum(), (images, boxes))
    torch.testing.assert_close(found, wanted)


def test_gradients_on_pixel_centers_are_those_of_grid_sample():
    # 2 ** n + 1 pixels: normalized coordinates are exact, and no rounding moves a sample
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(1, 1, 17, 17, dtype=F64, generator=generator)
    boxes = torch.tensor(
        [[[8.0, 6.0, 4, 4], [0, 16, 4, 4], [16, 3, 8, 4], [-1, 1, 4, 8]]], dtype=F64
    ).requires_grad_()
    (found,) = torch.autograd.grad(sample_patches(images, boxes, 5).square().sum(), boxes)
    (wanted,) = torch.autograd.grad(by_grid_sample(images, boxes, 5).square().sum(), boxes)
    torch.testing.assert_close(found, wanted)


@settings(max_examples=50, deadline=None)
@given(
    x=st.floats(-5, 25),
    y=st.floats(-5, 25),
    width=st.floats(0.5, 30),
    height=st.floats(0.5, 30),
    size=st.integers(2, 9),
)
def test_values_are_those_of_grid_sample_for_any_box(x, y, width, height, size):
    images = torch.linspace(0, 1, 400, dtype=F64).sin().view(1, 1, 20, 20)
    boxes = torch.tensor([[[x, y, width, height]]], dtype=F64)
    torch.testing.assert_close(
        sample_patches(images, boxes, size), by_grid_sample(images, boxes, size)
    )


def test_each_image_is_sampled_at_its_own_boxes():
    images = torch.stack([torch.zeros(1, 5, 5), torch.ones(1, 5, 5)])
    patches = sample_patches(images, torch.tensor([[[2.0, 2, 2, 2]]] * 2), 3)
    assert patches[0].sum() == 0
    assert patches[1].sum() == 9


def test_no_boxes_give_no_patches():
    assert sample_patches(torch.ones(2, 1, 5, 5), torch.zeros(2, 0, 4), 3).shape == (2, 0, 1, 3, 3)


@pytest.mark.parametrize(
    ("shape", "size", "words"),
    [
        ((2, 5), 3, r"boxes must be \(B, K, 4\), got \(2, 5\)"),
        ((1, 2, 5), 3, r"boxes must be \(B, K, 4\), got \(1, 2, 5\)"),
        ((1, 2, 4), 1, "at least 2 samples a side, got 1"),
    ],
)
def test_what_cannot_be_sampled_is_refused(shape, size, words):
    with pytest.raises(ValueError, match=words):
        sample_patches(torch.ones(1, 1, 5, 5), torch.ones(shape), size)


def pasted_by_grid_sample(patches, boxes, height, width):
    """S^-1 by torch: each patch is an image that the canvas samples."""
    B, K, C = patches.shape[:3]
    x, y, w, h = (one[..., None] for one in boxes.unbind(-1))
    xs = 2 * (torch.arange(width, dtype=F64) - x) / w  # -1 and 1 on the box edge
    ys = 2 * (torch.arange(height, dtype=F64) - y) / h
    grid = torch.stack(
        [
            xs[:, :, None, :].expand(B, K, height, width),
            ys[:, :, :, None].expand(B, K, height, width),
        ],
        dim=-1,
    )
    canvases = F.grid_sample(patches.flatten(0, 1), grid.flatten(0, 1), align_corners=True)
    return canvases.view(B, K, C, height, width).sum(1)


def test_a_patch_is_pasted_by_hand():
    patch = torch.tensor([[[[[1.0, 2.0], [3.0, 4.0]]]]])
    canvas = paste_patches(patch, torch.tensor([[[1.5, 0.5, 1.0, 1.0]]]), (3, 4))
    assert canvas.tolist() == [[[[0, 1, 2, 0], [0, 3, 4, 0], [0, 0, 0, 0]]]]


def test_pixels_between_samples_are_interpolated_and_fade_outside():
    patch = torch.tensor([[[[[0.0, 8.0], [0.0, 8.0]]]]])
    canvas = paste_patches(patch, torch.tensor([[[2.0, 0.0, 4.0, 4.0]]]), (1, 9))
    # samples at pixels 0 and 4; one sample spacing beyond the edge nothing is left
    assert canvas.tolist() == [[[[0, 2, 4, 6, 8, 6, 4, 2, 0]]]]


def test_overlapping_patches_add_up():
    patches = torch.tensor([1.0, 10.0]).view(1, 2, 1, 1, 1).expand(1, 2, 1, 3, 3)
    boxes = torch.tensor([[[1.0, 1.0, 2.0, 2.0], [2.0, 1.0, 2.0, 2.0]]])
    assert paste_patches(patches, boxes, (1, 5))[0, 0, 0].tolist() == [1, 11, 11, 10, 0]


@pytest.mark.parametrize(("size", "half"), [(32, 0.5), (31, 0.0)])  # even: centers between pixels
def test_pasting_undoes_sampling_where_samples_are_pixels(size, half):
    image = torch.rand(2, 3, 40, 72, dtype=F64)
    first = [18 + half, 20 + half, size - 1, size - 1]
    boxes = torch.tensor([[first, [first[0] + size, *first[1:]]]], dtype=F64).expand(2, 2, 4)
    canvas = paste_patches(sample_patches(image, boxes, size), boxes, (40, 72))
    inside = torch.zeros(40, 72, dtype=torch.bool)
    inside[5 : 5 + size, 3 : 3 + 2 * size] = True  # the two boxes meet
    torch.testing.assert_close(canvas, torch.where(inside, image, 0))


@pytest.mark.parametrize("seed", range(3))
def test_pasting_is_that_of_grid_sample_with_its_gradients(seed):
    generator = torch.Generator().manual_seed(seed)
    patches = torch.randn(2, 4, 3, 6, 6, dtype=F64, generator=generator, requires_grad=True)
    boxes = random_boxes(generator, 2, 4, 11, 14).requires_grad_()
    weight = torch.randn(2, 3, 11, 14, dtype=F64, generator=generator)
    canvas = paste_patches(patches, boxes, (11, 14))
    expected = pasted_by_grid_sample(patches, boxes, 11, 14)
    torch.testing.assert_close(canvas, expected)
    found = torch.autograd.grad((weight * canvas).sum(), (patches, boxes))
    wanted = torch.autograd.grad((weight * expected).sum(), (patches, boxes))
    torch.testing.assert_close(found, wanted)


def test_the_gradient_of_pasting_alone_is_that_of_finite_differences():
    generator = torch.Generator().manual_seed(1)
    patches = torch.randn(2, 2, 3, 4, 4, dtype=F64, generator=generator, requires_grad=True)
    boxes = (2 + 5 * torch.rand(2, 2, 4, dtype=F64, generator=generator)).requires_grad_()
    paste = lambda patches, boxes: paste_patches(patches, boxes, (7, 11))  # noqa: E731
    assert torch.autograd.gradcheck(paste, (patches, boxes))


def test_the_gradient_through_both_is_that_of_finite_differences():
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(1, 1, 12, 12, dtype=F64, generator=generator)
    boxes = (3 + 6 * torch.rand(1, 2, 4, dtype=F64, generator=generator)).requires_grad_()

    def synthesis(boxes):
        return paste_patches(sample_patches(image, boxes, 5).square(), boxes, (12, 12))

    assert torch.autograd.gradcheck(synthesis, boxes)


def test_no_patches_give_an_empty_canvas():
    assert paste_patches(torch.ones(2, 0, 1, 3, 3), torch.zeros(2, 0, 4), (5, 6)).equal(
        torch.zeros(2, 1, 5, 6)
    )

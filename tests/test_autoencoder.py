"""The auto-encoder head: what it sums up, its loss by hand, signed images, the paper's sizes."""

import pytest
import torch
from torch import nn

from mist_bench.models.autoencoder import NUDGE, BoxAutoencoder
from mist_bench.models.paper import OfficialAutoencoder, OfficialEncoder
from mist_bench.models.sampler import sample_patches
from mist_bench.types import Batch


class Scaled(nn.Module):
    """An auto-encoder that answers with the logit (or atanh) of half of what it was given."""

    def __init__(self, signed=False):
        super().__init__()
        self.signed = signed

    def forward(self, patches):
        half = patches / 2
        return half.atanh() if self.signed else half.logit(1e-6)


class Unsquashed(nn.Module):
    """An auto-encoder whose squashed answer is what it was given."""

    def forward(self, patches):
        return patches.atanh()


def head(signed=False):
    return BoxAutoencoder(
        Scaled(signed), patch_size=5, extent=4.0, signed=signed, whole_pixels=True
    ).eval()


BOXES = torch.tensor([[[3.0, 3.0, 2.0, 2.0]]])  # extent, not the box, says how much is encoded


def test_the_synthesis_is_the_sum_of_what_the_network_makes_of_patches():
    image = torch.full((1, 1, 7, 7), 0.8)
    synthesis, patches = head()(image, BOXES)
    assert patches.shape == (1, 1, 1, 5, 5)
    expected = torch.zeros(7, 7)
    expected[1:6, 1:6] = 0.4
    torch.testing.assert_close(synthesis[0, 0], expected, atol=1e-5, rtol=0)


def test_the_loss_is_the_squared_error_over_the_energy():
    image = torch.full((1, 1, 7, 7), 0.8)
    # 25 pixels explained to one half, 24 not at all
    wanted = (25 * 0.4**2 + 24 * 0.8**2) / (49 * 0.8**2)
    one = head()
    assert one.loss(image, BOXES, one.targets(Batch(image))).item() == pytest.approx(wanted, 1e-4)


@pytest.mark.parametrize(("patch_size", "center"), [(5, 4.0), (6, 3.5)])
def test_a_sample_per_pixel_is_cut_and_pasted_at_whole_pixels(patch_size, center):
    torch.manual_seed(0)
    image = torch.rand(1, 1, 9, 9, dtype=torch.float64)
    one = BoxAutoencoder(Unsquashed(), patch_size, patch_size - 1.0, True, whole_pixels=True).eval()
    boxes = torch.tensor([[[center - 0.4, center + 0.3, 2.0, 2.0]]], dtype=torch.float64)
    synthesis, patches = one(image, boxes)
    expected, inside = torch.zeros(1, 1, 9, 9, dtype=torch.float64), slice(2, 2 + patch_size)
    if patch_size == 6:
        inside = slice(1, 7)
    expected[..., inside, inside] = image[..., inside, inside]
    torch.testing.assert_close(synthesis, expected)
    torch.testing.assert_close(patches[0, 0], image[0, :, inside, inside])
    one.whole_pixels = False
    assert (one(image, boxes)[0] - expected).abs().max() > 0.1


def test_rounded_squares_pass_gradients_of_both_sides():
    torch.manual_seed(0)
    image = torch.rand(1, 1, 9, 9, dtype=torch.float64)
    one = head().train()
    boxes = torch.tensor([[[4.2, 3.9, 2.0, 2.0]]], dtype=torch.float64).expand(1, 64, 4).clone()
    boxes.requires_grad_()
    center = one.centers(boxes)
    assert center.detach().sub(4).abs().amax() == NUDGE
    weight = torch.rand(5, dtype=torch.float64)
    bands = sample_patches(image, torch.cat([center, torch.full_like(center, 4.0)], -1), 5)
    (grad,) = torch.autograd.grad((bands[0, :, 0, 2] @ weight).sum(), boxes)
    row = image[0, 0, 4]
    slopes = {0: (row[2:7] - row[1:6]) @ weight, 1: (row[3:8] - row[2:7]) @ weight}
    found = grad[0, :, 0]  # of x: what lies before or behind, for about as many boxes
    right = center.detach()[0, :, 0] > 4
    assert 20 < right.sum() < 44
    for side, slope in slopes.items():
        torch.testing.assert_close(
            found[right == bool(side)],
            slope.expand(int((right == bool(side)).sum())),
            rtol=0.05,
            atol=0.02,
        )


@pytest.mark.parametrize(("extent", "box_size"), [(4.5, None), (4.0, 3.0)])
def test_only_squares_of_a_sample_per_pixel_can_sit_on_pixels(extent, box_size):
    one = BoxAutoencoder(Scaled(), 5, extent, signed=False, box_size=box_size)
    boxes = torch.tensor([[[3.3, 2.9, 2.0, 2.0]]])
    assert torch.equal(one.centers(boxes), boxes[..., :2])
    with pytest.raises(ValueError, match="whole_pixels needs one scale and a sample per pixel"):
        BoxAutoencoder(Scaled(), 5, extent, False, box_size, whole_pixels=True)


@pytest.mark.parametrize("signed", [False, True])
def test_patches_count_by_what_they_add_to_those_before(signed):
    """Each patch is half of what is there: the first leaves half, the second nothing."""
    image = torch.full((1, 1, 7, 7), 0.5 if signed else 0.0)
    image[..., 1:6, 1:6] = 0.8
    boxes = BOXES.repeat(1, 3, 1)  # (2 r q - q^2) / q^2 = 3, then 1, then -1
    torch.testing.assert_close(
        head(signed).marks(2.0, image, boxes), torch.tensor([[1.0, 0.5, 0.0]]), atol=1e-4, rtol=0
    )
    half = head(signed).marks(6.0, image, boxes)
    torch.testing.assert_close(half, torch.tensor([[3 / 6, 1 / 6, 0.0]]), atol=1e-4, rtol=0)


def test_only_what_lies_in_the_image_adds():
    """A patch half outside that explains all of its part of the image counts fully."""
    one = BoxAutoencoder(Unsquashed(), 5, 4.0, True, whole_pixels=True).eval()
    image = torch.full((1, 1, 7, 7), 0.9)
    boxes = torch.tensor([[[0.0, 3.0, 2.0, 2.0], [1.0, 3.0, 2.0, 2.0], [20.0, 3.0, 2.0, 2.0]]])
    # the second repeats three of its four columns: (1 - 3) / 4 is below 0; the third sees nothing
    assert one.marks(1.0, image, boxes).tolist() == [[pytest.approx(1, abs=1e-5), 0, 0]]
    first = one.marks(1.0, image, boxes[:, 1:])
    assert first.tolist() == [[pytest.approx(1, abs=1e-5), 0]]


def test_an_empty_image_has_a_finite_loss():
    image = torch.zeros(1, 1, 7, 7)
    assert head().loss(image, BOXES, image).item() == pytest.approx(0, abs=1e-4)


def test_signed_images_are_explained_around_gray():
    image = torch.full((1, 1, 7, 7), 0.1)  # a signal of -0.8
    one = head(signed=True)
    (found,) = one.predict(image, BOXES, torch.ones(1, 1))
    expected = torch.full((7, 7), 0.5)
    expected[1:6, 1:6] = 0.3
    torch.testing.assert_close(found.reconstruction[0], expected, atol=1e-5, rtol=0)
    assert found.patches.shape == (1, 1, 5, 5)
    torch.testing.assert_close(found.patches, torch.full((1, 1, 5, 5), -0.4), atol=1e-5, rtol=0)
    wanted = (25 * 0.4**2 + 24 * 0.8**2) / (49 * 0.8**2)
    assert one.loss(image, BOXES, image).item() == pytest.approx(wanted, 1e-4)


def test_no_box_explains_nothing():
    image = torch.full((2, 1, 7, 7), 0.8)
    loss = head().loss(image, torch.zeros(2, 0, 4), image)
    torch.testing.assert_close(loss, torch.ones(2))


def test_the_official_auto_encoder_mirrors_the_official_encoder():
    network = OfficialAutoencoder(1, 8)
    encoder = sum(one.numel() for one in OfficialEncoder(1, 8).parameters())
    assert sum(one.numel() for one in network.encoder.parameters()) == encoder
    codes = network.encoder(torch.rand(2, 1, 32, 32))
    assert codes.shape == (2, 128)
    sides = []
    for level in network.decoder.levels:
        level.register_forward_hook(lambda _, __, out: sides.append(tuple(out.shape[1:3])))
    assert network.decoder(codes).shape == (2, 1, 32, 32)
    assert sides == [(128, 2), (64, 4), (32, 8), (16, 16), (8, 32)]

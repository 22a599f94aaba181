"""Random warps: splines against scipy, images against ramps, and the identity."""

import numpy as np
import pytest
import torch
from scipy.interpolate import RBFInterpolator

from mist_bench.baselines.parts.warps import (
    Warp,
    WarpSpec,
    pixel_centers,
    random_warp,
    spline_basis,
    spline_weights,
)

STILL = WarpSpec(points=3, bending=0, translation=0, rotation=0, scaling=0)
LIVELY = WarpSpec(points=5, bending=0.05, translation=0.3, rotation=10, scaling=0.2)


def affine_warp(matrix, shift):
    """Return a warp of one image without a spline."""
    affine = torch.tensor([[[*matrix[0], shift[0]], [*matrix[1], shift[1]]]])
    return Warp(affine, 2, torch.zeros(1, 7, 2))


def random_images(size, side=8):
    return torch.rand(size, 1, side, side, generator=torch.Generator().manual_seed(0))


def test_pixel_centers_by_hand():
    wanted = [[-2 / 3, -0.5], [0, -0.5], [2 / 3, -0.5], [-2 / 3, 0.5], [0, 0.5], [2 / 3, 0.5]]
    torch.testing.assert_close(pixel_centers(2, 3, torch.zeros(1)), torch.tensor(wanted))


def test_a_warp_of_no_strength_is_the_identity():
    images = random_images(2)
    warp = random_warp(images, STILL)
    points = torch.rand(2, 5, 2) * 2 - 1
    torch.testing.assert_close(warp.points(points), points)
    torch.testing.assert_close(warp.images(images), images, atol=1e-5, rtol=0)


def test_a_spline_passes_through_its_control_points():
    controls = pixel_centers(4, 4, torch.zeros((), dtype=torch.float64))
    wanted = torch.randn(3, 16, 2, dtype=torch.float64)
    weights = spline_weights(controls, wanted)
    torch.testing.assert_close(spline_basis(controls, controls) @ weights, wanted)


def test_splines_are_those_of_scipy():
    controls = pixel_centers(4, 4, torch.zeros((), dtype=torch.float64))
    wanted = torch.randn(1, 16, 2, dtype=torch.float64)
    points = torch.rand(30, 2, dtype=torch.float64) * 2 - 1
    ours = spline_basis(points, controls) @ spline_weights(controls, wanted)
    theirs = RBFInterpolator(controls.numpy(), wanted[0].numpy(), kernel="thin_plate_spline")
    np.testing.assert_allclose(ours[0].numpy(), theirs(points.numpy()), atol=1e-3)


def test_an_affine_field_needs_no_bending():
    controls = pixel_centers(3, 3, torch.zeros((), dtype=torch.float64))
    field = 0.1 + controls @ torch.tensor([[0.2, -0.1], [0.3, 0.4]], dtype=torch.float64)
    weights = spline_weights(controls, field[None])
    torch.testing.assert_close(weights[0, :9], torch.zeros(9, 2, dtype=torch.float64))
    torch.testing.assert_close(weights[0, 9].tolist(), [0.1, 0.1])


def test_a_translation_reads_to_the_right():
    images = random_images(1)
    warped = affine_warp([[1.0, 0.0], [0.0, 1.0]], [2 * 2 / 8, 0.0]).images(images)  # 2 px
    torch.testing.assert_close(warped[..., :6], images[..., 2:])
    torch.testing.assert_close(warped[..., 6], images[..., 7])  # the edge goes on


def test_a_quarter_turn():
    images = random_images(1)
    warped = affine_warp([[0.0, -1.0], [1.0, 0.0]], [0.0, 0.0]).images(images)
    torch.testing.assert_close(warped, torch.rot90(images, 1, (2, 3)), atol=1e-5, rtol=0)


def test_points_lead_where_the_image_was_read():
    """The pixels of a ramp say where they come from: an oracle for both parts of the warp."""
    side = 64
    places = pixel_centers(side, side, torch.zeros(1))
    ramps = places.T.reshape(1, 2, side, side).expand(4, -1, -1, -1)
    torch.manual_seed(0)
    warp = random_warp(ramps, LIVELY)
    read = warp.images(ramps).flatten(2).transpose(1, 2)  # (B, H * W, 2)
    told = warp.points(places.expand(4, -1, -1))
    inside = (told.abs() < 0.9).all(-1) & (warp.move(places[None]).abs() < 0.9).all(-1)
    assert inside.float().mean() > 0.4
    torch.testing.assert_close(read[inside], told[inside], atol=2e-3, rtol=0)
    assert (told - places).abs().mean() > 0.05


def test_a_blob_is_brought_back():
    places = pixel_centers(64, 64, torch.zeros(1))
    center = torch.tensor([0.2, -0.3])
    blob = (-(places - center).square().sum(-1) / (2 * 0.06**2)).exp().reshape(1, 1, 64, 64)
    torch.manual_seed(1)
    warp = random_warp(blob, LIVELY)
    mass = warp.images(blob).flatten()
    found = (mass[:, None] * places).sum(0) / mass.sum()
    assert (found - center).abs().max() > 0.05
    assert (warp.points(found[None, None])[0, 0] - center).abs().max() < 0.02


def test_each_image_has_its_own_warp_from_the_seed():
    images = random_images(1).expand(64, -1, -1, -1)
    torch.manual_seed(0)
    warp = random_warp(images, LIVELY)
    torch.manual_seed(0)
    assert random_warp(images, LIVELY).affine.equal(warp.affine)
    assert not warp.affine[0].equal(warp.affine[1])
    shift = warp.affine[..., 2]
    assert shift.abs().max() <= 0.3
    assert shift.abs().max() > 0.25
    scale = torch.linalg.det(warp.affine[..., :2]).sqrt().log()
    assert scale.std().item() == pytest.approx(0.2, rel=0.3)
    angle = torch.atan2(warp.affine[:, 1, 0], warp.affine[:, 0, 0]).rad2deg()
    assert angle.std().item() == pytest.approx(10, rel=0.3)


def test_the_gradient_is_right_even_on_a_control_point():
    torch.manual_seed(0)
    warp = random_warp(torch.zeros(1, 1, 4, 4), LIVELY)
    warp = Warp(warp.affine.double(), warp.side, warp.weights.double())
    points = torch.rand(1, 3, 2, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(warp.points, points)
    at = pixel_centers(warp.side, warp.side, points)[None, :1].clone().requires_grad_()
    warp.bend(at).sum().backward()
    assert at.grad.isfinite().all()

"""Grid: where its cells are, and that they explain the whole image."""

from dataclasses import replace

import pytest
import torch
from conftest import run_of

from mist_bench.baselines.grid import build, cell_side, check, grid_boxes
from mist_bench.models.sampler import paste_patches, sample_patches
from mist_bench.models.specs import AdamSpec, EncoderSpec
from mist_bench.types import Batch, TaskSpec


def small(size=(1, 24, 24), patch_size=8):
    """Return the grid of nine cells with a small auto-encoder."""
    code = EncoderSpec(width=8, latents=4, patch_size=patch_size)
    return build(task(size=size), autoencoder=code, adam=AdamSpec(lr=5e-3))


def task(num_instances=9, size=(1, 24, 24)):
    return TaskSpec("reconstruction", size, num_instances, 0, 6.0)


def test_cells_tile_the_image():
    boxes = grid_boxes((80, 80), 3, 20.0)
    # Sec. 5.1: 3x3 cells, of 27 px since pixels are whole: 0 to 26, 27 to 53, 54 to 80
    centers = [13.0, 40.0, 67.0]
    expected = torch.tensor([[x, y, 20, 20] for y in centers for x in centers])
    assert torch.equal(boxes, expected)


def test_a_sample_per_pixel_copies_every_pixel():
    images = torch.rand(2, 1, 26, 26)
    grid = small((1, 26, 26), 9).eval()
    squares = grid.boxes.expand(2, -1, -1).clone()
    squares[..., 2:] = grid.head.extent
    assert torch.equal(grid.head.centers(squares), squares[..., :2])
    patches = sample_patches(images, squares, 9)
    torch.testing.assert_close(paste_patches(patches, squares, (26, 26)), images)


@pytest.mark.parametrize("patch_size", [4, 7, 8, 9])
def test_patches_of_ones_cover_every_pixel_once(patch_size):
    grid = small((1, 26, 26), patch_size)
    squares = grid.boxes.clone()
    squares[:, 2:] = grid.head.extent
    ones = torch.ones(1, 9, 1, patch_size, patch_size)
    canvas = paste_patches(ones, squares[None], (26, 26))[0, 0]
    torch.testing.assert_close(canvas[1:-1, 1:-1], torch.ones(24, 24))
    assert canvas.min() > 0.5  # at the image's edge the outermost samples fade
    assert canvas.max() < 1 + 1e-5


def test_the_cpu_preset_has_a_sample_per_pixel():
    spec = run_of("grid", "mnist_hard_reconstruction", preset="cpu")
    assert spec.params["autoencoder"]["patch_size"] == cell_side(80, 3) == 27


def test_its_boxes_are_those_of_every_method():
    grid = small()
    assert grid.boxes[:, 2:].unique().tolist() == [6]
    assert grid.supervision == "none"


def test_the_loss_falls_on_a_few_images():
    torch.manual_seed(0)
    grid = small()
    images = torch.nn.functional.avg_pool2d(torch.rand(8, 1, 24, 24), 5, 1, 2)
    losses = [grid.train_step(Batch(images))["loss"] for _ in range(60)]
    assert sum(losses[-10:]) < 0.6 * sum(losses[:10])


@pytest.mark.parametrize(
    ("num_instances", "size", "words"),
    [
        (8, (1, 24, 24), "got 8 cells in 24x24 px"),
        (9, (1, 24, 32), "got 9 cells in 24x32 px"),
        (25, (1, 12, 12), "5 cells of whole pixels a side do not fit 12 px"),
    ],
)
def test_what_is_no_grid_is_refused(num_instances, size, words):
    with pytest.raises(ValueError, match=words):
        check(task(num_instances, size))


def test_it_has_no_classes():
    with pytest.raises(ValueError, match="reconstruction only, not classification"):
        check(replace(task(), kind="classification"))

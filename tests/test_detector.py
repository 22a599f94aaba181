"""The detector around a stub network: conversions, offsets, the loss by hand."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from mist_bench.models.detector import Detector, gather_cells
from mist_bench.models.selection import cells_around
from mist_bench.models.specs import DetectorSpec


class Fixed(nn.Module):
    """A network that returns the same (channels, h, w) map for every image."""

    def __init__(self, raw, stride):
        super().__init__()
        self.raw, self.stride = nn.Parameter(raw), stride

    def forward(self, images):
        return self.raw.expand(len(images), *self.raw.shape)


def detector(raw=None, stride=4, **changes):
    """Return a detector of points without offsets, but for the changes of its spec."""
    raw = torch.zeros(3, 5, 5) if raw is None else raw
    plain = {"target_sigma": 0, "offset_weight": 0, "offset_kernel": 1}
    return Detector(Fixed(raw, stride), 8.0, DetectorSpec(**plain | changes))


def with_peak(x, y, size=(5, 5)):
    raw = torch.zeros(3, *size)
    raw[0, y, x] = 1
    return raw


@pytest.mark.parametrize(("stride", "center"), [(1, [2.0, 3.0]), (2, [4.5, 6.5]), (4, [9.5, 13.5])])
def test_a_cell_is_a_box_around_the_center_of_its_pixels(stride, center):
    boxes = detector(stride=stride).to_boxes(torch.tensor([[[2.0, 3.0]]]))
    assert boxes.tolist() == [[[*center, 8.0, 8.0]]]


@settings(deadline=None)
@given(
    x=st.floats(-10, 100, width=32), y=st.floats(-10, 100, width=32), s=st.sampled_from([1, 2, 4])
)
def test_cells_and_boxes_are_inverse(x, y, s):
    cells = torch.tensor([[[x, y]]])
    one = detector(stride=s)
    torch.testing.assert_close(one.to_cells(one.to_boxes(cells)), cells, atol=1e-4, rtol=1e-5)


def test_boxes_are_extracted_best_first():
    raw = with_peak(3, 1)
    raw[0, 4, 0] = 2
    one = detector(raw)
    heatmap, offsets = one(torch.zeros(2, 1, 20, 20))
    boxes, scores = one.extract(heatmap, offsets, 2)
    assert boxes.tolist() == [[[1.5, 17.5, 8, 8], [13.5, 5.5, 8, 8]]] * 2
    assert scores.tolist() == [[2, 1]] * 2
    assert not boxes.requires_grad


def test_offsets_move_boxes_by_cells():
    raw = with_peak(3, 1)
    raw[1, 1, 3], raw[2, 1, 3] = 0.25, -0.5  # of the selected cell
    raw[1:, 0, 0] = 9  # of another
    boxes, _ = (one := detector(raw, offset_weight=0.1)).extract(*one(torch.zeros(1, 1, 20, 20)), 1)
    assert boxes.tolist() == [[[13.5 + 4 * 0.25, 5.5 - 4 * 0.5, 8, 8]]]


def test_without_offsets_the_network_may_have_one_channel():
    one = detector(with_peak(3, 1)[:1])
    boxes, _ = one.extract(*one(torch.zeros(1, 1, 20, 20)), 1)
    assert boxes.tolist() == [[[13.5, 5.5, 8, 8]]]


def test_the_response_is_sharpened_where_asked():
    raw = with_peak(2, 2)
    heatmap, _ = detector(raw, softmax_kernel=3, softmax_strength=50.0)(torch.zeros(1, 1, 20, 20))
    assert heatmap[0, 2, 2].item() == pytest.approx(1, abs=1e-4)
    assert detector(raw)(torch.zeros(1, 1, 20, 20))[0][0].equal(raw[0])


def test_gather_reads_all_channels_at_a_cell():
    maps = torch.arange(24.0).view(1, 2, 3, 4)
    assert gather_cells(maps, torch.tensor([[5, 0]])).tolist() == [[[5, 17], [0, 12]]]


def test_the_loss_against_points_by_hand():
    one = detector()
    heatmap = torch.zeros(2, 5, 5)
    heatmap[0, 3, 2] = 0.5
    boxes = torch.tensor([[[9.5, 13.5, 8, 8]], [[0.0, 0, 8, 8]]])  # cells (2, 3) and (0, 0)
    loss, _ = one.loss(heatmap, torch.zeros(2, 2, 5, 5), boxes)
    assert loss.tolist() == pytest.approx([0.25 / 25, 1 / 25])


def test_the_loss_against_gaussians_vanishes_at_its_target():
    one = detector(target_sigma=1.0)
    boxes = torch.tensor([[[9.5, 13.5, 8, 8]]])
    y, x = torch.meshgrid(torch.arange(5.0), torch.arange(5.0), indexing="ij")
    target = torch.exp(-((x - 2) ** 2 + (y - 3) ** 2) / 2)[None]
    offsets = torch.zeros(1, 2, 5, 5)
    assert one.loss(target, offsets, boxes)[0].item() == pytest.approx(0, abs=1e-12)
    assert one.loss(target.flip(-2), offsets, boxes)[0].item() > 0.01


def test_the_loss_of_offsets_by_hand():
    one = detector(offset_weight=0.1)
    target = torch.zeros(1, 5, 5)
    target[0, 3, 2] = 1
    offsets = torch.zeros(1, 2, 5, 5)
    offsets[0, :, 3, 2] = torch.tensor([0.25, 2.0])
    offsets[0, :, 0, 0] = 7  # read by nobody
    boxes = torch.tensor([[[9.5 + 1, 13.5, 8, 8]]])  # a quarter of a cell to the right
    huber = (0 + (2.0 - 0.5)) / 2
    response, displacement = one.loss(target, offsets, boxes)
    assert (response.item(), displacement.item()) == pytest.approx((0, 0.1 * huber))


def test_cells_around_a_keypoint_learn_its_offset_too_by_hand():
    one = detector(offset_weight=0.1, offset_kernel=3, target_sigma=0.6)
    offsets = torch.zeros(1, 2, 5, 5)
    offsets[0, :, 2, 1] = torch.tensor([0.75, 0.0])  # exact: the keypoint is at x = 1.75
    offsets[0, :, 2, 2] = torch.tensor([0.25, 0.0])  # half a cell too far right
    offsets[0, :, 0, 0] = 7  # out of reach
    box = torch.tensor([[[1.75 * 4 + 1.5, 2 * 4 + 1.5, 8, 8]]])
    masses = torch.exp(-(torch.tensor([0.75, -0.25, -1.25]) ** 2) / (2 * 0.6**2))
    across = masses / masses.sum()
    down = torch.exp(-torch.tensor([1.0, 0, 1]) / (2 * 0.6**2))
    down = down / down.sum()
    # the other seven cells say 0; halves of squares below 1, mean over x and y
    expected = across[1] * down[1] * 0.5 * 0.5**2 / 2
    for column, x in enumerate((0.75, -0.25, -1.25)):
        for row, y in enumerate((1.0, 0.0, -1.0)):
            if row != 1 or column == 2:
                huber = sum(0.5 * d**2 if abs(d) < 1 else abs(d) - 0.5 for d in (x, y)) / 2
                expected = expected + across[column] * down[row] * huber
    assert one.offset_loss(offsets, box).item() == pytest.approx(0.1 * expected.item(), rel=1e-5)


def test_cells_off_the_map_do_not_count():
    index, weights = cells_around(torch.tensor([[[0.0, 0.0], [5.5, -1.5]]]), (4, 5), 3, 0.6)
    assert index.shape == weights.shape == (1, 2, 9)
    torch.testing.assert_close(weights.sum(-1), torch.ones(1, 2))
    inside = weights[0, 0] > 0
    assert inside.tolist() == [False] * 4 + [True, True, False, True, True]
    assert index[0, 0][inside].tolist() == [0, 1, 5, 6]
    assert index[0, 1][weights[0, 1] > 0].tolist() == [3, 4, 8, 9]  # a keypoint outside is clamped


def test_what_noise_moves_across_a_border_does_not_pull_offsets_to_the_middle():
    """A cell that learns only from the keypoints that fall into it learns their truncated mean."""
    true, noise = 0.45, 0.3 * torch.randn(1, 20_000, 1, generator=torch.Generator().manual_seed(0))
    keypoints = torch.cat([1 + true + noise, torch.ones_like(noise)], dim=-1)
    found = {}
    for kernel in (1, 3):
        index, weights = cells_around(keypoints, (3, 4), kernel, 0.6)
        share = weights * (index == 5)  # cell (1, 1)
        offsets = keypoints[..., None, 0] - 1
        found[kernel] = ((share * offsets).sum() / share.sum()).item()
    assert found[1] == pytest.approx(0.26, abs=0.02)
    assert found[3] == pytest.approx(true * 0.6**2 / (0.6**2 + 0.3**2), abs=0.02)


def test_each_image_has_its_own_loss():
    one = detector(offset_weight=0.1, offset_kernel=3, target_sigma=0.6)
    generator = torch.Generator().manual_seed(0)
    heatmap = torch.rand(3, 5, 5, generator=generator)
    offsets = torch.rand(3, 2, 5, 5, generator=generator)
    boxes = 20 * torch.rand(3, 2, 4, generator=generator)
    together = one.loss(heatmap, offsets, boxes)
    alone = [one.loss(heatmap[i : i + 1], offsets[i : i + 1], boxes[i : i + 1]) for i in range(3)]
    for part, parts in zip(together, zip(*alone, strict=True), strict=True):
        torch.testing.assert_close(part, torch.cat(parts))

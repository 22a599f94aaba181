"""Sharpening, E_K and G: hand cases, the official code's numbers, and G as the inverse of E_K."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mist_bench.models.selection import (
    gaussian_heatmap,
    local_spatial_softmax,
    max_pool,
    nearest_cells,
    point_heatmap,
    to_keypoints,
    top_k,
)


def dense_softmax(logits, kernel, strength, maximum="global", eps=1e-6):
    """Sharpen (h, w) by loops over windows, as the official code's words say."""
    h, w = logits.shape
    r = kernel // 2
    out = torch.zeros_like(logits)
    if maximum == "global":
        raised = torch.exp(strength * (logits - logits.max()))
    else:
        top = torch.zeros_like(logits)
        for y in range(h):
            for x in range(w):
                top[y, x] = logits[max(y - r, 0) : y + r + 1, max(x - r, 0) : x + r + 1].max()
        raised = torch.exp(strength * (logits - top))
    for y in range(h):
        for x in range(w):
            cy, cx = min(max(y, r), h - 1 - r), min(max(x, r), w - 1 - r)
            total = raised[cy - r : cy + r + 1, cx - r : cx + r + 1].sum()
            out[y, x] = raised[y, x] / (total + eps)
    return out


def found(heatmap, count, kernel=5):
    """The set of (x, y) that E_K selects in one (h, w) map."""
    index, _ = top_k(heatmap[None], count, kernel)
    return {tuple(point) for point in to_keypoints(index, heatmap.shape[1])[0].int().tolist()}


def with_peaks(peaks, size=(20, 20), background=0.0):
    heatmap = torch.full(size, background)
    for (x, y), value in peaks.items():
        heatmap[y, x] = value
    return heatmap


def test_a_constant_map_shares_its_mass_in_every_window():
    sharpened = local_spatial_softmax(torch.full((1, 30, 30), 2.0), 15, 10)
    torch.testing.assert_close(sharpened, torch.full((1, 30, 30), 1 / 225), atol=1e-7, rtol=1e-5)


@pytest.mark.parametrize(
    ("below", "expected"), [(1.0, 0.98), (1.2, 0.86), (1.38, 0.50), (1.5, 0.23), (2.0, 0.002)]
)
def test_a_peak_below_the_highest_fades_as_in_the_official_code(below, expected):
    logits = with_peaks({(15, 15): 0.0, (60, 60): -below}, (80, 80), background=-10.0)
    sharpened = local_spatial_softmax(logits[None], 15, 10)[0]
    assert sharpened[60, 60].item() == pytest.approx(expected, abs=0.01 if below < 2 else 0.001)
    assert sharpened[15, 15].item() == pytest.approx(1, abs=1e-4)


def test_the_local_maximum_keeps_a_peak_below_the_highest():
    logits = with_peaks({(15, 15): 0.0, (60, 60): -2.0}, (80, 80), background=-10.0)
    sharpened = local_spatial_softmax(logits[None], 15, 10, maximum="local")[0]
    assert sharpened[60, 60].item() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("maximum", ["global", "local"])
def test_the_two_passes_equal_a_dense_window(maximum):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 9, 12, dtype=torch.float64, generator=generator)
    sharpened = local_spatial_softmax(logits, 5, 1.5, maximum=maximum)
    expected = torch.stack([dense_softmax(one, 5, 1.5, maximum) for one in logits])
    torch.testing.assert_close(sharpened, expected)


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    strength=st.floats(0.1, 50),
    maximum=st.sampled_from(["global", "local"]),
)
def test_sharpened_maps_stay_between_0_and_1(seed, strength, maximum):
    logits = 10 * torch.randn(1, 12, 12, generator=torch.Generator().manual_seed(seed))
    sharpened = local_spatial_softmax(logits, 5, strength, maximum=maximum)
    assert sharpened.isfinite().all()
    assert sharpened.min() >= 0
    assert sharpened.max() <= 1 + 1e-6


def test_the_gradient_of_the_softmax_is_right():
    logits = torch.randn(1, 7, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    # without eps, subtracting the maximum changes nothing, so detaching it is exact
    assert torch.autograd.gradcheck(
        lambda x: local_spatial_softmax(x, 3, 2.0, eps=0.0), logits.requires_grad_()
    )


@pytest.mark.parametrize(
    ("kernel", "maximum", "words"),
    [(4, "global", "must be odd and fit .* got 4"), (3, "mean", "'global' or 'local', got 'mean'")],
)
def test_other_windows_and_maxima_are_refused(kernel, maximum, words):
    with pytest.raises(ValueError, match=words):
        local_spatial_softmax(torch.zeros(1, 8, 8), kernel, 1, maximum=maximum)


def test_the_separable_maximum_equals_a_dense_one():
    heatmap = torch.randn(2, 9, 11, generator=torch.Generator().manual_seed(0))
    dense = torch.nn.functional.max_pool2d(heatmap[:, None], 5, stride=1, padding=2)[:, 0]
    assert torch.equal(max_pool(heatmap, 5), dense)


def test_peaks_2_px_apart_become_one():
    heatmap = with_peaks({(8, 8): 1.0, (10, 8): 0.9, (3, 15): 0.5})
    assert found(heatmap, 2) == {(8, 8), (3, 15)}


def test_peaks_3_px_apart_stay_two():
    heatmap = with_peaks({(8, 8): 1.0, (11, 8): 0.9, (3, 15): 0.5})
    assert found(heatmap, 2) == {(8, 8), (11, 8)}


def test_equal_neighbors_are_both_kept():
    assert found(with_peaks({(8, 8): 1.0, (9, 8): 1.0, (3, 15): 0.5}), 2) == {(8, 8), (9, 8)}


def test_selection_is_sorted_and_says_x_before_y():
    heatmap = with_peaks({(2, 7): 0.5, (12, 3): 0.9, (17, 17): 0.7})
    index, scores = top_k(heatmap[None], 3, 5)
    assert to_keypoints(index, 20).tolist() == [[[12, 3], [17, 17], [2, 7]]]
    assert scores[0].tolist() == pytest.approx([0.9, 0.7, 0.5])


def test_negative_maxima_outrank_suppressed_cells():
    heatmap = with_peaks({(4, 4): -1.0, (14, 14): -2.0}, background=-5.0)
    assert found(heatmap, 2) == {(4, 4), (14, 14)}


def test_missing_maxima_are_filled_with_distinct_cells_of_the_lowest_finite_score():
    y, x = torch.meshgrid(torch.arange(6.0), torch.arange(6.0), indexing="ij")
    slope = x + 10 * y  # a single local maximum, in the corner
    index, scores = top_k(slope[None], 4, 3)
    assert index[0, 0] == 35
    assert scores[0].tolist() == [55, *[torch.finfo(torch.float32).min] * 3]
    assert len(set(index[0].tolist())) == 4


@pytest.mark.parametrize("kernel", [3, 5])
def test_a_heatmap_that_is_not_a_number_is_refused(kernel):
    heatmap = with_peaks({(8, 8): torch.nan})
    with pytest.raises(ValueError, match="not numbers: training has diverged"):
        top_k(heatmap[None], 2, kernel)


def test_more_keypoints_than_cells_are_refused():
    with pytest.raises(ValueError, match="cannot select 5 of 4 cells"):
        top_k(torch.zeros(1, 2, 2), 5, 3)


def test_halves_round_up_and_outside_is_clamped():
    keypoints = torch.tensor([[[0.5, 1.5], [2.49, 2.51], [-0.5, -3.0], [9.0, 3.5], [-0.51, 3.49]]])
    cells = to_keypoints(nearest_cells(keypoints, (4, 6)), 6)
    assert cells.tolist() == [[[1, 2], [2, 3], [0, 0], [5, 3], [0, 3]]]


def test_points_by_hand():
    heatmap = point_heatmap(torch.tensor([[[0.5, 1.0], [1.0, 1.2], [3.0, 0.0]]]), (2, 4))
    # the first two share a cell and leave a single 1
    assert heatmap.tolist() == [[[0, 0, 0, 1], [0, 1, 0, 0]]]


def test_gaussians_by_hand():
    heatmap = gaussian_heatmap(torch.tensor([[[1.2, 0.0], [3.0, 0.0]]]), (2, 4), sigma=1.0)
    near, far, diagonal = 2.718281828**-0.5, 2.718281828**-2, 2.718281828**-1
    assert heatmap[0, 0].tolist() == pytest.approx([near + far**2.25, 1 + far, 2 * near, 1 + far])
    assert heatmap[0, 1, 1].item() == pytest.approx(near + far * near)
    assert heatmap[0, 1, 0].item() == pytest.approx(diagonal + far**2.25 * near)


@settings(max_examples=100, deadline=None)
@given(
    cells=st.sets(st.integers(0, 12 * 9 - 1), min_size=1, max_size=12),
    kernel=st.sampled_from([1, 3, 5]),
)
def test_points_are_inverted_by_the_selection(cells, kernel):
    keypoints = to_keypoints(torch.tensor([sorted(cells)]), 12)
    index, _ = top_k(point_heatmap(keypoints, (9, 12)), len(cells), kernel)
    assert set(index[0].tolist()) == cells


@settings(max_examples=100, deadline=None)
@given(
    places=st.sets(st.tuples(st.integers(0, 4), st.integers(0, 3)), min_size=1, max_size=8),
    sigma=st.floats(0.3, 1.2),
)
def test_gaussians_are_inverted_by_the_selection(places, sigma):
    keypoints = torch.tensor([[[5.0 * x + 1, 5.0 * y + 2] for x, y in sorted(places)]])
    index, _ = top_k(gaussian_heatmap(keypoints, (20, 25), sigma), len(places), 5)
    assert {tuple(p) for p in to_keypoints(index, 25)[0].tolist()} == {
        tuple(p) for p in keypoints[0].tolist()
    }


def test_windows_that_cannot_be_centered_or_do_not_fit_are_refused():
    heatmap = torch.rand(1, 6, 6)
    with pytest.raises(ValueError, match="suppression's window must be odd, got 4"):
        top_k(heatmap, 1, 4)
    with pytest.raises(ValueError, match=r"fit the \(6, 6\) map, got 7"):
        local_spatial_softmax(heatmap, 7, 10.0)

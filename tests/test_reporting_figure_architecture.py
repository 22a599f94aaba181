"""Figure 1: what is drawn of a made-up trace, and where."""

import numpy as np
import pytest
from matplotlib.figure import Figure
from test_reporting_figure_encoding import reconstruction_config, texts
from test_reporting_tables import make_config, put_run

from mist_bench.datasets.files import save_manifest
from mist_bench.reporting.figures.figure1_stages import (
    arrow,
    draw_layers,
    draw_step,
    figure1,
    montage,
)
from mist_bench.reporting.figures.parts import MissingResultError

EXPERIMENT = "mnist_hard_reconstruction"
SIDE, K, CELLS, P = 16, 2, 4, 5


def put_trace(results, scales=1):
    """Store a trace of an image of 16 px and heatmaps of 4 cells."""
    put_run(results, "mist", 0, {"rmse": 0.1}, experiment=EXPERIMENT)
    data = results / "datasets" / "mnist_hard"
    data.mkdir(parents=True)
    save_manifest(data, {"source": "made up", "splits": {}})
    boxes = np.array([[4, 4, 6, 6], [10, 12, 6, 6]], np.float32)
    stages = {
        "image": np.full((1, SIDE, SIDE), 0.5, np.float32),
        "scale_space": np.full((scales, CELLS, CELLS), 0.25, np.float32),
        "heatmap": np.full((CELLS, CELLS), 0.75, np.float32),
        "maxima": np.eye(CELLS, dtype=bool),
        "boxes": boxes,
        "patches": np.full((K, 1, P, P), 0.2, np.float32),
        "decoded": np.full((K, 1, P, P), 0.3, np.float32),
        "reconstruction": np.full((1, SIDE, SIDE), 0.6, np.float32),
        "moved": boxes + np.array([0.5, 0, 0, 0], np.float32),
        "target": np.full((scales, CELLS, CELLS), 2, np.float32),
    }
    folder = results / "runs" / EXPERIMENT / "mist" / "seed0"
    np.savez(folder / "trace.npz", **stages)
    return folder


def shown(figure):
    """Return the array of every picture, in the order they are drawn."""
    return [ax.get_images()[0].get_array() for ax in figure.axes if ax.get_images()]


def test_every_stage_is_drawn(tmp_path):
    put_trace(tmp_path)
    figure = figure1(reconstruction_config(), tmp_path)
    image, maxima, boxes, patches, decoded, synthesis, heatmap, moved, target = shown(figure)
    assert (image == 0.5).all()
    assert (heatmap == 0.25).all()
    assert maxima.tolist() == (0.75 * np.eye(CELLS)).tolist()
    assert (boxes == 0.5).all()
    assert patches.shape == decoded.shape == (2 * P + 1, 2 * P + 1)
    assert (patches[:P, :P] == np.float32(0.2)).all()
    assert (decoded[:P, P + 1 :] == np.float32(0.3)).all()
    assert (synthesis == np.float32(0.6)).all()
    assert (moved == 0.5).all()
    assert (target == 2).all()


def test_heatmaps_share_one_color_scale(tmp_path):
    put_trace(tmp_path)
    figure = figure1(reconstruction_config(), tmp_path)
    pictures = [ax.get_images()[0] for ax in figure.axes if ax.get_images()]
    assert {pictures[k].get_clim() for k in (1, 6, 8)} == {(0, 2)}


def test_stages_and_equations_are_named(tmp_path):
    put_trace(tmp_path)
    words = texts(figure1(reconstruction_config(), tmp_path))
    for name in (
        "Image",
        "Heatmap",
        "Local maxima",
        "Patches",
        "Auto-encoded patches",
        "Synthesis",
        "Target",
        "NMS",
        r"\mathcal{H}_\eta",
        r"\mathcal{E}_K",
        r"\mathcal{S}",
        r"\mathcal{T}_\tau",
        r"\mathcal{S}^{-1}",
        r"\mathcal{G}",
        r"\mathcal{L}_\mathrm{task}",
        *(f"(Eq. {n})" for n in (1, 6, 7, 8)),
        "Steps of",
        "drawn 20\u00d7 as long",  # half a pixel, to be drawn 10 px long
        "A single scale",
        "Preset made_up; seed 0; training steps: MIST 3,000. Data: made up.",
    ):
        assert name in words, name


def test_every_scale_has_its_layer(tmp_path):
    put_trace(tmp_path, scales=3)
    figure = figure1(reconstruction_config(), tmp_path)
    assert len(shown(figure)) == 9 + 2 * 2
    assert "3 scales" in texts(figure)


def test_layers_share_the_place_of_one_with_the_first_in_front():
    figure = Figure(figsize=(4, 5))  # so that the place is square
    host = figure.add_axes((0.2, 0.1, 0.5, 0.4))
    maps = np.arange(3.0)[:, None, None] * np.ones((3, 2, 2))
    draw_layers(figure, host, maps, {})
    layers = figure.axes[1:]
    assert [ax.get_images()[0].get_array().max() for ax in layers] == [0, 1, 2]
    depths = [ax.get_zorder() for ax in layers]
    assert depths == sorted(depths, reverse=True)
    first, last = layers[0].get_position(), layers[-1].get_position()
    # a layer is 1 / 1.24 of the whole, as two shifts are .12 of a layer each
    np.testing.assert_allclose(first.bounds, (0.2, 0.1, 0.5 / 1.24, 0.4 / 1.24))
    np.testing.assert_allclose(last.corners()[-1], (0.7, 0.5))


def test_patches_side_by_side_by_hand():
    sheet = montage(np.arange(5.0).reshape(5, 1, 1, 1) / 10)
    assert sheet.tolist() == [
        [0, 1, 0.1, 1, 0.2],
        [1, 1, 1, 1, 1],
        [0.3, 1, 0.4, 1, 1],
        [1, 1, 1, 1, 1],
        [1, 1, 1, 1, 1],
    ]
    assert montage(np.zeros((4, 3, 2, 2))).shape == (5, 5, 3)


@pytest.mark.parametrize(("length", "factor"), [(3, 3), (0.5, 20), (30, 1), (0, 1)])
def test_short_steps_are_drawn_longer(length, factor):
    ax = Figure().subplots()
    start = np.array([[4.0, 5.0], [9.0, 9.0]])
    draw_step(ax, np.zeros((20, 20)), start, start + np.array([[length, 0], [0, length / 2]]))
    (steps,) = ax.collections
    assert steps.U.tolist() == [length * factor, 0]
    assert steps.V.tolist() == [0, length * factor / 2]
    told = ax.get_xlabel().partition(", ")[2]
    assert told == (f"drawn {factor}\u00d7 as long" if factor > 1 else "")


def test_an_arrow_ends_where_its_last_point_is():
    ax = Figure().subplots()
    arrow(ax, (0, 0), (0, 1), (2, 1), color="black")
    assert ax.lines[0].get_xydata().tolist() == [[0, 0], [0, 1]]
    (head,) = ax.texts
    assert (head.xy, head.xyann) == ((2, 1), (0, 1))


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(MissingResultError, match=f"does not run mist in {EXPERIMENT}"):
        figure1(make_config(), tmp_path)
    with pytest.raises(MissingResultError, match=f"{EXPERIMENT}/mist/seed0 has no trace.npz"):
        figure1(reconstruction_config(), tmp_path)

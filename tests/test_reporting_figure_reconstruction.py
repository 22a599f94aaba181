"""Figure 2: who is shown, in which order, and what happens to those that have not run."""

import numpy as np
import pytest
from test_reporting_figure_encoding import put_reconstruction, reconstruction_config, texts
from test_reporting_tables import make_config

from mist_bench.reporting.figures.figure2_reconstructions import COMPARED, figure2, reconstructions
from mist_bench.reporting.figures.parts import MissingResultError

EASY, HARD = "mnist_easy_reconstruction", "mnist_hard_reconstruction"


@pytest.fixture
def results(tmp_path):
    """Channel-wise has run on both sets, MIST on the hard one only."""
    put_reconstruction(tmp_path, EASY, "channelwise", shade=1)
    put_reconstruction(tmp_path, HARD, "channelwise", shade=1)
    put_reconstruction(tmp_path, HARD, "mist", shade=0.5)
    return tmp_path


def columns(figure, count):
    """Return the axes of each row."""
    return [figure.axes[k : k + count] for k in range(0, len(figure.axes), count)]


def test_every_method_of_the_paper_has_a_column_and_rivals_follow(results):
    figure = figure2(reconstruction_config(methods=["rival", "mist", "channelwise"]), results)
    rows = columns(figure, 7)
    assert len(rows) == 4
    titles = [ax.get_title() for ax in rows[0]]
    assert titles == ["Input", "MIST", "grid", "Ch.-wise", "air", "landmarks", "My_rival"]
    assert [row[0].get_ylabel() for row in rows] == [
        "MNIST-easy, image 0",
        "MNIST-easy, image 1",
        "MNIST-hard, image 0",
        "MNIST-hard, image 1",
    ]


def test_a_method_that_has_not_run_leaves_its_panels_empty(results):
    figure = figure2(reconstruction_config(methods=["mist", "channelwise"]), results)
    rows = columns(figure, 1 + len(COMPARED))
    for r, row in enumerate(rows):
        empty = [ax.texts[0].get_text() if ax.texts else "" for ax in row]
        mist = "not run" if r < 2 else ""
        assert empty == ["", mist, "not run", "", "not run", "not run"]
        assert row[3].get_xlabel() == "RMSE 0.000"
        assert row[1].get_xlabel() == ("" if r < 2 else "RMSE 0.088")  # half of 50 of 1600 px
    image, mist = (rows[2][k].get_images()[0].get_array() for k in (0, 1))
    np.testing.assert_allclose(mist, image / 2, atol=1e-3)


def test_the_caption_tells_steps_and_rule(results):
    words = texts(figure2(reconstruction_config(methods=["mist", "channelwise"]), results))
    steps = "on MNIST-easy: Ch.-wise 3,000; on MNIST-hard: MIST 3,000, Ch.-wise 3,000"
    assert f"Preset made_up; seed 0; training steps {steps}. Data: squares. " in words
    assert "Images: the first 2 of each test set, numbered from 0, the same for" in words


def test_only_what_the_config_runs_is_shown(results):
    config = reconstruction_config(methods=["channelwise"])
    assert list(reconstructions(config, results, HARD, COMPARED)) == ["channelwise"]


def test_nothing_to_show_is_said(tmp_path):
    with pytest.raises(MissingResultError, match="no method has reconstructed"):
        figure2(reconstruction_config(), tmp_path)
    with pytest.raises(MissingResultError, match=f"the config has no {EASY}"):
        figure2(make_config(), tmp_path)

"""Figure 7: the curves of all seeds by hand, and the file from made-up runs."""

import json

import numpy as np
import pandas as pd
import pytest
from test_reporting_tables import HARD, make_config

from mist_bench.datasets.files import Split, save_manifest, save_split
from mist_bench.reporting.figures.figure7_training import MAPS, figure7, losses, spread
from mist_bench.reporting.figures.parts import MissingResultError


def curve(*values, steps=(50, 100, 150)):
    rows = zip(steps, values, strict=True)
    return pd.DataFrame([{"step": s, "loss": v, "heatmap_loss": 10 * v} for s, v in rows])


def put_training(results, seed, *values, steps=(50, 100, 150)):
    folder = results / "runs" / HARD / "mist" / f"seed{seed}"
    folder.mkdir(parents=True)
    curve(*values).to_csv(folder / "train.csv", index=False)
    (folder / "run.json").write_text(json.dumps({"status": "ok", "steps": 150}))
    maps = np.arange(len(steps) * 16, dtype=np.float16).reshape(-1, 4, 4) / 100
    np.savez(folder / "heatmaps.npz", steps=np.array(steps, np.int64), heatmaps=maps)
    return folder


@pytest.fixture
def results(tmp_path):
    folder = tmp_path / "cpu"
    data = folder / "datasets" / "mnist_hard"
    data.mkdir(parents=True)
    arrays = {
        "images": np.full((2, 1, 80, 80), 100, np.uint8),
        "counts": np.array([1, 1]),
        "labels": np.zeros((2, 1), np.int64),
        "boxes": np.full((2, 1, 4), 20, np.float32),
    }
    entry = save_split(data, "val", Split(arrays, "gray"))
    save_manifest(data, {"source": "gray images", "splits": {"val": entry}})
    return folder


def test_a_band_is_from_the_least_to_the_most_by_hand():
    found = losses([curve(3, 2, 1), curve(6, 4, 1, steps=(50, 100, 200))])
    assert found["loss"].to_dict("index") == {
        50: {"mean": 4.5, "least": 3, "most": 6},
        100: {"mean": 3, "least": 2, "most": 4},  # 150 is not in both
    }
    assert found["heatmap_loss"]["mean"].tolist() == [45, 30]


def test_seeds_without_a_common_step_have_no_figure():
    with pytest.raises(MissingResultError, match="no step in common"):
        losses([curve(3, 2, 1), curve(3, 2, 1, steps=(7, 14, 21))])


def test_heatmaps_are_spread_over_the_training():
    steps = np.array([1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 3000])
    shown = spread(steps, np.arange(12.0)[:, None, None].repeat(2, 1))
    assert {step: int(one[0, 0]) for step, one in shown.items()} == {
        # nearest to 1, 4.96, 24.6, 122, 605, 3000
        **{1: 0, 5: 2, 20: 4, 100: 6, 500: 8, 3000: 11}
    }
    assert len(shown) == MAPS
    assert list(spread(steps[:2], np.zeros((2, 2, 2)))) == [1, 2]


def test_the_figure_shows_losses_image_and_heatmaps(results):
    for seed in (0, 2):
        put_training(results, seed, 0.1, 0.02, 0.01 + seed)
    figure = figure7(make_config(), results)
    first, second, image, *maps = figure.axes
    assert (first.get_title(), second.get_title()) == ("(a) task loss", "(b) heatmap loss")
    assert first.get_yscale() == "log"
    assert first.lines[0].get_ydata().tolist() == pytest.approx([0.1, 0.02, 1.01])
    assert len(first.collections) == 1  # the band
    assert image.images[0].get_array()[0, 0] == pytest.approx(100 / 255)
    assert [ax.get_title() for ax in maps] == ["50", "100", "150"]
    assert maps[2].images[0].get_array()[3, 3] == pytest.approx(0.47, abs=1e-3)
    words = " ".join(figure.texts[0].get_text().split())
    assert "mean over the seeds 0, 2; band" in words
    assert "gray images" in words


def test_a_single_seed_has_no_band_and_says_so(results):
    put_training(results, 1, 0.1, 0.02, 0.01)
    figure = figure7(make_config(), results)
    assert not figure.axes[0].collections
    words = " ".join(figure.texts[0].get_text().split())
    assert "Seed 1 alone, hence no band" in words
    assert "Heatmaps: seed 1" in words


@pytest.mark.parametrize("lost", ["train.csv", "heatmaps.npz"])
def test_a_run_without_its_files_is_not_drawn(results, lost):
    (put_training(results, 0, 0.1, 0.02, 0.01) / lost).unlink()
    with pytest.raises(MissingResultError, match=f"no seed of {HARD}/mist has train.csv"):
        figure7(make_config(), results)


def test_without_heatmaps_there_is_no_figure(results):
    put_training(results, 0, 0.1, 0.02, 0.01, steps=())
    with pytest.raises(MissingResultError, match="stored no heatmap"):
        figure7(make_config(), results)


def test_a_config_without_mist_has_no_figure(results):
    with pytest.raises(MissingResultError, match="does not run mist"):
        figure7(make_config(methods=["channelwise"]), results)

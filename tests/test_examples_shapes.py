"""The example of a dataset outside the package: it fulfils the contract, its overlay is valid."""

from pathlib import Path

import numpy as np
import pytest
import yaml

from mist_bench.config import resolve as settings
from mist_bench.config import targets
from mist_bench.config.schema import DatasetSpec
from mist_bench.datasets.build import build_dataset
from mist_bench.datasets.files import load_split

FOLDER = Path(__file__).parents[1] / "examples" / "shapes"
OVERLAY = yaml.safe_load((FOLDER / "config.yaml").read_text())


@pytest.fixture(autouse=True)
def on_the_path(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))


def build(out, **changes):
    entry = {"name": "shapes", "preset": "smoke", **OVERLAY["datasets"]["shapes"]}
    entry |= {"sizes": {"train": 30, "val": 4, "test": 4}, **changes}
    build_dataset(settings.checked("shapes", entry, DatasetSpec), out)
    return load_split(out, "train")


def test_the_dataset_is_built(tmp_path):
    arrays = build(tmp_path / "shapes")
    assert arrays["images"].shape == (30, 1, 80, 80)
    assert set(np.unique(arrays["labels"])) == {0, 1, 2}
    for image, boxes in zip(arrays["images"][:, 0], arrays["boxes"], strict=True):
        corners = (boxes[:, :2] - 9.5).astype(int)
        inside = np.zeros_like(image, dtype=bool)
        for x, y in corners:
            assert not inside[y : y + 20, x : x + 20].any()  # apart
            inside[y : y + 20, x : x + 20] = True
        assert (image[inside] > 120).mean() > 0.45  # a triangle fills half of its box
        assert image[~inside].max() < 120


def test_shapes_that_do_not_fit(tmp_path):
    with pytest.raises(ValueError, match="10 shapes of 20 px do not fit a canvas of 70 px"):
        build(tmp_path / "out", params={"num_shapes": 10, "canvas": 70})
    with pytest.raises(ValueError, match=r"params\.side: .*valid integer"):
        build(tmp_path / "out", params={"side": "20"})


def test_the_overlay_is_valid():
    config = settings.load(targets.SETTINGS, {"preset": "smoke", **OVERLAY})
    for method in OVERLAY["experiments"]["shapes_classification"]["methods"]:
        run = settings.run_spec(config, "shapes_classification", method, 0)
        assert (run.dataset, run.task.num_classes) == ("shapes", 3)

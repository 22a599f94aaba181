import json

import numpy as np
import pytest
from devkits import PARAMS, list_voc, write_voc

from mist_bench.datasets.photographs import pascal_coco
from mist_bench.datasets.photographs.pascal_coco import make_split
from mist_bench.datasets.standin.specs import LayoutSpec, StandinSpec

STANDIN = StandinSpec(layout=LayoutSpec(shapes=(3, 3)))
OPTIONS = {"sources": ("COCO",), "standin": STANDIN}


@pytest.fixture
def calls(monkeypatch):
    """A generator of scenes, of which every third fails a filter; it keeps its arguments."""
    calls = []

    def write_devkit(folder, split, count, rng, spec):
        calls.append((folder, split, count, rng.random(), spec))
        names = [f"{split}_{i:06d}" for i in range(count)]
        for i, name in enumerate(names):
            write_voc(folder, name, ("sofa", 0, 11, 6, 20 if i % 3 else 32, 15))
        list_voc(folder, split, *names)

    monkeypatch.setattr(pascal_coco, "write_devkit", write_devkit)
    return calls


def make(split="val", size=4, **changes):
    return make_split(split, size, np.random.default_rng(0), **{**PARAMS, **OPTIONS, **changes})


def test_scenes_go_the_way_of_photographs(calls):
    made = make()
    folder, split, count, _, spec = calls[0]
    assert (split, count, spec) == ("val", 6, STANDIN)
    assert not folder.exists()
    index = json.loads(made.files["val_index.json"])
    # in their order, whatever a hash of their names says
    assert [each["id"] for each in index] == [f"VOC2007/val_{i:06d}" for i in (1, 2, 4, 5)]
    assert made.arrays["images"].shape == (4, 3, 16, 16)
    assert made.arrays["labels"].tolist() == [[18, -1]] * 4


def test_scenes_are_never_taken_for_photographs(calls):
    made = make()
    assert made.source.startswith("stand-in scenes drawn from OpenMoji")
    assert made.source == make("train").source
    assert made.files["val_counts.csv"].splitlines() == [
        "step,images,paper",
        "annotated,6,",
        "left out: annotated for other tasks,0,",
        "left out: no object,0,",
        "left out: large object,0,",
        "left out: elongated object,2,",
        "left out: too many objects,0,",
        "left out: no square,0,",
        "kept,4,",
        "kept: val,4,",
        "val: more than asked for,0,",
        "val: used,4,",
    ]
    assert made.files["val_problems.csv"] == "photo,file,reason,detail\n"


def test_a_surplus_that_is_too_small(calls):
    with pytest.raises(ValueError, match="split val: fewer than 4 stand-in scenes") as caught:
        make(surplus=0.2)
    assert str(caught.value).endswith("3 kept: val, 3 val: used): raise surplus")
    assert calls[0][2] == 5


def test_more_scenes_leave_the_first_as_they_are(calls):
    few, many = make(), make(surplus=2)
    assert [call[2] for call in calls] == [6, 12]
    assert calls[0][3] == calls[1][3]
    assert few.files["val_index.json"] == many.files["val_index.json"]
    assert (few.arrays["images"] == many.arrays["images"]).all()


@pytest.mark.usefixtures("calls")
def test_a_generator_that_fails_leaves_no_folder(monkeypatch, tmp_path):
    def fail(folder, *args):
        (folder / "a").touch()
        raise ValueError("no ink")

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(pascal_coco, "write_devkit", fail)
    with pytest.raises(ValueError, match="no ink"):
        make()
    assert not list(tmp_path.iterdir())

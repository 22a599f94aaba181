"""The cache of features as the workflow sees it: what reads images, and what makes it stale."""

import json
import os
import shutil

import pytest
from devkits import write_voc
from PIL import Image
from pipeline import done, jobs

from mist_bench.datasets.files import load_manifest

FOLDER = "results/smoke/features/pascal_coco"
RUN = "results/smoke/runs/pascal_coco_classification/mist/seed0"
# a backbone without weights: the means of 16 x 16 px
BACKBONE = """from torch import nn


class Pooled(nn.Module):
    def __init__(self, scale):
        super().__init__()
        self.scale = scale

    def forward(self, images):
        return self.scale * nn.functional.avg_pool2d(images, 16)


def build(*, scale: float):
    return Pooled(scale)
"""

pytestmark = [pytest.mark.workflow, pytest.mark.timeout(7200)]


def settings(*, scale=1, steps=4):
    """Return the arguments that put tiny photographs and features in PASCAL+COCO's place."""
    dataset = (
        "{image_size: [3, 64, 64], box_size: 32, features: {backbone: pooled}, params: "
        "{root: photographs, side: 64, fractions: {train: 0.6, val: 0.2, test: 0.2}}}"
    )
    backbone = (
        f"{{module: pooled, channels: 3, stride: 16, origin: 7.5, params: {{scale: {scale}}}}}"
    )
    training = f"{{training: {{steps: {steps}, validate_every: 4, checkpoint_every: 4}}}}"
    return (
        "--config",
        "preset=smoke",
        "device=cpu",
        f"datasets={{pascal_coco: {dataset}}}",
        f"backbones={{pooled: {backbone}}}",
        f"methods={{mist: {{experiments: {{pascal_coco_classification: {training}}}}}}}",
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder in which MIST was trained on features of 20 photographs, which hold a cow each."""
    folder = tmp_path_factory.mktemp("features")
    (folder / "pooled.py").write_text(BACKBONE)
    for number in range(20):
        write_voc(folder / "photographs", f"{number:06d}", ("cow", 0, 11 + number % 5, 6, 25, 18))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)
        printed = done(folder, f"{RUN}/train.csv", "--cores", "1", *settings())
        assert jobs(printed) == {"dataset": 1, "features": 1, "train": 1, "total": 3}
        yield folder


def planned(folder, **changes):
    """Return the jobs that a changed configuration asks for."""
    return jobs(done(folder, f"{RUN}/train.csv", "--dry-run", *settings(**changes)))


def test_a_parameter_makes_stale_what_it_is_of(trained):
    assert planned(trained) == {}
    assert planned(trained, steps=8) == {"train": 1, "total": 1}
    assert planned(trained, scale=2) == {"features": 1, "train": 1, "total": 2}


@pytest.fixture
def copy(trained, tmp_path):
    """A copy of the finished folder, to be changed; times are kept."""
    return shutil.copytree(trained, tmp_path / "copy")


def test_training_over_several_epochs_reads_no_image(copy):
    for path in (copy / "results/smoke/datasets/pascal_coco").glob("*.npz"):
        path.unlink()
    cells = load_manifest(copy / FOLDER)["splits"]["train"]["arrays"]["images"]["shape"][0]
    steps = 2 * cells // 8 + 1  # of 8 images: the third epoch begins
    printed = done(copy, f"{RUN}/train.csv", "--cores", "1", *settings(steps=steps))
    assert jobs(printed) == {"train": 1, "total": 1}
    last = (copy / RUN / "train.csv").read_text().splitlines()[-1]
    assert last.split(",")[0] == str(steps)


def test_a_changed_photograph_makes_images_features_and_run_stale(copy):
    before = load_manifest(copy / FOLDER)
    index = (copy / "results/smoke/datasets/pascal_coco/val_index.json").read_text()
    path = copy / "photographs" / json.loads(index)[0]["file"]
    Image.open(path).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(path)
    assert planned(copy) == {"dataset": 1, "features": 1, "train": 1, "total": 3}
    done(copy, f"{FOLDER}/manifest.json", "--cores", "1", *settings())
    after = load_manifest(copy / FOLDER)
    assert after["dataset"] != before["dataset"]
    assert after["splits"]["val"]["arrays"]["images"] != before["splits"]["val"]["arrays"]["images"]
    assert planned(copy) == {"train": 1, "total": 1}

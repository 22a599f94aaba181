"""The examples as their READMEs tell: modules that are not installed, one entry each, a table."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from pipeline import ROOT, done

pytestmark = [pytest.mark.workflow, pytest.mark.timeout(7200)]
SPOTS = "results/smoke/runs/mnist_hard_classification/bright_spots/seed0"
SHAPES = "results/smoke/runs/shapes_classification/mist/seed0"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder in which both examples have run in the smoke preset, outside of the clone."""
    place = tmp_path_factory.mktemp("examples")
    for name in ("bright_spots", "shapes"):
        shutil.copytree(ROOT / "examples" / name, place / name)
    overlays = [place / name / "config.yaml" for name in ("bright_spots", "shapes")]
    path = os.pathsep.join(str(overlay.parent) for overlay in overlays)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", path)
        done(
            *(place, "--cores", "2", "table_shapes_classification", f"{SPOTS}/metrics.json"),
            *("--configfile", *overlays, "--config", "preset=smoke"),
        )
        yield place


def test_a_dataset_of_ones_own_has_a_table(folder):
    with (folder / "results/smoke/tables/table_shapes_classification.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["method"] for row in rows} == {"mist", "supervised"}
    assert all(0 <= float(row["mean"]) <= 1 for row in rows if row["metric"] == "iou50")


def test_a_method_of_ones_own_is_trained_with_its_defaults(folder):
    spec = json.loads((folder / SPOTS / "config.json").read_text())
    assert (spec["module"], spec["params"]["blur"]) == ("bright_spots", 4)
    # brightness alone finds most digits, without any training
    assert json.loads((folder / SPOTS / "metrics.json").read_text())["metrics"]["iou50"] > 0.5


@pytest.mark.parametrize("run", [SPOTS, SHAPES])
def test_why_knows_their_runs(folder, run):
    command = Path(sys.executable).with_name("mist-bench")
    process = subprocess.run(
        [command, "why", run], cwd=folder, capture_output=True, text=True, check=False
    )
    assert process.returncode == 0, process.stderr
    assert process.stdout == "nothing changed since this run was trained\n"

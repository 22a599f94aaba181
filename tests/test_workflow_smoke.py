"""The smoke preset from data to report, in a clone of this repository, and what makes it stale."""

import csv
import os
import re
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest
from pipeline import ROOT, done, jobs

from mist_bench.config import targets
from mist_bench.forecast import jobs as planning

RUN = "results/smoke/runs/mnist_hard_classification/mist"
SOURCES = ("Snakefile", "workflow", "profiles", "src", "baselines")

# one worker runs the preset once: --dist loadfile
pytestmark = [pytest.mark.workflow, pytest.mark.timeout(7200)]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A clone in which the smoke preset has run from data to report, and what that printed.

    The tables with rivals come first: the report then shows them.
    """
    clone = tmp_path_factory.mktemp("smoke") / "clone"
    clone.mkdir()
    for name in SOURCES:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, clone / name)
    (clone / "src/mist_bench/baselines").symlink_to("../../baselines")
    printed = call(clone, "table3_extended", "table_mnist_3_classification")
    printed += call(clone, "tables", "figures", "report")
    return SimpleNamespace(clone=clone, results=clone / "results/smoke", printed=printed)


def call(clone, *names, config=()):
    """Return what a call for the smoke preset printed in a clone."""
    arguments = (*names, "--cores", "2", "--config", "preset=smoke", *config)
    return done(clone, *arguments, clone=clone)


@pytest.fixture
def copy(finished, tmp_path):
    """A copy of the finished clone, to be changed; times of files are kept."""
    return shutil.copytree(finished.clone, tmp_path / "clone", symlinks=True)


def test_smoke_makes_every_figure_and_the_report(finished):
    for name in targets.FIGURES:
        assert (finished.results / f"figures/{name}.png").read_bytes().startswith(b"\x89PNG")
        assert (finished.results / f"figures/{name}.pdf").read_bytes().startswith(b"%PDF")
    assert (finished.results / "metrics.csv").stat().st_size > 0
    assert "results/smoke/tables/table2.{csv,md,tex}" in finished.printed
    assert "results/smoke/report/index.html" in finished.printed


@pytest.mark.parametrize(
    "name", [*targets.TABLES, *targets.EXTENDED, "table_mnist_3_classification"]
)
def test_every_cell_of_a_table_is_of_a_run(finished, smoke, name):
    path = finished.results / f"tables/{name}.csv"
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    runs = {run[:2] for run in targets.table_runs(smoke, name)}
    rows = [row for row in rows if row["verdict"] != "not specified: not in the paper"]
    assert {(row["experiment"], row["method"]) for row in rows} == runs
    assert {(row["experiment"], row["method"]) for row in rows if row["mean"]} == runs
    verdicts = {row["verdict"] for row in rows if row["verdict"].startswith("not run")}
    # of few steps and images, a ratio may have no denominator
    assert all(verdict.startswith("not run: metrics.json has no ") for verdict in verdicts)
    for kind in (".md", ".tex"):
        text = path.with_suffix(kind).read_text(encoding="utf-8")
        assert all(smoke.methods[method].label in text for _, method in runs)


def test_every_run_of_the_report_has_metrics(finished, smoke):
    runs = planning.target_runs(smoke, "report", finished.results)
    assert {
        ("mnist_hard_multiscale_reconstruction", "mist_multiscale", 0),
        ("mnist_count_0_2_reconstruction", "air", 0),
        ("mnist_hard_classification", "lapsum", 0),
    } <= set(runs)
    for run in runs:
        folder = targets.run_folder(finished.results, *run)
        assert (folder / "metrics.json").stat().st_size > 0, run


def test_the_report_loads_nothing_from_elsewhere(finished):
    page = (finished.results / "report/index.html").read_text(encoding="utf-8")
    assert not re.findall(r"""(?:src|href)=["'](?!data:|#)(?!https?://\S+["']\s*>)""", page)
    assert not re.findall(r"<(?:script|link|img)[^>]*https?://", page)


def test_a_touch_or_a_second_call_does_nothing(copy):
    sources = [path for name in SOURCES for path in (copy / name).rglob("*")]
    for path in [copy / "Snakefile", *sources, *(copy / "results/smoke/datasets").glob("*/*")]:
        os.utime(path)
    assert "Nothing to be done" in call(copy, "tables", "figures", "report", "--dry-run")


def test_a_changed_setting_or_loss_trains_its_own_runs_only(copy):
    training = "{mnist_hard_classification: {training: {steps: 3}}}"
    change = f"methods={{channelwise: {{experiments: {training}}}}}"
    planned = jobs(call(copy, "table2", "--dry-run", config=("device=cpu", change)))
    assert (planned["train"], planned["predict"], planned["table"]) == (1, 1, 1)
    assert "dataset" not in planned
    path = copy / "baselines/channelwise.py"
    path.write_text(path.read_text(encoding="utf-8") + "\nEDITED = True\n", encoding="utf-8")
    planned = jobs(call(copy, "table2", "--dry-run"))
    assert (planned["train"], planned["predict"], planned["table"]) == (1, 1, 1)
    assert "dataset" not in planned


def test_other_digits_make_their_own_datasets_stale(finished, tmp_path, monkeypatch):
    monkeypatch.setenv("MIST_BENCH_DATA", str(tmp_path))
    paths = [f"results/smoke/datasets/{name}/manifest.json" for name in ("mnist_3", "gabor")]
    printed = call(finished.clone, *paths, "--dry-run")
    assert jobs(printed) == {"dataset": 1, "total": 1}, printed
    assert "dataset mnist_3, smoke" in printed


def test_lost_metrics_are_computed_again_without_training(copy):
    path = copy / RUN / "seed0/metrics.json"
    before = path.read_bytes()
    path.unlink()
    printed = done(copy, "smoke", "--cores", "2", clone=copy)
    assert path.read_bytes() == before
    assert "train" not in jobs(printed)


def test_nothing_has_changed_since_a_run_that_just_finished(finished):
    done = subprocess.run(
        [sys.executable, "-m", "mist_bench.cli.main", "why", f"{RUN}/seed0"],
        cwd=finished.clone,
        env={**os.environ, "PYTHONPATH": str(finished.clone / "src")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip() == "nothing changed since this run was trained", done.stderr

"""The workflow as a user meets it: targets, messages, and the smoke preset from data to report."""

import csv
import os
import re
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest
from filelock import FileLock

from mist_bench.config import resolve as settings
from mist_bench.config import targets
from mist_bench.forecast import jobs as planning

ROOT = Path(__file__).parents[1]
RUN = "results/smoke/runs/mnist_hard_classification/mist"

pytestmark = [pytest.mark.workflow, pytest.mark.timeout(900)]


def snakemake(folder, *arguments):
    """Return the finished process of Snakemake in ``folder``, with all it printed in ``stdout``."""
    return subprocess.run(
        [sys.executable, "-m", "snakemake", "-s", ROOT / "Snakefile", "-d", folder, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={k: v for k, v in os.environ.items() if k != "SNAKEMAKE_PROFILE"},
        check=False,
    )


def jobs(text):
    """Return rule -> number of jobs from the table that a dry run prints."""
    return {name: int(count) for name, count in re.findall(r"^(\w+) +(\d+)$", text, re.MULTILINE)}


def test_lint_is_clean(tmp_path):
    done = snakemake(tmp_path, "--lint")
    assert done.returncode == 0, done.stdout


def test_every_artefact_is_a_target(tmp_path):
    names = set(snakemake(tmp_path, "--list-target-rules").stdout.split())
    wanted = {"all", "data", "tables", "figures", "report", "smoke", "calibration", "tuning"}
    wanted |= {f"table{n}" for n in range(1, 6)} | {f"figure{n}" for n in range(1, 9)}
    assert wanted | {"table3_extended", "table4_classes"} <= names


def test_rivals_are_trained_for_their_own_table_alone(tmp_path):
    training = "train lapsum on mnist_hard_classification"
    assert training not in snakemake(tmp_path, "all", "--dry-run").stdout
    partial = tmp_path / "results/cpu/tables/table3_extended.csv"
    partial.parent.mkdir(parents=True)
    partial.touch()
    assert training not in snakemake(tmp_path, "all", "--dry-run").stdout
    assert training in snakemake(tmp_path, "table3_extended", "--dry-run").stdout


def test_a_run_is_a_path_of_any_preset_and_seed(tmp_path):
    done = snakemake(tmp_path, f"{RUN}/seed7/metrics.json", "--dry-run")
    assert done.returncode == 0, done.stdout
    assert jobs(done.stdout) == {"dataset": 1, "train": 1, "predict": 1, "evaluate": 1, "total": 4}
    assert not (tmp_path / "results").exists()


def test_the_paper_preset_is_planned_whole(tmp_path):
    arguments = ("--cores", "2", "--dry-run", "tables", "--config", "preset=paper")
    planned = jobs(snakemake(tmp_path, *arguments).stdout)
    stages = {name: planned[name] for name in ("dataset", "features", "train")}
    assert stages == {"dataset": 9, "features": 1, "train": 21}
    assert planned["predict"] == planned["evaluate"] == planned["train"]
    assert planned["table"] == len(targets.TABLES)
    paper = settings.load(targets.SETTINGS, {"preset": "paper"})
    forecast = Counter(job.kind for job in planning.plan_jobs(paper, "tables", tmp_path))
    assert forecast == {"dataset": 9, "features": 1, "run": 21}


@pytest.mark.parametrize("word", ["mist", "mnist_hard"])
def test_a_misspelt_name_in_a_path_gets_a_hint_in_the_last_line(tmp_path, word):
    path = f"{RUN}/seed0/metrics.json".replace(f"/{word}", f"/{word.replace('s', 'ss')}")
    done = snakemake(tmp_path, path, "--dry-run")
    assert done.returncode != 0
    last = done.stdout.splitlines()[-1]
    assert last.startswith("target: ")
    assert f"did you mean '{word}" in last


def test_a_misspelt_key_stops_before_any_job_with_one_line(tmp_path):
    done = snakemake(tmp_path, "tables", "--cores", "1", "--config", "trainin={steps: 1}")
    assert done.returncode != 0
    assert done.stdout.splitlines()[1:] == [
        "configuration: trainin: unknown key; did you mean 'training'?"
    ]
    assert not (tmp_path / "results").exists()


def test_a_file_in_the_place_of_results_is_one_line(tmp_path):
    (tmp_path / "results").touch()
    done = snakemake(tmp_path, "tables", "--cores", "1")
    assert done.returncode != 0
    assert done.stdout.splitlines()[1:] == [
        "results: a file is where the results folder should be; move it away"
    ]


def test_missing_data_fails_with_its_reason_and_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("MIST_BENCH_DATA", str(tmp_path / "nowhere"))
    path = "results/smoke/datasets/mnist_hard/manifest.json"
    done = snakemake(tmp_path, path, "--cores", "1")
    assert done.returncode != 0
    assert re.search(r"^mist-bench dataset: .*nowhere", done.stdout, re.MULTILINE)
    assert "--partial" in done.stdout
    assert not list((tmp_path / "results/smoke/datasets").glob("mnist_hard/*"))


def test_a_killed_workflow_stops_its_training_and_continues_it_later(tmp_path):
    path = f"{RUN}/seed0/weights.safetensors"
    training = "{training: {steps: 150, checkpoint_every: 5, validate_every: 150}}"
    change = f"methods={{mist: {{experiments: {{mnist_hard_classification: {training}}}}}}}"
    arguments = (path, "--cores", "1", "--config", "preset=smoke", "device=cpu", change)
    command = [sys.executable, "-m", "snakemake", "-s", ROOT / "Snakefile", "-d", tmp_path]
    with (tmp_path / "printed").open("w") as printed:
        running = subprocess.Popen([*command, *arguments], stdout=printed, stderr=printed)
    pattern = "results/smoke/work/*/checkpoint/state.json"
    wait_for(lambda: list(tmp_path.glob(pattern)) or running.poll() is not None)
    children = psutil.Process(running.pid).children(recursive=True)
    for child in children:
        child.suspend()  # else a fast machine ends the training before the workflow is killed
    second = snakemake(tmp_path, *arguments)
    assert second.returncode != 0
    assert "another snakemake is at work in this folder" in second.stdout
    running.kill()
    running.wait()
    for child in children:
        child.resume()
    assert children, (tmp_path / "printed").read_text()
    assert not psutil.wait_procs(children, timeout=60)[1], "the training is an orphan"
    assert not (tmp_path / path).exists()
    done = snakemake(tmp_path, *arguments)
    assert done.returncode == 0, done.stdout[-3000:]
    log = (tmp_path / RUN / "seed0/train.log").read_text(encoding="utf-8")
    assert "continuing after step" in log


def test_a_call_that_began_while_another_was_at_work_is_refused(tmp_path):
    """Its jobs were chosen before the other had made what they make."""
    path = "results/smoke/config.json"
    command = [sys.executable, "-m", "snakemake", "-s", ROOT / "Snakefile", "-d", tmp_path]
    with FileLock(tmp_path / ".snakemake/running.lock"):
        second = subprocess.Popen(
            [*command, path, "--cores", "1"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert any("Building DAG" in line for line in second.stdout)
    with second:
        printed = second.stdout.read()
    assert second.returncode != 0
    assert re.search("another snakemake (is|was) at work in this folder", printed)
    assert not (tmp_path / path).exists()


def wait_for(happened, seconds=120):
    """Wait until ``happened()`` is true."""
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder in which the smoke preset has run from data to report, and what that printed.

    The table of the rivals comes first: the report then shows it.
    """
    folder, printed = tmp_path_factory.mktemp("smoke"), ""
    for names in (("table3_extended",), ("tables", "figures", "report")):
        done = snakemake(folder, *names, "--cores", "2", "--config", "preset=smoke")
        assert done.returncode == 0, done.stdout[-5000:]
        printed += done.stdout
    return folder, printed


def test_smoke_makes_every_figure_and_the_report(finished):
    folder, printed = finished
    results = folder / "results/smoke"
    for name in targets.FIGURES:
        assert (results / f"figures/{name}.png").read_bytes().startswith(b"\x89PNG")
        assert (results / f"figures/{name}.pdf").read_bytes().startswith(b"%PDF")
    assert (results / "metrics.csv").stat().st_size > 0
    assert "results/smoke/tables/table2.{csv,md,tex}" in printed
    assert "results/smoke/report/index.html" in printed


@pytest.mark.parametrize("name", [*targets.TABLES, *targets.EXTENDED])
def test_every_cell_of_a_table_is_of_a_run(finished, name):
    path = finished[0] / f"results/smoke/tables/{name}.csv"
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    smoke = settings.load(targets.SETTINGS, {"preset": "smoke"})
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


def test_every_run_of_the_report_has_metrics(finished):
    results = finished[0] / "results/smoke"
    smoke = settings.load(targets.SETTINGS, {"preset": "smoke"})
    runs = planning.target_runs(smoke, "report", results)
    assert {
        ("mnist_hard_multiscale_reconstruction", "mist_multiscale", 0),
        ("mnist_count_0_2_reconstruction", "air", 0),
        ("mnist_hard_classification", "lapsum", 0),
    } <= set(runs)
    for run in runs:
        assert (targets.run_folder(results, *run) / "metrics.json").stat().st_size > 0, run


def test_other_digits_make_their_own_datasets_stale(finished, tmp_path, monkeypatch):
    monkeypatch.setenv("MIST_BENCH_DATA", str(tmp_path))
    paths = [f"results/smoke/datasets/{name}/manifest.json" for name in ("mnist_3", "gabor")]
    done = snakemake(finished[0], *paths, "--dry-run")
    assert jobs(done.stdout) == {"dataset": 1, "total": 1}, done.stdout
    assert "dataset mnist_3, smoke" in done.stdout


def test_the_report_loads_nothing_from_elsewhere(finished):
    page = (finished[0] / "results/smoke/report/index.html").read_text(encoding="utf-8")
    assert not re.findall(r"""(?:src|href)=["'](?!data:|#)(?!https?://\S+["']\s*>)""", page)
    assert not re.findall(r"<(?:script|link|img)[^>]*https?://", page)


def test_a_touch_or_a_second_call_does_nothing(finished):
    folder, _ = finished
    touched = [ROOT / "src/mist_bench/training.py", ROOT / "Snakefile"]
    times = {path: path.stat() for path in touched}
    for path in [*touched, *(folder / "results/smoke/datasets").glob("*/*")]:
        os.utime(path)
    try:
        done = snakemake(
            folder, "tables", "figures", "report", "--cores", "2", "--config", "preset=smoke"
        )
    finally:
        for path, stat in times.items():
            os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert "Nothing to be done" in done.stdout


def test_a_changed_setting_trains_its_own_runs_only(finished):
    training = "{mnist_hard_classification: {training: {steps: 3}}}"
    change = f"methods={{channelwise: {{experiments: {training}}}}}"
    done = snakemake(
        finished[0], "table2", "--dry-run", "--config", "preset=smoke", "device=cpu", change
    )
    planned = jobs(done.stdout)
    assert (planned["train"], planned["predict"], planned["table"]) == (1, 1, 1)
    assert "dataset" not in planned


def test_lost_metrics_are_computed_again_without_training(finished):
    folder, _ = finished
    path = folder / RUN / "seed0/metrics.json"
    before = path.read_bytes()
    path.unlink()
    done = snakemake(folder, "smoke", "--cores", "2")
    assert done.returncode == 0, done.stdout[-3000:]
    assert path.read_bytes() == before
    assert "train" not in jobs(done.stdout)


def test_nothing_has_changed_since_a_run_that_just_finished(finished):
    command = [sys.executable, "-m", "mist_bench.cli.main", "why", f"{RUN}/seed0"]
    done = subprocess.run(command, cwd=finished[0], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "nothing changed since this run was trained", done.stderr

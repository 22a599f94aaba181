"""The workflow as a user meets it: targets, messages, and runs that are killed and continued."""

import json
import re
import subprocess
import time
from collections import Counter

import psutil
import pytest
import yaml
from filelock import FileLock
from jsonschema import Draft202012Validator
from pipeline import ROOT, command, done, jobs, snakemake

from mist_bench.config import resolve as settings
from mist_bench.config import targets
from mist_bench.config.editor import editor_schema
from mist_bench.forecast import jobs as planning

RUN = "results/smoke/runs/mnist_hard_classification/mist"

pytestmark = [pytest.mark.workflow, pytest.mark.timeout(2400)]


def test_the_linter_asks_for_nothing_but_an_environment_per_rule(tmp_path):
    """All rules share the environment in which Snakemake runs: they call its mist-bench."""
    printed = snakemake(tmp_path, "--lint").stdout
    lints = set(re.findall(r"^    \* (.+):$", printed, re.MULTILINE))
    assert lints == {"Specify a conda environment or container for each rule."}, printed


def test_every_artefact_is_a_target_and_every_rule_says_what_it_makes(tmp_path):
    lines = done(tmp_path, "--list").splitlines()
    rules = dict(re.fullmatch(r"(\w+)(?: \((.+)\))?", line).groups() for line in lines[1:])
    config = settings.load(targets.SETTINGS)
    wanted = {"all", "data", "tables", "figures", "report", "smoke", "calibration", "tuning"}
    wanted |= {f"table{n}" for n in range(1, 6)} | {f"figure{n}" for n in range(1, 9)}
    wanted |= {f"table_{name}" for name in config.experiments}
    assert wanted | {"table3_extended", "table4_classes"} <= set(rules)
    assert all(rules.values())


def test_rivals_are_trained_for_their_own_tables_alone(tmp_path):
    training = "train lapsum on mnist_hard_classification"
    partial = tmp_path / "results/cpu/tables/table3_extended.csv"
    partial.parent.mkdir(parents=True)
    partial.touch()
    assert training not in done(tmp_path, "all", "--dry-run")
    assert training in done(tmp_path, "table3_extended", "--dry-run")
    planned = done(tmp_path, "table_mnist_hard_classification", "--dry-run")
    assert training in planned
    assert "train supervised on mnist_hard_classification" in planned


def test_a_run_is_a_path_of_any_preset_seed_and_split(tmp_path):
    paths = [f"{RUN}/seed7/{name}" for name in ("metrics.json", "val_metrics.json", "trace.npz")]
    planned = jobs(done(tmp_path, *paths, "--dry-run"))
    once = {"dataset": 1, "train": 1, "trace": 1}
    assert planned == {**once, "predict": 2, "evaluate": 2, "total": 7}
    assert not (tmp_path / "results").exists()


def test_searches_and_the_paper_preset_are_planned_whole(tmp_path):
    arguments = ("--cores", "2", "--dry-run", "tables", "--config", "preset=paper")
    planned = jobs(done(tmp_path, *arguments))
    stages = {name: planned[name] for name in ("dataset", "features", "train")}
    assert stages == {"dataset": 9, "features": 1, "train": 21}
    assert planned["predict"] == planned["evaluate"] == planned["train"]
    assert planned["table"] == len(targets.TABLES)
    paper = settings.load(targets.SETTINGS, {"preset": "paper"})
    forecast = Counter(job.kind for job in planning.plan_jobs(paper, "tables", tmp_path))
    assert forecast == {"dataset": 9, "features": 1, "run": 21}
    searches = done(tmp_path, "calibration", "tuning", "--dry-run")
    for name in targets.SEARCHES:
        config = settings.load(targets.SETTINGS, {"preset": name})
        runs = targets.table_runs(config, name)
        assert len(re.findall(f", {name}$", searches, re.MULTILINE)) >= 3 * len(runs)


MISTAKES = {
    f"{RUN.replace('mist', 'misst')}/seed0/metrics.json": "target: .* did you mean 'mist'",
    f"{RUN.replace('_hard', '_harrd')}/seed0/metrics.json": "target: .* did you mean 'mnist_hard",
    "results/smoke/tables/tabel2.csv": "target: table: 'tabel2' is unknown; did you mean 'table2'",
    "results/smoke/datasets/mnist_harrd/manifest.json": "target: .* did you mean 'mnist_hard'",
    "results/smoke/features/mnist_hard/manifest.json": "target: .* it has no features",
}


@pytest.mark.parametrize("path", MISTAKES)
def test_a_path_of_what_does_not_exist_ends_in_one_line(tmp_path, path):
    process = snakemake(tmp_path, path, "--dry-run")
    assert process.returncode != 0
    last = process.stdout.split("Building DAG of jobs...\n")[-1].splitlines()
    assert len(last) == 1, process.stdout
    assert re.match(MISTAKES[path], last[0]), last


def test_a_misspelt_key_stops_before_any_job_with_one_line(tmp_path):
    process = snakemake(tmp_path, "tables", "--cores", "1", "--config", "trainin={steps: 1}")
    assert process.returncode != 0
    assert process.stdout.splitlines()[1:] == [
        "configuration: trainin: unknown key; did you mean 'training'?"
    ]
    assert not (tmp_path / "results").exists()


def test_a_file_in_the_place_of_results_is_one_line(tmp_path):
    (tmp_path / "results").touch()
    process = snakemake(tmp_path, "tables", "--cores", "1")
    assert process.returncode != 0
    assert process.stdout.splitlines()[1:] == [
        "results: a file is where the results folder should be; move it away"
    ]


def test_missing_data_fails_with_its_reason_and_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("MIST_BENCH_DATA", str(tmp_path / "nowhere"))
    path = "results/smoke/datasets/mnist_hard/manifest.json"
    process = snakemake(tmp_path, path, "--cores", "1")
    assert process.returncode != 0
    assert re.search(r"^mist-bench dataset: .*nowhere", process.stdout, re.MULTILINE)
    assert "--partial" in process.stdout
    assert not list((tmp_path / "results/smoke/datasets").glob("mnist_hard/*"))


def test_the_users_digits_are_inputs_of_the_datasets_that_are_made_of_them(digit_folder, tmp_path):
    for name, inside in (("mnist_3", True), ("gabor", False)):
        path = f"results/smoke/datasets/{name}/manifest.json"
        done(tmp_path, path, "--cores", "1", "--config", "preset=smoke")
        listed = done(tmp_path, path, "--detailed-summary")
        assert (str(digit_folder / "t10k-images-idx3-ubyte") in listed) == inside, listed


def test_a_killed_workflow_stops_its_training_and_continues_it_later(tmp_path):
    path = f"{RUN}/seed0/weights.safetensors"
    training = "{training: {steps: 150, checkpoint_every: 5, validate_every: 150}}"
    change = f"methods={{mist: {{experiments: {{mnist_hard_classification: {training}}}}}}}"
    arguments = (path, "--cores", "1", "--config", "preset=smoke", "device=cpu", change)
    with (tmp_path / "printed").open("w") as printed:
        running = subprocess.Popen(command(tmp_path, *arguments), stdout=printed, stderr=printed)
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
    assert not psutil.wait_procs(children, timeout=1200)[1], "the training is an orphan"
    assert not (tmp_path / path).exists()
    done(tmp_path, *arguments)
    log = (tmp_path / RUN / "seed0/train.log").read_text(encoding="utf-8")
    assert "continuing after step" in log


def test_a_call_that_began_while_another_was_at_work_is_refused(tmp_path):
    """Its jobs were chosen before the other had made what they make."""
    path = "results/smoke/config.json"
    with FileLock(tmp_path / ".snakemake/running.lock"):
        second = subprocess.Popen(
            command(tmp_path, path, "--cores", "1"),
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


def wait_for(happened, seconds=1200):
    """Wait until ``happened()`` is true."""
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.05)


def test_the_schema_for_editors_is_that_of_the_code():
    stored = json.loads((ROOT / "workflow/schemas/config.schema.json").read_text("utf-8"))
    current = stored == editor_schema(settings.load(targets.SETTINGS))
    assert current, "renew it: mist-bench schema > workflow/schemas/config.schema.json"


def test_every_file_of_the_configuration_fits_the_schema_and_mistakes_do_not():
    schema = json.loads((ROOT / "workflow/schemas/config.schema.json").read_text("utf-8"))
    Draft202012Validator.check_schema(schema)
    check = Draft202012Validator(schema)
    files = list((ROOT / "workflow/config").rglob("*.yaml"))
    assert len(files) > 5
    for path in files:
        problems = list(check.iter_errors(yaml.safe_load(path.read_text(encoding="utf-8"))))
        assert not problems, f"{path.name}: {problems[0].json_path}: {problems[0].message}"
    for wrong in (
        {"trainin": {"steps": 1}},
        {"training": {"steps": 0}},
        {"datasets": {"mnist_hard": {"params": {"canvass": 80}}}},
        {"methods": {"mist": {"params": {"classification": {"detecter": {}}}}}},
    ):
        assert not check.is_valid(wrong), wrong

"""The Slurm profile: it parses, names rules that exist, and computes what one machine computes."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from filelock import FileLock
from pipeline import done, jobs

ROOT = Path(__file__).parents[1]
PROFILES = ROOT / "workflow" / "profiles"
pytestmark = pytest.mark.timeout(2400)
RECORDED = (ROOT / "tests" / "slurm" / "output.txt").read_text(encoding="utf-8")
NETWORKS = ("features", "train", "predict", "trace")  # rules that may use a GPU


def profile(name):
    return yaml.safe_load((PROFILES / name / "profile.yaml").read_text(encoding="utf-8"))


def test_what_does_not_depend_on_the_place_is_as_in_the_default_profile():
    default, slurm = profile("default"), profile("slurm")
    del default["resources"]  # GPUs of this machine; on a cluster Slurm counts them
    assert {key: slurm.get(key) for key in default} == default
    assert "resources" not in slurm


def test_every_job_has_a_limit_of_memory_and_time_and_is_tried_again():
    slurm = profile("slurm")
    assert slurm["retries"] >= 1
    assert set(slurm["default-resources"]) == {"mem_mb", "runtime"}
    for rule in ("train", "features"):
        assert slurm["set-resources"][rule].keys() == {"mem_mb", "runtime"}
        assert all(value > 0 for value in slurm["set-resources"][rule].values())


@pytest.mark.workflow
def test_every_rule_that_the_profile_names_exists(tmp_path):
    rules = set(done(tmp_path, "--list-rules").split())
    assert {"train", "evaluate"} <= rules
    assert profile("slurm")["set-resources"].keys() <= rules
    assert set(NETWORKS) <= profile("slurm")["set-resources"].keys() <= {*NETWORKS, "dataset"}


@pytest.mark.workflow
def test_snakemake_reads_the_profile_and_plans_with_it(tmp_path):
    # --executor: so that it does not take the plugin to test this
    arguments = ("table2", "--dry-run", "--executor", "local", "--cores", "1")
    printed = done(tmp_path, *arguments, "--workflow-profile", "slurm")
    assert "Using workflow specific profile profiles/slurm" in printed
    assert re.search(r"^train +\d+$", printed, re.MULTILINE)


@pytest.mark.workflow
def test_a_job_on_a_node_may_call_snakemake_in_the_folder_of_the_call_that_waits_for_it(tmp_path):
    (tmp_path / ".snakemake").mkdir()
    target = ("results/smoke/config.json", "--config", "preset=smoke")
    with FileLock(tmp_path / ".snakemake" / "running.lock", timeout=0):
        # what the Slurm plugin's jobs are called with, among others
        done(tmp_path, "--cores", "1", "--no-hooks", "--nolock", "--mode", "remote", *target)
        with pytest.raises(AssertionError, match="another snakemake is at work"):
            done(tmp_path, "--cores", "1", "--forceall", *target)


@pytest.mark.workflow
def test_a_job_can_be_named_by_its_wildcards_as_those_of_slurm_are(tmp_path):
    run = "preset=smoke,experiment=mnist_hard_classification,method=mist,seed=0"
    named = [f"predict:{run},prefix=", f"predict:{run},prefix=val_"]
    printed = done(tmp_path, "--cores", "1", "--dry-run", "--target-jobs", *named)
    assert jobs(printed)["predict"] == 2
    assert "predict test by mist" in printed


def test_the_recorded_output_is_of_the_plugin_that_the_extra_installs():
    version = re.search(r"snakemake-executor-plugin-slurm (\d+\.\d+)\.\d+$", RECORDED, re.MULTILINE)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (extra,) = project["optional-dependencies"]["slurm"]
    assert extra.startswith(f"snakemake-executor-plugin-slurm>={version[1]},<")


def test_the_recorded_output_ends_well_and_names_no_place():
    check_output(RECORDED)
    assert not re.search(r"(^|[\s=:(])/\w", RECORDED), "an absolute path"


@pytest.mark.workflow
@pytest.mark.skipif(
    "MIST_BENCH_SLURM" not in os.environ, reason="takes minutes: set MIST_BENCH_SLURM=1 to run it"
)
@pytest.mark.skipif(
    shutil.which("slurmctld", path=f"{os.environ['PATH']}:/usr/sbin") is None,
    reason="no slurmctld: apt-get install slurm-wlm munge",
)
def test_a_real_slurm_computes_what_this_machine_computes():
    scripts = [ROOT / "tests/slurm/with_slurm.sh", ROOT / "tests/slurm/table2.sh"]
    environment = {**os.environ, "PYTHON": sys.executable}
    ran = subprocess.run(scripts, capture_output=True, text=True, env=environment, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    check_output(ran.stdout)


def check_output(text):
    """Check what ``tests/slurm/table2.sh`` printed."""
    assert "identical: results/smoke/tables/table2.csv" in text
    assert re.search(r"^continuing after step \d+", text, re.MULTILINE)
    states = [line.split()[1] for line in text.splitlines() if "rule_train_" in line]
    assert sorted(set(states)) == ["COMPLETED", "FAILED"]
    assert states.count("FAILED") == 1
    trainings = len(states) - 1
    assert text.splitlines()[-1].startswith(f"all {trainings} trainings ran under Slurm")

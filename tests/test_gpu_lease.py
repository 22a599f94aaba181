"""Processes that share a machine's GPUs, with a stand-in for nvidia-smi: never two on one."""

import os
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest

from mist_bench.cli import main as cli
from mist_bench.cli import measure
from mist_bench.forecast import jobs as planning
from mist_bench.run import gpu_lease
from mist_bench.run.gpu_lease import SHARE, VISIBLE, lock_folder, places, take, visible_gpus

UUIDS = ["GPU-1111-aa", "GPU-1122-bb", "GPU-2222-cc"]
LISTED = "".join(f"GPU {i}: NVIDIA H100 (UUID: {uuid})\n" for i, uuid in enumerate(UUIDS))
LISTED += "  MIG 1g.10gb Device 0: (UUID: MIG-3333)\n"


@pytest.fixture(autouse=True)
def machine(tmp_path, monkeypatch):
    """A machine without a GPU; ``has`` gives it some. Locks are of this test alone."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(gpu_lease.tempfile, "tempdir", None)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(gpu_lease, "PAUSE", 0.01)
    for name in (VISIBLE, "CUBLAS_WORKSPACE_CONFIG"):
        monkeypatch.setenv(name, "")  # so that it is restored
        monkeypatch.delenv(name)
    return tmp_path


def has(folder, listed):
    """Give the machine an nvidia-smi."""
    script = folder / "nvidia-smi"
    script.write_text(f"#!/bin/sh\n[ \"$*\" = -L ] || exit 1\nprintf '%s' '{listed}'\n")
    script.chmod(0o755)


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        (None, {uuid: uuid for uuid in UUIDS}),
        ("", {}),
        ("-1", {}),
        ("NoDevFiles", {}),
        ("2,0", {UUIDS[2]: "2", UUIDS[0]: "0"}),
        ("1, 7, 0", {UUIDS[1]: "1"}),  # what follows a name of nothing is hidden
        ("GPU-22", {UUIDS[2]: "GPU-22"}),
        ("GPU-11", {}),  # of two
        (f"{UUIDS[1]},MIG-3333", {UUIDS[1]: UUIDS[1], "MIG-3333": "MIG-3333"}),
    ],
)
def test_what_is_visible_is_what_cuda_would_see(visible, expected):
    found = visible_gpus(UUIDS, visible)
    assert list(found.items()) == list(expected.items())


def test_a_number_without_a_list_names_no_gpu():
    assert visible_gpus([], "0") == {}
    assert visible_gpus([], None) == {}


def test_one_gpu_is_visible_while_it_is_held(machine):
    has(machine, LISTED)
    with gpu_lease.gpu_lease("auto"):
        assert os.environ[VISIBLE] == UUIDS[0]
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
        lock, name = take({uuid: uuid for uuid in UUIDS}, lock_folder())
        assert name == UUIDS[1]
        lock.release()
    assert VISIBLE not in os.environ
    with gpu_lease.gpu_lease("cuda"):
        assert os.environ[VISIBLE] == UUIDS[0]


def test_the_gpu_of_a_cluster_is_used_by_its_own_name_and_locked_for_all(machine, monkeypatch):
    has(machine, LISTED)
    monkeypatch.setenv(VISIBLE, "1")
    with gpu_lease.gpu_lease("cuda"):
        assert os.environ[VISIBLE] == "1"
        assert take({UUIDS[1]: "1", UUIDS[2]: "2"}, lock_folder())[1] == "2"
    assert os.environ[VISIBLE] == "1"


@pytest.mark.parametrize(
    ("listed", "visible", "device"),
    [(LISTED, None, "cpu"), (LISTED, "", "auto"), (None, None, "auto"), (None, "0", "cuda")],
)
def test_without_a_gpu_to_hold_nothing_changes(machine, monkeypatch, listed, visible, device):
    if listed:
        has(machine, listed)
    if visible is not None:
        monkeypatch.setenv(VISIBLE, visible)
    with gpu_lease.gpu_lease(device):
        assert os.environ.get(VISIBLE) == visible
    assert not any(path.suffix == ".lock" for path in machine.rglob("*"))


def test_a_listing_that_fails_lists_nothing(machine):
    has(machine, LISTED)
    (machine / "nvidia-smi").write_text("#!/bin/sh\necho no driver >&2; exit 9\n")
    assert gpu_lease.listed_gpus() == []


def test_an_error_gives_the_gpu_back(machine):
    has(machine, LISTED)
    with pytest.raises(KeyError), gpu_lease.gpu_lease("cuda"):
        raise KeyError
    assert VISIBLE not in os.environ
    assert take({UUIDS[0]: UUIDS[0]}, lock_folder())[1] == UUIDS[0]


JOB = """
import os, pathlib, sys, time
from mist_bench.run import gpu_lease
gpu_lease.PAUSE = 0.01
folder = pathlib.Path(sys.argv[1])
with gpu_lease.gpu_lease("cuda"):
    mine = folder / f"{os.environ['CUDA_VISIBLE_DEVICES']} {os.getpid()}"
    assert not list(folder.glob(f"{os.environ['CUDA_VISIBLE_DEVICES']} *")), "two on one GPU"
    mine.touch()
    while not (folder / "go").exists():
        time.sleep(0.01)
    mine.unlink()
"""


def until(true, jobs):
    """Wait until ``true()``, as long as none of the jobs has ended."""
    while not true():
        ended = [job.communicate()[1] for job in jobs if job.poll() is not None]
        assert not ended, ended
        time.sleep(0.01)


def test_of_four_jobs_two_hold_two_gpus_and_two_wait(machine):
    has(machine, LISTED.split("GPU 2")[0])
    notes = machine / "notes"
    notes.mkdir()
    command = [sys.executable, "-c", JOB, str(notes)]
    jobs = [subprocess.Popen(command, stderr=subprocess.PIPE) for _ in range(4)]
    try:
        until(lambda: len(list(notes.iterdir())) == 2, jobs)
        time.sleep(0.1)  # time enough for the others to do wrong
        held = sorted(path.name.split()[0] for path in notes.iterdir())
        assert held == UUIDS[:2]
        (notes / "go").touch()
        for job in jobs:
            _, errors = job.communicate()
            assert job.returncode == 0, errors.decode()
    finally:
        for job in jobs:
            job.kill()
            job.wait()


def test_a_gpu_may_be_shared_by_as_many_as_the_user_says_first_each_once(machine, monkeypatch):
    has(machine, LISTED.split("GPU 2")[0])
    gpus, locks = {uuid: uuid for uuid in UUIDS[:2]}, []
    monkeypatch.setenv(SHARE, "2")
    with gpu_lease.gpu_lease("cuda"):
        for expected in (UUIDS[1], UUIDS[0], UUIDS[1]):
            lock, name = take(gpus, lock_folder(), 2)
            locks.append(lock)
            assert name == expected
    assert take(gpus, lock_folder(), 2)[1] == UUIDS[0]  # the place that was left


@pytest.mark.parametrize("given", ["0", "-1", "1.5", "two", "", "²"])
def test_what_is_no_number_of_processes_is_refused(given):
    with pytest.raises(ValueError, match=f"{SHARE} must be a number of processes from 1, got"):
        places(given)


def test_the_gpu_of_a_killed_job_is_free(machine):
    has(machine, LISTED.split("GPU 1")[0])
    notes = machine / "notes"
    notes.mkdir()
    job = subprocess.Popen([sys.executable, "-c", JOB, str(notes)], stderr=subprocess.PIPE)
    until(lambda: list(notes.iterdir()), [job])
    job.kill()
    job.communicate()
    assert take({UUIDS[0]: UUIDS[0]}, lock_folder())[1] == UUIDS[0]


def test_who_waits_says_so_once_and_takes_what_becomes_free(machine, monkeypatch, caplog):
    folder = lock_folder()
    held, _ = take({UUIDS[0]: "0"}, folder)
    looks = []

    def sleep(seconds):
        looks.append(seconds)
        if len(looks) == 3:
            held.release()

    monkeypatch.setattr(gpu_lease.time, "sleep", sleep)
    with caplog.at_level("INFO", logger="mist_bench"):
        assert take({UUIDS[0]: "0"}, folder)[1] == "0"
    assert caplog.messages == ["all GPUs are taken (1): waiting for one"]
    assert len(looks) == 3


def test_who_waits_for_a_parent_that_died_gives_up(machine, monkeypatch):
    folder = lock_folder()
    held, _ = take({UUIDS[0]: "0"}, folder)
    parents = iter([41, 41, 1])
    monkeypatch.setattr(gpu_lease.os, "getppid", lambda: next(parents))
    with pytest.raises(OSError, match="has died: nothing was started"):
        take({UUIDS[0]: "0"}, folder)
    held.release()


def test_the_locks_of_another_user_are_not_used(machine, monkeypatch):
    lock_folder()
    owner = os.getuid()
    monkeypatch.setattr(gpu_lease.os, "getuid", lambda: owner + 1)
    (machine / f"mist-bench-gpus-{owner + 1}").mkdir()
    with pytest.raises(OSError, match="is no folder of this user's; remove it or set TMPDIR"):
        lock_folder()
    (machine / f"mist-bench-gpus-{owner + 1}").rmdir()
    (machine / f"mist-bench-gpus-{owner + 1}").write_text("a file")
    with pytest.raises(OSError, match="is no folder of this user's; remove it or set TMPDIR"):
        lock_folder()


def test_the_command_line_holds_a_gpu_before_it_imports_torch():
    code = """
import contextlib, sys
from mist_bench.cli import main as cli
@contextlib.contextmanager
def lease(device):
    print(device, "torch" in sys.modules)
    raise OSError("no further")
    yield
cli.gpu_lease = lease
files = {"predict": ["--weights", "w", "--out", "o"], "trace": ["--weights", "w", "--out", "o"],
         "train": ["--record", "r", "--work", "w"]}
for name, options in files.items():
    cli.main([name, "--spec", "s", "--manifest", "m", *options, "--device", "auto"])
cli.main(["features", "--spec", "s", "--dataset", "d", "--out", "o", "--device", "cuda"])
cli.main(["evaluate", "--spec", "s", "--manifest", "m", "--predictions", "p", "--out", "o"])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["auto False"] * 3 + ["cuda False", "cpu False"]


def test_a_plan_has_the_gpu_of_its_device_for_itself(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    held = []

    @contextmanager
    def lease(device):
        held.append(device)
        yield
        held.pop()

    def forecast(config, jobs, *, limit):
        assert held[-1] == config.device == "cuda"
        return [planning.Forecast(job, None) for job in jobs]

    monkeypatch.setattr(measure, "gpu_lease", lease)
    monkeypatch.setattr(planning, "forecast", forecast)
    assert cli.main(["plan", "table2", "--config", "preset=smoke", "device=cuda"]) == 0

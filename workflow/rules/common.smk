# The configuration of a preset, the one way to end a call early, and what a call says at its end.
import os
import shutil
import sys
import time
from contextlib import contextmanager
from functools import cache
from pathlib import Path


def stop(problem):
    """End the call with one line; a WorkflowError would show a traceback around it."""
    sys.exit(problem)


try:
    from filelock import FileLock, Timeout

    from mist_bench.config import provenance, targets
    from mist_bench.config import resolve as settings
    from mist_bench.config import workflow as outside
    from mist_bench.config.user import user_text
except ModuleNotFoundError as error:
    stop(f"{error}: install the suite first: pip install -e .")

DATA = "results/{preset}/datasets/{dataset}"
FEATURES = "results/{preset}/features/{dataset}"
RUN = "results/{preset}/runs/{experiment}/{method}/seed{seed}"

WORKFLOW = Path(os.path.relpath(workflow.basedir), "workflow")
SETTINGS = WORKFLOW / "config"
RESOURCES = WORKFLOW / "resources"
PAPER = RESOURCES / "paper_results.csv"
PRESETS = sorted(path.stem for path in (SETTINGS / "presets").glob("*.yaml"))
START = time.time()
LOCK = FileLock(Path(".snakemake", "running.lock"))
# priority of jobs that are short or that trainings wait for; theirs are up to 1
SOON = 2
MOMENT = 0.3  # s; a call that only looks, as a dry run does, holds the lock for less
# jobs find mist-bench beside the Python that runs Snakemake, even if its environment is not active
os.environ.update(
    PATH=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
)


@contextmanager
def one_line(what):
    """End the call with one line for a mistake in the configuration, a method's file or a path."""
    try:
        yield
    except (settings.ConfigError, SyntaxError) as error:
        stop(f"{what}: {error}")


@cache
def config_of(preset=None):
    """Return the validated configuration of a preset; the user's --config wins over its files."""
    # compat has chosen among presets already, or the preset is another than the user's
    named = {"preset": preset, "compat": None} if preset else {}
    with one_line("configuration"):
        return settings.load(SETTINGS, user_text(config) | named)


PRESET = config_of().preset
if problem := outside.unwritable(Path("results")):
    stop(problem)


wildcard_constraints:
    preset="|".join(PRESETS),
    dataset=r"\w+",
    experiment=r"\w+",
    method=r"\w+",
    seed=r"0|[1-9]\d*",
    prefix="(val_)?",  # of files about the val split; those about the test split have none
    table=r"\w+",
    figure="|".join(targets.FIGURES),


def held():
    """Return whether another call is at work in this folder."""
    try:
        with LOCK.acquire(timeout=MOMENT):
            return False
    except Timeout:
        return True


# while files are read: what another call makes from now on, the plan of this one lacks
BUSY = Path(LOCK.lock_file).exists() and held()


def claim():
    """Refuse a second call in the same folder; the system frees the lock when a call is killed."""
    try:
        LOCK.acquire(timeout=MOMENT)
    except Timeout:
        stop("another snakemake is at work in this folder; wait for it or stop it")
    if BUSY:
        stop("another snakemake was at work in this folder at the start; call again")


def summary():
    """Return where the tables, figures and reports of this call are, and what data are small."""
    made = outside.produced(Path("results"), START)
    lines = ["", "Written:", *made] if made else []
    return "".join(f"{line}\n" for line in lines + outside.sampled(Path("results")))


def advice():
    """Return what can be done after a failure."""
    return (
        "\nSome jobs failed; their logs are named above. The other runs are kept: the same command "
        "continues where it stopped.\nA table of what exists: mist-bench table table2 "
        f"--config results/{PRESET}/config.json --partial"
    )

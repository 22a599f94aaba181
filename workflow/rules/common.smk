# The configuration of a preset, what each file is made of, and what a call says at its end.
import os
import shutil
import sys
import time
from functools import cache
from pathlib import Path

from filelock import FileLock, Timeout

try:
    from mist_bench.config import files, provenance, targets
    from mist_bench.config import resolve as settings
    from mist_bench.config import workflow as outside
except ModuleNotFoundError as error:
    raise WorkflowError(f"{error}: install the suite first: pip install -e .") from None

DATA = "results/{preset}/datasets/{dataset}"
FEATURES = "results/{preset}/features/{dataset}"
RUN = "results/{preset}/runs/{experiment}/{method}/seed{seed}"

WORKFLOW = Path(os.path.relpath(workflow.basedir), "workflow")
SETTINGS = WORKFLOW / "config"
RESOURCES = WORKFLOW / "resources"
PAPER = RESOURCES / "paper_results.csv"
PRESETS = sorted(path.stem for path in (SETTINGS / "presets").glob("*.yaml"))
DIGIT_SCENES = "mist_bench.datasets.multi_mnist"  # what reads MNIST
START = time.time()
LOCK = FileLock(Path(".snakemake", "running.lock"))
# priority of jobs that are short or that trainings wait for; theirs are up to 1
SOON = 2
MOMENT = 0.3  # s; a call that only looks, as a dry run does, holds the lock for less
# jobs find mist-bench beside the Python that runs Snakemake, even if its environment is not active
os.environ.update(
    PATH=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
)


@cache
def config_of(preset=None):
    """Return the validated configuration of a preset; the user's --config wins over its files."""
    user = files.typed(config)
    try:
        # compat has chosen among presets already, or the preset is another than the user's
        named = {"preset": preset, "compat": None} if preset else {}
        return settings.load(SETTINGS, user | named)
    except settings.ConfigError as error:
        # not a WorkflowError, which would show a traceback around the one line that helps
        sys.exit(f"configuration: {error}")


PRESET = config_of().preset
if problem := outside.unwritable(Path("results")):
    sys.exit(problem)


wildcard_constraints:
    preset="|".join(PRESETS),
    dataset=r"\w+",
    experiment=r"\w+",
    method=r"\w+",
    seed=r"0|[1-9]\d*",
    table="|".join([*targets.TABLES, *targets.EXTENDED]),
    figure="|".join(targets.FIGURES),


def known(check, *names):
    """Say in one line, not in a traceback, that the path of a target names what does not exist."""
    try:
        check(*names)
    except settings.ConfigError as error:
        sys.exit(f"target: {error}")


def config_text(wildcards):
    return settings.canonical(config_of(wildcards.preset))


def dataset_of(wildcards):
    """Return the specification of the dataset that a path names."""
    preset = config_of(wildcards.preset)
    known(settings.check_names, "dataset", [wildcards.dataset], preset.datasets)
    return settings.dataset_spec(preset, wildcards.dataset)


def dataset_text(wildcards):
    return settings.canonical(dataset_of(wildcards))


def dataset_code(wildcards):
    return provenance.digest("dataset", dataset_of(wildcards).module)


def dataset_files(wildcards):
    """Return what tells that files outside, which a dataset is made from, have changed."""
    spec = dataset_of(wildcards)
    if root := spec.params.get("root"):
        return outside.tree_digest(Path(root).expanduser())
    if DIGIT_SCENES in provenance.closure(spec.module):
        return outside.digits_digest(os.environ.get(outside.DIGITS))
    return ""


def features_of(wildcards):
    """Return the specification of the features of the dataset that a path names."""
    preset = config_of(wildcards.preset)
    known(settings.check_names, "dataset", [wildcards.dataset], preset.datasets)
    return settings.feature_spec(preset, wildcards.dataset)


def feature_text(wildcards):
    return settings.canonical(features_of(wildcards))


def feature_code(wildcards):
    return provenance.digest("features", features_of(wildcards).network.module)


def feature_weights(wildcards):
    """Return the digest of the file that a backbone's weights come from, if one is named."""
    path = features_of(wildcards).network.params.get("weights")
    file = Path(path or "").expanduser()
    return provenance.file_digest(file) if path and file.is_file() else ""


def feature_device(wildcards):
    return config_of(wildcards.preset).device


def feature_gpus(wildcards):
    return gpus(feature_device(wildcards))


def run_of(wildcards):
    """Return the specification of the run that a path names, whether or not a table needs it."""
    preset = config_of(wildcards.preset)
    known(targets.check_run, preset, wildcards.experiment, wildcards.method)
    return settings.run_spec(
        preset, wildcards.experiment, wildcards.method, int(wildcards.seed)
    )


def run_text(wildcards):
    return settings.canonical(run_of(wildcards))


@cache
def measured_seconds(preset):
    """Return (experiment, method) -> seconds of a training step in the reference results."""
    origin = Path(workflow.basedir, "results", "reference", preset, "origin.json")
    return outside.step_seconds(origin)


def urgency(wildcards):
    """Return the priority of a training: the longest first, lest a core has none at the end.

    From 0 to 1, for trainings without end and those that were never measured, which may be long.
    """
    run = wildcards.experiment, wildcards.method
    if run not in measured_seconds(wildcards.preset):
        return 1
    seconds = measured_seconds(wildcards.preset)[run] * run_of(wildcards).training.steps
    return seconds / (seconds + 600)  # rising; half a point for ten minutes


def train_code(wildcards):
    return provenance.digest("train", run_of(wildcards).module)


def predict_code(wildcards):
    return provenance.digest("predict", run_of(wildcards).module)


def trace_code(wildcards):
    return provenance.digest("trace", run_of(wildcards).module)


def run_threads(wildcards):
    return run_of(wildcards).training.threads


def run_device(wildcards):
    return config_of(wildcards.preset).device


def run_gpus(wildcards):
    return gpus(run_device(wildcards))


def gpus(device):
    """Return 1 where a network will run on a GPU, so that jobs queue for it."""
    return int(
        device == "cuda"
        or (device == "auto" and shutil.which("nvidia-smi") is not None)
    )


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
        sys.exit("another snakemake is at work in this folder; wait for it or stop it")
    if BUSY:
        sys.exit(
            "another snakemake was at work in this folder at the start; call again"
        )


def summary():
    """Return where the tables, figures and reports of this call are, and what data are small."""
    files = outside.produced(Path("results"), START)
    lines = ["", "Written:", *files] if files else []
    return "".join(f"{line}\n" for line in lines + outside.sampled(Path("results")))


def advice():
    """Return what can be done after a failure."""
    return (
        "\nSome jobs failed; their logs are named above. The other runs are kept: the same command "
        "continues where it stopped.\nA table of what exists: mist-bench table table2 "
        f"--preset {PRESET} --partial"
    )

# What the rules ask for: the configuration of a preset, and what each file is made of.
import os
import shutil
import sys
import time
from functools import cache
from pathlib import Path

from filelock import FileLock, Timeout

try:
    from mist_bench import config as settings
    from mist_bench import provenance, targets
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
START = time.time()
LOCK = FileLock(Path(".snakemake", "running.lock"))
# jobs find mist-bench beside the Python that runs Snakemake, even if its environment is not active
os.environ.update(
    PATH=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
)


@cache
def config_of(preset=None):
    """Return the validated configuration of a preset; the user's --config wins over its files."""
    user = targets.typed(config)
    try:
        return settings.load(SETTINGS, user | {"preset": preset} if preset else user)
    except settings.ConfigError as error:
        # not a WorkflowError, which would show a traceback around the one line that helps
        sys.exit(f"configuration: {error}")


PRESET = config_of().preset
if problem := targets.unwritable(Path("results")):
    sys.exit(problem)


wildcard_constraints:
    preset="|".join(PRESETS),
    dataset=r"\w+",
    experiment=r"\w+",
    method=r"\w+",
    seed=r"0|[1-9]\d*",
    table="|".join([*targets.TABLES, *targets.EXTENDED]),
    figure="|".join(targets.FIGURES),


def config_text(wildcards):
    return settings.canonical(config_of(wildcards.preset))


def dataset_of(wildcards):
    """Return the specification of the dataset that a path names."""
    preset = config_of(wildcards.preset)
    settings.check_names("dataset", [wildcards.dataset], preset.datasets)
    return settings.dataset_spec(preset, wildcards.dataset)


def dataset_text(wildcards):
    return settings.canonical(dataset_of(wildcards))


def dataset_code(wildcards):
    return provenance.digest("dataset", dataset_of(wildcards).module)


def dataset_files(wildcards):
    """Return what tells that files outside, which a dataset is made from, have changed."""
    root = dataset_of(wildcards).params.get("root")
    return targets.tree_digest(Path(root).expanduser()) if root else ""


def features_of(wildcards):
    """Return the specification of the features of the dataset that a path names."""
    preset = config_of(wildcards.preset)
    settings.check_names("dataset", [wildcards.dataset], preset.datasets)
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
    targets.check_run(preset, wildcards.experiment, wildcards.method)
    return settings.run_spec(
        preset, wildcards.experiment, wildcards.method, int(wildcards.seed)
    )


def run_text(wildcards):
    return settings.canonical(run_of(wildcards))


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


def truth_manifest(wildcards):
    """Return the manifest of the images of a run."""
    folder = Path("results", wildcards.preset, "datasets", run_of(wildcards).dataset)
    return folder / "manifest.json"


def run_manifest(wildcards):
    """Return the manifest of what a run's method sees: images or their features."""
    preset, name = config_of(wildcards.preset), run_of(wildcards).dataset
    return targets.input_folder(preset, name) / "manifest.json"


def arrays_beside(manifest, *splits):
    """Return the files of splits beside a manifest: of features, each split has two."""
    suffixes = ["npz", "npy"] if manifest.parts[2] == "features" else ["npz"]
    return [
        manifest.with_name(f"{split}.{suffix}")
        for split in splits
        for suffix in suffixes
    ]


def training_arrays(wildcards):
    return arrays_beside(run_manifest(wildcards), "train", "val")


def test_arrays(wildcards):
    return arrays_beside(run_manifest(wildcards), "test")


def truth_arrays(wildcards):
    return arrays_beside(truth_manifest(wildcards), "test")


def truth_val_arrays(wildcards):
    return arrays_beside(truth_manifest(wildcards), "val")


def files_of(preset, runs, *names):
    """Return the named files in the folders of runs."""
    folders = [targets.run_folder(Path("results", preset), run) for run in runs]
    return [folder / name for folder in folders for name in names]


def all_metrics(wildcards):
    preset = config_of(wildcards.preset)
    runs = [
        run
        for name in preset.experiments
        for run in targets.experiment_runs(preset, name)
    ]
    return files_of(wildcards.preset, runs, "metrics.json") + rival_metrics(preset)


def rival_metrics(preset):
    """Return the metrics of the rivals that have run: nothing but their own table trains them."""
    runs = [
        run for name in preset.experiments for run in targets.rival_runs(preset, name)
    ]
    return [
        path for path in files_of(preset.preset, runs, "metrics.json") if path.exists()
    ]


def extended_tables(wildcards):
    """Return the extended tables that were made: the report shows them and keeps them fresh."""
    folder = Path("results", wildcards.preset, "tables")
    paths = [folder / f"{name}.csv" for name in targets.EXTENDED]
    return [path for path in paths if path.exists()]


def table_metrics(wildcards):
    runs = targets.table_runs(config_of(wildcards.preset), wildcards.table, PAPER)
    return files_of(wildcards.preset, runs, "metrics.json")


def calibration_metrics(wildcards):
    """Return the metrics of the candidate generators of MNIST-hard."""
    preset = config_of(wildcards.preset)
    names = [name for name in preset.experiments if name.startswith("calibrate_")]
    runs = [run for name in names for run in targets.experiment_runs(preset, name)]
    return files_of(wildcards.preset, runs, "metrics.json")


def tuning_scores(wildcards):
    """Return the metrics of the candidate parameters on the val split."""
    preset = config_of(wildcards.preset)
    names = [name for name in preset.experiments if name.startswith("tune_")]
    runs = [run for name in names for run in targets.experiment_runs(preset, name)]
    return files_of(wildcards.preset, runs, "val_metrics.json")


def figure_files(wildcards):
    """Return what a figure is drawn from: images, predictions or stages, the course of training."""
    preset = config_of(wildcards.preset)
    runs = targets.figure_runs(preset, wildcards.figure)
    datasets = {preset.experiments[experiment].dataset for experiment, _, _ in runs}
    source = targets.figure_input(wildcards.figure)
    return files_of(wildcards.preset, runs, source, "train.csv") + [
        Path("results", wildcards.preset, "datasets", name, "manifest.json")
        for name in sorted(datasets)
    ]


def figure_arrays(wildcards):
    split = targets.figure_split(wildcards.figure)
    return [
        path.with_name(f"{split}.npz")
        for path in figure_files(wildcards)
        if path.name == "manifest.json"
    ]


def manifests(wildcards):
    """Return the manifests of the datasets that some experiment or a run of it uses."""
    chosen = config_of()
    names = {setup.dataset for setup in chosen.experiments.values()}
    names |= {
        own.dataset
        for method in chosen.methods.values()
        for own in method.experiments.values()
        if own.dataset
    }
    return [
        targets.input_folder(chosen, name) / "manifest.json" for name in sorted(names)
    ]


def tables_of(preset):
    """Return all tables and the metrics behind them, so that lost metrics are made again."""
    runs = {
        run
        for table in targets.TABLES
        for run in targets.table_runs(config_of(preset), table, PAPER)
    }
    tables = [
        Path("results", preset, "tables", f"{name}.csv") for name in targets.TABLES
    ]
    return tables + files_of(preset, sorted(runs), "metrics.json")


def figures_of(preset):
    return [
        Path("results", preset, "figures", f"{name}.png") for name in targets.FIGURES
    ]


def report_of(preset):
    return Path("results", preset, "report", "index.html")


def all_tables(wildcards):
    return tables_of(PRESET)


def everything(wildcards):
    return [*tables_of(PRESET), *figures_of(PRESET), report_of(PRESET)]


def everything_small(wildcards):
    return [*tables_of("smoke"), *figures_of("smoke"), report_of("smoke")]


def claim():
    """Refuse a second call in the same folder; the system frees the lock when a call is killed."""
    try:
        LOCK.acquire(timeout=0)
    except Timeout:
        sys.exit("another snakemake is at work in this folder; wait for it or stop it")


def summary():
    """Return where the tables, figures and reports of this call are."""
    files = targets.produced(Path("results"), START)
    return "".join(f"{line}\n" for line in ["", "Written:", *files]) if files else ""


def advice():
    """Return what can be done after a failure."""
    return (
        "\nSome jobs failed; their logs are named above. The other runs are kept: the same command "
        "continues where it stopped.\nA table of what exists: mist-bench table table2 "
        f"--preset {PRESET} --partial"
    )

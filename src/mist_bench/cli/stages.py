"""The stages of a run: dataset, features, train, predict, trace, evaluate."""

import argparse
import sys
from pathlib import Path

from mist_bench.cli.command import CODE, DEVICE, PRESET, SPEC, SPLIT, command, option, paths
from mist_bench.cli.inputs import check_code, load_preset, read_job, read_spec
from mist_bench.config import provenance
from mist_bench.config import resolve as settings
from mist_bench.config.schema import DatasetSpec, FeatureSpec, RunSpec
from mist_bench.run.work_folders import work_name

RESUMABLE = 75  # exit code EX_TEMPFAIL: the same command continues
RUN = (SPEC, *paths(manifest="manifest.json of the dataset; its arrays lie beside it"), CODE)
WEIGHTS = paths(weights="weights.safetensors of the run")


@command(
    option("name", nargs="?", help="key of datasets in workflow/config"),
    PRESET,
    option("--spec", help="instead of a name: JSON text or a file with it"),
    option("--manifest", type=Path, help="with --spec: manifest.json to write"),
    CODE,
)
def dataset(options: argparse.Namespace) -> None:
    """Make a dataset: mist-bench dataset mnist_easy."""
    if bool(options.name) == bool(options.spec and options.manifest):
        raise ValueError("give a dataset's name, or --spec with --manifest")
    if options.name:
        config = load_preset(options.preset)
        settings.check_names("dataset", [options.name], config.datasets)
        spec = settings.dataset_spec(config, options.name)
        folder = Path("results", config.preset, "datasets", options.name)
        check_code("dataset", spec.module, options.code)
    else:
        spec, folder = read_job("dataset", options, DatasetSpec), options.manifest.parent
    from mist_bench.datasets.build import build_dataset

    build_dataset(spec, folder)


@command(
    SPEC,
    *paths(
        dataset="manifest.json of the dataset",
        out="manifest.json to write; the features go beside it",
    ),
    DEVICE,
    CODE,
)
def features(options: argparse.Namespace) -> None:
    """Compute what methods see instead of a dataset's images."""
    spec = read_job("features", options, FeatureSpec)
    from mist_bench.run.features import build_features

    build_features(spec, options.dataset.parent, options.out.parent, options.device)


@command(
    *RUN,
    *paths(
        record="run.json to write; weights and curves go beside it",
        work="folder for the checkpoints of all runs",
    ),
    DEVICE,
)
def train(options: argparse.Namespace) -> None:
    """Train one run; continues an interrupted one."""
    spec = read_job("train", options, RunSpec)
    code = provenance.stage_code("train", spec.module)
    from mist_bench.run.method import choose_device
    from mist_bench.run.training import Interrupted
    from mist_bench.run.training import train as train_run

    device, data = str(choose_device(options.device)), provenance.file_digest(options.manifest)
    work = options.work / work_name(settings.canonical(spec), code, data, device)
    out = options.record.parent
    try:
        train_run(spec, options.manifest.parent, out, work, options.device, code)
    except Interrupted as stop:
        print(f"mist-bench train: {stop}", file=sys.stderr)
        sys.exit(RESUMABLE)


@command(*RUN, *WEIGHTS, *paths(out="predictions.npz to write"), SPLIT, DEVICE)
def predict(options: argparse.Namespace) -> None:
    """Store a run's predictions on a split."""
    spec = read_job("predict", options, RunSpec)
    from mist_bench.run.prediction import predict as predict_run

    data, weights = options.manifest.parent, options.weights
    predict_run(spec, data, weights, options.out, options.device, options.split)


@command(*RUN, *WEIGHTS, *paths(out="trace.npz to write"), DEVICE)
def trace(options: argparse.Namespace) -> None:
    """Store what every stage of a trained MIST makes of one image (Figure 1)."""
    spec = read_job("trace", options, RunSpec)
    from mist_bench.run.tracing import trace as trace_run

    trace_run(spec, options.manifest.parent, options.weights, options.out, options.device)


@command(*RUN, *paths(predictions="predictions.npz of the run", out="metrics.json to write"), SPLIT)
def evaluate(options: argparse.Namespace) -> None:
    """Compute a run's metrics from its predictions."""
    spec = read_spec(options.spec, RunSpec)
    check_code("evaluate", None, options.code)
    from mist_bench.evaluation.metrics import evaluate as evaluate_run

    data = options.manifest.parent
    evaluate_run(spec, data, options.predictions, options.out, options.split)

"""The command line: one sub-command per stage, thin, with every expected error in one line.

Heavy modules are imported inside the sub-commands, so that tables and figures never load torch.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from mist_bench.cli.inputs import (
    check_code,
    check_complete,
    load_preset,
    read_config,
    read_job,
    read_spec,
)
from mist_bench.cli.parser import parser
from mist_bench.config import provenance, targets
from mist_bench.config import resolve as settings
from mist_bench.config.schema import DatasetSpec, FeatureSpec, RunSpec
from mist_bench.run.gpu_lease import gpu_lease
from mist_bench.run.work_folders import remove_finished, work_name

RESUMABLE = 75  # exit code EX_TEMPFAIL: the same command continues


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one sub-command; return 0, 1 after an expected error, or 130 if it is interrupted."""
    options = parser().parse_args(arguments)
    command = COMMANDS[options.command]
    logging.basicConfig(format="%(asctime)s %(message)s", stream=sys.stderr)
    logging.getLogger("mist_bench").setLevel(logging.INFO)  # libraries speak of warnings only
    try:
        with gpu_lease(getattr(options, "device", "cpu")):  # before torch is imported
            command(options)
    except (ValueError, OSError) as error:
        words = " ".join(str(error).split()) or type(error).__name__
        print(f"mist-bench {options.command}: {words}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:  # a training stops by itself; the rest has nothing to keep
        return 130
    return 0


def dataset(options: argparse.Namespace) -> None:
    """Make a dataset, named or specified."""
    if bool(options.name) == bool(options.spec and options.manifest):
        raise ValueError("give a dataset's name, or --spec with --manifest")
    if options.name:
        config = load_preset(options.preset)
        settings.check_names("dataset", [options.name], config.datasets)
        spec = settings.dataset_spec(config, options.name)
        folder = Path("results", config.preset, "datasets", options.name)
        check_code("dataset", spec.module, options.code)
    else:
        spec = read_job("dataset", options, DatasetSpec)
        folder = Path(options.manifest).parent
    from mist_bench.datasets.build import build_dataset

    build_dataset(spec, folder)


def import_dataset(options: argparse.Namespace) -> None:
    """Store a dataset that the authors published in this suite's format."""
    from mist_bench.official.datasets import import_dataset as import_folder

    found = import_folder(options.folder, options.name, options.out, load_preset("paper"))
    counts = [f"{used} of {listed} {split}" for split, (used, listed) in found.items()]
    print(f"{options.out}: {', '.join(counts)} images")


def import_official(options: argparse.Namespace) -> None:
    """Store weights that the authors published as a run of this suite."""
    from mist_bench.official.weights import import_checkpoint

    config = settings.load(targets.SETTINGS, {"preset": "paper", "compat": options.compat})
    experiment = import_checkpoint(options.file, options.out, config, options.experiment)
    print(f"{options.out}: the authors' weights for {experiment}")


def features(options: argparse.Namespace) -> None:
    """Compute the features of a dataset."""
    spec = read_job("features", options, FeatureSpec)
    from mist_bench.run.features import build_features

    build_features(spec, Path(options.dataset).parent, Path(options.out).parent, options.device)


def train(options: argparse.Namespace) -> None:
    """Train one run."""
    spec = read_job("train", options, RunSpec)
    manifest, out = Path(options.manifest), Path(options.record).parent
    code = provenance.stage_code("train", spec.module)
    from mist_bench.run.method import choose_device
    from mist_bench.run.training import Interrupted
    from mist_bench.run.training import train as train_run

    device, data = str(choose_device(options.device)), provenance.file_digest(manifest)
    work = Path(options.work, work_name(settings.canonical(spec), code, data, device))
    try:
        train_run(spec, manifest.parent, out, work, options.device, code)
    except Interrupted as stop:
        print(f"mist-bench train: {stop}", file=sys.stderr)
        sys.exit(RESUMABLE)


def predict(options: argparse.Namespace) -> None:
    """Store the predictions of one run."""
    spec = read_job("predict", options, RunSpec)
    from mist_bench.run.prediction import predict as predict_run

    data, weights, out = Path(options.manifest).parent, Path(options.weights), Path(options.out)
    predict_run(spec, data, weights, out, options.device, options.split)


def trace(options: argparse.Namespace) -> None:
    """Store the stages of one run on one image."""
    spec = read_job("trace", options, RunSpec)
    from mist_bench.run.tracing import trace as trace_run

    data = Path(options.manifest).parent
    trace_run(spec, data, Path(options.weights), Path(options.out), options.device)


def evaluate(options: argparse.Namespace) -> None:
    """Compute the metrics of one run."""
    spec = read_spec(options.spec, RunSpec)
    check_code("evaluate", None, options.code)
    from mist_bench.evaluation.metrics import evaluate as evaluate_run

    data = Path(options.manifest).parent
    evaluate_run(spec, data, Path(options.predictions), Path(options.out), options.split)


def metrics(options: argparse.Namespace) -> None:
    """Collect the metrics of all runs."""
    config, results = read_config(options)
    check_code("metrics", None, options.code)
    from mist_bench.reporting.aggregate import collect

    collect(config, results).to_csv(results / "metrics.csv", index=False)


def table(options: argparse.Namespace) -> None:
    """Make one table; missing runs are an error unless --partial is given."""
    config, results = read_config(options)
    settings.check_names("table", [options.name], [*targets.TABLES, *targets.EXTENDED])
    check_code("table", None, options.code)
    check_complete(options, results, targets.table_runs(config, options.name), "metrics.json")
    from mist_bench.reporting.tables.write import write_table

    write_table(options.name, config, results, results / "tables")


def figure(options: argparse.Namespace) -> None:
    """Make one figure; missing runs are an error unless --partial is given."""
    config, results = read_config(options)
    settings.check_names("figure", [options.name], targets.FIGURES)
    check_code("figure", None, options.code)
    runs = targets.figure_runs(config, options.name)
    check_complete(options, results, runs, targets.figure_input(options.name))
    from mist_bench.reporting.figures.write import write_figure

    write_figure(options.name, config, results, results / "figures")


def report(options: argparse.Namespace) -> None:
    """Make the HTML report."""
    config, results = read_config(options)
    check_code("report", None, options.code)
    from mist_bench.reporting.html import write_report

    write_report(config, results, results / "report")


def search(options: argparse.Namespace) -> None:
    """Compare the candidates of a search: generators of MNIST-hard, or parameters of a top-K."""
    config, results = read_config(options)
    check_code(options.command, None, options.code)
    from mist_bench.reporting.tables.calibration import write_calibration
    from mist_bench.reporting.tables.tuning import write_tuning

    write = {"calibration": write_calibration, "tuning": write_tuning}[options.command]
    write(config, results, results / "tables" / f"{options.command}.csv")


def publish(options: argparse.Namespace) -> None:
    """Copy what is worth keeping of a preset's results to results/reference."""
    config, results = read_config(options)
    from mist_bench.reporting.publish import publish as publish_results

    files = publish_results(config, results, Path("results", "reference", config.preset))
    print(f"{len(files)} files in results/reference/{config.preset}")


def resolve(options: argparse.Namespace) -> None:
    """Store a configuration, after checking it once more."""
    config = settings.parse("--config", options.config)
    Path(options.out).write_text(settings.canonical(config) + "\n", encoding="utf-8")


def why(options: argparse.Namespace) -> None:
    """Print what changed since a run was trained."""
    folder = options.folder
    if not (folder / "config.json").is_file():
        raise ValueError(f"{folder}: no finished run here (config.json is missing)")
    old = read_spec(str(folder / "config.json"), RunSpec)
    config = settings.load(targets.SETTINGS, {"preset": old.preset})
    targets.check_run(config, old.experiment, old.method)
    new = settings.run_spec(config, old.experiment, old.method, old.seed)
    lines = provenance.why(
        folder,
        new.model_dump(mode="json"),
        provenance.stage_code("train", new.module),
        targets.input_folder(config, new.dataset) / "manifest.json",
    )
    print("\n".join(lines) or "nothing changed since this run was trained")


def clean_work(options: argparse.Namespace) -> None:
    """Remove the checkpoints of the runs that have their weights; all others keep theirs."""
    results = Path("results", options.preset)
    if not results.is_dir():
        raise ValueError(f"{results}: no results of this preset here")
    print(f"{results / 'work'}: {remove_finished(results)} removed")


def config_docs(options: argparse.Namespace) -> None:
    """Print the documentation of every configuration key."""
    from mist_bench.config.docs import document

    print(document(settings.load(targets.SETTINGS)), end="")


def plan(options: argparse.Namespace) -> None:
    """Print what a target needs and what it costs here, before anything starts."""
    from mist_bench.forecast import jobs as planning
    from mist_bench.forecast import text as planning_text

    config = planning.configuration(options.preset, options.config)
    jobs = planning.plan_jobs(config, options.target, Path("results", config.preset))
    with gpu_lease(config.device):  # what is timed has a GPU for itself
        found = planning.forecast(config, jobs, limit=options.seconds)
    print(planning_text.text(found, options.cores))
    if options.csv:
        planning_text.write_csv(options.csv, found)


def bench(options: argparse.Namespace) -> None:
    """Measure speed, memory or how both grow, and print what was found."""
    from mist_bench.cli.bench import run

    run(options)


COMMANDS: dict[str, Callable[[argparse.Namespace], None]] = {
    "dataset": dataset,
    "import-dataset": import_dataset,
    "import-official": import_official,
    "features": features,
    "train": train,
    "predict": predict,
    "trace": trace,
    "evaluate": evaluate,
    "metrics": metrics,
    "table": table,
    "figure": figure,
    "calibration": search,
    "tuning": search,
    "report": report,
    "publish": publish,
    "resolve": resolve,
    "why": why,
    "clean-work": clean_work,
    "config-docs": config_docs,
    "plan": plan,
    "bench": bench,
}


if __name__ == "__main__":
    sys.exit(main())

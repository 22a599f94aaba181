"""What is made of finished runs: metrics, tables, figures and the report; and what they leave."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from mist_bench.cli.command import CODE, PRESET, command, option
from mist_bench.cli.inputs import check_code, load_preset, read_spec
from mist_bench.config import provenance, targets
from mist_bench.config import resolve as settings
from mist_bench.config.schema import Config, RunSpec
from mist_bench.run.work_folders import remove_finished

CONFIG = (option("--config", type=Path, help="resolved config.json, instead of a preset"), PRESET)
PARTIAL = option("--partial", action="store_true", help="also if runs are missing")


def read_config(options: argparse.Namespace) -> tuple[Config, Path]:
    """Return the configuration that --config or --preset names, and its results folder.

    Raises:
        ValueError: if the code of the command is not that of --code.
    """
    if options.config:
        config = settings.parse(str(options.config), options.config.read_text(encoding="utf-8"))
    else:
        config = load_preset(options.preset)
    check_code(options.command, None, getattr(options, "code", None))
    return config, Path("results", config.preset)


def check_complete(
    options: argparse.Namespace, results: Path, runs: Sequence[targets.Run], name: str
) -> None:
    """Raise a ``ValueError`` that names the first missing run, unless --partial was given."""
    files = [targets.run_folder(results, *run) / name for run in runs]
    missing = [path for path in files if not path.is_file()]
    if missing and not options.partial:
        raise ValueError(
            f"{options.name}: {len(missing)} of {len(files)} runs are missing, first {missing[0]}; "
            f"make them with snakemake {options.name} --config preset={results.name}, "
            "or add --partial"
        )


@command(*CONFIG, CODE)
def metrics(options: argparse.Namespace) -> None:
    """Collect the metrics of all runs in one CSV."""
    config, results = read_config(options)
    from mist_bench.reporting.aggregate import collect

    collect(config, results).to_csv(results / "metrics.csv", index=False)


@command(
    option("name", help="table1, ..., table_EXPERIMENT, calibration, tuning"),
    PARTIAL,
    *CONFIG,
    CODE,
)
def table(options: argparse.Namespace) -> None:
    """Make one table from stored results."""
    (config, results), name = read_config(options), options.name
    settings.check_names("table", [name], targets.tables(config))
    check_complete(options, results, targets.table_runs(config, name), targets.table_input(name))
    from mist_bench.reporting.tables.write import write_table

    write_table(name, config, results, results / "tables")


@command(option("name", help="figure1, figure2, ..."), PARTIAL, *CONFIG, CODE)
def figure(options: argparse.Namespace) -> None:
    """Make one figure of the paper from stored results."""
    (config, results), name = read_config(options), options.name
    check_complete(options, results, targets.figure_runs(config, name), targets.figure_input(name))
    from mist_bench.reporting.figures.write import write_figure

    write_figure(name, config, results, results / "figures")


@command(*CONFIG, CODE)
def report(options: argparse.Namespace) -> None:
    """Make the HTML report from stored results."""
    config, results = read_config(options)
    from mist_bench.reporting.html import write_report

    write_report(config, results, results / "report")


@command(*CONFIG)
def publish(options: argparse.Namespace) -> None:
    """Copy what is worth keeping of a preset's results to results/reference."""
    config, results = read_config(options)
    from mist_bench.reporting.publish import publish as publish_results

    files = publish_results(config, results, Path("results", "reference", config.preset))
    print(f"{len(files)} files in results/reference/{config.preset}")


@command(option("folder", type=Path, help="of the run"))
def why(options: argparse.Namespace) -> None:
    """Say what changed since a run was trained.

    Its settings now are those of its preset or, where that does not know the run, those that the
    workflow resolved last: an overlay (``--configfile``) may have brought its method.
    """
    folder = options.folder
    if not (folder / "config.json").is_file():
        raise ValueError(f"{folder}: no finished run here (config.json is missing)")
    old = read_spec(str(folder / "config.json"), RunSpec)
    config, resolved = load_preset(old.preset), folder.absolute().parents[3] / "config.json"
    known = old.method in config.methods and old.experiment in config.experiments
    if not known and resolved.is_file():
        config = settings.parse(str(resolved), resolved.read_text(encoding="utf-8"))
    targets.check_run(config, old.experiment, old.method)
    new = settings.run_spec(config, old.experiment, old.method, old.seed)
    lines = provenance.why(
        folder,
        new.model_dump(mode="json"),
        provenance.stage_code("train", new.module),
        targets.input_folder(config, new.dataset) / "manifest.json",
    )
    print("\n".join(lines) or "nothing changed since this run was trained")


@command(option("--preset", required=True, help="preset whose checkpoints go"))
def clean_work(options: argparse.Namespace) -> None:
    """Remove the checkpoints of a preset's finished runs; all others keep theirs."""
    results = Path("results", options.preset)
    if not results.is_dir():
        raise ValueError(f"{results}: no results of this preset here")
    print(f"{results / 'work'}: {remove_finished(results)} removed")

"""The grammar of the command line: every sub-command and its options, in words for ``--help``."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

DEVICES = ("auto", "cpu", "cuda")
SPLITS = ("train", "val", "test")


def parser() -> argparse.ArgumentParser:
    """Return the parser of all sub-commands; ``command`` of what it returns names the chosen."""
    top = argparse.ArgumentParser(prog="mist-bench", description="Stages of the MIST benchmark.")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, words: str, **options: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=words, description=words)
        for option, meaning in options.items():
            choices = DEVICES if option == "device" else None
            command.add_argument(f"--{option}", required=True, choices=choices, help=meaning)
        return command

    spec = {"spec": "specification: JSON text or a file with it"}
    data = {"manifest": "manifest.json of the dataset; its arrays lie beside it"}
    stages = [
        add_dataset(add("dataset", "make a dataset: mist-bench dataset mnist_easy")),
        add(
            "features",
            "compute what methods see instead of a dataset's images",
            **spec,
            dataset="manifest.json of the dataset",
            out="manifest.json to write; the features go beside it",
            device="where networks run",
        ),
        add(
            "train",
            "train one run; continues an interrupted one",
            **spec,
            **data,
            record="run.json to write; weights and curves go beside it",
            work="folder for the checkpoints of all runs",
            device="where networks run",
        ),
        add(
            "predict",
            "store a run's predictions on a split",
            **spec,
            **data,
            weights="weights.safetensors of the run",
            out="predictions.npz to write",
            device="where networks run",
        ),
        add(
            "trace",
            "store what every stage of a trained MIST makes of one image (Figure 1)",
            **spec,
            **data,
            weights="weights.safetensors of the run",
            out="trace.npz to write",
            device="where networks run",
        ),
        add(
            "evaluate",
            "compute a run's metrics from its predictions",
            **spec,
            **data,
            predictions="predictions.npz of the run",
            out="metrics.json to write",
        ),
    ]
    collected = [add("metrics", "collect the metrics of all runs in one CSV")]
    for name in ("table", "figure"):
        command = add(name, f"make one {name} of the paper from stored results")
        command.add_argument("name", help=f"{name}1, {name}2, ...")
        command.add_argument("--partial", action="store_true", help="also if runs are missing")
        collected.append(command)
    collected.append(add("calibration", "compare candidate generators of MNIST-hard"))
    collected.append(add("tuning", "compare candidate parameters on the val split"))
    collected.append(add("report", "make the HTML report from stored results"))
    collected.append(add("publish", "copy tables, figures and curves to results/reference"))
    for name in ("predict", "evaluate"):
        commands.choices[name].add_argument(
            "--split", choices=SPLITS, default="test", help="of the dataset (%(default)s)"
        )
    for command in stages + collected:
        command.add_argument("--code", help="digest the code must have; checked if given")
    for command in collected:
        command.add_argument("--config", type=Path, help="resolved config.json")
        command.add_argument("--preset", help="instead of --config: preset of workflow/config")

    add("resolve", "store a configuration", config="JSON text", out="file to write")
    add("why", "say what changed since a run").add_argument("folder", type=Path)
    clean = add("clean-work", "remove the checkpoints of a preset's finished runs")
    clean.add_argument("--preset", required=True, help="preset whose checkpoints go")
    add("config-docs", "print workflow/config/README.md")
    add_plan(add("plan", "forecast the time and disk of a target: mist-bench plan table2"))
    add_imports(
        add("import-official", "store the authors' published weights as a run"),
        add("import-dataset", "store a dataset that the authors published"),
    )
    add_bench(add("bench", "measure speed, memory and how both grow"))
    return top


def add_dataset(dataset: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Add the two ways to name a dataset: by its name, or by what it is made of."""
    dataset.add_argument("name", nargs="?", help="key of datasets in workflow/config")
    dataset.add_argument("--preset", help="its preset; default: that of config.yaml")
    dataset.add_argument("--spec", help="instead of a name: JSON text or a file with it")
    dataset.add_argument("--manifest", help="with --spec: manifest.json to write")
    return dataset


def add_imports(weights: argparse.ArgumentParser, dataset: argparse.ArgumentParser) -> None:
    """Add what names the authors' files, and where their content goes."""
    weights.add_argument("file", type=Path, help="mnist_best_models or pascal_coco_best_models")
    weights.add_argument("--out", type=Path, required=True, help="folder to write")
    weights.add_argument(
        "--experiment",
        choices=("mnist_hard_classification", "pascal_coco_classification"),
        help="default: told from the names of the weights",
    )
    weights.add_argument(
        "--compat",
        choices=("official",),
        help="compute what the authors' code does with them; default: what the paper preset does",
    )
    dataset.add_argument("folder", type=Path, help="the unpacked archive")
    dataset.add_argument(
        "--name",
        choices=("mnist_hard", "pascal_coco"),
        required=True,
        help="mnist_hard for mnist_hard.zip, pascal_coco for VOC_pascal_coco_v2.zip",
    )
    dataset.add_argument("--out", type=Path, required=True, help="folder to write")


def add_plan(plan: argparse.ArgumentParser) -> None:
    """Add what is forecast, with which settings, and how carefully."""
    plan.add_argument(
        "target",
        nargs="?",
        default="tables",
        help="tables, table1, ..., figures, figure1, ..., report (%(default)s)",
    )
    plan.add_argument("--preset", help="of workflow/config; default: that of config.yaml")
    plan.add_argument(
        "--config",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="settings as for snakemake, such as seeds=[0,1,2]; or a resolved config.json",
    )
    cores = os.process_cpu_count() if hasattr(os, "process_cpu_count") else os.cpu_count()
    plan.add_argument("--cores", type=positive, default=cores, help="to work on (%(default)s)")
    plan.add_argument(
        "--seconds", type=float, default=5.0, help="to time steps of a method in (%(default)s)"
    )
    plan.add_argument("--csv", type=Path, help="file to write the table to, too")


def add_bench(bench: argparse.ArgumentParser) -> None:
    """Add the kinds of benchmark; ``kind`` of the parsed options names the chosen."""
    kinds = bench.add_subparsers(dest="kind", required=True, metavar="KIND")

    def add(name: str, words: str, repeats: int | None = None) -> argparse.ArgumentParser:
        kind = kinds.add_parser(name, help=words, description=words)
        kind.add_argument("--out", type=Path, required=True, help="folder for CSV, record and plot")
        if repeats:
            kind.add_argument(
                "--repeats", type=positive, default=repeats, help="most timed calls (%(default)s)"
            )
        return kind

    stages = add("stages", "time every stage of one configuration", 30)
    methods = add("methods", "time a training step of every method of an experiment, in turn", 30)
    learning = add("learning", "time until Both on val reaches given values, on real data")
    sharing = add("sharing", "count training steps when several runs share a GPU, or the cores")
    sharing.add_argument("--device", choices=DEVICES, default="auto", help="(%(default)s)")
    sharing.add_argument(
        "--runs", nargs="+", type=positive, default=[1, 2, 4], help="runs at once (%(default)s)"
    )
    for kind in (stages, methods, learning, sharing):
        kind.add_argument("--experiment", default="mnist_hard_classification", help="(%(default)s)")
    for kind in (stages, learning, sharing):
        kind.add_argument("--method", default="mist", help="key of methods (%(default)s)")
    learning.add_argument(
        "--reach",
        nargs="+",
        type=fraction,
        default=[0.8, 0.9, 0.95],
        help="values of Both (%(default)s)",
    )
    numbers = {"every": (50, "steps between two looks"), "images": (256, "of val in one look")}
    numbers["limit"] = (300, "processor seconds of training at most")
    for name, (value, words) in numbers.items():
        text = f"{words} (%(default)s)"
        learning.add_argument(f"--{name}", type=positive, default=value, help=text)
    stages.add_argument("--only", nargs="+", default=[], metavar="STAGE", help="these stages alone")
    stages.add_argument(
        "--against",
        metavar="NAME",
        help="also compare training steps with a preset's, with 'official', or with KEYWORD=VALUE "
        "of the method",
    )
    add("official", "compare the official code's training step with this suite's", 5)
    scaling = add("scaling", "fit how time and memory grow with patches, canvas and images", 3)
    memory = add("memory", "peak memory of masks and of MIST's selection against locations")
    for kind in (stages, methods, learning, scaling, memory, sharing):
        kind.add_argument("--preset", default="cpu", help="of workflow/config (%(default)s)")


def fraction(text: str) -> float:
    """Return a number in (0, 1].

    Raises:
        ArgumentTypeError: for another number.
        ValueError: for no number.
    """
    number = float(text)
    if not 0 < number <= 1:
        raise argparse.ArgumentTypeError(f"must be above 0 and at most 1, got {text}")
    return number


def positive(text: str) -> int:
    """Return a whole number > 0.

    Raises:
        ArgumentTypeError: for another whole number.
        ValueError: for no whole number.
    """
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text}")
    return number

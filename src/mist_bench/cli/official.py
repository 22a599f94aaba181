"""The authors' published weights and datasets in this suite's formats."""

import argparse
from pathlib import Path

from mist_bench.cli.command import command, option, paths
from mist_bench.cli.inputs import load_preset
from mist_bench.config import resolve as settings
from mist_bench.config import targets

OUT = paths(out="folder to write")


@command(
    option("file", type=Path, help="mnist_best_models or pascal_coco_best_models"),
    option(
        "--experiment",
        choices=("mnist_hard_classification", "pascal_coco_classification"),
        help="default: told from the names of the weights",
    ),
    option(
        "--compat",
        choices=("official",),
        help="compute what the authors' code does with them; default: what the paper preset does",
    ),
    *OUT,
)
def import_official(options: argparse.Namespace) -> None:
    """Store the authors' published weights as a run."""
    from mist_bench.official.weights import import_checkpoint

    config = settings.load(targets.SETTINGS, {"preset": "paper", "compat": options.compat})
    experiment = import_checkpoint(options.file, options.out, config, options.experiment)
    print(f"{options.out}: the authors' weights for {experiment}")


@command(
    option("folder", type=Path, help="the unpacked archive"),
    option(
        "--name",
        required=True,
        choices=("mnist_hard", "pascal_coco"),
        help="mnist_hard for mnist_hard.zip, pascal_coco for VOC_pascal_coco_v2.zip",
    ),
    *OUT,
)
def import_dataset(options: argparse.Namespace) -> None:
    """Store a dataset that the authors published."""
    from mist_bench.official.datasets import import_dataset as import_folder

    found = import_folder(options.folder, options.name, options.out, load_preset("paper"))
    counts = [f"{used} of {listed} {split}" for split, (used, listed) in found.items()]
    print(f"{options.out}: {', '.join(counts)} images")

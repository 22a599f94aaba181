"""What may be written in the configuration, and what one stage depends on, as pydantic models.

Torch-free, because Snakemake imports it for every parse.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from mist_bench.spec import Count, Fraction, Natural, Positive, Spec, different, rising
from mist_bench.types import Kind, TaskSpec

SPLITS = ("train", "val", "test")
Names = Annotated[list[str], AfterValidator(different)]
FractionRange = Annotated[tuple[Fraction, Fraction], AfterValidator(rising)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Seeds = Annotated[list[Seed], AfterValidator(different)]


def _part_of_paths(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_]+", name):
        raise ValueError(f"{name!r} is part of paths: use letters, digits and _ only")
    return name


Name = Annotated[str, AfterValidator(_part_of_paths)]


class Training(Spec):
    """The budget of a run, in optimizer steps (never in minutes)."""

    steps: Count = Field(description="optimizer steps")
    batch_size: Count = Field(description="images in a step")
    validate_every: Count = Field(description="steps between two passes over the val split")
    checkpoint_every: Count = Field(description="steps between two resumable checkpoints")
    log_every: Count = Field(description="steps between two rows of train.csv")
    warmup: Natural = Field(0, description="steps of linear learning-rate warm-up")
    final_lr: Fraction = Field(
        1.0, description="learning rate at the last step, as a fraction (cosine decay)"
    )
    select: Literal["last", "best", "best_f1"] = Field(
        "last",
        description="weights kept: of the last step, best on val by a box-free score, or best on "
        "val by the official code's F1, which needs boxes",
    )
    threads: Count = Field(1, description="CPU threads of numeric code; part of the result")
    precision: Literal["float32", "tf32", "bfloat16"] = Field(
        "float32",
        description="of products and convolutions in training: tf32 on NVIDIA GPUs, bfloat16 by "
        "autocast where the CPU (AMX, AVX512-BF16) or GPU has it; predictions are always float32",
    )


class Backbone(Spec):
    """One pretrained network whose features stand in for images, frozen."""

    module: str = Field(description="module with build(**params)")
    channels: Count = Field(description="channels of its features")
    stride: Count = Field(description="px from one cell to the next")
    origin: float = Field(description="px at which the first cell is centered, on both axes")
    params: dict[str, Any] = Field({}, description="keywords of build")


class Features(Spec):
    """Frozen features of a dataset's images, computed once: what methods see instead of images."""

    backbone: str = Field(description="key of backbones")
    draws: Count = Field(description="augmented versions of each training image")
    flip: Fraction = Field(description="probability of a horizontal flip, training images only")
    mask: FractionRange | None = Field(
        description="range of a mask's side, fractions of the image's; null for no mask"
    )
    mask_shape: Literal["square", "rectangle"] = Field(
        "square",
        description="rectangle: height and width of a mask are drawn independently (official code)",
    )
    limit_gib: Positive = Field(description="largest size of all features on disk, GiB")


class Dataset(Spec):
    """One dataset: the module that makes it, its size and its own seed."""

    module: str = Field(description="module with make_split(split, size, rng, **params)")
    extends: str | None = Field(
        None,
        description="another dataset, of which this is a variant: what that says comes first",
    )
    image_size: tuple[Count, Count, Count] = Field(description="C, H, W in px")
    num_classes: Natural = Field(description="classes; 0 without labels")
    background: Natural | None = Field(
        None, description="class of a patch without an object; null if every patch is one"
    )
    box_size: Positive = Field(description="side of a detection box, px")
    sizes: dict[Literal["train", "val", "test"], Count] = Field(
        description="images; the most, where they are found and not made"
    )
    seed: Natural = Field(0, description="seed of the dataset, independent of any run's")
    params: dict[str, Any] = Field({}, description="keywords of make_split")
    features: Features | None = Field(None, description="what methods see instead of the images")


class Override(Spec):
    """What one experiment changes for one method."""

    extends: str | None = Field(
        None, description="another experiment, whose differences for this method come first"
    )
    dataset: str | None = Field(
        None, description="key of datasets to train on; its test split must be the experiment's"
    )
    params: dict[str, Any] = Field({}, description="keywords of build that differ")
    training: dict[str, Any] = Field({}, description="keys of training that differ")


class MethodEntry(Spec):
    """One method: its file, where it competes, and its parameters as far as they differ."""

    module: str = Field(description="module with build(task, **params)")
    label: str = Field("", description="name in tables and figures; the key if not given")
    extends: str | None = Field(
        None, description="another method, of which this one is a variant: what it says comes first"
    )
    params: dict[Kind, dict[str, Any]] = Field(
        {}, description="keywords of build that differ from its defaults, by task"
    )
    training: dict[str, Any] = Field({}, description="keys of training that differ")
    experiments: dict[str, Override] = Field(
        {}, description="where it competes: a list of experiments, or what differs in each"
    )


class Experiment(Spec):
    """One experiment: a task on a dataset with K patches, for the methods listed."""

    task: Kind = Field(description="classification (Eq. 9) or reconstruction (Eq. 8)")
    dataset: str = Field(description="key of datasets")
    num_instances: Count = Field(description="K, patches extracted in training")
    num_detections: Count | None = Field(
        None, description="patches extracted at test; K if not given"
    )
    methods: Names = Field(
        [], description="keys of methods that compete here, beside those whose entry names it"
    )
    rivals: Names = Field(
        [], description="keys of methods that compete in table_EXPERIMENT and extended tables only"
    )
    omitted: dict[str, str] = Field(
        {}, description="methods that this preset cannot run, each with the reason; not to be set"
    )


class Config(Spec):
    """The whole configuration after merging."""

    preset: str = Field(description="smoke, cpu, paper, ...; part of every path")
    seeds: Seeds = Field(min_length=1, description="one run per seed")
    device: Literal["auto", "cpu", "cuda"] = Field(description="where networks run")
    counting: Literal["corrected", "official"] = Field(
        "corrected",
        description="what tables show first: corrected metrics, or those of the official code, "
        "which alone are then compared with the paper",
    )
    needs_params: bool = Field(
        False,
        description="whether methods without params or training of their own are not run: defaults "
        "are made for the cpu preset",
    )
    training: Training = Field(description="budget every run shares unless it says otherwise")
    datasets: dict[Name, Dataset] = Field(description="by name, as in paths")
    backbones: dict[Name, Backbone] = Field({}, description="by name: pretrained, frozen networks")
    experiments: dict[Name, Experiment] = Field(description="by name, as in paths")
    methods: dict[Name, MethodEntry] = Field(description="by name, as in paths: the registry")


class DatasetSpec(Dataset):
    """What a dataset's files depend on."""

    name: str
    preset: str


class FeatureSpec(Features):
    """What a dataset's features depend on, beside its files."""

    dataset: str
    preset: str
    seed: int
    network: Backbone


class RunSpec(Spec):
    """What a run's result depends on, beside code and data."""

    preset: str
    experiment: str
    method: str
    seed: int
    module: str
    dataset: str
    task: TaskSpec
    params: dict[str, Any]
    training: Training

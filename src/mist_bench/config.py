"""The configuration: what may be written in YAML, and the specification of one run made from it.

``load`` merges ``config.yaml``, the chosen preset and the user's overrides, in this order, and
validates the result; ``run_spec`` and ``dataset_spec`` cut out what one stage depends on.
Torch-free, because Snakemake imports it for every parse.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError

from mist_bench.signatures import ConfigError, check_keywords, check_names, hint
from mist_bench.types import Kind, TaskSpec

SPLITS = ("train", "val", "test")


class Strict(BaseModel):
    """A model that knows all its keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Training(Strict):
    """The budget of a run, in optimizer steps (never in minutes)."""

    steps: PositiveInt = Field(description="optimizer steps")
    batch_size: PositiveInt = Field(description="images in a step")
    validate_every: PositiveInt = Field(description="steps between two passes over the val split")
    checkpoint_every: PositiveInt = Field(description="steps between two resumable checkpoints")
    log_every: PositiveInt = Field(description="steps between two rows of train.csv")
    warmup: int = Field(0, ge=0, description="steps of linear learning-rate warm-up")
    final_lr: float = Field(
        1.0, ge=0, le=1, description="learning rate at the last step, as a fraction (cosine decay)"
    )
    select: Literal["last", "best"] = Field(
        "last", description="weights kept: of the last step, or best on val by a box-free score"
    )
    threads: PositiveInt = Field(1, description="CPU threads of numeric code; part of the result")


class Dataset(Strict):
    """One dataset: the module that makes it, its size and its own seed."""

    module: str = Field(description="module with make_split(split, size, rng, **params)")
    image_size: tuple[PositiveInt, PositiveInt, PositiveInt] = Field(description="C, H, W in px")
    num_classes: int = Field(ge=0, description="classes; 0 without labels")
    box_size: float = Field(gt=0, description="side of a detection box, px")
    sizes: dict[Literal["train", "val", "test"], PositiveInt] = Field(description="images")
    seed: int = Field(ge=0, description="seed of the dataset, independent of any run's")
    params: dict[str, Any] = Field({}, description="keywords of make_split")


class Override(Strict):
    """What one experiment changes for one method."""

    dataset: str | None = Field(
        None, description="key of datasets to train on; its test split must be the experiment's"
    )
    params: dict[str, Any] = Field({}, description="keywords of build that differ")
    training: dict[str, Any] = Field({}, description="keys of training that differ")


class MethodEntry(Strict):
    """One method: its file, where it can compete, and its hyper-parameters."""

    module: str | dict[Kind, str] = Field(
        description="module with build(task, **params), or one for each task"
    )
    label: str = Field(description="name in tables and figures")
    params: dict[Kind, dict[str, Any]] = Field(
        description="keywords of build for each task the method can do"
    )
    training: dict[str, Any] = Field({}, description="keys of training that differ")
    experiments: dict[str, Override] = Field({}, description="differences for one experiment")

    def module_for(self, task: Kind) -> str:
        """Return the module that builds this method for ``task``.

        Raises:
            ConfigError: if modules are named by task, and not for this one.
        """
        if isinstance(self.module, str):
            return self.module
        check_names(f"module of {self.label}", [task], self.module)
        return self.module[task]


class Experiment(Strict):
    """One experiment: a task on a dataset with K patches, for the methods listed."""

    task: Kind = Field(description="classification (Eq. 9) or reconstruction (Eq. 8)")
    dataset: str = Field(description="key of datasets")
    num_instances: PositiveInt = Field(description="K, patches extracted in training")
    num_detections: PositiveInt | None = Field(
        None, description="patches extracted at test; K if not given"
    )
    methods: list[str] = Field(description="keys of methods that compete here")
    rivals: list[str] = Field(
        [], description="keys of methods that compete in the extended table only"
    )


class Config(Strict):
    """The whole configuration after merging."""

    preset: str = Field(description="smoke, cpu or paper; part of every path")
    seeds: list[Annotated[int, Field(ge=0)]] = Field(min_length=1, description="one run per seed")
    device: Literal["auto", "cpu", "cuda"] = Field(description="where networks run")
    training: Training = Field(description="budget every run shares unless it says otherwise")
    datasets: dict[str, Dataset] = Field(description="by name, as in paths")
    experiments: dict[str, Experiment] = Field(description="by name, as in paths")
    methods: dict[str, MethodEntry] = Field(description="by name, as in paths: the registry")


class DatasetSpec(Dataset):
    """What a dataset's files depend on."""

    name: str
    preset: str


class RunSpec(Strict):
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


def canonical(spec: Strict) -> str:
    """Return ``spec`` as JSON with sorted keys: equal specs give equal strings."""
    return json.dumps(spec.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``base`` with the leaves of ``over`` put in; lists are replaced, not joined."""
    out = dict(base)
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(out.get(key), Mapping)
        out[key] = merge(out[key], value) if both else value
    return out


def load(folder: Path, overrides: Mapping[str, Any] | None = None) -> Config:
    """Return the validated configuration of ``folder`` (config.yaml and presets/).

    Args:
        folder: holds config.yaml and presets/<name>.yaml.
        overrides: the user's changes, nested like the YAML; they win over the preset.

    Raises:
        ConfigError: in one line, naming the file or key and what would be valid.
    """
    overrides = dict(overrides or {})
    base = _read_yaml(folder / "config.yaml")
    preset = overrides.get("preset", base.get("preset"))
    known = sorted(path.stem for path in (folder / "presets").glob("*.yaml"))
    if preset not in known:
        raise ConfigError(f"preset: {preset!r} is unknown{hint(str(preset), known)}")
    return validate(merge(merge(base, _read_preset(folder / "presets", preset)), overrides))


def validate(merged: Mapping[str, Any]) -> Config:
    """Return ``merged`` as a ``Config``; every name and keyword in it is checked."""
    try:
        config = Config.model_validate(merged)
    except ValidationError as error:
        raise ConfigError(explain(error, Config)) from None
    for name, dataset in config.datasets.items():
        check_keywords(f"datasets.{name}.params", dataset.params, dataset.module, "make_split")
    for name, experiment in config.experiments.items():
        where = f"experiments.{name}"
        check_names(f"{where}.dataset", [experiment.dataset], config.datasets)
        check_names(f"{where}.methods", experiment.methods, config.methods)
        check_names(f"{where}.rivals", experiment.rivals, config.methods)
        if twice := set(experiment.methods) & set(experiment.rivals):
            raise ConfigError(f"{where}.rivals: {min(twice)!r} is among its methods already")
        for method in experiment.methods + experiment.rivals:
            check_names(
                f"{where}: methods.{method}.params",
                [experiment.task],
                config.methods[method].params,
            )
            run_spec(config, name, method, config.seeds[0])
    for name, entry in config.methods.items():
        where = f"methods.{name}.experiments"
        check_names(where, entry.experiments, config.experiments)
        for experiment, own in entry.experiments.items():
            if own.dataset is not None:
                check_names(f"{where}.{experiment}.dataset", [own.dataset], config.datasets)
    return config


def run_spec(config: Config, experiment: str, method: str, seed: int) -> RunSpec:
    """Return the specification of one run.

    Raises:
        ConfigError: for a keyword that the method's ``build`` does not take, or a schedule of
            another length than the training.
    """
    entry, setup = config.methods[method], config.experiments[experiment]
    dataset = config.datasets[setup.dataset]
    own = entry.experiments.get(experiment, Override())
    params = merge(entry.params[setup.task], own.params)
    module = entry.module_for(setup.task)
    check_keywords(f"methods.{method}.params.{setup.task}", params, module, "build")
    training = merge(merge(config.training.model_dump(), entry.training), own.training)
    try:
        budget = Training.model_validate(training)
    except ValidationError as error:
        raise ConfigError(f"methods.{method}.training: {explain(error, Training)}") from None
    planned = params.get("schedule_steps", budget.steps)
    if planned != budget.steps:
        raise ConfigError(
            f"methods.{method}.params.{setup.task}.schedule_steps is {planned}, but its training "
            f"on {experiment} has {budget.steps} steps: change both"
        )
    task = TaskSpec(
        kind=setup.task,
        image_size=dataset.image_size,
        num_instances=setup.num_instances,
        num_detections=setup.num_detections,
        num_classes=dataset.num_classes,
        box_size=dataset.box_size,
    )
    return RunSpec(
        preset=config.preset,
        experiment=experiment,
        method=method,
        seed=seed,
        module=module,
        dataset=own.dataset or setup.dataset,
        task=task,
        params=params,
        training=budget,
    )


def dataset_spec(config: Config, name: str) -> DatasetSpec:
    """Return the specification of the dataset ``name``."""
    return DatasetSpec(name=name, preset=config.preset, **config.datasets[name].model_dump())


def explain(error: ValidationError, model: type[BaseModel]) -> str:
    """Return the first problem of ``error`` in one line, with the nearest valid key."""
    first = error.errors()[0]
    where = ".".join(map(str, first["loc"]))
    if first["type"] == "missing":
        return f"{where}: this key is required"
    if first["type"] != "extra_forbidden":
        return f"{where}: {first['msg']} (got {first.get('input')!r})"
    return (
        f"{where}: unknown key{hint(str(first['loc'][-1]), _fields_at(model, first['loc'][:-1]))}"
    )


def _fields_at(model: Any, path: tuple) -> list[str]:
    """Return the fields of the model that ``path`` leads to, through dicts and lists."""
    for part in path:
        if isinstance(model, type) and issubclass(model, BaseModel):
            if part not in model.model_fields:
                return []
            model = model.model_fields[part].annotation
        else:
            model = next((a for a in reversed(getattr(model, "__args__", ()))), None)
    return list(getattr(model, "model_fields", None) or [])


def _read_preset(folder: Path, name: str) -> dict[str, Any]:
    """Return a preset merged over the one that it ``extends``, if any."""
    preset = _read_yaml(folder / f"{name}.yaml")
    parent = preset.pop("extends", None)
    if parent is None:
        return preset
    if parent == name or not (folder / f"{parent}.yaml").is_file():
        raise ConfigError(f"presets/{name}.yaml: extends {parent!r}, which is not another preset")
    return merge(_read_preset(folder, parent), preset)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: cannot be read: {' '.join(str(error).split())}") from None
    if isinstance(data, dict):
        return data
    raise ConfigError(f"{path}: a mapping is expected, got {type(data).__name__}")

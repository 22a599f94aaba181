"""The configuration: read and checked, and the specification of one stage made from it.

``load`` merges ``config.yaml``, the chosen preset and the user's overrides, in this order, and
validates the result; ``run_spec`` and ``dataset_spec`` cut out what one stage depends on.
Torch-free, because Snakemake imports it for every parse.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from mist_bench.config.files import merge, merge_files
from mist_bench.config.keywords import ConfigError, check_keywords, check_names, hint
from mist_bench.config.schema import (
    Config,
    Dataset,
    DatasetSpec,
    FeatureSpec,
    MethodEntry,
    Override,
    RunSpec,
    Strict,
    Training,
)
from mist_bench.types import TaskSpec


def canonical(spec: Strict) -> str:
    """Return ``spec`` as JSON with sorted keys: equal specs give equal strings."""
    return json.dumps(spec.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))


def load(folder: Path, overrides: Mapping[str, Any] | None = None) -> Config:
    """Return the validated configuration of ``folder`` (config.yaml and presets/).

    Args:
        folder: holds config.yaml and presets/<name>.yaml.
        overrides: the user's changes, nested like the YAML; they win over the preset. With
            ``compat: official``, ``preset: paper`` is short for ``preset: paper_official``.

    Raises:
        ConfigError: in one line, naming the file or key and what would be valid.
    """
    return validate(merge_files(folder, overrides or {}))


def parse(where: str, text: str) -> Config:
    """Return the resolved configuration in JSON text; errors begin with ``where`` it is from."""
    try:
        return validate(json.loads(text))
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from None


def validate(merged: Mapping[str, Any]) -> Config:
    """Return ``merged`` as a ``Config``; every name and keyword in it is checked."""
    try:
        config = Config.model_validate(merged)
    except ValidationError as error:
        preset = merged.get("preset") if isinstance(merged, Mapping) else None
        place = f" in config.yaml or presets/{preset}.yaml" if preset else ""
        raise ConfigError(explain(error, Config, place)) from None
    _check_data(config)
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
            if own.extends is not None:
                check_names(f"{where}.{experiment}.extends", [own.extends], config.experiments)
            if own.dataset is not None:
                check_names(f"{where}.{experiment}.dataset", [own.dataset], config.datasets)
                _check_same_test(config, f"{where}.{experiment}.dataset", own.dataset, experiment)
    return config


def _check_same_test(config: Config, where: str, name: str, experiment: str) -> None:
    """Raise a ``ConfigError`` unless the dataset ``name`` has the test split of the experiment's.

    Keywords that begin with ``train_`` are those of the training split alone.
    """
    tested = config.experiments[experiment].dataset
    own, wanted = (_test_split(config.datasets[one]) for one in (name, tested))
    if differing := sorted(key for key in {*own, *wanted} if own.get(key) != wanted.get(key)):
        raise ConfigError(
            f"{where}: the test split of {name} is not that of {tested}: {differing[0]} differs; "
            "both need the same"
        )


def _test_split(dataset: Dataset) -> dict[str, Any]:
    """Return what the test split of a dataset depends on."""
    fixed = dataset.model_dump(exclude={"params", "sizes"}) | {"sizes": dataset.sizes.get("test")}
    params = {k: v for k, v in dataset.params.items() if not k.startswith("train_")}
    return fixed | {f"params.{key}": value for key, value in params.items()}


def _check_data(config: Config) -> None:
    """Raise a ``ConfigError`` for a dataset or backbone that cannot be made."""
    for name, backbone in config.backbones.items():
        check_keywords(f"backbones.{name}.params", backbone.params, backbone.module, "build")
    for name, dataset in config.datasets.items():
        check_keywords(f"datasets.{name}.params", dataset.params, dataset.module, "make_split")
        root = dataset.params.get("root")  # the workflow looks for changes in that folder
        if not isinstance(root, str | None):
            raise ConfigError(f"datasets.{name}.params.root: one folder is expected, got {root!r}")
        background = dataset.background
        if background is not None and background >= dataset.num_classes:
            raise ConfigError(
                f"datasets.{name}.background: {background} is none of the "
                f"{dataset.num_classes} classes"
            )
        if dataset.features:
            least, most = dataset.features.mask or (0, 0)
            if least > most:
                raise ConfigError(f"datasets.{name}.features.mask: {least:g} is more than {most:g}")
            where = f"datasets.{name}.features.backbone"
            check_names(where, [dataset.features.backbone], config.backbones)
            stride = config.backbones[dataset.features.backbone].stride
            if odd := [side for side in dataset.image_size[1:] if side % stride]:
                raise ConfigError(
                    f"datasets.{name}.image_size: {odd[0]} is no multiple of the "
                    f"backbone's stride {stride}"
                )


def run_spec(config: Config, experiment: str, method: str, seed: int) -> RunSpec:
    """Return the specification of one run.

    Raises:
        ConfigError: for a keyword that the method's ``build`` does not take, or a schedule of
            another length than the training.
    """
    entry, setup = config.methods[method], config.experiments[experiment]
    dataset = config.datasets[setup.dataset]
    own = _override(entry, experiment)
    params = merge(entry.params[setup.task], own.params)
    module = entry.module_for(setup.task)
    check_keywords(f"methods.{method}.params.{setup.task}", params, module, "build")
    training = merge(merge(config.training.model_dump(), entry.training), own.training)
    try:
        budget = Training.model_validate(training)
    except ValidationError as error:
        raise ConfigError(f"methods.{method}.training: {explain(error, Training)}") from None
    planned = params.get("schedule_steps", budget.steps)
    if planned is None:  # null: as long as the training
        planned = params["schedule_steps"] = budget.steps
    if planned != budget.steps:
        raise ConfigError(
            f"methods.{method}.params.{setup.task}.schedule_steps is {planned}, but its training "
            f"on {experiment} has {budget.steps} steps: change both"
        )
    size, stride = input_size(config, dataset)
    task = TaskSpec(
        kind=setup.task,
        image_size=size,
        num_instances=setup.num_instances,
        num_detections=setup.num_detections,
        num_classes=dataset.num_classes,
        box_size=dataset.box_size / stride,
        background=dataset.background,
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


def _override(entry: MethodEntry, experiment: str) -> Override:
    """Return what an experiment changes for a method, on top of the one that it extends.

    Raises:
        ConfigError: if that one extends another, so that it would not be plain what holds.
    """
    own = entry.experiments.get(experiment, Override())
    if own.extends is None:
        return own
    base = entry.experiments.get(own.extends, Override())
    if base.extends is not None:
        raise ConfigError(
            f"methods.{entry.label}.experiments.{experiment}: extends {own.extends}, which extends "
            f"{base.extends}: name that one"
        )
    merged = merge(base.model_dump(exclude_unset=True), own.model_dump(exclude_unset=True))
    return Override.model_validate(merged)


def dataset_spec(config: Config, name: str) -> DatasetSpec:
    """Return the specification of the dataset ``name``: features are not part of its files."""
    dataset = config.datasets[name].model_dump(exclude={"features"})
    return DatasetSpec(name=name, preset=config.preset, **dataset)


def input_size(config: Config, dataset: Dataset) -> tuple[tuple[int, int, int], int]:
    """Return (C, H, W) of what methods see of a dataset, and how many px one of its cells spans."""
    if dataset.features is None:
        return dataset.image_size, 1
    network = config.backbones[dataset.features.backbone]
    H, W = (side // network.stride for side in dataset.image_size[1:])
    return (network.channels, H, W), network.stride


def feature_spec(config: Config, name: str) -> FeatureSpec:
    """Return the specification of the features of the dataset ``name``.

    Raises:
        ConfigError: if methods see its images themselves.
    """
    dataset = config.datasets[name]
    if dataset.features is None:
        raise ConfigError(f"datasets.{name}: methods see its images, it has no features")
    return FeatureSpec(
        dataset=name,
        preset=config.preset,
        seed=dataset.seed,
        network=config.backbones[dataset.features.backbone],
        **dataset.features.model_dump(),
    )


def explain(error: ValidationError, model: type[BaseModel], place: str = "") -> str:
    """Return the first problem of ``error`` in one line, with the nearest valid key.

    Args:
        error: what validating said.
        model: what was validated.
        place: where a key that is missing would be written, in words.
    """
    first = error.errors()[0]
    path, text = first["loc"], first["msg"].removeprefix("Value error, ")
    where = ".".join(map(str, path)) + ": " if path else ""
    if first["type"] == "missing":
        meaning = _fields_at(model, path[:-1])[path[-1]].description
        return f"{where}this key is required{place}: {meaning}"
    if first["type"] == "json_invalid":
        return f"{where}{text}"
    if first["type"] != "extra_forbidden":
        return f"{where}{text} (got {first.get('input')!r})"
    return f"{where}unknown key{hint(str(path[-1]), _fields_at(model, path[:-1]))}"


def _fields_at(model: Any, path: tuple) -> dict[str, FieldInfo]:
    """Return the fields of the model that ``path`` leads to, through dicts and lists."""
    for part in path:
        if isinstance(model, type) and issubclass(model, BaseModel):
            if part not in model.model_fields:
                return {}
            model = model.model_fields[part].annotation
        else:
            model = next((a for a in reversed(getattr(model, "__args__", ()))), None)
    return getattr(model, "model_fields", None) or {}

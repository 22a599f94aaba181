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

import yaml
from pydantic import BaseModel, ValidationError

from mist_bench.schema import (
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
from mist_bench.signatures import ConfigError, check_keywords, check_names, hint
from mist_bench.types import TaskSpec

COMPAT = "official"  # what --config compat=... may say: the published code's behavior


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
        overrides: the user's changes, nested like the YAML; they win over the preset. With
            ``compat: official``, ``preset: paper`` is short for ``preset: paper_official``.

    Raises:
        ConfigError: in one line, naming the file or key and what would be valid.
    """
    overrides = dict(overrides or {})
    base = _read_yaml(folder / "config.yaml")
    preset, compat = overrides.get("preset", base.get("preset")), overrides.pop("compat", None)
    known = sorted(path.stem for path in (folder / "presets").glob("*.yaml"))
    if preset not in known:
        raise ConfigError(f"preset: {preset!r} is unknown{hint(str(preset), known)}")
    if compat is not None:
        preset = overrides["preset"] = _compatible(str(preset), str(compat), known)
    merged = merge(base, _read_preset(folder / "presets", preset))
    return validate(merge(merged, _long_form(overrides, merged)))


def _compatible(preset: str, compat: str, known: list[str]) -> str:
    """Return the preset that is ``preset`` in the way of ``compat``; it may be that already."""
    if compat != COMPAT:
        raise ConfigError(f"compat: {compat!r} is unknown{hint(compat, [COMPAT])}")
    suffix = f"_{COMPAT}"
    if preset.removesuffix(suffix) + suffix in known:
        return preset.removesuffix(suffix) + suffix
    able = [name.removesuffix(suffix) for name in known if name.endswith(suffix)]
    raise ConfigError(f"compat: preset {preset} has no {COMPAT} kind{hint(preset, able)}")


def _long_form(overrides: Mapping[str, Any], merged: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``overrides`` with the key of a dataset as what it is short for: its ``params``."""
    short = {key: value for key, value in overrides.items() if key in merged.get("datasets", {})}
    rest = {key: value for key, value in overrides.items() if key not in short}
    return merge(rest, {"datasets": {key: {"params": own} for key, own in short.items()}})


def validate(merged: Mapping[str, Any]) -> Config:
    """Return ``merged`` as a ``Config``; every name and keyword in it is checked."""
    try:
        config = Config.model_validate(merged)
    except ValidationError as error:
        raise ConfigError(explain(error, Config)) from None
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
    return config


def _check_data(config: Config) -> None:
    """Raise a ``ConfigError`` for a dataset or backbone that cannot be made."""
    for name, backbone in config.backbones.items():
        check_keywords(f"backbones.{name}.params", backbone.params, backbone.module, "build")
    for name, dataset in config.datasets.items():
        check_keywords(f"datasets.{name}.params", dataset.params, dataset.module, "make_split")
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
    """Return a preset merged over those that it ``extends``, if any, of which later ones win."""
    preset = _read_yaml(folder / f"{name}.yaml")
    parents = preset.pop("extends", None) or []
    merged: dict[str, Any] = {}
    for parent in parents if isinstance(parents, list) else [parents]:
        if parent == name or not (folder / f"{parent}.yaml").is_file():
            words = f"extends {parent!r}, which is not another preset"
            raise ConfigError(f"presets/{name}.yaml: {words}")
        merged = merge(merged, _read_preset(folder, parent))
    return merge(merged, preset)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: cannot be read: {' '.join(str(error).split())}") from None
    if isinstance(data, dict):
        return data
    raise ConfigError(f"{path}: a mapping is expected, got {type(data).__name__}")

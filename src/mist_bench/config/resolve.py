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

from mist_bench.config.files import merge, merge_files
from mist_bench.config.keywords import (
    ConfigError,
    check_names,
    check_task,
    checked,
    defaults,
    hint,
    parameters,
)
from mist_bench.config.schema import (
    Config,
    Dataset,
    DatasetSpec,
    FeatureSpec,
    MethodEntry,
    Override,
    RunSpec,
    Training,
)
from mist_bench.config.user import read_values
from mist_bench.spec import Spec
from mist_bench.types import Kind, TaskSpec

LISTS = ("methods", "rivals")  # of an experiment


def canonical(spec: Spec) -> str:
    """Return ``spec`` as JSON with sorted keys: equal specs give equal strings."""
    return json.dumps(spec.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))


def load(folder: Path, overrides: Mapping[str, Any] | None = None) -> Config:
    """Return the validated configuration of ``folder`` (config.yaml and presets/).

    Args:
        folder: holds config.yaml and presets/<name>.yaml.
        overrides: the user's changes, nested like the YAML; they win over the preset. With
            ``compat: official``, ``preset: paper`` is short for ``preset: paper_official``. What
            is ``Text`` in them is read as the schema asks for.

    Raises:
        ConfigError: in one line, naming the file or key and what would be valid.
    """
    return validate(read_values(merge_files(folder, overrides or {})))


def parse(where: str, text: str) -> Config:
    """Return the resolved configuration in JSON text; errors begin with ``where`` it is from."""
    try:
        return validate(json.loads(text))
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from None


def validate(merged: Mapping[str, Any]) -> Config:
    """Return ``merged`` as a ``Config``; every name, keyword and value in it is checked."""
    preset = merged.get("preset") if isinstance(merged, Mapping) else None
    place = f" in config.yaml or presets/{preset}.yaml" if preset else ""
    _check_entries(merged)
    config = _without_unbudgeted(checked("", merged, Config, place))
    _check_data(config)
    for name, experiment in config.experiments.items():
        where = f"experiments.{name}"
        check_names(f"{where}.dataset", [experiment.dataset], config.datasets)
        check_names(f"{where}.methods", experiment.methods, config.methods)
        check_names(f"{where}.rivals", experiment.rivals, config.methods)
        if twice := set(experiment.methods) & set(experiment.rivals):
            raise ConfigError(f"{where}.rivals: {min(twice)!r} is among its methods already")
        for method in experiment.methods + experiment.rivals:
            run_spec(config, name, method, config.seeds[0])
    for name, entry in config.methods.items():
        _module(f"methods.{name}", entry.module, "build")
        training = merge(config.training.model_dump(), entry.training)
        checked(f"methods.{name}.training", training, Training)
        where = f"methods.{name}.experiments"
        check_names(where, entry.experiments, config.experiments)
        kinds = {s.task for s in config.experiments.values() if name in s.methods + s.rivals}
        for kind in entry.params.keys() - kinds:  # those of experiments are checked with theirs
            method_params(config, name, kind, {})
        for experiment, own in entry.experiments.items():
            if own.extends is not None:
                check_names(f"{where}.{experiment}.extends", [own.extends], config.experiments)
            if own.dataset is not None:
                check_names(f"{where}.{experiment}.dataset", [own.dataset], config.datasets)
                _check_same_test(config, f"{where}.{experiment}.dataset", own.dataset, experiment)
    return config


def _check_entries(merged: Any) -> None:
    """Raise a ``ConfigError`` for an entry without a module: its name is misspelt, perhaps."""
    for section in ("methods", "datasets", "backbones"):
        entries = merged.get(section) if isinstance(merged, Mapping) else None
        if not isinstance(entries, Mapping) or not all(map(_is_mapping, entries.values())):
            continue  # said by the schema
        for name, entry in entries.items():
            if "module" not in entry:
                others = [one for one in entries if one != name]
                raise ConfigError(
                    f"{section}.{name}: unknown{hint(str(name), others)}; a new one needs a module"
                )


def _is_mapping(value: Any) -> bool:
    return isinstance(value, Mapping)


def _module(where: str, module: str, function: str, kind: Kind | None = None) -> type[Spec]:
    """Return the keywords of a module's function; an error begins with the key of the module."""
    try:
        return parameters(module, function, kind)
    except ConfigError as error:
        raise ConfigError(f"{where}.module: {error}") from None


def _without_unbudgeted(config: Config) -> Config:
    """Return the configuration without runs for which this preset has no budget, and why."""
    if not config.needs_params:
        return config
    silent = {
        name: f"preset {config.preset} has no budget for {name}: give it params or training there"
        for name, entry in config.methods.items()
        if not entry.training
    }
    experiments = {}
    for key, setup in config.experiments.items():
        listed = setup.methods + setup.rivals
        omitted = {m: silent[m] for m in listed if m in silent and not _has_params(config, m, key)}
        update = {k: [m for m in getattr(setup, k) if m not in omitted] for k in LISTS}
        update["omitted"] = {**setup.omitted, **omitted}
        experiments[key] = setup.model_copy(update=update)
    return config.model_copy(update={"experiments": experiments})


def _has_params(config: Config, method: str, experiment: str) -> bool:
    entry = config.methods[method]
    own = entry.experiments.get(experiment, Override())
    return bool(own.params or own.training or entry.params.get(config.experiments[experiment].task))


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
    params = merge(defaults(parameters(dataset.module, "make_split")), dataset.params)
    params = {k: v for k, v in params.items() if not k.startswith("train_")}
    return fixed | {f"params.{key}": value for key, value in params.items()}


def _check_data(config: Config) -> None:
    """Raise a ``ConfigError`` for a dataset or backbone that cannot be made."""
    for name, backbone in config.backbones.items():
        resolved(f"backbones.{name}.params", backbone.module, "build", None, backbone.params)
    for name, dataset in config.datasets.items():
        resolved(f"datasets.{name}.params", dataset.module, "make_split", None, dataset.params)
        background = dataset.background
        if background is not None and background >= dataset.num_classes:
            raise ConfigError(
                f"datasets.{name}.background: {background} is none of the "
                f"{dataset.num_classes} classes"
            )
        if dataset.features:
            where = f"datasets.{name}.features.backbone"
            check_names(where, [dataset.features.backbone], config.backbones)
            stride = config.backbones[dataset.features.backbone].stride
            if odd := [side for side in dataset.image_size[1:] if side % stride]:
                raise ConfigError(
                    f"datasets.{name}.image_size: {odd[0]} is no multiple of the "
                    f"backbone's stride {stride}"
                )


def resolved(
    where: str, module: str, function: str, kind: Kind | None, given: Mapping[str, Any]
) -> dict[str, Any]:
    """Return all keywords of a function: ``given`` ones, and defaults for the others, as JSON.

    Raises:
        ConfigError: for a keyword that it lacks, still needs, or cannot take with that value.
    """
    model = _module(where.partition(".params")[0], module, function, kind)
    others = parameters(module, function).model_fields.keys() - model.model_fields.keys()
    if alien := sorted(others & given.keys()):
        raise ConfigError(f"{where}.{alien[0]}: {kind} does not use it; remove it")
    whole = merge(defaults(model), given)
    return checked(where, whole, model, f" by {module}.{function}").model_dump(mode="json")


def method_params(
    config: Config, method: str, kind: Kind, differences: Mapping[str, Any]
) -> dict[str, Any]:
    """Return all keywords of a method's ``build`` for one kind of task, as JSON."""
    entry = config.methods[method]
    given = merge(entry.params.get(kind, {}), differences)
    return resolved(f"methods.{method}.params.{kind}", entry.module, "build", kind, given)


def run_spec(config: Config, experiment: str, method: str, seed: int) -> RunSpec:
    """Return the specification of one run.

    Raises:
        ConfigError: for a keyword or value that the method's ``build`` does not take, a schedule
            of another length than the training, or a preset that has no budget for the method.
    """
    entry, setup = config.methods[method], config.experiments[experiment]
    if method in setup.omitted:
        raise ConfigError(f"experiments.{experiment}: {setup.omitted[method]}")
    dataset = config.datasets[setup.dataset]
    own = _override(method, entry, experiment)
    training = merge(merge(config.training.model_dump(), entry.training), own.training)
    try:
        budget = checked(f"methods.{method}.training", training, Training)
        params = method_params(config, method, setup.task, own.params)
    except ConfigError as error:
        raise ConfigError(f"{error}, on {experiment}") from None
    if setup.task == "classification" and not dataset.num_classes:
        raise ConfigError(f"experiments.{experiment}: {setup.dataset} has no classes to tell apart")
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
    try:
        check_task(entry.module, task, params)
    except ValueError as error:
        words = " ".join(str(error).split())
        where = f"methods.{method}.params.{setup.task} on {experiment}"
        raise ConfigError(f"{where}: {words}") from None
    return RunSpec(
        preset=config.preset,
        experiment=experiment,
        method=method,
        seed=seed,
        module=entry.module,
        dataset=own.dataset or setup.dataset,
        task=task,
        params=params,
        training=budget,
    )


def _override(method: str, entry: MethodEntry, experiment: str) -> Override:
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
            f"methods.{method}.experiments.{experiment}: extends {own.extends}, which extends "
            f"{base.extends}: name that one"
        )
    merged = merge(base.model_dump(exclude_unset=True), own.model_dump(exclude_unset=True))
    return Override.model_validate(merged)


def dataset_spec(config: Config, name: str) -> DatasetSpec:
    """Return the specification of the dataset ``name``: features are not part of its files."""
    dataset = config.datasets[name]
    params = resolved(f"datasets.{name}.params", dataset.module, "make_split", None, dataset.params)
    fixed = dataset.model_dump(exclude={"features", "params"})
    return DatasetSpec(name=name, preset=config.preset, params=params, **fixed)


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
    network = config.backbones[dataset.features.backbone]
    where = f"backbones.{dataset.features.backbone}.params"
    params = resolved(where, network.module, "build", None, network.params)
    return FeatureSpec(
        dataset=name,
        preset=config.preset,
        seed=dataset.seed,
        network=network.model_copy(update={"params": params}),
        **dataset.features.model_dump(),
    )

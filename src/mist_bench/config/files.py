"""The files of the configuration and the user's changes, merged into one mapping, not yet checked.

A user's value wins over whatever the files say of the same setting, also where they say it of a
single experiment. Torch-free, because Snakemake imports it for every parse.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from mist_bench.config.keywords import ConfigError, hint, merge

COMPAT = "official"  # what --config compat=... may say: the published code's behavior


def without(tree: Any, leaves: Any) -> Any:
    """Return nested mappings without the leaves that ``leaves`` has, too; empty ones go as well."""
    if not isinstance(tree, Mapping) or not isinstance(leaves, Mapping):
        return tree
    out = {}
    for key, value in tree.items():
        if key in leaves:
            value = without(value, leaves[key]) if isinstance(leaves[key], Mapping) else None
        if key not in leaves or (isinstance(value, Mapping) and value):
            out[key] = value
    return out


def merge_files(folder: Path, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return config.yaml, the preset that is asked for and ``overrides``, of which later ones win.

    Variants are complete (``extends``), and each experiment lists all methods that compete in it.

    Args:
        folder: holds config.yaml and presets/<name>.yaml.
        overrides: the user's changes, as ``config.load`` takes them.

    Raises:
        ConfigError: in one line, for a file that cannot be read, or an unknown preset.
    """
    overrides = dict(overrides)
    base = _read_yaml(folder / "config.yaml")
    preset, compat = overrides.get("preset", base.get("preset")), overrides.pop("compat", None)
    known = sorted(path.stem for path in (folder / "presets").glob("*.yaml"))
    if preset not in known:
        raise ConfigError(f"preset: {preset!r} is unknown{hint(str(preset), known)}")
    if compat is not None:
        preset = overrides["preset"] = _compatible(str(preset), str(compat), known)
    files = _named_experiments(merge(base, _read_preset(folder / "presets", preset)))
    user = _named_experiments(_long_form(overrides, files))
    for key, setup in _inner(user, "experiments").items():
        if "omitted" in _inner(setup):
            raise ConfigError(f"experiments.{key}.omitted: this is found out, not set; remove it")
    merged = merge(_yielding(files, user), user)
    return _competing(_with_variants(merged), files, user)


def _compatible(preset: str, compat: str, known: list[str]) -> str:
    """Return the preset that is ``preset`` in the way of ``compat``; it may be that already."""
    if compat != COMPAT:
        raise ConfigError(f"compat: {compat!r} is unknown{hint(compat, [COMPAT])}")
    suffix = f"_{COMPAT}"
    if preset.removesuffix(suffix) + suffix in known:
        return preset.removesuffix(suffix) + suffix
    able = [name.removesuffix(suffix) for name in known if name.endswith(suffix)]
    raise ConfigError(f"compat: preset {preset} has no {COMPAT} kind{hint(preset, able)}")


def _long_form(overrides: Mapping[str, Any], files: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``overrides`` with the key of a dataset as what it is short for: its ``params``."""
    short = {key: value for key, value in overrides.items() if key in files.get("datasets", {})}
    rest = {key: value for key, value in overrides.items() if key not in short}
    for key, own in short.items():
        twice = _inner(rest, "datasets", key, "params").keys() & _inner(own).keys()
        if twice:
            raise ConfigError(f"{key}.{min(twice)}: given as datasets.{key}.params, too; keep one")
    long = {"datasets": {key: {"params": own} for key, own in short.items()}} if short else {}
    return merge(long, rest)


def _named_experiments(config: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration in which a method's list of experiments is a mapping, too."""
    methods = {}
    for name, entry in _inner(config, "methods").items():
        listed = entry.get("experiments") if isinstance(entry, Mapping) else None
        if isinstance(listed, list) and all(isinstance(one, str) for one in listed):
            entry = {**entry, "experiments": {str(one): {} for one in listed}}
        elif isinstance(listed, Mapping):
            entry = {**entry, "experiments": {k: {} if v is None else v for k, v in listed.items()}}
        methods[name] = entry
    return {**config, "methods": methods} if methods else config


def _yielding(files: Mapping[str, Any], user: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``files`` without the settings that are narrower than the user's.

    Else ``training={steps: 500}``, or ``methods={mist: {params: ...}}``, would not reach a method
    or an experiment for which the preset has its own value.
    """
    wide = _inner(user, "training")
    methods = {}
    for name, entry in _inner(files, "methods").items():
        own = _inner(user, "methods", name)
        narrow = merge(wide, _inner(own, "training"))
        methods[name] = _part(entry, "training", wide)
        tasks = {}
        for key, one in _inner(entry, "experiments").items():
            params = _inner(own, "params", *_task_of(files, user, key))
            tasks[key] = _part(_part(one, "training", narrow), "params", params)
        if tasks:
            methods[name] = {**methods[name], "experiments": tasks}
    return {**files, "methods": methods} if methods else dict(files)


def _task_of(files: Mapping[str, Any], user: Mapping[str, Any], experiment: str) -> tuple[str]:
    setup = merge(_inner(files, "experiments", experiment), _inner(user, "experiments", experiment))
    return (str(setup.get("task")),)


def _part(entry: Any, key: str, leaves: Mapping[str, Any]) -> Any:
    """Return ``entry`` without these ``leaves`` of what it has at ``key``."""
    return {**entry, key: without(entry[key], leaves)} if _inner(entry, key) else entry


def _with_variants(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration whose variants say all that the entries they extend say.

    What a variant says itself wins, also over what the other says of single experiments.

    Raises:
        ConfigError: if an entry extends none, or itself.
    """

    def whole(section: str, name: str, inside: tuple[str, ...]) -> Any:
        entries = _inner(config, section)
        entry = entries[name]
        parent = entry.get("extends") if isinstance(entry, Mapping) else None
        if parent is None:
            return entry
        if isinstance(parent, str) and parent in inside:
            raise ConfigError(f"{section}.{name}.extends: {parent!r} extends itself in the end")
        if not isinstance(parent, str) or parent not in entries:
            others = [one for one in entries if one not in inside]
            words = f"{parent!r} is not another of {section}{hint(str(parent), others)}"
            raise ConfigError(f"{section}.{name}.extends: {words}")
        base = whole(section, parent, (*inside, parent))
        if not isinstance(base, Mapping):
            return entry
        rest = {k: v for k, v in base.items() if k not in ("label", "experiments")}
        out = merge(rest, entry) | {"extends": None}
        if section == "methods":
            out["experiments"] = _inherited(config, entry, base)
        return out

    sections = {
        section: {name: whole(section, name, (name,)) for name in _inner(config, section)}
        for section in ("datasets", "methods")
        if _inner(config, section)
    }
    for name, entry in sections.get("methods", {}).items():
        if isinstance(entry, Mapping):
            sections["methods"][name] = {"label": name, **entry}
    return {**config, **sections}


def _inherited(
    config: Mapping[str, Any], entry: Mapping[str, Any], base: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what a variant says of single experiments, after what its parent does."""
    tasks = {}
    for key in dict.fromkeys([*_inner(base, "experiments"), *_inner(entry, "experiments")]):
        params = _inner(entry, "params", *_task_of(config, {}, key))
        inherited = _part(_inner(base, "experiments", key), "params", params)
        inherited = _part(inherited, "training", _inner(entry, "training"))
        tasks[key] = merge(inherited, _inner(entry, "experiments", key))
    return tasks


def _competing(
    config: dict[str, Any], files: Mapping[str, Any], user: Mapping[str, Any]
) -> dict[str, Any]:
    """Return a configuration whose experiments list the methods whose entries name them.

    A list of an experiment's methods that the user gives is whole, but for entries of the user.
    """
    experiments = dict(_inner(config, "experiments"))
    for source in (files, user):
        for name, entry in _inner(source, "methods").items():
            for key in _inner(entry, "experiments"):
                setup = experiments.get(key)
                chosen = source is files and "methods" in _inner(user, "experiments", key)
                if not isinstance(setup, Mapping) or chosen:
                    continue
                if name not in [*_list(setup, "methods"), *_list(setup, "rivals")]:
                    experiments[key] = {**setup, "methods": [*_list(setup, "methods"), name]}
    return {**config, "experiments": experiments} if experiments else config


def _list(tree: Any, key: str) -> list[Any]:
    found = tree.get(key) if isinstance(tree, Mapping) else None
    return found if isinstance(found, list) else []


def _inner(tree: Any, *path: str) -> Mapping[str, Any]:
    """Return the mapping at ``path`` in nested mappings, or an empty one."""
    for key in path:
        tree = tree.get(key) if isinstance(tree, Mapping) else None
    return tree if isinstance(tree, Mapping) else {}


def _read_preset(folder: Path, name: str) -> dict[str, Any]:
    """Return a preset merged over those that it ``extends``, if any, of which later ones win."""
    preset = _read_yaml(folder / f"{name}.yaml")
    parents = preset.pop("extends", None) or []
    merged: dict[str, Any] = {}
    for parent in parents if isinstance(parents, list) else [parents]:
        if parent == name or not (folder / f"{parent}.yaml").is_file():
            words = f"extends {parent!r}, which is not another preset"
            raise ConfigError(f"presets/{name}.yaml: {words}")
        over = _read_preset(folder, parent)
        merged = merge(_yielding(merged, _budgets(over)), over)
    return merge(_yielding(merged, _budgets(preset)), preset)


def _budgets(preset: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a preset says of training: it wins over what its parents say of single runs."""
    methods = {k: {"training": _inner(v, "training")} for k, v in _inner(preset, "methods").items()}
    return {"training": _inner(preset, "training"), "methods": methods}


EXPONENT = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")


class _Loader(yaml.SafeLoader):
    """YAML in which ``1e-3`` is a number; YAML 1.1 asks for ``1.0e-3``."""


_Loader.add_implicit_resolver("tag:yaml.org,2002:float", EXPONENT, list("-+0123456789"))


def read_yaml(text: str) -> Any:
    """Return the value of YAML.

    Raises:
        yaml.YAMLError: if it is none.
    """
    return yaml.load(text, _Loader)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: cannot be read: {' '.join(str(error).split())}") from None
    if isinstance(data, dict):
        return json_like(path, data)
    raise ConfigError(f"{path}: a mapping is expected, got {type(data).__name__}")


def json_like(path: Path, data: dict[str, Any]) -> dict[str, Any]:
    """Return ``data`` if it can be written as JSON.

    Raises:
        ConfigError: for what YAML knows and JSON does not, such as dates.
    """
    try:
        json.dumps(data)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{path}: {error}; put it in quotes if it is text") from None
    return data

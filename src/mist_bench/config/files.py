"""The files of the configuration and the user's changes, merged into one mapping, not yet checked.

Torch-free, because Snakemake imports it for every parse.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any

import yaml

from mist_bench.config.keywords import ConfigError, hint

COMPAT = "official"  # what --config compat=... may say: the published code's behavior


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``base`` with the leaves of ``over`` put in; lists are replaced, not joined."""
    out = dict(base)
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(out.get(key), Mapping)
        out[key] = merge(out[key], value) if both else value
    return out


def merge_files(folder: Path, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return config.yaml, the preset that is asked for and ``overrides``, of which later ones win.

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
    merged = merge(base, _read_preset(folder / "presets", preset))
    user = _long_form(overrides, merged)
    return merge(_yielding(merged, user), user)


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
    long = {"datasets": {key: {"params": own} for key, own in short.items()}} if short else {}
    return merge(long, rest)


def _yielding(merged: Mapping[str, Any], user: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``merged`` without the settings of training that are narrower than the user's.

    Else ``training={steps: 500}`` would not reach a method or an experiment with its own steps.
    """
    wide = _inner(user, "training").keys()
    methods = {}
    for name, entry in _inner(merged, "methods").items():
        own = wide | _inner(user, "methods", name, "training").keys()
        tasks = {key: _untrained(one, own) for key, one in _inner(entry, "experiments").items()}
        methods[name] = _untrained(entry, wide)
        if tasks:
            methods[name] = {**methods[name], "experiments": tasks}
    return {**merged, "methods": methods} if methods else dict(merged)


def _untrained(entry: Any, keys: Set[str]) -> Any:
    """Return ``entry`` without these ``keys`` of its ``training``."""
    if not _inner(entry, "training"):
        return entry
    return {**entry, "training": {k: v for k, v in entry["training"].items() if k not in keys}}


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


EXPONENT = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")


def typed(value: Any) -> Any:
    """Return ``value`` with its strings read as YAML, in every mapping and list.

    Snakemake hands over ``--config training='{steps: 20}'`` as strings only. ``1e-3`` becomes a
    number here, although YAML 1.1 asks for ``1.0e-3``.
    """
    if isinstance(value, Mapping):
        return {key: typed(item) for key, item in value.items()}
    if isinstance(value, list):
        return [typed(item) for item in value]
    if not isinstance(value, str):
        return value
    try:
        return float(value) if EXPONENT.fullmatch(value) else yaml.safe_load(value)
    except yaml.YAMLError:
        return value

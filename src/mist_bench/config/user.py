"""What the user wrote on the command line, read once, as the key that it is for asks.

Snakemake hands over ``--config training='{steps: 20}'`` as strings only. Whether ``20`` is a number
and ``2012`` a name, the schema decides, and the signature of the method or dataset.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from mist_bench.config.files import merge, read_yaml
from mist_bench.config.keywords import ConfigError, defaults, parameters
from mist_bench.config.schema import Config, Training
from mist_bench.spec import Spec, errors_of


class Text(str):
    """A string that may yet be a number, a list or null."""


def user_text(value: Any) -> Any:
    """Return ``value`` with every string in it marked as ``Text``."""
    return _each(value, lambda text: Text(text))


def plain(value: Any) -> Any:
    """Return ``value`` with all ``Text`` in it as the text that it is."""
    return _each(value, str)


def _each(value: Any, change: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _each(item, change) for key, item in value.items()}
    if isinstance(value, list):
        return [_each(item, change) for item in value]
    return change(value) if isinstance(value, str) else value


def read_values(config: dict[str, Any]) -> dict[str, Any]:
    """Return a merged configuration without ``Text``."""
    for path, model, base in list(_places(config)):
        config = _changed(config, path, lambda data, m=model, b=base: decoded(data, m, b))
    return decoded(config, Config)


def _places(config: Any) -> Iterator[tuple[tuple[str, ...], type[Spec], Any]]:
    """Yield where values are that ``Config`` does not type: path, model, and values below them."""
    kinds = {name: setup.get("task") for name, setup in _entries(config, "experiments")}
    for section, function in (("datasets", "make_split"), ("backbones", "build")):
        for name, entry in _entries(config, section):
            yield from _typed((section, name, "params"), entry, function)
    for name, entry in _entries(config, "methods"):
        path = ("methods", name)
        yield (*path, "training"), Training, {}
        params = dict(_entries(entry, "params"))
        for kind in params:
            yield from _typed((*path, "params", kind), entry, "build", kind)
        for key, _ in _entries(entry, "experiments"):
            inside, kind = (*path, "experiments", key), kinds.get(key)
            yield from _typed((*inside, "params"), entry, "build", kind, params.get(kind, {}))
            yield (*inside, "training"), Training, {}


def _typed(
    path: tuple[str, ...], entry: Any, function: str, kind: Any = None, base: Any = None
) -> Iterator[tuple[tuple[str, ...], type[Spec], Any]]:
    try:
        yield path, parameters(str(entry.get("module")), function, kind), base or {}
    except ConfigError:
        return  # said where the configuration is checked


def _entries(tree: Any, key: str) -> list[tuple[str, Mapping[str, Any]]]:
    inside = tree.get(key) if isinstance(tree, Mapping) else None
    pairs = inside.items() if isinstance(inside, Mapping) else ()
    return [(name, entry) for name, entry in pairs if isinstance(entry, Mapping)]


def decoded(data: Any, model: type[Spec], base: Mapping[str, Any] | None = None) -> Any:
    """Return ``data`` with each ``Text`` read as YAML that ``model`` does not take as text.

    Args:
        data: values for ``model``, perhaps not all, perhaps wrong: other problems stay.
        model: says where text is meant.
        base: further values, which ``data`` is merged over to be looked at.
    """
    whole = {**defaults(model), **(base or {})}
    for place in list(_nulls(data)):  # text, unless the key may be null
        known = _changed(data, place, lambda _: None)
        if place not in {at[: len(place)] for at, _, _ in errors_of(model, merge(whole, known))}:
            data = known
    tried: set[tuple] = set()
    while isinstance(data, Mapping):
        found = errors_of(model, merge(whole, data))
        # of another type than text; text that is wrong in other ways stays as it is
        places = {at for at, kind, _ in found if kind.endswith("_type") or kind == "literal_error"}
        if not places - tried:
            break
        for place in places - tried:
            data = _changed(data, place, _read)
        tried |= places
    return plain(data)


def _nulls(data: Any, path: tuple = ()) -> Iterator[tuple]:
    """Yield where a user wrote ``null``."""
    pairs = data.items() if isinstance(data, Mapping) else ()
    pairs = enumerate(data) if isinstance(data, list) else pairs
    for key, value in pairs:
        yield from _nulls(value, (*path, key))
    if isinstance(data, Text) and data == "null":
        yield path


def _changed(data: Any, path: tuple, change: Any) -> Any:
    """Return ``data`` with what is at ``path`` replaced by ``change`` of it; as it is without."""
    if not path:
        return change(data)
    key = path[0]
    if isinstance(data, Text):
        return _read(data)  # a list or a mapping, perhaps
    if isinstance(data, Mapping) and key in data:
        return {**data, key: _changed(data[key], path[1:], change)}
    if isinstance(data, list) and isinstance(key, int) and key < len(data):
        return [_changed(v, path[1:], change) if i == key else v for i, v in enumerate(data)]
    return data


def _read(value: Any) -> Any:
    if not isinstance(value, Text):
        return value
    try:
        return user_text(read_yaml(value))
    except yaml.YAMLError:
        return str(value)

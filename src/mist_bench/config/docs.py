"""Every key of the configuration with type, default and meaning, from the classes that define it.

Methods and datasets are read, not imported, so that no torch is needed.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MinLen
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from mist_bench.config.keywords import bindings, check_names, parameters, source
from mist_bench.config.schema import (
    Backbone,
    Config,
    Dataset,
    Experiment,
    Features,
    MethodEntry,
    Override,
    Training,
)

SECTIONS: dict[str, type[BaseModel]] = {
    "Top level": Config,
    "training": Training,
    "datasets.NAME": Dataset,
    "datasets.NAME.features": Features,
    "backbones.NAME": Backbone,
    "experiments.NAME": Experiment,
    "methods.NAME": MethodEntry,
    "methods.NAME.experiments.NAME": Override,
}
FUNCTIONS = {"methods": "build", "datasets": "make_split", "backbones": "build"}
SIGNS = ((Ge, "ge", ">="), (Gt, "gt", ">"), (Le, "le", "<="), (Lt, "lt", "<"))


def document(config: Config, name: str | None = None) -> str:
    """Return the keys in Markdown.

    Args:
        config: names methods, datasets and backbones.
        name: of one of them, or of a module, whose parameters alone are described; ``None`` for
            everything.

    Raises:
        ConfigError: for a name that the configuration lacks.
    """
    groups = {section: getattr(config, section) for section in FUNCTIONS}
    if name is not None and not any(name in entries for entries in groups.values()):
        for function in dict.fromkeys(FUNCTIONS.values()):  # a module of the user's
            if source(name) and function in bindings(name):
                return _table(list(_rows(parameters(name, function), "")))
    if name is not None:
        check_names("keys", [name], [key for entries in groups.values() for key in entries])
        groups = {k: {name: v[name]} if name in v else {} for k, v in groups.items()}
    parts = []
    for title, model in SECTIONS.items() if name is None else ():
        parts.append(f"## `{title}`\n\n{(inspect.getdoc(model) or '').splitlines()[0]}\n")
        rows = [
            _row(k, f, f.get_default(), _group(f.annotation)) for k, f in model.model_fields.items()
        ]
        parts.append(_table(rows))
    for section, entries in groups.items():
        for module in dict.fromkeys(entry.module for entry in entries.values()):
            users = ", ".join(
                f"`{key}`" for key, entry in entries.items() if entry.module == module
            )
            parts.append(f"## `params` of {section} {users} (`{module}`)\n")
            model = parameters(module, FUNCTIONS[section])
            parts.append(_table(list(_rows(model, ""))))
    return "\n".join(parts)


def _rows(model: type[BaseModel], prefix: str, values: Any = None) -> Iterator[list[str]]:
    """Yield a row for each leaf, with its default in ``values`` if it is another there.

    ``detector.channels`` is a field of a group; what a group is for stands in a row of its own.
    """
    for key, field in model.model_fields.items():
        group = _group(field.annotation)
        default = field.get_default() if values is None else getattr(values, key)
        yield _row(f"{prefix}{key}", field, default, group)
        if group:
            inside = default if isinstance(default, BaseModel) else None
            yield from _rows(group, f"{prefix}{key}.", inside)


def _group(annotation: Any) -> type[BaseModel] | None:
    """Return the group of parameters that a type is, perhaps among others."""
    types = [annotation, *get_args(annotation)]
    return next((t for t in types if isinstance(t, type) and issubclass(t, BaseModel)), None)


def _row(name: str, field: FieldInfo, default: Any, group: Any = None) -> list[str]:
    text = "required" if field.is_required() else f"`{json.dumps(default)}`" if not group else ""
    if group and default is None:
        text = "`null`"
    kind = "group" if group else type_name(field.annotation, field.metadata)
    return [f"`{name}`", kind, text, field.description or ""]


def type_name(annotation: Any, metadata: Any = ()) -> str:
    """Return a type with its range in the words of YAML."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return type_name(inner[0], inner[1:])
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in inner)
    if origin in (Union, UnionType):
        return " or ".join("null" if one is type(None) else type_name(one) for one in inner)
    if origin is dict:
        return f"mapping of {type_name(inner[1])}"
    if origin is list or (origin is tuple and inner[-1] is ...):
        return f"list of {type_name(inner[0])}"
    if origin is tuple:
        return f"list of {len(inner)}, each {type_name(inner[0])}"
    words = {
        "str": "text",
        "int": "integer",
        "float": "number",
        "bool": "true or false",
        "Any": "any",
    }
    name = getattr(annotation, "__name__", str(annotation))
    limits = [
        f"{sign} {getattr(one, at):g}"
        for part in metadata
        for one in (part.metadata if isinstance(part, FieldInfo) else [part])
        for kind, at, sign in SIGNS
        if isinstance(one, kind) and not isinstance(one, MinLen)
    ]
    return " ".join([words.get(name, name), " and ".join(limits)]).strip()


def _table(rows: list[list[str]]) -> str:
    lines = [["key", "type", "default", "meaning"], ["---"] * 4, *rows]
    return "".join(
        "| " + " | ".join(c.replace("|", "\\|") for c in line) + " |\n" for line in lines
    )

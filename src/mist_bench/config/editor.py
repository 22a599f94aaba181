"""The JSON Schema of the configuration's files, by which editors complete, explain and mark keys.

It is stored as workflow/schemas/config.schema.json. ``resolve.load`` decides what is valid: it also
checks names across sections, and ranges of combined values, which no JSON Schema can.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any, get_args

from pydantic.json_schema import models_json_schema

from mist_bench.config.docs import FUNCTIONS
from mist_bench.config.files import COMPAT
from mist_bench.config.keywords import parameters
from mist_bench.config.schema import Config, Training
from mist_bench.types import Kind

ENTRIES = {"methods": "MethodEntry", "datasets": "Dataset", "backbones": "Backbone"}


def editor_schema(config: Config) -> dict[str, Any]:
    """Return the JSON Schema of config.yaml, of a preset and of a user's ``--configfile``.

    Such a file gives some keys only, hence none is required.

    Args:
        config: the parameters of its methods, datasets and backbones are those of their modules.
    """
    entries = {section: getattr(config, section) for section in FUNCTIONS}
    models = {
        (section, entry.module): parameters(entry.module, FUNCTIONS[section])
        for section, named in entries.items()
        for entry in named.values()
    }
    listed = [(model, "validation") for model in (Config, Training, *models.values())]
    refs, whole = models_json_schema(listed)
    defs = whole["$defs"]
    training = refs[Training, "validation"]
    for name in ("MethodEntry", "Override"):
        defs[name]["properties"]["training"] = training
    _let_list(defs["MethodEntry"], {"$ref": "#/$defs/Override"})
    for (section, module), model in models.items():
        own = deepcopy(defs[ENTRIES[section]])
        own["properties"]["params"] = params = refs[model, "validation"]
        if section == "methods":
            own["properties"]["params"] = _keys(dict.fromkeys(get_args(Kind), params))
            override = defs[f"experiment of {module}"] = deepcopy(defs["Override"])
            override["properties"]["params"] = params
            _let_list(own, {"$ref": f"#/$defs/experiment of {module}"})
        defs[f"{section}: {module}"] = own
    top = defs.pop("Config")
    for section, named in entries.items():
        top["properties"][section]["properties"] = {
            name: {"$ref": f"#/$defs/{section}: {entry.module}"} for name, entry in named.items()
        }
    top["properties"] |= {
        "extends": {
            "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}],
            "description": "presets that come first; in a preset only",
        },
        "compat": {"enum": [COMPAT], "description": "for the user's --configfile only"},
    }
    for name, dataset in config.datasets.items():  # short for its params
        top["properties"][name] = refs[models["datasets", dataset.module], "validation"]
    return _partial({"$schema": "https://json-schema.org/draft/2020-12/schema", **top, **whole})


def _keys(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _let_list(entry: dict[str, Any], override: dict[str, Any]) -> None:
    """Let a method name its experiments in a list, too, or say of one that nothing differs."""
    named = {"type": "object", "additionalProperties": {"anyOf": [override, {"type": "null"}]}}
    own = entry["properties"]["experiments"]
    kept = {key: own[key] for key in ("description", "default", "title") if key in own}
    listed = {"type": "array", "items": {"type": "string"}}
    entry["properties"]["experiments"] = {"anyOf": [listed, named], **kept}


def _partial(schema: Any) -> Any:
    """Return a schema that requires no key, without the titles that repeat the keys."""
    if isinstance(schema, list):
        return [_partial(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    noise = {"required", "title"} if "type" in schema or "properties" in schema else {"title"}
    return {k: _partial(v) for k, v in schema.items() if k not in noise or isinstance(v, dict)}

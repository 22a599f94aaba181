"""The text of workflow/config/README.md: every key, from the models and docstrings that define it.

Methods and datasets are read, not imported, so that no torch is needed.
"""

from __future__ import annotations

import ast
import inspect
import re
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from mist_bench.config.keywords import source
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
from mist_bench.types import Kind

SECTIONS: dict[str, type[BaseModel]] = {
    "Top level": Config,
    "`training`": Training,
    "`datasets.<name>`": Dataset,
    "`datasets.<name>.features`": Features,
    "`backbones.<name>`": Backbone,
    "`experiments.<name>`": Experiment,
    "`methods.<name>`": MethodEntry,
    "`methods.<name>.experiments.<name>`": Override,
}
HEAD = """\
# Configuration

Written by `mist-bench config-docs`; do not edit.

Later wins, key by key: `config.yaml`, then `presets/<preset>.yaml`, then `--configfile` and
`--config`. A list is replaced as a whole. An unknown key stops the workflow before any job.
`training` of `--config` also wins over what the preset gives single methods and experiments, and
`methods.<name>.training` over its experiments; what `--config` says of these wins over both.

```bash
snakemake --cores 8 tables --config preset=smoke
snakemake --cores 8 tables --config 'seeds=[0,1,2]'
snakemake --cores 8 table2 --config 'training={steps: 500}' device=cpu
snakemake --cores 8 table4 --config 'pascal_coco={root: photographs}'
snakemake --cores 8 table2 --config preset=paper compat=official
```

A dataset's name as the key is short for its `params`. `compat=official` chooses the preset
`paper_official` (or `smoke_official`), which does what the official code does; its switches are in
`compat/official.yaml`, and each is a row of `workflow/resources/deviations.csv`.

A new method is one file with `build(task, **params)` and one entry in `methods`; a new dataset is
one file with `make_split(split, size, rng, **params)` and one entry in `datasets`; a new backbone
one file with `build(**params)` and one entry in `backbones`. Their `params` are the keyword
arguments of these functions, listed below; all others are refused.
"""


def document(config: Config) -> str:
    """Return the whole documentation in Markdown.

    Args:
        config: names the modules of methods and datasets to document.
    """
    parts = [HEAD]
    for title, model in SECTIONS.items():
        parts.append(f"## {title}\n\n{_first_line(model)}\n")
        rows = [_field_row(name, field) for name, field in model.model_fields.items()]
        parts.append(_table(["key", "type", "default", "meaning"], rows))
    groups = (
        ("Parameters of methods", "build", config.methods),
        ("Parameters of datasets", "make_split", config.datasets),
        ("Parameters of backbones", "build", config.backbones),
    )
    for title, function, entries in groups:
        parts.append(f"## {title}\n")
        modules = {name: _modules(entry) for name, entry in entries.items()}
        for module in dict.fromkeys(one for found in modules.values() for one in found):
            users = [f"`{name}`" for name, found in modules.items() if module in found]
            rows = [[f"`{name}`", text] for name, text in argument_docs(module, function).items()]
            parts.append(f"### {', '.join(users)}: `{module}`\n")
            parts.append(_table(["key", "meaning"], rows))
    return "\n".join(parts)


def _modules(entry: Backbone | Dataset | MethodEntry) -> list[str]:
    return [entry.module] if isinstance(entry.module, str) else list(entry.module.values())


def argument_docs(module: str, function: str) -> dict[str, str]:
    """Return the meaning of each keyword of ``module.function`` from its docstring's ``Args:``.

    Raises:
        ValueError: if a keyword is not explained there.
    """
    path = source(module)
    tree = ast.parse(path.read_text(encoding="utf-8")) if path else ast.Module([], [])
    found = [n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == function]
    if not found:
        raise ValueError(f"module {module!r} has no function {function}")
    explained = parse_args_section(ast.get_docstring(found[0]) or "")
    keywords = [argument.arg for argument in found[0].args.kwonlyargs]
    silent = [name for name in keywords if name not in explained]
    if silent:
        raise ValueError(f"{module}.{function}: no word on {', '.join(silent)} in Args:")
    return {name: explained[name] for name in keywords}


def parse_args_section(docstring: str) -> dict[str, str]:
    """Return name -> text of the ``Args:`` section of a Google-style docstring."""
    section = re.search(r"^Args:\n((?:[ \t]+.*\n?|\n)+)", docstring, flags=re.MULTILINE)
    if section is None:
        return {}
    entries: dict[str, str] = {}
    name = ""
    for line in inspect.cleandoc(section[1]).splitlines():
        start = re.match(r"(\w+):\s*(.*)", line)
        if start:
            name = start[1]
            entries[name] = start[2]
        elif name and line.strip():
            entries[name] = f"{entries[name]} {line.strip()}"
    return entries


def _field_row(name: str, field: FieldInfo) -> list[str]:
    default = (
        "required" if field.is_required() else f"`{field.get_default(call_default_factory=True)!r}`"
    )
    return [f"`{name}`", _type_name(field.annotation), default, field.description or ""]


def _type_name(annotation: Any) -> str:
    """Return a type in the words of YAML."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in inner)
    if origin is dict:
        return f"mapping of {_type_name(inner[1])}" + (" by task" if inner[0] == Kind else "")
    if type(None) in inner:
        return " or ".join("null" if one is type(None) else _type_name(one) for one in inner)
    if origin in (Union, UnionType):
        return ", or ".join(map(_type_name, inner))
    if origin is list:
        return f"list of {_type_name(inner[0])}"
    if origin is tuple:
        return f"list of {len(inner)} x {_type_name(inner[0])}"
    if hasattr(annotation, "__metadata__"):
        return _type_name(inner[0])
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return f"`{annotation.__name__}`"
    words = {"str": "text", "int": "integer", "float": "number", "Any": "any value"}
    name = getattr(annotation, "__name__", str(annotation))
    return words.get(name, name)


def _first_line(model: type[BaseModel]) -> str:
    return (inspect.getdoc(model) or "").splitlines()[0]


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(
        "| " + " | ".join(c.replace("|", "\\|").replace("``", "`") for c in line) + " |\n"
        for line in lines
    )

"""The keywords of a method, dataset or backbone: read from its file, and values checked by them.

Torch-free: a file is never imported. Of ``build`` or ``make_split`` only the signature is executed,
with the statements that its types and defaults need; so a method, its parameters and their ranges
are one file, and a wrong value is refused before any job starts.
"""

from __future__ import annotations

import ast
import builtins
import contextlib
import difflib
import importlib
import inspect
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any, get_args, get_type_hints

from pydantic import BaseModel, Field, ValidationError, create_model
from pydantic.fields import FieldInfo

from mist_bench.spec import Only, Spec
from mist_bench.types import Kind, TaskSpec

# of pydantic's errors, in the words of YAML
WORDS = {
    **dict.fromkeys(("bool_type", "bool_parsing"), "Input should be true or false"),
    **dict.fromkeys(("model_type", "dict_type", "dataclass_type"), "Input should be a mapping"),
    **dict.fromkeys(("list_type", "tuple_type"), "Input should be a list"),
}


class ConfigError(ValueError):
    """A configuration that cannot be run; its message is one line for the user."""


def keywords_of(function: Callable, kind: Kind | None = None) -> type[Spec]:
    """Return the keyword-only arguments of ``function`` as a model: types, defaults, meanings.

    Args:
        function: its docstring explains the keywords under ``Args:``.
        kind: leaves out the keywords of other tasks (``Only``); ``None`` for all.

    Raises:
        TypeError: for a keyword without an annotation, or keys that the signature does not name.
    """
    hints = get_type_hints(function, include_extras=True)
    meanings = parse_args_section(inspect.getdoc(function) or "")
    fields: dict[str, Any] = {}
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is not parameter.KEYWORD_ONLY:
            if parameter.default is not parameter.empty:
                raise TypeError(f"put '*,' before {name!r}: only what follows it is a key")
            if parameter.kind is parameter.VAR_KEYWORD:
                raise TypeError(f"**{name} hides the keys: name each after '*,'")
            continue
        if name not in hints:
            raise TypeError(f"{name!r} has no annotation, by which its values are checked")
        hint = hints[name]
        only = [one.kind for one in getattr(hint, "__metadata__", ()) if isinstance(one, Only)]
        if kind in (None, *only) or not only:
            default = ... if parameter.default is parameter.empty else parameter.default
            fields[name] = (hint, Field(default, description=meanings.get(name)))
    return create_model(f"{function.__module__}.{function.__name__}", __base__=Spec, **fields)


def keyword_values(
    where: str, function: Callable, params: Mapping[str, Any], kind: Kind | None = None
) -> dict[str, Any]:
    """Return the keywords of ``function`` with their types, from plain ``params`` of a spec.

    Raises:
        ConfigError: as ``checked``, for a value that it does not take.
    """
    model = keywords_of(function, kind)
    return dict(checked(where, merge(defaults(model), params), model, f" by {model.__name__}"))


@cache
def parameters(module: str, function: str, kind: Kind | None = None) -> type[Spec]:
    """Return ``keywords_of`` of a function in a file that is not imported.

    Raises:
        ConfigError: if there is no such module or function, or a type cannot be read.
    """
    if source(module) is None:
        raise ConfigError(f"module {module!r} does not exist: is its folder on PYTHONPATH?")
    if not isinstance(_binding(module, function), ast.FunctionDef):
        raise ConfigError(f"module {module!r} has no function {function}")
    try:
        return keywords_of(_value(module, function), kind)
    except (Exception, SystemExit) as error:  # whatever a user's file raises
        problem = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise ConfigError(
            f"module {module!r}: the keywords of {function} cannot be read: {problem}"
        ) from None


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``base`` with the leaves of ``over`` put in; lists are replaced, not joined."""
    out = dict(base)
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(out.get(key), Mapping)
        out[key] = merge(out[key], value) if both else value
    return out


def check_task(module: str, task: TaskSpec, params: Mapping[str, Any]) -> None:
    """Call ``check(task, *, ...)`` of a method's file, if it has one, with some of its keywords.

    It says what types cannot: which tasks a method does, which values exclude each other.

    Args:
        module: of the method, not imported.
        task: what ``build`` will be told.
        params: all keywords of ``build`` for that kind of task, as JSON.

    Raises:
        ValueError: whatever ``check`` raises, in one line.
    """
    if not isinstance(_binding(module, "check"), ast.FunctionDef):
        return
    own = parameters(module, "build", task.kind).model_validate_json(json.dumps(params))
    every = parameters(module, "build").model_fields
    call_check(_value(module, "check"), task, {k: f.default for k, f in every.items()} | dict(own))


def call_check(check: Callable, task: TaskSpec, keywords: Mapping[str, Any]) -> None:
    """Call ``check`` with those of the keywords of ``build`` that it takes, too.

    Raises:
        ValueError: what ``check`` raises, of whatever type, or for a keyword that ``build`` lacks.
    """
    taken = [p for p in inspect.signature(check).parameters.values() if p.kind is p.KEYWORD_ONLY]
    if lacking := [p.name for p in taken if p.name not in keywords]:
        raise ValueError(f"check takes {lacking[0]!r}, which build lacks")
    try:
        check(task, **{p.name: keywords[p.name] for p in taken})
    except ValueError:
        raise
    except (Exception, SystemExit) as error:
        raise ValueError(f"check raised {type(error).__name__}: {error}") from None


def defaults(model: type[BaseModel]) -> dict[str, Any]:
    """Return the fields of a model that have a default, as plain values."""
    found = {
        name: field.get_default(call_default_factory=True)
        for name, field in model.model_fields.items()
        if not field.is_required()
    }
    return {
        k: v.model_dump(mode="json") if isinstance(v, BaseModel) else v for k, v in found.items()
    }


def checked(where: str, data: Any, model: type[Spec], place: str = "") -> Any:
    """Return ``data`` as an instance of ``model``.

    Raises:
        ConfigError: in one line that begins with ``where``, as ``explain``.
    """
    try:
        return model.model_validate_json(json.dumps(data, default=str))
    except ValidationError as error:
        prefix = (
            f"{where}." if where and error.errors()[0]["loc"] else f"{where}: " if where else ""
        )
        raise ConfigError(f"{prefix}{explain(error, model, place)}") from None


def explain(error: ValidationError, model: type[BaseModel], place: str = "") -> str:
    """Return the first problem of ``error`` in one line, with the nearest valid key.

    Args:
        error: what validating said.
        model: what was validated.
        place: where a key that is missing would be written, in words.
    """
    first = error.errors()[0]
    path = tuple(part for part in first["loc"] if part != "[key]")
    text = first["msg"].removeprefix("Value error, ")
    where = ".".join(map(str, path)) + ": " if path else ""
    if first["type"] == "missing" and isinstance(path[-1], int):
        return f"{'.'.join(map(str, path[:-1]))}: item {path[-1] + 1} of the list is missing"
    if first["type"] == "missing":
        field = fields_at(model, path[:-1]).get(str(path[-1]))
        meaning = f": {field.description}" if field and field.description else ""
        return f"{where}this key is required{place}{meaning}"
    if first["type"] == "extra_forbidden":
        return f"{where}unknown key{hint(str(path[-1]), fields_at(model, path[:-1]))}"
    given, whole = first.get("input"), first["type"] in ("value_error", "json_invalid")
    text = WORDS.get(first["type"], text).replace("Tuple should", "List should")
    return (
        f"{where}{text}" if whole and isinstance(given, dict) else f"{where}{text} (got {given!r})"
    )


def check_names(where: str, names: Iterable[str], known: Iterable[str]) -> None:
    """Raise a ``ConfigError`` for the first of ``names`` that is not ``known``."""
    known = list(known)
    if unknown := [name for name in names if name not in known]:
        raise ConfigError(f"{where}: {unknown[0]!r} is unknown{hint(unknown[0], known)}")


def hint(name: str, known: Iterable[str]) -> str:
    """Return '; did you mean ...?' or the list of what is known."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(known) or 'none'}"


def fields_at(model: Any, path: tuple) -> dict[str, FieldInfo]:
    """Return the fields of the model that ``path`` leads to, through mappings, lists and unions."""
    for part in path:
        model = _model_in(model)
        if model is not None and part in model.model_fields:
            model = model.model_fields[part].annotation
        elif model is not None:
            return {}
    found = _model_in(model)
    return found.model_fields if found else {}


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """Return the first model in a type: itself, or what a mapping, list or union holds."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((one for arg in get_args(annotation) if (one := _model_in(arg))), None)


def parse_args_section(docstring: str) -> dict[str, str]:
    """Return name -> text of the ``Args:`` section of a Google-style docstring."""
    section = re.search(r"^Args:\n((?:[ \t]+.*\n?|\n)+)", docstring, flags=re.MULTILINE)
    entries: dict[str, str] = {}
    name = ""
    for line in inspect.cleandoc(section[1]).splitlines() if section else ():
        start = re.match(r"(\w+):\s*(.*)", line)
        if start:
            name = start[1]
            entries[name] = start[2]
        elif name and line.strip():
            entries[name] = f"{entries[name]} {line.strip()}"
    return entries


@cache
def source(module: str) -> Path | None:
    """Return the file of ``module``, found without importing any part of it."""
    found, places, parts = None, None, module.split(".")
    for end in range(1, len(parts) + 1):
        name = ".".join(parts[:end])
        found = next((one for one in _specs(name, places) if one), None)
        places = found and found.submodule_search_locations
        if found is None or (places is None and end < len(parts)):
            return None
    origin = Path(found.origin) if found and found.origin else None
    return origin if origin and origin.suffix == ".py" and origin.is_file() else None


def _specs(name: str, places: Any) -> Iterator[ModuleSpec | None]:
    """Yield what each finder of modules says of ``name``, in folders ``places`` if it has a parent.

    Not ``importlib.util.find_spec``, which imports the parents.
    """
    for finder in sys.meta_path:
        with contextlib.suppress(ImportError, ValueError):
            yield finder.find_spec(name, places, None)


# name -> value, of each file as far as signatures needed it
_spaces: dict[str, dict[str, Any]] = {}


def _value(module: str, name: str) -> Any:
    """Return the value of a name in a file, of which only what it needs is executed.

    Raises:
        NameError: if no statement at the file's top level binds it.
    """
    space = _spaces.setdefault(module, {"__name__": module, "__builtins__": builtins})
    if name not in space:
        statement = _binding(module, name)
        if statement is None:
            raise NameError(f"{name} is not defined at the top of the file")
        if isinstance(statement, ast.Import | ast.ImportFrom):
            space[name] = _imported(module, statement, name)
        else:
            statement = _signatures_only(statement, name)
            for used in _names(statement) - {name}:
                if not hasattr(builtins, used) and _binding(module, used):
                    _value(module, used)
            code = compile(ast.Module([statement], []), module, "exec", dont_inherit=True)
            exec(code, space)  # a file of the suite or of its user, which runs it anyway
    return space[name]


def _imported(module: str, statement: ast.Import | ast.ImportFrom, name: str) -> Any:
    """Return what an import binds to ``name``; from the user's own packages, without importing."""
    alias = next(a for a in statement.names if (a.asname or a.name.partition(".")[0]) == name)
    if isinstance(statement, ast.Import):
        return importlib.import_module(alias.name if alias.asname else name)
    parent = statement.module or ""
    if statement.level:
        own = source(module)
        inside = own is not None and own.name == "__init__.py"  # a package is its own parent
        package = module.split(".")[: len(module.split(".")) - statement.level + inside]
        parent = ".".join([*package, *([parent] if parent else [])])
    own = {"mist_bench", module.partition(".")[0]}
    if parent.partition(".")[0] in own and source(parent) and _binding(parent, alias.name):
        light = parent in ("mist_bench.spec", "mist_bench.types", "mist_bench.models.specs")
        return (
            getattr(importlib.import_module(parent), alias.name)
            if light
            else _value(parent, alias.name)
        )
    if source(f"{parent}.{alias.name}"):
        return importlib.import_module(f"{parent}.{alias.name}")
    return getattr(importlib.import_module(parent), alias.name)


@cache
def bindings(module: str) -> dict[str, ast.stmt]:
    """Return name -> the last statement at the top level of a file that binds it."""
    path, found = source(module), {}
    for statement in _flat(parsed(path, module).body) if path else ():
        if isinstance(statement, ast.Import | ast.ImportFrom):
            found |= {a.asname or a.name.partition(".")[0]: statement for a in statement.names}
        elif isinstance(statement, ast.FunctionDef | ast.ClassDef):
            found[statement.name] = statement
        elif isinstance(statement, ast.Assign | ast.AnnAssign):
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            nodes = (node for target in targets for node in ast.walk(target))
            found |= {node.id: statement for node in nodes if isinstance(node, ast.Name)}
    return found


def parsed(path: Path, module: str) -> ast.Module:
    """Return the syntax tree of a module's file.

    Raises:
        ConfigError: in one line, if it is no Python.
    """
    try:
        return ast.parse(path.read_text(encoding="utf-8-sig"), filename=path.name)
    except (OSError, ValueError, SyntaxError) as error:
        raise ConfigError(f"module {module!r}: {path} cannot be read: {error}") from None


def _flat(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Yield statements, those in the first branch of ``if`` and ``try`` included."""
    for statement in body:
        yield statement
        if isinstance(statement, ast.If | ast.Try):
            yield from _flat(statement.body)


def _binding(module: str, name: str) -> ast.stmt | None:
    return bindings(module).get(name)


def _names(statement: ast.stmt) -> set[str]:
    nodes = (node for node in ast.walk(statement) if isinstance(node, ast.Name))
    return {node.id for node in nodes if isinstance(node.ctx, ast.Load)}


def _signatures_only(statement: ast.stmt, name: str) -> ast.stmt:
    """Return a statement without what a signature does not need.

    Of ``build`` and ``make_split`` the keywords with types and defaults, and the docstring; of
    other functions and of methods all but the annotations.
    """
    statement = ast.parse(ast.unparse(statement)).body[0]
    for node in ast.walk(statement):
        if isinstance(node, ast.FunctionDef):
            node.returns = None
            for argument in [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]:
                if node.name not in ("build", "make_split") or argument not in node.args.kwonlyargs:
                    argument.annotation = None
    if isinstance(statement, ast.FunctionDef) and name in ("build", "make_split"):
        text = ast.get_docstring(statement) or ""
        statement.body = [ast.Expr(ast.Constant(text))]
        statement.decorator_list = []
    return ast.fix_missing_locations(statement)

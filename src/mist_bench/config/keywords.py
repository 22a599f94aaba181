"""Which keywords a method or dataset takes, read from its file, and names checked against them.

Torch-free: the files are parsed, never imported.
"""

from __future__ import annotations

import ast
import contextlib
import difflib
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any


class ConfigError(ValueError):
    """A configuration that cannot be run; its message is one line for the user."""


def check_keywords(where: str, given: Mapping[str, Any], module: str, function: str) -> None:
    """Raise a ``ConfigError`` for a keyword that ``module.function`` lacks or still needs."""
    known = keywords(module, function)
    check_names(where, given, known)
    if missing := [name for name, needed in known.items() if needed and name not in given]:
        raise ConfigError(f"{where}: {missing[0]!r} is required by {module}.{function}")


@cache
def keywords(module: str, function: str) -> dict[str, bool]:
    """Return the keywords of ``module.function`` and whether each is required.

    The module is read, not imported: it may need torch.

    Raises:
        ConfigError: if there is no such module or function.
    """
    path = source(module)
    if path is None:
        raise ConfigError(f"module {module!r} does not exist: is its file there?")
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef) and node.name == function:
            pairs = zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)
            return {argument.arg: default is None for argument, default in pairs}
    raise ConfigError(f"module {module!r} has no function {function}")


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

"""Which keywords a method or dataset takes, read from its file, and names checked against them.

Torch-free: the files are parsed, never imported.
"""

from __future__ import annotations

import ast
import difflib
import importlib.util
from collections.abc import Iterable, Mapping
from functools import cache
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
    try:
        found = importlib.util.find_spec(module)
    except ModuleNotFoundError:
        found = None
    if found is None or found.origin is None:
        raise ConfigError(f"module {module!r} does not exist: is its file there?")
    for node in ast.parse(Path(found.origin).read_text(encoding="utf-8")).body:
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

"""Which code a result comes from, and what changed since.

A digest covers the code only: comments, docstrings and positions are dropped before hashing, so
that a result is stale exactly when a statement it could have run is another one. Modules are found
by reading imports, never by importing, because Snakemake does this at every parse.
"""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from mist_bench.config.keywords import parsed, source

ROOTS = ("mist_bench",)
# they carry values from the user to a stage, and those values are part of the stage's spec
NEUTRAL = (
    *("mist_bench.cli", "mist_bench.spec", "mist_bench.models.specs", "mist_bench.run.machine"),
    "mist_bench.datasets.standin.specs",
    # not config.targets, which says what stands in a table
    *(
        f"mist_bench.config.{name}"
        for name in ("docs", "editor", "files", "keywords", "provenance")
    ),
    *(f"mist_bench.config.{name}" for name in ("provenance", "resolve", "schema", "user")),
    "mist_bench.config.workflow",
)
# the modules a stage always uses; a dataset's or method's own module comes on top
STAGES = {
    "dataset": ("mist_bench.datasets.build",),
    "features": ("mist_bench.run.features",),
    "train": ("mist_bench.run.training",),
    "predict": ("mist_bench.run.prediction",),
    "trace": ("mist_bench.run.tracing",),
    "evaluate": ("mist_bench.evaluation.metrics",),
    "metrics": ("mist_bench.reporting.aggregate",),
    "table": ("mist_bench.reporting.tables.write",),
    "figure": ("mist_bench.reporting.figures.write",),
    "report": ("mist_bench.reporting.html",),
}


def closure(*modules: str) -> list[str]:
    """Return ``modules`` and all they import, directly or not, inside the package's roots.

    Args:
        modules: dotted names; a module outside ``ROOTS`` adds its own top-level package as a root.

    Raises:
        ValueError: if one of ``modules`` has no file.
    """
    roots = frozenset(ROOTS) | {module.partition(".")[0] for module in modules}
    for module in modules:
        if source(module) is None:
            raise ValueError(f"module {module!r} does not exist: is its folder on PYTHONPATH?")
    found: set[str] = set()
    waiting = list(modules)
    while waiting:
        module = waiting.pop()
        if module in found or _is_neutral(module) or module.partition(".")[0] not in roots:
            continue
        found.add(module)
        waiting += _imports(module)
    return sorted(found)


def _is_neutral(module: str) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in NEUTRAL)


def code_digests(modules: Iterable[str]) -> dict[str, str]:
    """Return a digest per top-level name, as ``module:name``.

    Imports and statements that define no name share the entry ``module:<module>``.
    """
    return {key: sha for module in modules for key, sha in _digests(module).items()}


def stage_code(stage: str, module: str | None = None) -> dict[str, str]:
    """Return the digests of all code that ``stage`` uses.

    Args:
        stage: a key of ``STAGES``.
        module: module of the dataset or method that the stage works on.
    """
    return code_digests(closure(*STAGES[stage], *([module] if module else [])))


@cache
def digest(stage: str, module: str | None = None) -> str:
    """Return one short hash of ``stage_code``: equal hashes mean equal code."""
    return fingerprint(stage_code(stage, module))


def fingerprint(*values: Any) -> str:
    """Return 12 hex digits that identify JSON ``values``."""
    return _sha(json.dumps(values, sort_keys=True))[:12]


def file_digest(path: Path) -> str:
    """Return the sha256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def changes(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Return one line per leaf in which two nested mappings differ: ``a.b: old -> new``."""
    lines = []
    for key in sorted({*old, *new}, key=str):
        name, before, after = f"{prefix}{key}", old.get(key, ...), new.get(key, ...)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            lines += changes(before, after, f"{name}.")
        elif before != after:
            lines.append(f"{name}: {_show(before)} -> {_show(after)}")
    return lines


def code_changes(old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    """Return one line per function, class or constant that was changed, added or removed."""
    words = {(True, True): "changed", (True, False): "removed", (False, True): "added"}
    return [
        f"{name}: {words[name in old, name in new]}"
        for name in sorted({*old, *new})
        if old.get(name) != new.get(name)
    ]


def why(run: Path, spec: Mapping[str, Any], code: Mapping[str, str], manifest: Path) -> list[str]:
    """Return what changed since the run in a folder was trained, in lines; empty if nothing did.

    Args:
        run: folder with config.json and run.json of a finished training.
        spec: what the configuration says now, as in config.json.
        code: what ``stage_code("train", ...)`` says now.
        manifest: the dataset's manifest.json now.

    Raises:
        ValueError: if the folder holds no finished run.
    """
    try:
        old_spec, record = (
            json.loads((run / name).read_text(encoding="utf-8"))
            for name in ("config.json", "run.json")
        )
    except (OSError, json.JSONDecodeError) as error:
        raise ValueError(f"{run}: no finished run here ({error})") from None
    lines = [f"config {line}" for line in changes(old_spec, spec)]
    lines += [f"code {line}" for line in code_changes(record.get("code", {}), code)]
    if not manifest.is_file():
        lines.append(f"data {manifest}: not there")
    elif record.get("manifest") != file_digest(manifest):
        lines.append(f"data {manifest}: other contents than the run was trained on")
    return lines


def _show(value: Any) -> str:
    return "(not set)" if value is ... else json.dumps(value)


@cache
def _tree(module: str) -> tuple[ast.stmt, ...]:
    """Return the statements of ``module`` that can influence a result."""
    path = source(module)
    if path is None:
        return ()
    return tuple(parsed(path, module).body)


@cache
def _imports(module: str) -> frozenset[str]:
    """Return the modules that ``module`` imports anywhere, with their parent packages."""
    path = source(module)
    package = module if path and path.name == "__init__.py" else module.rpartition(".")[0]
    names = {name for stmt in _tree(module) for name, _, _ in _bindings(stmt, package)}
    names |= {package} - {""}
    with_parents = {
        ".".join(parts[:end])
        for parts in (name.split(".") for name in names)
        for end in range(1, len(parts) + 1)
    }
    return frozenset(name for name in with_parents if _file_in_roots(name, module))


def _file_in_roots(name: str, importer: str) -> bool:
    top = name.partition(".")[0]
    return (top in ROOTS or top == importer.partition(".")[0]) and source(name) is not None


def _bindings(tree: ast.AST, package: str) -> Iterator[tuple[str, str, str]]:
    """Yield (module, attribute, bound name) for each import below ``tree``.

    ``from a import b`` yields ``a.b`` too, since ``b`` may be a module.
    """
    for node in _walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, "", alias.asname or alias.name
        elif isinstance(node, ast.ImportFrom) and node.module != "__future__":
            base = node.module or ""
            if node.level:
                parts = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parts, *([base] if base else [])])
            for alias in node.names:
                yield base, alias.name, alias.asname or alias.name
                yield f"{base}.{alias.name}", "", alias.asname or alias.name


def _walk(tree: ast.AST) -> Iterator[ast.AST]:
    """Yield every node below ``tree`` except imports for type checkers."""
    if isinstance(tree, ast.If) and _names_type_checking(tree.test):
        children: Iterable[ast.AST] = tree.orelse
    else:
        yield tree
        children = ast.iter_child_nodes(tree)
    for child in children:
        yield from _walk(child)


def _names_type_checking(test: ast.expr) -> bool:
    return getattr(test, "id", getattr(test, "attr", None)) == "TYPE_CHECKING"


@cache
def _digests(module: str) -> dict[str, str]:
    """Return ``module:name`` -> digest of the statements that define the name."""
    parts: dict[str, list[str]] = {}
    imports: set[str] = set()
    for stmt in _tree(module):
        if isinstance(stmt, ast.Import | ast.ImportFrom):
            imports |= {" ".join(binding) for binding in _bindings(stmt, module)}
        elif text := _text(stmt):
            for name in _defines(stmt) or ["<module>"]:
                parts.setdefault(name, []).append(text)
    if imports:
        parts.setdefault("<module>", []).append("\n".join(sorted(imports)))
    return {f"{module}:{name}": _sha("\n".join(texts))[:16] for name, texts in parts.items()}


def _defines(stmt: ast.stmt) -> list[str]:
    """Return the names that a top-level statement defines."""
    if isinstance(stmt, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [stmt.name]
    if isinstance(stmt, ast.Assign | ast.AnnAssign):
        targets = stmt.targets if isinstance(stmt, ast.Assign) else [stmt.target]
        return [node.id for t in targets for node in ast.walk(t) if isinstance(node, ast.Name)]
    return []


def _text(node: Any) -> str:
    """Return the structure of ``node`` without docstrings, comments and positions.

    Empty fields are left out, so that Python 3.11 to 3.13 give the same text (``ast.dump`` does
    not: new fields appeared).
    """
    if isinstance(node, list):
        return "[" + ",".join(filter(None, map(_text, node))) + "]"
    if not isinstance(node, ast.AST):
        return repr(node)
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return ""  # a docstring, or another constant without effect
    if isinstance(node, ast.If) and _names_type_checking(node.test) and not node.orelse:
        return ""
    if isinstance(node, ast.keyword) and node.arg == "description":
        return ""  # of a parameter: words
    fields = ((name, value) for name, value in ast.iter_fields(node) if value not in (None, []))
    inside = ",".join(f"{name}={_text(value)}" for name, value in fields if name != "kind")
    return f"{type(node).__name__}({inside})"


def _sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()

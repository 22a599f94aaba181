"""What every file must be: in its layer, explained, and free of what does harm."""

import ast
import re
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[1]
# a package may import those before it: data and imports flow one way. Rivals come before MIST,
# an edit of which must not retrain them.
ORDER = (
    *("types", "spec", "boxes", "config", "datasets"),
    *("models", "backbones", "baselines", "mist"),
    *("evaluation", "run", "reporting", "official", "bench", "forecast", "cli"),
)
# what a result is computed by: an edit of how data are made or read retrains nothing
METHODS = ("models", "backbones", "baselines", "mist")
MAY_BE_IN_METHODS = {"types", "spec", "boxes", *METHODS}
# what Snakemake and the tables import, which no job should wait seconds for
TORCH_FREE = (
    *("types", "spec", "boxes", "config", "datasets", "evaluation", "reporting"),
    *("cli.main", "forecast.jobs", "forecast.text", "models.specs", "run.gpu_lease", "run.machine"),
)
TORCH = {"torch", "torchvision", "safetensors.torch"}


def files_of_modules():
    """Return each module's file by its dotted name."""
    places = {"mist_bench": ROOT / "src/mist_bench", "mist_bench.baselines": ROOT / "baselines"}
    return {
        ".".join([top, *path.relative_to(folder).with_suffix("").parts]).removesuffix(
            ".__init__"
        ): path
        for top, folder in places.items()
        for path in folder.rglob("*.py")
    }


MODULES = files_of_modules()


@cache
def tree_of(module):
    return ast.parse(MODULES[module].read_text(encoding="utf-8"))


def statements(node, lazy):
    """Return the statements below ``node``: with ``lazy``, those inside functions, too."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        yield child
        if lazy or not isinstance(child, ast.FunctionDef):
            yield from statements(child, lazy)


@cache
def imported(module, lazy=True):
    """Return the dotted names that a module imports, of a package's name its module."""
    names = set()
    for node in statements(tree_of(module), lazy):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module}: name the whole module, not {'.' * node.level}"
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= inner & MODULES.keys() if inner & MODULES.keys() else {node.module}
    return frozenset(names)


def package(module):
    """Return the layer of a module: ``datasets`` for ``mist_bench.datasets.build``."""
    return module.split(".")[1] if "." in module else ""


def test_imports_go_one_way():
    graph = {module: imported(module) & MODULES.keys() for module in MODULES}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        raise AssertionError(f"modules import each other: {' < '.join(error.args[1])}") from None
    assert {package(module) for module in MODULES} <= {"", *ORDER}, "add the package to ORDER"
    wrong = []
    for module, names in graph.items():
        own = package(module)
        if not own:
            continue
        allowed = set(ORDER[: ORDER.index(own) + 1])
        allowed = allowed & MAY_BE_IN_METHODS if own in METHODS else allowed
        wrong += [f"{module} imports {name}" for name in names if package(name) not in allowed]
    assert not wrong, "\n".join(wrong)


def test_torch_stays_where_networks_are():
    prefixes = tuple(f"mist_bench.{name}" for name in TORCH_FREE)
    waiting = [module for module in MODULES if f"{module}.".startswith(prefixes)]
    ways = {module: module for module in waiting}
    wrong = []
    while waiting:
        module = waiting.pop()
        for name in imported(module, lazy=False):
            if name.split(".")[0] in TORCH or name in TORCH:
                wrong.append(f"{ways[module]} > {name}")
            elif name in MODULES and name not in ways:
                ways[name] = f"{ways[module]} > {name}"
                waiting.append(name)
    assert not wrong, "\n".join(wrong)


def test_a_file_says_what_it_is():
    wrong = [module for module in MODULES if not ast.get_docstring(tree_of(module))]
    assert not wrong, "\n".join(wrong)


def test_nothing_is_unpickled():
    wrong = []
    for module in MODULES:
        if {"pickle", "dill", "joblib", "cloudpickle"} & imported(module):
            wrong.append(module)
        for call in (node for node in ast.walk(tree_of(module)) if isinstance(node, ast.Call)):
            given = {word.arg: ast.unparse(word.value) for word in call.keywords}
            loads = ast.unparse(call.func) == "torch.load" and given.get("weights_only") != "True"
            if loads or given.get("allow_pickle", "False") != "False":
                wrong.append(f"{module}:{call.lineno}")
    assert not wrong, "\n".join(wrong)


def test_no_file_names_a_machine():
    folders = (".ci", "baselines", "docs", "examples", "profiles", "src", "tests", "workflow")
    paths = [*ROOT.glob("*"), *(path for name in folders for path in (ROOT / name).rglob("*"))]
    places = re.compile(r"(?<![\w.])/(?:home|root|Users|work|scratch|mnt)/\w")
    wrong = []
    for path in paths:
        if path.is_file() and path.suffix not in (".pyc", ".png", ".npz"):
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
            found = [number for number, line in enumerate(lines, 1) if places.search(line)]
            wrong += [f"{path.relative_to(ROOT)}:{number}" for number in found]
    assert not wrong, "\n".join(wrong)

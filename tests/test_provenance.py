"""Digests follow the code that can run, and nothing else."""

import json
from types import SimpleNamespace

import pytest

from mist_bench.config import provenance
from mist_bench.run import machine

LOSS = '''"""Losses."""
from shop.units import SCALE


def loss(x):
    """Return the loss."""
    return SCALE * x  # scaled
'''
METHOD = """
import numpy


def build(task):
    from shop import losses

    return losses
"""
TYPED = """
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shop import plots
"""
FILES = {
    "__init__.py": "",
    "units.py": "SCALE = 2\nUNUSED = 3\n",
    "losses.py": LOSS,
    "method.py": METHOD,
    "plots.py": "from shop.losses import loss\n",
    "typed.py": TYPED,
}


@pytest.fixture
def shop(tmp_path, monkeypatch):
    """A package of six modules on the path, and a way to edit it."""
    folder = tmp_path / "shop"
    folder.mkdir()
    for name, text in FILES.items():
        (folder / name).write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))

    def forget():
        for function in vars(provenance).values():
            getattr(function, "cache_clear", lambda: None)()

    def edit(name, old, new):
        text = (folder / name).read_text()
        assert old in text
        (folder / name).write_text(text.replace(old, new))
        forget()

    forget()
    yield SimpleNamespace(edit=edit, digests=lambda: provenance.code_digests(closure()))
    forget()


def closure():
    return provenance.closure("shop.method")


@pytest.mark.usefixtures("shop")
def test_closure_follows_imports_inside_functions_and_leaves_out_what_is_not_imported():
    assert closure() == ["shop", "shop.losses", "shop.method", "shop.units"]


@pytest.mark.usefixtures("shop")
def test_closure_ignores_imports_for_type_checkers():
    assert provenance.closure("shop.typed") == ["shop", "shop.typed"]


def test_digests_name_every_top_level_name(shop):
    assert set(shop.digests()) == {
        "shop.losses:<module>",
        "shop.losses:loss",
        "shop.method:<module>",
        "shop.method:build",
        "shop.units:SCALE",
        "shop.units:UNUSED",
    }


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("# scaled", "# scaled by two"),
        ('"""Return the loss."""', '"""Return the scaled loss."""'),
        ('"""Losses."""\n', ""),
        ("    return SCALE * x", "\n    return (SCALE *\n        x)"),
    ],
    ids=["comment", "docstring", "module docstring", "layout"],
)
def test_words_and_layout_leave_digests_alone(shop, old, new):
    before = shop.digests()
    shop.edit("losses.py", old, new)
    assert shop.digests() == before


@pytest.mark.parametrize(
    ("name", "old", "new", "line"),
    [
        ("losses.py", "SCALE * x", "SCALE + x", "shop.losses:loss: changed"),
        ("units.py", "SCALE = 2", "SCALE = 4", "shop.units:SCALE: changed"),
        ("units.py", "UNUSED = 3\n", "", "shop.units:UNUSED: removed"),
        ("units.py", "UNUSED = 3", "UNUSED = 3\nMORE = None", "shop.units:MORE: added"),
        ("losses.py", "import SCALE", "import UNUSED as SCALE", "shop.losses:<module>: changed"),
    ],
)
def test_an_edit_of_code_is_named(shop, name, old, new, line):
    before = shop.digests()
    shop.edit(name, old, new)
    assert provenance.code_changes(before, shop.digests()) == [line]


def test_an_edit_outside_the_closure_does_not_count(shop):
    before = shop.digests()
    shop.edit("plots.py", "import loss", "import loss as lost")
    assert shop.digests() == before


def test_none_and_a_missing_value_differ(shop):
    shop.edit("units.py", "UNUSED = 3", "UNUSED = None")
    before = shop.digests()
    shop.edit("units.py", "UNUSED = None", "UNUSED = ()")
    assert provenance.code_changes(before, shop.digests()) == ["shop.units:UNUSED: changed"]


def test_a_module_without_file_is_named():
    with pytest.raises(ValueError, match=r"'baselines\.nothing' does not exist"):
        provenance.closure("baselines.nothing")


def test_neutral_modules_stay_out_of_every_closure():
    modules = provenance.closure("mist_bench.cli.main", "mist_bench.evaluation.metrics")
    assert not set(modules) & set(provenance.NEUTRAL)
    assert "mist_bench.evaluation.metrics" in modules


@pytest.mark.parametrize("stage", provenance.STAGES)
def test_each_stage_has_code(stage):
    assert provenance.stage_code(stage)


def test_reporting_is_no_part_of_training():
    modules = {name.partition(":")[0] for name in provenance.stage_code("train")}
    assert not [name for name in modules if name.startswith("mist_bench.reporting")]


def test_what_tables_take_from_targets_is_their_code_and_of_no_run():
    assert "mist_bench.config.targets:table_methods" in provenance.stage_code("table")
    assert "mist_bench.config.targets:EXTENDED" in provenance.stage_code("report")
    for stage in ("dataset", "features", "train", "predict", "trace", "evaluate"):
        assert "mist_bench.config.targets:EXTENDED" not in provenance.stage_code(stage)


def test_fingerprint_depends_on_values_not_on_the_order_of_keys():
    assert provenance.fingerprint({"a": 1, "b": 2}) == provenance.fingerprint({"b": 2, "a": 1})
    assert provenance.fingerprint({"a": 1}) != provenance.fingerprint({"a": 2})


def test_changes_name_nested_keys_with_both_values():
    old = {"training": {"steps": 10, "threads": 1}, "seed": 0}
    new = {"training": {"steps": 20, "threads": 1}, "lr": 0.1}
    assert provenance.changes(old, new) == [
        "lr: (not set) -> 0.1",
        "seed: 0 -> (not set)",
        "training.steps: 10 -> 20",
    ]


def test_why_lists_config_code_and_data(tmp_path):
    manifest = tmp_path / "manifest.json"
    manifest.write_text("{}")
    record = {"code": {"a:f": "1"}, "manifest": provenance.file_digest(manifest)}
    (tmp_path / "config.json").write_text('{"seed": 0}')
    (tmp_path / "run.json").write_text(json.dumps(record))
    assert provenance.why(tmp_path, {"seed": 0}, {"a:f": "1"}, manifest) == []
    manifest.write_text("{} ")
    config, code, data = provenance.why(tmp_path, {"seed": 1}, {"a:f": "2"}, manifest)
    assert (config, code) == ("config seed: 0 -> 1", "code a:f: changed")
    assert "other contents" in data


def test_why_of_an_empty_folder_is_one_line(tmp_path):
    with pytest.raises(ValueError, match="no finished run here"):
        provenance.why(tmp_path, {}, {}, tmp_path / "manifest.json")


def test_the_machine_tells_no_name_and_no_path():
    facts = json.dumps(machine.machine())
    assert machine.platform.node() not in facts
    assert not any(word in facts for word in ("/home", "/root", "/work", "\\"))
    assert machine.machine()["versions"]["numpy"]


def test_a_dirty_commit_is_marked(monkeypatch):
    answers = {"rev-parse": "abc", "status": " M file"}
    monkeypatch.setattr(machine, "_git", lambda _, command, *__: answers[command])
    assert machine.commit() == "abc-dirty"
    answers["status"] = ""
    assert machine.commit() == "abc"

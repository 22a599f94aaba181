"""The command line: what it prints and returns when something is wrong, and the small commands."""

import json
import subprocess
import sys
from types import SimpleNamespace

import pytest

from mist_bench.cli import inputs
from mist_bench.cli import main as cli
from mist_bench.cli.command import COMMANDS
from mist_bench.config import provenance, targets, workflow
from mist_bench.config import resolve as settings
from mist_bench.config.resolve import canonical
from mist_bench.config.schema import Config

pytestmark = pytest.mark.usefixtures("here")
RUN = ("mnist_hard_classification", "mist", 0)


def run(capsys, *arguments):
    """Return the exit code, stdout, and the lines of stderr."""
    code = cli.main([str(argument) for argument in arguments])
    printed = capsys.readouterr()
    return code, printed.out, printed.err.splitlines()


def test_every_command_has_help(capsys):
    for name in COMMANDS:
        with pytest.raises(SystemExit, match="0"):
            cli.main([*name.split(), "--help"])
        assert f"usage: mist-bench {name}" in capsys.readouterr().out


def test_no_parse_imports_torch():
    code = """
import sys
from mist_bench.cli.main import main, parser
parser().parse_args(["bench", "stages", "--out", "o"])
main(["schema"])
print({"torch", "numpy", "pandas", "matplotlib"} & {*sys.modules}, file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "set()\n"
    assert json.loads(done.stdout)["properties"].keys() >= Config.model_fields.keys()


def test_an_unknown_command_is_refused(capsys):
    with pytest.raises(SystemExit, match="2"):
        cli.main(["trian"])
    assert "invalid choice: 'trian'" in capsys.readouterr().err


def test_a_misspelt_key_in_a_spec_is_one_line(capsys, smoke):
    spec = canonical(settings.run_spec(smoke, *RUN)).replace('"steps"', '"stepz"')
    code, _, lines = run(
        capsys,
        *("predict", "--spec", spec, "--manifest", "m", "--weights", "w", "--out", "o"),
        *("--device", "cpu"),
    )
    assert code == 1
    assert len(lines) == 1
    assert "--spec: training.ste" in lines[0]


def test_a_missing_spec_file_is_one_line(capsys):
    code, _, lines = run(capsys, "dataset", "--spec", "no.json", "--manifest", "m.json")
    assert (code, len(lines)) == (1, 1)
    assert "no.json" in lines[0]


def test_code_edited_after_the_start_is_refused(capsys, smoke):
    spec = canonical(settings.dataset_spec(smoke, "mnist_hard"))
    code, _, lines = run(capsys, "dataset", "--spec", spec, "--manifest", "a/m.json", "--code", "0")
    assert (code, len(lines)) == (1, 1)
    assert "start the workflow again" in lines[0]


def test_a_missing_data_folder_is_one_line(capsys, smoke, here, monkeypatch):
    monkeypatch.setenv("MIST_BENCH_DATA", str(here / "nowhere"))
    spec = canonical(settings.dataset_spec(smoke, "mnist_hard"))
    code, _, lines = run(capsys, "dataset", "--spec", spec, "--manifest", "d/mnist/manifest.json")
    assert code == 1
    assert "nowhere" in lines[-1]
    assert "MIST_BENCH_DATA" in lines[-1]
    assert not (here / "d" / "mnist").exists()


def test_a_dataset_is_made_by_its_name(capsys, here, monkeypatch):
    made = []
    monkeypatch.setattr(
        "mist_bench.datasets.build.build_dataset", lambda spec, out: made.append((spec, out))
    )
    assert run(capsys, "dataset", "mnist_easy", "--preset", "smoke")[0] == 0
    ((spec, out),) = made
    assert (spec.name, spec.params["sorted_digits"]) == ("mnist_easy", True)
    assert str(out) == "results/smoke/datasets/mnist_easy"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["mnist_eezy"], "did you mean 'mnist_easy'?"),
        ([], "give a dataset's name, or --spec with --manifest"),
        (["mnist_easy", "--spec", "{}", "--manifest", "m.json"], "give a dataset's name"),
    ],
)
def test_a_dataset_that_is_not_named_well_is_refused(capsys, arguments, words):
    code, _, lines = run(capsys, "dataset", *arguments)
    assert (code, len(lines)) == (1, 1)
    assert words in lines[0]


def test_a_spec_may_be_a_file(here, smoke):
    spec = settings.run_spec(smoke, *RUN)
    (here / "spec.json").write_text(canonical(spec))
    assert inputs.read_spec("spec.json", settings.RunSpec) == spec
    assert inputs.read_spec(canonical(spec), settings.RunSpec) == spec


def test_a_table_of_missing_runs_is_refused_unless_partial(capsys, here):
    code, _, lines = run(capsys, "table", "table2", "--preset", "smoke")
    assert (code, len(lines)) == (1, 1)
    assert "results/smoke/runs/mnist_hard_classification/" in lines[0]
    assert "--partial" in lines[0]
    assert run(capsys, "table", "table2", "--preset", "smoke", "--partial")[0] == 0
    rows = (here / "results/smoke/tables/table2.csv").read_text().splitlines()
    assert len(rows) > 1
    assert all("not run" in row for row in rows[1:])


def test_an_unknown_table_names_the_nearest(capsys):
    code, _, lines = run(capsys, "table", "tabel2", "--preset", "smoke")
    assert (code, len(lines)) == (1, 1)
    assert "did you mean 'table2'?" in lines[0]


def test_resolve_stores_what_can_be_read_back(here, smoke):
    assert cli.main(["resolve", "--config", canonical(smoke), "--out", "config.json"]) == 0
    assert settings.validate(json.loads((here / "config.json").read_text())) == smoke


def test_why_compares_a_run_with_now(capsys, here, smoke):
    spec = settings.run_spec(smoke, *RUN)
    folder = targets.run_folder(here / "results/smoke", *RUN)
    folder.mkdir(parents=True)
    manifest = here / "results/smoke/datasets" / spec.dataset / "manifest.json"
    manifest.parent.mkdir(parents=True)
    manifest.write_text("{}")
    code = provenance.stage_code("train", spec.module)
    record = {"code": code, "manifest": provenance.file_digest(manifest)}
    (folder / "config.json").write_text(canonical(spec))
    (folder / "run.json").write_text(json.dumps(record))
    assert run(capsys, "why", folder)[1].strip() == "nothing changed since this run was trained"
    first = next(iter(code))
    (folder / "run.json").write_text(json.dumps(record | {"code": code | {first: "other"}}))
    steps = spec.training.steps
    old = canonical(spec).replace(f'"steps":{steps}', f'"steps":{steps + 1}')
    (folder / "config.json").write_text(old)
    assert run(capsys, "why", folder)[1].splitlines() == [
        f"config training.steps: {steps + 1} -> {steps}",
        f"code {first}: changed",
    ]


def test_why_knows_a_method_of_an_overlay(capsys, here, smoke):
    """From the configuration that the workflow has stored."""
    mine = smoke.methods["mist"].model_copy(update={"label": "Mine"})
    config = smoke.model_copy(update={"methods": {**smoke.methods, "mine": mine}})
    spec = settings.run_spec(config, RUN[0], "mine", 0)
    folder = targets.run_folder(here / "results/smoke", RUN[0], "mine", 0)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(canonical(spec))
    code = provenance.stage_code("train", spec.module)
    (folder / "run.json").write_text(json.dumps({"code": code, "manifest": "0"}))
    assert "'mine' is unknown" in run(capsys, "why", folder)[2][0]
    (here / "results/smoke/config.json").write_text(canonical(config))
    assert run(capsys, "why", folder)[0] == 0


def test_why_without_a_run_is_one_line(capsys):
    code, _, lines = run(capsys, "why", "results/smoke/runs/a/b/seed0")
    assert (code, len(lines)) == (1, 1)
    assert "no finished run here" in lines[0]


def test_an_interrupted_training_asks_to_be_continued(capsys, here, smoke, monkeypatch):
    interrupted = type("Interrupted", (RuntimeError,), {})

    def train(*_):
        raise interrupted("stopped at step 3 of 9")

    module = SimpleNamespace(Interrupted=interrupted, train=train)
    monkeypatch.setitem(sys.modules, "mist_bench.run.training", module)
    (here / "manifest.json").write_text("{}")
    arguments = ("--manifest", "manifest.json", "--record", "r/run.json", "--work", "w")
    spec = canonical(settings.run_spec(smoke, *RUN))
    with pytest.raises(SystemExit, match="75"):
        cli.main(["train", "--spec", spec, *arguments, "--device", "cpu"])
    assert "stopped at step 3 of 9" in capsys.readouterr().err


def test_figures_know_their_runs(smoke):
    runs = targets.figure_runs(smoke, "figure5")
    assert [run[1] for run in runs] == ["mist", "channelwise"]
    assert {run[2] for run in runs} == {smoke.seeds[0]}
    with pytest.raises(settings.ConfigError, match="did you mean 'figure5'"):
        targets.figure_runs(smoke, "figur5")


@pytest.mark.parametrize(
    ("table", "methods"),
    [
        ("table2", ["mist", "channelwise", "supervised", "grid"]),
        ("table3", ["mist", "soft_topk", "grid"]),
        ("table5", ["mist", "grid"]),
    ],
)
def test_tables_need_every_seed_of_the_papers_methods_and_of_new_ones(smoke, table, methods):
    config = smoke.model_copy(update={"seeds": [0, 3]}, deep=True)
    config.experiments["mnist_hard_classification"].methods.append("grid")  # in no such row
    runs = [run for run in targets.table_runs(config, table) if run[0].startswith("mnist_hard")]
    assert runs == [("mnist_hard_classification", m, seed) for m in methods for seed in (0, 3)]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "cannot be read"),
        ("table,metric\ntable2,iou50\n", "column 'experiment' is missing"),
        ("table,experiment,method\ntable1,a,b\n", "no row for 'table2'"),
    ],
)
def test_bad_paper_results_are_one_line(here, text, words):
    if text:
        (here / "paper.csv").write_text(text)
    with pytest.raises(settings.ConfigError, match=words):
        targets.paper_rows(here / "paper.csv", "table2")


def test_what_was_produced_is_listed_once_per_artefact(here):
    for name in ("tables/table1.csv", "tables/table1.md", "report/index.html", "logs/table1.log"):
        path = here / "results/smoke" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert workflow.produced(here / "results", 0) == [
        f"{here}/results/smoke/tables/table1.{{csv,md}}",
        f"{here}/results/smoke/report/index.html",
    ]
    assert workflow.produced(here / "results", path.stat().st_mtime + 60) == []


def test_a_file_in_the_place_of_results_is_named(here):
    (here / "results").touch()
    assert "a file is where the results folder should be" in workflow.unwritable(here / "results")
    assert workflow.unwritable(here / "elsewhere") is None

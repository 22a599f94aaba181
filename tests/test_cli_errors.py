"""Mistakes of the user and damaged files at the command line: one line that names the place."""

import json

import pytest
from test_cli import RUN, run

from mist_bench.cli import main as cli
from mist_bench.config import resolve as settings
from mist_bench.config.resolve import canonical

pytestmark = pytest.mark.usefixtures("here")


def only_line(capsys, *arguments):
    """Return the one line that a failing command prints."""
    code, _, lines = run(capsys, *arguments)
    assert (code, len(lines)) == (1, 1), lines
    return lines[0]


@pytest.mark.parametrize("device", ["gpu", "tpu", "cuda:0"])
@pytest.mark.parametrize("command", ["train", "predict", "trace", "features"])
def test_an_unknown_device_is_refused(capsys, command, device):
    with pytest.raises(SystemExit, match="2"):
        cli.main([command, "--device", device])
    assert f"--device: invalid choice: '{device}'" in capsys.readouterr().err


def test_a_keyword_that_a_module_does_not_take_is_named(capsys, smoke):
    raw = settings.run_spec(smoke, *RUN).model_dump(mode="json")
    raw["params"]["detector"]["channel"] = raw["params"]["detector"].pop("channels")
    rest = ("--manifest", "m", "--record", "r", "--work", "w", "--device", "cpu")
    line = only_line(capsys, "train", "--spec", json.dumps(raw), *rest)
    assert "--spec: params.detector.channel: unknown key; did you mean 'channels'?" in line
    raw = settings.dataset_spec(smoke, "mnist_3").model_dump(mode="json")
    raw["params"]["digit_size"] = "many"
    line = only_line(capsys, "dataset", "--spec", json.dumps(raw), "--manifest", "m")
    assert "--spec: params.digit_size: " in line


def test_damaged_json_names_its_file(capsys, here, smoke):
    folder = here / "run"
    folder.mkdir()
    (folder / "config.json").write_text('{"preset": ')
    line = only_line(capsys, "why", "run")
    assert line.startswith("mist-bench why: run/config.json: Invalid JSON: EOF")
    (here / "resolved.json").write_text("{")
    assert "metrics: resolved.json: Expecting" in only_line(
        capsys, "metrics", "--config", "resolved.json"
    )
    spec = canonical(settings.run_spec(smoke, *RUN)).replace('"steps"', '"stepz"')
    (folder / "config.json").write_text(spec)
    assert "run/config.json: training.ste" in only_line(capsys, "why", folder)


@pytest.mark.parametrize(
    ("text", "words"), [("[]", "--config: Input should"), ("[", "--config: Expecting value")]
)
def test_a_configuration_that_is_none_names_its_option(capsys, text, words):
    line = only_line(capsys, "resolve", "--config", text, "--out", "o.json")
    assert line.startswith(f"mist-bench resolve: {words}")


def test_missing_runs_are_made_with_the_preset_that_was_asked_for(capsys):
    line = only_line(capsys, "table", "table2", "--preset", "smoke")
    assert "make them with snakemake table2 --config preset=smoke, or add --partial" in line

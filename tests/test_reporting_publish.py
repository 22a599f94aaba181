import json

import pytest

from mist_bench.config import resolve as settings
from mist_bench.config import targets
from mist_bench.reporting.publish import CURVES, publish
from tests.test_reporting_tables import HARD, make_config, put_run


@pytest.fixture
def results(tmp_path):
    folder = tmp_path / "cpu"
    put_run(folder, "mist", 0, {"both": 0.9}, commit="abc", cpu="CPU", cpu_seconds=400.04)
    run = folder / "runs" / HARD / "mist" / "seed0"
    for name in CURVES:
        (run / name).write_text(name)
    (run / "weights.safetensors").write_text("big")
    (folder / "tables").mkdir()
    (folder / "tables" / "table2.csv").write_text("table")
    return folder


def test_tables_curves_and_origin_are_kept_and_weights_are_not(results, tmp_path):
    reference = tmp_path / "reference" / "cpu"
    reference.mkdir(parents=True)
    (reference / "old.csv").write_text("of an earlier run")
    files = {str(p.relative_to(reference)) for p in publish(make_config(), results, reference)}
    run = f"runs/{HARD}/mist/seed0"
    assert files == {"origin.json", "tables/table2.csv", *(f"{run}/{name}" for name in CURVES)}
    (origin,) = json.loads((reference / "origin.json").read_text())
    assert (origin["experiment"], origin["method"], origin["seed"]) == (HARD, "mist", 0)
    assert (origin["commit"], origin["cpu"], origin["cpu_seconds"]) == ("abc", "CPU", 400.0)


def test_a_figure_is_kept_if_its_runs_are_there(results, tmp_path):
    (results / "figures").mkdir()
    # of figure2 there is no run, of figure7 one of three
    for name in ("figure2", "figure5", "figure7"):
        (results / "figures" / f"{name}.png").write_text("page")
    (results / "runs" / HARD / "mist" / "seed0" / "heatmaps.npz").write_text("one of three")
    for method in ("mist", "channelwise"):
        folder = results / "runs" / HARD / method / "seed0"
        folder.mkdir(exist_ok=True, parents=True)
        (folder / "predictions.npz").write_text("stored")
    publish(make_config(), results, tmp_path / "reference")
    kept = [path.name for path in (tmp_path / "reference" / "figures").iterdir()]
    assert kept == ["figure5.png"]


def test_a_run_of_other_settings_is_refused(tmp_path):
    config = settings.load(targets.SETTINGS, {"preset": "smoke"})
    results = tmp_path / "smoke"
    put_run(results, "mist", 0, {"both": 0.9})
    folder = results / "runs" / HARD / "mist" / "seed0"
    spec = settings.run_spec(config, HARD, "mist", 0).model_dump(mode="json")
    spec["training"]["steps"] += 1
    (folder / "config.json").write_text(json.dumps(spec))
    with pytest.raises(ValueError, match=f"^{folder}: other settings .training.steps: ") as caught:
        publish(config, results, tmp_path / "reference")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "reference").exists()


@pytest.mark.parametrize("commit", ["abc-dirty", None])
def test_results_of_uncommitted_code_are_refused(results, tmp_path, commit):
    put_run(results, "mist", 1, {"both": 0.9}, commit=commit)
    with pytest.raises(ValueError, match="uncommitted"):
        publish(make_config(), results, tmp_path / "reference")
    assert not (tmp_path / "reference").exists()


def test_nothing_to_publish_is_said(tmp_path):
    with pytest.raises(ValueError, match="no finished run"):
        publish(make_config(), tmp_path, tmp_path / "reference")

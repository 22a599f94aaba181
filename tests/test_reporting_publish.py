import json

import pytest

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


@pytest.mark.parametrize("commit", ["abc-dirty", None])
def test_results_of_uncommitted_code_are_refused(results, tmp_path, commit):
    put_run(results, "mist", 1, {"both": 0.9}, commit=commit)
    with pytest.raises(ValueError, match="uncommitted"):
        publish(make_config(), results, tmp_path / "reference")
    assert not (tmp_path / "reference").exists()


def test_nothing_to_publish_is_said(tmp_path):
    with pytest.raises(ValueError, match="no finished run"):
        publish(make_config(), tmp_path, tmp_path / "reference")

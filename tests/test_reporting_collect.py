"""What a run counts as: its metrics by hand, and failed, crashed or outdated runs."""

import hashlib
import json

import numpy as np
import pytest
from test_reporting_tables import HARD, make_config, put_run

from mist_bench.reporting.aggregate import COLUMNS, collect

TRACEBACK = "Traceback (most recent call last):"


@pytest.fixture
def results(tmp_path):
    return tmp_path / "cpu"


def test_collect_has_one_row_per_run_and_metric(results):
    put_run(results, "mist", 0, {"both": 0.9, "center_error": None})
    log = results / "runs" / HARD / "mist" / "seed1" / "train.log"
    log.parent.mkdir()
    log.write_text("mist-bench train: disk  full\n")
    frame = collect(make_config(), results)
    assert list(frame.columns) == COLUMNS
    mist = frame[(frame["experiment"] == HARD) & (frame["method"] == "mist")]
    assert mist[["seed", "status", "reason"]].to_numpy().tolist() == [
        [0, "ok", ""],
        [0, "ok", ""],
        [0, "ok", ""],
        [1, "failed", "train: disk full"],
        [2, "not run", "no metrics.json"],
    ]
    # the costs of a run follow its metrics
    assert mist["metric"].tolist()[:3] == ["both", "center_error", "seconds_per_step"]
    assert mist["value"].iloc[0] == 0.9
    assert np.isnan(float(mist["value"].iloc[1]))
    assert mist["steps"].iloc[0] == 3000


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "metrics.json is unreadable"),
        ('{"status": "ok"}', "metrics.json holds no metrics"),
        ('{"preset": "smoke", "metrics": {}}', "metrics.json is of preset 'smoke', not 'cpu'"),
    ],
)
def test_a_bad_metrics_file_is_a_failed_run(content, reason, results):
    put_run(results, "mist", 0, {})
    (results / "runs" / HARD / "mist" / "seed0" / "metrics.json").write_text(content)
    row = collect(make_config(seeds=[0]), results).iloc[0]
    assert (row["status"], row["reason"]) == ("failed", reason)


def test_a_crash_is_a_failed_run(results):
    log = results / "runs" / HARD / "mist" / "seed0" / "train.log"
    log.parent.mkdir(parents=True)
    for text, status in (("step 7\n", "not run"), (f"{TRACEBACK}\nKeyError: 'a'\n", "failed")):
        log.write_text(text)
        row = collect(make_config(seeds=[0]), results).iloc[0]
        assert (row["status"], row["reason"]) == (
            status,
            f"no metrics.json; train.log ends: {text.splitlines()[-1]}",
        )


def test_metrics_of_earlier_weights_are_not_reported(results):
    put_run(results, "mist", 0, {"both": 0.975})
    folder = results / "runs" / HARD / "mist" / "seed0"
    (folder / "weights.safetensors").write_bytes(b"new")
    content = json.loads((folder / "metrics.json").read_text())
    for stored, status in (("old", "failed"), ("new", "ok"), (None, "ok")):
        digest = stored and hashlib.sha256(stored.encode()).hexdigest()
        known = {"weights_sha256": digest} if digest else {}
        (folder / "metrics.json").write_text(json.dumps(content | known))
        row = collect(make_config(seeds=[0]), results).iloc[0]
        assert row["status"] == status
        assert row["reason"] == ("metrics of earlier weights" if status == "failed" else "")


def test_metrics_of_an_earlier_training_are_not_reported_as_this_ones(results):
    put_run(results, "mist", 0, {"both": 0.975})
    folder = results / "runs" / HARD / "mist" / "seed0"
    (folder / "run.json").unlink()  # as when a new training of the run has begun, and then failed
    (folder / "train.log").write_text("mist-bench train: loss is nan at step 7\n")
    runs = collect(make_config(seeds=[0]), results)
    (mine,) = runs[(runs.experiment == HARD) & (runs.method == "mist")].itertuples()
    assert (mine.status, mine.reason) == ("failed", "train: loss is nan at step 7")

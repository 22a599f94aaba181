import pytest

from mist_bench.config import resolve as settings
from mist_bench.config import targets
from mist_bench.reporting.tables.calibration import calibration_table
from tests.test_reporting_tables import put_run


@pytest.fixture
def calibration():
    return settings.load(targets.SETTINGS, {"preset": "calibration"})


def test_the_candidate_nearest_to_the_papers_supervised_bound_comes_first(calibration, tmp_path):
    # the paper's Table 2, supervised: 99.6 %, 98.7 %, 98.6 %
    near = {"iou50": 0.986, "classification": 0.977, "both": 0.956}
    far = {"iou50": 0.896, "classification": 0.887, "both": 0.886}
    results = tmp_path / "calibration"
    put_run(results, "supervised", 0, far, experiment="calibrate_radius_18")
    put_run(results, "supervised", 0, near, experiment="calibrate_radius_16")
    table = calibration_table(calibration, results).set_index("experiment")
    assert table.index[0] == "calibrate_radius_16"
    assert table.gap.iloc[0] == pytest.approx((0.01 + 0.01 + 0.03) / 3)
    assert table.gap.iloc[1] == pytest.approx(0.1)
    assert table.loc["calibrate_radius_16", "radius"] == 16
    assert table.loc["calibrate_clipped_sum", "composite"] == "clipped_sum"
    assert table.loc["calibrate_clipped_sum", "n"] == 0


def test_a_preset_without_candidates_is_refused(tmp_path):
    config = settings.load(targets.SETTINGS, {"preset": "smoke"})
    with pytest.raises(ValueError, match="preset=calibration"):
        calibration_table(config, tmp_path)

import numpy as np
import pytest

from mist_bench.evaluation.reconstruction import rmse_metrics


def test_rmse_by_hand():
    images = np.zeros((2, 1, 2, 2), np.float32)
    images[1] = 1.0
    reconstructions = np.zeros((2, 1, 2, 2), np.float16)
    reconstructions[0, 0, 0, 0] = 1.0  # one of four pixels is wrong by 1
    metrics = rmse_metrics(images, reconstructions)
    # mean squares per image: 1/4 and 1
    assert metrics["rmse"] == pytest.approx(np.sqrt(5 / 8))
    assert metrics["rmse_zero"] == pytest.approx(np.sqrt(1 / 2))
    assert metrics["rmse_gray"] == 0.5
    assert metrics["rmse_image_mean"] == pytest.approx(0.75)
    assert metrics["rmse_image_std"] == pytest.approx(0.25)


def test_uint8_images_are_divided_by_255():
    images = np.full((1, 3, 4, 4), 51, np.uint8)
    metrics = rmse_metrics(images, np.full((1, 3, 4, 4), 0.5, np.float16))
    assert metrics["rmse"] == pytest.approx(0.3)
    assert metrics["rmse_zero"] == pytest.approx(0.2)
    assert metrics["rmse_gray"] == pytest.approx(0.3)


def test_reconstructions_are_not_clipped():
    images = np.ones((1, 1, 1, 1), np.float32)
    assert rmse_metrics(images, np.full((1, 1, 1, 1), 3.0, np.float16))["rmse"] == 2.0


def test_shapes_must_agree():
    with pytest.raises(ValueError, match=r"must be \(1, 1, 2, 2\), got \(1, 2, 2\)"):
        rmse_metrics(np.zeros((1, 1, 2, 2)), np.zeros((1, 2, 2)))

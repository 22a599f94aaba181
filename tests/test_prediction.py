"""From weights to stored predictions: padding, types, and weights that do not fit."""

import hashlib

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from mist_bench.datasets.files import load_split
from mist_bench.run import checkpoint
from mist_bench.run.batches import to_images
from mist_bench.run.method import build_method, choose_device, use_deterministic_torch
from mist_bench.run.prediction import pack, predict, predict_split
from mist_bench.types import Prediction

CPU = torch.device("cpu")


@pytest.fixture
def weights(tiny_spec, tmp_path):
    """Weights of MIST on the tiny task."""
    path = tmp_path / "weights.safetensors"
    checkpoint.save_weights(path, build_method(tiny_spec(), CPU))
    return path


def random_prediction(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return Prediction(
        torch.rand(count, 4, generator=generator),
        torch.rand(count, generator=generator),
        torch.randint(3, (count,), generator=generator),
        torch.rand(count, 3, generator=generator),
    )


def test_predictions_are_padded_to_the_longest():
    predictions = [random_prediction(2), random_prediction(0), random_prediction(3)]
    arrays = pack(predictions)
    assert {name: (array.shape, array.dtype) for name, array in arrays.items()} == {
        "counts": ((3,), np.int64),
        "boxes": ((3, 3, 4), np.float32),
        "scores": ((3, 3), np.float32),
        "labels": ((3, 3), np.int64),
        "probs": ((3, 3, 3), np.float32),
    }
    assert arrays["counts"].tolist() == [2, 0, 3]
    for i, one in enumerate(predictions):
        n = len(one.boxes)
        for name in ("boxes", "scores", "labels", "probs"):
            assert (arrays[name][i, :n] == getattr(one, name).numpy()).all()
        assert (arrays["boxes"][i, n:] == 0).all()
        assert (arrays["scores"][i, n:] == -np.inf).all()
        assert (arrays["labels"][i, n:] == -1).all()
        assert (arrays["probs"][i, n:] == 0).all()


def test_no_detection_at_all_is_stored():
    arrays = pack([random_prediction(0)] * 2)
    assert arrays["boxes"].shape == (2, 0, 4)
    assert arrays["scores"].shape == arrays["labels"].shape == (2, 0)


def test_a_reconstruction_has_no_labels():
    one = Prediction(torch.ones(1, 4), torch.ones(1), reconstruction=torch.full((2, 5, 5), -0.25))
    arrays = pack([one, one])
    assert set(arrays) == {"counts", "boxes", "scores", "reconstructions"}
    assert arrays["reconstructions"].shape == (2, 2, 5, 5)
    assert arrays["reconstructions"].dtype == np.float16
    assert (arrays["reconstructions"] == -0.25).all()  # not clipped


def test_numbers_that_make_processors_slow_are_0():
    tiny = torch.full((64,), 1e-38)
    assert (tiny * 0.1).all()
    use_deterministic_torch(1)
    assert not (tiny * 0.1).any()


def test_stored_images_become_floats():
    stored = np.array([0, 51, 255], dtype=np.uint8).reshape(1, 1, 1, 3)
    assert to_images(stored, CPU).flatten().tolist() == pytest.approx([0, 0.2, 1])
    floats = np.array([0.25, -1.5], dtype=np.float32).reshape(1, 1, 1, 2)
    assert to_images(floats, CPU).flatten().tolist() == [0.25, -1.5]


@pytest.mark.parametrize("batch_size", [1, 2, 5, 100])
def test_a_split_is_predicted_in_its_order(tiny_spec, tiny_dataset, batch_size):
    method = build_method(tiny_spec(), CPU).train()
    images = load_split(tiny_dataset, "test")["images"]
    predictions = predict_split(method, images, batch_size, CPU)
    assert not method.training
    assert len(predictions) == 5
    for one, image in zip(predictions, images, strict=True):
        (alone,) = method.predict(to_images(image[None], CPU))
        torch.testing.assert_close(one.boxes, alone.boxes, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(one.probs, alone.probs, atol=1e-4, rtol=1e-4)


def test_a_file_holds_what_the_method_says(tiny_spec, tiny_dataset, tmp_path, weights):
    predict(tiny_spec(), tiny_dataset, weights, tmp_path / "predictions.npz", "cpu")
    method = build_method(tiny_spec(), CPU).eval()
    expected = method.predict(to_images(load_split(tiny_dataset, "test")["images"], CPU))
    with np.load(tmp_path / "predictions.npz") as stored:
        assert stored["counts"].tolist() == [2] * 5
        assert (str(stored["split"]), str(stored["weights_sha256"])) == (
            "test",
            hashlib.sha256(weights.read_bytes()).hexdigest(),
        )
        for name in ("boxes", "scores", "labels", "probs"):
            wanted = torch.stack([getattr(one, name) for one in expected]).numpy()
            np.testing.assert_allclose(stored[name], wanted, atol=1e-4)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "predictions.npz",
        "weights.safetensors",
    ]


def test_the_same_weights_give_the_same_file(tiny_spec, tiny_dataset, tmp_path, weights):
    for name in ("a.npz", "b.npz"):
        predict(tiny_spec(), tiny_dataset, weights, tmp_path / name, "cpu")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_weights_are_used_and_not_the_seed(tiny_spec, tiny_dataset, tmp_path, weights):
    for seed in (0, 1):
        predict(tiny_spec(seed=seed), tiny_dataset, weights, tmp_path / f"{seed}.npz", "cpu")
    with np.load(tmp_path / "0.npz") as one, np.load(tmp_path / "1.npz") as other:
        assert all((one[name] == other[name]).all() for name in one.files)


def without_a_tensor(tensors):
    del tensors["head.network.logits.bias"]
    return tensors


def of_another_shape(tensors):
    return {name: value[None] for name, value in tensors.items()}


@pytest.mark.parametrize("change", [without_a_tensor, of_another_shape])
def test_weights_of_another_network_are_refused(tiny_spec, tiny_dataset, tmp_path, weights, change):
    save_file(change(load_file(weights)), weights)
    words = f"^{weights}: not the weights of mist_bench.mist: "
    with pytest.raises(ValueError, match=words) as info:
        predict(tiny_spec(), tiny_dataset, weights, tmp_path / "predictions.npz", "cpu")
    assert "\n" not in str(info.value)
    assert len(str(info.value)) < 300 + len(words)
    assert not (tmp_path / "predictions.npz").exists()


def test_damaged_weights_are_refused(tiny_spec, tiny_dataset, tmp_path, weights):
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(ValueError, match=f"^{weights}: not the weights of"):
        predict(tiny_spec(), tiny_dataset, weights, tmp_path / "predictions.npz", "cpu")


def test_missing_weights_are_named(tiny_spec, tiny_dataset, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.safetensors"):
        predict(
            tiny_spec(), tiny_dataset, tmp_path / "nowhere.safetensors", tmp_path / "p.npz", "cpu"
        )


def test_a_full_disk_keeps_the_file_before(tiny_spec, tiny_dataset, tmp_path, weights, monkeypatch):
    out = tmp_path / "predictions.npz"
    out.write_bytes(b"before")

    def full(path, **_):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez_compressed", full)
    with pytest.raises(OSError, match="No space left"):
        predict(tiny_spec(), tiny_dataset, weights, out, "cpu")
    assert out.read_bytes() == b"before"
    assert len(list(tmp_path.iterdir())) == 2


def test_a_missing_gpu_is_said_at_once(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == CPU
    with pytest.raises(ValueError, match="torch finds no GPU; use auto or cpu"):
        choose_device("cuda")


def test_the_seed_fixes_the_initial_weights(tiny_spec):
    states = [build_method(tiny_spec(seed=seed), CPU).state_dict() for seed in (0, 0, 1)]
    for name, value in states[0].items():
        assert states[1][name].equal(value)
    assert not states[2]["detector.network.head.weight"].equal(
        states[0]["detector.network.head.weight"]
    )


def test_scores_that_are_not_numbers_are_refused(tiny_spec, tiny_dataset, monkeypatch):
    method = build_method(tiny_spec(), CPU)
    for weight in method.detector.parameters():
        weight.data.fill_(torch.nan)
    images = load_split(tiny_dataset, "test")["images"]
    with pytest.raises(ValueError, match="heatmap holds values that are not numbers: training has"):
        predict_split(method, images, 2, CPU)
    # what a GPU would not refuse itself
    bad = Prediction(torch.ones(1, 4), torch.tensor([torch.nan]), torch.zeros(1, dtype=torch.int64))
    monkeypatch.setattr(method, "predict", lambda batch: [bad] * len(batch))
    with pytest.raises(ValueError, match="scores are not numbers: training has diverged"):
        predict_split(method, images, 2, CPU)

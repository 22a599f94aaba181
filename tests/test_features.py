"""Frozen features: geometry, augmentation, size limit, and what training reads of them."""

import json
import sys
from types import ModuleType

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch import nn

from mist_bench.config.schema import Backbone, FeatureSpec
from mist_bench.datasets.files import Split, load_manifest, load_split, save_manifest, save_split
from mist_bench.evaluation.metrics import evaluate
from mist_bench.run.features import augmented, build_features, check_size, masked, state_digest

SIZE, STRIDE = 8, 4


class Pooled(nn.Module):
    """Means of 4x4 px: features whose values can be computed by hand."""

    def forward(self, images):
        return nn.functional.avg_pool2d(images, STRIDE)


@pytest.fixture
def spec(monkeypatch):
    module = ModuleType("pooled")
    module.build = lambda: Pooled()
    monkeypatch.setitem(sys.modules, "pooled", module)
    network = Backbone(module="pooled", channels=3, stride=STRIDE, origin=1.5)
    return FeatureSpec(
        dataset="toy",
        preset="smoke",
        seed=0,
        backbone="pooled",
        network=network,
        draws=2,
        flip=0.5,
        mask=None,
        limit_gib=0.001,
    )


@pytest.fixture
def data(tmp_path):
    """Images of random pixels; the first has two objects, the others one."""
    folder = tmp_path / "toy"
    folder.mkdir()
    entries = {}
    for number, (split, size) in enumerate({"train": 5, "val": 2, "test": 2}.items()):
        rng = np.random.default_rng(number)
        counts = np.array([2] + [1] * (size - 1))
        valid = np.arange(2) < counts[:, None]
        boxes = np.where(valid[..., None], rng.uniform(1, 6, (size, 2, 4)), 0).astype(np.float32)
        arrays = {
            "images": rng.integers(0, 256, (size, 3, SIZE, SIZE), dtype=np.uint8),
            "counts": counts,
            "labels": np.where(valid, rng.integers(1, 3, (size, 2)), -1),
            "boxes": boxes,
        }
        entries[split] = save_split(folder, split, Split(arrays, "random pixels"))
    save_manifest(folder, {"source": "random pixels", "splits": entries})
    return folder


@pytest.fixture
def out(spec, data, tmp_path):
    build_features(spec, data, tmp_path / "features", "cpu")
    return tmp_path / "features"


def pool(images):
    """Return means of 4x4 px of (N, 3, 8, 8) in [0, 1], (N, 3, 2, 2), in plain numpy."""
    return (images / 255).reshape(-1, 3, 2, STRIDE, 2, STRIDE).mean((3, 5))


def test_val_and_test_are_the_images_features_once(out, data):
    for split in ("val", "test"):
        images = load_split(data, split)["images"]
        assert_allclose(load_split(out, split)["images"], pool(images), atol=1e-3)


def test_training_images_appear_once_per_draw_as_they_are_or_flipped(out, data):
    images, found = load_split(data, "train"), load_split(out, "train")
    assert found["images"].shape == (10, 3, 2, 2)
    flips = 0
    for k, (features, boxes) in enumerate(zip(found["images"], found["boxes"], strict=True)):
        image, n = images["images"][k // 2], images["counts"][k // 2]
        assert found["counts"][k] == n
        assert found["labels"][k].tolist() == images["labels"][k // 2].tolist()
        x, y, w, h = images["boxes"][k // 2, :n].T
        flipped = not np.allclose(features, pool(image)[0], atol=1e-3)
        if flipped:
            flips += 1
            image, x = image[..., ::-1], SIZE - 1 - x
        assert_allclose(features, pool(image)[0], atol=1e-3)
        cells = np.stack([(x - 1.5) / 4, (y - 1.5) / 4, w / 4, h / 4], -1)
        assert_allclose(boxes[:n], cells, rtol=1e-5)
        assert not boxes[n:].any()
    assert 0 < flips < 10


def test_training_reads_a_memory_map_and_no_image(out):
    images = load_split(out, "train")["images"]
    assert isinstance(images, np.memmap)
    assert not images.flags.writeable


def test_the_manifest_says_what_the_features_depend_on(out, data, spec):
    manifest = load_manifest(out)
    assert manifest["cells"] == {"stride": 4, "origin": 1.5}
    assert manifest["source"] == "random pixels"
    assert manifest["spec"] == spec.model_dump(mode="json", exclude={"limit_gib"})
    changed = json.loads((data / "manifest.json").read_text()) | {"source": "other pixels"}
    save_manifest(data, changed)
    build_features(spec, data, out, "cpu")
    assert load_manifest(out)["dataset"] != manifest["dataset"]


def test_equal_specifications_give_equal_files(out, spec, data, tmp_path):
    build_features(spec, data, tmp_path / "again", "cpu")
    for name in ("train.npy", "train.npz", "test.npy", "manifest.json"):
        assert (out / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_damaged_features_are_noticed(out):
    path = out / "val.npy"
    path.write_bytes(path.read_bytes()[:-1] + b"\x07")
    with pytest.raises(ValueError, match=r"val.npy: array 'images' is not the one"):
        load_split(out, "val")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"val\.npy: damaged"):
        load_split(out, "val")


def test_the_images_folder_and_foreign_files_are_never_replaced(spec, data, out):
    with pytest.raises(ValueError, match="the images are here"):
        build_features(spec, data, data, "cpu")
    (out / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"not replaced, because it holds 'notes.txt'"):
        build_features(spec, data, out, "cpu")
    assert (out / "notes.txt").read_text() == "mine"
    assert load_split(data, "val")["images"].dtype == np.uint8


def test_a_disk_that_is_too_small_is_named(spec, data):
    with pytest.raises(ValueError, match=r"the disk has 0.0 left"):
        check_size(spec, load_manifest(data), free=10)


def test_the_weights_are_part_of_the_manifest_and_the_limit_is_not(out, spec, data, tmp_path):
    assert "limit_gib" not in load_manifest(out)["spec"]
    one, other = nn.Linear(2, 2), nn.Linear(2, 2)
    assert state_digest(one) != state_digest(other)
    other.load_state_dict(one.state_dict())
    assert state_digest(one) == state_digest(other)
    build_features(spec.model_copy(update={"limit_gib": 1.0}), data, tmp_path / "more", "cpu")
    assert (tmp_path / "more/manifest.json").read_bytes() == (out / "manifest.json").read_bytes()


def test_too_many_draws_are_refused_before_anything_is_computed(spec, data, tmp_path):
    many = spec.model_copy(update={"draws": 100_000})
    with pytest.raises(ValueError, match=r"toy.features: .* GiB are needed.*lower draws"):
        build_features(many, data, tmp_path / "features", "cpu")
    assert not (tmp_path / "features").exists()


def test_a_backbone_of_another_shape_is_refused_and_leaves_nothing(spec, data, tmp_path):
    wrong = spec.network.model_copy(update={"channels": 5})
    with pytest.raises(ValueError, match="backbone pooled: features of an image are"):
        build_features(
            spec.model_copy(update={"network": wrong}), data, tmp_path / "features", "cpu"
        )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["toy"]


def test_a_mask_is_a_square_of_its_pixels_mean():
    image = np.random.default_rng(0).integers(0, 256, (3, 40, 60), dtype=np.uint8)
    sides = set()
    for seed in range(40):
        result = masked(image, (0.15, 0.6), np.random.default_rng(seed))
        changed = (result != image).any(0)
        rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
        top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
        assert bottom - top == right - left
        sides.add(bottom - top)
        inside = image[:, top:bottom, left:right].mean((1, 2))
        assert_allclose(result[:, top:bottom, left:right].mean((1, 2)), inside, atol=0.5)
        assert np.ptp(result[:, top:bottom, left:right], axis=(1, 2)).tolist() == [0, 0, 0]
    assert min(sides) >= 6
    assert max(sides) <= 24
    assert len(sides) > 8


def test_a_mask_of_the_official_code_is_a_rectangle():
    """Height and width are drawn independently; a square is what it was without the choice."""
    image = np.random.default_rng(0).integers(0, 256, (3, 100, 140), dtype=np.uint8)
    sizes = []
    for seed in range(60):
        result = masked(image, (0.15, 0.6), np.random.default_rng(seed), square=False)
        changed = (result != image).any(0)
        rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
        sizes.append((rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1))
        inside = result[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        assert np.ptp(inside, axis=(1, 2)).max() == 0
    heights, widths = np.array(sizes).T
    assert 15 <= min(heights.min(), widths.min()) < 20
    assert 55 < max(heights.max(), widths.max()) <= 60  # of the shorter side
    assert abs(np.corrcoef(heights, widths)[0, 1]) < 0.3


def test_the_shape_of_masks_is_the_specifications(spec, data):
    square = spec.model_copy(update={"mask": (0.2, 0.6), "flip": 0.0})
    image, shapes = load_split(data, "train")["images"][0], {}
    for shape in ("square", "rectangle"):
        of_shape = square.model_copy(update={"mask_shape": shape})
        shapes[shape] = [augmented(of_shape, image, 0, draw)[0] for draw in range(8)]
    assert any((a != b).any() for a, b in zip(*shapes.values(), strict=True))
    rng = np.random.default_rng([spec.seed, 0, 0, 3])
    rng.random()
    assert (shapes["rectangle"][3] == masked(image, (0.2, 0.6), rng, square=False)).all()


def test_every_draw_has_its_own_randomness(spec, data):
    masks = spec.model_copy(update={"mask": (0.2, 0.6)})
    images = load_split(data, "train")["images"]

    def version(i, draw):
        return augmented(masks, images[i], i, draw)[0].tobytes()

    assert len({version(i, draw) for i in range(5) for draw in range(3)}) == 15
    assert version(2, 1) == version(2, 1)


def test_predictions_come_back_in_pixels(out, tiny_spec, tmp_path, monkeypatch):
    from safetensors.torch import save_file

    from mist_bench.run.prediction import predict
    from mist_bench.types import Prediction

    class Corner(nn.Module):
        """One box at the second cell of both axes, as large as a cell."""

        supervision, optimizers, train_step = "none", {}, None

        def __init__(self):
            super().__init__()
            self.bias = nn.Parameter(torch.zeros(1))

        def predict(self, images):
            box, label = torch.tensor([[1.0, 1.0, 1.0, 1.0]]), torch.ones(1, dtype=torch.long)
            return [Prediction(box, torch.ones(1), label) for _ in images]

    module = ModuleType("corner")
    module.build = lambda task: Corner()
    monkeypatch.setitem(sys.modules, "corner", module)
    save_file({"bias": torch.zeros(1)}, tmp_path / "w.safetensors")
    run = tiny_spec().model_copy(update={"module": "corner", "params": {}})
    predict(run, out, tmp_path / "w.safetensors", tmp_path / "p.npz", "cpu", "val")
    with np.load(tmp_path / "p.npz") as stored:
        assert stored["boxes"].tolist() == [[[5.5, 5.5, 4, 4]]] * 2


def test_boxes_in_pixels_are_not_judged_in_cells(out, tiny_spec, tmp_path):
    with pytest.raises(ValueError, match="features: features, in whose cells no box is judged"):
        evaluate(tiny_spec(), out, tmp_path / "p.npz", tmp_path / "metrics.json", "val")

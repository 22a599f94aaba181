import errno
import hashlib
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from mist_bench.config import resolve as settings
from mist_bench.config import targets
from mist_bench.config.schema import DatasetSpec
from mist_bench.datasets import build, sources
from mist_bench.datasets.build import build_dataset
from mist_bench.datasets.files import Split, check_arrays, load_manifest, load_split, save_split

PARAMS = {"counts": [3, 9], "radius": 16}
SIZES = {"train": 6, "val": 3, "test": 2}


def spec(**changes):
    fields = {
        "name": "tiny",
        "preset": "smoke",
        "module": "mist_bench.datasets.multi_mnist",
        "image_size": (1, 80, 80),
        "num_classes": 10,
        "box_size": 20,
        "sizes": SIZES,
        "seed": 0,
        "params": PARAMS,
    }
    return DatasetSpec(**{**fields, **changes})


def digests(folder):
    return {
        split: {name: array["sha256"][:16] for name, array in entry["arrays"].items()}
        for split, entry in load_manifest(folder)["splits"].items()
    }


def pin(folder):
    """Return one short digest of all arrays."""
    text = json.dumps(load_manifest(folder)["splits"], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@pytest.fixture
def tiny(tmp_path, digit_folder) -> Path:
    build_dataset(spec(), tmp_path / "tiny")
    return tmp_path / "tiny"


def test_files_and_manifest(tiny):
    assert {path.name for path in tiny.iterdir()} == {
        "train.npz",
        "val.npz",
        "test.npz",
        "manifest.json",
    }
    manifest = json.loads((tiny / "manifest.json").read_text())
    assert manifest["spec"] == spec().model_dump(mode="json")
    assert manifest["source"] == "digits from a local folder, unverified"
    assert {name: entry["size"] for name, entry in manifest["splits"].items()} == SIZES
    assert manifest["splits"]["train"]["arrays"]["boxes"]["shape"] == [6, 9, 4]
    arrays = load_split(tiny, "train")
    assert {name: (array.shape, array.dtype.name) for name, array in arrays.items()} == {
        "images": ((6, 1, 80, 80), "uint8"),
        "counts": ((6,), "int64"),
        "labels": ((6, 9), "int64"),
        "boxes": ((6, 9, 4), "float32"),
    }


def test_same_seed_same_bytes(tiny, tmp_path):
    build_dataset(spec(), tmp_path / "other")
    for path in tiny.iterdir():
        assert path.read_bytes() == (tmp_path / "other" / path.name).read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"digits", "tiny", "other"}


def test_pinned_digests_of_synthetic_digits(tiny):
    assert pin(tiny) == "9453fd1622cadaeb"


@pytest.mark.parametrize(
    ("changes", "pinned"),
    [
        ({"placement": "uneven"}, "b81c02f5b53a0b30"),
        ({"placement": "grid", "jitter": 10 / 3, "counts": [9]}, "8998126d741f19c1"),
    ],
)
@pytest.mark.usefixtures("digit_folder")
def test_pinned_digests_of_other_placements(tmp_path, changes, pinned):
    build_dataset(spec(params={**PARAMS, **changes}), tmp_path / "out")
    assert pin(tmp_path / "out") == pinned


def test_pinned_digests_of_mnist(tmp_path, monkeypatch):
    """Fetches MNIST as the pipeline does where the cache has none, seconds once per machine."""
    monkeypatch.delenv("MIST_BENCH_ALLOW_UNVERIFIED", raising=False)
    if not sources.mnist("train")[2].startswith("MNIST from"):
        pytest.skip("MNIST is neither in the cache nor in MIST_BENCH_DATA nor can it be fetched")
    build_dataset(spec(), tmp_path / "real")
    assert pin(tmp_path / "real") == "6b1a07e2b95124e6"


def test_splits_and_seeds_are_independent(tiny, tmp_path):
    build_dataset(spec(sizes={**SIZES, "train": 5}), tmp_path / "fewer")
    build_dataset(spec(seed=1), tmp_path / "seed1")
    fewer, seed1, first = digests(tmp_path / "fewer"), digests(tmp_path / "seed1"), digests(tiny)
    assert fewer["val"] == first["val"]
    assert fewer["test"] == first["test"]
    for split in SIZES:
        assert seed1[split]["images"] != first[split]["images"]
    assert first["train"]["boxes"] != first["val"]["boxes"]


def test_an_older_dataset_is_replaced(tiny):
    (tiny / "val.npz").unlink()
    build_dataset(spec(sizes={"train": 2}), tiny)
    assert {path.name for path in tiny.iterdir()} == {"train.npz", "manifest.json"}


def test_a_folder_with_other_files_is_refused(tiny):
    (tiny / "thesis.tex").touch()
    with pytest.raises(ValueError, match=r"not replaced, because it holds 'thesis.tex'"):
        build_dataset(spec(), tiny)
    assert (tiny / "train.npz").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_size": (3, 80, 80)}, r"6 images of image_size \[3, 80, 80\] .* are \(6, 1,"),
        ({"num_classes": 3}, "num_classes is 3, but a label 9"),
        ({"params": {"radius": "16"}}, "tiny.params.radius: Input should be a valid number"),
        ({"params": {**PARAMS, "radius": 60}}, "datasets.tiny: 9 points 60 px .* impossible"),
    ],
)
def test_a_failed_build_leaves_the_old_dataset(tiny, tmp_path, changes, message):
    before = digests(tiny)
    with pytest.raises(ValueError, match=message) as caught:
        build_dataset(spec(**changes), tiny)
    assert "\n" not in str(caught.value)
    assert digests(tiny) == before
    assert {path.name for path in tmp_path.iterdir()} == {"digits", "tiny"}


@pytest.mark.usefixtures("digit_folder")
def test_splits_of_two_sources_are_refused(tmp_path, monkeypatch):
    mnist = sources.mnist
    monkeypatch.setattr(sources, "mnist", lambda part: (*mnist(part)[:2], part))
    with pytest.raises(ValueError, match="source changed from 'train' to 'test': build again"):
        build_dataset(spec(), tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"digits"}


@pytest.mark.usefixtures("digit_folder")
def test_a_full_disk(tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match="out: cannot be written: No space left"):
        build_dataset(spec(), tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"digits"}


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="out: cannot be written"):
        build_dataset(spec(), tmp_path / "file" / "out")


def test_two_builds_at_once(tmp_path):
    with build.FileLock(tmp_path / ".out.lock"), pytest.raises(OSError, match="another process"):
        build_dataset(spec(), tmp_path / "out")


@pytest.mark.usefixtures("digit_folder")
def test_what_a_killed_build_left_goes_away(tmp_path):
    for end in ("partial", "old"):
        (tmp_path / f".out.{end}").mkdir()
        (tmp_path / f".out.{end}" / "train.npz").touch()
    build_dataset(spec(), tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"digits", "out"}


def corrupt(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 255
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: (d / "train.npz").unlink(), "train.npz: not found: build the dataset"),
        (lambda d: (d / "train.npz").write_bytes(b""), r"train.npz: damaged \(.*: build"),
        (lambda d: os.truncate(d / "train.npz", 9000), r"train.npz: damaged \(.*: build"),
        (lambda d: corrupt(d / "train.npz"), r"train.npz: damaged \(Bad CRC-32.*: build"),
        (lambda d: shutil.copy(d / "val.npz", d / "train.npz"), "array '[a-z]+' is not the one in"),
        (lambda d: (d / "manifest.json").unlink(), "manifest.json: not found: build the dataset"),
        (lambda d: (d / "manifest.json").write_text("{"), "manifest.json: not a dataset manifest"),
        (lambda d: (d / "manifest.json").write_text("{}"), "manifest.json: not a dataset manifest"),
        (lambda d: (d / "manifest.json").write_text("[]"), "manifest.json: not a dataset manifest"),
        (lambda d: np.savez(d / "train.npz", images=np.zeros(3)), "array 'counts' is missing"),
    ],
)
def test_load_names_the_file_in_one_line(tiny, damage, message):
    damage(tiny)
    with pytest.raises(ValueError, match=message) as caught:
        load_split(tiny, "train")
    assert "\n" not in str(caught.value)


def test_load_of_an_unknown_split(tiny):
    with pytest.raises(ValueError, match="there is no split 'dev' in this dataset"):
        load_split(tiny, "dev")


@pytest.mark.parametrize("preset", ["smoke", "cpu", "paper"])
def test_who_trains_on_other_images_is_tested_on_those_of_the_experiment(
    preset, tmp_path, digit_folder
):
    config = settings.load(targets.SETTINGS, {"preset": preset})
    pairs = {
        (override.dataset, config.experiments[name].dataset)
        for method in config.methods.values()
        for name, override in method.experiments.items()
        if override.dataset
    }
    assert ("mnist_hard_0_9", "mnist_hard") in pairs
    for pair in pairs:
        for name in pair:
            whole = settings.dataset_spec(config, name)
            assert whole.sizes["test"] == settings.dataset_spec(config, pair[1]).sizes["test"]
            build_dataset(whole.model_copy(update={"sizes": {"test": 4}}), tmp_path / name)
        assert digests(tmp_path / pair[0]) == digests(tmp_path / pair[1])
        shutil.rmtree(tmp_path / pair[0])


def arrays(**changes):
    content = {
        "images": np.zeros((2, 1, 4, 4), dtype=np.float32),
        "counts": np.array([1, 2]),
        "labels": np.array([[0, -1], [3, 0]]),
        "boxes": np.array([[[1, 1, 2, 2], [0, 0, 0, 0]], [[1, 1, 2, 2]] * 2], dtype=np.float32),
    }
    return {**content, **changes}


def test_float_images_and_no_images_are_valid(tmp_path):
    check_arrays(arrays(), "x")
    check_arrays({name: array[:0] for name, array in arrays().items()}, "x")
    entry = save_split(tmp_path, "val", Split(arrays(), "nowhere"))
    assert entry["size"] == 2
    assert entry["arrays"]["images"]["dtype"] == "<f4"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": np.zeros((2, 4, 4), np.uint8)}, r"images must be \(N, C, H, W\)"),
        ({"images": np.zeros((2, 1, 4, 4))}, "images must be .* got .* float64"),
        (
            {"images": np.zeros((3, 1, 4, 4), np.uint8)},
            r"counts must be \(3,\) int64, got \(2,\)",
        ),
        ({"counts": np.array([1, 3])}, "counts must be in 0..2, got 1..3"),
        ({"counts": np.array([1.0, 2.0])}, r"counts must be \(2,\) int64, got \(2,\) float64"),
        ({"labels": np.array([[0, -1], [3, -1]])}, "labels must be >= 0 up to the count"),
        ({"labels": np.array([[0, 0], [3, 0]])}, "labels must be >= 0 up to the count"),
        ({"boxes": np.zeros((2, 2, 4), np.float32)}, "boxes must have a size"),
        ({"boxes": np.ones((2, 2, 4), np.float32)}, "boxes must have a size"),
        ({"boxes": arrays()["boxes"] * np.float32("nan")}, "boxes must have a size"),
    ],
)
def test_arrays_that_are_no_split(changes, message):
    with pytest.raises(ValueError, match=f"^x: {message}"):
        check_arrays(arrays(**changes), "x")

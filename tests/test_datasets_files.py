"""Files of a split beside its arrays, and splits with fewer images than asked for."""

import hashlib
import json
import sys
from types import ModuleType

import numpy as np
import pytest

from mist_bench.config.schema import DatasetSpec
from mist_bench.datasets.build import build_dataset
from mist_bench.datasets.files import Split, load_manifest, load_split, read_npz, save_split

SIZES = {"train": 4, "val": 2}


def arrays(size):
    return {
        "images": np.zeros((size, 3, 8, 8), dtype=np.uint8),
        "counts": np.ones(size, dtype=np.int64),
        "labels": np.ones((size, 1), dtype=np.int64),
        "boxes": np.ones((size, 1, 4), dtype=np.float32),
    }


@pytest.fixture
def spec(monkeypatch):
    """A dataset whose module has at most ``available`` images, and whose files are ``files``."""

    def make_split(split, size, rng, *, available: int, files: dict[str, str]):
        named = {f"{split}_{name}": text for name, text in files.items()}
        return Split(arrays(min(size, available)), "nowhere", named)

    module = ModuleType("photo_album")
    module.make_split = make_split
    monkeypatch.setitem(sys.modules, "photo_album", module)

    def spec(available=9, **files):
        return DatasetSpec(
            name="album",
            preset="smoke",
            module="photo_album",
            image_size=(3, 8, 8),
            num_classes=21,
            box_size=4,
            sizes=SIZES,
            seed=0,
            params={"available": available, "files": files},
        )

    return spec


def names(folder):
    return {path.name for path in folder.iterdir()}


def test_files_of_a_split_are_written_and_in_the_manifest(spec, tmp_path):
    build_dataset(spec(index="[1]\n", problems="Käse,\r\n"), tmp_path / "out")
    folder = tmp_path / "out"
    assert names(folder) == {
        *("manifest.json", "train.npz", "val.npz", "train_index", "train_problems"),
        *("val_index", "val_problems"),
    }
    assert (folder / "val_problems").read_bytes() == b"K\xc3\xa4se,\r\n"
    entry = load_manifest(folder)["splits"]["train"]
    assert entry["files"] == {
        "train_index": hashlib.sha256(b"[1]\n").hexdigest(),
        "train_problems": hashlib.sha256(b"K\xc3\xa4se,\r\n").hexdigest(),
    }
    assert set(load_split(folder, "val")) == {"images", "counts", "labels", "boxes"}


def test_without_files_a_manifest_does_not_speak_of_them(spec, tmp_path):
    build_dataset(spec(), tmp_path / "out")
    assert set(load_manifest(tmp_path / "out")["splits"]["train"]) == {"size", "arrays"}


def test_a_dataset_with_files_is_replaced(spec, tmp_path):
    build_dataset(spec(index="1", problems="2"), tmp_path / "out")
    build_dataset(spec(index="3"), tmp_path / "out")
    assert "train_problems" not in names(tmp_path / "out")
    assert (tmp_path / "out" / "train_index").read_text() == "3"


@pytest.mark.parametrize("manifest", ["{", None])
def test_files_named_after_a_split_are_known_without_a_manifest(spec, tmp_path, manifest):
    """Snakemake deletes declared outputs before a job, the manifest among them, and no index."""
    folder = tmp_path / "out"
    build_dataset(spec(index="1"), folder)
    (folder / "notes").touch()
    with pytest.raises(ValueError, match="not replaced, because it holds 'notes'"):
        build_dataset(spec(index="2"), folder)
    assert (folder / "train_index").read_text() == "1"
    (folder / "notes").unlink()
    (folder / "manifest.json").unlink()
    if manifest:
        (folder / "manifest.json").write_text(manifest)
    build_dataset(spec(index="2"), folder)
    assert (folder / "train_index").read_text() == "2"


@pytest.mark.parametrize("name", ["index", "val_index", "train_/../../x", "train_a/b", "train.npz"])
def test_a_file_of_a_split_has_its_name(tmp_path, name):
    with pytest.raises(ValueError, match=r"a file of split train must be train_\.\.\., got"):
        save_split(tmp_path, "train", Split(arrays(1), "nowhere", {name: "x"}))


def test_a_module_may_have_fewer_images(spec, tmp_path):
    build_dataset(spec(available=3), tmp_path / "out")
    sizes = {
        name: entry["size"] for name, entry in load_manifest(tmp_path / "out")["splits"].items()
    }
    assert sizes == {"train": 3, "val": 2}
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["spec"]["sizes"] == SIZES
    assert len(load_split(tmp_path / "out", "train")["images"]) == 3


@pytest.mark.parametrize("size", [0, 5])
def test_but_not_none_and_not_more(spec, tmp_path, monkeypatch, size):
    def make_split(*args, available: int, files: dict[str, str]):
        return Split(arrays(size), "x")

    monkeypatch.setattr(sys.modules["photo_album"], "make_split", make_split)
    message = (
        rf"datasets.album: 4 images of image_size \[3, 8, 8\] .* images are \({size}, 3, 8, 8\)"
    )
    with pytest.raises(ValueError, match=message):
        build_dataset(spec(), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_turned_bit_of_an_archive_is_said_or_harms_nothing(tmp_path, save):
    path = tmp_path / "one.npz"
    save(path, a=np.arange(2))
    whole = path.read_bytes()
    said = set()
    for place in range(len(whole)):
        for bit in (0, 3):  # bit 0 of the flags: encrypted
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << bit]) + whole[place + 1 :])
            try:
                arrays = read_npz(path)
            except ValueError as error:
                said.add(str(error).split(":")[0].split("'")[0])
            else:
                assert all(np.array_equal(array, [0, 1]) for array in arrays.values())
    assert len(said) > 3


def test_a_single_array_is_no_archive(tmp_path):
    np.save(tmp_path / "one.npy", np.arange(2))
    with pytest.raises(ValueError, match="ndarray"):
        read_npz(tmp_path / "one.npy")


def test_a_file_that_is_not_there_is_not_damaged(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_npz(tmp_path / "none.npz")

"""Files: a dataset is an uncompressed npz per split and a manifest; MNIST comes as IDX.

The manifest holds the digest of every array and of every other file. Equal content gives equal
bytes: no time stamp, no path. Shapes: N images, L the most instances in an image, C channels, H and
W image size.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

MANIFEST = "manifest.json"
ARRAYS = ("images", "counts", "labels", "boxes")


@dataclass(frozen=True)
class Split:
    """One split of a dataset in memory.

    Attributes:
        arrays: ``images`` (N, C, H, W) uint8, of which value / 255 is the image, or floats;
            ``counts`` (N,) int64, the instances of each image; ``labels`` (N, L) int64, -1 beyond
            the count; ``boxes`` (N, L, 4) float32 cxcywh in pixels, 0 beyond the count.
        source: where the pictures come from, in words for a table's caption.
        files: other files of the split by name, as text: an index, a report of problems.
    """

    arrays: Mapping[str, NDArray]
    source: str
    files: Mapping[str, str] = field(default_factory=dict)


def check_arrays(arrays: Mapping[str, NDArray], where: str) -> None:
    """Raise a ``ValueError`` that begins with ``where`` unless ``arrays`` are a valid split."""
    if missing := [name for name in ARRAYS if name not in arrays]:
        raise ValueError(f"{where}: array {missing[0]!r} is missing")
    images, counts, labels, boxes = (arrays[name] for name in ARRAYS)
    N, L = len(images), labels.shape[-1] if labels.ndim else 0
    if images.ndim != 4 or images.dtype not in (np.uint8, np.float16, np.float32):
        raise ValueError(
            f"{where}: images must be (N, C, H, W) uint8 or floats, "
            f"got {images.shape} {images.dtype}"
        )
    expected = (counts, (N,), "int64"), (labels, (N, L), "int64"), (boxes, (N, L, 4), "float32")
    for name, (found, shape, dtype) in zip(ARRAYS[1:], expected, strict=True):
        if found.shape != shape or found.dtype != dtype:
            got = f"{found.shape} {found.dtype}"
            raise ValueError(f"{where}: {name} must be {shape} {dtype}, got {got}")
    if N and not (counts.min() >= 0 and counts.max() <= L):
        raise ValueError(f"{where}: counts must be in 0..{L}, got {counts.min()}..{counts.max()}")
    valid = np.arange(L) < counts[:, None]  # (N, L)
    if (labels[valid] < 0).any() or (labels[~valid] != -1).any():
        raise ValueError(f"{where}: labels must be >= 0 up to the count and -1 beyond it")
    if not np.isfinite(boxes).all() or (boxes[valid][:, 2:] <= 0).any() or boxes[~valid].any():
        raise ValueError(f"{where}: boxes must have a size up to the count and be 0 beyond it")


def padded(
    labels: Sequence[ArrayLike], boxes: Sequence[ArrayLike], most: int
) -> dict[str, NDArray]:
    """Return ``counts``, ``labels`` and ``boxes`` of a split.

    Args:
        labels: of each of N images, those of its n instances.
        boxes: likewise their (n, 4) cxcywh boxes, px.
        most: L, at least every n.
    """
    N = len(labels)
    arrays = {
        "counts": np.array([len(each) for each in labels], dtype=np.int64),
        "labels": np.full((N, most), -1, dtype=np.int64),
        "boxes": np.zeros((N, most, 4), dtype=np.float32),
    }
    for i, (names, found) in enumerate(zip(labels, boxes, strict=True)):
        arrays["labels"][i, : len(names)], arrays["boxes"][i, : len(names)] = names, found
    return arrays


def describe(array: NDArray) -> dict[str, Any]:
    """Return the manifest's entry of ``array``: sha256 of its bytes in C order, dtype, shape."""
    data = np.ascontiguousarray(array)
    digest = hashlib.sha256(data.reshape(-1).view(np.uint8)).hexdigest()
    return {"sha256": digest, "dtype": data.dtype.str, "shape": list(data.shape)}


def save_split(folder: Path, split: str, content: Split) -> dict[str, Any]:
    """Write ``content`` to ``folder``/``split``.npz and its other files beside it.

    Returns:
        The manifest's entry of the split: its size, its arrays and, if it has any, its files.

    Raises:
        ValueError: if the arrays are not a valid split, or a file's name is not the split's.
        OSError: if a file cannot be written.
    """
    path = folder / f"{split}.npz"
    arrays = {name: np.ascontiguousarray(array) for name, array in content.arrays.items()}
    check_arrays(arrays, str(path))
    np.savez(path, allow_pickle=False, **arrays)
    entry = {
        "size": len(arrays["images"]),
        "arrays": {name: describe(array) for name, array in arrays.items()},
    }
    files = {name: text.encode() for name, text in content.files.items()}
    for name, data in files.items():
        if not name.startswith(f"{split}_") or Path(name).name != name:
            raise ValueError(f"{folder}: a file of split {split} must be {split}_..., got {name!r}")
        (folder / name).write_bytes(data)
    if files:
        entry["files"] = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    return entry


def save_mapped_split(
    folder: Path, split: str, images: NDArray, instances: Mapping[str, NDArray]
) -> dict[str, Any]:
    """Write ``instances``, all arrays but the images, to ``folder``/``split``.npz.

    ``images`` are too large to be held in memory: they are mapped from ``folder``/``split``.npy.
    Otherwise as ``save_split``.
    """
    arrays = {"images": images, **instances}
    check_arrays(arrays, str(folder / f"{split}.npy"))
    np.savez(folder / f"{split}.npz", allow_pickle=False, **instances)
    entries = {name: describe(array) for name, array in arrays.items()}
    return {"size": len(images), "arrays": entries, "mapped": "images"}


def save_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Write ``manifest`` to ``folder``/manifest.json with sorted keys."""
    text = json.dumps(manifest, indent=2, sort_keys=True)
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")


def load_manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest of the dataset in ``folder``.

    Raises:
        ValueError: if there is none or it is not one; the message names the file.
    """
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        for split in manifest["splits"].values():
            dict(split["arrays"]), dict(split.get("files", {}))  # what is relied on elsewhere
    except FileNotFoundError:
        raise ValueError(f"{path}: not found: build the dataset first") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path}: not a dataset manifest ({type(error).__name__}): build the dataset again"
        ) from None
    return manifest


def load_split(folder: Path, split: str) -> dict[str, NDArray]:
    """Return the arrays of one split, checked against the manifest.

    Args:
        folder: a dataset's folder, as ``build_dataset`` writes it.
        split: ``train``, ``val`` or ``test``.

    Returns:
        The arrays of ``Split``, by name.

    Raises:
        ValueError: in one line that names the file, if it is missing, damaged, of a wrong shape,
            or not the one the manifest speaks of.
    """
    folder = Path(folder)
    path = folder / f"{split}.npz"
    entry = load_manifest(folder)["splits"].get(split)
    if entry is None:
        raise ValueError(f"{folder / MANIFEST}: there is no split {split!r} in this dataset")
    try:
        arrays = read_npz(path)
        if mapped := entry.get("mapped"):
            path = path.with_suffix(".npy")  # for errors, too
            arrays[mapped] = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise ValueError(f"{path}: not found: build the dataset first") from None
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"{path}: damaged ({error}): build the dataset again") from None
    check_arrays(arrays, str(path))
    for name, expected in entry["arrays"].items():
        if name not in arrays or describe(arrays[name]) != expected:
            raise ValueError(
                f"{path}: array {name!r} is not the one in {MANIFEST}: build the dataset again"
            )
    return arrays


def read_npz(path: Path) -> dict[str, NDArray]:
    """Return the arrays of an npz file.

    Raises:
        FileNotFoundError, PermissionError: if it cannot be opened.
        ValueError: with what numpy or zipfile say of it, if it is damaged at whatever place.
    """
    try:
        # np.load itself would leave a damaged file open
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (FileNotFoundError, PermissionError):
        raise
    except Exception as error:  # a turned bit makes numpy, zipfile and zlib fail in many ways
        raise ValueError(" ".join(str(error).split())) from None


def parse_idx(data: bytes, where: str, ndim: int) -> NDArray[np.uint8]:
    """Return the array in an IDX file of bytes.

    Args:
        data: the unpacked file: two zero bytes, type 8 (uint8), axes, sizes, values.
        where: the file's name, for errors.
        ndim: the number of axes it must have.

    Raises:
        ValueError: if it is not such a file, or too short or too long.
    """
    magic = bytes([0, 0, 8, ndim])
    if data[:4] != magic:
        raise ValueError(f"{where}: not an IDX file of {ndim} axes: it begins {data[:4].hex()!r}")
    header = 4 + 4 * ndim
    if len(data) < header:
        raise ValueError(f"{where}: cut off after {len(data)} bytes: get it again")
    shape = struct.unpack(f">{ndim}I", data[4:header])
    if len(data) != (expected := header + int(np.prod(shape, dtype=object))):
        raise ValueError(f"{where}: {len(data)} bytes, expected {expected}: get it again")
    return np.frombuffer(data, dtype=np.uint8, offset=header).reshape(shape)

"""The authors' published MNIST-hard: images in files, labels as text, keypoints as an array.

The layout is that of ubc-vision/mist, datasets/mnist.py. N images, L digits in each, H and W image
size.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from mist_bench.datasets.files import Split
from mist_bench.datasets.photographs.annotations import UnusableError, inside
from mist_bench.datasets.photographs.crops import open_image
from mist_bench.spec import Folder

SOURCE = "the authors' MNIST-hard"
LISTS = {"train": "train", "val": "valid", "test": "test"}  # what the files of a split begin with


def sizes(root: Path) -> dict[str, int]:
    """Return how many images each split has, of those that are in ``root``.

    Raises:
        ValueError: if none is.
    """
    there = {s: list_images(root, s) for s in LISTS if (root / f"{LISTS[s]}.txt").is_file()}
    if not there:
        raise ValueError(f"{root}: train.txt, valid.txt and test.txt, lists of images, are missing")
    return {split: len(names) for split, names in there.items()}


def make_split(split: str, size: int, rng: Generator, *, root: Folder) -> Split:
    """Return the first ``size`` images of a split as they were published.

    Args:
        split: ``train``, ``val`` or ``test``.
        size: the most images.
        rng: not used: nothing is random.
        root: folder with train.txt, train_labels.txt, train_keypoints.npy and the images; valid and
            test likewise.

    Returns:
        The split: ``images`` (N, 1, H, W) uint8, one for three equal channels; ``counts`` (N,), all
        L; ``labels`` (N, L); ``boxes`` (N, L, 4) cxcywh px, twice the half sides of the file.

    Raises:
        ValueError: in one line, if a file is missing, damaged, or does not fit the others.
    """
    folder, name = Path(root), LISTS[split]
    images, labels = list_images(folder, split), read_labels(folder / f"{name}_labels.txt")
    path = folder / f"{name}_keypoints.npy"
    keypoints = read_keypoints(path)
    if labels.shape != keypoints.shape[:2] or len(labels) != len(images):
        found = f"{len(images)} images, {labels.shape} labels and {keypoints.shape[:2]} keypoints"
        raise ValueError(f"{folder}: split {name} has {found}")
    images, labels, keypoints = images[:size], labels[:size], keypoints[:size]
    N, L = labels.shape
    arrays = {
        "images": read_images(images),
        "counts": np.full(N, L, dtype=np.int64),
        "labels": labels,
        "boxes": np.concatenate([keypoints[..., :2], 2 * keypoints[..., [2, 2]]], axis=-1),
    }
    return Split(arrays, SOURCE)


def list_images(root: Path, split: str) -> list[Path]:
    """Return the files that the list of a split names, which are below ``root``."""
    path = root / f"{LISTS[split]}.txt"
    try:
        return [root / inside(line) for line in read_lines(path)]
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def read_labels(path: Path) -> NDArray[np.int64]:
    """Return the (N, L) labels in a file with an image a line, separated by commas."""
    lines = read_lines(path)
    try:
        return np.array([[int(word) for word in line.split(",")] for line in lines], dtype=np.int64)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{path}: equally many whole numbers a line, {error}") from None


def read_lines(path: Path) -> list[str]:
    """Return the lines of a text file that are not blank.

    Raises:
        ValueError: if there are none, or the file cannot be read.
    """
    try:
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not a text file"
        raise ValueError(f"{path}: cannot be read: {reason}") from None
    if not lines:
        raise ValueError(f"{path}: empty")
    return lines


def read_keypoints(path: Path) -> NDArray[np.float32]:
    """Return the (N, L, 3) rows of x, y and half side, px, in an npy file."""
    try:
        with path.open("rb") as file:
            found = np.lib.format.read_array(file, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{path}: not an array of keypoints ({reason})") from None
    if found.ndim != 3 or found.shape[-1] != 3 or found.dtype.kind not in "fiu":
        raise ValueError(
            f"{path}: keypoints must be (N, L, 3) numbers x, y and half side, got {found.shape} "
            f"{found.dtype}"
        )
    return found.astype(np.float32)


def read_images(paths: list[Path]) -> NDArray[np.uint8]:
    """Return (N, 1, H, W) images whose channels are equal.

    Raises:
        ValueError: if one cannot be read, has colors, or another size than the first.
    """
    images = []
    for path in paths:
        try:
            pixels = np.asarray(open_image(path))
        except UnusableError as error:
            raise ValueError(f"{path}: {error}") from None
        if (pixels != pixels[..., :1]).any():
            raise ValueError(f"{path}: its channels differ; the authors' MNIST-hard is gray")
        images.append(pixels[..., 0].copy())
        H, W = images[-1].shape
        if images[0].shape != (H, W):
            raise ValueError(f"{path}: {W} x {H} px, {paths[0].name} is not")
    return np.stack(images)[:, None]

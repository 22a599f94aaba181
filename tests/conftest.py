"""Fixtures that several test files share."""

import struct
from pathlib import Path

import numpy as np
import pytest


def synthetic_idx() -> dict[str, bytes]:
    """Return MNIST's four files with 120 train and 40 test digits, all different, as bytes.

    A digit is a 20 px square of ink in its 28 px frame, as in MNIST; its pixels tell its number.
    """
    files = {}
    y, x = np.mgrid[:20, :20]
    for name, first, amount in (("train", 0, 120), ("t10k", 120, 40)):
        number = np.arange(first, first + amount)
        images = np.zeros((amount, 28, 28), dtype=np.uint8)
        images[:, 4:24, 4:24] = 1 + (x * 7 + y * 11 + number[:, None, None] * 53) % 251
        images[:, 4, 4] = number + 1
        labels = (number * 3 % 10).astype(np.uint8)
        files[f"{name}-images-idx3-ubyte"] = (
            struct.pack(">IIII", 2051, *images.shape) + images.tobytes()
        )
        files[f"{name}-labels-idx1-ubyte"] = struct.pack(">II", 2049, amount) + labels.tobytes()
    return files


@pytest.fixture
def digit_files() -> dict[str, bytes]:
    return synthetic_idx()


@pytest.fixture
def digit_folder(tmp_path, monkeypatch, digit_files) -> Path:
    """A folder with the synthetic digits, which MIST_BENCH_DATA names."""
    folder = tmp_path / "digits"
    folder.mkdir()
    for name, data in digit_files.items():
        (folder / name).write_bytes(data)
    monkeypatch.setenv("MIST_BENCH_DATA", str(folder))
    monkeypatch.setenv("MIST_BENCH_ALLOW_UNVERIFIED", "1")
    return folder

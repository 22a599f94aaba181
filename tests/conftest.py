"""Fixtures that several test files share."""

import json
import struct
import sys
from functools import cache
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch

from mist_bench.bench import timing
from mist_bench.bench.timing import Case
from mist_bench.config import resolve as settings
from mist_bench.config import targets
from mist_bench.config.files import merge
from mist_bench.config.schema import Config, RunSpec
from mist_bench.datasets.files import Split, save_manifest, save_split
from mist_bench.types import TaskSpec

TINY = TaskSpec("classification", (1, 24, 24), num_instances=2, num_classes=3, box_size=8.0)


def configuration(preset: str = "smoke", **changes) -> Config:
    """Return the suite's configuration as a preset and a user say; to be read only."""
    return _configuration(json.dumps({"preset": preset, **changes}))


@cache
def _configuration(overrides: str) -> Config:
    return settings.load(targets.SETTINGS, json.loads(overrides))


def run_of(
    method: str = "mist",
    experiment: str = "mnist_hard_classification",
    seed: int = 0,
    preset: str = "smoke",
) -> RunSpec:
    """Return the specification of one of a preset's runs."""
    return settings.run_spec(configuration(preset), experiment, method, seed)


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Sums in another order end small trainings elsewhere; a run's threads are in its spec."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def subnormal_numbers():
    """Training flushes them; hypothesis, in the tests after it, needs them."""
    yield
    torch.set_flush_denormal(False)


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


def tiny_arrays(size: int, seed: int) -> dict[str, np.ndarray]:
    """Return a split of ``TINY``: two of three shapes, 8 px wide, in a row or on a diagonal."""
    rng = np.random.default_rng(seed)
    shapes = np.zeros((3, 8, 8), dtype=np.uint8)
    shapes[0, 3:5], shapes[1, :, 3:5], shapes[2, 2:6, 2:6] = 255, 255, 255
    images = np.zeros((size, 1, 24, 24), dtype=np.uint8)
    labels = rng.integers(3, size=(size, 2))
    boxes = np.zeros((size, 2, 4), dtype=np.float32)
    for image, label, box in zip(images, labels, boxes, strict=True):
        for k, (left, top) in enumerate(zip((2, 14), rng.integers(0, 17, 2), strict=True)):
            image[0, top : top + 8, left : left + 8] = shapes[label[k]]
            box[k] = left + 3.5, top + 3.5, 8, 8
    return {"images": images, "counts": np.full(size, 2), "labels": labels, "boxes": boxes}


def save_tiny(folder: Path, **sizes: int) -> Path:
    """Write a dataset of ``TINY`` with splits of these sizes into a folder and return that."""
    splits = {
        name: save_split(folder, name, Split(tiny_arrays(size, seed), "shapes"))
        for seed, (name, size) in enumerate(sizes.items())
    }
    save_manifest(folder, {"name": "tiny", "splits": splits})
    return folder


@pytest.fixture(scope="session")
def tiny_dataset(tmp_path_factory) -> Path:
    """A folder with a dataset of ``TINY``; to be read only."""
    return save_tiny(tmp_path_factory.mktemp("tiny"), train=20, val=6, test=5)


@pytest.fixture(scope="session")
def tiny_spec():
    """A function that returns the smoke preset's run of a method, cut down to ``TINY``.

    Its ``params`` are merged into the preset's, nested like them.
    """

    def spec(method: str = "mist", seed: int = 0, params=(), **training) -> RunSpec:
        run = run_of(method, seed=seed)
        budget = {"steps": 12, "batch_size": 4, "validate_every": 6, "checkpoint_every": 5}
        budget |= {"log_every": 3, "warmup": 2, **training}
        update = {"task": TINY, "params": merge(run.params, dict(params))}
        update["training"] = run.training.model_copy(update=budget)
        return run.model_copy(update=update)

    return spec


@pytest.fixture
def tiny_mist(tiny_spec):
    """A function that returns MIST for ``TINY`` with some of its parameters changed."""
    from mist_bench.run.method import build_method

    cpu = torch.device("cpu")
    return lambda seed=0, **params: build_method(tiny_spec("mist", seed, params), cpu).train()


@pytest.fixture
def train_tiny(tiny_dataset, tmp_path):
    """A function that trains into ``tmp_path / name`` and returns that folder."""
    from spies import CODE

    from mist_bench.run.training import train

    def go(spec, name="out", work=None, data=tiny_dataset, code=CODE, device="cpu"):
        out = tmp_path / name
        train(spec, data, out, work or tmp_path / f"{name}-work", device, code)
        return out

    return go


@pytest.fixture
def spy(monkeypatch):
    """The method that the specifications of ``spy_spec`` name; it takes notes."""
    from spies import Spy

    method, module = Spy(), ModuleType("spy")
    module.build = lambda task: method
    monkeypatch.setitem(sys.modules, "spy", module)
    return method


@pytest.fixture
def spy_spec(tiny_spec):
    own = {"module": "spy", "params": {}}
    return lambda **training: tiny_spec(**training).model_copy(update=own)


@pytest.fixture
def torch_settings():
    """A benchmark sets threads and determinism for its process; tests after it need theirs."""
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    timing.count_flops(Case("", lambda: torch.zeros(1)))  # its first use imports for two seconds
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still unless the test moves it; the processor's runs half as fast."""
    now = [0.0]
    clocks = SimpleNamespace(perf_counter=lambda: now[0], process_time=lambda: now[0] / 2)
    monkeypatch.setattr(timing, "time", clocks)
    return now


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The empty folder in which every command of a test runs."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def smoke() -> Config:
    """The configuration of the smoke preset."""
    return configuration()

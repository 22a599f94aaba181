"""Build one dataset: every split from its own random stream, all files or none."""

from __future__ import annotations

import contextlib
import importlib
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout

from mist_bench.config.keywords import keyword_values
from mist_bench.config.schema import SPLITS, DatasetSpec
from mist_bench.datasets.files import MANIFEST, Split, save_manifest, save_split


def build_dataset(spec: DatasetSpec, out: Path) -> None:
    """Write the dataset ``spec`` describes to the folder ``out``, replacing an older one.

    Each split has its own child of ``SeedSequence(spec.seed)``, so that the size of one split does
    not change another.

    Args:
        spec: module, sizes, seed and keywords.
        out: the dataset's folder, which appears complete or not at all; one with other files in
            it is refused.

    Raises:
        ValueError: if ``spec`` cannot be built, or ``out`` is no dataset's folder.
        OSError: if the disk refuses, with the folder's name.
    """
    with replacing(out) as folder:
        children = np.random.SeedSequence(spec.seed).spawn(len(SPLITS))
        entries, source = {}, None
        for split, child in zip(SPLITS, children, strict=True):
            if split not in spec.sizes:
                continue
            content = _make(spec, split, np.random.default_rng(child))
            entries[split] = save_split(folder, split, content)
            if source not in (None, content.source):
                # a network that comes back would mix two sets of digits, and train with val's
                raise ValueError(
                    f"source changed from {source!r} to {content.source!r}: build again"
                )
            source = content.source
        described = {"name": spec.name, "preset": spec.preset, "spec": spec.model_dump(mode="json")}
        save_manifest(folder, described | {"source": source, "splits": entries})


@contextlib.contextmanager
def replacing(out: Path) -> Iterator[Path]:
    """Give an empty folder that takes the place of ``out`` when all went well; else it is gone.

    Raises:
        ValueError: if ``out`` holds files that are no part of a dataset.
        OSError: if the disk refuses, or another process is writing there.
    """
    out = Path(out).absolute()
    _refuse_foreign(out)
    ends = ("partial", "old", "lock")
    partial, old, lock = (out.with_name(f".{out.name}.{end}") for end in ends)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(lock, timeout=0):
            try:
                shutil.rmtree(partial, ignore_errors=True)  # what a killed process has left
                partial.mkdir()
                yield partial
                shutil.rmtree(old, ignore_errors=True)
                if out.exists():
                    out.rename(old)
                partial.rename(out)
                shutil.rmtree(old, ignore_errors=True)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
                lock.unlink(missing_ok=True)
    except Timeout:
        raise OSError(f"{out}: another process is writing here") from None
    except OSError as error:
        raise OSError(f"{out}: cannot be written: {error.strerror or error}") from None


def _make(spec: DatasetSpec, split: str, rng: np.random.Generator) -> Split:
    """Return one split made by ``spec.module``, checked against what ``spec`` says of images.

    It may have fewer images than ``spec.sizes`` where a module has no more; the manifest tells.
    """
    where = f"datasets.{spec.name}"
    make_split = importlib.import_module(spec.module).make_split
    params = keyword_values(f"{where}.params", make_split, spec.params)
    try:
        content = make_split(split, spec.sizes[split], rng, **params)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    shape, labels = content.arrays["images"].shape, content.arrays["labels"]
    if shape[1:] != spec.image_size or not 1 <= shape[0] <= spec.sizes[split]:
        raise ValueError(
            f"{where}: {spec.sizes[split]} images of image_size {list(spec.image_size)} are "
            f"expected, but images are {shape}"
        )
    if spec.num_classes and labels.max(initial=-1) >= spec.num_classes:
        raise ValueError(f"{where}.num_classes is {spec.num_classes}, but a label {labels.max()}")
    return content


def _refuse_foreign(out: Path) -> None:
    """Raise an error if the folder ``out`` cannot be read or holds what is no part of a dataset.

    A dataset has a manifest and, of each split, arrays and files named after it. Snakemake deletes
    some of them before it has a dataset made again.
    """
    part = re.compile(rf"({'|'.join(SPLITS)})(\.npz|\.npy|_[\w.]+)")
    try:
        names = sorted(path.name for path in out.iterdir()) if out.is_dir() else []
    except OSError as error:
        raise OSError(f"{out}: cannot be read: {error.strerror}") from None
    for name in names:
        if name != MANIFEST and name[0] != "." and not part.fullmatch(name):
            raise ValueError(f"{out}: not replaced, because it holds {name!r}, not of a dataset")

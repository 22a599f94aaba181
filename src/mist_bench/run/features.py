"""Frozen features of a dataset's images, computed once and read through a memory map in training.

A folder of features is a dataset's folder whose images are feature maps and whose boxes are in
cells, so that any method can train on it. Training images appear ``draws`` times, augmented.

Shapes: N images, D draws, C channels, H W image, h w feature map, L the most instances in an image.
"""

import hashlib
import importlib
import shutil
from pathlib import Path

import numpy as np
import torch
from numpy.lib.format import open_memmap
from numpy.typing import NDArray
from torch import nn

from mist_bench.boxes import to_cells
from mist_bench.config.keywords import keyword_values
from mist_bench.config.provenance import file_digest
from mist_bench.config.schema import SPLITS, FeatureSpec
from mist_bench.datasets.build import replacing
from mist_bench.datasets.files import load_manifest, load_split, save_manifest, save_mapped_split
from mist_bench.run.batches import to_images
from mist_bench.run.method import choose_device, use_deterministic_torch

CHUNK = {"cpu": 4, "cuda": 128}  # images in a forward pass: on a CPU, few stay in its cache
GIB = 2**30


def build_features(spec: FeatureSpec, data: Path, out: Path, device: str) -> None:
    """Write the features of the dataset in ``data`` to the folder ``out``, replacing older ones.

    Args:
        spec: backbone, augmentation and size limit.
        data: folder of the dataset, whose images are (3, H, W).
        out: folder to write; it appears complete or not at all.
        device: ``auto``, ``cpu`` or ``cuda``.

    Raises:
        ValueError: if the features would exceed the limit or the disk, the backbone does not fit,
            or ``out`` holds something else, such as the images.
        OSError: if another process is writing them.
    """
    if out.resolve() == data.resolve():
        raise ValueError(f"{out}: the images are here; write their features to another folder")
    use_deterministic_torch(1)
    chosen = choose_device(device)
    with replacing(out) as folder:
        source = load_manifest(data)
        check_size(spec, source, shutil.disk_usage(folder).free)
        build = importlib.import_module(spec.network.module).build
        network = build(**keyword_values("network.params", build, spec.network.params))
        network = network.to(chosen, memory_format=torch.channels_last).requires_grad_(False)
        splits = {
            split: _write_split(spec, network, load_split(data, split), folder / split, chosen)
            for split in SPLITS
            if split in source["splits"]
        }
        manifest = {
            "name": spec.dataset,
            "preset": spec.preset,
            "spec": spec.model_dump(mode="json", exclude={"limit_gib"}),
            "weights": state_digest(network),
            "source": source["source"],
            "dataset": file_digest(data / "manifest.json"),
            "cells": {"stride": spec.network.stride, "origin": spec.network.origin},
            "splits": splits,
        }
        save_manifest(folder, manifest)


def state_digest(network: nn.Module) -> str:
    """Return the sha256 of a network's weights and buffers, by name."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(tensor.cpu().numpy()).tobytes())
    return digest.hexdigest()


def check_size(spec: FeatureSpec, manifest: dict, free: int) -> None:
    """Raise a ``ValueError`` if the features would be larger than their limit or the disk.

    Args:
        spec: draws, backbone and limit.
        manifest: of the dataset.
        free: bytes left on the disk; a memory map that outgrows it would kill the process.
    """
    total = 0
    for split, entry in manifest["splits"].items():
        N, _, H, W = entry["arrays"]["images"]["shape"]
        cells = (H // spec.network.stride) * (W // spec.network.stride)
        total += N * (spec.draws if split == "train" else 1) * spec.network.channels * cells * 2
    if total > spec.limit_gib * GIB:
        raise ValueError(
            f"datasets.{spec.dataset}.features: {total / GIB:.1f} GiB are needed, more than "
            f"limit_gib {spec.limit_gib:g}: lower draws or raise the limit"
        )
    if total > free:
        raise ValueError(
            f"datasets.{spec.dataset}.features: {total / GIB:.1f} GiB are needed, but the disk has "
            f"{free / GIB:.1f} left: lower draws or make room"
        )


def augmented(
    spec: FeatureSpec, image: NDArray[np.uint8], number: int, draw: int
) -> tuple[NDArray[np.uint8], bool]:
    """Return version ``draw`` of a training image, and whether it is flipped (Sec. 5.2).

    Args:
        spec: probabilities and sizes of flips and masks.
        image: (C, H, W) as stored.
        number: its place in the split.
        draw: from 0.
    """
    rng = np.random.default_rng([spec.seed, SPLITS.index("train"), number, draw])
    flipped = bool(rng.random() < spec.flip)
    image = image[..., ::-1] if flipped else image
    if spec.mask is not None:
        image = masked(image, spec.mask, rng, square=spec.mask_shape == "square")
    return image, flipped


def masked(
    image: NDArray[np.uint8],
    sides: tuple[float, float],
    rng: np.random.Generator,
    *,
    square: bool = True,
) -> NDArray[np.uint8]:
    """Return a copy of (C, H, W) with a part of it filled with its mean (Sec. 5.2).

    Args:
        image: as stored.
        sides: least and largest side of the part, fractions of the image's shorter side.
        rng: draws sides and place, the whole part inside the image.
        square: whether it is one; otherwise its height and width are drawn independently
            (official code datasets/pascal.py:122; deviation D14).
    """
    H, W = image.shape[1:]
    height = max(1, round(rng.uniform(*sides) * min(H, W)))
    width = height if square else max(1, round(rng.uniform(*sides) * min(H, W)))
    top, left = rng.integers(0, [H - height + 1, W - width + 1])
    image = image.copy()
    inside = image[:, top : top + height, left : left + width]
    inside[:] = np.rint(inside.mean((1, 2), keepdims=True))
    return image


@torch.no_grad()
def _write_split(
    spec: FeatureSpec,
    network: nn.Module,
    arrays: dict[str, NDArray],
    stem: Path,
    device: torch.device,
) -> dict:
    """Write one split, that for training augmented, and return the manifest's entry."""
    images, is_train = arrays["images"], stem.name == "train"
    D = spec.draws if is_train else 1
    N, _, H, W = images.shape
    s = spec.network.stride
    shape = (N * D, spec.network.channels, H // s, W // s)
    maps = open_memmap(stem.with_suffix(".npy"), mode="w+", dtype=np.float16, shape=shape)
    flipped = np.zeros(N * D, bool)
    for start in range(0, N * D, CHUNK[device.type]):
        index = range(start, min(start + CHUNK[device.type], N * D))
        chunk = images[start : index.stop]
        if is_train:
            versions = [augmented(spec, images[k // D], *divmod(k, D)) for k in index]
            flipped[start : index.stop] = [turned for _, turned in versions]
            chunk = np.stack([image for image, _ in versions])
        found = network(to_images(chunk, device)).cpu().numpy()
        if found.shape[1:] != shape[1:]:
            raise ValueError(
                f"backbone {spec.backbone}: features of an image are {found.shape[1:]}, but "
                f"channels and stride say {shape[1:]}: correct its entry in backbones"
            )
        maps[start : index.stop] = found
    maps.flush()
    return save_mapped_split(stem.parent, stem.name, maps, instances(spec, arrays, D, flipped, W))


def instances(
    spec: FeatureSpec, arrays: dict[str, NDArray], draws: int, flipped: NDArray, width: int
) -> dict[str, NDArray]:
    """Return the counts, labels and boxes (in cells) of all D ``draws`` of every image.

    ``flipped`` is (N * D,) bool, ``width`` W of the images in px.
    """
    counts, labels, boxes = (np.repeat(arrays[k], draws, 0) for k in ("counts", "labels", "boxes"))
    boxes[flipped, :, 0] = width - 1 - boxes[flipped, :, 0]
    boxes = to_cells(boxes, spec.network.stride, spec.network.origin)
    boxes[np.arange(boxes.shape[1]) >= counts[:, None]] = 0
    return {"counts": counts, "labels": labels, "boxes": boxes}

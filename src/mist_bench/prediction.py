"""From weights to stored predictions: everything evaluation reads, and nothing else.

Shapes: N images, K detections, C channels or classes, H W image.
"""

import importlib
import os
import textwrap
from dataclasses import fields
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from mist_bench.boxes import to_pixels
from mist_bench.datasets.files import load_manifest, load_split
from mist_bench.provenance import file_digest
from mist_bench.schema import RunSpec
from mist_bench.seeding import seed_torch
from mist_bench.transfer import to_device
from mist_bench.types import Method, Prediction


def choose_device(name: str) -> torch.device:
    """Return the device of ``auto``, ``cpu`` or ``cuda``.

    Raises:
        ValueError: if CUDA is asked for and there is none.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("device: cuda was asked for, but torch finds no GPU; use auto or cpu")
    return torch.device(name)


def use_deterministic_torch(threads: int, *, tf32: bool = False) -> None:
    """Make torch give the same bits on the same machine with ``threads`` CPU threads.

    Numbers below 1.2e-38 are taken for 0: processors are many times slower with such (Esl16's
    windows are as dark as that; a step took 1.37 times as long).

    Args:
        threads: CPU threads of numeric code.
        tf32: whether an NVIDIA GPU may round the factors of float32 products to 11 bits; torch's
            own default lets convolutions do so.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.backends.cuda.matmul.allow_tf32 = tf32
    torch.backends.cudnn.allow_tf32 = tf32
    torch.set_flush_denormal(True)  # before there are other threads, which do as the first
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # a tenth of a step, same bits


def build_method(spec: RunSpec, device: torch.device) -> Method:
    """Return the method of ``spec``, initialized from its seed, on ``device``."""
    seed_torch(spec.seed, "init")
    method = importlib.import_module(spec.module).build(spec.task, **spec.params).to(device)
    if (
        device.type != "cpu"
    ):  # CUDA's fused Adam refuses gradients whose strides are not the weights'
        for optimizer in method.optimizers.values():
            for group in optimizer.param_groups:
                if group.get("fused"):
                    group["fused"] = None  # torch's default, which is fast there
    return method


def load_method(spec: RunSpec, weights: Path, device: torch.device) -> Method:
    """Return the method of ``spec`` with trained weights, on ``device``.

    Raises:
        ValueError: if the weights are damaged or of another network.
    """
    method = build_method(spec, device)
    try:
        method.load_state_dict(load_file(weights))
    except (SafetensorError, RuntimeError) as error:
        reason = textwrap.shorten(str(error), 300)  # torch lists every tensor
        raise ValueError(f"{weights}: not the weights of {spec.module}: {reason}") from None
    return method


def to_images(images: NDArray, device: torch.device) -> Tensor:
    """Return stored (N, C, H, W) images as float32 on ``device``; uint8 ones in [0, 1]."""
    if not images.flags.writeable:  # a memory map's: torch would share what it may not write
        images = images.copy()
    tensor = to_device(torch.from_numpy(np.ascontiguousarray(images)), device)
    return tensor.float() / 255 if tensor.dtype == torch.uint8 else tensor.float()


def predict_split(
    method: Method, images: NDArray, batch_size: int, device: torch.device
) -> list[Prediction]:
    """Return the predictions for stored images, on the CPU, in their order.

    Raises:
        ValueError: if a score is not a number.
    """
    method.eval()
    predictions: list[Prediction] = []
    for start in range(0, len(images), batch_size):
        batch = to_images(images[start : start + batch_size], device)
        predictions += [on_cpu(one) for one in method.predict(batch)]
    if any(one.scores.isnan().any() for one in predictions):
        raise ValueError("scores are not numbers: training has diverged")
    return predictions


def on_cpu(prediction: Prediction) -> Prediction:
    """Return a prediction whose tensors are on the CPU: a split of them would fill a GPU."""
    parts = {field.name: getattr(prediction, field.name) for field in fields(prediction)}
    return Prediction(**{k: None if v is None else v.cpu() for k, v in parts.items()})


def pack(predictions: list[Prediction]) -> dict[str, NDArray]:
    """Return predictions as padded arrays, as ``predictions.npz`` stores them.

    Returns:
        counts (N,), boxes (N, K, 4), scores (N, K); labels (N, K) padded with -1 and probs
        (N, K, C) for classification; reconstructions (N, C, H, W) float16 for reconstruction;
        patches (N, K, C, p, p) and heatmaps (N, h, w) float16 of methods that have them.
    """
    counts = np.array([len(one.boxes) for one in predictions], dtype=np.int64)
    K = int(counts.max(initial=0))

    def padded(name: str, fill: float) -> NDArray:
        arrays = [getattr(one, name).cpu().numpy() for one in predictions]
        out = np.full((len(arrays), K, *arrays[0].shape[1:]), fill, dtype=arrays[0].dtype)
        for row, array in zip(out, arrays, strict=True):
            row[: len(array)] = array
        return out

    arrays = {"counts": counts, "boxes": padded("boxes", 0), "scores": padded("scores", -np.inf)}
    if predictions[0].labels is not None:
        arrays["labels"] = padded("labels", -1)
    if predictions[0].probs is not None:
        arrays["probs"] = padded("probs", 0)
    if predictions[0].patches is not None:
        arrays["patches"] = padded("patches", 0).astype(np.float16)
    for name in ("reconstruction", "heatmap"):
        if getattr(predictions[0], name) is not None:
            images = [getattr(one, name).cpu().numpy() for one in predictions]
            arrays[f"{name}s"] = np.stack(images).astype(np.float16)
    return arrays


def predict(
    spec: RunSpec, data: Path, weights: Path, out: Path, device: str, split: str = "test"
) -> None:
    """Write the predictions of trained weights on a split, boxes in pixels of its images.

    With them are stored the name of the split and the digest of the weights.

    Args:
        spec: the run that was trained.
        data: folder of its dataset, or of the features that it sees instead.
        weights: weights.safetensors of the run.
        out: predictions.npz to write, whole or not at all.
        device: ``auto``, ``cpu`` or ``cuda``.
        split: ``train``, ``val`` or ``test``.

    Raises:
        ValueError: if the weights are damaged or of another network.
    """
    use_deterministic_torch(spec.training.threads)
    chosen = choose_device(device)
    method = load_method(spec, weights, chosen)
    images = load_split(data, split)["images"]
    arrays = pack(predict_split(method, images, spec.training.batch_size, chosen))
    if cells := load_manifest(data).get("cells"):
        arrays["boxes"] = to_pixels(arrays["boxes"], **cells)
    fresh = out.with_suffix(".new.npz")
    try:
        np.savez_compressed(fresh, **arrays, split=split, weights_sha256=file_digest(weights))
        fresh.replace(out)
    finally:
        fresh.unlink(missing_ok=True)

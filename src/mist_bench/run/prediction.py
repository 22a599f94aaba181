"""From weights to stored predictions: everything evaluation reads, and nothing else.

Shapes: N images, K detections, C channels or classes, H W image.
"""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.utils.rnn import pad_sequence

from mist_bench.boxes import to_pixels
from mist_bench.config.provenance import file_digest
from mist_bench.config.schema import RunSpec
from mist_bench.datasets.files import load_manifest, load_split
from mist_bench.run.batches import to_images
from mist_bench.run.method import choose_device, load_method, use_deterministic_torch
from mist_bench.types import Method, Prediction

FILLS = {"boxes": 0, "scores": float("-inf"), "labels": -1, "probs": 0, "patches": 0}
COARSE = ("patches", "reconstructions", "heatmaps")  # stored as float16


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
    arrays = {"counts": np.array([len(one.boxes) for one in predictions], dtype=np.int64)}
    for name, fill in FILLS.items():
        if getattr(predictions[0], name) is not None:
            parts = [getattr(one, name) for one in predictions]
            arrays[name] = pad_sequence(parts, batch_first=True, padding_value=fill).numpy()
    for name in ("reconstruction", "heatmap"):
        if getattr(predictions[0], name) is not None:
            arrays[f"{name}s"] = torch.stack([getattr(one, name) for one in predictions]).numpy()
    return {k: v.astype(np.float16) if k in COARSE else v for k, v in arrays.items()}


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
    save_arrays(out, arrays | {"split": split, "weights_sha256": file_digest(weights)})


def save_arrays(out: Path, arrays: Mapping[str, Any]) -> None:
    """Write ``arrays`` to the compressed npz ``out``, whole or not at all."""
    fresh = out.with_suffix(".new.npz")
    try:
        np.savez_compressed(fresh, **arrays)
        fresh.replace(out)
    finally:
        fresh.unlink(missing_ok=True)

"""The authors' published datasets in this suite's format, for the experiments that use them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mist_bench.config.resolve import dataset_spec
from mist_bench.config.schema import Config
from mist_bench.datasets.build import build_dataset
from mist_bench.datasets.files import load_manifest
from mist_bench.official import mnist, pascal

MODULES = {"mnist_hard": mnist, "pascal_coco": pascal}


def import_dataset(folder: Path, name: str, out: Path, config: Config) -> dict[str, tuple]:
    """Write a published dataset to ``out``, replacing an older one.

    Args:
        folder: the unpacked archive.
        name: ``mnist_hard`` or ``pascal_coco``: its format, and whose classes it has.
        out: the dataset's folder; it appears complete or not at all.
        config: the paper preset.

    Returns:
        For each split that is there, how many images were stored and how many were listed.

    Raises:
        ValueError: in one line, if the folder does not hold that dataset.
        OSError: if the disk refuses.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder")
    module = MODULES[name]
    spec, listed = dataset_spec(config, name), module.sizes(folder)
    params: dict[str, Any] = {"root": str(folder.absolute())}
    update = {"module": module.__name__, "sizes": listed, "params": params}
    if name == "pascal_coco":
        params |= {key: spec.params[key] for key in ("side", "max_instances")}
        stride = config.backbones[config.datasets[name].features.backbone].stride
        params["canvas"] = H, W = pascal.canvas(folder, params["side"], stride)
        update["image_size"] = (3, H, W)
    build_dataset(spec.model_copy(update=update), out)
    stored = load_manifest(out)["splits"]
    return {split: (stored[split]["size"], count) for split, count in listed.items()}

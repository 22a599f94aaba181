"""The authors' published checkpoints as weights of this suite's MIST.

A checkpoint of ubc-vision/mist (Apache-2.0) is ``{"detector": ..., "classifier": ...}``, two state
dicts (models/mist.py). Names of its layers are facts of models/{detector,net,classifier}.py.
"""

import io
import json
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from mist_bench.backbones import resnet
from mist_bench.config import resolve as settings
from mist_bench.config.provenance import file_digest
from mist_bench.config.schema import Config, FeatureSpec, RunSpec
from mist_bench.models.heads import FEATURE_BLOCKS
from mist_bench.models.paper import BLOCKS_PER_LEVEL, LEVELS
from mist_bench.run import checkpoint
from mist_bench.run.machine import commit
from mist_bench.run.method import build_method
from mist_bench.types import Method

MNIST, PASCAL = "mnist_hard_classification", "pascal_coco_classification"
TRUNK = "trunk."  # what the names of the backbone's tensors begin with, beside those of MIST
DTYPES = (torch.float16, torch.float32, torch.float64, torch.int64)
SHOWN = 3  # names in an error
State = dict[str, Tensor]


def import_checkpoint(file: Path, out: Path, config: Config, experiment: str | None) -> str:
    """Write the authors' checkpoint as a run that can be predicted with.

    Args:
        file: ``mnist_best_models`` or ``pascal_coco_best_models``.
        out: folder for weights.safetensors, config.json (the run) and origin.json; for PASCAL+COCO
            also backbone.safetensors and features.json (what ``mist-bench features`` computes). It
            appears complete or not at all.
        config: the paper preset, for the networks in evaluation mode on gray images; or
            paper_official, for what the authors' code computes with these weights.
        experiment: ``MNIST`` or ``PASCAL``; ``None`` to tell it from the names of the tensors.

    Returns:
        The experiment.

    Raises:
        ValueError: in one line, if the file is no such checkpoint, or ``out`` is there already.
        OSError: if the disk refuses.
    """
    if out.exists():
        raise ValueError(f"{out}: already there: remove it or name another folder")
    state = read_checkpoint(file)
    if experiment is None:
        is_pascal = any(name.startswith("detector.backbone.detector_head.") for name in state)
        experiment = PASCAL if is_pascal else MNIST
    spec = settings.run_spec(config, experiment, "mist", 0)
    try:
        tensors = convert(state, spec)
    except ValueError as error:
        raise ValueError(f"{file}: not the authors' {experiment}: {error}") from None
    trunk = {k.removeprefix(TRUNK): v for k, v in tensors.items() if k.startswith(TRUNK)}
    method = build_method(spec, torch.device("cpu"))
    method.load_state_dict({k: v for k, v in tensors.items() if not k.startswith(TRUNK)})
    origin = {"origin": "imported from the authors' checkpoint", "file": file.name}
    origin |= {"sha256": file_digest(file), "experiment": experiment, "commit": commit()}
    texts = {"config.json": settings.canonical(spec), "origin.json": json.dumps(origin, indent=2)}
    if trunk:
        weights = str((out / "backbone.safetensors").absolute())
        features = plain_features(config, spec.dataset, weights)
        texts["features.json"] = settings.canonical(features)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as scratch:
        fresh = Path(scratch, "fresh")
        fresh.mkdir()
        checkpoint.save_weights(fresh / "weights.safetensors", method)
        if trunk:
            checkpoint.save_tensors(fresh / "backbone.safetensors", trunk)
        for name, text in texts.items():
            (fresh / name).write_text(text + "\n", encoding="utf-8")
        fresh.rename(out)
    return experiment


def read_checkpoint(file: Path) -> State:
    """Return the tensors of a checkpoint by name, each name beginning with its network.

    Raises:
        ValueError: in one line, if the file is damaged, holds anything that is not a tensor, or is
            another file of the authors'.
        OSError: if it cannot be opened.
    """
    data = io.BytesIO(file.read_bytes())
    try:
        content = torch.load(data, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged bytes make an unpickler fail in any way
        raise ValueError(
            f"{file}: not a checkpoint of tensors ({type(error).__name__}): it is damaged, or "
            "holds code, which is never run; get it again"
        ) from None
    parts = ("detector", "classifier")
    if not isinstance(content, dict) or not all(isinstance(content.get(p), dict) for p in parts):
        found = listed(sorted(map(str, content))) if isinstance(content, dict) else ""
        raise ValueError(
            f"{file}: two state dicts, detector and classifier, are expected, got "
            f"{found or type(content).__name__}; the authors' weights are in files that end in "
            "_models"
        )
    state = {f"{part}.{name}": value for part in parts for name, value in content[part].items()}
    for name, value in state.items():
        if not (isinstance(value, Tensor) and value.dtype in DTYPES and not value.is_sparse):
            kind = value.dtype if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"{file}: {name} is no dense tensor of numbers but {kind}")
        if not torch.isfinite(value).all():
            raise ValueError(f"{file}: {name} holds values that are not finite numbers")
    return state


def convert(state: Mapping[str, Tensor], spec: RunSpec) -> State:
    """Return the authors' tensors as the state of the method of ``spec``.

    Returns:
        The state of the method and, on features, of the backbone, whose names begin with ``TRUNK``.
        The authors' MNIST has three equal channels; for a method of one channel they are folded.

    Raises:
        ValueError: if the tensors are of other names or shapes, or contradict each other.
    """
    gray = spec.params["detector"]["networks"] == "official"
    folded = gray and (spec.params["official"] or {}).get("gray_copies", 1) == 1
    size = (3, *spec.task.image_size[1:]) if folded else spec.task.image_size
    task = replace(spec.task, image_size=size)
    method = build_method(spec.model_copy(update={"task": task}), torch.device("cpu"))
    expected = dict(method.state_dict())
    if not gray:
        expected |= {f"{TRUNK}{name}": value for name, value in resnet.trunk().state_dict().items()}
    layers = image_layers(spec.params["detector"]["blocks"]) if gray else feature_layers()
    names = {
        theirs + name.removeprefix(ours): name
        for theirs, ours in layers
        for name in expected
        if name.startswith(f"{ours}.")
    }
    check_names(names, state)
    found: State = {}
    for theirs, ours in names.items():
        value = state[theirs]
        if value.shape != expected[ours].shape:
            shapes = tuple(value.shape), tuple(expected[ours].shape)
            raise ValueError(f"{theirs} is {shapes[0]}, {shapes[1]} is expected")
        if not torch.equal(found.setdefault(ours, value), value):
            raise ValueError(f"{theirs} differs from the same layer under another name")
    return to_one_channel(found, method) if folded else found


def image_layers(blocks: int) -> list[tuple[str, str]]:
    """Return the authors' and our name of each layer on images (MNIST)."""
    encoder, levels = "classifier.encoder.layers", "head.network.encoder.levels"
    layers = [
        ("detector.backbone.norm", "detector.network.norm"),
        *stage("detector.backbone.resnet", "detector.network.stage", blocks),
        ("detector.backbone.last", "detector.network.head"),
    ]
    for level in range(LEVELS):  # max-pooling has every other number
        layers += stage(f"{encoder}.{2 * level}", f"{levels}.{level}", BLOCKS_PER_LEVEL)
    layers += stage(f"{encoder}.{2 * LEVELS}", "head.network.encoder.last", BLOCKS_PER_LEVEL)
    return [*layers, ("classifier.classifier.dense", "head.network.logits")]


def feature_layers() -> list[tuple[str, str]]:
    """Return the authors' and our name of each layer of PASCAL+COCO, its backbone included."""
    trunk = enumerate(resnet.LAYERS)
    return [
        *[(f"detector.backbone.backbone.{i}", f"{TRUNK}{layer}") for i, layer in trunk],
        ("detector.backbone.detector_head.0", "detector.network.features.0"),
        ("detector.backbone.detector_head.2", "detector.network.head"),
        *stage("classifier.cnn", "head.network.stage", FEATURE_BLOCKS["official_features"]),
        ("classifier.fcn.0", "head.network.logits"),
    ]


def stage(theirs: str, ours: str, blocks: int) -> list[tuple[str, str]]:
    """Return the names of a ``ResidualStage``: the one norm of a block is stored three times."""
    layers = [(f"{theirs}.first", f"{ours}.pointwise")]
    for i in range(blocks):
        one, other = f"{theirs}.blocks.{i}", f"{ours}.blocks.{i}"
        layers += [(f"{one}.{copy}", f"{other}.norm") for copy in ("norm", "block.1", "block.4")]
        layers += [(f"{one}.block.0", f"{other}.first"), (f"{one}.block.3", f"{other}.second")]
    return layers


def check_names(expected: Mapping[str, str], found: Mapping[str, Tensor]) -> None:
    """Raise a ``ValueError`` unless the authors' names are those that are expected."""
    missing = [name for name in expected if name not in found]
    surplus = [name for name in found if name not in expected]
    if missing or surplus:
        raise ValueError(
            f"{len(missing)} tensors are missing ({listed(missing)}), {len(surplus)} are "
            f"unexpected ({listed(surplus)})"
        )


def to_one_channel(state: State, method: Method) -> State:
    """Return weights for one channel that do on gray images what these do on three equal ones.

    The detector's first layers on a pixel x of every channel c are, in evaluation mode,
    ``sum_c W_oc (a_c x + d_c) + b_o`` with ``a_c = g_c / sqrt(v_c + eps)`` and
    ``d_c = h_c - a_c m_c``, where batch norm has scales g, shifts h, means m and variances v. One
    channel of mean m, variance v, scale 1 and shift 0 hands on ``z = (x - m) / sqrt(v + eps)``, so
    with ``x = sqrt(v + eps) z + m`` the same is ``W'_o z + b'_o``, where
    ``W'_o = sqrt(v + eps) sum_c W_oc a_c`` and ``b'_o = b_o + sum_c W_oc (a_c m + d_c)``.
    Any m and v will do; the channels' means are theirs, and make training mode agree too, where
    channels have always been equal. The encoder begins with the convolution: W' = sum_c W_c.

    ``state`` is that of ``method``, MIST on three channels, by our names, and changed in place.
    """
    norm, first = "detector.network.norm.", "detector.network.stage.pointwise."
    names = ("weight", "bias", "running_mean", "running_var")
    scale, shift, means, variances = (state[norm + name].double() for name in names)
    if (variances < 0).any():
        raise ValueError("detector.backbone.norm.running_var is negative")
    eps = method.detector.network.norm.eps
    factor = scale / (variances + eps).sqrt()  # a, (3,)
    mean, variance = means.mean(), variances.mean()
    kernel = state[first + "weight"].double()[:, :, 0, 0]  # (O, 3)
    weight = (variance + eps).sqrt() * (kernel @ factor)
    bias = state[first + "bias"].double() + kernel @ (factor * (mean - means) + shift)
    state[first + "weight"], state[first + "bias"] = weight[:, None, None, None], bias
    one = torch.ones(1, dtype=mean.dtype)
    values = (one, one - 1, mean[None], variance[None])
    state |= {norm + name: value for name, value in zip(names, values, strict=True)}
    encoder = "head.network.encoder.levels.0.pointwise.weight"
    state[encoder] = state[encoder].double().sum(1, keepdim=True)
    return state


def plain_features(config: Config, dataset: str, weights: str) -> FeatureSpec:
    """Return the features of a dataset's images as they are: what is trained needs no others."""
    spec = settings.feature_spec(config, dataset)
    network = spec.network.model_copy(update={"params": spec.network.params | {"weights": weights}})
    plain = {"network": network, "draws": 1, "flip": 0.0, "mask": None}
    return spec.model_copy(update=plain)


def listed(names: list[str]) -> str:
    """Return the first few of ``names`` in words."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return (", ".join(names[:SHOWN]) or "none") + more

"""ResNet-34 through its fourth convolutional block, ``layer3`` (Sec. 5.2, Appendix A).

Every layer's padding is (kernel - 1) / 2, so that the window of cell j is centered at pixel 16 j,
from which the official code counts as well (mist.py): ``origin`` is 0.
"""

from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn
from torchvision.models import ResNet34_Weights, resnet34

from mist_bench.backbones.normalization import Mean, Normalized, Std
from mist_bench.models.paper import with_image_statistics
from mist_bench.spec import File

LAYERS = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3")
UNUSED = ("layer4", "fc")  # the rest of the whole network
WEIGHTS = ResNet34_Weights.IMAGENET1K_V1


def build(
    *,
    weights: File | None = None,
    mean: Mean = (0.485, 0.456, 0.406),
    std: Std = (0.229, 0.224, 0.225),
    image_statistics: bool = False,
) -> Normalized:
    """Return the network with ImageNet weights, in evaluation mode.

    Args:
        weights: file of torchvision's weights (.pth or .safetensors), of which those after
            ``layer3`` may be missing; null for torchvision's cache, which is filled by a download.
        mean: subtracted from each channel of an image in [0, 1]; 0 in the official code.
        std: what the difference is divided by, > 0; 1 in the official code.
        image_statistics: whether batch norm uses the mean and variance of each image instead of
            ImageNet's, as the official code does at test (deviations B1, D15).

    Raises:
        ValueError: if the weights cannot be had, or are another network's.
    """
    state = _downloaded() if weights is None else _read(Path(weights))
    network = trunk()
    try:
        network.load_state_dict({k: v for k, v in state.items() if k.split(".")[0] not in UNUSED})
    except (RuntimeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{weights or WEIGHTS.url}: not ResNet-34's weights: {reason}") from None
    if image_statistics:
        with_image_statistics(network)
    return Normalized(network, mean, std).eval()


def trunk() -> nn.Sequential:
    """Return the layers that are used, not trained; their weights have torchvision's names."""
    network = resnet34()
    return nn.Sequential(OrderedDict((name, getattr(network, name)) for name in LAYERS))


def _downloaded() -> dict[str, Any]:
    """Return the weights from torchvision's cache, filled if need be."""
    try:
        return WEIGHTS.get_state_dict(progress=False, check_hash=True)
    except (OSError, RuntimeError) as error:  # no network, a full disk; another hash
        folder = Path(torch.hub.get_dir(), "checkpoints")
        raise ValueError(
            f"ResNet-34's weights cannot be had from {WEIGHTS.url} ({error}): put that file into "
            f"{folder}, name it in backbones.resnet34.params.weights, or choose another backbone"
        ) from None


def _read(path: Path) -> dict[str, Any]:
    """Return the tensors in a file of weights."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:  # damaged bytes make an unpickler fail in any way
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{path}: cannot be read as weights ({reason})") from None

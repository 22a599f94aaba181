"""The parameters of the networks, operators and optimizers that methods share.

Defaults are those of the ``cpu`` preset. Sources: App. and Sec. are the paper's, code is
ubc-vision/mist, ids such as N9 are rows of ``workflow/resources/deviations.csv``. Torch-free.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from mist_bench.spec import Betas, Count, Natural, NonNegative, OddCount, Positive, Spec

Networks = Literal["compact", "official", "features", "official_features"]
Maximum = Literal["global", "local"]
OFFICIAL_PATCH = 32  # px: five levels of the official encoder end in a single location
OFFICIAL_LATENTS = 16  # of the official auto-encoder, per channel of its first level


class HeatmapSpec(Spec):
    """A heatmap network H_eta (Appendix A)."""

    networks: Networks = Field(
        "compact",
        description="compact (this suite's, for CPUs) or official (the paper's) for images; "
        "features or official_features for frozen features",
    )
    channels: Count = Field(32, description="channels inside; 32 in App. A")
    blocks: Natural = Field(
        4, description="residual blocks, 4 in App. A; on features, 3x3 convolutions"
    )
    stride: Literal[1, 2, 4] = Field(
        4, description="px per heatmap cell; compact: 2 or 4, others: 1 (App. A)"
    )

    @model_validator(mode="after")
    def _check_stride(self) -> HeatmapSpec:
        if (self.networks == "compact") == (self.stride == 1):
            allowed = "2 or 4" if self.networks == "compact" else "1"
            raise ValueError(f"networks {self.networks} has stride {allowed}, not {self.stride}")
        return self


class DetectorSpec(HeatmapSpec):
    """A heatmap network with its sharpening, E_K and G (Sec. 3 and 4.1)."""

    softmax_kernel: Natural = Field(
        0, description="side of the local spatial softmax's window, cells; 0 for none; 15 in App. A"
    )
    softmax_strength: Positive = Field(
        10, description="factor on the response before that softmax; 10 in the code"
    )
    softmax_maximum: Maximum = Field(
        "global",
        description="what that softmax subtracts: the maximum of the global map (code, D7) or of "
        "the local window",
    )
    nms_kernel: OddCount = Field(
        3, description="side of the non-maximum suppression's window, cells; 5 in the code (D17)"
    )
    target_sigma: NonNegative = Field(
        0.6,
        description="standard deviation of G's Gaussians, cells; 0 for single points (App. B)",
    )
    offset_weight: NonNegative = Field(
        1, description="weight of the offsets' loss (Eq. 11); 0 for no offsets (code on MNIST)"
    )
    offset_kernel: OddCount = Field(
        3,
        description="side of the square of cells around a keypoint that learn the offset to it, "
        "weighed by a Gaussian of target_sigma at the keypoint; 1 for its own cell alone (code)",
    )

    @model_validator(mode="after")
    def _check_windows(self) -> DetectorSpec:
        if self.softmax_kernel and self.softmax_kernel % 2 == 0:
            raise ValueError(
                f"softmax_kernel must be odd, or 0 for none, not {self.softmax_kernel}"
            )
        alone = self.target_sigma == 0 or self.offset_weight == 0 or self.corner
        if alone and self.offset_kernel > 1:
            raise ValueError(
                "offset_kernel must be 1 for target_sigma 0, offset_weight 0 or "
                f"official_features, not {self.offset_kernel}"
            )
        return self

    @property
    def corner(self) -> bool:
        """Whether offsets are counted from the corner of a keypoint's cell, and so never negative.

        So the official code on PASCAL+COCO; else from the center of the nearest cell.
        """
        return self.networks == "official_features"


class ClassifierSpec(Spec):
    """A classifier of patches T_tau (Sec. 4.2, Appendix C.1)."""

    networks: Networks = Field("compact", description="as the detector's")
    channels: Count = Field(
        24,
        description="channels of the first layer; later ones have 2 and 4 times as many (official: "
        "up to 16 times, 8 in the code; on features, equally many)",
    )
    patch_size: Count = Field(
        20, description="samples per side of a patch; official: 32 (App. C.1)"
    )
    window: NonNegative = Field(
        0.4,
        description="standard deviation of a Gaussian over the patch, in half sides; 0 for none "
        "(the paper)",
    )

    @model_validator(mode="after")
    def _check_patch(self) -> ClassifierSpec:
        check_official_patch(self.networks, self.patch_size)
        return self


class EncoderSpec(Spec):
    """An auto-encoder of patches (Sec. 4.2, Appendix C.1)."""

    networks: Literal["compact", "official"] = Field(
        "compact", description="compact (fully connected, for CPUs) or official (the paper's)"
    )
    width: Count = Field(
        2048, description="units of the hidden layers; official: channels of the first level, 8"
    )
    latents: Count = Field(
        128, description="numbers in the code of a patch; official: 16 times the width (U8)"
    )
    patch_size: Count = Field(
        24, description="samples per side of a patch; official: 32 (App. C.1)"
    )
    signed: bool = Field(
        False, description="whether images show a signed signal around 0.5, as Gabor noise (U10)"
    )

    @model_validator(mode="after")
    def _check_sizes(self) -> EncoderSpec:
        check_official_patch(self.networks, self.patch_size)
        if self.networks == "official" and self.latents != OFFICIAL_LATENTS * self.width:
            raise ValueError(
                f"networks official has {OFFICIAL_LATENTS} latents per unit of width, so "
                f"{OFFICIAL_LATENTS * self.width}, not {self.latents}"
            )
        return self


class AutoencoderSpec(EncoderSpec):
    """An auto-encoder of the squares around keypoints."""

    extent: Positive = Field(
        23, description="side of the encoded square around a keypoint, px (U7); 23 px of 24 samples"
    )
    whole_pixels: bool = Field(
        True,
        description="whether squares are cut and pasted at the nearest pixels, without "
        "interpolation; needs one scale and an extent of patch_size - 1",
    )

    @model_validator(mode="after")
    def _check_pixels(self) -> AutoencoderSpec:
        if self.whole_pixels and self.extent != self.patch_size - 1:
            raise ValueError(
                "whole_pixels needs a sample per pixel, an extent of patch_size - 1: got "
                f"{self.extent:g} px for {self.patch_size} samples"
            )
        return self


class KeypointSpec(Spec):
    """The step of {x_k} down the task loss (Eq. 6, Algorithm 1)."""

    lr: NonNegative = Field(
        1000,
        description="px per unit gradient of one image's loss; the code's 1e4 acts on the mean of "
        "32 images, which is 312.5 here (D4)",
    )
    clip: Positive | None = Field(
        3, description="longest step, px (not in the paper); null for no limit"
    )
    decay: bool = Field(
        False, description="whether clip follows the schedule of the learning rates (not in paper)"
    )
    steps: Count = Field(
        1, description="steps per batch; 1 where order is joint, 2 in the code (D3)"
    )
    penalty: NonNegative = Field(0, description="lambda of Eq. 6; 0 in the code (D2)")
    order: Literal["joint", "x_tau_eta", "tau_x_eta"] = Field(
        "joint",
        description="what is stepped first: x_tau_eta (code, D1), tau_x_eta (Algorithm 1) or joint "
        "(x and tau in one pass)",
    )

    @model_validator(mode="after")
    def _check_step(self) -> KeypointSpec:
        if self.decay and self.clip is None:
            raise ValueError("decay needs a clip, which it makes smaller")
        if self.order == "joint" and self.steps != 1:
            raise ValueError(f"order joint makes 1 step, not {self.steps}")
        return self


class AdamSpec(Spec):
    """One Adam over all weights."""

    lr: NonNegative = Field(1e-3, description="learning rate")
    betas: Betas = Field((0.9, 0.99), description="decay rates; 0.9 and 0.999 in the code")
    weight_decay: NonNegative = Field(0, description="factor of the squared weights' gradient")


class AdamPairSpec(Spec):
    """One Adam for what finds patches and one for what is done with them."""

    lr_detector: NonNegative = Field(1e-3, description="learning rate of eta; 1e-4 in the code")
    lr_task: NonNegative = Field(1e-3, description="learning rate of tau; 1e-4 in the code")
    betas: Betas = Field((0.9, 0.99), description="decay rates of both; 0.9, 0.999 in the code")


class OfficialSpec(Spec):
    """What the official code does and this suite does not by itself (``compat=official``)."""

    gray_copies: Count = Field(
        3, description="equal channels that official networks see of a gray image (U21); else 1"
    )
    image_statistics: bool = Field(
        True,
        description="whether the detector's batch norm uses the statistics of each single image at "
        "test, instead of averages from training (B1)",
    )
    border: bool = Field(
        True, description="how patches that leave the image are sampled (A2): official_places"
    )
    suppressed_zero: bool = Field(
        True, description="whether suppressed cells have the score 0, above negative peaks (B9)"
    )
    weigh_offsets: bool = Field(
        True,
        description="whether the weight exp(-a * loss) is on the offsets' loss too; false in the "
        "code on PASCAL+COCO (A3)",
    )


def check_official_patch(networks: str, patch_size: int) -> None:
    """Raise a ``ValueError`` for official networks on patches of another size than theirs."""
    if networks == "official" and patch_size != OFFICIAL_PATCH:
        raise ValueError(
            f"networks official takes patches of {OFFICIAL_PATCH} px, not {patch_size}"
        )

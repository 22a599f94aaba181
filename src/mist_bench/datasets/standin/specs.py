"""The parameters of stand-in scenes, none of them in the paper; every range is drawn uniformly."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from mist_bench.spec import Fraction, Share, Spec, within


class LayoutSpec(Spec):
    """What lies where."""

    width: within(64, 4096, int) = Field((288, 352), description="of the scene, px")
    height: within(64, 4096, int) = Field((240, 288), description="of the scene, px")
    window: within(0.25, 1) = Field(
        (0.65, 0.95), description="side of the window, in shorter sides of the scene"
    )
    coverage: Share = Field(
        0.3, description="part of the window that the boxes of its objects fill (Sec. 5.2: 30%)"
    )
    share: within(0.1, 0.9) = Field(
        (0.35, 0.65), description="part of that which the first of two objects gets"
    )
    distractors: within(0, 100) = Field(
        (3, 7), description="number of other things in an area of the window's size"
    )
    distractor_size: within(0.05, 1) = Field(
        (0.2, 0.45), description="root of the area of their box, in sides of the window"
    )
    shapes: within(0, 1000, int) = Field(
        (4, 12), description="number of polygons in the background"
    )
    min_visible: Annotated[float, Field(ge=0.1, le=1)] = Field(
        0.8, description="least part of an object's ink that stays visible"
    )


class CameraSpec(Spec):
    """How a picture is lit and photographed."""

    shadow: within(0, 1) = Field((0, 0.5), description="opacity of shadows")
    softness: within(0, 100) = Field(
        (2, 5), description="standard deviation of their blur, px; they fall up to twice as far"
    )
    blur: within(0, 100) = Field((0, 1), description="standard deviation of the lens's blur, px")
    noise: within(0, 255) = Field(
        (2, 8), description="standard deviation of the sensor's noise, of 255"
    )
    quality: within(1, 95, int) = Field((70, 95), description="of JPEG")


class LookSpec(Spec):
    """How drawings vary."""

    resolution: Annotated[int, Field(ge=64, le=1024)] = Field(
        160, description="em of the largest rendering that drawings are made from, px"
    )
    rotation: Annotated[float, Field(ge=0, le=180)] = Field(
        20, description="greatest turn to either side, degrees"
    )
    stretch: Annotated[float, Field(ge=0, le=2)] = Field(
        0.15, description="greatest change of the ratio of width to height, as a natural logarithm"
    )
    aspect: within(0.1, 10) = Field(
        (0.6, 1.7), description="limits of the ratio of width to height, after turn and stretch"
    )
    hue: Annotated[float, Field(ge=0, le=180)] = Field(
        90, description="greatest turn of the colors about the gray axis, degrees"
    )
    tint: within(0, 1) = Field((0, 0.4), description="strength of a colored light")
    line: Fraction = Field(0.4, description="greatest lightness of the black lines")
    brightness: within(-1, 1) = Field(
        (-0.12, 0.12), description="what is added to intensities in [0, 1]"
    )
    contrast: within(0, 2) = Field((0.65, 1), description="factor of intensities about 0.5")
    shading: Fraction = Field(
        0.3, description="greatest change of intensity from the middle to an end, any direction"
    )


class StandinSpec(Spec):
    """Scenes that are drawn where there are no photographs."""

    layout: LayoutSpec = Field(LayoutSpec(), description="what lies where")
    camera: CameraSpec = Field(CameraSpec(), description="how a picture is lit and photographed")
    look: LookSpec = Field(LookSpec(), description="how drawings vary")

    @model_validator(mode="after")
    def _check_room(self) -> StandinSpec:
        """Two objects always fit the window in opposite corners."""
        narrow, wide = self.look.aspect
        # of two boxes with these ratios that fill the coverage, widths or heights add up and fit
        most = 1 / max(wide, 1 / narrow, 1 + (wide / narrow) ** 0.5)
        if self.layout.coverage > most:
            raise ValueError(
                f"objects of aspect {narrow:g}..{wide:g} do not fit the window: layout.coverage "
                f"must be at most {most:.2f}, got {self.layout.coverage:g}"
            )
        return self

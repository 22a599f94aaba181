"""Pictures from drawings: a cluttered background, shadows, what hides what, and a camera.

Not in the paper: the stand-in for photographs. H, W size of the picture; h, w size of a drawing.
Canvases are (H, W, 3) float32 in [0, 1]; masks are (H, W) bool.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from mist_bench.datasets.standin.emoji import INK
from mist_bench.datasets.standin.specs import CameraSpec

HALO = 3  # a shadow is cut off at this many standard deviations


@dataclass(frozen=True)
class Sprite:
    """A drawing in a picture, which it may leave.

    Attributes:
        pixels: (h, w, 4) float32 RGB, not premultiplied, and alpha, in [0, 1].
        left: column of its first pixel.
        top: row of its first pixel.
    """

    pixels: NDArray[np.float32]
    left: int
    top: int

    @property
    def ink(self) -> NDArray[np.bool_]:
        """Which pixels, (h, w), count as the thing drawn."""
        return self.pixels[..., 3] >= INK / 255


def background(rng: Generator, width: int, height: int, shapes: int) -> NDArray[np.float32]:
    """Return a canvas of clutter: noise of several scales, a wave, and outlined polygons."""
    w, h = (width + 1) // 2, (height + 1) // 2  # a quarter of the time; nothing in it is finer
    field = np.zeros((h, w), np.float32)
    persistence = rng.uniform(0.4, 0.9)
    for octave in range(1, 7):
        grid = rng.standard_normal((2**octave, 2**octave), dtype=np.float32)
        smooth = Image.fromarray(grid).resize((w, h), Image.Resampling.BICUBIC)
        field += persistence**octave * np.asarray(smooth)
    direction, wavelength = rng.uniform(0, 2 * np.pi), rng.uniform(6, 60)
    x, y = np.arange(w, dtype=np.float32), np.arange(h, dtype=np.float32)[:, None]
    distance = x * np.cos(direction) + y * np.sin(direction)
    field += rng.uniform(0, 0.6) * np.sin(2 * np.pi * distance / wavelength + field)
    palette = rng.random((rng.integers(2, 6), 3))
    gray = palette.mean(axis=1, keepdims=True)
    palette = 255 * (gray + rng.uniform(0.1, 1) * (palette - gray))
    stops = np.linspace(0, 255, len(palette))
    table = np.stack([np.interp(np.arange(256), stops, channel) for channel in palette.T], axis=1)
    levels = (255 / np.ptp(field) * (field - field.min())).astype(np.uint8)
    image = Image.fromarray(table.astype(np.uint8)[levels])
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    pen = ImageDraw.Draw(image)
    for _ in range(shapes):
        center, radius = rng.uniform(0, (width, height)), rng.uniform(0.05, 0.3) * height
        angles = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(3, 8)))
        corners = center + radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)
        fill, outline = (tuple(rng.integers(256, size=3).tolist()) for _ in range(2))
        pen.polygon(corners.ravel().tolist(), fill, outline, int(rng.integers(1, 5)))
    return np.asarray(image, dtype=np.float32) / 255


def stack(
    objects: Sequence[Sprite],
    things: Sequence[Sprite],
    rng: Generator,
    *,
    width: int,
    height: int,
    min_visible: float,
) -> tuple[list[Sprite], list[Sprite], list[NDArray[np.bool_]]]:
    """Return the things under and those over the objects, and a mask of each object's visible ink.

    Args:
        objects: apart from each other and inside the picture.
        things: each goes over the objects by a fair coin, unless it would hide too much.
        rng: the coin.
        width: W, px.
        height: H, px.
        min_visible: least part of an object's ink that stays visible.
    """
    visible = [np.zeros((height, width), bool) for _ in objects]
    for mask, sprite in zip(visible, objects, strict=True):
        inside, part = _overlap(sprite, width, height)
        mask[inside] = sprite.ink[part]
    least = [min_visible * np.count_nonzero(mask) for mask in visible]
    under, over = [], []
    for thing in things:
        inside, part = _overlap(thing, width, height)
        ink = thing.ink[part]
        left = [np.count_nonzero(mask) - np.count_nonzero(mask[inside] & ink) for mask in visible]
        if rng.random() < 0.5 or any(n < limit for n, limit in zip(left, least, strict=True)):
            under.append(thing)
            continue
        over.append(thing)
        for mask in visible:
            mask[inside] &= ~ink
    return under, over, visible


def paint(
    canvas: NDArray[np.float32], sprites: Sequence[Sprite], rng: Generator, camera: CameraSpec
) -> None:
    """Paint ``sprites`` on ``canvas``, bottom first, each with a shadow from the same light."""
    opacity, softness = rng.uniform(*camera.shadow), rng.uniform(*camera.softness)
    right, down = np.round(rng.uniform(-2 * softness, 2 * softness, size=2)).astype(int).tolist()
    height, width, _ = canvas.shape
    border = int(np.ceil(HALO * softness))
    for sprite in sprites:
        alpha = np.pad(sprite.pixels[..., 3:], ((border, border), (border, border), (0, 0)))
        shadow = Sprite(alpha, sprite.left - border + right, sprite.top - border + down)
        inside, part = _overlap(shadow, width, height)
        shape = Image.fromarray((255 * alpha[..., 0]).astype(np.uint8))
        soft = np.asarray(shape.filter(ImageFilter.GaussianBlur(softness)), dtype=np.float32)
        canvas[inside] *= 1 - (opacity / 255) * soft[part][..., None]
        inside, part = _overlap(sprite, width, height)
        pixels = sprite.pixels[part]
        canvas[inside] += pixels[..., 3:] * (pixels[..., :3] - canvas[inside])


def photograph(
    canvas: NDArray[np.float32], rng: Generator, camera: CameraSpec
) -> NDArray[np.uint8]:
    """Return (H, W, 3) bytes of ``canvas`` through a lens and onto a sensor."""
    noise = rng.standard_normal((*canvas.shape[:2], 1), dtype=np.float32)
    noise *= np.float32(rng.uniform(*camera.noise))
    image = Image.fromarray((255 * canvas + 0.5).astype(np.uint8))
    blurred = np.asarray(image.filter(ImageFilter.GaussianBlur(rng.uniform(*camera.blur))))
    noisy = blurred + np.rint(noise).astype(np.int16)
    return np.clip(noisy, 0, 255).astype(np.uint8)


def _overlap(sprite: Sprite, width: int, height: int) -> tuple[tuple, tuple]:
    """Return the slices of the picture and of the drawing where the two meet."""
    h, w, _ = sprite.pixels.shape
    left, top = sprite.left, sprite.top
    x0, x1 = np.clip((left, left + w), 0, width).tolist()
    y0, y1 = np.clip((top, top + h), 0, height).tolist()
    return np.s_[y0:y1, x0:x1], np.s_[y0 - top : y1 - top, x0 - left : x1 - left]

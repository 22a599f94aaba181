"""Scenes that stand in for the photographs of PASCAL+COCO where a machine has none (Sec. 5.2).

Not in the paper: one or two drawings of the twenty VOC classes among drawings of other things on
clutter, written as a VOC devkit, so that the same code reads them as reads the photographs. A
method must tell classes apart to find an object: the other things have the same style, sizes and
light, lie over and under the objects, and like the background do not depend on the classes.

Objects lie in a window, a square of which their boxes fill ``coverage``, so that most scenes pass
the paper's filters and have such a crop. The window may be anywhere in the scene.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image

from mist_bench.datasets.photographs.voc import VOC_CLASSES
from mist_bench.datasets.standin.compositing import Sprite, background, paint, photograph, stack
from mist_bench.datasets.standin.emoji import DISTRACTORS, box_of, designs, draw
from mist_bench.datasets.standin.specs import StandinSpec

TRIES = 50  # random places for two objects before they go to opposite corners of the window


@dataclass(frozen=True)
class Scene:
    """A picture and the objects in it, in VOC's terms.

    Attributes:
        image: (H, W, 3) uint8.
        names: the objects' classes.
        boxes: (left, top, right, bottom) of their visible ink, px, right and bottom exclusive.
        occluded: whether something hides ink of the object.
    """

    image: NDArray[np.uint8]
    names: Sequence[str]
    boxes: Sequence[tuple[int, int, int, int]]
    occluded: Sequence[bool]


def write_devkit(folder: Path, split: str, count: int, rng: Generator, spec: StandinSpec) -> None:
    """Write ``folder``/VOCdevkit/VOC2007 with ``count`` scenes of ``split``.

    Scene i draws from the i-th child of ``rng``, so that ``count`` does not change earlier scenes.

    Args:
        folder: where to write; splits may share it.
        split: ``train``, ``val`` or ``test``: whose designs and hues to draw.
        count: number of scenes.
        rng: the only source of randomness.
        spec: what scenes look like.

    Raises:
        ValueError: if a drawing has no ink, in one line.
        OSError: if the disk refuses.
    """
    root = folder / "VOCdevkit" / "VOC2007"
    images, notes, lists = root / "JPEGImages", root / "Annotations", root / "ImageSets" / "Main"
    for path in (images, notes, lists):
        path.mkdir(parents=True, exist_ok=True)
    names = [f"{split}_{i:06d}" for i in range(1, count + 1)]
    for name in names:
        child = rng.spawn(1)[0]
        scene = render_scene(child, split, spec)
        quality = _integer(child, spec.camera.quality)
        Image.fromarray(scene.image).save(images / f"{name}.jpg", quality=quality)
        (notes / f"{name}.xml").write_text(annotation(scene, f"{name}.jpg"), encoding="utf-8")
    (lists / f"{split}.txt").write_text("".join(f"{name}\n" for name in names), encoding="utf-8")


def render_scene(rng: Generator, split: str, spec: StandinSpec) -> Scene:
    """Return a scene of one or two objects, of classes drawn uniformly."""
    layout = spec.layout
    width, height = _integer(rng, layout.width), _integer(rng, layout.height)
    side = rng.uniform(*layout.window) * min(width, height)
    names = [VOC_CLASSES[k] for k in rng.integers(1, len(VOC_CLASSES), size=rng.integers(1, 3))]
    first = rng.uniform(*layout.share) if len(names) == 2 else 1.0
    areas = np.array([first, 1 - first]) * layout.coverage * side**2
    objects = [
        draw(rng.choice(designs(split, name)), rng, area=area, split=split, look=spec.look)
        for name, area in zip(names, areas, strict=False)
    ]
    sprites = _place(objects, rng, side=round(side), width=width, height=height)
    things = []
    # the window has no more of them than its surroundings: they must not tell where it is
    for _ in range(round(rng.uniform(*layout.distractors) * width * height / side**2)):
        area = (rng.uniform(*layout.distractor_size) * side) ** 2
        pixels = draw(rng.choice(DISTRACTORS), rng, area=area, split=split, look=spec.look)
        h, w, _ = pixels.shape
        left, top = np.round(rng.uniform(0, (width, height)) - (w / 2, h / 2)).astype(int).tolist()
        things.append(Sprite(pixels, left, top))
    under, over, visible = stack(
        sprites, things, rng, width=width, height=height, min_visible=layout.min_visible
    )
    canvas = background(rng, width, height, _integer(rng, layout.shapes))
    paint(canvas, [*under, *sprites, *over], rng, spec.camera)
    hidden = [
        bool(np.count_nonzero(mask) < np.count_nonzero(sprite.ink))
        for mask, sprite in zip(visible, sprites, strict=True)
    ]
    image = photograph(canvas, rng, spec.camera)
    return Scene(image, names, [box_of(mask) for mask in visible], hidden)


def annotation(scene: Scene, filename: str) -> str:
    """Return VOC's XML of a scene: pixels count from 1, and a box includes its last one.

    No object leaves the scene or is too hidden to count: ``truncated`` and ``difficult`` are 0.
    """
    height, width, depth = scene.image.shape
    objects = "".join(
        f"  <object><name>{name}</name><truncated>0</truncated><occluded>{int(hidden)}</occluded>"
        f"<difficult>0</difficult><bndbox><xmin>{left + 1}</xmin><ymin>{top + 1}</ymin>"
        f"<xmax>{right}</xmax><ymax>{bottom}</ymax></bndbox></object>\n"
        for name, (left, top, right, bottom), hidden in zip(
            scene.names, scene.boxes, scene.occluded, strict=True
        )
    )
    return (
        f"<annotation>\n  <folder>VOC2007</folder><filename>{filename}</filename>\n"
        f"  <size><width>{width}</width><height>{height}</height><depth>{depth}</depth></size>\n"
        f"{objects}</annotation>\n"
    )


def _integer(rng: Generator, bounds: tuple[int, int]) -> int:
    """Return a whole number from the lowest to the highest of ``bounds``."""
    return int(rng.integers(bounds[0], bounds[1], endpoint=True))


def _place(
    drawings: Sequence[NDArray], rng: Generator, *, side: int, width: int, height: int
) -> list[Sprite]:
    """Return the drawings in a random window, apart from each other."""
    origin = rng.integers((width - side, height - side), endpoint=True)
    sizes = [np.array(pixels.shape[1::-1]) for pixels in drawings]
    for _ in range(TRIES):
        corners = [rng.integers(side - size, endpoint=True) for size in sizes]
        ends = [corner + size for corner, size in zip(corners, sizes, strict=True)]
        if (ends[0] <= corners[-1]).any() or (ends[-1] <= corners[0]).any() or len(sizes) == 1:
            break
    else:
        corners = [np.zeros(2, int), side - sizes[1]]
    return [
        Sprite(pixels, *(origin + corner).tolist())
        for pixels, corner in zip(drawings, corners, strict=True)
    ]

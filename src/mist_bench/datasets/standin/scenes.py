"""Scenes that stand in for the photographs of PASCAL+COCO where a machine has none (Sec. 5.2).

Not in the paper: one or two drawings of the twenty VOC classes among drawings of other things on
clutter, written as a VOC devkit, so that the same code reads them as reads the photographs. A
method must tell classes apart to find an object: the other things have the same style, sizes and
light, lie over and under the objects, and like the background do not depend on the classes.

Objects lie in a window, a square of which their boxes fill ``coverage``, so that most scenes pass
the paper's filters and have such a crop. The window may be anywhere in the scene.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar
from xml.etree import ElementTree

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image

from mist_bench.datasets.photographs.voc import VOC_CLASSES
from mist_bench.datasets.standin.compositing import (
    Camera,
    Sprite,
    background,
    paint,
    photograph,
    stack,
)
from mist_bench.datasets.standin.emoji import (
    DISTRACTORS,
    OWNERS,
    Counts,
    Look,
    Range,
    box_of,
    designs,
    draw,
)

TRIES = 50  # random places for two objects before they go to opposite corners of the window
Record = TypeVar("Record")
# the values that can be drawn, by field
LIMITS = {
    **{"width": (64, 4096), "height": (64, 4096), "window": (0.25, 1), "coverage": (0.01, 1)},
    **{"share": (0.1, 0.9), "distractors": (0, 100), "distractor_size": (0.05, 1)},
    **{"shapes": (0, 1000), "min_visible": (0.1, 1)},
    **{"shadow": (0, 1), "softness": (0, 100), "blur": (0, 100), "noise": (0, 255)},
    **{"quality": (1, 95), "resolution": (64, 1024), "rotation": (0, 180), "stretch": (0, 2)},
    **{"aspect": (0.1, 10), "hue": (0, 180), "tint": (0, 1), "line": (0, 1)},
    **{"brightness": (-1, 1), "contrast": (0, 2), "shading": (0, 1)},
}


@dataclass(frozen=True)
class Layout:
    """What lies where; every range is drawn uniformly.

    Attributes:
        width: of the scene, px.
        height: of the scene, px.
        window: side of the window, in shorter sides of the scene.
        coverage: part of the window that the boxes of its objects fill (Sec. 5.2: 30%).
        share: part of that which the first of two objects gets.
        distractors: number of other things in an area of the window's size.
        distractor_size: root of the area of their box, in sides of the window.
        shapes: number of polygons in the background.
        min_visible: least part of an object's ink that stays visible.
    """

    width: Counts
    height: Counts
    window: Range
    coverage: float
    share: Range
    distractors: Range
    distractor_size: Range
    shapes: Counts
    min_visible: float


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


def write_devkit(
    folder: Path,
    split: str,
    count: int,
    rng: Generator,
    *,
    layout: Mapping[str, Any],
    camera: Mapping[str, Any],
    look: Mapping[str, Any],
) -> None:
    """Write ``folder``/VOCdevkit/VOC2007 with ``count`` scenes of ``split``.

    Scene i draws from the i-th child of ``rng``, so that ``count`` does not change earlier scenes.

    Args:
        folder: where to write; splits may share it.
        split: ``train``, ``val`` or ``test``: whose designs and hues to draw.
        count: number of scenes, >= 0.
        rng: the only source of randomness.
        layout: the fields of ``Layout``; a range is a list of the lowest and the highest value.
        camera: the fields of ``compositing.Camera``.
        look: the fields of ``emoji.Look``.

    Raises:
        ValueError: for values that cannot be used, in one line.
        OSError: if the disk refuses.
    """
    if split not in OWNERS:
        raise ValueError(f"split must be train, val or test, got {split!r}")
    if count < 0:
        raise ValueError(f"count must be >= 0, got {count}")
    plan = _record(Layout, layout), _record(Camera, camera), _record(Look, look)
    _check_room(plan[0], plan[2])
    root = Path(folder) / "VOCdevkit" / "VOC2007"
    images, notes, lists = root / "JPEGImages", root / "Annotations", root / "ImageSets" / "Main"
    for path in (images, notes, lists):
        path.mkdir(parents=True, exist_ok=True)
    names = [f"{split}_{i:06d}" for i in range(1, count + 1)]
    for name in names:
        child = rng.spawn(1)[0]
        scene = render_scene(child, split, *plan)
        quality = _integer(child, plan[1].quality)
        Image.fromarray(scene.image).save(images / f"{name}.jpg", quality=quality)
        (notes / f"{name}.xml").write_text(annotation(scene, f"{name}.jpg"), encoding="utf-8")
    (lists / f"{split}.txt").write_text("".join(f"{name}\n" for name in names), encoding="utf-8")


def render_scene(rng: Generator, split: str, layout: Layout, camera: Camera, look: Look) -> Scene:
    """Return a scene of one or two objects, of classes drawn uniformly."""
    width, height = _integer(rng, layout.width), _integer(rng, layout.height)
    side = rng.uniform(*layout.window) * min(width, height)
    names = [VOC_CLASSES[k] for k in rng.integers(1, len(VOC_CLASSES), size=rng.integers(1, 3))]
    objects = _draw_objects(names, rng, side=side, split=split, layout=layout, look=look)
    sprites = _place(objects, rng, side=round(side), width=width, height=height)
    things = []
    # the window has no more of them than its surroundings: they must not tell where it is
    for _ in range(round(rng.uniform(*layout.distractors) * width * height / side**2)):
        area = (rng.uniform(*layout.distractor_size) * side) ** 2
        pixels = draw(rng.choice(DISTRACTORS), rng, area=area, split=split, look=look)
        h, w, _ = pixels.shape
        left, top = np.round(rng.uniform(0, (width, height)) - (w / 2, h / 2)).astype(int).tolist()
        things.append(Sprite(pixels, left, top))
    under, over, visible = stack(
        sprites, things, rng, width=width, height=height, min_visible=layout.min_visible
    )
    canvas = background(rng, width, height, _integer(rng, layout.shapes))
    paint(canvas, [*under, *sprites, *over], rng, camera)
    hidden = [
        bool(np.count_nonzero(mask) < np.count_nonzero(sprite.ink))
        for mask, sprite in zip(visible, sprites, strict=True)
    ]
    return Scene(photograph(canvas, rng, camera), names, [box_of(mask) for mask in visible], hidden)


def annotation(scene: Scene, filename: str) -> str:
    """Return VOC's XML of a scene: pixels count from 1, and a box includes its last one.

    No object leaves the scene or is too hidden to count: ``truncated`` and ``difficult`` are 0.
    """
    height, width, depth = scene.image.shape
    root = ElementTree.Element("annotation")
    _append(root, folder="VOC2007", filename=filename)
    _append(ElementTree.SubElement(root, "size"), width=width, height=height, depth=depth)
    _append(root, segmented=0)
    for name, box, hidden in zip(scene.names, scene.boxes, scene.occluded, strict=True):
        entry = ElementTree.SubElement(root, "object")
        _append(entry, name=name, pose="Unspecified", truncated=0, occluded=int(hidden))
        _append(entry, difficult=0)
        left, top, right, bottom = box
        corners = {"xmin": left + 1, "ymin": top + 1, "xmax": right, "ymax": bottom}
        _append(ElementTree.SubElement(entry, "bndbox"), **corners)
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode") + "\n"


def _append(parent: ElementTree.Element, **children: object) -> None:
    """Add elements with a text to ``parent``."""
    for tag, value in children.items():
        ElementTree.SubElement(parent, tag).text = str(value)


def _integer(rng: Generator, bounds: Counts) -> int:
    """Return a whole number from the lowest to the highest of ``bounds``."""
    return int(rng.integers(bounds[0], bounds[1], endpoint=True))


def _draw_objects(
    names: Sequence[str], rng: Generator, *, side: float, split: str, layout: Layout, look: Look
) -> list[NDArray[np.float32]]:
    """Return a drawing of each class, with boxes that fill ``coverage`` of the window."""
    share = rng.uniform(*layout.share) if len(names) == 2 else 1.0
    areas = np.array([share, 1 - share]) * layout.coverage * side**2
    return [
        draw(rng.choice(designs(split, name)), rng, area=area, split=split, look=look)
        for name, area in zip(names, areas, strict=False)
    ]


def _place(
    drawings: Sequence[NDArray], rng: Generator, *, side: int, width: int, height: int
) -> list[Sprite]:
    """Return the drawings in a random window, apart from each other."""
    origin = rng.integers((width - side, height - side), endpoint=True)
    sizes = [np.array(pixels.shape[1::-1]) for pixels in drawings]
    for _ in range(TRIES):
        corners = [rng.integers(side - size, endpoint=True) for size in sizes]
        if _are_apart(corners, sizes):
            break
    else:
        corners = [np.zeros(2, int), side - sizes[1]]
    return [
        Sprite(pixels, *(origin + corner).tolist())
        for pixels, corner in zip(drawings, corners, strict=True)
    ]


def _are_apart(corners: Sequence[NDArray], sizes: Sequence[NDArray]) -> bool:
    """Return whether no two boxes, given by (2,) xy of corner and size, share a pixel."""
    boxes = [(corner, corner + size) for corner, size in zip(corners, sizes, strict=True)]
    return all(
        (a[1] <= b[0]).any() or (b[1] <= a[0]).any() for a, b in itertools.combinations(boxes, 2)
    )


def _record(kind: type[Record], values: Mapping[str, Any]) -> Record:
    """Return a ``kind`` of ``values``, each a number or a range within ``LIMITS``."""
    where = f"standin.{kind.__name__.lower()}"
    try:
        record = kind(**values)
    except TypeError as error:
        raise ValueError(f"{where}: {error}") from None
    for field in fields(kind):  # their types are strings: the modules postpone annotations
        value, (lowest, highest) = getattr(record, field.name), LIMITS[field.name]
        whole, single = field.type in ("int", "Counts"), field.type in ("int", "float")
        form = f"a {'whole ' * whole}number" if single else f"[low, high] {'whole ' * whole}numbers"
        expected = f"{where}.{field.name} must be {form} in {lowest:g}..{highest:g}, got {value!r}"
        numbers = [value] if single else value
        if not isinstance(numbers, list | tuple) or len(numbers) != (1 if single else 2):
            raise ValueError(expected)
        kinds = (int,) if whole else (int, float)
        if any(type(number) not in kinds for number in numbers):  # a bool is no number here
            raise ValueError(expected)
        if not lowest <= numbers[0] <= numbers[-1] <= highest:
            raise ValueError(expected)
    return record


def _check_room(layout: Layout, look: Look) -> None:
    """Raise a ``ValueError`` unless two objects always fit the window in opposite corners."""
    narrow, wide = look.aspect
    # of two boxes with these ratios that fill the coverage: their widths' sum or heights' sum fits
    needed = layout.coverage * max(wide, 1 / narrow, 1 + (wide / narrow) ** 0.5)
    if needed > 1:
        raise ValueError(
            f"standin: objects of aspect {narrow:g}..{wide:g} do not fit the window: "
            f"coverage must be <= {layout.coverage / needed:.2f}, got {layout.coverage:g}"
        )

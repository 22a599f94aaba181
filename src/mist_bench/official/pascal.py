"""The authors' published PASCAL+COCO: crops with annotations in VOC's format, in three splits.

The layout is that of ubc-vision/mist, datasets/pascal.py: Annotations, JPEGImages and
ImageSets/Main in one folder. The photographs are cut already, so that nothing is filtered or cut
again. N images, L = ``max_instances``, H and W size of the stored images.
"""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image

from mist_bench.boxes import xyxy_to_cxcywh
from mist_bench.config.schema import SPLITS
from mist_bench.datasets.files import Split, padded
from mist_bench.datasets.photographs.annotations import (
    Photograph,
    Reading,
    UnusableError,
    clip_box,
    inside,
)
from mist_bench.datasets.photographs.crops import FORMATS, open_image
from mist_bench.datasets.photographs.report import problems_text
from mist_bench.datasets.photographs.voc import photo_id, read_folder, read_list
from mist_bench.spec import Count, Folder

SOURCE = "the authors' PASCAL+COCO"
Cut = tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.float32]]


def sizes(root: Path) -> dict[str, int]:
    """Return how many images each split has, of those that are in ``root``.

    Raises:
        ValueError: if none is.
    """
    paths = {split: list_path(root, split) for split in SPLITS}
    there = {split: read_list(path) for split, path in paths.items() if path.is_file()}
    if not any(there.values()):
        raise ValueError(f"{root}: no image is listed in ImageSets/Main/{{train,val,test}}.txt")
    return {split: len(names) for split, names in there.items() if names}


def canvas(root: Path, side: int, multiple: int) -> tuple[int, int]:
    """Return the least (H, W), whole multiples, that holds every image of shorter side ``side``."""
    found = [(side, side)]
    for split in sizes(root):
        for name in read_list(list_path(root, split)):
            try:
                with Image.open(image_path(root, name), formats=FORMATS) as image:
                    found.append(resized(image.size, side)[::-1])
            except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
                continue  # the split that needs it will tell
    H, W = (multiple * math.ceil(length / multiple) for length in np.max(found, axis=0).tolist())
    return H, W


def make_split(
    split: str,
    size: int,
    rng: Generator,
    *,
    root: Folder,
    side: Count,
    canvas: tuple[Count, Count],
    max_instances: Count,
) -> Split:
    """Return the first ``size`` images of a split, resized and put on a common black canvas.

    Args:
        split: ``train``, ``val`` or ``test``.
        size: the most images.
        rng: not used: nothing is random.
        root: folder with Annotations, JPEGImages and ImageSets.
        side: what the shorter side of an image becomes, px (official code, json/pascal.json: 224).
        canvas: (H, W); images lie in its upper left corner, as in a batch of the official code.
        max_instances: L; further objects are left out (official code, datasets/pascal.py).

    Returns:
        The split: ``images`` (N, 3, H, W) uint8; ``counts`` (N,) in 0..L; ``labels`` (N, L), places
        in ``VOC_CLASSES``; ``boxes`` (N, L, 4) cxcywh px; and what could not be used as a file.

    Raises:
        ValueError: in one line, if no image is left or names are not of different images.
    """
    folder = Path(root).resolve()
    names = read_list(list_path(folder, split))[:size]
    reading = read_folder(folder, folder)
    check_different(folder, split, names, reading)
    photos = {photo.id: photo for photo in reading.photographs}
    ids = {photo_id(folder.name, name): name for name in names}
    problems = [each for each in reading.problems if each.photo in ids]
    cuts = []
    for key, name in ids.items():
        if key not in photos:
            continue  # its problem is among the reading's
        try:
            cuts.append(resize(photos[key], image_path(folder, name), side, max_instances))
        except UnusableError as problem:
            problems.append(problem.of(key, f"JPEGImages/{name}.jpg"))
    if not cuts:
        first = f", first {problems[0].photo}: {problems[0].detail}" if problems else ""
        raise ValueError(f"{root}: split {split} has no image that can be used{first}")
    files = {f"{split}_problems.csv": problems_text(problems)}
    pixels, labels, boxes = zip(*cuts, strict=True)
    images = np.zeros((len(cuts), 3, *canvas), dtype=np.uint8)
    for image, part in zip(images, pixels, strict=True):
        image[:, : part.shape[1], : part.shape[2]] = part
    return Split({"images": images, **padded(labels, boxes, max_instances)}, SOURCE, files)


def list_path(root: Path, split: str) -> Path:
    """Return the list of a split's images."""
    return root / "ImageSets" / "Main" / f"{split}.txt"


def check_different(folder: Path, split: str, names: list[str], reading: Reading) -> None:
    """Raise a ``ValueError`` if a split lists an image twice, or an id stands for two names.

    Of a folder ``VOC2007``, the names 000001 and 2007_000001 have one id: elsewhere, these are
    copies of one photograph, but here they may be different crops.
    """
    if repeated := [name for name, count in Counter(names).items() if count > 1]:
        raise ValueError(f"{list_path(folder, split)}: {repeated[0]} is listed more than once")
    ids = [photo.id for photo in reading.photographs] + [each.photo for each in reading.problems]
    if shared := [key for key, count in Counter(ids).items() if count > 1]:
        raise ValueError(
            f"{folder}: two names in ImageSets/Main stand for {shared[0]}: rename the folder, "
            "whose name says that images of that year have no year in their names"
        )


def image_path(root: Path, name: str) -> Path:
    """Return the image of a name in a list, which may not lead elsewhere."""
    return root / "JPEGImages" / inside(f"{name}.jpg")


def resized(size: tuple[int, int], side: int) -> tuple[int, int]:
    """Return the (W, H) of an image whose shorter side becomes ``side``, px."""
    W, H = (round(length * side / min(size)) for length in size)
    return W, H


def resize(photo: Photograph, path: Path, side: int, max_instances: int) -> Cut:
    """Return an image (3, h, w) of shorter side ``side``, its labels and cxcywh boxes in px."""
    image = open_image(path)
    size = image.size
    W, H = resized(size, side)
    instances = photo.instances[:max_instances]
    corners = [clip_box(each.box, *size) for each in instances]
    scale = np.array([W / size[0], H / size[1]] * 2)
    boxes = xyxy_to_cxcywh(np.array(corners).reshape(-1, 4) * scale - 0.5)
    pixels = np.asarray(image.resize((W, H), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    labels = np.array([each.label for each in instances], dtype=np.int64)
    return pixels, labels, boxes.astype(np.float32)

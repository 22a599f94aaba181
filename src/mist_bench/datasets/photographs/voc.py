"""PASCAL VOC: the annotated photographs of a devkit's folder of one year."""

from __future__ import annotations

from pathlib import Path
from xml.etree.ElementTree import Element, ParseError

from defusedxml.ElementTree import fromstring

from mist_bench.datasets.photographs.annotations import (
    Box,
    Instance,
    Photograph,
    Problem,
    Reading,
    UnusableError,
    clip_box,
    image_size,
    inside,
    number,
)

# in the official code's order (datasets/pascal.py), which is the alphabet's; 0 is no object
VOC_CLASSES = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus"),
    *("car", "cat", "chair", "cow", "diningtable", "dog", "horse"),
    *("motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)

DEVKITS = ("VOCdevkit", "voc/VOCdevkit", ".")  # where the folders of years may lie
LISTS = ("train", "val", "trainval", "test")
LABELS = {name: label for label, name in enumerate(VOC_CLASSES[1:], start=1)}
CORNERS = ("xmin", "ymin", "xmax", "ymax")


def find_voc(root: Path, year: str) -> Path | None:
    """Return the folder ``year`` (``VOC2007``) of the devkit at or below ``root``, if any."""
    places = (root / devkit / year for devkit in DEVKITS)
    return next((place for place in places if (place / "Annotations").is_dir()), None)


def read_voc(root: Path, year: str) -> Reading | None:
    """Return the photographs of one year of PASCAL VOC; ``None`` if it is not there.

    Args:
        root: folder with the devkit, or the devkit itself.
        year: name of the year's folder, ``VOC2007`` to ``VOC2012``.
    """
    folder = find_voc(root, year)
    return None if folder is None else read_folder(root, folder)


def read_folder(root: Path, folder: Path) -> Reading:
    """Return the photographs of a folder laid out as a year of PASCAL VOC.

    Where ``ImageSets/Main`` has lists, only listed photographs count: from 2008 on, those that
    are annotated for other tasks have objects without a box (devkit's documentation).

    Args:
        root: ``folder`` or one above it; files are named below it.
        folder: with Annotations, JPEGImages and ImageSets; its name begins the photographs' ids.
    """
    annotated = {path.stem for path in (folder / "Annotations").glob("*.xml")}
    listed = _listed(folder)
    wanted = annotated if listed is None else listed
    reading = Reading(unlisted=len(annotated - wanted))
    for stem in sorted(wanted):
        file = f"Annotations/{stem}.xml"
        try:
            if stem not in annotated:
                inside(stem)  # raises for a name that leads elsewhere
                raise UnusableError("missing annotation", "listed in ImageSets/Main")
            reading.photographs.append(_photograph(root, folder, stem))
        except UnusableError as problem:
            where = (folder.relative_to(root) / file).as_posix()
            reading.problems.append(
                Problem(photo_id(folder.name, stem), where, problem.reason, problem.detail)
            )
    return reading


def photo_id(year: str, stem: str) -> str:
    """Return one id for a photograph's copies: later years hold earlier ones under their year.

    VOC2012's ``2007_000027`` is VOC2007's ``000027``.
    """
    taken, _, rest = stem.partition("_")
    return (
        f"VOC{taken}/{rest}" if rest and len(taken) == 4 and taken.isdigit() else f"{year}/{stem}"
    )


def _listed(folder: Path) -> set[str] | None:
    """Return the names in the year's lists of whole splits; ``None`` if it has no such list."""
    paths = [folder / "ImageSets" / "Main" / f"{name}.txt" for name in LISTS]
    texts = [path.read_text("utf-8", errors="replace") for path in paths if path.is_file()]
    lines = [line.split() for text in texts for line in text.splitlines()]
    return {words[0] for words in lines if words} if texts else None


def _photograph(root: Path, folder: Path, stem: str) -> Photograph:
    """Return one photograph of a year's folder, or raise ``UnusableError``."""
    tree = _parse(folder / "Annotations" / f"{stem}.xml")
    file = folder / "JPEGImages" / inside(tree.findtext("filename"))
    width, height = image_size(tree.findtext("size/width"), tree.findtext("size/height"))
    # direct children only: an object's parts have names and boxes of their own
    objects = tree.findall("object")
    counted = [each for each in objects if number(each.findtext("difficult", "0")) != 1]
    return Photograph(
        photo_id(folder.name, stem),
        file.relative_to(root).as_posix(),
        width,
        height,
        tuple(_instance(each, width, height) for each in counted),
        skipped=len(objects) - len(counted),
    )


def _parse(path: Path) -> Element:
    """Return the root of an XML file; entities and external references are refused."""
    try:
        return fromstring(path.read_bytes())
    except (ParseError, ValueError, LookupError, OSError) as error:
        reason = " ".join(str(error).split())
        raise UnusableError("broken annotation", f"{type(error).__name__}: {reason}") from None


def _instance(element: Element, width: int, height: int) -> Instance:
    """Return the object that ``element`` describes, or raise ``UnusableError``."""
    name = (element.findtext("name") or "").strip()
    if name not in LABELS:
        raise UnusableError("unknown class", f"{name!r} is not one of the twenty classes")
    return Instance(LABELS[name], clip_box(_box(element), width, height))


def _box(element: Element) -> Box:
    """Return an object's box: in the file, corners are the first and last pixel, from 1."""
    x0, y0, x1, y1 = (number(element.findtext(f"bndbox/{corner}")) for corner in CORNERS)
    return x0 - 1, y0 - 1, x1, y1

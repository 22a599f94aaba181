"""PASCAL VOC: the annotated photographs of a devkit's folder of one year."""

from __future__ import annotations

from pathlib import Path
from xml.etree.ElementTree import Element, ParseError

from defusedxml.ElementTree import fromstring

from mist_bench.datasets.photographs.annotations import (
    Instance,
    Photograph,
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


def read_voc(root: Path, year: str) -> Reading | None:
    """Return the photographs of one year of PASCAL VOC; ``None`` if it is not there.

    Args:
        root: folder with the devkit, or the devkit itself.
        year: name of the year's folder, ``VOC2007`` to ``VOC2012``.
    """
    folders = (root / devkit / year for devkit in DEVKITS)
    folder = next((each for each in folders if (each / "Annotations").is_dir()), None)
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
        try:
            if stem not in annotated:
                inside(stem)  # raises for a name that leads elsewhere
                raise UnusableError("missing annotation", "listed in ImageSets/Main")
            reading.photographs.append(_photograph(root, folder, stem))
        except UnusableError as problem:
            where = folder.relative_to(root) / "Annotations" / f"{stem}.xml"
            reading.problems.append(problem.of(photo_id(folder.name, stem), where.as_posix()))
    return reading


def photo_id(year: str, stem: str) -> str:
    """Return one id for a photograph's copies: later years hold earlier ones under their year.

    VOC2012's ``2007_000027`` is VOC2007's ``000027``.
    """
    taken, _, rest = stem.partition("_")
    dated = rest and len(taken) == 4 and taken.isdigit()
    return f"VOC{taken}/{rest}" if dated else f"{year}/{stem}"


def read_list(path: Path) -> list[str]:
    """Return the names in a list of ``ImageSets/Main``, as they are: ``inside`` checks them."""
    text = path.read_text(encoding="utf-8", errors="replace")
    return [line.split()[0] for line in text.splitlines() if line.strip()]


def _listed(folder: Path) -> set[str] | None:
    """Return the names in the year's lists of whole splits; ``None`` if it has no such list."""
    paths = [folder / "ImageSets" / "Main" / f"{name}.txt" for name in LISTS]
    there = [path for path in paths if path.is_file()]
    return {name for path in there for name in read_list(path)} if there else None


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
    x0, y0, x1, y1 = (number(element.findtext(f"bndbox/{corner}")) for corner in CORNERS)
    # corners are the first and last pixel, from 1
    return Instance(LABELS[name], clip_box((x0 - 1, y0 - 1, x1, y1), width, height))

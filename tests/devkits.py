"""Small data sets in the formats of PASCAL VOC and COCO, for tests."""

import json

from PIL import Image

from mist_bench.datasets.photographs.annotations import Instance, Photograph
from mist_bench.datasets.photographs.coco import CATEGORIES

# keywords of pascal_coco.make_split
PARAMS = {"side": 16, "coverage": 0.25, "surplus": 0.5}
OBJECT = """<object><name>{}</name><difficult>{}</difficult><bndbox>
<xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox></object>"""


def write_image(path, width=40, height=30):
    """Write a JPEG whose red and green are its pixels' x and y, times 4."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", (width, height))
    image.putdata([(4 * x % 256, 4 * y % 256, 0) for y in range(height) for x in range(width)])
    image.save(path, "JPEG", quality=95)


def voc_text(*objects, name="a.jpg", width=40, height=30):
    """Return an annotation; an object is (name, difficult, xmin, ymin, xmax, ymax)."""
    size = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
    body = "".join(OBJECT.format(*each) for each in objects)
    return f"<annotation><filename>{name}</filename>{size}{body}</annotation>"


def write_voc(root, stem, *objects, year="VOC2007", text=None, width=40, height=30):
    """Write one photograph of a devkit with its annotation."""
    folder = root / "VOCdevkit" / year
    write_image(folder / "JPEGImages" / f"{stem}.jpg", width, height)
    (folder / "Annotations").mkdir(exist_ok=True)
    text = text or voc_text(*objects, name=f"{stem}.jpg", width=width, height=height)
    (folder / "Annotations" / f"{stem}.xml").write_text(text)


def list_voc(root, name, *lines, year="VOC2007"):
    """Write a list of ImageSets/Main."""
    folder = root / "VOCdevkit" / year / "ImageSets" / "Main"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.txt").write_text("".join(f"{line}\n" for line in lines))


def coco_data(*objects, images=(1,), **changes):
    """Return COCO's annotations; an object is (image, category, x, y, w, h)."""
    names = {image: f"{image:012d}.jpg" for image in images}
    return {
        "images": [
            {"id": image, "file_name": name, "width": 40, "height": 30}
            for image, name in names.items()
        ],
        "annotations": [
            {"image_id": image, "category_id": category, "bbox": box, "iscrowd": 0}
            for image, category, *box in objects
        ],
        "categories": [{"id": key, "name": name} for name, key in CATEGORIES.items()]
        + [{"id": 13, "name": "stop sign"}],
        **changes,
    }


def write_coco(root, data, name="train2017", photographs=True):
    """Write ``data`` as the annotations ``name``, and its photographs."""
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    (root / name).mkdir()
    (root / "annotations" / f"instances_{name}.json").write_text(json.dumps(data))
    for image in data["images"] if photographs else ():
        write_image(root / name / image["file_name"], image["width"], image["height"])


def photo(*boxes, id="VOC2007/000001", width=100, height=80, file="a.jpg"):
    """Return a photograph with persons in ``boxes``."""
    return Photograph(id, file, width, height, tuple(Instance(15, box) for box in boxes))

"""Stand-in scenes: a VOC devkit whose boxes are what one sees, equal for equal seeds."""

import hashlib
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from mist_bench.datasets.photographs.voc import VOC_CLASSES
from mist_bench.datasets.standin import scenes as standin
from mist_bench.datasets.standin.emoji import INK
from mist_bench.datasets.standin.scenes import Scene, annotation, render_scene, write_devkit
from mist_bench.datasets.standin.specs import CameraSpec, LayoutSpec, LookSpec, StandinSpec

SPEC = StandinSpec(
    layout=LayoutSpec(width=(150, 190), height=(128, 150), distractors=(3, 5), shapes=(2, 6)),
    camera=CameraSpec(softness=(1, 2), quality=(80, 95)),
    look=LookSpec(resolution=96, brightness=(-0.1, 0.1)),
)


def write(folder, split, count, seed=0):
    write_devkit(folder, split, count, np.random.default_rng(seed), SPEC)
    return folder / "VOCdevkit" / "VOC2007"


def digests(root):
    """Return the sha256 of every file below ``root``, by name."""
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def read_objects(path):
    """Return the size and the (name, xmin, ymin, xmax, ymax) of an annotation."""
    root = ElementTree.parse(path).getroot()
    size = tuple(int(root.findtext(f"size/{key}")) for key in ("width", "height", "depth"))
    corners = ("xmin", "ymin", "xmax", "ymax")
    return size, [
        (entry.findtext("name"), *(int(entry.findtext(f"bndbox/{key}")) for key in corners))
        for entry in root.iter("object")
    ]


def test_equal_seeds_give_equal_files_and_others_do_not(tmp_path):
    one, same, other = (
        digests(write(tmp_path / str(k), "val", 3, seed)) for k, seed in enumerate((0, 0, 1))
    )
    assert one == same
    assert len(one) == 7
    assert one["JPEGImages/val_000001.jpg"] != other["JPEGImages/val_000001.jpg"]


def test_more_scenes_leave_the_earlier_ones_as_they_are(tmp_path):
    few, more = (digests(write(tmp_path / str(n), "train", n)) for n in (2, 4))
    scenes = [name for name in few if "ImageSets" not in name]
    assert len(scenes) == 4
    assert all(few[name] == more[name] for name in scenes)


def test_splits_may_share_a_folder(tmp_path):
    for split in ("train", "val", "test"):
        root = write(tmp_path, split, 1)
    assert len(list((root / "JPEGImages").iterdir())) == 3
    lists = {path.name: path.read_text() for path in (root / "ImageSets" / "Main").iterdir()}
    assert lists == {f"{split}.txt": f"{split}_000001\n" for split in ("train", "val", "test")}


def test_no_scene_is_an_empty_list(tmp_path):
    root = write(tmp_path, "test", 0)
    assert (root / "ImageSets" / "Main" / "test.txt").read_text() == ""
    assert not list((root / "JPEGImages").iterdir())


def test_the_devkit_says_what_its_pictures_are(tmp_path):
    root = write(tmp_path, "train", 12)
    names = (root / "ImageSets" / "Main" / "train.txt").read_text().split()
    assert len(names) == 12
    counts = set()
    for name in names:
        (width, height, depth), objects = read_objects(root / "Annotations" / f"{name}.xml")
        with Image.open(root / "JPEGImages" / f"{name}.jpg") as image:
            assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (width, height))
        assert depth == 3
        assert 150 <= width <= 190
        assert 128 <= height <= 150
        counts.add(len(objects))
        for label, xmin, ymin, xmax, ymax in objects:
            assert label in VOC_CLASSES[1:]
            assert 1 <= xmin < xmax <= width
            assert 1 <= ymin < ymax <= height
    assert counts == {1, 2}


def test_boxes_hold_what_a_painter_leaves_of_the_objects(monkeypatch):
    painted = []

    def record(canvas, sprites, rng, camera):
        painted[:] = sprites

    monkeypatch.setattr(standin, "paint", record)
    hidden = []
    for seed in range(20):
        scene = render_scene(np.random.default_rng(seed), "train", SPEC)
        height, width, _ = scene.image.shape
        top = np.full((height + 400, width + 400), -1)  # a border for what leaves the scene
        for number, sprite in enumerate(painted):
            h, w, _ = sprite.pixels.shape
            part = top[sprite.top + 200 :][:h, sprite.left + 200 :][:, :w]
            part[sprite.pixels[..., 3] >= INK / 255] = number
        seen = top[200:-200, 200:-200]
        found = {
            (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)
            for number in range(len(painted))
            for ys, xs in [np.nonzero(seen == number)]
            if len(xs)
        }
        assert set(scene.boxes) <= found
        hidden += scene.occluded
    assert any(hidden)
    assert not all(hidden)


def test_most_scenes_pass_the_filters_and_have_a_square_crop():
    good, shares = 0, []
    for seed in range(40):
        scene = render_scene(np.random.default_rng(seed), "test", SPEC)
        height, width, _ = scene.image.shape
        boxes = np.array(scene.boxes)
        sides = boxes[:, 2:] - boxes[:, :2]
        square = np.sqrt(sides.prod(1).sum() / 0.3)
        extent = boxes[:, 2:].max(0) - boxes[:, :2].min(0)
        ratios = sides.max(1) / sides.min(1)
        fits = square <= min(width, height) and extent.max() <= square
        good += fits and ratios.max() <= 2 and sides.prod(1).max() <= 0.3 * width * height
        shares += (np.sqrt(sides.prod(1)) / square).tolist()
    assert good >= 34  # 85 %
    assert min(shares) >= 0.28
    assert max(shares) <= 0.56


def test_two_objects_are_apart_and_in_the_window():
    rng = np.random.default_rng(0)
    drawings = [np.ones((39, 52, 4), np.float32), np.ones((52, 39, 4), np.float32)]
    for _ in range(50):
        first, second = standin._place(drawings, rng, side=91, width=120, height=100)
        left, right = sorted([(first.left, 52), (second.left, 39)])
        above, below = sorted([(first.top, 39), (second.top, 52)])
        assert left[0] + left[1] <= right[0] or above[0] + above[1] <= below[0]
        assert left[0] >= 0
        assert max(first.left + 52, second.left + 39) - left[0] <= 91
        assert max(first.left + 52, second.left + 39) <= 120
        assert max(first.top + 39, second.top + 52) <= 100


def test_an_annotation_counts_from_one_and_includes_the_last_pixel():
    scene = Scene(
        np.zeros((20, 30, 3), np.uint8), ["cat", "car"], [(0, 0, 30, 20), (4, 5, 9, 7)], [0, 1]
    )
    root = ElementTree.fromstring(annotation(scene, "a.jpg"))
    assert root.findtext("filename") == "a.jpg"
    assert [root.findtext(f"size/{key}") for key in ("width", "height", "depth")] == [
        "30",
        "20",
        "3",
    ]
    values = [
        [entry.findtext(key) for key in ("name", "truncated", "occluded", "difficult")]
        + [entry.findtext(f"bndbox/{key}") for key in ("xmin", "ymin", "xmax", "ymax")]
        for entry in root.iter("object")
    ]
    assert values == [
        ["cat", "0", "0", "0", "1", "1", "30", "20"],
        ["car", "0", "1", "0", "5", "6", "9", "7"],
    ]


def test_two_objects_always_fit_the_window():
    with pytest.raises(ValueError, match=r"do not fit the window: .* at most 0\.09, got 0\.3"):
        StandinSpec(look=LookSpec(aspect=(0.1, 10)))

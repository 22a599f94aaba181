"""The authors' published datasets: their layout, written by hand, and what is made of it."""

import json
import shutil
from pathlib import Path

import numpy as np
import official_code as official
import pytest
import torch
from devkits import voc_text
from PIL import Image

from mist_bench.cli import main as cli
from mist_bench.datasets.files import load_manifest, load_split
from mist_bench.official import pascal as official_pascal

HALF = 10.0
ARGUMENTS = ("--name", "mnist_hard", "--out", "results/hard")


def digits(count, seed):
    """Return (N, 80, 80) gray images, (N, 9) labels and (N, 9, 3) keypoints."""
    rng = np.random.default_rng(seed)
    images = rng.integers(256, size=(count, 80, 80), dtype=np.uint8)
    keypoints = np.dstack([rng.uniform(10, 70, (count, 9, 2)), np.full((count, 9), HALF)])
    return images, rng.integers(10, size=(count, 9)), keypoints


def write_mnist(root, **counts):
    """Write splits in the layout of the official code's datasets/mnist.py."""
    for seed, (split, count) in enumerate(counts.items()):
        images, labels, keypoints = digits(count, seed)
        (root / split).mkdir(parents=True)
        names = [f"{split}/{i:05d}.png" for i in range(count)]
        for name, image in zip(names, images, strict=True):
            Image.fromarray(np.stack([image] * 3, axis=-1)).save(root / name)
        (root / f"{split}.txt").write_text("".join(f"{name}\n" for name in names))
        rows = [",".join(map(str, row)) for row in labels]
        (root / f"{split}_labels.txt").write_text("\n".join(rows) + "\n")
        np.save(root / f"{split}_keypoints.npy", keypoints)
    return root


@pytest.fixture
def hard(tmp_path, monkeypatch):
    """The folder of a tiny MNIST-hard; commands run beside it."""
    monkeypatch.chdir(tmp_path)
    return write_mnist(tmp_path / "mnist_hard", train=3, valid=2, test=2)


def run(capsys, *arguments):
    """Return the exit code, stdout, and the lines of stderr."""
    code = cli.main([str(argument) for argument in arguments])
    printed = capsys.readouterr()
    return code, printed.out, printed.err.splitlines()


def refused(capsys, *arguments):
    """Return the one line that is said, after which nothing is there."""
    code, out, lines = run(capsys, "import-dataset", *arguments)
    assert (code, out, len(lines)) == (1, "", 1)
    assert not list(Path().glob("results/*"))
    return lines[0]


def test_mnist_hard(capsys, hard):
    code, out, _ = run(capsys, "import-dataset", hard, *ARGUMENTS)
    assert (code, out) == (0, "results/hard: 3 of 3 train, 2 of 2 val, 2 of 2 test images\n")
    folder = Path("results/hard")
    manifest = load_manifest(folder)
    assert (manifest["name"], manifest["source"]) == ("mnist_hard", "the authors' MNIST-hard")
    for seed, split in enumerate(("train", "val", "test")):
        arrays = load_split(folder, split)
        images, labels, keypoints = digits(len(arrays["images"]), seed)
        assert np.array_equal(arrays["images"], images[:, None])
        assert np.array_equal(arrays["labels"], labels)
        assert (arrays["counts"] == 9).all()
        np.testing.assert_allclose(arrays["boxes"][..., :2], keypoints[..., :2], rtol=1e-6)
        assert (arrays["boxes"][..., 2:] == 2 * HALF).all()


def test_a_split_may_be_absent_and_images_gray(capsys, hard):
    for path in [*hard.glob("train*"), *hard.glob("valid*")]:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    for path in (hard / "test").iterdir():
        Image.open(path).convert("L").save(path)
    assert run(capsys, "import-dataset", hard, *ARGUMENTS)[1].endswith(": 2 of 2 test images\n")
    assert list(load_manifest(Path("results/hard"))["splits"]) == ["test"]


def test_imported_weights_are_judged_on_an_imported_dataset(capsys, hard):
    values = official.random_values(official.mnist_shapes())
    torch.save(values, "mnist_best_models")
    assert run(capsys, "import-official", "mnist_best_models", "--out", "run")[0] == 0
    assert run(capsys, "import-dataset", hard, *ARGUMENTS)[0] == 0
    common = ("--spec", "run/config.json", "--manifest", "results/hard/manifest.json")
    weights = ("--weights", "run/weights.safetensors", "--device", "cpu")
    assert run(capsys, "predict", *common, *weights, "--out", "p.npz")[0] == 0
    judged = ("--predictions", "p.npz", "--out", "metrics.json")
    assert run(capsys, "evaluate", *common, *judged) == (0, "", [])
    found = json.loads(Path("metrics.json").read_text())
    assert (found["images"], found["instances"]) == (2, 18)
    assert 0 <= found["metrics"]["both"] <= found["metrics"]["iou50"] <= 1


def replaced(name, text):
    return lambda root: (root / name).write_text(text)


def saved(array):
    return lambda root: np.save(root / "test_keypoints.npy", array, allow_pickle=True)


def painted(root):
    pixels = np.zeros((80, 80, 3), dtype=np.uint8)
    pixels[3, 4, 2] = 1
    Image.fromarray(pixels).save(root / "test/00001.png")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (replaced("test.txt", "\n"), "test.txt: empty"),
        (replaced("test.txt", "test/00000.png\n"), "split test has 1 images, (2, 9) labels"),
        (replaced("test.txt", "a.png\nb.png\n"), "a.png: missing image: there is no such file"),
        (replaced("test.txt", "../a.png\n/b.png\n"), "test.txt: path leaves its folder"),
        (replaced("test_labels.txt", "1,2\n3\n"), "test_labels.txt: equally many whole numbers"),
        (replaced("test_labels.txt", "1,2\n3,x\n"), "test_labels.txt: equally many whole numbers"),
        (replaced("test_labels.txt", "1,2\n3,4\n"), "has 2 images, (2, 2) labels and (2, 9)"),
        (replaced("test_labels.txt", ("1," * 8 + "99\n") * 2), "num_classes is 10, but a label 99"),
        (replaced("test_labels.txt", ("1," * 8 + "-1\n") * 2), "labels must be >= 0"),
        (replaced("test_keypoints.npy", "no array"), "test_keypoints.npy: not an array"),
        (
            replaced("test/00001.png", "no image"),
            "00001.png: broken image: Unidentified",
        ),
        (lambda root: (root / "test_labels.txt").unlink(), "test_labels.txt: cannot be read: No"),
        (lambda root: (root / "test_keypoints.npy").unlink(), "keypoints.npy: not an array of"),
        (saved(np.zeros((2, 9))), "keypoints must be (N, L, 3) numbers x, y and half side"),
        (saved(np.full((2, 9, 3), None)), "not an array of keypoints"),
        (saved(np.full((2, 9, 3), np.nan)), "boxes must have a size"),
        (saved(np.zeros((2, 9, 3))), "boxes must have a size"),
        (painted, "test/00001.png: its channels differ"),
        (
            lambda root: Image.new("L", (80, 60)).save(root / "test/00001.png"),
            "test/00001.png: 80 x 60 px, 00000.png is not",
        ),
        (
            lambda root: [Image.new("L", (60, 60)).save(p) for p in (root / "test").iterdir()],
            "image_size [1, 80, 80] are expected, but images are (2, 1, 60, 60)",
        ),
    ],
)
def test_what_is_wrong_with_mnist_hard(capsys, hard, spoil, words):
    spoil(hard)
    assert words in refused(capsys, hard, *ARGUMENTS)


def test_folders_that_are_something_else(capsys, hard):
    assert "no such folder" in refused(capsys, "none", *ARGUMENTS)
    assert "train.txt, valid.txt and test.txt" in refused(capsys, hard / "train", *ARGUMENTS)
    line = refused(capsys, hard, "--name", "pascal_coco", "--out", "results/p")
    assert "no image is listed in ImageSets/Main/{train,val,test}.txt" in line


CAR = ("car", 0, 11, 6, 30, 20)
PASCAL = ("--name", "pascal_coco", "--out", "results/p")


def write_pascal(root, split, stem, *objects, width=40, height=30, text=None):
    """Add one image in the layout of the official code's datasets/pascal.py."""
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", (width, height), (200, 100, 50))
    image.save(root / "JPEGImages" / f"{stem}.jpg", quality=95)
    text = text or voc_text(*objects, name="original.jpg", width=width, height=height)
    (root / "Annotations" / f"{stem}.xml").write_text(text)
    with (root / "ImageSets" / "Main" / f"{split}.txt").open("a") as file:
        file.write(f"{stem}\n")


@pytest.fixture
def crops(tmp_path, monkeypatch):
    """The folder of a tiny PASCAL+COCO; commands run beside it."""
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "VOC_pascal_coco_v2"
    write_pascal(root, "train", "2007_000001", CAR)
    write_pascal(root, "val", "000001", CAR, width=60, height=60)
    difficult, cat = ("dog", 1, 1, 1, 9, 9), ("cat", 0, 1, 1, 40, 30)
    write_pascal(root, "test", "COCO_7", difficult, CAR, cat, ("bus", 0, 1, 1, 5, 5))
    write_pascal(root, "test", "tall", ("person", 0, 1, 1, 30, 40), width=30, height=40)
    return root


def test_pascal(capsys, crops):
    code, out, _ = run(capsys, "import-dataset", crops, *PASCAL)
    assert (code, out) == (0, "results/p: 1 of 1 train, 1 of 1 val, 2 of 2 test images\n")
    folder = Path("results/p")
    assert load_manifest(folder)["source"] == "the authors' PASCAL+COCO"
    arrays = load_split(folder, "test")
    # 40 x 30 becomes 299 x 224 at a shorter side of 224; 304 are 19 cells of 16 px
    assert arrays["images"].shape == (2, 3, 304, 304)
    wide, tall = arrays["images"]
    assert (wide[:, :224, :299] > 40).all()
    assert not wide[:, 224:].any()
    assert not wide[..., 299:].any()
    assert (tall[:, :299, :224] > 40).all()
    assert not tall[:, 299:].any()
    assert not tall[..., 224:].any()
    # difficult objects do not count, and of others the first two do
    assert arrays["counts"].tolist() == [2, 1]
    assert arrays["labels"].tolist() == [[7, 8], [15, -1]]
    x, y = 299 / 40, 224 / 30
    expected = [20 * x - 0.5, 12.5 * y - 0.5, 20 * x, 15 * y]  # 10..30 and 5..20 of the file
    np.testing.assert_allclose(arrays["boxes"][0, 0], expected, rtol=1e-6)
    np.testing.assert_allclose(arrays["boxes"][0, 1], [149, 111.5, 299, 224], rtol=1e-6)
    np.testing.assert_allclose(arrays["boxes"][1, 0], [111.5, 149, 224, 299], rtol=1e-6)
    assert (folder / "test_problems.csv").read_text() == "photo,file,reason,detail\n"


def test_images_are_not_cut_again(capsys, crops):
    """A square crop of which the object covers a tenth stays as it is."""
    shutil.rmtree(crops)
    write_pascal(crops, "test", "a", ("car", 0, 1, 1, 70, 70), width=224, height=224)
    assert run(capsys, "import-dataset", crops, *PASCAL)[0] == 0
    arrays = load_split(Path("results/p"), "test")
    assert arrays["images"].shape == (1, 3, 224, 224)
    assert arrays["boxes"][0, 0].tolist() == [34.5, 34.5, 70, 70]


def test_what_cannot_be_used_is_left_out_and_told_of(capsys, crops):
    write_pascal(crops, "test", "odd", ("unicorn", 0, 1, 1, 9, 9))
    write_pascal(crops, "test", "gone", CAR)
    write_pascal(crops, "test", "broken", CAR)
    write_pascal(crops, "test", "small", ("car", 0, 1, 1, 40, 30), text=voc_text(CAR, width=99))
    write_pascal(crops, "test", "beyond", text=voc_text(("car", 0, 1, 1, 90, 9), width=99))
    (crops / "JPEGImages" / "gone.jpg").unlink()
    (crops / "JPEGImages" / "broken.jpg").write_text("no image")
    code, out, _ = run(capsys, "import-dataset", crops, *PASCAL)
    assert code == 0
    assert out.endswith("3 of 7 test images\n")
    lines = (Path("results/p") / "test_problems.csv").read_text().splitlines()[1:]
    reasons = [line.split(",")[0].rpartition("/")[2] + ": " + line.split(",")[2] for line in lines]
    assert sorted(reasons) == [
        "beyond: box outside the image",
        "broken: broken image",
        "gone: missing image",
        "odd: unknown class",
    ]


def test_names_that_lead_elsewhere_are_told_of(capsys, crops):
    """Nothing is read there: the image would need a canvas of 4480 px."""
    Image.new("RGB", (600, 30)).save(crops.parent / "away.jpg")
    (crops.parent / "away.xml").write_text(voc_text(CAR))
    with (crops / "ImageSets" / "Main" / "test.txt").open("a") as file:
        file.write("../../away\n")
    assert official_pascal.canvas(crops, 224, 16) == (304, 304)
    code, out, _ = run(capsys, "import-dataset", crops, *PASCAL)
    assert code == 0
    assert out.endswith("2 of 3 test images\n")
    assert (Path("results/p") / "test_problems.csv").read_text().splitlines()[1:] == [
        "VOC_pascal_coco_v2/../../away,Annotations/../../away.xml,path leaves its folder,"
        "file name '../../away'"
    ]


def test_the_given_folder_is_read_beside_a_devkit(capsys, crops):
    folder = crops.rename(crops.parent / "VOC2012")
    for stem in ("2007_000001", "000001", "COCO_7", "tall"):
        write_pascal(crops.parent / "VOCdevkit" / "VOC2012", "test", stem, ("dog", 0, 1, 1, 9, 9))
    assert run(capsys, "import-dataset", folder, "--name", "pascal_coco", "--out", "p")[0] == 0
    assert load_split(Path("p"), "test")["labels"].tolist() == [[7, 8], [15, -1]]


def test_names_of_one_image_are_refused(capsys, crops):
    write_pascal(crops, "train", "2007_000001", CAR)
    line = refused(capsys, crops, *PASCAL)
    assert "train.txt: 2007_000001 is listed more than once" in line
    (crops / "ImageSets/Main/train.txt").write_text("2007_000001\n")
    year = crops.rename(crops.parent / "VOC2007")  # where val's 000001 is that photograph too
    line = refused(capsys, year, *PASCAL)
    assert "two names in ImageSets/Main stand for VOC2007/000001: rename the folder" in line


def test_no_usable_image(capsys, crops):
    for path in (crops / "JPEGImages").iterdir():
        path.unlink()
    line = refused(capsys, crops, *PASCAL)
    assert "split train has no image that can be used, first VOC2007/000001: there is no" in line


def test_the_canvas_is_whole_cells(crops):
    assert official_pascal.canvas(crops, 30, 16) == (48, 48)  # the longest is 40 px
    assert official_pascal.canvas(crops, 32, 1) == (43, 43)

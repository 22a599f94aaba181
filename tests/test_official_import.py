"""The authors' checkpoints: what is written from a right one, and what is said of a wrong one."""

import json
import os
from collections import OrderedDict
from pathlib import Path

import official_code as official
import pytest
import torch
from conftest import run_of
from safetensors.torch import load_file
from torchvision.models import resnet34

from mist_bench.backbones import resnet
from mist_bench.cli import inputs
from mist_bench.cli import main as cli
from mist_bench.config.provenance import file_digest
from mist_bench.config.schema import FeatureSpec, RunSpec
from mist_bench.run import checkpoint
from mist_bench.run.method import load_method

TRUNK = {0: "conv1", 1: "bn1", 4: "layer1", 5: "layer2", 6: "layer3"}  # torchvision's children
CPU = torch.device("cpu")


def save(path, values):
    """Write a checkpoint as the official code does: state dicts with their metadata."""
    content = {}
    for part, named in values.items():
        content[part] = OrderedDict(named)
        content[part]._metadata = OrderedDict({"": {"version": 1}})
    torch.save(content, path)
    return path


@pytest.fixture
def mnist():
    return official.random_values(official.mnist_shapes())


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Import a file of this content; return the exit code, and what was printed."""
    monkeypatch.chdir(tmp_path)

    def go(content, *more):
        file = tmp_path / "mnist_best_models"
        if isinstance(content, bytes):
            file.write_bytes(content)
        elif isinstance(content, dict) and "detector" in content:
            save(file, content)
        else:
            torch.save(content, file)
        code = cli.main(["import-official", str(file), "--out", "run", *more])
        out, err = capsys.readouterr()
        assert [name for name in os.listdir() if name.startswith(".")] == []
        return code, out, err.splitlines()

    return go


def test_mnist(run, mnist, tmp_path):
    code, out, _ = run(mnist)
    assert (code, out) == (0, "run: the authors' weights for mnist_hard_classification\n")
    assert sorted(os.listdir("run")) == ["config.json", "origin.json", "weights.safetensors"]
    spec = inputs.read_spec("run/config.json", RunSpec)
    assert spec == run_of("mist", preset="paper")
    method = load_method(spec, Path("run/weights.safetensors"), CPU)
    weight = mnist["classifier"]["encoder.layers.10.blocks.2.block.3.weight"]
    assert torch.equal(method.head.network.encoder.last.blocks[2].second.weight, weight)
    assert method.detector.network.norm.num_batches_tracked == 7
    origin = json.loads(Path("run/origin.json").read_text())
    assert origin["origin"] == "imported from the authors' checkpoint"
    assert origin["file"] == "mnist_best_models"
    assert origin["sha256"] == file_digest(tmp_path / "mnist_best_models")
    assert str(tmp_path) not in Path("run/origin.json").read_text()


def test_one_channel_by_hand(run, mnist):
    """Scales 2, 3 and 4 of channels that weigh 1, 10 and 100; means and variances are equal."""
    norm = {"weight": [2.0, 3, 4], "bias": [1.0, 0, -1], "running_mean": [0.25] * 3}
    norm["running_var"] = [0.5] * 3
    for name, value in norm.items():
        mnist["detector"][f"backbone.norm.{name}"] = torch.tensor(value)
    weight = torch.tensor([1.0, 10, 100]).view(1, 3, 1, 1).repeat(32, 1, 1, 1)
    mnist["detector"]["backbone.resnet.first.weight"] = weight
    mnist["detector"]["backbone.resnet.first.bias"] = torch.full((32,), 5.0)
    mnist["classifier"]["encoder.layers.0.first.weight"] = weight[:8]
    run(mnist)
    found = load_file("run/weights.safetensors")
    stage, norm = "detector.network.stage.pointwise", "detector.network.norm"
    assert found[f"{stage}.weight"].flatten().tolist() == pytest.approx([2 + 30 + 400] * 32)
    assert found[f"{stage}.bias"].tolist() == pytest.approx([5 + 1 - 100] * 32)
    values = [found[f"{norm}.{name}"].item() for name in ("weight", "bias")]
    assert [*values, found[f"{norm}.running_mean"].item()] == [1, 0, 0.25]
    assert found[f"{norm}.running_var"].item() == 0.5
    encoder = found["head.network.encoder.levels.0.pointwise.weight"]
    assert encoder.flatten().tolist() == [111] * 8


@pytest.fixture(scope="module")
def pascal(tmp_path_factory):
    """Random values of PASCAL+COCO's networks, and the folder that is made of their file."""
    folder = tmp_path_factory.mktemp("pascal")
    values = official.random_values(official.pascal_shapes())
    file = save(folder / "pascal_coco_best_models", values)
    assert cli.main(["import-official", str(file), "--out", str(folder / "run")]) == 0
    return values, folder / "run"


def test_pascal(pascal):
    values, folder = pascal
    names = ["backbone.safetensors", "config.json", "features.json", "origin.json"]
    assert sorted(os.listdir(folder)) == [*names, "weights.safetensors"]
    spec = inputs.read_spec(str(folder / "config.json"), RunSpec)
    assert spec.experiment == "pascal_coco_classification"
    method = load_method(spec, folder / "weights.safetensors", CPU)
    head = values["detector"]["backbone.detector_head.0.weight"]
    assert torch.equal(method.detector.network.features[0].weight, head)
    assert torch.equal(method.head.network.logits.bias, values["classifier"]["fcn.0.bias"])


def test_the_backbone_is_torchvisions(pascal):
    values, folder = pascal
    renamed = {}
    for name, value in values["detector"].items():
        if name.startswith("backbone.backbone."):
            index, _, rest = name.removeprefix("backbone.backbone.").partition(".")
            renamed[f"{TRUNK[int(index)]}.{rest}"] = value
    whole = resnet34().eval()
    missing, unexpected = whole.load_state_dict(renamed, strict=False)
    assert unexpected == []
    assert {name.split(".")[0] for name in missing} == {"layer4", "fc"}
    features = inputs.read_spec(str(folder / "features.json"), FeatureSpec)
    assert (features.draws, features.flip, features.mask) == (1, 0, None)
    assert features.network.params["weights"] == str(folder / "backbone.safetensors")
    images = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        x = whole.maxpool(whole.relu(whole.bn1(whole.conv1(images))))
        expected = whole.layer3(whole.layer2(whole.layer1(x)))
        found = resnet.build(**features.network.params)(images)
    torch.testing.assert_close(found, expected)


def refused(run, content, *more):
    """Return the one line that is said, after which nothing is there."""
    code, out, lines = run(content, *more)
    assert (code, out, len(lines)) == (1, "", 1)
    assert not Path("run").exists()
    return lines[0]


def test_missing_and_unexpected_names(run, mnist):
    for i in range(4):
        del mnist["detector"][f"backbone.resnet.blocks.{i}.block.4.bias"]
    mnist["classifier"]["classifier.extra"] = torch.zeros(1)
    line = refused(run, mnist)
    assert "not the authors' mnist_hard_classification: 4 tensors are missing (detector." in line
    assert "block.4.bias and 1 more), 1 are unexpected (classifier.classifier.extra)" in line
    assert line.count("block.4.bias") == 3


def test_another_experiment_than_the_file_is_of(run, mnist):
    line = refused(run, mnist, "--experiment", "pascal_coco_classification")
    assert "not the authors' pascal_coco_classification" in line
    assert "detector.backbone.backbone.0.weight" in line


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite(run, mnist, number):
    mnist["classifier"]["classifier.dense.weight"][3, 7] = number
    assert "classifier.classifier.dense.weight holds values that are not" in refused(run, mnist)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("backbone.last.weight", "text", "detector.backbone.last.weight is no dense tensor"),
        ("backbone.last.bias", None, "numbers but NoneType"),
        ("backbone.last.bias", torch.ones(1, dtype=torch.bool), "numbers but torch.bool"),
        ("backbone.last.bias", torch.zeros(2), "backbone.last.bias is (2,), (1,) is expected"),
        ("backbone.resnet.first.weight", torch.zeros(32, 1, 1, 1), "(32, 3, 1, 1) is expected"),
        ("backbone.norm.running_var", torch.tensor([1.0, -1, 1]), "running_var is negative"),
        ("backbone.resnet.blocks.1.block.4.bias", torch.ones(32), "differs from the same layer"),
    ],
)
def test_values_that_are_wrong(run, mnist, name, value, words):
    mnist["detector"][name] = value
    assert words in refused(run, mnist)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not a checkpoint of tensors"),
        (b"<html>404 Not Found</html>", "not a checkpoint of tensors"),
        ([1, 2], "two state dicts, detector and classifier, are expected, got list"),
        ({}, "are expected, got none"),
        ({"detector": 1, "classifier": {}}, "are expected, got classifier, detector"),
        ({"detector_solver": {}, "iteration": 3}, "got detector_solver, iteration; the authors'"),
        (
            {"detector": {}, "classifier": {}},
            "243 tensors are missing (detector.backbone.norm.",
        ),
    ],
)
def test_files_that_are_something_else(run, content, words):
    if isinstance(content, dict) and not isinstance(content.get("detector", {}), dict):
        torch.save(content, "other")
        content = Path("other").read_bytes()
    assert words in refused(run, content)


@pytest.mark.parametrize("share", [0.001, 0.1, 0.5, 0.9, 0.9999])
def test_files_that_are_cut_off(run, mnist, tmp_path, share):
    data = save(tmp_path / "whole", mnist).read_bytes()
    line = refused(run, data[: int(share * len(data))])
    assert "not a checkpoint of tensors" in line
    assert "it is damaged, or holds code, which is never run; get it again" in line


class Code:
    """What an attacker would put into a pickle."""

    def __reduce__(self):
        return os.mkdir, ("hacked",)


def test_code_is_never_run(run, mnist):
    mnist["classifier"]["classifier.dense.bias"] = Code()
    line = refused(run, mnist)
    assert "not a checkpoint of tensors (UnpicklingError)" in line
    assert not Path("hacked").exists()


def test_what_is_there_stays(run, mnist, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine").write_text("precious")
    code, _, lines = run(mnist)
    assert (code, len(lines)) == (1, 1)
    assert "run: already there: remove it or name another folder" in lines[0]
    assert (tmp_path / "run" / "mine").read_text() == "precious"


def test_a_full_disk_leaves_nothing(run, mnist, monkeypatch):
    def refuse(path, tensors):
        path.write_bytes(b"half")
        raise OSError(f"{path.name}: cannot be written: no space left")

    monkeypatch.setattr(checkpoint, "save_tensors", refuse)
    assert "cannot be written: no space left" in refused(run, mnist)


def test_no_file(run, tmp_path, capsys):
    assert cli.main(["import-official", str(tmp_path / "none"), "--out", "run"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "No such file or directory" in line
    assert "none" in line

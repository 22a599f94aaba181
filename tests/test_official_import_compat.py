"""``import-official --compat official``: the authors' weights as their code uses them."""

from pathlib import Path

import official_code as official
import pytest
import torch
from conftest import run_of
from safetensors.torch import load_file

from mist_bench.cli import inputs
from mist_bench.cli import main as cli
from mist_bench.config.schema import FeatureSpec, RunSpec
from mist_bench.run.method import load_method


def imported(values, folder):
    """Return the folder that is made of a checkpoint with these values."""
    torch.save(values, folder / "best_models")
    out = folder / "run"
    command = ["import-official", str(folder / "best_models"), "--out", str(out)]
    assert cli.main([*command, "--compat", "official"]) == 0
    return out


def test_mnist(tmp_path):
    """Three channels as they are, and every quirk of the code that a run can have."""
    values = official.random_values(official.mnist_shapes())
    out = imported(values, tmp_path)
    spec = inputs.read_spec(str(out / "config.json"), RunSpec)
    assert spec == run_of("mist", preset="paper_official")
    found = load_file(out / "weights.safetensors")
    for ours, part, theirs in (
        ("detector.network.stage.pointwise.weight", "detector", "backbone.resnet.first.weight"),
        ("detector.network.norm.running_mean", "detector", "backbone.norm.running_mean"),
        (
            "head.network.encoder.levels.0.pointwise.weight",
            "classifier",
            "encoder.layers.0.first.weight",
        ),
    ):
        assert torch.equal(found[ours], values[part][theirs])
    method = load_method(spec, out / "weights.safetensors", torch.device("cpu")).eval()
    images = torch.rand(2, 1, 80, 80, generator=torch.Generator().manual_seed(0))
    together, alone = method.predict(images)[0], method.predict(images[:1])[0]
    torch.testing.assert_close(together.heatmap, alone.heatmap)


def test_pascal(tmp_path):
    out = imported(official.random_values(official.pascal_shapes()), tmp_path)
    spec = inputs.read_spec(str(out / "config.json"), RunSpec)
    assert (spec.preset, spec.params["official"]["weigh_offsets"]) == ("paper_official", False)
    features = inputs.read_spec(str(out / "features.json"), FeatureSpec)
    assert features.network.params["image_statistics"] is True
    assert Path(features.network.params["weights"]) == out / "backbone.safetensors"


def test_there_is_no_other_kind(capsys):
    with pytest.raises(SystemExit):
        cli.main(["import-official", "file", "--out", "run", "--compat", "other"])
    assert "invalid choice: 'other'" in capsys.readouterr().err

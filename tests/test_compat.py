"""``compat=official`` as a user meets it: its presets, its tables, and a run from data to table."""

import pandas as pd
import pytest
import torch
import yaml
from conftest import configuration

from mist_bench.bench.cases import made_up
from mist_bench.config import files as config_files
from mist_bench.config import resolve as settings
from mist_bench.config import targets
from mist_bench.config.files import merge
from mist_bench.config.resolve import ConfigError
from mist_bench.datasets.files import Split, save_manifest, save_split
from mist_bench.evaluation.metrics import evaluate
from mist_bench.models.specs import OfficialSpec
from mist_bench.reporting.tables.layouts import LAYOUTS, counted
from mist_bench.reporting.tables.write import write_table
from mist_bench.run.method import build_method
from mist_bench.run.prediction import predict
from mist_bench.run.training import train

PRESETS = ("paper", "smoke")


@pytest.mark.parametrize("preset", PRESETS)
def test_it_is_a_preset_of_its_own(preset):
    config = configuration(preset, compat="official")
    assert config.preset == f"{preset}_official"
    assert config == configuration(config.preset)
    assert config == configuration(config.preset, compat="official")
    assert config == settings.validate(config.model_dump(mode="json"))
    assert configuration(preset, compat=None) == configuration(preset)


@pytest.mark.parametrize("preset", PRESETS)
def test_every_switch_is_on(preset):
    """What the overlay says is what runs, in every experiment of MIST as a classifier."""
    config = configuration(preset, compat="official")
    assert (config.counting, config.training.select) == ("official", "best_f1")
    assert config.datasets["pascal_coco"].features.mask_shape == "rectangle"
    assert config.backbones["resnet34"].params["image_statistics"] is True
    on = OfficialSpec().model_dump()
    photographs = on | {"gray_copies": 1, "weigh_offsets": False}
    runs = [name for name, one in config.experiments.items() if one.task == "classification"]
    for name in runs:
        spec = settings.run_spec(config, name, "mist", 0)
        wanted = photographs if name == "pascal_coco_classification" else on
        assert spec.params["official"] == wanted
        assert spec.training.select == "best_f1"
        assert build_method(spec, torch.device("cpu")).detector.suppressed_zero
    assert len(runs) == 5


def test_nothing_but_the_switches_differs_from_the_paper_preset():
    plain, official = configuration("paper"), configuration("paper", compat="official")
    switches = yaml.safe_load((targets.SETTINGS / "compat" / "official.yaml").read_text("utf-8"))
    expected = merge(plain.model_dump(), switches | {"preset": "paper_official"})
    variant, own = expected["methods"]["mist_multiscale"], switches["methods"]["mist"]
    expected["methods"]["mist_multiscale"] = merge(variant, own)  # it extends MIST
    assert settings.validate(expected) == official


@pytest.mark.parametrize(
    ("preset", "compat", "words"),
    [
        ("cpu", "official", "compat: preset cpu has no official kind; known: paper, smoke"),
        ("paper", "oficial", "compat: 'oficial' is unknown; did you mean 'official'"),
        ("papr", "official", "preset: 'papr' is unknown"),
    ],
)
def test_what_there_is_not(preset, compat, words):
    with pytest.raises(ConfigError, match=words) as error:
        configuration(preset, compat=compat)
    assert "\n" not in str(error.value)


def test_a_preset_may_extend_several_of_which_later_ones_win(tmp_path):
    files = {
        "presets/one": {"seeds": [1], "device": "cuda"},
        "over/two": {"seeds": [2]},
        "presets/three": {"extends": ["one", "../over/two"], "training": {"steps": 4}},
        "presets/four": {"extends": ["one", "five"]},
    }
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    assert config_files._read_preset(tmp_path / "presets", "three") == {
        "seeds": [2],
        "device": "cuda",
        "training": {"steps": 4},
    }
    with pytest.raises(ConfigError, match=r"four\.yaml: extends 'five', which is not another"):
        config_files._read_preset(tmp_path / "presets", "four")


@pytest.mark.parametrize("table", ["table2", "table3", "table3_extended", "table4", "table5"])
def test_official_metrics_lead_and_alone_are_compared(table):
    shown = [(metric.name, metric.paper) for metric in counted(LAYOUTS[table], "official").metrics]
    first = [name for name, paper in shown if paper]
    assert all(name.endswith("_official") for name in first)
    assert [name for name, _ in shown[: len(first)]] == first
    before = {metric.name for metric in LAYOUTS[table].metrics}
    if table == "table3_extended":  # which has one kind only
        assert first == [f"{name}_official" for name in ("iou50", "classification", "both")]
    else:
        assert {name for name, _ in shown} == before
    assert "beside each" not in counted(LAYOUTS[table], "official").remark
    assert "beside both" not in counted(LAYOUTS[table], "official").remark


@pytest.mark.parametrize("table", ["table1", "table4_classes"])
def test_tables_without_an_official_kind_stay(table):
    assert counted(LAYOUTS[table], "official") == LAYOUTS[table]


def finished_run(folder, experiment):
    """Train, predict and evaluate MIST on noise; return the configuration and the metrics."""
    budget = {"steps": 2, "batch_size": 1, "validate_every": 2}
    mist = {"experiments": {experiment: {"training": budget}}}
    config = configuration("smoke", compat="official", methods={"mist": mist})
    spec = settings.run_spec(config, experiment, "mist", 0)
    data = folder / "data"
    data.mkdir()
    entries = {
        name: save_split(data, name, Split(made_up(spec.task, 2), "noise"))
        for name in ("train", "val", "test")
    }
    save_manifest(data, {"name": "noise", "source": "noise", "splits": entries})
    out = targets.run_folder(folder, experiment, "mist", 0)
    train(spec, data, out, folder / "work", "cpu", {"module:name": "digest"})
    predict(spec, data, out / "weights.safetensors", out / "predictions.npz", "cpu")
    result = evaluate(spec, data, out / "predictions.npz", out / "metrics.json")
    assert pd.read_csv(out / "val.csv")["score"].between(0, 1).all()
    return config, result["metrics"]


@pytest.mark.parametrize(
    ("experiment", "table", "metric"),
    [
        ("mnist_hard_classification", "table2", "classification_official"),
        ("pascal_coco_classification", "table4", "f1_official"),
    ],
)
def test_from_data_to_table(experiment, table, metric, tmp_path):
    config, metrics = finished_run(tmp_path, experiment)
    write_table(table, config, tmp_path, tmp_path / "tables")
    frame = pd.read_csv(tmp_path / "tables" / f"{table}.csv").set_index(["method", "metric"])
    row = frame.loc[("mist", metric)]
    assert row["mean"] == pytest.approx(metrics[metric], abs=1e-6)
    assert row["verdict"].startswith("no claim: smoke_official")
    assert row["paper"] > 0
    assert pd.isna(frame.loc[("mist", metric.removesuffix("_official")), "paper"])
    text = (tmp_path / "tables" / f"{table}.md").read_text(encoding="utf-8")
    assert "(official)" in text
    assert "Preset smoke\\_official" in text

"""What the configuration says of features, short keys, and experiments that extend others."""

import pytest

from mist_bench.config import resolve as settings
from mist_bench.config import targets
from mist_bench.config.keywords import ConfigError

NAME = "pascal_coco_classification"


def load(**changes):
    return settings.load(targets.SETTINGS, {"preset": "cpu", **changes})


def extending(**own):
    return load(methods={"soft_topk": {"experiments": {"mnist_3_classification": own}}})


def test_methods_see_features_in_cells():
    task = settings.run_spec(load(), NAME, "mist", 0).task
    assert task.image_size == (112, 14, 14)
    assert task.box_size == 7
    assert (task.background, task.num_classes) == (0, 21)
    images = settings.run_spec(load(), "mnist_hard_classification", "mist", 0).task
    assert (images.image_size, images.box_size, images.background) == ((1, 80, 80), 20, None)


def test_a_backbone_is_chosen_by_one_key():
    config = load(datasets={"pascal_coco": {"features": {"backbone": "resnet34"}}})
    assert settings.run_spec(config, NAME, "mist", 0).task.image_size == (256, 14, 14)
    spec = settings.feature_spec(config, "pascal_coco")
    assert spec.network.module == "mist_bench.backbones.resnet"
    assert (spec.dataset, spec.seed) == ("pascal_coco", 0)


def test_a_datasets_name_is_short_for_its_params(tmp_path):
    params = load(pascal_coco={"root": str(tmp_path)}).datasets["pascal_coco"].params
    assert params == load().datasets["pascal_coco"].params | {"root": str(tmp_path)}
    with pytest.raises(ConfigError, match=r"pascal_coco.params.rot: unknown key; did you"):
        load(pascal_coco={"rot": "photographs"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": {"backbone": "resnet43"}}, "'resnet43' is unknown; did you mean 'resnet34'"),
        (
            {"features": {"mask": [0.9, 0.1]}},
            "features.mask: should be a range that rises, 0.9 is above 0.1",
        ),
        ({"background": 40}, "background: 40 is none of the 21 classes"),
        ({"image_size": [3, 224, 230]}, "230 is no multiple of the backbone's stride 16"),
    ],
)
def test_features_that_cannot_be_made_are_named(change, message):
    with pytest.raises(ConfigError, match=message):
        load(datasets={"pascal_coco": change})


def test_a_dataset_without_features_is_named():
    with pytest.raises(ConfigError, match="mnist_3: methods see its images"):
        settings.feature_spec(load(), "mnist_3")


def test_an_experiment_may_extend_another():
    plain = settings.run_spec(load(), NAME, "soft_topk", 0)
    run = settings.run_spec(
        extending(extends=NAME, params={"epsilon": 0.3}, training={"steps": 7}),
        "mnist_3_classification",
        "soft_topk",
        0,
    )
    assert run.params == plain.params | {"epsilon": 0.3}
    assert run.training == plain.training.model_copy(update={"steps": 7})
    assert run.dataset == "mnist_3"


def test_what_is_extended_must_exist_and_extend_nothing():
    with pytest.raises(ConfigError, match=r"extends: 'pascal' is unknown"):
        extending(extends="pascal")
    two = {
        "mnist_3_classification": {"extends": NAME},
        NAME: {"extends": "mnist_hard_classification"},
    }
    with pytest.raises(ConfigError, match=f"extends {NAME}, which extends mnist_hard_class"):
        load(methods={"soft_topk": {"experiments": two}})


def test_features_are_not_what_a_dataset_is_made_from():
    configs = load(), load(datasets={"pascal_coco": {"features": {"draws": 9}}})
    one, other = (settings.dataset_spec(config, "pascal_coco") for config in configs)
    assert one == other

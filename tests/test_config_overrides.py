"""What the user writes on the command line: how far it reaches, and what is refused."""

import json

import pytest

from mist_bench.config import resolve as settings
from mist_bench.config import targets
from mist_bench.config.keywords import ConfigError

HARD = "mnist_hard_classification"


def load(preset="cpu", **changes):
    return settings.load(targets.SETTINGS, {"preset": preset, **changes})


def steps(config, experiment=HARD, method="mist"):
    return settings.run_spec(config, experiment, method, 0).training.steps


def test_training_of_the_command_line_reaches_every_run():
    plain, short = load(), load(training={"steps": 500}, device="cpu")
    for name, setup in plain.experiments.items():
        for method in setup.methods + setup.rivals:
            before, after = (settings.run_spec(one, name, method, 0) for one in (plain, short))
            schedule = {"schedule_steps": 500} if method == "landmarks" else {}
            assert after.params == before.params | schedule
            assert after.training == before.training.model_copy(update={"steps": 500})
    assert {run[:2] for run in targets.table_runs(short, "table2")} == {
        (HARD, method) for method in ("mist", "channelwise", "supervised")
    }


def test_training_of_a_method_reaches_its_experiments_and_no_other_method():
    config = load(methods={"mist": {"training": {"steps": 500}}})
    assert {steps(config), steps(config, "gabor_reconstruction")} == {500}
    assert steps(config, HARD, "channelwise") == 5000  # the same anchor in the preset


def test_the_narrower_of_the_users_own_words_wins():
    own = {"training": {"steps": 60}, "experiments": {HARD: {"training": {"steps": 70}}}}
    config = load(training={"steps": 50}, methods={"mist": own})
    assert steps(config) == 70
    assert steps(config, "mnist_3_classification") == 60
    assert steps(config, HARD, "supervised") == 50


def test_training_of_a_preset_wins_over_what_its_parent_gives_one_run():
    config = load("tuning")
    assert (config.training.steps, steps(config)) == (800, 800)
    assert steps(config, "tune_natural_low") == 3000
    assert steps(load("cpu_4min"), "gabor_reconstruction") == 1600


def keypoint_lr(config, experiment, method="mist"):
    return settings.run_spec(config, experiment, method, 0).params["keypoints"]["lr"]


def test_params_of_the_user_win_over_what_the_preset_gives_one_experiment():
    own = {"classification": {"keypoints": {"lr": 300}}}
    config = load(methods={"mist": {"params": own}})
    for name in ("mnist_3_classification", HARD, "pascal_coco_classification"):
        assert keypoint_lr(config, name) == 300
    assert keypoint_lr(config, "gabor_reconstruction") == 100  # another task
    clip = settings.run_spec(config, "pascal_coco_classification", "mist", 0).params["keypoints"]
    assert clip["clip"] == 2  # of the preset, beside the user's
    narrow = {"params": own, "experiments": {HARD: {"params": {"keypoints": {"lr": 40}}}}}
    config = load(methods={"mist": narrow})
    assert (keypoint_lr(config, HARD), keypoint_lr(config, "mnist_3_classification")) == (40, 300)


def test_a_variant_follows_what_the_user_says_of_the_method_it_extends():
    own = {"reconstruction": {"keypoints": {"lr": 7}, "scales": [1.0]}}
    config = load(methods={"mist": {"params": own}})
    run = settings.run_spec(config, "mnist_hard_multiscale_reconstruction", "mist_multiscale", 0)
    assert (run.params["keypoints"]["lr"], len(run.params["scales"])) == (7, 3)


def test_a_set_follows_what_the_user_says_of_the_set_it_extends():
    config = load(mnist_hard={"radius": 17})
    for name in ("mnist_3", "mnist_hard_0_9", "mnist_count_6_9"):
        assert config.datasets[name].params["radius"] == 17
    assert config.datasets["mnist_easy"].params["radius"] == 17


def test_a_keyword_of_another_task_is_refused():
    own = {"classification": {"autoencoder": {"width": 9}}}
    words = r"^methods.mist.params.classification.autoencoder: classification does not use it"
    with pytest.raises(ConfigError, match=words):
        load(methods={"mist": {"params": own}})


def test_a_schedule_is_as_long_as_its_training():
    for preset, length in (("smoke", 30), ("cpu", 5000), ("paper", 100000)):
        spec = settings.run_spec(load(preset), "mnist_hard_reconstruction", "landmarks", 0)
        assert spec.params["schedule_steps"] == spec.training.steps == length


def test_a_key_of_the_preset_that_is_no_mapping_is_named():
    with pytest.raises(ConfigError, match=r"^training: .*got 3"):
        load(training=3)
    with pytest.raises(ConfigError, match=r"^methods.mist: .*got 3"):
        load(methods={"mist": 3}, training={"steps": 5})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seeds": [0, 1, 0]}, r"^seeds: 0 is listed twice \(got \[0, 1, 0\]\)$"),
        ({"seeds": [True]}, r"^seeds\.0: .*valid integer \(got True\)$"),
        ({"seeds": ["1"]}, r"^seeds\.0: .*valid integer \(got '1'\)$"),
        (
            {"experiments": {HARD: {"methods": ["mist", "mist"]}}},
            rf"^experiments\.{HARD}\.methods: 'mist' is listed twice",
        ),
        (
            {"experiments": {HARD: {"rivals": ["lapsum", "lapsum"]}}},
            rf"^experiments\.{HARD}\.rivals: 'lapsum' is listed twice",
        ),
        ({"datasets": 3}, r"^datasets: .*mapping \(got 3\)$"),
        ({"datasets": 3, "mnist_3": {"radius": 4}}, r"^datasets: .*mapping \(got 3\)$"),
        (
            {"pascal_coco": {"root": ["a", "b"]}},
            r"^datasets\.pascal_coco\.params\.root: .*\(got \['a', 'b'\]\)$",
        ),
        (
            {"mnist_hard_0_9": {"radius": 17}},
            r"^methods\.air\.experiments\.mnist_hard_reconstruction\.dataset: the test split of "
            r"mnist_hard_0_9 is not that of mnist_hard: params\.radius differs; both need",
        ),
        (
            {
                "methods": {
                    "air": {"experiments": {"mnist_easy_reconstruction": {"dataset": "gabor"}}}
                }
            },
            "the test split of gabor is not that of mnist_easy",
        ),
    ],
)
def test_mistakes_on_the_command_line_are_one_line(change, words):
    with pytest.raises(ConfigError, match=words):
        load(**change)


def test_the_test_split_depends_on_neither_other_sizes_nor_keywords_of_training():
    sizes = {"train": 9, "val": 9}
    both = {"mnist_hard_0_9": {"sizes": sizes, "params": {"train_counts": [1, 2]}}}
    config = load(datasets=both)
    assert config.datasets["mnist_hard_0_9"].sizes["train"] == 9


def test_what_is_no_mapping_at_all_is_said_without_an_empty_key():
    with pytest.raises(ConfigError, match=r"^Input should be .*\(got \[\]\)$"):
        settings.validate(json.loads("[]"))

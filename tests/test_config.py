"""The configuration: what is refused, in which words, and what wins."""

import json
import sys
from typing import Literal, get_args, get_origin

import pytest
import yaml
from annotated_types import Ge, Gt, Le, Lt, MinLen
from pydantic import BaseModel

from mist_bench.config import keywords
from mist_bench.config import resolve as settings
from mist_bench.config.docs import document
from mist_bench.config.keywords import parameters, parse_args_section
from mist_bench.config.resolve import ConfigError
from mist_bench.config.targets import SETTINGS
from mist_bench.config.user import user_text

PRESETS = ("smoke", "cpu", "paper", "smoke_official", "paper_official", "tuning", "calibration")

TOY = {
    "preset": "small",
    "seeds": [0],
    "device": "cpu",
    "training": {
        "steps": 10,
        "batch_size": 2,
        "validate_every": 5,
        "checkpoint_every": 5,
        "log_every": 1,
    },
    "datasets": {
        "dots": {
            "module": "toy.data",
            "image_size": [1, 8, 8],
            "num_classes": 2,
            "box_size": 3,
            "sizes": {"train": 4, "val": 2, "test": 2},
            "seed": 0,
            "params": {"radius": 2},
        }
    },
    "experiments": {
        "dots_classification": {
            "task": "classification",
            "dataset": "dots",
            "num_instances": 3,
            "methods": ["guess"],
        }
    },
    "methods": {
        "guess": {
            "module": "toy.method",
            "label": "Guess",
            "params": {"classification": {"rate": 0.5}},
            "training": {"steps": 20},
            "experiments": {"dots_classification": {"params": {"rate": 0.25}}},
        }
    },
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A configuration with two presets, for a dataset and a method that are text only."""
    package = tmp_path / "toy"
    package.mkdir()
    (package / "data.py").write_text("def make_split(split, size, rng, *, radius: float): ...\n")
    (package / "method.py").write_text("def build(task, *, rate: float): ...\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    for cached in (keywords.parameters, keywords.source, keywords.bindings):
        cached.cache_clear()
    monkeypatch.setattr(keywords, "_spaces", {})
    (tmp_path / "presets").mkdir()
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(TOY))
    (tmp_path / "presets" / "small.yaml").write_text("training: {steps: 11}\n")
    (tmp_path / "presets" / "large.yaml").write_text("training: {steps: 12}\nseeds: [3, 4]\n")
    return tmp_path


def test_later_wins_key_by_key(folder):
    assert settings.load(folder).training.steps == 11
    large = settings.load(folder, {"preset": "large"})
    assert (large.training.steps, large.training.batch_size, large.seeds) == (12, 2, [3, 4])
    user = settings.load(folder, {"preset": "large", "training": {"steps": 13}})
    assert (user.training.steps, user.seeds) == (13, [3, 4])


def test_a_run_takes_what_its_method_and_experiment_change(folder):
    spec = settings.run_spec(settings.load(folder), "dots_classification", "guess", 0)
    assert (spec.params, spec.training.steps) == ({"rate": 0.25}, 20)


def test_equal_specs_give_equal_text(folder):
    turned = dict(reversed(TOY.items()))
    first, second = (settings.canonical(settings.validate(one)) for one in (TOY, turned))
    assert first == second


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"trainin": {}}, "trainin: unknown key; did you mean 'training'?"),
        ({"training": {"stepz": 1}}, "training.stepz: unknown key; did you mean 'steps'?"),
        ({"training": {"steps": "many"}}, "training.steps: .*got 'many'"),
        ({"training": {"steps": 0}}, "training.steps: .*greater than or equal to 1"),
        ({"seeds": []}, "seeds: "),
        ({"seeds": [-1]}, "seeds.0: "),
        ({"device": "gpu"}, "device: .*'cuda'"),
        (
            {"datasets": {"dots": {"params": {"radios": 1}}}},
            "datasets.dots.params.radios: unknown key; did you mean 'radius'?",
        ),
        (
            {"methods": {"guess": {"params": {"classification": {"rat": 1}}}}},
            "methods.guess.params.classification.rat: unknown key; did you mean 'rate'?",
        ),
        ({"methods": {"guess": {"training": {"step": 1}}}}, "methods.guess.training.step: unknown"),
        ({"methods": {"guess": {"module": "os.path"}}}, "module 'os.path' does not exist"),
        ({"methods": {"guess": {"module": ".x"}}}, "module '.x' does not exist"),
        ({"methods": {"guess": {"module": "toy.data"}}}, "'toy.data' has no function build"),
        ({"methods": {"guess": {"module": "toy.methd"}}}, "module 'toy.methd' does not exist"),
        (
            {"experiments": {"dots_classification": {"dataset": "dot"}}},
            "dataset: 'dot' is unknown; did you mean 'dots'?",
        ),
        (
            {"experiments": {"dots_classification": {"methods": ["gues"]}}},
            "methods: 'gues' is unknown; did you mean 'guess'?",
        ),
        (
            {"experiments": {"dots_classification": {"rivals": ["gues"]}}},
            "rivals: 'gues' is unknown; did you mean 'guess'?",
        ),
        (
            {"experiments": {"dots_classification": {"rivals": ["guess"]}}},
            "rivals: 'guess' is among its methods already",
        ),
    ],
)
def test_mistakes_are_refused_in_one_line(change, words):
    with pytest.raises(ConfigError, match=words.replace("?", r"\?")) as error:
        settings.validate(settings.merge(TOY, change))
    assert "\n" not in str(error.value)


def test_an_unknown_preset_names_the_known_ones(folder):
    with pytest.raises(ConfigError, match="'smal' is unknown; did you mean 'small'"):
        settings.load(folder, {"preset": "smal"})


@pytest.mark.parametrize("parent", ["5", "[large, nowhere]", "small"])
def test_a_preset_extends_other_presets_only(folder, parent):
    (folder / "presets" / "small.yaml").write_text(f"extends: {parent}\ntraining: {{steps: 11}}\n")
    with pytest.raises(ConfigError, match=r"small\.yaml: extends .*, which is not another preset"):
        settings.load(folder)
    (folder / "presets" / "small.yaml").write_text("extends:\ntraining: {steps: 11}\n")
    assert settings.load(folder).training.steps == 11


def test_broken_yaml_names_its_file(folder):
    (folder / "presets" / "small.yaml").write_text("training: {steps: 1\n")
    with pytest.raises(ConfigError, match=r"small\.yaml: cannot be read") as error:
        settings.load(folder)
    assert "\n" not in str(error.value)


def test_text_of_the_user_is_read_as_its_key_asks_for(folder):
    words = {"seeds": ["0", "1"], "training": {"steps": "20", "final_lr": "1e-1"}, "device": "cpu"}
    guess = {"label": "2012", "params": {"classification": {"rate": "1e-3"}}}
    user = user_text(words | {"methods": {"guess": guess}})
    config = settings.load(folder, user)
    assert (config.seeds, config.training.steps, config.training.final_lr) == ([0, 1], 20, 0.1)
    assert config.methods["guess"].label == "2012"
    # wins over what the files say of the experiment, too
    assert settings.run_spec(config, "dots_classification", "guess", 0).params == {"rate": 0.001}
    again = settings.parse("there", settings.canonical(config))
    assert again == config


@pytest.mark.parametrize("text", ["2012", "a: b", "no", "/data/set #1", "~"])
def test_text_stays_text_where_text_is_meant(text, folder):
    guess = user_text({"guess": {"label": text}})
    assert settings.load(folder, {"methods": guess}).methods["guess"].label == text


def leaves(model, path=()):
    """Yield (path, field, annotation) of every leaf of nested groups of parameters."""
    for key, field in model.model_fields.items():
        types = (field.annotation, *get_args(field.annotation))
        group = next((t for t in types if isinstance(t, type) and issubclass(t, BaseModel)), None)
        if group:
            yield from leaves(group, (*path, key))
        else:
            yield (*path, key), field


def wrong_values(field):
    """Return values that a leaf must not take: of another kind, and out of its range."""
    plain = field.annotation
    limits = [one for part in field.metadata for one in getattr(part, "metadata", [part])]
    wrong = [{"a": 1}]
    if plain is not str and str not in get_args(plain):
        wrong += ["many", "maybe x"]
    wrong += [one.ge - 1 for one in limits if isinstance(one, Ge)]
    wrong += [one.gt for one in limits if isinstance(one, Gt)]
    wrong += [one.le + 1 for one in limits if isinstance(one, Le)]
    wrong += [one.lt for one in limits if isinstance(one, Lt)]
    if get_origin(plain) in (list, tuple):
        wrong += [["many"], 3]
        if (... not in get_args(plain) and get_origin(plain) is tuple) or any(
            isinstance(one, MinLen) for one in limits
        ):
            wrong += [[]]
    elif get_origin(plain) is Literal:
        wrong += [[plain], 77]
    elif plain is bool:
        wrong += ["no", 1]
    elif plain in (int, float):
        wrong += [True, "3x", float("nan")]
    return wrong


def nested(path, value):
    return nested(path[:-1], {path[-1]: value}) if path else value


def modules(config):
    """Yield (place in the configuration, module, function) of all that has parameters."""
    for section, function in (("datasets", "make_split"), ("backbones", "build")):
        for name, entry in getattr(config, section).items():
            yield (section, name, "params"), entry.module, function, None
    for name, entry in config.methods.items():
        experiments = [s for s in config.experiments.values() if name in s.methods + s.rivals]
        for kind in sorted({setup.task for setup in experiments}):
            yield ("methods", name, "params", kind), entry.module, "build", kind


def test_every_leaf_refuses_another_kind_a_value_out_of_range_and_a_misspelt_key():
    config = settings.load(SETTINGS, {"preset": "smoke"})
    checked, count = set(), 0
    for place, module, function, kind in modules(config):
        if (module, kind) in checked:
            continue
        checked.add((module, kind))
        given = config.model_dump(mode="json")
        for key in place:
            given = given.get(key, {})
        for path, field in leaves(parameters(module, function, kind)):
            for value in wrong_values(field):
                refused(place, module, function, kind, given, path, value)
                count += 1
            refused(place, module, function, kind, given, (*path[:-1], path[-1] + "x"), 1)
    assert len(checked) > 12
    assert count > 500


def refused(place, module, function, kind, given, path, value):
    change = settings.merge(given, nested(path, value))
    with pytest.raises(ConfigError) as error:
        settings.resolved(".".join(place), module, function, kind, change)
    assert "\n" not in str(error.value)
    assert str(error.value).startswith(".".join(place)), (path, value)


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_is_whole_without_torch_and_the_same_after_a_round_trip(preset):
    config = settings.load(SETTINGS, {"preset": preset})
    assert config.preset == preset
    assert settings.validate(json.loads(settings.canonical(config))) == config
    for experiment, setup in config.experiments.items():
        for method in setup.methods + setup.rivals:
            assert settings.run_spec(config, experiment, method, 0).params


NEW = {"module": "toy.mine", "label": "Mine", "experiments": ["dots_classification"]}


def test_a_keyword_without_a_default_is_asked_for(folder):
    guess = {"params": {}, "experiments": {}}
    with pytest.raises(ConfigError, match=r"classification\.rate: this key is required by toy\.m"):
        settings.validate(
            settings.merge(TOY, {"methods": None})
            | {"methods": {"guess": TOY["methods"]["guess"] | guess}}
        )


def test_a_method_is_one_file_and_one_entry(folder):
    text = "import nowhere\n\n\ndef build(task: nowhere.Task, *, depth: int = 3): ...\n"
    (folder / "toy" / "mine.py").write_text(text)
    config = settings.load(folder, {"methods": {"mine": NEW}})
    assert config.experiments["dots_classification"].methods == ["guess", "mine"]
    assert settings.run_spec(config, "dots_classification", "mine", 0).params == {"depth": 3}
    only = {"dots_classification": {"methods": ["guess"]}}
    config = settings.load(folder, {"methods": {"mine": NEW}, "experiments": only})
    assert config.experiments["dots_classification"].methods == ["guess", "mine"]


def test_a_preset_without_a_budget_for_a_method_says_so(folder):
    (folder / "toy" / "mine.py").write_text("def build(task, *, depth: int = 3): ...\n")
    (folder / "presets" / "large.yaml").write_text("needs_params: true\n")
    config = settings.load(folder, {"preset": "large", "methods": {"mine": NEW}})
    setup = config.experiments["dots_classification"]
    assert (setup.methods, list(setup.omitted)) == (["guess"], ["mine"])
    with pytest.raises(ConfigError, match="preset large has no budget for mine"):
        settings.run_spec(config, "dots_classification", "mine", 0)
    budget = {"mine": NEW | {"training": {"steps": 3}}}
    config = settings.load(folder, {"preset": "large", "methods": budget})
    assert config.experiments["dots_classification"].methods == ["guess", "mine"]


def test_a_variant_says_only_what_differs(folder):
    own = {"extends": "guess", "experiments": ["dots_classification"]}
    config = settings.load(folder, {"methods": {"bold": own}})
    spec = settings.run_spec(config, "dots_classification", "bold", 0)
    assert (spec.module, spec.params, spec.training.steps) == ("toy.method", {"rate": 0.25}, 20)
    assert config.methods["bold"].label == "bold"
    # its own value wins over what the other has for one experiment; the user's for it over both
    own |= {"params": {"classification": {"rate": 2}}, "training": {"steps": 3}}
    spec = settings.run_spec(
        settings.load(folder, {"methods": {"bold": own}}), "dots_classification", "bold", 0
    )
    assert (spec.params, spec.training.steps) == ({"rate": 2}, 3)
    for wrong, words in (("bold", "extends itself"), ("gues", "'guess'"), (["guess"], "is not")):
        with pytest.raises(ConfigError, match=rf"^methods.bold.extends: .*{words}"):
            settings.load(folder, {"methods": {"bold": own | {"extends": wrong}}})


def test_a_variant_of_a_variant_follows_both_wherever_it_competes(folder):
    """Whether its parent competes there, too, changes nothing."""
    new = {"task": "classification", "dataset": "dots", "num_instances": 2}
    base = {"experiments": {"dots_classification": {"params": {"rate": 0.125}}}}
    methods = {"guess": base, "bold": {"extends": "guess"}}
    methods["bolder"] = {"extends": "bold", "experiments": ["dots_classification"]}
    extending = {"extends": "bold", "experiments": {"new": {"extends": "dots_classification"}}}
    config = settings.load(
        folder, {"methods": methods | {"boldest": extending}, "experiments": {"new": new}}
    )
    assert config.experiments["dots_classification"].methods == ["guess", "bolder"]
    for name, method in (("dots_classification", "bolder"), ("new", "boldest")):
        spec = settings.run_spec(config, name, method, 0)
        assert (spec.params, spec.training.steps) == ({"rate": 0.125}, 20)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("def build(task, *, rate: float = 1, x=3): ...", "'x' has no annotation"),
        ("def build(task, rate: float = 1): ...", r"put '\*,' before 'rate'"),
        ("def build(task, **params): ...", r"\*\*params hides the keys"),
        ("def build(task, *, rate: float", "cannot be read: '\\(' was never closed"),
        (
            "def build(task, *, rate: float): ...\n\n\ndef check(task, *, rate): 1 / 0",
            "check raised ZeroDivisionError",
        ),
        (
            "def build(task, *, rate: float): ...\n\n\ndef check(task, *, x): ...",
            "check takes 'x', which build lacks",
        ),
    ],
)
def test_a_method_whose_signature_says_too_little_is_refused_in_one_line(folder, text, words):
    (folder / "toy" / "method.py").write_text(text + "\n")
    with pytest.raises(ConfigError, match=words) as error:
        settings.load(folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["a-b", "../x", "", "2012-01-01"])
@pytest.mark.parametrize("section", ["methods", "datasets", "experiments"])
def test_names_are_parts_of_paths(folder, section, name):
    first = next(iter(TOY[section].values()))
    with pytest.raises(ConfigError, match="is part of paths: use letters, digits and _ only"):
        settings.load(folder, {section: {name: first}})


def test_null_of_the_command_line_is_null_where_a_key_may_be(folder):
    (folder / "toy" / "method.py").write_text("def build(task, *, name: str | None = 'x'): ...\n")
    own = {"params": {"classification": {"name": "null"}}, "experiments": {}}
    (folder / "config.yaml").write_text(yaml.safe_dump(TOY | {"methods": {}, "experiments": {}}))
    new = {"guess": {"module": "toy.method", "label": "null", **own}}
    config = settings.load(folder, user_text({"methods": new}))
    assert config.methods["guess"].params == {"classification": {"name": None}}
    assert config.methods["guess"].label == "null"


def test_the_short_and_the_long_form_do_not_contradict_each_other(folder):
    both = {"dots": {"radius": 3}, "datasets": {"dots": {"params": {"radius": 4}}}}
    with pytest.raises(ConfigError, match=r"^dots.radius: given as datasets.dots.params, too"):
        settings.load(folder, both)


def test_a_misspelt_method_is_asked_for_its_name(folder):
    with pytest.raises(ConfigError, match=r"^methods.gues: unknown; did you mean 'guess'\?; a new"):
        settings.load(folder, {"methods": {"gues": {"params": {}}}})


def test_a_type_that_cannot_be_read_is_named(folder):
    (folder / "toy" / "method.py").write_text("def build(task, *, rate: Flot): ...\n")
    with pytest.raises(ConfigError, match=r"toy.method.*build cannot be read: NameError.*Flot"):
        settings.load(folder)


def test_no_module_of_a_method_or_dataset_is_imported(folder):
    """The workflow reads them at every start; torch takes seconds."""
    settings.load(folder)
    assert "toy" not in sys.modules


def test_the_keys_are_described(folder):
    config = settings.load(SETTINGS, {"preset": "smoke"})
    text = document(config)
    for words in (
        "`training`",
        "`detector.channels` | integer >= 1 | `32`",
        "`radius`",
        "`official`",
    ):
        assert words in text
    alone = document(config, "grid")
    assert "`autoencoder.width`" in alone
    assert "`steps`" not in alone
    with pytest.raises(ConfigError, match="'gridd' is unknown; did you mean 'grid'"):
        document(config, "gridd")


def test_args_of_a_docstring_are_joined_over_lines():
    args = "Args:\n    one: first\n        and more.\n    two: second."
    text = f"Return it.\n\n{args}\n\nReturns:\n    x: y."
    assert parse_args_section(text) == {"one": "first and more.", "two": "second."}
    assert parse_args_section("Return it.") == {}


def test_no_smoke_run_is_long():
    """The preset extends cpu, whose overrides for one experiment reach it too."""
    config = settings.load(SETTINGS, {"preset": "smoke"})
    for name, setup in config.experiments.items():
        for method in setup.methods + setup.rivals:
            assert settings.run_spec(config, name, method, 0).training.steps <= 30, (name, method)


def test_a_schedule_of_another_length_than_the_training_is_refused():
    params = {"reconstruction": {"schedule_steps": 500}}
    change = {"preset": "cpu", "methods": {"landmarks": {"params": params}}}
    words = r"methods\.landmarks\..*schedule_steps is 500, .* has 5000 steps: change both$"
    with pytest.raises(ConfigError, match=words):
        settings.load(SETTINGS, change)


def test_another_dataset_to_train_on_must_exist():
    own = {"mnist_hard_reconstruction": {"dataset": "mnist_hard_0_8"}}
    with pytest.raises(ConfigError, match="'mnist_hard_0_8' is unknown; did you mean"):
        settings.load(SETTINGS, {"methods": {"air": {"experiments": own}}})

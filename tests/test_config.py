"""The configuration: what is refused, in which words, and what wins."""

import ast
from pathlib import Path

import pytest
import yaml

from mist_bench.config import files, targets
from mist_bench.config import resolve as settings
from mist_bench.config.docs import argument_docs, document, parse_args_section
from mist_bench.config.keywords import source
from mist_bench.config.resolve import ConfigError

ROOT = Path(__file__).parents[1]
SETTINGS = ROOT / "workflow" / "config"
PRESETS = ("smoke", "cpu", "paper", "smoke_official", "paper_official")

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
        ({"training": {"steps": 0}}, "training.steps: .*greater than 0"),
        ({"seeds": []}, "seeds: "),
        ({"seeds": [-1]}, "seeds.0: "),
        ({"device": "gpu"}, "device: .*'cuda'"),
        (
            {"datasets": {"dots": {"params": {"radios": 1}}}},
            "datasets.dots.params: 'radios' is unknown; did you mean 'radius'?",
        ),
        (
            {"methods": {"guess": {"params": {"classification": {"rat": 1}}}}},
            "methods.guess.params.classification: 'rat' is unknown; did you mean 'rate'?",
        ),
        ({"methods": {"guess": {"training": {"step": 1}}}}, "methods.guess.training: step"),
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
        ({"experiments": {"dots_classification": {"task": "reconstruction"}}}, "reconstruction"),
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


def test_texts_of_the_command_line_become_values():
    given = {"seeds": ["0", "1"], "training": {"steps": "20", "lr": "1e-3"}, "device": "cpu"}
    assert files.typed(given) == {
        "seeds": [0, 1],
        "training": {"steps": 20, "lr": 0.001},
        "device": "cpu",
    }
    assert files.typed(["true", "null", "even", "[1, 2", 3]) == [True, None, "even", "[1, 2", 3]


def every_run(preset):
    config = settings.load(SETTINGS, {"preset": preset})
    return [
        settings.run_spec(config, experiment, method, config.seeds[0])
        for experiment, setup in config.experiments.items()
        for method in setup.methods + setup.rivals
    ]


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_gives_every_required_keyword(preset):
    """A keyword without default that no YAML sets would fail hours later, in a job."""
    for spec in every_run(preset):
        missing = required(spec.module, "build") - set(spec.params)
        assert not missing, (spec.experiment, spec.method)
    config = settings.load(SETTINGS, {"preset": preset})
    for name, dataset in config.datasets.items():
        assert not required(dataset.module, "make_split") - set(dataset.params), name


def required(module, function):
    """Return the keyword-only arguments without a default."""
    body = ast.parse(source(module).read_text()).body
    args = next(n for n in body if isinstance(n, ast.FunctionDef) and n.name == function).args
    pairs = zip(args.kwonlyargs, args.kw_defaults, strict=True)
    return {argument.arg for argument, default in pairs if default is None}


@pytest.mark.parametrize("preset", PRESETS)
def test_no_number_is_a_text(preset):
    """YAML 1.1 reads 1e-3 as a text; 1.0e-3 is the number."""
    config = settings.load(SETTINGS, {"preset": preset}).model_dump(mode="json")

    def texts(value, path):
        if isinstance(value, dict):
            return [found for key, item in value.items() for found in texts(item, [*path, key])]
        if isinstance(value, list):
            return [found for item in value for found in texts(item, path)]
        return [(".".join(path), value)] if isinstance(value, str) else []

    wrong = [entry for entry in texts(config, []) if not isinstance(files.typed(entry[1]), str)]
    assert not wrong


def test_a_preset_is_named_after_its_file():
    paths = {settings.load(SETTINGS, {"preset": preset}).preset for preset in PRESETS}
    assert paths == set(PRESETS)


def test_the_documentation_is_up_to_date():
    """Write it anew with ``mist-bench config-docs > workflow/config/README.md``."""
    written = (SETTINGS / "README.md").read_text(encoding="utf-8")
    assert written == document(settings.load(SETTINGS))


def test_args_of_a_docstring_are_joined_over_lines():
    args = "Args:\n    one: first\n        and more.\n    two: second."
    text = f"Return it.\n\n{args}\n\nReturns:\n    x: y."
    assert parse_args_section(text) == {"one": "first and more.", "two": "second."}
    assert parse_args_section("Return it.") == {}


@pytest.mark.usefixtures("folder")
def test_a_keyword_without_explanation_is_refused():
    with pytest.raises(ValueError, match=r"toy\.method\.build: no word on rate"):
        argument_docs("toy.method", "build")


def test_a_hyper_parameter_that_a_method_still_needs_is_named():
    config = settings.load(targets.SETTINGS, {"preset": "smoke"})
    raw = config.model_dump(mode="json")
    del raw["methods"]["mist"]["params"]["classification"]["mirror"]
    with pytest.raises(ConfigError, match=r"'mirror' is required by mist_bench\.mist\.build"):
        settings.validate(raw)


def test_no_smoke_run_is_long():
    """The preset extends cpu, whose overrides for one experiment reach it too."""
    config = settings.load(targets.SETTINGS, {"preset": "smoke"})
    for name, setup in config.experiments.items():
        for method in setup.methods + setup.rivals:
            assert settings.run_spec(config, name, method, 0).training.steps <= 30, (name, method)


def test_four_minutes_are_a_quarter_of_the_steps_wherever_digits_are_classified():
    """The preset extends cpu, whose overrides for one experiment reach it too."""
    config = settings.load(targets.SETTINGS, {"preset": "cpu_4min"})
    for name in ("mnist_hard", "mnist_count_6_9", "mnist_count_3_9"):
        setup = config.experiments[f"{name}_classification"]
        for method in setup.methods + setup.rivals:
            spec = settings.run_spec(config, f"{name}_classification", method, 0)
            assert spec.training.steps == 1600, (name, method)


def test_a_schedule_of_another_length_than_the_training_is_refused():
    params = {"reconstruction": {"schedule_steps": 500}}
    change = {"preset": "cpu", "methods": {"landmarks": {"params": params}}}
    words = r"methods\.landmarks\..*schedule_steps is 500, .* has 5000 steps: change both$"
    with pytest.raises(ConfigError, match=words):
        settings.load(targets.SETTINGS, change)


def test_a_method_may_name_a_module_for_each_task_and_another_dataset_to_train_on():
    config = settings.load(targets.SETTINGS, {"preset": "cpu"})
    modules = {
        task: settings.run_spec(config, f"mnist_hard_{task}", "mist", 0).module
        for task in ("classification", "reconstruction")
    }
    assert modules == {
        "classification": "mist_bench.mist",
        "reconstruction": "mist_bench.mist_autoencoder",
    }
    spec = settings.run_spec(config, "mnist_hard_reconstruction", "air", 0)
    assert (spec.dataset, spec.task.num_instances) == ("mnist_hard_0_9", 9)


def test_another_dataset_to_train_on_must_exist():
    own = {"mnist_hard_reconstruction": {"dataset": "mnist_hard_0_8"}}
    with pytest.raises(ConfigError, match="'mnist_hard_0_8' is unknown; did you mean"):
        settings.load(targets.SETTINGS, {"methods": {"air": {"experiments": own}}})

"""Which configurations are measured: runs of presets, and variants of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from mist_bench.config import files, targets
from mist_bench.config import resolve as settings
from mist_bench.config.keywords import parameters
from mist_bench.config.schema import Config, RunSpec
from mist_bench.config.user import decoded, user_text

# the named variant: the networks of the preset, the step of the official code
OFFICIAL, OFFICIAL_PRESET = "official", "paper"
HARD = "mnist_hard_classification"  # what is measured unless another experiment is named


def read_spec(preset: str, experiment: str, method: str) -> tuple[Config, RunSpec]:
    """Return a preset's configuration and its run of ``method`` with the first seed.

    Raises:
        ConfigError: in one line, for an unknown name.
    """
    config = settings.load(targets.SETTINGS, {"preset": preset})
    targets.check_run(config, experiment, method)
    return config, settings.run_spec(config, experiment, method, config.seeds[0])


def variant(name: str, spec: RunSpec) -> RunSpec:
    """Return what ``name`` stands for: a preset, ``official``, or ``key=value`` of ``params``.

    Dots in a key lead to nested ones: ``detector.channels=16``.

    Raises:
        ConfigError: in one line, for an unknown preset or key, or a value that a key cannot have.
    """
    key, equals, value = name.partition("=")
    if equals:
        model = parameters(spec.module, "build", spec.task.kind)
        change = decoded(user_text(nested(key, value)), model, spec.params)
        given, kind = files.merge(spec.params, change), spec.task.kind
        params = settings.resolved("--against: params", spec.module, "build", kind, given)
        return spec.model_copy(update={"params": params})
    presets = sorted(path.stem for path in (targets.SETTINGS / "presets").glob("*.yaml"))
    settings.check_names("--against: preset", [name], [*presets, OFFICIAL])
    if name != OFFICIAL:
        return read_spec(name, spec.experiment, spec.method)[1]
    paper = read_spec(OFFICIAL_PRESET, spec.experiment, "mist")[1]
    # the official code sees a gray image as three equal channels
    image_size = (3, *paper.task.image_size[1:])
    return paper.model_copy(update={"task": replace(paper.task, image_size=image_size)})


def nested(key: str, value: Any) -> dict[str, Any]:
    """Return ``{"a": {"b": value}}`` for the key ``a.b``."""
    first, _, rest = key.partition(".")
    return {first: nested(rest, value) if rest else value}

"""What the options of the command line name: specifications, configurations, code and runs."""

import argparse
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from mist_bench.config import provenance, targets
from mist_bench.config import resolve as settings
from mist_bench.config.keywords import ConfigError, explain
from mist_bench.config.schema import Config, DatasetSpec, FeatureSpec, RunSpec
from mist_bench.spec import Spec

S = TypeVar("S", bound=Spec)
J = TypeVar("J", DatasetSpec, FeatureSpec, RunSpec)


def read_spec(given: str, model: type[S]) -> S:
    """Return the specification in JSON text, or in the file of that name."""
    inline = given.lstrip().startswith("{")
    text = given if inline else Path(given).read_text(encoding="utf-8")
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        where = "--spec" if inline else given
        raise ConfigError(f"{where}: {explain(error, model)}") from None


def read_job(stage: str, options: argparse.Namespace, model: type[J]) -> J:
    """Return --spec of a stage, whose keywords its module takes and whose code is --code's."""
    spec = read_spec(options.spec, model)
    made = spec.network if isinstance(spec, FeatureSpec) else spec
    function = "make_split" if isinstance(spec, DatasetSpec) else "build"
    kind = spec.task.kind if isinstance(spec, RunSpec) else None
    settings.resolved("--spec: params", made.module, function, kind, made.params)
    check_code(stage, made.module, options.code)
    return spec


def load_preset(name: str | None) -> Config:
    """Return the configuration of a preset; that of config.yaml without a name."""
    return settings.load(targets.SETTINGS, {"preset": name} if name else None)


def check_code(stage: str, module: str | None, expected: str | None) -> None:
    """Refuse to run code that was edited after the workflow had planned this job."""
    if expected and expected != provenance.digest(stage, module):
        raise ValueError("the code was edited after the workflow started; start the workflow again")

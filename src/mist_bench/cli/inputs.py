"""What the options of the command line name: specifications, configurations, code and runs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from mist_bench.config import provenance, targets
from mist_bench.config import resolve as settings
from mist_bench.config.keywords import ConfigError
from mist_bench.config.schema import Config, DatasetSpec, FeatureSpec, RunSpec, Strict

S = TypeVar("S", bound=Strict)
J = TypeVar("J", DatasetSpec, FeatureSpec, RunSpec)


def read_spec(given: str, model: type[S]) -> S:
    """Return the specification in JSON text, or in the file of that name."""
    inline = given.lstrip().startswith("{")
    text = given if inline else Path(given).read_text(encoding="utf-8")
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        where = "--spec" if inline else given
        raise ConfigError(f"{where}: {settings.explain(error, model)}") from None


def read_job(stage: str, options: argparse.Namespace, model: type[J]) -> J:
    """Return --spec of a stage, whose keywords its module takes and whose code is --code's."""
    spec = read_spec(options.spec, model)
    made = spec.network if isinstance(spec, FeatureSpec) else spec
    function = "make_split" if isinstance(spec, DatasetSpec) else "build"
    settings.check_keywords("--spec: params", made.params, made.module, function)
    check_code(stage, made.module, options.code)
    return spec


def read_config(options: argparse.Namespace) -> tuple[Config, Path]:
    """Return the configuration that --config or --preset names, and its results folder."""
    if options.config:
        config = settings.parse(str(options.config), options.config.read_text(encoding="utf-8"))
    else:
        config = load_preset(options.preset)
    return config, Path("results", config.preset)


def load_preset(name: str | None) -> Config:
    """Return the configuration of a preset; that of config.yaml without a name."""
    return settings.load(targets.SETTINGS, {"preset": name} if name else None)


def check_code(stage: str, module: str | None, expected: str | None) -> None:
    """Refuse to run code that was edited after the workflow had planned this job."""
    if expected and expected != provenance.digest(stage, module):
        raise ValueError("the code was edited after the workflow started; start the workflow again")


def check_complete(
    options: argparse.Namespace, results: Path, runs: list[targets.Run], name: str
) -> None:
    """Raise a ``ValueError`` that names the first missing run, unless --partial was given."""
    files = [targets.run_folder(results, *run) / name for run in runs]
    missing = [path for path in files if not path.is_file()]
    if missing and not options.partial:
        raise ValueError(
            f"{options.name}: {len(missing)} of {len(files)} runs are missing, first {missing[0]}; "
            f"make them with snakemake {options.name} --config preset={results.name}, "
            "or add --partial"
        )

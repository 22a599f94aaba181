"""The paper's numbers, the rule and the deviations; and how files are written."""

import os
from pathlib import Path

import pandas as pd
import yaml
from pydantic import Field

from mist_bench.config import resolve as settings
from mist_bench.config.targets import WORKFLOW
from mist_bench.spec import NonNegative, Positive, Spec

RESOURCES = WORKFLOW / "resources"


class Claim(Spec):
    """What the paper's numbers say together: quantities in ascending order.

    A quantity is ``experiment/method``, or ``a - b`` of two of them.
    """

    text: str = Field(description="the claim in words, its quantities in the order of ascending")
    metric: str = Field(description="of paper_results.csv")
    ascending: list[str | list[str]] = Field(
        description="quantities, each above all before it; a list is several in no order"
    )
    experiment: str = Field("", description="of quantities that name none")
    by: float | None = Field(
        None, description="the least step, as a fraction, perhaps negative; null for any step up"
    )
    relative: bool = Field(False, description="whether by is a part of the smaller quantity")


class Rule(Spec):
    """When a value counts as the paper's (workflow/resources/verdict_rule.yaml)."""

    confidence: float = Field(gt=0, lt=1, description="level of the interval over seeds")
    tolerance: dict[str, NonNegative] = Field(
        description="largest |ours - paper| that still counts as reproduced, per paper metric"
    )
    widest_interval: Positive = Field(
        description="largest half width of an interval that counts, in tolerances"
    )
    no_claim_presets: list[str] = Field(description="presets never compared with the paper")
    no_claim_data: list[str] = Field(description="words in a source that forbid a comparison")
    claims: dict[str, list[Claim]] = Field(
        {}, description="by table, what is judged of several values together"
    )


def read_rule(resources: Path = RESOURCES) -> Rule:
    """Return the rule for verdicts.

    Raises:
        ValueError: in one line, for a missing or misspelt key, or an impossible value.
    """
    path = resources / "verdict_rule.yaml"
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        rule = settings.checked("", content, Rule)
    except (settings.ConfigError, yaml.YAMLError) as error:
        raise ValueError(f"{path}: {' '.join(str(error).split())}") from None
    if missing := sorted({*read_paper()["metric"]} - {*rule.tolerance}):
        raise ValueError(f"{path}: tolerance.{missing[0]} is missing: the paper has such numbers")
    return rule


def read_paper() -> pd.DataFrame:
    """Return every number of Tables 1-5: table, experiment, method, metric, value, note.

    ``value`` is a fraction, or the RMSE; NaN where the paper prints a dash.
    """
    return pd.read_csv(RESOURCES / "paper_results.csv", keep_default_na=False).assign(
        value=lambda frame: pd.to_numeric(frame["value"])
    )


def read_deviations() -> pd.DataFrame:
    """Return the deviations: id, paper, official_code, choice, config_key, effect."""
    return pd.read_csv(RESOURCES / "deviations.csv", keep_default_na=False, dtype=str)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` to ``path``, which appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)

"""The paper's numbers, the rule and the deviations; and how files are written."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import yaml

from mist_bench.config.targets import WORKFLOW

RESOURCES = WORKFLOW / "resources"


@dataclass(frozen=True)
class Claim:
    """What the paper's numbers say together: quantities in ascending order.

    Attributes:
        text: the claim in words, its quantities in the order of ``ascending``.
        metric: of paper_results.csv.
        ascending: quantities, each above all of the one before it; a list is several in no order.
            A quantity is ``experiment/method``, or ``a - b`` of two of them; without experiment,
            that of the claim.
        experiment: of quantities that name none.
        by: the least step, as a fraction, which may be negative; any step up if ``None``.
        relative: whether ``by`` is a part of the smaller quantity.
    """

    text: str
    metric: str
    ascending: list[str | list[str]]
    experiment: str = ""
    by: float | None = None
    relative: bool = False


@dataclass(frozen=True)
class Rule:
    """When a value counts as the paper's (workflow/resources/verdict_rule.yaml).

    Attributes:
        confidence: level of the interval over seeds.
        tolerance: largest |ours - paper| that still counts as reproduced, per paper metric.
        widest_interval: largest half width of an interval that counts, in tolerances.
        no_claim_presets: presets that are never compared with the paper.
        no_claim_data: words in a dataset's source that forbid a comparison.
        claims: by table, what is judged of several values together.
    """

    confidence: float
    tolerance: dict[str, float]
    widest_interval: float
    no_claim_presets: list[str]
    no_claim_data: list[str]
    claims: dict[str, list[Claim]] = field(default_factory=dict)


def read_rule(resources: Path = RESOURCES) -> Rule:
    """Return the rule for verdicts.

    Raises:
        ValueError: in one line, for a missing or misspelt key, or an impossible value.
    """
    path = resources / "verdict_rule.yaml"
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        claims = content.pop("claims", None) or {}
        content["claims"] = {
            table: [Claim(**claim) for claim in entries] for table, entries in claims.items()
        }
        rule = Rule(**content)
        negative = [name for name, value in rule.tolerance.items() if not value >= 0]
        unlikely = not 0 < rule.confidence < 1
    except (TypeError, AttributeError, yaml.YAMLError) as error:
        raise ValueError(f"{path}: {' '.join(str(error).split())}") from None
    if unlikely:
        raise ValueError(f"{path}: confidence must be in 0..1, got {rule.confidence}")
    if negative:
        raise ValueError(f"{path}: tolerance.{negative[0]} must not be negative")
    if missing := sorted({*read_paper(resources)["metric"]} - {*rule.tolerance}):
        raise ValueError(f"{path}: tolerance.{missing[0]} is missing: the paper has such numbers")
    return rule


def read_paper(resources: Path = RESOURCES) -> pd.DataFrame:
    """Return every number of Tables 1-5: table, experiment, method, metric, value, note.

    ``value`` is a fraction, or the RMSE; NaN where the paper prints a dash.
    """
    return pd.read_csv(resources / "paper_results.csv", keep_default_na=False).assign(
        value=lambda frame: pd.to_numeric(frame["value"])
    )


def read_deviations(resources: Path = RESOURCES) -> pd.DataFrame:
    """Return the deviations: id, paper, official_code, choice, config_key, effect."""
    return pd.read_csv(resources / "deviations.csv", keep_default_na=False, dtype=str)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` to ``path``, which appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)

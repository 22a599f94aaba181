"""The stated rule that turns our values and the paper's into a verdict."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from mist_bench.reporting.files import Rule

VERDICTS = (
    "reproduced",
    "direction only",
    "not reproduced",
    "not judged",
    "not run",
    "not specified",
)
NO_CLAIM = "no claim"
SINGLE_RUN = " (single run)"


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds with its confidence interval; all ``None`` without values."""

    mean: float | None
    ci_low: float | None
    ci_high: float | None
    n: int


NO_ESTIMATE = Estimate(None, None, None, 0)


def estimate(values: Sequence[float], confidence: float, *, fraction: bool = False) -> Estimate:
    """Return the mean and the t-interval over seeds; no interval from a single one.

    Args:
        values: one per seed.
        confidence: level of the interval.
        fraction: whether values are in [0, 1], where the interval then ends.
    """
    n = len(values)
    if n == 0:
        return NO_ESTIMATE
    mean = float(np.mean(values))
    if n == 1:
        return Estimate(mean, None, None, 1)
    half = float(stats.t.ppf((1 + confidence) / 2, n - 1) * stats.sem(values))
    low, high = mean - half, mean + half
    return Estimate(mean, *((max(low, 0.0), min(high, 1.0)) if fraction else (low, high)), n)


def same_number(ours: Estimate, paper: float, tolerance: float, widest: float) -> bool:
    """Return whether ours counts as the paper's number.

    Args:
        ours: with a mean.
        paper: the paper's value.
        tolerance: largest difference of the mean.
        widest: largest half width, in tolerances, of an interval that may vouch for the number.
    """
    if order(ours.mean, paper, tolerance) == 0:
        return True
    if ours.ci_low is None:
        return False
    # the longer side: the other one may end at 0 or 1
    if max(ours.ci_high - ours.mean, ours.mean - ours.ci_low) > widest * tolerance:
        return False
    return ours.ci_low <= paper <= ours.ci_high


def order(value: float, other: float, tolerance: float) -> int:
    """Return -1, 0 or 1: below, about equal (within the tolerance), above."""
    difference = value - other
    # a difference of exactly the tolerance counts, whatever binary fractions make of it
    return 0 if abs(difference) <= tolerance + 1e-9 else (1 if difference > 0 else -1)


def judge(
    ours: Estimate,
    paper: float | None,
    references: Sequence[tuple[float, float]],
    tolerance: float,
    rule: Rule,
) -> str:
    """Return the verdict on a cell that has a value.

    Args:
        ours: our estimate, n >= 1.
        paper: the paper's value, ``None`` where it has none.
        references: pairs (ours, paper's) of the values it is ordered against: MIST's, or for MIST
            itself those of every other method of the column.
        tolerance: of this metric.
        rule: for the widest interval that counts.
    """
    if paper is None:
        return "not specified"
    if same_number(ours, paper, tolerance, rule.widest_interval):
        verdict = "reproduced"
    elif not references:
        verdict = "not judged"
    elif all(
        order(ours.mean, other, tolerance) == order(paper, other_paper, tolerance)
        for other, other_paper in references
    ):
        verdict = "direction only"
    else:
        verdict = "not reproduced"
    return verdict + (SINGLE_RUN if ours.n == 1 else "")


def rule_in_words(rule: Rule, metrics: Sequence[str]) -> str:
    """Return the rule as it is printed under a table, for the paper metrics in it."""
    tolerances = ", ".join(f"{metric} {rule.tolerance[metric]:g}" for metric in metrics)
    return (
        f"Reproduced: our mean is within the tolerance of the paper's value ({tolerances}), or the "
        f"{rule.confidence:.0%} t-interval over seeds holds it and is at most "
        f"±{rule.widest_interval:g} tolerances wide. Direction only: not that, but below, about "
        "equal to (within the tolerance) or above MIST in the same column as in the paper; for "
        "MIST itself, the same against every other method there. Not reproduced: neither. Not "
        "judged: not reproduced as a number, and nothing in the column to order it against. "
        "Not specified: the paper has no such number. Single run: one seed, hence no interval."
    )

"""What several values of a table say together, beside what the paper's say (verdict_rule.yaml)."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain, pairwise, product

from mist_bench.reporting.files import Claim
from mist_bench.reporting.tables.grid import Cell
from mist_bench.reporting.tables.verdicts import NO_CLAIM

Place = tuple[str, str]  # experiment, method


def claim_line(claim: Claim, cells: Sequence[Cell], barred: Mapping[str, str]) -> str:
    """Return one line: the verdict, the claim, our values and the paper's, and how many seeds.

    Args:
        claim: of the cells' table.
        cells: of one table; of those of a metric of the paper, the first metric counts.
        barred: why an experiment's values are not compared with the paper's, by experiment.
    """
    groups = [
        [
            [_place(part, claim.experiment) for part in quantity.split(" - ")]
            for quantity in ([one] if isinstance(one, str) else one)
        ]
        for one in claim.ascending
    ]
    quantities = list(chain(*groups))
    named = list(chain(*quantities))
    first = next((cell.metric for cell in cells if cell.metric.paper == claim.metric), None)
    found = {(c.experiment, c.method): c for c in cells if c.metric == first}
    if missing := [place for place in named if place not in found or not found[place].ours.n]:
        experiment, method = missing[0]
        return f"Not judged: {claim.text} ({method} has no value on {experiment})."
    ours = {place: found[place].ours.mean for place in named}
    paper = {place: found[place].paper for place in named}
    if reasons := [barred[experiment] for experiment, _ in named if experiment in barred]:
        verdict = f"{NO_CLAIM.capitalize()}, {reasons[0]}"
    else:
        values = [[_value(quantity, ours) for quantity in group] for group in groups]
        verdict = "Holds" if ascends(values, claim.by, relative=claim.relative) else "Does not hold"
    show = found[named[0]].number
    texts = [", ".join(_shown(q, known, show) for q in quantities) for known in (ours, paper)]
    counts = [str(found[place].ours.n) for place in named]
    seeds = f"{counts[0]} each" if len(set(counts)) == 1 else ", ".join(counts)
    return f"{verdict}: {claim.text}: {texts[0]} (the paper: {texts[1]}; n = {seeds})."


def _place(name: str, experiment: str) -> Place:
    """Return the experiment and method of a name that may lack the experiment."""
    named, _, method = name.rpartition("/")
    return named or experiment, method


def _value(quantity: Sequence[Place], known: Mapping[Place, float | None]) -> float | None:
    """Return a value, or the difference of two; ``None`` where one is not known."""
    values = [known[place] for place in quantity]
    return None if None in values else values[0] - sum(values[1:])


def ascends(groups: Iterable[Sequence[float]], by: float | None, *, relative: bool) -> bool:
    """Return whether every value of a group is above all of the group before it.

    Args:
        groups: values.
        by: the least step; any step up if ``None``.
        relative: whether ``by`` is a part of the smaller value.
    """
    pairs = [pair for below, above in pairwise(groups) for pair in product(below, above)]
    if by is None:
        return all(upper > lower for lower, upper in pairs)
    # a step of exactly `by` counts, whatever binary fractions make of it
    return all(upper - lower >= by * (lower if relative else 1) - 1e-9 for lower, upper in pairs)


def _shown(
    quantity: Sequence[Place],
    known: Mapping[Place, float | None],
    show: Callable[[float | None], str],
) -> str:
    """Return a quantity as printed; a difference of percentages is in points."""
    text = show(_value(quantity, known))
    return text.replace("%", " points") if len(quantity) > 1 else text

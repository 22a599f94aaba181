"""What several values say together: by hand, on the paper's own numbers, and under a table."""

import pytest
from test_reporting_tables import HARD, make_config, put_run, set_source

from mist_bench.reporting.files import RESOURCES, Claim, read_paper, read_rule
from mist_bench.reporting.tables.claims import ascends, claim_line
from mist_bench.reporting.tables.grid import Cell
from mist_bench.reporting.tables.layouts import LAYOUTS, Metric
from mist_bench.reporting.tables.verdicts import Estimate
from mist_bench.reporting.tables.write import write_table

THREE = "mnist_3_classification"
BOTH = Metric("both", "both", "Both")
LEAD = Claim(
    text="MIST's lead, three < hard",
    metric="both",
    ascending=[f"{name}/mist - {name}/soft_topk" for name in (THREE, HARD)],
)


def cell(experiment, method, mean, paper=None, metric=BOTH, n=1):
    return Cell("table3", experiment, method, metric, Estimate(mean, None, None, n), paper)


def leads(hard=0.71):
    """Four values: MIST leads by .05 on three digits, by .97 - ``hard`` on nine."""
    return [
        cell(THREE, "mist", 0.95, 0.966),
        cell(THREE, "soft_topk", 0.90, 0.922),
        cell(HARD, "mist", 0.97, 0.975, n=3),
        cell(HARD, "soft_topk", hard, 0.713),
    ]


@pytest.mark.parametrize(
    ("groups", "by", "relative", "expected"),
    [
        ([[1], [2], [3]], None, False, True),
        ([[1], [2], [2]], None, False, False),  # equal is not above
        ([[1], [2, 3], [4]], None, False, True),
        ([[1], [3, 2], [2.5]], None, False, False),  # above one of two only
        ([[0.92], [0.87]], -0.05, False, True),  # exactly the step
        ([[0.92], [0.869]], -0.05, False, False),
        ([[0.60], [0.678]], 0.13, True, True),
        ([[0.60], [0.677]], 0.13, True, False),
        ([[0], [0.1]], 0.13, True, True),
    ],
)
def test_ascending_by_hand(groups, by, relative, expected):
    assert ascends(groups, by, relative=relative) is expected


def test_a_difference_of_differences_by_hand():
    assert claim_line(LEAD, leads(), {}) == (
        "Holds: MIST's lead, three < hard: 5.0 points, 26.0 points "
        "(the paper: 4.4 points, 26.2 points; n = 1, 1, 3, 1)."
    )
    assert claim_line(LEAD, leads(hard=0.94), {}).startswith(
        "Does not hold: MIST's lead, three < hard: 5.0 points, 3.0 points "
    )


def test_a_chain_with_two_in_no_order():
    claim = Claim(
        text="a < b, c", metric="rmse", ascending=["grid", ["air", "landmarks"]], experiment="easy"
    )
    rmse = Metric("rmse", "rmse", "RMSE", percent=False)
    values = {"grid": (0.063, 0.039), "air": (0.519, 0.1), "landmarks": (0.201, None)}
    cells = [cell("easy", name, *two, metric=rmse) for name, two in values.items()]
    assert claim_line(claim, cells, {}) == (
        "Holds: a < b, c: .063, .519, .201 (the paper: .039, .100, -; n = 1 each)."
    )


def test_what_has_no_value_or_no_claim_is_not_judged():
    some = [one for one in leads() if (one.experiment, one.method) != (THREE, "soft_topk")]
    words = "Not judged: MIST's lead, three < hard (soft_topk has no value on"
    assert claim_line(LEAD, some, {}).startswith(f"{words} {THREE}")
    empty = [*some, cell(THREE, "soft_topk", None, 0.9, n=0)]
    assert claim_line(LEAD, empty, {}).startswith(words)
    line = claim_line(LEAD, leads(), {HARD: "stand-in data"})
    assert line.startswith("No claim, stand-in data: MIST's lead, three < hard: 5.0 points")


def test_of_several_metrics_for_one_of_the_papers_the_first_counts():
    official = Metric("both_official", "both", "Both (official)")
    better = [cell(one.experiment, one.method, 0.5, metric=official) for one in leads()]
    assert claim_line(LEAD, leads() + better, {}).startswith("Holds")
    assert claim_line(LEAD, better + leads(), {}).startswith("Does not hold")


@pytest.mark.parametrize(
    ("table", "claim"),
    [(table, claim) for table, claims in read_rule().claims.items() for claim in claims],
    ids=lambda value: value if isinstance(value, str) else value.text,
)
def test_the_papers_own_numbers_hold(table, claim):
    paper = read_paper().dropna(subset="value")
    metric = next(one for one in LAYOUTS[table].metrics if one.paper == claim.metric)
    cells = [
        cell(row.experiment, row.method, row.value, row.value, metric=metric)
        for row in paper[(paper.table == table) & (paper.metric == claim.metric)].itertuples()
    ]
    assert claim_line(claim, cells, {}).startswith(f"Holds: {claim.text}")


def test_a_table_states_its_claims_first(tmp_path):
    folder = tmp_path / "cpu"
    (folder / "datasets" / "mnist_hard").mkdir(parents=True)
    set_source(folder, "MNIST")
    for method, value in (("mist", 0.97), ("soft_topk", 0.98)):
        put_run(folder, method, 0, {"both": value})
    plain = make_config(seeds=[0], methods=("mist", "soft_topk"))
    labels = plain.methods | {"soft_topk": plain.methods["mist"]}
    write_table("table3", plain.model_copy(update={"methods": labels}), folder, tmp_path)
    notes = [line for line in (tmp_path / "table3.md").read_text().splitlines() if line[:2] == "- "]
    assert notes[:3] == [
        "- Not judged: in Both on MNIST-3 digits, Xie20 \\< MIST (soft\\_topk has no value on "
        "mnist\\_3\\_classification).",
        "- Does not hold: in Both on MNIST-hard, Xie20 \\< MIST: 98.0%, 97.0% (the paper: 71.3%, "
        "97.5%; n = 1 each).",
        "- Not judged: MIST's lead over Xie20 in Both, on MNIST-3 digits \\< on MNIST-hard "
        "(mist has no value on mnist\\_3\\_classification).",
    ]


def test_a_misspelt_claim_is_refused(tmp_path):
    text = (RESOURCES / "verdict_rule.yaml").read_text(encoding="utf-8")
    (tmp_path / "verdict_rule.yaml").write_text(text.replace("ascending:", "ascendin:", 1))
    with pytest.raises(ValueError, match=r"verdict_rule.yaml: .*ascendin"):
        read_rule(tmp_path)

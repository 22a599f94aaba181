import pytest

from mist_bench.reporting.files import RESOURCES, Rule, read_rule
from mist_bench.reporting.tables.verdicts import Estimate, estimate, judge, order, rule_in_words

RULE = Rule(
    confidence=0.95,
    tolerance={"both": 0.01},
    widest_interval=3,
    no_claim_presets=["smoke"],
    no_claim_data=["stand-in"],
)


def single(mean: float) -> Estimate:
    return Estimate(mean, None, None, 1)


def test_t_interval_by_hand():
    # mean 2, standard deviation 1, t(.975, 2) = 4.302653
    ours = estimate([1.0, 2.0, 3.0], 0.95)
    assert (ours.mean, ours.n) == (2.0, 3)
    assert ours.ci_low == pytest.approx(2 - 2.484138, abs=1e-6)
    assert ours.ci_high == pytest.approx(2 + 2.484138, abs=1e-6)


def test_one_seed_has_no_interval_and_none_no_mean():
    assert estimate([0.5], 0.95) == single(0.5)
    assert estimate([], 0.95) == Estimate(None, None, None, 0)


@pytest.mark.parametrize(
    ("ours", "paper", "references", "verdict"),
    [
        (single(0.985), 0.975, [], "reproduced (single run)"),  # exactly the tolerance
        (single(0.9851), 0.975, [], "not judged (single run)"),  # nothing to order it against
        (Estimate(0.95, 0.925, 0.975, 3), 0.975, [], "reproduced"),  # on the interval's edge
        # too wide to vouch
        (Estimate(0.95, 0.91, 0.99, 2), 0.975, [(0.9, 0.99)], "not reproduced"),
        (Estimate(0.985, 0.93, 1.0, 2), 0.96, [], "not judged"),  # too wide, though it ends at 1
        (Estimate(0.95, 0.94, 0.96, 3), 0.975, [(0.90, 0.90)], "direction only"),
        (Estimate(0.95, 0.94, 0.96, 3), 0.975, [(0.96, 0.90)], "not reproduced"),
        (single(0.5), 0.248, [(0.9, 0.975)], "direction only (single run)"),
        (single(0.5), 0.248, [(0.505, 0.975)], "not reproduced (single run)"),
        (single(0.90), 0.988, [(0.905, 0.987)], "direction only (single run)"),  # both equal
        (single(0.90), 0.978, [(0.5, 0.254), (0.89, 0.996)], "not reproduced (single run)"),
        (single(0.90), None, [(0.5, 0.254)], "not specified"),
    ],
)
def test_verdicts_by_hand(ours, paper, references, verdict):
    assert judge(ours, paper, references, RULE.tolerance["both"], RULE) == verdict


def test_an_interval_of_a_fraction_ends_at_0_and_1():
    assert estimate([0.1, 0.3], 0.95).ci_low < 0
    low, high = (estimate(values, 0.95, fraction=True) for values in ([0.1, 0.3], [0.9, 1.0]))
    # half widths t(.975, 1) / 10 and / 20, with t = 12.706
    assert (low.ci_low, high.ci_high) == (0, 1)
    assert low.ci_high == 1
    assert high.ci_low == pytest.approx(0.95 - 0.6353, abs=1e-4)


def test_order_within_the_tolerance_is_equal():
    assert [order(0.5, other, 0.1) for other in (0.3, 0.45, 0.6, 0.7)] == [1, 0, 0, -1]


def test_the_rule_in_words_states_its_numbers():
    words = rule_in_words(RULE, ["both"])
    assert "(both 0.01)" in words
    assert "95% t-interval" in words
    assert "3 tolerances" in words


def test_the_stored_rule_is_complete():
    rule = read_rule()
    assert set(rule.tolerance) >= {"rmse", "iou50", "classification", "both", "f1", "ap50"}
    assert "smoke" in rule.no_claim_presets


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("confidence: 0.95 ", "confidence: 95 ", r"confidence: .* less than 1 \(got 95\)"),
        ("  both: 0.01\n", "", r"tolerance\.both is missing"),
        ("  both: 0.01\n", "  both: -1\n", r"tolerance\.both: .* equal to 0 \(got -1\)"),
        ("  both: 0.01\n", "  both: little\n", r"tolerance\.both: .* valid number"),
        ("tolerance:\n", "tolerance: [\n", "while parsing"),
    ],
)
def test_a_rule_that_cannot_be_applied_is_refused_in_one_line(tmp_path, old, new, words):
    text = (RESOURCES / "verdict_rule.yaml").read_text(encoding="utf-8")
    assert old in text
    (tmp_path / "verdict_rule.yaml").write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises(ValueError, match=rf"verdict_rule\.yaml: .*{words}") as error:
        read_rule(tmp_path)
    assert "\n" not in str(error.value)


def test_a_rule_of_another_kind_is_refused(tmp_path):
    (tmp_path / "verdict_rule.yaml").write_text("[1]\n")
    with pytest.raises(ValueError, match=r"verdict_rule\.yaml: "):
        read_rule(tmp_path)


def test_a_misspelt_rule_is_refused(tmp_path):
    (tmp_path / "verdict_rule.yaml").write_text("confidenc: 0.9\n")
    with pytest.raises(ValueError, match=r"verdict_rule.yaml: .*confidenc"):
        read_rule(tmp_path)

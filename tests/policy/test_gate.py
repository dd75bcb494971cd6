"""The gate, case by case: what passes, what fails, and every way in which evidence does not count."""

import msgspec
import pytest

from datahall.core.records import Holdout
from datahall.policy.gate import SMALLEST_ALPHA, decide, spend, view_digest

DAY_NS = 86_400 * 10**9


@pytest.mark.parametrize(
    ("direction", "lower", "upper", "outcome", "value"),
    [
        ("at_least", 0.92, 0.98, "pass", 0.92),
        ("at_least", 0.90, 0.98, "pass", 0.90),
        ("at_least", 0.8999, 0.99, "insufficient", 0.8999),
        ("at_least", 0.80, 0.8999, "fail", 0.8999),
        ("at_least", 0.80, 0.90, "insufficient", 0.80),
        ("at_least", 0.92, None, "pass", 0.92),
        ("at_least", None, 0.95, "insufficient", None),
        ("at_least", None, 0.85, "fail", 0.85),
        ("at_most", 0.80, 0.8999, "pass", 0.8999),
        ("at_most", 0.80, 0.90, "pass", 0.90),
        ("at_most", 0.85, 0.9001, "insufficient", 0.9001),
        ("at_most", 0.90, 0.95, "insufficient", 0.95),
        ("at_most", 0.9001, 0.95, "fail", 0.9001),
        ("at_most", 0.95, None, "fail", 0.95),
        ("at_most", 0.80, None, "insufficient", None),
    ],
)
def test_only_the_confidence_bound_counts(case, direction, lower, upper, outcome, value):
    finding = case.judge(case.claim(direction=direction), case.figure(lower, upper))
    assert (finding.outcome, finding.value) == (outcome, value)
    assert finding.evidence == "evd_1"


def test_a_high_estimate_with_a_low_bound_does_not_pass(case):
    finding = case.judge(case.claim(), case.figure(0.85, 0.99, estimate=0.97, num=200))
    assert finding.outcome == "insufficient"
    assert finding.num_needed == 588  # 200 * ((0.97 - 0.85) / (0.97 - 0.90)) ** 2
    assert finding.reason == (
        "accuracy is 0.97, proven is only at least 0.85, at least 0.9 is demanded; "
        "about 588 rows would settle it (200 were there)"
    )


def test_the_measured_number_of_rows_needed_comes_first(case):
    assert case.judge(case.claim(), case.figure(0.85, 0.99, num_needed=4321)).num_needed == 4321


def test_on_the_bound_no_number_of_rows_is_named(case):
    finding = case.judge(case.claim(), case.figure(0.85, 0.95, estimate=0.9))
    assert finding.num_needed is None
    assert "no number of rows" in finding.reason


@pytest.mark.parametrize(
    ("kind", "metric", "unit"),
    [
        ("latency", "latency_ms_p95", "requests"),
        ("stability", "sd", "seeds"),
        ("stability", "churn", "rows"),
        ("stability", "worst_seed", "rows"),
        ("fairness", "accuracy_difference", "rows"),
    ],
)
def test_what_is_missing_is_named_by_its_unit(case, kind, metric, unit):
    claim = case.claim(kind, metric=metric)
    assert f" {unit} would settle it" in case.judge(claim, case.figure(0.85, 0.99, estimate=0.97)).reason


BASELINE = " than the baseline (always the commonest class)"


@pytest.mark.parametrize(
    ("bound", "lower", "upper", "reason"),
    [
        (0.2, 0.3469, 0.5, f"f1 is better by at least 0.3469{BASELINE}, better by more than 0.2 is demanded"),
        (0.2, 0.05, 0.15, f"f1 is better by at most 0.15{BASELINE}, better by more than 0.2 is demanded"),
        (0.0, -0.2, -0.1, f"f1 is worse by at least 0.1{BASELINE}, better by more than 0 is demanded"),
        (-0.05, -0.02, 0.1, f"f1 is worse by at most 0.02{BASELINE}, worse by less than 0.05 is demanded"),
        (0.0, -0.2, 0.4, f"f1 is better by 0.1{BASELINE}, proven is only worse by at most 0.2, better by more than 0 "),
    ],
)
def test_an_improvement_is_told_as_a_difference(case, bound, lower, upper, reason):
    claim = case.claim("improvement", metric="f1", bound=bound)
    assert case.judge(claim, case.figure(lower, upper, estimate=(lower + upper) / 2)).reason.startswith(reason)


def test_an_improvement_names_what_it_is_better_than(case):
    values = case.claim("improvement", metric="mae", bound=0.0)
    assert "than the baseline (always the mean)" in case.judge(values, case.figure(1.0, 2.0)).reason
    champion = "c" * 64
    exhibit = case.exhibit(case.measurement(values, case.figure(1.0, 2.0), champion=champion))
    said = case.ask(case.view([values], [exhibit], champion=champion)).findings[0].reason
    assert said.startswith("mae is better by at least 1 than the champion (bundle cccccccccccc), ")


@pytest.mark.parametrize(
    ("kind", "settings", "name"),
    [
        ("fairness", {"column": "sex"}, "m between the groups of sex"),
        ("stability", {"of": "r2"}, "m of r2"),
        ("stability", {}, "m"),
        ("accuracy", {"of": "r2", "column": "sex"}, "m"),
    ],
)
def test_a_figure_is_named_by_what_it_is_of(case, kind, settings, name):
    claim = case.claim(kind, metric="m", settings=settings, direction="at_most")
    assert case.judge(claim, case.figure(0.1, 0.2)).reason == f"{name} is at most 0.2, at most 0.9 is demanded"


def bad_exhibits(case):
    claim = case.claim()
    good = case.measurement(claim, case.figure())
    latency = case.claim("latency", direction="at_most", bound=5.0, metric="latency_ms_p95")

    def measured(**changes):
        return claim, case.exhibit(msgspec.structs.replace(good, **changes))

    def signed(**changes):
        return claim, case.exhibit(good, **changes)

    return {
        "another bundle": ("another bundle", signed(bundle="c" * 64)),
        "bad signature": ("signature does not hold", signed(signature="bad")),
        "no signature": ("not signed", signed(signature="missing")),
        "unknown key": ("no evaluate job was given", signed(signature="unknown_key")),
        "expired key": ("outside its key's time", signed(signature="expired_key")),
        "foreign key": ("not given out for this bundle", signed(signature="foreign_key")),
        "not integrated": ("not in the ledger", signed(integrated=False)),
        "another app": ("another application, digits", measured(app="digits")),
        "another policy": ("claims were changed after the evaluation", measured(policy="pol_2")),
        "another metric": ("measures accuracy f1", measured(metric="f1")),
        "another kind": ("measures fairness accuracy", measured(kind="fairness")),
        "another holdout": ("another holdout", measured(holdout="hold_2")),
        "look 0": ("says look 0", measured(look=0)),
        "uncounted look": ("says look 4, the ledger counted 3", measured(look=4)),
        "no candidates": ("how many candidates", measured(num_candidates=0)),
        "from the future": ("dated in the future", measured(measured_at_ns=case.now + 1)),
        "expired": ("has expired", measured(expires_at_ns=case.now - 1)),
        "too old": ("has expired", measured(measured_at_ns=case.now - 30 * DAY_NS - 1)),
        "not measured": ("could not be measured: no rows", measured(figure=None, problem="no rows")),
        "NaN": ("not a number", measured(figure=case.figure(estimate=float("nan")))),
        "infinite bound": ("not a number", measured(figure=case.figure(0.92, float("inf")))),
        "inside out": ("lies above", measured(figure=case.figure(0.98, 0.92))),
        "generous alpha": ("error rate of 0.05", measured(figure=case.figure(alpha=0.05))),
        "alpha of nothing": ("error rate of 0", measured(figure=case.figure(alpha=0.0))),
        "undivided alpha": ("error rate of 0.025", measured(num_candidates=2)),
        "unspent look": ("error rate of 0.025", measured(look=2)),
        "another machine": (
            "node class laptop, linux-x86_64 would answer",
            (latency, case.exhibit(case.measurement(latency, case.figure(1.0, 2.0), node_class="laptop"))),
        ),
    }


NAMES = """another bundle;bad signature;no signature;unknown key;expired key;foreign key;not integrated;another app
another policy;another metric;another kind;another holdout;look 0;uncounted look;no candidates;from the future;expired
too old;not measured;NaN;infinite bound;inside out;generous alpha;alpha of nothing;undivided alpha;unspent look
another machine""".replace("\n", ";").split(";")


def test_the_table_of_bad_evidence_is_complete(case):
    assert sorted(bad_exhibits(case)) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_evidence_that_does_not_count_leaves_the_claim_unproven(case, name):
    words, (claim, exhibit) = bad_exhibits(case)[name]
    decision = case.ask(case.view([claim], [exhibit]))
    assert decision.outcome == "insufficient"
    assert words in decision.findings[0].reason


@pytest.mark.parametrize("name", NAMES)
def test_the_same_evidence_made_good_passes(case, name):
    # The negative control of the table above: nothing but the named fault keeps the claim from passing.
    _, (claim, _) = bad_exhibits(case)[name]
    bounds = (1.0, 2.0) if claim.kind == "latency" else (0.92, 0.98)
    assert case.judge(claim, case.figure(*bounds)).outcome == "pass"


def test_bad_evidence_never_fails_a_candidate_either(case):
    claim = case.claim()
    refuting = case.measurement(claim, case.figure(0.1, 0.2))
    for changes in ({"signature": "bad"}, {"integrated": False}, {"bundle": "c" * 64}):
        assert case.ask(case.view([claim], [case.exhibit(refuting, **changes)])).outcome == "insufficient"


def test_a_claim_without_evidence_is_named(case):
    decision = case.ask(case.view([case.claim(), case.claim("fairness")], [case.exhibit(good(case))]))
    assert [finding.outcome for finding in decision.findings] == ["pass", "insufficient"]
    assert decision.findings[1].reason == "there is no evidence for this claim"
    assert decision.findings[1].evidence is None


def test_a_policy_that_claims_nothing_proves_nothing(case):
    state, decision, reason = decide(None, case.view([], []), None, case.now, 0.0)
    assert (state, decision.outcome) == (None, "insufficient")
    assert reason == "the policy claims nothing, so nothing can be proven"


def good(case, **changes):
    return case.measurement(case.claim(), case.figure(), **changes)


def test_the_exact_end_of_its_time_still_counts(case):
    for changes in (
        {"measured_at_ns": case.now},
        {"expires_at_ns": case.now},
        {"measured_at_ns": case.now - 30 * DAY_NS, "expires_at_ns": case.now},
    ):
        assert case.ask(case.view([case.claim()], [case.exhibit(good(case, **changes))])).outcome == "pass"


def test_the_newest_look_counts_never_the_best(case):
    claim = case.claim()
    old = case.exhibit(good(case, look=1), id="evd_old")
    new = case.exhibit(case.measurement(claim, case.figure(0.80, 0.95), look=2), id="evd_new")
    finding = case.ask(case.view([claim], [old, new])).findings[0]
    assert (finding.outcome, finding.evidence) == ("insufficient", "evd_new")


def test_within_one_look_the_worse_of_two_figures_counts(case):
    claim = case.claim()
    passing = case.exhibit(good(case), id="evd_a")
    open_ = case.exhibit(case.measurement(claim, case.figure(0.8, 0.95)), id="evd_b")
    failing = case.exhibit(case.measurement(claim, case.figure(0.7, 0.8)), id="evd_c")
    assert case.ask(case.view([claim], [passing, open_])).findings[0].evidence == "evd_b"
    assert case.ask(case.view([claim], [open_, failing, passing])).findings[0].evidence == "evd_c"


def test_of_equal_findings_the_smaller_id_is_named(case):
    exhibits = [case.exhibit(good(case), id=name) for name in ("evd_b", "evd_a", "evd_c")]
    assert case.ask(case.view([case.claim()], exhibits)).findings[0].evidence == "evd_a"


def test_when_nothing_counts_the_newest_says_why(case):
    old = case.exhibit(good(case, look=1), id="evd_old", signature="bad")
    new = case.exhibit(good(case, look=2), id="evd_new", integrated=False)
    finding = case.ask(case.view([case.claim()], [old, new])).findings[0]
    assert (finding.evidence, "not in the ledger" in finding.reason) == ("evd_new", True)


def test_a_forged_exhibit_cannot_hide_a_good_one(case):
    claim = case.claim()
    forged = case.exhibit(case.measurement(claim, case.figure(0.1, 0.2), look=3), id="evd_x", signature="unknown_key")
    assert case.ask(case.view([claim], [case.exhibit(good(case)), forged])).outcome == "pass"


def test_fail_weighs_more_than_insufficient(case):
    claims = [case.claim(name=name) for name in ("a", "b", "c")]
    figures = [case.figure(0.8, 0.95), case.figure(0.7, 0.8), case.figure()]
    exhibits = [
        case.exhibit(case.measurement(claim, figure), id=f"evd_{claim.name}")
        for claim, figure in zip(claims, figures, strict=True)
    ]
    _, decision, reason = decide(None, case.view(claims, exhibits), None, case.now, 0.0)
    assert decision.outcome == "fail"
    assert reason == "b: accuracy is at most 0.8, at least 0.9 is demanded"
    assert [finding.claim for finding in decision.findings] == ["a", "b", "c"]
    _, decision, reason = decide(None, case.view(claims[::2], exhibits), None, case.now, 0.0)
    assert (decision.outcome, reason.startswith("a: accuracy is 0.875")) == ("insufficient", True)
    _, decision, reason = decide(None, case.view(claims[2:], exhibits), None, case.now, 0.0)
    assert (decision.outcome, reason) == ("pass", "all 1 claims are proven")


class TestImprovement:
    def claim(self, case, bound=0.0):
        return case.claim("improvement", bound=bound)

    def judge(self, case, figure, champion="d" * 64, **changes):
        claim = self.claim(case)
        measurement = case.measurement(claim, figure, champion=champion, **changes)
        return case.ask(case.view([claim], [case.exhibit(measurement)], champion="d" * 64)).findings[0]

    def test_better_than_the_present_champion_passes(self, case):
        assert self.judge(case, case.figure(0.01, 0.03)).outcome == "pass"

    @pytest.mark.parametrize("champion", [None, "e" * 64])
    def test_better_than_another_one_does_not(self, case, champion):
        finding = self.judge(case, case.figure(0.01, 0.03), champion=champion)
        assert (finding.outcome, "another champion" in finding.reason) == ("insufficient", True)

    def test_a_copy_of_the_champion_is_not_better(self, case):
        assert self.judge(case, case.figure(0.0, 0.0, p_value=1.0)).outcome == "insufficient"

    def test_worse_fails(self, case):
        assert self.judge(case, case.figure(-0.05, -0.01, p_value=0.99)).outcome == "fail"

    @pytest.mark.parametrize(
        ("mine", "others", "outcome"),
        [
            (0.012, [0.001], "pass"),  # the better one is through, so the second may use the whole 0.025
            (0.012, [0.02], "pass"),  # 0.012 <= 0.025 / 2
            (0.013, [0.02], "insufficient"),  # nobody is through
            (0.02, [0.013], "insufficient"),
            (0.025, [0.012], "pass"),
            (0.026, [0.012], "insufficient"),
            (0.012, [0.008, 0.001], "pass"),
            (0.012, [0.009, 0.009], "insufficient"),
            (0.012, [1.0], "pass"),
            (0.0, [1.0], "pass"),
            (0.0, [0.0], "pass"),
        ],
    )
    def test_several_candidates_are_tested_by_holm(self, case, mine, others, outcome):
        num = 1 + len(others)
        figure = case.figure(-0.001, 0.05, p_value=mine, alpha=0.025 / num)
        finding = self.judge(case, figure, num_candidates=num, details={"p_values": [*others, mine]})
        assert finding.outcome == outcome

    @pytest.mark.parametrize(
        "details",
        [
            {},
            {"p_values": [0.001]},
            {"p_values": [0.001, 0.001, 0.001]},
            {"p_values": [0.002, 0.5]},
            {"p_values": [0.001, "0"]},
            {"p_values": [0.001, -1.0]},
            {"p_values": [0.001, 1.5]},
            {"p_values": [0.001, float("nan")]},
            {"p_values": "0.001"},
        ],
    )
    def test_a_family_that_does_not_fit_proves_nothing(self, case, details):
        figure = case.figure(-0.001, 0.05, p_value=0.001, alpha=0.0125)
        assert self.judge(case, figure, num_candidates=2, details=details).outcome == "insufficient"

    @pytest.mark.parametrize(("bound", "estimate"), [(0.0, -0.02), (0.0, 0.0), (0.5, 0.3), (-0.1, -0.15)])
    def test_a_small_p_value_beside_a_bad_estimate_proves_nothing(self, case, bound, estimate):
        claim = self.claim(case, bound=bound)
        figure = case.figure(estimate - 0.2, estimate + 0.3, estimate=estimate, p_value=0.001)
        finding = case.judge(claim, figure, details={"p_values": [0.001]})
        assert finding.outcome == "insufficient"
        assert (
            case.judge(self.claim(case, bound=estimate - 0.01), figure, details={"p_values": [0.001]}).outcome == "pass"
        )

    def test_other_claims_pass_by_their_bound_alone(self, case):
        figure = case.figure(0.85, 0.99, p_value=1e-9)
        assert case.judge(case.claim(), figure, details={"p_values": [1e-9]}).outcome == "insufficient"


class TestLatency:
    def test_the_policy_names_the_node_class_first(self, case):
        claim = case.claim("latency", direction="at_most", bound=5.0)
        exhibit = case.exhibit(case.measurement(claim, case.figure(1.0, 2.0), node_class="big"))
        view = case.view([claim], [exhibit])
        assert case.ask(view).outcome == "insufficient"
        policy = msgspec.structs.replace(view.policy, node_class="big")
        assert case.ask(msgspec.structs.replace(view, policy=policy)).outcome == "pass"

    def test_other_claims_hold_on_any_machine(self, case):
        assert case.judge(case.claim(), case.figure(), node_class="laptop").outcome == "pass"


class TestLooks:
    def test_a_hundred_looks_at_one_holdout_never_pass(self, case):
        claim = case.claim()
        outcomes = []
        for look in range(1, 101):
            holdout = Holdout(
                id="hold_1", app="tumours", snapshot="s", inputs="i", outcomes="o", num_rows=500, num_looks=look
            )
            perfect = case.figure(1.0, 1.0)
            exhibit = case.exhibit(case.measurement(claim, perfect, look=look))
            outcomes.append(case.ask(case.view([claim], [exhibit], holdout=holdout)).findings[0])
        num_passed = [finding.outcome for finding in outcomes].index("insufficient")
        assert num_passed == 21  # 0.05 / (22 * 23) is below SMALLEST_ALPHA
        assert {finding.outcome for finding in outcomes[num_passed:]} == {"insufficient"}
        assert "looked at 100 times; refresh it" in outcomes[-1].reason

    def test_only_looks_ask_for_a_fresh_holdout(self, case):
        latency = case.claim("latency", metric="latency_ms_p99", direction="at_most")
        for look in (2, 3):
            finding = case.judge(latency, case.figure(None, None), look=look)
            assert finding.outcome == "insufficient"
            assert f"looked at {look} times: ask for more `requests`, or refresh it" in finding.reason
            assert "refresh" not in case.judge(case.claim(), case.figure(None, None), look=look).reason
        assert "refresh" not in case.judge(latency, case.figure(None, None)).reason

    def test_all_looks_together_spend_no_more_than_they_may(self):
        for confidence in (0.9, 0.95, 0.99):
            assert sum(spend(confidence, look, 3) * 3 for look in range(1, 10_000)) < 1 - confidence
            assert spend(confidence, 1) == pytest.approx((1 - confidence) / 2)

    def test_candidates_share_a_look(self):
        assert spend(0.95, 2, 5) == pytest.approx(0.05 / 6 / 5)

    @pytest.mark.parametrize("arguments", [(1.0, 1, 1), (0.0, 1, 1), (0.95, 0, 1), (0.95, 1, 0)])
    def test_senseless_shares_are_refused(self, arguments):
        with pytest.raises(ValueError, match=r"confidence|count from 1"):
            spend(*arguments)

    def test_the_smallest_alpha_is_where_twenty_looks_end(self):
        assert spend(0.95, 21) > SMALLEST_ALPHA > spend(0.95, 22)


def test_the_digest_names_the_view(case):
    view = case.view([case.claim()], [case.exhibit(good(case))])
    assert view_digest(view) == view_digest(msgspec.convert(msgspec.to_builtins(view), type(view)))
    assert view_digest(view) != view_digest(msgspec.structs.replace(view, champion="d" * 64))


def test_a_draw_that_is_no_uniform_number_is_our_own_mistake(case):
    for draw in (-0.1, 1.0):
        with pytest.raises(AssertionError):
            decide(None, case.view([], []), None, case.now, draw)

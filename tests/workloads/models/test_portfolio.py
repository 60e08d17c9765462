"""The position rule against trying every position, and the promises that a risk desk asks for."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numba import njit

from tests.workloads.models.samples import STEP
from workloads.models.portfolio import PositionConfig, PositionRule, target_position
from workloads.models.protocol import Alpha, Cost, LookAheadError, ModelError, Risk, Unit
from workloads.models.transaction_cost import trade_cost

cases = st.fixed_dictionaries(
    {
        "alpha": st.floats(-100, 100),
        "variance": st.one_of(st.just(0.0), st.floats(0.01, 1000)),
        "linear": st.floats(0, 40),
        "impact": st.one_of(st.just(0.0), st.floats(0.01, 20)),
        "position": st.integers(-15, 15),
        "flatten": st.just(False),
        "risk_aversion": st.one_of(st.just(0.0), st.floats(0.001, 1)),
        "exit_share": st.one_of(st.sampled_from([0.0, 1.0]), st.floats(0, 1)),
        "max_position": st.integers(1, 15),
        "max_trade": st.integers(1, 20),
    }
)


def target(case, **changes):
    return target_position(**{**case, **changes})


def objective(case, x):
    return (
        case["alpha"] * x
        - trade_cost(x - case["position"], case["linear"], case["impact"])
        - case["exit_share"] * case["linear"] * abs(x)
        - case["risk_aversion"] / 2 * case["variance"] * x * x
    )


@settings(deadline=None, max_examples=400)
@given(case=cases)
def test_no_position_within_the_limits_is_better(case):
    assume(abs(case["position"]) <= case["max_position"])
    x0, trade, most = case["position"], case["max_trade"], case["max_position"]
    allowed = range(max(-most, x0 - trade), min(most, x0 + trade) + 1)
    best = max(objective(case, x) for x in allowed)
    found = target(case)
    assert found in allowed
    assert objective(case, found) >= best - 1e-9 * (1 + abs(best))


@settings(deadline=None, max_examples=400)
@given(case=cases, flatten=st.booleans())
def test_limits_hold_whatever_happens(case, flatten):
    x0, trade, most = case["position"], case["max_trade"], case["max_position"]
    x = target(case, flatten=flatten)
    assert x == int(x)
    assert abs(x - x0) <= trade
    assert abs(x) <= max(most, abs(x0) - trade)  # from beyond the limit: back as fast as allowed


@settings(deadline=None)
@given(case=cases)
def test_without_alpha_no_position_is_opened_or_grown_or_turned(case):
    x, x0 = target(case, alpha=0.0), case["position"]
    assert abs(x) <= abs(x0)
    assert x * x0 >= 0


@settings(deadline=None)
@given(case=cases)
def test_without_alpha_and_risk_a_position_within_limits_stays(case):
    assume(abs(case["position"]) <= case["max_position"])
    assert target(case, alpha=0.0, variance=0.0) == case["position"]


@settings(deadline=None, max_examples=400)
@given(case=cases, more=st.floats(0, 50))
def test_a_higher_alpha_never_means_a_lower_position(case, more):
    assert target(case, alpha=case["alpha"] + more) >= target(case)


@settings(deadline=None)
@given(case=cases, times=st.floats(1, 5))
def test_higher_costs_never_mean_a_larger_trade(case, times):
    """Without exit cost; with it, a position that pays its exit already may be closed sooner."""
    cheap = target(case, exit_share=0.0) - case["position"]
    dear = (
        target(case, exit_share=0.0, linear=case["linear"] * times, impact=case["impact"] * times)
        - case["position"]
    )
    assert abs(dear) <= abs(cheap)


@settings(deadline=None)
@given(case=cases)
def test_a_mirrored_market_has_a_mirrored_position(case):
    assert target(case, alpha=-case["alpha"], position=-case["position"]) == -target(case)


@settings(deadline=None)
@given(case=cases, times=st.sampled_from([0.25, 2.0, 64.0]))
def test_the_currency_does_not_matter(case, times):
    other = target(
        case,
        alpha=case["alpha"] * times,
        linear=case["linear"] * times,
        impact=case["impact"] * times,
        variance=case["variance"] * times**2,
        risk_aversion=case["risk_aversion"] / times,
    )
    assert other == target(case)


@settings(deadline=None)
@given(case=cases)
def test_flatten_gets_out_as_far_as_one_trade_may(case):
    x = target(case, flatten=True)
    assert abs(x) == max(abs(case["position"]) - case["max_trade"], 0)


def test_of_many_random_cases_each_finds_the_best_position_that_is_nearest():
    random, n = np.random.default_rng(5), 20_000
    most, trade = random.integers(1, 16, n), random.integers(1, 21, n)
    held = np.round(random.uniform(-1, 1, n) * most).astype(np.int64)
    alpha, linear = random.normal(0, 30, n), random.uniform(0, 20, n)
    variance, impact = random.exponential(50, n), random.exponential(5, n) * (random.random(n) < 0.7)
    averse, share = random.choice([0, 0.01, 0.1, 1], n), random.choice([0, 0.5, 1], n)
    found = target_position(alpha, variance, linear, impact, held, False, averse, share, most, trade)
    x = np.arange(-15, 16)[:, None]
    value = alpha * x - trade_cost(x - held, linear, impact) - share * linear * np.abs(x)
    value = value - averse / 2 * variance * x * x
    value[(np.abs(x) > most) | (np.abs(x - held) > trade)] = -np.inf
    best = value.max(axis=0)
    ties = value >= best - 1e-11 * (1 + np.abs(best))
    np.testing.assert_array_equal(np.abs(found - held), np.where(ties, np.abs(x - held), 99).min(axis=0))
    assert ties[found.astype(int) + 15, np.arange(n)].all()


CASE = {
    "alpha": 10.0,
    "variance": 1.0,
    "linear": 0.0,
    "impact": 0.0,
    "position": 0,
    "flatten": False,
    "risk_aversion": 1.0,
    "exit_share": 0.0,
    "max_position": 100,
    "max_trade": 100,
}


def test_free_trading_holds_alpha_over_risk_aversion_times_variance():
    assert target(CASE) == 10
    assert target(CASE, variance=4.0) == 2  # 2.5: of 2 and 3, equally good, the nearer to the position
    assert target(CASE, variance=4.0, position=5) == 3
    assert target(CASE, risk_aversion=0.0) == 100


@pytest.mark.parametrize(("position", "expected"), [(0, 7), (7, 7), (10, 10), (13, 13), (20, 13)])
def test_linear_cost_makes_a_band_of_no_trade(position, expected):
    """(alpha - c) / (risk aversion x variance) = 7 to (alpha + c) / ... = 13."""
    assert target(CASE, linear=3.0, position=position) == expected


def test_the_last_lot_of_a_position_is_closed_because_its_exit_is_saved():
    """At 1 lot left: 0.4 - 4 - 1 - 0.5 = -5.1; at none: -5."""
    assert target(CASE, alpha=0.4, linear=1.0, exit_share=1.0, position=5) == 0


def test_impact_makes_trades_smaller_than_the_way_to_the_optimum():
    """10 - x = 3/2 sqrt(x) x 2 at x = 4.38: 4 whole lots."""
    assert target(CASE, impact=2.0) == 4


@pytest.mark.parametrize(("alpha", "expected"), [(3.9, 0), (4.1, 5), (-3.9, 0), (-4.1, -5)])
def test_opening_must_pay_for_the_way_back(alpha, expected):
    """Exit charged in full: a cost of 2 in and 2 out."""
    limits = {"max_position": 5, "variance": 0.0}
    assert target(CASE, alpha=alpha, linear=2.0, exit_share=1.0, **limits) == expected


@pytest.mark.parametrize(("alpha", "expected"), [(3.9, 3), (0.1, 3), (-0.1, 0), (-3.9, 0), (-4.1, -5)])
def test_a_position_whose_exit_is_paid_is_kept_until_alpha_turns(alpha, expected):
    limits = {"max_position": 5, "variance": 0.0}
    assert target(CASE, alpha=alpha, linear=2.0, exit_share=1.0, position=3, **limits) == expected


@njit
def compiled_targets(alpha, variance, linear, impact, position, flatten, rest, out):
    for i in range(len(alpha)):
        out[i] = target_position(
            alpha[i],
            variance[i],
            linear[i],
            impact[i],
            position[i],
            flatten[i],
            rest[0],
            rest[1],
            rest[2],
            rest[3],
        )


def columns(seed, n=50):
    random = np.random.default_rng(seed)
    return (
        random.normal(0, 20, n),
        random.exponential(100, n),
        random.uniform(0, 20, n),
        random.uniform(0, 5, n),
        random.integers(-12, 13, n),
        random.random(n) < 0.1,
    )


@settings(deadline=None)
@given(seed=st.integers(0, 200))
def test_a_compiled_loop_decides_as_columns_do(seed):
    given = columns(seed)
    out = np.empty(50)
    compiled_targets(*given, np.array([0.02, 0.5, 10.0, 5.0]), out)
    np.testing.assert_array_equal(out, target_position(*given, 0.02, 0.5, 10.0, 5.0))


def outputs(seed=0):
    alpha, variance, linear, impact, position, flatten = columns(seed)
    ts = 10**18 + STEP * np.arange(len(alpha))
    return (
        Alpha(ts, ts, 10 * STEP, Unit.CURRENCY, alpha),
        Risk(ts, ts, 10 * STEP, Unit.CURRENCY_SQUARED, variance),
        Cost(ts, ts, 0, Unit.CURRENCY, linear, impact),
        position,
        flatten,
    )


def test_the_rule_over_columns_is_the_formula_with_its_config():
    alpha, risk, cost, position, flatten = outputs()
    config = PositionConfig(max_position=10, max_trade=5, risk_aversion=0.02, exit_share=0.5)
    targets = PositionRule(config).targets(alpha, risk, cost, position, flatten)
    expected = target_position(*columns(0), 0.02, 0.5, 10, 5)
    np.testing.assert_array_equal(targets.lots, expected)
    assert targets.lots.dtype == np.int64
    assert (targets.unit, targets.horizon_ns) == (Unit.LOTS, alpha.horizon_ns)
    np.testing.assert_array_equal(targets.as_of, alpha.as_of)


def spoil(values, value):
    values = values.copy()
    values[7] = value
    return values


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda a, r, c: (replace(a, unit=Unit.TICKS), r, c),
            "Alpha is in ticks; the position rule needs currency",
        ),
        (lambda a, r, c: (a, replace(r, unit=Unit.TICKS), c), "Risk is in ticks"),
        (lambda a, r, c: (a, replace(r, horizon_ns=STEP), c), "give both one horizon"),
        (
            lambda a, r, c: (replace(a, value=spoil(a.value, np.nan)), r, c),
            "Alpha.value holds 1 values of 50",
        ),
        (lambda a, r, c: (a, replace(r, value=spoil(r.value, np.inf)), c), "Risk.value holds 1 values of 50"),
        (
            lambda a, r, c: (a, replace(r, value=spoil(r.value, -1)), c),
            "Risk.value holds -1.0; .* at least 0",
        ),
        (lambda a, r, c: (a, r, replace(c, linear=spoil(c.linear, -1))), "Cost.linear holds -1.0"),
        (lambda a, r, c: (a, r, replace(c, impact=spoil(c.impact, np.nan))), "Cost.impact holds 1"),
        (
            lambda a, r, c: (a, r, replace(c, as_of=c.as_of[:9], valid_from=c.as_of[:9])),
            "50 rows of alpha and 9",
        ),
    ],
)
def test_outputs_that_do_not_belong_together_are_refused(change, words):
    alpha, risk, cost, position, _ = outputs()
    with pytest.raises(ModelError, match=words):
        PositionRule(PositionConfig()).targets(*change(alpha, risk, cost), position)


def test_a_risk_or_cost_from_the_future_is_refused():
    alpha, risk, cost, position, _ = outputs()
    late = replace(risk, as_of=risk.as_of + 1, valid_from=risk.valid_from + 1)
    with pytest.raises(LookAheadError, match="valid only after the alpha's"):
        PositionRule(PositionConfig()).targets(alpha, late, cost, position)

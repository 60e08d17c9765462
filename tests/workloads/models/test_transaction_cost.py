"""Costs by hand, and Almgren-Chriss against its printed values and against independent derivations."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit

from tests.workloads.models.samples import ES, ORIGIN, STEP, market
from workloads.models.protocol import EmptyWindowError, part
from workloads.models.transaction_cost import (
    CostConfig,
    Liquidation,
    QuoteRows,
    TransactionCost,
    almgren_chriss,
    commission_cost,
    expected_cost,
    impact_coefficient,
    impact_cost,
    linear_impact_cost,
    spread_cost,
    trade_cost,
    variance,
)

# Almgren and Chriss (2000), the example that DROP recomputes: X 1e6, five days, lambda 0.001 per million.
GOLDEN = Liquidation(
    lots=1e6,
    intervals=5,
    interval=1.0,
    volatility=0.95,
    temporary=2.5e-6,
    permanent=2.5e-7,
    fixed=0.0625,
    risk_aversion=1e-9,
)


def test_crossing_the_spread_by_hand():
    """ES 4810.00 / 4810.25, 50 a point: three lots lose three times 0.125 x 50."""
    assert spread_cost(3, 4810.25, 4810.125, ES.multiplier) == 18.75
    assert spread_cost(-3, 4810.00, 4810.125, ES.multiplier) == 18.75
    assert spread_cost(3, 4810.00, 4810.125, ES.multiplier) == -18.75


def test_commission_is_paid_on_both_sides():
    assert [commission_cost(lots, 2.25) for lots in (4, -4, 0)] == [9.0, 9.0, 0.0]


def test_four_times_the_lots_pay_eight_times_the_impact():
    assert impact_cost(1, 0.5) == 0.5
    assert impact_cost(-4, 0.5) == 4.0
    assert impact_cost(0, 0.5) == 0.0


def test_impact_by_hand():
    """A whole interval's volume moves the price by Y sigma, and each of its lots pays that."""
    coefficient = impact_coefficient(0.8, volatility=25.0, volume=100.0)
    assert impact_cost(100, coefficient) == pytest.approx(100 * 0.8 * 25.0, rel=1e-14)


@settings(deadline=None)
@given(times=st.floats(0.1, 100))
def test_impact_does_not_depend_on_the_interval_of_its_volatility_and_volume(times):
    longer = impact_coefficient(1.0, 3.0 * np.sqrt(times), 50.0 * times)
    assert longer == pytest.approx(impact_coefficient(1.0, 3.0, 50.0), rel=1e-12)


def test_linear_impact_by_hand():
    assert linear_impact_cost(-4.0, 0.5, 0.25) == 4 * (0.5 + 0.25 * 4)


@njit
def compiled_costs(lots, price, mid, multiplier, coefficient, commission, out):
    for i in range(len(lots)):
        out[i] = (
            spread_cost(lots[i], price[i], mid[i], multiplier)
            + impact_cost(lots[i], coefficient)
            + commission_cost(lots[i], commission)
        )


@settings(deadline=None)
@given(seed=st.integers(0, 1000))
def test_a_compiled_loop_charges_the_same_bits_as_columns(seed):
    random = np.random.default_rng(seed)
    lots, mid = random.integers(-9, 10, 20), 0.125 * random.integers(30_000, 40_000, 20)
    price = mid + 0.125 * np.sign(lots)
    out = np.empty(20)
    compiled_costs(lots, price, mid, 50.0, 1.7, 2.3, out)
    columns = spread_cost(lots, price, mid, 50.0) + impact_cost(lots, 1.7) + commission_cost(lots, 2.3)
    np.testing.assert_array_equal(out, columns)


@settings(deadline=None)
@given(lots=st.integers(-50, 50), seed=st.integers(0, 9))
def test_the_price_of_a_planned_trade_is_the_charge_of_its_fill(lots, seed):
    """Filled whole at the opposite quote of the decision, a trade costs what the model said."""
    model = TransactionCost(CostConfig(commission=2.25, impact=0.7), ES)
    rows = market(60, seed)["cost"]
    artifact = model.fit(part(rows, slice(0, 50)), ORIGIN)
    newest = part(rows, slice(59, None))
    cost = model.predict(model.update(model.start(artifact), newest), artifact)
    quote = newest.ask[0] if lots > 0 else newest.bid[0]
    charged = (
        spread_cost(lots, quote, (newest.bid[0] + newest.ask[0]) / 2, ES.multiplier)
        + impact_cost(lots, artifact.impact)
        + commission_cost(lots, artifact.commission)
    )
    assert trade_cost(lots, cost.linear[0], cost.impact[0]) == pytest.approx(charged, rel=1e-12)


def quotes(mid, volume, segment=None):
    mid = np.asarray(mid, np.float64)
    ts = 10**18 + STEP * np.arange(len(mid))
    segment = np.zeros(len(mid), np.int64) if segment is None else np.array(segment)
    return QuoteRows(ts, segment, mid - 0.125, mid + 0.125, np.array(volume))


def test_volatility_and_volume_of_impact_by_hand():
    """Changes of one tick of 12.50 and a mean volume of 4 lots a step: 12.5 / sqrt(4)."""
    model = TransactionCost(CostConfig(impact=1.0), ES)
    artifact = model.fit(quotes([10, 10.25, 10.0], volume=[99, 6, 2]), ORIGIN)
    assert artifact.impact == pytest.approx(12.5 / 2, rel=1e-14)


def test_a_gap_is_no_move_and_its_volume_no_volume():
    model = TransactionCost(CostConfig(impact=1.0), ES)
    gap = quotes([10, 10.25, 500.0, 500.25], volume=[0, 4, 1000, 4], segment=[0, 0, 1, 1])
    assert model.fit(gap, ORIGIN).impact == pytest.approx(12.5 / 2, rel=1e-14)


def test_a_window_without_trades_says_nothing_of_impact():
    with pytest.raises(EmptyWindowError, match="2 steps with 0 lots traded say nothing of impact"):
        TransactionCost(CostConfig(), ES).fit(quotes([10, 10.25, 10], [5, 0, 0]), ORIGIN)


# Almgren-Chriss


def test_almgren_and_chriss_to_their_printed_digits():
    """0.6625 expected and 0.0812 x 1e12 variance, half life 51.30 days; more digits by recomputation."""
    plan = almgren_chriss(GOLDEN)
    assert f"{plan.expected_cost / 1e6:.4f}" == "0.6625"
    assert f"{plan.variance / 1e12:.4f}" == "1.0812"
    assert f"{plan.half_life:.2f}" == "51.30"
    assert plan.kappa == pytest.approx(0.019493280054, abs=5e-13)
    assert plan.half_life == pytest.approx(51.29973, abs=5e-6)
    assert plan.expected_cost == pytest.approx(662500.9037, abs=5e-5)
    assert plan.variance == pytest.approx(1.0811918e12, abs=5e4)
    np.testing.assert_allclose(
        plan.holdings_J, [1e6, 799544.38, 599392.59, 399468.57, 199696.34, 0], rtol=0, atol=5e-3
    )


problems = st.builds(
    Liquidation,
    lots=st.floats(1, 1e6),
    intervals=st.integers(1, 30),
    interval=st.floats(0.1, 2),
    volatility=st.floats(0.01, 2),
    temporary=st.floats(1e-6, 1e-4),
    permanent=st.floats(0, 9e-7),
    fixed=st.floats(0, 0.1),
    risk_aversion=st.floats(0, 1e-4),
)


def shortfall(holdings, p, shocks):
    """The price path of the paper, step by step: what the sale loses against the first price."""
    price, lost = 0.0, 0.0
    for n, shock in zip(-np.diff(holdings), shocks, strict=True):
        lost += n * -(price - (p.fixed * np.sign(n) + p.temporary * n / p.interval))
        price += p.volatility * np.sqrt(p.interval) * shock - p.permanent * n
    return lost


@settings(deadline=None)
@given(problem=problems)
def test_cost_and_variance_are_those_of_the_price_path(problem):
    """Expected cost: the path without shocks. Variance: the sum of squares of each shock's weight."""
    plan = almgren_chriss(problem)
    mean = shortfall(plan.holdings_J, problem, np.zeros(problem.intervals))
    weights = [shortfall(plan.holdings_J, problem, shock) - mean for shock in np.eye(problem.intervals)]
    assert plan.expected_cost == pytest.approx(mean, rel=1e-9)
    scale = (problem.lots * problem.volatility) ** 2 * problem.interval
    assert plan.variance == pytest.approx(np.sum(np.square(weights)), rel=1e-6, abs=1e-9 * scale)


@settings(deadline=None)
@given(problem=problems)
def test_the_schedule_solves_the_first_order_conditions(problem):
    """d/dx_j of E + lambda V is a tridiagonal linear system; solved here without any hyperbolic sine."""
    p, inner = problem, problem.intervals - 1
    a, b = 2 * p.adjusted / p.interval, 2 * p.risk_aversion * p.volatility**2 * p.interval
    matrix = (2 * a + b) * np.eye(inner) - a * np.eye(inner, k=1) - a * np.eye(inner, k=-1)
    right = np.zeros(inner)
    right[:1] = a * p.lots
    holdings = np.concatenate([[p.lots], np.linalg.solve(matrix, right), [0.0]])
    np.testing.assert_allclose(almgren_chriss(p).holdings_J, holdings, rtol=1e-6, atol=1e-9 * p.lots)


@settings(deadline=None)
@given(problem=problems, seed=st.integers(0, 100))
def test_no_other_schedule_is_better(problem, seed):
    plan = almgren_chriss(problem)
    other = plan.holdings_J.copy()
    other[1:-1] *= np.random.default_rng(seed).uniform(0.8, 1.0, problem.intervals - 1)

    def objective(holdings):
        return expected_cost(holdings, problem) + problem.risk_aversion * variance(holdings, problem)

    assert objective(plan.holdings_J) <= objective(other) * (1 + 1e-12)


def test_without_risk_aversion_the_schedule_is_a_straight_line():
    plan = almgren_chriss(replace(GOLDEN, risk_aversion=0.0))
    np.testing.assert_allclose(plan.holdings_J, [1e6, 8e5, 6e5, 4e5, 2e5, 0], rtol=1e-15)
    assert plan.kappa == 0
    assert plan.half_life == np.inf


def test_a_little_risk_aversion_is_close_to_none():
    straight = almgren_chriss(replace(GOLDEN, risk_aversion=0.0)).holdings_J
    nearly = almgren_chriss(replace(GOLDEN, risk_aversion=1e-25)).holdings_J
    np.testing.assert_allclose(nearly, straight, rtol=1e-12)


def test_the_urgent_sell_all_at_once():
    plan = almgren_chriss(replace(GOLDEN, risk_aversion=1e30, intervals=2000))
    assert plan.holdings_J[0] == 1e6
    assert np.abs(plan.holdings_J[1:]).max() < 1e-6


@settings(deadline=None)
@given(problem=problems, more=st.floats(1.1, 100))
def test_the_more_averse_pay_more_and_risk_less(problem, more):
    calm, averse = (
        almgren_chriss(problem),
        almgren_chriss(replace(problem, risk_aversion=problem.risk_aversion * more)),
    )
    assert averse.variance <= calm.variance * (1 + 1e-9)
    assert averse.expected_cost >= calm.expected_cost * (1 - 1e-9)


def test_permanent_impact_that_makes_speed_cheap_is_refused():
    with pytest.raises(ValueError, match="must exceed permanent impact x interval / 2"):
        replace(GOLDEN, permanent=5.1e-6)

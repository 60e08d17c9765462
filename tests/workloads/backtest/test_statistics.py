"""Statistics beside published values, beside empyrical, and beside hand-made trades."""

import empyrical
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from workloads.backtest.statistics import (
    Interval,
    StatisticsError,
    annual_return,
    annual_volatility,
    calmar,
    intervals_per_year,
    max_drawdown,
    returns_of,
    round_trips,
    sharpe,
    sharpe_interval,
)

MIXED = np.array([np.nan, 1, 10, -4, 2, 3, 2, 1, -10]) / 100
"""``mixed_returns`` of the tests of empyrical-reloaded, with the values that they expect."""


@pytest.mark.parametrize(
    ("found", "published"),
    [
        (sharpe(MIXED, 252), 1.7238613961706866),
        (annual_volatility(MIXED, 252), 0.9136465399704637),
        (annual_return(MIXED, 252), 1.9135925373194231),
        (calmar(MIXED, 252), 19.135925373194233),
        (max_drawdown(MIXED), -0.1),
    ],
)
def test_published_values_are_met(found, published):
    assert found == pytest.approx(published, rel=1e-12)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(-0.2, 0.25) | st.just(np.nan), min_size=3, max_size=60))
def test_random_series_agree_with_empyrical(values):
    returns = np.array(values)
    known = returns[~np.isnan(returns)]
    assume(len(known) > 2 and np.std(known, ddof=1) > 1e-6)
    close = {"rel": 1e-9, "abs": 1e-12}
    assert sharpe(returns, 252) == pytest.approx(empyrical.sharpe_ratio(returns), **close)
    assert annual_volatility(returns, 252) == pytest.approx(empyrical.annual_volatility(returns), **close)
    assert annual_return(returns, 252) == pytest.approx(empyrical.annual_return(returns), **close)
    assert max_drawdown(returns) == pytest.approx(empyrical.max_drawdown(returns), **close)
    if max_drawdown(returns) < -1e-4:  # a smaller one has lost its last digits to 1
        assert calmar(returns, 252) == pytest.approx(empyrical.calmar_ratio(returns), **close)


def test_a_series_without_variation_has_no_sharpe_ratio():
    assert sharpe(np.zeros(9), 252) is None
    assert sharpe_interval(np.zeros(9), 252, 1).value is None
    assert sharpe(np.array([0.1]), 252) is None


def test_a_sharpe_interval_holds_the_value_and_needs_four_batches():
    returns = np.random.default_rng(1).normal(0.05, 1, 240)
    found = sharpe_interval(returns, 252, 60)
    assert found.low < found.value < found.high
    assert sharpe_interval(returns[1:], 252, 60) == Interval(sharpe(returns[1:], 252))


def test_a_sharpe_interval_of_independent_returns_is_as_wide_as_theory_says():
    """Lo (2002), equation 9: standard error of the ratio per period, sqrt((1 + SR^2 / 2) / n)."""
    random = np.random.default_rng(2)
    found = [sharpe_interval(random.normal(1, 1, 1_200), 4, 60) for _ in range(200)]
    width = np.mean([(one.high - one.low) ** 2 for one in found]) ** 0.5
    error = 2 * np.sqrt((1 + 1 / 2) / 1_200)
    assert width / (2 * 2.201 * error) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize(("follows", "ratio"), [(0.0, 0.1), (0.5, 1.0), (0.9, 0.2)])
def test_intervals_cover_the_true_ratio_about_as_often_as_they_say(follows, ratio):
    """AR(1) returns of deviation 1; 25 minutes of seconds."""
    random = np.random.default_rng(4)
    returns = np.zeros((1_500, 400))
    returns[0] = random.normal(size=400)
    for t in range(1, 1_500):
        noise = np.sqrt(1 - follows**2) * random.normal(size=400)
        returns[t] = follows * returns[t - 1] + noise
    found = [sharpe_interval(column + ratio, 1, 60) for column in returns.T]
    assert 0.92 <= np.mean([one.low <= ratio <= one.high for one in found]) <= 0.98


def test_growth_beyond_float64_is_no_number():
    returns = np.array([0.05, -0.01])
    assert (annual_return(returns, 1e6), calmar(returns, 1e6)) == (None, None)


def test_a_lost_capital_has_no_return():
    with pytest.raises(StatisticsError, match="capital is lost"):
        returns_of(np.array([1.0, -1.0, 2.0]))


def test_a_year_of_seconds_is_252_sessions_of_23_hours():
    assert intervals_per_year(10**9) == 252 * 23 * 3600


def trips(*fills: tuple[int, int, int, int]):
    """(ts, lots, cash, charges) of each fill."""
    return round_trips(*(np.array(column, np.int64) for column in zip(*fills, strict=True)))


def test_a_round_trip_goes_from_flat_to_flat():
    found = trips((10, 2, -200, 1), (20, -1, 103, 1), (30, -1, 104, 1), (40, 1, -100, 0))
    assert found.profit.tolist() == [4]  # 207 - 200 - 3; the last one is still open
    assert found.lots.tolist() == [2]
    assert found.held_ns.tolist() == [2 * 10 + 1 * 10]


def test_a_fill_that_turns_a_position_over_is_shared_by_lots():
    found = trips((10, 1, -100, 3), (20, -3, 330, 3), (30, 2, -240, 2))
    assert found.profit.tolist() == [-100 + 110 - 3 - 1, 220 - 240 - 2 - 2]


def test_no_fills_make_no_round_trip():
    empty = np.zeros(0, np.int64)
    found = round_trips(empty, empty, empty, empty)
    assert [len(column) for column in vars(found).values()] == [0, 0, 0]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(-4, 4).filter(bool), st.integers(90, 110)), min_size=1, max_size=40))
def test_round_trips_add_up_to_all_that_was_earned(pairs):
    lots = np.array([pair[0] for pair in pairs])
    lots = np.append(lots, -lots.sum()) if lots.sum() else lots
    price = np.array([pair[1] for pair in pairs] + [100] * (len(lots) - len(pairs)))
    found = round_trips(np.arange(len(lots)), lots, -lots * price, np.abs(lots))
    assert found.profit.sum() == (-lots * price - np.abs(lots)).sum()
    assert found.held_ns.sum() == np.abs(np.cumsum(lots)).sum()

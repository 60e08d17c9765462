"""Wire price to quoted price: exact, or left alone and said so."""

from fractions import Fraction

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from workloads.exchange.mdp3 import NULL_I64
from workloads.ingest.instruments import DisplayFactors

ONE = 1_000_000_000


def scaled(prices, factor, known=True):
    """Prices of instrument 1, one row each, and the rows left in wire units."""
    factors = DisplayFactors()
    if known:
        factors.learn(np.array([1], np.int32), np.array([factor]))
    n = len(prices)
    column = np.array(prices, np.int64)
    nothing = (np.zeros(0, np.int32), np.zeros(0, np.int32), np.zeros(0, np.int64))
    rows = np.ones(n, np.int32), np.arange(n, dtype=np.int32)
    unscaled = factors.scale(*rows, (column,), *nothing)
    return column.tolist(), unscaled.tolist()


def test_a_wire_price_times_the_display_factor_is_the_quoted_price():
    assert scaled([243_150 * ONE, -25 * ONE], ONE // 100) == (
        [2_431_500_000_000, -250_000_000],
        [False, False],
    )


def test_without_a_definition_the_price_stays_and_is_flagged():
    assert scaled([5 * ONE, NULL_I64], ONE, known=False) == ([5 * ONE, NULL_I64], [True, False])


def test_a_factor_of_zero_or_less_counts_as_none():
    assert scaled([5 * ONE], 0) == ([5 * ONE], [True])
    assert scaled([5 * ONE], -ONE) == ([5 * ONE], [True])


edges = st.sampled_from((0, 1, -1, 2**63 - 2, -(2**63), -(2**63) + 1, NULL_I64, ONE, 7 * 73, 10 * ONE))


@given(
    edges | st.integers(-(2**63), 2**63 - 1),
    edges | st.integers(1, 2**62) | st.sampled_from((ONE // 3, 10**7)),
)
def test_scaling_is_exact_or_does_not_happen(price, factor):
    (found,), (unscaled,) = scaled([price], factor)
    exact = Fraction(price * factor, ONE)
    fits = factor > 0 and exact.denominator == 1 and abs(exact) < NULL_I64
    if price == NULL_I64:
        assert (found, unscaled) == (NULL_I64, False)
    else:
        assert (found, unscaled) == ((int(exact), False) if fits else (price, True))


def test_a_definition_holds_from_its_message_on_and_the_last_one_wins():
    factors = DisplayFactors()
    factors.learn(np.array([1, 2, 1], np.int32), np.array([ONE, ONE, 2 * ONE]))
    ids = np.array([1, 2, 3, 1, 1, 2, 3], np.int32)
    message = np.array([0, 0, 0, 5, 6, 6, 9], np.int32)
    price = np.full(7, 10, np.int64)
    defined = (
        np.array([1, 1, 3], np.int32),
        np.array([4, 5, 8], np.int32),
        np.array([3 * ONE, 4 * ONE, 5 * ONE]),
    )
    unscaled = factors.scale(ids, message, (price,), *defined)
    assert price.tolist() == [20, 10, 10, 40, 40, 10, 50]
    assert unscaled.tolist() == [False, False, True, False, False, False, False]


def test_negative_and_very_high_ids_don_t_mix():
    factors = DisplayFactors()
    ids = np.array([-1, 0, 2**31 - 1, -(2**31)], np.int32)
    factors.learn(ids, np.array([1, 2, 3, 4]) * ONE)
    price = np.ones(4, np.int64)
    nothing = (np.zeros(0, np.int32), np.zeros(0, np.int32), np.zeros(0, np.int64))
    assert not factors.scale(ids, np.zeros(4, np.int32), (price,), *nothing).any()
    assert price.tolist() == [1, 2, 3, 4]


def test_a_row_of_several_prices_is_scaled_as_a_whole_or_not_at_all():
    factors = DisplayFactors()
    factors.learn(np.array([1], np.int32), np.array([ONE // 100]))
    high, low = np.array([300, 300]), np.array([200, 250])
    nothing = (np.zeros(0, np.int32), np.zeros(0, np.int32), np.zeros(0, np.int64))
    rows = np.ones(2, np.int32), np.arange(2, dtype=np.int32)
    low[1] += 5
    assert factors.scale(*rows, (high, low), *nothing).tolist() == [False, True]
    assert (high.tolist(), low.tolist()) == ([3, 300], [2, 255])


def test_a_saved_state_scales_alike():
    factors, fresh = DisplayFactors(), DisplayFactors()
    factors.learn(np.array([9, 1], np.int32), np.array([ONE, 3 * ONE]))
    fresh.restore(factors.state())
    assert len(fresh) == 2
    assert {k: v.tolist() for k, v in fresh.state().items()} == {
        k: v.tolist() for k, v in factors.state().items()
    }

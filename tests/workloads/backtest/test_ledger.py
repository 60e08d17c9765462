"""Money to the last unit of 1e-9: identities, and what int64 cannot hold."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.workloads.backtest import market
from workloads.backtest import ledger
from workloads.backtest.engine import Account, BacktestError, Books, Decisions, Latency, replay
from workloads.backtest.simulation import charged
from workloads.ticks.definitions import Definitions, MissingDefinitionError

MULTIPLIER = 50
KNOWN = Definitions(market.definitions([1], MULTIPLIER * 10**9))
T = market.START


def fills(*rows: tuple[int, int, int, int, int, int]) -> ledger.Fills:
    """(seconds, lots, price, mid, commission, impact)."""
    columns = np.array(rows, np.int64).reshape(-1, 6).T
    return ledger.Fills(T + columns[0] * 10**9, *columns[1:])


def test_a_bought_and_sold_lot_ends_in_cash_less_what_it_cost():
    done = fills((1, 2, 101, 100, 7, 3), (2, -2, 104, 105, 7, 4))
    moved = ledger.money(done, 1, KNOWN)
    marks = T + np.array([1, 2, 3]) * 10**9
    book = ledger.book(done, moved, marks, np.array([100, 102, 105]), 1, KNOWN)
    assert book.position.tolist() == [0, 2, 0]
    assert book.cash.tolist() == [0, -202 * 50 - 10, 6 * 50 - 21]
    assert book.value.tolist() == [0, (2 * 102 - 202) * 50 - 10, 6 * 50 - 21]
    assert book.spread_cost.tolist() == [0, 2 * 50, 4 * 50]
    assert (book.impact_cost[-1], book.commission[-1]) == (7, 14)
    assert book.gross.tolist() == [0, 4 * 50, 10 * 50]  # bought at 100, sold at 105


@st.composite
def cases(draw):
    """Fills at most a second apart, prices with half units in the mid."""
    n = draw(st.integers(0, 30))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    lots = random.integers(-5, 6, n)
    bid = random.integers(10**11, 10**13, n)
    spread = random.integers(1, 10**9, n)
    price = np.where(lots > 0, bid + spread, bid)
    ts = T + np.sort(random.integers(1, 100, n)) * 10**8
    charges = random.integers(0, 10**9, (2, n))
    marks = T + np.arange(0, 110, 7) * 10**8
    mids = random.integers(10**11, 10**13, len(marks))
    return ledger.Fills(ts, lots, price, bid + spread // 2, *charges), marks, mids


@settings(max_examples=100, deadline=None)
@given(cases())
def test_value_is_cash_plus_position_and_costs_are_what_lies_between_gross_and_net(case):
    done, marks, mids = case
    book = ledger.book(done, ledger.money(done, 1, KNOWN), marks, mids, 1, KNOWN)
    for i, mark in enumerate(marks.tolist()):
        before = [k for k in range(len(done.ts)) if done.ts[k] < mark]
        lots = [int(done.lots[k]) for k in before]
        cash = -sum(n * int(done.price[k]) for n, k in zip(lots, before, strict=True)) * MULTIPLIER
        at_mid = -sum(n * int(done.mid[k]) for n, k in zip(lots, before, strict=True)) * MULTIPLIER
        charges = sum(int(done.commission[k] + done.impact[k]) for k in before)
        worth = sum(lots) * int(mids[i]) * MULTIPLIER
        assert book.value[i] == book.cash[i] + book.position[i] * mids[i] * MULTIPLIER
        assert (book.position[i], book.cash[i]) == (sum(lots), cash - charges)
        assert book.gross[i] == at_mid + worth  # the same fills at the mid, without charges
        costs = book.spread_cost[i] + book.impact_cost[i] + book.commission[i]
        assert book.gross[i] - book.value[i] == costs


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32))
def test_the_engines_own_account_is_the_replay_of_its_fills(seed):
    random = np.random.default_rng(seed)
    n = 60
    ts = T + np.arange(n) * 10**9
    wanted = np.tile(random.integers(-3, 4, (n, 1)), (1, 7)).astype(np.int16)
    bid = 5_000 * 10**9 + random.integers(-20, 20, 3 * n) * market.TICK
    books = Books(
        np.sort(T + random.integers(0, n * 10**9, 3 * n)), bid,
        bid + random.integers(1, 3, 3 * n) * market.TICK, random.integers(0, 4, 3 * n),
        random.integers(0, 4, 3 * n),
    )  # fmt: skip
    account, marks = Account(), ts + 10**8
    decisions = Decisions(ts, np.full(n, T + n * 10**9), wanted)
    trades, made = replay(decisions, books, marks, Latency(10**7, 10**7), account)
    done = charged(trades, commission=1.25, impact=3.5)
    book = ledger.book(done, ledger.money(done, 1, KNOWN), marks, made.mark, 1, KNOWN)
    charges = book.commission + book.impact_cost
    assert np.array_equal(made.points * MULTIPLIER, book.value + charges)
    assert np.array_equal(made.position, book.position)
    assert account.position == done.lots.sum()


def test_money_that_int64_cannot_hold_is_refused():
    with pytest.raises(BacktestError, match="leaves int64"):
        ledger.money(fills((1, 10**7, 5_000 * 10**9, 5_000 * 10**9, 0, 0)), 1, KNOWN)


def test_sums_that_int64_cannot_hold_are_refused():
    done = fills(*[(i, 20_000, 5_000 * 10**9, 5_000 * 10**9, 0, 0) for i in range(1, 4)])
    with pytest.raises(BacktestError, match="leaves int64"):
        ledger.book(done, ledger.money(done, 1, KNOWN), done.ts + 1, done.mid, 1, KNOWN)


def test_a_long_day_of_round_trips_fits_although_its_turnover_does_not():
    rows = [(i, 9_000 * (-1) ** i, 5_000 * 10**9, 5_000 * 10**9, 0, 0) for i in range(1, 41)]
    done = fills(*rows)
    book = ledger.book(done, ledger.money(done, 1, KNOWN), done.ts + 1, done.mid, 1, KNOWN)
    assert book.value.tolist() == [0] * 40


def test_no_money_is_made_up_without_a_definition():
    with pytest.raises(MissingDefinitionError):
        ledger.money(fills((1, 1, 100, 100, 0, 0)), 2, KNOWN)

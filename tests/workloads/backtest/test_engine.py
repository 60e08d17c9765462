"""The engine beside a plain-Python exchange, and the rules that no fill may break."""

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workloads.backtest.engine import (
    Account,
    BacktestError,
    Books,
    Decisions,
    Latency,
    checked,
    replay,
)

NO_MARKS = np.zeros(0, np.int64)


def books(*rows: tuple[int, int, int, int, int]) -> Books:
    """(ts, bid, bid size, ask, ask size)."""
    ts, bid, bid_size, ask, ask_size = np.array(rows, np.int64).reshape(-1, 5).T.copy()
    return Books(ts, bid, ask, bid_size, ask_size)


def decisions(wanted: dict[int, int], limit: int = 3, expires: int = 10_000) -> Decisions:
    """The same position wanted at each time, whatever is held."""
    ts = np.array(list(wanted), np.int64)
    table = np.tile(np.array(list(wanted.values()), np.int16)[:, None], (1, 2 * limit + 1))
    return Decisions(ts, np.full(len(ts), expires), table)


def test_a_buy_pays_the_offer_of_the_first_book_at_or_after_its_arrival():
    found = books((14, 99, 5, 101, 5), (15, 98, 5, 102, 5), (16, 97, 5, 103, 5))
    trades, _ = replay(decisions({10: 2}), found, NO_MARKS, Latency(5, 5))
    assert (trades.ts_fill.tolist(), trades.price.tolist(), trades.mid.tolist()) == ([15], [102], [100])
    assert trades.filled.tolist() == [2]


def test_a_sale_gets_the_bid_and_no_more_than_is_displayed():
    trades, _ = replay(decisions({10: -3}), books((20, 98, 2, 102, 9)), NO_MARKS, Latency(5, 5))
    assert (trades.size.tolist(), trades.filled.tolist(), trades.price.tolist()) == ([-3], [-2], [98])


def test_what_an_own_order_took_is_not_there_a_second_time():
    wanted = decisions({10: 2, 12: 3}, expires=100)
    trades, _ = replay(wanted, books((20, 98, 2, 102, 2)), NO_MARKS, Latency(8, 0))
    assert trades.filled.tolist() == [2]  # the second decision still waits for the first report
    trades, _ = replay(decisions({10: 2, 20: 3}), books((20, 98, 2, 102, 2)), NO_MARKS, Latency(0, 0))
    assert trades.filled.tolist() == [2, 0]


def test_an_order_that_meets_no_book_before_it_expires_is_cancelled_then():
    trades, _ = replay(decisions({10: 1}, expires=50), books((50, 98, 2, 102, 2)), NO_MARKS, Latency(5, 5))
    assert (trades.filled.tolist(), trades.ts_fill.tolist(), trades.price.tolist()) == ([0], [50], [0])


def test_the_strategy_waits_until_a_fill_is_reported():
    found = books((15, 98, 9, 102, 9), (30, 98, 9, 102, 9), (60, 98, 9, 102, 9))
    trades, _ = replay(decisions({10: 1, 20: 2, 24: 2, 25: 2}), found, NO_MARKS, Latency(5, 10))
    assert trades.decision.tolist() == [0, 3]  # filled at 15, reported at 25


def test_marks_hold_what_happened_before_their_time():
    found = books((15, 98, 9, 102, 9), (20, 100, 9, 104, 9))
    marks = np.array([15, 16, 20, 21])
    _, made = replay(decisions({10: 2}), found, marks, Latency(5, 5), Account(mid=7))
    assert made.position.tolist() == [0, 2, 2, 2]
    assert made.mark.tolist() == [7, 100, 100, 102]
    assert made.points.tolist() == [0, -4, -4, 0]


def test_an_account_goes_on_where_it_stopped():
    whole = books((15, 98, 9, 102, 9), (35, 99, 9, 103, 9))
    first, second = (Books(*(c[i : i + 1] for c in whole)) for i in (0, 1))
    account = Account()
    replay(decisions({10: 2}), first, NO_MARKS, Latency(5, 5), account)
    replay(decisions({30: -1}), second, NO_MARKS, Latency(5, 5), account)
    one = Account()
    replay(decisions({10: 2, 30: -1}), whole, NO_MARKS, Latency(5, 5), one)
    assert (account.position, account.cash) == (one.position, one.cash) == (-1, 3 * 99 - 2 * 102)


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ({"found": books((15, 103, 1, 102, 1))}, "crossed"),
        ({"found": books((15, 98, 1, 102, 1), (14, 98, 1, 102, 1))}, "order of time"),
        ({"wanted": decisions({10: 1})._replace(ts=np.array([10, 10]))}, "order of time"),
        ({"wanted": decisions({10: 9})}, "within it"),
    ],
)
def test_inputs_that_are_not_what_they_must_be_are_refused(broken, said):
    given_ = {"wanted": decisions({10: 1}), "found": books((15, 98, 1, 102, 1))} | broken
    with pytest.raises(BacktestError, match=said):
        replay(given_["wanted"], checked(given_["found"]), NO_MARKS, Latency(5, 5))


def test_an_account_that_int64_cannot_hold_is_refused():
    with pytest.raises(BacktestError, match="trade fewer lots"):
        replay(decisions({10: 3}), books((15, 2**61, 9, 2**61 + 2, 9)), NO_MARKS, Latency(5, 5))


@dataclass
class Order:
    """As the plain exchange keeps it."""

    arrives: int
    lots: int
    expires: int
    decision: int


def plain(wanted: Decisions, found: Books, latency: Latency) -> list[tuple]:
    """The same rules as a queue of events, one after the other: reports, decisions, books."""
    limit = wanted.wanted.shape[1] // 2
    events = [(int(t), 1, d) for d, t in enumerate(wanted.ts)] + [
        (int(t), 2, b) for b, t in enumerate(found.ts)
    ]
    reports: list[tuple[int, int]] = []
    working: list[Order] = []
    known, waiting, out = 0, False, []
    taken: dict[tuple[int, int], int] = {}

    def close(order: Order, ts: int, lots: int, price: int) -> None:
        working.remove(order)
        out.append((order.decision, order.lots, lots, ts, price))
        reports.append((max(ts, order.arrives) + latency.report_ns, lots))

    for now, kind, i in sorted(events):
        for order in working:
            if order.expires <= now:
                close(order, order.expires, 0, 0)
        if kind == 1:
            for report in [r for r in reports if r[0] <= now]:
                reports.remove(report)
                known += report[1]
                waiting = False
            lots = int(wanted.wanted[i, known + limit]) - known
            if not waiting and lots:
                waiting = True
                order = Order(now + latency.order_ns, lots, int(wanted.expires[i]), i)
                working.append(order)
                if latency.order_ns == 0:  # a book of this very time comes after the decision
                    continue
        else:
            for order in [o for o in working if o.arrives <= now]:
                buys = order.lots > 0
                shown = int(found.ask_size[i] if buys else found.bid_size[i]) - taken.get((i, buys), 0)
                lots = min(abs(order.lots), max(shown, 0))
                taken[i, buys] = taken.get((i, buys), 0) + lots
                price = int(found.ask[i] if buys else found.bid[i]) if lots else 0
                close(order, now, lots if buys else -lots, price)
    for order in working:
        close(order, order.expires, 0, 0)
    return sorted(out)


@st.composite
def cases(draw, rows: int = 40):
    """Random tables of wanted positions and books of distinct times."""
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    n, m, limit = draw(st.integers(1, rows)), draw(st.integers(0, 2 * rows)), 3
    times = random.choice(2_000, n + m, replace=False)
    ts = np.sort(times[:n]).astype(np.int64)
    held = np.arange(-limit, limit + 1)
    wanted = np.clip(random.integers(-limit, limit + 1, (n, 2 * limit + 1)), held - 2, held + 2)
    bid = 100 + random.integers(-5, 6, m)
    found = Books(
        np.sort(times[n:]).astype(np.int64), bid, bid + random.integers(1, 4, m),
        random.integers(0, 4, m), random.integers(0, 4, m),
    )  # fmt: skip
    expires = ts + random.integers(1, 400, n)
    latency = Latency(draw(st.integers(0, 60)), draw(st.integers(0, 200)))
    return Decisions(ts, expires, wanted.astype(np.int16)), found, latency


@settings(max_examples=150, deadline=None)
@given(cases())
def test_the_engine_does_what_a_plain_exchange_does(case):
    wanted, found, latency = case
    trades, _ = replay(wanted, found, NO_MARKS, latency)
    made = zip(*(c.tolist() for c in trades[:5]), strict=True)
    assert [(d, size, filled, ts, price) for d, size, filled, ts, price in made] == plain(*case)


@settings(max_examples=100, deadline=None)
@given(cases())
def test_no_fill_comes_early_or_is_better_than_the_opposite_quote(case):
    wanted, found, latency = case
    trades, _ = replay(wanted, found, NO_MARKS, latency)
    for d, size, filled, ts, price in zip(*(c.tolist() for c in trades[:5]), strict=True):
        if not filled:
            continue
        book = found.ts.tolist().index(ts)
        assert ts >= wanted.ts[d] + latency.order_ns
        assert price == (found.ask[book] if filled > 0 else found.bid[book])
        shown = found.ask_size[book] if filled > 0 else found.bid_size[book]
        assert abs(filled) <= min(abs(size), shown) and filled * size > 0


@settings(max_examples=100, deadline=None)
@given(cases(), st.integers(0, 2_000), st.integers(0, 2**32))
def test_what_comes_later_changes_nothing_before_it(case, t, seed):
    wanted, found, latency = case
    random = np.random.default_rng(seed)
    late = wanted.ts >= t
    other = np.clip(random.integers(-3, 4, wanted.wanted.shape), -3, 3).astype(np.int16)
    changed = wanted._replace(wanted=np.where(late[:, None], other, wanted.wanted))
    keep = found.ts < t
    bid = np.where(keep, found.bid, found.bid + random.integers(-9, 9, len(keep)))
    shifted = found._replace(bid=bid, ask=np.where(keep, found.ask, bid + 1))
    marks = np.arange(0, 2_000, 100)
    before, before_marks = replay(wanted, found, marks, latency)
    after, after_marks = replay(changed, shifted, marks, latency)
    for trades, other_trades in ((before, after), (after, before)):
        decided = wanted.ts[trades.decision] < t
        k = int(decided.sum())
        assert np.array_equal(trades.decision[:k], other_trades.decision[:k])
        assert np.array_equal(trades.size[:k], other_trades.size[:k])
        done = trades.ts_fill[:k] < t
        for column, other_column in zip(trades, other_trades, strict=True):
            assert np.array_equal(column[:k][done], other_column[:k][done])
    earlier = marks <= t
    for column, other_column in zip(before_marks, after_marks, strict=True):
        assert np.array_equal(column[earlier], other_column[earlier])


@settings(max_examples=100, deadline=None)
@given(cases(), st.integers(0, 2**32))
def test_no_decision_before_a_report_depends_on_what_the_exchange_did(case, seed):
    """Slow reports: whatever books the orders meet, the strategy decides the same until the first report."""
    wanted, found, _ = case
    slow = Latency(5, 1_000)
    random = np.random.default_rng(seed)
    other = found._replace(bid_size=random.integers(0, 9, len(found.ts)), ask_size=0 * found.ask_size)
    runs = [replay(wanted, books_, NO_MARKS, slow)[0] for books_ in (found, other)]
    first = [int(t.ts_fill[0]) + slow.report_ns if len(t.ts_fill) else 10**6 for t in runs]
    decided = [
        (t.decision[wanted.ts[t.decision] < min(first)], t.size[wanted.ts[t.decision] < min(first)])
        for t in runs
    ]
    assert np.array_equal(decided[0][0], decided[1][0]) and np.array_equal(decided[0][1], decided[1][1])


@settings(max_examples=60, deadline=None)
@given(cases())
def test_slower_reports_leave_decisions_before_the_first_report_as_they_were(case):
    wanted, found, _ = case
    fast, _ = replay(wanted, found, NO_MARKS, Latency(5, 5))
    slow, _ = replay(wanted, found, NO_MARKS, Latency(5, 1_000))
    if not len(fast.ts_fill):
        assert not len(slow.ts_fill)
        return
    first = int(fast.ts_fill[0]) + 5
    for column, other in zip(fast[:2], slow[:2], strict=True):
        assert np.array_equal(
            column[wanted.ts[fast.decision] < first], other[wanted.ts[slow.decision] < first]
        )


@settings(max_examples=60, deadline=None)
@given(cases())
def test_without_latency_and_with_endless_depth_the_account_follows_the_targets(case):
    """Fixed targets, a book at each decision: the plain sum over trades at bid and ask."""
    wanted, _, _ = case
    targets = wanted.wanted[:, 0]
    table = np.tile(targets[:, None], (1, 7))
    bid = 100 + targets.astype(np.int64) * 3
    endless = np.full(len(targets), 10**9)
    account = Account()
    replay(
        Decisions(wanted.ts, wanted.ts + 1, table),
        Books(wanted.ts, bid, bid + 2, endless, endless),
        NO_MARKS,
        Latency(0, 0),
        account,
    )
    position = cash = 0
    for target, b in zip(targets.tolist(), bid.tolist(), strict=True):
        lots = target - position
        cash -= lots * (b + 2 if lots > 0 else b)
        position = target
    assert (account.position, account.cash) == (position, cash)

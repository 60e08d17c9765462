"""Bars against hand-made cases and plain Python, however trades are cut into batches."""

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.workloads.features.sessions import ns
from workloads.features.bars import Bars, Trades, Widths

NANO = 10**9
Trade = tuple[int, int, int, int, int, int, int]
"""Time, instrument, price in units, size, aggressor, losses before it, session."""


def trades(rows: list[Trade], multiplier: int = NANO) -> Trades:
    ts, ids, price, size, aggressor, loss, session = np.array(rows, np.int64).reshape(-1, 7).T
    return Trades(
        ids.astype(np.int32), ts, price * NANO, size, aggressor.astype(np.uint8),
        np.full(len(rows), multiplier), loss - 1, session,
    )  # fmt: skip


def made(rows: list[Trade], widths: Widths, cuts=(), end=10**9, lost=(), multiplier=NANO) -> pa.Table:
    after, until = np.array(lost, np.int64).reshape(-1, 2).T
    bars = Bars(widths, after, until)
    pairs = zip((0, *cuts), (*cuts, len(rows)), strict=True)
    parts = [bars.add(trades(rows[a:b], multiplier)) for a, b in pairs]
    return pa.concat_tables([*parts, bars.finish(end)])


def of_kind(table: pa.Table, kind: str) -> list[tuple[int, ...]]:
    """(start, end, open, high, low, close in units, volume, bought, sold, trades)"""
    table = table.filter(pa.compute.equal(table["kind"].cast(pa.string()), kind))
    prices = [(ns(table, name) // NANO).tolist() for name in ("open", "high", "low", "close")]
    counts = [table[name].to_pylist() for name in ("volume", "buy_volume", "sell_volume", "trades")]
    times = [ns(table, name).tolist() for name in ("ts_start", "ts_end")]
    return list(zip(*times, *prices, *counts, strict=True))


HUGE = Widths(10**12, 10**9, 10**9)
ROWS: list[Trade] = [
    (1, 7, 100, 2, 1, 0, 0), (9, 7, 103, 1, 2, 0, 0), (10, 7, 99, 4, 1, 0, 0), (35, 7, 98, 5, 0, 0, 0),
]  # fmt: skip


def test_a_time_bar_holds_the_trades_of_its_interval_and_quiet_intervals_have_none():
    assert of_kind(made(ROWS, Widths(10, 10**9, 10**9)), "time") == [
        (0, 10, 100, 103, 100, 103, 3, 2, 1, 2),
        (10, 20, 99, 99, 99, 99, 4, 4, 0, 1),
        (30, 40, 98, 98, 98, 98, 5, 0, 0, 1),
    ]


def test_a_time_bar_that_is_not_over_is_left_out():
    assert len(of_kind(made(ROWS, Widths(10, 10**9, 10**9), end=39), "time")) == 2


def test_a_trade_that_crosses_the_volume_belongs_wholly_to_the_bar_that_it_ends():
    assert of_kind(made(ROWS, Widths(10**12, 5, 10**9)), "volume") == [
        (1, 10, 100, 103, 99, 99, 7, 6, 1, 3),
        (35, 35, 98, 98, 98, 98, 5, 0, 0, 1),
    ]


def test_a_dollar_bar_counts_price_times_size_times_multiplier():
    (first,) = of_kind(made(ROWS, Widths(10**12, 10**9, 50 * 303), multiplier=50 * NANO), "dollar")[:1]
    assert first == (1, 9, 100, 103, 100, 103, 3, 2, 1, 2)


def test_notional_is_exact_and_null_where_it_cannot_be():
    table = made(ROWS, Widths(10, 10**9, 10**9), multiplier=50 * NANO)
    assert table["notional"].to_pylist() == [50 * n * NANO for n in (303, 396, 490)]
    assert table["vwap"].to_pylist() == [101 * NANO, 99 * NANO, 98 * NANO]
    vast = made([(1, 7, 100, 10**6, 1, 0, 0)], Widths(10, 10**9, 10**9), multiplier=10**3 * NANO)
    assert vast["notional"].to_pylist() == [None, None]  # the dollar bar, and the time bar
    unknown = made(ROWS, Widths(10, 10**9, 1), multiplier=0)
    assert unknown["notional"].null_count == 3
    assert of_kind(unknown, "dollar") == []


def test_no_bar_reaches_across_a_loss():
    rows = [(1, 7, 100, 2, 1, 0, 0), (2, 7, 101, 2, 1, 0, 0), (4, 7, 102, 3, 1, 1, 0), (11, 7, 1, 5, 1, 1, 0)]
    table = made(rows, Widths(10, 5, 10**9), lost=[(2, 3)])
    assert of_kind(table, "time") == [(10, 20, 1, 1, 1, 1, 5, 5, 0, 1)]
    assert of_kind(table, "volume") == [(4, 11, 102, 102, 1, 1, 8, 8, 0, 2)]


def test_a_time_bar_in_which_packets_were_lost_behind_its_last_trade_is_left_out():
    rows = [(1, 7, 100, 2, 1, 0, 0), (25, 7, 101, 2, 1, 1, 0)]
    assert [bar[0] for bar in of_kind(made(rows, Widths(10, 9, 10**9), lost=[(5, 22)]), "time")] == []
    assert [bar[0] for bar in of_kind(made(rows, Widths(10, 9, 10**9), lost=[(12, 15)]), "time")] == [0, 20]
    assert [bar[0] for bar in of_kind(made(rows[:1], Widths(10, 9, 10**9), lost=[(5, 22)]), "time")] == []


def test_no_bar_reaches_across_a_session():
    rows = [(1, 7, 100, 2, 1, 0, 1), (4, 7, 101, 4, 1, 0, 2), (6, 7, 102, 1, 1, 0, 2), (12, 7, 9, 1, 1, 0, 2)]
    table = made(rows, Widths(10, 5, 10**9))
    assert of_kind(table, "volume") == [(4, 6, 101, 102, 101, 102, 5, 5, 0, 2)]
    assert [bar[0] for bar in of_kind(table, "time")] == [10]


def test_trades_in_no_finished_bar_are_counted_by_kind():
    """The time bar of the last trade is not over; nor is any volume or dollar bar but that of 6 lots."""
    bars = Bars(Widths(10, 6, 10**9))
    bars.add(trades(ROWS[:2]))
    bars.add(trades(ROWS[2:]))
    bars.finish(39)
    assert bars.in_none() == {("time", 7): 1, ("volume", 7): 1, ("dollar", 7): 4}


def oracle(rows: list[Trade], kind: str, widths: Widths) -> list[tuple[int, ...]]:
    """Bars of one instrument, without losses, in plain Python."""
    found, bar = [], []
    for trade in rows:
        if kind == "time" and bar and trade[0] // widths.time_ns != bar[0][0] // widths.time_ns:
            found.append(bar)
            bar = []
        bar = [*bar, trade]
        amounts = {"volume": sum(t[3] for t in bar), "dollar": sum(t[2] * t[3] for t in bar)}
        if kind != "time" and amounts[kind] >= {"volume": widths.volume, "dollar": widths.dollars}[kind]:
            found.append(bar)
            bar = []
    if kind == "time" and bar:
        found.append(bar)
    bars = []
    for bar in found:
        start, end = bar[0][0], bar[-1][0]
        if kind == "time":
            start = start // widths.time_ns * widths.time_ns
            end = start + widths.time_ns
        prices = [t[2] for t in bar]
        sums = [sum(t[3] for t in bar if t[4] in sides) for sides in ((0, 1, 2), (1,), (2,))]
        ohlc = (prices[0], max(prices), min(prices), prices[-1])
        bars.append((start, end, *ohlc, *sums, len(bar)))
    return bars


TRADES = st.lists(
    st.tuples(*(st.integers(*bounds) for bounds in ((0, 6), (1, 2), (90, 110), (1, 9), (0, 2)))),
    max_size=60,
)


@settings(deadline=None, max_examples=100)
@given(TRADES, st.lists(st.integers(0, 60), max_size=3), st.integers(1, 20), st.integers(1, 3000))
def test_bars_equal_plain_python_however_trades_are_cut(given_trades, cuts, width, dollars):
    ts = np.cumsum([t[0] for t in given_trades]).tolist()
    rows = [(t, *trade[1:], 0, 0) for t, trade in zip(ts, given_trades, strict=True)]
    widths = Widths(width, width, dollars)
    table = made(rows, widths, tuple(sorted(min(cut, len(rows)) for cut in cuts)))
    for instrument in (1, 2):
        mine = table.filter(pa.compute.equal(table["instrument_id"], instrument))
        its_rows = [row for row in rows if row[1] == instrument]
        for kind in ("time", "volume", "dollar"):
            assert of_kind(mine, kind) == oracle(its_rows, kind, widths)

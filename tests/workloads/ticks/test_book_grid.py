"""Books on a grid of times against dictionaries, hand-made cases, and any cut into batches."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workloads.ticks.book_grid import BookGrid, Frames
from workloads.ticks.codes import Action, RowFlag, Side
from workloads.ticks.order_book import NULL_PRICE

NEW, CHANGE, DELETE, RESET = Action.NEW, Action.CHANGE, Action.DELETE, Action.RESET
BUY, SELL = Side.BUY, Side.SELL
STEP = 10
TYPES = {
    "instrument_id": np.int32, "order_id": np.uint64, "price": np.int64, "size": np.int64,
    "action": np.uint8, "side": np.uint8, "priority": np.uint64, "row_flags": np.uint8,
}  # fmt: skip


def row(ts: int, action: int, order: int, side: int = BUY, price: int = 100, size: int = 1, **more: int):
    """One row of an event that is over at ``ts``."""
    named = {"order_id": order, "side": side, "price": price, "size": size, "action": action}
    return {"instrument_id": 7, "priority": order, "row_flags": 0, "end": 1, **named, **more, "ts": ts}


def sampled(rows: list[dict[str, int]], levels: int = 2, cuts: tuple[int, ...] = ()) -> list[Frames]:
    grid, found = BookGrid(STEP, levels, capacity=8), []
    for start, stop in zip((0, *cuts), (*cuts, len(rows)), strict=True):
        part = rows[start:stop]
        columns = {name: np.array([r[name] for r in part], dtype) for name, dtype in TYPES.items()}
        ends = np.array([r["end"] for r in part], np.bool_)
        found += list(grid.sample(columns, np.array([r["ts"] for r in part], np.int64), ends))
    return found


def flat(frames: list[Frames]) -> list[tuple[Any, ...]]:
    """(ts, instrument, ladder, ofi, adds) of each frame."""
    names = ("ts", "instrument_id", "ladder", "ofi", "bid_adds", "ask_adds")
    return [each for f in frames for each in zip(*(getattr(f, name).tolist() for name in names), strict=True)]


def test_a_frame_holds_what_was_known_before_its_time_and_what_came_since_the_one_before():
    frames = sampled(
        [
            row(3, NEW, 1, BUY, 100, 5), row(4, NEW, 2, SELL, 102, 3), row(9, NEW, 3, BUY, 100, 2),
            row(10, NEW, 4, BUY, 101, 1), row(25, DELETE, 2),
        ],
    )  # fmt: skip
    first, second = flat(frames)
    none = [0, 0, 0, 0]
    assert first == (10, 7, [[[100, 7, 2, 2], none], [[102, 3, 1, 1], none]], 5 - 3 + 2, 2, 1)
    assert second == (20, 7, [[[101, 1, 1, 1], [100, 7, 2, 0]], [[102, 3, 1, 0], none]], 1, 1, 0)


def test_order_flow_imbalance_follows_its_definition():
    """By hand, from Cont, Kukanov, Stoikov (2014): bids 100 x 5, asks 102 x 3 at the start."""
    start = [row(1, NEW, 1, BUY, 100, 5), row(2, NEW, 2, SELL, 102, 3), row(11, RESET, 0, instrument_id=8)]
    for change, imbalance in [
        (row(12, NEW, 3, BUY, 101, 4), 4),  # a better bid gives its size
        (row(12, NEW, 3, BUY, 99, 4), 0),  # behind the best: nothing
        (row(12, CHANGE, 1, BUY, 100, 2), -3),  # the same price: the change of size
        (row(12, CHANGE, 1, BUY, 99, 5), -5),  # a worse bid takes the old size
        (row(12, NEW, 3, SELL, 101, 4), -4),
        (row(12, CHANGE, 2, SELL, 102, 1), 2),
        (row(12, DELETE, 2), 3),  # an empty side is worse than any price
    ]:
        frames = flat(sampled([*start, change, row(20, RESET, 0, instrument_id=8)]))
        assert [f[3] for f in frames if f[:2] == (20, 7)] == [imbalance]


def test_orders_that_came_and_went_are_counted_and_those_of_a_recovery_are_not():
    rows = [
        row(1, NEW, 1), row(2, NEW, 2), row(3, DELETE, 2), row(4, NEW, 3, row_flags=RowFlag.RECOVERY),
        row(15, DELETE, 3),
    ]  # fmt: skip
    ((_, _, ladder, _, bid_adds, ask_adds),) = flat(sampled(rows))
    assert (bid_adds, ask_adds) == (2, 0)
    assert ladder[0][0] == [100, 2, 2, 2]  # added at this price, whether or not they are still there


def test_a_quiet_stretch_has_a_frame_at_every_grid_time():
    frames = sampled([row(1, NEW, 1), row(10 * STEP * 1000, DELETE, 1)], levels=1)
    assert len(flat(frames)) == 10_000
    assert {len(f.ts) for f in frames} == {4096, 10_000 - 2 * 4096}
    assert set(np.concatenate([f.ladder[:, 0, 0, 1] for f in frames]).tolist()) == {1}


def test_more_instruments_than_fit_at_once_are_all_looked_at():
    rows = [row(1, NEW, i, instrument_id=i, price=i) for i in range(5000)]
    frames = flat(sampled([*rows, row(11, DELETE, 1, instrument_id=1)], levels=1))
    assert [(f[1], f[2][0][0][0]) for f in frames] == [(i, i) for i in range(5000)]


def test_best_prices_of_an_empty_side_are_null():
    (frames,) = sampled([row(1, NEW, 1, BUY, 100, 5), row(11, DELETE, 1)])
    assert [v.tolist() for v in frames.best(0)] == [[100], [5]]
    assert [v.tolist() for v in frames.best(1)] == [[NULL_PRICE], [0]]


def test_times_that_fall_are_refused():
    with pytest.raises(ValueError, match="fall"):
        sampled([row(5, NEW, 1), row(4, NEW, 2)])
    with pytest.raises(ValueError, match="fall"):
        sampled([row(5, NEW, 1), row(4, NEW, 2)], cuts=(1,))


class Oracle:
    """The same from dictionaries and sorting."""

    def __init__(self, rows: list[dict[str, int]], levels: int) -> None:
        self.orders: dict[tuple[int, int], tuple[int, int, int]] = {}
        self.best: dict[int, list[tuple[float, int]]] = {}
        self.flow: dict[int, list[int]] = {}
        self.added: list[tuple[int, int, int]] = []
        self.touched: set[int] = set()
        self.frames: list[tuple[Any, ...]] = []
        self.levels = levels
        grid = (rows[0]["ts"] // STEP + 1) * STEP if rows else 0
        for r in rows:
            while grid <= r["ts"]:
                self.look(grid)
                grid += STEP
            self.apply(r)

    def side(self, instrument: int, side: int) -> list[list[int]]:
        sizes: dict[int, list[int]] = {}
        for (i, _), (its_side, price, size) in self.orders.items():
            if (i, its_side) == (instrument, side):
                sizes.setdefault(price, []).append(size)
        better = sorted(sizes, reverse=side == BUY)
        return [[price, sum(sizes[price]), len(sizes[price])] for price in better]

    def look(self, ts: int) -> None:
        for i, flow in self.flow.items():
            ladder = []
            for side in (BUY, SELL):
                found = [
                    [*level, self.added.count((i, side, level[0]))]
                    for level in self.side(i, side)[: self.levels]
                ]
                ladder.append(found + [[0, 0, 0, 0]] * (self.levels - len(found)))
            self.frames.append((ts, i, ladder, *flow))
            self.flow[i] = [0, 0, 0]
        self.added = []

    def apply(self, r: dict[str, int]) -> None:
        i, key = r["instrument_id"], (r["instrument_id"], r["order_id"])
        self.flow.setdefault(i, [0, 0, 0])
        self.touched.add(i)
        if r["action"] == RESET:
            self.orders = {k: v for k, v in self.orders.items() if k[0] != i}
        elif r["action"] == DELETE:
            self.orders.pop(key, None)
        else:
            self.orders[key] = (r["side"], r["price"], r["size"])
        if r["action"] == NEW and not r["row_flags"]:
            self.added.append((i, r["side"], r["price"]))
            self.flow[i][r["side"]] += 1
        if r["end"]:
            for touched in self.touched:
                self.count_flow(touched)
            self.touched = set()

    def count_flow(self, i: int) -> None:
        now = []
        for side, sign in ((BUY, 1), (SELL, -1)):
            best = self.side(i, side)[:1]
            now.append((sign * best[0][0], best[0][1]) if best else (-np.inf, 0))
        (bid, bid_size), (ask, ask_size) = now
        (old_bid, old_bid_size), (old_ask, old_ask_size) = self.best.get(i, [(-np.inf, 0)] * 2)
        self.flow[i][0] += (bid >= old_bid) * bid_size - (bid <= old_bid) * old_bid_size
        self.flow[i][0] -= (ask >= old_ask) * ask_size - (ask <= old_ask) * old_ask_size
        self.best[i] = now


@st.composite
def streams(draw: st.DrawFn) -> list[dict[str, int]]:
    """Rows of few orders and prices, in events that are known together."""
    rows, ts = [], draw(st.integers(0, 25))
    for event in draw(st.lists(st.integers(1, 4), max_size=30)):
        ts += draw(st.sampled_from([0, 1, 3, 9, 10, 25]))
        for i in range(event):
            action = draw(st.sampled_from([NEW] * 5 + [CHANGE] * 3 + [DELETE] * 3 + [RESET]))
            order, side = draw(st.integers(0, 30)), draw(st.sampled_from([BUY, SELL]))
            price, size = draw(st.integers(-5, 5)), draw(st.integers(1, 9))
            more = {"instrument_id": draw(st.integers(0, 2)), "end": int(i == event - 1)}
            flags = draw(st.sampled_from([0, 0, RowFlag.RECOVERY]))
            rows.append(row(ts, action, order, side, price, size, row_flags=flags, **more))
    return rows


@settings(deadline=None, max_examples=150)
@given(streams(), st.integers(1, 4), st.lists(st.integers(0, 60), max_size=3))
def test_frames_equal_those_of_dictionaries_however_rows_are_cut(rows, levels, cuts):
    whole = tuple(sorted(min(cut, len(rows)) for cut in cuts))
    oracle = [tuple(f) for f in Oracle(rows, levels).frames]
    found = flat(sampled(rows, levels, whole))
    assert [f[:1] for f in found] == [f[:1] for f in oracle]
    assert sorted(found, key=str) == sorted(oracle, key=str)

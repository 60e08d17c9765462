"""Rows a second through the books, beside a dense price ladder on the same rows.

The peer is the fastest thing we know for one instrument: an array indexed by (price - lowest) / tick. It
needs the tick and the day's price range beforehand, serves one instrument, keeps no queue and no counters,
and must scan for the best price. The ratio says what generality costs.

Times are CPU times of this process, so that a busy machine spoils them less; the best round counts.

Run: python -m pytest benchmarks/bench_book.py
"""

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zstandard
from numba import njit

from benchmarks.record import record
from workloads.ticks.codes import Action, EntryType, EventFlag, Side
from workloads.ticks.order_book import OrderBooks
from workloads.ticks.price_book import PriceBooks

NEW, CHANGE, DELETE, RESET = Action.NEW, Action.CHANGE, Action.DELETE, Action.RESET
Rows = dict[str, np.ndarray]

pytestmark = pytest.mark.benchmark(timer=time.process_time)

DATA = Path(
    os.environ.get("TICKWORKS_DATA", Path(__file__).resolve().parent.parent.parent / "shared" / "data")
)
ES_DAY = DATA / "databento-es" / "esh4-glbx-mdp3-20231225.mbo.dbn.zst"
DBN_MBO = np.dtype(
    [
        ("length", "u1"), ("rtype", "u1"), ("publisher", "<u2"), ("instrument", "<u4"), ("ts_event", "<u8"),
        ("order_id", "<u8"), ("price", "<i8"), ("size", "<u4"), ("flags", "u1"), ("channel", "u1"),
        ("action", "S1"), ("side", "S1"), ("ts_recv", "<u8"), ("ts_in_delta", "<i4"), ("sequence", "<u4"),
    ]
)  # fmt: skip
DAYS = 25  # the file is a quiet day: its rows are repeated, with a reset before each repetition


def es_day() -> Rows:
    """Adds, changes and deletes of one real day of ES."""
    with ES_DAY.open("rb") as stream:
        raw = zstandard.ZstdDecompressor().stream_reader(stream).read()
    records = np.frombuffer(raw, DBN_MBO, offset=8 + int.from_bytes(raw[4:8], "little"))
    records = records[np.isin(records["action"], [b"A", b"M", b"C"])]
    actions = [records["action"] == b"A", records["action"] == b"M"]
    return {
        "instrument_id": records["instrument"].astype(np.int32),
        "order_id": records["order_id"].copy(),
        "price": records["price"].copy(),
        "size": records["size"].astype(np.int64),
        "action": np.select(actions, [NEW, CHANGE], DELETE).astype(np.uint8),
        "side": np.where(records["side"] == b"B", Side.BUY, Side.SELL).astype(np.uint8),
        "priority": np.arange(len(records), dtype=np.uint64),
        "event_flags": records["flags"] & np.uint8(EventFlag.END),
    }


def generated_day(orders: int, instruments: int) -> Rows:
    """Orders that come, change once or not, and mostly go, at prices near a wandering middle."""
    random = np.random.default_rng(7)
    start = np.sort(random.uniform(0, 1, orders))
    life = random.exponential(0.02, orders)
    changed = random.random(orders) < 0.4
    order = np.concatenate([np.arange(orders), np.flatnonzero(changed), np.arange(orders)])
    action = np.repeat([NEW, CHANGE, DELETE], [orders, changed.sum(), orders]).astype(np.uint8)
    when = start[order] + life[order] * np.select([action == NEW, action == CHANGE], [0, 0.5], 1)
    rows = np.argsort(when, kind="stable")
    rows = rows[when[rows] < 1]
    order, action = order[rows], action[rows]
    side = random.integers(1, 3, orders).astype(np.uint8)[order]
    middle = np.cumsum(random.normal(0, 0.05, orders))[order]
    away = random.geometric(0.15, orders)[order] + (action == CHANGE) * random.integers(0, 2, len(order))
    ticks = np.round(middle + np.where(side == Side.BUY, -away, away)).astype(np.int64)
    return {
        "instrument_id": random.integers(0, instruments, orders).astype(np.int32)[order],
        "order_id": (6_412_000_000_000 + 3 * order).astype(np.uint64),
        "price": 4_800_000_000_000 + ticks * 250_000_000,
        "size": random.integers(1, 20, len(order)),
        "action": action,
        "side": side,
        "priority": np.arange(len(order), dtype=np.uint64),
        "event_flags": np.full(len(order), EventFlag.END, np.uint8),
    }


def one_instrument() -> Rows:
    return es_day() if ES_DAY.exists() else generated_day(30_000, 1)


def repeated(day: Rows, times: int) -> Rows:
    """The day's rows ``times`` times, each time after a reset of its instrument."""
    reset = {name: values[:1].copy() for name, values in day.items()}
    reset["action"][:] = RESET
    return {name: np.concatenate([reset[name], values] * times) for name, values in day.items()}


@njit(nogil=True, cache=True)
def ladder(
    order_id: Any, price: Any, size: Any, action: Any, side: Any, lowest: Any, tick: Any,
    keys: Any, levels: Any, sizes: Any, level_size: Any, level_orders: Any,
) -> int:  # fmt: skip
    """The peer: a hash table of orders and one dense array of levels. Returns how many orders are live."""
    multiplier, mask, live = np.uint64(0x9E3779B97F4A7C15), np.int64(len(keys) - 1), 0
    for i in range(len(order_id)):
        order = order_id[i]
        slot = np.int64((order * multiplier) >> np.uint64(48))
        while keys[slot] != 0 and keys[slot] != order:
            slot = (slot + 1) & mask
        if keys[slot] == order:
            level_size[levels[slot]] -= sizes[slot]
            level_orders[levels[slot]] -= 1
        else:
            live += 1
        if action[i] == 2:
            live -= 1
            hole = slot
            while True:
                slot = (slot + 1) & mask
                if keys[slot] == 0:
                    break
                home = np.int64((keys[slot] * multiplier) >> np.uint64(48))
                if (slot - home) & mask >= (slot - hole) & mask:
                    keys[hole], levels[hole], sizes[hole] = keys[slot], levels[slot], sizes[slot]
                    hole = slot
            keys[hole] = 0
        else:
            level = 2 * ((price[i] - lowest) // tick) + side[i] - 1
            keys[slot], levels[slot], sizes[slot] = order, level, size[i]
            level_size[level] += size[i]
            level_orders[level] += 1
    return live


def ladder_rate(day: Rows, live: int) -> float:
    """Rows a second of the peer on one day, best of 20, after a check of its answer."""
    lowest, tick = day["price"].min(), 250_000_000
    n = 2 * (int((day["price"].max() - lowest) // tick) + 1)
    columns = [day[name] for name in ("order_id", "price", "size", "action", "side")]
    best = np.inf
    for _ in range(21):  # the first one compiles
        table = [np.full(1 << 16, 0, dtype) for dtype in (np.uint64, np.int32, np.int32)]
        start = time.process_time()
        found = ladder(*columns, lowest, tick, *table, np.zeros(n, np.int64), np.zeros(n, np.int64))
        best = min(best, time.process_time() - start)
        assert found == live
    return len(day["action"]) / best


def report(capsys: pytest.CaptureFixture[str], line: str) -> None:
    with capsys.disabled():
        print(f"\n{line}")


def test_order_books_of_one_instrument(benchmark: Any, capsys: pytest.CaptureFixture[str]):
    day = one_instrument()
    rows = repeated(day, DAYS)

    def run() -> OrderBooks:
        books = OrderBooks()
        books.apply(rows)
        return books

    books = benchmark.pedantic(run, rounds=10, warmup_rounds=1)
    counters = books.counters
    assert counters["duplicate_adds"] == counters["unknown_deletes"] == counters["negative_levels"] == 0
    assert books.live_orders == (day["action"] == NEW).sum() - (day["action"] == DELETE).sum()
    if ES_DAY.exists():
        top = books.depth(17077, 1)
        assert books.live_orders == 11_217
        assert (top.bid_price[0], top.ask_price[0]) == (4810_000000000, 4810_250000000)
    rate = len(rows["action"]) / benchmark.stats["min"] / 1e6
    peer = ladder_rate(day, books.live_orders) / 1e6
    report(
        capsys, record("order books, one instrument", rate, "M rows/s", peer="dense ladder", peer_value=peer)
    )


def test_tops_at_every_end_of_event(benchmark: Any, capsys: pytest.CaptureFixture[str]):
    rows = repeated(one_instrument(), DAYS)
    tops = benchmark.pedantic(lambda: OrderBooks().tops(rows), rounds=10, warmup_rounds=1)
    assert len(tops["row"]) == np.count_nonzero(rows["event_flags"] & EventFlag.END)
    best = np.inf
    for _ in range(10):
        plain, start = OrderBooks(), time.process_time()
        plain.apply(rows)
        best = min(best, time.process_time() - start)
    peer = len(rows["action"]) / best / 1e6
    rate = len(rows["action"]) / benchmark.stats["min"] / 1e6
    report(capsys, record("tops of 10 levels", rate, "M rows/s", peer="apply without tops", peer_value=peer))


@pytest.mark.parametrize("instruments", [1, 500])
def test_order_books_of_a_generated_day(benchmark: Any, instruments: int):
    day = generated_day(500_000, instruments)

    def run() -> OrderBooks:
        books = OrderBooks()
        books.apply(day)
        return books

    books = benchmark.pedantic(run, rounds=10, warmup_rounds=1)
    benchmark.extra_info["rows_per_s"] = round(len(day["action"]) / benchmark.stats["min"])
    assert books.counters["changes"] == (day["action"] == CHANGE).sum()
    assert books.live_orders == (day["action"] == NEW).sum() - (day["action"] == DELETE).sum()
    assert len(books.instruments()) == instruments


def test_price_books(benchmark: Any):
    random, n = np.random.default_rng(7), 500_000
    actions, weights = [NEW, CHANGE, DELETE], [0.15, 0.7, 0.15]
    rows = {
        "instrument_id": random.integers(0, 500, n).astype(np.int32),
        "price": random.integers(-50, 50, n),
        "size": random.integers(1, 99, n),
        "orders": random.integers(1, 9, n).astype(np.int32),
        "level": np.minimum(random.geometric(0.3, n), 10).astype(np.uint8),
        "action": random.choice(actions, n, p=weights).astype(np.uint8),
        "entry_type": random.choice([EntryType.BID, EntryType.OFFER], n).astype(np.uint8),
        "rpt_seq": np.arange(1, n + 1, dtype=np.uint32),
        "event_flags": np.full(n, EventFlag.END, np.uint8),
    }

    def run() -> PriceBooks:
        books = PriceBooks()
        books.apply(rows)
        return books

    books = benchmark.pedantic(run, rounds=10, warmup_rounds=1)
    benchmark.extra_info["rows_per_s"] = round(n / benchmark.stats["min"])
    assert [books.counters[name] for name in ("news", "changes", "deletes")] == [
        int((rows["action"] == action).sum()) for action in actions
    ]

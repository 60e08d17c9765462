"""Book events a second through the backtest's engine, beside polars on the same work in the same run.

The work: a taker who wants a given position at each decision, whatever was filled before; each order meets
the first book at or after its arrival and trades at the opposite quote, at most what is displayed. That is
all that a join can express: polars takes the decisions' arrivals to the books (`join_asof`, forward) and
works out fills, cash and position in columns. The engine does more on the way (it waits for reports, keeps
what was taken, marks the account), which here changes nothing; the fills are proven equal first.

Times are CPU times of this process, with polars on one thread; the best of the rounds counts.

Run: python -m benchmarks.bench_backtest
"""

import os

os.environ.setdefault("POLARS_MAX_THREADS", "1")  # read when polars is imported

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl

from benchmarks.record import record
from workloads.backtest.engine import Books, Decisions, Latency, checked, replay

STEP = 250_000_000
LATENCY = Latency(order_ns=5_000_000, report_ns=5_000_000)
LIMIT = 1
NO_MARKS = np.zeros(0, np.int64)


def market(events: int, per_step: float, seed: int = 7) -> tuple[Books, Decisions]:
    """Books of a wandering price, ``per_step`` of them in a step; each decision turns the position over."""
    random = np.random.default_rng(seed)
    span = int(events / per_step * STEP)
    gap = int(STEP / per_step)  # never two without a book: each report is there before the next decision
    ts = np.arange(events) * gap + random.integers(0, gap, events)
    bid = (27_000 + np.cumsum(random.integers(-1, 2, events))) * STEP
    spread = random.integers(1, 3, events) * STEP
    sizes = random.integers(2, 50, (2, events))  # turning over takes two lots: no order is cut
    books = checked(Books(ts, bid, bid + spread, *sizes))
    decided = np.arange(STEP, span - STEP, STEP, dtype=np.int64)
    wanted = np.where(np.arange(len(decided)) % 2, -LIMIT, LIMIT).astype(np.int16)
    table = np.tile(wanted[:, None], (1, 2 * LIMIT + 1))
    return books, Decisions(decided, np.full(len(decided), span * 2), table)


def engine(books: Books, decisions: Decisions) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Time, signed lots and price of each fill."""
    trades, _ = replay(decisions, books, NO_MARKS, LATENCY)
    return trades.ts_fill, trades.filled, trades.price


def frames(books: Books, decisions: Decisions) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The same inputs as polars gets them: made outside the timed call."""
    return (
        pl.DataFrame(books._asdict()).set_sorted("ts"),
        pl.DataFrame({"decided": decisions.ts, "wanted": decisions.wanted[:, 0].astype(np.int64)}),
    )


def peer(books: pl.DataFrame, decisions: pl.DataFrame) -> pl.DataFrame:
    """The same backtest in columns."""
    wanted = pl.col("wanted")
    lots = pl.col("lots")
    shown = pl.when(lots > 0).then("ask_size").otherwise("bid_size")
    return (
        decisions.lazy()
        .with_columns(
            arrives=pl.col("decided") + LATENCY.order_ns, lots=wanted - wanted.shift(1, fill_value=0)
        )
        .filter(lots != 0)
        .set_sorted("arrives")
        .join_asof(
            books.lazy().with_columns(ts_fill="ts"), left_on="arrives", right_on="ts", strategy="forward"
        )
        .with_columns(
            filled=lots.sign() * pl.min_horizontal(lots.abs(), shown),
            price=pl.when(lots > 0).then("ask").otherwise("bid"),
        )
        .select("ts_fill", "filled", "price")
        .collect()
    )


def best(work: Callable[[], Any], rounds: int) -> float:
    """Least CPU seconds of one call."""
    work()
    times = []
    for _ in range(rounds):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=5_000_000, help="books")
    parser.add_argument("--rounds", type=int, default=7)
    asked = parser.parse_args()
    for per_step in (8.0, 100.0):  # a quiet future; a busy one
        books, decisions = market(asked.events, per_step)
        ours, theirs = engine(books, decisions), peer(*frames(books, decisions))
        for column, name in zip(ours, ("ts_fill", "filled", "price"), strict=True):
            assert np.array_equal(column, theirs[name].to_numpy()), f"{name}: the fills differ"
        inputs = frames(books, decisions)
        mine = best(lambda: engine(books, decisions), asked.rounds)  # noqa: B023  # called at once
        others = best(lambda: peer(*inputs), asked.rounds)  # noqa: B023  # called at once
        print(
            record(
                f"backtest, {len(ours[0]):,} orders",
                asked.events / mine,
                "book events/s",
                peer="polars join_asof, one thread",
                peer_value=asked.events / others,
            )
        )


if __name__ == "__main__":
    main()

"""Events a second from ticks to features, beside polars on the same work in the same run.

    python -m benchmarks.bench_features

Three pieces of work on one generated session of four instruments, held in memory by both:

- time bars: trades to bars of one second;
- imbalance: tops of book at each end of an event to order-flow imbalance on a grid of 250 ms. polars cannot
  rebuild a book, so it is given the tops; ours starts from the order rows, and makes those tops as well;
- book grid: what ours does in that same pass (ladders of ten levels, orders added, imbalance at every grid
  time) in order rows a second; the peer is our own books without any of it: what looking costs.

CPU time of this process, polars with one thread, the best of several passes. Before anything is timed the
results of both are compared, bit by bit.
"""

import os

os.environ.setdefault("POLARS_MAX_THREADS", "1")  # read when polars is imported

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl

from benchmarks.bench_book import generated_day
from benchmarks.record import record
from workloads.features.bars import Bars, Trades, Widths
from workloads.ticks.book_grid import BookGrid
from workloads.ticks.order_book import NULL_PRICE, OrderBooks

SECOND = 1_000_000_000
STEP = 250_000_000
START = 1_767_623_400 * SECOND
DURATION = 1200 * SECOND
PASSES = 7
Columns = dict[str, np.ndarray]


def best(work: Callable[[], Any]) -> float:
    """CPU seconds of the fastest pass; the first one, which compiles, is not timed."""
    work()
    times = []
    for _ in range(PASSES):
        began = time.process_time()
        work()
        times.append(time.process_time() - began)
    return min(times)


def generated_trades(count: int) -> Columns:
    random = np.random.default_rng(8)
    return {
        "instrument_id": random.integers(0, 4, count).astype(np.int32),
        "ts": START + np.sort(random.integers(0, DURATION, count)),
        "price": 4_800 * SECOND + 250_000_000 * np.cumsum(random.integers(-1, 2, count)),
        "size": random.integers(1, 20, count),
        "aggressor": random.integers(1, 3, count).astype(np.uint8),
    }


def our_bars(trades: Columns) -> pl.DataFrame:
    count = len(trades["ts"])
    bars = Bars(Widths(SECOND, 10**9, 10**9))
    none = np.zeros(count, np.int64)
    made = bars.add(Trades(**trades, multiplier=none, loss=none - 1, session=none))
    last = bars.finish(START + 2 * DURATION)
    return pl.concat([pl.from_arrow(made), pl.from_arrow(last)])


def polars_bars(trades: pl.DataFrame) -> pl.DataFrame:
    price, size = pl.col("price"), pl.col("size")
    return (
        trades.lazy()
        .group_by("instrument_id", start=pl.col("ts") // SECOND * SECOND)
        .agg(
            open=price.first(),
            high=price.max(),
            low=price.min(),
            close=price.last(),
            vwap=(price * size).sum() // size.sum(),
            volume=size.sum(),
            buy_volume=size.filter(pl.col("aggressor") == 1).sum(),
            sell_volume=size.filter(pl.col("aggressor") == 2).sum(),
            trades=pl.len().cast(pl.Int64),
        )
        .collect()
    )


def our_grid(rows: Columns, known: np.ndarray) -> tuple[Columns, BookGrid]:
    grid = BookGrid(STEP, 10)
    parts = list(grid.sample(rows, known))
    names = ("ts", "instrument_id", "ofi")
    return {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}, grid


def polars_imbalance(tops: pl.DataFrame) -> pl.DataFrame:
    """Cont, Kukanov, Stoikov (2014): sums at each grid time in which an instrument's top was looked at."""

    def side(name: str, worst: int, better: str) -> pl.Expr:
        price, size = pl.col(f"{name}_price"), pl.col(f"{name}_size")
        before = price.shift(1).over("instrument_id").fill_null(worst)
        size_before = size.shift(1).over("instrument_id").fill_null(0)
        up = price >= before if better == "higher" else price <= before
        down = price <= before if better == "higher" else price >= before
        return pl.when(up).then(size).otherwise(0) - pl.when(down).then(size_before).otherwise(0)

    return (
        tops.lazy()
        .with_columns(
            gain=side("bid", -NULL_PRICE, "higher") - side("ask", NULL_PRICE, "lower"),
            grid=(pl.col("ts") // STEP + 1) * STEP,
        )
        .group_by("instrument_id", ts="grid")
        .agg(ofi=pl.col("gain").sum())
        .collect()
    )


def main() -> None:
    trades = generated_trades(1_000_000)
    frame = pl.DataFrame(trades)
    ours, theirs = our_bars(trades), polars_bars(frame)
    columns = theirs.columns[2:]
    ours = ours.with_columns(start=pl.col("ts_start").dt.epoch("ns"), kind=pl.col("kind").cast(pl.String))
    assert ours["kind"].unique().to_list() == ["time"] or ours.filter(pl.col("kind") != "time").height == 0
    by = ["instrument_id", "start"]
    assert ours.sort(by).select(by + columns).equals(theirs.sort(by).select(by + columns))
    rate = len(frame) / best(lambda: our_bars(trades))
    peer = len(frame) / best(lambda: polars_bars(frame))
    print(record("features.time_bars", rate, "trades/s", peer="polars group_by, 1 thread", peer_value=peer))

    rows = generated_day(500_000, 4)
    count = len(rows["action"])
    known = START + np.linspace(0, DURATION, count).astype(np.int64)
    found, grid = our_grid(rows, known)
    tops = pl.DataFrame({**grid.tops, "ts": known[grid.tops["row"]]}).with_columns(
        bid_price=pl.when(pl.col("bid_price") == NULL_PRICE).then(-NULL_PRICE).otherwise(pl.col("bid_price"))
    )
    mine = pl.DataFrame(found)
    wanted = polars_imbalance(tops).filter(pl.col("ts") <= mine["ts"].max())
    both = mine.join(wanted, ["ts", "instrument_id"], how="left", suffix="_polars", maintain_order="left")
    assert wanted.height > 1000
    assert both["ofi"].equals(both["ofi_polars"].fill_null(0).alias("ofi"))
    assert both["ofi_polars"].count() == wanted.height
    seconds = best(lambda: our_grid(rows, known))
    given = best(lambda: polars_imbalance(tops))
    print(
        record(
            "features.imbalance", tops.height / seconds, "ends of events/s, from order rows",
            peer="polars shift and group_by on given tops, 1 thread", peer_value=tops.height / given,
        )
    )  # fmt: skip
    plain = best(lambda: OrderBooks().apply(rows))
    print(
        record(
            "features.book_grid", count / seconds, "order rows/s, 4 instruments, 10 levels, every 250 ms",
            peer="our books alone", peer_value=count / plain,
        )
    )  # fmt: skip


if __name__ == "__main__":
    main()

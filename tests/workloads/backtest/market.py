"""A small generated market in the archive's own tables: orders, definitions, a dataset, scores.

The book has one order a side, which every event changes. Grid rows, labels and scores are made from the
same path in plain NumPy, so that the code under test rebuilds the books from orders and meets the rest as
it would meet a features job's and a training run's output.
"""

import datetime
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa

from workloads.ticks.archive import Archive, DatasetPartition, Partition, RunPartition, open_archive
from workloads.ticks.codes import Action, EventFlag, Side
from workloads.ticks.schema import BOOK_TENSORS, DEFINITIONS, LABELS, MBO, SCORES

DATE = datetime.date(2026, 1, 5)
DAY = 86_400 * 10**9
START = 1_767_623_400_000_000_000  # 14:30 UTC of that day
STEP = 250_000_000
HORIZON = 10 * STEP
TICK = 250_000_000
PARTITION = Partition("XCME", DATE, 310)
DATASET, RUN = "book-0", "vit-0"


@dataclass
class Path:
    """Best prices of one instrument after each event."""

    instrument_id: int
    ts: np.ndarray
    bid: np.ndarray
    ask: np.ndarray
    bid_size: np.ndarray
    ask_size: np.ndarray


@dataclass
class Market:
    """What is generated; ``grid`` columns are those of book_tensors that the backtest reads."""

    paths: list[Path]
    grid: list[dict[str, np.ndarray]] = field(default_factory=list)


def path(
    instrument_id: int = 1,
    seconds: int = 400,
    seed: int = 1,
    drift: float = 0.7,
    start: int = START,
    level: int = 27_000,
) -> Path:
    """A walk in ticks whose direction persists for some seconds; about 12 events a second."""
    random = np.random.default_rng(seed)
    n = 12 * seconds
    ts = start + np.sort(random.choice(seconds * 1_000_000, n, replace=False)) * 1_000
    direction = np.sign(random.normal(size=n // 60 + 1)).repeat(60)[:n]
    step = np.where(random.random(n) < 0.3, np.where(random.random(n) < drift, direction, -direction), 0)
    bid = (level + np.cumsum(step).astype(np.int64)) * TICK
    wide = 1 + (random.random(n) < 0.1)
    return Path(
        instrument_id,
        ts.astype(np.int64),
        bid,
        bid + wide * TICK,
        random.integers(1, 9, n),
        random.integers(1, 9, n),
    )


def grid_of(made: Path, broken: tuple[int, int] = (0, 0)) -> dict[str, np.ndarray]:
    """Grid rows; those numbered ``broken`` (first, last + 1) are marked unusable."""
    first = (made.ts[0] // STEP + 1) * STEP
    ts = np.arange(first, made.ts[-1], STEP)
    last = np.searchsorted(made.ts, ts, side="left") - 1
    number = np.arange(len(ts))
    bad = (number >= broken[0]) & (number < broken[1])
    mid = made.bid[last] + made.ask[last]
    return {
        "instrument_id": np.full(len(ts), made.instrument_id, np.int32),
        "ts": ts,
        "segment": np.where(bad, -1, (number >= broken[1]).astype(int)).astype(np.int32),
        "rules": np.where(bad, 64, 0).astype(np.uint16),
        "bid_price": made.bid[last],
        "ask_price": made.ask[last],
        "bid_size": made.bid_size[last],
        "ask_size": made.ask_size[last],
        "ofi": np.sign(np.diff(mid, prepend=mid[0])) * 5,
        "bid_adds": np.zeros(len(ts), np.int32),
        "ask_adds": np.zeros(len(ts), np.int32),
        "buy_volume": np.full(len(ts), 3),
        "sell_volume": np.full(len(ts), 2),
    }


def labels_of(grid: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Move of the mid over the horizon, where both ends lie in one segment."""
    ahead = HORIZON // STEP
    mid = grid["bid_price"] + grid["ask_price"]
    move = (mid[ahead:] - mid[:-ahead]) // TICK
    whole = (grid["segment"][ahead:] == grid["segment"][:-ahead]) & (grid["segment"][:-ahead] >= 0)
    return {
        "instrument_id": grid["instrument_id"][:-ahead][whole],
        "ts": grid["ts"][:-ahead][whole],
        "ts_end": grid["ts"][:-ahead][whole] + HORIZON,
        "move": move[whole].astype(np.int32),
        "label": np.sign(move[whole]).astype(np.int8),
    }


def scores_of(
    grid: dict[str, np.ndarray], model: str = "vit", skill: float = 0.8, seed: int = 3, window: int = 8
) -> dict[str, np.ndarray]:
    """Probabilities that know the label with some skill; the last 40 % of the time is the test period."""
    random = np.random.default_rng(seed)
    ahead = HORIZON // STEP
    mid = grid["bid_price"] + grid["ask_price"]
    move = np.sign(np.append(mid[ahead:], np.full(ahead, mid[-1])) - mid)
    known = random.random(len(mid)) < skill
    direction = np.where(known, move, random.integers(-1, 2, len(mid)))
    p = np.full((len(mid), 3), 0.05)
    p[np.arange(len(mid)), direction.astype(int) + 1] = 0.9
    inside = grid["segment"] >= 0
    run = np.array([inside[max(0, i - window) : i + 1].sum() for i in range(len(inside))])
    keep = inside & (run > window) | (inside & (np.arange(len(inside)) == window))
    split = np.select([np.arange(len(mid)) < 0.5 * len(mid), np.arange(len(mid)) < 0.6 * len(mid)],
                      ["train", "validation"], "test")  # fmt: skip
    return {
        "model": np.full(keep.sum(), model),
        "instrument_id": grid["instrument_id"][keep],
        "ts": grid["ts"][keep],
        "p_down": p[keep, 0],
        "p_flat": p[keep, 1],
        "p_up": p[keep, 2],
        "split": split[keep],
    }


def mbo_of(paths: list[Path], first_order: int = 1) -> dict[str, np.ndarray]:
    """Two rows an event: the bid order and the ask order change; the second ends the event."""
    parts = []
    for made in paths:
        n = len(made.ts)
        parts.append(
            {
                "ts_sent": made.ts.repeat(2),
                "instrument_id": np.full(2 * n, made.instrument_id, np.int32),
                "order_id": np.tile([first_order, first_order + 1], n).astype(np.uint64)
                + np.uint64(10 * made.instrument_id),
                "price": np.stack([made.bid, made.ask], 1).ravel(),
                "size": np.stack([made.bid_size, made.ask_size], 1).ravel(),
                "action": np.full(2 * n, Action.CHANGE, np.uint8),
                "side": np.tile([Side.BUY, Side.SELL], n).astype(np.uint8),
                "event_flags": np.tile([0, EventFlag.END], n).astype(np.uint8),
                "entry_index": np.tile([0, 1], n).astype(np.uint8),
            }
        )
        parts[-1]["action"][:2] = Action.NEW
    rows = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    order = np.lexsort((rows["entry_index"], rows["instrument_id"], rows["ts_sent"]))
    rows = {name: values[order] for name, values in rows.items()}
    rows["seq"] = (np.arange(len(order)) // 2 + 1).astype(np.uint32)
    return rows


def table(schema: pa.Schema, columns: dict[str, object], **constant: object) -> pa.Table:
    """Rows of a schema; columns that are not given are null."""
    n = len(next(iter(columns.values())))  # type: ignore[arg-type]
    made = {name: np.full(n, value) for name, value in constant.items()} | columns
    return pa.table(
        [pa.array(made[f.name]).cast(f.type) if f.name in made else pa.nulls(n, f.type) for f in schema],
        schema=schema,
    )


def definitions(
    ids: list[int], multiplier: int = 50_000_000_000, currency: str | None = "USD", channel: int = 310
) -> pa.Table:
    return table(
        DEFINITIONS.arrow,
        {"instrument_id": np.array(ids, np.int32), "symbol": np.array([f"S{i}" for i in ids])},
        ts_sent=START - 10**9,
        venue="XCME",
        channel=channel,
        epoch=2026010400,
        seq=1,
        msg_index=0,
        entry_index=0,
        update_action=ord("A"),
        currency=currency,
        tick=TICK,
        multiplier=multiplier,
    )


def orders_table(rows: dict[str, np.ndarray], channel: int = 310) -> pa.Table:
    """Rows of `mbo_of` with everything that they leave open."""
    times = {"ts_event": rows["ts_sent"], "ts_recv": rows["ts_sent"]}
    return table(
        MBO.arrow,
        times | rows,
        venue="XCME",
        channel=channel,
        epoch=2026010400,
        msg_index=0,
        priority=1,
        row_flags=0,
    )


def add_channel(archive: Archive, made: Path, channel: int) -> None:
    """Orders and definition of an instrument on a channel of its own."""
    partition = Partition("XCME", DATE, channel)
    archive.commit("mbo", partition, {"a": orders_table(mbo_of([made]), channel)})
    archive.commit("definitions", partition, {"a": definitions([made.instrument_id], channel=channel)})


def write(
    uri: str,
    paths: list[Path],
    grids: list[dict[str, np.ndarray]] | None = None,
    scores: list[dict[str, np.ndarray]] | None = None,
    orders: dict[str, np.ndarray] | None = None,
) -> Archive:
    """All tables that a backtest reads, in a new archive."""
    archive = open_archive(uri)
    grids = [grid_of(p) for p in paths] if grids is None else grids
    scores = [scores_of(g) for g in grids] if scores is None else scores
    rows = mbo_of(paths) if orders is None else orders
    archive.commit("mbo", PARTITION, {"a": orders_table(rows)})
    archive.commit("definitions", PARTITION, {"a": definitions([p.instrument_id for p in paths])})
    dataset = DatasetPartition(DATASET, DATE)
    archive.commit("book_tensors", dataset, {"XCME-310": table(BOOK_TENSORS.arrow, _joined(grids))})
    archive.commit(
        "labels", dataset, {"XCME-310": table(LABELS.arrow, _joined([labels_of(g) for g in grids]))}
    )
    archive.commit("scores", RunPartition(RUN), {"all": table(SCORES.arrow, _joined(scores))})
    return archive


def write_days(uri: str, days: dict[datetime.date, Path]) -> Archive:
    """One instrument on several dates of a week: one epoch, packets from 1 and new orders on each.

    The last 40 % of all rows are the test period.
    """
    archive = open_archive(uri)
    grids = [grid_of(made) for made in days.values()]
    for number, (date, made) in enumerate(days.items()):
        orders = orders_table(mbo_of([made], first_order=1 + 2 * number))
        archive.commit("mbo", replace(PARTITION, date=date), {"a": orders})
        dataset = DatasetPartition(DATASET, date)
        archive.commit("book_tensors", dataset, {"XCME-310": table(BOOK_TENSORS.arrow, grids[number])})
        labels = table(LABELS.arrow, labels_of(grids[number]))
        archive.commit("labels", dataset, {"XCME-310": labels})
    archive.commit("definitions", PARTITION, {"a": definitions([1])})
    archive.commit("scores", RunPartition(RUN), {"all": table(SCORES.arrow, scores_of(_joined(grids)))})
    return archive


def add_rows(
    archive: Archive,
    date: datetime.date,
    stem: str,
    grid: dict[str, np.ndarray],
    scores: dict[str, np.ndarray],
) -> None:
    """More instruments in the dataset, and their scores."""
    dataset = DatasetPartition(DATASET, date)
    archive.commit("book_tensors", dataset, {stem: table(BOOK_TENSORS.arrow, grid)})
    archive.commit("labels", dataset, {stem: table(LABELS.arrow, labels_of(grid))})
    archive.commit("scores", RunPartition(RUN), {stem: table(SCORES.arrow, scores)})


def _joined(parts: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

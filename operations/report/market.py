"""The market: quotes, trades and books of each instrument, rebuilt from the stored rows.

Prices are int64 in 1e-9 of the quote currency, sizes lots, times ns since the UNIX epoch, venue's clock.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from operations.report.arrival import integers
from operations.report.wording import places
from workloads.ticks.archive import Archive
from workloads.ticks.codes import RowFlag, Side
from workloads.ticks.order_book import NULL_PRICE, Depth, OrderBooks, event_ends
from workloads.ticks.price_book import PriceBooks

LEVELS = 10
"""Levels of each side that count as depth."""
MOST_INSTRUMENTS = 12
"""Instruments with charts; the others are in the table only."""
SAMPLES = 500
"""Looks at the price books after a loss."""

_ORDER = ("epoch", "seq", "msg_index", "entry_index")
_MBO = (
    *_ORDER,
    *("ts_event", "ts_sent", "instrument_id", "order_id", "price", "size", "action", "side", "priority"),
    *("event_flags", "row_flags"),
)
_MBP = (
    *_ORDER,
    *("ts_event", "ts_sent", "instrument_id", "price", "size", "orders", "level", "action"),
    *("entry_type", "rpt_seq", "event_flags", "row_flags"),
)
_TRADES = (
    *_ORDER,
    *("ts_event", "ts_sent", "instrument_id", "price", "size", "aggressor", "action", "event_flags"),
)
_MARKS = ("epoch", "seq", "msg_index", "event_flags")


@dataclass(frozen=True)
class Quotes:
    """The top of one book over time: n looks, ascending. NaN where a side is empty or the book is crossed."""

    ts: NDArray[np.int64]
    bid: NDArray[np.float64]
    """Price in units of 1."""
    ask: NDArray[np.float64]
    bid_total: NDArray[np.float64]
    """Lots in the best `LEVELS` levels."""
    ask_total: NDArray[np.float64]
    spread: NDArray[np.float64]
    """Price in 1e-9, so that ticks are counted exactly."""


@dataclass(frozen=True)
class Trades:
    """n trades, ascending by time."""

    ts: NDArray[np.int64]
    price: NDArray[np.int64]
    size: NDArray[np.int64]
    aggressor: NDArray[np.int64]


@dataclass(frozen=True)
class Instrument:
    """One instrument of the run."""

    instrument_id: int
    symbol: str
    currency: str
    tick: int | None
    places: int
    """Decimal places of its prices."""
    unscaled: bool
    """No definition was known: prices are in wire units."""
    trades: Trades
    volume: int
    quotes: Quotes | None = None
    depth: Depth | None = None
    """At the end of the run."""
    mended_from: int | None = None
    """From here on the quotes come from the price levels, because a lost packet put the orders in doubt."""
    crossed: int = 0
    """Looks at the book that found it crossed; they are left out of the charts."""
    crossed_in_trading: int = 0
    """Those of them since its first trade: before an opening, orders may cross until the auction."""


@dataclass(frozen=True)
class Market:
    """All instruments, the most traded (lots) first."""

    instruments: list[Instrument] = field(default_factory=list)
    books: dict[str, int] = field(default_factory=dict)
    """Counters of the order books rebuilt from the stored rows; empty where there are none."""
    live_orders: int = 0
    messages: list[tuple[int, int, int]] = field(default_factory=list)
    """(template, messages, rows) of the incremental feed, the most frequent first."""


def market(archive: Archive) -> Market:
    """Read the market tables and rebuild the books."""
    tables = set(archive.tables())
    mbo = _read(archive, "mbo", _MBO) if "mbo" in tables else None
    mbp = _read(archive, "mbp", _MBP) if "mbp" in tables else None
    trades = _read(archive, "trades", _TRADES) if "trades" in tables else None
    facts = _definitions(archive) if "definitions" in tables else {}
    by_trades = _trades(trades) if trades is not None else {}
    seen: set[int] = set(facts) | set(by_trades)
    for rows in (mbo, mbp):
        if rows is not None:
            seen |= set(pc.unique(rows["instrument_id"]).to_pylist()) - {None}
    volume = {i: int(t.size.sum()) for i, t in by_trades.items()}
    activity = _activity(mbo)
    ranked = sorted(seen, key=lambda i: (-volume.get(i, 0), -activity.get(i, 0), i))
    charted = [i for i in ranked if activity.get(i) or i in by_trades][:MOST_INSTRUMENTS]
    books = OrderBooks()
    quotes: dict[int, Quotes] = {}
    crossed: dict[int, NDArray[np.int64]] = {}
    if mbo is not None:
        quotes, crossed = _quotes(mbo, [t for t in (mbp, trades) if t is not None], archive, books, charted)
    stale = _first_stale(mbo)
    levels: PriceBooks | None = None
    if stale is not None and mbp is not None:
        levels, later = _sampled(mbp, stale, charted)
        for i, (after, bad) in later.items():
            quotes[i] = _joined(quotes.get(i), after, stale)
            crossed[i] = bad
    instruments = []
    for i in ranked:
        fact = facts.get(i, {})
        mine = by_trades.get(i, _NO_TRADES)
        tick = fact.get("tick") or _step(mine.price, quotes.get(i))
        instruments.append(
            Instrument(
                instrument_id=i,
                symbol=fact.get("symbol") or f"instrument {i}",
                currency=fact.get("currency") or "",
                tick=tick,
                places=places(tick) if tick else 2,
                unscaled=not fact,
                trades=mine,
                volume=volume.get(i, 0),
                quotes=quotes.get(i),
                depth=_depth(i, books, levels),
                mended_from=stale if levels is not None and i in quotes else None,
                crossed=len(crossed.get(i, _NO_TIMES)),
                crossed_in_trading=_since_first_trade(crossed.get(i, _NO_TIMES), mine),
            )
        )
    return Market(
        instruments=instruments,
        books=books.counters if mbo is not None else {},
        live_orders=books.live_orders,
        messages=_messages(archive, tables),
    )


def weights(ts: NDArray[np.int64], end: int) -> NDArray[np.int64]:
    """How long each look at a book was the latest one, ns."""
    return np.diff(ts, append=max(end, int(ts[-1]) if len(ts) else end))


def _since_first_trade(ts: NDArray[np.int64], trades: Trades) -> int:
    """How many of these times lie at or behind the instrument's first trade."""
    return int((ts >= trades.ts[0]).sum()) if len(trades.ts) else 0


_NO_TIMES = np.zeros(0, np.int64)
_NO_TRADES = Trades(*(np.zeros(0, np.int64) for _ in range(4)))


def _read(archive: Archive, table: str, columns: tuple[str, ...]) -> pa.Table:
    """The rows in the venue's order; late packets are stored behind it."""
    rows = archive.read(table, columns=columns)
    place = (integers(rows, "epoch") << 32) | integers(rows, "seq")
    entry = (integers(rows, "msg_index") << 8) | integers(rows, "entry_index")
    if np.any((np.diff(place) < 0) | ((np.diff(place) == 0) & (np.diff(entry) < 0))):
        rows = rows.take(pa.array(np.lexsort((entry, place))))
    return rows.combine_chunks()


def _times(rows: pa.Table) -> NDArray[np.int64]:
    """``ts_event``, or ``ts_sent`` where the venue gives none; never falling."""
    ts = integers(rows, "ts_event")
    ts = np.where(ts == 0, integers(rows, "ts_sent"), ts)
    return np.maximum.accumulate(ts) if len(ts) else ts


def _definitions(archive: Archive) -> dict[int, dict[str, Any]]:
    """The last definition of each instrument."""
    rows = archive.read("definitions", columns=["ts_sent", "instrument_id", "symbol", "currency", "tick"])
    out: dict[int, dict[str, Any]] = {}
    for row in rows.sort_by("ts_sent").to_pylist():
        if row["instrument_id"] is not None:
            out[row["instrument_id"]] = row
    return out


def _trades(rows: pa.Table) -> dict[int, Trades]:
    """By instrument. Corrected and cancelled trades (an action other than New) are left out."""
    usable = pc.and_(pc.is_valid(rows["instrument_id"]), pc.is_valid(rows["price"]))
    usable = pc.and_(usable, pc.equal(pc.fill_null(rows["action"], 0), 0))
    rows = rows.filter(usable)
    ids, ts = integers(rows, "instrument_id"), _times(rows)
    columns = [ts, integers(rows, "price"), integers(rows, "size"), integers(rows, "aggressor")]
    return {int(i): Trades(*(values[ids == i] for values in columns)) for i in np.unique(ids)}


def _activity(mbo: pa.Table | None) -> dict[int, int]:
    if mbo is None:
        return {}
    counted = pc.value_counts(mbo["instrument_id"])
    return {row["values"]: row["counts"] for row in counted.to_pylist() if row["values"] is not None}


def _quotes(
    mbo: pa.Table, others: list[pa.Table], archive: Archive, books: OrderBooks, wanted: list[int]
) -> tuple[dict[int, Quotes], dict[int, NDArray[np.int64]]]:
    """Tops of the order books at each end of an event, and when they were crossed, by instrument.

    An epoch starts with empty books. While the venue refills them (recovery rows, whose times lie in the
    past) nobody looks.
    """
    if "statistics" in archive.tables():
        others = [*others, archive.read("statistics", columns=_MARKS)]
    ends = event_ends(mbo, *others)
    ts, epoch = _times(mbo), integers(mbo, "epoch")
    parts = []
    starts = np.flatnonzero(np.diff(epoch, prepend=-1))
    for start, stop in zip(starts, np.append(starts[1:], len(epoch)), strict=True):
        books.clear()
        tops = books.tops(mbo.slice(start, stop - start), LEVELS, ends[start:stop])
        tops["row"] += start
        parts.append(tops)
    if not parts:
        return {}, {}
    tops = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    quotes, crossed = {}, {}
    looked = (integers(mbo, "row_flags")[tops["row"]] & int(RowFlag.RECOVERY)) == 0
    for i in wanted:
        mine = np.flatnonzero((tops["instrument_id"] == i) & looked)
        if not len(mine):
            continue
        names = ("bid_price", "ask_price", "bid_total", "ask_total")
        quotes[i], crossed[i] = _clean(ts[tops["row"][mine]], *(tops[name][mine] for name in names))
    return quotes, crossed


def _clean(
    ts: NDArray[np.int64],
    bid: NDArray[np.int64],
    ask: NDArray[np.int64],
    bid_total: NDArray[np.int64],
    ask_total: NDArray[np.int64],
) -> tuple[Quotes, NDArray[np.int64]]:
    """Null and crossed prices as NaN; when the book was crossed."""
    no_bid, no_ask = bid == NULL_PRICE, ask == NULL_PRICE
    crossed = ~no_bid & ~no_ask & (bid >= ask)
    two_sided = ~no_bid & ~no_ask & ~crossed
    spread = np.where(two_sided, ask - np.where(two_sided, bid, 0), 0).astype(np.float64)
    return Quotes(
        ts=ts,
        bid=np.where(no_bid | crossed, np.nan, bid / 1e9),
        ask=np.where(no_ask | crossed, np.nan, ask / 1e9),
        bid_total=bid_total.astype(np.float64),
        ask_total=ask_total.astype(np.float64),
        spread=np.where(two_sided, spread, np.nan),
    ), ts[crossed]


def _first_stale(mbo: pa.Table | None) -> int | None:
    """When the first order row came that follows a lost packet."""
    if mbo is None:
        return None
    rows = np.flatnonzero(integers(mbo, "row_flags") & int(RowFlag.STALE))
    return int(_times(mbo)[rows[0]]) if len(rows) else None


def _sampled(
    mbp: pa.Table, start: int, wanted: list[int]
) -> tuple[PriceBooks, dict[int, tuple[Quotes, NDArray[np.int64]]]]:
    """The price books after a loss, looked at `SAMPLES` times: a level is right again at its next update."""
    ts, epoch = _times(mbp), integers(mbp, "epoch")
    books = PriceBooks()
    columns = mbp.drop_columns(["ts_event", "ts_sent", "epoch", "seq", "msg_index", "entry_index"])
    stop = int(ts[-1]) + 1 if len(ts) else start
    looks = start + np.linspace(0, max(stop - start, 1), SAMPLES).astype(np.int64)
    # Where nothing came between two looks, the first one counts.
    cuts = {
        n: look
        for look, n in zip(looks.tolist()[::-1], np.searchsorted(ts, looks).tolist()[::-1], strict=True)
    }
    resets = set((np.flatnonzero(np.diff(epoch)) + 1).tolist())
    found: dict[int, list[tuple[int, ...]]] = {i: [] for i in wanted}
    at = 0
    for row in sorted({*cuts, *resets}):
        books.apply(columns.slice(at, row - at))
        at = row
        for i in wanted if row in cuts else ():
            depth = books.depth(i, LEVELS)
            bid = int(depth.bid_price[0]) if len(depth.bid_price) else NULL_PRICE
            ask = int(depth.ask_price[0]) if len(depth.ask_price) else NULL_PRICE
            totals = (int(depth.bid_size.sum()), int(depth.ask_size.sum()))
            found[i].append((cuts[row], bid, ask, *totals))
        if row in resets:
            books.clear()
    out = {}
    for i, looked in found.items():
        if looked:
            columns_of = np.array(looked, np.int64).T
            out[i] = _clean(*(np.ascontiguousarray(c) for c in columns_of))
    return books, out


def _joined(before: Quotes | None, after: Quotes, at: int) -> Quotes:
    """The one up to ``at`` (exclusive), then the other."""
    if before is None:
        return after
    n = int(np.searchsorted(before.ts, at))
    return Quotes(
        **{name: np.concatenate([values[:n], getattr(after, name)]) for name, values in vars(before).items()}
    )


def _depth(i: int, books: OrderBooks, levels: PriceBooks | None) -> Depth | None:
    depth = levels.depth(i, LEVELS) if levels is not None else books.depth(i, LEVELS)
    return depth if len(depth.bid_price) or len(depth.ask_price) else None


def _step(prices: NDArray[np.int64], quotes: Quotes | None) -> int | None:
    """The coarsest grid on which all prices lie, for an instrument without a tick."""
    values = prices
    if quotes is not None:
        quoted = np.concatenate([quotes.bid, quotes.ask])
        values = np.concatenate([prices, np.rint(quoted[~np.isnan(quoted)] * 1e9).astype(np.int64)])
    step = int(np.gcd.reduce(np.abs(values))) if len(values) else 0
    return step or None


def _messages(archive: Archive, tables: set[str]) -> list[tuple[int, int, int]]:
    """Distinct messages and rows by template. A message may have rows in several tables."""
    places_of, templates, rows_of = [], [], []
    for table in (
        *("mbo", "mbp", "trades", "trade_orders"),
        *("statistics", "limits", "status", "definitions"),
    ):
        if table not in tables:
            continue
        rows = archive.read(table, columns=["epoch", "seq", "msg_index", "template"])
        template = integers(rows, "template")
        epoch = integers(rows, "epoch")
        place = (np.searchsorted(np.unique(epoch), epoch).astype(np.int64) << 48) | (
            (integers(rows, "seq") << 16) | integers(rows, "msg_index")
        )
        rows_of.append(np.bincount(template, minlength=256))
        first = np.flatnonzero(np.diff(place, prepend=-1))  # rows of a message lie together
        places_of.append(place[first])
        templates.append(template[first])
    if not places_of:
        return []
    _, first = np.unique(np.concatenate(places_of), return_index=True)
    messages = np.bincount(np.concatenate(templates)[first], minlength=256)
    rows_by_template = np.sum(rows_of, axis=0)
    return [
        (int(t), int(messages[t]), int(rows_by_template[t]))
        for t in np.argsort(-messages, kind="stable")
        if messages[t]
    ]


def aggressors(trades: Trades) -> dict[str, NDArray[np.bool_]]:
    """Which trades the buyer started, the seller, or nobody (an auction)."""
    return {
        "Buyer": trades.aggressor == Side.BUY,
        "Seller": trades.aggressor == Side.SELL,
        "Neither": (trades.aggressor != Side.BUY) & (trades.aggressor != Side.SELL),
    }

"""Which rows and books are fit to build features from, by stated rules: docs/cleaning.md gives the reasons.

Nothing is taken out of a market table: a row that a rule touches is written to `flagged` with the rules'
bits, and counted in `cleaning`. What a rule says of a row depends on what was sent up to that row's packet,
never on what came later. Time is the market's: ``ts_sent``, the instant from which a row is known.

How the parts are used on one partition, in stored order::

    mending = read_mending(archive, partition)
    cleaner = Cleaner(rules, venue, date, definitions, limits, status, mending)
    for rows in batches of mbo:
        flags = cleaner.mbo(rows)
        kept = rows.filter(~flags.excluded)
        merged, origin = mending.merge(kept)
        tops = books.tops(merged, ends=event_ends(merged, ...))
        flags.add(flags.rows(origin[tops["row"]]), cleaner.books(merged, tops))
        counts.add("mbo", rows, flags); flagged_table("mbo", rows, flags)
        and of the trades that were sent meanwhile: cleaner.trades(...)
"""

import datetime
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import ConfigDict

from workloads.features.mending import Mending, nanoseconds, places_of
from workloads.ticks.codes import Action, CleaningRule, RowFlag, TradingStatus
from workloads.ticks.definitions import DELETED
from workloads.ticks.order_book import NULL_INSTRUMENT, NULL_PRICE, column
from workloads.ticks.schema import CLEANING, FLAGGED
from workloads.ticks.sessions import MissingSessionError, session

RULES = tuple(str(rule.name).lower() for rule in CleaningRule)
"""Names of the rules, by bit."""
ALL_ROWS = "rows"
"""Stands in `cleaning` for every row that was read."""

_MBO_RULES = ("duplicate", "stale", "out_of_band", "closed", "unscaled")
_TRADE_RULES = (*_MBO_RULES, "outlier")
_BOOK_RULES = ("crossed", "locked", "empty", "stale", "gap", "closed", "unscaled")
_HIGHEST, _LOWEST = np.iinfo(np.int64).max, np.iinfo(np.int64).min


@dataclass(frozen=True)
class Rules:
    """Thresholds of the rules, and which rules leave something out."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    band_margin_ticks: int = 0
    """How far outside the venue's limits a price may lie."""
    outlier_ticks: int = 20
    """How far outside the best prices of the book before it a trade may lie."""
    session_edge_ns: int = 0
    """Also closed: this long behind the session's open, and before its close."""
    exclude_mbo: tuple[str, ...] = ("duplicate", "stale", "out_of_band", "unscaled")
    """Rules by which an order row doesn't reach the books. Not all that they touch is left out: the addition
    of a live order stays, and of stale rows only those that came late are left out."""
    exclude_trades: tuple[str, ...] = _TRADE_RULES
    """Rules by which a trade counts in no bar and no flow. Of stale ones only those that came late."""
    unusable_books: tuple[str, ...] = _BOOK_RULES
    """Rules by which the book at a grid time is not used."""

    def __post_init__(self) -> None:
        for name in ("band_margin_ticks", "outlier_ticks", "session_edge_ns"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be 0 or more, not {getattr(self, name)}")
        known = {"exclude_mbo": _MBO_RULES, "exclude_trades": _TRADE_RULES, "unusable_books": _BOOK_RULES}
        for name, rules in known.items():
            if wrong := set(getattr(self, name)) - set(rules):
                raise ValueError(f"{name} takes {', '.join(rules)}; not {', '.join(sorted(wrong))}")


@dataclass(frozen=True, eq=False)
class Flags:
    """What cleaning says of n rows, in their order."""

    rules: NDArray[np.uint16]
    """codes.CleaningRule bits; 0: no rule touched the row."""
    excluded: NDArray[np.bool_]

    def rows(self, kept: NDArray[np.int64]) -> NDArray[np.int64]:
        """Rows by their number among those that are not excluded; -1 stays -1."""
        found: NDArray[np.int64] = np.append(np.flatnonzero(~self.excluded), -1)[kept]
        return found

    def add(self, row: NDArray[np.int64], rules: NDArray[np.uint16]) -> None:
        """Or ``rules`` into rows; several may name one row, -1 names none. Excludes nothing."""
        there = row >= 0
        np.bitwise_or.at(self.rules, row[there], rules[there])


def book_rules(tops: Mapping[str, NDArray[Any]]) -> NDArray[np.uint16]:
    """CROSSED, LOCKED, EMPTY of each top of book that `OrderBooks.tops` gave.

    The book stays so from the end of its event (``ts_sent`` of row ``row``) to the instrument's next top.
    """
    bid, ask = tops["bid_price"], tops["ask_price"]
    empty = (bid == NULL_PRICE) | (ask == NULL_PRICE)
    return _bits(
        (CleaningRule.EMPTY, empty),
        (CleaningRule.CROSSED, ~empty & (bid > ask)),
        (CleaningRule.LOCKED, ~empty & (bid == ask)),
    )


class Cleaner:
    """Applies the rules to the rows of one partition, batch by batch, in stored order.

    Parameters
    ----------
    rules : thresholds
    venue, date : of the partition; they choose the session
    definitions, limits, status : tables of the channel, those of earlier dates with them
        Held whole. In force at a row is what was sent up to and with its packet.
    mending : of the same partition
    """

    def __init__(
        self,
        rules: Rules,
        venue: str,
        date: datetime.date,
        definitions: pa.Table,
        limits: pa.Table,
        status: pa.Table,
        mending: Mending,
    ) -> None:
        self.rules = rules
        self._mending = mending
        self._sessions = _open_times(venue, date, rules.session_edge_ns)
        self._ticks = _ticks(definitions)
        self._limits = _limits_in_force(limits, definitions)
        self._status = _status_in_force(status, definitions)
        self._live = _LiveOrders()
        self._last: dict[str, tuple[int, int]] = {}
        self._tops = _Tops()

    def mbo(self, rows: pa.Table) -> Flags:
        """Flags of the next order rows."""
        read = _Read.of(rows)
        action = column(rows, "action", np.uint8, 255)
        stale = self._mending.rows_stale(read.instrument_id, read.place, read.ts)
        repeated = self._repeated("mbo", read)
        unscaled = (action != Action.RESET) & self._unscaled(read)
        adds = (action == Action.NEW) | (action == Action.CHANGE)
        outside = adds & ~unscaled & self._out_of_band(read)
        excluded = self._excluded(
            self.rules.exclude_mbo,
            (CleaningRule.DUPLICATE, repeated),
            (CleaningRule.STALE, read.late),
            (CleaningRule.UNSCALED, unscaled),
            (CleaningRule.OUT_OF_BAND, outside),
            (CleaningRule.CLOSED, closed := self._closed(read.instrument_id, read.ts)),
        )
        again = self._live.again(rows, read, action, ~excluded, self._mending.resets.place)
        flags = _bits(
            (CleaningRule.DUPLICATE, repeated | again),
            (CleaningRule.STALE, stale | read.late),
            (CleaningRule.UNSCALED, unscaled),
            (CleaningRule.OUT_OF_BAND, outside),
            (CleaningRule.CLOSED, closed),
        )
        return Flags(flags, excluded)

    def books(self, rows: pa.Table, tops: Mapping[str, NDArray[Any]]) -> NDArray[np.uint16]:
        """`book_rules` of the tops that ``rows`` led to, 0 for stale books: they are not judged. `trades`
        will look at these tops.

        Parameters
        ----------
        rows : the rows that the books took, mending rows among them
        tops : what `OrderBooks.tops` made of them
        """
        ids, row = tops["instrument_id"], tops["row"]
        ts = nanoseconds(rows, "ts_sent")[row]
        self._tops.add(ts, tops)
        stale = self._mending.rows_stale(ids, places_of(rows)[row], ts)
        return np.where(stale, np.uint16(0), book_rules(tops))

    def trades(self, rows: pa.Table) -> Flags:
        """Flags of the next trades, once `books` has seen the order rows of every earlier packet.

        Batches of order rows and of trades may be cut anywhere, as long as those come first.
        """
        read = _Read.of(rows)
        stale = self._mending.rows_stale(read.instrument_id, read.place, read.ts)
        unscaled = self._unscaled(read)
        found = (
            (CleaningRule.DUPLICATE, self._repeated("trades", read)),
            (CleaningRule.UNSCALED, unscaled),
            (CleaningRule.OUT_OF_BAND, ~unscaled & self._out_of_band(read)),
            (CleaningRule.OUTLIER, ~unscaled & ~stale & self._outlying(read)),
            (CleaningRule.CLOSED, self._closed(read.instrument_id, read.ts)),
        )
        excluded = self._excluded(self.rules.exclude_trades, *found, (CleaningRule.STALE, read.late))
        return Flags(_bits(*found, (CleaningRule.STALE, stale | read.late)), excluded)

    def grid(
        self, instrument_id: NDArray[np.int32], ts: NDArray[np.int64], step_ns: int
    ) -> NDArray[np.uint16]:
        """STALE, GAP, CLOSED, UNSCALED of books at grid times: each of what was sent before ``ts``, ns.

        GAP: in [ts - step_ns, ts) it became known that packets were lost.
        """
        before = ts - 1
        return _bits(
            (CleaningRule.STALE, self._mending.times_stale(instrument_id, ts)),
            (CleaningRule.GAP, self._mending.gap_known(ts - step_ns, ts)),
            (CleaningRule.CLOSED, self._closed(instrument_id, before)),
            (CleaningRule.UNSCALED, self._ticks.at("tick", instrument_id, before, 0) <= 0),
        )

    def usable(self, rules: NDArray[np.uint16]) -> NDArray[np.bool_]:
        """Which grid rows carry no rule of ``unusable_books``."""
        found: NDArray[np.bool_] = (rules & np.uint16(_mask(self.rules.unusable_books))) == 0
        return found

    def _excluded(
        self, by: tuple[str, ...], *found: tuple[CleaningRule, NDArray[np.bool_]]
    ) -> NDArray[np.bool_]:
        excluded: NDArray[np.bool_] = (_bits(*found) & np.uint16(_mask(by))) != 0
        return excluded

    def _repeated(self, source: str, read: "_Read") -> NDArray[np.bool_]:
        """Rows at or before the last row's place in the sequence: stored order is the order of identities,
        but for late rows, which are not judged."""
        repeated = np.zeros(len(read.place), np.bool_)
        here = np.flatnonzero(~read.late)
        if not len(here):
            return repeated
        before = self._last.get(source, (-1, -1))
        place = np.append(np.uint64(max(before[0], 0)), read.place[here])
        entry = np.append(before[1], read.entry[here])
        forward = (place[1:] > place[:-1]) | ((place[1:] == place[:-1]) & (entry[1:] > entry[:-1]))
        if not forward.all():
            order = np.lexsort((entry, place))
            new = (np.diff(place[order]) != 0) | (np.diff(entry[order]) != 0)
            rank = np.zeros(len(order), np.int64)
            rank[order[1:]] = np.cumsum(new)
            most = np.maximum.accumulate(rank)
            forward = rank[1:] > most[:-1]
            last = int(np.argmax(rank))
        else:
            last = len(here)
        self._last[source] = (int(place[last]), int(entry[last]))
        repeated[here] = ~forward
        return repeated

    def _unscaled(self, read: "_Read") -> NDArray[np.bool_]:
        tick = self._ticks.at("tick", read.instrument_id, read.ts, 0)
        unscaled: NDArray[np.bool_] = read.unscaled | (tick <= 0)
        return unscaled

    def _out_of_band(self, read: "_Read") -> NDArray[np.bool_]:
        margin = self.rules.band_margin_ticks * self._ticks.at("tick", read.instrument_id, read.ts, 0)
        high = self._limits.at("high", read.instrument_id, read.ts, _HIGHEST)
        low = self._limits.at("low", read.instrument_id, read.ts, _LOWEST)
        above = (high != _HIGHEST) & (read.price > high) & (read.price - high > margin)
        below = (low != _LOWEST) & (read.price < low) & (low - read.price > margin)
        outside: NDArray[np.bool_] = (read.price != NULL_PRICE) & (above | below)
        return outside

    def _closed(self, instrument_id: NDArray[np.int32], ts: NDArray[np.int64]) -> NDArray[np.bool_]:
        status = self._status.at("trading_status", instrument_id, ts, TradingStatus.READY)
        opened = np.zeros(len(ts), np.bool_)
        for start, end in self._sessions:
            opened |= (ts >= start) & (ts < end)
        closed: NDArray[np.bool_] = ~opened | (status != TradingStatus.READY)
        return closed

    def _outlying(self, read: "_Read") -> NDArray[np.bool_]:
        bid, ask = self._tops.before(read.instrument_id, read.ts)
        most = self.rules.outlier_ticks * self._ticks.at("tick", read.instrument_id, read.ts, 0)
        there = read.price != NULL_PRICE
        has_bid, has_ask = there & (bid != NULL_PRICE), there & (ask != NULL_PRICE)
        sound = ~(has_bid & has_ask & (bid > ask))
        below = np.where(has_bid, bid, 0) - np.where(has_bid, read.price, 0) > most
        above = np.where(has_ask, read.price, 0) - np.where(has_ask, ask, 0) > most
        outlying: NDArray[np.bool_] = sound & (below | above)
        return outlying


class Counts:
    """How many rows each rule touched, by instrument; becomes the table `cleaning`."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, int], NDArray[np.int64]] = {}
        self._left: list[tuple[int, str, str, int, int]] = []

    def leave_out(self, source: str, rule: str, instrument: int, rows: int) -> None:
        """Count rows that no cleaning rule touched and that were left out all the same."""
        if rows:
            self._left.append((instrument, source, rule, rows, rows))

    def add(self, source: str, rows: pa.Table, flags: Flags) -> None:
        """Count rows of the table ``source``, once their flags are final."""
        ids, code = np.unique(column(rows, "instrument_id", np.int32, NULL_INSTRUMENT), return_inverse=True)
        found = np.zeros((len(ids), len(RULES) + 1, 2), np.int64)
        for bit in range(len(RULES) + 1):
            touched = (flags.rules >> np.uint16(bit)) & 1 != 0 if bit < len(RULES) else slice(None)
            found[:, bit, 0] = np.bincount(code[touched], minlength=len(ids))
            out = code[touched][flags.excluded[touched]]
            found[:, bit, 1] = np.bincount(out, minlength=len(ids))
        for i, instrument in enumerate(ids.tolist()):
            known = self._counts.setdefault((source, instrument), np.zeros_like(found[i]))
            known += found[i]

    def table(self) -> pa.Table:
        """In the schema `cleaning`, by source, rule (all rows first) and instrument."""
        names = (*RULES, ALL_ROWS)
        order = (len(RULES), *range(len(RULES)))
        counted = sorted(self._counts.items())
        rows = [
            (None if instrument == NULL_INSTRUMENT else instrument, source, names[rule], *counts[rule])
            for source in sorted({source for source, _ in self._counts})
            for rule in order
            for (of, instrument), counts in counted
            if of == source and counts[rule][0]
        ]
        rows += sorted(self._left, key=lambda row: (row[1], row[2], row[0]))
        columns = list(zip(*rows, strict=True)) if rows else [()] * len(CLEANING.arrow)
        arrays = [pa.array(values, f.type) for values, f in zip(columns, CLEANING.arrow, strict=True)]
        return pa.table(arrays, schema=CLEANING.arrow)


def flagged_table(source: str, rows: pa.Table, flags: Flags) -> pa.Table:
    """The rows of table ``source`` that a rule touched, in the schema `flagged` and in their order."""
    touched = flags.rules != 0
    found = rows.filter(pa.array(touched))
    n = found.num_rows
    made = {
        "source": pa.DictionaryArray.from_arrays(np.zeros(n, np.int32), pa.array([source])),
        "rules": pa.array(flags.rules[touched]),
        "excluded": pa.array(flags.excluded[touched]),
    }
    arrays = [made.get(f.name, found[f.name] if f.name not in made else None) for f in FLAGGED.arrow]
    return pa.table(arrays, schema=FLAGGED.arrow)


@dataclass(frozen=True, eq=False)
class _Read:
    """The columns of n rows that every rule needs."""

    instrument_id: NDArray[np.int32]
    place: NDArray[np.uint64]
    entry: NDArray[np.int64]
    """Message and entry within the packet, as one number."""
    ts: NDArray[np.int64]
    price: NDArray[np.int64]
    late: NDArray[np.bool_]
    unscaled: NDArray[np.bool_]

    @classmethod
    def of(cls, rows: pa.Table) -> "_Read":
        flags = column(rows, "row_flags", np.uint8, 0)
        message = column(rows, "msg_index", np.uint16, 0).astype(np.int64)
        return cls(
            column(rows, "instrument_id", np.int32, NULL_INSTRUMENT),
            places_of(rows),
            message << 8 | column(rows, "entry_index", np.uint8, 0),
            nanoseconds(rows, "ts_sent"),
            column(rows, "price", np.int64, NULL_PRICE),
            (flags & np.uint8(RowFlag.LATE)) != 0,
            (flags & np.uint8(RowFlag.UNSCALED)) != 0,
        )


class _InForce:
    """Values by instrument, each from a time on until the next of the same instrument."""

    def __init__(
        self, instrument_id: NDArray[Any], ts: NDArray[np.int64], values: Mapping[str, NDArray[np.int64]]
    ) -> None:
        self._ids, self._times = np.unique(instrument_id), np.unique(ts)
        keys = self._key(instrument_id, ts)
        order = np.argsort(keys, kind="stable")
        self._keys = keys[order]
        self._values = {name: column[order] for name, column in values.items()}

    def at(
        self, name: str, instrument_id: NDArray[np.int32], ts: NDArray[np.int64], otherwise: int
    ) -> NDArray[np.int64]:
        """The newest value of each instrument that was there at each time (inclusive)."""
        if not len(self._keys):
            return np.full(len(ts), otherwise, np.int64)
        key = self._key(instrument_id, ts)
        row = np.searchsorted(self._keys, key, side="right") - 1
        known = self._ids[np.minimum(np.searchsorted(self._ids, instrument_id), len(self._ids) - 1)]
        width = len(self._times) + 1
        of_it = (row >= 0) & (known == instrument_id) & (self._keys[row] // width == key // width)
        found: NDArray[np.int64] = np.where(of_it, self._values[name][row], otherwise)
        return found

    def _key(self, instrument_id: NDArray[Any], ts: NDArray[np.int64]) -> NDArray[np.int64]:
        rank = np.searchsorted(self._times, ts, side="right")
        key: NDArray[np.int64] = np.searchsorted(self._ids, instrument_id) * (len(self._times) + 1) + rank
        return key


class _Tops:
    """The newest best prices before a time; forgets those that no later trade will ask for."""

    def __init__(self) -> None:
        self._id = np.zeros(0, np.int32)
        self._ts, self._bid, self._ask = (np.zeros(0, np.int64) for _ in range(3))

    def add(self, ts: NDArray[np.int64], tops: Mapping[str, NDArray[Any]]) -> None:
        self._id = np.concatenate([self._id, tops["instrument_id"]])
        self._ts = np.concatenate([self._ts, ts])
        self._bid = np.concatenate([self._bid, tops["bid_price"]])
        self._ask = np.concatenate([self._ask, tops["ask_price"]])

    def before(
        self, instrument_id: NDArray[np.int32], ts: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(bid, ask) of each instrument before each time, NULL_PRICE where there was none. Later questions
        must not go back behind the earliest of these times."""
        known = _InForce(self._id, self._ts, {"bid": self._bid, "ask": self._ask})
        bid, ask = (known.at(name, instrument_id, ts - 1, NULL_PRICE) for name in ("bid", "ask"))
        if len(ts):
            self._forget(int(ts.min()))
        return bid, ask

    def _forget(self, ts: int) -> None:
        newest = np.zeros(len(self._id), np.bool_)
        old = np.flatnonzero(self._ts < ts)[::-1]
        newest[old[np.unique(self._id[old], return_index=True)[1]]] = True
        keep = newest | (self._ts >= ts)
        self._id, self._ts = self._id[keep], self._ts[keep]
        self._bid, self._ask = self._bid[keep], self._ask[keep]


class _LiveOrders:
    """Orders that rows have added and none has deleted."""

    def __init__(self) -> None:
        self._id, self._order = np.zeros(0, np.int32), np.zeros(0, np.uint64)
        self._place = 0

    def again(
        self,
        rows: pa.Table,
        read: _Read,
        action: NDArray[np.uint8],
        kept: NDArray[np.bool_],
        resets: NDArray[np.uint64],
    ) -> NDArray[np.bool_]:
        """Which of the kept rows add an order that lives. What the venue resends in recovery never does."""
        found = np.zeros(len(kept), np.bool_)
        row = np.flatnonzero(kept)
        if not len(row):
            return found
        order = column(rows, "order_id", np.uint64, 0)[row]
        recovery = (column(rows, "row_flags", np.uint8, 0)[row] & np.uint8(RowFlag.RECOVERY)) != 0
        ids, act, place = read.instrument_id[row], action[row], read.place[row]
        ends = resets[(resets >= np.uint64(self._place)) & (resets <= place[-1])]
        self._place = int(place[-1]) + 1
        everything = np.full(len(ends), NULL_INSTRUMENT)
        own = np.flatnonzero(act == Action.RESET)
        cuts = np.concatenate([np.searchsorted(place, ends), own])
        whose = np.concatenate([everything, ids[own]])
        start = 0
        for i in np.argsort(cuts, kind="stable").tolist():
            part = slice(start, int(cuts[i]))
            found[row[part]] = self._pass(ids[part], order[part], act[part]) & ~recovery[part]
            self._empty(int(whose[i]))
            start = int(cuts[i])
        part = slice(start, len(row))
        found[row[part]] = self._pass(ids[part], order[part], act[part]) & ~recovery[part]
        return found

    def _pass(
        self, ids: NDArray[np.int32], order: NDArray[np.uint64], action: NDArray[np.uint8]
    ) -> NDArray[np.bool_]:
        """Whether each row adds an order that lives; then the orders that live are those after the rows."""
        if not len(ids):
            return np.zeros(0, np.bool_)
        n = len(self._id)
        ids, order = np.concatenate([self._id, ids]), np.concatenate([self._order, order])
        action = np.concatenate([np.full(n, Action.NEW, np.uint8), action])
        sort = np.lexsort((ids, order))
        same = (ids[sort][1:] == ids[sort][:-1]) & (order[sort][1:] == order[sort][:-1])
        lives = (action[sort] == Action.NEW) | (action[sort] == Action.CHANGE)
        again = np.zeros(len(sort), np.bool_)
        again[sort[1:]] = same & lives[:-1] & (action[sort][1:] == Action.NEW)
        alive = sort[np.append(~same, True) & lives]
        self._id, self._order = ids[alive], order[alive]
        return again[n:]

    def _empty(self, instrument: int) -> None:
        kept = self._id != instrument if instrument != NULL_INSTRUMENT else np.zeros(len(self._id), np.bool_)
        self._id, self._order = self._id[kept], self._order[kept]


def _bits(*found: tuple[CleaningRule, NDArray[np.bool_]]) -> NDArray[np.uint16]:
    rules = np.zeros(len(found[0][1]), np.uint16)
    for rule, where in found:
        rules |= where.astype(np.uint16) * np.uint16(rule)
    return rules


def _mask(names: Iterable[str]) -> int:
    return sum(1 << RULES.index(name) for name in set(names))


def _open_times(venue: str, date: datetime.date, edge_ns: int) -> list[tuple[int, int]]:
    """[start, end) of trading; all of time where no calendar knows the date."""
    try:
        hours = session(venue, date)
    except (MissingSessionError, ValueError):
        return [(_LOWEST, _HIGHEST)]
    edges = [hours.open_ns + edge_ns, *(t for pause in hours.breaks for t in pause), hours.close_ns - edge_ns]
    return list(zip(edges[::2], edges[1::2], strict=True))


def _sent(rows: pa.Table) -> pa.Table:
    """Rows with a time, that did not come late."""
    late = pc.bit_wise_and(rows["row_flags"], pa.scalar(int(RowFlag.LATE), pa.uint8()))
    return rows.filter(pc.and_(pc.is_valid(rows["ts_sent"]), pc.equal(pc.fill_null(late, 0), 0)))


def _quoted(rows: pa.Table) -> NDArray[np.bool_]:
    quoted: NDArray[np.bool_] = (column(rows, "row_flags", np.uint8, 0) & np.uint8(RowFlag.UNSCALED)) == 0
    return quoted


def _ticks(definitions: pa.Table) -> _InForce:
    """Tick of each instrument; 0 where its definition gives none, or was deleted."""
    rows = _sent(definitions)
    defined = _quoted(rows) & (column(rows, "update_action", np.uint8, 0) != DELETED)
    tick = np.where(defined, column(rows, "tick", np.int64, 0), 0)
    ids = column(rows, "instrument_id", np.int32, NULL_INSTRUMENT)
    return _InForce(ids, nanoseconds(rows, "ts_sent"), {"tick": tick})


def _limits_in_force(limits: pa.Table, definitions: pa.Table) -> _InForce:
    """High and low of each instrument, from whatever was sent last: a limits message, or a definition that
    gives one of them."""
    parts = []
    for rows, high, low in ((_sent(definitions), "high_limit", "low_limit"), (_sent(limits), "high", "low")):
        most, least = column(rows, high, np.int64, _HIGHEST), column(rows, low, np.int64, _LOWEST)
        said = _quoted(rows)
        if high == "high_limit":
            said &= (most != _HIGHEST) | (least != _LOWEST)
        ids = column(rows, "instrument_id", np.int32, NULL_INSTRUMENT)
        parts.append(tuple(v[said] for v in (ids, nanoseconds(rows, "ts_sent"), most, least)))
    ids, ts, most, least = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    return _InForce(ids, ts, {"high": most, "low": least})


def _status_in_force(status: pa.Table, definitions: pa.Table) -> _InForce:
    """Trading status of each instrument; one of a group or asset goes to every instrument of it."""
    rows = _sent(status)
    said = column(rows, "trading_status", np.uint8, TradingStatus.NO_CHANGE)
    rows = rows.filter(pa.array(said != TradingStatus.NO_CHANGE))
    said = said[said != TradingStatus.NO_CHANGE].astype(np.int64)
    ids, ts = column(rows, "instrument_id", np.int32, NULL_INSTRUMENT), nanoseconds(rows, "ts_sent")
    own = ids != NULL_INSTRUMENT
    parts = [(ids[own], ts[own], said[own])]
    names = ("security_group", "asset")
    members = definitions.select(["instrument_id", *names]).group_by(["instrument_id", *names]).aggregate([])
    of = column(members, "instrument_id", np.int32, NULL_INSTRUMENT)
    theirs, wanted = ([_texts(table[name]) for name in names] for table in (members, rows))
    groups = sorted({pair for pair, alone in zip(zip(*wanted, strict=True), own, strict=True) if not alone})
    for group in groups:
        inside = np.ones(len(of), np.bool_)
        named = ~own
        for name, members_have, rows_say in zip(group, theirs, wanted, strict=True):
            inside &= (members_have == name) | (name == "")
            named &= rows_say == name
        each = np.unique(of[inside])
        n = int(named.sum())
        parts.append((np.tile(each, n), np.repeat(ts[named], len(each)), np.repeat(said[named], len(each))))
    ids, ts, said = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    order = np.argsort(ts, kind="stable")
    return _InForce(ids[order], ts[order], {"trading_status": said[order]})


def _texts(names: pa.ChunkedArray) -> NDArray[np.object_]:
    """Names as objects; null is empty."""
    found: NDArray[np.object_] = pc.fill_null(names.cast(pa.string()), "").to_numpy(zero_copy_only=False)
    return found

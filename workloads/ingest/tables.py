"""From decoded columns to the market tables: rows get their packet's identity and times, prices are quoted.

One batch in, one Arrow table a market table and partition out. Nothing here knows of files.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from workloads.exchange import mdp3
from workloads.exchange.decode import Columns, Decoded
from workloads.exchange.reference import Groups, Roots, definition_groups, null_of, roots
from workloads.ingest.arbitration import FROM_B, LATE, LOSS, RESTART, Accepted
from workloads.ingest.instruments import DisplayFactors
from workloads.ticks.codes import EventFlag, RowFlag
from workloads.ticks.schema import TABLES

PRICES = {
    "mbo": ("price",),
    "mbp": ("price",),
    "trades": ("price",),
    "statistics": ("price",),
    "limits": ("high", "low", "max_variation"),
    "snapshots": ("price",),
}
"""Columns of each table that carry a price."""

_DEFINITION_PRICES = ("tick", "high_limit", "low_limit", "max_variation", "reference_price", "strike")
_ONE = 1_000_000_000


@dataclass(frozen=True)
class PacketFacts:
    """What the rows of a batch inherit from their packets; arrays of n packets."""

    epoch: NDArray[np.uint32]
    seq: NDArray[np.uint32]
    ts_sent: NDArray[np.int64]
    ts_recv: NDArray[np.int64]
    row_flags: NDArray[np.uint8]


@dataclass
class Staleness:
    """Whether the channel's books are in doubt: since a loss, until a channel reset or a new epoch."""

    stale: bool = False

    def mark(self, accepted: Accepted, resets: NDArray[np.int64]) -> NDArray[np.uint8]:
        """``row_flags`` of each packet: stale, late, feed B. ``resets``: packets with a channel reset."""
        flags = accepted.columns["flags"]
        out = np.zeros(len(flags), np.uint8)
        out[(flags & LATE) != 0] |= np.uint8(RowFlag.LATE)
        out[(flags & FROM_B) != 0] |= np.uint8(RowFlag.FEED_B)
        marks = sorted(  # at one packet: the epoch begins, packets are missing, then it resets
            [(int(i), 0, False) for i in np.flatnonzero(flags & RESTART)]
            + [(int(i), 1, True) for i in np.flatnonzero(flags & LOSS)]
            + [(int(i), 2, False) for i in resets]
        )
        start = 0
        for index, _, stale in [*marks, (len(flags), 0, self.stale)]:
            if self.stale:
                out[start:index] |= np.uint8(RowFlag.STALE)
            start = index
            self.stale = stale if index < len(flags) else self.stale
        return out


@dataclass
class Tables:
    """Builds the market tables of one channel, batch by batch. Remembers the display factors."""

    venue: str
    channel: int
    factors: DisplayFactors = field(default_factory=DisplayFactors)
    unscaled: int = 0
    """Rows so far whose price is in wire units."""

    def build(self, buffer: NDArray[np.uint8], decoded: Decoded, facts: PacketFacts) -> dict[str, pa.Table]:
        """Every market table of one batch; tables without rows are left out.

        ``buffer`` holds the packets that ``decoded`` came from.
        """
        t = decoded.tables
        messages = t["messages"]
        rare_template = messages["template"][t["rare"]["message"]]
        reference = list(roots(buffer, t["rare"], rare_template))
        definitions = [r for r in reference if r.kind in mdp3.DEFINITION]
        defined = self._defined(definitions)
        out: dict[str, pa.Table] = {}
        for name, prices in PRICES.items():
            rows = t[name]
            if len(rows["message"]) == 0:
                continue
            unscaled = self.factors.scale(
                rows["instrument_id"], rows["message"], tuple(rows[p] for p in prices), *defined
            )
            self.unscaled += int(unscaled.sum())
            columns = self._inherited(messages, rows["message"], facts)
            columns["row_flags"] = columns["row_flags"] | flagged(unscaled, RowFlag.UNSCALED)
            for column, values in rows.items():
                if column == "orphan":
                    columns["row_flags"] |= flagged(values != 0, RowFlag.ORPHAN)
                elif column != "message":
                    columns[column] = values.copy()  # the decoder reuses its memory, Arrow would share it
            out[name] = self._arrow(name, columns)
        if len(t["trade_orders"]["message"]):
            out["trade_orders"] = self._trade_orders(t, facts)
        status = [r for r in reference if r.kind in (mdp3.STATUS, mdp3.CHANNEL_RESET)]
        if status:
            out["status"] = pa.concat_tables([self._status(r, messages, facts) for r in status])
        if definitions:
            out["definitions"] = pa.concat_tables(
                [self._definitions(r, buffer, messages, facts) for r in definitions]
            )
        self.factors.learn(defined[0], defined[2])
        return out

    @staticmethod
    def _defined(
        definitions: list[Roots],
    ) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int64]]:
        """(instrument id, message, display factor) of each definition of the batch, by message."""
        if not definitions:
            return np.zeros(0, np.int32), np.zeros(0, np.int32), np.zeros(0, np.int64)
        message = np.concatenate([r.message for r in definitions])
        order = np.argsort(message, kind="stable")
        ids = np.concatenate([r.blocks["instrument_id"] for r in definitions])
        factors = np.concatenate([r.blocks["display_factor"] for r in definitions])
        factors[factors == mdp3.NULL_I64] = 0
        return ids[order], message[order], factors[order]

    def _inherited(self, messages: Columns, message: NDArray[np.int32], facts: PacketFacts) -> Columns:
        packet = messages["packet"][message]
        return {
            "ts_event": messages["ts_event"][message],
            "ts_sent": facts.ts_sent[packet],
            "ts_recv": facts.ts_recv[packet],
            "epoch": facts.epoch[packet],
            "seq": facts.seq[packet],
            "msg_index": messages["msg_index"][message],
            "row_flags": facts.row_flags[packet],
            "template": messages["template"][message],
        }

    def _trade_orders(self, t: dict[str, Columns], facts: PacketFacts) -> pa.Table:
        messages, trades, rows = t["messages"], t["trades"], t["trade_orders"]
        columns = self._inherited(messages, rows["message"], facts)
        owned = rows["trade"] >= 0
        trade = np.where(owned, rows["trade"], 0)
        columns["row_flags"] = columns["row_flags"] | flagged(~owned, RowFlag.ORPHAN)
        columns.update({c: rows[c].copy() for c in ("entry_index", "order_id", "size", "event_flags")})
        names = ("instrument_id", "trade_seq", "trade_msg_index", "trade_entry_index", "n")
        nulls = dict.fromkeys(names, ~owned)
        columns["n"] = rows["n"].copy()
        if len(trades["message"]):
            owner = trades["message"][trade]
            columns["instrument_id"] = trades["instrument_id"][trade]
            columns["trade_seq"] = facts.seq[messages["packet"][owner]]
            columns["trade_msg_index"] = messages["msg_index"][owner]
            columns["trade_entry_index"] = trades["entry_index"][trade]
        else:
            columns.update({c: np.zeros(len(trade), np.int32) for c in nulls})
        return self._arrow("trade_orders", columns, nulls)

    def _status(self, r: Roots, messages: Columns, facts: PacketFacts) -> pa.Table:
        columns = self._inherited(messages, r.message, facts)
        n = len(r.message)
        columns["entry_index"] = np.zeros(n, np.uint8)
        columns["ts_event"] = r.blocks["transact_time"].astype(np.int64)
        columns["event_flags"] = r.blocks["event_flags"]
        if r.kind == mdp3.STATUS:
            codes = ("trading_status", "halt_reason", "trading_event")
            for name in ("instrument_id", "security_group", "asset", "trade_date", *codes):
                columns[name] = r.blocks[name]
        recovery = (columns["event_flags"] & int(EventFlag.RECOVERY)) != 0
        columns["row_flags"] = columns["row_flags"] | flagged(recovery, RowFlag.RECOVERY)
        return self._arrow("status", columns)

    def _definitions(
        self, r: Roots, buffer: NDArray[np.uint8], messages: Columns, facts: PacketFacts
    ) -> pa.Table:
        columns = self._inherited(messages, r.message, facts)
        n = len(r.message)
        b = r.blocks
        names = b.dtype.names or ()
        columns["ts_event"] = b["last_update_time"].astype(np.int64)
        columns["entry_index"] = np.zeros(n, np.uint8)
        schema = TABLES["definitions"].arrow
        for name in schema.names:
            if name in names and name not in columns:
                columns[name] = b[name].copy()
        factor = b["display_factor"].astype(np.int64)
        prices = tuple(columns[p] for p in _DEFINITION_PRICES if p in columns)
        rows = np.arange(n, dtype=np.int32)
        fresh = DisplayFactors()
        unscaled = fresh.scale(rows, rows, prices, rows, rows, np.where(factor == mdp3.NULL_I64, 0, factor))
        columns["row_flags"] = columns["row_flags"] | flagged(unscaled, RowFlag.UNSCALED)
        if "unit_quantity" in names:
            columns["lot_size"] = b["unit_quantity"]
        columns["multiplier"], columns["tick_value"] = _money(b, columns.get("tick"), unscaled)
        columns["maturity"] = _maturity(b)
        groups = [
            definition_groups(buffer, r.kind, int(start), int(end), r.scale)
            for start, end in zip(r.offset, r.end, strict=True)
        ]
        return self._arrow("definitions", columns, lists=_group_columns(groups))

    def _arrow(
        self,
        table: str,
        columns: Columns,
        nulls: dict[str, NDArray[np.bool_]] | None = None,
        lists: dict[str, pa.Array] | None = None,
    ) -> pa.Table:
        """Columns under the table's schema. A missing column is null; so is a wire null."""
        schema = TABLES[table].arrow
        n = len(columns["seq"])
        recovered = columns.get("event_flags")
        if recovered is not None and table not in ("status", "snapshots", "definitions"):
            flag = flagged((recovered & int(EventFlag.RECOVERY)) != 0, RowFlag.RECOVERY)
            columns["row_flags"] = columns["row_flags"] | flag
        arrays = []
        for f in schema:
            if lists and f.name in lists:
                arrays.append(lists[f.name].cast(f.type))
            elif f.name == "venue":
                arrays.append(constant(self.venue, n))
            elif f.name == "channel":
                arrays.append(pa.array(np.full(n, self.channel, np.uint16)))
            elif f.name not in columns:
                arrays.append(pa.nulls(n, f.type))
            else:
                mask = (nulls or {}).get(f.name)
                arrays.append(_array(f, columns[f.name], mask))
        return pa.Table.from_arrays(arrays, schema=schema)


def flagged(where: NDArray[np.bool_], flag: RowFlag) -> NDArray[np.uint8]:
    """A flag for each row where a condition holds, else 0."""
    return where.astype(np.uint8) * np.uint8(flag)


def constant(value: str, n: int) -> pa.Array:
    """One name for n rows, as a dictionary column."""
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(n, np.int32)), pa.array([value]))


_NEVER_NULL = ("ts_event", "ts_sent", "ts_recv", "epoch", "seq", "msg_index", "entry_index")
_PLAIN_CODES = ("action", "side", "event_flags", "row_flags", "template", "entry_type", "update_action", "n")


def _array(f: pa.Field, values: NDArray[Any], mask: NDArray[np.bool_] | None) -> pa.Array:
    if values.dtype.kind == "S":
        texts = np.char.strip(np.char.decode(values, "latin-1"), " \x00")
        plain = pa.array(texts.tolist(), pa.string(), mask=texts == "")
        return plain if pa.types.is_string(f.type) else plain.dictionary_encode()
    if mask is None and f.name not in (*_NEVER_NULL, *_PLAIN_CODES):
        mask = values == null_of(f.name, values.dtype)
    if values.dtype.kind == "i" and pa.types.is_unsigned_integer(f.type):
        mask = (values < 0) if mask is None else mask | (values < 0)  # the venue has no such value
    if mask is not None and not mask.any():
        mask = None
    if pa.types.is_timestamp(f.type):
        return pa.array(values.astype(np.int64, copy=False), pa.int64(), mask=mask).view(f.type)
    if pa.types.is_date32(f.type):
        return pa.array(values.astype(np.int32), pa.int32(), mask=mask).view(f.type)
    plain = pa.array(values, mask=mask)
    return plain if plain.type == f.type else plain.cast(f.type)


def _money(
    b: NDArray[Any], tick: NDArray[np.int64] | None, unscaled: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(multiplier, tick value): currency per quoted point and lot, and per tick and lot, both 1e-9.

    The tick value as sent (MinPriceIncrementAmount) over the quoted tick; without either the multiplier is
    null: UnitOfMeasureQty over the display factor is no substitute (cents per bushel, say).
    """
    null = mdp3.NULL_I64
    n = len(b)
    multiplier = np.full(n, null, np.int64)
    names = b.dtype.names or ()
    tick_value = b["tick_value"].astype(np.int64) if "tick_value" in names else np.full(n, null, np.int64)
    if tick is not None:
        for i in np.flatnonzero((tick_value != null) & (tick != null) & (tick > 0) & ~unscaled):
            numerator = int(tick_value[i]) * _ONE
            if numerator % int(tick[i]) == 0 and abs(numerator // int(tick[i])) < null:
                multiplier[i] = numerator // int(tick[i])
    return multiplier, tick_value


def _maturity(b: NDArray[Any]) -> NDArray[np.bytes_]:
    """YYYYMM, YYYYMMDD or YYYYMMwN."""
    if "maturity_year" not in (b.dtype.names or ()):
        return np.full(len(b), b"", "S8")
    texts = []
    for year, month, day, week in zip(
        b["maturity_year"], b["maturity_month"], b["maturity_day"], b["maturity_week"], strict=True
    ):
        text = "" if year == mdp3.NULL_U16 else f"{year:04d}"
        if text and month != mdp3.NULL_U8:
            text += f"{month:02d}"
            if day != mdp3.NULL_U8:
                text += f"{day:02d}"
            elif week != mdp3.NULL_U8:
                text += f"w{week}"
        texts.append(text.encode())
    return np.array(texts, "S8")


def _group_columns(groups: list[Groups]) -> dict[str, pa.Array]:
    schema = TABLES["definitions"].arrow
    return {
        "activation": pa.array([_time(g.activation) for g in groups], pa.int64()),
        "expiration": pa.array([_time(g.expiration) for g in groups], pa.int64()),
        "depth": pa.array([g.depth for g in groups], pa.int8()),
        "attributes": pa.array([g.attributes for g in groups], pa.uint32()),
        "legs": pa.array([g.legs for g in groups], schema.field("legs").type),
    }


def _time(sent: int | None) -> int | None:
    """ns since the epoch; what no clock will ever show is null."""
    return sent if sent is not None and sent < mdp3.NULL_I64 else None

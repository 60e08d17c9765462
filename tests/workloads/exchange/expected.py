"""What `workloads.exchange.decode` must answer, said slowly: from the oracle's messages to rows.

Written from the documented meaning of the columns, not from the decoder: lists of dicts, one pass.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from names import SUPPORTED
from oracle import Number, Oracle

from workloads.exchange import mdp3
from workloads.exchange.decode import (
    COLUMNS,
    ERROR_BLOCK,
    ERROR_HEADER,
    ERROR_SCHEMA,
    ERROR_SIZE,
    Decoded,
)

NULLS = {
    "u1": mdp3.NULL_U8,
    "u2": mdp3.NULL_U16,
    "u4": mdp3.NULL_U32,
    "u8": mdp3.NULL_U64,
    "i4": mdp3.NULL_I32,
    "i8": mdp3.NULL_I64,
}
BOOKS, ORDER_BOOKS, TRADES = (32, 46, 64), (43, 47), (42, 48, 65)
STATISTICS, LIMITS = (33, 35, 37, 49, 51, 66, 67), (34, 50)
SNAPSHOTS = (38, 44, 52, 53, 68, 69)
REFRESHES = (*BOOKS, *ORDER_BOOKS, *TRADES, *STATISTICS, *LIMITS)
CLOSERS = (4, 30)  # no rows of their own in these tables, but they may end an event
RARE = (4, 30, 27, 29, 41, 54, 55, 56, 57, 58, 63)
END = 128

Row = dict[str, Any]


def judge(oracles: dict[int, Oracle]) -> Oracle:
    """One oracle for all versions: the newest schema, and version 9's for the older twins."""
    merged = Oracle.__new__(Oracle)
    merged.id, merged.version = oracles[13].id, oracles[13].version
    merged.enums, merged.sets = oracles[13].enums, oracles[13].sets
    merged.messages = {**oracles[9].messages, **oracles[13].messages}
    return merged


def price(number: Number | None) -> int | None:
    """Mantissa at 1e-9."""
    return None if number is None else number.mantissa * 10 ** (number.exponent + 9)


def side(entry_type: str) -> int:
    return {"0": 1, "1": 2}.get(entry_type, 0)


class Expected:
    """Rows of all tables, packet after packet. ``found`` are answers of `Oracle.packet`."""

    def __init__(self, found: Sequence[dict[str, Any]], breaks: Sequence[int] = ()) -> None:
        self.tables: dict[str, list[Row]] = {name: [] for name in COLUMNS}
        self.packet_messages: list[int] = []
        self.packet_unknown: list[int] = []
        self.packet_errors: list[int] = []
        self._forget_event()
        for index, packet in enumerate(found):
            if index in breaks:
                self._forget_event()
            self._packet(index, packet)

    def _forget_event(self) -> None:
        self._begin = {name: len(rows) for name, rows in self.tables.items()}
        self._pending: list[list[int]] = []  # trade row, orders it has, orders it wants

    def _packet(self, index: int, packet: dict[str, Any]) -> None:
        errors = 0
        unknown = 0
        if packet["error"] is not None:
            errors |= ERROR_HEADER if packet["seq"] is None else ERROR_SIZE
        for position, message in enumerate(packet["messages"]):
            if message["schema"] != 1:
                errors |= ERROR_SCHEMA
            elif message["template"] not in SUPPORTED:
                unknown += 1
            elif message["error"] is not None:
                errors |= ERROR_BLOCK
            else:
                self._message(index, position, message)
        self.packet_messages.append(len(packet["messages"]))
        self.packet_unknown.append(unknown)
        self.packet_errors.append(errors)

    def _message(self, packet: int, msg_index: int, message: dict[str, Any]) -> None:
        template, fields, groups = message["template"], message["fields"], message["groups"]
        timed = template in REFRESHES or template in SNAPSHOTS
        ts_event = fields["TransactTime"] if timed else 0
        self.tables["messages"].append(
            {"packet": packet, "msg_index": msg_index, "ts_event": ts_event, "template": template}
        )
        entries = groups.get("NoMDEntries", [])
        orders = groups.get("NoOrderIDEntries", [])
        flags = fields["MatchEventIndicator"] if template in (*REFRESHES, *CLOSERS) else 0
        common = {"event_flags": flags & ~END}
        if template in BOOKS:
            self._add("mbp", [_level(e) | common for e in entries])
            self._add("mbo", [_order(o, entries) | common for o in orders])
        elif template in ORDER_BOOKS:
            self._add("mbo", [_full_order(e) | common for e in entries])
        elif template in TRADES:
            self._trades([_trade(e) | common for e in entries], orders, common)
        elif template in STATISTICS:
            self._add("statistics", [_statistic(e) | common for e in entries])
        elif template in LIMITS:
            self._add("limits", [_limits(e) | common for e in entries])
        elif template in SNAPSHOTS:
            self._add("snapshots", [_snapshot(fields) | _snapshot_entry(e) for e in entries or [None]])
        elif template in RARE:
            self._add("rare", [{"block_length": message["block_length"], "version": message["version"]}])
        if flags & END:
            for name in ("mbo", "mbp", "trades", "trade_orders", "statistics", "limits"):
                if len(self.tables[name]) > self._begin[name]:
                    self.tables[name][-1]["event_flags"] |= END
            self._forget_event()

    def _add(self, table: str, rows: list[Row]) -> None:
        message = len(self.tables["messages"]) - 1
        for index, row in enumerate(rows):
            self.tables[table].append({"message": message} | row | {"entry_index": index})
        if table == "rare":
            del self.tables[table][-1]["entry_index"]

    def _trades(self, trades: list[Row], orders: list[Row], common: Row) -> None:
        first = len(self.tables["trades"])
        self._add("trades", trades)
        self._pending += [[first + index, 0, trade["orders"] or 0] for index, trade in enumerate(trades)]
        rows = []
        for order in orders:
            while self._pending and self._pending[0][1] >= self._pending[0][2]:
                self._pending.pop(0)
            trade, n = -1, 0
            if self._pending:
                trade, n, _ = self._pending[0]
                self._pending[0][1] += 1
            rows.append(
                {"trade": trade, "n": n, "order_id": order["OrderID"], "size": order["LastQty"]} | common
            )
        self._add("trade_orders", rows)


def _level(entry: Row) -> Row:
    return {
        "instrument_id": entry["SecurityID"],
        "price": price(entry["MDEntryPx"]),
        "size": entry["MDEntrySize"],
        "orders": entry["NumberOfOrders"],
        "level": entry["MDPriceLevel"],
        "action": entry["MDUpdateAction"],
        "entry_type": ord(entry["MDEntryType"] or "\0"),
        "rpt_seq": entry["RptSeq"],
        "tradeable_size": entry.get("TradeableSize"),
    }


def _order(order: Row, entries: list[Row]) -> Row:
    reference = order["ReferenceID"]
    found = entries[reference - 1] if reference and reference <= len(entries) else None
    return {
        "instrument_id": found and found["SecurityID"],
        "order_id": order["OrderID"],
        "priority": order["MDOrderPriority"],
        "price": found and price(found["MDEntryPx"]),
        "size": order["MDDisplayQty"],
        "action": order["OrderUpdateAction"],
        "side": side(found["MDEntryType"]) if found else 0,
        "orphan": int(found is None),
    }


def _full_order(entry: Row) -> Row:
    return {
        "instrument_id": entry["SecurityID"],
        "order_id": entry["OrderID"],
        "priority": entry["MDOrderPriority"],
        "price": price(entry["MDEntryPx"]),
        "size": entry["MDDisplayQty"],
        "action": 9 if entry["MDEntryType"] == "J" else entry["MDUpdateAction"],
        "side": side(entry["MDEntryType"]),
        "orphan": 0,
    }


def _trade(entry: Row) -> Row:
    return {
        "instrument_id": entry["SecurityID"],
        "price": price(entry["MDEntryPx"]),
        "size": entry["MDEntrySize"],
        "orders": entry["NumberOfOrders"],
        "aggressor": entry["AggressorSide"],
        "action": entry["MDUpdateAction"],
        "trade_entry_id": entry.get("MDTradeEntryID"),
        "rpt_seq": entry["RptSeq"],
    }


def _statistic(entry: Row) -> Row:
    return {
        "instrument_id": entry["SecurityID"],
        "entry_type": ord(entry["MDEntryType"] or "\0"),
        "price": price(entry.get("MDEntryPx")),
        "size": entry.get("MDEntrySize"),
        "action": entry["MDUpdateAction"],
        "rpt_seq": entry["RptSeq"],
        "reference_date": entry.get("TradingReferenceDate"),
        "settl_price_type": entry.get("SettlPriceType"),
        "open_close_flag": entry.get("OpenCloseSettlFlag"),
    }


def _limits(entry: Row) -> Row:
    return {
        "instrument_id": entry["SecurityID"],
        "high": price(entry["HighLimitPrice"]),
        "low": price(entry["LowLimitPrice"]),
        "max_variation": price(entry["MaxPriceVariation"]),
        "rpt_seq": entry["RptSeq"],
    }


def _snapshot(fields: Row) -> Row:
    return {
        "instrument_id": fields["SecurityID"],
        "last_seq": fields.get("LastMsgSeqNumProcessed"),
        "reports": fields.get("TotNumReports"),
        "chunk": fields.get("CurrentChunk"),
        "chunks": fields.get("NoChunks"),
        "rpt_seq": fields.get("RptSeq"),
    }


def _snapshot_entry(entry: Row | None) -> Row:
    entry = entry or {"MDEntryType": None}  # an empty snapshot makes one row
    return {
        "entry_type": ord(entry["MDEntryType"] or "\0"),
        "price": price(entry.get("MDEntryPx")),
        "size": entry.get("MDEntrySize", entry.get("MDDisplayQty")),
        "orders": entry.get("NumberOfOrders"),
        "level": entry.get("MDPriceLevel"),
        "order_id": entry.get("OrderID"),
        "priority": entry.get("MDOrderPriority"),
    }


def rows(decoded: Decoded, table: str) -> list[Row]:
    """A table of the decoder as a list of rows, nulls as None; without a rare row's place in the buffer."""
    columns = {
        name: [None if v == NULLS.get(COLUMNS[table][name]) else v for v in array.tolist()]
        for name, array in decoded.tables[table].items()
        if (table, name) not in (("rare", "offset"), ("rare", "bytes"))
    }
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def compare(decoded: Decoded, expected: Expected) -> None:
    """Assert that both say the same, table by table and row by row."""
    for name, wanted in expected.tables.items():
        got = rows(decoded, name)
        nulled = [
            {c: None if v == NULLS.get(COLUMNS[name][c]) else v for c, v in row.items()} for row in wanted
        ]
        for index, (ours, theirs) in enumerate(zip(got, nulled, strict=False)):
            assert ours == theirs, (name, index)
        assert len(got) == len(nulled), name
    np.testing.assert_array_equal(decoded.packet_messages, expected.packet_messages)
    np.testing.assert_array_equal(decoded.packet_unknown, expected.packet_unknown)
    np.testing.assert_array_equal(decoded.packet_errors, expected.packet_errors)

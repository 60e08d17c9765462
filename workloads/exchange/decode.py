"""Decode MDP 3.0 packets into columns, whole batches at a time.

The loop walks packets, messages, groups; lengths come from the wire, so that older and newer versions
decode. A message that breaks a rule makes no row and marks its packet; the messages around it count.
Rows are columns of NumPy arrays: a row points to its message, a message to its packet, so that what is
common to many rows is written once. Prices are in 1e-9 **wire** units: the quoted price is the wire
price times the instrument's display factor, which only a definition knows.

Field offsets: `workloads.exchange.mdp3` (CME's SBE template schema, versions 5 to 13).
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,call-arg"
# The loops are compiled: Numba infers their types.

from collections import namedtuple
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

from workloads.compiled import compiled
from workloads.exchange import mdp3
from workloads.exchange.mdp3 import offset, read_bytes
from workloads.exchange.packets import HEADER_BYTES, Packets
from workloads.exchange.wire import load_i8, load_i32, load_i64, load_u8, load_u16, load_u32, load_u64

COLUMNS: Final[dict[str, dict[str, str]]] = {
    "messages": {"packet": "i4", "msg_index": "u2", "ts_event": "i8", "template": "u1"},
    "mbo": {
        "message": "i4",
        "entry_index": "u1",
        "instrument_id": "i4",
        "order_id": "u8",
        "priority": "u8",
        "price": "i8",
        "size": "i8",
        "action": "u1",
        "side": "u1",
        "event_flags": "u1",
        "orphan": "u1",
    },
    "mbp": {
        "message": "i4",
        "entry_index": "u1",
        "instrument_id": "i4",
        "price": "i8",
        "size": "i8",
        "orders": "i4",
        "level": "u1",
        "action": "u1",
        "entry_type": "u1",
        "rpt_seq": "u4",
        "tradeable_size": "i8",
        "event_flags": "u1",
    },
    "trades": {
        "message": "i4",
        "entry_index": "u1",
        "instrument_id": "i4",
        "price": "i8",
        "size": "i8",
        "orders": "i4",
        "aggressor": "u1",
        "action": "u1",
        "trade_entry_id": "u4",
        "rpt_seq": "u4",
        "event_flags": "u1",
    },
    "trade_orders": {
        "message": "i4",
        "entry_index": "u1",
        "trade": "i4",
        "n": "u2",
        "order_id": "u8",
        "size": "i8",
        "event_flags": "u1",
    },
    "statistics": {
        "message": "i4",
        "entry_index": "u1",
        "instrument_id": "i4",
        "entry_type": "u1",
        "price": "i8",
        "size": "i8",
        "action": "u1",
        "rpt_seq": "u4",
        "reference_date": "u2",
        "settl_price_type": "u1",
        "open_close_flag": "u1",
        "event_flags": "u1",
    },
    "limits": {
        "message": "i4",
        "entry_index": "u1",
        "instrument_id": "i4",
        "high": "i8",
        "low": "i8",
        "max_variation": "i8",
        "rpt_seq": "u4",
        "event_flags": "u1",
    },
    "snapshots": {
        "message": "i4",
        "entry_index": "u1",
        "instrument_id": "i4",
        "last_seq": "u4",
        "reports": "u4",
        "chunk": "u4",
        "chunks": "u4",
        "rpt_seq": "u4",
        "entry_type": "u1",
        "price": "i8",
        "size": "i8",
        "orders": "i4",
        "level": "u1",
        "order_id": "u8",
        "priority": "u8",
    },
    "rare": {"message": "i4", "offset": "i8", "bytes": "u2", "block_length": "u2", "version": "u2"},
}
"""Columns of each output. ``message`` is a row of ``messages``, ``packet`` a position in the batch, ``trade``
a row of ``trades`` (-1: the trade never came), ``offset`` the message's place in the packets' buffer.
``rare`` lists definitions, status and channel resets, which are read where they lie. A null keeps the
wire's null value (``mdp3.NULL_*``) of its column: int64 sizes use ``NULL_I64``."""

_MIN_BYTES: Final = {
    "messages": 10,
    "mbo": read_bytes(mdp3.BOOK_ORDER),
    "mbp": read_bytes(mdp3.ENTRY[mdp3.BOOK]),
    "trades": read_bytes(mdp3.ENTRY[mdp3.TRADE]),
    "trade_orders": read_bytes(mdp3.TRADE_ORDER),
    "statistics": read_bytes(mdp3.ENTRY[mdp3.VOLUME]),
    "limits": read_bytes(mdp3.ENTRY[mdp3.LIMITS]),
    "snapshots": read_bytes(mdp3.ENTRY[mdp3.SNAPSHOT]),
    "rare": 10,
}
"""Fewest wire bytes that one row can come from: how many rows a batch can make at most."""

ERROR_HEADER: Final = 1
"""Shorter than the packet header."""
ERROR_SIZE: Final = 2
"""MsgSize below 10 or beyond the payload: the rest of the packet is unreadable."""
ERROR_BLOCK: Final = 4
"""A block or group that is too short for its fields or runs past its message."""
ERROR_SCHEMA: Final = 8
"""A schema id other than 1."""

_Messages = namedtuple("_Messages", COLUMNS["messages"])  # type: ignore[misc]  # fields are the dict's keys
_Mbo = namedtuple("_Mbo", COLUMNS["mbo"])  # type: ignore[misc]
_Mbp = namedtuple("_Mbp", COLUMNS["mbp"])  # type: ignore[misc]
_Trades = namedtuple("_Trades", COLUMNS["trades"])  # type: ignore[misc]
_TradeOrders = namedtuple("_TradeOrders", COLUMNS["trade_orders"])  # type: ignore[misc]
_Statistics = namedtuple("_Statistics", COLUMNS["statistics"])  # type: ignore[misc]
_Limits = namedtuple("_Limits", COLUMNS["limits"])  # type: ignore[misc]
_Snapshots = namedtuple("_Snapshots", COLUMNS["snapshots"])  # type: ignore[misc]
_Rare = namedtuple("_Rare", COLUMNS["rare"])  # type: ignore[misc]
_TUPLES: Final[dict[str, Any]] = {
    "messages": _Messages,
    "mbo": _Mbo,
    "mbp": _Mbp,
    "trades": _Trades,
    "trade_orders": _TradeOrders,
    "statistics": _Statistics,
    "limits": _Limits,
    "snapshots": _Snapshots,
    "rare": _Rare,
}

Columns = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Decoded:
    """What a batch of packets said. Arrays are views into the decoder's memory, valid until its next call.

    ``tables``: name -> column -> array, see `COLUMNS`. Per packet: ``packet_messages`` uint16 (all
    messages in it, unknown ones too), ``packet_unknown`` uint16 (of a template that we don't know),
    ``packet_errors`` uint8 (``ERROR_*`` bits).
    """

    tables: dict[str, Columns]
    packet_messages: NDArray[np.uint16]
    packet_unknown: NDArray[np.uint16]
    packet_errors: NDArray[np.uint8]


class Decoder:
    """Reusable memory for batches of at most ``max_bytes`` of packets.

    A batch should hold whole events: the orders of a trade are joined to it, and the end of an event is
    marked, within one batch (`last_event_end` finds where to cut).
    """

    def __init__(self, max_bytes: int = 8 << 20) -> None:
        self.max_bytes = max_bytes
        self._memory = {
            name: _TUPLES[name](*(np.empty(max_bytes // _MIN_BYTES[name] + 256, t) for t in columns.values()))
            for name, columns in COLUMNS.items()
        }
        packets = max_bytes // HEADER_BYTES + 1
        self._counts = np.empty((2, packets), np.uint16)
        self._errors = np.empty(packets, np.uint8)

    def decode(self, packets: Packets, breaks: NDArray[np.bool_] | None = None) -> Decoded:
        """Decode a batch.

        Parameters
        ----------
        packets : n packets of at most ``max_bytes`` together
        breaks : bool[n], optional
            True where packets are missing before this one: no event and no trade reaches across.

        Raises
        ------
        ValueError
            If the batch is larger than this decoder's memory.
        """
        total = int(packets.length.sum(dtype=np.int64))
        if total > self.max_bytes or len(packets) > len(self._errors):
            raise ValueError(
                f"{len(packets)} packets of {total} bytes in one batch; this decoder takes "
                f"{len(self._errors)} of {self.max_bytes}"
            )
        if breaks is None:
            breaks = np.zeros(len(packets), np.bool_)
        m = self._memory
        rows = _decode(
            packets.buffer,
            packets.offset,
            packets.length,
            breaks,
            *(m[name] for name in COLUMNS),
            *self._counts,
            self._errors,
        )
        tables = {
            name: {column: array[:n] for column, array in zip(COLUMNS[name], m[name], strict=True)}
            for name, n in zip(COLUMNS, rows, strict=True)
        }
        n = len(packets)
        return Decoded(tables, self._counts[0, :n], self._counts[1, :n], self._errors[:n])


@njit(nogil=True, cache=True)
def last_event_end(buffer, offset, length, limit):
    """How many of the first packets hold only whole events: one more than the last packet that ends one.

    Packets without any event (heartbeats, definitions) never open one; a status may end one. When more
    than ``limit`` packets would stay behind, the answer is all of them: an end that was lost must not
    hold back the rest.
    """
    cut = 0
    is_open = False
    for i in range(len(offset)):
        at = np.uintp(buffer.ctypes.data) + np.uintp(offset[i])
        end = at + np.uintp(max(length[i], 0))
        at += np.uintp(HEADER_BYTES)
        while at + np.uintp(mdp3.MESSAGE_HEADER_BYTES) <= end:
            size = np.uintp(load_u16(at))
            if size < np.uintp(mdp3.MESSAGE_HEADER_BYTES) or at + size > end:
                break
            template = load_u16(at + np.uintp(4))
            if _is_refresh(template) and size >= np.uintp(19):
                is_open = (load_u8(at + np.uintp(18)) & 128) == 0
            elif template == mdp3.STATUS and size >= np.uintp(40):
                is_open = is_open and (load_u8(at + HEADER + STATUS_FLAGS) & 128) == 0
            at += size
        if not is_open:
            cut = i + 1
    return len(offset) if len(offset) - cut > limit else cut


@njit(nogil=True, cache=True, inline="always")
def _is_refresh(template):
    """Incremental refresh: root holds TransactTime and MatchEventIndicator."""
    return 32 <= template <= 37 or template in (42, 43) or 46 <= template <= 51 or 64 <= template <= 67


@njit(nogil=True, cache=True, inline="always")
def _side(entry_type):
    if entry_type == 48:  # "0" bid
        return np.uint8(1)
    if entry_type == 49:  # "1" offer
        return np.uint8(2)
    return np.uint8(0)


@njit(nogil=True, cache=True, inline="always")
def _size(value):
    """int32 quantity, null kept null at the wider type."""
    return np.int64(mdp3.NULL_I64) if value == np.int32(mdp3.NULL_I32) else np.int64(value)


@njit(nogil=True, cache=True, inline="always")
def _long_size(value):
    """uint64 quantity; above int64 only the null exists."""
    return np.int64(mdp3.NULL_I64) if value >= np.uint64(mdp3.NULL_I64) else np.int64(value)


@njit(nogil=True, cache=True, inline="always")
def _price(value, factor):
    return value if value == np.int64(mdp3.NULL_I64) else value * factor


def _offsets(block: np.dtype, *fields: str) -> tuple[np.uintp, ...]:
    return tuple(np.uintp(offset(block, field)) for field in fields)


_E = mdp3.ENTRY
B_PRICE, B_SIZE, B_ID, B_RPT, B_ORDERS, B_LEVEL, B_ACTION, B_TYPE, B_TRADEABLE = _offsets(
    _E[mdp3.BOOK],
    "price",
    "size",
    "instrument_id",
    "rpt_seq",
    "orders",
    "level",
    "action",
    "entry_type",
    "tradeable_size",
)
BL_PRICE, BL_SIZE, BL_ID, BL_RPT, BL_ORDERS, BL_LEVEL, BL_ACTION, BL_TYPE = _offsets(
    _E[mdp3.BOOK_LONG], "price", "size", "instrument_id", "rpt_seq", "orders", "level", "action", "entry_type"
)
BO_ID, BO_PRIORITY, BO_SIZE, BO_REFERENCE, BO_ACTION = _offsets(
    mdp3.BOOK_ORDER, "order_id", "priority", "size", "reference", "action"
)
O_ORDER, O_PRIORITY, O_PRICE, O_SIZE, O_ID, O_ACTION, O_TYPE = _offsets(
    _E[mdp3.ORDER_BOOK], "order_id", "priority", "price", "size", "instrument_id", "action", "entry_type"
)
T_PRICE, T_SIZE, T_ID, T_RPT, T_ORDERS, T_SIDE, T_ACTION, T_ENTRY = _offsets(
    _E[mdp3.TRADE],
    "price",
    "size",
    "instrument_id",
    "rpt_seq",
    "orders",
    "aggressor",
    "action",
    "trade_entry_id",
)
TL_PRICE, TL_SIZE, TL_ID, TL_RPT, TL_ORDERS, TL_ENTRY, TL_SIDE, TL_ACTION = _offsets(
    _E[mdp3.TRADE_LONG],
    "price",
    "size",
    "instrument_id",
    "rpt_seq",
    "orders",
    "trade_entry_id",
    "aggressor",
    "action",
)
TO_ID, TO_SIZE = _offsets(mdp3.TRADE_ORDER, "order_id", "size")
V_SIZE, V_ID, V_RPT, V_ACTION = _offsets(_E[mdp3.VOLUME], "size", "instrument_id", "rpt_seq", "action")
VL_SIZE, VL_ID, VL_RPT, VL_ACTION = _offsets(
    _E[mdp3.VOLUME_LONG], "size", "instrument_id", "rpt_seq", "action"
)
D_PRICE, D_SIZE, D_ID, D_RPT, D_DATE, D_SETTL, D_ACTION, D_TYPE = _offsets(
    _E[mdp3.DAILY_STATISTICS],
    "price", "size", "instrument_id", "rpt_seq", "reference_date", "settl_price_type", "action", "entry_type",
)  # fmt: skip
S_PRICE, S_ID, S_RPT, S_FLAG, S_ACTION, S_TYPE, S_SIZE = _offsets(
    _E[mdp3.SESSION_STATISTICS],
    "price",
    "instrument_id",
    "rpt_seq",
    "open_close_flag",
    "action",
    "entry_type",
    "size",
)
SL_PRICE, SL_SIZE, SL_ID, SL_RPT, SL_FLAG, SL_ACTION, SL_TYPE = _offsets(
    _E[mdp3.SESSION_STATISTICS_LONG],
    "price", "size", "instrument_id", "rpt_seq", "open_close_flag", "action", "entry_type",
)  # fmt: skip
L_HIGH, L_LOW, L_VARIATION, L_ID, L_RPT = _offsets(
    _E[mdp3.LIMITS], "high", "low", "max_variation", "instrument_id", "rpt_seq"
)
N_LAST, N_REPORTS, N_ID, N_RPT, N_TIME = _offsets(
    mdp3.ROOT[mdp3.SNAPSHOT], "last_seq", "reports", "instrument_id", "rpt_seq", "transact_time"
)
NE_PRICE, NE_SIZE, NE_ORDERS, NE_LEVEL, NE_TYPE = _offsets(
    _E[mdp3.SNAPSHOT], "price", "size", "orders", "level", "entry_type"
)
NL_PRICE, NL_SIZE, NL_ORDERS, NL_LEVEL, NL_TYPE = _offsets(
    _E[mdp3.SNAPSHOT_LONG], "price", "size", "orders", "level", "entry_type"
)
NT_ID = np.uintp(offset(mdp3.ROOT[mdp3.SNAPSHOT_TCP_LONG], "instrument_id"))
NO_LAST, NO_REPORTS, NO_ID, NO_CHUNKS, NO_CHUNK, NO_TIME = _offsets(
    mdp3.ROOT[mdp3.SNAPSHOT_ORDERS],
    "last_seq",
    "reports",
    "instrument_id",
    "chunks",
    "chunk",
    "transact_time",
)
NOE_ORDER, NOE_PRIORITY, NOE_PRICE, NOE_SIZE, NOE_TYPE = _offsets(
    _E[mdp3.SNAPSHOT_ORDERS], "order_id", "priority", "price", "size", "entry_type"
)


STATUS_FLAGS = np.uintp(offset(mdp3.ROOT[mdp3.STATUS], "event_flags"))
RESET_FLAGS = np.uintp(offset(mdp3.ROOT[mdp3.CHANNEL_RESET], "event_flags"))


def _kinds() -> NDArray[np.uint8]:
    """Template -> the template whose layout it has; 0 where we don't know it."""
    kinds = np.zeros(256, np.uint8)
    for template in (*mdp3.ROOT, *mdp3.DEFINITION):
        kinds[template] = template
    for old, new in mdp3.TWINS.items():
        kinds[old] = new
    return kinds


def _needs() -> NDArray[np.uint16]:
    """Rows: fewest bytes a root, an entry, an order entry must have, by template."""
    needs = np.zeros((3, 256), np.uint16)
    for row, blocks in enumerate((mdp3.ROOT, mdp3.ENTRY, mdp3.ORDERS)):
        for template, block in blocks.items():
            needs[row, template] = read_bytes(block) if block.names else 0
    for template in mdp3.DEFINITION:
        needs[0, template] = offset(mdp3.DEFINITION[mdp3.DEFINITION_FUTURE], "cfi")
    return needs


KIND = _kinds()
NEEDS = _needs()
ONE = np.uintp(1)
HEADER = np.uintp(mdp3.MESSAGE_HEADER_BYTES)
GROUP = np.uintp(mdp3.GROUP_BYTES)
LONG_GROUP = np.uintp(mdp3.LONG_GROUP_BYTES)


@compiled
def _decode(
    buffer,
    offsets,
    lengths,
    breaks,
    messages,
    mbo,
    mbp,
    trades,
    trade_orders,
    statistics,
    limits,
    snapshots,
    rare,
    packet_messages,
    packet_unknown,
    packet_errors,
):
    base = np.uintp(buffer.ctypes.data)
    n_messages = n_mbo = n_mbp = n_trades = n_trade_orders = n_statistics = n_limits = n_snapshots = (
        n_rare
    ) = np.uintp(0)
    # Where the current event's rows begin in each table, and the trades that still wait for orders.
    e_mbo = e_mbp = e_trades = e_trade_orders = e_statistics = e_limits = np.uintp(0)
    waiting = np.uintp(0)
    waiting_n = np.int32(0)

    for i in range(len(offsets)):
        at = base + np.uintp(offsets[i])
        end = at + np.uintp(lengths[i])
        errors = np.uint8(0)
        count = np.uint16(0)
        unknown = np.uint16(0)
        if breaks[i]:
            e_mbo, e_mbp, e_trades, e_trade_orders = n_mbo, n_mbp, n_trades, n_trade_orders
            e_statistics, e_limits = n_statistics, n_limits
            waiting, waiting_n = n_trades, np.int32(0)
        if lengths[i] < HEADER_BYTES:
            errors = np.uint8(ERROR_HEADER)
            at = end
        else:
            at += np.uintp(HEADER_BYTES)

        while at < end:
            if at + HEADER > end:
                errors |= np.uint8(ERROR_SIZE)
                break
            size = np.uintp(load_u16(at))
            stop = at + size
            if size < HEADER or stop > end:
                errors |= np.uint8(ERROR_SIZE)
                break
            message = at
            root = at + HEADER
            at = stop
            msg_index = count
            count += np.uint16(1)
            block = np.uintp(load_u16(message + np.uintp(2)))
            template = load_u16(message + np.uintp(4))
            version = load_u16(message + np.uintp(8))
            if load_u16(message + np.uintp(6)) != mdp3.SCHEMA_ID:
                errors |= np.uint8(ERROR_SCHEMA)
                continue
            kind = KIND[template] if template < 256 else np.uint8(0)
            if kind == 0:
                unknown += np.uint16(1)
                continue
            body = root + block
            if body > stop or block < NEEDS[0, kind]:
                errors |= np.uint8(ERROR_BLOCK)
                continue

            # Bounds of the groups, before any row is written.
            n_entries = np.uintp(0)
            entry_bytes = np.uintp(0)
            n_orders = np.uintp(0)
            order_bytes = np.uintp(0)
            entries = body
            orders = body
            if NEEDS[1, kind] > 0 and kind != mdp3.CHANNEL_RESET:
                if body + GROUP > stop:
                    errors |= np.uint8(ERROR_BLOCK)
                    continue
                entry_bytes = np.uintp(load_u16(body))
                n_entries = np.uintp(load_u8(body + np.uintp(2)))
                entries = body + GROUP
                orders = entries + n_entries * entry_bytes
                if orders > stop or (n_entries > 0 and entry_bytes < NEEDS[1, kind]):
                    errors |= np.uint8(ERROR_BLOCK)
                    continue
                if NEEDS[2, kind] > 0 and (template != 32 or version >= 7):  # 32 got its orders then
                    if orders + LONG_GROUP > stop:
                        errors |= np.uint8(ERROR_BLOCK)
                        continue
                    order_bytes = np.uintp(load_u16(orders))
                    n_orders = np.uintp(load_u8(orders + np.uintp(7)))
                    orders += LONG_GROUP
                    if orders + n_orders * order_bytes > stop or (
                        n_orders > 0 and order_bytes < NEEDS[2, kind]
                    ):
                        errors |= np.uint8(ERROR_BLOCK)
                        continue

            factor = np.int64(100) if template <= mdp3.LAST_COARSE_TEMPLATE else np.int64(1)
            m = np.int32(n_messages)
            messages.packet[n_messages] = i
            messages.msg_index[n_messages] = msg_index
            messages.template[n_messages] = template
            ts_event = np.int64(0)
            flags = np.uint8(0)
            if kind == mdp3.ORDER_BOOK:
                ts_event = load_i64(root)
                flags = load_u8(root + np.uintp(8))
                row_flags = flags & np.uint8(127)
                p = entries
                for k in range(n_entries):
                    entry_type = load_u8(p + O_TYPE)
                    mbo.message[n_mbo] = m
                    mbo.entry_index[n_mbo] = k
                    mbo.instrument_id[n_mbo] = load_i32(p + O_ID)
                    mbo.order_id[n_mbo] = load_u64(p + O_ORDER)
                    mbo.priority[n_mbo] = load_u64(p + O_PRIORITY)
                    mbo.price[n_mbo] = _price(load_i64(p + O_PRICE), factor)
                    mbo.size[n_mbo] = _size(load_i32(p + O_SIZE))
                    mbo.action[n_mbo] = np.uint8(9) if entry_type == 74 else load_u8(p + O_ACTION)
                    mbo.side[n_mbo] = _side(entry_type)
                    mbo.event_flags[n_mbo] = row_flags
                    mbo.orphan[n_mbo] = 0
                    n_mbo += ONE
                    p += entry_bytes
            elif kind == mdp3.BOOK or kind == mdp3.BOOK_LONG:
                ts_event = load_i64(root)
                flags = load_u8(root + np.uintp(8))
                row_flags = flags & np.uint8(127)
                first = n_mbp
                p = entries
                if kind == mdp3.BOOK:
                    tradeable = version >= 10 and entry_bytes >= np.uintp(31)
                    for k in range(n_entries):
                        mbp.message[n_mbp] = m
                        mbp.entry_index[n_mbp] = k
                        mbp.instrument_id[n_mbp] = load_i32(p + B_ID)
                        mbp.price[n_mbp] = _price(load_i64(p + B_PRICE), factor)
                        mbp.size[n_mbp] = _size(load_i32(p + B_SIZE))
                        mbp.orders[n_mbp] = load_i32(p + B_ORDERS)
                        mbp.level[n_mbp] = load_u8(p + B_LEVEL)
                        mbp.action[n_mbp] = load_u8(p + B_ACTION)
                        mbp.entry_type[n_mbp] = load_u8(p + B_TYPE)
                        mbp.rpt_seq[n_mbp] = load_u32(p + B_RPT)
                        mbp.tradeable_size[n_mbp] = (
                            _size(load_i32(p + B_TRADEABLE)) if tradeable else np.int64(mdp3.NULL_I64)
                        )
                        mbp.event_flags[n_mbp] = row_flags
                        n_mbp += ONE
                        p += entry_bytes
                else:
                    for k in range(n_entries):
                        mbp.message[n_mbp] = m
                        mbp.entry_index[n_mbp] = k
                        mbp.instrument_id[n_mbp] = load_i32(p + BL_ID)
                        mbp.price[n_mbp] = load_i64(p + BL_PRICE)
                        mbp.size[n_mbp] = _long_size(load_u64(p + BL_SIZE))
                        mbp.orders[n_mbp] = load_i32(p + BL_ORDERS)
                        mbp.level[n_mbp] = load_u8(p + BL_LEVEL)
                        mbp.action[n_mbp] = load_u8(p + BL_ACTION)
                        mbp.entry_type[n_mbp] = load_u8(p + BL_TYPE)
                        mbp.rpt_seq[n_mbp] = load_u32(p + BL_RPT)
                        mbp.tradeable_size[n_mbp] = mdp3.NULL_I64
                        mbp.event_flags[n_mbp] = row_flags
                        n_mbp += ONE
                        p += entry_bytes
                p = orders
                for k in range(n_orders):
                    reference = np.uintp(load_u8(p + BO_REFERENCE))
                    mbo.message[n_mbo] = m
                    mbo.entry_index[n_mbo] = k
                    mbo.order_id[n_mbo] = load_u64(p + BO_ID)
                    mbo.priority[n_mbo] = load_u64(p + BO_PRIORITY)
                    mbo.size[n_mbo] = _size(load_i32(p + BO_SIZE))
                    mbo.action[n_mbo] = load_u8(p + BO_ACTION)
                    mbo.event_flags[n_mbo] = row_flags
                    if reference >= ONE and reference <= n_entries and reference != np.uintp(mdp3.NULL_U8):
                        level = first + reference - ONE
                        mbo.instrument_id[n_mbo] = mbp.instrument_id[level]
                        mbo.price[n_mbo] = mbp.price[level]
                        mbo.side[n_mbo] = _side(mbp.entry_type[level])
                        mbo.orphan[n_mbo] = 0
                    else:
                        mbo.instrument_id[n_mbo] = mdp3.NULL_I32
                        mbo.price[n_mbo] = mdp3.NULL_I64
                        mbo.side[n_mbo] = 0
                        mbo.orphan[n_mbo] = 1
                    n_mbo += ONE
                    p += order_bytes
            elif kind == mdp3.TRADE or kind == mdp3.TRADE_LONG:
                ts_event = load_i64(root)
                flags = load_u8(root + np.uintp(8))
                row_flags = flags & np.uint8(127)
                p = entries
                for k in range(n_entries):
                    trades.message[n_trades] = m
                    trades.entry_index[n_trades] = k
                    if kind == mdp3.TRADE:
                        trades.instrument_id[n_trades] = load_i32(p + T_ID)
                        trades.price[n_trades] = _price(load_i64(p + T_PRICE), factor)
                        trades.size[n_trades] = _size(load_i32(p + T_SIZE))
                        trades.orders[n_trades] = load_i32(p + T_ORDERS)
                        trades.aggressor[n_trades] = load_u8(p + T_SIDE)
                        trades.action[n_trades] = load_u8(p + T_ACTION)
                        trades.trade_entry_id[n_trades] = (
                            load_u32(p + T_ENTRY)
                            if version >= 7 and entry_bytes >= np.uintp(30)
                            else np.uint32(mdp3.NULL_U32)
                        )
                        trades.rpt_seq[n_trades] = load_u32(p + T_RPT)
                    else:
                        trades.instrument_id[n_trades] = load_i32(p + TL_ID)
                        trades.price[n_trades] = load_i64(p + TL_PRICE)
                        trades.size[n_trades] = _long_size(load_u64(p + TL_SIZE))
                        trades.orders[n_trades] = load_i32(p + TL_ORDERS)
                        trades.aggressor[n_trades] = load_u8(p + TL_SIDE)
                        trades.action[n_trades] = load_u8(p + TL_ACTION)
                        trades.trade_entry_id[n_trades] = load_u32(p + TL_ENTRY)
                        trades.rpt_seq[n_trades] = load_u32(p + TL_RPT)
                    trades.event_flags[n_trades] = row_flags
                    n_trades += ONE
                    p += entry_bytes
                # The n-th trade of the event owns the next NumberOfOrders order entries, here or later.
                p = orders
                for k in range(n_orders):
                    while waiting < n_trades and (
                        waiting_n >= trades.orders[waiting]
                        or trades.orders[waiting] == np.int32(mdp3.NULL_I32)  # old templates: owns none
                    ):
                        waiting += ONE
                        waiting_n = np.int32(0)
                    trade_orders.message[n_trade_orders] = m
                    trade_orders.entry_index[n_trade_orders] = k
                    trade_orders.order_id[n_trade_orders] = load_u64(p + TO_ID)
                    trade_orders.size[n_trade_orders] = _size(load_i32(p + TO_SIZE))
                    trade_orders.event_flags[n_trade_orders] = row_flags
                    if waiting < n_trades:
                        trade_orders.trade[n_trade_orders] = waiting
                        trade_orders.n[n_trade_orders] = waiting_n
                        waiting_n += np.int32(1)
                    else:
                        trade_orders.trade[n_trade_orders] = -1
                        trade_orders.n[n_trade_orders] = 0
                    n_trade_orders += ONE
                    p += order_bytes
            elif (
                kind == mdp3.VOLUME
                or kind == mdp3.VOLUME_LONG
                or kind == mdp3.SESSION_STATISTICS
                or kind == mdp3.SESSION_STATISTICS_LONG
                or kind == mdp3.DAILY_STATISTICS
            ):
                ts_event = load_i64(root)
                flags = load_u8(root + np.uintp(8))
                row_flags = flags & np.uint8(127)
                p = entries
                for k in range(n_entries):
                    statistics.message[n_statistics] = m
                    statistics.entry_index[n_statistics] = k
                    statistics.event_flags[n_statistics] = row_flags
                    statistics.reference_date[n_statistics] = mdp3.NULL_U16
                    statistics.settl_price_type[n_statistics] = mdp3.NULL_U8
                    statistics.open_close_flag[n_statistics] = mdp3.NULL_U8
                    if kind == mdp3.VOLUME:
                        statistics.instrument_id[n_statistics] = load_i32(p + V_ID)
                        statistics.entry_type[n_statistics] = 101  # "e"
                        statistics.price[n_statistics] = mdp3.NULL_I64
                        statistics.size[n_statistics] = _size(load_i32(p + V_SIZE))
                        statistics.action[n_statistics] = load_u8(p + V_ACTION)
                        statistics.rpt_seq[n_statistics] = load_u32(p + V_RPT)
                    elif kind == mdp3.VOLUME_LONG:
                        statistics.instrument_id[n_statistics] = load_i32(p + VL_ID)
                        statistics.entry_type[n_statistics] = 101
                        statistics.price[n_statistics] = mdp3.NULL_I64
                        statistics.size[n_statistics] = _long_size(load_u64(p + VL_SIZE))
                        statistics.action[n_statistics] = load_u8(p + VL_ACTION)
                        statistics.rpt_seq[n_statistics] = load_u32(p + VL_RPT)
                    elif kind == mdp3.SESSION_STATISTICS:
                        statistics.instrument_id[n_statistics] = load_i32(p + S_ID)
                        statistics.entry_type[n_statistics] = load_u8(p + S_TYPE)
                        statistics.price[n_statistics] = _price(load_i64(p + S_PRICE), factor)
                        # MDEntrySize: since version 8, padding before.
                        statistics.size[n_statistics] = (
                            _size(load_i32(p + S_SIZE))
                            if version >= 8 and entry_bytes >= np.uintp(23)
                            else np.int64(mdp3.NULL_I64)
                        )
                        statistics.action[n_statistics] = load_u8(p + S_ACTION)
                        statistics.rpt_seq[n_statistics] = load_u32(p + S_RPT)
                        statistics.open_close_flag[n_statistics] = load_u8(p + S_FLAG)
                    elif kind == mdp3.SESSION_STATISTICS_LONG:
                        statistics.instrument_id[n_statistics] = load_i32(p + SL_ID)
                        statistics.entry_type[n_statistics] = load_u8(p + SL_TYPE)
                        statistics.price[n_statistics] = load_i64(p + SL_PRICE)
                        statistics.size[n_statistics] = _long_size(load_u64(p + SL_SIZE))
                        statistics.action[n_statistics] = load_u8(p + SL_ACTION)
                        statistics.rpt_seq[n_statistics] = load_u32(p + SL_RPT)
                        statistics.open_close_flag[n_statistics] = load_u8(p + SL_FLAG)
                    else:
                        statistics.instrument_id[n_statistics] = load_i32(p + D_ID)
                        statistics.entry_type[n_statistics] = load_u8(p + D_TYPE)
                        statistics.price[n_statistics] = _price(load_i64(p + D_PRICE), factor)
                        statistics.size[n_statistics] = _size(load_i32(p + D_SIZE))
                        statistics.action[n_statistics] = load_u8(p + D_ACTION)
                        statistics.rpt_seq[n_statistics] = load_u32(p + D_RPT)
                        statistics.reference_date[n_statistics] = load_u16(p + D_DATE)
                        statistics.settl_price_type[n_statistics] = load_u8(p + D_SETTL)
                    n_statistics += ONE
                    p += entry_bytes
            elif kind == mdp3.LIMITS:
                ts_event = load_i64(root)
                flags = load_u8(root + np.uintp(8))
                p = entries
                for k in range(n_entries):
                    limits.message[n_limits] = m
                    limits.entry_index[n_limits] = k
                    limits.instrument_id[n_limits] = load_i32(p + L_ID)
                    limits.high[n_limits] = _price(load_i64(p + L_HIGH), factor)
                    limits.low[n_limits] = _price(load_i64(p + L_LOW), factor)
                    limits.max_variation[n_limits] = _price(load_i64(p + L_VARIATION), factor)
                    limits.rpt_seq[n_limits] = load_u32(p + L_RPT)
                    limits.event_flags[n_limits] = flags & np.uint8(127)
                    n_limits += ONE
                    p += entry_bytes
            elif (
                kind == mdp3.SNAPSHOT
                or kind == mdp3.SNAPSHOT_LONG
                or kind == mdp3.SNAPSHOT_TCP_LONG
                or kind == mdp3.SNAPSHOT_ORDERS
            ):
                last_seq = reports = chunk = chunks = rpt_seq = np.uint32(mdp3.NULL_U32)
                if kind == mdp3.SNAPSHOT_ORDERS:
                    last_seq = load_u32(root + NO_LAST)
                    reports = load_u32(root + NO_REPORTS)
                    instrument_id = load_i32(root + NO_ID)
                    chunks = load_u32(root + NO_CHUNKS)
                    chunk = load_u32(root + NO_CHUNK)
                    ts_event = load_i64(root + NO_TIME)
                elif kind == mdp3.SNAPSHOT_TCP_LONG:
                    instrument_id = load_i32(root + NT_ID)
                    ts_event = load_i64(root)
                else:
                    last_seq = load_u32(root + N_LAST)
                    reports = load_u32(root + N_REPORTS)
                    instrument_id = load_i32(root + N_ID)
                    rpt_seq = load_u32(root + N_RPT)
                    ts_event = load_i64(root + N_TIME)
                p = entries
                for k in range(max(n_entries, ONE)):
                    snapshots.message[n_snapshots] = m
                    snapshots.entry_index[n_snapshots] = k
                    snapshots.instrument_id[n_snapshots] = instrument_id
                    snapshots.last_seq[n_snapshots] = last_seq
                    snapshots.reports[n_snapshots] = reports
                    snapshots.chunk[n_snapshots] = chunk
                    snapshots.chunks[n_snapshots] = chunks
                    snapshots.rpt_seq[n_snapshots] = rpt_seq
                    snapshots.orders[n_snapshots] = mdp3.NULL_I32
                    snapshots.level[n_snapshots] = mdp3.NULL_U8
                    snapshots.order_id[n_snapshots] = mdp3.NULL_U64
                    snapshots.priority[n_snapshots] = mdp3.NULL_U64
                    if n_entries == 0:
                        snapshots.entry_type[n_snapshots] = 0
                        snapshots.price[n_snapshots] = mdp3.NULL_I64
                        snapshots.size[n_snapshots] = mdp3.NULL_I64
                    elif kind == mdp3.SNAPSHOT_ORDERS:
                        snapshots.entry_type[n_snapshots] = load_u8(p + NOE_TYPE)
                        snapshots.price[n_snapshots] = _price(load_i64(p + NOE_PRICE), factor)
                        snapshots.size[n_snapshots] = _size(load_i32(p + NOE_SIZE))
                        snapshots.order_id[n_snapshots] = load_u64(p + NOE_ORDER)
                        snapshots.priority[n_snapshots] = load_u64(p + NOE_PRIORITY)
                    elif kind == mdp3.SNAPSHOT:
                        level = load_i8(p + NE_LEVEL)
                        snapshots.entry_type[n_snapshots] = load_u8(p + NE_TYPE)
                        snapshots.price[n_snapshots] = _price(load_i64(p + NE_PRICE), factor)
                        snapshots.size[n_snapshots] = _size(load_i32(p + NE_SIZE))
                        snapshots.orders[n_snapshots] = load_i32(p + NE_ORDERS)
                        if level != np.int8(mdp3.NULL_I8):
                            snapshots.level[n_snapshots] = level
                    else:
                        snapshots.entry_type[n_snapshots] = load_u8(p + NL_TYPE)
                        snapshots.price[n_snapshots] = load_i64(p + NL_PRICE)
                        snapshots.size[n_snapshots] = _long_size(load_u64(p + NL_SIZE))
                        snapshots.orders[n_snapshots] = load_i32(p + NL_ORDERS)
                        snapshots.level[n_snapshots] = load_u8(p + NL_LEVEL)
                    n_snapshots += ONE
                    p += entry_bytes
            elif kind != mdp3.HEARTBEAT:  # definitions, status, channel reset: read where they lie
                if kind == mdp3.STATUS:
                    flags = load_u8(root + STATUS_FLAGS)
                elif kind == mdp3.CHANNEL_RESET:
                    flags = load_u8(root + RESET_FLAGS)
                rare.message[n_rare] = m
                rare.offset[n_rare] = message - base
                rare.bytes[n_rare] = size
                rare.block_length[n_rare] = block
                rare.version[n_rare] = version
                n_rare += ONE
            messages.ts_event[n_messages] = ts_event
            n_messages += ONE

            if flags & np.uint8(128):  # end of event: mark the event's last row in each table
                if n_mbo > e_mbo:
                    mbo.event_flags[n_mbo - ONE] |= np.uint8(128)
                if n_mbp > e_mbp:
                    mbp.event_flags[n_mbp - ONE] |= np.uint8(128)
                if n_trades > e_trades:
                    trades.event_flags[n_trades - ONE] |= np.uint8(128)
                if n_trade_orders > e_trade_orders:
                    trade_orders.event_flags[n_trade_orders - ONE] |= np.uint8(128)
                if n_statistics > e_statistics:
                    statistics.event_flags[n_statistics - ONE] |= np.uint8(128)
                if n_limits > e_limits:
                    limits.event_flags[n_limits - ONE] |= np.uint8(128)
                e_mbo, e_mbp, e_trades, e_trade_orders = n_mbo, n_mbp, n_trades, n_trade_orders
                e_statistics, e_limits = n_statistics, n_limits
                waiting, waiting_n = n_trades, np.int32(0)

        packet_messages[i] = count
        packet_unknown[i] = unknown
        packet_errors[i] = errors

    return (
        n_messages,
        n_mbo,
        n_mbp,
        n_trades,
        n_trade_orders,
        n_statistics,
        n_limits,
        n_snapshots,
        n_rare,
    )

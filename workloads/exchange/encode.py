"""Write MDP 3.0, version 13, byte by byte into a buffer, at compiled speed.

Every writer takes an address and returns the address behind what it wrote. Nothing checks a bound: the
caller leaves `MAX_PACKET_BYTES` of room. Fields and offsets: `workloads.exchange.mdp3`.

    at = packet_header(start, seq, ts_sent)
    message = at
    at = group(refresh_root(message_header(at, BOOK, 11), ts_event, flags), 32, 1)
    at = book_entry(at, price, size, instrument_id, rpt_seq, orders, level, action, entry_type)
    at = end_message(message, long_group(at, 24, 0))
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call"
# The writers are compiled: Numba infers their types, all arguments are integers.

from typing import Any

import numpy as np
from numba import njit

from workloads.exchange import mdp3
from workloads.exchange.packets import HEADER_BYTES
from workloads.exchange.wire import store_i32, store_i64, store_u8, store_u16, store_u32, store_u64

MAX_PACKET_BYTES = 1_472
"""UDP payload that fits an Ethernet frame of 1,500 bytes."""

writer = njit(nogil=True, cache=True, inline="never")


@writer
def packet_header(at, seq, ts_sent):
    store_u32(at, np.uint32(seq))
    store_u64(at + np.uintp(4), np.uint64(ts_sent))
    return at + np.uintp(HEADER_BYTES)


@writer
def message_header(at, template, block_length):
    """The size is written by `end_message`."""
    store_u16(at + np.uintp(2), np.uint16(block_length))
    store_u16(at + np.uintp(4), np.uint16(template))
    store_u16(at + np.uintp(6), np.uint16(mdp3.SCHEMA_ID))
    store_u16(at + np.uintp(8), np.uint16(mdp3.VERSION))
    return at + np.uintp(mdp3.MESSAGE_HEADER_BYTES)


@writer
def end_message(message, at):
    """Write MsgSize of the message that began at ``message`` and ends at ``at``."""
    store_u16(message, np.uint16(at - message))
    return at


@writer
def refresh_root(at, ts_event, event_flags):
    """TransactTime, MatchEventIndicator and padding: the root of every incremental refresh."""
    store_u64(at, np.uint64(ts_event))
    store_u8(at + np.uintp(8), np.uint8(event_flags))
    store_u16(at + np.uintp(9), np.uint16(0))
    return at + np.uintp(11)


@writer
def group(at, block_length, n):
    store_u16(at, np.uint16(block_length))
    store_u8(at + np.uintp(2), np.uint8(n))
    return at + np.uintp(mdp3.GROUP_BYTES)


@writer
def long_group(at, block_length, n):
    store_u64(at, np.uint64(block_length))
    store_u8(at + np.uintp(7), np.uint8(n))
    return at + np.uintp(mdp3.LONG_GROUP_BYTES)


@writer
def heartbeat(at):
    return end_message(at, message_header(at, mdp3.HEARTBEAT, 0))


@writer
def channel_reset(at, ts_event, event_flags, appl_id):
    message = at
    at = message_header(at, mdp3.CHANNEL_RESET, 9)
    store_u64(at, np.uint64(ts_event))
    store_u8(at + np.uintp(8), np.uint8(event_flags))
    at = group(at + np.uintp(9), 2, 1)
    store_u16(at, np.uint16(appl_id))
    return end_message(message, at + np.uintp(2))


@writer
def book_entry(at, price, size, instrument_id, rpt_seq, orders, level, action, entry_type, tradeable_size):
    store_i64(at, np.int64(price))
    store_i32(at + np.uintp(8), np.int32(size))
    store_i32(at + np.uintp(12), np.int32(instrument_id))
    store_u32(at + np.uintp(16), np.uint32(rpt_seq))
    store_i32(at + np.uintp(20), np.int32(orders))
    store_u8(at + np.uintp(24), np.uint8(level))
    store_u8(at + np.uintp(25), np.uint8(action))
    store_u8(at + np.uintp(26), np.uint8(entry_type))
    store_i32(at + np.uintp(27), np.int32(tradeable_size))
    store_u8(at + np.uintp(31), np.uint8(0))
    return at + np.uintp(32)


@writer
def book_order(at, order_id, priority, size, reference, action):
    """``reference``: 1-based position of the order's book entry in this message."""
    store_u64(at, np.uint64(order_id))
    store_u64(at + np.uintp(8), np.uint64(priority))
    store_i32(at + np.uintp(16), np.int32(size))
    store_u8(at + np.uintp(20), np.uint8(reference))
    store_u8(at + np.uintp(21), np.uint8(action))
    store_u16(at + np.uintp(22), np.uint16(0))
    return at + np.uintp(24)


@writer
def order_book_entry(at, order_id, priority, price, size, instrument_id, action, entry_type):
    store_u64(at, np.uint64(order_id))
    store_u64(at + np.uintp(8), np.uint64(priority))
    store_i64(at + np.uintp(16), np.int64(price))
    store_i32(at + np.uintp(24), np.int32(size))
    store_i32(at + np.uintp(28), np.int32(instrument_id))
    store_u8(at + np.uintp(32), np.uint8(action))
    store_u8(at + np.uintp(33), np.uint8(entry_type))
    store_u16(at + np.uintp(34), np.uint16(0))
    store_u32(at + np.uintp(36), np.uint32(0))
    return at + np.uintp(40)


@writer
def trade_entry(at, price, size, instrument_id, rpt_seq, orders, aggressor, action, trade_entry_id):
    store_i64(at, np.int64(price))
    store_i32(at + np.uintp(8), np.int32(size))
    store_i32(at + np.uintp(12), np.int32(instrument_id))
    store_u32(at + np.uintp(16), np.uint32(rpt_seq))
    store_i32(at + np.uintp(20), np.int32(orders))
    store_u8(at + np.uintp(24), np.uint8(aggressor))
    store_u8(at + np.uintp(25), np.uint8(action))
    store_u32(at + np.uintp(26), np.uint32(trade_entry_id))
    store_u16(at + np.uintp(30), np.uint16(0))
    return at + np.uintp(32)


@writer
def trade_order(at, order_id, size):
    store_u64(at, np.uint64(order_id))
    store_i32(at + np.uintp(8), np.int32(size))
    store_u32(at + np.uintp(12), np.uint32(0))
    return at + np.uintp(16)


@writer
def volume_entry(at, size, instrument_id, rpt_seq, action):
    store_i32(at, np.int32(size))
    store_i32(at + np.uintp(4), np.int32(instrument_id))
    store_u32(at + np.uintp(8), np.uint32(rpt_seq))
    store_u32(at + np.uintp(12), np.uint32(action))
    return at + np.uintp(16)


@writer
def daily_statistics_entry(
    at, price, size, instrument_id, rpt_seq, reference_date, settl_price_type, action, entry_type
):
    """``reference_date``: days since 1970-01-01, 65535 null."""
    store_i64(at, np.int64(price))
    store_i32(at + np.uintp(8), np.int32(size))
    store_i32(at + np.uintp(12), np.int32(instrument_id))
    store_u32(at + np.uintp(16), np.uint32(rpt_seq))
    store_u16(at + np.uintp(20), np.uint16(reference_date))
    store_u8(at + np.uintp(22), np.uint8(settl_price_type))
    store_u8(at + np.uintp(23), np.uint8(action))
    store_u64(at + np.uintp(24), np.uint64(entry_type))
    return at + np.uintp(32)


@writer
def limits_entry(at, high, low, max_variation, instrument_id, rpt_seq):
    store_i64(at, np.int64(high))
    store_i64(at + np.uintp(8), np.int64(low))
    store_i64(at + np.uintp(16), np.int64(max_variation))
    store_i32(at + np.uintp(24), np.int32(instrument_id))
    store_u32(at + np.uintp(28), np.uint32(rpt_seq))
    return at + np.uintp(32)


@writer
def session_statistics_entry(at, price, instrument_id, rpt_seq, open_close_flag, action, entry_type, size):
    store_i64(at, np.int64(price))
    store_i32(at + np.uintp(8), np.int32(instrument_id))
    store_u32(at + np.uintp(12), np.uint32(rpt_seq))
    store_u8(at + np.uintp(16), np.uint8(open_close_flag))
    store_u8(at + np.uintp(17), np.uint8(action))
    store_u8(at + np.uintp(18), np.uint8(entry_type))
    store_i32(at + np.uintp(19), np.int32(size))
    store_u8(at + np.uintp(23), np.uint8(0))
    return at + np.uintp(24)


@writer
def status(
    at,
    ts_event,
    security_group,
    asset,
    instrument_id,
    trade_date,
    event_flags,
    trading_status,
    halt_reason,
    trading_event,
):
    """Whole message 30. ``security_group`` and ``asset``: 6 ASCII bytes, first byte lowest, in a u64."""
    message = at
    at = message_header(at, mdp3.STATUS, 30)
    store_u64(at, np.uint64(ts_event))
    store_u64(at + np.uintp(8), np.uint64(security_group))
    store_u64(at + np.uintp(14), np.uint64(asset))
    store_i32(at + np.uintp(20), np.int32(instrument_id))
    store_u16(at + np.uintp(24), np.uint16(trade_date))
    store_u8(at + np.uintp(26), np.uint8(event_flags))
    store_u8(at + np.uintp(27), np.uint8(trading_status))
    store_u8(at + np.uintp(28), np.uint8(halt_reason))
    store_u8(at + np.uintp(29), np.uint8(trading_event))
    return end_message(message, at + np.uintp(30))


@writer
def snapshot_root(
    at,
    last_seq,
    reports,
    instrument_id,
    rpt_seq,
    ts_event,
    last_update_time,
    trade_date,
    trading_status,
    high,
    low,
    max_variation,
):
    """Root of 52."""
    store_u32(at, np.uint32(last_seq))
    store_u32(at + np.uintp(4), np.uint32(reports))
    store_i32(at + np.uintp(8), np.int32(instrument_id))
    store_u32(at + np.uintp(12), np.uint32(rpt_seq))
    store_u64(at + np.uintp(16), np.uint64(ts_event))
    store_u64(at + np.uintp(24), np.uint64(last_update_time))
    store_u16(at + np.uintp(32), np.uint16(trade_date))
    store_u8(at + np.uintp(34), np.uint8(trading_status))
    store_i64(at + np.uintp(35), np.int64(high))
    store_i64(at + np.uintp(43), np.int64(low))
    store_i64(at + np.uintp(51), np.int64(max_variation))
    return at + np.uintp(59)


@writer
def snapshot_entry(
    at, price, size, orders, level, reference_date, open_close_flag, settl_price_type, entry_type
):
    store_i64(at, np.int64(price))
    store_i32(at + np.uintp(8), np.int32(size))
    store_i32(at + np.uintp(12), np.int32(orders))
    store_u8(at + np.uintp(16), np.uint8(level))
    store_u16(at + np.uintp(17), np.uint16(reference_date))
    store_u8(at + np.uintp(19), np.uint8(open_close_flag))
    store_u8(at + np.uintp(20), np.uint8(settl_price_type))
    store_u8(at + np.uintp(21), np.uint8(entry_type))
    return at + np.uintp(22)


@writer
def snapshot_orders_root(at, last_seq, reports, instrument_id, chunks, chunk, ts_event):
    """Root of 53; ``chunk`` counts from 1."""
    store_u32(at, np.uint32(last_seq))
    store_u32(at + np.uintp(4), np.uint32(reports))
    store_i32(at + np.uintp(8), np.int32(instrument_id))
    store_u32(at + np.uintp(12), np.uint32(chunks))
    store_u32(at + np.uintp(16), np.uint32(chunk))
    store_u64(at + np.uintp(20), np.uint64(ts_event))
    return at + np.uintp(28)


@writer
def snapshot_order_entry(at, order_id, priority, price, size, entry_type):
    store_u64(at, np.uint64(order_id))
    store_u64(at + np.uintp(8), np.uint64(priority))
    store_i64(at + np.uintp(16), np.int64(price))
    store_i32(at + np.uintp(24), np.int32(size))
    store_u8(at + np.uintp(28), np.uint8(entry_type))
    return at + np.uintp(29)


_NULLS: dict[str, int] = {
    **dict.fromkeys(
        ("tick_value", "unit_quantity", "reference_price", "strike", "min_cab_price"), mdp3.NULL_I64
    ),
    **dict.fromkeys(("high_limit", "low_limit", "max_variation", "price_ratio"), mdp3.NULL_I64),
    **dict.fromkeys(("open_interest", "cleared_volume", "decay_quantity"), mdp3.NULL_I32),
    **dict.fromkeys(("original_contract_size", "contract_multiplier"), mdp3.NULL_I32),
    **dict.fromkeys(("main_fraction", "sub_fraction", "price_display_format"), mdp3.NULL_U8),
    "trading_status": mdp3.NULL_U8,
    **dict.fromkeys(("tick_rule", "contract_multiplier_unit", "flow_schedule"), mdp3.NULL_I8),
    **dict.fromkeys(("reference_date", "decay_start", "maturity_year"), mdp3.NULL_U16),
    **dict.fromkeys(("maturity_month", "maturity_day", "maturity_week"), mdp3.NULL_U8),
    "reports": mdp3.NULL_U32,
    "guid": mdp3.NULL_U64,
}
_NULLS_OF: dict[int, dict[str, int]] = {
    mdp3.DEFINITION_OPTION: {"tick": mdp3.NULL_I64},
    mdp3.DEFINITION_SPREAD: {"tick": mdp3.NULL_I64, "underlying_product": mdp3.NULL_U8},
    mdp3.DEFINITION_FIXED_INCOME: {"tick": mdp3.NULL_I64},
}
"""Fields that only some templates may leave out."""


def definition(
    template: int,
    *,
    activation: int | None = None,
    expiration: int | None = None,
    depth: int = 10,
    attributes: int = 1,
    legs: tuple[tuple[int, int, int], ...] = (),
    **fields: Any,
) -> bytes:
    """A whole definition message (54, 55, 56, 57, 58 or 63).

    ``fields`` are those of ``mdp3.DEFINITION[template]``, prices and factors as 1e-9 mantissas in wire
    units; what is left out is null, or zero where the venue has no null. ``activation`` and
    ``expiration`` ns; ``legs`` (instrument id, side, ratio), spreads only.
    """
    root = np.zeros(1, mdp3.DEFINITION[template])
    nulls = _NULLS | _NULLS_OF.get(template, {})
    for name in root.dtype.names or ():
        if name in nulls:
            root[name] = nulls[name]
    for name, value in fields.items():
        root[name] = value
    events = np.array(
        [(kind, ts) for kind, ts in ((5, activation), (7, expiration)) if ts is not None], mdp3.EVENT
    )
    groups = [events, np.array([(b"GBX", depth)], mdp3.FEED_TYPE), np.array([(attributes,)], mdp3.ATTRIBUTE)]
    lot_bytes = 9 if template == mdp3.DEFINITION_FX else 5
    body = root.tobytes()
    for block in groups:
        body += _group_bytes(block.dtype.itemsize, len(block)) + block.tobytes()
    body += _group_bytes(lot_bytes, 0)
    if template == mdp3.DEFINITION_OPTION:
        body += _group_bytes(24, 0) + _group_bytes(24, 0)
    if template == mdp3.DEFINITION_SPREAD:
        block = np.array([(*leg, mdp3.NULL_I64, mdp3.NULL_I32) for leg in legs], mdp3.LEG)
        body += _group_bytes(mdp3.LEG.itemsize, len(block)) + block.tobytes()
    if template == mdp3.DEFINITION_REPO:
        body += _group_bytes(118, 0) + _group_bytes(32, 0) + _group_bytes(16, 0)
    if template == mdp3.DEFINITION_FX:
        body += _group_bytes(18, 0)
    header = np.array(
        [mdp3.MESSAGE_HEADER_BYTES + len(body), root.itemsize, template, mdp3.SCHEMA_ID, mdp3.VERSION], "<u2"
    )
    return header.tobytes() + body


def _group_bytes(block_length: int, n: int) -> bytes:
    return block_length.to_bytes(2, "little") + n.to_bytes(1, "little")

"""Rows of orders (DBN MBO) as MDP 3.0 packets.

One packet per sequence number, its messages in the order of the rows. Neighbouring rows of one event
share a message: adds, changes and cancels become OrderBook (47), trades and fills TradeSummary (48). A row
that ends its event (LAST) sets bit 7 of its message.

- A -> New. M -> Change. C -> Delete, with the row's size as MDDisplayQty. A C that takes only a part of an
  order, which CME's own feed never needs, becomes a Change to what is left, so that books stay true.
- MDOrderPriority is made up, by CME's rule: a new order, another price or a larger size goes to the back.
- T -> one trade entry. Its order entries: the aggressor first, then the fills (F) that follow. The aggressor
  is the T row's own order; where the first F row is that order again, it is written once.
- R -> an OrderBook entry of type J. N -> no entry; if it ends an event, it does so as an empty message.
- A sequence number that no row carries gets one heartbeat: those packets were about other instruments.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call"
# The writers are compiled: Numba infers their types.

from collections.abc import Iterator
from math import gcd
from typing import Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

from workloads.exchange import mdp3
from workloads.exchange.captures.products import ONE
from workloads.exchange.encode import (
    channel_reset,
    end_message,
    group,
    heartbeat,
    long_group,
    message_header,
    order_book_entry,
    packet_header,
    refresh_root,
    status,
    trade_entry,
    trade_order,
)
from workloads.exchange.packets import HEADER_BYTES, Packets
from workloads.exchange.wire import load_i32, load_i64, load_u8, load_u32, load_u64
from workloads.ticks.codes import Action, EntryType, EventFlag, Side

MAX_PACKET_ROWS: Final = 800
"""Rows under one sequence number; 80 bytes a row at most, so that every packet fits a UDP datagram."""
BOOK_PACKET_ROWS: Final = 30
MAX_GROUP: Final = 255
_ROW_BYTES: Final = 80  # a trade alone in its message: 10 + 11 + 3 + 32 + 8 + 16
_HEARTBEAT_BYTES: Final = HEADER_BYTES + mdp3.MESSAGE_HEADER_BYTES
_OUT_BYTES: Final = 4 << 20
_OUT_PACKETS: Final = 65_536

# Offsets of a DBN MBO record.
_TS_EVENT, _ORDER_ID, _PRICE, _SIZE, _FLAGS, _ACTION, _SIDE, _TS_RECV, _DELTA, _SEQ = (
    8, 16, 24, 32, 36, 38, 39, 40, 48, 52,
)  # fmt: skip
_LAST: Final = 128
_A, _C, _F, _M, _N, _R, _T, _B = (ord(letter) for letter in "ACFMNRTB")
_NEW, _CHANGE, _DELETE = int(Action.NEW), int(Action.CHANGE), int(Action.DELETE)
_BID, _OFFER, _RESET = int(EntryType.BID), int(EntryType.OFFER), int(EntryType.RESET)
_BUY, _SELL, _NO_SIDE = int(Side.BUY), int(Side.SELL), int(Side.NONE)
_END, _RECOVERY = int(EventFlag.END), int(EventFlag.RECOVERY)

# State of an encoder, one int64 each.
_PREVIOUS, _PRIORITY, _TRADES, _ORDERS = range(4)

# Columns of the table of resting orders, uint64 each; a priority of 0 marks a free slot.
_T_ID, _T_PRICE, _T_SIZE, _T_PRIORITY = range(4)


def wire_ratio(display_factor: int) -> tuple[int, int]:
    """(multiply, divide): how a quoted price in 1e-9 becomes a wire price in 1e-9."""
    common = gcd(ONE, display_factor)
    return ONE // common, display_factor // common


class Encoder:
    """Turns rows into packets, block after block; remembers the resting orders.

    Rows are ``uint8[n, record_bytes]``, whole DBN MBO records.
    """

    def __init__(self, *, instrument_id: int, display_factor: int, shift: int = 0):
        self._instrument_id = instrument_id
        self._multiply, self._divide = wire_ratio(display_factor)
        self._shift = shift
        self._state = np.array([-1, 0, 0, 0], np.int64)
        self._table = np.zeros((1 << 12, 4), np.uint64)

    def book(
        self, rows: NDArray[np.uint8], first_seq: int, ts_first: int, ts_step: int, *, final: bool
    ) -> Packets:
        """Resting orders as messages marked "recovery", 30 a packet; ``final``: the book ends here.

        SendingTime starts at ``ts_first`` and grows by ``ts_step`` ns a packet.
        """
        count = -(-len(rows) // BOOK_PACKET_ROWS)
        self._make_room(len(rows))
        out = np.empty(len(rows) * _ROW_BYTES + count * HEADER_BYTES, np.uint8)
        offset, length = np.empty(count, np.int64), np.empty(count, np.int32)
        _book(
            rows.ctypes.data, len(rows), rows.shape[1], out.ctypes.data, offset, length, self._state,
            self._table, self._multiply, self._divide, self._instrument_id, first_seq, ts_first, ts_step,
            final,
        )  # fmt: skip
        return Packets(out, offset, length)

    def live(self, rows: NDArray[np.uint8]) -> Iterator[Packets]:
        """Packets of rows in sequence order. All rows of a sequence number must come in one call."""
        self._make_room(len(rows))
        done = 0
        while done < len(rows):
            out = np.empty(_OUT_BYTES, np.uint8)
            offset, length = np.empty(_OUT_PACKETS, np.int64), np.empty(_OUT_PACKETS, np.int32)
            done, used, count = _live(
                rows.ctypes.data, len(rows), rows.shape[1], done, out.ctypes.data, len(out), offset, length,
                self._state, self._table, self._multiply, self._divide, self._instrument_id, self._shift,
            )  # fmt: skip
            # Copied, so that a block keeps no more memory than its packets need.
            yield Packets(out[:used].copy(), offset[:count].copy(), length[:count].copy())

    def _make_room(self, rows: int) -> None:
        need = 2 * (int(self._state[_ORDERS]) + rows)
        if need > len(self._table):
            table = np.zeros((1 << need.bit_length(), 4), np.uint64)
            _move(self._table, table)
            self._table = table


def whole_packets(seq: NDArray[np.uint32]) -> int:
    """How many leading rows certainly belong to whole packets, when more rows may follow."""
    changes = np.flatnonzero(seq[1:] != seq[:-1])
    return int(changes[-1]) + 1 if len(changes) else 0


def opening(
    *, seq: int, ts_sent: list[int], definition: bytes, security_group: bytes, instrument_id: int,
    trade_date: int, trading_status: int,
) -> list[bytes]:  # fmt: skip
    """Three packets: channel reset, definition, status. ``trade_date``: days since 1970-01-01."""
    out = np.empty(128, np.uint8)
    address = out.ctypes.data
    name = int.from_bytes(security_group[:6].ljust(6, b"\0"), "little")
    reset = channel_reset(address, ts_sent[0], _END, 0) - address
    messages = [out[:reset].tobytes(), definition]
    size = (
        status(address, ts_sent[2], name, name, instrument_id, trade_date, _END, trading_status, 0, 0)
        - address
    )
    messages.append(out[:size].tobytes())
    return [
        (seq + i).to_bytes(4, "little") + ts.to_bytes(8, "little") + message
        for i, (ts, message) in enumerate(zip(ts_sent, messages, strict=True))
    ]


@njit(nogil=True, cache=True)
def _slot(table, order_id):
    """Where an order is in the table, or the free slot where it belongs."""
    mask = np.uint64(len(table) - 1)
    mixed = np.uint64(order_id) * np.uint64(0x9E3779B97F4A7C15)
    slot = np.int64((mixed >> np.uint64(32)) & mask)
    while table[slot, _T_PRIORITY] != 0 and table[slot, _T_ID] != order_id:
        slot = (slot + 1) & np.int64(mask)
    return slot


@njit(nogil=True, cache=True)
def _free(table, slot):
    """Take an order out and close the hole, so that searches still find what lies behind it."""
    last = len(table) - 1
    table[slot, _T_PRIORITY] = 0
    at = (slot + 1) & last
    while table[at, _T_PRIORITY] != 0:
        order_id, price, size, priority = table[at, 0], table[at, 1], table[at, 2], table[at, 3]
        table[at, _T_PRIORITY] = 0
        home = _slot(table, order_id)
        table[home, 0], table[home, 1], table[home, 2], table[home, 3] = order_id, price, size, priority
        at = (at + 1) & last


@njit(nogil=True, cache=True)
def _move(old, new):
    for i in range(len(old)):
        if old[i, _T_PRIORITY] != 0:
            new[_slot(new, old[i, _T_ID])] = old[i]


@njit(nogil=True, cache=True)
def _rest(table, state, order_id, price, size, keeps_place):
    """An order now rests with this price and size; returns its priority."""
    slot = _slot(table, order_id)
    known = table[slot, _T_PRIORITY] != 0
    stays = (
        keeps_place
        and known
        and table[slot, _T_PRICE] == np.uint64(price)
        and size <= np.int64(table[slot, _T_SIZE])
    )
    if not known:
        state[_ORDERS] += 1
    if not stays:
        state[_PRIORITY] += 1
        table[slot, _T_PRIORITY] = np.uint64(state[_PRIORITY])
    table[slot, _T_ID] = order_id
    table[slot, _T_PRICE] = np.uint64(price)
    table[slot, _T_SIZE] = np.uint64(size)
    return table[slot, _T_PRIORITY]


@njit(nogil=True, cache=True)
def _wire_price(price, multiply, divide):
    if price == mdp3.NULL_I64:
        return price
    return price // divide * multiply


@njit(nogil=True, cache=True)
def _wire_size(size):
    return np.int64(mdp3.NULL_I32) if size == mdp3.NULL_U32 else np.int64(size)


@njit(nogil=True, cache=True)
def _order(at, row, table, state, multiply, divide, instrument_id):
    """The OrderBook entry of one row; none for a row without an action (N)."""
    action = load_u8(row + np.uintp(_ACTION))
    if action == _N:
        return at
    order_id = load_u64(row + np.uintp(_ORDER_ID))
    price = _wire_price(load_i64(row + np.uintp(_PRICE)), multiply, divide)
    size = _wire_size(load_u32(row + np.uintp(_SIZE)))
    kind = _BID if load_u8(row + np.uintp(_SIDE)) == _B else _OFFER
    if action == _R:
        table[:, _T_PRIORITY] = 0
        state[_ORDERS] = 0
        return order_book_entry(at, 0, 0, mdp3.NULL_I64, mdp3.NULL_I32, instrument_id, _NEW, _RESET)
    if action == _C:
        slot = _slot(table, order_id)
        priority = table[slot, _T_PRIORITY]
        left = np.int64(table[slot, _T_SIZE]) - size
        if priority != 0 and left > 0:
            table[slot, _T_SIZE] = np.uint64(left)
            return order_book_entry(at, order_id, priority, price, left, instrument_id, _CHANGE, kind)
        if priority != 0:
            _free(table, slot)
            state[_ORDERS] -= 1
        return order_book_entry(at, order_id, priority, price, size, instrument_id, _DELETE, kind)
    priority = _rest(table, state, order_id, price, size, action == _M)
    return order_book_entry(
        at, order_id, priority, price, size, instrument_id, _CHANGE if action == _M else _NEW, kind
    )


@njit(nogil=True, cache=True)
def _order_messages(
    at, row, n, row_bytes, event_flags, last_flags, table, state, multiply, divide, instrument_id
):
    """OrderBook (47) messages of n rows of one event; the last message also carries ``last_flags``."""
    done = 0
    while done < n:
        count = min(n - done, MAX_GROUP)
        flags = event_flags | last_flags if done + count == n else event_flags
        message = at
        at = refresh_root(message_header(at, mdp3.ORDER_BOOK, 11), load_u64(row + np.uintp(_TS_EVENT)), flags)
        header = at
        at = group(header, 40, count)
        first = at
        for i in range(done, done + count):
            at = _order(at, row + np.uintp(i * row_bytes), table, state, multiply, divide, instrument_id)
        group(header, 40, (at - first) // np.uintp(40))
        at = end_message(message, at)
        done += count
    return at


@njit(nogil=True, cache=True)
def _is_fill(rows, row_bytes, i):
    return load_u8(rows + np.uintp(i * row_bytes + _ACTION)) == _F


@njit(nogil=True, cache=True)
def _fills_end(rows, row_bytes, i, n):
    """Behind the last of the F rows that begin at i."""
    while i < n and _is_fill(rows, row_bytes, i):
        i += 1
    return i


@njit(nogil=True, cache=True)
def _names_aggressor(rows, row_bytes, i, n):
    """Whether a T row must give its own order as the first order entry: known, and not the next F row."""
    order_id = load_u64(rows + np.uintp(i * row_bytes + _ORDER_ID))
    if order_id == 0 or load_u8(rows + np.uintp(i * row_bytes + _SIDE)) == _N:
        return False
    following = i + 1
    if following < n and _is_fill(rows, row_bytes, following):
        return load_u64(rows + np.uintp(following * row_bytes + _ORDER_ID)) != order_id
    return True


@njit(nogil=True, cache=True)
def _trade_segment(rows, row_bytes, i, n):
    """(trades, orders, end) of the rows from i that fit one TradeSummary."""
    if _is_fill(rows, row_bytes, i):  # the rest of a trade of more than 255 orders, or fills without a trade
        end = min(_fills_end(rows, row_bytes, i, n), i + MAX_GROUP)
        return 0, end - i, end
    trades, orders = 0, 0
    while i < n and trades < MAX_GROUP:
        end = _fills_end(rows, row_bytes, i + 1, n)
        named = 1 if _names_aggressor(rows, row_bytes, i, n) else 0
        own = end - i - 1 + named
        if orders + own > MAX_GROUP:
            if trades == 0:
                return 1, MAX_GROUP, i + 1 + MAX_GROUP - named
            break
        trades, orders, i = trades + 1, orders + own, end
    return trades, orders, i


@njit(nogil=True, cache=True)
def _trade_messages(at, rows, n, row_bytes, last_flags, state, multiply, divide, instrument_id):
    """TradeSummary (48) messages of n rows of one event."""
    done = 0
    while done < n:
        trades, orders, end = _trade_segment(rows, row_bytes, done, n)
        message = at
        at = refresh_root(
            message_header(at, mdp3.TRADE, 11),
            load_u64(rows + np.uintp(_TS_EVENT)),
            last_flags if end == n else 0,
        )
        at = group(at, 32, trades)
        for i in range(done, end):
            if not _is_fill(rows, row_bytes, i):
                row = rows + np.uintp(i * row_bytes)
                own = _fills_end(rows, row_bytes, i + 1, n) - i - 1
                if _names_aggressor(rows, row_bytes, i, n):
                    own += 1
                side = load_u8(row + np.uintp(_SIDE))
                aggressor = _BUY if side == _B else _SELL if side == _A else _NO_SIDE
                state[_TRADES] += 1
                at = trade_entry(
                    at,
                    _wire_price(load_i64(row + np.uintp(_PRICE)), multiply, divide),
                    _wire_size(load_u32(row + np.uintp(_SIZE))),
                    instrument_id,
                    state[_TRADES],
                    own,
                    aggressor,
                    _NEW,
                    state[_TRADES],
                )
        at = long_group(at, 16, orders)
        for i in range(done, end):
            row = rows + np.uintp(i * row_bytes)
            if _is_fill(rows, row_bytes, i) or _names_aggressor(rows, row_bytes, i, n):
                order_id = load_u64(row + np.uintp(_ORDER_ID))
                at = trade_order(at, order_id, _wire_size(load_u32(row + np.uintp(_SIZE))))
        at = end_message(message, at)
        done = end
    return at


@njit(nogil=True, cache=True)
def _packet(at, rows, n, row_bytes, seq, table, state, multiply, divide, instrument_id):
    """One packet of n rows that share a sequence number."""
    ts_sent = load_u64(rows + np.uintp(_TS_RECV)) - np.uint64(load_i32(rows + np.uintp(_DELTA)))
    at = packet_header(at, seq, ts_sent)
    begin = 0
    while begin < n:
        first = rows + np.uintp(begin * row_bytes)
        ts_event = load_u64(first + np.uintp(_TS_EVENT))
        action = load_u8(first + np.uintp(_ACTION))
        trade = action in (_T, _F)
        end, last = begin, False
        while end < n and not last:
            row = rows + np.uintp(end * row_bytes)
            action = load_u8(row + np.uintp(_ACTION))
            if (action in (_T, _F)) != trade or load_u64(row + np.uintp(_TS_EVENT)) != ts_event:
                break
            last = load_u8(row + np.uintp(_FLAGS)) & _LAST != 0
            end += 1
        flags = _END if last else 0
        if trade:
            at = _trade_messages(
                at, first, end - begin, row_bytes, flags, state, multiply, divide, instrument_id
            )
        else:
            at = _order_messages(
                at, first, end - begin, row_bytes, 0, flags, table, state, multiply, divide, instrument_id
            )
        begin = end
    return at


@njit(nogil=True, cache=True)
def _live(
    rows,
    n,
    row_bytes,
    done,
    out,
    out_bytes,
    offset,
    length,
    state,
    table,
    multiply,
    divide,
    instrument_id,
    shift,
):
    """Fill the output; returns rows done, bytes used, packets written."""
    rows, out = np.uintp(rows), np.uintp(out)
    at, end, count = out, out + np.uintp(out_bytes), 0
    while done < n:
        first = rows + np.uintp(done * row_bytes)
        seq = np.int64(load_u32(first + np.uintp(_SEQ)))
        behind = done + 1
        while behind < n and load_u32(rows + np.uintp(behind * row_bytes + _SEQ)) == seq:
            behind += 1
        while state[_PREVIOUS] >= 0 and state[_PREVIOUS] + 1 < seq:
            if count == len(offset) or at + np.uintp(_HEARTBEAT_BYTES) > end:
                return done, np.int64(at - out), count
            state[_PREVIOUS] += 1
            ts_sent = load_u64(first + np.uintp(_TS_RECV)) - np.uint64(load_i32(first + np.uintp(_DELTA)))
            offset[count], length[count] = np.int64(at - out), _HEARTBEAT_BYTES
            at = heartbeat(packet_header(at, state[_PREVIOUS] + shift, ts_sent))
            count += 1
        if count == len(offset) or at + np.uintp(HEADER_BYTES + (behind - done) * _ROW_BYTES) > end:
            break
        start = at
        at = _packet(
            at, first, behind - done, row_bytes, seq + shift, table, state, multiply, divide, instrument_id
        )
        offset[count], length[count] = np.int64(start - out), np.int32(at - start)
        count += 1
        state[_PREVIOUS] = seq
        done = behind
    return done, np.int64(at - out), count


@njit(nogil=True, cache=True)
def _book(
    rows, n, row_bytes, out, offset, length, state, table, multiply, divide, instrument_id, seq,
    ts_first, ts_step, final,
):  # fmt: skip
    rows, out = np.uintp(rows), np.uintp(out)
    at = out
    for i in range(len(offset)):
        start = at
        at = packet_header(at, seq + i, ts_first + i * ts_step)
        begin, behind = i * BOOK_PACKET_ROWS, min(n, (i + 1) * BOOK_PACKET_ROWS)
        while begin < behind:
            first = rows + np.uintp(begin * row_bytes)
            ts_event = load_u64(first + np.uintp(_TS_EVENT))
            end = begin + 1
            while end < behind and load_u64(rows + np.uintp(end * row_bytes + _TS_EVENT)) == ts_event:
                end += 1
            flags = _END if final and end == n else 0
            at = _order_messages(
                at,
                first,
                end - begin,
                row_bytes,
                _RECOVERY,
                flags,
                table,
                state,
                multiply,
                divide,
                instrument_id,
            )
            begin = end
        offset[i], length[i] = np.int64(start - out), np.int32(at - start)

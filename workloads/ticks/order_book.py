"""Order books of one channel, built from the rows of the `mbo` table, order by order.

The books see integers only: prices may be quoted or in wire units, as long as one instrument keeps to one
of the two. Within an event books may cross, so they are looked at only where an event ends (bit 7 of
MatchEventIndicator; CME MDP 3.0, Market Data Incremental Refresh, Event Based Messaging).

How it is stored. Orders lie in one open-addressing table for all instruments (multiplicative hash, linear
probing, backward-shift delete, at most half full). A book is one side of one instrument: its price levels
are a sorted run of keys in a pool, the best at the end, because that is where almost every change happens.
Keys ascend towards better prices on both sides: a bid's key is its price, an offer's key is ``~price``. An
order knows its level, so that only adds and price changes search.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from workloads.compiled import compiled, inlined
from workloads.errors import WorkloadError
from workloads.ticks.codes import Action, EventFlag, RowFlag, Side

Columns: TypeAlias = pa.Table | Mapping[str, npt.NDArray[Any]]
"""Rows as an Arrow table, or as one NumPy array per column."""

NULL_PRICE = 2**63 - 1
NULL_SIZE = 2**63 - 1
NULL_INSTRUMENT = 2**31 - 1
NULL_PRIORITY = 2**64 - 1

COUNTERS = (
    "rows",
    "adds",
    "changes",
    "deletes",
    "resets",
    "duplicate_adds",
    "unknown_changes",
    "unknown_deletes",
    "unusable",
    "event_ends",
    "crossed_event_ends",
    "negative_levels",
)
"""Each row is counted once among adds .. unusable, so that these add up to ``rows``.

``duplicate_adds``: the order was there already; it gets the new state. ``unknown_changes``: a change tells
the order's whole state, so the order goes in. ``unusable``: no instrument, side, price or size where one is
needed, or an action that order rows don't have; the row is skipped. ``event_ends`` counts rows;
``crossed_event_ends`` counts instruments whose best bid was at or above the best offer when an event that
changed them ended (normal before the opening auction, an error afterwards). ``negative_levels``: a level's
size fell below zero, which only negative order sizes can cause.
"""
(
    _ROWS,
    _ADDS,
    _CHANGES,
    _DELETES,
    _RESETS,
    _DUPLICATE_ADDS,
    _UNKNOWN_CHANGES,
    _UNKNOWN_DELETES,
    _UNUSABLE,
    _EVENT_ENDS,
    _CROSSED,
    _NEGATIVE,
) = range(len(COUNTERS))

# Plain integers: compiled code takes them as constants.
_NEW, _CHANGE, _DELETE, _RESET = int(Action.NEW), int(Action.CHANGE), int(Action.DELETE), int(Action.RESET)
_BUY, _SELL = int(Side.BUY), int(Side.SELL)

_ORDER = np.dtype(
    [
        ("order_id", np.uint64),
        ("priority", np.uint64),
        ("size", np.int64),
        ("book", np.int32),  # 2 x instrument + (0 bids, 1 offers); -1: the slot is empty
        ("level", np.int32),  # place in _Books.levels
    ]
)  # 32 bytes: two to a cache line
_LEVEL = np.dtype([("key", np.int64), ("size", np.int64), ("orders", np.int64)])
_INSTRUMENT = np.dtype(
    [
        ("id", np.int64),
        ("orders", np.int64),  # live orders of both sides
        ("touched", np.int64),  # 1: changed since the last end of an event
    ]
)
_BOOK = np.dtype([("start", np.int64), ("count", np.int64), ("room", np.int64)])  # a run in the pool
_TOP = np.dtype(
    [
        ("row", np.int64),
        ("instrument_id", np.int32),
        ("bid_price", np.int64),
        ("bid_size", np.int64),
        ("ask_price", np.int64),
        ("ask_size", np.int64),
        ("bid_total", np.int64),
        ("ask_total", np.int64),
    ]
)

# Entries of _Books.meta
_LIVE, _INSTRUMENTS, _POOL_END, _FREE, _TOUCHED, _TOPS, _NEEDS = range(7)
# What the compiled loop may need before it can go on: values of meta[_NEEDS]
_ORDER_SLOTS, _INSTRUMENT_SLOTS, _LEVEL_SLOTS, _TOP_SLOTS = range(4)

_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio: Knuth, TAOCP 3, section 6.4
_AHEAD = 12  # rows between asking for an order's cache line and using it
_FIRST_ROOM = 32  # levels that a book gets when its first order comes


class _Rows(NamedTuple):
    """The columns of a batch, read-only, n rows each."""

    instrument_id: npt.NDArray[np.int32]
    order_id: npt.NDArray[np.uint64]
    price: npt.NDArray[np.int64]
    size: npt.NDArray[np.int64]
    action: npt.NDArray[np.uint8]
    side: npt.NDArray[np.uint8]
    priority: npt.NDArray[np.uint64]
    recovery: npt.NDArray[np.bool_]
    ends: npt.NDArray[np.bool_]


class _Books(NamedTuple):
    """Everything that the compiled functions change."""

    orders: npt.NDArray[Any]  # _ORDER, a power of two
    numbers: npt.NDArray[np.int64]  # [slot, 2]: instrument id, its number; -1: the slot is empty
    instruments: npt.NDArray[Any]  # _INSTRUMENT, by number
    touched: npt.NDArray[np.int64]  # numbers of the instruments that the open event changed
    books: npt.NDArray[Any]  # _BOOK, two for each instrument
    keys: npt.NDArray[np.int64]  # the pool of runs: keys of levels in order ...
    places: npt.NDArray[np.int64]  # ... and their places in `levels`
    levels: npt.NDArray[Any]  # _LEVEL, as many as the pool holds, so that they never run out first
    free: npt.NDArray[np.int64]  # stack of the unused places in `levels`
    meta: npt.NDArray[np.int64]
    counters: npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Depth:
    """The best levels of one instrument, best first. Sides may differ in length; empty ones have none."""

    bid_price: npt.NDArray[np.int64]
    bid_size: npt.NDArray[np.int64]
    """Displayed lots at the level."""
    bid_orders: npt.NDArray[np.int64]
    ask_price: npt.NDArray[np.int64]
    ask_size: npt.NDArray[np.int64]
    ask_orders: npt.NDArray[np.int64]


def column(columns: Columns, name: str, dtype: npt.DTypeLike, null: int) -> npt.NDArray[Any]:
    """Column ``name`` as a contiguous, read-only array of ``dtype``; Arrow nulls become ``null``.

    No copy is made where the column already has this shape.

    Raises
    ------
    WorkloadError
        If the rows have no such column.
    """
    names = columns.column_names if isinstance(columns, pa.Table) else list(columns)
    if name not in names:
        raise WorkloadError(f"the rows have no column {name!r}, only {', '.join(names)}; read it as well")
    values = columns[name]
    if isinstance(values, pa.ChunkedArray):
        if values.null_count:
            values = values.fill_null(null)
        values = values.chunk(0) if values.num_chunks == 1 else values.combine_chunks()
        values = values.to_numpy(zero_copy_only=False)
    # A view, so that the caller's array stays writable; read-only, so that both kinds of input share one
    # compiled version.
    array = np.ascontiguousarray(values, dtype=dtype).view()
    array.flags.writeable = False
    return array


def flag(columns: Columns, name: str, mask: int, rows: int) -> npt.NDArray[np.bool_]:
    """Which rows carry one of the bits of ``mask`` in column ``name``; none where there is no such column."""
    names = columns.column_names if isinstance(columns, pa.Table) else columns
    if name not in names:
        return np.zeros(rows, np.bool_)
    found: npt.NDArray[np.bool_] = (column(columns, name, np.uint8, 0) & np.uint8(mask)) != 0
    return found


def event_ends(mbo: Columns, *others: Columns) -> npt.NDArray[np.bool_]:
    """Which rows of ``mbo`` are the last ones of their event, as far as the order books are concerned.

    The venue marks an event's end once, often on a row of another table (price levels, trades, statistics).
    A row ends an event if it is marked, or if a marked row of ``others`` lies between it and the next row.

    Parameters
    ----------
    mbo, others : tables of one channel
        With ``epoch``, ``seq``, ``msg_index`` and ``event_flags``; ``mbo`` in the order of the first three.

    Raises
    ------
    ValueError
        If ``mbo`` is not in order: the books built from it would be wrong as well.
    """
    tables = [mbo, *others]
    epochs = [column(t, "epoch", np.uint32, 0) for t in tables]
    known = np.unique(np.concatenate(epochs))
    places = []
    for table, epoch in zip(tables, epochs, strict=True):
        seq = column(table, "seq", np.uint32, 0).astype(np.uint64)
        message = column(table, "msg_index", np.uint16, 0).astype(np.uint64)
        number = np.searchsorted(known, epoch).astype(np.uint64)
        places.append((number << np.uint64(48)) | (seq << np.uint64(16)) | message)
    here = places[0]
    if np.any(here[1:] < here[:-1]):
        raise ValueError("the mbo rows are not in the order of epoch, seq, msg_index; sort them first")
    ends = flag(mbo, "event_flags", EventFlag.END, len(here))
    for table, place in zip(others, places[1:], strict=True):
        marks = np.sort(place[flag(table, "event_flags", EventFlag.END, len(place))])
        before = np.searchsorted(marks, here)
        ends = ends | (np.append(before[1:], len(marks)) > before)
    return ends


class OrderBooks:
    """The books of all instruments of one channel, order by order.

    Orders are told apart by instrument and order id. ``capacity`` is the first number of slots for orders
    (rounded up to a power of two); the table doubles by itself when it is half full.
    """

    def __init__(self, capacity: int = 1 << 16) -> None:
        slots = 1 << max(3, (capacity - 1).bit_length())
        self._books = _Books(
            orders=_empty_orders(slots),
            numbers=np.full((64, 2), -1, np.int64),
            instruments=np.zeros(32, _INSTRUMENT),
            touched=np.zeros(32, np.int64),
            books=np.zeros(64, _BOOK),
            keys=np.zeros(4096, np.int64),
            places=np.zeros(4096, np.int64),
            levels=np.zeros(4096, _LEVEL),
            free=np.arange(4096)[::-1].copy(),
            meta=np.zeros(7, np.int64),
            counters=np.zeros(len(COUNTERS), np.int64),
        )
        self._books.meta[_FREE] = len(self._books.free)

    def apply(self, columns: Columns, ends: npt.NDArray[np.bool_] | None = None) -> None:
        """Apply rows in their order.

        Parameters
        ----------
        columns : n rows
            ``instrument_id``, ``order_id``, ``price`` (null: 2**63 - 1), ``size`` (lots), ``action``,
            ``side``, ``priority``; if present, ``event_flags`` and ``row_flags``. A null instrument is
            2**31 - 1 and a null priority 2**64 - 1, as on the wire.
        ends : bool[n], optional
            Where events end; default: bit 7 of ``event_flags``. See `event_ends`.

        Raises
        ------
        WorkloadError
            If a column is missing, or columns differ in length.

        Notes
        -----
        A change with a null price, side, size or priority keeps what the order had. A reset without
        instrument empties every book. Rows that the venue resends in recovery are adds, whatever their
        action says, and never count as duplicate or unknown.
        """
        self._run(_rows(columns, ends), np.zeros(0, _TOP), 0)

    def tops(
        self, columns: Columns, levels: int = 10, ends: npt.NDArray[np.bool_] | None = None
    ) -> dict[str, npt.NDArray[Any]]:
        """Apply rows like `apply` and return the top of each book that changed, at each end of an event.

        Returns
        -------
        dict of arrays of one length, in the order of the events
            ``row`` int64, the row of ``columns`` at which the event ended; ``instrument_id`` int32;
            ``bid_price``, ``ask_price`` int64 (2**63 - 1 where the side is empty); ``bid_size``,
            ``ask_size`` lots at the best price; ``bid_total``, ``ask_total`` lots in the best ``levels``
            levels. Where an event changed several instruments, they follow in the order of first change.
        """
        rows = _rows(columns, ends)
        space = np.count_nonzero(rows.ends) + int(self._books.meta[_INSTRUMENTS]) + 256
        found = self._run(rows, np.zeros(space, _TOP), levels)
        return {name: np.ascontiguousarray(found[name]) for name in _TOP.names or ()}

    def _run(self, rows: _Rows, tops: npt.NDArray[Any], levels: int) -> npt.NDArray[Any]:
        self._books.meta[_TOPS] = 0
        row, n = 0, len(rows.action)
        while (row := _apply(rows, row, n, self._books, tops, levels)) < n:
            if self._books.meta[_NEEDS] == _TOP_SLOTS:
                more = np.zeros(len(tops) + int(self._books.meta[_INSTRUMENTS]) + 1, _TOP)
                tops = np.concatenate([tops, more])
            else:
                self._grow()
        return tops[: self._books.meta[_TOPS]]

    def _grow(self) -> None:
        """Make room for what the compiled loop asked for."""
        books, needs = self._books, self._books.meta[_NEEDS]
        if needs == _ORDER_SLOTS:
            orders = _empty_orders(2 * len(books.orders))
            _rehash(books.orders, orders)
            self._books = books._replace(orders=orders)
        elif needs == _INSTRUMENT_SLOTS:
            n = len(books.instruments)
            numbers = np.full((4 * n, 2), -1, np.int64)
            _renumber(books.instruments, numbers)
            self._books = books._replace(
                numbers=numbers,
                instruments=np.concatenate([books.instruments, np.zeros(n, _INSTRUMENT)]),
                touched=np.concatenate([books.touched, np.zeros(n, np.int64)]),
                books=np.concatenate([books.books, np.zeros(2 * n, _BOOK)]),
            )
        else:
            n, unused = len(books.keys), books.free[: books.meta[_FREE]]
            bigger = books._replace(
                keys=np.zeros(2 * n, np.int64),
                places=np.zeros(2 * n, np.int64),
                levels=np.concatenate([books.levels, np.zeros(n, _LEVEL)]),
                free=np.concatenate([unused, np.arange(n, 2 * n), np.zeros(n - len(unused), np.int64)]),
            )
            books.meta[_FREE] += n
            _compact(books, bigger)
            self._books = bigger

    @property
    def counters(self) -> dict[str, int]:
        """What was counted since the books were made; see `COUNTERS`. Clearing books doesn't reset it."""
        return dict(zip(COUNTERS, self._books.counters.tolist(), strict=True))

    @property
    def live_orders(self) -> int:
        """Orders in all books."""
        return int(self._books.meta[_LIVE])

    def instruments(self) -> npt.NDArray[np.int32]:
        """Ids of all instruments that rows have named, ascending; some may have empty books."""
        n = self._books.meta[_INSTRUMENTS]
        return np.sort(self._books.instruments["id"][:n]).astype(np.int32)

    def clear(self) -> None:
        """Empty every book (channel reset: CME MDP 3.0, template 4)."""
        _clear(self._books)

    def clear_instrument(self, instrument_id: int) -> None:
        """Empty the books of one instrument; nothing happens if it is unknown."""
        number = _number_of(self._books, instrument_id)
        if number >= 0:
            _clear_instrument(self._books, number)

    def depth(self, instrument_id: int, levels: int) -> Depth:
        """The best ``levels`` levels of each side; an unknown instrument has none."""
        number = _number_of(self._books, instrument_id)
        sides = []
        for offers in (0, 1):
            places = self._books.places[:0]
            if number >= 0:
                start, count, _ = self._books.books[2 * number + offers].tolist()
                places = self._books.places[start + count - min(levels, count) : start + count][::-1]
            found = self._books.levels[places]
            sides += [
                ~found["key"] if offers else found["key"].copy(),
                found["size"].copy(),
                found["orders"].copy(),
            ]
        return Depth(*sides)

    def orders(self, instrument_id: int) -> pa.Table:
        """The instrument's orders as they queue: bids, then offers; best price first, then priority.

        Columns ``order_id`` uint64, ``side`` uint8, ``price`` int64, ``size`` int64, ``priority`` uint64.
        Orders of equal priority come by order id.
        """
        number = _number_of(self._books, instrument_id)
        slots = self._books.orders
        live = slots[slots["book"] >> 1 == number] if number >= 0 else slots[:0]
        return pa.table(self._columns(live, np.zeros(len(live))))

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """All that the books know, as plain arrays: enough for `from_state` to go on exactly from here.

        Equal books have equal states, however they came about: orders are sorted by instrument, side,
        price, priority and order id.
        """
        books, n = self._books, int(self._books.meta[_INSTRUMENTS])
        live = books.orders[books.orders["book"] >= 0]
        ids = books.instruments["id"][:n]
        instrument = ids[live["book"] >> 1]
        return {
            "counters": books.counters.copy(),
            "instruments": self.instruments(),
            "open_event": ids[books.touched[: books.meta[_TOUCHED]]].astype(np.int32),
            "instrument_id": np.sort(instrument).astype(np.int32),
            **self._columns(live, instrument),
        }

    def _columns(self, live: npt.NDArray[Any], first: npt.NDArray[Any]) -> dict[str, npt.NDArray[Any]]:
        """Orders as columns, sorted by ``first``, side, best price, priority and order id."""
        key, offer = self._books.levels["key"][live["level"]], live["book"] & 1
        order = np.lexsort((live["order_id"], live["priority"], ~key, offer, first))
        columns = {
            "order_id": live["order_id"],
            "side": np.where(offer, _SELL, _BUY).astype(np.uint8),
            "price": np.where(offer, ~key, key),
            "size": live["size"],
            "priority": live["priority"],
        }
        return {name: values[order] for name, values in columns.items()}

    @classmethod
    def from_state(cls, state: Mapping[str, npt.NDArray[Any]]) -> "OrderBooks":
        """The books that `state` described.

        Raises
        ------
        WorkloadError
            If an array is missing, or the counters are those of another version.
        """
        missing = [name for name in ("counters", "instruments", "open_event") if name not in state]
        if missing or len(state["counters"]) != len(COUNTERS):
            raise WorkloadError(
                "this is not a state of order books of this version "
                f"(missing: {', '.join(missing) or 'none'}); build the books again from the stored rows"
            )
        count = len(column(state, "order_id", np.uint64, 0))
        made = cls(max(1 << 16, 2 * count + 2))
        made._name(state["instruments"], touch=False)
        orders = {
            name: state[name] for name in ("instrument_id", "order_id", "price", "size", "side", "priority")
        }
        made._run(_rows({**orders, "action": np.zeros(count, np.uint8)}, None), np.zeros(0, _TOP), 0)
        made._settle()
        made._name(state["open_event"], touch=True)
        made._books.counters[:] = state["counters"]
        return made

    def _name(self, instrument_ids: npt.NDArray[np.int32], *, touch: bool) -> None:
        """Make instruments known; with ``touch``, as changed by the open event."""
        for instrument_id in instrument_ids.tolist():
            while (number := _number(self._books, instrument_id)) < 0:
                self._books.meta[_NEEDS] = _INSTRUMENT_SLOTS
                self._grow()
            if touch:
                _touch(self._books, number)

    def _settle(self) -> None:
        """Forget which instruments the open event changed."""
        self._books.instruments["touched"] = 0
        self._books.meta[_TOUCHED] = 0


def _rows(columns: Columns, ends: npt.NDArray[np.bool_] | None) -> _Rows:
    action = column(columns, "action", np.uint8, 255)
    n = len(action)
    recovery = flag(columns, "row_flags", RowFlag.RECOVERY, n)
    recovery |= flag(columns, "event_flags", EventFlag.RECOVERY, n)
    flags: Mapping[str, np.ndarray] = {
        "recovery": recovery,
        "ends": flag(columns, "event_flags", EventFlag.END, n) if ends is None else ends,
    }
    rows = _Rows(
        instrument_id=column(columns, "instrument_id", np.int32, NULL_INSTRUMENT),
        order_id=column(columns, "order_id", np.uint64, 2**64 - 1),
        price=column(columns, "price", np.int64, NULL_PRICE),
        size=column(columns, "size", np.int64, NULL_SIZE),
        action=action,
        side=column(columns, "side", np.uint8, Side.NONE),
        priority=column(columns, "priority", np.uint64, NULL_PRIORITY),
        recovery=column(flags, "recovery", np.bool_, 0),
        ends=column(flags, "ends", np.bool_, 0),
    )
    lengths = {name: len(values) for name, values in rows._asdict().items()}
    if set(lengths.values()) != {n}:
        raise WorkloadError(f"the columns of order rows differ in length: {lengths}; pass rows of one table")
    return rows


def _empty_orders(slots: int) -> npt.NDArray[Any]:
    orders = np.zeros(slots, _ORDER)
    orders["book"] = -1
    return orders


# Compiled from here on; nothing is allocated.

_memmove: Any = types.ExternalFunction("memmove", types.uintp(types.uintp, types.uintp, types.uintp))


def _emit_prefetch(typing_context: Any, array: Any, place: Any) -> Any:
    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer, i32, i64 = ir.IntType(8).as_pointer(), ir.IntType(32), ir.IntType(64)
        data = builder.bitcast(context.make_array(array)(context, builder, args[0]).data, pointer)
        width = context.get_abi_sizeof(context.get_data_type(array.dtype))
        address = builder.gep(data, [builder.mul(args[1], ir.Constant(i64, width))])
        prefetch = builder.module.declare_intrinsic(
            "llvm.prefetch", [pointer], ir.FunctionType(ir.VoidType(), [pointer, i32, i32, i32])
        )
        for_write, keep, data_cache = (ir.Constant(i32, value) for value in (1, 3, 1))
        builder.call(prefetch, [address, for_write, keep, data_cache])
        return context.get_dummy_value()

    return types.void(array, types.int64), emit


_prefetch: Any = intrinsic(_emit_prefetch)
"""``_prefetch(array, place)`` asks for an element's cache line; the CPU goes on meanwhile."""


@inlined
def _home(order_id: Any, number: Any, slots: Any) -> Any:
    """First slot to look at. Instruments are told apart in the top bits, which order ids leave unused."""
    spread = (np.uint64(order_id) ^ (np.uint64(number) << np.uint64(48))) * _MULTIPLIER
    # The product's upper bits are the well-mixed ones; slots <= 2^32.
    return np.int64(((spread >> np.uint64(32)) * np.uint64(slots)) >> np.uint64(32))


@inlined
def _order(orders: Any, order_id: Any, number: Any) -> Any:
    """Slot of an order, or ``~slot`` of the empty one where it would go."""
    mask = len(orders) - 1
    slot = _home(order_id, number, len(orders))
    while orders[slot].book >= 0:
        if orders[slot].order_id == order_id and orders[slot].book >> 1 == number:
            return slot
        slot = (slot + 1) & mask
    return ~slot


@inlined
def _free(orders: Any, hole: Any) -> None:
    """Empty a slot and move back what had been pushed past it, so that no tombstones are needed."""
    mask = len(orders) - 1
    slot = hole
    while True:
        slot = (slot + 1) & mask
        if orders[slot].book < 0:
            break
        home = _home(orders[slot].order_id, orders[slot].book >> 1, len(orders))
        if (slot - home) & mask >= (slot - hole) & mask:
            orders[hole] = orders[slot]
            hole = slot
    orders[hole].book = -1


@compiled
def _rehash(old: Any, new: Any) -> None:
    for i in range(len(old)):
        if old[i].book >= 0:
            new[~_order(new, old[i].order_id, old[i].book >> 1)] = old[i]


@inlined
def _instrument(numbers: Any, instrument_id: Any) -> Any:
    """Slot of an instrument, or the empty one where it would go."""
    mask = len(numbers) - 1
    slot = _home(instrument_id, 0, len(numbers))
    while numbers[slot, 1] >= 0 and numbers[slot, 0] != instrument_id:
        slot = (slot + 1) & mask
    return slot


@compiled
def _renumber(instruments: Any, numbers: Any) -> None:
    for number in range(len(instruments)):
        slot = _instrument(numbers, instruments[number].id)
        numbers[slot, 0] = instruments[number].id
        numbers[slot, 1] = number


@inlined
def _number_of(books: Any, instrument_id: Any) -> Any:
    """Number of an instrument, -1 where it is unknown."""
    return books.numbers[_instrument(books.numbers, instrument_id), 1]


@inlined
def _number(books: Any, instrument_id: Any) -> Any:
    """Number of an instrument, given now if need be; -1 where there is no room for another."""
    slot = _instrument(books.numbers, instrument_id)
    number = books.numbers[slot, 1]
    if number < 0 and books.meta[_INSTRUMENTS] < len(books.instruments):
        number = books.meta[_INSTRUMENTS]
        books.meta[_INSTRUMENTS] += 1
        books.numbers[slot, 0] = instrument_id
        books.numbers[slot, 1] = number
        books.instruments[number].id = instrument_id
    return number


@inlined
def _touch(books: Any, number: Any) -> None:
    if books.instruments[number].touched == 0:
        books.instruments[number].touched = 1
        books.touched[books.meta[_TOUCHED]] = number
        books.meta[_TOUCHED] += 1


@inlined
def _move(to: Any, at: Any, source: Any, first: Any, count: Any) -> None:
    """Copy ``count`` int64 between arrays, or within one where the two stretches may overlap."""
    target = np.uintp(to.ctypes.data) + np.uintp(8 * at)
    _memmove(target, np.uintp(source.ctypes.data) + np.uintp(8 * first), np.uintp(8 * count))


@inlined
def _make_room(books: Any, book: Any) -> Any:
    """See that a book has room for one more level; False where the pool has none left."""
    run = books.books[book]
    if run.count < run.room:
        return True
    room = max(_FIRST_ROOM, 2 * run.room)
    start = books.meta[_POOL_END]
    if start + room > len(books.keys):
        return False
    _move(books.keys, start, books.keys, run.start, run.count)
    _move(books.places, start, books.places, run.start, run.count)
    books.books[book].start = start
    books.books[book].room = room
    books.meta[_POOL_END] = start + room
    return True


@compiled
def _compact(old: Any, new: Any) -> None:
    """Move every run to the front of the new pool, one after the other."""
    end = 0
    for book in range(2 * old.meta[_INSTRUMENTS]):
        run = old.books[book]
        _move(new.keys, end, old.keys, run.start, run.count)
        _move(new.places, end, old.places, run.start, run.count)
        new.books[book].start = end
        end += old.books[book].room
    new.meta[_POOL_END] = end


@inlined
def _find(books: Any, book: Any, key: Any) -> Any:
    """Where in the pool a level is, or would go: the first key of the run that is not less."""
    keys = books.keys
    start = books.books[book].start
    low, high = start, start + books.books[book].count
    step = 1
    while high > start:  # widening steps away from the best
        probe = max(start, high - step)
        if keys[probe] < key:
            low = probe + 1
            break
        high = probe
        step *= 2
    while low < high:
        middle = (low + high) >> 1
        if keys[middle] >= key:
            high = middle
        else:
            low = middle + 1
    return low


@inlined
def _join(books: Any, book: Any, key: Any, size: Any) -> Any:
    """Count an order into its level, for whose making there is room; return the level's place."""
    run = books.books[book]
    end = run.start + run.count
    at = _find(books, book, key)
    if at < end and books.keys[at] == key:
        place = books.places[at]
    else:
        _move(books.keys, at + 1, books.keys, at, end - at)
        _move(books.places, at + 1, books.places, at, end - at)
        run.count += 1
        books.meta[_FREE] -= 1
        place = books.free[books.meta[_FREE]]
        books.keys[at] = key
        books.places[at] = place
        books.levels[place].key = key
        books.levels[place].size = 0
        books.levels[place].orders = 0
    books.levels[place].orders += 1
    _resize(books, place, size)
    return place


@inlined
def _leave(books: Any, order: Any) -> None:
    """Take an order out of its level, and the level away with its last order."""
    level = books.levels[order.level]
    level.orders -= 1
    if level.orders > 0:
        _resize(books, order.level, -order.size)
        return
    run = books.books[order.book]
    at = _find(books, order.book, level.key)
    run.count -= 1
    _move(books.keys, at, books.keys, at + 1, run.start + run.count - at)
    _move(books.places, at, books.places, at + 1, run.start + run.count - at)
    books.free[books.meta[_FREE]] = order.level
    books.meta[_FREE] += 1


@inlined
def _resize(books: Any, place: Any, by: Any) -> None:
    books.levels[place].size += by
    if books.levels[place].size < 0:
        books.counters[_NEGATIVE] += 1


@compiled
def _clear_instrument(books: Any, number: Any) -> None:
    """Looks at every slot, but only where the instrument has orders: most resets come before the first."""
    _touch(books, number)
    slot = 0
    while books.instruments[number].orders > 0:
        if books.orders[slot].book >> 1 == number:
            _free(books.orders, slot)  # what moves back into this slot is looked at next
            books.instruments[number].orders -= 1
            books.meta[_LIVE] -= 1
        else:
            slot += 1
    _drop_levels(books, 2 * number)
    _drop_levels(books, 2 * number + 1)


@compiled
def _drop_levels(books: Any, book: Any) -> None:
    run = books.books[book]
    _move(books.free, books.meta[_FREE], books.places, run.start, run.count)
    books.meta[_FREE] += run.count
    run.count = 0


@compiled
def _clear(books: Any) -> None:
    for slot in range(len(books.orders)):
        books.orders[slot].book = -1
    for number in range(books.meta[_INSTRUMENTS]):
        _touch(books, number)
        books.instruments[number].orders = 0
        _drop_levels(books, 2 * number)
        _drop_levels(books, 2 * number + 1)
    books.meta[_LIVE] = 0


@inlined
def _total(books: Any, book: Any, levels: Any) -> Any:
    """Lots in the best levels of a book."""
    end = books.books[book].start + books.books[book].count
    total = 0
    for i in range(max(books.books[book].start, end - levels), end):
        total += books.levels[books.places[i]].size
    return total


@inlined
def _end_event(books: Any, row: Any, tops: Any, levels: Any) -> None:
    """Look at every book that the event changed."""
    for i in range(books.meta[_TOUCHED]):
        number = books.touched[i]
        books.instruments[number].touched = 0
        bids, offers = books.books[2 * number], books.books[2 * number + 1]
        bid, offer = bids.start + bids.count - 1, offers.start + offers.count - 1
        if bids.count > 0 and offers.count > 0 and books.keys[bid] >= ~books.keys[offer]:
            books.counters[_CROSSED] += 1
        if len(tops) > 0:
            top = tops[books.meta[_TOPS]]
            books.meta[_TOPS] += 1
            top.row = row
            top.instrument_id = books.instruments[number].id
            top.bid_price = books.keys[bid] if bids.count > 0 else NULL_PRICE
            top.bid_size = books.levels[books.places[bid]].size if bids.count > 0 else 0
            top.ask_price = ~books.keys[offer] if offers.count > 0 else NULL_PRICE
            top.ask_size = books.levels[books.places[offer]].size if offers.count > 0 else 0
            top.bid_total = _total(books, 2 * number, levels)
            top.ask_total = _total(books, 2 * number + 1, levels)
    books.meta[_TOUCHED] = 0
    books.counters[_EVENT_ENDS] += 1


@inlined
def _put(rows: Any, row: Any, books: Any, number: Any, slot: Any) -> Any:
    """Add or change the order of a row. Returns False, with nothing changed, if the level pool is full.

    ``slot`` is where `_order` found the order, or ``~slot`` where it would go.
    """
    known = slot >= 0
    price, size, side = rows.price[row], rows.size[row], np.int64(rows.side[row])
    priority = rows.priority[row]
    counter = _CHANGES
    if known:
        order = books.orders[slot]
        if rows.action[row] == _NEW:
            if not rows.recovery[row]:
                counter = _DUPLICATE_ADDS
        else:  # a change keeps what it doesn't tell
            if price == NULL_PRICE:
                known_key = books.levels[order.level].key
                price = ~known_key if order.book & 1 else known_key
                side = _BUY + (order.book & 1)
            elif side == 0:
                side = _BUY + (order.book & 1)
            if size == NULL_SIZE:
                size = order.size
            if priority == np.uint64(NULL_PRIORITY):
                priority = order.priority
    elif rows.action[row] == _CHANGE and not rows.recovery[row]:
        counter = _UNKNOWN_CHANGES
    else:
        counter = _ADDS
    if price == NULL_PRICE or size == NULL_SIZE or (side != _BUY and side != _SELL):
        books.counters[_UNUSABLE] += 1
        return True

    book = 2 * number + side - _BUY
    key = price if side == _BUY else ~price
    if known and books.orders[slot].book == book and books.levels[books.orders[slot].level].key == key:
        order = books.orders[slot]
        _resize(books, order.level, size - order.size)
    else:
        if not _make_room(books, book):
            return False
        if known:
            _leave(books, books.orders[slot])
        else:
            slot = ~slot
            books.meta[_LIVE] += 1
            books.instruments[number].orders += 1
        order = books.orders[slot]
        order.level = _join(books, book, key, size)
        order.book = book
        order.order_id = rows.order_id[row]
    order.priority = priority
    order.size = size
    books.counters[counter] += 1
    _touch(books, number)
    return True


@compiled
def _apply(rows: Any, first: Any, last: Any, books: Any, tops: Any, levels: Any) -> Any:
    """Apply rows from ``first`` up to, not including, ``last``. Returns the first that found no room.

    That row has changed nothing; ``meta[_NEEDS]`` says what it needs. ``tops`` of length 0: none wanted.
    """
    meta, counters, orders, n = books.meta, books.counters, books.orders, len(rows.action)
    last_id, number = np.int64(-1), np.int64(-1)
    for row in range(first, last):
        ends = rows.ends[row]
        if ends and len(tops) > 0 and meta[_TOPS] + meta[_INSTRUMENTS] + 1 > len(tops):
            meta[_NEEDS] = _TOP_SLOTS
            return row
        instrument_id = np.int64(rows.instrument_id[row])
        action = rows.action[row]
        if instrument_id == NULL_INSTRUMENT:
            if action == _RESET:
                _clear(books)
                counters[_RESETS] += 1
            else:
                counters[_UNUSABLE] += 1
        else:
            if instrument_id != last_id or number < 0:
                number = _number(books, instrument_id)
                if number < 0:
                    meta[_NEEDS] = _INSTRUMENT_SLOTS
                    return row
                last_id = instrument_id
            if action == _RESET:
                _clear_instrument(books, number)
                counters[_RESETS] += 1
            elif action <= _DELETE:
                later = row + _AHEAD
                if later < n:
                    its_id = np.int64(rows.instrument_id[later])
                    its_number = number if its_id == instrument_id else _number_of(books, its_id)
                    _prefetch(orders, _home(rows.order_id[later], its_number, len(orders)))
                slot = _order(orders, rows.order_id[row], number)
                if action != _DELETE:
                    if slot < 0 and 2 * (meta[_LIVE] + 1) > len(orders):
                        meta[_NEEDS] = _ORDER_SLOTS
                        return row
                    if not _put(rows, row, books, number, slot):
                        meta[_NEEDS] = _LEVEL_SLOTS
                        return row
                elif slot < 0:
                    counters[_UNKNOWN_DELETES] += 1
                else:
                    _leave(books, orders[slot])
                    _free(orders, slot)
                    meta[_LIVE] -= 1
                    books.instruments[number].orders -= 1
                    counters[_DELETES] += 1
                    _touch(books, number)
            else:
                counters[_UNUSABLE] += 1
        counters[_ROWS] += 1
        if ends:
            _end_event(books, row, tops, levels)
    return last

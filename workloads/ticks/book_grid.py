"""Order books looked at on a grid of times: ladders, flow of orders, and the tops at every end of an event.

A grid time G shows the books after all rows that were known before G, and what happened since the grid time
before: orders added, by price and by side, and the order-flow imbalance of the best prices. Nothing depends
on how the rows are cut into batches.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from workloads.compiled import compiled, inlined
from workloads.ticks import order_book
from workloads.ticks.order_book import (
    _INSTRUMENTS,
    _NEEDS,
    _NEW,
    _TOP,
    _TOP_SLOTS,
    _TOPS,
    NULL_INSTRUMENT,
    NULL_PRICE,
    NULL_SIZE,
    Columns,
    OrderBooks,
    _apply,
    _find,
    _number_of,
)

PRICE, SIZE, ORDERS, ADDS = range(4)
"""Places on the last axis of ``Frames.ladder``."""

_FLOW = np.dtype(
    [
        ("bid_key", np.int64),  # the best bid at the last end of an event, as the books order prices
        ("bid_size", np.int64),
        ("ask_key", np.int64),
        ("ask_size", np.int64),
        ("ofi", np.int64),  # since the last grid time, like the two that follow
        ("bid_adds", np.int64),
        ("ask_adds", np.int64),
    ]
)
_FRAME = np.dtype(
    [
        ("ts", np.int64),
        ("instrument_id", np.int32),
        ("ofi", np.int64),
        ("bid_adds", np.int64),
        ("ask_adds", np.int64),
    ]
)
_NO_KEY = -(2**63)  # of an empty side: worse than any price
_NEXT, _FRAMES, _ADDED, _SEEN = range(4)  # entries of _Grid.meta
_FRAME_SLOTS, _LOG_SLOTS = 8, 9  # values of order_book's meta[_NEEDS], besides its own
_ROOM = 4096  # frames that are handed out at once


class _Grid(NamedTuple):
    """What the sampling loop changes, besides the books."""

    flow: npt.NDArray[Any]  # _FLOW, by number of the instrument
    added: npt.NDArray[np.int64]  # [n, 2]: book and key of each order added since the last grid time
    frames: npt.NDArray[Any]  # _FRAME
    ladder: npt.NDArray[np.int64]  # [frame, side, level, channel]
    meta: npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Frames:
    """n books at grid times: ascending, and at one time in the order in which instruments were first named.

    ``ladder`` int64[n, side (bid, ask), level (best first), channel]: price, size in lots, orders at the
    level, orders added at this price since the grid time before. A level without orders is missing: all 0.
    """

    ts: npt.NDArray[np.int64]
    instrument_id: npt.NDArray[np.int32]
    ladder: npt.NDArray[np.int64]
    ofi: npt.NDArray[np.int64]
    """Order-flow imbalance of the best prices since the grid time before, lots."""
    bid_adds: npt.NDArray[np.int64]
    """Orders added to the bids since the grid time before, whether or not they are still there."""
    ask_adds: npt.NDArray[np.int64]

    def take(self, rows: npt.NDArray[np.bool_]) -> "Frames":
        """Some of them."""
        return Frames(**{name: values[rows] for name, values in vars(self).items()})

    def best(self, side: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """(price, size) of the best level of side 0 (bids) or 1; NULL_PRICE and 0 where there is none."""
        there = self.ladder[:, side, 0, ORDERS] > 0
        price = np.where(there, self.ladder[:, side, 0, PRICE], NULL_PRICE)
        return price, self.ladder[:, side, 0, SIZE]


class BookGrid:
    """The books of one channel, sampled at multiples of ``step_ns`` since the epoch.

    Order-flow imbalance is that of Cont, Kukanov and Stoikov (2014), "The price impact of order book
    events", section 2.1: from one end of an event to the next a side gives its new size if its price is no
    worse, less its old size if its price is no better; the imbalance is what the bids give less what the
    asks give. An empty side is worse than any price and has no size.

    An order is added by a NEW row that is no recovery; a grid time follows the first row, and the last one
    is not later than the last row.
    """

    def __init__(self, step_ns: int, levels: int, capacity: int = 1 << 16) -> None:
        if step_ns < 1 or levels < 1:
            raise ValueError(f"a grid needs a step and levels, got {step_ns} ns and {levels} levels")
        self.books = OrderBooks(capacity)
        self.tops: dict[str, npt.NDArray[Any]] = {}
        """What `OrderBooks.tops` gives, of the last batch; totals are those of the best level."""
        self._step = step_ns
        self._last: int | None = None
        self._grid = _Grid(
            flow=_no_flow(32),
            added=np.zeros((4096, 2), np.int64),
            frames=np.zeros(_ROOM, _FRAME),
            ladder=np.zeros((_ROOM, 2, levels, 4), np.int64),
            meta=np.zeros(4, np.int64),
        )

    def sample(
        self,
        columns: Columns,
        known: npt.NDArray[np.int64],
        ends: npt.NDArray[np.bool_] | None = None,
    ) -> Iterator[Frames]:
        """Apply rows like `OrderBooks.apply` and give the frames of the grid times that they pass.

        Parameters
        ----------
        columns : n rows
            As for `OrderBooks.apply`.
        known : int64[n], never falling
            When a row counts, ns. Books are looked at wherever a grid time passes, so rows of one event
            must count together: from when its end was known.
        ends : bool[n], optional
            As for `OrderBooks.apply`.

        Yields
        ------
        Frames
            Copies, some thousands at a time; ask for all of them, or the rest of the rows isn't applied.

        Raises
        ------
        ValueError
            If ``known`` falls, or has another length than the columns.
        """
        rows = order_book._rows(columns, ends)
        n = len(rows.action)
        known = np.ascontiguousarray(known, np.int64).view()
        known.flags.writeable = False
        if len(known) != n:
            raise ValueError(f"{n} rows, but {len(known)} times")
        if n and ((np.diff(known) < 0).any() or (self._last is not None and known[0] < self._last)):
            raise ValueError("the times of rows fall; give each row the latest time so far")
        if n and self._last is None:
            self._grid.meta[_NEXT] = (known[0] // self._step + 1) * self._step
        self._last = int(known[-1]) if n else self._last
        return self._sample(rows, known, n)

    def _sample(self, rows: Any, known: npt.NDArray[np.int64], n: int) -> Iterator[Frames]:
        meta, books_meta = self._grid.meta, self.books._books.meta
        space = np.count_nonzero(rows.ends) + int(books_meta[_INSTRUMENTS]) + 256
        tops, row = np.zeros(space, _TOP), 0
        books_meta[_TOPS] = meta[_SEEN] = 0
        while (row := _sampled(rows, known, row, self.books._books, tops, self._grid, self._step)) < n:
            needs = self.books._books.meta[_NEEDS]
            if needs == _FRAME_SLOTS:
                if meta[_FRAMES]:
                    yield self._taken()
                else:  # one grid time alone needs more room than there is
                    self._widen(2 * len(self._grid.frames))
            elif needs == _LOG_SLOTS:
                self._grid = self._grid._replace(added=np.concatenate([self._grid.added] * 2))
            elif needs == _TOP_SLOTS:
                more = np.zeros(len(tops) + int(self.books._books.meta[_INSTRUMENTS]) + 1, _TOP)
                tops = np.concatenate([tops, more])
            else:
                self.books._grow()
                missing = len(self.books._books.instruments) - len(self._grid.flow)
                if missing:
                    flow = np.concatenate([self._grid.flow, _no_flow(missing)])
                    self._grid = self._grid._replace(flow=flow)
        if meta[_FRAMES]:
            yield self._taken()
        found = tops[: self.books._books.meta[_TOPS]]
        self.tops = {name: np.ascontiguousarray(found[name]) for name in _TOP.names or ()}

    def _taken(self) -> Frames:
        count = int(self._grid.meta[_FRAMES])
        self._grid.meta[_FRAMES] = 0
        frames = self._grid.frames[:count]
        fields = {name: frames[name].copy() for name in _FRAME.names or ()}
        return Frames(ladder=self._grid.ladder[:count].copy(), **fields)

    def _widen(self, room: int) -> None:
        ladder = np.zeros((room, *self._grid.ladder.shape[1:]), np.int64)
        self._grid = self._grid._replace(frames=np.zeros(room, _FRAME), ladder=ladder)


def _no_flow(instruments: int) -> npt.NDArray[Any]:
    flow = np.zeros(instruments, _FLOW)
    flow["bid_key"] = flow["ask_key"] = _NO_KEY
    return flow


# Compiled from here on; nothing is allocated.


@inlined
def _side_flow(key: Any, size: Any, old_key: Any, old_size: Any) -> Any:
    """What one side gives to the imbalance."""
    gain = 0
    if key >= old_key:
        gain += size
    if key <= old_key:
        gain -= old_size
    return gain


@inlined
def _add_flow(top: Any, flow: Any) -> None:
    """Count the step from the last top of an instrument to this one."""
    bid = _NO_KEY if top.bid_price == NULL_PRICE else top.bid_price
    ask = ~top.ask_price  # NULL_PRICE becomes _NO_KEY
    flow.ofi += _side_flow(bid, top.bid_size, flow.bid_key, flow.bid_size)
    flow.ofi -= _side_flow(ask, top.ask_size, flow.ask_key, flow.ask_size)
    flow.bid_key, flow.bid_size = bid, top.bid_size
    flow.ask_key, flow.ask_size = ask, top.ask_size


@inlined
def _note_add(rows: Any, row: Any, books: Any, grid: Any) -> None:
    """Remember an order that a row added."""
    side = np.int64(rows.side[row])
    if (
        rows.action[row] != _NEW
        or rows.recovery[row]
        or rows.instrument_id[row] == NULL_INSTRUMENT
        or rows.price[row] == NULL_PRICE
        or rows.size[row] == NULL_SIZE
        or (side != 1 and side != 2)
    ):
        return
    number = _number_of(books, np.int64(rows.instrument_id[row]))
    entry = grid.added[grid.meta[_ADDED]]
    grid.meta[_ADDED] += 1
    entry[0] = 2 * number + side - 1
    if side == 1:
        grid.flow[number].bid_adds += 1
        entry[1] = rows.price[row]
    else:
        grid.flow[number].ask_adds += 1
        entry[1] = ~rows.price[row]


@compiled
def _look(books: Any, grid: Any) -> None:
    """Write a frame of every instrument at the next grid time, and forget the flow."""
    first, levels = grid.meta[_FRAMES], grid.ladder.shape[2]
    for number in range(books.meta[_INSTRUMENTS]):
        frame, flow = grid.frames[first + number], grid.flow[number]
        frame.ts = grid.meta[_NEXT]
        frame.instrument_id = books.instruments[number].id
        frame.ofi, frame.bid_adds, frame.ask_adds = flow.ofi, flow.bid_adds, flow.ask_adds
        flow.ofi = flow.bid_adds = flow.ask_adds = 0
        for side in range(2):
            run = books.books[2 * number + side]
            best = run.start + run.count - 1
            for level in range(levels):
                cell = grid.ladder[first + number, side, level]
                cell[:] = 0
                if level < run.count:
                    found = books.levels[books.places[best - level]]
                    cell[0] = ~found.key if side else found.key
                    cell[1] = found.size
                    cell[2] = found.orders
    for i in range(grid.meta[_ADDED]):
        book, key = grid.added[i, 0], grid.added[i, 1]
        end = books.books[book].start + books.books[book].count
        at = _find(books, book, key)
        if at < end and books.keys[at] == key and end - 1 - at < levels:
            grid.ladder[first + (book >> 1), book & 1, end - 1 - at, 3] += 1
    grid.meta[_ADDED] = 0
    grid.meta[_FRAMES] += books.meta[_INSTRUMENTS]


@compiled
def _sampled(rows: Any, known: Any, first: Any, books: Any, tops: Any, grid: Any, step: Any) -> Any:
    """Apply rows from ``first`` on. Returns the first that was not applied for want of room."""
    meta, n, row = grid.meta, len(known), first
    while row < n:
        if books.meta[_INSTRUMENTS] == 0:  # nothing to look at
            meta[_NEXT] = (known[row] // step + 1) * step
        while meta[_NEXT] <= known[row]:
            if meta[_FRAMES] + books.meta[_INSTRUMENTS] > len(grid.frames):
                books.meta[_NEEDS] = _FRAME_SLOTS
                return row
            _look(books, grid)
            meta[_NEXT] += step
        room = len(grid.added) - meta[_ADDED]
        if room == 0:
            books.meta[_NEEDS] = _LOG_SLOTS
            return row
        stop, until = row + 1, min(n, row + room)
        while stop < until and known[stop] < meta[_NEXT]:
            stop += 1
        done = _apply(rows, row, stop, books, tops, 1)
        for i in range(row, done):
            _note_add(rows, i, books, grid)
        for i in range(meta[_SEEN], books.meta[_TOPS]):
            number = _number_of(books, np.int64(tops[i].instrument_id))
            _add_flow(tops[i], grid.flow[number])
        meta[_SEEN] = books.meta[_TOPS]
        row = done
        if done < stop:
            return done
    return n

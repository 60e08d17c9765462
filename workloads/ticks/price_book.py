"""Price-level books of one channel, built from the rows of the `mbp` table.

The venue keeps a table of ``depth`` rows for each side and tells how to edit it: rows are addressed by
their number, 1 being the best (CME MDP 3.0, Market by Price - Multiple Depth Book). An instrument has two
books: orders of customers (entry types 0 and 1) and what spreads imply (E and F). The books see integers
only: prices may be quoted or in wire units.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from workloads.compiled import compiled, inlined
from workloads.errors import WorkloadError
from workloads.ticks.codes import Action, EntryType, EventFlag
from workloads.ticks.order_book import (
    NULL_INSTRUMENT,
    NULL_PRICE,
    NULL_SIZE,
    Columns,
    Depth,
    column,
    flag,
)

PRICE_COUNTERS = (
    "rows",
    "news",
    "changes",
    "deletes",
    "deletes_thru",
    "deletes_from",
    "overlays",
    "resets",
    "unusable",
    "unknown_changes",
    "unknown_deletes",
    "holes",
    "mismatched_prices",
    "rpt_seq_repeats",
    "event_ends",
    "crossed_event_ends",
)
"""Each row is counted once among news .. unusable, so that these add up to ``rows``.

``unusable``: no instrument, a level outside 1 .. ``depth``, no price or size where one is needed, or another
entry type or action; the row is skipped. The others tell of books that a loss has spoilt; the row is obeyed
all the same. ``unknown_changes``, ``unknown_deletes``: the level was empty. ``holes``: a level was set
though the one above it is empty. ``mismatched_prices``: a change or delete named another price than the
level had. ``rpt_seq_repeats``: RptSeq did not rise; it may skip, because other tables share it: see
`rpt_seq_gaps`. ``crossed_event_ends`` counts customer books whose best bid was at or above the best offer
when an event that changed them ended (normal before the opening auction).
"""
(
    _ROWS,
    _NEWS,
    _CHANGES,
    _DELETES,
    _DELETES_THRU,
    _DELETES_FROM,
    _OVERLAYS,
    _RESETS,
    _UNUSABLE,
    _UNKNOWN_CHANGES,
    _UNKNOWN_DELETES,
    _HOLES,
    _MISMATCHED,
    _REPEATS,
    _EVENT_ENDS,
    _CROSSED,
) = range(len(PRICE_COUNTERS))

# Plain integers: compiled code takes them as constants.
_NEW, _CHANGE, _DELETE = int(Action.NEW), int(Action.CHANGE), int(Action.DELETE)
_DELETE_THRU, _DELETE_FROM, _OVERLAY = int(Action.DELETE_THRU), int(Action.DELETE_FROM), int(Action.OVERLAY)
_RESET_ACTION = int(Action.RESET)
_BID, _OFFER = int(EntryType.BID), int(EntryType.OFFER)
_IMPLIED_BID, _IMPLIED_OFFER = int(EntryType.IMPLIED_BID), int(EntryType.IMPLIED_OFFER)
_RESET = int(EntryType.RESET)

_PRICE, _SIZE, _ORDERS = range(3)  # fields of a level
_TOUCHED, _LAST_RPT_SEQ = range(2)  # fields of _State.marks


class _Rows(NamedTuple):
    """The columns of a batch, read-only, n rows each."""

    number: npt.NDArray[np.int64]  # of the instrument; -1: null
    price: npt.NDArray[np.int64]
    size: npt.NDArray[np.int64]
    orders: npt.NDArray[np.int32]
    level: npt.NDArray[np.uint8]
    action: npt.NDArray[np.uint8]
    entry_type: npt.NDArray[np.uint8]
    rpt_seq: npt.NDArray[np.uint32]
    ends: npt.NDArray[np.bool_]


class _State(NamedTuple):
    """Everything that the compiled functions change."""

    levels: npt.NDArray[np.int64]  # [instrument, side, level, field]; sides 0 1 customers', 2 3 implied
    marks: npt.NDArray[np.int64]  # [instrument, field]
    touched: npt.NDArray[np.int64]  # instruments that the open event changed, by number
    open: npt.NDArray[np.int64]  # [1]: how many there are of them
    counters: npt.NDArray[np.int64]


class RptSeqCheck(NamedTuple):
    """What `rpt_seq_gaps` found; rows are places in the arrays that it was given, in ascending order."""

    gap_rows: npt.NDArray[np.int64]
    """Rows before which updates of their instrument are missing."""
    missing: npt.NDArray[np.int64]
    """How many, for each of ``gap_rows``."""
    repeat_rows: npt.NDArray[np.int64]
    """Rows whose number is not above the instrument's previous one: repeated, out of order or restarted."""


def rpt_seq_gaps(instrument_id: npt.NDArray[np.int32], rpt_seq: npt.NDArray[np.uint32]) -> RptSeqCheck:
    """Where the update numbers of an instrument don't go up by one.

    RptSeq counts the updates of one instrument over all entries of templates 37, 46 and 48 to 51: pass the
    merged rows of all their tables, in the order of seq, msg_index and entry_index. An instrument without a
    gap has a right price-level book, whatever packets were lost (CME MDP 3.0, Concurrent Processing).

    Parameters
    ----------
    instrument_id, rpt_seq : int32[n], uint32[n]
        The first row of each instrument is taken as it is. Rows of number 0 are left out: conflated feeds
        don't count.
    """
    kept = np.flatnonzero(rpt_seq)
    order = kept[np.argsort(instrument_id[kept], kind="stable")]
    numbers = rpt_seq[order].astype(np.int64)
    step: npt.NDArray[np.int64] = numbers[1:] - numbers[:-1]
    same = np.diff(instrument_id[order].astype(np.int64)) == 0
    gaps, repeats = np.flatnonzero(same & (step > 1)), np.flatnonzero(same & (step < 1))
    rows = order[gaps + 1]
    ascending = np.argsort(rows)
    return RptSeqCheck(rows[ascending], step[gaps][ascending] - 1, np.sort(order[repeats + 1]))


class PriceBooks:
    """The price-level books of all instruments of one channel, ``depth`` levels a side.

    The venue's depth is MarketDepth of the definition, 10 for most futures; implied books have 2 levels
    there, and deeper rows simply stay empty. Where instruments differ, take the deepest: a New pushes what
    falls off a shallower book below its depth, so ask `depth` for no more levels than the venue keeps.
    """

    def __init__(self, depth: int = 10) -> None:
        if not 1 <= depth <= 255:
            raise ValueError(f"depth is {depth}; a level number is a byte that starts at 1: choose 1 to 255")
        self._ids = np.zeros(0, np.int32)  # by number, that is in the order of appearance
        self._state = _empty(0, depth, np.zeros(len(PRICE_COUNTERS), np.int64))

    def apply(self, columns: Columns, ends: npt.NDArray[np.bool_] | None = None) -> None:
        """Apply rows in their order.

        Parameters
        ----------
        columns : n rows
            ``instrument_id`` (null: 2**31 - 1), ``price`` (null: 2**63 - 1), ``size`` (lots), ``orders``,
            ``level`` (1 is the best), ``action``, ``entry_type``, ``rpt_seq`` (0: not counted); if present,
            ``event_flags``.
        ends : bool[n], optional
            Where events end; default: bit 7 of ``event_flags``. See `order_book.event_ends`.

        Raises
        ------
        WorkloadError
            If a column is missing, or columns differ in length.

        Notes
        -----
        New pushes the levels from its own on down by one, and the last one out. Delete moves up the levels
        below it. DeleteThru empties the side; DeleteFrom takes levels 1 to its own and moves up the rest.
        Overlay sets a level, price included. Entry type J empties the instrument's four sides; without an
        instrument, everything. RptSeq goes on over a J and starts anew where everything is emptied.
        """
        ids = column(columns, "instrument_id", np.int32, NULL_INSTRUMENT)
        action = column(columns, "action", np.uint8, 255)
        n = len(action)
        if ends is None:
            ends = flag(columns, "event_flags", EventFlag.END, n)
        rows = _Rows(
            number=self._numbers(ids),
            price=column(columns, "price", np.int64, NULL_PRICE),
            size=column(columns, "size", np.int64, NULL_SIZE),
            orders=column(columns, "orders", np.int32, 0),
            level=column(columns, "level", np.uint8, 0),
            action=action,
            entry_type=column(columns, "entry_type", np.uint8, 0),
            rpt_seq=column(columns, "rpt_seq", np.uint32, 0),
            ends=column({"ends": ends}, "ends", np.bool_, 0),
        )
        lengths = {name: len(values) for name, values in rows._asdict().items()}
        if set(lengths.values()) != {n}:
            raise WorkloadError(
                f"the columns of level rows differ in length: {lengths}; pass rows of one table"
            )
        _apply(rows, self._state, len(self._ids))

    def _numbers(self, ids: npt.NDArray[np.int32]) -> npt.NDArray[np.int64]:
        """Numbers of the rows' instruments, with room made for new ones."""
        here, first, place = np.unique(ids, return_index=True, return_inverse=True)
        new = ~np.isin(here, self._ids) & (here != NULL_INSTRUMENT)
        fresh = here[new][np.argsort(first[new])]
        self._ids = np.concatenate([self._ids, fresh])
        if len(self._ids) > len(self._state.marks):
            old, bigger = self._state, _empty(2 * len(self._ids), self._depth, self._state.counters)
            for name in ("levels", "marks", "touched", "open"):
                was = getattr(old, name)
                getattr(bigger, name)[: len(was)] = was
            self._state = bigger
        order = np.argsort(self._ids)
        spot = np.searchsorted(self._ids, here, sorter=order)
        numbers = np.append(order, -1)[np.where(here == NULL_INSTRUMENT, len(order), spot)]
        return column({"number": numbers[place]}, "number", np.int64, -1)

    @property
    def _depth(self) -> int:
        return int(self._state.levels.shape[2])

    @property
    def counters(self) -> dict[str, int]:
        """What was counted since the books were made; see `PRICE_COUNTERS`."""
        return dict(zip(PRICE_COUNTERS, self._state.counters.tolist(), strict=True))

    def instruments(self) -> npt.NDArray[np.int32]:
        """Ids of all instruments that rows have named, ascending; some may have empty books."""
        return np.sort(self._ids)

    def clear(self) -> None:
        """Empty every book and start RptSeq anew (channel reset: CME MDP 3.0, template 4)."""
        _clear(self._state, len(self._ids))

    def clear_instrument(self, instrument_id: int) -> None:
        """Empty the four sides of one instrument; nothing happens if it is unknown."""
        for number in np.flatnonzero(self._ids == instrument_id):
            _clear_instrument(self._state, number)

    def depth(self, instrument_id: int, levels: int, *, implied: bool = False) -> Depth:
        """The best ``levels`` levels of each side; levels that a loss has left empty are skipped."""
        sides: list[npt.NDArray[np.int64]] = []
        found = np.flatnonzero(self._ids == instrument_id)
        for offers in (0, 1):
            side = (
                self._state.levels[found[0], 2 * implied + offers]
                if len(found)
                else np.zeros((0, 3), np.int64)
            )
            side = side[side[:, _PRICE] != NULL_PRICE][:levels]
            sides += [side[:, field].copy() for field in (_PRICE, _SIZE, _ORDERS)]
        return Depth(*sides)

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """All that the books know, as plain arrays: enough for `from_state` to go on exactly from here.

        Equal books have equal states: instruments are in ascending order.
        """
        order = np.argsort(self._ids)
        return {
            "counters": self._state.counters.copy(),
            "instruments": self._ids[order],
            "levels": self._state.levels[order],
            "last_rpt_seq": self._state.marks[order, _LAST_RPT_SEQ],
            "open_event": self._ids[self._state.touched[: self._state.open[0]]],
        }

    @classmethod
    def from_state(cls, state: Mapping[str, npt.NDArray[Any]]) -> "PriceBooks":
        """The books that `state` described.

        Raises
        ------
        WorkloadError
            If an array is missing, or the counters are those of another version.
        """
        names = ("counters", "instruments", "levels", "last_rpt_seq", "open_event")
        missing = [name for name in names if name not in state]
        if missing or len(state["counters"]) != len(PRICE_COUNTERS):
            raise WorkloadError(
                "this is not a state of price books of this version "
                f"(missing: {', '.join(missing) or 'none'}); build the books again from the stored rows"
            )
        made = cls(state["levels"].shape[2])
        made._numbers(column(state, "instruments", np.int32, NULL_INSTRUMENT))
        order = np.argsort(made._ids)
        made._state.levels[order] = state["levels"]
        made._state.marks[order, _LAST_RPT_SEQ] = state["last_rpt_seq"]
        open_ = made._numbers(column(state, "open_event", np.int32, NULL_INSTRUMENT))
        made._state.touched[: len(open_)] = open_
        made._state.marks[open_, _TOUCHED] = 1
        made._state.open[0] = len(open_)
        made._state.counters[:] = state["counters"]
        return made


def _empty(instruments: int, depth: int, counters: npt.NDArray[np.int64]) -> _State:
    levels = np.zeros((instruments, 4, depth, 3), np.int64)
    levels[..., _PRICE] = NULL_PRICE
    marks, touched = np.zeros((instruments, 2), np.int64), np.zeros(instruments, np.int64)
    return _State(levels, marks, touched, np.zeros(1, np.int64), counters)


# Compiled from here on.


@inlined
def _touch(state: Any, number: Any) -> None:
    if state.marks[number, _TOUCHED] == 0:
        state.marks[number, _TOUCHED] = 1
        state.touched[state.open[0]] = number
        state.open[0] += 1


@inlined
def _erase(state: Any, number: Any, side: Any, first: Any) -> None:
    """Empty the levels of a side from ``first`` (0-based) down."""
    for level in range(first, state.levels.shape[2]):
        state.levels[number, side, level, _PRICE] = NULL_PRICE
        state.levels[number, side, level, _SIZE] = 0
        state.levels[number, side, level, _ORDERS] = 0


@inlined
def _shift(state: Any, number: Any, side: Any, source: Any, to: Any) -> None:
    """Move the levels from ``source`` down so that they begin at ``to``; what leaves the table is lost."""
    depth = state.levels.shape[2]
    count = depth - max(source, to)
    for i in range(count):
        step = i if to < source else count - 1 - i
        for field in range(3):
            state.levels[number, side, to + step, field] = state.levels[number, side, source + step, field]


@compiled
def _clear_instrument(state: Any, number: Any) -> None:
    _touch(state, number)
    for side in range(4):
        _erase(state, number, side, 0)


@compiled
def _clear(state: Any, instruments: Any) -> None:
    for number in range(instruments):
        _clear_instrument(state, number)
        state.marks[number, _LAST_RPT_SEQ] = 0


@inlined
def _side(entry_type: Any) -> Any:
    """Side of an entry type, -1 for another."""
    if entry_type == _BID:
        return 0
    if entry_type == _OFFER:
        return 1
    if entry_type == _IMPLIED_BID:
        return 2
    if entry_type == _IMPLIED_OFFER:
        return 3
    return -1


@inlined
def _edit(rows: Any, row: Any, state: Any, number: Any, side: Any) -> Any:
    """Do what a row says; return the counter that it belongs to."""
    counters, levels, action = state.counters, state.levels, rows.action[row]
    depth = levels.shape[2]
    if action == _DELETE_THRU:
        _erase(state, number, side, 0)
        return _DELETES_THRU
    level = np.int64(rows.level[row]) - 1
    if level < 0 or level >= depth:
        return _UNUSABLE
    before = levels[number, side, level, _PRICE]
    if action == _DELETE_FROM:
        _shift(state, number, side, level + 1, 0)
        _erase(state, number, side, depth - 1 - level)
        return _DELETES_FROM
    if action == _DELETE:
        if before == NULL_PRICE:
            counters[_UNKNOWN_DELETES] += 1
        elif rows.price[row] != NULL_PRICE and rows.price[row] != before:
            counters[_MISMATCHED] += 1
        _shift(state, number, side, level + 1, level)
        _erase(state, number, side, depth - 1)
        return _DELETES
    if (
        (action != _NEW and action != _CHANGE and action != _OVERLAY)
        or rows.price[row] == NULL_PRICE
        or rows.size[row] == NULL_SIZE
    ):
        return _UNUSABLE
    if level > 0 and levels[number, side, level - 1, _PRICE] == NULL_PRICE:
        counters[_HOLES] += 1
    counter = _OVERLAYS
    if action == _NEW:
        counter = _NEWS
        _shift(state, number, side, level, level + 1)
    elif action == _CHANGE:
        counter = _CHANGES
        if before == NULL_PRICE:
            counters[_UNKNOWN_CHANGES] += 1
        elif rows.price[row] != before:
            counters[_MISMATCHED] += 1
    levels[number, side, level, _PRICE] = rows.price[row]
    levels[number, side, level, _SIZE] = rows.size[row]
    levels[number, side, level, _ORDERS] = rows.orders[row]
    return counter


@inlined
def _end_event(state: Any) -> None:
    """Look at every customer book that the event changed."""
    for i in range(state.open[0]):
        number = state.touched[i]
        state.marks[number, _TOUCHED] = 0
        bid, offer = state.levels[number, 0, 0, _PRICE], state.levels[number, 1, 0, _PRICE]
        if bid != NULL_PRICE and offer != NULL_PRICE and bid >= offer:
            state.counters[_CROSSED] += 1
    state.open[0] = 0
    state.counters[_EVENT_ENDS] += 1


@compiled
def _apply(rows: Any, state: Any, instruments: Any) -> None:
    counters, marks = state.counters, state.marks
    for row in range(len(rows.action)):
        counters[_ROWS] += 1
        number = rows.number[row]
        side = _side(rows.entry_type[row])
        reset = rows.entry_type[row] == _RESET or rows.action[row] == _RESET_ACTION
        if number < 0:
            counters[_RESETS if reset else _UNUSABLE] += 1
            if reset:
                _clear(state, instruments)
        else:
            rpt_seq = np.int64(rows.rpt_seq[row])
            if rpt_seq > 0:
                if rpt_seq <= marks[number, _LAST_RPT_SEQ]:
                    counters[_REPEATS] += 1
                marks[number, _LAST_RPT_SEQ] = rpt_seq
            if reset:
                counters[_RESETS] += 1
                _clear_instrument(state, number)
            elif side < 0:
                counters[_UNUSABLE] += 1
            else:
                counter = _edit(rows, row, state, number, side)
                counters[counter] += 1
                if counter != _UNUSABLE:
                    _touch(state, number)
        if rows.ends[row]:
            _end_event(state)

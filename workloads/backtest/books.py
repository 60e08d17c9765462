"""The exchange's books: tops rebuilt from the orders of a partition, and which of them may be traded.

A book is looked at where an event ends, and known from the time at which the packet of that row was sent.
Whether the rebuilt book can be trusted is decided by the dataset, which was cleaned and mended: where its
next grid row is usable and shows the same best prices, every book of that step counts. Where the two differ
(packets were lost, and only the dataset has seen the snapshots) the grid rows themselves are the books.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from workloads.backtest.engine import BacktestError, Books, checked
from workloads.ticks.archive import Archive, DataCommit, Partition
from workloads.ticks.codes import EventFlag, RowFlag
from workloads.ticks.order_book import NULL_PRICE, OrderBooks, column, flag

Ints = NDArray[np.int64]

MARKING = ("mbp", "trades", "statistics", "limits", "status")
"""Tables beside `mbo` on whose rows the venue marks an event's end."""
_PLACE = ["epoch", "seq", "msg_index", "event_flags"]
_MBO = [
    *_PLACE,
    *("ts_sent", "instrument_id", "order_id", "price", "size", "action", "side", "priority", "row_flags"),
]


@dataclass(frozen=True)
class GridRows:
    """`book_tensors` rows of one instrument, in the order of time, n rows."""

    ts: Ints
    """Grid time: the row holds what was sent before it."""
    segment: Ints
    """-1: not usable."""
    bid: Ints
    """1e-9; `NULL_PRICE` where the side is empty."""
    ask: Ints
    bid_size: Ints
    """Lots at the best price."""
    ask_size: Ints
    ofi: Ints
    """Order-flow imbalance since the grid time before, lots."""
    volume: Ints
    """Lots that traded since the grid time before."""

    @property
    def usable(self) -> NDArray[np.bool_]:
        """Clean, with a bid below an ask."""
        two_sided = (self.bid != NULL_PRICE) & (self.ask != NULL_PRICE)
        made: NDArray[np.bool_] = (self.segment >= 0) & two_sided & (self.bid < self.ask)
        return made

    def part(self, which: slice | NDArray[np.bool_]) -> "GridRows":
        """Some of the rows."""
        return GridRows(**{name: values[which] for name, values in vars(self).items()})


def tops(
    archive: Archive,
    partition: Partition,
    instruments: Iterable[int],
    span: tuple[int, int],
    at: DataCommit | None = None,
) -> dict[int, Books]:
    """Uncrossed two-sided tops of book of these instruments in one partition, by instrument.

    Books start empty, as those of the dataset do, in each partition and in each epoch inside it: a session
    of the next day belongs to the same week's epoch and tells of its orders anew. Packets that came after
    their gap had been declared (`RowFlag.LATE`) are stored behind their place and left out. While the
    venue refills a book (`RowFlag.RECOVERY`) nobody looks.

    Parameters
    ----------
    span : (int, int)
        Only books sent in [from, until) are kept, ns.
    """
    wanted = np.array(sorted(instruments), np.int32)
    books, epoch = OrderBooks(), -1
    marks = _Marks(archive, partition, at)
    kept: list[dict[str, NDArray[Any]]] = []
    for rows, follows in _in_order(archive, partition, at):
        ends = marks.ends(rows, follows)
        for one in _one_epoch_each(rows):
            if one.epoch != epoch:
                books.clear()
                epoch = one.epoch
            found = books.tops(rows.slice(one.start, one.stop - one.start), 1, ends[one.start : one.stop])
            kept.append(_kept(found, rows.slice(one.start, one.stop - one.start), wanted, span))
    return {int(i): _of(kept, int(i)) for i in wanted}


class _Stretch(NamedTuple):
    epoch: int
    start: int
    stop: int


def _one_epoch_each(rows: pa.Table) -> Iterator[_Stretch]:
    epochs = column(rows, "epoch", np.uint32, 0)
    cuts = [0, *(np.flatnonzero(np.diff(epochs)) + 1).tolist(), len(epochs)]
    for start, stop in pairwise(cuts):
        yield _Stretch(int(epochs[start]), start, stop)


def _kept(
    found: dict[str, NDArray[Any]], rows: pa.Table, wanted: NDArray[np.int32], span: tuple[int, int]
) -> dict[str, NDArray[Any]]:
    """The tops that orders could meet, with the time at which they were sent."""
    sent = column(rows, "ts_sent", np.int64, 0)[found["row"]]
    flags = column(rows, "row_flags", np.uint8, 0)[found["row"]]
    keep = np.isin(found["instrument_id"], wanted) & (found["bid_price"] < found["ask_price"])
    keep &= (found["bid_price"] != NULL_PRICE) & (found["ask_price"] != NULL_PRICE)
    keep &= ((flags & np.uint8(RowFlag.RECOVERY)) == 0) & (sent >= span[0]) & (sent < span[1])
    return {name: values[keep] for name, values in {**found, "ts": sent}.items()}


def exchange_books(found: Books, rows: GridRows, step_ns: int) -> tuple[Books, int]:
    """The books that orders may meet: rebuilt ones where the dataset confirms them, else its own rows.

    Parameters
    ----------
    found : Books
        Rebuilt.
    rows : GridRows
        All of the stretch, usable or not.

    Returns
    -------
    Books, int
        And how many of them are grid rows.
    """
    if not len(rows.ts):
        return Books(*np.zeros((5, 0), np.int64)), 0
    last = np.searchsorted(found.ts, rows.ts, side="left") - 1
    agrees = rows.usable & (last >= 0)
    if len(found.ts):
        agrees &= (found.bid[last] == rows.bid) & (found.ask[last] == rows.ask)
    covering = np.searchsorted(rows.ts, found.ts, side="right")
    inside = np.minimum(covering, len(rows.ts) - 1)
    trusted = (covering < len(rows.ts)) & agrees[inside] & (rows.ts[inside] - found.ts <= step_ns)
    own = rows.usable & ~agrees
    columns = zip(found, (rows.ts, rows.bid, rows.ask, rows.bid_size, rows.ask_size), strict=True)
    both = [np.concatenate([rebuilt[trusted], given[own]]) for rebuilt, given in columns]
    order = np.argsort(both[0], kind="stable")
    return checked(Books(*(values[order] for values in both))), int(own.sum())


def _in_order(
    archive: Archive, partition: Partition, at: DataCommit | None
) -> Iterator[tuple[pa.Table, tuple[int, int] | None]]:
    """Batches of rows in the venue's order, each with the place of the row that follows it."""
    on_time = pc.equal(pc.bit_wise_and(pc.field("row_flags"), pa.scalar(int(RowFlag.LATE), pa.uint8())), 0)
    held: pa.Table | None = None
    for batch in archive.batches("mbo", partition, columns=_MBO, filter=on_time, at=at):
        if not batch.num_rows:
            continue
        rows = pa.Table.from_batches([batch])
        if held is not None:
            first = rows.slice(0, 1)
            yield held, (_places(first)[0][0], _places(first)[1][0])
        held = rows
    if held is not None:
        yield held, None


def _places(rows: pa.Table) -> tuple[NDArray[np.uint32], NDArray[np.uint64]]:
    """Epoch, and packet and message in it as one number."""
    seq = column(rows, "seq", np.uint32, 0).astype(np.uint64)
    message = column(rows, "msg_index", np.uint16, 0).astype(np.uint64)
    return column(rows, "epoch", np.uint32, 0), (seq << np.uint64(16)) | message


class _Marks:
    """Where rows of other tables mark the end of an event: eight bytes an event, by epoch."""

    def __init__(self, archive: Archive, partition: Partition, at: DataCommit | None) -> None:
        parts: dict[int, list[NDArray[np.uint64]]] = {}
        for table in MARKING:
            path = f"{table}/{partition.path}"
            if path not in at.entries if at is not None else not archive.log(table, partition):
                continue
            marked = pc.greater_equal(pc.field("event_flags"), pa.scalar(int(EventFlag.END), pa.uint8()))
            for batch in archive.batches(table, partition, columns=_PLACE, filter=marked, at=at):
                epochs, places = _places(pa.Table.from_batches([batch]))
                for epoch in np.unique(epochs):
                    parts.setdefault(int(epoch), []).append(places[epochs == epoch])
        self._marks = {epoch: np.sort(np.concatenate(found)) for epoch, found in parts.items()}

    def ends(self, rows: pa.Table, follows: tuple[int, int] | None) -> NDArray[np.bool_]:
        """Which rows are the last of their event; see `order_book.event_ends`."""
        epochs, places = _places(rows)
        if (np.diff(epochs.astype(np.int64)) < 0).any() or (
            (places[1:] < places[:-1]) & (epochs[1:] == epochs[:-1])
        ).any():
            raise BacktestError(
                "mbo rows are not in the order of epoch, seq, msg_index; compact the partition in that order"
            )
        ends = flag(rows, "event_flags", EventFlag.END, rows.num_rows)
        for epoch in np.unique(epochs):
            marks = self._marks.get(int(epoch))
            if marks is None:
                continue
            mine = np.flatnonzero(epochs == epoch)
            before = np.searchsorted(marks, places[mine])
            after = len(marks)
            if mine[-1] == len(epochs) - 1 and follows is not None and follows[0] == epoch:
                after = int(np.searchsorted(marks, np.uint64(follows[1])))
            ends[mine] |= np.append(before[1:], after) > before
        return ends


def _of(parts: list[dict[str, NDArray[Any]]], instrument_id: int) -> Books:
    """One instrument's tops of all parts; times never fall."""
    names = ("ts", "bid_price", "ask_price", "bid_size", "ask_size")
    mine = [part["instrument_id"] == instrument_id for part in parts]
    columns = [
        np.concatenate([part[name][rows] for part, rows in zip(parts, mine, strict=True)])
        if parts
        else np.zeros(0, np.int64)
        for name in names
    ]
    columns[0] = np.maximum.accumulate(columns[0])
    return Books(*columns)

"""The order rows of a partition as whole events, with the time from which each event is known.

The venue marks the end of an event once, often on a row of another table. Until that mark was sent nobody
could know that the event was over, so the rows of an event count together from the mark's time on.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from workloads.ticks.codes import EventFlag, RowFlag
from workloads.ticks.order_book import column, flag

MARK_COLUMNS = ("epoch", "seq", "msg_index", "ts_sent", "event_flags", "row_flags")
"""What is read of the other tables; rows without the end mark may be left out."""
MOST_ROWS = 1 << 18
"""An event that is longer is taken to be over: a venue that marks no ends must not fill the memory."""

Int = NDArray[np.int64]
Batches = Iterable[pa.RecordBatch | pa.Table]


@dataclass(frozen=True, eq=False)
class Events:
    """Whole events, one after the other."""

    rows: pa.Table
    """Order rows as they are stored."""
    ends: NDArray[np.bool_]
    """Which rows are the last ones of their event."""
    known: Int
    """ns: when the end of a row's event was known; never falls."""

    def within(self, span_ns: int) -> Iterator["Events"]:
        """The same in pieces, none of which reaches across a multiple of ``span_ns``."""
        cuts = np.flatnonzero(np.diff(self.known // span_ns)) + 1
        bounds = [0, *cuts.tolist(), len(self.known)]
        for start, stop in pairwise(bounds):
            yield Events(self.rows.slice(start, stop - start), self.ends[start:stop], self.known[start:stop])


def clock(rows: pa.Table, since: int = 0) -> Int:
    """When each row was known: its packet's ``ts_sent``, or that of an earlier row if that is later."""
    sent = column(rows, "ts_sent", np.int64, 0)
    times: Int = np.maximum.accumulate(np.maximum(sent, since))
    return times


def events(mbo: Batches, others: Sequence[Batches]) -> Iterator[Events]:
    """Cut order rows into whole events, batch after batch.

    Parameters
    ----------
    mbo : batches of order rows, in stored order
    others : for each table that may hold an end mark, its batches in stored order
        With `MARK_COLUMNS`.

    Notes
    -----
    Memory holds a batch of each table and the open event. What follows the last end is left out. Rows of
    late packets (RowFlag.LATE) end nothing.
    """
    streams: list[_Marks] | None = None
    base, last = 0, 0
    carried: pa.Table | None = None
    source = iter(mbo)
    batch = next(source, None)
    while batch is not None:
        following = next(source, None)
        rows = _table(batch)
        if carried is not None:
            rows = pa.concat_tables([carried, rows])
        if streams is None and rows.num_rows:
            base = int(column(rows.slice(0, 1), "epoch", np.int64, 0)[0])
            streams = [_Marks(other, base) for other in others]
        place = np.maximum.accumulate(_places(rows, base))
        whole = rows.num_rows
        if following is not None and whole:  # the last packet may go on in the next batch
            whole = int(np.searchsorted(place >> np.uint64(16), place[-1] >> np.uint64(16)))
        through = None if following is None else int(place[whole - 1]) if whole else -1
        marks = [stream.until(through) for stream in streams or ()]
        ends, ended_at = _ends(rows.slice(0, whole), place[:whole], marks, last)
        if rows.num_rows > MOST_ROWS and whole and not ends.any():
            ends[-1] = True
        found = np.flatnonzero(ends)
        count = int(found[-1]) + 1 if len(found) else 0
        if count:
            known = ended_at[found][np.searchsorted(found, np.arange(count))]
            known = np.maximum.accumulate(np.maximum(known, last))
            last = int(known[-1])
            yield Events(rows.slice(0, count), ends[:count], known)
        carried, batch = rows.slice(count), following


def _ends(
    rows: pa.Table, place: NDArray[np.uint64], marks: list[tuple[NDArray[np.uint64], Int]], since: int
) -> tuple[NDArray[np.bool_], Int]:
    """Which rows end an event, and when that was known."""
    n = rows.num_rows
    if not n:
        return np.zeros(0, np.bool_), np.zeros(0, np.int64)
    ended_at = clock(rows, since)
    own = flag(rows, "event_flags", EventFlag.END, n) & ~flag(rows, "row_flags", RowFlag.LATE, n)
    ends = own.copy()
    marked_at = np.full(n, np.iinfo(np.int64).max)
    for places, ts in marks:
        before = np.searchsorted(places, place)
        marked = np.append(before[1:], len(places)) > before
        ends |= marked
        marked_at[marked] = np.minimum(marked_at[marked], ts[before[marked]])
    behind = ends & ~own
    ended_at[behind] = np.maximum(ended_at[behind], marked_at[behind])
    return ends, ended_at


class _Marks:
    """The end marks of one table: (place, time), read as far as they are asked for."""

    def __init__(self, batches: Batches, base: int) -> None:
        self._batches, self._base = iter(batches), base
        self._place, self._ts = np.zeros(0, np.uint64), np.zeros(0, np.int64)

    def until(self, place: int | None) -> tuple[NDArray[np.uint64], Int]:
        """Those not yet given, up to and with a place; None: all that are left."""
        parts = [(self._place, self._ts)]
        while place is None or not len(parts[-1][0]) or parts[-1][0][-1] <= place:
            batch = next(self._batches, None)
            if batch is None:
                break
            parts.append(self._read(_table(batch)))
        places, ts = (np.concatenate(part) for part in zip(*parts, strict=True))
        stop = len(places) if place is None else int(np.searchsorted(places, place, side="right"))
        if place == -1:
            stop = 0
        self._place, self._ts = places[stop:], ts[stop:]
        return places[:stop], ts[:stop]

    def _read(self, rows: pa.Table) -> tuple[NDArray[np.uint64], Int]:
        n = rows.num_rows
        marks = flag(rows, "event_flags", EventFlag.END, n) & ~flag(rows, "row_flags", RowFlag.LATE, n)
        place, ts = _places(rows, self._base)[marks], column(rows, "ts_sent", np.int64, 0)[marks]
        order = np.argsort(place, kind="stable")
        return place[order], ts[order]


def _places(rows: pa.Table, base: int) -> NDArray[np.uint64]:
    """Epoch (since ``base``: restarts of one week), packet and message of each row as one number."""
    epoch = np.clip(column(rows, "epoch", np.int64, 0) - base, 0, 0xFFFF).astype(np.uint64)
    seq = column(rows, "seq", np.uint64, 0)
    message: Any = column(rows, "msg_index", np.uint64, 0)
    place: NDArray[np.uint64] = (epoch << np.uint64(48)) | (seq << np.uint64(16)) | message
    return place


def _table(batch: pa.RecordBatch | pa.Table) -> pa.Table:
    return batch if isinstance(batch, pa.Table) else pa.Table.from_batches([batch])

"""Segments: stretches of a book that may be looked at as one."""

import numpy as np
from numpy.typing import NDArray

from workloads.errors import WorkloadError

MOST = 1 << 20
"""Segments of one partition; further partitions of a date number theirs behind it."""


class Segments:
    """Numbers the maximal runs of consecutive usable grid times of one instrument, batch after batch.

    Parameters
    ----------
    step_ns : int
        Of the grid.
    bounds : int64[n], ascending, ns
        Where sessions and their breaks start and end; no segment reaches across one.
    rank : int
        Of the partition within its date: ids start at ``rank * MOST``.
    """

    def __init__(self, step_ns: int, bounds: NDArray[np.int64], rank: int = 0) -> None:
        self._step, self._bounds, self._rank = step_ns, bounds, rank
        self._next = rank * MOST
        self._last: dict[int, tuple[int, int]] = {}  # instrument: time and segment of its last row

    @property
    def count(self) -> int:
        """Segments so far."""
        return self._next - self._rank * MOST

    def number(
        self, instrument_id: NDArray[np.int32], ts: NDArray[np.int64], usable: NDArray[np.bool_]
    ) -> NDArray[np.int32]:
        """Segment of each of the next n rows, -1 where not usable. ``ts`` ascends within an instrument.

        A segment's id tells the order in which segments began, however rows are cut into batches.
        """
        segment = np.full(len(ts), -1, np.int32)
        # A row of time t holds what was known before t: it belongs to the session of the instant before.
        session = np.searchsorted(self._bounds, ts - 1, side="right")
        order = np.argsort(instrument_id, kind="stable")
        ids, moved, used = instrument_id[order], ts[order], usable[order]
        new = np.diff(ids, prepend=ids[:1] - 1) != 0
        follows = ~new & (np.diff(moved, prepend=0) == self._step)
        follows &= np.diff(session[order], prepend=0) == 0
        follows[1:] &= used[:-1]
        heads = np.flatnonzero(new)
        carried = np.full(len(ts), -1, np.int64)
        for i in heads.tolist():  # one an instrument
            before, its_segment = self._last.get(int(ids[i]), (0, -1))
            its_session = np.searchsorted(self._bounds, before - 1, side="right")
            if its_segment >= 0 and moved[i] - before == self._step and its_session == session[order[i]]:
                carried[i] = its_segment
        starts = used & ~follows & (carried < 0)
        began = np.sort(order[starts])
        given = np.full(len(ts), -1, np.int64)
        given[began] = self._next + np.arange(len(began))
        self._next += len(began)
        if self.count > MOST:
            raise WorkloadError(
                f"more than {MOST} segments in one partition: its books are unusable nearly all the time; "
                "look at the table cleaning"
            )
        # The last number given at or before each row, along its instrument.
        known = np.where(carried >= 0, carried, given[order])
        at = np.maximum.accumulate(np.where(known >= 0, np.arange(len(known)), 0))
        segment[order] = np.where(used, known[at], -1)
        for i in (np.append(heads[1:], len(ids)) - 1).tolist() if len(heads) else []:
            self._last[int(ids[i])] = int(moved[i]), int(segment[order[i]])
        return segment

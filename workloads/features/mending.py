"""Order books after a loss: what may still be believed, and the snapshots that bring them back.

An order book is a sum of all messages since it was empty, and template 47 carries no per-instrument number
that could prove one book untouched by a lost packet: after a loss every book of the channel is in doubt
(CME MDP 3.0, Recovery). A book is believed again when

- a snapshot of its orders (template 53, every chunk of it) that contains the last lost packet has been
  sent completely: not before, though it describes an earlier book; or
- the venue empties the channel and fills it again (channel reset), or numbers its packets anew.

The snapshot's orders enter the stream of rows right behind the last packet that they contain
(LastMsgSeqNumProcessed), so that the rows behind it, which were received meanwhile, bring the book up to
date. Until the snapshot's last chunk was sent the instrument is stale, so nobody looks at that book early.

A place is a packet's position in the channel, as one number: ``epoch << 32 | seq``.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from workloads.ticks.archive import Archive
from workloads.ticks.codes import Action, EntryType, EventFlag, RowFlag, Side
from workloads.ticks.commits import DataCommit
from workloads.ticks.partitions import Partition
from workloads.ticks.schema import GAPS, MBO, SNAPSHOTS, STATUS

Int: TypeAlias = NDArray[np.int64]
Places: TypeAlias = NDArray[np.uint64]
Batches: TypeAlias = Callable[[], Iterable[pa.Table]]
"""The rows of a table, batch by batch, as often as it is called."""

NEVER = np.iinfo(np.int64).max
"""A time that doesn't come."""
CHANNEL_RESET = 4
ORDER_SNAPSHOTS = (44, 53)
"""SnapshotFullRefreshOrderBook, before schema version 9 and since."""
_LAST_MESSAGE = 0xFFFF  # behind every message of the packet


def places(epoch: NDArray[Any], seq: NDArray[Any]) -> Places:
    """``epoch << 32 | seq`` of each packet."""
    packed: Places = (epoch.astype(np.uint64) << np.uint64(32)) | seq.astype(np.uint64)
    return packed


@dataclass(frozen=True, eq=False)
class Losses:
    """Where the stream of packets broke, n times, in the order of the places."""

    last: Places
    """Place of the last lost packet."""
    ts_after: Int
    """``ts_sent`` of the first packet behind it, by which the loss is known; NEVER if there is none."""
    began_inside: bool = False
    """The first loss is all that the epoch had sent before the first packet that is stored."""

    def before(self, place: Places) -> Int:
        """Index of the last loss that lies before each place; -1: none does."""
        found: Int = np.searchsorted(self.last, place, side="left") - 1
        return found

    def known(self, ts: Int) -> Int:
        """Index of the last loss that was known before each time, ns; -1: none was."""
        found: Int = np.searchsorted(self.ts_after, ts, side="left") - 1
        return found


@dataclass(frozen=True, eq=False)
class Mends:
    """What mends a book: n complete snapshots or resets, by instrument and place, both ascending."""

    instrument_id: NDArray[np.int32]
    place: Places
    """The book holds every packet up to here."""
    ts: Int
    """``ts_sent`` of the last message of it: known from here on."""

    def first(self, instrument_id: NDArray[np.int32], place: Places) -> Int:
        """Index of the first mend of each instrument that holds each place; -1: there is none."""
        ids, known = np.unique(self.instrument_id), np.unique(self.place)
        if not len(ids):
            return np.full(len(place), -1, np.int64)
        width = len(known) + 1
        keys = np.searchsorted(ids, self.instrument_id) * width + np.searchsorted(known, self.place)
        code = np.minimum(np.searchsorted(ids, instrument_id), len(ids) - 1)
        found = np.searchsorted(keys, code * width + np.searchsorted(known, place))
        there = np.minimum(found, len(keys) - 1)
        of_it = (found < len(keys)) & (self.instrument_id[there] == instrument_id)
        chosen: Int = np.where(of_it, there, -1)
        return chosen


class Mending:
    """What the losses of one partition did to its order books, and the rows that mend them.

    ``rows``: in the schema of `mbo`, ordered by place: an instrument's RESET and then its orders, or a RESET
    without instrument where the channel was emptied. They are flagged RECOVERY. ``seq`` is the last packet
    that they contain, ``ts_sent`` that of the last packet received up to it, so that the merged stream's
    times stay in order.
    """

    def __init__(self, losses: Losses, mends: Mends, resets: Places, ts_resets: Int, rows: pa.Table) -> None:
        self.losses = losses
        self.rows = rows
        self._mends = mends
        self._resets, self._ts_resets = resets, ts_resets
        self._keys = _row_keys(rows)
        self._given = 0

    @classmethod
    def nothing(cls) -> "Mending":
        """Of a stream without losses and resets."""
        empty, none = np.zeros(0, np.uint64), np.zeros(0, np.int64)
        mends = Mends(np.zeros(0, np.int32), empty, none)
        return cls(Losses(empty, none), mends, empty, none, MBO.arrow.empty_table())

    def rows_stale(
        self, instrument_id: NDArray[np.int32], place: Places, ts_sent: Int
    ) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """(stale, replaced) of each order row.

        Stale: a loss lies before it and its instrument's book was not mended when it was sent. Replaced:
        what mends the book later contains it, or nothing ever does; the book needs no such row.
        """
        loss = self.losses.before(place)
        until, since = self._mended(instrument_id, loss)
        stale = (loss >= 0) & (ts_sent <= until)
        return stale, stale & (place <= since)

    def times_stale(self, instrument_id: NDArray[np.int32], ts: Int) -> NDArray[np.bool_]:
        """Whether a book of what was sent before each time (ns) is in doubt, as far as was known then."""
        loss = self.losses.known(ts)
        until, _ = self._mended(instrument_id, loss)
        return (loss >= 0) & (ts <= until)

    def gap_known(self, start: Int, end: Int) -> NDArray[np.bool_]:
        """Whether a loss became known in each [start, end), ns."""
        after = self.losses.ts_after[1:] if self.losses.began_inside else self.losses.ts_after
        found: NDArray[np.bool_] = np.searchsorted(after, start) < np.searchsorted(after, end)
        return found

    def merge(self, rows: pa.Table) -> tuple[pa.Table, Int]:
        """Put the mending rows among the order rows, batch after batch.

        Parameters
        ----------
        rows : table with columns of `mbo`
            The next ones of the stream that are not excluded; in the order of epoch, seq, msg_index.

        Returns
        -------
        table, int64[n]
            All rows in order; for each its row in ``rows``, or -1 for a mending row. A mending row comes
            with the first batch that holds a later row.
        """
        if self._given == self.rows.num_rows or not rows.num_rows:
            return rows, np.arange(rows.num_rows)
        keys = _row_keys(rows)
        stop = int(np.searchsorted(self._keys, keys[-1:], side="right")[0])
        new = self.rows.select(rows.column_names).slice(self._given, stop - self._given)
        at = np.searchsorted(keys, self._keys[self._given : stop], side="left")
        self._given = stop
        if not new.num_rows:
            return rows, np.arange(rows.num_rows)
        order = np.argsort(np.concatenate([2 * at, 2 * np.arange(rows.num_rows) + 1]), kind="stable")
        both = pa.concat_tables([new, rows], promote_options="none").take(order)
        return both, np.where(order < new.num_rows, -1, order - new.num_rows)

    def rest(self) -> pa.Table:
        """The mending rows behind the last batch."""
        left = self.rows.slice(self._given)
        self._given = self.rows.num_rows
        return left

    def _mended(self, instrument_id: NDArray[np.int32], loss: Int) -> tuple[Int, Places]:
        """(time, place) from which each instrument's book is right again after each loss."""
        if not len(self.losses.last):
            return np.full(len(loss), -1, np.int64), np.zeros(len(loss), np.uint64)
        last = self.losses.last[np.maximum(loss, 0)]
        mend = self._mends.first(instrument_id, last)
        reset = np.searchsorted(self._resets, last, side="right")
        ts_mend = np.append(self._mends.ts, NEVER)[mend]
        ts_reset = np.append(self._ts_resets, NEVER)[reset]
        everything = np.uint64(2**64 - 1)
        by_mend = np.append(self._mends.place, everything)[mend]
        by_reset = np.append(self._resets - np.uint64(1), everything)[reset]
        first = ts_mend <= ts_reset
        return np.where(first, ts_mend, ts_reset), np.where(first, by_mend, by_reset)


def read_mending(archive: Archive, partition: Partition, at: DataCommit | None = None) -> Mending:
    """`mending` of one stored partition. Tables that are missing hold nothing."""
    stored = {table for table in ("gaps", "packets", "status", "snapshots") if archive.log(table, partition)}

    def rows(table: str, columns: list[str]) -> Iterable[pa.Table]:
        if table in stored:
            for batch in archive.batches(table, partition, columns=columns, at=at):
                yield pa.Table.from_batches([batch])

    gaps = archive.read("gaps", partition, at=at) if "gaps" in stored else GAPS.arrow.empty_table()
    status = archive.read("status", partition, at=at) if "status" in stored else STATUS.arrow.empty_table()
    return mending(
        gaps,
        status,
        packets=lambda: rows("packets", ["epoch", "seq", "ts_sent", "row_flags"]),
        snapshots=lambda: rows("snapshots", SNAPSHOTS.arrow.names),
    )


def mending(gaps: pa.Table, status: pa.Table, packets: Batches, snapshots: Batches) -> Mending:
    """What mends the order books of one partition.

    Parameters
    ----------
    gaps, status : the whole tables of the partition
    packets, snapshots : their rows in stored order; snapshots are read only where something was lost

    Notes
    -----
    Late packets count as lost: by the time that they came the books had gone on without them. Their rows
    are left out of the books (`workloads.features.cleaning`).
    """
    raise NotImplementedError

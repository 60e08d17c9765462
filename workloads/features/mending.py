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

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from workloads.ticks.archive import Archive
from workloads.ticks.codes import Action, EntryType, EventFlag, RowFlag, Side
from workloads.ticks.commits import DataCommit
from workloads.ticks.order_book import NULL_INSTRUMENT, column
from workloads.ticks.partitions import Partition
from workloads.ticks.schema import GAPS, MBO, STATUS

Int: TypeAlias = NDArray[np.int64]
Places: TypeAlias = NDArray[np.uint64]
Batches: TypeAlias = Callable[[], Iterable[pa.Table]]
"""The rows of a table, batch by batch, as often as it is called."""

NEVER = np.iinfo(np.int64).max
"""A time that doesn't come."""
CHANNEL_RESET = 4
ORDER_SNAPSHOTS = (44, 53)
"""Templates of a snapshot of orders: of prices with 7 decimals, and with 9."""
_BEHIND_ITS_MESSAGES = 0xFFFF
_NULL_TIME = np.iinfo(np.int64).min
_TEMPLATES = pa.array(ORDER_SNAPSHOTS, pa.uint8())
_FLAGS_AT = MBO.arrow.get_field_index("event_flags")
_SNAPSHOT_COLUMNS = (
    *("ts_event", "ts_sent", "epoch", "instrument_id", "last_seq", "chunk", "chunks", "entry_type"),
    *("price", "size", "order_id", "priority", "row_flags", "template"),
)
_EVERYTHING = np.uint64(2**64 - 1)


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
    """n complete snapshots of order books. Of one instrument, a later one holds more: place and time both
    ascend. Sorted by instrument, then place."""

    instrument_id: NDArray[np.int32]
    place: Places
    """The last packet that it holds."""
    ts: Int
    """``ts_sent`` of its last chunk: it is known from here on."""

    @classmethod
    def none(cls) -> "Mends":
        return cls(np.zeros(0, np.int32), np.zeros(0, np.uint64), np.zeros(0, np.int64))

    def take(self, index: Int) -> "Mends":
        return Mends(self.instrument_id[index], self.place[index], self.ts[index])

    def first(self, instrument_id: NDArray[np.int32], place: Places) -> Int:
        """Index of the first one of each instrument that holds each place; -1: there is none."""
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


@dataclass(frozen=True, eq=False)
class Resets:
    """Where the channel was emptied, n times: by a channel reset, or because its numbers began anew."""

    place: Places
    """Of the packet that says so; books are empty before its rows."""
    ts: Int
    """Its ``ts_sent``."""


class Mending:
    """What the losses of one partition did to its order books, and the rows that mend them.

    ``rows``: in the schema of `mbo`, in order: an instrument's RESET and then its orders, or a RESET
    without instrument where the channel was emptied. They are flagged RECOVERY. ``seq`` of a snapshot's rows
    is the last packet that they hold, ``ts_sent`` that of the last packet received up to it, so that times
    in the merged stream stay in order.
    """

    def __init__(self, losses: Losses, mends: Mends, resets: Resets, rows: pa.Table, behind: Places) -> None:
        self.losses, self.rows = losses, rows
        self.resets, self._mends = resets, mends
        self._behind = behind  # the place behind which each row belongs
        self._given = 0

    def rows_stale(self, instrument_id: NDArray[np.int32], place: Places, ts_sent: Int) -> NDArray[np.bool_]:
        """Whether a loss lies before each row and its instrument's book was not mended when it was sent.

        Such rows still go to the books: those behind the place that a snapshot holds bring it up to date.
        """
        loss = self.losses.before(place)
        ts, holds = self._mended(instrument_id, loss)
        stale: NDArray[np.bool_] = (loss >= 0) & ((place <= holds) | (ts_sent < ts))
        return stale

    def times_stale(self, instrument_id: NDArray[np.int32], ts: Int) -> NDArray[np.bool_]:
        """Whether a book of what was sent before each time (ns) is in doubt, as far as was known then."""
        loss = self.losses.known(ts)
        stale: NDArray[np.bool_] = (loss >= 0) & (ts <= self._mended(instrument_id, loss)[0])
        return stale

    def gap_known(self, start: Int, end: Int) -> NDArray[np.bool_]:
        """Whether a loss became known in each [start, end), ns."""
        after = self.losses.ts_after[int(self.losses.began_inside) :]
        found: NDArray[np.bool_] = np.searchsorted(after, start) < np.searchsorted(after, end)
        return found

    def merge(self, rows: pa.Table) -> tuple[pa.Table, Int]:
        """Put the mending rows among the order rows, batch after batch.

        Parameters
        ----------
        rows : table with columns of `mbo`, ``epoch`` and ``seq`` among them
            The next ones of the stream that are not excluded, in the order of their places.

        Returns
        -------
        table, int64[n]
            All rows in order; for each its row in ``rows``, or -1 for a mending row. A mending row comes
            with the first batch that holds a row of a later packet.
        """
        place = places_of(rows)
        start = self._given
        if rows.num_rows:
            self._given = start + int(np.searchsorted(self._behind[start:], place[-1], side="left"))
        if start == self._given:
            return rows, np.arange(rows.num_rows)
        new = self.rows.select(rows.column_names).slice(start, self._given - start)
        before = np.searchsorted(place, self._behind[start : self._given], side="right")
        order = np.argsort(np.concatenate([2 * before, 2 * np.arange(rows.num_rows) + 1]), kind="stable")
        both = pa.concat_tables([new, rows]).take(order)
        return both, np.where(order < new.num_rows, -1, order - new.num_rows)

    def _mended(self, instrument_id: NDArray[np.int32], loss: Int) -> tuple[Int, Places]:
        """When each instrument's book is right again after each loss, and the place that it holds then."""
        last = np.append(self.losses.last, _EVERYTHING)[loss]
        mend = self._mends.first(instrument_id, last)
        reset = np.searchsorted(self.resets.place, last, side="right")
        ts_mend, ts_reset = (np.append(what.ts, NEVER) for what in (self._mends, self.resets))
        by_mend, by_reset = ts_mend[mend], ts_reset[reset]
        mend_holds = np.append(self._mends.place, _EVERYTHING)[mend]
        reset_holds = np.append(self.resets.place - np.uint64(1), _EVERYTHING)[reset]
        return np.minimum(by_mend, by_reset), np.where(by_mend <= by_reset, mend_holds, reset_holds)


def read_mending(archive: Archive, partition: Partition, at: DataCommit | None = None) -> Mending:
    """`mending` of one stored partition. Tables that are missing (then, or now) hold nothing."""
    stored = {
        table
        for table in ("gaps", "packets", "status", "snapshots")
        if (archive.log(table, partition) if at is None else f"{table}/{partition.path}" in at.entries)
    }

    def rows(table: str, columns: tuple[str, ...]) -> Iterable[pa.Table]:
        if table in stored:
            for batch in archive.batches(table, partition, columns=columns, at=at):
                yield pa.Table.from_batches([batch])

    gaps = archive.read("gaps", partition, at=at) if "gaps" in stored else GAPS.arrow.empty_table()
    status = archive.read("status", partition, at=at) if "status" in stored else STATUS.arrow.empty_table()
    return mending(
        partition,
        gaps,
        status,
        packets=lambda: rows("packets", ("epoch", "seq", "ts_sent", "row_flags")),
        snapshots=lambda: rows("snapshots", _SNAPSHOT_COLUMNS),
    )


def mending(
    partition: Partition, gaps: pa.Table, status: pa.Table, packets: Batches, snapshots: Batches
) -> Mending:
    """What mends the order books of one partition.

    Parameters
    ----------
    partition : whose venue and channel the mending rows carry
    gaps, status : the whole tables of the partition
    packets, snapshots : their rows in stored order; snapshots are read only where something was lost

    Notes
    -----
    A late packet counts as lost: by the time that it came the books had gone on without it. A partition
    whose first packet is not the first of its epoch begins with unknown books, and counts as one loss.
    Memory holds one entry for each chunk of each snapshot, and the orders of the snapshots that mend.
    """
    first, begun = _beginnings(packets())
    lost = gaps.filter(pc.equal(gaps["outcome"].cast(pa.string()), "lost"))
    last = np.unique(places(lost["epoch"].to_numpy(), lost["last_seq"].to_numpy()))
    began_inside = first is not None and first & 0xFFFFFFFF > 1
    if first is not None and began_inside:
        last = np.concatenate([np.array([first - 1], np.uint64), last[last >= first]])
    found = _complete(snapshots()) if len(last) else Mends.none()
    before, after = _located(np.concatenate([last, found.place]), packets())
    n = len(last)
    losses = Losses(last, after[:n], began_inside)
    mends, sent = _useful(found, before[n:], after[n:])
    resets = _resets(status, begun)
    chosen = _chosen(losses, mends, resets)
    rows = _orders(partition, mends.take(chosen), sent[chosen], snapshots)
    emptied = _reset_rows(partition, resets)
    both = pa.concat_tables([rows, emptied])
    behind = np.concatenate([places_of(rows), places_of(emptied) - np.uint64(1)])
    order = np.argsort(behind, kind="stable")
    return Mending(losses, mends, resets, both.take(order), behind[order])


def places(epoch: NDArray[Any], seq: NDArray[Any]) -> Places:
    """``epoch << 32 | seq`` of each packet."""
    packed: Places = (epoch.astype(np.uint64) << np.uint64(32)) | seq.astype(np.uint64)
    return packed


def places_of(rows: pa.Table) -> Places:
    """The place of each row's packet."""
    return places(column(rows, "epoch", np.uint32, 0), column(rows, "seq", np.uint32, 0))


def nanoseconds(rows: pa.Table, name: str) -> Int:
    """A column of times as ns since the epoch; null is the earliest there is."""
    values: Int = pc.fill_null(rows[name].cast(pa.int64()), _NULL_TIME).to_numpy()
    return values


def _on_time(rows: pa.Table) -> pa.Table:
    late = (column(rows, "row_flags", np.uint8, 0) & np.uint8(RowFlag.LATE)) != 0
    return rows.filter(pa.array(~late)) if late.any() else rows


def _beginnings(packets: Iterable[pa.Table]) -> tuple[int | None, Resets]:
    """Place of the first packet; and of the first one of each later epoch, with its time."""
    first: dict[int, tuple[int, int]] = {}
    for batch in packets:
        rows = _on_time(batch)
        epoch, at = np.unique(column(rows, "epoch", np.uint32, 0), return_index=True)
        place, ts = places_of(rows)[at], nanoseconds(rows, "ts_sent")[at]
        for number, *begin in zip(epoch.tolist(), place.tolist(), ts.tolist(), strict=True):
            first[number] = min(first.get(number, (begin[0], begin[1])), (begin[0], begin[1]))
    ordered = [first[number] for number in sorted(first)]
    later = ordered[1:]
    resets = Resets(np.array([p for p, _ in later], np.uint64), np.array([ts for _, ts in later], np.int64))
    return (ordered[0][0] if ordered else None), resets


def _located(query: Places, packets: Iterable[pa.Table]) -> tuple[Int, Int]:
    """``ts_sent`` of the last packet up to each place (or the earliest time) and of the first behind it."""
    before, after = np.full(len(query), _NULL_TIME), np.full(len(query), NEVER)
    for batch in packets if len(query) else ():
        rows = _on_time(batch)
        if not rows.num_rows:
            continue
        place, ts = places_of(rows), nanoseconds(rows, "ts_sent")
        at = np.searchsorted(place, query, side="right")
        before = np.where(at > 0, np.maximum(before, ts[np.maximum(at, 1) - 1]), before)
        after = np.where(at < len(ts), np.minimum(after, ts[np.minimum(at, len(ts) - 1)]), after)
    return before, after


def _complete(snapshots: Iterable[pa.Table]) -> Mends:
    """The snapshots whose chunks 1 to n all came, with quoted prices.

    Chunks of two loops make one snapshot where no packet lies between these loops (same last packet).
    """
    parts = [_chunks(batch) for batch in snapshots]
    if not parts:
        return Mends.none()
    ids, place, chunk, chunks, ts = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    if not len(ids):
        return Mends.none()
    order = np.lexsort((ts, chunk, place, ids))
    ids, place, chunk, chunks, ts = (c[order] for c in (ids, place, chunk, chunks, ts))
    same = (ids[1:] == ids[:-1]) & (place[1:] == place[:-1])
    again = np.append(False, same & (chunk[1:] == chunk[:-1]))
    ids, place, chunk, chunks, ts = (c[~again] for c in (ids, place, chunk, chunks, ts))
    new = np.append(True, (ids[1:] != ids[:-1]) | (place[1:] != place[:-1]))
    start = np.flatnonzero(new)
    count = np.diff(np.append(start, len(ids)))
    whole = (np.minimum.reduceat(chunks, start) == count) & (np.maximum.reduceat(chunks, start) == count)
    whole &= (chunk[start] == 1) & (np.maximum.reduceat(chunk, start) == count)
    return Mends(ids[start][whole], place[start][whole], np.maximum.reduceat(ts, start)[whole])


def _chunks(batch: pa.Table) -> tuple[NDArray[Any], ...]:
    """(instrument, place that it holds, chunk, chunks, ts_sent) of each chunk of orders.

    A price in wire units spoils its chunk: it becomes chunk 0.
    """
    rows = batch.filter(pc.is_in(batch["template"], _TEMPLATES))
    ids = column(rows, "instrument_id", np.int32, NULL_INSTRUMENT)
    chunk = column(rows, "chunk", np.uint32, 0).astype(np.int64)
    unscaled = column(rows, "row_flags", np.uint8, 0) & np.uint8(RowFlag.UNSCALED)
    columns = (
        ids,
        _held(rows),
        np.where(unscaled != 0, 0, chunk),
        column(rows, "chunks", np.uint32, 0).astype(np.int64),
        nanoseconds(rows, "ts_sent"),
    )
    if not rows.num_rows:
        return columns
    differs = np.zeros(rows.num_rows, np.bool_)
    differs[0] = True
    for values in columns:
        differs[1:] |= values[1:] != values[:-1]
    return tuple(values[differs] for values in columns)


def _held(snapshots: pa.Table) -> Places:
    """The last packet that each row's snapshot holds."""
    return places(column(snapshots, "epoch", np.uint32, 0), column(snapshots, "last_seq", np.uint32, 0))


def _useful(found: Mends, before: Int, after: Int) -> tuple[Mends, Int]:
    """Those that hold more than all snapshots of their instrument before them; and what time it was at the
    place that they hold.

    One that was sent before a packet that it claims to hold tells of another epoch.
    """
    order = np.lexsort((found.place, found.ts, found.instrument_id))
    order = order[before[order] <= found.ts[order]]
    ids, place, ts = found.instrument_id[order], found.place[order], found.ts[order]
    if len(ids):
        known, rank = np.unique(place, return_inverse=True)
        held = np.searchsorted(np.unique(ids), ids) * (len(known) + 1) + rank + 1
        most = np.append(0, np.maximum.accumulate(held)[:-1])
        more = held > most
        order, ids, place, ts = order[more], ids[more], place[more], ts[more]
    known_before = before[order] > _NULL_TIME
    sent = np.where(known_before, before[order], np.minimum(ts, after[order]))
    return Mends(ids, place, ts), sent


def _resets(status: pa.Table, begun: Resets) -> Resets:
    """Channel resets and beginnings of epochs, in order, each place once."""
    said = _on_time(status.filter(pc.equal(status["template"], CHANNEL_RESET)))
    place = np.concatenate([places_of(said), begun.place])
    ts = np.concatenate([nanoseconds(said, "ts_sent"), begun.ts])
    place, at = np.unique(place, return_index=True)
    return Resets(place, ts[at])


def _chosen(losses: Losses, mends: Mends, resets: Resets) -> Int:
    """Indices of the snapshots that mend a book after a loss, before a reset does."""
    reset = np.searchsorted(resets.place, losses.last, side="right")
    ts_reset = np.append(resets.ts, NEVER)[reset]
    parts = [np.zeros(0, np.int64)]
    for instrument in np.unique(mends.instrument_id):
        first = mends.first(np.full(len(losses.last), instrument), losses.last)
        parts.append(np.unique(first[(first >= 0) & (mends.ts[first] <= ts_reset)]))
    return np.concatenate(parts)


def _orders(partition: Partition, mends: Mends, sent: Int, snapshots: Batches) -> pa.Table:
    """RESET and NEW rows of these snapshots, in the order of place and instrument."""
    if not len(mends.place):
        return MBO.arrow.empty_table()
    owners = [np.arange(len(mends.place))]
    reset = np.full(len(mends.place), Action.RESET, np.uint8)
    parts = [_rows(partition, mends, sent, owners[0], {"action": reset, "ts_event": sent})]
    for batch in snapshots():
        rows = batch.filter(pc.is_in(batch["template"], _TEMPLATES))
        rows = rows.filter(pc.greater(rows["entry_type"], 0))  # 0: the one row of an empty book
        owner = _owner(mends, rows)
        rows, owner = rows.filter(pa.array(owner >= 0)), owner[owner >= 0]
        bids = column(rows, "entry_type", np.uint8, 0) == EntryType.BID
        columns = {name: rows[name] for name in ("order_id", "priority", "price", "size", "ts_event")}
        columns["action"] = np.full(len(owner), Action.NEW, np.uint8)
        columns["side"] = np.where(bids, Side.BUY, Side.SELL).astype(np.uint8)
        parts.append(_rows(partition, mends, sent, owner, columns))
        owners.append(owner)
    owner = np.concatenate(owners)
    order = np.lexsort((owner, mends.place[owner]))  # stable: each RESET stays first
    last = np.append(owner[order][1:] != owner[order][:-1], True)
    flags = np.where(last, EventFlag.END | EventFlag.RECOVERY, EventFlag.RECOVERY).astype(np.uint8)
    found = pa.concat_tables(parts).take(order)
    return found.set_column(_FLAGS_AT, MBO.arrow.field(_FLAGS_AT), pa.array(flags))


def _owner(mends: Mends, snapshots: pa.Table) -> Int:
    """Which of these snapshots each row belongs to; -1: to none."""
    ids, known = np.unique(mends.instrument_id), np.unique(mends.place)
    keys = np.searchsorted(ids, mends.instrument_id) * len(known) + np.searchsorted(known, mends.place)
    instrument = column(snapshots, "instrument_id", np.int32, NULL_INSTRUMENT)
    place = _held(snapshots)
    code = np.searchsorted(ids, instrument) * len(known) + np.searchsorted(known, place)
    mend = np.minimum(np.searchsorted(keys, code), len(keys) - 1)
    its = (mends.instrument_id[mend] == instrument) & (mends.place[mend] == place)
    found: Int = np.where(its & (nanoseconds(snapshots, "ts_sent") <= mends.ts[mend]), mend, -1)
    return found


def _rows(partition: Partition, mends: Mends, sent: Int, owner: Int, columns: Mapping[str, Any]) -> pa.Table:
    place = mends.place[owner]
    found = {"instrument_id": mends.instrument_id[owner], "ts_sent": sent[owner], **columns}
    return _mbo(partition, place, np.full(len(owner), _BEHIND_ITS_MESSAGES, np.uint16), found)


def _reset_rows(partition: Partition, resets: Resets) -> pa.Table:
    n = len(resets.place)
    columns = {
        "ts_event": resets.ts,
        "ts_sent": resets.ts,
        "action": np.full(n, Action.RESET, np.uint8),
        "event_flags": np.full(n, EventFlag.END | EventFlag.RECOVERY, np.uint8),
    }
    return _mbo(partition, resets.place, np.zeros(n, np.uint16), columns)


def _mbo(
    partition: Partition, place: Places, msg_index: NDArray[np.uint16], columns: Mapping[str, Any]
) -> pa.Table:
    """Rows of `mbo`, flagged RECOVERY; a column that isn't given is null, an index 0."""
    n = len(place)
    given = {
        "venue": pa.DictionaryArray.from_arrays(np.zeros(n, np.int32), pa.array([partition.venue])),
        "channel": np.full(n, partition.channel),
        "epoch": (place >> np.uint64(32)).astype(np.uint32),
        "seq": (place & np.uint64(0xFFFFFFFF)).astype(np.uint32),
        "msg_index": msg_index,
        "entry_index": np.zeros(n, np.uint8),
        "row_flags": np.full(n, RowFlag.RECOVERY, np.uint8),
        "template": np.full(n, ORDER_SNAPSHOTS[-1], np.uint8),
        **columns,
    }
    arrays = []
    for f in MBO.arrow:
        values = given.get(f.name)
        if values is None:
            arrays.append(pa.nulls(n, f.type))
        elif isinstance(values, np.ndarray):
            arrays.append(pa.array(values).cast(f.type))
        else:
            arrays.append(values)
    return pa.table(arrays, schema=MBO.arrow)

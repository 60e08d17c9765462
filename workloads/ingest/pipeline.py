"""From spooled records to committed tables: one channel, segment by segment.

Everything here is a function of the records and of the state at the segment's beginning, so that a
segment may be processed again after a crash: its files get the same names, and the archive takes each
name once.
"""

import os
import zipfile
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import astuple, dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from workloads.exchange import mdp3
from workloads.exchange.decode import Decoder, last_event_end
from workloads.exchange.packets import Packets
from workloads.ingest.arbitration import FROM_B, LATE, OUTCOMES, REASONS, RESTART, Accepted, Arbiter, Rules
from workloads.ingest.errors import IngestError, SpoolError
from workloads.ingest.frames import FEED_NAMES
from workloads.ingest.spool import sync_folder
from workloads.ingest.tables import PacketFacts, Staleness, Tables, constant, flagged
from workloads.ticks.archive import Archive, Partition
from workloads.ticks.codes import RowFlag
from workloads.ticks.order_book import OrderBooks
from workloads.ticks.schema import TABLES
from workloads.ticks.sessions import trading_dates, week_start

BATCH_PACKETS = 2_048
"""Packets that make a call of the decoder worth its while."""
MAX_OPEN_PACKETS = 4_096
"""Packets that may wait for the end of their event; more means that the end was lost."""
MAX_RESTARTS = 99
"""Restarts of the sequence within one trading week that an epoch number can count."""


@dataclass(frozen=True)
class Stored:
    """What one segment became."""

    rows: dict[str, int]
    """Rows by table."""
    partitions: list[tuple[str, str, int]]
    """(table, partition, entry number) of each commit."""


@dataclass
class Totals:
    """Counters since the pipeline began, for progress and summary."""

    packets: int = 0
    messages: int = 0
    lost: int = 0
    late: int = 0
    malformed: int = 0
    unknown_messages: int = 0
    rows: dict[str, int] = field(default_factory=lambda: defaultdict(int))


@dataclass(frozen=True)
class _Key:
    """What one file of a table may not mix."""

    date: date
    epoch: int


class Pipeline:
    """Arbitrate, decode, keep the books, store. Not safe to share between threads.

    Parameters
    ----------
    archive : where the tables go
    venue, channel : of every packet that is pushed
    rules : when a missing packet is given up
    source : what goes into each commit beside the sequence range, such as the feed's origin
    session : names the spool; a second spool that writes the same packets is refused
    owner : whose packets these are; a state that was saved for somebody else is refused
    """

    def __init__(
        self,
        archive: Archive,
        venue: str,
        channel: int,
        rules: Rules | None = None,
        *,
        source: Mapping[str, str] | None = None,
        session: str = "",
        owner: str = "",
    ) -> None:
        self.totals = Totals()
        self.receive_buffers = [0] * len(FEED_NAMES)
        """Bytes that the kernel granted to each feed's socket."""
        self.books = OrderBooks()
        self._archive = archive
        self._venue, self._channel = venue, channel
        self._source = dict(source or {})
        self._session = session
        self._owner = f"{owner} {venue} channel {channel}".strip()
        self._arbiter = Arbiter(rules)
        self._decoder = Decoder()
        self._tables = Tables(venue, channel)
        self._staleness = Staleness()
        self._epochs: list[int] = []
        self._decoded = 0
        self._messages: list[NDArray[np.uint16]] = []
        self._parts: dict[_Key, dict[str, list[pa.Table]]] = defaultdict(lambda: defaultdict(list))
        self._errors = np.zeros((2, len(FEED_NAMES)), np.int64)  # malformed packets, unknown messages

    @property
    def holding(self) -> int:
        """Packets that wait for an earlier one."""
        return self._arbiter.holding

    @property
    def lost(self) -> int:
        """Packets called lost so far."""
        return self.totals.lost + self._arbiter.lost

    def follow_rules(self, rules: Rules) -> None:
        """From here on these rules hold; where the sequence begins stays as it was."""
        self._arbiter.rules = replace(rules, first_seq=self._arbiter.rules.first_seq)

    def push(self, records: NDArray[np.uint8], *, final: bool = False) -> None:
        """Take whole records in the order in which they were received."""
        self._arbiter.push(records, final=final)
        self._decode(final)

    def close_segment(self, number: int, *, final: bool = False) -> Stored:
        """Store everything decoded so far; with ``final`` also what was still held or open.

        Raises
        ------
        IngestError
            If the archive already holds some of these packets, from another spool.
        ArchiveError
            If the archive refuses; nothing is lost, the segment can be processed again.
        """
        self.push(np.zeros(0, np.uint8), final=final)
        self._decode(final, at_least=1)
        self._decode_snapshots()
        rows: dict[str, int] = defaultdict(int)
        commits: list[tuple[str, str, int]] = []
        for key, tables, first, last in self._segment_tables():  # packets first: they claim the numbers
            partition = Partition(self._venue, key.date, self._channel)
            source = {
                **self._source,
                "session": self._session,
                "segment": str(number),
                "epoch": str(key.epoch),
                "first_seq": str(first),
                "last_seq": str(last),
            }
            self._check_overlap(partition, key.epoch, first, last)
            for name, table in tables.items():
                stem = f"{self._channel}-{key.epoch}-{first}-{last}"
                if name == "snapshots" or not first:  # no sequence of the incremental feed names them
                    stem = f"{self._channel}-{key.epoch}-s{self._session}-{number}"
                commit = self._archive.commit(name, partition, {stem: table}, source=source)
                commits.append((name, partition.path, commit.n))
                rows[name] += table.num_rows
                self.totals.rows[name] += table.num_rows
        self._arbiter.forget(self._decoded, 0)
        self._decoded = 0
        self._messages.clear()
        self._parts.clear()
        self._errors[:] = 0
        return Stored(dict(rows), commits)

    # Decoding

    def _decode(self, final: bool, at_least: int = BATCH_PACKETS) -> None:
        """Decode the accepted packets up to the last complete event, once their arrival is settled."""
        journal = self._arbiter.accepted
        while journal.n - self._decoded >= max(at_least, 1) or (final and journal.n > self._decoded):
            batch = self._fitting(journal.packets(self._decoded, journal.n))
            if not final:
                batch = _until(batch, self._arbiter.settled)
            packets = batch.packets
            cut = len(packets)
            if not (final and cut == journal.n - self._decoded):
                cut = last_event_end(packets.buffer, packets.offset, packets.length, MAX_OPEN_PACKETS)
            if cut == 0:
                break
            self._decode_batch(_first(batch, cut))
            self._decoded += cut
            journal.drop_bytes(self._decoded)
            if at_least == 1 and not final:
                break

    def _fitting(self, batch: Accepted) -> Accepted:
        """The first packets that the decoder's memory takes."""
        n = int(np.searchsorted(np.cumsum(batch.packets.length), self._decoder.max_bytes, side="right"))
        return _first(batch, min(n, self._decoder.max_bytes // mdp3.MESSAGE_HEADER_BYTES // 2))

    def _decode_batch(self, batch: Accepted) -> None:
        decoded = self._decoder.decode(batch.packets, batch.breaks)
        messages = decoded.tables["messages"]
        resets = messages["packet"][messages["template"] == mdp3.CHANNEL_RESET]
        facts = PacketFacts(
            self._epoch_numbers(batch),
            batch.columns["seq"],
            batch.columns["ts_sent"],
            batch.columns["ts_recv"],
            self._staleness.mark(batch, resets.astype(np.int64)),
        )
        tables = self._tables.build(batch.packets.buffer, decoded, facts)
        self._keep(tables, facts)
        restarts = np.flatnonzero(batch.columns["flags"] & RESTART)
        self._update_books(decoded.tables["mbo"], messages, np.union1d(resets, restarts))
        self._messages.append(decoded.packet_messages.copy())
        feed = np.where(batch.columns["flags"] & FROM_B, 1, 0)
        self._errors[0] += np.bincount(feed, decoded.packet_errors != 0, len(FEED_NAMES)).astype(np.int64)
        self._errors[1] += np.bincount(feed, decoded.packet_unknown, len(FEED_NAMES)).astype(np.int64)
        self.totals.packets += len(batch.packets)
        self.totals.messages += int(decoded.packet_messages.sum())
        self.totals.malformed += int((decoded.packet_errors != 0).sum())
        self.totals.unknown_messages += int(decoded.packet_unknown.sum())

    def _update_books(
        self, mbo: Mapping[str, NDArray[Any]], messages: Mapping[str, NDArray[Any]], resets: NDArray[np.int64]
    ) -> None:
        """Apply the batch's orders; a channel reset or a new epoch, at these packets, empties every book."""
        packet = messages["packet"][mbo["message"]]
        start = 0
        for reset in [*resets.tolist(), None]:
            stop = len(packet) if reset is None else int(np.searchsorted(packet, reset))
            self.books.apply({name: column[start:stop] for name, column in mbo.items()})
            if reset is not None:
                self.books.clear()
            start = stop

    def _decode_snapshots(self) -> None:
        """Decode the segment's snapshots, once the definitions that came with it are known."""
        snapshots = self._arbiter.snapshots
        while snapshots.n:
            batch = self._fitting(snapshots.packets(0, snapshots.n))
            self._decode_snapshot_batch(batch)
            snapshots.drop_bytes(len(batch.packets))
            self._arbiter.forget(0, len(batch.packets))

    def _decode_snapshot_batch(self, batch: Accepted) -> None:
        decoded = self._decoder.decode(batch.packets)
        n = len(batch.packets)
        facts = PacketFacts(
            self._epoch_numbers(batch),
            batch.columns["seq"],
            batch.columns["ts_sent"],
            batch.columns["ts_recv"],
            np.zeros(n, np.uint8),
        )
        tables = self._tables.build(batch.packets.buffer, decoded, facts)
        self._keep({name: table for name, table in tables.items() if name == "snapshots"}, facts)
        feed = FEED_NAMES.index("S")
        self._errors[0, feed] += int((decoded.packet_errors != 0).sum())
        self._errors[1, feed] += int(decoded.packet_unknown.sum())

    def _epoch_numbers(self, batch: Accepted) -> NDArray[np.uint32]:
        """YYYYMMDDnn of each packet: the Sunday of its trading week, and the restarts since."""
        ordinal = batch.columns["epoch"]
        for new in range(len(self._epochs), int(ordinal.max()) + 1):
            inside = np.flatnonzero(ordinal == new)
            sent = batch.columns["ts_sent"][inside[0] if len(inside) else 0]
            sunday = int(week_start(self._venue, int(sent)).strftime("%Y%m%d"))
            restarts = sum(epoch // 100 == sunday for epoch in self._epochs)
            if restarts > MAX_RESTARTS:
                raise IngestError(
                    f"channel {self._channel} restarted {restarts} times in the week of {sunday}: two feeds "
                    f"seem to share one group; check the groups and sources"
                )
            self._epochs.append(sunday * 100 + restarts)
        numbers: NDArray[np.uint32] = np.array(self._epochs, np.uint32)[ordinal]
        return numbers

    # Storing

    def _keep(self, tables: Mapping[str, pa.Table], facts: PacketFacts) -> None:
        """Sort the rows of a batch by what one file may hold."""
        keys = self._keys(facts.ts_sent, facts.epoch)
        for key, _ in keys:
            for name, table in tables.items():
                self._parts[key][name].append(table if len(keys) == 1 else self._matching(table, key))

    def _keys(
        self, ts_sent: NDArray[np.int64], epoch: NDArray[np.uint32]
    ) -> list[tuple[_Key, NDArray[np.bool_]]]:
        days = trading_dates(self._venue, ts_sent)
        pairs = np.stack([days.astype("datetime64[D]").astype(np.int64), epoch.astype(np.int64)])
        return [
            (_Key(np.datetime64(int(day), "D").item(), int(number)), (pairs[0] == day) & (pairs[1] == number))
            for day, number in np.unique(pairs, axis=1).T
        ]

    def _matching(self, table: pa.Table, key: _Key) -> pa.Table:
        days = trading_dates(self._venue, _int64(table["ts_sent"]))
        mask = (days == np.datetime64(key.date)) & (table["epoch"].to_numpy() == key.epoch)
        return table.filter(pa.array(mask))

    def _segment_tables(self) -> list[tuple[_Key, dict[str, pa.Table], int, int]]:
        """(key, tables, first and last sequence number) of everything since the last segment."""
        n = self._decoded
        out: list[tuple[_Key, dict[str, pa.Table], int, int]] = []
        if n == 0:
            for position, key in enumerate(self._parts):
                tables = {name: pa.concat_tables(parts) for name, parts in self._parts[key].items()}
                if position == len(self._parts) - 1:
                    tables["feeds"] = self._feeds(key.epoch)
                out.append((key, tables, 0, 0))
            if not out and self._arbiter.quiet:
                key = self._quiet_key()
                out.append((key, {"feeds": self._feeds(key.epoch)}, 0, 0))
            return out
        accepted = self._arbiter.accepted
        self._epoch_numbers(accepted.packets(0, accepted.n))  # of gaps before packets that still wait, too
        batch = accepted.packets(0, n)
        epoch = self._epoch_numbers(batch)
        messages = np.concatenate(self._messages)
        seq = batch.columns["seq"]
        gaps = self._gaps()
        keys = self._keys(batch.columns["ts_sent"], epoch)
        for position, (key, mask) in enumerate(keys):
            tables = {name: pa.concat_tables(parts) for name, parts in self._parts.pop(key, {}).items()}
            first, last = int(seq[mask].min()), int(seq[mask].max())
            tables = {name: table for name, table in tables.items() if table.num_rows}
            tables = {"packets": self._packets(batch, epoch, messages, mask), **tables}
            here = (gaps["epoch"] == key.epoch) & (gaps["last_seq"] <= last)
            if position == len(keys) - 1:
                here = np.ones(len(gaps["epoch"]), np.bool_)
                tables["feeds"] = self._feeds(key.epoch)
            if here.any():
                tables["gaps"] = self._arrow("gaps", {name: column[here] for name, column in gaps.items()})
            gaps = {name: column[~here] for name, column in gaps.items()}
            out.append((key, tables, first, last))
        out.extend(
            (key, {name: pa.concat_tables(parts) for name, parts in tables.items()}, 0, 0)
            for key, tables in self._parts.items()
        )
        return out

    def _quiet_key(self) -> _Key:
        """Where counters go when no packet could be taken: by our clock, to the epoch seen last."""
        ts = np.array([int(self._arbiter.feeds["ts_last"].max())])
        sunday = int(week_start(self._venue, int(ts[0])).strftime("%Y%m%d"))
        return _Key(
            trading_dates(self._venue, ts)[0].astype("datetime64[D]").item(),
            self._epochs[-1] if self._epochs else sunday * 100,
        )

    def _packets(
        self,
        batch: Accepted,
        epoch: NDArray[np.uint32],
        messages: NDArray[np.uint16],
        mask: NDArray[np.bool_],
    ) -> pa.Table:
        c = {name: column[mask] for name, column in batch.columns.items()}
        late, from_b = (c["flags"] & LATE) != 0, (c["flags"] & FROM_B) != 0
        flags = flagged(late, RowFlag.LATE) | flagged(from_b, RowFlag.FEED_B)
        columns = {name: c[name] for name in ("seq", "ts_sent", "ts_recv", "ts_recv_a", "ts_recv_b")}
        columns |= {"bytes": c["length"], "messages": messages[mask], "row_flags": flags}
        return self._arrow("packets", columns | {"epoch": epoch[mask]})

    def _gaps(self) -> dict[str, NDArray[Any]]:
        gaps = self._arbiter.take_gaps()
        missing = gaps["last_seq"].astype(np.int64) - gaps["first_seq"] + 1
        self.totals.lost += int(missing[gaps["outcome"] == 0].sum())
        self.totals.late += int(missing[gaps["outcome"] == 1].sum())
        gaps["epoch"] = np.array(self._epochs, np.uint32)[gaps["epoch"]]
        gaps["reason"] = np.array(REASONS, object)[gaps["reason"]]
        gaps["outcome"] = np.array(OUTCOMES, object)[gaps["outcome"]]
        return gaps

    def _feeds(self, epoch: int) -> pa.Table:
        """The feeds' counters since the last segment."""
        feeds: dict[str, NDArray[Any]] = dict(self._arbiter.take_feeds())
        self.totals.malformed += int(feeds["malformed"].sum())  # those that no decoder ever saw
        feeds["malformed"] = feeds["malformed"] + self._errors[0]
        feeds["unknown_messages"] = self._errors[1].copy()
        feeds["receive_buffer"] = np.array(self.receive_buffers, np.uint64)
        feeds["feed"] = np.array(FEED_NAMES, object)
        feeds["epoch"] = np.full(len(FEED_NAMES), epoch)
        return self._arrow("feeds", feeds)

    def _arrow(self, table: str, columns: Mapping[str, NDArray[Any]]) -> pa.Table:
        """Columns under the table's schema; a time of 0 is null."""
        schema = TABLES[table].arrow
        n = len(columns["epoch"])
        arrays = []
        for f in schema:
            if f.name == "venue":
                arrays.append(constant(self._venue, n))
            elif f.name == "channel":
                arrays.append(pa.array(np.full(n, self._channel, np.uint16)))
            elif f.name not in columns:
                arrays.append(pa.nulls(n, f.type))
            elif pa.types.is_timestamp(f.type):
                values = columns[f.name].astype(np.int64)
                arrays.append(pa.array(values, mask=values == 0).view(f.type))
            elif pa.types.is_dictionary(f.type):
                arrays.append(pa.array(columns[f.name].tolist(), pa.string()).dictionary_encode())
            else:
                arrays.append(pa.array(columns[f.name]).cast(f.type))
        return pa.Table.from_arrays(arrays, schema=schema)

    def _check_overlap(self, partition: Partition, epoch: int, first: int, last: int) -> None:
        """Refuse packets that another spool has stored already."""
        if first == 0 or "packets" not in self._archive.tables():
            return
        for commit in self._archive.log("packets", partition):
            other = commit.source
            if other.get("session") in (None, self._session) or other.get("epoch") != str(epoch):
                continue
            if int(other["first_seq"]) <= last and first <= int(other["last_seq"]):
                raise IngestError(
                    f"{self._archive.uri} already holds packets {other['first_seq']}-{other['last_seq']} of "
                    f"channel {self._channel}, epoch {epoch}, from another spool; these are {first}-{last}. "
                    f"Store a second copy of a feed under another archive"
                )

    # State

    def save(self, path: Path) -> None:
        """Write the state to a file, durably and at once."""
        state = {f"arbiter.{name}": value for name, value in self._arbiter.state().items()}
        state |= {f"books.{name}": value for name, value in self.books.state().items()}
        state |= self._tables.factors.state()
        state |= {
            "rules": np.array(astuple(self._arbiter.rules), np.int64),
            "epochs": np.array(self._epochs, np.int64),
            "stale": np.array([self._staleness.stale]),
            "session": np.array([self._session]),
            "owner": np.array([self._owner]),
            "receive_buffers": np.array(self.receive_buffers, np.int64),
        }
        part = path.with_suffix(".part")
        try:
            with part.open("wb") as file:
                np.savez_compressed(file, **state)  # type: ignore[arg-type]  # the names are ours
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
            sync_folder(path.parent)
        except OSError as error:
            part.unlink(missing_ok=True)
            raise SpoolError(f"cannot save the ingest state at {path}: {error.strerror}") from error

    def restore(self, path: Path) -> None:
        """Continue from a saved state.

        Raises
        ------
        SpoolError
            If the file is no state that this code can read.
        """
        try:
            with np.load(path) as file:
                self._restore(dict(file))
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise SpoolError(
                f"cannot read the ingest state {path} ({error}); finish the spool with the version that "
                f"wrote it, or move the folder away and start with an empty one"
            ) from error

    def _restore(self, state: dict[str, NDArray[Any]]) -> None:
        if (owner := str(state["owner"][0])) != self._owner:
            raise SpoolError(
                f"this spool belongs to {owner}, not to {self._owner}; give each channel of each environment "
                f"a spool folder of its own"
            )
        self._arbiter = Arbiter(Rules(*(int(value) for value in state["rules"])))
        self._arbiter.restore(_prefixed(state, "arbiter."))
        self.books = OrderBooks.from_state(_prefixed(state, "books."))
        self._tables.factors.restore(state)
        self._epochs = [int(epoch) for epoch in state["epochs"]]
        self._staleness.stale = bool(state["stale"][0])
        self._session = str(state["session"][0])
        self.receive_buffers = [int(granted) for granted in state["receive_buffers"]]


def _prefixed(state: Mapping[str, NDArray[Any]], prefix: str) -> dict[str, NDArray[Any]]:
    return {name[len(prefix) :]: value for name, value in state.items() if name.startswith(prefix)}


def _first(batch: Accepted, n: int) -> Accepted:
    packets = batch.packets
    return Accepted(
        Packets(packets.buffer, packets.offset[:n], packets.length[:n]),
        {name: column[:n] for name, column in batch.columns.items()},
    )


def _until(batch: Accepted, time: int) -> Accepted:
    """The packets before the first one that arrived after ``time``."""
    later = np.flatnonzero(batch.columns["ts_recv"] > time)
    return _first(batch, int(later[0])) if len(later) else batch


def _int64(column: pa.ChunkedArray) -> NDArray[np.int64]:
    values: NDArray[np.int64] = column.cast(pa.int64()).to_numpy()
    return values

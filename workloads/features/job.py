"""Make a dataset of features: clean ticks as bars, order flow, book tensors, and labels apart from them.

Reads market tables of an archive as of a data commit, one venue, trading date and channel after the other,
and writes `bars`, `book_tensors`, `labels`, `cleaning`, `flagged` of one dataset. Its name holds a digest of
the config, the data commit and the code version, so that running again changes nothing. The channels of a
date are worked on in one order by one process, so that its commit logs are equal wherever they are made.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import groupby
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from workloads.errors import WorkloadError
from workloads.features.bars import Bars, Trades
from workloads.features.cleaning import (
    ALL_ROWS,
    Cleaner,
    Counts,
    Flags,
    Rules,
    book_rules,
    flagged_table,
)
from workloads.features.config import FeaturesConfig
from workloads.features.events import MARK_COLUMNS, Events, clock, events
from workloads.features.flow import TakenVolume
from workloads.features.labels import Labels
from workloads.features.mending import places_of, read_mending
from workloads.features.segments import Segments
from workloads.features.tensors import frame_column, tensor
from workloads.runtime.jobs import emit, job_main
from workloads.runtime.parallel import Map, job_map
from workloads.ticks.archive import (
    Archive,
    DataCommit,
    DatasetPartition,
    Partition,
    code_version,
    open_archive,
)
from workloads.ticks.book_grid import BookGrid, Frames
from workloads.ticks.codes import Action, CleaningRule, EventFlag, RowFlag
from workloads.ticks.datasets import LAST_TABLE, whole_of
from workloads.ticks.definitions import Definitions
from workloads.ticks.order_book import NULL_INSTRUMENT, NULL_PRICE, NULL_SIZE, column, flag
from workloads.ticks.schema import (
    BOOK_TENSORS,
    DATASET_TABLES,
    DEFINITIONS,
    LIMITS,
    STATUS,
    TABLES,
    TIMESTAMP,
)
from workloads.ticks.sessions import MissingSessionError, session

SPAN_STEPS = 1024
"""Grid steps that are worked on at once: this bounds the frames in memory."""
PART_ROWS = {"book_tensors": 1 << 16}
"""Rows of one file, where not a million."""
_MARKED = ("mbp", "trades", "statistics", "limits", "status")
_IDENTITY = ["ts_event", "ts_sent", "venue", "channel", "epoch", "seq", "msg_index", "entry_index"]
_MBO = [
    *_IDENTITY,
    *("instrument_id", "order_id", "priority", "price", "size", "action", "side", "event_flags", "row_flags"),
]
_TRADES = [
    *_IDENTITY,
    *("instrument_id", "price", "size", "aggressor", "action", "trade_entry_id", "event_flags", "row_flags"),
]
_WRITTEN = ("bars", "book_tensors", "labels", "flagged")
_DOUBTFUL = int(CleaningRule.STALE)

Int = NDArray[np.int64]


class FeaturesError(WorkloadError):
    """The archive holds nothing that features could be made of."""


@dataclass(frozen=True)
class Unit:
    """One part of the dataset."""

    partition: Partition
    """Of `mbo`."""
    rank: int
    """Among the partitions of its date."""
    rows: int
    before: int
    """Rows of the units before it."""
    total: int
    """Rows of all units."""
    units: int
    """How many there are."""


@dataclass(frozen=True)
class Summary:
    """The result of `run`; equal for equal inputs, however often they were run."""

    dataset: str
    data_commit: dict[str, Any]
    rows: dict[str, int]
    instruments: int
    frames: int
    clean_frames: int
    labels: int
    segments: int
    cleaning: list[dict[str, Any]]
    """``source``, ``rule``, ``rows``, ``excluded``, over all instruments."""
    skipped: str | None
    """Why nothing can be learned from it; None: it can."""


def dataset_id(config: FeaturesConfig, data_commit: DataCommit) -> str:
    """``<name>-<8 hex>``: equal for equal features."""
    knobs = {key: value for key, value in asdict(config).items() if key not in ("archive", "data_commit")}
    text = json.dumps([knobs, data_commit.id, code_version()], sort_keys=True, default=str)
    return f"{config.name}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def run(archive: Archive, config: FeaturesConfig, map: Map = map) -> Summary:
    """Make the dataset, or what is missing of it. Safe to repeat, and to repeat after a crash.

    Raises
    ------
    FeaturesError
        If there are no order rows or no definitions of them, or none of a date that is asked for.
    ArchiveError
        If the config's data commit is none of this archive.
    """
    at = archive.checked(config.data_commit) if config.data_commit else archive.data_commit()
    work = units(archive, config, at)
    dataset = dataset_id(config, at)
    _progress(work[0], 0)
    days = [tuple(units) for _, units in groupby(work, key=lambda unit: unit.partition.date)]
    for unit in map(partial(build_day, archive=archive, config=config, at=at, dataset=dataset), days):
        _progress(unit, unit.rows)
    return summary(archive, dataset, at)


def units(archive: Archive, config: FeaturesConfig, at: DataCommit) -> list[Unit]:
    """The partitions to work on, by date, venue and channel."""
    paths = [path.partition("/") for path in at.entries]
    stored = [Partition.parse(path) for table, _, path in paths if table == "mbo"]
    if not stored:
        raise FeaturesError(
            f"no order rows (mbo) under {archive.uri} at data commit {at.id}; receive a session first "
            "(tickworks run, tickworks ingest), with market by order"
        )
    dates = {partition.date for partition in stored}
    if missing := sorted(set(config.dates) - dates):
        raise FeaturesError(
            f"no order rows for {', '.join(map(str, missing))} under {archive.uri}; there are those of "
            f"{', '.join(map(str, sorted(dates)))}"
        )
    wanted = [p for p in stored if not config.dates or p.date in config.dates]
    wanted.sort(key=lambda p: (p.date, p.venue, p.channel))
    rows = [sum(file.rows for file in archive.files("mbo", p, at)) for p in wanted]
    return [
        Unit(p, sum(q.date == p.date for q in wanted[:i]), rows[i], sum(rows[:i]), sum(rows), len(wanted))
        for i, p in enumerate(wanted)
    ]


def build_day(
    units: Sequence[Unit], archive: Archive, config: FeaturesConfig, at: DataCommit, dataset: str
) -> Unit:
    """Write the features of one date, whose units share commit logs, in order; returns the last unit."""
    return [build(unit, archive, config, at, dataset) for unit in units][-1]


def build(unit: Unit, archive: Archive, config: FeaturesConfig, at: DataCommit, dataset: str) -> Unit:
    """Write the features of one partition, unless they are all there; returns the unit."""
    partition = unit.partition
    target = DatasetPartition(dataset, partition.date)
    stem = f"{partition.venue}-{partition.channel}"
    if any(file.stem == stem for entry in archive.log(LAST_TABLE, target) for file in entry.added):
        return unit  # that table is written last (workloads.ticks.datasets)
    source = {"data_commit": at.id, "partition": partition.path}
    market = Market(archive, partition, at)
    trades = TradesBefore(market.batches("trades", _TRADES))
    builder = Builder(config, market, unit.rank)
    writer = Writer(archive, target, stem, source)
    read = 0
    for some in events(market.batches("mbo", _MBO), market.marks()):
        for piece in some.within(SPAN_STEPS * config.step_ns):
            writer.add(builder.add(piece, trades.take(int(piece.known[-1]))))
        read += some.rows.num_rows
        _progress(unit, read)
    writer.add(builder.finish(trades.take(None)))
    writer.close()
    whole = {**source, **whole_of(unit.units)}
    archive.commit(LAST_TABLE, target, {stem: builder.counts.table()}, source=whole)
    return unit


class Market:
    """What the archive holds of one partition as of a data commit."""

    def __init__(self, archive: Archive, partition: Partition, at: DataCommit) -> None:
        self.archive, self.partition, self.at = archive, partition, at
        self.mending = read_mending(archive, partition, at)
        definitions = self.channel("definitions", DEFINITIONS.arrow)
        if not definitions.num_rows:
            raise FeaturesError(
                f"no definitions for {partition.path} under {archive.uri}, and none of earlier dates of this "
                "channel: without a tick nothing can be scaled; store the definitions of that day first"
            )
        late = flag(definitions, "row_flags", RowFlag.LATE, definitions.num_rows)
        self.definitions = Definitions(definitions.filter(pa.array(~late)))  # as the cleaner takes them
        self._definitions = definitions

    def cleaner(self, rules: Rules) -> Cleaner:
        limits = self.channel("limits", LIMITS.arrow)
        status = self.channel("status", STATUS.arrow)
        where = self.partition
        return Cleaner(rules, where.venue, where.date, self._definitions, limits, status, self.mending)

    def channel(self, table: str, schema: pa.Schema) -> pa.Table:
        """All rows of the channel, of this date and earlier ones."""
        paths = [path.partition("/") for path in self.at.entries]
        stored = [Partition.parse(path) for name, _, path in paths if name == table]
        mine = [
            p
            for p in sorted(stored)
            if (p.venue, p.channel) == (self.partition.venue, self.partition.channel)
            and p.date <= self.partition.date
        ]
        parts = [self.archive.read(table, p, at=self.at, columns=schema.names) for p in mine]
        return pa.concat_tables([schema.empty_table(), *parts], promote_options="permissive")

    def batches(self, table: str, columns: Sequence[str], filter: Any = None) -> Iterator[pa.RecordBatch]:
        """The rows of a table in stored order; none where it is missing."""
        if f"{table}/{self.partition.path}" not in self.at.entries:
            return iter(())
        return self.archive.batches(table, self.partition, columns=columns, filter=filter, at=self.at)

    def marks(self) -> list[Iterator[pa.RecordBatch]]:
        """The rows of other tables that end an event."""
        ends = pc.field("event_flags") >= int(EventFlag.END)
        return [self.batches(table, MARK_COLUMNS, ends) for table in _MARKED]

    def lost_after(self) -> Int:
        """When the last packet before each loss was sent, ns; 0 where there was none."""
        last = self.mending.losses.last
        found = np.zeros(len(last), np.int64)
        if len(last):
            for batch in self.batches("packets", ["epoch", "seq", "ts_sent", "row_flags"]):
                rows = pa.Table.from_batches([batch])
                on_time = ~flag(rows, "row_flags", RowFlag.LATE, rows.num_rows)
                before = self.mending.losses.before(places_of(rows)[on_time]) + 1
                inside = before < len(last)
                sent = column(rows, "ts_sent", np.int64, 0)[on_time]
                np.maximum.at(found, before[inside], sent[inside])
        return found

    def session_bounds(self) -> Int:
        """Where sessions and their breaks start and end, ns; none on a date without a session."""
        try:
            hours = session(self.partition.venue, self.partition.date)
        except MissingSessionError:
            return np.zeros(0, np.int64)
        bounds = [hours.open_ns, *(ns for pause in hours.breaks for ns in pause), hours.close_ns]
        return np.array(bounds, np.int64)


class TradesBefore:
    """The trades of a partition, given as far as the order rows have come."""

    def __init__(self, batches: Iterator[pa.RecordBatch]) -> None:
        self._batches = batches
        self._rows: pa.Table | None = None
        self._clock = np.zeros(0, np.int64)
        self._last = 0

    def take(self, ts: int | None) -> tuple[pa.Table, Int] | None:
        """Those known before ``ts`` that were not yet given (None: all), and when each was known."""
        while ts is None or not len(self._clock) or self._clock[-1] < ts:
            batch = next(self._batches, None)
            if batch is None:
                break
            rows = pa.Table.from_batches([batch])
            known = clock(rows, self._last)
            self._last = int(known[-1]) if len(known) else self._last
            self._rows = rows if self._rows is None else pa.concat_tables([self._rows, rows])
            self._clock = np.concatenate([self._clock, known])
        stop = len(self._clock) if ts is None else int(np.searchsorted(self._clock, ts))
        if self._rows is None or not stop:
            return None
        given = self._rows.slice(0, stop), self._clock[:stop]
        self._rows, self._clock = self._rows.slice(stop), self._clock[stop:]
        return given


Tables: TypeAlias = list[tuple[str, pa.Table]]


class Builder:
    """Turns the rows of one partition into those of the derived tables, piece after piece."""

    def __init__(self, config: FeaturesConfig, market: "Market", rank: int = 0) -> None:
        self.counts = Counts()
        self._config = config
        self._mending, self._definitions = market.mending, market.definitions
        self._cleaner = market.cleaner(config.cleaning)
        self._bounds = market.session_bounds()
        self._grid = BookGrid(config.step_ns, config.levels)
        self._taken = TakenVolume(config.step_ns)
        self._segments = Segments(config.step_ns, self._bounds, rank)
        self._labels = Labels(config.step_ns, config.horizon_ns)
        losses = market.mending.losses
        self._bars = Bars(config.bars, market.lost_after(), losses.ts_after)
        self._clock = 0

    def add(self, piece: Events, trades: tuple[pa.Table, Int] | None) -> Tables:
        """The next whole events, and the trades that were known before the last one ended."""
        flags = self._cleaner.mbo(piece.rows)
        kept = np.flatnonzero(~flags.excluded)
        rows, origin = self._mending.merge(piece.rows.take(kept))
        ends, known = _merged(piece, kept, origin, self._clock)
        frames = list(self._grid.sample(rows, known, ends))
        tops = self._grid.tops
        flags.add(flags.rows(origin[tops["row"]]), self._cleaner.books(rows, tops))
        self._clock = int(piece.known[-1])
        made: Tables = [self._flagged("mbo", piece.rows, flags), *self._trades(trades)]
        for some in frames:
            made += self._books(some)
        return made

    def finish(self, trades: tuple[pa.Table, Int] | None) -> Tables:
        """What is left at the end of the partition."""
        made = self._trades(trades)
        last = max(self._clock, int(trades[1][-1]) if trades else 0)
        bars = self._bars.finish(last)
        for (kind, instrument), rows in self._bars.in_none().items():
            self.counts.leave_out("bars", f"in_no_{kind}_bar", instrument, rows)
        return [*made, ("bars", bars)]

    def _flagged(self, source: str, rows: pa.Table, flags: Flags) -> tuple[str, pa.Table]:
        self.counts.add(source, rows, flags)
        return "flagged", flagged_table(source, rows, flags)

    def _trades(self, trades: tuple[pa.Table, Int] | None) -> Tables:
        if trades is None:
            return []
        rows, known = trades
        flags = self._cleaner.trades(rows)
        price = column(rows, "price", np.int64, NULL_PRICE)
        size = column(rows, "size", np.int64, NULL_SIZE)
        made = column(rows, "action", np.uint8, 255) == Action.NEW  # a correction comes too late for a bar
        used = np.flatnonzero(~flags.excluded & made & (price != NULL_PRICE) & (size != NULL_SIZE))
        ids, known = column(rows, "instrument_id", np.int32, NULL_INSTRUMENT)[used], known[used]
        some = Trades(
            ids,
            known,
            price[used],
            size[used],
            column(rows, "aggressor", np.uint8, 0)[used],
            self._definitions.column("multiplier", ids, known, missing=0),
            self._mending.losses.before(places_of(rows)[used]),
            np.searchsorted(self._bounds, known, side="right"),
        )
        self._taken.add(ids, known, some.size, some.aggressor)
        return [self._flagged("trades", rows, flags), ("bars", self._bars.add(some))]

    def _books(self, frames: Frames) -> Tables:
        """Rows of `book_tensors` and `labels`; instruments without a tick have none."""
        tick = self._definitions.column("tick", frames.instrument_id, frames.ts - 1, missing=0)
        scaled = tick > 0
        if not scaled.all():
            frames, tick = frames.take(scaled), tick[scaled]
        ids, ts = frames.instrument_id, frames.ts
        (bid, bid_size), (ask, ask_size) = frames.best(0), frames.best(1)
        rules = self._cleaner.grid(ids, ts, self._config.step_ns)
        # A mended book holds what was sent later, until it may be believed: nobody sees it before.
        doubtful = (rules & np.uint16(_DOUBTFUL)) != 0
        rules |= np.where(doubtful, 0, book_rules({"bid_price": bid, "ask_price": ask}))
        usable = self._cleaner.usable(rules)
        segment = self._segments.number(ids, ts, usable)
        bought, sold = self._taken.take(ids, ts)
        tensors = tensor(frames.ladder, tick)
        tensors[doubtful] = 0
        flow = {"ofi": frames.ofi, "bid_adds": frames.bid_adds, "ask_adds": frames.ask_adds}
        columns = {
            "instrument_id": ids,
            "ts": pa.array(ts).cast(TIMESTAMP),
            "segment": segment,
            "rules": rules,
            "bid_price": pa.array(bid, mask=doubtful | (bid == NULL_PRICE)),
            "ask_price": pa.array(ask, mask=doubtful | (ask == NULL_PRICE)),
            "bid_size": pa.array(bid_size, mask=doubtful),
            "ask_size": pa.array(ask_size, mask=doubtful),
            **{name: pa.array(np.where(doubtful, 0, value)) for name, value in flow.items()},
            "buy_volume": bought,
            "sell_volume": sold,
            "frame": frame_column(tensors),
        }
        arrays = [pa.array(columns[f.name]).cast(f.type) for f in BOOK_TENSORS.arrow]
        table = pa.table(arrays, schema=BOOK_TENSORS.arrow)
        self.counts.add("book_tensors", table, Flags(rules, ~usable))
        twice_mid = np.where(usable, bid, 0) + np.where(usable, ask, 0)
        return [
            ("book_tensors", table),
            ("labels", self._labels.label(ids, ts, segment, twice_mid, tick)),
        ]


def _merged(piece: Events, kept: Int, origin: Int, since: int) -> tuple[NDArray[np.bool_], Int]:
    """Ends and times of the rows that reach the books; ``origin`` is -1 for a mending row."""
    # Where the row that ended an event was left out, the kept row before it ends it.
    ended = np.append(0, np.cumsum(piece.ends))
    ends = ended[np.append(kept[1:], len(piece.ends))] > ended[kept]
    stored = origin >= 0
    # Mending rows come with the row before them, and end no event: the next end is theirs.
    merged_ends = np.zeros(len(origin), np.bool_)
    known = np.full(len(origin), since or int(piece.known[0]))
    merged_ends[stored], known[stored] = ends, piece.known[kept]
    return merged_ends, np.maximum.accumulate(known)


class Writer:
    """Collects rows of the derived tables and commits them in files of a fixed number of rows."""

    def __init__(self, archive: Archive, target: DatasetPartition, stem: str, source: dict[str, str]) -> None:
        self._archive, self._target, self._stem, self._source = archive, target, stem, source
        self._waiting: dict[str, list[pa.Table]] = {name: [] for name in _WRITTEN}
        self._parts = dict.fromkeys(_WRITTEN, 0)

    def add(self, tables: Tables) -> None:
        for name, rows in tables:
            if rows.num_rows:
                self._waiting[name].append(rows)
            most = PART_ROWS.get(name, 1 << 20)
            while sum(part.num_rows for part in self._waiting[name]) >= most:
                every = pa.concat_tables(self._waiting[name])
                self._waiting[name] = [every.slice(most)] if every.num_rows > most else []
                self._write(name, every.slice(0, most))

    def close(self) -> None:
        """Commit what is left; of a table without rows, an empty file."""
        for name, parts in self._waiting.items():
            if parts or not self._parts[name]:
                self._write(name, pa.concat_tables([TABLES[name].arrow.empty_table(), *parts]))

    def _write(self, name: str, rows: pa.Table) -> None:
        stem = f"{self._stem}-{self._parts[name]}"
        self._archive.commit(
            name, self._target, {stem: rows.combine_chunks().unify_dictionaries()}, source=self._source
        )
        self._parts[name] += 1


def summary(archive: Archive, dataset: str, at: DataCommit) -> Summary:
    """What the archive holds of a dataset."""
    days = [p for p in archive.partitions("cleaning", DatasetPartition) if p.dataset == dataset]
    rows = {
        table: sum(file.rows for day in days for file in archive.files(table, day))
        for table in DATASET_TABLES
    }
    ids: set[int] = set()
    clean, parts = 0, 0
    for day in days:
        numbers: set[int] = set()
        for batch in archive.batches("book_tensors", day, columns=["instrument_id", "segment"]):
            segment = batch["segment"].to_numpy()
            ids |= set(np.unique(batch["instrument_id"].to_numpy()).tolist())
            clean += int((segment >= 0).sum())
            numbers |= set(np.unique(segment[segment >= 0]).tolist())
        parts += len(numbers)
    counted = pa.concat_tables([archive.read("cleaning", day) for day in days]).unify_dictionaries()
    sums = (
        counted.group_by(["source", "rule"])
        .aggregate([("rows", "sum"), ("excluded", "sum")])
        .rename_columns({"rows_sum": "rows", "excluded_sum": "excluded"})
        .to_pylist()
    )
    sums.sort(key=lambda row: (row["source"], row["rule"] != ALL_ROWS, row["rule"]))
    return Summary(
        dataset,
        {"id": at.id, "entries": dict(at.entries)},
        rows,
        len(ids),
        rows["book_tensors"],
        clean,
        rows["labels"],
        parts,
        sums,
        _skipped(rows, clean, sums),
    )


def _skipped(rows: dict[str, int], clean: int, sums: list[dict[str, Any]]) -> str | None:
    if rows["labels"]:
        return None
    found = [row for row in sums if row["source"] == "book_tensors" and row["rule"] != ALL_ROWS]
    why = ", ".join(f"{row['rule']} {row['rows']:,}" for row in sorted(found, key=lambda r: -r["rows"]))
    frames = rows["book_tensors"]
    if not frames:
        return "no book was looked at: no instrument with order rows has a definition with a tick"
    if not clean:
        return f"none of {frames:,} books is usable: {why}"
    return f"no usable stretch is longer than the horizon: {clean:,} of {frames:,} books are usable ({why})"


def _progress(unit: Unit, read: int) -> None:
    emit("progress", stage="features", done=unit.before + read, total=unit.total, unit="rows")


def main() -> None:
    """Run one features job from the command line."""

    def run_here(config: FeaturesConfig) -> None:
        emit("ready")
        emit("done", **asdict(run(open_archive(config.archive), config, job_map())))

    job_main(FeaturesConfig, run_here, __doc__)


if __name__ == "__main__":
    main()

"""The tick archive: Parquet files in a folder or a bucket, seen through one commit log per partition.

Layout: ``<table>/<partition>/<stem>.parquet`` and beside them ``_commits/<n>.json``; the partition is
that of the table's kind (`workloads.ticks.partitions`). A reader sees what the log says and nothing else,
so half a write is invisible; a writer never overwrites. Schemas and encodings: `workloads.ticks.schema`.
"""

import hashlib
import json
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache, reduce
from importlib import metadata
from operator import and_, attrgetter
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

import workloads
from workloads.ticks.commits import Commit, CommitLog, DataCommit, FileEntry, live, now
from workloads.ticks.partitions import (
    DEPTH,
    NAME_RULE,
    AnyPartition,
    DatasetPartition,
    Partition,
    RunPartition,
    parse_partition,
)
from workloads.ticks.schema import MARKET_TABLES, SCHEMA_VERSION, TABLES, Layout, TableSchema
from workloads.ticks.stores import STAGING, ArchiveError, Store, open_store

__all__ = [
    "Archive",
    "ArchiveError",
    "Commit",
    "DataCommit",
    "DatasetPartition",
    "FileEntry",
    "MissingDataError",
    "Partition",
    "RunPartition",
    "open_archive",
    "partition_columns",
]

ROW_GROUP = 1 << 20
BATCH_ROWS = 1 << 17
METADATA_KEY = b"tickworks"
"""Key in a Parquet file's metadata; its value is JSON: table, schema, code, source."""


_PARTITION_COLUMNS = {
    Layout.MARKET: (pa.field("date", pa.date32()),),
    Layout.DATASET: (pa.field("dataset", pa.string()), pa.field("date", pa.date32())),
    Layout.RUN: (pa.field("run", pa.string()),),
}
_by_path = attrgetter("path")
P = TypeVar("P", Partition, DatasetPartition, RunPartition)


class MissingDataError(ArchiveError):
    """The archive holds no such table, partition or commit."""


class ConflictError(ArchiveError):
    """Another writer changed the files that a rewrite was made from; read again and redo it."""


def open_archive(uri: str, *, complete_only: bool = False) -> "Archive":
    """The archive at a path, ``file:///path`` or ``s3://bucket/prefix``; created by its first commit.

    ``complete_only`` reads a replica, whose objects arrive in any order: a log entry counts only when all
    its files are there. Such an archive refuses to be written.
    """
    return Archive(open_store(uri), complete_only=complete_only)


class Archive:
    """Tables of ticks under one URI. Cheap to make, safe to share between threads, picklable."""

    def __init__(self, store: Store, *, complete_only: bool = False):
        self.uri = store.uri
        self._store = store
        self._complete_only = complete_only
        self._logs: dict[str, CommitLog] = {}
        self._guard = threading.Lock()

    def __reduce__(self) -> Any:
        return _reopen, (self.uri, self._complete_only)

    # Writing

    def commit(
        self,
        table: str,
        partition: AnyPartition,
        files: Mapping[str, pa.Table],
        *,
        source: Mapping[str, str] | None = None,
    ) -> Commit:
        """Add files to a table; safe to repeat, and safe beside other writers.

        Parameters
        ----------
        files : stem to rows
            The stem says which rows these are, whoever writes them: ``<channel>-<epoch>-<first seq>-<last
            seq>``. A stem that the log has ever listed is left out, so that a writer that crashed may do
            all of its work again.
        source : mapping of str, optional
            What the rows were made from; kept in the log and in each file.

        Returns
        -------
        Commit
            The new entry, or the newest one when there was nothing left to add.

        Raises
        ------
        ArchiveError
            If the store refuses. Then no row of this call is seen by any reader.
        ValueError
            If the table, a stem or a schema is not what it must be.
        """
        self._check_rows(table, files)
        source = dict(source or {})
        log = self._log(table, partition)
        written: dict[str, FileEntry] = {}
        while True:
            entries = log.entries()
            known = {file.stem for entry in entries for file in entry.added}
            new = [stem for stem in files if stem not in known]
            if not new:
                if not entries:
                    raise ValueError(
                        f"nothing to commit: {table}/{partition.path} has no log and no files came"
                    )
                return entries[-1]
            for stem in new:
                if stem not in written:
                    written[stem] = self._write(table, partition, stem, files[stem], source)
            added = tuple(written[stem] for stem in new)
            if log.append(Commit(len(entries) + 1, now(), added, (), source)):
                return log.entries()[len(entries)]

    def replace(
        self,
        table: str,
        partition: AnyPartition,
        files: Mapping[str, pa.Table],
        removes: Sequence[str],
        *,
        source: Mapping[str, str] | None = None,
    ) -> Commit:
        """Swap the files of some stems for others in one entry: a correction or a compaction.

        No file is deleted: readers at an older n keep seeing what they saw. Repeating a rewrite that is in
        the log already returns its entry.

        Raises
        ------
        ConflictError
            If a file to be removed is not seen (any more), or a stem to be added is: another rewrite was
            first. Read again and redo the work.
        """
        self._check_rows(table, files)
        source = dict(source or {})
        log = self._log(table, partition)
        written: dict[str, FileEntry] = {}
        while True:
            entries = log.entries()
            if done := self._same_rewrite(entries, table, partition, files, removes, source, written):
                return done
            seen = {entry.stem: entry for entry in live(entries).values()}
            known = {file.stem for entry in entries for file in entry.added}
            gone = [stem for stem in removes if stem not in seen]
            taken = [stem for stem in files if stem in known and stem not in removes]
            if gone or taken:
                raise ConflictError(
                    f"{self.uri}/{table}/{partition.path}: cannot rewrite, "
                    + (f"{', '.join(gone)} is not there" if gone else f"{', '.join(taken)} was listed before")
                    + f" at entry {len(entries)}; files now: {', '.join(seen) or 'none'}"
                )
            for stem in files:
                if stem not in written:
                    written[stem] = self._write(table, partition, stem, files[stem], source)
            removed = tuple(seen[stem].key for stem in removes)
            added = tuple(written[stem] for stem in files)
            if log.append(Commit(len(entries) + 1, now(), added, removed, source)):
                return log.entries()[len(entries)]

    def _same_rewrite(
        self,
        entries: list[Commit],
        table: str,
        partition: AnyPartition,
        files: Mapping[str, pa.Table],
        removes: Sequence[str],
        source: Mapping[str, str],
        written: dict[str, FileEntry],
    ) -> Commit | None:
        """The entry that did this very rewrite, if any: same stems out, same stems and content in."""
        stem_of = {file.key: file.stem for entry in entries for file in entry.added}
        for entry in entries:
            if {f.stem for f in entry.added} != set(files):
                continue
            if not entry.removed or {stem_of.get(key) for key in entry.removed} != set(removes):
                continue
            for stem in files:
                if stem not in written:
                    written[stem] = self._write(table, partition, stem, files[stem], source)
            if all(written[f.stem].sha256 == f.sha256 for f in entry.added):
                return entry
        return None

    def _check_rows(self, table: str, files: Mapping[str, pa.Table]) -> None:
        schema = _schema(table).arrow
        if self._complete_only:
            raise ArchiveError(
                f"{self.uri} is opened as a replica, which is read-only; write to the home region"
            )
        for stem, rows in files.items():
            if not NAME_RULE.fullmatch(stem):
                raise ValueError(f"{stem!r} is no file stem; use letters, digits, '.', '_' and '-'")
            if not rows.schema.equals(schema):
                raise ValueError(
                    f"{table} {stem!r}: columns differ from the schema: {_difference(rows.schema, schema)}"
                )

    def _write(
        self, table: str, partition: AnyPartition, stem: str, rows: pa.Table, source: Mapping[str, str]
    ) -> FileEntry:
        """Store one file under a key of its own; whether it counts is for the log to say."""
        folder = f"{table}/{partition.path}"
        with self._store.stage() as staged:
            write_parquet(rows, staged, _schema(table), source)
            with staged.open("rb") as file:
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            size = staged.stat().st_size
            for key in (f"{folder}/{stem}.parquet", f"{folder}/{stem}-{sha256[:16]}.parquet"):
                # A file that is there came from a crash between file and entry, or from another writer.
                if self._store.create(key, staged, sha256) or self._store.sha256(key) == sha256:
                    return FileEntry(stem, key, rows.num_rows, size, sha256, SCHEMA_VERSION)
        raise ArchiveError(
            f"{self.uri}/{key}: other content lies under this content's own key; move that file away"
        )

    # Reading

    def read(
        self,
        table: str,
        partition: AnyPartition | None = None,
        *,
        columns: Sequence[str] | None = None,
        filter: Any = None,
        at: DataCommit | None = None,
    ) -> pa.Table:
        """Rows in commit order, of one partition or of all (by path).

        Parameters
        ----------
        columns : names, optional
            Which, in this order; None: all of the schema.
        filter : pyarrow.compute.Expression, optional
            Pushed down to row groups.
        at : DataCommit, optional
            As of then; None: now.

        Raises
        ------
        MissingDataError
            If there is no such table, partition or commit; lists what there is.
        """
        columns = _known(table, columns)
        data = self.dataset(table, partition, at=at)
        with self._explained(table):
            return data.to_table(columns=columns, filter=filter)

    def batches(
        self,
        table: str,
        partition: AnyPartition | None = None,
        *,
        columns: Sequence[str] | None = None,
        filter: Any = None,
        at: DataCommit | None = None,
    ) -> Iterator[pa.RecordBatch]:
        """The rows of `read`, streamed: memory holds about two row groups, whatever the history's length."""
        columns = _known(table, columns)
        data = self.dataset(table, partition, at=at)
        with self._explained(table):
            yield from data.to_batches(
                columns=columns,
                filter=filter,
                batch_size=BATCH_ROWS,
                batch_readahead=1,
                fragment_readahead=1,
                fragment_scan_options=ds.ParquetFragmentScanOptions(
                    use_buffered_stream=True, pre_buffer=False
                ),
            )

    def dataset(
        self, table: str, partition: AnyPartition | None = None, *, at: DataCommit | None = None
    ) -> Any:
        """A pyarrow dataset of exactly the log's files. The partition's columns come last: ``date`` (the
        trading date) of market tables, ``dataset`` and ``date`` of derived ones, ``run`` of results.

        This is what DuckDB and Polars scan (``duckdb.register``, ``polars.scan_pyarrow_dataset``).
        """
        schema = _schema(table).arrow
        columns = _PARTITION_COLUMNS[_schema(table).layout]
        for column in columns:
            schema = schema.append(column)
        filesystem, prefix = self._store.filesystem()
        keys, places = [], []
        for where in [partition] if partition else self._partitions_at(table, at):
            for file in self.files(table, where, at):
                if file.schema > SCHEMA_VERSION:
                    raise ArchiveError(
                        f"{self.uri}/{file.key} has schema version {file.schema}, this code reads up to "
                        f"{SCHEMA_VERSION}; update tickworks"
                    )
                keys.append(prefix + file.key)
                places.append(
                    reduce(
                        and_, (ds.field(c.name) == pa.scalar(getattr(where, c.name), c.type) for c in columns)
                    )
                )
        return ds.FileSystemDataset.from_paths(
            keys, schema=schema, format=ds.ParquetFileFormat(), filesystem=filesystem, partitions=places
        )

    def files(
        self, table: str, partition: AnyPartition, at: DataCommit | None = None
    ) -> tuple[FileEntry, ...]:
        """The files that a reader sees, oldest first."""
        return tuple(live(self._entries(table, partition, at)).values())

    def paths(self, table: str, at: DataCommit | None = None) -> list[str]:
        """Absolute paths or ``s3://`` URIs of all files of a table, for DuckDB and Polars."""
        return [
            self._store.location(file.key)
            for partition in self._partitions_at(table, at)
            for file in self.files(table, partition, at)
        ]

    def partitions(self, table: str, kind: type[P] = Partition) -> list[P]:  # type: ignore[assignment]  # a default of a type variable
        """The partitions that have a commit, sorted; empty where the table has none.

        ``kind`` is the table's kind of partition: `DatasetPartition` for derived tables, `RunPartition` for
        results.
        """
        found = self.committed(table)
        for partition in found:
            if not isinstance(partition, kind):
                raise ValueError(f"{table} is partitioned like {partition.path}, not by {kind.__name__}")
        return found  # type: ignore[return-value]  # checked just above

    def committed(self, table: str) -> list[AnyPartition]:
        """The partitions that have a commit, of whichever kind the table's are, sorted by path."""
        paths = [""]
        for _ in range(DEPTH[_schema(table).layout]):
            paths = [f"{path}/{name}" for path in paths for name in self._store.folders(f"{table}{path}")]
        found = []
        for path in paths:
            with suppress(ValueError):  # a folder that is none of ours
                found.append(parse_partition(table, path.removeprefix("/")))
        return sorted((partition for partition in found if self.log(table, partition)), key=_by_path)

    def tables(self) -> list[str]:
        """The tables that have a commit, in the order of the schema module."""
        there = set(self._store.folders(""))
        return [table for table in TABLES if table in there and self.committed(table)]

    def log(self, table: str, partition: AnyPartition) -> list[Commit]:
        """The log's entries from 1; empty where there is none."""
        return self._log(table, partition).entries()

    def data_commit(self, tables: Iterable[str] | None = None) -> DataCommit:
        """The state of these tables (None: all market tables) now, to read from later with ``at``."""
        return DataCommit.of(
            {
                f"{table}/{partition.path}": self.log(table, partition)
                for table in (MARKET_TABLES if tables is None else tables)
                for partition in self.committed(table)
            }
        )

    def checked(self, at: DataCommit) -> DataCommit:
        """A data commit that somebody gave: refused where its id is not that of the logs up to its entries.

        Raises
        ------
        ArchiveError
            If the logs hold something else, or an entry names no table and partition.
        MissingDataError
            If the logs hold less.
        """
        logs = {}
        for path, n in at.entries.items():
            table, _, where = path.partition("/")
            try:
                _schema(table)
                partition = parse_partition(table, where)
            except ValueError as error:
                raise ArchiveError(f"data commit {at.id} names {path!r}: {error}") from None
            if n < 1:
                raise ArchiveError(f"data commit {at.id} names entry {n} of {path}; the first is 1")
            logs[path] = self._entries(table, partition, at)
        if (found := DataCommit.of(logs)).id != at.id:
            raise ArchiveError(
                f"data commit {at.id} is not what {self.uri} holds at its entries, which is {found.id}; give "
                "the id and entries of one result, and the archive that they were made from"
            )
        return at

    def verify(self) -> list[str]:
        """Read every file that any entry lists, and look for what no log lists.

        Returns
        -------
        list of str
            ``missing: …``, ``damaged: …`` (size or checksum) and ``orphan: …`` (left by a crash between
            file and entry: unseen and harmless). Empty: all is well.
        """
        listed: set[str] = set()
        findings = []
        for table in self.tables():
            for partition in self.committed(table):
                for entry in self.log(table, partition):
                    for file in entry.added:
                        if file.key in listed:
                            continue
                        listed.add(file.key)
                        size = self._store.size(file.key)
                        if size is None:
                            findings.append(f"missing: {file.key} of entry {entry.n}")
                        elif size != file.bytes:
                            findings.append(
                                f"damaged: {file.key} has {size} bytes, its entry says {file.bytes}"
                            )
                        elif self._store.sha256(file.key) != file.sha256:
                            findings.append(f"damaged: {file.key} has another checksum than its entry says")
        for top in (*self._store.folders(""), STAGING):
            findings += [
                f"orphan: {key} is in no log"
                for key in self._store.keys(top)
                if key not in listed and "/_commits/" not in key
            ]
        return findings

    def _log(self, table: str, partition: AnyPartition) -> CommitLog:
        prefix = f"{table}/{partition.path}"
        with self._guard:
            if prefix not in self._logs:
                _check_kind(table, partition)
                self._logs[prefix] = CommitLog(self._store, prefix, self._complete_only)
            return self._logs[prefix]

    def _entries(self, table: str, partition: AnyPartition, at: DataCommit | None) -> list[Commit]:
        path = f"{table}/{partition.path}"
        entries = self.log(table, partition)
        if not entries:
            raise self._missing(table, partition)
        if at is None:
            return entries
        if path not in at.entries:
            raise MissingDataError(
                f"data commit {at.id} holds nothing of {path}; it holds {_listed(at.entries) or 'nothing'}"
            )
        if len(entries) < (n := at.entries[path]):
            raise MissingDataError(
                f"{self.uri}/{path} has {len(entries)} log entries, data commit {at.id} needs {n}; read the "
                "archive that it was made from, or wait until the replica has caught up"
            )
        return entries[:n]

    def _partitions_at(self, table: str, at: DataCommit | None) -> list[AnyPartition]:
        if at is None:
            found = self.committed(table)
        else:
            _schema(table)
            paths = [path.partition("/") for path in at.entries]
            mine = [parse_partition(table, path) for name, _, path in paths if name == table]
            found = sorted(mine, key=_by_path)
        if not found:
            raise self._missing(table, None)
        return found

    def _missing(self, table: str, partition: AnyPartition | None) -> MissingDataError:
        if partition is not None and (there := self.committed(table)):
            return MissingDataError(
                f"no {table} for {partition.path} under {self.uri}; there is {_listed(p.path for p in there)}"
            )
        return MissingDataError(
            f"no {table} under {self.uri}; there is {_listed(self.tables()) or 'nothing yet'}"
            " (tickworks run fills var/runs/<time>/archive)"
        )

    @contextmanager
    def _explained(self, table: str) -> Iterator[None]:
        try:
            yield
        except (OSError, pa.ArrowInvalid) as error:
            if isinstance(error, pa.ArrowInvalid) and "Parquet" not in str(error):
                raise  # the caller's filter
            said = " ".join(str(error).split())[:300]
            raise ArchiveError(
                f"{self.uri}/{table}: a file that the log lists cannot be read ({said}); "
                "see `tickworks ticks verify`"
            ) from error


def write_parquet(rows: pa.Table, path: Any, schema: TableSchema, source: Mapping[str, str]) -> None:
    """Write one file with the encodings that suit its columns; equal input gives equal bytes.

    Dictionary for columns of few values, DELTA_BINARY_PACKED for the other integers and times, zstd level 1.
    """
    few = {*schema.dictionary, *(f.name for f in schema.arrow if pa.types.is_dictionary(f.type))}
    delta = {f.name: "DELTA_BINARY_PACKED" for f in schema.arrow if f.name not in few and _counts(f.type)}
    about = {"table": schema.name, "schema": SCHEMA_VERSION, "code": code_version(), "source": dict(source)}
    pq.write_table(
        rows.replace_schema_metadata({METADATA_KEY: json.dumps(about, sort_keys=True)}),
        path,
        compression="zstd",
        compression_level=1,
        use_dictionary=sorted(few),
        column_encoding=delta,
        row_group_size=ROW_GROUP,
    )


@cache
def code_version() -> str:
    """Version of the package and a digest of its workloads' source, ``0.1.0+5d41402a``; goes into every file.

    The digest tells apart what the version alone does not: code that somebody has changed.
    """
    try:
        version = metadata.version("tickworks")
    except metadata.PackageNotFoundError:
        version = "unknown"
    root = Path(workloads.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return f"{version}+{digest.hexdigest()[:8]}"


def _counts(kind: Any) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_timestamp(kind) or pa.types.is_date32(kind))


def _schema(table: str) -> TableSchema:
    if table not in TABLES:
        raise ValueError(f"unknown table {table!r}; known: {', '.join(TABLES)}")
    return TABLES[table]


def partition_columns(table: str) -> list[str]:
    """Names of the columns that a reader gets behind the schema's own: where the row lies."""
    return [field.name for field in _PARTITION_COLUMNS[_schema(table).layout]]


def _check_kind(table: str, partition: AnyPartition) -> None:
    _schema(table)
    try:
        parse_partition(table, partition.path)
    except ValueError as error:
        raise ValueError(f"{table}: {error}") from None


def _known(table: str, columns: Sequence[str] | None) -> list[str]:
    names = _schema(table).arrow.names
    places = partition_columns(table)
    unknown = [name for name in columns or () if name not in (*names, *places)]
    if unknown:
        raise ValueError(f"{table} has no column {', '.join(unknown)}; it has {', '.join((*names, *places))}")
    return list(names if columns is None else columns)


def _difference(found: Any, expected: Any) -> str:
    missing = [name for name in expected.names if name not in found.names]
    extra = [name for name in found.names if name not in expected.names]
    if missing or extra:
        return f"missing {missing}, extra {extra}"
    differing = [
        f"{field.name} is {found.field(field.name).type}, must be {field.type}"
        for field in expected
        if not found.field(field.name).equals(field)
    ]
    return "; ".join(differing) or f"the order must be {', '.join(expected.names)}"


def _listed(names: Iterable[str], most: int = 8) -> str:
    every = list(names)
    return ", ".join(every[:most]) + (f" and {len(every) - most} more" if len(every) > most else "")


def _reopen(uri: str, complete_only: bool) -> Archive:
    return open_archive(uri, complete_only=complete_only)

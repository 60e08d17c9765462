import errno
import hashlib
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import contextmanager
from datetime import date
from importlib import metadata
from pathlib import Path

import duckdb
import numpy as np
import polars
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

import workloads
from tests.conftest import skip_or_fail
from workloads.ticks.archive import (
    Archive,
    ArchiveError,
    DatasetPartition,
    MissingDataError,
    Partition,
    RunPartition,
    code_version,
    open_archive,
    partition_columns,
)
from workloads.ticks.schema import MARKET_TABLES, TABLES, Layout
from workloads.ticks.stores import FolderStore

MONDAY = Partition("XCME", date(2026, 1, 5), 310)
TUESDAY = Partition("XCME", date(2026, 1, 6), 310)
BOOK_MONDAY = DatasetPartition("book-1f3a9c04", date(2026, 1, 5))
BOOK_TUESDAY = DatasetPartition("book-1f3a9c04", date(2026, 1, 6))
VIT = RunPartition("vit-7d20b1e5")
PARTITION = {Layout.MARKET: MONDAY, Layout.DATASET: BOOK_MONDAY, Layout.RUN: VIT}


def rows(table: str, first: int, n: int) -> pa.Table:
    """n rows whose numbers count up from ``first``."""
    counting = pa.array(np.arange(first, first + n))
    columns = {}
    for field in TABLES[table].arrow:
        if pa.types.is_dictionary(field.type):
            columns[field.name] = pa.array(["XCME"] * n).cast(field.type)
        elif pa.types.is_integer(field.type):
            columns[field.name] = pc.bit_wise_and(counting, 127).cast(field.type)
        elif pa.types.is_timestamp(field.type):
            columns[field.name] = counting.cast(field.type)
        elif pa.types.is_floating(field.type):
            columns[field.name] = pc.divide(counting.cast(pa.float64()), 128.0).cast(field.type)
        elif pa.types.is_string(field.type) or pa.types.is_binary(field.type):
            columns[field.name] = counting.cast(pa.string()).cast(field.type)
        elif pa.types.is_boolean(field.type):
            columns[field.name] = pc.equal(pc.bit_wise_and(counting, 1), 1)
        elif pa.types.is_list(field.type) and pa.types.is_float32(field.type.value_type):
            columns[field.name] = pa.array([[float(i), -0.0, 0.1] for i in counting.to_pylist()], field.type)
        else:
            columns[field.name] = pa.nulls(n, field.type)
    return pa.table(columns, schema=TABLES[table].arrow)


def seqs(archive: Archive, table: str = "mbo", **kwargs) -> list[int]:
    return archive.read(table, columns=["seq"], **kwargs)["seq"].to_pylist()


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    return open_archive(str(tmp_path / "archive"))


@pytest.mark.parametrize("table", TABLES)
def test_every_table_comes_back_as_it_was(archive: Archive, table: str):
    stored, partition = rows(table, 1, 5), PARTITION[TABLES[table].layout]
    archive.commit(table, partition, {"310-2026010400-1-5": stored})
    assert open_archive(archive.uri).read(table, partition).equals(stored)
    assert open_archive(archive.uri).committed(table) == [partition]


@pytest.mark.parametrize("table", ["trades", "bars", "scores"])
def test_a_partition_of_another_kind_than_the_tables_is_refused_and_leaves_nothing(
    archive: Archive, table: str
):
    for layout, partition in PARTITION.items():
        if layout is not TABLES[table].layout:
            with pytest.raises(ValueError, match=f"{table}: .* is no partition; expected"):
                archive.commit(table, partition, {"a": rows(table, 1, 1)})
            with pytest.raises(ValueError, match=f"{table}: .* is no partition; expected"):
                archive.read(table, partition)
    assert archive.tables() == []


def test_the_partition_comes_behind_the_columns_of_every_row(archive: Archive):
    archive.commit("mbo", TUESDAY, {"a": rows("mbo", 1, 1)})
    for partition in (BOOK_MONDAY, BOOK_TUESDAY, DatasetPartition("other", date(2026, 1, 6))):
        archive.commit("labels", partition, {"a": rows("labels", 1, 1)})
    archive.commit("fills", VIT, {"a": rows("fills", 1, 2)})
    places = {
        table: archive.dataset(table).to_table(columns=partition_columns(table)).to_pylist()
        for table in ("mbo", "labels", "fills")
    }
    assert places == {
        "mbo": [{"date": date(2026, 1, 6)}],
        "labels": [
            {"dataset": "book-1f3a9c04", "date": date(2026, 1, 5)},
            {"dataset": "book-1f3a9c04", "date": date(2026, 1, 6)},
            {"dataset": "other", "date": date(2026, 1, 6)},
        ],
        "fills": [{"run": "vit-7d20b1e5"}] * 2,
    }


def test_a_filter_on_the_dataset_opens_no_file_of_another(archive: Archive):
    for name in ("one", "two"):
        archive.commit("labels", DatasetPartition(name, date(2026, 1, 5)), {"a": rows("labels", 1, 3)})
    Path(archive.paths("labels")[1]).write_bytes(b"not Parquet")
    assert archive.read("labels", filter=pc.field("dataset") == "one").num_rows == 3
    with pytest.raises(ArchiveError):
        archive.read("labels", filter=pc.field("dataset") == "two")


def test_partitions_are_asked_for_by_their_kind(archive: Archive):
    archive.commit("bars", BOOK_TUESDAY, {"a": rows("bars", 1, 1)})
    archive.commit("bars", BOOK_MONDAY, {"a": rows("bars", 1, 1)})
    archive.commit("ledger", VIT, {"a": rows("ledger", 1, 1)})
    assert archive.partitions("bars", DatasetPartition) == [BOOK_MONDAY, BOOK_TUESDAY]
    assert archive.partitions("ledger", RunPartition) == [VIT]
    assert archive.partitions("scores", RunPartition) == []
    with pytest.raises(ValueError, match="not by Partition"):
        archive.partitions("ledger")


def test_a_data_commit_covers_the_market_tables_unless_others_are_named(archive: Archive):
    archive.commit("mbo", MONDAY, {"a": rows("mbo", 1, 2)})
    market = archive.data_commit()
    archive.commit("labels", BOOK_MONDAY, {"a": rows("labels", 1, 2)})
    archive.commit("scores", VIT, {"a": rows("scores", 1, 2)})
    assert archive.data_commit() == market == archive.data_commit(MARKET_TABLES)
    derived = archive.data_commit(["labels", "scores"])
    assert set(derived.entries) == {
        "labels/dataset=book-1f3a9c04/date=2026-01-05",
        "scores/run=vit-7d20b1e5",
    }
    archive.commit("labels", BOOK_MONDAY, {"b": rows("labels", 3, 2)})
    assert archive.read("labels", at=derived).num_rows == 2
    assert archive.read("labels").num_rows == 4
    with pytest.raises(MissingDataError, match="holds nothing of labels"):
        archive.read("labels", BOOK_MONDAY, at=market)


def test_verify_reads_the_files_of_every_kind_of_table(archive: Archive):
    for table in ("mbo", "book_tensors", "models"):
        archive.commit(table, PARTITION[TABLES[table].layout], {"a": rows(table, 1, 2)})
    assert archive.verify() == []
    Path(archive.paths("book_tensors")[0]).unlink()
    Path(archive.paths("models")[0]).write_bytes(b"")
    assert [finding.split(" ")[:2] for finding in archive.verify()] == [
        ["missing:", "book_tensors/dataset=book-1f3a9c04/date=2026-01-05/a.parquet"],
        ["damaged:", "models/run=vit-7d20b1e5/a.parquet"],
    ]


def test_folders_that_no_kind_of_table_has_are_no_partitions(archive: Archive, tmp_path: Path):
    archive.commit("scores", VIT, {"a": rows("scores", 1, 1)})
    for name in ("run=", "dataset=x", "_tmp", "run=a b"):
        (tmp_path / "archive/scores" / name).mkdir()
    assert archive.committed("scores") == [VIT]


def test_rows_keep_the_order_of_their_commits_across_partitions(archive: Archive):
    archive.commit("mbo", TUESDAY, {"c": rows("mbo", 7, 2)})
    archive.commit("mbo", MONDAY, {"z": rows("mbo", 1, 2), "a": rows("mbo", 3, 2)})
    archive.commit("mbo", MONDAY, {"b": rows("mbo", 5, 2)})
    assert seqs(archive) == [1, 2, 3, 4, 5, 6, 7, 8]
    assert archive.partitions("mbo") == [MONDAY, TUESDAY]
    assert [commit.n for commit in archive.log("mbo", MONDAY)] == [1, 2]


def test_a_stem_counts_once_however_often_it_is_committed(archive: Archive):
    first = archive.commit("mbo", MONDAY, {"a": rows("mbo", 1, 3)})
    again = archive.commit("mbo", MONDAY, {"a": rows("mbo", 1, 3)})
    wider = archive.commit("mbo", MONDAY, {"a": rows("mbo", 1, 3), "b": rows("mbo", 4, 1)})
    assert (first.n, again.n, wider.n) == (1, 1, 2)
    assert [file.stem for file in wider.added] == ["b"]
    assert seqs(archive) == [1, 2, 3, 4]


def test_a_stem_that_a_compaction_removed_does_not_come_back(archive: Archive):
    archive.commit("mbo", MONDAY, {"a": rows("mbo", 1, 2), "b": rows("mbo", 3, 2)})
    archive.replace("mbo", MONDAY, {"a-b": rows("mbo", 1, 4)}, ["a", "b"])
    archive.commit("mbo", MONDAY, {"b": rows("mbo", 3, 2)})
    assert seqs(archive) == [1, 2, 3, 4]


def test_a_rewrite_leaves_the_older_data_commit_as_it_was(archive: Archive):
    archive.commit("mbo", MONDAY, {"a": rows("mbo", 1, 2)})
    before = archive.data_commit()
    archive.replace("mbo", MONDAY, {"a": rows("mbo", 11, 2)}, ["a"])
    assert seqs(archive) == [11, 12]
    assert seqs(archive, at=before) == [1, 2]
    assert len(archive.paths("mbo")) == len(archive.paths("mbo", at=before)) == 1


def test_a_repeated_rewrite_is_one_entry(archive: Archive):
    archive.commit("mbo", MONDAY, {"a": rows("mbo", 1, 2)})
    first = archive.replace("mbo", MONDAY, {"a": rows("mbo", 11, 2)}, ["a"])
    assert archive.replace("mbo", MONDAY, {"a": rows("mbo", 11, 2)}, ["a"]) == first
    assert len(archive.log("mbo", MONDAY)) == 2


def test_a_rewrite_of_files_that_are_gone_is_a_conflict(archive: Archive):
    archive.commit("mbo", MONDAY, {"a": rows("mbo", 1, 2), "b": rows("mbo", 3, 2)})
    archive.replace("mbo", MONDAY, {"ab": rows("mbo", 1, 4)}, ["a", "b"])
    with pytest.raises(ArchiveError, match="b is not there at entry 2; files now: ab"):
        archive.replace("mbo", MONDAY, {"b2": rows("mbo", 3, 1)}, ["b"])
    assert seqs(archive) == [1, 2, 3, 4]


def test_columns_and_filter_choose_what_is_read(archive: Archive):
    archive.commit("mbo", MONDAY, {"a": rows("mbo", 1, 100)})
    found = archive.read("mbo", columns=["size", "date"], filter=pc.field("seq") > 98)
    assert found.to_pydict() == {"size": [99, 100], "date": [date(2026, 1, 5)] * 2}
    assert sum(b.num_rows for b in archive.batches("mbo", filter=pc.field("seq") > 98)) == 2


def test_batches_stream_the_rows_of_read(archive: Archive):
    archive.commit("packets", MONDAY, {"a": rows("packets", 0, 300_000), "b": rows("packets", 7, 10)})
    batches = list(archive.batches("packets"))
    assert len(batches) > 2
    assert pa.Table.from_batches(batches).equals(archive.read("packets"))


def test_batches_hold_a_part_of_the_rows_in_memory(archive: Archive):
    stored = rows("packets", 0, 1 << 20)
    for stem in "abcdef":
        archive.commit("packets", MONDAY, {stem: stored})
    size = stored.nbytes
    del stored
    before = pa.total_allocated_bytes()
    held = [pa.total_allocated_bytes() - before for _ in archive.batches("packets")]
    assert max(held) < 3 * size  # of 6


def test_duckdb_and_polars_read_the_files(archive: Archive):
    archive.commit("mbo", MONDAY, {"a": rows("mbo", 1, 100)})
    archive.commit("mbo", TUESDAY, {"b": rows("mbo", 1, 10)})
    counted = duckdb.sql("select count(*), sum(seq) from read_parquet($1)", params=[archive.paths("mbo")])
    assert counted.fetchall() == [(110, 5105)]
    assert polars.read_parquet(archive.paths("mbo"), hive_partitioning=False)["seq"].sum() == 5105


def test_files_are_encoded_as_the_schema_says_and_tell_their_origin(archive: Archive):
    archive.commit("mbo", MONDAY, {"a": rows("mbo", 1, 1000)}, source={"kind": "replay"})
    (path,) = archive.paths("mbo")
    file = pq.ParquetFile(path)
    encodings = {
        (column := file.metadata.row_group(0).column(i)).path_in_schema: column.encodings
        for i in range(file.metadata.num_columns)
    }
    assert "DELTA_BINARY_PACKED" in encodings["order_id"]
    assert "RLE_DICTIONARY" in encodings["price"]
    assert file.metadata.row_group(0).column(0).compression == "ZSTD"
    assert b'"source": {"kind": "replay"}' in file.metadata.metadata[b"tickworks"]
    assert archive.log("mbo", MONDAY)[0].source == {"kind": "replay"}


def test_the_same_rows_make_the_same_data_commit_and_other_rows_another(tmp_path: Path):
    def made(name: str, first: int) -> str:
        archive = open_archive(str(tmp_path / name))
        archive.commit("mbo", MONDAY, {"a": rows("mbo", first, 3)})
        return archive.data_commit().id

    assert made("one", 1) == made("two", 1) != made("three", 2)


def test_missing_tables_and_partitions_are_told_with_what_there_is(archive: Archive):
    with pytest.raises(MissingDataError, match="there is nothing yet"):
        archive.read("mbo")
    archive.commit("mbo", MONDAY, {"a": rows("mbo", 1, 3)})
    with pytest.raises(MissingDataError, match=r"no trades under .* there is mbo"):
        archive.read("trades")
    with pytest.raises(MissingDataError, match="there is venue=XCME/date=2026-01-05/channel=310"):
        archive.read("mbo", TUESDAY)
    with pytest.raises(ValueError, match="unknown table 'mbq'; known: mbo, "):
        archive.read("mbq")
    with pytest.raises(ValueError, match="mbo has no column prise"):
        archive.read("mbo", columns=["prise"])


def test_a_data_commit_of_another_archive_is_refused(archive: Archive, tmp_path: Path):
    archive.commit("mbo", MONDAY, {"a": rows("mbo", 1, 3)})
    archive.commit("mbo", MONDAY, {"b": rows("mbo", 4, 3)})
    other = open_archive(str(tmp_path / "other"))
    other.commit("mbo", MONDAY, {"a": rows("mbo", 1, 3)})
    with pytest.raises(MissingDataError, match=r"has 1 log entries, data commit .* needs 2"):
        other.read("mbo", at=archive.data_commit())


def test_wrong_columns_are_refused_before_anything_is_written(archive: Archive, tmp_path: Path):
    with pytest.raises(ValueError, match=r"missing \[.*'order_id'.*\], extra \[\]"):
        archive.commit("mbo", MONDAY, {"a": rows("mbo", 1, 3).drop_columns(["order_id"])})
    with pytest.raises(ValueError, match="no file stem"):
        archive.commit("mbo", MONDAY, {"../a": rows("mbo", 1, 3)})
    with pytest.raises(ValueError, match="nothing to commit"):
        archive.commit("mbo", MONDAY, {})
    assert not (tmp_path / "archive").exists()


def test_an_unknown_scheme_is_refused():
    with pytest.raises(ArchiveError, match="unknown scheme 'gs'"):
        open_archive("gs://bucket/prefix")


def test_an_archive_travels_to_another_process(archive: Archive):
    archive.commit("mbo", MONDAY, {"a": rows("mbo", 1, 3)})
    assert seqs(pickle.loads(pickle.dumps(archive))) == [1, 2, 3]


def test_file_uris_name_folders(archive: Archive):
    archive.commit("mbo", MONDAY, {"a": rows("mbo", 1, 3)})
    assert seqs(open_archive(f"file://{archive.uri}")) == [1, 2, 3]


def test_verify_finds_what_is_missing_damaged_or_unlisted(archive: Archive):
    archive.commit("mbo", MONDAY, {"a": rows("mbo", 1, 3), "b": rows("mbo", 4, 3), "c": rows("mbo", 7, 3)})
    a, b, _ = map(Path, archive.paths("mbo"))
    assert archive.verify() == []
    a.unlink()
    b.write_bytes(b.read_bytes()[:-1] + b"!")
    b.with_name("left.parquet").write_bytes(b"half")
    findings = archive.verify()
    assert [finding.split(":")[0] for finding in findings] == ["missing", "damaged", "orphan"]
    with pytest.raises(ArchiveError, match="tickworks ticks verify"):
        archive.read("mbo")


# Crashes: the store dies before or after each of its steps.


class Crash(BaseException):
    """The power went off; nothing catches it."""


class DyingStore(FolderStore):
    """Dies at its k-th call of stage or create, before or after the call took effect."""

    def __init__(self, root: Path, k: int, *, after: bool):
        super().__init__(root)
        self.left, self.after = k, after

    def _step(self, action: Callable[[], bool]) -> bool:
        self.left -= 1
        if self.left == 0 and not self.after:
            raise Crash
        result = action()
        if self.left == 0:
            raise Crash
        return result

    @contextmanager
    def stage(self):
        with super().stage() as path:
            self._step(lambda: True)
            yield path

    def create(self, key: str, staged: Path, sha256: str) -> bool:
        return self._step(lambda: super(DyingStore, self).create(key, staged, sha256))


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("k", range(1, 8))
def test_a_crash_at_any_step_shows_all_or_nothing_and_a_retry_gives_each_row_once(tmp_path: Path, k, after):
    archive = open_archive(str(tmp_path))
    archive.commit("mbo", MONDAY, {"a": rows("mbo", 1, 2)})
    files = {"b": rows("mbo", 3, 2), "c": rows("mbo", 5, 2)}
    crashed = False
    try:
        Archive(DyingStore(tmp_path, k, after=after)).commit("mbo", MONDAY, files)
    except Crash:
        crashed = True
    assert crashed == (k <= 6)  # two files and one entry, two steps each
    done = k > 6 or (k == 6 and after)
    assert seqs(archive) == ([1, 2, 3, 4, 5, 6] if done else [1, 2])
    open_archive(str(tmp_path)).commit("mbo", MONDAY, files)
    assert seqs(archive) == [1, 2, 3, 4, 5, 6]
    assert archive.verify() == []


@pytest.mark.parametrize("k", range(1, 5))
def test_a_crash_inside_a_rewrite_shows_the_old_rows_until_it_is_repeated(tmp_path: Path, k):
    archive = open_archive(str(tmp_path))
    archive.commit("mbo", MONDAY, {"a": rows("mbo", 1, 2), "b": rows("mbo", 3, 2)})
    rewrite = ("mbo", MONDAY, {"a": rows("mbo", 21, 4)}, ["a", "b"])
    with pytest.raises(Crash):
        Archive(DyingStore(tmp_path, k, after=False)).replace(*rewrite)
    assert seqs(archive) == [1, 2, 3, 4]
    archive.replace(*rewrite)
    assert seqs(archive) == [21, 22, 23, 24]
    assert archive.verify() == []


WRITER = """
import sys
from datetime import date
from workloads.ticks.archive import Partition, open_archive
from workloads.ticks.schema import TABLES
import pyarrow as pa
archive = open_archive(sys.argv[1])
for i in range(1, 100_000):
    row = {"venue": "XCME", "channel": 310, "epoch": 1, "first_seq": i, "last_seq": i}
    rows = pa.Table.from_pylist([row], schema=TABLES["gaps"].arrow)
    archive.commit("gaps", Partition("XCME", date(2026, 1, 5), 310), {f"s{i}": rows})
    print(i, flush=True)
"""


def test_a_killed_writer_loses_no_acknowledged_row_and_repeats_none(tmp_path: Path):
    acknowledged = 0
    for lines in (3, 40, 85):  # the writer begins anew each time, with all that it has done before
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True
        )
        for _ in range(lines):
            acknowledged = max(acknowledged, int(writer.stdout.readline()))
        writer.kill()
        acknowledged = max([acknowledged, *map(int, writer.stdout.read().split())])
        writer.wait()
        found = open_archive(str(tmp_path)).read("gaps")["first_seq"].to_pylist()
        assert found == list(range(1, len(found) + 1))
        assert len(found) in (acknowledged, acknowledged + 1)


def test_a_file_left_by_a_crash_with_other_content_is_kept_and_not_shown(archive: Archive):
    archive.commit("mbo", MONDAY, {"a": rows("mbo", 1, 2)})
    left = Path(archive.paths("mbo")[0]).with_name("b.parquet")
    left.write_bytes(b"what an older version wrote")
    commit = archive.commit("mbo", MONDAY, {"b": rows("mbo", 3, 2)})
    assert commit.added[0].key.endswith(f"/b-{commit.added[0].sha256[:16]}.parquet")
    assert seqs(archive) == [1, 2, 3, 4]
    assert left.read_bytes() == b"what an older version wrote"


def test_what_a_killed_writer_left_is_swept_and_a_living_writers_file_is_not(
    archive: Archive, tmp_path: Path
):
    staging = tmp_path / "archive" / ".staging"
    staging.mkdir(parents=True)
    (staging / "tmp-dead").write_bytes(b"half")
    with FolderStore(tmp_path / "archive").stage() as living:
        archive.commit("mbo", MONDAY, {"a": rows("mbo", 1, 2)})
        assert [path.name for path in staging.iterdir()] == [living.name]
    assert list(staging.iterdir()) == []


# Refusals of the operating system


@pytest.fixture
def small_disk(tmp_path: Path):
    """A file system of 1 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        skip_or_fail(f"cannot mount a small disk: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk_is_one_sentence_and_leaves_the_archive_as_it_was(small_disk: Path):
    archive = open_archive(str(small_disk / "archive"))
    archive.commit("mbo", MONDAY, {"a": rows("mbo", 1, 3)})
    noise = np.random.default_rng(1).integers(0, 2**62, 400_000)
    large = rows("mbo", 1, len(noise)).set_column(
        TABLES["mbo"].arrow.get_field_index("order_id"),
        TABLES["mbo"].arrow.field("order_id"),
        pa.array(noise, pa.uint64()),
    )
    with pytest.raises(ArchiveError, match=r"No space left on device; free some space"):
        archive.commit("mbo", MONDAY, {"b": rows("mbo", 4, 3), "c": large})
    assert list((small_disk / "archive" / ".staging").iterdir()) == []
    assert seqs(archive) == [1, 2, 3]
    archive.commit("mbo", MONDAY, {"b": rows("mbo", 4, 3)})
    assert seqs(archive) == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "No space left on device; free some space"),
        (errno.EACCES, "Permission denied; give this user"),
        (errno.EROFS, "Read-only file system; mount it writable"),
    ],
)
def test_a_refused_write_says_what_to_do(archive: Archive, monkeypatch, number: int, words: str):
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    archive.commit("mbo", MONDAY, {"a": rows("mbo", 1, 3)})
    with monkeypatch.context() as patch:
        patch.setattr(os, "link", refuse)
        with pytest.raises(ArchiveError, match=words) as caught:
            archive.commit("mbo", MONDAY, {"b": rows("mbo", 4, 3)})
    assert pickle.loads(pickle.dumps(caught.value)).args == caught.value.args
    assert seqs(archive) == [1, 2, 3]
    assert archive.verify() == []


def test_a_file_in_the_archives_place_is_told(tmp_path: Path):
    (tmp_path / "archive").write_text("not a folder")
    with pytest.raises(ArchiveError, match="a file stands where a folder is needed"):
        open_archive(str(tmp_path / "archive")).tables()


# Writers side by side


def test_writers_side_by_side_lose_nothing_and_repeat_nothing(tmp_path: Path):
    def write(worker: int) -> None:
        archive = open_archive(str(tmp_path))
        for i in range(5):
            own, shared = worker * 5 + i, 100 + i
            archive.commit(
                "mbo", MONDAY, {f"own-{own}": rows("mbo", own, 1), f"shared-{i}": rows("mbo", shared, 1)}
            )

    threads = [threading.Thread(target=write, args=(worker,)) for worker in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    archive = open_archive(str(tmp_path))
    assert sorted(seqs(archive)) == [*range(20), *range(100, 105)]
    assert [commit.n for commit in archive.log("mbo", MONDAY)] == list(range(1, 21))
    assert archive.verify() == []


def test_the_code_version_names_the_source_that_runs():
    """Counted again by hand, so that changed code never passes for the code that it was."""
    root = Path(workloads.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py"), key=lambda path: path.relative_to(root).parts):
        digest.update(f"{path.relative_to(root).as_posix()}\0".encode() + path.read_bytes() + b"\0")
    assert code_version() == f"{metadata.version('tickworks')}+{digest.hexdigest()[:8]}"

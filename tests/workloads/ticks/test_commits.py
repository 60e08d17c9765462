import shutil
from datetime import UTC, date, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import hypothesis.strategies as st
import pyarrow as pa
import pytest
from hypothesis import given, settings

from workloads.ticks.archive import Archive, ArchiveError, DataCommit, Partition, open_archive
from workloads.ticks.commits import Commit, FileEntry, live
from workloads.ticks.schema import TABLES
from workloads.ticks.stores import FolderStore

MONDAY = Partition("XCME", date(2026, 1, 5), 310)
NOON = datetime(2026, 1, 5, 12, tzinfo=UTC)


def gaps(*seqs: int) -> pa.Table:
    """One row of `gaps` for each number."""
    rows = [{"venue": "XCME", "channel": 310, "epoch": 1, "first_seq": s, "last_seq": s} for s in seqs]
    return pa.Table.from_pylist(rows, schema=TABLES["gaps"].arrow)


def seen(archive: Archive, at: DataCommit | None = None) -> list[int]:
    return archive.read("gaps", at=at)["first_seq"].to_pylist()


def entry(stem: str) -> FileEntry:
    return FileEntry(stem, f"t/{stem}.parquet", 1, 10, "00")


def test_an_entry_survives_its_json():
    commit = Commit(3, NOON, (entry("a"),), ("t/b.parquet",), {"kind": "live"})
    assert Commit.from_json(commit.to_json(), "here") == commit


def test_a_data_commit_survives_its_json():
    commit = DataCommit("abc", {"gaps/venue=XCME/date=2026-01-05/channel=310": 2})
    assert DataCommit.from_json(commit.to_json()) == commit


@pytest.mark.parametrize("text", [b"", b"{}", b"[]", b"null", b'{"format": 1, "n": 1}', b"\xff\xfe"])
def test_a_torn_entry_is_named(text: bytes):
    with pytest.raises(ArchiveError, match=r"gaps/_commits/1.json"):
        Commit.from_json(text, "gaps/_commits/1.json")


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"id": "a", "entries": 3}'])
def test_what_is_no_data_commit_is_refused(text: str):
    with pytest.raises(ArchiveError, match="not a data commit"):
        DataCommit.from_json(text)


def test_a_newer_log_format_asks_for_an_update():
    text = Commit(1, NOON, ()).to_json().replace(b'"format": 1', b'"format": 2')
    with pytest.raises(ArchiveError, match="log format 2, this code reads 1; update"):
        Commit.from_json(text, "here")


def test_the_files_seen_are_those_added_and_not_removed():
    log = [
        Commit(1, NOON, (entry("a"), entry("b"))),
        Commit(2, NOON, (entry("c"),), (entry("a").key,)),
    ]
    assert [file.stem for file in live(log[:1]).values()] == ["a", "b"]
    assert [file.stem for file in live(log).values()] == ["b", "c"]


def test_partitions_sort_and_survive_their_path():
    parts = [Partition("XCME", date(2026, 1, 5), 9), Partition("XCME", date(2026, 1, 5), 310)]
    assert [Partition.parse(part.path) for part in parts] == sorted(parts)
    with pytest.raises(ValueError, match="expected venue=XCME/date=2026-01-05/channel=310"):
        Partition.parse("venue=XCME/date=2026-01-05")


def test_a_log_with_a_hole_is_refused(tmp_path: Path):
    archive = open_archive(str(tmp_path))
    for i in (1, 2, 3):
        archive.commit("gaps", MONDAY, {f"s{i}": gaps(i)})
    (tmp_path / "gaps" / MONDAY.path / "_commits" / "00000002.json").unlink()
    with pytest.raises(ArchiveError, match="log entry 2 is missing but 3 is there"):
        open_archive(str(tmp_path)).read("gaps")


def test_an_entry_under_another_number_is_refused(tmp_path: Path):
    archive = open_archive(str(tmp_path))
    archive.commit("gaps", MONDAY, {"a": gaps(1)})
    folder = tmp_path / "gaps" / MONDAY.path / "_commits"
    shutil.copy(folder / "00000001.json", folder / "00000002.json")
    with pytest.raises(ArchiveError, match=r"00000002.json says it is entry 1"):
        archive.read("gaps")


def test_a_replica_shows_an_entry_only_with_all_its_files_and_all_entries_before(tmp_path: Path):
    home = open_archive(str(tmp_path / "home"))
    home.commit("gaps", MONDAY, {"a": gaps(1), "b": gaps(2)})
    home.commit("gaps", MONDAY, {"c": gaps(3)})
    home.replace("gaps", MONDAY, {"abc": gaps(1, 2, 3)}, ["a", "b", "c"])

    def arrive(*names: str) -> list[int]:
        for name in names:
            source = tmp_path / "home" / "gaps" / MONDAY.path / name
            target = tmp_path / "replica" / "gaps" / MONDAY.path / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)
        replica = open_archive(str(tmp_path / "replica"), complete_only=True)
        assert known.partitions("gaps") == replica.partitions("gaps")
        return seen(replica) if replica.partitions("gaps") else []

    known = open_archive(str(tmp_path / "replica"), complete_only=True)  # as one that has been open all along
    assert arrive("_commits/00000002.json", "c.parquet") == []
    assert arrive("_commits/00000001.json", "a.parquet") == []
    assert arrive("b.parquet") == [1, 2, 3]
    assert arrive("_commits/00000003.json") == [1, 2, 3]
    assert known.data_commit().entries == {f"gaps/{MONDAY.path}": 2}
    assert arrive("abc.parquet") == [1, 2, 3]
    assert known.data_commit() == home.data_commit()


def test_a_replica_cannot_be_written(tmp_path: Path):
    with pytest.raises(ArchiveError, match="read-only; write to the home region"):
        open_archive(str(tmp_path), complete_only=True).commit("gaps", MONDAY, {"a": gaps(1)})


class RacedStore(FolderStore):
    """Lets another writer in just before this one creates its first log entry."""

    def __init__(self, root: Path, rival: Archive, files: dict[str, pa.Table]):
        super().__init__(root)
        self.rival, self.files = rival, files

    def create(self, key: str, staged: Path, sha256: str) -> bool:
        if "_commits" in key and (files := self.files):
            self.files = {}
            self.rival.commit("gaps", MONDAY, files)
        return super().create(key, staged, sha256)


def test_the_loser_of_a_race_takes_the_next_number(tmp_path: Path):
    rival = open_archive(str(tmp_path))
    loser = Archive(RacedStore(tmp_path, rival, {"b": gaps(2)}))
    assert loser.commit("gaps", MONDAY, {"a": gaps(1)}).n == 2
    assert seen(rival) == [2, 1]


def test_the_loser_of_a_race_leaves_out_what_the_winner_added(tmp_path: Path):
    rival = open_archive(str(tmp_path))
    loser = Archive(RacedStore(tmp_path, rival, {"a": gaps(1)}))
    assert [file.stem for file in loser.commit("gaps", MONDAY, {"a": gaps(1), "b": gaps(2)}).added] == ["b"]
    assert seen(rival) == [1, 2]
    assert loser.commit("gaps", MONDAY, {"a": gaps(1), "b": gaps(2)}).n == 2
    assert rival.verify() == []


STEPS = st.lists(
    st.tuples(st.sampled_from(["commit", "commit again", "replace"]), st.integers(0, 2), st.integers(1, 3)),
    min_size=1,
    max_size=8,
)


@settings(max_examples=25, deadline=None)
@given(steps=STEPS)
def test_whatever_is_written_an_older_state_shows_the_same_rows_for_ever(steps):
    """Three writers with caches of their own; the model is a list of rows by stem."""
    with TemporaryDirectory() as folder:
        writers = [open_archive(folder) for _ in range(3)]
        rows: dict[str, list[int]] = {}
        done: list[dict[str, pa.Table]] = []
        history: list[tuple[DataCommit, list[int]]] = []
        for number, (kind, writer, width) in enumerate(steps):
            values = list(range(number * 10, number * 10 + width))
            if kind == "replace" and rows:
                removed = list(rows)[:width]
                writers[writer].replace("gaps", MONDAY, {f"s{number}": gaps(*values)}, removed)
                for stem in removed:
                    del rows[stem]
                rows[f"s{number}"] = values
            elif kind == "commit again" and done:
                writers[writer].commit("gaps", MONDAY, done[width % len(done)])
            else:
                files = {f"s{number}-{value}": gaps(value) for value in values}
                writers[writer].commit("gaps", MONDAY, files)
                done.append(files)
                rows.update({f"s{number}-{value}": [value] for value in values})
            history.append((writers[writer].data_commit(), [v for stem in rows.values() for v in stem]))
            for reader in (writers[(writer + 1) % 3], open_archive(folder)):
                assert seen(reader) == history[-1][1]
                for state, expected in history:
                    assert seen(reader, at=state) == expected
        assert len({state.id for state, _ in history}) == len(
            {tuple(state.entries.values()) for state, _ in history}
        )
        assert writers[0].verify() == []

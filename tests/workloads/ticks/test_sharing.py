"""An archive that shares the files of another as of a data commit."""

from pathlib import Path

import pytest

from tests.workloads.backtest import market
from workloads.ticks.archive import MissingDataError, open_archive
from workloads.ticks.commits import DataCommit
from workloads.ticks.sharing import share
from workloads.ticks.stores import ArchiveError


def test_a_shared_archive_reads_the_same_and_takes_no_room(tmp_path: Path):
    first = market.write(str(tmp_path / "first"), [market.path(seconds=20)])
    at = first.data_commit()
    first.commit("mbo", market.PARTITION, {"later": first.read("mbo").slice(0, 3)})
    assert share(first.uri, at, tmp_path / "second") == 2
    second = open_archive(str(tmp_path / "second"))
    assert second.data_commit() == at
    assert second.read("mbo").equals(first.read("mbo", at=at))
    key = first.files("mbo", market.PARTITION)[0].key
    assert (tmp_path / "first" / key).samefile(tmp_path / "second" / key)
    assert share(first.uri, at, tmp_path / "second") == 2  # again


def test_a_shared_file_that_was_changed_is_refused(tmp_path: Path):
    first = market.write(str(tmp_path / "first"), [market.path(seconds=20)])
    key = tmp_path / "first" / first.files("mbo", market.PARTITION)[0].key
    key.write_bytes(key.read_bytes()[:-1] + b"?")
    with pytest.raises(ArchiveError, match="another checksum"):
        share(first.uri, first.data_commit(), tmp_path / "second")


def test_an_archive_that_lacks_entries_is_refused(tmp_path: Path):
    first = market.write(str(tmp_path / "first"), [market.path(seconds=20)])
    at = first.data_commit()
    beyond = DataCommit("x", {path: n + 1 for path, n in at.entries.items()})
    with pytest.raises(MissingDataError, match="name the archive that it was made from"):
        share(first.uri, beyond, tmp_path / "second")


def test_what_is_written_to_the_second_is_not_seen_in_the_first(tmp_path: Path):
    first = market.write(str(tmp_path / "first"), [market.path(seconds=20)])
    at = first.data_commit()
    share(first.uri, at, tmp_path / "second")
    second = open_archive(str(tmp_path / "second"))
    second.commit("mbo", market.PARTITION, {"mine": second.read("mbo").slice(0, 3)})
    assert first.data_commit() == at
    assert len(second.log("mbo", market.PARTITION)) == 2


def test_a_target_with_other_logs_is_refused(tmp_path: Path):
    first = market.write(str(tmp_path / "first"), [market.path(seconds=20)])
    market.write(str(tmp_path / "second"), [market.path(seconds=30)])
    with pytest.raises(ArchiveError, match="is another entry already"):
        share(first.uri, first.data_commit(), tmp_path / "second")

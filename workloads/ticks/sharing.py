"""Another archive that holds the logs of a first one as of a data commit, by links where links are possible.

Whatever is written there stays there: log entries and files are created, never changed, so that a linked
file is safe in both.
"""

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

from workloads.ticks.archive import MissingDataError
from workloads.ticks.commits import FOLDER, Commit, DataCommit
from workloads.ticks.stores import ArchiveError, FolderStore, Store, explain, open_store


def share(source: str, at: DataCommit, target: Path, seen: Callable[[str], None] = lambda path: None) -> int:
    """Put every file that the logs name up to ``at`` into ``target``, and the log entries behind them.

    Each file's checksum is compared with its entry's first. Returns the number of files.

    Parameters
    ----------
    source : str
        URI of the first archive: a folder or a bucket.
    target : Path
        Folder of the second; its logs of these tables must be empty, or be these.
    seen : callable
        Told of each ``<table>/<partition>`` before its files are read.

    Raises
    ------
    MissingDataError
        If the source has fewer entries than ``at`` needs.
    ArchiveError
        If a file is missing or differs from its entry, or the target cannot be written.
    """
    store, to = open_store(source), FolderStore(target)
    files = 0
    for path, n in at.entries.items():
        seen(path)
        for number in range(1, n + 1):
            key = f"{path}/{FOLDER}/{number:08d}.json"
            text = store.read(key)
            if text is None:
                raise MissingDataError(
                    f"{source}/{path} has {number - 1} log entries, data commit {at.id} needs {n}; name the "
                    "archive that it was made from"
                )
            for file in Commit.from_json(text, f"{source}/{key}").added:
                _share_file(store, to, file.key, file.sha256)
                files += 1
            _create(to, key, text)
    return files


def _share_file(store: Store, to: FolderStore, key: str, sha256: str) -> None:
    if store.size(key) is None:
        raise ArchiveError(f"{store.uri}/{key} is missing; restore it, or see `tickworks ticks verify`")
    if store.sha256(key) != sha256:
        raise ArchiveError(
            f"{store.uri}/{key} has another checksum than its entry says; restore it from a copy"
        )
    there = to.root / key
    if there.exists():
        return
    try:
        there.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(store, FolderStore):
            try:
                there.hardlink_to(store.root / key)
            except OSError:  # another disk, or a file system without hard links
                shutil.copyfile(store.root / key, there)
        else:
            filesystem, prefix = store.filesystem()
            with filesystem.open_input_stream(prefix + key) as stream, there.open("wb") as out:
                shutil.copyfileobj(stream, out)
    except OSError as error:
        raise explain(error, there) from error


def _create(to: FolderStore, key: str, text: bytes) -> None:
    """Create a log entry; one that is there must be the same."""
    with to.stage() as staged:
        staged.write_bytes(text)
        if not to.create(key, staged, hashlib.sha256(text).hexdigest()) and to.read(key) != text:
            raise ArchiveError(f"{to.root}/{key} is another entry already; choose an empty folder")

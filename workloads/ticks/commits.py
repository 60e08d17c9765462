"""One commit log per table and partition: what a reader sees, and how a writer adds to it.

``<partition>/_commits/<n>.json``, n consecutive from 1, each created exclusively and never changed. An
entry lists the files that it adds and removes; the files that a reader sees at n are the fold of the
entries 1..n. Why a log of our own: ``docs/decisions/0002-commit-log.md``.
"""

import hashlib
import json
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from workloads.ticks.stores import ArchiveError, Store

FORMAT = 1
FOLDER = "_commits"


@dataclass(frozen=True)
class FileEntry:
    """One Parquet file, as the log lists it."""

    stem: str
    """Identity of its rows: ``<channel>-<epoch>-<first seq>-<last seq>``; listed at most once as new."""
    key: str
    """Where it lies, relative to the archive."""
    rows: int
    bytes: int
    sha256: str
    schema: int = 1
    """Version of the table's schema."""


@dataclass(frozen=True)
class Commit:
    """One entry of a log."""

    n: int
    time: datetime
    """When its writer made it, UTC; the writer's clock, for people only."""
    added: tuple[FileEntry, ...]
    removed: tuple[str, ...] = ()
    """Keys of files that are no longer seen from this entry on. They stay: an older n shows them."""
    source: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> bytes:
        body = {
            "format": FORMAT,
            "n": self.n,
            "time": self.time.isoformat(),
            "added": [vars(entry) for entry in self.added],
            "removed": list(self.removed),
            "source": dict(self.source),
        }
        return json.dumps(body, indent=1, sort_keys=True).encode() + b"\n"

    @classmethod
    def from_json(cls, text: bytes, where: str) -> "Commit":
        """Read one entry; ``where`` is named when it is no entry that we can read."""
        try:
            body: dict[str, Any] = json.loads(text)
            if body["format"] != FORMAT:
                raise ArchiveError(
                    f"{where}: log format {body['format']}, this code reads {FORMAT}; update it"
                )
            return cls(
                n=body["n"],
                time=datetime.fromisoformat(body["time"]),
                added=tuple(FileEntry(**entry) for entry in body["added"]),
                removed=tuple(body["removed"]),
                source=body["source"],
            )
        except (ValueError, KeyError, TypeError) as error:
            raise ArchiveError(
                f"{where}: not a commit log entry ({error}); restore it from the bucket's older version or a "
                "replica"
            ) from error


@dataclass(frozen=True)
class DataCommit:
    """The state of a set of tables, by which a training run or a backtest is repeated."""

    id: str
    """Prefix of a SHA-256 over ``entries`` and the content of the logs up to them: the same rows committed
    in the same steps have the same id, other rows never have."""
    entries: Mapping[str, int]
    """``<table>/<partition>`` to n."""

    def to_json(self) -> str:
        return json.dumps({"id": self.id, "entries": dict(self.entries)}, indent=1, sort_keys=True)

    @classmethod
    def from_json(cls, text: str | bytes) -> "DataCommit":
        try:
            body = json.loads(text)
            return cls(id=str(body["id"]), entries={str(k): int(n) for k, n in body["entries"].items()})
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ArchiveError(
                f"not a data commit ({error}); expected the JSON of DataCommit.to_json"
            ) from error

    @classmethod
    def of(cls, logs: Mapping[str, list[Commit]]) -> "DataCommit":
        """The data commit of whole logs, by ``<table>/<partition>``."""
        digest = hashlib.sha256()
        for path in sorted(logs):
            digest.update(json.dumps([path, len(logs[path])]).encode())
            for commit in logs[path]:
                added = [[entry.stem, entry.sha256] for entry in commit.added]
                digest.update(json.dumps([added, commit.removed]).encode())
        return cls(digest.hexdigest()[:20], {path: len(logs[path]) for path in sorted(logs)})


def live(commits: Iterable[Commit]) -> dict[str, FileEntry]:
    """The files that a reader sees after these entries, by key, oldest first."""
    files: dict[str, FileEntry] = {}
    for commit in commits:
        for key in commit.removed:
            files.pop(key, None)
        files.update((entry.key, entry) for entry in commit.added)
    return files


class CommitLog:
    """The entries of one table and partition, read once and then extended: entries never change.

    Parameters
    ----------
    prefix : str
        ``<table>/<partition>``, the folder that holds ``_commits``.
    complete_only : bool
        For a replica, whose objects arrive in any order: an entry counts only when it and every entry
        before it is there with all the files that it adds.
    """

    def __init__(self, store: Store, prefix: str, complete_only: bool = False):
        self._store = store
        self._prefix = prefix
        self._complete_only = complete_only
        self._commits: list[Commit] = []
        self._loaded = False
        self._guard = threading.Lock()

    def key(self, n: int) -> str:
        return f"{self._prefix}/{FOLDER}/{n:08d}.json"

    def entries(self) -> list[Commit]:
        """Every entry that counts now, from 1."""
        with self._guard:
            if not self._loaded:
                self._loaded = self._load()
            while (text := self._store.read(self.key(len(self._commits) + 1))) is not None:
                if not self._accept(text):
                    break
            return list(self._commits)

    def append(self, commit: Commit) -> bool:
        """Create entry ``commit.n``; False where another writer was first."""
        text = commit.to_json()
        with self._store.stage() as staged:
            staged.write_bytes(text)
            return self._store.create(self.key(commit.n), staged, hashlib.sha256(text).hexdigest())

    def _load(self) -> bool:
        """Read all entries at once; refuse a log with a hole, which would hide what follows it."""
        found = sorted(
            int(name[:-5])
            for key in self._store.keys(f"{self._prefix}/{FOLDER}")
            if (name := key.rsplit("/", 1)[1]).endswith(".json") and name[:-5].isdecimal()
        )
        whole = [n for i, n in enumerate(found, 1) if n == i]
        if len(whole) < len(found) and not self._complete_only:
            raise ArchiveError(
                f"{self._store.uri}/{self._prefix}: log entry {len(whole) + 1} is missing but "
                f"{found[-1]} is there; restore it from the bucket's older version or a replica"
            )
        for text in self._store.read_many([self.key(n) for n in whole]):
            if text is None or not self._accept(text):
                break
        return True

    def _accept(self, text: bytes) -> bool:
        n = len(self._commits) + 1
        commit = Commit.from_json(text, f"{self._store.uri}/{self.key(n)}")
        if commit.n != n:
            raise ArchiveError(f"{self._store.uri}/{self.key(n)} says it is entry {commit.n}; restore it")
        if self._complete_only and any(self._store.size(f.key) != f.bytes for f in commit.added):
            return False
        self._commits.append(commit)
        return True


def now() -> datetime:
    return datetime.now(UTC)

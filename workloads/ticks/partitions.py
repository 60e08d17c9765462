"""What one commit log and one folder hold, for each of the three layouts of tables.

Market tables: ``venue=XCME/date=2026-01-05/channel=310``; derived tables: ``dataset=book-1f3a9c04/
date=2026-01-05``; results: ``run=vit-7d20b1e5``. Never a folder per instrument.
"""

import datetime
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from workloads.ticks.schema import TABLES, Layout

NAME_RULE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
"""Names of datasets and runs: what every file system and URL takes as it is."""


@dataclass(frozen=True, order=True)
class Partition:
    """A venue (MIC), the venue's trading date, a channel."""

    venue: str
    date: datetime.date
    channel: int

    @property
    def path(self) -> str:
        """``venue=XCME/date=2026-01-05/channel=310``."""
        return f"venue={self.venue}/date={self.date.isoformat()}/channel={self.channel}"

    @classmethod
    def parse(cls, path: str) -> "Partition":
        """The inverse of ``path``."""
        if not (match := _MARKET.fullmatch(path)):
            raise ValueError(f"{path!r} is no partition; expected venue=XCME/date=2026-01-05/channel=310")
        return cls(match[1], datetime.date.fromisoformat(match[2]), int(match[3]))


@dataclass(frozen=True, order=True)
class DatasetPartition:
    """A dataset (what a features job made) and a trading date."""

    dataset: str
    date: datetime.date

    def __post_init__(self) -> None:
        _check_name("dataset", self.dataset)

    @property
    def path(self) -> str:
        """``dataset=book-1f3a9c04/date=2026-01-05``."""
        return f"dataset={self.dataset}/date={self.date.isoformat()}"

    @classmethod
    def parse(cls, path: str) -> "DatasetPartition":
        """The inverse of ``path``."""
        if not (match := _DATASET.fullmatch(path)):
            raise ValueError(f"{path!r} is no partition; expected dataset=book-1f3a9c04/date=2026-01-05")
        return cls(match[1], datetime.date.fromisoformat(match[2]))


@dataclass(frozen=True, order=True)
class RunPartition:
    """A run of training or of a backtest."""

    run: str

    def __post_init__(self) -> None:
        _check_name("run", self.run)

    @property
    def path(self) -> str:
        """``run=vit-7d20b1e5``."""
        return f"run={self.run}"

    @classmethod
    def parse(cls, path: str) -> "RunPartition":
        """The inverse of ``path``."""
        if not (match := _RUN.fullmatch(path)):
            raise ValueError(f"{path!r} is no partition; expected run=vit-7d20b1e5")
        return cls(match[1])


AnyPartition: TypeAlias = Partition | DatasetPartition | RunPartition

_PARSE: dict[Layout, Callable[[str], AnyPartition]] = {
    Layout.MARKET: Partition.parse,
    Layout.DATASET: DatasetPartition.parse,
    Layout.RUN: RunPartition.parse,
}
DEPTH = {Layout.MARKET: 3, Layout.DATASET: 2, Layout.RUN: 1}
"""Folders between a table's own folder and its files."""

_MARKET = re.compile(r"venue=([A-Za-z0-9]+)/date=(\d{4}-\d\d-\d\d)/channel=(\d+)")
_DATASET = re.compile(rf"dataset=({NAME_RULE.pattern})/date=(\d{{4}}-\d\d-\d\d)")
_RUN = re.compile(rf"run=({NAME_RULE.pattern})")


def parse_partition(table: str, path: str) -> AnyPartition:
    """The partition of ``table`` at ``path``; ValueError where the table is not laid out like that."""
    return _PARSE[TABLES[table].layout](path)


def _check_name(kind: str, name: str) -> None:
    if not NAME_RULE.fullmatch(name):
        raise ValueError(f"{name!r} is no name of a {kind}; use letters, digits, '.', '_' and '-'")

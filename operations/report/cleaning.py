"""Data quality: what the cleaning rules touched, and which grid times of each instrument are usable.

Read from the dataset's tables `cleaning` and `book_tensors`; of the latter never the frames. Times are
int64 ns since the UNIX epoch.
"""

from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from operations.report.arrival import integers
from workloads.ticks.archive import Archive, DatasetPartition
from workloads.ticks.codes import CleaningRule

READ = "rows"
"""The rule under which `cleaning` counts all rows that were read."""
MOST_RUNS = 600
"""Runs of an instrument that are kept as they are; more of them are drawn on this many equal bins."""

USABLE, OTHER, BOOK, CLOSED, LOST = range(5)
"""Why grid times are not usable, in rising order of what a bin shows that holds several."""
REASONS = ("usable", "other rule", "book empty, locked or crossed", "not in trading", "packets lost")
_BITS = (
    (BOOK, CleaningRule.EMPTY | CleaningRule.LOCKED | CleaningRule.CROSSED),
    (CLOSED, CleaningRule.CLOSED),
    (LOST, CleaningRule.GAP | CleaningRule.STALE),
)


@dataclass(frozen=True)
class Rule:
    """What one rule did to the rows of one table."""

    source: str
    name: str
    rows: int
    """Rows that it touched; of the rule `READ`: all that were read."""
    excluded: int
    """Of these, left out of what follows."""


@dataclass(frozen=True)
class Runs:
    """n stretches of time in one state each, ascending."""

    start: NDArray[np.int64]
    end: NDArray[np.int64]
    """Exclusive."""
    state: NDArray[np.int64]
    """Position in `REASONS`."""
    exact: bool = True
    """False: on bins, each shown in the gravest state that it holds."""


@dataclass(frozen=True)
class Grid:
    """The grid times of one instrument."""

    instrument_id: int
    rows: int
    usable: int
    segments: int
    by_rule: dict[str, int]
    """Rows that each rule touched, the most frequent first; a row may be touched by several."""
    runs: Runs


@dataclass(frozen=True)
class Quality:
    """Everything that the report says about cleaning."""

    rules: list[Rule] = field(default_factory=list)
    grids: list[Grid] = field(default_factory=list)


def quality(archive: Archive, dataset: str) -> Quality:
    """Read the tables of one dataset; what is not there is empty."""
    return Quality(_rules(archive, dataset), _grids(archive, dataset))


def partitions_of(archive: Archive, table: str, dataset: str) -> list[DatasetPartition]:
    """The dates of a dataset in one table."""
    return [p for p in archive.partitions(table, DatasetPartition) if p.dataset == dataset]


def _rules(archive: Archive, dataset: str) -> list[Rule]:
    totals: dict[tuple[str, str], list[int]] = {}
    for partition in partitions_of(archive, "cleaning", dataset):
        rows = archive.read("cleaning", partition, columns=["source", "rule", "rows", "excluded"])
        for source, rule, n, excluded in zip(*(column.to_pylist() for column in rows.columns), strict=True):
            total = totals.setdefault((source, rule), [0, 0])
            total[0] += n
            total[1] += excluded
    return [Rule(source, rule, *total) for (source, rule), total in totals.items()]


def _grids(archive: Archive, dataset: str) -> list[Grid]:
    columns = ["instrument_id", "ts", "segment", "rules"]
    days = partitions_of(archive, "book_tensors", dataset)
    if not days:
        return []
    rows = pa.concat_tables([archive.read("book_tensors", day, columns=columns) for day in days])
    dates = np.repeat(
        np.arange(len(days)), [sum(f.rows for f in archive.files("book_tensors", day)) for day in days]
    )
    instrument, ts, segment, rules = (integers(rows, name) for name in columns)
    grids = []
    for one in np.unique(instrument).tolist():
        mine = np.flatnonzero(instrument == one)
        mine = mine[np.argsort(ts[mine], kind="stable")]
        usable = segment[mine] >= 0
        counts = {str(rule.name).lower(): int(np.count_nonzero(rules[mine] & rule)) for rule in CleaningRule}
        # A segment's number is unique within a date only.
        pieces = {*zip(dates[mine][usable].tolist(), segment[mine][usable].tolist(), strict=True)}
        grids.append(
            Grid(
                one,
                len(mine),
                int(usable.sum()),
                len(pieces),
                {name: n for name, n in sorted(counts.items(), key=lambda item: -item[1]) if n},
                runs(ts[mine], states(usable, rules[mine])),
            )
        )
    return grids


def states(usable: NDArray[np.bool_], rules: NDArray[np.int64]) -> NDArray[np.int64]:
    """The position in `REASONS` of each grid time."""
    state = np.where(usable, USABLE, OTHER)
    for code, bits in _BITS:
        state[~usable & ((rules & int(bits)) != 0)] = code
    return state


def runs(ts: NDArray[np.int64], state: NDArray[np.int64]) -> Runs:
    """Equal neighbours joined; where grid times are missing, nothing is drawn.

    A grid time stands for the step that ends there: the row tells what was known then.
    """
    if not len(ts):
        return Runs(ts, ts, state)
    step = int(np.diff(ts).min()) if len(ts) > 1 else 0
    breaks = np.flatnonzero((np.diff(state) != 0) | (np.diff(ts) > step)) + 1
    first, last = np.append(0, breaks), np.append(breaks, len(ts)) - 1
    if len(first) <= MOST_RUNS:
        return Runs(ts[first] - step, ts[last], state[first])
    width = (int(ts[-1] - ts[0]) + step) // MOST_RUNS + 1
    gravest = np.full(MOST_RUNS, -1)
    np.maximum.at(gravest, (ts - ts[0]) // width, state)
    edges = ts[0] - step + width * np.arange(MOST_RUNS + 1)
    starts = np.append(0, np.flatnonzero(np.diff(gravest)) + 1)
    ends = np.append(starts[1:], MOST_RUNS)
    there = gravest[starts] >= 0
    return Runs(edges[starts][there], edges[ends][there], gravest[starts][there], exact=False)

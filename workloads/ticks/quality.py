"""How good what was received is, told by the stored tables alone."""

import contextlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import duckdb
import numpy as np
from numpy.typing import NDArray

from workloads.ticks.archive import Archive, Partition
from workloads.ticks.codes import RowFlag
from workloads.ticks.schema import MARKET_TABLES
from workloads.ticks.sessions import MissingSessionError, session, sessions_between

FLAGGED = ("mbo", "mbp", "trades")
"""Tables whose row flags are counted."""

_MINUTE = 60_000_000_000

Rows = Callable[[str], list[dict[str, Any]]]

Intervals = list[tuple[int, int]]
"""First and last number, both inclusive; ascending, and none touches the next."""


def partition_quality(archive: Archive, partition: Partition) -> dict[str, Any]:
    """What the tables say about one venue, trading date and channel.

    Returns
    -------
    dict of plain values, ready for JSON
        ``packets``: counts, who brought them first or alone, skew of B against A in ns (quantiles are
        approximate, the maximum is exact). ``feeds``: one dict of counters for each. ``gaps``: one for each
        range of sequence numbers. ``rows``: by table, how many carry each row flag. ``session``: minutes of
        the exchange's session, and those that brought a packet (None: no packets are stored).
        ``lost_packets``: what never came, late packets not counted. ``lost_something``: packets are still
        missing, or were malformed. What our kernel dropped on one feed and the other brought is no loss.
        None or empty where the table is missing.
    """
    tables = [table for table in MARKET_TABLES if archive.log(table, partition)]
    with duckdb.connect() as connection:
        for table in tables:
            connection.register(table, archive.dataset(table, partition))

        def rows(statement: str) -> list[dict[str, Any]]:
            found = connection.execute(statement)
            names = [column[0] for column in found.description or ()]
            return [dict(zip(names, row, strict=True)) for row in found.fetchall()]

        feeds = rows(_FEEDS) if "feeds" in tables else []
        gaps = rows(_GAPS) if "gaps" in tables else []
        missing = lost_intervals(
            (gap["epoch"], gap["first_seq"], gap["last_seq"], gap["outcome"]) for gap in gaps
        )
        lost = sum(map(count, missing.values()))
        return {
            "venue": partition.venue,
            "date": partition.date.isoformat(),
            "channel": partition.channel,
            "packets": rows(_PACKETS)[0] if "packets" in tables else None,
            "session": _session(partition, rows if "packets" in tables else None),
            "feeds": feeds,
            "gaps": gaps,
            "rows": {table: rows(f"{_FLAGS} FROM {table}")[0] for table in FLAGGED if table in tables},
            "lost_packets": lost,
            "lost_something": bool(lost or any(f["malformed"] for f in feeds)),
        }


def lost_intervals(gaps: Iterable[tuple[int, int, int, str | None]]) -> dict[int, Intervals]:
    """What is still missing: the numbers called lost minus those that came late after all.

    Parameters
    ----------
    gaps : (epoch, first_seq, last_seq, outcome) of each row, both numbers inclusive
        In any order; ranges may overlap and may span all 2**32 numbers.

    Returns
    -------
    dict of Intervals
        By epoch, ascending; an epoch of which nothing is missing is left out.
    """
    ranges: dict[int, dict[str, Intervals]] = {}
    for epoch, first, last, outcome in gaps:
        if outcome in ("lost", "late"):
            ranges.setdefault(epoch, {"lost": [], "late": []})[outcome].append((first, last))
    found = {epoch: _without(merged(of["lost"]), merged(of["late"])) for epoch, of in sorted(ranges.items())}
    return {epoch: intervals for epoch, intervals in found.items() if intervals}


def merged(ranges: Iterable[tuple[int, int]]) -> Intervals:
    """The same numbers, each once."""
    out: Intervals = []
    for first, last in sorted(ranges):
        if out and first <= out[-1][1] + 1:
            out[-1] = (out[-1][0], max(last, out[-1][1]))
        else:
            out.append((first, last))
    return out


def count(intervals: Iterable[tuple[int, int]]) -> int:
    """How many numbers they hold."""
    return sum(last - first + 1 for first, last in intervals)


def inside(numbers: NDArray[Any], intervals: Intervals) -> NDArray[np.bool_]:
    """Which of the numbers the intervals hold."""
    if not intervals:
        return np.zeros(len(numbers), np.bool_)
    bounds = np.array(intervals, np.int64)
    place = np.searchsorted(bounds[:, 0], numbers.astype(np.int64), side="right") - 1
    return np.asarray((place >= 0) & (numbers <= bounds[place, 1]), np.bool_)


def rest(intervals: Intervals, numbers: NDArray[Any], most: int) -> tuple[list[int], int]:
    """The first ``most`` numbers of the intervals that are not among ``numbers`` (ascending, each once).

    Returns them and how many there are in all. Costs no more than ``numbers`` is long.
    """
    total = count(intervals) - int(inside(numbers, intervals).sum())
    found: list[int] = []
    for first, last in intervals:
        if len(found) >= most:
            break
        here = numbers[np.searchsorted(numbers, first) : np.searchsorted(numbers, last, side="right")]
        enough = min(last, first + most + len(here))
        found += np.setdiff1d(np.arange(first, enough + 1), here)[: most - len(found)].tolist()
    return found, total


def _without(intervals: Intervals, others: Sequence[tuple[int, int]]) -> Intervals:
    out: Intervals = []
    i = 0
    for start, last in intervals:
        first = start
        while i < len(others) and others[i][1] < first:
            i += 1
        j = i
        while j < len(others) and others[j][0] <= last:
            if first < others[j][0]:
                out.append((first, others[j][0] - 1))
            first = others[j][1] + 1
            j += 1
        if first <= last:
            out.append((first, last))
    return out


def missing_dates(archive: Archive) -> list[str]:
    """Trading dates between a channel's first and last of which nothing is stored, as text."""
    dates: dict[tuple[str, int], set[Any]] = {}
    for table in MARKET_TABLES:
        for partition in archive.partitions(table):
            dates.setdefault((partition.venue, partition.channel), set()).add(partition.date)
    out = []
    for (venue, channel), there in sorted(dates.items()):
        with contextlib.suppress(ValueError):  # a venue without a calendar
            out += [
                f"{venue} channel {channel}: nothing of trading date {day}"
                for day in sessions_between(venue, min(there), max(there))
                if day not in there
            ]
    return out


_PACKETS = """
    WITH arrivals AS (
        SELECT *, epoch_ns(ts_recv_b) - epoch_ns(ts_recv_a) AS skew FROM packets)
    SELECT count(*) AS packets,
        coalesce(sum(bytes), 0)::BIGINT AS bytes,
        coalesce(sum(messages), 0)::BIGINT AS messages,
        count(*) FILTER (ts_recv_b IS NULL) AS only_a,
        count(*) FILTER (ts_recv_a IS NULL) AS only_b,
        count(*) FILTER (skew >= 0) AS a_first,
        count(*) FILTER (skew < 0) AS b_first,
        approx_quantile(skew, 0.01) AS skew_p1,
        approx_quantile(skew, 0.5) AS skew_p50,
        approx_quantile(skew, 0.99) AS skew_p99,
        max(abs(skew)) AS skew_max
    FROM arrivals"""

_COUNTERS = (
    "packets",
    "bytes",
    "first",
    "duplicates",
    "late",
    "malformed",
    "unknown_messages",
    "kernel_drops",
)
_SUMS = ", ".join(f'coalesce(sum("{name}"), 0)::BIGINT AS "{name}"' for name in _COUNTERS)
_FEEDS = f"""
    SELECT feed, {_SUMS}, min(receive_buffer)::BIGINT AS receive_buffer
    FROM feeds GROUP BY feed ORDER BY feed"""  # noqa: S608 - all names are above

_GAPS = """
    SELECT epoch, first_seq, last_seq, last_seq::BIGINT - first_seq + 1 AS packets, outcome, reason,
        epoch_ns(ts_after) - epoch_ns(ts_before) AS silence_ns
    FROM gaps ORDER BY epoch, first_seq"""

_FLAGS = "SELECT count(*) AS rows, " + ", ".join(
    f"count(*) FILTER (row_flags & {flag.value} != 0) AS {str(flag.name).lower()}" for flag in RowFlag
)


def _session(partition: Partition, rows: Rows | None) -> dict[str, Any] | None:
    """Minutes of the session, and those with a packet, by ``ts_sent``; None where the calendar has none."""
    try:
        hours = session(partition.venue, partition.date)
    except (MissingSessionError, ValueError):
        return None
    breaks = "".join(f" AND NOT (ts >= {start} AND ts < {end})" for start, end in hours.breaks)
    statement = (
        f"SELECT count(DISTINCT ts // {_MINUTE}) AS minutes FROM "  # noqa: S608 - all numbers
        f"(SELECT epoch_ns(ts_sent) AS ts FROM packets) "
        f"WHERE ts >= {hours.open_ns} AND ts < {hours.close_ns}{breaks}"
    )
    return {
        "open_ns": hours.open_ns,
        "close_ns": hours.close_ns,
        "minutes": hours.trading_ns() // _MINUTE,
        "minutes_with_packets": rows(statement)[0]["minutes"] if rows else None,
    }

"""How good what was received is, told by the stored tables alone."""

import contextlib
from collections.abc import Callable
from typing import Any

import duckdb

from workloads.ticks.archive import Archive, Partition
from workloads.ticks.codes import RowFlag
from workloads.ticks.schema import TABLES
from workloads.ticks.sessions import MissingSessionError, session, sessions_between

FLAGGED = ("mbo", "mbp", "trades")
"""Tables whose row flags are counted."""

_MINUTE = 60_000_000_000

Rows = Callable[[str], list[dict[str, Any]]]


def partition_quality(archive: Archive, partition: Partition) -> dict[str, Any]:
    """What the tables say about one venue, trading date and channel.

    Returns
    -------
    dict of plain values, ready for JSON
        ``packets``: counts, who brought them first or alone, skew of B against A in ns (quantiles are
        approximate, the maximum is exact). ``feeds``: one dict of counters for each. ``gaps``: one for each
        range of sequence numbers. ``rows``: by table, how many carry each row flag. ``session``: minutes of
        the exchange's session, and those that brought a packet (None: no packets are stored).
        ``lost_packets``. ``lost_something``: packets lost, dropped by our kernel, or malformed. None or
        empty where the table is missing.
    """
    tables = [table for table in TABLES if archive.log(table, partition)]
    with duckdb.connect() as connection:
        for table in tables:
            connection.register(table, archive.dataset(table, partition))

        def rows(statement: str) -> list[dict[str, Any]]:
            found = connection.execute(statement)
            names = [column[0] for column in found.description or ()]
            return [dict(zip(names, row, strict=True)) for row in found.fetchall()]

        feeds = rows(_FEEDS) if "feeds" in tables else []
        gaps = rows(_GAPS) if "gaps" in tables else []
        lost = sum(gap["packets"] for gap in gaps if gap["outcome"] == "lost")
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
            "lost_something": bool(lost or any(f["kernel_drops"] or f["malformed"] for f in feeds)),
        }


def missing_dates(archive: Archive) -> list[str]:
    """Trading dates between a channel's first and last of which nothing is stored, as text."""
    dates: dict[tuple[str, int], set[Any]] = {}
    for table in archive.tables():
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

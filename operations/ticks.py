"""`tickworks ticks`: look at what is stored."""

from __future__ import annotations

import contextlib
import csv
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from workloads.ticks.archive import Archive, Partition
    from workloads.ticks.definitions import Definition
    from workloads.ticks.order_book import Depth
    from workloads.ticks.partitions import AnyPartition

LATEST = Path("var/runs/latest/archive")
"""Archive of the newest `tickworks run`."""

PRICES = (
    # of market tables
    "price",
    "high",
    "low",
    "max_variation",
    "tick",
    "tick_value",
    "display_factor",
    "multiplier",
    "lot_size",
    "high_limit",
    "low_limit",
    "reference_price",
    "strike",
    # of derived tables
    "open",
    "close",
    "vwap",
    "notional",
    "bid_price",
    "ask_price",
    # of results
    "decision_mid",
    "mid",
    "mark",
    "cash",
    "value",
    "impact",
    "commission",
    "spread_cost",
    "impact_cost",
)
"""Columns in units of 1e-9, shown as decimals."""

SPANS = {
    "gaps": ("ts_before", "ts_after"),
    "feeds": ("ts_first", "ts_last"),
    "bars": ("ts_start", "ts_end"),
    "book_tensors": ("ts",),
    "labels": ("ts", "ts_end"),
    "flagged": ("ts_event",),
    "models": ("as_of",),
    "scores": ("ts",),
    "orders": ("ts_decision", "ts_arrival"),
    "fills": ("ts_fill",),
    "ledger": ("ts",),
}
"""Columns that bound a table's time where it has no ``ts_sent``; some tables have no time at all."""

LOST = 3
"""Exit status: the command did its work and found something lost or damaged."""


@click.group(
    epilog="Exit status: 0 done, 1 the archive cannot be read, 2 wrong usage, "
    "3 something is lost or damaged (quality, verify)."
)
def ticks() -> None:
    """Look at what is stored.

    Without --archive the commands read the newest run (var/runs/latest/archive), and where there is none
    the archive of the environment `local`. They never change anything.

    \b
    Examples:
      tickworks ticks show
      tickworks ticks show --table trades --limit 5
      tickworks ticks quality
      tickworks ticks sql "SELECT symbol, tick FROM definitions"
    """


def _archive_option(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "--archive",
        "uri",
        metavar="URI",
        help="A path, file:///path or s3://bucket/prefix; default: the newest run, else the local archive.",
    )(command)


def _format_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for name, text in (("json", "One JSON object a line."), ("csv", "Comma-separated values with a header.")):
        command = click.option(f"--{name}", "format", flag_value=name, help=text)(command)
    return command


@ticks.command(epilog="Exit status: 0 shown, 1 the archive cannot be read or is empty, 2 wrong usage.")
@_archive_option
@click.option("--table", metavar="TABLE", help="Show this table's rows instead of the list of tables.")
@click.option("--limit", default=20, show_default=True, type=click.IntRange(0), help="Rows of TABLE; 0: all.")
@click.option("--columns", metavar="A,B,...", help="Columns of TABLE; default: all that have a value.")
@_format_options
def show(uri: str | None, table: str | None, limit: int, columns: str | None, format: str | None) -> None:
    """Show the tables, or the rows of one.

    The list has each table's partitions, files, rows, bytes and first and last time (sent by the venue; of
    our clock for gaps and feeds), and the data commit of the market tables: the id by which a backtest is
    repeated. A derived table has a line for each dataset, a result table one for each run. Rows come
    readable: codes by name, prices and money as exact decimals, times in UTC with nanoseconds; on a terminal
    a long list as its length. Bytes come as their number, or in hexadecimal digits in CSV and JSON.

    \b
    Examples:
      tickworks ticks show
      tickworks ticks show --table mbo --columns ts_sent,action,side,price,size --limit 10
      tickworks ticks show --table trades --limit 0 --csv > trades.csv
    """
    with _errors():
        archive = open_or_default(uri)
        if table is None:
            _show_tables(archive, format)
        else:
            names = columns.split(",") if columns else None
            _show_rows(archive, table, names, limit, format)


@ticks.command(
    epilog="Exit status: 0 nothing was lost, 1 the archive cannot be read, 2 wrong usage, 3 something was."
)
@_archive_option
@click.option("--gaps", default=10, show_default=True, type=click.IntRange(0), help="Gap ranges to print.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per partition, with all gap ranges.")
def quality(uri: str | None, gaps: int, as_json: bool) -> None:
    """Tell how good what was received is, by venue, trading date and channel.

    Packets and which feed brought them first; skew between the feeds (B minus A); gaps with their sequence
    ranges; what our own kernel dropped; malformed packets and unknown messages; rows that are stale,
    unscaled, late or orphaned; and how many minutes of the exchange's session brought a packet. Trading
    dates of which nothing is stored are listed. Status 3: packets are still missing or were malformed, or
    a trading date is missing. What came late, or on the other feed, is no loss.

    \b
    Examples:
      tickworks ticks quality
      tickworks ticks quality --json | jq .gaps
    """
    with _errors():
        from workloads.ticks.quality import missing_dates, partition_quality

        archive = open_or_default(uri)
        if not (partitions := _partitions(archive)):
            raise _nothing(archive)
        reports = [partition_quality(archive, partition) for partition in partitions]
        missing = missing_dates(archive)
    for report in reports:
        click.echo(json.dumps(report, default=str) if as_json else quality_text(report, gaps))
    for name in missing:
        click.echo(f"missing: {name}", err=as_json)
    sys.exit(LOST if missing or any(report["lost_something"] for report in reports) else 0)


@ticks.command(epilog="Exit status: 0 drawn, 1 no such symbol, time or archive, 2 wrong usage.")
@_archive_option
@click.option("--symbol", required=True, metavar="S", help="As the venue writes it, for example ESH6.")
@click.option(
    "--at", metavar="TIME", help="ISO 8601, UTC, up to nanoseconds; default: the last stored packet."
)
@click.option("--levels", default=10, show_default=True, type=click.IntRange(1, 1000), help="Of each side.")
def book(uri: str | None, symbol: str, at: str | None, levels: int) -> None:
    """Draw the order book of one instrument at a time of the venue's clock.

    Built from the stored orders of the trading week up to and including the packets sent at TIME: for each
    price the displayed lots and the number of orders.

    \b
    Examples:
      tickworks ticks book --symbol ESH6
      tickworks ticks book --symbol ESH6 --at 2026-01-05T14:30:00.000000001 --levels 5
    """
    moment = None if at is None else parse_time(at)
    with _errors():
        archive = open_or_default(uri)
        definition, when, depth, stale, notes = book_at(archive, symbol, moment, levels)
    for line in ladder(definition, when, depth, stale=stale):
        click.echo(line)
    for note in notes:
        click.echo(f"note: {note}", err=True)


@ticks.command(
    epilog="Exit status: 0 all files are whole, 1 the archive cannot be read, 3 a file is missing or damaged."
)
@_archive_option
def verify(uri: str | None) -> None:
    """Check that each file of the log is there, with its size and checksum.

    Every file that any entry lists is read, one finding a line. An orphan was left by a crash between file
    and entry: no reader sees it, it may be deleted, and it does not change the status.

    \b
    Example:
      tickworks ticks verify --archive s3://firm-ticks-prod
    """
    with _errors():
        archive = open_or_default(uri)
        findings = archive.verify()
    for finding in findings:
        click.echo(finding)
    bad = [finding for finding in findings if not finding.startswith("orphan")]
    click.echo(
        f"{archive.uri}: {len(bad)} files missing or damaged, {len(findings) - len(bad)} orphans", err=True
    )
    sys.exit(LOST if bad else 0)


@ticks.command(epilog="Exit status: 0 done, 1 the statement or the archive is wrong, 2 wrong usage.")
@_archive_option
@click.option(
    "--limit", default=100, show_default=True, type=click.IntRange(0), help="Rows to print; 0: all."
)
@click.argument("statement")
@_format_options
def sql(uri: str | None, limit: int, statement: str, format: str | None) -> None:
    """Run a DuckDB statement over the tables; each is a view of its own name.

    It reads the tables and nothing else: no statement can write or read a file or change the archive.
    Values come as stored: prices in 1e-9 of the currency, codes as numbers, times in UTC with nanoseconds,
    bytes in hexadecimal digits. Every view ends with its partition: `date`, the trading date, of a market
    table; `dataset` and `date` of a derived one; `run` of a result. --csv and --json print all rows,
    whatever --limit says.

    \b
    Examples:
      tickworks ticks sql "SELECT date, count(*), sum(size) FROM trades GROUP BY date"
      tickworks ticks sql "SELECT run, model, avg(p_up) FROM scores GROUP BY ALL"
      tickworks ticks sql --csv "SELECT seq, price / 1e9 AS price FROM trades" > trades.csv
    """
    with _errors():
        import duckdb
        import pyarrow as pa

        archive = open_or_default(uri)
        tables = archive.tables()
        with duckdb.connect() as connection:
            try:
                for table in tables:
                    connection.register(table, archive.dataset(table))
                connection.execute("SET enable_external_access = false")
                connection.execute("SET lock_configuration = true")
                found: Any = connection.sql(statement)
                if found is not None:  # None: a statement without a result
                    batches = found.to_arrow_reader(1000)
                    names = unique_names(batches.schema.names)
                    print_rows(names, _stored_rows(names, batches), format, limit)
            except (duckdb.Error, pa.ArrowException) as error:
                said = " ".join(str(error).split())
                if (
                    isinstance(error, duckdb.PermissionException)
                    or "the configuration has been locked" in said
                ):
                    raise click.ClickException(
                        f"this command only reads the tables, and `ticks sql --csv` writes to stdout: {said}"
                    ) from error
                raise click.ClickException(f"{said}; tables: {', '.join(tables) or 'none'}") from error


def _nothing(archive: Archive) -> click.ClickException:
    return click.ClickException(f"{archive.uri} holds nothing yet; fill one with `tickworks run`")


def open_or_default(uri: str | None) -> Archive:
    """The archive that was named, or the newest run's, or the one of the environment `local`."""
    from workloads.ticks.archive import open_archive

    if uri is None and not LATEST.is_dir():
        from environments.files import load

        uri = load("local").archive_uri
    return open_archive(uri or str(LATEST))


def summary(archive: Archive) -> list[dict[str, Any]]:
    """One row per market table, per derived table and dataset, per result table and run.

    ``of`` (``dataset=...``, ``run=...``; null for market tables), partitions, files, rows, bytes, first and
    last time (text, UTC; null where the table has none).
    """
    out = []
    for table in archive.tables():
        for owner, partitions in _by_owner(archive.committed(table)).items():
            files = [file for partition in partitions for file in archive.files(table, partition)]
            spans = [
                bounds
                for partition in partitions
                if (bounds := time_bounds(archive.dataset(table, partition), SPANS.get(table, ("ts_sent",))))
            ]
            out.append(
                {
                    "table": table,
                    "of": owner,
                    "partitions": len(partitions),
                    "files": len(files),
                    "rows": sum(file.rows for file in files),
                    "bytes": sum(file.bytes for file in files),
                    "first": time_text(min(first for first, _ in spans)) if spans else None,
                    "last": time_text(max(last for _, last in spans)) if spans else None,
                }
            )
    return out


def _by_owner(partitions: Iterable[AnyPartition]) -> dict[str | None, list[AnyPartition]]:
    """The partitions of each dataset or run; of market tables all under None."""
    from workloads.ticks.archive import Partition

    out: dict[str | None, list[AnyPartition]] = {}
    for partition in partitions:
        owner = None if isinstance(partition, Partition) else partition.path.partition("/")[0]
        out.setdefault(owner, []).append(partition)
    return out


def time_bounds(dataset: Any, columns: Sequence[str]) -> tuple[int, int] | None:
    """Least and greatest time (ns) of the columns by the files' own statistics, without reading rows."""
    bounds: list[int] = []
    for fragment in dataset.get_fragments():
        for i in range(fragment.metadata.num_row_groups):
            group = fragment.metadata.row_group(i)
            for j in range(group.num_columns):
                column = group.column(j)
                if column.path_in_schema in columns and column.statistics and column.statistics.has_min_max:
                    bounds += (column.statistics.min_raw, column.statistics.max_raw)
    return (min(bounds), max(bounds)) if bounds else None


def _show_tables(archive: Archive, format: str | None) -> None:
    rows = summary(archive)
    if not rows:
        raise _nothing(archive)
    data_commit = archive.data_commit()
    if format == "json":
        click.echo(json.dumps({"archive": archive.uri, "data_commit": data_commit.id, "tables": rows}))
        return
    names = [name for name in rows[0] if name != "of" or format or any(row["of"] for row in rows)]
    print_rows(names, rows, format, 0)
    click.echo(f"archive {archive.uri}, data commit {data_commit.id}", err=format is not None)


def _show_rows(
    archive: Archive, table: str, columns: list[str] | None, limit: int, format: str | None
) -> None:
    from workloads.ticks.archive import partition_columns
    from workloads.ticks.schema import MARKET_TABLES, TABLES

    if table not in TABLES:
        raise click.BadParameter(f"no table {table!r}; known: {', '.join(TABLES)}", param_hint="--table")
    own = TABLES[table].arrow.names
    known = [*own, *partition_columns(table)]
    if unknown := [name for name in columns or () if name not in known]:
        raise click.BadParameter(
            f"{table} has no column {', '.join(unknown)}; it has {', '.join(known)}", param_hint="--columns"
        )
    total = sum(f.rows for partition in archive.committed(table) for f in archive.files(table, partition))
    default = own if table in MARKET_TABLES else known  # whose a derived row is, is half of what it says
    batches = archive.batches(table, columns=columns or default)
    if format is None and columns is None:
        # A terminal is narrow: leave out the columns that are empty in all rows shown.
        rows = [_short(row) for row in _first(_readable_rows(batches), limit or total)]
        columns = [name for name in default if any(row[name] not in (None, "") for row in rows)]
        print_rows(columns, rows, None, 0)
    else:
        shown = _first(_readable_rows(batches), limit or total)
        shape = _plain if format else _short
        print_rows(columns or default, map(shape, shown), format, 0)
    if limit and limit < total:
        click.echo(f"{limit} of {total} rows; --limit 0 shows all", err=True)


def _first(rows: Iterable[dict[str, Any]], n: int) -> Iterator[dict[str, Any]]:
    from itertools import islice

    return islice(rows, n)


def _readable_rows(batches: Iterable[Any]) -> Iterator[dict[str, Any]]:
    for batch in batches:
        for start in range(0, batch.num_rows, 1000):  # a reader of few rows decodes few
            yield from readable(batch.slice(start, 1000))


def _short(row: dict[str, Any]) -> dict[str, Any]:
    """The row with long lists and bytes as their length."""

    def short(value: Any) -> Any:
        if isinstance(value, bytes):
            return f"{len(value):,} bytes"
        return f"{len(value):,} values" if isinstance(value, list) and len(value) > 8 else value

    return {name: short(value) for name, value in row.items()}


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    """The row with bytes as hexadecimal digits."""
    return {name: value.hex() if isinstance(value, bytes) else value for name, value in row.items()}


def readable(batch: Any) -> list[dict[str, Any]]:
    """Rows of a record batch with codes by name, exact decimal prices and times as text."""
    import pyarrow as pa

    from workloads.ticks.codes import (
        Action,
        CleaningRule,
        EntryType,
        EventFlag,
        RowFlag,
        Side,
        TradingStatus,
    )

    names: dict[str, Callable[[int], Any]] = {
        "action": lambda code: _name(Action, code),
        "side": lambda code: _name(Side, code),
        "aggressor": lambda code: _name(Side, code),
        "entry_type": lambda code: _name(EntryType, code),
        "trading_status": lambda code: _name(TradingStatus, code),
        "event_flags": lambda code: _flags(EventFlag, code),
        "row_flags": lambda code: _flags(RowFlag, code),
        "rules": lambda code: _flags(CleaningRule, code),
        "update_action": chr,
        "put_or_call": lambda code: ("put", "call")[code] if code < 2 else code,
        **dict.fromkeys(PRICES, decimal),
    }
    columns = {}
    for field in batch.schema:
        column = batch.column(field.name)
        shown = names.get(field.name)
        if pa.types.is_timestamp(field.type):
            column, shown = column.cast(pa.int64()), time_text
        values = column.to_pylist()
        columns[field.name] = [None if v is None else shown(v) for v in values] if shown else values
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def unique_names(names: Sequence[str]) -> list[str]:
    """Column names as they are; the second of two equal ones becomes ``name_2``."""
    out: list[str] = []
    for name in names:
        again, n = name, 1
        while again in out:
            n += 1
            again = f"{name}_{n}"
        out.append(again)
    return out


def _stored_rows(names: list[str], batches: Iterable[Any]) -> Iterator[dict[str, Any]]:
    """Rows as stored, but times as text with nanoseconds (Z where they are UTC) and bytes in hexadecimal."""
    import pyarrow as pa

    for batch in batches:
        columns = []
        for column in batch.columns:
            values = column
            if is_time := pa.types.is_timestamp(column.type):
                values = column.cast(pa.timestamp("ns", column.type.tz)).cast(pa.int64())
            listed = values.to_pylist()
            if pa.types.is_binary(column.type):
                listed = [None if value is None else value.hex() for value in listed]
            if is_time:
                end = None if column.type.tz else -1
                listed = [None if ns is None else time_text(ns)[:end] for ns in listed]
            columns.append(listed)
        yield from (dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True))


def _name(codes: Any, code: int) -> Any:
    try:
        return codes(code).name.lower()
    except ValueError:
        return code


def _flags(codes: Any, code: int) -> str:
    return "+".join(flag.name.lower() for flag in codes if code & flag)


def decimal(nano: int) -> str:
    """An amount in 1e-9 as an exact decimal without trailing zeros."""
    whole, part = divmod(abs(nano), 1_000_000_000)
    digits = f"{whole}.{part:09d}".rstrip("0").rstrip(".")
    return f"-{digits}" if nano < 0 else digits


def time_text(ns: int) -> str:
    """``2026-01-05T14:30:00.000000001Z``."""
    import numpy as np

    return f"{np.datetime64(ns, 'ns')}Z"


def parse_time(text: str) -> int:
    """ns since the UNIX epoch of an ISO 8601 time in UTC; a trailing Z is allowed."""
    import numpy as np

    try:
        return int(np.datetime64(text.removesuffix("Z"), "ns").astype(np.int64))
    except ValueError as error:
        raise click.BadParameter(
            f"{text!r} is no time; write 2026-01-05T14:30:00.000000001, in UTC", param_hint="--at"
        ) from error


def print_rows(names: list[str], rows: Iterable[Mapping[str, Any]], format: str | None, limit: int) -> None:
    """Rows to stdout: aligned (at most ``limit``; 0: all), or all of them as CSV or JSON lines."""
    if format == "json":
        for row in rows:
            click.echo(json.dumps({name: row[name] for name in names}, default=str))
    elif format == "csv":
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(names)
        writer.writerows([row[name] for name in names] for row in rows)
    else:
        shown = list(_first((dict(row) for row in rows), limit + 1 if limit else sys.maxsize))
        more = limit and len(shown) > limit
        for line in aligned(names, shown[:limit] if more else shown):
            click.echo(line)
        if more:
            click.echo(f"the first {limit} rows; --limit 0 shows all", err=True)


def aligned(names: list[str], rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Lines of a table: numbers to the right, text to the left, nothing for null."""
    cells = [["" if row[name] is None else str(row[name]) for name in names] for row in rows]
    widths = [max(map(len, column)) for column in zip(names, *cells, strict=True)]
    right = [bool(rows) and all(row[name] is None or _is_number(row[name]) for row in rows) for name in names]
    return [
        "  ".join(
            cell.rjust(width) if numeric else cell.ljust(width)
            for cell, width, numeric in zip(line, widths, right, strict=True)
        ).rstrip()
        for line in (names, *cells)
    ]


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True


def _partitions(archive: Archive) -> list[Partition]:
    from workloads.ticks.schema import MARKET_TABLES

    return sorted({partition for table in MARKET_TABLES for partition in archive.partitions(table)})


def quality_text(report: Mapping[str, Any], most_gaps: int) -> str:
    """One partition's report as lines for a terminal."""
    lines = [click.style(f"{report['venue']} {report['date']} channel {report['channel']}", bold=True)]

    def line(name: str, text: str) -> None:
        lines.append(f"  {name:<10}{text}")

    if packets := report["packets"]:
        n = packets["packets"] or 1
        line(
            "packets",
            f"{packets['packets']:,}, {packets['messages'] or 0:,} messages, {packets['bytes'] or 0:,} bytes",
        )
        a, b = (packets["a_first"] + packets["only_a"]) / n, (packets["b_first"] + packets["only_b"]) / n
        line(
            "first by",
            f"A {a:.2%} (alone {packets['only_a'] / n:.2%}), B {b:.2%} (alone {packets['only_b'] / n:.2%})",
        )
        if packets["skew_p50"] is not None:
            p1, p50, p99, most = (packets[f"skew_{name}"] / 1000 for name in ("p1", "p50", "p99", "max"))
            line("skew B-A", f"p1 {p1:,.1f}, p50 {p50:,.1f}, p99 {p99:,.1f}, largest {most:,.1f} µs")
    gaps = report["gaps"]
    if gaps:
        late = sum(gap["packets"] for gap in gaps if gap["outcome"] != "lost")
        line("gaps", f"{len(gaps):,}: {report['lost_packets']:,} packets lost, {late:,} came late")
        for gap in gaps[:most_gaps]:
            line(
                "",
                f"epoch {gap['epoch']} seq {gap['first_seq']}-{gap['last_seq']} "
                f"{gap['outcome']} ({gap['reason']})",
            )
        if len(gaps) > most_gaps:
            line("", f"and {len(gaps) - most_gaps:,} more; --json has all")
    else:
        line("gaps", "none recorded")
    for feed in report["feeds"]:
        line(
            f"feed {feed['feed']}",
            f"{feed['packets']:,} packets, {feed['duplicates']:,} duplicates, {feed['late']:,} late, "
            f"{feed['kernel_drops']:,} dropped by our kernel, {feed['malformed']:,} malformed, "
            f"{feed['unknown_messages']:,} unknown messages",
        )
    for table, counts in report["rows"].items():
        flags = [f"{n:,} {name}" for name, n in counts.items() if n and name != "rows"]
        line(table, ", ".join([f"{counts['rows']:,} rows", *flags]))
    if session := report["session"]:
        hours = f"{time_text(session['open_ns'])[:16]}Z to {time_text(session['close_ns'])[:16]}Z"
        if (busy := session["minutes_with_packets"]) is None:
            line("session", f"no packets are stored; {hours}")
        else:
            share = busy / session["minutes"]
            line("session", f"{busy:,} of {session['minutes']:,} minutes with packets ({share:.1%}), {hours}")
    else:
        line("session", "the calendar has none on this date")
    return "\n".join(lines)


def book_at(
    archive: Archive, symbol: str, at: int | None, levels: int
) -> tuple[Definition, int, Depth, bool, list[str]]:
    """The book of ``symbol`` after the packets sent up to ``at`` (ns UTC; None: the last one of its channel).

    Returns the definition, the time, the depth, whether it is stale, and what a reader must know about it.
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    from workloads.ticks.archive import MissingDataError
    from workloads.ticks.codes import RowFlag
    from workloads.ticks.definitions import Definitions, MissingDefinitionError
    from workloads.ticks.order_book import OrderBooks
    from workloads.ticks.schema import TIMESTAMP
    from workloads.ticks.sessions import trading_dates, week_start

    definitions = archive.read("definitions")
    known = Definitions(definitions)
    if guess := close_symbol(symbol, set(definitions["symbol"].to_pylist())):
        raise MissingDefinitionError(f"no instrument is called {symbol!r}; did you mean {guess}?")
    bounds = time_bounds(archive.dataset("mbo"), ("ts_sent",))
    when = at if at is not None or bounds is None else bounds[1]
    if when is None:
        raise MissingDataError(f"the mbo files under {archive.uri} hold no rows")
    stored = archive.partitions("mbo")
    definition = known.by_symbol(symbol, when)
    day = trading_dates(definition.venue, np.array([when]))[0].item()
    first = week_start(definition.venue, when)
    wanted = [
        p
        for p in stored
        if (p.venue, p.channel) == (definition.venue, definition.channel) and first <= p.date <= day
    ]
    if not wanted:
        raise MissingDataError(
            f"no orders of {symbol} from {first} to {day} under {archive.uri}; there are orders of "
            f"{', '.join(str(p.date) for p in stored)}"
        )
    columns = [
        "epoch",
        "instrument_id",
        "order_id",
        "price",
        "size",
        "action",
        "side",
        "priority",
        "row_flags",
    ]
    mine = (pc.field("instrument_id") == definition.instrument_id) | pc.field("instrument_id").is_null()
    sent = pc.field("ts_sent") <= pa.scalar(when, TIMESTAMP)
    parts = [archive.read("mbo", p, columns=[*columns, "event_flags"], filter=mine & sent) for p in wanted]
    rows = pa.concat_tables(parts)
    # An epoch starts with empty books: after the weekly restart, or a restart of the venue.
    rows = rows.filter(pc.equal(rows["epoch"], pc.max(rows["epoch"])))
    books = OrderBooks()
    if rows.num_rows:
        books.apply(rows)
    depth = books.depth(definition.instrument_id, levels)
    notes = []
    flags = rows["row_flags"][-1].as_py() or 0 if rows.num_rows else 0
    stale = bool(flags & RowFlag.STALE)
    if stale:
        notes.append("stale: a packet of this channel was lost before, so orders may be missing or left over")
    if flags & RowFlag.UNSCALED:
        notes.append("no definition was known when it was stored: prices are in wire units")
    crossed = len(depth.bid_price) and len(depth.ask_price) and depth.bid_price[0] >= depth.ask_price[0]
    if crossed and not stale:
        notes.append("crossed: an event was not complete at this instant, or the market was not open")
    return definition, when, depth, stale, notes


def close_symbol(symbol: str, known: set[str]) -> str | None:
    """The known symbol that was probably meant; None where ``symbol`` is known, or none is close."""
    from difflib import get_close_matches

    if symbol in known:
        return None
    folded = {name.casefold(): name for name in sorted(known)}
    close = get_close_matches(symbol.casefold(), folded, n=1)
    return folded[close[0]] if close else None


def ladder(
    definition: Definition, when: int, depth: Depth, *, stale: bool = False, width: int = 24
) -> list[str]:
    """The book as lines: offers above bids, best ones in the middle, bars in proportion to the lots."""
    title = f"{definition.symbol}  {definition.venue} channel {definition.channel}  {time_text(when)}"
    if stale:
        title += "  STALE: packets were lost before"
    bids = list(
        zip(depth.bid_price.tolist(), depth.bid_size.tolist(), depth.bid_orders.tolist(), strict=True)
    )
    asks = list(
        zip(depth.ask_price.tolist(), depth.ask_size.tolist(), depth.ask_orders.tolist(), strict=True)
    )
    if not bids and not asks:
        return [title, "  the book is empty"]
    exact = [decimal(price) for price, _, _ in (*asks, *bids)]
    places = max(len(text.partition(".")[2]) for text in exact)
    texts = [_padded(text, places) for text in exact]
    column = max(5, *map(len, texts))
    most = max(size for _, size, _ in (*bids, *asks)) or 1

    def bar(size: int) -> str:
        return "█" * max(1, round(width * size / most)) if size > 0 else ""

    lines = [
        title,
        f"{'orders':>7} {'bid':>9} {'':>{width}} {'price':>{column}} {'':<{width}} {'ask':>9} {'orders':>7}",
    ]
    for (_, size, orders), text in reversed(list(zip(asks, texts, strict=False))):
        right = click.style(f"{bar(size):<{width}}", fg="red")
        lines.append(f"{'':>7} {'':>9} {'':>{width}} {text:>{column}} {right} {size:>9,} {orders:>7,}")
    for (_, size, orders), text in zip(bids, texts[len(asks) :], strict=True):
        left = click.style(f"{bar(size):>{width}}", fg="green")
        lines.append(f"{orders:>7,} {size:>9,} {left} {text:>{column}}")
    if bids and asks:
        lines.append(f"spread {decimal(asks[0][0] - bids[0][0])} {definition.currency or ''}".rstrip())
    return lines


def _padded(text: str, places: int) -> str:
    """The decimal with as many places as its neighbours have."""
    whole, _, part = text.partition(".")
    return f"{whole}.{part:0<{places}}" if places else whole


@contextlib.contextmanager
def _errors() -> Iterator[None]:
    """Known errors become one line; unknown ones keep their traceback."""
    from environments.errors import ConfigError
    from workloads.errors import WorkloadError

    try:
        yield
    except (ConfigError, WorkloadError) as error:
        raise click.ClickException(str(error)) from error

"""The page: reads the run's folder, words the findings, fills the template."""

import base64
import hashlib
import shlex
from datetime import datetime
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from operations.report import figures, research
from operations.report.arrival import Arrival, arrival
from operations.report.market import MOST_INSTRUMENTS, Instrument, Market, market
from operations.report.parts import Json, Table, Verdict
from operations.report.record import RecordError, embedded, run_record
from operations.report.wording import (
    NANO,
    NONE,
    count,
    digits,
    duration,
    moment,
    plural,
    price,
    share,
    volume_bytes,
)
from workloads.errors import WorkloadError
from workloads.exchange.feed import SendLog
from workloads.exchange.mdp3 import TWINS
from workloads.ticks.archive import (
    Archive,
    DatasetPartition,
    Partition,
    RunPartition,
    open_archive,
)
from workloads.ticks.partitions import AnyPartition
from workloads.ticks.schema import TABLES, Layout

FILE_NAME = "report.html"
GAPS_SHOWN = 12
LADDER_LEVELS = 5
COUNTERS_CHECKED = ("adds", "changes", "deletes", "resets", "unknown_changes", "unknown_deletes")
"""Book counters that must be the same while receiving and when rebuilt from the stored rows."""

MESSAGES = {
    4: "channel reset",
    12: "heartbeat",
    30: "security status",
    37: "volume",
    46: "book, price levels",
    47: "book, orders",
    48: "trade summary",
    49: "daily statistics",
    50: "limits and banding",
    51: "session statistics",
    54: "definition, future",
    55: "definition, option",
    56: "definition, spread",
    57: "definition, fixed income",
    58: "definition, repo",
    63: "definition, FX",
    64: "book, long quantities",
    65: "trade summary, long quantities",
    66: "volume, long quantities",
    67: "session statistics, long quantities",
}
"""CME MDP 3.0 templates that have rows."""


class ReportError(WorkloadError):
    """The run's folder can't be turned into a report."""


def render(folder: Path) -> str:
    """The whole page."""
    run = read_run(folder)
    archive = open_archive(str(folder / "archive"))
    log = SendLog.load(folder / "sent.npz") if (folder / "sent.npz").is_file() else None
    arrived, traded = arrival(archive, log), market(archive)
    found = research.research(run, folder, archive)
    symbols = {instrument.instrument_id: instrument.symbol for instrument in traded.instruments}
    charts = arrival_charts(arrived) | research.charts(found, symbols)
    end = arrived.event_span[1] if arrived.event_span else _last_time(traded)
    charted = [i for i in traded.instruments if i.quotes is not None or len(i.trades.ts)][:MOST_INSTRUMENTS]
    by_instrument = [figures.market_charts(i, end, len(charted)) for i in charted]
    data = {
        "charts": {name: _figure(chart) for name, chart in charts.items()},
        "market": [
            {
                name: _figure(chart) | {"title": chart["title"], "caption": chart["caption"]}
                for name, chart in one.items()
            }
            for one in by_instrument
        ],
    }
    committed = committed_table(archive)
    asset = {name: _asset(name) for name in ("page.css", "page.js", "theme.js")}
    plotly = get_plotlyjs()
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        loader=jinja2.FunctionLoader(_asset),
    )
    return environment.get_template("page.html").render(
        policy=_policy(asset["theme.js"], plotly, asset["page.js"]),
        css=Markup(asset["page.css"]),  # noqa: S704 - our own file
        theme_js=Markup(asset["theme.js"]),  # noqa: S704 - our own file
        page_js=Markup(asset["page.js"]),  # noqa: S704 - our own file
        plotly_js=Markup(plotly),  # noqa: S704 - plotly's own file
        data=Markup(embedded(data)),  # noqa: S704 - leaves nothing that HTML reads as markup
        record=Markup(embedded(run, allow_nan=True)),  # noqa: S704 - the same
        heading=f"{run.get('venue') or 'unknown venue'} channel {run.get('channel', NONE)}",
        about=about(run, arrived),
        verdict=verdict(run, arrived, archive),
        research=research_parts(found, symbols),
        warnings=[*research.warnings(found), *warnings(run, arrived, traded, archive)],
        keys=key_figures(run, arrived, committed, archive),
        charts=charts,
        arrived=arrived,
        shares=shares(arrived),
        missing=missing_table(arrived),
        proof=proof_lines(run, arrived),
        gaps=gaps_table(arrived),
        gaps_left_out=max(0, len(arrived.gaps) - GAPS_SHOWN),
        feeds=feeds_table(arrived),
        bursts=bursts_table(arrived),
        messages=messages_table(arrived, traded),
        market=[
            {"symbol": i.symbol, "note": _instrument_note(i), "charts": one, "ladder": ladder(i)}
            for i, one in zip(charted, by_instrument, strict=True)
        ],
        slots=[
            name for name in ("price", "spread", "depth", "volume") if any(name in c for c in by_instrument)
        ],
        tops=tops_table(traded),
        not_charted=max(0, len(traded.instruments) - len(charted)),
        health=book_health(run, arrived, traded),
        committed=committed,
        data_commit=archive.data_commit().id if archive.tables() else None,
        reproduce=reproduce(run),
        notes=(run.get("source") or {}).get("notes") or [],
        command=run.get("command") or NONE,
        report_path=shlex.quote(str(folder / FILE_NAME)),
        stages=stages(run),
        name=run.get("name") or folder.name,
    )


def read_run(folder: Path) -> dict[str, Any]:
    """``run.json``; anything in it may be missing."""
    try:
        return run_record(folder)
    except RecordError as error:
        raise ReportError(f"a report needs the folder of a finished `tickworks run`: {error}") from error


def research_parts(found: research.Research, symbols: dict[int, str]) -> dict[str, Any]:
    """What the template says about research."""
    return {
        "there": found.there,
        "verdict": research.verdict(found),
        "forecast_figures": research.forecast_figures(found),
        "backtest_figures": research.backtest_figures(found),
        "rules": research.rules_table(found),
        "grids": research.grid_table(found, symbols),
        "about_quality": research.quality_sentence(found),
        "training": research.training_facts(found),
        "models": research.model_table(found),
        "instruments": research.instrument_table(found, symbols),
        "confusion": research.confusion(found),
        "bound": found.forecasts.bound_of if found.forecasts else 0,
        "simulated": found.simulated,
        "terms": research.backtest_facts(found),
        "about_backtest": research.backtest_sentence(found),
        "statistics": research.statistics_table(found),
        "profits": research.profit_table(found, symbols),
        "identity": research.identity(found),
        "configs": research.configs(found),
    }


def arrival_charts(arrived: Arrival) -> dict[str, figures.Chart]:
    """The charts of "What arrived" that there is data for."""
    charts = {}
    if arrived.skew:
        charts["skew"] = figures.skew_chart(arrived.skew)
    if arrived.latency and arrived.latency.telling:
        charts["latency"] = figures.latency_chart(arrived.latency)
    if arrived.event_rate and arrived.event_span:
        charts["event_rate"] = figures.rate_chart(
            arrived.event_rate,
            [event for event, _ in arrived.bursts],
            "event",
            "Packets by the venue's SendingTime: the market's own rhythm.",
        )
    if arrived.wall_rate:
        charts["wall_rate"] = figures.rate_chart(
            arrived.wall_rate,
            [wall for _, wall in arrived.bursts],
            "wall",
            "Packets by our receive stamp, first copies only: the load that ingest carried.",
        )
    return charts


def verdict(run: Json, arrived: Arrival, archive: Archive) -> Verdict:
    """One sentence. The run's own proof counts only if the stored tables say the same."""
    if not archive.tables():
        return Verdict(
            "empty", "Nothing stored", "The archive of this run is empty: no packet was committed."
        )
    said, own = run.get("proof") or {}, arrived.proof
    lost = plural(arrived.lost, "packet")
    if not said and own is None:
        if arrived.lost:
            return Verdict(
                "unexplained",
                "Gaps found",
                f"{lost} never came; there is no sender's log to tell where they were lost.",
            )
        return Verdict(
            "unproven",
            "No gaps found",
            "No sequence number is missing between the first and the last packet; there is no sender's "
            "log to compare with.",
        )
    kernel = kernel_dropped(run, arrived)
    numbers = list(said.get("difference") or [])
    unexplained = 0
    if own is not None:
        unexplained = own.unrecorded_count + max(0, own.not_dropped_count - kernel)
        numbers = numbers or own.unrecorded or own.not_dropped
    if said.get("equal") is False or unexplained:
        listed = ", ".join(count(n) for n in numbers[:8]) + (" …" if len(numbers) > 8 else "")
        which = f" Sequence numbers: {listed}." if listed else ""
        return Verdict(
            "unexplained",
            "Unexplained difference",
            f"The gaps table and the sender's log disagree about "
            f"{plural(max(unexplained, len(numbers), 1), 'packet')}.{which}",
        )
    total = own.sent if own is not None else arrived.packets + arrived.lost
    if arrived.lost:
        by_sender = own.dropped_on_both if own is not None else int(said.get("dropped_on_both") or 0)
        return Verdict(
            "explained",
            "Gaps found, all explained",
            f"{lost} of {count(total)} never came: {count(by_sender)} dropped on both feeds by the sender, "
            f"{count(arrived.lost - by_sender)} lost in our kernel. The gaps table names exactly these "
            "sequence numbers.",
        )
    return Verdict(
        "proven",
        "Proven complete",
        f"All {plural(total, 'packet')} that the sender sent are stored, compared by sequence number with "
        "its log.",
    )


def kernel_dropped(run: Json, arrived: Arrival) -> int:
    """Packets of A and B that our kernel dropped, as far as anybody counted."""
    said = int((run.get("proof") or {}).get("kernel_dropped") or 0)
    ingest = (run.get("ingest") or {}).get("kernel_drops") or {}
    counted = sum(int(ingest.get(feed) or 0) for feed in ("A", "B"))
    stored = sum(int(feed["kernel_drops"]) for feed in arrived.feeds if feed["feed"] in ("A", "B"))
    return max(said, counted, stored)


def warnings(run: Json, arrived: Arrival, traded: Market, archive: Archive) -> list[str]:
    """What the verdict's sentence doesn't cover and nobody should overlook."""
    out = []
    malformed = sum(feed["malformed"] for feed in arrived.feeds)
    unknown = sum(feed["unknown_messages"] for feed in arrived.feeds)
    if malformed:
        out.append(f"{plural(malformed, 'packet')} malformed: messages did not tile the packet.")
    if unknown:
        out.append(f"{plural(unknown, 'message')} of unknown templates skipped.")
    books = (run.get("ingest") or {}).get("books") or {}
    differing = [
        name
        for name in COUNTERS_CHECKED
        if traded.books and name in books and books[name] != traded.books[name]
    ]
    if differing:
        what = ", ".join(
            f"{name.replace('_', ' ')} {count(books[name])} and {count(traded.books[name])}"
            for name in differing
        )
        out.append(
            f"The books kept while receiving and those rebuilt from the stored rows differ ({what}): "
            "the stored rows are not what was received."
        )
    crossed = sum(i.crossed_in_trading for i in traded.instruments)
    unmatched = traded.books.get("unknown_deletes", 0)
    if not arrived.lost and crossed:
        out.append(f"Books crossed at {plural(crossed, 'event end')} in trading although no packet was lost.")
    if not arrived.lost and unmatched:
        out.append(f"{plural(unmatched, 'order delete')} without an order although no packet was lost.")
    unscaled = [i.symbol for i in traded.instruments if i.unscaled]
    if unscaled:
        out.append(f"No definition for {plural(len(unscaled), 'instrument')}: prices are in wire units.")
    now = archive.data_commit().id if archive.tables() else None
    said = run.get("data_commit")
    if said and now and said != now:
        out.append(f"The archive has changed since the run: data commit {said} then, {now} now.")
    return out


def about(run: Json, arrived: Arrival) -> list[str]:
    """Source, when, how long."""
    source = run.get("source") or {}
    parts = [_source(source) or "unknown source"]
    if source.get("seed") is not None and f"seed {source['seed']}" not in parts[0]:
        parts.append(f"seed {source['seed']}")
    speed = source.get("speed")
    if speed is not None:
        parts.append("flat out" if not speed else f"{digits(float(speed))}× speed")
    started, finished = _instant(run.get("started")), _instant(run.get("finished"))
    if started:
        took = f", {duration((finished - started).total_seconds() * NANO)}" if finished else ""
        parts.append(f"run {started:%Y-%m-%d %H:%M:%S} UTC{took}")
    if arrived.event_span:
        first, last = arrived.event_span
        parts.append(f"market {moment(first, digits=0)} UTC, {duration(last - first)}")
    return parts


def key_figures(
    run: Json, arrived: Arrival, committed: Table | None, archive: Archive
) -> list[tuple[str, str, str]]:
    """(name, figure, note)."""
    rows = bytes_ = 0
    for table in archive.tables():
        for partition in partitions(archive, table):
            files = archive.files(table, partition)
            rows += sum(f.rows for f in files)
            bytes_ += sum(f.bytes for f in files)
    total = arrived.packets or 1
    out = [
        ("Packets", count(arrived.packets), volume_bytes(arrived.bytes)),
        ("Messages", count(arrived.messages), f"{digits(arrived.messages / total)} a packet"),
        ("Rows stored", count(rows), volume_bytes(bytes_)),
        ("Lost", count(arrived.lost), share(arrived.lost, arrived.packets + arrived.lost)),
        ("Late", count(arrived.late), "after their gap"),
        ("Kernel drops", count(kernel_dropped(run, arrived)), "on A and B"),
        (
            "First on A / B",
            f"{share(arrived.a_first + arrived.only_a, arrived.packets)} / "
            f"{share(arrived.b_first + arrived.only_b, arrived.packets)}",
            "of all packets",
        ),
    ]
    latency = arrived.latency
    if latency and latency.telling:
        clock = "sender to kernel" if latency.measured else "by SendingTime"
        out += [
            ("Latency p50", duration(latency.quantiles[0.5]), clock),
            ("Latency p99", duration(latency.quantiles[0.99]), clock),
        ]
    for burst in (wall for _, wall in arrived.bursts):
        if burst.width in (1_000_000, NANO):
            at = moment(burst.start, day=False)
            out.append((f"Peak in {duration(burst.width)}", count(burst.count), f"packets, {at}"))
    if archive.tables():
        out.append(("Data commit", archive.data_commit().id, "repeats this from the archive"))
    return out


def shares(arrived: Arrival) -> list[tuple[str, str, int, str, float]]:
    """(style, name, packets, share, percent) of each way in which packets came."""
    parts = (
        ("a", "A first", arrived.a_first),
        ("a-only", "A only", arrived.only_a),
        ("b", "B first", arrived.b_first),
        ("b-only", "B only", arrived.only_b),
    )
    return [
        (style, name, n, share(n, arrived.packets), 100 * n / arrived.packets)
        for style, name, n in parts
        if arrived.packets
    ]


def missing_table(arrived: Arrival) -> Table | None:
    """What was missing where, beside what the sender dropped on purpose."""
    if not arrived.packets and not arrived.lost:
        return None
    missing = {
        "on A only": arrived.only_b,
        "on B only": arrived.only_a,
        "on both": arrived.lost,
    }
    if arrived.proof is None:
        return Table(["Packets missing", "here"], [[name, count(n)] for name, n in missing.items()])
    both = arrived.proof.dropped_on_both
    dropped = {
        "on A only": arrived.proof.dropped.get("A", 0) - both,
        "on B only": arrived.proof.dropped.get("B", 0) - both,
        "on both": both,
    }
    return Table(
        ["Packets missing", "here", "dropped by the sender", "lost on the way"],
        [[name, count(n), count(dropped[name]), count(n - dropped[name])] for name, n in missing.items()],
    )


def proof_lines(run: Json, arrived: Arrival) -> list[str]:
    """How the verdict was reached."""
    said, own = run.get("proof") or {}, arrived.proof
    lines = []
    if own is not None:
        lines.append(
            f"Of {plural(own.sent, 'packet')} the sender dropped {count(own.dropped_on_both)} on both feeds; "
            f"the gaps table lists {count(own.gaps)}. "
            + (
                "Compared by sequence number, both are the same."
                if not own.unrecorded_count and not own.not_dropped_count
                else f"Compared by sequence number, {count(own.unrecorded_count)} are missing without a gap, "
                f"and {count(own.not_dropped_count)} in gaps were not dropped by the sender (our kernel "
                f"dropped {count(kernel_dropped(run, arrived))} on A and B together)."
            )
        )
    if said.get("statement"):
        lines.append(f"The run says: {said['statement']}")
    return lines


def gaps_table(arrived: Arrival) -> Table | None:
    """The first rows of `gaps`."""
    if not arrived.gaps:
        return None
    rows = [
        [
            count(gap.first),
            count(gap.last),
            count(gap.last - gap.first + 1),
            gap.outcome,
            gap.reason,
            duration(gap.silence),
            count(gap.drops_a),
            count(gap.drops_b),
            str(gap.epoch),
        ]
        for gap in arrived.gaps[:GAPS_SHOWN]
    ]
    head = ["First", "Last", "Packets", "Outcome", "Declared by", "Silence", "Kernel drops A"]
    return Table([*head, "Kernel drops B", "Epoch"], rows, words=(3, 4))


def feeds_table(arrived: Arrival) -> Table | None:
    """Counters of each feed."""
    if not arrived.feeds:
        return None
    counters = (
        ("Packets", "packets", count),
        ("Bytes", "bytes", volume_bytes),
        ("Used", "first", count),
        ("Duplicates", "duplicates", count),
        ("Late", "late", count),
        ("Malformed", "malformed", count),
        ("Unknown messages", "unknown_messages", count),
        ("Kernel drops", "kernel_drops", count),
        ("Receive buffer", "receive_buffer", volume_bytes),
    )
    rows = [[name, *(show(feed[key]) for feed in arrived.feeds)] for name, key, show in counters]
    return Table(["Feed", *(feed["feed"] for feed in arrived.feeds)], rows)


def bursts_table(arrived: Arrival) -> Table | None:
    """The busiest window of each width, by both clocks."""
    if not arrived.bursts:
        return None
    return Table(
        ["Busiest", "by SendingTime", "at (UTC)", "by arrival", "at (UTC)"],
        [
            [
                duration(event.width),
                count(event.count),
                moment(event.start, day=False),
                count(wall.count),
                moment(wall.start, day=False),
            ]
            for event, wall in arrived.bursts
        ],
    )


def messages_table(arrived: Arrival, traded: Market) -> list[tuple[str, str, str, str, str, float]]:
    """(name, template, messages, share, rows, percent of the most frequent)."""
    total = arrived.messages or sum(n for _, n, _ in traded.messages)
    most = max((n for _, n, _ in traded.messages), default=1)
    out = []
    for template, messages, rows in traded.messages:
        name = MESSAGES.get(TWINS.get(template, template), "unknown")
        older = " (older layout)" if template in TWINS else ""
        out.append(
            (
                name + older,
                str(template),
                count(messages),
                share(messages, total),
                count(rows),
                100 * messages / most,
            )
        )
    rest = total - sum(n for _, n, _ in traded.messages)
    if rest > 0:
        out.append(
            ("without rows, such as heartbeats", "", count(rest), share(rest, total), "0", 100 * rest / most)
        )
    return out


def tops_table(traded: Market) -> Table | None:
    """The best prices at the end, and what traded."""
    if not traded.instruments:
        return None
    rows = []
    for i in traded.instruments[:200]:
        depth, places = i.depth, i.places
        bid = int(depth.bid_price[0]) if depth is not None and len(depth.bid_price) else None
        ask = int(depth.ask_price[0]) if depth is not None and len(depth.ask_price) else None
        spread = NONE
        if bid is not None and ask is not None:
            spread = digits((ask - bid) / i.tick) if i.tick else price(ask - bid, places)
        notional = float(np.dot(i.trades.price.astype(np.float64), i.trades.size))
        vwap = f"{notional / i.volume / NANO:,.{max(places, min(places + 1, 4))}f}" if i.volume else NONE
        rows.append(
            [
                i.symbol,
                count(int(depth.bid_size[0])) if depth is not None and bid is not None else NONE,
                price(bid, places),
                price(ask, places),
                count(int(depth.ask_size[0])) if depth is not None and ask is not None else NONE,
                spread,
                price(int(i.trades.price[-1]), places) if len(i.trades.ts) else NONE,
                vwap,
                count(i.volume),
                count(len(i.trades.ts)),
            ]
        )
    head = ["Instrument", "Bid lots", "Bid", "Ask", "Ask lots", "Spread (ticks)", "Last", "VWAP"]
    return Table([*head, "Volume (lots)", "Trades"], rows)


def ladder(instrument: Instrument) -> list[dict[str, Any]]:
    """The best levels at the end, asks above bids; ``width`` in percent of the largest level shown."""
    depth = instrument.depth
    if depth is None:
        return []
    sides = {
        "bid": (depth.bid_price, depth.bid_size, depth.bid_orders),
        "ask": (depth.ask_price, depth.ask_size, depth.ask_orders),
    }
    out = []
    for side, (prices, sizes, orders) in sides.items():
        levels = list(zip(prices.tolist(), sizes.tolist(), orders.tolist(), strict=True))[:LADDER_LEVELS]
        for level, size, n in reversed(levels) if side == "ask" else levels:
            out.append(
                {
                    "side": side,
                    "price": price(level, instrument.places),
                    "size": count(size),
                    "orders": count(n),
                }
                | {"lots": size}
            )
    out.sort(key=lambda row: row["side"] == "bid")
    most = max((row["lots"] for row in out), default=1) or 1
    return [row | {"width": round(max(0.0, 100 * row["lots"] / most), 1)} for row in out]


def book_health(run: Json, arrived: Arrival, traded: Market) -> list[tuple[str, str, str]]:
    """(name, figure, note) of the rebuilt order books."""
    books = traded.books
    if not books:
        return []
    kept = (run.get("ingest") or {}).get("books") or {}
    same = kept and all(kept.get(name) == books[name] for name in COUNTERS_CHECKED if name in kept)
    after_loss = "expected after a loss: no snapshot mended the books" if arrived.lost else "must be 0"
    ends = books["event_ends"]
    before = sum(i.crossed - i.crossed_in_trading for i in traded.instruments)
    opening = f"; {count(before)} before a first trade, as in any pre-open" if before else ""
    return [
        ("Order rows applied", count(books["rows"]), f"{count(traded.live_orders)} orders live at the end"),
        (
            "Crossed at an event's end",
            count(books["crossed_event_ends"]),
            f"of {count(ends)} ends{opening or f'; {after_loss}'}",
        ),
        ("Deletes of unknown orders", count(books["unknown_deletes"]), after_loss),
        ("Changes of unknown orders", count(books["unknown_changes"]), after_loss),
        (
            "Orders added twice",
            count(books["duplicate_adds"]),
            "must be 0" if not arrived.lost else "after a loss",
        ),
        (
            "Same as while receiving",
            ("yes" if same else "no") if kept else NONE,
            "books kept by ingest against books rebuilt from the stored rows",
        ),
    ]


def partitions(archive: Archive, table: str) -> list[AnyPartition]:
    """Those of a table, whatever its layout."""
    match TABLES[table].layout:
        case Layout.MARKET:
            return [*archive.partitions(table, Partition)]
        case Layout.DATASET:
            return [*archive.partitions(table, DatasetPartition)]
        case Layout.RUN:
            return [*archive.partitions(table, RunPartition)]


def committed_table(archive: Archive) -> Table | None:
    """What the commit logs list."""
    rows = []
    totals = [0, 0, 0]
    for table in archive.tables():
        for partition in partitions(archive, table):
            files = archive.files(table, partition)
            n, size = sum(f.rows for f in files), sum(f.bytes for f in files)
            totals = [totals[0] + len(files), totals[1] + n, totals[2] + size]
            last = archive.log(table, partition)[-1].n
            rows.append(
                [
                    table,
                    count(n),
                    volume_bytes(size),
                    digits(size / n) if n else NONE,
                    count(len(files)),
                    count(last) if last == 1 else f"1–{count(last)}",
                    _place(partition),
                ]
            )
    if not rows:
        return None
    a_row = digits(totals[2] / totals[1]) if totals[1] else NONE
    rows.append(["all", count(totals[1]), volume_bytes(totals[2]), a_row, count(totals[0]), "", ""])
    return Table(
        ["Table", "Rows", "Bytes", "Bytes a row", "Files", "Commits", "Partition"], rows, words=(0, 6)
    )


def reproduce(run: Json) -> list[tuple[str, str]]:
    """What it takes to do it again."""
    source, machine = run.get("source") or {}, run.get("machine") or {}
    sent = run.get("sent") or {}
    seed = source.get("seed")
    hardware = [
        machine.get("cpu"),
        f"{machine['cores']} cores" if machine.get("cores") else None,
        f"{digits(float(machine['memory_gib']))} GiB" if machine.get("memory_gib") else None,
    ]
    software = [
        f"Linux {machine['kernel']}" if machine.get("kernel") else None,
        f"Python {machine['python']}" if machine.get("python") else None,
    ]
    out = [
        ("Source", _source(source) or NONE),
        ("Seed", NONE if seed is None else str(seed)),
        ("Environment", str(run.get("environment") or NONE)),
        ("Tickworks", str(run.get("version") or NONE)),
        ("Machine", ", ".join(str(part) for part in hardware if part) or NONE),
        ("System", ", ".join(part for part in software if part) or NONE),
    ]
    feeds = [
        (f"Sent on {name}", f"{count(sent[name]['sent'])}, {count(sent[name].get('dropped', 0))} dropped")
        for name in ("A", "B", "S")
        if isinstance(sent.get(name), dict) and "sent" in sent[name]
    ]
    return [*out, *feeds]


def stages(run: Json) -> list[tuple[str, str, float]]:
    """(stage, time, percent of the whole)."""
    seconds = {str(k): float(v) for k, v in (run.get("seconds") or {}).items() if v is not None}
    total = sum(seconds.values()) or 1.0
    each = [(name, duration(s * NANO), round(100 * s / total, 1)) for name, s in seconds.items()]
    return [*each, ("together", duration(total * NANO), 0.0)] if len(each) > 1 else each


def _place(partition: AnyPartition) -> str:
    match partition:
        case Partition(venue, date, channel):
            return f"{venue} {date.isoformat()} channel {channel}"
        case DatasetPartition(dataset, date):
            return f"{dataset} {date.isoformat()}"
        case RunPartition(run):
            return run


def _instrument_note(instrument: Instrument) -> str:
    parts = [f"{count(instrument.volume)} lots"]
    if instrument.tick and not instrument.unscaled:
        parts.append(f"tick {price(instrument.tick, instrument.places)} {instrument.currency}".rstrip())
    if instrument.mended_from is not None:
        parts.append("quotes from the price levels since the first loss")
    if instrument.crossed:
        parts.append(f"{plural(instrument.crossed, 'crossed look')} left out")
    return ", ".join(parts)


def _source(source: Json) -> str:
    """Kind and name, without saying the kind twice."""
    kind, name = str(source.get("kind") or ""), str(source.get("name") or "")
    return name if name.startswith(kind) else f"{kind} {name}".strip()


def _last_time(traded: Market) -> int:
    """The latest time of any quote or trade; 0 where there is none."""
    ends = [int(i.quotes.ts[-1]) for i in traded.instruments if i.quotes is not None and len(i.quotes.ts)]
    return max([0, *ends, *(int(i.trades.ts[-1]) for i in traded.instruments if len(i.trades.ts))])


def _instant(text: Any) -> datetime | None:
    try:
        return datetime.fromisoformat(str(text))
    except ValueError:
        return None


def _figure(chart: figures.Chart) -> dict[str, Any]:
    return {"data": chart["data"], "layout": chart["layout"]}


def _asset(name: str) -> str:
    return resources.files("operations.report").joinpath(name).read_text(encoding="utf-8")


def _policy(*scripts: str) -> str:
    """No network at all; only these scripts run. Plotly sets styles in line."""
    hashes = " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
        for script in scripts
    )
    return (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )

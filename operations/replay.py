"""`tickworks replay`: send a recording as multicast again."""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from operations.options import Speed

if TYPE_CHECKING:
    from environments.model import Channel, EnvironmentConfig
    from workloads.exchange.captures import Capture, CaptureInfo
    from workloads.exchange.feed import Endpoint, Impairment
    from workloads.exchange.job import ExchangeConfig

STOPPED = 130
"""Exit status after Ctrl-C, as shells have it: 128 + SIGINT."""

FEEDS = {"A": "incremental_a", "B": "incremental_b"}
SHARES = {
    "loss": "share of packets that never leave, as in 0.01.",
    "duplication": "share of packets that leave twice.",
    "reorder": "share of packets that later ones overtake.",
}
TIMES = {
    "delay": "microseconds that every packet is late.",
    "jitter": "microseconds, at most, that a packet is late on top.",
}


def _impairment_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for name, text in reversed((SHARES | TIMES).items()):
        kind = click.FloatRange(0, 1) if name in SHARES else click.FloatRange(0)
        unit = "-us" if name in TIMES else ""
        for feed in ("b", "a"):
            option = f"--{name}{unit}-{feed}"
            command = click.option(
                option, f"{name}_{feed}", type=kind, default=0.0, help=f"Feed {feed.upper()}, {text}"
            )(command)
    return command


@click.command(
    epilog="Exit status: 0 all sent, 1 the capture or the network refuses, 2 wrong usage, 130 Ctrl-C."
)
@click.argument("capture", type=click.Path(path_type=Path))
@click.option(
    "--env", "environment", default="local", show_default=True, help="Environment whose groups are used."
)
@click.option(
    "--channel", type=int, help="Channel of the environment; default: the capture's, or the only one."
)
@click.option(
    "--speed", type=Speed(), default="1", show_default=True, help="Times the original pace, or full."
)
@click.option("--max-rate", type=click.IntRange(0), default=0, help="Most datagrams per second; 0: no bound.")
@click.option("--interface", metavar="ADDRESS", help="IPv4 address to send from; default: the environment's.")
@click.option(
    "--ttl", type=click.IntRange(0, 255), default=1, show_default=True, help="1 stays in the subnet."
)
@click.option("--group", metavar="ADDRESS", help="Flow to take from a pcap file that holds several.")
@click.option("--port", type=click.IntRange(1, 65_535), help="The same, by UDP port.")
@click.option("--tick", metavar="PRICE", help="DBN of an unknown product: its price step, as quoted.")
@click.option("--multiplier", metavar="N", help="... currency per quoted point and lot.")
@click.option("--display-factor", metavar="N", help="... quoted price = wire price x this.")
@click.option("--currency", metavar="CODE", help="... currency of the quote.")
@_impairment_options
@click.option("--seed", type=int, default=0, show_default=True, help="Decides which packets are hit.")
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), help="Folder for sent.npz: what left when."
)
@click.option("--dry-run", is_flag=True, help="Say what would be sent, and send nothing.")
def replay(
    capture: Path,
    environment: str,
    channel: int | None,
    speed: float,
    max_rate: int,
    interface: str | None,
    ttl: int,
    group: str | None,
    port: int | None,
    tick: str | None,
    multiplier: str | None,
    display_factor: str | None,
    currency: str | None,
    seed: int,
    out: Path | None,
    dry_run: bool,
    **impairments: float,
) -> None:
    """Send CAPTURE as multicast feeds A and B, at its own pace or faster.

    CAPTURE is a pcap file of an MDP 3.0 feed, or a DBN file of orders (schema mbo) of one instrument; either
    may be compressed (gzip, zstd). The pace follows the packets' SendingTime, not the recorder's clock. A DBN
    file becomes packets again: first a channel reset, a definition and the resting orders, then one packet
    per sequence number.

    \b
    Examples:
      tickworks replay day.mbo.dbn.zst --dry-run
      tickworks replay day.mbo.dbn.zst --speed 60
      tickworks replay feed.pcap --group 224.0.31.1 --speed full --max-rate 50000
      tickworks replay feed.pcap --loss-a 0.01 --loss-b 0.01 --delay-us-b 300
      tickworks replay hogs.dbn --channel 310 --tick 0.025 --multiplier 400 --display-factor 0.01

    What left when goes to --out; the summary line goes to stdout.
    """
    from environments.errors import ConfigError
    from environments.files import load
    from workloads.errors import WorkloadError
    from workloads.exchange.captures import Terms, open_capture
    from workloads.exchange.feed import Impairment
    from workloads.exchange.job import ExchangeConfig

    try:
        place = load(environment)
        terms = Terms.of(tick, multiplier, display_factor, currency)
        opened = open_capture(capture, group=group, port=port, terms=terms)
        info = opened.info
        chosen = channel_for(place, channel, info)
        config = ExchangeConfig(
            endpoints=endpoints(chosen),
            interface=interface or str(place.multicast.interface or ""),
            capture=str(capture),
            group=group,
            port=port,
            terms=terms,
            impairments={
                feed: Impairment(
                    loss=impairments[f"loss_{feed.lower()}"],
                    duplication=impairments[f"duplication_{feed.lower()}"],
                    reorder=impairments[f"reorder_{feed.lower()}"],
                    delay_ns=round(1_000 * impairments[f"delay_{feed.lower()}"]),
                    jitter_ns=round(1_000 * impairments[f"jitter_{feed.lower()}"]),
                )
                for feed in (endpoint.feed for endpoint in endpoints(chosen))
            },
            speed=speed,
            max_rate_pps=max_rate,
            seed=seed,
            ttl=ttl,
            out=str(out) if out else None,
        )
        if dry_run:
            click.echo(plan(info, config))
            return
        refuse_real_groups(place)
        if not config.interface:
            raise ConfigError(f"{place.name} names no interface to send from; give --interface ADDRESS")
        summary = send(config, opened)
    except (ConfigError, WorkloadError, OSError) as error:
        raise click.ClickException(str(error)) from error
    click.echo(summary_line(info, config, summary))
    sys.exit(STOPPED if summary["stopped"] else 0)


def channel_for(place: EnvironmentConfig, asked: int | None, info: CaptureInfo) -> Channel:
    """The channel to send on: the one asked for, else the capture's own, else the only one."""
    from environments.errors import ConfigError

    if asked is not None:
        return place.channel(asked)
    ids = [channel.id for channel in place.channels]
    if info.channel in ids:
        return place.channel(info.channel)
    if len(ids) == 1:
        return place.channels[0]
    raise ConfigError(
        f"{info.path} seems to be of channel {info.channel or 'unknown'}, and {place.name} has "
        f"{', '.join(map(str, ids)) or 'none'}; choose one with --channel"
    )


def endpoints(channel: Channel) -> tuple[Endpoint, ...]:
    """Where feeds A and B of the channel go."""
    from workloads.exchange.feed import Endpoint

    feeds = ((name, getattr(channel.feeds, key)) for name, key in FEEDS.items())
    return tuple(Endpoint(name, str(feed.group), feed.port) for name, feed in feeds if feed is not None)


def refuse_real_groups(place: EnvironmentConfig) -> None:
    """A recording must never mix with what the exchange sends now."""
    from environments.errors import ConfigError

    if place.exchange != "simulator":
        raise ConfigError(
            f"the feeds of {place.name} come from the venue (exchange = {place.exchange!r}), and a replay "
            "would mix with them; use an environment of the simulator, such as --env local"
        )


def plan(info: CaptureInfo, config: ExchangeConfig) -> str:
    """What would be sent, for people."""
    from workloads.exchange.feed import Impairment

    lines = [
        f"capture     {info.path}",
        f"            {info.kind}, {info.records:,} records",
        f"instrument  {info.instrument or 'whatever the feed carries'}",
        f"packets     {info.packets:,}, SendingTime {_clock(info.ts_first)} to {_clock(info.ts_last)}",
        f"pace        {_pace(info, config.speed)}",
    ]
    for endpoint in config.endpoints:
        impairment = config.impairments.get(endpoint.feed, Impairment())
        lines.append(f"feed {endpoint.feed}      {endpoint.group}:{endpoint.port}{_impaired(impairment)}")
    lines.append(f"from        {config.interface or 'no interface is named: give --interface'}")
    lines += [f"note        {note}" for note in info.notes]
    return "\n".join(lines)


def send(config: ExchangeConfig, capture: Capture) -> dict[str, Any]:
    """Send it, with a progress bar on stderr; return the job's summary."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from workloads.exchange.job import run

    for note in capture.info.notes:
        click.echo(f"note: {note}", err=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[clock]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("replay", total=capture.info.packets, clock="")

        def report(event: str, **fields: Any) -> None:
            if event != "ready":
                progress.update(task, completed=fields["packets"], clock=_clock(fields["ts"]))

        return run(config, report, capture)


def summary_line(info: CaptureInfo, config: ExchangeConfig, summary: dict[str, Any]) -> str:
    """One line: how much went where, and what did not."""
    feeds = ", ".join(
        f"{to.feed} {to.group}:{to.port} {summary['feeds'][to.feed]['dropped']:,} dropped"
        for to in config.endpoints
    )
    verb = "stopped after" if summary["stopped"] else "sent"
    of = f" of {info.packets:,}" if summary["stopped"] else ""
    log = f"; log: {summary['sent']}" if summary["sent"] else ""
    return (
        f"{verb} {summary['packets']:,}{of} packets in {summary['seconds']:.1f} s ({feeds}, "
        f"{summary['lost']:,} lost on all feeds){log}"
    )


def _clock(ts: int | None) -> str:
    """ns since the epoch as UTC, to the second."""
    return f"{datetime.fromtimestamp(ts // 10**9, UTC):%Y-%m-%d %H:%M:%S}" if ts is not None else ""


def _pace(info: CaptureInfo, speed: float) -> str:
    if not speed:
        return "flat out"
    seconds = ((info.ts_last or 0) - (info.ts_first or 0)) / 1e9 / speed
    return f"{speed:g} times the original, {timedelta(seconds=round(seconds))} in all"


def _impaired(impairment: Impairment) -> str:
    parts = [f"{name} {getattr(impairment, name):g}" for name in SHARES if getattr(impairment, name)]
    parts += [
        f"{name} {getattr(impairment, name + '_ns') / 1e3:g} us"
        for name in TIMES
        if getattr(impairment, name + "_ns")
    ]
    return f" ({', '.join(parts)})" if parts else ""

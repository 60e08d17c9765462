"""`tickworks ingest`: receive one channel of an environment, or finish what a dead ingest left behind."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from environments.model import EnvironmentConfig
    from workloads.ingest.job import IngestConfig


@click.command(
    epilog="Exit status: 0 ended cleanly, everything received is committed; 1 an error, what was received "
    "stays in the spool and the next start finishes it."
)
@click.option("--env", "name", default="local", show_default=True, help="Name or path of an environment.")
@click.option("--channel", type=int, help="Channel id. Default: the environment's only channel.")
@click.option("--archive", help="URI of the archive. Default: the environment's.")
@click.option(
    "--spool",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder on a local disk. Default: var/spool/<env>/<channel>.",
)
@click.option(
    "--first-seq",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="First sequence number to expect; 0 joins wherever the feed is.",
)
@click.option("--finish", is_flag=True, help="Receive nothing; commit what the spool holds, then end.")
def ingest(
    name: str, channel: int | None, archive: str | None, spool: Path | None, first_seq: int, finish: bool
) -> None:
    """Receive a channel's multicast and commit its ticks, until Ctrl-C or SIGTERM.

    What arrives is spooled to a local disk first. If this process dies, start it again: it finishes the
    spool before it receives, and no row is stored twice. One process serves one channel.

    \b
    Examples:
      tickworks ingest --env local             with `tickworks replay FILE` in another shell
      tickworks ingest --env prod --channel 310
      tickworks ingest --env local --finish    after a crash, when the feed is gone

    Progress goes to stderr; a summary as JSON goes to stdout at the end.
    """
    import json
    from dataclasses import replace

    from environments.errors import ConfigError
    from environments.files import load
    from operations.console import ingest_status
    from workloads.errors import WorkloadError
    from workloads.ingest import job
    from workloads.runtime.jobs import events_to
    from workloads.ticks.archive import open_archive

    try:
        config = ingest_config(load(name), channel)
    except ConfigError as error:
        raise click.ClickException(str(error)) from error
    config = replace(
        config,
        first_seq=first_seq,
        archive=archive or config.archive,
        spool=str(spool or config.spool),
        feeds=() if finish else config.feeds,
    )
    stop = job.stop_on_signals()
    try:
        with ingest_status() as show, events_to(show):
            summary = job.run(open_archive(config.archive), config, stop)
    except WorkloadError as error:
        raise click.ClickException(str(error)) from error
    click.echo(json.dumps(vars(summary), indent=2))


def ingest_config(environment: "EnvironmentConfig", channel_id: int | None) -> "IngestConfig":
    """The ingest of one channel of an environment.

    Raises
    ------
    ConfigError
        If the environment has no such channel, or several and none was named.
    """
    from environments.errors import ConfigError
    from workloads.ingest.job import FeedConfig, IngestConfig

    if channel_id is None:
        if len(environment.channels) != 1:
            known = ", ".join(str(channel.id) for channel in environment.channels) or "none"
            raise ConfigError(
                f"environment {environment.name} has {len(environment.channels)} channels ({known}); "
                f"say which: --channel ID"
            )
        channel_id = environment.channels[0].id
    channel = environment.channel(channel_id)
    names = {"incremental_a": "A", "incremental_b": "B", "snapshot": "S"}
    feeds = tuple(
        FeedConfig(names[name], str(feed.group), feed.port, str(feed.source) if feed.source else None)
        for name, feed in channel.feeds.items()
    )
    interface = environment.multicast.interface
    return IngestConfig(
        archive=environment.archive_uri,
        spool=f"var/spool/{environment.name}/{channel_id}",
        venue=channel.venue,
        channel=channel_id,
        environment=environment.name,
        feeds=feeds,
        interface=str(interface) if interface else "0.0.0.0",  # noqa: S104  # a group is joined on the default route's interface
    )

"""`tickworks env`: look at environments and check them."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.console import RenderableType

    from environments.model import EnvironmentConfig
    from environments.topology import Topology


@click.group(epilog="Exit status: 0 done, 1 an environment cannot be read or has mistakes, 2 wrong usage.")
def env() -> None:
    """Look at environments and check them.

    An environment is one TOML file with the facts of a place: accounts, regions, networks, channels and
    their multicast groups, archive, cluster. NAME is one that `tickworks env list` prints, or the path of
    a file of your own (anything with a slash, or ending in .toml).

    \b
    Examples:
      tickworks env list
      tickworks env show prod
      tickworks env check ./candidate.toml
    """


@env.command(
    "list", epilog="Exit status: 0 all are listed, 1 one of them has mistakes and is listed without facts."
)
def list_environments() -> None:
    """List the environments, one per line: name, home region, purpose.

    The region of an environment that lives on one machine is a hyphen.

    \b
    Example: the names alone.
      tickworks env list | cut -f1
    """
    from environments.errors import ConfigError
    from environments.files import load, names

    broken = False
    for name in names():
        try:
            config = load(name)
        except ConfigError as error:
            broken = True
            click.echo(f"{name}\t?\t?")
            click.echo(f"{name}: {_count(error)}; see tickworks env check {name}", err=True)
        else:
            click.echo(f"{name}\t{config.region or '-'}\t{config.purpose}")
    sys.exit(1 if broken else 0)


@env.command(epilog="Exit status: 0 shown, 1 it cannot be read or has mistakes (then nothing is shown).")
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, for machines.")
def show(name: str, as_json: bool) -> None:
    """Show what the environment NAME holds, and what follows from it.

    What follows: the names of the buckets, who receives which feed, and how far the feeds are spread.
    With --json the object has three keys: "environment" (the file, defaults filled in), "topology" (the
    multicast topology), "derived" (names that stacks and operations share).

    \b
    Examples:
      tickworks env show local
      tickworks env show prod --json | jq '.topology.flows[].group'
    """
    from environments.errors import ConfigError
    from environments.files import load
    from environments.topology import topology

    try:
        config = load(name)
    except ConfigError as error:
        raise click.ClickException(str(error)) from error
    derived = topology(config)
    if as_json:
        import json

        facts = {
            "environment": config.model_dump(mode="json"),
            "topology": derived.model_dump(mode="json") | {"distribution": derived.distribution},
            "derived": {"archive_uri": config.archive_uri, "tick_buckets": _buckets(config)},
        }
        click.echo(json.dumps(facts, indent=2))
        return
    from rich.console import Console

    console = Console(highlight=False)
    for part in _pages(config, derived):
        console.print(part)


@env.command(epilog="Exit status: 0 no mistake, 1 at least one mistake, or the file cannot be read.")
@click.argument("name")
def check(name: str) -> None:
    """Check the environment NAME; one line when it is right, one sentence per mistake when not.

    A sentence names the key, its value, the rule, who made the rule, and what to write instead. Wrong
    values are found first; what contradicts another key is looked for once every value is right. Nothing
    is asked of AWS: whether an account exists is not seen here.

    \b
    Examples:
      tickworks env check prod
      tickworks env check ./candidate.toml && echo fine
    """
    from environments.errors import ConfigError
    from environments.files import load
    from environments.topology import topology

    try:
        config = load(name)
    except ConfigError as error:
        for sentence in error.sentences:
            click.echo(sentence)
        click.echo(f"{name}: {_count(error)}", err=True)
        sys.exit(1)
    click.echo(f"{config.name}: ok, {_summary(config, topology(config))}")


def _count(error: Exception) -> str:
    return _number(len(str(error).splitlines()), "mistake")


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _summary(config: EnvironmentConfig, topology: Topology) -> str:
    accounts = _number(len(set(config.accounts.values())), "account")
    where = f"{accounts}, home {config.region}" if config.on_aws else "one machine"
    feeds = f"{_number(len(config.channels), 'channel')}, {_number(len(topology.flows), 'feed')}"
    return f"{where}; {feeds}; {_spread(topology)}; archive {config.archive_uri}"


def _spread(topology: Topology) -> str:
    if topology.interface is not None and not topology.receivers:
        return f"received on {topology.interface}"
    return f"received by {_number(len(topology.receivers), 'host')} ({topology.distribution})"


def _buckets(config: EnvironmentConfig) -> list[str]:
    buckets = config.archive.buckets
    if buckets is None:
        return []
    return [config.tick_bucket(), *(config.tick_bucket(region) for region in buckets.replica_regions)]


def _pages(config: EnvironmentConfig, topology: Topology) -> Iterable[RenderableType]:
    from rich.text import Text

    title = Text(config.name, style="bold")
    title.append(f"  {config.purpose}", style="not bold")
    yield title
    yield _facts(
        ("production", "yes" if config.production else "no"),
        ("home region", config.region or "none: this machine"),
        ("exchange", config.exchange),
        ("owner", config.contacts.owner),
        ("on call", config.contacts.on_call or config.contacts.owner),
        ("accounts", "\n".join(f"{name} {account}" for name, account in config.accounts.items())),
        ("archive", "\n".join(_buckets(config)) or config.archive_uri),
        ("cluster", f"EKS {config.cluster.kubernetes_version}" if config.cluster else "Ray on this machine"),
        ("feeds", _spread(topology)),
        ("on premises", ", ".join(map(str, config.on_premises_cidrs))),
    )
    yield _table(
        "Feeds",
        ("channel", "feed", "group:port", "source", "by", "packets/s", "hosts"),
        (
            (
                f"{flow.venue} {flow.channel}",
                flow.feed,
                f"{flow.group}:{flow.port}",
                str(flow.source or "any"),
                flow.tunnel or str(topology.interface or "-"),
                f"{flow.peak_packets_s:,}",
                str(len(flow.members) or "-"),
            )
            for flow in topology.flows
        ),
    )
    yield from _network(config, topology)
    yield _table(
        "Node pools",
        ("pool", "instance type", "nodes"),
        (
            (name, pool.instance_type, f"{pool.min_nodes} to {pool.max_nodes}")
            for name, pool in (config.cluster.node_pools if config.cluster else {}).items()
        ),
    )
    yield _table(
        "Vendors",
        ("vendor", "bucket", "region", "when"),
        (
            (name, f"s3://{vendor.bucket}/{vendor.prefix}", vendor.region, vendor.schedule)
            for name, vendor in config.vendors.items()
        ),
    )
    yield _table("Images", ("job", "image"), config.images.items())


def _network(config: EnvironmentConfig, topology: Topology) -> Iterable[RenderableType]:
    homes = {subnet: domain.name for domain in topology.domains for subnet in domain.subnets}
    yield _table(
        "Subnets",
        ("subnet", "range", "zone", "account", "multicast domain"),
        (
            (f"{vpc}/{name}", str(subnet.cidr), subnet.zone, facts.account, homes.get(f"{vpc}/{name}", "-"))
            for vpc, facts in config.vpcs.items()
            for name, subnet in facts.subnets.items()
        ),
    )
    yield _table(
        "Tunnels",
        ("tunnel", "far router", "our router", "inside", "MTU"),
        (
            (
                link.name,
                str(link.outer_far),
                f"{link.router} {link.outer_near}",
                f"{link.inner_far} to {link.inner_near}",
                str(link.mtu),
            )
            for link in topology.links
        ),
    )
    yield _table(
        "Receivers",
        ("receiver", "hosts", "instance type", "subnet", "channels"),
        (
            (name, str(facts.hosts), facts.instance_type, facts.subnet, ", ".join(map(str, facts.channels)))
            for name, facts in config.receivers.items()
        ),
    )


def _facts(*rows: tuple[str, str]) -> RenderableType:
    from rich.table import Table

    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    for name, value in rows:
        if value:
            table.add_row(name, value)
    return table


def _table(title: str, columns: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> RenderableType:
    """A titled table; nothing where there are no rows."""
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(*columns, box=box.SIMPLE_HEAD, padding=0, pad_edge=False, show_edge=False)
    for column in table.columns:
        column.overflow = "fold"
    for row in rows:
        table.add_row(*row)
    return Group("", Text(title, style="bold"), table) if table.row_count else Group()

"""The multicast topology of an environment: who sends what to whom, by which way.

Derived, never written by hand. Stacks, router configurations and the lab in network namespaces are
rendered from this one value.
"""

from collections.abc import Mapping
from ipaddress import IPv4Address, IPv4Network
from typing import Literal

from environments import aws
from environments.model import EnvironmentConfig, Feed, FeedName, Rendezvous, Section

Distribution = Literal["one-receiver", "one-vpc", "several-vpcs"]


class Interface(Section):
    """A receiver host's network interface, where it is a member of groups."""

    receiver: str
    """Name of the receiver that the host belongs to."""
    host: str
    """Name of the host: ``<receiver>-<number from 1>``."""
    vpc: str
    """Name of its VPC."""
    subnet: str
    """``<vpc>/<subnet>``."""
    zone: str
    """Availability Zone id."""


class Flow(Section):
    """One feed of one channel, from its source to its members."""

    venue: str
    """Market identifier code."""
    channel: int
    """Channel id."""
    feed: FeedName
    """Which feed of the channel."""
    group: IPv4Address
    """Multicast group."""
    port: int
    """UDP port."""
    source: IPv4Address | None
    """Original sender, as receivers see it; none: any source."""
    peak_packets_s: int
    """Most packets in any second."""
    peak_bits_s: int
    """IP bits per second at that rate, every packet as large as the largest."""
    payload_bytes: int
    """Largest UDP payload, bytes."""
    rendezvous: IPv4Address | None
    """Rendezvous point of an any-source group."""
    tunnel: str | None
    """Tunnel that it enters by."""
    router: str | None
    """Router that ends the tunnel; its LAN interface is the source that the Transit Gateway sees."""
    domain: str | None
    """Multicast domain that the router sends it into."""
    members: tuple[Interface, ...]
    """Receivers' interfaces that get it."""

    @property
    def key(self) -> str:
        """Where the environment declares it."""
        return feed_key(self.channel, self.feed)

    @property
    def ip_bytes(self) -> int:
        """Bytes of its largest IP packet."""
        return self.payload_bytes + aws.IP_UDP_BYTES


class Link(Section):
    """A GRE tunnel with the addresses of both ends."""

    name: str
    """Name of the tunnel."""
    router: str
    """Our router."""
    outer_far: IPv4Address
    """Far router, outside the tunnel."""
    outer_near: IPv4Address
    """Our router, outside the tunnel."""
    inside: IPv4Network
    """The /30 inside."""
    inner_far: IPv4Address
    """Far router, inside the tunnel."""
    inner_near: IPv4Address
    """Our router, inside the tunnel."""
    mtu: int
    """Bytes of the largest IP packet inside."""


class Domain(Section):
    """A multicast domain with what goes through it."""

    name: str
    """Name of the domain."""
    subnets: tuple[str, ...]
    """Associated subnets, ``<vpc>/<subnet>``."""
    static_sources: bool
    """Only registered interfaces may send."""
    igmpv2: bool
    """Hosts join by IGMPv2."""
    sources: Mapping[IPv4Address, tuple[str, ...]]
    """Routers whose LAN interface sends the group, by group."""
    members: Mapping[IPv4Address, tuple[Interface, ...]]
    """Interfaces that receive the group, by group."""


class Topology(Section):
    """The whole way of the feeds."""

    environment: str
    """Name of the environment."""
    interface: IPv4Address | None
    """Address that this machine joins on, where it is the receiver."""
    flows: tuple[Flow, ...]
    """Every feed of every channel."""
    links: tuple[Link, ...]
    """Tunnels."""
    domains: tuple[Domain, ...]
    """Multicast domains."""
    shared_with: tuple[str, ...]
    """Accounts, by name, that own an attached VPC but not the Transit Gateway."""

    @property
    def sources(self) -> tuple[IPv4Address, ...]:
        """Original senders, ascending: what receivers' security groups let in."""
        return tuple(sorted({flow.source for flow in self.flows if flow.source is not None}))

    @property
    def groups(self) -> tuple[IPv4Address, ...]:
        """Multicast groups, ascending."""
        return tuple(sorted({flow.group for flow in self.flows}))

    @property
    def receivers(self) -> tuple[Interface, ...]:
        """Every interface that is a member of a group, once."""
        return tuple(dict.fromkeys(member for flow in self.flows for member in flow.members))

    @property
    def distribution(self) -> Distribution:
        """How far the feeds are spread: to one host, to several in one VPC, to several VPCs."""
        if len({interface.vpc for interface in self.receivers}) > 1:
            return "several-vpcs"
        return "one-vpc" if len(self.receivers) > 1 else "one-receiver"


def feed_key(channel: int, feed: str) -> str:
    """Where the environment declares a feed."""
    return f"channels[{channel}].feeds.{feed}"


def topology(config: EnvironmentConfig) -> Topology:
    """Derive the topology of an environment that `environments.load` has accepted."""
    flows = tuple(
        _flow(config, channel.venue, channel.id, name, feed)
        for channel in config.channels
        for name, feed in channel.feeds.items()
    )
    return Topology(
        environment=config.name,
        interface=config.multicast.interface,
        flows=flows,
        links=_links(config),
        domains=_domains(config, flows),
        shared_with=_shared_with(config),
    )


def domain_of(config: EnvironmentConfig, subnet: str) -> str | None:
    """Name of the multicast domain that the subnet is associated with."""
    domains = config.transit_gateway.domains if config.transit_gateway else {}
    return next((name for name, domain in domains.items() if subnet in domain.subnets), None)


def _flow(config: EnvironmentConfig, venue: str, channel: int, name: FeedName, feed: Feed) -> Flow:
    router = config.tunnels[feed.tunnel].router if feed.tunnel else None
    point = rendezvous_of(config, feed)
    return Flow(
        venue=venue,
        channel=channel,
        feed=name,
        group=feed.group,
        port=feed.port,
        source=feed.source,
        peak_packets_s=feed.peak_packets_s,
        peak_bits_s=feed.peak_bits_s,
        payload_bytes=feed.payload_bytes,
        rendezvous=point.address if point else None,
        tunnel=feed.tunnel,
        router=router,
        domain=domain_of(config, config.routers[router].lan_subnet) if router else None,
        members=_members(config, channel, name),
    )


def rendezvous_of(config: EnvironmentConfig, feed: Feed) -> Rendezvous | None:
    """Where an any-source feed meets its receivers: the point with the narrowest range; none by source."""
    points = [point for point in config.multicast.rendezvous if feed.group in point.groups]
    if feed.source is not None or not points:
        return None
    return max(points, key=lambda point: point.groups.prefixlen)


def _members(config: EnvironmentConfig, channel: int, feed: FeedName) -> tuple[Interface, ...]:
    return tuple(
        Interface(
            receiver=name,
            host=f"{name}-{number}",
            vpc=receiver.subnet.partition("/")[0],
            subnet=receiver.subnet,
            zone=config.subnet(receiver.subnet).zone,
        )
        for name, receiver in config.receivers.items()
        if channel in receiver.channels and feed in receiver.feeds
        for number in range(1, receiver.hosts + 1)
    )


def _links(config: EnvironmentConfig) -> tuple[Link, ...]:
    return tuple(
        Link(
            name=name,
            router=tunnel.router,
            outer_far=tunnel.peer,
            outer_near=config.routers[tunnel.router].wan_address,
            inside=tunnel.inside_cidr,
            inner_far=tunnel.inside_cidr[1],
            inner_near=tunnel.inside_cidr[2],
            mtu=tunnel.mtu,
        )
        for name, tunnel in config.tunnels.items()
    )


def _domains(config: EnvironmentConfig, flows: tuple[Flow, ...]) -> tuple[Domain, ...]:
    gateway = config.transit_gateway
    if gateway is None:
        return ()
    domains = []
    for name, facts in gateway.domains.items():
        sources: dict[IPv4Address, dict[str, None]] = {}
        members: dict[IPv4Address, dict[Interface, None]] = {}
        for flow in flows:
            if flow.domain != name or flow.router is None:
                continue
            sources.setdefault(flow.group, {})[flow.router] = None
            members.setdefault(flow.group, {}).update(dict.fromkeys(flow.members))
        domains.append(
            Domain(
                name=name,
                subnets=facts.subnets,
                static_sources=facts.static_sources,
                igmpv2=facts.igmpv2,
                sources={group: tuple(routers) for group, routers in sources.items()},
                members={group: tuple(interfaces) for group, interfaces in members.items()},
            )
        )
    return tuple(domains)


def _shared_with(config: EnvironmentConfig) -> tuple[str, ...]:
    if config.transit_gateway is None:
        return ()
    owners = dict.fromkeys(vpc.account for vpc in config.vpcs.values())
    home = config.accounts.get(config.transit_gateway.account)
    return tuple(owner for owner in owners if config.accounts.get(owner) != home)

"""What must hold between the keys of an environment. Each check yields one `Problem` per mistake.

Values that are wrong by themselves never get here: `environments.model` refuses them.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from difflib import get_close_matches
from ipaddress import IPv4Address, IPv4Network
from itertools import combinations

from environments import aws
from environments.errors import Problem
from environments.model import EnvironmentConfig, Feed
from environments.topology import Flow, Topology, domain_of, feed_key, topology

Check = Callable[[EnvironmentConfig], Iterator[Problem]]


def problems(config: EnvironmentConfig) -> list[Problem]:
    """Every mistake between the keys; those of the way through AWS once all names resolve."""
    unresolved = list(_names(config))
    found = unresolved + [problem for check in CHECKS for problem in check(config)]
    if not unresolved and config.transit_gateway is not None:
        derived = topology(config)
        found += [problem for check in TOPOLOGY_CHECKS for problem in check(config, derived)]
    return found


# Names


def _names(config: EnvironmentConfig) -> Iterator[Problem]:
    """Every name of an account, VPC, subnet, router, tunnel or channel is declared somewhere."""
    subnets, gateway, buckets = config.subnets(), config.transit_gateway, config.archive.buckets
    accounts: list[tuple[str, str]] = [(f"vpcs.{name}", vpc.account) for name, vpc in config.vpcs.items()]
    accounts += [(f"vendors.{name}", vendor.account) for name, vendor in config.vendors.items()]
    accounts += [("archive.buckets", buckets.account)] if buckets else []
    accounts += [("transit_gateway", gateway.account)] if gateway else []
    accounts += [("cluster", config.cluster.account)] if config.cluster else []
    for key, account in accounts:
        yield from _declared(f"{key}.account", account, config.accounts, "account", "[accounts]")
    if config.cluster:
        yield from _declared("cluster.vpc", config.cluster.vpc, config.vpcs, "VPC", "[vpcs]")
    for name, router in config.routers.items():
        for key in ("wan_subnet", "lan_subnet"):
            yield from _declared(f"routers.{name}.{key}", getattr(router, key), subnets, "subnet", "[vpcs]")
    for name, tunnel in config.tunnels.items():
        yield from _declared(f"tunnels.{name}.router", tunnel.router, config.routers, "router", "[routers]")
    for name, domain in gateway.domains.items() if gateway else ():
        for subnet in domain.subnets:
            yield from _declared(
                f"transit_gateway.domains.{name}.subnets", subnet, subnets, "subnet", "[vpcs]"
            )
    for name, receiver in config.receivers.items():
        yield from _declared(f"receivers.{name}.subnet", receiver.subnet, subnets, "subnet", "[vpcs]")
        for channel in receiver.channels:
            known = [str(known.id) for known in config.channels]
            yield from _declared(f"receivers.{name}.channels", str(channel), known, "channel", "[[channels]]")
    for channel_id, name, feed in _feeds(config):
        if feed.tunnel is not None:
            key = f"{feed_key(channel_id, name)}.tunnel"
            yield from _declared(key, feed.tunnel, config.tunnels, "tunnel", "[tunnels]")


def _declared(key: str, name: str, known: Iterable[str], what: str, where: str) -> Iterator[Problem]:
    names = sorted(known)
    if name not in names:
        close = get_close_matches(name, names, n=1)
        advice = f'write "{close[0]}"' if close else f"write one of them, or declare it under {where}"
        listed = ", ".join(names) or "none"
        yield Problem(key, name, f"no {what} has this name, the known ones are: {listed}", aws.KIT, advice)


# Accounts, regions, archive, cluster, vendors


def _placeholder_accounts(config: EnvironmentConfig) -> Iterator[Problem]:
    for name, account in config.accounts.items():
        if config.production and account in aws.PLACEHOLDER_ACCOUNTS:
            yield Problem(
                f"accounts.{name}",
                account,
                "production needs a real account, and documentation uses this id as a placeholder",
                aws.ACCOUNT_IDS,
                "write the account's id, or set production = false",
            )


def _home_region(config: EnvironmentConfig) -> Iterator[Problem]:
    if config.on_aws and config.region is None:
        yield Problem(
            "region",
            "(none)",
            "what is deployed to AWS needs a home region",
            aws.KIT,
            'write region = "us-east-2", or the region nearest to the venue',
        )


def _archive(config: EnvironmentConfig) -> Iterator[Problem]:
    folder, buckets = config.archive.folder, config.archive.buckets
    if (folder is None) == (buckets is None):
        yield Problem(
            "archive",
            "(neither)" if folder is None else "(both)",
            "the archive is either a folder or buckets",
            aws.KIT,
            'write folder = "var/archive", or a table [archive.buckets], not both',
        )
    if buckets is None or config.region is None:
        return
    for region, times in Counter(buckets.replica_regions).items():
        if region == config.region:
            yield Problem(
                "archive.buckets.replica_regions",
                region,
                "a replica in the home region would be lost together with the home bucket",
                aws.REPLICATION,
                "write another region, or leave it out",
            )
        if times > 1:
            yield Problem(
                "archive.buckets.replica_regions",
                region,
                "a region holds one replica",
                aws.REPLICATION,
                "write each region once",
            )
    longest = max(
        (config.tick_bucket(region) for region in (config.region, *buckets.replica_regions)), key=len
    )
    if len(longest) > 63:
        yield Problem(
            "archive.buckets.prefix",
            buckets.prefix,
            f"the bucket name {longest} has {len(longest)} characters and 63 are allowed",
            aws.BUCKET_NAMES,
            f"write a prefix that is {len(longest) - 63} shorter",
        )


def _node_pools(config: EnvironmentConfig) -> Iterator[Problem]:
    for name, pool in config.cluster.node_pools.items() if config.cluster else ():
        if pool.min_nodes > pool.max_nodes:
            yield Problem(
                f"cluster.node_pools.{name}.min_nodes",
                pool.min_nodes,
                f"a pool of at most {pool.max_nodes} nodes cannot keep more",
                "NodegroupScalingConfig, https://docs.aws.amazon.com/eks/latest/APIReference/"
                "API_NodegroupScalingConfig.html",
                f"write {pool.max_nodes} or less, or raise max_nodes",
            )


# Ranges and addresses


def _ranges(config: EnvironmentConfig) -> list[tuple[str, IPv4Network]]:
    ranges = []
    for name, vpc in config.vpcs.items():
        ranges.append((f"vpcs.{name}.cidr", vpc.cidr))
        ranges += [(f"vpcs.{name}.secondary_cidrs", cidr) for cidr in vpc.secondary_cidrs]
    ranges += [("on_premises_cidrs", cidr) for cidr in config.on_premises_cidrs]
    ranges += [(f"tunnels.{name}.inside_cidr", tunnel.inside_cidr) for name, tunnel in config.tunnels.items()]
    return ranges


def overlaps(ranges: Iterable[tuple[str, IPv4Network]]) -> Iterator[Problem]:
    """One problem for each pair of ranges that share an address, on the later of the two."""
    for (key, cidr), (other_key, other) in combinations(ranges, 2):
        if cidr.overlaps(other):
            yield Problem(
                other_key,
                other,
                f"it overlaps {key} = {cidr}, and a route can lead to one place only",
                aws.VPC_CIDRS,
                "write a range that no other key uses",
            )


def _overlaps(config: EnvironmentConfig) -> Iterator[Problem]:
    yield from overlaps(_ranges(config))
    for vpc, facts in config.vpcs.items():
        yield from overlaps(
            (f"vpcs.{vpc}.subnets.{name}.cidr", subnet.cidr) for name, subnet in facts.subnets.items()
        )


def _sizes(config: EnvironmentConfig) -> Iterator[Problem]:
    for vpc, facts in config.vpcs.items():
        own = (facts.cidr, *facts.secondary_cidrs)
        for cidr in own:
            yield from _size(f"vpcs.{vpc}.cidr", cidr, aws.VPC_CIDRS)
        for name, subnet in facts.subnets.items():
            key = f"vpcs.{vpc}.subnets.{name}.cidr"
            yield from _size(key, subnet.cidr, aws.SUBNETS)
            if not any(subnet.cidr.subnet_of(cidr) for cidr in own):
                yield Problem(
                    key,
                    subnet.cidr,
                    f"a subnet lies inside its VPC, {' or '.join(map(str, own))}",
                    aws.SUBNETS,
                    f"write a part of {own[0]}",
                )


def _size(key: str, cidr: IPv4Network, source: str) -> Iterator[Problem]:
    if not aws.LARGEST_PREFIX <= cidr.prefixlen <= aws.SMALLEST_PREFIX:
        fitting = min(max(cidr.prefixlen, aws.LARGEST_PREFIX), aws.SMALLEST_PREFIX)
        yield Problem(
            key,
            cidr,
            f"AWS takes ranges from /{aws.SMALLEST_PREFIX} to /{aws.LARGEST_PREFIX}",
            source,
            f"write a /{fitting}",
        )


def _zones(config: EnvironmentConfig) -> Iterator[Problem]:
    if config.region is None:
        return
    prefix = aws.zone_prefix(config.region)
    for vpc, facts in config.vpcs.items():
        for name, subnet in facts.subnets.items():
            head, _, tail = subnet.zone.rpartition("-az")
            if not tail.isdigit() or head.split("-")[0] != prefix:
                yield Problem(
                    f"vpcs.{vpc}.subnets.{name}.zone",
                    subnet.zone,
                    f"this is no zone id of {config.region}",
                    aws.ZONE_IDS,
                    f'write an id such as "{prefix}-az1"',
                )


def _router_addresses(config: EnvironmentConfig) -> Iterator[Problem]:
    taken: dict[IPv4Address, str] = {}
    for name, router in config.routers.items():
        for side in ("wan", "lan"):
            key = f"routers.{name}.{side}_address"
            address: IPv4Address = getattr(router, f"{side}_address")
            subnet: str = getattr(router, f"{side}_subnet")
            if address in taken:
                yield Problem(
                    key,
                    address,
                    f"{taken[address]} has this address already",
                    aws.SUBNETS,
                    "write another address of the subnet",
                )
            taken.setdefault(address, key)
            if subnet not in config.subnets():
                continue
            cidr = config.subnet(subnet).cidr
            kept = (
                *(cidr[n] for n in range(aws.RESERVED_ADDRESSES)),
                cidr[-1],
            )
            if address not in cidr or address in kept:
                yield Problem(
                    key,
                    address,
                    f"an address of {subnet} lies in {cidr}, where AWS keeps the first "
                    f"{aws.RESERVED_ADDRESSES} and the last",
                    aws.SUBNETS,
                    f'write one such as "{cidr.network_address + aws.RESERVED_ADDRESSES}"',
                )


# Channels, feeds, groups


def _feeds(config: EnvironmentConfig) -> Iterator[tuple[int, str, Feed]]:
    for channel in config.channels:
        for name, feed in channel.feeds.items():
            yield channel.id, name, feed


def _channel_ids(config: EnvironmentConfig) -> Iterator[Problem]:
    for channel, times in Counter(channel.id for channel in config.channels).items():
        if times > 1:
            yield Problem(
                "channels.id",
                channel,
                f"{times} channels have this id, and tables and receivers tell channels apart by it",
                aws.MARKET_TABLES,
                "write each channel once",
            )


def _groups(config: EnvironmentConfig) -> Iterator[Problem]:
    declared: dict[tuple[IPv4Address, int], str] = {}
    for channel, name, feed in _feeds(config):
        key = feed_key(channel, name)
        if feed.group in aws.SOURCE_SPECIFIC_GROUPS and feed.source is None:
            yield Problem(
                f"{key}.group",
                feed.group,
                f"{aws.SOURCE_SPECIFIC_GROUPS} is source-specific, so a join without a source gets nothing",
                aws.SOURCE_SPECIFIC,
                "write the venue's source address beside it, or a group in 239.0.0.0/8",
            )
        other = declared.setdefault((feed.group, feed.port), key)
        if other != key:
            yield Problem(
                f"{key}.group",
                f"{feed.group}:{feed.port}",
                f"{other} has this group and port already, so nobody could tell the two apart",
                "udp(7), one socket receives by address and port",
                "write the group and port of the venue's feed configuration",
            )
    for facts in config.channels:
        a, b = facts.feeds.incremental_a, facts.feeds.incremental_b
        if b is not None and a.group == b.group:
            yield Problem(
                f"{feed_key(facts.id, 'incremental_b')}.group",
                b.group,
                "feed A has the same group, so every join brings both and a loss hits both",
                "CME MDP 3.0, feed arbitration",
                "write the group of feed B",
            )


def _rendezvous(config: EnvironmentConfig) -> Iterator[Problem]:
    for point in config.multicast.rendezvous:
        if not point.groups.subnet_of(aws.MULTICAST):
            yield Problem(
                "multicast.rendezvous.groups",
                point.groups,
                f"multicast groups lie in {aws.MULTICAST}",
                aws.MULTICAST_RANGES,
                'write "239.0.0.0/8", or the part of it that the venue uses',
            )
        elif point.groups.overlaps(aws.SOURCE_SPECIFIC_GROUPS):
            yield Problem(
                "multicast.rendezvous.groups",
                point.groups,
                f"{aws.SOURCE_SPECIFIC_GROUPS} is source-specific and a rendezvous point does nothing there",
                aws.SOURCE_SPECIFIC,
                'write "239.0.0.0/8", and give feeds in 232.0.0.0/8 a source',
            )
    for channel, name, feed in _feeds(config):
        source_specific = feed.source is not None or feed.group in aws.SOURCE_SPECIFIC_GROUPS
        served = any(feed.group in point.groups for point in config.multicast.rendezvous)
        if feed.tunnel is not None and not source_specific and not served:
            yield Problem(
                f"{feed_key(channel, name)}.group",
                feed.group,
                "an any-source group comes through routers only by a rendezvous point",
                aws.SPARSE_MODE,
                "write the venue's source address beside it, or a [[multicast.rendezvous]] that serves it",
            )


def _multicast_on(config: EnvironmentConfig) -> Iterator[Problem]:
    gateway = config.transit_gateway
    if not config.channels:
        return
    if gateway is not None and not gateway.multicast:
        yield Problem(
            "transit_gateway.multicast",
            "false",
            "feeds are declared, and a Transit Gateway carries multicast only if it was created for it",
            aws.TGW_MULTICAST,
            "write multicast = true before the first deployment",
        )
    if gateway is None and config.vpcs:
        yield Problem(
            "transit_gateway",
            "(none)",
            "feeds are declared, and a VPC carries no multicast without a Transit Gateway",
            aws.TGW_MULTICAST,
            "write a table [transit_gateway] with multicast = true",
        )
    if gateway is None and not config.vpcs and config.multicast.interface is None:
        yield Problem(
            "multicast.interface",
            "(none)",
            "feeds are declared, and this machine does not know where to join them",
            "ip(7), IP_ADD_MEMBERSHIP",
            'write interface = "127.0.0.1", or the address of the network card',
        )


def _one_domain(config: EnvironmentConfig) -> Iterator[Problem]:
    gateway = config.transit_gateway
    if gateway is None:
        return
    if len(gateway.domains) > config.quotas.domains_per_transit_gateway:
        yield Problem(
            "transit_gateway.domains",
            len(gateway.domains),
            f"one Transit Gateway may have {config.quotas.domains_per_transit_gateway} domains",
            aws.TGW_QUOTAS,
            "put feeds into fewer domains, or have the quota raised and write it to "
            "quotas.domains_per_transit_gateway",
        )
    homes: dict[str, list[str]] = defaultdict(list)
    for name, domain in gateway.domains.items():
        for subnet in domain.subnets:
            homes[subnet].append(name)
        if domain.static_sources == domain.igmpv2:
            both = domain.static_sources
            yield Problem(
                f"transit_gateway.domains.{name}",
                f"static_sources {str(both).lower()} and igmpv2 {str(both).lower()}",
                "AWS refuses the two together"
                if both
                else "without either, any host may send to the groups and none can join by itself",
                aws.TGW_DOMAINS,
                "write one of static_sources = true and igmpv2 = true",
            )
    for subnet, names in homes.items():
        if len(names) > 1:
            yield Problem(
                f"transit_gateway.domains.{names[-1]}.subnets",
                subnet,
                f"a subnet is in one multicast domain only and {names[0]} has it",
                aws.TGW_MULTICAST,
                "write it to one domain, or give the other domain a subnet of its own",
            )


def _tunnels(config: EnvironmentConfig) -> Iterator[Problem]:
    for name, tunnel in config.tunnels.items():
        most = min(tunnel.underlay_mtu - aws.GRE_BYTES, aws.TRANSIT_GATEWAY_MTU)
        if tunnel.mtu > most:
            gre = most < aws.TRANSIT_GATEWAY_MTU
            yield Problem(
                f"tunnels.{name}.mtu",
                tunnel.mtu,
                f"GRE takes {aws.GRE_BYTES} of the underlay's {tunnel.underlay_mtu} bytes"
                if gre
                else f"a Transit Gateway drops packets over {aws.TRANSIT_GATEWAY_MTU} bytes",
                aws.GRE_OVERHEAD if gre else aws.TGW_QUOTAS,
                f"write {most} or less",
            )
    for channel, name, feed in _feeds(config):
        facts = config.tunnels.get(feed.tunnel) if feed.tunnel else None
        size = feed.payload_bytes + aws.IP_UDP_BYTES
        if facts is not None and size > facts.mtu:
            yield Problem(
                f"{feed_key(channel, name)}.payload_bytes",
                feed.payload_bytes,
                f"with {aws.IP_UDP_BYTES} bytes of IP and UDP it exceeds the {facts.mtu} bytes of "
                f"tunnels.{feed.tunnel}, and multicast fragments are dropped",
                aws.TGW_QUOTAS,
                f"write {facts.mtu - aws.IP_UDP_BYTES} or less if the venue's packets allow it, "
                "or raise the MTU of the tunnel and of its underlay",
            )


def _senders(config: EnvironmentConfig) -> Iterator[Problem]:
    for name, router in config.routers.items():
        if not aws.is_nitro(router.instance_type):
            yield Problem(
                f"routers.{name}.instance_type",
                router.instance_type,
                "a Transit Gateway takes multicast from Nitro instances only and this family runs on Xen",
                aws.TGW_MULTICAST,
                'write a type of a Nitro family, such as "c7i.xlarge"',
            )


# The derived topology


def _ways(config: EnvironmentConfig, topology: Topology) -> Iterator[Problem]:
    """Each feed reaches a domain, and each of its receivers stands in that domain."""
    for name, router in config.routers.items():
        if domain_of(config, router.lan_subnet) is None:
            yield Problem(
                f"routers.{name}.lan_subnet",
                router.lan_subnet,
                "multicast leaves the router here and the subnet is in no multicast domain",
                aws.TGW_MULTICAST,
                "write it to the subnets of a domain, or choose a subnet that is in one",
            )
    for flow in topology.flows:
        if flow.tunnel is None:
            yield Problem(
                f"{flow.key}.tunnel",
                "(none)",
                "multicast crosses no Direct Connect, VPN or peering, so a feed comes by a tunnel",
                aws.TGW_MULTICAST,
                "write the name of a tunnel from [tunnels]",
            )
    outside = {
        (member.receiver, member.subnet, flow.domain)
        for flow in topology.flows
        if flow.domain is not None
        for member in flow.members
        if domain_of(config, member.subnet) != flow.domain
    }
    for receiver, subnet, domain in sorted(outside, key=str):
        yield Problem(
            f"receivers.{receiver}.subnet",
            subnet,
            f"its feeds come in the multicast domain {domain} and the subnet is not in it",
            aws.TGW_MULTICAST,
            f"write it to transit_gateway.domains.{domain}.subnets, or choose one of those",
        )


def _membership(_: EnvironmentConfig, topology: Topology) -> Iterator[Problem]:
    crowded: dict[tuple[str, ...], list[tuple[IPv4Address, int]]] = defaultdict(list)
    for domain in topology.domains:
        for group, members in domain.members.items():
            if len(members) > aws.MEMBERS_PER_GROUP:
                receivers = tuple(dict.fromkeys(member.receiver for member in members))
                crowded[receivers].append((group, len(members)))
    for receivers, groups in crowded.items():
        group, count = groups[0]
        more = f" (and {len(groups) - 1} more)" if len(groups) > 1 else ""
        yield Problem(
            " + ".join(f"receivers.{receiver}.hosts" for receiver in receivers),
            count,
            f"group {group}{more} would have this many members and may have {aws.MEMBERS_PER_GROUP}",
            aws.TGW_QUOTAS,
            f"write at most {aws.MEMBERS_PER_GROUP} hosts in all",
        )
    total = sum(
        sum(map(len, domain.members.values())) + sum(map(len, domain.sources.values()))
        for domain in topology.domains
    )
    if total > aws.MEMBERS_AND_SOURCES:
        yield Problem(
            "receivers",
            f"{total} memberships",
            f"members and sources of all groups may be {aws.MEMBERS_AND_SOURCES} on one Transit Gateway",
            aws.TGW_QUOTAS,
            "write fewer hosts, or fewer channels and feeds for each receiver",
        )


def _rates(_: EnvironmentConfig, topology: Topology) -> Iterator[Problem]:
    for flow in topology.flows:
        many = len(flow.members) >= aws.MANY_RECEIVERS
        most = aws.FLOW_PACKETS_S_MANY if many else aws.FLOW_PACKETS_S
        if flow.peak_packets_s > most:
            yield Problem(
                f"{flow.key}.peak_packets_s",
                flow.peak_packets_s,
                f"a flow with {len(flow.members)} receivers carries {most} packets/s",
                aws.TGW_QUOTAS,
                f"write fewer than {aws.MANY_RECEIVERS} receivers for this feed"
                if many and flow.peak_packets_s <= aws.FLOW_PACKETS_S
                else "leave the feed out of this environment, for its channel cannot cross a Transit Gateway",
            )
        if flow.peak_bits_s > aws.FLOW_BITS_S:
            yield Problem(
                f"{flow.key}.peak_packets_s",
                flow.peak_packets_s,
                f"times {flow.ip_bytes} bytes it is {flow.peak_bits_s / 1e9:.2f} Gbps, and a flow carries 1",
                aws.TGW_QUOTAS,
                f"write {aws.FLOW_BITS_S // (flow.ip_bytes * 8)} or less, or the true largest payload_bytes",
            )
    yield from _totals(topology.flows)


def _totals(flows: tuple[Flow, ...]) -> Iterator[Problem]:
    packets = sum(flow.peak_packets_s for flow in flows)
    many = any(len(flow.members) >= aws.MANY_RECEIVERS for flow in flows)
    most = aws.TOTAL_PACKETS_S_MANY if many else aws.TOTAL_PACKETS_S
    if packets > most:
        yield Problem(
            "channels",
            f"{packets} packets/s",
            f"all flows together carry {most} packets/s" + (" once a feed has 10 receivers" if many else ""),
            aws.TGW_QUOTAS,
            "write fewer channels" + (" or receivers" if many else ""),
        )
    for zone, bits in sorted(_zone_bits(flows).items()):
        if bits > aws.ZONE_BITS_S:
            yield Problem(
                "receivers.subnet",
                zone,
                f"its receivers take {bits / 1e9:.1f} Gbps at the peak and a zone gets 20",
                aws.TGW_QUOTAS,
                "write some receivers to subnets of another zone, or fewer hosts, or fewer feeds",
            )


def _zone_bits(flows: tuple[Flow, ...]) -> Mapping[str, int]:
    """Bits per second into each zone, one copy per member: the reading of the quota that errs to safety."""
    bits: Counter[str] = Counter()
    for flow in flows:
        for member in flow.members:
            bits[member.zone] += flow.peak_bits_s
    return bits


CHECKS: tuple[Check, ...] = (
    _placeholder_accounts,
    _home_region,
    _archive,
    _node_pools,
    _overlaps,
    _sizes,
    _zones,
    _router_addresses,
    _channel_ids,
    _groups,
    _rendezvous,
    _multicast_on,
    _one_domain,
    _tunnels,
    _senders,
)
TOPOLOGY_CHECKS: tuple[Callable[[EnvironmentConfig, Topology], Iterator[Problem]], ...] = (
    _ways,
    _membership,
    _rates,
)

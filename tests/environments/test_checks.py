"""Every rule that an environment is checked against: a case that breaks it and one that just does not."""

# ruff: noqa: E501 (a table is read across: one case, one line where it fits a screen)

import copy
import re
import tomllib
from ipaddress import IPv4Network
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from environments.checks import overlaps
from environments.errors import ConfigError
from environments.files import parse

BASE = tomllib.loads("""
name = "place"
purpose = "What the cases below change"
region = "us-east-2"
exchange = "venue"
on_premises_cidrs = ["10.20.0.0/16"]

[contacts]
owner = "owner@example.com"

[accounts]
main = "200000000011"
vendor = "300000000011"

[archive.buckets]
account = "main"
prefix = "example"
replica_regions = ["us-west-2"]

[[channels]]
venue = "XCME"
id = 310
[channels.feeds]
incremental_a = { group = "232.1.0.1", port = 14310, source = "10.20.9.1", tunnel = "a", peak_packets_s = 1000, payload_bytes = 1400 }
incremental_b = { group = "232.1.0.2", port = 15310, source = "10.20.9.2", tunnel = "a", peak_packets_s = 1000, payload_bytes = 1400 }

[vpcs.transit]
account = "main"
cidr = "10.40.0.0/20"
[vpcs.transit.subnets]
wan = { cidr = "10.40.0.0/24", zone = "use2-az1" }
lan = { cidr = "10.40.1.0/24", zone = "use2-az1" }

[vpcs.trading]
account = "main"
cidr = "10.41.0.0/20"
[vpcs.trading.subnets]
feed = { cidr = "10.41.0.0/24", zone = "use2-az1" }
other = { cidr = "10.41.1.0/24", zone = "use2-az2" }

[transit_gateway]
account = "main"
multicast = true
[transit_gateway.domains.feeds]
static_sources = true
subnets = ["transit/lan", "trading/feed"]

[routers.cloud]
kind = "frr"
instance_type = "c7i.large"
wan_subnet = "transit/wan"
wan_address = "10.40.0.10"
lan_subnet = "transit/lan"
lan_address = "10.40.1.10"

[tunnels.a]
router = "cloud"
peer = "10.20.0.1"
inside_cidr = "169.254.100.0/30"

[receivers.trading]
subnet = "trading/feed"
instance_type = "c7i.2xlarge"
channels = [310]

[cluster]
account = "main"
vpc = "trading"
kubernetes_version = "1.35"
[cluster.node_pools]
cpu = { instance_type = "c7i.large", max_nodes = 2 }

[vendors.history]
account = "vendor"
bucket = "vendor-history"
region = "us-east-1"
schedule = "rate(1 day)"
""")

REMOVE = object()
A, B = "channels.0.feeds.incremental_a", "channels.0.feeds.incremental_b"
A_KEY, B_KEY = "channels[310].feeds.incremental_a", "channels[310].feeds.incremental_b"
DOMAIN = "transit_gateway.domains.feeds"
Edits = dict[str, Any]


def edited(edits: Edits) -> dict[str, Any]:
    values = copy.deepcopy(BASE)
    for path, value in edits.items():
        *way, last = path.split(".")
        table: Any = values
        for part in way:
            table = table[int(part)] if isinstance(table, list) else table.setdefault(part, {})
        if value is REMOVE:
            del table[last]
        elif isinstance(table, list):
            table.insert(int(last), value)
        else:
            table[last] = value
    return values


def sentences(edits: Edits) -> tuple[str, ...]:
    try:
        parse(edited(edits), Path("place.toml"))
    except ConfigError as error:
        return error.sentences
    return ()


def channel(number: int, n: int = 3, **feed: Any) -> dict[str, Any]:
    facts = {
        "group": f"232.1.{n}.1",
        "port": 14000 + n,
        "source": "10.20.9.1",
        "tunnel": "a",
        "peak_packets_s": 1000,
        "payload_bytes": 1400,
    }
    return {"venue": "XCME", "id": number, "feeds": {"incremental_a": facts | feed}}


def channels(count: int, **feed: Any) -> list[dict[str, Any]]:
    return [channel(1000 + n, n, **feed) for n in range(count)]


def domains(count: int) -> Edits:
    return (
        {
            f"transit_gateway.domains.d{n}": {"static_sources": True, "subnets": [f"trading/s{n}"]}
            for n in range(count)
        }
        | {
            f"vpcs.trading.subnets.s{n}": {"cidr": f"10.41.2.{16 * n}/28", "zone": "use2-az1"}
            for n in range(min(count, 16))
        }
        | {
            f"vpcs.trading.subnets.s{n}": {"cidr": f"10.41.3.{16 * (n - 16)}/28", "zone": "use2-az1"}
            for n in range(16, count)
        }
    )


def zone_load(hosts: int) -> Edits:
    """Three flows of 0.8 Gbps, each to so many hosts of one zone."""
    flows = channels(3, peak_packets_s=70_000)
    return {
        "channels": flows,
        "receivers.trading.channels": [flow["id"] for flow in flows],
        "receivers.trading.hosts": hosts,
    }


OTHER_VPC = {"account": "main", "subnets": {}}
# rule: (edits that break it, the key that the sentence names, words of the sentence, edits that just do not)
CASES: dict[str, tuple[Edits, str, str, Edits]] = {
    # values by themselves
    "name pattern": ({"name": "Place_1"}, "name", "lower-case", {"name": "place"}),
    "the name of a table": (
        {"vpcs.Third": OTHER_VPC | {"cidr": "10.50.0.0/20"}}, "vpcs.Third", "lower-case", {"vpcs.third": OTHER_VPC | {"cidr": "10.50.0.0/20"}},
    ),
    "name equals file": ({"name": "elsewhere"}, "name", 'write name = "place"', {"name": "place"}),
    "region is known": ({"region": "us-east-9"}, "region", 'write "us-east-', {"region": "us-east-2"}),
    "account id has 12 digits": (
        {"accounts.main": "20000000001"}, "accounts.main", "12 digits", {"accounts.main": "000000000012"},
    ),
    "account id is a string": (
        {"accounts.main": 200000000011}, "accounts.main", "12 digits", {"accounts.main": "200000000011"},
    ),
    "placeholder account in production": (
        {"production": True, "accounts.main": "111122223333"}, "accounts.main", "placeholder",
        {"production": False, "accounts.main": "111122223333"},
    ),
    "the other placeholder account in production": (
        {"production": True, "accounts.main": "123456789012"}, "accounts.main", "placeholder",
        {"production": True, "accounts.main": "123456789013"},
    ),
    "mail address": (
        {"contacts.owner": "desk"}, "contacts.owner", "by mail", {"contacts.owner": "desk@example.com"},
    ),
    "venue is a MIC": (
        {"channels.0.venue": "CME"}, "channels[310].venue", "XCME", {"channels.0.venue": "XNYM"},
    ),
    "channel id from 1": (
        {"channels.0.id": 0, "receivers": {}}, "channels[0].id", "65535", {"channels.0.id": 1, "receivers": {}},
    ),
    "channel id to 65535": (
        {"channels.0.id": 65_536, "receivers": {}}, "channels[65536].id", "65535",
        {"channels.0.id": 65_535, "receivers": {}},
    ),
    "port from 1024": ({f"{A}.port": 1023}, f"{A_KEY}.port", "1024", {f"{A}.port": 1024}),
    "port to 65535": ({f"{A}.port": 65_536}, f"{A_KEY}.port", "65535", {f"{A}.port": 65_535}),
    "a flag is no string": (
        {"transit_gateway.multicast": "yes"}, "transit_gateway.multicast", "boolean",
        {"transit_gateway.multicast": True},
    ),
    "a count is no string": (
        {"receivers.trading.hosts": "1"}, "receivers.trading.hosts", "Number of hosts",
        {"receivers.trading.hosts": 1},
    ),
    "a count is positive": (
        {f"{A}.peak_packets_s": 0}, f"{A_KEY}.peak_packets_s", "greater", {f"{A}.peak_packets_s": 1},
    ),
    "a choice is a known one": (
        {"routers.cloud.kind": "vyos"}, "routers.cloud.kind", "cisco-8000v", {"routers.cloud.kind": "cisco-8000v"},
    ),
    "a required key is there": (
        {f"{A}.port": REMOVE}, f"{A_KEY}.port", "required: UDP port", {f"{A}.source": "10.20.9.1"},
    ),
    "an unknown key is refused": (
        {f"{A}.prot": 1}, f"{A_KEY}.prot", 'write "port"', {f"{A}.port": 14310},
    ),
    "an image has a digest": (
        {"images.ingest": "example/ingest:1.0"}, "images.ingest", "digest",
        {"images.ingest": "example/ingest@sha256:" + "0a" * 32},
    ),
    "a vendor prefix starts without a slash": (
        {"vendors.history.prefix": "/a/"}, "vendors.history.prefix", "key prefix", {"vendors.history.prefix": "a/"},
    ),
    "a vendor prefix has no dot folder": (
        {"vendors.history.prefix": "a/../b"}, "vendors.history.prefix", "key prefix",
        {"vendors.history.prefix": "a/..b"},
    ),
    "a vendor bucket is a name": (
        {"vendors.history.bucket": "s3://x"}, "vendors.history.bucket", "s3://", {"vendors.history.bucket": "xyz"},
    ),
    "a schedule is an expression": (
        {"vendors.history.schedule": "daily"}, "vendors.history.schedule", "cron",
        {"vendors.history.schedule": "cron(0 6 * * ? *)"},
    ),
    "an instance type has a size": (
        {"receivers.trading.instance_type": "c7i"}, "receivers.trading.instance_type", "family and a size",
        {"receivers.trading.instance_type": "c7i.metal-24xl"},
    ),
    "a Kubernetes version": (
        {"cluster.kubernetes_version": "1.35.1"}, "cluster.kubernetes_version", "1.35",
        {"cluster.kubernetes_version": "1.34"},
    ),
    "a bucket prefix": (
        {"archive.buckets.prefix": "xn--x"}, "archive.buckets.prefix", "reserves", {"archive.buckets.prefix": "xn-x"},
    ),
    "a range is a range": (
        {"vpcs.transit.cidr": "10.40.0.0"}, "vpcs.transit.cidr", "no IPv4 range", {"vpcs.transit.cidr": "10.40.0.0/21"},
    ),
    "a range starts at its first address": (
        {"vpcs.transit.cidr": "10.40.0.1/20"}, "vpcs.transit.cidr", 'write "10.40.0.0/20"',
        {"vpcs.transit.cidr": "10.40.0.0/20"},
    ),
    "a tunnel takes a /30": (
        {"tunnels.a.inside_cidr": "169.254.100.0/31"}, "tunnels.a.inside_cidr", 'write "169.254.100.0/30"',
        {"tunnels.a.inside_cidr": "169.254.100.4/30"},
    ),
    "an address is an address": ({f"{A}.source": "venue"}, f"{A_KEY}.source", "no IPv4", {f"{A}.source": "10.20.9.9"}),
    "a source is unicast": ({f"{A}.source": "232.1.0.1"}, f"{A_KEY}.source", "unicast", {f"{A}.source": "223.255.255.1"}),
    # groups
    "group above 224.0.0.0/4": ({f"{A}.group": "240.0.0.1"}, f"{A_KEY}.group", "224.0.0.0/4", {f"{A}.group": "239.255.255.255"}),
    "group below 224.0.0.0/4": ({f"{A}.group": "223.255.255.255"}, f"{A_KEY}.group", "224.0.0.0/4", {f"{A}.group": "224.0.1.0"}),
    "group is not link-local": ({f"{A}.group": "224.0.0.255"}, f"{A_KEY}.group", "link-local", {f"{A}.group": "224.0.1.0"}),
    "232/8 needs a source": (
        {f"{A}.source": REMOVE}, f"{A_KEY}.group", "source-specific",
        {f"{A}.source": REMOVE, f"{A}.group": "239.1.0.1",
         "multicast.rendezvous": [{"address": "169.254.100.1", "groups": "239.0.0.0/8"}]},
    ),
    "no rendezvous point in 232/8": (
        {"multicast.rendezvous": [{"address": "169.254.100.1", "groups": "232.0.0.0/8"}]},
        "multicast.rendezvous.groups", "does nothing",
        {"multicast.rendezvous": [{"address": "169.254.100.1", "groups": "233.0.0.0/8"}]},
    ),
    "no rendezvous point over 232/8": (
        {"multicast.rendezvous": [{"address": "169.254.100.1", "groups": "224.0.0.0/4"}]},
        "multicast.rendezvous.groups", "does nothing",
        {"multicast.rendezvous": [{"address": "169.254.100.1", "groups": "224.0.0.0/5"}]},
    ),
    "a rendezvous point serves groups": (
        {"multicast.rendezvous": [{"address": "169.254.100.1", "groups": "10.0.0.0/8"}]},
        "multicast.rendezvous.groups", "224.0.0.0/4",
        {"multicast.rendezvous": [{"address": "169.254.100.1", "groups": "239.0.0.0/8"}]},
    ),
    "any-source groups need a rendezvous point": (
        {f"{A}.source": REMOVE, f"{A}.group": "239.1.0.1"}, f"{A_KEY}.group", "rendezvous",
        {f"{A}.group": "239.1.0.1"},
    ),
    "group and port once": (
        {"channels.1": channel(311, group="232.1.0.1", port=14310)},
        "channels[311].feeds.incremental_a.group", "already",
        {"channels.1": channel(311, group="232.1.0.1", port=14311)},
    ),
    "A and B on two groups": (
        {f"{B}.group": "232.1.0.1"}, f"{B_KEY}.group", "feed A has the same", {f"{B}.group": "232.1.0.3", f"{B}.port": 14310},
    ),
    "channel ids once": ({"channels.1": channel(310)}, "channels.id", "2 channels", {"channels.1": channel(311)}),
    "multicast on": (
        {"transit_gateway.multicast": False}, "transit_gateway.multicast", "multicast = true",
        {"transit_gateway.multicast": False, "channels": [], "receivers": {}},
    ),
    "feeds in VPCs need a gateway": (
        {"transit_gateway": REMOVE}, "transit_gateway", "carries no multicast",
        {"transit_gateway": REMOVE, "channels": [], "receivers": {}},
    ),
    "feeds on this machine need an interface": (
        {"transit_gateway": REMOVE, "vpcs": {}, "routers": {}, "tunnels": {}, "receivers": {}, "cluster": REMOVE,
         f"{A}.tunnel": REMOVE, f"{B}.tunnel": REMOVE}, "multicast.interface", "127.0.0.1",
        {"transit_gateway": REMOVE, "vpcs": {}, "routers": {}, "tunnels": {}, "receivers": {}, "cluster": REMOVE,
         f"{A}.tunnel": REMOVE, f"{B}.tunnel": REMOVE, "multicast.interface": "127.0.0.1"},
    ),
    # ranges and addresses
    "VPCs do not overlap": (
        {"vpcs.third": OTHER_VPC | {"cidr": "10.41.15.0/24"}}, "vpcs.third.cidr", "vpcs.trading.cidr",
        {"vpcs.third": OTHER_VPC | {"cidr": "10.41.16.0/24"}},
    ),
    "secondary ranges do not overlap": (
        {"vpcs.third": OTHER_VPC | {"cidr": "10.50.0.0/20", "secondary_cidrs": ["10.40.8.0/21"]}},
        "vpcs.third.secondary_cidrs", "vpcs.transit.cidr",
        {"vpcs.third": OTHER_VPC | {"cidr": "10.50.0.0/20", "secondary_cidrs": ["10.40.16.0/21"]}},
    ),
    "VPCs do not overlap own sites": (
        {"on_premises_cidrs": ["10.40.8.0/21"]}, "on_premises_cidrs", "vpcs.transit.cidr", {"on_premises_cidrs": ["10.40.16.0/21"]},
    ),
    "tunnels do not overlap anything": (
        {"tunnels.a.inside_cidr": "10.20.0.4/30"}, "tunnels.a.inside_cidr", "on_premises_cidrs",
        {"tunnels.a.inside_cidr": "10.21.0.4/30"},
    ),
    "tunnels do not overlap each other": (
        {"tunnels.b": BASE["tunnels"]["a"]}, "tunnels.b.inside_cidr", "tunnels.a.inside_cidr",
        {"tunnels.b": BASE["tunnels"]["a"] | {"inside_cidr": "169.254.100.4/30"}},
    ),
    "subnets do not overlap": (
        {"vpcs.trading.subnets.other.cidr": "10.41.0.128/25"}, "vpcs.trading.subnets.other.cidr", "subnets.feed",
        {"vpcs.trading.subnets.other.cidr": "10.41.1.0/25"},
    ),
    "a subnet lies in its VPC": (
        {"vpcs.trading.subnets.other.cidr": "10.42.0.0/24"}, "vpcs.trading.subnets.other.cidr", "inside its VPC",
        {"vpcs.trading.subnets.other.cidr": "10.42.0.0/24", "vpcs.trading.secondary_cidrs": ["10.42.0.0/20"]},
    ),
    "a VPC is at most a /16": (
        {"vpcs.third": OTHER_VPC | {"cidr": "10.50.0.0/15"}}, "vpcs.third.cidr", "write a /16",
        {"vpcs.third": OTHER_VPC | {"cidr": "10.50.0.0/16"}},
    ),
    "a subnet is at least a /28": (
        {"vpcs.trading.subnets.other.cidr": "10.41.1.0/29"}, "vpcs.trading.subnets.other.cidr", "write a /28",
        {"vpcs.trading.subnets.other.cidr": "10.41.1.0/28"},
    ),
    "a zone is of the region": (
        {"vpcs.trading.subnets.other.zone": "use1-az2"}, "vpcs.trading.subnets.other.zone", "use2-az1",
        {"vpcs.trading.subnets.other.zone": "use2-az3"},
    ),
    "a zone is an id, not a name": (
        {"vpcs.trading.subnets.other.zone": "us-east-2b"}, "vpcs.trading.subnets.other.zone", "use2-az1",
        {"vpcs.trading.subnets.other.zone": "use2-chi2-az1"},
    ),
    "a router address lies in its subnet": (
        {"routers.cloud.wan_address": "10.40.1.11"}, "routers.cloud.wan_address", "10.40.0.0/24",
        {"routers.cloud.wan_address": "10.40.0.4"},
    ),
    "AWS keeps the first four addresses": (
        {"routers.cloud.wan_address": "10.40.0.3"}, "routers.cloud.wan_address", "first 4",
        {"routers.cloud.wan_address": "10.40.0.4"},
    ),
    "AWS keeps the last address": (
        {"routers.cloud.wan_address": "10.40.0.255"}, "routers.cloud.wan_address", "the last",
        {"routers.cloud.wan_address": "10.40.0.254"},
    ),
    "an address is used once": (
        {"routers.second": BASE["routers"]["cloud"] | {"lan_address": "10.40.1.11"}},
        "routers.second.wan_address", "routers.cloud.wan_address",
        {"routers.second": BASE["routers"]["cloud"] | {"lan_address": "10.40.1.11", "wan_address": "10.40.0.11"}},
    ),
    # archive and cluster
    "a home region": (
        {"region": REMOVE}, "region", "home region", {"region": "us-east-2"},
    ),
    "an archive somewhere": ({"archive": {}}, "archive", "either", {"archive": {"folder": "var/archive"}}),
    "one archive": ({"archive.folder": "var/archive"}, "archive", "(both)", {"archive": {"folder": "var/archive"}}),
    "replica away from home": (
        {"archive.buckets.replica_regions": ["us-east-2"]}, "archive.buckets.replica_regions", "home",
        {"archive.buckets.replica_regions": ["us-east-1"]},
    ),
    "one replica per region": (
        {"archive.buckets.replica_regions": ["us-west-1", "us-west-1"]}, "archive.buckets.replica_regions", "one replica",
        {"archive.buckets.replica_regions": ["us-west-1", "us-west-2"]},
    ),
    "replica region is known": (
        {"archive.buckets.replica_regions": ["us-west-9"]}, "archive.buckets.replica_regions[0]", "no commercial",
        {"archive.buckets.replica_regions": []},
    ),
    "a node pool's limits": (
        {"cluster.node_pools.cpu.min_nodes": 3}, "cluster.node_pools.cpu.min_nodes", "at most 2",
        {"cluster.node_pools.cpu.min_nodes": 2},
    ),
    # names
    "an account is declared": (
        {"vpcs.trading.account": "mian"}, "vpcs.trading.account", 'write "main"', {"vpcs.trading.account": "main"},
    ),
    "the archive's account is declared": (
        {"archive.buckets.account": "x"}, "archive.buckets.account", "[accounts]", {"archive.buckets.account": "vendor"},
    ),
    "the cluster's VPC is declared": (
        {"cluster.vpc": "research"}, "cluster.vpc", "trading, transit", {"cluster.vpc": "transit"},
    ),
    "a router's subnet is declared": (
        {"routers.cloud.wan_subnet": "transit/wam"}, "routers.cloud.wan_subnet", 'write "transit/wan"',
        {"routers.cloud.wan_subnet": "transit/wan"},
    ),
    "a tunnel's router is declared": (
        {"tunnels.a.router": "clod"}, "tunnels.a.router", 'write "cloud"', {"tunnels.a.router": "cloud"},
    ),
    "a domain's subnet is declared": (
        {f"{DOMAIN}.subnets": ["transit/lan", "trading/feed", "trading/x"]}, f"{DOMAIN}.subnets", "known ones",
        {f"{DOMAIN}.subnets": ["transit/lan", "trading/feed", "trading/other"]},
    ),
    "a receiver's subnet is declared": (
        {"receivers.trading.subnet": "trading/fed"}, "receivers.trading.subnet", 'write "trading/feed"',
        {"receivers.trading.subnet": "trading/feed"},
    ),
    "a receiver's channel is declared": (
        {"receivers.trading.channels": [311]}, "receivers.trading.channels", 'write "310"', {"receivers.trading.channels": [310]},
    ),
    "a feed's tunnel is declared": ({f"{A}.tunnel": "b"}, f"{A_KEY}.tunnel", "no tunnel", {f"{A}.tunnel": "a"}),
    # the Transit Gateway
    "static sources or IGMPv2, not both": (
        {f"{DOMAIN}.igmpv2": True}, DOMAIN, "refuses the two", {f"{DOMAIN}.igmpv2": True, f"{DOMAIN}.static_sources": False},
    ),
    "static sources or IGMPv2, not neither": (
        {f"{DOMAIN}.static_sources": False}, DOMAIN, "any host may send", {f"{DOMAIN}.igmpv2": False},
    ),
    "a subnet in one domain": (
        {"transit_gateway.domains.second": {"igmpv2": True, "subnets": ["trading/feed"]}},
        "transit_gateway.domains.second.subnets", "one multicast domain",
        {"transit_gateway.domains.second": {"igmpv2": True, "subnets": ["trading/other"]}},
    ),
    "20 domains": (domains(20), "transit_gateway.domains", "quotas.domains_per", domains(19)),
    "domains up to the granted quota": (
        domains(20), "transit_gateway.domains", "20 domains", domains(20) | {"quotas.domains_per_transit_gateway": 21},
    ),
    "GRE fits the underlay": ({"tunnels.a.mtu": 1477}, "tunnels.a.mtu", "write 1476", {"tunnels.a.mtu": 1476}),
    "8500 bytes at most": (
        {"tunnels.a.underlay_mtu": 9001, "tunnels.a.mtu": 8501}, "tunnels.a.mtu", "write 8500",
        {"tunnels.a.underlay_mtu": 9001, "tunnels.a.mtu": 8500},
    ),
    "a payload fits the tunnel": (
        {f"{A}.payload_bytes": 1449}, f"{A_KEY}.payload_bytes", "write 1448", {f"{A}.payload_bytes": 1448},
    ),
    "senders are Nitro": (
        {"routers.cloud.instance_type": "c4.large"}, "routers.cloud.instance_type", "Xen",
        {"routers.cloud.instance_type": "c5.large"},
    ),
    "a router sends into a domain": (
        {"routers.cloud.lan_subnet": "transit/wan", "routers.cloud.lan_address": "10.40.0.11"},
        "routers.cloud.lan_subnet", "in no multicast domain",
        {"routers.cloud.lan_subnet": "transit/wan", "routers.cloud.lan_address": "10.40.0.11",
         f"{DOMAIN}.subnets": ["transit/wan", "trading/feed"]},
    ),
    "a feed comes by a tunnel": ({f"{A}.tunnel": REMOVE}, f"{A_KEY}.tunnel", "[tunnels]", {f"{A}.tunnel": "a"}),
    "a receiver stands in the domain": (
        {"receivers.trading.subnet": "trading/other"}, "receivers.trading.subnet", f"{DOMAIN}.subnets",
        {"receivers.trading.subnet": "trading/other", f"{DOMAIN}.subnets": ["transit/lan", "trading/other"]},
    ),
    "100 members a group": (
        {"receivers.trading.hosts": 101, "receivers.trading.feeds": ["incremental_a"]},
        "receivers.trading.hosts", "may have 100", {"receivers.trading.hosts": 100},
    ),
    "10,000 members and sources": (
        # 100 members and one source in each of 100 groups: 10,100
        {"channels": channels(100, payload_bytes=100), "receivers.trading.hosts": 100,
         "receivers.trading.channels": [1000 + n for n in range(100)]},
        "receivers", "10000",
        # 99 members: 9,900 and 100 sources, 10,000 in all
        {"channels": channels(100, payload_bytes=100), "receivers.trading.hosts": 99,
         "receivers.trading.channels": [1000 + n for n in range(100)]},
    ),
    "75,000 packets/s a flow": (
        {f"{A}.peak_packets_s": 75_001, "receivers.trading.hosts": 9}, f"{A_KEY}.peak_packets_s", "75000 packets/s",
        {f"{A}.peak_packets_s": 75_000, "receivers.trading.hosts": 9},
    ),
    "15,000 packets/s a flow from 10 receivers on": (
        {f"{A}.peak_packets_s": 15_001, "receivers.trading.hosts": 10}, f"{A_KEY}.peak_packets_s", "fewer than 10",
        {f"{A}.peak_packets_s": 15_001, "receivers.trading.hosts": 9},
    ),
    "15,000 packets/s itself with 10 receivers": (
        {f"{A}.peak_packets_s": 15_001, "receivers.trading.hosts": 10}, f"{A_KEY}.peak_packets_s", "15000",
        {f"{A}.peak_packets_s": 15_000, "receivers.trading.hosts": 10},
    ),
    "1 Gbps a flow": (
        # 2,472 + 28 bytes are 20,000 bits
        {"tunnels.a.underlay_mtu": 9001, "tunnels.a.mtu": 8500, f"{A}.payload_bytes": 2472, f"{A}.peak_packets_s": 50_001},
        f"{A_KEY}.peak_packets_s", "write 50000",
        {"tunnels.a.underlay_mtu": 9001, "tunnels.a.mtu": 8500, f"{A}.payload_bytes": 2472, f"{A}.peak_packets_s": 50_000},
    ),
    "20 Gbps a zone": (
        # 0.8 Gbps a flow: 70,000 packets/s of 1,428 bytes; 3 flows to 9 hosts are 21.6 Gbps, to 8 hosts 19.2
        zone_load(9), "receivers.subnet", "21.6 Gbps", zone_load(8),
    ),
    "2,500,000 packets/s in all": (
        {"channels": [*channels(50, peak_packets_s=50_000), channel(2000, 200, peak_packets_s=1)],
         "receivers": {}}, "channels", "2500000",
        {"channels": channels(50, peak_packets_s=50_000), "receivers": {}},
    ),
    "500,000 packets/s in all from 10 receivers on": (
        {"channels": [*channels(50, peak_packets_s=10_000), channel(2000, 200, peak_packets_s=1)],
         "receivers.trading.channels": [1000], "receivers.trading.hosts": 10}, "channels", "500000",
        {"channels": [*channels(50, peak_packets_s=10_000), channel(2000, 200, peak_packets_s=1)],
         "receivers.trading.channels": [1000], "receivers.trading.hosts": 9},
    ),
}  # fmt: skip


def test_the_base_of_all_cases_is_right() -> None:
    assert sentences({}) == ()


@pytest.mark.parametrize("rule", CASES)
def test_a_broken_rule_is_one_sentence_with_key_value_rule_source_and_remedy(rule: str) -> None:
    breaking, key, words, _ = CASES[rule]
    (sentence,) = sentences(breaking)
    assert sentence.startswith(f"place.toml: {key} = ")
    assert words in sentence
    assert re.fullmatch(r"place\.toml: \S.* = .+: .+ \(.+\); (write|put|leave) .+[^.]\.", sentence)


@pytest.mark.parametrize("rule", CASES)
def test_the_nearest_right_value_is_accepted(rule: str) -> None:
    assert sentences(CASES[rule][3]) == ()


def test_several_mistakes_are_all_reported() -> None:
    found = sentences({f"{A}.port": 80, "region": "mars", "receivers.trading.host": 2})
    assert [sentence.split(" = ")[0] for sentence in found] == [
        "place.toml: region",
        f"place.toml: {A_KEY}.port",
        "place.toml: receivers.trading.host",
    ]


def test_several_contradictions_are_all_reported() -> None:
    found = sentences(
        {f"{DOMAIN}.igmpv2": True, "vpcs.third": OTHER_VPC | {"cidr": "10.41.0.0/24"}, f"{B}.tunnel": "z"}
    )
    assert len(found) == 3


def test_too_many_members_are_one_sentence_however_many_groups_they_join() -> None:
    (sentence,) = sentences({"receivers.trading.hosts": 101})
    assert "group 232.1.0.1 (and 1 more) would have this many members" in sentence


def test_a_bucket_name_of_63_characters_is_the_longest() -> None:
    values = edited(
        {"name": "n" * 15, "archive.buckets.prefix": "p" * 31, "archive.buckets.replica_regions": []}
    )
    path = Path(f"{'n' * 15}.toml")
    assert len(parse(values, path).tick_bucket()) == 63
    values["archive"]["buckets"]["replica_regions"] = ["us-west-2", "ap-northeast-1"]
    with pytest.raises(ConfigError, match=r"has 68 characters and 63 are allowed.*prefix that is 5 shorter"):
        parse(values, path)


PREFIXES = st.builds(
    lambda address, length: IPv4Network((address, length), strict=False),
    st.integers(0, 2**32 - 1).map(lambda n: n & 0x0003FFFF | 0x0A000000),  # crowded, so that many overlap
    st.integers(14, 30),
)


@given(st.lists(PREFIXES, max_size=6))
def test_overlaps_are_found_exactly_where_two_ranges_share_an_address(ranges: list[IPv4Network]) -> None:
    found = list(overlaps((f"k{n}", cidr) for n, cidr in enumerate(ranges)))
    expected = [
        (f"k{later}", f"k{earlier}")
        for earlier, later in combinations(range(len(ranges)), 2)
        if ranges[earlier][0] <= ranges[later][-1] and ranges[later][0] <= ranges[earlier][-1]
    ]
    assert sorted((problem.key, problem.rule.split()[2]) for problem in found) == sorted(expected)


TABLES = [
    "",
    A,
    "archive.buckets",
    "vpcs.transit",
    "vpcs.transit.subnets.wan",
    DOMAIN,
    "tunnels.a",
    "cluster.node_pools.cpu",
]


@given(
    st.sampled_from(TABLES),
    st.from_regex(r"[a-z][a-z0-9_]{0,12}", fullmatch=True),
    st.integers() | st.text(max_size=3),
)
def test_an_unknown_key_is_refused_wherever_it_stands(table: str, key: str, value: object) -> None:
    path = f"{table}.zz_{key}" if table else f"zz_{key}"
    (sentence,) = sentences({path: value})
    assert "this key is unknown, the known ones are: " in sentence

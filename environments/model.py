"""What an environment holds: the facts of one place, read from ``environments/<name>.toml``.

Fields are typed values; what concerns more than one key is checked in `environments.checks`. Names that
stacks and operations must agree on (buckets, parameters) are derived here, once.
"""

import re
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from ipaddress import IPv4Address, IPv4Network
from typing import Annotated, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, Strict
from pydantic_core import PydanticCustomError

from environments import aws
from environments.errors import ConfigError


def _refusal(rule: str, source: str, remedy: str) -> PydanticCustomError:
    """An error of one value; `environments.load` adds key and value."""
    return PydanticCustomError("rule", "{rule}", {"rule": rule, "source": source, "remedy": remedy})


def _pattern(pattern: str, rule: str, source: str, remedy: str) -> BeforeValidator:
    def check(value: object) -> object:
        if not isinstance(value, str) or not re.fullmatch(pattern, value):
            raise _refusal(rule, source, remedy)
        return value

    return BeforeValidator(check)


def _cidr(value: object) -> IPv4Network:
    try:
        loose = IPv4Network(value, strict=False) if isinstance(value, str) else None
    except ValueError:
        loose = None
    if loose is None or "/" not in str(value):
        raise _refusal("this is no IPv4 range", "RFC 4632, section 3.1", 'write one such as "10.40.0.0/20"')
    if str(loose) != value:
        raise _refusal("a range must start at its first address", "RFC 4632, section 3.1", f'write "{loose}"')
    return loose


def _link(value: object) -> IPv4Network:
    cidr = _cidr(value)
    if cidr.prefixlen != 30:
        raise _refusal(
            "a tunnel has two ends and takes a /30", aws.POINT_TO_POINT, f'write "{cidr.network_address}/30"'
        )
    return cidr


def _address(value: object) -> IPv4Address:
    try:
        if isinstance(value, str):
            return IPv4Address(value)
    except ValueError:
        pass
    raise _refusal("this is no IPv4 address", "RFC 791, section 3.2", 'write one such as "10.40.0.10"')


def _unicast(value: object) -> IPv4Address:
    address = _address(value)
    if address in aws.MULTICAST or address.is_unspecified or address.is_reserved:
        raise _refusal(
            "a host has a unicast address", aws.MULTICAST_RANGES, 'write one such as "169.254.200.2"'
        )
    return address


def _group(value: object) -> IPv4Address:
    address = _address(value)
    if address not in aws.MULTICAST:
        raise _refusal(
            f"multicast groups lie in {aws.MULTICAST}",
            aws.MULTICAST_RANGES,
            "write a group in 239.0.0.0/8, or one in 232.0.0.0/8 together with its source",
        )
    if address in aws.LINK_LOCAL_GROUPS:
        raise _refusal(
            f"groups in {aws.LINK_LOCAL_GROUPS} are link-local and no router forwards them",
            aws.LINK_LOCAL,
            "write a group in 239.0.0.0/8, or one in 232.0.0.0/8 together with its source",
        )
    return address


def _region(value: object) -> str:
    if isinstance(value, str) and value in aws.REGIONS:
        return value
    close = get_close_matches(str(value), sorted(aws.REGIONS), n=1)
    raise _refusal(
        "this is no commercial AWS region",
        aws.REGION_LIST,
        f'write "{close[0]}"' if close else 'write one such as "us-east-2"',
    )


def _between(first: int, last: int, rule: str, source: str, remedy: str) -> BeforeValidator:
    def check(value: object) -> object:
        if not isinstance(value, int) or isinstance(value, bool) or not first <= value <= last:
            raise _refusal(rule, source, remedy)
        return value

    return BeforeValidator(check)


Flag = Annotated[bool, Strict()]
Count = Annotated[int, Strict(), Field(ge=1)]
Cidr = Annotated[IPv4Network, BeforeValidator(_cidr)]
HostAddress = Annotated[IPv4Address, BeforeValidator(_unicast)]
Group = Annotated[IPv4Address, BeforeValidator(_group)]
Region = Annotated[str, BeforeValidator(_region)]
Name = Annotated[
    str,
    _pattern(
        r"[a-z][a-z0-9-]{0,30}",
        "a name has up to 31 lower-case letters, digits and hyphens, a letter first",
        aws.KIT,
        'write one such as "transit"',
    ),
]
SubnetName = Annotated[
    str,
    _pattern(
        r"[a-z][a-z0-9-]*/[a-z][a-z0-9-]*",
        "a subnet is named by its VPC and its own name",
        aws.KIT,
        'write "<vpc>/<subnet>", such as "transit/lan-a"',
    ),
]
AccountId = Annotated[
    str,
    _pattern(
        r"\d{12}",
        "an account id is a string of 12 digits",
        aws.ACCOUNT_IDS,
        "write all 12 in quotes, leading zeros included",
    ),
]
InstanceType = Annotated[
    str,
    _pattern(
        r"[a-z][a-z0-9-]*\.[a-z0-9-]+",
        "an instance type is a family and a size",
        "Instance type names, https://docs.aws.amazon.com/ec2/latest/instancetypes/instance-type-names.html",
        'write one such as "c7i.4xlarge"',
    ),
]
Mic = Annotated[
    str,
    _pattern(
        r"[A-Z0-9]{4}",
        "a venue is a market identifier code of four capitals or digits",
        aws.MIC,
        'write one such as "XCME"',
    ),
]
ChannelId = Annotated[
    int,
    _between(
        1,
        65_535,
        "a channel id is a number from 1 to 65535, for the tables store it in 16 bits",
        aws.MARKET_TABLES,
        "write the number that the venue's feed configuration gives, such as 310",
    ),
]
Port = Annotated[
    int,
    _between(
        1_024,
        65_535,
        "a feed's UDP port is a number from 1024 to 65535, for ports below need a privilege",
        aws.PORTS,
        "write the port that the venue's feed configuration gives, such as 14310",
    ),
]
Image = Annotated[
    str,
    _pattern(
        r"[a-z0-9][a-z0-9.:/_-]*@sha256:[0-9a-f]{64}",
        "an image is pinned by its digest, for a tag may point elsewhere tomorrow",
        aws.IMAGE_DIGESTS,
        'write "<repository>@sha256:<64 hexadecimal digits>"',
    ),
]
BucketName = Annotated[
    str,
    _pattern(
        r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]",
        "a bucket name has 3 to 63 lower-case letters, digits, dots and hyphens",
        aws.BUCKET_NAMES,
        "write the name of the bucket without s3:// and without a key",
    ),
]
KeyPrefix = Annotated[
    str,
    _pattern(
        r"(?!/)(?!.*//)(?!(.*/)?\.\.?/).*",
        "a key prefix cannot start with / or contain //, /./ or /../",
        aws.DATASYNC,
        'write one such as "glbx-mdp3/"',
    ),
]
Schedule = Annotated[
    str,
    _pattern(
        r"(cron|rate)\(.+\)",
        "a schedule is a cron or rate expression",
        aws.DATASYNC_SCHEDULE,
        'write one such as "cron(0 6 * * ? *)"',
    ),
]
MailAddress = Annotated[
    str,
    _pattern(
        r"[^@\s]+@[^@\s]+\.[^@\s]+",
        "alarms and owners are reached by mail",
        "RFC 5321, section 4.1.2",
        'write an address such as "feeds@example.com"',
    ),
]
FeedName = Literal["incremental_a", "incremental_b", "snapshot"]
FEED_NAMES: tuple[FeedName, ...] = get_args(FeedName)


class Section(BaseModel):
    """A table of the TOML file. Immutable; an unknown key is an error, never ignored."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Contacts(Section):
    """Who answers."""

    owner: MailAddress
    """Mail address of the team that owns the environment."""
    on_call: MailAddress | None = None
    """Mail address that alarms go to; the owner's where none is given."""


class Buckets(Section):
    """An archive on S3: one bucket in the home region, one more in each replica region."""

    account: Name
    """Name of the account that owns the buckets."""
    prefix: Annotated[
        str,
        _pattern(
            r"(?!xn--|sthree-|amzn-s3-demo-)[a-z0-9][a-z0-9-]{1,30}",
            "a prefix has 2 to 31 lower-case letters, digits, hyphens and no beginning that S3 reserves",
            aws.BUCKET_NAMES,
            'write one that is unique to your firm, such as "example-quant"',
        ),
    ]
    """Leading part of every bucket name; unique to the firm."""
    replica_regions: tuple[Region, ...] = ()
    """AWS regions that hold a full copy."""
    hot_days: Count = 90
    """Days before objects move from Standard to Glacier Instant Retrieval."""
    noncurrent_days: Count = 30
    """Days that an overwritten or deleted version can be brought back."""
    retention_days: Count | None = None
    """Days that Object Lock keeps a version from being deleted; no lock where none is given."""


class Archive(Section):
    """Where the tables are: a folder of this machine, or buckets; one of the two."""

    folder: str | None = None
    """Folder, relative to the working directory."""
    buckets: Buckets | None = None
    """Buckets on S3."""


class Feed(Section):
    """One multicast feed of a channel."""

    group: Group
    """IPv4 multicast group."""
    port: Port
    """UDP port."""
    source: HostAddress | None = None
    """IPv4 address that the venue sends from, as receivers see it; makes the join source-specific."""
    tunnel: Name | None = None
    """Name of the tunnel through which the feed reaches AWS."""
    peak_packets_s: Count
    """Most packets in any second."""
    payload_bytes: Annotated[Count, Field(le=65_507)]
    """Largest UDP payload, bytes."""

    @property
    def peak_bits_s(self) -> int:
        """IP bits per second when every packet of the busiest second is as large as the largest."""
        return self.peak_packets_s * (self.payload_bytes + aws.IP_UDP_BYTES) * 8


class Feeds(Section):
    """The feeds of one channel."""

    incremental_a: Feed
    """Incremental feed A."""
    incremental_b: Feed | None = None
    """Incremental feed B: the same packets by another way."""
    snapshot: Feed | None = None
    """Full books in a loop, to recover from a loss."""

    def items(self) -> Iterator[tuple[FeedName, Feed]]:
        """Name and feed of those that are declared."""
        for name in FEED_NAMES:
            feed: Feed | None = getattr(self, name)
            if feed is not None:
                yield name, feed


class Channel(Section):
    """A part of a venue's instruments, sent on feeds of its own."""

    venue: Mic
    """Market identifier code (ISO 10383)."""
    id: ChannelId
    """Channel number of the venue; unique in the environment."""
    products: str = ""
    """What it carries, for people."""
    feeds: Feeds
    """Its multicast feeds."""


class Rendezvous(Section):
    """A PIM rendezvous point: where any-source groups meet their sources."""

    address: HostAddress
    """IPv4 address of the router that plays the part."""
    groups: Cidr
    """Groups that it serves; never in 232.0.0.0/8."""


class Multicast(Section):
    """How this side of the network joins groups."""

    interface: HostAddress | None = None
    """IPv4 address of the interface that this machine joins on; hosts on AWS use their own."""
    rendezvous: tuple[Rendezvous, ...] = ()
    """Rendezvous points of any-source groups that come through routers."""


class Subnet(Section):
    """A range of one VPC in one Availability Zone."""

    cidr: Cidr
    """IPv4 range inside the VPC's."""
    zone: str
    """Availability Zone id, such as use2-az1: the same place in every account, as names are not."""


class Vpc(Section):
    """A private network in the home region."""

    account: Name
    """Name of the account that owns it."""
    cidr: Cidr
    """IPv4 range of the VPC, /16 to /28."""
    secondary_cidrs: tuple[Cidr, ...] = ()
    """Further ranges, as for pods."""
    subnets: Mapping[Name, Subnet]
    """Its subnets by name."""


class MulticastDomain(Section):
    """Subnets among which a Transit Gateway carries multicast."""

    subnets: tuple[SubnetName, ...]
    """Associated subnets; a subnet is in one domain only."""
    static_sources: Flag = False
    """Only registered interfaces may send; members are registered too."""
    igmpv2: Flag = False
    """Hosts join and leave by IGMPv2; any of them may send."""


class TransitGateway(Section):
    """The Transit Gateway that joins the VPCs and carries the feeds."""

    account: Name
    """Name of the account that owns it; it is shared with the accounts of the VPCs."""
    asn: Annotated[Count, Field(ge=64_512, le=65_534)] = 64_512
    """Private 16-bit autonomous system number of the AWS side."""
    multicast: Flag = False
    """Multicast support; can only be given when the gateway is created."""
    domains: Mapping[Name, MulticastDomain] = {}
    """Multicast domains by name."""


class Router(Section):
    """A virtual router that ends tunnels and sends their multicast into a domain."""

    kind: Literal["frr", "cisco-8000v"]
    """FRR on Linux, or Cisco Catalyst 8000V from the Marketplace."""
    instance_type: InstanceType
    """EC2 instance type, on Nitro."""
    wan_subnet: SubnetName
    """Subnet of the interface that tunnels end on."""
    wan_address: HostAddress
    """IPv4 address of that interface, inside wan_subnet."""
    lan_subnet: SubnetName
    """Subnet of the interface that multicast leaves by; in a multicast domain."""
    lan_address: HostAddress
    """IPv4 address of that interface, inside lan_subnet."""


class Tunnel(Section):
    """A GRE tunnel between the far side's router and one of ours."""

    router: Name
    """Name of our router."""
    peer: HostAddress
    """IPv4 address of the far router, outside the tunnel."""
    inside_cidr: Annotated[IPv4Network, BeforeValidator(_link)]
    """The /30 inside the tunnel: its first host is the far router, its second is ours."""
    underlay_mtu: Annotated[Count, Field(ge=576, le=9_001)] = 1_500
    """Bytes of the largest IP packet on the way between the routers."""
    mtu: Annotated[Count, Field(ge=552)] = 1_476
    """Bytes of the largest IP packet inside the tunnel."""


class Receiver(Section):
    """Hosts that join the same feeds."""

    subnet: SubnetName
    """Subnet that they stand in."""
    hosts: Count = 1
    """Number of hosts."""
    instance_type: InstanceType
    """EC2 instance type."""
    channels: tuple[ChannelId, ...]
    """Channels that they receive."""
    feeds: tuple[FeedName, ...] = FEED_NAMES
    """Feeds of each channel that they join, as far as the channel has them."""


class NodePool(Section):
    """Equal nodes of the cluster."""

    instance_type: InstanceType
    """EC2 instance type."""
    min_nodes: Annotated[int, Strict(), Field(ge=0)] = 0
    """Nodes that always run."""
    max_nodes: Count
    """Most nodes that may run."""


class Cluster(Section):
    """An EKS cluster for research."""

    account: Name
    """Name of the account that owns it; also that of its VPC."""
    vpc: Name
    """Name of the VPC."""
    kubernetes_version: Annotated[
        str,
        _pattern(
            r"1\.\d{2}",
            "a Kubernetes version is major and minor",
            "EKS versions, https://docs.aws.amazon.com/eks/latest/userguide/kubernetes-versions.html",
            'write it in quotes, such as "1.35"',
        ),
    ]
    """Kubernetes version, major and minor."""
    node_pools: Mapping[Name, NodePool]
    """Node pools by name."""


class Vendor(Section):
    """Somebody else's bucket that is copied into the archive."""

    account: Name
    """Name of the vendor's account."""
    bucket: BucketName
    """Bucket name."""
    region: Region
    """AWS region of the bucket."""
    prefix: KeyPrefix = ""
    """Beginning of the keys to copy; everything where none is given."""
    schedule: Schedule
    """When the copy starts: a cron or rate expression, UTC."""


class Quotas(Section):
    """What AWS has granted the accounts, where it can be raised."""

    domains_per_transit_gateway: Count = 20
    """Multicast domains of one Transit Gateway."""


class EnvironmentConfig(Section):
    """The facts of one place."""

    name: Name
    """Name of the environment and of its file."""
    purpose: str
    """One line for people."""
    production: Flag = False
    """Real accounts and a real exchange: stand-ins are refused."""
    region: Region | None = None
    """Home region on AWS; none where everything is on this machine."""
    exchange: Literal["simulator", "venue"]
    """Who sends the feeds."""
    contacts: Contacts
    """Who answers."""
    accounts: Mapping[Name, AccountId] = {}
    """AWS account ids by name."""
    archive: Archive
    """Where the tables are."""
    channels: tuple[Channel, ...] = ()
    """Channels that are received."""
    multicast: Multicast = Multicast()
    """How this side joins groups."""
    on_premises_cidrs: tuple[Cidr, ...] = ()
    """IPv4 ranges of the firm's own sites."""
    vpcs: Mapping[Name, Vpc] = {}
    """VPCs by name."""
    transit_gateway: TransitGateway | None = None
    """What joins the VPCs and carries the feeds."""
    routers: Mapping[Name, Router] = {}
    """Virtual routers by name."""
    tunnels: Mapping[Name, Tunnel] = {}
    """GRE tunnels by name."""
    receivers: Mapping[Name, Receiver] = {}
    """Groups of equal receiver hosts by name."""
    cluster: Cluster | None = None
    """The research cluster; none means a Ray on this machine."""
    vendors: Mapping[Name, Vendor] = {}
    """Vendors' buckets by name."""
    images: Mapping[Name, Image] = {}
    """Container images by job, pinned by digest."""
    quotas: Quotas = Quotas()
    """What AWS has granted."""

    def tick_bucket(self, region: str | None = None) -> str:
        """Name of the tick bucket in ``region`` (default: the home region)."""
        if self.archive.buckets is None:
            raise ConfigError(
                f"the archive of {self.name} is the folder {self.archive.folder}, not a bucket; "
                "choose an environment with [archive.buckets]"
            )
        return f"{self.archive.buckets.prefix}-ticks-{self.name}-{region or self.region}"

    @property
    def archive_uri(self) -> str:
        """Where the tables are: a folder, relative to the working directory, or ``s3://<bucket>``."""
        return self.archive.folder if self.archive.folder is not None else f"s3://{self.tick_bucket()}"

    def parameter(self, name: str) -> str:
        """Name of the SSM parameter by which stacks tell operations ``name``, such as "cluster/endpoint"."""
        return f"/tickworks/{self.name}/{name}"

    @property
    def on_aws(self) -> bool:
        """Whether anything of this environment is deployed to AWS."""
        return bool(self.archive.buckets or self.vpcs or self.transit_gateway or self.cluster or self.vendors)

    def channel(self, id: int) -> Channel:
        """The channel of that number."""
        for channel in self.channels:
            if channel.id == id:
                return channel
        known = ", ".join(str(channel.id) for channel in self.channels)
        raise ConfigError(f"{self.name} has no channel {id}; it has {known or 'none'}")

    def subnet(self, name: str) -> Subnet:
        """The subnet ``<vpc>/<subnet>``."""
        vpc, _, subnet = name.partition("/")
        if vpc in self.vpcs and subnet in self.vpcs[vpc].subnets:
            return self.vpcs[vpc].subnets[subnet]
        raise ConfigError(f"{self.name} has no subnet {name}; it has {', '.join(self.subnets()) or 'none'}")

    def subnets(self) -> tuple[str, ...]:
        """Names of all subnets, ``<vpc>/<subnet>``."""
        return tuple(f"{vpc}/{subnet}" for vpc, facts in self.vpcs.items() for subnet in facts.subnets)

"""Facts of AWS and of IP multicast that an environment is checked against, each with its source.

Read in November 2026. Limits change: compare those of the Transit Gateway with Service Quotas before a
first deployment.
"""

from ipaddress import IPv4Network

# Who says so. Every refusal names one of these.
TGW_QUOTAS = "Transit Gateway quotas, https://docs.aws.amazon.com/vpc/latest/tgw/transit-gateway-quotas.html#multicast-quotas"
TGW_MULTICAST = (
    "Multicast on transit gateways, https://docs.aws.amazon.com/vpc/latest/tgw/tgw-multicast-overview.html"
)
TGW_DOMAINS = "Working with multicast, https://docs.aws.amazon.com/vpc/latest/tgw/working-with-multicast.html"
VPC_CIDRS = "VPC CIDR blocks, https://docs.aws.amazon.com/vpc/latest/userguide/vpc-cidr-blocks.html"
SUBNETS = "Subnet CIDR blocks, https://docs.aws.amazon.com/vpc/latest/userguide/subnet-sizing.html"
REGION_LIST = "AWS Regions, https://docs.aws.amazon.com/global-infrastructure/latest/regions/aws-regions.html"
ZONE_IDS = (
    "AWS Availability Zones, "
    "https://docs.aws.amazon.com/global-infrastructure/latest/regions/aws-availability-zones.html"
)
ACCOUNT_IDS = (
    "AWS account identifiers, "
    "https://docs.aws.amazon.com/accounts/latest/reference/manage-acct-identifiers.html"
)
BUCKET_NAMES = (
    "Bucket naming rules, https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html"
)
REPLICATION = "Replicating objects, https://docs.aws.amazon.com/AmazonS3/latest/userguide/replication.html"
DATASYNC = "CreateLocationS3, https://docs.aws.amazon.com/datasync/latest/userguide/API_CreateLocationS3.html"
DATASYNC_SCHEDULE = (
    "TaskSchedule, https://docs.aws.amazon.com/datasync/latest/userguide/API_TaskSchedule.html"
)
IMAGE_DIGESTS = "OCI image specification, Descriptor, Digests"
MULTICAST_RANGES = "RFC 5771, section 3"
LINK_LOCAL = "RFC 5771, section 4"
SOURCE_SPECIFIC = "RFC 4607, section 1"
SPARSE_MODE = "RFC 7761, section 3.1"
GRE_OVERHEAD = "RFC 2784: 20 B of IPv4 and 4 B of GRE"
POINT_TO_POINT = "GRE point-to-point links of this kit, docs/environments.md"
PORTS = "capabilities(7), CAP_NET_BIND_SERVICE"
MIC = "ISO 10383"
MARKET_TABLES = "market tables, workloads/ticks/schema.py"
KIT = "docs/environments.md"

_REGIONS = """
    af-south-1 ap-east-1 ap-east-2 ap-northeast-1 ap-northeast-2 ap-northeast-3 ap-south-1 ap-south-2
    ap-southeast-1 ap-southeast-2 ap-southeast-3 ap-southeast-4 ap-southeast-5 ap-southeast-6 ap-southeast-7
    ca-central-1 ca-west-1 eu-central-1 eu-central-2 eu-north-1 eu-south-1 eu-south-2 eu-west-1 eu-west-2
    eu-west-3 il-central-1 me-central-1 me-south-1 me-west-1 mx-central-1 sa-east-1 sa-west-1 us-east-1
    us-east-2 us-west-1 us-west-2
"""
REGIONS = frozenset(_REGIONS.split())
"""Commercial regions. China, GovCloud and sovereign clouds are partitions of their own."""

PLACEHOLDER_ACCOUNTS = frozenset(
    {"111122223333", "444455556666", "777788889999", "123456789012", "999988887777", "000000000000"}
    | {str(digit) * 12 for digit in range(1, 10)}
)
"""Account ids that documentation and emulators use; nobody's account."""

RESERVED_ADDRESSES = 4
"""First addresses of every subnet that AWS keeps, the network address included; it also keeps the last."""

SMALLEST_PREFIX, LARGEST_PREFIX = 28, 16
"""Prefix lengths between which the CIDR block of a VPC or subnet must lie."""

MULTICAST = IPv4Network("224.0.0.0/4")
LINK_LOCAL_GROUPS = IPv4Network("224.0.0.0/24")
SOURCE_SPECIFIC_GROUPS = IPv4Network("232.0.0.0/8")

MEMBERS_PER_GROUP = 100
MEMBERS_AND_SOURCES = 10_000
"""Per Transit Gateway, static and IGMP together."""
MANY_RECEIVERS = 10
"""From so many members on the lower packet rates hold. AWS states "fewer" and "more than 10": 10 itself
is taken to be many."""
FLOW_PACKETS_S = 75_000
FLOW_PACKETS_S_MANY = 15_000
TOTAL_PACKETS_S = 2_500_000
TOTAL_PACKETS_S_MANY = 500_000
FLOW_BITS_S = 1_000_000_000
ZONE_BITS_S = 20_000_000_000
TRANSIT_GATEWAY_MTU = 8_500
"""Bytes of the IP packet. Multicast fragments are dropped."""

GRE_BYTES = 24
IP_UDP_BYTES = 28

_XEN = "c1 c3 c4 d2 f1 g2 g3 g3s h1 i2 i3 m1 m2 m3 m4 p2 p3 r3 r4 t1 t2 x1 x1e"
XEN_FAMILIES = frozenset(_XEN.split())
"""Instance families that run on Xen; every other one, and every ``.metal``, runs on Nitro."""


def is_nitro(instance_type: str) -> bool:
    """Whether a Transit Gateway accepts multicast that an instance of this type sends."""
    family, _, size = instance_type.partition(".")
    return family not in XEN_FAMILIES or size.startswith("metal")


def zone_prefix(region: str) -> str:
    """What the ids of a region's zones begin with: ``us-east-2`` gives ``use2``, as in ``use2-az1``."""
    area, direction, number = region.split("-")
    compass = direction.replace("north", "n").replace("south", "s").replace("central", "c")
    return area + compass.replace("east", "e").replace("west", "w") + number

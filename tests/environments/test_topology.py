"""The multicast topology that follows from an environment."""

from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from environments.files import load
from environments.topology import topology


def test_prod_sends_each_feed_by_its_own_router_into_one_domain() -> None:
    flows = topology(load("prod")).flows
    assert {(flow.feed, flow.tunnel, flow.router, flow.domain) for flow in flows} == {
        ("incremental_a", "a", "cloud-a", "feeds"),
        ("incremental_b", "b", "cloud-b", "feeds"),
        ("snapshot", "a", "cloud-a", "feeds"),
    }


def test_members_are_one_interface_per_host_that_joins() -> None:
    flow = topology(load("prod")).flows[0]
    assert [(member.host, member.zone) for member in flow.members] == [
        ("trading-a-1", "use2-az1"),
        ("trading-a-2", "use2-az1"),
        ("trading-b-1", "use2-az2"),
        ("trading-b-2", "use2-az2"),
        ("recorder-1", "use2-az1"),
    ]


def test_a_domain_knows_the_sources_and_members_of_each_group() -> None:
    (domain,) = topology(load("prod")).domains
    group = IPv4Address("232.31.0.129")
    assert domain.sources[group] == ("cloud-b",)
    assert len(domain.members[group]) == 5
    assert domain.static_sources
    assert not domain.igmpv2


def test_the_far_router_has_the_first_host_of_the_tunnel_and_ours_the_second() -> None:
    link = topology(load("prod")).links[1]
    assert link.inside == IPv4Network("169.254.100.4/30")
    assert (link.inner_far, link.inner_near) == (IPv4Address("169.254.100.5"), IPv4Address("169.254.100.6"))
    assert (link.outer_far, link.outer_near) == (IPv4Address("10.20.1.1"), IPv4Address("10.40.2.10"))


def test_the_gateway_is_shared_with_the_other_accounts_that_own_a_vpc() -> None:
    assert topology(load("prod")).shared_with == ("trading", "research")
    assert topology(load("dev")).shared_with == ()


def test_sources_are_the_original_senders() -> None:
    assert topology(load("prod")).sources == (IPv4Address("192.168.100.11"), IPv4Address("192.168.100.139"))


@pytest.mark.parametrize(
    ("receivers", "distribution"),
    [
        ({"r": ("trading/feed-a", 1)}, "one-receiver"),
        ({"r": ("trading/feed-a", 2)}, "one-vpc"),
        ({"r": ("trading/feed-a", 1), "s": ("trading/feed-b", 1)}, "one-vpc"),
        ({"r": ("trading/feed-a", 1), "s": ("research/feed-a", 1)}, "several-vpcs"),
    ],
)
def test_the_distribution_follows_from_where_the_receivers_stand(
    receivers: dict[str, tuple[str, int]], distribution: str, tmp_path: Path
) -> None:
    text = (Path(__file__).parents[2] / "environments" / "prod.toml").read_text()
    head, _, tail = text.partition("[receivers.trading-a]")
    tables = "".join(
        f'[receivers.{name}]\nsubnet = "{subnet}"\nhosts = {hosts}\ninstance_type = "c7i.large"\n'
        "channels = [310]\n"
        for name, (subnet, hosts) in receivers.items()
    )
    path = tmp_path / "prod.toml"
    path.write_text(head + tables + tail[tail.index("[cluster]") :])
    assert topology(load(path)).distribution == distribution


def test_an_any_source_group_meets_at_the_narrowest_rendezvous_point(tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "environments" / "dev.toml").read_text()
    text = text.replace(
        'group = "232.31.0.3"\nport = 16310\nsource = "169.254.200.2"', 'group = "239.1.0.3"\nport = 16310'
    )
    path = tmp_path / "dev.toml"
    path.write_text(
        text
        + '[[multicast.rendezvous]]\naddress = "169.254.100.1"\ngroups = "239.0.0.0/8"\n'
        + '[[multicast.rendezvous]]\naddress = "169.254.100.2"\ngroups = "239.1.0.0/16"\n'
    )
    by_source, _, any_source = topology(load(path)).flows
    assert any_source.rendezvous == IPv4Address("169.254.100.2")
    assert by_source.rendezvous is None

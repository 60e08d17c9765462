"""The schedule as a pure function; the sender against plain sockets on loopback multicast."""

import errno
import socket
import struct
import time
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import skip_or_fail
from workloads.exchange.feed import Endpoint, FeedError, Impairment, Schedule, Sender, SendLog
from workloads.exchange.packets import Packets

T0 = 1_700_000_000_000_000_000
GROUPS = {"A": "239.195.8.1", "B": "239.195.8.2", "S": "239.195.8.3"}


def packets(n, *, first=1, spacing_ns=10_000, start_ns=T0):
    """n packets of 12 to 42 bytes with consecutive sequence numbers, one every `spacing_ns`."""
    return Packets.of(
        [
            struct.pack("<IQ", first + i, start_ns + i * spacing_ns) + bytes([i & 255]) * (i % 31)
            for i in range(n)
        ]
    )


def departures(stream, impairments, *, cuts=(), feeds=("A", "B"), seed=1, snapshots=None, speed=1.0):
    """(due ns, feed, index, payload) of everything that leaves, when the packets come in these blocks."""
    schedule = Schedule(feeds, impairments, seed=seed, speed=speed)
    edges = [0, *sorted(cuts), len(stream)]
    left = []
    for begin, end in pairwise(edges):
        block = stream.select(slice(begin, end))
        late = None
        if snapshots is not None:
            since = block.ts_sent[0] if len(block) and begin else 0
            until = stream.ts_sent[end] if end < len(stream) else 1 << 62
            if len(block):
                late = snapshots.select((snapshots.ts_sent >= since) & (snapshots.ts_sent < until))
        left.append(schedule.add(block, late))
    left.append(schedule.rest())
    return [
        (int(d.due[i]), schedule.feeds[d.feed[i]], int(d.index[i]), d.payload(i))
        for d in left
        for i in range(len(d))
    ]


def indices(rows, feed):
    return [index for _, name, index, _ in rows if name == feed]


@st.composite
def impairment(draw):
    share = st.sampled_from([0.0, 0.1, 0.5])
    ns = st.sampled_from([0, 1, 5_000, 10_000, 95_000])
    first = draw(st.integers(0, 60))
    outages = draw(st.sampled_from([(), ((first, first),), ((first, first + 20), (70, 75))]))
    return Impairment(draw(share), draw(share), draw(share), draw(ns), draw(ns), draw(ns), outages)


def test_without_impairment_every_packet_leaves_once_on_each_feed_at_its_time():
    stream = packets(50)
    rows = departures(stream, {})
    assert rows == [(i * 10_000, feed, i, stream[i]) for i in range(50) for feed in "AB"]


def test_speed_divides_the_time_between_packets():
    assert [due for due, *_ in departures(packets(3), {}, feeds=("A",), speed=4.0)] == [0, 2_500, 5_000]


@settings(deadline=None, max_examples=60)
@given(
    a=impairment(),
    b=impairment(),
    s=impairment(),
    cuts=st.lists(st.integers(0, 80), max_size=6),
    seed=st.integers(-(2**63), 2**64),
)
def test_the_schedule_does_not_depend_on_how_the_packets_are_cut_into_blocks(a, b, s, cuts, seed):
    stream, loops = packets(80), packets(40, spacing_ns=20_000)
    impairments = {"A": a, "B": b, "S": s}
    at_once = departures(stream, impairments, feeds="ABS", seed=seed, snapshots=loops)
    assert departures(stream, impairments, feeds="ABS", seed=seed, snapshots=loops, cuts=cuts) == at_once


@settings(deadline=None, max_examples=60)
@given(a=impairment(), b=impairment())
def test_departures_are_in_time_order_and_none_is_early(a, b):
    stream = packets(80)
    rows = departures(stream, {"A": a, "B": b})
    assert [due for due, *_ in rows] == sorted(due for due, *_ in rows)
    for due, feed, index, payload in rows:
        how = {"A": a, "B": b}[feed]
        assert due >= index * 10_000 + how.delay_ns + how.skew_ns
        assert payload == stream[index]


@settings(deadline=None, max_examples=60)
@given(how=impairment())
def test_each_packet_leaves_never_once_or_twice_as_its_share_says(how):
    counts = np.bincount(indices(departures(packets(100), {"A": how}, feeds=("A",)), "A"), minlength=100)
    for first, last in how.outages:
        assert not counts[first : last + 1].any()
    if how.loss == 0 and not how.outages:
        assert counts.min() == 1
    assert counts.max() <= (2 if how.duplication else 1)


def test_shares_are_met_and_the_drops_of_a_and_b_are_independent():
    n = 20_000
    how = Impairment(loss=0.2, duplication=0.1)
    rows = departures(packets(n), {"A": how, "B": how})
    counts = {feed: np.bincount(indices(rows, feed), minlength=n) for feed in "AB"}
    lost = {feed: counts[feed] == 0 for feed in "AB"}
    assert lost["A"].mean() == pytest.approx(0.2, abs=0.015)
    assert (lost["A"] & lost["B"]).mean() == pytest.approx(0.04, abs=0.008)
    assert (counts["B"] == 2).sum() / (counts["B"] > 0).sum() == pytest.approx(0.1, abs=0.015)


def test_another_seed_drops_other_packets():
    how = {"A": Impairment(loss=0.5)}
    one, two = (departures(packets(100), how, feeds=("A",), seed=seed) for seed in (1, 2))
    assert indices(one, "A") != indices(two, "A")


def test_jitter_delays_packets_and_keeps_their_order():
    rows = departures(packets(500), {"A": Impairment(jitter_ns=50_000, duplication=0.2)}, feeds=("A",))
    late = [due - index * 10_000 for due, _, index, _ in rows]
    assert indices(rows, "A") == sorted(indices(rows, "A"))
    assert len(set(late)) > 300
    assert max(late) <= 50_000


def test_a_reordered_packet_leaves_behind_one_to_eight_later_ones_and_at_their_time():
    rows = departures(packets(2_000), {"A": Impairment(reorder=0.1)}, feeds=("A",))
    order = indices(rows, "A")
    assert sorted(order) == list(range(2_000))
    held = [i for at, i in enumerate(order) if at and i < max(order[:at])]
    assert 130 < len(held) < 270
    distances = [max(order[: order.index(i)]) - i for i in held]
    assert set(distances) == set(range(1, 9))
    due = {index: due for due, _, index, _ in rows}
    assert {due[i] // 10_000 - i for i in held if i < 1_990} == set(range(1, 9))
    assert all(d <= due[i] // 10_000 - i for i, d in zip(held, distances, strict=True) if i < 1_990)


def test_skew_lets_b_follow_a_in_one_merged_schedule():
    rows = departures(packets(5), {"B": Impairment(skew_ns=15_000)}, cuts=(2, 3))
    assert "".join(feed for _, feed, *_ in rows) == "AABABABABB"


def test_a_missing_or_backward_sending_time_counts_as_the_latest_before_it():
    stream = Packets.of(
        [struct.pack("<IQ", i, t) for i, t in enumerate((T0, T0 + 50, T0 + 20))]
        + [b"short", struct.pack("<IQ", 4, T0 + 60)]
    )
    assert [due for due, *_ in departures(stream, {}, feeds=("A",), cuts=(2,))] == [0, 50, 50, 50, 60]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Impairment(loss=1.5), "loss is 1.5; write a probability"),
        (lambda: Impairment(reorder=float("nan")), "reorder is nan"),
        (lambda: Impairment(skew_ns=-1), "skew_ns is -1; .*delay the other one"),
        (lambda: Impairment(outages=((5, 4),)), r"outage \(5, 4\)"),
        (lambda: Schedule(["C"]), "unknown feed 'C'; known: A, B, S"),
        (lambda: Schedule(["A", "A"]), "each once"),
        (lambda: Schedule([]), "at least one"),
        (lambda: Schedule(["A"], {"B": Impairment()}), "feed B, which has no endpoint"),
        (lambda: Schedule(["A"], speed=-1), "speed -1"),
        (lambda: Schedule(["A"]).add(packets(1), packets(1)), "no endpoint of feed S"),
        (lambda: Sender([Endpoint("A", "10.0.0.1", 1)]), "10.0.0.1 is no multicast group"),
        (lambda: Sender([Endpoint("A", GROUPS["A"], 0)]), "port 0 is outside"),
        (lambda: Sender([Endpoint("A", GROUPS["A"], 9)], interface="203.0.113.9"), "no network interface"),
        (lambda: Sender([Endpoint("A", GROUPS["A"], 9)], ttl=256), "ttl 256"),
        (lambda: Sender([Endpoint("A", GROUPS["A"], 9)], max_rate_pps=-1), "max_rate_pps -1"),
    ],
)
def test_what_cannot_be_sent_is_one_clear_error(make, message):
    with pytest.raises(FeedError, match=message):
        make()


@pytest.fixture
def listeners():
    """A plain listening socket for each feed, and the endpoints that reach them."""
    found = {}
    try:
        for feed, group in GROUPS.items():
            sock = found[feed] = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
            sock.bind((group, 0))
            member = socket.inet_aton(group) + socket.inet_aton("127.0.0.1")
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)
            sock.settimeout(2)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("127.0.0.1"))
            probe.sendto(b"probe", found["A"].getsockname())
        found["A"].recv(16)
    except OSError as error:
        skip_or_fail(f"no multicast on loopback here: {error}")
    yield found
    for sock in found.values():
        sock.close()


def endpoints(listeners, feeds="ABS"):
    return [Endpoint(feed, *listeners[feed].getsockname()) for feed in feeds]


def arrived(sock):
    """What has arrived: sending over loopback is done when send returns."""
    sock.setblocking(False)
    got = []
    try:
        while True:
            got.append(sock.recv(65_535))
    except BlockingIOError:
        return got


def test_what_is_sent_arrives_byte_for_byte_in_the_schedule_s_order_and_the_log_tells_it(listeners):
    stream, loops = packets(400), packets(40, first=9_001, spacing_ns=100_000)
    how = {
        "A": Impairment(loss=0.2, jitter_ns=20_000),
        "B": Impairment(loss=0.2, duplication=0.3, reorder=0.2, skew_ns=300_000, outages=((100, 149),)),
    }
    before = time.time_ns()
    with Sender(endpoints(listeners), impairments=how, seed=5) as sender:
        sender.send(stream.select(slice(0, 150)), loops.select(slice(0, 15)))
        sender.send(stream.select(slice(150, 400)), loops.select(slice(15, 40)))
        log = sender.finish()
    after = time.time_ns()
    rows = departures(stream, how, feeds="ABS", seed=5, snapshots=loops, cuts=(150,))
    got = {feed: arrived(listeners[feed]) for feed in "ABS"}
    for feed in "ABS":
        assert got[feed] == [payload for _, name, _, payload in rows if name == feed]
        source = loops if feed == "S" else stream
        assert log.feeds[feed].seq.tolist() == source.seq.tolist()
        counts = np.bincount(indices(rows, feed), minlength=len(source))
        assert log.feeds[feed].copies.tolist() == counts.tolist()
        assert ((log.feeds[feed].ts == 0) == (counts == 0)).all()
        sent = log.feeds[feed].ts[counts > 0]
        assert before < sent.min() <= sent.max() < after
    held_by_a, held_by_b = ({int.from_bytes(p[:4], "little") for p in got[feed]} for feed in "AB")
    every = set(stream.seq.tolist())
    assert set(log.dropped("A").tolist()) == every - held_by_a
    assert set(log.lost().tolist()) == every - held_by_a - held_by_b
    assert {101, 150} <= set(log.dropped("B").tolist())


def test_the_log_of_a_paced_sender_is_never_ahead_of_the_packets_times(listeners):
    stream = packets(30, spacing_ns=2_000_000)
    with Sender(endpoints(listeners, "A"), speed=2.0) as sender:
        sender.send(stream)
        ts = sender.finish().feeds["A"].ts
    elapsed = ts - ts[0]
    assert (elapsed >= np.arange(30) * 1_000_000 - 500_000).all()  # the first one may have left late


def test_a_bounded_rate_holds_when_flat_out(listeners):
    with Sender(endpoints(listeners, "AB"), speed=0, max_rate_pps=20_000) as sender:
        sender.send(packets(1_000))
        log = sender.finish()
    ts = np.sort(np.concatenate([log.feeds["A"].ts, log.feeds["B"].ts]))
    assert ts[-1] - ts[0] >= 2_000 / 20_000 * 1e9 * 0.95
    assert log.late_ns == 0


def test_flat_out_no_feed_runs_away_from_the_other(listeners):
    with Sender(endpoints(listeners, "AB"), speed=0) as sender:
        sender.send(packets(2_000, spacing_ns=1_000_000))
        log = sender.finish()
    a, b = log.feeds["A"].ts, log.feeds["B"].ts
    assert (a[32:] >= b[:-32]).all()
    assert (b[32:] >= a[:-32]).all()


def test_the_source_address_is_the_interface_s(listeners):
    with Sender(endpoints(listeners, "A"), interface="127.0.0.2") as sender:
        sender.send(packets(1))
        assert listeners["A"].recvfrom(100)[1][0] == "127.0.0.2"
        sender.finish()


def test_a_packet_that_the_network_refuses_is_an_error_and_the_log_keeps_what_left(listeners):
    stream = Packets.of([b"a" * 12, b"b" * 65_508])
    with Sender(endpoints(listeners, "A"), speed=0) as sender:
        with pytest.raises(FeedError, match=rf"feed A, {GROUPS['A']}:\d+: a packet is longer"):
            sender.send(stream)
        log = sender.finish()
    assert log.feeds["A"].copies.tolist() == [1, 0]
    assert arrived(listeners["A"]) == [b"a" * 12]


@pytest.mark.parametrize(
    ("number", "what"),
    [
        (errno.EPERM, "firewall"),
        (errno.ENETUNREACH, f"ip route get {GROUPS['A']}"),
        (errno.ENOBUFS, "lower the rate"),
        (errno.EIO, "Input/output error"),
    ],
)
def test_a_refusal_says_what_to_do(listeners, number, what, monkeypatch):
    def refused(*arguments):
        arguments[-2][5] = number  # the errno cell of the compiled loop's state

    with Sender(endpoints(listeners, "A")) as sender:
        monkeypatch.setattr("workloads.exchange.feed._send", refused)
        with pytest.raises(FeedError, match=what):
            sender.send(packets(1))


def test_a_saved_log_reads_back_equal(listeners, tmp_path):
    with Sender(endpoints(listeners), impairments={"A": Impairment(loss=0.5)}) as sender:
        sender.send(packets(100), packets(3))
        log = sender.finish()
    log.save(tmp_path / "sent.npz")
    back = SendLog.load(tmp_path / "sent.npz")
    assert [p.name for p in tmp_path.iterdir()] == ["sent.npz"]
    assert (back.late_ns, back.retries) == (log.late_ns, log.retries)
    for feed in "ABS":
        for field in ("seq", "ts", "copies"):
            one, two = getattr(back.feeds[feed], field), getattr(log.feeds[feed], field)
            assert one.dtype == two.dtype
            assert one.tolist() == two.tolist()


@pytest.mark.parametrize("content", [None, b"", b"not a log", b"PK\x03\x04"])
def test_a_file_that_is_no_log_is_one_clear_error(tmp_path, content):
    path = tmp_path / "sent.npz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(FeedError, match="is no send log"):
        SendLog.load(path)

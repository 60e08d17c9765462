"""Real sockets, real multicast on loopback."""

import socket
import threading
import time

import numpy as np
import pytest

from tests.conftest import skip_or_fail
from workloads.ingest import frames
from workloads.ingest.receive import BATCH_BYTES, ReceiveError, Receiver, Subscription

GROUP_A, GROUP_B = "239.195.7.1", "239.195.7.2"


def sender(address="127.0.0.1"):
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(address))
    sock.bind((address, 0))
    return sock


@pytest.fixture
def port():
    """A UDP port that nobody uses, on a machine that has multicast on loopback."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, sender() as to:
        try:
            probe.bind((GROUP_A, 0))
            number = probe.getsockname()[1]
            member = socket.inet_aton(GROUP_A) + socket.inet_aton("127.0.0.1")
            probe.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)
            probe.settimeout(2)
            to.sendto(b"probe", (GROUP_A, number))
            probe.recv(16)
        except OSError as error:
            skip_or_fail(f"no multicast on loopback here: {error}")
    return number


def records(buffer, used):
    """(header fields, payload) of each record."""
    found, at = [], 0
    while at < used:
        header = buffer[at : at + frames.RECORD_HEADER_BYTES].copy().view(frames.RECORD)[0]
        start = at + frames.RECORD_HEADER_BYTES
        length = int(header["length"])
        found.append((header, buffer[start : start + length].tobytes()))
        at += frames.record_bytes(length)
    assert at == used
    return found


def receive_all(receiver, quiet=3):
    """Everything that arrives until `quiet` calls in a row brought nothing."""
    buffer, used, empty = np.full(64 << 20, 255, np.uint8), 0, 0
    while empty < quiet:
        got, _ = receiver.receive(buffer, used)
        used, empty = used + got, 0 if got else empty + 1
    return records(buffer, used)


def test_every_payload_arrives_unchanged_with_its_feed(port):
    payloads = [bytes([i]) * i for i in range(200)]
    feeds = [Subscription(frames.FEED_A, GROUP_A, port), Subscription(frames.FEED_B, GROUP_B, port)]
    with Receiver(feeds) as receiver, sender() as to:
        for payload in payloads:
            to.sendto(payload, (GROUP_A, port))
            to.sendto(payload[::-1] + b"b", (GROUP_B, port))
        got = receive_all(receiver)
    assert [p for h, p in got if h["feed"] == frames.FEED_A] == payloads
    assert [p for h, p in got if h["feed"] == frames.FEED_B] == [p[::-1] + b"b" for p in payloads]
    assert not any(h["flags"] or h["kernel_drops"] for h, _ in got)


def test_arrival_is_stamped_between_sending_and_reading_and_reading_never_goes_back(port):
    with Receiver([Subscription(frames.FEED_A, GROUP_A, port)]) as receiver, sender() as to:
        sent = []
        for i in range(100):
            sent.append(time.time_ns())
            to.sendto(bytes(i), (GROUP_A, port))
        time.sleep(0.02)
        before_reading = time.time_ns()
        got = receive_all(receiver)
    stamps = [int(h["ts_recv"]) for h, _ in got]
    reads = [int(h["ts_read"]) for h, _ in got]
    assert all(s <= r for s, r in zip(sent, stamps, strict=True))
    assert max(stamps) < before_reading <= min(reads)  # the kernel's stamp, not the time of reading
    assert reads == sorted(reads)


def test_records_are_padded_with_zeros(port):
    with Receiver([Subscription(frames.FEED_A, GROUP_A, port)]) as receiver, sender() as to:
        to.sendto(b"\xff" * 16, (GROUP_A, port))
        to.sendto(b"abc", (GROUP_A, port))
        buffer = np.full(2 * BATCH_BYTES, 255, np.uint8)
        used = 0
        while used < 72:
            used += receiver.receive(buffer, used)[0]
    assert used == 40 + 32
    assert buffer[40 + 24 : 72].tobytes() == b"abc\0\0\0\0\0"


def test_a_payload_longer_than_a_slot_is_cut_and_flagged(port):
    with Receiver([Subscription(frames.FEED_A, GROUP_A, port)]) as receiver, sender() as to:
        for size in (frames.SLOT_BYTES, frames.SLOT_BYTES + 1, 9_000):
            to.sendto(b"x" * size, (GROUP_A, port))
        got = receive_all(receiver)
    assert [h["flags"] for h, _ in got] == [0, frames.FLAG_TRUNCATED, frames.FLAG_TRUNCATED]
    assert [len(p) for _, p in got] == [frames.SLOT_BYTES] * 3


def test_what_a_full_kernel_buffer_drops_is_counted_to_the_packet(port):
    feeds = [Subscription(frames.FEED_A, GROUP_A, port), Subscription(frames.FEED_B, GROUP_B, port)]
    with Receiver(feeds, buffer_bytes=8_192) as receiver, sender() as to:
        for i in range(500):
            to.sendto(i.to_bytes(4, "little"), (GROUP_A, port))
        assert receiver.kernel_drops[0] > 0  # known before anything was read
        first = receive_all(receiver)
        to.sendto(b"next", (GROUP_A, port))
        after = receive_all(receiver)
        dropped_a, dropped_b = receiver.kernel_drops
    assert len(first) + dropped_a == 500
    assert dropped_b == 0
    assert [h["kernel_drops"] for h, _ in after] == [dropped_a]
    assert receiver.kernel_drops == (dropped_a, 0)  # still there when closed


def test_a_buffer_smaller_than_asked_is_told(port, monkeypatch):
    monkeypatch.setattr("workloads.sockets.SO_RCVBUFFORCE", socket.SO_RCVBUF)  # as without CAP_NET_ADMIN
    with Receiver([Subscription(frames.FEED_A, GROUP_A, port)], buffer_bytes=1 << 30) as receiver:
        assert receiver.granted[0] < 1 << 30
        assert "net.core.rmem_max=1073741824" in receiver.buffer_warning
    with Receiver([Subscription(frames.FEED_A, GROUP_A, port)], buffer_bytes=65_536) as receiver:
        assert receiver.granted == (65_536,)
        assert receiver.buffer_warning is None


def test_a_source_specific_subscription_refuses_other_senders(port):
    feeds = [Subscription(frames.FEED_A, GROUP_A, port, source="127.0.0.2")]
    with Receiver(feeds) as receiver, sender("127.0.0.1") as wrong, sender("127.0.0.2") as right:
        wrong.sendto(b"wrong", (GROUP_A, port))
        right.sendto(b"right", (GROUP_A, port))
        assert [p for _, p in receive_all(receiver)] == [b"right"]


def test_another_group_on_the_same_port_does_not_leak_in(port):
    other = [Subscription(frames.FEED_B, GROUP_B, port)]
    with Receiver([Subscription(frames.FEED_A, GROUP_A, port)]) as receiver, Receiver(other), sender() as to:
        to.sendto(b"b", (GROUP_B, port))
        to.sendto(b"a", (GROUP_A, port))
        assert [p for _, p in receive_all(receiver)] == [b"a"]


def test_a_port_in_use_is_an_error_that_names_it_and_how_to_find_its_holder(port):
    feeds = [Subscription(frames.FEED_A, GROUP_A, port)]
    with (
        Receiver(feeds),
        pytest.raises(ReceiveError, match=rf"{GROUP_A}:{port} .*in use.*ss -ulpn 'sport = :{port}'"),
    ):
        Receiver(feeds)
    with Receiver(feeds):  # the failed one left nothing behind
        pass


def test_shared_receivers_each_get_every_packet(port):
    feeds = [Subscription(frames.FEED_A, GROUP_A, port)]
    with Receiver(feeds, shared=True) as one, Receiver(feeds, shared=True) as two, sender() as to:
        to.sendto(b"both", (GROUP_A, port))
        assert [p for _, p in receive_all(one)] == [p for _, p in receive_all(two)] == [b"both"]


def test_stop_ends_a_wait_in_another_thread_and_what_is_queued_can_still_be_read(port):
    feeds = [Subscription(frames.FEED_A, GROUP_A, port)]
    with Receiver(feeds, timeout_ms=60_000) as receiver, sender() as to:
        answers = []
        buffer = np.zeros(BATCH_BYTES, np.uint8)
        thread = threading.Thread(target=lambda: answers.append(receiver.receive(buffer, 0)))
        thread.start()
        receiver.stop()
        thread.join(20)
        assert answers == [(0, 0)]
        to.sendto(b"late", (GROUP_A, port))
        assert receiver.receive(buffer, 0) == (32, 1)
        assert receiver.receive(buffer, 0) == (0, 0)
    receiver.stop()  # harmless when closed


def test_gathering_reads_what_comes_within_it_in_one_call_with_true_arrival_stamps(port):
    with (
        Receiver([Subscription(frames.FEED_A, GROUP_A, port)], gather_us=10_000) as receiver,
        sender() as to,
    ):
        to.sendto(b"first", (GROUP_A, port))
        buffer = np.zeros(BATCH_BYTES, np.uint8)
        began = time.time_ns()
        used, packets = receiver.receive(buffer, 0)
    ((header, payload),) = records(buffer, used)
    assert (payload, packets) == (b"first", 1)
    assert header["ts_recv"] < began
    assert header["ts_read"] >= began + 10_000_000


def test_receive_never_writes_past_the_buffer_and_both_feeds_advance(port):
    n = 1_500
    feeds = [Subscription(frames.FEED_A, GROUP_A, port), Subscription(frames.FEED_B, GROUP_B, port)]
    with Receiver(feeds) as receiver, sender() as to:
        for i in range(n):
            to.sendto(i.to_bytes(4, "little") * 2_000, (GROUP_A, port))
            to.sendto(i.to_bytes(4, "little") * 2_000, (GROUP_B, port))
        memory = np.full(BATCH_BYTES + 512 * 8_024 + 4_096, 255, np.uint8)
        buffer = memory[:-4_096]
        got, rounds = [], 0
        while len(got) < 2 * n:
            used, packets = receiver.receive(buffer, 0)
            batch = records(buffer, used)
            assert len(batch) == packets > 0
            got += batch
            rounds += 1
            assert (memory[-4_096:] == 255).all()
    assert rounds > 2
    for feed in (frames.FEED_A, frames.FEED_B):
        seqs = [int.from_bytes(p[:4], "little") for h, p in got if h["feed"] == feed]
        assert seqs == list(range(n))
    first_half = [h["feed"] for h, _ in got[:n]]
    assert abs(first_half.count(frames.FEED_A) - first_half.count(frames.FEED_B)) <= 512


def test_too_little_room_is_refused(port):
    with (
        Receiver([Subscription(frames.FEED_A, GROUP_A, port)]) as receiver,
        pytest.raises(ValueError, match="BATCH_BYTES"),
    ):
        receiver.receive(np.zeros(BATCH_BYTES, np.uint8), 8)


@pytest.mark.parametrize(
    ("subscriptions", "interface", "message"),
    [
        ([], "127.0.0.1", "no subscription"),
        ([Subscription(0, "10.0.0.1", 1)], "127.0.0.1", "feed A: 10.0.0.1 is no multicast group"),
        ([Subscription(1, "ff02::1", 1)], "127.0.0.1", "feed B: ff02::1 is IPv6"),
        ([Subscription(0, "channel", 1)], "127.0.0.1", "'channel' is no IP address"),
        ([Subscription(0, GROUP_A, 70_000)], "127.0.0.1", "port 70000 is outside"),
        ([Subscription(0, GROUP_A, 40_002)], "203.0.113.9", "no network interface has this address"),
        ([Subscription(0, GROUP_A, 40_002)], "lo", "must be IPv4 addresses"),
        (
            [Subscription(0, GROUP_A, 40_002), Subscription(1, GROUP_A, 40_002)],
            "127.0.0.1",
            "subscribed twice",
        ),
    ],
)
def test_a_wrong_subscription_is_one_clear_error(subscriptions, interface, message):
    with pytest.raises(ReceiveError, match=message):
        Receiver(subscriptions, interface=interface)


def test_a_gathering_time_out_of_range_is_refused():
    with pytest.raises(ReceiveError, match="gather_us 20000"):
        Receiver([Subscription(0, GROUP_A, 40_002)], gather_us=20_000)


def test_a_socket_that_fails_is_an_error_that_names_its_subscription(port):
    with Receiver([Subscription(frames.FEED_A, GROUP_A, port)]) as receiver:
        receiver._polls["fd"][1] = receiver._wake  # no socket: recvmmsg answers ENOTSOCK
        receiver.stop()
        with pytest.raises(ReceiveError, match=rf"{GROUP_A}:{port}: Socket operation on non-socket"):
            receiver.receive(np.zeros(BATCH_BYTES, np.uint8), 0)

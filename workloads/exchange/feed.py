"""Send packets as multicast feeds A, B and S, on time, impaired on purpose, with a log of what left when.

    endpoints = [Endpoint("A", "239.1.1.1", 14310), Endpoint("B", "239.1.2.1", 15310)]
    with Sender(endpoints, impairments={"A": Impairment(loss=0.01)}, seed=7) as sender:
        for block in blocks:
            sender.send(block)
        log = sender.finish()

`Schedule` decides which packet leaves when on which feed. It is pure: the same packets, impairments and
seed give the same departures, however the packets are cut into blocks. `Sender` carries it out, one
socket for each feed. IPv4 on 64-bit Linux.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call"
# The loops are compiled: Numba infers their types.

import errno
import math
import socket
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

from workloads import sockets
from workloads.errors import WorkloadError
from workloads.exchange.packets import Packets
from workloads.exchange.wire import store_i64
from workloads.sockets import (
    CLOCK_MONOTONIC,
    CLOCK_REALTIME,
    TIMER_ABSTIME,
    clock_nanosleep,
    clock_ns,
    last_errno,
    memcpy,
    sendmmsg,
)

FEEDS: Final = ("A", "B", "S")
"""Two copies of the incremental feed, and the snapshot feed."""

_LONGEST_HOLD = 8
"""A reordered packet leaves behind 1 to this many later ones."""


class FeedError(WorkloadError):
    """A feed can't be sent as asked, or a log of it can't be read."""


@dataclass(frozen=True)
class Endpoint:
    """Where one feed goes."""

    feed: str
    """One of `FEEDS`."""
    group: str
    """IPv4 multicast address."""
    port: int


@dataclass(frozen=True)
class Impairment:
    """What the network does to one feed, on purpose. Shares are probabilities, 0 to 1, drawn per packet."""

    loss: float = 0.0
    """Share of packets that never leave."""
    duplication: float = 0.0
    """Share of the packets sent that leave twice, back to back."""
    reorder: float = 0.0
    """Share of the packets sent that move behind the 1 to 8 next packets of the feed."""
    delay_ns: int = 0
    """Every packet leaves this much after its time: the length of the path."""
    jitter_ns: int = 0
    """On top, up to this much per packet, uniform. It queues packets and never changes their order."""
    skew_ns: int = 0
    """On top, how far this feed runs behind the other one. Adds to ``delay_ns``."""
    outages: tuple[tuple[int, int], ...] = ()
    """Spells in which nothing leaves: positions of the first and last packet lost, counted from 0 in the
    feed's packets (not by MsgSeqNum, which restarts)."""

    def __post_init__(self) -> None:
        for name in ("loss", "duplication", "reorder"):
            share = getattr(self, name)
            if not 0 <= share <= 1:
                raise FeedError(f"impairment {name} is {share}; write a probability from 0 to 1")
        for name in ("delay_ns", "jitter_ns", "skew_ns"):
            duration = getattr(self, name)
            if duration < 0:
                raise FeedError(
                    f"impairment {name} is {duration}; write nanoseconds, 0 or more "
                    f"(to let a feed run ahead, delay the other one)"
                )
        for first, last in self.outages:
            if not 0 <= first <= last:
                raise FeedError(
                    f"outage ({first}, {last}): write the positions of its first and last packet, from 0"
                )


_ROW: Final = np.dtype(
    [("due", "<i8"), ("place", "<i8"), ("index", "<i8"), ("address", "<u8"), ("length", "<i8")], align=True
)
"""One datagram to send. ``place``: twice its position in the feed, odd when it was moved behind another."""


@dataclass(frozen=True)
class Departures:
    """n datagrams in the order in which they leave."""

    due: NDArray[np.int64]
    """ns after the time of the very first packet."""
    feed: NDArray[np.int64]
    """Position in the schedule's feeds."""
    index: NDArray[np.int64]
    """Which packet of that feed, counted from 0 over all blocks."""
    address: NDArray[np.uint64]
    """Where the payload lies, valid while ``owners`` lives."""
    length: NDArray[np.int64]
    """Bytes of payload."""
    owners: tuple[NDArray[np.uint8], ...]

    def __len__(self) -> int:
        return len(self.due)

    def payload(self, i: int) -> bytes:
        """The bytes of one datagram; `owners` must hold its address."""
        for owner in self.owners:
            start = int(self.address[i]) - owner.ctypes.data
            if start >= 0 and start + int(self.length[i]) <= len(owner):
                return owner[start : start + int(self.length[i])].tobytes()
        raise IndexError(i)


class Schedule:
    """Which packet leaves when, on which feed.

    Time runs from the SendingTime of the first packet, divided by ``speed``; with speed 0 (flat out) it
    runs as with 1 and only sets the order. A SendingTime that goes back, or is missing, counts as the
    latest one before it. All feeds are merged by time, so none runs ahead of another.
    """

    def __init__(
        self,
        feeds: Sequence[str],
        impairments: Mapping[str, Impairment] | None = None,
        *,
        seed: int = 0,
        speed: float = 1.0,
    ) -> None:
        impairments = impairments or {}
        self.feeds = tuple(feeds)
        for name in (*feeds, *impairments):
            if name not in FEEDS:
                raise FeedError(f"unknown feed {name!r}; known: {', '.join(FEEDS)}")
        for name in impairments:
            if name not in self.feeds:
                raise FeedError(f"impairment of feed {name}, which has no endpoint; give it one")
        if not self.feeds or len(set(self.feeds)) < len(self.feeds):
            raise FeedError(f"feeds {list(feeds)}: give at least one, and each once")
        if not (math.isfinite(speed) and speed >= 0):
            raise FeedError(f"speed {speed}: write 0 for flat out, or a positive factor")
        self._lines = [_Line(name, impairments.get(name, Impairment()), seed) for name in self.feeds]
        self._speed = speed or 1.0
        self._origin: int | None = None
        self._latest = [0, 0]  # of incremental packets, of snapshots: time of the last one, ns from the first

    def add(self, incremental: Packets, snapshots: Packets | None = None) -> Departures:
        """Take the next packets; return what is sure to leave before anything that can still come.

        ``incremental`` goes to A and B, ``snapshots`` to S. Later blocks hold later packets. A snapshot
        waits until the increments have passed its time.
        """
        if snapshots is not None and len(snapshots) and "S" not in self.feeds:
            raise FeedError("there are snapshots to send, but no endpoint of feed S; add one")
        streams = (incremental, snapshots)
        times = [self._times(packets, kind) for kind, packets in enumerate(streams)]
        for line in self._lines:
            packets = streams[line.snapshot]
            if packets is not None and len(packets):
                line.add(packets, times[line.snapshot])
        horizon = self._latest[0 if {"A", "B"} & set(self.feeds) else 1]
        # A later snapshot may share the horizon with later increments, which then go first: it waits.
        ready = [line.take(horizon - line.snapshot) for line in self._lines]
        owners = [p.buffer for p in streams if p is not None]
        return self._merged(ready, owners)

    def rest(self) -> Departures:
        """Everything that was held back. Call once, after the last `add`."""
        for line in self._lines:
            line.release()
        return self._merged([line.take(np.iinfo(np.int64).max) for line in self._lines], [])

    def _times(self, packets: Packets | None, kind: int) -> NDArray[np.int64]:
        """ns after the first packet, never decreasing."""
        if packets is None or not len(packets):
            return np.zeros(0, np.int64)
        stamps = packets.ts_sent
        if self._origin is None and stamps.any():
            self._origin = int(stamps[np.flatnonzero(stamps)[0]])
        elapsed = np.maximum(stamps - (self._origin or 0), 0)
        times = (elapsed / self._speed).astype(np.int64)
        np.maximum.accumulate(np.maximum(times, self._latest[kind]), out=times)
        self._latest[kind] = int(times[-1])
        return times

    def _merged(self, ready: list[NDArray[np.void]], owners: list[NDArray[np.uint8]]) -> Departures:
        counts = np.array([len(rows) for rows in ready], np.int64)
        rows = np.concatenate(ready)
        feed = np.empty(len(rows), np.int64)
        order = np.empty(len(rows), np.int64)
        snapshot = np.array([line.snapshot for line in self._lines], np.bool_)
        _merge(rows, counts, snapshot, order, feed)
        rows = rows[order]
        carried = [line.carried for line in self._lines]
        for line in self._lines:
            line.carry()
        return Departures(
            rows["due"].copy(),
            feed,
            rows["index"].copy(),
            rows["address"].copy(),
            rows["length"].copy(),
            (*owners, *carried),
        )


class _Line:
    """The packets of one feed between `Schedule.add` and their departure."""

    def __init__(self, feed: str, impairment: Impairment, seed: int) -> None:
        self.snapshot = feed == "S"
        self.carried = np.zeros(0, np.uint8)  # payloads of held and waiting
        self._impairment = impairment
        self._key = np.uint64(_key(np.uint64(seed & 0xFFFF_FFFF_FFFF_FFFF), FEEDS.index(feed)))
        self._outages = np.array(impairment.outages, np.int64).reshape(-1, 2)
        self._count = 0
        self._floor = 0
        self._held = np.zeros(0, _ROW)  # waits for later packets to leave first
        self._waiting = np.zeros(0, _ROW)  # in order, with final due

    def add(self, packets: Packets, times: NDArray[np.int64]) -> None:
        impairment, first, n = self._impairment, self._count, len(packets)
        due = times + (impairment.delay_ns + impairment.skew_ns)
        rows = np.zeros(2 * n, _ROW)
        used = _fates(
            self._key,
            first,
            due,
            packets.offset,
            packets.length,
            np.uint64(packets.buffer.ctypes.data),
            impairment.loss,
            impairment.duplication,
            impairment.reorder,
            impairment.jitter_ns,
            self._outages,
            rows,
        )
        self._count += n
        rows = self._before(2 * self._count, rows[:used])
        # Not before the packet that it was moved behind, even where that one is lost or moved itself.
        moved = np.flatnonzero(rows["place"] & 1)
        rows["due"][moved] = np.maximum(rows["due"][moved], due[rows["place"][moved] // 2 - first])
        self._wait(rows)

    def release(self) -> None:
        """Let go what was to leave behind packets that never came."""
        rows, self._held = self._held, self._held[:0]
        self._wait(rows)

    def take(self, horizon: int) -> NDArray[np.void]:
        """Remove and return what is due by then."""
        n = int(np.searchsorted(self._waiting["due"], horizon, "right"))
        taken, self._waiting = self._waiting[:n], self._waiting[n:]
        return taken

    def carry(self) -> None:
        """Copy what stays, so that no block of the caller is needed any longer."""
        self._waiting, self._held = self._waiting.copy(), self._held.copy()
        payloads = np.empty(int(self._waiting["length"].sum() + self._held["length"].sum()), np.uint8)
        at = _gather(self._waiting, payloads, 0)
        _gather(self._held, payloads, at)
        self.carried = payloads

    def _before(self, end: int, rows: NDArray[np.void]) -> NDArray[np.void]:
        """Of these and the held rows, those that belong before place ``end``, in order; hold the rest."""
        if not len(self._held) and not self._impairment.reorder:
            return rows
        rows = np.concatenate([self._held, rows])
        rows = rows[np.argsort(rows["place"], kind="stable")]
        n = int(np.searchsorted(rows["place"], end))
        self._held = rows[n:]
        return rows[:n]

    def _wait(self, rows: NDArray[np.void]) -> None:
        """Queue rows in order: none leaves before the one ahead of it."""
        if len(rows):
            rows["due"] = np.maximum.accumulate(np.maximum(rows["due"], self._floor))
            self._floor = int(rows["due"][-1])
            self._waiting = np.concatenate([self._waiting, rows])


@njit(nogil=True, cache=True)
def _mix(z):
    """SplitMix64's output function (Steele, Lea and Flood 2014)."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@njit(nogil=True, cache=True)
def _key(seed, feed):
    return _mix(_mix(seed) + np.uint64(feed + 1))


@njit(nogil=True, cache=True)
def _uniform(key, index, draw):
    """In [0, 1); a function of the packet, not of what was drawn before: block boundaries can't matter."""
    counter = np.uint64(index) * np.uint64(8) + np.uint64(draw + 1)
    return np.float64(_mix(key + counter * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(11)) * 2.0**-53


@njit(nogil=True, cache=True)
def _fates(key, first, due, offset, length, base, loss, duplication, reorder, jitter_ns, outages, rows):
    """One row for each datagram that these packets become, in the packets' order; returns their number."""
    used = 0
    for i in range(len(due)):
        index = first + i
        lost = _uniform(key, index, 0) < loss
        for k in range(len(outages)):
            lost |= outages[k, 0] <= index <= outages[k, 1]
        if lost:
            continue
        place = 2 * index
        if _uniform(key, index, 2) < reorder:
            place = 2 * (index + 1 + np.int64(_uniform(key, index, 3) * _LONGEST_HOLD)) + 1
        late = np.int64(_uniform(key, index, 4) * (jitter_ns + 1))
        for _ in range(2 if _uniform(key, index, 1) < duplication else 1):
            row = rows[used]
            row.due = due[i] + late
            row.place = place
            row.index = index
            row.address = base + np.uint64(offset[i])
            row.length = length[i]
            used += 1
    return used


@njit(nogil=True, cache=True)
def _gather(rows, payloads, at):
    """Copy payloads into one buffer and point the rows there; returns the end."""
    base = np.uint64(payloads.ctypes.data)
    for i in range(len(rows)):
        target = base + np.uint64(at)
        memcpy(np.uintp(target), np.uintp(rows[i].address), np.uint64(rows[i].length))
        rows[i].address = target
        at += rows[i].length
    return at


@njit(nogil=True, cache=True)
def _merge(rows, counts, snapshot, order, feed):
    """Merge the feeds' rows by (due, snapshots last, place, feed) into ``order``, with the feed of each."""
    n = len(counts)
    at = np.zeros(n, np.int64)
    end = np.zeros(n, np.int64)
    total = 0
    for f in range(n):
        at[f] = total
        total += counts[f]
        end[f] = total
    for out in range(total):
        best = -1
        for f in range(n):
            if at[f] == end[f]:
                continue
            if best < 0:
                best = f
                continue
            a, b = rows[at[f]], rows[at[best]]
            if a.due != b.due:
                earlier = a.due < b.due
            elif snapshot[f] != snapshot[best]:
                earlier = snapshot[best]
            else:
                earlier = a.place < b.place
            if earlier:
                best = f
        order[out] = at[best]
        feed[out] = best
        at[best] += 1


@dataclass(frozen=True)
class FeedLog:
    """What became of each packet of one feed, in the order of the packets."""

    seq: NDArray[np.uint32]
    """MsgSeqNum."""
    ts: NDArray[np.int64]
    """Our wall clock just before it first left, ns since the epoch; 0: it never left."""
    copies: NDArray[np.uint8]
    """How often it left."""


@dataclass(frozen=True)
class SendLog:
    """What left when, on every feed: the truth that a receiver's report is compared with.

    13 bytes a packet and feed.
    """

    feeds: Mapping[str, FeedLog]
    late_ns: int = 0
    """How far the sender ran behind its schedule at worst; 0 when flat out."""
    retries: int = 0
    """How often the kernel had no room for a packet (ENOBUFS) and it was tried again."""

    def dropped(self, feed: str) -> NDArray[np.uint32]:
        """Sequence numbers that never left on this feed."""
        log = self.feeds[feed]
        return np.array(log.seq[log.copies == 0])

    def lost(self) -> NDArray[np.uint32]:
        """Sequence numbers that left neither on A nor on B: what no receiver can have."""
        logs = [self.feeds[name] for name in ("A", "B") if name in self.feeds]
        if not logs:
            return np.zeros(0, np.uint32)
        nowhere = np.logical_and.reduce([log.copies == 0 for log in logs])
        return np.array(logs[0].seq[nowhere])

    def save(self, path: Path) -> None:
        """Write as .npz; the file appears whole or not at all."""
        arrays = {
            f"{name}_{field}": getattr(log, field)
            for name, log in self.feeds.items()
            for field in ("seq", "ts", "copies")
        }
        part = path.with_name(path.name + ".part")
        with part.open("wb") as file:
            np.savez(file, late_ns=self.late_ns, retries=self.retries, **arrays)
        part.replace(path)

    @classmethod
    def load(cls, path: Path) -> "SendLog":
        """Read what `save` wrote; FeedError when it is something else."""
        try:
            with np.load(path) as file:
                feeds = {
                    name: FeedLog(file[f"{name}_seq"], file[f"{name}_ts"], file[f"{name}_copies"])
                    for name in FEEDS
                    if f"{name}_seq" in file
                }
                return cls(feeds, int(file["late_ns"]), int(file["retries"]))
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise FeedError(f"{path} is no send log ({error}); run the sender again to get one") from error


class _GrowingLog:
    """A feed's log while it is being written."""

    def __init__(self) -> None:
        self._n = 0
        self._seq = np.zeros(1_024, np.uint32)
        self._ts = np.zeros(1_024, np.int64)
        self._copies = np.zeros(1_024, np.uint8)

    def extend(self, seq: NDArray[np.uint32]) -> None:
        need = self._n + len(seq)
        if need > len(self._seq):
            size = max(need, 2 * len(self._seq))
            self._seq, self._ts, self._copies = (
                np.concatenate([a, np.zeros(size - len(a), a.dtype)])
                for a in (self._seq, self._ts, self._copies)
            )
        self._seq[self._n : need] = seq
        self._n = need

    def sent(self, index: NDArray[np.int64], ts: NDArray[np.int64]) -> None:
        _note(self._ts, self._copies, index, ts)

    def result(self) -> FeedLog:
        n = self._n
        return FeedLog(self._seq[:n].copy(), self._ts[:n].copy(), self._copies[:n].copy())


@njit(nogil=True, cache=True)
def _note(log_ts, log_copies, index, ts):
    for i in range(len(index)):
        if ts[i]:
            if log_copies[index[i]] == 0:
                log_ts[index[i]] = ts[i]
            log_copies[index[i]] += 1


_WINDOW: Final = 32
"""Datagrams of all feeds that leave together at most: how far one feed can run ahead of another."""

_SLICE_NS: Final = 50_000_000
"""The compiled loop returns this often, so that Ctrl-C is heard."""

_SPIN_NS: Final = 60_000
"""A sleep can end this late (timer slack is 50 µs), so the last stretch before a departure is spun."""

_CATCH_UP_NS: Final = 1_000_000
"""After a stall, a bounded rate makes up for this much of it and no more."""

_GIVE_UP_NS: Final = 5_000_000_000
"""How long the kernel may refuse a packet for lack of room."""

# Cells of the state vector, int64.
_POSITION, _ORIGIN, _NEXT_SLOT, _LATE, _RETRIES, _ERRNO, _FAILED_FEED = range(7)

_EINTR, _EAGAIN, _ENOBUFS = errno.EINTR, errno.EAGAIN, errno.ENOBUFS


class Sender:
    """Multicasts packets on their feeds, on time. A context manager.

    Parameters
    ----------
    endpoints
        At most one for each feed.
    interface
        IPv4 address of the network interface to send from; also the packets' source address.
    impairments
        By feed; a feed without one is perfect.
    speed
        N: N times faster than the packets' SendingTime. 0: flat out.
    ttl
        Routers that a packet may pass, plus 1. 1 stays in the subnet.
    max_rate_pps
        Datagrams per second, all feeds together, never exceeded for longer than a millisecond; 0: no bound.
        Flat out, a sender can overrun a receiver that shares its processors.

    Raises
    ------
    FeedError
        If an endpoint, impairment or interface is invalid.
    """

    def __init__(
        self,
        endpoints: Sequence[Endpoint],
        *,
        interface: str = "127.0.0.1",
        impairments: Mapping[str, Impairment] | None = None,
        seed: int = 0,
        speed: float = 1.0,
        ttl: int = 1,
        max_rate_pps: int = 0,
    ) -> None:
        if max_rate_pps < 0:
            raise FeedError(f"max_rate_pps {max_rate_pps}: write packets per second, or 0 for no bound")
        if not 0 <= ttl <= 255:
            raise FeedError(f"ttl {ttl}: write 0 to 255")
        self._schedule = Schedule([e.feed for e in endpoints], impairments, seed=seed, speed=speed)
        for endpoint in endpoints:
            problem = sockets.multicast_problem(endpoint.group, endpoint.port)
            if problem:
                raise FeedError(f"feed {endpoint.feed}: {problem}")
        self._endpoints = tuple(endpoints)
        self._paced = speed > 0
        self._interval_ns = round(1e9 / max_rate_pps) if max_rate_pps else 0
        self._logs = {e.feed: _GrowingLog() for e in endpoints}
        self._state = np.zeros(7, np.int64)
        self._vectors = np.zeros(_WINDOW, sockets.VECTOR)
        self._headers = sockets.messages(self._vectors)
        self._fds = np.zeros(len(endpoints), np.int32)
        self._sockets: list[socket.socket] = []
        try:
            for endpoint in endpoints:
                self._sockets.append(_open(endpoint, interface, ttl))
        except BaseException:
            self.close()
            raise
        self._fds[:] = [s.fileno() for s in self._sockets]
        # Compile now: the first packet must leave on time.
        self._transmit(self._schedule.add(Packets.of([])))

    def __enter__(self) -> "Sender":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def send(self, incremental: Packets, snapshots: Packets | None = None) -> None:
        """Send the next packets, each at its time; return when all but the delayed ones have left.

        ``incremental`` goes to A and B, ``snapshots`` to S. The first packet ever sent sets the origin of
        time for all blocks; when the sender is behind, it sends at once. The buffers may be reused when
        this returns.

        Raises
        ------
        FeedError
            If the network refuses a packet.
        """
        departures = self._schedule.add(incremental, snapshots)
        for feed, log in self._logs.items():
            packets = snapshots if feed == "S" else incremental
            if packets is not None and len(packets):
                log.extend(packets.seq)
        self._transmit(departures)

    def finish(self) -> SendLog:
        """Send what delay or reordering holds back, close the sockets, and return the log."""
        self._transmit(self._schedule.rest())
        self.close()
        return SendLog(
            {feed: log.result() for feed, log in self._logs.items()},
            late_ns=int(self._state[_LATE]),
            retries=int(self._state[_RETRIES]),
        )

    def close(self) -> None:
        """Close the sockets. Safe to repeat."""
        for sock in self._sockets:
            sock.close()
        self._sockets = []

    def _transmit(self, departures: Departures) -> None:
        stamps = np.zeros(len(departures), np.int64)
        self._state[_POSITION] = 0
        try:
            while True:
                _send(
                    self._fds,
                    self._headers,
                    self._vectors,
                    departures.due,
                    departures.feed,
                    departures.address,
                    departures.length,
                    self._paced,
                    self._interval_ns,
                    self._state,
                    stamps,
                )
                if self._state[_ERRNO]:
                    raise self._failed()
                if self._state[_POSITION] >= len(departures):
                    break
        finally:
            for i, endpoint in enumerate(self._endpoints):
                ours = departures.feed == i
                self._logs[endpoint.feed].sent(departures.index[ours], stamps[ours])

    def _failed(self) -> FeedError:
        endpoint = self._endpoints[int(self._state[_FAILED_FEED])]
        number = int(self._state[_ERRNO])
        return FeedError(
            f"feed {endpoint.feed}, {endpoint.group}:{endpoint.port}: {_advice(number, endpoint.group)}"
        )


def _open(endpoint: Endpoint, interface: str, ttl: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        address = socket.inet_aton(interface)
        sockets.set_buffer(sock, socket.SO_SNDBUF, sockets.SO_SNDBUFFORCE, 4 << 20)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, address)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, ttl)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 1)
        sock.bind((interface, 0))
        sock.connect((endpoint.group, endpoint.port))
    except OSError as error:
        sock.close()
        raise FeedError(
            f"feed {endpoint.feed}, {endpoint.group}:{endpoint.port} from {interface}: "
            f"{_advice(error.errno or errno.EADDRNOTAVAIL, endpoint.group)}"
        ) from error
    return sock


def _advice(number: int, group: str) -> str:
    match number:
        case errno.EADDRNOTAVAIL | errno.ENODEV:
            return "no network interface has this IPv4 address; list them with: ip -4 addr"
        case errno.ENETUNREACH | errno.EHOSTUNREACH:
            return f"no route to the group; see: ip route get {group}"
        case errno.EPERM | errno.EACCES:
            return "a firewall of this host refuses the packets; see: nft list ruleset, or iptables -S OUTPUT"
        case errno.EMSGSIZE:
            return "a packet is longer than a datagram can be (65,507 bytes); is this a packet capture?"
        case errno.ENOBUFS | errno.EAGAIN:
            return "the kernel had no room for packets for 5 s; lower the rate, or see: tc -s qdisc show"
        case _:
            return f"{sockets.reason(number)}; check the interface (ip -4 addr)"


@njit(nogil=True, cache=True)
def _send(fds, headers, vectors, due, feed, address, length, paced, interval_ns, state, stamps):
    """Send departures from state[_POSITION] on, for about `_SLICE_NS`; ``stamps`` gets their wall clock.

    All feeds' departures that are due now leave together, `_WINDOW` at most, each feed in one sendmmsg.
    """
    timespec = np.zeros(2, np.int64)
    chosen = np.zeros(_WINDOW, np.int64)
    n = len(due)
    position = state[_POSITION]
    state[_ERRNO] = 0
    now = clock_ns(CLOCK_MONOTONIC, timespec)
    give_back = now + _SLICE_NS
    if n and state[_ORIGIN] == 0:
        state[_ORIGIN] = now - due[0]
    origin = state[_ORIGIN]
    while position < n and now < give_back:
        target = origin + due[position] if paced else now
        if interval_ns and state[_NEXT_SLOT] > target:
            target = state[_NEXT_SLOT]
        if target > now:
            if target - now > _SPIN_NS:
                _sleep_until(min(target - _SPIN_NS, give_back), timespec)
            now = clock_ns(CLOCK_MONOTONIC, timespec)
            continue
        room = np.int64(_WINDOW)
        if interval_ns:
            state[_NEXT_SLOT] = max(state[_NEXT_SLOT], now - _CATCH_UP_NS)
            room = min(room, 1 + (now - state[_NEXT_SLOT]) // interval_ns)
        if paced:
            state[_LATE] = max(state[_LATE], now - origin - due[position])
        end = position + 1
        while end < n and end - position < room and (not paced or origin + due[end] <= now):
            end += 1
        for f in range(len(fds)):
            used = 0
            for i in range(position, end):
                if feed[i] == f:
                    vectors[used].address = address[i]
                    vectors[used].bytes = np.uint64(length[i])
                    chosen[used] = i
                    used += 1
            sent = 0
            refused_since = np.int64(0)
            while sent < used:
                stamp = clock_ns(CLOCK_REALTIME, timespec)
                done = sendmmsg(
                    fds[f],
                    np.uintp(headers.ctypes.data) + np.uintp(sent * 64),
                    np.uint32(used - sent),
                    np.int32(0),
                )
                if done < 0:
                    error = last_errno()
                    if error == _EINTR:
                        continue
                    now = clock_ns(CLOCK_MONOTONIC, timespec)
                    if refused_since == 0:
                        refused_since = now
                    if error in (_ENOBUFS, _EAGAIN) and now - refused_since < _GIVE_UP_NS:
                        state[_RETRIES] += 1
                        _sleep_until(now + _SPIN_NS, timespec)
                        continue
                    state[_ERRNO] = error
                    state[_FAILED_FEED] = f
                    state[_POSITION] = end
                    return
                for i in range(sent, sent + done):
                    stamps[chosen[i]] = stamp
                sent += done
                refused_since = np.int64(0)
        state[_NEXT_SLOT] += (end - position) * interval_ns
        position = end
        now = clock_ns(CLOCK_MONOTONIC, timespec)
    state[_POSITION] = position


@njit(nogil=True, cache=True)
def _sleep_until(monotonic_ns, timespec):
    """Sleep on the monotonic clock; a signal ends it early."""
    at = np.uintp(timespec.ctypes.data)
    store_i64(at, np.int64(monotonic_ns // 1_000_000_000))
    store_i64(at + np.uintp(8), np.int64(monotonic_ns % 1_000_000_000))
    clock_nanosleep(np.int32(CLOCK_MONOTONIC), np.int32(TIMER_ABSTIME), at, np.uintp(0))

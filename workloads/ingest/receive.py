"""Receive multicast in batches, at compiled speed, as records in one buffer (`workloads.ingest.frames`).

    feeds = [Subscription(FEED_A, "239.1.1.1", 14310), Subscription(FEED_B, "239.1.2.1", 15310)]
    with Receiver(feeds) as receiver:
        used, packets = receiver.receive(buffer, start)

One socket for each subscription, bound to group and port, so that another group on the same port never
leaks in. All sockets are read in turn, one batch each, so that the feeds advance together.

By default a socket is exclusive: a second receiver of the same group and port on this host is an error,
because two ingests that write the same archive are a mistake far more often than a wish. ``shared=True``
sets SO_REUSEADDR; every socket then gets its own copy, if all of its holders set it.

IPv4 on 64-bit Linux.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call"
# The loop is compiled: Numba infers its types.

import errno
import os
import select
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

from workloads import sockets
from workloads.errors import WorkloadError
from workloads.exchange.wire import (
    load_i32,
    load_i64,
    load_u32,
    load_u64,
    store_i64,
    store_u8,
    store_u16,
    store_u32,
    store_u64,
)
from workloads.ingest import frames
from workloads.sockets import (
    CLOCK_MONOTONIC,
    CLOCK_REALTIME,
    SO_RXQ_OVFL,
    SO_TIMESTAMPNS,
    clock_nanosleep,
    clock_ns,
    last_errno,
    memcpy,
    poll,
    recvmmsg,
)

BATCH_SLOTS: Final = 256
"""Datagrams that one system call can fetch."""

BATCH_BYTES: Final = BATCH_SLOTS * frames.record_bytes(frames.SLOT_BYTES)
"""Room that `Receiver.receive` needs behind ``start``: one batch of the longest records."""

_CONTROL_BYTES: Final = 64
"""Room for the control messages of one datagram: 32 bytes of time stamp, 24 of drop count."""

# Cells of the state vector, int64.
_TS_READ, _NEXT_SOCKET, _ERRNO, _FAILED_SOCKET = range(4)

_EINTR, _EAGAIN = errno.EINTR, errno.EAGAIN
_MSG_TRUNC, _MSG_DONTWAIT = int(socket.MSG_TRUNC), int(socket.MSG_DONTWAIT)


class ReceiveError(WorkloadError):
    """A group can't be joined or read."""


@dataclass(frozen=True)
class Subscription:
    """One multicast group to receive."""

    feed: int
    """`frames.FEED_A`, `FEED_B` or `FEED_SNAPSHOT`: marks each record."""
    group: str
    """IPv4 multicast address."""
    port: int
    source: str | None = None
    """Take packets from this sender only (source-specific join); None takes any sender's."""

    def __str__(self) -> str:
        sender = f" from {self.source}" if self.source else ""
        return f"feed {frames.FEED_NAMES[self.feed]} {self.group}:{self.port}{sender}"


class Receiver:
    """Sockets that have joined their groups, and the loop that empties them. A context manager.

    Parameters
    ----------
    subscriptions
        At least one; no two with the same group and port.
    interface
        IPv4 address of the network interface to join on.
    buffer_bytes
        Kernel buffer of each socket. Past ``net.core.rmem_max`` it needs CAP_NET_ADMIN; without it the
        kernel gives less: see `granted` and `buffer_warning`.
    timeout_ms
        How long `receive` waits for a first packet.
    gather_us
        How long `receive` then lets more packets queue before it reads. 0 reads at once, for the shortest
        way to a book. Some hundred microseconds save wake-ups, and so processor time, where packets are
        only recorded: the kernel has stamped their arrival already. 0 to 10,000.
    shared
        Let other receivers of this host join the same group and port.

    Raises
    ------
    ReceiveError
        If a group is invalid, a port is in use, or no interface has the address.
    """

    subscriptions: tuple[Subscription, ...]
    granted: tuple[int, ...]
    """Bytes of kernel buffer that each subscription's socket got."""

    def __init__(
        self,
        subscriptions: Sequence[Subscription],
        *,
        interface: str = "127.0.0.1",
        buffer_bytes: int = 64 << 20,
        timeout_ms: int = 50,
        gather_us: int = 0,
        shared: bool = False,
    ) -> None:
        self.subscriptions = tuple(subscriptions)
        self._check()
        if not 0 <= gather_us <= 10_000:
            raise ReceiveError(f"gather_us {gather_us}: write microseconds from 0 to 10000")
        self._gather_ns = gather_us * 1_000
        self._buffer_bytes = buffer_bytes
        self._timeout_ms = timeout_ms
        n = len(self.subscriptions)
        self._feeds = np.array([s.feed for s in self.subscriptions], np.uint8)
        self._drops = np.zeros(n, np.int64)
        self._state = np.zeros(4, np.int64)
        self._failure: ReceiveError | None = None
        self._payload = np.zeros((BATCH_SLOTS, frames.SLOT_BYTES), np.uint8)
        self._control = np.zeros((BATCH_SLOTS, _CONTROL_BYTES), np.uint8)
        slots = np.arange(BATCH_SLOTS, dtype=np.uint64)
        self._vectors = np.zeros(BATCH_SLOTS, sockets.VECTOR)
        self._vectors["address"] = self._payload.ctypes.data + slots * frames.SLOT_BYTES
        self._vectors["bytes"] = frames.SLOT_BYTES
        self._headers = sockets.messages(self._vectors)
        self._headers["control"] = self._control.ctypes.data + slots * _CONTROL_BYTES
        self._headers["control_bytes"] = _CONTROL_BYTES

        self._sockets: list[socket.socket] = []
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        try:
            self._polls = self._poll_set()
            # Compile before the groups are joined: packets must not queue meanwhile.
            self._call(np.zeros(BATCH_BYTES, np.uint8), 0, 0)
            for subscription in self.subscriptions:
                self._sockets.append(_join(subscription, interface, buffer_bytes, shared))
        except BaseException:
            self.close()
            raise
        self._polls = self._poll_set()
        self.granted = tuple(s.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 2 for s in self._sockets)

    def __enter__(self) -> "Receiver":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def receive(self, buffer: NDArray[np.uint8], start: int) -> tuple[int, int]:
        """Append what has arrived, as records, at ``buffer[start:]``; return (bytes, packets).

        Waits for the first packet, ``timeout_ms`` at most, then returns as soon as the sockets are empty
        or less than `BATCH_BYTES` of room is left. (0, 0): nothing came, a signal interrupted the wait,
        or `stop` was called. Holds no interpreter lock while it waits and reads.

        Raises
        ------
        ValueError
            If there are fewer than `BATCH_BYTES` behind ``start``.
        ReceiveError
            If the kernel refuses to read. What was read before is returned first, by the call before.
        """
        if len(buffer) - start < BATCH_BYTES:
            raise ValueError(
                f"{len(buffer) - start} bytes of room; receive needs {BATCH_BYTES} (BATCH_BYTES) behind start"
            )
        if self._failure is not None:
            raise self._failure
        used, packets = self._call(buffer, start, self._timeout_ms)
        if self._state[_ERRNO]:
            self._failure = self._failed()
            if not used:
                raise self._failure
        return used, packets

    def stop(self) -> None:
        """Make `receive` return at once, now and from now on; safe from any thread and signal handler.

        Calls after it never wait, but still fetch what is queued: call until (0, 0) to empty the sockets.
        """
        if self._wake >= 0:
            os.eventfd_write(self._wake, 1)

    @property
    def kernel_drops(self) -> tuple[int, ...]:
        """Datagrams that the kernel has dropped on each subscription's socket so far.

        Exact at any time, also when no packet came after the drop (SO_MEMINFO; SO_RXQ_OVFL travels only
        with the next packet). A 32-bit counter of the kernel.
        """
        for i, sock in enumerate(self._sockets):
            meminfo = sock.getsockopt(socket.SOL_SOCKET, sockets.SO_MEMINFO, 36)
            self._drops[i] = max(int(self._drops[i]), struct.unpack("=9I", meminfo)[8])
        return tuple(int(d) for d in self._drops)

    @property
    def buffer_warning(self) -> str | None:
        """One sentence when the kernel granted less buffer than asked, else None."""
        least = min(self.granted)
        if least >= self._buffer_bytes:
            return None
        return (
            f"the kernel granted {least >> 10} KiB of receive buffer, not the {self._buffer_bytes >> 10} KiB "
            f"asked, so a short stall can lose packets; run with CAP_NET_ADMIN, or as root: "
            f"sysctl -w net.core.rmem_max={self._buffer_bytes}"
        )

    def close(self) -> None:
        """Leave the groups. Safe to repeat; not while another thread is in `receive` (stop it first)."""
        if self._sockets:
            _ = self.kernel_drops  # the last reading stays available
        for sock in self._sockets:
            sock.close()
        self._sockets = []
        if self._wake >= 0:
            os.close(self._wake)
            self._wake = -1

    def _check(self) -> None:
        if not self.subscriptions:
            raise ReceiveError("no subscription: give at least one group to receive")
        seen: set[tuple[str, int]] = set()
        for s in self.subscriptions:
            problem = sockets.multicast_problem(s.group, s.port)
            if problem:
                raise ReceiveError(f"feed {frames.FEED_NAMES[s.feed]}: {problem}")
            if (s.group, s.port) in seen:
                raise ReceiveError(
                    f"{s.group}:{s.port} is subscribed twice; give each feed its own group or port"
                )
            seen.add((s.group, s.port))

    def _poll_set(self) -> NDArray[np.void]:
        """The stop signal first, then the sockets."""
        polls = np.zeros(1 + len(self._sockets), sockets.POLL)
        polls["fd"] = [self._wake, *(s.fileno() for s in self._sockets)]
        polls["events"] = select.POLLIN
        return polls

    def _call(self, buffer: NDArray[np.uint8], start: int, timeout_ms: int) -> tuple[int, int]:
        used, packets = _receive(
            self._polls,
            self._feeds,
            self._headers,
            self._drops,
            self._state,
            buffer,
            start,
            timeout_ms,
            self._gather_ns,
        )
        return used, packets

    def _failed(self) -> ReceiveError:
        which = int(self._state[_FAILED_SOCKET])
        where = str(self.subscriptions[which]) if which >= 0 else "waiting for packets"
        why = sockets.reason(int(self._state[_ERRNO]))
        return ReceiveError(f"{where}: {why}; check the interface (ip -4 addr) and start again")


def _join(subscription: Subscription, interface: str, buffer_bytes: int, shared: bool) -> socket.socket:
    """A socket that has joined; ReceiveError says which step failed and what to do."""
    group, port = subscription.group, subscription.port
    try:
        members = socket.inet_aton(group) + socket.inet_aton(interface)
        source = socket.inet_aton(subscription.source) if subscription.source else None
    except OSError as error:
        raise ReceiveError(
            f"{subscription} on {interface}: interface and source must be IPv4 addresses"
        ) from error
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        if shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sockets.set_buffer(sock, socket.SO_RCVBUF, sockets.SO_RCVBUFFORCE, buffer_bytes)
        sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        sock.setsockopt(socket.SOL_SOCKET, SO_RXQ_OVFL, 1)
        sock.setsockopt(socket.IPPROTO_IP, sockets.IP_MULTICAST_ALL, 0)
        sock.bind((group, port))
        if source is None:
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, members)
        else:
            sock.setsockopt(socket.IPPROTO_IP, sockets.IP_ADD_SOURCE_MEMBERSHIP, members + source)
    except OSError as error:
        sock.close()
        raise ReceiveError(f"{subscription} on {interface}: {_advice(error, port)}") from error
    return sock


def _advice(error: OSError, port: int) -> str:
    match error.errno:
        case errno.EADDRINUSE:
            return f"the port is in use by another socket; find its holder with: ss -ulpn 'sport = :{port}'"
        case errno.ENODEV | errno.EADDRNOTAVAIL:
            return "no network interface has this address; list them with: ip -4 addr"
        case errno.ENOBUFS:
            return "too many group memberships; raise them with: sysctl -w net.ipv4.igmp_max_memberships=1024"
        case errno.EACCES:
            return "a port below 1024 needs CAP_NET_BIND_SERVICE; choose a higher port"
        case _:
            return f"{sockets.reason(error)}; check interface (ip -4 addr) and group"


@njit(nogil=True, cache=True)
def _receive(polls, feeds, headers, drops, state, buffer, start, timeout_ms, gather_ns):
    """Poll, then one recvmmsg for each ready socket, until no socket filled its batch.

    ``polls``: the stop signal, then one for each socket. ``state``: see the cells above; an errno there
    ends the call. Returns (bytes, packets).
    """
    timespec = np.zeros(2, np.int64)
    n = len(polls) - 1
    base = np.uintp(buffer.ctypes.data)
    end = len(buffer) - BATCH_BYTES
    at = np.int64(start)
    packets = 0
    wait = np.int32(timeout_ms)
    state[_ERRNO] = 0
    while True:
        ready = poll(polls.ctypes.data, np.uint64(n + 1), wait)
        if ready < 0:
            error = last_errno()
            if error != _EINTR:
                state[_ERRNO] = error
                state[_FAILED_SOCKET] = -1
            break
        if ready == 0:
            break
        if wait and gather_ns and polls[0].revents == 0:
            timespec[0], timespec[1] = 0, gather_ns
            clock_nanosleep(np.int32(CLOCK_MONOTONIC), np.int32(0), timespec.ctypes.data, np.uintp(0))
            wait = np.int32(0)
            continue
        wait = np.int32(0)
        more = False
        first = state[_NEXT_SOCKET]
        for k in range(n):
            which = (first + k) % n
            if polls[1 + which].revents == 0:
                continue
            if at > end:
                state[_NEXT_SOCKET] = which
                return at - start, packets
            got = recvmmsg(
                polls[1 + which].fd,
                headers.ctypes.data,
                np.uint32(BATCH_SLOTS),
                np.int32(_MSG_DONTWAIT),
                np.uintp(0),
            )
            if got < 0:
                error = last_errno()
                if error == _EAGAIN:
                    continue
                if error == _EINTR:
                    more = True
                    continue
                state[_ERRNO] = error
                state[_FAILED_SOCKET] = which
                return at - start, packets
            # Read behind the call, so that no packet's arrival is later than its reading.
            now = max(state[_TS_READ], clock_ns(CLOCK_REALTIME, timespec))
            state[_TS_READ] = now
            for i in range(got):
                at = _record(headers[i], feeds[which], which, drops, now, base, at)
            packets += got
            more |= got == BATCH_SLOTS
        if polls[0].revents != 0 or not more:
            break
    return at - start, packets


@njit(nogil=True, cache=True)
def _record(header, feed, which, drops, now, base, at):
    """Write one record at ``base + at`` and ready its slot for the next batch; returns the next ``at``."""
    ts_recv = now
    control = np.uintp(header.control)
    control_end = control + np.uintp(header.control_bytes)
    while control + np.uintp(16) <= control_end:
        size = load_u64(control)
        if size < np.uint64(16):
            break
        if load_i32(control + np.uintp(8)) == socket.SOL_SOCKET:
            kind = load_i32(control + np.uintp(12))
            value = control + np.uintp(16)
            if kind == SO_TIMESTAMPNS:
                ts_recv = load_i64(value) * np.int64(1_000_000_000) + load_i64(value + np.uintp(8))
            elif kind == SO_RXQ_OVFL:
                drops[which] = load_u32(value)
        control += np.uintp((size + np.uint64(7)) & ~np.uint64(7))
    header.control_bytes = _CONTROL_BYTES
    length = np.int64(header.length)
    flags = frames.FLAG_TRUNCATED if header.flags & _MSG_TRUNC else 0
    size_padded = np.int64((frames.RECORD_HEADER_BYTES + length + 7) & ~7)
    record = base + np.uintp(at)
    store_u64(record + np.uintp(size_padded - 8), np.uint64(0))  # padding is zero: equal packets, equal bytes
    memcpy(record + np.uintp(frames.RECORD_HEADER_BYTES), _vector_address(header), np.uint64(length))
    store_u16(record, np.uint16(length))
    store_u8(record + np.uintp(2), np.uint8(feed))
    store_u8(record + np.uintp(3), np.uint8(flags))
    store_u32(record + np.uintp(4), np.uint32(drops[which]))
    store_i64(record + np.uintp(8), np.int64(ts_recv))
    store_i64(record + np.uintp(16), np.int64(now))
    return at + size_padded


@njit(nogil=True, cache=True)
def _vector_address(header):
    return np.uintp(load_u64(np.uintp(header.vector)))

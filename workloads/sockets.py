"""The part of Linux's socket interface that compiled loops use: layouts, system calls, multicast addresses.

Layouts are those of 64-bit Linux (x86-64 and arm64 agree). Every call is a Numba `ExternalFunction`, so
that functions which use it can be cached; pointers travel as ``uintp``. IPv4 only: the multicast of the
Transit Gateway and of the exchanges is IPv4.
"""

import ipaddress
import os
import socket
from typing import Any, Final

import numpy as np
from numba import njit, types
from numba.core.types import ExternalFunction
from numpy.typing import NDArray

from workloads.exchange.wire import load_i32, load_i64

SO_TIMESTAMPNS: Final = 35
SO_RXQ_OVFL: Final = 40
SO_SNDBUFFORCE: Final = 32
SO_RCVBUFFORCE: Final = 33
SO_MEMINFO: Final = 55
IP_ADD_SOURCE_MEMBERSHIP: Final = 39
IP_MULTICAST_ALL: Final = 49
"""Linux, include/uapi/asm-generic/socket.h and include/uapi/linux/in.h: not all are in Python's `socket`."""

CLOCK_REALTIME: Final = 0
CLOCK_MONOTONIC: Final = 1
TIMER_ABSTIME: Final = 1

_POINTER = types.uintp
_INT = types.int32


def _libc(name: str, result: types.Type, *arguments: types.Type) -> Any:
    return ExternalFunction(name, result(*arguments))


poll = _libc("poll", _INT, _POINTER, types.uint64, _INT)
recvmmsg = _libc("recvmmsg", _INT, _INT, _POINTER, types.uint32, _INT, _POINTER)
sendmmsg = _libc("sendmmsg", _INT, _INT, _POINTER, types.uint32, _INT)
clock_gettime = _libc("clock_gettime", _INT, _INT, _POINTER)
clock_nanosleep = _libc("clock_nanosleep", _INT, _INT, _INT, _POINTER, _POINTER)
memcpy = _libc("memcpy", _POINTER, _POINTER, _POINTER, types.uint64)
_errno_location = _libc("__errno_location", _POINTER)

POLL: Final = np.dtype([("fd", "<i4"), ("events", "<i2"), ("revents", "<i2")], align=True)
"""struct pollfd."""

MESSAGE: Final = np.dtype(
    {
        "names": ["name", "name_bytes", "vector", "vectors", "control", "control_bytes", "flags", "length"],
        "formats": ["<u8", "<u4", "<u8", "<u8", "<u8", "<u8", "<i4", "<u4"],
        "offsets": [0, 8, 16, 24, 32, 40, 48, 56],
        "itemsize": 64,
    },
    align=True,
)
"""struct mmsghdr: what recvmmsg and sendmmsg take, one for each datagram."""

VECTOR: Final = np.dtype([("address", "<u8"), ("bytes", "<u8")], align=True)
"""struct iovec."""


@njit(nogil=True, cache=True)
def last_errno():  # type: ignore[no-untyped-def]  # compiled: types are inferred
    """The errno of the call just made, in the same compiled function."""
    return load_i32(_errno_location())


@njit(nogil=True, cache=True)
def clock_ns(clock, timespec):  # type: ignore[no-untyped-def]  # compiled: types are inferred
    """Read a clock, ns. ``timespec``: int64[2] of scratch."""
    at = timespec.ctypes.data
    clock_gettime(np.int32(clock), at)
    return load_i64(at) * np.int64(1_000_000_000) + load_i64(at + np.uintp(8))


def messages(
    vectors: NDArray[np.void],
) -> NDArray[np.void]:
    """One message header for each vector; it holds addresses only, so the caller keeps the vectors."""
    headers = np.zeros(len(vectors), MESSAGE)
    headers["vector"] = vectors.ctypes.data + np.arange(len(vectors), dtype=np.uint64) * VECTOR.itemsize
    headers["vectors"] = 1
    return headers


def multicast_problem(group: str, port: int) -> str | None:
    """Why this group and port can't carry a feed: one clause; None when they can."""
    try:
        address = ipaddress.ip_address(group)
    except ValueError:
        return f"{group!r} is no IP address; write a multicast group such as 239.1.1.1"
    if address.version != 4:
        return f"{group} is IPv6; feeds are IPv4 multicast here, write a group in 224.0.0.0/4"
    if not address.is_multicast:
        return f"{group} is no multicast group; write one in 224.0.0.0/4, such as 239.1.1.1"
    if not 0 < port < 65_536:
        return f"port {port} is outside 1..65535"
    return None


def reason(error: int | OSError) -> str:
    """An errno in words, with its name."""
    number = error if isinstance(error, int) else (error.errno or 0)
    return os.strerror(number)


def set_buffer(sock: socket.socket, option: int, forced: int, size: int) -> int:
    """Ask for a socket buffer, past the system's limit where we may; return the bytes granted.

    The kernel counts twice what was asked, to cover its own overhead; the answer here is comparable
    with what was asked.
    """
    try:
        sock.setsockopt(socket.SOL_SOCKET, forced, size)
    except PermissionError:
        sock.setsockopt(socket.SOL_SOCKET, option, size)
    return sock.getsockopt(socket.SOL_SOCKET, option) // 2

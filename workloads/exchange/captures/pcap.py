"""UDP payloads out of a pcap file.

Format: the classic libpcap savefile (draft-ietf-opsawg-pcap), both byte orders, micro- and nanoseconds.
Link types: Ethernet (with any stack of 802.1Q and 802.1ad tags), Linux cooked v1 and v2, raw IPv4, BSD
loopback. The capture's own clock is never used: it is often wrong, and every packet carries SendingTime.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call"
# The walker is compiled: Numba infers its types.

import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

from workloads.exchange import mdp3
from workloads.exchange.captures.source import CaptureError, CaptureInfo, Source
from workloads.exchange.packets import HEADER_BYTES, Packets

FILE_HEADER_BYTES: Final = 24
RECORD_HEADER_BYTES: Final = 16
MAX_FRAME_BYTES: Final = 262_144
"""MAXIMUM_SNAPLEN of libpcap: no writer stores a longer frame, so a longer one means damage."""
CHUNK_BYTES: Final = 4 << 20
SAMPLE_PACKETS: Final = 4_096
"""How many packets of each flow are compared to find out which two flows are A and B of one channel."""
MAX_FLOWS: Final = 64
WINDOW: Final = 65_536
"""How far one feed may lag behind the other, in sequence numbers; farther back is a restart at 1."""

_MAGICS: Final = {
    b"\xd4\xc3\xb2\xa1": ("<", "microseconds"),
    b"\xa1\xb2\xc3\xd4": (">", "microseconds"),
    b"\x4d\x3c\xb2\xa1": ("<", "nanoseconds"),
    b"\xa1\xb2\x3c\x4d": (">", "nanoseconds"),
}
_LINKS: Final = {
    0: "BSD loopback",
    1: "Ethernet",
    12: "raw IP",
    14: "raw IP",
    101: "raw IP",
    108: "BSD loopback",
    113: "Linux cooked",
    228: "raw IPv4",
    276: "Linux cooked v2",
}

# What the walker says of a frame.
_OK, _NO_UDP, _SHORT, _BAD, _FRAGMENT, _SNAPPED, _TOO_LONG = range(7)


def is_pcap(head: bytes) -> bool:
    """Whether a file that begins with these bytes is a pcap file."""
    return head[:4] in _MAGICS


@dataclass(frozen=True)
class Flow:
    """UDP packets to one group and port."""

    group: str
    port: int

    def __str__(self) -> str:
        return f"{self.group}:{self.port}"

    @property
    def key(self) -> int:
        return int(ipaddress.IPv4Address(self.group)) << 16 | self.port

    @classmethod
    def of(cls, key: int) -> "Flow":
        return cls(str(ipaddress.IPv4Address(key >> 16)), key & 0xFFFF)


@dataclass
class _Seen:
    """What the first reading learns about one flow."""

    packets: int = 0
    whole: int = 0
    """Packets whose messages tile their length exactly."""
    ts_first: int = 0
    ts_last: int = 0
    sample: dict[int, int] = field(default_factory=dict)
    """Sequence number -> hash of the messages, of the first packets."""


@dataclass(frozen=True)
class _Frames:
    """UDP payloads of one chunk: n packets, and the flow (group << 16 | port) of each."""

    packets: Packets
    key: NDArray[np.int64]
    whole: NDArray[np.bool_]


class PcapCapture:
    """The packets of one channel in a pcap file; feeds A and B in one file become one stream."""

    def __init__(self, path: Path, *, group: str | None = None, port: int | None = None):
        self._path = path
        self._group = _group_key(group)
        self._port = port
        self._kind = ""
        self._counts = np.zeros(7, np.int64)
        self._records = 0
        flows = self._survey()
        self._keys, notes = self._choose(flows)
        self._merge = len(self._keys) > 1
        packets = sum(flows[key].packets for key in self._keys)
        if self._merge:
            sent, packets = packets, sum(len(block) for block in self.blocks())
            names = " and ".join(str(Flow.of(key)) for key in self._keys)
            notes.append(
                f"{names} are A and B of one channel: {sent:,} packets, {packets:,} after taking each "
                "sequence number once"
            )
        channel = Flow.of(self._keys[0]).port % 1000
        self.info = CaptureInfo(
            kind=self._kind,
            path=str(path),
            packets=packets,
            records=self._records,
            ts_first=min(flows[key].ts_first for key in self._keys),
            ts_last=max(flows[key].ts_last for key in self._keys),
            channel=channel if channel >= 300 else None,
            notes=tuple(notes + self._left_out()),
        )

    def blocks(self) -> Iterator[Packets]:
        """The packets in the order of the file; a merged A and B in sequence order within a block."""
        keys = np.array(self._keys, np.int64)
        seen = np.full(WINDOW, -1, np.int64)
        highest = np.full(1, -1, np.int64)
        for frames in self._frames():
            chosen = np.isin(frames.key, keys)
            packets = frames.packets.select(chosen)
            if self._merge and len(packets):
                fresh, restarts = _first_copies(packets.seq.astype(np.int64), seen, highest)
                packets = packets.select(fresh)
                if not restarts:
                    packets = packets.select(np.argsort(packets.seq, kind="stable"))
            if len(packets):
                yield packets

    def _survey(self) -> dict[int, _Seen]:
        """Read the file once: which flows are there, and does each look like MDP 3.0."""
        flows: dict[int, _Seen] = {}
        for frames in self._frames(count=True):
            if not len(frames.key):
                continue
            seqs, ts_sent = frames.packets.seq, frames.packets.ts_sent
            for key in np.unique(frames.key):
                if len(flows) >= MAX_FLOWS and int(key) not in flows:
                    raise CaptureError(
                        f"{self._path} holds more than {MAX_FLOWS} UDP flows; "
                        "choose one: --group ADDRESS --port PORT"
                    )
                flow = flows.setdefault(int(key), _Seen())
                which = np.flatnonzero(frames.key == key)
                flow.ts_first = flow.ts_first or int(ts_sent[which[0]])
                flow.ts_last = int(ts_sent[which[-1]])
                flow.packets += len(which)
                flow.whole += int(frames.whole[which].sum())
                for i in which[: SAMPLE_PACKETS - len(flow.sample)].tolist():
                    messages = frames.packets[i][HEADER_BYTES:]
                    if len(messages) > mdp3.MESSAGE_HEADER_BYTES:  # heartbeats look alike on every channel
                        flow.sample[int(seqs[i])] = hash(messages)
        return flows

    def _choose(self, flows: dict[int, _Seen]) -> tuple[list[int], list[str]]:
        """The flows to take, and what to say about the others."""
        asked = " ".join(
            part
            for part in (
                f"--group {Flow.of(self._group << 16).group}" if self._group is not None else "",
                f"--port {self._port}" if self._port is not None else "",
            )
            if part
        )
        if not flows:
            counts = f"{self._records:,} records, {int(self._counts[_NO_UDP]):,} of them not UDP over IPv4"
            raise CaptureError(
                f"{self._path} holds no UDP packet{' of ' + asked if asked else ''} ({counts}); "
                + ("leave out the filter to see what is there" if asked else "record the feed's UDP port")
            )
        feeds = [key for key, flow in flows.items() if 2 * flow.whole > flow.packets]
        if not feeds:
            raise CaptureError(
                f"{self._path} holds no MDP 3.0 packets: in none of its UDP flows "
                f"({_listing(flows, flows)}) do messages fill the packets; was another feed recorded?"
            )
        families: list[list[int]] = []
        for key in feeds:
            for family in families:
                if _same_channel(flows[family[0]].sample, flows[key].sample):
                    family.append(key)
                    break
            else:
                families.append([key])
        if len(families) > 1:
            raise CaptureError(
                f"{self._path} holds {len(families)} feeds ({_listing(flows, feeds)}); choose one, as in "
                f"--group {Flow.of(feeds[0]).group} --port {Flow.of(feeds[0]).port}"
            )
        others = [key for key in flows if key not in feeds]
        return sorted(families[0]), [
            f"left out, as they are no MDP 3.0: {_listing(flows, others)}"
        ] if others else []

    def _left_out(self) -> list[str]:
        reasons = {
            _NO_UDP: "frames that are not UDP over IPv4",
            _SHORT: f"UDP payloads shorter than the packet header ({HEADER_BYTES} bytes)",
            _BAD: "frames whose IP or UDP lengths contradict the frame",
        }
        return [
            f"left out: {int(self._counts[k]):,} {text}" for k, text in reasons.items() if self._counts[k]
        ]

    def _frames(self, count: bool = False) -> Iterator[_Frames]:
        """The UDP payloads of the file that pass the filter, chunk after chunk."""
        with Source(self._path) as source:
            header = source.read(FILE_HEADER_BYTES)
            if len(header) < FILE_HEADER_BYTES:
                raise CaptureError(
                    f"{self._path} is cut off inside the pcap file header (byte {len(header)} of "
                    f"{FILE_HEADER_BYTES}); copy or download the file again"
                )
            order, unit = _MAGICS[header[:4]]
            link = int(np.frombuffer(header, order + "u4", 1, 20)[0]) & 0xFFFF
            if link not in _LINKS:
                known = ", ".join(f"{number} {name}" for number, name in _LINKS.items())
                raise CaptureError(
                    f"{self._path} has link type {link} at byte 20, which is not read here "
                    f"(read are: {known}); record on an Ethernet interface"
                )
            compression = f", {source.compression}" if source.compression else ""
            self._kind = f"pcap, {_LINKS[link]}, {unit}{compression}"
            start, rest = FILE_HEADER_BYTES, b""
            while chunk := source.read(CHUNK_BYTES):
                data = rest + chunk
                frames, consumed = self._chunk(
                    source, np.frombuffer(data, np.uint8), start, order, link, count
                )
                yield frames
                start, rest = start + consumed, data[consumed:]
            if rest:
                raise CaptureError(
                    f"{self._path} is cut off inside the record at {source.where(start)}: {len(rest)} bytes "
                    "are left. Copy or download the file again, or keep the whole records: "
                    f"head -c {start} FILE > NEW" + (" (after decompressing)" if source.compression else "")
                )

    def _chunk(
        self, source: Source, data: NDArray[np.uint8], start: int, order: str, link: int, count: bool
    ) -> tuple[_Frames, int]:
        most = len(data) // RECORD_HEADER_BYTES + 1
        offset, key = np.empty(most, np.int64), np.empty(most, np.int64)
        length, whole = np.empty(most, np.int32), np.empty(most, np.bool_)
        counts = np.zeros(7, np.int64)
        n, records, consumed, status = _walk(
            data,
            order == ">",
            link,
            -1 if self._group is None else self._group,
            -1 if self._port is None else self._port,
            offset,
            length,
            key,
            whole,
            counts,
        )
        if status != _OK:
            raise self._refusal(status, source.where(start + consumed))
        if count:
            self._counts += counts
            self._records += records
        return _Frames(Packets(data, offset[:n], length[:n]), key[:n], whole[:n]), consumed

    def _refusal(self, status: int, where: str) -> CaptureError:
        what = {
            _FRAGMENT: (
                "holds an IP fragment of a UDP packet",
                "record behind a link whose MTU fits the feed's packets",
            ),
            _SNAPPED: ("holds a packet that was recorded only in part", "record whole packets: tcpdump -s 0"),
            _TOO_LONG: (
                f"has a record of more than {MAX_FRAME_BYTES:,} bytes, so it is damaged there",
                "copy or download the file again",
            ),
        }[status]
        return CaptureError(f"{self._path} {what[0]}, in the record at {where}; {what[1]}")


def _group_key(group: str | None) -> int | None:
    if group is None:
        return None
    try:
        return int(ipaddress.IPv4Address(group))
    except ValueError as error:
        raise CaptureError(f"group {group!r} is no IPv4 address; write one such as 224.0.31.1") from error


def _listing(flows: dict[int, _Seen], keys: list[int] | dict[int, _Seen]) -> str:
    return ", ".join(f"{Flow.of(key)} {flows[key].packets:,} packets" for key in keys)


def _same_channel(a: dict[int, int], b: dict[int, int]) -> bool:
    """Whether two flows carry the same messages under the same sequence numbers."""
    common = a.keys() & b.keys()
    return bool(common) and 2 * sum(a[seq] == b[seq] for seq in common) > len(common)


@njit(nogil=True, cache=True)
def _u16(data, at):
    """Network byte order."""
    return np.int64(data[at]) << 8 | np.int64(data[at + 1])


@njit(nogil=True, cache=True)
def _u32(data, at, big):
    if big:
        return _u16(data, at) << 16 | _u16(data, at + 2)
    return (
        np.int64(data[at])
        | np.int64(data[at + 1]) << 8
        | np.int64(data[at + 2]) << 16
        | np.int64(data[at + 3]) << 24
    )


@njit(nogil=True, cache=True)
def _ipv4(data, at, end, link):
    """Position of the IPv4 header in a frame, or -1."""
    if link == 1:  # Ethernet II
        at, ethertype = at + 14, at + 12
    elif link == 113:  # LINKTYPE_LINUX_SLL
        at, ethertype = at + 16, at + 14
    elif link == 276:  # LINKTYPE_LINUX_SLL2
        at, ethertype = at + 20, at
    else:
        if link in (0, 108):  # address family in front; the version tells IPv4 from IPv6
            at += 4
        return at if at < end and data[at] >> 4 == 4 else -1
    if at > end:
        return -1
    kind = _u16(data, ethertype)
    while kind in (0x8100, 0x88A8, 0x9100):  # 802.1Q, 802.1ad and its forerunner
        if at + 4 > end:
            return -1
        kind = _u16(data, at + 2)
        at += 4
    return at if kind == 0x0800 and at < end and data[at] >> 4 == 4 else -1


@njit(nogil=True, cache=True)
def _tiles(data, at, end):
    """Whether messages fill a packet from behind its header to its end."""
    while at < end:
        if end - at < mdp3.MESSAGE_HEADER_BYTES:
            return False
        size = np.int64(data[at]) | np.int64(data[at + 1]) << 8
        if size < mdp3.MESSAGE_HEADER_BYTES:
            return False
        at += size
    return at == end


@njit(nogil=True, cache=True)
def _frame(data, at, end, original, link, group, port):
    """(what it is, payload position, payload length, flow) of the frame between ``at`` and ``end``."""
    ip = _ipv4(data, at, end, link)
    if ip < 0:
        return _NO_UDP, 0, 0, 0
    if ip + 20 > end:
        return _BAD, 0, 0, 0
    header = np.int64(data[ip] & 15) * 4
    if header < 20:
        return _BAD, 0, 0, 0
    if data[ip + 9] != 17:
        return _NO_UDP, 0, 0, 0
    destination = _u32(data, ip + 16, True)
    if group not in (-1, destination):
        return _NO_UDP, 0, 0, 0
    if _u16(data, ip + 6) & 0x3FFF:  # more fragments, or an offset
        return _FRAGMENT, 0, 0, 0
    udp = ip + header
    total = _u16(data, ip + 2)
    if udp + 8 > end:
        return _SNAPPED if original > end - at else _BAD, 0, 0, 0
    to_port = _u16(data, udp + 2)
    if port not in (-1, to_port):
        return _NO_UDP, 0, 0, 0
    length = _u16(data, udp + 4)
    if length < 8 or (total > 0 and header + length > total):  # total is 0 where the network card segments
        return _BAD, 0, 0, 0
    if udp + length > end:
        return _SNAPPED if original > end - at else _BAD, 0, 0, 0
    if length - 8 < HEADER_BYTES:
        return _SHORT, 0, 0, 0
    return _OK, udp + 8, length - 8, destination << 16 | to_port


@njit(nogil=True, cache=True)
def _walk(data, big, link, group, port, offset, length, key, whole, counts):
    """Walk whole records; returns packets, records, bytes consumed, and why it stopped early."""
    at, n, records = 0, 0, 0
    while at + RECORD_HEADER_BYTES <= len(data):
        captured = _u32(data, at + 8, big)
        original = _u32(data, at + 12, big)
        if captured > MAX_FRAME_BYTES:
            return n, records, at, _TOO_LONG
        start = at + RECORD_HEADER_BYTES
        end = start + captured
        if end > len(data):
            break
        what, payload, size, flow = _frame(data, start, end, original, link, group, port)
        if what in (_FRAGMENT, _SNAPPED):
            return n, records, at, what
        counts[what] += 1
        if what == _OK:
            offset[n], length[n], key[n] = payload, size, flow
            whole[n] = _tiles(data, payload + HEADER_BYTES, payload + size)
            n += 1
        records += 1
        at = end
    return n, records, at, _OK


@njit(nogil=True, cache=True)
def _first_copies(seq, seen, highest):
    """Which packets bring a sequence number for the first time, and how often the numbers restarted."""
    fresh = np.empty(len(seq), np.bool_)
    restarts = 0
    for i in range(len(seq)):
        if seq[i] < highest[0] - WINDOW:
            seen[:] = -1
            highest[0] = -1
            restarts += 1
        slot = seq[i] % WINDOW
        fresh[i] = seen[slot] != seq[i]
        seen[slot] = seq[i]
        highest[0] = max(highest[0], seq[i])
    return fresh, restarts

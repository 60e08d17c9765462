"""What the ingest tests share: records by hand, and streams of two impaired feeds with their truth."""

import random
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from workloads.ingest import frames

MS = 1_000_000
SECOND = 1_000_000_000
SUNDAY = 1_767_567_600_000_000_000
"""2026-01-04 23:00 UTC, a Sunday evening on which XCME opens: trading date 2026-01-05."""


@dataclass(frozen=True)
class Arrival:
    """One received datagram."""

    feed: int
    payload: bytes
    ts_recv: int
    ts_read: int = 0
    """0: as ``ts_recv``."""
    kernel_drops: int = 0
    flags: int = 0
    epoch: int = 0
    """The truth, for the oracle; not in the record."""

    @property
    def seq(self) -> int:
        return int.from_bytes(self.payload[:4], "little")


def packet(seq: int, ts_sent: int, body: bytes = b"") -> bytes:
    """A UDP payload: packet header and messages."""
    return seq.to_bytes(4, "little") + ts_sent.to_bytes(8, "little") + body


def record(arrival: Arrival) -> bytes:
    header = np.zeros(1, frames.RECORD)
    header["length"] = len(arrival.payload)
    header["feed"] = arrival.feed
    header["flags"] = arrival.flags
    header["kernel_drops"] = arrival.kernel_drops
    header["ts_recv"] = arrival.ts_recv
    header["ts_read"] = arrival.ts_read or arrival.ts_recv
    data = header.tobytes() + arrival.payload
    return data + bytes(-len(data) % 8)


def records(arrivals: Iterable[Arrival]) -> np.ndarray:
    """Arrivals as one buffer, the way that the receiver writes them."""
    return np.frombuffer(b"".join(map(record, arrivals)), np.uint8)


@dataclass(frozen=True)
class Feed:
    """What happens to one copy of the stream. Shares are probabilities."""

    loss: float = 0.0
    duplication: float = 0.0
    reorder: float = 0.0
    delay_ns: int = 0
    jitter_ns: int = 0
    outage: tuple[int, int] | None = None
    """Positions of the first and last packet lost, over all epochs."""
    alive: bool = True


@dataclass(frozen=True)
class Epoch:
    """A run of consecutive numbers."""

    first: int
    n: int
    pause_ns: int = 2 * SECOND
    """Between the last SendingTime of the epoch before and the first of this one."""


def two_feeds(
    epochs: Iterable[Epoch],
    a: Feed,
    b: Feed,
    *,
    rng: random.Random,
    spacing_ns: int = MS,
    safe: bool = True,
) -> list[Arrival]:
    """Everything that arrives, in the order of arrival.

    ``safe``: the first and the last packets of an epoch come on A at once, so that a restart can be told
    at all: where the first number that arrives is above the last one before it, nobody can tell.
    """
    arrivals: list[Arrival] = []
    ts, position = SUNDAY, 0
    for ordinal, epoch in enumerate(epochs):
        ts += epoch.pause_ns if ordinal else 0
        for i in range(epoch.n):
            ts += rng.randint(1, spacing_ns)
            payload = packet(epoch.first + i, ts, rng.randbytes(rng.randint(0, 40)))
            keep = safe and (i < 3 or i >= epoch.n - 3)
            for which, feed in enumerate((a, b)):
                arrivals += _copies(feed, which, payload, ts, position, keep, ordinal, rng)
            position += 1
    arrivals.sort(key=lambda arrival: arrival.ts_recv)
    read, out, drops = 0, [], [0, 0]
    for arrival in arrivals:
        if arrival.ts_recv > read:
            read = arrival.ts_recv + rng.choice((0, 0, 1000, MS))  # a batch is read a moment later
        if rng.random() < 0.02:
            drops[arrival.feed] += rng.randint(1, 5)
        out.append(
            Arrival(
                arrival.feed,
                arrival.payload,
                arrival.ts_recv,
                read,
                drops[arrival.feed],
                epoch=arrival.epoch,
            )
        )
    return out


def _copies(
    feed: Feed, which: int, payload: bytes, ts: int, position: int, keep: bool, epoch: int, rng: random.Random
) -> list[Arrival]:
    out = feed.outage is not None and feed.outage[0] <= position <= feed.outage[1]
    if not feed.alive or ((out or rng.random() < feed.loss) and not (keep and which == 0)):
        return []
    late = feed.delay_ns + rng.randint(0, feed.jitter_ns)
    if rng.random() < feed.reorder:
        late += rng.randint(0, 8 * MS)
    if keep and which == 0:
        late = 0
    arrived = ts + late + 1
    copies = 2 if rng.random() < feed.duplication else 1
    return [Arrival(which, payload, arrived + k, epoch=epoch) for k in range(copies)]

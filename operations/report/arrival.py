"""What arrived: shares, gaps, proof, skew, latency and rates, from the stored tables and the sender's log.

All times are int64 ns since the UNIX epoch; 0 stands for "did not come".
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from operations.report import series
from workloads.exchange.feed import SendLog
from workloads.ticks.archive import Archive
from workloads.ticks.quality import Intervals, count, inside, lost_intervals, merged, rest

Times = NDArray[np.int64]

BURSTS = (1_000_000, 10_000_000, 100_000_000, 1_000_000_000)
"""Windows of the burst table, ns."""

SAME_CLOCK_NS = 60_000_000_000
"""A median this far from 0 isn't a latency: the packets were sent at another time than SendingTime says."""

_FEED_COUNTERS = (
    *("packets", "bytes", "first", "duplicates", "late"),
    *("malformed", "unknown_messages", "kernel_drops"),
)


@dataclass(frozen=True)
class Packets:
    """The columns of `packets`, n rows in the order of (epoch, seq)."""

    key: NDArray[np.int64]
    """Position of the epoch among the run's epochs, times 2**32, plus the sequence number."""
    sent: Times
    """SendingTime of the packet."""
    recv: Times
    recv_a: Times
    recv_b: Times
    bytes: int
    messages: int


@dataclass(frozen=True)
class Gap:
    """One row of `gaps`."""

    epoch: int
    first: int
    last: int
    reason: str
    outcome: str
    silence: int | None
    """ns between the packets on both sides."""
    drops_a: int
    drops_b: int


@dataclass(frozen=True)
class Sent:
    """What the sender's log says, keyed like `Packets`."""

    key: NDArray[np.int64]
    """Ascending."""
    feeds: Mapping[str, Times]
    """When each packet left, for A and B; 0: dropped on purpose."""


@dataclass(frozen=True)
class Proof:
    """The sender's log against the gaps table, by sequence number."""

    sent: int
    """Packets that the sender had to send."""
    dropped: Mapping[str, int]
    """By feed: packets that never left on it."""
    dropped_on_both: int
    gaps: int
    """Sequence numbers of the gaps table that never came."""
    unrecorded: list[int]
    """Dropped on both feeds, but neither stored nor in the gaps table (first ones)."""
    unrecorded_count: int
    not_dropped: list[int]
    """In the gaps table although the sender sent them: lost on the way (first ones)."""
    not_dropped_count: int


@dataclass(frozen=True)
class Histogram:
    """Counts between edges; what lies outside is counted apart."""

    edges: NDArray[np.float64]
    counts: dict[str, NDArray[np.int64]]
    below: int = 0
    above: int = 0


@dataclass(frozen=True)
class Skew:
    """Arrival on B minus arrival on A, ns, of packets that came on both."""

    n: int
    quantiles: dict[float, int]
    least: int
    greatest: int
    a_first: int
    histogram: Histogram


@dataclass(frozen=True)
class Latency:
    """Arrival minus departure, ns."""

    measured: bool
    """Against the sender's wall clock; otherwise against the packet's own SendingTime."""
    n: int
    quantiles: dict[float, int]
    """Of the copy that came first."""
    greatest: int
    histogram: Histogram
    """By feed, edges in ns, logarithmic; ``below`` counts values of 0 or less."""

    @property
    def telling(self) -> bool:
        """False where SendingTime is of another day than our clock, as in any replay: no latency then."""
        return self.n > 0 and (self.measured or abs(self.quantiles[0.5]) < SAME_CLOCK_NS)


@dataclass(frozen=True)
class Arrival:
    """Everything that the report says about the feeds."""

    packets: int = 0
    messages: int = 0
    bytes: int = 0
    a_first: int = 0
    b_first: int = 0
    only_a: int = 0
    only_b: int = 0
    lost: int = 0
    late: int = 0
    feeds: list[dict[str, Any]] = field(default_factory=list)
    gaps: list[Gap] = field(default_factory=list)
    proof: Proof | None = None
    skew: Skew | None = None
    latency: Latency | None = None
    event_rate: series.Rate | None = None
    wall_rate: series.Rate | None = None
    bursts: list[tuple[series.Peak, series.Peak]] = field(default_factory=list)
    """(by SendingTime, by arrival) for each of `BURSTS`."""
    event_span: tuple[int, int] | None = None
    wall_span: tuple[int, int] | None = None


def arrival(archive: Archive, log: SendLog | None) -> Arrival:
    """Read `packets`, `feeds` and `gaps` and compute all of it."""
    tables = archive.tables()
    gaps = read_gaps(archive.read("gaps")) if "gaps" in tables else []
    rows = archive.read("packets") if "packets" in tables else None
    epochs = np.unique(
        np.concatenate(
            [
                np.array([gap.epoch for gap in gaps], np.int64),
                integers(rows, "epoch") if rows is not None else np.zeros(0, np.int64),
            ]
        )
    )
    lost, late = missing(gaps, epochs)
    sent = sender_times(log) if log else None
    base = Arrival(
        lost=count(lost),
        late=late,
        gaps=gaps,
        feeds=feed_counters(archive.read("feeds")) if "feeds" in tables else [],
    )
    packets = read_packets(rows, epochs) if rows is not None and rows.num_rows else None
    here = packets.key if packets else np.zeros(0, np.int64)
    proof = prove(sent, lost, here) if sent else None
    if packets is None:
        return Arrival(**{**vars(base), "proof": proof})
    on_a, on_b = packets.recv_a != 0, packets.recv_b != 0
    both = on_a & on_b
    ahead = both & (packets.recv_a <= packets.recv_b)
    event, wall = np.sort(packets.sent[packets.sent != 0]), np.sort(packets.recv)
    return Arrival(
        **{
            **vars(base),
            "proof": proof,
            "packets": len(packets.key),
            "messages": packets.messages,
            "bytes": packets.bytes,
            "a_first": int(ahead.sum()),
            "b_first": int((both & ~ahead).sum()),
            "only_a": int((on_a & ~on_b).sum()),
            "only_b": int((on_b & ~on_a).sum()),
            "skew": skew(packets.recv_b[both] - packets.recv_a[both]),
            "latency": latency(packets, sent),
            "event_rate": series.rate(event) if len(event) else None,
            "wall_rate": series.rate(wall),
            "bursts": [(series.peak(event, w), series.peak(wall, w)) for w in BURSTS] if len(event) else [],
            "event_span": (int(event[0]), int(event[-1])) if len(event) else None,
            "wall_span": (int(wall[0]), int(wall[-1])),
        }
    )


def integers(table: pa.Table, name: str) -> NDArray[np.int64]:
    """A column of integers or times as int64, null as 0."""
    column = table[name]
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.int64())
    if column.null_count:
        column = column.fill_null(0)
    return np.asarray(column.to_numpy(), np.int64)


def keys(epoch: NDArray[np.int64], seq: NDArray[np.int64], epochs: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where a packet stands in the run: the position of its epoch, then its sequence number."""
    return (np.searchsorted(epochs, epoch).astype(np.int64) << 32) | seq


def read_packets(rows: pa.Table, epochs: NDArray[np.int64]) -> Packets:
    """The rows in the order of (epoch, seq)."""
    key = keys(integers(rows, "epoch"), integers(rows, "seq"), epochs)
    order = np.argsort(key, kind="stable")
    sent, recv, recv_a, recv_b = (
        integers(rows, name)[order] for name in ("ts_sent", "ts_recv", "ts_recv_a", "ts_recv_b")
    )
    return Packets(
        key[order],
        sent,
        recv,
        recv_a,
        recv_b,
        int(integers(rows, "bytes").sum()),
        int(integers(rows, "messages").sum()),
    )


def read_gaps(rows: pa.Table) -> list[Gap]:
    """The rows in the order of (epoch, first)."""
    before, after = integers(rows, "ts_before"), integers(rows, "ts_after")
    out = []
    names = ("epoch", "first_seq", "last_seq", "reason", "outcome", "kernel_drops_a", "kernel_drops_b")
    columns = [rows[name].to_pylist() for name in names]
    for (epoch, first, last, reason, outcome, a, b), t0, t1 in zip(
        zip(*columns, strict=True), before.tolist(), after.tolist(), strict=True
    ):
        silence = t1 - t0 if t0 and t1 else None
        out.append(Gap(epoch, first, last, reason or "", outcome or "", silence, a or 0, b or 0))
    return sorted(out, key=lambda gap: (gap.epoch, gap.first, gap.outcome != "lost"))


def missing(gaps: list[Gap], epochs: NDArray[np.int64]) -> tuple[Intervals, int]:
    """Keys of what never came; and how many packets came after their gap was declared."""
    lost = lost_intervals((gap.epoch, gap.first, gap.last, gap.outcome) for gap in gaps)
    late: dict[int, Intervals] = {}
    for gap in gaps:
        if gap.outcome == "late":
            late.setdefault(gap.epoch, []).append((gap.first, gap.last))
    missed = []
    for epoch, intervals in lost.items():
        base = int(np.searchsorted(epochs, epoch)) << 32
        missed += [(base + first, base + last) for first, last in intervals]
    return missed, sum(count(merged(ranges)) for ranges in late.values())


def feed_counters(rows: pa.Table) -> list[dict[str, Any]]:
    """Totals of each feed's counters over the segments, and the least receive buffer granted."""
    names = rows["feed"].to_pylist()
    out = []
    for feed in sorted(set(names)):
        mine = np.array([name == feed for name in names])
        totals: dict[str, Any] = {"feed": feed}
        for counter in _FEED_COUNTERS:
            totals[counter] = int(integers(rows, counter)[mine].sum())
        granted = integers(rows, "receive_buffer")[mine]
        totals["receive_buffer"] = int(granted[granted > 0].min()) if (granted > 0).any() else None
        out.append(totals)
    return out


def sender_times(log: SendLog) -> Sent | None:
    """The log of A and B by packet; None where neither was sent. A falling number starts a new epoch."""
    names = [name for name in ("A", "B") if name in log.feeds]
    if not names:
        return None
    seq = log.feeds[names[0]].seq.astype(np.int64)
    key = (np.cumsum(np.diff(seq, prepend=seq[:1]) < 0) << 32) | seq
    order = np.argsort(key, kind="stable")
    feeds = {}
    for name in names:
        feed = log.feeds[name]
        feeds[name] = np.where(feed.copies > 0, feed.ts, 0)[order]
    return Sent(key[order], feeds)


def prove(sent: Sent, lost: Intervals, stored: NDArray[np.int64], shown: int = 20) -> Proof:
    """Compare by sequence number what left on no feed with what the gaps table lists."""
    gone = np.logical_and.reduce([ts == 0 for ts in sent.feeds.values()])
    nowhere = sent.key[gone]
    unrecorded = nowhere[~inside(nowhere, lost)]
    # Never sent, never stored, never recorded as missing. (What is stored was sent, whatever the log says.)
    unrecorded = np.setdiff1d(unrecorded, stored)
    silent = np.setdiff1d(sent.key[~gone], stored)
    silent = silent[~inside(silent, lost)]
    unrecorded = np.union1d(unrecorded, silent)
    not_dropped, not_dropped_count = rest(lost, np.unique(nowhere), shown)
    low = (1 << 32) - 1
    return Proof(
        sent=len(sent.key),
        dropped={name: int((ts == 0).sum()) for name, ts in sent.feeds.items()},
        dropped_on_both=len(nowhere),
        gaps=count(lost),
        unrecorded=(unrecorded[:shown] & low).tolist(),
        unrecorded_count=len(unrecorded),
        not_dropped=[key & low for key in not_dropped],
        not_dropped_count=not_dropped_count,
    )


def skew(values: NDArray[np.int64], bins: int = 81) -> Skew | None:
    """The distribution of B minus A; the histogram covers the middle 99 %, zero included, in equal bins."""
    if not len(values):
        return None
    ascending = np.sort(values)
    quantiles = {q: series.quantile(ascending, q) for q in (0.005, 0.01, 0.5, 0.99, 0.995)}
    low, high = min(quantiles[0.005], 0), max(quantiles[0.995], 0)
    width = max(1.0, (high - low) / bins)
    # Zero is an edge, so that no bar mixes "A first" with "B first".
    first, last = int(np.floor(low / width)), int(np.floor(high / width)) + 1
    edges = np.arange(first, last + 1, dtype=np.float64) * width
    counts, _ = np.histogram(values, edges)
    below, above = int((values < edges[0]).sum()), int((values > edges[-1]).sum())
    return Skew(
        len(values),
        quantiles,
        int(ascending[0]),
        int(ascending[-1]),
        int((values >= 0).sum()),
        Histogram(edges, {"B − A": counts}, below, above),
    )


def latency(packets: Packets, sent: Sent | None, per_decade: int = 20) -> Latency:
    """Arrival minus the sender's clock, for each feed; without a log, minus the packet's SendingTime."""
    arrivals = {"A": packets.recv_a, "B": packets.recv_b}
    departures = dict.fromkeys(arrivals, packets.sent)
    if sent:
        place = np.minimum(np.searchsorted(sent.key, packets.key), len(sent.key) - 1)
        known = sent.key[place] == packets.key
        departures = {name: np.where(known, ts[place], 0) for name, ts in sent.feeds.items()}
    late = {}
    first = np.full(len(packets.key), np.iinfo(np.int64).max)
    earliest = np.full(len(packets.key), np.iinfo(np.int64).max)
    for name, left in departures.items():
        came = arrivals[name]
        usable = (came != 0) & (left != 0)
        late[name] = (came - left)[usable]
        better = usable & (came < earliest)
        first[better] = (came - left)[better]
        earliest[better] = came[better]
    ascending = np.sort(first[earliest != np.iinfo(np.int64).max])
    if not len(ascending):
        return Latency(sent is not None, 0, {}, 0, Histogram(np.zeros(1), {}))
    positive = np.concatenate([values[values > 0] for values in late.values()])
    if len(positive):
        low, high = np.log10(positive.min()), np.log10(positive.max())
        first_edge, last_edge = np.floor(low * per_decade), np.ceil(high * per_decade + 1e-9)
        edges = 10 ** (np.arange(first_edge, max(last_edge, first_edge + 1) + 1) / per_decade)
    else:
        edges = np.array([1.0, 10.0])
    return Latency(
        sent is not None,
        len(ascending),
        {q: series.quantile(ascending, q) for q in (0.5, 0.9, 0.99, 0.999)},
        int(ascending[-1]),
        Histogram(
            edges,
            {name: np.histogram(values, edges)[0] for name, values in late.items()},
            below=sum(int((values <= 0).sum()) for values in late.values()),
        ),
    )

"""Arbitrate feeds A and B of one channel: take each sequence number once, in order; find what is missing.

A pure function of the received records (`workloads.ingest.frames`): its only clock is the records' own
``ts_read``, so that reading the spool again gives the same answer. Rules:

- The channel has one sequence space; A and B carry the same packets (CME MDP 3.0, feed arbitration).
- A packet ahead of the expected one is held. The packets before it are declared missing when ``hold_ns``
  have passed since the packet behind them arrived, or when both feeds have moved ``reorder`` packets past
  them, or when the ring of held packets is full. CME states no waiting time: these are ours.
- A missing packet that comes after all is handed on, flagged late.
- A lower number with a newer SendingTime is a restart (weekly reset, failover, wrap), not a duplicate: a
  new epoch begins, and what was held is released first. What a slower feed still brings of the epoch
  before is dropped and counted with the duplicates.
- Snapshot packets number their own sequence space and pass straight through.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,call-arg"
# The loop is compiled: Numba infers its types.

from collections import namedtuple
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from workloads.compiled import compiled
from workloads.exchange.packets import HEADER_BYTES, Packets
from workloads.exchange.wire import load_i64, load_u32
from workloads.ingest.frames import (
    FEED_A,
    FEED_B,
    FEED_SNAPSHOT,
    FLAG_TRUNCATED,
    RECORD_HEADER_BYTES,
    SLOT_BYTES,
)

RING: Final = 4_096
"""Packets that can be held while an earlier one is awaited."""
WINDOW: Final = 1 << 16
"""Sequence numbers behind the newest for which a duplicate can be told from a late packet."""

REASONS: Final = ("timer", "passed", "ring", "end")
OUTCOMES: Final = ("lost", "late")

LATE: Final = 1
"""Accepted after its gap had been declared."""
FROM_B: Final = 2
"""Feed B brought it first."""
BREAK: Final = 4
"""It does not follow the packet before it: a gap, a late packet, a new epoch."""
LOSS: Final = 8
"""Packets are missing right before it."""
RESTART: Final = 16
"""The first of a new epoch."""

ACCEPTED: Final[dict[str, str]] = {
    "seq": "u4",
    "epoch": "i4",
    "ts_sent": "i8",
    "ts_recv": "i8",
    "ts_recv_a": "i8",
    "ts_recv_b": "i8",
    "length": "i4",
    "flags": "u1",
}
"""Per accepted packet; ``epoch`` counts from 0, times are 0 where that feed has not brought the packet."""
GAPS: Final[dict[str, str]] = {
    "epoch": "i4",
    "first_seq": "u4",
    "last_seq": "u4",
    "ts_before": "i8",
    "ts_after": "i8",
    "ts_detected": "i8",
    "reason": "u1",
    "outcome": "u1",
    "kernel_drops_a": "u4",
    "kernel_drops_b": "u4",
}
FEEDS: Final[dict[str, str]] = {
    "packets": "i8",
    "bytes": "i8",
    "first": "i8",
    "duplicates": "i8",
    "late": "i8",
    "malformed": "i8",
    "kernel_drops": "i8",
    "drops_total": "i8",
    "drops_seen": "i8",
    "ts_first": "i8",
    "ts_last": "i8",
}
"""Per feed (A, B, S), since `Arbiter.take_feeds` emptied them; but ``drops_total`` runs on, and
``drops_seen`` is the socket's own counter as last seen, which begins anew with every socket."""
_RUNNING = ("drops_total", "drops_seen")

_Accepted = namedtuple("_Accepted", ACCEPTED)  # type: ignore[misc]  # fields are the dict's keys
_Gaps = namedtuple("_Gaps", GAPS)  # type: ignore[misc]
_Feeds = namedtuple("_Feeds", FEEDS)  # type: ignore[misc]
_Output = namedtuple("_Output", ["columns", "offset", "buffer", "counts"])
_Machine = namedtuple(
    "_Machine",
    [
        "state",
        "seen",
        "seen_at",
        "ring",
        "ring_read",
        "ring_drops",
        "held",
        "out",
        "snapshots",
        "gaps",
        "gap_count",
        "feeds",
    ],
)

_STATE = (
    "expected",  # next sequence number to hand on; 0: not yet known
    "epoch",
    "epoch_started",  # SendingTime of the epoch's first packet
    "newest_sent",  # newest SendingTime handed on
    "held",
    "break_next",  # the next packet in order follows one that is not its neighbour
    "highest_a",
    "highest_b",
    "last_recv",  # ts_recv of the last packet handed on in order
    "drops_a",  # kernel drops when it was handed on
    "drops_b",
    "ordinal",  # of accepted[0], counted over the whole life
    "stragglers",  # SendingTime before which a packet belongs to the epoch before
    "clock",  # newest ts_read
)
EXPECTED, EPOCH, EPOCH_STARTED, NEWEST_SENT, HELD, BREAK_NEXT, HIGHEST_A, HIGHEST_B = range(8)
LAST_RECV, DROPS_A, DROPS_B, ORDINAL, STRAGGLERS, CLOCK = range(8, 14)
RESTART_NS: Final = 1_000_000_000
"""A lower number whose SendingTime is newer by this much is a restart even within the ring."""
FIRST_SENT: Final = 631_152_000_000_000_000
LAST_SENT: Final = 4_102_444_800_000_000_000
"""1990 and 2100: a packet with a SendingTime outside is malformed, for no trading date can be told."""


@dataclass(frozen=True)
class Rules:
    """When a missing packet is given up, and where the sequence starts."""

    hold_ns: int = 25_000_000
    """Nanoseconds to wait after the first later packet."""
    reorder: int = 64
    """Packets by which both feeds must have passed a missing one to declare it sooner."""
    first_seq: int = 0
    """First sequence number to expect; 0: join wherever the feed is."""
    settle_ns: int = 50_000_000
    """Nanoseconds that the other feed has to bring its copy before a packet's arrival counts as known."""


@dataclass(frozen=True)
class Accepted:
    """Packets handed on, and what is known of each. ``columns``: see `ACCEPTED`."""

    packets: Packets
    columns: dict[str, NDArray[Any]]

    @property
    def breaks(self) -> NDArray[np.bool_]:
        """True where a packet does not follow the one before it."""
        breaks: NDArray[np.bool_] = (self.columns["flags"] & BREAK) != 0
        return breaks


class _Journal:
    """Growing columns and one growing byte buffer: packets since the last `drop`."""

    def __init__(self) -> None:
        self.n = 0
        self.columns = {name: np.zeros(1 << 12, dtype) for name, dtype in ACCEPTED.items()}
        self.offset = np.zeros(1 << 12, np.int64)
        self.buffer = np.zeros(1 << 20, np.uint8)
        self.used = 0

    def reserve(self, packets: int, nbytes: int) -> None:
        if self.n + packets > len(self.offset):
            size = max(2 * len(self.offset), self.n + packets)
            self.columns = {name: _grown(column, size) for name, column in self.columns.items()}
            self.offset = _grown(self.offset, size)
        if self.used + nbytes > len(self.buffer):
            self.buffer = _grown(self.buffer, max(2 * len(self.buffer), self.used + nbytes))

    def output(self) -> Any:
        """Its memory, as the compiled loop takes it."""
        return _Output(
            _Accepted(*self.columns.values()),
            self.offset,
            self.buffer,
            np.array([self.n, self.used], np.int64),
        )

    def packets(self, first: int, last: int) -> Accepted:
        return Accepted(
            Packets(self.buffer, self.offset[first:last], self.columns["length"][first:last]),
            {name: column[first:last] for name, column in self.columns.items()},
        )

    def drop_bytes(self, first: int) -> None:
        """Forget the payloads of the packets before ``first``; their columns stay."""
        start = int(self.offset[first]) if first < self.n else self.used
        left = self.used - start
        self.buffer[:left] = self.buffer[start : self.used].copy()
        self.offset[first : self.n] -= start
        self.used = left

    def drop(self, first: int) -> None:
        """Forget the packets before ``first`` altogether; their payloads must be gone."""
        left = self.n - first
        for column in (*self.columns.values(), self.offset):
            column[:left] = column[first : self.n].copy()
        self.n = left

    def state(self, prefix: str) -> dict[str, NDArray[Any]]:
        arrays = {name: column[: self.n].copy() for name, column in self.columns.items()}
        arrays["offset"] = self.offset[: self.n].copy()
        arrays["buffer"] = self.buffer[: self.used].copy()
        return {f"{prefix}.{name}": array for name, array in arrays.items()}

    def restore(self, prefix: str, state: dict[str, NDArray[Any]]) -> None:
        n, used = len(state[f"{prefix}.offset"]), len(state[f"{prefix}.buffer"])
        self.reserve(n, used)
        for name, column in self.columns.items():
            column[:n] = state[f"{prefix}.{name}"]
        self.offset[:n] = state[f"{prefix}.offset"]
        self.buffer[:used] = state[f"{prefix}.buffer"]
        self.n, self.used = n, used


def _grown(array: NDArray[Any], size: int) -> NDArray[Any]:
    out = np.zeros(size, array.dtype)
    out[: len(array)] = array
    return out


class Arbiter:
    """The arbitration of one channel. Feed it records with `push`; take what it hands on.

    ``accepted`` and ``snapshots`` grow until `take` and its like empty them: a duplicate fills in the
    arrival time on the other feed of a packet handed on before, as long as that packet is still here.
    """

    def __init__(self, rules: Rules | None = None) -> None:
        self.rules = rules or Rules()
        self._state = np.zeros(len(_STATE), np.int64)
        self._state[EXPECTED] = self.rules.first_seq
        self._seen = np.zeros(WINDOW, np.uint32)
        self._seen_at = np.full(WINDOW, -1, np.int64)
        self._ring = np.zeros((RING, SLOT_BYTES), np.uint8)
        self._ring_read = np.zeros(RING, np.int64)
        self._ring_drops = np.zeros((RING, 2), np.int64)  # what each feed's kernel had dropped by then
        self._ring_columns = {name: np.zeros(RING, dtype) for name, dtype in ACCEPTED.items()}
        self.accepted = _Journal()
        self.snapshots = _Journal()
        self._gaps: Any = _Gaps(*(np.zeros(1 << 10, dtype) for dtype in GAPS.values()))
        self._gap_count = np.zeros(1, np.int64)
        self.feeds: dict[str, NDArray[np.int64]] = {name: np.zeros(3, np.int64) for name in FEEDS}

    @property
    def holding(self) -> int:
        """Packets held back while an earlier one is awaited."""
        return int(self._state[HELD])

    @property
    def settled(self) -> int:
        """Time up to which both feeds had their chance: no arrival before it will change any more."""
        return int(self._state[CLOCK]) - self.rules.settle_ns

    @property
    def epoch(self) -> int:
        """Restarts of the sequence seen so far."""
        return int(self._state[EPOCH])

    def push(self, records: NDArray[np.uint8], *, final: bool = False) -> None:
        """Arbitrate whole records of one buffer.

        ``final``: these are the last of their sockets; what is held is released and its gaps declared.
        """
        position = 0
        full = True
        while full:
            self._reserve(len(records) - position)
            out, snapshots = self.accepted.output(), self.snapshots.output()
            machine = _Machine(
                self._state,
                self._seen,
                self._seen_at,
                self._ring,
                self._ring_read,
                self._ring_drops,
                _Accepted(*self._ring_columns.values()),
                out,
                snapshots,
                self._gaps,
                self._gap_count,
                _Feeds(*self.feeds.values()),
            )
            position, full = _push(machine, records, position, final, self.rules.hold_ns, self.rules.reorder)
            self.accepted.n, self.accepted.used = map(int, out.counts)
            self.snapshots.n, self.snapshots.used = map(int, snapshots.counts)
        if final:
            self.feeds["drops_seen"][:] = 0  # what comes next comes from new sockets

    def _reserve(self, nbytes: int) -> None:
        records = nbytes // RECORD_HEADER_BYTES + 1
        self.accepted.reserve(records + RING, nbytes + self.holding * SLOT_BYTES)
        self.snapshots.reserve(records, nbytes)
        room = int(self._gap_count[0]) + 2 * RING
        if room > len(self._gaps.first_seq):
            self._gaps = _Gaps(*(_grown(column, 2 * room) for column in self._gaps))

    def forget(self, packets: int, snapshots: int) -> None:
        """Forget the first ``packets`` accepted and ``snapshots`` snapshot packets, for good."""
        self._state[ORDINAL] += packets
        self.accepted.drop(packets)
        self.snapshots.drop(snapshots)

    @property
    def lost(self) -> int:
        """Packets called lost since `take_gaps`; some may come late."""
        gaps = self._peek_gaps()
        lost = gaps["outcome"] == OUTCOMES.index("lost")
        return int((gaps["last_seq"][lost].astype(np.int64) - gaps["first_seq"][lost] + 1).sum())

    @property
    def quiet(self) -> bool:
        """Nothing is handed on, held or waiting, although something was received."""
        return self.accepted.n == 0 and self.holding == 0 and bool(self.feeds["packets"].any())

    def take_gaps(self) -> dict[str, NDArray[Any]]:
        """The gap rows since the last call: see `GAPS`."""
        n = int(self._gap_count[0])
        self._gap_count[0] = 0
        return {name: column[:n].copy() for name, column in zip(GAPS, self._gaps, strict=True)}

    def take_feeds(self) -> dict[str, NDArray[np.int64]]:
        """The feeds' counters since the last call; running totals keep running."""
        taken = {name: counter.copy() for name, counter in self.feeds.items()}
        for name, counter in self.feeds.items():
            if name not in _RUNNING:
                counter[:] = 0
        return taken

    def state(self) -> dict[str, NDArray[Any]]:
        """Everything, as arrays: `restore` on a fresh arbiter continues exactly here."""
        held = np.flatnonzero(self._ring_columns["length"] > 0)
        return {
            "state": self._state.copy(),
            "seen": self._seen.copy(),
            "seen_at": self._seen_at.copy(),
            "held": held,
            "held.bytes": self._ring[held],
            "held.read": self._ring_read[held],
            "held.drops": self._ring_drops[held],
            **{f"held.{name}": column[held] for name, column in self._ring_columns.items()},
            **self.accepted.state("accepted"),
            **self.snapshots.state("snapshots"),
            **{f"feeds.{name}": counter.copy() for name, counter in self.feeds.items()},
            **{f"gaps.{name}": column for name, column in self._peek_gaps().items()},
        }

    def _peek_gaps(self) -> dict[str, NDArray[Any]]:
        n = int(self._gap_count[0])
        return {name: column[:n].copy() for name, column in zip(GAPS, self._gaps, strict=True)}

    def restore(self, state: dict[str, NDArray[Any]]) -> None:
        """Continue where `state` was taken."""
        self._state[:] = state["state"]
        self._seen[:] = state["seen"]
        self._seen_at[:] = state["seen_at"]
        held = state["held"]
        self._ring[held] = state["held.bytes"]
        self._ring_read[held] = state["held.read"]
        self._ring_drops[held] = state["held.drops"]
        for name, column in self._ring_columns.items():
            column[held] = state[f"held.{name}"]
        self.accepted.restore("accepted", state)
        self.snapshots.restore("snapshots", state)
        for name, counter in self.feeds.items():
            counter[:] = state[f"feeds.{name}"]
        n = len(state["gaps.first_seq"])
        self._gap_count[0] = n
        self._reserve(0)
        for name, column in zip(GAPS, self._gaps, strict=True):
            column[:n] = state[f"gaps.{name}"]


@compiled
def _copy(source, at, target, to, length):
    for k in range(length):
        target[to + k] = source[at + k]


@compiled
def _append(out, epoch, source, at, row):
    """Append a packet; ``row`` is (seq, ts_sent, ts_recv, ts_recv_a, ts_recv_b, length, flags)."""
    n = out.counts[0]
    used = out.counts[1]
    seq, ts_sent, ts_recv, ts_recv_a, ts_recv_b, length, flags = row
    _copy(source, at, out.buffer, used, length)
    out.columns.seq[n] = seq
    out.columns.epoch[n] = epoch
    out.columns.ts_sent[n] = ts_sent
    out.columns.ts_recv[n] = ts_recv
    out.columns.ts_recv_a[n] = ts_recv_a
    out.columns.ts_recv_b[n] = ts_recv_b
    out.columns.length[n] = length
    out.columns.flags[n] = flags
    out.offset[n] = used
    out.counts[0] = n + 1
    out.counts[1] = used + length


@compiled
def _hand_on(m, source, at, row, drops_a, drops_b):
    """Hand on one packet, in order or late; ``drops_*``: what the kernel had dropped when it arrived."""
    state = m.state
    seq, ts_sent, ts_recv, ts_recv_a, ts_recv_b, length, flags = row
    if flags & LATE == 0:
        flags |= state[BREAK_NEXT]
        state[BREAK_NEXT] = 0
        state[LAST_RECV] = ts_recv
        state[NEWEST_SENT] = max(state[NEWEST_SENT], ts_sent)
        state[DROPS_A] = drops_a
        state[DROPS_B] = drops_b
    else:
        flags |= BREAK
        state[BREAK_NEXT] |= BREAK
    slot = seq % WINDOW
    m.seen[slot] = seq
    m.seen_at[slot] = state[ORDINAL] + m.out.counts[0]
    _append(m.out, state[EPOCH], source, at, (seq, ts_sent, ts_recv, ts_recv_a, ts_recv_b, length, flags))


@compiled
def _release(m):
    """Hand on held packets as long as the expected one is among them."""
    state, held = m.state, m.held
    while state[HELD] > 0:
        slot = state[EXPECTED] % RING
        if held.length[slot] == 0 or held.seq[slot] != state[EXPECTED]:
            break
        row = (
            np.int64(held.seq[slot]),
            held.ts_sent[slot],
            held.ts_recv[slot],
            held.ts_recv_a[slot],
            held.ts_recv_b[slot],
            np.int64(held.length[slot]),
            np.int64(held.flags[slot]),
        )
        _hand_on(m, m.ring[slot], 0, row, m.ring_drops[slot, FEED_A], m.ring_drops[slot, FEED_B])
        held.length[slot] = 0
        state[HELD] -= 1
        state[EXPECTED] += 1


@compiled
def _lowest_held(m):
    """Slot of the lowest held sequence number; -1 when nothing is held."""
    expected = m.state[EXPECTED]
    for step in range(RING):
        slot = (expected + step) % RING
        if m.held.length[slot] > 0 and m.held.seq[slot] == expected + step:
            return slot
    lowest = -1  # before the first number is known, what is held may lie anywhere
    for slot in range(RING):
        if m.held.length[slot] > 0 and (lowest < 0 or m.held.seq[slot] < m.held.seq[lowest]):
            lowest = slot
    return lowest


@compiled
def _declare(m, first, last, ts_after, now, reason, outcome, drops_a, drops_b):
    """Add a gap row; ``drops_*``: what the kernel had dropped when the packet behind the gap arrived."""
    gaps, state = m.gaps, m.state
    n = m.gap_count[0]
    gaps.epoch[n] = state[EPOCH]
    gaps.first_seq[n] = first
    gaps.last_seq[n] = last
    gaps.ts_before[n] = state[LAST_RECV]
    gaps.ts_after[n] = ts_after
    gaps.ts_detected[n] = now
    gaps.reason[n] = reason
    gaps.outcome[n] = outcome
    gaps.kernel_drops_a[n] = max(drops_a - state[DROPS_A], 0)
    gaps.kernel_drops_b[n] = max(drops_b - state[DROPS_B], 0)
    m.gap_count[0] = n + 1


@compiled
def _skip_to(m, slot, now, reason):
    """Give up everything before the held packet in ``slot``, and hand on from there."""
    state = m.state
    seq = np.int64(m.held.seq[slot])
    if state[EXPECTED] > 0 and seq > state[EXPECTED]:
        drops_a, drops_b = m.ring_drops[slot, FEED_A], m.ring_drops[slot, FEED_B]
        _declare(m, state[EXPECTED], seq - 1, m.held.ts_recv[slot], now, reason, 0, drops_a, drops_b)
        state[BREAK_NEXT] |= BREAK | LOSS
    state[EXPECTED] = seq
    _release(m)


@compiled
def _give_up(m, now, hold_ns, reorder, everything):
    """Give up what has been awaited long enough."""
    state = m.state
    while state[HELD] > 0:
        slot = _lowest_held(m)
        passed = (
            state[EXPECTED] > 0
            and state[HIGHEST_A] >= state[EXPECTED] + reorder
            and state[HIGHEST_B] >= state[EXPECTED] + reorder
        )
        if everything:
            reason = 3
        elif now - m.ring_read[slot] >= hold_ns:
            reason = 0
        elif passed:
            reason = 1
        else:
            return
        _skip_to(m, slot, now, reason)


@compiled
def _begin_epoch(m, seq, ts_sent, now):
    """The sequence restarted: release what was held, forget what was seen."""
    state = m.state
    _give_up(m, now, 0, 0, True)
    newest = state[NEWEST_SENT]
    state[STRAGGLERS] = newest + (ts_sent - newest) // 2 if ts_sent > newest else 0
    state[EPOCH] += 1
    state[EPOCH_STARTED] = ts_sent
    state[NEWEST_SENT] = 0
    state[EXPECTED] = 1 if seq <= RING else 0
    state[HIGHEST_A] = 0
    state[HIGHEST_B] = 0
    state[BREAK_NEXT] = BREAK | RESTART
    m.seen[:] = 0
    m.seen_at[:] = -1


@compiled
def _stamp(columns, index, feed, ts_recv):
    """Note when the other feed brought a packet that is here already."""
    if feed == FEED_A and columns.ts_recv_a[index] == 0:
        columns.ts_recv_a[index] = ts_recv
    elif feed == FEED_B and columns.ts_recv_b[index] == 0:
        columns.ts_recv_b[index] = ts_recv


@compiled
def _arbitrate(m, records, payload, length, feed, ts_recv, now):
    """One packet of feed A or B."""
    state, feeds, held = m.state, m.feeds, m.held
    base = np.uintp(records.ctypes.data) + np.uintp(payload)
    seq = np.int64(load_u32(base))
    ts_sent = load_i64(base + np.uintp(4))

    newest = max(state[EXPECTED], state[HIGHEST_A], state[HIGHEST_B])
    if state[EPOCH_STARTED] == 0:
        state[EPOCH_STARTED] = ts_sent
    elif ts_sent < state[STRAGGLERS] or (ts_sent < state[EPOCH_STARTED] and seq >= newest + RING):
        feeds.duplicates[feed] += 1  # a straggler of the epoch before
        return
    if state[EXPECTED] == 0 and state[HELD] > 0 and seq <= newest - RING:
        _skip_to(m, _lowest_held(m), now, 2)  # the ring can't hold both: the sequence begins above
    if state[NEWEST_SENT] > 0 and (
        (seq < state[EXPECTED] - RING and ts_sent > state[NEWEST_SENT])
        or (seq < state[EXPECTED] and ts_sent > state[NEWEST_SENT] + RESTART_NS)
    ):
        _begin_epoch(m, seq, ts_sent, now)
    highest = HIGHEST_A if feed == FEED_A else HIGHEST_B
    state[highest] = max(state[highest], seq)

    expected = state[EXPECTED]
    if expected > 0 and seq < expected:
        slot = seq % WINDOW
        if m.seen[slot] == seq:
            feeds.duplicates[feed] += 1
            if seq == expected - 1:  # what this feed dropped before its copy lies before what comes next
                state[DROPS_A if feed == FEED_A else DROPS_B] = feeds.drops_total[feed]
            index = m.seen_at[slot] - state[ORDINAL]
            if index >= 0:
                _stamp(m.out.columns, index, feed, ts_recv)
            return
        if seq < expected - WINDOW:
            feeds.duplicates[feed] += 1
            return

    ts_a = ts_recv if feed == FEED_A else np.int64(0)
    ts_b = ts_recv if feed == FEED_B else np.int64(0)
    flags = np.int64(FROM_B if feed == FEED_B else 0)
    drops_a, drops_b = feeds.drops_total[FEED_A], feeds.drops_total[FEED_B]
    if expected > 0 and seq < expected:
        feeds.late[feed] += 1
        feeds.first[feed] += 1
        _declare(m, seq, seq, ts_recv, now, 0, 1, state[DROPS_A], state[DROPS_B])
        row = (seq, ts_sent, ts_recv, ts_a, ts_b, length, flags | LATE)
        _hand_on(m, records, payload, row, drops_a, drops_b)
        return
    while state[HELD] > 0 and seq - np.int64(held.seq[_lowest_held(m)]) >= RING:
        _skip_to(m, _lowest_held(m), now, 2)  # make room in the ring
    if seq == state[EXPECTED]:
        feeds.first[feed] += 1
        row = (seq, ts_sent, ts_recv, ts_a, ts_b, length, flags)
        _hand_on(m, records, payload, row, drops_a, drops_b)
        state[EXPECTED] += 1
        _release(m)
        return

    slot = seq % RING
    if held.length[slot] > 0 and held.seq[slot] == seq:
        feeds.duplicates[feed] += 1
        _stamp(held, slot, feed, ts_recv)
        m.ring_drops[slot, feed] = feeds.drops_total[feed]
        return
    feeds.first[feed] += 1
    _copy(records, payload, m.ring[slot], 0, length)
    m.ring_read[slot] = now
    m.ring_drops[slot, FEED_A] = drops_a
    m.ring_drops[slot, FEED_B] = drops_b
    held.seq[slot] = seq
    held.ts_sent[slot] = ts_sent
    held.ts_recv[slot] = ts_recv
    held.ts_recv_a[slot] = ts_a
    held.ts_recv_b[slot] = ts_b
    held.length[slot] = length
    held.flags[slot] = flags
    state[HELD] += 1
    if state[EXPECTED] > 0 and seq - state[EXPECTED] >= RING:
        _skip_to(m, _lowest_held(m), now, 2)  # no ring could bridge it


@compiled
def _count_drops(feeds, feed, seen):
    """A counter below its last value is a new socket's (or has wrapped)."""
    more = seen - feeds.drops_seen[feed] if seen >= feeds.drops_seen[feed] else seen
    feeds.drops_seen[feed] = seen
    feeds.kernel_drops[feed] += more
    feeds.drops_total[feed] += more


@compiled
def _push(m, records, position, final, hold_ns, reorder):
    """Arbitrate records from ``position`` on; (position, True) when the gap rows have no more room."""
    base = np.uintp(records.ctypes.data)
    feeds = m.feeds
    now = np.int64(0)
    while position + RECORD_HEADER_BYTES <= len(records):
        if m.gap_count[0] + 2 * RING > len(m.gaps.first_seq):
            return position, True
        at = base + np.uintp(position)
        head = load_u32(at)
        length = np.int64(head & 0xFFFF)
        feed = np.int64((head >> 16) & 0xFF)
        truncated = (head >> 24) & FLAG_TRUNCATED
        ts_recv = load_i64(at + np.uintp(8))
        now = load_i64(at + np.uintp(16))
        m.state[CLOCK] = max(m.state[CLOCK], now)
        payload = position + RECORD_HEADER_BYTES
        position = (payload + length + 7) & ~7
        if feed <= FEED_SNAPSHOT:
            feeds.packets[feed] += 1
            feeds.bytes[feed] += length
            _count_drops(feeds, feed, np.int64(load_u32(at + np.uintp(4))))
            if feeds.ts_first[feed] == 0:
                feeds.ts_first[feed] = ts_recv
            feeds.ts_last[feed] = ts_recv
            ts_sent = np.int64(0)
            if HEADER_BYTES <= length <= SLOT_BYTES and not truncated:
                ts_sent = load_i64(base + np.uintp(payload + 4))
            _give_up(m, now, hold_ns, reorder, False)  # a restart after a pause must not find them held
            # No sequence begins below 1 (CME MDP 3.0, Binary Packet Header).
            if not FIRST_SENT <= ts_sent < LAST_SENT or load_u32(base + np.uintp(payload)) == 0:
                feeds.malformed[feed] += 1
            elif feed == FEED_SNAPSHOT:
                feeds.first[feed] += 1
                seq = np.int64(load_u32(base + np.uintp(payload)))
                row = (seq, ts_sent, ts_recv, np.int64(0), np.int64(0), length, np.int64(0))
                _append(m.snapshots, m.state[EPOCH], records, payload, row)
            else:
                _arbitrate(m, records, payload, length, feed, ts_recv, now)
        _give_up(m, now, hold_ns, reorder, False)
    if final:
        _give_up(m, now, hold_ns, reorder, True)
    return position, False

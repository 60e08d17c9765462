"""What was sent against what is stored, sequence number by sequence number."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from workloads.exchange.feed import SendLog
from workloads.ticks.archive import Archive
from workloads.ticks.quality import Intervals, count, inside, lost_intervals, merged, rest

LISTED = 20
"""Differences that are named."""


@dataclass(frozen=True)
class Proof:
    """The comparison, in numbers of packets."""

    sent: int
    """Sequence numbers that the exchange had to send."""
    dropped_on_both: int
    """Dropped by the sender on A and on B: no receiver can have them."""
    kernel_dropped: int
    """Sent on at least one feed, and never received."""
    gaps: int
    """Sequence numbers that the gaps table calls lost."""
    stored_twice: int
    """Rows of the packets table whose epoch and sequence number another row has too."""
    never_sent: int
    """Sequence numbers that are stored and left on no feed, but for the closing heartbeat."""
    equal: bool
    """The gaps table names exactly what was dropped, by the sender or by the kernel, whose own counters
    explain the latter; and what is stored was sent and is stored once."""
    difference: list[int]
    """Sequence numbers on one side only; the first `LISTED`."""
    statement: str


def prove(archive: Archive, log: SendLog, kernel_drops: Mapping[str, int]) -> Proof:
    """Compare the ``gaps`` and ``packets`` tables with the sender's log.

    ``kernel_drops``: by feed, what the kernel says it dropped on our sockets.
    """
    feeds = [log.feeds[name] for name in ("A", "B") if name in log.feeds]
    sent = np.unique(np.concatenate([feed.seq for feed in feeds]))
    left = np.unique(np.concatenate([feed.seq[feed.copies > 0] for feed in feeds]))
    nowhere = np.unique(log.lost())
    rows = archive.read("packets", columns=["epoch", "seq"])
    epochs, seqs = (rows[name].to_numpy().astype(np.int64) for name in ("epoch", "seq"))
    arrived = np.unique(seqs)
    twice = len(seqs) - len(np.unique(epochs << 32 | seqs))
    never = np.setdiff1d(arrived, left)
    if len(feeds[0].seq):
        # The sender closes with one heartbeat behind its last packet, which is not in its log.
        never = never[never != (int(feeds[0].seq[-1]) + 1) & 0xFFFF_FFFF]
    swallowed = np.setdiff1d(np.setdiff1d(sent, nowhere), arrived)
    lost = lost_numbers(archive)
    gone = np.union1d(nowhere, swallowed)
    unnamed = gone[~inside(gone, lost)]
    named, too_many = rest(lost, gone, LISTED)
    differing = len(unnamed) + too_many
    counted = sum(kernel_drops.get(name, 0) for name in ("A", "B"))
    equal = differing == 0 and twice == 0 and len(never) == 0 and len(swallowed) <= counted
    return Proof(
        sent=len(sent),
        dropped_on_both=len(nowhere),
        kernel_dropped=len(swallowed),
        gaps=count(lost),
        stored_twice=twice,
        never_sent=len(never),
        equal=equal,
        difference=sorted([*unnamed[:LISTED].tolist(), *named])[:LISTED],
        statement=_statement(
            len(sent), len(nowhere), len(swallowed), count(lost), differing, counted, twice, len(never)
        ),
    )


def lost_numbers(archive: Archive) -> Intervals:
    """Sequence numbers that the gaps table calls lost and that did not come late."""
    if "gaps" not in archive.tables():
        return []
    names = ("epoch", "first_seq", "last_seq", "outcome")
    rows = archive.read("gaps", columns=list(names))
    lost = lost_intervals(zip(*(rows[name].to_pylist() for name in names), strict=True))
    return merged(interval for intervals in lost.values() for interval in intervals)


def _statement(
    sent: int,
    nowhere: int,
    swallowed: int,
    lost: int,
    difference: int,
    counted: int,
    twice: int,
    never: int,
) -> str:
    if twice or never:
        wrong = [f"{twice:,} packets are stored more than once"] if twice else []
        wrong += [f"{never:,} stored sequence numbers were never sent"] if never else []
        wrong += [f"{difference:,} sequence numbers are on one side only"] if difference else []
        return f"What is stored is not what was sent: {', '.join(wrong)}."
    if difference:
        return (
            f"The gaps table does not agree with what was sent: {difference:,} sequence numbers "
            f"are on one side only."
        )
    if swallowed > counted:
        return (
            f"{swallowed:,} packets were sent and never seen, but the kernel counts only {counted:,} "
            f"dropped: something between sender and socket loses packets."
        )
    if lost == 0:
        return f"Complete: each of the {sent:,} packets sent is stored, exactly once."
    parts = [f"{nowhere:,} dropped on both feeds"] if nowhere else []
    parts += [f"{swallowed:,} dropped by this machine's kernel"] if swallowed else []
    return (
        f"Accounted for: of {sent:,} packets sent, {lost:,} are missing ({' and '.join(parts)}), "
        f"and the gaps table names exactly these."
    )

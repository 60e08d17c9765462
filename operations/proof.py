"""What was sent against what is stored, sequence number by sequence number."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from workloads.exchange.feed import SendLog
from workloads.ticks.archive import Archive

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
    equal: bool
    """The gaps table names exactly those two kinds, and the kernel's own counters explain the second."""
    difference: list[int]
    """Sequence numbers on one side only; the first `LISTED`."""
    statement: str


def prove(archive: Archive, log: SendLog, kernel_drops: Mapping[str, int]) -> Proof:
    """Compare the ``gaps`` and ``packets`` tables with the sender's log.

    ``kernel_drops``: by feed, what the kernel says it dropped on our sockets.
    """
    sent = np.unique(np.concatenate([log.feeds[name].seq for name in ("A", "B") if name in log.feeds]))
    nowhere = np.unique(log.lost())
    arrived = np.unique(archive.read("packets", columns=["seq"])["seq"].to_numpy())
    swallowed = np.setdiff1d(np.setdiff1d(sent, nowhere), arrived)
    lost = lost_numbers(archive)
    difference = np.setxor1d(lost, np.union1d(nowhere, swallowed))
    counted = sum(kernel_drops.get(name, 0) for name in ("A", "B"))
    equal = len(difference) == 0 and len(swallowed) <= counted
    return Proof(
        sent=len(sent),
        dropped_on_both=len(nowhere),
        kernel_dropped=len(swallowed),
        gaps=len(lost),
        equal=equal,
        difference=[int(seq) for seq in difference[:LISTED]],
        statement=_statement(len(sent), len(nowhere), len(swallowed), len(lost), len(difference), counted),
    )


def lost_numbers(archive: Archive) -> NDArray[np.uint32]:
    """Sequence numbers that the gaps table calls lost and that did not come late."""
    if "gaps" not in archive.tables():
        return np.zeros(0, np.uint32)
    rows = archive.read("gaps", columns=["first_seq", "last_seq", "outcome"])
    lost = _expanded(rows.filter(pa.compute.equal(rows["outcome"].cast(pa.string()), "lost")))
    late = _expanded(rows.filter(pa.compute.equal(rows["outcome"].cast(pa.string()), "late")))
    return np.setdiff1d(lost, late)


def _expanded(rows: pa.Table) -> NDArray[np.uint32]:
    ranges = [
        np.arange(first, last + 1, dtype=np.uint32)
        for first, last in zip(rows["first_seq"].to_pylist(), rows["last_seq"].to_pylist(), strict=True)
    ]
    return np.concatenate(ranges) if ranges else np.zeros(0, np.uint32)


def _statement(sent: int, nowhere: int, swallowed: int, lost: int, difference: int, counted: int) -> str:
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

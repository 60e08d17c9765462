"""Received packets as records in one buffer: what the receiver fills, the spool stores, the arbiter reads.

Record, little-endian, 24 bytes and the payload, padded to a multiple of 8:

    length u16 @0, feed u8 @2, flags u8 @3, kernel_drops u32 @4, ts_recv i64 @8, ts_read i64 @16, payload

``kernel_drops`` counts what the kernel has dropped on that socket so far (SO_RXQ_OVFL). ``ts_recv`` is
the kernel's stamp of the packet's arrival, ``ts_read`` our clock when the batch was read, both ns since
the epoch; ``ts_read`` never decreases, so that it can serve as the arbiter's clock, now or years later.
"""

from typing import Final

import numpy as np

RECORD_HEADER_BYTES: Final = 24
SLOT_BYTES: Final = 8_192
"""Room for one payload in the receive loop; a longer one is cut and flagged. Far above an Ethernet frame: a
replayed capture may put all that one sequence number says into one packet."""

FEED_A: Final = 0
FEED_B: Final = 1
FEED_SNAPSHOT: Final = 2
FEED_NAMES: Final = ("A", "B", "S")
FEED_TICK: Final = 255
"""A record without a payload that only says what time it was: the feeds are quiet."""

FLAG_TRUNCATED: Final = 1
"""The payload was longer than a slot."""

RECORD: Final = np.dtype(
    {
        "names": ["length", "feed", "flags", "kernel_drops", "ts_recv", "ts_read"],
        "formats": ["<u2", "u1", "u1", "<u4", "<i8", "<i8"],
        "offsets": [0, 2, 3, 4, 8, 16],
        "itemsize": RECORD_HEADER_BYTES,
    }
)


def tick(now: int) -> "np.ndarray[tuple[int], np.dtype[np.uint8]]":
    """The record of a quiet moment; ``now`` ns since the epoch."""
    record = np.zeros(1, RECORD)
    record["feed"] = FEED_TICK
    record["ts_recv"] = record["ts_read"] = now
    return record.view(np.uint8)


def record_bytes(length: int) -> int:
    """Bytes that a payload of this length takes as a record."""
    return (RECORD_HEADER_BYTES + length + 7) & ~7

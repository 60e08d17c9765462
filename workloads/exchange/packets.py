"""Many UDP payloads in one buffer: the value that simulator, captures, sender and decoder exchange."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

HEADER_BYTES = 12
"""MsgSeqNum u32 and SendingTime u64 (CME MDP 3.0, Binary Packet Header)."""


@dataclass(frozen=True)
class Packets:
    """n packets, each a whole UDP payload that begins with the packet header.

    ``buffer`` uint8; ``offset`` int64[n], of each payload in the buffer; ``length`` int32[n], bytes.
    """

    buffer: NDArray[np.uint8]
    offset: NDArray[np.int64]
    length: NDArray[np.int32]

    @classmethod
    def of(cls, payloads: Sequence[bytes]) -> "Packets":
        """Pack separate payloads into one buffer."""
        length = np.array([len(p) for p in payloads], np.int32)
        offset = np.zeros(len(payloads), np.int64)
        np.cumsum(length[:-1], out=offset[1:])
        return cls(np.frombuffer(bytearray().join(payloads), np.uint8), offset, length)

    def __len__(self) -> int:
        return len(self.offset)

    def __getitem__(self, index: int) -> bytes:
        start = int(self.offset[index])
        return self.buffer[start : start + int(self.length[index])].tobytes()

    def select(self, which: NDArray[np.integer] | NDArray[np.bool_] | slice) -> "Packets":
        """The packets at these positions, over the same buffer."""
        return Packets(self.buffer, self.offset[which], self.length[which])

    @property
    def seq(self) -> NDArray[np.uint32]:
        """MsgSeqNum of each packet; 0 where a packet is shorter than its header."""
        seq: NDArray[np.uint32] = _field(self.buffer, self.offset, self.length, 0, 4).astype(np.uint32)
        return seq

    @property
    def ts_sent(self) -> NDArray[np.int64]:
        """SendingTime of each packet, ns since the epoch; 0 where a packet is shorter than its header."""
        sent: NDArray[np.int64] = _field(self.buffer, self.offset, self.length, 4, 8).astype(np.int64)
        return sent


@njit(nogil=True, cache=True)
def _field(buffer, offset, length, at, width):  # type: ignore[no-untyped-def]  # compiled: types are inferred
    out = np.zeros(len(offset), np.uint64)
    for i in range(len(offset)):
        if length[i] >= HEADER_BYTES:
            value = np.uint64(0)
            for k in range(width):
                value |= np.uint64(buffer[offset[i] + at + k]) << np.uint64(8 * k)
            out[i] = value
    return out

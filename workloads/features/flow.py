"""What trades took from the books between two grid times."""

import numpy as np
from numpy.typing import NDArray

from workloads.ticks.codes import Side

Lots = NDArray[np.int64]


class TakenVolume:
    """Lots that buyers and sellers took in each step of the grid, by instrument, batch after batch.

    A trade counts for the first grid time after it was known. Where the venue names no aggressor it counts
    for neither side.
    """

    def __init__(self, step_ns: int) -> None:
        self._step = step_ns
        self._origin: int | None = None
        self._keys = np.zeros(0, np.int64)
        self._taken = np.zeros((0, 2), np.int64)

    def add(
        self,
        instrument_id: NDArray[np.int32],
        ts: NDArray[np.int64],
        size: Lots,
        aggressor: NDArray[np.uint8],
    ) -> None:
        """Trades that were known at ``ts``, ns."""
        taken = np.stack([size * (aggressor == side) for side in (Side.BUY, Side.SELL)], axis=1)
        self._keys = np.concatenate([self._keys, self._key(instrument_id, ts // self._step + 1)])
        self._taken = np.concatenate([self._taken, taken])

    def take(self, instrument_id: NDArray[np.int32], ts: NDArray[np.int64]) -> tuple[Lots, Lots]:
        """(bought, sold) in the step that ends at each grid time; trades up to the last one are forgotten.

        ``ts`` ascends, and all trades before it were added.
        """
        bought, sold = np.zeros(len(ts), np.int64), np.zeros(len(ts), np.int64)
        if len(self._keys) and len(ts):
            keys, places = np.unique(self._keys, return_inverse=True)
            sums = np.zeros((len(keys), 2), np.int64)
            np.add.at(sums, places, self._taken)
            wanted = self._key(instrument_id, ts // self._step)
            at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
            bought, sold = np.where(keys[at] == wanted, sums[at].T, 0)
            later = self._keys > self._key(np.array([-1], np.int32), ts[-1:] // self._step)
            self._keys, self._taken = self._keys[later], self._taken[later]
        return bought, sold

    def _key(self, instrument_id: NDArray[np.int32], step: NDArray[np.int64]) -> NDArray[np.int64]:
        """Step since the first one seen, then instrument, as one number."""
        if self._origin is None and len(step):
            self._origin = int(step[0])
        key: NDArray[np.int64] = ((step - (self._origin or 0)) << 32) | instrument_id.astype(np.uint32)
        return key

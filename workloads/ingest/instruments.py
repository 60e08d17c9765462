"""What the definitions say of each instrument, as far as decoding needs it: wire price to quoted price.

Quoted price = wire price x DisplayFactor (CME MDP 3.0, instrument definition). Integer arithmetic: a price
that the factor does not divide exactly stays in wire units and is flagged, never rounded.
"""

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from workloads.exchange.mdp3 import NULL_I64

_ONE = 1_000_000_000


class DisplayFactors:
    """The display factor of every instrument defined so far in one channel."""

    def __init__(self) -> None:
        self._ids = np.zeros(0, np.int32)
        self._factors = np.zeros(0, np.int64)

    def __len__(self) -> int:
        return len(self._ids)

    def scale(
        self,
        instrument_id: NDArray[np.int32],
        message: NDArray[np.int32],
        prices: tuple[NDArray[np.int64], ...],
        defined_id: NDArray[np.int32],
        defined_at: NDArray[np.int32],
        defined_factor: NDArray[np.int64],
    ) -> NDArray[np.bool_]:
        """Turn wire prices into quoted prices, in place.

        Parameters
        ----------
        instrument_id, message : n rows, ``message`` non-decreasing
        prices : columns of n rows each, 1e-9 wire units, null ``NULL_I64``
        defined_id, defined_at, defined_factor : the batch's definitions, by message; they hold from there on

        Returns
        -------
        bool[n], True where the prices of the row stay in wire units: no definition, or no exact quotient
        """
        ids = np.concatenate([self._ids, defined_id]).astype(np.int64)
        at = np.concatenate([np.full(len(self._ids), -1, np.int64), defined_at.astype(np.int64)])
        factors = np.concatenate([self._factors, defined_factor])
        key = (ids << 32) + at + 1
        order = np.argsort(key, kind="stable")
        rows = (instrument_id.astype(np.int64) << 32) + message.astype(np.int64) + 1
        found = np.searchsorted(key[order], rows, side="right") - 1
        known = (found >= 0) & (ids[order][found] == instrument_id) if len(ids) else np.zeros(len(rows), bool)
        factor = (
            np.where(known, factors[order][np.maximum(found, 0)], 0) if len(ids) else np.zeros(len(rows), int)
        )
        unscaled = np.zeros(len(rows), np.bool_)
        wire = [column.copy() for column in prices] if len(prices) > 1 else []
        for column in prices:
            _scale(column, factor, unscaled)
        for column, before in zip(prices, wire, strict=False):
            column[unscaled] = before[unscaled]  # never two units in one row
        return unscaled

    def learn(self, ids: NDArray[np.int32], factors: NDArray[np.int64]) -> None:
        """Definitions, oldest first, hold for everything that follows."""
        merged = dict(zip(self._ids.tolist(), self._factors.tolist(), strict=True))
        merged.update(zip(ids.tolist(), factors.tolist(), strict=True))
        self._ids = np.array(sorted(merged), np.int32)
        self._factors = np.array([merged[i] for i in self._ids.tolist()], np.int64)

    def state(self) -> dict[str, NDArray[Any]]:
        return {"factors.id": self._ids.copy(), "factors.factor": self._factors.copy()}

    def restore(self, state: dict[str, NDArray[Any]]) -> None:
        self._ids = state["factors.id"].astype(np.int32)
        self._factors = state["factors.factor"].astype(np.int64)


@njit(nogil=True, cache=True)
def _scale(price, factor, unscaled):  # type: ignore[no-untyped-def]  # compiled: types are inferred
    """price x factor / 1e9 where that is an integer of 64 bits, else mark the row."""
    for i in range(len(price)):
        if price[i] == NULL_I64:
            continue
        f = factor[i]
        if f <= 0:
            unscaled[i] = True
            continue
        a, b = np.int64(_ONE), f
        while b != 0:
            a, b = b, a % b
        numerator = f // a
        denominator = np.int64(_ONE) // a
        quotient = price[i] // denominator
        limit = (NULL_I64 - 1) // numerator
        if quotient * denominator != price[i] or quotient > limit or quotient < -limit:
            unscaled[i] = True
        else:
            price[i] = quotient * numerator

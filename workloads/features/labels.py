"""Labels: which way the mid moved from a book tensor's time to a horizon later."""

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from workloads.ticks.schema import LABELS


class Labels:
    """Labels rows of `book_tensors`, batch after batch.

    A row gets a label if its segment holds a row ``horizon_ns`` later: so no label reaches across a gap, a
    session, a book that was not usable, or into another instrument. ``move`` is the change of the mid in
    half ticks, to the nearest; ``label`` its sign.

    Parameters
    ----------
    horizon_ns : int
        A multiple of the grid's ``step_ns``.
    """

    def __init__(self, step_ns: int, horizon_ns: int) -> None:
        if horizon_ns < step_ns or horizon_ns % step_ns:
            raise ValueError(f"a horizon of {horizon_ns} ns is no multiple of the step, {step_ns} ns")
        self._steps, self._horizon = horizon_ns // step_ns, horizon_ns
        none = np.zeros(0, np.int64)
        self._waiting = dict.fromkeys(("instrument_id", "ts", "segment", "twice_mid"), none)

    def label(
        self,
        instrument_id: NDArray[np.int32],
        ts: NDArray[np.int64],
        segment: NDArray[np.int32],
        twice_mid: NDArray[np.int64],
        tick: NDArray[np.int64],
    ) -> pa.Table:
        """The labels that become known with the next n rows, in the order of these rows.

        ``ts`` ascends within an instrument; ``twice_mid`` is bid + ask and ``tick`` the price step, 1e-9,
        both used only where ``segment`` is not -1.
        """
        new: dict[str, Any] = {
            "instrument_id": instrument_id,
            "ts": ts,
            "segment": segment,
            "twice_mid": twice_mid,
        }
        both = {k: np.concatenate([self._waiting[k], np.asarray(v, np.int64)]) for k, v in new.items()}
        waited = len(self._waiting["ts"])
        order = np.argsort(both["instrument_id"], kind="stable")
        rows = {name: values[order] for name, values in both.items()}
        n, ahead = len(order), self._steps
        start, end = np.arange(max(n - ahead, 0)), np.arange(max(n - ahead, 0)) + ahead
        same = (rows["instrument_id"][start] == rows["instrument_id"][end]) & (rows["segment"][start] >= 0)
        same &= rows["segment"][start] == rows["segment"][end]
        start, end = start[same], end[same]
        by_end = np.argsort(order[end], kind="stable")
        start, end = start[by_end], end[by_end]
        change = rows["twice_mid"][end] - rows["twice_mid"][start]
        # Of bid + ask, one half tick of the mid is one tick.
        move = np.rint(change / tick[order[end] - waited]).astype(np.int32)
        # The last rows of each instrument wait for later ones.
        later = np.append(np.flatnonzero(np.diff(rows["instrument_id"])), n - 1)
        last = later[np.searchsorted(later, np.arange(n))] if n else np.zeros(0, np.int64)
        waits = np.sort(order[np.arange(n) > last - ahead])
        self._waiting = {name: values[waits] for name, values in both.items()}
        return pa.table(
            [
                rows["instrument_id"][start].astype(np.int32),
                pa.array(rows["ts"][start]).cast(LABELS.arrow.field("ts").type),
                pa.array(rows["ts"][start] + self._horizon).cast(LABELS.arrow.field("ts_end").type),
                move,
                np.sign(move).astype(np.int8),
            ],
            schema=LABELS.arrow,
        )

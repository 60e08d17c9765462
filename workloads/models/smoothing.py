"""Exponential smoothing: the one loop that alpha and risk share."""

import numpy as np
from numpy.typing import NDArray

from workloads.compiled import compiled

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


def smoothed(values: Floats, fresh: Flags, start: float, decay: float, gain: float) -> Floats:
    """s[t] = decay s[t-1] + gain values[t], from ``start``; where ``fresh``, s[t-1] counts as 0.

    One pass from left to right, so that a series that is cut and continued from its last value gives the
    same bits as the whole.
    """
    result = np.empty(len(values))
    own = np.array(values, np.float64)  # a read-only or strided column would compile anew
    _smooth(own, fresh, start, decay, gain, result)
    return result


def decay_of(half_life_ns: float, step_ns: int) -> float:
    """Weight that is left of a value after a step, if half is left after ``half_life_ns``."""
    return float(0.5 ** (step_ns / half_life_ns))


@compiled
def _smooth(values: Floats, fresh: Flags, start: float, decay: float, gain: float, result: Floats) -> None:
    level = start
    for t in range(len(values)):
        level = gain * values[t] if fresh[t] else decay * level + gain * values[t]
        result[t] = level

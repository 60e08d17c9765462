"""How good forecasts were, and how sure that is. NumPy only.

Labels of neighbouring rows share most of their horizon, and instruments share the market, so rows are no
independent draws. Intervals are therefore made from the means of long blocks of time: batch means, Law and
Kelton (2000), "Simulation Modeling and Analysis", section 9.5.3, with Student's t.
"""

# ruff: noqa: N803, N806
# Axes: N row, K block, M outcome (down, flat, up)

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

BLOCKS = 20
SHORTEST_BLOCK = 20
"""Horizons. Hits depend on each other for longer than a horizon, namely while the market keeps its state:
12.5 s in the mean in the simulator, 5 horizons of 2.5 s. Of 400 simulated test periods of 250 s, blocks of
at least 5 horizons gave intervals that held the true difference in 90.8 %, of at least 20 in 95.3 %."""
LEAST_PROBABILITY = 1e-6
"""The log loss counts a smaller probability of what came true as this one."""
_T_975 = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
    *(2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045),
)
"""Student's t, 0.975 quantile, for 1, 2, ... degrees of freedom; the last serves for more too."""


class Interval(NamedTuple):
    """A mean with its 95 % confidence interval."""

    mean: float
    low: float
    high: float
    blocks: int
    """That it is made from; with fewer than 2 the bounds are NaN: how sure the mean is, is unknown."""


def hits(probability_NM: NDArray[Any], label_N: NDArray[Any]) -> NDArray[np.bool_]:
    """Whether the most probable outcome came true; labels 0 down, 1 flat, 2 up."""
    return np.asarray(np.asarray(probability_NM).argmax(axis=1) == label_N)


def accuracy(probability_NM: NDArray[Any], label_N: NDArray[Any]) -> float:
    """Share of `hits`; NaN of no rows."""
    return float(hits(probability_NM, label_N).mean()) if len(label_N) else math.nan


def log_loss(probability_NM: NDArray[Any], label_N: NDArray[Any]) -> float:
    """Mean cross-entropy, nats; NaN of no rows."""
    if not len(label_N):
        return math.nan
    came_true = np.asarray(probability_NM)[np.arange(len(label_N)), label_N]
    return float(-np.log(np.maximum(came_true, LEAST_PROBABILITY)).mean())


def time_blocks(ts: NDArray[np.int64], horizon_ns: int, blocks: int = BLOCKS) -> NDArray[np.int64]:
    """Number of the block of time that each row belongs to, for all instruments alike.

    The distinct times are cut into at most ``blocks`` parts of equally many; fewer, where a part would
    span less than `SHORTEST_BLOCK` horizons.
    """
    times = np.unique(ts)
    if not len(times):
        return np.zeros(0, np.int64)
    step = int(np.diff(times).min()) if len(times) > 1 else 1
    most = len(times) * step // (SHORTEST_BLOCK * max(horizon_ns, 1))
    count = max(1, min(blocks, int(most)))
    return np.searchsorted(times, ts).astype(np.int64) * count // len(times)


def accuracy_interval(hit_N: NDArray[Any], block_N: NDArray[np.int64]) -> Interval:
    """Of the share of hits, from the means of the blocks."""
    return _interval(np.asarray(hit_N, np.float64), block_N)


def difference_interval(
    hit_a_N: NDArray[Any],
    hit_b_N: NDArray[Any],
    block_N: NDArray[np.int64],
) -> Interval:
    """Of accuracy a minus accuracy b on the same rows: paired, so that what both find hard cancels.

    a is better with confidence when ``low`` is above 0.
    """
    return _interval(np.asarray(hit_a_N, np.float64) - np.asarray(hit_b_N, np.float64), block_N)


def _interval(value_N: NDArray[np.float64], block_N: NDArray[np.int64]) -> Interval:
    if len(value_N) != len(block_N):
        raise ValueError(f"{len(value_N)} values and {len(block_N)} blocks; one block a value")
    if not len(value_N):
        raise ValueError("an interval needs at least one scored row")
    _, place_N, count_K = np.unique(block_N, return_inverse=True, return_counts=True)
    mean_K = np.bincount(place_N, weights=value_N) / count_K
    mean, blocks = float(value_N.mean()), len(count_K)
    if blocks < 2:
        return Interval(mean, math.nan, math.nan, blocks)
    # Blocks weigh as many rows as they hold: the ratio estimator's residuals.
    residual_K = (mean_K - mean) * count_K * blocks / len(value_N)
    error = math.sqrt(float((residual_K**2).sum()) / (blocks * (blocks - 1)))
    half = _T_975[min(blocks, len(_T_975) + 1) - 2] * error
    return Interval(mean, mean - half, mean + half, blocks)

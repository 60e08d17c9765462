"""Long series made short, with their extremes kept."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

NANO = 1_000_000_000
WIDTHS = tuple(
    unit * step
    for unit in (1_000_000, 10_000_000, 100_000_000, NANO, 10 * NANO)
    for step in (1, 2, 5)
    if unit * step < 30 * NANO
) + tuple(s * NANO for s in (30, 60, 120, 300, 600, 900, 1_800, 3_600, 7_200, 14_400, 28_800, 86_400))
"""Widths of time bins that a reader can name, ns."""


@dataclass(frozen=True)
class Rate:
    """Events per second over time, in n bins."""

    start: NDArray[np.int64]
    """Beginning of each bin, ns."""
    mean: NDArray[np.float64]
    """Events per second."""
    peak: NDArray[np.int64] | None
    """Events in the busiest single second of the bin; None where bins are no longer than a second."""
    width: int
    """ns."""


@dataclass(frozen=True)
class Peak:
    """The busiest window of one width, wherever it starts."""

    width: int
    count: int
    start: int


def nice_width(span: int, most: int) -> int:
    """The shortest width of `WIDTHS` that cuts ``span`` ns into at most ``most`` bins; whole days beyond."""
    for width in WIDTHS:
        if span < most * width:
            return width
    day = WIDTHS[-1]
    return day * (span // (most * day) + 1)


def extremes(ts: NDArray[np.int64], values: NDArray[Any], buckets: int) -> NDArray[np.int64]:
    """Which points to draw, so that the line looks the same ``buckets`` pixels wide.

    Parameters
    ----------
    ts : int64[n], ascending
    values : float[n]
        NaN where there is none: a gap in the line, which is kept.
    buckets : int
        Equal spans of time.

    Returns
    -------
    indices, ascending
        Of each bucket the first point, the least, the greatest and the first missing one; and the last point
        of all.
    """
    n = len(ts)
    if n <= 2 * buckets:
        return np.arange(n)
    bucket = (ts - ts[0]) * buckets // (int(ts[-1] - ts[0]) + 1)
    starts = np.flatnonzero(np.diff(bucket, prepend=-1))
    counts = np.diff(starts, append=n)
    missing = np.isnan(values)
    least = np.minimum.reduceat(np.where(missing, np.inf, values), starts)
    greatest = np.maximum.reduceat(np.where(missing, -np.inf, values), starts)
    kept = [starts, np.array([n - 1])]
    for hits in (values == np.repeat(least, counts), values == np.repeat(greatest, counts), missing):
        rows = np.flatnonzero(hits)
        kept.append(rows[np.flatnonzero(np.diff(bucket[rows], prepend=-1))])
    return np.unique(np.concatenate(kept))


def rate(ts: NDArray[np.int64], most: int = 600) -> Rate:
    """Events per second in at most ``most`` bins from the first event on; ``ts`` ascending, not empty.

    A last bin that the data covers only in part is left out, if there are others: it would look like a drop.
    """
    first, span = int(ts[0]), int(ts[-1] - ts[0])
    width = nice_width(span, most)
    base = min(width, NANO)
    bins = max(1, span // width)
    ts = ts[: np.searchsorted(ts, first + bins * width)]
    per_bin = np.bincount((ts - first) // width, minlength=bins)
    start = first + width * np.arange(bins)
    peak = None
    if base < width:
        per_second = np.bincount((ts - first) // base, minlength=bins * (width // base))
        peak = per_second.reshape(bins, -1).max(axis=1)
    return Rate(start, (per_bin * (NANO / width)).astype(np.float64), peak, width)


def peak(ts: NDArray[np.int64], width: int) -> Peak:
    """The most events in any ``width`` ns, wherever the window starts; ``ts`` ascending, not empty."""
    counts = np.searchsorted(ts, ts + width) - np.arange(len(ts))
    at = int(np.argmax(counts))
    return Peak(width, int(counts[at]), int(ts[at]))


def quantile(ascending: NDArray[np.int64], q: float) -> int:
    """The least value that at least the share ``q`` doesn't exceed: a value that occurred."""
    return int(ascending[min(len(ascending) - 1, max(0, int(np.ceil(q * len(ascending))) - 1))])

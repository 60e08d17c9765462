"""Book tensors: the best levels of a book at a grid time, as one row of float32.

A frame has the axes [side, level, channel], C order: bids before asks, the best level first, and the
channels

0. distance of the price from the mid, in ticks: positive away from the mid on both sides;
1. log(1 + size), size in lots;
2. orders at the level;
3. orders added at this price since the grid time before.

A level that is missing is all 0, and so is a frame without a mid: one whose book lacks a side.
"""

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from workloads.ticks.book_grid import ADDS, ORDERS, PRICE, SIZE

SIDES = 2
LEVELS = 10
"""Levels of a side, unless a config says otherwise."""
CHANNELS = ("distance", "size", "orders", "adds")
_DISTANCE, _LOG_SIZE, _ORDERS, _ADDS = range(len(CHANNELS))


def tensor(ladder: NDArray[np.int64], tick: NDArray[np.int64]) -> NDArray[np.float32]:
    """Frames of n ladders.

    Parameters
    ----------
    ladder : int64[n, side, level, 4]
        Of `workloads.ticks.book_grid.Frames`.
    tick : int64[n], positive
        Price step, 1e-9, quoted as the ladder's prices are.

    Returns
    -------
    float32[n, side, level, channel]
    """
    there = ladder[..., ORDERS] > 0
    twice_mid = ladder[:, :, 0, PRICE].sum(axis=1)[:, None, None]
    away = twice_mid - 2 * ladder[..., PRICE]  # exact; bids lie below the mid, asks above
    away[:, 1] *= -1
    there &= there[:, 0, 0, None, None] & there[:, 1, 0, None, None]
    frames = np.zeros((*there.shape, len(CHANNELS)), np.float32)
    frames[..., _DISTANCE] = np.where(there, away / (2.0 * tick[:, None, None]), 0)
    size = np.maximum(ladder[..., SIZE], 0)
    frames[..., _LOG_SIZE] = np.where(there, np.log1p(size.astype(np.float64)), 0)
    frames[..., _ORDERS] = np.where(there, ladder[..., ORDERS], 0)
    frames[..., _ADDS] = np.where(there, ladder[..., ADDS], 0)
    return frames


def frame_column(rows: NDArray[np.float32]) -> Any:
    """The column ``frame`` of `book_tensors`, over the same memory."""
    width = int(np.prod(rows.shape[1:]))
    offsets = np.arange(len(rows) + 1, dtype=np.int32) * width
    return pa.ListArray.from_arrays(offsets, rows.reshape(-1))


def frames(table: pa.Table, levels: int = LEVELS) -> NDArray[np.float32]:
    """The column ``frame`` as float32[n, side, level, channel], read-only.

    No copy is made of a column of one chunk; several are joined.

    Raises
    ------
    ValueError
        If a frame is null or has not as many levels.
    """
    column = table["frame"]
    column = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
    if isinstance(column, pa.ChunkedArray):  # of no chunks
        column = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
    shape = (len(column), SIDES, levels, len(CHANNELS))
    width = int(np.prod(shape[1:]))
    ends = column.offsets.to_numpy()
    if column.null_count or (np.diff(ends) != width).any():
        raise ValueError(f"frames are not all of {levels} levels ({width} numbers); read them with their own")
    values: NDArray[np.float32] = column.values.to_numpy()[ends[0] : ends[-1]]
    return values.reshape(shape)

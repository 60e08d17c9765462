"""What the models see: windows of book rows, split in time, scaled by what the training period showed.

A row of inputs is the book's frame of that grid time and `STEPS`, what happened in the step before it. A
sample is the window of the last T rows of one segment, gathered by index when a batch needs it: memory
holds each row once. Every model gets the same windows.
"""

# ruff: noqa: N803, N806, N815
# Axes: N row, B sample, T time, F inputs of a row (frame, then steps), L level, C channel of a frame

from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from workloads.training.errors import NothingToTrainError, TrainingDataError

Floats32 = NDArray[np.float32]
Ints = NDArray[np.int64]

SIDES = 2
"""Of a frame: bid, ask."""
CHANNELS = 4
"""Of a frame's level: distance from the mid in ticks, log size, orders, orders added (docs/tables.md)."""
STEPS = ("mid_move", "ofi", "bid_adds", "ask_adds", "buy_volume", "sell_volume")
"""Per row beside the frame. ``mid_move``: of the mid since the row before, in ticks, 0 at a segment's start;
the frame itself is relative to the mid and does not show it. The others: columns of ``book_tensors``."""
SIGNED = ("mid_move", "ofi")
"""Change their sign when bid and ask swap; the others swap places."""
MOST = 10.0
"""Scaled inputs are clipped to this many standard deviations: one outlier must not rule a batch."""
NO_LABEL = -1

PANEL_COLUMNS = [
    *("instrument_id", "ts", "segment", "bid_price", "ask_price"),
    *(name for name in STEPS if name != "mid_move"),
    "frame",
]
LABEL_COLUMNS = ["instrument_id", "ts", "ts_end", "label"]


class Split(IntEnum):
    """Which period a row lies in."""

    TRAIN = 0
    VALIDATION = 1
    TEST = 2


@dataclass(frozen=True)
class Panel:
    """Usable rows of all instruments, sorted by instrument and time."""

    instrument_N: NDArray[np.int32]
    ts_N: Ints
    """ns since the UNIX epoch."""
    start_N: Ints
    """First row of the row's segment."""
    inputs_NF: Floats32
    """Unscaled: the frame [2, L, C] in C order, then `STEPS`."""
    label_N: NDArray[np.int8]
    """0 down, 1 flat, 2 up, `NO_LABEL`."""
    end_N: Ints
    """When the label is known, ns; 0 without label."""
    levels: int

    def windowed(self, window: int) -> Ints:
        """Rows that have ``window`` rows of their segment up to and including themselves."""
        row_N = np.arange(len(self.ts_N))
        return np.flatnonzero(row_N - self.start_N >= window - 1)


class Periods(NamedTuple):
    """Where in time training, validation and test meet, ns."""

    validation: int
    test: int

    def split(self, ts: Ints) -> NDArray[np.int8]:
        """`Split` of each time."""
        return ((ts >= self.validation).astype(np.int8) + (ts >= self.test)).astype(np.int8)


@dataclass(frozen=True)
class Scaling:
    """Means and standard deviations of the inputs over the training period.

    Frames: per level and channel, over both sides. Steps: signed ones keep their zero and are divided by
    their root mean square; those of bid and ask share theirs. So a scaled mirror image is the mirror image
    of the scaled row.
    """

    mean_F: Floats32
    deviation_F: Floats32

    def __call__(self, inputs_NF: Floats32) -> Floats32:
        """Scaled and clipped to `MOST`."""
        scaled_NF = (inputs_NF - self.mean_F) / self.deviation_F
        return np.clip(scaled_NF, -MOST, MOST, out=scaled_NF)


class Rows(NamedTuple):
    """Rows of a panel, by use."""

    train: Ints
    validation: Ints
    test: Ints
    """With a full window and a label that is known before the next period begins."""
    scored: Ints
    """With a full window."""


def panel(books: pa.Table, labels: pa.Table, levels: int) -> Panel:
    """Put a dataset's tables side by side.

    Parameters
    ----------
    books : `PANEL_COLUMNS` of ``book_tensors`` and ``date``
        Rows outside a segment are left out.
    labels : `LABEL_COLUMNS` of ``labels``
    levels : int
        Of each side of a frame.

    Raises
    ------
    TrainingDataError
        If a frame does not hold ``levels`` levels, or a row is there twice.
    """
    segment = books["segment"].to_numpy()
    books = books.filter(pa.array(segment >= 0)).combine_chunks()
    ts, instrument = _int64(books["ts"]), books["instrument_id"].to_numpy()
    order = np.lexsort((ts, instrument))
    ts, instrument = ts[order], instrument[order]
    parts = [instrument, books["segment"].to_numpy()[order], _int64(books["date"])[order]]
    start = _run_starts(parts)
    inputs = np.empty((len(ts), SIDES * levels * CHANNELS + len(STEPS)), np.float32)
    np.take(_frames(books, levels), order, axis=0, out=inputs[:, : -len(STEPS)])
    inputs[:, -len(STEPS)] = _mid_moves(books, order, start, inputs, levels)
    for i, name in enumerate(STEPS[1:], start=1):
        inputs[:, i - len(STEPS)] = books[name].fill_null(0).to_numpy()[order]
    label, end = _labels(labels, instrument, ts)
    return Panel(instrument, ts, start, inputs, label, end, levels)


def periods(ts: Ints, train: float, validation: float) -> Periods:
    """Split the samples' distinct times: the first ``train`` of them, then ``validation``, the rest.

    Raises
    ------
    NothingToTrainError
        If there are too few times to put at least one into each period.
    """
    times = np.unique(ts)
    first = int(len(times) * train)
    second = int(len(times) * (train + validation))
    if not 0 < first < second < len(times):
        raise NothingToTrainError(
            f"{len(times)} grid times with a full window cannot be split into {train:g} training, "
            f"{validation:g} validation and a rest; record a longer session or shorten the window"
        )
    return Periods(int(times[first]), int(times[second]))


def rows(panel: Panel, periods: Periods, window: int) -> Rows:
    """Samples by period, purged: a label that ends after its period's end is in none of them."""
    scored = panel.windowed(window)
    split, end = periods.split(panel.ts_N[scored]), panel.end_N[scored]
    until = np.array([periods.validation, periods.test, np.iinfo(np.int64).max])[split]
    usable = (panel.label_N[scored] != NO_LABEL) & (end <= until)
    train, validation, test = (scored[usable & (split == part)] for part in Split)
    return Rows(train, validation, test, scored)


def fitted_scaling(panel: Panel, periods: Periods) -> Scaling:
    """Statistics of the rows before the validation period."""
    seen = panel.inputs_NF[panel.ts_N < periods.validation]
    if not len(seen):
        raise NothingToTrainError("no usable row lies in the training period; record a longer session")
    frame = seen[:, : -len(STEPS)].reshape(-1, panel.levels, CHANNELS)  # both sides together
    mean = [np.tile(frame.mean(axis=0, dtype=np.float64).reshape(-1), SIDES)]
    deviation = [np.tile(frame.std(axis=0, dtype=np.float64).reshape(-1), SIDES)]
    for name, step in zip(STEPS, seen[:, -len(STEPS) :].T.astype(np.float64), strict=True):
        if name in SIGNED:
            mean.append(np.zeros(1))
            deviation.append(np.sqrt(np.mean(step**2, keepdims=True)))
        else:
            both = seen[:, [len(seen[0]) - len(STEPS) + i for i in _pair(name)]].astype(np.float64)
            mean.append(both.mean(keepdims=True).reshape(1))
            deviation.append(both.std(keepdims=True).reshape(1))
    scale = np.concatenate(deviation)
    scale[scale < 1e-6] = 1.0  # constant in training: stays constant
    return Scaling(np.concatenate(mean).astype(np.float32), scale.astype(np.float32))


def windows(inputs_NF: Floats32, rows_B: Ints, window: int) -> Floats32:
    """[B, T, F]: the last ``window`` rows up to and including each of ``rows_B``."""
    gathered: Floats32 = inputs_NF[rows_B[:, None] + np.arange(1 - window, 1)]
    return gathered


def mirrored(inputs: Floats32, levels: int) -> Floats32:
    """The same market with bid and ask swapped; axes [..., F]. Its label is 2 - label."""
    frame = inputs[..., : -len(STEPS)]
    shape = frame.shape
    swapped = frame.reshape(*shape[:-1], SIDES, levels * CHANNELS)[..., ::-1, :].reshape(shape)
    steps = inputs[..., -len(STEPS) :][..., [0, 1, 3, 2, 5, 4]]
    steps = steps * np.array([-1, -1, 1, 1, 1, 1], np.float32)
    return np.concatenate([swapped, steps], axis=-1)


def _pair(name: str) -> tuple[int, int]:
    """Places of a step input and of its other side's."""
    kind = name.partition("_")[2]
    first, second = (i for i, other in enumerate(STEPS) if other.endswith(f"_{kind}"))
    return first, second


def _int64(column: pa.ChunkedArray) -> Ints:
    kind = pa.int32() if pa.types.is_date32(column.type) else pa.int64()
    return column.cast(kind).to_numpy().astype(np.int64, copy=False)  # type: ignore[no-any-return]


def _run_starts(parts: list[NDArray[np.integer]]) -> Ints:
    """For each row the first row of its run of equal values."""
    n = len(parts[0])
    changes = np.zeros(n, bool)
    changes[:1] = True
    for part in parts:
        changes[1:] |= part[1:] != part[:-1]
    return np.maximum.accumulate(np.where(changes, np.arange(n), 0))


def _frames(books: pa.Table, levels: int) -> Floats32:
    """[n, 2 * L * C], without a copy when the column is one chunk."""
    column = books["frame"].combine_chunks()
    if isinstance(column, pa.ChunkedArray):
        column = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
    each = SIDES * levels * CHANNELS
    values = column.flatten().to_numpy(zero_copy_only=False)
    if len(values) != len(column) * each or (len(column) and (np.diff(column.offsets) != each).any()):
        found = sorted(set(np.diff(column.offsets).tolist()))
        raise TrainingDataError(
            f"frames of {levels} levels have {each} numbers, these have {found[:5]}; set the training job's "
            "levels to those of the dataset"
        )
    return values.reshape(-1, each)  # type: ignore[no-any-return]


def _mid_moves(
    books: pa.Table,
    order: Ints,
    start: Ints,
    inputs: Floats32,
    levels: int,
) -> Floats32:
    """Ticks; the tick is the spread over the best quotes' distances from the mid, which are in ticks."""
    bid, ask = (_int64(books[name])[order] for name in ("bid_price", "ask_price"))
    spread = inputs[:, 0].astype(np.float64) + inputs[:, levels * CHANNELS]
    tick = np.divide(ask - bid, spread, out=np.full(len(bid), np.inf), where=spread > 0)
    moves = np.zeros(len(bid))
    moves[1:] = np.diff(bid + ask) / (2 * tick[1:])  # bid + ask is twice the mid
    moves[start == np.arange(len(start))] = 0.0
    return moves.astype(np.float32)


def _labels(labels: pa.Table, instrument: NDArray[np.int32], ts: Ints) -> tuple[NDArray[np.int8], Ints]:
    label, end = np.full(len(ts), NO_LABEL, np.int8), np.zeros(len(ts), np.int64)
    times, ids = np.unique(ts), np.unique(instrument)
    key = np.searchsorted(ids, instrument) * len(times) + np.searchsorted(times, ts)
    if (np.diff(key) <= 0).any():
        raise TrainingDataError("book_tensors holds a row twice; build the dataset under a new name")
    label_ts, label_id = _int64(labels["ts"]), labels["instrument_id"].to_numpy()
    known = np.isin(label_ts, times) & np.isin(label_id, ids)
    wanted = np.searchsorted(ids, label_id[known]) * len(times) + np.searchsorted(times, label_ts[known])
    place = np.searchsorted(key, wanted)
    found = (place < len(key)) & (key[np.minimum(place, len(key) - 1)] == wanted) if len(key) else known[:0]
    label[place[found]] = labels["label"].to_numpy()[known][found] + 1
    end[place[found]] = _int64(labels["ts_end"])[known][found]
    return label, end

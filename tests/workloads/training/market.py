"""A features job's tables without a market: the hidden chain of the simulator, and books around it.

The chain decides the moves of the mid and the side of each added order; everything else in the frames is
noise. `best_probabilities` is the forward recursion with the true parameters, written anew: what no model
can beat.
"""

# Axes: T step, S hidden state (falling, quiet, rising, choppy), L level, C channel of a frame

import datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from workloads.ticks.archive import Archive, DatasetPartition, open_archive
from workloads.ticks.datasets import whole_of
from workloads.ticks.schema import BOOK_TENSORS, CLEANING, LABELS

STEP_NS = 250_000_000
HORIZON = 10
"""Steps."""
TICK = 250_000_000
"""1e-9 of the quote currency."""
DATE = datetime.date(2026, 1, 5)
START_NS = 1_767_623_400_000_000_000

TRANSITION_SS = np.array(
    [
        [0.98, 0.008, 0.002, 0.01],
        [0.006, 0.982, 0.006, 0.006],
        [0.002, 0.008, 0.98, 0.01],
        [0.008, 0.008, 0.008, 0.976],
    ]
)
MOVES_SM = np.array([[0.32, 0.66, 0.02], [0.01, 0.98, 0.01], [0.02, 0.66, 0.32], [0.35, 0.3, 0.35]])
BID_SHARE_S = np.array([0.38, 0.5, 0.62, 0.5])


class Drawn(NamedTuple):
    """What one instrument did, step by step."""

    moves: np.ndarray
    bid_adds: np.ndarray
    ask_adds: np.ndarray


def path(steps: int, rng: np.random.Generator) -> Drawn:
    """Draw the chain and what can be seen of it."""
    uniform = rng.random(steps)
    cumulative = np.cumsum(TRANSITION_SS, axis=1)
    state, states = int(rng.integers(4)), np.empty(steps, np.int64)
    for t in range(steps):
        states[t] = state
        state = min(int(np.searchsorted(cumulative[state], uniform[t], side="right")), 3)
    moves = (rng.random(steps)[:, None] >= np.cumsum(MOVES_SM, axis=1)[states, :2]).sum(axis=1) - 1
    adds = rng.poisson(np.where(rng.random(steps) < 0.07, 11.0, 1.9))
    bids = rng.binomial(adds, BID_SHARE_S[states])
    return Drawn(moves, bids, adds - bids)


def best_probabilities(seen: Drawn, horizon: int = HORIZON) -> np.ndarray:
    """P(down, flat, up over the horizon | everything seen up to and including the step), one row a step."""
    start = np.linalg.matrix_power(TRANSITION_SS, 1000)[0]
    like_TS = (
        MOVES_SM[:, seen.moves + 1].T
        * BID_SHARE_S ** seen.bid_adds[:, None]
        * (1 - BID_SHARE_S) ** seen.ask_adds[:, None]
    )
    belief_TS, ahead = np.empty_like(like_TS), start
    for t, like in enumerate(like_TS):
        belief = ahead * like
        belief_TS[t] = belief / belief.sum()
        ahead = belief_TS[t] @ TRANSITION_SS
    outcome_SM = np.empty((4, 3))
    for s in range(4):
        joint = np.zeros((4, 2 * horizon + 1))
        joint[s, horizon] = 1
        for _ in range(horizon):
            joint = TRANSITION_SS.T @ joint
            joint = sum(MOVES_SM[:, [m + 1]] * np.roll(joint, m, axis=1) for m in (-1, 0, 1))
        total = joint.sum(axis=0)
        outcome_SM[s] = total[:horizon].sum(), total[horizon], total[horizon + 1 :].sum()
    return belief_TS @ outcome_SM


def frames(seen: Drawn, levels: int, rng: np.random.Generator) -> np.ndarray:
    """float32 [n, 2, levels, 4]: books that drift on their own; the adds spread over the levels."""
    n = len(seen.moves)
    out = np.zeros((n, 2, levels, 4), np.float32)
    gap = rng.geometric(0.9, (n, 2, levels))
    gap[:, :, 0] = 1  # the spread is one tick
    out[..., 0] = np.cumsum(gap, axis=2) - 0.5
    noise, depth = rng.normal(size=(n, 2, levels)), np.zeros((2, levels))
    for t in range(n):
        depth = 0.9 * depth + 0.44 * noise[t]
        out[t, ..., 1] = depth
    out[..., 2] = np.maximum(1, np.round(4 + 2 * out[..., 1]))
    out[..., 1] += 2.5
    for side, adds in ((0, seen.bid_adds), (1, seen.ask_adds)):
        row = np.repeat(np.arange(n), adds)
        level = np.minimum(rng.geometric(0.25, len(row)) - 1, levels - 1)
        np.add.at(out[:, side, :, 3], (row, level), 1)
    return out


def tables(
    steps: int, instruments: int = 1, levels: int = 10, seed: int = 1, segments: int = 1
) -> tuple[pa.Table, pa.Table, list[Drawn]]:
    """`book_tensors` and `labels` of some instruments, and what each of them did."""
    rng = np.random.default_rng(seed)
    books, labels, paths = [], [], []
    for i in range(instruments):
        seen = path(steps, rng)
        paths.append(seen)
        ts = START_NS + np.arange(1, steps + 1, dtype=np.int64) * STEP_NS
        bid = 20_000 * TICK + np.cumsum(seen.moves) * TICK
        frame = frames(seen, levels, rng)
        segment = np.arange(steps) * segments // steps + i * segments
        size = np.expm1(frame[:, :, 0, 1]).astype(np.int64) + 1
        ofi = np.round(rng.normal(scale=8, size=steps) + 6 * seen.moves + seen.bid_adds - seen.ask_adds)
        volume = rng.poisson(2, (2, steps))
        book = {
            "instrument_id": np.full(steps, 100 + i, np.int32),
            "ts": ts,
            "segment": segment.astype(np.int32),
            "rules": np.zeros(steps, np.uint16),
            "bid_price": bid,
            "ask_price": bid + TICK,
            "bid_size": size[:, 0],
            "ask_size": size[:, 1],
            "ofi": ofi.astype(np.int64),
            "bid_adds": seen.bid_adds.astype(np.int32),
            "ask_adds": seen.ask_adds.astype(np.int32),
            "buy_volume": volume[0],
            "sell_volume": volume[1],
            "frame": column_of(frame),
        }
        books.append(typed(book, BOOK_TENSORS.arrow))
        at = np.flatnonzero(segment[HORIZON:] == segment[:-HORIZON])
        level = np.cumsum(seen.moves)
        move = level[at + HORIZON] - level[at]
        label = {
            "instrument_id": np.full(len(at), 100 + i, np.int32),
            "ts": ts[at],
            "ts_end": ts[at] + HORIZON * STEP_NS,
            "move": (2 * move).astype(np.int32),
            "label": np.sign(move).astype(np.int8),
        }
        labels.append(typed(label, LABELS.arrow))
    return pa.concat_tables(books), pa.concat_tables(labels), paths


def stored(folder: Path | str, books: pa.Table, labels: pa.Table, parts: int = 1) -> Archive:
    """An archive with these tables as dataset ``book-1``, of which the one part that is made is all."""
    archive = open_archive(str(folder))
    where = DatasetPartition("book-1", DATE)
    archive.commit("book_tensors", where, {"sim-310": books})
    archive.commit("labels", where, {"sim-310": labels})
    counts = CLEANING.arrow.empty_table()
    archive.commit("cleaning", where, {"sim-310": counts}, source=whole_of(parts))
    return archive


def column_of(frame: np.ndarray) -> pa.Array:
    """A list column that holds one frame a row."""
    each = int(np.prod(frame.shape[1:]))
    offsets = np.arange(len(frame) + 1, dtype=np.int32) * each
    return pa.ListArray.from_arrays(offsets, pa.array(frame.reshape(-1)))


def typed(columns: dict, schema: pa.Schema) -> pa.Table:
    """A table of the schema from plain arrays."""
    arrays = [
        values if isinstance(values, pa.Array) else pa.array(values).cast(field.type)
        for field in schema
        for values in [columns[field.name]]
    ]
    return pa.Table.from_arrays(arrays, schema=schema)

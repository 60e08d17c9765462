"""Frames by hand, and read back without a copy."""

import numpy as np
import pyarrow as pa
import pytest

from workloads.features.tensors import CHANNELS, frame_column, frames, tensor
from workloads.ticks.schema import BOOK_TENSORS

LADDER = np.array(
    [
        [[[100, 7, 2, 1], [96, 1, 1, 0]], [[104, 3, 1, 0], [0, 0, 0, 0]]],
        [[[100, 7, 2, 1], [96, 1, 1, 0]], [[0, 0, 0, 0], [0, 0, 0, 0]]],
    ]
)  # fmt: skip


def test_distances_are_ticks_away_from_the_mid_on_both_sides():
    frame = tensor(LADDER, np.array([4, 4]))[0]
    assert frame[0].tolist() == [[0.5, np.float32(np.log(8)), 2, 1], [1.5, np.float32(np.log(2)), 1, 0]]
    assert frame[1].tolist() == [[0.5, np.float32(np.log(4)), 1, 0], [0, 0, 0, 0]]


def test_a_book_without_a_side_has_no_mid_and_an_empty_frame():
    assert not tensor(LADDER, np.array([4, 4]))[1].any()


def test_frames_do_not_depend_on_where_the_price_lies():
    moved = LADDER.copy()
    moved[..., 0] += np.where(moved[..., 2] > 0, 12_000_000, 0)
    assert np.array_equal(tensor(moved, np.array([4, 4])), tensor(LADDER, np.array([4, 4])))


def table_of(made: np.ndarray) -> pa.Table:
    column = frame_column(made)
    assert column.type == BOOK_TENSORS.arrow.field("frame").type
    return pa.table({"frame": column})


def test_frames_are_read_without_a_copy():
    made = np.random.default_rng(1).random((5, 2, 10, len(CHANNELS)), np.float32)
    found = frames(table_of(made))
    assert found.shape == made.shape
    assert np.shares_memory(found, made)
    assert np.array_equal(frames(table_of(made)[1:4]), made[1:4])


def test_frames_of_several_chunks_and_of_none_are_read():
    made = np.random.default_rng(1).random((5, 2, 3, 4), np.float32)
    both = pa.concat_tables([table_of(made[:2]), table_of(made[2:])])
    assert np.array_equal(frames(both, 3), made)
    assert frames(both.slice(0, 0), 3).shape == (0, 2, 3, 4)
    assert frames(pa.table({"frame": pa.chunked_array([], pa.list_(pa.float32()))}), 3).shape == (0, 2, 3, 4)


def test_frames_of_other_levels_are_refused():
    with pytest.raises(ValueError, match="of 10 levels"):
        frames(table_of(np.zeros((2, 2, 3, 4), np.float32)))

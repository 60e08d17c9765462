"""Windows, periods, scaling: what the models see and what they must not."""

import numpy as np
import pyarrow as pa
import pytest

from tests.workloads.training.market import HORIZON, STEP_NS, column_of, tables
from workloads.training.errors import NothingToTrainError, TrainingDataError
from workloads.training.samples import (
    NO_LABEL,
    STEPS,
    fitted_scaling,
    mirrored,
    panel,
    periods,
    rows,
    windows,
)

LEVELS = 3
WINDOW = 16


def made(steps=400, instruments=2, segments=2, seed=1):
    books, labels, paths = tables(steps, instruments, LEVELS, seed, segments)
    books = books.append_column("date", pa.array(np.zeros(len(books), np.int32)).cast(pa.date32()))
    return books, labels, paths


@pytest.fixture(scope="module")
def some():
    books, labels, paths = made()
    return panel(books, labels, LEVELS), paths


def test_a_row_says_by_how_many_ticks_the_mid_moved_in_the_step_before(some):
    found, paths = some
    first = found.inputs_NF[:200, -len(STEPS)]
    assert first.tolist() == [0, *paths[0].moves[1:200]]


def test_the_first_row_of_a_segment_shows_no_move(some):
    found, paths = some
    assert paths[0].moves[200] != 0 or paths[1].moves[200] != 0
    assert found.inputs_NF[[0, 200, 400, 600], -len(STEPS)].tolist() == [0, 0, 0, 0]


def test_labels_stand_at_their_rows_and_nowhere_else(some):
    found, paths = some
    level = np.cumsum(paths[1].moves)
    assert found.label_N[400:590].tolist() == (np.sign(level[10:200] - level[:190]) + 1).tolist()
    assert (found.label_N[590:600] == NO_LABEL).all()
    assert (found.end_N[400:590] == found.ts_N[400:590] + HORIZON * STEP_NS).all()


def test_the_order_of_the_stored_rows_does_not_matter(some):
    books, labels, _ = made()
    shuffled = panel(books.take(np.random.default_rng(1).permutation(len(books))), labels, LEVELS)
    assert np.array_equal(shuffled.inputs_NF, some[0].inputs_NF)
    assert np.array_equal(shuffled.label_N, some[0].label_N)


def test_a_window_ends_at_its_row_and_stays_in_its_segment(some):
    found, _ = some
    full = found.windowed(WINDOW)
    assert len(full) == 4 * (200 - WINDOW + 1)
    assert (found.start_N[full - WINDOW + 1] == found.start_N[full]).all()
    assert np.array_equal(windows(found.inputs_NF, full[:1], WINDOW)[0], found.inputs_NF[:WINDOW])


def test_rows_outside_a_segment_are_left_out():
    books, labels, _ = made()
    segment = books["segment"].to_numpy().copy()
    segment[50:60] = -1
    holed = books.set_column(2, books.schema.field("segment"), pa.array(segment))
    found = panel(holed, labels, LEVELS)
    assert len(found.ts_N) == len(books) - 10
    assert found.start_N[49] == 0 and found.start_N[50] == 0, "one segment: the features job numbers them"


def test_training_validation_and_test_are_disjoint_in_time_and_purged(some):
    found, _ = some
    labelled = found.windowed(WINDOW)
    labelled = labelled[found.label_N[labelled] != NO_LABEL]
    bounds = periods(found.ts_N[labelled], 0.6, 0.15)
    used = rows(found, bounds, WINDOW)
    assert found.end_N[used.train].max() <= bounds.validation <= found.ts_N[used.validation].min()
    assert found.end_N[used.validation].max() <= bounds.test <= found.ts_N[used.test].min()
    assert len(used.train) and len(used.validation) and len(used.test)
    left_out = len(labelled) - len(used.train) - len(used.validation) - len(used.test)
    assert 0 < left_out <= 2 * 2 * HORIZON, "only labels that span a border, of two instruments"


def test_the_scaling_does_not_know_what_comes_after_training(some):
    found, _ = some
    bounds = periods(found.ts_N, 0.6, 0.15)
    before = fitted_scaling(found, bounds)
    found.inputs_NF[found.ts_N >= bounds.validation] *= 3
    after = fitted_scaling(found, bounds)
    found.inputs_NF[found.ts_N >= bounds.validation] /= 3
    assert np.array_equal(before.mean_F, after.mean_F)
    assert np.array_equal(before.deviation_F, after.deviation_F)


def test_scaling_gives_unit_variance_and_commutes_with_the_mirror(some):
    found, _ = some
    scaling = fitted_scaling(found, periods(found.ts_N, 0.6, 0.15))
    scaled = scaling(found.inputs_NF)
    assert 0.7 < scaled[:, 1].std() < 1.4  # log size of the best bid
    mirror_first = scaling(mirrored(found.inputs_NF, LEVELS))
    assert np.allclose(mirror_first, mirrored(scaled, LEVELS), atol=1e-6)


def test_a_mirror_swaps_the_sides_turns_moves_around_and_undoes_itself(some):
    inputs = some[0].inputs_NF[:50]
    mirror = mirrored(inputs, LEVELS)
    assert np.array_equal(mirror[:, :12], inputs[:, 12:24])
    assert np.array_equal(mirror[:, 24:26], -inputs[:, 24:26])
    assert np.array_equal(mirror[:, [26, 27]], inputs[:, [27, 26]])
    assert np.array_equal(mirrored(mirror, LEVELS), inputs)


def test_frames_of_another_depth_are_refused():
    books, labels, _ = made()
    with pytest.raises(TrainingDataError, match="levels"):
        panel(books, labels, LEVELS + 1)


def test_a_row_that_is_there_twice_is_refused():
    books, labels, _ = made(steps=50)
    with pytest.raises(TrainingDataError, match="twice"):
        panel(pa.concat_tables([books, books.slice(3, 1)]), labels, LEVELS)


def test_too_few_times_to_split_is_a_clear_error():
    with pytest.raises(NothingToTrainError, match="longer session"):
        periods(np.arange(2), 0.6, 0.15)


def test_frames_are_read_from_a_sliced_column():
    books, labels, _ = made()
    frame = column_of(np.arange(2 * 2 * LEVELS * 4, dtype=np.float32).reshape(2, 2, LEVELS, 4))
    sliced = books.slice(1, 1).set_column(13, books.schema.field("frame"), frame.slice(1))
    assert panel(sliced, labels, LEVELS).inputs_NF[0, :-6].tolist() == list(range(24, 48))

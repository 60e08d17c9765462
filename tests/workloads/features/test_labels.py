"""Segments and labels: never across a gap, a session, an unusable book, or into another instrument."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.workloads.features.sessions import ns
from workloads.features.flow import TakenVolume
from workloads.features.labels import Labels
from workloads.features.segments import MOST, Segments

STEP = 10
NONE = np.zeros(0, np.int64)


def columns(rows):
    """(instrument, ts, usable, twice the mid) as arrays."""
    ids, ts, usable, mid = np.array(rows, np.int64).reshape(-1, 4).T
    return ids.astype(np.int32), ts, usable.astype(np.bool_), mid


def segments_of(rows, bounds=NONE, cuts=(), rank=0):
    numbers, found = Segments(STEP, np.array(bounds, np.int64), rank), []
    for start, stop in zip((0, *cuts), (*cuts, len(rows)), strict=True):
        found += numbers.number(*columns(rows[start:stop])[:3]).tolist()
    return found


def labels_of(rows, segment, horizon=2 * STEP, tick=2, cuts=()):
    """(instrument, ts, ts_end, move, label) of each, in the order in which they become known."""
    labels, found = Labels(STEP, horizon), []
    for start, stop in zip((0, *cuts), (*cuts, len(rows)), strict=True):
        ids, ts, _, mid = columns(rows[start:stop])
        numbers = np.array(segment[start:stop], np.int32)
        table = labels.label(ids, ts, numbers, mid, np.full(len(ts), tick))
        times = [ns(table, name).tolist() for name in ("ts", "ts_end")]
        rest = [table[name].to_pylist() for name in ("move", "label")]
        found += list(zip(table["instrument_id"].to_pylist(), *times, *rest, strict=True))
    return found


def rows_of(usable, instrument=7, start=100):
    return [(instrument, start + STEP * i, ok, 1000) for i, ok in enumerate(usable)]


def test_a_book_that_is_not_usable_ends_a_segment():
    assert segments_of(rows_of([1, 1, 0, 1, 0, 0, 1])) == [0, 0, -1, 1, -1, -1, 2]


def test_a_missing_grid_time_ends_a_segment():
    rows = rows_of([1, 1, 1])
    assert segments_of([rows[0], rows[2]]) == [0, 1]


def test_a_session_bound_ends_a_segment_and_its_first_instant_belongs_to_what_was_before():
    rows = rows_of([1, 1, 1, 1])  # at 100, 110, 120, 130: each of what was known before
    assert segments_of(rows, bounds=[110]) == [0, 0, 1, 1]
    assert segments_of(rows, bounds=[109]) == [0, 1, 1, 1]


def test_instruments_have_segments_of_their_own_and_partitions_do_too():
    rows = sorted(rows_of([1, 0, 1]) + rows_of([1, 1, 1], instrument=3), key=lambda r: r[1])
    assert segments_of(rows) == [0, 1, -1, 1, 2, 1]
    assert segments_of(rows, rank=2)[0] == 2 * MOST


def test_a_label_is_the_sign_of_the_move_in_half_ticks():
    rows = [(7, 100 + STEP * i, 1, mid) for i, mid in enumerate([1000, 1001, 1002, 1001, 998])]
    assert labels_of(rows, [0] * 5, tick=1) == [
        (7, 100, 120, 2, 1), (7, 110, 130, 0, 0), (7, 120, 140, -4, -1),
    ]  # fmt: skip


def test_a_horizon_between_grid_times_is_refused():
    with pytest.raises(ValueError, match="multiple"):
        Labels(STEP, 25)


def plain(rows, segment, steps, tick):
    """Labels one by one."""
    at = {(i, ts): (s, mid) for (i, ts, _, mid), s in zip(rows, segment, strict=True)}
    found = []
    for (i, ts), (s, mid) in at.items():
        before = at.get((i, ts - steps * STEP), (-1, 0))
        if s >= 0 and before[0] == s:
            move = round((mid - before[1]) / tick)
            found.append((i, ts - steps * STEP, ts, move, int(np.sign(move))))
    return found


STREAMS = st.lists(
    st.lists(st.tuples(st.booleans(), st.booleans(), st.integers(-3, 3)), min_size=3, max_size=3),
    max_size=30,
)
"""At each grid time, for three instruments: is there a row, is it usable, its mid."""


@settings(deadline=None, max_examples=150)
@given(STREAMS, st.lists(st.integers(0, 90), max_size=3), st.integers(1, 4), st.integers(100, 400))
def test_labels_stay_inside_segments_and_segments_inside_sessions_however_rows_are_cut(
    stream, cuts, steps, bound
):
    rows = [
        (i, 100 + STEP * n, int(usable), 2 * mid)
        for n, every in enumerate(stream)
        for i, (there, usable, mid) in enumerate(every)
        if there
    ]
    cuts = tuple(sorted(min(cut, len(rows)) for cut in cuts))
    segment = segments_of(rows, [bound], cuts)
    assert segment == segments_of(rows, [bound])
    assert labels_of(rows, segment, steps * STEP, cuts=cuts) == plain(rows, segment, steps, 2)
    assert [s >= 0 for s in segment] == [bool(row[2]) for row in rows]
    for number in set(segment) - {-1}:
        mine = [row for row, s in zip(rows, segment, strict=True) if s == number]
        assert len({row[0] for row in mine}) == 1
        assert np.diff([row[1] for row in mine]).tolist() == [STEP] * (len(mine) - 1)
        assert len({row[1] > bound for row in mine}) == 1


TAKEN = st.lists(st.tuples(st.integers(0, 9), st.sampled_from([-5, 3, 8]), st.integers(0, 2)), max_size=40)


@settings(deadline=None, max_examples=100)
@given(TAKEN, st.integers(0, 300))
def test_volume_taken_counts_for_the_next_grid_time_however_trades_are_cut(given_trades, cut):
    ts = 100 + np.cumsum([t[0] for t in given_trades], dtype=np.int64)
    trades = [(int(t), i, side) for t, (_, i, side) in zip(ts, given_trades, strict=True)]
    taken, found = TakenVolume(STEP), {}
    grid = [(i, t) for t in range(100, 600, STEP) for i in (-5, 3, 8)]
    for part, times in (
        ([t for t in trades if t[0] < 100 + cut], [g for g in grid if g[1] <= 100 + cut]),
        ([t for t in trades if t[0] >= 100 + cut], [g for g in grid if g[1] > 100 + cut]),
    ):
        known, ids, side = np.array(part, np.int64).reshape(-1, 3).T
        taken.add(ids.astype(np.int32), known, np.full(len(part), 2), side.astype(np.uint8))
        its_ids, its_ts = np.array(times, np.int64).reshape(-1, 2).T
        bought, sold = taken.take(its_ids.astype(np.int32), its_ts)
        found |= dict(zip(times, zip(bought.tolist(), sold.tolist(), strict=True), strict=True))
    for (i, t), sums in found.items():
        mine = [trade for trade in trades if trade[1] == i and t - STEP <= trade[0] < t]
        assert sums == tuple(2 * sum(trade[2] == side for trade in mine) for side in (1, 2))

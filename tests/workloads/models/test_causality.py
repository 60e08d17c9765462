"""What every model promises: no row knows a later one, and a day at once is a day row by row."""

import pickle
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.workloads.models.samples import MODELS, ORIGIN, fit, joined, market, spoiled, values
from workloads.models.alpha import FlowWindow
from workloads.models.protocol import LookAheadError, part

ROWS = 300
TRAINED = 200
each_model = pytest.mark.parametrize("name", MODELS)


def after(name: str, seed: int = 0):
    """A model, its artifact, its warm state, and the rows that follow."""
    rows = market(ROWS, seed)
    cut = int(rows[name].ts[TRAINED])
    artifact = fit(name, rows, cut)
    past, future = part(rows[name], rows[name].ts <= cut), part(rows[name], rows[name].ts > cut)
    return MODELS[name], artifact, MODELS[name].update(MODELS[name].start(artifact), past), future


@each_model
def test_a_day_at_once_has_the_same_bits_as_row_by_row(name):
    model, artifact, state, rows = after(name)
    whole, last = model.batch(state, rows, artifact)
    answers = []
    for row in range(len(rows)):
        state = model.update(state, part(rows, slice(row, row + 1)))
        answers.append(model.predict(state, artifact))
    assert joined(answers) == values(whole)
    assert state == last


@each_model
@settings(deadline=None)
@given(cuts=st.lists(st.integers(0, ROWS - TRAINED - 1), max_size=5), seed=st.integers(0, 9))
def test_it_does_not_matter_where_a_day_is_cut(name, cuts, seed):
    model, artifact, state, rows = after(name, seed)
    whole, last = model.batch(state, rows, artifact)
    edges = [0, *sorted(cuts), len(rows)]
    answers = []
    for first, end in pairwise(edges):
        answer, state = model.batch(state, part(rows, slice(first, end)), artifact)
        answers.append(answer)
    assert joined(answers) == values(whole)
    assert state == last


@each_model
@settings(deadline=None)
@given(t=st.integers(TRAINED + 1, ROWS - 1), seed=st.integers(0, 9))
def test_no_answer_knows_what_came_after_it(name, t, seed):
    rows = market(ROWS, seed)
    ts = rows[name].ts
    artifact, start = fit(name, rows, int(ts[TRAINED])), MODELS[name].start
    other = spoiled(rows, market(ROWS, seed + 100), int(ts[t]))
    seen = slice(TRAINED + 1, t + 1)
    now, _ = MODELS[name].batch(start(artifact), part(rows[name], slice(TRAINED + 1, None)), artifact)
    then, _ = MODELS[name].batch(start(artifact), part(other[name], slice(TRAINED + 1, None)), artifact)
    count = len(ts[seen])
    for column, kept in vars(now).items():
        if isinstance(kept, np.ndarray):
            assert kept[:count].tobytes() == getattr(then, column)[:count].tobytes()


@each_model
def test_the_change_of_the_future_is_seen_where_it_lies(name):
    """Otherwise the test above could not fail."""
    rows = market(ROWS)
    ts = rows[name].ts
    artifact = fit(name, rows, int(ts[TRAINED]))
    other = spoiled(rows, market(ROWS, 100), int(ts[TRAINED + 9]))
    now, _ = MODELS[name].batch(
        MODELS[name].start(artifact), part(rows[name], slice(TRAINED, None)), artifact
    )
    then, _ = MODELS[name].batch(
        MODELS[name].start(artifact), part(other[name], slice(TRAINED, None)), artifact
    )
    assert values(now) != values(then)


@each_model
@settings(deadline=None)
@given(t=st.integers(60, ROWS - 1), seed=st.integers(0, 9))
def test_an_artifact_as_of_t_knows_nothing_after_t(name, t, seed):
    rows = market(ROWS, seed)
    ts = int(rows[name].ts[t])
    artifact = fit(name, rows, ts)
    assert artifact.as_of <= ts
    assert fit(name, spoiled(rows, market(ROWS, seed + 100), ts), ts) == artifact


@pytest.mark.parametrize("name", ["score", "flow"])
def test_an_artifact_is_known_only_when_its_last_label_is(name):
    rows = market(ROWS)
    labels = rows["labels"].known(int(rows["labels"].ts[TRAINED]))
    assert fit(name, rows, int(rows["labels"].ts[TRAINED])).as_of == labels.ts_end[-1] > labels.ts[-1]


def test_rows_after_the_last_label_change_no_fit():
    rows = market(ROWS)
    labels = rows["labels"].known(int(rows["labels"].ts[TRAINED]))
    cut = part(rows["flow"], rows["flow"].ts <= labels.ts[-1])
    of = MODELS["flow"].fit
    assert of(FlowWindow(rows["flow"], labels), ORIGIN) == of(FlowWindow(cut, labels), ORIGIN)


@each_model
def test_nothing_is_answered_for_a_time_before_the_artifact_was_known(name):
    rows = market(ROWS)
    artifact = fit(name, rows, int(rows[name].ts[TRAINED]))
    early = part(rows[name], slice(0, 5))
    state = MODELS[name].start(artifact)
    with pytest.raises(LookAheadError, match="fit on an earlier window"):
        MODELS[name].batch(state, early, artifact)
    with pytest.raises(LookAheadError, match="fit on an earlier window"):
        MODELS[name].predict(MODELS[name].update(state, early), artifact)


@each_model
def test_every_answer_says_when_it_was_known_and_in_which_unit(name):
    model, artifact, state, rows = after(name)
    answer, _ = model.batch(state, rows, artifact)
    np.testing.assert_array_equal(answer.as_of, rows.ts)
    assert (answer.valid_from >= answer.as_of).all()
    assert (answer.valid_from >= artifact.as_of).all()
    assert answer.unit
    assert answer.horizon_ns >= 0


@each_model
def test_a_shift_of_the_clock_changes_no_value(name):
    model, artifact, _, rows = after(name)
    day = 86_400_000_000_000
    moved = type(rows)(**{**vars(rows), "ts": rows.ts + day})
    cold = model.start(artifact)
    now, _ = model.batch(cold, rows, artifact)
    then, _ = model.batch(cold, moved, artifact)
    columns = [
        k for k, v in vars(now).items() if isinstance(v, np.ndarray) and k not in ("as_of", "valid_from")
    ]
    assert columns
    for column in columns:
        assert getattr(now, column).tobytes() == getattr(then, column).tobytes()


@each_model
def test_no_rows_change_nothing(name):
    model, artifact, state, rows = after(name)
    answer, last = model.batch(state, part(rows, slice(0, 0)), artifact)
    assert len(answer) == 0
    assert last == state == model.update(state, part(rows, slice(0, 0)))


@each_model
def test_artifacts_and_states_travel_between_processes(name):
    _, artifact, state, _ = after(name)
    assert pickle.loads(pickle.dumps((artifact, state))) == (artifact, state)
    assert pickle.loads(pickle.dumps(artifact)).id == artifact.id

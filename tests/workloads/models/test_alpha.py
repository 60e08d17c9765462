"""Alphas: hand numbers, planted coefficients, an independent regression, and symmetries."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Ridge
from threadpoolctl import threadpool_limits

from tests.workloads.models.samples import ES, HORIZON, ORIGIN, STEP, market
from workloads.models.alpha import (
    FlowAlpha,
    FlowConfig,
    FlowRows,
    FlowWindow,
    Labels,
    ScoreAlpha,
    ScoreConfig,
    ScoreRows,
    in_currency,
)
from workloads.models.protocol import EmptyWindowError, ModelError, Unit, part


def times(n, first=0):
    return 10**18 + STEP * np.arange(first, first + n)


def labels(moves, ts=None):
    moves = np.asarray(moves, np.int64)
    ts = times(len(moves)) if ts is None else ts
    return Labels(ts, ts + HORIZON, moves)


def scores(rows, first):
    return ScoreRows(times(len(rows), first), *np.array(rows, np.float64).T)


def score_alpha(moves, rows, first=1000):
    model = ScoreAlpha(ScoreConfig(least_moves=1))
    artifact = model.fit(labels(moves), ORIGIN)
    return model.batch(model.start(artifact), scores(rows, first), artifact)[0]


def test_the_expected_move_by_hand():
    """Up moves of 1 and 3 half ticks: a tick in the mean. One down move of 4 half ticks: two ticks."""
    alpha = score_alpha([1, 3, 0, -4], [(0.2, 0.3, 0.5), (0, 1, 0), (1, 0, 0)])
    np.testing.assert_allclose(alpha.value, [0.5 * 1 - 0.2 * 2, 0, -2], atol=1e-15)
    assert (alpha.unit, alpha.horizon_ns) == (Unit.TICKS, HORIZON)


def test_an_alpha_of_es_in_money():
    alpha = in_currency(score_alpha([2, -2], [(0, 0, 1), (0.5, 0, 0.5)]), ES)
    assert alpha.value.tolist() == [12.5, 0.0]
    assert alpha.unit is Unit.CURRENCY
    with pytest.raises(ModelError, match="convert it once"):
        in_currency(alpha, ES)


@settings(deadline=None)
@given(seed=st.integers(0, 50))
def test_a_mirrored_market_has_a_mirrored_score_alpha(seed):
    random = np.random.default_rng(seed)
    moves = np.concatenate([random.integers(-6, 7, 30), [1, -1]])
    p = random.dirichlet((1, 1, 1), 8)
    np.testing.assert_array_equal(score_alpha(moves, p).value, -score_alpha(-moves, p[:, ::-1]).value)


def test_calibrated_scores_make_an_unbiased_alpha():
    random = np.random.default_rng(1)
    p = random.dirichlet((2, 3, 1), 40_000)
    label = (random.random(len(p))[:, None] > np.cumsum(p, axis=1)[:, :2]).sum(axis=1) - 1
    moves = label * random.integers(1, 5, len(p))  # sizes that don't depend on the scores
    alpha = score_alpha(moves[:20_000], p[20_000:], first=30_000)
    error = moves[20_000:] / 2 - alpha.value
    assert abs(error.mean()) < 4 * error.std() / np.sqrt(len(error))
    slope = (alpha.value @ (moves[20_000:] / 2)) / (alpha.value @ alpha.value)
    assert slope == pytest.approx(1, abs=0.05)


def test_mean_sizes_of_a_few_moves_are_not_trusted():
    with pytest.raises(EmptyWindowError, match="3 labels hold 1 moves up and 2 down, fewer than 2"):
        ScoreAlpha(ScoreConfig(least_moves=2)).fit(labels([1, -1, -2]), ORIGIN)


# Order flow


def slow_flows(rows, half_lives):
    """Smoothed imbalances in plain Python, from the definition: a sum over the run so far."""
    result = []
    for t in range(len(rows)):
        first = t
        while (
            first > 0
            and rows.segment[first - 1] == rows.segment[first]
            and rows.ts[first] - rows.ts[first - 1] == STEP
        ):
            first -= 1
        result.append(
            [sum(rows.ofi[s] * 0.5 ** ((t - s) / h) for s in range(first, t + 1)) for h in half_lives]
        )
    return np.array(result)


def flow_model(**knobs):
    return FlowAlpha(FlowConfig(**{"half_lives": (1.0, 8.0), "least_rows": 10, "step_ns": STEP} | knobs))


def test_planted_coefficients_are_found():
    """move = 2 f_1 - f_8 in half ticks, to the rounding of labels to whole half ticks."""
    rows = market(2000, seed=4)["flow"]
    f = slow_flows(rows, (1.0, 8.0))
    moves = np.round(2 * f[:, 0] - f[:, 1]).astype(np.int64)
    artifact = flow_model(ridge=1e-9).fit(FlowWindow(rows, labels(moves, rows.ts)), ORIGIN)
    np.testing.assert_allclose(artifact.coefficients, [1.0, -0.5], atol=0.01)


@settings(deadline=None)
@given(seed=st.integers(0, 20), ridge=st.sampled_from([1e-6, 1e-2, 1.0]))
def test_the_forecast_is_that_of_another_ridge_regression(seed, ridge):
    data = market(400, seed)
    rows = data["flow"]
    f = slow_flows(rows, (1.0, 8.0))
    random = np.random.default_rng(seed)
    moves = np.round(f @ [0.2, 0.1] + random.normal(0, 2, len(f))).astype(np.int64)
    known = labels(moves, rows.ts).known(int(rows.ts[200]))
    fitted, after = f[: len(known)], f[200:]
    scale = np.sqrt((fitted**2).mean(axis=0))
    other = Ridge(alpha=ridge * len(known), fit_intercept=False).fit(fitted / scale, known.ticks)

    model = flow_model(ridge=ridge)
    artifact = model.fit(FlowWindow(rows, known), ORIGIN)
    state = model.update(model.start(artifact), part(rows, slice(0, 200)))
    alpha, _ = model.batch(state, part(rows, slice(200, None)), artifact)
    np.testing.assert_allclose(alpha.value, other.predict(after / scale), rtol=1e-7, atol=1e-9)


def test_a_fit_has_the_same_bits_with_any_number_of_threads():
    data, model = market(200_000, seed=3), flow_model(half_lives=(1.0, 4.0, 16.0))
    found = []
    for threads in (1, 2):
        with threadpool_limits(threads):
            found.append(model.fit(FlowWindow(data["flow"], data["labels"]), ORIGIN).coefficients)
    assert found[0] == found[1]


@settings(deadline=None)
@given(seed=st.integers(0, 20))
def test_mirrored_flow_has_a_mirrored_forecast(seed):
    rows = market(300, seed)["flow"]
    mirrored = FlowRows(rows.ts, rows.segment, -rows.ofi)
    known = market(300, seed)["labels"].known(int(rows.ts[200]))
    model = flow_model()
    artifact = model.fit(FlowWindow(rows, known), ORIGIN)
    ahead = slice(201, None)
    one, _ = model.batch(model.start(artifact), part(rows, ahead), artifact)
    other, _ = model.batch(model.start(artifact), part(mirrored, ahead), artifact)
    np.testing.assert_array_equal(one.value, -other.value)


@settings(deadline=None)
@given(seed=st.integers(0, 20), times=st.sampled_from([0.125, 4.0, 1024.0]))
def test_the_size_of_a_lot_does_not_matter_to_the_forecast(seed, times):
    data = market(300, seed)
    rows, known = data["flow"], data["labels"].known(int(data["flow"].ts[200]))
    scaled = FlowRows(rows.ts, rows.segment, rows.ofi * times)
    model = flow_model()

    def forecast(rows):
        artifact = model.fit(FlowWindow(rows, known), ORIGIN)
        return model.batch(model.start(artifact), part(rows, slice(201, None)), artifact)[0].value

    np.testing.assert_allclose(forecast(scaled), forecast(rows), rtol=1e-9)


def test_flow_is_forgotten_at_a_gap_and_at_a_new_segment():
    model = flow_model(half_lives=(1.0,))
    known = market(300)["labels"].known(int(market(300)["flow"].ts[250]))
    artifact = model.fit(FlowWindow(market(300)["flow"], known), ORIGIN)
    ts = artifact.as_of + STEP * np.array([1, 2, 5, 6])
    rows = FlowRows(ts, np.array([3, 3, 3, 4]), np.array([8.0, 0.0, 2.0, 1.0]))
    alpha, _ = model.batch(model.start(artifact), rows, artifact)
    (coefficient,) = artifact.coefficients
    np.testing.assert_allclose(alpha.value, coefficient * np.array([8.0, 4.0, 2.0, 1.0]), rtol=1e-14)


def test_on_permuted_labels_the_flow_explains_nothing():
    """Out of sample the share of variance explained is not above 0 by more than chance."""
    rows = market(6000, seed=2)["flow"]
    f = slow_flows(rows, (1.0, 8.0))
    moves = np.round(3 * f[:, 0]).astype(np.int64)
    cut = int(rows.ts[3000])

    def explained(moves):
        model = flow_model()
        artifact = model.fit(FlowWindow(rows, labels(moves, rows.ts).known(cut)), ORIGIN)
        state = model.update(model.start(artifact), part(rows, slice(0, 3000)))
        alpha, _ = model.batch(state, part(rows, slice(3000, None)), artifact)
        truth = moves[3000:] / 2
        return 1 - ((truth - alpha.value) ** 2).sum() / (truth**2).sum()

    assert explained(moves) > 0.99
    assert explained(np.random.default_rng(0).permutation(moves)) < 0.01


def test_too_few_labels_are_refused():
    data = market(300)
    with pytest.raises(EmptyWindowError, match="5 labelled rows are fewer than 10"):
        flow_model().fit(FlowWindow(data["flow"], part(data["labels"], slice(0, 5))), ORIGIN)


def test_a_flow_that_never_moves_is_refused():
    data = market(300)
    still = FlowRows(data["flow"].ts, data["flow"].segment, np.zeros(300))
    with pytest.raises(EmptyWindowError, match="imbalance is 0 in all 300 labelled rows"):
        flow_model().fit(FlowWindow(still, data["labels"]), ORIGIN)


@pytest.mark.parametrize("kept", [slice(0, 200), slice(0, None, 2)])
def test_labels_of_other_rows_are_refused(kept):
    data = market(300)
    with pytest.raises(ModelError, match="some labels have no row of their ts"):
        flow_model().fit(FlowWindow(part(data["flow"], kept), data["labels"]), ORIGIN)


def test_whole_lots_and_read_only_columns_are_taken_as_they_come():
    data = market(300)
    lots = np.round(data["flow"].ofi).astype(np.int64)
    frozen = lots.astype(np.float64)
    frozen.flags.writeable = False
    fits = [
        flow_model().fit(
            FlowWindow(FlowRows(data["flow"].ts, data["flow"].segment, ofi), data["labels"]), ORIGIN
        )
        for ofi in (lots, frozen)
    ]
    assert fits[0] == fits[1]

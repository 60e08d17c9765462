"""EWMA variance: the printed example, an independent implementation, and its money."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tests.workloads.models.samples import ES, ORIGIN, STEP
from workloads.models.protocol import ModelError, Terms, part
from workloads.models.risk import EwmaRisk, MidRows, RiskConfig, ewma_variance

CHANGES = arrays(np.float64, st.integers(1, 200), elements=st.floats(-1e3, 1e3))


def mids(values, segment=None):
    values = np.asarray(values, np.float64)
    ts = 10**18 + STEP * np.arange(len(values))
    return MidRows(ts, np.zeros(len(values), np.int64) if segment is None else np.array(segment), values)


def test_hulls_example_to_its_printed_digits():
    """Hull, Risk Management and Financial Institutions, example 5.2: 1 % a day, then a return of 2 %."""
    _, variance = ewma_variance(np.array([0.02]), decay=0.90, seed=0.01**2)
    assert variance == pytest.approx(0.00013, rel=1e-14)
    assert f"{np.sqrt(variance):.2%}" == "1.14%"
    assert 100 * np.sqrt(variance) == pytest.approx(1.1401754, abs=5e-8)


@settings(deadline=None)
@given(changes=CHANGES, decay=st.floats(0.01, 0.999))
def test_it_is_the_ewm_of_polars_one_row_later(changes, decay):
    ours = ewma_variance(changes, decay, seed=changes[0] ** 2)
    theirs = pl.Series(changes**2).ewm_mean(alpha=1 - decay, adjust=False).to_numpy()
    np.testing.assert_allclose(ours[1:], theirs, rtol=1e-9, atol=1e-12)


@settings(deadline=None)
@given(changes=CHANGES, t=st.integers(0, 199))
def test_row_t_uses_changes_to_t_minus_1(changes, t):
    t = min(t, len(changes) - 1)
    other = changes.copy()
    other[t:] = 7.0
    before, after = ewma_variance(changes, 0.9, 1.0), ewma_variance(other, 0.9, 1.0)
    assert before[: t + 1].tobytes() == after[: t + 1].tobytes()


def test_the_first_forecast_is_the_seed_and_fades():
    assert ewma_variance(np.zeros(2), 0.5, seed=8.0).tolist() == [8.0, 4.0, 2.0]


def test_changes_of_one_size_have_their_square_as_variance():
    np.testing.assert_allclose(ewma_variance(np.array([3.0, -3.0] * 9), 0.9, seed=9.0), 9.0, rtol=1e-14)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_change_that_is_no_number_is_refused(bad):
    with pytest.raises(ModelError, match="in row 1; leave such rows out"):
        ewma_variance(np.array([1.0, bad]), 0.9, 1.0)


def test_the_seed_is_no_nan():
    with pytest.raises(ValueError, match="seed is a number of at least 0"):
        ewma_variance(np.ones(1), 0.9, np.nan)


def test_a_mid_that_moves_a_tick_a_step_risks_12_50_a_lot_and_step():
    """ES: tick 0.25, 50 a point. Ten steps: ten times the variance."""
    model = EwmaRisk(RiskConfig(decay=0.9, horizon_ns=10 * STEP, step_ns=STEP), ES)
    rows = mids(4810 + 0.25 * (np.arange(40) % 2))
    artifact = model.fit(part(rows, slice(0, 20)), ORIGIN)
    risk, _ = model.batch(model.start(artifact), part(rows, slice(20, None)), artifact)
    assert artifact.seed == 12.5**2
    np.testing.assert_allclose(risk.value, 10 * 12.5**2, rtol=1e-14)


@settings(deadline=None)
@given(times=st.sampled_from([0.5, 2.0, 4.0]), seed=st.integers(0, 5))
def test_risk_scales_with_the_square_of_the_multiplier(times, seed):
    rows = mids(4810 + 0.25 * np.cumsum(np.random.default_rng(seed).integers(-1, 2, 40)))

    def risk(multiplier):
        model = EwmaRisk(RiskConfig(), Terms(0.25, multiplier))
        artifact = model.fit(part(rows, slice(0, 20)), ORIGIN)
        return model.batch(model.start(artifact), part(rows, slice(20, None)), artifact)[0].value

    np.testing.assert_allclose(risk(50.0 * times), times**2 * risk(50.0), rtol=1e-12)


def test_the_jump_across_a_gap_is_left_out_and_the_variance_carried_over_it():
    model = EwmaRisk(RiskConfig(decay=0.5, horizon_ns=STEP, step_ns=STEP), Terms(1.0, 1.0))
    artifact = model.fit(mids([0, 2, 0]), ORIGIN)
    rows = mids([0, 2, 100, 100, 104], segment=[0, 0, 1, 1, 1])
    rows = MidRows(rows.ts + 10 * STEP, rows.segment, rows.mid)
    risk, _ = model.batch(model.start(artifact), rows, artifact)
    #                        seed  (4+4)/2  kept  (4+0)/2  (2+16)/2
    assert risk.value.tolist() == [4.0, 4.0, 4.0, 2.0, 9.0]


def test_the_variance_of_a_random_walk_over_the_horizon_is_found():
    """Not more than 5 % off in the mean; the standard error of the realised variance is about 1 %."""
    model = EwmaRisk(RiskConfig(decay=0.99), Terms(0.25, 1.0))
    walk = np.cumsum(np.random.default_rng(3).normal(0, 0.5, 100_000))
    rows = mids(walk)
    artifact = model.fit(part(rows, slice(0, 1000)), ORIGIN)
    risk, _ = model.batch(model.start(artifact), part(rows, slice(1000, None)), artifact)
    realised = np.var(walk[1010:] - walk[1000:-10])
    assert risk.value.mean() == pytest.approx(realised, rel=0.05)

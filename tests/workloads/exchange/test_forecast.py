"""The filter against brute force, against frequencies, and against other forecasts."""

import itertools
import math

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view
from sklearn.linear_model import LogisticRegression

from workloads.exchange.forecast import (
    CHOPPY,
    DriftModel,
    Observations,
    best_accuracy,
    filtered,
    forecast_at,
    move_probabilities,
    outcomes,
    simulated_path,
)
from workloads.exchange.simulator import Simulator, SimulatorConfig

MODEL = DriftModel(
    transition=((0.7, 0.2, 0.1), (0.25, 0.5, 0.25), (0.05, 0.3, 0.65)),
    moves=((0.6, 0.3, 0.1), (0.2, 0.6, 0.2), (0.1, 0.2, 0.7)),
    bid_share=(0.2, 0.5, 0.7),
)
TWO = DriftModel(
    transition=((0.8, 0.2), (0.4, 0.6)), moves=((0.5, 0.3, 0.2), (0.1, 0.3, 0.6)), bid_share=(0.3, 0.6)
)
MODELS = pytest.mark.parametrize("model", [TWO, MODEL, DriftModel()], ids=["2", "3", "4"])
"""By number of states."""
SHOWN = Observations(np.array([-1, 0, 1, 1, 0]), np.array([1, 0, 3, 2, 0]), np.array([4, 0, 3, 5, 1]))
HORIZON = 12
SECOND = 10**9


def likelihood(model, state, move, bids, adds):
    share = model.bid_share[state]
    return model.moves[state][move + 1] * math.comb(adds, bids) * share**bids * (1 - share) ** (adds - bids)


@MODELS
def test_the_filter_is_the_conditional_distribution_over_all_hidden_paths(model):
    for steps in range(1, 6):
        weight = np.zeros(model.states)
        for path in itertools.product(range(model.states), repeat=steps):
            p = model.stationary_S[path[0]]
            for a, b in itertools.pairwise(path):
                p *= model.transition[a][b]
            for t, state in enumerate(path):
                p *= likelihood(model, state, *(int(column[t]) for column in SHOWN))
            weight[path[-1]] += p
        shown = Observations(*(column[:steps] for column in SHOWN))
        assert filtered(shown, model)[-1] == pytest.approx(weight / weight.sum(), rel=1e-12)


@MODELS
def test_move_probabilities_are_the_sum_over_all_futures(model):
    now = np.arange(1.0, 1 + model.states) / sum(range(1, 1 + model.states))
    assert move_probabilities(now[None], model, 3)[0] == pytest.approx(future(now, model, 3), rel=1e-12)


def future(now, model, horizon):
    """P(down, flat, up) by summing over every path of states and moves."""
    result = np.zeros(3)
    for states in itertools.product(range(model.states), repeat=1 + horizon):  # now and the steps ahead
        for moves in itertools.product((-1, 0, 1), repeat=horizon):
            p = now[states[0]]
            for (a, b), move in zip(itertools.pairwise(states), moves, strict=True):
                p *= model.transition[a][b] * model.moves[b][move + 1]
            result[np.sign(sum(moves)) + 1] += p
    return result


@MODELS
def test_the_chain_starts_in_its_long_run_distribution(model):
    assert model.stationary_S @ np.array(model.transition) == pytest.approx(model.stationary_S)
    assert model.stationary_S.sum() == pytest.approx(1)


STEP = 250
STARTS = 10_000 + STEP * np.arange(5)


def at(ts, shown=SHOWN, horizon=2):
    return forecast_at(shown, MODEL, STARTS, STEP, np.array([ts]), horizon)[0]


def test_a_decision_at_a_steps_end_knows_that_step_and_one_before_it_does_not():
    states = filtered(SHOWN, MODEL)
    for k, end in enumerate(STARTS + STEP):
        assert at(end) == pytest.approx(future(states[k], MODEL, 2))
        if k:
            assert at(end - 1) == pytest.approx(future(states[k - 1], MODEL, 2))


def test_before_the_first_step_has_ended_the_long_run_is_all_that_is_known():
    for ts in (0, STARTS[0], STARTS[0] + STEP - 1):
        assert at(ts) == pytest.approx(future(MODEL.stationary_S, MODEL, 2))


def test_what_happens_after_a_decision_changes_no_forecast():
    for k in range(5):
        other = Observations(
            *(np.r_[column[:k], (1, 2, 2)[i] + 0 * column[k:]] for i, column in enumerate(SHOWN))
        )
        for ts in (STARTS[k], STARTS[k] + STEP - 1):
            assert (at(ts, other) == at(ts)).all()
        assert (at(STARTS[k] + STEP, other) != at(STARTS[k] + STEP)).any()


def test_decisions_come_in_any_order_and_none_is_an_empty_table():
    ends = STARTS + STEP
    forward = forecast_at(SHOWN, MODEL, STARTS, STEP, ends, 3)
    assert (forecast_at(SHOWN, MODEL, STARTS, STEP, ends[::-1], 3) == forward[::-1]).all()
    assert forecast_at(SHOWN, MODEL, STARTS, STEP, ends[:0], 3).shape == (0, 3)


def test_a_decision_after_the_session_and_steps_with_holes_are_refused():
    with pytest.raises(ValueError, match="after the last step"):
        at(STARTS[-1] + STEP + 1)
    with pytest.raises(ValueError, match="ts_step"):
        forecast_at(SHOWN, MODEL, STARTS[[0, 1, 2, 4, 4]], STEP, STARTS, 1)


def test_an_outcome_is_the_sign_of_the_moves_that_follow():
    assert outcomes(np.array([1, 1, -1, -1, -1, 0, 1]), 2).tolist() == [0, -1, -1, -1, 1]


@pytest.fixture(scope="module")
def path():
    return simulated_path(DriftModel(), 1_000_000, np.array([3, 0, 5, 2, 12, 1, 1]), seed=5)


def test_the_filter_of_a_long_path_is_calibrated(path):
    states, shown = path
    chance = filtered(shown, DriftModel())
    for state in range(4):
        assert_calibrated(chance[:, state], states == state, least=15_000)


def test_the_forecast_of_a_simulated_market_is_calibrated(market):
    for shown in market:
        truth = outcomes(shown.moves, HORIZON)
        chance = move_probabilities(filtered(shown, DriftModel()), DriftModel(), HORIZON)[: len(truth)]
        for outcome in (-1, 0, 1):
            assert_calibrated(chance[:, outcome + 1], truth == outcome, tolerance=0.08)


def assert_calibrated(chance, happened, tolerance=0.02, least=3_000):
    """In each bin of enough forecasts, what was forecast with probability p happened in a share p of them."""
    bins = np.digitize(chance, np.linspace(0, 1, 11))
    for k in np.unique(bins):
        inside = bins == k
        if inside.sum() > least:
            assert happened[inside].mean() == pytest.approx(chance[inside].mean(), abs=tolerance)


@pytest.fixture(scope="module")
def truth():
    """A long, quiet session."""
    config = SimulatorConfig(
        seed=11, duration_ns=7_500 * SECOND, snapshot_interval_ns=0, intensity=3.0, burstiness=3.0
    )
    simulator = Simulator(config)
    for _ in simulator.blocks():
        pass
    return simulator.truth()


@pytest.fixture(scope="module")
def market(truth):
    """Observations of each of its instruments."""
    return [truth.observations(i) for i in range(len(truth.instrument_id))]


def test_the_forecast_at_a_grid_time_is_about_the_mid_from_then_on(truth):
    """The mid of the simulator, looked up by time: at ``ts`` and a horizon later."""
    ends = truth.ts_step + SECOND // 4
    decisions = ends[500:-HORIZON:7]
    later = np.searchsorted(ends, decisions + HORIZON * SECOND // 4)
    for i in range(len(truth.instrument_id)):
        moved = np.sign(truth.mid[later, i] - truth.mid[np.searchsorted(ends, decisions), i])
        chance = forecast_at(
            truth.observations(i), DriftModel(), truth.ts_step, SECOND // 4, decisions, HORIZON
        )
        hits = (chance.argmax(axis=1) - 1 == moved).mean()
        expected = best_accuracy(truth.observations(i), DriftModel(), HORIZON)
        assert hits == pytest.approx(expected.filter, abs=3 * expected.standard_error)
        delayed = forecast_at(
            truth.observations(i), DriftModel(), truth.ts_step, SECOND // 4, decisions - 2 * SECOND, HORIZON
        )
        assert hits > (delayed.argmax(axis=1) - 1 == moved).mean() + 0.02


def test_no_other_forecast_of_the_simulated_market_beats_the_filter(market):
    """Six rivals; a linear one is even fitted on the very data that it is judged on."""
    hits, rivals = [], []
    for shown in market:
        truth = outcomes(shown.moves, HORIZON)
        chance = move_probabilities(filtered(shown, DriftModel()), DriftModel(), HORIZON)[: len(truth)]
        hits.append((chance.argmax(axis=1) - 1 == truth).mean())
        moves = np.asarray(shown.moves, float)
        recent = {w: np.convolve(moves, np.ones(w))[: len(truth)] for w in (1, 5, 20, 60)}
        imbalance = np.convolve(2.0 * shown.bid_adds - shown.adds, np.ones(20))[: len(truth)]
        forecasts = [
            np.zeros(len(truth)),
            *(np.sign(r) for r in recent.values()),
            linear(truth, imbalance, recent),
        ]
        rivals.append([(forecast == truth).mean() for forecast in forecasts])
    assert np.mean(hits) > np.mean(rivals, axis=0).max()
    assert np.mean(hits) > np.mean(rivals, axis=0)[0] + 0.05


def linear(truth, imbalance, recent):
    """Least squares on one indicator per outcome: the most probable of them."""
    features = np.column_stack(
        [np.ones(len(truth)), imbalance, *recent.values(), *map(np.abs, recent.values())]
    )
    target = (truth[:, None] == np.array([-1, 0, 1])).astype(float)
    weights, *_ = np.linalg.lstsq(features, target, rcond=None)
    return (features @ weights).argmax(axis=1) - 1


def test_the_realised_accuracy_agrees_with_the_long_run_of_the_chain(market):
    adds = market[0].adds
    _, shown = simulated_path(DriftModel(), 400_000, adds, seed=1)
    long_run = best_accuracy(shown, DriftModel(), HORIZON)
    assert long_run.filter == pytest.approx(long_run.expected, abs=4 * long_run.standard_error)
    for instrument in market:
        realised = best_accuracy(instrument, DriftModel(), HORIZON)
        error = math.hypot(realised.standard_error, long_run.standard_error)
        assert realised.filter == pytest.approx(long_run.filter, abs=4 * error)
        assert realised.filter == pytest.approx(realised.expected, abs=4 * realised.standard_error)


def test_a_linear_model_on_the_raw_history_stays_far_below_the_filter_because_of_choppy_markets():
    """By horizon: `make bench BENCH=forecast`. Without its choppy state the market is nearly linear."""
    assert shortfall(DriftModel()) > 0.06
    assert shortfall(without_choppy(DriftModel())) < 0.04


def without_choppy(model):
    rows = np.delete(np.delete(np.array(model.transition), CHOPPY, 0), CHOPPY, 1)
    rows /= rows.sum(axis=1, keepdims=True)
    kept = tuple(map(tuple, rows.tolist()))
    return DriftModel(kept, model.moves[:CHOPPY], model.bid_share[:CHOPPY])


def shortfall(model, horizon=10, lags=64):
    """How much more the filter hits than a logistic regression on the last steps, on a path's second half."""
    _, shown = simulated_path(model, 100_000, np.array([5, 2, 9, 4]), seed=3)
    truth = outcomes(shown.moves, horizon)[lags - 1 :] + 1
    columns = (shown.moves, 2 * shown.bid_adds - shown.adds)
    windows = [sliding_window_view(column, lags)[: len(truth)] for column in columns]
    known = np.concatenate(windows, axis=1, dtype=np.float32)
    half = len(truth) // 2
    linear = LogisticRegression(max_iter=200).fit(known[: half - horizon], truth[: half - horizon])
    best = move_probabilities(filtered(shown, model)[lags - 1 :], model, horizon)[: len(truth)]
    later = truth[half:]
    return (best[half:].argmax(axis=1) == later).mean() - (linear.predict(known[half:]) == later).mean()


def test_the_side_of_added_orders_improves_the_forecast():
    _, shown = simulated_path(DriftModel(), 200_000, np.array([10]), seed=2)
    blind = Observations(shown.moves, np.zeros_like(shown.adds), np.zeros_like(shown.adds))
    assert (
        best_accuracy(shown, DriftModel(), HORIZON).filter
        > best_accuracy(blind, DriftModel(), HORIZON).filter + 0.01
    )


@pytest.mark.parametrize(
    "change",
    [
        {"transition": ((1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 0.5))},
        {"transition": ((1.0,),)},
        {"transition": ((0.9, 0.1, 0, 0), (0.1, 0.9, 0, 0), (0, 0, 0.9, 0.1), (0, 0, 0.1, 0.9))},
        {"transition": ((0.5, 0.5),) * 4},
        {"moves": ((1, 0),) * 4},
        {"moves": ((0.2, 0.6, 0.2),) * 3},
        {"bid_share": (0.0, 0.5, 0.5, 1.0)},
        {"bid_share": (0.4, 0.5, 0.6)},
    ],
)
def test_a_model_that_is_no_distribution_is_refused_by_name(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        DriftModel(**change)


def test_a_move_of_two_ticks_is_refused():
    with pytest.raises(ValueError, match="tick"):
        filtered(Observations(np.array([2]), np.array([0]), np.array([0])), MODEL)


def test_a_session_too_short_to_judge_is_refused():
    with pytest.raises(ValueError, match="lengthen"):
        best_accuracy(SHOWN, MODEL, 2)

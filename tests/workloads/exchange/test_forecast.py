"""The filter against brute force, against frequencies, and against other forecasts."""

import itertools
import math

import numpy as np
import pytest

from workloads.exchange.forecast import (
    DriftModel,
    Observations,
    best_accuracy,
    filtered,
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
SHOWN = Observations(np.array([-1, 0, 1, 1, 0]), np.array([1, 0, 3, 2, 0]), np.array([4, 0, 3, 5, 1]))
HORIZON = 12
SECOND = 10**9


def likelihood(model, state, move, bids, adds):
    share = model.bid_share[state]
    return model.moves[state][move + 1] * math.comb(adds, bids) * share**bids * (1 - share) ** (adds - bids)


def test_the_filter_is_the_conditional_distribution_over_all_hidden_paths():
    for steps in range(1, 6):
        weight = np.zeros(3)
        for path in itertools.product(range(3), repeat=steps):
            p = MODEL.stationary_S[path[0]]
            for a, b in itertools.pairwise(path):
                p *= MODEL.transition[a][b]
            for t, state in enumerate(path):
                p *= likelihood(MODEL, state, *(int(column[t]) for column in SHOWN))
            weight[path[-1]] += p
        shown = Observations(*(column[:steps] for column in SHOWN))
        assert filtered(shown, MODEL)[-1] == pytest.approx(weight / weight.sum(), rel=1e-12)


def test_move_probabilities_are_the_sum_over_all_futures():
    now = np.array([0.2, 0.3, 0.5])
    expected = np.zeros(3)
    for states in itertools.product(range(3), repeat=4):  # now and three steps ahead
        for moves in itertools.product((-1, 0, 1), repeat=3):
            p = now[states[0]]
            for (a, b), move in zip(itertools.pairwise(states), moves, strict=True):
                p *= MODEL.transition[a][b] * MODEL.moves[b][move + 1]
            expected[np.sign(sum(moves)) + 1] += p
    assert move_probabilities(now[None], MODEL, 3)[0] == pytest.approx(expected, rel=1e-12)


def test_the_chain_starts_in_its_long_run_distribution():
    assert MODEL.stationary_S @ np.array(MODEL.transition) == pytest.approx(MODEL.stationary_S)
    assert MODEL.stationary_S.sum() == pytest.approx(1)


def test_an_outcome_is_the_sign_of_the_moves_that_follow():
    assert outcomes(np.array([1, 1, -1, -1, -1, 0, 1]), 2).tolist() == [0, -1, -1, -1, 1]


@pytest.fixture(scope="module")
def path():
    return simulated_path(DriftModel(), 200_000, np.array([3, 0, 5, 2, 12, 1, 1]), seed=5)


def test_the_filter_of_a_long_path_is_calibrated(path):
    states, shown = path
    chance = filtered(shown, DriftModel())
    for state in range(3):
        assert_calibrated(chance[:, state], states == state)


def test_the_forecast_of_a_simulated_market_is_calibrated(market):
    for shown in market:
        truth = outcomes(shown.moves, HORIZON)
        chance = move_probabilities(filtered(shown, DriftModel()), DriftModel(), HORIZON)[: len(truth)]
        for outcome in (-1, 0, 1):
            assert_calibrated(chance[:, outcome + 1], truth == outcome, tolerance=0.08)


def assert_calibrated(chance, happened, tolerance=0.02):
    """In each bin of enough forecasts, what was forecast with probability p happened in a share p of them."""
    bins = np.digitize(chance, np.linspace(0, 1, 11))
    for k in np.unique(bins):
        inside = bins == k
        if inside.sum() > 3_000:
            assert happened[inside].mean() == pytest.approx(chance[inside].mean(), abs=tolerance)


@pytest.fixture(scope="module")
def market():
    """Observations of each instrument of a long, quiet session."""
    config = SimulatorConfig(
        seed=11, duration_ns=7_500 * SECOND, snapshot_interval_ns=0, intensity=3.0, burstiness=3.0
    )
    simulator = Simulator(config)
    for _ in simulator.blocks():
        pass
    truth = simulator.truth()
    return [truth.observations(i) for i in range(len(truth.instrument_id))]


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
        {"transition": ((1, 0, 0), (0, 1, 0), (0, 0, 0.5))},
        {"moves": ((1, 0),) * 3},
        {"bid_share": (0.0, 0.5, 1.0)},
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

"""Majority and logistic regression, and how fitted models are stored."""

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_limits

from workloads.training.baselines import logistic, majority
from workloads.training.checkpoint import pack
from workloads.training.errors import StateError
from workloads.training.forecasters import LinearForecaster, VitForecaster, linear_inputs, load_model
from workloads.training.loop import Samples
from workloads.training.samples import MOST, STEPS, Scaling
from workloads.training.vit import Vit, VitShape

WINDOW, F = 8, 30
SCALING = Scaling(np.zeros(F, np.float32), np.ones(F, np.float32))


def samples(label_of, n=3000):
    draw = np.random.default_rng(1)
    inputs = draw.normal(size=(n, F)).astype(np.float32)
    label = label_of(inputs, draw).astype(np.int8)
    return Samples(inputs, label, np.arange(WINDOW, 2000), np.arange(2000, n))


def lagged(inputs, draw):
    """Down, flat or up by the move three steps ago."""
    return np.sign(np.round(np.roll(inputs[:, -len(STEPS)], 3))) + 1


def test_majority_says_the_frequencies_of_training_with_one_more_of_each():
    given = samples(lambda inputs, draw: np.where(np.arange(len(inputs)) < 2000, 2, 0))
    forecast = majority(given, SCALING).probabilities(given.inputs_NF, np.array([2500]))
    assert forecast == pytest.approx(np.array([[1, 1, 1993]]) / 1995)


def test_logistic_regression_finds_a_linear_lag():
    given = samples(lagged)
    model = logistic(given, SCALING, WINDOW)
    forecast = model.probabilities(given.inputs_NF, given.validation)
    assert (forecast.argmax(axis=1) == given.label_N[given.validation]).mean() > 0.85
    assert np.allclose(forecast.sum(axis=1), 1)
    up_less_down = model.coefficients_MG[2] - model.coefficients_MG[0]
    assert np.abs(up_less_down).argmax() == (WINDOW - 4) * len(STEPS), "the move of three steps ago"


@pytest.mark.parametrize("present", [(0, 1), (0, 2), (1, 2)])
def test_an_outcome_that_training_lacks_gets_next_to_no_probability(present):
    low, high = present
    given = samples(lambda inputs, draw: np.where(lagged(inputs, draw) == 2, high, low))
    forecast = logistic(given, SCALING, WINDOW).probabilities(given.inputs_NF, given.validation)
    assert set(forecast.argmax(axis=1)) == {low, high}
    assert (forecast.argmax(axis=1) == given.label_N[given.validation]).mean() > 0.85
    assert forecast[:, ({0, 1, 2} - {low, high}).pop()].max() < 1e-6


def test_one_outcome_alone_in_training_is_always_forecast():
    given = samples(lambda inputs, draw: np.ones(len(inputs)))
    forecast = logistic(given, SCALING, WINDOW).probabilities(given.inputs_NF, given.validation)
    assert (forecast.argmax(axis=1) == 1).all()


def test_the_linear_inputs_are_lags_means_and_the_newest_frame():
    inputs = np.random.default_rng(1).normal(size=(20, F)).astype(np.float32)
    found = linear_inputs(inputs, np.array([15]), WINDOW)[0]
    window = inputs[8:16]
    assert np.array_equal(found[:48], window[:, 24:].reshape(-1))
    assert np.allclose(found[48:72], window[:2, :24].mean(axis=0))
    assert np.array_equal(found[-24:], window[-1, :24])


def test_a_stored_model_forecasts_the_same_bits():
    given = samples(lagged)
    torch.manual_seed(1)
    shape = VitShape(WINDOW, frame=24, steps=len(STEPS), width=8, heads=2, hidden=8)
    vit = VitForecaster(Vit(shape), SCALING)
    torch.nn.init.normal_(vit.model.head.weight)
    for model in (vit, logistic(given, SCALING, WINDOW), majority(given, SCALING)):
        again = load_model(model.parameters())
        assert again.parameters() == model.parameters()
        expected = model.probabilities(given.inputs_NF, given.validation)
        assert np.array_equal(again.probabilities(given.inputs_NF, given.validation), expected)
        assert again.name == model.name


def test_a_forecast_has_the_same_bits_with_any_number_of_threads():
    given = samples(lagged, n=6000)
    wide, window = np.tile(given.inputs_NF, 4), 64
    scaling = Scaling(np.zeros(4 * F, np.float32), np.ones(4 * F, np.float32))
    inputs = linear_inputs(wide, np.array([window]), window).shape[1]
    draw = np.random.default_rng(1)
    model = LinearForecaster(draw.normal(size=(3, inputs)) / 30, np.zeros(3), window, scaling)
    found = []
    for threads in (1, 2):
        with threadpool_limits(threads):
            found.append(model.probabilities(wide, np.arange(window, 6000)))
    assert np.array_equal(*found)


def test_bytes_of_an_unknown_model_are_refused():
    arrays = {"scaling.mean": np.zeros(1), "scaling.deviation": np.ones(1)}
    with pytest.raises(StateError, match="known: vit, logistic, majority"):
        load_model(pack(arrays, {"model": "forest"}))


def test_outliers_are_clipped():
    assert SCALING(np.full((1, F), 1e9, np.float32)).max() == MOST

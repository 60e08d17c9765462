"""The training loop: alike on one process or several, stopped or not."""

import dataclasses

import numpy as np
import pytest
import torch

from workloads.training.errors import NothingToTrainError, StateError
from workloads.training.loop import (
    Alone,
    Epoch,
    Learner,
    Plan,
    Samples,
    best_epoch,
    log_probabilities,
    trained,
)
from workloads.training.samples import STEPS, mirrored
from workloads.training.vit import VitShape

SHAPE = VitShape(window=8, frame=24, steps=len(STEPS), patch=4, width=8, depth=1, heads=2, hidden=8)
PLAN = Plan(SHAPE, levels=3, seed=3, epochs=3, batch=32, stride=1, learning_rate=1e-2, weight_decay=0.01)


class Half:
    """One of two workers that never hear of each other."""

    size = 2

    def __init__(self, rank):
        self.rank = rank

    def total(self, values):
        return values


def samples(n=600):
    draw = np.random.default_rng(1)
    inputs = draw.normal(size=(n, 30)).astype(np.float32)
    label = (np.sign(np.round(inputs[:, -6])) + 1).astype(np.int8)  # the newest move says it all
    return Samples(inputs, label, np.arange(8, 400), np.arange(400, n))


def learner(plan=PLAN, workers=None, **identity):
    return Learner(plan, samples(), workers or Alone(), identity)


def finished(start, states=None):
    start.learn(lambda now: None if states is None else states.append(now.state()))
    return start.state()


def test_training_twice_gives_the_same_bits():
    assert finished(learner()) == finished(learner())


@pytest.mark.parametrize("epoch", [0, 1, 2, 3])
def test_training_that_goes_on_from_any_epoch_ends_in_the_same_bits(epoch):
    states = []
    whole = finished(learner(), states)
    resumed = learner()
    resumed.restore(states[epoch])
    assert finished(resumed) == whole


def test_it_learns_what_can_be_learned():
    ended = trained(finished(learner(dataclasses.replace(PLAN, epochs=20))), SHAPE)
    assert ended.curve[0].validation_accuracy < 0.5 < 0.9 < ended.curve[-1].validation_accuracy
    assert [point.epoch for point in ended.curve] == list(range(21))


def test_before_the_first_epoch_the_forecast_is_the_frequencies_of_training():
    start = learner()
    logs = log_probabilities(start.model, start.samples.inputs_NF, np.array([50, 60]))
    counts = np.bincount(start.samples.label_N[start.samples.train], minlength=3) + 1.0
    assert np.allclose(np.exp(logs), counts / counts.sum(), atol=1e-6)


def test_the_parts_of_the_workers_are_the_batch_of_one_alone():
    whole = [set(rows) for rows, _ in learner()._batches(epoch=1)]
    parts = [[set(r) for r, _ in learner(workers=Half(k))._batches(1)] for k in (0, 1)]
    assert [a | b for a, b in zip(*parts, strict=True)] == whole
    assert not any(a & b for a, b in zip(*parts, strict=True))


def test_an_epoch_shows_no_sample_twice_and_another_epoch_another_order():
    first, second = ([r for rows, _ in learner()._batches(k) for r in rows] for k in (0, 1))
    assert len(first) == len(set(first))
    assert first != second


def test_the_mean_of_two_workers_gradients_is_the_gradient_of_the_whole_batch():
    one = learner()
    torch.nn.init.normal_(one.model.head.weight)

    def gradient(rows):
        x_BTF = torch.from_numpy(one.samples.inputs_NF[rows[:, None] + np.arange(-7, 1)])
        label_B = torch.from_numpy(one.samples.label_N[rows].astype(np.int64))
        one.optimizer.zero_grad()
        torch.nn.functional.cross_entropy(one.model(x_BTF), label_B).backward()
        return one.model.embed.weight.grad.clone()

    rows = next(one._batches(0))[0]
    assert torch.allclose(gradient(rows), (gradient(rows[::2]) + gradient(rows[1::2])) / 2, atol=1e-6)


def test_the_best_epoch_is_that_of_the_least_validation_loss_or_else_the_last():
    losses = [1.1, 0.9, 0.8, 0.85]
    assert best_epoch([Epoch(i, None, loss, None) for i, loss in enumerate(losses)]) == 2
    assert best_epoch([Epoch(i, 1.0, None, None) for i in range(3)]) == 2


@pytest.mark.parametrize(
    ("other", "named"),
    [
        (learner(dataclasses.replace(PLAN, seed=4)), "plan"),
        (learner(data_commit="b"), "data_commit"),
        (learner(workers=Half(0)), "workers"),
    ],
)
def test_a_checkpoint_of_another_training_is_refused(other, named):
    state = learner(**({"data_commit": "a"} if named == "data_commit" else {})).state()
    with pytest.raises(StateError, match=named):
        other.restore(state)


def test_the_learning_rate_rises_then_falls_to_nothing():
    start = learner()
    every = start.steps * PLAN.epochs
    rates = [start._learning_rate(step) for step in range(every + 1)]
    assert rates[0] < rates[1] < rates[2] and rates[-1] == pytest.approx(0, abs=1e-9)
    assert max(rates) <= PLAN.learning_rate


def test_few_samples_make_a_smaller_batch_and_too_few_a_clear_error():
    few = dataclasses.replace(samples(), train=np.arange(8, 19))
    assert Learner.check(PLAN, few, 2) == (10, 1)
    with pytest.raises(NothingToTrainError, match="2 workers"):
        Learner.check(PLAN, dataclasses.replace(few, train=np.arange(8, 9)), 2)


def test_mirrored_samples_have_the_opposite_label():
    inputs = samples().inputs_NF
    assert np.array_equal(np.sign(mirrored(inputs, 3)[:, -6]), -np.sign(inputs[:, -6]))

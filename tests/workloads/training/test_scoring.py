"""Accuracy, log loss, and how sure they are."""

import math

import numpy as np
import pytest

from workloads.training.scoring import (
    accuracy,
    accuracy_interval,
    difference_interval,
    log_loss,
    time_blocks,
)

THREE = np.array([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8], [0.2, 0.6, 0.2], [0.4, 0.3, 0.3]])
TRUTH = np.array([0, 2, 0, 2])


def test_accuracy_counts_the_most_probable_outcome():
    assert accuracy(THREE, TRUTH) == 0.5


def test_log_loss_is_the_mean_of_minus_the_logarithm():
    expected = -(math.log(0.5) + math.log(0.8) + math.log(0.2) + math.log(0.3)) / 4
    assert log_loss(THREE, TRUTH) == pytest.approx(expected, rel=1e-12)


def test_a_certain_error_costs_a_bounded_loss():
    assert log_loss(np.array([[1.0, 0, 0]]), np.array([1])) == pytest.approx(-math.log(1e-6))


def test_of_no_rows_nothing_is_said():
    assert math.isnan(accuracy(THREE[:0], TRUTH[:0])) and math.isnan(log_loss(THREE[:0], TRUTH[:0]))


def test_the_interval_of_equal_blocks_is_students():
    # block means 0, 1/2, 1: mean 1/2, standard error 1/2 / sqrt(3), t(2) = 4.303
    found = accuracy_interval(np.array([0, 0, 0, 1, 1, 1]), np.array([0, 0, 1, 1, 2, 2]))
    half = 4.303 * 0.5 / math.sqrt(3)
    assert found == pytest.approx((0.5, 0.5 - half, 0.5 + half, 3))


def test_one_block_gives_a_mean_and_no_bounds():
    found = accuracy_interval(np.array([1, 0]), np.zeros(2, np.int64))
    assert found.mean == 0.5 and math.isnan(found.low) and math.isnan(found.high)


def test_a_pair_that_fails_together_differs_surely():
    draw = np.random.default_rng(1)
    block = np.arange(2000) // 100
    easy = draw.random(2000) < np.repeat(draw.uniform(0.2, 0.9, 20), 100)
    better = easy | (draw.random(2000) < 0.05)
    paired = difference_interval(better, easy, block)
    alone = accuracy_interval(better, block)
    assert 0 < paired.low < paired.mean < paired.high
    assert paired.high - paired.low < (alone.high - alone.low) / 3


def test_intervals_hold_the_truth_as_often_as_they_say_when_neighbours_depend():
    draw, held = np.random.default_rng(2), 0
    for _ in range(300):
        moving = np.convolve(draw.normal(size=4009), np.ones(10) / math.sqrt(10), mode="valid")
        found = accuracy_interval(moving > 0.2533, np.arange(4000) // 200)  # P = 0.4
        held += found.low <= 0.4 <= found.high
    assert 0.91 <= held / 300 <= 0.985


def test_blocks_are_stretches_of_time_that_instruments_share():
    ts = np.tile(np.arange(0, 1000, 1), 2)
    block = time_blocks(ts, horizon_ns=10, blocks=4)
    assert block.tolist() == (ts // 250).tolist()


def test_a_block_is_never_shorter_than_some_horizons():
    assert time_blocks(np.arange(400), horizon_ns=10).max() == 1
    assert time_blocks(np.arange(399), horizon_ns=10).max() == 0


def test_fewer_blocks_of_the_same_spread_make_a_wider_interval():
    width = []
    for blocks in (2, 4, 10, 20, 40):
        found = accuracy_interval(np.arange(blocks) % 2, np.arange(blocks))
        width.append(found.high - found.low)
    assert width == sorted(width, reverse=True)
    assert width[0] > 10, "two blocks say next to nothing"


def test_intervals_hold_the_truth_where_the_market_keeps_its_state_for_some_horizons():
    draw, held = np.random.default_rng(3), 0
    block = time_blocks(np.arange(1000), horizon_ns=10)
    for _ in range(300):
        state = np.cumsum(draw.random(1000) < 0.02) + 1  # kept for 50 steps in the mean
        share = draw.choice([0.42, 0.58], state[-1] + 1)[state]
        found = accuracy_interval(draw.random(1000) < share, block)
        held += found.low <= 0.5 <= found.high
    assert 0.9 <= held / 300 <= 0.985, "blocks of 5 horizons: 0.83"

"""Ray Train: real workers on a real local Ray; one of them is killed."""

import os
import signal

import numpy as np
import pytest

from workloads.training import ray_backend
from workloads.training.loop import Alone, Learner, Plan, Samples, trained
from workloads.training.samples import STEPS
from workloads.training.vit import VitShape

SHAPE = VitShape(window=16, frame=24, steps=len(STEPS), width=16, depth=2, heads=2, hidden=32)
PLAN = Plan(SHAPE, levels=3, seed=3, epochs=6, batch=32, stride=1, learning_rate=3e-3, weight_decay=0.01)
IDENTITY = {"run": "vit-0", "data_commit": "c0"}


def samples(n=4000):
    draw = np.random.default_rng(1)
    inputs = draw.normal(size=(n, 30)).astype(np.float32)
    label = (np.sign(np.round(inputs[:, -6])) + 1).astype(np.int8)
    return Samples(inputs, label, np.arange(16, 3000), np.arange(3000, n - 1))


pytestmark = pytest.mark.usefixtures("ray_driver")


class Ear:
    """Hears the news, and kills the worker of rank 1 when it hears of an epoch."""

    def __init__(self, kill_at=None):
        self.kill_at, self.pids, self.epochs = kill_at, {}, []

    def __call__(self, news):
        if "pid" in news:
            self.pids[news["rank"]] = news["pid"]
            return
        self.epochs.append(news["epoch"])
        if news["epoch"] == self.kill_at:
            self.kill_at = None
            os.kill(self.pids[1], signal.SIGKILL)


def test_a_killed_worker_changes_no_bit_and_two_workers_train_as_one_does(tmp_path):
    calm, struck = Ear(), Ear(kill_at=2)
    (tmp_path / "calm").mkdir()
    (tmp_path / "struck").mkdir()
    whole, restarts = ray_backend.learn(PLAN, samples(), IDENTITY, 2, tmp_path / "calm", calm)
    assert restarts == 0 and calm.epochs == list(range(7))
    again, restarts = ray_backend.learn(PLAN, samples(), IDENTITY, 2, tmp_path / "struck", struck)
    assert restarts == 1 and struck.epochs[-1] == 6
    assert again == whole

    alone = Learner(PLAN, samples(), Alone(), IDENTITY)
    alone.learn(lambda now: None)
    curve = trained(whole, SHAPE).curve
    assert np.allclose(np.array(alone.curve[1:]), np.array(curve[1:]), rtol=1e-3)

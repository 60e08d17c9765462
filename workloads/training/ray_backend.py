"""Training on several processes with Ray Train: gradients averaged over gloo, a checkpoint an epoch.

A worker that dies takes its group down; Ray starts a new one, which goes on from the last checkpoint and
ends in the same bits (`workloads.training.loop`). What workers have to tell, they append to one file in the
run's folder, a JSON object a line: Ray gives a driver no other ordered way to follow them.
"""

import json
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch
import torch.distributed
from ray.train import Checkpoint, CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from workloads.training.errors import StateError
from workloads.training.loop import Learner, Plan, Samples

STATE = "state.bin"
NEWS = "news.jsonl"
MAX_FAILURES = 2
POLL_S = 0.2
_SETTINGS = {
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "300",  # a loaded machine starts processes slowly
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # no spot nodes here; it logs an error at every start
}

News = dict[str, Any]
"""``{"rank", "pid"}`` when a worker starts; ``{"epoch", "loss", ...}`` of rank 0 after an epoch."""


class Gloo:
    """The workers of one Ray Train group."""

    def __init__(self) -> None:
        self.rank = torch.distributed.get_rank()
        self.size = torch.distributed.get_world_size()

    def wrap(self, model: nn.Module) -> nn.Module:
        """One bucket: the model is small, and one message is faster than several."""
        return DistributedDataParallel(model, static_graph=True, gradient_as_bucket_view=True)

    def total(self, values: list[float]) -> list[float]:
        """Sums over all workers."""
        sums = torch.tensor(values, dtype=torch.float64)
        torch.distributed.all_reduce(sums)
        return [float(value) for value in sums]


def learn(
    plan: Plan,
    samples: Samples,
    identity: dict[str, Any],
    workers: int,
    folder: Path,
    listener: Callable[[News], None],
) -> tuple[bytes, int]:
    """Train on ``workers`` processes; the learner's last state, and how often they were started again.

    Parameters
    ----------
    identity : plain values
        See `Learner`.
    folder : existing folder that all workers reach
        Of this run alone. If an interrupted run left its checkpoints there, this one goes on from them.
    listener
        Told all `News`, from a thread of its own.
    """
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    if not ray.is_initialized():
        ray.init(log_to_driver=False)
    trainer = TorchTrainer(
        _work,
        train_loop_config={
            "plan": plan,
            "samples": ray.put(samples),  # one copy in shared memory
            "identity": identity,
            "news": str(folder / NEWS),
        },
        torch_config=TorchConfig(backend="gloo"),
        scaling_config=ScalingConfig(num_workers=workers),
        run_config=RunConfig(
            name="ray",
            storage_path=str(folder.absolute()),
            failure_config=FailureConfig(max_failures=MAX_FAILURES),
            checkpoint_config=CheckpointConfig(num_to_keep=1),
        ),
    )
    news: list[News] = []

    def hear(item: News) -> None:
        news.append(item)
        listener(item)

    with _following(folder / NEWS, hear):
        result = trainer.fit()
    if result.checkpoint is None:
        raise StateError(f"Ray Train ended without a checkpoint under {folder}; look into its workers' logs")
    with result.checkpoint.as_directory() as where:
        state = (Path(where) / STATE).read_bytes()
    return state, sum(item.get("rank") == 0 for item in news) - 1


def _work(config: dict[str, Any]) -> None:
    """One worker."""
    workers, news = Gloo(), Path(config["news"])
    learner = Learner(config["plan"], ray.get(config["samples"]), workers, config["identity"])
    if (saved := ray.train.get_checkpoint()) is not None:
        with saved.as_directory() as where:
            learner.restore((Path(where) / STATE).read_bytes())
    _tell(news, {"rank": workers.rank, "pid": os.getpid()})

    def report(learner: Learner) -> None:
        last = learner.curve[-1]
        metrics = {"epoch": last.epoch, "loss": last.train_loss, "validation_loss": last.validation_loss}
        if workers.rank:
            ray.train.report(metrics)
            return
        with tempfile.TemporaryDirectory() as made:
            (Path(made) / STATE).write_bytes(learner.state())
            ray.train.report(metrics, Checkpoint.from_directory(made))
        _tell(news, metrics)

    learner.learn(report)


def _tell(news: Path, item: News) -> None:
    with news.open("a") as file:  # one short write to a file opened to append: lines never mix
        file.write(json.dumps(item) + "\n")


@contextmanager
def _following(news: Path, listener: Callable[[News], None]) -> Iterator[None]:
    """Give each line that is appended to a file from now on to ``listener``."""
    news.touch()
    ended = threading.Event()

    def follow() -> None:
        with news.open() as file:
            file.seek(0, os.SEEK_END)
            rest = ""
            while True:
                last = ended.wait(POLL_S)
                *lines, rest = (rest + file.read()).split("\n")
                for line in lines:
                    listener(json.loads(line))
                if last:
                    return

    thread = threading.Thread(target=follow, name="training-news")
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def clear(folder: Path) -> None:
    """Remove the checkpoints of a training that has ended."""
    shutil.rmtree(folder, ignore_errors=True)

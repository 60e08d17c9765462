"""The training loop: one pass over the samples after the other, alike on one process or several.

Every random draw follows from the seed and the epoch, so that a state is the weights, the optimiser's
moments and the number of epochs done, and training that goes on from a saved state ends in the same bits
as training that was never stopped. All workers make the same draw and take their part of each batch; their
gradients are averaged, so that a step is that of the whole batch.
"""

# ruff: noqa: N803, N806, N815
# Axes: B sample of a batch, N row, F inputs, M outcome

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from workloads.training.checkpoint import pack, unpack
from workloads.training.errors import NothingToTrainError, StateError
from workloads.training.samples import Floats32, Ints, mirrored, windows
from workloads.training.vit import OUTCOMES, Vit, VitShape

SCORED_AT_ONCE = 1024
BETAS = (0.9, 0.98)
MOST_GRADIENT = 1.0
"""The gradient's norm is clipped to this."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """All that decides the numbers of a training, but the data."""

    shape: VitShape
    levels: int
    seed: int
    epochs: int
    batch: int
    """Samples of a step, over all workers."""
    stride: int
    """A pass takes one sample in ``stride``, drawn anew each time: neighbours say almost the same."""
    learning_rate: float
    weight_decay: float
    warm_up: float = 0.1
    """Part of all steps."""


@dataclasses.dataclass(frozen=True)
class Samples:
    """Scaled inputs, and which rows are trained and validated on."""

    inputs_NF: Floats32
    label_N: NDArray[np.int8]
    train: Ints
    validation: Ints


class Epoch(NamedTuple):
    """One point of the learning curve: means over all workers' samples; None: of no sample."""

    epoch: int
    train_loss: float | None
    validation_loss: float | None
    validation_accuracy: float | None


class Trained(NamedTuple):
    """What a training came to."""

    model: Vit
    """With the weights of the best epoch."""
    best_epoch: int
    curve: list[Epoch]


class Workers(Protocol):
    """The processes that train together."""

    rank: int
    size: int

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model, with gradients averaged over all workers."""
        ...

    def total(self, values: list[float]) -> list[float]:
        """Sums over all workers."""
        ...


class Alone:
    """This process and no other."""

    rank = 0
    size = 1

    def wrap(self, model: nn.Module) -> nn.Module:
        """As it is."""
        return model

    def total(self, values: list[float]) -> list[float]:
        """As they are."""
        return values


class Learner:
    """Model, optimiser and learning curve of one worker after some epochs."""

    def __init__(self, plan: Plan, samples: Samples, workers: Workers, identity: dict[str, Any]) -> None:
        """``identity``: plain values that must be equal for a saved state to be taken up again."""
        torch.set_num_threads(1)  # sums in one order: equal bits on one CPU type and library versions
        torch.use_deterministic_algorithms(True)
        torch.manual_seed(plan.seed)
        self.plan, self.samples, self.workers = plan, samples, workers
        self.identity = {**identity, "plan": dataclasses.asdict(plan), "workers": workers.size}
        self.batch, self.steps = self.check(plan, samples, workers.size)
        self.model = Vit(plan.shape)
        count = np.bincount(samples.label_N[samples.train], minlength=OUTCOMES) + 1.0
        with torch.no_grad():  # before the first epoch it forecasts the frequencies
            self.model.head.bias.copy_(torch.from_numpy(np.log(count / count.sum())))
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=0.0, betas=BETAS, weight_decay=plan.weight_decay, fused=True
        )
        self.curve: list[Epoch] = []
        self.best: dict[str, NDArray[Any]] = {}

    @staticmethod
    def check(plan: Plan, samples: Samples, workers: int) -> tuple[int, int]:
        """Samples of a batch, and batches of an epoch; fewer samples than planned make smaller batches.

        Raises
        ------
        NothingToTrainError
            If there is less than one sample a worker.
        """
        taken = len(samples.train) // plan.stride
        batch = min(plan.batch, taken) // workers * workers
        if not batch:
            raise NothingToTrainError(
                f"{len(samples.train)} training samples, one in {plan.stride} taken, are too few for "
                f"{workers} workers; record a longer session"
            )
        return batch, taken // batch

    @property
    def done(self) -> int:
        """Epochs."""
        return len(self.curve) - 1

    def learn(self, on_epoch: Callable[["Learner"], None]) -> None:
        """Go on until all epochs are done; ``on_epoch`` is called after each, and before the first."""
        module = self.workers.wrap(self.model)
        if not self.curve:
            self._note(None)
            on_epoch(self)
        while self.done < self.plan.epochs:
            self._note(self._pass(module, self.done))
            on_epoch(self)

    def state(self) -> bytes:
        """All that `restore` needs."""
        arrays = {f"model.{name}": value for name, value in _weights(self.model).items()}
        arrays |= {f"best.{name}": value for name, value in self.best.items()}
        for place, moments in self.optimizer.state_dict()["state"].items():
            arrays |= {f"optimizer.{place}.{name}": value.numpy() for name, value in moments.items()}
        return pack(arrays, {"identity": self.identity, "curve": self.curve})

    def restore(self, data: bytes) -> None:
        """Become the learner that made ``data``.

        Raises
        ------
        StateError
            If it trained something else: another plan, data commit, seed or number of workers.
        """
        arrays, about = unpack(data)
        if about["identity"] != self.identity:
            differ = sorted(k for k, v in self.identity.items() if about["identity"].get(k) != v)
            raise StateError(
                f"the checkpoint is of another training (it differs in {', '.join(differ)}); "
                "train in an empty checkpoint folder"
            )
        groups: dict[str, dict[str, NDArray[Any]]] = {"model": {}, "best": {}, "optimizer": {}}
        for name, value in arrays.items():
            kind, _, rest = name.partition(".")
            groups[kind][rest] = value
        load_weights(self.model, groups["model"])
        self.best = groups["best"]
        moments: dict[int, dict[str, torch.Tensor]] = {}
        for name, value in groups["optimizer"].items():
            place, _, kind = name.partition(".")
            moments.setdefault(int(place), {})[kind] = torch.from_numpy(value)
        saved = {"state": moments, "param_groups": self.optimizer.state_dict()["param_groups"]}
        self.optimizer.load_state_dict(saved)
        self.curve = [Epoch(*epoch) for epoch in about["curve"]]

    def _pass(self, module: nn.Module, epoch: int) -> float:
        """One epoch; returns the mean loss."""
        self.model.train()
        total = 0.0
        for step, (rows_B, mirror) in enumerate(self._batches(epoch)):
            x_BTF = windows(self.samples.inputs_NF, rows_B, self.plan.shape.window)
            label_B = self.samples.label_N[rows_B].astype(np.int64)
            x_BTF[mirror] = mirrored(x_BTF[mirror], self.plan.levels)
            label_B[mirror] = 2 - label_B[mirror]
            for group in self.optimizer.param_groups:
                group["lr"] = self._learning_rate(epoch * self.steps + step)
            loss = functional.cross_entropy(module(torch.from_numpy(x_BTF)), torch.from_numpy(label_B))
            self.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(self.model.parameters(), MOST_GRADIENT)
            self.optimizer.step()
            total += float(loss.detach())
        return self.workers.total([total])[0] / (self.steps * self.workers.size)

    def _batches(self, epoch: int) -> Iterator[tuple[Ints, NDArray[np.bool_]]]:
        """This worker's rows of each batch, and which of them are shown as their mirror image."""
        draw = np.random.default_rng([self.plan.seed, epoch])
        drawn = draw.permutation(len(self.samples.train))[: self.steps * self.batch]
        mirror = draw.random(len(drawn)) < 0.5
        for start in range(0, len(drawn), self.batch):
            mine = slice(start + self.workers.rank, start + self.batch, self.workers.size)
            yield self.samples.train[drawn[mine]], mirror[mine]

    def _learning_rate(self, step: int) -> float:
        """Rises linearly, then falls to zero along half a cosine."""
        every = self.steps * self.plan.epochs
        rising = max(1.0, self.plan.warm_up * every)
        falling = 0.5 * (1 + math.cos(math.pi * step / every))
        return self.plan.learning_rate * min(1.0, (step + 1) / rising) * falling

    def _note(self, train_loss: float | None) -> None:
        """Validate, and remember weights that are better than all before."""
        rows = self.samples.validation[self.workers.rank :: self.workers.size]
        log_BM = log_probabilities(self.model, self.samples.inputs_NF, rows)
        label_B = self.samples.label_N[rows].astype(np.int64)
        loss = -float(log_BM[np.arange(len(rows)), label_B].sum(dtype=np.float64))
        hits = float((log_BM.argmax(axis=1) == label_B).sum())
        loss, hits, count = self.workers.total([loss, hits, float(len(rows))])
        seen = (loss / count, hits / count) if count else (None, None)
        self.curve.append(Epoch(self.done + 1, train_loss, *seen))
        if best_epoch(self.curve) == self.done:
            self.best = _weights(self.model)


def trained(state: bytes, shape: VitShape) -> Trained:
    """What a `Learner.state` came to."""
    arrays, about = unpack(state)
    model = Vit(shape)
    best = {k.removeprefix("best."): v for k, v in arrays.items() if k.startswith("best.")}
    load_weights(model, best)
    curve = [Epoch(*epoch) for epoch in about["curve"]]
    return Trained(model, best_epoch(curve), curve)


def best_epoch(curve: list[Epoch]) -> int:
    """The epoch with the least validation loss; the last one where nothing was validated."""
    losses = [math.inf if e.validation_loss is None else e.validation_loss for e in curve]
    return int(np.argmin(losses)) if min(losses) < math.inf else len(curve) - 1


def log_probabilities(model: Vit, inputs_NF: Floats32, rows: Ints) -> Floats32:
    """[len(rows), 3] of scaled inputs, a few windows at a time."""
    model.eval()
    out = np.empty((len(rows), 3), np.float32)
    with torch.inference_mode():
        for start in range(0, len(rows), SCORED_AT_ONCE):
            part = slice(start, start + SCORED_AT_ONCE)
            x_BTF = windows(inputs_NF, rows[part], model.shape.window)
            out[part] = model(torch.from_numpy(x_BTF)).log_softmax(dim=1).numpy()
    return out


def load_weights(model: nn.Module, weights: dict[str, NDArray[Any]]) -> None:
    """Set all parameters by name."""
    try:
        model.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()})
    except RuntimeError as error:
        raise StateError(f"the weights do not fit the model: {' '.join(str(error).split())}") from error


def _weights(model: nn.Module) -> dict[str, NDArray[Any]]:
    return {name: value.detach().numpy().copy() for name, value in model.state_dict().items()}

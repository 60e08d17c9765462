"""Fitted models: how each turns windows into probabilities, and how it is stored and loaded."""

# ruff: noqa: N803, N806, N815
# Axes: N row, B sample, T time, F inputs of a row, G inputs of the linear model, M outcome

import dataclasses
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # ships no types

from workloads.training.checkpoint import pack, unpack
from workloads.training.errors import StateError
from workloads.training.loop import load_weights, log_probabilities
from workloads.training.samples import STEPS, Floats32, Ints, Scaling, windows
from workloads.training.vit import Vit, VitShape

Floats = NDArray[np.float64]

BLOCKS = 4
"""The linear model sees the mean frame of each of so many parts of the window, and the newest frame."""
_AT_ONCE = 1024


class Forecaster(Protocol):
    """A fitted model of the next move."""

    @property
    def name(self) -> str:
        """``vit``, ``logistic``, ``majority``."""
        ...

    @property
    def scaling(self) -> Scaling:
        """Of its inputs."""
        ...

    def probabilities(self, scaled_NF: Floats32, rows: Ints) -> Floats:
        """[len(rows), 3]: down, flat, up. ``scaled_NF``: what `scaling` makes of a panel's inputs."""
        ...

    def parameters(self) -> bytes:
        """What `load_model` makes an equal forecaster of."""
        ...


@dataclasses.dataclass(frozen=True)
class VitForecaster:
    """The vision transformer."""

    model: Vit
    scaling: Scaling
    name: str = "vit"

    def probabilities(self, scaled_NF: Floats32, rows: Ints) -> Floats:
        """See `Forecaster`."""
        return _normalised(np.exp(log_probabilities(self.model, scaled_NF, rows).astype(np.float64)))

    def parameters(self) -> bytes:
        """See `Forecaster`."""
        weights = {f"weight.{k}": v.detach().numpy() for k, v in self.model.state_dict().items()}
        about = {"model": self.name, "shape": dataclasses.asdict(self.model.shape)}
        return pack(weights | _arrays(self.scaling), about)


@dataclasses.dataclass(frozen=True)
class LinearForecaster:
    """Multinomial logistic regression on `linear_inputs`."""

    coefficients_MG: Floats
    intercept_M: Floats
    window: int
    scaling: Scaling
    name: str = "logistic"

    def probabilities(self, scaled_NF: Floats32, rows: Ints) -> Floats:
        """See `Forecaster`."""
        out = np.empty((len(rows), 3))
        with threadpool_limits(1):  # else the sums' order depends on how many threads BLAS has
            for start in range(0, len(rows), _AT_ONCE):
                part = slice(start, start + _AT_ONCE)
                x_BG = linear_inputs(scaled_NF, rows[part], self.window)
                logits = x_BG @ self.coefficients_MG.T + self.intercept_M
                out[part] = np.exp(logits - logits.max(axis=1, keepdims=True))
        return _normalised(out)

    def parameters(self) -> bytes:
        """See `Forecaster`."""
        arrays = {"coefficients": self.coefficients_MG, "intercept": self.intercept_M}
        return pack(arrays | _arrays(self.scaling), {"model": self.name, "window": self.window})


@dataclasses.dataclass(frozen=True)
class MajorityForecaster:
    """The outcomes' frequencies in training, whatever the window shows."""

    frequency_M: Floats
    scaling: Scaling
    name: str = "majority"

    def probabilities(self, scaled_NF: Floats32, rows: Ints) -> Floats:
        """See `Forecaster`."""
        return np.tile(self.frequency_M, (len(rows), 1))

    def parameters(self) -> bytes:
        """See `Forecaster`."""
        return pack({"frequency": self.frequency_M} | _arrays(self.scaling), {"model": self.name})


def load_model(data: bytes) -> Forecaster:
    """The forecaster whose ``parameters()`` these bytes are; runs no code from them."""
    arrays, about = unpack(data)
    try:
        scaling = Scaling(arrays["scaling.mean"], arrays["scaling.deviation"])
        if about["model"] == "vit":
            model = Vit(VitShape(**about["shape"]))
            weights = {k.partition(".")[2]: v for k, v in arrays.items() if k.startswith("weight.")}
            load_weights(model, weights)
            return VitForecaster(model, scaling)
        if about["model"] == "logistic":
            return LinearForecaster(arrays["coefficients"], arrays["intercept"], about["window"], scaling)
        if about["model"] == "majority":
            return MajorityForecaster(arrays["frequency"], scaling)
    except (KeyError, TypeError) as error:
        raise StateError(f"the stored model lacks {error}; train again") from error
    raise StateError(f"unknown model {about['model']!r}; known: vit, logistic, majority")


def linear_inputs(scaled_NF: Floats32, rows: Ints, window: int) -> Floats32:
    """[B, G]: `STEPS` at every lag, the mean frame of each part of the window, the newest frame.

    Frames at every lag were tried too: twelve times the inputs, and a worse forecast (docs/training.md).
    """
    parts = min(BLOCKS, window)
    frame = scaled_NF.shape[1] - len(STEPS)
    out = np.empty((len(rows), window * len(STEPS) + (parts + 1) * frame), np.float32)
    for start in range(0, len(rows), _AT_ONCE):
        x_BTF = windows(scaled_NF, rows[start : start + _AT_ONCE], window)
        steps, frames = x_BTF[:, :, frame:], x_BTF[:, :, :frame]
        pieces = [steps.reshape(len(steps), -1)]
        pieces += [piece.mean(axis=1) for piece in np.array_split(frames, parts, axis=1)]
        np.concatenate([*pieces, frames[:, -1]], axis=1, out=out[start : start + _AT_ONCE])
    return out


def _normalised(weights: Floats) -> Floats:
    return weights / weights.sum(axis=1, keepdims=True)  # type: ignore[no-any-return]


def _arrays(scaling: Scaling) -> dict[str, NDArray[Any]]:
    return {"scaling.mean": scaling.mean_F, "scaling.deviation": scaling.deviation_F}

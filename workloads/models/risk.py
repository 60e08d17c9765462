"""How far a lot's value may move: exponentially weighted variance of changes of the mid.

``v_t = decay v_(t-1) + (1 - decay) r_(t-1)^2``: row t uses changes up to t - 1. J.P. Morgan/Reuters (1996),
RiskMetrics Technical Document, equation 5.3; Hull, Risk Management and Financial Institutions, example 5.2.
"""

# Axes: T rows

from dataclasses import dataclass

import numpy as np

from workloads.models.protocol import (
    Artifact,
    EmptyWindowError,
    Flags,
    Floats,
    GridRows,
    Ints,
    ModelError,
    Origin,
    Place,
    Risk,
    Terms,
    Unit,
    check_finite,
    check_known,
    check_not_negative,
    check_positive,
    config_hash,
    continues,
)
from workloads.models.smoothing import smoothed


def ewma_variance(changes: Floats, decay: float, seed: float) -> Floats:
    """Variance forecast for each change, made from the changes before it, and for the next one.

    Parameters
    ----------
    changes : array of n
        Returns or changes of price, equally spaced in time, any unit; their mean is taken as 0.
    decay : float
        Weight of the forecast before, 0 < decay < 1.
    seed : float
        The first forecast, unit^2. It must come from earlier data, else row 0 looks ahead.

    Returns
    -------
    array of n + 1
        Element t uses ``changes[:t]``; element 0 is ``seed``, element n is for the change to come.
    """
    _check_decay(decay)
    check_not_negative(seed=seed)
    check_finite("changes", changes)
    squares = np.asarray(changes, np.float64) ** 2
    after = smoothed(squares, np.zeros(len(squares), np.bool_), seed, decay, 1 - decay)
    return np.concatenate([[seed], after])


@dataclass(frozen=True)
class RiskConfig:
    """Knobs of `EwmaRisk`."""

    decay: float = 0.997
    """Per step; half of the weight lies in the last ln 2 / (1 - decay) steps, 58 s at 250 ms."""
    horizon_ns: int = 2_500_000_000
    """The variance is given over this time: that of the alpha."""
    step_ns: int = 250_000_000
    """Distance of the grid's rows."""

    def __post_init__(self) -> None:
        _check_decay(self.decay)
        check_positive(horizon_ns=self.horizon_ns, step_ns=self.step_ns)


@dataclass(frozen=True, eq=False)
class MidRows(GridRows):
    """The mid at ``ts``."""

    mid: Floats
    """Quote currency."""


@dataclass(frozen=True)
class RiskArtifact(Artifact):
    """Where the recursion starts."""

    seed: float
    """Mean squared change of a lot's value in a step of the training window, (currency per lot)^2."""


@dataclass(frozen=True)
class RiskState:
    """After the newest row."""

    place: Place
    mid: float
    """The newest, quote currency; 0 before the first."""
    variance: float
    """Forecast for the next step, (currency per lot)^2."""


class EwmaRisk:
    """EWMA variance of one instrument's mid, in money and scaled to the horizon.

    Change t is that from row t's mid to the next row's, so that the forecast at row t uses the mids up to
    row t: all that was known then. The first forecast is the mean square of the training window. A change
    across a gap is left out and the variance carried over it. Over the horizon: step variance x horizon /
    step. Left out: autocorrelation (the bounce that makes short horizons look riskier), time of day, jumps
    across gaps, other instruments.
    """

    def __init__(self, config: RiskConfig, terms: Terms):
        self.config = config
        self.terms = terms

    def fit(self, window: MidRows, origin: Origin) -> RiskArtifact:
        """Mean squared change in a step."""
        changes, counted = self._changes(window, Place(0), 0.0)
        if not counted.any():
            raise EmptyWindowError(
                f"{len(window)} mids hold no two of one segment a step apart; lengthen the training window "
                "or leave the instrument out"
            )
        return RiskArtifact(
            data_commit=origin.data_commit,
            code=origin.code,
            train_start=int(window.ts[0]),
            train_end=int(window.ts[-1]),
            as_of=int(window.ts[-1]),
            config_hash=config_hash(self.config, self.terms),
            seed=float(np.mean(changes[counted] ** 2)),
        )

    def start(self, artifact: RiskArtifact) -> RiskState:
        """The seed."""
        return RiskState(Place(artifact.as_of), 0.0, artifact.seed)

    def update(self, state: RiskState, rows: MidRows) -> RiskState:
        """Follow the mid."""
        return self._after(state, rows, self._variances(state, rows))

    def predict(self, state: RiskState, artifact: RiskArtifact) -> Risk:
        """Variance over the horizon from the newest row on."""
        if state.place.segment < 0:
            raise ModelError("no mid was seen yet; give update() a row before predict()")
        return self._risk(np.array([state.place.ts]), np.array([state.variance]), artifact)

    def batch(self, state: RiskState, rows: MidRows, artifact: RiskArtifact) -> tuple[Risk, RiskState]:
        """Variance over the horizon from each row on."""
        variances = self._variances(state, rows)
        return self._risk(rows.ts, variances, artifact), self._after(state, rows, variances)

    def _changes(self, rows: MidRows, place: Place, mid: float) -> tuple[Floats, Flags]:
        """Change that ends at each row, currency per lot, and whether it counts: no gap lies in it."""
        changes = np.diff(rows.mid, prepend=mid) * self.terms.multiplier
        return changes, continues(place, rows, self.config.step_ns)

    def _variances(self, state: RiskState, rows: MidRows) -> Floats:
        """Step variance forecast at each row."""
        changes, counted = self._changes(rows, state.place, state.mid)
        forecasts = ewma_variance(changes[counted], self.config.decay, state.variance)
        result: Floats = forecasts[np.cumsum(counted)]
        return result

    def _after(self, state: RiskState, rows: MidRows, variances: Floats) -> RiskState:
        if not len(rows):
            return state
        return RiskState(state.place.after(rows), float(rows.mid[-1]), float(variances[-1]))

    def _risk(self, ts: Ints, variances: Floats, artifact: RiskArtifact) -> Risk:
        check_known(artifact, ts)
        steps = self.config.horizon_ns / self.config.step_ns
        return Risk(ts, ts, self.config.horizon_ns, Unit.CURRENCY_SQUARED, variances * steps)


def _check_decay(decay: float) -> None:
    if not 0 < decay < 1:
        raise ValueError(f"decay is a number between 0 and 1, not {decay}")

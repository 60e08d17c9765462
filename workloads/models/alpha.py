"""Expected move of the mid: from class probabilities, and from order-flow imbalance.

Both give ticks over the horizon of the labels that they were fitted on; `in_currency` turns them into
money. A label is the change of the mid from a row's ``ts`` to ``ts_end`` in half ticks, as in the `labels`
table.
"""

# Axes: T rows, K half lives

import dataclasses
from dataclasses import dataclass

import numpy as np

from workloads.models.protocol import (
    Alpha,
    Artifact,
    EmptyWindowError,
    Floats,
    GridRows,
    Ints,
    ModelError,
    Origin,
    Place,
    Rows,
    Terms,
    Unit,
    check_known,
    check_positive,
    config_hash,
    continues,
    part,
)
from workloads.models.smoothing import decay_of, smoothed


@dataclass(frozen=True, eq=False)
class Labels(Rows):
    """What the mid did after ``ts``; the future, for fitting only."""

    ts_end: Ints
    """The move is known from here on."""
    move: Ints
    """Of the mid, half ticks."""

    def __post_init__(self) -> None:
        super().__post_init__()
        horizons = np.unique(self.ts_end - self.ts)
        if len(horizons) > 1 or (horizons <= 0).any():
            raise ModelError(f"labels look {horizons.tolist()} ns ahead; give labels of one horizon above 0")

    def known(self, ts: int) -> "Labels":
        """The labels that were known at ``ts``: what may be fitted on then."""
        return part(self, self.ts_end <= ts)

    @property
    def horizon_ns(self) -> int:
        """Of the labels, which are at least one."""
        return int(self.ts_end[0] - self.ts[0])

    @property
    def ticks(self) -> Floats:
        """The moves, in ticks."""
        return self.move / 2


def in_currency(alpha: Alpha, terms: Terms) -> Alpha:
    """An alpha in ticks as currency per lot."""
    if alpha.unit is not Unit.TICKS:
        raise ModelError(f"an alpha in {alpha.unit} is no alpha in ticks; convert it once")
    return dataclasses.replace(alpha, unit=Unit.CURRENCY, value=alpha.value * terms.tick_value)


@dataclass(frozen=True, eq=False)
class ScoreRows(Rows):
    """Class probabilities of the next move, as in the `scores` table; each row sums to 1."""

    p_down: Floats
    p_flat: Floats
    p_up: Floats

    def __post_init__(self) -> None:
        super().__post_init__()
        columns = np.stack([self.p_down, self.p_flat, self.p_up])
        bad = (columns < 0).any(axis=0) | (np.abs(columns.sum(axis=0) - 1) > 1e-5)
        if bad.any():
            row = int(np.argmax(bad))
            raise ModelError(
                f"scores {columns[:, row].tolist()} at {self.ts[row]} are no probabilities; they must be "
                "at least 0 and sum to 1"
            )


@dataclass(frozen=True)
class ScoreConfig:
    """Knobs of `ScoreAlpha`."""

    least_moves: int = 20
    """Labelled moves up, and as many down, below which their mean size is not trusted."""

    def __post_init__(self) -> None:
        check_positive(least_moves=self.least_moves)


@dataclass(frozen=True)
class ScoreArtifact(Artifact):
    """Mean sizes of the moves of one instrument."""

    horizon_ns: int
    down: float
    """Mean move given that it is down, ticks; below 0."""
    up: float
    """... given that it is up; above 0."""


@dataclass(frozen=True)
class ScoreState:
    """The newest scores; None before the first."""

    ts: int
    scores: tuple[float, float, float] | None = None


class ScoreAlpha:
    """E[move] = p_up E[move | up] + p_down E[move | down]: the law of total expectation.

    The mean sizes are those of the training window. Left out: that sizes depend on the scores, and any
    error of the probabilities themselves: an overconfident classifier gives an overconfident alpha.
    """

    def __init__(self, config: ScoreConfig):
        self.config = config

    def fit(self, window: Labels, origin: Origin) -> ScoreArtifact:
        """Mean move up and down of one instrument's labels."""
        ups, downs = window.ticks[window.move > 0], window.ticks[window.move < 0]
        if min(len(ups), len(downs)) < self.config.least_moves:
            raise EmptyWindowError(
                f"{len(window)} labels hold {len(ups)} moves up and {len(downs)} down, fewer than "
                f"{self.config.least_moves}; lengthen the training window or leave the instrument out"
            )
        return ScoreArtifact(
            data_commit=origin.data_commit,
            code=origin.code,
            train_start=int(window.ts[0]),
            train_end=int(window.ts[-1]),
            as_of=int(window.ts_end[-1]),
            config_hash=config_hash(self.config),
            horizon_ns=window.horizon_ns,
            down=float(downs.mean()),
            up=float(ups.mean()),
        )

    def start(self, artifact: ScoreArtifact) -> ScoreState:
        """No scores yet."""
        return ScoreState(artifact.as_of)

    def update(self, state: ScoreState, rows: ScoreRows) -> ScoreState:
        """Keep the newest scores."""
        if not len(rows):
            return state
        newest = (float(rows.p_down[-1]), float(rows.p_flat[-1]), float(rows.p_up[-1]))
        return ScoreState(int(rows.ts[-1]), newest)

    def predict(self, state: ScoreState, artifact: ScoreArtifact) -> Alpha:
        """Expected move after the newest scores, ticks."""
        if state.scores is None:
            raise ModelError("no scores were seen yet; give update() a row before predict()")
        down, _, up = np.array(state.scores)
        return self._alpha(np.array([state.ts]), np.array([down]), np.array([up]), artifact)

    def batch(self, state: ScoreState, rows: ScoreRows, artifact: ScoreArtifact) -> tuple[Alpha, ScoreState]:
        """Expected move after each row, ticks."""
        return self._alpha(rows.ts, rows.p_down, rows.p_up, artifact), self.update(state, rows)

    def _alpha(self, ts: Ints, p_down: Floats, p_up: Floats, artifact: ScoreArtifact) -> Alpha:
        check_known(artifact, ts)
        value = p_up * artifact.up + p_down * artifact.down
        return Alpha(ts, ts, artifact.horizon_ns, Unit.TICKS, value)


@dataclass(frozen=True, eq=False)
class FlowRows(GridRows):
    """Order-flow imbalance of the best prices in the step before ``ts``."""

    ofi: Floats
    """Lots; > 0 where buyers pressed. Cont, Kukanov and Stoikov (2014), "The price impact of order book
    events", equation 3, summed over the step."""


@dataclass(frozen=True)
class FlowConfig:
    """Knobs of `FlowAlpha`."""

    half_lives: tuple[float, ...] = (1.0, 4.0, 16.0, 64.0)
    """Of the smoothed imbalances, in steps."""
    ridge: float = 1e-3
    """Penalty on coefficients of unit-variance features, against the mean squared error."""
    least_rows: int = 100
    """Labelled rows below which nothing is fitted."""
    step_ns: int = 250_000_000
    """Distance of the grid's rows."""

    def __post_init__(self) -> None:
        check_positive(step_ns=self.step_ns, least_rows=self.least_rows, ridge=self.ridge)
        check_positive(**{f"half life {value}": value for value in self.half_lives})
        if not self.half_lives:
            raise ValueError("half_lives is empty; give at least one")


@dataclass(frozen=True, eq=False)
class FlowWindow:
    """Rows to fit on, and the labels of some of them, of one instrument."""

    rows: FlowRows
    labels: Labels


@dataclass(frozen=True)
class FlowArtifact(Artifact):
    """Coefficients of one instrument."""

    horizon_ns: int
    coefficients: tuple[float, ...]
    """Ticks per lot of smoothed imbalance, one a half life."""


@dataclass(frozen=True)
class FlowState:
    """Smoothed imbalances after the newest row, lots, one a half life."""

    place: Place
    flows: tuple[float, ...]


class FlowAlpha:
    """Ridge regression of the forward move on order-flow imbalances of several memories.

    ``f_k(t) = 2^(-1/h_k) f_k(t-1) + ofi(t)``, from 0 at the start of every run of rows without a gap;
    ``E[move] = sum_k b_k f_k``, b minimising ``mean((move - f b)^2) + ridge |s b|^2`` with s the root mean
    squares of the features. There is no intercept: mirrored flow gives a mirrored forecast. Left out: depth
    (one coefficient serves thin and thick books), other levels, other instruments, all that is not linear.
    """

    def __init__(self, config: FlowConfig):
        self.config = config
        self._decays = [decay_of(half_life, 1) for half_life in config.half_lives]

    def fit(self, window: FlowWindow, origin: Origin) -> FlowArtifact:
        """Fit on the labelled rows."""
        rows, labels = window.rows, window.labels
        if len(labels) < self.config.least_rows:
            raise EmptyWindowError(
                f"{len(labels)} labelled rows are fewer than {self.config.least_rows}; lengthen the training "
                "window or leave the instrument out"
            )
        at = np.searchsorted(rows.ts, labels.ts)
        if at[-1] >= len(rows) or (rows.ts[at] != labels.ts).any():
            raise ModelError("some labels have no row of their ts; give rows and labels of one instrument")
        nothing = FlowState(Place(0), (0.0,) * len(self._decays))
        f_TK = self._flows(nothing, rows)[at]  # noqa: N806  # axis suffix
        scale_K = np.sqrt(np.mean(f_TK**2, axis=0))  # noqa: N806  # axis suffix
        if not (scale_K > 0).all():
            raise EmptyWindowError(
                f"order-flow imbalance is 0 in all {len(labels)} labelled rows; lengthen the training window "
                "or leave the instrument out"
            )
        unit_TK = f_TK / scale_K  # noqa: N806  # axis suffix
        # einsum and not @: the sums' order must not depend on how many threads BLAS has
        gram = np.einsum("tk,tj->kj", unit_TK, unit_TK) / len(labels)
        gram += self.config.ridge * np.eye(len(scale_K))
        moment_K = np.einsum("tk,t->k", unit_TK, labels.ticks) / len(labels)  # noqa: N806  # axis suffix
        b_K = np.linalg.solve(gram, moment_K) / scale_K  # noqa: N806  # axis suffix
        return FlowArtifact(
            data_commit=origin.data_commit,
            code=origin.code,
            train_start=int(rows.ts[0]),
            train_end=int(labels.ts[-1]),
            as_of=int(labels.ts_end[-1]),
            config_hash=config_hash(self.config),
            horizon_ns=labels.horizon_ns,
            coefficients=tuple(b_K.tolist()),
        )

    def start(self, artifact: FlowArtifact) -> FlowState:
        """No flow yet. Feed the rows since the segment's start to `update` before the first `predict`."""
        return FlowState(Place(artifact.as_of), (0.0,) * len(artifact.coefficients))

    def update(self, state: FlowState, rows: FlowRows) -> FlowState:
        """Add rows to the smoothed imbalances."""
        return self._after(state, rows, self._flows(state, rows))

    def predict(self, state: FlowState, artifact: FlowArtifact) -> Alpha:
        """Expected move after the newest row, ticks."""
        if state.place.segment < 0:
            raise ModelError("no row was seen yet; give update() a row before predict()")
        return self._alpha(np.array([state.place.ts]), np.array([state.flows]), artifact)

    def batch(self, state: FlowState, rows: FlowRows, artifact: FlowArtifact) -> tuple[Alpha, FlowState]:
        """Expected move after each row, ticks."""
        f_TK = self._flows(state, rows)  # noqa: N806  # axis suffix
        return self._alpha(rows.ts, f_TK, artifact), self._after(state, rows, f_TK)

    def _flows(self, state: FlowState, rows: FlowRows) -> Floats:
        """Smoothed imbalances after each row: T x K."""
        fresh = ~continues(state.place, rows, self.config.step_ns)
        columns = [
            smoothed(rows.ofi, fresh, start, decay, 1.0)
            for start, decay in zip(state.flows, self._decays, strict=True)
        ]
        return np.stack(columns, axis=1)

    def _after(self, state: FlowState, rows: FlowRows, f_TK: Floats) -> FlowState:  # noqa: N803  # axis suffix
        return FlowState(state.place.after(rows), tuple(f_TK[-1].tolist())) if len(rows) else state

    def _alpha(self, ts: Ints, f_TK: Floats, artifact: FlowArtifact) -> Alpha:  # noqa: N803  # axis suffix
        check_known(artifact, ts)
        # Added column by column, not by matrix product: BLAS rounds one row and many rows differently.
        value = np.zeros(len(ts))
        for k, coefficient in enumerate(artifact.coefficients):
            value = value + coefficient * f_TK[:, k]
        return Alpha(ts, ts, artifact.horizon_ns, Unit.TICKS, value)

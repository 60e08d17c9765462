"""The best possible forecast of the simulated market, and how good it can be.

Every instrument of the simulator has a hidden drift state that follows a Markov chain. In step t, in state
s, the mid moves by m ticks (one of -1, 0, +1) with probability ``moves[s]``, and each order that the noise
flow adds is a bid with probability ``bid_share[s]``. Nothing else depends on the state (the proof is in
`workloads.exchange.simulator`), so that the forward recursion below, run with the true parameters, is the
conditional distribution of the state given everything that an observer of the feed can see, and no forecast
has a higher expected accuracy than the most probable outcome under it.

Forward recursion: Rabiner (1989), "A Tutorial on Hidden Markov Models", section III.A.
"""

# Axes: T step, S hidden state (-1, 0, +1), M outcome (down, flat, up)

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

Floats = NDArray[np.float64]
_Rows = tuple[tuple[float, float, float], tuple[float, float, float], tuple[float, float, float]]


@dataclass(frozen=True)
class DriftModel:
    """The hidden chain and its two observation channels. State 0 is a falling, 1 a flat, 2 a rising drift."""

    transition: _Rows = ((0.975, 0.02, 0.005), (0.015, 0.97, 0.015), (0.005, 0.02, 0.975))
    """``transition[a][b]``: probability to go from state a to b, per step."""
    moves: _Rows = ((0.24, 0.74, 0.02), (0.05, 0.90, 0.05), (0.02, 0.74, 0.24))
    """``moves[s]``: probability of a move down, none, up in a step."""
    bid_share: tuple[float, float, float] = (0.42, 0.5, 0.58)
    """Probability that an added noise order is a bid."""

    def __post_init__(self) -> None:
        for name in ("transition", "moves"):
            rows = np.array(getattr(self, name))
            if rows.shape != (3, 3) or (rows < 0).any() or not np.allclose(rows.sum(axis=1), 1):
                raise ValueError(
                    f"{name}: three rows of three probabilities that sum to 1, not {rows.tolist()}"
                )
        if len(self.bid_share) != 3 or not all(0 < share < 1 for share in self.bid_share):
            raise ValueError(f"bid_share: three probabilities between 0 and 1, not {self.bid_share}")

    @property
    def stationary_S(self) -> Floats:  # noqa: N802  # axis suffix
        """Long-run distribution of the state; the chain starts in it."""
        chain = np.array(self.transition)
        system = np.vstack([chain.T - np.eye(3), np.ones(3)])
        solution: Floats = np.linalg.lstsq(system, np.array([0.0, 0.0, 0.0, 1.0]), rcond=None)[0]
        return solution


class Observations(NamedTuple):
    """What one instrument showed, step by step."""

    moves: NDArray[np.integer]
    """Ticks, -1, 0 or +1."""
    bid_adds: NDArray[np.integer]
    """Orders that the noise flow added to the bids."""
    adds: NDArray[np.integer]
    """... and to both sides."""


class Accuracy(NamedTuple):
    """How often the most probable of down, flat, up came true."""

    filter: float
    """The best forecast, on the path that was realised."""
    standard_error: float
    """Of ``filter``, from batch means: overlapping horizons are not independent."""
    expected: float
    """Mean probability that the filter itself gave to its choice: agrees with ``filter`` when calibrated."""
    majority: float
    """Always the outcome that was most frequent."""


def filtered(observations: Observations, model: DriftModel) -> Floats:
    """P(state of step t | observations up to and including step t), one row a step.

    The binomial coefficient of the bid adds cancels; steps without an add carry the move alone.
    """
    moves = np.ascontiguousarray(observations.moves, np.int64)
    if not np.isin(moves, (-1, 0, 1)).all():
        raise ValueError("moves are -1, 0 or +1 tick a step")
    bids = np.ascontiguousarray(observations.bid_adds, np.int64)
    adds = np.ascontiguousarray(observations.adds, np.int64)
    share = np.array(model.bid_share)
    table = np.array(model.moves)
    result: Floats = _forward(
        moves,
        bids,
        adds,
        np.array(model.transition),
        table,
        np.log(share),
        np.log1p(-share),
        model.stationary_S,
    )
    return result


def move_probabilities(states_TS: Floats, model: DriftModel, horizon: int) -> Floats:  # noqa: N803
    """P(down, flat, up) of the sum of the next ``horizon`` moves, given the state's distribution now.

    ``states_TS``: rows of `filtered`. Step t's own move is not part of the sum.
    """
    return states_TS @ _outcomes_SM(model, horizon)


def outcomes(moves: NDArray[np.integer], horizon: int) -> NDArray[np.integer]:
    """Sign of the sum of moves t+1 .. t+horizon, for every t that has them all; n - horizon values."""
    level = np.concatenate([[0], np.cumsum(np.asarray(moves, np.int64))])
    moved: NDArray[np.int64] = level[horizon + 1 :] - level[1 : len(level) - horizon]
    return np.sign(moved)


def best_accuracy(observations: Observations, model: DriftModel, horizon: int, batches: int = 20) -> Accuracy:
    """Accuracy of the filter on a realised path, over every step whose horizon is complete."""
    truth = outcomes(observations.moves, horizon) + 1
    if len(truth) < 2 * batches:
        raise ValueError(
            f"{len(truth)} complete horizons are too few for {batches} batches; lengthen the session"
        )
    forecast = move_probabilities(filtered(observations, model), model, horizon)[: len(truth)]
    hit = forecast.argmax(axis=1) == truth
    means = np.array([part.mean() for part in np.array_split(hit, batches)])
    return Accuracy(
        filter=float(hit.mean()),
        standard_error=float(means.std(ddof=1) / np.sqrt(batches)),
        expected=float(forecast.max(axis=1).mean()),
        majority=float(np.bincount(truth, minlength=3).max() / len(truth)),
    )


def simulated_path(
    model: DriftModel, steps: int, adds: NDArray[np.integer], seed: int
) -> tuple[NDArray[np.int64], Observations]:
    """Hidden states and observations of the chain alone, without a market.

    ``adds``: how many orders the noise flow adds, repeated to the length that is needed. The long-run
    accuracy of the best forecast is `best_accuracy` of a path of, say, a million steps.
    """
    uniform = np.random.default_rng(seed)
    states = np.empty(steps, np.int64)
    transition, table = np.cumsum(model.transition, axis=1), np.cumsum(model.moves, axis=1)
    first = int(uniform.choice(3, p=model.stationary_S))
    _walk(uniform.random(steps), transition, first, states)
    moves = (uniform.random(steps)[:, None] >= table[states, :2]).sum(axis=1) - 1
    total = np.resize(np.asarray(adds, np.int64), steps)
    bids = uniform.binomial(total, np.array(model.bid_share)[states])
    return states, Observations(moves, bids, total)


def _outcomes_SM(model: DriftModel, horizon: int) -> Floats:  # noqa: N802
    """P(down, flat, up of the next ``horizon`` moves | state now)."""
    if horizon < 1:
        raise ValueError(f"a horizon is at least one step, not {horizon}")
    chain, moves = np.array(model.transition), np.array(model.moves)
    result = np.empty((3, 3))
    for start in range(3):
        joint = np.zeros((3, 2 * horizon + 3))  # state x sum of the moves so far
        joint[start, horizon + 1] = 1.0
        for _ in range(horizon):
            joint = chain.T @ joint
            step = moves[:, 1, None] * joint
            step[:, :-1] += moves[:, 0, None] * joint[:, 1:]
            step[:, 1:] += moves[:, 2, None] * joint[:, :-1]
            joint = step
        total = joint.sum(axis=0)
        result[start] = total[: horizon + 1].sum(), total[horizon + 1], total[horizon + 2 :].sum()
    return result


@njit(nogil=True, cache=True)
def _forward(moves, bids, adds, transition, table, log_bid, log_ask, start):  # type: ignore[no-untyped-def]  # compiled: types are inferred
    steps = len(moves)
    out = np.empty((steps, 3))
    ahead = start.copy()
    for t in range(steps):
        best = -np.inf
        weight = np.empty(3)
        for s in range(3):
            weight[s] = bids[t] * log_bid[s] + (adds[t] - bids[t]) * log_ask[s]
            best = max(best, weight[s])
        total = 0.0
        for s in range(3):
            weight[s] = ahead[s] * table[s, moves[t] + 1] * np.exp(weight[s] - best)
            total += weight[s]
        for s in range(3):
            out[t, s] = weight[s] / total
        for s in range(3):
            ahead[s] = 0.0
            for r in range(3):
                ahead[s] += out[t, r] * transition[r, s]
    return out


@njit(nogil=True, cache=True)
def _walk(uniform, transition, first, states):  # type: ignore[no-untyped-def]  # compiled: types are inferred
    state = first
    for t in range(len(states)):
        if t > 0:
            row = transition[state]
            state = 0 if uniform[t] < row[0] else (1 if uniform[t] < row[1] else 2)
        states[t] = state

"""The best possible forecast of the simulated market, and how good it can be.

Every instrument of the simulator has a hidden drift state that follows a Markov chain. In step t, in state
s, the mid moves by m ticks (one of -1, 0, +1) with probability ``moves[s]``, and each order that the noise
flow adds is a bid with probability ``bid_share[s]``. Nothing else depends on the state (the proof is in
`workloads.exchange.simulator`), so that the forward recursion below, run with the true parameters, is the
conditional distribution of the state given everything that an observer of the feed can see, and no forecast
has a higher expected accuracy than the most probable outcome under it.

The number of states is free. The default has four, because three leave nothing to learn: with a falling, a
quiet and a rising drift a linear model on lags comes within a percent of the filter. In a choppy market the
mid moves often and without direction, so that the same recent moves and orders mean another thing, and
whoever cannot tell the two apart by their context forecasts much worse. Measured: docs/decisions/0003.

Forward recursion: Rabiner (1989), "A Tutorial on Hidden Markov Models", section III.A.
"""

# Axes: T step or decision time, S hidden state (its index), M outcome (down, flat, up)

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

Floats = NDArray[np.float64]
_Rows = tuple[tuple[float, ...], ...]

FALLING, QUIET, RISING, CHOPPY = range(4)
"""The states of the default model."""


@dataclass(frozen=True)
class DriftModel:
    """The hidden chain of S >= 2 states and its two observation channels."""

    transition: _Rows = (
        (0.980, 0.008, 0.002, 0.010),
        (0.006, 0.982, 0.006, 0.006),
        (0.002, 0.008, 0.980, 0.010),
        (0.008, 0.008, 0.008, 0.976),
    )
    """``transition[a][b]``: probability to go from state a to b, per step; S rows of S."""
    moves: _Rows = ((0.32, 0.66, 0.02), (0.01, 0.98, 0.01), (0.02, 0.66, 0.32), (0.35, 0.30, 0.35))
    """``moves[s]``: probability of a move down, none, up in a step; S rows."""
    bid_share: tuple[float, ...] = (0.38, 0.50, 0.62, 0.50)
    """Probability that an added noise order is a bid, by state."""

    def __post_init__(self) -> None:
        states = len(self.transition)
        if states < 2:
            raise ValueError(f"transition: at least two states, not {states}")
        _check_rows("transition", self.transition, states, states)
        _check_rows("moves", self.moves, states, 3)
        if len(self.bid_share) != states or not all(0 < share < 1 for share in self.bid_share):
            raise ValueError(
                f"bid_share: {states} probabilities above 0 and below 1, one a state of transition, "
                f"not {self.bid_share}"
            )
        if np.linalg.matrix_rank(np.array(self.transition) - np.eye(states)) < states - 1:
            raise ValueError(
                "transition: some states never lead to the others, so that the chain has no single long-run "
                "distribution to start in; give them a way to each other"
            )

    @property
    def states(self) -> int:
        """S, how many."""
        return len(self.transition)

    @property
    def stationary_S(self) -> Floats:  # noqa: N802  # axis suffix
        """Long-run distribution of the state; the chain starts in it."""
        chain = np.array(self.transition)
        system = np.vstack([chain.T - np.eye(self.states), np.ones(self.states)])
        solution: Floats = np.linalg.lstsq(system, np.eye(self.states + 1)[-1], rcond=None)[0]
        return solution


def _check_rows(name: str, rows: _Rows, states: int, outcomes: int) -> None:
    fits = len(rows) == states and all(len(row) == outcomes for row in rows)
    if not fits or not all(min(row) >= 0 and np.isclose(sum(row), 1) for row in rows):
        raise ValueError(
            f"{name}: {states} rows (one a state of transition) of {outcomes} probabilities that sum to 1, "
            f"not {rows}"
        )


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


def forecast_at(
    observations: Observations,
    model: DriftModel,
    ts_step: NDArray[np.int64],
    step_ns: int,
    ts: NDArray[np.int64],
    horizon: int,
) -> Floats:
    """P(down, flat, up) at decision times: the best forecast that could be made then, one row a time.

    Parameters
    ----------
    observations : n steps of one instrument
    ts_step : int64[n]
        Start of each step, ns; step k is [ts_step[k], ts_step[k] + step_ns).
    ts : int64[m]
        Decision times, ns, in any order. Each knows the steps that ended by then (end <= ts) and nothing of
        the others; before the first end it knows the long-run distribution.
    horizon : steps
        The outcome is the sign of the moves of this many steps from the first that has not ended. At a step's
        end that is the move of the mid from ts to ts + horizon x step_ns.

    Returns
    -------
    float64[m, 3]

    Raises
    ------
    ValueError
        If a time is after the last step's end (nothing is known of a market that no longer exists), or the
        steps do not follow each other.
    """
    steps = np.asarray(ts_step, np.int64)
    if len(steps) != len(observations.moves) or (np.diff(steps) != step_ns).any():
        raise ValueError(
            f"ts_step: the starts of {len(observations.moves)} steps, {step_ns} ns apart, not {len(steps)} "
            "times that differ from it"
        )
    times = np.asarray(ts, np.int64)
    if len(times) and (not len(steps) or times.max() > steps[-1] + step_ns):
        raise ValueError("ts: a decision after the last step's end; leave out what is after the session")
    ended = np.searchsorted(steps + step_ns, times, side="right")
    # Row 0: no step has ended. The long-run distribution stays what it is from step to step.
    known_TS = np.vstack([model.stationary_S, filtered(observations, model)])  # noqa: N806  # axis suffix
    return move_probabilities(known_TS[ended], model, horizon)


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
    """Hidden states (indices) and observations of the chain alone, without a market.

    ``adds``: how many orders the noise flow adds, repeated to the length that is needed. The long-run
    accuracy of the best forecast is `best_accuracy` of a path of, say, a million steps.
    """
    uniform = np.random.default_rng(seed)
    states = np.empty(steps, np.int64)
    transition, table = np.cumsum(model.transition, axis=1), np.cumsum(model.moves, axis=1)
    first = int(uniform.choice(model.states, p=model.stationary_S))
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
    result = np.empty((model.states, 3))
    for start in range(model.states):
        joint = np.zeros((model.states, 2 * horizon + 3))  # state x sum of the moves so far
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
    steps, states = len(moves), len(start)
    out = np.empty((steps, states))
    ahead = start.copy()
    weight = np.empty(states)
    for t in range(steps):
        best = -np.inf
        for s in range(states):
            weight[s] = bids[t] * log_bid[s] + (adds[t] - bids[t]) * log_ask[s]
            best = max(best, weight[s])
        total = 0.0
        for s in range(states):
            weight[s] = ahead[s] * table[s, moves[t] + 1] * np.exp(weight[s] - best)
            total += weight[s]
        for s in range(states):
            out[t, s] = weight[s] / total
        for s in range(states):
            ahead[s] = 0.0
            for r in range(states):
                ahead[s] += out[t, r] * transition[r, s]
    return out


@njit(nogil=True, cache=True)
def _walk(uniform, transition, first, states):  # type: ignore[no-untyped-def]  # compiled: types are inferred
    state = first
    for t in range(len(states)):
        if t > 0:
            row = transition[state]
            state = 0
            while state < len(row) - 1 and uniform[t] >= row[state]:
                state += 1
        states[t] = state

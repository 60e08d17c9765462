"""How predictable the simulated market is: the optimal filter beside a linear model on the raw history.

The peer is a multinomial logistic regression on the last 64 steps: each step's move and its imbalance of
added orders (bids minus asks). It is fitted on the first half of a path of the chain and judged, as the
filter is, on the second. What lies between the two is what a model gains that learns the context; at a
horizon where nothing does, it gains nothing.

Run: python -m benchmarks.bench_forecast
"""

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from benchmarks.record import record
from workloads.exchange.forecast import (
    DriftModel,
    Observations,
    filtered,
    move_probabilities,
    outcomes,
    simulated_path,
)
from workloads.exchange.simulator import Simulator, SimulatorConfig

STEPS = 500_000
LAGS = 64
BATCHES = 20
HORIZONS = (4, 10, 20, 40)


def session_adds() -> NDArray[np.integer]:
    """How many orders the noise flow adds, step by step, in the default session."""
    simulator = Simulator(SimulatorConfig())
    for _ in simulator.blocks():
        pass
    return simulator.truth().adds[:, 0]


def history(shown: Observations) -> NDArray[np.float32]:
    """Row t: moves and imbalances of steps t .. t + LAGS - 1."""
    imbalance = 2 * np.asarray(shown.bid_adds, np.int64) - shown.adds
    windows = [sliding_window_view(column, LAGS) for column in (shown.moves, imbalance)]
    return np.concatenate(windows, axis=1, dtype=np.float32)


def accuracies(shown: Observations, horizon: int) -> dict[str, NDArray[np.bool_]]:
    """Per forecast: which outcomes of the path's second half it hit."""
    model = DriftModel()
    truth = outcomes(shown.moves, horizon)[LAGS - 1 :] + 1
    known = history(shown)[: len(truth)]
    half = len(truth) // 2
    linear = LogisticRegression(tol=1e-5, max_iter=500).fit(known[: half - horizon], truth[: half - horizon])
    best = move_probabilities(filtered(shown, model)[LAGS - 1 :], model, horizon)[: len(truth)]
    later = truth[half:]
    return {
        "filter": best[half:].argmax(axis=1) == later,
        "logistic": linear.predict(known[half:]) == later,
        "majority": later == np.bincount(later, minlength=3).argmax(),
    }


def error(hit: NDArray[np.bool_]) -> float:
    """Standard error of the mean, from batch means: horizons overlap."""
    means = [part.mean() for part in np.array_split(hit, BATCHES)]
    return float(np.std(means, ddof=1) / np.sqrt(BATCHES))


def main() -> None:
    _, shown = simulated_path(DriftModel(), STEPS, session_adds(), seed=1)
    lines = []
    print(f"{'steps':>5}  {'filter':>14}  {'logistic':>14}  {'majority':>14}")
    for horizon in HORIZONS:
        hits = accuracies(shown, horizon)
        cells = [f"{hit.mean():.3f} +- {error(hit):.3f}" for hit in hits.values()]
        print(f"{horizon:>5}  " + "  ".join(cells))
        lines.append(
            record(
                f"optimal filter, {horizon} steps ahead",
                float(hits["filter"].mean()),
                "accuracy",
                peer=f"logistic regression on {LAGS} steps",
                peer_value=float(hits["logistic"].mean()),
            )
        )
    print(*lines, sep="\n")


if __name__ == "__main__":
    main()

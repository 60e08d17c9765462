"""Rows of one instrument for the tests of the models, and how to change their future."""

from typing import Any

import numpy as np

from workloads.models.alpha import (
    FlowAlpha,
    FlowConfig,
    FlowRows,
    FlowWindow,
    Labels,
    ScoreAlpha,
    ScoreConfig,
    ScoreRows,
)
from workloads.models.protocol import Origin, Rows, Terms, part
from workloads.models.risk import EwmaRisk, MidRows, RiskConfig
from workloads.models.transaction_cost import CostConfig, QuoteRows, TransactionCost

STEP = 250_000_000
HORIZON = 10 * STEP
ORIGIN = Origin(data_commit="d1", code="c1")
ES = Terms(tick=0.25, multiplier=50.0)  # one tick of one lot: 12.50


def grid(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """``ts`` and ``segment`` of n rows with a gap of time or a new segment at a few places."""
    uniform = np.random.default_rng(seed)
    breaks = uniform.random(n) < 0.03
    ts = 10**18 + STEP * np.cumsum(1 + np.where(breaks & (uniform.random(n) < 0.7), 7, 0))
    return ts, np.cumsum(breaks & (uniform.random(n) < 0.7))


def market(n: int, seed: int = 0) -> dict[str, Rows]:
    """Rows for every model from one made-up market, and its labels under "labels"."""
    random = np.random.default_rng(seed)
    ts, segment = grid(n, seed)
    mid = 4810 + 0.125 * np.cumsum(random.integers(-2, 3, n))
    half = 0.125 * random.integers(1, 4, n)
    scores = random.dirichlet((1, 2, 1), n)
    return {
        "score": ScoreRows(ts, *scores.T),
        "flow": FlowRows(ts, segment, random.normal(0, 5, n)),
        "risk": MidRows(ts, segment, mid),
        "cost": QuoteRows(ts, segment, mid - half, mid + half, random.integers(0, 9, n)),
        "labels": Labels(ts, ts + HORIZON, random.integers(-6, 7, n)),
    }


MODELS: dict[str, Any] = {
    "score": ScoreAlpha(ScoreConfig(least_moves=3)),
    "flow": FlowAlpha(FlowConfig(half_lives=(1, 8), least_rows=10)),
    "risk": EwmaRisk(RiskConfig(decay=0.9), ES),
    "cost": TransactionCost(CostConfig(commission=2.0), ES),
}


def fit(name: str, rows: dict[str, Rows], ts: int) -> Any:
    """The artifact of what was known at ``ts``."""
    labels = rows["labels"].known(ts)
    past = part(rows[name], rows[name].ts <= ts)
    window = {"score": labels, "flow": FlowWindow(past, labels) if name == "flow" else None}
    return MODELS[name].fit(window.get(name, past), ORIGIN)


def spoiled(past: dict[str, Rows], noise: dict[str, Rows], ts: int) -> dict[str, Rows]:
    """``past`` up to ``ts``, and ``noise`` after it. A label is past if its move was over at ``ts``."""
    result = {}
    for name, rows in past.items():
        kept = (rows.ts_end if name == "labels" else rows.ts) <= ts
        columns = {
            column: np.where(kept, values, getattr(noise[name], column))
            if column not in ("ts", "ts_end", "segment")
            else values
            for column, values in vars(rows).items()
        }
        result[name] = type(rows)(**columns)
    return result


def values(output: Any) -> dict[str, bytes]:
    """All columns of an output, to the bit."""
    return {k: v.tobytes() if isinstance(v, np.ndarray) else v for k, v in vars(output).items()}


def joined(outputs: list[Any]) -> dict[str, bytes]:
    """... of several outputs, one after the other."""
    first = vars(outputs[0])
    return {
        k: b"".join(getattr(o, k).tobytes() for o in outputs) if isinstance(v, np.ndarray) else v
        for k, v in first.items()
    }

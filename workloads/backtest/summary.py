"""What a strategy earned and what that is worth: plain numbers, from the ledger and the fills."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workloads.backtest.simulation import Outcome
from workloads.backtest.statistics import (
    annual_volatility,
    intervals_per_year,
    max_drawdown,
    returns_of,
    round_trips,
    sharpe_interval,
)
from workloads.ticks.definitions import Definitions

NANO = 1e9
SHORTEST_BATCH_NS = 60_000_000_000
"""Returns between marks depend on each other for as long as positions are held: seconds, not minutes."""
SHARPE = (
    "mean over standard deviation of the returns between marks, times the square root of the marks in 252 "
    "sessions of 23 hours; interval: 95 %, batch means of its influence (delta method) with Student's t, "
    "4 to 12 batches of at least 60 s"
)


def capital_of(instruments: Sequence[tuple[int, int, int]], lots: int, definitions: Definitions) -> float:
    """Notional of ``lots`` of each instrument, currency: its size, whatever the sign of the price (spreads).

    Parameters
    ----------
    instruments : of (instrument id, mid in 1e-9, ns)
        Mid and time at which each is valued.
    """
    if not instruments:
        return 0.0
    ids, mids, ts = (np.array(column) for column in zip(*instruments, strict=True))
    worth = definitions.notional(ids.astype(np.int32), mids, np.full(len(ids), lots), ts)
    return float(np.abs(worth.astype(float)).sum() / NANO)


def statistics_of(outcomes: Sequence[Outcome], capital: float, currency: str, mark_ns: int) -> dict[str, Any]:
    """One strategy over all its instruments: the row that people compare.

    Money in currency. ``turnover``: notional traded over capital, of the whole period. ``hit_rate``: share
    of the round trips (flat to flat, one instrument) that made a profit after all costs. ``cost_share``:
    costs over the size of the gross profit; null where that is 0. ``max_drawdown``: deepest fall of capital
    plus profit, a share of its highest value before. ``holding_seconds``: average time that a lot was held.
    ``open_lots``: held when the data end, marked at the last mid.
    """
    zero: NDArray[np.float64] = np.zeros(1)
    net = sum((o.ledger.value / NANO for o in outcomes), zero)
    gross = sum((o.ledger.gross / NANO for o in outcomes), zero)
    costs = {
        "spread": sum(float(o.ledger.spread_cost[-1]) for o in outcomes if len(o.ledger.ts)) / NANO,
        "impact": sum(float(o.ledger.impact_cost[-1]) for o in outcomes if len(o.ledger.ts)) / NANO,
        "commission": sum(float(o.ledger.commission[-1]) for o in outcomes if len(o.ledger.ts)) / NANO,
    }
    pnl, before = float(net[-1]), float(gross[-1])
    paid = sum(costs.values())
    traded = sum(float(np.abs(o.money.cash.astype(float)).sum()) for o in outcomes) / NANO
    trips = [round_trips(o.fills.ts, o.fills.lots, o.money.cash, _charges(o)) for o in outcomes]
    won = sum(int((trip.profit > 0).sum()) for trip in trips)
    count = sum(len(trip.profit) for trip in trips)
    lots = sum(int(trip.lots.sum()) for trip in trips)
    held = sum(float(trip.held_ns.sum()) for trip in trips)
    per_year = intervals_per_year(mark_ns)
    returns = _returns(capital, net)
    ratio = sharpe_interval(returns, per_year, math.ceil(SHORTEST_BATCH_NS / mark_ns))
    equity = np.concatenate([[0.0], net])
    return {
        "currency": currency,
        "capital": capital,
        "pnl": pnl,
        "gross_pnl": before,
        "return_on_capital": pnl / capital if capital else None,
        "sharpe": ratio.value,
        "sharpe_low": ratio.low,
        "sharpe_high": ratio.high,
        "volatility": annual_volatility(returns, per_year),
        "max_drawdown": max_drawdown(returns),
        "max_drawdown_currency": float((equity - np.maximum.accumulate(equity)).min()),
        "turnover": traded / capital if capital else None,
        "orders": sum(len(o.decided) for o in outcomes),
        "unfilled": sum(int((o.trades.filled == 0).sum()) for o in outcomes),
        "trades": sum(len(o.fills.ts) for o in outcomes),
        "lots": sum(int(np.abs(o.fills.lots).sum()) for o in outcomes),
        "round_trips": count,
        "hit_rate": won / count if count else None,
        "holding_seconds": held / lots / NANO if lots else None,
        "costs": costs,
        "cost_share": paid / abs(before) if before else None,
        "open_lots": sum(abs(int(o.ledger.position[-1])) for o in outcomes if len(o.ledger.ts)),
        "instruments": len(outcomes),
    }


def _charges(outcome: Outcome) -> NDArray[np.int64]:
    return outcome.fills.commission + outcome.fills.impact


def _returns(capital: float, net: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns between marks; none where nothing could be traded, or after the capital was lost."""
    if capital <= 0 or len(net) < 2:
        return np.zeros(0)
    value = capital + net
    lost = np.flatnonzero(value <= 0)
    return returns_of(value[: lost[0] + 1] if len(lost) else value)

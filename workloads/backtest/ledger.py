"""The ledger: what fills and marks come to in money, exactly, in int64 units of 1e-9 of the currency.

It replays fills and knows nothing of orders, books or strategies; live fills would go through it as well.
At every row value = cash + position x mark x multiplier, where cash is net of every charge. What trading
cost is kept apart: the distance from the mid to the price paid, the impact charged beyond it, commission.
Their sum is what the same fills would have made more at the mid and without charges.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from workloads.backtest.engine import BacktestError
from workloads.ticks.definitions import Definitions, NotionalError

Ints = NDArray[np.int64]
_INT64_MAX = float(2**63 - 1)


@dataclass(frozen=True)
class Fills:
    """Fills of one strategy and instrument in the order of time, n rows."""

    ts: Ints
    """ns; of the book."""
    lots: Ints
    """Above 0 bought, below 0 sold."""
    price: Ints
    """1e-9."""
    mid: Ints
    """Of the book, 1e-9, rounded down."""
    commission: Ints
    """1e-9 of the currency."""
    impact: Ints
    """1e-9 of the currency, charged beyond the price."""


@dataclass(frozen=True)
class Money:
    """What each fill moved, 1e-9 of the currency, n rows."""

    cash: Ints
    """Brought by the trade itself: below 0 for a purchase."""
    spread: Ints
    """(price - mid) x lots x multiplier: 0 or above where the order crossed."""


@dataclass(frozen=True)
class Ledger:
    """One row a mark time, k rows; money in 1e-9 of the currency."""

    ts: Ints
    position: Ints
    """Lots."""
    mark: Ints
    """Mid, 1e-9."""
    cash: Ints
    """0 at the start, net of every charge."""
    value: Ints
    """cash + position x mark x multiplier."""
    spread_cost: Ints
    """So far."""
    impact_cost: Ints
    commission: Ints

    @property
    def gross(self) -> Ints:
        """What the same fills would be worth at the mid and without charges."""
        return self.value + self.spread_cost + self.impact_cost + self.commission


def money(fills: Fills, instrument_id: int, definitions: Definitions) -> Money:
    """Cash and spread of each fill, by the contract multiplier that was valid then.

    Raises
    ------
    BacktestError
        If an amount leaves int64 or is no whole number of 1e-9.
    MissingDefinitionError
        If no definition with a multiplier was valid.
    """
    ids = np.full(len(fills.ts), instrument_id, np.int32)
    try:
        cash = -definitions.notional(ids, fills.price, fills.lots, fills.ts)
        spread = definitions.notional(ids, fills.price - fills.mid, fills.lots, fills.ts)
    except NotionalError as error:
        raise _too_large(instrument_id, str(error)) from error
    return Money(cash, spread)


def book(
    fills: Fills, moved: Money, marks: Ints, mids: Ints, instrument_id: int, definitions: Definitions
) -> Ledger:
    """Replay fills into one row a mark time; a row holds the fills before its time.

    Parameters
    ----------
    moved : Money
        Of these fills.
    marks, mids : int64[k]
        Mark times, ascending, ns; mid at each, 1e-9.

    Raises
    ------
    BacktestError
        If an amount leaves int64.
    """
    done = np.searchsorted(fills.ts, marks, side="left")

    def so_far(amount: Ints) -> Ints:
        # Sums that wrap around and come back are right again; only where one ends counts.
        if np.abs(np.cumsum(amount.astype(float))).max(initial=0.0) >= 0.99 * _INT64_MAX:
            raise _too_large(instrument_id, "a sum over fills leaves int64 (9.2e9 of the currency)")
        return np.concatenate([np.zeros(1, np.int64), np.cumsum(amount)])[done]

    position = so_far(fills.lots)
    cash = so_far(moved.cash - fills.commission - fills.impact)
    ids = np.full(len(marks), instrument_id, np.int32)
    try:
        worth = definitions.notional(ids, mids, position, marks)
    except NotionalError as error:
        raise _too_large(instrument_id, str(error)) from error
    if (np.abs(worth.astype(float) + cash.astype(float)) >= 0.99 * _INT64_MAX).any():
        raise _too_large(instrument_id, "the value of the account leaves int64 (9.2e9 of the currency)")
    return Ledger(
        ts=marks,
        position=position,
        mark=mids,
        cash=cash,
        value=cash + worth,
        spread_cost=so_far(moved.spread),
        impact_cost=so_far(fills.impact),
        commission=so_far(fills.commission),
    )


def _too_large(instrument_id: int, why: str) -> BacktestError:
    return BacktestError(f"money of instrument {instrument_id}: {why}; trade fewer lots or a shorter period")

"""Statistics of a return series, and of fills: every convention is stated here, once.

Returns are simple, one an interval, of a value that starts at a stated capital. Rates are annualised by the
number of intervals in a year, standard deviations have one degree of freedom less than values (ddof 1), and
a NaN return counts as 0 where returns compound and not at all where they are averaged: the conventions of
empyrical, with which these functions agree.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from workloads.errors import WorkloadError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

TRADING_DAYS = 252
SESSION_HOURS = 23
"""A CME Globex session, from 17:00 to 16:00 Chicago."""
LEAST_BATCHES, MOST_BATCHES = 4, 12
_T_975 = (3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201)
"""Student's t, 0.975 quantile, for 4 to 12 batches: one degree of freedom less."""


class StatisticsError(WorkloadError):
    """A statistic cannot be had from these values; says which and why."""


@dataclass(frozen=True)
class Interval:
    """A value and its confidence interval; None where it has none."""

    value: float | None
    low: float | None = None
    high: float | None = None


def intervals_per_year(interval_ns: int) -> float:
    """How many intervals of trading a year holds: 252 sessions of 23 hours."""
    return TRADING_DAYS * SESSION_HOURS * 3_600e9 / interval_ns


def returns_of(value: Floats) -> Floats:
    """Simple returns of n values: n - 1 of them.

    Raises
    ------
    StatisticsError
        If a value that is divided by is not above 0: the capital is lost and a return means nothing.
    """
    if (value[:-1] <= 0).any():
        row = int(np.argmax(value[:-1] <= 0))
        raise StatisticsError(
            f"the account is worth {value[row]:.2f} at row {row}: its capital is lost; state a larger one"
        )
    made: Floats = value[1:] / value[:-1] - 1
    return made


def sharpe(returns: Floats, per_year: float) -> float | None:
    """Mean over standard deviation, annualised by the square root of time; None without variation."""
    known = returns[~np.isnan(returns)]
    if len(known) < 2:
        return None
    deviation = float(np.std(known, ddof=1))
    return float(np.mean(known)) / deviation * math.sqrt(per_year) if deviation > 0 else None


def sharpe_interval(returns: Floats, per_year: float, shortest: int) -> Interval:
    """The Sharpe ratio with an interval of 95 % from batch means of its influence.

    To first order (delta method; Lo, 2002, "The statistics of Sharpe ratios") the ratio S of a sample moves
    by the mean of z - S / 2 x (z^2 - 1), where z are the returns less their mean over their deviation.
    Returns between marks follow each other, so that this mean's error is taken from the means of a few long
    batches of time (Law and Kelton, 2000, "Simulation modeling and analysis", 9.5.3) with Student's t.

    Parameters
    ----------
    shortest : int
        Least number of returns in a batch: it must outlast the time for which returns depend on each other.
        There are at most `MOST_BATCHES`; with fewer than `LEAST_BATCHES` there is no interval.
    """
    known = returns[~np.isnan(returns)]
    n, value = len(known), sharpe(known, per_year)
    batches = min(MOST_BATCHES, n // max(1, shortest))
    if value is None or batches < LEAST_BATCHES:
        return Interval(value)
    z = (known - known.mean()) / known.std(ddof=1)
    influence = z - value / math.sqrt(per_year) / 2 * (z * z - 1)
    cuts = np.arange(batches + 1) * n // batches
    residuals = np.add.reduceat(influence - influence.mean(), cuts[:-1])
    error = math.sqrt(batches / (batches - 1) * float(residuals @ residuals)) / n
    half = _T_975[batches - LEAST_BATCHES] * error * math.sqrt(per_year)
    return Interval(value, value - half, value + half)


def annual_volatility(returns: Floats, per_year: float) -> float | None:
    """Standard deviation, annualised by the square root of time."""
    known = returns[~np.isnan(returns)]
    return float(np.std(known, ddof=1)) * math.sqrt(per_year) if len(known) > 1 else None


def annual_return(returns: Floats, per_year: float) -> float | None:
    """Compound growth a year; None where it is beyond float64. A NaN return counts as time that passed."""
    if not len(returns):
        return None
    growth = float(np.prod(1 + np.nan_to_num(returns)))
    if growth <= 0:
        return -1.0
    try:
        return float(math.expm1(math.log(growth) * per_year / len(returns)))
    except OverflowError:
        return None


def max_drawdown(returns: Floats) -> float:
    """Deepest fall below the highest value so far, as a share of that: 0, or below it."""
    value = np.cumprod(np.concatenate([[1.0], 1 + np.nan_to_num(returns)]))
    return float((value / np.maximum.accumulate(value) - 1).min())


def calmar(returns: Floats, per_year: float) -> float | None:
    """Annual return over the deepest drawdown; None where there was none, or the return is beyond float64."""
    grown, fallen = annual_return(returns, per_year), max_drawdown(returns)
    return grown / -fallen if grown is not None and fallen < 0 else None


@dataclass(frozen=True)
class RoundTrips:
    """From flat to flat, one instrument. What is still open is left out."""

    profit: Ints
    """Of each trip, net of its share of the charges, 1e-9 of the currency."""
    lots: Ints
    """Lots that opened it and added to it; as many closed it."""
    held_ns: Ints
    """Sum over its lots of the time that each was held: x lots, from first bought to first sold."""


def round_trips(ts: Ints, lots: Ints, cash: Ints, charges: Ints) -> RoundTrips:
    """Round trips of one instrument.

    A fill that turns a position over closes one trip and opens the next; its cash and charges are shared
    in proportion to the lots, the closing share rounded down.

    Parameters
    ----------
    ts, lots, cash, charges : int64[n], in the order of time
        ``lots`` above 0 bought, below 0 sold; ``cash`` what the fill brought before charges (below 0 for a
        purchase), ``charges`` what it cost beyond, both 1e-9 of the currency.
    """
    after = np.cumsum(lots)
    before = after - lots
    turned = (before * after) < 0
    closing = np.where(turned, -before, lots)
    cash_closing = _share(cash, closing, lots)
    charges_closing = _share(charges, closing, lots)
    rows = np.repeat(np.arange(len(lots)), 1 + turned)
    second = np.concatenate([[False], rows[1:] == rows[:-1]]) if len(rows) else np.zeros(0, bool)
    pieces = np.where(second, lots[rows] - closing[rows], closing[rows])
    net = np.where(second, cash[rows] - cash_closing[rows], cash_closing[rows])
    net = net - np.where(second, charges[rows] - charges_closing[rows], charges_closing[rows])
    held = np.cumsum(pieces)
    starts = np.flatnonzero(held - pieces == 0)
    if not len(starts):
        return RoundTrips(*np.zeros((3, 0), np.int64))
    profit = np.add.reduceat(net, starts)
    bought = np.add.reduceat(np.abs(pieces), starts) // 2
    waited = np.diff(ts[rows], append=ts[rows][-1:])
    lot_ns = np.add.reduceat(np.abs(held) * waited, starts)
    whole = np.append(held[starts[1:] - 1], held[-1]) == 0
    return RoundTrips(profit[whole], bought[whole], lot_ns[whole])


def _share(amount: Ints, part: Ints, whole: Ints) -> Ints:
    """amount x part / whole, rounded down; exact where part is whole, and without leaving int64."""
    whole = np.where(whole == 0, 1, whole)
    quotient, rest = np.divmod(amount, np.abs(whole))
    return np.asarray(quotient * np.abs(part) + rest * np.abs(part) // np.abs(whole), np.int64)

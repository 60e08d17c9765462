"""All strategies on the instruments of one channel: what they sent, what it became, in money."""

import datetime
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workloads.backtest import ledger
from workloads.backtest.books import exchange_books, tops
from workloads.backtest.config import BacktestConfig
from workloads.backtest.decisions import Instrument, Market, Plan, alpha, market, opening_mid, plan
from workloads.backtest.engine import Account, Books, Decisions, Latency, Marks, Trades, replay
from workloads.models.protocol import EmptyWindowError, Origin
from workloads.models.transaction_cost import commission_cost, impact_cost
from workloads.ticks.archive import Archive, DataCommit, Partition
from workloads.ticks.definitions import Definitions

Ints = NDArray[np.int64]
NANO = 1_000_000_000
NONE = Books(*np.zeros((5, 0), np.int64))
"""No books at all."""


@dataclass(frozen=True)
class Day:
    """One date of the test period."""

    date: datetime.date
    start: int
    """Time of its first grid row, ns."""
    end: int
    """Time of its last: the data end there, which no strategy knows beforehand."""
    marks: Ints
    """When the ledger is written: start, multiples of the distance of marks, end."""


@dataclass(frozen=True)
class Channel:
    """The instruments of one venue's channel, and its partitions of the test period.

    A date without a partition has no rebuilt books; positions and marks live on.
    """

    venue: str
    channel: int
    partitions: tuple[Partition, ...]
    instruments: tuple[Instrument, ...]
    definitions: Definitions


@dataclass(frozen=True)
class Period:
    """The test period."""

    days: tuple[Day, ...]
    origin: Origin
    at: DataCommit

    @property
    def start(self) -> int:
        """Models are fitted on what was known until then."""
        return self.days[0].start

    @property
    def end(self) -> int:
        return self.days[-1].end


@dataclass(frozen=True)
class Outcome:
    """What became of one strategy on one instrument."""

    strategy: str
    instrument_id: int
    decided: Ints
    """Time of each order's decision, ns."""
    alpha: NDArray[np.bool_]
    """Orders that a forecast caused; the others flatten."""
    decision_mid: Ints
    """Known when each order was decided, 1e-9."""
    trades: Trades
    fills: ledger.Fills
    """Of the orders that filled anything, in their order."""
    money: ledger.Money
    ledger: ledger.Ledger


@dataclass(frozen=True)
class Simulated:
    """What became of all strategies on one channel."""

    outcomes: list[Outcome]
    books: int = 0
    """How many usable books the orders could meet."""
    books_from_grid: int = 0
    """How many of them are the dataset's own rows, because the rebuilt book differed or was not there."""
    left_out: dict[str, str] = field(default_factory=dict)
    """Why, by strategy and instrument."""


@dataclass
class _Position:
    """One strategy on one instrument, as it goes through the days."""

    strategy: str
    instrument: Instrument
    market: Market
    plan: Plan
    account: Account
    trades: list[Trades] = field(default_factory=list)
    marks: list[Marks] = field(default_factory=list)


def simulate(channel: Channel, archive: Archive, config: BacktestConfig, period: Period) -> Simulated:
    """Run every strategy on every instrument of a channel. Safe to repeat; writes nothing."""
    positions, left_out = _positions(channel, config, period)
    latency = Latency(config.latency_ns, config.report_latency_ns)
    stored = {partition.date: partition for partition in channel.partitions}
    wanted = {p.instrument.instrument_id: p.instrument for p in positions}
    met = own = 0
    span = (period.start - NANO, period.end)
    for day in period.days if wanted else ():
        partition = stored.get(day.date)
        found = (
            tops(archive, partition, wanted, span, period.at) if partition else dict.fromkeys(wanted, NONE)
        )
        usable = {}
        for i, instrument in wanted.items():
            usable[i], rows = _books_of(found[i], instrument, day)
            met += len(usable[i].ts)
            own += rows
        for p in positions:
            decisions = _of_day(p.plan, day)
            trades, marks = replay(
                decisions, usable[p.instrument.instrument_id], day.marks, latency, p.account
            )
            first = int(np.searchsorted(p.plan.decisions.ts, day.start))
            p.trades.append(trades._replace(decision=trades.decision + first))
            p.marks.append(marks)
    outcomes = [_outcome(p, channel.definitions) for p in positions]
    return Simulated(outcomes, met, own, left_out)


def _positions(
    channel: Channel, config: BacktestConfig, period: Period
) -> tuple[list[_Position], dict[str, str]]:
    """Fit and plan; what cannot be fitted is left out, with the reason."""
    positions, left_out = [], {}
    for instrument in channel.instruments:
        try:
            around = market(instrument, period.start, config, period.origin)
        except EmptyWindowError as error:
            left_out[f"instrument {instrument.instrument_id}"] = str(error)
            continue
        for strategy in config.strategies:
            try:
                forecast = alpha(strategy, instrument, period.start, config, period.origin)
            except EmptyWindowError as error:
                left_out[f"{strategy}, instrument {instrument.instrument_id}"] = str(error)
                continue
            made = plan(forecast, around, instrument, period.start, config)
            account = Account(opening_mid(instrument, period.start))
            positions.append(_Position(strategy, instrument, around, made, account))
    return positions, left_out


def _books_of(found: Books, instrument: Instrument, day: Day) -> tuple[Books, int]:
    """The books of one day that orders may meet, and how many of them are grid rows."""
    inside = (instrument.rows.ts >= day.start) & (instrument.rows.ts <= day.end)
    return exchange_books(found, instrument.rows.part(inside), instrument.step_ns)


def _of_day(made: Plan, day: Day) -> Decisions:
    """The decisions of one day."""
    rows = slice(*np.searchsorted(made.decisions.ts, (day.start, day.end + 1)).tolist())
    every = made.decisions
    return Decisions(every.ts[rows], every.expires[rows], every.wanted[rows])


def _joined(parts: Sequence[Any], kind: type[Any]) -> Any:
    """Rows of several days."""
    if not parts:
        return kind(*(np.zeros(0, np.int64) for _ in kind._fields))
    return kind(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def _outcome(p: _Position, definitions: Definitions) -> Outcome:
    """Orders and fills of all days, in money."""
    trades, marks = _joined(p.trades, Trades), _joined(p.marks, Marks)
    instrument_id = p.instrument.instrument_id
    fills = charged(trades, p.market.artifact.commission, p.market.artifact.impact)
    moved = ledger.money(fills, instrument_id, definitions)
    return Outcome(
        strategy=p.strategy,
        instrument_id=instrument_id,
        decided=p.plan.decisions.ts[trades.decision],
        alpha=p.plan.live[trades.decision],
        decision_mid=p.plan.mid[trades.decision],
        trades=trades,
        fills=fills,
        money=moved,
        ledger=ledger.book(fills, moved, marks.ts, marks.mark, instrument_id, definitions),
    )


def charged(trades: Trades, commission: float, impact: float) -> ledger.Fills:
    """The fills among the orders, with what the models charge for them."""
    rows = trades.filled != 0
    lots = trades.filled[rows]
    each = np.abs(lots).astype(np.float64)
    return ledger.Fills(
        ts=trades.ts_fill[rows],
        lots=lots,
        price=trades.price[rows],
        mid=trades.mid[rows],
        commission=np.rint(np.asarray(commission_cost(each, commission)) * NANO).astype(np.int64),
        impact=np.rint(np.asarray(impact_cost(each, impact)) * NANO).astype(np.int64),
    )

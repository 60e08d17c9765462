"""What a strategy would do at each grid time, for each position that it may find itself in.

Models are fitted on what was known before the test period. Then every grid row of the period becomes one
row of a table: the position wanted, given the position held. A row is made from the book row and the scores
of its own time, so that nothing later can enter it, whatever the engine does with it.

Without a forecast no position is wanted: that holds in rows that cleaning refused, behind a gap until there
is a whole window again, and towards the session's close. When the data end is not known beforehand.
"""

from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from workloads.backtest.books import GridRows
from workloads.backtest.config import FLOW, BacktestConfig
from workloads.backtest.engine import Decisions
from workloads.models.alpha import FlowAlpha, FlowRows, FlowWindow, Labels, ScoreAlpha, ScoreRows, in_currency
from workloads.models.portfolio import PositionConfig, PositionRule
from workloads.models.protocol import Alpha, Cost, Origin, Output, Risk, Terms, part
from workloads.models.risk import EwmaRisk, MidRows, RiskConfig
from workloads.models.transaction_cost import CostArtifact, QuoteRows, TransactionCost

Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]
AnyOutput = TypeVar("AnyOutput", bound=Output)
NANO = 1e9
NO_CLOSE = 2**62


@dataclass(frozen=True)
class Instrument:
    """Everything that is known of one instrument; rows of all periods, by time."""

    instrument_id: int
    terms: Terms
    step_ns: int
    rows: GridRows
    closes: Ints
    """Of each row: when the session of its date closes by the calendar, ns; else `NO_CLOSE`."""
    labels: Labels
    """Whose moves were known before the test period."""
    scores: dict[str, ScoreRows]
    """Of the test period, by model."""


@dataclass(frozen=True)
class Market:
    """Risk and cost of one instrument at its n usable rows of the test period."""

    rows: GridRows
    risk: Risk
    cost: Cost
    artifact: CostArtifact


@dataclass(frozen=True)
class Plan:
    """A strategy's table for one instrument, and what its orders are called."""

    decisions: Decisions
    """One a grid row of the test period."""
    live: Flags
    """Rows with a forecast; an order of any other row only flattens."""
    mid: Ints
    """Known at each row, 1e-9, rounded down, of any sign; the last usable one where the row has none."""


def market(instrument: Instrument, start_ns: int, config: BacktestConfig, origin: Origin) -> Market:
    """Fit risk and cost before ``start_ns``, follow them from there on.

    Raises
    ------
    EmptyWindowError
        If there is too little to fit on.
    """
    before, rows = _split(instrument.rows, start_ns)
    horizon = instrument.labels.horizon_ns if len(instrument.labels) else 10 * instrument.step_ns
    risk = EwmaRisk(
        RiskConfig(config.risk_decay, horizon_ns=horizon, step_ns=instrument.step_ns), instrument.terms
    )
    risk_artifact = risk.fit(_mids(before), origin)
    risk_state = risk.update(risk.start(risk_artifact), _mids(before))
    cost = TransactionCost(replace(config.cost, step_ns=instrument.step_ns), instrument.terms)
    cost_artifact = cost.fit(_quotes(before), origin)
    return Market(
        rows=rows,
        risk=risk.batch(risk_state, _mids(rows), risk_artifact)[0],
        cost=cost.batch(cost.start(cost_artifact), _quotes(rows), cost_artifact)[0],
        artifact=cost_artifact,
    )


def alpha(
    strategy: str, instrument: Instrument, start_ns: int, config: BacktestConfig, origin: Origin
) -> Alpha:
    """Forecasts in the test period, currency per lot; a row for each time that has one."""
    if strategy == FLOW:
        before, rows = _split(instrument.rows, start_ns)
        model = FlowAlpha(replace(config.flow, step_ns=instrument.step_ns))
        known = np.isin(instrument.labels.ts, before.ts)
        artifact = model.fit(FlowWindow(_flows(before), part(instrument.labels, known)), origin)
        state = model.update(model.start(artifact), _flows(before))
        return in_currency(model.batch(state, _flows(rows), artifact)[0], instrument.terms)
    scored = ScoreAlpha(config.score)
    fitted = scored.fit(instrument.labels, origin)
    given = instrument.scores[strategy]
    return in_currency(scored.batch(scored.start(fitted), given, fitted)[0], instrument.terms)


def plan(
    forecast: Alpha, around: Market, instrument: Instrument, start_ns: int, config: BacktestConfig
) -> Plan:
    """The table of one strategy: one row a grid row of the test period, usable or not."""
    test = instrument.rows.ts >= start_ns
    rows = instrument.rows.part(test)
    runs = _runs(rows, instrument.step_ns)
    fresh = np.diff(runs, prepend=-1) != 0
    early = rows.ts + config.flatten_ns < instrument.closes[test]
    live = np.isin(rows.ts, forecast.as_of) & rows.usable & ~fresh & early
    ts = rows.ts[live]
    wanted = table(
        live,
        _at(forecast, ts),
        _at(around.risk, ts),
        _at(around.cost, ts),
        config.position,
    )
    expires = rows.ts + config.latency_ns + config.order_ttl_ns
    return Plan(Decisions(rows.ts, expires, wanted), live, _carried_mid(instrument.rows)[test])


def table(live: Flags, forecast: Alpha, risk: Risk, cost: Cost, config: PositionConfig) -> NDArray[np.int16]:
    """[n, 2 x max_position + 1]: lots wanted for each lots held; the outputs have a row for each live row."""
    rule = PositionRule(config)
    held = np.arange(-config.max_position, config.max_position + 1)
    out = held - np.clip(held, -config.max_trade, config.max_trade)
    wanted = np.tile(out.astype(np.int16), (len(live), 1))
    if live.any():
        for i, lots in enumerate(held):
            targets = rule.targets(forecast, risk, cost, np.full(len(forecast), lots, np.int64))
            wanted[live, i] = targets.lots
    return wanted


def _split(rows: GridRows, start_ns: int) -> tuple[GridRows, GridRows]:
    """Usable rows before the test period, and those in it."""
    usable = rows.usable
    return rows.part(usable & (rows.ts < start_ns)), rows.part(usable & (rows.ts >= start_ns))


def _runs(rows: GridRows, step_ns: int) -> Ints:
    """Number of the run that each row belongs to: rows of one segment, a step apart."""
    broken = (np.diff(rows.segment) != 0) | (np.diff(rows.ts) != step_ns)
    return np.concatenate([[0], np.cumsum(broken)])[: len(rows.ts)]


def _at(output: AnyOutput, ts: Ints) -> AnyOutput:
    """The rows of an output at these times, which it has."""
    rows = np.searchsorted(output.as_of, ts)
    columns: dict[str, Any] = {
        name: value[rows] for name, value in vars(output).items() if isinstance(value, np.ndarray)
    }
    return replace(output, **columns)


def opening_mid(instrument: Instrument, start_ns: int) -> int:
    """Mid of the last usable row up to ``start_ns``, 1e-9; 0 where there is none."""
    known = _carried_mid(instrument.rows.part(instrument.rows.ts <= start_ns))
    return int(known[-1]) if len(known) else 0


def _carried_mid(rows: GridRows) -> Ints:
    """Mid of each row, or of the last usable row before it; 0 before the first."""
    usable = rows.usable
    last = np.maximum.accumulate(np.where(usable, np.arange(len(rows.ts)), -1)) if len(rows.ts) else rows.ts
    bid, ask = np.where(usable, rows.bid, 0), np.where(usable, rows.ask, 0)
    mid = bid + ((ask - bid) >> 1)
    return np.where(last >= 0, mid[np.maximum(last, 0)], 0)


def _mids(rows: GridRows) -> MidRows:
    return MidRows(ts=rows.ts, segment=rows.segment, mid=(rows.bid / NANO + rows.ask / NANO) / 2)


def _quotes(rows: GridRows) -> QuoteRows:
    return QuoteRows(
        ts=rows.ts, segment=rows.segment, bid=rows.bid / NANO, ask=rows.ask / NANO, volume=rows.volume
    )


def _flows(rows: GridRows) -> FlowRows:
    return FlowRows(ts=rows.ts, segment=rows.segment, ofi=rows.ofi.astype(np.float64))

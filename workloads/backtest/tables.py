"""The result tables of a backtest, from what became of each strategy and instrument."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from workloads.backtest.simulation import Outcome
from workloads.ticks.codes import Side
from workloads.ticks.schema import FILLS, LEDGER, ORDERS

Ints = NDArray[np.int64]


def order_numbers(outcomes: Sequence[Outcome]) -> list[Ints]:
    """The number of each order, from 1 within a strategy: by time of decision, then by instrument."""
    numbers = [np.zeros(len(outcome.decided), np.int64) for outcome in outcomes]
    for strategy in {outcome.strategy for outcome in outcomes}:
        mine = [i for i, outcome in enumerate(outcomes) if outcome.strategy == strategy]
        decided = np.concatenate([outcomes[i].decided for i in mine])
        ids = np.concatenate([np.full(len(numbers[i]), outcomes[i].instrument_id) for i in mine])
        ranks = np.zeros(len(decided), np.int64)
        ranks[np.lexsort((ids, decided))] = np.arange(1, len(decided) + 1)
        cuts = np.cumsum([len(numbers[i]) for i in mine])[:-1]
        for i, part in zip(mine, np.split(ranks, cuts), strict=True):
            numbers[i] = part
    return numbers


def orders(outcomes: Sequence[Outcome], latency_ns: int) -> pa.Table:
    """The `orders` table, by strategy and number."""
    parts = [
        {
            **_names(outcome, len(outcome.decided)),
            "order": number,
            "ts_decision": outcome.decided,
            "ts_arrival": outcome.decided + latency_ns,
            "side": _side(outcome.trades.size),
            "size": np.abs(outcome.trades.size),
            "decision_mid": outcome.decision_mid,
            "filled": np.abs(outcome.trades.filled),
            "reason": np.where(outcome.alpha, "alpha", "flatten"),
        }
        for outcome, number in zip(outcomes, order_numbers(outcomes), strict=True)
    ]
    return _table(parts, ORDERS.arrow, "order")


def fills(outcomes: Sequence[Outcome]) -> pa.Table:
    """The `fills` table, by strategy and time."""
    parts = [
        {
            **_names(outcome, len(outcome.fills.ts)),
            "order": number[outcome.trades.filled != 0],
            "ts_fill": outcome.fills.ts,
            "side": _side(outcome.fills.lots),
            "size": np.abs(outcome.fills.lots),
            "price": outcome.fills.price,
            "mid": outcome.fills.mid,
            "commission": outcome.fills.commission,
            "impact": outcome.fills.impact,
            "liquidity": np.full(len(outcome.fills.ts), "taker"),
        }
        for outcome, number in zip(outcomes, order_numbers(outcomes), strict=True)
    ]
    return _table(parts, FILLS.arrow, "ts_fill")


def ledger(outcomes: Sequence[Outcome]) -> pa.Table:
    """The `ledger` table, by strategy and time."""
    parts = [{**_names(o, len(o.ledger.ts)), **vars(o.ledger)} for o in outcomes]
    return _table(parts, LEDGER.arrow, "ts")


def _names(outcome: Outcome, rows: int) -> dict[str, Any]:
    return {
        "strategy": np.full(rows, outcome.strategy),
        "instrument_id": np.full(rows, outcome.instrument_id, np.int32),
    }


def _side(lots: Ints) -> NDArray[np.uint8]:
    return np.where(lots > 0, int(Side.BUY), int(Side.SELL)).astype(np.uint8)


def _table(parts: Sequence[dict[str, Any]], schema: pa.Schema, by: str) -> pa.Table:
    """All parts under a schema: strategies as they come, rows by a column, then by instrument."""
    if not parts:
        return schema.empty_table()
    columns = {name: np.concatenate([part[name] for part in parts]) for name in schema.names}
    names = list(dict.fromkeys(_name(part) for part in parts))
    place = np.concatenate([np.full(len(part[by]), names.index(_name(part))) for part in parts])
    rows = np.lexsort((columns["instrument_id"], columns[by], place))
    return pa.table([pa.array(columns[f.name][rows]).cast(f.type) for f in schema], schema=schema)


def _name(part: dict[str, Any]) -> str:
    return str(part["strategy"][0]) if len(part["strategy"]) else ""

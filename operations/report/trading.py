"""What the backtest's strategies earned: equity, drawdown, positions and costs, from the ledger alone.

Money is in units of the currency (the tables hold 1e-9 of it), times are int64 ns since the UNIX epoch.
"""

from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from operations.report.arrival import integers
from operations.report.interval import Interval, mean_interval
from workloads.ticks.archive import Archive, RunPartition
from workloads.training.scoring import time_blocks

NANO = 1e9
COSTS = ("spread_cost", "impact_cost", "commission")
COST_NAMES = {"spread_cost": "spread", "impact_cost": "impact", "commission": "commission"}
_COLUMNS = ["strategy", "instrument_id", "ts", "position", "value", *COSTS]


@dataclass(frozen=True)
class Held:
    """The position of one instrument over time, lots."""

    ts: NDArray[np.int64]
    lots: NDArray[np.int64]


@dataclass(frozen=True)
class Strategy:
    """One strategy at n mark times, all instruments together."""

    name: str
    ts: NDArray[np.int64]
    net: NDArray[np.float64]
    """Profit so far, after all costs."""
    gross: NDArray[np.float64]
    """... before them."""
    costs: dict[str, float]
    """By kind, at the end; what was paid is positive."""
    pnl: Interval
    """``net`` at the end; the interval is that of the sum of what it made between marks."""
    positions: dict[int, Held]
    by_instrument: dict[int, float]
    """Net profit at the end."""
    orders: int = 0
    unfilled: int = 0
    """Orders that filled nothing."""
    fills: int = 0

    @property
    def traded(self) -> bool:
        """Whether it ever held anything."""
        return self.fills > 0 or any(held.lots.any() for held in self.positions.values())

    @property
    def drawdown(self) -> NDArray[np.float64]:
        """How far below its highest value so far, the start's 0 included; 0 or less."""
        return self.net - np.maximum(np.maximum.accumulate(self.net), 0.0)


@dataclass(frozen=True)
class Trading:
    """A backtest's strategies, in the order of the run's own summary, then by name."""

    strategies: list[Strategy] = field(default_factory=list)


def trading(archive: Archive, run: str, order: list[str], horizon_ns: int) -> Trading:
    """Read the ledger, orders and fills of one backtest; empty where it wrote none.

    ``horizon_ns``: of the forecasts traded; blocks of time for the intervals are at least five times as long.
    """
    rows = _read(archive, "ledger", run, _COLUMNS)
    if rows is None or not rows.num_rows:
        return Trading()
    orders = _read(archive, "orders", run, ["strategy", "filled"])
    fills = _read(archive, "fills", run, ["strategy"])
    names = rows["strategy"].cast(pa.string())
    there = sorted(pc.unique(names).to_pylist())
    out = []
    for name in [*(n for n in order if n in there), *(n for n in there if n not in order)]:
        filled = _of(orders, name)["filled"] if orders is not None else pa.chunked_array([], pa.int64())
        out.append(
            strategy(
                name,
                rows.filter(pc.equal(names, name)),
                horizon_ns,
                orders=len(filled),
                unfilled=int(pc.sum(pc.equal(filled, 0)).as_py() or 0),
                fills=_of(fills, name).num_rows if fills is not None else 0,
            )
        )
    return Trading(out)


def strategy(
    name: str, rows: pa.Table, horizon_ns: int, *, orders: int = 0, unfilled: int = 0, fills: int = 0
) -> Strategy:
    """Add up the instruments of one strategy; one that has no mark at a time keeps its last one."""
    instrument, at = integers(rows, "instrument_id"), integers(rows, "ts")
    ts = np.unique(at)
    net = np.zeros(len(ts))
    paid = {cost: np.zeros(len(ts)) for cost in COSTS}
    positions, by_instrument = {}, {}
    for one in np.unique(instrument).tolist():
        mine = np.flatnonzero(instrument == one)
        mine = mine[np.argsort(at[mine], kind="stable")]
        last = np.searchsorted(at[mine], ts, side="right") - 1

        def marks(
            column: str, mine: NDArray[np.intp] = mine, last: NDArray[np.intp] = last
        ) -> NDArray[np.float64]:
            values = integers(rows, column)[mine] / NANO
            return np.where(last >= 0, values[np.maximum(last, 0)], 0.0)

        value = marks("value")
        net += value
        for cost in COSTS:
            paid[cost] += marks(cost)
        positions[one] = Held(at[mine], integers(rows, "position")[mine])
        by_instrument[one] = float(value[-1])
    return Strategy(
        name=name,
        ts=ts,
        net=net,
        gross=net + np.sum(list(paid.values()), axis=0),
        costs={COST_NAMES[cost]: float(paid[cost][-1]) for cost in COSTS},
        pnl=pnl_interval(ts, net, horizon_ns),
        positions=positions,
        by_instrument=by_instrument,
        orders=orders,
        unfilled=unfilled,
        fills=fills,
    )


def pnl_interval(ts: NDArray[np.int64], net: NDArray[np.float64], horizon_ns: int) -> Interval:
    """The profit at the end, with n times the interval of its mean change from mark to mark."""
    return mean_interval(np.diff(net, prepend=0.0), time_blocks(ts, horizon_ns)).scaled(len(net))


def _read(archive: Archive, table: str, run: str, columns: list[str]) -> pa.Table | None:
    partition = RunPartition(run)
    if partition not in archive.partitions(table, RunPartition):
        return None
    return archive.read(table, partition, columns=columns)


def _of(rows: pa.Table, name: str) -> pa.Table:
    return rows.filter(pc.equal(rows["strategy"].cast(pa.string()), name))

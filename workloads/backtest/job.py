"""The backtest as a job: strategies on a training run's test period, order by order through the books.

Reads the market's orders, a dataset and the scores of a training run; writes `orders`, `fills` and `ledger`
under an id that follows from what was read and asked. Equal inputs give equal tables, bit for bit.
"""

import builtins
from functools import partial
from typing import Any

from workloads.backtest import tables
from workloads.backtest.config import BacktestConfig
from workloads.backtest.inputs import Inputs, data_commit, read_inputs
from workloads.backtest.simulation import Outcome, simulate
from workloads.backtest.summary import SHARPE, capital_of, statistics_of
from workloads.runtime.jobs import emit, job_main
from workloads.runtime.parallel import Map, job_map
from workloads.ticks.archive import Archive, RunPartition, open_archive

Summary = dict[str, Any]
STEM = "all"


def run(archive: Archive, config: BacktestConfig, map: Map = map) -> Summary:
    """Simulate, write, sum up; safe to repeat.

    Returns
    -------
    dict
        What the job's ``done`` event says: ``run``, ``training_run``, ``dataset``, ``data_commit``,
        ``strategies`` (`summary.statistics_of`), ``period``, ``rows``, ``books`` (that could be met),
        ``books_from_grid`` (of them: the dataset's own rows, where no rebuilt book agrees with it),
        ``left_out`` (what could not be traded, and why), ``skipped`` (where that is all).

    Raises
    ------
    BacktestError
        If the inputs are missing or don't belong together.
    """
    at = data_commit(archive, config)
    run_id = config.run_id(at)
    inputs = read_inputs(archive, config, at)
    emit("progress", stage="simulate", done=0, total=len(inputs.channels), unit="channels")
    work = partial(simulate, archive=archive, config=config, period=inputs.period)
    outcomes: list[Outcome] = []
    left_out, books, from_grid = dict(inputs.left_out), 0, 0
    # To start a worker takes longer than one channel.
    each = map if len(inputs.channels) > 1 else builtins.map
    for done, simulated in enumerate(each(work, inputs.channels), 1):
        outcomes += simulated.outcomes
        left_out |= simulated.left_out
        books += simulated.books
        from_grid += simulated.books_from_grid
        emit("progress", stage="simulate", done=done, total=len(inputs.channels), unit="channels")
    outcomes.sort(key=lambda o: (config.strategies.index(o.strategy), o.instrument_id))
    made = {
        "orders": tables.orders(outcomes, config.latency_ns),
        "fills": tables.fills(outcomes),
        "ledger": tables.ledger(outcomes),
    }
    source = {"job": "backtest", "data_commit": at.id, "scores": config.scores_run}
    for table, rows in made.items():
        archive.commit(table, RunPartition(run_id), {STEM: rows}, source=source)
    return {
        "run": run_id,
        "training_run": config.scores_run,
        "dataset": config.dataset,
        "data_commit": {"id": at.id, "entries": dict(at.entries)},
        "strategies": _statistics(outcomes, inputs, config),
        "sharpe": SHARPE,
        "latency_ns": config.latency_ns,
        "period": {"start": inputs.period.start, "end": inputs.period.end},
        "rows": {table: rows.num_rows for table, rows in made.items()},
        "books": books,
        "books_from_grid": from_grid,
        "left_out": left_out,
        "skipped": None if outcomes else _nothing(left_out),
    }


def _nothing(left_out: dict[str, str]) -> str:
    """Why no strategy could trade anything."""
    reasons = "; ".join(f"{what}: {why}" for what, why in left_out.items())
    return f"nothing could be traded ({reasons or 'no instrument is defined'})"


def _statistics(outcomes: list[Outcome], inputs: Inputs, config: BacktestConfig) -> dict[str, Any]:
    capital = config.capital
    if capital is None:
        firsts = {o.instrument_id: int(o.ledger.mark[0]) for o in outcomes if len(o.ledger.ts)}
        valued = [(i, mid, inputs.period.start) for i, mid in firsts.items()]
        capital = capital_of(valued, config.position.max_position, inputs.definitions)
    return {
        strategy: statistics_of(
            [o for o in outcomes if o.strategy == strategy and len(o.ledger.ts)],
            capital,
            inputs.currency,
            config.mark_ns,
        )
        for strategy in config.strategies
    }


def run_job(config: BacktestConfig) -> None:
    """The job itself: reads its config, reports its progress and its result."""
    archive = open_archive(config.archive)
    emit("ready")
    emit("done", **run(archive, config, job_map()))


def main() -> None:
    job_main(BacktestConfig, run_job, __doc__)


if __name__ == "__main__":
    main()

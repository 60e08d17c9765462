"""Reading what a backtest works on: the test period, and everything known of each instrument."""

import datetime
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from workloads.backtest.books import MARKING, GridRows
from workloads.backtest.config import FLOW, BacktestConfig
from workloads.backtest.decisions import NO_CLOSE, Instrument
from workloads.backtest.engine import BacktestError
from workloads.backtest.simulation import Channel, Day, Period
from workloads.models.alpha import Labels, ScoreRows
from workloads.models.protocol import Origin, Terms
from workloads.ticks.archive import (
    Archive,
    DataCommit,
    DatasetPartition,
    MissingDataError,
    Partition,
    RunPartition,
    code_version,
)
from workloads.ticks.definitions import Definition, Definitions, MissingDefinitionError
from workloads.ticks.order_book import NULL_PRICE, column
from workloads.ticks.partitions import parse_partition
from workloads.ticks.sessions import MissingSessionError, session

Ints = NDArray[np.int64]

_ROWS = ["instrument_id", "ts", "segment", "bid_price", "ask_price", "bid_size", "ask_size", "ofi"]
_ROWS += ["buy_volume", "sell_volume"]
MARKET = ("mbo", "definitions", *MARKING)
DERIVED = ("book_tensors", "labels", "scores")
UNKNOWN = "unknown"


@dataclass(frozen=True)
class Inputs:
    """Everything but the orders of the market, which are streamed."""

    period: Period
    channels: tuple[Channel, ...]
    currency: str
    definitions: Definitions
    left_out: dict[str, str]


def data_commit(archive: Archive, config: BacktestConfig) -> DataCommit:
    """The state of all that the backtest reads: market tables, the dataset, the scores.

    ``config.data_commit`` decides wherever it names a table; what it doesn't name is read as of now. It may
    thus be the market's alone, from before the dataset was made, or the dataset's alone. Where it names the
    market at all, a part of the market that it doesn't name was not there yet and is not read.

    Raises
    ------
    MissingDataError
        If a log has fewer entries than ``config.data_commit`` needs.
    """
    given = config.data_commit.entries if config.data_commit is not None else {}
    whole_market = not any(path.split("/")[0] in MARKET for path in given)

    def read(path: str) -> bool:
        table, _, where = path.partition("/")
        if table in DERIVED:
            return where.startswith(f"dataset={config.dataset}/") or where == f"run={config.scores_run}"
        return table in MARKET and (whole_market or path in given)

    stored = archive.data_commit([*MARKET, *DERIVED]).entries
    logs = {}
    for path in filter(read, stored.keys() | given.keys()):
        table, _, where = path.partition("/")
        log = archive.log(table, parse_partition(table, where))
        if len(log) < (n := given.get(path, len(log))):
            raise MissingDataError(
                f"{archive.uri}/{path} has {len(log)} log entries, the data commit needs {n}; read the "
                "archive that it was made from, or wait until the replica has caught up"
            )
        logs[path] = log[:n]
    return DataCommit.of(logs)


def read_inputs(archive: Archive, config: BacktestConfig, at: DataCommit) -> Inputs:
    """Read dataset, scores and definitions as of ``at``.

    Raises
    ------
    BacktestError
        If there are no scores of a test period, no such model, no such dataset, or several currencies.
    """
    scores = _scores(archive, config, at)
    tested = scores.filter(pc.equal(scores["split"], "test"))
    if not tested.num_rows:
        raise BacktestError(
            f"run {config.scores_run} holds {scores.num_rows} scores and none of a test period; train on a "
            "longer dataset"
        )
    times = column(tested, "ts", np.int64, 0)
    start, last = int(times.min()), int(times.max())
    dates = _dates(config, at)
    rows = _grid_rows(archive, config, at, dates)
    labels = _labels(archive, config, at, dates, start)
    definitions = Definitions(archive.read("definitions", at=at))
    known, left_out = _defined(rows, definitions, start)
    currency = _currency(known, config, left_out)
    known = {i: fact for i, fact in known.items() if _quoted_in(fact) == currency}
    step_ns = _step(rows)
    instruments = {
        i: Instrument(
            instrument_id=i,
            terms=Terms.of(fact),
            step_ns=step_ns,
            rows=rows[i][0],
            closes=_closes(fact.venue, dates)[rows[i][1]],
            labels=labels.get(i, _NO_LABELS),
            scores=_scores_of(tested, i, config),
        )
        for i, fact in known.items()
    }
    days = _days(rows, dates, (start, last), config.mark_ns)
    return Inputs(
        period=Period(days, Origin(at.id, code_version()), at),
        channels=_channels(known, instruments, at, {day.date for day in days}, definitions),
        currency=currency,
        definitions=definitions,
        left_out=left_out,
    )


def _scores(archive: Archive, config: BacktestConfig, at: DataCommit) -> pa.Table:
    run = RunPartition(config.scores_run)
    if f"scores/{run.path}" not in at.entries:
        there = ", ".join(p.run for p in archive.partitions("scores", RunPartition)) or "none"
        raise BacktestError(
            f"no scores of run {config.scores_run} under {archive.uri}; there are {there}: train first"
        )
    scores = archive.read("scores", run, at=at)
    for name in ("model", "split"):
        scores = scores.set_column(scores.column_names.index(name), name, scores[name].cast(pa.string()))
    models = set(pc.unique(scores["model"]).to_pylist())
    if unknown := [name for name in config.strategies if name != FLOW and name not in models]:
        raise BacktestError(
            f"run {config.scores_run} has no scores of {', '.join(unknown)}; strategies are "
            f"{', '.join(sorted(models))} and {FLOW}"
        )
    return scores


def _dates(config: BacktestConfig, at: DataCommit) -> list[datetime.date]:
    prefix = f"book_tensors/dataset={config.dataset}/date="
    dates = sorted(
        datetime.date.fromisoformat(path.removeprefix(prefix))
        for path in at.entries
        if path.startswith(prefix)
    )
    if not dates:
        there = sorted({path.split("/")[1] for path in at.entries if path.startswith("book_tensors/")})
        raise BacktestError(
            f"no book_tensors of dataset {config.dataset}; there are {', '.join(there) or 'none'}: run "
            "features first"
        )
    return dates


def _grid_rows(
    archive: Archive, config: BacktestConfig, at: DataCommit, dates: Iterable[datetime.date]
) -> dict[int, tuple[GridRows, Ints]]:
    """Rows of each instrument by time, and the number of each row's date; frames are not read."""
    tables = [
        archive.read("book_tensors", DatasetPartition(config.dataset, date), columns=_ROWS, at=at)
        for date in dates
    ]
    days = np.repeat(np.arange(len(tables)), [table.num_rows for table in tables])
    everything = pa.concat_tables(tables).combine_chunks()
    ids = column(everything, "instrument_id", np.int64, 0)
    ts = column(everything, "ts", np.int64, 0)
    order = np.lexsort((ts, ids))
    numbers = {
        name: column(everything, name, np.int64, NULL_PRICE if name.endswith("price") else 0)[order]
        for name in _ROWS
    }
    made = {}
    for i in np.unique(ids).tolist():
        mine = slice(*np.searchsorted(numbers["instrument_id"], (i, i + 1)).tolist())
        rows = GridRows(
            ts=numbers["ts"][mine],
            segment=numbers["segment"][mine],
            bid=numbers["bid_price"][mine],
            ask=numbers["ask_price"][mine],
            bid_size=numbers["bid_size"][mine],
            ask_size=numbers["ask_size"][mine],
            ofi=numbers["ofi"][mine],
            volume=numbers["buy_volume"][mine] + numbers["sell_volume"][mine],
        )
        made[i] = (rows, days[order][mine])
    return made


def _labels(
    archive: Archive, config: BacktestConfig, at: DataCommit, dates: Iterable[datetime.date], start: int
) -> dict[int, Labels]:
    """Labels that were known before the test period."""
    tables = [
        archive.read("labels", partition, columns=["instrument_id", "ts", "ts_end", "move"], at=at)
        for partition in (DatasetPartition(config.dataset, date) for date in dates)
        if f"labels/{partition.path}" in at.entries
    ]
    if not tables:
        return {}
    rows = pa.concat_tables(tables)
    ids, ts, ends, moves = (column(rows, name, np.int64, 0) for name in rows.column_names)
    known = np.flatnonzero(ends <= start)
    known = known[np.lexsort((ts[known], ids[known]))]
    return {
        int(i): Labels(ts=ts[mine], ts_end=ends[mine], move=moves[mine])
        for i in np.unique(ids[known])
        if len(mine := known[ids[known] == i])
    }


_NO_LABELS = Labels(*np.zeros((3, 0), np.int64))


def _scores_of(tested: pa.Table, instrument_id: int, config: BacktestConfig) -> dict[str, ScoreRows]:
    mine = tested.filter(pc.equal(tested["instrument_id"], instrument_id)).sort_by("ts")
    made = {}
    for model in config.strategies:
        if model != FLOW:
            rows = mine.filter(pc.equal(mine["model"], model))
            made[model] = ScoreRows(
                column(rows, "ts", np.int64, 0),
                *(column(rows, name, np.float64, 0) for name in ("p_down", "p_flat", "p_up")),
            )
    return made


def _defined(
    rows: Mapping[int, object], definitions: Definitions, ts: int
) -> tuple[dict[int, Definition], dict[str, str]]:
    """The definition of each instrument, and why some have none that gives money."""
    known, left_out = {}, {}
    for i in rows:
        try:
            fact = definitions.at(i, ts)
        except MissingDefinitionError as error:
            left_out[f"instrument {i}"] = str(error)
            continue
        if fact.tick and fact.multiplier:
            known[i] = fact
        else:
            left_out[f"instrument {i}"] = f"the definition of {fact.symbol} gives no tick or no multiplier"
    return known, left_out


def _currency(known: Mapping[int, Definition], config: BacktestConfig, left_out: dict[str, str]) -> str:
    """The currency that is traded; instruments of another are left out only where one was chosen."""
    there = sorted({_quoted_in(fact) for fact in known.values()})
    if config.currency is None and len(there) > 1:
        raise BacktestError(
            f"instruments are quoted in {', '.join(there)}, whose profits cannot be added; choose one with "
            "currency"
        )
    chosen = config.currency or (there[0] if there else "")
    for i, fact in known.items():
        if _quoted_in(fact) != chosen:
            left_out[f"instrument {i}"] = f"quoted in {_quoted_in(fact)}, not in {chosen}"
    return chosen


def _quoted_in(fact: Definition) -> str:
    """The currency of a definition; `UNKNOWN` where the venue gave none."""
    return fact.currency or UNKNOWN


def _step(rows: Mapping[int, tuple[GridRows, Ints]]) -> int:
    """Distance of the grid's rows, ns."""
    gaps = [np.diff(grid.ts).min() for grid, _ in rows.values() if len(grid.ts) > 1]
    if not gaps:
        raise BacktestError("no instrument has two rows in the dataset; record a longer session")
    return int(min(gaps))


def _closes(venue: str, dates: Iterable[datetime.date]) -> Ints:
    """When the session of each date closes by the exchange's calendar; `NO_CLOSE` where there is none."""

    def close(date: datetime.date) -> int:
        try:
            return session(venue, date).close_ns
        except (MissingSessionError, ValueError):  # no session on that date, no calendar of that venue
            return NO_CLOSE

    return np.array([close(date) for date in dates], np.int64)


def _days(
    rows: Mapping[int, tuple[GridRows, Ints]],
    dates: list[datetime.date],
    span: tuple[int, int],
    mark_ns: int,
) -> tuple[Day, ...]:
    """The dates of the test period, with the times of their first and last rows of any instrument.

    ``span``: times of the first and the last score; the period ends with the rows of the date of the last.
    """
    made = []
    for number, date in enumerate(dates):
        times = [grid.ts[days == number] for grid, days in rows.values()]
        inside = [ts[ts >= span[0]] for ts in times]
        bounds = [ts[[0, -1]] for ts in inside if len(ts)]
        if not bounds or min(b[0] for b in bounds) > span[1]:
            continue
        start, end = int(min(b[0] for b in bounds)), int(max(b[1] for b in bounds))
        inner = np.arange(start // mark_ns * mark_ns + mark_ns, end, mark_ns, dtype=np.int64)
        made.append(Day(date, start, end, np.unique(np.concatenate([[start], inner, [end]]))))
    return tuple(made)


def _channels(
    known: Mapping[int, Definition],
    instruments: Mapping[int, Instrument],
    at: DataCommit,
    dates: set[datetime.date],
    definitions: Definitions,
) -> tuple[Channel, ...]:
    """Instruments by channel, with their partitions of these dates."""
    stored = sorted(
        Partition.parse(path.removeprefix("mbo/")) for path in at.entries if path.startswith("mbo/")
    )
    made = []
    for venue, channel in sorted({(fact.venue, fact.channel) for fact in known.values()}):
        made.append(
            Channel(
                venue=venue,
                channel=channel,
                partitions=tuple(
                    p for p in stored if (p.venue, p.channel) == (venue, channel) and p.date in dates
                ),
                instruments=tuple(
                    instruments[i]
                    for i, fact in sorted(known.items())
                    if (fact.venue, fact.channel) == (venue, channel)
                ),
                definitions=definitions,
            )
        )
    return tuple(made)

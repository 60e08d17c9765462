"""A run folder with research in it, made by hand: tables of the archive's schemas, and run.json.

Small and quick, but shaped like a real one: the market is a path of the simulator's hidden chain, the models
are the optimal filter and worse copies of it, the strategies trade on their scores and pay.
"""

import json
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from workloads.exchange.forecast import (
    DriftModel,
    filtered,
    move_probabilities,
    simulated_path,
)
from workloads.exchange.job import ExchangeConfig
from workloads.exchange.simulator import SimulatorConfig
from workloads.exchange.simulator.truth import BOOK, Truth
from workloads.runtime.jobs import config_json
from workloads.ticks.archive import DatasetPartition, Partition, RunPartition, open_archive
from workloads.ticks.codes import CleaningRule, Side
from workloads.ticks.schema import TABLES

NANO = 1_000_000_000
STEP = NANO // 4
HORIZON = 10
MARKET = Partition("XCME", date(2026, 1, 5), 310)
DATASET, TRAINED, TESTED = "book-1f3a9c04", "vit-7d20b1e5", "backtest-09bc11aa"
DAY = DatasetPartition(DATASET, date(2026, 1, 5))
TICK = NANO // 4
MULTIPLIER = 50
CAPITAL = 100_000.0
SYMBOLS = {1: "ESH6", 2: "CLG6", 3: "6EH6", 4: "ZNH6"}


@dataclass(frozen=True)
class Made:
    """The folder, and what a test may want to know of it."""

    folder: Path
    run: dict[str, Any]

    def save(self) -> None:
        """Write run.json as it is now."""
        (self.folder / "run.json").write_text(json.dumps(self.run))


def rows(name: str, columns: dict[str, Any]) -> pa.Table:
    """A table of the schema from columns; what isn't named is null."""
    n = len(next(iter(columns.values())))
    fields = []
    for field in TABLES[name].arrow:
        values = columns.get(field.name)
        fields.append(pa.nulls(n, field.type) if values is None else pa.array(values).cast(field.type))
    return pa.table(fields, schema=TABLES[name].arrow)


def make(
    folder: Path,
    *,
    instruments: int = 2,
    steps: int = 2_400,
    simulated: bool = True,
    skill: float = 0.8,
    cost: float = 1.0,
    look_ahead: bool = False,
    seed: int = 7,
) -> Made:
    """Write everything.

    ``skill``: 1 is the optimal filter itself, 0 noise. ``cost``: times half a spread of one tick, per lot.
    ``look_ahead``: the trained model is told what came.
    """
    random = np.random.default_rng(seed)
    config = SimulatorConfig(seed=seed, duration_ns=steps * STEP)
    archive = open_archive(str(folder / "archive"))
    ids = list(SYMBOLS)[:instruments]
    model = DriftModel()
    ts = config.origin_ns + STEP * np.arange(1, steps + 1)
    paths = {i: simulated_path(model, steps, random.poisson(3, 997), seed + i) for i in ids}
    marks = {"definitions": _definitions(ids, config.start_ns)}
    archive.commit("definitions", MARKET, {"d": marks["definitions"]})

    books, labels, scores, truth_of = [], [], [], {}
    for i in ids:
        moves = paths[i][1].moves
        best = move_probabilities(filtered(paths[i][1], model), model, HORIZON)
        ahead = np.concatenate([[0], np.cumsum(moves)])
        sums = np.array([ahead[min(k + 1 + HORIZON, steps)] - ahead[k + 1] for k in range(steps)])
        segment, rules = _segments(steps, i)
        books.append({"instrument_id": np.full(steps, i), "ts": ts, "segment": segment, "rules": rules})
        there = np.zeros(steps, bool)
        there[:-HORIZON] = (segment[:-HORIZON] >= 0) & (segment[:-HORIZON] == segment[HORIZON:])
        labels.append(
            {"instrument_id": np.full(steps, i), "ts": ts, "ts_end": ts + HORIZON * STEP}
            | {"move": 2 * sums, "label": np.sign(sums)}
        )
        labels[-1] = {name: values[there] for name, values in labels[-1].items()}
        truth_of[i] = sums
        usable = segment >= 0
        told = np.eye(3)[np.sign(sums) + 1] if look_ahead else best
        noise = random.dirichlet([2.0, 2.0, 2.0], steps)
        weak = random.dirichlet([2.0, 2.0, 2.0], steps)
        for name, p in (
            ("vit", skill * told + (1 - skill) * noise),
            ("logistic", 0.45 * skill * best + (1 - 0.45 * skill) * weak),
            ("majority", np.tile([0.3, 0.38, 0.32], (steps, 1))),
        ):
            columns = {"model": np.full(steps, name), "instrument_id": np.full(steps, i), "ts": ts}
            columns |= {"p_down": p[:, 0], "p_flat": p[:, 1], "p_up": p[:, 2], "split": _splits(steps)}
            scores.append({key: values[usable] for key, values in columns.items()})
    archive.commit("book_tensors", DAY, {"b": rows("book_tensors", _joined(books))})
    archive.commit("labels", DAY, {"l": rows("labels", _joined(labels))})
    archive.commit("cleaning", DAY, {"c": rows("cleaning", _cleaning(ids, books))})
    archive.commit("scores", RunPartition(TRAINED), {"s": rows("scores", _joined(scores))})
    archive.commit("learning", RunPartition(TRAINED), {"l": rows("learning", _learning())})
    strategies = _backtest(archive, ids, paths, ts, scores, config, cost)

    if simulated:
        _truth(folder, config, ids, paths)
    made = Made(folder, _run(simulated, strategies, archive.data_commit(), seed))
    made.save()
    return made


def _definitions(ids: list[int], start: int) -> pa.Table:
    n = len(ids)
    columns = {"ts_sent": np.full(n, start), "venue": ["XCME"] * n, "channel": np.full(n, 310)}
    columns |= {"epoch": np.full(n, 2026010400), "seq": np.arange(n), "msg_index": np.zeros(n, int)}
    columns |= {"entry_index": np.zeros(n, int), "instrument_id": ids, "symbol": [SYMBOLS[i] for i in ids]}
    columns |= {
        "currency": ["USD"] * n,
        "tick": np.full(n, TICK),
        "multiplier": np.full(n, MULTIPLIER * NANO),
    }
    return rows("definitions", columns)


def _segments(steps: int, instrument: int) -> tuple[np.ndarray, np.ndarray]:
    """Closed at first, a loss in the middle, a one-sided book now and then."""
    rules = np.zeros(steps, np.int64)
    rules[:20] |= CleaningRule.CLOSED
    rules[steps // 3 : steps // 3 + 60] |= CleaningRule.GAP
    rules[steps // 3 + 1 : steps // 3 + 60] |= CleaningRule.STALE
    rules[steps // 2 : steps // 2 + 5 * instrument] |= CleaningRule.EMPTY
    usable = rules == 0
    number = np.cumsum(usable & ~np.append(False, usable[:-1])) + 100 * instrument
    return np.where(usable, number, -1), rules


def _splits(steps: int) -> np.ndarray:
    out = np.full(steps, "train", dtype=object)
    out[int(0.6 * steps) - HORIZON :] = "validation"
    out[int(0.75 * steps) :] = "test"
    return out


def _cleaning(ids: list[int], books: list[dict[str, Any]]) -> dict[str, Any]:
    found: list[tuple[int | None, str, str, int, int]] = []
    for i, book in zip(ids, books, strict=True):
        found.append((i, "mbo", "rows", 10_000 * i, 0))
        found.append((i, "mbo", "stale", 120 * i, 120 * i))
        found.append((i, "mbo", "crossed", 3 * i, 0))
        found.append((i, "trades", "rows", 900 * i, 0))
        found.append((i, "trades", "outlier", i, i))
        found.append((i, "book_tensors", "rows", len(book["ts"]), 0))
        for rule in (CleaningRule.CLOSED, CleaningRule.GAP, CleaningRule.EMPTY):
            n = int(((book["rules"] & rule) != 0).sum())
            found.append((i, "book_tensors", str(rule.name).lower(), n, n))
    found.append((None, "mbo", "rows", 7, 0))
    names = ("instrument_id", "source", "rule", "rows", "excluded")
    return {name: [row[place] for row in found] for place, name in enumerate(names)}


def _learning() -> dict[str, Any]:
    epoch = np.arange(9)
    return {
        "model": ["vit"] * 9,
        "epoch": epoch,
        "train_loss": pa.array([None, *(0.8 + 0.29 * 0.7 ** epoch[1:])]),
        "validation_loss": 0.84 + 0.25 * 0.65**epoch + 0.004 * np.maximum(0, epoch - 6),
        "validation_accuracy": 0.62 - 0.24 * 0.6**epoch,
    }


def _backtest(
    archive: Any,
    ids: list[int],
    paths: dict[int, Any],
    ts: np.ndarray,
    scores: list[dict[str, Any]],
    config: SimulatorConfig,
    cost: float,
) -> dict[str, Any]:
    """Long or short one lot where a model is sure enough; half a spread, impact and a fee on each lot."""
    first = int(0.75 * len(ts))
    orders: dict[str, list[Any]] = {field.name: [] for field in TABLES["orders"].arrow}
    fills: dict[str, list[Any]] = {field.name: [] for field in TABLES["fills"].arrow}
    ledger: dict[str, list[Any]] = {field.name: [] for field in TABLES["ledger"].arrow}
    out = {}
    for strategy, model, sure in (("vit", "vit", 0.25), ("flow", "logistic", 0.3)):
        total = 0
        for i in ids:
            (score,) = [
                s for s in scores if len(s["ts"]) and s["model"][0] == model and s["instrument_id"][0] == i
            ]
            lean = np.zeros(len(ts))
            lean[np.searchsorted(ts, score["ts"])] = score["p_up"] - score["p_down"]
            mid = 100 * NANO + np.cumsum(paths[i][1].moves) * TICK
            position = cash = spread = impact = fees = 0
            for k in range(first, len(ts)):
                last = k == len(ts) - 1
                target = 0 if last else int(np.sign(lean[k])) if abs(lean[k]) > sure else position
                if target != position:
                    lots, at = target - position, int(ts[k]) + 5_000_000
                    half = int(abs(lots) * cost * TICK // 2 * MULTIPLIER)
                    bent, fee = int(abs(lots) * cost * NANO // 4), int(abs(lots) * NANO // 2)
                    cash -= lots * int(mid[k]) * MULTIPLIER + half + bent + fee
                    spread, impact, fees = spread + half, impact + bent, fees + fee
                    position = target
                    number = len(orders["order"])
                    side = Side.BUY if lots > 0 else Side.SELL
                    order = (strategy, number, i, int(ts[k]), at, side, abs(lots), int(mid[k]), abs(lots))
                    _append(orders, *order, "flatten" if last else "alpha")
                    price = int(mid[k]) + int(np.sign(lots)) * TICK // 2
                    fill = (strategy, number, i, at, side, abs(lots), price, int(mid[k]), fee, bent)
                    _append(fills, *fill, "taker")
                if k % 4 == 0 or last:
                    value = cash + position * int(mid[k]) * MULTIPLIER
                    row = (strategy, i, int(ts[k]), position, int(mid[k]), cash, value, spread, impact)
                    _append(ledger, *row, fees)
            total += cash
        out[strategy] = {
            "currency": "USD",
            "capital": CAPITAL,
            "pnl": total / NANO,
            "sharpe": 2.31,
            "sharpe_low": -1.4,
            "sharpe_high": 6.02,
            "max_drawdown": -0.0123,
            "turnover": 12.5,
            "round_trips": 40,
            "hit_rate": 0.525,
            "holding_seconds": 14.2,
        }
    for name, columns in (("orders", orders), ("fills", fills), ("ledger", ledger)):
        archive.commit(name, RunPartition(TESTED), {"all": rows(name, columns)})
    return out


def _append(columns: dict[str, list[Any]], *values: Any) -> None:
    for column, value in zip(columns.values(), values, strict=True):
        column.append(value)


def _truth(folder: Path, config: SimulatorConfig, ids: list[int], paths: dict[int, Any]) -> None:
    n = len(ids)
    stack = {
        name: np.stack([getattr(paths[i][1], name) for i in ids], axis=1)
        for name in ("moves", "bid_adds", "adds")
    }
    Truth(
        instrument_id=np.array(ids, np.int32),
        wire_tick=np.full(n, TICK),
        opening_bid=np.full(n, 100 * NANO),
        ts_step=config.origin_ns + STEP * np.arange(config.steps),
        states=np.stack([paths[i][0] for i in ids], axis=1).astype(np.int8),
        moves=stack["moves"].astype(np.int8),
        bid_adds=stack["bid_adds"].astype(np.uint16),
        adds=stack["adds"].astype(np.uint16),
        book=np.zeros(0, BOOK),
        volume=np.zeros(n, np.int64),
        packets=0,
        snapshot_packets=0,
        messages=np.zeros(256, np.int64),
        events=0,
        trades=0,
    ).save(folder / "truth.npz")
    exchange = ExchangeConfig(endpoints=(), interface="127.0.0.1", simulator=config, out=str(folder))
    (folder / "exchange.json").write_text(config_json(exchange))


def _run(simulated: bool, strategies: dict[str, Any], commit: Any, seed: int) -> dict[str, Any]:
    source = {"kind": "simulator", "name": "simulator, seed 7", "seed": seed, "speed": 200.0}
    capture = {"kind": "capture", "name": "day.mbo.dbn.zst", "seed": None, "speed": 0.0}
    made_from = {"id": commit.id, "entries": dict(commit.entries)}
    return {
        "name": "20261122T154112",
        "command": "tickworks run --seed 7",
        "source": (source if simulated else capture) | {"notes": []},
        "environment": "local",
        "venue": "XCME",
        "channel": 310,
        "started": "2026-11-22T15:41:12+00:00",
        "finished": "2026-11-22T15:43:51+00:00",
        "seconds": {"prepare": 1.9, "feed": 15.1, "store": 2.4, "prove": 0.3}
        | {"features": 11.8, "training": 74.2, "backtest": 9.6},
        "version": "0.1.0",
        "machine": {"cpu": "a CPU", "cores": 2, "memory_gib": 7.8, "kernel": "6.8", "python": "3.11.2"},
        "data_commit": commit.id,
        "research": {
            "features": {
                "config": {"name": "book", "step_ns": STEP, "levels": 10, "horizon_ns": HORIZON * STEP},
                "result": {
                    "dataset": DATASET,
                    "data_commit": made_from,
                    "rows": {"book_tensors": 4_800, "labels": 4_600},
                    "instruments": 2,
                    "frames": 4_800,
                    "labels": 4_600,
                    "skipped": None,
                },
            },
            "training": {
                "config": {"dataset": DATASET, "seed": seed, "window": 64, "permute_labels": False},
                "result": {
                    "run": TRAINED,
                    "dataset": DATASET,
                    "data_commit": made_from,
                    "seed": seed,
                    "device": "cpu",
                    "workers": 2,
                    "samples": {"train": 2_706, "validation": 700, "test": 1_180},
                    "epochs": 8,
                    "restarts": 0,
                },
            },
            "backtest": {
                "config": {"dataset": DATASET, "scores_run": TRAINED, "latency_ns": 5_000_000}
                | {"report_latency_ns": 5_000_000, "mark_ns": NANO}
                | {"cost": {"commission": 0.5, "impact": 1.0}, "position": {"max_position": 1}},
                "result": {"run": TESTED, "training_run": TRAINED, "dataset": DATASET}
                | {"data_commit": made_from, "strategies": strategies},
            },
            "skipped": None,
        },
    }


def _joined(parts: list[dict[str, Any]]) -> dict[str, Any]:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

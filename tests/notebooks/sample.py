"""A small archive with every table that the notebooks read, made without a network and without a model.

Market tables come from a simulated session through the real ingest. The derived and result tables are made
here from the session's truth, plainly, in the schemas that the jobs write.
"""

from pathlib import Path

import numpy as np
import pyarrow as pa

from tests.workloads.ingest.streams import Arrival, records
from workloads.exchange.forecast import DriftModel, forecast_at
from workloads.exchange.simulator import Simulator, SimulatorConfig, Truth
from workloads.ingest import frames
from workloads.ingest.arbitration import Rules
from workloads.ingest.pipeline import Pipeline
from workloads.ticks.archive import Archive, DatasetPartition, RunPartition, open_archive
from workloads.ticks.codes import CleaningRule, Side
from workloads.ticks.definitions import Definitions
from workloads.ticks.schema import TABLES

SECOND = 10**9
HORIZON = 10
LATENCY_NS = 5_000_000
CONFIG = SimulatorConfig(seed=21, duration_ns=150 * SECOND, snapshot_interval_ns=30 * SECOND)
DATASET, TRAINING, BACKTEST = "book-sample", "filter-sample", "backtest-sample"


def sample(folder: Path) -> tuple[Archive, Truth]:
    """The archive under ``folder``, and what really happened."""
    archive = open_archive(str(folder))
    truth = _market(archive)
    day = archive.partitions("mbo")[0].date
    definitions = Definitions(archive.read("definitions"))
    book = _book(truth, definitions)
    dataset = DatasetPartition(DATASET, day)
    for name, rows in {
        "book_tensors": book,
        "bars": _bars(book),
        "labels": _labels(truth, book),
        "cleaning": [
            {"instrument_id": i, "source": "mbo", "rule": rule, "rows": n, "excluded": 0}
            for i in truth.instrument_id.tolist()
            for rule, n in (("rows", 1000), ("locked", 3))
        ],
    }.items():
        archive.commit(name, dataset, {"XCME-310": _table(name, rows)})
    scores = _scores(truth)
    training = RunPartition(TRAINING)
    archive.commit("scores", training, {"scores": _table("scores", scores)})
    orders, fills, ledger = _backtest(truth, book, definitions)
    backtest = RunPartition(BACKTEST)
    for name, rows in {"orders": orders, "fills": fills, "ledger": ledger}.items():
        archive.commit(name, backtest, {name: _table(name, rows)})
    return archive, truth


def _market(archive: Archive) -> Truth:
    simulator = Simulator(CONFIG)
    pipeline = Pipeline(archive, "XCME", 310, Rules(first_seq=1), session="sample")
    for block in simulator.blocks():
        arrivals = []
        for packets, feeds in (
            (block.incremental, (frames.FEED_A, frames.FEED_B)),
            (block.snapshots, (frames.FEED_SNAPSHOT,)),
        ):
            for i in range(len(packets)):
                sent = int.from_bytes(packets[i][4:12], "little")
                arrivals += [Arrival(feed, packets[i], sent + 10_000 * (1 + feed)) for feed in feeds]
        pipeline.push(records(sorted(arrivals, key=lambda arrival: arrival.ts_recv)))
    pipeline.close_segment(1, final=True)
    return simulator.truth()


def _book(truth: Truth, definitions: Definitions) -> list[dict]:
    """One row an instrument and step's end: the book that the truth says, one tick wide."""
    out = []
    ends = (truth.ts_step + CONFIG.step_ns).tolist()
    random = np.random.default_rng(1)
    for i, instrument in enumerate(truth.instrument_id.tolist()):
        tick = definitions.at(instrument, ends[0]).tick
        bids = (truth.mid[:, i] / truth.wire_tick[i] - 0.5).round().astype(int).tolist()
        for k, (ts, bid) in enumerate(zip(ends, bids, strict=True)):
            clean = k >= 4
            out.append(
                {
                    "instrument_id": instrument, "ts": ts, "segment": i if clean else -1,
                    "rules": 0 if clean else int(CleaningRule.CLOSED),
                    "bid_price": bid * tick, "ask_price": (bid + 1) * tick,
                    "bid_size": 1 + k % 7, "ask_size": 1 + k % 5,
                    "ofi": int(random.integers(-9, 10)),
                    "bid_adds": int(truth.bid_adds[k, i]),
                    "ask_adds": int(truth.adds[k, i] - truth.bid_adds[k, i]),
                    "buy_volume": k % 3, "sell_volume": k % 2, "frame": [0.5, 1.0, 2.0, 1.0] * 20,
                }
            )  # fmt: skip
    return out


def _bars(book: list[dict]) -> list[dict]:
    """A time bar a second, whose four prices are bids."""
    out = []
    for first, last in zip(book[::4], book[3::4], strict=True):
        assert first["instrument_id"] == last["instrument_id"]
        low, high = sorted((first["bid_price"], last["bid_price"]))
        out.append(
            {
                "kind": "time", "instrument_id": first["instrument_id"],
                "ts_start": first["ts"] - SECOND // 4, "ts_end": last["ts"],
                "open": first["bid_price"], "high": high, "low": low,
                "close": last["bid_price"], "vwap": (low + high) // 2, "volume": 5, "buy_volume": 3,
                "sell_volume": 2, "trades": 2, "notional": 10**12,
            }
        )  # fmt: skip
    return out


def _labels(truth: Truth, book: list[dict]) -> list[dict]:
    steps = len(truth.ts_step)
    out = []
    for k, row in enumerate(book):
        i, t = divmod(k, steps)
        if row["segment"] >= 0 and t + HORIZON < steps:
            move = int(truth.moves[t + 1 : t + 1 + HORIZON, i].sum())
            ts_end = row["ts"] + HORIZON * CONFIG.step_ns
            out.append(
                {"instrument_id": row["instrument_id"], "ts": row["ts"], "ts_end": ts_end,
                 "move": 2 * move, "label": int(np.sign(move))}
            )  # fmt: skip
    return out


def _scores(truth: Truth) -> list[dict]:
    """``filter`` is the optimal one, ``majority`` says the same always; the last 40 % are the test."""
    ends = truth.ts_step[64:] + CONFIG.step_ns
    split = np.select(
        [np.arange(len(ends)) < 0.5 * len(ends), np.arange(len(ends)) < 0.6 * len(ends)],
        ["train", "validation"],
        "test",
    )
    out = []
    for i, instrument in enumerate(truth.instrument_id.tolist()):
        best = forecast_at(truth.observations(i), DriftModel(), truth.ts_step, CONFIG.step_ns, ends, HORIZON)
        for model, chance in (("filter", best), ("majority", np.tile([0.4, 0.25, 0.35], (len(ends), 1)))):
            for ts, (down, flat, up), part in zip(
                ends.tolist(), chance.tolist(), split.tolist(), strict=True
            ):
                out.append(
                    {"model": model, "instrument_id": instrument, "ts": ts, "p_down": down, "p_flat": flat,
                     "p_up": up, "split": part}
                )  # fmt: skip
    return out


def _backtest(
    truth: Truth, book: list[dict], definitions: Definitions
) -> tuple[list[dict], list[dict], list[dict]]:
    """Buys and sells a lot of the first instrument in turn, every 5 s of the last minute; pays the quote."""
    instrument = int(truth.instrument_id[0])
    multiplier = definitions.at(instrument, book[0]["ts"]).multiplier
    rows = [row for row in book if row["instrument_id"] == instrument][-240:]
    commission = 2 * SECOND
    orders, fills, ledger = [], [], []
    position = cash = spread_cost = paid = 0
    for k, row in enumerate(rows):
        mid = (row["bid_price"] + row["ask_price"]) // 2
        if k % 20 == 0:
            buy = position == 0
            price = row["ask_price"] if buy else row["bid_price"]
            sign = 1 if buy else -1
            common = {
                "strategy": "in turn",
                "order": k // 20,
                "instrument_id": instrument,
                "side": Side.BUY if buy else Side.SELL,
                "size": 1,
            }
            orders.append(
                {
                    **common,
                    "ts_decision": row["ts"],
                    "ts_arrival": row["ts"] + LATENCY_NS,
                    "decision_mid": mid,
                    "filled": 1,
                    "reason": "alpha",
                }
            )
            fills.append(
                {
                    **common,
                    "ts_fill": row["ts"] + 2 * LATENCY_NS,
                    "price": price,
                    "mid": mid,
                    "commission": commission,
                    "impact": 0,
                    "liquidity": "taker",
                }
            )
            position += sign
            cash -= sign * price * multiplier // SECOND + commission
            spread_cost += abs(price - mid) * multiplier // SECOND
            paid += commission
        if k % 4 == 1:
            ledger.append(
                {"strategy": "in turn", "instrument_id": instrument, "ts": row["ts"], "position": position,
                 "mark": mid, "cash": cash, "value": cash + position * mid * multiplier // SECOND,
                 "spread_cost": spread_cost, "impact_cost": 0, "commission": paid}
            )  # fmt: skip
    return orders, fills, ledger


def _table(name: str, rows: list[dict]) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=TABLES[name].arrow)

"""Simulated sessions as stored archives, with packets lost on the way, and market rows by hand."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tests.workloads.ingest.streams import Arrival, records
from workloads.exchange.packets import Packets
from workloads.exchange.simulator import Block, Simulator, SimulatorConfig, Truth
from workloads.ingest import frames
from workloads.ingest.arbitration import Rules
from workloads.ingest.pipeline import Pipeline
from workloads.ticks.archive import Archive, open_archive
from workloads.ticks.schema import TABLES

VENUE, CHANNEL, EPOCH = "XCME", 310, 2026010400
SECOND = 1_000_000_000


def session_of(config: SimulatorConfig) -> tuple[Block, Truth]:
    """A whole simulated session, and what really happened in it."""
    simulator = Simulator(config)
    feeds = zip(*simulator.blocks(), strict=True)
    joined = (Packets.of([block[i] for block in feed for i in range(len(block))]) for feed in feeds)
    return Block(*joined), simulator.truth()


def archive_of(
    folder: Path,
    block: Block,
    lost: Collection[int] = (),
    lost_snapshots: Collection[int] = (),
    late: Collection[int] = (),
) -> Archive:
    """What ingest stores of a simulated block whose packets at these positions never came, or came late."""
    arrivals = []
    for i in range(len(block.incremental)):
        payload = block.incremental[i]
        sent = int.from_bytes(payload[4:12], "little")
        if i not in lost:
            arrived = sent + 10 + (3 * SECOND if i in late else 0)
            arrivals += [Arrival(feed, payload, arrived) for feed in (frames.FEED_A, frames.FEED_B)]
    for i in range(len(block.snapshots)):
        payload = block.snapshots[i]
        if i not in lost_snapshots:
            sent = int.from_bytes(payload[4:12], "little")
            arrivals.append(Arrival(frames.FEED_SNAPSHOT, payload, sent + 5))
    arrivals.sort(key=lambda arrival: arrival.ts_recv)
    archive = open_archive(str(folder))
    pipeline = Pipeline(archive, VENUE, CHANNEL, Rules(first_seq=1), session="s")
    pipeline.push(records(arrivals))
    pipeline.close_segment(1, final=True)
    return archive


def read(archive: Archive, table: str) -> pa.Table:
    """All rows of a table; none where nothing was stored."""
    return archive.read(table) if table in archive.tables() else TABLES[table].arrow.empty_table()


def rows(table: str, *given: dict[str, Any], **every: Any) -> pa.Table:
    """Rows of a market table. What isn't given is null, or 0 where that can't be."""
    schema = TABLES[table].arrow
    columns = {}
    for f in schema:
        values = [{**every, **row}.get(f.name) for row in given]
        fixed = {"venue": VENUE, "channel": CHANNEL, "epoch": EPOCH}
        empty = fixed.get(f.name, 0) if not f.nullable or f.name in ("row_flags", "event_flags") else None
        values = [empty if value is None else value for value in values]
        columns[f.name] = pa.array(values, f.type)
    return pa.table(columns, schema=schema)


def ns(table: pa.Table, name: str) -> np.ndarray:
    """A column of times."""
    return table[name].cast(pa.int64()).to_numpy()

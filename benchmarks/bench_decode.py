"""How fast packets become columns, beside databento-dbn on the same records, and beside a plain copy.

    python -m benchmarks.bench_decode [CAPTURE]

The input is a simulated session, or a capture that `tickworks replay` takes; the real ES day is used when
it lies in the data folder. One thread, CPU time, median of several passes. The peer is
``databento_dbn.DBNDecoder`` (Rust behind Python): one ``write`` of the whole stream, one ``decode`` into
record objects, for the same order and trade rows as DBN version 3 MBO records. Before anything is timed
the decoded rows are compared with that stream's records.
"""

import os
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import databento_dbn
import numpy as np

from benchmarks.record import record
from workloads.exchange.decode import Decoder
from workloads.exchange.packets import Packets

PASSES = 9
TARGET_BYTES = 96 << 20
BATCH_BYTES = 4 << 20
MBO = np.dtype(
    [
        ("length", "u1"),
        ("rtype", "u1"),
        ("publisher_id", "<u2"),
        ("instrument_id", "<u4"),
        ("ts_event", "<u8"),
        ("order_id", "<u8"),
        ("price", "<i8"),
        ("size", "<u4"),
        ("flags", "u1"),
        ("channel_id", "u1"),
        ("action", "S1"),
        ("side", "S1"),
        ("ts_recv", "<u8"),
        ("ts_in_delta", "<i4"),
        ("sequence", "<u4"),
    ]
)
"""Databento's MboMsg (DBN encoding, version 3): 56 bytes."""


def simulated() -> Packets:
    from workloads.exchange.simulator import Simulator, SimulatorConfig

    session = Simulator(SimulatorConfig(duration_ns=600 * 10**9))
    return joined([block.incremental for block in session.blocks()])


def captured(path: Path) -> Packets:
    from workloads.exchange.captures import open_capture

    return joined(list(open_capture(path).blocks()))


def joined(blocks: list[Packets]) -> Packets:
    return Packets.of([block[i] for block in blocks for i in range(len(block))])


def repeated(packets: Packets, nbytes: int) -> Packets:
    """The session again and again, so that it outgrows every cache."""
    times = max(1, nbytes // int(packets.length.sum()))
    offset = packets.offset[None, :] + (np.arange(times) * len(packets.buffer))[:, None]
    return Packets(np.tile(packets.buffer, times), offset.ravel(), np.tile(packets.length, times))


def batches(packets: Packets) -> list[Packets]:
    cuts = np.searchsorted(
        np.cumsum(packets.length, dtype=np.int64), np.arange(0, int(packets.length.sum()), BATCH_BYTES)
    )
    edges = [*cuts.tolist(), len(packets)]
    return [packets.select(slice(a, b)) for a, b in pairwise(edges) if b > a]


def cpu_seconds(work: Callable[[], object]) -> float:
    """Median CPU time of this thread."""
    work()
    times = []
    for _ in range(PASSES):
        began = time.thread_time()
        work()
        times.append(time.thread_time() - began)
    return float(np.median(times))


def as_dbn(packets: Packets) -> bytes:
    """The same order and trade rows as a DBN stream of MBO records."""
    decoded = Decoder(int(packets.length.sum()) + 1024).decode(packets)
    messages, mbo, trades = (decoded.tables[name] for name in ("messages", "mbo", "trades"))
    seq, sent = packets.seq, packets.ts_sent
    records = np.zeros(len(mbo["message"]) + len(trades["message"]), MBO)
    for part, rows in ((records[: len(mbo["message"])], mbo), (records[len(mbo["message"]) :], trades)):
        packet = messages["packet"][rows["message"]]
        part["instrument_id"] = rows["instrument_id"]
        part["ts_event"] = messages["ts_event"][rows["message"]]
        part["price"], part["size"] = rows["price"], np.minimum(rows["size"], 2**31)
        part["ts_recv"], part["sequence"] = sent[packet], seq[packet]
        part["side"] = np.array([b"N", b"B", b"A"])[np.minimum(rows.get("side", rows.get("aggressor")), 2)]
    orders = records[: len(mbo["message"])]
    orders["order_id"] = mbo["order_id"]
    orders["action"] = np.array([b"A", b"M", b"C", b"R"])[np.minimum(mbo["action"], 3)]
    records["action"][len(orders) :] = b"T"
    records["length"], records["rtype"], records["publisher_id"] = MBO.itemsize // 4, 160, 1
    metadata = databento_dbn.Metadata(
        dataset="GLBX.MDP3",
        start=int(sent[0]),
        stype_in=databento_dbn.SType.INSTRUMENT_ID,
        stype_out=databento_dbn.SType.INSTRUMENT_ID,
        schema=databento_dbn.Schema.MBO,
        symbols=[],
        partial=[],
        not_found=[],
        mappings=[],
        version=3,
    )
    order = np.argsort(records["sequence"], kind="stable")
    return bytes(metadata.encode()) + records[order].tobytes()


def dbn_decode(stream: bytes) -> list[object]:
    decoder = databento_dbn.DBNDecoder()
    decoder.write(stream)
    return list(decoder.decode())


def measure(name: str, session: Packets) -> None:
    packets = repeated(session, TARGET_BYTES)
    parts = batches(packets)
    decoder = Decoder(BATCH_BYTES + 4096)

    def decode() -> None:
        for part in parts:
            decoder.decode(part)

    counts = {"messages": 0, "entries": 0, "orders": 0}
    for part in parts:
        decoded = decoder.decode(part)
        assert not decoded.packet_errors.any()
        assert not decoded.packet_unknown.any()
        counts["messages"] += int(decoded.packet_messages.sum())
        counts["orders"] += sum(len(decoded.tables[t]["message"]) for t in ("mbo", "trades"))
        counts["entries"] += sum(
            len(columns["message"]) for t, columns in decoded.tables.items() if t not in ("messages", "rare")
        )
    target = np.empty_like(packets.buffer)
    seconds = cpu_seconds(decode)
    copy = cpu_seconds(lambda: np.copyto(target, packets.buffer))

    stream = as_dbn(session)
    records = [r for r in dbn_decode(stream) if isinstance(r, databento_dbn.MBOMsg)]
    once = Decoder(int(session.length.sum()) + 1024).decode(session)
    for table, actions in (("mbo", "AMCR"), ("trades", "T")):
        theirs = sorted((r.sequence, r.price) for r in records if str(r.action.value) in actions)
        rows = once.tables[table]
        ours = zip(
            session.seq[once.tables["messages"]["packet"][rows["message"]]].tolist(),
            rows["price"].tolist(),
            strict=True,
        )
        assert theirs == sorted(ours), f"{table}: the peer read other records"
    peer = len(records) / cpu_seconds(lambda: dbn_decode(stream))

    megabytes = packets.length.sum() / 1e6
    print(
        f"# {name}: {len(packets):,} packets, {megabytes:.0f} MB, "
        f"{counts['messages'] / len(packets):.2f} messages a packet, {counts['entries']:,} entries",
        file=sys.stderr,
    )
    dbn = "databento_dbn.DBNDecoder: one write, one decode into record objects (records/s)"
    results = [
        ("messages", counts["messages"] / seconds, "messages/s", dbn, peer),
        ("entries", counts["entries"] / seconds, "entries/s", dbn, peer),
        (
            "records",
            counts["orders"] / seconds,
            "order and trade rows/s, all other rows beside them",
            dbn,
            peer,
        ),
        ("bytes", megabytes / seconds, "MB/s", "memcpy of the same buffer", megabytes / copy),
    ]
    for what, value, unit, beside, peer_value in results:
        print(record(f"decode.{name}.{what}", value, unit, peer=beside, peer_value=peer_value))


def main() -> None:
    if len(sys.argv) > 1:
        path = Path(sys.argv[1])
        measure(path.name.split(".")[0], captured(path))
        return
    measure("simulator", simulated())
    folder = Path(os.environ.get("TICKWORKS_DATA", "../shared/data"))
    day = folder / "databento-es" / "esh4-glbx-mdp3-20231225.mbo.dbn.zst"
    if day.exists():
        measure("esh4", captured(day))


if __name__ == "__main__":
    main()

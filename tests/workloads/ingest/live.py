"""A real ingest process on loopback multicast, and packets whose rows don't depend on their neighbours."""

import json
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np

from tests.conftest import skip_or_fail
from tests.workloads.ingest.messages import END, order, orders, refresh, trade
from tests.workloads.ingest.streams import MS, SUNDAY, Arrival, packet, records
from workloads.exchange import encode
from workloads.ingest import frames
from workloads.ingest.arbitration import Rules
from workloads.ingest.pipeline import Pipeline
from workloads.ticks.archive import open_archive

ONE = 1_000_000_000
TABLES = ("mbo", "mbp", "trades", "trade_orders", "statistics", "definitions")


def whole_event(i: int) -> bytes:
    """Packet ``i``: a definition, then one event of an order, a level, a trade with its orders, a volume."""
    ts, level = SUNDAY + i * 1000, {"instrument_id": 7, "price": 100 * ONE, "size": i, "orders": 1}
    reference = {"order_id": i, "priority": i, "size": 1, "reference": 1}
    fills = [{"order_id": 10 * i + k, "size": 1} for k in range(2)]
    body = (
        encode.definition(54, instrument_id=7, display_factor=ONE // 100, tick=25 * ONE, symbol=b"ESH6")
        + orders(ts, 0, order(7, 2 * i, 100 * ONE), order(7, 2 * i + 1, 200 * ONE))
        + refresh(46, ts, 0, {**level, "entry_type": 48}, orders=[reference])
        + refresh(48, ts, 0, trade(7, 100 * ONE, 2, 2), orders=fills)
        + refresh(37, ts, END, {"instrument_id": 7, "size": i})
    )
    return packet(i, ts, body)


def by_packet(archive, table):
    """Rows of each packet, without what depends on when and on which feed it came."""
    out = {}
    rows = archive.read(table).drop_columns(["ts_recv", "row_flags"]).to_pylist()
    for row in rows:
        out.setdefault(row["seq"], []).append(row)
    return out


def clean_rows(folder: Path, payloads: list[bytes]):
    """{table: {seq: rows}} of an undisturbed run over all packets."""
    archive = open_archive(str(folder))
    pipeline = Pipeline(archive, "XCME", 310, Rules(first_seq=1), session="clean")
    arrivals = [Arrival(frames.FEED_A, p, SUNDAY + i * 1000) for i, p in enumerate(payloads)]
    pipeline.push(records(arrivals))
    pipeline.close_segment(1, final=True)
    return {table: by_packet(archive, table) for table in TABLES}


class Site:
    """An archive, a spool, a config file and two groups."""

    def __init__(self, folder: Path, **config) -> None:
        self.folder = folder
        self.archive = open_archive(str(folder / "archive"))
        self.spool = folder / "spool"
        self.groups = [("239.195.9.1", _free_port()), ("239.195.9.2", _free_port())]
        feeds = [
            {"name": name, "group": group, "port": port}
            for name, (group, port) in zip("AB", self.groups, strict=True)
        ]
        self.config = {
            "archive": str(folder / "archive"),
            "spool": str(self.spool),
            "feeds": feeds,
            "first_seq": 1,
            "sync_seconds": 0.01,
            "receive_buffer_bytes": 8 << 20,
            **config,
        }
        (folder / "config.json").write_text(json.dumps(self.config))

    def start(self, *options: str) -> "Process":
        path = str(self.folder / "config.json")
        return Process([sys.executable, "-m", "workloads.ingest.job", "--config", path, *options])

    def finish(self) -> "Process":
        """Store what the spool holds; receive nothing."""
        process = self.finish_unchecked()
        process.wait()
        return process

    def finish_unchecked(self) -> "Process":
        return self.start("--feeds", "[]")

    def spooled(self) -> set[int]:
        """Sequence numbers of whole frames in the spool."""
        from workloads.ingest.spool import frames as whole_frames

        found = set()
        for path in self.spool.glob("*.spool"):
            for data, _, _ in whole_frames(path):
                at = 0
                while at < len(data):
                    length = int(data[at : at + 2].view("<u2")[0])
                    found.add(int.from_bytes(data[at + 24 : at + 28].tobytes(), "little"))
                    at += frames.record_bytes(length)
        return found


class Process:
    """A running job and the events that it reports."""

    def __init__(self, command: list[str]) -> None:
        self.events: list[dict] = []
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.is_ready = threading.Event()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        for line in self.process.stdout:
            if not line.endswith("}\n"):
                break  # it died in mid-line
            event = json.loads(line)
            self.events.append(event)
            if event["event"] == "ready":
                self.is_ready.set()
        self.is_ready.set()

    def ready(self) -> None:
        assert self.is_ready.wait(60)
        assert any(e["event"] == "ready" for e in self.events), self.process.communicate()[1]

    def last(self, event: str) -> dict:
        return [e for e in self.events if e["event"] == event][-1]

    @property
    def durable(self) -> int:
        return max((e["durable"] for e in self.events if e["event"] == "progress"), default=0)

    def received(self, n: int) -> None:
        """Wait until the job has reported so many packets."""
        until = time.monotonic() + 60
        while not any(e.get("received", 0) >= n for e in self.events):
            assert time.monotonic() < until and self.process.poll() is None
            time.sleep(0.01)

    def end(self, signal: int) -> None:
        self.process.send_signal(signal)
        self.wait()

    def wait(self) -> None:
        self.process.wait(60)
        self._reader.join()
        self.stderr = self.process.stderr.read()
        self.process.stdout.close()
        self.process.stderr.close()


class Sending:
    """Sends packets on both groups, in order, until told to stop; knows how many left."""

    def __init__(self, groups, payloads, *, first=0, rate=1500) -> None:
        self.sent = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(groups, payloads, first, rate))
        self._thread.start()

    def _run(self, groups, payloads, first, rate) -> None:
        with sender() as out:
            began = time.monotonic()
            for payload in payloads[first:]:
                if self._stop.is_set():
                    return
                for where in groups:
                    out.sendto(payload, where)
                self.sent += 1
                ahead = self.sent / rate - (time.monotonic() - began)
                if ahead > 0.002:
                    time.sleep(ahead)

    def finish(self) -> int:
        """Wait until all have left."""
        self._thread.join()
        return self.sent

    def stop(self) -> int:
        self._stop.set()
        self._thread.join()
        return self.sent


def sender() -> socket.socket:
    out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    out.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("127.0.0.1"))
    return out


def _free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]


def need_multicast() -> None:
    """Skip where loopback carries no multicast."""
    group, port = "239.195.9.9", _free_port()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, sender() as out:
        try:
            probe.bind((group, port))
            member = socket.inet_aton(group) + socket.inet_aton("127.0.0.1")
            probe.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)
            probe.settimeout(2)
            out.sendto(b"probe", (group, port))
            probe.recv(16)
        except OSError as error:
            skip_or_fail(f"no multicast on loopback here: {error}")


def spool_records(folder: Path, payloads: list[bytes], number: int) -> None:
    """Write a segment the way that a receiver does: each packet from A, then from B; one every 20 ms."""
    from workloads.ingest.spool import SpoolWriter

    writer = SpoolWriter(folder, number)
    for start in range(0, len(payloads), 7):
        rows = [
            Arrival(feed, p, SUNDAY + int.from_bytes(p[:4], "little") * 20 * MS + feed)
            for p in payloads[start : start + 7]
            for feed in (frames.FEED_A, frames.FEED_B)
        ]
        data: np.ndarray = records(rows)
        writer.append(data, len(rows))
    writer.close()

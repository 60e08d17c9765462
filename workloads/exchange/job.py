"""The exchange as a job: simulate a session, or replay a capture, as multicast feeds.

    python -m workloads.exchange.job --config exchange.json

Reports (`workloads.runtime.jobs`): ``ready`` when everything is compiled and the first packets are built;
``progress`` about four times a second; ``done`` with a summary. With ``wait``, nothing is sent before a
line "go" comes on stdin. Ctrl-C and SIGTERM stop it between two packets: what was sent so far is logged,
and ``done`` says "stopped".
"""

import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict

from workloads.errors import WorkloadError
from workloads.exchange import encode, mdp3
from workloads.exchange.captures import Capture, Terms, open_capture
from workloads.exchange.feed import Endpoint, Impairment, Sender, SendLog
from workloads.exchange.packets import HEADER_BYTES, Packets
from workloads.exchange.simulator import Simulator, SimulatorConfig
from workloads.runtime.jobs import JobConfigError, commands, emit, job_main

PROGRESS_S: Final = 0.25
SLICE_S: Final = 0.1
"""What is handed to the sender at once, wall clock: how fast a stop is obeyed, at worst."""
SLICE_PACKETS: Final = 4_096
"""The same when sending flat out."""
BLOCKS_AHEAD: Final = 2
"""Blocks that are built while one is being sent."""
LEAD_S: Final = 0.02
"""How early a slice is handed over: time to plan it."""


class ExchangeError(WorkloadError):
    """The exchange cannot go on."""


@dataclass(frozen=True)
class ExchangeConfig:
    """What to send, where to, and how badly. Exactly one of ``simulator`` and ``capture``."""

    endpoints: tuple[Endpoint, ...]
    """At most one for each of the feeds A, B and S (snapshots)."""
    interface: str = "127.0.0.1"
    """IPv4 address of the network interface to send from."""
    simulator: SimulatorConfig | None = None
    capture: str | None = None
    """Path of a pcap or DBN file."""
    group: str | None = None
    """Flow to take from a pcap file that holds several."""
    port: int | None = None
    terms: Terms | None = None
    """Terms of the instrument of a DBN file, where its product is unknown."""
    impairments: Mapping[str, Impairment] = field(default_factory=dict)
    """By feed."""
    speed: float = 1.0
    """N: N times faster than the packets' SendingTime; 0: flat out."""
    max_rate_pps: int = 0
    """Datagrams per second, all feeds together; 0: no bound."""
    seed: int = 0
    """Of the impairments."""
    ttl: int = 1
    """Routers that a packet may pass, plus 1."""
    out: str | None = None
    """Folder that gets ``sent.npz`` (what left when) and, from the simulator, ``truth.npz``."""
    wait: bool = False
    """Send nothing before a line "go" comes on stdin."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    def __post_init__(self) -> None:
        if (self.simulator is None) == (self.capture is None):
            raise JobConfigError(
                "an exchange needs either a simulator or a capture; give exactly one of them"
            )


class Source(NamedTuple):
    """Where the packets come from."""

    name: str
    blocks: Iterator[tuple[Packets, Packets | None]]
    """Incremental packets and snapshots, in SendingTime order across blocks."""
    packets: int | None
    """Incremental packets in all, where known."""
    ts_first: int | None
    """SendingTime, ns since the epoch."""
    ts_last: int | None
    save_truth: Callable[[Path], None] | None
    notes: tuple[str, ...]


class Slice(NamedTuple):
    """Packets that are handed to the sender together."""

    ts: int
    """SendingTime of the first."""
    incremental: Packets
    snapshots: Packets | None


def source_of(config: ExchangeConfig, capture: Capture | None = None) -> Source:
    """Open what the config asks for; raises CaptureError when a capture cannot be replayed."""
    snapshots = any(endpoint.feed == "S" for endpoint in config.endpoints)
    if config.capture is not None:
        capture = capture or open_capture(
            config.capture, group=config.group, port=config.port, terms=config.terms
        )
        info = capture.info
        blocks = ((packets, None) for packets in capture.blocks())
        return Source(
            info.path, blocks, info.packets, info.ts_first, info.ts_last, None, (info.kind, *info.notes)
        )
    assert config.simulator is not None
    simulator = Simulator(config.simulator)
    return Source(
        f"simulator, seed {config.simulator.seed}",
        ((block.incremental, block.snapshots if snapshots else None) for block in simulator.blocks()),
        None,
        config.simulator.start_ns,
        config.simulator.start_ns + config.simulator.duration_ns,
        lambda path: simulator.truth().save(path),
        (),
    )


def slices(
    incremental: Packets, snapshots: Packets | None, span_ns: int, count: int = SLICE_PACKETS
) -> Iterator[Slice]:
    """Cut a block into spans of SendingTime, or where ``span_ns`` is 0 into ``count`` packets.

    A SendingTime that goes back counts as the latest one before it.
    """
    times = np.maximum.accumulate(incremental.ts_sent)
    snapshot_times = np.maximum.accumulate(snapshots.ts_sent) if snapshots is not None else times[:0]
    if span_ns:
        everything = np.union1d(times // span_ns, snapshot_times // span_ns)
        ends = (everything + 1) * span_ns
    else:
        ends = _ends_by_count(times, snapshot_times, count)
    at, snapshot_at = 0, 0
    for end in ends:
        to = int(np.searchsorted(times, end))
        snapshot_to = int(np.searchsorted(snapshot_times, end))
        first = min(
            [int(t[i]) for t, i, j in ((times, at, to), (snapshot_times, snapshot_at, snapshot_to)) if j > i]
        )
        yield Slice(
            first,
            incremental.select(slice(at, to)),
            None if snapshots is None else snapshots.select(slice(snapshot_at, snapshot_to)),
        )
        at, snapshot_at = to, snapshot_to


def _ends_by_count(
    times: NDArray[np.int64], snapshot_times: NDArray[np.int64], count: int
) -> NDArray[np.int64]:
    """Ends (exclusive) of spans of about ``count`` packets; packets of one instant stay together."""
    both = np.sort(np.concatenate([times, snapshot_times]))
    if not len(both):
        return both
    inner = np.unique(both[count::count])
    return np.append(inner[inner > both[0]], both[-1] + 1)


class _Ahead:
    """Builds blocks in a thread of its own, so that building never holds up sending."""

    def __init__(self, blocks: Iterator[tuple[Packets, Packets | None]]) -> None:
        self._blocks = blocks
        self._queue: queue.Queue[tuple[Packets, Packets | None] | BaseException | None] = queue.Queue(
            BLOCKS_AHEAD
        )
        self._closed = False
        self._thread = threading.Thread(target=self._build, name="blocks", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[tuple[Packets, Packets | None]]:
        while (item := self._queue.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item

    def first_seq(self) -> int:
        """Wait until something is built; MsgSeqNum of the first incremental packet, 0 without one."""
        while self._queue.empty() and self._thread.is_alive():
            time.sleep(0.005)
        head = self._queue.queue[0] if not self._queue.empty() else None
        return int(head[0].seq[0]) if isinstance(head, tuple) and len(head[0]) else 0

    def close(self) -> None:
        self._closed = True
        self._thread.join()

    def _build(self) -> None:
        try:
            for block in self._blocks:
                self._put(block)
                if self._closed:
                    return
            self._put(None)
        except BaseException as error:  # noqa: BLE001  # raised again where the blocks are taken
            self._put(error)

    def _put(self, item: tuple[Packets, Packets | None] | BaseException | None) -> None:
        while not self._closed:
            try:
                return self._queue.put(item, timeout=0.1)
            except queue.Full:
                continue
        return None


class _StoppedError(Exception):
    """Asked to stop while waiting for "go"."""


class _Stops:
    """Whether a signal has asked us to stop."""

    def __init__(self) -> None:
        self.asked = False
        self.interrupts = False
        """Raise from the signal handler: only while a read blocks."""

    def ask(self, *_: object) -> None:
        self.asked = True
        if self.interrupts:
            raise _StoppedError

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take SIGINT and SIGTERM; only a program's main thread can."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        old = {number: signal.signal(number, self.ask) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)


def run(
    config: ExchangeConfig, report: Callable[..., None] = emit, capture: Capture | None = None
) -> dict[str, Any]:
    """Send everything; return the summary that ``done`` reports.

    ``report(event, **fields)`` gets ``ready``, ``progress`` and ``done``. ``capture``: the config's, where
    it is already open; reading a large one twice takes its time.

    Raises
    ------
    WorkloadError
        A capture, an endpoint or the network refuses (CaptureError, FeedError, ExchangeError).
    """
    stops = _Stops()
    source = source_of(config, capture)
    with stops.listening():
        ahead = _Ahead(source.blocks)
        try:
            with Sender(
                config.endpoints,
                interface=config.interface,
                impairments=config.impairments,
                seed=config.seed,
                speed=config.speed,
                ttl=config.ttl,
                max_rate_pps=config.max_rate_pps,
            ) as sender:
                first_seq = ahead.first_seq()
                facts = {"of": source.packets, "ts_first": source.ts_first, "ts_last": source.ts_last}
                report("ready", source=source.name, notes=list(source.notes), first_seq=first_seq, **facts)
                if config.wait:
                    _wait_for_go(stops)
                sending = _Sending(config, sender, stops, lambda **now: report("progress", **now, **facts))
                started = time.monotonic()
                for incremental, snapshots in ahead:
                    sending.block(incremental, snapshots)
                    if stops.asked:
                        break
                log = sender.finish()
                seconds = time.monotonic() - started
            if not stops.asked:
                _send_closing(config, sending.last)
        finally:
            ahead.close()
    summary = {
        **sending.now(),
        "of": source.packets,
        "stopped": stops.asked,
        "seconds": round(seconds, 3),
        **_counts(log),
        **_save(config, source, log, complete=not stops.asked),
    }
    report("done", **summary)
    return summary


class _Sending:
    """Hands slices to the sender, each shortly before its time."""

    def __init__(
        self, config: ExchangeConfig, sender: Sender, stops: _Stops, progress: Callable[..., None]
    ) -> None:
        self._sender = sender
        self._stops = stops
        self._progress = progress
        self._speed = config.speed
        self._span_ns = max(1, int(SLICE_S * 1e9 * config.speed)) if config.speed else 0
        bound = int(config.max_rate_pps * SLICE_S) or SLICE_PACKETS
        self._count = min(max(bound, 16), SLICE_PACKETS)
        self._origin: tuple[float, int] | None = None  # monotonic seconds and SendingTime of the first packet
        self._next_report = time.monotonic() + PROGRESS_S
        self._packets = 0
        self._snapshots = 0
        self._ts: int | None = None
        self.last: tuple[int, int] | None = None
        """MsgSeqNum and SendingTime of the last incremental packet."""

    def now(self) -> dict[str, Any]:
        """How far it is: packets handed over, and the SendingTime reached."""
        return {"packets": self._packets, "snapshots": self._snapshots, "ts": self._ts}

    def block(self, incremental: Packets, snapshots: Packets | None) -> None:
        """Send a block, or as much of it as goes before a stop."""
        for piece in slices(incremental, snapshots, self._span_ns, self._count):
            self._sleep_until(piece.ts)
            if self._stops.asked:
                return
            if self._origin is None:
                self._origin = time.monotonic(), piece.ts
            self._sender.send(piece.incremental, piece.snapshots)
            self._packets += len(piece.incremental)
            if len(piece.incremental):
                self.last = int(piece.incremental.seq[-1]), int(piece.incremental.ts_sent[-1])
            self._snapshots += len(piece.snapshots) if piece.snapshots is not None else 0
            self._ts = piece.ts
            self._tell()

    def _sleep_until(self, ts: int) -> None:
        """Sleep in short naps, so that a stop is obeyed in the longest silence."""
        if self._origin is None or not self._speed:
            return
        started, origin = self._origin
        due = started + (ts - origin) / 1e9 / self._speed - LEAD_S
        while (left := due - time.monotonic()) > 0 and not self._stops.asked:
            time.sleep(min(left, 0.05))
            self._tell()

    def _tell(self) -> None:
        if time.monotonic() >= self._next_report:
            self._next_report = time.monotonic() + PROGRESS_S
            self._progress(**self.now())


def _send_closing(config: ExchangeConfig, last: tuple[int, int] | None) -> None:
    """A heartbeat behind the last packet, on A and B and never impaired.

    Without it a receiver cannot know that the last packets were lost. It is not in the log.
    """
    endpoints = tuple(endpoint for endpoint in config.endpoints if endpoint.feed != "S")
    if last is None or not endpoints:
        return
    seq, ts_sent = last
    payload = np.zeros(HEADER_BYTES + mdp3.MESSAGE_HEADER_BYTES, np.uint8)
    start = np.uintp(payload.ctypes.data)
    encode.heartbeat(encode.packet_header(start, np.uint32((seq + 1) & 0xFFFF_FFFF), np.uint64(ts_sent)))
    with Sender(endpoints, interface=config.interface, speed=0.0, ttl=config.ttl) as sender:
        sender.send(Packets.of([payload.tobytes()]))
        sender.finish()


def _wait_for_go(stops: _Stops) -> None:
    try:
        stops.interrupts = True
        if stops.asked:  # before the signal could interrupt the read
            return
        for line in commands():
            if line == "go":
                return
        raise ExchangeError(
            "stdin was closed before the line 'go' came; start the exchange without --wait true"
        )
    except _StoppedError:
        pass
    finally:
        stops.interrupts = False


def _counts(log: SendLog) -> dict[str, Any]:
    return {
        "feeds": {
            name: {
                "packets": len(feed.seq),
                "datagrams": int(feed.copies.sum()),
                "dropped": int((feed.copies == 0).sum()),
            }
            for name, feed in log.feeds.items()
        },
        "lost": len(log.lost()),
        "late_ns": log.late_ns,
        "retries": log.retries,
    }


def _save(config: ExchangeConfig, source: Source, log: SendLog, *, complete: bool) -> dict[str, str | None]:
    """Write the log and, of a whole simulated session, the truth."""
    saved: dict[str, str | None] = {"sent": None, "truth": None}
    if config.out is None:
        return saved
    folder = Path(config.out)
    folder.mkdir(parents=True, exist_ok=True)
    log.save(folder / "sent.npz")
    saved["sent"] = str(folder / "sent.npz")
    if source.save_truth is not None and complete:
        source.save_truth(folder / "truth.npz")
        saved["truth"] = str(folder / "truth.npz")
    return saved


def main() -> None:
    """Run the exchange that a config describes."""
    job_main(ExchangeConfig, run, __doc__)


if __name__ == "__main__":
    main()

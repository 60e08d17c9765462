"""Receive one channel, or finish what an earlier ingest left in its spool; commit the ticks.

Runs as a service on a receiver host, and under `tickworks run` and `tickworks ingest`. It first finishes
the segments that lie in the spool folder (after a crash, those of the ingest that died), then follows the
segment that is being received. SIGTERM or Ctrl-C end it cleanly: everything received is committed.
"""

import signal
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, ClassVar, TextIO

import numpy as np
from pydantic import ConfigDict

from workloads.ingest.arbitration import Rules
from workloads.ingest.errors import IngestError
from workloads.ingest.frames import FEED_NAMES
from workloads.ingest.pipeline import Pipeline
from workloads.ingest.receive import Receiver, Subscription
from workloads.ingest.recorder import Recorder
from workloads.ingest.spool import frames, locked, segment_path, segments
from workloads.runtime.jobs import emit, job_main
from workloads.ticks.archive import Archive, open_archive
from workloads.ticks.sessions import trading_dates

POLL_SECONDS = 0.02
"""How often the spool is looked at for more."""
PROGRESS_SECONDS = 0.25


@dataclass(frozen=True)
class FeedConfig:
    """One multicast group of the channel."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")
    name: str
    """A or B (the incremental feeds), or S (snapshots)."""
    group: str
    port: int
    source: str | None = None
    """Take packets of this sender only."""


@dataclass(frozen=True)
class IngestConfig:
    """What to receive, and where it goes."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")
    archive: str = "var/archive"
    """URI of the archive."""
    spool: str = "var/spool"
    """Folder on a local disk; one for each channel."""
    venue: str = "XCME"
    """MIC."""
    channel: int = 310
    environment: str = ""
    """Whose channel it is: a spool of another environment is refused."""
    feeds: tuple[FeedConfig, ...] = ()
    """Empty: receive nothing, only finish what the spool holds."""
    interface: str = "127.0.0.1"
    """IPv4 address of the interface to join on."""
    receive_buffer_bytes: int = 64 << 20
    """Kernel buffer of each socket: what a stall of our own may cost before packets are dropped."""
    gather_us: int = 500
    """Microseconds to let packets queue before they are read together: a third of the CPU time of reading
    each at once. Their time stamps are the kernel's and don't suffer."""
    segment_bytes: int = 64 << 20
    """Spool bytes after which the tables are committed; bounds the memory that ingest takes."""
    segment_seconds: float = 900.0
    """Seconds after which they are committed at the latest."""
    sync_seconds: float = 0.05
    """How often the spool is made durable."""
    hold_ms: float = 25.0
    """Milliseconds to wait for a missing packet after the first later one."""
    reorder: int = 64
    """Packets by which both feeds must have passed a missing one to declare it sooner."""
    first_seq: int = 0
    """First sequence number to expect (1 at the start of a trading week); 0: join where the feed is. For a
    new spool only: a spool that holds a state continues where it stopped."""
    stop_with_stdin: bool = False
    """End when stdin is closed: when whoever started us has gone."""
    stop_after_idle_seconds: float = 0.0
    """End when nothing has come for so long; 0: never."""
    source: dict[str, str] = field(default_factory=dict)
    """What to record in each commit beside the sequence range, such as the capture's name."""

    def check(self) -> None:
        """Refuse what would fail only when the first packets are stored.

        Raises
        ------
        IngestError
            If the venue has no calendar, or the channel is no number of 16 bits.
        """
        try:
            trading_dates(self.venue, np.array([time.time_ns()]))
        except ValueError as error:
            raise IngestError(str(error)) from error
        if not 0 <= self.channel <= np.iinfo(np.uint16).max:
            raise IngestError(f"channel {self.channel}: write a number from 0 to 65535")

    def subscriptions(self) -> list[Subscription]:
        """The feeds as the receiver takes them."""
        unknown = [feed.name for feed in self.feeds if feed.name not in FEED_NAMES]
        if unknown:
            raise IngestError(f"unknown feed {unknown[0]!r}; known: {', '.join(FEED_NAMES)}")
        return [
            Subscription(FEED_NAMES.index(feed.name), feed.group, feed.port, feed.source)
            for feed in self.feeds
        ]


@dataclass
class Summary:
    """What an ingest did, from start to stop."""

    packets: int = 0
    messages: int = 0
    lost: int = 0
    late: int = 0
    malformed: int = 0
    unknown_messages: int = 0
    recovered_segments: int = 0
    received: int = 0
    """Packets received by this process, all feeds; what it finished for an earlier one is not in it."""
    kernel_drops: dict[str, int] = field(default_factory=dict)
    rows: dict[str, int] = field(default_factory=dict)
    books: dict[str, int] = field(default_factory=dict)
    commits: list[tuple[str, str, int]] = field(default_factory=list)


def run(archive: Archive, config: IngestConfig, stop: threading.Event | None = None) -> Summary:
    """Receive and store until ``stop`` is set; with no feeds, finish the spool and return.

    Raises
    ------
    WorkloadError
        If the feeds can't be joined, the spool or the archive refuses. What was received is in the spool.
    """
    config.check()
    archive.tables()  # one that can't be reached is told now, not at the first commit
    stop = stop or threading.Event()
    with ExitStack() as stack:
        folder = Path(config.spool)
        stack.enter_context(locked(folder))
        service = _Service(archive, config, folder)
        service.finish_old()
        if config.feeds:
            receiver = stack.enter_context(
                Receiver(
                    config.subscriptions(),
                    interface=config.interface,
                    buffer_bytes=config.receive_buffer_bytes,
                    gather_us=config.gather_us,
                )
            )
            service.follow(receiver, stop)
        return service.summary()


class _Service:
    """The loop between spool and archive."""

    def __init__(self, archive: Archive, config: IngestConfig, folder: Path) -> None:
        self._config = config
        self._folder = folder
        self._archive = archive
        self._rules = Rules(int(config.hold_ms * 1e6), config.reorder, config.first_seq)
        self._pipeline = Pipeline(
            archive,
            config.venue,
            config.channel,
            self._rules,
            source=config.source,
            session=f"{time.time_ns():x}",
            owner=config.environment,
        )
        self._rows: dict[str, int] = defaultdict(int)
        self._commits: list[tuple[str, str, int]] = []
        self._recovered = 0
        self._drops: dict[str, int] = {}
        self._received = 0
        self._next = 1
        self._resume()

    def _resume(self) -> None:
        """Continue from the newest saved state; without one, save the first."""
        for part in self._folder.glob("state-*.part"):
            part.unlink()  # of an ingest that died while it saved
        states = sorted(self._folder.glob("state-*.npz"))
        if states:
            self._pipeline.restore(states[-1])
            self._next = int(states[-1].stem.removeprefix("state-"))
            for number in segments(self._folder):
                if number < self._next:
                    segment_path(self._folder, number).unlink()
            for old in states[:-1]:
                old.unlink()
        elif left := segments(self._folder):
            raise IngestError(
                f"{self._folder} holds spool segment {left[0]} but no state to read it with; move the folder "
                f"away and start with an empty one"
            )
        else:
            self._save()

    def _state_path(self, number: int) -> Path:
        return self._folder / f"state-{number:08d}.npz"

    def _save(self) -> None:
        self._pipeline.save(self._state_path(self._next))

    def finish_old(self) -> None:
        """Store the segments that an earlier ingest left behind."""
        old = segments(self._folder)
        for number in old:
            for records, _, _ in frames(segment_path(self._folder, number)):
                self._pipeline.push(records)
            self._close(number, final=number == old[-1])
            self._recovered += 1

    def follow(self, receiver: Receiver, stop: threading.Event) -> None:
        """Receive until ``stop``, the idle limit or a failure; store what came."""
        config = self._config
        for subscription, granted in zip(receiver.subscriptions, receiver.granted, strict=True):
            self._pipeline.receive_buffers[subscription.feed] = granted
        self._pipeline.follow_rules(self._rules)
        self._save()  # so that a repetition after a crash makes the same files
        recorder = Recorder(
            receiver,
            self._folder,
            self._next,
            segment_bytes=config.segment_bytes,
            segment_seconds=config.segment_seconds,
            sync_seconds=config.sync_seconds,
        )
        recorder.start()
        emit("ready", warning=receiver.buffer_warning)
        try:
            self._follow(recorder, stop)
        finally:
            recorder.stop()
            self._received = recorder.received
            self._drops = {
                FEED_NAMES[s.feed]: drops
                for s, drops in zip(receiver.subscriptions, receiver.kernel_drops, strict=True)
            }
        if recorder.failure:
            raise recorder.failure

    def _follow(self, recorder: Recorder, stop: threading.Event) -> None:
        position = 0
        reported = 0.0
        idle_limit = self._config.stop_after_idle_seconds
        while True:
            limit = recorder.readable(self._next)
            path = segment_path(self._folder, self._next)
            before = position
            for records, _, end in frames(path, before, limit):
                self._pipeline.push(records)
                position = end
            if limit is None:
                last = recorder.finished and segments(self._folder)[-1] == self._next
                self._close(self._next, final=last)
                position = 0
                if last:
                    break
            now = time.monotonic()
            if now - reported >= PROGRESS_SECONDS:
                reported = now
                self._progress(recorder)
            if stop.is_set() or (
                idle_limit and now - recorder.last_packet > idle_limit and recorder.received
            ):
                recorder.stop()
            elif position == before and limit is not None:
                stop.wait(POLL_SECONDS)
        self._progress(recorder)

    def _close(self, number: int, *, final: bool) -> None:
        stored = self._pipeline.close_segment(number, final=final)
        for table, rows in stored.rows.items():
            self._rows[table] += rows
        self._commits.extend(stored.partitions)
        self._next = number + 1
        self._save()
        segment_path(self._folder, number).unlink()
        for old in self._folder.glob("state-*.npz"):
            if old != self._state_path(self._next):
                old.unlink()
        emit("committed", segment=number, rows=stored.rows)

    def _progress(self, recorder: Recorder) -> None:
        totals = self._pipeline.totals
        emit(
            "progress",
            received=recorder.received,
            durable=recorder.durable,
            packets=totals.packets,
            messages=totals.messages,
            lost=self._pipeline.lost,
            malformed=totals.malformed,
        )

    def summary(self) -> Summary:
        totals = self._pipeline.totals
        return Summary(
            packets=totals.packets,
            messages=totals.messages,
            lost=totals.lost,
            late=totals.late,
            malformed=totals.malformed,
            unknown_messages=totals.unknown_messages,
            recovered_segments=self._recovered,
            received=self._received,
            kernel_drops=self._drops,
            rows=dict(self._rows),
            books=self._pipeline.books.counters,
            commits=self._commits,
        )


def stop_on_signals() -> threading.Event:
    """An event that SIGTERM and SIGINT set; a second one ends the process at once."""
    stop = threading.Event()

    def handle(number: int, frame: FrameType | None) -> Any:
        if stop.is_set():
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, handle)
    return stop


def _stop_at_end_of(stream: TextIO, stop: threading.Event) -> None:
    for _ in stream:
        pass
    stop.set()


def _run(config: IngestConfig) -> None:
    stop = stop_on_signals()
    if config.stop_with_stdin:
        threading.Thread(target=_stop_at_end_of, args=(sys.stdin, stop), name="stdin", daemon=True).start()
    summary = run(open_archive(config.archive), config, stop)
    emit("done", **vars(summary))


def main(run: Callable[[IngestConfig], None] = _run) -> None:
    """Run one ingest from the command line."""
    job_main(IngestConfig, run, __doc__)


if __name__ == "__main__":
    main()

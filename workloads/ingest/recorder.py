"""The receive path: sockets to spool, in a thread of its own that waits for nothing else.

A second thread makes the spool durable a few times a second (group fsync), so that no receive call ever
waits for the disk. Who wants to know what is durable asks `Recorder.durable`.
"""

import threading
import time
from pathlib import Path

import numpy as np

from workloads.errors import WorkloadError
from workloads.ingest import frames
from workloads.ingest.errors import IngestError
from workloads.ingest.receive import BATCH_BYTES, Receiver
from workloads.ingest.spool import SpoolWriter

FRAME_BYTES = 1 << 20
"""A frame is written when it holds this much, or `FRAME_SECONDS` after its first packet."""
FRAME_SECONDS = 0.01
QUIET_SECONDS = 0.2
"""After this long without a packet one record says so: what waits for a later moment need not wait for the
next packet."""
STOP_SECONDS = 1.0
"""How long the end may be put off by sockets that never run empty."""


class Recorder:
    """Receives into a spool folder until `stop`. A failure ends it and is kept in ``failure``."""

    def __init__(
        self,
        receiver: Receiver,
        folder: Path,
        first_segment: int,
        *,
        segment_bytes: int,
        segment_seconds: float,
        sync_seconds: float,
    ) -> None:
        self.failure: WorkloadError | None = None
        self.received = 0
        """Packets received so far."""
        self.last_packet = time.monotonic()
        """When the newest packet was read (monotonic seconds)."""
        self._receiver = receiver
        self._writer = SpoolWriter(folder, first_segment)
        self._segment_bytes = segment_bytes
        self._segment_seconds = segment_seconds
        self._sync_seconds = sync_seconds
        self._stopping = threading.Event()
        self._finished = threading.Event()
        self._files = threading.Lock()  # the writer's file may change only while it is held
        self._threads = [
            threading.Thread(target=self._receive, name="receive"),
            threading.Thread(target=self._sync, name="sync"),
        ]

    def start(self) -> None:
        """Begin to receive."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Fetch what the sockets still hold, close the segment, and end."""
        self._stopping.set()
        self._receiver.stop()
        for thread in self._threads:
            thread.join()

    @property
    def finished(self) -> bool:
        """No more records will come."""
        return self._finished.is_set()

    @property
    def durable(self) -> int:
        """Packets that would survive a power failure now."""
        return self._writer.synced_records

    def readable(self, segment: int) -> int | None:
        """Up to which byte a segment may be read; None: it is complete."""
        with self._files:
            if self.finished or segment < self._writer.number:
                return None
            return self._writer.position

    def rotate(self) -> None:
        """Begin a new segment at the next frame."""
        with self._files:
            self._writer.rotate()

    def _receive(self) -> None:
        buffer = np.empty(FRAME_BYTES + BATCH_BYTES, np.uint8)
        used = packets = 0
        frame_began = segment_began = time.monotonic()
        stop_by = float("inf")
        ended = False
        ticked = True  # nothing has come yet that could wait for a later moment
        try:
            while True:
                more, count = self._receiver.receive(buffer, used)
                now = time.monotonic()
                if count:
                    self.last_packet = now
                if used == 0:
                    frame_began = now
                used, packets = used + more, packets + count
                self.received += count
                idle = count == 0
                if used and (idle or used >= FRAME_BYTES or now - frame_began >= FRAME_SECONDS):
                    self._append(buffer[:used], packets)
                    used = packets = 0
                    ticked = False
                elif idle and not ticked and now - self.last_packet >= QUIET_SECONDS:
                    self._append(frames.tick(time.time_ns()), 0)
                    ticked = True
                if self._writer.position >= self._segment_bytes or (
                    now - segment_began >= self._segment_seconds and self._writer.position > 8
                ):
                    self.rotate()
                    segment_began = now
                if self._stopping.is_set():
                    stop_by = min(stop_by, now + STOP_SECONDS)
                    if (idle or now >= stop_by) and not used:
                        break
            ended = True
        except WorkloadError as error:
            self.failure = error
        finally:
            if not ended:
                self.failure = self.failure or IngestError("the receive thread died of the error above")
            self._close()

    def _append(self, records: "np.ndarray[tuple[int], np.dtype[np.uint8]]", packets: int) -> None:
        with self._files:
            self._writer.append(records, packets)

    def _close(self) -> None:
        self._stopping.set()
        with self._files:
            try:
                self._writer.close()
            except WorkloadError as error:
                self.failure = self.failure or error
            self._finished.set()

    def _sync(self) -> None:
        while not self._finished.wait(self._sync_seconds):
            try:
                self._writer.sync()
            except WorkloadError as error:
                self.failure = error
                self._stopping.set()
                self._receiver.stop()
                return

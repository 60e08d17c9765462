"""What every kind of capture shares: its error, its summary, its bytes as a bounded stream."""

import gzip
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

import zstandard

from workloads.errors import WorkloadError
from workloads.exchange.packets import Packets

GZIP_MAGIC = b"\x1f\x8b"
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_ZSTD_INPUT_BYTES = 4_096
"""Compressed bytes handed over at once. A Zstandard block of 4 bytes can stand for 128 KiB, so this bounds
what one call may return, even from a hostile file, to 128 MiB."""


class CaptureError(WorkloadError):
    """A file cannot be replayed; the message says what was found, at which byte, and what to do."""


@dataclass(frozen=True)
class CaptureInfo:
    """What a capture holds, known before the first packet is sent."""

    kind: str
    """As in "pcap, Ethernet, nanoseconds" or "DBN version 1, MBO"."""
    path: str
    packets: int
    """How many packets ``blocks()`` yields in total."""
    records: int
    """Records in the file: captured frames, or DBN rows."""
    ts_first: int | None
    """SendingTime of the first packet, ns since the epoch."""
    ts_last: int | None
    venue: str | None = None
    """ISO 10383 MIC, where the file tells."""
    channel: int | None = None
    """CME channel: a guess from the product or from the port, which CME ends in the channel's number."""
    instrument: str | None = None
    """Symbol, where the file holds one instrument."""
    notes: tuple[str, ...] = ()
    """What was left out, made up or merged, one sentence each."""


class Capture(Protocol):
    """An opened capture. It was read once from end to end, so that damage shows before anything is sent."""

    @property
    def info(self) -> CaptureInfo: ...

    def blocks(self) -> Iterator[Packets]:
        """All packets in order, a few thousand at a time; may be called again. Memory is bounded."""
        ...


class Source:
    """The uncompressed bytes of a file (plain, gzip or Zstandard, by content), in order."""

    def __init__(self, path: Path):
        self.path = path
        self.position = 0
        """Uncompressed bytes handed out so far."""
        try:
            self._file: IO[bytes] = path.open("rb")
            magic = self._file.read(4)
            self._file.seek(0)
        except OSError as error:
            raise CaptureError(f"{path} cannot be read: {error.strerror}; check the path") from error
        self.compression = ""
        self._pieces = self._plain()
        if magic == ZSTD_MAGIC:
            self.compression, self._pieces = "Zstandard", self._zstd()
        elif magic[:2] == GZIP_MAGIC:
            self.compression, self._pieces = "gzip", self._gzip()
        self._held = bytearray()

    def __enter__(self) -> "Source":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def read(self, n: int) -> bytes:
        """The next n bytes; fewer only at the end."""
        while len(self._held) < n:
            piece = next(self._pieces, None)
            if piece is None:
                break
            self._held += piece
        out = bytes(memoryview(self._held)[:n])
        del self._held[:n]
        self.position += len(out)
        return out

    def where(self, position: int) -> str:
        """How a message names a place: bytes of a compressed file are counted after decompression."""
        return f"byte {position:,}" + (" of the decompressed data" if self.compression else "")

    def _plain(self) -> Iterator[bytes]:
        while piece := self._file.read(1 << 20):
            yield piece

    def _gzip(self) -> Iterator[bytes]:
        try:
            with gzip.GzipFile(fileobj=self._file) as stream:
                while piece := stream.read(1 << 20):
                    yield piece
        except EOFError as error:
            raise self._cut() from error
        except (OSError, zlib.error) as error:
            raise self._damaged(error) from error

    def _zstd(self) -> Iterator[bytes]:
        frame = zstandard.ZstdDecompressor().decompressobj()
        fed = 0
        data = b""
        try:
            while data or (data := self._file.read(_ZSTD_INPUT_BYTES)):
                if frame.eof:
                    frame, fed = zstandard.ZstdDecompressor().decompressobj(), 0
                fed += len(data)
                if piece := frame.decompress(data):
                    yield piece
                data = frame.unused_data if frame.eof else b""
        except zstandard.ZstdError as error:
            raise self._damaged(error) from error
        if fed and not frame.eof:
            raise self._cut()

    def _cut(self) -> CaptureError:
        return CaptureError(
            f"{self.path} is cut off: its {self.compression} stream ends after "
            f"{self.position + len(self._held):,} decompressed bytes without an end mark; "
            "copy or download the file again"
        )

    def _damaged(self, error: Exception) -> CaptureError:
        return CaptureError(
            f"{self.path} is damaged: {self.compression} fails after "
            f"{self.position + len(self._held):,} decompressed bytes ({error}); "
            "copy or download the file again"
        )

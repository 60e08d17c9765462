"""The spool: what was received, on local disk before anything else happens to it.

A folder of numbered segments. A segment is a magic and a run of frames; a frame is a batch of records
(`workloads.ingest.frames`) behind 16 bytes: magic u32, length u32, CRC-32 u32, number of records u32.
The receive path waits for nothing but `append`; `sync` makes what was appended durable. A reader walks
whole frames only; a frame that was being written when the power failed fails its checksum and ends the
segment. A bad frame with a good one behind it is damage, and an error. Segments are removed by whoever has
stored their content elsewhere.
"""

import errno
import fcntl
import os
import re
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

from workloads.ingest.errors import SpoolError

MAGIC: Final = b"TICKSPL1"
FRAME_MAGIC: Final = 0x4D415246
FRAME_HEADER_BYTES: Final = 16
MAX_FRAME_BYTES: Final = 64 << 20
_FRAME_START: Final = FRAME_MAGIC.to_bytes(4, "little")
_NAME: Final = re.compile(r"(\d{8})\.spool$")


class SpoolWriter:
    """Appends frames to the newest segment of a folder."""

    def __init__(self, folder: Path, number: int) -> None:
        self.number = number
        self.position = 0
        """Bytes of the open segment that a reader may read."""
        self.synced_records = 0
        """Records, over all segments of this writer, that survive a power failure."""
        self._folder = folder
        self._records = 0
        self._swap = threading.Lock()
        self._fd = self._open(number)

    @property
    def path(self) -> Path:
        """The open segment."""
        return segment_path(self._folder, self.number)

    def append(self, records: NDArray[np.uint8], count: int) -> None:
        """Write ``count`` records as one frame."""
        data = records.data
        header = np.array([FRAME_MAGIC, len(records), zlib.crc32(data), count], "<u4").tobytes()
        self._write(memoryview(header))
        self._write(data)
        self.position += FRAME_HEADER_BYTES + len(records)
        self._records += count

    def sync(self) -> None:
        """Make everything appended before this call durable; another thread may append meanwhile."""
        with self._swap:  # the file may not be closed under us
            if self._fd < 0:
                return
            records = self._records
            try:
                os.fdatasync(self._fd)
            except OSError as error:
                raise _failure(error, self.path) from error
            self.synced_records = max(self.synced_records, records)

    def rotate(self) -> None:
        """Close the open segment and begin the next."""
        self.sync()
        with self._swap:
            self._release()
            fd = self._open(self.number + 1)
            self.number += 1
            self._fd = fd

    def close(self) -> None:
        """Close the open segment for good; safe to repeat."""
        try:
            self.sync()
        finally:
            with self._swap:
                self._release()

    def _release(self) -> None:
        """Close the file and forget its number, which the system gives to others."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _open(self, number: int) -> int:
        fd = -1
        path = segment_path(self._folder, number)
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)
            os.write(fd, MAGIC)
            sync_folder(self._folder)
        except OSError as error:
            if fd >= 0:
                os.close(fd)
            raise _failure(error, path) from error
        self.position = len(MAGIC)
        return fd

    def _write(self, data: memoryview) -> None:
        while len(data):
            try:
                data = data[os.write(self._fd, data) :]
            except OSError as error:
                raise _failure(error, self.path) from error


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a spool folder for this process alone; created if it is not there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        fd = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    except OSError as error:
        raise _failure(error, folder) from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(fd)
        raise SpoolError(
            f"another ingest uses the spool folder {folder}; stop it first, or give this one its own folder"
        ) from error
    try:
        yield
    finally:
        os.close(fd)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def segment_path(folder: Path, number: int) -> Path:
    """Where segment ``number`` lies."""
    return folder / f"{number:08d}.spool"


def segments(folder: Path) -> list[int]:
    """Numbers of the segments in a folder, oldest first."""
    found = (_NAME.fullmatch(path.name) for path in folder.glob("*.spool"))
    return sorted(int(match[1]) for match in found if match)


def frames(
    path: Path, start: int = 0, stop: int | None = None
) -> Iterator[tuple[NDArray[np.uint8], int, int]]:
    """Whole frames between two positions of a segment: (records, how many, position behind the frame).

    ``start`` 0 is the beginning of the segment. Ends at the first frame that is not whole: a segment that
    was being written when its writer died ends there.

    Raises
    ------
    SpoolError
        If the file is not a spool segment, or a good frame lies behind a damaged one: no torn write leaves
        that.
    """
    with path.open("rb") as file:
        if start == 0:
            magic = file.read(len(MAGIC))
            if magic != MAGIC[: len(magic)]:
                raise SpoolError(f"{path} is no spool segment; move it out of the spool folder")
            start = len(MAGIC)
        while stop is None or start < stop:
            file.seek(start)
            frame = _frame(file)
            if frame is None:
                _check_tail(file, path, start, stop)
                return
            data, count = frame
            start += FRAME_HEADER_BYTES + len(data)
            yield np.frombuffer(data, np.uint8), count, start


def _frame(file: BinaryIO) -> tuple[bytes, int] | None:
    """(content, records) of the frame that begins here; None when there is no whole one."""
    header = file.read(FRAME_HEADER_BYTES)
    if len(header) < FRAME_HEADER_BYTES:
        return None
    magic, length, checksum, count = (int(word) for word in np.frombuffer(header, "<u4"))
    if magic != FRAME_MAGIC or length > MAX_FRAME_BYTES:
        return None
    data = file.read(length)
    return (data, count) if len(data) == length and zlib.crc32(data) == checksum else None


def _check_tail(file: BinaryIO, path: Path, start: int, stop: int | None) -> None:
    """Refuse a segment that goes on behind a damaged frame: what follows must not vanish unseen."""
    file.seek(start)
    tail = file.read(-1 if stop is None else stop - start)
    at = tail.find(_FRAME_START, 1)
    while at >= 0:
        file.seek(start + at)
        if _frame(file) is not None:
            raise SpoolError(
                f"{path} is damaged at byte {start} and goes on at byte {start + at}; restore it from a "
                f"copy, or give up what follows, which then shows as a gap: truncate -s {start} {path}"
            )
        at = tail.find(_FRAME_START, at + 1)


def _failure(error: OSError, path: Path) -> SpoolError:
    if error.errno == errno.ENOSPC:
        return SpoolError(
            f"no space left for the spool at {path}; free space or give another folder. "
            f"What was written so far is safe and will be finished by the next start"
        )
    return SpoolError(f"cannot write the spool at {path}: {error.strerror}")

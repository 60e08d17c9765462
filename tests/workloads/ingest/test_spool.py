"""The spool: torn, flipped, foreign, full, shared."""

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import skip_or_fail
from workloads.ingest import spool
from workloads.ingest.errors import SpoolError
from workloads.ingest.spool import SpoolWriter, frames, locked, segment_path, segments


def data(n, size=40):
    return np.full(size, n, np.uint8)


def written(folder, n=3):
    """A segment of n frames: its bytes, and where each frame ends."""
    writer = SpoolWriter(folder, 1)
    ends = []
    for i in range(n):
        writer.append(data(i + 1), i + 10)
        ends.append(writer.position)
    writer.close()
    return segment_path(folder, 1).read_bytes(), ends


def read(path, *limits):
    return [(int(records[0]), count, end) for records, count, end in frames(path, *limits)]


def test_frames_come_back_whole_with_counts_and_positions(tmp_path):
    content, ends = written(tmp_path)
    found = list(frames(segment_path(tmp_path, 1)))
    assert [(records.tolist(), count, end) for records, count, end in found] == [
        ([i + 1] * 40, i + 10, end) for i, end in enumerate(ends)
    ]
    assert len(content) == ends[-1]


def test_reading_goes_on_where_it_stopped_and_no_further_than_told(tmp_path):
    _, ends = written(tmp_path)
    path = segment_path(tmp_path, 1)
    assert read(path, 0, ends[0]) == [(1, 10, ends[0])]
    assert read(path, ends[0], ends[1]) == [(2, 11, ends[1])]
    assert read(path, ends[1]) == [(3, 12, ends[2])]
    assert read(path, ends[2]) == []


def test_a_segment_torn_at_any_byte_keeps_its_whole_frames(tmp_path):
    content, ends = written(tmp_path)
    path = segment_path(tmp_path, 1)
    for length in range(len(content) + 1):
        path.write_bytes(content[:length])
        assert [end for _, _, end in read(path)] == [end for end in ends if end <= length]


@pytest.mark.parametrize("junk", [bytes(300), b"\xff" * 300, spool.FRAME_MAGIC.to_bytes(4, "little") * 80])
def test_what_a_power_failure_leaves_behind_the_last_frame_is_ignored(tmp_path, junk):
    content, ends = written(tmp_path)
    path = segment_path(tmp_path, 1)
    for end in (8, *ends):
        path.write_bytes(content[:end] + junk)
        assert [e for _, _, e in read(path)] == [e for e in ends if e <= end]


def test_a_flipped_bit_never_passes_and_never_hides_what_follows(tmp_path):
    content, ends = written(tmp_path)
    path = segment_path(tmp_path, 1)
    starts = [8, *ends[:-1]]
    for at in range(8, len(content)):
        damaged = bytearray(content)
        damaged[at] ^= 1 << (at % 8)
        path.write_bytes(damaged)
        frame = sum(start <= at for start in starts) - 1
        counts_word = at - starts[frame] in range(12, 16)  # outside the checksum: statistics only
        found = []
        if frame == 2 or counts_word:
            found = [end for _, _, end in read(path)]
            assert found == (ends if counts_word else ends[:2])
        else:
            with pytest.raises(
                SpoolError, match=rf"damaged at byte {starts[frame]} .* truncate -s {starts[frame]} "
            ):
                for _, _, end in frames(path):
                    found.append(end)
            assert found == ends[:frame]


def test_following_the_remedy_of_a_damaged_segment_works(tmp_path):
    content, ends = written(tmp_path)
    path = segment_path(tmp_path, 1)
    path.write_bytes(content[: ends[0] + 20] + b"\xee" + content[ends[0] + 21 :])
    with pytest.raises(SpoolError) as refused:
        read(path)
    subprocess.run(str(refused.value).rsplit(": ", 1)[1], shell=True, check=True)
    assert read(path) == [(1, 10, ends[0])]


def test_an_empty_or_barely_begun_segment_has_no_frames(tmp_path):
    path = segment_path(tmp_path, 1)
    for content in (b"", spool.MAGIC[:3], spool.MAGIC):
        path.write_bytes(content)
        assert read(path) == []


def test_a_foreign_file_is_refused_by_name(tmp_path):
    path = segment_path(tmp_path, 1)
    path.write_bytes(b"PAR1 and more")
    with pytest.raises(SpoolError, match=r"00000001\.spool is no spool segment; move it out"):
        read(path)


def test_only_segment_names_count_as_segments(tmp_path):
    for name in ("00000010.spool", "00000002.spool", "2.spool", "x.spool", "00000003.spool.bak", "lock"):
        (tmp_path / name).touch()
    assert segments(tmp_path) == [2, 10]


def test_rotation_begins_the_next_segment_and_counts_on(tmp_path):
    writer = SpoolWriter(tmp_path, 7)
    writer.append(data(1), 5)
    assert writer.synced_records == 0
    writer.rotate()
    assert (writer.number, writer.position, writer.synced_records) == (8, 8, 5)
    writer.append(data(2), 6)
    writer.sync()
    assert writer.synced_records == 11
    writer.close()
    assert [read(segment_path(tmp_path, n))[0][:2] for n in segments(tmp_path)] == [(1, 5), (2, 6)]


def test_an_existing_segment_is_never_overwritten(tmp_path):
    written(tmp_path)
    with pytest.raises(SpoolError, match="File exists"):
        SpoolWriter(tmp_path, 1)


def test_syncing_after_the_end_is_harmless(tmp_path):
    writer = SpoolWriter(tmp_path, 1)
    writer.close()
    victim = os.open(tmp_path / "other", os.O_CREAT | os.O_WRONLY)  # takes the number that was freed
    writer.sync()
    writer.close()
    os.write(victim, b"still open")
    os.close(victim)


def test_when_the_next_segment_cannot_begin_no_other_file_is_closed(tmp_path):
    writer = SpoolWriter(tmp_path, 1)
    writer.append(data(1), 1)
    segment_path(tmp_path, 2).touch()
    with pytest.raises(SpoolError):
        writer.rotate()
    victim = os.open(tmp_path / "other", os.O_CREAT | os.O_WRONLY)
    writer.close()
    os.write(victim, b"still open")
    os.close(victim)
    assert len(read(segment_path(tmp_path, 1))) == 1


def test_a_second_ingest_on_the_same_folder_is_refused_until_the_first_is_gone(tmp_path):
    refused = pytest.raises(SpoolError, match="another ingest uses the spool folder")
    with locked(tmp_path / "new" / "folder"), refused, locked(tmp_path / "new" / "folder"):
        pass
    with locked(tmp_path / "new" / "folder"):
        pass


@pytest.mark.parametrize("folder", ["/proc/nowhere", "/dev/null/spool"])
def test_a_folder_that_cannot_be_written_is_one_sentence(folder):
    with pytest.raises(SpoolError, match=f"cannot write the spool at {folder}"), locked(Path(folder)):
        pass


@pytest.fixture
def tiny(tmp_path):
    """A file system of 256 KiB."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        skip_or_fail("mounting a tmpfs takes root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_stops_the_spool_and_keeps_what_was_written(tiny):
    writer = SpoolWriter(tiny, 1)
    ends = []
    with pytest.raises(SpoolError, match=r"no space left for the spool at .*free space"):
        for i in range(100):
            writer.append(data(i % 250, 10_000), 1)
            ends.append(writer.position)
    assert len(ends) > 20
    writer.close()
    path = segment_path(tiny, 1)
    assert path.stat().st_size > ends[-1]  # the torn frame
    assert [end for _, _, end in read(path)] == ends

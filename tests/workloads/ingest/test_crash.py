"""Killed at any moment, ingest finds every acknowledged row once when it is started again."""

import os
import random
import shutil
import signal
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import skip_or_fail
from tests.workloads.ingest.live import (
    TABLES,
    Sending,
    Site,
    by_packet,
    clean_rows,
    need_multicast,
    spool_records,
    whole_event,
)
from workloads.ingest import job
from workloads.ingest.job import IngestConfig
from workloads.ticks.archive import ArchiveError, open_archive

PACKETS = 40


def check_rows(archive, expected, seqs):
    """Exactly these packets are stored, each once, with the rows of a clean run."""
    stored = archive.read("packets")["seq"].to_pylist()
    assert len(stored) == len(set(stored)), "a packet is stored twice"
    assert set(stored) == seqs
    for table in TABLES:
        found = by_packet(archive, table)
        assert found == {seq: expected[table][seq] for seq in seqs}, table


def nothing_left(spool):
    assert sorted(path.name.split("-")[0] for path in spool.iterdir()) == ["lock", "state"]


# Deterministic: the process ends at every step that changes what a reader or a restart can see.


@contextmanager
def ending_at(step):
    """End the process like kill -9 just before its step-th link, rename or removal; yields the steps."""
    taken = []

    def wrapped(original, counts):
        def stepping(first, *rest, **keywords):
            if counts(str(first)):
                if len(taken) == step:
                    os._exit(9)
                taken.append(original.__name__)
            return original(first, *rest, **keywords)

        return stepping

    saved = os.link, Path.replace, Path.unlink
    os.link = wrapped(os.link, lambda path: True)
    Path.replace = wrapped(Path.replace, lambda path: True)
    Path.unlink = wrapped(Path.unlink, lambda path: path.endswith((".spool", ".npz")))
    try:
        yield taken
    finally:
        os.link, Path.replace, Path.unlink = saved


def config(folder):
    return IngestConfig(archive=str(folder / "archive"), spool=str(folder / "spool"), first_seq=1)


def run(folder):
    return job.run(open_archive(str(folder / "archive")), config(folder))


def killed_at(folder, step):
    """Run in a process of its own that ends at the step; True when it got there."""
    child = os.fork()
    if child == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        try:
            with ending_at(step):
                run(folder)
        except BaseException:  # noqa: BLE001  # nothing may escape into the parent's test run
            os._exit(1)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, 9)
    return status == 9


@pytest.fixture(scope="module")
def payloads():
    return [whole_event(i) for i in range(1, PACKETS + 1)]


@pytest.fixture(scope="module")
def expected(payloads, tmp_path_factory):
    return clean_rows(tmp_path_factory.mktemp("clean"), payloads)


@pytest.fixture(scope="module")
def spooled(payloads, tmp_path_factory):
    """What an ingest that died left: a state and two segments."""
    folder = tmp_path_factory.mktemp("died")
    run(folder)
    half = PACKETS // 2
    spool_records(folder / "spool", payloads[:half], 1)
    spool_records(folder / "spool", payloads[half:], 2)
    return folder


def steps(spooled, folder):
    """The steps of an undisturbed run."""
    shutil.copytree(spooled, folder)
    with ending_at(-1) as taken:
        run(folder)
    return taken


@pytest.mark.parametrize("share", [9, pytest.param(1, marks=pytest.mark.slow)])
def test_a_process_that_ends_at_any_step_loses_and_repeats_nothing(spooled, expected, tmp_path, share):
    """A file and a log entry of each table and segment are links: of these, every ``share``-th."""
    taken = steps(spooled, tmp_path / "undisturbed")
    assert taken.count("link") > 2 * 2 * len(TABLES)
    assert (taken.count("replace"), taken.count("unlink")) == (2, 4)
    rng = random.Random(1)
    for step in [i for i, name in enumerate(taken) if name != "link" or i % share == 0]:
        folder = tmp_path / str(step)
        shutil.copytree(spooled, folder)
        assert killed_at(folder, step)
        archive = open_archive(str(folder / "archive"))
        assert not [finding for finding in archive.verify() if not finding.startswith("orphan")]
        if rng.random() < 0.3:  # and again, while it recovers
            killed_at(folder, rng.randrange(len(taken)))
        run(folder)
        archive = open_archive(str(folder / "archive"))
        check_rows(archive, expected, set(range(1, PACKETS + 1)))
        assert archive.verify() == []
        nothing_left(folder / "spool")
        shutil.rmtree(folder)


def test_a_run_that_is_repeated_after_its_end_adds_nothing(spooled, tmp_path):
    shutil.copytree(spooled, tmp_path / "x")
    run(tmp_path / "x")
    commit = open_archive(str(tmp_path / "x/archive")).data_commit()
    assert run(tmp_path / "x").commits == []
    assert open_archive(str(tmp_path / "x/archive")).data_commit() == commit


def test_segments_without_a_state_are_refused(spooled, tmp_path):
    shutil.copytree(spooled, tmp_path / "x")
    for state in (tmp_path / "x/spool").glob("state-*"):
        state.unlink()
    with pytest.raises(job.IngestError, match="holds spool segment 1 but no state"):
        run(tmp_path / "x")


# Full disks.


@contextmanager
def tiny_disk(folder, size):
    folder.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        skip_or_fail("mounting a tmpfs takes root")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize("room", [20, 60, 120])
def test_a_full_archive_disk_is_told_and_finished_after_space_is_freed(spooled, expected, tmp_path, room):
    folder = tmp_path / "x"
    shutil.copytree(spooled, folder)
    with tiny_disk(folder / "archive", "400k"):
        ballast = folder / "archive" / "ballast"
        ballast.write_bytes(bytes((400 - room) << 10))
        with pytest.raises(ArchiveError, match="No space left on device; free some space"):
            run(folder)
        archive = open_archive(str(folder / "archive"))
        assert not [f for f in archive.verify() if not f.startswith("orphan")]
        ballast.unlink()
        run(folder)
        archive = open_archive(str(folder / "archive"))
        check_rows(archive, expected, set(range(1, PACKETS + 1)))
        nothing_left(folder / "spool")


def test_a_state_that_finds_no_space_is_told_and_finished_after_space_is_freed(spooled, expected, tmp_path):
    folder = tmp_path / "x"
    shutil.copytree(spooled, folder)
    shutil.move(folder / "spool", folder / "kept")
    with tiny_disk(folder / "spool", "8m"):
        shutil.copytree(folder / "kept", folder / "spool", dirs_exist_ok=True)
        ballast = folder / "spool" / "ballast"
        with ballast.open("wb") as file, pytest.raises(OSError, match="No space"):
            while True:
                file.write(bytes(1 << 16))
                file.flush()
        with pytest.raises(job.IngestError, match=r"cannot save the ingest state .*: No space left"):
            run(folder)
        ballast.unlink()
        run(folder)
        check_rows(open_archive(str(folder / "archive")), expected, set(range(1, PACKETS + 1)))


# At random: a real process, real multicast, kill -9.


def kill_often(folder, kills, seed):
    """Receive, kill, receive the next packets, kill, ...; then finish, and look at every packet."""
    need_multicast()
    payloads = [whole_event(i) for i in range(1, 500 * kills + 1)]
    expected = clean_rows(folder / "clean", payloads)
    site, rng = Site(folder, segment_bytes=150_000), random.Random(seed)
    must, at = set(), 0
    for kill in range(kills):
        process = site.start()
        if rng.random() < 0.25 and kill:
            time.sleep(rng.uniform(0.3, 2.5))  # while it starts, recovers, or waits
            process.end(signal.SIGKILL)
        else:
            process.ready()
            sending = Sending(site.groups, payloads, first=at)
            time.sleep(rng.uniform(0.01, 0.5))
            process.end(signal.SIGKILL)
            sent = sending.stop()
            # What it said is durable are the first packets sent, each of which came at most twice.
            must |= set(range(at + 1, at + 1 + min(sent, -(-process.durable // 2))))
            at += sent
        must |= site.spooled()
        assert process.process.returncode == -signal.SIGKILL
        archive = open_archive(str(site.folder / "archive"))
        assert not [f for f in archive.verify() if not f.startswith("orphan")]
        assert at < len(payloads)
    process = site.finish()
    assert process.process.returncode == 0, process.stderr
    archive = open_archive(str(site.folder / "archive"))
    stored = set(archive.read("packets")["seq"].to_pylist())
    assert must <= stored <= set(range(1, at + 1)), sorted(must - stored)[:20]
    check_rows(archive, expected, stored)
    gaps = archive.read("gaps").to_pylist() if "gaps" in archive.tables() else []
    lost = {seq for row in gaps for seq in range(row["first_seq"], row["last_seq"] + 1)}
    assert lost == set(range(1, max(stored))) - stored, "what is not stored is a gap"
    assert archive.verify() == []
    nothing_left(site.spool)
    assert len(must) > 10 * kills


def test_five_kills_lose_and_repeat_nothing(tmp_path):
    kill_often(tmp_path, 5, seed=4)


@pytest.mark.slow
def test_fifty_kills_lose_and_repeat_nothing(tmp_path, record_property):
    seed = int.from_bytes(os.urandom(4), "little")
    record_property("seed", seed)
    kill_often(tmp_path, 50, seed)

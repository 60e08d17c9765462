"""The job as a process: how it ends, what it refuses, and that a gap is what both feeds dropped."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from tests.workloads.ingest.live import (
    Sending,
    Site,
    by_packet,
    clean_rows,
    need_multicast,
    spool_records,
    whole_event,
)
from tests.workloads.ingest.messages import HEARTBEAT
from tests.workloads.ingest.streams import SUNDAY, packet
from workloads.exchange.feed import Endpoint, Impairment, Sender
from workloads.exchange.packets import Packets
from workloads.ingest import job, recorder
from workloads.ingest.errors import IngestError
from workloads.ingest.job import IngestConfig
from workloads.ingest.recorder import Recorder
from workloads.ingest.spool import frames as spool_frames
from workloads.ingest.spool import segment_path
from workloads.ticks.archive import ArchiveError, open_archive


@pytest.fixture(scope="module", autouse=True)
def multicast():
    need_multicast()


def refused(process):
    """The one line of a job that ended with an error."""
    process.wait()
    assert process.process.returncode == 1
    assert process.last("error")["message"] in process.stderr
    assert "Traceback" not in process.stderr
    return process.last("error")["message"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_cleanly_with_everything_committed(tmp_path, number):
    payloads = [whole_event(i) for i in range(1, 301)]
    expected = clean_rows(tmp_path / "clean", payloads)
    site = Site(tmp_path, segment_bytes=100_000)
    process = site.start()
    process.ready()
    sending = Sending(site.groups, payloads)
    process.received(600)
    process.end(number)
    assert (process.process.returncode, process.stderr) == (0, "")
    assert sending.stop() == 300
    done = process.last("done")
    assert (done["packets"], done["received"], done["lost"]) == (300, 600, 0)
    assert done["kernel_drops"] == {"A": 0, "B": 0}
    assert by_packet(site.archive, "mbo") == expected["mbo"]
    assert site.archive.read("packets")["seq"].to_pylist() == list(range(1, 301))
    assert "gaps" not in site.archive.tables()
    assert sorted(path.name.split("-")[0] for path in site.spool.iterdir()) == ["lock", "state"]
    assert len({commit[2] for commit in done["commits"]}) > 2, "it committed on the way"


def test_it_ends_in_the_middle_of_a_flood(tmp_path):
    site = Site(tmp_path)
    process = site.start()
    process.ready()
    payloads = [whole_event(i) for i in range(1, 3_001)]
    sending = Sending(site.groups, payloads * 100, rate=1e9)
    process.received(2_000)
    process.end(signal.SIGTERM)
    sending.stop()
    assert process.process.returncode == 0, process.stderr
    assert process.last("done")["packets"] == site.archive.read("packets").num_rows


def opened(pipe):
    """A pipe's writing end, once somebody reads it."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        with contextlib.suppress(OSError):
            return os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
        time.sleep(0.02)
    raise AssertionError("nobody reads the pipe")


def test_a_second_signal_ends_it_at_once_and_the_spool_is_finished_later(tmp_path, payloads_small):
    site = Site(tmp_path, feeds=[])
    site.start().wait()
    spool_records(site.spool, payloads_small, 1)
    os.mkfifo(tmp_path / "pipe")
    blocked = (
        "import os, workloads.ingest.pipeline as p\n"
        "p.Pipeline.close_segment = lambda *a, **k: open(os.environ['PIPE']).read()\n"
        "from workloads.ingest.job import main; main()"
    )
    command = [sys.executable, "-c", blocked, "--config", str(tmp_path / "config.json")]
    environment = {**os.environ, "PIPE": str(tmp_path / "pipe")}
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment) as stuck:
        pipe = opened(tmp_path / "pipe")  # the job sits in its commit
        stuck.send_signal(signal.SIGINT)
        time.sleep(0.2)
        assert stuck.poll() is None
        stuck.send_signal(signal.SIGINT)
        assert stuck.wait(10) == -signal.SIGINT
        os.close(pipe)
    process = site.finish()
    assert process.process.returncode == 0, process.stderr
    assert site.archive.read("packets").num_rows == len(payloads_small)


@pytest.fixture(scope="module")
def payloads_small():
    return [whole_event(i) for i in range(1, 31)]


def test_what_is_received_after_a_restart_follows_what_was_recovered(tmp_path, payloads_small):
    site = Site(tmp_path)
    config = IngestConfig(**{**site.config, "feeds": ()})
    job.run(site.archive, config)
    spool_records(site.spool, payloads_small[:20], 1)
    process = site.start()
    process.ready()
    sending = Sending(site.groups, payloads_small, first=20)
    process.received(20)
    process.end(signal.SIGTERM)
    sending.stop()
    assert process.last("done")["recovered_segments"] == 1
    assert site.archive.read("packets")["seq"].to_pylist() == list(range(1, 31))
    assert "gaps" not in site.archive.tables()


def test_it_ends_by_itself_when_the_feed_has_been_silent(tmp_path, payloads_small):
    site = Site(tmp_path, stop_after_idle_seconds=0.3)
    process = site.start()
    process.ready()
    Sending(site.groups, payloads_small).finish()
    process.wait()
    assert process.process.returncode == 0, process.stderr
    assert process.last("done")["received"] == 60


def test_a_port_in_use_is_one_sentence(tmp_path):
    site = Site(tmp_path)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(site.groups[0])
        message = refused(site.start())
    assert str(site.groups[0][1]) in message
    assert "in use" in message


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"channnel": 310}, "channnel: Unexpected keyword argument"),
        ({"channel": "x"}, "channel: Input should be a valid integer"),
        ({"channel": 70_000}, "channel 70000: write a number from 0 to 65535"),
        ({"venue": "NOPE"}, "no calendar for venue 'NOPE'"),
        ({"feeds": [{"name": "A", "group": "239.1.1.1", "prot": 1}]}, "prot: Unexpected keyword argument"),
        ({"feeds": [{"name": "C", "group": "239.1.1.1", "port": 1}]}, "unknown feed 'C'; known: A, B, S"),
        ({"spool": "/proc/spool"}, "cannot write the spool at /proc/spool"),
        ({"archive": "ftp://x/y"}, "unknown scheme 'ftp'"),
    ],
)
def test_a_config_that_cannot_work_is_one_sentence(tmp_path, change, message, capsys):
    site = Site(tmp_path)
    path = tmp_path / "bad.json"
    path.write_text(json.dumps(site.config | change))
    with pytest.raises(SystemExit) as ended, pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["job", "--config", str(path)])
        patch.setattr(job, "stop_on_signals", threading.Event)
        job.main()
    said = capsys.readouterr()
    assert ended.value.code == 1
    assert message in said.err
    assert message in json.loads(said.out)["message"]


def test_two_ingests_on_one_spool_are_refused(tmp_path):
    site = Site(tmp_path)
    first = site.start()
    first.ready()
    assert "another ingest uses the spool folder" in refused(site.finish_unchecked())
    first.end(signal.SIGTERM)
    assert first.process.returncode == 0


def test_an_archive_that_holds_these_packets_already_refuses_a_second_spool(tmp_path, payloads_small):
    for name in ("one", "two"):
        config = IngestConfig(archive=str(tmp_path / "archive"), spool=str(tmp_path / name), first_seq=1)
        archive = open_archive(config.archive)
        job.run(archive, config)
        spool_records(tmp_path / name, payloads_small, 1)
        if name == "one":
            job.run(archive, config)
    with pytest.raises(IngestError, match="already holds packets 1-30 of channel 310"):
        job.run(archive, config)
    assert archive.read("packets").num_rows == 30
    assert segment_path(tmp_path / "two", 1).exists(), "what was received stays in the spool"


class _Dying:
    """A receiver that fails in a way that nobody foresaw."""

    def receive(self, buffer, start):
        raise MemoryError("no more")

    def stop(self):
        pass


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_receive_thread_that_dies_is_a_failure_not_an_end(tmp_path):
    dying = Recorder(_Dying(), tmp_path, 1, segment_bytes=1 << 20, segment_seconds=9, sync_seconds=0.01)
    dying.start()
    dying.stop()
    assert dying.finished
    assert "receive thread died" in str(dying.failure)


class _Endless:
    """A feed that always has one more packet."""

    def receive(self, buffer, start):
        buffer[start : start + 24] = 0
        return 24, 1

    def stop(self):
        pass


def test_a_feed_that_never_pauses_cannot_put_off_the_end(tmp_path, monkeypatch):
    monkeypatch.setattr(recorder, "STOP_SECONDS", 0.05)
    endless = Recorder(_Endless(), tmp_path, 1, segment_bytes=64 << 20, segment_seconds=9, sync_seconds=0.01)
    endless.start()
    time.sleep(0.05)
    endless.stop()
    assert endless.failure is None
    assert endless.durable == endless.received > 0
    spooled = sum(
        count
        for number in range(1, endless._writer.number + 1)
        for _, count, _ in spool_frames(segment_path(tmp_path, number))
    )
    assert spooled == endless.received


def test_a_full_spool_disk_stops_receiving_and_stores_what_came(tmp_path, monkeypatch):
    """Room for two frames; the third fails."""
    frames_written = []
    original = recorder.SpoolWriter._write

    def full(self, data):
        frames_written.append(len(data))
        if len(frames_written) > 4:
            raise recorder.IngestError("no space left for the spool")
        original(self, data)

    monkeypatch.setattr(recorder.SpoolWriter, "_write", full)
    full_disk = Recorder(
        _Endless(), tmp_path, 1, segment_bytes=64 << 20, segment_seconds=9, sync_seconds=0.01
    )
    full_disk.start()
    while not full_disk.finished:
        time.sleep(0.01)
    full_disk.stop()
    assert "no space left" in str(full_disk.failure)
    assert full_disk.durable == sum(count for _, count, _ in spool_frames(segment_path(tmp_path, 1)))
    assert len(list(spool_frames(segment_path(tmp_path, 1)))) == 2


@pytest.mark.parametrize("loss", [0.0, 0.01, 0.2])
def test_the_gaps_are_what_both_feeds_dropped(tmp_path, loss):
    n = 40_000
    packets = Packets.of([packet(i, SUNDAY + i * 1000, HEARTBEAT) for i in range(1, n + 1)])
    site = Site(tmp_path, segment_bytes=1 << 20, receive_buffer_bytes=64 << 20)
    process = site.start()
    process.ready()
    endpoints = [Endpoint(f["name"], f["group"], f["port"]) for f in site.config["feeds"]]
    impairments = {
        "A": Impairment(loss=loss, reorder=0.05, duplication=0.02),
        "B": Impairment(loss=loss, reorder=0.05, skew_ns=200_000),
    }
    with Sender(endpoints, impairments=impairments, seed=3, speed=0, max_rate_pps=40_000) as sender:
        sender.send(packets)
        log = sender.finish()
    process.received(sum(int(feed.copies.sum()) for feed in log.feeds.values()))
    process.end(signal.SIGTERM)
    assert process.process.returncode == 0, process.stderr
    assert process.last("done")["kernel_drops"] == {"A": 0, "B": 0}
    lost = set(log.lost().tolist())
    assert bool(lost) == (loss > 0)
    stored = site.archive.read("packets")["seq"].to_pylist()
    assert sorted(stored) == sorted(set(range(1, n + 1)) - lost)
    gaps = site.archive.read("gaps").to_pylist() if lost else []
    found = {"lost": set(), "late": set()}
    for row in gaps:
        found[row["outcome"]] |= set(range(row["first_seq"], row["last_seq"] + 1))
    tail = set(range(max(stored) + 1, n + 1))  # nothing came behind them, so nobody can know
    assert found["lost"] - found["late"] == lost - tail
    assert len(tail) < 5


def test_an_archive_that_cannot_be_reached_is_told_before_anything_is_received(tmp_path, capsys):
    class Unreachable:
        def tables(self):
            raise ArchiveError("no such bucket")

    feeds = (job.FeedConfig("A", "239.195.9.3", 20_999),)
    config = IngestConfig(archive="s3://none", spool=str(tmp_path / "spool"), feeds=feeds)
    with pytest.raises(ArchiveError, match="no such bucket"):
        job.run(Unreachable(), config)
    assert "ready" not in capsys.readouterr().out
    assert not (tmp_path / "spool").exists()

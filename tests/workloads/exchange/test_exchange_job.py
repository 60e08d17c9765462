"""The exchange as a job: what it sends, what it reports, how it stops."""

import json
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workloads.exchange import job
from workloads.exchange.captures import CaptureError
from workloads.exchange.feed import Endpoint, Impairment, SendLog
from workloads.exchange.job import ExchangeConfig, run, slices
from workloads.exchange.packets import Packets
from workloads.exchange.simulator import SimulatorConfig, Truth
from workloads.runtime.jobs import JobConfigError, config_json, parse_config

GROUP = "239.255.92.1"
MS = 1_000_000
START = 1_700_000_000_000_000_000


def payload(seq: int, ts_sent: int) -> bytes:
    return struct.pack("<IQ5H", seq, ts_sent, 10, 0, 12, 1, 13)


def recording(folder: Path, times_ns: list[int]) -> str:
    """A pcap file with one packet at each time after START."""
    data = b"\xd4\xc3\xb2\xa1" + struct.pack("<HHiIII", 2, 4, 0, 0, 65_535, 101)
    for seq, at in enumerate(times_ns, 1):
        udp = payload(seq, START + at)
        head = struct.pack(
            ">BBHHHBBH4s4s", 0x45, 0, 28 + len(udp), 0, 0, 64, 17, 0, bytes(4), socket.inet_aton("224.0.31.1")
        )
        frame = head + struct.pack(">4H", 1, 14310, 8 + len(udp), 0) + udp
        data += struct.pack("<4I", 0, 0, len(frame), len(frame)) + frame
    path = folder / "recording.pcap"
    path.write_bytes(data)
    return str(path)


@contextmanager
def receiver() -> Iterator[socket.socket]:
    """A member of GROUP on a port of its own."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        sock.bind((GROUP, 0))
        sock.setsockopt(
            socket.IPPROTO_IP,
            socket.IP_ADD_MEMBERSHIP,
            socket.inet_aton(GROUP) + socket.inet_aton("127.0.0.1"),
        )
        sock.settimeout(5)
        yield sock


def a(port: int) -> tuple[Endpoint, ...]:
    return (Endpoint("A", GROUP, port),)


class Reports:
    """Collects what a job says."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []

    def __call__(self, event: str, **fields: Any) -> None:
        self.events.append((event, fields))

    def of(self, event: str) -> list[dict[str, Any]]:
        return [fields for name, fields in self.events if name == event]


def test_a_capture_arrives_whole_and_in_order(tmp_path: Path):
    path = recording(tmp_path, [i * MS // 10 for i in range(300)])
    reports = Reports()
    with receiver() as sock:
        summary = run(
            ExchangeConfig(a(sock.getsockname()[1]), capture=path, speed=0, out=str(tmp_path)), reports
        )
        received = [sock.recv(2_048) for _ in range(300)]
    assert received == [payload(i + 1, START + i * MS // 10) for i in range(300)]
    assert summary["packets"] == summary["of"] == 300
    assert summary["stopped"] is False
    assert reports.events[0][0] == "ready"
    assert reports.of("done") == [summary]
    assert SendLog.load(tmp_path / "sent.npz").feeds["A"].seq.tolist() == list(range(1, 301))


def test_impairments_are_in_the_summary_and_in_the_log(tmp_path: Path):
    path = recording(tmp_path, list(range(1_000)))
    endpoints = (Endpoint("A", GROUP, 40_001), Endpoint("B", GROUP, 40_002))
    losses = {"A": Impairment(loss=0.2), "B": Impairment(loss=0.2)}
    summary = run(
        ExchangeConfig(endpoints, capture=path, speed=0, impairments=losses, seed=5, out=str(tmp_path)),
        Reports(),
    )
    log = SendLog.load(tmp_path / "sent.npz")
    assert 100 < summary["feeds"]["A"]["dropped"] == len(log.dropped("A")) < 300
    assert summary["lost"] == len(set(log.dropped("A")) & set(log.dropped("B"))) > 0


def test_the_simulator_is_sent_and_its_truth_is_kept(tmp_path: Path):
    simulator = SimulatorConfig(seed=3, duration_ns=2_000 * MS)
    endpoints = tuple(Endpoint(feed, GROUP, 40_010 + i) for i, feed in enumerate("ABS"))
    config = ExchangeConfig(endpoints, simulator=simulator, speed=0, out=str(tmp_path))
    summary = run(config, Reports())
    truth = Truth.load(tmp_path / "truth.npz")
    assert (summary["packets"], summary["snapshots"]) == (truth.packets, truth.snapshot_packets)
    assert summary["feeds"]["S"]["packets"] == truth.snapshot_packets


def test_without_a_snapshot_endpoint_the_snapshots_stay_home(tmp_path: Path):
    config = ExchangeConfig(a(40_020), simulator=SimulatorConfig(duration_ns=500 * MS), speed=0)
    assert run(config, Reports())["snapshots"] == 0


def test_progress_counts_up_to_the_whole(tmp_path: Path):
    path = recording(tmp_path, [i * 10 * MS for i in range(80)])
    reports = Reports()
    run(ExchangeConfig(a(40_030), capture=path, speed=1), reports)
    counts = [fields["packets"] for fields in reports.of("progress")]
    assert len(counts) >= 2
    assert counts == sorted(counts)
    assert all(fields["of"] == 80 for fields in reports.of("progress"))


@given(
    st.lists(st.integers(0, 10_000), max_size=60),
    st.lists(st.integers(0, 10_000), max_size=20),
    st.sampled_from([0, 1, 100, 3_000]),
    st.integers(1, 7),
)
def test_slices_hold_every_packet_once_and_in_order(
    times: list[int], snapshot_times: list[int], span: int, by_count: int
):
    whole = Packets.of([payload(i, START + t) for i, t in enumerate(times)])
    snapshots = Packets.of([payload(i, START + t) for i, t in enumerate(snapshot_times)])
    pieces = list(slices(whole, snapshots, span, by_count))
    assert [p[i] for p in (piece.incremental for piece in pieces) for i in range(len(p))] == [
        whole[i] for i in range(len(whole))
    ]
    assert [p[i] for p in (piece.snapshots for piece in pieces) if p for i in range(len(p))] == [
        snapshots[i] for i in range(len(snapshots))
    ]
    assert [piece.ts for piece in pieces] == sorted(piece.ts for piece in pieces)
    for piece in pieces:
        assert len(piece.incremental) + len(piece.snapshots or ())
        reached = np.maximum.accumulate(np.append(piece.incremental.ts_sent, [piece.ts]))
        assert span == 0 or reached.max() // span >= piece.ts // span


def test_a_config_survives_its_json():
    config = ExchangeConfig(
        a(40_040),
        simulator=SimulatorConfig(seed=9),
        impairments={"A": Impairment(loss=0.1, outages=((3, 7),))},
        speed=60,
    )
    assert parse_config(ExchangeConfig, config_json(config), "here") == config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sped": 2}, "sped"),
        ({"capture": "x.pcap"}, "either a simulator or a capture"),
        ({"simulator": None}, "either a simulator or a capture"),
        ({"endpoints": [{"feed": "A", "group": GROUP}]}, "port"),
    ],
)
def test_a_wrong_config_is_refused_by_name(change: dict[str, Any], message: str):
    values = json.loads(config_json(ExchangeConfig(a(40_050), simulator=SimulatorConfig()))) | change
    with pytest.raises(JobConfigError, match=message):
        parse_config(ExchangeConfig, json.dumps(values), "here")


def test_a_block_that_cannot_be_built_stops_the_job_with_its_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = recording(tmp_path, [0, MS])

    def blocks(self: Any) -> Iterator[Packets]:
        yield Packets.of([payload(1, START)])
        raise CaptureError("the file changed")

    monkeypatch.setattr("workloads.exchange.captures.pcap.PcapCapture.blocks", blocks)
    with pytest.raises(CaptureError, match="the file changed"):
        run(ExchangeConfig(a(40_060), capture=path, speed=0), Reports())


# As a process.


class Process:
    """The job as a program of its own."""

    def __init__(self, folder: Path, config: ExchangeConfig) -> None:
        (folder / "exchange.json").write_text(config_json(config))
        command = [sys.executable, "-m", "workloads.exchange.job", "--config", str(folder / "exchange.json")]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
        self._watchdog = threading.Timer(60, self.process.kill)  # a job that hangs fails its test
        self._watchdog.start()

    def __enter__(self) -> "Process":
        return self

    def __exit__(self, *_: object) -> None:
        self._watchdog.cancel()
        self.process.kill()
        self.process.communicate()

    def until(self, event: str) -> dict[str, Any]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            report: dict[str, Any] = json.loads(line)
            if report["event"] == event:
                return report
        raise AssertionError(f"no {event}: {self.process.communicate()[1]}")

    def go(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()


def test_nothing_is_sent_before_the_word_go(tmp_path: Path):
    path = recording(tmp_path, [0, MS])
    with receiver() as sock:
        config = ExchangeConfig(a(sock.getsockname()[1]), capture=path, wait=True)
        with Process(tmp_path, config) as job_process:
            assert job_process.until("ready")["of"] == 2
            sock.setblocking(False)
            with pytest.raises(BlockingIOError):
                sock.recv(2_048)
            sock.settimeout(5)
            job_process.go()
            assert job_process.until("done")["packets"] == 2
            assert job_process.process.wait(10) == 0
        assert [sock.recv(2_048)[:4] for _ in range(2)] == [b"\1\0\0\0", b"\2\0\0\0"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_in_a_long_silence_is_obeyed_and_leaves_the_log_so_far(tmp_path: Path, number: signal.Signals):
    path = recording(tmp_path, [0, MS, 3_600_000 * MS])
    with Process(tmp_path, ExchangeConfig(a(40_070), capture=path, out=str(tmp_path))) as job_process:
        assert job_process.until("progress")["packets"] == 2
        job_process.process.send_signal(number)
        done = job_process.until("done")
        assert (done["packets"], done["of"], done["stopped"]) == (2, 3, True)
        assert job_process.process.wait(10) == 0
    assert SendLog.load(tmp_path / "sent.npz").feeds["A"].seq.tolist() == [1, 2]


def test_a_stop_before_the_word_go_sends_nothing(tmp_path: Path):
    config = ExchangeConfig(
        a(40_080), simulator=SimulatorConfig(duration_ns=600_000 * MS), wait=True, out=str(tmp_path)
    )
    with Process(tmp_path, config) as job_process:
        job_process.until("ready")
        job_process.process.send_signal(signal.SIGTERM)
        done = job_process.until("done")
        assert (done["packets"], done["stopped"], done["truth"]) == (0, True, None)
        assert job_process.process.wait(10) == 0


def test_a_stop_just_before_the_wait_for_go_is_not_forgotten(monkeypatch: pytest.MonkeyPatch):
    def blocks_for_ever() -> Iterator[str]:
        raise AssertionError("read although a stop was asked for")
        yield ""

    monkeypatch.setattr(job, "commands", blocks_for_ever)
    stops = job._Stops()
    stops.ask()
    job._wait_for_go(stops)
    assert stops.asked


def test_a_closed_stdin_is_an_error_and_no_go(tmp_path: Path):
    with Process(
        tmp_path, ExchangeConfig(a(40_090), capture=recording(tmp_path, [0]), wait=True)
    ) as job_process:
        assert job_process.process.stdin is not None
        job_process.process.stdin.close()
        job_process.process.stdin = None
        assert "stdin was closed" in job_process.until("error")["message"]
        assert job_process.process.wait(10) == 1

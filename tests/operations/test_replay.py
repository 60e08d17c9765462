"""`tickworks replay`: what it says, what it sends, what it refuses."""

import socket
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from operations.replay import replay
from workloads.exchange.feed import SendLog

GROUPS = ("239.255.93.1", "239.255.93.2")
CHANNELS = {
    310: {"a": (GROUPS[0], 42101), "b": (GROUPS[1], 42102)},
    318: {"a": ("239.255.93.3", 42103)},
}
RATES = "peak_packets_s = 1000, payload_bytes = 1400"
START = 1_700_000_000_000_000_000
ES_DAY = "databento-es/esh4-glbx-mdp3-20231225.mbo.dbn.zst"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """An environment like `local` on groups of its own."""
    path = tmp_path / "place.toml"
    channels = ""
    for channel, feeds in CHANNELS.items():
        channels += f'[[channels]]\nvenue = "XCME"\nid = {channel}\n'
        for feed, (group, port) in feeds.items():
            channels += f"feeds.incremental_{feed} = {{ group = '{group}', port = {port}, {RATES} }}\n"
    path.write_text(f"""
        name = "place"
        purpose = "tests"
        exchange = "simulator"
        contacts = {{ owner = "you@example.com" }}
        archive = {{ folder = "{tmp_path}/archive" }}
        multicast = {{ interface = "127.0.0.1" }}
        {channels}
        """)
    return path


def recording(folder: Path, count: int, port: int = 14310, step_ns: int = 100_000) -> Path:
    """A pcap file of heartbeats."""
    data = b"\xd4\xc3\xb2\xa1" + struct.pack("<HHiIII", 2, 4, 0, 0, 65_535, 101)
    for seq in range(1, count + 1):
        udp = struct.pack("<IQ5H", seq, START + seq * step_ns, 10, 0, 12, 1, 13)
        head = struct.pack(
            ">BBHHHBBH4s4s", 0x45, 0, 28 + len(udp), 0, 0, 64, 17, 0, bytes(4), socket.inet_aton("224.0.31.1")
        )
        frame = head + struct.pack(">4H", 1, port, 8 + len(udp), 0) + udp
        data += struct.pack("<4I", 0, 0, len(frame), len(frame)) + frame
    path = folder / "recording.pcap"
    path.write_bytes(data)
    return path


def orders(symbol: str) -> bytes:
    """A DBN file, version 1, of one new order."""
    name = symbol.encode().ljust(22, b"\0")
    metadata = b"GLBX.MDP3".ljust(16, b"\0") + bytes(2 + 32 + 3 + 47 + 4 * 4)
    metadata += struct.pack("<I", 1) + name + struct.pack("<I", 1) + bytes(8) + b"5".ljust(22, b"\0")
    row = struct.pack(
        "<BBHIQQqIBBccQiI", 14, 160, 1, 5, START, 9, 10**11, 1, 128, 0, b"A", b"B", START, 0, 50
    )
    return b"DBN\1" + struct.pack("<I", len(metadata)) + metadata + row


def call(*arguments: object) -> Result:
    return CliRunner().invoke(replay, [str(argument) for argument in arguments])


def test_a_capture_goes_out_on_both_feeds_of_the_environment(tmp_path: Path, place: Path):
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as a,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as b,
    ):
        for sock, group, port in ((a, GROUPS[0], 42101), (b, GROUPS[1], 42102)):
            sock.bind((group, port))
            member = socket.inet_aton(group) + socket.inet_aton("127.0.0.1")
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)
            sock.settimeout(5)
        result = call(recording(tmp_path, 40), "--env", place, "--speed", "full", "--out", tmp_path / "out")
        assert result.exit_code == 0, result.output
        for sock in (a, b):
            seqs = [struct.unpack_from("<I", sock.recv(2_048))[0] for _ in range(40)]
            assert seqs == list(range(1, 41))
    assert result.stdout.startswith("sent 40 packets in ")
    assert (
        f"A {GROUPS[0]}:42101 0 dropped, B {GROUPS[1]}:42102 0 dropped, 0 lost on all feeds" in result.stdout
    )
    assert len(SendLog.load(tmp_path / "out/sent.npz").feeds["B"].seq) == 40


def test_losses_that_are_asked_for_are_made_and_told(tmp_path: Path, place: Path):
    result = call(
        recording(tmp_path, 500), "--env", place, "--speed", "full", "--loss-a", "1", "--loss-b", "1"
    )
    assert "A 239.255.93.1:42101 500 dropped" in result.stdout
    assert "500 lost on all feeds" in result.stdout


def test_a_dry_run_says_what_would_be_sent_and_sends_nothing(tmp_path: Path, place: Path):
    out = tmp_path / "out"
    result = call(
        recording(tmp_path, 10_001), "--env", place, "--dry-run", "--loss-a", "0.01", "--delay-us-b", "300",
        "--speed", "2", "--out", out,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "packets     10,001, SendingTime 2023-11-14 22:13:20 to 2023-11-14 22:13:21" in result.stdout
    assert "pace        2 times the original" in result.stdout
    assert "feed A      239.255.93.1:42101 (loss 0.01)" in result.stdout
    assert "feed B      239.255.93.2:42102 (delay 300 us)" in result.stdout
    assert not out.exists()


def test_a_dry_run_of_the_es_day_tells_what_is_made_up(data_folder: Path):
    result = call(data_folder / ES_DAY, "--dry-run")
    assert "DBN version 1, MBO, 68,792 records" in result.stdout
    assert "packets     54,923" in result.stdout
    assert (
        "made up: the definition of ESH4 (tick 0.25, multiplier 50 USD, display factor 0.01)" in result.stdout
    )


def test_the_capture_chooses_its_channel(tmp_path: Path, place: Path):
    result = call(recording(tmp_path, 1, port=14318), "--env", place, "--dry-run")
    assert "239.255.93.3:42103" in result.stdout


def test_a_channel_that_the_capture_does_not_name_must_be_chosen(tmp_path: Path, place: Path):
    path = recording(tmp_path, 1, port=14999)
    result = call(path, "--env", place, "--dry-run")
    assert result.exit_code == 1
    assert "channel 999, and place has 310, 318; choose one with --channel" in result.stderr
    assert GROUPS[0] in call(path, "--env", place, "--dry-run", "--channel", 310).stdout
    assert "has no channel 5" in call(path, "--env", place, "--channel", 5).stderr


def test_an_environment_of_the_real_exchange_is_refused(tmp_path: Path):
    result = call(recording(tmp_path, 1), "--env", "prod", "--interface", "127.0.0.1", "--speed", "full")
    assert result.exit_code == 1
    assert "come from the venue" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["nothing.pcap"], 1, "nothing.pcap cannot be read: No such file"),
        (["--env", "nowhere"], 1, "nowhere"),
        (["--speed", "fast"], 2, "'fast' is no speed; write 1 for the original pace"),
        (["--speed", "nan"], 2, "is no speed"),
        (["--loss-a", "1.5"], 2, "--loss-a"),
        (["--interface", "192.0.2.1", "--speed", "full"], 1, "no network interface has this IPv4 address"),
        (["--tick", "zero"], 1, "tick 'zero' is no positive number"),
        (["--group", "224.0.31.2"], 1, "no UDP packet of --group 224.0.31.2"),
    ],
)
def test_what_is_wrong_is_one_line(
    tmp_path: Path, place: Path, arguments: list[str], status: int, message: str
):
    capture = [] if arguments[0].endswith(".pcap") else [recording(tmp_path, 1)]
    result = call(*capture, "--env", place, *arguments)
    assert result.exit_code == status
    assert message in result.stderr
    assert result.exception is None or isinstance(result.exception, SystemExit)


def test_ctrl_c_stops_with_a_summary_and_status_130(tmp_path: Path, place: Path):
    path = recording(tmp_path, 3, step_ns=3_600 * 10**9)
    code = f"""
import os, signal, threading
from operations.main import main
import workloads.exchange.job as job
job.PROGRESS_S = 0.05
tell = job._Sending._tell
def interrupt(self):
    if self.now()["packets"]:
        os.kill(os.getpid(), signal.SIGINT)
    tell(self)
job._Sending._tell = interrupt
main(["replay", {str(path)!r}, "--env", {str(place)!r}])
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert result.returncode == 130, result.stderr
    assert result.stdout.startswith("stopped after 1 of 3 packets")


def test_help_teaches_by_example_without_loading_the_machinery():
    code = """
import sys
from operations.main import main
try:
    main(["replay", "--help"])
finally:
    assert not {"numba", "numpy", "pydantic", "rich.progress"} & set(sys.modules)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    assert "tickworks replay day.mbo.dbn.zst --dry-run" in result.stdout
    assert "Exit status: 0 all sent" in result.stdout


def test_every_example_of_the_help_is_accepted(tmp_path: Path, place: Path, monkeypatch: pytest.MonkeyPatch):
    assert replay.help is not None
    examples = [line.split()[2:] for line in replay.help.splitlines() if line.strip().startswith("tickworks")]
    assert len(examples) >= 5
    monkeypatch.chdir(tmp_path)
    (tmp_path / "feed.pcap").write_bytes(recording(tmp_path, 3).read_bytes())
    (tmp_path / "day.mbo.dbn.zst").write_bytes(orders("ESH4"))
    (tmp_path / "hogs.dbn").write_bytes(orders("HEJ4"))
    for example in examples:
        result = call(*example, "--env", place, *([] if "--dry-run" in example else ["--dry-run"]))
        assert result.exit_code == 0, result.output

"""pcap files as MDP 3.0 packets. Frames are built here by hand, after the formats' own documents."""

import gzip
import socket
import struct
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from workloads.exchange.captures import CaptureError, Terms, open_capture, pcap

MACS = bytes.fromhex("01005e001f01001c73153c4c")
MAGICS = {
    ("<", "us"): b"\xd4\xc3\xb2\xa1",
    (">", "us"): b"\xa1\xb2\xc3\xd4",
    ("<", "ns"): b"\x4d\x3c\xb2\xa1",
    (">", "ns"): b"\xa1\xb2\x3c\x4d",
}
SENT = 1_700_000_000_000_000_000


def payload(seq: int, body: bytes | None = None, ts_sent: int | None = None) -> bytes:
    """One packet with one message of a template that nobody knows, so that each packet differs."""
    content = struct.pack("<Q", seq) if body is None else body
    message = struct.pack("<5H", 10 + len(content), len(content), 999, 1, 13) + content
    return struct.pack("<IQ", seq, SENT + seq * 1_000 if ts_sent is None else ts_sent) + message


HEARTBEAT = struct.pack("<5H", 10, 0, 12, 1, 13)


def ipv4(
    data: bytes,
    group: str = "224.0.31.1",
    port: int = 14310,
    options: bytes = b"",
    flags: int = 0x4000,
    protocol: int = 17,
) -> bytes:
    udp = struct.pack(">4H", 14310, port, 8 + len(data), 0) + data
    size = 20 + len(options)
    head = struct.pack(
        ">BBHHHBBH4s4s", 0x40 | size // 4, 0, size + len(udp), 1, flags, 58, protocol, 0,
        socket.inet_aton("205.209.223.70"), socket.inet_aton(group),
    )  # fmt: skip
    return head + options + udp


def ethernet(packet: bytes, *tags: int, pad: int = 0) -> bytes:
    stack = b"".join(struct.pack(">HH", kind, 1635) for kind in tags)
    return MACS + stack + b"\x08\x00" + packet + bytes(pad)


def sll(packet: bytes) -> bytes:
    return struct.pack(">HHH8sH", 4, 1, 6, MACS[:6], 0x0800) + packet


def sll2(packet: bytes) -> bytes:
    return struct.pack(">HHIHBB8s", 0x0800, 0, 2, 1, 4, 6, MACS[:6]) + packet


def savefile(*frames: bytes, order: str = "<", unit: str = "us", link: int = 1, cut: int = 0) -> bytes:
    """``cut``: bytes by which the recorder shortened every frame (its snap length)."""
    out = MAGICS[order, unit] + struct.pack(order + "HHiIII", 2, 4, 0, 0, 262_144, link)
    for frame in frames:
        out += (
            struct.pack(order + "4I", 5_017_848, 0, len(frame) - cut, len(frame)) + frame[: len(frame) - cut]
        )
    return out


def write(folder: Path, data: bytes, name: str = "made.pcap") -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def payloads(path: Path, **options: Any) -> list[bytes]:
    return [block[i] for block in open_capture(path, **options).blocks() for i in range(len(block))]


# Real packets.


@pytest.mark.parametrize(
    ("name", "length", "seq", "ts_sent"),
    [
        ("v5/MdIncrementalRefreshBook", 100, 19_321_375, 1_446_234_284_339_294_656),
        ("v5/MdIncrementalRefreshSessionStatistics", 436, 19_345_102, 1_446_234_377_694_588_241),
        ("v5/MdIncrementalRefreshTradeSummary", 172, 19_321_415, 1_446_234_284_847_061_045),
        ("v5/MdIncrementalRefreshVolume", 108, 19_321_379, 1_446_234_284_406_158_799),
        ("v5/MdInstrumentDefinitionSpread", 1_376, 2, 1_446_849_164_970_634_188),  # with an 802.1Q tag
        ("v8/MdIncrementalRefreshTradeSummary", 212, 17_349_477, 1_475_013_600_442_915_473),
    ],
)
def test_real_captures_give_their_payload(data_folder: Path, name: str, length: int, seq: int, ts_sent: int):
    path = data_folder / f"cme-mdp3/pcap/{name}.pcap"
    [block] = open_capture(path).blocks()
    assert (block.length.tolist(), block.seq.tolist(), block.ts_sent.tolist()) == ([length], [seq], [ts_sent])
    assert path.read_bytes().endswith(block[0])


def test_the_capture_clock_is_not_used(data_folder: Path):
    """The recorder of these files believed that it was February 1970."""
    info = open_capture(data_folder / "cme-mdp3/pcap/v5/MdIncrementalRefreshBook.pcap").info
    assert info.ts_first == info.ts_last == 1_446_234_284_339_294_656
    assert (info.channel, info.packets, info.records) == (310, 1, 1)


# Every way to write a file.


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("unit", ["us", "ns"])
@pytest.mark.parametrize(
    ("link", "frame"),
    [
        (1, ethernet),
        (1, lambda packet: ethernet(packet, 0x8100)),
        (1, lambda packet: ethernet(packet, 0x88A8, 0x8100)),
        (1, lambda packet: ethernet(packet, pad=18)),
        (113, sll),
        (276, sll2),
        (101, bytes),
        (12, bytes),
        (228, bytes),
        (0, lambda packet: struct.pack("<I", 2) + packet),
        (108, lambda packet: struct.pack(">I", 2) + packet),
        (1 | 0x2400_0000, ethernet),  # with the length of a frame check sequence in the upper bits
    ],
    ids=[
        "ethernet",
        "vlan",
        "qinq",
        "padded",
        "sll",
        "sll2",
        "raw",
        "bsd-raw",
        "ipv4",
        "null",
        "loop",
        "fcs",
    ],
)
def test_every_link_type_and_byte_order_is_read(tmp_path: Path, order: str, unit: str, link: int, frame: Any):
    sent = [payload(7), payload(8), payload(9)]
    data = savefile(*(frame(ipv4(p)) for p in sent), order=order, unit=unit, link=link)
    assert payloads(write(tmp_path, data)) == sent


def test_options_in_the_ip_header_are_skipped(tmp_path: Path):
    frame = ethernet(ipv4(payload(7), options=b"\x94\x04\x00\x00"))  # router alert
    assert payloads(write(tmp_path, savefile(frame))) == [payload(7)]


@pytest.mark.parametrize("compress", [gzip.compress, zstandard.ZstdCompressor().compress])
def test_a_compressed_file_is_read_whatever_its_name_says(tmp_path: Path, compress: Any):
    data = savefile(*(ethernet(ipv4(payload(i))) for i in range(1, 50)))
    path = write(tmp_path, compress(data), "made.bin")
    assert payloads(path) == [payload(i) for i in range(1, 50)]


def test_frames_of_other_protocols_are_left_out_and_counted(tmp_path: Path):
    frames = [
        ethernet(ipv4(payload(1))),
        MACS + b"\x08\x06" + bytes(28),  # ARP
        MACS + b"\x86\xdd" + b"\x60" + bytes(39),  # IPv6
        ethernet(ipv4(payload(2), protocol=6)),
        ethernet(ipv4(b"short")),
        MACS[:5],
    ]
    path = write(tmp_path, savefile(*frames))
    assert payloads(path) == [payload(1)]
    info = open_capture(path).info
    assert info.records == 6
    assert [note[:12] for note in info.notes] == ["left out: 4 ", "left out: 1 "]


def test_a_file_larger_than_a_chunk_streams_in_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pcap, "CHUNK_BYTES", 1_000)
    sent = [payload(i) for i in range(1, 200)]
    path = write(tmp_path, savefile(*(ethernet(ipv4(p)) for p in sent)))
    capture = open_capture(path)
    assert capture.info.packets == 199
    assert len(list(capture.blocks())) > 10
    assert payloads(path) == sent
    assert (capture.info.ts_first, capture.info.ts_last) == (SENT + 1_000, SENT + 199_000)


# Several flows.

A, B, S = ("224.0.31.1", 14310), ("224.0.32.1", 15310), ("224.0.31.43", 14310)


def frames_of(flow: tuple[str, int], *seqs: int, body: bytes | None = None) -> list[bytes]:
    return [ethernet(ipv4(payload(seq, body), *flow)) for seq in seqs]


def test_feeds_a_and_b_become_one_stream_of_each_number_once(tmp_path: Path):
    a = frames_of(A, 1, 2, 3, 5, 6)  # A lost 4
    b = frames_of(B, 1, 2, 4, 5, 6, 7)  # B lost 3
    mixed = [a[0], b[0], a[1], b[1], a[2], a[3], b[2], a[4], b[3], b[4], b[5]]
    path = write(tmp_path, savefile(*mixed))
    assert payloads(path) == [payload(seq) for seq in range(1, 8)]
    info = open_capture(path).info
    assert (info.packets, info.channel) == (7, 310)
    assert (
        "224.0.31.1:14310 and 224.0.32.1:15310 are A and B of one channel: 11 packets, 7 after"
        in info.notes[0]
    )


def test_a_restart_at_one_survives_the_merging_of_a_and_b(tmp_path: Path):
    first, again = [100_000, 100_001], [1, 2]
    frames = [f for seq in first + again for flow in (A, B) for f in frames_of(flow, seq)]
    assert payloads(write(tmp_path, savefile(*frames))) == [payload(seq) for seq in first + again]


def test_one_of_two_merged_feeds_can_be_chosen(tmp_path: Path):
    frames = frames_of(A, 1, 2) + frames_of(B, 1, 2, 3)
    path = write(tmp_path, savefile(*frames))
    assert len(payloads(path, group="224.0.31.1")) == 2
    assert len(payloads(path, port=15310)) == 3


def test_two_channels_are_refused_until_one_is_chosen(tmp_path: Path):
    frames = frames_of(A, 1, 2, 3) + frames_of(("224.0.31.9", 14318), 1, 2, body=b"other")
    path = write(tmp_path, savefile(*frames))
    with pytest.raises(
        CaptureError, match=r"2 feeds \(224.0.31.1:14310 3 packets, 224.0.31.9:14318 2 packets\)"
    ):
        open_capture(path)
    assert len(payloads(path, port=14318)) == 2
    assert open_capture(path, port=14318).info.channel == 318


def test_heartbeats_alike_do_not_make_two_channels_one(tmp_path: Path):
    def beat(flow: tuple[str, int], seq: int) -> bytes:
        return ethernet(ipv4(struct.pack("<IQ", seq, SENT) + HEARTBEAT, *flow))

    beats = [beat(flow, seq) for seq in (1, 2, 3) for flow in (A, S)]
    frames = [*beats, *frames_of(A, 4), *frames_of(S, 4, body=b"snapshot")]
    with pytest.raises(CaptureError, match="2 feeds"):
        open_capture(write(tmp_path, savefile(*frames)))


def test_a_flow_that_is_no_market_data_is_left_out(tmp_path: Path):
    names = ethernet(ipv4(b"\x12\x34\x01\x00\x00\x01 www.example.com", "10.0.0.2", 53))
    path = write(tmp_path, savefile(names, *frames_of(A, 1, 2)))
    assert len(payloads(path)) == 2
    assert "10.0.0.2:53" in open_capture(path).info.notes[0]


# Refusals.


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", r"is empty \(0 bytes\)"),
        (b"\x0a\x0d\x0d\x0a" + bytes(100), "is pcapng .* editcap -F pcap"),
        (b"PK\x03\x04 a zip file", "neither pcap nor DBN"),
        (gzip.compress(b"hello, world, this is text"), "neither pcap nor DBN"),
        (savefile(), r"no UDP packet \(0 records"),
        (savefile()[:20], "cut off inside the pcap file header .byte 20 of 24"),
        (savefile(link=105), "link type 105 at byte 20"),
        (savefile(MACS + b"\x08\x06" + bytes(28)), "1 records, 1 of them not UDP"),
        (savefile(ethernet(ipv4(payload(1))))[:-3], r"cut off inside the record at byte 24.*head -c 24"),
        (
            savefile(ethernet(ipv4(payload(1))), cut=4),
            "only in part, in the record at byte 24; .*tcpdump -s 0",
        ),
        (savefile(ethernet(ipv4(payload(1), flags=0x2000))), "IP fragment .* byte 24"),
        (savefile(ethernet(ipv4(payload(1), flags=0x00B9))), "IP fragment"),
        (savefile() + struct.pack("<4I", 0, 0, 1 << 30, 1 << 30), "more than 262,144 bytes"),
        (savefile(ethernet(ipv4(bytes(60)))), "holds no MDP 3.0 packets"),
        (gzip.compress(savefile(ethernet(ipv4(payload(1)))))[:-9], "cut off: its gzip stream"),
    ],
    ids=lambda value: value[:24] if isinstance(value, str) else "",
)
def test_what_cannot_be_replayed_is_refused_with_its_place_and_a_remedy(
    tmp_path: Path, data: bytes, message: str
):
    with pytest.raises(CaptureError, match=message):
        open_capture(write(tmp_path, data))


def test_a_filter_that_nothing_passes_says_so(tmp_path: Path):
    path = write(tmp_path, savefile(*frames_of(A, 1)))
    with pytest.raises(
        CaptureError, match=r"no UDP packet of --group 224.0.31.2 --port 1 .*leave out the filter"
    ):
        open_capture(path, group="224.0.31.2", port=1)
    with pytest.raises(CaptureError, match="'here' is no IPv4 address"):
        open_capture(path, group="here")


def test_terms_of_an_instrument_are_refused_for_packets_that_define_it(tmp_path: Path):
    path = write(tmp_path, savefile(*frames_of(A, 1)))
    assert len(payloads(path, terms=Terms())) == 1
    with pytest.raises(CaptureError, match="leave out tick"):
        open_capture(path, terms=Terms.of("0.25", None, None, None))


def test_a_path_that_cannot_be_read_is_refused(tmp_path: Path):
    with pytest.raises(CaptureError, match="No such file"):
        open_capture(tmp_path / "nothing.pcap")
    with pytest.raises(CaptureError, match="Is a directory"):
        open_capture(tmp_path)


# Damage.

SAMPLE = savefile(
    *(frame for seq in range(1, 4) for flow in (A, B) for frame in frames_of(flow, seq)),
    ethernet(ipv4(payload(4), options=bytes(4)), 0x8100),
)


def packets_or_refusal(path: Path) -> bool:
    """True: packets; False: a refusal. Anything else is a failure."""
    try:
        capture = open_capture(path)
        assert sum(len(block) for block in capture.blocks()) == capture.info.packets
    except CaptureError:
        return False
    return True


@pytest.mark.parametrize("zipped", [False, True])
def test_a_file_cut_anywhere_is_refused_unless_whole_records_are_left(tmp_path: Path, zipped: bool):
    path = tmp_path / "cut.pcap"
    data = gzip.compress(SAMPLE, mtime=0) if zipped else SAMPLE
    accepted = []
    for end in range(len(data)):
        path.write_bytes(data[:end])
        if packets_or_refusal(path):
            accepted.append(end)
    record = 16 + len(frames_of(A, 1)[0])
    assert accepted == ([] if zipped else [24 + record * n for n in range(1, 7)])


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("damage") / "damaged.pcap"


@settings(max_examples=400, deadline=None)
@given(st.data(), st.booleans())
def test_a_changed_byte_anywhere_gives_packets_or_a_refusal(damaged: Path, data: st.DataObject, zipped: bool):
    raw = bytearray(gzip.compress(SAMPLE, mtime=0) if zipped else SAMPLE)
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    damaged.write_bytes(raw)
    packets_or_refusal(damaged)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=400))
def test_any_bytes_behind_a_file_header_give_packets_or_a_refusal(damaged: Path, body: bytes):
    damaged.write_bytes(SAMPLE[:24] + body)
    packets_or_refusal(damaged)

"""The fast decoder against the oracle: golden and real packets, invented ones, and broken ones.

What needs CME's schema needs the data folder. The golden packets (`golden.py`) were written from the
schema by the oracle, so that every template and version is checked on any machine.
"""

import ctypes
import mmap
import random
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import golden
import numpy as np
import pytest
from expected import END, RARE, Expected, compare, judge, price, rows
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from names import CME, MATURITY, SUPPORTED, blocks
from oracle import Number, Oracle, in_packet

from workloads.exchange import mdp3
from workloads.exchange.decode import (
    ERROR_BLOCK,
    ERROR_HEADER,
    ERROR_SCHEMA,
    ERROR_SIZE,
    Decoded,
    Decoder,
    last_event_end,
)
from workloads.exchange.packets import HEADER_BYTES, Packets
from workloads.exchange.reference import Groups, definition_groups, null_of, roots
from workloads.exchange.simulator import Simulator, SimulatorConfig

GOLDEN = golden.load()
DECODER = Decoder(1 << 20)
MANY = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    derandomize=True,
)
TABLES = ("messages", "mbo", "mbp", "trades", "trade_orders", "statistics", "limits", "snapshots", "rare")


def decode(*payloads: bytes) -> Decoded:
    return DECODER.decode(Packets.of(payloads))


def messages_of(payload: bytes) -> list[bytes]:
    """Cut a sound packet into its messages."""
    found, at = [], HEADER_BYTES
    while at < len(payload):
        size = int.from_bytes(payload[at : at + 2], "little")
        found.append(payload[at : at + size])
        at += size
    return found


def sized(message: bytes) -> bytes:
    """The message with the MsgSize that it has."""
    return len(message).to_bytes(2, "little") + message[2:]


def golden_packet(case: dict[str, Any]) -> tuple[bytes, dict[str, Any]]:
    """Payload, and what the oracle said of it when the file was written."""
    payload = bytes.fromhex(case["hex"])
    found = []
    for data, said in zip(messages_of(payload), case["messages"], strict=True):
        _, block_length, template, schema, version = struct.unpack_from("<HHHHH", data)
        header = {"template": template, "schema": schema, "version": version, "block_length": block_length}
        found.append(header | said | {"error": None})
    return payload, {"seq": 1, "error": None, "messages": found}


def of(version: int, *templates: int) -> list[dict[str, Any]]:
    """Golden cases of a version, of these templates or of all."""
    return [c for c in GOLDEN if c["version"] == version and (not templates or c["template"] in templates)]


def assert_no_row(decoded: Decoded) -> None:
    assert {name: len(rows(decoded, name)) for name in TABLES} == dict.fromkeys(TABLES, 0)


# Golden packets: every template, every version, on every machine.


@pytest.mark.parametrize("version", golden.VERSIONS)
def test_golden_packets_decode_to_what_the_schema_says(version):
    for case in of(version):
        payload, said = golden_packet(case)
        compare(decode(payload), Expected([said]))


def test_a_batch_of_all_golden_packets_decodes_like_each_alone():
    packets = [golden_packet(case) for case in GOLDEN]
    compare(decode(*(p for p, _ in packets)), Expected([said for _, said in packets]))


def test_the_golden_file_holds_every_supported_template_in_every_version_that_has_it():
    old = {27, 29, 32, 33, 34, 35, 38, 41, 42}
    orders = {43, 44}
    new = set(range(46, 57))
    always = {4, 12, 30, 37}
    held = {version: {case["template"] for case in of(version)} for version in golden.VERSIONS}
    assert held[5] == held[6] == always | old
    assert held[7] == held[8] == always | old | orders
    assert held[9] == always | old | orders | new
    assert held[10] == held[11] == always | new | {57, 58}
    assert held[12] == held[13] == always | new | {57, 58, 63} | set(range(64, 70))


def test_the_golden_file_is_what_the_oracle_writes_from_the_schema(oracles):
    assert golden.PATH.read_text() == golden.text(golden.cases(oracles))


@pytest.mark.parametrize("version", golden.VERSIONS)
def test_definitions_status_and_resets_read_field_by_field_where_they_lie(version):
    """Prices and factors of all templates at 1e-9; a null, or a field that came later, is the null."""
    for case in of(version, *RARE):
        payload, said = golden_packet(case)
        packets = Packets.of([payload])
        tables = DECODER.decode(packets).tables
        rare = tables["rare"]
        cut = [
            packets.buffer[at : at + size].tobytes()
            for at, size in zip(rare["offset"].tolist(), rare["bytes"].tolist(), strict=True)
        ]
        assert cut == messages_of(payload)
        seen = []
        for found in roots(packets.buffer, rare, tables["messages"]["template"][rare["message"]]):
            for message, start, end, block in zip(
                found.message.tolist(), found.offset.tolist(), found.end.tolist(), found.blocks, strict=True
            ):
                seen.append(message)
                fields, groups = (said["messages"][message][part] for part in ("fields", "groups"))
                assert_root(block, fields, case["template"])
                if "NoEvents" in groups:
                    read = definition_groups(packets.buffer, found.kind, start, end, found.scale)
                    assert_groups(read, groups)
        assert sorted(seen) == [0, 1]


def assert_root(block: np.void, said: dict[str, Any], template: int) -> None:
    assert block.dtype.fields is not None
    for name, (format_, *_) in block.dtype.fields.items():
        if name in MATURITY:
            wanted = said["MaturityMonthYear"][MATURITY[name]]
        else:
            wanted = said.get(next((cme for cme in CME[name] if cme in said), CME[name][0]))
        if isinstance(wanted, Number):
            wanted = price(wanted)
        elif isinstance(wanted, str):
            wanted = wanted.encode() if format_.kind == "S" else ord(wanted)
        elif wanted is None:
            wanted = null_of(name, format_)
        assert block[name].item() == wanted, (template, name)


def assert_groups(found: Groups, said: dict[str, Any]) -> None:
    times = {event["EventType"]: event["EventTime"] for event in said["NoEvents"]}
    assert (found.activation, found.expiration) == (times.get(5), times.get(7))
    attributes = 0
    for attribute in said["NoInstAttrib"]:
        attributes |= attribute["InstAttribValue"]
    assert found.attributes == attributes
    books = [feed["MarketDepth"] for feed in said["NoMDFeedTypes"] if feed["MDFeedType"] == "GBX"]
    assert found.depth == (books[0] if books else None)
    legs = [
        {
            "instrument_id": leg["LegSecurityID"],
            "side": leg["LegSide"],
            "ratio": leg["LegRatioQty"],
            "price": price(leg["LegPrice"]),
        }
        for leg in said.get("NoLegs", ())
    ]
    assert found.legs == legs


# Real packets.


def udp_payloads(path: Path) -> Iterator[bytes]:
    """Payloads of a little-endian, microsecond pcap of Ethernet frames, 802.1Q tag or none."""
    data = path.read_bytes()
    assert data[:4] == bytes.fromhex("d4c3b2a1")
    at = 24
    while at < len(data):
        size = int.from_bytes(data[at + 8 : at + 12], "little")
        frame = data[at + 16 : at + 16 + size]
        ip = 18 if frame[12:14] == b"\x81\x00" else 14
        udp = ip + 4 * (frame[ip] & 15)
        yield frame[udp + 8 : udp + int.from_bytes(frame[udp + 4 : udp + 6], "big")]
        at += 16 + size


def test_real_packets_of_2017_decode_to_the_fields_of_the_schema(data_folder, oracles):
    lines = (data_folder / "cme-mdp3/packets-hex/packets.hex").read_text().split()
    payloads = [bytes.fromhex(line) for line in lines]
    decoded = alone(*payloads)  # they are no neighbours
    compare(decoded, Expected([oracles[8].packet(p) for p in payloads], breaks=range(len(payloads))))
    assert not decoded.packet_errors.any()
    assert decoded.tables["mbp"]["price"].tolist() == [
        243_150_000_000_000,  # the wire's 243150.0 in 1e-9: quoted 2431.50
        243_125_000_000_000,
        243_150_000_000_000,  # the file holds this packet twice
        243_125_000_000_000,
        243_225_000_000_000,
        243_275_000_000_000,
    ]
    assert rows(decoded, "mbo")[0] == {
        "message": 2,
        "entry_index": 0,
        "instrument_id": 23_936,
        "order_id": 644_422_849_436,
        "priority": 5_437_133_604,
        "price": 243_150_000_000_000,
        "size": 2,
        "action": 1,
        "side": 1,
        "event_flags": 132,
        "orphan": 0,
    }
    (trade,) = rows(decoded, "trades")
    assert (trade["price"], trade["size"], trade["orders"]) == (243_450_000_000_000, 2, 2)
    assert (trade["aggressor"], trade["trade_entry_id"], trade["event_flags"]) == (1, None, 1)
    assert [(o["trade"], o["n"], o["order_id"], o["size"]) for o in rows(decoded, "trade_orders")] == [
        (0, 0, 644_422_848_816, 2),
        (0, 1, 644_422_848_685, 2),
    ]
    assert decoded.tables["rare"]["message"].tolist() == [0, 1, 7]


@pytest.mark.parametrize(
    ("name", "templates"),
    [
        ("v5/MdIncrementalRefreshBook", [32]),
        ("v5/MdIncrementalRefreshSessionStatistics", [37, 32, 35, 32, 32, 32]),
        ("v5/MdIncrementalRefreshTradeSummary", [42]),
        ("v5/MdIncrementalRefreshVolume", [37, 32]),
        ("v5/MdInstrumentDefinitionSpread", [29, 29, 27, 29, 27]),  # behind an 802.1Q tag
        ("v8/MdIncrementalRefreshTradeSummary", [42, 37, 32]),
    ],
)
def test_real_captures_decode_to_the_fields_of_the_schema(data_folder, oracles, name, templates):
    (payload,) = udp_payloads(data_folder / f"cme-mdp3/pcap/{name}.pcap")
    decoded = decode(payload)
    compare(decoded, Expected([oracles[int(name[1])].packet(payload)]))
    assert decoded.tables["messages"]["template"].tolist() == templates
    assert decoded.packet_errors.tolist() == [0]


def test_a_real_session_statistic_reads_as_it_was_read_by_hand(data_folder):
    (payload,) = udp_payloads(data_folder / "cme-mdp3/pcap/v5/MdIncrementalRefreshSessionStatistics.pcap")
    volume, high, low, opening = rows(decode(payload), "statistics")
    assert (volume["entry_type"], volume["size"], volume["price"]) == (ord("e"), 1, None)
    assert [chr(row["entry_type"]) for row in (high, low, opening)] == ["7", "8", "4"]
    assert {row["price"] for row in (high, low, opening)} == {205_000_000_000_000}
    assert [row["size"] for row in (high, low, opening)] == [None, None, None]  # came with version 8
    assert [row["open_close_flag"] for row in (high, low, opening)] == [None, None, 0]
    assert [row["event_flags"] & END for row in (volume, high, low, opening)] == [0, 0, 0, END]


def test_a_real_definition_reads_as_it_was_read_by_hand(data_folder):
    (payload,) = udp_payloads(data_folder / "cme-mdp3/pcap/v5/MdInstrumentDefinitionSpread.pcap")
    packets = Packets.of([payload])
    found = DECODER.decode(packets).tables["rare"]
    at = int(found["offset"][4]) + mdp3.MESSAGE_HEADER_BYTES
    (future,) = np.frombuffer(
        packets.buffer.tobytes()[at : at + 224], mdp3.DEFINITION[mdp3.DEFINITION_FUTURE]
    )
    assert (future["symbol"], future["instrument_id"], future["currency"]) == (b"ESZ5", 13_950, b"USD")
    assert (future["tick"], future["display_factor"]) == (250_000_000, 100_000)  # 25.0 and 0.01 at 1e-7
    assert (future["maturity_year"], future["maturity_month"]) == (2015, 12)


# Invented packets, from the schema.


@pytest.mark.parametrize("version", golden.VERSIONS)
@MANY
@given(data=st.data())
def test_invented_packets_give_the_same_rows_in_both_decoders(oracles, version, data):
    oracle = oracles[version]
    payloads = []
    for _ in range(data.draw(st.integers(1, 4), label="packets")):
        messages = data.draw(st.lists(message(oracle, version), max_size=4))
        payloads.append(in_packet(data.draw(st.integers(0, 2**32 - 1)), golden.TIME[0], *messages))
    said = [oracle.packet(payload) for payload in payloads]
    assert all(m["error"] is None for packet in said for m in packet["messages"])
    compare(decode(*payloads), Expected(said))


@st.composite
def message(draw: Any, oracle: Oracle, version: int) -> bytes:
    """Any supported template: groups of any size, nulls, longer blocks, a group from the future."""
    template = draw(st.sampled_from(golden.templates(oracle, version)))
    names = [group.name for group in oracle.messages[template].groups]
    counts = {name: draw(st.sampled_from([0, 0, 1, 2, 3, 40])) for name in names}
    rng = random.Random(draw(st.integers(0, 2**32)))
    fields, groups = golden.contents(oracle, template, counts, rng, draw(st.sampled_from([0.0, 0.3, 1.0])))
    is_future = draw(st.booleans())
    lacks_orders = template == 32 and version < 7  # a group behind it is the order group to any reader
    return oracle.encode(
        template,
        fields,
        groups,
        version=golden.future(version) if is_future else version,
        grow={name: draw(st.integers(0, 9)) for name in ("", *names)} if is_future else {},
        filler=draw(st.sampled_from([0, 0xFF, 0xA5])),
        tail=bytes.fromhex("0400 02 deadbeefdeadbeef") if is_future and not lacks_orders else b"",
    )


@MANY
@given(data=st.data())
def test_bytes_changed_at_random_give_no_row_that_the_schema_refuses(oracles, data):
    """And all rows of the messages around them."""
    oracle = judge(oracles)
    version = data.draw(st.sampled_from(golden.VERSIONS[2:]))
    written = [data.draw(message(oracles[version], version)) for _ in range(data.draw(st.integers(1, 3)))]
    payload = bytearray(in_packet(1, golden.TIME[0], *written))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(HEADER_BYTES, len(payload) - 1))
        payload[at] = data.draw(st.integers(0, 255))
    said = oracle.packet(bytes(payload))
    decoded = decode(bytes(payload))
    got = {row["msg_index"] for row in rows(decoded, "messages")}
    for index, found in enumerate(said["messages"]):
        is_known = found["schema"] == 1 and found["template"] in SUPPORTED
        if not is_known:
            assert index not in got
        elif found["error"] is None:
            assert index in got
        elif found["template"] not in RARE and not only_late_fields_missing(found):
            assert index not in got, found["error"]
    assert decoded.packet_messages.tolist() == [len(said["messages"])]
    assert bool(decoded.packet_errors[0] & ERROR_SIZE) == (said["error"] is not None)
    if all(m["error"] is None for m in said["messages"]):
        expected = Expected([said])
        if representable(expected):
            compare(decoded, expected)


def only_late_fields_missing(found: dict[str, Any]) -> bool:
    """The schema refuses it, but only for a field younger than the template: we read it as null."""
    return found["error"].startswith(("TradeableSize", "MDTradeEntryID"))


def representable(expected: Expected) -> bool:
    """Times and prices that int64 ns and int64 1e-9 can hold, levels of a book."""
    limit = 2**63
    for table in expected.tables.values():
        for row in table:
            for name in ("ts_event", "price", "high", "low", "max_variation", "size"):
                if row.get(name) is not None and not -limit <= row[name] < limit - 1:
                    return False
            if row.get("level") is not None and not row["level"] >= 0:
                return False
    return True


# Broken packets.


@pytest.mark.parametrize("version", golden.VERSIONS)
def test_a_packet_cut_at_any_byte_keeps_its_whole_messages_and_nothing_else(version):
    for case in of(version):
        payload, said = golden_packet(case)
        first = HEADER_BYTES + len(messages_of(payload)[0])
        cuts = [payload[:kept] for kept in range(len(payload) + 1)]
        expected = []
        for kept in range(len(payload) + 1):
            whole = (kept >= first) + (kept >= len(payload))
            at_edge = kept in (HEADER_BYTES, first, len(payload))
            error = None if at_edge else "cut"
            seq = None if kept < HEADER_BYTES else 1
            expected.append({"seq": seq, "error": error, "messages": said["messages"][:whole]})
        compare(alone(*cuts), Expected(expected, breaks=range(len(cuts))))


def alone(*payloads: bytes) -> Decoded:
    """A batch in which no event reaches from packet to packet."""
    return DECODER.decode(Packets.of(payloads), breaks=np.ones(len(payloads), np.bool_))


@pytest.mark.parametrize("version", golden.VERSIONS)
def test_a_message_cut_at_any_byte_makes_no_row(version):
    """MsgSize fits what is left, so that only the blocks and groups inside can tell."""
    for case in of(version):
        whole = messages_of(bytes.fromhex(case["hex"]))[0]
        root = int.from_bytes(whole[2:4], "little")
        listed = case["template"] in RARE  # whose groups are checked where they are read
        cuts = range(10, 10 + root) if listed else range(10, len(whole))
        decoded = alone(*(in_packet(1, 1, sized(whole[:kept])) for kept in cuts))
        assert decoded.packet_errors.tolist() == [ERROR_BLOCK] * len(cuts), case["template"]
        assert decoded.packet_messages.tolist() == [1] * len(cuts)
        assert_no_row(decoded)


class Guarded:
    """Bytes that end where the process may not read on: one step too far is a crash, not luck."""

    def __init__(self) -> None:
        page = mmap.PAGESIZE
        self._memory = mmap.mmap(-1, 2 * page)
        self._all = np.frombuffer(self._memory, np.uint8)
        libc = ctypes.CDLL(None, use_errno=True)
        address = ctypes.c_void_p(self._all.ctypes.data + page)
        assert libc.mprotect(address, ctypes.c_size_t(page), 0) == 0

    def packets(self, payload: bytes) -> Packets:
        page = mmap.PAGESIZE
        buffer = self._all[page - len(payload) : page]
        buffer[:] = np.frombuffer(payload, np.uint8)
        return Packets(buffer, np.zeros(1, np.int64), np.array([len(payload)], np.int32))


@pytest.mark.parametrize("version", [5, 9, 13])
def test_no_byte_behind_a_packet_is_ever_read(version):
    guarded = Guarded()
    for case in of(version):
        whole = bytes.fromhex(case["hex"])
        (first, *_) = messages_of(whole)
        for kept in range(len(whole) + 1):
            DECODER.decode(guarded.packets(whole[:kept]))
            last_event_end(*fields_of(guarded.packets(whole[:kept])), 0)
        for kept in range(10, len(first)):
            cut = in_packet(1, 1, sized(first[:kept]))
            DECODER.decode(guarded.packets(cut))
            last_event_end(*fields_of(guarded.packets(cut)), 0)


def fields_of(packets: Packets) -> tuple[Any, Any, Any]:
    return packets.buffer, packets.offset, packets.length


@settings(MANY, max_examples=300)
@given(body=st.binary(max_size=200), template=st.sampled_from([None, *SUPPORTED]))
def test_random_bytes_never_crash_and_always_count(body, template):
    """Random from the packet header on, or from behind a message header that looks right."""
    if template is not None:
        body = struct.pack("<HHHHH", 10 + len(body), 11, template, 1, 13) + body
    decoded = DECODER.decode(Guarded().packets(in_packet(1, 1, body)))
    heads = {(row["packet"], row["msg_index"]) for row in rows(decoded, "messages")}
    assert len(heads) == len(rows(decoded, "messages"))
    assert len(heads) + int(decoded.packet_unknown[0]) <= int(decoded.packet_messages[0])
    for table in TABLES[1:]:
        assert all(0 <= row["message"] < len(heads) for row in rows(decoded, table))


@pytest.mark.parametrize("size", [0, 1, 9])
def test_a_message_size_below_its_header_ends_the_packet_there(size):
    good = in_packet(1, 1, heartbeat())
    decoded = decode(good + size.to_bytes(2, "little") + bytes(20), good)
    assert decoded.packet_errors.tolist() == [ERROR_SIZE, 0]
    assert decoded.packet_messages.tolist() == [1, 1]
    assert rows(decoded, "messages") == [
        {"packet": packet, "msg_index": 0, "ts_event": 0, "template": 12} for packet in (0, 1)
    ]


@pytest.mark.parametrize("beyond", [1, 1000, 65_525])
def test_a_message_size_beyond_the_packet_ends_the_packet_there(beyond):
    decoded = decode(in_packet(1, 1, heartbeat(), (10 + beyond).to_bytes(2, "little") + heartbeat()[2:]))
    assert decoded.packet_errors.tolist() == [ERROR_SIZE]
    assert decoded.packet_messages.tolist() == [1]


def heartbeat(**header: int) -> bytes:
    fields = {"size": 10, "block_length": 0, "template": 12, "schema": 1, "version": 13} | header
    return struct.pack("<HHHHH", *fields.values())


@pytest.mark.parametrize("length", range(12))
def test_what_is_shorter_than_the_packet_header_is_an_error_without_messages(length):
    decoded = decode(in_packet(1, 1)[:length])
    assert decoded.packet_errors.tolist() == [ERROR_HEADER]
    assert decoded.packet_messages.tolist() == [0]


def test_an_empty_packet_is_sound():
    assert decode(in_packet(1, 1)).packet_errors.tolist() == [0]


@pytest.mark.parametrize("template", [0, 15, 16, 31, 36, 39, 45, 59, 60, 61, 62, 70, 255, 256, 302, 65_535])
def test_an_unknown_template_is_skipped_and_counted(template):
    (book,) = of(13, mdp3.BOOK)
    known = messages_of(bytes.fromhex(book["hex"]))[0]
    decoded = decode(
        in_packet(1, 1, heartbeat(template=template), known, sized(heartbeat(template=template)))
    )
    assert decoded.packet_unknown.tolist() == [2]
    assert decoded.packet_messages.tolist() == [3]
    assert decoded.packet_errors.tolist() == [0]
    assert [row["msg_index"] for row in rows(decoded, "messages")] == [1]


@pytest.mark.parametrize("schema", [0, 2, 257, 65_535])
def test_a_foreign_schema_is_refused_and_counted(schema):
    (book,) = of(13, mdp3.BOOK)
    known = messages_of(bytes.fromhex(book["hex"]))[0]
    foreign = known[:6] + schema.to_bytes(2, "little") + known[8:]
    decoded = decode(in_packet(1, 1, foreign, known))
    assert decoded.packet_errors.tolist() == [ERROR_SCHEMA]
    assert decoded.packet_unknown.tolist() == [0]
    assert [row["msg_index"] for row in rows(decoded, "messages")] == [1]
    assert {row["message"] for row in rows(decoded, "mbp")} == {0}


def test_a_broken_message_costs_neither_its_neighbours_nor_their_order():
    (book,) = of(13, mdp3.BOOK)
    payload, said = golden_packet(book)
    known = messages_of(payload)[0]
    broken = sized(known[:-1])
    decoded = decode(in_packet(1, 1, known, broken, known), in_packet(2, 1, known))
    whole = said["messages"][0]
    failed = whole | {"error": "cut", "fields": {}, "groups": {}}
    packets = [[whole, failed, whole], [whole]]
    compare(decoded, Expected([{"seq": 1, "error": None, "messages": messages} for messages in packets]))


@pytest.mark.parametrize("version", golden.VERSIONS)
def test_a_block_shorter_than_its_fields_makes_no_row(oracles, version):
    """But for the last fields of an entry, younger than the template: where they are cut, they are null."""
    oracle = oracles[version]
    for template in golden.templates(oracle, version):
        layout = oracle.messages[template]
        fields, groups = golden.contents(oracle, template, {}, random.Random(template), 0.0)
        lengths = {"": layout.block_length} | {group.name: group.block_length for group in layout.groups}
        read = {"": layout.fields} | {group.name: group.fields for group in layout.groups}
        for name in blocks(template):
            if name not in lengths or (name and template in RARE):
                continue
            for length in range(lengths[name]):
                cut = [f.name for f in read[name] if f.since <= version and f.end > length]
                if not cut:  # of padding only
                    continue
                short = {name: length - lengths[name]}
                message = oracle.encode(template, fields, groups, version=version, grow=short)
                decoded = decode(in_packet(1, 1, message))
                where = (template, name, length, cut)
                if set(cut) <= {"TradeableSize", "MDTradeEntryID"}:
                    assert decoded.packet_errors.tolist() == [0], where
                    assert_late_fields_are_null(decoded, cut)
                elif template in (54, 55, 56, 57, 58, 63, 27, 29, 41) and length >= 65:
                    assert len(rows(decoded, "rare")) == 1, where  # its reader knows how long the root is
                else:
                    assert decoded.packet_errors.tolist() == [ERROR_BLOCK], where
                    assert_no_row(decoded)


def assert_late_fields_are_null(decoded: Decoded, cut: list[str]) -> None:
    if "TradeableSize" in cut:
        assert [row["tradeable_size"] for row in rows(decoded, "mbp")] == [None, None]
    if "MDTradeEntryID" in cut:
        assert [row["trade_entry_id"] for row in rows(decoded, "trades")] == [None, None]


def test_a_group_of_255_entries_is_read_whole(newest):
    rng = random.Random(1)
    for template in (46, 47, 48, 53):  # in 46, entry 255 cannot be named: ReferenceID 255 is null
        counts = {"NoMDEntries": 255, "NoOrderIDEntries": 255}
        payload = in_packet(
            1, 1, newest.encode(template, *golden.contents(newest, template, counts, rng, 0.2))
        )
        compare(decode(payload), Expected([newest.packet(payload)]))


def test_a_batch_of_the_densest_packets_fits_the_memory_that_its_size_promises(newest):
    """255 entries a group, without the padding at their ends, until the decoder is full."""
    counts = {"NoMDEntries": 255, "NoOrderIDEntries": 255}
    for template in golden.templates(newest, 13):
        groups = newest.messages[template].groups
        if template in RARE or not groups:
            continue
        padding = {g.name: max(f.end for f in g.fields) - g.block_length for g in groups}
        contents = golden.contents(newest, template, counts, random.Random(template), 0.2)
        payload = in_packet(1, 1, newest.encode(template, *contents, grow=padding))
        payloads = [payload] * 5
        decoded = Decoder(5 * len(payload)).decode(Packets.of(payloads))
        compare(decoded, Expected([newest.packet(p) for p in payloads]))


# Batches and events.


def test_a_batch_larger_than_the_decoder_is_refused():
    with pytest.raises(ValueError, match="this decoder takes 6 of 64"):
        Decoder(64).decode(Packets.of([bytes(65)]))


def test_no_event_reaches_across_a_break(newest):
    trade = {"MDEntryPx": (1, -9), "MDEntrySize": 1, "SecurityID": 7, "NumberOfOrders": 2}
    opening = in_packet(1, 1, newest.encode(48, {"TransactTime": 1}, {"NoMDEntries": [trade]}))
    orders = {"NoOrderIDEntries": [{"OrderID": 5, "LastQty": 1}, {"OrderID": 6, "LastQty": 1}]}
    closing = in_packet(3, 1, newest.encode(48, {"TransactTime": 1, "MatchEventIndicator": END}, orders))
    packets = Packets.of([opening, closing])
    said = [newest.packet(opening), newest.packet(closing)]

    together = DECODER.decode(packets)
    compare(together, Expected(said))
    assert together.tables["trade_orders"]["trade"].tolist() == [0, 0]
    assert together.tables["trades"]["event_flags"].tolist() == [END]

    apart = DECODER.decode(packets, breaks=np.array([False, True]))
    compare(apart, Expected(said, breaks=[1]))
    assert apart.tables["trade_orders"]["trade"].tolist() == [-1, -1]
    assert apart.tables["trades"]["event_flags"].tolist() == [0]


def test_a_trade_without_a_number_of_orders_owns_none(oracles):
    """Before version 10 the number may be null; the orders belong to the trades that name theirs."""
    trades = [{"NumberOfOrders": None}, {"NumberOfOrders": 0}, {"NumberOfOrders": 1}]
    orders = [{"OrderID": 5}, {"OrderID": 6}]
    data = oracles[8].encode(42, {"TransactTime": 1}, {"NoMDEntries": trades, "NoOrderIDEntries": orders})
    decoded = decode(in_packet(1, 1, data))
    assert decoded.tables["trade_orders"]["trade"].tolist() == [2, -1]


def test_an_event_that_ends_with_an_empty_message_ends_on_its_last_rows(newest):
    """CME may close an event by a message without entries, in a later packet."""
    level = {"SecurityID": 7, "MDEntryType": "0"}
    first = in_packet(1, 1, newest.encode(46, {}, {"NoMDEntries": [level, level]}))
    last = in_packet(2, 1, newest.encode(46, {"MatchEventIndicator": END}))
    decoded = decode(first, last)
    compare(decoded, Expected([newest.packet(first), newest.packet(last)]))
    assert decoded.tables["mbp"]["event_flags"].tolist() == [0, END]


# A whole session.


@pytest.mark.parametrize(
    "seconds", [pytest.param(30, id="short"), pytest.param(900, id="long", marks=pytest.mark.slow)]
)
def test_a_simulated_session_gives_the_same_rows_in_both_decoders(newest, seconds):
    """Both feeds, with a channel reset on the way: definitions, books, orders, trades, snapshots."""
    half = seconds * 10**9 // 2
    config = SimulatorConfig(seed=11, duration_ns=2 * half, channel_reset_ns=half)
    seen = set()
    for block in Simulator(config).blocks():
        for packets in block:
            for begin in range(0, len(packets), 2_000):
                batch = packets.select(slice(begin, begin + 2_000))
                said = [newest.packet(batch[k]) for k in range(len(batch))]
                assert all(m["error"] is None for packet in said for m in packet["messages"])
                decoded = Decoder(4 << 20).decode(batch)
                compare(decoded, Expected(said))
                seen |= set(decoded.tables["messages"]["template"].tolist())
    assert seen >= {4, 30, 37, 46, 47, 48, 49, 50, 51, 52, 53, 54}

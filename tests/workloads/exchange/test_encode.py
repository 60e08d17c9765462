"""Each writer of the compiled encoder, read back by the oracle: every field, every byte.

A field's value is different from its neighbours' in every byte, so that two swapped or overlapping fields
show. What no field claims must be zero.
"""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from names import CME, MATURITY, blocks
from oracle import Number, Oracle

from workloads.exchange import encode, mdp3


class Page:
    """A buffer to write to, full of a byte that nobody writes."""

    def __init__(self) -> None:
        self.bytes = np.full(4096, 0xEE, np.uint8)
        self.start = np.uintp(self.bytes.ctypes.data)

    def until(self, at: int) -> bytes:
        """What was written; asserts that nothing lies behind it."""
        end = int(at) - int(self.start)
        assert set(self.bytes[end:].tolist()) == {0xEE}
        return self.bytes[:end].tobytes()


def one(oracle: Oracle, payload: bytes) -> dict[str, Any]:
    """The only message of a packet whose messages tile it."""
    found = oracle.packet(payload)
    assert found["error"] is None
    (message,) = found["messages"]
    assert (message["error"], message["version"], message["schema"]) == (None, 13, 1)
    return message


def by_our_names(said: dict[str, Any], ours: tuple[str, ...]) -> dict[str, Any]:
    """The oracle's fields under our names, numbers as mantissas, characters as codes."""
    found = {}
    for name in ours:
        value = said[next(cme for cme in CME[name] if cme in said)]
        if isinstance(value, Number):
            value = value.mantissa
        if isinstance(value, str) and len(value) == 1 and name in ("entry_type",):
            value = ord(value)
        found[name] = value
    return found


def distinct() -> Iterator[int]:
    """Positive numbers whose bytes all differ: cut to a field's width by `fit`."""
    for n in itertools.count(1):
        yield int.from_bytes(bytes((37 * n + 11 * k) % 126 + 1 for k in range(8)), "little")


def fit(values: Iterator[int], format_: np.dtype) -> int:
    """The next number, cut to what the field holds, and positive."""
    return next(values) & (2 ** (8 * format_.itemsize - 1) - 1)


# Writer, its arguments behind the address, the template that shows it, in a group or (None) as a root.
ENTRIES: dict[str, tuple[Callable[..., Any], tuple[str, ...], int, str]] = {
    "book_entry": (
        encode.book_entry,
        (
            *("price", "size", "instrument_id", "rpt_seq", "orders"),
            *("level", "action", "entry_type", "tradeable_size"),
        ),
        46,
        "NoMDEntries",
    ),
    "book_order": (
        encode.book_order,
        ("order_id", "priority", "size", "reference", "action"),
        46,
        "NoOrderIDEntries",
    ),
    "order_book_entry": (
        encode.order_book_entry,
        ("order_id", "priority", "price", "size", "instrument_id", "action", "entry_type"),
        47,
        "NoMDEntries",
    ),
    "trade_entry": (
        encode.trade_entry,
        (
            *("price", "size", "instrument_id", "rpt_seq", "orders"),
            *("aggressor", "action", "trade_entry_id"),
        ),
        48,
        "NoMDEntries",
    ),
    "trade_order": (encode.trade_order, ("order_id", "size"), 48, "NoOrderIDEntries"),
    "volume_entry": (
        encode.volume_entry,
        ("size", "instrument_id", "rpt_seq", "action"),
        37,
        "NoMDEntries",
    ),
    "daily_statistics_entry": (
        encode.daily_statistics_entry,
        (
            *("price", "size", "instrument_id", "rpt_seq"),
            *("reference_date", "settl_price_type", "action", "entry_type"),
        ),
        49,
        "NoMDEntries",
    ),
    "limits_entry": (
        encode.limits_entry,
        ("high", "low", "max_variation", "instrument_id", "rpt_seq"),
        50,
        "NoMDEntries",
    ),
    "session_statistics_entry": (
        encode.session_statistics_entry,
        ("price", "instrument_id", "rpt_seq", "open_close_flag", "action", "entry_type", "size"),
        51,
        "NoMDEntries",
    ),
    "snapshot_entry": (
        encode.snapshot_entry,
        (
            *("price", "size", "orders", "level"),
            *("reference_date", "open_close_flag", "settl_price_type", "entry_type"),
        ),
        52,
        "NoMDEntries",
    ),
    "snapshot_order_entry": (
        encode.snapshot_order_entry,
        ("order_id", "priority", "price", "size", "entry_type"),
        53,
        "NoMDEntries",
    ),
}
ROOTS: dict[str, tuple[Callable[..., Any], tuple[str, ...], int]] = {
    "refresh_root": (encode.refresh_root, ("transact_time", "event_flags"), 37),
    "snapshot_root": (
        encode.snapshot_root,
        (
            *("last_seq", "reports", "instrument_id", "rpt_seq", "transact_time", "last_update_time"),
            *("trade_date", "trading_status", "high", "low", "max_variation"),
        ),
        52,
    ),
    "snapshot_orders_root": (
        encode.snapshot_orders_root,
        ("last_seq", "reports", "instrument_id", "chunks", "chunk", "transact_time"),
        53,
    ),
}


def padding(layout: Any, data: bytes) -> bytes:
    """The bytes of a block that no field claims."""
    free = set(range(layout.block_length))
    for field in layout.fields:
        free -= set(range(field.offset, field.end))
    return bytes(data[k] for k in sorted(free))


@pytest.mark.parametrize("writer", ENTRIES)
def test_an_entry_reads_back_field_by_field(newest, writer):
    write, names, template, group_name = ENTRIES[writer]
    layout = newest.messages[template]
    groups = {group.name: group for group in layout.groups}
    block = blocks(template)[group_name]
    assert set(names) == set(block.names), "a writer must set every field of its block"
    values = distinct()
    sent = [{name: fit(values, block.fields[name][0]) for name in names} for _ in range(3)]

    page = Page()
    at = encode.packet_header(page.start, 7, 8)
    message = at
    at = encode.message_header(at, template, layout.block_length)
    page.bytes[22 : 22 + layout.block_length] = 0
    at += np.uintp(layout.block_length)
    for name, group in groups.items():
        long = name == "NoOrderIDEntries"
        n = 3 if name == group_name else 0
        at = (encode.long_group if long else encode.group)(at, group.block_length, n)
        if n:
            for entry in sent:
                before = at
                at = write(at, *entry.values())
                assert int(at - before) == group.block_length
                first = int(before) - int(page.start)
                assert not any(padding(group, page.bytes[first : first + group.block_length].tobytes()))
    at = encode.end_message(message, at)

    found = one(newest, page.until(at))
    assert [by_our_names(entry, names) for entry in found["groups"][group_name]] == sent
    assert all(not entries for name, entries in found["groups"].items() if name != group_name)


@pytest.mark.parametrize("writer", ROOTS)
def test_a_root_reads_back_field_by_field(newest, writer):
    write, names, template = ROOTS[writer]
    layout = newest.messages[template]
    block = blocks(template)[""]
    assert set(names) == set(block.names), "a writer must set every field of its block"
    values = distinct()
    sent = {name: fit(values, block.fields[name][0]) for name in names}

    page = Page()
    message = encode.packet_header(page.start, 7, 8)
    body = encode.message_header(message, template, layout.block_length)
    at = write(body, *sent.values())
    assert int(at - body) == layout.block_length
    at = encode.end_message(message, encode.group(at, layout.groups[0].block_length, 0))

    payload = page.until(at)
    assert not any(padding(layout, payload[22 : 22 + layout.block_length]))
    assert by_our_names(one(newest, payload)["fields"], names) == sent


def test_a_negative_price_and_a_negative_id_keep_their_sign(newest):
    page = Page()
    message = encode.packet_header(page.start, 1, 2)
    at = encode.refresh_root(encode.message_header(message, 46, 11), 3, 4)
    at = encode.book_entry(encode.group(at, 32, 1), -5, 6, -7, 8, 9, 10, 1, ord("1"), mdp3.NULL_I32)
    at = encode.end_message(message, encode.long_group(at, 24, 0))
    (entry,) = one(newest, page.until(at))["groups"]["NoMDEntries"]
    assert (entry["MDEntryPx"], entry["SecurityID"]) == (Number(-5, -9), -7)


def test_nulls_of_the_wire_are_nulls_to_the_schema(newest):
    page = Page()
    message = encode.packet_header(page.start, 1, 2)
    at = encode.refresh_root(encode.message_header(message, 46, 11), 3, 4)
    null = mdp3.NULL_I32
    at = encode.book_entry(encode.group(at, 32, 1), mdp3.NULL_I64, null, 7, 8, null, 1, 2, ord("0"), null)
    at = encode.book_order(encode.long_group(at, 24, 1), 5, np.uint64(mdp3.NULL_U64), null, mdp3.NULL_U8, 2)
    found = one(newest, page.until(encode.end_message(message, at)))["groups"]
    nullable = ("MDEntryPx", "MDEntrySize", "NumberOfOrders", "TradeableSize")
    assert [found["NoMDEntries"][0][name] for name in nullable] == [None] * 4
    nullable = ("MDOrderPriority", "MDDisplayQty", "ReferenceID")
    assert [found["NoOrderIDEntries"][0][name] for name in nullable] == [None] * 3


def test_a_packet_carries_its_number_time_and_messages_back_to_back(newest):
    page = Page()
    at = encode.packet_header(page.start, 2**32 - 1, 1_700_000_000_123_456_789)
    at = encode.heartbeat(encode.heartbeat(at))
    at = encode.channel_reset(at, 1_700_000_000_000_000_001, 128, -310)
    found = newest.packet(page.until(at))
    assert (found["seq"], found["ts_sent"]) == (2**32 - 1, 1_700_000_000_123_456_789)
    assert found["error"] is None
    assert [m["template"] for m in found["messages"]] == [12, 12, 4]
    assert all(m["error"] is None and m["version"] == 13 for m in found["messages"])
    reset = found["messages"][2]
    assert reset["fields"] == {"TransactTime": 1_700_000_000_000_000_001, "MatchEventIndicator": 128}
    assert reset["groups"] == {"NoMDEntries": [{"MDUpdateAction": 0, "MDEntryType": "J", "ApplID": -310}]}


def test_a_status_reads_back_field_by_field(newest):
    page = Page()
    at = encode.packet_header(page.start, 1, 2)
    group, asset = (int.from_bytes(text.ljust(8, b"\0"), "little") for text in (b"ES", b"ABCDEF"))
    at = encode.status(at, 1_700_000_000_000_000_001, group, asset, mdp3.NULL_I32, 19_700, 128, 21, 6, 5)
    assert one(newest, page.until(at))["fields"] == {
        "TransactTime": 1_700_000_000_000_000_001,
        "SecurityGroup": "ES",
        "Asset": "ABCDEF",
        "SecurityID": None,
        "TradeDate": 19_700,
        "MatchEventIndicator": 128,
        "SecurityTradingStatus": 21,
        "HaltReason": 6,
        "SecurityTradingEvent": 5,
    }


DEFINITIONS = sorted(mdp3.DEFINITION)


@pytest.mark.parametrize("template", DEFINITIONS)
def test_a_definition_reads_back_field_by_field(newest, template):
    block = mdp3.DEFINITION[template]
    values = distinct()
    letters = itertools.cycle("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
    sent: dict[str, Any] = {}
    for name in block.names:
        format_ = block.fields[name][0]
        if format_.kind == "S":
            sent[name] = "".join(next(letters) for _ in range(format_.itemsize))
        else:
            sent[name] = fit(values, format_)
    legs = ((11, 1, 1), (12, 2, -3)) if template == mdp3.DEFINITION_SPREAD else ()
    data = encode.definition(
        template, activation=101, expiration=102, depth=5, attributes=0x80001, legs=legs, **sent
    )
    assert int.from_bytes(data[:2], "little") == len(data)

    found = one(newest, bytes(12) + data)
    fields, groups = found["fields"], found["groups"]
    assert found["template"] == template
    assert found["block_length"] == newest.messages[template].block_length
    months = {name: sent.pop(name) for name in MATURITY if name in sent}
    for name, value in months.items():
        assert fields["MaturityMonthYear"][MATURITY[name]] == value
    update_action = sent.pop("update_action")
    assert ord(fields["SecurityUpdateAction"]) == update_action
    assert by_our_names(fields, tuple(sent)) == sent
    assert groups["NoEvents"] == [
        {"EventType": 5, "EventTime": 101},
        {"EventType": 7, "EventTime": 102},
    ]
    assert groups["NoMDFeedTypes"] == [{"MDFeedType": "GBX", "MarketDepth": 5}]
    assert groups["NoInstAttrib"] == [{"InstAttribType": 24, "InstAttribValue": 0x80001}]
    if legs:
        assert [(e["LegSecurityID"], e["LegSide"], e["LegRatioQty"]) for e in groups["NoLegs"]] == list(legs)
        assert {(e["LegPrice"], e["LegOptionDelta"]) for e in groups["NoLegs"]} == {(None, None)}
    others = set(groups) - {"NoEvents", "NoMDFeedTypes", "NoInstAttrib", "NoLegs"}
    assert all(groups[name] == [] for name in others)


@pytest.mark.parametrize("template", DEFINITIONS)
def test_the_groups_of_a_definition_are_as_long_as_the_schema_s_and_end_with_the_message(newest, template):
    data = encode.definition(template)
    at = 10 + newest.messages[template].block_length
    for group in newest.messages[template].groups:
        length, n = int.from_bytes(data[at : at + 2], "little"), data[at + 2]
        assert (group.name, length) == (group.name, group.block_length)
        at += 3 + n * length
    assert at == len(data)


@pytest.mark.parametrize("template", DEFINITIONS)
def test_what_a_definition_leaves_out_is_null_wherever_the_venue_has_a_null(newest, template):
    fields = one(newest, bytes(12) + encode.definition(template))["fields"]
    ours = {cme for name in mdp3.DEFINITION[template].names for cme in CME.get(name, ())}
    nullable = {f.name for f in newest.messages[template].fields if null_of(f) is not None}
    assert {name: fields[name] for name in ours & nullable} == dict.fromkeys(ours & nullable)


def null_of(field: Any) -> int | None:
    parts = getattr(field.type, "parts", (field,))
    return next((part.type.null for part in parts if part.name in (field.name, "mantissa")), None)


def test_every_writer_of_the_encoder_is_tested():
    tested = {*ENTRIES, *ROOTS, "heartbeat", "channel_reset", "status"}
    parts = {"packet_header", "message_header", "end_message", "group", "long_group"}
    writers = {name for name, value in vars(encode).items() if hasattr(value, "py_func")}
    ours = {name for name in writers if getattr(encode, name).__module__ == encode.__name__}
    assert ours == tested | parts

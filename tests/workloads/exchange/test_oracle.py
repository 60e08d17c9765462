"""The oracle itself: on a schema small enough to check by eye, and on real packets read by hand."""

from decimal import Decimal
from pathlib import Path

import pytest
from oracle import Number, Oracle, in_packet

SCHEMA = """<?xml version="1.0"?>
<s:messageSchema xmlns:s="urn:x" id="1" version="3">
  <types>
    <type name="Text" primitiveType="char" length="3"/>
    <type name="Letter" primitiveType="char"/>
    <type name="Maybe" primitiveType="int8" presence="optional" nullValue="127"/>
    <type name="Always" primitiveType="char" presence="constant">J</type>
    <composite name="Price">
      <type name="mantissa" primitiveType="int64" presence="optional" nullValue="9223372036854775807"/>
      <type name="exponent" primitiveType="int8" presence="constant">-9</type>
    </composite>
    <composite name="Month">
      <type name="year" primitiveType="uint16"/>
      <type name="month" primitiveType="uint8"/>
    </composite>
    <composite name="long">
      <type name="blockLength" primitiveType="uint16"/>
      <type name="numInGroup" primitiveType="uint8" offset="7"/>
    </composite>
    <composite name="short">
      <type name="blockLength" primitiveType="uint16"/>
      <type name="numInGroup" primitiveType="uint8"/>
    </composite>
    <enum name="Kind" encodingType="Letter"><validValue name="Bid">0</validValue></enum>
    <set name="Bits" encodingType="uint8"><choice name="Last">7</choice></set>
  </types>
  <s:message name="Thing7" id="7" blockLength="20">
    <field name="Bits" type="Bits"/>
    <field name="Fixed" type="Always"/>
    <field name="Price" type="Price"/>
    <field name="Text" type="Text" offset="10"/>
    <field name="Month" type="Month" offset="13"/>
    <field name="Later" type="uint32" offset="16" sinceVersion="2"/>
    <group name="Few" blockLength="2" dimensionType="short">
      <field name="Kind" type="Kind"/><field name="Level" type="Maybe"/>
    </group>
    <group name="Many" blockLength="2" dimensionType="long" sinceVersion="3">
      <field name="Id" type="int16"/>
    </group>
  </s:message>
</s:messageSchema>
"""
ROOT = bytes.fromhex(
    "80"  # bits
    "00943577 00000000 00"  # price 2 (mantissa 2000000000, 8 bytes), then a byte of padding at 9
    "4553 00"  # text "ES"
    "e707 0c"  # December 2023
    "2a000000"  # later
)


@pytest.fixture
def small(tmp_path: Path) -> Oracle:
    (tmp_path / "schema.xml").write_text(SCHEMA)
    return Oracle(tmp_path / "schema.xml")


def message(
    body: bytes, block_length: int = 20, template: int = 7, schema: int = 1, version: int = 3
) -> bytes:
    header = [10 + len(body), block_length, template, schema, version]
    return b"".join(value.to_bytes(2, "little") for value in header) + body


FEW = bytes.fromhex("0200 02  30 01  00 7f")
MANY = bytes.fromhex("0200 0000000000 01  ffff")


def test_every_kind_of_field_is_read_at_its_place(small):
    found = small.packet(in_packet(5, 6, message(ROOT + FEW + MANY)))
    assert (found["seq"], found["ts_sent"], found["error"]) == (5, 6, None)
    (thing,) = found["messages"]
    assert thing["fields"] == {
        "Bits": 128,
        "Fixed": "J",
        "Price": Number(2_000_000_000, -9),
        "Text": "ES",
        "Month": {"year": 2023, "month": 12},
        "Later": 42,
    }
    assert thing["fields"]["Price"].decimal == Decimal(2)
    assert thing["groups"] == {
        "Few": [{"Kind": "0", "Level": 1}, {"Kind": "", "Level": None}],
        "Many": [{"Id": -1}],
    }


def test_what_a_version_does_not_have_is_not_read(small):
    thing = small.message(message(ROOT[:16] + FEW, block_length=16, version=1))
    assert thing["error"] is None
    assert thing["fields"]["Later"] is None
    assert list(thing["groups"]) == ["Few"]


def test_longer_blocks_and_unknown_groups_are_skipped(small):
    few = bytes.fromhex("0300 01 30 01 99")
    thing = small.message(message(ROOT + b"\x99" * 4 + few + MANY + b"\x99" * 5, block_length=24, version=4))
    assert thing["fields"]["Later"] == 42
    assert thing["groups"] == {"Few": [{"Kind": "0", "Level": 1}], "Many": [{"Id": -1}]}


@pytest.mark.parametrize("kept", range(len(ROOT + FEW + MANY)))
def test_a_body_cut_anywhere_is_refused(small, kept):
    thing = small.message(message((ROOT + FEW + MANY)[:kept]))
    assert thing["error"] is not None
    assert (thing["fields"], thing["groups"]) == ({}, {})


def test_a_block_shorter_than_its_fields_is_refused(small):
    assert "Later" in small.message(message(ROOT[:16] + FEW + MANY, block_length=16))["error"]


@pytest.mark.parametrize("size", [0, 9, 11])
def test_a_size_that_does_not_fit_ends_the_walk(small, size):
    found = small.packet(in_packet(1, 2, message(b"", template=9), size.to_bytes(2, "little") + bytes(8)))
    assert len(found["messages"]) == 1
    assert "byte 22" in found["error"]


def test_unknown_templates_and_schemas_are_named_and_passed(small):
    found = small.packet(in_packet(1, 2, message(b"?", template=8), message(b"?", schema=2)))
    assert [m["name"] for m in found["messages"]] == [None, None]
    assert [m["error"] for m in found["messages"]] == [None, None]


def test_the_encoder_writes_these_very_bytes(small):
    fields = {"Bits": 128, "Price": (2_000_000_000, -9), "Text": "ES", "Month": {"year": 2023, "month": 12}}
    groups = {"Few": [{"Kind": "0", "Level": 1}, {}], "Many": [{"Id": -1}]}
    assert small.encode(7, fields | {"Later": 42}, groups) == message(ROOT + FEW + MANY)
    assert small.encode(7, fields, groups, version=1)[10:] == ROOT[:16] + bytes(4) + FEW
    assert small.encode(7, fields, version=2)[30:] == bytes.fromhex("0200 00")


def test_a_misspelt_field_is_not_written_as_nothing(small):
    with pytest.raises(AssertionError, match="doesn't have"):
        small.encode(7, {"Prise": 1})


def test_real_packets_of_2017_say_what_was_read_by_hand(data_folder, oracles):
    lines = (data_folder / "cme-mdp3/packets-hex/packets.hex").read_text().split()
    status, _, book, _, books, trade, _ = (oracles[8].packet(bytes.fromhex(line)) for line in lines)
    assert status["seq"] == 11_076_438
    (message_,) = status["messages"]
    assert message_["name"] == "SecurityStatus30"
    assert message_["fields"] == {
        "TransactTime": 1_502_401_500_001_346_819,
        "SecurityGroup": "ES",
        "Asset": "",
        "SecurityID": None,
        "TradeDate": 17_389,  # 11 August 2017
        "MatchEventIndicator": 128,
        "SecurityTradingStatus": 21,
        "HaltReason": 0,
        "SecurityTradingEvent": 4,
    }
    levels = book["messages"][0]["groups"]["NoMDEntries"]
    assert [level["MDEntryPx"].decimal for level in levels] == [Decimal("243150.0"), Decimal("243125.0")]
    assert book["messages"][0]["groups"]["NoOrderIDEntries"] == [
        {
            "OrderID": 644_422_849_436,
            "MDOrderPriority": 5_437_133_604,
            "MDDisplayQty": 2,
            "ReferenceID": 1,
            "OrderUpdateAction": 1,
        }
    ]
    assert [m["template"] for m in books["messages"]] == [32, 32]
    (trade_,) = trade["messages"]
    assert trade_["groups"]["NoMDEntries"][0]["MDEntryPx"].decimal == Decimal("243450.0")
    assert [order["LastQty"] for order in trade_["groups"]["NoOrderIDEntries"]] == [2, 2]


def test_no_field_of_any_schema_reaches_beyond_its_block(oracles):
    for oracle in oracles.values():
        for message_ in oracle.messages.values():
            for block in (message_, *message_.groups):
                assert all(field.end <= block.block_length for field in block.fields)

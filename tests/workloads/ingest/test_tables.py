"""What a definition becomes as a row, from real packets and from invented ones of the newest version."""

import datetime
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.workloads.ingest.messages import block, message
from tests.workloads.ingest.streams import SUNDAY, packet
from workloads.exchange import encode, mdp3
from workloads.exchange.decode import Decoder
from workloads.exchange.packets import Packets
from workloads.ingest.tables import PacketFacts, Tables
from workloads.ticks.codes import RowFlag

sys.path.insert(0, str(Path(__file__).parents[1] / "exchange"))

from oracle import Oracle  # found through the line above

ONE = 1_000_000_000
DAY = datetime.timedelta(days=1)


def tables(*payloads):
    """{table: rows} of one batch."""
    packets = Packets.of(payloads)
    n = len(packets)
    epoch = np.full(n, 2026010400, np.uint32)
    facts = PacketFacts(epoch, packets.seq, packets.ts_sent, packets.ts_sent + 5, np.zeros(n, np.uint8))
    built = Tables("XCME", 310).build(packets.buffer, Decoder().decode(packets), facts)
    return {name: table.to_pylist() for name, table in built.items()}


def defined(template, **fields):
    (row,) = tables(packet(1, SUNDAY, encode.definition(template, **fields)))["definitions"]
    return row


def ns(stamp):
    return None if stamp is None else stamp.value


ES = {
    "instrument_id": 7,
    "symbol": b"ESH6",
    "asset": b"ES",
    "security_group": b"ES",
    "security_type": b"FUT",
    "exchange": b"XCME",
    "cfi": b"FFIXSX",
    "currency": b"USD",
    "settl_currency": b"USD",
    "update_action": ord("A"),
    "last_update_time": SUNDAY - 9,
    "tick": 25 * ONE,
    "display_factor": ONE // 100,
    "tick_value": 12_500_000_000,
    "unit": b"IPNT",
    "unit_quantity": 50 * ONE,
    "maturity_year": 2026,
    "maturity_month": 3,
    "min_size": 1,
    "max_size": 3_000,
    "match_algorithm": b"F",
    "high_limit": 700_000 * ONE,
    "low_limit": 600_000 * ONE,
    "trading_status": 17,
    "activation": SUNDAY - 5,
    "expiration": SUNDAY + 5,
    "depth": 10,
    "attributes": 0b101,
    "guid": 99,
}


def test_a_future_has_its_money_in_quoted_units():
    row = defined(54, **ES)
    names = (
        "symbol",
        "asset",
        "security_type",
        "exchange",
        "cfi",
        "currency",
        "unit",
        "maturity",
        "match_algorithm",
    )
    assert [row[name] for name in names] == [
        *("ESH6", "ES", "FUT", "XCME", "FFIXSX", "USD", "IPNT", "202603", "F"),
    ]
    assert (row["tick"], row["tick_value"], row["multiplier"]) == (ONE // 4, 12_500_000_000, 50 * ONE)
    assert (row["high_limit"], row["low_limit"]) == (7_000 * ONE, 6_000 * ONE)
    assert (row["display_factor"], row["lot_size"]) == (ONE // 100, 50 * ONE)
    assert (row["instrument_id"], row["update_action"], row["guid"], row["trading_status"]) == (7, 65, 99, 17)
    assert (ns(row["activation"]), ns(row["expiration"]), row["depth"]) == (SUNDAY - 5, SUNDAY + 5, 10)
    assert (ns(row["ts_event"]), ns(row["ts_sent"]), row["seq"]) == (SUNDAY - 9, SUNDAY, 1)
    assert (row["attributes"], row["min_size"], row["max_size"], row["row_flags"]) == (5, 1, 3_000, 0)
    assert row["template"] == 54


UNSAID = (
    *("open_interest", "cleared_volume", "reference_price", "reference_date", "max_variation"),
    *("main_fraction", "strike", "put_or_call", "tick_rule"),
)


@pytest.mark.parametrize("name", UNSAID)
def test_what_a_definition_leaves_out_is_null(name):
    assert defined(54, **ES)[name] is None


def test_without_a_display_factor_no_price_is_quoted_and_no_multiplier_known():
    row = defined(54, **{**ES, "display_factor": mdp3.NULL_I64})
    assert (row["tick"], row["multiplier"], row["display_factor"]) == (25 * ONE, None, None)
    assert row["row_flags"] == RowFlag.UNSCALED


def test_without_a_tick_value_no_multiplier_is_known():
    row = defined(54, **{**ES, "tick_value": mdp3.NULL_I64})
    assert (row["multiplier"], row["tick_value"]) == (None, None)


def test_a_fractional_tick_gives_the_contract_multiplier():
    """Corn: a quarter of a cent a bushel, 12.50 USD, 5,000 bushels."""
    row = defined(54, **{**ES, "tick": ONE // 4, "display_factor": ONE, "tick_value": 12_500_000_000})
    assert (row["tick"], row["multiplier"]) == (ONE // 4, 50 * ONE)


def test_an_option_has_strike_right_and_a_tick_of_its_own():
    row = defined(
        55,
        instrument_id=8,
        symbol=b"ESH6 C6900",
        put_or_call=1,
        strike=690_000 * ONE,
        display_factor=ONE // 100,
        tick=5 * ONE,
        tick_value=2_500_000_000,
        tick_rule=3,
        maturity_year=2026,
        maturity_month=1,
        maturity_week=2,
        currency=b"USD",
    )
    assert (row["put_or_call"], row["strike"], row["tick_rule"]) == (1, 6_900 * ONE, 3)
    assert (row["tick"], row["multiplier"], row["maturity"]) == (ONE // 20, 50 * ONE, "202601w2")


def test_a_spread_lists_its_legs_and_has_no_multiplier():
    row = defined(
        56,
        instrument_id=9,
        security_subtype=b"EQ",
        display_factor=ONE // 100,
        tick=5 * ONE,
        legs=((7, 1, 1), (8, 2, 2)),
    )
    assert row["legs"] == [
        {"instrument_id": 7, "side": 1, "ratio": 1, "price": None},
        {"instrument_id": 8, "side": 2, "ratio": 2, "price": None},
    ]
    assert (row["security_subtype"], row["tick"], row["multiplier"]) == ("EQ", ONE // 20, None)


@pytest.mark.parametrize(
    ("day", "week", "text"), [(255, 255, "202603"), (20, 255, "20260320"), (255, 1, "202603w1")]
)
def test_maturity_is_as_exact_as_it_was_sent(day, week, text):
    assert defined(54, **{**ES, "maturity_day": day, "maturity_week": week})["maturity"] == text


@pytest.mark.parametrize("version", [5, 13])
@pytest.mark.parametrize("kind", ["future", "option", "spread"])
def test_definitions_of_the_oldest_and_the_newest_version_become_the_same_row(data_folder, version, kind):
    """Written by the oracle from CME's schema; prices at 1e-7 in version 5, at 1e-9 in version 13."""
    template = {5: (27, 41, 29), 13: (54, 55, 56)}[version][("future", "option", "spread").index(kind)]
    oracle = Oracle(data_folder / f"cme-mdp3/schema/Cme.Futures.Mdp3.Sbe.v1.{version}.xml")
    payload = written(oracle, template, 10**7 if version == 5 else 10**9, version)
    (row,) = tables(payload)["definitions"]
    tick = {"future": 25, "option": 5, "spread": 5}[kind]
    assert (row["symbol"], row["instrument_id"], row["tick"]) == ("TEST", 4711, tick * ONE // 100)
    assert (row["display_factor"], row["template"], row["row_flags"]) == (ONE // 100, template, 0)
    assert (row["maturity"], row["currency"]) == ("202603", "USD")
    assert ns(row["expiration"]) == SUNDAY + 7
    if kind == "future":
        assert (row["tick_value"], row["multiplier"]) == (12_500_000_000, 50 * ONE)
    if kind == "option":
        assert (row["strike"], row["put_or_call"]) == (6_900 * ONE, 1)
    if kind == "spread":
        assert [(leg["instrument_id"], leg["ratio"]) for leg in row["legs"]] == [(1, 1), (2, 3)]
    assert row["guid"] is None


def written(oracle, template, one, version):
    """A definition by field name; what is not named here is null or zero."""
    tick = {27: 25, 54: 25}.get(template, 5)
    decimals = {
        "MinPriceIncrement": tick * one,
        "DisplayFactor": one // 100,
        "MinPriceIncrementAmount": 25 * one // 2,
        "StrikePrice": 690_000 * one,
    }
    plain = {
        "Symbol": "TEST",
        "SecurityID": 4711,
        "Currency": "USD",
        "PutOrCall": 1,
        "LastUpdateTime": SUNDAY,
        "MaturityMonthYear": {"year": 2026, "month": 3, "day": None, "week": None},
        "EventType": 7,
        "EventTime": SUNDAY + 7,
        "MDFeedType": "GBX",
        "MarketDepth": 10,
    }

    def value(field, number=0):
        exponent = getattr(field.type, "exponent", None)
        if exponent is not None:
            return (decimals[field.name], exponent) if field.name in decimals else None
        legs = {"LegSecurityID": number + 1, "LegRatioQty": 2 * number + 1, "LegSide": 1}
        if field.name in plain | legs:
            return (plain | legs)[field.name]
        if not hasattr(field.type, "primitive"):
            return {part.name: None for part in field.type.parts}
        if field.type.constant is not None:
            return field.type.constant
        if field.type.null is not None:
            return None
        return "" if field.type.primitive == "char" else 0

    layout = oracle.messages[template]
    counts = {"NoEvents": 1, "NoMDFeedTypes": 1, "NoLegs": 2}
    fields = {field.name: value(field) for field in layout.fields}
    fields = {name: as_number(v) for name, v in fields.items()}
    groups = {
        group.name: [
            {field.name: as_number(value(field, k)) for field in group.fields}
            for k in range(counts.get(group.name, 0))
        ]
        for group in layout.groups
    }
    return packet(1, SUNDAY, oracle.encode(template, fields, groups, version=version))


def as_number(value):
    from oracle import Number

    return Number(*value) if isinstance(value, tuple) else value


def test_a_real_definition_of_version_5_has_the_contract_that_everybody_knows(data_folder):
    """ESZ5: tick 0.25, 12.50 USD a tick, 50 USD a point. From a capture of 2015."""
    capture = (data_folder / "cme-mdp3/pcap/v5/MdInstrumentDefinitionSpread.pcap").read_bytes()
    start = capture.index(b"ESZ5") - 35 - 10  # symbol in the root, behind the message header
    size = int.from_bytes(capture[start : start + 2], "little")
    (row,) = tables(packet(1, SUNDAY, capture[start : start + size]))["definitions"]
    assert (row["symbol"], row["tick"], row["tick_value"]) == ("ESZ5", ONE // 4, 12_500_000_000)
    assert (row["multiplier"], row["display_factor"], row["maturity"]) == (50 * ONE, ONE // 100, "201512")
    assert (row["currency"], row["security_type"], row["guid"]) == ("USD", "FUT", None)


def test_a_status_of_a_whole_group_names_no_instrument():
    root = block(
        mdp3.ROOT[mdp3.STATUS],
        transact_time=SUNDAY,
        security_group=b"ES",
        asset=b"",
        instrument_id=mdp3.NULL_I32,
        trade_date=20_458,
        event_flags=128,
        trading_status=21,
        halt_reason=0,
        trading_event=4,
    )
    (row,) = tables(packet(3, SUNDAY, message(mdp3.STATUS, root)))["status"]
    assert (row["instrument_id"], row["security_group"], row["asset"]) == (None, "ES", None)
    assert (row["trading_status"], row["halt_reason"], row["trading_event"]) == (21, 0, 4)
    assert row["trade_date"] == datetime.date(1970, 1, 1) + 20_458 * DAY
    assert (ns(row["ts_event"]), row["event_flags"], row["template"]) == (SUNDAY, 128, 30)

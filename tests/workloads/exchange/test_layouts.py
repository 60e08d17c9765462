"""Our tables of the wire format against CME's schemas: every offset, width, length, null and code."""

import itertools
from collections.abc import Iterator

import numpy as np
import pytest
from names import CME, MATURITY, SUPPORTED, blocks
from oracle import FORMATS, Composite, Field, Message, Oracle, Plain

from workloads.exchange import mdp3
from workloads.ticks import codes

VERSIONS = (5, 6, 7, 8, 9, 10, 11, 12, 13)

LEFT_OUT = {
    "AltMinPriceIncrement",
    "AltMinQuoteLife",
    "AltPriceIncrementConstraint",
    "BrokenDateTermType",
    "CountryOfIssue",
    "CouponDayCount",
    "CouponFrequencyPeriod",
    "CouponFrequencyUnit",
    "CouponRate",
    "DatedDate",
    "EndDate",
    "FXBenchmarkRateFix",
    "FXCurrencySymbol",
    "FinancialInstrumentFullName",
    "FixRateLocalTime",
    "FixRateLocalTimeZone",
    "InterveningDays",
    "IssueDate",
    "Issuer",
    "MarketSet",
    "MaturityDate",
    "MaxBidAskConstraint",
    "MaxNoOfSubstitutions",
    "MaxPriceDiscretionOffset",
    "MinQuoteLife",
    "MoneyOrPar",
    "ParValue",
    "PartyRoleClearingOrg",
    "PricePrecision",
    "PriceQuoteMethod",
    "RateSource",
    "RiskSet",
    "SecurityAltID",
    "SecurityAltIDSource",
    "SettlType",
    "SettlementLocale",
    "StartDate",
    "TermCode",
    "TerminationType",
}
"""Root fields of definitions that no table keeps: bonds, repos, currencies, and names of risk sets."""

LEFT_OUT_OF = {
    mdp3.DEFINITION_FIXED_INCOME: {"UserDefinedInstrument"},
    mdp3.DEFINITION_REPO: {"UserDefinedInstrument", "SecuritySubType"},  # here the kind of repo
    mdp3.DEFINITION_FX: {"UserDefinedInstrument"},
}
GROUPS_LEFT_OUT = {
    "NoLotTypeRules",
    "NoUnderlyings",
    "NoRelatedInstruments",
    "NoBrokenDates",
    "NoTradingSessions",
}


def schema_fields(message: Message) -> dict[str, dict[str, Field]]:
    """Wire fields of each block; constants take no byte and are left out."""
    found = {"": message.fields} | {group.name: group.fields for group in message.groups}
    return {name: {f.name: f for f in fields if f.type.size} for name, fields in found.items()}


def behind(name: str, fields: dict[str, Field]) -> tuple[int, str, str] | None:
    """Offset, NumPy format and CME name of our field; None where this version lacks it."""
    if name in MATURITY:
        composite = fields.get("MaturityMonthYear")
        if composite is None:
            return None
        assert isinstance(composite.type, Composite)
        (part,) = (p for p in composite.type.parts if p.name == MATURITY[name])
        return composite.offset + part.offset, numpy_format(part), composite.name
    found = next((fields[c] for c in CME[name] if c in fields), None)
    return found and (found.offset, numpy_format(found), found.name)


def numpy_format(field: Field) -> str:
    type_ = field.type
    if isinstance(type_, Composite):
        (type_,) = (p.type for p in type_.parts if p.name == "mantissa")
    assert isinstance(type_, Plain)
    if type_.primitive == "char":
        return f"|S{type_.length}"
    return np.dtype(FORMATS[type_.primitive]).newbyteorder("<").str


def pairs(oracle: Oracle, version: int) -> Iterator[tuple[int, str, np.dtype, dict[str, Field]]]:
    """Template, group, our block and the schema's fields, for all that this version has."""
    for template in SUPPORTED:
        message = oracle.messages.get(template)
        if message is None or message.since > version:
            continue
        fields = schema_fields(message)
        since = {group.name: group.since for group in message.groups}
        for name, block in blocks(template).items():
            if name in fields and since.get(name, 0) <= version:
                yield template, name, block, {f.name: f for f in fields[name].values() if f.since <= version}


@pytest.mark.parametrize("version", VERSIONS)
def test_every_field_has_the_offset_and_the_width_of_the_schema(oracles, version):
    wrong = []
    for template, group, block, fields in pairs(oracles[version], version):
        for name, (format_, at, *_) in block.fields.items():
            ours = (at, format_.newbyteorder("<").str)
            theirs = behind(name, fields)
            as_code = (at, "|S1") if format_ == np.uint8 else ours  # a character may be kept as its code
            if theirs is not None and theirs[:2] not in (ours, as_code):
                wrong.append((template, group, name, ours, theirs))
    assert not wrong, wrong


@pytest.mark.parametrize("version", VERSIONS)
def test_a_field_is_missing_exactly_where_since_says_so(oracles, version):
    wrong = []
    for template, group, block, fields in pairs(oracles[version], version):
        for name in block.names:
            present = behind(name, fields) is not None
            if present != (version >= since(template, name)):
                wrong.append((template, group, name, "present" if present else "missing"))
    assert not wrong, wrong


def since(template: int, name: str) -> int:
    """`mdp3.SINCE`, and what a table by field name cannot say; the decoders have a rule for each of these."""
    newer = mdp3.TWINS.get(template, template)
    if name == "size" and newer == mdp3.SESSION_STATISTICS:
        return 8  # padding before
    if name == "reference_date" and newer not in mdp3.DEFINITION:
        return 0
    return mdp3.SINCE.get(name, 0)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_reader_never_needs_more_of_a_block_than_the_version_sends(oracles, version):
    wrong = []
    for template, group, block, _ in pairs(oracles[version], version):
        message = oracles[version].messages[template]
        sent = {"": message.block_length} | {g.name: g.block_length for g in message.groups}
        needed = mdp3.read_bytes(block) if block.names else 0
        if needed > sent[group]:
            wrong.append((template, group, needed, sent[group]))
    assert not wrong, wrong


def test_block_lengths_are_those_of_version_13(newest):
    for template in {*mdp3.ROOT, *mdp3.DEFINITION}:
        message = newest.messages[template]
        sent = {"": message.block_length} | {g.name: g.block_length for g in message.groups}
        for group, block in blocks(template).items():
            assert (template, group, block.itemsize) == (template, group, sent[group])


def test_every_group_that_we_read_exists_and_stands_where_we_expect_it(oracles):
    for version, oracle in oracles.items():
        for template in set(SUPPORTED) & set(oracle.messages):
            theirs = [group.name for group in oracle.messages[template].groups]
            ours = [name for name in blocks(template) if name]
            if not (template == 32 and version < 7):  # the order group of 32 came with version 7
                assert theirs[: len(ours)] == ours or template in (29, 56)
            if template in (29, 56):
                assert theirs == ["NoEvents", "NoMDFeedTypes", "NoInstAttrib", "NoLotTypeRules", "NoLegs"]


def test_group_headers_are_short_but_for_the_orders_of_books_and_trades(oracles):
    for oracle in oracles.values():
        for template in set(SUPPORTED) & set(oracle.messages):
            for group in oracle.messages[template].groups:
                counts = {part.name: part.offset for part in group.header.parts}
                long = group.name == "NoOrderIDEntries"
                assert group.header.size == (mdp3.LONG_GROUP_BYTES if long else mdp3.GROUP_BYTES)
                assert counts == {"blockLength": 0, "numInGroup": 7 if long else 2}


def test_no_field_of_a_supported_template_is_left_out_unnoticed(newest):
    for template in {*mdp3.ROOT, *mdp3.DEFINITION}:
        ours = blocks(template)
        for group, fields in schema_fields(newest.messages[template]).items():
            if group in GROUPS_LEFT_OUT:
                continue
            read = {behind(name, fields)[2] for name in ours[group].names}
            assert set(fields) - read - LEFT_OUT <= LEFT_OUT_OF.get(template, set()), (template, group)


def test_prices_have_the_exponent_of_their_template_in_every_version(oracles):
    """PRICE* and DisplayFactor; quantities (DecimalQty) have one of their own."""
    for oracle in oracles.values():
        for template in set(SUPPORTED) & set(oracle.messages):
            for fields in schema_fields(oracle.messages[template]).values():
                for field in fields.values():
                    if isinstance(field.type, Composite) and field.type.exponent not in (None, -4):
                        coarse = template <= mdp3.LAST_COARSE_TEMPLATE
                        assert field.type.exponent == (-7 if coarse else -9), (template, field.name)


def test_nulls_are_those_of_the_schema(oracles):
    ours = {
        "int8": mdp3.NULL_I8,
        "uint8": mdp3.NULL_U8,
        "uint16": mdp3.NULL_U16,
        "int32": mdp3.NULL_I32,
        "uint32": mdp3.NULL_U32,
        "int64": mdp3.NULL_I64,
        "uint64": mdp3.NULL_U64,
    }
    seen = set()
    for oracle in oracles.values():
        for message in oracle.messages.values():
            for fields in schema_fields(message).values():
                for field in fields.values():
                    parts = field.type.parts if isinstance(field.type, Composite) else (field,)
                    for part in parts:
                        if part.type.null is not None:
                            seen.add(part.type.primitive)
                            assert part.type.null == ours[part.type.primitive]
    assert seen == set(ours)


def test_templates_of_incremental_and_snapshot_data_are_all_supported(newest):
    """What is left: login, logout, quote request, top orders, workup, the TCP snapshot and collateral."""
    assert set(newest.messages) - set(SUPPORTED) == {15, 16, 39, 59, 60, 61, 62}


def test_old_and_new_twins_have_the_same_layout_in_version_9(oracles):
    for old, new in mdp3.TWINS.items():
        older, newer = (schema_fields(oracles[9].messages[template]) for template in (old, new))
        assert list(older) == list(newer)
        for group in older:
            places = [
                {name: (f.offset, f.type.size) for name, f in fields.items()}
                for fields in (older[group], newer[group])
            ]
            assert places[0] == places[1], (old, new, group)


def test_blocks_only_grow_from_version_to_version(oracles):
    versions = sorted(set(oracles) - {7})
    for earlier, later in itertools.pairwise(versions):
        for template in set(SUPPORTED) & set(oracles[earlier].messages) & set(oracles[later].messages):
            before, after = (oracles[version].messages[template] for version in (earlier, later))
            assert before.block_length <= after.block_length
            lengths = {group.name: group.block_length for group in after.groups}
            assert all(group.block_length <= lengths[group.name] for group in before.groups)


@pytest.mark.parametrize(
    ("ours", "theirs", "names"),
    [
        (codes.Side, "AggressorSide", {"NONE": "NoAggressor", "BUY": "Buy", "SELL": "Sell"}),
        (
            codes.Action,
            "MDUpdateAction",
            {
                "NEW": "New",
                "CHANGE": "Change",
                "DELETE": "Delete",
                "DELETE_THRU": "DeleteThru",
                "DELETE_FROM": "DeleteFrom",
                "OVERLAY": "Overlay",
            },
        ),
        (
            codes.EntryType,
            "MDEntryType",
            {
                "BID": "Bid",
                "OFFER": "Offer",
                "TRADE": "Trade",
                "OPEN": "OpenPrice",
                "SETTLEMENT": "SettlementPrice",
                "HIGH_TRADE": "TradingSessionHighPrice",
                "LOW_TRADE": "TradingSessionLowPrice",
                "VWAP": "VWAP",
                "CLEARED_VOLUME": "ClearedVolume",
                "OPEN_INTEREST": "OpenInterest",
                "IMPLIED_BID": "ImpliedBid",
                "IMPLIED_OFFER": "ImpliedOffer",
                "RESET": "BookReset",
                "HIGH_BID": "SessionHighBid",
                "LOW_OFFER": "SessionLowOffer",
                "FIXING": "FixingPrice",
                "VOLUME": "ElectronicVolume",
                "LIMITS": "ThresholdLimitsandPriceBandVariation",
                "MARKET_BEST_OFFER": "MarketBestOffer",
                "MARKET_BEST_BID": "MarketBestBid",
            },
        ),
        (
            codes.TradingStatus,
            "SecurityTradingStatus",
            {
                "HALT": "TradingHalt",
                "CLOSE": "Close",
                "NEW_PRICE_INDICATION": "NewPriceIndication",
                "READY": "ReadyToTrade",
                "NOT_AVAILABLE": "NotAvailableForTrading",
                "UNKNOWN": "UnknownorInvalid",
                "PRE_OPEN": "PreOpen",
                "PRE_CROSS": "PreCross",
                "CROSS": "Cross",
                "POST_CLOSE": "PostClose",
                "NO_CHANGE": "NoChange",
                "PRIVATE_WORKUP": "PrivateWorkup",
                "PUBLIC_WORKUP": "PublicWorkup",
            },
        ),
    ],
)
def test_our_codes_are_the_schema_s(newest, ours, theirs, names):
    values = {name: ord(v) if isinstance(v, str) else v for name, v in newest.enums[theirs].items()}
    assert set(names.values()) == set(values)
    assert {m.name: int(m) for m in ours if m.name != "RESET" or ours is codes.EntryType} == {
        name: values[theirs_] for name, theirs_ in names.items()
    }


def test_an_order_s_action_agrees_with_a_level_s(newest):
    assert newest.enums["OrderUpdateAction"] == {
        "New": codes.Action.NEW,
        "Update": codes.Action.CHANGE,
        "Delete": codes.Action.DELETE,
    }


def test_event_flags_are_the_schema_s_bits(newest):
    names = {
        "LastTradeMsg": codes.EventFlag.LAST_TRADE,
        "LastVolumeMsg": codes.EventFlag.LAST_VOLUME,
        "LastQuoteMsg": codes.EventFlag.LAST_QUOTE,
        "LastStatsMsg": codes.EventFlag.LAST_STATISTICS,
        "LastImpliedMsg": codes.EventFlag.LAST_IMPLIED,
        "RecoveryMsg": codes.EventFlag.RECOVERY,
        "Reserved": codes.EventFlag.RESERVED,
        "EndOfEvent": codes.EventFlag.END,
    }
    assert {name: 1 << bit for name, bit in newest.sets["MatchEventIndicator"].items()} == names


def test_a_second_copy_of_version_13_says_the_same(data_folder, newest):
    """Two collectors' copies of CME's file, formatted differently."""
    other = Oracle(data_folder / "cme-mdp3/schema/mahifx_templates_FixBinary.xml")
    assert other.messages == newest.messages
    assert (other.enums, other.sets) == (newest.enums, newest.sets)

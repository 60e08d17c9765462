"""CME MDP 3.0: templates, block layouts, nulls.

Field names and offsets follow CME's SBE template schema, versions 5 to 13 (schema id 1). Block lengths
here are those of version 13, which the encoder writes; a reader takes every length from the wire. From
version to version a block only grows at its end, so these offsets serve all of them. Templates below 46
are the older twins: the same layout, prices in 1e-7 instead of 1e-9.
"""

from typing import Final

import numpy as np

SCHEMA_ID: Final = 1
VERSION: Final = 13
MESSAGE_HEADER_BYTES: Final = 10  # MsgSize, blockLength, templateId, schemaId, version: u16 each
GROUP_BYTES: Final = 3  # groupSize: blockLength u16 @0, numInGroup u8 @2
LONG_GROUP_BYTES: Final = 8  # groupSize8Byte: blockLength u16 @0, numInGroup u8 @7

NULL_I64: Final = 2**63 - 1
NULL_I32: Final = 2**31 - 1
NULL_I8: Final = 127
NULL_U64: Final = 2**64 - 1
NULL_U32: Final = 2**32 - 1
NULL_U16: Final = 2**16 - 1
NULL_U8: Final = 255

CHANNEL_RESET: Final = 4
HEARTBEAT: Final = 12
STATUS: Final = 30
VOLUME: Final = 37
BOOK: Final = 46
ORDER_BOOK: Final = 47
TRADE: Final = 48
DAILY_STATISTICS: Final = 49
LIMITS: Final = 50
SESSION_STATISTICS: Final = 51
SNAPSHOT: Final = 52
SNAPSHOT_ORDERS: Final = 53
DEFINITION_FUTURE: Final = 54
DEFINITION_OPTION: Final = 55
DEFINITION_SPREAD: Final = 56
DEFINITION_FIXED_INCOME: Final = 57
DEFINITION_REPO: Final = 58
DEFINITION_FX: Final = 63
BOOK_LONG: Final = 64
TRADE_LONG: Final = 65
VOLUME_LONG: Final = 66
SESSION_STATISTICS_LONG: Final = 67
SNAPSHOT_TCP_LONG: Final = 68
SNAPSHOT_LONG: Final = 69

TWINS: Final = {
    32: BOOK,
    33: DAILY_STATISTICS,
    34: LIMITS,
    35: SESSION_STATISTICS,
    38: SNAPSHOT,
    42: TRADE,
    43: ORDER_BOOK,
    44: SNAPSHOT_ORDERS,
    27: DEFINITION_FUTURE,
    41: DEFINITION_OPTION,
    29: DEFINITION_SPREAD,
}
"""Older template -> the newer one of the same layout, whose prices are 100 times finer."""

LAST_COARSE_TEMPLATE: Final = 44
"""Templates up to this one carry prices in 1e-7, later ones in 1e-9: a constant of the template, never of
the schema version (version 9 carries both)."""


def _block(size: int, /, **fields: tuple[str, int]) -> np.dtype:
    """A block of ``size`` bytes; each field is (NumPy format, offset)."""
    return np.dtype(
        {
            "names": list(fields),
            "formats": [format_ for format_, _ in fields.values()],
            "offsets": [offset for _, offset in fields.values()],
            "itemsize": size,
        }
    )


_REFRESH = _block(11, transact_time=("<u8", 0), event_flags=("u1", 8))
_SNAPSHOT = _block(
    59,
    last_seq=("<u4", 0),
    reports=("<u4", 4),
    instrument_id=("<i4", 8),
    rpt_seq=("<u4", 12),
    transact_time=("<u8", 16),
    last_update_time=("<u8", 24),
    trade_date=("<u2", 32),
    trading_status=("u1", 34),
    high=("<i8", 35),
    low=("<i8", 43),
    max_variation=("<i8", 51),
)
_DEFINITION_HEAD = {
    "event_flags": ("u1", 0),
    "reports": ("<u4", 1),
    "update_action": ("u1", 5),
    "last_update_time": ("<u8", 6),
    "trading_status": ("u1", 14),
    "appl_id": ("<i2", 15),
    "market_segment": ("u1", 17),
    "underlying_product": ("u1", 18),
    "exchange": ("S4", 19),
    "security_group": ("S6", 23),
    "asset": ("S6", 29),
    "symbol": ("S20", 35),
    "instrument_id": ("<i4", 55),
    "security_type": ("S6", 59),
    "cfi": ("S6", 65),
}


def _maturity(at: int) -> dict[str, tuple[str, int]]:
    return {
        "maturity_year": ("<u2", at),
        "maturity_month": ("u1", at + 2),
        "maturity_day": ("u1", at + 3),
        "maturity_week": ("u1", at + 4),
    }


ROOT: Final[dict[int, np.dtype]] = {
    CHANNEL_RESET: _block(9, transact_time=("<u8", 0), event_flags=("u1", 8)),
    HEARTBEAT: _block(0),
    STATUS: _block(
        30,
        transact_time=("<u8", 0),
        security_group=("S6", 8),
        asset=("S6", 14),
        instrument_id=("<i4", 20),
        trade_date=("<u2", 24),
        event_flags=("u1", 26),
        trading_status=("u1", 27),
        halt_reason=("u1", 28),
        trading_event=("u1", 29),
    ),
    **dict.fromkeys(
        (
            *(VOLUME, BOOK, ORDER_BOOK, TRADE, DAILY_STATISTICS, LIMITS, SESSION_STATISTICS),
            *(BOOK_LONG, TRADE_LONG, VOLUME_LONG, SESSION_STATISTICS_LONG),
        ),
        _REFRESH,
    ),
    SNAPSHOT: _SNAPSHOT,
    SNAPSHOT_LONG: _SNAPSHOT,
    SNAPSHOT_TCP_LONG: _block(
        37,
        transact_time=("<u8", 0),
        event_flags=("u1", 8),
        instrument_id=("<i4", 9),
        high=("<i8", 13),
        low=("<i8", 21),
        max_variation=("<i8", 29),
    ),
    SNAPSHOT_ORDERS: _block(
        28,
        last_seq=("<u4", 0),
        reports=("<u4", 4),
        instrument_id=("<i4", 8),
        chunks=("<u4", 12),
        chunk=("<u4", 16),
        transact_time=("<u8", 20),
    ),
}
"""Root block of each template."""

DEFINITION: Final[dict[int, np.dtype]] = {
    DEFINITION_FUTURE: _block(
        224,
        **_DEFINITION_HEAD,
        **_maturity(71),
        currency=("S3", 76),
        settl_currency=("S3", 79),
        match_algorithm=("S1", 82),
        min_size=("<u4", 83),
        max_size=("<u4", 87),
        tick=("<i8", 91),
        display_factor=("<i8", 99),
        main_fraction=("u1", 107),
        sub_fraction=("u1", 108),
        price_display_format=("u1", 109),
        unit=("S30", 110),
        unit_quantity=("<i8", 140),
        reference_price=("<i8", 148),
        settl_price_type=("u1", 156),
        open_interest=("<i4", 157),
        cleared_volume=("<i4", 161),
        high_limit=("<i8", 165),
        low_limit=("<i8", 173),
        max_variation=("<i8", 181),
        decay_quantity=("<i4", 189),
        decay_start=("<u2", 193),
        original_contract_size=("<i4", 195),
        contract_multiplier=("<i4", 199),
        contract_multiplier_unit=("i1", 203),
        flow_schedule=("i1", 204),
        tick_value=("<i8", 205),
        user_defined=("S1", 213),
        reference_date=("<u2", 214),
        guid=("<u8", 216),
    ),
    DEFINITION_OPTION: _block(
        221,
        **_DEFINITION_HEAD,
        put_or_call=("u1", 71),
        **_maturity(72),
        currency=("S3", 77),
        strike=("<i8", 80),
        strike_currency=("S3", 88),
        settl_currency=("S3", 91),
        min_cab_price=("<i8", 94),
        match_algorithm=("S1", 102),
        min_size=("<u4", 103),
        max_size=("<u4", 107),
        tick=("<i8", 111),
        tick_value=("<i8", 119),
        display_factor=("<i8", 127),
        tick_rule=("i1", 135),
        main_fraction=("u1", 136),
        sub_fraction=("u1", 137),
        price_display_format=("u1", 138),
        unit=("S30", 139),
        unit_quantity=("<i8", 169),
        reference_price=("<i8", 177),
        settl_price_type=("u1", 185),
        cleared_volume=("<i4", 186),
        open_interest=("<i4", 190),
        low_limit=("<i8", 194),
        high_limit=("<i8", 202),
        user_defined=("S1", 210),
        reference_date=("<u2", 211),
        guid=("<u8", 213),
    ),
    DEFINITION_SPREAD: _block(
        255,
        **_DEFINITION_HEAD,
        **_maturity(71),
        currency=("S3", 76),
        security_subtype=("S5", 79),
        user_defined=("S1", 84),
        match_algorithm=("S1", 85),
        min_size=("<u4", 86),
        max_size=("<u4", 90),
        tick=("<i8", 94),
        display_factor=("<i8", 102),
        price_display_format=("u1", 110),
        price_ratio=("<i8", 111),
        tick_rule=("i1", 119),
        unit=("S30", 120),
        reference_price=("<i8", 150),
        settl_price_type=("u1", 158),
        open_interest=("<i4", 159),
        cleared_volume=("<i4", 163),
        high_limit=("<i8", 167),
        low_limit=("<i8", 175),
        max_variation=("<i8", 183),
        main_fraction=("u1", 191),
        sub_fraction=("u1", 192),
        reference_date=("<u2", 193),
        guid=("<u8", 212),
    ),
    DEFINITION_FIXED_INCOME: _block(
        338,
        **_DEFINITION_HEAD,
        currency=("S3", 71),
        settl_currency=("S3", 74),
        match_algorithm=("S1", 77),
        min_size=("<u4", 78),
        max_size=("<u4", 82),
        tick=("<i8", 86),
        display_factor=("<i8", 94),
        main_fraction=("u1", 102),
        sub_fraction=("u1", 103),
        price_display_format=("u1", 104),
        unit=("S30", 105),
        unit_quantity=("<i8", 135),
        reference_price=("<i8", 143),
        reference_date=("<u2", 151),
        high_limit=("<i8", 153),
        low_limit=("<i8", 161),
        max_variation=("<i8", 169),
        tick_value=("<i8", 177),
        guid=("<u8", 330),
    ),
    DEFINITION_REPO: _block(
        276,
        **_DEFINITION_HEAD,
        currency=("S3", 71),
        settl_currency=("S3", 74),
        match_algorithm=("S1", 77),
        min_size=("<u4", 78),
        max_size=("<u4", 82),
        tick=("<i8", 86),
        display_factor=("<i8", 94),
        unit=("S30", 102),
        unit_quantity=("<i8", 132),
        reference_price=("<i8", 140),
        reference_date=("<u2", 148),
        high_limit=("<i8", 150),
        low_limit=("<i8", 158),
        max_variation=("<i8", 166),
        guid=("<u8", 247),
    ),
    DEFINITION_FX: _block(
        337,
        **_DEFINITION_HEAD,
        currency=("S3", 77),  # PriceQuoteCurrency: what a price is counted in
        base_currency=("S3", 71),
        settl_currency=("S3", 74),
        match_algorithm=("S1", 80),
        min_size=("<u4", 81),
        max_size=("<u4", 85),
        tick=("<i8", 89),
        display_factor=("<i8", 97),
        unit=("S30", 106),
        unit_quantity=("<i8", 136),
        high_limit=("<i8", 144),
        low_limit=("<i8", 152),
        max_variation=("<i8", 160),
        guid=("<u8", 288),
        **_maturity(296),
    ),
}
"""Root block of each definition template. Their groups, in order: events, feed types, attributes, lot types,
then (options) underlyings, (spreads) legs."""

EVENT: Final = _block(9, event_type=("u1", 0), event_time=("<u8", 1))  # 5 activation, 7 last eligible date
FEED_TYPE: Final = _block(4, feed_type=("S3", 0), depth=("i1", 3))
ATTRIBUTE: Final = _block(4, value=("<u4", 0))
LEG: Final = _block(
    18,
    instrument_id=("<i4", 0),
    side=("u1", 4),
    ratio=("i1", 5),
    price=("<i8", 6),
    delta=("<i4", 14),
)

_SNAPSHOT_LONG_ENTRY = _block(
    23,
    price=("<i8", 0),
    size=("<u8", 8),
    orders=("<i4", 16),
    level=("u1", 20),
    open_close_flag=("u1", 21),
    entry_type=("u1", 22),
)
ENTRY: Final[dict[int, np.dtype]] = {
    CHANNEL_RESET: _block(2, appl_id=("<i2", 0)),
    VOLUME: _block(16, size=("<i4", 0), instrument_id=("<i4", 4), rpt_seq=("<u4", 8), action=("u1", 12)),
    BOOK: _block(
        32,
        price=("<i8", 0),
        size=("<i4", 8),
        instrument_id=("<i4", 12),
        rpt_seq=("<u4", 16),
        orders=("<i4", 20),
        level=("u1", 24),
        action=("u1", 25),
        entry_type=("u1", 26),
        tradeable_size=("<i4", 27),  # since version 10: padding before
    ),
    ORDER_BOOK: _block(
        40,
        order_id=("<u8", 0),
        priority=("<u8", 8),
        price=("<i8", 16),
        size=("<i4", 24),
        instrument_id=("<i4", 28),
        action=("u1", 32),
        entry_type=("u1", 33),
    ),
    TRADE: _block(
        32,
        price=("<i8", 0),
        size=("<i4", 8),
        instrument_id=("<i4", 12),
        rpt_seq=("<u4", 16),
        orders=("<i4", 20),
        aggressor=("u1", 24),
        action=("u1", 25),
        trade_entry_id=("<u4", 26),  # since version 7: padding before
    ),
    DAILY_STATISTICS: _block(
        32,
        price=("<i8", 0),
        size=("<i4", 8),
        instrument_id=("<i4", 12),
        rpt_seq=("<u4", 16),
        reference_date=("<u2", 20),
        settl_price_type=("u1", 22),
        action=("u1", 23),
        entry_type=("u1", 24),
    ),
    LIMITS: _block(
        32,
        high=("<i8", 0),
        low=("<i8", 8),
        max_variation=("<i8", 16),
        instrument_id=("<i4", 24),
        rpt_seq=("<u4", 28),
    ),
    SESSION_STATISTICS: _block(
        24,
        price=("<i8", 0),
        instrument_id=("<i4", 8),
        rpt_seq=("<u4", 12),
        open_close_flag=("u1", 16),
        action=("u1", 17),
        entry_type=("u1", 18),
        size=("<i4", 19),
    ),
    SNAPSHOT: _block(
        22,
        price=("<i8", 0),
        size=("<i4", 8),
        orders=("<i4", 12),
        level=("i1", 16),
        reference_date=("<u2", 17),
        open_close_flag=("u1", 19),
        settl_price_type=("u1", 20),
        entry_type=("u1", 21),
    ),
    SNAPSHOT_ORDERS: _block(
        29,
        order_id=("<u8", 0),
        priority=("<u8", 8),
        price=("<i8", 16),
        size=("<i4", 24),
        entry_type=("u1", 28),
    ),
    BOOK_LONG: _block(
        32,
        price=("<i8", 0),
        size=("<u8", 8),
        instrument_id=("<i4", 16),
        rpt_seq=("<u4", 20),
        orders=("<i4", 24),
        level=("u1", 28),
        action=("u1", 29),
        entry_type=("u1", 30),
    ),
    TRADE_LONG: _block(
        40,
        price=("<i8", 0),
        size=("<u8", 8),
        instrument_id=("<i4", 16),
        rpt_seq=("<u4", 20),
        orders=("<i4", 24),
        trade_entry_id=("<u4", 28),
        aggressor=("u1", 32),
        action=("u1", 33),
    ),
    VOLUME_LONG: _block(
        24, size=("<u8", 0), instrument_id=("<i4", 8), rpt_seq=("<u4", 12), action=("u1", 16)
    ),
    SESSION_STATISTICS_LONG: _block(
        32,
        price=("<i8", 0),
        size=("<u8", 8),
        instrument_id=("<i4", 16),
        rpt_seq=("<u4", 20),
        open_close_flag=("u1", 24),
        action=("u1", 25),
        entry_type=("u1", 26),
    ),
    SNAPSHOT_TCP_LONG: _SNAPSHOT_LONG_ENTRY,
    SNAPSHOT_LONG: _SNAPSHOT_LONG_ENTRY,
}
"""Entry of each template's first group (short header)."""

BOOK_ORDER: Final = _block(
    24,
    order_id=("<u8", 0),
    priority=("<u8", 8),
    size=("<i4", 16),
    reference=("u1", 20),  # 1-based position of the book entry in the same message; 255 null
    action=("u1", 21),
)
TRADE_ORDER: Final = _block(16, order_id=("<u8", 0), size=("<i4", 8))
ORDERS: Final[dict[int, np.dtype]] = {
    BOOK: BOOK_ORDER,
    BOOK_LONG: BOOK_ORDER,
    TRADE: TRADE_ORDER,
    TRADE_LONG: TRADE_ORDER,
}
"""Entry of the second group (long header), where there is one."""


def offset(block: np.dtype, field: str) -> int:
    """Byte offset of a field in its block."""
    assert block.fields is not None
    return block.fields[field][1]


def read_bytes(block: np.dtype) -> int:
    """How much of a block a reader needs: up to the end of its last field that has no ``since``."""
    assert block.fields is not None
    return max(at + dtype.itemsize for name, (dtype, at, *_) in block.fields.items() if name not in SINCE)


SINCE: Final = {"tradeable_size": 10, "trade_entry_id": 7, "guid": 10, "reference_date": 6}
"""Fields that stood as padding in, or were missing from, blocks before this schema version; the reference
date of definitions only. The size of session statistics (8) is not here: other entries always had one."""

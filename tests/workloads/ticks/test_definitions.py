from dataclasses import fields

import numpy as np
import pyarrow as pa
import pytest

from workloads.ticks.definitions import Definition, Definitions, Leg, MissingDefinitionError, NotionalError
from workloads.ticks.schema import DEFINITIONS

NANO = 1_000_000_000
DAY = 86_400 * NANO
START = 1_767_571_200 * NANO  # 2026-01-05


def row(instrument_id: int, symbol: str, ts_sent: int, **columns) -> dict:
    identity = {"venue": "XCME", "channel": 310, "epoch": 1, "seq": 1, "msg_index": 0, "entry_index": 0}
    return {**identity, "instrument_id": instrument_id, "symbol": symbol, "ts_sent": ts_sent, **columns}


def definitions(*rows: dict) -> Definitions:
    return Definitions(pa.Table.from_pylist(list(rows), schema=DEFINITIONS.arrow))


ES = row(1, "ESH6", START, multiplier=50 * NANO, tick=NANO // 4, currency="USD", update_action=ord("A"))
ES_NEW_TICK = {**ES, "ts_sent": START + DAY, "tick": NANO // 2, "update_action": ord("M")}
NQ = row(2, "NQH6", START, multiplier=20 * NANO, tick=NANO // 4)


def test_the_dataclass_has_the_columns_of_the_table():
    assert [field.name for field in fields(Definition)] == DEFINITIONS.arrow.names


def test_a_definition_is_valid_from_its_sending_until_the_next():
    known = definitions(ES_NEW_TICK, NQ, ES)
    assert known.at(1, START).tick == NANO // 4
    assert known.at(1, START + DAY - 1).tick == NANO // 4
    assert known.at(1, START + DAY).tick == NANO // 2
    assert known.at(1, START + 100 * DAY).tick == NANO // 2


def test_of_two_definitions_of_one_packet_the_later_message_counts():
    known = definitions({**ES, "tick": 7, "msg_index": 1}, ES)
    assert known.at(1, START).tick == 7


def test_a_definition_holds_python_values():
    legs = [{"instrument_id": 1, "side": 1, "ratio": 2, "price": None}]
    found = definitions({**ES, "legs": legs, "expiration": START + DAY, "guid": 2**64 - 2}).at(1, START)
    assert (found.symbol, found.currency, found.ts_sent, found.expiration) == (
        "ESH6",
        "USD",
        START,
        START + DAY,
    )
    assert found.legs == (Leg(1, 1, 2, None),)
    assert found.guid == 2**64 - 2
    assert found.lot_size is None


def test_before_the_first_definition_nothing_is_known():
    with pytest.raises(
        MissingDefinitionError, match=r"instrument 1 was valid at .*known: 1 ESH6 from 2026-01-05"
    ):
        definitions(ES).at(1, START - 1)


def test_an_unknown_instrument_is_told_with_the_known_ones():
    with pytest.raises(MissingDefinitionError, match=r"instrument 9 .*known: 1 ESH6 from .*, 2 NQH6 from "):
        definitions(ES, NQ).at(9, START)
    with pytest.raises(MissingDefinitionError, match="known: none"):
        definitions().at(9, START)


def test_a_deleted_instrument_is_unknown_until_its_id_is_used_again():
    deleted = {**ES, "ts_sent": START + DAY, "update_action": ord("D")}
    reused = row(1, "ESM6", START + 3 * DAY, update_action=ord("A"))
    known = definitions(ES, deleted, reused)
    assert known.at(1, START + DAY - 1).symbol == "ESH6"
    with pytest.raises(MissingDefinitionError, match="ESH6 deleted 2026-01-06"):
        known.at(1, START + 2 * DAY)
    assert known.at(1, START + 3 * DAY).symbol == "ESM6"


def test_a_symbol_finds_the_instrument_that_carried_it_then():
    moved = row(7, "ESH6", START + DAY)
    renamed = row(1, "OLD", START + DAY)
    known = definitions(ES, moved, renamed)
    assert known.by_symbol("ESH6", START).instrument_id == 1
    assert known.by_symbol("ESH6", START + DAY).instrument_id == 7
    assert known.symbols() == ["ESH6", "OLD"]
    with pytest.raises(MissingDefinitionError, match=r"symbol 'NQH6' was valid at .*known: 1 ESH6"):
        known.by_symbol("NQH6", START)


def test_a_column_is_looked_up_row_by_row():
    known = definitions(ES, ES_NEW_TICK, NQ)
    found = known.column("tick", np.array([2, 1, 1, 2]), START + np.array([0, 0, DAY, DAY]))
    assert found.tolist() == [NANO // 4, NANO // 4, NANO // 2, NANO // 4]
    assert known.column("tick", np.zeros(0, np.int32), np.zeros(0, np.int64)).tolist() == []


def test_a_column_agrees_with_one_lookup_after_the_other():
    random = np.random.default_rng(4)
    rows = [
        row(int(i), f"S{i}", START + int(t), multiplier=int(i * 1000 + t))
        for i, t in random.integers(0, 40, (90, 2))
    ]
    known = definitions(*rows, *(row(i, f"S{i}", START - 1, multiplier=i) for i in range(40)))
    ids, ts = random.integers(0, 40, 300), START + random.integers(-1, 50, 300)
    expected = [known.at(int(i), int(t)).multiplier for i, t in zip(ids, ts, strict=True)]
    newest = [
        max(
            (r for r in rows if r["instrument_id"] == i and r["ts_sent"] <= t),
            key=lambda r: r["ts_sent"],
            default=None,
        )
        for i, t in zip(ids, ts, strict=True)
    ]
    assert known.column("multiplier", ids, ts).tolist() == expected
    assert expected == [r["multiplier"] if r else i for r, i in zip(newest, ids, strict=True)]


def test_a_column_with_an_unknown_row_is_refused():
    with pytest.raises(MissingDefinitionError, match=r"instrument 9 .*2 of 3 rows lack one"):
        definitions(ES).column("tick", np.array([1, 9, 9]), np.full(3, START))
    with pytest.raises(MissingDefinitionError, match=r"ESH6 .* gives no lot_size"):
        definitions(ES).column("lot_size", np.array([1]), np.array([START]))
    with pytest.raises(ValueError, match=r"'symbol' is no number of a definition; those are .*multiplier"):
        definitions(ES).column("symbol", np.array([1]), np.array([START]))


def notional(multiplier: int, price: int, size: int) -> int:
    known = definitions({**ES, "multiplier": multiplier})
    one = np.array([1])
    return int(known.notional(one, np.array([price]), np.array([size]), np.array([START]))[0])


@pytest.mark.parametrize(
    ("multiplier", "price", "size"),
    [
        (50 * NANO, 4810_250_000_000, 3),  # 3 ESH4 at 4810.25
        (50 * NANO, 4810_250_000_000, -3),
        (50 * NANO, -37_630_000_000, 10),  # oil, April 2020
        (12_500_000_000, 99_875_000_000, 7),  # 12.5 a point
        (NANO // 1000, 5, 200),
        (123_456_789, 9 * 10**15, 1),  # the product of the three leaves int64, the answer does not
    ],
)
def test_a_notional_is_exact(multiplier: int, price: int, size: int):
    assert notional(multiplier, price, size) * NANO == price * size * multiplier


def test_a_notional_beyond_int64_is_refused_not_wrapped():
    with pytest.raises(NotionalError, match=r"row 0: .* leaves int64"):
        notional(50 * NANO, 4810_250_000_000, 40_000)


def test_a_notional_finer_than_a_billionth_is_refused_not_rounded():
    with pytest.raises(NotionalError, match="no whole number of 1e-9"):
        notional(NANO // 1000, 5, 3)

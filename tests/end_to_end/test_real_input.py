"""`tickworks run --capture` on real market data: what is stored equals what the file says, field by field.

The files are read here with zstandard and NumPy alone. DBN version 1: 4 bytes "DBN" and version, a length,
that much metadata, then records of 56 bytes (databento.com/docs/standards-and-conventions).
"""

import json
from datetime import date

import numpy as np
import pyarrow as pa
import pytest
import zstandard

from tests.end_to_end.conftest import Run
from workloads.ticks.codes import Action, RowFlag, Side

DAY = "databento-es/esh4-glbx-mdp3-20231225.mbo.dbn.zst"
PCAPS = {
    "v5/MdIncrementalRefreshBook.pcap": "mbp",
    "v5/MdIncrementalRefreshTradeSummary.pcap": "trades",
    "v5/MdIncrementalRefreshSessionStatistics.pcap": "statistics",
    "v5/MdIncrementalRefreshVolume.pcap": "statistics",
    "v5/MdInstrumentDefinitionSpread.pcap": "definitions",
    "v8/MdIncrementalRefreshTradeSummary.pcap": "trades",
}
"""Real packet, and the table that it must fill."""
QUICK = {"v5/MdIncrementalRefreshBook.pcap": 207_775, "v8/MdIncrementalRefreshTradeSummary.pcap": 11_260}
"""One of each version, with its first price as sent: ES at 2,077.75 is 207,775 on the wire."""
WITHOUT_A_PRICE = ("v5/MdIncrementalRefreshVolume.pcap", "v5/MdInstrumentDefinitionSpread.pcap")

SNAPSHOT, NANO = 32, 10**9
ROW = np.dtype(
    [
        ("length", "u1"), ("rtype", "u1"), ("publisher", "<u2"), ("instrument_id", "<u4"),
        ("ts_event", "<u8"), ("order_id", "<u8"), ("price", "<i8"), ("size", "<u4"), ("flags", "u1"),
        ("channel", "u1"), ("action", "S1"), ("side", "S1"), ("ts_recv", "<u8"), ("ts_in_delta", "<i4"),
        ("seq", "<u4"),
    ]
)  # fmt: skip


@pytest.fixture(scope="module")
def file_rows(data_folder):
    """Every record of the file, in order."""
    data = zstandard.ZstdDecompressor().stream_reader((data_folder / DAY).open("rb")).read()
    assert data[:4] == b"DBN\x01"
    return np.frombuffer(data, ROW, offset=8 + int.from_bytes(data[4:8], "little"))


@pytest.fixture(scope="module")
def day(shared_tickworks, data_folder) -> Run:
    """The run of the whole day."""
    result = shared_tickworks.run("--capture", data_folder / DAY)
    assert result.returncode == 0, result.stderr
    assert "Complete" in result.stdout
    return shared_tickworks.latest()


def column(table: pa.Table, name: str) -> np.ndarray:
    """A column without nulls; times as ns since the epoch."""
    assert table[name].null_count == 0, name
    values = table[name]
    return (values.cast(pa.int64()) if pa.types.is_timestamp(values.type) else values).to_numpy()


def live(rows: np.ndarray, actions: bytes) -> np.ndarray:
    """Rows of the file behind its snapshot, with one of these actions."""
    return rows[(rows["flags"] & SNAPSHOT == 0) & np.isin(rows["action"], [bytes([a]) for a in actions])]


def sides(rows: np.ndarray) -> np.ndarray:
    """B, A and N as the tables have them."""
    codes = {b"B": Side.BUY, b"A": Side.SELL, b"N": Side.NONE}
    return np.array([codes[side] for side in rows["side"].tolist()])


def sent(rows: np.ndarray) -> np.ndarray:
    """ns: when the venue sent the packet."""
    return rows["ts_recv"].astype(np.int64) - rows["ts_in_delta"]


def test_orders_equal_the_file_in_order_and_in_every_field(day, file_rows):
    expected = live(file_rows, b"AMC")
    mbo = day.table("mbo")
    rows = mbo.filter(pa.array(column(mbo, "row_flags") & RowFlag.RECOVERY == 0))
    assert len(expected) > 50_000
    codes = {b"A": Action.NEW, b"M": Action.CHANGE, b"C": Action.DELETE}
    columns = {
        **{name: expected[name] for name in ("ts_event", "order_id", "price", "size", "seq")},
        "ts_sent": sent(expected),
        "action": np.array([codes[action] for action in expected["action"].tolist()]),
        "side": sides(expected),
        "instrument_id": expected["instrument_id"],
    }
    for name, values in columns.items():
        np.testing.assert_array_equal(column(rows, name), values.astype(np.int64), name)


def test_trades_equal_the_file(day, file_rows):
    expected = live(file_rows, b"T")
    trades = day.table("trades")
    assert len(expected) > 1_000
    for name in ("price", "size", "seq", "ts_event"):
        np.testing.assert_array_equal(column(trades, name), expected[name].astype(np.int64), name)
    np.testing.assert_array_equal(column(trades, "ts_sent"), sent(expected))
    np.testing.assert_array_equal(column(trades, "aggressor"), sides(expected))


def test_fills_equal_the_orders_of_the_trades(day, file_rows):
    """The orders of a trade: its aggressor, unless the file has a fill for that too or there is none (an
    auction), then a fill for each order that it met."""
    expected: list[tuple[int, int, int, int, int]] = []
    rows = live(file_rows, b"TF")
    assert (rows["action"] == b"F").sum() > 6_000
    following = [*rows[1:], None]
    for row, after in zip(rows, following, strict=True):
        facts = int(row["order_id"]), int(row["size"]), int(row["seq"]), int(row["ts_event"])
        if row["action"] == b"T":
            n = 0
        if row["action"] == b"F" or (row["order_id"] and after["order_id"] != row["order_id"]):
            expected.append((*facts, n))
            n += 1
    orders = day.table("trade_orders")
    names = ("order_id", "size", "seq", "ts_event", "n")
    assert list(zip(*(column(orders, name).tolist() for name in names), strict=True)) == expected
    np.testing.assert_array_equal(column(orders, "trade_seq"), column(orders, "seq"))


def test_the_snapshot_in_the_file_becomes_rows_marked_as_recovery(day, file_rows):
    expected = file_rows[(file_rows["flags"] & SNAPSHOT != 0) & (file_rows["action"] == b"A")]
    mbo = day.table("mbo")
    rows = mbo.filter(pa.array(column(mbo, "row_flags") & RowFlag.RECOVERY != 0))
    assert len(expected) > 1_000
    for name in ("ts_event", "order_id", "price", "size"):
        np.testing.assert_array_equal(column(rows, name), expected[name].astype(np.int64), name)
    np.testing.assert_array_equal(column(rows, "side"), sides(expected))
    assert set(column(rows, "action").tolist()) == {Action.NEW}


def test_no_packet_is_missing_though_the_file_skips_numbers(day, file_rows):
    numbers = np.unique(live(file_rows, b"AMCTF")["seq"])
    assert (np.diff(numbers.astype(np.int64)) > 1).any()
    assert day.table("gaps").num_rows == 0
    assert not (column(day.table("mbo"), "row_flags") & (RowFlag.STALE | RowFlag.UNSCALED)).any()


def test_the_book_ends_uncrossed(day, file_rows):
    """The book by hand, from the stored rows: every order that was added and not deleted."""
    mbo = day.table("mbo")
    names = ("order_id", "action", "side", "price", "size")
    book: dict[int, tuple[int, int, int]] = {}
    for order, action, side, price, size in zip(*(column(mbo, name).tolist() for name in names), strict=True):
        if action == Action.DELETE:
            del book[order]
        else:
            book[order] = side, price, size
    bid = max(price for side, price, _ in book.values() if side == Side.BUY)
    ask = min(price for side, price, _ in book.values() if side == Side.SELL)
    assert (bid / NANO, ask / NANO, len(book)) == (4810.00, 4810.25, 11_217)


def test_the_day_lies_under_its_trading_date_with_the_terms_of_the_contract(day, shared_tickworks):
    """Trading of 25 December from 17:00 Chicago on is of the 26th."""
    for table in ("mbo", "trades", "definitions", "packets"):
        assert [p.date for p in day.archive.partitions(table)] == [date(2023, 12, 26)], table
    (definition,) = day.table("definitions").to_pylist()
    facts = {name: definition[name] for name in ("symbol", "tick", "multiplier", "currency", "asset")}
    assert facts == {
        "symbol": "ESH4", "tick": NANO // 4, "multiplier": 50 * NANO, "currency": "USD", "asset": "ES",
    }  # fmt: skip
    shown = shared_tickworks(
        *("ticks", "sql", "--archive", day.folder / "archive", "--json"),
        "SELECT symbol, tick / 1e9 AS tick, multiplier / 1e9 AS multiplier, currency FROM definitions",
    )
    assert json.loads(shown.stdout) == {"symbol": "ESH4", "tick": 0.25, "multiplier": 50.0, "currency": "USD"}


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in PCAPS]
)
def test_a_single_real_packet_is_received_decoded_and_stored(name, tickworks, data_folder):
    """Nothing defined its instruments, so prices stay as sent and say so."""
    result = tickworks.run("--capture", data_folder / "cme-mdp3/pcap" / name)
    assert result.returncode == 0, result.stderr
    run, table = tickworks.latest(), PCAPS[name]
    rows = run.table(table)
    assert rows.num_rows > 0
    assert run.table("gaps").num_rows == 0
    assert run.facts["ingest"]["malformed"] == 0
    assert run.facts["ingest"]["unknown_messages"] == 0
    prices = rows["price"].to_pylist() if "price" in rows.column_names else []
    priced = [f for p, f in zip(prices, rows["row_flags"].to_pylist(), strict=False) if p is not None]
    assert all(flags & RowFlag.UNSCALED for flags in priced)
    assert name not in QUICK or prices[0] == QUICK[name] * NANO
    assert bool(priced) == (name not in WITHOUT_A_PRICE)

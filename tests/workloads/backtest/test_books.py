"""Which books an order may meet: rebuilt where an event ends, trusted where the dataset agrees."""

import datetime

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.workloads.backtest import market
from workloads.backtest.books import GridRows, exchange_books, tops
from workloads.backtest.engine import BacktestError, Books
from workloads.ticks.archive import Archive, Partition, open_archive
from workloads.ticks.codes import EventFlag, RowFlag
from workloads.ticks.order_book import NULL_PRICE
from workloads.ticks.schema import MBO, TRADES

EVER = (0, 2**62)
END = int(EventFlag.END)


def one_day(archive: Archive, partition: Partition = market.PARTITION) -> Books:
    return tops(archive, partition, [1], EVER)[1]


def stored(
    uri: str, rows: dict[str, np.ndarray], partition: Partition = market.PARTITION, **constant: object
):
    archive = open_archive(uri)
    common = {"ts_event": rows["ts_sent"], "ts_recv": rows["ts_sent"]}
    fields = {"venue": "XCME", "channel": 310, "epoch": 2026010400, "msg_index": 0, "priority": 1,
              "row_flags": 0} | constant  # fmt: skip
    fields = {name: value for name, value in fields.items() if name not in rows}
    archive.commit("mbo", partition, {str(rows["seq"][0]): market.table(MBO.arrow, common | rows, **fields)})
    return archive


def test_the_tops_are_the_path_that_the_orders_came_from(tmp_path):
    path = market.path(seconds=30)
    books = one_day(stored(str(tmp_path / "a"), market.mbo_of([path])))
    for column, expected in zip(
        books, (path.ts, path.bid, path.ask, path.bid_size, path.ask_size), strict=True
    ):
        assert np.array_equal(column, expected)


def test_batches_change_nothing(tmp_path, monkeypatch):
    path = market.path(seconds=30)
    archive = stored(str(tmp_path / "a"), market.mbo_of([path]))
    whole = one_day(archive)
    monkeypatch.setattr("workloads.ticks.archive.BATCH_ROWS", 7)
    for column, expected in zip(one_day(archive), whole, strict=True):
        assert np.array_equal(column, expected)


@pytest.mark.parametrize("batch", [1, 2, 1 << 17])
def test_an_end_of_event_that_another_table_marks_counts(tmp_path, monkeypatch, batch):
    """The order rows carry no mark; a trade between the third and the fourth packet does."""
    monkeypatch.setattr("workloads.ticks.archive.BATCH_ROWS", batch)
    path = market.path(seconds=1)
    rows = {name: values[:8] for name, values in market.mbo_of([path]).items()}
    rows["event_flags"] = np.zeros(8, np.uint8)
    archive = stored(str(tmp_path / "a"), rows)
    assert not len(one_day(archive).ts)
    trade = market.table(
        TRADES.arrow, {"seq": np.array([3])}, venue="XCME", channel=310, epoch=2026010400, msg_index=1,
        entry_index=0, event_flags=END,
    )  # fmt: skip
    archive.commit("trades", market.PARTITION, {"a": trade})
    assert one_day(archive).ts.tolist() == [path.ts[2]]


def test_nobody_looks_while_the_venue_refills_a_book(tmp_path):
    rows = market.mbo_of([market.path(seconds=5)])
    rows["row_flags"] = np.where(np.arange(len(rows["seq"])) < 40, int(RowFlag.RECOVERY), 0)
    books = one_day(stored(str(tmp_path / "a"), rows))
    assert books.ts[0] == rows["ts_sent"][41]


def test_a_late_packet_is_left_out(tmp_path):
    path = market.path(seconds=5)
    rows = market.mbo_of([path])
    late = {name: np.append(values, values[10:12]) for name, values in rows.items()}
    late["row_flags"] = np.append(np.zeros(len(rows["seq"])), [int(RowFlag.LATE)] * 2).astype(np.uint8)
    books = one_day(stored(str(tmp_path / "a"), late))
    assert np.array_equal(books.ts, path.ts)


def test_rows_out_of_order_are_refused(tmp_path):
    rows = market.mbo_of([market.path(seconds=5)])
    rows["seq"] = rows["seq"][::-1].copy()
    with pytest.raises(BacktestError, match="not in the order of epoch, seq, msg_index"):
        one_day(stored(str(tmp_path / "a"), rows))


def test_books_start_empty_on_each_date_and_in_each_epoch(tmp_path):
    """The second half tells of the bid's order alone: without the first there is never a second side."""
    rows = market.mbo_of([market.path(seconds=10)])
    half = len(rows["seq"]) // 2 // 2 * 2
    later = {n: v[half::2] for n, v in rows.items()}
    later["event_flags"] = np.full(len(later["seq"]), END, np.uint8)
    first = {n: v[:half] for n, v in rows.items()}
    assert len(one_day(stored(str(tmp_path / "a"), first)).ts) == half // 2
    tuesday = Partition("XCME", datetime.date(2026, 1, 6), 310)
    assert not len(one_day(stored(str(tmp_path / "a"), later, tuesday), tuesday).ts)
    both = {n: np.append(first[n], later[n]) for n in first}
    both["epoch"] = np.repeat([2026010400, 2026010401], [half, len(later["seq"])])
    assert one_day(stored(str(tmp_path / "b"), both)).ts.max() <= first["ts_sent"].max()


def grid(*rows: tuple[int, int, int, int]) -> GridRows:
    """(ts, segment, bid, ask); one lot a side."""
    ts, segment, bid, ask = np.array(rows, np.int64).reshape(-1, 4).T.copy()
    one = np.ones(len(ts), np.int64)
    return GridRows(ts, segment, bid, ask, one, one, one, one)


def rebuilt(*rows: tuple[int, int, int]) -> Books:
    ts, bid, ask = np.array(rows, np.int64).reshape(-1, 3).T.copy()
    return Books(ts, bid, ask, np.full(len(ts), 9), np.full(len(ts), 9))


def test_a_step_whose_end_the_dataset_confirms_is_trusted():
    books, own = exchange_books(
        rebuilt((5, 1, 2), (9, 3, 4), (12, 5, 6)), grid((10, 0, 3, 4), (20, 0, 7, 8)), 10
    )
    assert own == 1
    assert books.ts.tolist() == [5, 9, 20]  # 12 is denied: the dataset's own row stands for that step
    assert books.bid_size.tolist() == [9, 9, 1]


def test_a_step_that_is_not_clean_has_no_books():
    books, _ = exchange_books(rebuilt((5, 1, 2), (15, 3, 4)), grid((10, -1, 1, 2), (20, 0, 3, 4)), 10)
    assert books.ts.tolist() == [15]


def test_behind_a_hole_in_the_grid_only_the_last_step_is_trusted():
    books, _ = exchange_books(
        rebuilt((5, 1, 2), (15, 1, 2), (95, 1, 2)), grid((10, 0, 1, 2), (100, 1, 1, 2)), 10
    )
    assert books.ts.tolist() == [5, 95]


def test_without_rows_or_without_a_second_side_there_is_no_book():
    assert not len(exchange_books(rebuilt((5, 1, 2)), grid(), 10)[0].ts)
    assert not len(exchange_books(rebuilt(), grid((10, 0, 1, NULL_PRICE), (20, 0, 5, 5)), 10)[0].ts)


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 2**32))
def test_books_are_in_order_and_uncrossed_whatever_the_inputs(seed):
    random = np.random.default_rng(seed)
    m, n = random.integers(0, 40, 2)
    ts = np.sort(random.integers(0, 400, m))
    bid = random.integers(1, 4, m)
    rows = np.sort(random.choice(40, n, replace=False)) * 10 if n <= 40 else np.zeros(0, int)
    low = random.integers(1, 4, len(rows))
    segment, high = random.integers(-1, 2, len(rows)), low + random.integers(0, 2, len(rows))
    given_rows = grid(*zip(rows, segment, low, high, strict=True))
    made, _ = exchange_books(Books(ts, bid, bid + 1, bid, bid), given_rows, 10)
    assert (np.diff(made.ts) >= 0).all() and (made.bid < made.ask).all()

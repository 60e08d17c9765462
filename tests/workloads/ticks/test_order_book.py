"""Order books against hand-made cases, a slow oracle, invariances, and a real day of ES."""

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from workloads.errors import WorkloadError
from workloads.ticks.codes import Action, EventFlag, RowFlag, Side
from workloads.ticks.order_book import (
    COUNTERS,
    NULL_INSTRUMENT,
    NULL_PRICE,
    NULL_SIZE,
    OrderBooks,
    event_ends,
)

NEW, CHANGE, DELETE, RESET = Action.NEW, Action.CHANGE, Action.DELETE, Action.RESET
BUY, SELL = Side.BUY, Side.SELL
END = EventFlag.END

TYPES = {
    "instrument_id": np.int32,
    "order_id": np.uint64,
    "price": np.int64,
    "size": np.int64,
    "action": np.uint8,
    "side": np.uint8,
    "priority": np.uint64,
    "event_flags": np.uint8,
    "row_flags": np.uint8,
}


def row(
    action: int, order: int, side: int = BUY, price: int = 100, size: int = 1, **other: int
) -> dict[str, int]:
    """One order row of instrument 7 that ends its event; its order id is its priority, too."""
    defaults = {"instrument_id": 7, "priority": order, "event_flags": END, "row_flags": 0}
    return {
        "order_id": order,
        "price": price,
        "size": size,
        "action": action,
        "side": side,
        **defaults,
        **other,
    }


def columns(*rows: dict[str, int]) -> dict[str, np.ndarray]:
    return {name: np.array([r[name] for r in rows], dtype) for name, dtype in TYPES.items()}


def booked(*rows: dict[str, int], **options: int) -> OrderBooks:
    books = OrderBooks(**options)
    books.apply(columns(*rows))
    return books


def levels(books: OrderBooks, instrument: int = 7, n: int = 1000) -> tuple[list[Any], list[Any]]:
    """(price, size, orders) of each level, bids then offers, best first."""
    d = books.depth(instrument, n)
    bids = list(zip(d.bid_price.tolist(), d.bid_size.tolist(), d.bid_orders.tolist(), strict=True))
    return bids, list(zip(d.ask_price.tolist(), d.ask_size.tolist(), d.ask_orders.tolist(), strict=True))


def counted(books: OrderBooks) -> dict[str, int]:
    """Counters that are not zero, but for rows and ends of events."""
    return {k: v for k, v in books.counters.items() if v and k not in ("rows", "event_ends")}


def same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return a.keys() == b.keys() and all(a[k].dtype == b[k].dtype and np.array_equal(a[k], b[k]) for k in a)


def test_orders_at_one_price_make_one_level_and_the_best_comes_first():
    books = booked(
        row(NEW, 1, BUY, 100, 5), row(NEW, 2, BUY, 99, 1), row(NEW, 3, BUY, 100, 2),
        row(NEW, 4, SELL, 102, 7), row(NEW, 5, SELL, 101, 4),
    )  # fmt: skip
    assert levels(books) == ([(100, 7, 2), (99, 1, 1)], [(101, 4, 1), (102, 7, 1)])
    assert levels(books, n=1) == ([(100, 7, 2)], [(101, 4, 1)])


def test_a_change_moves_the_order_to_its_new_price_size_side_and_priority():
    books = booked(row(NEW, 1, BUY, 100, 5), row(CHANGE, 1, SELL, 103, 2, priority=9))
    assert levels(books) == ([], [(103, 2, 1)])
    assert books.orders(7).to_pylist() == [
        {"order_id": 1, "side": SELL, "price": 103, "size": 2, "priority": 9}
    ]


def test_the_last_order_that_leaves_a_level_takes_it_away():
    books = booked(row(NEW, 1), row(NEW, 2), row(DELETE, 1), row(DELETE, 2, price=NULL_PRICE, side=0))
    assert levels(books) == ([], [])
    assert counted(books) == {"adds": 2, "deletes": 2}
    assert books.live_orders == 0


def test_a_change_of_an_unknown_order_tells_its_whole_state_and_is_counted():
    books = booked(row(CHANGE, 1, SELL, 103, 2))
    assert levels(books) == ([], [(103, 2, 1)])
    assert counted(books) == {"unknown_changes": 1}


def test_a_second_add_of_an_order_replaces_the_first_and_is_counted():
    books = booked(row(NEW, 1, BUY, 100, 5), row(NEW, 1, BUY, 99, 3))
    assert levels(books) == ([(99, 3, 1)], [])
    assert counted(books) == {"adds": 1, "duplicate_adds": 1}


def test_a_delete_of_an_unknown_order_changes_nothing_and_is_counted():
    books = booked(row(NEW, 1), row(DELETE, 2), row(DELETE, 1, instrument_id=8))
    assert levels(books) == ([(100, 1, 1)], [])
    assert counted(books) == {"adds": 1, "unknown_deletes": 2}


def test_rows_resent_in_recovery_are_adds_whatever_their_action_says():
    books = booked(
        row(CHANGE, 1, row_flags=RowFlag.RECOVERY), row(NEW, 2, event_flags=EventFlag.RECOVERY | END),
        row(NEW, 2, size=4, event_flags=EventFlag.RECOVERY | END),
    )  # fmt: skip
    assert levels(books) == ([(100, 5, 2)], [])
    assert counted(books) == {"adds": 2, "changes": 1}


def test_a_change_keeps_what_it_leaves_null():
    books = booked(
        row(NEW, 1, SELL, 100, 5, priority=3), row(CHANGE, 1, 0, NULL_PRICE, 4, priority=2**64 - 1),
        row(CHANGE, 1, 0, 101, NULL_SIZE, priority=8),
    )  # fmt: skip
    assert books.orders(7).to_pylist() == [
        {"order_id": 1, "side": SELL, "price": 101, "size": 4, "priority": 8}
    ]


@pytest.mark.parametrize(
    "wrong",
    [
        row(NEW, 1, price=NULL_PRICE), row(NEW, 1, size=NULL_SIZE), row(NEW, 1, side=0), row(NEW, 1, side=3),
        row(NEW, 1, instrument_id=NULL_INSTRUMENT), row(CHANGE, 1, price=NULL_PRICE), row(Action.OVERLAY, 1),
        row(255, 1),
    ],
)  # fmt: skip
def test_a_row_that_lacks_what_it_needs_is_skipped_and_counted(wrong: dict[str, int]):
    books = booked(wrong)
    assert counted(books) == {"unusable": 1}
    assert books.live_orders == 0


def test_a_reset_empties_its_instrument_only():
    books = booked(row(NEW, 1), row(NEW, 1, SELL, 105, instrument_id=8), row(RESET, 0))
    assert levels(books, 7) == ([], [])
    assert levels(books, 8) == ([], [(105, 1, 1)])
    assert books.instruments().tolist() == [7, 8]


def test_a_reset_without_instrument_empties_every_book():
    books = booked(row(NEW, 1), row(NEW, 1, instrument_id=8), row(RESET, 0, instrument_id=NULL_INSTRUMENT))
    assert books.live_orders == 0
    assert levels(books, 8) == ([], [])


def test_clearing_forgets_orders_and_keeps_counters():
    books = booked(row(NEW, 1), row(NEW, 2, instrument_id=8))
    books.clear_instrument(8)
    assert levels(books, 8) == ([], [])
    assert levels(books, 7) == ([(100, 1, 1)], [])
    books.clear()
    books.clear_instrument(12345)
    assert books.live_orders == 0
    assert books.counters["adds"] == 2
    books.apply(columns(row(NEW, 1)))
    assert counted(books) == {"adds": 3}


def test_orders_queue_by_side_price_and_priority():
    books = booked(
        row(NEW, 1, BUY, 100, priority=9), row(NEW, 2, BUY, 100, priority=4), row(NEW, 3, BUY, 101),
        row(NEW, 4, SELL, 103), row(NEW, 5, SELL, 102, priority=2**63 + 5),
        row(NEW, 6, SELL, 102, priority=2**63),
    )  # fmt: skip
    assert books.orders(7)["order_id"].to_pylist() == [3, 2, 1, 6, 5, 4]
    assert books.orders(8).num_rows == 0


def test_negative_prices_sort_like_others():
    books = booked(row(NEW, 1, BUY, -3), row(NEW, 2, BUY, -5), row(NEW, 3, SELL, -1), row(NEW, 4, SELL, 2))
    assert levels(books) == ([(-3, 1, 1), (-5, 1, 1)], [(-1, 1, 1), (2, 1, 1)])


def test_a_level_below_zero_is_counted():
    assert counted(booked(row(NEW, 1, size=2), row(NEW, 2, size=-5))) == {"adds": 2, "negative_levels": 1}


def test_books_may_cross_within_an_event_and_are_judged_at_its_end():
    within = [row(NEW, 1, BUY, 100), row(NEW, 2, SELL, 99, event_flags=0)]
    assert "crossed_event_ends" not in counted(booked(*within, row(DELETE, 1)))
    assert counted(booked(*within, row(NEW, 3, BUY, 98)))["crossed_event_ends"] == 1


def test_tops_are_taken_at_ends_of_events_for_every_instrument_that_changed():
    books = OrderBooks()
    tops = books.tops(
        columns(
            row(NEW, 1, BUY, 100, 5),
            row(NEW, 2, SELL, 102, 3, instrument_id=8, event_flags=0), row(NEW, 3, BUY, 99, 2, event_flags=0),
            row(DELETE, 77), row(DELETE, 78),
        ),
        levels=1,
    )  # fmt: skip
    assert {name: values.tolist() for name, values in tops.items()} == {
        "row": [0, 3, 3],
        "instrument_id": [7, 8, 7],
        "bid_price": [100, NULL_PRICE, 100],
        "bid_size": [5, 0, 5],
        "ask_price": [NULL_PRICE, 102, NULL_PRICE],
        "ask_size": [0, 3, 0],
        "bid_total": [5, 0, 5],
        "ask_total": [0, 3, 0],
    }


def test_tops_add_up_the_sizes_of_as_many_levels_as_asked():
    rows = columns(row(NEW, 1, BUY, 100, 5), row(NEW, 2, BUY, 99, 2), row(NEW, 3, BUY, 98, 1))
    assert OrderBooks().tops(rows, levels=2)["bid_total"].tolist() == [5, 7, 7]


def test_an_event_may_go_on_in_the_next_batch():
    books = OrderBooks()
    assert len(books.tops(columns(row(NEW, 1, event_flags=0)))["row"]) == 0
    tops = books.tops(columns(row(NEW, 2, instrument_id=8)))
    assert tops["instrument_id"].tolist() == [7, 8]


def test_tops_of_many_instruments_in_one_event_outgrow_the_first_guess():
    one_event = [row(NEW, 1, price=i, instrument_id=i, event_flags=0) for i in range(2000)]
    tops = OrderBooks().tops(columns(*one_event, row(RESET, 0, instrument_id=NULL_INSTRUMENT)))
    assert tops["instrument_id"].tolist() == list(range(2000))
    assert set(tops["bid_price"].tolist()) == {NULL_PRICE}


def test_ends_of_events_may_be_given_and_then_replace_the_flags():
    rows = columns(row(NEW, 1), row(NEW, 2), row(NEW, 3))
    assert OrderBooks().tops(rows, ends=np.array([False, True, False]))["row"].tolist() == [1]


def place(seq: int, message: int, end: bool, epoch: int = 1) -> tuple[int, int, int, int]:
    return epoch, seq, message, END if end else 0


def placed(*places: tuple[int, int, int, int]) -> dict[str, np.ndarray]:
    return dict(
        zip(("epoch", "seq", "msg_index", "event_flags"), np.array(places).reshape(-1, 4).T, strict=True)
    )


def test_an_event_that_ends_in_another_table_ends_on_the_last_order_row_before():
    mbo = placed(
        place(5, 0, False), place(5, 0, False), place(6, 0, False), place(8, 1, True), place(1, 0, False, 2)
    )
    mbp = placed(place(5, 0, True), place(6, 1, False), place(9, 9, False))
    trades = placed(place(7, 0, True), place(1, 3, True, 2))
    assert event_ends(mbo, mbp, trades).tolist() == [False, True, True, True, True]
    assert event_ends(mbo).tolist() == [False, False, False, True, False]


def test_order_rows_out_of_order_are_refused():
    with pytest.raises(ValueError, match="sort them first"):
        event_ends(placed(place(6, 0, False), place(5, 0, True)))


def test_an_arrow_table_with_nulls_and_chunks_is_read_like_arrays():
    table = pa.table(
        {
            "instrument_id": pa.array([7, 7, None], pa.int32()),
            "order_id": pa.array([1, 2, None], pa.uint64()),
            "price": pa.array([100, None, None], pa.int64()),
            "size": pa.array([5, 1, None], pa.int64()),
            "action": pa.array([NEW, NEW, RESET], pa.uint8()),
            "side": pa.array([BUY, BUY, None], pa.uint8()),
            "priority": pa.array([1, None, None], pa.uint64()),
            "event_flags": pa.array([END, END, None], pa.uint8()),
        }
    )
    books = OrderBooks()
    books.apply(pa.concat_tables([table[:1], table[1:2]]))
    assert levels(books) == ([(100, 5, 1)], [])
    assert counted(books) == {"adds": 1, "unusable": 1}
    books.apply(table[2:])
    assert books.live_orders == 0


def test_a_missing_column_is_named():
    with pytest.raises(WorkloadError, match="no column 'size'"):
        OrderBooks().apply({name: v for name, v in columns(row(NEW, 1)).items() if name != "size"})


def test_columns_of_different_length_are_refused():
    with pytest.raises(WorkloadError, match="differ in length"):
        OrderBooks().apply({**columns(row(NEW, 1)), "price": np.zeros(2, np.int64)})


def test_the_callers_arrays_stay_writable_and_unchanged():
    rows = columns(row(NEW, 1))
    OrderBooks().apply(rows)
    assert all(values.flags.writeable for values in rows.values())


def test_a_state_of_another_version_is_refused():
    state = booked(row(NEW, 1)).state()
    with pytest.raises(WorkloadError, match="missing: open_event"):
        OrderBooks.from_state({k: v for k, v in state.items() if k != "open_event"})


# Random streams. Few ids and prices, so that orders meet; small tables, so that they collide and grow.


class Oracle:
    """The same books from dictionaries and sorting."""

    def __init__(self) -> None:
        self.orders: dict[tuple[int, int], tuple[int, int, int, int]] = {}
        self.counters = dict.fromkeys(COUNTERS, 0)
        self.touched: list[int] = []
        self.tops: list[tuple[int, ...]] = []

    def levels(self, instrument: int) -> tuple[list[Any], list[Any]]:
        found: dict[int, dict[int, list[int]]] = {BUY: defaultdict(list), SELL: defaultdict(list)}
        for (i, _), (side, price, size, _priority) in self.orders.items():
            if i == instrument:
                found[side][price].append(size)
        bids, offers = ([(p, sum(s), len(s)) for p, s in sorted(found[side].items())] for side in (BUY, SELL))
        return bids[::-1], offers

    def apply(self, rows: list[dict[str, int]], n: int) -> None:
        for i, r in enumerate(rows):
            key = (r["instrument_id"], r["order_id"])
            kind = "unusable"
            if r["action"] == RESET:
                kind = "resets"
                self.orders = {k: v for k, v in self.orders.items() if k[0] != key[0]}
            elif r["action"] == DELETE:
                kind = "deletes" if self.orders.pop(key, None) else "unknown_deletes"
            else:
                known = {(NEW, False): "adds", (NEW, True): "duplicate_adds", (CHANGE, True): "changes"}
                kind = known.get((r["action"], key in self.orders), "unknown_changes")
                self.orders[key] = (r["side"], r["price"], r["size"], r["priority"])
            self.counters[kind] += 1
            self.counters["rows"] += 1
            if kind != "unknown_deletes" and key[0] not in self.touched:
                self.touched.append(key[0])
            if r["event_flags"] & END:
                self.counters["event_ends"] += 1
                for instrument in self.touched:
                    bids, offers = self.levels(instrument)
                    self.counters["crossed_event_ends"] += bool(
                        bids and offers and bids[0][0] >= offers[0][0]
                    )
                    best = (bids or [(NULL_PRICE, 0)])[0][:2] + (offers or [(NULL_PRICE, 0)])[0][:2]
                    totals = sum(level[1] for level in bids[:n]), sum(level[1] for level in offers[:n])
                    self.tops.append((i, instrument, *best, *totals))
                self.touched = []


ROWS = st.lists(
    st.builds(
        row,
        st.sampled_from([NEW] * 5 + [CHANGE] * 4 + [DELETE] * 4 + [RESET]),
        st.integers(0, 40),
        st.sampled_from([BUY, SELL]),
        st.integers(-6, 6),
        st.integers(0, 9),
        instrument_id=st.integers(0, 3),
        priority=st.integers(0, 3),
        event_flags=st.sampled_from([0, END]),
    ),
    max_size=120,
)


def agree(books: OrderBooks, oracle: Oracle) -> None:
    assert books.counters == oracle.counters
    assert books.live_orders == len(oracle.orders)
    for instrument in range(4):
        assert levels(books, instrument) == oracle.levels(instrument)
        want = [
            {"order_id": order, "side": side, "price": price, "size": size, "priority": priority}
            for (i, order), (side, price, size, priority) in oracle.orders.items()
            if i == instrument
        ]
        want.sort(
            key=lambda o: (
                o["side"],
                o["price"] * (1 if o["side"] == SELL else -1),
                o["priority"],
                o["order_id"],
            )
        )
        assert books.orders(instrument).to_pylist() == want


@settings(deadline=None, max_examples=200)
@given(ROWS, st.integers(1, 4))
def test_books_and_tops_equal_those_of_a_slow_oracle(rows: list[dict[str, int]], n: int):
    books, oracle = OrderBooks(capacity=8), Oracle()
    tops = books.tops(columns(*rows), levels=n)
    oracle.apply(rows, n)
    agree(books, oracle)
    assert list(zip(*(values.tolist() for values in tops.values()), strict=True)) == oracle.tops


@settings(deadline=None, max_examples=100)
@given(ROWS, st.integers(0, 120))
def test_a_state_taken_anywhere_goes_on_as_if_nothing_had_happened(rows: list[dict[str, int]], cut: int):
    straight = OrderBooks()
    straight.apply(columns(*rows))
    first, oracle = booked(*rows[:cut]), Oracle()
    state = first.state()
    restored = OrderBooks.from_state({name: values.copy() for name, values in state.items()})
    assert same(restored.state(), state)
    restored.apply(columns(*rows[cut:]))
    oracle.apply(rows, 1)
    agree(restored, oracle)
    assert same(restored.state(), straight.state())


@settings(deadline=None, max_examples=100)
@given(ROWS, st.permutations([0, 1, 2, 3]))
def test_instruments_may_be_renamed(rows: list[dict[str, int]], names: list[int]):
    renamed = booked(*({**r, "instrument_id": 1000 + names[r["instrument_id"]]} for r in rows))
    books = booked(*rows)
    assert renamed.counters == books.counters
    for instrument in range(4):
        assert levels(renamed, 1000 + names[instrument]) == levels(books, instrument)


@settings(deadline=None, max_examples=100)
@given(ROWS)
def test_how_two_instruments_interleave_makes_no_difference_to_their_books(rows: list[dict[str, int]]):
    by_instrument = sorted(rows, key=lambda r: r["instrument_id"])
    apart, mixed = booked(*by_instrument), booked(*rows)
    apart_orders = {k: v for k, v in apart.state().items() if k not in ("counters", "open_event")}
    assert same(apart_orders, {k: v for k, v in mixed.state().items() if k not in ("counters", "open_event")})


def test_every_table_grows_and_shrinks_without_losing_an_order():
    random = np.random.default_rng(1)
    n = 20_000
    rows = {
        "instrument_id": random.integers(-500, 500, n).astype(np.int32),
        "order_id": random.permutation(n).astype(np.uint64),
        "price": random.integers(-300, 300, n),
        "size": random.integers(1, 9, n),
        "action": np.zeros(n, np.uint8),
        "side": random.integers(1, 3, n).astype(np.uint8),
        "priority": np.arange(n, dtype=np.uint64),
    }
    books = OrderBooks(capacity=1)
    books.apply(rows)
    assert counted(books) == {"adds": n}
    assert len(books.instruments()) == 1000
    for instrument in (3, -4):
        bids = (rows["instrument_id"] == instrument) & (rows["side"] == BUY)
        assert books.depth(instrument, 1000).bid_size.sum() == rows["size"][bids].sum()
    books.apply({**rows, "action": np.full(n, DELETE, np.uint8)})
    assert counted(books) == {"adds": n, "deletes": n}
    assert len(books.state()["order_id"]) == 0
    books.apply(rows)
    assert counted(books) == {"adds": 2 * n, "deletes": n}


def test_levels_are_used_again_after_resets():
    books = booked(row(NEW, 1, BUY, 100, 5), row(NEW, 2, SELL, 101, 6))
    comes_and_goes = [row(NEW, i, price=i, instrument_id=8) for i in range(100)]
    for _ in range(200):  # 20,000 levels, more than the first tables hold
        books.apply(columns(*comes_and_goes, row(RESET, 0, instrument_id=8)))
    books.apply(columns(*comes_and_goes))
    assert levels(books, 7) == ([(100, 5, 1)], [(101, 6, 1)])
    assert levels(books, 8) == ([(99 - i, 1, 1) for i in range(100)], [])


# The real day. Databento's MBO rows, as they come: see docs of the DBN encoding, version 1.

DBN_MBO = np.dtype(
    [
        ("length", "u1"), ("rtype", "u1"), ("publisher", "<u2"), ("instrument", "<u4"), ("ts_event", "<u8"),
        ("order_id", "<u8"), ("price", "<i8"), ("size", "<u4"), ("flags", "u1"), ("channel", "u1"),
        ("action", "S1"), ("side", "S1"), ("ts_recv", "<u8"), ("ts_in_delta", "<i4"), ("sequence", "<u4"),
    ]
)  # fmt: skip


@pytest.fixture(scope="module")
def es_day(data_folder: Path) -> dict[str, np.ndarray]:
    """Adds, cancels and modifies of ESH4, 25 December 2023. Only whole orders are cancelled there."""
    file = data_folder / "databento-es" / "esh4-glbx-mdp3-20231225.mbo.dbn.zst"
    with file.open("rb") as stream:
        raw = zstandard.ZstdDecompressor().stream_reader(stream).read()
    records = np.frombuffer(raw, DBN_MBO, offset=8 + int.from_bytes(raw[4:8], "little"))
    records = records[np.isin(records["action"], [b"A", b"M", b"C"])]
    return {
        "instrument_id": records["instrument"].astype(np.int32),
        "order_id": records["order_id"],
        "price": records["price"],
        "size": records["size"].astype(np.int64),
        "action": np.select([records["action"] == b"A", records["action"] == b"M"], [NEW, CHANGE], DELETE),
        "side": np.where(records["side"] == b"B", BUY, SELL),
        "priority": np.arange(len(records), dtype=np.uint64),
        "event_flags": records["flags"] & 128,
        "ts_event": records["ts_event"],
    }


def test_a_real_day_leaves_the_known_book(es_day: dict[str, np.ndarray]):
    books = OrderBooks()
    books.apply(es_day)
    assert counted(books) == {"adds": 29_216, "changes": 12_233, "deletes": 17_999, "crossed_event_ends": 891}
    assert books.live_orders == 11_217
    depth = books.depth(17077, 1)
    assert (depth.bid_price.tolist(), depth.ask_price.tolist()) == ([4810_000000000], [4810_250000000])


def test_a_real_day_crosses_only_before_the_opening_auction(es_day: dict[str, np.ndarray]):
    tops = OrderBooks().tops(es_day)
    both = (tops["bid_price"] != NULL_PRICE) & (tops["ask_price"] != NULL_PRICE)
    crossed = both & (tops["bid_price"] >= tops["ask_price"])
    opening = np.datetime64("2023-12-25T23:00:00", "ns").astype(np.uint64)
    assert crossed.sum() == 891
    assert es_day["ts_event"][tops["row"][crossed]].max() < opening


def test_a_real_day_in_pieces_equals_the_day_in_one(es_day: dict[str, np.ndarray]):
    whole, pieces = OrderBooks(), OrderBooks(capacity=8)
    whole.apply(es_day)
    for start in range(0, len(es_day["action"]), 997):
        pieces.apply({name: values[start : start + 997] for name, values in es_day.items()})
        if start % (997 * 10) == 0:
            pieces = OrderBooks.from_state(pieces.state())
    assert same(pieces.state(), whole.state())


def test_a_real_day_equals_the_slow_oracle(es_day: dict[str, np.ndarray]):
    books, live = OrderBooks(), {}
    books.apply(es_day)
    names = ("order_id", "action", "side", "price", "size")
    for order, action, side, price, size in zip(*(es_day[name].tolist() for name in names), strict=True):
        if action == DELETE:
            assert live.pop(order)[2] == size  # so a cancel is a delete here, never a part of an order
        else:
            live[order] = (side, price, size)
    want: dict[int, dict[int, int]] = {BUY: defaultdict(int), SELL: defaultdict(int)}
    for side, price, size in live.values():
        want[side][price] += size
    bids, offers = levels(books, 17077, 10_000)
    assert [(p, s) for p, s, _ in bids] == sorted(want[BUY].items(), reverse=True)
    assert [(p, s) for p, s, _ in offers] == sorted(want[SELL].items())

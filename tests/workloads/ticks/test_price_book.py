"""Price-level books against hand-made cases and a slow oracle."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workloads.errors import WorkloadError
from workloads.ticks.codes import Action, EntryType, EventFlag
from workloads.ticks.order_book import NULL_INSTRUMENT, NULL_PRICE, NULL_SIZE
from workloads.ticks.price_book import PRICE_COUNTERS, PriceBooks, rpt_seq_gaps

NEW, CHANGE, DELETE, OVERLAY = Action.NEW, Action.CHANGE, Action.DELETE, Action.OVERLAY
THRU, FROM = Action.DELETE_THRU, Action.DELETE_FROM
BID, OFFER, RESET = EntryType.BID, EntryType.OFFER, EntryType.RESET
END = EventFlag.END

TYPES = {
    "instrument_id": np.int32,
    "price": np.int64,
    "size": np.int64,
    "orders": np.int32,
    "level": np.uint8,
    "action": np.uint8,
    "entry_type": np.uint8,
    "rpt_seq": np.uint32,
    "event_flags": np.uint8,
}


def row(action: int, level: int, price: int = 100, entry_type: int = BID, **other: int) -> dict[str, int]:
    """One level row of instrument 7 that ends its event; unless told, one order of one lot."""
    defaults = {"instrument_id": 7, "size": 1, "orders": 1, "rpt_seq": 0, "event_flags": END}
    return {"action": action, "level": level, "price": price, "entry_type": entry_type, **defaults, **other}


def columns(*rows: dict[str, int]) -> dict[str, np.ndarray]:
    return {name: np.array([r[name] for r in rows], dtype) for name, dtype in TYPES.items()}


def booked(*rows: dict[str, int], depth: int = 3) -> PriceBooks:
    books = PriceBooks(depth)
    books.apply(columns(*rows))
    return books


def prices(books: PriceBooks, instrument: int = 7, *, implied: bool = False) -> tuple[list[int], list[int]]:
    found = books.depth(instrument, 1000, implied=implied)
    return found.bid_price.tolist(), found.ask_price.tolist()


def counted(books: PriceBooks) -> dict[str, int]:
    """Counters that are not zero, but for rows and ends of events."""
    return {k: v for k, v in books.counters.items() if v and k not in ("rows", "event_ends")}


FULL = (row(NEW, 1, 100), row(NEW, 2, 99), row(NEW, 3, 98))


def test_a_new_level_pushes_the_rest_down_and_the_last_one_out():
    assert prices(booked(*FULL, row(NEW, 2, 150))) == ([100, 150, 99], [])


def test_a_delete_moves_up_what_is_below():
    assert prices(booked(*FULL, row(DELETE, 2, 99))) == ([100, 98], [])


def test_a_change_keeps_the_price_and_sets_size_and_orders():
    books = booked(*FULL, row(CHANGE, 2, 99, size=50, orders=4))
    depth = books.depth(7, 2)
    assert depth.bid_size.tolist() == [1, 50]
    assert depth.bid_orders.tolist() == [1, 4]
    assert prices(books) == ([100, 99, 98], [])
    assert counted(books) == {"news": 3, "changes": 1}


def test_an_overlay_sets_a_level_with_its_price():
    books = booked(*FULL, row(OVERLAY, 2, 97, size=8))
    assert prices(books) == ([100, 97, 98], [])
    assert counted(books) == {"news": 3, "overlays": 1}


def test_delete_thru_empties_the_side_whatever_the_level():
    books = booked(*FULL, row(NEW, 1, 101, OFFER), row(THRU, 0, NULL_PRICE))
    assert prices(books) == ([], [101])


def test_delete_from_takes_the_levels_from_the_top_to_its_own():
    assert prices(booked(*FULL, row(FROM, 2, NULL_PRICE))) == ([98], [])
    assert prices(booked(*FULL, row(FROM, 3, NULL_PRICE))) == ([], [])


def test_sides_and_implied_books_are_apart():
    books = booked(
        row(NEW, 1, 100), row(NEW, 1, 101, OFFER),
        row(NEW, 1, 102, EntryType.IMPLIED_BID), row(NEW, 1, 99, EntryType.IMPLIED_OFFER),
    )  # fmt: skip
    assert prices(books) == ([100], [101])
    assert prices(books, implied=True) == ([102], [99])
    assert counted(books) == {"news": 4}  # implied prices don't cross a customer book


@pytest.mark.parametrize("reset", [row(NEW, 0, entry_type=RESET), row(Action.RESET, 0)])
def test_a_reset_empties_all_sides_of_its_instrument_only(reset: dict[str, int]):
    books = booked(
        *FULL, row(NEW, 1, 5, EntryType.IMPLIED_BID), row(NEW, 1, 6, OFFER, instrument_id=8), reset
    )
    assert prices(books) == prices(books, implied=True) == ([], [])
    assert prices(books, 8) == ([], [6])
    assert books.counters["resets"] == 1


def test_a_reset_without_instrument_empties_everything_and_restarts_rpt_seq():
    books = booked(
        row(NEW, 1, rpt_seq=9), row(NEW, 1, instrument_id=8),
        row(NEW, 0, entry_type=RESET, instrument_id=NULL_INSTRUMENT), row(NEW, 1, rpt_seq=1),
    )  # fmt: skip
    assert prices(books, 8) == ([], [])
    assert counted(books) == {"news": 3, "resets": 1}


def test_clearing_one_instrument_leaves_the_others():
    books = booked(*FULL, row(NEW, 1, instrument_id=8))
    books.clear_instrument(7)
    books.clear_instrument(12345)
    assert (prices(books), prices(books, 8)) == (([], []), ([100], []))
    assert books.instruments().tolist() == [7, 8]
    books.clear()
    assert prices(books, 8) == ([], [])


@pytest.mark.parametrize(
    "wrong",
    [
        row(NEW, 0), row(NEW, 4), row(CHANGE, 1, NULL_PRICE), row(OVERLAY, 1, size=NULL_SIZE), row(7, 1),
        row(NEW, 1, entry_type=ord("2")), row(NEW, 1, instrument_id=NULL_INSTRUMENT), row(FROM, 9),
    ],
)  # fmt: skip
def test_a_row_that_no_book_can_take_is_skipped_and_counted(wrong: dict[str, int]):
    books = booked(*FULL, wrong)
    assert counted(books) == {"news": 3, "unusable": 1}
    assert prices(books) == ([100, 99, 98], [])


@pytest.mark.parametrize(
    ("rows", "counter"),
    [
        ([row(NEW, 2)], "holes"),
        ([row(CHANGE, 1)], "unknown_changes"),
        ([row(DELETE, 1)], "unknown_deletes"),
        ([row(NEW, 1, 100), row(CHANGE, 1, 101)], "mismatched_prices"),
        ([row(NEW, 1, 100), row(DELETE, 1, 101)], "mismatched_prices"),
        ([row(NEW, 1, rpt_seq=4), row(NEW, 1, rpt_seq=4)], "rpt_seq_repeats"),
        ([row(NEW, 1, rpt_seq=4), row(NEW, 1, rpt_seq=3)], "rpt_seq_repeats"),
        ([row(NEW, 1, 100), row(NEW, 1, 100, OFFER)], "crossed_event_ends"),
    ],
)
def test_a_row_that_contradicts_the_book_is_obeyed_and_counted(rows: list[dict[str, int]], counter: str):
    books = booked(*rows)
    assert books.counters[counter] == 1
    assert books.counters["unusable"] == 0


def test_update_numbers_may_skip_because_other_tables_share_them():
    books = booked(row(NEW, 1, rpt_seq=4), row(CHANGE, 1, rpt_seq=9), row(NEW, 1, rpt_seq=2, instrument_id=8))
    assert books.counters["rpt_seq_repeats"] == 0


def test_books_may_cross_within_an_event():
    books = booked(row(NEW, 1, 100), row(NEW, 1, 99, OFFER, event_flags=0), row(DELETE, 1, 100))
    assert books.counters["crossed_event_ends"] == 0


def test_levels_that_a_loss_left_empty_are_skipped():
    assert prices(booked(row(NEW, 1, 100), row(NEW, 3, 98))) == ([100, 98], [])


def test_gaps_and_repeats_of_update_numbers_are_found_by_instrument():
    instrument = np.array([1, 2, 1, 2, 1, 1, 2, 2], np.int32)
    numbers = np.array([7, 1, 8, 4, 8, 9, 0, 3], np.uint32)
    found = rpt_seq_gaps(instrument, numbers)
    assert found.gap_rows.tolist() == [3]
    assert found.missing.tolist() == [2]
    assert found.repeat_rows.tolist() == [4, 7]


@given(st.lists(st.tuples(st.integers(0, 2), st.booleans()), max_size=60))
def test_the_rows_after_lost_updates_are_exactly_the_gaps(updates: list[tuple[int, bool]]):
    number, arrived, want, lost, seen = {}, [], [], dict.fromkeys(range(3), 0), set()
    for instrument, arrives in updates:
        number[instrument] = number.get(instrument, 0) + 1
        if not arrives:
            lost[instrument] += 1
            continue
        if lost[instrument] and instrument in seen:
            want.append((len(arrived), lost[instrument]))
        lost[instrument] = 0
        seen.add(instrument)
        arrived.append((instrument, number[instrument]))
    ids, numbers = np.array(arrived, np.int64).reshape(-1, 2).T
    found = rpt_seq_gaps(ids.astype(np.int32), numbers.astype(np.uint32))
    assert list(zip(found.gap_rows.tolist(), found.missing.tolist(), strict=True)) == want
    assert len(found.repeat_rows) == 0


@pytest.mark.parametrize("depth", [0, 256])
def test_a_depth_that_a_level_number_cannot_hold_is_refused(depth: int):
    with pytest.raises(ValueError, match="choose 1 to 255"):
        PriceBooks(depth)


def test_columns_of_different_length_are_refused():
    with pytest.raises(WorkloadError, match="differ in length"):
        PriceBooks().apply({**columns(row(NEW, 1)), "price": np.zeros(2, np.int64)})


def test_a_state_of_another_version_is_refused():
    with pytest.raises(WorkloadError, match="missing: counters, instruments"):
        PriceBooks.from_state({})


SIDES = (BID, OFFER, EntryType.IMPLIED_BID, EntryType.IMPLIED_OFFER)
DEPTH = 4
ROWS = st.lists(
    st.builds(
        row,
        st.sampled_from([NEW] * 6 + [CHANGE] * 3 + [DELETE] * 2 + [OVERLAY, THRU, FROM]),
        st.integers(1, DEPTH),
        st.integers(-9, 9),
        st.sampled_from([*SIDES] * 4 + [RESET]),
        size=st.integers(0, 9),
        instrument_id=st.integers(0, 2),
        event_flags=st.sampled_from([0, END]),
    ),
    max_size=80,
)


def slowly(rows: list[dict[str, int]]) -> dict[tuple[int, int], list[Any]]:
    """The same books with Python lists: None is an empty level."""
    books = {(i, side): [None] * DEPTH for i in range(3) for side in SIDES}
    for r in rows:
        if r["entry_type"] == RESET:
            books.update({(r["instrument_id"], side): [None] * DEPTH for side in SIDES})
            continue
        book, at = books[r["instrument_id"], r["entry_type"]], r["level"] - 1
        level = (r["price"], r["size"], r["orders"])
        if r["action"] == NEW:
            book.insert(at, level)
        elif r["action"] in (CHANGE, OVERLAY):
            book[at] = level
        elif r["action"] == DELETE:
            del book[at]
        else:
            del book[: DEPTH if r["action"] == THRU else at + 1]
        book[:] = (book + [None] * DEPTH)[:DEPTH]
    return books


def agree(books: PriceBooks, rows: list[dict[str, int]]) -> None:
    for (instrument, side), want in slowly(rows).items():
        d = books.depth(instrument, DEPTH, implied=side in SIDES[2:])
        bid = side in (SIDES[0], SIDES[2])
        found = (d.bid_price, d.bid_size, d.bid_orders) if bid else (d.ask_price, d.ask_size, d.ask_orders)
        assert list(zip(*(values.tolist() for values in found), strict=True)) == [x for x in want if x]


@settings(deadline=None)
@given(ROWS)
def test_books_equal_those_of_a_slow_oracle(rows: list[dict[str, int]]):
    books = booked(*rows, depth=DEPTH)
    agree(books, rows)
    kinds = PRICE_COUNTERS[1 : PRICE_COUNTERS.index("unusable") + 1]
    assert books.counters["rows"] == sum(books.counters[kind] for kind in kinds) == len(rows)
    assert books.counters["unusable"] == 0


@settings(deadline=None)
@given(ROWS, st.integers(0, 80))
def test_a_state_taken_anywhere_goes_on_as_if_nothing_had_happened(rows: list[dict[str, int]], cut: int):
    state = booked(*rows[:cut], depth=DEPTH).state()
    restored = PriceBooks.from_state({name: values.copy() for name, values in state.items()})
    restored.apply(columns(*rows[cut:]))
    agree(restored, rows)
    straight, resumed = booked(*rows, depth=DEPTH).state(), restored.state()
    assert straight.keys() == resumed.keys()
    assert all(np.array_equal(straight[name], resumed[name]) for name in straight)


def test_many_instruments_are_kept_apart():
    ids = np.random.default_rng(1).permutation(5000)
    books = PriceBooks(2)
    for part in np.split(ids, 5):
        books.apply(columns(*(row(NEW, 1, price=int(i), instrument_id=int(i)) for i in part)))
    assert [books.depth(i, 1).bid_price.tolist() for i in range(5000)] == [[i] for i in range(5000)]

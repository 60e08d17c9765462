"""Each rule by hand and against plain Python; then what holds for all: nothing vanishes or looks ahead."""

import random
from datetime import date
from itertools import pairwise

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from tests.workloads.features.sessions import CHANNEL, VENUE, archive_of, ns, read, rows, session_of
from tests.workloads.ingest.streams import SUNDAY as OPEN
from workloads.exchange.captures import open_capture
from workloads.exchange.packets import Packets
from workloads.exchange.simulator import Block, SimulatorConfig
from workloads.features.cleaning import RULES, Cleaner, Counts, Flags, Rules, book_rules, flagged_table
from workloads.features.mending import mending
from workloads.ticks.codes import Action, CleaningRule, RowFlag
from workloads.ticks.order_book import NULL_PRICE, OrderBooks
from workloads.ticks.partitions import Partition
from workloads.ticks.schema import TABLES

DAY = date(2026, 1, 5)
PARTITION = Partition(VENUE, DAY, CHANNEL)
ES, CL, UNDEFINED = 5602, 70_431, 999
TICK, SECOND = 250, 10**9
NEW, CHANGE, DELETE, RESET = Action.NEW, Action.CHANGE, Action.DELETE, Action.RESET
CLOSE = OPEN + 23 * 3600 * 10**9
NOW = OPEN + 1_000
SOURCES = ("mbo", "trades")
REFERENCE = ("limits", "status", "definitions", "gaps", "packets", "snapshots")
READY, PRE_OPEN, HALT, NO_CHANGE = 17, 21, 2, 103

DEFINED = rows(
    "definitions",
    {"instrument_id": ES, "tick": TICK, "asset": "ES", "security_group": "ES"},
    {"instrument_id": CL, "tick": TICK, "asset": "CL", "security_group": "CL", "high_limit": 9_000},
    {"instrument_id": UNDEFINED, "asset": "XX", "security_group": "XX"},
    ts_sent=OPEN - 10**9,
)


def cleaner(rules=None, *, definitions=DEFINED, limits=None, status=None, mend=None, day=DAY):
    nothing = {name: rows(name) for name in ("limits", "status", "gaps")}
    return Cleaner(
        rules or Rules(),
        VENUE,
        day,
        definitions,
        limits or nothing["limits"],
        status or nothing["status"],
        mend or mending(PARTITION, nothing["gaps"], nothing["status"], list, list),
    )


def order(seq, action=NEW, *, order_id=None, price=5_000, instrument=ES, ts=None, **more):
    fields = {"seq": seq, "action": action, "order_id": seq if order_id is None else order_id, "side": 1}
    sent = NOW + seq if ts is None else ts
    return {**fields, "price": price, "instrument_id": instrument, "ts_sent": sent, "size": 1, **more}


def names(flags: Flags) -> list[str]:
    """The rules of each row, as words."""
    return [" ".join(name for i, name in enumerate(RULES) if bits >> i & 1) for bits in flags.rules.tolist()]


def mbo_flags(*given, **keywords):
    return names(cleaner(**keywords).mbo(rows("mbo", *given)))


def test_a_row_that_no_rule_touches_stays():
    flags = cleaner().mbo(rows("mbo", order(1), order(2, CHANGE, order_id=1), order(3, DELETE, order_id=1)))
    assert names(flags) == ["", "", ""]
    assert not flags.excluded.any()


def test_a_row_that_came_before_is_a_duplicate_and_left_out():
    made = cleaner()
    first = rows("mbo", order(1), order(1, order_id=7, msg_index=1), order(2), order(1, msg_index=1))
    assert names(made.mbo(first)) == ["", "", "", "duplicate"]
    again = made.mbo(rows("mbo", order(2), order(3)))
    assert names(again) == ["duplicate", ""]
    assert again.excluded.tolist() == [True, False]


def test_the_addition_of_a_live_order_is_a_duplicate_that_the_book_takes():
    made = cleaner()
    flags = made.mbo(rows("mbo", order(1), order(2, order_id=1), order(3, order_id=1, instrument=CL)))
    assert names(flags) == ["", "duplicate", ""]
    assert not flags.excluded.any()
    later = made.mbo(rows("mbo", order(4, DELETE, order_id=1), order(5, order_id=1), order(6, order_id=1)))
    assert names(later) == ["", "", "duplicate"]


def test_orders_of_an_emptied_book_may_be_added_again():
    given = order(1), order(2, RESET, order_id=None, price=None), order(3, order_id=1)
    assert mbo_flags(*given) == ["", "", ""]
    resent = order(1), order(2, order_id=1, row_flags=int(RowFlag.RECOVERY))
    assert mbo_flags(*resent) == ["", ""]
    status = rows("status", {"seq": 2, "ts_sent": NOW + 2, "template": 4})
    reset = mending(PARTITION, rows("gaps"), status, list, list)
    assert mbo_flags(order(1), order(2, order_id=1), mend=reset) == ["", ""]


def test_prices_outside_the_limits_in_force_are_out_of_band():
    limits = rows(
        "limits",
        {"instrument_id": ES, "ts_sent": NOW + 2, "high": 5_500, "low": 4_500},
        {"instrument_id": ES, "ts_sent": NOW + 5, "high": 6_000, "low": None},
    )
    given = [
        order(1, price=5_501), order(2, price=5_501), order(3, price=4_499), order(4, price=4_500),
        order(5, price=5_501), order(6, price=1), order(7, CHANGE, order_id=6, price=6_001),
        order(8, DELETE, order_id=6, price=9_999), order(9, CHANGE, order_id=5, price=None),
    ]  # fmt: skip
    outside = ["", "out_of_band", "out_of_band", "", "", "", "out_of_band", "", ""]
    assert mbo_flags(*given, limits=limits) == outside
    wide = Rules(band_margin_ticks=4)
    assert mbo_flags(*given, limits=limits, rules=wide) == [""] * 9


def test_without_a_limits_message_those_of_the_definition_hold_for_their_instrument():
    assert mbo_flags(order(1, price=9_001, instrument=CL), order(2, price=9_001)) == ["out_of_band", ""]


def test_rows_in_wire_units_or_of_an_instrument_without_tick_are_unscaled():
    early = rows("definitions", {"instrument_id": ES, "tick": TICK, "ts_sent": NOW + 3})
    given = order(1), order(3), order(4, row_flags=int(RowFlag.UNSCALED)), order(5, instrument=UNDEFINED)
    flags = cleaner(definitions=early).mbo(rows("mbo", *given))
    assert names(flags) == ["unscaled", "", "unscaled", "unscaled"]
    assert flags.excluded.tolist() == [True, False, True, True]
    assert mbo_flags(order(1, RESET, instrument=None, price=None)) == [""]


def test_a_definition_that_came_late_counts_for_nothing():
    late = {"tick": TICK, "high_limit": 1, "row_flags": int(RowFlag.LATE)}
    both = rows(
        "definitions", {"instrument_id": ES, "tick": TICK}, {"instrument_id": CL, **late}, ts_sent=OPEN
    )
    given = rows("mbo", order(1), order(2, instrument=CL))
    assert names(cleaner(definitions=both).mbo(given)) == ["", "unscaled"]


def test_outside_the_session_the_market_is_closed_but_books_take_its_orders():
    given = [order(k, ts=ts) for k, ts in enumerate((OPEN - 1, OPEN, CLOSE - 1, CLOSE), 1)]
    made = cleaner()
    flags = made.mbo(rows("mbo", *given))
    assert names(flags) == ["closed", "", "", "closed"]
    assert not flags.excluded.any()
    assert mbo_flags(*given, rules=Rules(session_edge_ns=1)) == ["closed", "closed", "closed", "closed"]
    assert mbo_flags(*given, day=date(2026, 1, 4)) == [""] * 4, "a Sunday has no session, so no hours"


def test_the_market_is_open_only_while_its_status_says_ready():
    status = rows(
        "status",
        {"ts_sent": NOW + 1, "asset": "ES", "security_group": "ES", "trading_status": PRE_OPEN},
        {"ts_sent": NOW + 3, "asset": "ES", "trading_status": READY},
        {"ts_sent": NOW + 5, "instrument_id": ES, "trading_status": HALT},
        {"ts_sent": NOW + 6, "instrument_id": ES, "trading_status": NO_CHANGE},
        {"ts_sent": NOW + 7, "trading_status": READY},
    )
    given = [order(k) for k in range(8)]
    closed = ["", "closed", "closed", "", "", "closed", "closed", ""]
    assert mbo_flags(*given, status=status) == closed
    assert mbo_flags(*(order(k, instrument=CL) for k in range(8)), status=status) == [""] * 8


def test_rows_behind_a_loss_are_stale_and_late_ones_left_out():
    gaps = rows("gaps", {"first_seq": 3, "last_seq": 3, "outcome": "lost"})
    packets = rows("packets", *({"seq": k, "ts_sent": NOW + k} for k in (1, 2, 4, 5)))
    mend = mending(PARTITION, gaps, rows("status"), lambda: [packets], list)
    given = order(1), order(2), order(4), order(3, row_flags=int(RowFlag.LATE)), order(5)
    flags = cleaner(mend=mend).mbo(rows("mbo", *given))
    assert names(flags) == ["", "", "stale", "stale", "stale"]
    assert flags.excluded.tolist() == [False, False, False, True, False]


def test_a_book_is_crossed_locked_or_empty_from_the_end_of_an_event():
    n = NULL_PRICE
    tops = {"bid_price": np.array([9, 10, 11, n, 9, n]), "ask_price": np.array([10, 10, 10, 10, n, n])}
    assert names(Flags(book_rules(tops), np.zeros(6, bool))) == ["", "locked", "crossed"] + ["empty"] * 3


def test_a_stale_book_is_not_judged():
    gaps = rows("gaps", {"first_seq": 2, "last_seq": 2, "outcome": "lost"})
    packets = rows("packets", *({"seq": k, "ts_sent": NOW + k} for k in (1, 3)))
    made = cleaner(mend=mending(PARTITION, gaps, rows("status"), lambda: [packets], list))
    table = rows("mbo", *(order(k, event_flags=128) for k in (1, 3)))
    found = made.books(table, OrderBooks().tops(table))
    assert names(Flags(found, found > 0)) == ["empty", ""]


def trade(seq, price, **more):
    return {"seq": seq, "ts_sent": NOW + seq, "price": price, "instrument_id": ES, "size": 1, **more}


def cleaned_trades(*trades, bid=5_000, ask=5_250, rules=None, **keywords):
    """Flags of trades after packet 1 made this book."""
    made = cleaner(rules, **keywords)
    book = [order(1, price=bid, order_id=1), order(1, price=ask, order_id=2, side=2, event_flags=128)]
    table = rows("mbo", *book)
    made.books(table, OrderBooks().tops(table))
    return made.trades(rows("trades", *trades))


def test_a_trade_far_outside_the_book_before_it_is_an_outlier():
    rules = Rules(outlier_ticks=2)
    inside = trade(2, 4_500), trade(3, 5_750), trade(4, 5_100)
    assert names(cleaned_trades(*inside, rules=rules)) == [""] * 3
    flags = cleaned_trades(trade(2, 4_499), trade(3, 5_751), rules=rules)
    assert names(flags) == ["outlier"] * 2
    assert flags.excluded.all()


def test_without_an_earlier_sound_book_no_trade_is_an_outlier():
    rules = Rules(outlier_ticks=2)
    assert names(cleaned_trades(trade(1, 1), rules=rules)) == [""], "in the book's own packet"
    assert names(cleaned_trades(trade(2, 1, instrument_id=CL), rules=rules)) == [""]
    assert names(cleaned_trades(trade(2, 1), bid=6_000, rules=rules)) == [""], "the book is crossed"


def test_a_grid_time_knows_what_was_sent_before_it():
    status = rows("status", {"ts_sent": NOW, "instrument_id": ES, "trading_status": PRE_OPEN})
    gaps = rows("gaps", {"first_seq": 3, "last_seq": 3, "outcome": "lost"})
    packets = rows("packets", {"seq": 1, "ts_sent": NOW}, {"seq": 4, "ts_sent": NOW + 20})
    mend = mending(PARTITION, gaps, rows("status"), lambda: [packets], list)
    made = cleaner(status=status, mend=mend)
    ts = NOW + np.array([0, 1, 20, 21, 30, 31])
    found = made.grid(np.full(6, ES), ts, step_ns=10)
    assert names(Flags(found, found > 0)) == ["", "closed", "closed"] + ["stale gap closed"] * 2 + [
        "stale closed"
    ]
    assert made.usable(found).tolist() == [True] + [False] * 5
    lenient = cleaner(Rules(unusable_books=("gap",)), status=status, mend=mend)
    assert lenient.usable(found).tolist() == [True, True, True, False, False, True]
    assert names(Flags(made.grid(np.array([UNDEFINED]), ts[:1], 10), ts[:1] > 0)) == ["unscaled"]


@pytest.mark.parametrize(
    "wrong",
    ['{"outlier_ticks": -1}', '{"exclude_mbo": ["crossed"]}', '{"exclude_trades": ["late"]}', '{"ticks": 3}'],
)
def test_rules_refuse_what_they_do_not_know(wrong):
    with pytest.raises(ValidationError):
        TypeAdapter(Rules).validate_json(wrong)
    assert TypeAdapter(Rules).validate_json('{"outlier_ticks": 3}') == Rules(outlier_ticks=3)


# Whole sessions, by chance


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    """Some simulated seconds with losses and late packets, and rows spoiled by hand: tables by name."""
    config = SimulatorConfig(
        seed=8, duration_ns=12 * SECOND, snapshot_interval_ns=2 * SECOND, channel_reset_ns=9 * SECOND
    )
    block, _ = session_of(config)
    archive = archive_of(tmp_path_factory.mktemp("spoiled"), block, lost={300, 301, 420}, late={350})
    tables = {name: read(archive, name) for name in (*SOURCES, *REFERENCE)}
    rng = np.random.default_rng(4)
    for name in SOURCES:
        again = np.sort(
            np.append(np.arange(tables[name].num_rows), rng.integers(0, tables[name].num_rows, 9))
        )
        spoiled = tables[name].take(again)
        chance, price = rng.random(len(again)), spoiled["price"].to_numpy().copy()
        price[chance < 0.02] = rng.integers(1, 2**50, (chance < 0.02).sum())
        price[chance > 0.98] += price[chance > 0.98] // 500  # inside the limits, across the book
        at = spoiled.column_names.index("price")
        tables[name] = spoiled.set_column(at, spoiled.schema.field(at), pa.array(price))
    return tables


def cleaned(tables, mbo_cuts=(), trade_cuts=(), rules=None, day=DAY):
    """(flags, flagged, cleaning) of both tables, cleaned in the pieces that these cuts make."""
    mend = mending(
        PARTITION,
        tables["gaps"],
        tables["status"],
        lambda: [tables["packets"]],
        lambda: [tables["snapshots"]],
    )
    reference = (tables[name] for name in ("definitions", "limits", "status"))
    made = Cleaner(rules or Rules(outlier_ticks=2), VENUE, day, *reference, mend)
    books, counts, flagged, every = OrderBooks(), Counts(), [], {"mbo": [], "trades": []}

    def keep(source, piece, flags):
        counts.add(source, piece, flags)
        flagged.append(flagged_table(source, piece, flags))
        every[source].append(flags)

    for piece in pieces(tables["mbo"], mbo_cuts):
        flags = made.mbo(piece)
        merged, origin = mend.merge(piece.filter(pa.array(~flags.excluded)))
        tops = books.tops(merged)
        flags.add(flags.rows(origin[tops["row"]]), made.books(merged, tops))
        keep("mbo", piece, flags)
    for piece in pieces(tables["trades"], trade_cuts):
        keep("trades", piece, made.trades(piece))
    joined = {
        source: (np.concatenate([f.rules for f in parts]), np.concatenate([f.excluded for f in parts]))
        for source, parts in every.items()
    }
    return joined, pa.concat_tables(flagged), counts.table()


def pieces(table, cuts):
    edges = sorted({0, *cuts, table.num_rows})
    return [table.slice(a, b - a) for a, b in pairwise(edges)]


def test_every_rule_has_something_to_do_in_this_session(session):
    joined, _, _ = cleaned(session)
    found = {name for source in joined for name in " ".join(names(Flags(*joined[source]))).split()}
    assert found >= {"stale", "duplicate", "out_of_band", "closed", "outlier", "crossed"}


def test_counts_flagged_rows_and_rows_read_agree(session):
    before = {name: table.to_pydict() for name, table in session.items()}
    joined, flagged, counts = cleaned(session)
    assert flagged.schema.equals(TABLES["flagged"].arrow)
    assert counts.schema.equals(TABLES["cleaning"].arrow)
    flagged, counts = pl.from_arrow(flagged), pl.from_arrow(counts)
    for source in SOURCES:
        touched = flagged.filter(pl.col("source") == source)
        counted = counts.filter(pl.col("source") == source)
        assert sum(counted.filter(pl.col("rule") == "rows")["rows"]) == session[source].num_rows
        left = session[source].filter(pa.array(~joined[source][1])).num_rows
        excluded = touched["excluded"].sum()
        assert left + excluded == session[source].num_rows
        assert sum(counted.filter(pl.col("rule") == "rows")["excluded"]) == excluded
        for bit, name in enumerate(RULES):
            by_row = touched.filter(pl.col("rules") & (1 << bit) != 0)
            by_row = by_row.group_by("instrument_id").agg(pl.len(), pl.col("excluded").sum())
            by_rule = counted.filter(pl.col("rule") == name).select("instrument_id", "rows", "excluded")
            assert sorted(by_row.rows()) == sorted(by_rule.rows())
    assert {name: table.to_pydict() for name, table in session.items()} == before


def test_flagged_rows_keep_their_order_and_identity(session):
    joined, flagged, _ = cleaned(session)
    identity = ["ts_event", "epoch", "seq", "msg_index", "entry_index", "instrument_id"]
    for source in SOURCES:
        there = flagged.filter(pc.equal(flagged["source"].cast(pa.string()), source))
        expected = session[source].filter(pa.array(joined[source][0] != 0))
        assert there.select(identity).to_pydict() == expected.select(identity).to_pydict()


@pytest.mark.parametrize("seed", range(4))
def test_batch_by_batch_is_the_same_as_at_once(session, seed):
    rng = random.Random(seed)
    cuts = [rng.sample(range(session[name].num_rows), 15) for name in SOURCES]
    whole, pieced = cleaned(session), cleaned(session, *cuts)
    for source in SOURCES:
        np.testing.assert_array_equal(whole[0][source], pieced[0][source])
    assert whole[2].to_pydict() == pieced[2].to_pydict()


@pytest.mark.parametrize("seed", range(8))
def test_nothing_that_is_sent_later_changes_what_is_said_of_a_row(session, seed):
    """From a time on everything is another: prices, actions, orders, flags; half of it never comes."""
    rng = np.random.default_rng(seed)
    sent = ns(session["mbo"], "ts_sent")
    cut = int(rng.choice(sent[len(sent) // 10 :]))
    other = {name: changed(table, cut, rng) for name, table in session.items() if name != "gaps"}
    seq = pc.max(other["packets"]["seq"]).as_py()
    other["gaps"] = session["gaps"].filter(pc.less(session["gaps"]["last_seq"], seq))
    then, now = cleaned(session)[0], cleaned(other)[0]
    for source in SOURCES:
        n = int((ns(session[source], "ts_sent") < cut).sum())
        for before, after in zip(then[source], now[source], strict=True):
            np.testing.assert_array_equal(before[ns(session[source], "ts_sent") < cut], after[:n])
    assert any(len(now[source][0]) < len(then[source][0]) for source in now)


def changed(table, cut, rng):
    """The rows that were sent before ``cut``, and behind them some of the others with other values."""
    later = ns(table, "ts_sent") >= cut
    past, future = table.filter(pa.array(~later)), table.filter(pa.array(later))
    future = future.filter(pa.array(rng.random(future.num_rows) < 0.5))
    for name in ("price", "action", "order_id", "high", "low", "trading_status", "size"):
        if name in future.column_names:
            at = future.column_names.index(name)
            values = pa.array(rng.integers(1, 3, future.num_rows)).cast(future.schema.field(at).type)
            future = future.set_column(at, future.schema.field(at), values)
    return pa.concat_tables([past, future])


def test_the_real_day_is_crossed_only_before_its_first_trade(data_folder, tmp_path):
    """ES on 25 December 2023: orders of the pre-open cross in the book until the first match uncrosses it."""
    capture = open_capture(data_folder / "databento-es/esh4-glbx-mdp3-20231225.mbo.dbn.zst")
    packets = Packets.of([block[i] for block in capture.blocks() for i in range(len(block))])
    archive = archive_of(tmp_path, Block(packets, Packets.of([])))
    tables = {name: read(archive, name) for name in (*SOURCES, *REFERENCE)}
    joined, flagged, counts = cleaned(tables, rules=Rules(), day=date(2023, 12, 26))
    found = {(row["source"], row["rule"]): (row["rows"], row["excluded"]) for row in counts.to_pylist()}
    assert found == {
        ("mbo", "rows"): (59_448, 0),
        ("mbo", "crossed"): (891, 0),
        ("mbo", "closed"): (9_649, 0),
        ("trades", "rows"): (2_973, 0),
    }
    crossed = (joined["mbo"][0] & CleaningRule.CROSSED) != 0
    first_trade = ns(tables["trades"], "ts_sent")[0]
    assert (ns(tables["mbo"], "ts_sent")[crossed] <= first_trade).all()
    assert flagged.num_rows == 9_650, "one crossed event ended after the open: the rest was closed, too"


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32))
def test_rules_of_order_rows_equal_plain_python(seed):
    rng = random.Random(seed)
    given = sorted((random_order(rng) for _ in range(rng.randint(1, 60))), key=lambda row: row["seq"])
    limits = [
        {
            "instrument_id": rng.choice((ES, CL)),
            "ts_sent": NOW + rng.randint(0, 20),
            "high": rng.choice((6, None)),
            "low": rng.choice((2, 4, None)),
        }
        for _ in range(rng.randint(0, 5))
    ]
    limits.sort(key=lambda row: row["ts_sent"])
    table = rows("mbo", *given)
    made = cleaner(limits=rows("limits", *limits))
    flags = [made.mbo(piece) for piece in pieces(table, rng.sample(range(len(given)), min(3, len(given))))]
    found = np.concatenate([f.rules for f in flags]).tolist()
    assert found == plain_rules(given, limits)


def random_order(rng):
    seq = rng.randint(1, 20)
    action = rng.choice((NEW, NEW, CHANGE, DELETE, RESET))
    flags = rng.choice((0, 0, 0, 0, RowFlag.RECOVERY, RowFlag.LATE, RowFlag.UNSCALED))
    return order(
        seq,
        action,
        order_id=rng.randint(1, 4),
        price=rng.choice((1, 3, 5, 7, None)),
        instrument=rng.choice((ES, ES, CL, UNDEFINED, None)),
        msg_index=rng.randint(0, 2),
        row_flags=int(flags),
    )


def plain_rules(given, limits):
    """The rules of docs/cleaning.md, row by row."""
    newest, live, out = (0, -1), set(), []
    for row in given:
        rules = CleaningRule(0)
        identity, instrument = (row["seq"], row["msg_index"]), row["instrument_id"]
        late = bool(row["row_flags"] & RowFlag.LATE)
        unscaled = row["action"] != RESET and (
            instrument not in (ES, CL) or bool(row["row_flags"] & RowFlag.UNSCALED)
        )
        repeated = not late and identity <= newest
        outside = False
        if not unscaled and row["action"] in (NEW, CHANGE) and row["price"] is not None:
            force = [x for x in limits if x["instrument_id"] == instrument and x["ts_sent"] <= row["ts_sent"]]
            high, low = (force[-1]["high"], force[-1]["low"]) if force else (9_000, None)
            outside = (high is not None and row["price"] > high) or (low is not None and row["price"] < low)
        rules |= CleaningRule.STALE * late | CleaningRule.DUPLICATE * repeated
        rules |= CleaningRule.UNSCALED * unscaled | CleaningRule.OUT_OF_BAND * outside
        newest = newest if late else max(newest, identity)
        if not (late or repeated or unscaled or outside):
            key = (instrument, row["order_id"])
            if row["action"] == RESET:
                live = {k for k in live if k[0] != instrument and instrument is not None}
            elif row["action"] == DELETE:
                live.discard(key)
            else:
                recovery = row["row_flags"] & RowFlag.RECOVERY
                if key in live and row["action"] == NEW and not recovery:
                    rules |= CleaningRule.DUPLICATE
                live.add(key)
        out.append(int(rules))
    return out

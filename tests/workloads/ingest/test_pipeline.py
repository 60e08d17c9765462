"""From records to tables: whatever the cuts, the rows are those of one decoding of everything."""

import random
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from tests.workloads.ingest.messages import (
    END,
    HEARTBEAT,
    block,
    group,
    message,
    order,
    orders,
    refresh,
    reset,
    trade,
)
from tests.workloads.ingest.streams import MS, SECOND, SUNDAY, Arrival, packet, records
from workloads.exchange import encode, mdp3
from workloads.exchange.decode import Decoder
from workloads.exchange.simulator import Simulator, SimulatorConfig
from workloads.ingest import frames
from workloads.ingest.arbitration import Rules
from workloads.ingest.errors import IngestError, SpoolError
from workloads.ingest.pipeline import Pipeline
from workloads.ticks.archive import open_archive
from workloads.ticks.codes import RowFlag

ONE = 1_000_000_000
A, B, S = frames.FEED_A, frames.FEED_B, frames.FEED_SNAPSHOT
MONDAY_CLOSE = SUNDAY + 23 * 3600 * SECOND
"""2026-01-05 22:00 UTC, 16:00 in Chicago: what comes later belongs to Tuesday."""
ORDER = [(name, "ascending") for name in ("epoch", "seq", "msg_index", "entry_index")]


def pipeline(folder, **keywords):
    archive = open_archive(str(folder / "archive"))
    return archive, Pipeline(archive, "XCME", 310, Rules(first_seq=1), session="s", **keywords)


def ingest(folder, arrivals, cuts=(), segments=()):
    """The archive after these arrivals, pushed in pieces, committed at some places and at the end."""
    archive, p = pipeline(folder)
    edges = sorted({0, *cuts, *segments, len(arrivals)})
    number = 1
    for start, stop in pairwise(edges):
        p.push(records(arrivals[start:stop]))
        if stop in segments and stop < len(arrivals):
            p.close_segment(number)
            number += 1
    p.close_segment(number, final=True)
    return archive


def tables(archive):
    """Every table, sorted; without the counters, which are kept per segment."""
    out = {}
    for name in archive.tables():
        rows = archive.read(name)
        if name == "feeds":
            continue
        keys = [*(name for name, _ in ORDER), "first_seq", "outcome"]
        out[name] = sorted(rows.to_pylist(), key=lambda row: [row[key] for key in keys if key in row])
    return out


def rows(archive, table, *columns):
    """Rows in order of identity; one column as a plain list."""
    found = archive.read(table).sort_by([key for key in ORDER if key[0] in archive.read(table).schema.names])
    if len(columns) == 1:
        return found[columns[0]].to_pylist()
    return [tuple(row[c] for c in columns) for row in found.to_pylist()]


def on_a(*bodies, ts=SUNDAY, first=1, step=MS):
    """Packets of feed A, one for each body, ``step`` apart."""
    return [
        Arrival(A, packet(first + i, ts + i * step, body), ts + i * step + 5) for i, body in enumerate(bodies)
    ]


def definition(instrument, factor, **fields):
    fields = {"tick": 25 * ONE, "symbol": b"ESH6", **fields}
    return encode.definition(54, instrument_id=instrument, display_factor=factor, **fields)


@pytest.fixture(scope="session")
def session():
    """Some simulated trading: incremental packets and snapshots."""
    config = SimulatorConfig(
        seed=11, duration_ns=4 * SECOND, snapshot_interval_ns=2 * SECOND, late_orders_probability=0.3
    )
    (block_,) = Simulator(replace(config, split_probability=0.2)).blocks()
    return block_


def both_feeds(session, lost_on_both=(), lost_on_a=()):
    arrivals = []
    for i in range(len(session.incremental)):
        payload = session.incremental[i]
        ts = int.from_bytes(payload[4:12], "little")
        if i in lost_on_both:
            continue
        if i not in lost_on_a:
            arrivals.append(Arrival(A, payload, ts + 10))
        arrivals.append(Arrival(B, payload, ts + 70_000))
    for i in range(len(session.snapshots)):
        payload = session.snapshots[i]
        arrivals.append(Arrival(S, payload, int.from_bytes(payload[4:12], "little") + 5))
    return sorted(arrivals, key=lambda arrival: arrival.ts_recv)


@pytest.mark.parametrize("seed", range(4))
def test_rows_do_not_depend_on_frames_segments_or_batches(session, tmp_path, monkeypatch, seed):
    rng = random.Random(seed)
    n = len(session.incremental)
    arrivals = both_feeds(session, set(rng.sample(range(n), 8)), set(rng.sample(range(n), 50)))
    whole = tables(ingest(tmp_path / "whole", arrivals))
    assert {"mbo", "mbp", "trades", "trade_orders", "statistics", "snapshots", "definitions", "gaps"} <= set(
        whole
    )
    cuts = rng.sample(range(len(arrivals)), 40)
    segments = rng.sample(range(len(arrivals)), 5)
    monkeypatch.setattr(Pipeline._decode, "__defaults__", (rng.choice((2, 17, 200)),))
    pieces = tables(ingest(tmp_path / "pieces", arrivals, cuts, segments))
    assert pieces.keys() == whole.keys()
    for name in whole:
        assert pieces[name] == whole[name], name


def test_events_and_trades_are_joined_as_by_one_decoding_of_the_whole_session(session, tmp_path):
    arrivals = both_feeds(session)
    segments = range(50, len(arrivals), 50)
    archive = ingest(tmp_path, arrivals, segments=segments)
    decoded = Decoder().decode(session.incremental).tables
    assert len(archive.log("mbo", archive.partitions("mbo")[0])) > 10
    for name in ("mbo", "mbp", "trades", "trade_orders", "statistics", "limits"):
        assert rows(archive, name, "event_flags") == decoded[name]["event_flags"].tolist(), name
    messages, trades, fills = decoded["messages"], decoded["trades"], decoded["trade_orders"]
    owner = trades["message"][fills["trade"]]
    later = messages["packet"][fills["message"]] != messages["packet"][owner]
    assert later.any(), "the session has orders that came in a later packet than their trade"
    assert rows(archive, "trade_orders", "trade_seq", "trade_entry_index", "n", "instrument_id") == list(
        zip(
            session.incremental.seq[messages["packet"][owner]].tolist(),
            trades["entry_index"][fills["trade"]].tolist(),
            fills["n"].tolist(),
            trades["instrument_id"][fills["trade"]].tolist(),
            strict=True,
        )
    )


def test_every_packet_has_its_row_with_both_arrivals(session, tmp_path):
    archive = ingest(tmp_path, both_feeds(session, lost_on_a={3}))
    found = rows(archive, "packets", "seq", "ts_recv_a", "ts_recv_b", "bytes", "messages", "row_flags")
    assert [row[0] for row in found] == session.incremental.seq.tolist()
    assert [row[3] for row in found] == session.incremental.length.tolist()
    assert [row[4] for row in found] == Decoder().decode(session.incremental).packet_messages.tolist()
    assert [i for i, row in enumerate(found) if row[1] is None] == [3]
    assert [i for i, row in enumerate(found) if row[5] & RowFlag.FEED_B] == [3]
    assert all((row[2] - row[1]).value == 69_990 for i, row in enumerate(found) if i != 3)


def test_feed_counters_add_up_over_segments(session, tmp_path):
    arrivals = both_feeds(session, {5, 6}, {9})
    archive = ingest(tmp_path, arrivals, segments=range(100, len(arrivals), 100))
    feeds = archive.read("feeds").to_pylist()
    assert len(feeds) > 6
    total = {f: sum(row["packets"] for row in feeds if row["feed"] == f) for f in "ABS"}
    n = len(session.incremental)
    assert total == {"A": n - 3, "B": n - 2, "S": len(session.snapshots)}
    assert sum(row["first"] for row in feeds if row["feed"] != "S") == n - 2
    assert sum(row["duplicates"] for row in feeds) == n - 3


def test_snapshots_keep_their_own_numbers(session, tmp_path):
    archive = ingest(tmp_path, both_feeds(session))
    decoded = Decoder().decode(session.snapshots).tables["snapshots"]
    found = rows(archive, "snapshots", "seq", "instrument_id", "last_seq", "size", "order_id")
    assert len(found) == len(decoded["message"])
    assert {row[0] for row in found} == set(session.snapshots.seq.tolist())
    assert [row[2] for row in found] == decoded["last_seq"].tolist()
    assert any(row[4] is None for row in found)
    assert any(row[4] is not None for row in found)


def test_an_event_without_rows_at_its_end_is_marked_across_segments(tmp_path):
    first = orders(1, 0, order(7, 1, ONE), order(7, 2, ONE))
    second = orders(2, 0, order(7, 3, ONE))
    end = orders(3, END)
    arrivals = on_a(first, HEARTBEAT, second, end, orders(4, END, order(7, 4, ONE)))
    for k, segments in enumerate(((), (1,), (1, 2, 3, 4))):
        archive = ingest(tmp_path / str(k), arrivals, segments=segments)
        assert rows(archive, "mbo", "order_id", "event_flags") == [(1, 0), (2, 0), (3, END), (4, END)]


def test_no_event_reaches_across_a_loss(tmp_path):
    arrivals = on_a(orders(1, 0, order(7, 1, ONE)), b"", orders(3, END, order(7, 2, ONE)))
    archive = ingest(tmp_path, [arrivals[0], arrivals[2]])
    assert rows(archive, "mbo", "order_id", "event_flags") == [(1, 0), (2, END)]
    assert rows(archive, "mbo", "row_flags") == [RowFlag.UNSCALED, RowFlag.UNSCALED | RowFlag.STALE]


def test_a_copy_that_comes_behind_the_end_of_a_segment_is_known_all_the_same(tmp_path):
    archive, p = pipeline(tmp_path)
    body = orders(1, END, order(7, 1, ONE))
    first = on_a(*[body] * 3, step=100 * MS)
    p.push(records(first))
    p.close_segment(1)
    p.push(records([replace(a, feed=B, ts_recv=a.ts_recv + MS) for a in first[-1:]]))
    p.close_segment(2, final=True)
    assert rows(archive, "packets", "seq", "ts_recv_b")[:2] == [(1, None), (2, None)]
    assert rows(archive, "packets", "ts_recv_b")[2] is not None
    assert rows(archive, "mbo", "seq") == [1, 2, 3]


def test_a_quiet_moment_lets_go_what_waits(tmp_path):
    archive, p = pipeline(tmp_path)
    arrivals = [*on_a(HEARTBEAT), *on_a(HEARTBEAT, first=3, ts=SUNDAY + MS)]
    p.push(records(arrivals))
    p.close_segment(1)
    assert "gaps" not in archive.tables()
    p.push(frames.tick(arrivals[-1].ts_recv + 200 * MS))
    p.close_segment(2)
    assert rows(archive, "packets", "seq") == [1, 3]
    assert [(g["first_seq"], g["reason"]) for g in archive.read("gaps").to_pylist()] == [(2, "timer")]


def test_an_end_that_never_comes_does_not_hold_back_for_ever(tmp_path):
    archive, p = pipeline(tmp_path)
    body = orders(1, 0, order(7, 1, ONE))
    p.push(records(on_a(*[body] * 5_000, step=100_000)))
    assert p.totals.packets > 0
    p.close_segment(1, final=True)
    assert archive.read("packets").num_rows == archive.read("mbo").num_rows == 5_000


def test_trade_orders_find_their_trade_in_an_earlier_segment(tmp_path):
    trades = refresh(48, 1, 0, trade(7, ONE, 5, 2), trade(7, ONE, 3, 1))
    late = [{"order_id": i, "size": i} for i in (31, 32, 33)]
    arrivals = on_a(trades, refresh(48, 2, END, orders=late))
    archive = ingest(tmp_path, arrivals, segments=(1,))
    assert rows(archive, "trade_orders", "order_id", "trade_seq", "trade_entry_index", "n") == [
        *((31, 1, 0, 0), (32, 1, 0, 1)),
        (33, 1, 1, 0),
    ]


def test_orders_of_a_lost_trade_are_kept_as_orphans(tmp_path):
    archive = ingest(tmp_path, on_a(refresh(48, 2, END, orders=[{"order_id": 31, "size": 4}])))
    (row,) = archive.read("trade_orders").to_pylist()
    assert (row["order_id"], row["size"], row["row_flags"]) == (31, 4, RowFlag.ORPHAN)
    assert [row[c] for c in ("instrument_id", "trade_seq", "trade_msg_index", "trade_entry_index", "n")] == [
        None
    ] * 5


def test_the_trading_date_changes_within_a_segment(tmp_path):
    bodies = [orders(1, END, order(7, i, ONE)) for i in range(6)]
    archive = ingest(tmp_path, on_a(*bodies, ts=MONDAY_CLOSE - 3 * MS))
    dates = [p.date.isoformat() for p in archive.partitions("mbo")]
    assert (
        dates == ["2026-01-05", "2026-01-06"] == [p.date.isoformat() for p in archive.partitions("packets")]
    )
    for partition, ids in zip(archive.partitions("mbo"), ([0, 1, 2], [3, 4, 5]), strict=True):
        assert archive.read("mbo", partition)["order_id"].to_pylist() == ids
        (file,) = archive.files("mbo", partition)
        assert file.stem == f"310-2026010400-{ids[0] + 1}-{ids[-1] + 1}"


def test_gaps_go_to_the_date_and_epoch_of_the_packet_behind_them(tmp_path):
    bodies = [orders(1, END, order(7, i, ONE)) for i in range(8)]
    arrivals = on_a(*bodies, ts=MONDAY_CLOSE - 4 * MS)
    archive = ingest(tmp_path, [p for i, p in enumerate(arrivals) if i not in (1, 5)])
    found = {
        p.date.isoformat(): archive.read("gaps", p)["first_seq"].to_pylist()
        for p in archive.partitions("gaps")
    }
    assert found == {"2026-01-05": [2], "2026-01-06": [6]}


def restarted(old, new, pause=3600 * SECOND):
    return [*on_a(*old), *on_a(*new, ts=SUNDAY + pause)]


@pytest.mark.parametrize("segments", [(), (3,), (2, 4)])
def test_a_restart_is_a_new_epoch_of_the_same_week(tmp_path, segments):
    old = [orders(1, END, order(7, i, ONE)) for i in range(3)]
    new = [orders(1, END, order(7, i + 10, ONE)) for i in range(3)]
    archive = ingest(tmp_path, restarted(old, new), segments=segments)
    expected = [(2026010400 + e, s) for e in (0, 1) for s in (1, 2, 3)]
    assert rows(archive, "mbo", "epoch", "seq") == expected
    assert rows(archive, "packets", "epoch", "seq") == expected


def test_the_next_week_has_its_own_epoch(tmp_path):
    old = [orders(1, END, order(7, i, ONE)) for i in range(3)]
    archive = ingest(tmp_path, restarted(old, old, pause=7 * 24 * 3600 * SECOND))
    assert sorted(set(rows(archive, "mbo", "epoch"))) == [2026010400, 2026011100]


def test_a_gap_before_packets_that_still_wait_has_the_new_epoch(tmp_path):
    old = [orders(1, END, order(7, i, ONE)) for i in range(6)]
    new = [orders(1, END), orders(1, 0, order(7, 9, ONE)), orders(2, 0), orders(3, END)]
    arrivals = restarted(old, new)
    del arrivals[6]
    arrivals[7] = replace(arrivals[7], ts_recv=arrivals[7].ts_recv + 30 * MS)
    arrivals[8] = replace(arrivals[8], ts_recv=arrivals[7].ts_recv + 1)
    archive = ingest(tmp_path, arrivals, segments=(8,))
    assert [(g["epoch"], g["first_seq"], g["last_seq"]) for g in archive.read("gaps").to_pylist()] == [
        (2026010401, 1, 1)
    ]


def test_prices_follow_a_definition_that_changes_within_a_batch(tmp_path):
    price = 243_150 * ONE
    archive = ingest(
        tmp_path,
        on_a(
            orders(1, END, order(7, 1, price)),
            definition(7, ONE // 100) + orders(2, END, order(7, 2, price), order(8, 3, price)),
            orders(3, END, order(7, 4, price)),
            definition(7, ONE // 10),
            orders(3, END, order(7, 5, price)),
        ),
    )
    raw = RowFlag.UNSCALED
    assert rows(archive, "mbo", "order_id", "price", "row_flags") == [
        *((1, price, raw), (2, price // 100, 0), (3, price, raw)),
        *((4, price // 100, 0), (5, price // 10, 0)),
    ]


def test_factors_hold_across_segments(tmp_path):
    arrivals = on_a(definition(7, ONE // 100), orders(2, END, order(7, 2, 100 * ONE)))
    archive = ingest(tmp_path, arrivals, segments=(1,))
    assert rows(archive, "mbo", "price", "row_flags") == [(ONE, 0)]


def test_a_price_that_the_factor_does_not_divide_stays_in_wire_units(tmp_path):
    archive = ingest(
        tmp_path, on_a(definition(7, ONE // 100) + orders(1, END, order(7, 1, 101), order(7, 2, 200)))
    )
    assert rows(archive, "mbo", "price", "row_flags") == [(101, RowFlag.UNSCALED), (2, 0)]


def test_rows_are_stale_from_a_loss_until_a_reset(tmp_path):
    bodies = [orders(1, END, order(7, i, ONE)) for i in range(1, 8)]
    bodies[4] = reset(5) + bodies[4]
    arrivals = on_a(*bodies)
    for k, segments in enumerate(((), (1, 2, 3, 4, 5))):
        archive = ingest(tmp_path / str(k), [p for i, p in enumerate(arrivals) if i != 1], segments=segments)
        stale = [flags & RowFlag.STALE for flags in rows(archive, "mbo", "row_flags")]
        assert [bool(s) for s in stale] == [False, True, True, False, False, False]


def test_a_reset_right_behind_a_loss_clears_it(tmp_path):
    bodies = [orders(1, END, order(7, 1, ONE)), b"", reset(3) + orders(1, END, order(7, 3, ONE))]
    arrivals = on_a(*bodies)
    archive = ingest(tmp_path, [arrivals[0], arrivals[2]])
    assert not any(flags & RowFlag.STALE for flags in rows(archive, "mbo", "row_flags"))


@pytest.mark.parametrize("segments", [(), (2,)])
def test_a_new_epoch_clears_staleness_unless_it_begins_with_a_loss(tmp_path, segments):
    old = [orders(1, END, order(7, i, ONE)) for i in range(1, 4)]
    new = [orders(1, END, order(7, i + 10, ONE)) for i in range(3)]
    whole = restarted([old[0], b"", old[2]], new)
    del whole[1]
    clear = rows(ingest(tmp_path / "a", whole, segments=segments), "mbo", "row_flags")
    assert [bool(flags & RowFlag.STALE) for flags in clear] == [False, True, False, False, False]
    del whole[2]
    again = rows(ingest(tmp_path / "b", whole, segments=segments), "mbo", "row_flags")
    assert [bool(flags & RowFlag.STALE) for flags in again] == [False, True, True, True]


def test_books_are_emptied_by_a_reset_without_orders_and_by_a_new_epoch(tmp_path):
    _, p = pipeline(tmp_path)
    old = [orders(1, END, order(7, 1, ONE))]
    for arrivals in (
        on_a(*old),
        on_a(reset(2), first=2, ts=SUNDAY + MS),
        on_a(*old, first=3, ts=SUNDAY + 2 * MS),
    ):
        p.push(records(arrivals))
        p.close_segment(1)
    p.push(records(on_a(*old, ts=SUNDAY + 9 * SECOND)))
    p.close_segment(1, final=True)
    assert (p.books.counters["adds"], p.books.counters["duplicate_adds"]) == (3, 0)


def test_late_packets_are_flagged_and_make_rows(tmp_path):
    arrivals = on_a(*[orders(1, END, order(7, i, ONE)) for i in range(1, 6)])
    late = replace(arrivals[1], feed=B, ts_recv=SUNDAY + 90 * MS)
    on_time = [replace(p, ts_recv=p.ts_recv + 40 * MS * (i > 2)) for i, p in enumerate(arrivals)]
    archive = ingest(tmp_path, [on_time[0], *on_time[2:], late])
    flags = rows(archive, "mbo", "row_flags")
    assert [bool(f & RowFlag.LATE) for f in flags] == [False, True, False, False, False]
    assert sorted(g["outcome"] for g in archive.read("gaps").to_pylist()) == ["late", "lost"]


def test_a_second_spool_with_the_same_packets_is_refused_before_any_row(tmp_path):
    arrivals = on_a(*[orders(1, END, order(7, i, ONE)) for i in range(1, 6)])
    archive = ingest(tmp_path, arrivals)
    before = tables(archive)
    other = Pipeline(archive, "XCME", 310, Rules(first_seq=3), session="another")
    other.push(records(arrivals[2:]))
    with pytest.raises(IngestError, match="already holds packets 1-5 of channel 310, epoch 2026010400"):
        other.close_segment(1, final=True)
    assert tables(archive) == before


def test_another_spool_may_add_other_packets(tmp_path):
    arrivals = on_a(*[orders(1, END, order(7, i, ONE)) for i in range(1, 6)])
    archive = ingest(tmp_path, arrivals[:3])
    other = Pipeline(archive, "XCME", 310, Rules(first_seq=4), session="another")
    other.push(records(arrivals[3:]))
    other.close_segment(1, final=True)
    assert rows(archive, "mbo", "seq") == [1, 2, 3, 4, 5]


def test_packets_claim_their_numbers_before_any_other_table(tmp_path):
    """A spool that died in mid-commit and was thrown away must not leave rows that a second one repeats."""
    _, p = pipeline(tmp_path)
    p.push(records(on_a(definition(7, ONE) + orders(1, END, order(7, 1, ONE)))))
    assert p.close_segment(1, final=True).partitions[0][0] == "packets"


def test_storing_the_same_segment_again_adds_nothing(tmp_path):
    arrivals = on_a(*[orders(1, END, order(7, i, ONE)) for i in range(1, 6)])
    archive = ingest(tmp_path, arrivals)
    before = tables(archive)
    assert tables(ingest(tmp_path, arrivals)) == before
    assert len(archive.log("mbo", archive.partitions("mbo")[0])) == 1


def test_nulls_of_the_wire_are_nulls_in_the_tables(tmp_path):
    null = mdp3.NULL_I64
    statistic = {"instrument_id": 7, "price": null, "size": mdp3.NULL_I32, "reference_date": mdp3.NULL_U16,
                 "settl_price_type": mdp3.NULL_U8, "entry_type": 66, "rpt_seq": mdp3.NULL_U32}  # fmt: skip
    level = {
        "instrument_id": 7,
        "price": null,
        "size": mdp3.NULL_I32,
        "orders": mdp3.NULL_I32,
        "entry_type": 74,
    }
    limit = {"instrument_id": 7, "high": null, "low": null, "max_variation": null}
    bare = {"instrument_id": 7, "price": null, "size": 1, "orders": 0, "aggressor": 255}
    archive = ingest(
        tmp_path,
        on_a(
            refresh(49, 1, END, statistic),
            refresh(46, 1, END, level),
            refresh(50, 1, END, limit),
            refresh(48, 1, END, bare),
            orders(1, END, order(7, 1, null, size=mdp3.NULL_I32)),
        ),
    )

    def one(table, *names):
        (row,) = archive.read(table).to_pylist()
        return [row[name] for name in names]

    assert one("statistics", "price", "size", "reference_date", "settl_price_type", "rpt_seq") == [None] * 5
    assert one("mbp", "price", "size", "orders") == [None] * 3
    assert one("limits", "high", "low", "max_variation") == [None] * 3
    assert one("trades", "price", "aggressor") == [None] * 2
    assert one("mbo", "price", "size", "row_flags") == [None, None, 0]


def test_unknown_and_malformed_messages_are_counted_and_their_neighbours_kept(tmp_path):
    good = orders(1, END, order(7, 1, ONE))
    unknown, strange = message(250, bytes(8)), message(47, bytes(11), schema=2)
    short = message(47, bytes(3))
    arrivals = [
        *on_a(unknown + good, short + good),
        *(replace(p, feed=B) for p in on_a(good + strange, good + b"\x05\0", first=3, ts=SUNDAY + MS)),
        Arrival(S, packet(1, SUNDAY + 5 * MS, unknown + b"\x01"), SUNDAY + 5 * MS),
    ]
    archive = ingest(tmp_path, arrivals)
    assert rows(archive, "mbo", "seq", "msg_index") == [(1, 1), (2, 1), (3, 0), (4, 0)]
    feeds = {
        row["feed"]: (row["malformed"], row["unknown_messages"]) for row in archive.read("feeds").to_pylist()
    }
    assert feeds == {"A": (1, 1), "B": (2, 0), "S": (1, 1)}


def test_garbage_in_packets_never_stops_the_ingest(tmp_path):
    rng = random.Random(9)
    templates = [*mdp3.ROOT, *mdp3.DEFINITION, *mdp3.TWINS]
    bodies = []
    for _ in range(600):
        template = rng.choice(templates)
        kind = mdp3.TWINS.get(template, template)
        size = {**mdp3.ROOT, **mdp3.DEFINITION}[kind].itemsize
        extreme = rng.choice((b"\x00", b"\xff", b"\x7f", b"\x80"))
        root = extreme * size if rng.random() < 0.3 else rng.randbytes(size)
        tail = b"".join(
            group(np.dtype(f"V{n}"), *({} for _ in range(rng.randint(0, 3))))
            for n in rng.choices((9, 4, 4, 5, 18), k=5)
        )
        filler = bytes(
            rng.choice((0, 0x7F, 0x80, 0xFF)) if b == 0 and rng.random() < 0.5 else b for b in tail
        )
        bodies.append(
            message(
                template, root, rng.choice((tail, filler, rng.randbytes(60))), version=rng.choice((5, 9, 13))
            )
        )
    archive = ingest(tmp_path, on_a(*bodies, step=1000))
    assert archive.read("packets").num_rows == 600
    assert archive.read("definitions").num_rows > 50


def test_definitions_with_values_that_no_venue_sends_are_kept_with_nulls(tmp_path):
    legs, never = ((7, 1, -3), (8, 2, 2)), 2**64 - 1
    spread = encode.definition(
        56, instrument_id=9, display_factor=ONE, expiration=never, activation=SUNDAY, legs=legs
    )
    archive = ingest(tmp_path, on_a(spread))
    (row,) = archive.read("definitions").to_pylist()
    assert (row["expiration"], row["activation"].value) == (None, SUNDAY)
    assert [leg["ratio"] for leg in row["legs"]] == [-3, 2]


def test_a_state_taken_between_segments_continues_exactly(session, tmp_path):
    arrivals = both_feeds(session, {5, 6}, {9})
    whole = tables(ingest(tmp_path / "whole", arrivals, segments=range(100, len(arrivals), 100)))
    archive, p = pipeline(tmp_path / "resumed")
    for number, start in enumerate(range(0, len(arrivals), 100)):
        p.push(records(arrivals[start : start + 100]))
        p.close_segment(number, final=start + 100 >= len(arrivals))
        p.save(tmp_path / "state.npz")
        p = Pipeline(archive, "XCME", 310, session="unused")
        p.restore(tmp_path / "state.npz")
    assert tables(archive) == whole
    assert len(list(tmp_path.glob("*.part"))) == 0


def test_a_state_that_cannot_be_read_is_one_sentence(tmp_path):
    _, p = pipeline(tmp_path)
    path = tmp_path / "state.npz"
    for content in (b"", b"PK\x03\x04 torn", b"\x93NUMPY"):
        path.write_bytes(content)
        with pytest.raises(SpoolError, match="cannot read the ingest state"):
            p.restore(path)
    np.savez(path, other=np.zeros(1))
    with pytest.raises(SpoolError, match="cannot read the ingest state"):
        p.restore(path)


def test_snapshots_alone_are_stored(tmp_path):
    root = block(mdp3.ROOT[52], last_seq=4, instrument_id=7, reports=1, transact_time=1)
    body = message(52, root, group(mdp3.ENTRY[52], {"price": ONE, "size": 2, "entry_type": 48, "level": 1}))
    archive = ingest(tmp_path, [Arrival(S, packet(1, SUNDAY, body), SUNDAY)])
    assert archive.tables() == ["snapshots", "feeds"]
    assert archive.read("feeds")["packets"].to_pylist() == [0, 0, 1]
    assert rows(archive, "snapshots", "last_seq", "size", "level", "entry_type") == [(4, 2, 1, 48)]


def test_packets_that_are_no_packets_leave_their_count(tmp_path):
    archive, p = pipeline(tmp_path)
    short = [Arrival(A, b"x" * 5, SUNDAY + i * MS) for i in range(3)]
    p.push(records([*short, Arrival(B, packet(0, SUNDAY, HEARTBEAT), SUNDAY + 4 * MS)]))
    p.close_segment(1, final=True)
    assert rows_of_feeds(archive, "malformed") == {"A": 3, "B": 1, "S": 0}
    assert p.totals.malformed == 4
    assert archive.tables() == ["feeds"]


def rows_of_feeds(archive, column):
    return {row["feed"]: row[column] for row in archive.read("feeds").to_pylist()}


def test_a_loss_is_counted_at_once(tmp_path):
    _, p = pipeline(tmp_path)
    p.push(records([*on_a(HEARTBEAT), *on_a(HEARTBEAT, first=5, ts=SUNDAY + MS)]))
    assert p.lost == 0
    p.push(frames.tick(SUNDAY + SECOND))
    assert p.lost == 3
    p.close_segment(1, final=True)
    assert p.lost == 3


def test_a_state_of_another_channel_is_refused(tmp_path):
    _, p = pipeline(tmp_path, owner="local")
    p.save(tmp_path / "state-00000001.npz")
    other = Pipeline(open_archive(str(tmp_path / "archive")), "XCME", 311, owner="local")
    with pytest.raises(SpoolError, match="belongs to local XCME channel 310, not to local XCME channel 311"):
        other.restore(tmp_path / "state-00000001.npz")


def test_new_rules_hold_from_the_next_packet_on(tmp_path):
    _, p = pipeline(tmp_path)
    p.follow_rules(Rules(hold_ns=SECOND, first_seq=99))
    p.push(records([*on_a(HEARTBEAT), *on_a(HEARTBEAT, first=3, ts=SUNDAY + MS)]))
    p.push(frames.tick(SUNDAY + 500 * MS))
    assert p.lost == 0
    p.push(frames.tick(SUNDAY + 2 * SECOND))
    assert p.lost == 1


def test_kernel_drops_stand_beside_the_gap_that_they_made(tmp_path):
    archive, p = pipeline(tmp_path)
    counts = {1: 0, 3: 0, 5: 1}  # 2 was lost on its way, 4 by our kernel, which says so with 5
    arrivals = [
        Arrival(A, packet(seq, SUNDAY + seq * MS, HEARTBEAT), SUNDAY + seq * MS, kernel_drops=drops)
        for seq, drops in counts.items()
    ]
    p.push(records(arrivals))
    p.close_segment(1, final=True)
    found = [
        (g["first_seq"], g["kernel_drops_a"], g["kernel_drops_b"]) for g in archive.read("gaps").to_pylist()
    ]
    assert found == [(2, 0, 0), (4, 1, 0)]

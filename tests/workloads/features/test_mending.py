"""Books after a loss: right again only through a whole snapshot or a reset, and from then on equal to those
of a session that lost nothing."""

import random
from datetime import date
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from tests.workloads.features.sessions import CHANNEL, EPOCH, VENUE, archive_of, ns, read, rows, session_of
from workloads.exchange.simulator import SimulatorConfig
from workloads.features.mending import mending, places_of, read_mending
from workloads.ticks.codes import Action, EntryType, RowFlag
from workloads.ticks.order_book import OrderBooks
from workloads.ticks.partitions import Partition

SECOND = 1_000_000_000
PARTITION = Partition(VENUE, date(2026, 1, 5), CHANNEL)
ES, CL = 5602, 70_431
BID, OFFER = EntryType.BID, EntryType.OFFER


@pytest.fixture(scope="module")
def session():
    """Half a minute with a snapshot loop every two seconds: the packets and the truth."""
    config = SimulatorConfig(seed=5, duration_ns=30 * SECOND, snapshot_interval_ns=2 * SECOND)
    return session_of(config)


@pytest.fixture(scope="module")
def lossless(session, tmp_path_factory):
    """Every order row that was sent."""
    return read(archive_of(tmp_path_factory.mktemp("lossless"), session[0]), "mbo")


def merged(archive, mend):
    """Order rows as the books take them, to the last mending row."""
    found, origin = mend.merge(on_time(read(archive, "mbo")))
    return pa.concat_tables([found, mend.rows.slice((origin < 0).sum())])


def books_of(archive, mend):
    books = OrderBooks()
    books.apply(merged(archive, mend))
    return books


class Replay:
    """Books of the rows up to one that moves on."""

    def __init__(self, table):
        self.table, self.books, self.row = table, OrderBooks(), 0

    def depth(self, row, instrument):
        self.books.apply(self.table.slice(self.row, row - self.row))
        self.row = row
        found = self.books.depth(instrument, 10)
        return [values.tolist() for values in vars(found).values()]


def on_time(table):
    return table.filter(pc.equal(pc.bit_wise_and(table["row_flags"], RowFlag.LATE), 0))


def lost(session, share, seed=1, end=1.0):
    """Positions of packets that never come: not the first few, which hold definitions and the opening."""
    n = len(session[0].incremental)
    return set(random.Random(seed).sample(range(60, round(end * n)), round(share * n)))


@pytest.mark.parametrize(("share", "least"), [(0.002, 0.3), (0.01, 0.05), (0.1, 0.0)])
def test_a_book_that_is_trusted_equals_the_one_of_a_session_without_losses(
    session, lossless, tmp_path, share, least
):
    archive = archive_of(tmp_path, session[0], lost=lost(session, share))
    mend = read_mending(archive, PARTITION)
    packets, rows_known = read(archive, "packets"), merged(archive, mend)
    sent, place = ns(packets, "ts_sent"), places_of(packets)
    known, true = Replay(rows_known), Replay(lossless)
    times = np.sort(np.random.default_rng(3).integers(sent[60], sent[-1] + SECOND, 400))
    newest = place[np.searchsorted(sent, times) - 1]  # packet that anyone had at each time
    known_rows = np.searchsorted(ns(rows_known, "ts_sent"), times)
    true_rows = np.searchsorted(places_of(lossless), newest, side="right")
    ids = np.unique(lossless["instrument_id"].to_numpy())
    trusted = ~np.stack([mend.times_stale(np.full(len(times), i), times) for i in ids])
    for k in np.flatnonzero(trusted.any(axis=0)):
        for i in ids[trusted[:, k]].tolist():
            assert known.depth(known_rows[k], i) == true.depth(true_rows[k], i)
    assert least < trusted.mean() < 1


@pytest.mark.parametrize("seed", range(3))
def test_mended_books_equal_the_exchange_order_by_order(session, tmp_path, seed):
    archive = archive_of(tmp_path, session[0], lost=lost(session, 0.004, seed, end=0.9))
    mend = read_mending(archive, PARTITION)
    books = books_of(archive, mend)
    factors = {
        row["instrument_id"]: row["display_factor"] for row in read(archive, "definitions").to_pylist()
    }
    truth = session[1].book
    for instrument in np.unique(truth["instrument_id"]).tolist():
        assert not mend.times_stale(np.array([instrument]), np.array([2**62]))[0]
        true = truth[truth["instrument_id"] == instrument]
        price = [wire * factors[instrument] // 10**9 for wire in true["price"].tolist()]
        names = ("side", "order_id", "size", "priority")
        found = books.orders(instrument)
        assert found["price"].to_pylist() == price
        assert [found[name].to_pylist() for name in names] == [true[name].tolist() for name in names]
    assert mend.rows.num_rows > 500


def test_without_snapshots_nothing_is_trusted_after_a_loss(session, tmp_path):
    block = session[0]
    archive = archive_of(tmp_path, block, lost={500}, lost_snapshots=range(len(block.snapshots)))
    mend = read_mending(archive, PARTITION)
    after = ns(read(archive, "packets"), "ts_sent")[500]  # of the 502nd packet: one is missing
    assert not mend.times_stale(np.array([ES, CL]), np.array([after, after])).any()
    assert mend.times_stale(np.array([ES, CL]), np.array([after + 1, 2**62])).all()
    assert mend.rows.num_rows == 0


def test_a_late_packet_counts_as_lost_until_a_snapshot_holds_it(session, tmp_path):
    archive = archive_of(tmp_path, session[0], late={500})
    mend = read_mending(archive, PARTITION)
    assert set(read(archive, "gaps")["outcome"].to_pylist()) == {"lost", "late"}
    books = books_of(archive, mend)
    assert mend.losses.last.tolist() == [EPOCH << 32 | 501]
    true = session[1].book
    assert books.orders(ES)["order_id"].to_pylist() == true["order_id"][true["instrument_id"] == ES].tolist()


def test_rows_merged_batch_by_batch_are_those_merged_at_once(session, tmp_path):
    archive = archive_of(tmp_path, session[0], lost=lost(session, 0.004))
    mbo = on_time(read(archive, "mbo"))
    whole, origin = read_mending(archive, PARTITION).merge(mbo)
    assert (origin < 0).sum() > 100
    assert whole.filter(pa.array(origin >= 0)).drop("venue").equals(mbo.drop("venue"))
    assert (np.diff(places_of(whole).astype(np.int64)) >= 0).all()
    assert (np.diff(ns(whole, "ts_sent")) >= 0).all()
    rng = random.Random(2)
    for _ in range(5):
        cuts = [0, *sorted(rng.sample(range(mbo.num_rows), 20)), mbo.num_rows]
        mend = read_mending(archive, PARTITION)
        parts = [mend.merge(mbo.slice(a, b - a))[0] for a, b in pairwise(cuts)]
        assert pa.concat_tables(parts).drop("venue").equals(whole.drop("venue"))


# By hand: packets 1 to 9, sent at 10, 20 ... 90; number 5 is missing.


def packets(*numbers, step=10):
    return rows("packets", *({"seq": n, "ts_sent": n * step} for n in numbers))


def snapshot(instrument, held, *orders, ts, chunk=1, chunks=1, flags=0, template=53):
    """One chunk; orders are (order id, side, price)."""
    given = [
        {"order_id": number, "priority": number, "entry_type": side, "price": price, "size": 1}
        for number, side, price in orders
    ]
    return rows(
        "snapshots",
        *(given or [{"entry_type": 0}]),
        instrument_id=instrument,
        last_seq=held,
        chunk=chunk,
        chunks=chunks,
        ts_sent=ts,
        row_flags=flags,
        template=template,
    )


def mended(*snapshots, gap=(5, 5), there=(1, 2, 3, 4, 6, 7, 8, 9), resets=()):
    gaps = rows("gaps", *([{"first_seq": gap[0], "last_seq": gap[1], "outcome": "lost"}] if gap else []))
    status = rows("status", *({"seq": n, "ts_sent": 10 * n, "template": 4} for n in resets))
    feed = packets(*there)
    return mending(PARTITION, gaps, status, lambda: [feed], lambda: list(snapshots))


def stale(mend, instrument=ES, times=range(10, 120, 10)):
    """At which of the times the instrument's book is in doubt."""
    times = np.array(times)
    found = mend.times_stale(np.full(len(times), instrument, np.int32), times)
    return times[found].tolist()


def test_a_book_is_trusted_once_the_last_chunk_of_its_snapshot_was_sent():
    first = snapshot(ES, 6, (1, BID, 99), ts=71, chunk=1, chunks=2)
    second = snapshot(ES, 6, (2, OFFER, 101), ts=85, chunk=2, chunks=2)
    mend = mended(first, second)
    assert stale(mend, times=[60, 61, 84, 85, 86]) == [61, 84, 85]
    assert stale(mend, CL) == [70, 80, 90, 100, 110]
    assert mend.rows.select(["seq", "action", "side", "order_id"]).to_pylist() == [
        {"seq": 6, "action": Action.RESET, "side": None, "order_id": None},
        {"seq": 6, "action": Action.NEW, "side": 1, "order_id": 1},
        {"seq": 6, "action": Action.NEW, "side": 2, "order_id": 2},
    ]
    assert mend.rows["event_flags"].to_pylist() == [32, 32, 160]
    assert ns(mend.rows, "ts_sent").tolist() == [60, 60, 60]


@pytest.mark.parametrize(
    "useless",
    [
        snapshot(ES, 4, (1, BID, 99), ts=75),
        snapshot(ES, 6, (1, BID, 99), ts=75, chunk=1, chunks=2),
        snapshot(ES, 6, (1, BID, 99), ts=75, chunk=2, chunks=2),
        snapshot(ES, 6, (1, BID, 99), ts=75, flags=RowFlag.UNSCALED),
        snapshot(ES, 6, (1, BID, 99), ts=75, template=52),
        snapshot(CL, 6, (1, BID, 99), ts=75),
        snapshot(ES, 9, (1, BID, 99), ts=75),
    ],
    ids=["older than the loss", "chunk 2 lost", "chunk 1 lost", "wire prices", "of prices",
         "another instrument", "of another epoch: it claims a packet not yet sent"],
)  # fmt: skip
def test_a_snapshot_that_proves_nothing_mends_nothing(useless):
    mend = mended(useless)
    assert stale(mend) == [70, 80, 90, 100, 110]
    later = snapshot(ES, 8, (3, BID, 98), ts=95)
    assert stale(mended(useless, later)) == [70, 80, 90]


def test_one_chunk_in_wire_units_spoils_its_snapshot():
    spoiled = snapshot(ES, 6, (1, BID, 99), ts=71, chunk=1, chunks=2, flags=RowFlag.UNSCALED)
    assert stale(mended(spoiled, snapshot(ES, 6, (2, BID, 98), ts=75, chunk=2, chunks=2))) == [
        70, 80, 90, 100, 110,
    ]  # fmt: skip


def test_rows_are_stale_from_behind_the_loss_until_the_snapshot_was_sent():
    mend = mended(snapshot(ES, 6, (1, BID, 99), ts=80))
    place = np.array([EPOCH << 32 | n for n in (4, 6, 7, 8, 9)], np.uint64)
    sent = np.array([40, 60, 70, 80, 90])
    assert mend.rows_stale(np.full(5, ES), place, sent).tolist() == [False, True, True, False, False]
    assert mend.rows_stale(np.full(5, CL), place, sent).tolist() == [False, True, True, True, True]


def test_a_second_loss_needs_a_snapshot_of_its_own():
    first, second = snapshot(ES, 5, (1, BID, 99), ts=65), snapshot(ES, 8, (1, BID, 99), ts=95)
    gaps = rows("gaps", *({"first_seq": n, "last_seq": n, "outcome": "lost"} for n in (5, 7)))
    feed = packets(1, 2, 3, 4, 6, 8, 9)
    nothing = rows("status")
    mend = mending(PARTITION, gaps, nothing, lambda: [feed], lambda: [first, second])
    assert stale(mend, times=[60, 61, 65, 66, 80, 81, 95, 96]) == [61, 65, 81, 95]
    assert mend.rows["seq"].to_pylist() == [5, 5, 8, 8]


def test_an_empty_snapshot_empties_the_book():
    mend = mended(snapshot(ES, 6, ts=75))
    assert mend.rows["action"].to_pylist() == [Action.RESET]
    assert stale(mend) == [70]


def test_a_loop_that_comes_again_gives_each_order_once_and_the_earlier_trust():
    mend = mended(snapshot(ES, 6, (1, BID, 99), ts=65), snapshot(ES, 6, (1, BID, 99), ts=69))
    assert mend.rows["order_id"].to_pylist() == [None, 1]
    assert stale(mend, times=[65, 66]) == [65]


def test_a_channel_reset_empties_every_book_and_ends_the_doubt():
    mend = mended(snapshot(ES, 8, (1, BID, 99), ts=95), resets=[7])
    assert stale(mend) == stale(mend, CL) == [70]
    assert mend.rows.select(["seq", "instrument_id", "action"]).to_pylist() == [
        {"seq": 7, "instrument_id": None, "action": Action.RESET}
    ]
    order = rows("mbo", *({"seq": n, "ts_sent": 10 * n} for n in (6, 7, 8)))
    assert mend.merge(order)[0]["seq"].to_pylist() == [6, 7, 7, 8]
    assert mend.resets.place.tolist() == [EPOCH << 32 | 7]


def test_a_new_epoch_empties_every_book_and_ends_the_doubt():
    feed = pa.concat_tables(
        [packets(1, 2, 3, 4, 6), rows("packets", {"seq": 1, "ts_sent": 200}, epoch=EPOCH + 1)]
    )
    gaps = rows("gaps", {"first_seq": 5, "last_seq": 5, "outcome": "lost"})
    mend = mending(PARTITION, gaps, rows("status"), lambda: [feed], list)
    assert stale(mend, times=[60, 61, 200, 201]) == [61, 200]
    assert mend.rows.select(["epoch", "seq", "action"]).to_pylist() == [
        {"epoch": EPOCH + 1, "seq": 1, "action": Action.RESET}
    ]


def test_a_partition_that_begins_inside_an_epoch_begins_with_unknown_books():
    there = (4, 5, 6, 7, 8, 9)
    mend = mended(snapshot(ES, 6, (1, BID, 99), ts=65), gap=None, there=there)
    assert stale(mend, times=[40, 41, 65, 66]) == [41, 65]
    assert not mend.gap_known(np.array([30]), np.array([50])).any()
    assert stale(mended(gap=None, there=there, resets=[4]), times=[40, 41]) == []
    assert stale(mended(gap=None)) == []


def test_a_gap_is_known_from_the_first_packet_behind_it():
    mend = mended()
    start = np.array([40, 59, 60, 61])
    assert mend.gap_known(start, start + 2).tolist() == [False, True, True, False]

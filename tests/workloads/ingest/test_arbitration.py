"""The arbiter against slow set logic, over streams that lose, repeat, reorder, stop and restart."""

import random
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.workloads.ingest.streams import (
    MS,
    SECOND,
    SUNDAY,
    Arrival,
    Epoch,
    Feed,
    packet,
    records,
    two_feeds,
)
from workloads.ingest import frames
from workloads.ingest.arbitration import (
    BREAK,
    FROM_B,
    LATE,
    LOSS,
    OUTCOMES,
    REASONS,
    RESTART,
    RING,
    WINDOW,
    Arbiter,
    Rules,
)

A, B, S = frames.FEED_A, frames.FEED_B, frames.FEED_SNAPSHOT


@dataclass
class Truth:
    """What must come out, by set logic: every packet once, in the epoch that is current when it arrives."""

    payload: dict[tuple[int, int], bytes] = field(default_factory=dict)
    first_feed: dict[tuple[int, int], int] = field(default_factory=dict)
    arrived: dict[tuple[int, int, int], int] = field(default_factory=dict)
    first: list[int] = field(default_factory=lambda: [0, 0])
    duplicates: list[int] = field(default_factory=lambda: [0, 0])

    @classmethod
    def of(cls, arrivals):
        truth, epoch = cls(), 0
        for arrival in arrivals:
            key = (arrival.epoch, arrival.seq)
            if arrival.epoch < epoch or key in truth.payload:  # of an epoch that is over, or a copy
                truth.duplicates[arrival.feed] += 1
            else:
                epoch = arrival.epoch
                truth.payload[key] = arrival.payload
                truth.first_feed[key] = arrival.feed
                truth.first[arrival.feed] += 1
            if arrival.epoch == epoch:
                truth.arrived.setdefault((*key, arrival.feed), arrival.ts_recv)
        return truth


def run(arrivals, rules=None, cuts=(), restored=()):
    """An arbiter that has seen everything; pushed in pieces, saved and restored where asked."""
    arbiter = Arbiter(rules)
    edges = sorted({0, *cuts, *restored, len(arrivals)})
    for start, stop in zip(edges, edges[1:] or edges, strict=False):
        if start in restored:
            fresh = Arbiter(Rules(arbiter.rules.hold_ns, arbiter.rules.reorder))
            fresh.restore(arbiter.state())
            arbiter = fresh
        arbiter.push(records(arrivals[start:stop]), final=stop == len(arrivals))
    return arbiter


def handed_on(arbiter):
    """[(epoch, seq, flags, payload)], in order."""
    accepted = arbiter.accepted.packets(0, arbiter.accepted.n)
    c = accepted.columns
    keys = zip(c["epoch"].tolist(), c["seq"].tolist(), c["flags"].tolist(), strict=True)
    return [(*key, accepted.packets[i]) for i, key in enumerate(keys)]


def gap_rows(arbiter):
    """[(epoch, first, last, reason, outcome)]."""
    gaps = arbiter._peek_gaps()
    return [
        (int(e), int(f), int(last), REASONS[r], OUTCOMES[o])
        for e, f, last, r, o in zip(
            *(gaps[name] for name in ("epoch", "first_seq", "last_seq", "reason", "outcome")), strict=True
        )
    ]


def numbers(rows, outcome):
    found = [(e, seq) for e, first, last, _, o in rows if o == outcome for seq in range(first, last + 1)]
    assert len(found) == len(set(found)), "a number is declared twice"
    return set(found)


def everything(arbiter):
    """All of the output, for comparison."""
    accepted = arbiter.accepted.packets(0, arbiter.accepted.n)
    columns = {name: column.tolist() for name, column in accepted.columns.items()}
    gaps = {name: column.tolist() for name, column in arbiter._peek_gaps().items()}
    feeds = {name: counter.tolist() for name, counter in arbiter.feeds.items()}
    return columns, [accepted.packets[i] for i in range(len(accepted.packets))], gaps, feeds, arbiter.epoch


def check(arrivals, arbiter, first_seq):
    """Every promise of the module's docstring."""
    truth, out, gaps = Truth.of(arrivals), handed_on(arbiter), gap_rows(arbiter)
    keys = [(epoch, seq) for epoch, seq, _, _ in out]
    assert sorted(keys) == sorted(truth.payload), "each number once, whichever feed brought it"
    assert {(e, s): payload for e, s, _, payload in out} == truth.payload
    assert [e for e, _ in keys] == sorted(e for e, _ in keys)
    late = {(e, s) for e, s, flags, _ in out if flags & LATE}
    in_order = [(e, s) for e, s, flags, _ in out if not flags & LATE]
    assert in_order == sorted(in_order)

    lost = numbers(gaps, "lost")
    assert numbers(gaps, "late") == late
    for epoch in {e for e, _ in keys}:
        seqs = {s for e, s in keys if e == epoch}
        start = (first_seq if epoch == 0 else 1) or min(s for e, s in in_order if e == epoch)
        missing = {(epoch, s) for s in range(start, max(seqs) + 1) if s not in seqs}
        assert {n for n in lost if n[0] == epoch} - late == missing

    lost_until = {(e, last) for e, _, last, _, outcome in gaps if outcome == "lost"}
    before = None
    for epoch, seq, flags, _ in out:
        assert bool(flags & FROM_B) == (truth.first_feed[epoch, seq] == B)
        if flags & LATE:
            assert flags & BREAK
        else:
            loss = (epoch, seq - 1) in lost_until
            assert bool(flags & LOSS) == loss
            neighbour = before == (epoch, seq - 1, 0)
            assert bool(flags & BREAK) == (loss or not neighbour) if before else bool(flags & BREAK) == loss
        assert bool(flags & RESTART) == (before is not None and before[0] < epoch)
        before = (epoch, seq, flags & LATE)

    c = arbiter.accepted.packets(0, arbiter.accepted.n).columns
    for i, key in enumerate(keys):
        seen = [truth.arrived.get((*key, feed), 0) for feed in (A, B)]
        assert [c["ts_recv_a"][i], c["ts_recv_b"][i]] == seen
        assert c["ts_recv"][i] == seen[truth.first_feed[key]]

    feeds = arbiter.feeds
    assert feeds["first"].tolist()[:2] == truth.first
    assert feeds["duplicates"].tolist()[:2] == truth.duplicates
    assert int(feeds["late"].sum()) == len(late)
    for feed in (A, B):
        mine = [arrival for arrival in arrivals if arrival.feed == feed]
        assert feeds["packets"][feed] == len(mine)
        assert feeds["bytes"][feed] == sum(len(arrival.payload) for arrival in mine)
        assert feeds["kernel_drops"][feed] == max((arrival.kernel_drops for arrival in mine), default=0)
        assert feeds["ts_first"][feed] == (mine[0].ts_recv if mine else 0)
        assert feeds["ts_last"][feed] == (mine[-1].ts_recv if mine else 0)


shares = st.sampled_from((0.0, 0.0, 0.01, 0.2, 0.6))
feeds = st.builds(
    Feed,
    loss=shares,
    duplication=shares,
    reorder=shares,
    delay_ns=st.sampled_from((0, 0, 100_000, 5 * MS, 40 * MS, 3 * SECOND)),
    jitter_ns=st.sampled_from((0, 10_000, 3 * MS, 60 * MS)),
    outage=st.none() | st.tuples(st.integers(0, 200), st.integers(0, 400)),
)
weeks = st.lists(
    st.builds(
        Epoch, first=st.just(1), n=st.integers(20, 150), pause_ns=st.sampled_from((2 * SECOND, 3600 * SECOND))
    ),
    min_size=1,
    max_size=3,
)
seeds = st.builds(random.Random, st.integers(0, 2**32))
spacings = st.sampled_from((1_000, 100_000, MS, 10 * MS))


@settings(deadline=None, max_examples=150)
@given(weeks, feeds, feeds, seeds, spacings, st.sampled_from((0, 1)), st.sampled_from((1, 70_000)))
@example([Epoch(1, 50), Epoch(1, 50)], Feed(), Feed(alive=False), random.Random(1), MS, 1, 1)
def test_every_number_that_any_feed_brought_is_handed_on_once(epochs, a, b, rng, spacing, first_seq, joined):
    if first_seq == 0:
        epochs = [replace(epochs[0], first=joined), *epochs[1:]]
    arrivals = two_feeds(epochs, a, b, rng=rng, spacing_ns=spacing)
    check(arrivals, run(arrivals, Rules(first_seq=first_seq)), first_seq)


@settings(deadline=None, max_examples=60)
@given(weeks, feeds, feeds, seeds, spacings, st.data())
def test_neither_the_cuts_nor_a_restored_state_change_anything(epochs, a, b, rng, spacing, data):
    arrivals = two_feeds(epochs, a, b, rng=rng, spacing_ns=spacing)
    places = st.sets(st.integers(0, len(arrivals)), max_size=8)
    whole = everything(run(arrivals))
    assert everything(run(arrivals, cuts=data.draw(places))) == whole
    assert everything(run(arrivals, restored=data.draw(places))) == whole


@pytest.mark.parametrize("alive", ["A", "B"])
def test_one_feed_alone_is_enough(alive):
    rng = random.Random(5)
    a, b = Feed(loss=0.1, alive=alive == "A"), Feed(loss=0.1, alive=alive == "B")
    arrivals = two_feeds([Epoch(1, 400)], a, b, rng=rng, safe=False)
    arbiter = run(arrivals, Rules(first_seq=1))
    check(arrivals, arbiter, 1)
    assert numbers(gap_rows(arbiter), "lost")


def stream(seqs, feed=A, start=0, step=1000, ts=SUNDAY):
    """Packets of one feed, ``step`` ns apart; SendingTime goes with the number."""
    return [Arrival(feed, packet(seq, ts + seq * 1000), ts + start + i * step) for i, seq in enumerate(seqs)]


def plain(arbiter):
    return [seq for _, seq, _, _ in handed_on(arbiter)]


def test_a_gap_is_declared_25_ms_after_the_packet_behind_it_arrived():
    before = [*stream([1, 3]), *stream([4], start=25 * MS + 999)]
    arbiter = Arbiter(Rules(first_seq=1))
    arbiter.push(records(before))
    assert (plain(arbiter), gap_rows(arbiter)) == ([1], [])
    arbiter.push(records(stream([5], start=25 * MS + 1000)))
    assert (plain(arbiter), gap_rows(arbiter)) == ([1, 3, 4, 5], [(0, 2, 2, "timer", "lost")])


def test_a_gap_is_declared_when_both_feeds_have_passed_it_by_64():
    arbiter = Arbiter(Rules(first_seq=1))
    arbiter.push(records([*stream([1, *range(3, 200)]), *stream([1, *range(3, 66)], B)]))
    assert gap_rows(arbiter) == []
    arbiter.push(records(stream([66], B)))
    assert gap_rows(arbiter) == [(0, 2, 2, "passed", "lost")]
    assert plain(arbiter) == [1, *range(3, 200)]


def test_a_packet_that_comes_after_its_gap_was_declared_is_handed_on_as_late():
    arrivals = [*stream([1, 2, 4, 5]), *stream([6], start=30 * MS), *stream([3, 7], B, start=31 * MS)]
    arbiter = run(arrivals, Rules(first_seq=1))
    assert plain(arbiter) == [1, 2, 4, 5, 6, 3, 7]
    assert [flags for _, _, flags, _ in handed_on(arbiter)] == [
        *(0, 0, BREAK | LOSS, 0, 0),
        *(LATE | BREAK | FROM_B, BREAK | FROM_B),
    ]
    assert [row[1:] for row in gap_rows(arbiter)] == [(3, 3, "timer", "lost"), (3, 3, "timer", "late")]


def test_what_is_held_at_the_end_is_released_and_its_gap_declared():
    arbiter = run(stream([1, 4]), Rules(first_seq=1))
    assert plain(arbiter) == [1, 4]
    assert gap_rows(arbiter) == [(0, 2, 3, "end", "lost")]
    assert arbiter.holding == 0


def test_the_first_packets_of_a_week_may_be_lost_on_both_feeds():
    arbiter = run([*stream([3, 4]), *stream([3, 4, 5], B)], Rules(first_seq=1))
    assert plain(arbiter) == [3, 4, 5]
    assert [row[1:3] for row in gap_rows(arbiter)] == [(1, 2)]
    assert [flags & ~FROM_B for _, _, flags, _ in handed_on(arbiter)] == [BREAK | LOSS, 0, 0]


def test_joining_in_mid_stream_declares_nothing_before_the_first_packet():
    arbiter = run([*stream([9_005, 9_006]), *stream([9_001, 9_003, 9_002, 9_004, 9_005], B)])
    assert plain(arbiter) == [9_001, 9_002, 9_003, 9_004, 9_005, 9_006]
    assert gap_rows(arbiter) == []
    assert arbiter.feeds["first"].tolist() == [2, 4, 0]


def test_a_feed_that_lags_by_more_than_the_ring_while_we_join_loses_nothing():
    ahead, behind = range(20_000, 20_010), range(20_010 - RING - 30, 20_010 - RING + 20)
    arbiter = run([*stream(ahead), *stream(behind, B)])
    assert sorted(plain(arbiter)) == [*behind, *ahead]
    assert arbiter.feeds["first"].tolist() == [10, 50, 0]


@pytest.mark.parametrize("behind", [RING - 1, RING, RING + 1, 3 * RING])
def test_one_feed_alone_outruns_the_ring(behind):
    """Packet 2 is lost, and more than a ring follows before any other rule has given it up."""
    seqs = [1, *range(3, 3 + behind), 3 + behind, 4 + behind]
    arbiter = run([*stream(seqs, step=1), *stream(seqs, B, step=1, start=SECOND)], Rules(first_seq=1))
    assert plain(arbiter) == seqs
    assert [row[1:3] for row in gap_rows(arbiter)] == [(2, 2)]
    assert arbiter.feeds["first"].tolist() == [len(seqs), 0, 0]
    assert arbiter.feeds["duplicates"].tolist() == [0, len(seqs), 0]
    assert arbiter.holding == 0


@pytest.mark.parametrize("jump", [RING, RING + 1, WINDOW, 10 * WINDOW, 2**31])
def test_a_jump_beyond_the_ring_is_one_gap(jump):
    arbiter = run(stream([1, 2, 2 + jump, 3 + jump]), Rules(first_seq=1))
    assert plain(arbiter) == [1, 2, 2 + jump, 3 + jump]
    assert [row[1:3] for row in gap_rows(arbiter)] == [(3, 1 + jump)]


def test_a_jump_beyond_the_ring_releases_what_was_held_first():
    seqs = [1, 3, 5, 3 * RING, 3 * RING + 2]
    arbiter = run(stream(seqs), Rules(first_seq=1))
    assert plain(arbiter) == seqs
    assert [row[1:3] for row in gap_rows(arbiter)] == [
        *((2, 2), (4, 4), (6, 3 * RING - 1)),
        (3 * RING + 1, 3 * RING + 1),
    ]


def test_the_highest_number_is_followed_by_1_in_a_new_epoch():
    top = 2**32 - 1
    old = [Arrival(A, packet(top - i, SUNDAY - i), SUNDAY + 2 - i) for i in (2, 1, 0)]
    new = [Arrival(A, packet(1 + i, SUNDAY + 1000 + i), SUNDAY + 10 + i) for i in range(3)]
    arbiter = run([*old, *new])
    assert [(e, s) for e, s, _, _ in handed_on(arbiter)] == [
        *((0, top - 2), (0, top - 1), (0, top)),
        *((1, 1), (1, 2), (1, 3)),
    ]
    assert gap_rows(arbiter) == []


def test_a_restart_may_begin_in_mid_stream():
    old = stream(range(900_000, 900_020))
    new = [replace(p, ts_recv=p.ts_recv + SECOND) for p in stream(range(50_000, 50_010), ts=SUNDAY + SECOND)]
    arbiter = run([*old, *new])
    assert [(e, s) for e, s, _, _ in handed_on(arbiter)] == [
        *((0, s) for s in range(900_000, 900_020)),
        *((1, s) for s in range(50_000, 50_010)),
    ]
    assert gap_rows(arbiter) == []


@pytest.mark.parametrize("sent", [20, 200, 20_000])
def test_stragglers_of_the_old_epoch_never_take_the_place_of_new_packets(sent):
    """B still brings the old epoch while A is in the new one, whose numbers have not got that far yet."""
    old = range(sent - 15, sent + 1)
    new = stream(range(1, 41), ts=SUNDAY + 100 * SECOND)
    stragglers = [replace(p, ts_recv=new[4].ts_recv) for p in stream(old, B)]
    copies = [replace(p, feed=B, ts_recv=p.ts_recv + 10 * MS) for p in new]
    arbiter = run([*stream(range(sent - 15, sent - 1)), *new[:5], *stragglers, *new[5:], *copies])
    out = handed_on(arbiter)
    assert [s for e, s, _, _ in out if e == 1] == [*range(1, 41)]
    assert all(payload == new[s - 1].payload for e, s, _, payload in out if e == 1)
    c = arbiter.accepted.packets(0, arbiter.accepted.n).columns
    assert c["ts_recv_b"][c["epoch"] == 1].tolist() == [p.ts_recv for p in copies]
    assert gap_rows(arbiter) == []


def test_a_restart_after_a_pause_does_not_take_over_what_was_still_held():
    held = stream(range(2, 10))
    new = [replace(p, ts_recv=p.ts_recv + 50 * SECOND) for p in stream(range(1, 30), ts=SUNDAY + 50 * SECOND)]
    arbiter = run([*held, *new], Rules(first_seq=1))
    assert [(e, s) for e, s, _, _ in handed_on(arbiter)] == [
        *((0, s) for s in range(2, 10)),
        *((1, s) for s in range(1, 30)),
    ]
    assert [row[:3] for row in gap_rows(arbiter)] == [(0, 1, 1)]


def test_an_old_packet_without_a_newer_sending_time_is_no_restart():
    seqs = range(1, 2 * RING)
    arbiter = run([*stream(seqs, step=1), *stream(seqs, B, step=1, start=SECOND)], Rules(first_seq=1))
    assert arbiter.epoch == 0
    assert arbiter.feeds["duplicates"].tolist() == [0, len(seqs), 0]


def test_packets_that_are_cut_too_short_or_without_a_believable_time_are_malformed():
    good = stream([1, 2])
    bad = [
        replace(good[0], payload=good[0].payload[:11]),
        replace(good[0], payload=b""),
        replace(good[0], payload=packet(7, SUNDAY) + bytes(2_036), flags=frames.FLAG_TRUNCATED),
        replace(good[0], payload=packet(8, SUNDAY) + bytes(frames.SLOT_BYTES)),
        replace(good[0], payload=packet(9, 0)),
        replace(good[0], payload=packet(10, 2**64 - 1)),
        replace(good[0], payload=packet(11, 5_000 * SECOND)),
        replace(good[0], feed=S, payload=packet(12, 0)),
    ]
    arbiter = run([*bad, *good], Rules(first_seq=1))
    assert plain(arbiter) == [1, 2]
    assert arbiter.feeds["malformed"].tolist() == [7, 0, 1]
    assert arbiter.feeds["packets"].tolist() == [9, 0, 1]
    assert gap_rows(arbiter) == []


junk = st.tuples(
    st.integers(0, 4),
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**64 - 1) | st.integers(SUNDAY, SUNDAY + 10 * SECOND),
    st.integers(0, 60),
    st.booleans(),
)


@settings(deadline=None, max_examples=200)
@given(st.lists(junk, max_size=60), st.integers(0, 2))
def test_whatever_arrives_is_counted_once_and_nothing_breaks(rows, first_seq):
    arrivals = [
        Arrival(feed, packet(seq, ts)[: 12 if whole else size], SUNDAY + i, flags=0)
        for i, (feed, seq, ts, size, whole) in enumerate(rows)
    ]
    arbiter = run(arrivals, Rules(first_seq=first_seq))
    feeds = arbiter.feeds
    sums = feeds["first"] + feeds["duplicates"] + feeds["malformed"]
    assert sums.tolist() == feeds["packets"].tolist()
    assert int(feeds["packets"].sum()) == sum(arrival.feed <= S for arrival in arrivals)
    assert arbiter.accepted.n == int(feeds["first"][:2].sum())
    assert arbiter.holding == 0


wild = st.tuples(st.sampled_from((A, B)), st.integers(1, 3 * RING), st.sampled_from((1, 1000, 30 * MS)))


@settings(deadline=None, max_examples=200)
@given(st.lists(wild, max_size=80))
def test_numbers_in_any_order_within_one_epoch_come_out_once(rows):
    """Far wilder than a network: the ring overflows in every way."""
    arrivals, now = [], SUNDAY
    for feed, seq, step in rows:
        now += step
        arrivals.append(Arrival(feed, packet(seq, SUNDAY + seq), now))
    arbiter = run(arrivals, Rules(first_seq=1))
    check(arrivals, arbiter, 1)


def test_snapshots_pass_straight_through():
    rows = [replace(p, feed=S) for p in stream([5, 1, 5, 2])]
    arbiter = run([*stream([1, 3]), *rows], Rules(first_seq=1))
    snapshots = arbiter.snapshots.packets(0, arbiter.snapshots.n)
    assert snapshots.columns["seq"].tolist() == [5, 1, 5, 2]
    assert [snapshots.packets[i] for i in range(4)] == [p.payload for p in rows]
    assert plain(arbiter) == [1, 3]


def test_the_kernel_counter_of_a_new_socket_begins_anew():
    def drops(*counters):
        return [
            Arrival(A, packet(i + 1, SUNDAY + i), SUNDAY + i, kernel_drops=n) for i, n in enumerate(counters)
        ]

    arbiter = Arbiter()
    arbiter.push(records(drops(0, 5, 5, 8)), final=True)
    arbiter.push(records(drops(9, 10)))
    assert arbiter.feeds["kernel_drops"].tolist() == [18, 0, 0]
    arbiter.push(records(drops(2)))
    assert arbiter.feeds["kernel_drops"].tolist() == [20, 0, 0]


def test_a_gap_names_the_kernel_drops_since_the_packet_before_it():
    rows = stream([1, 2, 5, 6])
    drops = [0, 3, 5, 5]
    rows = [replace(p, kernel_drops=n) for p, n in zip(rows, drops, strict=True)]
    arbiter = run(rows, Rules(first_seq=1))
    gaps = arbiter._peek_gaps()
    assert gaps["kernel_drops_a"].tolist() == [2]
    assert gaps["kernel_drops_b"].tolist() == [0]
    assert (gaps["ts_before"][0], gaps["ts_after"][0]) == (rows[1].ts_recv, rows[2].ts_recv)


def test_forgetting_what_was_taken_changes_nothing_of_what_follows():
    rng = random.Random(3)
    a, b = Feed(loss=0.1, reorder=0.2), Feed(loss=0.1, jitter_ns=5 * MS)
    arrivals = two_feeds([Epoch(1, 300), Epoch(1, 300)], a, b, rng=rng)
    whole = handed_on(run(arrivals))
    arbiter, got = Arbiter(), []
    for start in range(0, len(arrivals), 37):
        arbiter.push(records(arrivals[start : start + 37]), final=start + 37 >= len(arrivals))
        got += handed_on(arbiter)
        n = arbiter.accepted.n
        arbiter.accepted.drop_bytes(n)
        arbiter.forget(n, 0)
    assert got == whole


def test_a_state_with_very_many_gaps_is_restored():
    arbiter = Arbiter(Rules(first_seq=1))
    for start in range(0, 60_000, 4_000):
        seqs = range(2 + start, 4_002 + start, 2)
        arbiter.push(records([*stream(seqs, step=1), *stream([4_001 + start], start=30 * MS)]), final=True)
    fresh = Arbiter()
    fresh.restore(arbiter.state())
    assert gap_rows(fresh) == gap_rows(arbiter)
    assert len(gap_rows(arbiter)) > 25_000


def test_arrival_on_the_other_feed_is_noted_for_packets_that_are_still_here():
    arbiter = Arbiter(Rules(first_seq=1))
    arbiter.push(records(stream([1, 2, 3])))
    arbiter.accepted.drop_bytes(2)
    arbiter.forget(2, 0)
    arbiter.push(records(stream([1, 2, 3], B, start=MS)))
    assert arbiter.accepted.columns["ts_recv_b"][:1].tolist() == [SUNDAY + MS + 2000]
    assert np.all(arbiter.feeds["duplicates"] == [0, 3, 0])

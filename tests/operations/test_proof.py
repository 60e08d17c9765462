"""The proof on tiny tables: what was sent, what is stored, what the gaps table calls lost."""

from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from operations.proof import LISTED, lost_numbers, prove
from workloads.exchange.feed import FeedLog, SendLog
from workloads.ticks.archive import Partition, open_archive
from workloads.ticks.schema import TABLES

MONDAY = Partition("XCME", date(2026, 1, 5), 310)
IDENTITY = {"venue": "XCME", "channel": 310, "epoch": 2026010400}


def sent(*, last: int = 10, a: set[int] = frozenset(), b: set[int] = frozenset()) -> SendLog:
    """Packets 1 to ``last``, with what was dropped on each feed."""
    seq = np.arange(1, last + 1, dtype=np.uint32)
    return SendLog(
        {
            name: FeedLog(seq, np.zeros(last, np.int64), np.array([n not in gone for n in seq], np.uint8))
            for name, gone in (("A", a), ("B", b))
        }
    )


@pytest.fixture
def stored(tmp_path: Path):
    """An archive with these packets and gaps: (first, last, outcome)."""

    def stored(packets, gaps=()):
        archive = open_archive(str(tmp_path / "archive"))
        rows = {
            "packets": [{"seq": seq} for seq in packets],
            "gaps": [{"first_seq": f, "last_seq": to, "outcome": outcome} for f, to, outcome in gaps],
        }
        for name, found in rows.items():
            if found:
                table = pa.Table.from_pylist([IDENTITY | row for row in found], schema=TABLES[name].arrow)
                archive.commit(name, MONDAY, {name: table})
        return archive

    return stored


def without(*missing: int, last: int = 10) -> list[int]:
    return [seq for seq in range(1, last + 1) if seq not in missing]


def test_everything_stored_is_complete(stored):
    proof = prove(stored(without()), sent(), {})
    assert proof.equal
    assert (proof.sent, proof.dropped_on_both, proof.kernel_dropped, proof.gaps) == (10, 0, 0, 0)
    assert proof.statement.startswith("Complete: each of the 10 packets")


def test_a_drop_on_one_feed_is_no_loss(stored):
    assert prove(stored(without()), sent(a={2, 3}, b={4}), {}).equal


def test_drops_on_both_feeds_must_be_the_gaps(stored):
    proof = prove(stored(without(3, 4), [(3, 4, "lost")]), sent(a={3, 4, 5}, b={3, 4}), {})
    assert proof.equal
    assert (proof.dropped_on_both, proof.kernel_dropped, proof.gaps) == (2, 0, 2)
    assert "2 are missing (2 dropped on both feeds)" in proof.statement


def test_what_the_kernel_dropped_must_be_a_gap_and_be_counted(stored):
    archive = stored(without(7), [(7, 7, "lost")])
    assert prove(archive, sent(), {"A": 1, "B": 1}).equal
    unexplained = prove(archive, sent(), {"A": 0, "B": 0, "S": 5})
    assert not unexplained.equal
    assert "the kernel counts only 0 dropped" in unexplained.statement


@pytest.mark.parametrize(
    ("gaps", "difference"),
    [
        ([], [3]),  # hidden
        ([(3, 4, "lost")], [4]),  # one too many
        ([(4, 4, "lost")], [3, 4]),  # the wrong one
        ([(3, 3, "lost"), (3, 3, "late")], [3]),  # called late, and never came
    ],
)
def test_a_gaps_table_that_is_wrong_is_told_with_the_numbers(stored, gaps, difference):
    proof = prove(stored(without(3), gaps), sent(a={3}, b={3}), {})
    assert not proof.equal
    assert proof.difference == difference
    assert f"{len(difference)} sequence numbers are on one side only" in proof.statement


def test_a_late_packet_is_no_longer_lost(stored):
    archive = stored(without(), [(4, 6, "lost"), (4, 5, "late"), (6, 6, "late")])
    assert prove(archive, sent(), {}).equal
    assert lost_numbers(archive) == []


def test_only_the_first_differences_are_listed(stored):
    proof = prove(stored(range(1, 101), [(1, 100, "lost")]), sent(last=100), {})
    assert proof.difference == list(range(1, LISTED + 1))
    assert "100 sequence numbers" in proof.statement
    assert proof.gaps == 100


def test_a_packet_stored_twice_is_not_exactly_once(stored):
    proof = prove(stored([*without(), 4, 5]), sent(), {})
    assert (proof.equal, proof.stored_twice, proof.never_sent) == (False, 2, 0)
    assert "2 packets are stored more than once" in proof.statement


def test_a_stored_packet_that_never_left_is_told(stored):
    proof = prove(stored([*without(), 25]), sent(a={3}, b={3}), {})
    assert (proof.equal, proof.stored_twice, proof.never_sent) == (False, 0, 2)
    assert "2 stored sequence numbers were never sent" in proof.statement


def test_the_closing_heartbeat_is_stored_but_not_in_the_log(stored):
    proof = prove(stored([*without(), 11]), sent(), {})
    assert (proof.equal, proof.stored_twice, proof.never_sent) == (True, 0, 0)


def test_a_gap_over_all_numbers_is_compared_without_listing_them(stored):
    proof = prove(stored(without(3), [(3, 2**32 - 1, "lost")]), sent(a={3}, b={3}), {})
    assert (proof.equal, proof.gaps) == (False, 2**32 - 3)
    assert proof.difference == list(range(4, 4 + LISTED))

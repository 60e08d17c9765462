import json
import re
from datetime import date
from html.parser import HTMLParser
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from operations.report import build_report
from operations.report.arrival import arrival
from operations.report.market import market
from operations.report.page import ReportError, verdict
from operations.report.series import extremes, nice_width, peak, rate
from operations.report.wording import count, duration, moment, places, plural, price, share, volume_bytes
from workloads.exchange.feed import FeedLog, SendLog
from workloads.ticks.archive import Archive, Partition, open_archive
from workloads.ticks.codes import Action, EventFlag, RowFlag, Side
from workloads.ticks.schema import TABLES

NANO = 1_000_000_000
DAY = Partition("XCME", date(2026, 1, 5), 310)
OPEN = int(np.datetime64("2026-01-05T14:30", "ns").astype(np.int64))
HOST = int(np.datetime64("2026-11-22T15:41", "ns").astype(np.int64))
HOSTILE = '</script><script>alert("x")</script><b>&'
RUN = {
    "name": "20261122T154112",
    "command": "tickworks run --seed 7",
    "source": {"kind": "simulator", "name": "default", "seed": 7, "speed": 0.0, "notes": ["a note"]},
    "environment": "local",
    "venue": "XCME",
    "channel": 310,
    "started": "2026-11-22T15:41:12+00:00",
    "finished": "2026-11-22T15:41:31+00:00",
    "seconds": {"prepare": 1.0, "feed": 14.0, "store": 3.0, "prove": 0.5},
    "version": "0.1.0",
    "machine": {"cpu": "a CPU", "cores": 2, "memory_gib": 7.8, "kernel": "6.8", "python": "3.11.2"},
}


def rows(name: str, *values: dict) -> pa.Table:
    """Rows of a market table; what isn't named is null, or 0 where null is not allowed."""
    schema = TABLES[name].arrow
    base = {"venue": "XCME", "channel": 310, "epoch": 2026010400, "msg_index": 0, "entry_index": 0, "seq": 0}
    return pa.Table.from_pylist(
        [{k: v for k, v in (base | row).items() if k in schema.names} for row in values], schema
    )


def packet(seq: int, a: int | None, b: int | None, messages: int = 1) -> dict:
    """Sent ``seq`` ms after the open; ``a`` and ``b`` ns after HOST, None: never came."""
    came = [HOST + t for t in (a, b) if t is not None]
    return {
        "seq": seq,
        "ts_sent": OPEN + seq * 1_000_000,
        "ts_recv": min(came),
        "ts_recv_a": None if a is None else HOST + a,
        "ts_recv_b": None if b is None else HOST + b,
        "bytes": 100,
        "messages": messages,
    }


# 5 and 8 are missing on both feeds; 8 came late after all.
PACKETS = [
    packet(1, 1_000, 3_000),
    packet(2, 2_000, 2_500),
    packet(3, 4_000, 3_000),
    packet(4, None, 9_000),
    packet(6, 10_000, None, messages=3),
    packet(8, 50_000, None),
]
GAPS = [
    {"first_seq": 5, "last_seq": 5, "reason": "passed", "outcome": "lost", "kernel_drops_a": 0},
    {"first_seq": 7, "last_seq": 8, "reason": "timer", "outcome": "lost", "kernel_drops_a": 1},
    {"first_seq": 8, "last_seq": 8, "reason": "timer", "outcome": "late"},
]
SENT_AT = {1: 500, 2: 1_000, 3: 1_500, 4: 2_000, 5: 2_500, 6: 3_000, 7: 3_500, 8: 4_000}


def send_log(dropped_a: set[int], dropped_b: set[int]) -> SendLog:
    seq = np.array(list(SENT_AT), np.uint32)
    ts = HOST + np.array(list(SENT_AT.values()), np.int64)
    feeds = {}
    for name, dropped in (("A", dropped_a), ("B", dropped_b)):
        copies = np.array([s not in dropped for s in SENT_AT], np.uint8)
        feeds[name] = FeedLog(seq, np.where(copies > 0, ts, 0), copies)
    return SendLog(feeds)


def orders(symbol_id: int = 1, *, flags: int = 0) -> list[dict]:
    """A bid of 5 at 100.25 and an ask of 7 at 100.75, then a better bid of 2 at 100.50, one event each."""
    common = {
        "instrument_id": symbol_id,
        "action": Action.NEW,
        "event_flags": EventFlag.END,
        "row_flags": flags,
    }
    sides = ((Side.BUY, 100.25, 5), (Side.SELL, 100.75, 7), (Side.BUY, 100.5, 2))
    return [
        common
        | {
            "seq": n + 1,
            "order_id": n + 1,
            "priority": n + 1,
            "side": side,
            "price": int(p * NANO),
            "size": size,
        }
        | {"ts_event": OPEN + n * NANO, "ts_sent": OPEN + n * NANO}
        for n, (side, p, size) in enumerate(sides)
    ]


def trades(symbol_id: int = 1) -> list[dict]:
    return [
        {"seq": seq, "instrument_id": symbol_id, "price": int(p * NANO), "size": size, "aggressor": aggressor}
        | {"action": action, "ts_event": OPEN + seq * NANO}
        for seq, p, size, aggressor, action in (
            (1, 100.5, 3, Side.BUY, Action.NEW),
            (2, 100.75, 4, Side.SELL, Action.NEW),
            (3, 900.0, 9, Side.BUY, Action.DELETE),  # cancelled: never counts
        )
    ]


DEFINITION = {"instrument_id": 1, "symbol": "ESH6", "currency": "USD", "tick": NANO // 4, "ts_sent": OPEN}


def filled(folder: Path, tables: dict[str, list[dict]]) -> Archive:
    archive = open_archive(str(folder / "archive"))
    for name, values in tables.items():
        archive.commit(name, DAY, {"all": rows(name, *values)})
    return archive


def report(folder: Path, run: dict | None = None) -> str:
    (folder / "run.json").write_text(json.dumps(run or RUN))
    return build_report(folder).read_text(encoding="utf-8")


class Text(HTMLParser):
    """The words of the page, without scripts and styles, and the start tags."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.tags: list[str] = []
        self._silent = False
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self._silent = tag in ("script", "style")

    def handle_endtag(self, tag):
        self._silent = False

    def handle_data(self, data):
        if not self._silent and data.strip():
            self.words.append(data.strip())

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def figures_of(page: str) -> dict:
    (data,) = re.findall(r'<script type="application/json" id="report-data">(.*?)</script>', page, re.DOTALL)
    return json.loads(data)


# Arrival


def test_shares_count_who_came_first_and_who_came_alone(tmp_path):
    found = arrival(filled(tmp_path, {"packets": PACKETS, "gaps": GAPS}), None)
    assert (found.a_first, found.b_first, found.only_a, found.only_b) == (2, 1, 2, 1)
    assert (found.packets, found.messages, found.bytes) == (6, 8, 600)


def test_a_packet_that_came_late_is_not_lost(tmp_path):
    found = arrival(filled(tmp_path, {"packets": PACKETS, "gaps": GAPS}), None)
    assert (found.lost, found.late) == (2, 1)
    assert [gap.first for gap in found.gaps] == [5, 7, 8]


def test_skew_is_b_minus_a_of_packets_that_came_on_both(tmp_path):
    skew = arrival(filled(tmp_path, {"packets": PACKETS}), None).skew
    assert (skew.n, skew.least, skew.quantiles[0.5], skew.greatest, skew.a_first) == (
        3,
        -1_000,
        500,
        2_000,
        2,
    )
    (counts,) = skew.histogram.counts.values()
    assert counts.sum() + skew.histogram.below + skew.histogram.above == 3
    assert 0.0 in skew.histogram.edges


def test_latency_is_measured_from_when_that_feed_sent_it(tmp_path):
    log = send_log({4, 5, 7}, {5, 6, 7, 8})
    latency = arrival(filled(tmp_path, {"packets": PACKETS, "gaps": GAPS}), log).latency
    # First copies: 1 A 500, 2 A 1,000, 3 B 1,500, 4 B 7,000, 6 A 7,000, 8 A 46,000
    assert latency.measured
    assert (latency.n, latency.quantiles[0.5], latency.greatest) == (6, 1_500, 46_000)
    assert {name: int(counts.sum()) for name, counts in latency.histogram.counts.items()} == {"A": 5, "B": 4}


def test_without_a_log_latency_is_measured_from_sending_time_and_says_so(tmp_path):
    live = [row | {"ts_sent": HOST + n} for n, row in enumerate(PACKETS)]
    archive = filled(tmp_path, {"packets": live})
    page = Text(report(tmp_path)).text
    assert "arrival minus the packet's own SendingTime, because the run has no sender's log" in page
    found = arrival(archive, None).latency
    assert (found.measured, found.quantiles[0.5], found.greatest) == (False, 2_998, 49_995)


def test_a_replay_without_a_log_shows_no_latency(tmp_path):
    filled(tmp_path, {"packets": PACKETS})
    page = Text(report(tmp_path)).text
    assert "Latency was not measured" in page
    assert "Latency p50" not in page


def test_the_proof_compares_by_sequence_number(tmp_path):
    archive = filled(tmp_path, {"packets": PACKETS, "gaps": GAPS})
    proof = arrival(archive, send_log({5, 7}, {5, 7})).proof
    assert (proof.dropped_on_both, proof.gaps, proof.unrecorded_count, proof.not_dropped_count) == (
        2,
        2,
        0,
        0,
    )
    proof = arrival(archive, send_log({5}, {5})).proof
    assert (proof.unrecorded, proof.not_dropped) == ([], [7])


def test_a_packet_that_vanished_without_a_gap_is_found(tmp_path):
    archive = filled(tmp_path, {"packets": PACKETS, "gaps": GAPS[:1]})
    assert arrival(archive, send_log({5}, {5})).proof.unrecorded == [7]


@pytest.mark.parametrize(
    ("gaps", "dropped", "said", "state"),
    [
        ([], set(), {"equal": True}, "unexplained"),  # 5 and 7 are simply not there
        (GAPS, {5, 7}, {"equal": True}, "explained"),
        (GAPS, {5, 7}, {"equal": False, "difference": [9]}, "unexplained"),
        (GAPS, {5}, {"equal": True, "kernel_dropped": 1}, "explained"),
        (GAPS, {5}, {"equal": True, "kernel_dropped": 0}, "unexplained"),
    ],
)
def test_the_verdict_believes_the_run_only_where_the_tables_agree(tmp_path, gaps, dropped, said, state):
    archive = filled(tmp_path, {"packets": PACKETS} | ({"gaps": gaps} if gaps else {}))
    found = arrival(archive, send_log(dropped, dropped))
    assert verdict({"proof": said}, found, archive).state == state


def test_a_whole_feed_is_proven_complete(tmp_path):
    every = [packet(seq, 1_000 * seq, 1_000 * seq + 1) for seq in SENT_AT]
    archive = filled(tmp_path, {"packets": every})
    found = arrival(archive, send_log({3}, {4}))
    assert verdict({"proof": {"equal": True}}, found, archive).state == "proven"


def test_a_restarted_sequence_is_another_packet(tmp_path):
    again = [packet(1, 90_000, 90_000) | {"epoch": 2026010401}]
    log = SendLog(
        {
            feed: FeedLog(
                np.array([1, 2, 1], np.uint32),
                HOST + np.array([500, 1_000, 80_000], np.int64),
                np.array([1, 1, 1], np.uint8),
            )
            for feed in ("A", "B")
        }
    )
    found = arrival(filled(tmp_path, {"packets": [*PACKETS[:2], *again]}), log)
    assert (found.packets, found.latency.n, found.latency.greatest) == (3, 3, 10_000)
    assert found.proof.unrecorded_count == 0


# Series


def test_a_short_series_keeps_every_point_and_a_long_one_its_extremes():
    ts = np.arange(10_000, dtype=np.int64)
    values = np.sin(ts / 50.0)
    values[4_321], values[8_765] = 9.0, -9.0
    kept = extremes(ts, values, 100)
    assert len(kept) <= 4 * 100 + 1
    assert {4_321, 8_765, 0, 9_999} <= set(kept.tolist())
    assert extremes(ts[:150], values[:150], 100).tolist() == list(range(150))


def test_a_gap_in_a_long_series_stays_a_gap():
    values = np.ones(10_000)
    values[5_000:5_050] = np.nan
    kept = extremes(np.arange(10_000, dtype=np.int64), values, 100)
    assert np.isnan(values[kept]).any()


def test_peaks_count_any_window_wherever_it_starts():
    ts = np.array([0, 900, 1_100, 1_200, 5_000], np.int64)
    assert (peak(ts, 1_000).count, peak(ts, 1_000).start) == (3, 900)


def test_rates_are_per_second_and_know_their_busiest_second():
    ts = np.sort(np.concatenate([np.arange(0, 2_000 * NANO, NANO), np.full(49, 700 * NANO)]))
    found = rate(ts, most=600)
    assert found.width == 5 * NANO
    assert found.peak.max() == 50
    assert found.mean[0] == 1.0
    short = rate(np.arange(0, NANO, 10_000_000), most=600)
    assert short.peak is None
    assert short.mean.max() == pytest.approx(500, rel=0.01)


def test_bins_have_widths_that_a_reader_can_name():
    assert nice_width(50 * 60 * NANO, 600) == 10 * NANO
    assert nice_width(0, 10) == 1_000_000
    assert nice_width(400 * 86_400 * NANO, 100) == 5 * 86_400 * NANO


# The market


def test_quotes_and_trades_are_those_of_the_rows(tmp_path):
    (found,) = market(
        filled(tmp_path, {"definitions": [DEFINITION], "mbo": orders(), "trades": trades()})
    ).instruments
    assert (found.symbol, found.places, found.volume) == ("ESH6", 2, 7)
    np.testing.assert_array_equal(found.quotes.bid, [100.25, 100.25, 100.5])
    np.testing.assert_array_equal(found.quotes.ask, [np.nan, 100.75, 100.75])
    np.testing.assert_array_equal(found.quotes.bid_total, [5, 5, 7])
    np.testing.assert_array_equal(found.quotes.spread, [np.nan, NANO // 2, NANO // 4])


def test_a_crossed_book_is_counted_and_not_drawn(tmp_path):
    crossing = orders()[2] | {"price": 101 * NANO}
    found = market(filled(tmp_path, {"mbo": [*orders()[:2], crossing]}))
    (instrument,) = found.instruments
    assert instrument.crossed == 1
    assert np.isnan(instrument.quotes.bid[-1])
    assert found.books["crossed_event_ends"] == 1


@pytest.mark.parametrize(("first_trade", "alarming"), [(OPEN, 1), (OPEN + 60 * NANO, 0)])
def test_a_book_may_cross_before_the_first_trade_of_a_session(tmp_path, first_trade, alarming):
    crossing = orders()[2] | {"price": 101 * NANO}
    (trade, *_) = trades()
    tables = {"mbo": [*orders()[:2], crossing], "trades": [trade | {"ts_event": first_trade}]}
    (instrument,) = market(filled(tmp_path, tables)).instruments
    assert (instrument.crossed, instrument.crossed_in_trading) == (1, alarming)


def test_the_refill_of_a_book_counts_but_is_not_drawn(tmp_path):
    refill = [row | {"ts_event": OPEN - 3_600 * NANO} for row in orders(flags=RowFlag.RECOVERY)[:2]]
    (found,) = market(filled(tmp_path, {"mbo": [*refill, orders()[2]]})).instruments
    np.testing.assert_array_equal(found.quotes.bid, [100.5])
    np.testing.assert_array_equal(found.quotes.ask, [100.75])
    assert found.quotes.ts[0] >= OPEN


def test_rows_that_came_late_are_put_in_order(tmp_path):
    first, second, third = orders()
    (found,) = market(filled(tmp_path, {"mbo": [first, third, second]})).instruments
    np.testing.assert_array_equal(found.quotes.bid, [100.25, 100.25, 100.5])


def test_after_a_loss_the_quotes_come_from_the_price_levels(tmp_path):
    first, second, third = orders()
    stale = third | {"row_flags": RowFlag.STALE, "price": 500 * NANO}
    level = {"instrument_id": 1, "action": Action.NEW, "level": 1, "orders": 1, "event_flags": EventFlag.END}
    levels = [
        level | {"seq": 1, "entry_type": ord("0"), "price": 100 * NANO, "size": 5, "ts_event": OPEN},
        level
        | {"seq": 2, "entry_type": ord("1"), "price": 101 * NANO, "size": 6, "ts_event": OPEN + 3 * NANO},
    ]
    (found,) = market(filled(tmp_path, {"mbo": [first, second, stale], "mbp": levels})).instruments
    assert found.mended_from == OPEN + 2 * NANO
    assert (found.quotes.bid[-1], found.quotes.ask[-1]) == (100.0, 101.0)
    assert found.crossed == 0


def test_a_message_with_rows_in_several_tables_counts_once(tmp_path):
    shared = {"seq": 9, "msg_index": 2, "template": 46, "instrument_id": 1}
    archive = filled(tmp_path, {"mbo": [shared, shared | {"entry_index": 1}], "mbp": [shared]})
    assert market(archive).messages == [(46, 1, 3)]


# The page


def test_the_page_says_what_duckdb_says(tmp_path):
    archive = filled(
        tmp_path,
        {"packets": PACKETS, "gaps": GAPS, "definitions": [DEFINITION], "mbo": orders(), "trades": trades()},
    )
    page = Text(report(tmp_path)).text
    with duckdb.connect() as connection:
        for name in ("packets", "trades", "mbo"):
            connection.register(name, archive.dataset(name))
        packets, messages, alone, skew = connection.execute(
            "SELECT count(*), sum(messages), count(*) FILTER (ts_recv_b IS NULL), "
            "quantile_disc(epoch_ns(ts_recv_b) - epoch_ns(ts_recv_a), 0.5) FROM packets"
        ).fetchone()
        volume, low, high = connection.execute(
            "SELECT sum(size), min(price), max(price) FROM trades WHERE action = 0"
        ).fetchone()
    assert f"Packets {packets}" in page
    assert f"Messages {messages}" in page
    assert f"on B only {alone}" in page
    assert f"{duration(skew)}".replace("\xa0", " ") in page
    assert f"{volume} lots in 2 trades" in page
    assert f"low {price(low, 2)}, high {price(high, 2)}" in page
    assert archive.data_commit().id in page
    assert "ESH6 2 100.50 100.75 7 1 100.75" in page  # lots, best bid and ask, lots, spread in ticks, last


def test_hostile_text_stays_text(tmp_path):
    tables = {"definitions": [DEFINITION | {"symbol": HOSTILE, "currency": HOSTILE}], "mbo": orders()}
    filled(tmp_path, tables | {"trades": trades()})
    source = {"kind": HOSTILE, "name": HOSTILE, "notes": [HOSTILE]}
    page = report(tmp_path, RUN | {"command": HOSTILE, "source": source, "venue": HOSTILE, "name": HOSTILE})
    assert HOSTILE not in page
    assert Text(page).tags.count("script") == 5
    assert HOSTILE not in json.dumps(figures_of(page))
    assert HOSTILE.replace(" ", "") in Text(page).text.replace(" ", "")


def test_the_page_may_load_nothing_and_run_its_own_scripts_only(tmp_path):
    filled(tmp_path, {"packets": PACKETS})
    page = report(tmp_path)
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', page)
    assert policy.startswith("default-src &#39;none&#39;; script-src &#39;sha256-")
    assert "unsafe-eval" not in policy
    assert not re.findall(
        r'<(?:script|img|iframe)[^>]+src=|href="http|@import|url\(', page.split("report-data")[0]
    )


def test_an_empty_archive_says_so(tmp_path):
    page = Text(report(tmp_path)).text
    assert "Nothing stored" in page
    assert "The archive of this run is empty" in page


@pytest.mark.parametrize(
    "tables",
    [
        {"packets": PACKETS[:1]},
        {"mbo": orders()},
        {"mbo": orders()[:1]},
        {"trades": trades()[:1]},
        {"definitions": [DEFINITION]},
        {"definitions": [DEFINITION], "mbo": orders(), "packets": PACKETS},
        {"gaps": GAPS},
        {"packets": [packet(1, 5, None)]},
        {"mbo": [orders()[0] | {"instrument_id": None, "price": None, "side": 0}]},
    ],
    ids=lambda tables: "+".join(tables),
)
def test_a_run_may_lack_any_table(tmp_path, tables):
    filled(tmp_path, tables)
    send_log(set(), set()).save(tmp_path / "sent.npz")
    assert "</html>" in report(tmp_path, {"name": "x"})


def test_books_that_differ_from_those_kept_while_receiving_are_reported(tmp_path):
    filled(tmp_path, {"mbo": orders(), "packets": PACKETS})
    kept = {"adds": 3, "changes": 0, "deletes": 0}
    assert "differ" not in Text(report(tmp_path, RUN | {"ingest": {"books": kept}})).text
    page = Text(report(tmp_path, RUN | {"ingest": {"books": kept | {"adds": 4}}})).text
    assert "differ (adds 4 and 3)" in page


def test_an_archive_that_has_changed_since_the_run_is_reported(tmp_path):
    archive = filled(tmp_path, {"packets": PACKETS})
    run = RUN | {"data_commit": archive.data_commit().id}
    assert "has changed" not in Text(report(tmp_path, run)).text
    archive.commit("trades", DAY, {"more": rows("trades", *trades())})
    assert "The archive has changed since the run" in Text(report(tmp_path, run)).text


def test_equal_folders_give_equal_reports(tmp_path):
    filled(tmp_path, {"packets": PACKETS, "mbo": orders(), "trades": trades()})
    assert report(tmp_path) == report(tmp_path)


@pytest.mark.parametrize("text", [None, "not json", "[]"])
def test_a_folder_without_a_run_is_refused_with_one_sentence(tmp_path, text):
    if text is not None:
        (tmp_path / "run.json").write_text(text)
    with pytest.raises(ReportError, match=r"run\.json"):
        build_report(tmp_path)


# Wording


def test_numbers_read_as_people_write_them():
    plain = [
        *(count(202_324), count(-5), plural(1, "packet"), plural(2, "packet")),
        *(share(0, 5), share(5, 5), share(1, 3), share(99_999, 100_000), share(1, 10**9), share(0, 0)),
        *(duration(0), duration(999), duration(41_234), duration(-1_500_000), duration(19 * NANO)),
        *(duration(3_000 * NANO), duration(None), volume_bytes(34_490_989), volume_bytes(12)),
    ]
    assert [text.replace("\xa0", " ") for text in plain] == [
        *("202,324", "−5", "1 packet", "2 packets"),
        *("0 %", "100 %", "33.3 %", "99.999 %", "< 0.0001 %", "–"),
        *("0 s", "999 ns", "41.2 µs", "−1.5 ms", "19 s"),
        *("50 min", "–", "32.9 MiB", "12 B"),
    ]


def test_prices_keep_the_places_of_their_tick():
    assert price(6_938_500_000_000, places(NANO // 4)) == "6,938.50"
    assert price(110_984_375_000, places(15_625_000)) == "110.984375"
    assert price(-NANO // 2, 0) == "−0.5"
    assert price(5 * NANO, places(NANO)) == "5"
    assert moment(OPEN + 1, digits=9) == "2026-01-05 14:30:00.000000001"

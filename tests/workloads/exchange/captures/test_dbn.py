"""DBN files of orders as MDP 3.0 packets. The oracles are Databento's own decoder for the file and a
walker written here, from the facts about the wire, for the packets."""

import io
import struct
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import databento_dbn
import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from workloads.exchange.captures import CaptureError, Terms, dbn, open_capture
from workloads.exchange.captures.products import PRODUCTS
from workloads.exchange.captures.source import Source

ES_DAY = "databento-es/esh4-glbx-mdp3-20231225.mbo.dbn.zst"
ES_BOOK = "databento-es/esh4-glbx-mdp3-20231224.mbo.dbn.zst"
END, RECOVERY = 128, 32
SECOND = 1_000_000_000
START = 1_703_541_600 * SECOND  # 2023-12-25 22:00 UTC


# What packets say, entry by entry.


@dataclass
class Walked:
    packets: list[tuple[int, int, list[int]]] = field(default_factory=list)  # seq, ts_sent, templates
    orders: list[tuple[Any, ...]] = field(default_factory=list)
    # seq, ts_sent, ts_event, order_id, quoted price, size, side, action, priority, flags, closes its event
    trades: list[tuple[Any, ...]] = field(
        default_factory=list
    )  # seq, ts_sent, ts_event, price, size, aggressor, n
    trade_orders: list[tuple[Any, ...]] = field(
        default_factory=list
    )  # seq, ts_event, order_id, size, closes event
    others: list[tuple[int, bytes]] = field(default_factory=list)  # template, message


def walk(path: Path, **options: Any) -> Walked:
    out = Walked()
    for block in open_capture(path, **options).blocks():
        for i in range(len(block)):
            packet(out, block[i])
    return out


def packet(out: Walked, payload: bytes) -> None:
    seq, ts_sent = struct.unpack_from("<IQ", payload)
    at, templates = 12, []
    while at < len(payload):
        size, _, template, schema, version = struct.unpack_from("<5H", payload, at)
        assert (schema, version) == (1, 13)
        templates.append(template)
        message = payload[at : at + size]
        assert len(message) == size
        if template == 47:
            order_book(out, seq, ts_sent, message)
        elif template == 48:
            trade_summary(out, seq, ts_sent, message)
        else:
            out.others.append((template, message))
        at += size
    out.packets.append((seq, ts_sent, templates))


def order_book(out: Walked, seq: int, ts_sent: int, message: bytes) -> None:
    ts_event, flags = struct.unpack_from("<QB", message, 10)
    width, n = struct.unpack_from("<HB", message, 21)
    assert (width, len(message)) == (40, 24 + 40 * n)
    for i in range(n):
        order_id, priority, price, size, instrument, action, side = struct.unpack_from(
            "<QQqiiBc", message, 24 + 40 * i
        )
        assert instrument in (17077, 5482)
        closes = bool(flags & END) and i == n - 1
        quoted = price // 100 if price != 2**63 - 1 else None
        out.orders.append(
            (seq, ts_sent, ts_event, order_id, quoted, size, side, action, priority, flags & ~END, closes)
        )
    if n == 0:
        out.others.append((47, message))


def trade_summary(out: Walked, seq: int, ts_sent: int, message: bytes) -> None:
    ts_event, flags = struct.unpack_from("<QB", message, 10)
    width, n = struct.unpack_from("<HB", message, 21)
    assert width == 32
    for i in range(n):
        price, size, _, _, orders, aggressor, action = struct.unpack_from("<qiiIiBB", message, 24 + 32 * i)
        assert action == 0
        out.trades.append((seq, ts_sent, ts_event, price // 100, size, aggressor, orders))
    at = 24 + 32 * n
    width, orders = struct.unpack_from("<H5xB", message, at)
    assert (width, len(message)) == (16, at + 8 + 16 * orders)
    for i in range(orders):
        order_id, size = struct.unpack_from("<Qi", message, at + 8 + 16 * i)
        closes = bool(flags & END) and i == orders - 1
        out.trade_orders.append((seq, ts_event, order_id, size, closes))


# Files made here: metadata by Databento's library, rows by hand.


def row(
    action: str, order_id: int = 1, side: str = "B", price: float = 4800, size: int = 1, **more: Any
) -> bytes:
    seq = more.get("seq", 1000)
    ts_event = more.get("ts_event", START)
    ts_recv = more.get("ts_recv", ts_event + 20_000)
    head = struct.pack(
        "<BBHIQQqIBBcc",
        14 + 2 * more.get("ts_out", False),
        0xA0,
        1,
        more.get("instrument", 17077),
        ts_event,
        order_id,
        round(price * SECOND),
        size,
        more.get("flags", 128),
        more.get("channel", 0),
        action.encode(),
        side.encode(),
    )
    return (
        head
        + struct.pack("<QiI", ts_recv, more.get("delta", 15_000), seq)
        + bytes(8 * more.get("ts_out", False))
    )


def write(folder: Path, *rows: bytes, symbol: str = "ESH4", compress: bool = False, **more: Any) -> Path:
    metadata = databento_dbn.Metadata(
        dataset=more.get("dataset", "GLBX.MDP3"),
        start=START,
        end=START + SECOND,
        stype_in=databento_dbn.SType.RAW_SYMBOL,
        stype_out=databento_dbn.SType.INSTRUMENT_ID,
        schema=databento_dbn.Schema.MBO,
        symbols=[symbol],
        partial=[],
        not_found=[],
        mappings=[
            SimpleNamespace(
                raw_symbol=symbol,
                intervals=[
                    SimpleNamespace(
                        start_date=np.datetime64("2023-12-25").item(),
                        end_date=np.datetime64("2023-12-26").item(),
                        symbol="17077",
                    )
                ],
            )
        ],
        ts_out=more.get("ts_out", False),
        version=more.get("version", 3),
    )
    data = metadata.encode() + b"".join(rows)
    path = folder / ("made.dbn.zst" if compress else "made.dbn")
    path.write_bytes(zstandard.ZstdCompressor(write_checksum=True).compress(data) if compress else data)
    return path


def records(path: Path) -> list[Any]:
    """The rows as Databento's own decoder gives them."""
    decoder = databento_dbn.DBNDecoder()
    data = path.read_bytes()
    compressed = path.suffix == ".zst"
    decoder.write(zstandard.ZstdDecompressor().stream_reader(io.BytesIO(data)).read() if compressed else data)
    return [record for record in decoder.decode() if isinstance(record, databento_dbn.MBOMsg)]


SIDE = {"B": b"0", "A": b"1"}
ACTION = {"A": 0, "M": 1, "C": 2}


# The real file.


@pytest.fixture(scope="module")
def es_rows(data_folder: Path) -> list[Any]:
    return records(data_folder / ES_DAY)


@pytest.fixture(scope="module")
def es(data_folder: Path) -> Walked:
    return walk(data_folder / ES_DAY)


def test_every_add_change_and_cancel_of_the_es_day_is_on_the_wire_in_order(es: Walked, es_rows: list[Any]):
    expected = [
        (
            r.sequence,
            r.ts_recv - r.ts_in_delta,
            r.ts_event,
            r.order_id,
            r.price,
            r.size,
            SIDE[str(r.side)],
            ACTION[str(r.action)],
            bool(int(r.flags) & 128),
        )
        for r in es_rows
        if not int(r.flags) & 32 and str(r.action) in ACTION
    ]
    assert len(expected) == 50_723
    assert [(*o[:8], o[10]) for o in es.orders if o[9] == 0] == expected


def test_every_trade_of_the_es_day_is_on_the_wire_in_order(es: Walked, es_rows: list[Any]):
    aggressor = {"B": 1, "A": 2, "N": 0}
    expected = [
        (r.sequence, r.ts_recv - r.ts_in_delta, r.ts_event, r.price, r.size, aggressor[str(r.side)])
        for r in es_rows
        if str(r.action) == "T"
    ]
    assert len(expected) == 2_973
    assert [trade[:6] for trade in es.trades] == expected


def test_every_fill_of_the_es_day_belongs_to_its_trade_behind_the_aggressor(es: Walked, es_rows: list[Any]):
    expected: list[list[tuple[Any, ...]]] = []
    for r, following in zip(es_rows, [*es_rows[1:], None], strict=True):
        entry = (r.sequence, r.ts_event, r.order_id, r.size, False)
        if str(r.action) == "F":
            expected[-1].append(entry)
        elif str(r.action) == "T":
            repeated = (
                following is not None and str(following.action) == "F" and following.order_id == r.order_id
            )
            expected.append([entry] if r.order_id and not repeated else [])
    assert [trade[6] for trade in es.trades] == [len(orders) for orders in expected]
    assert es.trade_orders == [entry for orders in expected for entry in orders]


def test_the_resting_fills_of_each_es_trade_add_up_to_it(es: Walked):
    """So that the aggressor is counted once, whether the file repeats it among the fills or not."""
    at = 0
    for _, _, _, _, size, aggressor, n in es.trades:
        own = [order[3] for order in es.trade_orders[at : at + n]]
        at += n
        if aggressor:
            assert own[0] == size == sum(own[1:])
        else:
            assert sum(own) == 2 * size  # an auction: both sides rested
    assert at == len(es.trade_orders)


def test_the_es_day_has_one_packet_per_sequence_number_without_a_gap(es: Walked, es_rows: list[Any]):
    seqs = [seq for seq, _, _ in es.packets]
    assert seqs == list(range(4_957 - 294, 59_585 + 1))
    live = {r.sequence: r.ts_recv - r.ts_in_delta for r in es_rows if not int(r.flags) & 32}
    beats = [(seq, ts_sent) for seq, ts_sent, templates in es.packets if templates == [12]]
    assert {seq for seq, _ in beats} == set(range(4_957, 59_585)) - live.keys()
    following = iter(sorted(live))
    held = next(following)
    for seq, ts_sent in beats:
        while held < seq:
            held = next(following)
        assert ts_sent == live[held]
    sent = [ts_sent for _, ts_sent, _ in es.packets]
    assert sent == sorted(sent)


def test_the_snapshot_of_the_es_day_leads_in_as_recovery(es: Walked, es_rows: list[Any]):
    expected = [
        (r.ts_event, r.order_id, r.price, r.size, SIDE[str(r.side)], 0, RECOVERY)
        for r in es_rows
        if int(r.flags) & 32
    ]
    book = [o for o in es.orders if o[9]]
    assert [(*o[2:8], o[9]) for o in book] == expected
    assert [o[10] for o in book] == [False] * 8_724 + [True]
    assert [template for _, _, templates in es.packets[:4] for template in templates] == [4, 54, 30, 47]
    assert es.packets[293][1] < es.packets[294][1] == 1_703_541_600_181_181_203


def test_the_book_of_the_es_day_ends_uncrossed(es: Walked):
    book: dict[int, tuple[bytes, int, int]] = {}
    for _, _, _, order_id, price, size, side, action, *_ in es.orders:
        if action == 2:
            assert book.pop(order_id)[2] == size
        else:
            book[order_id] = (side, price, size)
    assert max(p for s, p, _ in book.values() if s == b"0") == 4_810_000_000_000
    assert min(p for s, p, _ in book.values() if s == b"1") == 4_810_250_000_000


def test_every_order_of_the_es_day_keeps_its_priority_until_it_goes(es: Walked):
    """Ten thousand orders rest at once, and none is forgotten or mistaken for another."""
    place: dict[int, tuple[int, int, int]] = {}
    for _, _, _, order_id, price, size, _, action, priority, *_ in es.orders:
        if action == 2:
            assert place.pop(order_id)[2] == priority
            continue
        was = place.get(order_id)
        assert (was is None) == (action == 0)
        if was is not None:
            assert (priority == was[2]) == (price == was[0] and size <= was[1])
        place[order_id] = (price, size, priority)
    assert len({priority for _, _, priority in place.values()}) == len(place) == 11_217


def test_the_made_up_definition_reads_like_the_venues(data_folder: Path, newest: Any):
    block = next(iter(open_capture(data_folder / ES_DAY).blocks()))
    reset, future, status = (newest.packet(block[i])["messages"][0] for i in range(3))
    assert reset["name"].startswith("ChannelReset")
    fields = future["fields"]
    assert fields["Symbol"] == "ESH4"
    assert fields["SecurityID"] == 17077
    assert float(fields["MinPriceIncrement"].decimal) == 25.0
    assert float(fields["DisplayFactor"].decimal) == 0.01
    assert float(fields["MinPriceIncrementAmount"].decimal) == 12.5
    assert float(fields["UnitOfMeasureQty"].decimal) == 50
    assert status["name"].startswith("SecurityStatus")


def test_the_summary_of_the_es_day_says_what_is_made_up(data_folder: Path):
    info = open_capture(data_folder / ES_DAY).info
    assert (info.kind, info.instrument, info.venue, info.channel) == (
        "DBN version 1, MBO",
        "ESH4",
        "XCME",
        310,
    )
    assert (info.packets, info.records) == (54_923, 68_792)
    assert info.ts_last == 1_703_548_799_446_804_075
    assert any("7,686 sequence numbers" in note for note in info.notes)


def test_packets_of_the_es_day_fit_an_ethernet_frame(data_folder: Path):
    capture = open_capture(data_folder / ES_DAY)
    assert max(int(block.length.max()) for block in capture.blocks()) <= 1_472


def test_a_file_of_snapshot_rows_alone_becomes_a_book(data_folder: Path):
    walked = walk(data_folder / ES_BOOK)
    assert Counter(o[9] for o in walked.orders) == {RECOVERY: 8_725}
    assert [seq for seq, _, _ in walked.packets] == list(range(1, 295))


@pytest.mark.parametrize(
    "name", ["mbo.dbn", "mbo.v1.dbn.zst", "mbo.v2.dbn.zst", "mbo.v3.dbn", "mbo.v3.dbn.zst"]
)
def test_every_version_of_dbn_gives_the_same_packets(data_folder: Path, name: str):
    walked = walk(data_folder / f"dbn-testdata/test_data.{name}")
    expected = [
        (r.sequence, r.ts_recv - r.ts_in_delta, r.ts_event, r.order_id, r.price, r.size, SIDE[str(r.side)], 2)
        for r in records(data_folder / f"dbn-testdata/test_data.{name}")
    ]
    assert [row[0] for row in expected] == [1_170_352, 1_170_353]
    assert [o[:8] for o in walked.orders] == expected


@pytest.mark.parametrize("name", ["mbo.dbn", "mbo.v1.dbn.zst", "mbo.v2.dbn.zst", "mbo.v3.dbn.zst"])
def test_metadata_reads_as_databentos_own_decoder_reads_it(data_folder: Path, name: str):
    path = data_folder / f"dbn-testdata/test_data.{name}"
    with Source(path) as source:
        ours = dbn.read_metadata(source)
        at = source.position
    with Source(path) as source:
        theirs = databento_dbn.Metadata.decode(
            source.read(at), upgrade_policy=databento_dbn.VersionUpgradePolicy.AS_IS
        )
    assert (ours.version, ours.dataset, ours.ts_out) == (theirs.version, theirs.dataset, theirs.ts_out)
    assert ours.symbols == {
        interval["symbol"]: symbol for symbol, intervals in theirs.mappings.items() for interval in intervals
    }


def test_other_schemas_are_refused_by_name(data_folder: Path):
    refused = 0
    for path in sorted((data_folder / "dbn-testdata").glob("test_data.*.dbn*")):
        schema = path.name.split(".")[1]
        if schema == "mbo":
            continue
        with pytest.raises(CaptureError) as error:
            open_capture(path)
        refused += 1
        if ".frag" not in path.name:
            assert f"schema {schema} " in str(error.value)
    assert refused > 40


def test_legacy_dbz_is_refused_with_the_way_to_convert_it(data_folder: Path):
    with pytest.raises(CaptureError, match=r"legacy DBZ.*dbn IN"):
        open_capture(data_folder / "dbn-testdata/test_data.mbo.dbz")


# What the real file doesn't show.


def test_records_without_metadata_are_refused_as_a_fragment(tmp_path: Path):
    path = tmp_path / "made.dbn.frag"
    path.write_bytes(row("A"))
    with pytest.raises(CaptureError, match="fragment"):
        open_capture(path)


def test_rows_of_one_event_share_a_message_and_others_do_not(tmp_path: Path):
    path = write(
        tmp_path,
        row("A", 1, flags=0),
        row("A", 2, flags=128),
        row("A", 3, flags=0, ts_event=START + 1),
        row("A", 4, flags=128, ts_event=START + 2),
        row("T", 9, flags=0, ts_event=START + 3),
        row("F", 4, "A", flags=0, ts_event=START + 3),
        row("C", 4, flags=128, ts_event=START + 3),
    )
    assert walk(path).packets[-1][2] == [47, 47, 47, 48, 47]


def test_a_partial_cancel_becomes_a_change_to_what_is_left(tmp_path: Path):
    path = write(tmp_path, row("A", 7, size=10), row("C", 7, size=4, seq=1001), row("C", 7, size=6, seq=1002))
    assert [(o[5], o[7]) for o in walk(path).orders] == [(10, 0), (6, 1), (6, 2)]


def test_the_cancel_of_an_unknown_order_stays_a_cancel(tmp_path: Path):
    assert [(o[5], o[7]) for o in walk(write(tmp_path, row("C", 7, size=4))).orders] == [(4, 2)]


def test_priority_is_lost_by_a_new_price_or_a_larger_size_only(tmp_path: Path):
    path = write(
        tmp_path,
        row("A", 1, size=5),
        row("A", 2, size=5),
        row("M", 1, size=3),
        row("M", 1, size=3),
        row("M", 1, size=4),
        row("M", 2, size=5, price=4801),
        row("C", 1, size=4),
    )
    first, second, smaller, unchanged, larger, moved, cancelled = (o[8] for o in walk(path).orders)
    assert first < second < larger < moved
    assert smaller == unchanged == first
    assert cancelled == larger


def test_a_trade_with_more_orders_than_a_message_holds_goes_on_in_the_next(tmp_path: Path):
    fills = [row("F", 100 + i, "A", flags=0) for i in range(600)]
    walked = walk(write(tmp_path, row("T", 9, size=600, flags=0), *fills, row("C", 100, "A")))
    assert walked.packets[-1][2] == [48, 48, 48, 47]
    assert [trade[6] for trade in walked.trades] == [601]
    assert [order[2] for order in walked.trade_orders] == [9, *range(100, 700)]


def test_trades_share_a_message_as_long_as_their_orders_fit(tmp_path: Path):
    match = [row("T", 9, flags=0), *(row("F", i + 1, "A", flags=0) for i in range(100))]
    walked = walk(write(tmp_path, *match, *match, *match, row("C", 1, "A")))
    assert walked.packets[-1][2] == [48, 48, 47]
    assert [trade[6] for trade in walked.trades] == [101, 101, 101]


def test_more_than_255_orders_of_an_event_take_two_messages_and_one_end(tmp_path: Path):
    rows = [row("A", i + 1, flags=0) for i in range(299)]
    walked = walk(write(tmp_path, *rows, row("A", 300)))
    assert walked.packets[-1][2] == [47, 47]
    assert [o[10] for o in walked.orders] == [False] * 299 + [True]


def test_a_clear_row_empties_the_book(tmp_path: Path):
    path = write(tmp_path, row("A", 1, size=5), row("R", 0, "N", seq=1001), row("C", 1, size=2, seq=1002))
    reset, cancel = walk(path).orders[1:]
    assert reset[4:8] == (None, 2**31 - 1, b"J", 0)
    assert cancel[5:8] == (2, b"0", 2)  # unknown after the reset, so no partial cancel


def test_a_row_without_action_only_ends_its_event(tmp_path: Path):
    walked = walk(write(tmp_path, row("A", flags=0), row("N", 0, "N", seq=1001)))
    assert len(walked.orders) == 1
    template, message = walked.others[-1]
    assert (template, message[18] & END, message[23]) == (47, END, 0)


def test_sequence_numbers_that_restart_are_kept(tmp_path: Path):
    path = write(tmp_path, row("A", 1, seq=1000), row("A", 2, seq=1), row("A", 3, seq=3))
    assert [seq for seq, _, _ in walk(path).packets] == [997, 998, 999, 1000, 1, 2, 3]
    assert "sequence numbers restart 1 times" in open_capture(path).info.notes


def test_sequence_numbers_without_room_in_front_are_raised_and_that_is_said(tmp_path: Path):
    path = write(tmp_path, row("A", 1, seq=2), row("A", 2, seq=4))
    assert [seq for seq, _, _ in walk(path).packets] == [1, 2, 3, 4, 5, 6]
    assert any("plus 2" in note for note in open_capture(path).info.notes)


def test_snapshot_rows_behind_the_first_live_row_are_left_out(tmp_path: Path):
    path = write(tmp_path, row("A", 5, flags=40), row("A", 1), row("A", 6, flags=40), row("A", 2, seq=1001))
    assert [o[3] for o in walk(path).orders] == [5, 1, 2]
    assert any("left out: 1 snapshot rows" in note for note in open_capture(path).info.notes)


def test_records_with_a_send_time_behind_them_are_read(tmp_path: Path):
    path = write(tmp_path, row("A", 1, ts_out=True), row("A", 2, seq=1001, ts_out=True), ts_out=True)
    assert [o[3] for o in walk(path).orders] == [1, 2]


@pytest.mark.parametrize("rows_a_block", [1, 7, 30, 31])
def test_packets_do_not_depend_on_how_the_file_is_cut_into_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows_a_block: int
):
    book = [row("A", i + 1, flags=40, ts_event=START - SECOND + i // 40) for i in range(100)]
    live = [
        row("A", 200 + i, seq=1000 + i // 3, flags=128 * (i % 2), ts_event=START + i // 4) for i in range(100)
    ]
    path = write(tmp_path, *book, *live)
    whole = walk(path)
    info = open_capture(path).info
    monkeypatch.setattr(dbn, "BLOCK_ROWS", rows_a_block)
    assert walk(path) == whole
    assert open_capture(path).info == info
    assert info.packets == len(whole.packets)


def test_a_block_holds_no_more_than_a_few_megabytes(tmp_path: Path):
    """Ten million sequence numbers of others lie between two rows of ours."""
    path = write(tmp_path, row("A", 1), row("A", 2, seq=10_000_000, ts_event=START + 3_600 * SECOND))
    capture = open_capture(path)
    sizes = [(len(block), block.buffer.nbytes) for block in capture.blocks()]
    assert sum(n for n, _ in sizes) == capture.info.packets == 10_000_000 - 1_000 + 1 + 3
    assert max(size for _, size in sizes) <= 4 << 20


# Refusals.


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [row("A"), row("A", instrument=5)],
            r"at byte \d+ is of instrument 5, the first one of 17077; .* one symbol",
        ),
        ([row("X")], "has action 'X'"),
        ([row("A", side="N")], "has side 'N'"),
        ([row("A", size=2**31)], "has size 2147483648"),
        ([row("A", ts_event=2**64 - 1, ts_recv=START)], "has no valid time"),
        ([row("A"), row("A", seq=900_000)], "jumps over 898,999 sequence numbers within 0.000 s"),
        ([row("A", i) for i in range(801)], "more than 800 under sequence number 1000"),
        ([row("A"), b"\x14\xc0" + row("A")[2:]], "is no MBO record .*0xc0 and 80 bytes"),
        ([b"\xff\xa0" + row("A")[2:]], "are 0xa0 and 1020 bytes"),
        ([row("A"), row("A")[:30]], "cut off inside the record at byte .*30 of 56 bytes"),
        ([row("A", instrument=2**31)], "31 bits"),
        ([], "holds metadata but no record"),
    ],
)
def test_rows_that_cannot_be_replayed_are_refused_with_their_place(
    tmp_path: Path, rows: list[bytes], message: str
):
    with pytest.raises(CaptureError, match=message):
        open_capture(write(tmp_path, *rows))


def test_a_choice_of_flow_is_refused_for_dbn(tmp_path: Path):
    with pytest.raises(CaptureError, match="holds no UDP flows; leave out"):
        open_capture(write(tmp_path, row("A")), port=14310)


def test_another_dataset_is_refused(tmp_path: Path):
    with pytest.raises(CaptureError, match=r"dataset 'XNAS.ITCH'.*download GLBX.MDP3"):
        open_capture(write(tmp_path, row("A"), dataset="XNAS.ITCH"))


def test_a_version_that_nobody_knows_is_refused(tmp_path: Path):
    path = write(tmp_path, row("A"))
    path.write_bytes(b"DBN\x04" + path.read_bytes()[4:])
    with pytest.raises(CaptureError, match=r"DBN version 4 \(byte 3\)"):
        open_capture(path)


def test_an_unknown_product_asks_for_its_terms(tmp_path: Path):
    path = write(tmp_path, row("A", price=100.5), symbol="HEJ4")
    with pytest.raises(
        CaptureError, match=r"'HEJ4' .*--tick .* --multiplier .* --display-factor .* --currency"
    ):
        open_capture(path)
    capture = open_capture(path, terms=Terms.of("0.025", "400", "0.01", None))
    assert capture.info.instrument == "HEJ4"
    assert capture.info.channel is None
    assert walk(path, terms=Terms.of("0.025", "400", "0.01", None)).orders[0][4] == 100_500_000_000


def test_a_price_that_the_display_factor_does_not_divide_is_refused(tmp_path: Path):
    with pytest.raises(
        CaptureError, match=r"price 4800\.1, which is no whole wire price at display factor 0\.3"
    ):
        open_capture(write(tmp_path, row("A", price=4800.1)), terms=Terms.of("0.3", "50", "0.3", "USD"))


@pytest.mark.parametrize("text", ["0", "-1", "a", "1e-10", "1e10", "inf", "nan"])
def test_terms_that_are_no_positive_decimals_are_refused(text: str):
    with pytest.raises(CaptureError, match="no positive number"):
        Terms.of(text, None, None, None)


def test_the_tick_of_every_known_product_is_whole_on_the_wire():
    for product in PRODUCTS.values():
        assert product.tick * 10**9 % product.display_factor == 0
    assert PRODUCTS["ES"].wire_tick == 25 * 10**9
    assert PRODUCTS["ES"].tick_value == 12_500_000_000


# Damage.


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, bytes]:
    rows = [row("A", i + 1, flags=40) for i in range(3)]
    rows += [row("A", 10 + i, seq=1000 + 2 * i, ts_event=START + i) for i in range(3)]
    rows += [
        row("T", 10, seq=1006, flags=0),
        row("F", 11, "A", seq=1006, flags=0),
        row("C", 11, "A", seq=1006),
    ]
    folder = tmp_path_factory.mktemp("sample")
    return {zst: write(folder, *rows, compress=zst).read_bytes() for zst in (False, True)}


def packets_or_refusal(path: Path) -> bool:
    """True: packets; False: a refusal. Anything else is a failure."""
    try:
        capture = open_capture(path)
        assert sum(len(block) for block in capture.blocks()) == capture.info.packets
    except CaptureError:
        return False
    return True


@pytest.mark.parametrize("zst", [False, True])
def test_a_file_cut_anywhere_is_refused_unless_whole_records_are_left(
    tmp_path: Path, sample: dict[bool, bytes], zst: bool
):
    path = tmp_path / "cut.dbn"
    accepted = []
    for end in range(len(sample[zst])):
        path.write_bytes(sample[zst][:end])
        if packets_or_refusal(path):
            accepted.append(end)
    whole = [len(sample[zst]) - 56 * k for k in range(8, 0, -1)]
    assert accepted == ([] if zst else whole)


@settings(max_examples=300, deadline=None)
@given(st.data(), st.booleans())
def test_a_changed_byte_anywhere_gives_packets_or_a_refusal(
    sample_bytes: Any, data: st.DataObject, zst: bool
):
    path, samples = sample_bytes
    raw = bytearray(samples[zst])
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(raw)
    packets_or_refusal(path)


@pytest.fixture(scope="module")
def sample_bytes(
    sample: dict[bool, bytes], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[bool, bytes]]:
    return tmp_path_factory.mktemp("damage") / "damaged.dbn", sample

"""The simulated feed, read byte by byte with a plain reader that shares no code with the simulator.

Field offsets below are typed in from CME's SBE template schema, version 13.
"""

import dataclasses
import itertools
import struct
from collections import Counter, defaultdict

import numpy as np
import pytest

from workloads.exchange.forecast import DriftModel, filtered
from workloads.exchange.simulator import Simulator, SimulatorConfig, SimulatorError, Truth, default_futures

SECOND = 10**9
LIVELY = DriftModel(
    transition=((0.9, 0.1, 0.0), (0.05, 0.9, 0.05), (0.0, 0.1, 0.9)),
    moves=((0.5, 0.45, 0.05), (0.15, 0.7, 0.15), (0.05, 0.45, 0.5)),
    bid_share=(0.3, 0.5, 0.7),
)
CONFIG = SimulatorConfig(
    seed=3, duration_ns=60 * SECOND, intensity=6.0, drift=LIVELY, snapshot_interval_ns=3 * SECOND,
    late_orders_probability=0.3, split_probability=0.1, modify_share=0.25,
)  # fmt: skip
END, RECOVERY = 128, 32
SIDE_OF = {ord("0"): 1, ord("1"): 2}


class Reader:
    """Rebuilds books by order and by price from the incremental feed and notes what it saw."""

    def __init__(self):
        self.orders = defaultdict(dict)  # instrument -> order id -> (side, price, priority, size)
        self.levels = {}  # (instrument, side) -> [[price, size, orders], ...] best first
        self.rpt_seq = Counter()
        self.seq, self.ts_sent = 0, 0
        self.templates, self.flags = Counter(), Counter()
        self.ends = []  # (ts, instrument, best bid, best offer)
        self.open_event = None  # its ts, while an event has not ended
        self.touched = set()
        self.trades, self.pending = [], []
        self.volume = Counter()
        self.extremes = {}
        self.events_over_packets = self.packets_with_events = self.late_orders = self.lone_ends = 0
        self.order_templates = Counter()
        self.flow, self.changed = (
            [],
            [],
        )  # (ts, instrument, kind, +1 buy or -1 sell); kind and side in this event
        self.new_orders = []  # (ts, instrument, side, id, price, first at the second price?, the best)

    def packet(self, payload):
        seq, ts_sent = struct.unpack_from("<IQ", payload)
        assert seq == self.seq + 1
        assert ts_sent >= self.ts_sent
        self.seq, self.ts_sent = seq, ts_sent
        self.events_over_packets += self.open_event is not None
        ends, at = len(self.ends), 12
        assert len(payload) > 12
        while at < len(payload):
            size, block, template, schema, version = struct.unpack_from("<5H", payload, at)
            assert size >= 10 and (schema, version) == (1, 13)
            self.templates[template] += 1
            self.message(template, block, payload[at + 10 : at + size])
            at += size
        assert at == len(payload)
        self.packets_with_events += len(self.ends) - ends > 1

    def message(self, template, block, body):
        if template in (12, 54, 55, 56):
            assert self.open_event is None
            return
        if template == 30:
            assert body[26] & END and self.open_event is None
            return
        ts, flags = struct.unpack_from("<QB", body)
        assert self.ts_sent >= ts
        assert self.open_event in (None, ts)
        self.open_event = ts
        self.flags[template, flags] += 1
        groups = entries(body, block, template)
        if template == 4:
            self.orders.clear(), self.levels.clear(), self.rpt_seq.clear()
        elif template == 46:
            self.book(*groups, flags)
        elif template == 47:
            for row in groups[0]:
                order_id, priority, price, qty, instrument, action, kind = struct.unpack_from("<QQqiiBB", row)
                self.order(47, instrument, order_id, priority, price, qty, action, SIDE_OF[kind])
        elif template == 48:
            self.trade(*groups)
        elif template == 37:
            for row in groups[0]:
                size, instrument, rpt_seq, action = struct.unpack_from("<iiIB", row)
                self.next_rpt_seq(instrument, rpt_seq)
                assert action == 0
                self.volume[instrument] = size
        elif template == 49:
            for row in groups[0]:
                self.next_rpt_seq(*struct.unpack_from("<iI", row, 12))
        elif template == 50:
            for row in groups[0]:
                self.next_rpt_seq(*struct.unpack_from("<iI", row, 24))
        elif template == 51:
            for row in groups[0]:
                price, instrument, rpt_seq = struct.unpack_from("<qiI", row)
                self.next_rpt_seq(instrument, rpt_seq)
                self.extremes[instrument, chr(row[18])] = price
        else:
            raise AssertionError(f"template {template}")
        if flags & END:
            self.lone_ends += template == 46 and not groups[0]
            self.end(ts)

    def next_rpt_seq(self, instrument, rpt_seq):
        assert rpt_seq == self.rpt_seq[instrument] + 1
        self.rpt_seq[instrument] = rpt_seq

    def book(self, rows, orders, flags):
        places = []
        for row in rows:
            price, size, instrument, rpt_seq, count, level, action, kind = struct.unpack_from(
                "<qiiIiBBB", row
            )
            self.next_rpt_seq(instrument, rpt_seq)
            assert 1 <= level <= 10
            side = SIDE_OF[kind]
            book = self.levels.setdefault((instrument, side), [])
            if action == 0:
                assert level <= len(book) + 1
                book.insert(level - 1, [price, size, count])
                del book[10:]
            elif action == 1:
                assert book[level - 1][0] == price
                book[level - 1] = [price, size, count]
            else:
                assert action == 2 and book[level - 1][0] == price
                del book[level - 1]
            self.touched.add(instrument)
            places.append((instrument, side, price))
        for row in orders:
            order_id, priority, qty, reference, action = struct.unpack_from("<QQiBB", row)
            instrument, side, price = places[reference - 1]
            self.order(46, instrument, order_id, priority, price, qty, action, side)

    def order(self, template, instrument, order_id, priority, price, qty, action, side):
        book = self.orders[instrument]
        self.order_templates[template, action] += 1
        self.changed.append((instrument, ("add", "modify", "cancel")[action], 3 - 2 * side))
        if action == 2:
            assert book.pop(order_id)[:3] == (side, price, priority)
        else:
            assert (order_id in book) == (action == 1) and qty > 0
            if action == 0:
                prices = {at for of, at, _, _ in book.values() if of == side}
                better = [at for at in prices if (at > price) == (side == 1)]
                first = price not in prices and len(better) == 1
                self.new_orders.append(
                    (self.open_event, instrument, side, order_id, price, first, *better[:1])
                )
            book[order_id] = (side, price, priority, qty)
        self.touched.add(instrument)

    def trade(self, rows, orders):
        for row in rows:
            price, size, instrument, rpt_seq, count, aggressor = struct.unpack_from("<qiiIiB", row)
            self.next_rpt_seq(instrument, rpt_seq)
            self.pending.append([instrument, price, size, count, aggressor, []])
        self.late_orders += bool(orders) and not rows
        for row in orders:
            owner = next(trade for trade in self.pending if len(trade[5]) < trade[3])
            owner[5].append(struct.unpack_from("<Qi", row))

    def end(self, ts):
        for instrument, price, size, count, aggressor, fills in self.pending:
            assert len(fills) == count
            assert fills[0][1] == size == sum(fill[1] for fill in fills[1:])
            self.trades.append((instrument, price, size, aggressor, fills))
            if fills[0][0] not in self.orders[instrument]:  # the mid did not move
                self.flow.append((ts, instrument, "trade", 3 - 2 * aggressor))
        if not self.pending:
            self.flow += [(ts, *change) for change in self.changed]
        self.pending, self.changed = [], []
        for instrument in self.touched:
            depth = aggregate(self.orders[instrument])
            for side in (1, 2):
                assert self.levels[instrument, side] == depth[side][:10]
            bid, offer = depth[1][0][0], depth[2][0][0]
            assert bid < offer
            self.ends.append((ts, instrument, bid, offer))
        self.touched = set()
        self.open_event = None


def entries(body, block, template):
    """First group, then the long group of 46 and 48: a list of entries each."""
    size, n = struct.unpack_from("<HB", body, block)
    at = block + 3
    first = [body[at + k * size : at + (k + 1) * size] for k in range(n)]
    at += n * size
    if template not in (46, 48):
        assert at == len(body)
        return [first]
    size, n = struct.unpack_from("<H", body, at)[0], body[at + 7]
    at += 8
    assert at + n * size == len(body)
    return [first, [body[at + k * size : at + (k + 1) * size] for k in range(n)]]


def aggregate(orders):
    """Price levels of both sides, best first: [price, size, orders]."""
    depth = {1: {}, 2: {}}
    for side, price, _, size in orders.values():
        level = depth[side].setdefault(price, [price, 0, 0])
        level[1] += size
        level[2] += 1
    return {side: [depth[side][p] for p in sorted(depth[side], reverse=side == 1)] for side in (1, 2)}


def book_rows(reader):
    """(instrument, side, price, id, priority, size) by side, from the best price, in queue order."""
    rows = []
    for instrument, orders in reader.orders.items():
        for order_id, (side, price, priority, size) in orders.items():
            key = (instrument, side, -price if side == 1 else price, priority)
            rows.append((key, (instrument, side, price, order_id, priority, size)))
    return [row for _, row in sorted(rows)]


def payloads(config):
    simulator = Simulator(config)
    incremental, snapshots = [], []
    for block in simulator.blocks():
        incremental += [block.incremental[k] for k in range(len(block.incremental))]
        snapshots += [block.snapshots[k] for k in range(len(block.snapshots))]
    return incremental, snapshots, simulator.truth()


@pytest.fixture(scope="module")
def session():
    return payloads(CONFIG)


@pytest.fixture(scope="module")
def read(session):
    """The session, read to its end: most invariants are asserted on the way."""
    reader = Reader()
    for payload in session[0]:
        reader.packet(payload)
    assert reader.open_event is None
    return reader


def test_the_books_rebuilt_from_order_entries_equal_the_truth_in_queue_order(session, read):
    truth = session[2]
    rows = [tuple(row) for row in truth.book.tolist()]
    assert sorted(book_rows(read)) == sorted(rows)
    for i in truth.instrument_id.tolist():
        assert [r for r in book_rows(read) if r[0] == i] == [r for r in rows if r[0] == i]


def test_every_kind_of_order_action_travels_inside_and_outside_the_ten_levels(read):
    assert {(t, a) for t in (46, 47) for a in (0, 1, 2)} == set(read.order_templates)


def test_events_span_packets_and_packets_hold_events(read):
    assert read.events_over_packets > 50
    assert read.packets_with_events > 50
    assert read.late_orders > 20
    assert read.lone_ends > 20


def test_event_flags_say_which_kind_of_message_was_the_last(read):
    assert {flags for template, flags in read.flags if template == 48} == {0, 1}
    assert {flags for template, flags in read.flags if template == 37} == {2}
    assert {flags for template, flags in read.flags if template == 46} == {0, 4, 4 | END, END}
    assert {flags for template, flags in read.flags if template == 47} <= {0, 4, 4 | END}
    assert {flags for template, flags in read.flags if template == 51} == {8, 8 | END}


def test_counts_of_the_truth_are_those_of_the_feed(session, read):
    incremental, snapshots, truth = session
    assert (truth.packets, truth.snapshot_packets) == (len(incremental), len(snapshots))
    assert {t: n for t, n in enumerate(truth.messages.tolist()) if n and t not in (52, 53)} == read.templates
    assert truth.trades == len(read.trades)


def test_published_volume_is_the_sum_of_the_trades(session, read):
    traded = Counter()
    for instrument, _, size, _, _ in read.trades:
        traded[instrument] += size
    assert read.volume == traded
    assert dict(traded) == dict(
        zip(*(a.tolist() for a in (session[2].instrument_id, session[2].volume)), strict=True)
    )


def test_session_high_and_low_are_those_of_the_trades(read):
    prices = defaultdict(list)
    for instrument, price, *_ in read.trades:
        prices[instrument].append(price)
    for instrument, traded in prices.items():
        assert read.extremes[instrument, "4"] == traded[0]
        assert read.extremes[instrument, "7"] == max(traded)
        assert read.extremes[instrument, "8"] == min(traded)


def test_the_mid_follows_the_hidden_moves_step_by_step(session, read):
    truth = session[2]
    assert np.abs(truth.moves).sum() > 100
    for i, instrument in enumerate(truth.instrument_id.tolist()):
        ends = [(ts, bid, offer) for ts, at, bid, offer in read.ends if at == instrument]
        position = np.searchsorted([ts for ts, _, _ in ends], truth.ts_step + CONFIG.step_ns) - 1
        mid = [(ends[k][1] + ends[k][2]) / 2 for k in position]
        assert mid == truth.mid[:, i].tolist()
        assert all(offer - bid == truth.wire_tick[i] for _, bid, offer in ends)


def test_the_books_of_the_default_market_never_empty_and_stay_one_tick_wide():
    incremental, _, truth = payloads(SimulatorConfig(seed=6, duration_ns=120 * SECOND))
    tick = dict(zip(truth.instrument_id.tolist(), truth.wire_tick.tolist(), strict=True))
    reader = Reader()
    for payload in incremental:
        reader.packet(payload)
        if reader.ts_sent >= truth.ts_step[0]:
            assert min(map(len, reader.levels.values())) >= 2
    assert {(offer - bid) // tick[instrument] for _, instrument, bid, offer in reader.ends} == {1}
    assert set(np.unique(truth.states)) == {0, 1, 2, 3} and np.abs(truth.moves).sum() > 500


def test_every_move_of_the_mid_is_made_by_a_trade_that_takes_a_whole_level(session, read):
    truth = session[2]
    moved = sum(
        1
        for i, instrument in enumerate(truth.instrument_id.tolist())
        for before, after in itertools.pairwise([bid for _, at, bid, _ in read.ends if at == instrument])
        if before != after
    )
    assert moved == np.abs(truth.moves).sum()


def test_what_the_best_forecast_needs_can_be_counted_in_the_feed(session, read):
    """The noise flow's: what did not trade before it rested, nor fills an empty second-best price."""
    truth = session[2]
    tick = dict(zip(truth.instrument_id.tolist(), truth.wire_tick.tolist(), strict=True))
    column = {instrument: i for i, instrument in enumerate(truth.instrument_id.tolist())}
    aggressors = {fills[0][0] for *_, fills in read.trades}
    adds, bid_adds, answers = np.zeros_like(truth.adds), np.zeros_like(truth.adds), 0
    for ts, instrument, side, order_id, price, first, *better in read.new_orders:
        fills_second = first and abs(better[0] - price) == tick[instrument]
        answers += fills_second
        if ts >= truth.ts_step[0] and order_id not in aggressors and not fills_second:
            step = (ts - truth.ts_step[0]) // CONFIG.step_ns
            adds[step, column[instrument]] += 1
            bid_adds[step, column[instrument]] += side == 1
    assert (adds == truth.adds).all() and (bid_adds == truth.bid_adds).all()
    assert truth.adds.sum() > 1_000 and answers > 10


def test_trades_cancels_and_modifies_tell_nothing_about_the_drift_beyond_the_filter():
    """What the filter does not know of the state is uncorrelated with the sides of all other actions."""
    incremental, _, truth = payloads(dataclasses.replace(CONFIG, seed=8, duration_ns=180 * SECOND))
    reader = Reader()
    for payload in incremental:
        reader.packet(payload)
    column = {instrument: i for i, instrument in enumerate(truth.instrument_id.tolist())}
    balance = {kind: np.zeros(truth.states.shape) for kind in ("add", "modify", "cancel", "trade")}
    for ts, instrument, kind, sign in reader.flow:
        if ts >= truth.ts_step[0]:
            balance[kind][(ts - truth.ts_step[0]) // CONFIG.step_ns, column[instrument]] += sign
    known = [filtered(truth.observations(i), LIVELY) @ np.array([-1, 0, 1]) for i in range(4)]
    drift = truth.states - 1.0  # -1, 0, +1
    surprise = drift - np.column_stack(known)
    assert abs(z_score(drift * balance["add"])) > 8  # the test sees what is there
    for kind in balance:
        assert abs(z_score(surprise * balance[kind])) < 4, kind


def z_score(products):
    return products.mean() / (products.std() / np.sqrt(products.size))


def test_every_message_reads_the_same_by_the_venues_own_schema(session, newest):
    """Blocks and groups as the schema XML places them, and only codes that it knows."""
    enums, known = list(newest.enums.values()), 0
    for payload in session[0][:1_500] + session[1][:100]:
        packet = newest.packet(payload)
        assert packet["error"] is None
        for message in packet["messages"]:
            assert message["error"] is None
            layout = newest.messages[message["template"]]
            assert message["block_length"] == layout.block_length
            blocks = [(layout.fields, [message["fields"]])]
            blocks += [(group.fields, message["groups"][group.name]) for group in layout.groups]
            for fields, rows in blocks:
                for field in (field for field in fields if getattr(field.type, "values", None) in enums):
                    codes = {row[field.name] for row in rows} - {None}
                    assert codes <= set(field.type.values.values()), (message["name"], field.name)
                    known += len(codes)
    assert known > 5_000


def test_a_snapshot_equals_the_book_at_its_last_sequence_number(session):
    incremental, snapshots, _ = session
    loops = defaultdict(list)
    for n, payload in enumerate(snapshots):
        seq, size, template, last_seq = *struct.unpack_from("<I", payload), *snapshot_head(payload)
        assert seq == n + 1 and size == len(payload) - 12
        loops[last_seq].append((template, payload[22:]))
    assert len(loops) == 1 + CONFIG.duration_ns // CONFIG.snapshot_interval_ns
    reader = Reader()
    for payload in incremental:
        reader.packet(payload)
        if reader.seq in loops:
            loop = loops.pop(reader.seq)
            compare_levels(reader, [body for template, body in loop if template == 52])
            compare_orders(reader, [body for template, body in loop if template == 53])
    assert not loops


def snapshot_head(payload):
    size, _, template, _, _ = struct.unpack_from("<5H", payload, 12)
    return size, template, struct.unpack_from("<I", payload, 22)[0]


def compare_levels(reader, bodies):
    assert len(bodies) == 4
    for body in bodies:
        _, reports, instrument, rpt_seq = struct.unpack_from("<IIiI", body)
        assert reports == 4 and rpt_seq == reader.rpt_seq[instrument]
        levels, statistics = {1: [], 2: []}, {}
        for row in entries(body, 59, 52)[0]:
            price, size, orders, level = struct.unpack_from("<qiib", row)
            if row[21] in SIDE_OF:
                levels[SIDE_OF[row[21]]].append([price, size, orders])
                assert level == len(levels[SIDE_OF[row[21]]])
            else:
                statistics[chr(row[21])] = (price, size)
        assert levels == {side: reader.levels[instrument, side] for side in (1, 2)}
        assert statistics["e"][1] == reader.volume[instrument]
        assert statistics["7"][0] == reader.extremes[instrument, "7"]


def compare_orders(reader, bodies):
    rows, expected_chunk = [], {}
    for body in bodies:
        _, reports, instrument, chunks, chunk = struct.unpack_from("<IIiII", body)
        assert reports == 4 and chunk == expected_chunk.get(instrument, 0) + 1 <= chunks
        expected_chunk[instrument] = chunk
        for row in entries(body, 28, 53)[0]:
            order_id, priority, price, size = struct.unpack_from("<QQqi", row)
            rows.append((instrument, SIDE_OF[row[28]], price, order_id, priority, size))
    assert sorted(rows) == sorted(book_rows(reader))
    for instrument in expected_chunk:
        assert [r for r in rows if r[0] == instrument] == [r for r in book_rows(reader) if r[0] == instrument]


def test_equal_configurations_give_equal_bytes_whatever_the_block_length():
    config = dataclasses.replace(CONFIG, duration_ns=4 * SECOND)
    bytes_of = [payloads(dataclasses.replace(config, block_ns=b * SECOND // 4))[:2] for b in (1, 7, 100)]
    assert bytes_of[0] == bytes_of[1] == bytes_of[2]


def test_another_seed_gives_another_session():
    config = dataclasses.replace(CONFIG, duration_ns=2 * SECOND)
    assert payloads(config)[0] != payloads(dataclasses.replace(config, seed=4))[0]


def test_another_gateway_leaves_the_market_as_it_was():
    config = dataclasses.replace(CONFIG, duration_ns=4 * SECOND)
    one = payloads(config)
    other = payloads(
        dataclasses.replace(config, split_probability=0.0, coalesce_ns=0, closing_probability=1.0)
    )
    assert one[0] != other[0]
    assert (one[2].book == other[2].book).all() and (one[2].bid_adds == other[2].bid_adds).all()


@pytest.mark.parametrize("most", [1_200, 1_472])
def test_no_packet_is_larger_than_configured(most):
    """Deep books and long coalescing fill packets to the brim."""
    config = dataclasses.replace(
        CONFIG,
        packet_bytes=most,
        orders=500,
        intensity=60.0,
        coalesce_ns=SECOND // 100,
        duration_ns=4 * SECOND,
    )
    incremental, snapshots, _ = payloads(config)
    sizes = [len(payload) for payload in incremental + snapshots]
    assert most - 250 < max(sizes) <= most


def test_definitions_carry_wire_ticks_that_are_the_quoted_ticks_over_the_display_factor(session):
    found = {}
    for payload in session[0][:20]:
        at = 12
        while at < len(payload):
            size, _, template, _, _ = struct.unpack_from("<5H", payload, at)
            if template == 54:
                body = payload[at + 10 : at + size]
                found[struct.unpack_from("<i", body, 55)[0]] = struct.unpack_from("<qq", body, 91)
            at += size
    assert len(found) == len(default_futures()) + 1  # and a back month
    for future in default_futures():
        tick, factor = found[future.instrument_id]
        assert tick * factor == future.tick * 10**9


def test_a_channel_reset_is_followed_by_the_whole_book_with_the_recovery_bit():
    config = dataclasses.replace(CONFIG, duration_ns=4 * SECOND, channel_reset_ns=2 * SECOND)
    incremental, _, truth = payloads(config)
    reader = Reader()
    for payload in incremental:
        reader.packet(payload)
    assert reader.templates[4] == 1
    for template, flags in ((46, RECOVERY | 4 | END), (37, RECOVERY | 2), (51, RECOVERY | 8 | END)):
        assert reader.flags[template, flags] == len(truth.instrument_id)
    assert sorted(reader.volume.values()) == sorted(truth.volume.tolist())
    assert sorted(book_rows(reader)) == sorted(tuple(row) for row in truth.book.tolist())


def test_a_sequence_restart_begins_again_at_one_with_definitions_and_books():
    config = dataclasses.replace(CONFIG, duration_ns=4 * SECOND, sequence_restart_ns=2 * SECOND)
    incremental, _, truth = payloads(config)
    starts = [k for k, payload in enumerate(incremental) if struct.unpack_from("<I", payload)[0] == 1]
    assert len(starts) == 2
    assert struct.unpack_from("<Q", incremental[starts[1]], 4) > struct.unpack_from(
        "<Q", incremental[starts[1] - 1], 4
    )
    reader = Reader()
    for payload in incremental[starts[1] :]:
        reader.packet(payload)
    assert reader.templates[54] == 5 and reader.templates[4] == 1
    assert sorted(book_rows(reader)) == sorted(tuple(row) for row in truth.book.tolist())


def test_an_idle_channel_sends_heartbeats():
    config = dataclasses.replace(
        CONFIG, intensity=0.1, burstiness=1.0, drift=DriftModel(), duration_ns=20 * SECOND
    )
    reader = Reader()
    for payload in payloads(config)[0]:
        before = reader.ts_sent
        reader.packet(payload)
        assert before == 0 or reader.ts_sent - before < 2 * config.heartbeat_ns
    assert reader.templates[12] > 10


def test_the_truth_survives_a_file(session, tmp_path):
    truth = session[2]
    truth.save(tmp_path / "truth.npz")
    again = Truth.load(tmp_path / "truth.npz")
    for field in dataclasses.fields(Truth):
        assert np.array_equal(getattr(truth, field.name), getattr(again, field.name)), field.name


def test_a_file_that_is_no_truth_is_refused_with_its_name(tmp_path):
    (tmp_path / "other.npz").write_bytes(b"no archive")
    with pytest.raises(SimulatorError, match=r"other\.npz"):
        Truth.load(tmp_path / "other.npz")


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"packet_bytes": 500}, "packet_bytes"),
        ({"duration_ns": 1}, "duration_ns"),
        ({"split_probability": 2.0}, "split_probability"),
        ({"futures": ()}, "futures"),
        ({"intensity": 1e6}, "intensity"),
    ],
)
def test_an_impossible_configuration_is_refused_by_name(change, word):
    with pytest.raises(SimulatorError, match=word):
        SimulatorConfig(**change)


def test_a_simulator_runs_once_and_knows_the_truth_at_its_end():
    simulator = Simulator(dataclasses.replace(CONFIG, duration_ns=SECOND))
    with pytest.raises(SimulatorError, match="all blocks"):
        simulator.truth()
    list(simulator.blocks())
    assert simulator.truth().packets > 0
    with pytest.raises(SimulatorError, match="runs once"):
        next(simulator.blocks())

"""The recovery feed: a loop of snapshots of every instrument that trades, in a packet sequence of its own.

Source: CME MDP 3.0, Market Recovery; templates 52 (prices and statistics) and 53 (orders, in chunks).
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call"
# Compiled: Numba infers the types.

import numpy as np
from numba import njit

from workloads.exchange import encode, mdp3
from workloads.exchange.simulator.gateway import INCREMENTAL, SNAPSHOT, room, stamp
from workloads.exchange.simulator.matching import ASK, BID, DEPTH, NO_TICK, NONE, away, level_at
from workloads.exchange.simulator.messages import wire

_CHUNK = 38  # orders of a 53: 29 bytes each; fits the smallest packet_bytes
_GAP_NS = 4_000  # from packet to packet
_READY = 17
_TRADE, _OPEN, _SETTLEMENT = np.int64(ord("2")), np.int64(ord("4")), np.int64(ord("6"))
_HIGH, _LOW, _OPEN_INTEREST, _VOLUME = (np.int64(ord(letter)) for letter in "78Ce")
_NO_SIZE, _NO_LEVEL = np.int64(mdp3.NULL_I32), np.int64(mdp3.NULL_I8)
_BID_TYPE = ord("0")


@njit(nogil=True, cache=True)
def send_snapshots(market, rules, ts):
    """One loop at ``ts``, the end of a step, when no incremental packet is open: one message a packet."""
    reports = len(market.instrument)
    sent = max(ts, market.feed[SNAPSHOT].ts_sent)
    for i in range(reports):
        _send_levels(market, rules, i, reports, sent)
        sent += _GAP_NS
        stamp(market, SNAPSHOT, sent)
    for i in range(reports):
        n = market.side[i, BID].orders + market.side[i, ASK].orders
        chunks = max(1, (n + _CHUNK - 1) // _CHUNK)
        side, tick, slot = BID, market.side[i, BID].best, NONE
        slot = level_at(market, i, side, tick).head
        for chunk in range(chunks):
            size = min(_CHUNK, n - chunk * _CHUNK)
            at = room(market, rules, SNAPSHOT, 41 + 29 * size, sent)
            message = at
            at = encode.message_header(at, mdp3.SNAPSHOT_ORDERS, 28)
            instrument = market.instrument[i]
            last_seq = market.feed[INCREMENTAL].seq - 1
            at = encode.snapshot_orders_root(
                at, last_seq, reports, instrument.id, chunks, chunk + 1, instrument.ts_event
            )
            at = encode.group(at, 29, size)
            for _ in range(size):
                while slot == NONE:
                    tick += away(side)
                    if side == BID and market.side[i, BID].best - tick >= rules.reach:
                        side, tick = ASK, market.side[i, ASK].best
                    slot = level_at(market, i, side, tick).head
                order = market.order[i, slot]
                at = encode.snapshot_order_entry(
                    at, order.id, order.priority, wire(market, i, order.tick), order.size, _BID_TYPE + side
                )
                slot = order.next
            encode.end_message(message, at)
            sent += _GAP_NS
            stamp(market, SNAPSHOT, sent)


@njit(nogil=True, cache=True)
def _send_levels(market, rules, i, reports, ts):
    instrument = market.instrument[i]
    statistics = 3  # volume, settlement, open interest
    if instrument.last != NO_TICK:
        statistics += 4  # last trade, open, high, low
    n = statistics + _shown(market, rules, i, BID) + _shown(market, rules, i, ASK)
    at = room(market, rules, SNAPSHOT, 72 + 22 * n, ts)
    message = at
    at = encode.snapshot_root(
        encode.message_header(at, mdp3.SNAPSHOT, 59),
        market.feed[INCREMENTAL].seq - 1,
        reports,
        instrument.id,
        instrument.rpt_seq,
        instrument.ts_event,
        rules.definitions_ns,
        rules.trade_date,
        _READY,
        wire(market, i, instrument.high_limit),
        wire(market, i, instrument.low_limit),
        wire(market, i, instrument.max_variation),
    )
    at = encode.group(at, 22, n)
    for side in (BID, ASK):
        tick = market.side[i, side].best
        k = 0
        for _ in range(rules.reach):
            level = level_at(market, i, side, tick)
            if level.orders > 0 and k < DEPTH:
                k += 1
                at = _entry(at, wire(market, i, tick), level.size, level.orders, k, rules, _BID_TYPE + side)
            tick += away(side)
    if instrument.last != NO_TICK:
        at = _statistic(market, rules, i, at, instrument.last, instrument.last_size, _TRADE)
        at = _statistic(market, rules, i, at, instrument.open, _NO_SIZE, _OPEN)
        at = _statistic(market, rules, i, at, instrument.high, _NO_SIZE, _HIGH)
        at = _statistic(market, rules, i, at, instrument.low, _NO_SIZE, _LOW)
    at = _statistic(market, rules, i, at, NO_TICK, instrument.volume, _VOLUME)
    at = _statistic(market, rules, i, at, instrument.settlement, _NO_SIZE, _SETTLEMENT)
    at = _statistic(market, rules, i, at, NO_TICK, instrument.open_interest, _OPEN_INTEREST)
    encode.end_message(message, at)


@njit(nogil=True, cache=True)
def _shown(market, rules, i, side):
    """Levels that hold an order, at most DEPTH."""
    k = 0
    tick = market.side[i, side].best
    for _ in range(rules.reach):
        if level_at(market, i, side, tick).orders > 0:
            k += 1
        tick += away(side)
    return min(k, DEPTH)


@njit(nogil=True, cache=True)
def _statistic(market, rules, i, at, tick, size, entry_type):
    return _entry(at, wire(market, i, tick), size, _NO_SIZE, _NO_LEVEL, rules, entry_type)


@njit(nogil=True, cache=True)
def _entry(at, price, size, orders, level, rules, entry_type):
    dated = entry_type in (_SETTLEMENT, _OPEN_INTEREST)
    return encode.snapshot_entry(
        at,
        price,
        size,
        orders,
        level,
        rules.settlement_date if dated else mdp3.NULL_U16,
        0 if entry_type == _OPEN else mdp3.NULL_U8,
        3 if entry_type == _SETTLEMENT else mdp3.NULL_U8,
        entry_type,
    )

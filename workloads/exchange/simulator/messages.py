"""What the market does, as MDP 3.0 messages: each function changes a book and publishes the change.

An event is trade summary (48), volume (37), orders outside the ten levels (47), the ten levels with their
orders (46), session statistics (51); only its last message carries bit 7, sometimes an empty 46 of its own.
Source: CME MDP 3.0, Market by Price and Market by Order, Event Based Messaging, Trade Summary.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call"
# Compiled: Numba infers the types.

import numpy as np
from numba import njit

from workloads.exchange import encode, mdp3
from workloads.exchange.simulator import chance
from workloads.exchange.simulator.gateway import INCREMENTAL, begin_event, close, maybe_split, room
from workloads.exchange.simulator.matching import (
    ASK,
    BID,
    DEPTH,
    NO_TICK,
    NONE,
    away,
    deepest_shown,
    dequeue,
    enqueue,
    insert,
    level_at,
    new_order_id,
    rank,
    remove,
    resize,
)

NEW, CHANGE, DELETE = np.int64(0), np.int64(1), np.int64(2)
ENTRY, ORDERED, MBO = np.int64(0), np.int64(1), np.int64(2)
"""Drafts of an event: price levels of the 46, their orders, orders of the 47."""
LAST_TRADE, LAST_VOLUME, LAST_QUOTE, LAST_STATISTICS = np.int64(1), np.int64(2), np.int64(4), np.int64(8)
RECOVERY, END = np.int64(32), np.int64(128)
NOTHING = np.int64(0)
_OPEN, _HIGH, _LOW = np.int64(ord("4")), np.int64(ord("7")), np.int64(ord("8"))
_ONE = np.int64(1)
_ALL_STATISTICS = np.int64(7)
_NO_FLAG = np.int64(mdp3.NULL_U8)
_DEPTH = np.int64(DEPTH)
_BID_TYPE = ord("0")
_VOLUME_BYTES = np.int64(40)
_MBO_ENTRIES = 28  # of a 47: 40 bytes each; fits the smallest packet_bytes
_FULL = 1_340  # bytes; a 46 that would be larger is sent before more is added


@njit(nogil=True, cache=True)
def wire(market, i, tick):
    """A price in ticks as a wire mantissa; null where there is none."""
    if tick == NO_TICK:
        return mdp3.NULL_I64
    return tick * market.instrument[i].wire_tick


@njit(nogil=True, cache=True)
def draft_level(market, i, side, tick, size, orders, level, action):
    """Add an entry to the event's 46; returns its 1-based position."""
    feed = market.feed[INCREMENTAL]
    row = market.draft[ENTRY, feed.entries]
    feed.entries += 1
    instrument = market.instrument[i]
    instrument.rpt_seq += 1
    row[0] = wire(market, i, tick)
    row[1] = size
    row[2] = instrument.rpt_seq
    row[3] = orders
    row[4] = level
    row[5] = action
    row[6] = _BID_TYPE + side
    return feed.entries


@njit(nogil=True, cache=True)
def draft_order(market, i, slot, reference, action):
    """Add an order: to the 46 beside its level, or (reference 0, outside the ten levels) to the 47."""
    feed = market.feed[INCREMENTAL]
    order = market.order[i, slot]
    if reference > 0:
        row = market.draft[ORDERED, feed.orders]
        feed.orders += 1
        row[0] = order.id
        row[1] = order.priority
        row[2] = order.size
        row[3] = reference
        row[4] = action
    else:
        row = market.draft[MBO, feed.mbo]
        feed.mbo += 1
        row[0] = order.id
        row[1] = order.priority
        row[2] = wire(market, i, order.tick)
        row[3] = order.size
        row[4] = action
        row[5] = _BID_TYPE + order.side


@njit(nogil=True, cache=True)
def draft_change(market, i, side, tick, before):
    """Publish a level that had ``before`` orders; returns the entry's position, 0 if it isn't shown.

    A level that is pushed out by a new one is not mentioned; the one that comes into sight when a level
    disappears is new at level 10, without orders: these are known.
    """
    level = level_at(market, i, side, tick)
    k = rank(market, i, side, tick)
    if k > DEPTH:
        return 0
    action = CHANGE
    if before == 0:
        action = NEW
    elif level.orders == 0:
        action = DELETE
    reference = draft_level(market, i, side, tick, level.size, level.orders, k, action)
    if action == DELETE:
        deepest = deepest_shown(market, i, side)
        if deepest != NO_TICK:
            shown = level_at(market, i, side, deepest)
            draft_level(market, i, side, deepest, shown.size, shown.orders, _DEPTH, NEW)
    return reference


@njit(nogil=True, cache=True)
def send_mbo(market, rules, i, ts, flags, last_flags):
    """The event's 47, in messages of at most 28 orders; ``last_flags`` on the last one."""
    feed = market.feed[INCREMENTAL]
    sent = 0
    while sent < feed.mbo:
        n = min(_MBO_ENTRIES, feed.mbo - sent)
        size = 24 + 40 * n
        at = room(market, rules, INCREMENTAL, size, ts)
        message = at
        now = last_flags if sent + n == feed.mbo else flags
        at = encode.refresh_root(encode.message_header(at, mdp3.ORDER_BOOK, 11), ts, now)
        at = encode.group(at, 40, n)
        for k in range(sent, sent + n):
            row = market.draft[MBO, k]
            at = encode.order_book_entry(
                at, row[0], row[1], row[2], row[3], market.instrument[i].id, row[4], row[5]
            )
        encode.end_message(message, at)
        sent += n
        maybe_split(market, rules)
    feed.mbo = 0


@njit(nogil=True, cache=True)
def send_book(market, rules, i, ts, flags):
    """The event's 46, which may be empty."""
    feed = market.feed[INCREMENTAL]
    size = 32 + 32 * feed.entries + 24 * feed.orders
    at = room(market, rules, INCREMENTAL, size, ts)
    message = at
    at = encode.refresh_root(encode.message_header(at, mdp3.BOOK, 11), ts, flags)
    at = encode.group(at, 32, feed.entries)
    for k in range(feed.entries):
        row = market.draft[ENTRY, k]
        at = encode.book_entry(
            at, row[0], row[1], market.instrument[i].id, row[2], row[3], row[4], row[5], row[6], mdp3.NULL_I32
        )
    at = encode.long_group(at, 24, feed.orders)
    for k in range(feed.orders):
        row = market.draft[ORDERED, k]
        at = encode.book_order(at, row[0], row[1], row[2], row[3], row[4])
    encode.end_message(message, at)
    feed.entries = 0
    feed.orders = 0


@njit(nogil=True, cache=True)
def finish(market, rules, i, ts, statistics):
    """Send what the event changed in the book, and ``statistics`` (bits 1 open, 2 high, 4 low); end it."""
    market.instrument[i].ts_event = ts
    feed = market.feed[INCREMENTAL]
    alone = chance.uniform(market.random, chance.WIRE) < rules.closing_probability
    end = NOTHING if alone else END
    shown = feed.entries > 0
    if feed.mbo > 0:
        last = 0 if shown else LAST_QUOTE | (0 if statistics else end)
        send_mbo(market, rules, i, ts, NOTHING, last)
    if shown:
        send_book(market, rules, i, ts, LAST_QUOTE | (0 if statistics else end))
    if statistics:
        maybe_split(market, rules)
        send_session_statistics(market, rules, i, ts, statistics, LAST_STATISTICS | end)
    if alone:
        maybe_split(market, rules)
        send_book(market, rules, i, ts, END)


@njit(nogil=True, cache=True)
def send_session_statistics(market, rules, i, ts, statistics, flags):
    n = (statistics & 1) + (statistics >> 1 & 1) + (statistics >> 2 & 1)
    at = room(market, rules, INCREMENTAL, 24 + 24 * n, ts)
    message = at
    at = encode.refresh_root(encode.message_header(at, mdp3.SESSION_STATISTICS, 11), ts, flags)
    at = encode.group(at, 24, n)
    if statistics & 1:
        at = session_entry(market, i, at, market.instrument[i].open, _OPEN, NOTHING)
    if statistics & 2:
        at = session_entry(market, i, at, market.instrument[i].high, _HIGH, _NO_FLAG)
    if statistics & 4:
        at = session_entry(market, i, at, market.instrument[i].low, _LOW, _NO_FLAG)
    encode.end_message(message, at)


@njit(nogil=True, cache=True)
def session_entry(market, i, at, tick, entry_type, open_flag):
    instrument = market.instrument[i]
    instrument.rpt_seq += 1
    return encode.session_statistics_entry(
        at,
        wire(market, i, tick),
        instrument.id,
        instrument.rpt_seq,
        open_flag,
        NEW,
        entry_type,
        mdp3.NULL_I32,
    )


@njit(nogil=True, cache=True)
def add(market, rules, i, ts, side, tick, size):
    """A new resting order."""
    ts = begin_event(market, rules, ts)
    before = level_at(market, i, side, tick).orders
    slot = insert(market, i, side, tick, new_order_id(market), size)
    draft_order(market, i, slot, draft_change(market, i, side, tick, before), NEW)
    finish(market, rules, i, ts, NOTHING)


@njit(nogil=True, cache=True)
def cancel(market, rules, i, ts, slot):
    """A resting order goes."""
    ts = begin_event(market, rules, ts)
    order = market.order[i, slot]
    side, tick = order.side, order.tick
    before = level_at(market, i, side, tick).orders
    remove(market, i, slot)
    draft_order(market, i, slot, draft_change(market, i, side, tick, before), DELETE)
    finish(market, rules, i, ts, NOTHING)


@njit(nogil=True, cache=True)
def pull(market, rules, i, ts, side, tick):
    """Every order of a price that the market has left behind is cancelled, in one event."""
    ts = begin_event(market, rules, ts)
    level = level_at(market, i, side, tick)
    before = level.orders
    shown = rank(market, i, side, tick) <= DEPTH
    while level.head != NONE:
        slot = level.head
        remove(market, i, slot)
        draft_order(market, i, slot, _ONE if shown else NOTHING, DELETE)
    if shown:
        draft_change(market, i, side, tick, before)
    finish(market, rules, i, ts, NOTHING)


@njit(nogil=True, cache=True)
def modify_size(market, rules, i, ts, slot, size):
    """Less keeps the place in the queue, more goes to its end."""
    ts = begin_event(market, rules, ts)
    order = market.order[i, slot]
    side, tick = order.side, order.tick
    if size > order.size:
        dequeue(market, i, slot)
        order.size = size
        enqueue(market, i, slot, tick)
    else:
        resize(market, i, slot, size)
    before = level_at(market, i, side, tick).orders
    draft_order(market, i, slot, draft_change(market, i, side, tick, before), CHANGE)
    finish(market, rules, i, ts, NOTHING)


@njit(nogil=True, cache=True)
def modify_price(market, rules, i, ts, slot, tick):
    """The order joins the end of another queue of its side: one update, which names the new level."""
    ts = begin_event(market, rules, ts)
    order = market.order[i, slot]
    side, left = order.side, order.tick
    before = level_at(market, i, side, left).orders
    dequeue(market, i, slot)
    draft_change(market, i, side, left, before)
    before = level_at(market, i, side, tick).orders
    enqueue(market, i, slot, tick)
    draft_order(market, i, slot, draft_change(market, i, side, tick, before), CHANGE)
    finish(market, rules, i, ts, NOTHING)


@njit(nogil=True, cache=True)
def trade(market, rules, i, ts, aggressor, size, rest):
    """A marketable order of side ``aggressor`` meets the best price of the other side, in queue order.

    ``size`` lots trade, at most what rests there. If that empties the level, the aggressor's ``rest`` lots
    stay in the book at this price, and the mid has moved by a tick.
    """
    ts = begin_event(market, rules, ts)
    venue, instrument = market.venue[0], market.instrument[i]
    side = 1 - aggressor
    tick = market.side[i, side].best
    level = level_at(market, i, side, tick)
    before = level.orders
    aggressor_id = new_order_id(market)
    _send_trade(market, rules, i, ts, aggressor, aggressor_id, size)
    venue.trades += 1
    instrument.volume += size
    statistics = _note_price(instrument, tick, size)
    _send_volume(market, rules, i, ts, LAST_VOLUME)
    maybe_split(market, rules)

    left = size
    while left > 0:
        slot = level.head
        order = market.order[i, slot]
        if order.size <= left:
            left -= order.size
            remove(market, i, slot)
            draft_order(market, i, slot, _ONE, DELETE)
        else:
            resize(market, i, slot, order.size - left)
            left = 0
            draft_order(market, i, slot, _ONE, CHANGE)
    draft_change(market, i, side, tick, before)
    if level.orders == 0:
        while level_at(market, i, side, market.side[i, side].best).orders == 0:
            market.side[i, side].best += away(side)
        market.side[i, aggressor].best = tick
        slot = insert(market, i, aggressor, tick, aggressor_id, rest)
        draft_order(market, i, slot, draft_change(market, i, aggressor, tick, NOTHING), NEW)
    finish(market, rules, i, ts, statistics)


@njit(nogil=True, cache=True)
def _note_price(instrument, tick, size):
    statistics = 0
    if instrument.open == NO_TICK:
        instrument.open = tick
        instrument.high = tick
        instrument.low = tick
        statistics = 7
    if tick > instrument.high:
        instrument.high = tick
        statistics |= 2
    if tick < instrument.low:
        instrument.low = tick
        statistics |= 4
    instrument.last = tick
    instrument.last_size = size
    return statistics


@njit(nogil=True, cache=True)
def _send_trade(market, rules, i, ts, aggressor, aggressor_id, size):
    """48: one trade, the aggressor's order and the resting ones, sometimes in a second message."""
    instrument = market.instrument[i]
    tick = market.side[i, 1 - aggressor].best
    head = level_at(market, i, 1 - aggressor, tick).head
    resting, left, slot = 0, size, head
    while left > 0:
        left -= market.order[i, slot].size
        slot = market.order[i, slot].next
        resting += 1
    n = resting + 1
    late = chance.uniform(market.random, chance.WIRE) < rules.late_orders_probability
    here = chance.below(market.random, chance.WIRE, n) if late else n
    instrument.rpt_seq += 1
    market.venue[0].trade_id += 1
    at = room(market, rules, INCREMENTAL, 64 + 16 * here, ts)
    message = at
    flags = 0 if late else LAST_TRADE
    at = encode.refresh_root(encode.message_header(at, mdp3.TRADE, 11), ts, flags)
    at = encode.trade_entry(
        encode.group(at, 32, 1),
        wire(market, i, tick),
        size,
        instrument.id,
        instrument.rpt_seq,
        n,
        aggressor + 1,
        NEW,
        market.venue[0].trade_id,
    )
    at = encode.long_group(at, 16, here)
    left, slot = size, head
    for k in range(n):
        if k == here:
            encode.end_message(message, at)
            close(market, rules, INCREMENTAL)
            at = room(market, rules, INCREMENTAL, 32 + 16 * (n - here), ts)
            message = at
            at = encode.refresh_root(encode.message_header(at, mdp3.TRADE, 11), ts, LAST_TRADE)
            at = encode.long_group(encode.group(at, 32, 0), 16, n - here)
        if k == 0:
            at = encode.trade_order(at, aggressor_id, size)
        else:
            order = market.order[i, slot]
            at = encode.trade_order(at, order.id, min(left, order.size))
            left -= order.size
            slot = order.next
    encode.end_message(message, at)
    maybe_split(market, rules)


@njit(nogil=True, cache=True)
def _send_volume(market, rules, i, ts, flags):
    """37: lots traded since the session began."""
    instrument = market.instrument[i]
    instrument.rpt_seq += 1
    at = room(market, rules, INCREMENTAL, _VOLUME_BYTES, ts)
    message = at
    at = encode.refresh_root(encode.message_header(at, mdp3.VOLUME, 11), ts, flags)
    at = encode.volume_entry(
        encode.group(at, 16, 1), instrument.volume, instrument.id, instrument.rpt_seq, NEW
    )
    encode.end_message(message, at)


@njit(nogil=True, cache=True)
def publish(market, rules, i, ts, recovery):
    """The whole book in one event, as after a reset: deep orders as 47, then the ten levels as 46."""
    ts = begin_event(market, rules, ts)
    market.instrument[i].ts_event = ts
    feed = market.feed[INCREMENTAL]
    flags = RECOVERY if recovery else 0
    for side in (BID, ASK):
        k = 0
        tick = market.side[i, side].best
        for _ in range(rules.reach):
            level = level_at(market, i, side, tick)
            if level.orders > 0:
                k += 1
                if k > DEPTH:
                    if feed.mbo + level.orders > market.draft.shape[1]:
                        send_mbo(market, rules, i, ts, flags, flags)
                    slot = level.head
                    while slot != NONE:
                        draft_order(market, i, slot, NOTHING, NEW)
                        slot = market.order[i, slot].next
            tick += away(side)
    send_mbo(market, rules, i, ts, flags, flags)
    for side in (BID, ASK):
        k = 0
        tick = market.side[i, side].best
        for _ in range(rules.reach):
            level = level_at(market, i, side, tick)
            if level.orders > 0 and k < DEPTH:
                k += 1
                size = 32 + 32 * (feed.entries + 1) + 24 * (feed.orders + level.orders)
                if size > min(_FULL, feed.room - 12):
                    send_book(market, rules, i, ts, flags)
                reference = draft_level(market, i, side, tick, level.size, level.orders, k, NEW)
                slot = level.head
                while slot != NONE:
                    draft_order(market, i, slot, reference, NEW)
                    slot = market.order[i, slot].next
            tick += away(side)
    send_book(market, rules, i, ts, flags | LAST_QUOTE | END)


@njit(nogil=True, cache=True)
def restate(market, rules, i, ts):
    """Volume, open, high and low again, in one event of the recovery; nothing if there was no trade yet."""
    if market.instrument[i].volume > 0:
        ts = begin_event(market, rules, ts)
        _send_volume(market, rules, i, ts, LAST_VOLUME | RECOVERY)
        send_session_statistics(market, rules, i, ts, _ALL_STATISTICS, LAST_STATISTICS | RECOVERY | END)

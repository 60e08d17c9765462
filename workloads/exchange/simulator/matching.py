"""Order books with price-time priority, as arrays that compiled code changes in place.

A book is a ring of price levels a side, addressed by tick; a level is a queue of orders, linked by slot.
Orders rest in ``reach`` levels from the best one, so that a ring of `RING` levels holds them all.
Side 0 are bids, side 1 asks. Prices are in ticks here and become wire prices in `messages`.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call"
# Compiled: Numba infers the types.

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from workloads.exchange.simulator import chance
from workloads.exchange.simulator.config import MAX_ACTIONS, SimulatorConfig

BID, ASK = 0, 1
RING = 128
DEPTH = 10
"""Levels that the feed shows by price (MarketDepth)."""
QUEUE = 40
"""Most orders in a level: one message must hold them all."""
ORDERS = 1_000
"""Most resting orders of an instrument; then nothing is added until some have gone."""
NONE = -1
NO_TICK = -(2**40)

ORDER = np.dtype(
    [(name, np.int64) for name in ("id", "priority", "size", "tick", "side", "next", "previous", "position")]
)
"""``position``: index among the live slots of its side. A free slot's ``next`` is the next free one."""
LEVEL = np.dtype([(name, np.int64) for name in ("orders", "size", "head", "tail")])
INSTRUMENT = np.dtype(
    [
        (name, np.int64)
        for name in (
            "id", "wire_tick", "free", "rpt_seq", "volume", "ts_event", "busy", "state",
            "open", "high", "low", "last", "last_size", "settlement", "open_interest",
            "high_limit", "low_limit", "max_variation",
        )
    ]
)  # fmt: skip
"""Prices in ticks, `NO_TICK` while there is none."""
FEED = np.dtype(
    [
        (name, np.int64)
        for name in (
            "address", "room", "start", "used", "packets", "seq", "limit",
            "first_ts", "last_ts", "ts_sent", "entries", "orders", "mbo",
        )
    ]
)  # fmt: skip
VENUE = np.dtype(
    [
        (name, np.int64)
        for name in ("order_id", "priority", "trade_id", "events", "trades", "clock", "snapshot")
    ]
)


class Market(NamedTuple):
    """Everything that changes while the simulator runs. I instruments."""

    random: NDArray[np.uint64]
    venue: np.ndarray
    """One `VENUE`: counters that instruments share."""
    instrument: np.ndarray
    """I of `INSTRUMENT`."""
    best: NDArray[np.int64]
    """[I, 2] tick."""
    level: np.ndarray
    """[I, 2, RING] of `LEVEL`."""
    live: NDArray[np.int64]
    """[I, 2, ORDERS] slots of the resting orders, in no order."""
    resting: NDArray[np.int64]
    """[I, 2] how many."""
    order: np.ndarray
    """[I, slots] of `ORDER`."""
    feed: np.ndarray
    """2 of `FEED`: incremental, snapshot."""
    buffer: NDArray[np.uint8]
    """[2, bytes] packets of the block."""
    offset: NDArray[np.int64]
    length: NDArray[np.int32]
    """[2, packets]."""
    entries: NDArray[np.int64]
    orders: NDArray[np.int64]
    mbo: NDArray[np.int64]
    """Entries of the event that is being written: `messages`."""
    messages: NDArray[np.int64]
    """[256] messages by template, both feeds."""
    agenda: NDArray[np.int64]
    """[2, actions of a step]: sort key; instrument and kind."""
    states: NDArray[np.int8]
    moves: NDArray[np.int8]
    bid_adds: NDArray[np.uint16]
    adds: NDArray[np.uint16]
    """[step, I]: the truth."""


def empty_market(config: SimulatorConfig, block_bytes: int, block_packets: int) -> Market:
    """Books without orders, all counters at their start."""
    n = len(config.futures)
    slots = ORDERS + 8
    instrument = np.zeros(n, INSTRUMENT)
    best = np.zeros((n, 2), np.int64)
    for i, future in enumerate(config.futures):
        row = instrument[i]
        row["id"], row["wire_tick"] = future.instrument_id, future.wire_tick
        row["open"] = row["high"] = row["low"] = row["last"] = NO_TICK
        row["settlement"] = future.opening_ticks - 7
        row["open_interest"] = future.open_interest
        band = future.opening_ticks // 14
        row["high_limit"], row["low_limit"] = future.opening_ticks + band, future.opening_ticks - band
        row["max_variation"] = 24
        best[i] = future.opening_ticks, future.opening_ticks + 1
    order = np.zeros((n, slots), ORDER)
    order["next"] = np.arange(1, slots + 1)
    feed = np.zeros(2, FEED)
    buffer = np.empty((2, block_bytes), np.uint8)
    feed["address"] = [buffer[k].ctypes.data for k in range(2)]
    feed["seq"] = 1
    feed["room"] = config.packet_bytes
    feed["ts_sent"] = config.start_ns
    venue = np.zeros(1, VENUE)
    venue["order_id"], venue["priority"] = 641_200_000_000, 38_000_000_000
    venue["clock"] = config.start_ns
    venue["snapshot"] = config.origin_ns
    steps = config.steps
    return Market(
        random=chance.streams(config.seed),
        venue=venue,
        instrument=instrument,
        best=best,
        level=np.full((n, 2, RING), np.array((0, 0, NONE, NONE), LEVEL)),
        live=np.zeros((n, 2, ORDERS), np.int64),
        resting=np.zeros((n, 2), np.int64),
        order=order,
        feed=feed,
        buffer=buffer,
        offset=np.zeros((2, block_packets), np.int64),
        length=np.zeros((2, block_packets), np.int32),
        entries=np.zeros((64, 7), np.int64),
        orders=np.zeros((128, 5), np.int64),
        mbo=np.zeros((128, 6), np.int64),
        messages=np.zeros(256, np.int64),
        agenda=np.zeros((2, n * (MAX_ACTIONS + 1)), np.int64),
        states=np.zeros((steps, n), np.int8),
        moves=np.zeros((steps, n), np.int8),
        bid_adds=np.zeros((steps, n), np.uint16),
        adds=np.zeros((steps, n), np.uint16),
    )


@njit(nogil=True, cache=True)
def away(side):
    """The direction in which prices of a side get worse: bids down, asks up."""
    return 2 * side - 1


@njit(nogil=True, cache=True)
def level_at(market, i, side, tick):
    return market.level[i, side, tick & (RING - 1)]


@njit(nogil=True, cache=True)
def rank(market, i, side, tick):
    """1 for the best level; the level itself need not hold an order. At most DEPTH + 1."""
    k = 1
    at = market.best[i, side]
    step = away(side)
    while at != tick and k <= DEPTH:
        if level_at(market, i, side, at).orders > 0:
            k += 1
        at += step
    return k


@njit(nogil=True, cache=True)
def deepest_shown(market, i, side):
    """Tick of the level of rank DEPTH; NO_TICK where the side has fewer."""
    k = 0
    at = market.best[i, side]
    for _ in range(RING // 2):
        if level_at(market, i, side, at).orders > 0:
            k += 1
            if k == DEPTH:
                return at
        at += away(side)
    return NO_TICK


@njit(nogil=True, cache=True)
def new_order_id(market):
    """Ids ascend with gaps: other instruments of the venue use the rest."""
    venue = market.venue[0]
    venue.order_id += 1 + chance.below(market.random, chance.FLOW, 9)
    return venue.order_id


@njit(nogil=True, cache=True)
def new_priority(market):
    venue = market.venue[0]
    venue.priority += 1 + chance.below(market.random, chance.FLOW, 5)
    return venue.priority


@njit(nogil=True, cache=True)
def insert(market, i, side, tick, order_id, size):
    """A new order at the end of its level's queue; returns its slot."""
    instrument = market.instrument[i]
    slot = instrument.free
    order = market.order[i, slot]
    instrument.free = order.next
    order.id = order_id
    order.size = size
    order.side = side
    order.position = market.resting[i, side]
    market.live[i, side, order.position] = slot
    market.resting[i, side] += 1
    enqueue(market, i, slot, tick)
    return slot


@njit(nogil=True, cache=True)
def enqueue(market, i, slot, tick):
    """Put an order of the book at the end of a queue, with a new priority."""
    order = market.order[i, slot]
    level = level_at(market, i, order.side, tick)
    order.tick = tick
    order.priority = new_priority(market)
    order.next = NONE
    order.previous = level.tail
    if level.tail == NONE:
        level.head = slot
    else:
        market.order[i, level.tail].next = slot
    level.tail = slot
    level.orders += 1
    level.size += order.size


@njit(nogil=True, cache=True)
def dequeue(market, i, slot):
    """Take an order out of its queue; it stays among the live ones."""
    order = market.order[i, slot]
    level = level_at(market, i, order.side, order.tick)
    if order.previous == NONE:
        level.head = order.next
    else:
        market.order[i, order.previous].next = order.next
    if order.next == NONE:
        level.tail = order.previous
    else:
        market.order[i, order.next].previous = order.previous
    level.orders -= 1
    level.size -= order.size


@njit(nogil=True, cache=True)
def remove(market, i, slot):
    """Take an order out of the book."""
    dequeue(market, i, slot)
    order = market.order[i, slot]
    side = order.side
    market.resting[i, side] -= 1
    last = market.live[i, side, market.resting[i, side]]
    market.live[i, side, order.position] = last
    market.order[i, last].position = order.position
    order.next = market.instrument[i].free
    market.instrument[i].free = slot


@njit(nogil=True, cache=True)
def resize(market, i, slot, size):
    """Change an order's size where it stands."""
    order = market.order[i, slot]
    level_at(market, i, order.side, order.tick).size += size - order.size
    order.size = size


@njit(nogil=True, cache=True)
def holds_the_touch(market, i, slot):
    """Whether the order is the only one of the best or second price: the noise flow never empties these."""
    order = market.order[i, slot]
    distance = (order.tick - market.best[i, order.side]) * away(order.side)
    return distance < 2 and level_at(market, i, order.side, order.tick).orders == 1

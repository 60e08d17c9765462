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
from workloads.exchange.simulator.config import SimulatorConfig

# NumPy scalars, here and in `messages`: a plain integer as an argument makes Numba compile its own version.
BID, ASK = np.int64(0), np.int64(1)
RING = 128
DEPTH = 10
"""Levels that the feed shows by price (MarketDepth)."""
QUEUE = 40
"""Most orders in a level: one message must hold them all."""
ORDERS = 1_000
"""Most resting orders of an instrument; then nothing is added until some have gone."""
NONE = np.int64(-1)
NO_TICK = np.int64(-(2**40))

ORDER = np.dtype(
    [(name, np.int64) for name in ("id", "priority", "size", "tick", "side", "next", "previous", "position")]
)
"""``position``: index among the live slots of its side. A free slot's ``next`` is the next free one."""
LEVEL = np.dtype([(name, np.int64) for name in ("orders", "size", "head", "tail")])
SIDE = np.dtype([("best", np.int64), ("orders", np.int64)])
"""Tick of the best price; how many orders rest."""
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
"""Prices in ticks, `NO_TICK` while there is none. ``state``: index of the hidden drift."""
FEED = np.dtype(
    [
        (name, np.int64)
        for name in (
            "address", "offset_at", "length_at", "room", "start", "used", "packets", "seq", "limit",
            "first_ts", "last_ts", "ts_sent", "entries", "orders", "mbo",
        )
    ]
)  # fmt: skip
"""Where the block's packets are written (addresses of bytes, of int64 offsets, of int32 lengths), the open
packet, and how much of an event has been drafted."""
VENUE = np.dtype(
    [
        (name, np.int64)
        for name in ("order_id", "priority", "trade_id", "events", "trades", "clock", "snapshot")
    ]
)


class Market(NamedTuple):
    """Everything that changes while the simulator runs. I instruments. Few arrays: each one makes every
    function that gets them slower to compile."""

    random: NDArray[np.uint64]
    venue: np.ndarray
    """One `VENUE`: counters that instruments share."""
    instrument: np.ndarray
    """I of `INSTRUMENT`."""
    side: np.ndarray
    """[I, 2] of `SIDE`."""
    level: np.ndarray
    """[I, 2, RING] of `LEVEL`."""
    live: NDArray[np.int64]
    """[I, 2, ORDERS] slots of the resting orders, in no particular order."""
    order: np.ndarray
    """[I, slots] of `ORDER`."""
    feed: np.ndarray
    """2 of `FEED`: incremental, snapshot."""
    draft: NDArray[np.int64]
    """[3, 128, 7] entries of the event that is being written: `messages`."""


class Room(NamedTuple):
    """Where the packets of a block are written, for both feeds."""

    buffer: NDArray[np.uint8]
    offset: NDArray[np.int64]
    length: NDArray[np.int32]

    @classmethod
    def of(cls, size: int, packets: int) -> "Room":
        """Room for ``size`` bytes and ``packets`` packets a feed."""
        return cls(
            np.empty((2, size), np.uint8), np.empty((2, packets), np.int64), np.empty((2, packets), np.int32)
        )


def empty_market(config: SimulatorConfig, room: Room) -> Market:
    """Books without orders, all counters at their start; packets go to ``room``, which must outlive it."""
    n = len(config.futures)
    slots = ORDERS + 8
    instrument = np.zeros(n, INSTRUMENT)
    side = np.zeros((n, 2), SIDE)
    for i, future in enumerate(config.futures):
        row = instrument[i]
        row["id"], row["wire_tick"] = future.instrument_id, future.wire_tick
        row["open"] = row["high"] = row["low"] = row["last"] = NO_TICK
        row["settlement"] = future.opening_ticks - 7
        row["open_interest"] = future.open_interest
        band = future.opening_ticks // 5  # 20 %: the drift of a long session stays inside
        row["high_limit"], row["low_limit"] = future.opening_ticks + band, future.opening_ticks - band
        row["max_variation"] = 24
        side[i]["best"] = future.opening_ticks, future.opening_ticks + 1
    order = np.zeros((n, slots), ORDER)
    order["next"] = np.arange(1, slots + 1)
    feed = np.zeros(2, FEED)
    for k in range(2):
        feed[k]["address"] = room.buffer[k].ctypes.data
        feed[k]["offset_at"] = room.offset[k].ctypes.data
        feed[k]["length_at"] = room.length[k].ctypes.data
    feed["seq"] = 1
    feed["room"] = config.packet_bytes
    feed["ts_sent"] = config.start_ns
    venue = np.zeros(1, VENUE)
    venue["order_id"], venue["priority"] = 641_200_000_000, 38_000_000_000
    venue["clock"] = config.start_ns
    venue["snapshot"] = config.origin_ns
    return Market(
        random=chance.streams(config.seed),
        venue=venue,
        instrument=instrument,
        side=side,
        level=np.full((n, 2, RING), np.array((0, 0, NONE, NONE), LEVEL)),
        live=np.zeros((n, 2, ORDERS), np.int64),
        order=order,
        feed=feed,
        draft=np.zeros((3, 128, 7), np.int64),
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
    at = market.side[i, side].best
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
    at = market.side[i, side].best
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
    order.position = market.side[i, side].orders
    market.live[i, side, order.position] = slot
    market.side[i, side].orders += 1
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
    market.side[i, side].orders -= 1
    last = market.live[i, side, market.side[i, side].orders]
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
    distance = (order.tick - market.side[i, order.side].best) * away(order.side)
    return distance < 2 and level_at(market, i, order.side, order.tick).orders == 1

"""Packets: messages are written straight into the packet that is open, which closes when it must.

An event may span packets and a packet may hold several events. SendingTime is the time of the packet's last
event plus the gateway's latency, and never decreases.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call"
# Compiled: Numba infers the types.

import numpy as np
from numba import njit

from workloads.exchange import encode
from workloads.exchange.packets import HEADER_BYTES
from workloads.exchange.simulator import chance
from workloads.exchange.wire import store_i32, store_i64, store_u8

INCREMENTAL, SNAPSHOT = np.int64(0), np.int64(1)
MAX_LATENCY_NS = 500_000


@njit(nogil=True, cache=True)
def close(market, rules, k):
    """Number and stamp the open packet of feed ``k``, if there is one."""
    feed = market.feed[k]
    if feed.used > 0:
        delay = rules.latency_ns + chance.exponential(market.random, chance.WIRE, rules.latency_tail_ns)
        stamp(market, k, max(feed.ts_sent, feed.last_ts + min(delay, MAX_LATENCY_NS)))


@njit(nogil=True, cache=True)
def stamp(market, k, ts_sent):
    feed = market.feed[k]
    encode.packet_header(np.uintp(feed.address + feed.start), feed.seq, ts_sent)
    store_i64(np.uintp(feed.offset_at + 8 * feed.packets), feed.start)
    store_i32(np.uintp(feed.length_at + 4 * feed.packets), np.int32(feed.used))
    feed.packets += 1
    feed.start += feed.used
    feed.used = 0
    feed.seq += 1
    feed.ts_sent = ts_sent


@njit(nogil=True, cache=True)
def begin_event(market, rules, ts):
    """Make ready for an event at ``ts``: share the open packet, or close it. Returns the event's time."""
    venue = market.venue[0]
    feed = market.feed[INCREMENTAL]
    ts = max(ts, venue.clock)
    venue.clock = ts
    venue.events += 1
    if feed.used > 0 and (ts - feed.first_ts > rules.coalesce_ns or feed.used > feed.limit):
        close(market, rules, INCREMENTAL)
    if feed.used == 0:
        while ts - feed.ts_sent > rules.heartbeat_ns:
            at = np.uintp(feed.address + feed.start + HEADER_BYTES)
            feed.used = HEADER_BYTES + np.int64(encode.heartbeat(at) - at)
            stamp(market, INCREMENTAL, feed.ts_sent + rules.heartbeat_ns)
    return ts


@njit(nogil=True, cache=True)
def room(market, rules, k, size, ts):
    """Address for a message of ``size`` bytes, in the open packet of feed ``k`` or in a new one."""
    feed = market.feed[k]
    if feed.used > 0 and feed.used + size > feed.room:
        close(market, rules, k)
    if feed.used == 0:
        feed.used = HEADER_BYTES
        feed.first_ts = ts
        feed.limit = 150 + chance.below(market.random, chance.WIRE, feed.room - 150)
    at = np.uintp(feed.address + feed.start + feed.used)
    feed.used += size
    feed.last_ts = ts
    return at


@njit(nogil=True, cache=True)
def maybe_split(market, rules):
    """Between two messages of an event: sometimes go on in a new packet."""
    if chance.uniform(market.random, chance.WIRE) < rules.split_probability:
        close(market, rules, INCREMENTAL)


@njit(nogil=True, cache=True)
def append(market, rules, message, ts):
    """A message that is already encoded, uint8[:]."""
    size = np.int64(len(message))
    at = room(market, rules, INCREMENTAL, size, ts)
    for k in range(size):
        store_u8(at + np.uintp(k), message[k])

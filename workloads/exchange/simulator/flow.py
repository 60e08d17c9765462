"""What the market's people do, step by step: hidden drift, moves of the mid, bursts of noise orders.

The hidden state of an instrument enters at two places only, both marked: the draw of the step's move and
the side of each added order.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call"
# Compiled: Numba infers the types.

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from workloads.exchange.simulator import chance
from workloads.exchange.simulator.config import MAX_ACTIONS, SimulatorConfig
from workloads.exchange.simulator.gateway import INCREMENTAL, close
from workloads.exchange.simulator.matching import (
    ASK,
    BID,
    ORDERS,
    QUEUE,
    Market,
    away,
    holds_the_touch,
    insert,
    level_at,
    new_order_id,
)
from workloads.exchange.simulator.messages import add, cancel, modify_price, modify_size, pull, trade
from workloads.exchange.simulator.snapshots import send_snapshots

_QUIET_END_NS = 1_000_000
"""Nothing starts in the last millisecond of a step, so that what follows at once still belongs to it."""
_FOLLOW_NS = 1_500
"""After a move: until the next order answers it."""
_INDEX_BITS = 20
_MOVE = 1 << 10
_NOTHING = np.int64(0)


class Rules(NamedTuple):
    """The configuration as compiled code needs it. Units: `SimulatorConfig`."""

    origin_ns: int
    step_ns: int
    calm_rate: float
    busy_rate: float
    busy_probability: float
    calm_probability: float
    cluster_probability: float
    cluster_gap_ns: float
    trade_share: float
    modify_share: float
    orders: float
    reach: int
    latency_ns: int
    latency_tail_ns: float
    coalesce_ns: int
    heartbeat_ns: int
    split_probability: float
    late_orders_probability: float
    closing_probability: float
    snapshot_interval_ns: int
    trade_date: int
    """Days since 1970-01-01."""
    settlement_date: int
    """Likewise."""
    definitions_ns: int
    """LastUpdateTime of the definitions."""

    @classmethod
    def of(cls, config: SimulatorConfig) -> "Rules":
        """Derive them."""
        return cls(
            origin_ns=config.origin_ns,
            step_ns=config.step_ns,
            calm_rate=float(config.intensity),
            busy_rate=float(config.intensity * config.burstiness),
            busy_probability=float(config.busy_probability),
            calm_probability=float(config.calm_probability),
            cluster_probability=float(config.cluster_probability),
            cluster_gap_ns=float(config.cluster_gap_ns),
            trade_share=float(config.trade_share),
            modify_share=float(config.modify_share),
            orders=float(config.orders),
            reach=config.reach,
            latency_ns=config.latency_ns,
            latency_tail_ns=float(config.latency_tail_ns),
            coalesce_ns=config.coalesce_ns,
            heartbeat_ns=config.heartbeat_ns,
            split_probability=float(config.split_probability),
            late_orders_probability=float(config.late_orders_probability),
            closing_probability=float(config.closing_probability),
            snapshot_interval_ns=config.snapshot_interval_ns,
            trade_date=config.trade_date,
            settlement_date=config.settlement_date,
            definitions_ns=config.definitions_ns,
        )


class Path(NamedTuple):
    """The hidden chain of S states, and what it and the flow did. n steps of I instruments."""

    start: NDArray[np.float64]
    """[S] cumulative: the state in step 0."""
    transition: NDArray[np.float64]
    """[S, S] cumulative."""
    move: NDArray[np.float64]
    """[S, 3] cumulative, by state: down, none, up."""
    bid_share: NDArray[np.float64]
    """[S]"""
    states: NDArray[np.int8]
    moves: NDArray[np.int8]
    bid_adds: NDArray[np.uint16]
    adds: NDArray[np.uint16]
    """[n, I] each: the truth."""
    agenda: NDArray[np.int64]
    """[2, actions of a step]: sort key; instrument and kind."""

    @classmethod
    def of(cls, config: SimulatorConfig) -> "Path":
        """Before the first step."""
        shape = (config.steps, len(config.futures))
        return cls(
            start=np.cumsum(config.drift.stationary_S),
            transition=np.cumsum(config.drift.transition, axis=1),
            move=np.cumsum(config.drift.moves, axis=1),
            bid_share=np.array(config.drift.bid_share),
            states=np.zeros(shape, np.int8),
            moves=np.zeros(shape, np.int8),
            bid_adds=np.zeros(shape, np.uint16),
            adds=np.zeros(shape, np.uint16),
            agenda=np.zeros((2, shape[1] * (MAX_ACTIONS + 1)), np.int64),
        )


@njit(nogil=True, cache=True)
def fill_books(market: Market, rules: Rules):
    """Orders that rest when the session opens, without messages: `publish` sends them."""
    for i in range(len(market.instrument)):
        for side in (BID, ASK):
            for distance in range(rules.reach):
                while True:
                    _place(market, i, side, distance)
                    # the density that adds and cancels keep in balance: about 1 / (1 + distance / 4)
                    more = rules.orders / (2 * rules.reach) * 2.2 / (1.0 + distance / 8.0)
                    if chance.uniform(market.random, chance.FLOW) * (more + 1.0) < 1.0:
                        break
                    if level_at(market, i, side, _tick(market, i, side, distance)).orders >= QUEUE:
                        break


@njit(nogil=True, cache=True)
def _place(market, i, side, distance):
    insert(market, i, side, _tick(market, i, side, distance), new_order_id(market), draw_size(market))


@njit(nogil=True, cache=True)
def _tick(market, i, side, distance):
    return market.side[i, side].best + distance * away(side)


@njit(nogil=True, cache=True)
def run_steps(market, rules, path, first, last, full_bytes, full_packets):
    """Steps from ``first`` to before ``last``, each with the snapshots that fall due at its end.

    Stops early when the block holds more than it was meant to; returns the next step.
    """
    for step in range(first, last):
        begin = rules.origin_ns + step * rules.step_ns
        n = _plan(market, rules, path, step)
        for k in range(n):
            key = path.agenda[0, k]
            ts = begin + (key >> _INDEX_BITS)
            what = path.agenda[1, key & ((1 << _INDEX_BITS) - 1)]
            i = what & (_MOVE - 1)
            if what & _MOVE:
                _move(market, rules, i, ts, np.int64(path.moves[step, i]))
            else:
                _act(market, rules, path, step, i, ts)
        close(market, rules, INCREMENTAL)
        end = begin + rules.step_ns
        if rules.snapshot_interval_ns > 0 and end >= market.venue[0].snapshot:
            send_snapshots(market, rules, end)
            while market.venue[0].snapshot <= end:
                market.venue[0].snapshot += rules.snapshot_interval_ns
        for k in range(len(market.feed)):
            if market.feed[k].start > full_bytes or market.feed[k].packets > full_packets:
                return step + 1
    return last


@njit(nogil=True, cache=True)
def _plan(market, rules, path, step):
    """Draw the step's hidden states, moves and action times; returns how many, in order of time."""
    n = 0
    width = rules.step_ns - _QUIET_END_NS
    for i in range(len(market.instrument)):
        instrument = market.instrument[i]
        if step == 0:
            instrument.state = chance.choice(market.random, chance.HIDDEN, path.start)
        else:
            instrument.state = chance.choice(market.random, chance.HIDDEN, path.transition[instrument.state])
        # First use of the hidden state: the move.
        move = chance.choice(market.random, chance.HIDDEN, path.move[instrument.state]) - 1
        path.states[step, i] = instrument.state
        path.moves[step, i] = move
        if move != 0:
            path.agenda[0, n] = (chance.below(market.random, chance.FLOW, width) << _INDEX_BITS) | n
            path.agenda[1, n] = i | _MOVE
            n += 1
        turn = rules.calm_probability if instrument.busy else rules.busy_probability
        if chance.uniform(market.random, chance.FLOW) < turn:
            instrument.busy = 1 - instrument.busy
        rate = rules.busy_rate if instrument.busy else rules.calm_rate
        actions = min(chance.poisson(market.random, chance.FLOW, rate), MAX_ACTIONS)
        at = width
        for k in range(actions):
            follows = chance.uniform(market.random, chance.FLOW) < rules.cluster_probability
            if k > 0 and follows:
                at += chance.exponential(market.random, chance.FLOW, rules.cluster_gap_ns)
                at = min(at, width - 1)
            else:
                at = chance.below(market.random, chance.FLOW, width)
            path.agenda[0, n] = (at << _INDEX_BITS) | n
            path.agenda[1, n] = i
            n += 1
    path.agenda[0, :n].sort()
    return n


@njit(nogil=True, cache=True)
def _move(market, rules, i, ts, move):
    """The mid moves by a tick: somebody takes the whole best level and stays there with the rest.

    Then the price that becomes second best gets an order if it is empty, and what is now too far from the
    market on the other side is pulled.
    """
    aggressor = BID if move > 0 else ASK
    taken = 1 - aggressor
    level = level_at(market, i, taken, market.side[i, taken].best)
    trade(market, rules, i, ts, aggressor, level.size, draw_size(market))
    second = market.side[i, taken].best + away(taken)
    if level_at(market, i, taken, second).orders == 0:
        add(market, rules, i, ts + _FOLLOW_NS, taken, second, draw_size(market))
    left = market.side[i, aggressor].best + rules.reach * away(aggressor)
    if level_at(market, i, aggressor, left).orders > 0:
        pull(market, rules, i, ts + 2 * _FOLLOW_NS, aggressor, left)


@njit(nogil=True, cache=True)
def _act(market, rules, path, step, i, ts):
    """One noise action. Which kind: depends on how many orders rest, never on the hidden state."""
    live = market.side[i, BID].orders + market.side[i, ASK].orders
    free = 1.0 - rules.trade_share - rules.modify_share
    leave = min(0.5 * free * live / rules.orders, 0.9 * free)
    u = chance.uniform(market.random, chance.FLOW)
    if u < rules.trade_share:
        _small_trade(market, rules, i, ts)
    elif u < rules.trade_share + rules.modify_share:
        _modify(market, rules, i, ts, _pick(market, i, live))
    elif u < rules.trade_share + rules.modify_share + leave or live >= ORDERS:
        slot = _pick(market, i, live)
        if not holds_the_touch(market, i, slot):
            cancel(market, rules, i, ts, slot)
    else:
        # Second use of the hidden state: the side of an added order.
        bid = chance.uniform(market.random, chance.FLOW) < path.bid_share[market.instrument[i].state]
        side = BID if bid else ASK
        path.adds[step, i] += 1
        path.bid_adds[step, i] += bid
        add(market, rules, i, ts, side, _draw_tick(market, rules, i, side), draw_size(market))


@njit(nogil=True, cache=True)
def _pick(market, i, live):
    """A resting order, each as likely as any other. There always is one: the touch never empties."""
    k = chance.below(market.random, chance.FLOW, live)
    bids = market.side[i, BID].orders
    return market.live[i, BID, k] if k < bids else market.live[i, ASK, k - bids]


@njit(nogil=True, cache=True)
def _draw_tick(market, rules, i, side):
    """A price at or behind the best one: mostly close to it. A full queue sends the order one tick on."""
    if chance.uniform(market.random, chance.FLOW) < 0.75:
        distance = chance.geometric(market.random, chance.FLOW, 0.22)
    else:
        distance = chance.below(market.random, chance.FLOW, rules.reach)
    distance %= rules.reach
    while level_at(market, i, side, _tick(market, i, side, distance)).orders >= QUEUE:
        distance = (distance + 1) % rules.reach
    return _tick(market, i, side, distance)


@njit(nogil=True, cache=True)
def draw_size(market):
    """Lots: mostly few, sometimes a round ten times as many."""
    size = 1 + chance.geometric(market.random, chance.FLOW, 0.3)
    if chance.uniform(market.random, chance.FLOW) < 0.05:
        size *= 10
    return size


@njit(nogil=True, cache=True)
def _small_trade(market, rules, i, ts):
    """A trade that leaves at least a lot at the best price."""
    aggressor = chance.below(market.random, chance.FLOW, 2)
    rests = level_at(market, i, 1 - aggressor, market.side[i, 1 - aggressor].best).size
    size = draw_size(market)
    if rests > 1:
        trade(market, rules, i, ts, aggressor, min(size, rests - 1), _NOTHING)


@njit(nogil=True, cache=True)
def _modify(market, rules, i, ts, slot):
    """Another size or another price; an order that alone holds the best or second price stays there."""
    order = market.order[i, slot]
    u = chance.uniform(market.random, chance.FLOW)
    if u < 0.4:
        tick = _draw_tick(market, rules, i, order.side)
        if tick != order.tick and not holds_the_touch(market, i, slot):
            modify_price(market, rules, i, ts, slot, tick)
    else:
        size = draw_size(market)
        if size != order.size:
            modify_size(market, rules, i, ts, slot, size)

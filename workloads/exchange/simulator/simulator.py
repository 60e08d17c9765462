"""Runs a session block by block: the opening, the steps, an optional reset or restart in between."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numba import njit

from workloads.exchange.packets import HEADER_BYTES, Packets
from workloads.exchange.simulator import gateway, matching, session
from workloads.exchange.simulator.config import MAX_ACTIONS, SimulatorConfig, SimulatorError
from workloads.exchange.simulator.flow import Path, Rules, fill_books, run_steps
from workloads.exchange.simulator.messages import publish, restate
from workloads.exchange.simulator.truth import Truth

_GAP_NS = 20_000
"""Between the events of an opening."""
_ACTION_BYTES = 2_500
"""More than any action publishes: a trade with a full queue, with all its headers."""
_ACTION_PACKETS = 8


class Block(NamedTuple):
    """What both feeds sent in some simulated seconds, each in the order of its sequence numbers."""

    incremental: Packets
    snapshots: Packets


class Simulator:
    """One seeded session of an exchange channel; runs once."""

    def __init__(self, config: SimulatorConfig | None = None) -> None:
        self.config = config or SimulatorConfig()
        self._rules = Rules.of(self.config)
        steps = max(1, self.config.block_ns // self.config.step_ns)
        self._steps_per_block = int(steps)
        worst = len(self.config.futures) * MAX_ACTIONS
        self._reserve_bytes, self._reserve_packets = worst * _ACTION_BYTES, worst * _ACTION_PACKETS
        self._room = matching.Room.of(2 * self._reserve_bytes, 2 * self._reserve_packets)
        self._market = matching.empty_market(self.config, self._room)
        self._path = Path.of(self.config)
        self._messages = np.zeros(256, np.int64)
        self._totals = [0, 0]
        self._started = False
        self._finished = False

    def blocks(self) -> Iterator[Block]:
        """All packets of the session. The last block leaves the books as `truth` has them.

        Raises
        ------
        SimulatorError
            On a second call: the session has been spent.
        """
        if self._started:
            raise SimulatorError("a Simulator runs once; make another one of the same configuration")
        self._started = True
        market, rules, config = self._market, self._rules, self.config
        fill_books(market, rules)
        self._open(config.start_ns)
        resets = self._interruptions()
        step = 0
        while step < config.steps:
            if step in resets:
                self._interrupt(step, restart=resets[step])
            stops = [(step // self._steps_per_block + 1) * self._steps_per_block, config.steps, *resets]
            stop = min(stop for stop in stops if stop > step)
            step = run_steps(
                market, rules, self._path, step, stop, self._reserve_bytes, self._reserve_packets
            )
            yield self._take()
        self._finished = True

    def truth(self) -> Truth:
        """What happened; after the last block."""
        if not self._finished:
            raise SimulatorError("the truth is known when all blocks have been taken")
        return Truth.of(self.config, self._market, self._path, self._totals, self._messages)

    def _interruptions(self) -> dict[int, bool]:
        """Step before which the channel is interrupted -> whether its sequence restarts, too."""
        config = self.config
        result = {}
        if config.channel_reset_ns is not None:
            result[config.channel_reset_ns // config.step_ns] = False
        if config.sequence_restart_ns is not None:
            result[config.sequence_restart_ns // config.step_ns] = True
        return result

    def _open(self, ts: int, *, recovery: bool = False) -> int:
        """Definitions, pre-open, statistics, limits, books, ready to trade; returns the time after it."""
        market, config = self._market, self.config
        for message in session.definitions(config, market):
            self._send(message, ts)
        return self._refill(ts + _GAP_NS, recovery=recovery, statistics=True)

    def _refill(self, ts: int, *, recovery: bool, statistics: bool) -> int:
        market, config = self._market, self.config
        for message in session.status(config, ts, session.PRE_OPEN, recovery=recovery):
            self._send(message, ts)
        ts += _GAP_NS
        if statistics:
            self._send(session.daily_statistics(config, market, ts), ts)
        self._send(session.limits(market, ts, recovery=recovery), ts)
        for i in range(len(market.instrument)):
            ts += _GAP_NS
            publish(market, self._rules, i, ts, recovery)
            if recovery:
                restate(market, self._rules, i, ts)
        ts += _GAP_NS
        for message in session.status(config, ts, session.READY, recovery=recovery):
            self._send(message, ts)
        gateway.close(market, self._rules, gateway.INCREMENTAL)
        return ts

    def _interrupt(self, step: int, *, restart: bool) -> None:
        """A channel reset at the step's start, then everything again; RptSeq begins at 1.

        It takes its time from the step: the step's own events wait until it is over.
        """
        market, config = self._market, self.config
        ts = config.origin_ns + step * config.step_ns
        market.instrument["rpt_seq"] = 0
        if restart:
            market.feed["seq"] = 1
        self._send(session.channel_reset(config, ts), ts)
        if restart:
            self._open(ts, recovery=True)
        else:
            self._refill(ts + _GAP_NS, recovery=True, statistics=False)

    def _send(self, message: bytes, ts: int) -> None:
        """One message that is an event of its own."""
        gateway.begin_event(self._market, self._rules, ts)
        gateway.append(self._market, self._rules, np.frombuffer(message, np.uint8), ts)

    def _take(self) -> Block:
        """Copy out what both feeds hold and begin again; no packet is open between steps."""
        market = self._market
        parts = []
        for k in (gateway.INCREMENTAL, gateway.SNAPSHOT):
            n, size = int(market.feed[k]["packets"]), int(market.feed[k]["start"])
            parts.append(
                Packets(
                    self._room.buffer[k, :size].copy(),
                    self._room.offset[k, :n].copy(),
                    self._room.length[k, :n].copy(),
                )
            )
            self._totals[k] += n
            _count_messages(parts[k].buffer, parts[k].offset, parts[k].length, self._messages)
        market.feed["packets"] = 0
        market.feed["start"] = 0
        return Block(*parts)


@njit(nogil=True, cache=True)
def _count_messages(buffer, offset, length, by_template):  # type: ignore[no-untyped-def]  # compiled: types are inferred
    for k in range(len(offset)):
        at, end = offset[k] + HEADER_BYTES, offset[k] + length[k]
        while at < end:
            by_template[buffer[at + 4]] += 1  # every template that is sent here is below 256
            at += buffer[at] + 256 * np.int64(buffer[at + 1])

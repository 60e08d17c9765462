"""What really happened in a simulated session, to compare with what was received."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workloads.exchange.forecast import Observations
from workloads.exchange.simulator import flow
from workloads.exchange.simulator.config import SimulatorConfig, SimulatorError
from workloads.exchange.simulator.matching import ASK, BID, NONE, RING, Market

BOOK = np.dtype(
    [
        ("instrument_id", np.int32),
        ("side", np.uint8),
        ("price", np.int64),
        ("order_id", np.uint64),
        ("priority", np.uint64),
        ("size", np.int32),
    ]
)
"""One resting order. ``side`` 1 buy, 2 sell; ``price`` 1e-9 in wire units; ``size`` lots."""


@dataclass(frozen=True)
class Truth:
    """n steps of I instruments."""

    instrument_id: NDArray[np.int32]
    """[I]; the second axis of the arrays below."""
    wire_tick: NDArray[np.int64]
    """[I] 1e-9 in wire units."""
    opening_bid: NDArray[np.int64]
    """[I] best bid before step 0, wire; the best offer is a tick above."""
    ts_step: NDArray[np.int64]
    """[n] start of each step, ns since the epoch."""
    states: NDArray[np.int8]
    """[n, I] hidden drift: the state's index in the configuration's `DriftModel`, 0 .. S-1. With the default
    model `forecast.FALLING`, ``QUIET``, ``RISING``, ``CHOPPY``."""
    moves: NDArray[np.int8]
    """[n, I] of the mid, ticks."""
    bid_adds: NDArray[np.uint16]
    """[n, I] orders that the noise flow added to the bids."""
    adds: NDArray[np.uint16]
    """[n, I] ... and to both sides."""
    book: NDArray[Any]
    """`BOOK` rows at the end: by instrument, side, from the best price, in queue order."""
    volume: NDArray[np.int64]
    """[I] lots traded."""
    packets: int
    """Of the incremental feed."""
    snapshot_packets: int
    messages: NDArray[np.int64]
    """[256] by template, both feeds."""
    events: int
    trades: int

    @property
    def mid(self) -> NDArray[np.float64]:
        """[n, I] mid price at the end of each step, 1e-9 in wire units."""
        ticks = np.cumsum(self.moves.astype(np.int64), axis=0) + 0.5
        return self.opening_bid + ticks * self.wire_tick

    def observations(self, instrument: int) -> Observations:
        """What the best forecast of one instrument (its position) is made from."""
        return Observations(self.moves[:, instrument], self.bid_adds[:, instrument], self.adds[:, instrument])

    def save(self, path: Path) -> None:
        """Write it as one .npz file."""
        with Path(path).open("wb") as file:
            np.savez_compressed(file, **{field.name: getattr(self, field.name) for field in fields(self)})

    @classmethod
    def load(cls, path: Path) -> "Truth":
        """Read a file that `save` wrote.

        Raises
        ------
        SimulatorError
            If the file is not one of those.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                values = {field.name: file[field.name] for field in fields(cls)}
        except (KeyError, ValueError, OSError) as error:
            raise SimulatorError(f"{path} is no record of a simulated session: {error}") from error
        return cls(**{name: value[()] if value.ndim else value.item() for name, value in values.items()})

    @classmethod
    def of(
        cls,
        config: SimulatorConfig,
        market: Market,
        path: flow.Path,
        packets: list[int],
        messages: NDArray[np.int64],
    ) -> "Truth":
        """Collect it after the last step; ``packets`` of both feeds, ``messages`` by template."""
        venue = market.venue[0]
        tick = market.instrument["wire_tick"].astype(np.int64)
        opening = np.array([future.opening_ticks for future in config.futures], np.int64)
        return cls(
            instrument_id=market.instrument["id"].astype(np.int32),
            wire_tick=tick,
            opening_bid=opening * tick,
            ts_step=config.origin_ns + np.arange(config.steps, dtype=np.int64) * config.step_ns,
            states=path.states,
            moves=path.moves,
            bid_adds=path.bid_adds,
            adds=path.adds,
            book=_book(market),
            volume=market.instrument["volume"].astype(np.int64),
            packets=packets[0],
            snapshot_packets=packets[1],
            messages=messages.copy(),
            events=int(venue["events"]),
            trades=int(venue["trades"]),
        )


def _book(market: Market) -> NDArray[Any]:
    rows = []
    for i, instrument in enumerate(market.instrument):
        for side in (BID, ASK):
            for distance in range(RING // 2):
                tick = int(market.side[i, side]["best"]) + distance * (2 * side - 1)
                slot = int(market.level[i, side, tick % RING]["head"])
                while slot != NONE:
                    order = market.order[i, slot]
                    price = tick * int(instrument["wire_tick"])
                    rows.append(
                        (instrument["id"], side + 1, price, order["id"], order["priority"], order["size"])
                    )
                    slot = int(order["next"])
    return np.array(rows, BOOK)

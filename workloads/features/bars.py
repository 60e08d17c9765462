"""Time, volume and dollar bars of trades: López de Prado (2018), section 2.3.1.

A time bar holds the trades of one interval [start, end), intervals being multiples of the width; intervals
without a trade have no bar. A volume bar ends with the trade that brings its volume to the width or above,
a dollar bar with the one that does so to its traded value |price| x size x multiplier: that trade belongs
wholly to the bar that it ends, and the next trade begins another. Time is when a trade was known.

No bar reaches across a lost packet, a session or a trading date: one that is cut there is unfinished, and
unfinished bars are left out. So is a time bar in which something was lost before its first trade or behind
its last one.
"""

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import ConfigDict

from workloads.compiled import compiled
from workloads.ticks.codes import Side
from workloads.ticks.definitions import NANO
from workloads.ticks.schema import BARS

Int: TypeAlias = NDArray[np.int64]

KINDS = ("time", "volume", "dollar")
_TIME, _VOLUME, _DOLLAR = range(len(KINDS))
_BUY, _SELL = int(Side.BUY), int(Side.SELL)
_NEVER = np.iinfo(np.int64).max

_BAR = np.dtype(
    [
        ("instrument", np.int64),  # its number; later its id
        ("kind", np.int64),
        *((name, np.int64) for name in ("ts_start", "ts_end", "open", "high", "low", "close")),
        *((name, np.int64) for name in ("volume", "buy_volume", "sell_volume", "trades")),
        ("turnover", np.int64),  # sum of price x size
        ("value", np.int64),  # sum of |price| x size
        ("loss", np.int64),  # of the bar's trades, like the next
        ("session", np.int64),
        ("multiplier", np.int64),  # of its last trade
    ]
)


@dataclass(frozen=True)
class Widths:
    """When bars end."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    time_ns: int = NANO
    volume: int = 200
    """Lots."""
    dollars: int = 20_000_000
    """Of the quote currency."""

    def __post_init__(self) -> None:
        if min(self.time_ns, self.volume, self.dollars) < 1:
            raise ValueError("the widths of bars must be at least 1")


@dataclass(frozen=True, eq=False)
class Trades:
    """n trades in the order in which they were known."""

    instrument_id: NDArray[np.int32]
    ts: Int
    """When it was known, ns; never falling."""
    price: Int
    """1e-9 of the quote currency."""
    size: Int
    aggressor: NDArray[np.uint8]
    multiplier: Int
    """1e-9 of the currency per quoted point and lot; 0: not known, then it is in no dollar bar."""
    loss: Int
    """Index of the last loss before it, -1: none."""
    session: Int
    """Number of its session; any, if different ones differ."""


class Bars:
    """Builds bars of all instruments of one partition, batch after batch.

    Parameters
    ----------
    lost_after, lost_until : int64[n], ns
        For each loss, when the last packet before it and the first one behind it were known.
    """

    def __init__(self, widths: Widths, lost_after: Int | None = None, lost_until: Int | None = None) -> None:
        none = np.zeros(0, np.int64)
        self._widths = widths
        self._after = np.append(none if lost_after is None else lost_after, _NEVER)
        # One more in front: that of index -1, before which nothing was lost.
        self._until = np.append(-1, none if lost_until is None else lost_until)
        self._numbers: dict[int, int] = {}
        self._open = np.zeros((0, len(KINDS)), _BAR)
        self._given: NDArray[np.int64] = np.zeros(0, np.int64)
        """Trades of each instrument, and below those that are in finished bars, by kind."""
        self._barred: NDArray[np.int64] = np.zeros((0, len(KINDS)), np.int64)

    def in_none(self) -> dict[tuple[str, int], int]:
        """Trades in no finished bar, by kind and instrument: their bar met a loss, a session or the end."""
        left = self._given[:, None] - self._barred
        return {
            (kind, i): int(left[number, k])
            for i, number in self._numbers.items()
            for k, kind in enumerate(KINDS)
        }

    def add(self, trades: Trades) -> pa.Table:
        """The bars that these trades finished, in that order.

        A time bar is finished by its instrument's next trade behind it; see `finish` for the last ones.
        """
        number = self._number(trades.instrument_id)
        self._given += np.bincount(number, minlength=len(self._given))
        # 1e-9 x 1e-9: in units of turnover, so that the sum needs no division.
        factor = _distinct(trades.multiplier)
        limits = [-(-self._widths.dollars * NANO * NANO // m) if m else _NEVER for m in factor[0].tolist()]
        limit = np.array([min(limit, _NEVER) for limit in limits], np.int64)[factor[1]]
        made = np.zeros(len(KINDS) * len(number), _BAR)
        count = _bars(
            number, trades.ts, trades.price, trades.size, trades.aggressor.astype(np.int64),
            trades.multiplier, limit, trades.loss, trades.session, self._after, self._until,
            self._widths.time_ns, self._widths.volume, self._open, made,
        )  # fmt: skip
        return self._table(made[:count])

    def finish(self, ts: int) -> pa.Table:
        """The time bars that were over by ``ts``, the end of the stream, in the order of first trades."""
        bars = self._open[:, _TIME]
        whole = (bars["trades"] > 0) & (bars["ts_end"] <= ts)
        whole &= self._after[bars["loss"] + 1] >= bars["ts_end"]
        whole &= self._until[bars["loss"] + 1] <= bars["ts_start"]
        return self._table(bars[whole])

    def _number(self, instrument_id: NDArray[np.int32]) -> Int:
        ids, places = _distinct(instrument_id)
        new = [i for i in ids.tolist() if i not in self._numbers]
        self._numbers.update({i: len(self._numbers) + n for n, i in enumerate(new)})
        self._open = np.concatenate([self._open, np.zeros((len(new), len(KINDS)), _BAR)])
        self._given = np.concatenate([self._given, np.zeros(len(new), np.int64)])
        self._barred = np.concatenate([self._barred, np.zeros((len(new), len(KINDS)), np.int64)])
        numbers: Int = np.array([self._numbers[i] for i in ids.tolist()], np.int64)[places]
        return numbers

    def _table(self, bars: NDArray[Any]) -> pa.Table:
        np.add.at(self._barred, (bars["instrument"], bars["kind"]), bars["trades"])
        ids = np.array([*self._numbers], np.int32)
        kinds = pa.DictionaryArray.from_arrays(bars["kind"].astype(np.int32), pa.array(KINDS))
        stamp = BARS.arrow.field("ts_start").type
        columns = {
            "kind": kinds,
            "instrument_id": ids[bars["instrument"]],
            "ts_start": pa.array(bars["ts_start"]).cast(stamp),
            "ts_end": pa.array(bars["ts_end"]).cast(stamp),
            "vwap": bars["turnover"] // np.maximum(bars["volume"], 1),
            "notional": _notional(bars["turnover"], bars["multiplier"]),
        }
        return pa.table(
            [
                columns.get(name, bars[name] if name in (_BAR.names or ()) else None)
                for name in BARS.arrow.names
            ],
            schema=BARS.arrow,
        )


def _distinct(values: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.int32]]:
    """The values that there are, in the order of first appearance, and which of them each one is."""
    encoded = pa.array(values).dictionary_encode()
    return encoded.dictionary.to_numpy(), encoded.indices.to_numpy()


def _notional(turnover: Int, multiplier: Int) -> pa.Array:
    """turnover x multiplier in 1e-9, rounded down; null without a multiplier, or where int64 is too small."""
    exact = [
        t * m // NANO if m else None for t, m in zip(turnover.tolist(), multiplier.tolist(), strict=True)
    ]
    return pa.array([n if n is not None and abs(n) <= _NEVER else None for n in exact], pa.int64())


@compiled
def _bars(
    number: Any, ts: Any, price: Any, size: Any, aggressor: Any,
    multiplier: Any, limit: Any, loss: Any, session: Any, lost_after: Any, lost_until: Any,
    width: Any, volume: Any, open_bars: Any, made: Any,
) -> Any:  # fmt: skip
    """Put trades into the open bars, and those that end into ``made``; returns how many. No allocation."""
    count = 0
    for i in range(len(number)):
        for kind in range(3):
            bar = open_bars[number[i], kind]
            cut = bar.loss != loss[i] or bar.session != session[i]
            if bar.trades > 0 and kind == _TIME and ts[i] >= bar.ts_end:
                if lost_after[bar.loss + 1] >= bar.ts_end and lost_until[bar.loss + 1] <= bar.ts_start:
                    made[count] = bar
                    count += 1
                bar.trades = 0
            elif bar.trades > 0 and cut:
                bar.trades = 0
                if kind == _TIME and bar.session != session[i]:
                    bar.trades = -1  # the rest of this interval is no whole bar either
            if bar.trades <= 0:
                dead = kind == _TIME and bar.trades < 0 and ts[i] < bar.ts_end
                bar.instrument, bar.kind = number[i], kind
                bar.ts_start = ts[i] - ts[i] % width if kind == _TIME else ts[i]
                bar.ts_end = bar.ts_start + width if kind == _TIME else ts[i]
                bar.open = bar.high = bar.low = price[i]
                bar.volume = bar.buy_volume = bar.sell_volume = bar.turnover = bar.value = 0
                bar.loss, bar.session = loss[i], session[i]
                bar.trades = -1 if dead else 0
            if bar.trades < 0:
                continue
            bar.high = max(bar.high, price[i])
            bar.low = min(bar.low, price[i])
            bar.close = price[i]
            bar.volume += size[i]
            bar.buy_volume += size[i] if aggressor[i] == _BUY else 0
            bar.sell_volume += size[i] if aggressor[i] == _SELL else 0
            bar.trades += 1
            bar.turnover += price[i] * size[i]
            bar.value += abs(price[i]) * size[i]
            bar.multiplier = multiplier[i]
            if kind != _TIME:
                bar.ts_end = ts[i]
            if (kind == _VOLUME and bar.volume >= volume) or (kind == _DOLLAR and bar.value >= limit[i]):
                made[count] = bar
                count += 1
                bar.trades = 0
    return count

"""What an instrument was at a time: effective-dated definitions, alone and for whole columns.

A definition is valid from the instant at which the venue sent it (``ts_sent``) until the next one of the
same instrument, or until it is deleted. CME reuses an instrument's id after expiry (MDP 3.0, SecurityID),
so an id alone names nothing.
"""

import datetime
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from workloads.errors import WorkloadError
from workloads.ticks.schema import DEFINITIONS

NANO = 1_000_000_000
DELETED = ord("D")

_INT64_MAX = np.iinfo(np.int64).max


class MissingDefinitionError(WorkloadError):
    """No definition of that instrument was valid at that time, or it leaves the asked value open."""


class NotionalError(WorkloadError):
    """A notional does not fit into int64 units of 1e-9."""


@dataclass(frozen=True)
class Leg:
    """One leg of a spread; ``price`` 1e-9 of the quote currency, None where the venue gives none."""

    instrument_id: int
    side: int
    ratio: int
    price: int | None


@dataclass(frozen=True)
class Definition:
    """One row of the `definitions` table; units are those of `workloads.ticks.schema`, times int ns UTC."""

    ts_event: int | None
    ts_sent: int
    ts_recv: int | None
    venue: str
    channel: int
    epoch: int
    seq: int
    msg_index: int
    entry_index: int
    instrument_id: int
    symbol: str
    update_action: int | None
    security_group: str | None
    asset: str | None
    security_type: str | None
    security_subtype: str | None
    exchange: str | None
    cfi: str | None
    currency: str | None
    settl_currency: str | None
    maturity: str | None
    tick: int | None
    tick_rule: int | None
    tick_value: int | None
    display_factor: int | None
    multiplier: int | None
    lot_size: int | None
    unit: str | None
    main_fraction: int | None
    sub_fraction: int | None
    price_display_format: int | None
    high_limit: int | None
    low_limit: int | None
    max_variation: int | None
    reference_price: int | None
    reference_date: datetime.date | None
    open_interest: int | None
    cleared_volume: int | None
    strike: int | None
    put_or_call: int | None
    min_size: int | None
    max_size: int | None
    match_algorithm: str | None
    market_segment: int | None
    trading_status: int | None
    attributes: int | None
    depth: int | None
    activation: int | None
    expiration: int | None
    legs: tuple[Leg, ...]
    guid: int | None
    row_flags: int | None
    template: int | None


class Definitions:
    """All definitions of some rows of the `definitions` table, looked up by instrument and time.

    Parameters
    ----------
    rows : pa.Table
        With the table's schema, in any order. Rows without ``instrument_id`` or ``ts_sent`` are left out.
    """

    def __init__(self, rows: pa.Table):
        rows = rows.select(DEFINITIONS.arrow.names)
        rows = rows.filter(pc.and_(pc.is_valid(rows["instrument_id"]), pc.is_valid(rows["ts_sent"])))
        order = ("instrument_id", "ts_sent", "epoch", "seq", "msg_index")
        self._rows = rows.sort_by([(name, "ascending") for name in order]).combine_chunks()
        ids = self._ints("instrument_id")[0]
        sent = self._ints("ts_sent")[0]
        self._ids = np.unique(ids)
        self._times = np.unique(sent)
        # One sorted key for (instrument, time): index of the instrument, then rank of the time from 1.
        self._width = len(self._times) + 1
        self._keys = np.searchsorted(self._ids, ids) * self._width + np.searchsorted(self._times, sent) + 1
        self._deleted = self._ints("update_action")[0] == DELETED
        self._symbols: NDArray[np.object_] = self._rows["symbol"].to_numpy(zero_copy_only=False)

    def __len__(self) -> int:
        return int(self._rows.num_rows)

    def at(self, instrument_id: int, ts: int) -> Definition:
        """The definition valid at ``ts`` (ns UTC)."""
        return self._row(int(self._find(np.array([instrument_id]), np.array([ts]))[0]))

    def by_symbol(self, symbol: str, ts: int) -> Definition:
        """The definition that carried ``symbol`` at ``ts`` (ns UTC); the newest, should there be several."""
        carried = np.unique(self._ints("instrument_id")[0][self._symbols == symbol])
        found = self._search(carried, np.full(len(carried), ts))
        rows = [int(i) for i in found if i >= 0 and self._symbols[i] == symbol]
        if not rows:
            raise MissingDefinitionError(
                f"no definition of symbol {symbol!r} was valid at {_time(ts)}; known: {self._known(carried)}"
            )
        return self._row(max(rows, key=lambda i: int(self._ints("ts_sent")[0][i])))

    def symbols(self) -> list[str]:
        """Every symbol that was ever defined, sorted."""
        return sorted({symbol for symbol in self._symbols if symbol is not None})

    def column(
        self,
        name: str,
        instrument_ids: NDArray[np.int32],
        ts: NDArray[np.int64],
        missing: int | None = None,
    ) -> NDArray[np.int64]:
        """One number of the definition valid for each row.

        Parameters
        ----------
        name : str
            An integer or time column of the table.
        instrument_ids, ts : arrays of n
            ``ts`` in ns UTC.
        missing : int, optional
            What stands for a number that no valid definition gives; default: that is an error.

        Raises
        ------
        MissingDefinitionError
            If any row has no valid definition, or its definition holds null there.
        ValueError
            If the column is not one of numbers.
        """
        numbers = [f.name for f in DEFINITIONS.arrow if _is_number(f.type)]
        if name not in numbers:
            raise ValueError(f"{name!r} is no number of a definition; those are {', '.join(numbers)}")
        values, valid = self._ints(name)
        if missing is not None:
            rows = self._search(instrument_ids, ts)
            known = np.append(valid, False)[rows]
            return np.where(known, np.append(values, 0)[rows], missing)
        rows = self._find(instrument_ids, ts)
        if not valid[rows].all():
            row = rows[np.argmin(valid[rows])]
            since = _time(self._row(int(row)).ts_sent)
            raise MissingDefinitionError(
                f"the definition of {self._symbols[row]} that is valid from {since} gives "
                f"no {name}; correct the definition or leave the instrument out"
            )
        return values[rows]

    def notional(
        self,
        instrument_ids: NDArray[np.int32],
        prices: NDArray[np.int64],
        sizes: NDArray[np.int64],
        ts: NDArray[np.int64],
    ) -> NDArray[np.int64]:
        """price x size x multiplier, exactly, in 1e-9 of the quote currency.

        Parameters
        ----------
        instrument_ids, ts : arrays of n
        prices : int64 array of n
            Quoted, 1e-9 of the currency; no nulls.
        sizes : int64 array of n
            Lots; may be negative, for a short position.

        Raises
        ------
        MissingDefinitionError
            If a row has no valid definition or no multiplier.
        NotionalError
            If a product leaves int64 (about 9.2e9 of the currency) or is no whole number of 1e-9.
        """
        multipliers = self.column("multiplier", instrument_ids, ts)
        common = np.gcd(multipliers, NANO)
        factors, divisors = multipliers // np.maximum(common, 1), NANO // np.maximum(common, 1)
        prices, sizes = np.asarray(prices, np.int64), np.asarray(sizes, np.int64)
        # A product of floats is within 1e-15 of the true one: below the bound it cannot have overflowed.
        size = np.abs(prices.astype(float)) * np.abs(sizes.astype(float)) * np.abs(factors.astype(float))
        if (size < 0.99 * _INT64_MAX).all():
            products = prices * sizes * factors
            whole, rest = np.divmod(products, divisors)
            if not rest.any():
                return np.asarray(whole, np.int64)
        return _exact(prices, sizes, factors, divisors)

    def _search(self, ids: NDArray[Any], ts: NDArray[Any]) -> NDArray[np.int64]:
        """Row of the definition valid for each pair; -1 where there is none."""
        ids, ts = np.asarray(ids, np.int64), np.asarray(ts, np.int64)
        if not len(self._keys):
            return np.full(len(ids), -1)
        index = np.minimum(np.searchsorted(self._ids, ids), len(self._ids) - 1)
        keys = index * self._width + np.searchsorted(self._times, ts, side="right")
        rows = np.searchsorted(self._keys, keys, side="right") - 1
        found = (self._ids[index] == ids) & (rows >= 0)
        found &= (self._keys[rows] // self._width == index) & ~self._deleted[rows]
        return np.where(found, rows, -1)

    def _find(self, ids: NDArray[Any], ts: NDArray[Any]) -> NDArray[np.int64]:
        rows = self._search(ids, ts)
        if len(rows) and rows.min() < 0:
            first = int(np.argmax(rows < 0))
            known = self._known([int(ids[first])])
            raise MissingDefinitionError(
                f"no definition of instrument {int(ids[first])} was valid at {_time(int(ts[first]))} "
                f"({int((rows < 0).sum())} of {len(rows)} rows lack one); known: {known}"
            )
        return rows

    def _known(self, wanted: Iterable[int]) -> str:
        """The definitions of the wanted instruments, or else some of all."""
        ids, sent = self._ints("instrument_id")[0], self._ints("ts_sent")[0]
        rows = np.flatnonzero(np.isin(ids, list(wanted)))
        if not len(rows):
            rows = np.unique(ids, return_index=True)[1]
        shown = [
            f"{ids[i]} {self._symbols[i]} {'deleted' if self._deleted[i] else 'from'} {_time(int(sent[i]))}"
            for i in rows[:6]
        ]
        more = f" and {len(rows) - 6} more" if len(rows) > 6 else ""
        return (", ".join(shown) + more) or "none; store the definitions of that day first"

    def _ints(self, name: str) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Values of a column, 0 where null, and where they are valid."""
        column = self._rows[name]
        kind = pa.int32() if pa.types.is_date32(column.type) else pa.int64()
        safe = not pa.types.is_uint64(column.type)  # an InstrumentGUID above 2^63 keeps its bits
        values = pc.fill_null(column.cast(kind, safe=safe), pa.scalar(0, kind)).to_numpy()
        return values.astype(np.int64), pc.is_valid(column).to_numpy()

    def _row(self, i: int) -> Definition:
        row = self._rows.slice(i, 1)
        values: dict[str, Any] = {}
        for name in row.column_names:
            column = row[name]
            values[name] = (
                column.cast(pa.int64()) if pa.types.is_timestamp(column.type) else column
            ).to_pylist()[0]
        values["legs"] = tuple(Leg(**leg) for leg in values["legs"] or ())
        return Definition(**values)


def _exact(*factors_then_divisors: NDArray[np.int64]) -> NDArray[np.int64]:
    """The same product in Python's unbounded integers; names the first row that has no answer."""
    out = []
    for row, (price, size, factor, divisor) in enumerate(
        zip(*(array.tolist() for array in factors_then_divisors), strict=True)
    ):
        value, rest = divmod(price * size * factor, divisor)
        if rest or not -_INT64_MAX <= value <= _INT64_MAX:
            why = "is no whole number of 1e-9" if rest else "leaves int64 (9.2e9 of the currency)"
            raise NotionalError(
                f"row {row}: price {price} x size {size} x multiplier {factor}/{divisor} {why}; split the "
                "position or sum in a wider type"
            )
        out.append(value)
    return np.array(out, dtype=np.int64)


def _is_number(kind: Any) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_timestamp(kind) or pa.types.is_date32(kind))


def _time(ts: int) -> str:
    return f"{np.datetime64(ts, 'ns')}Z"

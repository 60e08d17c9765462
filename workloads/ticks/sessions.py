"""Trading dates and sessions by the exchange's calendar. Times are int64 ns since the UNIX epoch, UTC.

The calendars are those of exchange_calendars, with one addition: its CME calendar lasts from 17:00 to
17:00 Chicago and knows nothing of the daily maintenance hour, so a full CME session ends here at 16:00.
"""

import datetime
from bisect import bisect_left
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workloads.errors import WorkloadError

CALENDARS = {"XCME": "CMES", "XCBT": "CMES", "XNYM": "CMES", "XCEC": "CMES"}
"""Calendar of each venue whose MIC is not the calendar's own name."""

_MAINTENANCE = {"CMES": datetime.time(16, 0)}
"""Venue-local time at which a full session ends, where the library's session runs on to the next open."""

_FIRST_YEAR, _LAST_YEAR = 1990, 2100


class MissingSessionError(WorkloadError):
    """The venue has no session on that date, or no calendar covers that time."""


@dataclass(frozen=True)
class Session:
    """Trading hours of one trading date; ``open_ns`` inclusive, ``close_ns`` exclusive."""

    open_ns: int
    close_ns: int
    breaks: tuple[tuple[int, int], ...] = ()
    """Pauses inside the session (lunch in Tokyo and Hong Kong): [start, end) each."""

    def trading_ns(self) -> int:
        """Duration without the breaks."""
        return self.close_ns - self.open_ns - sum(end - start for start, end in self.breaks)


def trading_dates(venue: str, ts: NDArray[np.int64]) -> NDArray[np.datetime64]:
    """The trading date of each time.

    Parameters
    ----------
    venue : str
        MIC.
    ts : int64 array of n

    Returns
    -------
    datetime64[D] array of n
        The session whose [open, close) holds ``ts``; between sessions (maintenance hour, weekend, holiday)
        the next session.

    Raises
    ------
    MissingSessionError
        If a time lies outside 1990-2100: it is not one, or not in nanoseconds.
    """
    ts = np.asarray(ts, dtype=np.int64)
    if not len(ts):
        return np.zeros(0, dtype="datetime64[D]")
    table = _table_for(venue, int(ts.min()), int(ts.max()))
    first, last = np.searchsorted(table.close_ns, (ts.min(), ts.max()), side="right")
    if first == last:  # nearly every batch
        return np.full(len(ts), table.dates[first])
    return table.dates[np.searchsorted(table.close_ns, ts, side="right")]


def session(venue: str, date: datetime.date) -> Session:
    """Hours of one trading date; MissingSessionError on a weekend or holiday, naming the neighbours."""
    table = _table(venue, date.year - 1, date.year + 1)
    i = int(np.searchsorted(table.dates, np.datetime64(date)))
    if table.dates[i] != np.datetime64(date):
        raise MissingSessionError(
            f"{venue} has no session on {date} ({date:%A}); its neighbours are {table.dates[i - 1]} and "
            f"{table.dates[i]}"
        )
    return Session(int(table.open_ns[i]), int(table.close_ns[i]), table.breaks[i])


def sessions_between(venue: str, first: datetime.date, last: datetime.date) -> list[datetime.date]:
    """The trading dates from ``first`` to ``last``, both inclusive."""
    dates: list[datetime.date] = _table(venue, first.year - 1, last.year + 1).dates.tolist()
    return dates[bisect_left(dates, first) : bisect_left(dates, last + datetime.timedelta(days=1))]


def week_start(venue: str, ts: int) -> datetime.date:
    """The Sunday that begins the trading week of ``ts``, by which epochs are named.

    A week changes when its last session closes: what a venue sends on Saturday belongs to the week to come.
    """
    date: datetime.date = trading_dates(venue, np.array([ts]))[0].item()
    return date - datetime.timedelta(days=date.isoweekday() % 7)


@dataclass(frozen=True)
class _Table:
    """All sessions of some years, sorted; every array has one element per session."""

    dates: NDArray[np.datetime64]
    open_ns: NDArray[np.int64]
    close_ns: NDArray[np.int64]
    breaks: list[tuple[tuple[int, int], ...]]


def _table_for(venue: str, first_ns: int, last_ns: int) -> _Table:
    first, last = (
        int(np.datetime64(ns, "ns").astype("datetime64[Y]").item().year) for ns in (first_ns, last_ns)
    )
    return _table(venue, first - 1, last + 1)


def _table(venue: str, first_year: int, last_year: int) -> _Table:
    if first_year + 1 < _FIRST_YEAR or last_year - 1 > _LAST_YEAR:
        raise MissingSessionError(
            f"{venue}: no calendar for {first_year + 1} to {last_year - 1}; times must be ns since the UNIX "
            f"epoch, between {_FIRST_YEAR} and {_LAST_YEAR}"
        )
    return _years(CALENDARS.get(venue, venue), first_year, last_year)


@lru_cache(maxsize=32)
def _years(calendar: str, first_year: int, last_year: int) -> _Table:
    import exchange_calendars

    names = exchange_calendars.get_calendar_names(include_aliases=False)
    if calendar not in names:
        raise ValueError(
            f"no calendar for venue {calendar!r}; known: {', '.join(sorted([*CALENDARS, *names]))}"
        )
    made = exchange_calendars.get_calendar(calendar, start=f"{first_year}-01-01", end=f"{last_year}-12-31")
    dates = made.schedule.index.to_numpy().astype("datetime64[D]")
    close_ns = _ns(made.schedule["close"])
    if calendar in _MAINTENANCE:
        close_ns = np.minimum(close_ns, _local(dates, _MAINTENANCE[calendar], made.tz))
    starts, ends = _ns(made.schedule["break_start"]), _ns(made.schedule["break_end"])
    none = np.iinfo(np.int64).min  # NaT
    breaks: list[tuple[tuple[int, int], ...]] = [
        () if start == none else ((int(start), int(end)),) for start, end in zip(starts, ends, strict=True)
    ]
    table = _Table(dates, _ns(made.schedule["open"]), close_ns, breaks)
    assert all(a < b for a, b in pairwise(table.close_ns)), "sessions are sorted and disjoint"
    return table


def _ns(times: Any) -> NDArray[np.int64]:
    utc: NDArray[np.int64] = times.dt.tz_localize(None).to_numpy().astype("datetime64[ns]").astype(np.int64)
    return utc


def _local(dates: NDArray[np.datetime64], at: datetime.time, zone: Any) -> NDArray[np.int64]:
    """ns UTC of a wall-clock time on each date; 16:00 is never inside a change to or from summer time."""
    seconds = [datetime.datetime.combine(date, at, tzinfo=zone).timestamp() for date in dates.tolist()]
    return np.array(seconds).astype(np.int64) * 1_000_000_000

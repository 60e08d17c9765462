from datetime import date, datetime
from zoneinfo import ZoneInfo

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from workloads.ticks.sessions import MissingSessionError, session, sessions_between, trading_dates, week_start

CHICAGO = ZoneInfo("America/Chicago")
HOUR = 3_600_000_000_000


def utc(text: str) -> int:
    return int(np.datetime64(text, "ns").astype(np.int64))


def chicago(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=CHICAGO).timestamp()) * 1_000_000_000


def on(text: str, venue: str = "XCME") -> str:
    return str(trading_dates(venue, np.array([utc(text)]))[0])


def test_the_evening_of_a_holiday_belongs_to_the_next_trading_date():
    assert on("2023-12-25T23:30") == "2023-12-26"  # where the real ES capture trades


@pytest.mark.parametrize(
    ("moment", "expected"),
    [
        ("2026-01-05T21:59:59.999999999", "2026-01-05"),  # the last nanosecond before 16:00 Chicago
        ("2026-01-05T22:00", "2026-01-06"),  # the maintenance hour
        ("2026-01-05T23:00", "2026-01-06"),  # the open
        ("2026-01-09T22:00", "2026-01-12"),  # Friday's close: the weekend belongs to Monday
        ("2026-01-11T12:00", "2026-01-12"),
        ("2024-11-29T17:59", "2024-11-29"),  # the day after Thanksgiving closes early
        ("2024-11-29T18:20", "2024-12-02"),
    ],
)
def test_a_trading_date_ends_when_its_session_closes(moment: str, expected: str):
    assert on(moment) == expected


@pytest.mark.parametrize(
    ("day", "open_utc", "close_utc"),
    [
        ("2024-03-08", "2024-03-07T23:00", "2024-03-08T22:00"),  # winter time
        ("2024-03-11", "2024-03-10T22:00", "2024-03-11T21:00"),  # clocks changed on Sunday morning
        ("2024-11-01", "2024-10-31T22:00", "2024-11-01T21:00"),
        ("2024-11-04", "2024-11-03T23:00", "2024-11-04T22:00"),
    ],
)
def test_sessions_follow_chicago_through_the_change_of_clocks(day: str, open_utc: str, close_utc: str):
    hours = session("XCME", date.fromisoformat(day))
    assert (hours.open_ns, hours.close_ns) == (utc(open_utc), utc(close_utc))
    assert hours.trading_ns() == 23 * HOUR


def test_an_early_close_keeps_the_calendars_hour():
    assert session("XCBT", date(2024, 7, 4)).close_ns == chicago("2024-07-04T12:00")


def test_a_lunch_break_is_no_trading_time():
    hours = session("XTKS", date(2024, 7, 4))
    ((start, end),) = hours.breaks
    assert (start, end) == (utc("2024-07-04T02:30"), utc("2024-07-04T03:30"))
    assert hours.trading_ns() == 5 * HOUR


def test_a_holiday_is_told_with_its_neighbours():
    with pytest.raises(MissingSessionError, match=r"2023-12-25 \(Monday\).* 2023-12-22 and 2023-12-26"):
        session("XCME", date(2023, 12, 25))


def test_sessions_between_two_dates_include_both():
    found = sessions_between("XCME", date(2023, 12, 22), date(2023, 12, 27))
    assert found == [date(2023, 12, 22), date(2023, 12, 26), date(2023, 12, 27)]
    assert sessions_between("XCME", date(2023, 12, 23), date(2023, 12, 25)) == []


@pytest.mark.parametrize(
    ("moment", "sunday"),
    [
        ("2026-01-04T17:00", "2026-01-04"),  # the open on Sunday
        ("2026-01-09T15:59", "2026-01-04"),  # Friday before the close
        ("2026-01-10T09:00", "2026-01-11"),  # Saturday's test traffic is of the week to come
        ("2024-01-01T18:00", "2023-12-31"),  # Monday was a holiday: the week still begins on its Sunday
    ],
)
def test_a_week_begins_on_the_sunday_of_its_first_session(moment: str, sunday: str):
    assert week_start("XCME", chicago(moment)) == date.fromisoformat(sunday)


def test_an_unknown_venue_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"no calendar for venue 'XXXX'; known: .*XCME"):
        on("2026-01-05T12:00", "XXXX")


@pytest.mark.parametrize("ts", [0, 1_767_614_400, -1, 2**63 - 1])
def test_a_time_that_is_not_in_nanoseconds_is_refused(ts: int):
    with pytest.raises(MissingSessionError, match="times must be ns since the UNIX epoch"):
        trading_dates("XCME", np.array([ts]))


def test_no_times_have_no_dates():
    assert trading_dates("XCME", np.zeros(0, np.int64)).tolist() == []


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(utc("2023-01-01"), utc("2026-12-01")), min_size=1, max_size=5))
def test_a_time_is_before_its_sessions_close_and_not_before_the_last_ones(times: list[int]):
    """The vectorised answer against a search through the sessions, one by one."""
    every = sessions_between("XCME", date(2022, 12, 1), date(2026, 12, 31))
    for ts, found in zip(times, trading_dates("XCME", np.array(times)).tolist(), strict=True):
        near = [day for day in every if abs((day - found).days) <= 6]
        assert found == next(day for day in near if ts < session("XCME", day).close_ns)
        assert session("XCME", near[near.index(found) - 1]).close_ns <= ts

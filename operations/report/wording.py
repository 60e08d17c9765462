"""Numbers as a reader wants them: rounded, with a unit that fits, never split at a line's end."""

import math
from datetime import UTC, datetime

NANO = 1_000_000_000
SPACE = "\N{NO-BREAK SPACE}"
MINUS = "\N{MINUS SIGN}"
NONE = "–"

_DURATIONS = ((86_400 * NANO, "d"), (3_600 * NANO, "h"), (60 * NANO, "min"), (NANO, "s"))
_SHORT_DURATIONS = ((NANO, "s"), (1_000_000, "ms"), (1_000, "µs"), (1, "ns"))
_BYTES = ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))


def count(n: float | None) -> str:
    """``202,324``."""
    return NONE if n is None else f"{round(n):,}".replace("-", MINUS)


def plural(n: int, noun: str) -> str:
    """``1 packet``, ``2 packets``."""
    return f"{count(n)}{SPACE}{noun}{'' if n == 1 else 's'}"


def share(part: float, whole: float) -> str:
    """A percentage that says 0 or 100 only where it is exactly that."""
    if not whole:
        return NONE
    percent = 100 * part / whole
    if percent in (0, 100):
        return f"{percent:.0f}{SPACE}%"
    digits = 1
    while digits < 4 and round(percent, digits) in (0, 100):
        digits += 1
    shown = round(percent, digits)
    if shown in (0, 100):
        return f"{'<' if not shown else '>'}{SPACE}{0.0001 if not shown else 99.9999}{SPACE}%"
    return f"{percent:.{digits}f}{SPACE}%"


def percent(part: float, places: int = 1) -> str:
    """A share of 1 as ``58.1 %``."""
    return NONE if math.isnan(part) else f"{100 * part:.{places}f}{SPACE}%".replace("-", MINUS)


def points(difference: float, places: int = 1) -> str:
    """A difference of two shares in percentage points, with its sign: ``+2.5``."""
    if math.isnan(difference):
        return NONE
    text = f"{100 * difference:+.{places}f}"
    return text.replace("-", MINUS) if text.strip("+-0.") else text[1:]


def money(value: float, currency: str) -> str:
    """``12,345 USD``; cents only where the amount is small."""
    text = f"{value:,.0f}" if abs(value) >= 99.5 else f"{value:,.2f}"
    text = text.removeprefix("-") if not text.strip("-0.,") else text.replace("-", MINUS)
    return f"{text}{SPACE}{currency}" if currency else text


def digits(value: float, significant: int = 3) -> str:
    """At least three significant digits, all digits before the point."""
    if value == 0:
        return "0"
    places = max(0, significant - 1 - math.floor(math.log10(abs(value))))
    text = f"{value:,.{places}f}"
    return (text.rstrip("0").rstrip(".") if "." in text else text).replace("-", MINUS)


def duration(ns: float | None) -> str:
    """``41.2 µs``, ``1.5 s``, ``50 min``: three significant digits."""
    if ns is None:
        return NONE
    size = abs(ns)
    if size == 0:
        return f"0{SPACE}s"
    units = _DURATIONS if size >= 120 * NANO else _SHORT_DURATIONS
    for unit, name in units:
        if round(size / unit, 3) >= 1:
            return f"{digits(ns / unit)}{SPACE}{name}"
    return f"{digits(ns)}{SPACE}ns"


def volume_bytes(n: float | None) -> str:
    """``34.5 MiB``."""
    if n is None:
        return NONE
    for unit, name in _BYTES:
        if n >= unit:
            return f"{digits(n / unit)}{SPACE}{name}"
    return f"{count(n)}{SPACE}B"


def price(nano: int | None, places: int) -> str:
    """A price in 1e-9 as an exact decimal with at least ``places`` places, more only where it needs them."""
    if nano is None:
        return NONE
    whole, part = divmod(abs(int(nano)), NANO)
    fraction = f"{part:09d}".rstrip("0").ljust(places, "0")
    text = f"{whole:,}.{fraction}" if fraction else f"{whole:,}"
    return MINUS + text if nano < 0 else text


def places(step: int) -> int:
    """Decimal places that multiples of ``step`` (1e-9) need."""
    return len(f"{abs(step) % NANO:09d}".rstrip("0"))


def moment(ns: int | None, *, day: bool = True, digits: int = 3) -> str:
    """``2026-01-05 14:30:00.123`` UTC, cut, not rounded."""
    if ns is None:
        return NONE
    seconds, rest = divmod(int(ns), NANO)
    at = datetime.fromtimestamp(seconds, UTC)
    text = at.strftime("%Y-%m-%d %H:%M:%S" if day else "%H:%M:%S")
    return f"{text}.{rest:09d}"[: len(text) + 1 + digits] if digits else text

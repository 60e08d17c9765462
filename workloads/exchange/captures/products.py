"""Terms of well-known CME futures, for the definition that a DBN file of orders doesn't carry.

Tick, multiplier and currency: contract specifications of CME Group. Display factor: what turns the wire
price into the quoted one (ES trades at 481000 on the wire and at 4810.00 on a screen).
"""

import re
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation

from workloads.exchange.captures.source import CaptureError

ONE = 10**9
"""Mantissa of 1: every price and factor is an int64 in 1e-9."""

MONTHS = "FGHJKMNQUVXZ"
_OUTRIGHT = re.compile(rf"([A-Z0-9]{{1,4}})([{MONTHS}])(\d{{1,2}})")


@dataclass(frozen=True)
class Terms:
    """What a user says about the instrument, in 1e-9; None where the table of products is to be asked."""

    tick: int | None = None
    """Smallest price step, quoted."""
    multiplier: int | None = None
    """Currency per quoted point and lot."""
    display_factor: int | None = None
    """Quoted price = wire price x display factor."""
    currency: str | None = None
    """ISO 4217."""

    @classmethod
    def of(
        cls, tick: str | None, multiplier: str | None, display_factor: str | None, currency: str | None
    ) -> "Terms":
        """From decimal numbers as people write them."""
        return cls(
            _mantissa("tick", tick),
            _mantissa("multiplier", multiplier),
            _mantissa("display factor", display_factor),
            currency,
        )


@dataclass(frozen=True)
class Product:
    """A product whose contracts share these terms; prices and factors as in `Terms`."""

    root: str
    venue: str
    """ISO 10383 MIC of the listing exchange."""
    channel: int | None
    """CME's market data channel of the outright futures."""
    tick: int
    multiplier: int
    display_factor: int
    unit: str
    """UnitOfMeasure, CME's code."""
    currency: str = "USD"

    @property
    def wire_tick(self) -> int:
        return self.tick * ONE // self.display_factor

    @property
    def tick_value(self) -> int:
        """What a tick of one lot is worth, 1e-9 of the currency."""
        return self.tick * self.multiplier // ONE


def _product(
    root: str, venue: str, channel: int, tick: str, multiplier: str, display_factor: str, unit: str
) -> tuple[str, Product]:
    in_tick, in_multiplier, in_factor = (
        int(Decimal(text) * ONE) for text in (tick, multiplier, display_factor)
    )
    return root, Product(root, venue, channel, in_tick, in_multiplier, in_factor, unit)


PRODUCTS: dict[str, Product] = dict(
    (
        _product("ES", "XCME", 310, "0.25", "50", "0.01", "IPNT"),
        _product("NQ", "XCME", 318, "0.25", "20", "0.01", "IPNT"),
        _product("RTY", "XCME", 318, "0.1", "50", "0.01", "IPNT"),
        _product("YM", "XCBT", 342, "1", "5", "1", "IPNT"),
        _product("CL", "XNYM", 382, "0.01", "1000", "0.01", "BBL"),
        _product("GC", "XCEC", 360, "0.1", "100", "0.1", "TRYOZ"),
        _product("ZN", "XCBT", 344, "0.015625", "1000", "1", "USD"),
        _product("6E", "XCME", 314, "0.00005", "125000", "0.0001", "EUR"),
    )
)


def product_of(symbol: str, terms: Terms) -> Product:
    """The product of a contract such as ``ESH4``, overruled by what the user says about it.

    Raises
    ------
    CaptureError
        The product is unknown and the terms are incomplete, or they don't fit each other.
    """
    outright = _OUTRIGHT.fullmatch(symbol)
    root = outright[1] if outright else symbol.partition(".")[0]
    known = PRODUCTS.get(root)
    tick = terms.tick or (known.tick if known else None)
    multiplier = terms.multiplier or (known.multiplier if known else None)
    display_factor = terms.display_factor or (known.display_factor if known else None)
    if tick is None or multiplier is None or display_factor is None:
        raise CaptureError(
            f"no terms are known for {symbol!r} (known products: {', '.join(sorted(PRODUCTS))}); give them: "
            "--tick 0.25 --multiplier 50 --display-factor 0.01 --currency USD, with its own numbers"
        )
    if tick * ONE % display_factor:
        raise CaptureError(
            f"tick {decimal(tick)} is no whole number of 1e-9 wire units at display factor "
            f"{decimal(display_factor)}; check --tick and --display-factor against the contract specification"
        )
    if max(tick * ONE // display_factor, tick * multiplier // ONE) >= 2**63:
        raise CaptureError(
            f"tick {decimal(tick)}, multiplier {decimal(multiplier)} and display factor "
            f"{decimal(display_factor)} make a number too large for the wire; check them against the "
            "contract specification"
        )
    return Product(
        root[:6],
        known.venue if known else "XCME",
        known.channel if known else None,
        tick,
        multiplier,
        display_factor,
        known.unit if known else "",
        terms.currency or (known.currency if known else "USD"),
    )


def maturity(symbol: str, year: int) -> tuple[int, int] | None:
    """Year and month of delivery of a contract such as ``ESH4`` that was traded in ``year``."""
    outright = _OUTRIGHT.fullmatch(symbol)
    if outright is None:
        return None
    cycle = 10 ** len(outright[3])
    # A contract is listed at most some years ahead, and a recording never comes after its last day.
    return year + (int(outright[3]) - year) % cycle, MONTHS.index(outright[2]) + 1


def decimal(mantissa: int) -> str:
    """A 1e-9 mantissa as people write it."""
    return f"{Decimal(mantissa) / ONE:f}"


def _mantissa(name: str, text: str | None) -> int | None:
    if text is None:
        return None
    try:
        value = Decimal(text) * ONE
    except InvalidOperation:
        value = Decimal(0)
    if not value.is_finite() or not 0 < value < 2**63 or value != value.to_integral_value():
        raise CaptureError(
            f"{name} {text!r} is no positive number with at most 9 decimals; write it as in 0.25"
        )
    return int(value)

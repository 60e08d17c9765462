"""The codes that the market tables carry, as the venue sends them.

Source of the values: CME MDP 3.0, SBE template schema version 13, unless marked "ours".
"""

from enum import IntEnum, IntFlag


class Side(IntEnum):
    """Of an order, or of the order that took liquidity."""

    NONE = 0
    BUY = 1
    SELL = 2


class Action(IntEnum):
    """MDUpdateAction and OrderUpdateAction, which agree where both speak."""

    NEW = 0
    CHANGE = 1
    DELETE = 2
    DELETE_THRU = 3
    DELETE_FROM = 4
    OVERLAY = 5
    RESET = 9
    """Ours: the row empties the instrument's book (MDEntryType J)."""


class EventFlag(IntFlag):
    """MatchEventIndicator."""

    LAST_TRADE = 1
    LAST_VOLUME = 2
    LAST_QUOTE = 4
    LAST_STATISTICS = 8
    LAST_IMPLIED = 16
    RECOVERY = 32
    """Resent while the venue recovers, as after a channel reset."""
    RESERVED = 64
    END = 128
    """The event is complete; only now is the book consistent."""


class RowFlag(IntFlag):
    """What we know of a row beyond what the venue sent. Ours."""

    RECOVERY = 1
    """The venue resent it to rebuild a book (EventFlag.RECOVERY)."""
    STALE = 2
    """A packet of this channel was lost earlier in the epoch and no snapshot has mended the book since."""
    LATE = 4
    """Its packet came after the gap it belongs to had been declared."""
    FEED_B = 8
    """Feed B brought the packet first."""
    UNSCALED = 16
    """No definition was known: the price is in wire units, not yet times the display factor."""
    ORPHAN = 32
    """The entry that the row refers to (its price level, its trade) never came."""


class CleaningRule(IntFlag):
    """Why cleaning touched a row or a book. Ours; how each is decided: `workloads.features.cleaning`."""

    CROSSED = 1
    """The event that the row ends leaves a best bid above the best offer."""
    LOCKED = 2
    """... a best bid equal to the best offer."""
    EMPTY = 4
    """... a side without orders."""
    OUT_OF_BAND = 8
    """The price lies outside the limits that the venue had published."""
    DUPLICATE = 16
    """The row's identity, or a live order's addition, came before."""
    STALE = 32
    """Packets were lost before it and no snapshot has mended the book since."""
    GAP = 64
    """The interval of a book row holds a packet that never came."""
    OUTLIER = 128
    """A trade far outside the book that it was made in."""
    CLOSED = 256
    """The market is not in continuous trading."""
    UNSCALED = 512
    """No definition is known: its price is in wire units."""


class EntryType(IntEnum):
    """MDEntryType, as ASCII."""

    BID = ord("0")
    OFFER = ord("1")
    TRADE = ord("2")
    OPEN = ord("4")
    SETTLEMENT = ord("6")
    HIGH_TRADE = ord("7")
    LOW_TRADE = ord("8")
    VWAP = ord("9")
    CLEARED_VOLUME = ord("B")
    OPEN_INTEREST = ord("C")
    IMPLIED_BID = ord("E")
    IMPLIED_OFFER = ord("F")
    RESET = ord("J")
    HIGH_BID = ord("N")
    LOW_OFFER = ord("O")
    FIXING = ord("W")
    VOLUME = ord("e")
    LIMITS = ord("g")
    MARKET_BEST_OFFER = ord("w")
    MARKET_BEST_BID = ord("x")


class TradingStatus(IntEnum):
    """SecurityTradingStatus."""

    HALT = 2
    CLOSE = 4
    NEW_PRICE_INDICATION = 15
    READY = 17
    NOT_AVAILABLE = 18
    UNKNOWN = 20
    PRE_OPEN = 21
    PRE_CROSS = 24
    CROSS = 25
    POST_CLOSE = 26
    NO_CHANGE = 103
    PRIVATE_WORKUP = 201
    PUBLIC_WORKUP = 202

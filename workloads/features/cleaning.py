"""Which rows and books are fit to build features from, by stated rules. See docs/cleaning.md.

Nothing is removed from a market table: a row that a rule touches is written to `flagged` with the rules'
bits, and counted in `cleaning`. What a rule says of a row depends on what was sent up to that row's packet,
never on what came later. Time is the market's: ``ts_sent``, the instant from which a row is known.
"""

import datetime
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import ConfigDict

from workloads.features.mending import Mending


@dataclass(frozen=True)
class Rules:
    """Thresholds of the rules, and which of them leave rows out."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    band_margin_ticks: int = 0
    """How far outside the venue's limits a price may lie."""
    outlier_ticks: int = 40
    """How far outside the best prices of the book before it a trade may lie."""
    session_edge_ns: int = 0
    """Also closed: this long behind the session's open, and before its close."""
    exclude_mbo: tuple[str, ...] = ("duplicate", "stale", "out_of_band", "unscaled")
    """Rules by which an order row doesn't reach the books."""
    exclude_trades: tuple[str, ...] = (
        *("duplicate", "stale", "out_of_band", "outlier", "closed", "unscaled"),
    )
    """Rules by which a trade counts in no bar and no flow."""
    unusable_books: tuple[str, ...] = ("crossed", "locked", "empty", "stale", "gap", "closed", "unscaled")
    """Rules by which a book at a grid time is not used."""


@dataclass(eq=False)
class Flags:
    """What cleaning says of n rows, in their order."""

    rules: NDArray[np.uint16]
    """codes.CleaningRule bits; 0: no rule touched the row."""
    excluded: NDArray[np.bool_]

    def add(self, row: NDArray[np.int64], rules: NDArray[np.uint16]) -> None:
        """Or ``rules`` into rows (several may name one row; -1 names none); excludes nothing."""
        raise NotImplementedError


def book_rules(tops: Mapping[str, NDArray[Any]]) -> NDArray[np.uint16]:
    """CROSSED, LOCKED, EMPTY of each top of book that `OrderBooks.tops` gave.

    The state holds from the event's end (``ts_sent`` of row ``row``) until the instrument's next top.
    """
    raise NotImplementedError


class Cleaner:
    """Applies the rules to the rows of one partition, batch by batch, in stored order.

    Parameters
    ----------
    definitions, limits, status : whole tables of the channel (at least of this partition and, for
        definitions, of earlier dates); what is in force at a row is what was sent up to its packet
    mending : of the same partition
    """

    def __init__(
        self,
        rules: Rules,
        venue: str,
        date: datetime.date,
        definitions: pa.Table,
        limits: pa.Table,
        status: pa.Table,
        mending: Mending,
    ) -> None:
        raise NotImplementedError

    def mbo(self, rows: pa.Table) -> Flags:
        """Flags of the next order rows. Columns: identity, ts_sent, instrument_id, order_id, price, action,
        row_flags."""
        raise NotImplementedError

    def books(self, rows: pa.Table, tops: Mapping[str, NDArray[Any]]) -> NDArray[np.uint16]:
        """`book_rules` of the tops that ``rows`` (merged ones, with ts_sent) led to; remembers them for
        `trades`."""
        raise NotImplementedError

    def trades(self, rows: pa.Table) -> Flags:
        """Flags of the next trades. Call `books` first with all order rows of earlier packets."""
        raise NotImplementedError

    def grid(
        self, instrument_id: NDArray[np.int32], ts: NDArray[np.int64], step_ns: int
    ) -> NDArray[np.uint16]:
        """STALE, GAP, CLOSED, UNSCALED bits of books at grid times: each of what was sent before ``ts``.
        GAP: a loss became known in [ts - step_ns, ts)."""
        raise NotImplementedError

    def usable(self, rules: NDArray[np.uint16]) -> NDArray[np.bool_]:
        """Which grid rows carry no bit of ``rules.unusable_books``."""
        raise NotImplementedError


class Counts:
    """How many rows each rule touched, by instrument; becomes the table `cleaning`."""

    def add(self, source: str, rows: pa.Table, flags: Flags) -> None:
        """Count rows of table ``source`` once their flags are final."""
        raise NotImplementedError

    def table(self) -> pa.Table:
        """In the schema `cleaning`, sorted by source, rule, instrument."""
        raise NotImplementedError


def flagged_table(source: str, rows: pa.Table, flags: Flags) -> pa.Table:
    """The rows that a rule touched, in the schema `flagged` and in their order."""
    raise NotImplementedError

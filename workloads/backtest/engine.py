"""The book engine: one instrument, taker orders, two clocks.

The strategy's side holds what its clock has received: its position as far as fills were reported, and
whether an order of its own is still unanswered. The exchange's side holds the books and the true position.
They are separate arrays in separate functions, and only messages pass between them: an order arrives
``latency_ns`` after its decision, its report ``report_ns`` after its fill or cancel. While a report is out
the strategy waits, so that its limits hold whatever the exchange did.

An order is immediate-or-cancel. It meets the first usable book whose time is no earlier than its arrival,
trades at the opposite quote, at most what is displayed there and not yet taken by its own earlier orders,
and the rest is cancelled. An order that meets no book before it expires is cancelled then. What the
strategy would do is a table: the position that it wants after each decision, for each position that it may
find itself in. Such a row is made from what was known at its decision, so no decision can see a later book.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from workloads.compiled import compiled, inlined
from workloads.errors import WorkloadError

Ints = NDArray[np.int64]

NEVER = 2**63 - 1
_LIMIT = float(2**62)


class BacktestError(WorkloadError):
    """A backtest cannot be run on what it was given; says what, where, what to do next."""


class Decisions(NamedTuple):
    """What the strategy may do, n rows in the order of time; made from what was known at each ``ts``."""

    ts: Ints
    """ns; strictly ascending."""
    expires: Ints
    """An order of this row that has met no book by then is cancelled: exclusive, ns."""
    wanted: NDArray[np.int16]
    """[n, 2 x limit + 1]: the position wanted, lots, for each position from -limit to limit."""


class Books(NamedTuple):
    """The exchange's usable books, m rows in the order of time; both sides there, bid below ask."""

    ts: Ints
    bid: Ints
    """Price, 1e-9."""
    ask: Ints
    bid_size: Ints
    """Lots displayed at the best price."""
    ask_size: Ints


class Trades(NamedTuple):
    """What became of each order, in the order of decisions. At most one order a decision."""

    decision: Ints
    """Row of `Decisions`."""
    size: Ints
    """Lots, above 0 to buy, below 0 to sell."""
    filled: Ints
    """Lots of it that traded; same sign, or 0."""
    ts_fill: Ints
    """ns; of the book that it met, or when it expired."""
    price: Ints
    """The opposite quote, 1e-9; 0 where nothing traded."""
    mid: Ints
    """Of that book, 1e-9, rounded down; 0 where nothing traded."""


class Marks(NamedTuple):
    """The account at each mark time: fills and books earlier than it."""

    ts: Ints
    position: Ints
    """Lots."""
    mark: Ints
    """Mid, 1e-9, rounded down; 0 before the first book."""
    points: Ints
    """Gross profit so far, lots x 1e-9 price: cash of the fills + position x mark, without charges."""


@dataclass(frozen=True)
class Latency:
    """One way each, ns."""

    order_ns: int
    """From the decision until the order is at the exchange."""
    report_ns: int
    """From a fill or a cancel until the strategy knows."""

    def __post_init__(self) -> None:
        if self.order_ns < 0 or self.report_ns < 0:
            raise BacktestError(
                f"latency {self.order_ns} ns and {self.report_ns} ns: neither may be negative"
            )


class Account:
    """Both sides' state of one strategy and instrument, carried from one `replay` to the next."""

    def __init__(self, mid: int = 0) -> None:
        """Flat, without cash; ``mid``: what a mark before the first book shows, 1e-9."""
        self.local = np.zeros(4, np.int64)
        self.exchange = np.zeros(8, np.int64)
        self.exchange[_MID] = mid

    @property
    def position(self) -> int:
        """True position, lots."""
        return int(self.exchange[_POSITION])

    @property
    def cash(self) -> int:
        """Of the fills alone, lots x 1e-9 price."""
        return int(self.exchange[_CASH])


# What the strategy knows.
_KNOWN, _WAITING, _REPORT_TS, _REPORT_LOTS = range(4)
# What the exchange knows. _TAKEN_*: lots that own orders took from the book at _BOOK.
_POSITION, _CASH, _MID, _BOOK, _TAKEN_BID, _TAKEN_ASK, _MARK, _MARK_BOOK = range(8)


def replay(
    decisions: Decisions, books: Books, marks: Ints, latency: Latency, account: Account | None = None
) -> tuple[Trades, Marks]:
    """Run one strategy on one instrument through one stretch of time.

    Parameters
    ----------
    books : Books
        That have passed `checked`.
    marks : int64[k]
        Mark times, ascending, ns.
    account : Account, optional
        State at the start, changed in place; default: flat, without cash.

    Raises
    ------
    BacktestError
        If an input is out of order or not what it says, or the account leaves int64.
    """
    account = Account() if account is None else account
    _check(decisions, marks)
    account.exchange[_BOOK:] = 0
    start = account.cash
    n, k = len(decisions.ts), len(marks)
    trades = Trades(*np.zeros((6, n), np.int64))
    made = Marks(marks.astype(np.int64), *np.zeros((3, k), np.int64))
    count = _replay(
        _frozen(decisions),
        _frozen(books),
        latency.order_ns,
        latency.report_ns,
        account.local,
        account.exchange,
        trades,
        made,
    )
    trades = Trades(*(column[:count] for column in trades))
    cash = np.cumsum(np.append(0.0, -trades.filled.astype(float) * trades.price)) + float(start)
    worst = np.abs(cash).max() + np.abs(made.position.astype(float) * made.mark).max(initial=0.0)
    if worst >= _LIMIT:
        raise BacktestError(
            f"lots x price come to {worst:.3g}, which int64 in 1e-9 cannot hold; trade fewer lots"
        )
    return trades, made


def _frozen(columns: Any) -> Any:
    """The same columns read-only and contiguous, so that every caller shares one compiled version."""
    views = []
    for column in columns:
        view = np.ascontiguousarray(column).view()
        view.flags.writeable = False
        views.append(view)
    return type(columns)(*views)


def checked(books: Books) -> Books:
    """These books, which `replay` relies on: in the order of time, bid below ask.

    Apart from `replay`, because several strategies meet the same books.

    Raises
    ------
    BacktestError
        If they are not.
    """
    if (books.ts[1:] < books.ts[:-1]).any():
        raise BacktestError("books are not in the order of time; sort them first")
    if (books.bid >= books.ask).any() or (books.bid_size < 0).any() or (books.ask_size < 0).any():
        raise BacktestError("a book is crossed, locked or negative; leave such books out")
    return books


def _check(decisions: Decisions, marks: Ints) -> None:
    if len(decisions.ts) and (decisions.ts[1:] <= decisions.ts[:-1]).any():
        raise BacktestError("decisions are not in the order of time, one each; sort them first")
    if (marks[1:] < marks[:-1]).any():
        raise BacktestError("mark times are not in the order of time; sort them first")
    limit = decisions.wanted.shape[1] // 2
    if decisions.wanted.shape[1] % 2 != 1 or (np.abs(decisions.wanted) > limit).any():
        raise BacktestError(
            f"the table of wanted positions must have 2 x limit + 1 columns and stay within it; it has "
            f"{decisions.wanted.shape[1]} and reaches {int(np.abs(decisions.wanted).max(initial=0))}"
        )


# The strategy's side: reads decisions and `local`, nothing else.


@compiled
def _decide(decisions: Any, d: Any, local: Any) -> Any:
    """Lots to send at decision ``d``: 0 for nothing, or while an order is unanswered."""
    if local[_WAITING] == 1 and local[_REPORT_TS] <= decisions.ts[d]:
        local[_KNOWN] += local[_REPORT_LOTS]
        local[_WAITING] = 0
    if local[_WAITING] == 1:
        return 0
    limit = decisions.wanted.shape[1] // 2
    return np.int64(decisions.wanted[d, local[_KNOWN] + limit]) - local[_KNOWN]


@compiled
def _post(local: Any, ts: Any, lots: Any) -> None:
    """Put a report into the strategy's letter box; `_decide` opens it when its clock has come to ``ts``."""
    local[_WAITING] = 1
    local[_REPORT_TS] = ts
    local[_REPORT_LOTS] = lots


# The exchange's side: reads books and `exchange`; of the strategy only the order.


@inlined
def _first_at(times: Any, start: Any, ts: Any) -> Any:
    """First place from ``start`` on whose time is no earlier than ``ts``: widening steps, then halving."""
    low, high, step = start, start, 1
    while high < len(times) and times[high] < ts:
        low = high + 1
        high += step
        step *= 2
    high = min(high, len(times))
    while low < high:
        middle = (low + high) >> 1
        if times[middle] < ts:
            low = middle + 1
        else:
            high = middle
    return low


@compiled
def _advance(books: Any, ts: Any, exchange: Any) -> None:
    """Go to the first book that is no earlier than ``ts``; another book shows all of its lots again."""
    book = _first_at(books.ts, exchange[_BOOK], ts)
    if book != exchange[_BOOK]:
        exchange[_BOOK] = book
        exchange[_TAKEN_BID] = 0
        exchange[_TAKEN_ASK] = 0


@compiled
def _mark_until(books: Any, ts: Any, exchange: Any, marks: Any) -> None:
    """Write the marks up to ``ts``, inclusive: nothing that happens from then on is in them."""
    i, book = exchange[_MARK], exchange[_MARK_BOOK]
    while i < len(marks.ts) and marks.ts[i] <= ts:
        book = _first_at(books.ts, book, marks.ts[i])
        if book > 0:
            exchange[_MID] = books.bid[book - 1] + ((books.ask[book - 1] - books.bid[book - 1]) >> 1)
        mid = exchange[_MID]
        marks.position[i] = exchange[_POSITION]
        marks.mark[i] = mid
        marks.points[i] = exchange[_CASH] + exchange[_POSITION] * mid
        i += 1
    exchange[_MARK] = i
    exchange[_MARK_BOOK] = book


@compiled
def _execute(books: Any, lots: Any, expires: Any, exchange: Any, trades: Any, k: Any) -> Any:
    """Meet the current book with an order; returns when it ended. Fills row ``k`` of ``trades``."""
    book = exchange[_BOOK]
    trades.size[k] = lots
    if book >= len(books.ts) or books.ts[book] >= expires:
        trades.ts_fill[k] = expires
        return expires
    bid, ask = books.bid[book], books.ask[book]
    if lots > 0:
        price = ask
        filled = min(lots, max(books.ask_size[book] - exchange[_TAKEN_ASK], 0))
        exchange[_TAKEN_ASK] += filled
    else:
        price = bid
        filled = -min(-lots, max(books.bid_size[book] - exchange[_TAKEN_BID], 0))
        exchange[_TAKEN_BID] -= filled
    trades.filled[k] = filled
    trades.ts_fill[k] = books.ts[book]
    if filled != 0:
        trades.price[k] = price
        trades.mid[k] = bid + ((ask - bid) >> 1)
    exchange[_POSITION] += filled
    exchange[_CASH] -= filled * price
    return books.ts[book]


@compiled
def _replay(
    decisions: Any,
    books: Any,
    order_ns: Any,
    report_ns: Any,
    local: Any,
    exchange: Any,
    trades: Any,
    marks: Any,
) -> Any:
    """Merge decisions, books and marks; returns how many orders were sent."""
    k = 0
    for d in range(len(decisions.ts)):
        lots = _decide(decisions, d, local)
        if lots == 0:
            continue
        arrival = decisions.ts[d] + order_ns
        _advance(books, arrival, exchange)
        book = exchange[_BOOK]
        if book < len(books.ts):
            _mark_until(books, min(books.ts[book], decisions.expires[d]), exchange, marks)
        trades.decision[k] = d
        ended = _execute(books, lots, decisions.expires[d], exchange, trades, k)
        _post(local, max(ended, arrival) + report_ns, trades.filled[k])
        k += 1
    _mark_until(books, NEVER, exchange, marks)
    return k

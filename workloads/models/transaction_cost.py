"""What trading costs: spread, impact, commission; and the optimal liquidation of Almgren and Chriss.

The same functions price the trades that a position rule weighs and charge the fills that a simulator makes:
`spread_cost`, `impact_cost`, `commission_cost` and `trade_cost` take numbers or columns, from Python or from
a compiled loop. Lots are signed or not as each says; prices are quote currency, results currency.

Square-root impact: a trade of q lots moves its own price by ``Y sigma sqrt(q / V)``, V being the volume and
sigma the volatility of the same interval; Tóth et al. (2011), "Anomalous price impact and the critical
nature of liquidity in financial markets", equation 1. Since both V and sigma^2 grow in proportion to the
interval, sigma / sqrt(V) does not depend on its length.
"""

# Axes: T rows; N intervals of a liquidation, J = N + 1 times at their ends

from dataclasses import dataclass

import numpy as np

from workloads.compiled import elementwise
from workloads.models.protocol import (
    Artifact,
    Cost,
    EmptyWindowError,
    Floats,
    GridRows,
    Ints,
    ModelError,
    Origin,
    Place,
    Terms,
    Unit,
    Value,
    check_known,
    check_not_negative,
    check_positive,
    config_hash,
    continues,
)


@elementwise
def spread_cost(lots: Value, price: Value, mid: Value, multiplier: Value) -> Value:
    """Currency lost to the mid by trading ``lots`` (signed, > 0 bought) at ``price``.

    Half the spread for a trade at the opposite quote; negative for a trade better than the mid.
    """
    return lots * (price - mid) * multiplier


@elementwise
def impact_cost(lots: Value, coefficient: Value) -> Value:
    """Currency that ``lots`` (signed or not) pay beyond the quote: ``coefficient |lots|^(3/2)``.

    The price moves by ``coefficient sqrt(|lots|)`` per lot, and the whole trade pays that.
    """
    return coefficient * np.abs(lots) * np.sqrt(np.abs(lots))


@elementwise
def commission_cost(lots: Value, per_lot: Value) -> Value:
    """Currency that the venue and the broker take, ``per_lot`` and side."""
    return per_lot * np.abs(lots)


@elementwise
def trade_cost(lots: Value, linear: Value, impact: Value) -> Value:
    """Currency that a trade is expected to cost: a row of `Cost` for ``lots`` (signed or not).

    ``linear``: `spread_cost` and `commission_cost` of one lot; ``impact``: coefficient of `impact_cost`.
    """
    return linear * np.abs(lots) + impact_cost(lots, impact)


@elementwise
def linear_impact_cost(lots: Value, fixed: Value, slope: Value) -> Value:
    """Currency that a trade of ``lots`` costs under temporary impact ``fixed + slope |lots|`` per lot.

    Almgren and Chriss (2000), "Optimal execution of portfolio transactions", equation 7: there ``slope`` is
    eta / tau, and the rate of trading is lots / tau.
    """
    return fixed * np.abs(lots) + slope * lots * lots


def impact_coefficient(y: float, volatility: float, volume: float) -> float:
    """Coefficient of `impact_cost`, currency per lot^(3/2).

    ``volatility``: standard deviation of one lot's value over some interval, currency per lot; ``volume``:
    lots traded in such an interval.
    """
    check_not_negative(y=y, volatility=volatility)
    check_positive(volume=volume)
    return float(y * volatility / np.sqrt(volume))


@dataclass(frozen=True)
class CostConfig:
    """Knobs of `TransactionCost`."""

    commission: float = 0.0
    """Currency per lot and side."""
    impact: float = 1.0
    """Y of the square-root law: of order one wherever it was measured. 0: no impact."""
    step_ns: int = 250_000_000
    """Distance of the grid's rows."""

    def __post_init__(self) -> None:
        check_not_negative(commission=self.commission, impact=self.impact)
        check_positive(step_ns=self.step_ns)


@dataclass(frozen=True, eq=False)
class QuoteRows(GridRows):
    """Best quotes at ``ts`` and what traded in the step before."""

    bid: Floats
    """Quote currency."""
    ask: Floats
    """Above ``bid``."""
    volume: Ints
    """Lots that were traded since the row before."""

    def __post_init__(self) -> None:
        super().__post_init__()
        crossed = self.ask <= self.bid
        if crossed.any():
            row = int(np.argmax(crossed))
            raise ModelError(
                f"bid {self.bid[row]} is not below ask {self.ask[row]} at {self.ts[row]}; leave rows with a "
                "crossed or locked book out"
            )


@dataclass(frozen=True)
class CostArtifact(Artifact):
    """Parameters of the cost of one instrument."""

    commission: float
    """Currency per lot and side."""
    impact: float
    """Currency per lot^(3/2)."""


@dataclass(frozen=True)
class CostState:
    """The newest quote, quote currency; None before the first."""

    ts: int
    quote: tuple[float, float] | None = None


class TransactionCost:
    """Crossing the quoted spread, square-root impact and commission, of one instrument.

    The spread is the newest quoted one; sigma and V of the impact are those of the training window. Left
    out: the book behind the best quote, impact that outlives the trade, resting orders, fees by tier.
    """

    def __init__(self, config: CostConfig, terms: Terms):
        self.config = config
        self.terms = terms

    def fit(self, window: QuoteRows, origin: Origin) -> CostArtifact:
        """sigma: root mean square change of the mid in a step; V: mean volume in a step."""
        inside = continues(Place(0), window, self.config.step_ns)
        traded = window.volume[inside].sum()
        if not traded > 0:
            raise EmptyWindowError(
                f"{inside.sum()} steps with {traded} lots traded say nothing of impact; lengthen the "
                "training window or leave the instrument out"
            )
        mid = (window.bid + window.ask) / 2
        change = np.diff(mid, prepend=mid[0])[inside] * self.terms.multiplier
        sigma, volume = np.sqrt(np.mean(change * change)), traded / inside.sum()
        return CostArtifact(
            data_commit=origin.data_commit,
            code=origin.code,
            train_start=int(window.ts[0]),
            train_end=int(window.ts[-1]),
            as_of=int(window.ts[-1]),
            config_hash=config_hash(self.config, self.terms),
            commission=self.config.commission,
            impact=impact_coefficient(self.config.impact, float(sigma), float(volume)),
        )

    def start(self, artifact: CostArtifact) -> CostState:
        """No quote yet."""
        return CostState(artifact.as_of)

    def update(self, state: CostState, rows: QuoteRows) -> CostState:
        """Keep the newest quote."""
        if not len(rows):
            return state
        return CostState(int(rows.ts[-1]), (float(rows.bid[-1]), float(rows.ask[-1])))

    def predict(self, state: CostState, artifact: CostArtifact) -> Cost:
        """The cost of trading at the newest quote."""
        if state.quote is None:
            raise ModelError("no quote was seen yet; give update() a row before predict()")
        bid, ask = np.array(state.quote)
        return self._cost(np.array([state.ts]), np.array([bid]), np.array([ask]), artifact)

    def batch(self, state: CostState, rows: QuoteRows, artifact: CostArtifact) -> tuple[Cost, CostState]:
        """The cost at each row."""
        return self._cost(rows.ts, rows.bid, rows.ask, artifact), self.update(state, rows)

    def _cost(self, ts: Ints, bid: Floats, ask: Floats, artifact: CostArtifact) -> Cost:
        check_known(artifact, ts)
        crossing = spread_cost(1.0, ask, (bid + ask) / 2, self.terms.multiplier)
        return Cost(
            as_of=ts,
            valid_from=ts,
            horizon_ns=0,
            unit=Unit.CURRENCY,
            linear=crossing + commission_cost(1.0, artifact.commission),
            impact=np.full(len(ts), artifact.impact),
        )


@dataclass(frozen=True)
class Liquidation:
    """The problem of Almgren and Chriss (2000): trade a position away in equal intervals.

    Units: lots may be shares; any unit of time that all fields share.
    """

    lots: float
    """To sell; X in the paper."""
    intervals: int
    """N."""
    interval: float
    """Length of one, tau."""
    volatility: float
    """Standard deviation of the price in one unit of time, currency per lot; sigma."""
    temporary: float
    """Impact on the own price per rate of trading, currency per lot per (lot per time); eta."""
    permanent: float = 0.0
    """Impact on all later prices, currency per lot per lot; gamma."""
    fixed: float = 0.0
    """Half the spread and the fees, currency per lot; epsilon."""
    risk_aversion: float = 0.0
    """What one unit of variance costs, 1 per currency; lambda."""

    def __post_init__(self) -> None:
        check_positive(
            lots=self.lots,
            intervals=self.intervals,
            interval=self.interval,
            temporary=self.temporary,
        )
        check_not_negative(
            volatility=self.volatility,
            permanent=self.permanent,
            fixed=self.fixed,
            risk_aversion=self.risk_aversion,
        )
        if not self.adjusted > 0:
            raise ValueError(
                f"temporary impact {self.temporary} must exceed permanent impact x interval / 2 = "
                f"{self.permanent * self.interval / 2}: else trading faster would be cheaper"
            )

    @property
    def adjusted(self) -> float:
        """eta~ = eta - gamma tau / 2, below equation 13 of the paper."""
        return self.temporary - self.permanent * self.interval / 2


@dataclass(frozen=True, eq=False)
class Trajectory:
    """A schedule for a `Liquidation` and what it costs."""

    holdings_J: Floats  # noqa: N815  # axis suffix
    """Lots left at the start and after each interval; the last is 0."""
    expected_cost: float
    """Currency, against the price before the first trade."""
    variance: float
    """Of the cost, currency^2."""
    kappa: float
    """Urgency: holdings decay as exp(-kappa t) far from the end; 1 per time."""

    @property
    def half_life(self) -> float:
        """1 / kappa, in time; infinite without risk aversion. (The paper calls it so; it is an e-fold.)"""
        return 1 / self.kappa if self.kappa else float("inf")


def almgren_chriss(problem: Liquidation) -> Trajectory:
    """The schedule that minimises expected cost + risk aversion x variance.

    Almgren and Chriss (2000), equations 16 to 18: ``x_j = X sinh(kappa (T - t_j)) / sinh(kappa T)`` with
    ``cosh(kappa tau) = 1 + lambda sigma^2 tau^2 / (2 eta~)``. Left out: drift, and all randomness of impact.
    """
    p = problem
    # cosh(a) - 1 = 2 sinh(a/2)^2, so that a small kappa keeps its digits.
    pull = p.risk_aversion * p.volatility**2 * p.interval**2 / (2 * p.adjusted)
    step = 2 * np.arcsinh(np.sqrt(pull / 2))
    left_J = np.arange(p.intervals, -1, -1, dtype=np.float64)  # noqa: N806  # axis suffix
    # sinh(a) / sinh(b) = exp(a - b) (1 - exp(-2a)) / (1 - exp(-2b)): no overflow for the urgent.
    share_J = (  # noqa: N806  # axis suffix
        np.exp(step * (left_J - p.intervals))
        * np.expm1(-2 * step * left_J)
        / np.expm1(-2 * step * p.intervals)
        if step > 0
        else left_J / p.intervals
    )
    holdings_J = p.lots * share_J  # noqa: N806  # axis suffix
    return Trajectory(
        holdings_J=holdings_J,
        expected_cost=expected_cost(holdings_J, p),
        variance=variance(holdings_J, p),
        kappa=float(step / p.interval),
    )


def expected_cost(holdings_J: Floats, problem: Liquidation) -> float:  # noqa: N803  # axis suffix
    """Currency that any schedule is expected to cost; equation 4 of the paper with linear impacts.

    ``gamma X^2 / 2 + sum(epsilon |n| + eta~ / tau n^2)``, n being the lots of each interval.
    """
    traded_N = -np.diff(holdings_J)  # noqa: N806  # axis suffix
    temporary = linear_impact_cost(traded_N, problem.fixed, problem.adjusted / problem.interval)
    return float(problem.permanent * problem.lots**2 / 2 + temporary.sum())


def variance(holdings_J: Floats, problem: Liquidation) -> float:  # noqa: N803  # axis suffix
    """Variance of the cost of any schedule, currency^2: ``sigma^2 tau sum(x_j^2)``, j = 1..N."""
    return float(problem.volatility**2 * problem.interval * (holdings_J[1:] ** 2).sum())

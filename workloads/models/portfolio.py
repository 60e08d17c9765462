"""How many lots to hold: expected gain against cost and risk, in whole lots, within limits.

`target_position` is one formula for columns and for compiled loops: a simulator whose positions depend on
its own fills calls it decision by decision, `PositionRule` over columns. One period ahead, one instrument at
a time; the no-trade band of proportional costs: Davis and Norman (1990), "Portfolio selection with
transaction costs".
"""

# Axes: T rows

from dataclasses import dataclass

import numpy as np

from workloads.compiled import elementwise
from workloads.models.protocol import (
    Alpha,
    Cost,
    Flags,
    Ints,
    LookAheadError,
    ModelError,
    Output,
    Risk,
    Targets,
    Unit,
    Value,
    check_finite,
    check_not_negative,
    check_positive,
)
from workloads.models.transaction_cost import trade_cost

_TINY = 1e-150  # divides where a cost has no curvature: the optimum is then the limit


@elementwise
def _best_lots(margin: Value, impact: Value, bend: Value) -> Value:
    """q >= 0 with ``margin = 3/2 impact sqrt(q) + bend q``, the root written so that nothing cancels."""
    slope = 1.5 * impact
    gain = np.maximum(margin, 0.0)
    root = 2.0 * gain / np.maximum(slope + np.sqrt(slope * slope + 4.0 * bend * gain), _TINY)
    return root * root


@elementwise
def target_position(
    alpha: Value,
    variance: Value,
    linear: Value,
    impact: Value,
    position: Value,
    flatten: Value,
    risk_aversion: Value,
    exit_share: Value,
    max_position: Value,
    max_trade: Value,
) -> Value:
    """Whole lots x, as float64, that maximise the expected gain less cost and risk.

    ``alpha x - trade_cost(x - position) - exit_share linear |x| - risk_aversion / 2 variance x^2``

    subject to ``|x| <= max_position`` and ``|x - position| <= max_trade``; of two equally good x the one
    nearer to ``position``. A position beyond its limit is brought back as fast as ``max_trade`` allows.

    Parameters (numbers, or columns of T)
    ----------
    alpha : currency per lot over the horizon
    variance : (currency per lot)^2 over the horizon
    linear, impact : cost of a trade, as in `Cost`
    position : lots held now, whole
    flatten : bool; x = 0 instead, as far as ``max_trade`` allows
    risk_aversion : 1 per currency
    exit_share : 0 to 1; how much of the cost of closing a lot later is charged to holding it now
    max_position, max_trade : lots, whole

    Notes
    -----
    The objective is concave, so that the best direction is the sign of the marginal gain at ``position``.
    With s = sqrt(lots traded), the marginal condition ``m = 3/2 impact s + risk_aversion variance s^2`` is a
    quadratic equation, m being the marginal gain less the linear costs; m <= 0 is the no-trade band. A trade
    that closes lots saves their exit, one that opens lots adds it: two optima, q_close >= q_open, and the
    best is the number of lots that can be closed, clipped between them. The best whole number is a
    neighbour, by concavity.
    """
    bend = risk_aversion * variance
    gain = alpha - bend * position
    side = np.sign(gain)
    held = side * position  # > 0: the trade adds to the position
    closable = np.maximum(-held, 0.0)
    exit_cost = exit_share * linear
    to_open = _best_lots(np.abs(gain) - linear - exit_cost, impact, bend)
    to_close = _best_lots(np.abs(gain) - linear + exit_cost, impact, bend)
    room = np.minimum(np.maximum(max_position - held, 0.0), max_trade)
    lots = np.minimum(np.minimum(np.maximum(closable, to_open), to_close), room)
    lots = np.floor(lots)
    # One lot more, if that is better: its own marginal gain, cost and risk.
    more = lots + 1.0
    opens = np.abs(held + more) - np.abs(held + lots)
    better = (
        np.abs(gain)
        - (trade_cost(more, linear, impact) - trade_cost(lots, linear, impact))
        - exit_cost * opens
        - bend * (lots + 0.5)
    )
    lots = lots + (better > 0.0)
    wanted = np.minimum(np.maximum(position + side * lots, -max_position), max_position) * (1 - flatten)
    return position + np.minimum(np.maximum(wanted - position, -max_trade), max_trade)


@dataclass(frozen=True)
class PositionConfig:
    """Knobs of `PositionRule`."""

    max_position: int = 10
    """Lots, long or short."""
    max_trade: int = 5
    """Lots in one decision."""
    risk_aversion: float = 0.001
    """1 per currency: an expected gain of ``risk_aversion / 2`` is given up for one unit of variance."""
    exit_share: float = 1.0
    """How much of the cost of closing a lot later is charged to holding it now. 1 suits positions that are
    always closed by crossing the spread; 0 leaves it out."""

    def __post_init__(self) -> None:
        check_positive(max_position=self.max_position, max_trade=self.max_trade)
        check_not_negative(risk_aversion=self.risk_aversion, exit_share=self.exit_share)
        if self.exit_share > 1:
            raise ValueError(f"exit_share is a share of a cost, at most 1, not {self.exit_share}")


class PositionRule:
    """Myopic mean-variance position in whole lots with a no-trade band and limits.

    Left out: later periods (how fast alpha decays enters through its horizon only), margin, correlation
    between instruments, the size that is on offer.
    """

    def __init__(self, config: PositionConfig):
        self.config = config

    def targets(
        self, alpha: Alpha, risk: Risk, cost: Cost, position: Ints, flatten: Flags | None = None
    ) -> Targets:
        """The best position for each row of the outputs, which must agree in time and horizon.

        Parameters
        ----------
        alpha : in currency per lot (`alpha.in_currency`)
        position : int64 array of T, lots held now
        flatten : bool array of T; True: get out, whatever the alpha
        """
        self.check(alpha, risk, cost)
        config = self.config
        away = np.zeros(len(alpha), np.bool_) if flatten is None else flatten
        lots = target_position(
            alpha.value,
            risk.value,
            cost.linear,
            cost.impact,
            position,
            away,
            config.risk_aversion,
            config.exit_share,
            config.max_position,
            config.max_trade,
        )
        return Targets(
            as_of=alpha.as_of,
            valid_from=alpha.valid_from,
            horizon_ns=alpha.horizon_ns,
            unit=Unit.LOTS,
            lots=lots.astype(np.int64),
        )

    def check(self, alpha: Alpha, risk: Risk, cost: Cost) -> None:
        """Refuse outputs that don't belong together; a compiled loop calls this once for its columns."""
        _same_unit(alpha, Unit.CURRENCY)
        _same_unit(risk, Unit.CURRENCY_SQUARED)
        _same_unit(cost, Unit.CURRENCY)
        if alpha.horizon_ns != risk.horizon_ns:
            raise ModelError(
                f"alpha looks {alpha.horizon_ns} ns ahead, risk {risk.horizon_ns} ns; give both one horizon"
            )
        for other in (risk, cost):
            if len(other) != len(alpha):
                raise ModelError(
                    f"{len(alpha)} rows of alpha and {len(other)} of {type(other).__name__}; give them for "
                    "the same decisions"
                )
            if (other.valid_from > alpha.valid_from).any():
                raise LookAheadError(
                    f"some rows of {type(other).__name__} are valid only after the alpha's; give them "
                    "for the same decisions"
                )
        check_finite("Alpha.value", alpha.value)
        for name, values in (
            ("Risk.value", risk.value),
            ("Cost.linear", cost.linear),
            ("Cost.impact", cost.impact),
        ):
            check_finite(name, values)
            if (values < 0).any():
                raise ModelError(f"{name} holds {values.min()}; risk and cost are at least 0")


def _same_unit(output: Output, unit: Unit) -> None:
    if output.unit is not unit:
        raise ModelError(f"{type(output).__name__} is in {output.unit}; the position rule needs {unit}")

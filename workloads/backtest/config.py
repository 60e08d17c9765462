"""What a backtest is asked for."""

import hashlib
from dataclasses import dataclass, field, replace

from pydantic import ConfigDict

from workloads.backtest.engine import BacktestError
from workloads.models.alpha import FlowConfig, ScoreConfig
from workloads.models.portfolio import PositionConfig
from workloads.models.transaction_cost import CostConfig
from workloads.runtime.jobs import config_json
from workloads.ticks.archive import code_version
from workloads.ticks.commits import DataCommit

SECOND = 1_000_000_000
FLOW = "flow"
"""The strategy that trades order-flow imbalance; every other name is a model of the scores."""


@dataclass(frozen=True)
class BacktestConfig:
    """One backtest: strategies on the test period of one training run."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    archive: str
    """URI with the market tables, the dataset and the scores; orders, fills and ledger go there as well."""
    dataset: str
    """Name of the features job's output, with its id."""
    scores_run: str
    """Run of training whose scores are traded; its test period is the backtest's."""
    name: str = "backtest"
    """First part of the run's id."""
    data_commit: DataCommit | None = None
    """State of all tables that are read; None: now. The result records it."""
    strategies: tuple[str, ...] = ("vit", "logistic", FLOW)
    """Models of the scores, or "flow"."""
    latency_ns: int = 5_000_000
    """From a decision until its order is at the exchange."""
    report_latency_ns: int = 5_000_000
    """From a fill until the strategy knows of it."""
    cost: CostConfig = field(default_factory=lambda: CostConfig(commission=1.0))
    """Commission in currency per lot and side; impact."""
    position: PositionConfig = field(default_factory=PositionConfig)
    """Limits, risk aversion."""
    score: ScoreConfig = field(default_factory=ScoreConfig)
    flow: FlowConfig = field(default_factory=FlowConfig)
    risk_decay: float = 0.997
    """Of the EWMA variance, per step of the grid."""
    order_ttl_ns: int = SECOND
    """Time in force: an order that has met no usable book so long after its arrival is cancelled."""
    flatten_ns: int = 10 * SECOND
    """So long before the session's close, by the exchange's calendar, no position is wanted any more. Data
    that end earlier leave positions open, marked at the last mid."""
    mark_ns: int = SECOND
    """Distance of the ledger's rows."""
    capital: float | None = None
    """Currency that returns refer to; None: the notional of all largest positions at the first mid."""
    currency: str | None = None
    """Trade only instruments quoted in it ("unknown": of no stated one); None: all, which must then agree."""

    def __post_init__(self) -> None:
        rules = (
            (bool(self.strategies), "strategies", "at least one"),
            (len(set(self.strategies)) == len(self.strategies), "strategies", "each once"),
            (self.latency_ns >= 0 and self.report_latency_ns >= 0, "latency_ns", "at least 0"),
            (self.order_ttl_ns > 0, "order_ttl_ns", "above 0"),
            (self.mark_ns > 0, "mark_ns", "above 0"),
            (self.flatten_ns >= 0, "flatten_ns", "at least 0"),
            (self.capital is None or self.capital > 0, "capital", "above 0"),
            (self.position.max_position < 2**14, "position.max_position", "below 16384 lots"),
        )
        for holds, name, rule in rules:
            if not holds:
                raise BacktestError(f"backtest: {name} must be {rule}")

    def run_id(self, inputs: DataCommit) -> str:
        """``<name>-<digest>`` of everything that decides the result, and not of where it lies."""
        text = config_json(replace(self, archive="", data_commit=None))
        digest = hashlib.sha256(f"{text} {inputs.id} {code_version()}".encode()).hexdigest()
        return f"{self.name}-{digest[:8]}"

"""What a simulated session is made of: the instruments, the hidden drift, the order flow, the gateway."""

from dataclasses import dataclass, field

from workloads.errors import WorkloadError
from workloads.exchange.forecast import DriftModel

SECOND = 1_000_000_000
MAX_ACTIONS = 2_000
"""Most noise actions of one instrument in one step; a draw above it is cut (and never happens by default)."""


class SimulatorError(WorkloadError):
    """A session that cannot be simulated."""


@dataclass(frozen=True)
class Future:
    """A future that trades. Prices, ticks and factors: int64 in 1e-9, quoted, of the currency."""

    instrument_id: int
    symbol: str
    asset: str
    exchange: str
    """ISO 10383 MIC of the listing."""
    maturity: tuple[int, int]
    """Year and month."""
    tick: int
    """Smallest price step, quoted."""
    display_factor: int
    """Quoted price = wire price x display factor."""
    tick_value: int
    """Money that one tick of one lot is worth."""
    unit: str
    unit_quantity: int
    """Units of the underlying in one lot, 1e-9."""
    opening_ticks: int
    """Best bid when the session opens, in ticks."""
    currency: str = "USD"
    main_fraction: int | None = None
    """Denominator of the fraction, e.g. 32, for a product quoted in fractions."""
    sub_fraction: int | None = None
    """Denominator of the fraction's fraction."""
    price_display_format: int | None = None
    """Digits behind the tick mark."""
    open_interest: int = 100_000
    """Lots."""

    @property
    def wire_tick(self) -> int:
        """Tick in wire units, 1e-9; exact."""
        numerator = self.tick * 10**9
        if numerator % self.display_factor:
            raise SimulatorError(
                f"{self.symbol}: tick {self.tick}e-9 is no multiple of 1e-9 wire units at display factor "
                f"{self.display_factor}e-9; choose a factor that divides tick x 1e9"
            )
        return numerator // self.display_factor


def default_futures() -> tuple[Future, ...]:
    """Four CME products whose ticks, display factors, multipliers and price formats differ."""
    return (
        Future(5602, "ESH6", "ES", "XCME", (2026, 3), 250_000_000, 10_000_000, 12_500_000_000, "IPNT",
               50 * 10**9, 27_801, open_interest=2_104_377),
        Future(70_431, "CLG6", "CL", "XNYM", (2026, 2), 10_000_000, 10_000_000, 10_000_000_000, "BBL",
               1_000 * 10**9, 5_738, open_interest=318_204),
        Future(42_003_287, "6EH6", "6E", "XCME", (2026, 3), 50_000, 100_000, 6_250_000_000, "EUR",
               125_000 * 10**9, 23_514, open_interest=801_966),
        Future(528_614, "ZNH6", "ZN", "XCBT", (2026, 3), 15_625_000, 10**9, 15_625_000_000, "USD",
               100_000 * 10**9, 7_203, main_fraction=32, sub_fraction=2, price_display_format=3,
               open_interest=4_870_113),
    )  # fmt: skip


@dataclass(frozen=True)
class SimulatorConfig:
    """One session. Times are simulated time, int64 ns; ``start_ns`` since the UNIX epoch, UTC.

    Equal configurations give equal bytes, whatever ``block_ns``.
    """

    seed: int = 1
    futures: tuple[Future, ...] = field(default_factory=default_futures)
    """Each trades in a book of its own. A back month, a calendar spread and an option of the first one are
    defined beside them and never trade."""
    start_ns: int = 1_767_623_400 * SECOND
    """First packet; 2026-01-05T14:30:00Z, a Monday. The opening takes one step, then step 0 begins."""
    duration_ns: int = 3_600 * SECOND
    """Continuous trading, rounded down to whole steps."""
    step_ns: int = SECOND // 4
    """Length of a step of the hidden chain."""
    block_ns: int = 10 * SECOND
    """How much simulated time `Simulator.blocks` hands over at once; bounds memory, changes no byte."""
    drift: DriftModel = field(default_factory=DriftModel)
    """The hidden chain of every instrument, and what it does to the flow."""

    intensity: float = 5.0
    """Mean noise actions of one instrument in a step while it is calm."""
    burstiness: float = 6.0
    """How many times more actions while it is busy."""
    busy_probability: float = 0.02
    """Chance that a calm instrument becomes busy, per step."""
    calm_probability: float = 0.25
    """Chance that a busy instrument calms down, per step."""
    cluster_probability: float = 0.45
    """Chance that an action follows the one before it at once instead of at a time of its own."""
    cluster_gap_ns: int = 12_000
    """Mean wait of such a follower (exponential)."""
    trade_share: float = 0.08
    """Of the actions: small trades."""
    modify_share: float = 0.17
    """Of the actions: changes of a resting order."""
    orders: int = 260
    """Resting orders of an instrument around which cancels balance adds."""
    reach: int = 32
    """Price levels a side in which orders rest; what falls out of them is pulled. 16 to 60."""

    channel: int = 310
    """ApplID, in definitions and channel resets."""
    latency_ns: int = 15_000
    """From the event to SendingTime: at least this ..."""
    latency_tail_ns: int = 12_000
    """... plus an exponential of this mean, in all at most 500 us."""
    coalesce_ns: int = 40_000
    """Events that begin this soon after a packet's first one may share the packet."""
    packet_bytes: int = 1_400
    """Largest UDP payload."""
    split_probability: float = 0.02
    """Chance, at each message of an event but the first, that it starts a new packet."""
    late_orders_probability: float = 0.05
    """Chance that a trade summary's order entries come in a second message, in a later packet."""
    closing_probability: float = 0.05
    """Chance that an event ends in an empty message with bit 7 alone."""
    heartbeat_ns: int = SECOND // 5
    """A heartbeat after this long without a packet."""
    snapshot_interval_ns: int = 10 * SECOND
    """From one loop of the snapshot feed to the next; 0: no snapshots."""

    channel_reset_ns: int | None = None
    """After this much continuous trading a ChannelReset and a refill of the books; None: never."""
    sequence_restart_ns: int | None = None
    """After this much continuous trading packet numbers of both feeds restart at 1, as at a weekly reset:
    channel reset, definitions, status, limits and books are sent again. None: never."""

    def __post_init__(self) -> None:
        rules = (
            (self.step_ns >= 10_000_000, "step_ns", "at least 10 ms (10,000,000)"),
            (self.duration_ns >= self.step_ns, "duration_ns", "at least one step"),
            (self.block_ns >= self.step_ns, "block_ns", "at least one step"),
            (1 <= len(self.futures) <= 16, "futures", "1 to 16 futures"),
            (16 <= self.reach <= 60, "reach", "16 to 60 levels"),
            (50 <= self.orders <= 500, "orders", "50 to 500 orders"),
            (1_200 <= self.packet_bytes <= 1_472, "packet_bytes", "1,200 to 1,472 bytes"),
            (self.heartbeat_ns >= 1_000_000, "heartbeat_ns", "at least 1 ms (1,000,000)"),
            (0 < self.intensity * max(1.0, self.burstiness) <= MAX_ACTIONS / 2, "intensity x burstiness",
             f"above 0 and at most {MAX_ACTIONS // 2} actions a step"),
        )  # fmt: skip
        for holds, name, rule in rules:
            if not holds:
                raise SimulatorError(f"simulator: {name} must be {rule}")
        shares = (
            "busy_probability", "calm_probability", "cluster_probability", "split_probability",
            "late_orders_probability", "closing_probability", "trade_share", "modify_share",
        )  # fmt: skip
        for name in shares:
            if not 0 <= getattr(self, name) <= 1:
                raise SimulatorError(f"simulator: {name} is a probability, not {getattr(self, name)}")
        if self.trade_share + self.modify_share > 0.8:
            raise SimulatorError("simulator: trade_share + modify_share must leave 0.2 for adds and cancels")
        if len({future.instrument_id for future in self.futures}) < len(self.futures):
            raise SimulatorError("simulator: two futures have the same instrument_id")

    @property
    def steps(self) -> int:
        """Steps of continuous trading."""
        return self.duration_ns // self.step_ns

    @property
    def trade_date(self) -> int:
        """Days since 1970-01-01, of the session's start."""
        return self.start_ns // (86_400 * SECOND)

    @property
    def settlement_date(self) -> int:
        """The weekday before ``trade_date``, which last settlement price and open interest are of."""
        weekday = (self.trade_date + 3) % 7  # 1970-01-01 was a Thursday; Monday is 0
        return self.trade_date - {0: 3, 6: 2}.get(weekday, 1)

    @property
    def definitions_ns(self) -> int:
        """When the definitions were last changed: half a day before the session."""
        return self.start_ns - 43_200 * SECOND

    @property
    def origin_ns(self) -> int:
        """Start of step 0, ns since the epoch; step k is [origin + k step_ns, origin + (k + 1) step_ns)."""
        return self.start_ns + self.step_ns

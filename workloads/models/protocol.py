"""What every model has in common: how it is fitted, fed and asked, and what its answers carry.

A model is an object that holds a frozen config and nothing else. `fit` makes an immutable artifact; the
state that follows the market is a value that `update` replaces. Nothing here reads a clock or a file, so
that a backtest and a live server call the same code.

Times are int64 ns since the UNIX epoch, UTC. A row's ``ts`` is the time from which all of it was known.
Prices, money and moves are float64: quote currency, or ticks where the name or the unit says so.
"""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from workloads.errors import WorkloadError
from workloads.ticks.definitions import NANO, Definition

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]
Value: TypeAlias = Any
"""A number or a column of numbers: what an elementwise formula takes and gives."""


class ModelError(WorkloadError):
    """A model cannot work with what it was given."""


class EmptyWindowError(ModelError):
    """A training window holds too little to fit on: lengthen it, or leave the instrument out."""


class LookAheadError(ModelError):
    """A forecast was asked for a time before its artifact was known."""


class Unit(StrEnum):
    """What a value of an output is measured in."""

    TICKS = "ticks"
    CURRENCY = "currency per lot"
    CURRENCY_SQUARED = "(currency per lot)^2"
    LOTS = "lots"


@dataclass(frozen=True)
class Terms:
    """What turns a price into money."""

    tick: float
    """Smallest price step, quote currency."""
    multiplier: float
    """Currency per quoted point and lot."""

    def __post_init__(self) -> None:
        check_positive(tick=self.tick, multiplier=self.multiplier)

    @property
    def tick_value(self) -> float:
        """Money that one tick of one lot is worth."""
        return self.tick * self.multiplier

    @classmethod
    def of(cls, definition: Definition) -> "Terms":
        """The terms that a row of `definitions` (1e-9 units) gives."""
        if not definition.tick or not definition.multiplier:
            raise ModelError(
                f"the definition of {definition.symbol} has tick {definition.tick} and multiplier "
                f"{definition.multiplier}; money needs both: leave the instrument out"
            )
        return cls(definition.tick / NANO, definition.multiplier / NANO)


@dataclass(frozen=True)
class Origin:
    """Where a training window is from; the caller knows, a model does not."""

    data_commit: str
    """`DataCommit.id` of the tables that the window was read from."""
    code: str
    """`archive.code_version()`."""


@dataclass(frozen=True)
class Artifact:
    """What `fit` made; subclasses add the parameters, as floats and tuples of floats."""

    data_commit: str
    code: str
    train_start: int
    """``ts`` of the first row that it was fitted on."""
    train_end: int
    """``ts`` of the last."""
    as_of: int
    """All that it was fitted on, labels included, was known then: it serves times >= ``as_of`` only."""
    config_hash: str

    def to_json(self) -> str:
        """All fields; floats in the shortest form that reads back equal."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    @property
    def id(self) -> str:
        """Digest of the kind, the parameters and their origin: equal artifacts, equal ids."""
        return hashlib.sha256(f"{type(self).__name__} {self.to_json()}".encode()).hexdigest()[:16]


@dataclass(frozen=True, eq=False)
class Rows:
    """Observations of one instrument, n >= 0 rows, in order of time. Subclasses add columns of n."""

    ts: Ints

    def __post_init__(self) -> None:
        for name, column in vars(self).items():
            if column.shape != self.ts.shape or column.ndim != 1:
                raise ValueError(f"{type(self).__name__}.{name} has shape {column.shape}, ts {self.ts.shape}")
            check_finite(f"{type(self).__name__}.{name}", column)
        if (np.diff(self.ts) <= 0).any():
            raise ModelError(
                f"{type(self).__name__}.ts does not increase; give the rows of one instrument, sorted by ts"
            )

    def __len__(self) -> int:
        return len(self.ts)


@dataclass(frozen=True, eq=False)
class GridRows(Rows):
    """Rows of the `book_tensors` grid, usable ones only."""

    segment: Ints
    """Of the row; never -1. Rows of one segment that are a step apart belong together."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.segment < 0).any():
            raise ModelError(
                f"{type(self).__name__} holds rows outside any segment (-1); leave unusable rows out"
            )


@dataclass(frozen=True)
class Place:
    """Where a state's newest row was; ``segment`` -1: there was none."""

    ts: int
    segment: int = -1

    def after(self, rows: GridRows) -> "Place":
        """The place of the last of these rows."""
        return Place(int(rows.ts[-1]), int(rows.segment[-1])) if len(rows) else self


def continues(place: Place, rows: GridRows, step_ns: int) -> Flags:
    """Which rows follow the row before without a gap: same segment, one step later.

    Ids of segments start anew each date, so that the same id alone says too little.
    """
    ts = np.concatenate([[place.ts], rows.ts])
    segment = np.concatenate([[place.segment], rows.segment])
    result: Flags = (np.diff(ts) == step_ns) & (np.diff(segment) == 0)
    return result


AnyRows = TypeVar("AnyRows", bound=Rows)


def part(rows: AnyRows, which: slice | Flags) -> AnyRows:
    """Some of the rows, by slice or mask."""
    return type(rows)(**{name: column[which] for name, column in vars(rows).items()})


@dataclass(frozen=True, eq=False)
class Output:
    """Answers of a model, one a row; `Alpha`, `Risk`, `Cost`, `Targets`."""

    as_of: Ints
    """The newest input of the row was known then."""
    valid_from: Ints
    """First instant at which the row may be acted on; never before ``as_of``."""
    horizon_ns: int
    """How far ahead the row looks; 0: it holds at once."""
    unit: Unit

    def __post_init__(self) -> None:
        if (self.valid_from < self.as_of).any():
            raise LookAheadError(f"{type(self).__name__}: a row is valid before its inputs were known")

    def __len__(self) -> int:
        return len(self.as_of)


@dataclass(frozen=True, eq=False)
class Alpha(Output):
    """Expected change of the mid over the horizon."""

    value: Floats
    """In ``unit``: ticks, or currency per lot."""


@dataclass(frozen=True, eq=False)
class Risk(Output):
    """Variance of the change of one lot's value over the horizon."""

    value: Floats
    """(currency per lot)^2."""


@dataclass(frozen=True, eq=False)
class Cost(Output):
    """Cost of trading q lots at once: ``linear q + impact q^(3/2)``, in currency."""

    linear: Floats
    """Half the spread and the commission, currency per lot."""
    impact: Floats
    """Currency per lot^(3/2)."""


@dataclass(frozen=True, eq=False)
class Targets(Output):
    """Positions to hold."""

    lots: Ints
    """Signed: negative is short."""


Window = TypeVar("Window", contravariant=True)
Observed = TypeVar("Observed", contravariant=True)
State = TypeVar("State")
Fitted = TypeVar("Fitted")
Answer = TypeVar("Answer", covariant=True)


class Model(Protocol[Window, Observed, State, Fitted, Answer]):
    """The shape of `ScoreAlpha`, `FlowAlpha`, `EwmaRisk` and `TransactionCost`.

    However rows are cut into chunks, the answers are the same bits: a live server gives one row at a time,
    a backtest a whole day.
    """

    def fit(self, window: Window, origin: Origin) -> Fitted:
        """The parameters; EmptyWindowError if the window is too small."""

    def start(self, artifact: Fitted) -> State:
        """The state before any row."""

    def update(self, state: State, rows: Observed) -> State:
        """The state after these rows."""

    def predict(self, state: State, artifact: Fitted) -> Answer:
        """One row: what holds after the newest row; LookAheadError if that is older than the artifact."""

    def batch(self, state: State, rows: Observed, artifact: Fitted) -> tuple[Answer, State]:
        """`update` and `predict` row by row, at once: n rows of answers, and the state after them."""


def config_hash(*configs: Any) -> str:
    """Digest of frozen dataclasses, their kinds included."""
    parts = [[type(config).__name__, dataclasses.asdict(config)] for config in configs]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def check_positive(**values: float) -> None:
    """Refuse knobs that are no finite number above 0."""
    for name, value in values.items():
        if not (np.isfinite(value) and value > 0):
            raise ValueError(f"{name} is a number above 0, not {value}")


def check_not_negative(**values: float) -> None:
    """Refuse knobs that are no finite number from 0."""
    for name, value in values.items():
        if not (np.isfinite(value) and value >= 0):
            raise ValueError(f"{name} is a number of at least 0, not {value}")


def check_finite(name: str, values: NDArray[Any]) -> None:
    """Refuse NaN and infinity, naming the first."""
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        raise ModelError(
            f"{name} holds {len(bad)} values of {len(values)} that are no finite number, the first "
            f"{values[bad[0]]} in row {bad[0]}; leave such rows out before they reach a model"
        )


def check_known(artifact: Artifact, ts: Ints) -> None:
    """Refuse to answer for a time at which the artifact was not known yet."""
    if len(ts) and ts.min() < artifact.as_of:
        raise LookAheadError(
            f"{type(artifact).__name__} is known as of {artifact.as_of} and was asked for {ts.min()}; "
            "fit on an earlier window, or feed earlier rows to update()"
        )

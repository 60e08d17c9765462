"""What a dataset of features is made of. Importing this compiles and reads nothing."""

import datetime
from dataclasses import dataclass, field

from pydantic import ConfigDict

from workloads.features.bars import Widths
from workloads.features.cleaning import Rules
from workloads.ticks.commits import DataCommit


@dataclass(frozen=True)
class FeaturesConfig:
    """What a dataset is made of."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    archive: str
    """Folder or ``s3://bucket/prefix``."""
    data_commit: DataCommit | None = None
    """Market tables as of then; none: as of now."""
    name: str = "book"
    """First part of the dataset's name."""
    dates: tuple[datetime.date, ...] = ()
    """Trading dates; none: all that there are."""
    step_ns: int = 250_000_000
    """Grid of the book tensors: multiples of it since the epoch."""
    levels: int = 10
    """Price levels of a side."""
    horizon_ns: int = 2_500_000_000
    """From a book tensor to the end of its label; a multiple of the step."""
    bars: Widths = field(default_factory=Widths)
    cleaning: Rules = field(default_factory=Rules)

    def __post_init__(self) -> None:
        if self.step_ns < 1 or not 1 <= self.levels <= 100:
            raise ValueError("step_ns must be at least 1, and levels between 1 and 100")
        if self.horizon_ns < self.step_ns or self.horizon_ns % self.step_ns:
            raise ValueError(f"horizon_ns must be a multiple of step_ns ({self.step_ns})")

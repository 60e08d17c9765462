"""What a training run is asked for. Imports no PyTorch, so that a submitter needs none."""

import math
from dataclasses import dataclass

from pydantic import ConfigDict

from workloads.ticks.commits import DataCommit
from workloads.ticks.partitions import NAME_RULE


@dataclass(frozen=True)
class TrainingConfig:
    """One training run."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    archive: str
    dataset: str
    """That a features job made: ``book-1f3a9c04``."""
    data_commit: DataCommit | None = None
    """Of the dataset's tables; None: as they are now. The result says which it was."""
    name: str = "vit"
    seed: int = 7
    window: int = 64
    """Grid steps of history, the row itself included, all in one segment."""
    levels: int = 10
    """Of each side of the dataset's frames."""
    train: float = 0.6
    """Part of the grid times that is trained on; the first."""
    validation: float = 0.15
    """Part that chooses the epoch and the penalty; the rest is the test."""
    patch: int = 4
    """Grid steps."""
    stem: int = 4
    """Numbers that the model keeps of a frame."""
    width: int = 32
    depth: int = 2
    heads: int = 4
    hidden: int = 64
    """Width inside a block's perceptron."""
    epochs: int = 5
    batch: int = 256
    """Over all workers."""
    stride: int = 2
    """An epoch takes one sample in so many, drawn anew."""
    learning_rate: float = 4e-3
    weight_decay: float = 0.05
    workers: int = 2
    """Processes of Ray Train; 0: this process alone, without Ray."""
    permute_labels: bool = False
    """Shuffle the labels that are fitted and validated on: a model that then beats the majority has seen
    the future."""
    checkpoints: str | None = None
    """Folder for checkpoints, which all workers reach; an interrupted run goes on from there. Removed when
    training has ended. None: a temporary one."""
    max_rows: int = 2_500_000
    """Grid rows of the dataset; more are refused before any is read. Memory peaks at about 2.3 kB a row."""

    def __post_init__(self) -> None:
        counts = ("window", "levels", "patch", "stem", "width", "depth", "heads", "hidden", "epochs", "batch")
        for name in (*counts, "stride", "max_rows"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.seed < 0 or self.workers < 0:
            raise ValueError(f"seed ({self.seed}) and workers ({self.workers}) must not be negative")
        if self.window % self.patch:
            raise ValueError(f"window ({self.window}) must be a multiple of patch ({self.patch})")
        if self.width % self.heads:
            raise ValueError(f"width ({self.width}) must be a multiple of heads ({self.heads})")
        if self.batch < self.workers:
            raise ValueError(f"batch ({self.batch}) must give each of {self.workers} workers a sample")
        if not (self.train > 0 and self.validation > 0 and self.train + self.validation < 1):
            raise ValueError(
                f"train ({self.train:g}) and validation ({self.validation:g}) must be above 0, and their sum "
                "below 1: the rest is the test period"
            )
        if not (0 < self.learning_rate < math.inf and 0 <= self.weight_decay < math.inf):
            raise ValueError(
                f"learning_rate ({self.learning_rate:g}) must be above 0, and weight_decay "
                f"({self.weight_decay:g}) not below it"
            )
        if not NAME_RULE.fullmatch(self.name):
            raise ValueError(f"name ({self.name!r}) may hold letters, digits, '.', '_' and '-'")

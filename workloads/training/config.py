"""What a training run is asked for. Imports no PyTorch, so that a submitter needs none."""

from dataclasses import dataclass

from pydantic import ConfigDict

from workloads.ticks.commits import DataCommit


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

"""The learning curve of the trained model, from the table `learning`."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from operations.report.arrival import integers
from workloads.ticks.archive import Archive, RunPartition


@dataclass(frozen=True)
class Curve:
    """n epochs, ascending; NaN where an epoch has no such number."""

    epoch: NDArray[np.int64]
    """0: before the first step."""
    train_loss: NDArray[np.float64]
    """Cross-entropy, nats."""
    validation_loss: NDArray[np.float64]
    validation_accuracy: NDArray[np.float64]
    """A share."""

    @property
    def best(self) -> int | None:
        """Position of the lowest validation loss; None where there is none."""
        return None if np.isnan(self.validation_loss).all() else int(np.nanargmin(self.validation_loss))


def learning(archive: Archive, run: str, model: str | None = None) -> Curve | None:
    """The curve of one model of a training run (None: of the first); None where there is none."""
    partition = RunPartition(run)
    if partition not in archive.partitions("learning", RunPartition):
        return None
    rows = archive.read("learning", partition)
    names = rows["model"].cast(pa.string())
    there = pc.unique(names).to_pylist()
    if not there:
        return None
    rows = rows.filter(pc.equal(names, model if model in there else there[0])).sort_by("epoch")
    shares = ("train_loss", "validation_loss", "validation_accuracy")
    return Curve(
        integers(rows, "epoch"),
        *(np.asarray(rows[name].fill_null(float("nan")).to_numpy(), np.float64) for name in shares),
    )

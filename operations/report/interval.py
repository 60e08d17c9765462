"""95 % intervals as the report shows them: how they are made is `workloads.training.scoring`'s to say."""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from workloads.training import scoring


class Interval(NamedTuple):
    """A value with its 95 % interval; ``low`` and ``high`` are None where there is too little to tell."""

    value: float
    low: float | None
    high: float | None

    @property
    def above_zero(self) -> bool:
        """The whole interval is."""
        return self.low is not None and self.low > 0

    @property
    def below_zero(self) -> bool:
        """The whole interval is."""
        return self.high is not None and self.high < 0

    def scaled(self, factor: float) -> "Interval":
        """All three times a positive factor."""
        low, high = self.low, self.high
        return Interval(
            self.value * factor,
            None if low is None else low * factor,
            None if high is None else high * factor,
        )


def mean_interval(values: NDArray[np.floating] | NDArray[np.bool_], blocks: NDArray[np.int64]) -> Interval:
    """The mean of values that depend on their neighbours in time, from the means of blocks of time.

    ``blocks``: the block of each value, as `scoring.time_blocks` numbers them. A single block, or no value:
    no interval.
    """
    if not len(values):
        return Interval(math.nan, None, None)
    found = scoring.accuracy_interval(values, blocks)
    if math.isnan(found.low):
        return Interval(found.mean, None, None)
    return Interval(found.mean, found.low, found.high)


def difference_interval(
    one: NDArray[np.bool_], other: NDArray[np.bool_], blocks: NDArray[np.int64]
) -> Interval:
    """How much more often ``one`` is right than ``other``, on the same decisions: paired."""
    if not len(one):
        return Interval(math.nan, None, None)
    found = scoring.difference_interval(one, other, blocks)
    if math.isnan(found.low):
        return Interval(found.mean, None, None)
    return Interval(found.mean, found.low, found.high)

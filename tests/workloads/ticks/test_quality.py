"""Which numbers are still missing, by the rows of the gaps table."""

import random

import numpy as np
import pytest

from workloads.ticks.quality import count, inside, lost_intervals, merged, rest

ALL = (0, 2**32 - 1)


@pytest.mark.parametrize(
    ("gaps", "missing"),
    [
        ([], {}),
        ([(1, 5, 9, "lost")], {1: [(5, 9)]}),
        ([(1, 5, 9, "late")], {}),
        ([(1, 5, 9, "lost"), (1, 5, 9, "late")], {}),
        ([(1, 7, 7, "late"), (1, 5, 9, "lost")], {1: [(5, 6), (8, 9)]}),
        ([(1, 5, 9, "lost"), (2, 5, 9, "late")], {1: [(5, 9)]}),
        ([(1, 5, 9, "lost"), (1, 8, 12, "lost"), (1, 13, 13, "lost")], {1: [(5, 13)]}),
        ([(1, *ALL, "lost"), (1, 9, 9, "late")], {1: [(0, 8), (10, 2**32 - 1)]}),
        ([(1, 2, 3, "lost"), (1, 5, 6, "lost"), (1, *ALL, "late")], {}),
        ([(1, 2, 3, None)], {}),
    ],
)
def test_lost_is_what_was_called_lost_minus_what_came_late(gaps, missing):
    assert lost_intervals(gaps) == missing


def test_intervals_agree_with_sets_on_random_gaps():
    draw = random.Random(7)
    for _ in range(200):
        gaps = []
        for _ in range(draw.randrange(12)):
            first = draw.randrange(60)
            gaps.append((1, first, first + draw.randrange(9), draw.choice(("lost", "late"))))
        of = {
            outcome: {n for _, first, last, o in gaps if o == outcome for n in range(first, last + 1)}
            for outcome in ("lost", "late")
        }
        found = lost_intervals(gaps).get(1, [])
        missing = of["lost"] - of["late"]
        assert {n for first, last in found for n in range(first, last + 1)} == missing
        assert found == merged(found)
        assert count(found) == len(missing)
        numbers = np.array(sorted(draw.sample(range(80), 20)), np.uint32)
        assert set(numbers[inside(numbers, found)].tolist()) == missing & set(numbers.tolist())
        left = sorted(missing - set(numbers.tolist()))
        assert rest(found, numbers, 3) == (left[:3], len(left))

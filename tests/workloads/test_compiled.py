"""How hot loops are compiled: in one place, for all of them."""

import numpy as np
import pytest

from workloads.compiled import compiled, inlined
from workloads.exchange import decode
from workloads.ingest import arbitration
from workloads.ticks import order_book, price_book


@inlined
def _add_one(values, place):
    values[place] += 1


@compiled
def _add_one_to_all(values):
    for place in range(len(values)):
        _add_one(values, place)


def test_a_compiled_loop_calls_an_inlined_function_on_arrays():
    values = np.arange(3)
    _add_one_to_all(values)
    assert values.tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("module", "name"),
    [
        (order_book, "compiled"),
        (order_book, "inlined"),
        (price_book, "compiled"),
        (price_book, "inlined"),
        (decode, "compiled"),
        (arbitration, "compiled"),
    ],
)
def test_every_module_compiles_its_loops_the_same_way(module, name):
    assert getattr(module, name) is {"compiled": compiled, "inlined": inlined}[name]

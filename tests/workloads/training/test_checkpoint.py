"""Arrays as bytes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from workloads.training.checkpoint import pack, unpack
from workloads.training.errors import StateError

KINDS = st.sampled_from(["<f4", "<f8", "<i4", "<i8"])
SHAPES = arrays.array_shapes(min_dims=0, max_dims=3, min_side=0)


@given(st.dictionaries(st.text(max_size=5), KINDS.flatmap(lambda kind: arrays.arrays(kind, SHAPES))))
def test_what_was_packed_comes_back_bit_for_bit(content):
    found, about = unpack(pack(content, {"seed": 7}))
    assert about == {"seed": 7}
    assert found.keys() == content.keys()
    for name, array in content.items():
        assert found[name].dtype == array.dtype and found[name].shape == array.shape
        assert found[name].tobytes() == array.tobytes()


def test_equal_content_gives_equal_bytes_in_whatever_order_it_came():
    one, two = np.ones(3), np.zeros((2, 2), np.float32)
    assert pack({"a": one, "b": two}, {"x": 1, "y": 2}) == pack({"b": two, "a": one}, {"y": 2, "x": 1})


@pytest.mark.parametrize("damage", [lambda b: b[:-1], lambda b: b + b"x", lambda b: b"x" + b, lambda b: b""])
def test_damaged_bytes_are_an_error(damage):
    with pytest.raises(StateError, match="train again"):
        unpack(damage(pack({"a": np.ones(3)}, {})))


def test_objects_are_refused():
    with pytest.raises(ValueError, match="object"):
        pack({"a": np.array([object()])}, {})

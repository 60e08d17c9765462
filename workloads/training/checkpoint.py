"""Named arrays as bytes: what a model or a training state is stored as. Equal content gives equal bytes.

Layout: `MAGIC`, the header's length (uint64), the header, then the arrays' bytes one after the other. All
numbers are little-endian, arrays in C order. The header is JSON: ``about`` (plain values) and ``arrays``
(name, type, shape, sorted by name). Reading runs no code from the bytes, as a pickle would.
"""

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workloads.training.errors import StateError

MAGIC = b"tickworks-arrays-1\n"
_TYPES = ("<f4", "<f8", "<i4", "<i8")

Arrays = dict[str, NDArray[Any]]


def pack(arrays: Mapping[str, NDArray[Any]], about: Mapping[str, Any]) -> bytes:
    """Bytes that `unpack` reads; ``about`` is plain JSON."""
    entries, bodies = [], []
    for name in sorted(arrays):
        array = np.asarray(arrays[name])
        kind = array.dtype.newbyteorder("<").str
        if kind not in _TYPES:
            raise ValueError(f"{name} is {array.dtype}; only {', '.join(_TYPES)} can be packed")
        entries.append([name, kind, list(array.shape)])
        bodies.append(array.astype(kind, copy=False).tobytes())
    header = json.dumps({"about": about, "arrays": entries}, sort_keys=True).encode()
    return b"".join([MAGIC, len(header).to_bytes(8, "little"), header, *bodies])


def unpack(data: bytes) -> tuple[Arrays, dict[str, Any]]:
    """Arrays by name (writable copies), and ``about``.

    Raises
    ------
    StateError
        If the bytes are not those of `pack`, or not all of them.
    """
    try:
        start = len(MAGIC) + 8
        if data[: len(MAGIC)] != MAGIC:
            raise ValueError("other first bytes")
        at = start + int.from_bytes(data[len(MAGIC) : start], "little")
        header = json.loads(data[start:at])
        arrays: Arrays = {}
        for name, kind, shape in header["arrays"]:
            if kind not in _TYPES:
                raise ValueError(f"{name} has the unknown type {kind}")
            count = math.prod(shape)
            arrays[name] = np.frombuffer(data, kind, count, at).reshape(shape).copy()
            at += count * np.dtype(kind).itemsize
        if at != len(data):
            raise ValueError(f"{len(data) - at} bytes more than the header says")
        return arrays, dict(header["about"])
    except (ValueError, KeyError, TypeError) as error:
        raise StateError(
            f"these {len(data)} bytes are no model or checkpoint of ours ({error}); train again"
        ) from error

"""Read the messages that are rare enough to be read where they lie: definitions, status, channel resets.

Messages of one template and block length are stacked into one structured array, so that a channel's
thousands of definitions are still read column by column.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workloads.exchange import mdp3
from workloads.exchange.decode import Columns

_PRICES = ("tick", "tick_value", "reference_price", "high_limit", "low_limit", "max_variation", "strike")
_DECIMALS = (*_PRICES, "display_factor", "unit_quantity", "price_ratio", "min_cab_price")
_ONE = 1_000_000_000


@dataclass(frozen=True)
class Roots:
    """Root blocks of n messages of one kind. ``message`` int32[n]: rows of the batch's ``messages``."""

    kind: int
    message: NDArray[np.int32]
    offset: NDArray[np.int64]
    """Of the first byte behind each root block, in the buffer."""
    end: NDArray[np.int64]
    blocks: NDArray[Any]
    """Structured array[n]; fields that a shorter, older block lacks read as null."""
    scale: int
    """100 where the template's decimals are in 1e-7, else 1: for what lies in its groups."""


def roots(buffer: NDArray[np.uint8], rare: Columns, template: NDArray[np.uint8]) -> Iterator[Roots]:
    """Group the rare messages of a batch by layout.

    ``rare``: its columns as decoded, ``template`` uint8: of each of them.
    """
    blocks = {**mdp3.ROOT, **mdp3.DEFINITION}
    key = template.astype(np.int64) << 16 | rare["block_length"]
    for value in np.unique(key):
        which = np.flatnonzero(key == value)
        wire_template, length = int(value) >> 16, int(value) & 0xFFFF
        kind = mdp3.TWINS.get(wire_template, wire_template)
        block = blocks[kind]
        start = rare["offset"][which] + mdp3.MESSAGE_HEADER_BYTES
        raw = np.zeros((len(which), block.itemsize), np.uint8)
        width = min(length, block.itemsize)
        raw[:, :width] = buffer[start[:, None] + np.arange(width)]
        read = raw.view(block)[:, 0].copy()
        _blank(read, block, length, wire_template, rare["version"][which])
        end = rare["offset"][which] + rare["bytes"][which]
        scale = 100 if wire_template <= mdp3.LAST_COARSE_TEMPLATE else 1
        yield Roots(kind, rare["message"][which], start + length, end, read, scale)


def _blank(
    read: NDArray[Any], block: np.dtype[Any], length: int, wire_template: int, version: NDArray[np.uint16]
) -> None:
    """Nulls for what the wire did not carry; the older templates' decimals at the newer ones' scale."""
    assert block.fields is not None
    for name, (dtype, at, *_) in block.fields.items():
        if at + dtype.itemsize > length:
            read[name] = null_of(name, dtype)
        elif name in mdp3.SINCE:
            read[name][version < mdp3.SINCE[name]] = null_of(name, dtype)
        elif wire_template <= mdp3.LAST_COARSE_TEMPLATE and name in _DECIMALS:
            coarse = read[name] != mdp3.NULL_I64
            read[name][coarse] *= 100


def null_of(name: str, dtype: np.dtype[Any]) -> Any:
    """The wire's null of a field; text is null when empty."""
    if dtype.kind == "S":
        return b""
    return np.iinfo(dtype).max


@dataclass(frozen=True)
class Groups:
    """What the groups of one definition say."""

    activation: int | None
    """ns since the epoch."""
    expiration: int | None
    depth: int | None
    attributes: int
    legs: list[dict[str, int | None]]


def definition_groups(buffer: NDArray[np.uint8], kind: int, start: int, end: int, scale: int) -> Groups:
    """Walk the groups behind a definition's root; lengths come from the wire, ``scale`` from `Roots`.

    Groups that a message no longer has room for read as empty.
    """
    blocks: list[NDArray[np.uint8]] = []
    at = start
    while at + mdp3.GROUP_BYTES <= end:
        length = int(buffer[at]) | int(buffer[at + 1]) << 8
        n = int(buffer[at + 2])
        at += mdp3.GROUP_BYTES
        if at + n * length > end:
            break
        blocks.append(
            buffer[at : at + n * length].reshape(n, length) if n else np.zeros((0, length), np.uint8)
        )
        at += n * length
    events = _entries(blocks, 0, mdp3.EVENT)
    feeds = _entries(blocks, 1, mdp3.FEED_TYPE)
    attributes = _entries(blocks, 2, mdp3.ATTRIBUTE)
    legs = _entries(blocks, 4, mdp3.LEG) if kind == mdp3.DEFINITION_SPREAD else np.zeros(0, mdp3.LEG)
    times = {int(event["event_type"]): int(event["event_time"]) for event in events}
    books = [int(feed["depth"]) for feed in feeds if feed["feed_type"] == b"GBX"]
    return Groups(
        activation=times.get(5),
        expiration=times.get(7),
        depth=books[0] if books else None,
        attributes=int(np.bitwise_or.reduce(attributes["value"])) if len(attributes) else 0,
        legs=[
            {
                "instrument_id": int(leg["instrument_id"]),
                "side": int(leg["side"]),
                "ratio": int(leg["ratio"]),
                "price": None if leg["price"] == mdp3.NULL_I64 else int(leg["price"]) * scale,
            }
            for leg in legs
        ],
    )


def _entries(blocks: list[NDArray[np.uint8]], index: int, block: np.dtype[Any]) -> NDArray[Any]:
    if index >= len(blocks) or blocks[index].shape[1] < block.itemsize:
        return np.zeros(0, block)
    return np.ascontiguousarray(blocks[index][:, : block.itemsize]).view(block)[:, 0]

"""Messages by hand, over the block layouts that the wire tests prove against CME's schema."""

import struct
from typing import Any

import numpy as np

from workloads.exchange import mdp3

END = 128


def message(template: int, root: bytes, *groups: bytes, version: int = 13, schema: int = 1) -> bytes:
    body = root + b"".join(groups)
    return struct.pack("<5H", 10 + len(body), len(root), template, schema, version) + body


def block(dtype: np.dtype, **fields: Any) -> bytes:
    one = np.zeros(1, dtype)
    for name, value in fields.items():
        one[name] = value
    return one.tobytes()


def group(dtype: np.dtype, *rows: dict[str, Any]) -> bytes:
    return struct.pack("<HB", dtype.itemsize, len(rows)) + b"".join(block(dtype, **row) for row in rows)


def long_group(dtype: np.dtype, *rows: dict[str, Any]) -> bytes:
    head = struct.pack("<H5xB", dtype.itemsize, len(rows))
    return head + b"".join(block(dtype, **row) for row in rows)


def refresh(template: int, ts: int, flags: int, *entries: dict[str, Any], orders: Any = None) -> bytes:
    """An incremental refresh; ``orders`` are the entries of the second group, where the template has one."""
    kind = mdp3.TWINS.get(template, template)
    root = block(mdp3.ROOT[kind], transact_time=ts, event_flags=flags)
    groups = [group(mdp3.ENTRY[kind], *entries)]
    if kind in mdp3.ORDERS:
        groups.append(long_group(mdp3.ORDERS[kind], *(orders or ())))
    return message(template, root, *groups)


def order(instrument: int, order_id: int, price: int, *, action: int = 0, size: int = 1) -> dict[str, Any]:
    """An entry of 47: a bid."""
    return {
        "instrument_id": instrument,
        "order_id": order_id,
        "price": price,
        "size": size,
        "action": action,
        "entry_type": 48,
        "priority": order_id,
    }


def orders(ts: int, flags: int, *entries: dict[str, Any]) -> bytes:
    return refresh(mdp3.ORDER_BOOK, ts, flags, *entries)


def trade(instrument: int, price: int, size: int, n: int) -> dict[str, Any]:
    return {"instrument_id": instrument, "price": price, "size": size, "orders": n, "aggressor": 1}


def reset(ts: int, flags: int = END) -> bytes:
    root = block(mdp3.ROOT[mdp3.CHANNEL_RESET], transact_time=ts, event_flags=flags)
    return message(mdp3.CHANNEL_RESET, root, group(mdp3.ENTRY[mdp3.CHANNEL_RESET], {"appl_id": 310}))


HEARTBEAT = message(mdp3.HEARTBEAT, b"")

"""Unaligned little-endian loads and stores for Numba, one per width.

An address is a ``uintp``. Nothing here checks a bound: callers compare with the end of the message
first. ``align = 1`` matters: without it LLVM may assume that an address is aligned, and MDP 3.0 aligns
nothing.
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

ADDRESS = types.uintp


def _load(numba_type: types.Type, width: int) -> Any:
    @intrinsic
    def load(typing_context: Any, address: types.Type) -> tuple[Any, Callable[..., Any]]:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            pointer = builder.inttoptr(args[0], ir.IntType(width).as_pointer())
            return builder.load(pointer, align=1)

        return numba_type(ADDRESS), codegen

    return load


def _store(numba_type: types.Type, width: int) -> Any:
    @intrinsic
    def store(typing_context: Any, address: types.Type, value: types.Type) -> tuple[Any, Callable[..., Any]]:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            pointer = builder.inttoptr(args[0], ir.IntType(width).as_pointer())
            builder.store(args[1], pointer, align=1)
            return context.get_dummy_value()

        return types.void(ADDRESS, numba_type), codegen

    return store


load_u8 = _load(types.uint8, 8)
load_i8 = _load(types.int8, 8)
load_u16 = _load(types.uint16, 16)
load_u32 = _load(types.uint32, 32)
load_i32 = _load(types.int32, 32)
load_u64 = _load(types.uint64, 64)
load_i64 = _load(types.int64, 64)

store_u8 = _store(types.uint8, 8)
store_u16 = _store(types.uint16, 16)
store_u32 = _store(types.uint32, 32)
store_i32 = _store(types.int32, 32)
store_u64 = _store(types.uint64, 64)
store_i64 = _store(types.int64, 64)

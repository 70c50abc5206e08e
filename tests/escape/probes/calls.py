"""Raw system calls for probes: by name, with numbers from the facts, an `OSError` for an errno."""

from __future__ import annotations

import ctypes
import os

from .table import Facts, RefusedError

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long

AT_FDCWD = -100


def raw(facts: Facts, name: str, *arguments: object) -> int:
    """The result of one system call. Integers go as 64-bit values, buffers as their addresses."""
    number = facts["calls"].get(name)
    if number is None:
        raise RefusedError(f"this architecture has no {name}")
    values = [_value(argument) for argument in arguments]
    ctypes.set_errno(0)
    result = int(libc.syscall(ctypes.c_long(number), *values))
    if result == -1 and ctypes.get_errno():
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def _value(argument: object) -> object:
    if argument is None:
        return ctypes.c_void_p(None)
    if isinstance(argument, int):
        return ctypes.c_long(ctypes.c_long(argument).value)
    if isinstance(argument, bytes):
        return ctypes.c_char_p(argument)
    return ctypes.byref(argument)  # type: ignore[arg-type]


def check(result: int) -> int:
    """For functions of the C library that answer -1 and set errno."""
    if result == -1:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result

"""Runs a filter's program as the kernel would, to judge one that this machine's processor cannot load."""

from __future__ import annotations

import struct

from gateway.relay.seccomp import AUDIT_ARCHES, INSTRUCTION

_DATA = struct.Struct("<IIQ6Q")  # struct seccomp_data


def verdict(program: bytes, machine: str, number: int, arguments: tuple[int, ...] = ()) -> int:
    """What the filter returns for a call. The opcodes are those of linux/bpf_common.h."""
    padded = (*arguments, 0, 0, 0, 0, 0, 0)[:6]
    data = _DATA.pack(number & 0xFFFF_FFFF, AUDIT_ARCHES[machine], 0, *(value % 2**64 for value in padded))
    instructions = list(INSTRUCTION.iter_unpack(program))
    accumulator, position = 0, 0
    while True:
        code, if_true, if_false, operand = instructions[position]
        position += 1
        if code == 0x06:
            return int(operand)
        if code == 0x20:
            (accumulator,) = struct.unpack_from("<I", data, operand)
        elif code == 0x54:
            accumulator &= operand
        else:
            holds = {
                0x15: accumulator == operand,
                0x35: accumulator >= operand,
                0x45: bool(accumulator & operand),
            }[code]
            position += if_true if holds else if_false

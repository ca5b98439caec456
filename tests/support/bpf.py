"""A machine for classic BPF, as small as the filters need: what the kernel does with one, in Python.

Written from Documentation/networking/filter.rst, not from the compiler.
"""

from __future__ import annotations

import errno
import struct


class BadProgram(Exception):
    """The kernel would refuse to install this."""


def run(program: bytes, data: bytes) -> int:
    """Return what the filter returns for one struct seccomp_data."""
    instructions = list(struct.iter_unpack("=HBBI", program))
    accumulator = 0
    at = 0
    while True:
        if at >= len(instructions):
            raise BadProgram("it runs off its end")
        code, if_true, if_false, k = instructions[at]
        at += 1
        match code:
            case 0x20:  # load a word
                if k % 4 or k + 4 > len(data):
                    raise BadProgram(f"a load from {k}")
                (accumulator,) = struct.unpack_from("=I", data, k)
            case 0x54:  # and
                accumulator &= k
            case 0x05:  # jump
                at += k
            case 0x15:  # jump if equal
                at += if_true if accumulator == k else if_false
            case 0x35:  # jump if greater or equal
                at += if_true if accumulator >= k else if_false
            case 0x06:  # return
                return k
            case _:
                raise BadProgram(f"an instruction {code:#x}")


def seccomp_data(number: int, arguments: tuple[int, ...], *, arch: int = 0xC000_003E) -> bytes:
    """Return the facts of one system call as the kernel gives them to a filter."""
    return struct.pack("=IIQ6Q", number & 0xFFFF_FFFF, arch, 0, *arguments)


def meaning(value: int) -> str:
    """Return what the kernel does with a filter's return value."""
    action, low = value & 0xFFFF_0000, value & 0xFFFF
    match action:
        case 0x7FFF_0000:
            return "allow"
        case 0x8000_0000:
            return "kill"
        case 0x0005_0000:
            return errno.errorcode[low]
    raise BadProgram(f"a return of {value:#x}")

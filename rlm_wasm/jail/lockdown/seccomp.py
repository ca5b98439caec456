"""The system-call filter: `syscalls.RULES` as a BPF program, and the call that installs it for good.

`compile_filter` is a pure function; a test runs its output in an interpreter of its own against the
table. A call made in another architecture's way (32-bit `int 0x80`, x32) is killed before its number
is looked at: the same number means another call there.

Source: include/uapi/linux/seccomp.h, filter.h, audit.h.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Iterable
from typing import Final

from rlm_wasm.jail.lockdown.kernel import address, syscall
from rlm_wasm.jail.lockdown.rule import KILL, NEXT, NOT_THERE, Action, Condition, Rule

_SECCOMP: Final = 317
_SET_MODE_FILTER: Final = 1
_FLAG_TSYNC: Final = 1
_ARCH_X86_64: Final = 0xC000_003E
_X32_BIT: Final = 0x4000_0000
_INSTRUCTIONS_MAX: Final = 4096

# struct seccomp_data: number, architecture, instruction pointer, six arguments of 64 bits.
_OFFSET_NUMBER, _OFFSET_ARCH, _OFFSET_ARGUMENTS = 0, 4, 16
_LOAD, _AND, _JUMP, _JUMP_EQUAL, _JUMP_AT_LEAST, _RETURN = 0x20, 0x54, 0x05, 0x15, 0x35, 0x06
_RETURNS: Final = {"allow": 0x7FFF_0000, "kill": 0x8000_0000, "errno": 0x0005_0000}
_LOW: Final = 0xFFFF_FFFF

# (code, jump if true, jump if false, constant); jumps count from the next instruction.
Instruction = tuple[int, int, int, int]


def compile_filter(rules: Iterable[Rule], *, known_max: int) -> tuple[Instruction, ...]:
    """Return the program that answers as the rules say, and kills what no rule names.

    Raises:
        ValueError: it would be longer than the kernel takes.
    """
    program: list[Instruction] = [
        (_LOAD, 0, 0, _OFFSET_ARCH),
        (_JUMP_EQUAL, 1, 0, _ARCH_X86_64),
        _returning(KILL),
        (_LOAD, 0, 0, _OFFSET_NUMBER),
        (_JUMP_AT_LEAST, 0, 1, _X32_BIT),
        _returning(KILL),
    ]
    for rule in rules:
        body = _body(rule)
        program += [(_JUMP_EQUAL, 0, len(body), rule.number), *body]
    program += [(_JUMP_AT_LEAST, 0, 1, known_max + 1), _returning(NOT_THERE), _returning(KILL)]
    if len(program) > _INSTRUCTIONS_MAX:
        raise ValueError(f"a filter of {len(program)} instructions")
    return tuple(program)


def _returning(action: Action) -> Instruction:
    return (_RETURN, 0, 0, _RETURNS[action.kind] | action.error)


def _body(rule: Rule) -> list[Instruction]:
    """What follows once the number is this rule's: a return, or the way on to the next rule."""
    goes_on = rule.otherwise is NEXT
    code = [_returning(rule.then)]
    # Backwards, so that each condition knows how far it is to the end.
    for condition in reversed(rule.when):
        leave = (_JUMP, 0, 0, len(code)) if goes_on else _returning(rule.otherwise)
        code = [*_unless(condition, leave, len(code)), *code]
    # A condition has loaded an argument over the number.
    return [*code, (_LOAD, 0, 0, _OFFSET_NUMBER)] if goes_on else code


def _unless(condition: Condition, leave: Instruction, following: int) -> list[Instruction]:
    """Take `leave` unless the condition holds; both halves of the 64 bits are looked at.

    All values that a condition allows lie in the lower half (checked here), so the upper half has one answer.
    """
    if any(value > _LOW for value in condition.values):
        raise ValueError("a condition for a value above 32 bits")
    low = _OFFSET_ARGUMENTS + 8 * condition.argument
    lower: list[Instruction] = [(_LOAD, 0, 0, low), (_AND, 0, 0, condition.mask & _LOW)]
    for position, value in enumerate(condition.values):
        # Past the remaining comparisons and the way out.
        lower.append((_JUMP_EQUAL, len(condition.values) - position, 0, value))
    lower.append(leave)
    if condition.mask <= _LOW:
        return lower
    upper: list[Instruction] = [(_LOAD, 0, 0, low + 4), (_AND, 0, 0, condition.mask >> 32)]
    way_out = (_JUMP, 0, 0, len(lower) + following) if leave[0] == _JUMP else leave
    return [*upper, (_JUMP_EQUAL, 1, 0, 0), way_out, *lower]


def assemble(program: Iterable[Instruction]) -> bytes:
    """Return the program as an array of struct sock_filter."""
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in program)


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def install(assembled: bytes) -> None:
    """Put the filter on every thread of this process, for good. Needs no_new_privs.

    Raises:
        OSError: the kernel refused, or another thread could not take it.
    """
    code = ctypes.create_string_buffer(assembled, len(assembled))
    program = _Program(len(assembled) // 8, ctypes.addressof(code))
    stray = syscall(_SECCOMP, _SET_MODE_FILTER, _FLAG_TSYNC, address(program))
    if stray:
        raise OSError(f"thread {stray} did not take the filter")

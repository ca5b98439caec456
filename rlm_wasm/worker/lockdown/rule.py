"""The words in which `syscalls.py` says what a worker may ask of the kernel."""

from __future__ import annotations

import errno
from dataclasses import dataclass
from typing import Final

_LOW: Final = 0xFFFF_FFFF


@dataclass(frozen=True, slots=True)
class Test:
    """An argument, with the bits of `mask` alone, is one of `values`."""

    argument: int
    mask: int
    values: tuple[int, ...]

    def holds(self, arguments: tuple[int, ...]) -> bool:
        """Whether a call with these six arguments passes."""
        return arguments[self.argument] & self.mask in self.values


@dataclass(frozen=True, slots=True)
class Action:
    """What the kernel does: `allow`, end the process (`kill`), or answer with `error`."""

    kind: str
    error: int = 0


ALLOW: Final = Action("allow")
# The whole process, not the thread: no handler runs, nothing can be tried again.
KILL: Final = Action("kill")


def refuse(code: int) -> Action:
    """Answer with an error that the caller copes with."""
    return Action("errno", code)


NO_ACCESS: Final = refuse(errno.EACCES)
NOT_PERMITTED: Final = refuse(errno.EPERM)
NOT_THERE: Final = refuse(errno.ENOSYS)


@dataclass(frozen=True, slots=True)
class Rule:
    """One system call: `then` if all of `tests` hold, else `otherwise`; and why it is there."""

    name: str
    number: int
    why: str
    then: Action = ALLOW
    tests: tuple[Test, ...] = ()
    otherwise: Action = KILL

    def decide(self, arguments: tuple[int, ...]) -> Action:
        """Return what becomes of a call with these six arguments."""
        return self.then if all(test.holds(arguments) for test in self.tests) else self.otherwise


def is_int(argument: int, *values: int) -> Test:
    """An argument that the kernel reads as a C int; its upper half is noise."""
    return Test(argument, _LOW, tuple(value & _LOW for value in values))


def only_bits(argument: int, bits: int, width: int = 64) -> Test:
    """No bit outside `bits` is set."""
    return Test(argument, ((1 << width) - 1) & ~bits, (0,))


def has_bits(argument: int, bits: int) -> Test:
    """Every bit of `bits` is set."""
    return Test(argument, bits, (bits,))

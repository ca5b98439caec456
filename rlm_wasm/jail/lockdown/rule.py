"""The words in which `syscalls.py` says what a worker may ask of the kernel."""

from __future__ import annotations

import errno
from dataclasses import dataclass
from typing import Final

_LOW: Final = 0xFFFF_FFFF


@dataclass(frozen=True, slots=True)
class Condition:
    """An argument, with the bits of `mask` alone, is one of `values`."""

    argument: int
    mask: int
    values: tuple[int, ...]

    def holds(self, arguments: tuple[int, ...]) -> bool:
        """Whether a call with these six arguments passes."""
        return arguments[self.argument] & self.mask in self.values


@dataclass(frozen=True, slots=True)
class Action:
    """What the kernel does: `allow`, end the process (`kill`), answer with `errno`, see the `next` rule."""

    kind: str
    error: int = 0


ALLOW: Final = Action("allow")
# The whole process, not the thread: no handler runs, nothing can be tried again.
KILL: Final = Action("kill")
# Only as `otherwise`: a later rule for the same call decides.
NEXT: Final = Action("next")


def refuse(code: int) -> Action:
    """Answer with an error that the caller copes with."""
    return Action("errno", code)


NO_ACCESS: Final = refuse(errno.EACCES)
NOT_PERMITTED: Final = refuse(errno.EPERM)
NOT_THERE: Final = refuse(errno.ENOSYS)


@dataclass(frozen=True, slots=True)
class Rule:
    """One system call: `then` if all of `when` holds, else `otherwise`; and why it is there."""

    name: str
    number: int
    why: str
    then: Action = ALLOW
    when: tuple[Condition, ...] = ()
    otherwise: Action = KILL

    def decide(self, arguments: tuple[int, ...]) -> Action:
        """Return what becomes of a call with these six arguments."""
        return self.then if all(condition.holds(arguments) for condition in self.when) else self.otherwise


def is_int(argument: int, *values: int) -> Condition:
    """An argument that the kernel reads as a C int; its upper half is noise."""
    return Condition(argument, _LOW, tuple(value & _LOW for value in values))


def is_null(argument: int) -> Condition:
    """A pointer that is not given."""
    return Condition(argument, (1 << 64) - 1, (0,))


def only_bits(argument: int, bits: int, width: int = 64) -> Condition:
    """No bit outside `bits` is set."""
    return Condition(argument, ((1 << width) - 1) & ~bits, (0,))


def has_bits(argument: int, bits: int) -> Condition:
    """Every bit of `bits` is set."""
    return Condition(argument, bits, (bits,))

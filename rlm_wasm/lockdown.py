"""The layers of a lock-down and its grades: which a policy may require by one word, and what a worker got.

Not every machine gives every layer: a container's default profile refuses namespaces of users, and with
them all others to who is not root. The system-call filter, Landlock and what a process gives up of itself
stand there too.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Final

# In the order in which they are applied: the first part once in the zygote, the second in each worker.
ZYGOTE_LAYERS: Final = (
    "environment",
    "user namespace",
    "pid namespace",
    "net namespace",
    "mount namespace",
    "ipc namespace",
    "uts namespace",
    "cgroup namespace",
    "executable pages",
    "empty root",
    "no new privileges",
    "capabilities",
    "user id",
)
WORKER_LAYERS: Final = (
    "single thread",
    "parent death",
    "descriptors",
    "undumpable",
    "rlimits",
    "landlock",
    "seccomp",
)
LAYERS: Final = (*ZYGOTE_LAYERS, *WORKER_LAYERS)

# Those that are namespaces, or are made in one.
_OF_NAMESPACES: Final = frozenset(
    {
        "user namespace",
        "pid namespace",
        "net namespace",
        "mount namespace",
        "ipc namespace",
        "uts namespace",
        "cgroup namespace",
        "empty root",
    }
)


@dataclass(frozen=True, slots=True)
class Finding:
    """What became of one layer. `detail` says what it covers, or why it is missing."""

    layer: str
    applied: bool
    detail: str


class Grade(Enum):
    """What stands around the process of a session, from all there is to nothing. The value is its word."""

    # Every layer.
    FULL = "full"
    # All but the namespace of users: root makes the others without one.
    NAMESPACED = "namespaced"
    # No namespace: the system-call filter, Landlock, and what a process gives up of itself.
    FILTERED = "filtered"
    # One of those is missing too.
    PARTIAL = "partial"
    # There is no process around the guest: isolation "inline".
    NONE = "none"


# What each grade that can be required requires, from the strongest on.
LAYERS_OF: Final[dict[Grade, tuple[str, ...]]] = {
    Grade.FULL: LAYERS,
    Grade.NAMESPACED: tuple(layer for layer in LAYERS if layer != "user namespace"),
    Grade.FILTERED: tuple(layer for layer in LAYERS if layer not in _OF_NAMESPACES),
}
_ORDER: Final = tuple(Grade)


def grade_of(applied: Collection[str]) -> Grade:
    """Return the strongest grade all of whose layers are in `applied`."""
    for grade, layers in LAYERS_OF.items():
        if set(layers).issubset(applied):
            return grade
    return Grade.PARTIAL


def weakest(grades: Iterable[Grade]) -> Grade | None:
    """Return the one that has the fewest layers; None of none."""
    return max(grades, key=_ORDER.index, default=None)

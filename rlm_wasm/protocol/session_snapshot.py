"""The state of one session as it crosses from a worker to its owner and back."""

from __future__ import annotations

from typing import Protocol


class SessionSnapshot(Protocol):
    """The state of one session between two cells, to start others from, or to keep. Immutable."""

    @property
    def size(self) -> int:
        """The size of the guest's memory."""

    @property
    def virtual_ns(self) -> int:
        """What the guest's virtual clock showed."""

    @property
    def bytes_held(self) -> int:
        """The memory that the pages this image adds to its origin take."""

    def flattened(self) -> tuple[tuple[int, bytes], ...]:
        """Return the pages it adds to the guest's base image: (offset, contents), in order."""

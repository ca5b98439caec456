"""A terminal for a program that is to write to one, where this machine has any."""

from __future__ import annotations

import os
import pty
from contextlib import suppress

import pytest


def open_terminal() -> tuple[int, int]:
    """Return a terminal's two ends, ours and the program's; skips the test where the machine has none."""
    try:
        return pty.openpty()
    except OSError as error:
        pytest.skip(f"needs a pseudo-terminal: {error}")


def written(ours: int) -> bytes:
    """Return all that was written until nobody had the other end open, and close ours."""
    parts = []
    with suppress(OSError):  # the other end is closed
        while part := os.read(ours, 65_536):
            parts.append(part)
    os.close(ours)
    return b"".join(parts)

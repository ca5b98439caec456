"""What may be done to a file that must be what it was."""

from __future__ import annotations

from pathlib import Path


def flip(path: Path, at: float = 0.5) -> None:
    """Change one bit, of the byte that lies `at` this part of the file."""
    data = bytearray(path.read_bytes())
    data[int(at * (len(data) - 1))] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    """Take the last byte away."""
    path.write_bytes(path.read_bytes()[:-1])


def link(path: Path) -> None:
    """Put a link to the file in its place."""
    path.rename(path.with_name("real"))
    path.symlink_to("real")

"""A folder of artifacts that takes its place whole: filled beside it, then renamed, the old one removed last.

Whoever is killed meanwhile leaves the old folder or the new one, and what is left beside it the next who
publishes there puts right. The caller holds the lock of that place.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

# No name of a guest or of an image has a dot.
_MAKING: Final = ".making.{}.{}"
_OLD: Final = ".old.{}.{}"


def publish(
    folder: Path, fill: Callable[[Path], object], *, mode: int = 0o700, keep: Sequence[str] = ()
) -> None:
    """Have `fill` fill a new folder, and put it at `folder`, in the place of what is there.

    `keep` are folders of the old one that go over into the new one, unless that has its own. Raises OSError,
    and whatever `fill` raises: then what was there is there.
    """
    _settle(folder, keep)
    for left in folder.parent.glob(_MAKING.format(folder.name, "*")):
        shutil.rmtree(left, ignore_errors=True)
    token = secrets.token_hex(6)
    making = folder.parent / _MAKING.format(folder.name, token)
    try:
        making.mkdir(mode=0o700)
        making.chmod(mode)  # whatever the umask
        fill(making)
        if folder.exists():
            os.rename(folder, folder.parent / _OLD.format(folder.name, token))
        os.rename(making, folder)
    finally:
        shutil.rmtree(making, ignore_errors=True)
        _settle(folder, keep)


def _settle(folder: Path, keep: Sequence[str]) -> None:
    """Put back what was moved away without another in its place; else take over of it what is kept."""
    for old in sorted(folder.parent.glob(_OLD.format(folder.name, "*"))):
        if not folder.exists():
            os.rename(old, folder)
            continue
        for name in keep:
            if (old / name).exists() and not (folder / name).exists():
                os.rename(old / name, folder / name)
        shutil.rmtree(old, ignore_errors=True)

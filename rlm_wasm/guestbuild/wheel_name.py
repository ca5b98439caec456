"""The name of a wheel's file, and what it says: one pattern for the locks and for the gate of wheels."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

# name-version(-build)-python-abi-platform.whl
_FILE: Final = re.compile(
    r"([A-Za-z0-9._]+)-([A-Za-z0-9._!+]+)(?:-[0-9][\w.]*)?-([\w.]+)-([\w.]+)-([\w.]+)\.whl", re.ASCII
)


class WheelName(NamedTuple):
    """The parts of the name. Of Python, ABI and platform there may be several, with dots between."""

    name: str
    version: str
    python: str
    abi: str
    platform: str

    @property
    def pure(self) -> bool:
        """Whether it is pure Python, of any Python 3."""
        return "py3" in self.python.split(".") and self.abi == "none" and self.platform == "any"


def read_wheel_name(file: str) -> WheelName | None:
    """Return what a file's name says; None: it is no wheel's."""
    found = _FILE.fullmatch(file)
    return WheelName(*found.groups()) if found else None

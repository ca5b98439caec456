"""The machine's memory pressure, as the kernel tells it (Documentation/accounting/psi.rst)."""

from __future__ import annotations

from typing import Final

_FILE: Final = "/proc/pressure/memory"


def memory_pressure_permille(path: str = _FILE) -> int:
    """Return for how much of the last ten seconds, of 1,000, some task waited for memory; 0 if unknown."""
    try:
        with open(path, encoding="ascii") as file:
            return parse(file.read())
    except (OSError, ValueError):
        return 0  # a kernel without it: the policy's cap on memory still holds


def parse(text: str) -> int:
    """Return the ten-second average of the line `some`, of 1,000. Raises ValueError if there is none."""
    for line in text.splitlines():
        kind, *fields = line.split()
        if kind == "some":
            averages = dict(field.split("=", 1) for field in fields)
            return round(float(averages["avg10"]) * 10)
    raise ValueError("no line `some`")

"""A cell as it is asked for, and what both ends of a worker allow around one beside its own limits."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from rlm_wasm.errors import UsageError
from rlm_wasm.limits import CellLimits, nothing_but

# Loading an input is charged and bounded like a cell; finalisers of earlier cells may run in it.
_SETUP: Final = nothing_but(CellLimits, fuel_max=2_000_000_000, wall_ms_max=10_000)
# What reading the text of a value may take: twice what the costliest did that was tried, short numbers with
# large exponents. Most takes a tenth. And as long as a slow machine takes for as much fuel.
_JSON_FUEL_PER_BYTE: Final = 2_000
_JSON_BYTES_PER_MS: Final = 250
# A cancelled cell gets so much execution to unwind.
CANCEL_GRACE_NS: Final = 500_000_000
# Beyond so many times the requests that a cell may make nobody looks at them any more.
FLOOD_FACTOR: Final = 4


@dataclass(frozen=True, slots=True)
class Cell:
    """One execution: UTF-8 Python, its limits, and what to report beside its text.

    `report_variables`: the names that there are afterwards; `report_value`: the last expression as a value;
    `live`: its output while it runs, beside all of it at the end.
    One that `refuels` has `limits.fuel_max` at first, and asks for more before that is used up.
    """

    source: str
    limits: CellLimits
    report_variables: bool = False
    refuels: bool = False
    report_value: bool = False
    live: bool = False

    def sendable(self) -> Cell:
        """Return the cell with a source that UTF-8 can say: what it cannot is replaced, as for the guest."""
        try:
            self.source.encode()
        except UnicodeEncodeError:
            return replace(self, source=self.source.encode("utf-8", "replace").decode())
        return self

    def encoded(self) -> bytes:
        """Return the source as the guest gets it.

        Raises:
            UsageError: it is no str, or longer than the limits allow.
        """
        if not isinstance(self.source, str):
            raise UsageError(f"a cell is a str, not a {type(self.source).__name__}")
        source = self.source.encode("utf-8", "replace")
        if len(source) > self.limits.source_bytes_max:
            raise UsageError(
                f"the cell has {len(source)} bytes; cell.source_bytes_max is {self.limits.source_bytes_max}"
            )
        return source


def setup_limits(json_bytes: int = 0) -> CellLimits:
    """Return the limits of loading an input; the guest reads a value's text, of so many bytes, too."""
    fuel_max = _SETUP.fuel_max + json_bytes * _JSON_FUEL_PER_BYTE
    return replace(
        _SETUP, fuel_max=fuel_max, wall_ms_max=_SETUP.wall_ms_max + json_bytes // _JSON_BYTES_PER_MS
    )


def with_room_for(source: str, limits: CellLimits) -> CellLimits:
    """Return the limits for a cell of the library's own: how long a model's may be says nothing of it."""
    return replace(limits, source_bytes_max=max(limits.source_bytes_max, len(source.encode())))

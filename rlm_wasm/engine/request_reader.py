"""`RequestReader`: reads the request frames of a cell, in no more time than the cell itself may take."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from rlm_wasm.errors import DeadlineExceeded, QueryError
from rlm_wasm.limits import BoundaryLimits
from rlm_wasm.protocol.guest_frames import Request, decode_request

_NS_PER_MS: Final = 1_000_000


@dataclass(slots=True)
class RequestReader:
    """Decodes frames: work for which a cell makes others wait, so its time is bounded for each cell."""

    boundary: BoundaryLimits
    read_ms_max: int
    clock: Callable[[], int]
    _read_ns: int = 0

    def begin_cell(self) -> None:
        """Forget how long the frames of the last cell took."""
        self._read_ns = 0

    def read(self, frame: bytes) -> Request | QueryError:
        """Return what a frame asks, or the error that refuses it.

        Raises:
            BoundaryViolation: no guest of ours sends such a frame.
            DeadlineExceeded: with this one, reading took longer than it may.
        """
        began_ns = self.clock()
        request: Request | QueryError
        try:
            request = decode_request(frame, self.boundary)
        except QueryError as refusal:
            request = refusal
        self._read_ns += self.clock() - began_ns
        most = self.read_ms_max
        if self._read_ns > most * _NS_PER_MS:
            raise DeadlineExceeded(
                f"the host took more than {most} ms to read the cell's requests", limit=most
            )
        return request

"""The state that all sessions of a run are forked from, as far as the engine needs to know it."""

from __future__ import annotations

from typing import Protocol

from rlm_wasm.host.held_inputs import HeldInputs
from rlm_wasm.protocol.session_snapshot import SessionSnapshot


class StartingState(Protocol):
    """A snapshot that a user holds: one tenant's, with a digest for the log."""

    def state_for(self, tenant: str) -> SessionSnapshot:
        """Return what a worker starts a tenant's session from.

        Raises:
            UsageError: it is another tenant's.
        """
        ...

    @property
    def inputs(self) -> HeldInputs:
        """What of its inputs lies with the host."""
        ...

    def digest(self) -> str:
        """Return a SHA-256 of the state. Raises ArtifactError if the worker that made it made none."""
        ...

"""What became of each layer of the lock-down: applied, or missing and why."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from rlm_wasm.errors import LockdownError
from rlm_wasm.lockdown import LAYERS, WORKER_LAYERS, ZYGOTE_LAYERS

__all__ = [
    "LAYERS",
    "WORKER_LAYERS",
    "ZYGOTE_LAYERS",
    "Finding",
    "LockdownReport",
    "attempt",
    "missing_layer",
]


@dataclass(frozen=True, slots=True)
class Finding:
    """One layer. `detail` says what it covers, or why it is missing."""

    layer: str
    applied: bool
    detail: str


@dataclass(frozen=True, slots=True)
class LockdownReport:
    """Every layer of one process, in the order in which it was tried."""

    findings: tuple[Finding, ...]


def attempt(layer: str, apply: Callable[[], str], required: Iterable[str]) -> Finding:
    """Apply one layer and say what came of it.

    Raises:
        LockdownError: it is required and could not be applied.
    """
    try:
        return Finding(layer, True, apply())
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        if layer in required:
            raise missing_layer(layer, reason) from error
        return Finding(layer, False, reason)


def missing_layer(layer: str, reason: str) -> LockdownError:
    """Return the error that names the layer."""
    return LockdownError(
        f"a worker cannot be locked down here: {layer}: {reason}",
        hint="`rlm-wasm doctor` shows every layer; the policy `container` does without namespaces",
    )

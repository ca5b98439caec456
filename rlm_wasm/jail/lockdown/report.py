"""Applying a layer of the lock-down, and what became of each: applied, or missing and why."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from rlm_wasm.errors import LockdownError
from rlm_wasm.lockdown import Finding


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

"""Identifiers. Made by the host only; a guest can neither see nor choose one."""

from __future__ import annotations

from typing import NewType

RunId = NewType("RunId", str)
SessionId = NewType("SessionId", int)
RequestId = NewType("RequestId", int)


def make_run_id(entropy: bytes) -> RunId:
    """Return ``run_`` and 16 hex digits of `entropy` (at least 8 bytes, else ValueError)."""
    if len(entropy) < 8:
        raise ValueError("a run id needs 8 bytes of entropy")
    return RunId("run_" + entropy[:8].hex())

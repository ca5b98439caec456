"""The lock-down that measurements require: all that the measured machine gives, and no more."""

from __future__ import annotations

import functools

from rlm_wasm.host.machine_grade import grade_here
from rlm_wasm.lockdown import LAYERS_OF, Grade


@functools.cache
def _here() -> Grade:
    return grade_here()


def layers_required() -> tuple[str, ...]:
    """Return the layers without which no worker is measured."""
    return tuple(LAYERS_OF.get(_here(), ()))


def sandbox_keys() -> dict[str, bool | str]:
    """Return the keys of a policy's sandbox that require these layers."""
    grade = _here()
    if grade is Grade.FULL:
        return {"require_lockdown": True}
    if grade in LAYERS_OF:
        return {"require_lockdown": True, "lockdown": grade.value}
    return {"require_lockdown": False}

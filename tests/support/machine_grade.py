"""What this machine can lock down, found out once: some tests need more of it than another machine has."""

from __future__ import annotations

import functools

import pytest

from rlm_wasm.host.machine_grade import POLICY_OF, layers_here
from rlm_wasm.lockdown import LAYERS_OF, Finding, Grade, grade_of
from rlm_wasm.policy.model import Policy


@functools.cache
def _found() -> tuple[Finding, ...]:
    return layers_here()


HERE = grade_of({finding.layer for finding in _found() if finding.applied})
# The layers that tests require, and the built-in policy that they run: all there is, wherever there is all.
LAYERS_HERE = LAYERS_OF.get(HERE, ())
POLICY_HERE = POLICY_OF.get(HERE, "standard")


def strict_here() -> Policy:
    """Return strict, without the layers that this machine cannot give."""
    return Policy.builtin("strict").replace(sandbox=lockdown_here())


def lockdown_here() -> dict[str, bool | str]:
    """Return the keys of a policy's sandbox that require as much of the lock-down as this machine gives."""
    if HERE is Grade.FULL:
        return {"require_lockdown": True}
    return {"require_lockdown": HERE in LAYERS_OF} | ({"lockdown": HERE.value} if HERE in LAYERS_OF else {})


def needs(grade: Grade) -> pytest.MarkDecorator:
    """Return a mark for a test that needs every layer of a grade: skipped, with the layer that is missing."""
    missing = [f for f in _found() if not f.applied and f.layer in LAYERS_OF[grade]]
    first = f"{missing[0].layer}: {missing[0].detail}" if missing else ""
    more = f", and {len(missing) - 1} more" if len(missing) > 1 else ""
    return pytest.mark.skipif(bool(missing), reason=f"needs a {grade.value} lock-down ({first}{more})")

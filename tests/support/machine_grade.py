"""What this machine can lock down, found out once: some tests need more of it than another machine has."""

from __future__ import annotations

import functools

import pytest

from rlm_wasm.core.lockdown import LAYERS_OF, Grade, grade_of
from rlm_wasm.worker.lockdown.report import Finding
from rlm_wasm.worker.machine import POLICY_OF, layers_here


@functools.cache
def _found() -> tuple[Finding, ...]:
    return layers_here()


HERE = grade_of({finding.layer for finding in _found() if finding.applied})
# The layers that tests require, and the built-in policy that they run: all there is, wherever there is all.
LAYERS_HERE = LAYERS_OF.get(HERE, ())
POLICY_HERE = POLICY_OF.get(HERE, "standard")


def _missing(grade: Grade) -> str:
    layers = LAYERS_OF[grade]
    return ", ".join(f"{f.layer}: {f.detail}" for f in _found() if not f.applied and f.layer in layers)


def needs(grade: Grade) -> pytest.MarkDecorator:
    """Return a mark for a test that needs every layer of a grade: skipped with the layer that is missing."""
    missing = _missing(grade)
    return pytest.mark.skipif(bool(missing), reason=f"needs a lock-down that is {grade.value} ({missing})")

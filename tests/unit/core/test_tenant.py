"""A tenant's name fits labels, events and files, or is refused."""

from __future__ import annotations

import pytest

from rlm_wasm.core.tenant import TENANT_CHARS_MAX, checked_tenant
from rlm_wasm.errors import UsageError


@pytest.mark.parametrize("tenant", ["", "a", "漢🙂", "x" * TENANT_CHARS_MAX])
def test_a_name_is_itself(tenant: str) -> None:
    assert checked_tenant(tenant) == tenant


@pytest.mark.parametrize(
    ("tenant", "says"), [("x" * (TENANT_CHARS_MAX + 1), "at most 256"), ("a\udfff", "half a character")]
)
def test_what_no_label_can_hold_is_refused(tenant: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        checked_tenant(tenant)

"""A tenant's name fits labels, events and files, or is refused."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import pytest

from rlm_wasm.errors import UsageError
from rlm_wasm.tenant import TENANT_CHARS_MAX, checked_tenant


@pytest.mark.parametrize("tenant", ["", "a", "漢🙂", "x" * TENANT_CHARS_MAX])
def test_a_name_is_itself(tenant: str) -> None:
    assert checked_tenant(tenant) == tenant


@pytest.mark.parametrize(
    ("tenant", "says"), [("x" * (TENANT_CHARS_MAX + 1), "at most 256"), ("a\udfff", "half a character")]
)
def test_what_no_label_can_hold_is_refused(tenant: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        checked_tenant(tenant)


@pytest.mark.parametrize(
    "tenant", [None, 5, b"a", ["a"], object()], ids=["None", "int", "bytes", "list", "object"]
)
def test_what_is_no_text_is_refused(tenant: Any) -> None:
    with pytest.raises(UsageError, match="is text"):
        checked_tenant(tenant)


def test_a_name_of_another_class_is_the_text_it_holds() -> None:
    class Team(StrEnum):
        RED = "red"

    class Liar(str):
        __hash__ = str.__hash__

        def __len__(self) -> int:
            return 1

        def __eq__(self, other: object) -> bool:
            return True

    assert checked_tenant(Team.RED) == "red"
    assert type(checked_tenant(Team.RED)) is str
    assert checked_tenant(Liar("victim")) != "other"
    with pytest.raises(UsageError, match="at most 256"):
        checked_tenant(Liar("x" * (TENANT_CHARS_MAX + 1)))

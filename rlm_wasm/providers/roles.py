"""The messages of a query in the roles that an endpoint's chat template takes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from rlm_wasm.scheduler.messages import Message


def messages_in(
    roles: Literal["alternating", "no_system", "as_given"], messages: Iterable[Message]
) -> list[dict[str, str]]:
    """Return the messages as JSON has them. What is joined has an empty line between.

    Many templates refuse two messages of one role in turn, and a model that reads either reads both.
    """
    joined: list[dict[str, str]] = []
    for role, content in messages:
        if roles == "no_system" and role == "system":
            role = "user"
        if joined and roles != "as_given" and joined[-1]["role"] == role:
            joined[-1]["content"] += f"\n\n{content}"
        else:
            joined.append({"role": role, "content": content})
    return joined

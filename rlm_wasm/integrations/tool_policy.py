"""`with_tools`: a policy under which guests may call certain tools."""

from __future__ import annotations

from collections.abc import Iterable

from rlm_wasm.host.machine_grade import POLICY_OF, grade_here
from rlm_wasm.integrations.host_functions import TIMEOUT_MS
from rlm_wasm.policy.model import Policy


def with_tools(base: Policy | None, names: Iterable[str]) -> Policy:
    """Return `base`, or the strictest built-in policy that this machine gives, with these tools allowed.

    Raises:
        LockdownError, HostExhausted: no `base`, and no process can be locked down here.
    """
    if base is None:
        base = Policy.builtin(POLICY_OF.get(grade_here(), "strict"))
    return base.replace(tools={"allow": list(names), "timeout_ms_max": TIMEOUT_MS})


def with_tool(base: Policy | None, name: str) -> Policy:
    """Return what `with_tools` does, for one tool."""
    return with_tools(base, [name])

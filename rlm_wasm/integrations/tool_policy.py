"""`with_tool`: a policy under which guests may call one tool."""

from __future__ import annotations

from rlm_wasm.host.machine_grade import POLICY_OF, grade_here
from rlm_wasm.integrations.host_functions import TIMEOUT_MS
from rlm_wasm.policy.model import Policy


def with_tool(base: Policy | None, name: str) -> Policy:
    """Return `base`, or the strictest built-in policy that this machine gives, with one tool allowed.

    Raises:
        LockdownError, HostExhausted: no `base`, and no process can be locked down here.
    """
    if base is None:
        base = Policy.builtin(POLICY_OF.get(grade_here(), "strict"))
    return base.replace(tools={"allow": [name], "timeout_ms_max": TIMEOUT_MS})

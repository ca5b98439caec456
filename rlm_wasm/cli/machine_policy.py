"""The strictest built-in policy that runs on this machine, and why it is that one."""

from __future__ import annotations

from typing import Final

from rlm_wasm.errors import LockdownError
from rlm_wasm.lockdown import LAYERS_OF, Grade, grade_of
from rlm_wasm.policy.model import Policy

INLINE_WORDS: Final = "policy standard, which runs guests in the host's own process, for code you trust"
GRADE_WORDS: Final = {
    Grade.FULL: "full, every layer",
    Grade.NAMESPACED: "namespaced, every layer but a namespace of users",
    Grade.FILTERED: "filtered, every layer that needs no namespace",
    Grade.PARTIAL: "partial, a layer that needs no namespace is missing",
}


def machine_policy() -> tuple[str, str]:
    """Return the name of the strictest built-in policy that runs here, and one line that says why.

    Raises what `layers_here` raises but LockdownError: a machine that is busy or out of something has not
    said what it gives, and nothing weaker is taken for that.
    """
    from rlm_wasm.host.machine_grade import INLINE_POLICY, POLICY_OF, layers_here

    try:
        layers = layers_here()
    except LockdownError as error:
        return INLINE_POLICY, f"{error.message}: {INLINE_WORDS}"
    grade = grade_of({f.layer for f in layers if f.applied})
    if grade not in POLICY_OF:
        lacks = next(f for f in layers if not f.applied and f.layer in LAYERS_OF[Grade.FILTERED])
        return INLINE_POLICY, f"lock-down here: partial ({lacks.layer}: {lacks.detail}): {INLINE_WORDS}"
    lacks_one = next((f" ({f.layer}: {f.detail})" for f in layers if not f.applied), "")
    return POLICY_OF[grade], f"lock-down here: {GRADE_WORDS[grade]}{lacks_one}: policy {POLICY_OF[grade]}"


def policy_for(*, inline: bool) -> tuple[Policy, str]:
    """Return the policy for who named none, and a few words on it. Inline only where that is asked for.

    Raises LockdownError where no process can be locked down and inline was not asked for.
    """
    from rlm_wasm.host.machine_grade import INLINE_POLICY

    if inline:
        # Its limits are those of the strict one: only the second wall is missing.
        policy = Policy.builtin("strict")
        return (
            policy.replace(sandbox={"isolation": "inline", "require_lockdown": False}),
            "policy strict, but inline: the guest runs in this process, behind the wasm wall only",
        )
    name, why = machine_policy()
    if name == INLINE_POLICY:
        raise LockdownError(
            f"this machine cannot lock a worker process down ({why.partition(': policy')[0]})",
            hint="--inline runs the guest in this process, behind the wasm wall only, for code you trust",
        )
    return Policy.builtin(name), f"policy {name}"

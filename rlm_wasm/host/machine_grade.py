"""The layers of a lock-down that this machine gives, found by locking a process down without a guest."""

from __future__ import annotations

import json
import socket
from typing import Final

from rlm_wasm.errors import HostExhausted, LockdownError
from rlm_wasm.host.interpreter import execute
from rlm_wasm.host.short_answer import read_answer
from rlm_wasm.lockdown import Finding, Grade, grade_of
from rlm_wasm.protocol.zygote_reports import layers_of, one_line
from rlm_wasm.system.os_errors import wrap_os_error

# For a machine that is very busy: one that cannot do it says so at once.
_SECONDS_MAX: Final = 120.0
# The policy that is made for a machine of each grade; under any other there is no process to trust in.
POLICY_OF: Final = {Grade.FULL: "strict", Grade.NAMESPACED: "container", Grade.FILTERED: "container"}
INLINE_POLICY: Final = "standard"


def layers_here() -> tuple[Finding, ...]:
    """Lock a process down and return what became of each layer. Takes a few tenths of a second.

    Raises:
        HostExhausted: the kernel refuses this process what another one takes, or the machine is too busy.
        LockdownError: no process can be locked down here at all.
    """
    try:
        return _layers_here()
    except TimeoutError as error:
        raise HostExhausted(
            f"what this machine gives a worker was not known after {_SECONDS_MAX:.0f} s: it is too busy",
            hint="try again when it has less to do",
        ) from error
    except OSError as error:
        failure = wrap_os_error(error, "no process can be made to look at", ours=True)
        raise failure from failure.__cause__


def _layers_here() -> tuple[Finding, ...]:
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            process = execute(theirs, "rlm_wasm.jail.lockdown.look")
        try:
            answer = read_answer(ours, _SECONDS_MAX)
        finally:
            process.kill()
            process.wait()
    return _told(answer)


def _told(answer: bytes) -> tuple[Finding, ...]:
    """Return the layers that an answer names. Raises LockdownError: it names none, and maybe why."""
    try:
        document = json.loads(answer)
        if not isinstance(document, dict):
            raise ValueError("no document")
        if "failed" not in document:
            return layers_of(document)
        why = one_line(document["failed"])
    except (ValueError, RecursionError):
        why = "it ended without a word"
    raise LockdownError(f"a worker cannot be locked down here: {why}")


def grade_here() -> Grade:
    """Return what would stand around a worker here. Raises what `layers_here` raises."""
    return grade_of({finding.layer for finding in layers_here() if finding.applied})

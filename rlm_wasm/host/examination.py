"""An examination of locked-down workers on this machine: every layer, and attempts to get out."""

from __future__ import annotations

import os
import socket
import time
from dataclasses import dataclass

from rlm_wasm.errors import HostExhausted
from rlm_wasm.host.short_answer import read_answer
from rlm_wasm.host.zygote import Zygote
from rlm_wasm.lockdown import LAYERS_OF, Finding, Grade, grade_of
from rlm_wasm.protocol.attempts import ATTEMPT_LIMITS, ATTEMPT_SECONDS_MAX, ATTEMPTS, Attempt
from rlm_wasm.protocol.zygote_reports import Exited, Gone, Spawned, Unheld, ZygoteGone, one_line
from rlm_wasm.system.os_errors import wrap_os_error
from rlm_wasm.system.signal_names import signal_name

_ENTRY = "rlm_wasm.jail.lockdown.probe"


@dataclass(frozen=True, slots=True)
class Examination:
    """The layers of a worker that was made for it, and its attempts."""

    layers: tuple[Finding, ...]
    attempts: tuple[Attempt, ...]

    @property
    def grade(self) -> Grade:
        """What stands around such a worker."""
        return grade_of({finding.layer for finding in self.layers if finding.applied})

    @property
    def locked(self) -> bool:
        """Whether it is of a grade that a policy can ask for, and no attempt got anywhere."""
        return self.grade in LAYERS_OF and all(a.refused for a in self.attempts)


def examine() -> Examination:
    """Start a zygote, fork one worker for each attempt, and look. Takes about a second.

    Raises:
        ArtifactError: no guest is built.
        HostExhausted: the kernel refuses this process what a worker takes.
        InternalError: the system refuses it something else.
        LockdownError: this machine is none that workers can be locked down on.
        ZygoteGone: it did not start, or ended.
    """
    try:
        return _examine()
    except OSError as error:
        failure = wrap_os_error(error, "no worker process can be made", ours=True)
        raise failure from failure.__cause__


def _examine() -> Examination:
    zygote = Zygote.start(_ENTRY, ATTEMPT_LIMITS, required=())
    try:
        told, _ = _ask(zygote, "layers")
        # A line that says anything else is of no layer, which is missing then.
        rows = [row for line in told.splitlines() if len(row := line.split("\t")) == 3]
        layers = tuple(
            Finding(one_line(layer), applied == "1", one_line(why)) for layer, applied, why in rows
        )
        attempts = tuple(Attempt(name, _outcome(*_ask(zygote, name))) for name in ATTEMPTS)
        return Examination(layers, attempts)
    finally:
        zygote.close()


def _ask(zygote: Zygote, what: str) -> tuple[str, Exited]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(ATTEMPT_SECONDS_MAX)
        number = zygote.spawn(theirs)
        theirs.close()
        try:
            ours.sendall(what.encode(), socket.MSG_NOSIGNAL)
            answer = read_answer(ours, ATTEMPT_SECONDS_MAX)
        except OSError:
            answer = b""  # it ended before it read or said anything: its exit tells
    return answer.decode("utf-8", "replace"), _exit(zygote, number)


def _exit(zygote: Zygote, number: int) -> Exited:
    end = time.monotonic() + ATTEMPT_SECONDS_MAX
    while (left := end - time.monotonic()) > 0:
        for report in zygote.wait(left):
            match report:
                case Spawned(pidfd=pidfd):
                    os.close(pidfd)
                case Exited() if report.number == number:
                    return report
                case Unheld() if report.number == number:
                    raise HostExhausted("no descriptor is left to hold a worker by")
                case Gone(reason=reason):
                    raise ZygoteGone(reason)
    raise ZygoteGone("a worker did not end")


def _outcome(answer: str, ended: Exited) -> str:
    if answer:
        return one_line(answer)
    if ended.reason:
        return ended.reason
    if ended.killed_by:
        return signal_name(ended.killed_by)
    # A program that ran in its place, and said nothing.
    return "worked"

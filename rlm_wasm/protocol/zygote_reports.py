"""The reports of a zygote to its host, checked like the words of a stranger."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rlm_wasm.errors import HostExhausted, InternalError, LockdownError, RlmWasmError
from rlm_wasm.lockdown import Finding
from rlm_wasm.protocol.zygote_messages import Packet
from rlm_wasm.system.os_errors import is_shortage

_LINE_CHARS_MAX: Final = 1_000
# No host asks for so many workers, and the kernel's wait status has two bytes.
_NUMBER_MAX: Final = (1 << 31) - 1


@dataclass(frozen=True, slots=True)
class Spawned:
    """A worker has been forked; it locks itself down next. The caller closes `pidfd`."""

    number: int
    pidfd: int
    pid: int


@dataclass(frozen=True, slots=True)
class Exited:
    """A worker is gone and reaped. `reason` is set where it could not be locked down, or not be forked:
    then no Spawned came before.
    """

    number: int
    status: int
    reason: str = ""

    @property
    def killed_by(self) -> int:
        """The signal that ended it, 0 if none did. SIGSYS: it made a system call it may not."""
        return os.WTERMSIG(self.status) if os.WIFSIGNALED(self.status) else 0

    @property
    def exit_code(self) -> int:
        """Its exit code, or -1."""
        return os.WEXITSTATUS(self.status) if os.WIFEXITED(self.status) else -1


@dataclass(frozen=True, slots=True)
class Gone:
    """The zygote itself is gone, and every worker of it. Always the last report."""

    reason: str


@dataclass(frozen=True, slots=True)
class Unheld:
    """A worker has been forked, and this process had no descriptor left to hold it by.

    It ends once its socket is closed, and Exited tells when.
    """

    number: int


Report = Spawned | Exited | Unheld | Gone


class ZygoteGone(InternalError):
    """The zygote ended or does not answer; another one has to be started."""


def report_of(packet: Packet) -> Report:
    """Return the report in a packet; the descriptor that came with it belongs to the report.

    Raises:
        ValueError, KeyError or OSError: it is none; the descriptors are closed.
    """
    try:
        report = _checked(packet)
    except BaseException:
        packet.close()
        raise
    if isinstance(report, Unheld):
        packet.close()
    return report


def failure_of(document: dict[str, Any]) -> RlmWasmError:
    """Return why a zygote says that it did not start. It may name no reason, or make one up."""
    reason, hint = one_line(document.get("reason", "it does not say why")), document.get("hint")
    if document.get("lockdown"):
        return LockdownError(reason, hint=None if hint is None else one_line(hint))
    if document.get("exhausted"):
        return HostExhausted(f"no worker process can be made: {reason}")
    return ZygoteGone(f"the zygote did not start: {reason}")


def layers_of(document: dict[str, Any]) -> tuple[Finding, ...]:
    """Return the layers that a zygote says it stands on. Raises ValueError if it names none."""
    layers = document.get("layers")
    if not isinstance(layers, list):
        raise ValueError("it names no layers")
    found = []
    for each in layers:
        match each:
            case [str(layer), bool(applied), str(detail)]:
                found.append(Finding(one_line(layer), applied, one_line(detail)))
            case _:
                raise ValueError("it names what is no layer")
    return tuple(found)


def _checked(packet: Packet) -> Report:
    document, fds = packet.document, packet.fds
    if len(fds) + packet.fds_lost != (1 if document["type"] == "spawned" else 0):
        raise ValueError("an unexpected number of descriptors")
    number = _integer(document, "number")
    match document["type"]:
        case "spawned":
            try:
                return Unheld(number) if packet.fds_lost else Spawned(number, fds[0], _pid_of(fds[0]))
            except OSError as error:
                if not is_shortage(error):
                    raise
                return Unheld(number)
        case "exited":
            return Exited(number, _integer(document, "status"), one_line(document["reason"]))
    raise ValueError("an unexpected message")


def one_line(word: object) -> str:
    """Return what any terminal can show as one line."""
    return "".join(c if c.isprintable() else "\ufffd" for c in str(word)[:_LINE_CHARS_MAX])


def _integer(document: dict[str, Any], key: str) -> int:
    value = document[key]
    if type(value) is not int or not 0 <= value <= _NUMBER_MAX:
        raise ValueError(f"{key} is not a number of ours")
    return value


def _pid_of(pidfd: int) -> int:
    """Return the pid, as this process numbers it, of the process behind a pidfd; -1 if it is gone."""
    for line in Path(f"/proc/self/fdinfo/{pidfd}").read_text().splitlines():
        if line.startswith("Pid:"):
            return int(line.split()[1])
    raise ValueError("not a pidfd")

"""The host's side of a zygote: a warm process that turns into locked-down workers by forking.

    zygote = Zygote.start("rlm_wasm.worker.serving", limits, required=LAYERS)
    ours, theirs = socket.socketpair()
    number = zygote.spawn(theirs)           # returns at once; `theirs` may be closed
    for report in zygote.reports():         # never blocks; readable when `fileno()` is
        ...                                 # Spawned(number, pid, pidfd), then Exited(number, ...)
    zygote.close()                          # kills every worker of it

The entry is a module with two functions, named when the zygote starts and never later:
`warm()` runs in the zygote and uses everything that `serve` will, since a locked worker can import
nothing; `serve(connection, report)` runs in each worker after lock-down, on its only thread, and the
process ends when it returns. `start` blocks for some hundred milliseconds: call it off the event loop.

`Spawned.pidfd` belongs to the caller: it is how to kill a worker for sure, and readable when it has
ended. Everything that holds the zygote's lifetime is in here: when the host ends, however it ends,
the socket closes, the zygote ends, and the kernel ends its workers with it.
"""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import functools
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rlm_wasm.errors import InternalError, LockdownError
from rlm_wasm.image.artifact import Guest, find_guest
from rlm_wasm.image.compiled import native_file
from rlm_wasm.image.memfd import MemoryFile, sealed_memfd
from rlm_wasm.worker import zygote_messages as messages
from rlm_wasm.worker.child import cpu_ms_of
from rlm_wasm.worker.lockdown.report import LAYERS, Finding
from rlm_wasm.worker.lockdown.rlimits import ProcessLimits

START_SECONDS_MAX: Final = 30.0
SEND_SECONDS_MAX: Final = 5.0
# It only has to notice that its socket is closed; one that is stopped never does.
CLOSE_SECONDS_MAX: Final = 1.0
_REPORTS_A_CALL_MAX: Final = 4096
# Isolated, without site: no variable, no .pth file and no user folder decides what is loaded.
_BOOT: Final = (
    "import json, sys; sys.path += [p for p in json.loads(sys.argv[1]) if p not in sys.path]; "
    "from rlm_wasm.worker.zygote_process import main; main(int(sys.argv[2]))"
)


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


Report = Spawned | Exited | Gone


class ZygoteGone(InternalError):
    """The zygote ended or does not answer; another one has to be started."""


@dataclass(frozen=True, slots=True)
class GuestFiles:
    """The authenticated guest as sealed memory files, shared by every zygote of this process."""

    guest: Guest
    code: MemoryFile
    image: MemoryFile


_reading: Final = threading.Lock()


def guest_files() -> GuestFiles:
    """Return the guest that every zygote of this process is given, read and authenticated once."""
    with _reading:  # two threads would else read everything twice
        return _read_guest_files()


@functools.cache
def _read_guest_files() -> GuestFiles:
    from rlm_wasm.sandbox.engine import CONFIGURATION, engine

    guest = find_guest()
    code = native_file(engine, guest.read_code(), CONFIGURATION)
    return GuestFiles(guest, MemoryFile(code), MemoryFile(sealed_memfd("rlm-image", guest.read_image())))


# A process that has been started and not yet been told what it is for.
_launched: Final[list[tuple[subprocess.Popen[bytes], socket.socket]]] = []
_launching: Final = threading.Lock()


def prelaunch() -> None:
    """Start the next zygote's process now, and read what it will be given, before its limits are known.

    For a command that will want one zygote: the interpreter starts while the command is still imported.
    Should nobody want it, it ends with this process.

    Raises:
        ArtifactError: no guest is built, or its files are not what was built.
        ZygoteGone: the process could not be started.
    """
    with _launching:
        if not _launched:
            _launched.append(_launch())
            atexit.register(_discard_launched)
    guest_files()


def _discard_launched() -> None:
    """End a process that nobody came to want."""
    while _launched:
        process, channel = _launched.pop()
        channel.close()
        process.kill()
        process.wait()


def _launch() -> tuple[subprocess.Popen[bytes], socket.socket]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        return _execute(theirs), ours
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()


class Zygote:
    """One zygote process and the numbers of its workers. One thread at a time may use it."""

    def __init__(self, process: subprocess.Popen[bytes], channel: socket.socket) -> None:
        self._process = process
        self._channel = channel
        self._next_number = 0
        self._gone: Gone | None = None
        self._told_gone = False
        self.layers: tuple[Finding, ...] = ()

    @classmethod
    def start(cls, entry: str, limits: ProcessLimits, *, required: Iterable[str]) -> Zygote:
        """Start a zygote and wait until it is ready.

        Raises:
            LockdownError: a required layer is missing here.
            ArtifactError: no guest is built, or its files are not what was built.
            ZygoteGone: it did not start.
        """
        required = frozenset(required)
        if unknown := required - set(LAYERS):
            raise InternalError(f"no layers of a lock-down: {', '.join(sorted(unknown))}")
        with _launching:
            launched = _launched.pop() if _launched else _launch()
        zygote = cls(*launched)
        try:
            zygote._begin(entry, limits, required, guest_files())
        except BaseException:
            zygote.close()
            raise
        return zygote

    @property
    def pid(self) -> int:
        """The process that was started; the zygote proper is its child, in a namespace of its own."""
        return self._process.pid

    def fileno(self) -> int:
        """A descriptor that is readable when `reports` has something to tell; -1 once closed."""
        return self._channel.fileno()

    def spawn(self, connection: socket.socket) -> int:
        """Ask for a worker that serves this end of a socket pair; return its number, without waiting.

        Raises:
            ZygoteGone: nobody will do it.
        """
        if self._gone is not None:
            raise ZygoteGone(self._gone.reason)
        self._next_number += 1
        try:
            self._channel.settimeout(SEND_SECONDS_MAX)
            messages.send(
                self._channel, {"type": "spawn", "number": self._next_number}, [connection.fileno()]
            )
        except OSError as error:
            self._lose(f"it takes no message: {error}")
            raise ZygoteGone(f"the zygote takes no message: {error}") from error
        return self._next_number

    def reports(self) -> list[Report]:
        """Return what has come since the last call, in order; never waits."""
        found: list[Report] = []
        while self._gone is None and len(found) < _REPORTS_A_CALL_MAX:
            try:
                self._channel.setblocking(False)
                received = messages.receive(self._channel)
                if received is None:
                    self._lose("it ended")
                else:
                    found.append(self._report(*received))
            except BlockingIOError:
                return found
            except (OSError, ValueError, KeyError, TypeError) as error:
                self._lose(f"it cannot be understood: {error}")
        if self._gone is not None and not self._told_gone:
            self._told_gone = True
            found.append(self._gone)
        return found

    def wait(self, seconds: float) -> list[Report]:
        """Return reports, waiting up to `seconds` for the first; for callers without an event loop."""
        if self._gone is None:
            select.select([self._channel], [], [], seconds)
        return self.reports()

    def cpu_ms(self) -> int | None:
        """Return the CPU time that the zygote proper has used; None if the kernel does not say."""
        try:
            children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        except OSError:
            return None
        return cpu_ms_of(int(children[0])) if children else None

    def kill(self) -> None:
        """End it now, and every worker of it, whatever it does. `close` is still to be called."""
        self._process.kill()

    def close(self) -> None:
        """End the zygote and every worker of it, and reap it. Safe to call again."""
        self._gone = self._gone or Gone("closed")
        self._told_gone = True
        self._channel.close()
        try:
            self._process.wait(CLOSE_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _begin(
        self, entry: str, limits: ProcessLimits, required: Iterable[str], artifacts: GuestFiles
    ) -> None:
        facts = dataclasses.asdict(artifacts.guest.facts)
        start: dict[str, Any] = {
            "type": "start",
            "entry": entry,
            "folder": str(artifacts.guest.folder),
            "facts": facts,
            "limits": dataclasses.asdict(limits),
            "required": sorted(required),
        }
        self._channel.settimeout(START_SECONDS_MAX)
        try:
            messages.send(self._channel, start, [artifacts.code.fd, artifacts.image.fd])
            received = messages.receive(self._channel)
        except (OSError, ValueError) as error:
            raise ZygoteGone(f"the zygote did not start: {error}") from error
        if received is None:
            raise ZygoteGone("the zygote ended while it started")
        document, fds = received
        for fd in fds:
            os.close(fd)
        if document["type"] == "failed":
            if document.get("lockdown"):
                raise LockdownError(str(document["reason"]), hint=document.get("hint"))
            raise ZygoteGone(f"the zygote did not start: {document.get('reason')}")
        if document["type"] != "ready":
            raise ZygoteGone("the zygote did not start: it said something else")
        self.layers = tuple(Finding(str(a), bool(b), str(c)) for a, b, c in document["layers"])

    def _report(self, document: dict[str, Any], fds: list[int]) -> Report:
        wanted = 1 if document["type"] == "spawned" else 0
        if len(fds) != wanted:
            for fd in fds:
                os.close(fd)
            raise ValueError("an unexpected number of descriptors")
        number = _integer(document, "number")
        match document["type"]:
            case "spawned":
                return Spawned(number, fds[0], _pid_of(fds[0]))
            case "exited":
                return Exited(number, _integer(document, "status"), str(document["reason"])[:1000])
        raise ValueError("an unexpected message")

    def _lose(self, reason: str) -> None:
        self._gone = self._gone or Gone(reason)
        with contextlib.suppress(OSError):
            self._process.send_signal(signal.SIGKILL)


def _execute(channel: socket.socket) -> subprocess.Popen[bytes]:
    if not sys.executable:
        raise ZygoteGone("this Python does not know its own executable")
    package = str(Path(__file__).resolve().parents[2])
    paths = [package, *(os.path.abspath(path) for path in sys.path if path and os.path.isdir(path))]
    return subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _BOOT, json.dumps(paths), str(channel.fileno())],
        env={},
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        close_fds=True,
        pass_fds=(channel.fileno(),),
        # Ctrl-C in a terminal goes to the host, which decides.
        start_new_session=True,
    )


def _integer(document: dict[str, Any], key: str) -> int:
    value = document[key]
    if type(value) is not int:
        raise ValueError(f"{key} is not an integer")
    return value


def _pid_of(pidfd: int) -> int:
    """Return the pid, as this process numbers it, of the process behind a pidfd; -1 if it is gone."""
    for line in Path(f"/proc/self/fdinfo/{pidfd}").read_text().splitlines():
        if line.startswith("Pid:"):
            return int(line.split()[1])
    raise ValueError("not a pidfd")

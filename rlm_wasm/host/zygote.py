"""The host's side of a zygote: a warm process that turns into locked-down workers by forking.

    zygote = Zygote.start("rlm_wasm.jail.worker_entry", limits, required=LAYERS)
    ours, theirs = socket.socketpair()
    number = zygote.spawn(theirs)           # returns at once; `theirs` may be closed
    for report in zygote.reports():         # never blocks; readable when `fileno()` is
        ...                                 # Spawned(number, pidfd, pid), then Exited(number, ...)
    zygote.close()                          # kills every worker of it

The entry is a module with two functions, named when the zygote starts and never later:
`warm()` runs in the zygote and uses everything that `serve` will, since a locked worker can import
nothing; `serve(connection, report)` runs in each worker after lock-down, on its only thread, and the
process ends when it returns. `start` blocks for some hundred milliseconds, `launch` for some tens: call
them off the event loop.

`Spawned.pidfd` belongs to the caller: it is how to kill a worker for sure, and readable when it has
ended. Everything that holds the zygote's lifetime is in here: when the host ends, however it ends,
the zygote sees its socket or its process end, and ends, and the kernel ends its workers with it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import select
import signal
import socket
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from rlm_wasm.errors import InternalError
from rlm_wasm.host.guest_files import GuestFiles, guest_files
from rlm_wasm.host.process_handle import cpu_ms_of
from rlm_wasm.host.zygote_launch import disown, launch
from rlm_wasm.limits import BASE_IMAGE
from rlm_wasm.lockdown import LAYERS, Finding, Grade, grade_of
from rlm_wasm.protocol import zygote_messages as messages
from rlm_wasm.protocol.process_limits import ProcessLimits
from rlm_wasm.protocol.zygote_reports import Gone, Report, ZygoteGone, failure_of, layers_of, report_of
from rlm_wasm.system import forks
from rlm_wasm.system.host_limits import check_host_limits

START_SECONDS_MAX: Final = 30.0
SEND_SECONDS_MAX: Final = 5.0
# It only has to notice that its socket is closed; one that is stopped never does.
CLOSE_SECONDS_MAX: Final = 1.0
_REPORTS_A_CALL_MAX: Final = 4096


class Zygote:
    """One zygote process and the numbers of its workers. One thread at a time may use it."""

    def __init__(self, process: subprocess.Popen[bytes], channel: socket.socket) -> None:
        self._process = process
        self._channel = channel
        self._next_number = 0
        self._gone: Gone | None = None
        self._told_gone = False
        # Whether it has said that it is ready.
        self.serves = False
        # Those that each worker of it has, or that are missing; known once it has started.
        self.layers: tuple[Finding, ...] = ()
        forks.disown_in_child(self)

    def disown(self) -> None:
        """Let go of it without ending it: it is the parent's of this process."""
        self._gone, self._told_gone = Gone("it is another process's"), True
        disown(self._process, self._channel)

    @classmethod
    def start(cls, entry: str, limits: ProcessLimits, *, required: Iterable[str]) -> Zygote:
        """Start a zygote and wait until it is ready.

        Raises:
            LockdownError: a required layer is missing here.
            ArtifactError: no guest is built, or its files are not what was built.
            ZygoteGone: it did not start.
        """
        zygote = cls.launch(entry, limits, required=required)
        try:
            zygote.ready(START_SECONDS_MAX)
        except BaseException:
            zygote.kill()  # it notices no closed socket while it starts
            zygote.close()
            raise
        return zygote

    @classmethod
    def launch(
        cls, entry: str, limits: ProcessLimits, *, required: Iterable[str], image: str = BASE_IMAGE
    ) -> Zygote:
        """Start a zygote's process and tell it what it is for; `ready` says when it has come so far.

        `image` names the packages that its workers' sessions have.

        Raises:
            ArtifactError: no guest is built, or its files are not what was built.
            HostExhausted: a limit of this process leaves no room for a worker.
            OSError or ZygoteGone: it could not be started.
        """
        check_host_limits(processes=True)
        required = frozenset(required)
        if unknown := required - set(LAYERS):
            raise InternalError(f"no layers of a lock-down: {', '.join(sorted(unknown))}")
        artifacts = guest_files(image)
        zygote = cls(*launch())
        try:
            zygote._begin(entry, limits, required, artifacts)
        except BaseException:
            zygote.kill()
            zygote.close()
            raise
        return zygote

    @property
    def grade(self) -> Grade:
        """What stands around each worker of it."""
        return grade_of({finding.layer for finding in self.layers if finding.applied})

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
                packet = messages.receive(self._channel)
                if packet is None:
                    self._lose("it ended")
                else:
                    found.append(report_of(packet))
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
            poll = select.poll()  # of any descriptor, where `select` takes the first thousand
            poll.register(self._channel, select.POLLIN)
            poll.poll(seconds * 1000)
        return self.reports()

    def cpu_ms(self) -> int | None:
        """Return the CPU time that the zygote proper has used; None if the kernel does not say."""
        try:
            children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        except OSError:
            return None
        return cpu_ms_of(int(children[0])) if children else None

    def start_cpu_ms(self) -> int | None:
        """Return the CPU time of both its processes, of which the second comes while it starts."""
        outside = cpu_ms_of(self.pid)
        return None if outside is None else outside + (self.cpu_ms() or 0)

    def kill(self) -> None:
        """End it now, and every worker of it, whatever it does. `close` is still to be called."""
        self._process.kill()

    def hang_up(self) -> None:
        """Close the socket, whereupon the zygote ends, and every worker of it. `ended` says when."""
        self._gone = self._gone or Gone("closed")
        self._told_gone = True
        self._channel.close()

    def ended(self) -> bool:
        """Whether its process has ended; it is reaped then."""
        return self._process.poll() is not None

    def close(self) -> None:
        """End the zygote and every worker of it, and reap it. Safe to call again."""
        self.hang_up()
        try:
            self._process.wait(CLOSE_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def ready(self, seconds_max: float = 0) -> bool:
        """Whether it has said that it is ready; does not wait for that if not told to.

        Raises:
            LockdownError: a required layer is missing here.
            ZygoteGone: it did not start.
        """
        if self.serves:
            return True
        try:
            self._channel.settimeout(seconds_max)
            packet = messages.receive(self._channel)
        except BlockingIOError:
            return False
        except (OSError, ValueError) as error:
            raise ZygoteGone(f"the zygote did not start: {error}") from error
        if packet is None:
            raise ZygoteGone("the zygote ended while it started")
        packet.close()
        document = packet.document
        if document["type"] == "failed":
            raise failure_of(document)
        if document["type"] != "ready":
            raise ZygoteGone("the zygote did not start: it said something else")
        try:
            self.layers = layers_of(document)
        except ValueError as error:
            raise ZygoteGone(f"the zygote did not start: {error}") from error
        self.serves = True
        return True

    def _begin(
        self, entry: str, limits: ProcessLimits, required: Iterable[str], artifacts: GuestFiles
    ) -> None:
        facts = dataclasses.asdict(artifacts.guest.facts)
        start: dict[str, Any] = {
            "type": "start",
            "entry": entry,
            "facts": facts,
            "limits": dataclasses.asdict(limits),
            "required": sorted(required),
        }
        self._channel.settimeout(SEND_SECONDS_MAX)
        try:
            messages.send(self._channel, start, [artifacts.code.fd, artifacts.image.fd])
        except (OSError, ValueError) as error:
            raise ZygoteGone(f"the zygote did not start: {error}") from error

    def _lose(self, reason: str) -> None:
        self._gone = self._gone or Gone(reason)
        with contextlib.suppress(OSError):
            self._process.send_signal(signal.SIGKILL)

"""Running build commands: one process group each, its output in a log, ended whole on an interrupt."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from rlm_wasm.errors import GuestBuildError
from rlm_wasm.guestbuild.storage import DISK_FULL_HINT

TAIL_LINES: Final = 20
_LINE_BYTES_MAX: Final = 4000
_TERM_GRACE_S: Final = 2


class BuildCommands:
    """The commands of one build. They may run in several threads, and are ended from any."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[bytes]] = set()
        self._ended = False

    def run(
        self,
        argv: Sequence[str],
        *,
        what: str,
        cwd: Path,
        env: Mapping[str, str],
        log: Path,
        on_line: Callable[[bytes], None] = lambda line: None,
    ) -> None:
        """Run `argv` with exactly `env`; its output is appended to `log`, `on_line` is given each line.

        If this call is interrupted (Ctrl-C, any exception), the whole process group is ended first.

        Raises:
            GuestBuildError: it cannot be started, fails or was ended; the message has the last lines and the
                log's path.
        """
        if signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN:
            raise GuestBuildError(
                "this process ignores SIGCHLD, so nobody can know how a command ended",
                hint="set it to its default before building: `signal.signal(SIGCHLD, SIG_DFL)`",
            )
        tail: deque[str] = deque(maxlen=TAIL_LINES)
        with log.open("ab") as out:
            out.write(f"\n$ cd {cwd} && {' '.join(argv)}\n".encode())
            process = self._start(argv, what, cwd, env)
            assert process.stdout is not None
            try:
                for line in process.stdout:
                    out.write(line)
                    tail.append(line[:_LINE_BYTES_MAX].decode("utf-8", "replace").rstrip())
                    on_line(line)
                status = process.wait()
            except BaseException:
                _end_group(process)
                raise
            finally:
                process.stdout.close()
                with self._lock:
                    self._running.discard(process)
        if status != 0:
            if self._ended:
                raise _ended(what)
            _fail(what, status, tail, log)

    def end_all(self) -> None:
        """End every command that runs; none begins after that."""
        with self._lock:
            self._ended = True
            running = list(self._running)
        for process in running:
            if process.poll() is None:
                _end_group(process)

    def _start(
        self, argv: Sequence[str], what: str, cwd: Path, env: Mapping[str, str]
    ) -> subprocess.Popen[bytes]:
        with self._lock:
            if self._ended:
                raise _ended(what)
            try:
                process = subprocess.Popen(
                    list(argv),
                    cwd=cwd,
                    env=dict(env),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            except OSError as error:
                raise GuestBuildError(f"{what}: cannot run {argv[0]}: {error.strerror}") from error
            self._running.add(process)
            return process


def _ended(what: str) -> GuestBuildError:
    return GuestBuildError(f"{what} was ended, because another part of the build had failed")


def _fail(what: str, status: int, tail: deque[str], log: Path) -> None:
    if any("No space left on device" in line or "Disk quota exceeded" in line for line in tail):
        raise GuestBuildError(f"the disk is full: {what} could not write its output", hint=DISK_FULL_HINT)
    how = f"signal {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
    lines = "".join(f"\n  | {line}" for line in tail)
    raise GuestBuildError(f"{what} failed ({how}){lines}", hint=f"the whole log: {log}")


def _end_group(process: subprocess.Popen[bytes]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            break
        try:
            process.wait(_TERM_GRACE_S)
        except subprocess.TimeoutExpired:
            continue
    process.wait()

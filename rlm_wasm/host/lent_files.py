"""The memory files that a host lends to one worker: made here, counted here, and taken back.

A worker can make none itself. What a process holds in files shows nowhere else: not in what the kernel says
of it, and not in its descriptors, since one mapped page keeps a whole file. So all that it lays out itself is
part of one file, its arena, of which the host has a descriptor. What else it is given is freed when it has
served, whoever may still hold it.
"""

from __future__ import annotations

import contextlib

from rlm_wasm.errors import BoundaryViolation
from rlm_wasm.host.input_window import LentWindow
from rlm_wasm.protocol.input_reads import WINDOW_BYTES_MAX
from rlm_wasm.protocol.snapshot_runs import file_bytes_max
from rlm_wasm.system import forks
from rlm_wasm.system.memfd import ARENA_BYTES, MemoryFile
from rlm_wasm.system.os_errors import wrap_os_error


class LentFiles:
    """The files of one worker."""

    def __init__(self) -> None:
        self._arena: MemoryFile | None = None
        # For the operation that a session is busy with: an input, a window of one, or one for an image.
        self._under_way: dict[int, MemoryFile] = {}
        # Where that is the window of an input that a cell reads.
        self._windows: dict[int, LentWindow] = {}
        forks.disown_in_child(self)

    @property
    def bytes_held(self) -> int:
        """The memory that the files take."""
        held = sum(file.bytes_held for file in self._under_way.values())
        return held if self._arena is None else held + self._arena.bytes_held

    def arena(self) -> MemoryFile:
        """Return the file for all that the worker lays out. Raises HostExhausted: there is no descriptor."""
        self._arena = _blank("rlm-arena", ARENA_BYTES, may_be_sealed=False)
        return self._arena

    def input(self, session: int, file: MemoryFile) -> None:
        """Note that a session reads an input."""
        self._under_way[session] = file

    def for_image(self, session: int, memory_bytes_max: int) -> MemoryFile:
        """Return a blank file for an image that a session hands out. Raises HostExhausted as `arena` does."""
        size = file_bytes_max(memory_bytes_max)
        self._under_way[session] = file = _blank("rlm-runs", size, may_be_sealed=True)
        return file

    def window(self, session: int) -> LentWindow:
        """Return the window of a session's cell, a fresh one if it has none that can be filled.

        Raises HostExhausted: there is no descriptor.
        """
        window = self._windows.get(session)
        if window is None or window.abandoned:
            self.take_back(session)
            window = LentWindow(_blank("rlm-window", WINDOW_BYTES_MAX, may_be_sealed=False))
            self._under_way[session] = window.file
            self._windows[session] = window
        return window

    def unsent_window(self, session: int) -> MemoryFile | None:
        """Return the file of a window that the worker does not have, which it is sent now."""
        window = self._windows.get(session)
        if window is None or window.sent:
            return None
        window.sent = True
        return window.file

    def image_made(self, session: int) -> MemoryFile | None:
        """Return the file that an image was written into: no longer lent, but its maker's."""
        return self._under_way.pop(session, None)

    def take_back(self, session: int) -> None:
        """Free what was lent for an operation that is over.

        Raises:
            BoundaryViolation: the worker sealed it, and so can keep it, though it made no image.
        """
        file = self._under_way.pop(session, None)
        self._windows.pop(session, None)
        if file is None:
            return
        try:
            file.take_back()
        except PermissionError:
            raise BoundaryViolation("a file was sealed that holds no image") from None

    def close(self) -> None:
        """Hold none of them any more: the worker is killed, and its memory goes with it. Raises nothing."""
        self._arena = None
        for session in tuple(self._under_way):
            with contextlib.suppress(BoundaryViolation):  # sealed: an image whose report was not read
                self.take_back(session)

    def disown(self) -> None:
        """In the child of a fork: hold none of them, or their memory would last as long as that process."""
        self._arena = None
        self._under_way.clear()
        self._windows.clear()


def _blank(name: str, size: int, *, may_be_sealed: bool) -> MemoryFile:
    try:
        return MemoryFile.blank(name, size, may_be_sealed=may_be_sealed)
    except OSError as error:
        failure = wrap_os_error(error, "a file cannot be lent to a worker")
        raise failure from failure.__cause__

"""Frames over a socket pair: a length, then so many bytes, each with at most one file beside it.

Both ends use this. Nothing here waits: `receive` takes what has come, `send` gives what the kernel
takes and keeps the rest, up to a cap. A peer that sends what is no frame of ours is told by a
FrameError, and its bytes are not looked at again.

    4 bytes, little-endian        length of the frame; the top bit: a file comes with it
    length bytes                  the frame
"""

from __future__ import annotations

import array
import contextlib
import fcntl
import os
import socket
import struct
from collections import deque
from dataclasses import dataclass
from typing import Final

from rlm_wasm.system.os_errors import wrap_os_error

_HEADER: Final = struct.Struct("<I")
_WITH_FILE: Final = 1 << 31
_RECEIVE_BYTES: Final = 1 << 16
_RECEIVE_BYTES_MAX: Final = 1 << 20
_INT_BYTES: Final = array.array("i").itemsize
# More than one file is against the rules; the room for more lets us see and close them.
_ANCILLARY_BYTES: Final = socket.CMSG_SPACE(4 * _INT_BYTES)
_RECEIVE: Final = socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC
_SEND: Final = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL


class FrameError(Exception):
    """The peer sent what is no frame of ours."""


class PeerGone(Exception):
    """The peer closed its end, or its process is gone."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame. `file` is a descriptor that the receiver closes.

    `file_lost`: one came with it, and this process had no descriptor left for it.
    """

    payload: bytes
    file: int | None = None
    file_lost: bool = False


class Channel:
    """One end of a socket pair. Owned by one thread.

    `frame_bytes_max` bounds what is received; `unsent_bytes_max`, what waits for a peer that does not read.
    """

    def __init__(self, connection: socket.socket, *, frame_bytes_max: int, unsent_bytes_max: int) -> None:
        connection.setblocking(False)
        self._connection: Final = connection
        self._frame_bytes_max: Final = frame_bytes_max
        self._unsent_bytes_max: Final = unsent_bytes_max
        self._received = bytearray()
        # None: one that came when this process had no descriptor left.
        self._files: deque[int | None] = deque()
        self._unsent: deque[tuple[memoryview, int | None]] = deque()
        self.unsent_bytes = 0
        # Of what had to wait: all that the peer has taken since.
        self.flushed_bytes = 0
        self._closed = False

    def fileno(self) -> int:
        """Return the socket's descriptor, to wait for."""
        return self._connection.fileno()

    # -- receiving ------------------------------------------------------------------------------------

    def receive(self) -> list[Frame]:
        """Return the frames that have come, without waiting; at most one read from the kernel.

        Raises:
            PeerGone: the peer is gone and every frame it sent has been returned.
            FrameError: it sent what is no frame; the channel must be closed.
        """
        try:
            size = max(_RECEIVE_BYTES, min(self._missing(), _RECEIVE_BYTES_MAX))
            data, ancillary, flags, _ = self._connection.recvmsg(size, _ANCILLARY_BYTES, _RECEIVE)
        except (BlockingIOError, InterruptedError):
            return []
        except OSError as error:
            raise PeerGone(os.strerror(error.errno or 0)) from error
        if not (ancillary or self._received or self._files or flags & socket.MSG_CTRUNC):
            frame = self._whole(data)
            if frame is not None:
                return [frame]
        files = array.array("i")
        for level, kind, content in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                files.frombytes(content[: len(content) // _INT_BYTES * _INT_BYTES])
        self._files.extend(files)
        cut = bool(flags & socket.MSG_CTRUNC)
        if len(files) > 1 or (files and cut):
            raise FrameError("more than one file at once")
        if cut:
            # There was room for more than one, so it is not the sender's fault that none could be taken.
            self._files.append(None)
        if not data:
            raise PeerGone("the peer closed its end")
        self._received += data
        return self._frames()

    def _whole(self, data: bytes) -> Frame | None:
        """Return what has come if it is one frame and nothing else, as it is nearly always."""
        if len(data) < _HEADER.size:
            return None
        (word,) = _HEADER.unpack_from(data)
        # The bit of a file makes the word larger than any frame that has come whole.
        if word != len(data) - _HEADER.size or word > self._frame_bytes_max:
            return None
        return Frame(data[_HEADER.size :])

    def _missing(self) -> int:
        """How many bytes the frame that has begun still lacks."""
        if len(self._received) < _HEADER.size:
            return 0
        (word,) = _HEADER.unpack_from(self._received)
        length: int = word & ~_WITH_FILE
        return max(0, _HEADER.size + length - len(self._received))

    def _frames(self) -> list[Frame]:
        received = self._received
        frames: list[Frame] = []
        at = 0
        try:
            while len(received) - at >= _HEADER.size:
                (word,) = _HEADER.unpack_from(received, at)
                length = word & ~_WITH_FILE
                if length > self._frame_bytes_max:
                    raise FrameError(f"a frame of {length} bytes, {self._frame_bytes_max} allowed")
                end = at + _HEADER.size + length
                if len(received) < end:
                    break
                file, lost = None, False
                if word & _WITH_FILE:
                    if not self._files:
                        raise FrameError("a frame without the file it speaks of")
                    file = self._files.popleft()
                    lost = file is None
                frames.append(Frame(bytes(received[at + _HEADER.size : end]), file, lost))
                at = end
            # A file comes with the first byte of its frame, so one that is left belongs to what has begun.
            begun = len(received) - at
            plain = begun >= _HEADER.size and not _HEADER.unpack_from(received, at)[0] & _WITH_FILE
            if len(self._files) > 1 or (self._files and (begun == 0 or plain)):
                raise FrameError("a file without a frame")
        except FrameError:
            close_files(frames)
            raise
        if at:
            del received[:at]
        return frames

    # -- sending --------------------------------------------------------------------------------------

    def has_room(self, payload_bytes: int) -> bool:
        """Whether such a frame can wait for the peer; one that waits alone always can."""
        return not self._unsent or (
            self.unsent_bytes + _HEADER.size + payload_bytes <= self._unsent_bytes_max
        )

    def send(self, payload: bytes, file: int | None = None) -> None:
        """Give a frame to the kernel, or keep what it does not take; the caller keeps `file` open.

        The descriptor is duplicated where it has to be kept.

        Raises:
            PeerGone: the peer is gone, or has not read for longer than the cap allows.
            HostExhausted: no descriptor is left to keep the file by; nothing of the frame is sent.
        """
        header = _HEADER.pack(len(payload) | (0 if file is None else _WITH_FILE))
        frame = memoryview(header + payload)
        if not self._unsent:
            sent = self._give(frame, file)
            if sent == len(frame):
                return
            frame, file = frame[sent:], None if sent else file
        if self._unsent and self.unsent_bytes + len(frame) > self._unsent_bytes_max:
            raise PeerGone(f"the peer leaves more than {self._unsent_bytes_max} bytes unread")
        try:
            kept = None if file is None else fcntl.fcntl(file, fcntl.F_DUPFD_CLOEXEC, 0)
        except OSError as error:
            raise wrap_os_error(error, "a file cannot be kept for a peer that is busy") from error
        self._unsent.append((frame, kept))
        self.unsent_bytes += len(frame)

    def flush(self) -> bool:
        """Give the kernel what it takes now; return whether nothing is left. Raises PeerGone."""
        while self._unsent:
            frame, file = self._unsent[0]
            sent = self._give(frame, file)
            if sent == 0:
                return False
            if file is not None:
                os.close(file)
            self.unsent_bytes -= sent
            self.flushed_bytes += sent
            if sent == len(frame):
                self._unsent.popleft()
            else:
                self._unsent[0] = (frame[sent:], None)
        return True

    def _give(self, frame: memoryview, file: int | None) -> int:
        try:
            if file is None:
                return self._connection.send(frame, _SEND)
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [file]))]
            return self._connection.sendmsg([frame], rights, _SEND)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError as error:
            raise PeerGone(os.strerror(error.errno or 0)) from error

    def close(self) -> None:
        """Close the socket and every file that was kept. Safe to call again."""
        if self._closed:
            return
        self._closed = True
        self._connection.close()
        for file in (*self._files, *(file for _, file in self._unsent)):
            if file is not None:
                with contextlib.suppress(OSError):
                    os.close(file)
        self._files.clear()
        self._unsent.clear()
        self.unsent_bytes = 0


def close_files(frames: list[Frame]) -> None:
    """Close the files of frames that nobody will take."""
    for frame in frames:
        if frame.file is not None:
            os.close(frame.file)

"""The answer of a process of ours over a socket, to its end: bounded in bytes and in time."""

from __future__ import annotations

import socket
from time import monotonic
from typing import Final

ANSWER_BYTES_MAX: Final = 64 << 10


def read_answer(channel: socket.socket, seconds_max: float) -> bytes:
    """Return all that comes until the other end is closed, or as much of it as an answer may have.

    Raises:
        OSError: the other end is gone; TimeoutError, where it is neither gone nor silent for good.
    """
    until = monotonic() + seconds_max
    answer = b""
    while (room := ANSWER_BYTES_MAX - len(answer)) > 0:
        if (left := until - monotonic()) <= 0:
            raise TimeoutError(f"no end of an answer within {seconds_max:.0f} s")
        channel.settimeout(left)
        if not (part := channel.recv(room)):
            break
        answer += part
    return answer

"""The messages between a host and its zygote: one JSON document a packet, descriptors beside it.

    host    Start       what to load, with two sealed memory files: native code, base image
    zygote  Ready       everything is loaded; which layers stand
    zygote  Failed      it could not start, and why; then it ends
    host    Spawn       number, with the worker's end of a socket pair
    zygote  Spawned     number, pid as the zygote sees it, with a pidfd of the worker
    zygote  Exited      number, wait status, the worker's last words if it could not be locked down

A zygote never runs a guest, and a worker has no descriptor of this socket. A packet is still checked
like one from a stranger: a host that cannot read one ends the zygote. A descriptor that the receiver
has no room for is nobody's fault: it is missing, and its packet stands.
"""

from __future__ import annotations

import array
import json
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

PACKET_BYTES_MAX: Final = 64 << 10
FDS_MAX: Final = 2
# More than any packet has, so that one with too many is seen.
_ANCILLARY_BYTES: Final = socket.CMSG_SPACE(4 * (FDS_MAX + 1))


def send(channel: socket.socket, document: dict[str, Any], fds: Sequence[int] = ()) -> None:
    """Send one packet.

    Raises:
        OSError: the other side is gone, or does not read.
    """
    packet = json.dumps(document, separators=(",", ":")).encode()
    if len(packet) > PACKET_BYTES_MAX:
        raise ValueError(f"a packet of {len(packet)} bytes")
    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    # An error, where the application has SIGPIPE end it.
    channel.sendmsg([packet], ancillary, socket.MSG_NOSIGNAL)


@dataclass(frozen=True, slots=True)
class Packet:
    """One packet. The receiver closes `fds`.

    `fds_lost`: more came with it, and this process had no descriptor left for them.
    """

    document: dict[str, Any]
    fds: list[int]
    fds_lost: bool = False

    def close(self) -> None:
        """Close what came with it."""
        for fd in self.fds:
            os.close(fd)


def receive(channel: socket.socket) -> Packet | None:
    """Return one packet; None at the end.

    Raises:
        ValueError: what came is no packet of ours; descriptors that came with it are closed.
        BlockingIOError: nothing is there.
    """
    packet, ancillary, flags, _ = channel.recvmsg(PACKET_BYTES_MAX, _ANCILLARY_BYTES, socket.MSG_CMSG_CLOEXEC)
    fds: list[int] = []
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            found = array.array("i")
            found.frombytes(data[: len(data) - len(data) % found.itemsize])
            fds += found
    try:
        cut = bool(flags & socket.MSG_CTRUNC)
        # There is room for more than any packet has. Where fewer came and it was cut, this process is short.
        if flags & socket.MSG_TRUNC or len(fds) > FDS_MAX or (cut and len(fds) >= FDS_MAX):
            raise ValueError("a packet was cut")
        if not packet:
            if fds or cut:
                raise ValueError("descriptors without a packet")
            return None
        document = json.loads(packet)
        if not isinstance(document, dict) or not isinstance(document.get("type"), str):
            raise ValueError("a packet that is no message")
    except (ValueError, RecursionError) as error:
        for fd in fds:
            os.close(fd)
        raise ValueError(str(error)) from error
    return Packet(document, fds, cut)

"""A worker that has no descriptor or no room for what it should report says so: no host waits for ever."""

from __future__ import annotations

import socket

import pytest

from rlm_wasm.jail.worker_main import Server
from rlm_wasm.protocol import worker_messages as m
from rlm_wasm.protocol.commands import Done
from rlm_wasm.protocol.frames import Channel
from rlm_wasm.protocol.snapshot_runs import WorkerSnapshot, check_file
from rlm_wasm.system.memfd import MemoryFile

pytestmark = [pytest.mark.usefixtures("healthy_host")]

CAP = 4 << 20
SESSION = 1


@pytest.mark.parametrize(
    ("lent", "error"),
    [
        (None, ("HostExhausted", "the worker has no descriptor left for a file")),
        (
            4_096,
            (
                "InternalError",
                "a report could not be made: PermissionError: [Errno 1] Operation not permitted",
            ),
        ),
        (1 << 20, None),
    ],
)
def test_an_image_without_a_file_for_it_ends_in_an_error_that_the_host_gets(
    lent: int | None, error: tuple[str, str] | None
) -> None:
    ours, theirs = socket.socketpair()
    server, host = Server(theirs), Channel(ours, frame_bytes_max=CAP, unsent_bytes_max=CAP)
    image = WorkerSnapshot.of_runs(((0, b"x" * 4_096),), tenant="", size=65_536, virtual_ns=0)
    blank = None if lent is None else MemoryFile.blank("rlm-test", lent, may_be_sealed=True)
    try:
        server._operations[SESSION] = 7
        if blank is not None:
            server._blanks[SESSION] = blank
        server._tell(SESSION, Done(snapshot=image))
        (frame,) = host.receive()
        done = m.decode_report(frame.payload)
        assert isinstance(done, m.OperationDone)
        assert done.operation == 7
        assert frame.file is None
        if error is not None:
            assert done.error == m.ErrorReport(*error)
        else:
            assert done.image is not None
            assert blank is not None
            check_file(blank.fd, done.image.runs, done.image.size)
    finally:
        server.close()
        host.close()

"""A worker that has no descriptor left for what it should report says so: no host waits for ever."""

from __future__ import annotations

import os
import socket

import pytest

from rlm_wasm.wire import worker_messages as m
from rlm_wasm.worker.commands import Done
from rlm_wasm.worker.frames import Channel
from rlm_wasm.worker.image_file import WorkerImage
from rlm_wasm.worker.serve import Server
from tests.support.descriptors import descriptors_left

pytestmark = [pytest.mark.usefixtures("healthy_host")]

CAP = 4 << 20
SESSION = 1


@pytest.mark.parametrize(
    ("left", "error"),
    [
        (0, "a report could not be made: Too many open files"),
        (1, "a file cannot be kept for a peer that is busy: Too many open files"),
        (2, None),
    ],
)
def test_an_image_without_a_descriptor_for_it_ends_in_an_error_that_the_host_gets(
    left: int, error: str | None
) -> None:
    ours, theirs = socket.socketpair()
    server, host = Server(theirs), Channel(ours, frame_bytes_max=CAP, unsent_bytes_max=CAP)
    image = WorkerImage.of_runs(((0, b"x" * 4_096),), tenant="", size=65_536, virtual_ns=0)
    try:
        server._operations[SESSION] = 7
        while not server._channel.unsent_bytes:  # the host reads nothing
            server._channel.send(m.encode(m.Pong(1)))
        with descriptors_left(left):
            server._tell(SESSION, Done(snapshot=image))
        reports = []
        while not server._channel.flush() or not isinstance(reports[-1], m.OperationDone):
            for frame in host.receive():
                reports.append(m.decode_report(frame.payload))
                if frame.file is not None:
                    os.close(frame.file)
        done = reports[-1]
        assert done.operation == 7
        if error is None:
            assert done.image is not None
            assert done.error is None
        else:
            assert done.error == m.ErrorReport("HostExhausted", error)
    finally:
        server.close()
        host.close()

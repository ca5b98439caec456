"""What a process of ours says is read to its end, within bounds, and typed before it is believed."""

from __future__ import annotations

import socket

import pytest

from rlm_wasm.errors import LockdownError
from rlm_wasm.host.machine_grade import _told
from rlm_wasm.host.short_answer import ANSWER_BYTES_MAX, read_answer


def test_an_answer_is_read_to_its_end_and_no_further_than_its_bound() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(b"in two ")
        theirs.sendall(b"parts")
        theirs.shutdown(socket.SHUT_WR)
        assert read_answer(ours, 60) == b"in two parts"
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(b"x" * (ANSWER_BYTES_MAX + 1))
        assert read_answer(ours, 60) == b"x" * ANSWER_BYTES_MAX


def test_one_that_does_not_end_is_not_waited_for() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(b"it goes on")
        with pytest.raises(TimeoutError):
            read_answer(ours, 0.001)


@pytest.mark.threat("T-101")
@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"", "it ended without a word"),
        (b'{"layers": [["seccomp", tr', "it ended without a word"),
        (b"[" * 60_000, "it ended without a word"),
        (b'["failed"]', "it ended without a word"),
        (b'"failed"', "it ended without a word"),
        (b"7", "it ended without a word"),
        (b'{"layers": [["seccomp", 1, ""]]}', "it ended without a word"),
        (b'{"failed": "\\u001b[2Jno room"}', "\ufffd[2Jno room"),
        (b'{"failed": ["no room"]}', "no room"),
    ],
)
def test_whatever_says_no_layers_is_no_machine_for_workers(answer: bytes, why: str) -> None:
    with pytest.raises(LockdownError) as caught:
        _told(answer)
    assert caught.value.message.isprintable()
    assert why in caught.value.message

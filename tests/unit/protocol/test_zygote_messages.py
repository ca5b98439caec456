"""Packets between a host and its zygote: whole or refused, and no descriptor is ever left over."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections.abc import Iterator

import pytest

from rlm_wasm.errors import HostExhausted, LockdownError
from rlm_wasm.host.zygote import Zygote
from rlm_wasm.protocol import zygote_messages as messages
from rlm_wasm.protocol.zygote_reports import Gone, ZygoteGone, layers_of, report_of
from tests.support.descriptors import descriptors_left, high_descriptor

Pair = tuple[socket.socket, socket.socket]
KINDS = {"lockdown": LockdownError, "exhausted": HostExhausted, "hint": LockdownError, "": ZygoteGone}


@pytest.fixture
def pair() -> Iterator[Pair]:
    first, second = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with first, second:
        second.setblocking(False)
        yield first, second


def _open_fds() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


def test_a_packet_arrives_with_its_descriptors(pair: Pair) -> None:
    with open("/dev/null") as file:
        messages.send(pair[0], {"type": "spawn", "number": 7}, [file.fileno(), 1])
    packet = messages.receive(pair[1])
    assert packet is not None
    assert packet.document == {"type": "spawn", "number": 7}
    assert not packet.fds_lost
    assert [os.get_inheritable(fd) for fd in packet.fds] == [False, False]
    packet.close()


def test_the_end_is_none_and_nothing_yet_blocks(pair: Pair) -> None:
    with pytest.raises(BlockingIOError):
        messages.receive(pair[1])
    pair[0].close()
    assert messages.receive(pair[1]) is None


@pytest.mark.threat("T-053")
@pytest.mark.parametrize(
    "packet",
    [
        b"{", b"[]", b"7", b'{"type":7}', b'{"number":1}', b"\xff\xfe", b"[" * 50_000,
        b'"' + b"x" * (messages.PACKET_BYTES_MAX + 10) + b'"',
    ],
)  # fmt: skip
def test_what_is_no_message_is_refused_and_its_descriptors_are_closed(pair: Pair, packet: bytes) -> None:
    before = _open_fds()
    socket.send_fds(pair[0], [packet], [0, 1])
    with pytest.raises(ValueError, match=r"."):
        messages.receive(pair[1])
    assert _open_fds() == before


@pytest.mark.threat("T-053")
def test_more_descriptors_than_any_message_has_are_refused_and_closed(pair: Pair) -> None:
    before = _open_fds()
    socket.send_fds(pair[0], [b'{"type":"spawn","number":1}'], [0, 1, 2, 0, 1])
    with pytest.raises(ValueError, match="cut"):
        messages.receive(pair[1])
    assert _open_fds() == before


@pytest.mark.parametrize("left", [0, 1])
def test_descriptors_that_this_process_has_no_room_for_are_missing_and_the_packet_stands(
    pair: Pair, left: int
) -> None:
    before = _open_fds()
    messages.send(pair[0], {"type": "start"}, [0, 1])
    with descriptors_left(left):
        packet = messages.receive(pair[1])
    assert packet is not None
    assert (packet.document, len(packet.fds), packet.fds_lost) == ({"type": "start"}, left, True)
    packet.close()
    assert _open_fds() == before


@pytest.mark.threat("T-053")
@pytest.mark.parametrize(("fds", "left"), [(3, 3), (3, 2), (5, 2), (20, 4)])
def test_too_many_descriptors_are_refused_also_where_this_process_has_few(
    pair: Pair, fds: int, left: int
) -> None:
    before = _open_fds()
    socket.send_fds(pair[0], [b'{"type":"spawn","number":1}'], [0] * fds)
    with descriptors_left(left), pytest.raises(ValueError, match="cut"):
        messages.receive(pair[1])
    assert _open_fds() == before


def test_a_packet_that_would_be_cut_is_not_sent(pair: Pair) -> None:
    with pytest.raises(ValueError, match="bytes"):
        messages.send(pair[0], {"type": "x" * messages.PACKET_BYTES_MAX})


@pytest.mark.threat("T-053")
@pytest.mark.parametrize("reason", [{}, {"reason": None}, {"reason": [1]}, {"reason": "\ud800\x1b[2J" * 900}])
@pytest.mark.parametrize("kind", ["lockdown", "exhausted", "hint", ""])
def test_whatever_a_zygote_says_of_its_failure_is_one_of_ours(
    pair: Pair, kind: str, reason: dict[str, object]
) -> None:
    with subprocess.Popen(["true"]) as process:
        zygote = Zygote(process, pair[1])
        document = {"type": "failed", "lockdown": kind == "hint", kind: {"no": "text"}, **reason}
        pair[0].send(json.dumps(document).encode()[: messages.PACKET_BYTES_MAX])
        with pytest.raises((LockdownError, HostExhausted, ZygoteGone)) as caught:
            zygote.ready()
    assert isinstance(caught.value, KINDS[kind])
    told = f"{caught.value.message}{caught.value.hint or ''}"
    assert told.isprintable()
    assert len(told) < 2_100


@pytest.mark.threat("T-053")
@pytest.mark.parametrize("number", [-1, 1 << 31, 1 << 70, True, 1.0, "1", None])
@pytest.mark.parametrize("key", ["number", "status"])
def test_a_number_that_no_honest_zygote_says_is_refused(key: str, number: object) -> None:
    honest = {"type": "exited", "number": 1, "status": 9, "reason": ""}
    report_of(messages.Packet(honest, []))
    with pytest.raises(ValueError, match=f"{key} is not a number"):
        report_of(messages.Packet(honest | {key: number}, []))


@pytest.mark.threat("T-053")
def test_what_a_zygote_says_of_its_layers_is_a_line_of_any_terminal() -> None:
    (found,) = layers_of({"layers": [["\x1b[2J" * 900, True, "fine\n\x1b[31m" * 900]]})
    assert (found.layer + found.detail).isprintable()
    assert len(found.layer + found.detail) <= 2_000


def test_a_host_of_many_descriptors_waits_for_its_zygote(pair: Pair) -> None:
    with subprocess.Popen(["true"]) as process, high_descriptor(pair[1].fileno()) as fd:
        zygote = Zygote(process, socket.socket(fileno=os.dup2(fd, fd + 1)))
        pair[0].close()
        (report,) = zygote.wait(60)
        assert isinstance(report, Gone)
        zygote.close()

"""Frames over a socket pair: whole or not at all, capped, one file each, whatever the pieces they come in."""

from __future__ import annotations

import array
import os
import random
import socket
import struct

import pytest

from rlm_wasm.errors import HostExhausted
from rlm_wasm.protocol.frames import Channel, Frame, FrameError, PeerGone
from rlm_wasm.system.memfd import MemoryFile
from tests.support.descriptors import descriptors_left
from tests.support.host_health import assert_same, health

CAP = 100_000


@pytest.fixture(autouse=True)
def _nothing_left():
    before = health()
    yield
    assert_same(before, health())


@pytest.fixture
def pair():
    ours, theirs = socket.socketpair()
    channel = Channel(ours, frame_bytes_max=CAP, unsent_bytes_max=1_000_000)
    yield channel, theirs
    channel.close()
    theirs.close()


def header(length: int, *, file: bool = False) -> bytes:
    return struct.pack("<I", length | (1 << 31 if file else 0))


def send_with_files(sock: socket.socket, data: bytes, files: list[int]) -> None:
    sock.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", files))])


@pytest.mark.parametrize("seed", range(20))
def test_frames_arrive_whole_and_in_order_whatever_pieces_they_come_in(pair, seed):
    channel, theirs = pair
    draw = random.Random(seed)
    wanted = [draw.randbytes(draw.choice([0, 1, 3, 100, 5_000])) for _ in range(30)]
    stream = b"".join(header(len(frame)) + frame for frame in wanted)
    got: list[bytes] = []
    while stream:
        piece, stream = stream[: (n := draw.randint(1, 3_000))], stream[n:]
        theirs.sendall(piece)
        got += [frame.payload for frame in channel.receive()]
    while more := channel.receive():
        got += [frame.payload for frame in more]
    assert got == wanted


def test_a_file_comes_with_its_frame_and_no_other(pair):
    channel, theirs = pair
    peer = Channel(theirs, frame_bytes_max=CAP, unsent_bytes_max=1_000_000)
    file = MemoryFile.of("rlm-test", b"contents")
    peer.send(b"before")
    peer.send(b"with", file.fd)
    peer.send(b"after")
    got: list[Frame] = []
    while len(got) < 3:
        got += channel.receive()
    assert [(frame.payload, frame.file is not None) for frame in got] == [
        (b"before", False), (b"with", True), (b"after", False)
    ]  # fmt: skip
    received = got[1].file
    assert received is not None
    assert not os.get_inheritable(received)
    assert os.pread(received, 100, 0) == b"contents"
    os.close(received)


@pytest.mark.threat("T-057")
def test_a_frame_above_the_cap_is_refused_before_its_bytes_are_kept(pair):
    channel, theirs = pair
    theirs.sendall(header(CAP + 1) + b"x" * 1000)
    with pytest.raises(FrameError, match="100001 bytes, 100000 allowed"):
        channel.receive()


@pytest.mark.threat("T-057")
def test_a_frame_above_the_cap_is_refused_when_it_comes_whole():
    ours, peer = socket.socketpair()
    channel = Channel(ours, frame_bytes_max=100, unsent_bytes_max=1_000)
    with peer:
        peer.sendall(header(100) + b"x" * 100)
        assert [len(frame.payload) for frame in channel.receive()] == [100]
        peer.sendall(header(101) + b"x" * 101)
        with pytest.raises(FrameError, match="101 bytes, 100 allowed"):
            channel.receive()
        channel.close()


def test_the_rest_of_a_frame_that_looks_like_a_whole_one_is_not_taken_for_one(pair):
    channel, theirs = pair
    inner = header(3) + b"abc"
    for begun in (header(2 + len(inner)) + b"xy", header(len(inner)), header(len(inner))[:2]):
        theirs.sendall(begun)
        assert channel.receive() == []
        theirs.sendall((header(len(inner))[len(begun) :] if len(begun) < 4 else b"") + inner)
        (frame,) = channel.receive()
        assert frame.payload.endswith(inner)


@pytest.mark.threat("T-057")
@pytest.mark.parametrize(
    ("data", "files"),
    [
        (header(1) + b"x", 1),  # a file nobody speaks of
        (header(1, file=True) + b"x", 0),  # one that is missing
        (header(1, file=True) + b"x", 2),  # two at once
        (header(1, file=True) + b"x", 40),  # more than there is room for
        (header(5) + b"x", 1),  # with the middle of a frame that has none
    ],
)
def test_files_that_do_not_fit_their_frames_are_refused_and_closed(pair, data, files):
    channel, theirs = pair
    file = MemoryFile.of("rlm-test", b"contents")
    if files:
        send_with_files(theirs, data, [file.fd] * files)
    else:
        theirs.sendall(data)
    with pytest.raises(FrameError):
        channel.receive()


def test_a_file_that_this_process_has_no_descriptor_for_is_missing_and_its_sender_is_not_to_blame(pair):
    channel, theirs = pair
    file = MemoryFile.of("rlm-test", b"contents")
    theirs.sendall(header(2) + b"ab")
    send_with_files(theirs, header(1, file=True) + b"x", [file.fd])
    theirs.sendall(header(1, file=True))
    with descriptors_left(0):
        got = channel.receive()
    assert got == [Frame(b"ab"), Frame(b"x", None, file_lost=True)]
    theirs.sendall(b"y")  # of this one none was sent
    with pytest.raises(FrameError, match="without the file"):
        channel.receive()


def test_a_missing_file_goes_with_its_frame_whatever_pieces_that_comes_in(pair):
    channel, theirs = pair
    file = MemoryFile.of("rlm-test", b"contents")
    send_with_files(theirs, header(100, file=True) + b"x", [file.fd])
    with descriptors_left(0):
        assert channel.receive() == []
    theirs.sendall(b"x" * 99)
    assert channel.receive() == [Frame(b"x" * 100, None, file_lost=True)]


@pytest.mark.threat("T-057")
@pytest.mark.parametrize(("files", "left"), [(2, 1), (40, 1), (40, 3)])
def test_several_files_at_once_are_refused_also_where_this_process_has_few_descriptors(pair, files, left):
    channel, theirs = pair
    file = MemoryFile.of("rlm-test", b"contents")
    send_with_files(theirs, header(1, file=True) + b"x", [file.fd] * files)
    with descriptors_left(left), pytest.raises(FrameError, match="more than one"):
        channel.receive()


@pytest.mark.threat("T-057")
def test_a_missing_file_of_a_frame_that_has_none_is_refused(pair):
    channel, theirs = pair
    file = MemoryFile.of("rlm-test", b"contents")
    send_with_files(theirs, header(1) + b"x", [file.fd])
    with descriptors_left(0), pytest.raises(FrameError, match="without a frame"):
        channel.receive()


def test_a_file_of_a_frame_that_never_ends_is_closed_with_the_channel(pair):
    channel, theirs = pair
    file = MemoryFile.of("rlm-test", b"contents")
    send_with_files(theirs, header(100, file=True) + b"x", [file.fd])
    assert channel.receive() == []


def test_what_the_kernel_does_not_take_waits_and_comes_in_order_with_its_files(pair):
    channel, theirs = pair
    peer = Channel(theirs, frame_bytes_max=CAP, unsent_bytes_max=10_000_000)
    file = MemoryFile.of("rlm-test", b"contents")
    sent = [bytes([number]) * 50_000 for number in range(40)]
    for payload in sent:
        peer.send(payload, file.fd)
    assert peer.unsent_bytes > 0
    got: list[Frame] = []
    while len(got) < len(sent):
        peer.flush()
        got += channel.receive()
    assert peer.flush()
    assert peer.unsent_bytes == 0
    assert [frame.payload for frame in got] == sent
    for frame in got:
        assert frame.file is not None
        os.close(frame.file)


def test_a_file_that_cannot_be_kept_is_not_sent_and_its_channel_goes_on(pair):
    channel, theirs = pair
    peer = Channel(theirs, frame_bytes_max=CAP, unsent_bytes_max=10_000_000)
    file = MemoryFile.of("rlm-test", b"contents")
    sent = 0
    while peer.unsent_bytes == 0:
        peer.send(b"x" * 50_000)
        sent += 1
    left = peer.unsent_bytes
    with descriptors_left(0), pytest.raises(HostExhausted, match="Too many open files"):
        peer.send(b"with", file.fd)
    assert peer.unsent_bytes == left
    peer.send(b"after", file.fd)
    got: list[Frame] = []
    while len(got) < sent + 1:
        peer.flush()
        got += channel.receive()
    assert got[-1].payload == b"after"
    assert got[-1].file is not None
    os.close(got[-1].file)


@pytest.mark.threat("T-057")
def test_a_peer_that_does_not_read_is_gone_once_the_cap_is_met(pair):
    channel, _ = pair
    while channel.unsent_bytes <= 950_000:
        channel.send(b"x" * 50_000)
    with pytest.raises(PeerGone, match="unread"):
        channel.send(b"x" * 50_000)
    assert channel.unsent_bytes <= 1_000_000


def test_a_closed_peer_is_told_after_its_last_frame(pair):
    channel, theirs = pair
    theirs.sendall(header(2) + b"ab")
    theirs.close()
    assert [frame.payload for frame in channel.receive()] == [b"ab"]
    with pytest.raises(PeerGone):
        channel.receive()
    with pytest.raises(PeerGone):
        channel.send(b"x")


def test_nothing_to_receive_is_no_frame(pair):
    channel, _ = pair
    assert channel.receive() == []

"""A callback for a descriptor: called for what comes, gone with its task, and its failure is the task's."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from typing import Any

import anyio
import pytest

from rlm_wasm.host.readable import while_readable
from tests.support.backends import backends

pytestmark = pytest.mark.anyio


@pytest.fixture(params=backends())
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    """Each on every event loop."""
    return request.param


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        yield ours, theirs


async def test_it_is_called_for_each_thing_that_comes(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    taken: list[bytes] = []
    came = anyio.Event()

    def take() -> None:
        taken.append(ours.recv(1))
        came.set()

    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(while_readable, ours.fileno(), take)
            for byte in (b"a", b"b", b"c"):
                came = anyio.Event()
                theirs.send(byte)
                await came.wait()
            tasks.cancel_scope.cancel()
    assert taken == [b"a", b"b", b"c"]


async def test_what_is_left_unread_is_told_again(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    taken: list[bytes] = []
    theirs.send(b"abc")
    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:

            def take() -> None:
                taken.append(ours.recv(1))
                if len(taken) == 3:
                    tasks.cancel_scope.cancel()

            tasks.start_soon(while_readable, ours.fileno(), take)
    assert taken == [b"a", b"b", b"c"]


async def test_after_its_task_is_cancelled_nothing_is_called(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    ours, theirs = pair
    calls: list[int] = []
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(while_readable, ours.fileno(), lambda: calls.append(1))
        await anyio.lowlevel.checkpoint()
        tasks.cancel_scope.cancel()
    with ours.dup() as same:
        theirs.send(b"x")
        # Both become readable at once, and the loop calls whoever is there for either.
        with anyio.fail_after(60):
            await anyio.wait_readable(same)
    assert calls == []
    assert ours.recv(1) == b"x"


async def test_what_the_call_raises_is_raised_by_the_task(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    theirs.send(b"x")

    def fail() -> None:
        raise LookupError("of the call")

    with anyio.fail_after(60), pytest.raises(LookupError, match="of the call"):
        await while_readable(ours.fileno(), fail)


def test_it_works_in_a_loop_that_anyio_did_not_start(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    theirs.send(b"x")

    async def main() -> int:
        with anyio.CancelScope() as scope:

            def take() -> None:
                ours.recv(1)
                scope.cancel()

            await while_readable(ours.fileno(), take)
        return 1

    assert asyncio.run(asyncio.wait_for(main(), 10)) == 1


@pytest.mark.parametrize("unread", [b"", b"nobody reads this"])
async def test_all_that_an_end_said_before_it_went_is_told_and_then_that_it_is_gone(
    pair: tuple[socket.socket, socket.socket], unread: bytes
) -> None:
    ours, theirs = pair
    taken: list[bytes] = []

    def take() -> None:
        data = ours.recv(1)
        taken.append(data)
        if not data:
            raise EOFError

    if unread:
        ours.send(unread)
    theirs.send(b"last words")
    theirs.close()
    # What was left unread is a reset, where nothing was an end.
    with anyio.fail_after(60), pytest.raises((EOFError, ConnectionResetError)):
        await while_readable(ours.fileno(), take)
    assert b"".join(taken) == b"last words"


async def test_nothing_is_called_of_an_end_that_is_gone_after_the_wait_was_cancelled(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    ours, theirs = pair
    calls: list[int] = []
    ours.send(b"nobody reads this")
    theirs.send(b"words")
    theirs.close()
    with anyio.CancelScope() as scope:

        def take() -> None:
            calls.append(1)
            scope.cancel()

        await while_readable(ours.fileno(), take)
    told = len(calls)
    for _ in range(5):
        await anyio.lowlevel.checkpoint()
    assert len(calls) == told

"""Lines over pipes: bounded, whole, and never waited for by a thread."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from rlm_wasm.mcp.lines import LineReader, LineWriter, LongLine

pytestmark = pytest.mark.anyio


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    source, sink = os.pipe()
    yield source, sink
    for descriptor in (source, sink):
        with contextlib.suppress(OSError):
            os.close(descriptor)


async def read_all(source: int, bytes_max: int) -> list[bytes | LongLine]:
    return [line async for line in LineReader(source, bytes_max)]


async def test_lines_come_whole_however_they_were_written(pipe: tuple[int, int]) -> None:
    source, sink = pipe
    os.write(sink, b'{"a"')
    os.write(sink, b': 1}\n\n  \n{"b": 2}\n')
    os.close(sink)
    assert await read_all(source, 100) == [b'{"a": 1}', b'{"b": 2}']


@pytest.mark.threat("T-400")
async def test_of_a_line_that_is_too_long_only_its_ends_are_kept_and_the_next_one_is_read(
    pipe: tuple[int, int],
) -> None:
    source, sink = pipe
    long = b"<" + b"x" * 3_000_000 + b">"

    async def write() -> None:
        await LineWriter(sink).write(long)
        await LineWriter(sink).write(b"next")
        os.close(sink)

    found: list[bytes | LongLine] = []
    held = []
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(write)
        async for line in LineReader(source, 100_000):
            found.append(line)
            if isinstance(line, LongLine):
                held.append(len(line.begin) + len(line.end))
    assert [type(line) for line in found] == [LongLine, bytes]
    first = found[0]
    assert isinstance(first, LongLine)
    assert (first.begin[:1], first.end[-1:]) == (b"<", b">")
    assert held[0] < 200_000
    assert found[1] == b"next"


async def test_a_line_of_just_the_most_bytes_is_none_that_is_too_long(pipe: tuple[int, int]) -> None:
    source, sink = pipe
    os.write(sink, b"x" * 100 + b"\n" + b"y" * 101 + b"\n")
    os.close(sink)
    first, second = await read_all(source, 100)
    assert first == b"x" * 100
    assert isinstance(second, LongLine)


async def test_a_file_is_read_and_written_as_well(tmp_path: Path) -> None:
    with (tmp_path / "lines").open("w+b") as file:
        await LineWriter(file.fileno()).write(b"a" * 10_000)
        file.seek(0)
        assert await read_all(file.fileno(), 20_000) == [b"a" * 10_000]


@pytest.mark.threat("T-402")
async def test_a_reader_that_does_not_read_holds_up_no_cancellation(pipe: tuple[int, int]) -> None:
    source, sink = pipe
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(LineWriter(sink).write, b"x" * 10_000_000)
            await anyio.wait_readable(source)
            scope.cancel()
    assert scope.cancelled_caught

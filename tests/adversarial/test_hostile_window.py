"""A worker that belongs to an attacker, and the window that its host fills for the input of its cell."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from rlm_wasm.host.input_file import InputFile
from rlm_wasm.host.remote_session import ProcessSession
from rlm_wasm.protocol import worker_messages as m
from rlm_wasm.protocol.cell import Cell
from rlm_wasm.protocol.frames import Channel, PeerGone
from rlm_wasm.protocol.input_reads import FAILED, PART_BYTES_MAX, WINDOW_BYTES_MAX, InputOp
from rlm_wasm.system.memfd import MemoryFile
from tests.adversarial.test_hostile_worker import CAP, MIB, RESULT, Attacker, under_way
from tests.support.pool_facts import until
from tests.support.sandbox_facts import cell_limits

# ruff: noqa: ASYNC240 - a test may wait for its own small files
pytestmark = [pytest.mark.anyio, pytest.mark.threat("T-205"), pytest.mark.usefixtures("healthy_host")]

DATA = bytes(range(256)) * (12 * MIB // 256)


class Reading:
    """The attacker's end while a cell with an input runs: what it asks, and what it is given."""

    def __init__(self, attacker: Attacker, outcomes: list[object]) -> None:
        self.attacker = attacker
        assert attacker.opposite is not None
        self.connection = attacker.opposite
        self.channel = Channel(attacker.socket, frame_bytes_max=CAP, unsent_bytes_max=CAP)
        self.window: MemoryFile | None = None
        self.given = 0
        self.outcomes = outcomes

    async def ask(self, offset: int, length: int, *, op: InputOp = InputOp.READ) -> m.GiveInput:
        self.attacker.say(m.InputRequest(1, 2, op, 1, offset, length, b""))
        answers: list[m.GiveInput] = []

        def answered() -> bool:
            for frame in self.channel.receive():
                file = None if frame.file is None else MemoryFile(frame.file)
                if isinstance(message := m.decode_command(frame.payload), m.GiveInput):
                    answers.append(message)
                    if file is not None:
                        self.window, self.given = file, self.given + 1
            return bool(answers)

        await until(answered)
        return answers[0]

    def seen(self, length: int) -> bytes:
        assert self.window is not None
        return os.pread(self.window.fd, length, 0)

    @property
    def held(self) -> int:
        return self.connection._lent.bytes_held


@asynccontextmanager
async def reading(path: Path, *, fuel_max: int = 20_000_000_000) -> AsyncIterator[Reading]:
    """A cell under way whose session has a file as its input, in a worker that is the test's."""
    path.write_bytes(DATA)

    async def operate(session: ProcessSession) -> object:
        session.inputs.keep(session.inputs.add("context", "f", InputFile(path)).number)
        return (await session.run(Cell("?", cell_limits(fuel_max=fuel_max)))).outcome

    attacker = Attacker()
    async with under_way(attacker, operate) as outcomes:
        made = Reading(attacker, outcomes)
        yield made
    assert made.held == 0


async def test_what_it_asks_beyond_its_input_is_not_there(tmp_path: Path) -> None:
    async with reading(tmp_path / "f") as worker:
        assert (await worker.ask(0, WINDOW_BYTES_MAX)).filled == WINDOW_BYTES_MAX
        assert worker.seen(WINDOW_BYTES_MAX) == DATA[:WINDOW_BYTES_MAX]
        assert (await worker.ask(WINDOW_BYTES_MAX, WINDOW_BYTES_MAX)).filled == 4 * MIB
        assert worker.seen(4 * MIB) == DATA[WINDOW_BYTES_MAX:]
        for offset in (len(DATA), 1 << 40, (1 << 62) - 1):
            assert await worker.ask(offset, WINDOW_BYTES_MAX) == m.GiveInput(1, 0, b"")
        assert await worker.ask(0, 100) == m.GiveInput(1, 0, DATA[:100])
        assert worker.given == 1
        worker.attacker.say(m.OperationDone(1, 2, result=RESULT))
    assert worker.outcomes == ["completed"]


@pytest.mark.parametrize("length", [WINDOW_BYTES_MAX + 1, 1 << 40])
async def test_more_than_a_window_holds_ends_the_worker(tmp_path: Path, length: int) -> None:
    async with reading(tmp_path / "f") as worker:
        worker.attacker.say(m.InputRequest(1, 2, InputOp.READ, 1, 0, length, b""))
    assert worker.outcomes == ["worker_lost"]


async def test_one_that_cuts_its_window_gets_no_more_by_it(tmp_path: Path) -> None:
    async with reading(tmp_path / "f") as worker:
        for turn in range(1, 6):
            assert (await worker.ask(0, WINDOW_BYTES_MAX)).filled == WINDOW_BYTES_MAX
            assert (worker.given, worker.held) == (turn, WINDOW_BYTES_MAX)
            assert worker.window is not None
            os.ftruncate(worker.window.fd, 0)
            assert (await worker.ask(0, WINDOW_BYTES_MAX)).status == FAILED
            assert worker.held == 0
        worker.attacker.say(m.OperationDone(1, 2, result=RESULT))
    assert worker.outcomes == ["completed"]


async def test_what_it_writes_there_is_its_own_affair_and_its_host_counts_it(tmp_path: Path) -> None:
    async with reading(tmp_path / "f") as worker:
        assert (await worker.ask(0, PART_BYTES_MAX)).filled == PART_BYTES_MAX
        assert worker.window is not None
        assert worker.held == PART_BYTES_MAX
        os.pwrite(worker.window.fd, b"\0" * WINDOW_BYTES_MAX, 0)
        assert worker.held == WINDOW_BYTES_MAX
        assert (await worker.ask(5, PART_BYTES_MAX)).filled == PART_BYTES_MAX
        assert worker.seen(PART_BYTES_MAX) == DATA[5 : 5 + PART_BYTES_MAX]
        worker.attacker.say(m.OperationDone(1, 2, result=RESULT))
        await until(lambda: worker.outcomes)
        # It holds the descriptor, and nothing by it.
        assert (worker.held, worker.window.bytes_held) == (0, 0)
        with pytest.raises(PermissionError):
            os.pwrite(worker.window.fd, b"x", 0)
    assert worker.outcomes == ["completed"]


async def test_a_flood_of_windows_ends_with_the_fuel_of_the_cell(tmp_path: Path) -> None:
    fuel = 20 * 4 * WINDOW_BYTES_MAX
    async with reading(tmp_path / "f", fuel_max=fuel) as worker:
        answered = 0
        with contextlib.suppress(PeerGone):
            for _ in range(30):
                await worker.ask(0, WINDOW_BYTES_MAX)
                answered += 1
        assert answered in (20, 21)
    assert worker.outcomes == ["worker_lost"]

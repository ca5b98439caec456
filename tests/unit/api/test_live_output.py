"""Output while a cell runs: in order, all of it, within its caps; who takes it never costs the session."""

from __future__ import annotations

import threading
from collections.abc import Iterable

import anyio
import anyio.lowlevel
import pytest

from rlm_wasm import ModelQuery, OnOutput, Output, Policy, Sandbox
from rlm_wasm.errors import BoundaryViolation, UsageError
from rlm_wasm.host.cell_slots import CellSlots
from rlm_wasm.host.endings import Operation
from rlm_wasm.host.session import HostSession
from rlm_wasm.host.session_ledger import SessionLedger
from rlm_wasm.ids import SessionId
from rlm_wasm.protocol import worker_messages as m
from rlm_wasm.protocol.cell import Cell
from rlm_wasm.protocol.commands import CHUNKS_MAX, Command, Done, Wrote
from rlm_wasm.results import CellResult
from tests.support.runtime_facts import small_policy
from tests.support.sandbox_facts import boundary_limits, cell_limits, session_limits

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("healthy_host")]


def policy(isolation: str) -> Policy:
    box = {"isolation": isolation, "require_lockdown": False}
    return small_policy(
        sandbox=box, cell={"stdout_bytes_max": 20_000, "stderr_bytes_max": 20_000, "wall_ms_max": 60_000}
    )


def told(outputs: list[Output], stream: str) -> str:
    return "".join(output.text for output in outputs if output.stream == stream)


@pytest.mark.guest
@pytest.mark.usefixtures("guest")
@pytest.mark.parametrize("isolation", ["inline", "session"])
async def test_output_comes_while_the_cell_runs_and_in_order(isolation: str) -> None:
    outputs: list[Output] = []
    at_query: list[list[Output]] = []

    async def on_query(query: ModelQuery) -> str:
        at_query.append(outputs.copy())
        return "yes"

    source = (
        "import sys\nprint('one')\nprint('two', file=sys.stderr)\nprint('thrée \U0001f600')\n"
        "llm_query('?')\nprint('four', end='')\n5"
    )
    async with Sandbox(policy(isolation), on_query=on_query) as box, box.session() as session:
        result = await session.exec(source, on_output=outputs.append)
        assert [(o.stream, o.text) for o in at_query[0]] == [
            ("stdout", "one\n"),
            ("stderr", "two\n"),
            ("stdout", "thrée \U0001f600\n"),
        ]
        assert (told(outputs, "stdout"), told(outputs, "stderr")) == (result.stdout, result.stderr)
        assert result.value == 5
        # The next cell's is not wanted.
        assert (await session.exec("print('later')")).stdout == "later\n"
        assert told(outputs, "stdout").endswith("four")


@pytest.mark.guest
@pytest.mark.usefixtures("guest")
@pytest.mark.parametrize("isolation", ["inline", "session"])
async def test_a_cell_that_is_refused_takes_nothing_of_the_one_that_runs(isolation: str) -> None:
    outputs: list[Output] = []
    others: list[Output] = []

    async def on_query(query: ModelQuery) -> str:
        with pytest.raises(UsageError, match="busy"):
            await session.exec("print('other')", on_output=others.append)
        return "yes"

    async with Sandbox(policy(isolation), on_query=on_query) as box, box.session() as session:
        result = await session.exec("llm_query('?')\nprint('mine')", on_output=outputs.append)
    assert told(outputs, "stdout") == result.stdout == "mine\n"
    assert others == []


@pytest.mark.guest
@pytest.mark.threat("T-192")
@pytest.mark.usefixtures("guest")
@pytest.mark.parametrize("isolation", ["inline", "session"])
async def test_what_it_raises_interrupts_the_cell_and_comes_out_and_the_session_lives(isolation: str) -> None:
    def on_output(output: Output) -> None:
        raise KeyError(output.text)

    async with Sandbox(policy(isolation)) as box, box.session() as session:
        with pytest.raises(KeyError, match="once"):
            await session.exec(
                "x = 1\ntry:\n    print('once')\n    while True: print('again')\nfinally: x = 2",
                on_output=on_output,
            )
        assert (await session.exec("x")).value == 2


@pytest.mark.guest
@pytest.mark.usefixtures("guest")
@pytest.mark.parametrize("isolation", ["inline", "session"])
async def test_all_that_is_kept_is_told_and_no_more(isolation: str) -> None:
    outputs: list[Output] = []
    async with Sandbox(policy(isolation)) as box, box.session() as session:
        result = await session.exec("for n in range(10_000): print(n)", on_output=outputs.append)
        assert result.outcome == "output_exceeded"
        assert told(outputs, "stdout") == result.stdout
        assert len(result.stdout) == 20_000
        outputs.clear()
        result = await session.exec("import os\nos.write(1, b'a\\xff\\xf0\\x9f')", on_output=outputs.append)
        assert told(outputs, "stdout") == result.stdout
        assert (await session.exec("1")).value == 1


@pytest.mark.guest
@pytest.mark.usefixtures("guest")
def test_a_slow_one_gets_it_all_the_same() -> None:
    turns = threading.Semaphore(0)
    outputs: list[Output] = []

    def on_output(output: Output) -> None:
        assert turns.acquire(timeout=60)
        outputs.append(output)

    with Sandbox(policy("session")).sync() as box, box.session() as session:
        runner = threading.Thread(
            target=lambda: session.exec("for n in range(50): print(n)", on_output=on_output)
        )
        runner.start()
        turns.release(50)
        runner.join()
        assert told(outputs, "stdout") == "".join(f"{n}\n" for n in range(50))
        assert session.exec("1").value == 1


@pytest.mark.guest
@pytest.mark.usefixtures("guest")
@pytest.mark.threat("T-192")
@pytest.mark.parametrize("isolation", ["inline", "session"])
async def test_between_two_calls_everybody_else_on_the_loop_has_a_turn(isolation: str) -> None:
    """A guest that changes streams with every byte decides how many calls there are."""
    outputs: list[Output] = []
    turns = [0]
    seen: list[int] = []

    def on_output(output: Output) -> None:
        outputs.append(output)
        seen.append(turns[0])

    async def neighbour() -> None:
        while True:
            turns[0] += 1
            await anyio.lowlevel.checkpoint()

    async with Sandbox(policy(isolation)) as box, box.session() as session:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(neighbour)
            source = "import _rlm\nfor n in range(300): _rlm.emit(1, b'x'), _rlm.emit(2, b'y')"
            result = await session.exec(source, on_output=on_output)
            tasks.cancel_scope.cancel()
        assert result.outcome == "completed"
        # trio takes the tasks of one turn in any order, so that one may come twice before the other does.
        assert all(earlier < later for earlier, later in zip(seen, seen[2:], strict=False))
        assert told(outputs, "stdout") == result.stdout == "x" * 300
        assert told(outputs, "stderr") == result.stderr == "y" * 300


@pytest.mark.threat("T-192")
def test_a_report_of_output_has_no_more_parts_than_a_guest_can_make() -> None:
    chunks = ((1, b"a"), (2, b"b")) * (CHUNKS_MAX // 2)
    assert m.decode_report(m.encode(m.CellOutput(1, 1, chunks))) == m.CellOutput(1, 1, chunks)
    with pytest.raises(BoundaryViolation):
        m.decode_report(m.encode(m.CellOutput(1, 1, (*chunks, (1, b"a")))))


class FloodingWorker:
    """Tells a cell's output byte by byte, all of it before anybody can take any."""

    def __init__(self, output: Iterable[tuple[int, bytes]]) -> None:
        self._output = output
        self.session = HostSession(self, SessionId(1), boundary_limits(), CellSlots(1).cell_slot(""))

    def submit(self, command: Command) -> None:
        received = self.session._received
        for chunk in self._output:
            received(Wrote((chunk,)))
        received(Done(result=CellResult()))


@pytest.mark.threat("T-192")
async def test_what_nobody_has_taken_yet_is_held_in_a_bounded_number_of_parts() -> None:
    taken: list[tuple[int, bytes]] = []
    flood = [(1, b"x"), (2, b"y")] * 10_000
    worker = FloodingWorker(flood)
    cell = Cell("", cell_limits(), live=True)
    await worker.session.run(cell, on_output=lambda stream, data: taken.append((stream, data)))
    assert len(taken) == CHUNKS_MAX
    assert taken[:3] == flood[:3]
    for number in (1, 2):
        whole = b"".join(data for stream, data in flood if stream == number)
        assert b"".join(data for stream, data in taken if stream == number) == whole


def books(*, live: bool) -> SessionLedger:
    made = SessionLedger()
    made.check(m.Ready())
    opened = made.opening(1, session_limits(), boundary_limits())
    made.check(m.OperationDone(1, opened))
    made.beginning(1, Operation.RUN, cell=cell_limits(stdout_bytes_max=10, stderr_bytes_max=5), live=live)
    return made


@pytest.mark.threat("T-192")
@pytest.mark.parametrize(
    ("live", "reports"),
    [
        (False, [((1, b"a"),)]),
        (True, [((1, b"a" * 11),)]),
        (True, [((1, b"a" * 10),), ((1, b"b"),)]),
        (True, [((1, b"a" * 10), (2, b"b" * 5)), ((2, b"c"),)]),
        (True, [()]),
    ],
    ids=["nobody wants it", "too much", "too much in two", "of the other", "nothing"],
)
def test_a_worker_tells_no_more_output_than_a_cell_can_have(
    live: bool, reports: list[tuple[tuple[int, bytes], ...]]
) -> None:
    made = books(live=live)
    *fine, last = [m.CellOutput(1, 2, chunks) for chunks in reports]
    for report in fine:
        made.check(report)
    with pytest.raises(BoundaryViolation):
        made.check(last)


@pytest.mark.threat("T-192")
@pytest.mark.parametrize("chunk", [(0, b"x"), (3, b"x"), (1, b""), (1, "x")])
def test_a_report_of_output_is_of_two_streams_and_says_something(chunk: tuple[int, object]) -> None:
    frame = m.encode(m.CellOutput(1, 2, (chunk,)))  # type: ignore[arg-type]
    with pytest.raises(BoundaryViolation):
        m.decode_report(frame)


def test_a_function_is_what_takes_it() -> None:
    takes: OnOutput = lambda output: None  # noqa: E731 - as a user would
    assert takes(Output("stdout", "text")) is None  # type: ignore[func-returns-value]

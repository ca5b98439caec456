"""The hook that sees each cell before it runs: what it may say, what becomes of one that misbehaves."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import anyio
import anyio.lowlevel
import pytest

from rlm_wasm import (
    PassCell,
    PendingCell,
    RefuseCell,
    Runtime,
    SessionFiles,
    StopKind,
    StopRun,
)
from rlm_wasm.audit.sink import JsonlSink
from rlm_wasm.errors import RunStopped, UsageError
from rlm_wasm.outcomes import Outcome
from rlm_wasm.policy.model import Policy
from rlm_wasm.replay.recording import Recording
from rlm_wasm.replay.replay import replay
from rlm_wasm.replay.resume import ResumedRun
from rlm_wasm.results import CellRecord
from tests.support.runtime_facts import Events, Script, running, small_policy, tree_model

pytestmark = [pytest.mark.guest, pytest.mark.anyio, pytest.mark.usefixtures("guest", "healthy_host")]
RECORDED: dict[str, dict[str, Any]] = {"events": {"texts": True}, "sandbox": {"entropy": "seeded", "seed": 7}}


def policy(**sections: dict[str, Any]) -> Policy:
    return small_policy(**{**sections, **RECORDED})


@pytest.fixture
def script(tmp_path: Path) -> Script:
    found = Script(tmp_path)
    two = "```repl\nx = len(context)\n```\nThen\n```repl\nprint('second', x)\n```"
    return found.reply("root", two, plain=True, turn=1).reply(
        "root", "FINAL(str(globals().get('x')))", turn=2
    )


class Asked(list[PendingCell]):
    """A hook that keeps what it was asked and answers as it is told."""

    def __init__(self, answer: Callable[[PendingCell], Any] = lambda cell: PassCell()) -> None:
        super().__init__()
        self._answer = answer

    async def __call__(self, cell: PendingCell) -> Any:
        self.append(cell)
        return self._answer(cell)


def judged(events: Events) -> list[tuple[object, object]]:
    return [(data["cell"], data["verdict"]) for data in events.of("cell_judged")]


def assert_nothing_ran_unseen(events: Events) -> None:
    """Each cell that went into a session was let pass before."""
    passed = set()
    for event in events:
        if event.kind == "cell_judged" and event.data["verdict"] == "passed":
            passed.add((event.parent, event.data["cell"]))
        elif event.kind == "cell_started":
            assert (event.parent, event.data["cell"]) in passed


async def test_it_sees_every_cell_before_it_runs_and_lets_it_pass(script: Script) -> None:
    hook, events = Asked(), Events()
    async with running(policy(), script.spec) as runtime:
        result = await runtime.ask("?", "abc", sinks=[events.append], on_cell=hook, tenant="me")
    assert (result.answer, result.stop.kind, result.hook_error) == ("3", StopKind.FINISHED, None)
    assert [(cell.cell, cell.turn, cell.depth, cell.parent, cell.tenant) for cell in hook] == [
        (1, 1, 0, None, "me"), (2, 1, 0, None, "me"), (3, 2, 0, None, "me"),
    ]  # fmt: skip
    assert hook[0].code == "x = len(context)"
    assert hook[0].run_id == result.run_id
    assert judged(events) == [(1, "passed"), (2, "passed"), (3, "passed")]
    assert_nothing_ran_unseen(events)
    events.assert_complete()


@pytest.mark.threat("T-350")
async def test_a_cell_that_is_refused_does_not_run_and_its_model_is_told_why(script: Script) -> None:
    hook = Asked(lambda cell: RefuseCell("no lengths") if "len(" in cell.code else PassCell())
    events, watched = Events(), []
    async with running(policy(), script.spec) as runtime:
        result = await runtime.ask("?", "abc", sinks=[events.append], on_cell=hook, watch=watched.append)
    assert result.answer == "None"
    assert judged(events) == [(1, "refused"), (2, "passed")]
    assert_nothing_ran_unseen(events)
    told = events.of("query_received")[1]["texts"][-2]  # type: ignore[index]
    assert "The block was refused and did not run: no lengths" in told
    assert "1 later blocks of that reply did not run." in told
    (data, _) = events.of("cell_judged")
    assert (data["reason"], data["reason_bytes"], data["source_bytes"]) == ("no lengths", 10, 16)
    refused = result.transcript[0].cells[0]
    assert (refused.outcome, refused.fuel_used) == (Outcome.REFUSED, 0)
    assert next(step for step in watched if isinstance(step, CellRecord)) == refused


@pytest.mark.threat("T-350")
async def test_it_stops_the_run_with_its_reason_and_the_session_is_not_lost(script: Script) -> None:
    hook = Asked(lambda cell: StopRun("enough") if cell.cell == 2 else PassCell())
    events, seen = Events(), []

    async def outputs(files: SessionFiles) -> None:
        seen.extend(file.path for file in await files.list("/out"))

    async with running(policy(), script.spec) as runtime:
        result = await runtime.ask("?", "abc", sinks=[events.append], on_cell=hook, outputs=outputs)
    assert (result.stop.kind, result.reason) == (StopKind.HOOK_STOPPED, "hook_stopped: enough")
    assert result.partial
    assert result.answer == "Then"
    assert seen == ["/out"]
    assert judged(events) == [(1, "passed"), (2, "stopped")]
    assert events.of("run_stopping") == [{"cause": "hook_stopped", "reason": "hook_stopped: enough"}]
    assert "last" not in {data["origin"] for data in events.of("query_received")}
    assert_nothing_ran_unseen(events)
    with pytest.raises(RunStopped, match="hook_stopped: enough"):
        result.raise_for_outcome()


class Odd:
    """No verdict, though it looks like one."""

    reason = "x"


class Named(type):
    """A type that lies about its name."""

    @property
    def __name__(cls) -> Any:
        raise ValueError("no name")


class Unnamed(metaclass=Named):
    """No verdict."""


class Vetoes(RefuseCell):
    """A verdict of an application's own whose reason cannot be had."""

    @property
    def reason(self) -> str:  # type: ignore[override]
        raise LookupError("no reason")


MISBEHAVIOURS: dict[str, tuple[Callable[[PendingCell], Any], str]] = {
    "raises": (lambda cell: {}["missing"], "KeyError"),
    "exits": (lambda cell: exec("raise SystemExit(3)"), "SystemExit"),
    "interrupts": (lambda cell: exec("raise KeyboardInterrupt"), "KeyboardInterrupt"),
    "says nothing": (lambda cell: None, "NoneType is no verdict"),
    "says yes": (lambda cell: True, "bool is no verdict"),
    "gives the class": (lambda cell: PassCell, "type is no verdict"),
    "gives another reason": (lambda cell: RefuseCell(5), "RefuseCell is no verdict"),  # type: ignore[arg-type]
    "is a mock of one": (lambda cell: Mock(spec=PassCell), "Mock is no verdict"),
    "has no name": (lambda cell: Unnamed(), "Unnamed is no verdict"),
    "has no reason": (lambda cell: Vetoes.__new__(Vetoes), "LookupError"),
    "looks like one": (lambda cell: Odd(), "Odd is no verdict"),
}


@pytest.mark.threat("T-350")
@pytest.mark.parametrize("how", MISBEHAVIOURS)
@pytest.mark.parametrize("kind", ["async", "thread"])
async def test_one_that_misbehaves_ends_the_run_typed_and_lets_nothing_run(
    script: Script, how: str, kind: str
) -> None:
    """The session is there to the end, and so is all that the cells before left in it."""
    answer, words = MISBEHAVIOURS[how]

    def plain(cell: PendingCell) -> Any:
        return PassCell() if cell.cell == 1 else answer(cell)

    async def waits(cell: PendingCell) -> Any:
        return plain(cell)

    events, found = Events(), []

    async def outputs(files: SessionFiles) -> None:
        found.append(files)

    async with running(policy(), script.spec) as runtime:
        result = await runtime.ask(
            "?", "abc", sinks=[events.append], on_cell=waits if kind == "async" else plain, outputs=outputs
        )
    assert (result.stop.kind, result.reason) == (StopKind.HOOK_FAILED, f"hook_failed: {words}")
    assert result.hook_error is not None
    assert len(found) == 1
    assert judged(events) == [(1, "passed"), (2, "failed")]
    assert events.of("cell_judged")[1]["error"] == words
    assert_nothing_ran_unseen(events)
    events.assert_complete()
    with pytest.raises(RunStopped) as raised:
        result.raise_for_outcome()
    assert raised.value.__cause__ is result.hook_error


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_what_it_waited_for_being_cancelled_is_a_failure_and_not_the_runs_end(script: Script) -> None:
    async def hook(cell: PendingCell) -> Any:
        raise asyncio.CancelledError

    async with running(policy(), script.spec) as runtime:
        result = await runtime.ask("?", "abc", on_cell=hook)
        assert result.reason == "hook_failed: what it waited for was cancelled"
        assert (await runtime.ask("?", "abc")).answer == "3"


@pytest.mark.threat("T-350")
async def test_one_that_hangs_ends_the_run_at_its_bound(script: Script) -> None:
    """Also one that does not mind being cancelled for a while, and one that hangs in its thread."""
    told, ends = anyio.Event(), threading.Event()

    async def hangs(cell: PendingCell) -> Any:
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await told.wait()

    def blocks(cell: PendingCell) -> Any:
        ends.wait(60)
        return PassCell()

    async with running(policy(run={"hook_ms_max": 20}), script.spec) as runtime:
        for hook in (hangs, blocks):
            events = Events()
            result = await runtime.ask("?", "abc", sinks=[events.append], on_cell=hook)
            assert (result.stop.kind, result.stop.key, result.stop.limit) == (
                StopKind.HOOK_FAILED, "run.hook_ms_max", 20,
            )  # fmt: skip
            assert result.reason == "hook_failed: no verdict within 20 ms"
            assert judged(events) == [(1, "timed_out")]
            assert "cell_started" not in events.kinds()
            events.assert_complete()
        told.set()
        ends.set()
        assert (await runtime.ask("?", "abc", on_cell=Asked())).answer == "3"


async def test_a_run_that_ends_while_it_thinks_cancels_it(script: Script) -> None:
    began, gone = anyio.Event(), anyio.Event()

    async def hook(cell: PendingCell) -> Any:
        began.set()
        try:
            await anyio.sleep_forever()
        finally:
            gone.set()

    events = Events()
    async with running(policy(), script.spec) as runtime, anyio.create_task_group() as tasks:

        async def cancel() -> None:
            await began.wait()
            runtime.cancel("enough")

        tasks.start_soon(cancel)
        result = await runtime.ask("?", "abc", sinks=[events.append], on_cell=hook)
        await gone.wait()
    assert (result.stop.kind, result.reason) == (StopKind.CANCELLED, "enough")
    assert judged(events) == []


async def test_reasons_are_bounded_and_are_text(script: Script) -> None:
    long = "no\ud800" + "ä" * 5_000
    async with running(policy(run={"hook_reason_bytes_max": 100}), script.spec) as runtime:
        result = await runtime.ask("?", "abc", on_cell=Asked(lambda cell: StopRun(long)))
        assert result.reason.startswith("hook_stopped: no?ää")
        assert len(result.reason.encode()) < 160
        result = await runtime.ask("?", "abc", on_cell=Asked(lambda cell: StopRun("")))
        assert result.reason == "hook_stopped: no reason was given"


async def test_a_log_without_texts_has_no_reason(script: Script) -> None:
    events = Events()
    async with running(small_policy(), script.spec) as runtime:
        hook = Asked(lambda cell: StopRun("it opens secret.txt"))
        result = await runtime.ask("?", "abc", sinks=[events.append], on_cell=hook)
    assert result.reason == "hook_stopped: it opens secret.txt"
    assert "secret" not in repr(events)
    assert events.of("run_stopping") == [{"cause": "hook_stopped", "reason": "hook_stopped"}]
    assert events.of("cell_judged")[0]["reason_bytes"] == 19


async def test_a_finish_as_text_is_a_cell_too(tmp_path: Path) -> None:
    script = Script(tmp_path).reply("root", "x = 5", turn=1).reply("root", "FINAL_VAR(x)", turn=2, plain=True)
    hook = Asked()
    async with running(policy(), script.spec) as runtime:
        assert (await runtime.ask("?", on_cell=hook)).answer == "5"
    assert [cell.code for cell in hook] == ["x = 5", "__FINAL_VAR__('x')"]


async def test_a_block_that_is_too_long_for_a_cell_is_refused_without_it(tmp_path: Path) -> None:
    script = Script(tmp_path).reply("root", "x = 5 # " + "-" * 100, turn=1).reply("root", "FINAL(7)", turn=2)
    hook = Asked()
    async with running(policy(cell={"source_bytes_max": 64}), script.spec) as runtime:
        assert (await runtime.ask("?", on_cell=hook)).answer == "7"
    assert [(cell.cell, cell.code) for cell in hook] == [(1, "FINAL(7)")]


TREE = {
    "top": "print(rlm_query_batched(['left a', 'right b']))\nFINAL(1)",
    "left": "left = 1\nFINAL('l')",
    "right": "right = 1\nFINAL('r')",
}


async def test_it_sees_the_cells_of_children_and_who_they_are(tmp_path: Path) -> None:
    hook, events = Asked(), Events()
    async with running(policy(), tree_model(tmp_path, **TREE)) as runtime:
        result = await runtime.ask("top", sinks=[events.append], on_cell=hook)
    assert result.answer == "1"
    children = {data["request"] for data in events.of("child_started")}
    assert {cell.parent for cell in hook if cell.depth == 1} == children
    assert sorted(cell.depth for cell in hook) == [0, 1, 1]
    assert_nothing_ran_unseen(events)


@pytest.mark.threat("T-350")
async def test_stopping_in_a_child_ends_the_whole_run(tmp_path: Path) -> None:
    hook = Asked(lambda cell: StopRun("not below") if cell.depth else PassCell())
    events = Events()
    async with running(policy(), tree_model(tmp_path, **TREE)) as runtime:
        result = await runtime.ask("top", sinks=[events.append], on_cell=hook)
    assert (result.stop.kind, result.reason) == (StopKind.HOOK_STOPPED, "hook_stopped: not below")
    assert [verdict for _, verdict in judged(events)] == ["passed", "stopped"]
    assert_nothing_ran_unseen(events)
    events.assert_complete()


def test_code_that_is_not_async_has_it_too(script: Script) -> None:
    seen: list[PendingCell] = []

    def refuses(cell: PendingCell) -> Any:
        seen.append(cell)
        return StopRun("not here")

    def ends(cell: PendingCell) -> Any:
        raise SystemExit(3)

    result = Runtime(policy(), model=script.spec).ask_sync("?", "abc", on_cell=refuses)
    assert result.reason == "hook_stopped: not here"
    with Runtime(policy(), model=script.spec).sync() as runtime:
        assert runtime.ask("?", "abc", on_cell=refuses).reason == "hook_stopped: not here"
        assert runtime.start("?", "abc", on_cell=refuses).result().reason == "hook_stopped: not here"
        assert runtime.ask("?", "abc", on_cell=ends).reason == "hook_failed: SystemExit"
        assert runtime.ask("?", "abc", on_cell=Asked()).answer == "3"
        with pytest.raises(UsageError, match="on_cell is a function, not a int"):
            runtime.ask("?", on_cell=5)  # type: ignore[arg-type]
    assert len(seen) == 3


# -- again ----------------------------------------------------------------------------------------------


@asynccontextmanager
async def recorded(log: Path, model: str, hook: Any, question: str = "?") -> Any:
    with JsonlSink(log) as sink:
        async with running(policy(), model) as runtime:
            yield await runtime.ask(question, "abc", sinks=[sink.write], on_cell=hook)


HOOKS: dict[str, Callable[[PendingCell], Any]] = {
    "passes": lambda cell: PassCell(),
    "refuses": lambda cell: RefuseCell("no lengths") if "len(" in cell.code else PassCell(),
    "stops": lambda cell: StopRun("enough") if cell.cell == 2 else PassCell(),
    "fails": lambda cell: {}["missing"] if cell.cell == 2 else PassCell(),
}


@pytest.mark.parametrize("how", HOOKS)
async def test_a_replay_repeats_what_it_said_and_calls_no_hook(
    script: Script, tmp_path: Path, how: str
) -> None:
    log = tmp_path / "events.jsonl"
    async with recorded(log, script.spec, Asked(HOOKS[how])):
        pass
    again = tmp_path / "again.jsonl"
    with JsonlSink(again) as sink:
        found = await replay(Recording.open(log), sinks=[sink.write])
    assert (found.difference, found.ended) == (None, None)
    assert again.read_bytes() == log.read_bytes()


@pytest.mark.parametrize("how", ["passes", "stops below"])
async def test_a_replay_of_children_repeats_what_it_said(tmp_path: Path, how: str) -> None:
    log = tmp_path / "events.jsonl"
    hook = Asked(lambda cell: StopRun("no") if cell.depth and how != "passes" else PassCell())
    async with recorded(log, tree_model(tmp_path, **TREE), hook, "top"):
        pass
    found = await replay(Recording.open(log))
    assert (found.difference, found.ended) == (None, None)
    assert found.events == len(log.read_text().splitlines())


async def test_a_log_that_lacks_a_verdict_differs_and_runs_nothing_more(
    script: Script, tmp_path: Path
) -> None:
    log = tmp_path / "events.jsonl"
    async with recorded(log, script.spec, Asked()):
        pass
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    (first, *_) = [line for line in lines if line["kind"] == "cell_judged"]
    first["data"]["verdict"] = "nonsense"
    log.write_text("".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines))
    found = (await replay(Recording.open(log))).difference
    assert found is not None
    assert (found.kind, found.field) == ("cell_judged", "data.error")


def cut_behind(log: Path, kind: str, which: int) -> None:
    lines = log.read_text().splitlines(keepends=True)
    ends = [at for at, line in enumerate(lines) if f'"kind":"{kind}"' in line]
    log.write_text("".join(lines[: ends[which] + 1]))


@pytest.mark.threat("T-350")
@pytest.mark.parametrize(("kind", "which"), [("cell_judged", 0), ("cell_ended", 0), ("query_sent", 1)])
async def test_a_run_that_is_taken_up_asks_about_new_cells_alone(
    script: Script, tmp_path: Path, kind: str, which: int
) -> None:
    log, events = tmp_path / "events.jsonl", Events()
    async with recorded(log, script.spec, Asked()):
        pass
    cut_behind(log, kind, which)
    known = log.read_text().count('"kind":"cell_judged"')
    with pytest.raises(UsageError, match="a hook saw each cell of this run"):
        ResumedRun(Recording.open(log, killed=True))
    hook = Asked()
    result = await ResumedRun(Recording.open(log, killed=True), sinks=[events.append], on_cell=hook).drive()
    assert result.answer == "3"
    assert [cell.cell for cell in hook] == list(range(known + 1, 4))
    assert judged(events) == [(1, "passed"), (2, "passed"), (3, "passed")]
    assert_nothing_ran_unseen(events)


async def test_a_run_that_had_none_is_not_taken_up_with_one(script: Script, tmp_path: Path) -> None:
    log = tmp_path / "events.jsonl"
    async with recorded(log, script.spec, None):
        pass
    cut_behind(log, "cell_ended", 0)
    with pytest.raises(UsageError, match="begun without a hook"):
        ResumedRun(Recording.open(log, killed=True), on_cell=Asked())

"""Recorded runs of every kind, cut anywhere or with a line out of place: each replay ends, and says where."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from rlm_wasm.api.runtime import Runtime
from rlm_wasm.api.sandbox import Sandbox
from rlm_wasm.api.snapshot import Snapshot
from rlm_wasm.audit.reader import EventLogError
from rlm_wasm.audit.sink import JsonlSink
from rlm_wasm.errors import ProviderError, UsageError
from rlm_wasm.events import Event
from rlm_wasm.policy.model import Policy
from rlm_wasm.providers.base import Completion, ProviderFailure, Query
from rlm_wasm.replay.conversation_order import Turns
from rlm_wasm.replay.recorded_order import GIVEN_UP
from rlm_wasm.replay.recording import Recording
from rlm_wasm.replay.replay import Replay, replay
from tests.support.runtime_facts import running, small_policy
from tests.unit.engine.test_children import DEEP, ENDLESS
from tests.unit.replay.test_replay import RECORDED

# ruff: noqa: ASYNC240 - a test may wait for its own small files
pytestmark = [pytest.mark.guest, pytest.mark.anyio, pytest.mark.usefixtures("guest", "healthy_host")]

# Only a replay that hangs takes so long: one of these takes some 20 ms.
SECONDS_MAX = 60
CATCH = "except Exception as e: print(type(e).__name__)"


class Moody:
    """A model of every depth, its code chosen by its question's first word; `llm_query` by its prompt."""

    def __init__(self, **code: str) -> None:
        self._code = code
        self._refusals = 2

    async def complete(self, query: Query) -> Completion:
        first = query.messages[0]
        if first.role == "system":
            word = query.messages[1].content.removeprefix("Question: ").split()[0]
            turn = sum(message.role == "assistant" for message in query.messages)
            code = self._code[f"{word}{turn}" if f"{word}{turn}" in self._code else word]
            return Completion(f"```repl\n{code}\n```", 5, 5)
        if first.content == "never":
            await anyio.sleep_forever()
        if first.content == "refused":
            raise ProviderFailure(ProviderError("no such thing"), retryable=False, sent=True)
        if first.content == "too many" and self._refusals:
            self._refusals -= 1
            raise ProviderFailure(ProviderError("slower"), retryable=True, sent=False, throttled=True)
        return Completion(first.content.upper(), 3, 3)

    async def aclose(self) -> None: ...


async def record(
    log: Path,
    model: Moody,
    *,
    sections: dict[str, Any] | None = None,
    stop: Callable[[Runtime, Event], None] | None = None,
    image: Snapshot | None = None,
) -> None:
    policy = recorded_policy(**(sections or {}))
    async with running(policy, route=lambda name: (model, name)) as runtime:
        with JsonlSink(log) as sink:
            sinks = [sink.write]
            if stop is not None:
                sinks.append(lambda event: stop(runtime, event))
            await runtime.ask("one", sinks=sinks, snapshot=image)


def recorded_policy(**sections: dict[str, Any]) -> Policy:
    return small_policy(**{**sections, **RECORDED}).with_models(root="script:own.py")


async def children_and_refusals(log: Path) -> None:
    model = Moody(
        one=f"for _ in range(2):\n try: llm_query('x', model='none:none')\n {CATCH}\n"
        f"a = rlm_query_batched(['two', 'two'], return_exceptions=True)\nFINAL(len(a))",
        two=f"for _ in range(5):\n try: llm_query('x')\n {CATCH}\nFINAL(llm_query('y'))",
    )
    await record(log, model, sections={"budget": {"calls_max": 8}, "run": {"turns_max": 2}})


async def throttled_and_failed(log: Path) -> None:
    model = Moody(
        one=f"print(llm_query_batched(['too many', 'a']))\ntry: llm_query('refused')\n{CATCH}\n1/0",
        one1="FINAL(llm_query('b'))",
    )
    await record(log, model)


async def timed_out(log: Path) -> None:
    model = Moody(
        one=f"try: llm_query('never')\n{CATCH}\n"
        "FINAL(rlm_query_batched(['slow', 'two'], return_exceptions=True))",
        slow="while True: pass",
        two="FINAL(llm_query('x'))",
    )
    sections = {"query": {"timeout_ms_max": 200}, "run": {"child_wall_ms_max": 400}, **ENDLESS}
    sections["cell"] = {**ENDLESS["cell"], "wall_ms_max": 1_000}
    await record(log, model, sections=sections)


async def cancelled(log: Path) -> None:
    model = Moody(
        one="rlm_query_batched(['two', 'two'])",
        two="llm_query('x')\nllm_query_batched(['never', 'y'])",
    )
    answered = 0

    def stop(runtime: Runtime, event: Event) -> None:
        nonlocal answered
        answered += event.kind == "query_answered"
        if answered == 6:
            runtime.cancel("by hand")

    await record(log, model, sections={"run": DEEP}, stop=stop)


async def out_of_iterations(log: Path) -> None:
    model = Moody(one="print(rlm_query('two'))", two="print(llm_query('x'))")
    await record(log, model, sections={"budget": {"iterations_max": 5}})


async def too_long(log: Path) -> None:
    model = Moody(one="FINAL(rlm_query_batched(['two', 'two']))", two="FINAL(llm_query('x'))")
    await record(log, model, sections={"run": {"events_max": 24}})


async def from_an_image(log: Path) -> None:
    async with Sandbox(recorded_policy()) as box, await box.session() as session:
        assert (await session.exec("found = 5")).outcome == "completed"
        image = await session.snapshot()
        image.save(log.with_suffix(".image"), key=bytes(32))
        model = Moody(one="FINAL(rlm_query('two'))", two="FINAL(found)")
        await record(log, model, image=image)


RUNS: dict[str, Callable[[Path], Awaitable[None]]] = {
    run.__name__: run
    for run in (
        children_and_refusals,
        throttled_and_failed,
        timed_out,
        cancelled,
        out_of_iterations,
        too_long,
        from_an_image,
    )
}
# What each has that the others may lack.
SHOWN = {
    "children_and_refusals": "query_denied",
    "throttled_and_failed": "provider_throttled",
    "timed_out": '"status":"timed_out"',
    "cancelled": "run_stopping",
    "out_of_iterations": "budget",
    "too_long": "events_truncated",
    "from_an_image": "start_image_sha256",
}


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "events.jsonl"


async def replayed(log: Path) -> Replay:
    recording = Recording.open(log)
    image = None
    if recording.image_sha256 is not None:
        image = Sandbox(recording.policy).load_snapshot(log.with_suffix(".image"), key=bytes(32))
    with anyio.fail_after(SECONDS_MAX):
        return await replay(recording, snapshot=image)


@pytest.mark.threat("T-171")
@pytest.mark.parametrize("run", RUNS)
async def test_a_log_that_is_cut_anywhere_is_the_same_up_to_there(log: Path, run: str) -> None:
    await RUNS[run](log)
    lines = log.read_bytes().splitlines(keepends=True)
    assert SHOWN[run] in log.read_text()
    kinds = [json.loads(line)["kind"] for line in lines]
    whole = await replayed(log)
    assert whole.difference is None
    for kept in range(2, len(lines)):
        log.write_bytes(b"".join(lines[:kept]))
        found = await replayed(log)
        assert found.difference is None, (kept, found)
        assert found.ended is not None
        # These are told together with the event behind them, which is missing.
        end = kept
        while kinds[end - 1] in ("query_denied", "provider_throttled"):
            end -= 1
        if found.ended != GIVEN_UP and not found.ended.startswith(
            "the recording is cut off by run.events_max"
        ):
            assert found.events == end
            assert found.ended.startswith(f"the recording ends with event {kept - 1}, ")
        else:
            assert found.events == whole.events <= end


@pytest.mark.threat("T-171")
async def test_a_log_that_is_cut_within_a_line_is_none(log: Path) -> None:
    await throttled_and_failed(log)
    whole = log.read_bytes()
    ends = {at for at, byte in enumerate(whole) if byte == ord("\n")}
    for kept in ({*range(0, len(whole), 97)} | {end - 1 for end in ends} | ends) - {end + 1 for end in ends}:
        log.write_bytes(whole[:kept])
        with pytest.raises(UsageError) as caught:
            await replayed(log)
        assert isinstance(caught.value, EventLogError)
        assert caught.value.line in (0, whole.count(b"\n", 0, kept) + 1)


def renumbered(lines: list[dict[str, Any]]) -> bytes:
    """Number them so that the log still reads."""
    latest = 0
    for seq, line in enumerate(lines):
        latest = max(latest, line["at_ns"])
        line |= {"seq": seq, "at_ns": latest}
    return b"".join(
        json.dumps(line, separators=(",", ":"), ensure_ascii=False).encode() + b"\n" for line in lines
    )


@pytest.mark.threat("T-171")
@pytest.mark.parametrize("anyio_backend", ["asyncio"])  # the others run on both
@pytest.mark.parametrize("how", ["dropped", "doubled", "swapped"])
@pytest.mark.parametrize("run", RUNS)
async def test_a_log_with_a_line_out_of_place_ends_its_replay(log: Path, run: str, how: str) -> None:
    await RUNS[run](log)
    good = log.read_bytes().splitlines()
    ended = 0
    for at in range(2, len(good) - 2):
        lines = [json.loads(line) for line in good]
        if how == "dropped":
            del lines[at]
        elif how == "doubled":
            lines.insert(at, dict(lines[at]))
        else:
            lines[at], lines[at + 1] = lines[at + 1], lines[at]
        log.write_bytes(renumbered(lines))
        try:
            found = await replayed(log)
        except EventLogError:  # one event more than its run may write
            ended += 1
            continue
        # Not each time: two answers of one moment may also have come the other way, and what a conversation
        # that was stopped still did is taken from the log.
        ended += found.difference is not None
    assert ended > (len(good) - 4) // 2


@pytest.mark.threat("T-171")
async def test_a_replay_that_comes_no_further_ends_by_the_clock_where_nothing_else_ends_it(
    log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last line of defence: here a replay that does not notice that it stands still."""
    short = {"wall_ms_max": 500}
    sections = {
        "run": {"child_wall_ms_max": 500, **short},
        "cell": {"sleep_ms_max": 500, **short},
        "query": {"timeout_ms_max": 500},
    }
    await record(log, Moody(one="FINAL(llm_query('x'))"), sections=sections)
    lines = [json.loads(line) for line in log.read_bytes().splitlines()]
    del lines[next(at for at, line in enumerate(lines) if line["kind"] == "query_answered")]
    log.write_bytes(renumbered(lines))
    monkeypatch.setattr(Turns, "stand_still", False)
    found = await replayed(log)
    assert found.difference is None
    assert found.ended == "nothing came of the recording's event 5 (cell_started) for 500 ms"

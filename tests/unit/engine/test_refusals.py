"""What a guest asks for in vain: its host's work is bounded by the frames that it sent and paid for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anyio
import pytest

from rlm_wasm.audit.sink import JsonlSink
from rlm_wasm.engine.guest_requests import GuestRequests
from rlm_wasm.policy.model import Policy
from rlm_wasm.replay.recording import Recording
from rlm_wasm.replay.replay import replay
from rlm_wasm.scheduler.effects import Effect
from rlm_wasm.scheduler.inputs import BatchReceived, Input
from rlm_wasm.scheduler.scheduler import Scheduler
from rlm_wasm.vm.imports import FUEL_PER_REQUEST
from tests.support.runtime_facts import Events, running, small_policy, tree_model
from tests.unit.replay.test_replay import RECORDED

pytestmark = [pytest.mark.guest, pytest.mark.anyio, pytest.mark.usefixtures("guest", "healthy_host")]
ITEMS, OF_CELL, OF_RUN, FRAMES = 64, 64, 100, 200
# Inputs with what is in them, and effects: for a frame that is refused, and for a request that is counted.
WORK_A_FRAME, WORK_A_REQUEST = 4, 14
FRAME_KINDS: dict[str, dict[str, Any]] = {
    "query": {"type": "llm_query", "prompt": "", "model": "n:x"},
    "batch": {"type": "llm_query_batch", "prompts": [""] * ITEMS, "model": "n:x"},
    "child": {"type": "rlm_query", "prompt": ""},
    "children": {"type": "rlm_query_batch", "prompts": [""] * ITEMS, "model": "n:x"},
    "too large": {"type": "llm_query", "prompt": "x" * 3_000},
    "a batch too large": {"type": "llm_query_batch", "prompts": ["x"] * ITEMS + ["x" * 3_000]},
    "budget": {"type": "budget"},
    "finish": {"type": "finish", "answer": "done"},
}


def policy_of(**sections: dict[str, Any]) -> Policy:
    limits: dict[str, dict[str, Any]] = {
        "cell": {"requests_max": OF_CELL, "fuel_max": 10**11},
        "boundary": {"batch_items_max": ITEMS, "prompt_bytes_max": 2_000},
        "run": {"reserve_percent": 0},
        "budget": {"requests_max": OF_RUN, "fuel_max": 10**12, "output_tokens_max": 10**8},
    }
    for name, keys in sections.items():
        limits[name] = limits.get(name, {}) | keys
    return small_policy(**limits)


class Work:
    """Counts what the host does: frames that it reads, inputs with what is in them, and their effects."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.frames = self.done = 0
        ask, handle = GuestRequests.ask, Scheduler.handle

        def asked(requests: Any, frame: bytes, reply: Any) -> None:
            self.frames += 1
            ask(requests, frame, reply)

        def handled(scheduler: Any, given: Input, now_ns: int) -> list[Effect]:
            effects = handle(scheduler, given, now_ns)
            self.done += len(effects) + (len(given.items) if isinstance(given, BatchReceived) else 1)
            return effects

        patch.setattr(GuestRequests, "ask", asked)
        patch.setattr(Scheduler, "handle", handled)


def flood(frame: dict[str, Any], times: int = FRAMES) -> str:
    """Send a frame so many times past the guest's own modules, and leave the answers where they are."""
    send = f"import _rlm\nframe = {json.dumps(frame).encode()!r}\nfor _ in range({times}): _rlm.call(frame)"
    return f"{send}\nFINAL('end')"


@pytest.mark.threat("T-142")
@pytest.mark.parametrize("kind", FRAME_KINDS)
async def test_the_hosts_work_is_bounded_by_frames_and_each_is_paid_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    work, events = Work(monkeypatch), Events()
    async with running(policy_of(), tree_model(tmp_path, one=flood(FRAME_KINDS[kind]))) as runtime:
        with anyio.fail_after(60):
            result = await runtime.ask("one", sinks=[events.append])
    events.assert_complete()
    assert work.frames >= FRAMES, "nothing ended it before"
    counted = result.spent["requests"]
    assert counted <= OF_RUN
    assert work.done <= WORK_A_FRAME * work.frames + WORK_A_REQUEST * counted
    assert result.spent["fuel"] >= FUEL_PER_REQUEST * work.frames


@pytest.mark.threat("T-142")
@pytest.mark.parametrize("mode", ["part", "all"])
async def test_of_a_batch_only_what_there_is_room_for_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    """The rest is counted and refused together, and the guest is told of each, in its place."""
    work, events = Work(monkeypatch), Events()
    code = (
        "found = llm_query_batched(['a'] * 40, return_exceptions=True)\n"
        "found += llm_query_batched(['b'] * 60, return_exceptions=True)\n"
        "FINAL([f if type(f) is str else str(f) for f in found])"
    )
    policy = policy_of(query={"batch": mode})
    async with running(policy, tree_model(tmp_path, one=code)) as runtime:
        result = await runtime.ask("one", sinks=[events.append])
    answered = 24 if mode == "part" else 0
    cell = "cell.requests budget exceeded: requested 1, 0 of 64 available"
    run = "requests budget exceeded: requested 1, 0 of 100 available"
    # One of the run's 100 was the root's own; the cell's cap counts as well what the run's is used up for.
    refused = [cell] * (59 - answered) + [run] if mode == "part" else [cell] * 60
    assert result.answer == str(["A"] * 40 + ["B"] * answered + refused)
    assert result.spent["requests"] == 100
    told = {str(data["reason"]): data["count"] for data in events.of("query_denied")}
    assert sum(told.values()) == len(refused)  # type: ignore[arg-type]
    assert events[-1].data["queries_denied"] == len(refused)
    assert work.done <= WORK_A_REQUEST * (40 + answered + 4)


async def test_what_was_refused_together_is_refused_so_again(tmp_path: Path) -> None:
    log = tmp_path / "events.jsonl"
    code = (
        "sizes, found = (7, 40, 3, 64, 2), []\n"
        "for size in sizes: found += llm_query_batched(['x'] * size, return_exceptions=True)\n"
        "FINAL([type(f) is str for f in found].count(True))"
    )
    model = tree_model(tmp_path, one=code)
    policy = policy_of(**RECORDED)
    with anyio.fail_after(60):
        async with running(policy, model) as runtime:
            with JsonlSink(log) as sink:
                await runtime.ask("one", sinks=[sink.write])
        for _ in range(2):
            found = await replay(Recording.open(log))
            assert (found.difference, found.ended) == (None, None)

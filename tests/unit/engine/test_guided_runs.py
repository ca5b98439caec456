"""Runs with own instructions and examples: who is told, within which limits, and again in a replay."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rlm_wasm import Example, Runtime
from rlm_wasm.audit.sink import JsonlSink
from rlm_wasm.errors import UsageError
from rlm_wasm.events import Event
from rlm_wasm.policy.model import Policy
from rlm_wasm.replay.recording import Recording
from rlm_wasm.replay.replay import replay
from rlm_wasm.replay.resume import ResumedRun
from tests.support.runtime_facts import Events, Script, running, small_policy, tree_model

pytestmark = [pytest.mark.guest, pytest.mark.anyio, pytest.mark.usefixtures("guest", "healthy_host")]
SAID, SHOWN = "Dates are day/month.", Example("How long?", "```repl\nlen(context)\n```")
RECORDED: dict[str, dict[str, Any]] = {"events": {"texts": True}, "sandbox": {"entropy": "seeded", "seed": 7}}
OWN = {"instructions": "From the policy.", "examples": {"one": {"question": "Which?", "reply": "`repl`"}}}


def policy(**sections: dict[str, Any]) -> Policy:
    return small_policy(**{**sections, **RECORDED})


def prompts(events: list[Event], depth: int = 0) -> list[str]:
    """Return what the system prompts of a depth were."""
    return [
        str(event.data["texts"][0])  # type: ignore[index]
        for event in events
        if event.kind == "query_received" and event.depth == depth and event.data["origin"] != "guest"
    ]


@pytest.fixture
def script(tmp_path: Path) -> Script:
    found = Script(tmp_path)
    found.reply("root", "a, b = llm_query(x), llm_query(y)", turn=1)
    found.reply("root", "FINAL(a + b)", turn=2)
    return found.reply("sub", "ok")


async def test_the_root_is_told_each_turn_and_who_answers_its_code_is_not(script: Script) -> None:
    events = Events()
    async with running(policy(guidance=OWN), script.spec) as runtime:
        result = await runtime.ask(
            "?", {"x": "one", "y": "two"}, sinks=[events.append], instructions=SAID, examples=[SHOWN]
        )
    assert result.answer == "okok"
    told = prompts(events)
    assert len(told) == 2
    for prompt in told:
        assert f"<instructions>\nFrom the policy.\n\n{SAID}\n</instructions>" in prompt
        assert prompt.index("Question 1: Which?") < prompt.index("Question 2: How long?")
    sub = [data["texts"] for data in events.of("query_received") if data["origin"] == "guest"]
    assert sub == [["one"], ["two"]]


@pytest.mark.parametrize("children", [False, True])
async def test_children_are_told_where_the_policy_says_so(tmp_path: Path, children: bool) -> None:
    model = tree_model(tmp_path, top="FINAL(rlm_query('below it'))", below="FINAL(7)")
    events = Events()
    async with running(policy(guidance={"children": children}), model) as runtime:
        result = await runtime.ask("top", sinks=[events.append], instructions=SAID)
    assert result.answer == "7"
    assert [SAID in prompt for prompt in prompts(events)] == [True]
    assert [SAID in prompt for prompt in prompts(events, 1)] == [children]


async def test_more_than_the_policy_allows_is_refused_before_anything_runs(script: Script) -> None:
    limits = {**OWN, "instructions_bytes_max": 30}
    async with running(policy(guidance=limits), script.spec) as runtime:
        with pytest.raises(UsageError, match=r"take 38 bytes, 30 allowed: guidance\.instructions_bytes_max"):
            await runtime.ask("?", instructions=SAID)
        with pytest.raises(UsageError, match="instructions: there is nothing in it"):
            runtime.start("?", instructions=" ")
        with pytest.raises(UsageError, match="example 1 is an Example"):
            await runtime.ask("?", examples=["x"])  # type: ignore[list-item]


async def test_a_replay_knows_them_and_another_word_is_a_difference(script: Script, tmp_path: Path) -> None:
    log = tmp_path / "events.jsonl"
    with JsonlSink(log) as sink:
        async with running(policy(), script.spec) as runtime:
            await runtime.ask(
                "?", {"x": "1", "y": "2"}, sinks=[sink.write], instructions=SAID, examples=[SHOWN]
            )
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    data = lines[1]["data"]
    assert (data["instructions"], data["instructions_bytes"], data["examples"]) == (SAID, len(SAID), 1)
    assert (data["example_questions"], data["example_replies"]) == ([SHOWN.question], [SHOWN.reply])
    found = await replay(Recording.open(log))
    assert (found.difference, found.ended, found.events) == (None, None, len(lines))
    data["instructions"] = SAID.replace("month", "MONTH")
    log.write_text(
        "".join(json.dumps(line, ensure_ascii=False, separators=(",", ":")) + "\n" for line in lines)
    )
    other = (await replay(Recording.open(log))).difference
    assert other is not None
    assert (other.kind, other.field) == ("query_received", "data.texts[0]")


async def test_a_log_without_texts_has_their_sizes_alone(script: Script) -> None:
    events = Events()
    async with running(small_policy(), script.spec) as runtime:
        await runtime.ask(
            "?", {"x": "1", "y": "2"}, sinks=[events.append], instructions=SAID, examples=[SHOWN]
        )
    (data,) = events.of("run_described")
    assert (data["instructions_bytes"], data["examples"]) == (len(SAID), 1)
    assert not {"instructions", "example_questions", "example_replies"} & set(data)


async def test_a_run_that_is_taken_up_goes_on_with_them(script: Script, tmp_path: Path) -> None:
    log, events = tmp_path / "events.jsonl", Events()
    with JsonlSink(log) as sink:
        async with running(policy(), script.spec) as runtime:
            await runtime.ask("?", {"x": "1", "y": "2"}, sinks=[sink.write], instructions=SAID)
    lines = log.read_text().splitlines(keepends=True)
    end = next(at for at, line in enumerate(lines) if '"kind":"cell_ended"' in line)
    log.write_text("".join(lines[: end + 1]))
    result = await ResumedRun(Recording.open(log, killed=True), sinks=[events.append]).drive()
    assert result.answer == "okok"
    assert [SAID in prompt for prompt in prompts(events)] == [True, True]


def test_code_that_is_not_async_gives_them_too(script: Script) -> None:
    def asked(events: Events) -> list[bool]:
        return [SAID in prompt and SHOWN.reply in prompt for prompt in prompts(events)]

    more: Any = {"context": {"x": "1", "y": "2"}, "instructions": SAID, "examples": [SHOWN]}
    events = Events()
    Runtime(policy(), model=script.spec).ask_sync("?", sinks=[events.append], **more)
    assert asked(events) == [True, True]
    with Runtime(policy(), model=script.spec).sync() as runtime:
        for call in (runtime.ask, lambda *a, **k: runtime.start(*a, **k).result()):
            events = Events()
            call("?", sinks=[events.append], **more)
            assert asked(events) == [True, True]

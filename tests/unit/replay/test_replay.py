"""Recorded runs, repeated with the real guest: the same bytes, or the first place where they are not."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest

from rlm_wasm.api.runtime import Runtime
from rlm_wasm.api.sandbox import Sandbox
from rlm_wasm.api.snapshot import Snapshot
from rlm_wasm.artifacts import snapshot_file
from rlm_wasm.audit.catalogue import KINDS
from rlm_wasm.audit.reader import EventLogError, read_events
from rlm_wasm.audit.sink import JsonlSink
from rlm_wasm.errors import PolicyError, UsageError
from rlm_wasm.events import Event
from rlm_wasm.policy.model import Policy
from rlm_wasm.providers.base import Completion, Query
from rlm_wasm.replay.recording import Recording
from rlm_wasm.replay.replay import Replay, answers_from, replay
from rlm_wasm.scheduler.request import Completed
from tests.support.provider_loopback import Loopback, Seen, Write, completion_body, http, loopback_server
from tests.support.runtime_facts import Events, Script, running, small_policy, tireless_model, tree_model
from tests.support.small_window import small_window, talkative
from tests.unit.engine.test_runs_over_http import (
    ENVIRON,
    answered,
    conversation,
    policy_at,
    silence,
    without_usage,
)

# ruff: noqa: ASYNC240 - a test may wait for its own small files
pytestmark = [pytest.mark.guest, pytest.mark.anyio, pytest.mark.usefixtures("guest", "healthy_host")]

# Loaded now, with its libraries: what they map is nothing that a test leaves behind.
assert snapshot_file

RECORDED: dict[str, dict[str, Any]] = {"events": {"texts": True}, "sandbox": {"entropy": "seeded", "seed": 7}}


def recorded_policy(**sections: dict[str, Any]) -> Policy:
    return small_policy(**{**sections, **RECORDED})


def with_cache(policy: Policy, folder: Path) -> Policy:
    cache = {"file": str(folder / "answers.db"), "entries_max": 9, "bytes_max": 99_999, "sampled": False}
    exact = {"temperature": 0}
    return policy.replace(
        cache=cache, models={"settings": {"openai:gpt-5": exact, "openai:gpt-5-mini": exact}}
    )


@pytest.fixture
def script(tmp_path: Path) -> Script:
    return Script(tmp_path)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "events.jsonl"


@pytest.fixture
def server(healthy_host: None) -> Iterator[Loopback]:
    with loopback_server() as loopback:
        yield loopback


async def record(
    log: Path, policy: Policy, model: str | None, context: Any = None, **more: Any
) -> str | None:
    with JsonlSink(log) as sink:
        async with running(policy, model, **more) as runtime:
            return (await runtime.ask("?", context, sinks=[sink.write])).answer


def assert_same(found: Replay, log: Path) -> None:
    assert found.difference is None
    assert found.ended is None
    assert found.events == len(log.read_text().splitlines())


async def test_a_run_with_a_batch_replays_to_the_same_bytes(
    script: Script, log: Path, tmp_path: Path
) -> None:
    script.reply("root", "parts = llm_query_batched(context.split())\nprint(len(parts))", turn=1)
    script.reply("root", "FINAL(' '.join(parts))", turn=2).reply("sub", r"<\1>", pattern=r"^(\w+)$")
    assert await record(log, recorded_policy(), script.spec, "a b c d") == "<a> <b> <c> <d>"
    script.path.unlink()  # nobody may be asked again
    again = tmp_path / "again.jsonl"
    with JsonlSink(again) as sink:
        assert_same(await replay(Recording.open(log), sinks=[sink.write]), log)
    assert again.read_bytes() == log.read_bytes()


async def test_why_a_reply_ended_where_it_did_is_repeated(script: Script, log: Path) -> None:
    """What becomes of a block that is not closed depends on it."""
    script.reply("root", "```repl\nx = 1", turn=1, plain=True, finish="length")
    script.reply("root", "```repl\nFINAL(2)", turn=2, plain=True)
    assert await record(log, recorded_policy(), script.spec) == "2"
    answered = [
        e["data"] for e in map(json.loads, log.read_text().splitlines()) if e["kind"] == "query_answered"
    ]
    assert [data["finish"] for data in answered] == ["length", "stop"]
    assert_same(await replay(Recording.open(log)), log)


async def test_what_a_guest_draws_and_reads_off_its_clock_comes_again(script: Script, log: Path) -> None:
    source = "import random, time, secrets\nFINAL([random.random(), secrets.token_hex(4), time.time()])"
    script.reply("root", source)
    first = await record(log, recorded_policy(), script.spec)
    assert_same(await replay(Recording.open(log)), log)
    # The second run of a runtime: what a guest sees does not depend on how many there were before.
    with JsonlSink(log) as sink:
        async with running(recorded_policy(), script.spec) as runtime:
            await runtime.ask("another")
            assert (await runtime.ask("?", sinks=[sink.write])).answer == first
    assert_same(await replay(Recording.open(log)), log)


def as_first_written(log: Path, *, policy_without: str = "") -> None:
    """Take from a log what came without a new version of events, and a key from its policy."""
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    for line in lines:
        for name, field in KINDS[line["kind"]].fields.items():
            if field.later:
                line["data"].pop(name, None)
    if policy_without:
        described = lines[1]["data"]
        kept = [row for row in described["policy"].split("\n") if not row.startswith(policy_without + " =")]
        assert len(kept) < described["policy"].count("\n") + 1
        described["policy"] = "\n".join(kept)
    with JsonlSink(log) as sink:
        for line in lines:
            sink.write(msgspec.convert(line, Event))


async def test_a_log_from_before_a_field_came_replays_and_answers(script: Script, log: Path) -> None:
    script.reply("root", "FINAL(llm_query('x'))").reply("sub", "yes")
    await record(log, recorded_policy(), script.spec)
    as_first_written(log)
    assert "cell_fuel_max" not in next(read_events(log)).event.data
    assert_same(await replay(Recording.open(log)), log)
    async with Runtime(
        recorded_policy().with_models(root=script.spec), route=answers_from(Recording.open(log))
    ) as runtime:
        assert (await runtime.ask("?")).answer == "yes"


async def test_a_log_whose_policy_lacks_a_key_of_today_says_what_to_give(script: Script, log: Path) -> None:
    script.reply("root", "FINAL(llm_query('x'))").reply("sub", "yes")
    await record(log, recorded_policy(), script.spec)
    as_first_written(log, policy_without="response_bytes_max")
    recording = Recording.open(log)
    with pytest.raises(PolicyError, match="response_bytes_max: is missing") as caught:
        await replay(recording)
    assert "--policy" in str(caught.value.hint)
    policy = recorded_policy().with_models(root=script.spec)
    assert_same(await replay(recording, policy=policy), log)
    async with Runtime(policy, route=answers_from(recording)) as runtime:
        assert (await runtime.ask("?")).answer == "yes"


async def test_a_log_from_before_a_key_with_a_default_replays_as_it_is(script: Script, log: Path) -> None:
    """Its policy is written out with that key now: the same policy in another text."""
    script.reply("root", "FINAL(llm_query('x'))").reply("sub", "yes")
    await record(log, recorded_policy(), script.spec)
    as_first_written(log, policy_without="hook_ms_max")
    assert "hook_ms_max" not in log.read_text()
    assert_same(await replay(Recording.open(log)), log)


class LastFirst:
    """A provider that answers the queries of a batch from the last to the first."""

    def __init__(self, batch: str) -> None:
        self.waiting: dict[str, anyio.Event] = {item: anyio.Event() for item in batch}

    async def complete(self, query: Query) -> Completion:
        prompt = query.messages[-1].content
        if query.messages[0].role == "system":
            return Completion(
                f"```repl\nFINAL(llm_query_batched(list({''.join(self.waiting)!r})))\n```", 1, 1
            )
        await self.waiting[prompt].wait()
        return Completion(prompt.upper(), 1, 1)

    def release(self, event: Event) -> None:
        """Let the last one that still waits go, when all are under way, or one has been answered."""
        number = event.data.get("request")
        if (event.kind, number) == ("query_sent", 5) or (event.kind == "query_answered" and number != 1):
            last = max((item for item, event in self.waiting.items() if not event.is_set()), default=None)
            if last is not None:
                self.waiting[last].set()

    async def aclose(self) -> None: ...


async def test_answers_that_came_in_another_order_come_in_that_order_again(log: Path) -> None:
    provider, events = LastFirst("abc"), Events()
    policy = recorded_policy().with_models(root="script:own.py")
    with JsonlSink(log) as sink:
        async with running(policy, route=lambda name: (provider, name)) as runtime:
            sinks = [sink.write, events.append, provider.release]
            assert (await runtime.ask("?", sinks=sinks)).answer == "['A', 'B', 'C']"
    assert [data["request"] for data in events.of("query_answered")] == [1, 5, 4, 3]
    assert_same(await replay(Recording.open(log)), log)


@pytest.mark.threat("T-085")
async def test_failures_retries_and_refusals_replay_and_ask_nobody(server: Loopback, log: Path) -> None:
    refusals = [http("429 Too Many Requests", "{}", "Retry-After: 0"), http("503 Service Unavailable", "{}")]

    def sub(prompt: str) -> bytes:
        if prompt == "bad":
            return http("400 Bad Request", '{"error": {"message": "no such thing"}}')
        return refusals.pop(0) if refusals else answered(prompt)

    source = (
        "first = llm_query('a')\n"
        "many = [str(r) for r in llm_query_batched(['b', 'bad', 'c'], return_exceptions=True)]\n"
        "try:\n    while True: llm_query('more')\nexcept BudgetExceeded as e: FINAL([first, many, str(e)])"
    )
    server.behaviour = conversation(source, sub)
    policy = policy_at(server, **RECORDED, budget={"calls_max": 9})
    answer = await record(log, policy, None, environ=ENVIRON)
    assert answer is not None
    assert "no such thing" in answer
    assert "calls budget exceeded" in answer
    asked = len(server.requests)
    assert_same(await replay(Recording.open(log)), log)
    assert len(server.requests) == asked


async def test_silence_and_estimates_replay_to_the_same_bytes(
    server: Loopback, log: Path, tmp_path: Path
) -> None:
    root = "```repl\nFINAL([llm_query('q') for _ in range(2)])\n```"
    replies = [silence("thoughts"), silence("nothing"), http("200 OK", completion_body(root))]
    replies += [without_usage("null", reasoning="hm"), without_usage("floats")]
    server.behaviour = lambda _seen, write: write(replies.pop(0))
    policy = policy_at(server, **RECORDED, query={"attempts_max": 2})
    assert await record(log, policy, None, environ=ENVIRON) == "['Bern', 'Bern']"
    again = tmp_path / "again.jsonl"
    with JsonlSink(again) as sink:
        assert_same(await replay(Recording.open(log), sinks=[sink.write]), log)
    assert again.read_bytes() == log.read_bytes()
    assert [answer.error.__class__.__name__ for answer in Recording.open(log).answers()][:2] == ["NoText"] * 2


@pytest.mark.parametrize("cached", [False, True])
async def test_answers_that_were_cut_off_are_asked_for_again_and_replay(
    server: Loopback, log: Path, tmp_path: Path, cached: bool
) -> None:
    """One comes whole with the larger cap, one fails then, so that its cut text stands."""
    asked: list[tuple[str, int]] = []

    def behave(seen: Seen, write: Write) -> None:
        prompt, cap = seen.body["messages"][-1]["content"], seen.body["max_completion_tokens"]
        if seen.body["messages"][0]["role"] == "system":
            write(http("200 OK", completion_body(f"```repl\n{source}\n```")))
            return
        asked.append((prompt, cap))
        if cap > first and prompt == "b":
            write(http("400 Bad Request", '{"error": {"message": "a cap too large"}}'))
            return
        finish, text = ("stop", "whole") if cap > first else ("length", "cut")
        choice = {"index": 0, "message": {"content": text}, "finish_reason": finish}
        write(http("200 OK", completion_body(choices=[choice])))

    source = (
        "a, b = llm_query('a'), llm_query('b')\n"
        "FINAL([a, b, isinstance(a, CutAnswer), isinstance(b, CutAnswer)])"
    )
    server.behaviour = behave
    policy = policy_at(server, **RECORDED, query={"output_tokens_max": 512, "output_tokens_retry_max": 900})
    if cached:
        policy = with_cache(policy, tmp_path)
    first = policy.query.output_tokens_max
    answer = await record(log, policy, None, environ=ENVIRON)
    assert answer == "['whole', 'cut', False, True]"
    assert asked == [("a", first), ("a", 900), ("b", first), ("b", 900)]
    assert_same(await replay(Recording.open(log)), log)
    # A model that answers as the log tells gives both attempts again, too.
    route = answers_from(Recording.open(log))
    async with running(policy, None, route=route) as runtime:
        assert (await runtime.ask("?")).answer == answer


@pytest.mark.threat("T-085")
async def test_models_in_the_place_of_others_answer_at_their_own_price_and_replay(
    server: Loopback, log: Path
) -> None:
    """One model is at its limit, one is gone, short prompts go to a third: the log says who answered."""
    small, middle, large = "openai:small", "openai:gpt-5-mini", "openai:gpt-5"

    def behave(seen: Seen, write: Write) -> None:
        model, prompt = seen.body["model"], seen.body["messages"][-1]["content"]
        if seen.body["messages"][0]["role"] == "system":
            write(http("200 OK", completion_body(f"```repl\n{source}\n```")))
        elif model == "gpt-5-mini":
            refusal = "429 Too Many Requests" if "limit" in prompt else "404 Not Found"
            write(http(refusal, "{}", "Retry-After: 600"))
        else:
            write(http("200 OK", completion_body(f"{model} {prompt}")))

    prompts = ["a", "one at its limit", "one that is gone"]
    source = f"FINAL([*llm_query_batched({prompts!r}), llm_query('a', model='openai:gpt-5')])"
    server.behaviour = behave
    price = {"input_microdollars_per_mtok": 1_000_000, "output_microdollars_per_mtok": 1_000_000}
    policy = policy_at(server, **RECORDED)
    policy = policy.replace(
        models={
            "prices": {**policy.models.prices, small: price},
            "fallback": {middle: [small, large]},
            "sub_up_to_bytes": {small: 4},
        }
    )
    with JsonlSink(log) as sink:
        async with running(policy, environ=ENVIRON) as runtime:
            result = await runtime.ask("?", sinks=[sink.write])
    texts = ["small a", "small one at its limit", "small one that is gone", "gpt-5 a"]
    assert result.answer == str(texts)
    assert result.answered_by == {large: 2, small: 3}
    # 11 tokens in and 7 out each: three at 1 and 1 micro-dollars, two at 1.25 and 10, rounded up each.
    assert result.spent["cost_microdollars"] == 3 * 18 + 2 * 84
    assert result.spent["calls"] == 5, "what a model refuses unseen is no call"
    events = [json.loads(line) for line in log.read_text().splitlines()]
    rerouted = [e["data"] for e in events if e["kind"] == "query_rerouted"]
    assert sorted((data["model"], data["throttled"]) for data in rerouted) == [(small, False), (small, True)]
    answered_by = [e["data"]["model"] for e in events if e["kind"] == "query_answered"]
    assert sorted(answered_by) == sorted([large, small, small, small, large])
    assert_same(await replay(Recording.open(log)), log)
    async with running(policy, route=answers_from(Recording.open(log))) as runtime:
        assert (await runtime.ask("?")).answer == str(texts)


@pytest.mark.threat("T-085")
@pytest.mark.threat("T-244")
async def test_answers_of_a_cache_cost_nothing_are_each_tenants_own_and_replay(
    server: Loopback, log: Path, tmp_path: Path
) -> None:
    """The second run of a tenant asks nobody; what was cut off, and another tenant's, is asked for again."""

    def behave(seen: Seen, write: Write) -> None:
        prompt = seen.body["messages"][-1]["content"]
        if seen.body["messages"][0]["role"] == "system":
            write(http("200 OK", completion_body(f"```repl\n{source}\n```")))
            return
        finish = "length" if prompt == "cut" else "stop"
        choice = {"index": 0, "message": {"content": prompt.upper()}, "finish_reason": finish}
        write(http("200 OK", completion_body(choices=[choice])))

    source = "FINAL(llm_query_batched(['a', 'cut']) + llm_query_batched(['a']))"
    server.behaviour = behave
    policy = with_cache(policy_at(server, **RECORDED), tmp_path)
    asked: list[int] = []
    with JsonlSink(log) as sink:
        async with running(policy, environ=ENVIRON) as runtime:
            for tenant, sinks in (("a", []), ("b", []), ("a", [sink.write])):
                result = await runtime.ask("?", tenant=tenant, sinks=sinks)
                assert result.answer == "['A', 'CUT', 'A']"
                asked.append(len(server.requests))
    assert asked == [3, 6, 7], "each its own three, and then one that was cut off"
    assert (result.cached, result.cache_fault) == (3, None)
    assert (result.spent["calls"], result.spent["input_tokens"], result.spent["requests"]) == (1, 11, 4)
    events = [json.loads(line)["data"] for line in log.read_text().splitlines() if "query_answered" in line]
    assert sorted(str(data["cache"]) for data in events) == ["hit", "hit", "hit", "miss"]
    assert sum(data["cost_microdollars"] for data in events) == result.spent["cost_microdollars"]
    assert_same(await replay(Recording.open(log)), log)
    assert len(server.requests) == 7
    # It outlives the runtime, and holds for what is sent alone.
    async with running(policy, environ=ENVIRON) as runtime:
        assert (await runtime.ask("?", tenant="a")).cached == 3
    warmer = policy.replace(models={"settings": {"openai:gpt-5-mini": {"temperature": 0.7}}})
    async with running(warmer, environ=ENVIRON) as runtime:
        assert (await runtime.ask("?", tenant="a")).cached == 0, "chance has a part in them"


@pytest.mark.threat("T-245")
async def test_a_cache_that_cannot_be_used_costs_a_run_nothing_but_its_answers(
    server: Loopback, log: Path, tmp_path: Path
) -> None:
    file = tmp_path / "answers.db"
    file.write_bytes(b"no database" * 999)
    file.chmod(0o600)
    server.behaviour = conversation("FINAL(llm_query('a'))", answered)
    policy = policy_at(server, **RECORDED).replace(
        cache={"file": str(file), "entries_max": 9, "bytes_max": 99_999, "sampled": True}
    )
    with JsonlSink(log) as sink:
        async with running(policy, environ=ENVIRON) as runtime:
            result = await runtime.ask("?", sinks=[sink.write])
    assert (result.answer, result.cached) == ("A", 0)
    assert result.cache_fault is not None
    assert str(file) in result.cache_fault.message
    assert log.read_text().count('"cache":"unusable"') == 2
    assert_same(await replay(Recording.open(log)), log)


async def test_a_query_that_timed_out_times_out_again_without_the_wait(server: Loopback, log: Path) -> None:
    source = "try: llm_query('a')\nexcept QueryTimeout: FINAL('timed out')"
    server.behaviour = conversation(source, lambda prompt: b"")
    server.hold = True
    policy = policy_at(server, **RECORDED, query={"timeout_ms_max": 300})
    assert await record(log, policy, None, environ=ENVIRON) == "timed out"
    assert_same(await replay(Recording.open(log)), log)


@pytest.mark.parametrize("source", ["1/0", "'a' * 10**10", "while True: pass", "import os; os._exit(3)"])
async def test_cells_that_end_badly_replay(script: Script, log: Path, source: str) -> None:
    script.reply("root", source, turn=1).reply("root", "FINAL('after all')", turn=2)
    assert await record(log, recorded_policy(), script.spec) == "after all"
    assert_same(await replay(Recording.open(log)), log)


async def test_a_run_that_was_cancelled_is_cancelled_at_the_same_event(script: Script, log: Path) -> None:
    script.reply("root", "n = 0\nwhile True:\n    llm_query('x')").reply("sub", "yes")
    events = Events()
    policy = recorded_policy(cell={"requests_max": 1_000}, budget={"calls_max": 1_000})
    with JsonlSink(log) as sink:
        async with running(policy, script.spec) as runtime:

            def cancel(event: object) -> None:
                events.append(event)
                if event.kind == "query_answered" and len(events) > 40:
                    runtime.cancel("that will do")

            result = await runtime.ask("?", sinks=[sink.write, cancel])
    assert result.reason == "that will do"
    assert_same(await replay(Recording.open(log)), log)


@pytest.mark.parametrize("kind", ["cell_ended", "run_answered", "run_ended"])
async def test_a_run_that_another_sink_ended_late_replays(script: Script, log: Path, kind: str) -> None:
    def full(event: Event) -> None:
        if event.kind == kind:
            raise OSError("full")

    script.reply("root", "FINAL('done')")
    with JsonlSink(log) as sink:
        async with running(recorded_policy(), script.spec) as runtime:
            assert (await runtime.ask("?", sinks=[full, sink.write])).partial
    assert_same(await replay(Recording.open(log)), log)


async def test_a_budget_that_ran_out_runs_out_again(script: Script, log: Path) -> None:
    script.reply("root", "1")
    await record(log, recorded_policy(budget={"iterations_max": 3}), script.spec)
    assert_same(await replay(Recording.open(log)), log)


@pytest.mark.parametrize("sections", [{"budget": {"calls_max": 5}}, {"run": {"turns_max": 2}}])
async def test_the_last_question_of_a_run_that_a_budget_ends_replays(
    log: Path, tmp_path: Path, sections: dict[str, dict[str, Any]]
) -> None:
    model = tireless_model(tmp_path)
    assert await record(log, recorded_policy(**sections), model) == "I saw seventeen"
    assert_same(await replay(Recording.open(log)), log)
    whole = log.read_text().splitlines(keepends=True)
    asked = next(at for at, line in enumerate(whole) if '"last"' in line)
    for end in range(asked - 2, len(whole)):
        log.write_text("".join(whole[:end]))
        cut = await replay(Recording.open(log))
        told_with_the_next = '"query_denied"' in whole[end - 1]
        assert (cut.difference, cut.events) == (None, end - told_with_the_next)


def edit(log: Path, kind: str, change: Callable[[dict[str, Any]], object], nth: int = 0) -> int:
    """Change the data of the n-th event of a kind; return its seq."""
    events = [json.loads(line) for line in log.read_text().splitlines()]
    chosen = [event for event in events if event["kind"] == kind][nth]
    change(chosen["data"])
    log.write_text("".join(json.dumps(e, separators=(",", ":"), ensure_ascii=False) + "\n" for e in events))
    return int(chosen["seq"])


@pytest.mark.threat("T-083")
async def test_an_answer_that_was_changed_shows_where_it_first_matters(script: Script, log: Path) -> None:
    script.reply("root", "seen = llm_query('x')", turn=1).reply("root", "FINAL(seen)", turn=2)
    script.reply("sub", "the old answer")
    await record(log, recorded_policy(), script.spec)
    edit(log, "query_answered", lambda data: data.update(text="a longer new answer"), nth=1)
    difference = (await replay(Recording.open(log))).difference
    assert difference is not None
    # The guest did more for a longer text.
    assert (difference.kind, difference.field) == ("cell_ended", "data.fuel")
    assert difference.expected != difference.got


@pytest.mark.threat("T-083")
async def test_an_answer_to_what_was_never_asked_is_a_difference_and_no_hang(
    script: Script, log: Path
) -> None:
    script.reply("root", "FINAL(llm_query('x'))").reply("sub", "yes")
    await record(log, recorded_policy(), script.spec)
    seq = edit(log, "query_answered", lambda data: data.update(request=99), nth=1)
    difference = (await replay(Recording.open(log))).difference
    assert difference is not None
    assert (difference.seq, difference.got) == (seq, None)


async def test_a_log_that_stops_early_is_the_same_up_to_there(script: Script, log: Path) -> None:
    script.reply("root", "FINAL(llm_query('x'))").reply("sub", "yes")
    await record(log, recorded_policy(), script.spec)
    lines = log.read_text().splitlines(keepends=True)
    for kept in range(2, len(lines)):
        log.write_text("".join(lines[:kept]))
        found = await replay(Recording.open(log))
        assert (found.difference, found.events) == (None, kept)
        assert found.ended is not None


async def test_another_policy_differs_where_it_changes_something(script: Script, log: Path) -> None:
    script.reply("root", "print('x' * 3000)", turn=1).reply("root", "FINAL(1)", turn=2)
    await record(log, recorded_policy(), script.spec)
    recording = Recording.open(log)
    same = await replay(
        recording, policy=recorded_policy(run={"permits_max": 3}).with_models(root=script.spec)
    )
    assert same.difference is None
    narrow = recorded_policy(observation={"bytes_max": 1_000}).with_models(root=script.spec)
    difference = (await replay(recording, policy=narrow)).difference
    assert difference is not None
    assert difference.kind == "query_received"


PREPARED = "import random\nfirst = random.random()\ndef shout(s): return s.upper()\nloaded = ['a', 'b']"
USES_IMAGE = "loaded.append(random.random())\nFINAL([shout(context), first, loaded, rlm_query('child')])"


async def record_from_image(log: Path, model: str, policy: Policy, path: Path, tenant: str = "") -> Snapshot:
    """Record a run whose sessions, a child's too, are forked from an image, which is saved as well."""
    async with Sandbox(policy) as box, await box.session(tenant=tenant) as session:
        assert (await session.exec(PREPARED)).outcome == "completed"
        image = await session.snapshot()
        image.save(path, key=bytes(32), tenant=tenant)
        with JsonlSink(log) as sink:
            async with Runtime(policy, model=model) as runtime:
                result = await runtime.ask(
                    "ask ?", "context", sinks=[sink.write], snapshot=image, tenant=tenant
                )
        assert not result.partial, result
        assert str(result.answer).startswith("['CONTEXT', 0.")
    return image


@pytest.mark.parametrize("isolation", ["inline", "session"])
async def test_a_run_from_an_image_replays_from_the_same_image_live_or_saved(
    log: Path, tmp_path: Path, isolation: str
) -> None:
    model = tree_model(tmp_path, ask=USES_IMAGE, child="FINAL((first, shout(context), random.random()))")
    sandbox = {**RECORDED["sandbox"], "isolation": isolation}
    policy = small_policy(**{**RECORDED, "sandbox": sandbox})
    live = await record_from_image(log, model, policy, tmp_path / "saved.image", tenant="t")
    (tmp_path / "tree.py").unlink()  # nobody may be asked again
    saved = Sandbox(policy).load_snapshot(tmp_path / "saved.image", key=bytes(32), tenant="t")
    assert saved.digest() == live.digest()
    for image in [saved, live] if isolation == "inline" else [saved]:
        again = tmp_path / "again.jsonl"
        with JsonlSink(again) as sink:
            assert_same(await replay(Recording.open(log), snapshot=image, sinks=[sink.write]), log)
        assert again.read_bytes() == log.read_bytes()


async def test_an_image_that_is_missing_another_or_not_wanted_is_refused(
    script: Script, log: Path, tmp_path: Path
) -> None:
    model = tree_model(tmp_path, ask=USES_IMAGE, child="FINAL(1)")
    policy = recorded_policy()
    image = await record_from_image(log, model, policy, tmp_path / "one.image")
    with pytest.raises(UsageError, match="began from a snapshot") as missing:
        await replay(Recording.open(log))
    assert "--snapshot FILE" in str(missing.value.hint)
    async with Sandbox(policy) as box, await box.session(snapshot=image) as session:
        assert (await session.exec("loaded[0] = 'A'")).outcome == "completed"
        other = await session.snapshot()
        with pytest.raises(UsageError, match="not the one that the recorded run began from"):
            await replay(Recording.open(log), snapshot=other)
        assert other.digest() == (await session.snapshot()).digest() != image.digest()
    script.reply("root", "FINAL(1)")
    await record(log, policy, script.spec)
    with pytest.raises(UsageError, match="did not begin from a snapshot"):
        await replay(Recording.open(log), snapshot=image)


async def test_a_run_of_a_tenant_replays_as_that_tenants(script: Script, log: Path) -> None:
    script.reply("root", "FINAL(1)")
    with JsonlSink(log) as sink:
        async with running(recorded_policy(permits={"weights": {"t": 3}}), script.spec) as runtime:
            await runtime.ask("?", sinks=[sink.write], tenant="t")
    assert_same(await replay(Recording.open(log)), log)


async def test_inputs_too_large_for_the_log_are_given_again_and_checked(script: Script, log: Path) -> None:
    script.reply("root", "FINAL((len(context), len(raw)))")
    text, raw = "é" * 70_000, b"\0" * 10
    await record(log, recorded_policy(), script.spec, {"context": text, "raw": raw})
    recording = Recording.open(log)
    assert_same(await replay(recording, {"context": text, "raw": raw}), log)
    for wrong, what in [
        ({"context": text}, "the input raw"),
        ({"context": text[1:], "raw": raw}, "not the one"),
        ({"context": text, "raw": raw, "more": "x"}, "no input more"),
    ]:
        with pytest.raises(UsageError, match=what):
            await replay(recording, wrong)


@pytest.mark.threat("T-081")
async def test_a_run_that_its_provider_ended_does_not_quote_it_without_texts(
    script: Script, log: Path
) -> None:
    """A script's failure quotes the prompt; without texts neither the prompt nor the quote is written."""
    script.reply("sub", "no reply for the root")
    for texts in (False, True):
        with JsonlSink(log) as sink:
            async with running(small_policy(events={"texts": texts}), script.spec) as runtime:
                result = await runtime.ask("MY-QUESTION", sinks=[sink.write])
        assert "no reply for turn 1" in result.reason
        assert ("no reply for turn 1" in log.read_text()) is texts
        assert ("MY-QUESTION" in log.read_text()) is texts


async def test_a_log_without_texts_is_refused_with_a_hint(script: Script, log: Path) -> None:
    script.reply("root", "FINAL(1)")
    await record(log, small_policy(), script.spec)
    with pytest.raises(UsageError, match="holds no texts") as caught:
        Recording.open(log)
    assert "texts = true" in str(caught.value.hint)


async def test_recorded_answers_serve_a_run_under_another_policy(script: Script, log: Path) -> None:
    script.reply("root", "FINAL([llm_query('x'), llm_query('x')])").reply("sub", "yes")
    await record(log, recorded_policy(), script.spec)
    recording = Recording.open(log)
    policy = recording.policy.replace(events=small_policy().to_mapping()["events"])
    async with Runtime(policy, route=answers_from(recording)) as runtime:
        assert (await runtime.ask("?")).answer == "['yes', 'yes']"
        # Both answers to that prompt have been given: a third is a failure, not a guess.
        assert "no further answer" in (await runtime.ask("?")).reason
        assert "never saw this prompt" in (await runtime.ask("something else")).reason
    async with Runtime(policy.with_models(root="script:own.py"), route=answers_from(recording)) as runtime:
        reason = (await runtime.ask("?")).reason
    assert f"has this prompt for {script.spec}, and not for script:own.py" in reason


async def test_every_event_of_a_log_reads_back_as_it_was(script: Script, log: Path) -> None:
    script.reply("root", "FINAL(llm_query('x'))").reply("sub", "yes")
    events = Events()
    with JsonlSink(log) as sink:
        async with running(recorded_policy(), script.spec) as runtime:
            await runtime.ask("?", sinks=[sink.write, events.append])
    assert [line.event for line in read_events(log)] == events
    assert Completed.status in log.read_text()
    with pytest.raises(EventLogError):
        list(read_events(log.parent / "none.jsonl"))


async def test_a_provider_of_kind_replay_answers_for_another_model_as_the_log_tells(
    script: Script, log: Path
) -> None:
    script.reply("root", "FINAL(llm_query('a'))", turn=1).reply("sub", r"<\1>", pattern=r"^(\w+)$")
    assert await record(log, recorded_policy(), script.spec) == "<a>"
    script.path.unlink()
    providers = {"old": {"kind": "replay", "file": str(log)}}
    policy = recorded_policy().replace(
        providers=providers, models={"root": "old:a", "sub": "old:b", "child": ["old:b"]}
    )
    assert await record(log.with_name("a.jsonl"), policy, None) == "<a>"
    assert await record(log.with_name("b.jsonl"), recorded_policy(), f"replay:{log}") == "<a>"


async def test_a_log_without_texts_is_no_provider(script: Script, log: Path) -> None:
    script.reply("root", "FINAL(1)", turn=1)
    await record(log, small_policy(), script.spec)
    with pytest.raises(UsageError, match="holds no texts, so no answers"):
        await record(log.with_name("b.jsonl"), small_policy(), f"replay:{log}")


async def test_a_history_that_met_its_models_window_replays_to_the_same_bytes(
    server: Loopback, log: Path, tmp_path: Path
) -> None:
    server.behaviour = small_window(3_000, talkative(9))
    sections = {**RECORDED, "run": {"compact_percent": 75, "summaries_max": 1}}
    policy = policy_at(server, **sections, query={"output_tokens_max": 16_384})
    assert await record(log, policy, None, environ=ENVIRON) == "[8, 'about a page']"
    asked = len(server.requests)
    again = tmp_path / "again.jsonl"
    with JsonlSink(again) as sink:
        assert_same(await replay(Recording.open(log), sinks=[sink.write]), log)
    assert again.read_bytes() == log.read_bytes()
    assert b'"kind":"history_compacted"' in log.read_bytes()
    assert b'"error":"WindowExceeded"' in log.read_bytes()
    assert len(server.requests) == asked

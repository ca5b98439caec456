"""Runs whose models answer over real HTTP on loopback: retries, failures, budgets, cancellation."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from rlm_wasm.api.runtime import Runtime
from rlm_wasm.policy.model import Policy
from tests.support.provider_loopback import (
    KEY,
    KEY_VARIABLE,
    Loopback,
    Seen,
    Write,
    completion_body,
    http,
    loopback_server,
)
from tests.support.runtime_facts import Events, running, small_policy
from tests.support.small_window import small_window, talkative

pytestmark = [pytest.mark.guest, pytest.mark.anyio, pytest.mark.usefixtures("guest", "healthy_host")]


@pytest.fixture
def server(healthy_host: None) -> Iterator[Loopback]:
    with loopback_server() as loopback:
        yield loopback


def policy_at(server: Loopback, **sections: dict[str, object]) -> Policy:
    endpoint = {
        "base_url": server.url, "api_key_env": KEY_VARIABLE, "connect_timeout_ms": 5_000,
        "output_tokens_field": "max_completion_tokens",
    }  # fmt: skip
    return small_policy(providers={"openai": endpoint}, **sections)


def conversation(root: str, sub: object) -> object:
    """Answer the root with one block, and a sub-query with what `sub` gives for its prompt."""

    def behave(seen: Seen, write: Write) -> None:
        messages = seen.body["messages"]
        if messages[0]["role"] == "system":
            write(http("200 OK", completion_body(f"```repl\n{root}\n```")))
        else:
            write(sub(messages[-1]["content"]))

    return behave


def answered(prompt: str) -> bytes:
    return http("200 OK", completion_body(prompt.upper()))


ENVIRON = {KEY_VARIABLE: KEY}


async def test_queries_and_batches_are_answered_over_http(server: Loopback) -> None:
    server.behaviour = conversation("FINAL([llm_query('a'), *llm_query_batched(['b', 'c'])])", answered)
    events = Events()
    async with running(policy_at(server), environ=ENVIRON) as runtime:
        result = await runtime.ask("?", sinks=[events.append])
    assert (result.answer, result.partial) == ("['A', 'B', 'C']", False)
    assert result.spent["calls"] == 4
    assert result.spent["input_tokens"] == 4 * 11
    assert result.spent["output_tokens"] == 4 * 7
    assert result.spent["cost_microdollars"] > 0
    events.assert_complete()
    assert KEY not in repr(list(events))
    assert all(seen.headers["authorization"] == f"Bearer {KEY}" for seen in server.requests)


async def test_a_program_that_no_fence_closes_runs_only_if_the_model_had_ended(server: Loopback) -> None:
    """The endpoint says which: the same text was cut off by the cap on tokens, or was not."""
    finishes = ["length", "stop"]

    def behave(_: Seen, write: Write) -> None:
        message = {"role": "assistant", "content": "```repl\nFINAL(1)"}
        choice = {"index": 0, "message": message, "finish_reason": finishes.pop(0)}
        write(http("200 OK", completion_body(choices=[choice])))

    server.behaviour = behave
    async with running(policy_at(server), environ=ENVIRON) as runtime:
        result = await runtime.ask("?")
    assert (result.answer, result.partial, finishes) == ("1", False, [])
    assert "was cut off" in "".join(message["content"] for message in server.requests[1].body["messages"])


async def test_a_429_is_tried_again_and_paid_for_as_calls(server: Loopback) -> None:
    refusals = [http("429 Too Many Requests", "{}", "Retry-After: 0"), http("503 Service Unavailable", "{}")]

    def sub(prompt: str) -> bytes:
        return refusals.pop(0) if refusals else answered(prompt)

    server.behaviour = conversation("FINAL(llm_query('a'))", sub)
    events = Events()
    async with running(policy_at(server), environ=ENVIRON) as runtime:
        result = await runtime.ask("?", sinks=[events.append])
    assert result.answer == "A"
    assert len(events.of("query_retry")) == 2
    assert len(server.requests) == 4
    events.assert_complete()


@pytest.mark.parametrize(
    "response",
    [
        http("500 Internal Server Error", "{}"),
        http("401 Unauthorized", "{}"),
        http("200 OK", "not json"),
        http("200 OK", completion_body())[:-20],
        http("302 Found", "", "Location: http://example.invalid/"),
    ],
)
async def test_a_provider_that_fails_is_an_exception_the_guest_can_catch(
    server: Loopback, response: bytes
) -> None:
    source = "try: FINAL(llm_query('a'))\nexcept ProviderError as e: FINAL('caught')"
    server.behaviour = conversation(source, lambda prompt: response)
    events = Events()
    async with running(policy_at(server, query={"attempts_max": 2}), environ=ENVIRON) as runtime:
        result = await runtime.ask("?", sinks=[events.append])
    assert result.answer == "caught"
    events.assert_complete()


SILENT: dict[str, dict[str, object]] = {
    "thoughts": {"content": None, "reasoning_content": "thinking about it"},
    "a tool call": {"content": None, "tool_calls": [{"id": "1", "type": "function"}]},
    "nothing": {"content": None},
}


def silence(kind: str) -> bytes:
    return http("200 OK", completion_body(choices=[{"message": SILENT[kind], "finish_reason": "stop"}]))


@pytest.mark.parametrize("kind", SILENT)
async def test_a_model_that_says_nothing_is_asked_again_then_told_and_the_run_goes_on(
    server: Loopback, kind: str
) -> None:
    replies = [silence(kind), silence(kind), http("200 OK", completion_body("```repl\nFINAL(6 * 7)\n```"))]
    server.behaviour = lambda _seen, write: write(replies.pop(0))
    events = Events()
    async with running(policy_at(server, query={"attempts_max": 2}), environ=ENVIRON) as runtime:
        result = await runtime.ask("?", sinks=[events.append])
    assert (result.answer, result.partial) == ("42", False)
    asked = [seen.body["messages"] for seen in server.requests]
    assert asked[0] == asked[1]
    assert "Your last reply came without any text" in asked[2][-1]["content"]
    # What was stated of the silence is what it cost.
    assert result.spent["output_tokens"] == 3 * 7
    assert [event["error"] for event in events.of("query_retry")] == ["NoText"]
    events.assert_complete()


async def test_a_guest_sees_a_model_that_says_nothing_as_a_provider_that_failed(server: Loopback) -> None:
    source = "try: llm_query('a')\nexcept ProviderError as e: FINAL(type(e).__name__ + ': ' + str(e))"
    server.behaviour = conversation(source, lambda prompt: silence("thoughts"))
    async with running(policy_at(server, query={"attempts_max": 2}), environ=ENVIRON) as runtime:
        result = await runtime.ask("?")
    assert result.answer == "ProviderError: the provider at 127.0.0.1 sent no text but its reasoning"
    assert len(server.requests) == 3


UNSTATED: dict[str, dict[str, object]] = {
    "absent": {},
    "null": {"usage": None},
    "floats": {"usage": {"prompt_tokens": 9.0, "completion_tokens": 2.0}},
    "texts": {"usage": {"prompt_tokens": "9", "completion_tokens": "2"}},
    "negative": {"usage": {"prompt_tokens": -9, "completion_tokens": -2}},
    "absurd": {"usage": {"prompt_tokens": 10**30, "completion_tokens": 10**12}},
}


def without_usage(kind: str, **message: object) -> bytes:
    document = json.loads(completion_body("Bern"))
    del document["usage"]
    document["choices"][0]["message"] |= message
    return http("200 OK", json.dumps(document | UNSTATED[kind]))


@pytest.mark.parametrize("kind", UNSTATED)
async def test_forty_short_answers_without_usage_do_not_cost_forty_times_the_cap(
    server: Loopback, kind: str
) -> None:
    source = "FINAL(len([llm_query('q') for _ in range(40)]))"
    server.behaviour = conversation(source, lambda prompt: without_usage(kind))
    policy = policy_at(
        server,
        budget={"output_tokens_max": 200_000, "calls_max": 100},
        query={"output_tokens_max": 16_384},
        cell={"requests_max": 40},
    )
    events = Events()
    async with running(policy, environ=ENVIRON) as runtime:
        result = await runtime.ask("?", sinks=[events.append])
    assert result.answer == "40"
    # The root's answer has a usage; of the others each byte counts as a token.
    assert result.spent["output_tokens"] == 7 + 40 * len("Bern")
    unstated = [data for data in events.of("query_answered") if data["reported_output_tokens"] is None]
    assert len(unstated) == 40
    for data in unstated:
        assert (data["estimated_input_tokens"], data["estimated_output_tokens"]) == (len("user" + "q"), 4)
        assert data["assumed"] is False
    events.assert_complete()


async def test_thoughts_that_came_beside_an_answer_count_in_its_estimate(server: Loopback) -> None:
    server.behaviour = conversation(
        "FINAL(llm_query('q'))", lambda prompt: without_usage("null", reasoning="x" * 100)
    )
    async with running(policy_at(server), environ=ENVIRON) as runtime:
        result = await runtime.ask("?")
    assert (result.answer, result.spent["output_tokens"]) == ("Bern", 7 + 4 + 100)


async def test_one_failed_item_of_a_batch_leaves_the_others(server: Loopback) -> None:
    source = "FINAL([type(r).__name__ for r in llm_query_batched(['a', 'bad', 'c'], return_exceptions=True)])"
    bad = http("400 Bad Request", "{}")
    server.behaviour = conversation(source, lambda prompt: bad if prompt == "bad" else answered(prompt))
    async with running(policy_at(server), environ=ENVIRON) as runtime:
        assert (await runtime.ask("?")).answer == "['str', 'ProviderError', 'str']"


@pytest.mark.threat("T-024")
async def test_cost_is_reserved_before_a_query_is_sent(server: Loopback) -> None:
    """With room for the root's call and one more, the second sub-query never reaches the server.

    A third call is kept for the root's last.
    """
    source = "try: FINAL([llm_query(p) for p in 'abc'])\nexcept BudgetExceeded: FINAL('stopped')"
    server.behaviour = conversation(source, answered)
    async with running(policy_at(server, budget={"calls_max": 3}), environ=ENVIRON) as runtime:
        result = await runtime.ask("?")
    assert (result.answer, result.spent["calls"]) == ("stopped", 2)
    assert len(server.requests) == 2


@pytest.mark.threat("T-019")
async def test_a_provider_that_hangs_meets_the_querys_deadline(server: Loopback) -> None:
    source = "try: FINAL(llm_query('a'))\nexcept QueryTimeout: FINAL('timed out')"
    server.behaviour = conversation(source, lambda prompt: b"")
    server.hold = True
    policy = policy_at(server, query={"timeout_ms_max": 500})
    async with running(policy, environ=ENVIRON) as runtime:
        result = await runtime.ask("?")
    assert result.answer == "timed out"


async def test_cancelling_a_run_hangs_up_on_the_provider(server: Loopback) -> None:
    server.behaviour = lambda seen, write: None
    server.hold = True
    events = Events()
    async with running(policy_at(server), environ=ENVIRON) as runtime:

        def cancel(event: object) -> None:
            events.append(event)
            if event.kind == "query_sent":
                runtime.cancel("enough")

        result = await runtime.ask("?", sinks=[cancel])
    assert (result.answer, result.partial) == (None, True)
    events.assert_complete()


async def test_the_key_of_the_environment_never_reaches_the_guest(server: Loopback) -> None:
    server.behaviour = conversation("import os\nFINAL(dict(os.environ))", answered)
    async with running(policy_at(server), environ=ENVIRON) as runtime:
        assert (await runtime.ask("?")).answer == "{}"


async def test_a_missing_key_is_told_before_any_guest_runs(server: Loopback) -> None:
    from rlm_wasm.errors import UsageError

    with pytest.raises(UsageError, match=KEY_VARIABLE):
        async with Runtime(policy_at(server), environ={}):
            pass
    assert server.requests == []


@pytest.mark.parametrize(
    ("finishes", "told"),
    [
        (["stop", "stop"], None),
        (["length", "stop"], "An answer to a query of this cell was cut off"),
        (["length", "length"], "2 answers to queries were cut off"),
    ],
)
async def test_answers_that_their_cap_cut_off_are_told_to_the_model_of_the_code(
    server: Loopback, finishes: list[str], told: str | None
) -> None:
    turns = ["parts = llm_query_batched(['a', 'b'])\nprint(parts)", "FINAL('done')"]
    observed: list[str] = []

    def behave(seen: Seen, write: Write) -> None:
        messages = seen.body["messages"]
        if messages[0]["role"] == "system":
            observed.append(messages[-1]["content"])
            write(http("200 OK", completion_body(f"```repl\n{turns.pop(0)}\n```")))
        else:
            finish = finishes["ab".index(messages[-1]["content"])]
            choice = {"index": 0, "message": {"content": "x"}, "finish_reason": finish}
            write(http("200 OK", completion_body(choices=[choice])))

    server.behaviour = behave
    async with running(policy_at(server), environ=ENVIRON) as runtime:
        assert (await runtime.ask("?")).answer == "done"
    assert "['x', 'x']" in observed[1]
    assert ("cut off" in observed[1]) is (told is not None)
    assert told is None or told in observed[1]


def template_refusal(messages: list[dict[str, str]], *, knows_system: bool) -> str | None:
    """Return what a chat template says of messages that it does not take."""
    roles = [message["role"] for message in messages]
    if "system" in roles[1 if knows_system else 0 :]:
        return "System role must come first" if knows_system else "System role not supported"
    said = roles[roles[0] == "system" :]
    if said != ["user", "assistant"] * (len(said) // 2) + ["user"] * (len(said) % 2) or len(said) % 2 == 0:
        return "Conversation roles must alternate user/assistant/user/assistant/..."
    return None


@pytest.mark.parametrize("dialect", ["answer", "final", "both"])
@pytest.mark.parametrize("roles", ["alternating", "no_system", None, "as_given"])
async def test_templates_that_want_roles_in_turn_or_know_no_system_have_what_they_want(
    server: Loopback, roles: str | None, dialect: str
) -> None:
    turns = [
        "Two of them:\n```repl\nprint(llm_query('a'))\n```\n```repl\n1/0\n```",
        "No code at all.",
        "```repl\nFINAL(llm_query_batched(['b', 'c']))\n```",
    ]
    last: list[str] = []

    def behave(seen: Seen, write: Write) -> None:
        messages = seen.body["messages"]
        refusal = template_refusal(messages, knows_system=roles != "no_system")
        if refusal is not None:
            write(http("400 Bad Request", json.dumps({"object": "error", "message": refusal, "code": 400})))
        elif len(messages[-1]["content"]) == 1:
            write(answered(messages[-1]["content"]))
        else:
            last.append(messages[-1]["content"])
            write(http("200 OK", completion_body(turns.pop(0))))

    server.behaviour = behave
    policy = policy_at(server, observation={"dialect": dialect})
    policy = policy.replace(providers={"openai": {"roles": roles}})
    async with running(policy, environ=ENVIRON) as runtime:
        result = await runtime.ask("How many?")
    if roles == "as_given":  # the first turn's line is a second message of the user's
        assert result.answer is None
        assert "roles must alternate" in result.reason
        return
    assert (result.answer, result.partial) == ("['B', 'C']", False)
    # The turn's line is the end of what the user says, and with no system its words are the beginning.
    assert [each.rpartition("\n\n")[2] for each in last] == [
        f"Turn {n}/{policy.run.turns_max}:" for n in (1, 2, 3)
    ]
    assert "Question: How many?" in last[0]
    assert last[0].startswith("You answer") is (roles == "no_system")


COMPACTED = {"run": {"compact_percent": 75, "summaries_max": 0}, "query": {"output_tokens_max": 16_384}}


def messages_of(server: Loopback) -> list[list[dict[str, str]]]:
    return [seen.body["messages"] for seen in server.requests]


async def test_a_run_outlives_the_window_of_its_model_which_its_endpoint_tells(server: Loopback) -> None:
    server.behaviour = small_window(3_000, talkative(9))
    events = Events()
    async with running(policy_at(server, **COMPACTED), environ=ENVIRON) as runtime:
        result = await runtime.ask("How many pages?", sinks=[events.append])
    assert (result.answer, result.partial) == ("[8, 'about a page']", False)
    # One refusal told the window: the cap, for root and guest alike, fits from then on.
    retries = events.of("query_retry")
    assert [(each["error"], each["window_tokens"]) for each in retries] == [("WindowExceeded", 3_000)] * 2
    compacted = events.of("history_compacted")
    assert compacted
    assert all(each["bytes_after"] < each["bytes_before"] for each in compacted)
    assert not any(each["refused"] or each["summarised"] for each in compacted)
    last = [messages for messages in messages_of(server) if messages[0]["role"] == "system"][-1]
    assert last[0] == messages_of(server)[0][0]
    assert last[1]["content"].startswith("Question: How many pages?")
    events.assert_complete()


async def test_a_window_that_the_policy_names_is_never_met(server: Loopback) -> None:
    server.behaviour = small_window(3_000, talkative(9))
    windows = {"openai:gpt-5": 3_000, "openai:gpt-5-mini": 3_000}
    events = Events()
    policy = policy_at(server, **COMPACTED, models={"windows": windows})
    async with running(policy, environ=ENVIRON) as runtime:
        result = await runtime.ask("How many pages?", sinks=[events.append])
    assert result.answer == "[8, 'about a page']"
    assert events.of("query_retry") == []
    assert events.of("history_compacted")
    events.assert_complete()


async def test_a_model_may_write_down_what_matters_before_turns_are_left_out(server: Loopback) -> None:
    server.behaviour = small_window(3_000, talkative(16))
    events = Events()
    sections = COMPACTED | {"run": {"compact_percent": 75, "summaries_max": 1, "turns_max": 20}}
    async with running(policy_at(server, **sections), environ=ENVIRON) as runtime:
        result = await runtime.ask("How many pages?", sinks=[events.append])
    assert result.answer == "[15, 'about a page']"
    told = [each["summarised"] for each in events.of("history_compacted")]
    assert told.count(True) == 1
    asked = [messages for messages in messages_of(server) if messages[0]["role"] == "system"]
    assert sum("Write down now" in messages[-1]["content"] for messages in asked) == 1
    assert any("`seen` holds their numbers." in message["content"] for message in asked[-1])
    # A summary is a call and no turn.
    assert result.spent["iterations"] == 17
    assert [turn.number for turn in result.transcript] == list(range(1, 18))
    assert "`seen` holds their numbers." not in str(result.transcript)
    events.assert_complete()


async def test_a_summary_shows_no_output_that_the_budget_does_not_cover(server: Loopback) -> None:
    """The history is full with the sixth output, and the budget has room for five."""
    talk = talkative(16)

    def reply(messages: list[dict[str, str]]) -> str:
        return "Five." if "must end now" in messages[-1]["content"] else talk(messages)

    server.behaviour = small_window(3_000, reply)
    events = Events()
    run = {"compact_percent": 75, "summaries_max": 1, "turns_max": 20}
    sections = COMPACTED | {
        "run": run,
        "budget": {"observation_bytes_max": 5_000},
        "observation": {"bytes_max": 2_000},
    }
    async with running(policy_at(server, **sections), environ=ENVIRON) as runtime:
        result = await runtime.ask("How many pages?", sinks=[events.append])
    assert (result.answer, result.reason) == ("Five.", "budget: observation_bytes")
    shown = str(messages_of(server))
    assert ("page 5 page 5" in shown, "page 6 page 6" in shown) == (True, False)
    events.assert_complete()


async def test_refusals_without_a_number_shorten_the_history_too(server: Loopback) -> None:
    server.behaviour = small_window(3_000, talkative(9), numbers=False)
    events = Events()
    sections = COMPACTED | {"query": {"output_tokens_max": 700, "attempts_max": 1}}
    async with running(policy_at(server, **sections), environ=ENVIRON) as runtime:
        result = await runtime.ask("How many pages?", sinks=[events.append])
    assert result.partial is False
    assert any(each["refused"] for each in events.of("history_compacted"))
    events.assert_complete()


@pytest.mark.parametrize("numbers", [True, False])
async def test_a_model_that_cannot_hold_the_rules_ends_the_run_with_what_it_is_and_no_loop(
    server: Loopback, numbers: bool
) -> None:
    server.behaviour = small_window(300, talkative(9), numbers=numbers)
    events = Events()
    async with running(policy_at(server, **COMPACTED), environ=ENVIRON) as runtime:
        result = await runtime.ask("How many pages?", sinks=[events.append])
    assert (result.answer, result.partial) == (None, True)
    assert result.reason.startswith("model_failed: WindowExceeded")
    assert len(server.requests) <= 4
    events.assert_complete()


async def test_without_the_key_a_refused_history_ends_the_run(server: Loopback) -> None:
    server.behaviour = small_window(3_000, talkative(9))
    sections = COMPACTED | {"run": {"compact_percent": 0, "summaries_max": 0}}
    async with running(policy_at(server, **sections), environ=ENVIRON) as runtime:
        result = await runtime.ask("How many pages?")
    assert result.partial
    assert result.reason.startswith("model_failed: WindowExceeded")
    assert result.answer is not None
    assert result.answer.startswith("I read page")

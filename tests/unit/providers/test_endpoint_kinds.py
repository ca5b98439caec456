"""Endpoints of the kinds `anthropic` and `openai-responses`, each case from a real server."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlm_wasm.policy.model import Policy
from rlm_wasm.providers.answer_body import EventBody
from rlm_wasm.providers.anthropic_format import AnthropicFormat
from rlm_wasm.providers.base import Completion, Query
from rlm_wasm.providers.refusals import Trouble
from rlm_wasm.providers.registry import open_provider
from rlm_wasm.providers.responses_format import ResponsesFormat
from rlm_wasm.providers.wire_format import WireFormat
from rlm_wasm.scheduler.messages import Message
from tests.support import endpoint_bodies
from tests.support.endpoint_bodies import OF_KIND, Case, message, response, said, words
from tests.support.machine_grade import strict_here
from tests.support.provider_loopback import KEY, KEY_VARIABLE, assert_key_hidden, http

pytestmark = pytest.mark.anyio

FORMATS: dict[str, WireFormat] = {"anthropic": AnthropicFormat(), "openai-responses": ResponsesFormat()}
CASES = [(kind, case) for kind, cases in OF_KIND.items() for case in cases]
MESSAGES = (
    Message("system", "Be brief."),
    Message("user", "one"),
    Message("assistant", "two"),
    Message("user", "three"),
    Message("user", "four"),
)


def policy_for(kind: str, url: str, **more: object) -> Policy:
    """Return strict with an endpoint of that kind, by the name `mine`."""
    table = {"kind": kind, "base_url": url, "api_key_env": KEY_VARIABLE, "connect_timeout_ms": 5_000} | more
    return strict_here().replace(providers={"mine": table})


async def ask(
    kind: str, url: str, messages: tuple[Message, ...] = MESSAGES[:2], **more: object
) -> Completion:
    """Open a provider of a kind on `url`, ask one question, close it."""
    provider, model = open_provider("mine:m-1", policy_for(kind, url, **more), {KEY_VARIABLE: KEY})
    try:
        return await provider.complete(Query(model, messages, 512, 30_000))
    finally:
        await provider.aclose()


async def failure_of(kind: str, url: str) -> Any:
    from rlm_wasm.providers.base import ProviderFailure

    with pytest.raises(ProviderFailure) as caught:
        await ask(kind, url)
    assert_key_hidden(caught.value)
    return caught.value


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize(("kind", "case"), CASES, ids=[f"{kind}: {case.name}" for kind, case in CASES])
async def test_what_an_endpoint_sends_is_an_answer_or_the_failure_that_it_means(
    kind: str, case: Case, server, anyio_backend
):
    server.behaviour = lambda _, write: write(case.response())
    if case.text is not None:
        answer = await ask(kind, server.url)
        assert (answer.text, answer.finish) == (case.text, case.finish)
        assert (answer.input_tokens, answer.output_tokens) == case.tokens
        return
    failure = await failure_of(kind, server.url)
    assert (failure.retryable, failure.sent, failure.throttled) == (case.again, case.billed, case.throttled)
    assert failure.retry_after_ms == case.wait_ms
    assert case.says in failure.error.message


@pytest.mark.parametrize("kind", OF_KIND)
async def test_of_an_answer_without_text_the_stated_usage_is_kept(kind, server):
    silent = next(case for case in OF_KIND[kind] if case.name == "nothing")
    server.behaviour = lambda _, write: write(silent.response())
    failure = await failure_of(kind, server.url)
    assert (failure.input_tokens, failure.output_tokens) == (11, 7)


async def test_a_message_is_asked_for_with_the_system_apart(server):
    server.behaviour = lambda _, write: write(http("200 OK", "{}"))
    await failure_of("anthropic", server.url)
    server.behaviour = lambda _, write: write(OF_KIND["anthropic"][0].response())
    await ask("anthropic", server.url, MESSAGES, extra_body={"thinking": {"type": "disabled"}})
    seen = server.requests[-1]
    assert seen.path == "/v1/messages"
    assert seen.headers["authorization"] == f"Bearer {KEY}"
    assert seen.headers["anthropic-version"] == "2026-10-21"
    assert seen.body == {
        "model": "m-1",
        "max_tokens": 512,
        "system": "Be brief.",
        "messages": [
            {"role": "user", "content": "one"},
            {"role": "assistant", "content": "two"},
            {"role": "user", "content": "three\n\nfour"},
        ],
        "stream": False,
        "thinking": {"type": "disabled"},
    }


async def test_an_endpoint_of_an_earlier_version_is_asked_in_that_version(server):
    server.behaviour = lambda _, write: write(OF_KIND["anthropic"][0].response())
    earlier = {"anthropic-version": "2023-06-01"}
    await ask("anthropic", server.url, headers=earlier, api_key_header="x-api-key")
    seen = server.requests[-1]
    assert (seen.headers["x-api-key"], seen.headers["anthropic-version"]) == (KEY, "2023-06-01")
    assert "authorization" not in seen.headers


async def test_a_response_is_asked_for_and_not_kept(server):
    server.behaviour = lambda _, write: write(OF_KIND["openai-responses"][0].response())
    await ask("openai-responses", server.url, MESSAGES, roles="no_system")
    seen = server.requests[-1]
    assert seen.path == "/v1/responses"
    assert seen.headers["authorization"] == f"Bearer {KEY}"
    assert seen.body == {
        "model": "m-1",
        "max_output_tokens": 512,
        "input": [
            {"role": "user", "content": "Be brief.\n\none"},
            {"role": "assistant", "content": "two"},
            {"role": "user", "content": "three\n\nfour"},
        ],
        "store": False,
        "stream": False,
    }


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("anthropic", message({"type": "text", "text": f"it is {KEY}"})),
        ("openai-responses", response(said(words(f"it is {KEY}")))),
    ],
)
async def test_an_endpoint_that_echoes_the_key_is_withheld(kind, body, server):
    server.behaviour = lambda _, write: write(Case("", body).response())
    assert "withheld" in (await failure_of(kind, server.url)).error.message


async def test_thoughts_count_where_the_endpoint_states_no_usage(server):
    thought = endpoint_bodies.THINKING["thinking"]
    bodies = (
        ("anthropic", message(endpoint_bodies.THINKING, endpoint_bodies.TEXT), len(thought)),
        ("openai-responses", response(endpoint_bodies.REASONING, said(words("Bern"))), 22),
    )
    for kind, body, size in bodies:
        server.behaviour = lambda _, write, body=body: write(Case("", body).response())
        assert (await ask(kind, server.url)).thought_bytes == size


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_stream_is_the_same_however_it_is_cut(data) -> None:
    kind, case = data.draw(st.sampled_from([(kind, case) for kind, case in CASES if case.events]))
    whole = case.response().partition(b"\r\n\r\n")[2]
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=12)))
    parts = [whole[start:end] for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    in_pieces, at_once = (EventBody(100_000, FORMATS[kind].pieces()) for _ in range(2))
    at_once.take(whole)
    for part in parts:
        in_pieces.take(part)
    assert in_pieces.document() == at_once.document()


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                (
                    "type",
                    "content",
                    "text",
                    "output",
                    "usage",
                    "delta",
                    "message",
                    "error",
                    "status",
                    "response",
                )
            ),
            inner
            | st.sampled_from(
                ("text", "message", "message_start", "content_block_delta", "response.completed")
            ),
            max_size=5,
        )
    ),
    max_leaves=12,
)


@settings(max_examples=200, deadline=None)
@given(kind=st.sampled_from(tuple(FORMATS)), document=_JSON, events=st.lists(_JSON, max_size=6))
def test_whatever_a_document_or_stream_holds_it_is_an_answer_or_a_reason(kind, document, events) -> None:
    wire = FORMATS[kind]
    assert isinstance(wire.answer(document, {}, 0), Trouble | Completion)
    pieces = wire.pieces()
    for event in events:
        if isinstance(event, dict):
            pieces.take(event)
    streamed = pieces.document(ended=True)
    assert isinstance(streamed, Trouble) or isinstance(wire.answer(streamed, {}, 0), Trouble | Completion)


@pytest.mark.threat("T-176")
@pytest.mark.parametrize(
    ("kind", "event"),
    [
        ("anthropic", {"type": "content_block_delta", "delta": {"type": "text_delta", "text": "x" * 90}}),
        ("openai-responses", {"type": "response.output_text.delta", "delta": "x" * 90}),
    ],
)
def test_a_stream_of_any_kind_keeps_no_more_than_its_cap(kind, event) -> None:
    body = EventBody(1_000, FORMATS[kind].pieces())
    chunk = Case("", events=(event,)).response().partition(b"\r\n\r\n")[2]
    taken = sum(1 for _ in iter(lambda: body.take(chunk), False))
    assert body.document() == Trouble("sent more than 1000 bytes", retryable=False)
    assert taken * 90 < 2_000

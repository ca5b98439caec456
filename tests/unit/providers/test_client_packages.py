"""The vendors' own client packages read what our loopback servers send, and send what those servers are sent.

So no shape is invented: a body that has the documented form is one by the types of the package, and a request
of ours is, member by member, the one that the package makes of the same question.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from rlm_wasm.providers.base import Query
from rlm_wasm.providers.registry import open_provider
from rlm_wasm.scheduler.messages import Message
from tests.support.endpoint_bodies import ANTHROPIC, OF_KIND, RESPONSES, Case
from tests.support.machine_grade import strict_here
from tests.support.provider_loopback import KEY, KEY_VARIABLE, Loopback, ask, completion_body, http

MISSING: Final = [name for name in ("openai", "anthropic") if importlib.util.find_spec(name) is None]
pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}"),
]
WILD: Final = tomllib.loads(
    (Path(__file__).parents[2] / "cases" / "endpoint_answers.toml").read_text("utf-8")
)["case"]
ASKED: Final = {"role": "user", "content": "Capital?"}


@pytest.fixture(params=["asyncio"])
def anyio_backend(request):
    return request.param


def openai_client(server: Loopback) -> Any:
    import openai

    return openai.OpenAI(api_key=KEY, base_url=server.url, max_retries=0)


def anthropic_client(server: Loopback) -> Any:
    import anthropic

    return anthropic.Anthropic(api_key=KEY, base_url=server.url.removesuffix("/v1"), max_retries=0)


def ask_anthropic(server: Loopback, **more: Any) -> Any:
    with anthropic_client(server) as client:
        made = client.messages.create(model="m", max_tokens=512, messages=[ASKED], **more)
        return list(made) if more.get("stream") else made


def ask_responses(server: Loopback, **more: Any) -> Any:
    with openai_client(server) as client:
        made = client.responses.create(model="m", max_output_tokens=512, input=[ASKED], **more)
        return list(made) if more.get("stream") else made


def ask_chat(server: Loopback, **more: Any) -> Any:
    with openai_client(server) as client:
        made = client.chat.completions.create(model="m", max_tokens=512, messages=[ASKED], **more)
        return list(made) if more.get("stream") else made


ASK: Final[dict[str, Callable[..., Any]]] = {"anthropic": ask_anthropic, "openai-responses": ask_responses}


def package_errors() -> tuple[type[Exception], type[Exception]]:
    import anthropic
    import openai

    return openai.APIStatusError, anthropic.APIStatusError


def text_in(kind: str, read: Any) -> str:
    """Return the text of what a package read, whole or as a list of events."""
    if kind == "anthropic":
        if isinstance(read, list):
            deltas = [event.delta for event in read if event.type == "content_block_delta"]
            return "".join(delta.text for delta in deltas if delta.type == "text_delta")
        return "".join(block.text for block in read.content if block.type == "text")
    if isinstance(read, list):
        return "".join(event.delta for event in read if event.type == "response.output_text.delta")
    return str(read.output_text)


def chat_texts(read: Any) -> list[object]:
    """Return the texts of the first choice that the package read: one, or those of a stream."""
    if not isinstance(read, list):
        return [read.choices[0].message.content]
    first = [chunk.choices[0] for chunk in read if chunk.choices]
    return [choice.delta.content for choice in first if choice.index in (0, None)]


@pytest.mark.parametrize(
    ("kind", "case"),
    [(kind, case) for kind, cases in OF_KIND.items() for case in cases],
    ids=lambda each: each.name if isinstance(each, Case) else each,
)
def test_the_packages_read_every_body_of_their_kind(kind: str, case: Case, server: Loopback) -> None:
    server.behaviour = lambda _, write: write(case.response())
    if case.code != 200:
        with pytest.raises(package_errors()) as caught:
            ASK[kind](server)
        assert caught.value.status_code == case.code
        assert caught.value.body == case.body or caught.value.body == case.body["error"]
        return
    if not case.official or case.name == "a stream that fails":
        # What is no answer of the documented form need not be one for the package either.
        with contextlib.suppress(Exception):
            ASK[kind](server, **({"stream": True} if case.events else {}))
        return
    read = ASK[kind](server, **({"stream": True} if case.events else {}))
    if case.text is not None:
        assert text_in(kind, read) == case.text


@pytest.mark.parametrize(
    ("kind", "document"),
    [
        (kind, document)
        for kind, cases in OF_KIND.items()
        for case in cases
        if case.official and case.code == 200
        for document in (case.events or (case.body,))
    ],
)
def test_a_body_of_the_documented_form_is_one_by_the_packages_types(kind: str, document: Any) -> None:
    """Validated, not only read: the packages' own reading lets anything pass."""
    import pydantic
    from anthropic.types import Message as AnthropicMessage
    from anthropic.types import RawMessageStreamEvent
    from openai.types.responses import Response, ResponseStreamEvent

    if document.get("type") == "ping":  # which the package itself does not name among its events
        return
    whole: Any = {"anthropic": AnthropicMessage, "openai-responses": Response}[kind]
    event: Any = {"anthropic": RawMessageStreamEvent, "openai-responses": ResponseStreamEvent}[kind]
    is_event = (kind == "anthropic" and document["type"] != "message") or "sequence_number" in document
    pydantic.TypeAdapter(event if is_event else whole).validate_python(document)


def test_a_body_of_no_documented_form_is_none_by_the_packages_types() -> None:
    """The control: what is marked so does not pass."""
    import pydantic
    from anthropic.types import Message as AnthropicMessage
    from openai.types.responses import Response

    for types, cases in ((AnthropicMessage, ANTHROPIC), (Response, RESPONSES)):
        wild = [case for case in cases if not case.official and isinstance(case.body, dict)]
        assert wild
        for case in wild:
            with pytest.raises(pydantic.ValidationError):
                types.model_validate(case.body)


def test_a_completion_is_one_by_the_packages_types(server: Loopback) -> None:
    from openai.types.chat import ChatCompletion

    document = json.loads(completion_body("Bern")) | {"created": 1, "model": "m"}
    document["choices"][0]["logprobs"] = None
    assert ChatCompletion.model_validate(document).choices[0].message.content == "Bern"
    server.behaviour = lambda _, write: write(http("200 OK", completion_body("Bern")))
    assert ask_chat(server).choices[0].message.content == "Bern"


def chunk(delta: dict[str, str] | None, finish: str | None = None, **more: object) -> dict[str, object]:
    """Return an event of a streamed completion, in its whole form; without a delta, one of no choice."""
    choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": finish}]
    return {
        "id": "c",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "m",
        "choices": choices,
    } | more


CHUNKS: Final = (
    chunk({"role": "assistant", "content": ""}),
    chunk({"content": "Be"}),
    chunk({"content": "rn"}),
    chunk({}, "length"),
    chunk(None, usage={"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}),
)


async def test_a_streamed_completion_is_one_by_the_packages_types_and_read_alike(server: Loopback) -> None:
    from openai.types.chat import ChatCompletionChunk

    for document in CHUNKS:
        ChatCompletionChunk.model_validate(document)
    events = "".join(f"data: {json.dumps(each)}\n\n" for each in CHUNKS) + "data: [DONE]\n\n"
    server.behaviour = lambda _, write: write(http("200 OK", events, "Content-Type: text/event-stream"))
    assert "".join(str(text or "") for text in chat_texts(ask_chat(server, stream=True))) == "Bern"
    ours = await ask(server.url)
    assert (ours.text, ours.finish, ours.input_tokens, ours.output_tokens) == ("Bern", "length", 11, 7)


async def test_a_text_without_a_message_is_a_completion_by_the_packages_types(server: Loopback) -> None:
    """As the interface before sent it, which some servers still do."""
    from openai.types import Completion as TextCompletion

    choice = {"index": 0, "text": "Bern", "finish_reason": "stop", "logprobs": None}
    document = {"id": "c", "object": "text_completion", "created": 1, "model": "m", "choices": [choice]}
    assert TextCompletion.model_validate(document).choices[0].text == "Bern"
    server.behaviour = lambda _, write: write(http("200 OK", json.dumps(document)))
    assert (await ask(server.url)).text == "Bern"


@pytest.mark.parametrize("case", WILD, ids=[case["name"] for case in WILD])
def test_what_endpoints_send_in_the_wild_the_package_reads_as_we_do_or_not_at_all(
    case: dict[str, Any], server: Loopback
) -> None:
    """Endpoints only resemble OpenAI's: where the package finds a text, it is the one that we find."""
    headers, status = case.get("headers", []), case.get("status", "200 OK")
    if not any(header.lower().startswith("content-type") for header in headers):
        kind = "text/event-stream" if "events" in case else "application/json"
        headers = [f"Content-Type: {kind}", *headers]
    body = "\n".join(case["events"]) if "events" in case else case["body"]
    server.behaviour = lambda _, write: write(http(status, body, *headers))
    if not status.startswith(("2", "3")):
        with pytest.raises(package_errors()) as caught:
            ask_chat(server)
        assert caught.value.status_code == int(status.split(" ")[0])
        return
    texts: list[object] = []
    with contextlib.suppress(Exception):
        texts = chat_texts(ask_chat(server, **({"stream": True} if "events" in case else {})))
    if texts and all(isinstance(text, str | None) for text in texts) and "text" in case:
        assert "".join(filter(None, texts)) == case["text"]


MESSAGES: Final = (
    Message("system", "Be brief."),
    Message("user", "one"),
    Message("assistant", "two"),
    Message("user", "three"),
)
TALK: Final = [{"role": role, "content": content} for role, content in MESSAGES]


async def request_of_ours(
    server: Loopback, kind: str, **more: object
) -> tuple[dict[str, object], dict[str, str]]:
    """Return the body and the headers of what a provider of ours sends."""
    table = {"kind": kind, "base_url": server.url, "api_key_env": KEY_VARIABLE, "connect_timeout_ms": 5_000}
    policy = strict_here().replace(providers={"mine": table | more})
    provider, model = open_provider("mine:m", policy, {KEY_VARIABLE: KEY})
    try:
        await provider.complete(Query(model, MESSAGES, 512, 30_000))
    finally:
        await provider.aclose()
    seen = server.requests[-1]
    return seen.body, seen.headers


async def test_a_message_is_asked_for_as_the_package_does(server: Loopback) -> None:
    server.behaviour = lambda _, write: write(ANTHROPIC[0].response())
    thinking = {"type": "enabled", "budget_tokens": 1024}
    ours, headers = await request_of_ours(server, "anthropic", extra_body={"thinking": thinking})
    with anthropic_client(server) as client:
        client.messages.create(
            model="m",
            max_tokens=512,
            system="Be brief.",
            messages=TALK[1:],
            stream=False,
            thinking=thinking,
        )
    theirs = server.requests[-1]
    assert ours == theirs.body
    assert server.requests[-2].path == theirs.path
    for name in ("authorization", "anthropic-version", "content-type"):
        assert headers[name] == theirs.headers[name]


async def test_a_response_is_asked_for_as_the_package_does(server: Loopback) -> None:
    server.behaviour = lambda _, write: write(RESPONSES[0].response())
    ours, headers = await request_of_ours(server, "openai-responses", temperature=0.5, top_p=0.9)
    with openai_client(server) as client:
        client.responses.create(
            model="m",
            max_output_tokens=512,
            input=TALK,
            store=False,
            stream=False,
            temperature=0.5,
            top_p=0.9,
        )
    theirs = server.requests[-1]
    assert ours == theirs.body
    assert server.requests[-2].path == theirs.path
    for name in ("authorization", "content-type"):
        assert headers[name] == theirs.headers[name]


def checked_by(types: Any, request: dict[str, Any]) -> dict[str, Any]:
    """Return a request as the package's types have it; pydantic.ValidationError: it is none by them."""
    import pydantic

    assert request.keys() <= types.__required_keys__ | types.__optional_keys__
    plain = (str, int, float, dict, type(None))
    found = pydantic.TypeAdapter(types).validate_python(request)
    # Lists are checked as they are read.
    return {name: each if isinstance(each, plain) else list(each) for name, each in found.items()}


def request_types(kind: str) -> Any:
    from anthropic.types.message_create_params import MessageCreateParamsNonStreaming
    from openai.types.chat.completion_create_params import CompletionCreateParamsNonStreaming
    from openai.types.responses.response_create_params import ResponseCreateParamsNonStreaming

    return {
        "anthropic": MessageCreateParamsNonStreaming,
        "openai": CompletionCreateParamsNonStreaming,
        "openai-responses": ResponseCreateParamsNonStreaming,
    }[kind]


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("anthropic", {"extra_body": {"thinking": {"type": "disabled"}, "stop_sequences": ["x"]}}),
        ("openai", {"output_tokens_field": "max_tokens", "temperature": 0.5, "top_p": 0.9}),
        ("openai", {"output_tokens_field": "max_completion_tokens", "roles": "no_system"}),
        ("openai", {"output_tokens_field": "max_tokens", "extra_body": {"seed": 7, "stop": ["x"]}}),
        ("openai-responses", {"roles": "as_given", "extra_body": {"reasoning": {"effort": "low"}}}),
    ],
)
async def test_a_request_of_ours_is_one_by_the_packages_types(
    kind: str, more: dict[str, object], server: Loopback
) -> None:
    import pydantic

    answers = {name: cases[0].response() for name, cases in OF_KIND.items()}
    answers["openai"] = http("200 OK", completion_body("Bern"))
    server.behaviour = lambda _, write: write(answers[kind])
    ours, _ = await request_of_ours(server, kind, **more)
    assert checked_by(request_types(kind), ours) == ours
    # The control: what is none does not pass.
    talk = "input" if kind == "openai-responses" else "messages"
    with pytest.raises(pydantic.ValidationError):
        checked_by(request_types(kind), ours | {talk: [{"role": "nobody", "content": 7}]})


@pytest.mark.parametrize("cap", ["max_tokens", "max_completion_tokens"])
async def test_a_completion_is_asked_for_as_the_package_does(cap: str, server: Loopback) -> None:
    server.behaviour = lambda _, write: write(http("200 OK", completion_body("Bern")))
    sampling = {"temperature": 0.5, "top_p": 0.9}
    ours, headers = await request_of_ours(server, "openai", output_tokens_field=cap, **sampling)
    with openai_client(server) as client:
        client.chat.completions.create(model="m", messages=TALK, stream=False, **sampling, **{cap: 512})
    theirs = server.requests[-1]
    assert ours == theirs.body
    assert server.requests[-2].path == theirs.path
    for name in ("authorization", "content-type"):
        assert headers[name] == theirs.headers[name]


async def test_an_azure_endpoint_is_asked_as_the_package_does(server: Loopback) -> None:
    import openai

    server.behaviour = lambda _, write: write(http("200 OK", completion_body("Bern")))
    base = f"http://127.0.0.1:{server.port}"
    version = "2024-10-21"
    await request_of_ours(
        server,
        "openai",
        output_tokens_field="max_tokens",
        base_url=f"{base}/openai/deployments/d?api-version={version}",
        api_key_header="api-key",
    )
    with openai.AzureOpenAI(
        api_key=KEY, api_version=version, azure_endpoint=base, azure_deployment="d", max_retries=0
    ) as client:
        client.chat.completions.create(model="m", messages=TALK, max_tokens=512)
    ours, theirs = server.requests
    assert ours.path == theirs.path
    assert ours.headers["api-key"] == theirs.headers["api-key"] == KEY

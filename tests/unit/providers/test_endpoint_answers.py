"""What endpoints send in the wild, each from a real server, and what is made of it."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import tomllib
from pathlib import Path
from typing import Any, Final

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlm_wasm.providers.answer_body import EventBody
from rlm_wasm.providers.base import Query
from rlm_wasm.providers.chat_answer import ChatPieces, completion_of
from rlm_wasm.providers.refusals import Trouble
from rlm_wasm.scheduler.messages import Message
from tests.support.provider_loopback import KEY, ask, completion_body, failure_of, http
from tests.support.tls_loopback import accepts_one, self_signed

pytestmark = pytest.mark.anyio

CASES: Final = tomllib.loads(
    (Path(__file__).parents[2] / "cases" / "endpoint_answers.toml").read_text("utf-8")
)["case"]
OK: Final = "200 OK"


def response_of(case: dict[str, Any]) -> bytes:
    """Return the bytes that a case's server sends."""
    headers = case.get("headers", [])
    if "events" not in case:
        return http(case.get("status", OK), case["body"], *headers)
    return http(OK, "\n".join(case["events"]), *(headers or ["Content-Type: text/event-stream"]))


def serves(response: bytes):
    """Return a behaviour that writes this, whatever is asked."""

    def behaviour(_seen, write):
        write(response)

    return behaviour


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
async def test_what_endpoints_send_is_an_answer_or_the_failure_that_it_means(case, server, anyio_backend):
    server.behaviour = serves(response_of(case))
    if "text" in case:
        answer = await ask(server.url)
        assert answer.text == case["text"]
        finish = answer.finish or ""
        assert finish == case.get("finish", finish)
        assert [answer.input_tokens, answer.output_tokens] == case.get("tokens", [None, None])
        return
    failure = await failure_of(server.url)
    assert failure.retryable is case["again"]
    assert failure.sent is case["billed"]
    assert failure.throttled is case.get("throttled", False)
    assert failure.retry_after_ms == case.get("wait_ms")
    assert case.get("says", "") in failure.error.message
    assert "hides" not in case or case["hides"] not in failure.error.message


async def test_an_error_in_a_200_is_cut_and_cannot_show_the_key(server):
    for padding in range(340, 420, 10):
        body = json.dumps({"error": {"message": "x" * padding + f"Bearer {KEY} again", "code": 400}})
        server.behaviour = serves(http(OK, body))
        message = (await failure_of(server.url)).error.message
        assert KEY[:8] not in message
        assert len(message) < 500


async def test_a_stream_that_echoes_the_key_in_pieces_is_withheld(server):
    pieces = [KEY[:9], KEY[9:]]
    events = [f"data: {json.dumps({'choices': [{'delta': {'content': piece}}]})}\n\n" for piece in pieces]
    server.behaviour = serves(http(OK, "".join([*events, "data: [DONE]\n\n"])))
    assert "withheld" in (await failure_of(server.url)).error.message


async def test_nothing_is_waited_for_behind_the_end_of_a_stream(server):
    """The server keeps the connection open; an answer that waited for its end would be late."""
    event = b'data: {"choices":[{"delta":{"content":"Bern"}}]}\n\ndata: [DONE]\n\n'
    server.behaviour = serves(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n" + event)
    server.hold = True
    assert (await ask(server.url)).text == "Bern"
    assert await anyio.to_thread.run_sync(server.hung_up.wait, 10)


async def test_a_stream_that_never_ends_is_cut_off_at_the_cap(server):
    event = b"data: " + json.dumps({"choices": [{"delta": {"content": "x" * 60_000}}]}).encode() + b"\n\n"

    def flood(_seen, write):
        write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
        while True:
            write(event)

    server.behaviour = flood
    failure = await failure_of(server.url)
    assert failure.error.message.endswith("sent more than 1048576 bytes")
    assert not failure.retryable
    assert await anyio.to_thread.run_sync(server.hung_up.wait, 10)


async def test_a_long_answer_may_come_in_small_events(server):
    """What stands around a text of 80 KB is more than a body may have."""
    padding = "p" * 250
    event = json.dumps({"id": padding, "choices": [{"delta": {"content": "0123456789"}}]})
    server.behaviour = serves(http(OK, f"data: {event}\n\n" * 8_000 + "data: [DONE]\n\n"))
    assert (await ask(server.url)).text == "0123456789" * 8_000


async def test_servers_that_stream_unless_told_otherwise_do_not(server):
    def behaviour(seen, write):
        assert seen.body["stream"] is False
        write(http(OK, completion_body("Bern")))

    server.behaviour = behaviour
    assert (await ask(server.url)).text == "Bern"


async def test_messages_of_one_role_in_turn_are_one_message(server):
    server.behaviour = serves(http(OK, completion_body()))
    messages = (
        Message("system", "Be brief."),
        Message("user", "one"),
        Message("assistant", "two"),
        Message("user", "three"),
        Message("user", "four"),
    )
    seen = {}
    for roles in ("alternating", "no_system", "as_given"):
        await ask(server.url, Query("gpt-5-mini", messages, 9, 30_000), roles=roles)
        sent = server.requests[-1].body["messages"]
        seen[roles] = [(message["role"], message["content"]) for message in sent]
    assert seen["alternating"] == [
        ("system", "Be brief."),
        ("user", "one"),
        ("assistant", "two"),
        ("user", "three\n\nfour"),
    ]
    assert seen["no_system"] == [
        ("user", "Be brief.\n\none"),
        ("assistant", "two"),
        ("user", "three\n\nfour"),
    ]
    assert seen["as_given"] == [(message.role, message.content) for message in messages]


# -- endpoints that cannot be reached --------------------------------------------------------------


async def test_a_name_without_an_address_is_said_with_host_and_port():
    failure = await failure_of("http://nothing.invalid:8123", api_key_env="")
    assert (failure.retryable, failure.sent) == (True, False)
    assert "the provider at nothing.invalid:8123 was not found: its name has no address" in str(failure)


async def test_an_endpoint_without_tls_is_said_with_host_and_port():
    def answer_in_plain_text(connection: socket.socket) -> None:
        connection.recv(65_536)
        connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    with accepts_one(answer_in_plain_text) as port:
        failure = await failure_of(f"https://127.0.0.1:{port}")
    assert (failure.retryable, failure.sent) == (False, False)
    assert f"the provider at 127.0.0.1:{port} failed the TLS handshake:" in str(failure)


async def test_a_certificate_that_is_not_accepted_is_said_and_not_tried_again(tmp_path):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(self_signed(tmp_path / "certificate.pem"))

    def handshake(connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            context.wrap_socket(connection, server_side=True).close()

    with accepts_one(handshake) as port:
        failure = await failure_of(f"https://127.0.0.1:{port}")
    assert (failure.retryable, failure.sent) == (False, False)
    told = f"the provider at 127.0.0.1:{port} has a TLS certificate that is not accepted: self-signed"
    assert told in str(failure)


async def test_a_proxy_that_refuses_is_said_with_its_host_and_port(server):
    server.behaviour = serves(http("403 Forbidden", ""))
    failure = await failure_of("https://endpoint.invalid:8123/v1", proxy=f"http://127.0.0.1:{server.port}")
    assert (failure.retryable, failure.sent) == (True, False)
    assert (
        f"the provider at endpoint.invalid:8123 was not reached: the proxy at 127.0.0.1:{server.port} "
        "answered 403 Forbidden"
    ) in str(failure)
    assert server.requests[0].path == "endpoint.invalid:8123"


async def test_a_proxy_that_is_not_there_is_said_with_its_host_and_port():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound and not listening: refused, and nobody else can take it
        proxy = f"127.0.0.1:{unused.getsockname()[1]}"
        failure = await failure_of("https://endpoint.invalid:8123/v1", proxy=f"http://{proxy}")
    assert (failure.retryable, failure.sent) == (True, False)
    assert f"the provider at endpoint.invalid:8123, by the proxy at {proxy}, refused the conn" in str(failure)


async def test_a_request_goes_by_the_policys_proxy_and_its_refusal_is_said(server):
    server.behaviour = serves(http(OK, completion_body("Bern")))
    answer = await ask(
        "http://endpoint.invalid:8123/v1", api_key_env="", proxy=f"http://127.0.0.1:{server.port}"
    )
    assert answer.text == "Bern"
    assert server.requests[0].path == "http://endpoint.invalid:8123/v1/chat/completions"


# -- the body, piece by piece ----------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_a_stream_is_the_same_however_it_is_cut(data) -> None:
    case = data.draw(st.sampled_from([case for case in CASES if "events" in case]))
    whole = "\n".join(case["events"]).encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=12)))
    pieces = [whole[start:end] for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    in_pieces, at_once = EventBody(10_000, ChatPieces()), EventBody(10_000, ChatPieces())
    at_once.take(whole)
    for piece in pieces:
        in_pieces.take(piece)
    assert in_pieces.document() == at_once.document()


_STREAMED: Final = (
    *(b"data: ", b"\n", b"\r\n", b"\r", b":", b"[DONE]", b"[1]", b'{"error":1}', b"ping", b"event: "),
    b'{"choices":[{"delta":{"content":"x"}}]}',
)


@settings(max_examples=200, deadline=None)
@given(chunks=st.lists(st.one_of(st.binary(max_size=40), st.sampled_from(_STREAMED)), max_size=30))
def test_whatever_a_stream_holds_it_is_an_answer_or_a_reason(chunks) -> None:
    body = EventBody(1_000, ChatPieces())
    for chunk in chunks:
        body.take(chunk)
    document = body.document()
    assert isinstance(document, Trouble) or completion_of(document, {})


@pytest.mark.threat("T-176")
@pytest.mark.parametrize(
    ("chunk", "limit"),
    [
        (b": not a word\n" * 100, 64_000),
        (b"x" * 100, 1_000),
        (b"\r" * 400, 64_000),
        (b"data: ping\r" * 40, 64_000),
        (b"data: " + b"x" * 80 + b"\n", 1_000),
        (b'data: {"choices":[{"delta":{"content":"' + b"x" * 90 + b'"}}]}\n', 1_000),
    ],
)
def test_a_stream_keeps_no_more_than_its_cap(chunk, limit) -> None:
    body = EventBody(1_000, ChatPieces())
    taken = sum(1 for _ in iter(lambda: body.take(chunk), False))
    assert body.document() == Trouble(f"sent more than {limit} bytes", retryable=False)
    assert taken * len(chunk) < 70_000

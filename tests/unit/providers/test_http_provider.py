"""The OpenAI-compatible provider against a real server that does everything a server can do wrong."""

from __future__ import annotations

import gzip
import json
import logging
import socket

import anyio
import pytest

from rlm_wasm.providers.base import Completion, Query
from rlm_wasm.providers.registry import open_provider
from rlm_wasm.scheduler.messages import FinishReason, Message
from tests.support.provider_loopback import (
    KEY,
    KEY_VARIABLE,
    ask,
    completion_body,
    failure_of,
    http,
    policy_for,
    query,
)

pytestmark = pytest.mark.anyio

OK = "200 OK"


def says(*parts: bytes):
    """Return a behaviour that writes `parts` whatever the request is."""

    def behaviour(_seen, write):
        for part in parts:
            write(part)

    return behaviour


async def test_good_answer_brings_text_and_usage(server):
    server.behaviour = says(http(OK, completion_body("forty-two")))
    assert await ask(server.url) == Completion("forty-two", 11, 7, FinishReason.STOP)


@pytest.mark.parametrize(
    ("stated", "finish"),
    [
        ("stop", FinishReason.STOP),
        ("length", FinishReason.LENGTH),
        ("content_filter", None),
        (None, None),
        (["stop"], None),
        (7, None),
    ],
)
async def test_why_a_text_ends_is_told_in_words_that_are_known(server, stated, finish):
    choice = {"message": {"content": "42"}, "finish_reason": stated}
    server.behaviour = says(http(OK, completion_body(choices=[choice])))
    assert (await ask(server.url)).finish is finish


async def test_request_is_the_question_the_cap_and_the_key_and_nothing_else(server):
    server.behaviour = says(http(OK, completion_body()))
    messages = (Message("system", "Be brief."), Message("user", "Zwölf?"), Message("assistant", "12"))
    await ask(server.url, Query("gpt-5-mini", messages, 99, 30_000))
    [seen] = server.requests
    assert seen.path == "/v1/chat/completions"
    assert seen.headers["authorization"] == f"Bearer {KEY}"
    assert seen.headers["accept-encoding"] == "identity"
    assert seen.body == {
        "model": "gpt-5-mini",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Zwölf?"},
            {"role": "assistant", "content": "12"},
        ],
        "max_completion_tokens": 99,
        "stream": False,
    }


async def test_older_servers_get_the_cap_under_its_older_name(server):
    server.behaviour = says(http(OK, completion_body()))
    await ask(server.url, output_tokens_field="max_tokens")
    assert server.requests[0].body["max_tokens"] == 512
    assert "max_completion_tokens" not in server.requests[0].body


async def test_no_key_is_sent_where_the_policy_names_none(server):
    server.behaviour = says(http(OK, completion_body()))
    await ask(server.url, api_key_env="")
    assert "authorization" not in server.requests[0].headers


async def test_lone_surrogate_in_a_prompt_is_sent_as_a_question_mark(server):
    """Guest code can make one; it has no UTF-8 form and must not become our exception."""
    server.behaviour = says(http(OK, completion_body()))
    await ask(server.url, query("a\ud800b"))
    assert server.requests[0].body["messages"] == [{"role": "user", "content": "a?b"}]


async def test_lone_surrogate_in_an_answer_is_replaced(server):
    server.behaviour = says(http(OK, completion_body("a\ud800b \U0001f600")))
    assert (await ask(server.url)).text == "a\ufffdb \U0001f600"


@pytest.mark.parametrize(
    "usage",
    [
        None,
        {},
        [],
        "many",
        {"prompt_tokens": "11", "completion_tokens": 1.5},
        {"prompt_tokens": -1, "completion_tokens": True},
        {"prompt_tokens": 10**30, "completion_tokens": 2**63},
    ],
)
async def test_usage_that_cannot_be_believed_is_unknown(server, usage):
    server.behaviour = says(http(OK, completion_body(usage=usage)))
    assert await ask(server.url) == Completion("42", None, None, FinishReason.STOP)


async def test_429_is_retryable_unbilled_and_carries_the_wait(server):
    body = json.dumps({"error": {"message": "Slow down", "code": "rate_limit_exceeded"}})
    server.behaviour = says(http("429 Too Many Requests", body, "Retry-After: 7"))
    failure = await failure_of(server.url)
    assert (failure.retryable, failure.sent, failure.retry_after_ms) == (True, False, 7000)
    assert failure.error.message == "the provider at 127.0.0.1 answered 429: Slow down"


async def test_429_for_an_empty_account_is_not_retryable(server):
    body = json.dumps({"error": {"message": "No credit", "code": "insufficient_quota"}})
    server.behaviour = says(http("429 Too Many Requests", body))
    assert not (await failure_of(server.url)).retryable


@pytest.mark.parametrize(
    ("headers", "wait_ms"),
    [
        (["Retry-After: 0"], 0),
        (["Retry-After: 999999999999999999"], 3_600_000),
        (["Retry-After: -5"], None),
        (["Retry-After: soon"], None),
        (["Retry-After: 1.5"], 1_500),
        (["Retry-After: Wed, 21 Oct 2026 07:28:30 GMT", "Date: Wed, 21 Oct 2026 07:28:00 GMT"], 30_000),
        (["Retry-After: Wed, 21 Oct 2026 07:28:00 GMT", "Date: Wed, 21 Oct 2026 07:28:30 GMT"], 0),
        (["Retry-After: Wed, 21 Oct 2026 07:28:30 GMT"], None),
        (["Retry-After: Wed, 99 Oct 2026 07:28:30 GMT", "Date: Wed, 21 Oct 2026 07:28:00 GMT"], None),
        ([], None),
    ],
)
async def test_retry_after_is_bounded_and_needs_no_clock_of_ours(server, headers, wait_ms):
    server.behaviour = says(http("503 Service Unavailable", "", *headers))
    assert (await failure_of(server.url)).retry_after_ms == wait_ms


@pytest.mark.parametrize("status", ["500 Oops", "502 Bad Gateway", "503 Busy", "504 Late", "529 Overloaded"])
async def test_5xx_is_retryable_and_may_have_been_billed(server, status):
    server.behaviour = says(http(status, "<html>trouble</html>"))
    failure = await failure_of(server.url)
    assert (failure.retryable, failure.sent) == (True, True)
    assert failure.error.message == f"the provider at 127.0.0.1 answered {status[:3]}"


@pytest.mark.parametrize("status", ["400 Bad", "403 No", "404 Gone", "413 Much", "422 What", "501 Never"])
async def test_refusal_that_would_come_again_is_not_retryable(server, status):
    server.behaviour = says(http(status, '{"error": "no such model"}'))
    failure = await failure_of(server.url)
    assert not failure.retryable
    assert failure.sent == status.startswith("5")
    assert "no such model" in failure.error.message


async def test_401_does_not_quote_the_provider_about_the_key(server):
    """Providers quote the ends of the key in this message, and guests see messages."""
    body = json.dumps({"error": {"message": f"Incorrect API key provided: {KEY[:7]}***{KEY[-4:]}"}})
    server.behaviour = says(http("401 Unauthorized", body))
    failure = await failure_of(server.url)
    assert failure.error.message == "the provider at 127.0.0.1 answered 401: it did not accept the key"
    assert not failure.retryable


async def test_error_text_that_echoes_the_key_is_redacted_before_it_is_cut(server):
    """The echo sits across the place where the message is cut: half a key must not remain."""
    for padding in range(340, 420, 5):
        body = json.dumps({"error": {"message": "x" * padding + f"Bearer {KEY} again"}})
        server.behaviour = says(http("400 Bad Request", body))
        message = (await failure_of(server.url)).error.message
        assert KEY[:8] not in message
        assert len(message) < 500


async def test_error_text_has_no_control_characters(server):
    server.behaviour = says(http("400 Bad", json.dumps({"error": {"message": "\x1b[2J\r\nred\u202e"}})))
    assert (await failure_of(server.url)).error.message.isprintable()


async def test_answer_that_echoes_the_key_is_withheld(server):
    """An endpoint, or a proxy in front of it, must not hand the key to the guest."""

    def echo(seen, write):
        write(http(OK, completion_body(f"You sent {seen.headers['authorization']}")))

    server.behaviour = echo
    failure = await failure_of(server.url)
    assert "withheld" in failure.error.message
    assert not failure.retryable


async def test_placeholder_key_of_a_local_server_does_not_spoil_answers(server):
    server.behaviour = says(http(OK, completion_body("the set is EMPTY")))
    assert (await ask(server.url, key="EMPTY")).text == "the set is EMPTY"


async def test_debug_logs_do_not_show_the_key(server, caplog):
    server.behaviour = says(http(OK, completion_body()))
    with caplog.at_level(logging.DEBUG):
        await ask(server.url)
    assert caplog.records
    assert KEY not in caplog.text
    assert not any(KEY in repr(record.args) for record in caplog.records)


async def test_refused_connection_is_retryable_and_was_never_sent():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound and not listening: refused, and nobody else can take it
        port = unused.getsockname()[1]
        failure = await failure_of(f"http://127.0.0.1:{port}")
    assert (failure.retryable, failure.sent) == (True, False)
    assert failure.error.message == f"the provider at 127.0.0.1:{port} refused the connection"


async def test_server_that_never_answers_times_out(server):
    server.behaviour, server.hold = says(), True
    failure = await failure_of(server.url, query(timeout_ms=50))
    assert failure.retryable
    assert failure.error.message == "the provider at 127.0.0.1 did not answer within 50 ms"
    # Whether the request got out in that time is the machine's business; that we know it is ours.
    assert failure.sent or not server.arrived.is_set()


async def test_server_that_stops_in_the_middle_times_out_as_sent(server):
    """Every byte resets an idle timer; the deadline is for the whole attempt."""
    server.behaviour = says(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{")
    server.hold = True
    failure = await failure_of(server.url, query(timeout_ms=400))
    assert (failure.retryable, failure.sent) == (True, True)


async def test_time_that_is_already_up_sends_nothing(server):
    failure = await failure_of(server.url, query(timeout_ms=0))
    assert (failure.retryable, failure.sent) == (True, False)
    assert server.requests == []


async def test_cancelling_closes_the_connection(server):
    server.behaviour, server.hold = says(), True
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ask, server.url)
        await anyio.to_thread.run_sync(server.arrived.wait)
        tasks.cancel_scope.cancel()
    assert await anyio.to_thread.run_sync(server.hung_up.wait, 10)


async def test_connection_closed_without_an_answer_is_retryable_and_may_be_billed(server):
    server.behaviour = says()
    failure = await failure_of(server.url)
    assert (failure.retryable, failure.sent) == (True, True)
    assert "closed the connection without an answer" in failure.error.message


async def test_half_a_body_is_retryable_and_never_taken_for_an_answer(server):
    whole = http(OK, completion_body())
    server.behaviour = says(whole[:-10])
    failure = await failure_of(server.url)
    assert (failure.retryable, failure.sent) == (True, True)
    assert "broke off its answer" in failure.error.message


async def test_something_that_is_not_http_is_a_failure(server):
    for answer in (
        b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
        b"\x15\x03\x01\0\x02\x02\x16",
        b"HTTP/1.1 200\r\nX Y: a\r\n\r\n",
    ):
        server.behaviour = says(answer)
        failure = await failure_of(server.url)
        assert failure.retryable
        assert "sent something that is not HTTP: does base_url name the right port" in failure.error.message


@pytest.mark.parametrize(
    "answer",
    [
        (b"HTTP/1.1 200 OK\r\n", b"X: " + b"y" * 2_000_000),
        (b"HTTP/1.1 200 OK\r\n", b"X: y\r\n" * 100_000, b"\r\n"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n", b"X: y\r\n" * 100_000),
    ],
    ids=["one", "many", "behind the body"],
)
async def test_endless_headers_are_a_failure_that_says_so(server, answer):
    server.behaviour = says(*answer)
    failure = await failure_of(server.url)
    assert (failure.retryable, failure.sent) == (False, True)
    assert failure.error.message == "the provider at 127.0.0.1 sent longer headers than are read"


@pytest.mark.parametrize(
    "body",
    [
        b"<html>login</html>",
        b"\xff\xfe\x00",
        b'{"choices": [',
        b"[" * 30_000,
        b"9" * 10_000,
    ],
)
async def test_garbage_is_a_failure_that_is_not_retried(server, body):
    server.behaviour = says(http(OK, body))
    failure = await failure_of(server.url)
    assert (failure.retryable, failure.sent) == (False, True)
    assert failure.error.message == "the provider at 127.0.0.1 sent something that is not JSON"


@pytest.mark.parametrize(
    "body",
    [
        "null",
        "[]",
        '"42"',
        "{}",
        '{"choices": {"0": 1}}',
        '{"choices": [42]}',
        '{"choices": [{"message": "42"}]}',
    ],
)
async def test_json_of_another_shape_is_a_failure(server, body):
    server.behaviour = says(http(OK, body))
    failure = await failure_of(server.url)
    assert (failure.retryable, failure.sent) == (False, True)
    assert failure.error.message.endswith("sent JSON that is not a chat completion")


@pytest.mark.parametrize(
    ("choice", "reason"),
    [
        ({"message": {"content": None}}, "sent no text"),
        ({"message": {"content": ""}}, "sent no text"),
        ({"message": {"content": None}, "finish_reason": "length"}, "raise query.output_tokens_max"),
        ({"message": {"content": None}, "finish_reason": "content_filter"}, "(finish_reason content_filter)"),
        ({"message": {"content": None}, "finish_reason": 3}, "sent no text"),
        ({"message": {"content": None, "refusal": "I will not"}}, "the model refused: I will not"),
    ],
)
async def test_answer_without_text_is_a_failure_that_says_why(server, choice, reason):
    server.behaviour = says(http(OK, completion_body(choices=[choice])))
    assert reason in (await failure_of(server.url)).error.message


async def test_huge_body_is_cut_off_at_the_cap(server):
    """The server would send for ever; the client hangs up soon after the cap."""

    def flood(_seen, write):
        write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            write(b"10000\r\n" + b" " * 65_536 + b"\r\n")

    server.behaviour = flood
    failure = await failure_of(server.url)
    assert failure.error.message.endswith("sent more than 1048576 bytes")
    assert not failure.retryable
    assert await anyio.to_thread.run_sync(server.hung_up.wait, 10)


async def test_huge_error_body_is_cut_off_too(server):
    def flood(_seen, write):
        write(b"HTTP/1.1 500 Oops\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            write(b"10000\r\n" + b" " * 65_536 + b"\r\n")

    server.behaviour = flood
    assert (await failure_of(server.url)).retryable


async def test_compressed_body_is_refused_unopened(server):
    """A small body that unpacks to a huge one must not get past the cap."""
    bomb = gzip.compress(b" " * 10_000_000)
    server.behaviour = says(http(OK, bomb, "Content-Encoding: gzip"))
    failure = await failure_of(server.url)
    assert "compressed its answer" in failure.error.message


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "307 Temporary", "308 Permanent"])
async def test_redirect_is_never_followed(server, status):
    """A redirect could send the key, or the prompt, to another host."""
    server.behaviour = says(http(status, "", f"Location: {server.url}/elsewhere"))
    failure = await failure_of(server.url)
    assert len(server.requests) == 1
    assert (failure.retryable, failure.sent) == (False, False)
    assert "a redirect, which is never followed" in failure.error.message


async def test_proxy_and_netrc_variables_are_ignored(server, monkeypatch, tmp_path):
    """The prompt goes where the policy says, not where the environment says."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login a password b\n")
    monkeypatch.setenv("NETRC", str(netrc))
    server.behaviour = says(http(OK, completion_body()))
    await ask(server.url)
    assert server.requests[0].headers["authorization"] == f"Bearer {KEY}"


async def test_many_queries_at_once_get_their_own_answers(server):
    def echo(seen, write):
        write(http(OK, completion_body(seen.body["messages"][0]["content"])))

    server.behaviour = echo
    provider, _ = open_provider("openai:m", policy_for(server.url), {KEY_VARIABLE: KEY})
    answers: dict[int, str] = {}

    async def one(number: int) -> None:
        answers[number] = (await provider.complete(query(f"question {number}"))).text

    async with anyio.create_task_group() as tasks:
        for number in range(20):
            tasks.start_soon(one, number)
    await provider.aclose()
    await provider.aclose()
    assert answers == {number: f"question {number}" for number in range(20)}

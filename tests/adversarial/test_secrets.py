"""A known key goes through whole runs, good and bad, and is then looked for wherever anything is kept.

The server knows the key too and says it back in every place it can. What the operator wrote (the
environment of the process) is the only place where the key may be.
"""

from __future__ import annotations

import gc
import io
import logging
import os
import subprocess
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from rlm_wasm.api.runtime import Runtime
from rlm_wasm.audit.otel import OtelExporter
from rlm_wasm.audit.sink import JsonlSink
from rlm_wasm.errors import PolicyError, UsageError
from rlm_wasm.policy.model import Policy
from rlm_wasm.policy.render import to_toml
from rlm_wasm.replay.recording import Recording
from rlm_wasm.replay.replay import replay
from tests.support.command_line import COMMAND, SECONDS_MAX, environment
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

pytestmark = [pytest.mark.guest, pytest.mark.usefixtures("guest")]

ENVIRON = {KEY_VARIABLE: KEY}
SOURCE = (
    "import os, sys\n"
    "found = [dict(os.environ), sys.argv]\n"
    "try: found.append(llm_query('a'))\nexcept Exception as e: found.append(repr(e))\n"
    "found.append([str(r) for r in llm_query_batched(['b', 'c'], return_exceptions=True)])\n"
    "print(found)\nFINAL(found)"
)
NO_KEY = f"you sent {KEY}, which is no key of ours"


def error(message: str) -> str:
    return '{"error": {"message": "' + message + '", "code": "' + KEY + '", "type": "' + KEY + '"}}'


# What the server answers to a sub-query. All of it goes out as it is, the key included.
ANSWERS: dict[str, bytes] = {
    "good": http("200 OK", completion_body("fine")),
    "good, with the key in every header": http("200 OK", completion_body("fine"), f"X-Key: {KEY}"),
    "the key as the answer": http("200 OK", completion_body(f"your key is {KEY}")),
    "the key in another member": http("200 OK", completion_body("fine", id=KEY, model=KEY)),
    "401 that quotes it": http("401 Unauthorized", error(NO_KEY), f"WWW-Authenticate: Bearer {KEY}"),
    "400 that quotes it": http("400 Bad Request", error(NO_KEY)),
    "429 that quotes it": http("429 Too Many Requests", error(NO_KEY), "Retry-After: 0"),
    "500 that quotes it": http("500 Internal Server Error", error(NO_KEY)),
    "a redirect that quotes it": http("302 Found", "", f"Location: https://example.invalid/{KEY}"),
    "refusal that quotes it": http(
        "200 OK",
        '{"choices": [{"message": {"content": null, "refusal": "'
        + KEY
        + '"}, "finish_reason": "'
        + KEY
        + '"}]}',
    ),
    "not JSON but the key": http("200 OK", KEY),
    "half a body": http("200 OK", completion_body(KEY))[:-30],
    "no HTTP but the key": KEY.encode() + b"\r\n\r\n",
    "nothing": b"",
}


@pytest.fixture
def server() -> Iterator[Loopback]:
    with loopback_server() as loopback:
        yield loopback


@pytest.fixture
def log_of_everything() -> Iterator[io.StringIO]:
    """What a program that logs everything, of every library, would have in its log."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield stream
    root.setLevel(level)
    root.removeHandler(handler)


def policy_at(server: Loopback) -> Policy:
    endpoint = {
        "base_url": server.url, "api_key_env": KEY_VARIABLE, "connect_timeout_ms": 5_000,
        "output_tokens_field": "max_completion_tokens",
    }  # fmt: skip
    return small_policy(
        providers={"openai": endpoint},
        query={"attempts_max": 2, "timeout_ms_max": 3_000},
        events={"texts": True},
        sandbox={"entropy": "seeded"},
    )


def behave(answer: bytes) -> Callable[[Seen, Write], None]:
    """Answer the root with the code, and everything else with `answer`."""

    def answered(seen: Seen, write: Write) -> None:
        assert seen.headers["authorization"] == f"Bearer {KEY}", "the key must be in use"
        messages: Any = seen.body["messages"]
        if messages[0]["role"] == "system":
            write(http("200 OK", completion_body(f"```repl\n{SOURCE}\n```")))
        else:
            write(answer)

    return answered


def reprs_of_ours() -> str:
    """Return the repr of every live object of this package."""
    # Not every type of an extension has a name there.
    ours = [o for o in gc.get_objects() if str(type(o).__module__).partition(".")[0] == "rlm_wasm"]
    assert len(ours) > 100
    return "\n".join(repr(each) for each in ours)


def with_locals(error: BaseException) -> str:
    """Return a traceback as an error reporter writes it: chained, with the locals of every frame of ours."""
    told = []
    for each in (error, error.__cause__, error.__context__):
        if each is not None:
            told.append(f"{each!r} {each} {each.args!r} {vars(each)!r}")
            for frame, _ in traceback.walk_tb(each.__traceback__):
                if f"{os.sep}rlm_wasm{os.sep}" in frame.f_code.co_filename:
                    told.append(repr({name: repr(value) for name, value in frame.f_locals.items()}))
    return "\n".join(told)


@pytest.mark.anyio
@pytest.mark.threat("T-084")
@pytest.mark.parametrize("what", ANSWERS)
async def test_a_key_is_in_nothing_that_a_run_leaves(
    server: Loopback, tmp_path: Path, log_of_everything: io.StringIO, what: str
) -> None:
    server.behaviour = behave(ANSWERS[what])
    kept, events, log = InMemorySpanExporter(), Events(), tmp_path / "events.jsonl"
    tracing = TracerProvider()
    tracing.add_span_processor(SimpleSpanProcessor(kept))
    policy = policy_at(server)
    with JsonlSink(log) as sink:
        async with running(policy, environ=ENVIRON) as runtime:
            sinks = [sink.write, events.append, OtelExporter(tracing, texts=True)]
            result = await runtime.ask("?", "a context", sinks=sinks)
            shown = reprs_of_ours() + repr(runtime) + repr(vars(runtime)) + repr(result)
    tracing.shutdown()
    events.assert_complete()
    assert len(server.requests) >= 4
    spans = "".join(span.to_json() for span in kept.get_finished_spans())
    places = {
        "events": repr(list(events)),
        "recording": log.read_text(),
        "spans": spans,
        "result": repr(result),
        "reprs": shown,
        "policy": to_toml(policy),
        "log": log_of_everything.getvalue(),
    }
    assert "receive_response_headers.complete" in places["log"], "the libraries do log here"
    assert [place for place, text in places.items() if KEY in text] == []
    assert not any(logging.getLogger(name).filters for name in ("httpx", "httpcore.http11"))
    # What was recorded is enough to repeat it, without the key.
    found = await replay(Recording.open(log))
    assert (found.difference, found.ended) == (None, None)


@pytest.mark.anyio
@pytest.mark.threat("T-084")
@pytest.mark.parametrize(
    ("environ", "change", "kind"),
    [
        ({KEY_VARIABLE: KEY + "\n"}, {}, UsageError),
        ({KEY_VARIABLE: KEY * 400}, {}, UsageError),
        ({"OTHER": KEY}, {}, UsageError),
        (ENVIRON, {"model": "oracle:x"}, PolicyError),
        (ENVIRON, {"model": "script:missing.toml"}, UsageError),
        (ENVIRON, {"sub_model": "oracle:unpriced"}, PolicyError),
    ],
)
async def test_a_key_is_in_no_traceback_of_ours_even_with_its_locals(
    server: Loopback, environ: dict[str, str], change: dict[str, str], kind: type[Exception]
) -> None:
    with pytest.raises(kind) as caught:
        async with Runtime(policy_at(server), environ=environ, **change):
            pass
    told = with_locals(caught.value)
    assert "Runtime" in told
    assert KEY not in told


@pytest.mark.anyio
@pytest.mark.threat("T-084")
async def test_a_sink_that_fails_in_the_middle_shows_no_key(server: Loopback) -> None:
    """The frames between the sink and the runtime are those of the broker, with a query in flight."""
    server.behaviour = behave(ANSWERS["good"])
    told: list[str] = []

    def broken(event: object) -> None:
        if event.kind == "query_sent":
            try:
                raise RuntimeError("a sink of somebody's")
            except RuntimeError as failure:
                frame = failure.__traceback__.tb_frame.f_back
                while frame is not None:
                    if f"{os.sep}rlm_wasm{os.sep}" in frame.f_code.co_filename:
                        told.append(repr({name: repr(value) for name, value in frame.f_locals.items()}))
                    frame = frame.f_back
                raise

    async with running(policy_at(server), environ=ENVIRON) as runtime:
        result = await runtime.ask("?", sinks=[broken])
    assert "a sink of somebody's" in result.reason
    assert told
    assert KEY not in "".join(told)


@pytest.mark.threat("T-084")
@pytest.mark.parametrize("what", ["good", "the key as the answer", "401 that quotes it", "half a body"])
def test_a_key_is_in_nothing_that_the_command_writes(server: Loopback, tmp_path: Path, what: str) -> None:
    server.behaviour = behave(ANSWERS[what])
    policy, log = tmp_path / "p.toml", tmp_path / "events.jsonl"
    policy.write_text(to_toml(policy_at(server)))
    ended = subprocess.run(
        [*COMMAND, "run", "--policy", policy, "--events", log, "--json", "?"],
        capture_output=True, timeout=SECONDS_MAX,
        env=environment(RLM_WASM_TRACEBACK="1", PYTHONASYNCIODEBUG="1", **ENVIRON),
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert server.requests
    written = [ended.stdout, ended.stderr, *(path.read_bytes() for path in tmp_path.iterdir())]
    assert KEY.encode() not in b"".join(written)

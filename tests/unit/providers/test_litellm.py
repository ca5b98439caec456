"""Models by way of another package: asked once, with the host's cap, believed as an endpoint is."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from rlm_wasm.api.runtime import Runtime
from rlm_wasm.errors import NoText, PolicyError, UsageError, WindowExceeded
from rlm_wasm.policy.model import Policy
from rlm_wasm.providers.base import Completion, ProviderFailure, Query
from rlm_wasm.providers.litellm import LiteLlmProvider, open_litellm
from rlm_wasm.providers.secret import Keys
from rlm_wasm.scheduler.messages import FinishReason, Message
from tests.support.machine_grade import strict_here
from tests.support.provider_loopback import (
    KEY,
    KEY_VARIABLE,
    Loopback,
    completion_body,
    http,
    loopback_server,
)

PRICE = {"input_microdollars_per_mtok": 1, "output_microdollars_per_mtok": 1}
SPEC = "any:openai/some-model"
installed = pytest.mark.skipif(
    importlib.util.find_spec("litellm") is None, reason="the extra is not installed: pip install litellm"
)
# The package's own, at its import and after.
quiet = pytest.mark.filterwarnings("ignore")


@pytest.fixture(params=["asyncio"])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def server() -> Iterator[Loopback]:
    with loopback_server() as loopback:
        yield loopback


def policy_of(table: dict[str, Any] | None = None, **models: Any) -> Policy:
    prices = dict(strict_here().models.prices) | {SPEC: PRICE}
    return strict_here().replace(
        providers={"any": {"kind": "litellm"} | (table or {})}, models={"prices": prices} | models
    )


async def ask(server: Loopback, timeout_ms: int = 30_000, **more: Any) -> Completion:
    policy = policy_of({"base_url": server.url, "api_key_env": KEY_VARIABLE} | more)
    provider = open_litellm("any", policy.providers["any"], policy, Keys({KEY_VARIABLE: KEY}))
    messages = (Message("system", "Be brief."), Message("user", "Capital?"), Message("user", "Turn 1"))
    try:
        return await provider.complete(Query("openai/some-model", messages, 64, timeout_ms))
    finally:
        await provider.aclose()


async def failure_of(server: Loopback, **more: Any) -> ProviderFailure:
    with pytest.raises(ProviderFailure) as caught:
        await ask(server, **more)
    assert KEY not in str(caught.value)
    return caught.value


def test_without_the_package_it_is_told_which_one_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "litellm", None)
    policy = policy_of()
    with pytest.raises(UsageError, match="needs the package litellm, which is not installed") as caught:
        open_litellm("any", policy.providers["any"], policy, Keys({}))
    assert caught.value.hint == "pip install 'rlm-wasm[litellm]'"


def test_its_key_is_the_variables_that_the_policy_names() -> None:
    policy = policy_of({"api_key_env": KEY_VARIABLE})
    with pytest.raises(UsageError, match=KEY_VARIABLE):
        open_litellm("any", policy.providers["any"], policy, Keys({}))


def test_its_models_have_no_price_but_the_policys() -> None:
    """Whatever its URL says: who connects is not us, and looks at no other end."""
    for table in ({}, {"base_url": "http://127.0.0.1:1/v1"}):
        with pytest.raises(PolicyError, match=r"models\.root: has no price; add"):
            policy_of(table, root="any:openai/another")


class Refusing(Exception):
    """As the package raises what an endpoint refused."""

    status_code = 400
    message = (
        "This model's maximum context length is 8192 tokens. However, your messages resulted in 9000 tokens."
    )


class RefusingLibrary:
    async def acompletion(self, **request: object) -> object:
        raise Refusing


@pytest.mark.anyio
async def test_what_is_too_long_for_a_model_is_told_as_that() -> None:
    policy = policy_of()
    provider = LiteLlmProvider("any", policy.providers["any"], policy, None, RefusingLibrary())
    with pytest.raises(ProviderFailure) as caught:
        await provider.complete(Query("openai/some-model", (Message("user", "x"),), 64, 1_000))
    assert isinstance(caught.value.error, WindowExceeded)
    assert caught.value.error.window_tokens == 8192


@pytest.mark.parametrize("key", ["proxy", "ca_file", "connect_timeout_ms", "api_key_header"])
def test_what_it_would_not_heed_is_refused(key: str) -> None:
    value: Any = 5_000 if key.endswith("_ms") else "http://127.0.0.1:1" if key == "proxy" else "x"
    with pytest.raises(PolicyError, match=f'{key}: is no key of a provider of kind "litellm"'):
        policy_of({key: value})


@installed
@quiet
@pytest.mark.anyio
async def test_it_is_asked_once_with_the_hosts_cap_and_what_the_policy_sends_along(server: Loopback) -> None:
    server.behaviour = lambda _seen, write: write(http("200 OK", completion_body("Bern")))
    answer = await ask(
        server, headers={"X-Title": "mine"}, extra_body={"top_k": 4}, temperature=0.5, roles="no_system"
    )
    assert answer == Completion("Bern", 11, 7, FinishReason.STOP)
    [seen] = server.requests
    assert seen.path == "/v1/chat/completions"
    assert seen.headers["authorization"] == f"Bearer {KEY}"
    assert seen.headers["x-title"] == "mine"
    sent = {name: seen.body[name] for name in ("model", "max_tokens", "top_k", "temperature")}
    assert sent == {"model": "some-model", "max_tokens": 64, "top_k": 4, "temperature": 0.5}
    assert seen.body["messages"] == [{"role": "user", "content": "Be brief.\n\nCapital?\n\nTurn 1"}]
    assert not seen.body.get("stream")


@installed
@quiet
@pytest.mark.anyio
@pytest.mark.parametrize(
    ("status", "retryable", "throttled"),
    [("429 Too Many Requests", True, True), ("400 Bad Request", False, False), ("503 No", True, False)],
)
async def test_a_refusal_is_one_attempt_and_means_what_its_status_does(
    server: Loopback, status: str, retryable: bool, throttled: bool
) -> None:
    body = json.dumps({"error": {"message": f"no, {KEY}", "code": None}})
    server.behaviour = lambda _seen, write: write(http(status, body, "Retry-After: 7"))
    failure = await failure_of(server)
    assert (failure.retryable, failure.throttled) == (retryable, throttled)
    assert len(server.requests) == 1
    assert "the provider any, by litellm, answered" in str(failure)
    assert failure.__cause__ is None
    assert failure.__context__ is None


@installed
@quiet
@pytest.mark.anyio
async def test_silence_lateness_and_nobody_there_are_told(server: Loopback) -> None:
    server.behaviour = lambda _seen, write: write(http("200 OK", completion_body(None)))
    assert isinstance((await failure_of(server)).error, NoText)
    server.behaviour, server.hold = (lambda _seen, _write: None), True
    late = await failure_of(server, timeout_ms=300)
    assert (late.retryable, late.sent) == (True, True)
    with loopback_server() as gone:
        pass
    nobody = await failure_of(gone)
    assert nobody.sent, "nobody knows"


@installed
@quiet
@pytest.mark.anyio
async def test_it_works_on_asyncio_alone_and_says_so(server: Loopback) -> None:
    import trio

    def on_trio() -> ProviderFailure:
        return trio.run(failure_of, server)

    import anyio.to_thread

    failure = await anyio.to_thread.run_sync(on_trio)
    assert "works on asyncio alone" in str(failure)
    assert not failure.sent
    assert server.requests == []


@installed
@quiet
@pytest.mark.anyio
async def test_a_runtime_opens_it_for_a_policy_that_has_it(server: Loopback) -> None:
    policy = policy_of({"base_url": server.url}, root=SPEC, sub=SPEC, child=[SPEC])
    policy = policy.replace(sandbox={"isolation": "inline", "require_lockdown": False, "lockdown": None})
    runtime = Runtime(policy, environ={})
    provider, model = runtime._providers.get(SPEC)
    assert model == "openai/some-model"
    await provider.aclose()

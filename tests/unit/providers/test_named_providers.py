"""Models of several providers in one policy: each goes to its own endpoint, with its own key and settings."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rlm_wasm.errors import UsageError
from rlm_wasm.policy.model import Policy
from rlm_wasm.providers.base import Query
from rlm_wasm.providers.registry import ProviderSet, open_provider
from rlm_wasm.providers.script import ScriptProvider
from rlm_wasm.scheduler.messages import Message
from tests.support.machine_grade import strict_here
from tests.support.provider_loopback import (
    KEY,
    KEY_VARIABLE,
    Loopback,
    ask,
    completion_body,
    failure_of,
    http,
    loopback_server,
)
from tests.support.tls_loopback import accepts_one, self_signed

pytestmark = pytest.mark.anyio

OTHER_KEY = "ak-other-9876543210zyxwv"
PRICE = {"input_microdollars_per_mtok": 1, "output_microdollars_per_mtok": 1}
ENVIRON = {KEY_VARIABLE: KEY, "OTHER_KEY": OTHER_KEY}


def endpoint(url: str, **more: object) -> dict[str, object]:
    """Return the table of an endpoint of kind `openai`."""
    table = {"kind": "openai", "base_url": url, "api_key_env": KEY_VARIABLE, "connect_timeout_ms": 5_000}
    return table | {"output_tokens_field": "max_tokens"} | more


def policy_of(providers: dict[str, Any], *specs: str, **models: object) -> Policy:
    """Return strict with these providers beside its own and models that may be asked."""
    prices = dict(strict_here().models.prices) | dict.fromkeys(specs, PRICE)
    return strict_here().replace(providers=providers, models={"prices": prices} | models)


def query_for(model: str) -> Query:
    return Query(model, (Message("system", "Be brief."), Message("user", "Hi?")), 64, 30_000)


@pytest.fixture
def other() -> Iterator[Loopback]:
    with loopback_server() as loopback:
        yield loopback


def says(text: str):
    return lambda _seen, write: write(http("200 OK", completion_body(text)))


@pytest.mark.threat("T-241")
async def test_each_model_goes_to_its_own_endpoint_with_its_own_key(server, other):
    server.behaviour, other.behaviour = says("here"), says("there")
    policy = policy_of(
        {"here": endpoint(server.url), "there": endpoint(other.url, api_key_env="OTHER_KEY")},
        *("here:a", "there:b"),
    )
    providers = ProviderSet(policy, ENVIRON)
    for spec, text in (("here:a", "here"), ("there:b", "there")):
        provider, model = providers.get(spec)
        assert (await provider.complete(query_for(model))).text == text
    await providers.aclose()
    assert server.requests[0].body["model"] == "a"
    assert other.requests[0].body["model"] == "b"
    assert server.requests[0].headers["authorization"] == f"Bearer {KEY}"
    assert other.requests[0].headers["authorization"] == f"Bearer {OTHER_KEY}"
    assert OTHER_KEY not in repr(server.requests)
    assert KEY not in repr(other.requests)


async def test_a_missing_key_is_told_with_the_provider_that_wants_it():
    policy = policy_of({"there": endpoint("https://api.example.com", api_key_env="OTHER_KEY")}, "there:b")
    with pytest.raises(UsageError, match=r"OTHER_KEY, which providers\.there\.api_key_env names, is not set"):
        ProviderSet(policy, {KEY_VARIABLE: KEY}).get("there:b")


async def test_a_query_in_the_base_url_stays_behind_the_path_and_a_key_has_its_own_header(server):
    server.behaviour = says("Bern")
    base = f"http://127.0.0.1:{server.port}/openai/deployments/d/?api-version=2024-10-21"
    assert (await ask(base, api_key_header="api-key")).text == "Bern"
    [seen] = server.requests
    assert seen.path == "/openai/deployments/d/chat/completions?api-version=2024-10-21"
    assert seen.headers["api-key"] == KEY
    assert "authorization" not in seen.headers


@pytest.mark.threat("T-241")
async def test_a_key_in_another_header_is_shown_nowhere_either(server):
    server.behaviour = lambda seen, write: write(
        http("400 Bad", '{"error": {"message": "bad key ' + seen.headers["api-key"] + '"}}')
    )
    failure = await failure_of(server.url, api_key_header="api-key")
    assert "bad key [redacted]" in str(failure)


async def test_settings_of_a_provider_and_of_a_model_go_with_its_requests(server):
    server.behaviour = says("Bern")
    policy = policy_of(
        {
            "mine": endpoint(
                server.url,
                headers={"X-Title": "provider", "X-Both": "provider"},
                extra_body={"top_k": 40, "seed": 7, "format": {"type": "text"}},
                temperature=0.5,
                top_p=1,
            )
        },
        *("mine:a", "mine:b"),
        settings={"mine:b": {"headers": {"x-both": "model"}, "extra_body": {"seed": 8}, "temperature": 0}},
    )
    providers = ProviderSet(policy, ENVIRON)
    for spec in ("mine:a", "mine:b"):
        provider, model = providers.get(spec)
        await provider.complete(query_for(model))
    await providers.aclose()
    first, second = server.requests
    assert (first.headers["x-title"], first.headers["x-both"]) == ("provider", "provider")
    assert (second.headers["x-title"], second.headers["x-both"]) == ("provider", "model")
    common = {"top_k": 40, "format": {"type": "text"}, "top_p": 1, "max_tokens": 64, "stream": False}
    assert common.items() <= first.body.items()
    assert common.items() <= second.body.items()
    assert (first.body["seed"], first.body["temperature"]) == (7, 0.5)
    assert (second.body["seed"], second.body["temperature"]) == (8, 0)


async def test_a_script_of_a_table_answers_for_every_model_name(tmp_path):
    (tmp_path / "m.toml").write_text('[[reply]]\nrole="any"\ntext="x"\n')
    fake = {"kind": "script", "file": str(tmp_path / "m.toml")}
    policy = policy_of({"fake": fake}, root="fake:big", sub="fake:small")
    providers = ProviderSet(policy, {})
    big, small = providers.get("fake:big"), providers.get("fake:small")
    assert isinstance(big[0], ScriptProvider)
    assert (big[0], big[1], small[1]) == (small[0], "big", "small")
    await providers.aclose()


def test_without_somebody_who_reads_logs_there_are_no_recordings(tmp_path):
    with pytest.raises(UsageError, match="recordings cannot be read here"):
        open_provider(f"replay:{tmp_path}/x.jsonl", strict_here(), {})


# -- certificates ----------------------------------------------------------------------------------


def serve_tls(certificate: Path) -> Callable[[socket.socket], None]:
    """Return what answers one request over TLS, if the handshake gets there."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)

    def serve(connection: socket.socket) -> None:
        try:
            with context.wrap_socket(connection, server_side=True) as secure:
                with secure.makefile("rb") as sent:
                    size = 0
                    while (line := sent.readline().strip().lower()) != b"":
                        if line.startswith(b"content-length:"):
                            size = int(line.partition(b":")[2])
                    # To the end: a connection that is closed on unread bytes is reset, and the answer lost.
                    sent.read(size)
                secure.sendall(http("200 OK", completion_body("Bern")))
        except OSError:
            pass

    return serve


async def ask_over_tls(port: int, environ: dict[str, str], **more: object) -> str:
    url = f"https://127.0.0.1:{port}/v1"
    policy = policy_of({"mine": endpoint(url, **more)}, "mine:a")
    provider, model = open_provider("mine:a", policy, environ | ENVIRON)
    try:
        return (await provider.complete(query_for(model))).text
    finally:
        await provider.aclose()


async def test_a_certificate_of_the_policys_file_is_accepted(tmp_path):
    certificate = self_signed(tmp_path / "c.pem")
    with accepts_one(serve_tls(certificate)) as port:
        assert await ask_over_tls(port, {}, ca_file=str(certificate)) == "Bern"


async def test_a_certificate_of_the_environments_file_is_accepted(tmp_path):
    certificate = self_signed(tmp_path / "c.pem")
    with accepts_one(serve_tls(certificate)) as port:
        assert await ask_over_tls(port, {"SSL_CERT_FILE": str(certificate)}) == "Bern"


async def test_the_policys_certificates_go_before_the_environments(tmp_path):
    certificate, another = self_signed(tmp_path / "c.pem"), self_signed(tmp_path / "d.pem")
    environ = {"SSL_CERT_FILE": str(another)}
    with accepts_one(serve_tls(certificate)) as port:
        assert await ask_over_tls(port, environ, ca_file=str(certificate)) == "Bern"
    from rlm_wasm.providers.base import ProviderFailure

    with accepts_one(serve_tls(another)) as port:
        with pytest.raises(ProviderFailure, match="certificate that is not accepted"):
            await ask_over_tls(port, environ, ca_file=str(certificate))


@pytest.mark.parametrize("content", [None, "no certificate"])
async def test_a_file_of_certificates_that_is_none_is_told_and_nothing_else_trusted(tmp_path, content):
    file = tmp_path / "c.pem"
    if content is not None:
        file.write_text(content)
    for environ, more, told in (
        ({}, {"ca_file": str(file)}, r"providers\.mine\.ca_file"),
        ({"SSL_CERT_FILE": str(file)}, {}, "the environment variable SSL_CERT_FILE"),
    ):
        with pytest.raises(UsageError, match=told) as caught:
            await ask_over_tls(1, environ, **more)
        assert str(file) in caught.value.message

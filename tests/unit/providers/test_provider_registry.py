"""From a model's name to the provider that answers for it."""

from __future__ import annotations

import pytest

from rlm_wasm.errors import PolicyError, UsageError
from rlm_wasm.policy.model import Policy
from rlm_wasm.providers.http_provider import HttpProvider
from rlm_wasm.providers.registry import ProviderSet, open_provider
from rlm_wasm.providers.script import ScriptProvider
from tests.support.provider_loopback import KEY, KEY_VARIABLE, completion_body, http, policy_for, query

pytestmark = pytest.mark.anyio


@pytest.fixture
def policy() -> Policy:
    return policy_for("https://api.example.com/v1")


@pytest.fixture
def script_spec(tmp_path) -> str:
    (tmp_path / "a.toml").write_text('[[reply]]\nrole="any"\ntext="x"\n')
    return f"script:{tmp_path / 'a.toml'}"


@pytest.mark.parametrize("spec", ["gpt-5", "", ":", "openai:", ":gpt-5", "\x1b[2J"])
def test_name_without_a_provider_is_refused_with_an_example(policy, spec):
    with pytest.raises(UsageError, match="a model is named provider:model") as caught:
        open_provider(spec, policy, {})
    assert caught.value.message.isprintable()
    assert "openai:gpt-5" in caught.value.hint


def test_unknown_provider_is_refused_with_the_known_ones(policy):
    with pytest.raises(UsageError, match="unknown provider 'oracle'") as caught:
        open_provider("oracle:gpt-5", policy, {})
    assert caught.value.hint == "there are: openai, script:FILE, replay:FILE"


@pytest.mark.parametrize("environ", [{}, {KEY_VARIABLE: ""}])
def test_missing_key_names_the_variable(policy, environ):
    with pytest.raises(UsageError, match=f"the environment variable {KEY_VARIABLE}, .* is not set"):
        open_provider("openai:gpt-5", policy, environ)


@pytest.mark.parametrize(
    "key", [f"{KEY}\n", f" {KEY}", f"{KEY}\r\nX-Evil: 1", f"{KEY}é", f"{KEY}\x7f", KEY * 200]
)
def test_key_that_no_header_can_hold_is_refused_unseen(policy, key):
    with pytest.raises(UsageError, match="does not hold a key") as caught:
        open_provider("openai:gpt-5", policy, {KEY_VARIABLE: key})
    assert KEY not in str(caught.value)


def test_policy_without_an_endpoint_is_refused(script_spec):
    data = Policy.builtin("strict").with_models(root=script_spec).to_mapping()
    del data["providers"]
    with pytest.raises(UsageError, match="has no endpoint for openai models"):
        open_provider("openai:gpt-5", Policy.from_mapping(data), {KEY_VARIABLE: KEY})


def test_endpoint_that_the_http_library_refuses_is_a_usage_error():
    with pytest.raises(UsageError, match=r"providers\.openai\.base_url is not a usable URL"):
        open_provider("openai:gpt-5", policy_for("https://xn--zzzzzz--/v1"), {KEY_VARIABLE: KEY})


async def test_key_comes_from_the_process_environment(policy, monkeypatch):
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    with pytest.raises(UsageError, match="is not set"):
        open_provider("openai:gpt-5", policy)
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    provider, _ = open_provider("openai:gpt-5", policy)
    assert isinstance(provider, HttpProvider)
    await provider.aclose()


def test_script_needs_no_key(policy, script_spec):
    provider, name = open_provider(script_spec, policy, {})
    assert isinstance(provider, ScriptProvider)
    assert name == script_spec.removeprefix("script:")


async def test_set_shares_one_client_among_the_models_of_an_endpoint(policy, script_spec):
    providers = ProviderSet(policy.with_models(root=script_spec), {KEY_VARIABLE: KEY})
    first, first_name = providers.get("openai:gpt-5")
    second, second_name = providers.get("openai:gpt-5-mini")
    assert first is second
    assert (first_name, second_name) == ("gpt-5", "gpt-5-mini")
    assert providers.get(script_spec)[0] is providers.get(script_spec)[0]
    await providers.aclose()
    await providers.aclose()


async def test_set_opens_nothing_that_is_not_asked_for(policy, script_spec):
    """A scripted run needs no key, although the policy prices models that do."""
    providers = ProviderSet(policy.with_models(root=script_spec), {})
    assert (await providers.get(script_spec)[0].complete(query())).text == "x"
    await providers.aclose()


async def test_set_refuses_a_model_that_the_policy_gives_no_price(policy):
    providers = ProviderSet(policy, {KEY_VARIABLE: KEY})
    with pytest.raises(PolicyError, match='no price for the model "openai:gpt-6"'):
        providers.get("openai:gpt-6")


async def test_set_refuses_a_script_that_the_policy_does_not_name(policy, tmp_path):
    """A guest that asks for `script:/some/file.py` must not make the host read or run it."""
    marker = tmp_path / "ran"
    (tmp_path / "evil.py").write_text(f"open({str(marker)!r}, 'w')\ndef reply(m, n): return ''\n")
    providers = ProviderSet(policy, {KEY_VARIABLE: KEY})
    with pytest.raises(PolicyError, match="the policy does not name the model"):
        providers.get(f"script:{tmp_path / 'evil.py'}")
    assert not marker.exists()


async def test_closed_set_has_closed_its_client(server):
    server.behaviour = lambda _seen, write: write(http("200 OK", completion_body()))
    providers = ProviderSet(policy_for(server.url), {KEY_VARIABLE: KEY})
    provider, _ = providers.get("openai:gpt-5")
    assert (await provider.complete(query())).text == "42"
    await providers.aclose()
    with pytest.raises(RuntimeError, match="closed"):
        await provider.complete(query())

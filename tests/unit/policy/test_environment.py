# ruff: noqa: E501 - a table of cases
"""What is taken from an environment as people have it, and what is said where it names nothing."""

from __future__ import annotations

from typing import Any

import pytest

from rlm_wasm.errors import UsageError
from rlm_wasm.policy.environment import KNOWN, choose
from rlm_wasm.policy.model import Policy

OPENAI = "https://api.openai.com/v1"
KEY = "sk-live-0123456789abcdefXYZ"


@pytest.mark.parametrize(
    ("environ", "given", "root", "sub", "endpoint"),
    [
        ({"OPENAI_API_KEY": KEY}, {}, "openai:gpt-5", "openai:gpt-5-mini", (OPENAI, "OPENAI_API_KEY")),
        ({"OPENAI_API_KEY": KEY, "OPENAI_MODEL": "m"}, {}, "openai:m", "openai:m", (OPENAI, "OPENAI_API_KEY")),
        ({"OPENAI_API_KEY": KEY}, {"model": "gpt-4o"}, "openai:gpt-4o", "openai:gpt-4o", (OPENAI, "OPENAI_API_KEY")),
        ({"OPENAI_API_KEY": KEY}, {"sub_model": "s"}, "openai:gpt-5", "openai:s", (OPENAI, "OPENAI_API_KEY")),
        (
            {"ANTHROPIC_API_KEY": KEY}, {}, "anthropic:claude-sonnet-4-5", "anthropic:claude-haiku-4-5",
            ("https://api.anthropic.com/v1", "ANTHROPIC_API_KEY"),
        ),
        (
            {"ANTHROPIC_API_KEY": KEY, "ANTHROPIC_BASE_URL": "https://proxy.example/"}, {"model": "c"},
            "anthropic:c", "anthropic:c", ("https://proxy.example/v1", "ANTHROPIC_API_KEY"),
        ),
        ({"OPENAI_API_KEY": KEY, "ANTHROPIC_API_KEY": KEY}, {}, "openai:gpt-5", "openai:gpt-5-mini",
         (OPENAI, "OPENAI_API_KEY")),
        ({"OPENAI_API_KEY": "", "ANTHROPIC_API_KEY": KEY}, {"model": "c"}, "anthropic:c", "anthropic:c",
         ("https://api.anthropic.com/v1", "ANTHROPIC_API_KEY")),
        ({"OPENROUTER_API_KEY": KEY}, {"model": "a/b:free"}, "openrouter:a/b:free", "openrouter:a/b:free",
         ("https://openrouter.ai/api/v1", "OPENROUTER_API_KEY")),
        ({}, {"model": "groq:llama"}, "groq:llama", "groq:llama",
         ("https://api.groq.com/openai/v1", "GROQ_API_KEY")),
        # A server of one's own has no key unless one is set or named, and models of its own.
        ({}, {"base_url": "http://localhost:8000/v1", "model": "q"}, "openai:q", "openai:q",
         ("http://localhost:8000/v1", "")),
        ({"OPENAI_BASE_URL": "http://localhost:8000/v1"}, {"model": "q:4b"}, "openai:q:4b", "openai:q:4b",
         ("http://localhost:8000/v1", "")),
        ({"OPENAI_API_KEY": KEY, "OPENAI_API_BASE": "https://gw.example/v1", "OPENAI_MODEL": "m"}, {}, "openai:m",
         "openai:m", ("https://gw.example/v1", "OPENAI_API_KEY")),
        ({"OPENAI_API_KEY": KEY}, {"base_url": "https://gw.example/v1", "model": "m", "key_env": "GW_KEY"},
         "openai:m", "openai:m", ("https://gw.example/v1", "GW_KEY")),
        ({"OPENAI_API_KEY": KEY}, {"base_url": "https://gw.example/v1", "model": "m", "key_env": ""},
         "openai:m", "openai:m", ("https://gw.example/v1", "")),
        # What is given goes before what is set, and an address is known whoever names it.
        ({"OPENAI_BASE_URL": "https://set.example/v1"}, {"base_url": "https://given.example/v1", "model": "m"},
         "openai:m", "openai:m", ("https://given.example/v1", "")),
        ({"OPENAI_API_KEY": KEY}, {"base_url": "https://openrouter.ai/api/v1", "model": "m"}, "openrouter:m",
         "openrouter:m", ("https://openrouter.ai/api/v1", "OPENROUTER_API_KEY")),
    ],
)  # fmt: skip
def test_what_is_taken(
    environ: dict[str, str], given: dict[str, str], root: str, sub: str, endpoint: tuple[str, str]
) -> None:
    chosen = choose(environ, **given)
    assert (chosen.root, chosen.sub) == (root, sub)
    (table,) = chosen.providers.values()
    assert (table["base_url"], table["api_key_env"]) == endpoint
    assert chosen.models["child"] == [sub]
    assert KEY not in repr(chosen)


def test_two_models_may_be_of_two_providers() -> None:
    chosen = choose({"OPENAI_API_KEY": KEY}, model="anthropic:c", sub_model="openai:gpt-5-mini")
    assert (chosen.root, chosen.sub) == ("anthropic:c", "openai:gpt-5-mini")
    assert {name: table["kind"] for name, table in chosen.providers.items()} == {
        "anthropic": "anthropic",
        "openai": "openai",
    }


def test_an_address_that_is_given_is_that_of_the_root_alone() -> None:
    chosen = choose({}, model="openai:q", base_url="http://localhost:8000/v1", sub_model="anthropic:c")
    assert chosen.providers["anthropic"]["base_url"] == "https://api.anthropic.com/v1"


def test_a_script_needs_no_provider() -> None:
    chosen = choose({}, model="script:a.toml")
    assert (chosen.root, chosen.sub, chosen.providers) == ("script:a.toml", "script:a.toml", {})


@pytest.mark.parametrize("known", KNOWN, ids=lambda known: known.name)
def test_every_known_provider_makes_a_policy(known: Any) -> None:
    chosen = choose({known.key: KEY}, model="some-model")
    free = {"input_microdollars_per_mtok": 0, "output_microdollars_per_mtok": 0}
    policy = Policy.builtin("strict").replace(
        providers={"openai": None, **chosen.providers},
        models={**chosen.models, "prices": {chosen.root: free}},
    )
    assert policy.providers[known.name].base_url == known.base_url


@pytest.mark.parametrize("known", [each for each in KNOWN if each.root], ids=lambda known: known.name)
def test_a_model_that_is_taken_where_none_is_named_has_a_price(known: Any) -> None:
    chosen = choose({known.key: KEY})
    policy = Policy.builtin("strict").replace(
        providers={"openai": None, **chosen.providers}, models=chosen.models
    )
    assert policy.price_source(chosen.root).startswith("genai-prices ")


@pytest.mark.parametrize(
    ("environ", "given", "message"),
    [
        ({}, {}, "there is no model to ask"),
        ({"OPENAI_API_KEY": ""}, {}, "there is no model to ask"),
        ({"OPENAI_MODEL": "m"}, {}, "there is no model to ask"),
        ({}, {"model": "m"}, "no endpoint is known for the model 'm'"),
        ({}, {"model": "nobody:m"}, "no endpoint is known for the model 'nobody:m'"),
        ({"GROQ_API_KEY": KEY}, {}, r"which model of groq\?"),
        ({"OPENAI_BASE_URL": "http://localhost:8000/v1"}, {}, r"which model of openai\?"),
        ({"OPENAI_API_KEY": KEY}, {"base_url": "http://[bad"}, "which model"),
    ],
)
def test_what_names_no_model_is_told_what_to_set(
    environ: dict[str, str], given: dict[str, str], message: str
) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        choose(environ, **given)
    assert caught.value.hint
    assert KEY not in str(caught.value) + str(caught.value.hint)

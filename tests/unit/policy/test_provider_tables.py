"""Named providers of a policy: their kinds, their keys, and what must not stand there."""

from __future__ import annotations

import math
from typing import Any

import pytest

from rlm_wasm.errors import PolicyError
from rlm_wasm.policy.document import parse_document
from rlm_wasm.policy.model import Policy
from rlm_wasm.policy.provider_tables import KEYS_OF, KINDS
from rlm_wasm.policy.render import to_toml

PRICE = {"input_microdollars_per_mtok": 3_000_000, "output_microdollars_per_mtok": 15_000_000}
ENDPOINT = {"base_url": "https://api.example.com/v1", "api_key_env": "KEY", "connect_timeout_ms": 5_000}
CLAUDE = {"kind": "anthropic"} | ENDPOINT
OPENAI = {"kind": "openai-responses"} | ENDPOINT


def problems_of(**tables: Any) -> list[str]:
    """Return what is wrong with strict, changed so, without the name of the policy."""
    try:
        Policy.builtin("strict").replace(**tables)
    except PolicyError as error:
        return [line.removeprefix("policy.replace: ") for line in error.message.splitlines()]
    return []


def test_every_kind_has_its_keys_and_no_others() -> None:
    assert set(KEYS_OF) == set(KINDS)


def test_models_come_from_any_number_of_providers_of_any_kind() -> None:
    policy = Policy.builtin("strict").replace(
        providers={
            "claude": ENDPOINT | {"kind": "anthropic"},
            "azure": ENDPOINT
            | {
                "kind": "openai",
                "base_url": "https://x.openai.azure.com/openai/deployments/d?api-version=2024-10-21",
                "api_key_header": "api-key",
                "output_tokens_field": "max_completion_tokens",
            },
            "openai-responses": ENDPOINT | {"temperature": 0.2},
            "fake": {"kind": "script", "file": "model.toml"},
            "old": {"kind": "replay", "file": "run.jsonl"},
        },
        models={
            "root": "claude:opus",
            "sub": "azure:gpt",
            "child": ["openai-responses:o5", "fake:any", "script:a.toml", "replay:b.jsonl", "old:x"],
            "prices": dict.fromkeys(("claude:opus", "azure:gpt", "openai-responses:o5"), PRICE),
            "settings": {
                "claude:opus": {
                    "headers": {"anthropic-beta": "context-1m"},
                    "extra_body": {
                        "thinking": {"type": "enabled", "budget_tokens": 1024},
                        "stop": ["a", 'b"'],
                    },
                }
            },
        },
    )
    assert policy.price("fake:any").input_microdollars_per_mtok == 0
    document = parse_document(to_toml(policy).encode(), "shown")
    assert Policy.from_mapping(document.data) == policy


def test_what_goes_with_requests_is_shown_and_read_back_whatever_it_is_called() -> None:
    body = {"a b": [{"x": 1.5, "ü": [True, {}]}], "e": 1e22, "empty": {}, "list": [], "t": {"u": {"v": -1}}}
    policy = Policy.builtin("strict").replace(
        providers={"openai": {"extra_body": body, "headers": {"X-A": 'b"\\'}, "top_p": 0.5}}
    )
    document = parse_document(to_toml(policy).encode(), "shown")
    assert document.data["providers"]["openai"]["extra_body"] == body
    assert Policy.from_mapping(document.data) == policy


@pytest.mark.parametrize(
    ("table", "problem"),
    [
        ({}, "kind: is missing: there are openai, openai-responses, anthropic, litellm, script, replay"),
        ({"kind": "gemini"}, "kind: must be 'openai', 'openai-responses', 'anthropic', "),
        (
            {"kind": "anthropic"} | ENDPOINT | {"roles": "no_system"},
            'roles: is no key of a provider of kind "an',
        ),
        (
            {"kind": "script", "file": "a", "base_url": "https://x"},
            "base_url: is no key of a provider of kind",
        ),
        ({"kind": "script"}, "file: is missing; no limit or grant has a default"),
        ({"kind": "openai"} | ENDPOINT, "output_tokens_field: is missing; no limit or grant has a default"),
        (
            {"kind": "anthropic"} | ENDPOINT | {"temprature": 1},
            "temprature: unknown key; did you mean `temperat",
        ),
        (CLAUDE | {"ca_file": ""}, "ca_file: must be the name of a file"),
        (
            {"kind": "anthropic"} | ENDPOINT | {"temperature": 2.5},
            "temperature: must be a number from 0 to 2",
        ),
        (
            {"kind": "anthropic"} | ENDPOINT | {"temperature": math.nan},
            "temperature: must be a number from 0",
        ),
        (OPENAI | {"top_p": True}, "top_p: must be a number from 0 to 1"),
        (
            CLAUDE | {"api_key_env": "", "api_key_header": "x"},
            "api_key_header: is where a key goes, and api_key_env names none",
        ),
        (
            CLAUDE | {"api_key_header": "Host"},
            "api_key_header: is a header that the host writes",
        ),
    ],
)
def test_a_provider_that_cannot_be_one_is_refused_with_its_key(table: dict[str, Any], problem: str) -> None:
    found = problems_of(providers={"mine": table})
    assert any(line.startswith(f"providers.mine.{problem}") for line in found), found


@pytest.mark.parametrize("name", ["script", "replay"])
def test_a_table_cannot_take_the_name_of_what_needs_none(name: str) -> None:
    assert problems_of(providers={name: {"file": "x"}}) == [
        f"providers.{name}: {name}:FILE needs no table; give this one another name"
    ]


def test_the_name_of_a_provider_is_a_word() -> None:
    [problem] = problems_of(providers={"My Provider": {"kind": "script", "file": "a"}})
    assert (
        problem == 'providers."My Provider": must be a name of small letters, digits, _ and -, a letter first'
    )


def test_a_model_whose_provider_has_no_table_is_told_which_to_add() -> None:
    assert problems_of(models={"sub": "claude:x", "prices": {"openai:gpt-5": PRICE, "claude:x": PRICE}}) == [
        "models.sub: needs the table [providers.claude]",
    ]


def test_settings_of_a_model_that_cannot_be_asked_are_told() -> None:
    settings = {"openai:gpt-6": {"top_p": 1}, "script:a": {"top_p": 1}, "nocolon": {}}
    assert problems_of(models={"sub": "script:a", "settings": settings}) == [
        'models.settings.nocolon: each key must be "provider:model", for example "openai:gpt-5"'
    ]
    del settings["nocolon"]
    assert problems_of(models={"sub": "script:a", "settings": settings}) == [
        'models.settings."openai:gpt-6": is no model of this policy: it has no price',
        'models.settings."script:a": answers from a file, and is sent nothing',
    ]


def test_a_model_is_not_sent_what_its_kind_no_longer_takes() -> None:
    claude = {"prices": dict(Policy.builtin("strict").models.prices) | {"claude:x": PRICE}}
    [problem] = problems_of(
        providers={"claude": CLAUDE}, models=claude | {"settings": {"claude:x": {"top_p": 0.5}}}
    )
    assert problem == (
        'models.settings."claude:x".top_p: is no key of a model whose provider is of kind "anthropic"'
    )
    settings = {"claude:x": {"extra_body": {"top_p": 0.5}}, "openai:gpt-5": {"top_p": 0.5}}
    assert problems_of(providers={"claude": CLAUDE}, models=claude | {"settings": settings}) == []


KEY = "sk-live-0123456789abcdefXYZ"


@pytest.mark.threat("T-241")
@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": f"Bearer {KEY}"},
        {"api-key": KEY},
        {"X-Api-Key": "0123456789"},
        {"X-Goog-Api-Key": "0123456789"},
        {"cf-aig-authorization": "0123456789"},
        {"X-Auth-Token": "0123456789"},
        {"X-Custom": KEY},
        {"X-Custom": f"bearer {KEY}"},
        {"Cookie": "a=b"},
    ],
)
def test_a_key_in_a_header_of_the_policy_is_refused_unseen(headers: dict[str, str]) -> None:
    for found in (
        problems_of(providers={"openai": {"headers": headers}}),
        problems_of(models={"settings": {"openai:gpt-5": {"headers": headers}}}),
    ):
        assert len(found) == 1
        assert "header" in found[0]
        assert not any(value in found[0] for value in headers.values())


@pytest.mark.parametrize(
    "header", ["HTTP-Referer", "X-Title", "anthropic-beta", "OpenAI-Organization", "x-tokens"]
)
def test_headers_that_hold_no_key_are_taken(header: str) -> None:
    assert problems_of(providers={"openai": {"headers": {header: "https://example.com"}}}) == []


@pytest.mark.parametrize("header", [{"a b": "c"}, {"a": "b\r\nX: y"}, {"a": " b"}, {"a": ""}, {"a": "é"}])
def test_a_header_that_is_none_is_refused(header: dict[str, str]) -> None:
    [problem] = problems_of(providers={"openai": {"headers": header}})
    assert "must be the name of a header and a text of printable ASCII" in problem


@pytest.mark.threat("T-242")
@pytest.mark.parametrize(
    "member",
    [
        "n", "model", "messages", "stream", "max_tokens", "max_completion_tokens", "best_of", "system",
        "models", "tools", "web_search_options", "Stream", "MAX_TOKENS",
    ],
)  # fmt: skip
def test_what_a_query_may_cost_is_not_the_extra_bodys_to_say(member: str) -> None:
    [problem] = problems_of(providers={"openai": {"extra_body": {member: 8}}})
    assert f"must not hold {member!r}: what a query asks, and may cost" in problem


@pytest.mark.threat("T-242")
def test_what_goes_with_each_request_fits_what_is_reserved_for_it() -> None:
    half = {"openai": {"extra_body": {"a": "x" * 150}}}
    assert problems_of(providers=half) == []
    [problem] = problems_of(
        providers=half, models={"settings": {"openai:gpt-5": {"extra_body": {"b": "x" * 150}}}}
    )
    assert problem.startswith('models.settings."openai:gpt-5".extra_body: takes ')
    assert "query.input_overhead_tokens keeps 256" in problem
    [problem] = problems_of(providers={"openai": {"extra_body": {"a": "x" * 300}}})
    assert problem.startswith("providers.openai.extra_body: takes ")


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (math.inf, "must hold strings, numbers within 2**53"),
        (2**53, "must hold strings, numbers within 2**53"),
        (b"x", "must hold strings, numbers within 2**53"),
        ([[[[[[[[[0]]]]]]]]], "must not be nested deeper than 8"),
        ([0] * 2_000, "must not hold more than 1000 values"),
    ],
)
def test_an_extra_body_that_is_no_bounded_json_is_refused(value: object, problem: str) -> None:
    [found] = problems_of(providers={"openai": {"extra_body": {"a": value}}})
    assert f"providers.openai.extra_body: {problem}" in found


def test_replace_adds_changes_and_takes_out_providers_by_name() -> None:
    policy = Policy.builtin("strict").replace(providers={"claude": ENDPOINT | {"kind": "anthropic"}})
    assert set(policy.providers) == {"openai", "claude"}
    changed = policy.replace(providers={"claude": {"connect_timeout_ms": 7, "kind": "openai-responses"}})
    assert changed.providers["claude"].connect_timeout_ms == 7
    assert changed.providers["claude"].base_url == ENDPOINT["base_url"]
    assert set(changed.replace(providers={"claude": None}).providers) == {"openai"}

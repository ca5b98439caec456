"""What the arguments of the official library's class come to, and which are refused."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from rlm_wasm.compat import RLM
from rlm_wasm.compat.rlm import _instructions
from rlm_wasm.errors import PolicyError, RlmWasmError, UsageError
from rlm_wasm.policy.model import Policy
from tests.support.machine_grade import strict_here

KEY = "sk-live-0123456789abcdefXYZ"
LOCAL = {"model_name": "small", "base_url": "http://127.0.0.1:8000/v1", "api_key": "none"}


def policy_of(**arguments: Any) -> Policy:
    """Return the policy of an RLM on a server of this machine, over strict."""
    return RLM(**({"backend_kwargs": LOCAL, "policy": strict_here()} | arguments)).policy


def refused(**arguments: Any) -> UsageError:
    with pytest.raises(UsageError) as caught:
        RLM(**({"backend_kwargs": LOCAL} | arguments))
    return caught.value


def test_the_arguments_are_those_of_the_library_in_its_order() -> None:
    names = list(inspect.signature(RLM).parameters)
    assert names[:15] == [
        *("backend", "backend_kwargs", "environment", "environment_kwargs", "depth", "max_depth"),
        *("max_iterations", "max_budget", "max_timeout", "max_tokens", "max_errors"),
        *("custom_system_prompt", "other_backends", "other_backend_kwargs", "logger"),
    ]
    assert names[-1] == "policy"


@pytest.mark.parametrize(
    ("arguments", "table", "expected"),
    [
        ({}, "run", {"turns_max": 30, "depth_max": 0}),
        ({"max_depth": 3, "max_iterations": 4}, "run", {"turns_max": 4, "depth_max": 2}),
        ({"max_timeout": 2}, "run", {"wall_ms_max": 2_000, "child_wall_ms_max": 2_000}),
        ({"max_timeout": 2}, "cell", {"wall_ms_max": 2_000}),
        ({"max_timeout": 0.5}, "query", {"timeout_ms_max": 500}),
        ({"max_budget": 0.25}, "budget", {"cost_microdollars_max": 250_000}),
        ({"max_tokens": 5_000}, "budget", {"input_tokens_max": 5_000, "output_tokens_max": 5_000}),
        ({"max_tokens": 5_000}, "query", {"output_tokens_max": 4_750}),
        ({"max_concurrent_subcalls": 3}, "run", {"permits_max": 3}),
        ({"compaction": True}, "run", {"compact_percent": 85, "summaries_max": 2}),
        ({"sampling_args": {"max_tokens": 99, "temperature": 0}}, "query", {"output_tokens_max": 99}),
        ({"backend_kwargs": LOCAL | {"timeout": 400, "max_retries": 0}}, "query", {"attempts_max": 1}),
        ({"backend_kwargs": LOCAL | {"timeout": 400}}, "boundary", {"host_wait_ms_max": 400_000}),
        ({"custom_system_prompt": "x" * 40_000}, "guidance", {"instructions_bytes_max": 40_002}),
    ],
)
def test_an_argument_is_a_limit_of_the_policy(
    arguments: dict[str, Any], table: str, expected: dict[str, int]
) -> None:
    made = getattr(policy_of(**arguments), table)
    assert {name: getattr(made, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"backend": "claude"}, "there is no backend"),
        ({"backend_kwargs": {}}, "no model_name"),
        ({"backend": "vllm", "backend_kwargs": {"model_name": "m"}}, "no base_url"),
        ({"backend_kwargs": LOCAL | {"organization": "me"}}, "'organization'"),
        ({"backend_kwargs": LOCAL | {"timeout": 0}}, "timeout"),
        ({"environment": "modal"}, "another machine"),
        ({"environment": "cloud"}, "no environment"),
        ({"environment_kwargs": {"image": "python:3.11"}}, "'image'"),
        ({"environment_kwargs": {"setup_code": 1}}, "setup_code"),
        ({"depth": 1}, "depth"),
        ({"max_depth": 0}, "max_depth"),
        ({"max_iterations": True}, "max_iterations"),
        ({"max_budget": float("nan")}, "max_budget"),
        ({"max_budget": 0}, "max_budget"),
        ({"max_timeout": "5"}, "max_timeout"),
        ({"max_tokens": 10}, "less than one query"),
        ({"max_errors": 0}, "max_errors"),
        ({"persistent": True}, "persistent"),
        ({"compaction_threshold_pct": 0.5}, "compaction=True"),
        ({"compaction": True, "compaction_threshold_pct": 2}, "compaction_threshold_pct"),
        ({"max_concurrent_subcalls": 0}, "max_concurrent_subcalls"),
        ({"custom_tools": {"context": str.upper}}, "context"),
        ({"custom_tools": {"llm_query": str.upper}}, "llm_query"),
        ({"custom_tools": {"any": lambda *args: None}}, "any"),
        ({"custom_tools": {"many": lambda *args: None}}, "any number of arguments"),
        ({"custom_tools": [str.upper]}, "custom_tools"),
        ({"max_depth": 2, "custom_tools": {"a": 1}, "custom_sub_tools": {}}, "custom_sub_tools"),
        ({"other_backends": ["openai", "openai"]}, "other_backends"),
        ({"other_backend_kwargs": [LOCAL]}, "other_backends"),
        ({"custom_system_prompt": 3}, "custom_system_prompt"),
        ({"sampling_args": [1]}, "sampling_args"),
        (
            {"sampling_args": {"max_tokens": 5}, "sub_sampling_args": {"max_tokens": 6}},
            "max_tokens is 5 for one model and 6",
        ),
        (
            {"backend_kwargs": {"model_name": "unheard-of", "api_key": KEY}, "max_budget": 1},
            "needs a price of openai:unheard-of",
        ),
    ],
)
def test_what_has_no_counterpart_is_refused_in_a_sentence(arguments: dict[str, Any], words: str) -> None:
    error = refused(**arguments)
    assert words in error.message
    assert "\n" not in error.message


def test_a_number_out_of_range_names_the_key() -> None:
    with pytest.raises(PolicyError, match=r"run\.depth_max"):
        RLM(backend_kwargs=LOCAL, max_depth=40)


@pytest.mark.parametrize(
    ("backend", "given", "url", "header"),
    [
        ("openai", {}, "https://api.openai.com/v1", None),
        ("openrouter", {}, "https://openrouter.ai/api/v1", None),
        ("vercel", {}, "https://ai-gateway.vercel.sh/v1", None),
        ("portkey", {}, "https://api.portkey.ai/v1", "x-portkey-api-key"),
        ("anthropic", {"max_tokens": 7}, "https://api.anthropic.com/v1", None),
        ("gemini", {}, "https://generativelanguage.googleapis.com/v1beta/openai", None),
        ("vllm", {"base_url": "https://gpu.example/v1"}, "https://gpu.example/v1", None),
        (
            "azure_openai",
            {"azure_endpoint": "https://me.openai.azure.com/", "api_version": "2024-10-21"},
            "https://me.openai.azure.com/openai/deployments/m?api-version=2024-10-21",
            "api-key",
        ),
    ],
)
def test_every_backend_of_the_library_is_a_provider(
    backend: str, given: dict[str, Any], url: str, header: str | None
) -> None:
    made = policy_of(backend=backend, backend_kwargs={"model_name": "m", "api_key": KEY, **given})
    table = made.providers[backend]
    assert (table.base_url, table.api_key_header) == (url, header)
    assert made.models.root == made.models.sub == f"{backend}:m"
    assert KEY not in repr(made.to_mapping())


def test_a_key_is_shown_by_nothing_of_ours() -> None:
    rlm = RLM(backend_kwargs=LOCAL | {"api_key": KEY}, policy=strict_here())
    shown = [repr(value) for value in vars(rlm).values()] + [repr(rlm.policy.to_mapping()), repr(rlm._keys)]
    assert KEY not in "\n".join(shown)
    assert rlm._keys[rlm.policy.providers["openai"].api_key_env] == KEY


def test_no_frame_of_ours_that_raises_holds_a_key() -> None:
    with pytest.raises(RlmWasmError) as caught:
        RLM(backend_kwargs=LOCAL | {"api_key": KEY}, max_depth=0)
    trace = caught.tb.tb_next
    while trace is not None:
        assert KEY not in repr(trace.tb_frame.f_locals)
        trace = trace.tb_next


def test_a_key_of_another_service_is_not_sent_to_a_server_of_ones_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    made = policy_of(backend_kwargs={"model_name": "m", "base_url": "https://gpu.example/v1"})
    assert made.providers["openai"].api_key_env == ""


def test_a_key_does_not_cross_a_network_in_the_clear() -> None:
    with pytest.raises(PolicyError, match="https"):
        policy_of(backend_kwargs=LOCAL | {"base_url": "http://gpu.example/v1"})


def test_another_backend_answers_what_code_asks_and_children_are_the_roots() -> None:
    other = {"model_name": "tiny", "base_url": "http://127.0.0.1:9/v1"}
    made = policy_of(other_backends=["vllm"], other_backend_kwargs=[other], max_depth=2).models
    assert (made.root, made.sub, made.child) == ("openai:small", "other:tiny", ("openai:small",))
    made = policy_of(other_backends=["openai"], other_backend_kwargs=[LOCAL | {"model_name": "tiny"}]).models
    assert made.sub == "openai:tiny"


def test_sampling_of_sub_models_is_theirs_alone() -> None:
    made = policy_of(sampling_args={"temperature": 0, "seed": 3}, sub_sampling_args={"temperature": 1})
    settings = made.models.settings or {}
    assert (settings["openai:small"].temperature, settings["other:small"].temperature) == (0, 1)
    assert settings["openai:small"].extra_body == {"seed": 3}


def test_a_model_without_a_price_is_counted_as_nothing_where_no_budget_is_in_money() -> None:
    made = policy_of(backend_kwargs={"model_name": "unheard-of", "api_key": KEY})
    assert made.models.prices["openai:unheard-of"].source == "unknown: counted as nothing"
    mine = strict_here().replace(
        models={
            "root": "openai:unheard-of",
            "sub": "openai:unheard-of",
            "child": ["openai:unheard-of"],
            "prices": {
                "openai:unheard-of": {"input_microdollars_per_mtok": 7, "output_microdollars_per_mtok": 8}
            },
        }
    )
    made = policy_of(backend_kwargs={"model_name": "unheard-of", "api_key": KEY}, policy=mine, max_budget=0.5)
    assert made.models.prices["openai:unheard-of"].output_microdollars_per_mtok == 8


def test_tools_that_a_given_policy_does_not_allow_are_refused_when_they_are_wanted() -> None:
    own = RLM(backend_kwargs=LOCAL, custom_tools={"shout": str.upper})
    assert own._wanted.over(Policy.builtin("strict")).tools.allow == ("shout",)
    given = RLM(backend_kwargs=LOCAL, custom_tools={"shout": str.upper}, policy=strict_here())
    with pytest.raises(UsageError, match="shout"):
        given._new_runtime()


def test_a_prompt_for_the_library_is_filled_in_as_it_does() -> None:
    assert _instructions("Do {{x}}.\n{custom_tools_section}", "Then y.", "") == "Do {x}.\n\n\nThen y."
    assert _instructions('Say {"a": 1}.', None, "") == 'Say {"a": 1}.'
    assert _instructions(None, None, "") is None

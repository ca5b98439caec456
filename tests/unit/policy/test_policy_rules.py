"""What must hold between the keys of a policy."""

from __future__ import annotations

import pytest

from rlm_wasm.errors import PolicyError
from rlm_wasm.policy.model import Policy
from rlm_wasm.policy.price_list import list_name
from rlm_wasm.policy.rules import _ORDERED


@pytest.mark.parametrize("name", ["strict", "standard"])
@pytest.mark.parametrize(("smaller", "larger", "why"), _ORDERED)
def test_smaller_limit_may_equal_but_not_exceed_the_larger(name, smaller, larger, why):
    data = Policy.builtin(name).to_mapping()
    bound = data[larger[0]][larger[1]]
    # Only the pair under test: lower the larger one to the smaller, then one less.
    low = data[smaller[0]][smaller[1]]
    for others in _ORDERED:
        if others[1] == larger:
            data[others[0][0]][others[0][1]] = min(data[others[0][0]][others[0][1]], low)
    del bound
    key = f"{smaller[0]}.{smaller[1]}"
    data[larger[0]][larger[1]] = low
    assert key not in _problems(data)
    data[larger[0]][larger[1]] = low - 1
    assert f"{key}: must be at most {larger[0]}.{larger[1]}: {why}" in _problems(data)


@pytest.mark.parametrize(
    ("key", "value", "most", "why"),
    [
        (
            "memory_bytes_max",
            ("1_073_741_824", "536_870_912"),
            24_746_393,
            "where sandbox.memory_bytes_max is 536870912: work on a whole text takes 20 bytes a character, "
            "and the guest 41943040",
        ),
        (
            "context_bytes_max",
            ("200_000_000", "199_999_999"),
            49_999_999,
            "where sandbox.context_bytes_max is 199999999: a character takes up to 4 bytes",
        ),
    ],
)
def test_a_promise_of_work_on_a_whole_context_fits_the_memory(
    edited, problems_of, line_of, key, value, most, why
):
    old, new = value
    changed = (f"\n{key} = {old}", f"\n{key} = {new}")
    promise = "whole_context_chars_max = 50_000_000"
    place = f"p.toml:{line_of(promise)}: sandbox.whole_context_chars_max"
    assert problems_of(edited(changed)) == [f"{place}: must be at most {most} {why} (got 50000000)"]
    more = edited(changed, (promise, f"whole_context_chars_max = {most + 1}"))
    assert problems_of(more) == [f"{place}: must be at most {most} {why} (got {most + 1})"]
    Policy.load(edited(changed, (promise, f"whole_context_chars_max = {most}")))
    Policy.load(edited(changed, (promise, "whole_context_chars_max = 0")))


def test_without_a_promise_any_memory_will_do(edited):
    Policy.load(
        edited(
            ("\nmemory_bytes_max = 1_073_741_824", "\nmemory_bytes_max = 1"),
            ("context_bytes_max = 200_000_000", "context_bytes_max = 1"),
            ("whole_context_chars_max = 50_000_000", "whole_context_chars_max = 0"),
        )
    )


@pytest.mark.parametrize(
    ("key", "number", "kept"),
    [("calls_max", "100", 1), ("requests_max", "1_000", 1), ("output_tokens_max", "200_000", 432)],
)
def test_what_is_kept_for_the_last_answer_leaves_a_query(edited, problems_of, line_of, key, number, kept):
    old, least = f"\n{key} = {number}", 1 if "tokens" not in key else 8_192
    low = kept + least - 1
    changed = (old, f"\n{key} = {low}") if key != "output_tokens_max" else (f"calls\n{key}", "")
    if key == "output_tokens_max":
        changed = (f"{old}\n# Five", f"\n{key} = {low}\n# Five")
    (problem,) = problems_of(edited(changed))
    assert f"run.reserve_percent: keeps {kept} of budget.{key} for the last answer" in problem
    assert f"(got {low})" in problem
    Policy.load(edited(changed, ("reserve_percent = 5", "reserve_percent = 0")))


def test_a_second_try_with_a_larger_cap_has_a_larger_cap(edited, problems_of):
    off = "output_tokens_retry_max = 0"
    (problem,) = problems_of(edited((off, "output_tokens_retry_max = 8_192")))
    assert "query.output_tokens_retry_max: must be above the 8192 that output_tokens_max gives" in problem
    (problem,) = problems_of(edited((off, "output_tokens_retry_max = 200_001")))
    assert "query.output_tokens_retry_max: must be at most budget.output_tokens_max" in problem
    Policy.load(edited((off, "output_tokens_retry_max = 8_193")))


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (
            '[models.fallback]\n"openai:gpt-5" = ["openai:other"]',
            'models.fallback."openai:gpt-5": "openai:other" has no price; add the table',
        ),
        (
            '[models.fallback]\n"openai:gpt-5" = ["nobody:x"]\n[models.prices."nobody:x"]\n'
            "input_microdollars_per_mtok = 1\noutput_microdollars_per_mtok = 1",
            'models.fallback."openai:gpt-5": "nobody:x" needs the table [providers.nobody]',
        ),
        (
            '[models.fallback]\n"openai:gpt-5" = ["openai:gpt-5"]',
            'models.fallback."openai:gpt-5": names a model twice, or itself',
        ),
        (
            '[models.fallback]\n"openai:gone" = ["openai:gpt-5"]',
            'models.fallback."openai:gone": is no model of this policy',
        ),
        ('[models.fallback]\n"openai:gpt-5" = []', 'models.fallback."openai:gpt-5"'),
        (
            '[models.sub_up_to_bytes]\n"openai:other" = 9',
            'models.sub_up_to_bytes."openai:other": has no price; add the table',
        ),
        (
            '[models.sub_up_to_bytes]\n"openai:gpt-5-mini" = 1_048_577',
            'models.sub_up_to_bytes."openai:gpt-5-mini": must be at most boundary.prompt_bytes_max',
        ),
    ],
)
def test_models_of_rules_are_models_that_may_be_asked(edited, problems_of, lines, told):
    (problem,) = problems_of(edited(("[providers.openai]", f"{lines}\n\n[providers.openai]")))
    assert told in problem


def test_a_model_that_somebody_names_is_asked_alone():
    policy = Policy.builtin("strict").replace(
        models={
            "fallback": {"openai:gpt-5": ["openai:gpt-5-mini"]},
            "sub_up_to_bytes": {"openai:gpt-5-mini": 100},
        }
    )
    assert policy.with_models(sub="openai:gpt-5").models.sub_up_to_bytes is None
    assert policy.with_models(sub="openai:gpt-5").models.fallback is not None
    alone = policy.with_models(root="openai:gpt-5").models
    assert (alone.fallback, alone.sub_up_to_bytes, alone.asked) == (None, None, ("openai:gpt-5",))


def test_lockdown_cannot_be_required_of_inline_isolation(edited, problems_of, line_of):
    old = "require_lockdown = true"
    assert problems_of(edited(('isolation = "session"', 'isolation = "inline"'))) == [
        f'p.toml:{line_of(old)}: sandbox.require_lockdown: cannot be true with isolation = "inline": '
        "then there is no process to lock down"
    ]


@pytest.mark.parametrize("field", ["root", "sub"])
def test_model_without_a_price_is_refused(edited, problems_of, line_of, field):
    old = {"root": 'root = "openai:gpt-5"', "sub": 'sub = "openai:gpt-5-mini"'}[field]
    assert problems_of(edited((old, f'{field} = "openai:other"'))) == [
        f'p.toml:{line_of(old)}: models.{field}: has no price; add the table [models.prices."openai:other"], '
        f'or "openai:other" = "free" to [models.prices] ({list_name()} has none for its endpoint)'
    ]


def test_script_model_with_a_price_is_refused(edited, problems_of):
    [problem] = problems_of(
        edited(
            ("[events]", '[models.prices."script:a.toml"]\ninput_microdollars_per_mtok = 1\n'
             "output_microdollars_per_mtok = 1\n[events]")
        )
    )  # fmt: skip
    assert 'models.prices."script:a.toml": a script model is free by rule' in problem


def test_openai_model_needs_an_endpoint():
    data = Policy.builtin("strict").to_mapping()
    data["providers"] = {}
    assert _problems(data) == (
        "policy: models.root: needs the table [providers.openai]\n"
        "policy: models.sub: needs the table [providers.openai]\n"
        "policy: models.child: needs the table [providers.openai]"
    )


def test_script_models_need_no_endpoint_and_no_price():
    data = Policy.builtin("strict").to_mapping()
    data["models"] = {
        "root": "script:a.toml",
        "sub": "script:a.toml",
        "child": ["script:a.toml"],
        "prices": {},
    }
    del data["providers"]
    assert _problems(data) == ""


@pytest.mark.parametrize(
    ("url", "key", "fault"),
    [
        ("https://api.example.com/v1", "KEY", None),
        ("http://127.0.0.1:8000/v1", "KEY", None),
        ("http://[::1]:8000/v1", "KEY", None),
        ("http://localhost:8000", "KEY", None),
        ("http://gpu-box:8000/v1", "", None),
        ("http://gpu-box:8000/v1", "KEY", "must be https"),
        ("http://127.0.0.1.example.com/v1", "KEY", "must be https"),
        ("ftp://api.example.com", "KEY", "must be a URL such as"),
        ("api.example.com/v1", "KEY", "must be a URL such as"),
        ("https://", "KEY", "must be a URL such as"),
        ("https://api.example.com/v 1", "KEY", "must be a URL such as"),
        ("https://api.example.com/v1\r\nX: y", "KEY", "must be a URL such as"),
        ("https://bücher.example", "KEY", "must be a URL such as"),
        ("https://api.example.com:99999", "KEY", "is not a URL"),
        ("https://[::1", "KEY", "is not a URL"),
        ("https://u@api.example.com", "KEY", "must not hold a user name"),
        ("https://api.example.com/v1?api-version=2024-10-21", "KEY", None),
        ("https://api.example.com/v1?api-key=0123", "KEY", "must not hold a key in its query"),
        ("https://api.example.com/v1?a=1&Sig=0123", "KEY", "must not hold a key in its query"),
        ("https://api.example.com/v1#x", "KEY", "must not have a fragment"),
    ],
)
def test_endpoint_is_a_plain_url_that_keeps_the_key_private(url, key, fault):
    data = Policy.builtin("strict").to_mapping()
    data["providers"]["openai"] |= {"base_url": url, "api_key_env": key}
    problems = _problems(data)
    if fault is None:
        assert problems == ""
    else:
        assert problems.startswith(f"policy: providers.openai.base_url: {fault}")


@pytest.mark.parametrize(
    ("proxy", "url", "fault"),
    [
        ("", "http://127.0.0.1:8000/v1", None),
        ("http://localhost:3128", "https://api.example.com/v1", None),
        ("http://u:p@localhost:3128", "https://api.example.com/v1", "proxy: must not hold a user name"),
        ("socks5://localhost:1080", "https://api.example.com/v1", "proxy: must be a URL such as"),
        ("localhost:3128", "https://api.example.com/v1", "proxy: must be a URL such as"),
        ("http://localhost:3128", "http://127.0.0.1:8000/v1", "base_url: must be https"),
    ],
)
def test_a_proxy_is_a_plain_url_that_sees_no_key(proxy, url, fault):
    data = Policy.builtin("strict").to_mapping()
    data["providers"]["openai"] |= {"base_url": url, "proxy": proxy}
    assert _problems(data).startswith("" if fault is None else f"policy: providers.openai.{fault}")
    assert bool(_problems(data)) is (fault is not None)


def _problems(data: dict[str, object]) -> str:
    try:
        Policy.from_mapping(data)
    except PolicyError as exc:
        return exc.message
    return ""

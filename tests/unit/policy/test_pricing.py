"""Which price a model has: the policy's own, none on this machine, the list's, or none at all."""

from __future__ import annotations

import dataclasses
import pickle
import socket
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from genai_prices import Usage, calc_price

from rlm_wasm.errors import PolicyError, UsageError
from rlm_wasm.limits import ModelPrice
from rlm_wasm.policy.model import Policy
from rlm_wasm.policy.price_list import list_name, listed_price
from rlm_wasm.policy.pricing import price_argument
from rlm_wasm.policy.render import to_toml

OPENAI = "https://api.openai.com/v1"


@pytest.fixture
def strict() -> Policy:
    return Policy.builtin("strict")


def at(policy: Policy, base_url: str, root: str, **more: object) -> Policy:
    """Return the policy with one model at an endpoint, and no price of its own."""
    endpoint = {"base_url": base_url, "api_key_env": "", **more}
    models = {"root": root, "sub": root, "child": [root], "prices": {}}
    return policy.replace(providers={"openai": endpoint}, models=models)


@pytest.mark.parametrize(
    ("model", "url"),
    [
        ("gpt-4o", OPENAI),
        ("gpt-5-mini", OPENAI),
        ("claude-3-5-haiku-latest", "https://api.anthropic.com/v1"),
        ("openai/gpt-5", "https://openrouter.ai/api/v1"),
    ],
)
def test_the_list_is_asked_by_endpoint_and_never_says_less_than_its_own_calculation(
    model: str, url: str
) -> None:
    """The library's own arithmetic, over small and large requests, is the model."""
    price = listed_price(model, url)
    assert price is not None
    for tokens in (1_000, 100_000, 900_000):
        asked = calc_price(Usage(input_tokens=tokens), model_ref=model, provider_api_url=url)
        both = calc_price(
            Usage(input_tokens=tokens, output_tokens=tokens), model_ref=model, provider_api_url=url
        )
        assert price.input_microdollars_per_mtok * tokens >= asked.input_price * 10**12
        assert price.output_microdollars_per_mtok * tokens >= both.output_price * 10**12
    dearest = calc_price(Usage(input_tokens=1_000_000), model_ref=model, provider_api_url=url)
    assert price.input_microdollars_per_mtok == dearest.input_price * 10**6


@pytest.mark.parametrize(
    ("model", "url"), [("no-such-model", OPENAI), ("gpt-5", "https://gateway.example/v1")]
)
def test_what_the_list_does_not_say_has_no_price(model: str, url: str) -> None:
    """Another endpoint may ask anything for a model of the same name."""
    assert listed_price(model, url) is None


def test_a_model_that_the_list_knows_needs_no_price_and_its_source_is_written(strict: Policy) -> None:
    found = at(strict, OPENAI, "openai:gpt-4o")
    assert found.price("openai:gpt-4o") == listed_price("gpt-4o", OPENAI)
    assert found.price_source("openai:gpt-4o") == list_name()
    assert list_name().startswith("genai-prices ")
    text = to_toml(found)
    assert f'source = "{list_name()}"' in text
    assert Policy.from_mapping(tomllib.loads(text)) == found == pickle.loads(pickle.dumps(found))


def test_the_policys_own_price_is_taken_before_any(strict: Policy) -> None:
    own = {"input_microdollars_per_mtok": 1, "output_microdollars_per_mtok": 2}
    for url in (OPENAI, "http://127.0.0.1:9/v1"):
        found = at(strict, url, "openai:gpt-4o").replace(models={"prices": {"openai:gpt-4o": own}})
        assert found.price("openai:gpt-4o") == ModelPrice(1, 2)
        assert found.price_source("openai:gpt-4o") == "policy"


LOCAL = ["127.0.0.1", "127.9.8.7", "[::1]", "[::ffff:127.0.0.1]", "localhost", "LOCALHOST"]


@pytest.mark.parametrize("host", LOCAL)
def test_a_model_on_this_machine_is_free(strict: Policy, host: str) -> None:
    found = at(strict, f"http://{host}:8000/v1", "openai:gpt-4o")
    assert found.price("openai:gpt-4o") == ModelPrice(0, 0)
    assert found.price_source("openai:gpt-4o") == "free: the endpoint is this machine"


@pytest.mark.threat("T-243")
@pytest.mark.parametrize("host", [*LOCAL, "my-own-name", "name.invalid", "localhost.example"])
def test_nobody_is_asked_for_the_addresses_of_a_name(
    strict: Policy, host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who answers for a name may change his mind, or take his time: a policy is read without him."""
    asked: list[object] = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda *name, **_: asked.append(name) or [])
    if host in LOCAL:
        at(strict, f"http://{host}:8000/v1", "openai:mine")
    else:
        with pytest.raises(PolicyError, match=r"models\.root: has no price"):
            at(strict, f"http://{host}:8000/v1", "openai:mine")
    assert asked == []


@pytest.mark.parametrize("url", ["http://10.0.0.5:8000/v1", "http://0.0.0.0:1/v1", "http://name.invalid/v1"])
def test_a_model_elsewhere_is_not(strict: Policy, url: str) -> None:
    with pytest.raises(PolicyError, match=r"models\.root: has no price"):
        at(strict, url, "openai:mine")


def test_a_proxy_may_carry_this_machines_address_elsewhere(strict: Policy) -> None:
    with pytest.raises(PolicyError, match=r"models\.root: has no price"):
        at(strict, "http://127.0.0.1:8000/v1", "openai:mine", proxy="http://localhost:3128")


def test_a_price_that_was_found_does_not_follow_its_model_to_another_endpoint(strict: Policy) -> None:
    """Else a run would be free because its policy once pointed at this machine."""
    here = at(strict, "http://127.0.0.1:8000/v1", "openai:gpt-4o")
    there = here.replace(providers={"openai": {"base_url": OPENAI}})
    assert there.price("openai:gpt-4o") == listed_price("gpt-4o", OPENAI)
    moved = dataclasses.replace(here, providers=there.providers)
    assert moved.price("openai:gpt-4o") == listed_price("gpt-4o", OPENAI)
    with pytest.raises(PolicyError, match="has no price"):
        here.replace(providers={"openai": {"base_url": "https://gateway.example/v1"}})
    # Nor does it stay for a model that no longer answers: guests may ask what has a price.
    assert set(there.with_models(root="script:a.toml").prices()) == {"script:a.toml"}


@pytest.mark.parametrize("text", ['"openai:mine" = "free"', '[models.prices."openai:mine"]\nprice = "free"'])
def test_free_is_a_price(tmp_path: Path, text: str) -> None:
    head = 'extends = "strict"\n[models]\nroot = "openai:mine"\n[models.prices]\n'
    path = tmp_path / "p.toml"
    path.write_text(head + text)
    found = Policy.load(path)
    assert found.price("openai:mine") == ModelPrice(0, 0)
    assert found.price_source("openai:mine") == "policy"


@pytest.mark.parametrize(
    "text",
    [
        '"openai:mine" = "Free"',
        '[models.prices."openai:mine"]\nprice = "free"\ninput_microdollars_per_mtok = 5',
    ],
)
def test_only_that_word_and_nothing_beside_it(
    tmp_path: Path, text: str, problems_of: Callable[[Path], list[str]]
) -> None:
    path = tmp_path / "p.toml"
    path.write_text(f'extends = "strict"\n[models]\nroot = "openai:mine"\n[models.prices]\n{text}')
    assert any(
        each.startswith('p.toml:5: models.prices."openai:mine"')
        or each.startswith('p.toml:6: models.prices."openai:mine"')
        for each in problems_of(path)
    )


@pytest.mark.parametrize(
    ("text", "price"),
    [
        ("1.25,10", (1_250_000, 10_000_000)),
        ("0,0", (0, 0)),
        ("0.000001,999999", (1, 999_999_000_000)),
        ("free", (0, 0)),
    ],
)
def test_an_argument_is_dollars_for_a_million_tokens(text: str, price: tuple[int, int]) -> None:
    found = price_argument(text)
    assert (found.input_microdollars_per_mtok, found.output_microdollars_per_mtok) == price
    assert found.source == "--price"


@pytest.mark.parametrize(
    "text", ["", "1", "1,2,3", "-1,2", "1e3,2", "1, 2", "nan,1", "٣,1", "1e-7,1", "1_0,2"]
)
def test_what_is_no_price_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--price takes IN,OUT in dollars"):
        price_argument(text)


def test_a_given_price_is_in_force_with_its_source(strict: Policy) -> None:
    found = strict.with_models(root="openai:mine", prices={"openai:mine": price_argument("1,2")})
    assert found.price("openai:mine") == ModelPrice(1_000_000, 2_000_000)
    assert found.price_source("openai:mine") == "--price"

"""The policy of a question: the one that is named, or one made of what this machine and environment give."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

from rlm_wasm.cli.machine_policy import policy_for
from rlm_wasm.errors import PolicyError, UsageError
from rlm_wasm.limits import ModelPrice
from rlm_wasm.policy.environment import choose
from rlm_wasm.policy.model import Policy
from rlm_wasm.policy.pricing import price_argument
from rlm_wasm.policy.tables import PriceTable, as_data

_FREE: Final = ModelPrice(0, 0)


class GivenModels(Protocol):
    """What a command line says of who answers."""

    @property
    def policy_name(self) -> str | None: ...
    @property
    def inline(self) -> bool: ...
    @property
    def model(self) -> str | None: ...
    @property
    def sub_model(self) -> str | None: ...
    @property
    def base_url(self) -> str | None: ...
    @property
    def key_env(self) -> str | None: ...
    @property
    def prices(self) -> tuple[str, ...]: ...
    @property
    def answers_file(self) -> str | None: ...


@dataclass(frozen=True, slots=True)
class Taken:
    """A policy, and in a few words which one it is."""

    policy: Policy
    words: str

    def line(self) -> str:
        """Return what was taken, and what the run may use at most, in one line."""
        policy, budget = self.policy, self.policy.budget
        models = policy.models
        asked = models.root if models.sub == models.root else f"{models.root} with {models.sub} for llm_query"
        places = dict.fromkeys(filter(None, (_place(policy, spec) for spec in (models.root, models.sub))))
        at = f" at {' and '.join(places)}" if places else ""
        minutes = policy.run.wall_ms_max / 60_000
        return (
            f"{self.words} · {asked}{at} · {_cost(policy)} {budget.calls_max} model calls, "
            f"{minutes:g} minutes"
        )


def who_answers(given: GivenModels) -> Taken:
    """Return the policy of a question. Raises PolicyError or UsageError, which say what to add or set."""
    if given.policy_name is not None:
        return Taken(_named_policy(given, given.policy_name), f"policy {given.policy_name}")
    if given.answers_file is not None:
        raise UsageError("--answers-from needs --policy: the one that the answers were recorded under")
    # Before the machine is looked at: nobody waits to be told that a key is missing.
    chosen = choose(
        os.environ,
        model=given.model,
        sub_model=given.sub_model,
        base_url=given.base_url,
        key_env=given.key_env,
    )
    policy, words = policy_for(inline=given.inline)
    prices = _prices(given.prices, (chosen.root, chosen.sub))
    gone = {name: None for name in policy.providers if name not in chosen.providers}
    models = {**chosen.models, "prices": {spec: as_data(price) for spec, price in prices.items()}}
    return Taken(_priced(policy, {"providers": {**gone, **chosen.providers}, "models": models}), words)


def _named_policy(given: GivenModels, name: str) -> Policy:
    policy = Policy.open(name)
    root = given.model or policy.models.root
    specs = (root, given.sub_model or (root if given.model else policy.models.sub))
    prices = _prices(given.prices, specs)
    endpoint: dict[str, Any] = {}
    if given.base_url is not None:
        endpoint["base_url"] = given.base_url
    if given.key_env is not None:
        endpoint["api_key_env"] = given.key_env
    if endpoint:
        provider = root.partition(":")[0]
        if provider not in policy.providers:
            raise UsageError(f"the policy has no table [providers.{provider}] that --base-url could be of")
        kept = as_data(policy.models.prices)
        if given.base_url not in (None, policy.providers[provider].base_url):
            # What another endpoint asks for a model of the same name is not known by that.
            kept = {spec: price for spec, price in kept.items() if spec.partition(":")[0] != provider}
        models: dict[str, Any] = {"prices": {**kept, **as_data(prices)}}
        if given.model is not None:
            models |= {"root": specs[0], "sub": specs[1], "child": [specs[0]]}
        elif given.sub_model is not None:
            models["sub"] = specs[1]
        return _priced(policy, {"providers": {provider: endpoint}, "models": models})
    return policy.with_models(root=given.model, sub=given.sub_model, prices=prices)


def _priced(policy: Policy, changes: dict[str, Any]) -> Policy:
    """Return the changed policy; a model without a price is told with the option that gives it one."""
    try:
        return policy.replace(**changes)
    except PolicyError as error:
        problems = dict.fromkeys(line.partition(": ")[2] for line in error.message.splitlines())
        lacking = [line for line in problems if ": has no price" in line]
        # An address that is wrong has no price either, and that is not what is wrong with it.
        if len(lacking) < len(problems) or not lacking:
            problems = {line: None for line in problems if line not in lacking}
            raise PolicyError("\n".join(problems), hint=error.hint) from None
        hint = "--price IN,OUT in dollars for a million tokens, or --price free"
        raise PolicyError(lacking[0], hint=hint) from None


def _prices(arguments: tuple[str, ...], specs: tuple[str, ...]) -> dict[str, PriceTable]:
    """Return the given prices by model: one that names none is that of each model without one of its own."""
    named: dict[str, PriceTable] = {}
    other: PriceTable | None = None
    for argument in arguments:
        model, equals, text = argument.rpartition("=")
        price = price_argument(text)
        if not equals:
            if other is not None:
                raise UsageError("--price without a model is given twice", hint="--price MODEL=IN,OUT")
            other = price
            continue
        meant = [spec for spec in specs if model in (spec, spec.partition(":")[2])]
        if not meant:
            raise UsageError(
                f"--price names the model {model!a}, which is not asked",
                hint=" or ".join(dict.fromkeys(specs)),
            )
        named |= dict.fromkeys(meant, price)
    if other is not None:
        named = dict.fromkeys(specs, other) | named
    return named


def _place(policy: Policy, spec: str) -> str | None:
    table = policy.providers.get(spec.partition(":")[0])
    if table is None or table.base_url is None:
        return None
    place = urlsplit(table.base_url).netloc
    return f"{place} (key: {table.api_key_env})" if table.api_key_env else f"{place} (no key)"


def _cost(policy: Policy) -> str:
    if all(price == _FREE for price in policy.prices().values()):
        return "nothing to pay, at most"
    dollars = policy.run_bound().cost_microdollars / 1e6
    return f"at most ${dollars:,.2f}," if dollars >= 0.01 else f"at most ${dollars:,.6f},"

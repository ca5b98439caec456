"""The price of each model that a policy names: the policy's own, or nothing on this machine, or a list's.

What is found is written into the policy with its source, so that the ledger, the log and a replay know prices
of a policy alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from types import MappingProxyType
from typing import Any, Final

from rlm_wasm.errors import UsageError
from rlm_wasm.policy.price_list import list_name, listed_price, listed_window
from rlm_wasm.policy.problems import dotted
from rlm_wasm.policy.provider_tables import kind_behind
from rlm_wasm.policy.tables import PriceTable, Tables
from rlm_wasm.policy.this_machine import is_this_machine

FREE: Final = "free"
OF_THE_POLICY: Final = "policy"
LOOPBACK: Final = "free: the endpoint is this machine"
ARGUMENT: Final = "--price"

_AMOUNT: Final = re.compile(r"\d{1,6}(?:\.\d{1,6})?", re.ASCII)


def spelled_out(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return a policy's data with the numbers of each price that is only called "free"."""
    found = dict(data)
    models = found.get("models")
    prices = models.get("prices") if isinstance(models, Mapping) else None
    if isinstance(models, Mapping) and isinstance(prices, Mapping):
        free = {"input_microdollars_per_mtok": 0, "output_microdollars_per_mtok": 0}
        named = {spec: free if price in (FREE, {"price": FREE}) else price for spec, price in prices.items()}
        found["models"] = {**models, "prices": named}
    return found


def with_prices(tables: Tables) -> Tables:
    """Return the tables with a price for each model that the policy names and that one can be found for."""
    models = tables.models
    named = models.asked
    prices = {
        spec: price
        for spec, price in models.prices.items()
        # Found for the endpoint that the model has now, or written.
        if price.endpoint is None or (spec in named and price.endpoint == _endpoint(spec, tables))
    }
    for spec in named:
        if spec not in prices and (price := _found(spec, tables)) is not None:
            prices[spec] = price
    return replace(tables, models=replace(models, prices=MappingProxyType(prices)))


def price_argument(text: str) -> PriceTable:
    """Return what ``IN,OUT`` in dollars for a million tokens says, or ``free``; raise UsageError."""
    if text == FREE:
        return PriceTable(0, 0, ARGUMENT)
    parts = text.split(",")
    if len(parts) != 2 or not all(_AMOUNT.fullmatch(part) for part in parts):
        raise UsageError(
            f"--price takes IN,OUT in dollars for a million tokens, such as 1.25,10, or free; not {text!a}"
        )
    # At most six digits behind the point: whole micro-dollars.
    asked, answered = (int(Decimal(part) * 1_000_000) for part in parts)
    return PriceTable(asked, answered, ARGUMENT)


def source_of(price: PriceTable) -> str:
    """Return where a price is from, in a few words."""
    return price.source or OF_THE_POLICY


def what_to_add(spec: str, tables: Tables) -> str:
    """Return what a model without a price lacks, and the line that would give it one."""
    name = dotted((spec,))
    listed = "" if _endpoint(spec, tables) is None else f" ({list_name()} has none for its endpoint)"
    return (
        f'has no price; add the table [models.prices.{name}], or {name} = "free" to [models.prices]{listed}'
    )


def _found(spec: str, tables: Tables) -> PriceTable | None:
    endpoint = _endpoint(spec, tables)
    if endpoint is None:
        return None
    if is_this_machine(endpoint):
        return PriceTable(0, 0, LOOPBACK, endpoint)
    model = spec.partition(":")[2]
    price = listed_price(model, endpoint)
    if price is None:
        return None
    return PriceTable(
        price.input_microdollars_per_mtok,
        price.output_microdollars_per_mtok,
        list_name(),
        endpoint,
        listed_window(model, endpoint),
    )


def _endpoint(spec: str, tables: Tables) -> str | None:
    """Return the URL that a model's queries go to; None: they go nowhere, or by a way that is not ours."""
    endpoint = tables.providers.get(spec.partition(":")[0])
    if endpoint is None or endpoint.proxy or kind_behind(spec, tables.providers) == "litellm":
        return None
    return endpoint.base_url

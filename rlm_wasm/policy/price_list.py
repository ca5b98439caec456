"""A list of what providers ask for their models: installed with this package, and it works offline."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import ROUND_CEILING, Decimal
from functools import cache
from importlib import metadata
from typing import Any, Final

from rlm_wasm.limits import ModelPrice

_DISTRIBUTION: Final = "genai-prices"
_MICRODOLLARS: Final = 1_000_000


def listed_window(model: str, base_url: str) -> int | None:
    """Return how many tokens `model` at `base_url` holds, or None if the list does not say."""
    from genai_prices.data_snapshot import get_snapshot

    try:
        _, found = get_snapshot().find_provider_model(model, None, None, base_url)
    except LookupError:
        return None
    return found.context_window


def listed_price(model: str, base_url: str) -> ModelPrice | None:
    """Return what the provider at `base_url` asks for `model`, or None if the list does not say.

    Where a price depends on the length of a request or on the hour, that is the highest: no query costs more
    than its price says. None as well for a model that costs something by the request, which is no price of
    tokens.
    """
    from genai_prices.data_snapshot import get_snapshot

    try:
        _, found = get_snapshot().find_provider_model(model, None, None, base_url)
        prices = [found.get_prices(hour) for hour in _hours()]
    except LookupError:
        return None
    if any(price.requests_kcount for price in prices):
        return None
    asked = [(_highest(price.input_mtok), _highest(price.output_mtok)) for price in prices]
    if any(amount is None for pair in asked for amount in pair):
        return None
    inputs, outputs = zip(*asked, strict=True)
    return ModelPrice(max(inputs), max(outputs))


@cache
def list_name() -> str:
    """Return the list's name and version, as a price's source."""
    return f"{_DISTRIBUTION} {metadata.version(_DISTRIBUTION)}"


def _hours() -> list[datetime]:
    """Return each hour of today and the start of tomorrow: a run may go on for a day."""
    today = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    return [today + timedelta(hours=hours) for hours in range(25)]


def _highest(price: Any) -> int | None:
    """Return micro-dollars, rounded up, of a price or of the dearest of its tiers."""
    tiers = getattr(price, "tiers", None)
    dollars = price if tiers is None else max(price.base, *(tier.price for tier in tiers))
    if dollars is None:
        return None
    return int((Decimal(dollars) * _MICRODOLLARS).to_integral_value(ROUND_CEILING))

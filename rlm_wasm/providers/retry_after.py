"""The time for which an endpoint asks to be left alone, in the forms that endpoints say it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import ROUND_CEILING, Decimal
from email.utils import parsedate_to_datetime
from typing import Final

_WAIT_MS_MAX: Final = 60 * 60 * 1000
# Digits are cut, not refused: whatever has more of them is beyond the bound.
_NUMBER: Final = re.compile(r"(\d{1,9})\d*(?:\.(\d{1,6})\d*)?", re.ASCII)


def retry_after_ms(headers: Mapping[str, str]) -> int | None:
    """Return the wait the provider asks for, bounded, without reading our own clock.

    Milliseconds go first, as they are more exact. A fraction is rounded up: never too early.
    """
    exact = _number_ms(headers.get("retry-after-ms", ""), 1)
    if exact is not None:
        return exact
    text = headers.get("retry-after", "").strip()
    seconds = _number_ms(text.removesuffix("s"), 1000)
    if seconds is not None:
        return seconds
    then, now = _http_date(text), _http_date(headers.get("date", ""))
    if then is None or now is None:
        return None
    return min(max(int((then - now).total_seconds() * 1000), 0), _WAIT_MS_MAX)


def _number_ms(text: str, unit_ms: int) -> int | None:
    number = _NUMBER.fullmatch(text.strip())
    if number is None:
        return None
    whole, fraction = number.groups()
    wait = Decimal(f"{whole}.{fraction or 0}") * unit_ms
    return min(int(wait.to_integral_value(ROUND_CEILING)), _WAIT_MS_MAX)


def _http_date(text: str) -> datetime | None:
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    # Two of HTTP's three forms of a date may come without a zone: all are in GMT.
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)

"""The gate for what an OpenAI-compatible endpoint sends: bytes in, typed facts or a reason out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Final, Protocol

from rlm_wasm.json_text import outside_strings
from rlm_wasm.providers.base import Completion, ProviderFailure
from rlm_wasm.scheduler.messages import finish_of

# 408 and 409 are how some gateways say "again, please"; 529 is "overloaded".
_RETRYABLE_STATUS: Final = frozenset({408, 409, 429, 500, 502, 503, 504, 529})
_THROTTLED_STATUS: Final = frozenset({429, 529})
# A 429 that waiting does not cure.
_OUT_OF_MONEY: Final = ("insufficient_quota", "billing_hard_limit_reached")
_TOKENS_MAX: Final = 10**9
# An answer is text and some facts about it. A body without so many bytes has not so many values.
_VALUES_MAX: Final = 1 << 15
_NOT_JSON: Final = object()  # None is what the JSON text `null` means
_RETRY_AFTER_MS_MAX: Final = 60 * 60 * 1000


class MakeFailure(Protocol):
    """Builds a failure whose text names the endpoint, is short, and cannot hold the key."""

    def __call__(
        self,
        reason: str,
        *,
        retryable: bool,
        sent: bool,
        retry_after_ms: int | None = None,
        throttled: bool = False,
    ) -> ProviderFailure: ...


def decode_completion(body: bytes) -> Completion | str:
    """Return the answer in the body of a 200, or the reason why it is none. Raises nothing."""
    if _holds_too_much(body):
        return "sent more values than an answer has"
    document = _parse(body)
    if document is _NOT_JSON:
        return "sent something that is not JSON"
    choices = _member(document, "choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = _member(choice, "message")
    if not isinstance(message, dict):
        return "sent JSON that is not a chat completion"
    content = message.get("content")
    if not isinstance(content, str) or not content:
        return f"sent no text{_why_empty(choices, message)}"
    usage = _member(document, "usage")
    return Completion(
        _without_surrogates(content),
        _tokens(_member(usage, "prompt_tokens")),
        _tokens(_member(usage, "completion_tokens")),
        finish_of(_member(choice, "finish_reason")),
    )


def refusal(
    status: int, headers: Mapping[str, str], body: bytes | None, failure: MakeFailure
) -> ProviderFailure:
    """Return the failure that a status other than 200 means."""
    if 300 <= status < 400:
        return failure(
            f"answered {status}, a redirect, which is never followed; correct base_url",
            retryable=False,
            sent=False,
        )
    if status == 401:
        # The usual text of a 401 quotes the ends of the key.
        return failure("answered 401: it did not accept the key", retryable=False, sent=False)
    error = _member(_parse(body or b""), "error")
    out_of_money = any(_member(error, name) in _OUT_OF_MONEY for name in ("code", "type"))
    return failure(
        f"answered {status}{_detail(error)}",
        retryable=status in _RETRYABLE_STATUS and not out_of_money,
        # A 4xx says that nothing was done; a 5xx may come after the work, so it may be billed.
        sent=not 400 <= status < 500,
        retry_after_ms=_retry_after_ms(headers),
        throttled=status in _THROTTLED_STATUS and not out_of_money,
    )


def _holds_too_much(body: bytes) -> bool:
    """Whether decoding a body would make more objects of it than of any answer; text costs nothing."""
    if len(body) <= _VALUES_MAX:
        return False
    outside = outside_strings(body, _VALUES_MAX)
    return outside is None or sum(outside.count(mark) for mark in (b"[", b"{", b",")) > _VALUES_MAX


def _parse(body: bytes) -> object:
    try:
        # UTF-8, as the count of its values took it; `json` would also guess at other encodings.
        return json.loads(body.decode("utf-8-sig"))
    # ValueError: bad JSON, bad UTF-8, or a number of more than 4300 digits.
    except (ValueError, RecursionError):
        return _NOT_JSON


def _member(value: object, name: str) -> object:
    return value.get(name) if isinstance(value, dict) else None


def _why_empty(choices: object, message: dict[str, object]) -> str:
    if isinstance(refused := message.get("refusal"), str) and refused:
        return f"; the model refused: {_printable(refused)}"
    reason = _member(choices[0] if isinstance(choices, list) else None, "finish_reason")
    if reason == "length":
        return "; the token cap was used up before any (raise query.output_tokens_max)"
    return f" (finish_reason {_printable(reason)})" if isinstance(reason, str) else ""


def _detail(error: object) -> str:
    # Only the field that is meant for people; a raw body could be a page, or an echo of the request.
    message = error if isinstance(error, str) else _member(error, "message")
    return f": {_printable(message)}" if isinstance(message, str) and message else ""


def _printable(text: str) -> str:
    # Not cut here: MakeFailure first looks for the key, and half a key would escape it.
    return "".join(char if char.isprintable() else " " for char in text)


def _tokens(value: object) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int):
        return None
    return value if 0 <= value <= _TOKENS_MAX else None


def _without_surrogates(text: str) -> str:
    # JSON can spell half a surrogate pair; nothing after this point could encode it.
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _retry_after_ms(headers: Mapping[str, str]) -> int | None:
    """Return the wait the provider asks for, bounded, without reading our own clock."""
    text = headers.get("retry-after", "").strip()
    if text.isascii() and text.isdigit():
        return min(int(text[:9]) * 1000, _RETRY_AFTER_MS_MAX)
    then, now = _http_date(text), _http_date(headers.get("date", ""))
    if then is None or now is None:
        return None
    return min(max(int((then - now).total_seconds() * 1000), 0), _RETRY_AFTER_MS_MAX)


def _http_date(text: str) -> datetime | None:
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return moment if moment.tzinfo is not None else None

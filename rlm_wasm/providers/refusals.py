"""The meaning of an endpoint's status or error object: whether to try again, who pays, and its words."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, NamedTuple

from rlm_wasm.errors import NoText, ProviderError, WindowExceeded
from rlm_wasm.providers.base import ProviderFailure
from rlm_wasm.providers.json_body import first, member, printable, read_json
from rlm_wasm.providers.retry_after import retry_after_ms
from rlm_wasm.providers.window_refusal import RefusedLength, too_long

# How gateways say "again, please": a timeout, a conflict, too early, calm down, too many requests, and a
# client that gave up, as one in between did.
_RETRYABLE_4XX: Final = frozenset({408, 409, 420, 425, 429, 430, 460, 498, 499})
# Every gateway has numbers of its own above 500, nearly all for an origin that is down, slow or overloaded.
# These say that the next attempt would meet the same: not implemented, the wrong version or negotiation, a
# loop, a missing extension, a network that wants a login.
_LASTING_5XX: Final = frozenset({501, 505, 506, 508, 510, 511})
_THROTTLED_STATUS: Final = frozenset({420, 429, 430, 529})
# A 429 that waiting does not cure.
_OUT_OF_MONEY: Final = frozenset({
    "insufficient_quota",
    "billing_hard_limit_reached",
    "billing_not_active",
    "insufficient_balance",
    "insufficient_credits",
})  # fmt: skip
# Errors inside a 200 that have a word and no number.
_STATUS_OF_WORD: Final[dict[str, int]] = {
    "rate_limit_exceeded": 429,
    "rate_limit_error": 429,
    "rate_limited": 429,
    "too_many_requests": 429,
    "resource_exhausted": 429,
    **dict.fromkeys(_OUT_OF_MONEY, 429),
    "overloaded": 529,
    "overloaded_error": 529,
    "engine_overloaded": 529,
    "timeout": 504,
    "timeout_error": 504,
    "deadline_exceeded": 504,
    "invalid_request_error": 400,
    "invalid_request": 400,
    "invalid_argument": 400,
    "bad_request": 400,
    "bad_request_error": 400,
    "context_length_exceeded": 400,
    "content_filter": 400,
    "authentication_error": 401,
    "unauthenticated": 401,
    "unauthorized": 401,
    "invalid_api_key": 401,
    "permission_error": 403,
    "permission_denied": 403,
    "forbidden": 403,
    "not_found": 404,
    "not_found_error": 404,
    "model_not_found": 404,
}
# Of an error that says neither: as if a gateway had it from its origin.
_UNKNOWN_STATUS: Final = 502
_CODES: Final = ("code", "status", "status_code", "statusCode", "http_status", "http_code", "type")
# A status with its words behind it.
_STATUS_AND_WORDS: Final = re.compile(r"[45][0-9][0-9](?![\w.-])")
_WORDS: Final = ("message", "detail", "msg", "error", "errors", "error_message", "error_description")
_NESTED_MAX: Final = 4
# Of what a gateway refused a text for, so many are told.
_REASONS_MAX: Final = 8


class Trouble(NamedTuple):
    """Why there is no answer; the fields are those of ProviderFailure. `no_text`: its error is a NoText.

    `too_long`: its error is a WindowExceeded, which says that.

    The reason may hold the endpoint's words: it is not cut yet, and the key may be in it.
    """

    reason: str
    retryable: bool
    sent: bool = True
    retry_after_ms: int | None = None
    throttled: bool = False
    no_text: bool = False
    too_long: RefusedLength | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None


def failure_of(trouble: Trouble, told: str) -> ProviderFailure:
    """Return the failure that a trouble is; `told` are its words, without the key and cut."""
    if trouble.too_long is not None:
        error: ProviderError = WindowExceeded(told, **trouble.too_long._asdict())
    else:
        error = NoText(told) if trouble.no_text else ProviderError(told)
    return ProviderFailure(
        error,
        retryable=trouble.retryable,
        sent=trouble.sent,
        retry_after_ms=trouble.retry_after_ms,
        throttled=trouble.throttled,
        input_tokens=trouble.input_tokens,
        output_tokens=trouble.output_tokens,
    )


def refusal(status: int, headers: Mapping[str, str], document: object) -> Trouble:
    """Return what a status that brings no answer means; `document` is what its body held."""
    if 300 <= status < 400:
        return Trouble(
            f"answered {status}, a redirect, which is never followed; correct base_url",
            retryable=False,
            sent=False,
        )
    return _refused(status, f"answered {status}", headers, document)


def error_within(headers: Mapping[str, str], document: object) -> Trouble | None:
    """Return what an error in a 200's body means, as if its code were the status; None: there is none."""
    error = _error_of(document)
    if error is None:
        return None
    status = _stated_status(error)
    told = "an error" if status is None else f"the error {status}"
    return _refused(status or _UNKNOWN_STATUS, f"answered 200 with {told}", headers, document)


def _refused(status: int, told: str, headers: Mapping[str, str], document: object) -> Trouble:
    if status == 401:
        # The usual text of a 401 quotes the ends of the key.
        return Trouble(f"{told}: it did not accept the key", retryable=False, sent=False)
    error = _error_of(document)
    origin = _error_of_origin(error)
    codes = {_word(member(each, name)) for each in (error, origin) for name in _CODES}
    out_of_money = not codes.isdisjoint(_OUT_OF_MONEY)
    # Only a field that is meant for people; a raw body could be a page, or an echo of the request.
    words = _told_of(error, origin) or _words(document)
    # Said with a 500 by some. What says to come back later is no matter of length.
    length = None if status in _THROTTLED_STATUS else too_long(error, words) or too_long(origin, words)
    return Trouble(
        f"{told}: {printable(words)}" if words else told,
        retryable=_is_retryable(status) and not out_of_money and length is None,
        # A 4xx says that nothing was done; a 5xx may come after the work, so it may be billed.
        sent=not 400 <= status < 500,
        retry_after_ms=retry_after_ms(headers),
        throttled=status in _THROTTLED_STATUS and not out_of_money,
        too_long=length,
    )


def _is_retryable(status: int) -> bool:
    return status in _RETRYABLE_4XX or (500 <= status < 600 and status not in _LASTING_5XX)


def _error_of(document: object) -> object:
    """Return the error that a body states, wherever it stands; None: there is none."""
    if isinstance(document, list):  # one vendor wraps the whole body
        document = first(document)
    choice = first(member(document, "choices"))
    for error in (member(document, "error"), member(choice, "error")):
        if error:  # null, false and {} are how some say that there is none
            return error
    if not isinstance(document, dict):
        return None
    without_choice = choice is None and bool(_words(document))
    return document if document.get("object") == "error" or without_choice else None


def _error_of_origin(error: object) -> object:
    """Return what a gateway's error passes on of its origin's, as an object or as words; None: nothing."""
    passed_on = member(member(error, "metadata"), "raw")
    if isinstance(passed_on, str):
        document = read_json(passed_on.encode("utf-8", "replace"))
        if isinstance(document, str | dict | list):
            passed_on = document
        elif passed_on.lstrip()[:1] in ("", "<", "{", "["):
            return None  # a page, or half a document
    return _error_of(passed_on) or passed_on


def _told_of(error: object, origin: object) -> str:
    """Return the words of an error, and behind them those of its origin, where they say something else."""
    words, why = _words(error), _words(origin) or _reasons(error)
    if not why or why in words:
        return words
    name = member(member(error, "metadata"), "provider_name")
    by = f"{name}: " if isinstance(name, str) and name else ""
    return f"{words} ({by}{why})" if words else f"{by}{why}"


def _reasons(error: object) -> str:
    reasons = member(member(error, "metadata"), "reasons")
    told = reasons[:_REASONS_MAX] if isinstance(reasons, list) else []
    return ", ".join(each for each in told if isinstance(each, str))


def _stated_status(error: object) -> int | None:
    for name in _CODES:
        code = member(error, name)
        if isinstance(code, str) and (stated := _STATUS_AND_WORDS.match(code.lstrip())):
            code = int(stated[0])
        elif isinstance(code, float) and code.is_integer():
            code = int(code)
        if type(code) is int and 400 <= code < 600:
            return code
    for name in _CODES:
        if (status := _STATUS_OF_WORD.get(_word(member(error, name)))) is not None:
            return status
    return None


def _word(value: object) -> str:
    return value.lower() if isinstance(value, str) else ""


def _words(value: object, nested: int = _NESTED_MAX) -> str:
    """Return the first text in a body that is meant for people; "" if there is none."""
    if isinstance(value, str):
        return value.strip()
    if not nested:
        return ""
    if isinstance(value, list):
        return _words(first(value), nested - 1)
    if isinstance(value, dict):
        return next(filter(None, (_words(value.get(name), nested - 1) for name in _WORDS)), "")
    return ""

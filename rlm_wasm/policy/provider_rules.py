"""The rules for providers: which keys a kind has, URLs that keep a key private, no key in a policy."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import fields
from typing import Final
from urllib.parse import SplitResult, parse_qsl, urlsplit

from rlm_wasm.policy.problems import Key, Problem
from rlm_wasm.policy.provider_tables import (
    FILE_KINDS,
    KEYS_OF,
    KINDS,
    ProviderTable,
    RequestSettings,
    kind_of,
)
from rlm_wasm.policy.tables import Tables, as_data
from rlm_wasm.policy.this_machine import is_this_machine

_URL_CHARS: Final = re.compile(r"[!-~]+")
_CHOICE_OF_KINDS: Final = f"there are {', '.join(KINDS)}"
# What of a request is the host's or its library's to write.
_HOST_HEADERS: Final = frozenset({
    "accept",
    "accept-encoding",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "cookie",
    "expect",
    "host",
    "keep-alive",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
})  # fmt: skip
# How headers and parameters are called that hold a key, and how the usual ones begin.
_KEY_NAME: Final = re.compile(
    r"(?i)auth(?!ors?$)|cookie|credential|passw|secret|signature|(?:^|[^a-z])(?:sig|code|key|token)$"
    r"|api[_-]?key|access[_-]?token"
)
_KEY_VALUE: Final = re.compile(r"(?i)(?:bearer|basic) |sk-|pk-|xai-|gsk_|AIza|hf_|ghp_")


def provider_problems(policy: Tables) -> Iterator[Problem]:
    """Yield what is wrong with providers and with what goes with requests, each key being right by itself."""
    for name, table in policy.providers.items():
        key = ("providers", name)
        kind = kind_of(name, table)
        if name in FILE_KINDS:
            yield Problem(key, f"{name}:FILE needs no table; give this one another name")
        elif kind is None:
            yield Problem((*key, "kind"), f"is missing: {_CHOICE_OF_KINDS}")
        else:
            yield from _provider(key, kind, table)
    for spec, settings in (policy.models.settings or {}).items():
        overhead = _body_bytes(policy.providers.get(spec.partition(":")[0]), settings)
        yield from _settings(("models", "settings", spec), settings)
        if overhead > policy.query.input_overhead_tokens:
            yield _too_long(("models", "settings", spec, "extra_body"), overhead, policy)
    for name, table in policy.providers.items():
        if (overhead := _body_bytes(table)) > policy.query.input_overhead_tokens:
            yield _too_long(("providers", name, "extra_body"), overhead, policy)


def _provider(key: Key, kind: str, table: ProviderTable) -> Iterator[Problem]:
    needed, allowed = KEYS_OF[kind]
    for field in fields(table):
        value = getattr(table, field.name)
        if value is None and field.name in needed:
            yield Problem((*key, field.name), "is missing; no limit or grant has a default")
        elif value is not None and field.name not in ("kind", *needed, *allowed):
            yield Problem((*key, field.name), f'is no key of a provider of kind "{kind}"')
    if table.base_url is not None and (fault := _base_url_fault(table, table.base_url)) is not None:
        yield Problem((*key, "base_url"), fault)
    if table.proxy and isinstance(wrong := _split_url(table.proxy, "http://localhost:3128"), str):
        yield Problem((*key, "proxy"), wrong)
    elif table.proxy and urlsplit(table.proxy).query:
        yield Problem((*key, "proxy"), "must not have a query")
    if table.api_key_header is not None:
        if not table.api_key_env:
            yield Problem((*key, "api_key_header"), "is where a key goes, and api_key_env names none")
        elif table.api_key_header.lower() in _HOST_HEADERS:
            yield Problem((*key, "api_key_header"), "is a header that the host writes")
    yield from _settings(key, table)


def _settings(key: Key, settings: RequestSettings) -> Iterator[Problem]:
    for name, value in (settings.headers or {}).items():
        where = (*key, "headers", name)
        if name.lower() in _HOST_HEADERS:
            yield Problem(where, "is a header that the host writes")
        elif _KEY_NAME.search(name) or _KEY_VALUE.match(value):
            # Never quoted. A policy is shown, logged and kept with every run.
            yield Problem(
                where, "looks like a key: name its variable in api_key_env, and its header in api_key_header"
            )


def _body_bytes(*settings: RequestSettings | None) -> int:
    """Return how many bytes of JSON the members take that go into each request, or at most so many."""
    bodies = [as_data(each.extra_body) for each in settings if each is not None and each.extra_body]
    return sum(len(json.dumps(body).encode()) for body in bodies)


def _too_long(key: Key, size: int, policy: Tables) -> Problem:
    most = policy.query.input_overhead_tokens
    return Problem(
        key,
        f"takes {size} bytes, and query.input_overhead_tokens keeps {most} tokens for what goes with each "
        "query; raise that",
    )


def _base_url_fault(endpoint: ProviderTable, text: str) -> str | None:
    url = _split_url(text, "https://api.openai.com/v1")
    if isinstance(url, str):
        return url
    if url.scheme == "http" and endpoint.api_key_env and (endpoint.proxy or not is_this_machine(text)):
        return "must be https: a key would cross the network in the clear"
    return None


def _split_url(text: str, example: str) -> SplitResult | str:
    # The URL is never quoted: the commonest fault is a password inside it.
    try:
        url = urlsplit(text)
        _ = url.port
    except ValueError:
        return "is not a URL"
    if url.scheme not in ("http", "https") or not _URL_CHARS.fullmatch(text) or not url.hostname:
        return f'must be a URL such as "{example}"'
    if url.username is not None or url.password is not None:
        return "must not hold a user name or password; name the key's variable in api_key_env"
    if url.fragment:
        return "must not have a fragment"
    if any(_KEY_NAME.search(name) for name, _ in parse_qsl(url.query, keep_blank_values=True)):
        return "must not hold a key in its query; name the key's variable in api_key_env"
    return url

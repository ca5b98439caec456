"""`Backend`: a backend of that library as a provider of a policy, and the key that it is asked with."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, NoReturn

from rlm_wasm.errors import UsageError
from rlm_wasm.policy.environment import KNOWN
from rlm_wasm.providers.secret import Secret

_CONNECT_TIMEOUT_MS: Final = 5_000
_AZURE_VERSION: Final = "2024-02-01"
_TAKEN: Final = ("model_name", "base_url", "timeout", "sampling_args", "default_headers", "max_retries")
_OF_KIND: Final[Mapping[str, tuple[str, ...]]] = {
    "anthropic": ("max_tokens",),
    "azure_openai": ("azure_endpoint", "azure_deployment", "api_version"),
}
_KNOWN: Final = {each.name: each for each in KNOWN}


@dataclass(frozen=True, slots=True)
class _BackendPlace:
    """Where a backend's models are: an address, if it has one of its own, and the variable of its key."""

    base_url: str | None
    key: str
    kind: str = "openai"
    key_header: str | None = None
    output_tokens_field: str = "max_tokens"


_PLACES: Final[Mapping[str, _BackendPlace]] = {
    "openai": _BackendPlace(
        _KNOWN["openai"].base_url, _KNOWN["openai"].key, output_tokens_field="max_completion_tokens"
    ),
    "vllm": _BackendPlace(None, ""),
    "openrouter": _BackendPlace(_KNOWN["openrouter"].base_url, _KNOWN["openrouter"].key),
    "vercel": _BackendPlace("https://ai-gateway.vercel.sh/v1", "AI_GATEWAY_API_KEY"),
    "portkey": _BackendPlace("https://api.portkey.ai/v1", "PORTKEY_API_KEY", key_header="x-portkey-api-key"),
    "anthropic": _BackendPlace(_KNOWN["anthropic"].base_url, _KNOWN["anthropic"].key, kind="anthropic"),
    "gemini": _BackendPlace(_KNOWN["gemini"].base_url, _KNOWN["gemini"].key),
    "azure_openai": _BackendPlace(
        None, "AZURE_OPENAI_API_KEY", key_header="api-key", output_tokens_field="max_completion_tokens"
    ),
}


class GivenKeys(Mapping[str, str]):
    """The environment as a runtime reads its keys, with those that came as arguments. Shows none."""

    def __init__(self) -> None:
        self._given: Final[dict[str, Secret]] = {}

    def keep(self, name: str, key: Secret) -> None:
        """Have a key be the value of a variable."""
        self._given[name] = key

    def __getitem__(self, name: str) -> str:
        """Return a key, or what the process has. For the one place that puts it on the wire."""
        return self._given[name].reveal() if name in self._given else os.environ[name]

    def __iter__(self) -> Iterator[str]:
        """Yield the names."""
        return iter({**dict.fromkeys(self._given), **dict.fromkeys(os.environ)})

    def __len__(self) -> int:
        """Return how many there are."""
        return len({*self._given, *os.environ})

    def __repr__(self) -> str:
        return "GivenKeys([redacted])"

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("keys cannot be pickled or copied")


def without_key(backend_kwargs: Mapping[str, Any] | None) -> tuple[dict[str, Any], Secret | None]:
    """Return a backend's arguments and its key apart, so that no frame that raises has both."""
    given = dict(backend_kwargs or {})
    key = given.pop("api_key", None)
    return given, Secret(key) if isinstance(key, str) and key else None


@dataclass(frozen=True, slots=True)
class Backend:
    """A provider's table, a model there, and what goes along. `settings` are of that model alone."""

    provider: str
    model: str
    table: Mapping[str, Any]
    settings: Mapping[str, Any]
    output_tokens_max: int | None = None
    timeout_ms: int | None = None
    attempts_max: int | None = None

    @property
    def spec(self) -> str:
        """The model as a policy names it."""
        return f"{self.provider}:{self.model}"

    @classmethod
    def of(
        cls,
        provider: str,
        kind: str,
        given: Mapping[str, Any],
        key: Secret | None,
        keys: GivenKeys,
        sampling_args: Mapping[str, Any] | None,
    ) -> Backend:
        """Return the backend `kind` as `provider`; its key is kept in `keys`.

        Raises:
            UsageError: there is no such backend, an argument has no counterpart, or one is missing.
        """
        place = _PLACES.get(kind)
        if place is None:
            raise UsageError(f"there is no backend {kind!a}", hint=f"there are: {', '.join(_PLACES)}")
        taken = (*_TAKEN, *_OF_KIND.get(kind, ()))
        if unknown := sorted(given.keys() - set(taken)):
            raise UsageError(
                f"backend_kwargs[{unknown[0]!r}] has no counterpart for {kind}",
                hint=f"there are: api_key, {', '.join(taken)}; what else an endpoint takes goes into "
                "sampling_args['extra_body']",
            )
        model = given.get("model_name") or given.get("azure_deployment")
        if not isinstance(model, str) or not model:
            raise UsageError("backend_kwargs has no model_name", hint="backend_kwargs={'model_name': …}")
        url = _azure_url(given, model) if kind == "azure_openai" else given.get("base_url") or place.base_url
        if not isinstance(url, str):
            raise UsageError(f"backend_kwargs of {kind} has no base_url", hint="http://localhost:8000/v1")
        name = _key_name(place, provider, url, key, keys)
        table: dict[str, Any] = {
            "kind": place.kind,
            "base_url": url,
            "api_key_env": name,
            "connect_timeout_ms": _CONNECT_TIMEOUT_MS,
            "headers": dict(given["default_headers"]) if given.get("default_headers") else None,
            "api_key_header": place.key_header if name else None,
        }
        if place.kind == "openai":
            own = url == place.base_url or kind == "azure_openai"
            table["output_tokens_field"] = place.output_tokens_field if own else "max_tokens"
        sampling = {**_mapping("sampling_args", given.get("sampling_args"))}
        sampling |= _mapping("sampling_args", sampling_args)
        settings, cap = _settings(place.kind, sampling)
        cap = cap if given.get("max_tokens") is None else given["max_tokens"]
        retries = given.get("max_retries")
        return cls(
            provider,
            model,
            {name: value for name, value in table.items() if value is not None},
            settings,
            None if cap is None else _count("max_tokens of a backend", cap, 1),
            None if given.get("timeout") is None else in_milliseconds("timeout", given["timeout"]),
            None if retries is None else 1 + _count("max_retries", retries, 0),
        )


def in_milliseconds(name: str, seconds: Any) -> int:
    """Return seconds of an argument as whole milliseconds. Raises UsageError."""
    is_number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
    if not is_number or not 0.001 <= seconds <= 86_400:
        raise UsageError(f"{name} is a number of seconds from 0.001 to 86400, not {seconds!r}")
    milliseconds: int = round(seconds * 1_000)
    return milliseconds


def _count(name: str, number: object, least: int) -> int:
    if type(number) is not int or number < least:
        raise UsageError(f"{name} is an int from {least} on, not {number!r}")
    return number


def _mapping(name: str, given: object) -> Mapping[str, Any]:
    if given is not None and not isinstance(given, Mapping):
        raise UsageError(f"{name} is a dict, not a {type(given).__name__}")
    return given or {}


def _settings(kind: str, sampling: Mapping[str, Any]) -> tuple[dict[str, Any], int | None]:
    """Return what goes with each request, and the cap on its tokens, out of what a client would be given."""
    left = {name: value for name, value in sampling.items() if value is not None}
    caps = [left.pop(name) for name in ("max_tokens", "max_completion_tokens") if name in left]
    settings: dict[str, Any] = {}
    for name in ("temperature", "top_p"):
        # A policy has no key for these where the interface has none any more.
        if name in left and kind == "openai":
            settings[name] = left.pop(name)
    if body := {**left, **_mapping("extra_body", left.pop("extra_body", None))}:
        settings["extra_body"] = body
    return settings, caps[0] if caps else None


def _key_name(place: _BackendPlace, provider: str, url: str, key: Secret | None, keys: GivenKeys) -> str:
    """Return the variable that a key is in; "": none is sent."""
    if key is not None:
        name = f"RLM_WASM_COMPAT_{provider.upper()}_KEY"
        keys.keep(name, key)
        return name
    if place.base_url is None:  # a server of one's own
        return place.key if place.key in os.environ else ""
    if url == place.base_url:
        return place.key
    # At another address that library has only the keys of those that it knows there.
    return next((each.key for each in _PLACES.values() if each.base_url == url), "")


def _azure_url(given: Mapping[str, Any], model: str) -> str:
    host = given.get("azure_endpoint") or os.environ.get("AZURE_OPENAI_ENDPOINT")
    if not isinstance(host, str):
        raise UsageError("backend_kwargs of azure_openai has no azure_endpoint")
    version = given.get("api_version") or os.environ.get("AZURE_OPENAI_API_VERSION", _AZURE_VERSION)
    deployment = given.get("azure_deployment") or os.environ.get("AZURE_OPENAI_DEPLOYMENT") or model
    return f"{host.rstrip('/')}/openai/deployments/{deployment}?api-version={version}"

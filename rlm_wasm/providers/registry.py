"""The providers of a policy's models, by name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import httpx

from rlm_wasm.errors import PolicyError, UsageError
from rlm_wasm.policy.model import Policy
from rlm_wasm.providers.base import Provider
from rlm_wasm.providers.openai import OpenAIProvider
from rlm_wasm.providers.script import open_script
from rlm_wasm.providers.secret import Keys

PROVIDER_NAMES: Final = ("openai", "script")


class ProviderSet:
    """The providers of one run, opened when first asked for; models of one endpoint share a client."""

    def __init__(self, policy: Policy, keys: Keys | Mapping[str, str] | None = None) -> None:
        self._policy: Final = policy
        self._keys: Final = keys if isinstance(keys, Keys) else Keys(keys)
        self._open: Final[dict[str, Provider]] = {}

    def get(self, spec: str) -> tuple[Provider, str]:
        """Return the provider of `spec` and the model's name there.

        Raises PolicyError for a model that is not one of `Policy.prices`, and UsageError for an
        unknown provider, a missing key or a broken script. Nothing stays open after an error.
        """
        self._policy.price(spec)
        if spec not in self._policy.prices():
            # A script has a price whatever its path; this is what keeps a guest from naming one.
            raise PolicyError(f"the policy does not name the model {spec!a}")
        kind, name = split_spec(spec)
        shared = kind if kind == "openai" else spec
        if shared not in self._open:
            self._open[shared], name = _open(spec, self._policy, self._keys)
        return self._open[shared], name

    async def aclose(self) -> None:
        """Close everything that was opened; calling it twice is harmless."""
        while self._open:
            _, provider = self._open.popitem()
            await provider.aclose()


def open_provider(
    spec: str, policy: Policy, environ: Mapping[str, str] | None = None
) -> tuple[Provider, str]:
    """Open the provider that `spec` names and return it with the model's name there.

    Raises UsageError that says what is known. The caller closes the provider.
    """
    keys = Keys(environ)
    del environ  # not in this frame when something is raised
    return _open(spec, policy, keys)


def _open(spec: str, policy: Policy, keys: Keys) -> tuple[Provider, str]:
    kind, name = split_spec(spec)
    if kind == "script":
        return open_script(Path(name), response_bytes_max=policy.query.response_bytes_max), name
    return _open_openai(policy, keys), name


def split_spec(spec: str) -> tuple[str, str]:
    """Split ``provider:model``; raise UsageError for another form or an unknown provider."""
    kind, colon, name = spec.partition(":")
    if not kind or not colon or not name:
        raise UsageError(
            f"a model is named provider:model, not {spec!a}",
            hint='for example "openai:gpt-5" or "script:examples/needle/model.toml"',
        )
    if kind not in PROVIDER_NAMES:
        raise UsageError(
            f"unknown provider {kind!a} in the model {spec!a}",
            hint=f"there are: {', '.join(PROVIDER_NAMES)}",
        )
    return kind, name


def _open_openai(policy: Policy, keys: Keys) -> OpenAIProvider:
    endpoint = policy.providers.openai
    if endpoint is None:
        raise UsageError(
            "the policy has no endpoint for openai models", hint="add the table [providers.openai]"
        )
    key = keys.read(endpoint.api_key_env) if endpoint.api_key_env else None
    try:
        return OpenAIProvider(
            endpoint,
            key,
            response_bytes_max=policy.query.response_bytes_max,
            connections_max=policy.permits.provider_max,
        )
    except (httpx.InvalidURL, ValueError) as exc:  # ValueError: a host name that IDNA refuses
        raise UsageError(f"providers.openai.base_url is not a usable URL: {exc}") from exc

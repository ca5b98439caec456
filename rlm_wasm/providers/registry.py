"""The providers of a policy's models, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import httpx

from rlm_wasm.errors import InternalError, PolicyError, UsageError
from rlm_wasm.policy.model import Policy
from rlm_wasm.policy.provider_tables import FILE_KINDS, KINDS, ProviderTable, kind_of
from rlm_wasm.providers.anthropic_format import AnthropicFormat
from rlm_wasm.providers.base import Provider
from rlm_wasm.providers.chat_format import ChatFormat
from rlm_wasm.providers.endpoint import Endpoint
from rlm_wasm.providers.http_provider import HttpProvider
from rlm_wasm.providers.responses_format import ResponsesFormat
from rlm_wasm.providers.script import open_script
from rlm_wasm.providers.secret import Keys
from rlm_wasm.providers.trust import trust_in
from rlm_wasm.providers.wire_format import WireFormat

# From an event log to what answers as it tells. It is read above this part, where logs are known.
OpenRecording = Callable[[Path], Provider]
# From a table of a kind that another package talks to, to what asks that.
OpenLibrary = Callable[[str, ProviderTable, Policy, Keys], Provider]
_WIRE_FORMATS: Final[Mapping[str, Callable[[], WireFormat]]] = {
    "openai": ChatFormat,
    "openai-responses": ResponsesFormat,
    "anthropic": AnthropicFormat,
}


class ProviderSet:
    """The providers of one run, opened when first asked for; models of one provider share it."""

    def __init__(
        self,
        policy: Policy,
        keys: Keys | Mapping[str, str] | None = None,
        open_recording: OpenRecording | None = None,
        libraries: Mapping[str, OpenLibrary] | None = None,
    ) -> None:
        self._policy: Final = policy
        self._keys: Final = keys if isinstance(keys, Keys) else Keys(keys)
        self._open_recording: Final = open_recording
        self._libraries: Final = libraries or {}
        self._open: Final[dict[str, Provider]] = {}

    def get(self, spec: str) -> tuple[Provider, str]:
        """Return the provider of `spec` and the model's name there.

        Raises PolicyError for a model that is not one of `Policy.prices`, and UsageError for an
        unknown provider, a missing key or a broken file. Nothing stays open after an error.
        """
        self._policy.price(spec)
        if spec not in self._policy.prices():
            # A script has a price whatever its path; this is what keeps a guest from naming one.
            raise PolicyError(f"the policy does not name the model {spec!a}")
        name, model = split_spec(spec)
        shared = spec if name in FILE_KINDS else name
        if shared not in self._open:
            self._open[shared], model = _open(
                spec, self._policy, self._keys, self._open_recording, self._libraries
            )
        return self._open[shared], model

    async def aclose(self) -> None:
        """Close everything that was opened; calling it twice is harmless."""
        while self._open:
            _, provider = self._open.popitem()
            await provider.aclose()


def open_provider(
    spec: str,
    policy: Policy,
    environ: Mapping[str, str] | None = None,
    open_recording: OpenRecording | None = None,
) -> tuple[Provider, str]:
    """Open the provider that `spec` names and return it with the model's name there.

    Raises UsageError that says what is known. The caller closes the provider.
    """
    keys = Keys(environ)
    del environ  # not in this frame when something is raised
    return _open(spec, policy, keys, open_recording, {})


def split_spec(spec: str) -> tuple[str, str]:
    """Split ``provider:model``; raise UsageError for another form."""
    name, colon, model = spec.partition(":")
    if not name or not colon or not model:
        raise UsageError(
            f"a model is named provider:model, not {spec!a}",
            hint='for example "openai:gpt-5" or "script:examples/needle/model.toml"',
        )
    return name, model


def _open(
    spec: str,
    policy: Policy,
    keys: Keys,
    open_recording: OpenRecording | None,
    libraries: Mapping[str, OpenLibrary],
) -> tuple[Provider, str]:
    name, model = split_spec(spec)
    if name in FILE_KINDS:
        return _open_file(name, model, policy, open_recording), model
    table = policy.providers.get(name)
    if table is None:
        raise _unknown(name, spec, policy)
    kind = kind_of(name, table)
    if kind is not None and kind in FILE_KINDS and table.file is not None:
        return _open_file(kind, table.file, policy, open_recording), model
    if kind is not None and kind in libraries:
        return libraries[kind](name, table, policy, keys), model
    if kind is None or kind not in _WIRE_FORMATS:
        raise InternalError(f"a policy has a provider of kind {kind}")
    return _open_endpoint(name, table, _WIRE_FORMATS[kind](), policy, keys), model


def _unknown(name: str, spec: str, policy: Policy) -> UsageError:
    known = ", ".join((*policy.providers, *(f"{kind}:FILE" for kind in FILE_KINDS)))
    if name in KINDS:
        return UsageError(
            f"the policy has no endpoint for {name} models", hint=f"add the table [providers.{name}]"
        )
    return UsageError(f"unknown provider {name!a} in the model {spec!a}", hint=f"there are: {known}")


def _open_file(kind: str, file: str, policy: Policy, open_recording: OpenRecording | None) -> Provider:
    if kind == "script":
        return open_script(Path(file), response_bytes_max=policy.query.response_bytes_max)
    if open_recording is None:
        raise UsageError("recordings cannot be read here", hint="use a Runtime, which can")
    return open_recording(Path(file))


def _open_endpoint(
    name: str, table: ProviderTable, wire: WireFormat, policy: Policy, keys: Keys
) -> HttpProvider:
    trust = trust_in(table.ca_file, f"providers.{name}.ca_file", keys.certificates())
    key = keys.read(table.api_key_env, name) if table.api_key_env else None
    try:
        return HttpProvider(
            Endpoint.of(name, table, policy),
            wire,
            key,
            response_bytes_max=policy.query.response_bytes_max,
            connections_max=policy.permits.provider_max,
            trust=trust,
        )
    except (httpx.InvalidURL, ValueError) as exc:  # ValueError: a host name that IDNA refuses
        raise UsageError(f"providers.{name}.base_url is not a usable URL: {exc}") from exc

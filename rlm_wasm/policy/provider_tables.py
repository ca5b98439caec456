"""The tables [providers.NAME] and [models.settings]: who answers, where, and what goes with each request."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, TypeAlias, get_args

from rlm_wasm.limits import Milliseconds
from rlm_wasm.policy.free_values import check_extra_body, fraction_to
from rlm_wasm.policy.marks import CheckedBy, Entries, Text

Kind: TypeAlias = Literal["openai", "openai-responses", "anthropic", "litellm", "script", "replay"]
KINDS: Final[tuple[str, ...]] = get_args(Kind)
# The kinds that answer from a file. ``script:FILE`` and ``replay:FILE`` need no table.
FILE_KINDS: Final = ("script", "replay")

ProviderName: TypeAlias = Annotated[str, Text(r"^[a-z][a-z0-9_-]{0,31}$")]
# Empty means that no key is sent.
EnvName: TypeAlias = Annotated[str, Text(r"^([A-Za-z_][A-Za-z0-9_]{0,127})?$")]
Url: TypeAlias = Annotated[str, Text(most=2048)]
FileName: TypeAlias = Annotated[str, Text(r"^[^\x00-\x1f\x7f]+$", most=1024)]
HeaderName: TypeAlias = Annotated[str, Text(r"^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}$")]
HeaderText: TypeAlias = Annotated[str, Text(r"^[!-~]([ -~]{0,1022}[!-~])?$")]


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestSettings:
    """What goes with each request of a provider or of one model. A model's own go before its provider's."""

    headers: Annotated[Mapping[HeaderName, HeaderText], Entries(32)] | None = None
    extra_body: Annotated[Mapping[str, Any], CheckedBy(check_extra_body)] | None = None
    temperature: Annotated[float, CheckedBy(fraction_to(2))] | None = None
    top_p: Annotated[float, CheckedBy(fraction_to(1))] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderTable(RequestSettings):
    """One provider. Which keys it has depends on its kind, which is its name's where none is given.

    `api_key_env` is a variable's name; empty: no key is sent. `api_key_header` is where the key goes, where
    that is not where its kind has it. `roles` says what the endpoint's chat template takes. alternating:
    messages of one role that follow each other are one; no_system: so they are, and the system's words begin
    the user's; as_given: one message for each.
    """

    kind: Kind | None = None
    base_url: Url | None = None
    api_key_env: EnvName | None = None
    api_key_header: HeaderName | None = None
    connect_timeout_ms: Milliseconds | None = None
    output_tokens_field: Literal["max_completion_tokens", "max_tokens"] | None = None
    roles: Literal["alternating", "no_system", "as_given"] | None = None
    # The one way by which a proxy is used. Empty: none is.
    proxy: Url | None = None
    # The certificates that are trusted in the place of the usual ones.
    ca_file: FileName | None = None
    # Of a script or a recording.
    file: FileName | None = None


_ENDPOINT: Final = ("base_url", "api_key_env", "connect_timeout_ms")
_MAY_HAVE: Final = ("api_key_header", "proxy", "ca_file", "headers", "extra_body")
# What Anthropic's interface no longer has; an endpoint that still takes it has it in its extra_body.
SAMPLING: Final = ("temperature", "top_p")
# By kind: the keys that a table must have, and those that it may.
KEYS_OF: Final[Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]]] = {
    "openai": ((*_ENDPOINT, "output_tokens_field"), (*_MAY_HAVE, *SAMPLING, "roles")),
    "openai-responses": (_ENDPOINT, (*_MAY_HAVE, *SAMPLING, "roles")),
    "anthropic": (_ENDPOINT, _MAY_HAVE),
    "litellm": ((), ("base_url", "api_key_env", "headers", "extra_body", *SAMPLING, "roles")),
    "script": (("file",), ()),
    "replay": (("file",), ()),
}


def kind_of(name: str, table: ProviderTable) -> str | None:
    """Return the kind of a provider; None: it has none, and its name is not that of one."""
    return table.kind or (name if name in KINDS else None)


def kind_behind(spec: str, providers: Mapping[str, ProviderTable]) -> str | None:
    """Return the kind of the provider of a model; None: there is none, or it has no kind."""
    name = spec.partition(":")[0]
    if name in FILE_KINDS:
        return name
    table = providers.get(name)
    return None if table is None else kind_of(name, table)

"""An endpoint as its table and its model's settings describe it, with what they leave out filled in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Self
from urllib.parse import urlsplit, urlunsplit

from rlm_wasm.policy.model import Policy
from rlm_wasm.policy.provider_tables import ProviderTable, RequestSettings
from rlm_wasm.policy.tables import as_data

Roles = Literal["alternating", "no_system", "as_given"]
_NO_SETTINGS: Final = RequestSettings()


@dataclass(frozen=True, slots=True)
class SentAlong:
    """What goes with each request of one model: headers, and members of its body."""

    headers: Mapping[str, str] = field(default_factory=dict)
    members: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, *settings: RequestSettings) -> Self:
        """Return what settings come to, the later ones before the earlier ones."""
        headers: dict[str, str] = {}
        members: dict[str, Any] = {}
        for each in settings:
            members |= as_data(each.extra_body) or {}
            stated = {"temperature": each.temperature, "top_p": each.top_p}
            members |= {name: value for name, value in stated.items() if value is not None}
            headers |= {name.lower(): text for name, text in (each.headers or {}).items()}
        return cls(headers, members)


def sent_along_of(name: str, table: ProviderTable, policy: Policy) -> tuple[SentAlong, dict[str, SentAlong]]:
    """Return what goes with each request to a provider, and what to those of its models that have more."""
    settings = policy.models.settings or {}
    own = {
        spec.partition(":")[2]: SentAlong.of(table, given)
        for spec, given in settings.items()
        if spec.partition(":")[0] == name
    }
    return SentAlong.of(table), own


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where requests go and what they look like. `api_key_header` is None where the kind's own is meant."""

    base_url: str
    connect_timeout_ms: int
    api_key_header: str | None = None
    output_tokens_field: str = "max_tokens"
    roles: Roles = "alternating"
    proxy: str | None = None
    # Of every model, and of those that have more.
    along: SentAlong = field(default_factory=SentAlong)
    along_of: Mapping[str, SentAlong] = field(default_factory=dict)

    @classmethod
    def of(cls, name: str, table: ProviderTable, policy: Policy) -> Self:
        """Return the endpoint of the provider `name`, whose table has all keys that its kind needs."""
        if table.base_url is None or table.connect_timeout_ms is None:
            raise AssertionError("a policy without these keys is none")
        along, own = sent_along_of(name, table, policy)
        return cls(
            base_url=table.base_url,
            connect_timeout_ms=table.connect_timeout_ms,
            api_key_header=table.api_key_header,
            output_tokens_field=table.output_tokens_field or "max_tokens",
            roles=table.roles or "alternating",
            proxy=table.proxy or None,
            along=along,
            along_of=own,
        )

    def url(self, path: str) -> str:
        """Return the one URL that requests go to: a path below the base, before its query."""
        parts = urlsplit(self.base_url)
        return urlunsplit(parts._replace(path=parts.path.rstrip("/") + path))

    def sent_along(self, model: str) -> SentAlong:
        """Return what goes with each request of a model."""
        return self.along_of.get(model, self.along)

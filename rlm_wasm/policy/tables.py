"""The tables of a policy file in its order, and what of them is no number: models, URLs, names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Annotated, Any, Literal, TypeAlias

from rlm_wasm.limits import (
    BoundaryLimits,
    BudgetLimits,
    CellLimits,
    EventLimits,
    Milliseconds,
    ModelPrice,
    ObservationLimits,
    PermitCaps,
    QueryLimits,
    RunLimits,
    SandboxLimits,
    SmallCount,
    TenantLimits,
    WorkerLimits,
)
from rlm_wasm.policy.lockdown import check_lockdown


@dataclass(frozen=True, slots=True)
class Text:
    """What a text may be: how long, and of which form."""

    pattern: str | None = None
    least: int | None = None
    most: int | None = None


@dataclass(frozen=True, slots=True)
class Entries:
    """How many entries an array or a table of free keys may have."""

    most: int
    least: int = 0


@dataclass(frozen=True, slots=True)
class CheckedBy:
    """What a value may be that takes more than bounds to say."""

    check: Callable[[Any], Any]


ModelSpec: TypeAlias = Annotated[
    str, Text(r"^[a-z][a-z0-9_-]{0,31}:[^\x00-\x20\x7f][^\x00-\x1f\x7f]{0,511}$")
]
TenantName: TypeAlias = Annotated[str, Text(least=1, most=256)]
# Empty means that no key is sent.
EnvName: TypeAlias = Annotated[str, Text(r"^([A-Za-z_][A-Za-z0-9_]{0,127})?$")]
Url: TypeAlias = Annotated[str, Text(most=2048)]
Lockdown: TypeAlias = Annotated[str | tuple[str, ...], CheckedBy(check_lockdown)]


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxTable(SandboxLimits):
    """What a session is and what it is granted."""

    lockdown: Lockdown | None = None
    # Of the key that saved snapshots are encrypted with; empty: the caller gives it each time.
    snapshot_key_env: EnvName


@dataclass(frozen=True, slots=True)
class PermitsTable(PermitCaps):
    """The slots for provider I/O, and tenants' weights."""

    weights: Annotated[Mapping[TenantName, SmallCount], Entries(1_024)]


@dataclass(frozen=True, slots=True)
class ObservationTable(ObservationLimits):
    """What goes back to the model, and how its replies are read."""

    dialect: Literal["answer", "final", "both"]
    lenient_fences: bool


@dataclass(frozen=True, slots=True)
class ModelsTable:
    """Which models answer, and what each costs. A model that is not here cannot be asked."""

    root: ModelSpec
    sub: ModelSpec
    child: Annotated[tuple[ModelSpec, ...], Entries(16, least=1)]
    prices: Annotated[Mapping[ModelSpec, ModelPrice], Entries(256)]


@dataclass(frozen=True, slots=True)
class OpenAITable:
    """One OpenAI-compatible endpoint. `api_key_env` is a variable's name; empty: no key is sent.

    `roles` says what its chat template takes. alternating: messages of one role that follow each other are
    one; no_system: so they are, and the system's words begin the user's; as_given: one message for each.
    """

    base_url: Url
    api_key_env: EnvName
    connect_timeout_ms: Milliseconds
    output_tokens_field: Literal["max_completion_tokens", "max_tokens"]
    roles: Literal["alternating", "no_system", "as_given"] = "alternating"
    # The one way by which a proxy is used. Empty: none is.
    proxy: Url = ""


@dataclass(frozen=True, slots=True)
class ProvidersTable:
    """The endpoints that the models need. Absent: that provider cannot be used."""

    openai: OpenAITable | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Tables:
    """The whole file. Every key of every table is required unless it has a default here."""

    sandbox: SandboxTable
    workers: WorkerLimits
    tenants: TenantLimits | None = None
    cell: CellLimits
    run: RunLimits
    budget: BudgetLimits
    permits: PermitsTable
    boundary: BoundaryLimits
    observation: ObservationTable
    query: QueryLimits
    events: EventLimits
    models: ModelsTable
    providers: ProvidersTable = ProvidersTable()


def as_data(value: Any) -> Any:
    """Return tables as a parser of the file would: dicts in the order of the file, without what is absent."""
    if is_dataclass(value):
        entries = ((field.name, as_data(getattr(value, field.name))) for field in fields(value))
        return {name: entry for name, entry in entries if entry is not None}
    if isinstance(value, Mapping):
        return {name: as_data(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [as_data(entry) for entry in value]
    return value


def changed(table: object, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the data of a table with other values for some keys; a table in it is changed likewise."""
    data: dict[str, Any] = as_data(table)
    for key, given in changes.items():
        part = getattr(table, key, None) if key in data else None
        data[key] = (
            changed(part, given) if is_dataclass(part) and isinstance(given, Mapping) else as_data(given)
        )
    return data

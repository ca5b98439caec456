"""The tables of a policy file in its order, and what of them is no number: models, URLs, names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Annotated, Any, Final, Literal, TypeAlias

from rlm_wasm.guidance import Example, Guidance
from rlm_wasm.limits import (
    BASE_IMAGE,
    IMAGE_NAME,
    MIB,
    BoundaryLimits,
    BudgetLimits,
    Bytes64M,
    CacheLimits,
    CellLimits,
    EventLimits,
    GuidanceLimits,
    InputLimits,
    McpLimits,
    ModelPrice,
    ObservationLimits,
    PermitCaps,
    QueryLimits,
    RunLimits,
    SandboxLimits,
    SmallCount,
    TenantLimits,
    ToolCaps,
    ToolLimits,
    WindowTokens,
    WorkerLimits,
)
from rlm_wasm.policy.lockdown import check_lockdown
from rlm_wasm.policy.marks import CheckedBy, Entries, Text
from rlm_wasm.policy.provider_tables import EnvName, ProviderName, ProviderTable, RequestSettings, Url

ModelSpec: TypeAlias = Annotated[
    str, Text(r"^[a-z][a-z0-9_-]{0,31}:[^\x00-\x20\x7f][^\x00-\x1f\x7f]{0,511}$")
]
Fallbacks: TypeAlias = Annotated[tuple[ModelSpec, ...], Entries(4, least=1)]
TenantName: TypeAlias = Annotated[str, Text(least=1, most=256)]
# A name that code can call, or any.
ToolName: TypeAlias = Annotated[str, Text(r"^[A-Za-z][A-Za-z0-9_]{0,63}$")]
AllowedTool: TypeAlias = Annotated[str, Text(r"^(\*|[A-Za-z][A-Za-z0-9_]{0,63})$")]
AllowedTools: TypeAlias = Annotated[tuple[AllowedTool, ...], Entries(256)]
ExampleName: TypeAlias = Annotated[str, Text(r"^[A-Za-z0-9_-]{1,64}$")]
# Whatever is text: no controls but tab and the ends of lines.
_TEXT: Final = r"^[^\x00-\x08\x0b\x0c\x0e-\x1f\x7f]*$"
OwnWords: TypeAlias = Annotated[str, Text(_TEXT, least=1, most=MIB)]
ImageName: TypeAlias = Annotated[str, Text(f"^{IMAGE_NAME}$")]
Lockdown: TypeAlias = Annotated[str | tuple[str, ...], CheckedBy(check_lockdown)]


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxTable(SandboxLimits):
    """What a session is and what it is granted."""

    lockdown: Lockdown | None = None
    image: ImageName = BASE_IMAGE
    # Of the key that saved snapshots are encrypted with; empty: the caller gives it each time.
    snapshot_key_env: EnvName


@dataclass(frozen=True, slots=True)
class PermitsTable(PermitCaps):
    """The slots for provider I/O, and tenants' weights."""

    weights: Annotated[Mapping[TenantName, SmallCount], Entries(1_024)]


@dataclass(frozen=True, slots=True)
class ToolsTable(ToolLimits):
    """Which of the host's functions code may call. Absent: none.

    `allow` names those that a tenant may have who is not in `tenants`; "*" is any that the host gives.
    """

    allow: AllowedTools
    tenants: Annotated[Mapping[TenantName, AllowedTools], Entries(1_024)] | None = None
    caps: Annotated[Mapping[ToolName, ToolCaps], Entries(256)] | None = None


@dataclass(frozen=True, slots=True)
class ObservationTable(ObservationLimits):
    """What goes back to the model, and how its replies are read."""

    dialect: Literal["answer", "final", "both"]
    lenient_fences: bool


@dataclass(frozen=True, slots=True)
class ExampleTable:
    """A question about other material, and a reply to it as a model should write one."""

    question: OwnWords
    reply: OwnWords


@dataclass(frozen=True, slots=True)
class GuidanceTable(GuidanceLimits):
    """What is said to the root's model beside the system prompt, and what it is shown. Absent: nothing.

    `children`: whether the models of child runs are told too.
    """

    children: bool
    instructions: Annotated[str, Text(_TEXT, most=MIB)] = ""
    examples: Annotated[Mapping[ExampleName, ExampleTable], Entries(256)] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CacheTable(CacheLimits):
    """Which answers of models are given again to who asks exactly the same. Absent: none.

    `file` is a database that outlives the process; empty: memory. `sampled`: whether answers are kept that
    chance decided too, which are those of a model without `temperature = 0`.
    """

    file: Annotated[str, Text(r"^[^\x00-\x1f\x7f]*$", most=1024)]
    sampled: bool


@dataclass(frozen=True, slots=True)
class PriceTable(ModelPrice):
    """A price and where it is from; absent: whoever wrote the policy.

    One that was found holds for one `endpoint`, and so does the model's window that was found with it.
    """

    source: Annotated[str, Text(least=1, most=200)] | None = None
    endpoint: Url | None = None
    window_tokens: WindowTokens | None = None


@dataclass(frozen=True, slots=True)
class ModelsTable:
    """Which models answer, and what each costs. A model that is not here cannot be asked.

    A model that answers and has no price here has one where `policy.pricing` finds it.
    """

    root: ModelSpec
    sub: ModelSpec
    child: Annotated[tuple[ModelSpec, ...], Entries(16, least=1)]
    prices: Annotated[Mapping[ModelSpec, PriceTable], Entries(256)]
    # Who is asked in the place of a model that fails or is at its limit, in this order.
    fallback: Annotated[Mapping[ModelSpec, Fallbacks], Entries(64)] | None = None
    # Who answers prompts of up to so many bytes in the place of `sub`, where code names no model.
    sub_up_to_bytes: Annotated[Mapping[ModelSpec, Bytes64M], Entries(16)] | None = None
    # What goes with the requests of one model, beside what its provider's table says.
    settings: Annotated[Mapping[ModelSpec, RequestSettings], Entries(256)] | None = None
    # What a model holds, messages and answer together; of any model, also one that is not asked. Absent: what
    # the list says, or its endpoint.
    windows: Annotated[Mapping[ModelSpec, WindowTokens], Entries(256)] | None = None

    @property
    def asked(self) -> tuple[str, ...]:
        """Every model that a run may ask without its code naming one, each once."""
        others = (spec for specs in (self.fallback or {}).values() for spec in specs)
        return tuple(
            dict.fromkeys((self.root, self.sub, *self.child, *others, *(self.sub_up_to_bytes or ())))
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Tables:
    """The whole file. Every key of every table is required unless it has a default here."""

    sandbox: SandboxTable
    inputs: InputLimits | None = None
    workers: WorkerLimits
    tenants: TenantLimits | None = None
    cell: CellLimits
    run: RunLimits
    budget: BudgetLimits
    permits: PermitsTable
    boundary: BoundaryLimits
    tools: ToolsTable | None = None
    mcp: McpLimits | None = None
    observation: ObservationTable
    guidance: GuidanceTable | None = None
    query: QueryLimits
    cache: CacheTable | None = None
    events: EventLimits
    models: ModelsTable
    # The endpoints that the models need, by their names. Absent: that provider cannot be used.
    providers: Annotated[Mapping[ProviderName, ProviderTable], Entries(32)] = field(default_factory=dict)


def guidance_of(table: GuidanceTable) -> Guidance:
    """Return the instructions and examples of a table."""
    examples = (Example(each.question, each.reply) for each in table.examples.values())
    return Guidance(table.instructions, tuple(examples))


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
        if is_dataclass(part) and isinstance(given, Mapping):
            data[key] = changed(part, given)
        elif key == "providers" and isinstance(part, Mapping) and isinstance(given, Mapping):
            data[key] = _changed_providers(part, given)
        else:
            data[key] = as_data(given)
    return data


def _changed_providers(
    providers: Mapping[str, ProviderTable], changes: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """Return providers with others added, some taken out, and some changed by their keys."""
    data: dict[str, Any] = as_data(providers)
    for name, given in changes.items():
        if given is None:
            data.pop(name, None)
        elif name in providers and isinstance(given, Mapping):
            new = changed(providers[name], given)
            data[name] = {key: value for key, value in new.items() if value is not None}
        else:
            data[name] = as_data(given)
    return data

"""The tables of a policy file, one class each: every key required unless it says so, none else accepted."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from rlm_wasm.policy import fields as f
from rlm_wasm.policy.lockdown import Lockdown


class Section(BaseModel):
    """A table of the file. Strict: no coercion, no defaults, no unknown keys, no later change."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, hide_input_in_errors=True, defer_build=True
    )


class SandboxSection(Section):
    """What a session is and what it is granted."""

    isolation: Literal["inline", "shared", "tenant", "session"]
    require_lockdown: f.Flag
    # Which layers that means; absent: all.
    lockdown: Lockdown | None = None
    memory_bytes_max: f.Bytes4G
    context_bytes_max: f.Bytes4G
    # A promise rather than a limit: `policy.rules` holds the memory against it.
    whole_context_chars_max: f.BytesOrNone4G
    checkpoint_bytes_max: f.BytesOrNone4G
    clock: Literal["virtual", "real"]
    entropy: Literal["seeded", "fresh"]
    seed: f.Seed
    # Of the key that saved images are encrypted with; empty: the caller gives it each time.
    image_key_env: f.EnvName


class WorkersSection(Section):
    """The worker processes; the fields of `limits.WorkerLimits`. Unused with "inline"."""

    workers_max: f.SmallCount
    zygotes_max: Annotated[int, Field(gt=0, le=256)]
    sessions_max: f.Count
    sessions_per_worker_max: f.SmallCount
    worker_age_ms_max: f.Milliseconds
    worker_sessions_total_max: f.Count
    worker_memory_bytes_max: f.Bytes16T
    worker_cpu_seconds_max: Annotated[int, Field(gt=0, le=7 * 24 * 3600)]
    memory_bytes_max: f.Bytes16T
    pressure_permille_max: Annotated[int, Field(gt=0, le=1000)]
    heartbeat_ms: Annotated[int, Field(ge=10, le=60_000)]
    hang_ms_max: Annotated[int, Field(ge=100, le=600_000)]
    unsent_bytes_max: f.Bytes4G


class TenantsSection(Section):
    """What one tenant may have of what all share; the fields of `limits.TenantLimits`.

    Absent: one may have everything, for whoever has no other.
    """

    share_percent: f.Percent
    cells_max: f.SmallCount
    runs_max: f.Count


class CellSection(Section):
    """One execution; the fields of `limits.CellLimits`."""

    fuel_max: f.Fuel
    wall_ms_max: f.Milliseconds
    stdout_bytes_max: f.Bytes256M
    stderr_bytes_max: f.Bytes256M
    result_bytes_max: f.Bytes64M
    source_bytes_max: f.Bytes64M
    requests_max: f.Count
    sleep_ms_max: f.Milliseconds


class RunSection(Section):
    """What bounds a run without being used up; the fields of `limits.RunLimits`."""

    wall_ms_max: f.Milliseconds
    turns_max: f.SmallCount
    depth_max: f.Depth
    fanout_max: f.SmallCount
    sessions_max: f.SmallCount
    child_wall_ms_max: f.Milliseconds
    child_share_percent: f.Percent
    permits_max: f.SmallCount
    # run_started, run_ended and what a single query needs must fit.
    events_max: Annotated[int, Field(ge=16, le=10_000_000)]


class BudgetSection(Section):
    """What a whole run may use up; the fields of `limits.BudgetLimits`."""

    calls_max: f.Count
    requests_max: f.Count
    input_tokens_max: f.Tokens
    output_tokens_max: f.Tokens
    cost_microdollars_max: f.Microdollars
    iterations_max: f.SmallCount
    fuel_max: f.Fuel
    children_max: f.CountOrNone
    observation_bytes_max: f.Tokens


class PermitsSection(Section):
    """The pool of slots for provider I/O; the fields of `limits.PermitLimits`, and tenants' weights."""

    total_max: f.SmallCount
    provider_max: f.SmallCount
    model_max: f.SmallCount
    adaptive_min: f.SmallCount
    recover_ms: f.Milliseconds
    weights: dict[f.TenantName, f.SmallCount] = Field(max_length=1_024)


class BoundarySection(Section):
    """What one request frame and its response may be; the fields of `limits.BoundaryLimits`."""

    frame_bytes_max: f.Bytes64M
    control_frame_bytes_max: f.Bytes64M
    prompt_bytes_max: f.Bytes64M
    response_bytes_max: f.Bytes64M
    batch_items_max: f.SmallCount
    nesting_max: f.Nesting
    host_wait_ms_max: f.Milliseconds


class ObservationSection(Section):
    """What goes back to the model, and how its replies are read."""

    bytes_max: f.Bytes64M
    variables_max: f.SmallCount
    dialect: Literal["answer", "final", "both"]
    lenient_fences: f.Flag


class QuerySection(Section):
    """One query to a provider; the fields of `limits.QueryLimits`."""

    timeout_ms_max: f.Milliseconds
    attempts_max: f.Attempts
    backoff_ms_first: f.Milliseconds
    backoff_ms_max: f.Milliseconds
    input_overhead_tokens: Annotated[int, Field(ge=0, le=1_000_000)]
    output_tokens_max: Annotated[int, Field(gt=0, le=10_000_000)]
    response_bytes_max: f.Bytes64M
    batch: Literal["all", "part"]


class EventsSection(Section):
    """What events may hold, and what is kept of them for a reader that is slower than its run."""

    texts: f.Flag
    buffer_events_max: Annotated[int, Field(ge=2, le=1_000_000)]
    when_full: Literal["drop", "spill"]
    spill_bytes_max: f.Bytes4G


class PriceSection(Section):
    """One model's price; the fields of `limits.ModelPrice`."""

    input_microdollars_per_mtok: f.Microdollars
    output_microdollars_per_mtok: f.Microdollars


class ModelsSection(Section):
    """Which models answer, and what each costs. A model that is not here cannot be asked."""

    root: f.ModelSpec
    sub: f.ModelSpec
    child: list[f.ModelSpec] = Field(min_length=1, max_length=16)
    prices: dict[f.ModelSpec, PriceSection] = Field(max_length=256)


class OpenAISection(Section):
    """One OpenAI-compatible endpoint. `api_key_env` is a variable's name; empty: no key is sent."""

    base_url: f.Url
    api_key_env: f.EnvName
    connect_timeout_ms: f.Milliseconds
    output_tokens_field: Literal["max_completion_tokens", "max_tokens"]


class ProvidersSection(Section):
    """The endpoints that the models need. Absent: that provider cannot be used."""

    openai: OpenAISection | None = None

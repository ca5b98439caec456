"""The limits that the pure core works with: plain frozen integers, unit and bound in each name.

`policy/` builds these from the operator's file and is the only place that reads one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal


@dataclass(frozen=True, slots=True)
class CellLimits:
    """Limits of one execution in a session. `wall_ms_max` counts execution, not waits for the host."""

    fuel_max: int
    wall_ms_max: int
    stdout_bytes_max: int
    stderr_bytes_max: int
    result_bytes_max: int
    source_bytes_max: int
    requests_max: int
    sleep_ms_max: int


@dataclass(frozen=True, slots=True)
class SessionLimits:
    """Limits and grants of one session, whatever cell runs in it."""

    memory_bytes_max: int
    context_bytes_max: int
    # What the state kept before each cell may take, to go back to if the cell ends the guest; 0: none.
    checkpoint_bytes_max: int
    clock: Literal["virtual", "real"]
    entropy: Literal["seeded", "fresh"]
    seed: int
    # Which stream of the seed: sessions of one stream see the same bytes. 0: the worker numbers them.
    stream: int = 0


@dataclass(frozen=True, slots=True)
class WorkerLimits:
    """Limits of the worker processes, all together and each."""

    workers_max: int
    # One for each tenant where tenants do not share, the one least used out first.
    zygotes_max: int
    sessions_max: int
    sessions_per_worker_max: int
    # A worker past one of these takes no session any more and ends after its last.
    worker_age_ms_max: int
    worker_sessions_total_max: int
    worker_memory_bytes_max: int
    worker_cpu_seconds_max: int
    # What all workers may hold, and how long of 1,000 ms tasks may wait for memory; beyond, no new session.
    memory_bytes_max: int
    pressure_permille_max: int
    # A worker that owes a sign of life this long, in time or in CPU time of its own, is ended.
    heartbeat_ms: int
    hang_ms_max: int
    unsent_bytes_max: int


@dataclass(frozen=True, slots=True)
class TenantLimits:
    """What one tenant may have at one moment. `share_percent` is of all sessions, workers, permits, memory.

    `cells_max` counts cells that compute; one that waits for its host does not.
    """

    share_percent: int
    cells_max: int
    runs_max: int

    def share_of(self, total: int) -> int:
        """Return what one tenant may have of so many; it may always have one."""
        return max(1, -(-total * self.share_percent // 100))


# One tenant may have all that there is.
NO_TENANT_LIMITS: Final = TenantLimits(share_percent=100, cells_max=10_000_000, runs_max=10_000_000)


@dataclass(frozen=True, slots=True)
class BoundaryLimits:
    """What one request frame may be, and what all answers in the response to it."""

    frame_bytes_max: int
    control_frame_bytes_max: int
    prompt_bytes_max: int
    response_bytes_max: int
    batch_items_max: int
    nesting_max: int
    host_wait_ms_max: int


@dataclass(frozen=True, slots=True)
class ObservationLimits:
    """What goes back to the model after a cell."""

    bytes_max: int
    variables_max: int


@dataclass(frozen=True, slots=True)
class BudgetLimits:
    """What a whole run may use up, over every depth. Fields are the ledger's dimensions."""

    calls_max: int
    requests_max: int
    input_tokens_max: int
    output_tokens_max: int
    cost_microdollars_max: int
    iterations_max: int
    fuel_max: int
    children_max: int
    observation_bytes_max: int


@dataclass(frozen=True, slots=True)
class RunLimits:
    """Limits of a run that are not used up but bound it.

    `sessions_max` counts the sessions of the whole tree at one moment, `fanout_max` the children of
    one cell. A child may use `child_share_percent` of what is left when it starts.
    """

    wall_ms_max: int
    turns_max: int
    depth_max: int
    fanout_max: int
    sessions_max: int
    child_wall_ms_max: int
    child_share_percent: int
    permits_max: int
    events_max: int


@dataclass(frozen=True, slots=True)
class PermitLimits:
    """The pool of slots for provider I/O, over every run of the process; `tenant_max` of them for one tenant.

    A provider that answers "too many requests" has its slots halved, down to `adaptive_min`, and gets
    one back for each `recover_ms`, or sooner as it answers.
    """

    total_max: int
    tenant_max: int
    provider_max: int
    model_max: int
    adaptive_min: int
    recover_ms: int


@dataclass(frozen=True, slots=True)
class StreamLimits:
    """What is kept for a reader that is slower than its run: memory, then a file, or a gap at once."""

    buffer_events_max: int
    when_full: Literal["drop", "spill"]
    spill_bytes_max: int


@dataclass(frozen=True, slots=True)
class QueryLimits:
    """Limits of one query to a provider. `attempts_max` counts the first try.

    `batch` says what becomes of a batch that the budget covers in part: "all" refuses it whole,
    "part" its last items.
    """

    timeout_ms_max: int
    attempts_max: int
    backoff_ms_first: int
    backoff_ms_max: int
    input_overhead_tokens: int
    output_tokens_max: int
    response_bytes_max: int
    batch: Literal["all", "part"]


@dataclass(frozen=True, slots=True)
class ModelPrice:
    """What a model costs, in micro-dollars for a million tokens."""

    input_microdollars_per_mtok: int
    output_microdollars_per_mtok: int

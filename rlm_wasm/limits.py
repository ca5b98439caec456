"""Every limit, defined once: a field of the class of its table, whose type has its floor and its ceiling.

To add a limit:

1. Add a field to the class of its table below: noun, unit and bound in its name, and a type from the list
   of units, or a `Range` of its own. What accepts it, what refuses it and with which words, `policy show`
   and the event that lists a run's limits are made from that field.
2. Give it a value in `policies/strict.toml` and `policies/standard.toml`, each with a comment on that number;
   `just docs` writes the third.
3. If it must fit another limit, add the two keys to the table in `policy/rules.py`.
4. Read it where it counts: the code is handed the class, as plain frozen numbers.

A grant is added likewise, with a type of its own. A table with keys that only the host reads, of texts and
names, is completed in `policy/tables.py`. Two classes are no tables: `SessionLimits` is what of
`SandboxLimits` a worker is told, and `PermitLimits` has a number that two tables make together. A new
dimension of the budget also gets its name in `scheduler/ledger.py`; what a guest may ask for and the events
follow from that.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, TypeAlias, TypeVar, get_type_hints

KIB: Final = 1024
MIB: Final = 1024 * KIB
GIB: Final = 1024 * MIB

# 32-bit WebAssembly addresses 4 GiB; the last 64 KiB page stays out so that sizes fit 32 bits.
WASM_MEMORY_BYTES: Final = 4 * GIB - 64 * KIB
DAY_MS: Final = 24 * 60 * 60 * 1000

# The image without packages, and what the name of any other looks like.
BASE_IMAGE: Final = "base"
IMAGE_NAME: Final = r"[a-z][a-z0-9_-]{0,63}"

Table = TypeVar("Table")


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """The numbers that a field may hold: above `gt` or from `ge`, below `lt` or up to `le`.

    A ceiling is not a recommendation: it catches a slipped digit, and it keeps sums of limits far inside
    64 bits. Every limit is an integer and finite, so `inf` and `nan` have nowhere to go.
    """

    gt: int | None = None
    ge: int | None = None
    lt: int | None = None
    le: int | None = None

    def __post_init__(self) -> None:
        if (self.gt is None) == (self.ge is None) or (self.lt is None) == (self.le is None):
            raise ValueError("a range has one floor and one ceiling")

    @property
    def most(self) -> int:
        """The highest number in it."""
        if self.le is not None:
            return self.le
        assert self.lt is not None
        return self.lt - 1


def ceilings(table: type) -> dict[str, int]:
    """Return the highest number that each field can hold, for whoever has to take any policy's."""
    hints = get_type_hints(table, include_extras=True).items()
    marks = [(key, mark) for key, hint in hints for mark in getattr(hint, "__metadata__", ())]
    return {key: mark.most for key, mark in marks if isinstance(mark, Range)}


def nothing_but(table: type[Table], **given: Any) -> Table:
    """Return limits of a session of our own, which no policy bounds: what is given, of all else nothing."""
    return table(**{key: 0 for key, kind in get_type_hints(table).items() if kind is int} | given)


Bytes16T: TypeAlias = Annotated[int, Range(gt=0, le=16 * 1024 * GIB)]
Bytes4G: TypeAlias = Annotated[int, Range(gt=0, le=WASM_MEMORY_BYTES)]
BytesOrNone4G: TypeAlias = Annotated[int, Range(ge=0, le=WASM_MEMORY_BYTES)]
Bytes256M: TypeAlias = Annotated[int, Range(gt=0, le=256 * MIB)]
Bytes64M: TypeAlias = Annotated[int, Range(gt=0, le=64 * MIB)]
GuidanceBytes: TypeAlias = Annotated[int, Range(ge=0, le=MIB)]
Milliseconds: TypeAlias = Annotated[int, Range(gt=0, le=DAY_MS)]
Fuel: TypeAlias = Annotated[int, Range(gt=0, le=10**16)]
Tokens: TypeAlias = Annotated[int, Range(gt=0, le=10**12)]
# 0 is a real price and a real budget: models that cost nothing, and runs that may cost nothing.
Microdollars: TypeAlias = Annotated[int, Range(ge=0, le=10**12)]
Count: TypeAlias = Annotated[int, Range(gt=0, le=10_000_000)]
SmallCount: TypeAlias = Annotated[int, Range(gt=0, le=10_000)]
CountOrNone: TypeAlias = Annotated[int, Range(ge=0, le=10_000_000)]
Percent: TypeAlias = Annotated[int, Range(gt=0, le=100)]
WindowTokens: TypeAlias = Annotated[int, Range(ge=256, le=100_000_000)]
# Half of a budget is the most that can wait for its last question.
ReservePercent: TypeAlias = Annotated[int, Range(ge=0, le=50)]
Attempts: TypeAlias = Annotated[int, Range(gt=0, le=20)]
# 0 means no child runs at all.
Depth: TypeAlias = Annotated[int, Range(ge=0, le=16)]
Nesting: TypeAlias = Annotated[int, Range(gt=0, le=64)]
Seed: TypeAlias = Annotated[int, Range(ge=0, lt=2**63)]


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxLimits:
    """The table [sandbox]: what a session is and what it is granted."""

    isolation: Literal["inline", "shared", "tenant", "session"]
    require_lockdown: bool
    # Which layers that means, by the word of a grade or by their names; absent: all.
    lockdown: str | tuple[str, ...] | None = None
    memory_bytes_max: Bytes4G
    context_bytes_max: Bytes4G
    # A promise rather than a limit: `policy.rules` holds the memory against it.
    whole_context_chars_max: BytesOrNone4G
    # What the state kept before each cell may take, to go back to if the cell ends the guest; 0: none.
    checkpoint_bytes_max: BytesOrNone4G
    # What the files of a session may take of its memory, and how many files, folders and links there may be.
    files_bytes_max: BytesOrNone4G
    files_max: Count
    clock: Literal["virtual", "real"]
    entropy: Literal["seeded", "fresh"]
    seed: Seed
    # Which packages a session has: those of the image of this name.
    image: str = BASE_IMAGE


# Up to here no ratio is asked about: a short text of blanks packs better than any bomb.
INPUT_RATIO_FROM_BYTES: Final = MIB
# What a decompressor may take for its own work: enough for what `xz -9` and `zstd --long` write.
INPUT_UNPACKING_BYTES_MAX: Final = 128 * MIB
# The largest .gitignore that is read in a folder.
INPUT_IGNORE_BYTES_MAX: Final = 64 * KIB
# What looking for the patterns of .gitignore files may take for one input: for each path and each pattern,
# the characters of the regular expression times the bytes of the path, which is what RE2 may need. 5,000
# files with paths of 60 bytes and 150 patterns need some 1.7 billion.
INPUT_IGNORE_STEPS_MAX: Final = 2_000_000_000
# The largest text that a document is turned into: it comes as the value of one cell. Some 20,000 full pages.
DOCUMENT_TEXT_BYTES_MAX: Final = 64 * MIB
# What a conversion may write to its output: how far it is, a line a hundredth.
DOCUMENT_OUTPUT_BYTES_MAX: Final = 64 * KIB


@dataclass(frozen=True, slots=True)
class InputLimits:
    """The table [inputs]: files that a user names as inputs. Their bytes are `sandbox.context_bytes_max`."""

    # How many bytes may come out of each byte of a packed file.
    ratio_max: Annotated[int, Range(gt=0, le=1_000_000)]
    # How many values a JSON file may hold and still be given as a value: the host makes an object of each.
    json_values_max: Count
    # How many files one folder, or one path with wildcards, may give.
    files_max: Count
    # How many entries of folders, and lines of their ignore files, are looked at for one input, and how deep.
    entries_max: Count
    depth_max: Annotated[int, Range(gt=0, le=200)]
    # How large a document may be that is turned into text, and what the guest may take that does it: its
    # memory, and of fuel and time what turning one into text may take, and handing over that text again.
    document_bytes_max: Bytes4G = 64 * MIB
    document_memory_bytes_max: Bytes4G = 512 * MIB
    document_fuel_max: Fuel = 1_000_000_000_000
    document_wall_ms_max: Milliseconds = 600_000


# Of a policy without the table.
COMMON_INPUT_LIMITS: Final = InputLimits(
    ratio_max=200, json_values_max=2_000_000, files_max=5_000, entries_max=100_000, depth_max=64
)


@dataclass(frozen=True, slots=True)
class SessionLimits:
    """What of `SandboxLimits` a worker is told of one session, whatever cell runs in it."""

    memory_bytes_max: int
    context_bytes_max: int
    checkpoint_bytes_max: int
    files_bytes_max: int
    files_max: int
    clock: Literal["virtual", "real"]
    entropy: Literal["seeded", "fresh"]
    seed: int
    # Which stream of the seed: sessions of one stream see the same bytes. 0: the worker numbers them.
    stream: int = 0


@dataclass(frozen=True, slots=True)
class WorkerLimits:
    """The table [workers]: the worker processes, all together and each. Unused with "inline"."""

    workers_max: SmallCount
    # One for each tenant where tenants do not share, the one least used out first.
    zygotes_max: Annotated[int, Range(gt=0, le=256)]
    sessions_max: Count
    sessions_per_worker_max: SmallCount
    # A worker past one of these takes no session any more and ends after its last.
    worker_age_ms_max: Milliseconds
    worker_sessions_total_max: Count
    worker_memory_bytes_max: Bytes16T
    worker_cpu_seconds_max: Annotated[int, Range(gt=0, le=7 * 24 * 3600)]
    # What all workers may hold, and how long of 1,000 ms tasks may wait for memory; beyond, no new session.
    memory_bytes_max: Bytes16T
    pressure_permille_max: Annotated[int, Range(gt=0, le=1000)]
    # A worker that owes a sign of life this long, in time or in CPU time of its own, is ended.
    heartbeat_ms: Annotated[int, Range(ge=10, le=60_000)]
    hang_ms_max: Annotated[int, Range(ge=100, le=600_000)]
    unsent_bytes_max: Bytes4G


@dataclass(frozen=True, slots=True)
class TenantLimits:
    """The table [tenants]: what one may have at one moment, `share_percent` of all sessions, workers,
    permits and memory.

    `cells_max` counts cells that compute; one that waits for its host does not. Without the table one may
    have everything, for whoever has no other.
    """

    share_percent: Percent
    cells_max: SmallCount
    runs_max: Count

    def share_of(self, total: int) -> int:
        """Return what one tenant may have of so many; it may always have one."""
        return max(1, -(-total * self.share_percent // 100))


# One tenant may have all that there is.
NO_TENANT_LIMITS: Final = TenantLimits(share_percent=100, cells_max=10_000_000, runs_max=10_000_000)


@dataclass(frozen=True, slots=True)
class CellLimits:
    """The table [cell]: one execution in a session. `wall_ms_max` counts that, not waits for the host."""

    fuel_max: Fuel
    wall_ms_max: Milliseconds
    stdout_bytes_max: Bytes256M
    stderr_bytes_max: Bytes256M
    result_bytes_max: Bytes64M
    source_bytes_max: Bytes64M
    requests_max: Count
    sleep_ms_max: Milliseconds


@dataclass(frozen=True, slots=True)
class RunLimits:
    """The table [run]: what bounds a run without being used up.

    `sessions_max` counts the sessions of the whole tree at one moment, `fanout_max` the children of
    one cell. A child may use `child_share_percent` of what is left when it starts.
    """

    wall_ms_max: Milliseconds
    turns_max: SmallCount
    depth_max: Depth
    fanout_max: SmallCount
    sessions_max: SmallCount
    child_wall_ms_max: Milliseconds
    child_share_percent: Percent
    permits_max: SmallCount
    # run_started, run_ended and what a single query needs must fit.
    events_max: Annotated[int, Range(ge=16, le=10_000_000)]
    # What of the budget is kept for the last question to the root's model: see `reserve_of`. 0: nothing.
    reserve_percent: ReservePercent = 0
    # How often in a row a turn may be repeated: the same code, asking and showing the same. 0: any number.
    repeats_max: Annotated[int, Range(ge=0, le=10_000)] = 0
    # A history that fills so much of its model's window is made shorter. 0: it is not, and a refusal ends it.
    compact_percent: Annotated[int, Range(ge=0, le=90)] = 0
    # How often a conversation may ask its model for a summary of what is to be left out of its history.
    summaries_max: Annotated[int, Range(ge=0, le=1_000)] = 0
    # How long a hook that sees each cell may think about one, and how much of its reasons is told.
    hook_ms_max: Milliseconds = 10_000
    hook_reason_bytes_max: Annotated[int, Range(gt=0, le=64 * KIB)] = 2_000


@dataclass(frozen=True, slots=True)
class BudgetLimits:
    """The table [budget]: what a whole run may use up, over every depth; the ledger's dimensions."""

    calls_max: Count
    requests_max: Count
    input_tokens_max: Tokens
    output_tokens_max: Tokens
    cost_microdollars_max: Microdollars
    iterations_max: SmallCount
    fuel_max: Fuel
    children_max: CountOrNone
    observation_bytes_max: Tokens


def reserve_of(budget: BudgetLimits, percent: int) -> dict[str, int]:
    """Return what of a budget is kept for a run's last question, by the names of its fields.

    One request, and of the calls, the tokens and the money so many percent, rounded up.
    """
    if not percent:
        return {}
    shared = ("calls_max", "input_tokens_max", "output_tokens_max", "cost_microdollars_max")
    return {"requests_max": 1, **{name: -(-getattr(budget, name) * percent // 100) for name in shared}}


@dataclass(frozen=True, slots=True)
class PermitCaps:
    """The table [permits], tenants' weights aside: the slots for provider I/O, over every run of the process.

    A provider that answers "too many requests" has its slots halved, down to `adaptive_min`, and gets
    one back for each `recover_ms`, or sooner as it answers.
    """

    total_max: SmallCount
    provider_max: SmallCount
    model_max: SmallCount
    adaptive_min: SmallCount
    recover_ms: Milliseconds


@dataclass(frozen=True, slots=True)
class PermitLimits(PermitCaps):
    """The slots for provider I/O, and how many of them one tenant may have."""

    tenant_max: int


@dataclass(frozen=True, slots=True)
class BoundaryLimits:
    """The table [boundary]: what one request frame may be, and what all answers in the response to it."""

    frame_bytes_max: Bytes64M
    control_frame_bytes_max: Bytes64M
    prompt_bytes_max: Bytes64M
    response_bytes_max: Bytes64M
    batch_items_max: SmallCount
    nesting_max: Nesting
    host_wait_ms_max: Milliseconds


@dataclass(frozen=True, slots=True)
class ToolLimits:
    """The numbers of the table [tools]: calls of the host's functions, of all tools together and of each.

    A call waits for its place and runs for `timeout_ms_max`, both together.
    """

    parallel_max: SmallCount
    timeout_ms_max: Milliseconds
    arguments_bytes_max: Bytes64M
    result_bytes_max: Bytes64M


@dataclass(frozen=True, slots=True)
class ToolCaps:
    """A table of [tools.caps]: what one tool may at most, whatever it says itself.

    `calls_max` counts the calls of one session, or of a run and all below it.
    """

    calls_max: Count | None = None
    parallel_max: SmallCount | None = None
    timeout_ms_max: Milliseconds | None = None


@dataclass(frozen=True, slots=True)
class McpLimits:
    """The table [mcp]: what crosses between this program and its clients over MCP.

    What a client may have is each client's by itself; over HTTP whoever has one key is one client.
    """

    sessions_max: SmallCount
    # A session that no call used for so long is closed.
    session_idle_ms_max: Milliseconds
    # Calls of a client that are under way; one more is refused.
    calls_max: SmallCount
    # Connections of all clients together, over HTTP.
    connections_max: SmallCount
    # One message that the other side sends, and one result that it is given, as JSON.
    message_bytes_max: Bytes64M
    result_bytes_max: Bytes64M


# How many values, and strings, one message may hold: an object is made of each. And how deep it may nest.
MCP_MESSAGE_VALUES_MAX: Final = 500_000
MCP_MESSAGE_NESTING_MAX: Final = 64

# What of its headers a client may send over HTTP.
MCP_HEADER_BYTES_MAX: Final = 32 * KIB
# The file, or variable, of its clients' keys.
MCP_KEYS_BYTES_MAX: Final = MIB

# Of a policy without the table.
COMMON_MCP_LIMITS: Final = McpLimits(
    sessions_max=16,
    session_idle_ms_max=30 * 60 * 1000,
    calls_max=16,
    connections_max=256,
    message_bytes_max=16 * MIB,
    result_bytes_max=16 * MIB,
)


@dataclass(frozen=True, slots=True)
class ObservationLimits:
    """The numbers of the table [observation]: what goes back to the model after a cell."""

    bytes_max: Bytes64M
    variables_max: SmallCount


@dataclass(frozen=True, slots=True)
class GuidanceLimits:
    """The numbers of the table [guidance]: own instructions and examples beside the system prompt.

    They bound those of a policy and of a question together. 0: there may be none.
    """

    instructions_bytes_max: GuidanceBytes
    examples_max: Annotated[int, Range(ge=0, le=256)]
    # Of all questions and replies.
    examples_bytes_max: GuidanceBytes


# Of a policy without the table: about 4,000 tokens, and 8,000.
COMMON_GUIDANCE_LIMITS: Final = GuidanceLimits(16 * KIB, 8, 32 * KIB)


@dataclass(frozen=True, slots=True)
class QueryLimits:
    """The table [query]: one query to a provider. `attempts_max` counts the first try.

    `batch` says what becomes of a batch that the budget covers in part: "all" refuses it whole,
    "part" its last items.
    """

    timeout_ms_max: Milliseconds
    attempts_max: Attempts
    backoff_ms_first: Milliseconds
    backoff_ms_max: Milliseconds
    input_overhead_tokens: Annotated[int, Range(ge=0, le=1_000_000)]
    output_tokens_max: Annotated[int, Range(gt=0, le=10_000_000)]
    response_bytes_max: Bytes64M
    batch: Literal["all", "part"]
    # The cap with which an answer that `output_tokens_max` cut off is asked for once more. 0: it is not.
    output_tokens_retry_max: Annotated[int, Range(ge=0, le=10_000_000)] = 0


@dataclass(frozen=True, slots=True)
class CacheLimits:
    """The numbers of the table [cache]: answers of models that are kept, of all tenants together."""

    entries_max: Count
    bytes_max: Bytes4G


@dataclass(frozen=True, slots=True)
class EventLimits:
    """The table [events]: what events hold, and what is kept of them for a reader slower than its run.

    That is: some in memory, then either a file or a gap at once.
    """

    texts: bool
    buffer_events_max: Annotated[int, Range(ge=2, le=1_000_000)]
    when_full: Literal["drop", "spill"]
    spill_bytes_max: Bytes4G


@dataclass(frozen=True, slots=True)
class ModelPrice:
    """A table of [models.prices]: what a model costs, in micro-dollars for a million tokens."""

    input_microdollars_per_mtok: Microdollars
    output_microdollars_per_mtok: Microdollars

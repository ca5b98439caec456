"""One seed, one world: a runtime, its models, guests and operator on virtual time, and what came of it.

Everything of the product from `Runtime` to the scheduler, the worker loop and the HTTP client is the
real thing; the world supplies time, network, guests and people.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final

import anyio
import msgspec

from rlm_wasm.core.effects import Effect
from rlm_wasm.core.inputs import Input
from rlm_wasm.errors import ArtifactError, GuestError, PolicyError, RlmWasmError, UsageError
from rlm_wasm.events import Event
from rlm_wasm.ids import RunId
from rlm_wasm.policy.model import Policy
from rlm_wasm.providers.base import Query
from rlm_wasm.runtime.broker import HANG_UP_SECONDS_MAX, Broker
from rlm_wasm.runtime.run import RunResult
from rlm_wasm.runtime.runtime import Runtime
from tests.simulation.books import Books
from tests.simulation.event_loop import Stuck, VirtualLoop, run_virtual
from tests.simulation.provider import SimulatedProvider, is_root
from tests.simulation.worker import SimulatedLoop, SimulatedWorker

# What a run may take beyond its deadline: hanging up, and the slice its guest is in.
HANG_UP_NS: Final = int(HANG_UP_SECONDS_MAX * 1e9)
GRACE_NS: Final = HANG_UP_NS + 1_500_000_000
# Between the last thing a run waits for and its return.
PROMPT_NS: Final = 100_000_000
# A user message beside its observations: notes, the turn's line, the question.
_MESSAGE_BYTES_BESIDE: Final = 8_000
_CUT_MARKS_BYTES: Final = 6 * 64
_STRICT: Final = Policy.builtin("strict").to_mapping()


class Failed(AssertionError):
    """A world in which something was wrong. The message is one line, with what to type to see it again."""


@dataclass
class Plan:
    """What a seed decides before the world begins."""

    policy: Policy
    slow: bool
    faults: float
    runs: int
    # The operator: after this many inputs of the scheduler, in this way.
    cancel_at: int | None
    cancel_how: str
    sink_fails_at: int | None
    open_fails_at: int | None

    @classmethod
    def of(cls, random: Random) -> Plan:
        """Draw a plan."""
        return cls(
            policy=_policy(random),
            slow=random.random() < 0.7,
            faults=random.choice((0.0, 0.1, 0.3, 0.3, 0.6, 0.9)),
            runs=random.choice((1, 2, 2, 3, 5)),
            cancel_at=random.randrange(200) if random.random() < 0.5 else None,
            cancel_how=random.choice(("at once", "soon", "task", "task", "again and again")),
            sink_fails_at=random.randrange(60) if random.random() < 0.15 else None,
            open_fails_at=random.randrange(1, 4) if random.random() < 0.1 else None,
        )


def _policy(random: Random) -> Policy:
    pick = random.choice
    wall_ms = pick((1_500, 8_000, 30_000, 120_000))
    timeout_ms = min(wall_ms, pick((60, 800, 1_500, 5_000, 5_000)))
    cell_fuel = pick((30_000_000, 2_000_000_000, 8_000_000_000))

    def seldom(tight: int, ample: int) -> int:
        """Most runs must come far, or nothing happens in them."""
        return tight if random.random() < 0.12 else ample

    data: dict[str, Any] = {name: dict(table) for name, table in _STRICT.items()}
    data["sandbox"] |= {
        "checkpoint_bytes_max": pick((0, 1 << 20)),
        "memory_bytes_max": 32 << 20,
        "context_bytes_max": 2 << 20,
        "clock": pick(("virtual", "real")),
    }
    data["cell"] |= {
        "fuel_max": cell_fuel,
        "wall_ms_max": pick((200, 1_500)),
        "stdout_bytes_max": 100_000,
        "requests_max": pick((12, 40)),
        "sleep_ms_max": 500,
    }
    permits = pick((1, 2, 3, 8))
    data["permits"] |= {
        "total_max": permits,
        "provider_max": permits,
        "model_max": permits,
        "adaptive_min": 1,
    }
    data["run"] |= {
        "wall_ms_max": wall_ms,
        "permits_max": permits,
        "events_max": pick((16, 40, 2_000, 2_000)),
    }
    data["budget"] |= {
        "calls_max": seldom(7, 200),
        "requests_max": seldom(pick((2, 12)), 300),
        "input_tokens_max": seldom(20_000, 10_000_000),
        "output_tokens_max": seldom(2_000, 100_000),
        "cost_microdollars_max": seldom(20_000, 50_000_000),
        "iterations_max": pick((2, 6, 12)),
        "fuel_max": cell_fuel * seldom(1, 40),
    }
    data["boundary"] |= {
        "frame_bytes_max": 20_000,
        "control_frame_bytes_max": 1_000,
        "prompt_bytes_max": 4_000,
        "batch_items_max": 8,
        "host_wait_ms_max": timeout_ms * pick((1, 1, 3)),
    }
    data["observation"] |= {
        "bytes_max": pick((120, 2_000)),
        "variables_max": 4,
        "dialect": pick(("answer", "final", "both", "both")),
    }
    data["query"] |= {
        "timeout_ms_max": timeout_ms,
        "attempts_max": pick((1, 3, 5)),
        "backoff_ms_first": pick((1, 20)),
        "backoff_ms_max": pick((20, 300)),
        "input_overhead_tokens": 16,
        "output_tokens_max": pick((50, 400)),
    }
    data["events"] |= {"texts": pick((True, False))}
    price = {"input_microdollars_per_mtok": 2_000_000, "output_microdollars_per_mtok": 4_000_000}
    free = {"input_microdollars_per_mtok": 0, "output_microdollars_per_mtok": 0}
    data["models"] = {
        "root": "sim:root",
        "sub": "sim:sub",
        "prices": {"sim:root": price, "sim:sub": pick((price, free))},
    }
    return Policy.from_mapping(data)


class _Watched:
    """A scheduler whose every step the books see. Everything else is the scheduler's."""

    def __init__(self, scheduler: Any, books: Books, step: Callable[[], None]) -> None:
        self._scheduler = scheduler
        self._books = books
        self._step = step

    def __getattr__(self, name: str) -> Any:
        return getattr(self._scheduler, name)

    def handle(self, given: Input, now_ns: int) -> list[Effect]:
        books = self._books
        try:
            effects: list[Effect] = self._scheduler.handle(given, now_ns)
        except Exception as error:
            books.wrong.append(f"4: the scheduler raised {error!r} at {str(given)[:200]}")
            raise
        try:
            books.took(given, effects, now_ns, self._scheduler.budget_view)
        except Exception as error:  # noqa: BLE001 - a bug of the books must not look like one of the product
            books.wrong.append(f"the books do not understand: {error!r} at {str(given)[:200]}")
        self._step()
        return effects


@dataclass
class World:
    """A seed's world. `run` returns the fingerprint of everything that was written, or raises Failed."""

    seed: int
    plan: Plan = field(init=False)
    wrong: list[str] = field(init=False, default_factory=list)
    events: list[bytes] = field(init=False, default_factory=list)
    results: list[str] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        self._random = Random(self.seed)
        self.plan = Plan.of(self._random)
        self._books = Books(self.plan.policy.permits.total_max)
        self._scopes: list[anyio.CancelScope] = []
        self._calls: dict[RunId, int] = {}  # provider calls under way
        self._hung_up_ns: dict[RunId, int] = {}  # when the last one ended
        self._opened = 0
        self.inputs = 0

    def run(self) -> str:
        """Live through it."""
        try:
            run_virtual(self._live, self._random, slow=self.plan.slow)
        except Stuck as stuck:
            self._note(f"8: {stuck}")
        except Exception as error:  # noqa: BLE001 - whatever comes out of a world is what was wrong
            self._note(f"{type(error).__name__}: {_inner(error)!r}")
        wrong = [*self._books.wrong, *self.wrong]
        if wrong:
            more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
            raise Failed(f"seed {self.seed}: {wrong[0]}{more}; again: python -m tests.simulation {self.seed}")
        return self.fingerprint

    @property
    def fingerprint(self) -> str:
        """A hash of every event and result, in order."""
        digest = hashlib.sha256()
        for line in [*self.events, *(result.encode() for result in self.results)]:
            digest.update(line + b"\n")
        return digest.hexdigest()[:16]

    def _note(self, what: str) -> None:
        self.wrong.append(what)

    def _check(self, holds: bool, what: str) -> None:
        if not holds:
            self._note(what)

    # -- the world ----------------------------------------------------------------------------------

    async def _live(self, loop: VirtualLoop) -> None:
        random, plan = self._random, self.plan
        guests = SimulatedLoop(loop, random, self._note, self._refuse_open)
        models = SimulatedProvider(
            random, self._seen, lambda query: self._left(query, loop), faults=plan.faults
        )
        runtime = Runtime(
            plan.policy,
            route=lambda name: (models, name),
            worker=SimulatedWorker(guests),
            clock=loop.clock,
            entropy=random.randbytes,
        )
        async with runtime:
            broker = runtime._broker
            assert broker is not None
            watched: Any = _Watched(broker._scheduler, self._books, lambda: self._operator(loop, runtime))
            broker._scheduler = watched  # type: ignore[misc]
            async with anyio.create_task_group() as tasks:
                for number in range(plan.runs):
                    tasks.start_soon(self._ask, loop, runtime, number)
            await self._until_quiet(loop, broker, models, guests)
        await models.aclose()
        self._check(guests.idle, "5: a session is left in the worker")
        self._check(guests.guest.responses <= guests.guest.frames, "3: more responses than requests")

    def _refuse_open(self) -> RlmWasmError | None:
        self._opened += 1
        if self._opened != self.plan.open_fails_at:
            return None
        return self._random.choice((ArtifactError("no guest"), PolicyError("no room")))

    def _operator(self, loop: VirtualLoop, runtime: Runtime) -> None:
        """After each input of the scheduler: perhaps the one at which somebody loses patience."""
        self.inputs += 1
        plan = self.plan
        again = plan.cancel_how == "again and again" and plan.cancel_at is not None
        if self.inputs != plan.cancel_at and not (again and self.inputs % (plan.cancel_at or 1) == 0):
            return
        match plan.cancel_how:
            case "at once":  # from within an effect, as a sink would
                runtime.cancel("by the operator")
            case "task":
                open_ = [scope for scope in self._scopes if not scope.cancel_called]
                if open_:
                    loop.outside(self._random.randrange(100_000), self._random.choice(open_).cancel)
            case _:
                loop.outside(self._random.randrange(100_000), lambda: runtime.cancel("by the operator"))

    async def _ask(self, loop: VirtualLoop, runtime: Runtime, number: int) -> None:
        random, policy = self._random, self.plan.policy
        await anyio.sleep(random.choice((0, 0, 0.003, 0.2, 3)))
        began_ns = loop.now_ns
        recorded: list[Event] = []
        sinks: list[Callable[[Event], None]] = [lambda event: self._record(recorded, event)]
        if self.plan.sink_fails_at is not None and number == 0:
            sinks.insert(random.randrange(2), self._failing_sink())
        small: tuple[Any, ...] = (None, "abc", "x" * (1 << 20), {"a": "é", "b": b"\x00"})
        context = random.choice(small) if random.random() < 0.96 else "y" * (3 << 20)
        result: RunResult | None = None
        ended = "cancelled"
        with anyio.CancelScope() as scope:
            self._scopes.append(scope)
            try:
                result = await runtime.ask(f"question {number}", context, sinks=sinks)
                ended = "answered"
            except (ArtifactError, PolicyError) as error:
                ended = f"{type(error).__name__}: {error.message}"
                self._check(self.plan.open_fails_at is not None, f"a run raised {error!r}")
            except (UsageError, GuestError) as error:
                ended = f"{type(error).__name__}: {error.message}"
                # Documented: an input that is too large for the session.
                big = isinstance(context, str) and len(context) > 2 << 20
                self._check(big, f"a run raised {error!r}")
        took_ns = loop.now_ns - began_ns
        limit_ns = policy.run.wall_ms_max * 1_000_000 + GRACE_NS
        self._check(took_ns <= limit_ns, f"8: a run took {took_ns // 1_000_000} ms")
        self.results.append(f"{number} {ended} {result}")
        self._check_end(loop, runtime, recorded, result)

    def _record(self, recorded: list[Event], event: Event) -> None:
        recorded.append(event)
        self.events.append(msgspec.json.encode(event))

    def _failing_sink(self) -> Callable[[Event], None]:
        left = [self.plan.sink_fails_at or 0]

        def write(event: Event) -> None:
            left[0] -= 1
            if left[0] < 0:
                raise self._random.choice((OSError(28, "no space"), RlmWasmError("full"), KeyError("bug")))

        return write

    # -- what must hold -----------------------------------------------------------------------------

    def _seen(self, query: Query) -> None:
        """Look at what a provider gets: it was reserved and sent, and observations are bounded."""
        sends = [send for send in self._books.sends if send.messages is query.messages]
        self._check(bool(sends), "1: a provider was asked for what was not sent")
        if sends:
            self._calls[sends[-1].run_id] = self._calls.get(sends[-1].run_id, 0) + 1
        if not is_root(query.messages):
            return
        observation = self.plan.policy.observation
        for message in query.messages[2:]:
            if message.role != "user":
                continue
            outputs = len(re.findall("REPL output", message.content))
            # `final` repeats the source, which a reply bounds.
            source = self.plan.policy.cell.source_bytes_max if observation.dialect == "final" else 0
            room = outputs * (observation.bytes_max + _CUT_MARKS_BYTES + source) + _MESSAGE_BYTES_BESIDE
            self._check(len(message.content.encode()) <= room, "6: an observation is larger than its bound")

    def _left(self, query: Query, loop: VirtualLoop) -> None:
        for send in self._books.sends:
            if send.messages is query.messages:
                self._calls[send.run_id] -= 1
                self._hung_up_ns[send.run_id] = loop.now_ns
                return

    def _check_end(
        self, loop: VirtualLoop, runtime: Runtime, recorded: list[Event], result: RunResult | None
    ) -> None:
        """Check at the end of a run, however it ended, that nothing of it is left."""
        if not recorded:
            return  # cancelled before it began, or its first sink failed
        run_id = recorded[0].run_id
        self._check([event.seq for event in recorded] == list(range(len(recorded))), "4: a gap in the log")
        self._check(recorded[0].kind == "run_started", "4: a log without a beginning")
        self._check(recorded[-1].kind == "run_ended", f"4: a log ends with {recorded[-1].kind}")
        self._check(len(recorded) <= self.plan.policy.run.events_max, "4: a log longer than events_max")
        self._check_answered(recorded)
        book = self._books.ended.get(run_id)
        if book is None:
            self._note("5: a run returned and is not closed")
            return
        broker = runtime._broker
        if broker is not None:
            left = [key for key in broker._timers._due if key[0] == run_id]
            self._check(not left, f"5: timers of a run are left: {left}")
            self._check(run_id not in broker._runs, "5: a run is left in the broker")
            self._check(run_id not in broker._scheduler.open_runs, "5: a run is left in the scheduler")
            self._check(broker._scheduler.permits_held == self._books.flying, "2: permits are left")
        self._check(run_id not in runtime._runs, "5: a run is left in the runtime")
        loose = self._calls.get(run_id, 0)
        waited_ns = loop.now_ns - max(book.ended_ns, self._hung_up_ns.get(run_id, 0))
        limit_ns = HANG_UP_NS if loose else 0
        self._check(waited_ns <= limit_ns + PROMPT_NS, "8: a run that was over returned late")
        if result is not None:
            spent = {name: book.spent(name) for name in result.spent}
            self._check(result.run_id == run_id, "4: another run's result")
            # A bill that came between the result and the end may only have made it smaller.
            higher = {name for name in spent if spent[name] > result.spent[name]}
            self._check(not higher, f"7: a result tells less than was spent: {sorted(higher)}")
            self._check(result.partial or result.answer is not None, "a final answer that is none")

    def _check_answered(self, recorded: list[Event]) -> None:
        if any(event.kind == "events_truncated" for event in recorded):
            return
        received = [event.data["request"] for event in recorded if event.kind == "query_received"]
        answered = [event.data["request"] for event in recorded if event.kind == "query_answered"]
        self._check(
            sorted(map(str, received)) == sorted(map(str, answered)), "3: not each query was answered"
        )

    async def _until_quiet(
        self, loop: VirtualLoop, broker: Broker, models: SimulatedProvider, guests: SimulatedLoop
    ) -> None:
        """Wait for what may outlive a run for a moment: calls that hang up, sessions that close."""
        with anyio.move_on_after(20):
            while not (broker.idle and models.open == 0 and guests.idle):  # noqa: ASYNC110
                await anyio.sleep(0.05)
        self._check(models.open == 0, "5: a provider call is left")
        self._check(guests.idle, "5: a session is left")
        self._check(broker.idle, "5: the broker is not idle")
        self._check(self._books.flying == 0, "2: permits are left")
        self._check(not self._books.runs, "5: runs are left")


def _inner(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def simulate(seed: int) -> str:
    """Live one world through; return its fingerprint or raise Failed."""
    return World(seed).run()

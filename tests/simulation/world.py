"""One seed, one world: a runtime, its models, guests and operator on virtual time, and what came of it.

Everything of the product from `Runtime` to the scheduler, the worker loop and the HTTP client is the
real thing; the world supplies time, network, guests and people.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import Any, Final

import anyio
import msgspec

from rlm_wasm.api.run_handle import Run
from rlm_wasm.api.runtime import Runtime
from rlm_wasm.api.world import World as Surroundings
from rlm_wasm.artifacts.process_guest import process_guest
from rlm_wasm.engine.broker import HANG_UP_SECONDS_MAX, Broker
from rlm_wasm.errors import ArtifactError, GuestError, PolicyError, RlmWasmError, RuntimeClosed, UsageError
from rlm_wasm.events import Event, Gap
from rlm_wasm.ids import RunId
from rlm_wasm.providers.base import Query
from rlm_wasm.results import RunResult
from rlm_wasm.scheduler.request import RequestState
from tests.simulation.books import Books
from tests.simulation.event_loop import Stuck, VirtualLoop, run_virtual
from tests.simulation.hook import SimulatedHook
from tests.simulation.plan import Plan
from tests.simulation.provider import SimulatedProvider, is_root
from tests.simulation.watched import watch
from tests.simulation.worker import SimulatedLoop, SimulatedWorker, hurried

# What a run may take beyond its deadline: hanging up, and the slice its guest is in.
HANG_UP_NS: Final = int(HANG_UP_SECONDS_MAX * 1e9)
GRACE_NS: Final = HANG_UP_NS + 1_500_000_000
# Between the last thing a run waits for and its return.
PROMPT_NS: Final = 100_000_000
# A user message beside its observations: notes, the turn's line, the question.
_MESSAGE_BYTES_BESIDE: Final = 8_000
_CUT_MARKS_BYTES: Final = 6 * 64


class Failed(AssertionError):
    """A world in which something was wrong. The message is one line, with what to type to see it again."""


@dataclass
class _Asking:
    """One question: when it was asked, what its sink got, when and with what it came back."""

    began_ns: int
    returned_ns: int = 0
    events: list[Event] = field(default_factory=list)
    result: RunResult | None = None


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
        self._books = Books(self.plan.policy.permit_limits())
        self._scopes: list[anyio.CancelScope] = []
        self._calls: dict[RunId, int] = {}  # provider calls under way
        self._hung_up_ns: dict[RunId, int] = {}  # when the last one ended
        self.uses: Counter[str] = Counter()
        self._asked = 0
        self._all_asked = anyio.Event()
        self._closes = False
        self.inputs = 0

    def run(self) -> str:
        """Live through it."""
        with suppress(ArtifactError):
            process_guest()  # else the first world of a process would search for it, and no other
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
        guests = SimulatedLoop(
            loop, random, self._note, self._refuse_open, self.fails, lambda: self._starting(loop, runtime)
        )
        models = SimulatedProvider(
            random, self._seen, lambda query: self._left(query, loop), self.fails, faults=plan.faults
        )
        given = Surroundings(
            worker=SimulatedWorker(guests, hurried(loop, random)),
            clock=loop.clock,
            entropy=random.randbytes,
        )
        runtime = Runtime.in_world(plan.policy, given, route=lambda name: (models, name))
        async with anyio.create_task_group() as tasks:
            async with runtime:
                broker = runtime._broker
                assert broker is not None
                watched = watch(broker, self._books, partial(self._operator, loop, runtime))
                watched._permits.hand_out = self._withhold(watched)
                for number in range(plan.runs):
                    tasks.start_soon(self._ask, loop, runtime, number)
                if plan.close_after_ms is None:
                    await self._all_asked.wait()
                else:
                    await anyio.sleep(plan.close_after_ms / 1000)
                    # Whoever closes a runtime in the middle of its runs does not wait for their models.
                    self._closes = True
                if not self._closes:
                    await self._until_quiet(broker, models, guests)
        self._check(models.open == 0, "5: a provider call is left")
        self._check(self._books.flying == 0, "2: permits are left")
        self._check(not self._books.runs, "5: runs are left")
        await models.aclose()
        self._check(guests.idle, "5: a session is left in the worker")
        self._check(guests.guest.responses <= guests.guest.frames, "3: more responses than requests")

    def fails(self, resource: str) -> bool:
        """Count one use of a resource, and return whether it is the one that the plan wants to fail."""
        self.uses[resource] += 1
        return self.uses[resource] == self.plan.fails_at.get(resource)

    def _refuse_open(self) -> RlmWasmError | None:
        if not self.fails("session"):
            return None
        return self._random.choice((ArtifactError("no guest"), PolicyError("no room")))

    def _withhold(self, scheduler: Any) -> Callable[..., Any]:
        """Return a `hand_out` of permits that once grants none, until something else happens."""
        hand_out = scheduler._permits.hand_out

        def handed(*now_ns: int) -> Any:
            requests = [request for run in scheduler._runs.values() for request in run.requests.values()]
            wanted = any(request.state is RequestState.QUEUED for request in requests)
            self._books.withheld = wanted and self.fails("permit")
            return [] if self._books.withheld else hand_out(*now_ns)

        return handed

    def _starting(self, loop: VirtualLoop, runtime: Runtime) -> None:
        """A session is being made: perhaps somebody gives up at some step of that."""
        if not self.fails("start"):
            return
        # Until the thread sees it, while it makes it, or on the way back.
        at_ns = self._random.randrange(80_000)
        match self.plan.start_how:
            case "task":
                open_ = [scope for scope in self._scopes if not scope.cancel_called]
                if open_:
                    loop.outside(at_ns, self._random.choice(open_).cancel)
            case "operator":
                loop.outside(at_ns, lambda: runtime.cancel("by the operator"))
            case _:
                loop.outside(at_ns, self._close)

    def _close(self) -> None:
        self._closes = True
        self._all_asked.set()

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
        """Ask a question, or start a run and watch it, and see how it ends."""
        random, plan = self._random, self.plan
        closes = plan.closes
        if not closes:
            await anyio.sleep(random.choice((0, 0, 0.003, 0.2, 3)))
        asking = _Asking(loop.now_ns)
        sinks: list[Callable[[Event], None]] = [lambda event: self._record(asking.events, event)]
        if "sink" in plan.fails_at:
            sinks.insert(random.randrange(2), self._write_or_fail)
        small: tuple[Any, ...] = (None, "abc", "x" * (1 << 20), {"a": "é", "b": b"\x00"})
        context = random.choice(small) if random.random() < 0.96 else "y" * (3 << 20)
        tenant = random.choice(("", "", "heavy", "other"))
        # Of chances of its own: what else a seed draws does not depend on it.
        hook = SimulatedHook(Random(f"hook {self.seed} {number}"))
        on_cell = hook if hook.is_there else None
        ended = "cancelled"
        async with anyio.create_task_group() as watchers:
            with anyio.CancelScope() as scope:
                self._scopes.append(scope)
                try:
                    if closes or random.random() < 0.3:
                        run = runtime.start(
                            f"question {number}", context, sinks=sinks, tenant=tenant, on_cell=on_cell
                        )
                        watchers.start_soon(self._note_end, loop, run, asking)
                        asking.result = await self._watch(run)
                    else:
                        asking.result = await runtime.ask(
                            f"question {number}", context, sinks=sinks, tenant=tenant, on_cell=on_cell
                        )
                        asking.returned_ns = loop.now_ns
                    ended = "answered"
                except (ArtifactError, PolicyError) as error:
                    ended = f"{type(error).__name__}: {error.message}"
                    self._check("session" in plan.fails_at, f"a run raised {error!r}")
                except (UsageError, GuestError) as error:
                    ended = f"{type(error).__name__}: {error.message}"
                    # Documented: an input that is too large for the session.
                    big = isinstance(context, str) and len(context) > 2 << 20
                    faulty = plan.fails_at.keys() & {"memory", "guest"}
                    self._check(big or closes or bool(faulty), f"a run raised {error!r}")
                except RuntimeClosed:
                    ended = "torn down"
                    self._check(closes, "a run was torn down although nobody closed the runtime")
        asking.returned_ns = asking.returned_ns or loop.now_ns
        took_ns = asking.returned_ns - asking.began_ns
        limit_ns = plan.policy.run.wall_ms_max * 1_000_000 + GRACE_NS
        self._check(took_ns <= limit_ns, f"8: a run took {took_ns // 1_000_000} ms")
        self.results.append(f"{number} {ended} {asking.result}")
        self._check_end(runtime, asking)
        for wrong in hook.wrong_in(asking.events):
            self._note(wrong)
        self._asked += 1
        if self._asked == plan.runs:
            self._all_asked.set()

    @staticmethod
    async def _note_end(loop: VirtualLoop, run: Run, asking: _Asking) -> None:
        await run.ended()
        asking.returned_ns = loop.now_ns

    async def _watch(self, run: Run) -> RunResult:
        """Read a run's events, at some speed, and return its result."""
        random, covered = self._random, 0
        slow_s = random.choice((0, 0, 0.001, 0.3))
        async with run.events() as reader:
            async for item in reader:
                first, last = (item.first_seq, item.last_seq) if isinstance(item, Gap) else (item.seq,) * 2
                self._check(first == covered, f"4: a reader got {first} where {covered} was next")
                covered = last + 1
                if slow_s:
                    await anyio.sleep(slow_s)
                if random.random() < 0.01:
                    return await run.result()
        book = self._books.ended.get(run.run_id)
        self._check(book is None or covered == book.seq, "4: a reader missed the end of its run")
        return await run.result()

    def _record(self, recorded: list[Event], event: Event) -> None:
        recorded.append(event)
        self.events.append(msgspec.json.encode(event))

    def _write_or_fail(self, event: Event) -> None:
        if self.fails("sink"):
            raise self._random.choice((OSError(28, "no space"), RlmWasmError("full"), KeyError("bug")))

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

    def _check_end(self, runtime: Runtime, asking: _Asking) -> None:
        """Check at the end of a run, however it ended, that nothing of it is left."""
        recorded, result = asking.events, asking.result
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
        waited_ns = asking.returned_ns - max(book.ended_ns, self._hung_up_ns.get(run_id, 0))
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

    async def _until_quiet(self, broker: Broker, models: SimulatedProvider, guests: SimulatedLoop) -> None:
        """Wait for what may outlive a run for a moment: calls that hang up, sessions that close."""
        with anyio.move_on_after(20):
            while not (broker.idle and models.open == 0 and guests.idle):  # noqa: ASYNC110
                await anyio.sleep(0.05)
        self._check(guests.idle, "5: a session is left")
        self._check(broker.idle, "5: the broker is not idle")


def _inner(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def simulate(seed: int) -> str:
    """Live one world through; return its fingerprint or raise Failed."""
    return World(seed).run()

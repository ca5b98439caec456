"""The placement of sessions: which worker takes one, which is started, retired or ended, what is refused.

Pure: no process, clock or file. The pool tells what happened and does what it is told. Numbers of
workers are its own; a number is never used again.
"""

from __future__ import annotations

import enum
from collections import Counter, OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, Literal

from rlm_wasm.errors import InternalError, Overloaded
from rlm_wasm.host.pool_metrics import Refusal
from rlm_wasm.limits import TenantLimits, WorkerLimits

Isolation = Literal["shared", "tenant", "session"]
_MS: Final = 1_000_000
# A worker that holds more than it may is retired; at this many times as much it is ended.
_MEMORY_FACTOR: Final = 2
_SHARE_HINT: Final = "`tenants.share_percent` of {} in the policy is what one tenant may have"


class Age(enum.Enum):
    """Where a worker is in its life."""

    ACTIVE = "active"  # takes sessions
    RETIRED = "retired"  # keeps those it has, and is ended after the last


@dataclass(slots=True)
class _Worker:
    """What placement knows of one worker."""

    tenant: str
    born_ns: int
    # Whose sessions it has; where tenants share workers, of several.
    owners: Counter[str] = field(default_factory=Counter)
    sessions: int = 0
    sessions_total: int = 0
    memory_bytes: int = 0
    age: Age = Age.ACTIVE


@dataclass(frozen=True, slots=True)
class WorkerChoice:
    """Put the session into this worker; `fresh`: start it first, and before that end `instead_of`.

    End the zygote of the domain `instead_of_zygote` as well, with the idle workers that it has.
    """

    worker: int
    fresh: bool
    instead_of: int | None = None
    instead_of_zygote: str | None = None


class Placement:
    """The books of a pool: its workers, their sessions, the machine's memory pressure."""

    def __init__(self, isolation: Isolation, limits: WorkerLimits, tenants: TenantLimits) -> None:
        self._isolation: Final = isolation
        self._limits: Final = limits
        # What one tenant may have of it.
        self._sessions_max: Final = tenants.share_of(limits.sessions_max)
        self._workers_max: Final = tenants.share_of(limits.workers_max)
        self._memory_bytes_max: Final = tenants.share_of(limits.memory_bytes_max)
        # A tenant within its share was refused because of the memory that all hold together.
        self._memory_wanted = False
        self._workers: dict[int, _Worker] = {}
        # The domains that have a zygote or are about to, the one least used out first.
        self._zygotes: OrderedDict[str, None] = OrderedDict()
        self._last = 0
        self._pressure_permille = 0
        self._draining = False
        self._refusals: Counter[Refusal] = Counter()

    @property
    def sessions(self) -> int:
        """How many sessions there are in all workers."""
        return sum(worker.sessions for worker in list(self._workers.values()))

    @property
    def workers(self) -> int:
        """How many workers there are."""
        return len(self._workers)

    @property
    def memory_bytes(self) -> int:
        """What all workers held when they were measured."""
        return sum(worker.memory_bytes for worker in list(self._workers.values()))

    @property
    def pressure_permille(self) -> int:
        """For how much of the time tasks of this machine wait for memory."""
        return self._pressure_permille

    @property
    def refusals(self) -> dict[Refusal, int]:
        """How many sessions were refused, by what refused them."""
        return self._refusals.copy()

    def sessions_in(self, number: int) -> int:
        """How many sessions a worker has; 0 if there is no such worker."""
        worker = self._workers.get(number)
        return 0 if worker is None else worker.sessions

    def place(self, tenant: str, now_ns: int) -> WorkerChoice:
        """Choose a worker for a session, and enter it in the books.

        Raises:
            Overloaded: the policy's sessions, workers, zygotes or memory are used up, or the pool is closing.
        """
        self._refuse_if_full(tenant)
        domain = "" if self._isolation == "shared" else tenant
        number = self._with_room(domain) if self._isolation != "session" else None
        if number is not None and (not self._spreads() or self._workers[number].sessions == 0):
            return self._enter(number, tenant, fresh=False)
        self._refuse_one_that_has_its_workers(domain)
        retired = self._zygote_to_retire(domain)
        if sum(worker.tenant != retired for worker in self._workers.values()) < self._limits.workers_max:
            return self._start(domain, tenant, now_ns, retired=retired)
        idle = self._idle_of_others(domain)
        if idle is not None:
            return self._start(domain, tenant, now_ns, instead_of=idle, retired=retired)
        raise self._refused(
            "workers",
            f"all {self._limits.workers_max} workers are in use",
            hint="raise `workers.workers_max` in the policy, or wait for a session to end",
        )

    def _refuse_if_full(self, tenant: str) -> None:
        limits = self._limits
        if self._draining:
            raise self._refused("closing", "the pool is closing")
        if self.sessions >= limits.sessions_max:
            raise self._refused(
                "sessions",
                f"all {limits.sessions_max} sessions are in use",
                hint="raise `workers.sessions_max` in the policy, or wait for a session to end",
            )
        if self._sessions_of(tenant) >= self._sessions_max:
            raise self._refused(
                "tenant_sessions",
                f"this tenant has {self._sessions_max} sessions, all that one tenant may have",
                hint=_SHARE_HINT.format("`workers.sessions_max`"),
            )
        if self._pressure_permille > limits.pressure_permille_max:
            raise self._refused(
                "pressure",
                f"the machine is short of memory: tasks waited for it {self._pressure_permille} of 1000 ms",
                hint="`workers.pressure_permille_max` in the policy says how much is too much",
            )
        own, held = self._memory_of(tenant), self.memory_bytes
        if own > self._memory_bytes_max and self._isolation != "shared":
            raise self._refused(
                "tenant_memory",
                f"this tenant's workers hold {own} bytes, {self._memory_bytes_max} allowed to one tenant",
                hint=_SHARE_HINT.format("`workers.memory_bytes_max`"),
            )
        if held > limits.memory_bytes_max:
            self._memory_wanted = True
            raise self._refused(
                "memory",
                f"the workers hold {held} bytes, {limits.memory_bytes_max} allowed",
                hint="raise `workers.memory_bytes_max` in the policy, or wait for a session to end",
            )

    def _refuse_one_that_has_its_workers(self, domain: str) -> None:
        if self._isolation == "shared" or self._workers_max == self._limits.workers_max:
            return
        # Idle ones make room for whoever needs it.
        used = sum(worker.tenant == domain and worker.sessions > 0 for worker in self._workers.values())
        if used >= self._workers_max:
            raise self._refused(
                "tenant_workers",
                f"this tenant uses {self._workers_max} workers, all that one tenant may have",
                hint=_SHARE_HINT.format("`workers.workers_max`"),
            )

    def _sessions_of(self, tenant: str) -> int:
        return sum(worker.owners[tenant] for worker in self._workers.values())

    def _memory_of(self, domain: str) -> int:
        return sum(worker.memory_bytes for worker in self._workers.values() if worker.tenant == domain)

    def _spreads(self) -> bool:
        """Whether to start a worker although another has room: a lost one takes fewer sessions along."""
        # A tenant leaves half of the workers to others as long as its own have room.
        shared = self._isolation == "shared"
        return len(self._workers) < (self._limits.workers_max if shared else self._limits.workers_max // 2)

    def _refused(self, what: Refusal, message: str, hint: str | None = None) -> Overloaded:
        self._refusals[what] += 1
        return Overloaded(message, hint=hint)

    def _with_room(self, domain: str) -> int | None:
        room = [
            (worker.sessions, number)
            for number, worker in self._workers.items()
            if worker.age is Age.ACTIVE
            and worker.tenant == domain
            and worker.sessions < self._limits.sessions_per_worker_max
        ]
        return min(room)[1] if room else None

    def _zygote_to_retire(self, domain: str) -> str | None:
        """Return whose zygote has to go for one of this domain's; None: there is one, or room for one.

        Raises:
            Overloaded: all are in use, by other tenants.
        """
        if domain in self._zygotes or len(self._zygotes) < self._limits.zygotes_max:
            return None
        used = {worker.tenant for worker in self._workers.values() if worker.sessions}
        idle = next((each for each in self._zygotes if each not in used), None)
        if idle is None:
            raise self._refused(
                "zygotes",
                f"all {self._limits.zygotes_max} zygotes are in use, each by a tenant of its own",
                hint="raise `workers.zygotes_max` in the policy, or wait for a tenant's sessions to end",
            )
        return idle

    def _start(
        self,
        domain: str,
        tenant: str,
        now_ns: int,
        *,
        instead_of: int | None = None,
        retired: str | None = None,
    ) -> WorkerChoice:
        if instead_of is not None:
            del self._workers[instead_of]
        if retired is not None:
            del self._zygotes[retired]
            self._workers = {n: w for n, w in self._workers.items() if w.tenant != retired}
        self._zygotes[domain] = None
        self._zygotes.move_to_end(domain)
        self._last += 1
        self._workers[self._last] = _Worker(domain, now_ns)
        return self._enter(self._last, tenant, fresh=True, instead_of=instead_of, retired=retired)

    def _enter(
        self,
        number: int,
        tenant: str,
        *,
        fresh: bool,
        instead_of: int | None = None,
        retired: str | None = None,
    ) -> WorkerChoice:
        worker = self._workers[number]
        worker.sessions += 1
        worker.owners[tenant] += 1
        worker.sessions_total += 1
        if worker.sessions_total >= self._limits.worker_sessions_total_max or self._isolation == "session":
            worker.age = Age.RETIRED
        return WorkerChoice(number, fresh, instead_of, retired)

    def _idle_of_others(self, domain: str) -> int | None:
        idle = (n for n, w in self._workers.items() if w.sessions == 0 and w.tenant != domain)
        return next(idle, None)

    def left(self, number: int, tenant: str) -> bool:
        """Note that a session of a tenant's has gone; return whether its worker shall end now."""
        worker = self._workers.get(number)
        if worker is None:
            return False  # the worker went first
        if not worker.owners[tenant]:
            raise InternalError("a session left a worker twice")
        worker.sessions -= 1
        worker.owners[tenant] -= 1
        if not worker.owners[tenant]:
            del worker.owners[tenant]
        return worker.sessions == 0 and worker.age is Age.RETIRED

    def retire(self, number: int) -> None:
        """Give a worker no session any more: it could not make one. It ends after those that it has."""
        worker = self._workers.get(number)
        if worker is not None:
            worker.age = Age.RETIRED

    def ended(self, number: int) -> None:
        """Note that a worker is gone, and its sessions with it. Safe to say again."""
        self._workers.pop(number, None)

    def measured(self, number: int, memory_bytes: int) -> None:
        """Note what a worker holds."""
        worker = self._workers.get(number)
        if worker is not None:
            worker.memory_bytes = memory_bytes

    def pressure(self, permille: int) -> None:
        """Note how much of the time tasks of this machine wait for memory."""
        self._pressure_permille = permille

    def drain(self) -> None:
        """Take no session any more."""
        self._draining = True

    def tick(self, now_ns: int) -> Iterator[int]:
        """Retire who is too old or holds too much; yield those that shall end now."""
        limits = self._limits
        for number, worker in self._workers.items():
            too_old = now_ns - worker.born_ns > limits.worker_age_ms_max * _MS
            if too_old or worker.memory_bytes > limits.worker_memory_bytes_max:
                worker.age = Age.RETIRED
            if worker.age is Age.RETIRED and worker.sessions == 0:
                yield number

    def too_large(self) -> Iterator[int]:
        """Yield the workers that hold so much that their sessions are ended with them.

        Those are too large by themselves; or the largest of a tenant that holds more than its share, while
        another one is refused because all hold too much together.
        """
        allowed = _MEMORY_FACTOR * self._limits.worker_memory_bytes_max
        too_large = {number for number, worker in self._workers.items() if worker.memory_bytes > allowed}
        yield from sorted(too_large)
        wanted, self._memory_wanted = self._memory_wanted, False
        if not wanted or self._isolation == "shared" or self.memory_bytes <= self._limits.memory_bytes_max:
            return
        for tenant in {worker.tenant for worker in self._workers.values()}:
            if self._memory_of(tenant) > self._memory_bytes_max:
                own = [(w.memory_bytes, n) for n, w in self._workers.items() if w.tenant == tenant]
                largest = max(own)[1]
                if largest not in too_large:
                    yield largest

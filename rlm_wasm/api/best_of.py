"""`BestOf`: candidates in forks of one session, each scored, of which the best one's session is kept."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self, TypeAlias

import anyio
import anyio.to_thread

from rlm_wasm.api.arguments import check_callable, is_async
from rlm_wasm.api.side_by_side import side_by_side
from rlm_wasm.errors import InternalError, NoCandidate, Overloaded, UsageError

if TYPE_CHECKING:
    from rlm_wasm.api.sandbox import SandboxSession

# What a candidate does in its fork: the source of one cell, the same for all of them or one for each, or an
# async function of the fork and the candidate's number.
Attempt: TypeAlias = "str | Sequence[str] | Callable[[SandboxSession, int], Awaitable[Any]]"

# The score of a candidate, by its fork and what it came to (of a cell its CellResult): more is better, None
# is none. A function that is not async is called on a thread.
Score: TypeAlias = "Callable[[SandboxSession, Any], float | Awaitable[float | None] | None]"

PARALLEL_MAX: Final = 4


@dataclass(frozen=True, slots=True)
class Candidate:
    """A candidate of `best_of`: its number, what it came to, its score, and what it has none for.

    `result` is its cell's CellResult, or what the caller's function returned. `error` is the exception of a
    cell that failed, of that function or of the one that scores.
    """

    number: int
    result: Any = None
    score: float | None = None
    error: Exception | None = None


class BestOf:
    """The best of several candidates, with its session. Close it, or use `async with`.

    `candidates` are all of them by their numbers, the `best` one included.
    """

    def __init__(self, session: SandboxSession, best: Candidate, candidates: Sequence[Candidate]) -> None:
        self.session: Final = session
        self.best: Final = best
        self.candidates: Final = tuple(candidates)

    async def aclose(self) -> None:
        """Free the guest of the best one."""
        await self.session.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.session.__aexit__(kind, error, trace)


def check_candidates(n: object, attempt: object, score: object, parallel_max: object) -> None:
    """Raise UsageError for what cannot be tried or scored."""
    for what, number in (("a number of candidates", n), ("parallel_max", parallel_max)):
        if not isinstance(number, int) or isinstance(number, bool):
            raise UsageError(f"{what} is an int, not a {type(number).__name__}")
        if number < 1:
            raise UsageError(f"{what} is at least 1, not {number}")
    check_callable("score", score)
    if isinstance(attempt, str) or is_async(attempt):
        return
    if not isinstance(attempt, Sequence) or not all(isinstance(each, str) for each in attempt):
        raise UsageError(
            "what candidates do is the source of a cell, a list of such sources, or an async function of a "
            f"session and a number, not a {type(attempt).__name__}"
        )
    if len(attempt) != n:
        raise UsageError(f"{n} candidates need {n} sources, and there are {len(attempt)}")


class Candidates:
    """Tries candidates, so many at a time, and keeps the session of the best.

    At one moment there are `parallel_max` forks and the best one so far. Where the policy has no place for as
    many, fewer run at a time.
    """

    def __init__(
        self, make: Callable[[int], Awaitable[SandboxSession]], attempt: Attempt, score: Score
    ) -> None:
        self._make = make
        self._attempt = attempt
        self._score = score
        self._tried: dict[int, Candidate] = {}
        self._best: tuple[Candidate, SandboxSession] | None = None
        # Those that are being made or tried, and what is set when one of them is not any more.
        self._live = 0
        self._ended = anyio.Event()

    async def best_of(self, n: int, parallel_max: int) -> BestOf:
        """Return the best. Raises NoCandidate where none has a score; cancelled, it leaves nothing."""
        try:
            await side_by_side(n, parallel_max, self._try)
        except BaseException:
            if self._best is not None:
                await _close(self._best[1])
            raise
        candidates = [self._tried[number] for number in range(n)]
        if self._best is None:
            raise NoCandidate({each.number: each.error for each in candidates if each.error is not None}, n)
        return BestOf(self._best[1], self._best[0], candidates)

    async def _try(self, number: int) -> None:
        try:
            session = await self._opened(number)
        except InternalError:
            raise
        except Exception as error:  # noqa: BLE001 - one that has no place must not lose the others
            self._tried[number] = Candidate(number, error=error)
            return
        loser: SandboxSession | None = session
        try:
            candidate = self._tried[number] = await self._candidate(number, session)
            if self._is_best(candidate):
                loser = None if self._best is None else self._best[1]
                self._best = candidate, session
        finally:
            if loser is not None:
                await _close(loser)
            self._leave()

    async def _opened(self, number: int) -> SandboxSession:
        while True:
            self._live += 1
            ended = self._ended
            try:
                return await self._make(number)
            except BaseException as error:
                self._leave()
                if not isinstance(error, Overloaded) or not self._live:  # no other one will make room
                    raise
            await ended.wait()

    def _leave(self) -> None:
        self._live -= 1
        self._ended.set()
        self._ended = anyio.Event()

    async def _candidate(self, number: int, session: SandboxSession) -> Candidate:
        result = None
        try:
            if callable(self._attempt):
                result = await self._attempt(session, number)
            else:
                source = self._attempt if isinstance(self._attempt, str) else self._attempt[number]
                result = await session.exec(source)
                if result.error is not None:
                    return Candidate(number, result, error=result.error)
            score = await self._scored(session, result)
        except InternalError:
            raise
        except Exception as error:  # noqa: BLE001 - the caller's, for whom the others are worth having
            return Candidate(number, result, error=error)
        return Candidate(number, result, score)

    async def _scored(self, session: SandboxSession, result: Any) -> float | None:
        if is_async(self._score):
            made = self._score(session, result)
        else:
            made = await anyio.to_thread.run_sync(self._score, session, result, abandon_on_cancel=True)
        score = await made if isinstance(made, Awaitable) else made
        if score is None:
            return None
        if not isinstance(score, int | float) or math.isnan(score):
            raise UsageError(f"a score is a number or None, not {score!a:.100}")
        return float(score)

    def _is_best(self, candidate: Candidate) -> bool:
        """Whether it has the highest score so far; of equal ones the first by its number."""
        if candidate.score is None or self._best is None:
            return candidate.score is not None
        best = self._best[0]
        assert best.score is not None
        return (candidate.score, -candidate.number) > (best.score, -best.number)


async def _close(session: SandboxSession) -> None:
    with anyio.CancelScope(shield=True):
        await session.aclose()

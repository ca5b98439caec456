"""`RolloutEnvironment`: rollouts that begin with a prepared session, stepped by whoever has the model."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from types import TracebackType
from typing import Any, Final, Self, TypeAlias

import anyio

from rlm_wasm.api.arguments import check_callable, check_question
from rlm_wasm.api.query_hook import OnQuery
from rlm_wasm.api.sandbox import SandboxSession
from rlm_wasm.api.snapshot import Snapshot
from rlm_wasm.api.trajectory import RolloutCell, RolloutTurn, Trajectory
from rlm_wasm.conversation.loop import (
    AskModel,
    Begin,
    CellFinished,
    Conclusion,
    ContextFacts,
    LoopEffect,
    LoopInput,
    ModelReplied,
    RlmLoop,
    RunBlock,
)
from rlm_wasm.conversation.observations import error_text
from rlm_wasm.engine.packages import packages_of
from rlm_wasm.errors import InternalError, UsageError
from rlm_wasm.guidance import Guidance
from rlm_wasm.outcomes import SessionState
from rlm_wasm.policy.model import Policy
from rlm_wasm.results import CellResult
from rlm_wasm.scheduler.messages import Message, finish_of

# What a model is shown of each input: so much of its beginning.
_PEEK_CHARS: Final = 500
_LOOK: Final = "[[type(v).__name__, len(v), str(v)[:{peek}]] for v in [{names}]]"

# The reward of a rollout that has ended, whose session is there still. It may be async.
Reward: TypeAlias = "Callable[[Rollout], float | Awaitable[float]]"


@dataclass(frozen=True, slots=True)
class Step:
    """What came of a reply: the messages to send next, each a role and a text, and whether it is all over."""

    observation: tuple[tuple[str, str], ...]
    done: bool


class Rollout:
    """One conversation about one question, in a fork of the prepared session. Use `async with`, or close it.

    `messages` are what the model is to be asked: the first ones, then its replies and what came of them. They
    only grow, so that what it was sent before is a prefix of what it is sent next.
    """

    def __init__(self, environment: RolloutEnvironment, question: str, number: int, loop: RlmLoop) -> None:
        self.question: Final = question
        self.number: Final = number
        self.messages: list[tuple[str, str]] = []
        self._environment = environment
        self._loop = loop
        self._told = 0
        self._session: SandboxSession | None = None
        self._turns: list[RolloutTurn] = []
        self._prompt: tuple[tuple[str, str], ...] = ()
        self._conclusion: Conclusion | None = None
        self._stepping = False

    @property
    def session(self) -> SandboxSession:
        """The session that its code runs in. Raises UsageError where it is closed."""
        if self._session is None:
            raise UsageError("the rollout is closed")
        return self._session

    @property
    def done(self) -> bool:
        """Whether it has ended: by an answer, or by a limit."""
        return self._conclusion is not None

    @property
    def answer(self) -> str | None:
        """The answer, or the best there is where it was not declared; None: there is none, or not yet."""
        return None if self._conclusion is None else self._conclusion.answer

    @property
    def declared(self) -> bool:
        """Whether the model declared its answer final."""
        return self._conclusion is not None and not self._conclusion.partial

    @property
    def turns(self) -> tuple[RolloutTurn, ...]:
        """The turns so far."""
        return tuple(self._turns)

    async def begin(self, session: SandboxSession) -> None:
        """Take its session and write down the first messages. Called once, by its environment."""
        self._session = session
        self._say(self._effect_of(Begin()))
        self._prompt = tuple(self.messages)

    async def step(
        self,
        reply: str,
        *,
        finish: str | None = None,
        token_ids: Sequence[int] | None = None,
        logprobs: Sequence[float] | None = None,
        on_query: OnQuery | None = None,
    ) -> Step:
        """Take the model's reply, run its cells, and return what it is to be shown.

        `finish` is why the reply ends, as its endpoint says; `token_ids` and `logprobs` are kept with it.
        `on_query` answers what the cells ask models, in the place of the sandbox's. Cancelled, the rollout
        can only be closed.

        Raises:
            UsageError: the rollout has ended, is closed, or takes another step.
            GuestError, HostExhausted, InternalError: as `SandboxSession.exec`.
        """
        if not isinstance(reply, str):
            raise UsageError(f"a reply is a str, not a {type(reply).__name__}")
        if self.done or self._stepping:
            raise UsageError("the rollout has ended" if self.done else "the rollout takes a step already")
        self.session  # noqa: B018 - it is there
        self._stepping = True
        cells: list[RolloutCell] = []
        effect = self._effect_of(ModelReplied(reply, finish_of(finish)))
        while isinstance(effect, RunBlock):
            result, answer = await self.session.exec_turn(effect.source, on_query=on_query)
            cells.append(_record(effect.source, result))
            if result.session_state is SessionState.LOST:
                await self.session.aclose()
                self._session = await self._environment.fork()
            effect = self._effect_of(CellFinished(result, answer))
        self.messages.append(("assistant", reply))
        self._told += 1
        said = self._say(effect)
        observation = said[-1][1] if said else None
        self._turns.append(
            RolloutTurn(
                reply,
                tuple(cells),
                observation,
                None if token_ids is None else tuple(token_ids),
                None if logprobs is None else tuple(logprobs),
            )
        )
        self._stepping = False
        return Step(said, self.done)

    async def finish(self, **info: Any) -> Trajectory:
        """Have it rewarded, close its session, and return all that happened. `info` is kept with it.

        A reward that fails is none, and told in `error`; a rollout that has not ended is rewarded as it is.
        """
        reward = error = None
        try:
            if self._environment.reward is not None:
                reward, error = await self._rewarded(self._environment.reward)
        finally:
            await self.aclose()
        ended = self._conclusion
        return Trajectory(
            self.question,
            self._prompt,
            self.turns,
            self.answer,
            "not ended" if ended is None else str(ended.stop),
            not self.declared,
            reward,
            error,
            info,
        )

    async def _rewarded(self, function: Reward) -> tuple[float | None, str | None]:
        try:
            made = function(self)
            reward = await made if isinstance(made, Awaitable) else made
            if not isinstance(reward, int | float) or not isfinite(reward):
                raise UsageError(f"a reward is a finite number, not {reward!a:.100}")
        except InternalError:
            raise
        except Exception as error:  # noqa: BLE001 - the caller's: a rollout without a reward is kept
            return None, f"{type(error).__name__}: {error}"
        return float(reward), None

    async def aclose(self) -> None:
        """Free its session. Safe to call again."""
        session, self._session = self._session, None
        if session is not None:
            with anyio.CancelScope(shield=True):
                await session.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def _effect_of(self, given: LoopInput) -> LoopEffect:
        (effect,) = self._loop.handle(given)
        return effect

    def _say(self, effect: LoopEffect) -> tuple[tuple[str, str], ...]:
        """Write down what is new to the model, and return it."""
        if isinstance(effect, Conclusion):
            self._conclusion = effect
            return ()
        if not isinstance(effect, AskModel):
            raise InternalError(f"the loop wants {type(effect).__name__}")
        # The line about the turn stands at the end of what is new, and stays there: messages only grow.
        *history, turn = effect.messages
        new = _joined([*history[self._told :], turn])
        self._told = len(history)
        self.messages += new
        return tuple(new)


class RolloutEnvironment:
    """Makes rollouts, each in a fork of a session that was prepared once.

    `names` are the variables of that session that the model is told of, as it is of the inputs of a run.
    `reward` is called with each rollout that ends, before its session is closed. Everything else is the
    policy's: the dialect, the turns (`run.turns_max`), what an observation may be, the limits of each cell.
    """

    def __init__(
        self,
        snapshot: Snapshot,
        facts: Sequence[ContextFacts],
        policy: Policy,
        *,
        reward: Reward | None = None,
        guidance: Guidance | None = None,
    ) -> None:
        if reward is not None:
            check_callable("reward", reward)
        self.reward: Final = reward
        self._snapshot = snapshot
        self._facts = tuple(facts)
        self._policy = policy
        self._guidance = guidance or policy.own_guidance()
        self._rollouts = 0

    @classmethod
    async def of(
        cls,
        session: SandboxSession,
        names: Sequence[str] = ("context",),
        *,
        reward: Reward | None = None,
        instructions: str | None = None,
    ) -> Self:
        """Return an environment whose rollouts begin with this session's present state. It lives on.

        Raises:
            UsageError: one of the names is no variable with a length, or the session is busy, closed or lost.
            WorkerLost, HostExhausted: as `SandboxSession.snapshot`.
        """
        policy = session.policy
        facts = await _facts(session, names) if names else []
        guidance = policy.own_guidance().followed_by(Guidance.given(instructions, ()))
        return cls(await session.snapshot(), facts, policy, reward=reward, guidance=guidance)

    async def reset(self, question: str) -> Rollout:
        """Return a new rollout about a question. Raises as `Sandbox.session`; UsageError if it is empty."""
        check_question(question)
        policy = self._policy
        turns_max, key = min(
            (policy.run.turns_max, "run.turns_max"), (policy.budget.iterations_max, "budget.iterations_max")
        )
        loop = RlmLoop(
            question,
            self._facts,
            policy.observation.dialect,
            policy.observation,
            turns_max,
            turns_key=key,
            lenient_fences=policy.observation.lenient_fences,
            virtual_clock=policy.sandbox.clock == "virtual",
            packages=packages_of(policy.sandbox.image),
            guidance=self._guidance,
            whole_length_max=policy.sandbox.whole_context_chars_max,
            repeats_max=policy.run.repeats_max,
        )
        number, self._rollouts = self._rollouts, self._rollouts + 1
        rollout = Rollout(self, question, number, loop)
        await rollout.begin(await self.fork())
        return rollout

    async def fork(self) -> SandboxSession:
        """Return a session with the prepared state."""
        (session,) = await self._snapshot.fork(1)
        return session


async def _facts(session: SandboxSession, names: Sequence[str]) -> list[ContextFacts]:
    for name in names:
        if not isinstance(name, str) or not name.isidentifier():
            raise UsageError(f"{name!a:.100} is not a variable name")
    result = await session.exec(_LOOK.format(peek=_PEEK_CHARS, names=", ".join(names)))
    if result.error is not None:
        raise UsageError(f"the model cannot be told of {', '.join(names)}: {result.error}")
    looked = result.value
    assert isinstance(looked, list)
    units = {"str": "characters", "bytes": "bytes"}
    return [
        ContextFacts(name, str(kind), int(length), units.get(str(kind), "items"), str(peek))
        for name, (kind, length, peek) in zip(names, looked, strict=True)
    ]


def _joined(messages: Sequence[Message]) -> list[tuple[str, str]]:
    """Return messages with those of one role that follow each other joined, as chat templates want them."""
    made: list[tuple[str, str]] = []
    for message in messages:
        if made and made[-1][0] == message.role:
            made[-1] = message.role, f"{made[-1][1]}\n\n{message.content}"
        else:
            made.append((message.role, message.content))
    return made


def _record(source: str, result: CellResult) -> RolloutCell:
    error = error_text(result.error) or None
    return RolloutCell(source, result.outcome.value, result.stdout, result.stderr, result.result, error)


def as_chat(messages: Sequence[tuple[str, str]]) -> list[Mapping[str, str]]:
    """Return messages as a chat endpoint takes them."""
    return [{"role": role, "content": content} for role, content in messages]

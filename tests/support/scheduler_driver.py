"""Feeds a scheduler one input at a time and sorts the effects that come back."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from rlm_wasm.errors import ProviderError
from rlm_wasm.events import Event
from rlm_wasm.ids import RequestId, RunId
from rlm_wasm.scheduler.effects import Effect, EmitEvent, Respond, SendQuery, SetTimer
from rlm_wasm.scheduler.inputs import Input, ProviderAnswered, ProviderFailed, TimerFired
from rlm_wasm.scheduler.messages import Usage
from rlm_wasm.scheduler.request import Response
from rlm_wasm.scheduler.scheduler import Scheduler
from tests.support.core_facts import MS, RUN, permit_limits

T = TypeVar("T")


def of(kind: type[T], effects: Iterable[Effect]) -> list[T]:
    """Return the effects of one kind, in order."""
    return [effect for effect in effects if isinstance(effect, kind)]


def sent(effects: Iterable[Effect]) -> list[tuple[RunId, RequestId, int]]:
    return [(e.run_id, e.request_id, e.attempt) for e in of(SendQuery, effects)]


def responses(effects: Iterable[Effect]) -> dict[RequestId, Response]:
    return {effect.request_id: effect.response for effect in of(Respond, effects)}


def events(effects: Iterable[Effect]) -> list[Event]:
    return [effect.event for effect in of(EmitEvent, effects)]


class Driver:
    """A scheduler, its clock, and everything it has said so far."""

    def __init__(self, permits_max: int = 2) -> None:
        self.scheduler = Scheduler(permit_limits(permits_max))
        self.now_ns = 5_000 * MS
        self.said: list[Effect] = []

    def give(self, *inputs: Input, after_ms: int = 0) -> list[Effect]:
        """Let `after_ms` pass, then give the inputs, and return all their effects."""
        self.now_ns += after_ms * MS
        effects = [effect for given in inputs for effect in self.scheduler.handle(given, self.now_ns)]
        self.said += effects
        return effects

    def events(self, kind: str) -> list[Event]:
        return [event for event in events(self.said) if event.kind == kind]

    def timer_due_ms(self, timer_id: str) -> int:
        """Return in how many milliseconds the timer that was set last under this name is due."""
        at_ns = [timer.at_ns for timer in of(SetTimer, self.said) if timer.timer_id == timer_id][-1]
        assert (at_ns - self.now_ns) % MS == 0
        return (at_ns - self.now_ns) // MS


def answered(
    number: int, attempt: int = 1, run_id: RunId = RUN, usage: Usage | None = None, text: str = "yes"
) -> ProviderAnswered:
    return ProviderAnswered(run_id, RequestId(number), attempt, text, usage)


def failed(
    number: int,
    attempt: int = 1,
    run_id: RunId = RUN,
    *,
    retryable: bool = True,
    sent: bool = False,
    retry_after_ms: int | None = None,
) -> ProviderFailed:
    error = ProviderError("the provider is down")
    return ProviderFailed(run_id, RequestId(number), attempt, error, retryable, sent, retry_after_ms)


def fired(timer_id: str, run_id: RunId = RUN) -> TimerFired:
    return TimerFired(run_id, timer_id)

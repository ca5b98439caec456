"""Requests that came together: each for itself, or all of them or none, as the policy says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

from rlm_wasm.errors import QueryError
from rlm_wasm.ids import RequestId
from rlm_wasm.scheduler.conversation import ConversationState
from rlm_wasm.scheduler.effect_buffer import EffectBuffer
from rlm_wasm.scheduler.effects import RefuseSurplus
from rlm_wasm.scheduler.inputs import ChildRequested, QueryReceived, Surplus, ToolCalled
from rlm_wasm.scheduler.query_flow import Stopping, conversation_of, live_conversation, reason_of
from rlm_wasm.scheduler.request import Cancelled, Denied, Response
from rlm_wasm.scheduler.run_state import RunState

Given = TypeVar("Given", QueryReceived, ChildRequested, ToolCalled, contravariant=True)
Accepted = TypeVar("Accepted")


class Flow(Protocol[Given, Accepted]):
    """What queries, children and calls of tools have in common on their way in."""

    def received(self, run: RunState, given: Given) -> None:
        """Accept one and open it, or refuse it."""

    def accept(self, run: RunState, conversation: ConversationState, given: Given) -> Accepted:
        """Reserve what it needs, or raise the QueryError that refuses it."""

    def give_back(self, run: RunState, accepted: Accepted) -> None:
        """Undo `accept`."""

    def open(self, run: RunState, accepted: Accepted) -> None:
        """Let it begin."""

    def refuse(self, run: RunState, given: Given, error: QueryError) -> None:
        """Answer it with why it was not accepted."""


def take_batch(flow: Flow[Given, Accepted], run: RunState, items: Sequence[Given]) -> None:
    """Take a batch. Every item gets a response of its own, so the guest knows which were denied."""
    if run.facts.query.batch == "part":
        for given in items:
            flow.received(run, given)
        return
    accepted: list[Accepted] = []
    refusal: QueryError | None = None
    for given in items:
        try:
            conversation = conversation_of(run, given)
            if refusal is None:
                accepted.append(flow.accept(run, conversation, given))
            else:
                # Refused with the others, and counted with them.
                run.count_request(conversation, of_guest=True)
        except QueryError as error:
            refusal = refusal or error
    if refusal is None:
        for each in accepted:
            flow.open(run, each)
        return
    for each in accepted:
        flow.give_back(run, each)
    for given in items:
        flow.refuse(run, given, refusal)


def refuse_surplus(buffer: EffectBuffer, run: RunState, surplus: Surplus) -> None:
    """Refuse what there is no room for: the same work for any number of requests."""
    refusals: list[tuple[Response, int]] = []
    number = surplus.first
    try:
        conversation = live_conversation(run, surplus.parent)
    except Stopping as stopping:
        refusals.append((Cancelled(stopping.message), surplus.requests))
    else:
        for error, count in run.count_surplus(conversation, surplus.requests):
            run.recorder.deny(reason_of(error), number, surplus.depth, surplus.parent, count=count)
            refusals.append((Denied(error), count))
            number = RequestId(number + count)
    buffer.add(RefuseSurplus(run.run_id, surplus.first, tuple(refusals)))

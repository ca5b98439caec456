"""Repeating a recorded run: a real guest, everything from outside as it was, event by event the same."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import NoReturn

from rlm_wasm.api.snapshot import Snapshot
from rlm_wasm.audit.catalogue import KINDS, unheard_of
from rlm_wasm.audit.line import encode_line
from rlm_wasm.engine.broker import Router
from rlm_wasm.engine.contexts import InputValue
from rlm_wasm.errors import InternalError
from rlm_wasm.events import Event
from rlm_wasm.host.guest_search import found_guest
from rlm_wasm.host.worker import Worker
from rlm_wasm.ids import RunId
from rlm_wasm.policy.model import Policy
from rlm_wasm.policy.render import to_toml
from rlm_wasm.providers.base import Provider
from rlm_wasm.providers.recorded import ReplayProvider
from rlm_wasm.replay.broker import ReplayBroker
from rlm_wasm.replay.recorded_event import Difference
from rlm_wasm.replay.recorded_order import RecordedOrder
from rlm_wasm.replay.recording import Recording
from rlm_wasm.replay.repeated_run import RepeatedRun


@dataclass(frozen=True, slots=True)
class Replay:
    """What came of a replay. Without a `difference`, the first `events` lines are the same bytes.

    `ended` says why that is not the whole run, where it is not.
    """

    run_id: RunId
    events: int
    difference: Difference | None
    ended: str | None


async def replay(
    recording: Recording,
    contexts: Mapping[str, InputValue] | None = None,
    *,
    policy: Policy | None = None,
    snapshot: Snapshot | None = None,
    sinks: Iterable[Callable[[Event], None]] = (),
    worker: Worker | None = None,
) -> Replay:
    """Repeat a run and say where it first differs. Nothing leaves the process; no key is needed.

    `contexts` are the inputs that are too large for the log; `snapshot` is what the run's sessions were
    forked from, if they were, loaded under the policy of the replay. Under another `policy` than the
    recorded one, what the log says about the policy itself is not compared; nor are fields that came after
    the log was written.

    Raises:
        UsageError: an input or the snapshot is missing, not wanted, or another one.
        PolicyError: the recorded policy is none of this version's, and no other one is given.
        ArtifactError: no guest is built, or it is not what was built.
    """
    under = recording.policy if policy is None else policy
    if worker is None:
        await found_guest(under.sandbox.image)  # not on the event loop; one that is missing is told below
    unstated = _unstated(recording, policy)
    order = RecordedOrder(recording.events, unstated)
    run = RepeatedRun(
        recording,
        order,
        under,
        contexts,
        snapshot,
        clock=order.now_ns,
        make_broker=partial(ReplayBroker, order),
        worker=worker,
        route=_nowhere,
    )
    others: list[int] = []

    def compare(event: Event) -> None:
        same = event.seq < order.compared and not unstated
        if same and encode_line(event) != encode_line(recording.events[event.seq]):
            others.append(event.seq)

    await run.ask([compare, *sinks])
    if others:
        raise InternalError(f"event {others[0]} of a replay is the same in other bytes")
    return Replay(recording.run_id, order.compared, order.difference, order.ended)


def answers_from(recording: Recording, *, paced: bool = False) -> Router:
    """Return a route for `Runtime` on which recorded answers come again, whatever else has changed."""
    provider = ReplayProvider(recording.answers(), paced=paced)
    return lambda model: (provider, model)


def _unstated(recording: Recording, policy: Policy | None) -> dict[str, frozenset[str]]:
    """Return what of a log is not compared: what came after it, and what it says of another policy.

    So it is with the text of the same one, where a key with a default has come since.
    """
    found = unheard_of(recording.events)
    others: dict[str, frozenset[str]] = {}
    if policy is not None:
        others["run_started"] = frozenset(KINDS["run_started"].fields)
    if policy is not None or to_toml(recording.policy) != recording.policy_text:
        others["run_described"] = frozenset({"policy", "policy_sha256"})
    return found | {kind: found.get(kind, frozenset()) | names for kind, names in others.items()}


def _nowhere(model: str) -> tuple[Provider, str]:
    return _Nobody(), model


class _Nobody:
    """The provider of a replay, which is never asked."""

    async def complete(self, query: object) -> NoReturn:
        raise InternalError("a replay asked a provider")

    async def aclose(self) -> None:
        """Do nothing: there is nothing open."""

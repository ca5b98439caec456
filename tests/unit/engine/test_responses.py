"""What comes back to a guest is bounded like what it asks: a part of the response for each of its prompts."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from rlm_wasm.api.runtime import Runtime
from rlm_wasm.host.session import HostSession
from rlm_wasm.policy.model import Policy
from rlm_wasm.protocol.guest_frames import response_bytes_max
from rlm_wasm.providers.base import Completion, Query
from rlm_wasm.results import RunResult
from tests.support.runtime_facts import Events, small_policy

pytestmark = [pytest.mark.guest, pytest.mark.anyio, pytest.mark.usefixtures("guest", "healthy_host")]
RESPONSE, ANSWER = 200_000, 100_000
LOCKED: dict[str, Any] = {"isolation": "session", "require_lockdown": True}


class Talkative:
    """Drives each conversation by the code for its question, and answers a query with as much as it names."""

    def __init__(self, **code: str) -> None:
        self._code = code

    async def complete(self, query: Query) -> Completion:
        first, *rest = query.messages
        if first.role != "system":
            unit, _, count = first.content.partition("*")
            return Completion(unit * int(count), 1, 1)
        word = rest[0].content.removeprefix("Question: ").split()[0]
        return Completion(f"```repl\n{self._code[word]}\n```", 1, 1)

    async def aclose(self) -> None:
        pass


def policy_of(**sandbox: Any) -> Policy:
    return small_policy(
        sandbox=sandbox,
        boundary={"response_bytes_max": RESPONSE, "batch_items_max": 16},
        query={"response_bytes_max": ANSWER},
        budget={"output_tokens_max": 10**8},
    )


async def asked(policy: Policy, **code: str) -> tuple[RunResult, Events]:
    model, events = Talkative(**code), Events()
    async with Runtime(policy, route=lambda name: (model, name)) as runtime:
        with anyio.fail_after(60):
            result = await runtime.ask("one", sinks=[events.append])
    events.assert_complete()
    return result, events


@pytest.fixture
def frames(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The size of each response that goes to a guest."""
    sizes: list[int] = []
    checked = HostSession._checked

    def measured(session: HostSession, response: object) -> bytes:
        sizes.append(len(checked(session, response)))
        return checked(session, response)

    monkeypatch.setattr(HostSession, "_checked", measured)
    return sizes


@pytest.mark.threat("T-143")
@pytest.mark.parametrize("sandbox", [{}, LOCKED], ids=["inline", "locked"])
# Some of these take six bytes each where they go, or two.
@pytest.mark.parametrize("unit", ["a", "\x01", '"', "漢"], ids=["letters", "control", "quotes", "han"])
async def test_the_answers_of_a_batch_share_one_response(
    frames: list[int], sandbox: dict[str, Any], unit: str
) -> None:
    """Each that is beyond its part is a typed error in its place; the others are there."""
    size = {"a": 1, "\x01": 6, '"': 2, "漢": 3}[unit]
    most = RESPONSE // 16 // size - 2
    prompts = [f"{unit}*{most if place % 2 else most + 3}" for place in range(16)]
    code = (
        f"found = llm_query_batched({prompts!r}, return_exceptions=True)\n"
        "FINAL([len(f) if type(f) is str else type(f).__name__ for f in found])"
    )
    result, events = await asked(policy_of(**sandbox), one=code)
    assert result.answer == str(["ProviderError", most] * 8)
    assert max(frames) <= RESPONSE + 16 * 1_000
    assert sum(data["status"] == "failed" for data in events.of("query_answered")) == 8


@pytest.mark.threat("T-143")
async def test_one_answer_has_the_whole_response_up_to_what_a_query_may_bring(frames: list[int]) -> None:
    code = (
        f"llm_query('a*{ANSWER - 2}')\n"
        f"try: llm_query('b*{ANSWER + 1}')\n"
        "except ProviderError as error: FINAL(str(error))"
    )
    result, _ = await asked(policy_of(), one=code)
    assert str(ANSWER) in str(result.answer)
    assert max(frames) > ANSWER


@pytest.mark.threat("T-143")
async def test_children_share_one_response_too(frames: list[int]) -> None:
    most = RESPONSE // 4 - 2
    code = (
        "found = rlm_query_batched(['long', 'short', 'long', 'short'], return_exceptions=True)\n"
        "FINAL([len(f) if type(f) is str else (type(f).__name__, f.partial) for f in found])"
    )
    result, _ = await asked(
        policy_of(), one=code, long=f"FINAL('x' * {most + 3})", short=f"FINAL('y' * {most})"
    )
    assert result.answer == str([("ChildFailed", None), most] * 2)
    assert max(frames) <= RESPONSE + 16 * 1_000


async def test_what_the_root_is_told_is_bounded_without_a_guest_that_waits_for_it() -> None:
    result, events = await asked(policy_of(), one="x" * (ANSWER + 1))
    assert result.partial
    assert result.reason.startswith("model_failed: ProviderError")
    assert [data["status"] for data in events.of("query_answered")] == ["failed"]


def test_every_response_frame_of_ours_fits_what_a_session_takes() -> None:
    limits = policy_of().boundary
    assert response_bytes_max(limits) >= RESPONSE + limits.batch_items_max * 6 * 4_000

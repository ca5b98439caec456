"""Rollouts: reset, step, reward and a line of JSON, each from the same prepared state."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from rlm_wasm import (
    ModelQuery,
    Policy,
    Rollout,
    RolloutEnvironment,
    Sandbox,
    SandboxSession,
    chat_reply,
    write_jsonl,
)
from rlm_wasm.errors import InternalError, UsageError
from tests.support.machine_grade import POLICY_HERE
from tests.support.runtime_facts import small_policy
from tests.unit.api.test_forks import settled

pytestmark = [pytest.mark.anyio, pytest.mark.guest, pytest.mark.usefixtures("guest", "healthy_host")]


def policy(isolation: str = "inline", **sections: dict[str, Any]) -> Policy:
    sandbox = {"isolation": isolation, "require_lockdown": False} | sections.pop("sandbox", {})
    return small_policy(sandbox=sandbox, **sections)


def block(*lines: str) -> str:
    return "```repl\n" + "\n".join(lines) + "\n```"


async def prepared(session: SandboxSession, **more: Any) -> RolloutEnvironment:
    await session.load("context", "seven\nnine\n" * 100)
    await session.exec("lines = context.splitlines(); seen = []")
    return await RolloutEnvironment.of(session, ["context", "lines"], **more)


@pytest.mark.parametrize("isolation", ["inline", "session"])
async def test_a_rollout_goes_from_its_question_to_its_reward_and_sees_no_other(isolation: str) -> None:
    async def reward(rollout: Rollout) -> float:
        looked = await rollout.session.get("seen")
        return 1.0 if rollout.declared and rollout.answer == "100" and looked == [rollout.number] else 0.0

    async with Sandbox(policy(isolation)) as box, box.session() as session:
        environment = await prepared(session, reward=reward)
        made = []
        for number in range(2):
            async with await environment.reset("How many lines say nine?") as rollout:
                assert [role for role, _ in rollout.messages] == ["system", "user"]
                assert "How many lines say nine?" in rollout.messages[1][1]
                assert "lines" in rollout.messages[1][1]
                before = list(rollout.messages)
                step = await rollout.step(block(f"seen.append({number})", "print(lines.count('nine'))"))
                assert not step.done
                assert step.observation[-1][1].startswith("REPL output:\n\n100\n")
                assert rollout.messages[: len(before)] == before
                assert [role for role, _ in rollout.messages] == ["system", "user", "assistant", "user"]
                step = await rollout.step(
                    block("FINAL(lines.count('nine'))"), token_ids=[5, 6], logprobs=[-0.5, -1]
                )
                assert step.done
                assert step.observation == ()
                made.append(await rollout.finish(step=7))
        for trajectory in made:
            assert (trajectory.reward, trajectory.error, trajectory.answer) == (1.0, None, "100")
            first, last = trajectory.turns
            assert first.cells[0].stdout == "100\n"
            assert last.token_ids == (5, 6)
            assert last.logprobs == (-0.5, -1)
            assert trajectory.info == {"step": 7}
            assert not trajectory.partial
        assert (await session.exec("seen")).value == []
        await settled(box, 1)


async def test_what_a_rollout_is_shown_is_a_prefix_of_what_it_is_shown_next() -> None:
    async with Sandbox(policy()) as box, box.session() as session:
        environment = await prepared(session)
        async with await environment.reset("?") as rollout:
            shown = [list(rollout.messages)]
            for code in ("1 / 0", "len(", "lines[0]"):
                await rollout.step(block(code))
                shown.append(list(rollout.messages))
            await rollout.step("no code at all")
            shown.append(list(rollout.messages))
        for before, after in pairwise(shown):
            assert after[: len(before)] == before
            assert [role for role, _ in after[len(before) :]] == ["assistant", "user"]
        assert "ZeroDivisionError" in shown[1][-1][1]
        assert "SyntaxError" in shown[2][-1][1]
        assert "seven" in shown[3][-1][1]


async def test_the_policys_turns_end_a_rollout_and_its_answer_is_partial() -> None:
    async with Sandbox(policy(run={"turns_max": 2})) as box, box.session() as session:
        environment = await prepared(session, reward=lambda rollout: float(rollout.declared))
        async with await environment.reset("?") as rollout:
            assert not (await rollout.step("It may be nine.\n" + block("1"))).done
            assert (await rollout.step("Still nine.\n" + block("2"))).done
            trajectory = await rollout.finish()
        assert trajectory.partial
        assert trajectory.reward == 0.0
        assert trajectory.stop == "iterations_exhausted"
        with pytest.raises(UsageError, match="ended"):
            await rollout.step("more")


async def test_a_cell_that_loses_its_session_goes_on_from_the_prepared_state() -> None:
    limits = policy(sandbox={"checkpoint_bytes_max": 0}, cell={"fuel_max": 300_000_000})
    async with Sandbox(limits) as box, box.session() as session:
        environment = await prepared(session)
        async with await environment.reset("?") as rollout:
            await rollout.step(
                block(
                    "mine = 1",
                    "while True:",
                    "    try:",
                    "        while True: pass",
                    "    except BaseException: pass",
                )
            )
            step = await rollout.step(block("print(lines.count('nine'), 'mine' in globals())"))
            assert "100 False" in step.observation[-1][1]


async def test_what_its_code_asks_a_model_is_answered_by_who_steps() -> None:
    async def answer(query: ModelQuery) -> str:
        return f"{query.prompt}!"

    async with Sandbox(policy()) as box, box.session() as session:
        environment = await prepared(session)
        async with await environment.reset("?") as rollout:
            await rollout.step(block("FINAL(llm_query('hello'))"), on_query=answer)
            assert rollout.answer == "hello!"


@pytest.mark.parametrize("value", [None, "high", float("nan"), "raise"])
async def test_a_reward_that_fails_is_none_and_told(value: object) -> None:
    def reward(rollout: Rollout) -> Any:
        if value == "raise":
            raise ValueError("no taste")
        return value

    async with Sandbox(policy()) as box, box.session() as session:
        environment = await prepared(session, reward=reward)
        async with await environment.reset("?") as rollout:
            trajectory = await rollout.finish()
        assert trajectory.reward is None
        assert trajectory.error
        assert trajectory.stop == "not ended"
        with pytest.raises(UsageError, match="closed"):
            await rollout.step("1")
        await settled(box, 1)


async def test_a_bug_of_ours_is_no_reward() -> None:
    def reward(rollout: Rollout) -> float:
        raise InternalError("ours")

    async with Sandbox(policy()) as box, box.session() as session:
        environment = await prepared(session, reward=reward)
        async with await environment.reset("?") as rollout:
            with pytest.raises(InternalError):
                await rollout.finish()
        await settled(box, 1)


async def test_names_that_cannot_be_told_of_and_empty_questions_are_refused() -> None:
    async with Sandbox(policy()) as box, box.session() as session:
        for names in (["missing"], ["not a name"], ["lines; 1"]):
            with pytest.raises(UsageError):
                await RolloutEnvironment.of(session, names)
        environment = await prepared(session)
        with pytest.raises(UsageError, match="empty"):
            await environment.reset(" ")
        async with await environment.reset("?") as rollout:
            with pytest.raises(UsageError, match="a str"):
                await rollout.step(7)  # type: ignore[arg-type]


async def test_a_line_of_json_has_all_of_it(tmp_path: Path) -> None:
    async with Sandbox(policy()) as box, box.session() as session:
        environment = await prepared(session, reward=lambda rollout: 0.25)
        made = []
        for answer in ("a", "b"):
            async with await environment.reset("Which?") as rollout:
                await rollout.step(
                    block("print('\\u2028')", f"FINAL({answer!r})"), token_ids=[1], logprobs=[-2.0]
                )
                made.append(await rollout.finish())
    assert write_jsonl(tmp_path / "rollouts.jsonl", made) == 2
    lines = [json.loads(line) for line in (tmp_path / "rollouts.jsonl").read_text().split("\n")[:-1]]
    assert [line["answer"] for line in lines] == ["a", "b"]
    assert lines[0]["prompt"][0]["role"] == "system"
    (turn,) = lines[0]["turns"]
    assert (turn["token_ids"], turn["logprobs"], turn["observation"]) == ([1], [-2.0], None)
    assert turn["cells"][0]["stdout"] == "\u2028\n"
    assert lines[0]["reward"] == 0.25


def completion(**choice: Any) -> dict[str, Any]:
    return {"choices": [{"message": {"content": "hi"}, "finish_reason": "stop"} | choice]}


def test_a_chat_completion_gives_its_tokens_where_it_has_them() -> None:
    plain = chat_reply(completion())
    assert (plain.text, plain.finish, plain.token_ids, plain.logprobs) == ("hi", "stop", None, None)
    entries = [{"token": "token_id:7", "logprob": -0.5}, {"token": "token_id:8", "logprob": -1}]
    spelled = chat_reply(completion(logprobs={"content": entries}))
    assert (spelled.token_ids, spelled.logprobs) == ((7, 8), (-0.5, -1.0))
    texts = [{"token": "h", "logprob": -0.5}, {"token": "i", "logprob": -1}]
    beside = chat_reply(completion(logprobs={"content": texts}, token_ids=[3, 4]))
    assert (beside.token_ids, beside.logprobs) == ((3, 4), (-0.5, -1.0))


@pytest.mark.threat("T-372")
@pytest.mark.parametrize(
    "choice",
    [
        {"logprobs": {"content": [{"logprob": "x"}]}},
        {"logprobs": {"content": [{"logprob": float("inf")}]}},
        {"logprobs": {"content": 7}},
        {"logprobs": []},
        {"token_ids": [True]},
        {"token_ids": [-1]},
        {"token_ids": "77"},
        {"token_ids": [1, 2], "logprobs": {"content": [{"logprob": -1.0}]}},
        {"logprobs": {"content": [{"token": "token_id:" + "9" * 99}]}},
    ],
    ids=lambda choice: str(choice)[:60],
)
def test_tokens_that_are_none_are_left_out(choice: dict[str, Any]) -> None:
    read = chat_reply(completion(**choice))
    assert (read.token_ids, read.logprobs) == (None, None)


@pytest.mark.parametrize(
    "body", [None, [], {}, {"choices": []}, {"choices": [{"message": {"content": None}}]}]
)
def test_a_completion_without_text_is_refused(body: object) -> None:
    with pytest.raises(ValueError, match="no text"):
        chat_reply(body)


PAGE = Path(__file__).parents[3] / "docs" / "rollouts.md"


def test_the_page_prints_what_it_says(guest: object, capsys: pytest.CaptureFixture[str]) -> None:
    ((block, said),) = re.findall(
        r"```python\n(.*?)```\n\nThat prints (.*?)\.\n", PAGE.read_text(), re.DOTALL
    )
    source = block.replace('builtin("strict")', f'builtin("{POLICY_HERE}")')
    exec(compile(source, "rollouts.md", "exec"), {"__name__": "rollouts"})
    assert capsys.readouterr().out.splitlines() == re.findall(r"`([^`]+)`", said)

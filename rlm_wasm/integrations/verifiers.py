"""Rollouts of the package `verifiers` in our sessions: a harness, and an env that keeps them prepared.

    from rlm_wasm.integrations.verifiers import RlmEnv, RlmHarness, RlmTaskData

A taskset whose module exports these beside its own class has its rollouts done here, each in a fork of a
session that was prepared once for its task. What models are asked goes through the package's interception.
The package is an extra: ``pip install 'rlm-wasm[verifiers]'``.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import httpx

from rlm_wasm.api.query_hook import ModelQuery
from rlm_wasm.api.rollouts import Rollout, RolloutEnvironment, as_chat
from rlm_wasm.api.sandbox import Sandbox, SandboxSession
from rlm_wasm.api.trajectory import ChatReply, chat_reply
from rlm_wasm.errors import ProviderError, UsageError
from rlm_wasm.policy.model import Policy

try:
    import verifiers.v1 as vf
except ImportError as error:
    raise ImportError("the package verifiers is not installed: pip install 'rlm-wasm[verifiers]'") from error

__all__ = ["RlmEnv", "RlmHarness", "RlmHarnessConfig", "RlmTaskData", "export_jsonl"]

# Under this name a rollout is in its trace's `info`.
INFO: Final = "rlm_wasm"
# Prepared sessions that are kept for the next rollout of their task, oldest use out first.
_PREPARED_MAX: Final = 64


# The package's types are not there where ours are checked.
class RlmTaskData(vf.TaskData):  # type: ignore[misc]
    """A task whose `prompt` is a question about `contexts`, which become variables of the session.

    `prepare` is a cell that runs once, before the session is forked; `check` one that runs in each rollout's
    session after its end, whose last value is in the trace as `info["rlm_wasm"]["check"]`, for a reward.
    """

    contexts: dict[str, str] = {}  # noqa: RUF012 - a copy for each of them
    prepare: str = ""
    check: str = ""


class RlmHarnessConfig(vf.HarnessConfig):  # type: ignore[misc]
    """`policy` is the name of a built-in one, or a file's."""

    policy: str = "strict"


class _Prepared:
    """An open sandbox, and the prepared sessions of the tasks that were seen in it, as snapshots."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._environments: OrderedDict[str, asyncio.Task[RolloutEnvironment]] = OrderedDict()
        self._ending = asyncio.Event()
        self._opened: asyncio.Future[Sandbox] = asyncio.get_running_loop().create_future()
        # One task opens and closes it, whichever tasks ask for that.
        self._holder = asyncio.create_task(self._hold())

    async def _hold(self) -> None:
        try:
            async with Sandbox(self._policy) as sandbox:
                self._opened.set_result(sandbox)
                await self._ending.wait()
        except BaseException as error:
            if not self._opened.done():
                self._opened.set_exception(error)
            raise

    async def rollout(self, data: RlmTaskData) -> Rollout:
        sandbox = await asyncio.shield(self._opened)
        key = sha256(json.dumps([data.contexts, data.prepare, data.system_prompt]).encode()).hexdigest()
        task = self._environments.get(key)
        if task is None or (task.done() and (task.cancelled() or task.exception() is not None)):
            task = self._environments[key] = asyncio.create_task(_environment(sandbox, data))
        self._environments.move_to_end(key)
        while len(self._environments) > _PREPARED_MAX:
            self._environments.popitem(last=False)
        environment = await asyncio.shield(task)
        return await environment.reset(data.prompt_text)

    async def aclose(self) -> None:
        tasks = list(self._environments.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._environments.clear()
        self._ending.set()
        with contextlib.suppress(Exception):  # whoever wanted a session has been told
            await self._holder


async def _environment(sandbox: Sandbox, data: RlmTaskData) -> RolloutEnvironment:
    async with sandbox.session() as session:
        for name, value in data.contexts.items():
            await session.load(name, value)
        if data.prepare:
            (await session.exec(data.prepare)).raise_for_outcome()
        return await RolloutEnvironment.of(session, tuple(data.contexts), instructions=data.system_prompt)


# The open ones, by their loop and the policy's name: whoever begins a rollout has the harness's config alone.
_OPEN: Final[dict[tuple[int, str], _Prepared]] = {}


def _key(config: RlmHarnessConfig) -> tuple[int, str]:
    return id(asyncio.get_running_loop()), config.policy


class RlmHarness(vf.Harness[RlmHarnessConfig]):  # type: ignore[misc]
    """Runs the loop of a run in this process, and the code of the model in a session of ours.

    Nothing runs in the package's `runtime`. Every model call, those of `llm_query` too, goes through the
    package's interception. The messages of a rollout only grow, so it is one branch, one training sample.
    """

    APPENDS_SYSTEM_PROMPT = True
    EXECUTES_CODE = False  # not where the package warns about it: behind two walls of ours
    NEEDS_CONTAINER = False

    async def launch(
        self,
        ctx: Any,
        trace: Any,
        runtime: Any,
        endpoint: str,
        secret: str,
        mcp_urls: dict[str, str],
        data: Any,
    ) -> Any:
        """Do one rollout. A task of another class than RlmTaskData has no contexts, and nothing prepared."""
        if mcp_urls:
            raise vf.HarnessError("tool servers are not for this harness: give guests tools by a policy")
        given = data if isinstance(data, RlmTaskData) else RlmTaskData.model_validate(data.model_dump())
        held = _OPEN.get(_key(self.config))
        own = None if held is not None else _Prepared(Policy.open(self.config.policy))
        try:
            async with await (held or own).rollout(given) as rollout:  # type: ignore[union-attr]
                return await self._converse(rollout, ctx.model, trace, endpoint, secret, given.check)
        finally:
            if own is not None:
                await own.aclose()

    async def _converse(
        self, rollout: Rollout, model: str, trace: Any, endpoint: str, secret: str, check: str
    ) -> Any:
        headers = {"Authorization": f"Bearer {secret}"}
        async with httpx.AsyncClient(headers=headers, timeout=None, trust_env=False) as client:  # noqa: S113

            async def ask(messages: list[Mapping[str, str]]) -> ChatReply:
                body = {"model": model, "messages": messages}
                response = await client.post(f"{endpoint}/chat/completions", json=body)
                response.raise_for_status()
                return chat_reply(response.json())

            async def answer(query: ModelQuery) -> str:
                try:
                    return (await ask([{"role": "user", "content": query.prompt}])).text
                except (httpx.HTTPError, ValueError) as error:
                    raise ProviderError(f"the model did not answer: {type(error).__name__}") from error

            stderr = ""
            try:
                while not rollout.done:
                    reply = await ask(as_chat(rollout.messages))
                    await rollout.step(
                        reply.text,
                        finish=reply.finish,
                        token_ids=reply.token_ids,
                        logprobs=reply.logprobs,
                        on_query=answer,
                    )
            except (httpx.HTTPError, ValueError) as error:  # the package knows why, and says so
                stderr = f"the model did not answer: {type(error).__name__}: {error}"
            checked = await _checked(rollout.session, check) if check else None
            made = await rollout.finish(**({"check": checked} if check else {}))
        trace.info[INFO] = {**made.to_mapping(), "check": checked}
        if made.answer is not None:
            trace.root_reply = made.answer
        return vf.ProgramResult(exit_code=1 if stderr else 0, stdout=made.answer or "", stderr=stderr)


async def _checked(session: SandboxSession, check: str) -> Any:
    """Return the value of the cell that checks, or None where that failed."""
    result = await session.exec(check)
    try:
        return None if result.error is not None else result.value
    except UsageError:  # it has no JSON form, or is too large
        return None


class RlmEnv(vf.SingleAgentEnv):  # type: ignore[misc]
    """The package's single agent, with a sandbox that stays open, and prepared sessions that are kept."""

    _held: tuple[tuple[int, str], ...] = ()

    async def start(self) -> None:
        """Open a sandbox for each policy that a harness of ours names."""
        for harness in self._harnesses.values():
            if isinstance(harness, RlmHarness) and _key(harness.config) not in _OPEN:
                _OPEN[_key(harness.config)] = _Prepared(Policy.open(harness.config.policy))
                self._held += (_key(harness.config),)

    async def stop(self) -> None:
        """Close what `start` opened."""
        held, self._held = self._held, ()
        for key in held:
            await _OPEN.pop(key).aclose()


def export_jsonl(path: str | Path, traces: Iterable[Any]) -> int:
    """Write each trace's rollout as a line, with the tokens and rewards that the package recorded.

    A turn's `token_ids` and `logprobs` are those of its sampled node, where that has some; else what the
    endpoint gave. Returns how many there are. Raises OSError as `open` does.
    """
    count = 0
    with Path(path).open("w", encoding="utf-8") as file:
        for trace in traces:
            file.write(json.dumps(_line(trace)) + "\n")
            count += 1
    return count


def _line(trace: Any) -> dict[str, Any]:
    line = dict(trace.info.get(INFO) or {})
    nodes = [node for node in trace.nodes if node.sampled]
    replies: dict[str, list[Any]] = {}
    for node in nodes:
        replies.setdefault(str(node.message.content), []).append(node)
    turns = []
    for turn in line.get("turns", ()):
        found = replies.get(turn["reply"])
        node = found.pop(0) if found else None
        if node is not None and node.token_ids:
            sampled = [token for token, mine in zip(node.token_ids, node.mask, strict=False) if mine]
            turn = turn | {"token_ids": sampled, "logprobs": list(node.logprobs) or None}
        turns.append(turn)
    rewards = {name: None if each is None else each.value for name, each in trace.rewards.items()}
    return line | {
        "turns": turns,
        "id": trace.id,
        "task": trace.task.key,
        "reward": trace.reward,
        "rewards": rewards,
        "metrics": dict(trace.metrics),
        "stop": trace.stop_condition or line.get("stop"),
    }

"""All that is behind a server while it serves: the sandbox, and its clients' sessions until they are idle."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio

from rlm_wasm.api.runtime import Runtime
from rlm_wasm.api.sandbox import Sandbox
from rlm_wasm.inputs.roots import Roots
from rlm_wasm.mcp.client_calls import Served
from rlm_wasm.mcp.client_sessions import ClientSessions
from rlm_wasm.policy.model import Policy


@asynccontextmanager
async def serving(policy: Policy, runtime: Runtime | None, roots: Roots) -> AsyncIterator[Served]:
    """Have what serves clients under a policy; all sessions are closed behind it.

    Raises what entering a `Sandbox` does, and an exception of the body's as it is.
    """
    failure: Exception | None = None
    async with Sandbox(policy) as sandbox:
        sessions = ClientSessions(sandbox, policy.mcp_limits())
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_close_idle, sessions)
            try:
                yield Served(policy, sessions, runtime, roots)
            except Exception as error:  # noqa: BLE001 - raised again below, without the task group's wrapping
                failure = error
            finally:
                tasks.cancel_scope.cancel()
                await sessions.aclose()
    if failure is not None:
        raise failure


async def _close_idle(sessions: ClientSessions) -> None:
    while True:  # noqa: ASYNC110 - until the first can be idle
        await anyio.sleep(await sessions.close_idle())

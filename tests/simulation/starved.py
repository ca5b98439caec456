"""``python -m tests.simulation.starved fds|files|log``: real runs in a process that has run out of something.

``fds``: descriptors; ``files``: bytes a file may have, memory files included; ``log``: the same for the
event log alone. The limit is raised by one step after each run, until two runs were refused nothing.
Prints a line of JSON for each run: what it came to, and what was left of it.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import anyio

from rlm_wasm.api.runtime import Runtime
from rlm_wasm.api.world import World
from rlm_wasm.audit.sink import JsonlSink
from rlm_wasm.errors import RlmWasmError
from rlm_wasm.events import Event
from rlm_wasm.inline.worker import InlineWorker
from rlm_wasm.providers.base import Completion, Query
from tests.simulation.books import Books
from tests.simulation.watched import watch
from tests.support.runtime_facts import small_policy

STEPS_MAX = 400
STEPS = {"fds": 1, "files": 4_096, "log": 150}
REPLIES = (
    "```repl\nx = len(context)\nprint(llm_query('one'))\n```",
    "```repl\nprint(llm_query_batched(['two', 'three']))\n```\n```repl\nimport os; os._exit(3)\n```",
    "```repl\nFINAL(f'{x} {len(context)}')\n```",
)


class Model:
    """Replies by turn; anything else is answered in capitals."""

    async def complete(self, query: Query) -> Completion:
        await anyio.lowlevel.checkpoint()
        root = query.messages[0].role == "system"
        turn = sum(message.role == "assistant" for message in query.messages)
        text = REPLIES[min(turn, 2)] if root else query.messages[-1].content.upper()
        return Completion(text, 3, 3)

    async def aclose(self) -> None:
        pass


def open_fds() -> int:
    """Return how many descriptors are open, but for the one that counts them."""
    return len(os.listdir("/proc/self/fd")) - 1


@contextmanager
def limited(kind: str, limit: int) -> Iterator[None]:
    """Allow `limit` more descriptors than are open, or bytes a file."""
    which = resource.RLIMIT_NOFILE if kind == "fds" else resource.RLIMIT_FSIZE
    before = resource.getrlimit(which)
    resource.setrlimit(which, (open_fds() + limit if kind == "fds" else limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(which, before)


async def one(kind: str, limit: int, folder: Path, worker: InlineWorker) -> dict[str, Any]:
    """Run once under the limit; return what it came to."""
    policy = small_policy(events={"buffer_events_max": 2, "when_full": "spill"})
    context = "x" * (2 << 20) if kind == "fds" else "x"
    books = Books(policy.permit_limits())
    told: dict[str, Any] = {"limit": limit}

    def write(event: Event) -> None:
        with limited(kind, limit) if kind == "log" else nullcontext():
            sink.write(event)

    async with Runtime.in_world(policy, World(worker=worker), route=lambda name: (Model(), name)) as runtime:
        assert runtime._broker is not None
        watch(runtime._broker, books, lambda: None)
        try:
            with nullcontext() if kind == "log" else limited(kind, limit):
                with JsonlSink(folder / "events.jsonl") as sink:
                    run = runtime.start("?", context, sinks=[write])
                    async with run.events() as reader:
                        result = await run.result()
                        told["read"] = sum([1 async for _ in reader])
            told |= {"answer": result.answer, "reason": result.reason, "partial": result.partial}
        except RlmWasmError as error:
            told |= {"error": type(error).__name__, "message": error.message}
        log = folder / "events.jsonl"
        told["lines"] = log.read_bytes().count(b"\n") if log.exists() else 0
        told["idle"] = runtime._broker.idle
    told["wrong"] = books.wrong
    return told


async def warm(worker: InlineWorker) -> None:
    """Have the worker's thread and the guest there before a limit is: they are not what is swept."""
    session = await worker.session(small_policy().session_limits(), small_policy().boundary)
    await session.aclose()


async def sweep(kind: str) -> None:
    """Run until two runs in a row were refused nothing."""
    good = 0
    with tempfile.TemporaryDirectory() as name:
        async with InlineWorker() as worker:
            await warm(worker)
        for step in range(STEPS_MAX):
            before = open_fds()
            async with InlineWorker() as worker:
                await warm(worker)
                told = await one(kind, step * STEPS[kind], Path(name), worker)
            # Now that its thread has ended: it frees a session when it gets to it. And what only an
            # exception's own frames still hold is no leak.
            gc.collect()
            told["fds"] = open_fds() - before
            print(json.dumps(told), flush=True)
            good = good + 1 if told.get("reason") == "finished" else 0
            if good == 2:
                return
    raise SystemExit(f"refused something even after {STEPS_MAX} steps")


if __name__ == "__main__":
    anyio.run(sweep, sys.argv[1])

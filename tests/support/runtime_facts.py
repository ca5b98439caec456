"""A runtime over real parts: strict with small limits, a scripted model in a file, every event kept."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel

from rlm_wasm.api.runtime import Runtime
from rlm_wasm.events import Event
from rlm_wasm.policy.model import Policy
from tests.support.machine_grade import lockdown_here


def small_policy(**sections: dict[str, Any]) -> Policy:
    """Return strict with limits that tests meet quickly, and the given keys of sections replaced."""
    data = Policy.builtin("strict").to_mapping()
    data["sandbox"] |= {"isolation": "inline", "require_lockdown": False}
    data["sandbox"] |= {"memory_bytes_max": 128 << 20, "context_bytes_max": 64 << 20}
    data["sandbox"] |= {"whole_context_chars_max": 1_000}
    # Time enough that on a machine that is busy, too, it is the fuel that ends a cell.
    data["cell"] |= {"fuel_max": 3_000_000_000, "wall_ms_max": 60_000, "requests_max": 16}
    data["boundary"] |= {"batch_items_max": 16}
    data["query"] |= {"backoff_ms_first": 1, "backoff_ms_max": 2}
    for name, keys in sections.items():
        data[name] |= keys
    if data["sandbox"]["require_lockdown"]:
        # As much of it as this machine can give.
        data["sandbox"].update(lockdown_here())
    return Policy.from_mapping(data)


class Script:
    """A model's replies, written to a TOML file as an operator would."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "model.toml"
        self._text = ""

    def reply(self, role: str, text: str, **more: int | str) -> Script:
        """Add a reply: a root's text is code, put into a block."""
        body = f"```repl\n{text}\n```" if role == "root" and not more.pop("plain", False) else text
        self._text += f"[[reply]]\nrole = {role!r}\ntext = '''\n{body}'''\n"
        for key, value in more.items():
            self._text += f"{key} = {json.dumps(value)}\n"
        self.path.write_text(self._text)
        return self

    @property
    def spec(self) -> str:
        return f"script:{self.path}"


def observant_model(folder: Path, first: str, seen: str, then: str, sub: str = "") -> str:
    """Write a root model that runs `first`, and `then` once the pattern `seen` is in what it was shown.

    `then` may use the pattern's groups. Returns the model's name.
    """
    path = folder / "model.py"
    path.write_text(
        "import re\n"
        f"FIRST, SEEN, THEN, SUB = {first!r}, {seen!r}, {then!r}, {sub!r}\n"
        "def reply(messages, model):\n"
        "    if messages[0]['role'] != 'system': return SUB\n"
        "    if len(messages) <= 3: return f'```repl\\n{FIRST}\\n```'\n"
        "    found = re.search(SEEN, '\\n'.join(m['content'] for m in messages[3:]))\n"
        "    code = found.expand(THEN) if found else 'FINAL(\"not shown\")'\n"
        "    return f'```repl\\n{code}\\n```'\n"
    )
    return f"script:{path}"


def tireless_model(folder: Path) -> str:
    """Write a root model that asks and prints for ever; asked last, it says what it was shown."""
    path = folder / "tireless.py"
    path.write_text(
        "def reply(messages, model):\n"
        "    if messages[0]['role'] != 'system': return 'seventeen'\n"
        "    if 'must end now' in messages[-1]['content']:\n"
        "        return 'I saw ' + messages[-2]['content'].split()[2]\n"
        "    return f'```repl\\nprint(llm_query(\"{len(messages)}\"))\\n```'\n"
    )
    return f"script:{path}"


def tree_model(folder: Path, **code: str) -> str:
    """Write a model for every depth: its code is chosen by the first word of its question.

    A question beginning with `deep` is answered by the block given as `deep`; llm_query by capitals.
    Returns the model's name.
    """
    path = folder / "tree.py"
    path.write_text(
        f"CODE = {code!r}\n"
        "def reply(messages, model):\n"
        "    if messages[0]['role'] != 'system': return messages[0]['content'].upper()\n"
        "    word = messages[1]['content'].removeprefix('Question: ').split()[0]\n"
        "    return '```repl\\n' + CODE[word] + '\\n```'\n"
    )
    return f"script:{path}"


class Events(list[Event]):
    """A sink that keeps every event."""

    def kinds(self) -> list[str]:
        return [event.kind for event in self]

    def of(self, kind: str) -> list[dict[str, object]]:
        return [event.data for event in self if event.kind == kind]

    def assert_complete(self) -> None:
        """From run_started to run_ended, without a gap."""
        assert [event.seq for event in self] == list(range(len(self)))
        assert self[0].kind == "run_started"
        assert self[-1].kind == "run_ended"
        assert len({event.run_id for event in self}) == 1
        received = [data["request"] for data in self.of("query_received")]
        answered = [data["request"] for data in self.of("query_answered")]
        assert sorted(received) == sorted(answered)  # type: ignore[type-var]
        assert len(set(answered)) == len(answered)
        children = [data["request"] for data in self.of("child_started")]
        assert sorted(children) == sorted(data["request"] for data in self.of("child_answered"))  # type: ignore[type-var]


@asynccontextmanager
async def running(policy: Policy, model: str | None = None, **more: Any) -> AsyncIterator[Runtime]:
    """Open a runtime; at the end nothing may be open in it."""
    async with Runtime(policy, model=model, **more) as runtime:
        yield runtime
        assert runtime._broker is not None
        with anyio.fail_after(60):
            while not runtime._broker.idle:  # a cancelled call to a provider is still hanging up
                await anyio.lowlevel.checkpoint()
        # Commands are taken in order: once this session is there, every earlier one has been closed.
        async with await runtime._worker.session(policy.session_limits(), policy.boundary):
            assert runtime._worker._loop.open_sessions == 1

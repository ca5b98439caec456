"""A provider's key is in no process but the host's: live workers and zygotes are searched for it."""

from __future__ import annotations

import base64
import os
import secrets
import subprocess
import sys
from typing import Any

import pytest

from rlm_wasm.api.runtime import Runtime
from rlm_wasm.host.pool import WorkerPool
from tests.faults.leftovers import children_of, descendants
from tests.faults.memory import holds
from tests.support.pool_facts import until
from tests.support.provider_loopback import KEY_VARIABLE, Seen, Write, completion_body, http, loopback_server
from tests.support.runtime_facts import small_policy

pytestmark = [
    pytest.mark.guest,
    pytest.mark.usefixtures("guest"),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root reads the memory of a locked worker"),
]


@pytest.mark.anyio
@pytest.mark.threat("T-063")
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_no_worker_and_no_zygote_holds_a_key_of_a_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    """While a guest waits for a model that was asked with the key; what it asked is in its worker."""
    # Made here, so that no file and no constant that a zygote loads can hold any of them.
    key, marker = f"sk-live-{secrets.token_hex(24)}", f"marker-{secrets.token_hex(16)}"
    monkeypatch.setenv(KEY_VARIABLE, key)
    needles = (key.encode(), base64.b64encode(key.encode()), key.encode("utf-16-le"), key[8:40].encode())

    def behave(seen: Seen, write: Write) -> None:
        assert seen.headers["authorization"] == f"Bearer {key}", "the key is in use"
        messages: Any = seen.body["messages"]
        if messages[0]["role"] == "system":
            write(http("200 OK", completion_body("```repl\nFINAL(llm_query(context))\n```")))
        else:
            server.hold = True  # the model thinks: the guest waits

    with loopback_server() as server:
        server.behaviour = behave
        endpoint = {
            "base_url": server.url, "api_key_env": KEY_VARIABLE, "connect_timeout_ms": 5_000,
            "output_tokens_field": "max_completion_tokens",
        }  # fmt: skip
        policy = small_policy(providers={"openai": endpoint}, sandbox={"isolation": "session"})
        async with Runtime(policy) as runtime:
            pool = runtime._worker
            assert isinstance(pool, WorkerPool)
            run = runtime.start("?", marker)
            await until(lambda: server.hold, 30)
            (worker,) = [connection.child.pid for connection in pool.connections]
            (zygote_client,) = pool.zygote_clients
            outer = zygote_client.zygote_pid
            assert outer is not None
            (inner,) = children_of(outer)
            assert worker in children_of(inner)
            searched = {pid: holds(pid, (*needles, marker.encode())) for pid in (worker, inner, outer)}
            others = {each.pid for each in descendants()} - searched.keys()
            control, _ = holds(os.getpid(), needles)
            run.cancel("seen enough")
            await run.result()

    assert {needles[0], needles[3]} <= control, "the search finds the key where it is"
    assert others == set(), "every process that was started was searched"
    assert marker.encode() in searched[worker][0], "the search reaches a worker's guest"
    for pid, (found, read) in searched.items():
        assert read > 10 << 20, f"too little of {pid} could be read"
        assert found.isdisjoint(needles), f"the key is in process {pid}"


@pytest.mark.threat("T-063")
def test_the_search_finds_what_a_child_has_in_its_environment() -> None:
    """The control for a child: one that is started as anybody would start it holds the key twice."""
    needle = f"sk-{secrets.token_hex(24)}"
    started = subprocess.Popen(
        [sys.executable, "-c", "print(flush=True); input()"],
        env={"K": needle}, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert started.stdout is not None
        started.stdout.readline()
        assert holds(started.pid, (needle.encode(),))[0] == {needle.encode()}
    finally:
        started.communicate(b"\n")

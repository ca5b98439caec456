"""A guest that is unpacked first keeps nobody from the event loop, and nobody from giving up."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import sleep

import anyio
import anyio.from_thread
import pytest

from rlm_wasm import Policy, Runtime, Sandbox
from rlm_wasm.artifacts import first_use
from rlm_wasm.artifacts import held_lock as locks
from rlm_wasm.artifacts import process_guest as process
from rlm_wasm.artifacts.guest import load_guest
from rlm_wasm.artifacts.held_lock import held_lock
from rlm_wasm.artifacts.paths import guests_dir
from rlm_wasm.artifacts.process_guest import known_guest
from rlm_wasm.artifacts.shipped import LOCK_FILE
from rlm_wasm.engine.description import WrittenPolicy, description
from rlm_wasm.host.guest_search import found_guest
from tests.support.images import carry_guest

pytestmark = [pytest.mark.usefixtures("own_folders"), pytest.mark.anyio]

ISOLATIONS = ["session", "inline"]


def policy(isolation: str) -> Policy:
    return Policy.builtin("standard").replace(sandbox={"isolation": isolation})


@pytest.fixture
def unpacked_in(own_folders: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """An installation whose guest is still packed; in which threads it was unpacked."""
    carry_guest(own_folders / "packed", monkeypatch)
    monkeypatch.setattr(process, "_found", {})
    found: list[str] = []

    @contextmanager
    def watcher(what: str) -> Iterator[None]:
        found.append(threading.current_thread().name)
        yield

    monkeypatch.setattr(first_use, "_watcher", watcher)
    return found


@pytest.mark.parametrize("isolation", ISOLATIONS)
async def test_who_opens_a_sandbox_has_the_guest_found_on_another_thread(
    unpacked_in: list[str], isolation: str
) -> None:
    async with Sandbox(policy(isolation)):
        assert known_guest() is not None
    assert len(unpacked_in) == 1
    assert threading.current_thread().name not in unpacked_in


async def test_so_has_who_opens_a_runtime(unpacked_in: list[str], tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text("def reply(messages, model):\n    return ''\n")
    async with Runtime(policy("session"), model=f"script:{tmp_path / 'model.py'}"):
        assert known_guest() is not None
    assert len(unpacked_in) == 1
    assert threading.current_thread().name not in unpacked_in


async def test_a_run_is_described_without_unpacking_on_the_event_loop(unpacked_in: list[str]) -> None:
    told = await description(WrittenPolicy.of(policy("session")), "?", {}, files={})
    assert told["guest_code_sha256"] == load_guest(guests_dir() / "test").facts.code_sha256
    assert len(unpacked_in) == 1
    assert threading.current_thread().name not in unpacked_in


@pytest.mark.parametrize("isolation", ISOLATIONS)
async def test_who_waits_for_another_process_that_unpacks_can_give_up(
    unpacked_in: list[str], isolation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits = []

    def give_up(seconds: float) -> None:
        """Once the thread waits for the lock."""
        if not waits:
            waits.append(seconds)
            anyio.from_thread.run_sync(scope.cancel)
        sleep(seconds)

    monkeypatch.setattr(locks, "sleep", give_up)
    with held_lock(guests_dir() / LOCK_FILE):  # let go of only when it was given up
        with anyio.CancelScope() as scope:
            async with Sandbox(policy(isolation)):
                raise AssertionError("it was opened without a guest")
        assert scope.cancelled_caught
    with process._looking:  # until the thread that was left behind is through
        assert len(unpacked_in) == 1
    async with Sandbox(policy(isolation)):
        assert known_guest() is not None


async def test_without_a_guest_it_opens_and_says_so_where_one_is_wanted(
    own_folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "_found", {})
    monkeypatch.setenv("RLM_WASM_GUEST", str(own_folders / "none"))
    async with Sandbox(policy("session")):
        assert await found_guest() is None
    told = await description(WrittenPolicy.of(policy("session")), "?", {}, files={})
    assert (told["guest_code_sha256"], told["guest_image_sha256"]) == ("", "")

"""CPython 3.14 and later look at the stack pointer: on a fiber they have to find a stack they know."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from rlm_wasm.errors import GuestTrap, PolicyError
from rlm_wasm.protocol.cell import Cell
from rlm_wasm.vm import fiber_unsafe
from rlm_wasm.vm.import_handler import OperationImports
from rlm_wasm.vm.linear_unsafe import MAP_FAILED
from rlm_wasm.vm.session import drive
from tests.support.sandbox_facts import cell_limits
from tests.support.wat_guest import session_of

pytestmark = pytest.mark.usefixtures("healthy_host")

CLOCK = "(drop (call $clock (i32.const 0)))"
DEEP = "[" * 1_000_000


def in_callback(monkeypatch: pytest.MonkeyPatch, body: Callable[[], Any], times: int = 1) -> list[Any]:
    """What `body` returned each time the guest called the host, on the guest's stack."""
    seen: list[Any] = []

    def on_clock(self: OperationImports, clock_id: int) -> int:
        try:
            seen.append(body())
        except Exception as error:  # noqa: BLE001 - it would end the process
            seen.append(error)
        return 0

    monkeypatch.setattr(OperationImports, "on_clock", on_clock)
    with session_of(CLOCK * times) as session:
        drive(session.run(Cell("", cell_limits())))
    return seen


class Told:
    """Counts how many of its kind were freed."""

    freed = 0

    def __del__(self) -> None:
        Told.freed += 1


def test_what_a_callback_drops_is_freed_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def body() -> int:
        before = Told.freed
        [Told()].clear()
        return Told.freed - before

    assert in_callback(monkeypatch, body, 3) == [1, 1, 1]


@pytest.mark.skipif(sys.version_info < (3, 12), reason="3.11 counts frames alone")
def test_a_callback_that_goes_too_deep_gets_an_exception(monkeypatch: pytest.MonkeyPatch) -> None:
    (error,) = in_callback(monkeypatch, lambda: json.loads(DEEP))
    assert isinstance(error, RecursionError)


def chain() -> None:
    link: Any = None
    for _ in range(2_000_000):
        link = [link]


def ring() -> None:
    link: Any = []
    link.append(link)
    for _ in range(2_000_000):
        link = [link]


@pytest.mark.parametrize("make", [chain, ring])
def test_a_long_chain_is_freed_in_a_callback(
    make: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def body() -> bool:
        make()
        gc.collect()
        return True

    assert in_callback(monkeypatch, body) == [True]


@pytest.mark.skipif(not fiber_unsafe.WANTED, reason="this Python does not look at the stack pointer")
def test_after_a_poll_the_thread_has_its_own_bounds_again(monkeypatch: pytest.MonkeyPatch) -> None:
    in_callback(monkeypatch, lambda: None)
    with pytest.raises(RecursionError):
        json.loads(DEEP)


@pytest.mark.skipif(not fiber_unsafe.WANTED, reason="this Python does not look at the stack pointer")
def test_a_stack_that_cannot_be_mapped_ends_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    with session_of("") as session:
        monkeypatch.setattr(fiber_unsafe.system, "mmap", lambda *args: MAP_FAILED)
        end = drive(session.run(Cell("", cell_limits())))
        monkeypatch.undo()
    assert isinstance(end.fault, GuestTrap)


@pytest.mark.skipif(not fiber_unsafe.WANTED, reason="this Python does not look at the stack pointer")
def test_a_python_that_cannot_be_told_makes_no_engine() -> None:
    script = (
        "from rlm_wasm.vm import engine, fiber_unsafe\nfiber_unsafe._set_bounds = None\nengine.engine()\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert PolicyError.__name__ in done.stderr

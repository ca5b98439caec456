"""A callback of ours that fails inside wasmtime ends the process; one that can refuse, refuses."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from rlm_wasm.errors import HostExhausted, InternalError
from rlm_wasm.protocol.cell import Cell
from rlm_wasm.vm import fatal, linear_unsafe
from rlm_wasm.vm.linear_unsafe import MAP_FAILED, SystemCalls
from rlm_wasm.vm.session import Session, drive
from tests.support.sandbox_facts import MIB, cell_limits, completed, run_cell
from tests.support.wat_guest import MEMORY_BYTES, session_of

ROOT = Path(__file__).parents[3]


@pytest.mark.threat("T-013")
@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("new memory", "ZeroDivisionError in the callback _new_memory"),
        ("get memory", "KeyError in the callback _get_memory"),
        ("grow", "ZeroDivisionError in the callback _grow_memory"),
        ("finalizer", "ZeroDivisionError in the callback _finalize"),
        ("finalizer that fails", "a memory could not be unmapped"),
        ("import", "ZeroDivisionError in the callback import_clock"),
        ("entry of new memory", "MemoryError on entry to a callback"),
        ("entry of an import", "MemoryError on entry to a callback"),
        ("hook replaced", "MemoryError on entry to a callback"),
        ("half-made memory that stays", "a half-made memory could not be unmapped"),
    ],
)
def test_an_exception_in_a_callback_ends_the_process_at_once(what: str, says: str, tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "RLM_WASM_CACHE": str(tmp_path / "cache"),
        "RLM_WASM_STATE": str(tmp_path / "state"),
    }
    ended = subprocess.run(
        [sys.executable, "-m", "tests.support.fatal_probe", what],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert (ended.returncode, ended.stdout) == (fatal.EXIT_CODE, ""), ended.stderr
    assert f"rlm-wasm: fatal: {says}" in ended.stderr


class Failing(SystemCalls):
    """The real system calls, of which one kind fails from its n-th call on."""

    def __init__(self, kind: str, after: int) -> None:
        super().__init__()
        self.kind = kind
        self.left = after
        self.unmapped = 0

    def _fails(self, kind: str) -> bool:
        if kind != self.kind:
            return False
        self.left -= 1
        return self.left < 0

    def mmap(self, address: int, length: int, protection: int, flags: int, fd: int, offset: int = 0) -> int:
        if self._fails("mmap"):
            return MAP_FAILED
        return super().mmap(address, length, protection, flags, fd, offset)

    def mprotect(self, address: int, length: int, protection: int) -> int:
        return -1 if self._fails("mprotect") else super().mprotect(address, length, protection)

    def munmap(self, address: int, length: int) -> int:
        self.unmapped += 1
        return super().munmap(address, length)


@pytest.mark.threat("T-014")
@pytest.mark.usefixtures("healthy_host")
@pytest.mark.parametrize(("kind", "after", "unmapped"), [("mmap", 0, 0), ("mmap", 1, 1), ("mprotect", 0, 1)])
def test_a_memory_that_cannot_be_mapped_is_an_error_and_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, kind: str, after: int, unmapped: int
) -> None:
    system = Failing(kind, after)
    monkeypatch.setattr(linear_unsafe, "system", system)
    with pytest.raises(HostExhausted, match=r"no address space|could not be mapped"):
        with session_of(""):
            pass
    assert system.unmapped == unmapped
    monkeypatch.undo()
    with session_of("") as session:
        assert drive(session.run(Cell("", cell_limits()))).fault is None


@pytest.mark.threat("T-014")
def test_growth_that_fails_is_minus_one_in_the_guest(monkeypatch: pytest.MonkeyPatch) -> None:
    body = "(if (i32.ne (memory.grow (i32.const 1)) (i32.const -1)) (then (unreachable)))"
    with session_of(body) as session:
        monkeypatch.setattr(linear_unsafe, "system", Failing("mprotect", 0))
        end = drive(session.run(Cell("", cell_limits())))
        monkeypatch.undo()
        assert (end.fault, end.memory_bytes) == (None, MEMORY_BYTES)


@pytest.mark.guest
@pytest.mark.threat("T-014")
def test_growth_that_fails_is_a_memory_error_in_python(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linear_unsafe, "system", Failing("mprotect", 0))
    assert run_cell(session, "x = bytearray(40_000_000)").outcome == "memory_exceeded"
    monkeypatch.undo()
    assert completed(session, "x = bytearray(40_000_000)\nlen(x)").result == "40000000"


@pytest.mark.threat("T-014")
def test_a_process_without_address_space_gets_an_error(tmp_path: Path) -> None:
    """The kernel's own refusal, not an injected one."""
    program = (
        "from rlm_wasm.vm.engine import engine; engine()\n"
        "import resource; resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))\n"
        "from tests.support.wat_guest import session_of\n"
        "from rlm_wasm.errors import HostExhausted\n"
        "try:\n"
        "    with session_of(''): print('made')\n"
        "except HostExhausted as error: print(error)\n"
    )
    environment = {**os.environ, "RLM_WASM_CACHE": str(tmp_path / "c"), "RLM_WASM_STATE": str(tmp_path / "s")}
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60
    )
    assert ended.returncode == 0, ended.stderr
    assert "no address space: Cannot allocate memory" in ended.stdout
    assert resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY


def test_unraisable_exceptions_of_others_go_where_they_went(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(sys, "unraisablehook", seen.append)
    fatal.install_hook()

    class Noisy:
        def __del__(self) -> None:
            raise ValueError("mine")

    Noisy()
    assert [type(args.exc_value) for args in seen] == [ValueError]
    # A framework that wraps our hook, and our hook put over it again: called back once, not for ever.
    ours = sys.unraisablehook
    monkeypatch.setattr(sys, "unraisablehook", lambda args: ours(args) or seen.append(args))
    fatal.install_hook()
    Noisy()
    assert len(seen) == 2


@pytest.mark.threat("T-013")
def test_wasmtimes_record_of_a_memory_is_compared_with_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    with session_of("") as session:
        linear = session._instance.memory._linear
        for field in ("size", "base"):
            monkeypatch.setattr(linear, field, getattr(linear, field) + 65_536)
            with pytest.raises(InternalError, match="disagree"):
                session._instance.verify_memory()
            monkeypatch.undo()
        session._instance.verify_memory()


@pytest.mark.guest
@pytest.mark.threat("T-013")
def test_memory_is_verified_after_each_cell(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    completed(session, "x = bytearray(50_000_000)")
    checks = []
    real = type(session._instance).verify_memory
    monkeypatch.setattr(type(session._instance), "verify_memory", lambda self: checks.append(real(self)))
    completed(session, "1")
    assert checks == [None]
    assert session.memory_bytes > 70 * MIB

"""The parts of a lock-down that can be looked at without one."""

from __future__ import annotations

import platform
import resource
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlm_wasm.errors import LockdownError
from rlm_wasm.jail.lockdown import landlock, layers, process, rlimits
from rlm_wasm.jail.lockdown.closures import writable_code
from rlm_wasm.jail.lockdown.report import attempt
from rlm_wasm.lockdown import Finding
from tests.support.locked_facts import process_limits

MAPS = """\
00400000-00500000 r-xp 00000000 fe:00 1 /usr/bin/python3
7f0000000000-7f0000001000 rwxp 00000000 00:00 0
7f0000002000-7f0000005000 rw-p 00000000 00:00 0 [heap]
7f0000006000-7f0000008000 -wxs 00000000 00:01 2 /memfd:x (deleted)
"""


def test_pages_that_can_be_written_and_run_are_found() -> None:
    assert list(writable_code(MAPS.splitlines())) == [(0x7F0000000000, 0x1000), (0x7F0000006000, 0x2000)]


@pytest.mark.parametrize("version", range(1, 12))
def test_landlock_takes_every_right_that_its_version_knows_and_no_other(version: int) -> None:
    fs, net, scoped = landlock.handled(version)
    # The highest right each version of the kernel's header defines.
    highest = {1: 12, 2: 13, 3: 14, 4: 14, 5: 15}.get(version, 15)
    assert fs == (1 << (highest + 1)) - 1
    assert net == (3 if version >= 4 else 0)
    assert scoped == (3 if version >= 6 else 0)


@given(
    sessions=st.integers(1, 10_000),
    memory=st.integers(1 << 20, 4 << 30),
    held=st.integers(0, 8 << 30),
    data=st.integers(0, 1 << 30),
    space=st.integers(0, 1 << 34),
)
def test_the_limits_have_room_for_what_the_sessions_may_use(
    sessions: int, memory: int, held: int, data: int, space: int
) -> None:
    limits = process_limits(sessions_max=sessions, memory_bytes_max=memory, held_bytes_max=held)
    table = rlimits.table(limits, data_bytes=data, address_bytes=space)
    assert table[resource.RLIMIT_DATA] >= data + held + sessions * memory
    reserved = (4 << 30) + (32 << 20)
    assert table[resource.RLIMIT_AS] >= space + held + (sessions + 1) * reserved
    for none in (resource.RLIMIT_CORE, resource.RLIMIT_NPROC, resource.RLIMIT_MEMLOCK):
        assert table[none] == 0
    assert table[resource.RLIMIT_NOFILE] < 100


def test_an_environment_that_holds_anything_is_found() -> None:
    script = "from rlm_wasm.jail.lockdown import process; print(process.empty_environment())"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert "the environment is not empty" in done.stderr


def test_another_machine_is_refused_before_any_number_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    with pytest.raises(LockdownError, match="aarch64"):
        layers.enter_namespaces(())


def test_a_layer_that_fails_is_a_finding_or_an_error_that_names_it() -> None:
    def refused() -> str:
        raise OSError(1, "Operation not permitted")

    assert attempt("landlock", refused, ()) == Finding("landlock", False, "Operation not permitted")
    with pytest.raises(LockdownError, match="landlock: Operation not permitted"):
        attempt("landlock", refused, ("landlock",))
    with pytest.raises(LockdownError, match="single thread: the process has 7 threads"):
        attempt("single thread", lambda: _raise("the process has 7 threads"), ("single thread",))


def _raise(message: str) -> str:
    raise ValueError(message)


def test_a_parent_that_is_gone_is_noticed() -> None:
    script = "from rlm_wasm.jail.lockdown import process; process.die_with_parent(1234567)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert "the parent is gone" in done.stderr
    assert process.NOBODY == 65_534

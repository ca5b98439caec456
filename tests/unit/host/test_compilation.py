"""A host without native code has it made by a process that ends, whatever that process does."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from rlm_wasm.errors import ArtifactError, HostExhausted, InternalError, RlmWasmError
from rlm_wasm.host import compilation
from rlm_wasm.host.compilation import compile_apart
from rlm_wasm.jail.compiler import EXIT_FAILED
from rlm_wasm.vm.native_code import load_native
from tests.support.command_line import ROOT
from tests.support.descriptors import descriptors_left, high_descriptor
from tests.support.wat_guest import assemble

pytestmark = pytest.mark.threat("T-199")
CODE = assemble("")


@pytest.fixture(autouse=True)
def _all_reaped(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Whatever it was, the process is gone when the call returns."""
    started: list[subprocess.Popen[bytes]] = []
    execute = compilation.execute

    def noted(channel: socket.socket, module: str) -> subprocess.Popen[bytes]:
        started.append(execute(channel, module))
        return started[-1]

    monkeypatch.setattr(compilation, "execute", noted)
    yield
    assert [process for process in started if process.returncode is None] == []


def test_what_the_other_process_made_loads_here() -> None:
    assert {name.name for name in load_native(compile_apart(CODE)).exports} >= {"memory", "rlm_exec"}


def test_what_is_no_module_is_told() -> None:
    with pytest.raises(InternalError, match="the guest cannot be compiled: WasmtimeError"):
        compile_apart(b"no module")


@pytest.mark.parametrize(
    ("does", "error", "message"),
    [
        ("killed", HostExhausted, "ended by SIGKILL"),
        ("silent", InternalError, "ended with 3"),
        ("no words", RlmWasmError, "the guest cannot be compiled: its process"),
        ("no file", InternalError, "said something else"),
        ("something else", InternalError, "said something else"),
        ("nothing", InternalError, "native code of 0 bytes"),
        ("open", ArtifactError, "not sealed"),
        ("short of memory", HostExhausted, "cannot be compiled: \ufffd.31mno memory"),
    ],
)
def test_a_process_that_does_not_compile_is_one_typed_error(
    monkeypatch: pytest.MonkeyPatch, does: str, error: type[RlmWasmError], message: str
) -> None:
    monkeypatch.setattr(compilation, "_ENTRY", "tests.support.odd_compiler")
    with pytest.raises(error, match=message):
        compile_apart(does.encode())


def test_one_that_takes_too_long_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compilation, "COMPILE_SECONDS_MAX", 0.001)
    with pytest.raises(InternalError, match="takes longer than"):
        compile_apart(CODE)


@pytest.mark.parametrize("left", range(6))
def test_a_host_without_descriptors_is_told_so(left: int) -> None:
    with descriptors_left(left), pytest.raises((OSError, HostExhausted)):
        compile_apart(CODE)
    assert compile_apart(CODE)


_ENDS_WITH_ITS_HOST = "import sys; from rlm_wasm.jail.compiler import _end_with; _end_with(int(sys.argv[1]))"


def test_it_ends_with_a_host_that_has_many_descriptors() -> None:
    with subprocess.Popen(["true"]) as host, high_descriptor(pidfd := os.pidfd_open(host.pid)) as high:
        command = [sys.executable, "-c", _ENDS_WITH_ITS_HOST, str(high)]
        assert subprocess.run(command, pass_fds=[high], timeout=60, check=False).returncode == EXIT_FAILED
        os.close(pidfd)


_ENDS_WHILE_IT_WAITS = """
import threading
from rlm_wasm.host import compilation
compilation._ENTRY = "tests.support.odd_compiler"
threading.Thread(target=compilation.compile_apart, args=(b"hangs",)).start()
"""


def test_a_program_that_ends_does_not_wait_for_it() -> None:
    command = [sys.executable, "-c", _ENDS_WHILE_IT_WAITS]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert "the program ends" in ended.stderr

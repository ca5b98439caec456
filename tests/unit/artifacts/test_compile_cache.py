"""The compiled cache: native code is loaded only if this machine made it for exactly this use."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import wasmtime

from rlm_wasm.artifacts import compile_cache as compiled
from rlm_wasm.artifacts.compile_cache import cache_path, is_cached, load_module, load_native, native_file
from rlm_wasm.artifacts.machine_key import MAC_BYTES
from rlm_wasm.errors import ArtifactError
from rlm_wasm.vm.engine import CONFIGURATION, engine
from tests.support.wat_guest import assemble

pytestmark = [pytest.mark.threat("T-016"), pytest.mark.usefixtures("own_folders")]

CODE = assemble("")
OTHER = assemble("(unreachable)")


@pytest.fixture
def cached() -> Path:
    """The file of a module that is in the cache and loads from it."""
    assert not load_module(engine(), CODE, CONFIGURATION).from_cache
    assert load_module(engine(), CODE, CONFIGURATION).from_cache
    return cache_path(CODE, CONFIGURATION)


def loaded_from_cache(monkeypatch: pytest.MonkeyPatch) -> bool:
    """Load again; whatever is not from the cache must not have been given to wasmtime as native code."""
    deserialised = []
    real = compiled._deserialise
    with monkeypatch.context() as patched:
        patched.setattr(compiled, "_deserialise", lambda *args: (deserialised.append(1), real(*args))[1])
        found = load_module(engine(), CODE, CONFIGURATION).from_cache
    assert bool(deserialised) == found
    return found


def test_a_module_is_compiled_once_and_the_file_is_private(cached: Path) -> None:
    assert cached.stat().st_mode & 0o777 == 0o600
    assert is_cached(CODE, CONFIGURATION)


def flip(position: int) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        data = bytearray(path.read_bytes())
        data[position] ^= 1
        path.write_bytes(data)

    return change


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def longer(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


def another_modules(path: Path) -> None:
    load_module(engine(), OTHER, CONFIGURATION)
    path.write_bytes(cache_path(OTHER, CONFIGURATION).read_bytes())


def another_configurations(path: Path) -> None:
    load_module(engine(), CODE, "another configuration")
    path.write_bytes(cache_path(CODE, "another configuration").read_bytes())


def another_keys(path: Path) -> None:
    key = Path(os.environ["RLM_WASM_STATE"]) / "machine.key"
    key.write_bytes(bytes(32))


def link(path: Path) -> None:
    path.rename(path.with_name("real"))
    path.symlink_to(path.with_name("real"))


def group_writable(path: Path) -> None:
    path.chmod(0o660)


def foreign(path: Path) -> None:
    os.chown(path, 12_345, -1)


@pytest.mark.parametrize(
    "tamper",
    [
        flip(0), flip(MAC_BYTES), flip(-1), flip(5_000), cut, longer, another_modules, another_configurations,
        another_keys, link, group_writable, lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(bytes(MAC_BYTES)),
        pytest.param(foreign, marks=pytest.mark.skipif(os.geteuid() != 0, reason="only root can give away")),
    ],
)  # fmt: skip
def test_a_file_that_does_not_fit_is_never_loaded_and_is_rebuilt(
    cached: Path, tamper: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    tamper(cached)
    assert not loaded_from_cache(monkeypatch)
    assert loaded_from_cache(monkeypatch)


def test_is_cached_says_no_for_a_file_that_does_not_fit(cached: Path) -> None:
    flip(-1)(cached)
    assert not is_cached(CODE, CONFIGURATION)


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo])
def test_something_in_the_way_costs_a_compilation_and_nothing_more(
    cached: Path, make: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    cached.unlink()
    make(cached)
    assert not loaded_from_cache(monkeypatch)


def test_a_cache_that_cannot_be_written_costs_a_compilation(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, parts: object) -> None:
        raise ArtifactError(f"cannot write {path}: No space left on device")

    monkeypatch.setattr(compiled, "write_private", full)
    for _ in range(2):
        assert not load_module(engine(), CODE, CONFIGURATION).from_cache


def test_another_version_of_wasmtime_is_another_file(cached: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "_wasmtime_identity", lambda: b"another")
    assert cache_path(CODE, CONFIGURATION) != cached
    assert not is_cached(CODE, CONFIGURATION)


def test_a_module_that_is_no_wasm_is_not_cached() -> None:
    with pytest.raises(wasmtime.WasmtimeError):
        load_module(engine(), b"not wasm", CONFIGURATION)
    assert not cache_path(b"not wasm", CONFIGURATION).exists()


def no_engine() -> wasmtime.Engine:
    raise AssertionError("compiled again")


def test_native_code_for_another_process_comes_from_the_cache_or_is_compiled(cached: Path) -> None:
    handed_over = native_file(no_engine, CODE, CONFIGURATION)
    try:
        assert load_native(engine(), handed_over).exports
    finally:
        os.close(handed_over)
    flip(MAC_BYTES + 100)(cached)
    again = native_file(engine, CODE, CONFIGURATION)
    try:
        assert load_native(engine(), again).exports
    finally:
        os.close(again)
    assert is_cached(CODE, CONFIGURATION)


@pytest.mark.threat("T-051")
def test_native_code_that_somebody_could_still_change_is_not_loaded(cached: Path) -> None:
    fd = os.memfd_create("code")
    try:
        os.write(fd, cached.read_bytes()[MAC_BYTES:])
        with pytest.raises(ArtifactError, match="sealed"):
            load_native(engine(), fd)
    finally:
        os.close(fd)

"""The compiled cache: native code is used only if this machine made it for exactly this use."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import wasmtime

from rlm_wasm.artifacts import compile_cache as compiled
from rlm_wasm.artifacts.compile_cache import cache_path, is_cached, native_code
from rlm_wasm.artifacts.machine_key import MAC_BYTES
from rlm_wasm.errors import ArtifactError
from rlm_wasm.host.compilation import compile_apart
from rlm_wasm.vm.compilation import compile_native
from rlm_wasm.vm.native_code import load_native, load_native_file
from tests.support.wat_guest import assemble

pytestmark = [pytest.mark.threat("T-016"), pytest.mark.usefixtures("own_folders")]

CODE = assemble("")
OTHER = assemble("(unreachable)")


def found(code: bytes = CODE, **configuration: str) -> bool:
    """Ask for native code that a module can be made of; return whether it was there already."""
    made = []

    def make(module: bytes) -> bytes:
        made.append(compile_native(module))
        return made[-1]

    native = native_code(code, make, **configuration)
    assert load_native(native).exports
    assert made in ([], [native])
    return not made


@pytest.fixture
def cached() -> Path:
    """The file of a module that is in the cache and comes from it."""
    assert not found()
    assert found()
    return cache_path(CODE)


def test_a_module_is_compiled_once_and_the_file_is_private(cached: Path) -> None:
    assert cached.stat().st_mode & 0o777 == 0o600
    assert is_cached(CODE)


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
    found(OTHER)
    path.write_bytes(cache_path(OTHER).read_bytes())


def another_configurations(path: Path) -> None:
    found(configuration="another configuration")
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
    cached: Path, tamper: Callable[[Path], None]
) -> None:
    tamper(cached)
    assert not found()
    assert found()


def test_is_cached_says_no_for_a_file_that_does_not_fit(cached: Path) -> None:
    flip(-1)(cached)
    assert not is_cached(CODE)


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo])
def test_something_in_the_way_costs_a_compilation_and_nothing_more(
    cached: Path, make: Callable[[Path], None]
) -> None:
    cached.unlink()
    make(cached)
    assert not found()


def test_a_cache_that_cannot_be_written_costs_a_compilation(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, parts: object) -> None:
        raise ArtifactError(f"cannot write {path}: No space left on device")

    monkeypatch.setattr(compiled, "write_private", full)
    for _ in range(2):
        assert not found()


def test_another_version_of_wasmtime_is_another_file(cached: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "_wasmtime_identity", lambda: b"another")
    assert cache_path(CODE) != cached
    assert not is_cached(CODE)


def test_a_module_that_is_no_wasm_is_not_cached() -> None:
    with pytest.raises(wasmtime.WasmtimeError):
        native_code(b"not wasm", compile_native)
    assert not cache_path(b"not wasm").exists()


def test_a_process_of_its_own_compiles_to_the_same_code() -> None:
    apart = compile_apart(CODE)
    assert load_native(apart).exports
    # The identity under which it is kept does not say who made it.
    assert native_code(CODE, lambda module: apart) is apart
    assert found()


@pytest.mark.threat("T-051")
def test_native_code_that_somebody_could_still_change_is_not_loaded(cached: Path) -> None:
    fd = os.memfd_create("code")
    try:
        os.write(fd, cached.read_bytes()[MAC_BYTES:])
        with pytest.raises(ArtifactError, match="sealed"):
            load_native_file(fd)
    finally:
        os.close(fd)

"""The cache of compiled modules. A compiled module is native code: it is loaded only if its MAC fits.

The MAC is made with this machine's key over everything the code depends on (the installed wasmtime,
the engine's configuration, the wasm module's hash) and the code itself. What is compiled is the module as
`metering` makes it, so that no instruction takes longer than a slice may. The bytes that were
checked are the bytes that are loaded: they go from one read into a sealed memory file.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import wasmtime

from rlm_wasm.artifacts.files import read_owned, write_private
from rlm_wasm.artifacts.machine_key import MAC_BYTES, mac, machine_key, same
from rlm_wasm.artifacts.metering import METER, metered
from rlm_wasm.artifacts.paths import compiled_dir
from rlm_wasm.errors import ArtifactError, InternalError
from rlm_wasm.system.memfd import check_sealed, sealed_memfd

_PURPOSE: Final = "compiled-module"
COMPILED_BYTES_MAX: Final = 1 << 30


@dataclass(frozen=True, slots=True)
class CompiledModule:
    """A module ready to instantiate, and whether it came from the cache."""

    module: wasmtime.Module
    path: Path
    from_cache: bool


@functools.cache
def _wasmtime_identity() -> bytes:
    """Return what changes when another wasmtime is installed, without reading package metadata.

    wasmtime refuses code of another version as well; this keeps the cache from being asked.
    """
    library = next(Path(wasmtime.__file__).parent.rglob("_libwasmtime.*"))
    facts = library.stat()
    return f"{library} {facts.st_size} {facts.st_mtime_ns}".encode()


@functools.cache
def wasmtime_version() -> str:
    """Return the version of the wasmtime package in use."""
    import importlib.metadata  # slow to load, and only builds and reports want it

    return importlib.metadata.version("wasmtime")


def cache_path(code: bytes, configuration: str) -> Path:
    """Return where the compiled form of `code` lies for this wasmtime and engine configuration."""
    return compiled_dir() / f"{_identity(code, configuration).hex()[:32]}.cwasm"


def load_module(engine: wasmtime.Engine, code: bytes, configuration: str) -> CompiledModule:
    """Return the compiled `code`, from the cache if its MAC fits, else compiled now and cached.

    A file whose MAC does not fit is removed and never loaded. A cache that cannot be written costs
    the next start a compilation, nothing more.
    """
    key = machine_key()
    identity = _identity(code, configuration)
    path = cache_path(code, configuration)
    found = _authenticated(path, key, identity)
    if found is not None:
        return CompiledModule(_deserialise(engine, found), path, from_cache=True)
    wasmtime.Module.validate(engine, code)  # before it is taken apart: it is a module, of this engine's kind
    module = wasmtime.Module(engine, metered(code))
    native = bytes(module.serialize())
    with contextlib.suppress(ArtifactError):
        write_private(path, [mac(key, _PURPOSE, identity, native), native])
    return CompiledModule(module, path, from_cache=False)


def native_file(engine: Callable[[], wasmtime.Engine], code: bytes, configuration: str) -> int:
    """Return a descriptor of a sealed memory file with the native form of `code`, for another process.

    It comes from the cache if its MAC fits; else `engine` is asked for and compiles. The caller closes it.
    """
    native: memoryview | bytes | None = _authenticated(
        cache_path(code, configuration), machine_key(), _identity(code, configuration)
    )
    if native is None:
        native = bytes(load_module(engine(), code, configuration).module.serialize())
    return sealed_memfd("rlm-code", native)


def load_native(engine: wasmtime.Engine, fd: int) -> wasmtime.Module:
    """Return the module in a sealed memory file that a trusted process authenticated.

    Raises:
        ArtifactError: the file is not sealed: whoever holds it could change the code.
    """
    check_sealed(fd)
    return _deserialise_file(engine, fd)


def is_cached(code: bytes, configuration: str) -> bool:
    """Return whether a compiled module lies in the cache and its MAC fits."""
    path = cache_path(code, configuration)
    return path.exists() and _authenticated(path, machine_key(), _identity(code, configuration)) is not None


def _identity(code: bytes, configuration: str) -> bytes:
    digest = hashlib.blake2b(digest_size=32)
    for part in (_wasmtime_identity(), METER.encode(), configuration.encode(), hashlib.sha256(code).digest()):
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.digest()


def _authenticated(path: Path, key: bytes, identity: bytes) -> memoryview | None:
    try:
        data = read_owned(path, bytes_max=COMPILED_BYTES_MAX)
    except FileNotFoundError:
        return None
    except ArtifactError:
        _remove(path)
        return None
    found, native = data[:MAC_BYTES], memoryview(data)[MAC_BYTES:]
    if not same(found, mac(key, _PURPOSE, identity, native)):
        _remove(path)
        return None
    return native


def _remove(path: Path) -> None:
    # What cannot be removed, a folder say, is only in the way: it is not loaded, and nothing is cached.
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)


def _deserialise(engine: wasmtime.Engine, native: memoryview) -> wasmtime.Module:
    fd = sealed_memfd("rlm-code", native)
    try:
        return _deserialise_file(engine, fd)
    finally:
        os.close(fd)


def _deserialise_file(engine: wasmtime.Engine, fd: int) -> wasmtime.Module:
    try:
        return wasmtime.Module.deserialize_file(engine, f"/proc/self/fd/{fd}")
    except wasmtime.WasmtimeError as error:
        raise InternalError(f"an authenticated module did not load: {error}") from error

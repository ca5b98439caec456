"""The cache of compiled modules. A compiled module is native code: it is used only if its MAC fits.

The MAC is made with this machine's key over everything the code depends on (the installed wasmtime, what
it is compiled for, the wasm module's hash) and the code itself. Who has no native code compiles it, in
whichever process that is; nothing here loads any. The bytes that were checked are the bytes that are used:
they come from one read.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Final

from rlm_wasm.artifacts.files import read_owned, stamp_use, write_private, write_readable
from rlm_wasm.artifacts.first_use import once
from rlm_wasm.artifacts.machine_key import MAC_BYTES, mac, machine_key, same
from rlm_wasm.artifacts.paths import compiled_dir
from rlm_wasm.artifacts.shared_cache import SharedCache, shared_cache
from rlm_wasm.errors import ArtifactError
from rlm_wasm.protocol.native_form import CONFIGURATION, METER
from rlm_wasm.system.processor import processor_features

_PURPOSE: Final = "compiled-module"
COMPILED_BYTES_MAX: Final = 1 << 30


def native_code(
    code: bytes,
    compile_native: Callable[[bytes], bytes],
    configuration: str = CONFIGURATION,
    *,
    shared: bool = True,
) -> bytes | memoryview:
    """Return the native form of a module: from the cache if its MAC fits, else compiled now and kept there.

    The cache that users share is asked first, unless `shared` is false. In this user's own, a file whose MAC
    does not fit is removed and never used. A cache that cannot be written costs the next start a compilation,
    nothing more.
    """
    common = shared_cache() if shared else None
    if common is not None and (kept := _shared_code(common, code, configuration)) is not None:
        return kept
    try:
        key = machine_key()
    except ArtifactError:
        if common is None:
            raise
        # Nothing of this user's can be written; the guest is the shared one, made for another processor.
        with once("compiling the guest for this machine"):
            return compile_native(code)
    identity = _identity(code, configuration)
    path = cache_path(code, configuration)
    found = _authenticated(path, key, identity)
    if found is not None:
        stamp_use(path)
        return found
    with once("compiling the guest for this machine"):
        native = compile_native(code)
    with contextlib.suppress(ArtifactError):
        write_private(path, [mac(key, _PURPOSE, identity, native), native])
    return native


def share_code(shared: SharedCache, code: bytes, native: bytes | memoryview) -> Path:
    """Put the native form of `code` into a shared cache; return its file. Raises ArtifactError: it cannot."""
    identity = _shared_identity(code, CONFIGURATION)
    path = shared.compiled / _file_name(identity)
    write_readable(path, [mac(shared.key, _PURPOSE, identity, native), bytes(native)])
    return path


def _shared_code(shared: SharedCache, code: bytes, configuration: str) -> memoryview | None:
    shared.check_compiled()
    identity = _shared_identity(code, configuration)
    return _authenticated(shared.compiled / _file_name(identity), shared.key, identity, shared=True)


def cache_path(code: bytes, configuration: str = CONFIGURATION) -> Path:
    """Return where the native form of `code` lies for this wasmtime and what it is compiled for."""
    return path_of_hash(hashlib.sha256(code).hexdigest(), configuration)


def path_of_hash(code_sha256: str, configuration: str = CONFIGURATION) -> Path:
    """Return where the native form of the code with this hash lies, as `cache_path` does."""
    identity = _identity_for(_wasmtime_identity(), bytes.fromhex(code_sha256), configuration)
    return compiled_dir() / _file_name(identity)


def _file_name(identity: bytes) -> str:
    return f"{identity.hex()[:32]}.cwasm"


def is_cached(code: bytes, configuration: str = CONFIGURATION) -> bool:
    """Return whether a compiled module lies in the cache and its MAC fits."""
    path = cache_path(code, configuration)
    return path.exists() and _authenticated(path, machine_key(), _identity(code, configuration)) is not None


@functools.cache
def wasmtime_version() -> str:
    """Return the version of the wasmtime package in use."""
    import importlib.metadata  # slow to load, and only builds and reports want it

    return importlib.metadata.version("wasmtime")


@functools.cache
def _wasmtime_identity() -> bytes:
    """Return what changes when another wasmtime is installed, without loading it or its metadata.

    wasmtime refuses code of another version as well; this keeps the cache from being asked.
    """
    found = importlib.util.find_spec("wasmtime")
    if found is None or found.origin is None:
        raise ArtifactError("wasmtime is not installed", hint="install rlm-wasm again")
    library = next(Path(found.origin).parent.rglob("_libwasmtime.*"))
    facts = library.stat()
    return f"{library} {facts.st_size} {facts.st_mtime_ns}".encode()


def _identity(code: bytes, configuration: str) -> bytes:
    return _identity_for(_wasmtime_identity(), hashlib.sha256(code).digest(), configuration)


def _shared_identity(code: bytes, configuration: str) -> bytes:
    # No path and no time: those of an image's layers are not those of the folders that it was made from.
    wasmtime = f"{wasmtime_version()} {processor_features()}"
    return _identity_for(wasmtime.encode(), hashlib.sha256(code).digest(), configuration)


def _identity_for(wasmtime: bytes, code_sha256: bytes, configuration: str) -> bytes:
    digest = hashlib.blake2b(digest_size=32)
    for part in (wasmtime, METER.encode(), configuration.encode(), code_sha256):
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.digest()


def _authenticated(path: Path, key: bytes, identity: bytes, *, shared: bool = False) -> memoryview | None:
    """Return what lies there, if it is what it should be. What is not is removed, or, shared, an error."""
    hint = f"make it again, as the user who owns it: rlm-wasm cache share {path.parent.parent}"
    try:
        data = read_owned(path, bytes_max=COMPILED_BYTES_MAX, or_roots=shared)
    except FileNotFoundError:
        return None
    except ArtifactError as error:
        if shared:
            raise ArtifactError(error.message, hint=hint) from error
        _remove(path)
        return None
    found, native = data[:MAC_BYTES], memoryview(data)[MAC_BYTES:]
    if not same(found, mac(key, _PURPOSE, identity, native)):
        if shared:
            raise ArtifactError(f"{path} does not match its MAC", hint=hint)
        _remove(path)
        return None
    return native


def _remove(path: Path) -> None:
    # What cannot be removed, a folder say, is only in the way: it is not used, and nothing is cached.
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)

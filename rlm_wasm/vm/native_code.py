"""Loading native code: of this process's own making, or because somebody else vouches for it."""

from __future__ import annotations

import os

import wasmtime

from rlm_wasm.errors import InternalError
from rlm_wasm.system.memfd import check_sealed, sealed_memfd
from rlm_wasm.vm.engine import engine


def load_native(native: bytes | memoryview) -> wasmtime.Module:
    """Return the module of native code that was made here, or authenticated."""
    fd = sealed_memfd("rlm-code", native)
    try:
        return load_native_file(fd)
    finally:
        os.close(fd)


def load_native_file(fd: int) -> wasmtime.Module:
    """Return the module in a sealed memory file that a trusted process authenticated.

    Raises:
        ArtifactError: the file is not sealed: whoever holds it could change the code.
    """
    check_sealed(fd)
    try:
        return wasmtime.Module.deserialize_file(engine(), f"/proc/self/fd/{fd}")
    except wasmtime.WasmtimeError as error:
        raise InternalError(f"an authenticated module did not load: {error}") from error

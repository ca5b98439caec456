"""Compiling a module to native code."""

from __future__ import annotations

import wasmtime

from rlm_wasm.vm.engine import engine
from rlm_wasm.vm.metering import metered


def compile_module(code: bytes) -> wasmtime.Module:
    """Compile a module, rewritten so that no instruction takes longer than a slice may.

    Raises:
        wasmtime.WasmtimeError: it is none, or needs what the engine does not have.
        ArtifactError: it has an instruction of unbounded work that nothing replaces.
    """
    made_of = engine()
    wasmtime.Module.validate(made_of, code)  # before it is taken apart: it is a module, of this engine's kind
    return wasmtime.Module(made_of, metered(code))


def compile_native(code: bytes) -> bytes:
    """Compile a module and return its native code. Raises what `compile_module` raises."""
    return bytes(compile_module(code).serialize())

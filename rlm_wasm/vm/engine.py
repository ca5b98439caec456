"""The one wasmtime engine of the process: Cranelift, fuel, our own memories, no feature to spare."""

from __future__ import annotations

from typing import Any, Final

import wasmtime
from wasmtime import _bindings as ffi

from rlm_wasm.protocol.native_form import FEATURES_OFF, WASM_STACK_BYTES
from rlm_wasm.system import forks
from rlm_wasm.vm.fatal import install_hook
from rlm_wasm.vm.fiber_unsafe import install_stacks
from rlm_wasm.vm.linear_unsafe import install_creator

# Native stack of one fiber. The host's callbacks run on it too, so wasm gets less than all of it.
HOST_STACK_BYTES: Final = 1 << 20
FIBER_STACK_BYTES: Final = WASM_STACK_BYTES + HOST_STACK_BYTES

_lock: Final = forks.module_lock()
_engine: wasmtime.Engine | None = None


def engine() -> wasmtime.Engine:
    """Return the process's engine, made on first use.

    Raises:
        UsageError: this process is a fork in which no guest can run.
    """
    global _engine
    forks.require_whole()
    with _lock:
        if _engine is None:
            install_hook()
            _engine = wasmtime.Engine(_config())
        return _engine


def _config() -> wasmtime.Config:
    config = wasmtime.Config()
    pointer: Any = config.ptr()
    config.consume_fuel = True
    # In this order: a wasm stack larger than the fiber's makes wasmtime abort the process.
    ffi.wasmtime_config_async_stack_size_set(pointer, FIBER_STACK_BYTES)
    config.max_wasm_stack = WASM_STACK_BYTES
    config.strategy = "cranelift"
    config.cranelift_opt_level = "speed"
    for name in FEATURES_OFF:
        getattr(ffi, name)(pointer, False)
    install_creator(config)
    install_stacks(config)
    return config

"""The settings that a guest's native code is compiled for.

Who compiles a module and who looks for it in the cache are different processes: both name it by this, and
code that was compiled for anything else is another file.
"""

from __future__ import annotations

from typing import Final

# What wasm may use of the stack of a fiber.
WASM_STACK_BYTES: Final = 16 << 20

# Off: past advisories live in these (threat_model/limitations.md), and the guest uses none of them.
FEATURES_OFF: Final = (
    "wasmtime_config_wasm_threads_set",
    "wasmtime_config_shared_memory_set",
    "wasmtime_config_wasm_tail_call_set",
    "wasmtime_config_wasm_function_references_set",
    "wasmtime_config_wasm_gc_set",
    "wasmtime_config_gc_support_set",
    "wasmtime_config_wasm_exceptions_set",
    "wasmtime_config_wasm_memory64_set",
    "wasmtime_config_wasm_multi_memory_set",
    "wasmtime_config_wasm_relaxed_simd_set",
    "wasmtime_config_wasm_simd_set",
    "wasmtime_config_wasm_stack_switching_set",
    "wasmtime_config_wasm_wide_arithmetic_set",
    "wasmtime_config_wasm_custom_page_sizes_set",
    "wasmtime_config_wasm_component_model_set",
    # A host memory creator and copy-on-write initialisation exclude each other (wasmtime panics).
    "wasmtime_config_memory_init_cow_set",
)
CONFIGURATION: Final = f"v1 fuel stack={WASM_STACK_BYTES} off={','.join(FEATURES_OFF)}"
# How `vm/metering.py` rewrites a module before it is compiled, with the hash of the functions that it adds.
METER: Final = "meter 2 100ed14abb8fb84dbc3c534519c496dd81be3e7b21e89f28fb0a34bcc9bfce83"

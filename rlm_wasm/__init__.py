"""rlm-wasm: the secure runtime for Recursive Language Models.

The names below are the documented API; everything else may change without notice.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from rlm_wasm.version import VERSION as __version__

if TYPE_CHECKING:
    from rlm_wasm.events import Event, Gap
    from rlm_wasm.policy.model import Policy
    from rlm_wasm.runtime.accounting import Metrics, TenantUsage
    from rlm_wasm.runtime.handle import Run
    from rlm_wasm.runtime.image import Image
    from rlm_wasm.runtime.run import RunResult
    from rlm_wasm.runtime.runtime import Runtime
    from rlm_wasm.runtime.sandbox import Sandbox, SandboxSession
    from rlm_wasm.worker.census import PoolMetrics
    from rlm_wasm.worker.result import CellResult

# Loaded on first use: `rlm-wasm --version` should not wait for a WebAssembly engine.
_WHERE = {
    "CellResult": "rlm_wasm.worker.result",
    "Event": "rlm_wasm.events",
    "Gap": "rlm_wasm.events",
    "Image": "rlm_wasm.runtime.image",
    "Metrics": "rlm_wasm.runtime.accounting",
    "PoolMetrics": "rlm_wasm.worker.census",
    "Policy": "rlm_wasm.policy.model",
    "Run": "rlm_wasm.runtime.handle",
    "RunResult": "rlm_wasm.runtime.run",
    "Runtime": "rlm_wasm.runtime.runtime",
    "Sandbox": "rlm_wasm.runtime.sandbox",
    "SandboxSession": "rlm_wasm.runtime.sandbox",
    "TenantUsage": "rlm_wasm.runtime.accounting",
}

__all__ = [
    "CellResult",
    "Event",
    "Gap",
    "Image",
    "Metrics",
    "Policy",
    "PoolMetrics",
    "Run",
    "RunResult",
    "Runtime",
    "Sandbox",
    "SandboxSession",
    "TenantUsage",
    "__version__",
]


def __getattr__(name: str) -> object:
    where = _WHERE.get(name)
    if where is None:
        raise AttributeError(f"module 'rlm_wasm' has no attribute {name!r}")
    return getattr(import_module(where), name)

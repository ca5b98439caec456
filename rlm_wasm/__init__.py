"""rlm-wasm: the secure runtime for Recursive Language Models.

The names below are the documented API; everything else may change without notice.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from rlm_wasm.version import VERSION as __version__

if TYPE_CHECKING:
    from rlm_wasm.api.best_of import BestOf, Candidate
    from rlm_wasm.api.forks import Forks
    from rlm_wasm.api.inputs import Inputs
    from rlm_wasm.api.live_output import OnOutput, Output
    from rlm_wasm.api.opening import BestOpening, ForksOpening, SessionOpening
    from rlm_wasm.api.query_hook import ModelQuery, OnQuery
    from rlm_wasm.api.rollouts import Rollout, RolloutEnvironment, Step
    from rlm_wasm.api.run_handle import Run
    from rlm_wasm.api.runtime import Runtime
    from rlm_wasm.api.sandbox import Sandbox, SandboxSession
    from rlm_wasm.api.snapshot import Snapshot
    from rlm_wasm.api.sync_runtime import SyncRun, SyncRuntime
    from rlm_wasm.api.sync_sandbox import SyncBestOf, SyncForks, SyncSandbox, SyncSession
    from rlm_wasm.api.trajectory import (
        ChatReply,
        RolloutCell,
        RolloutTurn,
        Trajectory,
        chat_reply,
        write_jsonl,
    )
    from rlm_wasm.engine.accounting import Metrics, TenantUsage
    from rlm_wasm.engine.cell_judge import OnCell, PassCell, PendingCell, RefuseCell, StopRun, Verdict
    from rlm_wasm.engine.contexts import Contexts
    from rlm_wasm.engine.event_stream import EventReader
    from rlm_wasm.engine.session_files import Outputs, SessionFiles
    from rlm_wasm.events import Event, Gap
    from rlm_wasm.guidance import Example
    from rlm_wasm.host.input_file import InputFile
    from rlm_wasm.host.pool_metrics import PoolMetrics
    from rlm_wasm.inputs.given import FileRead, InputRead
    from rlm_wasm.outcomes import Outcome, SessionState, StopKind, StopReason
    from rlm_wasm.policy.model import Policy
    from rlm_wasm.policy.run_bound import RunBound
    from rlm_wasm.protocol.file_listing import GuestFile
    from rlm_wasm.results import CellResult, RunResult
    from rlm_wasm.tools.tool import Tool, ToolLike, tool
    from rlm_wasm.values import Value

# Loaded on first use: `rlm-wasm --version` should not wait for a WebAssembly engine.
_WHERE = {
    "BestOf": "rlm_wasm.api.best_of",
    "BestOpening": "rlm_wasm.api.opening",
    "Candidate": "rlm_wasm.api.best_of",
    "CellResult": "rlm_wasm.results",
    "ChatReply": "rlm_wasm.api.trajectory",
    "Contexts": "rlm_wasm.engine.contexts",
    "Event": "rlm_wasm.events",
    "EventReader": "rlm_wasm.engine.event_stream",
    "Example": "rlm_wasm.guidance",
    "FileRead": "rlm_wasm.inputs.given",
    "Forks": "rlm_wasm.api.forks",
    "ForksOpening": "rlm_wasm.api.opening",
    "Gap": "rlm_wasm.events",
    "GuestFile": "rlm_wasm.protocol.file_listing",
    "InputFile": "rlm_wasm.host.input_file",
    "InputRead": "rlm_wasm.inputs.given",
    "Inputs": "rlm_wasm.api.inputs",
    "Metrics": "rlm_wasm.engine.accounting",
    "ModelQuery": "rlm_wasm.api.query_hook",
    "OnCell": "rlm_wasm.engine.cell_judge",
    "OnOutput": "rlm_wasm.api.live_output",
    "OnQuery": "rlm_wasm.api.query_hook",
    "Outcome": "rlm_wasm.outcomes",
    "Output": "rlm_wasm.api.live_output",
    "Outputs": "rlm_wasm.engine.session_files",
    "PassCell": "rlm_wasm.engine.cell_judge",
    "PendingCell": "rlm_wasm.engine.cell_judge",
    "Policy": "rlm_wasm.policy.model",
    "PoolMetrics": "rlm_wasm.host.pool_metrics",
    "RefuseCell": "rlm_wasm.engine.cell_judge",
    "Rollout": "rlm_wasm.api.rollouts",
    "RolloutCell": "rlm_wasm.api.trajectory",
    "RolloutEnvironment": "rlm_wasm.api.rollouts",
    "RolloutTurn": "rlm_wasm.api.trajectory",
    "Run": "rlm_wasm.api.run_handle",
    "RunBound": "rlm_wasm.policy.run_bound",
    "RunResult": "rlm_wasm.results",
    "Runtime": "rlm_wasm.api.runtime",
    "Sandbox": "rlm_wasm.api.sandbox",
    "SandboxSession": "rlm_wasm.api.sandbox",
    "SessionFiles": "rlm_wasm.engine.session_files",
    "SessionOpening": "rlm_wasm.api.opening",
    "SessionState": "rlm_wasm.outcomes",
    "Snapshot": "rlm_wasm.api.snapshot",
    "Step": "rlm_wasm.api.rollouts",
    "StopKind": "rlm_wasm.outcomes",
    "StopReason": "rlm_wasm.outcomes",
    "StopRun": "rlm_wasm.engine.cell_judge",
    "SyncBestOf": "rlm_wasm.api.sync_sandbox",
    "SyncForks": "rlm_wasm.api.sync_sandbox",
    "SyncRun": "rlm_wasm.api.sync_runtime",
    "SyncRuntime": "rlm_wasm.api.sync_runtime",
    "SyncSandbox": "rlm_wasm.api.sync_sandbox",
    "SyncSession": "rlm_wasm.api.sync_sandbox",
    "TenantUsage": "rlm_wasm.engine.accounting",
    "Tool": "rlm_wasm.tools.tool",
    "ToolLike": "rlm_wasm.tools.tool",
    "Trajectory": "rlm_wasm.api.trajectory",
    "Value": "rlm_wasm.values",
    "Verdict": "rlm_wasm.engine.cell_judge",
    "chat_reply": "rlm_wasm.api.trajectory",
    "tool": "rlm_wasm.tools.tool",
    "write_jsonl": "rlm_wasm.api.trajectory",
}

__all__ = [
    "BestOf",
    "BestOpening",
    "Candidate",
    "CellResult",
    "ChatReply",
    "Contexts",
    "Event",
    "EventReader",
    "Example",
    "FileRead",
    "Forks",
    "ForksOpening",
    "Gap",
    "GuestFile",
    "InputFile",
    "InputRead",
    "Inputs",
    "Metrics",
    "ModelQuery",
    "OnCell",
    "OnOutput",
    "OnQuery",
    "Outcome",
    "Output",
    "Outputs",
    "PassCell",
    "PendingCell",
    "Policy",
    "PoolMetrics",
    "RefuseCell",
    "Rollout",
    "RolloutCell",
    "RolloutEnvironment",
    "RolloutTurn",
    "Run",
    "RunBound",
    "RunResult",
    "Runtime",
    "Sandbox",
    "SandboxSession",
    "SessionFiles",
    "SessionOpening",
    "SessionState",
    "Snapshot",
    "Step",
    "StopKind",
    "StopReason",
    "StopRun",
    "SyncBestOf",
    "SyncForks",
    "SyncRun",
    "SyncRuntime",
    "SyncSandbox",
    "SyncSession",
    "TenantUsage",
    "Tool",
    "ToolLike",
    "Trajectory",
    "Value",
    "Verdict",
    "__version__",
    "chat_reply",
    "tool",
    "write_jsonl",
]


def __getattr__(name: str) -> object:
    where = _WHERE.get(name)
    if where is None:
        raise AttributeError(f"module 'rlm_wasm' has no attribute {name!r}")
    return getattr(import_module(where), name)

"""Small limits for sessions, and one call that runs a cell to its end. Tests override what they are about."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from rlm_wasm.limits import BoundaryLimits, CellLimits, SessionLimits
from rlm_wasm.protocol.cell import Cell
from rlm_wasm.results import CellResult
from rlm_wasm.vm.cell_decoding import decode_cell
from rlm_wasm.vm.session import Session, drive

MIB = 1 << 20


def cell_limits(**over: int) -> CellLimits:
    base = CellLimits(
        fuel_max=20_000_000_000,
        wall_ms_max=20_000,
        stdout_bytes_max=65_536,
        stderr_bytes_max=65_536,
        result_bytes_max=65_536,
        source_bytes_max=262_144,
        requests_max=64,
        sleep_ms_max=1_000,
    )
    return replace(base, **over)


def session_limits(**over: Any) -> SessionLimits:
    base = SessionLimits(
        memory_bytes_max=128 * MIB,
        context_bytes_max=64 * MIB,
        checkpoint_bytes_max=16 * MIB,
        files_bytes_max=32 * MIB,
        files_max=1_000,
        clock="virtual",
        entropy="fresh",
        seed=0,
    )
    return replace(base, **over)


def boundary_limits(**over: int) -> BoundaryLimits:
    base = BoundaryLimits(
        frame_bytes_max=262_144,
        control_frame_bytes_max=4_096,
        prompt_bytes_max=65_536,
        response_bytes_max=1_048_576,
        batch_items_max=16,
        nesting_max=16,
        host_wait_ms_max=20_000,
    )
    return replace(base, **over)


def run_cell(
    session: Session, source: str, answer: Callable[[bytes], bytes] | None = None, **limits: int
) -> CellResult:
    """Run one cell to its end on this thread and decode what it left."""
    cell = Cell(source, cell_limits(**limits), report_variables=True)
    return decode_cell(drive(session.run(cell), answer or echo))


def completed(session: Session, source: str, **more: Any) -> CellResult:
    """Run a cell that must complete."""
    result = run_cell(session, source, **more)
    assert result.outcome == "completed", (result.outcome, result.error)
    return result


def echo(frame: bytes) -> bytes:
    """Answer every prompt with itself in capitals; accept a finish."""
    request = json.loads(frame)
    match request["type"]:
        case "llm_query" | "rlm_query":
            document: dict[str, object] = {"status": "completed", "text": request["prompt"].upper()}
        case "llm_query_batch" | "rlm_query_batch":
            items = [{"status": "completed", "text": prompt.upper()} for prompt in request["prompts"]]
            document = {"status": "completed", "items": items}
        case _:
            document = {"status": "completed"}
    return json.dumps(document).encode()


class Recorder:
    """A host that keeps every request it was asked."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []

    def __call__(self, frame: bytes) -> bytes:
        self.requests.append(json.loads(frame))
        return echo(frame)

"""Small, round limits for tests of the core; each test overrides what it is about."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from rlm_wasm.ids import RequestId, RunId
from rlm_wasm.limits import (
    BoundaryLimits,
    BudgetLimits,
    ModelPrice,
    ObservationLimits,
    PermitLimits,
    QueryLimits,
    RunLimits,
)
from rlm_wasm.scheduler.messages import Message
from rlm_wasm.scheduler.scheduler import ChildRequested, QueryReceived, RunStarted

MS = 1_000_000  # nanoseconds
RUN = RunId("run_a")
OTHER = RunId("run_b")
PRICE = ModelPrice(input_microdollars_per_mtok=2_000_000, output_microdollars_per_mtok=4_000_000)


def budget(**over: int) -> BudgetLimits:
    base = BudgetLimits(
        calls_max=100,
        requests_max=100,
        input_tokens_max=100_000,
        output_tokens_max=100_000,
        cost_microdollars_max=1_000_000,
        iterations_max=10,
        fuel_max=1_000,
        children_max=100,
        observation_bytes_max=100_000,
    )
    return replace(base, **over)


def run_limits(**over: int) -> RunLimits:
    base = RunLimits(
        wall_ms_max=60_000,
        turns_max=10,
        depth_max=1,
        fanout_max=100,
        sessions_max=100,
        child_wall_ms_max=1_500,
        child_share_percent=100,
        permits_max=2,
        events_max=1_000,
    )
    return replace(base, **over)


def permit_limits(total_max: int = 2, **over: int) -> PermitLimits:
    base = PermitLimits(
        total_max=total_max,
        tenant_max=total_max,
        provider_max=100,
        model_max=100,
        adaptive_min=1,
        recover_ms=1_000,
    )
    return replace(base, **over)


def query_limits(**over: Any) -> QueryLimits:
    base = QueryLimits(
        timeout_ms_max=1_000,
        attempts_max=3,
        backoff_ms_first=10,
        backoff_ms_max=40,
        input_overhead_tokens=6,
        output_tokens_max=100,
        response_bytes_max=10_000,
        batch="part",
    )
    return replace(base, **over)


def boundary(**over: int) -> BoundaryLimits:
    base = BoundaryLimits(
        frame_bytes_max=4_096,
        control_frame_bytes_max=256,
        prompt_bytes_max=1_024,
        response_bytes_max=20_000,
        batch_items_max=4,
        nesting_max=8,
        host_wait_ms_max=2_000,
    )
    return replace(base, **over)


def observation(**over: int) -> ObservationLimits:
    return replace(ObservationLimits(bytes_max=2_000, variables_max=20), **over)


def started(run_id: RunId = RUN, **over: Any) -> RunStarted:
    base = RunStarted(
        run_id=run_id,
        budget=budget(),
        run=run_limits(),
        query=query_limits(),
        boundary=boundary(),
        prices={"m": PRICE},
        cell_requests_max=1_000,
        cell_fuel_max=1_000,
        child_models=("m",),
        seed=7,
    )
    return replace(base, **over)


def query(number: int, run_id: RunId = RUN, prompt: str = "hello", **over: Any) -> QueryReceived:
    base = QueryReceived(
        run_id=run_id,
        request_id=RequestId(number),
        depth=0,
        origin="guest",
        model="m",
        # 4 bytes of role and 6 of overhead: the input bound is 10 and the prompt's bytes.
        prompt_messages=(Message("user", prompt),),
    )
    return base._replace(**over)


def child(number: int, run_id: RunId = RUN, question: str = "why?", **over: Any) -> ChildRequested:
    base = ChildRequested(run_id, RequestId(number), 0, None, question)
    return base._replace(**over)

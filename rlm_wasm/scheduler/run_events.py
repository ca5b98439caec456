"""The data of each kind of event of a run; nothing is decided here.

Texts (prompts, answers, messages of errors, which may quote an answer) only if the run grants them.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Final

from rlm_wasm.errors import LimitExceeded, QueryError, WindowExceeded
from rlm_wasm.limits import BudgetLimits, QueryLimits, RunLimits
from rlm_wasm.outcomes import StopReason
from rlm_wasm.scheduler.conversation import ConversationState
from rlm_wasm.scheduler.inputs import CellJudged, ChildRequested, ProviderAnswered, ProviderFailed
from rlm_wasm.scheduler.ledger import DIMENSIONS, Charge, Dimension, View
from rlm_wasm.scheduler.messages import FinishReason, Usage
from rlm_wasm.scheduler.pricing import content_bytes, utf8_bytes
from rlm_wasm.scheduler.request import Completed, Response, error_of
from rlm_wasm.scheduler.run_state import OpenCall, OpenRequest, RunState

Data = dict[str, object]
# What a WindowExceeded knows, by the names of its attributes.
WINDOW_FACTS: Final = ("window_tokens", "prompt_tokens", "answer_tokens_max")
_NO_USAGE: Final[Data] = dict.fromkeys(
    f"{kind}_{which}_tokens" for kind in ("reported", "estimated") for which in ("input", "output")
)


def run_started(run: RunState) -> Data:
    """Every limit the run is held to, so that the log can be judged without the policy file."""
    facts = run.facts
    limits: Data = {
        **_named(facts.budget),
        **_named(facts.run, "run_"),
        **_named(facts.query, "query_"),
    }
    return {
        **limits,
        "cell_requests_max": facts.cell_requests_max,
        "cell_fuel_max": facts.cell_fuel_max,
        "models": sorted(facts.prices),
        "child_models": list(facts.child_models),
        "seed": facts.seed,
        "texts": facts.texts,
        "tenant": facts.tenant,
        "weight": facts.weight,
    }


def query_received(run: RunState, request: OpenRequest) -> Data:
    """An accepted query and what is reserved for it."""
    query = request.query
    data: Data = {
        "request": query.request_id,
        "group": query.group,
        "origin": query.origin,
        "model": request.model,
        "messages": len(query.prompt_messages),
        "prompt_bytes": content_bytes(query.prompt_messages, request.size),
        "timeout_ms": request.timeout_ms,
        "reserved_input_tokens": request.charge.input_tokens,
        "reserved_output_tokens": request.charge.output_tokens,
        "reserved_cost_microdollars": request.charge.cost_microdollars,
    }
    if run.facts.texts:
        data["roles"] = [message.role for message in query.prompt_messages]
        data["texts"] = [message.content for message in query.prompt_messages]
    return data


def query_retry(run: RunState, request: OpenRequest, given: ProviderFailed, delay_ms: int) -> Data:
    """A failed attempt after which another one follows."""
    data: Data = {
        "request": request.request_id,
        "attempt": request.attempt,
        "delay_ms": delay_ms,
        "sent": given.sent,
        "throttled": given.throttled,
        "retry_after_ms": given.retry_after_ms,
        **_usage(given.usage),
    }
    return data | _error(run, given.error)


def query_rerouted(run: RunState, request: OpenRequest, given: ProviderFailed) -> Data:
    """A failed attempt after which another model is asked at once."""
    data: Data = {
        "request": request.request_id,
        "attempt": request.attempt,
        "model": request.model,
        "sent": given.sent,
        "throttled": given.throttled,
        "retry_after_ms": given.retry_after_ms,
        "reserved_output_tokens": request.charge.output_tokens,
        "reserved_cost_microdollars": request.charge.cost_microdollars,
        **_usage(given.usage),
    }
    return data | _error(run, given.error)


def query_requeued(request: OpenRequest) -> Data:
    """A query whose wait before its next attempt is over: it waits for a permit again."""
    return {
        "request": request.request_id,
        "attempt": request.attempt + 1,
        "reserved_output_tokens": request.charge.output_tokens,
    }


def query_lengthened(run: RunState, request: OpenRequest, cut: Completed) -> Data:
    """An answer that its cap cut off: it is asked for again with a larger one, which is reserved."""
    data: Data = {
        "request": request.request_id,
        "attempt": request.attempt,
        **_usage(cut.usage),
        "finish": FinishReason.LENGTH.value,
        "cache": request.cache,
        "reserved_output_tokens": request.charge.output_tokens,
        "reserved_cost_microdollars": request.charge.cost_microdollars,
    }
    return data | {"text": cut.text} if run.facts.texts else data


def query_answered(
    run: RunState,
    request: OpenRequest,
    response: Response,
    failure: ProviderFailed | None = None,
    longer: str | None = None,
) -> Data:
    """The one terminal response. `assumed`: the cost holds reservations that no bill confirmed.

    `failure` is how the last attempt failed, where that ended the query. `longer` is what became of an
    attempt with a larger cap that came to nothing, so that the answer of the one before it stands.
    """
    completed = response if isinstance(response, Completed) else None
    usage = None if longer or completed is None else completed.usage
    if failure is not None:
        usage = failure.usage
    billed = request.billed
    data: Data = {
        "request": request.request_id,
        "status": response.status,
        "model": request.model,
        "attempts": request.attempt,
        "assumed": request.assumed,
        "sent": failure.sent if failure else None,
        "throttled": failure.throttled if failure else None,
        **_usage(usage),
        "finish": completed.finish.value if completed and completed.finish else None,
        "longer": longer,
        "cache": request.cache if completed else None,
        "input_tokens": billed.input_tokens,
        "output_tokens": billed.output_tokens,
        "cost_microdollars": billed.cost_microdollars,
    }
    if completed is None:
        error = error_of(response)
        if error is not None:
            data |= _error(run, error)
    elif run.facts.texts:
        data["text"] = completed.text
        if failure is not None:
            data |= _error(run, failure.error)
    return data


def tool_called(run: RunState, call: OpenCall) -> Data:
    """An accepted call of a tool, and what is reserved for it."""
    given = call.given
    data: Data = {
        "request": given.request_id,
        "group": given.group,
        "tool": given.tool,
        "arguments_bytes": utf8_bytes(given.arguments),
        "timeout_ms": call.timeout_ms,
        "reserved_cost_microdollars": call.charge.cost_microdollars,
    }
    return data | {"arguments": given.arguments} if run.facts.texts else data


def tool_answered(run: RunState, call: OpenCall, response: Response, status: str, cost: int) -> Data:
    """The one terminal response to a call of a tool."""
    completed = response if isinstance(response, Completed) else None
    data: Data = {
        "request": call.given.request_id,
        "tool": call.given.tool,
        "status": status,
        "result_bytes": None if completed is None else utf8_bytes(completed.text),
        "cost_microdollars": cost,
    }
    if completed is not None:
        return data | {"text": completed.text} if run.facts.texts else data
    error = error_of(response)
    if isinstance(error, LimitExceeded):
        data |= {"key": error.key, "size": error.size, "limit": error.limit}
    return data if error is None else data | _error(run, error)


def child_started(run: RunState, child: ConversationState, asked: ChildRequested) -> Data:
    """An admitted child: its own depth, its deadline, and the caps that it was given by name."""
    data: Data = {
        "request": asked.request_id,
        "group": asked.group,
        "model": child.model,
        "child_depth": child.depth,
        "question_bytes": utf8_bytes(asked.question),
        "timeout_ms": child.timeout_ms,
        **{f"{dimension.value}_max": cap for dimension, cap in asked.caps.items()},
    }
    if run.facts.texts:
        data["question"] = asked.question
    return data


def child_answered(run: RunState, child: ConversationState, response: Response) -> Data:
    """The one terminal response to the request for a child, and what its part of the tree has used.

    What a cell has used that still runs nobody knows yet: it counts with all that it was granted.
    """
    data: Data = {
        "request": child.request_id,
        "status": response.status,
        **{f"{d.value}_spent": n for d, n in zip(DIMENSIONS, child.view.spent, strict=True)},
    }
    fuel, view = Dimension.FUEL, child.view
    data[f"{fuel.value}_spent"] = run.ledger.spent(fuel, view) + run.ledger.reserved(fuel, view)
    error = error_of(response)
    if error is not None:
        data |= _error(run, error)
    if isinstance(response, Completed) and run.facts.texts:
        data["text"] = response.text
    return data


def child_gone(run: RunState, child: ConversationState, response: Response) -> Data:
    """The end of a child that nobody waited for any more: recorded, never delivered."""
    return child_answered(run, child, response)


def late_result(given: ProviderAnswered | ProviderFailed, usage: Usage | None, billed: Charge) -> Data:
    """What became of an attempt that nobody waited for any more; `billed` is what it costs now."""
    return {
        "request": given.request_id,
        "attempt": given.attempt,
        "answered": isinstance(given, ProviderAnswered),
        "sent": given.sent if isinstance(given, ProviderFailed) else None,
        "cache": given.cache if isinstance(given, ProviderAnswered) else None,
        **_usage(usage),
        "input_tokens": billed.input_tokens,
        "output_tokens": billed.output_tokens,
        "cost_microdollars": billed.cost_microdollars,
    }


def overdraft(view: View) -> Data:
    """The dimensions whose spend went beyond the limit."""
    return {"dimensions": [dimension.value for dimension in view.overdrawn]}


def cell_judged(run: RunState, given: CellJudged) -> Data:
    """What a hook said of a cell."""
    data: Data = {
        "cell": given.cell,
        "verdict": given.verdict,
        "source_bytes": given.source_bytes,
        "reason_bytes": utf8_bytes(given.reason),
    }
    if given.error:
        data["error"] = given.error
    if run.facts.texts:
        data["reason"] = given.reason
    return data


def run_ended(run: RunState, stop: StopReason) -> Data:
    """The final account."""
    ledger = run.ledger
    data: Data = {
        "outcome": stop.logged(texts=run.facts.texts),
        "stopped": None if run.stopping is None else run.stopping.logged(texts=run.facts.texts),
        "tenant": run.facts.tenant,
    }
    data |= {f"{d.value}_spent": ledger.spent(d) for d in Dimension}
    unconfirmed = (Dimension.CALLS, Dimension.INPUT_TOKENS, Dimension.OUTPUT_TOKENS, Dimension.COST)
    data |= {f"{d.value}_unconfirmed": ledger.unconfirmed(d) for d in unconfirmed}
    return data


def _named(limits: BudgetLimits | RunLimits | QueryLimits, prefix: str = "") -> Data:
    # Not `asdict`, which makes a deep copy of each: they are numbers and names.
    return {f"{prefix}{field.name}": getattr(limits, field.name) for field in fields(limits)}


def _usage(usage: Usage | None) -> Data:
    """What a provider stated, if that can be believed, apart from what was estimated in its place."""
    if usage is None or not usage.plausible:
        return dict(_NO_USAGE)
    given, made = usage.input_tokens, usage.output_tokens
    return {
        "reported_input_tokens": None if usage.input_estimated else given,
        "reported_output_tokens": None if usage.output_estimated else made,
        "estimated_input_tokens": given if usage.input_estimated else None,
        "estimated_output_tokens": made if usage.output_estimated else None,
    }


def _error(run: RunState, error: QueryError) -> Data:
    data: Data = {"error": type(error).__name__}
    if isinstance(error, WindowExceeded):
        for name in WINDOW_FACTS:
            data[name] = getattr(error, name)
    if run.facts.texts:
        data["message"] = error.message
    return data

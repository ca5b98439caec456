"""Runs as OpenTelemetry traces, made from their events alone, in the words of the GenAI conventions.

A run is an ``invoke_agent`` span, and so is each child run, under the cell that asked for it; each query is
a ``chat`` span and each cell an ``execute_tool`` span.
Needs the extra ``rlm-wasm[otel]``; nothing else imports this module.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from rlm_wasm.events import Event
from rlm_wasm.ids import RunId
from rlm_wasm.outcomes import StopKind, StopReason
from rlm_wasm.version import VERSION

try:
    from opentelemetry import trace
    from opentelemetry.trace import Span, SpanKind, Status, StatusCode, TracerProvider
except ImportError as missing:
    raise ImportError("OpenTelemetry is not installed; install rlm-wasm[otel]") from missing

AGENT: Final = "rlm-wasm"
TOOL: Final = "python"
# Beyond this many runs whose end was never seen, the oldest is closed.
_RUNS_MAX: Final = 10_000


@dataclass(slots=True)
class _Trace:
    """The open spans of one run. Agents and cells are keyed by the request they answer; None: the root."""

    began_unix_ns: int
    agents: dict[int | None, Span] = field(default_factory=dict)
    cells: dict[int | None, Span] = field(default_factory=dict)
    queries: dict[object, Span] = field(default_factory=dict)


class OtelExporter:
    """A sink for the events of any number of runs: ``sinks=[OtelExporter()]``.

    Spans go to the global tracer provider unless another is given, with the times of the events. With
    `texts`, prompts and answers that are in the events become attributes too. What has no name in the
    conventions is called ``rlm_wasm.…``.
    """

    def __init__(
        self,
        tracer_provider: TracerProvider | None = None,
        *,
        texts: bool = False,
        unix_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._tracer: Final = trace.get_tracer("rlm_wasm", VERSION, tracer_provider)
        self._texts: Final = texts
        self._unix_ns: Final = unix_ns
        self._traces: Final[dict[RunId, _Trace]] = {}

    def __call__(self, event: Event) -> None:
        """Take one event."""
        if event.kind == "run_started":
            self._begin(event)
        elif (run := self._traces.get(event.run_id)) is not None:
            self._take(run, event)

    def _begin(self, event: Event) -> None:
        if len(self._traces) >= _RUNS_MAX:
            self._end(self._traces.pop(next(iter(self._traces))), None)
        run = _Trace(self._unix_ns() - event.at_ns)
        span = self._tracer.start_span(
            f"invoke_agent {AGENT}",
            kind=SpanKind.INTERNAL,
            start_time=run.began_unix_ns + event.at_ns,
            attributes={
                "gen_ai.operation.name": "invoke_agent",
                "gen_ai.agent.name": AGENT,
                "gen_ai.agent.version": VERSION,
                "gen_ai.conversation.id": event.run_id,
            },
        )
        run.agents[None] = span
        self._traces[event.run_id] = run

    def _take(self, run: _Trace, event: Event) -> None:
        data, at = event.data, run.began_unix_ns + event.at_ns
        match event.kind:
            case "query_received":
                run.queries[data["request"]] = self._start_query(run, event, at)
            case "query_sent" | "query_retry" | "query_requeued" | "query_lengthened" | "query_rerouted":
                if (span := run.queries.get(data["request"])) is not None:
                    span.add_event(event.kind, _attributes(data, "attempt", "delay_ms", "model", "error"), at)
            case "query_answered":
                if (span := run.queries.pop(data["request"], None)) is not None:
                    self._end_query(span, event, at)
            case "child_started":
                run.agents[_int(data["request"])] = self._start_child(run, event, at)
            case "child_answered":
                if (span := run.agents.pop(_int(data["request"]), None)) is not None:
                    _end_child(span, event, at)
            case "cell_started":
                run.cells[event.parent] = self._start_cell(run, event, at)
            case "cell_ended":
                if (span := run.cells.pop(event.parent, None)) is not None:
                    _end_cell(span, event, at)
            case "run_answered":
                why = StopReason.parse(str(data["reason"])).logged(texts=self._texts)
                run.agents[None].set_attributes(_attributes(data | {"reason": why}, "partial", "reason"))
                if self._texts and isinstance(answer := data.get("answer"), str):
                    run.agents[None].set_attribute("gen_ai.output.messages", _said("assistant", answer))
            case "run_ended":
                del self._traces[event.run_id]
                self._end(run, event)

    def _start_child(self, run: _Trace, event: Event, at: int) -> Span:
        data = event.data
        within = run.cells.get(event.parent)
        span = self._start(run, event, within, f"invoke_agent {AGENT}", SpanKind.INTERNAL, at)
        span.set_attributes(
            {
                "gen_ai.operation.name": "invoke_agent",
                "gen_ai.agent.name": AGENT,
                "gen_ai.agent.version": VERSION,
                "gen_ai.conversation.id": event.run_id,
                **_attributes(data, "request", "group", "model"),
            }
        )
        if self._texts and isinstance(question := data.get("question"), str):
            span.set_attribute("gen_ai.input.messages", _said("user", question))
        return span

    def _start_query(self, run: _Trace, event: Event, at: int) -> Span:
        data = event.data
        provider, colon, model = str(data["model"]).partition(":")
        if not colon:
            provider, model = "_OTHER", provider
        within = run.cells.get(event.parent) if data["origin"] == "guest" else None
        span = self._start(run, event, within, f"chat {model}", SpanKind.CLIENT, at)
        span.set_attributes(
            {
                "gen_ai.operation.name": "chat",
                "gen_ai.provider.name": provider,
                "gen_ai.request.model": model,
                "gen_ai.request.max_tokens": _int(data["reserved_output_tokens"]),
                **_attributes(data, "request", "origin", "group"),
            }
        )
        roles, texts = data.get("roles"), data.get("texts")
        if self._texts and isinstance(roles, list) and isinstance(texts, list):
            messages = [_message(role, text) for role, text in zip(roles, texts, strict=False)]
            span.set_attribute("gen_ai.input.messages", json.dumps(messages, ensure_ascii=False))
        return span

    def _end_query(self, span: Span, event: Event, at: int) -> None:
        data = event.data
        for ours, theirs in (
            ("reported_input_tokens", "gen_ai.usage.input_tokens"),
            ("reported_output_tokens", "gen_ai.usage.output_tokens"),
        ):
            if isinstance(tokens := data[ours], int):
                span.set_attribute(theirs, tokens)
        span.set_attributes(_attributes(data, "status", "attempts", "assumed", "cost_microdollars"))
        if isinstance(error := data.get("error"), str):
            _mark_failed(span, error)
        if self._texts and isinstance(text := data.get("text"), str):
            span.set_attribute("gen_ai.output.messages", _said("assistant", text))
        span.end(at)

    def _start_cell(self, run: _Trace, event: Event, at: int) -> Span:
        span = self._start(run, event, None, f"execute_tool {TOOL}", SpanKind.INTERNAL, at)
        span.set_attributes(
            {
                "gen_ai.operation.name": "execute_tool",
                "gen_ai.tool.name": TOOL,
                "gen_ai.tool.type": "extension",
                **_attributes(event.data, "cell", "source_bytes"),
            }
        )
        return span

    def _start(
        self, run: _Trace, event: Event, within: Span | None, name: str, kind: SpanKind, at: int
    ) -> Span:
        above = within or run.agents.get(event.parent) or run.agents[None]
        context = trace.set_span_in_context(above)
        span = self._tracer.start_span(name, context=context, kind=kind, start_time=at)
        span.set_attribute("rlm_wasm.depth", event.depth)
        return span

    def _end(self, run: _Trace, event: Event | None) -> None:
        """End what is open: a cell that was cut off has no end of its own."""
        at = None if event is None else run.began_unix_ns + event.at_ns
        below = [span for owner, span in run.agents.items() if owner is not None]
        for span in (*run.queries.values(), *run.cells.values(), *below):
            span.set_attribute("rlm_wasm.cut_off", True)
            span.end(at)
        agent = run.agents[None]
        if event is not None:
            stop = StopReason.parse(str(event.data["outcome"]))
            data = event.data | {"outcome": stop.logged(texts=self._texts)}
            agent.set_attributes(
                {
                    "gen_ai.usage.input_tokens": _int(data["input_tokens_spent"]),
                    "gen_ai.usage.output_tokens": _int(data["output_tokens_spent"]),
                    **_attributes(
                        data, "outcome", "calls_spent", "iterations_spent", "fuel_spent",
                        "cost_microdollars_spent", "queries_denied",
                    ),
                }
            )  # fmt: skip
            if stop.kind in (StopKind.FAILED, StopKind.MODEL_FAILED):
                _mark_failed(agent, stop.error or stop.kind.value)
        agent.end(at)


def _end_child(span: Span, event: Event, at: int) -> None:
    data = event.data
    span.set_attributes(_attributes(data, "status", "fuel_spent", "cost_microdollars_spent"))
    if isinstance(error := data.get("error"), str):
        _mark_failed(span, error)
    span.end(at)


def _end_cell(span: Span, event: Event, at: int) -> None:
    data = event.data
    span.set_attributes(_attributes(data, "outcome", "fuel", "memory_bytes", "session_lost", "restored"))
    if data["outcome"] != "completed":
        _mark_failed(span, str(data["outcome"]))
    span.end(at)


def _mark_failed(span: Span, error: str) -> None:
    span.set_attribute("error.type", error)
    span.set_status(Status(StatusCode.ERROR))


def _attributes(data: dict[str, object], *names: str) -> dict[str, str | int]:
    """Return the fields that are there, as attributes of ours."""
    found = {f"rlm_wasm.{name}": data.get(name) for name in names}
    return {name: value for name, value in found.items() if isinstance(value, str | int)}


def _int(value: object) -> int:
    return value if isinstance(value, int) else 0


def _said(role: str, text: str) -> str:
    return json.dumps([_message(role, text)], ensure_ascii=False)


def _message(role: object, text: object) -> dict[str, object]:
    return {"role": role, "parts": [{"type": "text", "content": text}]}

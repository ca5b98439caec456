"""Runs as OpenTelemetry traces, with the SDK's own exporter: spans, times, attributes, no texts unasked."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from rlm_wasm.audit.otel import OtelExporter
from rlm_wasm.outcomes import StopReason
from rlm_wasm.scheduler.inputs import FuelUsed, IterationStarted, Noted, RunCancelled, RunEnded
from rlm_wasm.scheduler.messages import Usage
from tests.support.core_facts import RUN, query, started
from tests.support.runtime_facts import Script, running, small_policy, tree_model
from tests.support.scheduler_driver import Driver, answered, events, failed, fired

BEGAN_NS = 1_700_000_000 * 10**9


class Traced:
    """A provider whose spans stay in memory, and the exporter under test."""

    def __init__(self, **more: bool) -> None:
        self.kept = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self.kept))
        self.sink = OtelExporter(self.provider, unix_ns=lambda: BEGAN_NS, **more)

    def spans(self) -> dict[str, list[ReadableSpan]]:
        found: dict[str, list[ReadableSpan]] = {}
        for span in self.kept.get_finished_spans():
            found.setdefault(span.name, []).append(span)
        return found


@pytest.fixture
def traced() -> Iterator[Traced]:
    made = Traced()
    yield made
    made.provider.shutdown()


def a_run(*, texts: bool = False) -> Driver:
    """A turn, a cell that asks two queries, one of which is retried and then fails, and the end."""
    driver = Driver()
    driver.give(started(texts=texts), IterationStarted(RUN), query(1, origin="root", prompt="the prompt"))
    driver.give(answered(1, usage=Usage(7, 5), text="the reply"), after_ms=100)
    driver.give(Noted(RUN, "cell_started", {"cell": 1, "source_bytes": 9}), query(2), query(3))
    driver.give(answered(2, usage=Usage(3, 2)), failed(3), after_ms=10)
    driver.give(fired("query_backoff:3"), failed(3, 2, retryable=False, sent=True), after_ms=20)
    ended = {"cell": 1, "outcome": "guest_exception", "fuel": 5, "memory_bytes": 9}
    driver.give(
        Noted(RUN, "cell_ended", ended | {"session_lost": False, "restored": False}), FuelUsed(RUN, 5)
    )
    answer: dict[str, object] = {"partial": False, "reason": "finished", "answer_bytes": 3}
    if texts:
        answer["answer"] = "the answer"
    driver.give(Noted(RUN, "run_answered", answer), RunEnded(RUN), after_ms=1)
    return driver


def test_a_run_is_one_trace_with_a_span_for_each_query_and_cell(traced: Traced) -> None:
    for event in events(a_run().said):
        traced.sink(event)
    spans = traced.spans()
    (agent,) = spans["invoke_agent rlm-wasm"]
    (cell,) = spans["execute_tool python"]
    root, first, second = sorted(spans["chat m"], key=lambda span: span.attributes["rlm_wasm.request"])
    assert len(traced.kept.get_finished_spans()) == 5
    assert {span.context.trace_id for span in traced.kept.get_finished_spans()} == {agent.context.trace_id}
    assert agent.parent is None
    assert root.parent.span_id == cell.parent.span_id == agent.context.span_id
    assert first.parent.span_id == second.parent.span_id == cell.context.span_id
    assert (agent.kind, root.kind, cell.kind) == (SpanKind.INTERNAL, SpanKind.CLIENT, SpanKind.INTERNAL)


def test_spans_have_the_times_of_the_events(traced: Traced) -> None:
    said = events(a_run().said)
    for event in said:
        traced.sink(event)
    spans = traced.spans()
    (agent,) = spans["invoke_agent rlm-wasm"]
    assert (agent.start_time, agent.end_time) == (BEGAN_NS, BEGAN_NS + said[-1].at_ns)
    root = spans["chat m"][0]
    assert root.end_time - root.start_time == 100 * 10**6


def test_attributes_are_those_of_the_conventions(traced: Traced) -> None:
    for event in events(a_run().said):
        traced.sink(event)
    spans = traced.spans()
    root = spans["chat m"][0].attributes
    assert root["gen_ai.operation.name"] == "chat"
    assert root["gen_ai.usage.input_tokens"] == 7
    assert root["gen_ai.usage.output_tokens"] == 5
    assert root["gen_ai.request.max_tokens"] == 100
    cell = spans["execute_tool python"][0]
    assert cell.attributes["gen_ai.operation.name"] == "execute_tool"
    assert cell.attributes["gen_ai.tool.name"] == "python"
    assert cell.attributes["error.type"] == "guest_exception"
    assert cell.status.status_code is StatusCode.ERROR
    failed_query = spans["chat m"][2]
    assert failed_query.attributes["error.type"] == "ProviderError"
    assert "gen_ai.usage.input_tokens" not in failed_query.attributes
    assert [event.name for event in failed_query.events] == [
        "query_sent", "query_retry", "query_requeued", "query_sent",
    ]  # fmt: skip
    agent = spans["invoke_agent rlm-wasm"][0].attributes
    assert agent["gen_ai.operation.name"] == "invoke_agent"
    assert agent["gen_ai.conversation.id"] == RUN
    assert agent["rlm_wasm.reason"] == "finished"
    assert agent["rlm_wasm.calls_spent"] == 3


@pytest.mark.threat("T-081")
@pytest.mark.parametrize("granted", [False, True])
@pytest.mark.parametrize("wanted", [False, True])
def test_texts_leave_only_if_the_policy_grants_them_and_the_exporter_is_told_to(
    granted: bool, wanted: bool
) -> None:
    traced = Traced(texts=wanted)
    for event in events(a_run(texts=granted).said):
        traced.sink(event)
    written = "".join(span.to_json() for span in traced.kept.get_finished_spans())
    for text in ("the prompt", "the reply", "the answer"):
        assert (text in written) is (granted and wanted)
    if granted and wanted:
        asked = traced.spans()["chat m"][0].attributes
        assert json.loads(asked["gen_ai.input.messages"]) == [
            {"role": "user", "parts": [{"type": "text", "content": "the prompt"}]}
        ]
    traced.provider.shutdown()


def test_what_is_cut_off_ends_with_its_run(traced: Traced) -> None:
    driver = Driver()
    driver.give(started(), Noted(RUN, "cell_started", {"cell": 1, "source_bytes": 9}))
    driver.give(
        RunCancelled(RUN, StopReason.cancelled("enough")), RunEnded(RUN, StopReason.cancelled("enough"))
    )
    for event in events(driver.said):
        traced.sink(event)
    (cell,) = traced.spans()["execute_tool python"]
    assert cell.attributes["rlm_wasm.cut_off"] is True
    assert traced.sink._traces == {}


def test_events_of_a_run_whose_beginning_was_not_seen_are_passed_over(traced: Traced) -> None:
    for event in events(a_run().said)[1:]:
        traced.sink(event)
    assert traced.kept.get_finished_spans() == ()


def test_runs_that_never_end_do_not_pile_up(traced: Traced, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rlm_wasm.audit.otel._RUNS_MAX", 3)
    for number in range(10):
        driver = Driver()
        driver.give(started(run_id=f"run_{number}"))
        traced.sink(events(driver.said)[0])
    assert len(traced.sink._traces) == 3
    assert len(traced.kept.get_finished_spans()) == 7


def test_the_package_works_without_opentelemetry_and_says_what_to_install() -> None:
    source = (
        "import sys\nsys.modules['opentelemetry'] = None\nimport rlm_wasm.api.runtime\n"
        "try:\n    import rlm_wasm.audit.otel\nexcept ImportError as e: print(e)"
    )
    ended = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, timeout=60)
    assert ended.stdout == "OpenTelemetry is not installed; install rlm-wasm[otel]\n"


@pytest.mark.guest
@pytest.mark.anyio
async def test_a_real_run_becomes_a_trace(traced: Traced, tmp_path, guest: object) -> None:
    script = Script(tmp_path).reply("root", "FINAL(llm_query_batched(['a', 'b']))").reply("sub", "yes")
    async with running(small_policy(), script.spec) as runtime:
        await runtime.ask("?", sinks=[traced.sink])
    spans = traced.spans()
    assert len(spans["execute_tool python"]) == len(spans["invoke_agent rlm-wasm"]) == 1
    queries = [span for name, found in spans.items() if name.startswith("chat ") for span in found]
    assert len(queries) == 3
    assert all(span.attributes["gen_ai.provider.name"] == "script" for span in queries)
    assert all(span.status.status_code is not StatusCode.ERROR for span in queries)


@pytest.mark.guest
@pytest.mark.anyio
async def test_children_are_agents_under_the_cell_that_asked_for_them(
    traced: Traced, tmp_path, guest: object
) -> None:
    model = tree_model(
        tmp_path, one="FINAL(rlm_query_batched(['two', 'bad'], return_exceptions=True))",
        two="FINAL(llm_query('x'))", bad="1",
    )  # fmt: skip
    async with running(small_policy(run={"turns_max": 2}), model) as runtime:
        await runtime.ask("one", sinks=[traced.sink])
    spans = {span.context.span_id: span for span in traced.kept.get_finished_spans()}
    agents = [span for span in spans.values() if span.name == "invoke_agent rlm-wasm"]
    (root,) = [span for span in agents if span.parent is None]
    children = [span for span in agents if span.parent is not None]
    assert len(children) == 2
    for child in children:
        cell = spans[child.parent.span_id]
        assert cell.name == "execute_tool python"
        assert cell.parent.span_id == root.context.span_id
    assert sorted(str(child.attributes.get("error.type")) for child in children) == ["ChildFailed", "None"]
    below = [span for span in spans.values() if span.attributes.get("rlm_wasm.depth") == 1]
    assert {spans[span.parent.span_id].name for span in below} == {
        "invoke_agent rlm-wasm", "execute_tool python",
    }  # fmt: skip

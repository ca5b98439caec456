"""docs/events.md, made from the catalogue: `python -m tests.support.events_page` writes it."""

from __future__ import annotations

from pathlib import Path

from rlm_wasm.audit.catalogue import KINDS, Field
from rlm_wasm.events import EVENT_VERSION

PAGE = Path(__file__).parents[2] / "docs" / "events.md"

_HEAD = """\
# Events

A run is a stream of events: what was asked, what it cost, what code ran and how it ended. The same events
go to every sink, to the readers of `run.events()` and into the file of `rlm-wasm run --events`, one JSON
object a line.

<!-- Made from rlm_wasm/audit/catalogue.py by `python -m tests.support.events_page`; do not edit. -->

## The envelope

| field | type | meaning |
|---|---|---|
| `v` | int | version of this page: {version} |
| `run_id` | str | the run |
| `seq` | int | counts from 0, without a gap |
| `at_ns` | int | nanoseconds since the run began, by the host's monotonic clock; never goes back |
| `depth` | int | 0 for the root, 1 for its children, and so on |
| `parent` | int or null | the request that this part of the run answers; null for the root |
| `kind` | str | one of those below |
| `data` | object | the fields below; str, int, bool, null and lists of them |

The version is raised when a kind or field is taken away or changes its meaning. New ones may come without
it: a reader of its own should pass over what it does not know, and do without a field marked *later*, which
older logs lack. `rlm_wasm.audit.reader` knows those of its own version of rlm-wasm and of earlier ones, and
takes nothing else.

Fields marked **text** hold words of people, models or guests, and digests of them. They are written only if
the policy says `texts = true` in `[events]`. No event holds a key: see SECURITY.md.

## The order

`run_started` is first, `run_ended` last. Each query has one `query_received`, then one `query_sent` for each
attempt, `query_retry` and `query_requeued` between two of them, and one `query_answered`. Queries that were
refused at once are only counted, in `query_denied`. A child run has one `child_started` and one
`child_answered`, at its parent's depth; its own events have `parent` set to that request, and come in
between. Each session has one `session_ended`, after its last cell. A run that is to end says `run_stopping`
once; what its guests still do after that is not recorded, a bill that still comes is (`late_result`).

## Reading while a run goes on

```python
run = runtime.start("What changed?", context)
async for event in run.events():
    print(event.kind)
result = await run.result()
```

No run waits for a reader. `events.buffer_events_max` events are kept for one that is behind. Then, with
`when_full = "spill"`, up to `spill_bytes_max` go to a temporary file without a name; with `"drop"`, or when
that is full too, the oldest are lost, and the reader gets one `Gap` in their place, with the first and the
last `seq` it did not get. A reader that comes late begins with a `Gap`. The end of a run always arrives.

## Repeating a run

With texts, `rlm-wasm replay EVENTS.jsonl` repeats the run: real guests, the recorded answers in the recorded
order, the recorded times; without a key or network. Inputs of up to 65,536 characters are in the log; larger
ones, and bytes, are given again with `--context` and checked by their digest. So is the saved snapshot that a
run began from (`Runtime.ask(snapshot=…)`), with `--snapshot`. It compares every event and says where the
first one differs. Record with `texts = true`, `entropy = "seeded"` and `clock = "virtual"`.

The same bytes come out as long as nothing decided the run that is not recorded:

- a cell that met its wall-clock deadline, or that had to wait for the host longer than
  `boundary.host_wait_ms_max`, ends somewhere else in a replay;
- another build of the guest, or another version of wasmtime, uses other amounts of fuel;
- permits that another run of the same process gave back are not in this run's log;
- a child that reads `budget()` while its siblings are spending sees what the moment gives;
- `run.events_max` cuts a log off, and a killed process ends it: the replay compares up to there, and `ended`
  names the event. What is told together with a later event (`query_denied`, `provider_throttled`) is not
  compared where that one is missing. A log that ends within a line is refused.

How long a guest ran (`executed_ns`) and what its process used (`worker_cpu_ns`) is measured, and no machine
measures the same twice: a replay repeats the recorded numbers.

To ask the same questions under another policy or code, `rlm-wasm run --answers-from EVENTS.jsonl` (in Python,
`Runtime(policy, route=answers_from(Recording.open(path)))`) takes recorded answers by model and messages, and
fails a query that was never recorded.

## Traces

`Runtime.ask(..., sinks=[OtelExporter()])` makes OpenTelemetry spans of a run (`rlm-wasm[otel]`):
`invoke_agent rlm-wasm` for the run and each child, `chat MODEL` for each query, `execute_tool python` for
each cell, with the attributes of the GenAI conventions where they have one, and `rlm_wasm.…` else. Texts
become attributes only with `OtelExporter(texts=True)` and if the policy grants them.

## Kinds
"""


def page() -> str:
    """Return the whole page."""
    parts = [_HEAD.format(version=EVENT_VERSION)]
    for name, kind in KINDS.items():
        parts.append(f"### `{name}`\n\n{kind.meaning}\n")
        rows = ["| field | type | meaning |", "|---|---|---|"]
        names: dict[Field, list[str]] = {}
        for field_name, field in kind.fields.items():
            names.setdefault(field, []).append(f"`{field_name}`")  # fields that say the same share a row
        for field, alike in names.items():
            marks = " **text**" if field.text else " (not always)" if field.optional else ""
            marks += " (*later*)" if field.later else ""
            rows.append(
                f"| {', '.join(alike)} | {field.type_name.replace('|', ' or ')} | {field.meaning}{marks} |"
            )
        parts.append("\n".join(rows) + "\n")
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page(), encoding="utf-8")

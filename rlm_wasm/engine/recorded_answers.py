"""The answers in an event log with texts, for whoever wants them again."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final

from rlm_wasm.audit.reader import read_events
from rlm_wasm.errors import LostInFlight, NoText, ProviderError, UsageError, WindowExceeded
from rlm_wasm.events import Event
from rlm_wasm.providers.recorded import RecordedAnswer, ReplayProvider, messages_digest
from rlm_wasm.scheduler.messages import finish_of
from rlm_wasm.scheduler.run_events import WINDOW_FACTS

# A recording is held in memory, at up to a kilobyte an event beside its texts.
EVENTS_MAX: Final = 1_000_000
BYTES_MAX: Final = 1 << 30
# Of attempts that another one follows.
_ENDS_OF_ATTEMPTS: Final = ("query_retry", "query_rerouted", "query_lengthened")
TEXTS_HINT: Final = "record the run under a policy with `texts = true` in [events]"


def open_recording(path: Path) -> ReplayProvider:
    """Return a provider that answers as the log tells, whatever a model is called now.

    Raises EventLogError for what is no log of a run, and UsageError for one without texts.
    """
    lines = read_events(path, events_max=EVENTS_MAX, bytes_max=BYTES_MAX)
    events = [line.event for line in lines]
    if not events[0].data["texts"]:
        raise UsageError(f"{path}: the log holds no texts, so no answers", hint=TEXTS_HINT)
    return ReplayProvider(answers_in(events), any_model=True)


def answers_in(events: Iterable[Event]) -> list[RecordedAnswer]:
    """Return what came of each attempt, in the order in which the attempts ended."""
    asked: dict[object, tuple[str, bytes]] = {}
    sent_at_ns: dict[object, int] = {}
    found = []
    for event in events:
        data = event.data
        number = data.get("request")
        if event.kind == "query_received":
            roles, texts = data.get("roles"), data.get("texts")
            if isinstance(roles, list) and isinstance(texts, list) and len(roles) == len(texts):
                pairs = list(zip(roles, texts, strict=True))
                asked[number] = (str(data["model"]), messages_digest(pairs))
        elif event.kind == "query_sent":
            sent_at_ns[number] = event.at_ns
        elif number in asked and (answer := _answer(event, *asked[number], sent_at_ns.get(number))):
            found.append(answer)
            if event.kind == "query_rerouted":
                asked[number] = (str(data["model"]), asked[number][1])
    return found


def provider_error(event: Event) -> ProviderError:
    """Return how an attempt failed, of the type that was recorded."""
    kind, message = event.data.get("error"), str(event.data.get("message", ""))
    if kind == WindowExceeded.__name__:
        facts = {name: event.data.get(name) for name in WINDOW_FACTS}
        return WindowExceeded(message, **{name: n if type(n) is int else None for name, n in facts.items()})
    known = {each.__name__: each for each in (NoText, LostInFlight)}
    return known.get(str(kind), ProviderError)(message)


def _answer(event: Event, model: str, digest: bytes, sent_at_ns: int | None) -> RecordedAnswer | None:
    data = event.data
    longer = data.get("longer")  # the text is of the attempt before then, and told with that
    ended = event.kind == "query_answered" and (longer or data["status"]) in ("completed", "failed")
    if sent_at_ns is None or not (ended or event.kind in _ENDS_OF_ATTEMPTS):
        return None
    tokens = [data.get(f"reported_{which}_tokens") for which in ("input", "output")]
    text, after = data.get("text"), data.get("retry_after_ms")
    return RecordedAnswer(
        model=model,
        digest=digest,
        latency_ns=event.at_ns - sent_at_ns,
        text=text if isinstance(text, str) and longer is None else None,
        input_tokens=tokens[0] if isinstance(tokens[0], int) else None,
        output_tokens=tokens[1] if isinstance(tokens[1], int) else None,
        error=provider_error(event),
        retryable=event.kind == "query_retry",
        sent=data.get("sent") is True,
        retry_after_ms=after if isinstance(after, int) else None,
        finish=finish_of(data.get("finish")),
    )

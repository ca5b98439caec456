"""Every kind of event there is, with its fields: what a reader may rely on, and what is checked.

`docs/events.md` is made from these tables. A field marked `text` holds words of people, models or
guests and is there only if the policy grants `events.texts`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import MISSING, dataclass, fields, replace
from typing import Final, Literal, get_type_hints

from rlm_wasm.events import EVENT_VERSION, Event
from rlm_wasm.limits import BudgetLimits, QueryLimits, RunLimits
from rlm_wasm.scheduler.ledger import Dimension

TypeName = Literal["int", "str", "bool", "int|null", "str|null", "bool|null", "[str]", "[int]", "[str|null]"]
_INT_ABOVE_ALL: Final = 1 << 63
_TYPES: Final[dict[str, tuple[type, ...]]] = {
    "int": (int,),
    "str": (str,),
    "bool": (bool,),
    "int|null": (int, type(None)),
    "str|null": (str, type(None)),
    "bool|null": (bool, type(None)),
    "[str]": (str,),
    "[int]": (int,),
    "[str|null]": (str, type(None)),
}


@dataclass(frozen=True, slots=True)
class Field:
    """One field of an event's data. `text`: only where texts are granted; `optional`: not in each event.

    `later`: it came without a new version, so older logs of this one lack it.
    """

    type_name: TypeName
    meaning: str
    text: bool = False
    optional: bool = False
    later: bool = False


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of event."""

    meaning: str
    fields: dict[str, Field]


_LIMIT: Final = Field("int", "a limit of the policy")


def _limits(prefix: str, limits: type) -> dict[str, Field]:
    kinds = get_type_hints(limits)
    return {
        prefix + field.name: Field(
            "int" if kinds[field.name] is int else "str", _LIMIT.meaning, later=field.default is not MISSING
        )
        for field in fields(limits)
    }


def _ledger(suffix: str, meaning: str, dimensions: tuple[Dimension, ...]) -> dict[str, Field]:
    return {f"{dimension.value}_{suffix}": Field("int", meaning) for dimension in dimensions}


_BILLED: Final = (Dimension.CALLS, Dimension.INPUT_TOKENS, Dimension.OUTPUT_TOKENS, Dimension.COST)
_REQUEST: Final = Field("int", "the query, by the host's number")
_CHILD: Final = Field("int", "the request that it answers")
_GROUP: Final = Field("int|null", "shared by the items of one batch")
_ATTEMPT: Final = Field("int", "which attempt, from 1")
_CELL: Final = Field("int", "which cell of its session's owner, from 1")
_ERROR: Final = Field("str", "the type of the error", optional=True)
_MESSAGE: Final = Field("str", "what the error says", text=True, optional=True)
_WINDOW: Final = {
    "window_tokens": Field("int|null", "of a WindowExceeded: what the model holds", optional=True),
    "prompt_tokens": Field("int|null", "of a WindowExceeded: what the messages took", optional=True),
    "answer_tokens_max": Field("int|null", "of a WindowExceeded: the most of an answer", optional=True),
}
_COST: Final = {
    "input_tokens": Field("int", "charged"),
    "output_tokens": Field("int", "charged"),
    "cost_microdollars": Field("int", "charged"),
}
_ESTIMATED: Final = "counted where the provider stated nothing believable of an answer: a byte as a token"
_REPORTED: Final = {
    "reported_input_tokens": Field("int|null", "what the provider stated, if believable"),
    "reported_output_tokens": Field("int|null", "what the provider stated, if believable"),
    "estimated_input_tokens": Field("int|null", _ESTIMATED, later=True),
    "estimated_output_tokens": Field("int|null", _ESTIMATED, later=True),
}
_CACHE: Final = Field(
    "str|null",
    "of an answer for which a cache was asked: hit, it costs nothing; miss; unusable, the cache was",
    later=True,
)
_REPORTED_LATER: Final = {name: replace(field, later=True) for name, field in _REPORTED.items()}

_CHILD_END: Final = {
    "request": _CHILD,
    "status": Field("str", "completed, failed, timed_out or cancelled"),
    **_ledger(
        "spent",
        "what it and all below it used; fuel also, that was granted to a cell under way",
        tuple(Dimension),
    ),
    "error": _ERROR,
    "message": _MESSAGE,
    "text": Field("str", "its answer", text=True, optional=True),
}

KINDS: Final[dict[str, Kind]] = {
    "run_started": Kind(
        "A run begins. Always the first event.",
        {
            **_limits("", BudgetLimits),
            **_limits("run_", RunLimits),
            **_limits("query_", QueryLimits),
            "cell_requests_max": _LIMIT,
            "cell_fuel_max": Field("int", _LIMIT.meaning, later=True),
            "models": Field("[str]", "the models that may be asked"),
            "child_models": Field("[str]", "those that drive children, from depth 1 on"),
            "seed": Field("int", "of the policy"),
            "texts": Field("bool", "whether the fields marked as text are written"),
            "tenant": Field("str", "whose run it is"),
            "weight": Field("int", "of the tenant, where permits are shared"),
        },
    ),
    "run_described": Kind(
        "What the run is about and made of: with its texts, all that a replay needs.",
        {
            "version": Field("str", "of rlm-wasm"),
            "policy_sha256": Field("str", "of the policy as `policy show` prints it"),
            "guest_code_sha256": Field("str", "of the guest's code module"),
            "guest_image_sha256": Field("str", "of the guest's base image"),
            "question_chars": Field("int", "length of the question"),
            "contexts": Field("[str]", "names of the inputs"),
            "context_types": Field(
                "[str]",
                "str, bytes, LazyText, …; list, … of one that came as JSON; folder of the texts of one",
            ),
            "context_lengths": Field("[int]", "in characters or bytes; a lazy one's in bytes"),
            "instructions_bytes": Field(
                "int", "of own instructions that came with the question; the policy has others", later=True
            ),
            "examples": Field("int", "how many came with the question", later=True),
            "hook": Field("bool", "whether a hook of the caller's sees each cell before it runs", later=True),
            "output": Field(
                "str",
                "what the answer has to fit: schema, a JSON Schema; type, the program's; empty: nothing",
                later=True,
            ),
            "question": Field("str", "the question", text=True, optional=True),
            "policy": Field("str", "the policy as TOML", text=True, optional=True),
            "context_sha256": Field("[str]", "of each input, a str as UTF-8", text=True, optional=True),
            "context_files": Field("[str]", "of each its name in /inputs", text=True, optional=True),
            "context_texts": Field("[str|null]", "each str that is short", text=True, optional=True),
            "instructions": Field(
                "str", "what came with the question; empty: nothing", text=True, optional=True, later=True
            ),
            "example_questions": Field(
                "[str]", "of each example that came with it", text=True, optional=True, later=True
            ),
            "example_replies": Field("[str]", "of each its reply", text=True, optional=True, later=True),
            "start_image_sha256": Field(
                "str|null",
                "of the snapshot that every session was forked from; null: of none",
                text=True,
                optional=True,
            ),
            "tools": Field(
                "str", "JSON: what guests are told of each tool, and its terms", text=True, optional=True
            ),
            "output_schema": Field(
                "str", "of a typed answer: the JSON Schema that its model is told", text=True, optional=True
            ),
        },
    ),
    "iteration_started": Kind(
        "A root model is about to get its next turn.",
        {"iteration": Field("int", "how many turns this part of the run has had, this one included")},
    ),
    "history_compacted": Kind(
        "What a model is shown of its conversation was made shorter, before its next turn.",
        {
            "window_tokens": Field("int|null", "what the model holds, as far as that is known"),
            "refused": Field("bool", "whether its endpoint had refused the history as too long"),
            "summarised": Field("bool", "whether a summary of its own stands for earlier turns"),
            "messages_before": Field("int", "how many it had"),
            "messages_after": Field("int", "how many it has"),
            "bytes_before": Field("int", "of all of them, as UTF-8"),
            "bytes_after": Field("int", "of all of them, as UTF-8"),
        },
    ),
    "query_received": Kind(
        "A query was accepted and its cost reserved.",
        {
            "request": _REQUEST,
            "group": _GROUP,
            "origin": Field(
                "str",
                "root: a turn of the loop; guest: llm_query; last: for the best answer there is",
            ),
            "model": Field("str", "the one that is asked first, as the policy names it"),
            "messages": Field("int", "how many"),
            "prompt_bytes": Field("int", "of all messages, as UTF-8"),
            "timeout_ms": Field("int", "for all attempts together"),
            "reserved_input_tokens": Field("int", "an upper bound of one attempt"),
            "reserved_output_tokens": Field("int", "an upper bound of one attempt"),
            "reserved_cost_microdollars": Field("int", "an upper bound of one attempt"),
            "roles": Field("[str]", "of the messages", text=True, optional=True),
            "texts": Field("[str]", "of the messages", text=True, optional=True),
        },
    ),
    "query_sent": Kind("An attempt got its permit and goes out.", {"request": _REQUEST, "attempt": _ATTEMPT}),
    "query_retry": Kind(
        "An attempt failed; another one follows.",
        {
            "request": _REQUEST,
            "attempt": Field("int", "the one that failed"),
            "delay_ms": Field("int", "until the next one"),
            "sent": Field("bool", "whether the provider may bill for it"),
            "throttled": Field("bool", "whether the provider asked for fewer requests"),
            "retry_after_ms": Field("int|null", "what the provider asked for"),
            **_REPORTED_LATER,
            "error": Field("str", "the type of the error"),
            **_WINDOW,
            "message": _MESSAGE,
        },
    ),
    "query_rerouted": Kind(
        "An attempt failed, or its provider asked for fewer requests; another model is asked at once.",
        {
            "request": _REQUEST,
            "attempt": Field("int", "the one that failed"),
            "model": Field("str", "the one that is asked now, as the policy names it"),
            "sent": Field("bool", "whether the provider may bill for it"),
            "throttled": Field("bool", "whether the provider asked for fewer requests"),
            "retry_after_ms": Field("int|null", "what the provider asked for"),
            "reserved_output_tokens": Field("int", "an upper bound of the next attempt", later=True),
            "reserved_cost_microdollars": Field("int", "an upper bound of the next attempt", later=True),
            **_REPORTED,
            "error": Field("str", "the type of the error"),
            **_WINDOW,
            "message": _MESSAGE,
        },
    ),
    "query_requeued": Kind(
        "The wait before the next attempt is over; the query waits for a permit again.",
        {
            "request": _REQUEST,
            "attempt": Field("int", "the one to come"),
            "reserved_output_tokens": Field(
                "int", "an upper bound of it: less than before where that was too much", later=True
            ),
        },
    ),
    "query_lengthened": Kind(
        "The cap on tokens cut an answer off: it is asked for once more, with query.output_tokens_retry_max.",
        {
            "request": _REQUEST,
            "attempt": Field("int", "the one that was cut off"),
            **_REPORTED,
            "finish": Field("str", "length"),
            "cache": _CACHE,
            "reserved_output_tokens": Field("int", "an upper bound of the next attempt"),
            "reserved_cost_microdollars": Field("int", "an upper bound of the next attempt"),
            "text": Field("str", "the answer as it is", text=True, optional=True),
        },
    ),
    "query_answered": Kind(
        "The one terminal response of a query.",
        {
            "request": _REQUEST,
            "status": Field("str", "completed, failed, denied, timed_out or cancelled"),
            "model": Field("str", "the one that answered, or was asked last", later=True),
            "attempts": Field("int", "how many were made"),
            "assumed": Field("bool", "whether the charge holds reservations that no bill confirmed"),
            "sent": Field("bool|null", "of a failure: whether the last attempt may be billed"),
            "throttled": Field("bool|null", "of a failure: whether the provider asked for fewer requests"),
            **_REPORTED,
            "finish": Field(
                "str|null",
                "of an answer, if the provider said so: stop, the model had ended; length, a cap cut it off",
                later=True,
            ),
            "longer": Field(
                "str|null",
                "of an answer that stays cut off: how its longer attempt ended, failed or timed_out",
                later=True,
            ),
            "cache": _CACHE,
            **_COST,
            "error": _ERROR,
            **_WINDOW,
            "message": _MESSAGE,
            "text": Field("str", "the answer", text=True, optional=True),
        },
    ),
    "query_denied": Kind(
        "Queries and children that were refused since the last other event, folded by reason and asker.",
        {
            "reason": Field("str", "what refused them"),
            "count": Field("int", "how many"),
            "first_request": Field("int", "the first of them"),
            "last_request": Field("int", "the last of them"),
        },
    ),
    "provider_throttled": Kind(
        "A provider asked for fewer requests, and gets fewer permits for a while.",
        {
            "provider": Field("str", "before the colon of its models' names"),
            "permits": Field("int", "how many it may hold now"),
        },
    ),
    "tool_called": Kind(
        "A tool is called. Nobody has looked at its arguments yet.",
        {
            "request": _REQUEST,
            "group": _GROUP,
            "tool": Field("str", "its name"),
            "arguments_bytes": Field("int", "of their JSON, as UTF-8"),
            "timeout_ms": Field("int", "how long the call may take"),
            "reserved_cost_microdollars": Field("int", "its price"),
            "arguments": Field("str", "their JSON", text=True, optional=True),
        },
    ),
    "tool_answered": Kind(
        "The one terminal response to a call of a tool.",
        {
            "request": _REQUEST,
            "tool": Field("str", "its name"),
            "status": Field("str", "completed, failed, denied (not called), timed_out or cancelled"),
            "result_bytes": Field("int|null", "of the JSON of its result"),
            "cost_microdollars": Field("int", "charged"),
            "key": Field("str", "of a LimitExceeded: the policy's", optional=True),
            "size": Field("int", "of a LimitExceeded", optional=True),
            "limit": Field("int", "of a LimitExceeded", optional=True),
            "error": _ERROR,
            "message": _MESSAGE,
            "text": Field("str", "the JSON of its result", text=True, optional=True),
        },
    ),
    "child_started": Kind(
        "A child run was admitted. `parent` is that of who asked; the child's own events name `request`.",
        {
            "request": _CHILD,
            "group": _GROUP,
            "model": Field("str", "the one that drives it"),
            "child_depth": Field("int", "its own depth"),
            "question_bytes": Field("int", "as UTF-8"),
            "timeout_ms": Field("int", "how long it may take"),
            **{
                f"{dimension.value}_max": Field("int", "a cap its parent gave it", optional=True)
                for dimension in Dimension
            },
            "question": Field("str", "what it was asked", text=True, optional=True),
        },
    ),
    "child_stopping": Kind(
        "A child must end: its part of the budget is used up. It may still give its best answer.",
        {"request": _CHILD, "reason": Field("str", "why, in words")},
    ),
    "child_answered": Kind("The one terminal response to the request for a child.", _CHILD_END),
    "child_gone": Kind("A child ended that nobody waited for any more.", _CHILD_END),
    "late_result": Kind(
        "A result came after its query had been answered: the account is corrected, downward only.",
        {
            "request": _REQUEST,
            "attempt": _ATTEMPT,
            "answered": Field("bool", "an answer, or a failure"),
            "sent": Field("bool|null", "of a failure: whether it may be billed"),
            "cache": _CACHE,
            **_REPORTED,
            **_COST,
        },
    ),
    "cell_judged": Kind(
        "The caller's hook has seen a cell, before it runs. What it did not let pass does not.",
        {
            "cell": _CELL,
            "verdict": Field("str", "passed, refused; stopped, failed or timed_out, which end the run"),
            "source_bytes": Field("int", "as UTF-8"),
            "reason_bytes": Field("int", "of the hook's reason"),
            "error": Field("str", "of a hook that failed: the type of what it raised", optional=True),
            "reason": Field("str", "the hook's; empty: none", text=True, optional=True),
        },
    ),
    "cell_started": Kind(
        "Code goes into the session.",
        {
            "cell": _CELL,
            "source_bytes": Field("int", "as UTF-8"),
            "fuel": Field("int", "reserved for it at first; more follows as it asks", later=True),
        },
    ),
    "fuel_granted": Kind(
        "A cell had nearly used the fuel that was reserved for it, and asked for more.",
        {
            "fuel": Field("int", "reserved now; 0: there is none left for it, and it is asked to end"),
            "granted": Field("int", "reserved for it so far"),
        },
    ),
    "answer_declared": Kind(
        "The guest declared its answer; what comes after it in this cell no longer counts.",
        {"cell": _CELL, "answer_bytes": Field("int", "as UTF-8")},
    ),
    "answer_checked": Kind(
        "A declared answer was compared with what was wanted. One that does not fit ends nothing.",
        {
            "fits": Field("bool", "whether it is what was wanted"),
            "form": Field("str", "json, a value of the session; text, a str of it; written, outside of code"),
            "answer_bytes": Field("int", "as UTF-8"),
            "problems": Field("int", "how many were told"),
            "problem_texts": Field("[str]", "of each where and what", text=True, optional=True),
        },
    ),
    "cell_ended": Kind(
        "The code came back.",
        {
            "cell": _CELL,
            "outcome": Field("str", "completed, or why not: the words of `rlm-wasm exec --json`"),
            "fuel": Field("int", "used by the cell"),
            "memory_bytes": Field("int", "the guest's memory"),
            "session_lost": Field("bool", "whether a limit or a trap ended the guest"),
            "restored": Field("bool", "whether it went back to its state before the cell"),
        },
    ),
    "session_ended": Kind(
        "A session is closed; another one may follow. What its cells used.",
        {
            "cells": Field("int", "how many came back"),
            "fuel": Field("int", "of all of them"),
            "executed_ns": Field(
                "int", "how long the guest ran, without its waits; a replay repeats the number"
            ),
            "worker_cpu_ns": Field(
                "int|null",
                "the CPU time, of user and kernel, of its worker process, for all that it did; null: the "
                "process was not this session's alone, or is gone; a replay repeats the number",
            ),
            "memory_peak_bytes": Field("int", "the most the guest's memory was after a cell"),
            "lockdown": Field(
                "str",
                "what stood around its worker process: full, namespaced (all but the namespace of users), "
                "filtered (no namespace) or partial (one of those layers is missing too); none: there was no "
                "such process; a replay repeats the word",
                later=True,
            ),
        },
    ),
    "fuel_used": Kind(
        "A cell's fuel was charged, and what was reserved for it beyond that given back.",
        {"fuel": Field("int", "of the cell"), "total": Field("int", "of the run so far")},
    ),
    "overdraft": Kind(
        "What happened cost more than its limit; the run stops.",
        {"dimensions": Field("[str]", "of the ledger")},
    ),
    "run_resumed": Kind(
        "The run's process was gone, and another one took the run up: all before this is its log.",
        {
            "events": Field("int", "how many came again"),
            "in_flight": Field("int", "attempts that no answer is known of: spent, and made again"),
        },
    ),
    "run_stopping": Kind(
        "The run must end; its open queries are cancelled.",
        {
            "cause": Field(
                "str",
                "cancelled, deadline, budget, overdraft, iterations_exhausted, no_progress, hook_stopped or "
                "hook_failed",
            ),
            "reason": Field("str", "why, in words"),
        },
    ),
    "run_answered": Kind(
        "What the run came to, as its caller gets it.",
        {
            "partial": Field("bool", "whether the model did not declare it final"),
            "reason": Field("str", "why the run ended"),
            "answer_bytes": Field("int|null", "as UTF-8; null: there is none"),
            "answer": Field("str", "the answer", text=True, optional=True),
        },
    ),
    "events_truncated": Kind(
        "No further event but the last is written: run.events_max is reached.",
        {"events_max": _LIMIT},
    ),
    "run_ended": Kind(
        "The final account. Always the last event.",
        {
            "outcome": Field("str", "why the run ended"),
            "stopped": Field("str|null", "why the scheduler stopped it, if it did"),
            "tenant": Field("str", "whose run it was"),
            **_ledger("spent", "what the run used", tuple(Dimension)),
            **_ledger("unconfirmed", "the part of it that no bill confirmed", _BILLED),
            "queries_denied": Field("int", "how many were refused"),
            "events_dropped": Field("int", "how many were not written: run.events_max"),
        },
    ),
}


def fault_of(event: Event) -> str | None:
    """Return what is wrong with an event by these tables, or None."""
    for name in ("v", "seq", "at_ns", "depth", "parent"):
        value = getattr(event, name)
        if value is not None and not -_INT_ABOVE_ALL <= value < _INT_ABOVE_ALL:
            return f"{name}: is out of range"
    if event.v != EVENT_VERSION:
        return f"v: is {event.v}, and {EVENT_VERSION} is the version known here"
    if (kind := KINDS.get(event.kind)) is None:
        return f"kind: {event.kind!a} is not known"
    for name, value in event.data.items():
        field = kind.fields.get(name)
        if field is None:
            return f"data.{name[:64]!a}: {event.kind} has no such field"
        if not _fits(value, field.type_name):
            return f"data.{name}: must be {field.type_name}, not {type(value).__name__}"
    for name, field in kind.fields.items():
        if name not in event.data and not (field.optional or field.later):
            return f"data.{name}: is missing"
    return None


def unheard_of(events: Iterable[Event]) -> dict[str, frozenset[str]]:
    """Return, by kind, the fields that came after a log was written: which none of its events has."""
    missing = {
        kind: {name for name, field in known.fields.items() if field.later} for kind, known in KINDS.items()
    }
    missing = {kind: names for kind, names in missing.items() if names}
    for event in events:
        if names := missing.get(event.kind):
            names.difference_update(event.data)
    return {kind: frozenset(names) for kind, names in missing.items() if names}


def _fits(value: object, type_name: str) -> bool:
    allowed = _TYPES[type_name]
    if type_name.startswith("["):
        return isinstance(value, list) and all(_is_one_of(item, allowed) for item in value)
    return _is_one_of(value, allowed)


def _is_one_of(value: object, allowed: tuple[type, ...]) -> bool:
    if type(value) not in allowed:
        return False
    # An int of a million digits is read in no time, and takes an hour to print.
    return not isinstance(value, int) or -_INT_ABOVE_ALL <= value < _INT_ABOVE_ALL

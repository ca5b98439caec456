"""The rules between the keys of a policy, each key being right by itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from rlm_wasm.guidance import beyond
from rlm_wasm.limits import KIB, reserve_of
from rlm_wasm.policy.pricing import what_to_add
from rlm_wasm.policy.problems import Key, Problem, dotted
from rlm_wasm.policy.provider_rules import provider_problems
from rlm_wasm.policy.provider_tables import FILE_KINDS, KEYS_OF, SAMPLING, kind_behind
from rlm_wasm.policy.tables import Tables, guidance_of

# What a guest takes before there is a context, and what the model's code takes for each character when it
# works on all of a text at once: docs/context-sizes.md has the table, tests/context_sizes measures it. The
# dearest is lower() of a text with an emoji: 4 for the text, 12 for CPython's own work, 4 for the result.
GUEST_BYTES: Final = 40 << 20
BYTES_PER_CHAR: Final = 20
CHAR_BYTES_MAX: Final = 4
# What own instructions and examples may take in a policy, whose text is bounded, escapes and all.
OWN_GUIDANCE_BYTES_MAX: Final = 24 * KIB

# (smaller, larger, why): the first must not exceed the second.
_ORDERED: Final[tuple[tuple[Key, Key, str], ...]] = (
    (("sandbox", "context_bytes_max"), ("sandbox", "memory_bytes_max"), "the context lives in that memory"),
    (("sandbox", "memory_bytes_max"), ("workers", "memory_bytes_max"), "a session lives in a worker"),
    (
        ("inputs", "document_bytes_max"),
        ("inputs", "document_memory_bytes_max"),
        "a document lies in the memory of what reads it",
    ),
    (
        ("inputs", "document_memory_bytes_max"),
        ("workers", "memory_bytes_max"),
        "what reads one lives in a worker",
    ),
    (("workers", "heartbeat_ms"), ("workers", "hang_ms_max"), "a worker that hangs misses a heartbeat"),
    (("cell", "fuel_max"), ("budget", "fuel_max"), "a cell spends the run's fuel"),
    (("cell", "wall_ms_max"), ("run", "wall_ms_max"), "a cell runs inside a run"),
    (("cell", "sleep_ms_max"), ("run", "wall_ms_max"), "a cell sleeps inside a run"),
    (("permits", "provider_max"), ("permits", "total_max"), "a provider's permits come out of the pool"),
    (("permits", "model_max"), ("permits", "provider_max"), "a model's permits are its provider's"),
    (("permits", "adaptive_min"), ("permits", "provider_max"), "it is what a provider keeps of them"),
    (("observation", "bytes_max"), ("budget", "observation_bytes_max"), "an observation must fit the budget"),
    (("boundary", "prompt_bytes_max"), ("boundary", "frame_bytes_max"), "a prompt travels in a frame"),
    (("boundary", "control_frame_bytes_max"), ("boundary", "frame_bytes_max"), "it is a kind of frame"),
    (("query", "response_bytes_max"), ("boundary", "response_bytes_max"), "an answer travels in a response"),
    (("boundary", "response_bytes_max"), ("workers", "unsent_bytes_max"), "a response waits for its worker"),
    (("boundary", "batch_items_max"), ("cell", "requests_max"), "each item of a batch is a request"),
    (("query", "timeout_ms_max"), ("boundary", "host_wait_ms_max"), "the guest waits for the query"),
    (("query", "timeout_ms_max"), ("run", "wall_ms_max"), "a query runs inside a run"),
    (("query", "backoff_ms_first"), ("query", "backoff_ms_max"), "the first wait is the shortest"),
    (("query", "output_tokens_max"), ("budget", "output_tokens_max"), "one query must fit the run's budget"),
    (("query", "input_overhead_tokens"), ("budget", "input_tokens_max"), "every query reserves the overhead"),
)


def violations(policy: Tables) -> list[Problem]:
    """Return every broken rule of `policy`; an empty list means the policy may be used."""
    return [
        *_order(policy),
        *_context(policy),
        *_reserve(policy),
        *_retry_cap(policy),
        *_guidance(policy),
        *_isolation(policy),
        *_models(policy),
        *provider_problems(policy),
    ]


def _order(policy: Tables) -> Iterator[Problem]:
    for smaller, larger, why in _ORDERED:
        if getattr(policy, str(smaller[0])) is None:  # a table that may be absent
            continue
        low, high = _value(policy, smaller), _value(policy, larger)
        if low > high:
            message = f"must be at most {dotted(larger)}: {why} (got {low}, which is over {high})"
            yield Problem(smaller, message, (larger,))


def _value(policy: Tables, key: Key) -> int:
    section, field = key
    value = getattr(getattr(policy, str(section)), str(field))
    assert isinstance(value, int)
    return value


def _context(policy: Tables) -> Iterator[Problem]:
    box = policy.sandbox
    key = ("sandbox", "whole_context_chars_max")
    most = max(0, box.memory_bytes_max - GUEST_BYTES) // BYTES_PER_CHAR
    if box.whole_context_chars_max > most:
        yield Problem(
            key,
            f"must be at most {most} where sandbox.memory_bytes_max is {box.memory_bytes_max}: work on a "
            f"whole text takes {BYTES_PER_CHAR} bytes a character, and the guest {GUEST_BYTES} "
            f"(got {box.whole_context_chars_max})",
            (("sandbox", "memory_bytes_max"),),
        )
    fits = box.context_bytes_max // CHAR_BYTES_MAX
    if box.whole_context_chars_max > fits:
        yield Problem(
            key,
            f"must be at most {fits} where sandbox.context_bytes_max is {box.context_bytes_max}: a character "
            f"takes up to {CHAR_BYTES_MAX} bytes (got {box.whole_context_chars_max})",
            (("sandbox", "context_bytes_max"),),
        )


def _reserve(policy: Tables) -> Iterator[Problem]:
    """What is left beside the reserve must do for a first query."""
    kept = reserve_of(policy.budget, policy.run.reserve_percent)
    needs = {"requests_max": 1, "calls_max": 1, "output_tokens_max": policy.query.output_tokens_max}
    for name, amount in needs.items() if kept else ():
        least = kept[name] + amount
        if getattr(policy.budget, name) < least:
            yield Problem(
                ("run", "reserve_percent"),
                f"keeps {kept[name]} of budget.{name} for the last answer and leaves less than {amount}, "
                f"which one query takes (got {getattr(policy.budget, name)}); raise that, or keep 0",
                (("budget", name),),
            )


def _guidance(policy: Tables) -> Iterator[Problem]:
    table = policy.guidance
    if table is None:
        return
    own = guidance_of(table)
    if (size := own.instructions_bytes + own.examples_bytes) > OWN_GUIDANCE_BYTES_MAX:
        message = (
            f"the instructions and examples take {size} bytes, {OWN_GUIDANCE_BYTES_MAX} at most in a policy; "
            "more can come with a question"
        )
        yield Problem(("guidance",), message)
    if (found := own.excess(table)) is not None:
        key, size, most = found
        what = "examples" if key.startswith("examples") else "instructions"
        yield Problem(("guidance", what), beyond(key, size, most), (("guidance", key),))


def _retry_cap(policy: Tables) -> Iterator[Problem]:
    first, again = policy.query.output_tokens_max, policy.query.output_tokens_retry_max
    if 0 < again <= first:
        yield Problem(
            ("query", "output_tokens_retry_max"),
            f"must be above the {first} that output_tokens_max gives a first try, or 0: none (got {again})",
            (("query", "output_tokens_max"),),
        )
    if again > (most := policy.budget.output_tokens_max):
        yield Problem(
            ("query", "output_tokens_retry_max"),
            f"must be at most budget.output_tokens_max: it is a query too (got {again}, over {most})",
            (("budget", "output_tokens_max"),),
        )


def _isolation(policy: Tables) -> Iterator[Problem]:
    if policy.sandbox.require_lockdown and policy.sandbox.isolation == "inline":
        yield Problem(
            ("sandbox", "require_lockdown"),
            'cannot be true with isolation = "inline": then there is no process to lock down',
            (("sandbox", "isolation"),),
        )
    if policy.sandbox.lockdown is not None and not policy.sandbox.require_lockdown:
        yield Problem(
            ("sandbox", "lockdown"),
            "says which layers must stand, and require_lockdown = false that none must; remove one of them",
            (("sandbox", "require_lockdown"),),
        )


def _models(policy: Tables) -> Iterator[Problem]:
    models = policy.models
    named: list[tuple[Key, str]] = [
        (("models", "root"), models.root),
        (("models", "sub"), models.sub),
        *((("models", "child"), spec) for spec in models.child),
        *((("models", "sub_up_to_bytes", spec), spec) for spec in models.sub_up_to_bytes or ()),
        *(
            (("models", "fallback", of), spec)
            for of, specs in (models.fallback or {}).items()
            for spec in specs
        ),
    ]
    for spec in models.prices:
        if (provider := spec.partition(":")[0]) in FILE_KINDS:
            yield Problem(("models", "prices", spec), f"a {provider} model is free by rule; remove its price")
    for spec, settings in (models.settings or {}).items():
        if spec not in models.prices and spec not in dict.fromkeys(each for _, each in named):
            yield Problem(("models", "settings", spec), "is no model of this policy: it has no price")
        elif kind_behind(spec, policy.providers) in FILE_KINDS:
            yield Problem(("models", "settings", spec), "answers from a file, and is sent nothing")
        elif (kind := kind_behind(spec, policy.providers)) is not None:
            for name in SAMPLING:
                if getattr(settings, name) is not None and name not in KEYS_OF[kind][1]:
                    message = f'is no key of a model whose provider is of kind "{kind}"'
                    yield Problem(("models", "settings", spec, name), message)
    for key, spec in named:
        told = f"{dotted((spec,))} " if key[1] == "fallback" else ""
        kind = kind_behind(spec, policy.providers)
        if kind not in FILE_KINDS and spec not in models.prices:
            yield Problem(key, told + what_to_add(spec, policy))
        name = spec.partition(":")[0]
        if name not in FILE_KINDS and name not in policy.providers:
            yield Problem(key, f"{told}needs the table [providers.{name}]")
    for of, specs in (models.fallback or {}).items():
        if of not in models.prices and of not in models.asked:
            yield Problem(("models", "fallback", of), "is no model of this policy: it has no price")
        if of in specs or len({*specs}) < len(specs):
            yield Problem(("models", "fallback", of), "names a model twice, or itself")
    for spec, most in (models.sub_up_to_bytes or {}).items():
        if most > policy.boundary.prompt_bytes_max:
            yield Problem(
                ("models", "sub_up_to_bytes", spec),
                f"must be at most boundary.prompt_bytes_max, the longest prompt (got {most}, which is over "
                f"{policy.boundary.prompt_bytes_max})",
                (("boundary", "prompt_bytes_max"),),
            )

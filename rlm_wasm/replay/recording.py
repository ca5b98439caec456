"""An event log as something to repeat: its question, policy, inputs and answers, all checked."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Self

from rlm_wasm.answers.answer_type import AnswerKind, AnswerType
from rlm_wasm.api.snapshot import Snapshot
from rlm_wasm.audit.reader import EventLogError, read_events
from rlm_wasm.engine.answer_check import RecordedOutput
from rlm_wasm.engine.contexts import InputValue, read_input, recorded_type
from rlm_wasm.engine.description import digest_of_file, sha256
from rlm_wasm.engine.recorded_answers import BYTES_MAX, EVENTS_MAX, TEXTS_HINT, answers_in
from rlm_wasm.engine.run_tools import NO_TOOL_FACTS, ToolFacts
from rlm_wasm.errors import PolicyError, UsageError
from rlm_wasm.events import Event
from rlm_wasm.guidance import NO_GUIDANCE, Example, Guidance
from rlm_wasm.host.input_file import LAZY_TYPES, InputFile
from rlm_wasm.ids import RunId, make_run_id
from rlm_wasm.policy.document import parse_document
from rlm_wasm.policy.model import Policy
from rlm_wasm.providers.recorded import RecordedAnswer
from rlm_wasm.replay.recorded_checks import RecordedChecks

_UNITS: Final = {"str": "characters", "bytes": "bytes"}
_POLICY_HINT: Final = "give the policy to repeat the run under: --policy P, or `replay(…, policy=…)`"


@dataclass(frozen=True, slots=True)
class RecordedContext:
    """An input of the recorded run: what it was, and itself where it was short."""

    name: str
    type_name: str
    length: int
    sha256: str
    text: str | None
    # What it is called in the guest's /inputs; None: the log is older than that.
    file: str | None = None

    @property
    def is_file(self) -> bool:
        """Whether it was a file that stayed where it was."""
        return self.type_name in LAZY_TYPES


@dataclass(frozen=True, slots=True)
class Recording:
    """One run's log with its texts."""

    path: str
    events: tuple[Event, ...]
    run_id: RunId
    question: str
    policy_text: str
    contexts: tuple[RecordedContext, ...]
    tenant: str
    # The digest of the snapshot that its sessions were forked from, if any.
    image_sha256: str | None
    # What was said beside the system prompt with the question; the policy has its own.
    guidance: Guidance = NO_GUIDANCE
    # What its guests were told of tools.
    tools: ToolFacts = NO_TOOL_FACTS

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, killed: bool = False) -> Self:
        """Read a log. Of a run that was `killed`, the last line may be cut off: it counts for nothing.

        Raises:
            EventLogError: the file is not the log of a run, or has over EVENTS_MAX events or BYTES_MAX bytes.
            UsageError: it has no texts, so that nothing can be repeated from it.
        """
        name = os.fspath(path)
        lines = read_events(name, events_max=EVENTS_MAX, bytes_max=BYTES_MAX, killed=killed)
        events = tuple(line.event for line in lines)
        started = events[0]
        if not started.data["texts"]:
            raise UsageError(f"{name}: the log holds no texts, so it cannot be replayed", hint=TEXTS_HINT)
        if len(events) < 2 or events[1].kind != "run_described":
            raise EventLogError(name, 2, "kind: the log says nothing of its question; run_described is due")
        data = events[1].data
        question, policy = data.get("question"), data.get("policy")
        if not isinstance(question, str) or not isinstance(policy, str):
            raise EventLogError(name, 2, "data: question and policy are missing")
        return cls(
            name,
            events,
            _checked_run_id(name, started.run_id),
            question,
            policy,
            _contexts(name, data),
            _text(started.data["tenant"]) or "",
            _text(data.get("start_image_sha256")),
            _guidance(name, data),
            ToolFacts.recorded(_text(data.get("tools")) or "[]", name),
        )

    @property
    def policy(self) -> Policy:
        """Return the policy of the run.

        Raises PolicyError if it is none of this version's: policies have no defaults, and new keys come.
        """
        document = parse_document(self.policy_text.encode("utf-8"), f"the policy in {self.path}")
        try:
            return Policy.from_mapping(document.data, origin=document.origin, places=document.places)
        except PolicyError as error:
            raise PolicyError(str(error), hint=_POLICY_HINT) from error

    def inputs(self, given: Mapping[str, InputValue]) -> dict[str, InputValue]:
        """Return the run's inputs: those in the log, and for the others what is `given` by name.

        Whether a file is the one that was recorded takes as long as it is large: `check_files` says that.

        Raises UsageError for one that is missing, is not what was recorded, or is not wanted.
        """
        found: dict[str, InputValue] = {}
        for context in self.contexts:
            value: InputValue | None = given.get(context.name, context.text)
            if isinstance(value, str) and not context.is_file:
                value = read_input(context.name, value, context.type_name)
            if value is None:
                unit = _UNITS.get(context.type_name, "items")
                raise UsageError(
                    f"the input {context.name} ({context.length} {unit}) is not in {self.path}",
                    hint=f"give the same file again: --context {context.name}=FILE",
                )
            same = isinstance(value, InputFile) or sha256(value) == context.sha256
            if recorded_type(value) != context.type_name or not same:
                raise _another_input(context)
            found[context.name] = value
        if unknown := sorted(set(given) - set(found)):
            raise UsageError(f"the recorded run has no input {unknown[0]}")
        return found

    async def check_files(self, inputs: Mapping[str, InputValue]) -> None:
        """Look whether the files among the inputs are those of the run; the event loop goes on meanwhile.

        Raises UsageError for one that is not, or that cannot be read.
        """
        for context in self.contexts:
            value = inputs[context.name]
            if isinstance(value, InputFile) and await digest_of_file(value) != context.sha256:
                raise _another_input(context)

    @property
    def file_names(self) -> dict[str, str]:
        """Return what the inputs were called in /inputs, by variable."""
        return {context.name: context.file for context in self.contexts if context.file}

    def snapshot(self, given: Snapshot | None) -> Snapshot | None:
        """Return the snapshot that the run's sessions were forked from: what is `given`, checked.

        Raises UsageError if it is missing, is not the one of the recorded run, or is not wanted.
        """
        if given is None and self.image_sha256 is not None:
            raise UsageError(
                f"the recorded run began from a snapshot, which is not in {self.path}",
                hint="give the same snapshot again: --snapshot FILE, or `replay(…, snapshot=…)`",
            )
        if given is not None and self.image_sha256 is None:
            raise UsageError("the recorded run did not begin from a snapshot")
        if given is not None and given.digest() != self.image_sha256:
            raise UsageError("the snapshot is not the one that the recorded run began from")
        return given

    @property
    def hooked(self) -> bool:
        """Whether a hook saw each cell before it ran."""
        return self.events[1].data.get("hook") is True

    @property
    def output_kind(self) -> AnswerKind | None:
        """What the answer was to be: a JSON Schema, which the log has, or a type, which it has not."""
        kind = self.events[1].data.get("output")
        return kind if kind in ("schema", "type") else None

    def output(self, given: AnswerType | None) -> RecordedOutput | None:
        """Return what the answer was to be, with what the log says of each that was declared.

        `given` checks those of which it says nothing. Raises UsageError: it is another one than was recorded.
        """
        kind, schema = self.output_kind, _text(self.events[1].data.get("output_schema"))
        if kind is None or schema is None:
            if given is not None:
                raise UsageError("the recorded run had no `output`")
            return None
        if given is not None and given.schema != schema:
            raise UsageError(f"`output` is not the one that the run in {self.path} was begun with")
        live = given or (AnswerType.recorded(schema) if kind == "schema" else None)
        return RecordedOutput(kind, schema, RecordedChecks(self.events), live)

    def answers(self) -> tuple[RecordedAnswer, ...]:
        """Return what came of each attempt, in the order in which the attempts ended."""
        return tuple(answers_in(self.events))


def _checked_run_id(name: str, run_id: RunId) -> RunId:
    try:
        if make_run_id(bytes.fromhex(run_id.removeprefix("run_"))) == run_id:
            return run_id
    except ValueError:
        pass
    raise EventLogError(name, 1, "run_id: is not one of ours")


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _contexts(name: str, data: Mapping[str, object]) -> tuple[RecordedContext, ...]:
    keys = ("contexts", "context_types", "context_lengths", "context_sha256", "context_texts")
    columns = [data.get(key) for key in keys]
    sizes = {len(column) for column in columns if isinstance(column, list)}
    if len(sizes) != 1 or not all(isinstance(column, list) for column in columns):
        raise EventLogError(name, 2, "data: the lists of inputs have different lengths")
    files = data.get("context_files")
    if isinstance(files, list):  # else the log is older
        columns.append(files)
        if len(files) not in sizes:
            raise EventLogError(name, 2, "data: the lists of inputs have different lengths")
    rows = zip(*(column for column in columns if isinstance(column, list)), strict=True)
    return tuple(RecordedContext(*row) for row in rows)


def _guidance(name: str, data: Mapping[str, object]) -> Guidance:
    questions, replies = data.get("example_questions", []), data.get("example_replies", [])
    if not isinstance(questions, list) or not isinstance(replies, list) or len(questions) != len(replies):
        raise EventLogError(name, 2, "data: the lists of examples have different lengths")
    examples = tuple(Example(*each) for each in zip(questions, replies, strict=True))
    return Guidance(_text(data.get("instructions")) or "", examples)


def _another_input(context: RecordedContext) -> UsageError:
    return UsageError(f"the input {context.name} is not the one that was recorded")

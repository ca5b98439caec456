"""The description of a run in its log: digests always, texts where the policy grants them.

Without texts there are no digests of them either: whoever can guess a short text could confirm it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from rlm_wasm.engine.answer_check import AnswerCheck
from rlm_wasm.engine.contexts import InputValue, length, recorded_type
from rlm_wasm.engine.run_tools import NO_TOOL_FACTS, ToolFacts
from rlm_wasm.engine.starting_state import StartingState
from rlm_wasm.errors import UsageError
from rlm_wasm.guidance import NO_GUIDANCE, Guidance
from rlm_wasm.host.guest_search import found_guest
from rlm_wasm.host.input_file import HASHED_AT_ONCE_BYTES, InputChanged, InputFile
from rlm_wasm.policy.model import Policy
from rlm_wasm.policy.render import to_toml
from rlm_wasm.scheduler.pricing import utf8_bytes
from rlm_wasm.system.threads import in_thread
from rlm_wasm.version import VERSION

# A str up to this many characters is in the log itself, so that a replay needs no file for it.
CONTEXT_CHARS_KEPT_MAX: Final = 65_536
# Hashing more than this goes to another thread: the loop has other runs.
_HASHED_AT_ONCE_UNITS: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class WrittenPolicy:
    """A policy as logs state it. Writing it out takes as long as ten queries: once for many runs."""

    text: str
    sha256: str
    texts: bool
    image: str

    @classmethod
    def of(cls, policy: Policy) -> WrittenPolicy:
        """Return what the logs of runs under `policy` say of it."""
        text = to_toml(policy)
        return cls(text, sha256(text), policy.events.texts, policy.sandbox.image)


async def description(
    policy: WrittenPolicy,
    question: str,
    contexts: Mapping[str, InputValue],
    start: StartingState | None = None,
    *,
    files: Mapping[str, str],
    guidance: Guidance = NO_GUIDANCE,
    hook: bool = False,
    tools: ToolFacts = NO_TOOL_FACTS,
    output: AnswerCheck | None = None,
) -> dict[str, object]:
    """Return the data of `run_described`.

    `start` is what its sessions are forked from, `files` what each input is called in /inputs, and `guidance`
    what was said with the question: the policy has its own. `hook`: whether one sees each cell.
    `output`: what checks the answer.
    """
    guest = await found_guest(policy.image)
    code, image = ("", "") if guest is None else guest.identity
    data: dict[str, object] = {
        "version": VERSION,
        "policy_sha256": policy.sha256,
        "guest_code_sha256": code,
        "guest_image_sha256": image,
        "question_chars": len(question),
        "contexts": list(contexts),
        "context_types": [recorded_type(value) for value in contexts.values()],
        "context_lengths": [length(value) for value in contexts.values()],
        "instructions_bytes": guidance.instructions_bytes,
        "examples": len(guidance.examples),
        "hook": hook,
        "output": "" if output is None else output.kind,
    }
    if not policy.texts:
        return data
    return data | {
        "question": question,
        "policy": policy.text,
        "context_sha256": [await _digest(value) for value in contexts.values()],
        "context_files": [files[name] for name in contexts],
        "context_texts": [_kept(value) for value in contexts.values()],
        # All of its pages are read, so another thread does it.
        "instructions": guidance.instructions,
        "example_questions": [example.question for example in guidance.examples],
        "example_replies": [example.reply for example in guidance.examples],
        "start_image_sha256": None if start is None else await in_thread(start.digest),
        **({"tools": tools.document()} if tools else {}),
        **({} if output is None else {"output_schema": output.schema}),
    }


def sha256(value: str | bytes) -> str:
    """Return the digest that logs use; of a str, that of its UTF-8."""
    data = value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value
    return hashlib.sha256(data).hexdigest()


def answer_bytes(answer: str | None) -> int | None:
    """Return an answer's size as the log states it."""
    return None if answer is None else utf8_bytes(answer)


async def _digest(value: InputValue) -> str:
    if isinstance(value, InputFile):
        return await digest_of_file(value)
    if len(value) <= _HASHED_AT_ONCE_UNITS:
        return sha256(value)
    return await in_thread(sha256, value)


async def digest_of_file(file: InputFile) -> str:
    """Return the digest of a file, made beside the event loop.

    Raises UsageError: it cannot be read, or has changed.
    """
    digest = hashlib.sha256()
    for offset in range(0, file.size, HASHED_AT_ONCE_BYTES):
        with _as_usage_error(file):
            await in_thread(file.hash_into, digest.update, offset)
    return digest.hexdigest()


@contextmanager
def _as_usage_error(file: InputFile) -> Iterator[None]:
    try:
        yield
    except (InputChanged, OSError) as error:
        raise UsageError(f"the input {file.path} cannot be read: {error}") from error


def _kept(value: InputValue) -> str | None:
    if isinstance(value, str) and len(value) <= CONTEXT_CHARS_KEPT_MAX and _is_writable(value):
        return str.__str__(value)
    return None


def _is_writable(value: str) -> bool:
    # A lone surrogate would come back as something else.
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True

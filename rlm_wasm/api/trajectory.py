"""`Trajectory`: what happened in one rollout, turn by turn, as a record that a trainer reads."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

# What the name of a token begins with where an endpoint gives its number in the place of its text.
_TOKEN_ID: Final = "token_id:"  # noqa: S105 - no secret


@dataclass(frozen=True, slots=True)
class RolloutCell:
    """A cell of a turn: its source, how it ended, and what it wrote and returned, as its limits let it."""

    source: str
    outcome: str
    stdout: str
    stderr: str
    result: str | None
    error: str | None


@dataclass(frozen=True, slots=True)
class RolloutTurn:
    """A turn: the model's reply, its tokens where they are known, the cells that ran, and what came back.

    `token_ids` and `logprobs` are of the tokens of the reply alone, and as many as each other where both are
    known. `observation` is the message that the model is sent next; None: there is none.
    """

    reply: str
    cells: tuple[RolloutCell, ...]
    observation: str | None
    token_ids: tuple[int, ...] | None = None
    logprobs: tuple[float, ...] | None = None


@dataclass(frozen=True, slots=True)
class Trajectory:
    """A whole rollout. `reward` is None where nothing gave one; `error` says why where that failed.

    `prompt` are the first messages, each a role and a text; the later ones are in the turns. `partial`: the
    model did not declare the answer final.
    """

    question: str
    prompt: tuple[tuple[str, str], ...]
    turns: tuple[RolloutTurn, ...]
    answer: str | None
    stop: str
    partial: bool
    reward: float | None = None
    error: str | None = None
    info: Mapping[str, Any] = field(default_factory=dict)

    def to_mapping(self) -> dict[str, Any]:
        """Return it as plain values, for JSON."""
        made = asdict(self)
        made["prompt"] = [{"role": role, "content": content} for role, content in self.prompt]
        return made

    def line(self) -> str:
        """Return it as one line of JSON. Raises TypeError or ValueError for an `info` without a JSON form."""
        return json.dumps(self.to_mapping(), ensure_ascii=True, allow_nan=False)


def write_jsonl(path: str | Path, trajectories: Iterable[Trajectory]) -> int:
    """Write one line for each; return how many there are. Raises OSError as `open` does."""
    count = 0
    with Path(path).open("w", encoding="utf-8") as file:
        for count, trajectory in enumerate(trajectories, start=1):  # noqa: B007 - it is returned
            file.write(trajectory.line() + "\n")
    return count


@dataclass(frozen=True, slots=True)
class ChatReply:
    """What a chat completion says: the text, why it ends, and its tokens where the endpoint gives them."""

    text: str
    finish: str | None = None
    token_ids: tuple[int, ...] | None = None
    logprobs: tuple[float, ...] | None = None


def chat_reply(completion: object) -> ChatReply:
    """Read the first choice of a chat completion, as an endpoint sends it: untrusted, so typed here.

    Log-probabilities are those of `logprobs.content`; token ids those of `token_ids`, or of tokens that are
    spelled `token_id:7`. What is no list of numbers, or not as long as the other, is left out.

    Raises:
        ValueError: there is no text in it.
    """
    choice = _first(_of(completion, "choices"))
    text = _of(_of(choice, "message"), "content")
    if not isinstance(text, str):
        raise ValueError("the completion has no text")
    finish = _of(choice, "finish_reason")
    entries = _of(_of(choice, "logprobs"), "content")
    entries = entries if isinstance(entries, list) else []
    logprobs = _numbers([_of(entry, "logprob") for entry in entries])
    token_ids = _ids(_of(choice, "token_ids")) or _ids([_spelled(_of(entry, "token")) for entry in entries])
    if token_ids is not None and logprobs is not None and len(token_ids) != len(logprobs):
        token_ids = logprobs = None
    return ChatReply(text, finish if isinstance(finish, str) else None, token_ids, logprobs)


def _of(value: object, key: str) -> object:
    return value.get(key) if isinstance(value, Mapping) else None


def _first(value: object) -> object:
    return value[0] if isinstance(value, list) and value else None


def _spelled(token: object) -> object:
    if not isinstance(token, str) or not token.startswith(_TOKEN_ID):
        return None
    digits = token.removeprefix(_TOKEN_ID)
    return int(digits) if digits.isascii() and digits.isdigit() and len(digits) < 16 else None


def _ids(values: object) -> tuple[int, ...] | None:
    if not isinstance(values, Sequence) or not values:
        return None
    if not all(isinstance(each, int) and not isinstance(each, bool) and each >= 0 for each in values):
        return None
    return tuple(values)


def _numbers(values: Sequence[object]) -> tuple[float, ...] | None:
    numbers = [float(each) for each in values if isinstance(each, int | float) and not isinstance(each, bool)]
    if not numbers or len(numbers) != len(values) or not all(map(math.isfinite, numbers)):
        return None
    return tuple(numbers)

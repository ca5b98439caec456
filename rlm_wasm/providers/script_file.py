"""The TOML form of a scripted model: ``[[reply]]`` tables, checked when the file is read.

``role`` ("root", "sub" or "any") and ``text`` are required. ``turn`` (from 1) and ``pattern`` (a
regular expression of RE2's, searched in what the user said since the last reply) narrow when the reply fits.
With a pattern, ``\\1`` to ``\\9`` and ``\\g<name>`` in the text stand for its groups, and every
other backslash for itself. ``input_tokens`` and ``output_tokens`` replace the usage that is
estimated otherwise; ``finish`` ("stop" or "length") says whether the model had ended there: it had, if
nothing is said.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rlm_wasm.errors import UsageError
from rlm_wasm.policy.lines import index_lines
from rlm_wasm.providers.pattern import Pattern
from rlm_wasm.scheduler.messages import FinishReason, finish_of
from rlm_wasm.system.small_file import read_beginning

# A table takes some hundred times its size in memory, and each reply's pattern is tried for each prompt.
_FILE_BYTES_MAX: Final = 4 * 1024 * 1024
_REPLIES_MAX: Final = 10_000
# The parser's time grows with the square of a dotted key.
_KEY_PARTS_MAX: Final = 64
_LONG_KEY: Final = rf"""(?:(?:[A-Za-z0-9_-]+|"[^"\n]*"|'[^'\n]*')[ \t]*\.[ \t]*){{{_KEY_PARTS_MAX}}}"""
_ROLES: Final = ("root", "sub", "any")
_KEYS: Final = ("role", "turn", "pattern", "text", "input_tokens", "output_tokens", "finish")
_GROUP: Final = re.compile(r"\\(?:([1-9])|g<([A-Za-z_][A-Za-z0-9_]*)>)")


@dataclass(frozen=True, slots=True)
class Reply:
    """One scripted reply and when it fits."""

    role: str
    turn: int | None
    pattern: Pattern | None
    text: str
    input_tokens: int | None
    output_tokens: int | None
    finish: FinishReason = FinishReason.STOP

    def answer(self, role: str, turn: int, prompt: str, *, chars_max: int) -> str | None:
        """Return the text for this conversation, or None if the reply does not fit it.

        Raises TooLong for one of more than `chars_max` characters, which is not made: a few lines may ask for
        a whole prompt a thousand times.
        """
        if self.role not in ("any", role) or self.turn not in (None, turn):
            return None
        parts: list[str] = []
        at = size = 0
        if self.pattern is not None:
            found = self.pattern.search(prompt)
            if found is None:
                return None
            # Not `found.expand`: a reply is often code, whose own backslashes must survive.
            groups: dict[int | str, str] = {}
            for reference in _GROUP.finditer(self.text):
                name = _group_name(reference)
                if name not in groups:
                    groups[name] = found[name] or ""
                parts += (self.text[at : reference.start()], groups[name])
                size += len(parts[-2]) + len(parts[-1])
                if size > chars_max:
                    raise TooLong
                at = reference.end()
        if size + len(self.text) - at > chars_max:
            raise TooLong
        return "".join((*parts, self.text[at:]))


class TooLong(Exception):
    """A reply is longer than an answer may be."""


def read_replies(path: Path) -> tuple[Reply, ...]:
    """Read and check `path`; the only exception out is UsageError, which names the file and reply."""
    try:
        raw = read_beginning(path, _FILE_BYTES_MAX + 1)
    except (OSError, ValueError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) and exc.strerror else "not a usable path"
        raise UsageError(f"cannot read the model script {str(path)!a}: {reason}") from exc
    if len(raw) > _FILE_BYTES_MAX:
        raise UsageError(f"the model script {path} is larger than {_FILE_BYTES_MAX} bytes")
    try:
        source = raw.decode("utf-8").replace("\r\n", "\n")
        if Pattern(_LONG_KEY).search(source):
            raise ValueError(f"a key of more than {_KEY_PARTS_MAX} parts")
        data = tomllib.loads(source)
    except (ValueError, RecursionError) as exc:
        raise UsageError(f"the model script {path} is not valid TOML: {exc}") from exc
    tables = data.pop("reply", None)
    if data:
        raise UsageError(f"{path}: unknown key {next(iter(data))!a}; a script holds [[reply]] tables")
    if not isinstance(tables, list) or not tables:
        raise UsageError(f"{path}: holds no [[reply]] table")
    if len(tables) > _REPLIES_MAX:
        raise UsageError(f"{path}: holds {len(tables)} replies; at most {_REPLIES_MAX} are allowed")
    replies = []
    for number, table in enumerate(tables):
        try:
            replies.append(_reply(table))
        except _Fault as fault:
            lines = index_lines(source)
            line = lines.get(("reply", number, fault.key), lines.get(("reply", number)))
            where = f"{path}:{line}" if line else str(path)
            raise UsageError(f"{where}: reply {number + 1}: {fault}") from fault.__cause__
    return tuple(replies)


class _Fault(Exception):
    """What is wrong with a reply, and at which of its keys."""

    def __init__(self, key: str, what: str) -> None:
        super().__init__(what)
        self.key: Final = key


def _reply(table: object) -> Reply:
    if not isinstance(table, dict):
        raise _Fault("", "must be a table")
    for key in table:
        if key not in _KEYS:
            raise _Fault(key, f"unknown key {key!a}; there are {', '.join(_KEYS)}")
    role, text = table.get("role"), table.get("text")
    if role not in _ROLES:
        raise _Fault("role", 'role must be "root", "sub" or "any"')
    if not isinstance(text, str):
        raise _Fault("text", "text must be a string")
    finish = finish_of(table.get("finish", FinishReason.STOP))
    if finish is None:
        raise _Fault("finish", 'finish must be "stop" or "length"')
    return Reply(
        role=str(role),
        turn=_integer(table, "turn", 1),
        pattern=_pattern(table.get("pattern"), text),
        text=text,
        input_tokens=_integer(table, "input_tokens", 0),
        output_tokens=_integer(table, "output_tokens", 0),
        finish=finish,
    )


def _pattern(source: object, text: str) -> Pattern | None:
    if source is None:
        return None
    if not isinstance(source, str):
        raise _Fault("pattern", "pattern must be a string")
    try:
        pattern = Pattern(source)
    except ValueError as exc:
        raise _Fault("pattern", f"pattern is not a regular expression that RE2 knows: {exc}") from exc
    for group in _GROUP.finditer(text):
        if not pattern.has_group(_group_name(group)):
            raise _Fault("text", f"text uses {group[0]}, which the pattern does not have")
    return pattern


def _group_name(group: re.Match[str]) -> int | str:
    return int(group[1]) if group[1] else group[2]


def _integer(table: dict[str, Any], key: str, least: int) -> int | None:
    value = table.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value < 2**53:
        raise _Fault(key, f"{key} must be an integer of at least {least}")
    return value

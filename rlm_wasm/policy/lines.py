"""The line of each key in a TOML text, which the standard library's parser does not tell.

The text has already been parsed by `tomllib`, so this scanner only finds where things are; it
never decides what is valid, and a key it does not find costs a line number, nothing else.
"""

from __future__ import annotations

import re
import tomllib
from typing import Final

from rlm_wasm.policy.problems import Key

_GAP: Final = re.compile(r"(?:[ \t\n]+|#[^\n]*)*")
_KEY_PART: Final = r"""(?:[A-Za-z0-9_-]+|"(?:[^"\\\n]|\\.)*"|'[^'\n]*')"""
_KEY: Final = re.compile(rf"{_KEY_PART}(?:[ \t]*\.[ \t]*{_KEY_PART})*")
_STRING: Final = re.compile(
    r'"""(?:[^\\]|\\.)*?"{3,5}' r"|'''.*?'{3,5}" r'|"(?:[^"\\\n]|\\.)*"' r"|'[^'\n]*'", re.DOTALL
)
_KEY_CHARS_MAX: Final = 1024  # no key of ours comes near; resolving one takes quadratic time
_SCALAR: Final = re.compile(r"[^\s,\]}#]+(?: [0-9][^\s,\]}#]*)?")


def index_lines(text: str) -> dict[Key, int]:
    """Return the line, from 1, of every table and key in the valid TOML `text`."""
    scanner = _Scanner(text)
    scanner.document()
    return scanner.lines


class _Scanner:
    """One pass over a text. `lines` keeps the first place where a key or a table appears."""

    def __init__(self, text: str) -> None:
        self.lines: dict[Key, int] = {}
        self._text = text
        self._pos = 0
        self._line = 1
        self._counted = 0
        self._array_sizes: dict[Key, int] = {}

    def document(self) -> None:
        """Scan the whole text."""
        table: Key = ()
        while self._skip(_GAP) < len(self._text):
            if self._text.startswith("[", self._pos):
                table = self._header()
            elif not self._entry(table):
                return

    def _header(self) -> Key:
        is_array = self._text.startswith("[[", self._pos)
        self._pos += 2 if is_array else 1
        self._skip(_GAP)
        line = self._line_here()
        key = self._resolve(self._key())
        if is_array:
            count = self._array_sizes.get(key, 0)
            self._array_sizes[key] = count + 1
            key = (*key, count)
        self._note((), key, line)
        self._skip(_GAP)
        self._pos += 2 if is_array else 1
        return key

    def _resolve(self, key: Key) -> Key:
        """Point a header below an array of tables at that array's last element."""
        resolved: Key = ()
        for part in key[:-1]:
            resolved = (*resolved, part)
            if (count := self._array_sizes.get(resolved)) is not None:
                resolved = (*resolved, count - 1)
        return (*resolved, *key[-1:])

    def _entry(self, table: Key) -> bool:
        line = self._line_here()
        key = self._key()
        if not key:
            return False
        self._note(table, key, line)
        self._skip(_GAP)
        self._pos += 1  # the equals sign
        self._skip(_GAP)
        self._value((*table, *key))
        return True

    def _value(self, key: Key) -> None:
        if self._text.startswith("[", self._pos):
            self._array(key)
        elif self._text.startswith("{", self._pos):
            self._inline_table(key)
        elif not self._match(_STRING):
            self._match(_SCALAR)

    def _array(self, key: Key) -> None:
        self._pos += 1
        index = 0
        while self._skip(_GAP) < len(self._text) and not self._text.startswith("]", self._pos):
            before = self._pos
            self.lines.setdefault((*key, index), self._line_here())
            self._value((*key, index))
            self._skip(_GAP)
            self._comma()
            index += 1
            if self._pos == before:
                return
        self._pos += 1

    def _inline_table(self, key: Key) -> None:
        self._pos += 1
        while self._skip(_GAP) < len(self._text) and not self._text.startswith("}", self._pos):
            if not self._entry(key):
                return
            self._skip(_GAP)
            self._comma()
        self._pos += 1

    def _comma(self) -> None:
        if self._text.startswith(",", self._pos):
            self._pos += 1

    def _key(self) -> Key:
        start = self._pos
        if not self._match(_KEY) or self._pos - start > _KEY_CHARS_MAX:
            return ()
        # The parser itself decodes the key: quotes, escapes and dots cannot be read two ways.
        node: object = tomllib.loads(self._text[start : self._pos] + " = 0")
        parts: list[str] = []
        while isinstance(node, dict):
            ((part, node),) = node.items()
            parts.append(part)
        return tuple(parts)

    def _note(self, table: Key, key: Key, line: int) -> None:
        for end in range(1, len(key) + 1):
            self.lines.setdefault((*table, *key[:end]), line)

    def _line_here(self) -> int:
        self._line += self._text.count("\n", self._counted, self._pos)
        self._counted = self._pos
        return self._line

    def _skip(self, pattern: re.Pattern[str]) -> int:
        self._match(pattern)
        return self._pos

    def _match(self, pattern: re.Pattern[str]) -> bool:
        found = pattern.match(self._text, self._pos)
        if found is None:
            return False
        self._pos = found.end()
        return True

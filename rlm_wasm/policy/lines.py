"""The line of each key in a TOML text, and its comments, which the standard library's parser does not tell.

The text has already been parsed by `tomllib`, so this scanner only finds where things are; it
never decides what is valid, and a key it does not find costs a line number, nothing else.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True)
class Remark:
    """What stands beside a key: whole lines above it, and the rest of its own; each begins with ``#``."""

    above: tuple[str, ...] = ()
    behind: str = ""


@dataclass(frozen=True, slots=True)
class TextIndex:
    """Where everything in a text is.

    `remarks` has those of the text's head, which an empty line ends, at ``()``, and those below its last key
    at ``("#",)``, which no key can be: a bare one holds no ``#``, and no table of ours is called so.
    """

    lines: dict[Key, int]
    remarks: dict[Key, Remark]


HEAD: Final[Key] = ()
TAIL: Final[Key] = ("#",)


def index_lines(text: str) -> dict[Key, int]:
    """Return the line, from 1, of every table and key in the valid TOML `text`."""
    return index_text(text).lines


def index_text(text: str) -> TextIndex:
    """Return where every table, key and comment in the valid TOML `text` is."""
    scanner = _Scanner(text)
    scanner.document()
    return TextIndex(scanner.lines, scanner.remarks)


class _Scanner:
    """One pass over a text. `lines` keeps the first place where a key or a table appears."""

    def __init__(self, text: str) -> None:
        self.lines: dict[Key, int] = {}
        self.remarks: dict[Key, Remark] = {}
        self._text = text
        self._pos = 0
        self._line = 1
        self._counted = 0
        self._array_sizes: dict[Key, int] = {}
        # Comments that no key has been found for yet, and the key whose line has not ended.
        self._loose: list[str] = []
        self._last: Key = HEAD

    def document(self) -> None:
        """Scan the whole text."""
        table: Key = ()
        while self._between() < len(self._text):
            if self._text.startswith("[", self._pos):
                table = self._header()
                self._remark(table)
            else:
                key = self._entry(table)
                if key is None:
                    return
                self._remark(key)
        self._remark(TAIL)

    def _between(self) -> int:
        """Pass over what is between two entries and keep its comments."""
        start = self._pos
        end = self._skip(_GAP)
        gap = self._text[start:end]
        same, newline, rest = gap.partition("\n")
        if start == 0:
            same, rest = "", gap
        elif not newline:
            same, rest = gap, ""
        if behind := same.strip():
            found = self.remarks.get(self._last, Remark())
            self.remarks[self._last] = Remark(found.above, behind)
        above = [line.strip(" \t") for line in rest.split("\n")[:-1]]
        if self._last == HEAD and "" in above:
            # What an empty line parts from the first key is about the whole text.
            parted = len(above) - above[::-1].index("")
            self.remarks[HEAD] = Remark(tuple(filter(None, above[:parted])))
            del above[:parted]
        self._loose += filter(None, above)
        return end

    def _remark(self, key: Key) -> None:
        if self._loose:
            self.remarks[key] = Remark(tuple(self._loose))
            self._loose = []
        self._last = key

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

    def _entry(self, table: Key) -> Key | None:
        line = self._line_here()
        key = self._key()
        if not key:
            return None
        self._note(table, key, line)
        self._skip(_GAP)
        self._pos += 1  # the equals sign
        self._skip(_GAP)
        self._value((*table, *key))
        return (*table, *key)

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
        while self._within() < len(self._text) and not self._text.startswith("]", self._pos):
            before = self._pos
            self.lines.setdefault((*key, index), self._line_here())
            self._value((*key, index))
            self._within()
            self._comma()
            index += 1
            if self._pos == before:
                return
        self._pos += 1

    def _within(self) -> int:
        """Pass over a gap of an array; its comments are the key's."""
        start = self._pos
        end = self._skip(_GAP)
        self._loose += filter(None, (line.strip(" \t") for line in self._text[start:end].split("\n")))
        return end

    def _inline_table(self, key: Key) -> None:
        self._pos += 1
        while self._skip(_GAP) < len(self._text) and not self._text.startswith("}", self._pos):
            if self._entry(key) is None:
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

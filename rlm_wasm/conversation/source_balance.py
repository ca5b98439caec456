"""The balance of strings and brackets in Python source, line by line, without a parser.

A fence within a string of a block does not end the block, and half a program must not run: both need to
know where a string ends. Python's own parser would know more, and is the wrong one to ask. It is the host's,
of another version than the guest's; a hostile text takes it to the end of its stack, or of the memory; and
tried again at each fence it takes quadratic time. This reads each character once and keeps three facts
between lines. It can be wrong about what is no Python anyway, and about a quote of its own kind within the
braces of an f-string. Whether what looks whole is Python says the guest: nothing runs of a block that is not.
"""

from __future__ import annotations

import re
from typing import Final

# A body and the end of its string. What may stand in a body is told by its first character, so that a body
# without an end is read twice at most. No possessive groups: before 3.11.5 they matched too little.
_BODIES: Final[dict[str, re.Pattern[str]]] = {
    "'": re.compile(r"[^'\\]*+(?:\\.[^'\\]*+)*'"),
    '"': re.compile(r'[^"\\]*+(?:\\.[^"\\]*+)*"'),
    "'''": re.compile(r"[^'\\]*+(?:(?:\\.|'(?!''))[^'\\]*+)*'''"),
    '"""': re.compile(r'[^"\\]*+(?:(?:\\.|"(?!""))[^"\\]*+)*"""'),
}


class SourceBalance:
    """What a program's lines, read in order, have opened and not closed.

    `closer` is the pattern of what ends the program where it stands in no string and no comment; a comment
    ends before what `in_comments` matches.
    """

    def __init__(self, closer: str, in_comments: str | None = None) -> None:
        comment = "#.*" if in_comments is None else f"#.*?(?={in_comments}|$)"
        self._token: Final = re.compile(rf"({closer})|{comment}|'''|\"\"\"|['\"(\[{{)\]}}]|\\$")
        self._quote = ""  # of the string that the next line begins in
        self._depth = 0
        self._joins = False  # a backslash ends the line

    @property
    def in_string(self) -> bool:
        """Whether the next line begins in a string of three quotes."""
        return len(self._quote) == 3

    @property
    def complete(self) -> bool:
        """Whether every string, every bracket and every line is closed."""
        return not (self._quote or self._depth or self._joins)

    def read(self, line: str) -> re.Match[str] | None:
        """Read the next line; return the closer in it, if there is one, and nothing behind it is read."""
        at, self._joins = 0, False
        if len(self._quote) == 1 and (token := self._token.match(line)) and token[1] is not None:
            self._quote = ""  # a backslash does not join a fence
            return token
        if self._quote and (at := self._string(line, 0)) < 0:
            return None
        while token := self._token.search(line, at):
            at, text = token.end(), token[0]
            if token[1] is not None:
                return token
            if text in _BODIES:
                self._quote = text
                if (at := self._string(line, at)) < 0:
                    return None
            elif text in "([{":
                self._depth += 1
            elif text in ")]}":
                self._depth -= 1
            else:
                self._joins = text == "\\"
        return None

    def _string(self, line: str, at: int) -> int:
        """Return where the string that is open at `at` ends, or -1: not in this line."""
        if ended := _BODIES[self._quote].match(line, at):
            self._quote = ""
            return ended.end()
        # A string of one quote ends with its line, right or wrong, unless a backslash joins the next.
        if len(self._quote) == 1 and not _joined(line):
            self._quote = ""
        return -1


def _joined(line: str) -> bool:
    line = line.removesuffix("\r")
    return (len(line) - len(line.rstrip("\\"))) % 2 == 1

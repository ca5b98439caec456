"""A reply's lines, taken apart: code that is fenced off, what the model thought aloud, and text.

A fence is a line of backticks or tildes with any info string, or a tag like `<code>`. Whether it runs depends
on its language alone; what stands in it is never text, and its end never begins another.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Final

from rlm_wasm.conversation.source_balance import SourceBalance
from rlm_wasm.thoughts import THOUGHT, THOUGHT_ENDS

# A block whose strings hold fences is read on to the fence that ends it, past at most so many others.
_FENCES_IN_STRINGS_MAX: Final = 64
# All that is read on in vain, of all blocks together, is at most so many times the reply.
_READ_AGAIN: Final = 4
_CLOSING_INDENT_MAX: Final = 3  # deeper, it is text in a string of the block
_INFO_CHARS_MAX: Final = 200  # what is read of an info string
_CALL_CHARS_MAX: Final = 1_000  # how far before the end of a thought a FINAL( on its line is looked for

_BLANK: Final = " \t\r"
# What ends a model's turn, where its server should have left it out.
_TURN_ENDS: Final = (
    *("<|im_end|>", "<|endoftext|>", "<|end_of_text|>", "<|eot_id|>", "<|eom_id|>", "<|end|>", "<|return|>"),
    *("<|end_of_turn|>", "<end_of_turn>", "<|END_OF_TURN_TOKEN|>", "<|eos|>", "<eos>", "</s>"),
    "<\uff5cend\u2581of\u2581sentence\uff5c>",
)
_TURN_ENDS_MAX: Final = 4
_QUOTES_MAX: Final = 8
_QUOTE_MARK: Final = re.compile(r"[ \t]*>[ \t]?")
_FENCE: Final = re.compile(r"([ \t]*+)(`{3,}+|~{3,}+)(.*)", re.DOTALL)
_TICKS_CLOSE: Final = r"^[ \t]*+`{3,}+|(?<!`)`{3,}+(?=[ \t\r]*+$)"
_INLINE_INFO: Final = re.compile(r"\{[^{}`]*\}|[\w+#.:-]*")
_OPENING_WORD: Final = re.compile(r"\{.*|[\w+#.:-]+", re.DOTALL)
_WORD: Final = re.compile(r"[^\s,;:{}()\[\]._-]+")
_PYTHON: Final = re.compile(r"i?py(?:thon)?\d*")
# Code in the line of its fence: behind its language, and what no info string is.
_CODE_BEHIND: Final = re.compile(
    r"(?i:repl|i?py(?:thon)?[\d.]*(?:[ \t-]repl)?)[ \t]+("
    r"import[ \t]+[A-Za-z_][\w.]*(?:[ \t]*[,;].*|[ \t]+as[ \t].*)?|from[ \t]+[\w.]+[ \t]+import[ \t].*"
    r"|(?:for[ \t].*[ \t]in|with[ \t].*[ \t]as|def|class|if|while)[ \t].*:.*|try:.*"
    r"|(?:del|assert|await)[ \t]+[A-Za-z_(].*"
    r"|[A-Za-z_][\w.]*(?:\[[^\]]*\])*[ \t]+(?:[-+*/|&%]|//|\*\*)?=[ \t].*"
    r"|[A-Za-z_]\w*=[A-Za-z_][\w.]*[(\[].*|[A-Za-z_][\w.]*[(\[].*)"
)

_TAGS_THAT_RUN: Final = ("code", "repl", "python", "py")
# Calls of tools that nobody offered, as models spell them: code is in them, and no text.
_TAGS_OF_CALLS: Final = (
    *("execute", "tool_call", "tool_calls", "tool_code", "tool_use"),
    *("function_call", "function_calls", "function", "invoke"),
)
_TAGS: Final = _TAGS_THAT_RUN + _TAGS_OF_CALLS
_TAG: Final = re.compile(rf"([ \t]*)<({'|'.join(_TAGS)})([\s=][^<>]*)?>", re.IGNORECASE)
_TAG_CLOSE: Final = {name: re.compile(rf"</{name}\s*>", re.IGNORECASE) for name in _TAGS}
_TAG_CLOSE["to the end"] = re.compile("(?!)")
# The rest of a reply is a call where one begins so.
_CALL_TO_THE_END: Final = re.compile(
    r"[ \t]*(?:<\|python_tag\|>|\[TOOL_CALLS\]"
    r"|<[|\uff5c]tool[_\u2581]calls?(?:[_\u2581]section)?[_\u2581]begin[|\uff5c]>)"
)
_TAG_LANGUAGE: Final = re.compile(
    r"""\b(?:lang|language|class|type)\s*=\s*["']?(?:language-)?([\w+#-]*)""", re.IGNORECASE
)


@dataclass(slots=True)
class ReplyLines:
    """A reply without its thoughts. `mask` is `text` with a NUL for each character that a fence holds.

    `unclosed`: it ends within a block, which is not among `blocks`; `tail` is that block, if nothing in it is
    open. `thinks_on`: it ends within a thought.
    """

    text: str
    mask: str
    blocks: list[str]
    tail: str | None
    unclosed: bool
    thinks_on: bool


def read_lines(reply: str, lenient: bool) -> ReplyLines:
    """Take a reply apart, in time linear in its length. `lenient` also runs Python, bare fences and tags."""
    reader = _Reader(_without_turn_end(reply).split("\n"), lenient)
    reader.read()
    return ReplyLines(
        text="\n".join(line for line, _ in reader.lines),
        mask=_masked(reader.lines),
        blocks=reader.blocks,
        tail=reader.tail,
        unclosed=reader.unclosed,
        thinks_on=reader.thinks_on,
    )


def _without_turn_end(reply: str) -> str:
    for _ in range(_TURN_ENDS_MAX):
        ended = reply.rstrip()
        mark = next(filter(ended.endswith, _TURN_ENDS), None)
        if mark is None or (mark == "</s>" and "<s>" in ended):
            break
        reply = ended[: -len(mark)]
    return reply


def _masked(lines: list[tuple[str, bool]]) -> str:
    parts: list[str] = []
    held = False
    for line, fenced in lines:
        # Also the ends of its lines: an empty one is the fence's too.
        parts += ("\0" if held and fenced else "\n", "\0" * len(line) if fenced else line)
        held = fenced
    return "".join(parts[1:])


@dataclass(frozen=True, slots=True)
class _Fence:
    """What opened. `mark` is a backtick, a tilde or a tag's name, `first` the code in the same line.

    `quotes`: it stands within so many quotes, and ends with them.
    """

    mark: str
    count: int
    indent: int
    runs: bool
    is_code: bool  # its strings are told from its fences
    is_bare: bool = False
    first: str = ""
    quotes: int = 0

    def source(self, lines: list[str]) -> str:
        """Return the code, without the indentation that all of it has, as where a list holds it."""
        # Of no program is the first line indented; a comment may be.
        code = (line for line in lines if line.strip(_BLANK) and not line.lstrip(_BLANK).startswith("#"))
        begin = next(code, " " * self.indent)
        indent = len(begin) - len(begin.lstrip(" \t"))
        return "\n".join(_outdent(line, indent) for line in lines).rstrip("\r")


@dataclass(frozen=True, slots=True)
class _End:
    """Where a fence ends: in which line, behind what of it, and what of it is no longer the fence's."""

    number: int
    before: str = ""
    rest: str = ""


@dataclass(slots=True)
class _Reader:
    given: list[str]
    lenient: bool
    lines: list[tuple[str, bool]] = field(default_factory=list)  # and whether a fence holds it
    blocks: list[str] = field(default_factory=list)
    tail: str | None = None
    unclosed: bool = False
    thinks_on: bool = False
    at: int = 0
    rest: str | None = None  # of the line at `at`, where its beginning is done with
    spare: int = 0
    endless: set[str] = field(default_factory=set)  # thoughts of which no further one ends
    last_ends: dict[str, int] = field(default_factory=dict)  # of tags: the last line that ends one

    def read(self) -> None:
        """Read all lines."""
        self.spare = _READ_AGAIN * sum(len(line) + 1 for line in self.given)
        while self.at < len(self.given):
            line = self.given[self.at] if self.rest is None else self.rest
            self.rest = None
            if not line.lstrip(_BLANK).startswith(("```", "~~~")):
                line = self._without_thoughts(line)
            if self.thinks_on:
                self.lines.append((line, False))
                return
            before, opener, fence = self._opened_in_quote(line) or _opened_by(line, self.lenient)
            if fence is None and (fence := self._opened_by_tag(line)):
                before, opener = "", line
            if fence is None:
                self.lines.append((line, False))
                self.at += 1
            else:
                if before:
                    self.lines.append((before, False))
                self.lines.append((opener, True))
                self._fenced(fence)

    # -- thoughts -----------------------------------------------------------------------------------

    def _without_thoughts(self, line: str) -> str:
        """Return a line of text without the thoughts in it; one that goes on takes the lines that it has.

        The end of one whose beginning is not there (a chat template wrote it) makes all before it a thought.
        """
        kept: list[str] = []
        begin = at = 0  # of what is not yet kept, and of what is not yet looked at
        said = False  # whether anything stands before it
        while found := THOUGHT.search(line, at):
            at = found.end()
            if line[found.start() - 1 : found.start()] == "`":  # it is spoken of
                continue
            if found["ends"] or found["Ends"]:
                if not _within_call(line, begin, found.start()):
                    self._forget()
                    kept, begin, said = [], at, False
                continue
            said = said or bool(line[begin : found.start()].strip(_BLANK + "*_"))
            name = (found["mark"] or found["name"]).lower()
            if (ended := self._end_of_thought(name, line, at)) is not None:
                kept.append(line[begin : found.start()])
                self.at, line, begin = ended
                at = begin
            elif not said:
                self.thinks_on = True
                return ""
        return "".join((*kept, line[begin:]))

    def _end_of_thought(self, name: str, line: str, at: int) -> tuple[int, str, int] | None:
        if name in self.endless:
            return None
        ends = THOUGHT_ENDS[name]
        if found := ends.search(line, at):
            return self.at, line, found.end()
        for number in range(self.at + 1, len(self.given)):
            if found := ends.search(self.given[number]):
                return number, self.given[number], found.end()
        self.endless.add(name)
        return None

    def _forget(self) -> None:
        self.lines.clear()
        self.blocks.clear()

    # -- fences -------------------------------------------------------------------------------------

    def _opened_in_quote(self, line: str) -> tuple[str, str, _Fence] | None:
        """Return what `_opened_by` does for a fence within a quote that goes on; None: it is none."""
        if "```" not in line and "~~~" not in line:
            return None
        begin, quotes = _unquoted(line)
        following = self.given[self.at + 1] if self.at + 1 < len(self.given) else ""
        if not quotes or not _unquoted(following)[1]:
            return None
        before, opener, fence = _opened_by(line[begin:], self.lenient)
        return None if fence is None else (before, opener, replace(fence, quotes=quotes))

    def _line(self, fence: _Fence, number: int) -> str | None:
        """Return a line as the fence holds it; None: the quote that the fence stands in is over."""
        line = self.given[number]
        if not fence.quotes:
            return line
        begin, quotes = _unquoted(line, fence.quotes)
        return line[begin:] if quotes or not line.strip(_BLANK) else None

    def _opened_by_tag(self, line: str) -> _Fence | None:
        if _CALL_TO_THE_END.match(line):
            return _Fence("to the end", 0, 0, False, is_code=False)
        found = _TAG.match(line)
        if found is None:
            return None
        name, attributes, first = found[2].lower(), found[3] or "", line[found.end() :].lstrip(_BLANK)
        if not self._is_block(name, first):
            return None
        stated = _TAG_LANGUAGE.search(attributes)
        runs = self.lenient and name in _TAGS_THAT_RUN
        runs = runs and (stated is None or not stated[1] or _is_python(stated[1]))
        return _Fence(name, 0, len(found[1]), runs, is_code=True, first=first)

    def _is_block(self, name: str, first: str) -> bool:
        """Whether a tag at the beginning of a line opens a block; else it is spoken of, or around a fence."""
        ends = _TAG_CLOSE[name]
        if closed := ends.search(first):
            return not first[closed.end() :].strip(_BLANK + ".*_")
        following = (line for line in self.given[self.at + 1 : self.at + 3] if line.strip(_BLANK))
        if not first and next(following, "").lstrip(_BLANK).startswith(("```", "~~~")):
            return False
        if name not in self.last_ends:
            numbers = range(len(self.given) - 1, -1, -1)
            self.last_ends[name] = next((n for n in numbers if ends.search(self.given[n])), -1)
        return self.last_ends[name] > self.at or (self.lenient and not first)

    def _fenced(self, fence: _Fence) -> None:
        """Read what a fence holds, and go on where it ends."""
        begin = self.at + 1
        end, complete = self._end_of_code(fence) if fence.is_code else (self._end_of_text(fence), False)
        until = len(self.given) if end is None else end.number
        held = [self._line(fence, number) or "" for number in range(begin, until)]
        if fence.first and (end is None or until >= begin):
            held = [fence.first, *held]
        self.lines += [(line, True) for line in held]
        if end is not None:
            if until >= begin and (closing := self.given[until].removesuffix(end.rest)).strip(_BLANK):
                self.lines.append((closing, True))
            if end.before.strip(_BLANK):
                held.append(end.before)
        if end is None:
            self.unclosed = fence.runs
            if fence.runs and complete and not fence.is_bare:
                self.tail = fence.source(held)
            self.at = until
            return
        # A bare fence that no other one of its kind ends was perhaps itself an end.
        if fence.runs and not (fence.is_bare and _opens(end.rest)):
            self.blocks.append(fence.source(held))
        self.at = until
        if end.rest.strip(_BLANK):
            quoted = fence.quotes if end.rest != self.given[until] else 0
            self.rest = "> " * quoted + end.rest
        else:
            self.at += 1

    def _end_of_code(self, fence: _Fence) -> tuple[_End | None, bool]:
        """Return where a program ends, None for the end of the reply; and whether nothing is open then.

        A fence within a string of three quotes ends it only if the string has no end at a later fence.
        """
        closes = _TICKS_CLOSE if fence.mark in "`~" else f"(?i:{_TAG_CLOSE[fence.mark].pattern})"
        balance = SourceBalance(closes, None if fence.mark in "`~" else closes)
        early: _End | None = None
        nested = seen = read_on = 0
        for number, line in self._held(fence):
            if line is None:
                self.spare -= read_on
                return early or _End(number, rest=self.given[number]), True
            in_string = balance.in_string
            if not in_string and (end := _ended_by(fence, number, line)):
                return end, True
            if found := balance.read(line):
                if early is None or balance.complete:
                    return _end_at(fence, number, line, found.start(), found.end()), True
                break
            if in_string and (span := _fence_in_string(fence, line)):
                seen += 1
                info = line[span[1] :].strip(_BLANK)
                if fence.mark in "`~" and _opens_another(info) and not (_is_repl(info) and not nested):
                    nested += 1
                elif nested:
                    nested -= 1
                else:
                    early = early or _end_at(fence, number, line, *span)
            if early is not None:
                read_on += len(line) + 1
                if seen > _FENCES_IN_STRINGS_MAX or read_on > self.spare:
                    break
        else:
            if early is None or balance.complete:
                return None, balance.complete
        self.spare -= read_on
        return early, True

    def _held(self, fence: _Fence) -> Iterator[tuple[int, str | None]]:
        first = [(self.at, fence.first)] if fence.first else []
        numbers = range(self.at + 1, len(self.given))
        return chain(first, ((number, self._line(fence, number)) for number in numbers))

    def _end_of_text(self, fence: _Fence) -> _End | None:
        nested = 0
        for number in range(self.at + 1, len(self.given)):
            line = self._line(fence, number)
            if line is None:
                return _End(number, rest=self.given[number])
            if (span := _fence_in_string(fence, line)) is None:
                continue
            info = line[span[1] :].strip(_BLANK)
            if not _opens_another(info):
                if not nested:
                    return _end_at(fence, number, line, *span)
                nested -= 1
            elif _is_repl(info) and not nested:
                return _End(number, rest=line)  # one that was not closed before the next block
            else:
                nested += 1  # ```json within a page of Markdown
        return None


def _opened_by(line: str, lenient: bool) -> tuple[str, str, _Fence | None]:
    """Return what stands before a fence that a line opens, the fence's line, and the fence."""
    if whole := _FENCE.match(line):
        indent, marks, info = whole.groups()
        info = info.strip(_BLANK)
        within = info.removesuffix(marks)  # of a block that is one line
        if marks[0] * 3 in within or (within != info and not _code_behind(within)):
            return "", "", None
        return "", line, _fence(marks, len(indent), info, lenient)
    # "Let me look: ```repl" opens one too.
    at = line.find("```")
    if at < 0:
        return "", "", None
    marks = line[at : len(line) - len(line[at:].lstrip("`"))]
    info = line[at + len(marks) :].strip(_BLANK)
    begins = line[:at].rstrip(_BLANK).endswith((":", ".")) and "```" not in info and _code_behind(info)
    if not begins and (not _INLINE_INFO.fullmatch(info) or not (info or line[at - 1] in " \t:")):
        return "", "", None
    fence = _fence(marks, 0, info, lenient)
    return line[:at], line[at:], fence if info else _Fence(fence.mark, fence.count, 0, False, False)


def _fence(marks: str, indent: int, info: str, lenient: bool) -> _Fence:
    is_repl, is_python = _is_repl(info), _is_python(info)
    runs = is_repl or (lenient and (is_python or not info))
    is_code, first = runs or is_python, _code_behind(info)
    return _Fence(marks[0], len(marks), indent, runs, is_code, is_bare=not info, first=first)


def _code_behind(info: str) -> str:
    found = _CODE_BEHIND.fullmatch(info, 0, _INFO_CHARS_MAX)
    return info[found.start(1) :] if found else ""


def _words(info: str) -> list[str]:
    """Return the first words of an info string: the language, however it is set, and what follows it."""
    words = _WORD.findall(info[:_INFO_CHARS_MAX].lower())
    return [word for word in words if word[0] not in "#\"'=" and "=" not in word][:2]


def _is_python(info: str) -> bool:
    words = _words(info)
    return bool(words) and _PYTHON.fullmatch(words[0]) is not None


def _is_repl(info: str) -> bool:
    """Whether it is the session's own language; `python repl` says so too."""
    words = _words(info)
    return words[:1] == ["repl"] or (_is_python(info) and words[1:] == ["repl"])


def _opens_another(info: str) -> bool:
    """Whether what stands behind a fence's marks is another's info string, and neither nothing nor prose."""
    return _OPENING_WORD.fullmatch(info) is not None or _is_repl(info) or _is_python(info)


def _opens(line: str) -> bool:
    found = _FENCE.match(line)
    return found is not None and bool(found[3].strip(_BLANK))


def _fence_in_string(fence: _Fence, line: str) -> tuple[int, int] | None:
    """Return where in a line the fence would end, if the line is none of its program."""
    if fence.mark not in "`~":
        found = _TAG_CLOSE[fence.mark].search(line)
        return found.span() if found else None
    found = _FENCE.match(line)
    if found is None or found[2][0] != fence.mark or len(found[2]) < fence.count:
        return None
    if len(found[1]) > fence.indent + _CLOSING_INDENT_MAX:
        return None
    return found.start(2), found.end(2)


def _ended_by(fence: _Fence, number: int, line: str) -> _End | None:
    """Return the end that a line outside of every string is, which balances cannot tell from code."""
    stripped = line.strip(_BLANK)
    if fence.mark == "~" and len(stripped) >= fence.count and not stripped.strip("~"):
        return _End(number)
    thought = THOUGHT.fullmatch(stripped)
    if thought and (thought["ends"] or thought["Ends"]):
        return _End(number, rest=line)
    return None


def _end_at(fence: _Fence, number: int, line: str, start: int, stop: int) -> _End:
    before, rest = line[:start], line[stop:]
    if fence.mark in "`~" and _opens_another(rest.strip(_BLANK)):
        # A model that forgot to close a fence and began the next block.
        rest = line[start:].lstrip(_BLANK)
    return _End(number, before, rest)


def _within_call(line: str, begin: int, at: int) -> bool:
    begin = max(begin, at - _CALL_CHARS_MAX)
    return line.rfind("FINAL", begin, at) > line.rfind(")", begin, at)


def _unquoted(line: str, most: int = _QUOTES_MAX) -> tuple[int, int]:
    """Return where a line begins behind the marks of quotes, of so many at most, and how many there are."""
    at = quotes = 0
    while quotes < most and (mark := _QUOTE_MARK.match(line, at)):
        at = mark.end()
        quotes += 1
    return at, quotes


def _outdent(line: str, indent: int) -> str:
    leading = len(line) - len(line.lstrip(" \t"))
    return line[min(indent, leading) :]

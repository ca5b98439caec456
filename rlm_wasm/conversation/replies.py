"""The parser of a model's replies: code blocks to run, or an answer outside of code.

The reply is hostile text as much as the code in it. Every function here takes time linear in its
length, which the well-known regular expressions for this job do not.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final

# A reply's blocks all run before anything else may; this bounds the observations of one turn.
BLOCKS_MAX: Final = 32

STRICT_TAGS: Final = frozenset({"repl"})
LENIENT_TAGS: Final = frozenset({"repl", "python", "py", "python3", "py3", ""})

_THOUGHT_BEGINS, _THOUGHT_ENDS = "<think>", "</think>"
_CLOSING_INDENT_MAX: Final = 3  # deeper, it is text in a string of the block
_TAG: Final = re.compile(r"[\w+#.-]+")
# Possessive: a run of blanks that could also be the beginning of what follows would take quadratic time.
_FENCE_LINE: Final = re.compile(r"([ \t]*+)(`{3,}+)[ \t]*+([\w+#.-]*+)([^`]*)")
# Around a finish that a model sets in bold or as code.
_EMPHASIS: Final = " \t\r*_`"
_INLINE_OPENER: Final = re.compile(r"(?<!`)(`{3,})[ \t]*([\w+#.-]+)$")


@dataclass(frozen=True, slots=True)
class ParsedReply:
    """A reply taken apart. `final` and `final_var` are text-level finishes, outside every fence; `prose` is
    what else stands outside, if it is not code.

    `blocks_dropped` counts blocks beyond BLOCKS_MAX. `unclosed` is whether the reply ends within a
    block, which then is not among `blocks`: half a program must not run.
    """

    blocks: tuple[str, ...]
    final: str | None
    final_var: str | None
    blocks_dropped: int = 0
    unclosed: bool = False
    prose: str = ""


def parse_reply(text: str, lenient: bool) -> ParsedReply:
    """Take a reply apart; every text is a valid reply. `lenient` also runs python, py and bare fences."""
    lines = _without_thoughts(text).split("\n")
    scan = _scan(lines, LENIENT_TAGS if lenient else STRICT_TAGS)
    final_var = _text_final_var(lines, scan.outside)
    return ParsedReply(
        blocks=tuple(scan.blocks[:BLOCKS_MAX]),
        final=None if final_var is not None else _text_final(lines, scan.outside),
        final_var=final_var,
        blocks_dropped=max(0, len(scan.blocks) - BLOCKS_MAX),
        unclosed=scan.unclosed,
        prose=_prose([lines[number] for number in scan.outside]),
    )


# A line that is code whatever stands around it. Prose may hold some; what holds nothing else is a program.
_CODE_LINE: Final = re.compile(
    r"(?:import|from)[ ][\w.]+(?:[ ](?:import|as)[ ].*|[ ]*,.*)?"
    r"|(?:async|class|def|elif|else|except|finally|for|if|try|while|with)\b.*:"
    r"|[A-Za-z_][\w.]*(?:\[[^\]]*\])*[ \t]*(?:[-+*/|&%]|//|\*\*)?=(?!=).*"
    r"|[A-Za-z_][\w.]*[(\[](?:.*[\])(\[:,])?"
    r"|[#@)\]}].*"
)


def _prose(lines: list[str]) -> str:
    """Return the lines without what asks the session for something; "" where nothing but code is left."""
    text = "\n".join(line for line in lines if not _is_call(line, ("FINAL(", "FINAL_VAR("))).strip()
    unindented = [line for line in text.split("\n") if line and line[0] not in " \t\r"]
    return "" if all(_CODE_LINE.fullmatch(line.rstrip()) for line in unindented) else text


def _without_thoughts(text: str) -> str:
    """Drop what a model thought aloud before its reply; a thought that does not end is all of it."""
    if not text.lstrip().startswith(_THOUGHT_BEGINS):
        return text
    return text.partition(_THOUGHT_ENDS)[2]


@dataclass(slots=True)
class _Scan:
    blocks: list[str] = field(default_factory=list)
    outside: list[int] = field(default_factory=list)  # numbers of the lines that no fence holds
    unclosed: bool = False


@dataclass(slots=True)
class _Fence:
    indent: int
    ticks: int
    runs: bool
    nested: int = 0  # fences inside the block's own strings
    lines: list[str] = field(default_factory=list)

    def source(self) -> str:
        """Return the code, without the indentation that the fence itself has."""
        return "\n".join(_outdent(line, self.indent) for line in self.lines).rstrip("\r")


def _scan(lines: list[str], tags: frozenset[str]) -> _Scan:
    scan = _Scan()
    fence: _Fence | None = None
    for number, line in enumerate(lines):
        if fence is None:
            fence = _opened_by(line, tags)
            if fence is None:
                scan.outside.append(number)
        elif (reopened := _next_fence(fence, line, tags)) is not fence:
            if fence.runs:
                scan.blocks.append(fence.source())
            fence = reopened
        else:
            fence.lines.append(line)
    scan.unclosed = fence is not None and fence.runs
    return scan


def _opened_by(line: str, tags: frozenset[str]) -> _Fence | None:
    if "```" not in line:
        return None
    line = line.rstrip(" \t\r")
    if whole := _FENCE_LINE.fullmatch(line):
        indent, ticks, tag, more = whole.groups()
        # `{python}` is no bare fence, and `python title="a.py"` is one of python.
        runs = tag.lower() in tags and (not more or bool(tag and more[0] in " \t{"))
        return _Fence(len(indent), len(ticks), runs)
    # "Let me look: ```repl" opens a block too, but only with a tag that says so.
    inline = _INLINE_OPENER.search(line)
    if inline and inline[2].lower() in tags:
        return _Fence(0, len(inline[1]), runs=True)
    return None


def _next_fence(fence: _Fence, line: str, tags: frozenset[str]) -> _Fence | None:
    """Return `fence` while the line belongs to it, None if the line closes it, or the fence that follows."""
    stripped = line.strip(" \t\r")
    indent = len(line) - len(line.lstrip(" \t"))
    if indent > fence.indent + _CLOSING_INDENT_MAX or not stripped.startswith("`" * fence.ticks):
        return fence
    tag = stripped.lstrip("`")
    if not _TAG.fullmatch(tag):  # bare, or followed by prose: a closing fence
        if fence.nested:
            fence.nested -= 1
            return fence
        return None
    if tag.lower() in STRICT_TAGS and not fence.nested:
        # A model that forgot to close a fence and began the next block.
        return _opened_by(line, tags)
    fence.nested += 1  # ```json within a prompt that the code builds
    return fence


def _outdent(line: str, indent: int) -> str:
    leading = len(line) - len(line.lstrip(" \t"))
    return line[min(indent, leading) :]


def _text_final_var(lines: list[str], outside: list[int]) -> str | None:
    start = _first_call(lines, outside, "FINAL_VAR(")
    if start is None:
        return None
    argument, closed, _ = "\n".join(lines[start:]).partition("FINAL_VAR(")[2].partition(")")
    return argument.strip().strip("\"'").strip() if closed else None


def _text_final(lines: list[str], outside: list[int]) -> str | None:
    start = _first_call(lines, outside, "FINAL(")
    if start is None:
        return None
    # The first finish counts: a second one begins no later than where the first ends.
    calls = (
        number for number in outside if number > start and _is_call(lines[number], ("FINAL(", "FINAL_VAR("))
    )
    stop = next(calls, len(lines))
    for end in reversed(outside):
        if end < start:
            break
        if end < stop and lines[end].rstrip(_EMPHASIS).endswith(")"):
            call = "\n".join(lines[start : end + 1]).strip(_EMPHASIS)
            return _unquoted(call.removeprefix("FINAL(").removesuffix(")").strip())
    return None


def _unquoted(text: str) -> str:
    """Return the text without the quotes that are around the whole of it."""
    for quote in ('"', "'"):
        if len(text) >= 2 and text[0] == text[-1] == quote and quote not in text[1:-1]:
            return text[1:-1]
    return text


def _first_call(lines: list[str], outside: list[int], call: str) -> int | None:
    return next((number for number in outside if _is_call(lines[number], call)), None)


def _is_call(line: str, call: str | tuple[str, ...]) -> bool:
    return line.lstrip(_EMPHASIS).startswith(call)

"""The parser of a model's replies: code blocks to run, or an answer outside of code.

The reply is hostile text as much as the code in it. Everything here takes time linear in its length, which
the well-known regular expressions for this job do not, and every text is a reply.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from rlm_wasm.conversation.reply_lines import read_lines
from rlm_wasm.conversation.text_finish import find_final, find_final_var

# A reply's blocks all run before anything else may; this bounds the observations of one turn.
BLOCKS_MAX: Final = 32


@dataclass(frozen=True, slots=True)
class ParsedReply:
    """A reply taken apart. `final` and `final_var` are text-level finishes, outside every fence; `prose` is
    what else stands outside, if it is not code.

    `blocks_dropped` counts blocks beyond BLOCKS_MAX. `unclosed` is whether the reply ends within a
    block, which then is not among `blocks`: half a program must not run. `thinks_on` is whether it ends
    within a thought.
    """

    blocks: tuple[str, ...]
    final: str | None
    final_var: str | None
    blocks_dropped: int = 0
    unclosed: bool = False
    prose: str = ""
    thinks_on: bool = False


def parse_reply(text: str, lenient: bool, *, ended: bool = False) -> ParsedReply:
    """Take a reply apart; every text is a valid reply.

    `lenient` also runs Python, bare fences and tags. `ended`: its provider says that the model had said all
    that it would, so that a whole program at its end is one, though no fence closes it.
    """
    lines = read_lines(text, lenient)
    blocks, unclosed = lines.blocks, lines.unclosed
    if ended and lines.tail is not None and lines.tail.strip():
        blocks, unclosed = [*blocks, lines.tail], False
    final_var = find_final_var(lines.text, lines.mask)
    final = None if final_var is not None else find_final(lines.text, lines.mask)
    finish = final_var or final
    outside = lines.mask if finish is None else f"{lines.mask[: finish.start]}\0{lines.mask[finish.end :]}"
    beside = [line for line in outside.split("\n") if "\0" not in line]
    if final is not None and _is_value_of(final.argument, beside):
        final = None
    return ParsedReply(
        blocks=tuple(blocks[:BLOCKS_MAX]),
        final=None if final is None else final.argument,
        final_var=None if final_var is None else final_var.argument,
        blocks_dropped=max(0, len(blocks) - BLOCKS_MAX),
        unclosed=unclosed,
        prose=_prose(beside),
        thinks_on=lines.thinks_on,
    )


# A line that is code whatever stands around it. Prose may hold some; what holds nothing else is a program.
_CODE_LINE: Final = re.compile(
    r"(?:import|from)[ ][\w.]+(?:[ ](?:import|as)[ ].*|[ ]*,.*)?"
    r"|(?:async|class|def|elif|else|except|finally|for|if|try|while|with)\b.*:"
    r"|[A-Za-z_][\w.]*(?:\[[^\]]*\])*[ \t]*(?:[-+*/|&%]|//|\*\*)?=(?!=).*"
    r"|[A-Za-z_][\w.]*[(\[](?:.*[\])(\[:,])?"
    r"|[#@)\]}].*"
)


_ASSIGNED: Final = re.compile(r"([A-Za-z_]\w*)[ \t]*=(?!=)")
_EXPRESSION: Final = re.compile(r"([A-Za-z_]\w*)(?:[ \t]*[.(\[+*/%-].*)?", re.DOTALL)


def _is_value_of(argument: str, lines: list[str]) -> bool:
    """Whether a finish belongs to a program that no fence holds: then its text is code, and no answer."""
    if _prose(lines):
        return False
    names = {found[1] for line in lines if (found := _ASSIGNED.match(line))}
    expression = _EXPRESSION.fullmatch(argument)
    return expression is not None and expression[1] in names


def _prose(lines: list[str]) -> str:
    """Return the lines without what asks the session for something; "" where nothing but code is left."""
    text = "\n".join(line for line in lines if not _is_call(line)).strip()
    unindented = [line for line in text.split("\n") if line and line[0] not in " \t\r"]
    return "" if all(_CODE_LINE.fullmatch(line.rstrip()) for line in unindented) else text


def _is_call(line: str) -> bool:
    return line.lstrip(" \t\r*_`").startswith(("FINAL(", "FINAL_VAR("))

"""A finish as text: FINAL(answer) and FINAL_VAR(name) where a model wrote them outside of code."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Final

# So many calls of a reply are looked at, and no further one once they were as long as so many replies.
_CALLS_MAX: Final = 32
_READ_AGAIN: Final = 4
_CLAUSE_CHARS_MAX: Final = 300  # what is read of the prose around a call

_FINAL: Final = re.compile(r"FINAL[ \t]?\(")
_FINAL_VAR: Final = re.compile(r"FINAL\\?_VAR[ \t]?\(", re.IGNORECASE)
_NAMED: Final = re.compile(
    r"^[ \t*_`]*+FINAL_VAR[*_`]*+:[`'\"* \t]*+([A-Za-z_]\w*+)[`'\"*. \t\r]*+$", re.MULTILINE
)
# Around a finish that a model sets in bold or as code.
_EMPHASIS: Final = " \t\r*_`"
_SENTENCE_END: Final = re.compile(r"(?<![a-z]\.[a-z])[.!?](?:\s|$)")
# A string of JSON that holds code, as in a call of a tool.
_CODE_IN_JSON: Final = re.compile(
    r'"(?:code|source|script|command|input|python|cell)"\s*:\s*"[^"\\]*+(?:\\.[^"\\]*+)*$'
)
# Right before an answer, this says that it is one, whatever the sentence says before: but for a condition.
_SAYS_ANSWER: Final = re.compile(
    r"[,;:\u2013\u2014]\s*(?:(?:and|so|thus|hence|therefore)[\s,]+)*(?:(?:the|my|our|your)\s+)?"
    r"(?:(?:final|best|short|correct|right)\s+)*(?:(?:answer|result)(?:\s+is)?|so|thus|hence|therefore)[\s:,]*$",
    re.IGNORECASE,
)
# So does what a sentence begins with and leaves behind: what was seen, and by what.
_INTRODUCED: Final = re.compile(
    r"^(?:(?:and|so|ok|okay|well)[\s,]+)?(?:"
    r"as\b[^,;:]*\b(?:noted|said|se(?:e|en)|shown?|mentioned|stated|found|computed|counted|established|explained"
    r"|expect(?:ed)?|observed|determined|calculated|verified|confirmed|discussed|described|printed|above|before"
    r"|earlier|asked|requested|required)\b[^,;:]*[,:]"
    r"|(?:using|based on|given|considering|judging by|going by|looking at|according to|by|from)\s[^,;:]*,)"
    r"\s*$",
    re.IGNORECASE,
)
# What a sentence ends with that comes to it: a duty, and no plan.
_CONCLUDES: Final = re.compile(
    r"\b(?:must|can|may|need to)(?:\s+(?:therefore|thus|hence|also|only|safely))*\s+(?:"
    r"(?:conclude|confirm)(?:\s+(?:with|this|that(?:\s+it\s+is)?|as follows))?\s*:"
    r"|(?:conclude|confirm|say)\s+that\s+(?:(?:the|my|our)\s+)?(?:(?:final|best|correct|right)\s+)*"
    r"(?:answer|result)\s+is[\s:,]*|(?<=can )answer(?:\s+(?:it|this|that|the question))?\s*:)\s*$",
    re.IGNORECASE,
)
_CONDITIONAL: Final = re.compile(
    r"\b(?:if|when|once|until|unless|would|later|e\.g|example|form|format|syntax|will|shall|going|plan)\b|'(?:d|ll)\b",
    re.IGNORECASE,
)
# Prose that speaks of finishing, and does not finish.
_SUPPOSED: Final = re.compile(
    r"\b(?:if|when|once|soon|after|until|unless|before|would|could|should|might|never|not|later|either|e\.g|example"
    r"|form|format|syntax|instead|like)\b|n't\b|'d\b",
    re.IGNORECASE,
)
_INTENDED: Final = re.compile(
    r"\b(?:will|shall|can|(?-i:may)|must|need|want|plan|going|use|using|call|calling|write|writing|then|via)\b|'ll\b",
    re.IGNORECASE,
)
# In what a sentence begins with: it is not there yet, or is an example.
_UNTIL: Final = re.compile(
    r"\b(?:if|when|once|until|unless|soon|later|e\.g|example|form|format|syntax|instructions?|rules?|steps?"
    r"|call(?:s|ing)?|writ(?:e|ing)|function|command)\b",
    re.IGNORECASE,
)
_NOW: Final = re.compile(r"\bnow\b", re.IGNORECASE)
_CONDITION: Final = re.compile(r"[ \t]*(?:if|when|once|after|until|unless)\b", re.IGNORECASE)

_MARK: Final = re.compile(r"[()]|(?<!\w)(?:\"\"\"|'''|\"|')")
_PARENTHESIS: Final = re.compile(r"[()]")
# What a string is up to its end. An apostrophe within a word is none, and a string ends in its line. As in
# `source_balance`, what may stand in one is told by its first character: no possessive groups are needed.
_STRINGS: Final = {
    "'": re.compile(r"[^'\\\n]*+(?:(?:\\.|'(?=\w))[^'\\\n]*+)*'(?!\w)"),
    '"': re.compile(r'[^"\\\n]*+(?:\\.[^"\\\n]*+)*"'),
    "'''": re.compile(r"[^'\\]*+(?:(?:\\.|'(?!''))[^'\\]*+)*'''", re.DOTALL),
    '"""': re.compile(r'[^"\\]*+(?:(?:\\.|"(?!""))[^"\\]*+)*"""', re.DOTALL),
}
_LITERAL: Final = re.compile(
    r"""[rRuU]?(?:\"\"\"([^"\\]*+(?:(?:\\.|"(?!""))[^"\\]*+)*)\"\"\"|'''([^'\\]*+(?:(?:\\.|'(?!''))[^'\\]*+)*)'''"""
    r"""|"([^"\\]*+(?:\\.[^"\\]*+)*)"|'([^'\\]*+(?:\\.[^'\\]*+)*)')""",
    re.DOTALL,
)
_ESCAPE: Final = re.compile(r"\\([\\'\"nt])")
_ESCAPED: Final = {"n": "\n", "t": "\t"}
_KEYWORD: Final = re.compile(r"(?:name|var|variable|variable_name|var_name)[ \t]*=(?!=)[ \t]*")
_ANSWER_KEYWORD: Final = re.compile(
    r"^(?:answer|final_answer|final|result|value|response|output|text|content)[ \t]*=(?!=)[ \t]*"
)
# Behind a literal: arguments of other names, which nobody asks for.
_MORE_ARGUMENTS: Final = re.compile(r"\s*,\s*[A-Za-z_]\w*\s*=(?!=).*", re.DOTALL)
_QUOTES: Final = "\"'`*\u201c\u201d\u2018\u2019"


@dataclass(frozen=True, slots=True)
class TextFinish:
    """What a call holds, and the part of the text that it takes."""

    argument: str
    start: int
    end: int


def find_final(text: str, mask: str) -> TextFinish | None:
    """Return the first FINAL(...): the answer is empty if there is none in any of them.

    `mask` has NULs for what a fence holds: such a part may be of an answer, and is none.
    """
    empty: TextFinish | None = None
    for call, end in _calls(_FINAL, mask):
        answer = _answer(text[call.end() : end - 1].strip())
        found = TextFinish(answer, call.start(), end)
        if answer.strip() and answer not in ("...", "\u2026"):
            return found
        empty = empty or TextFinish("", call.start(), end)
    return empty


def find_final_var(text: str, mask: str) -> TextFinish | None:
    """Return the first FINAL_VAR(name), however the name is written, or `FINAL_VAR: name` on its own line."""
    for call, end in _calls(_FINAL_VAR, mask):
        name = text[call.end() : end - 1].strip().rstrip(",").strip(_QUOTES + " \t\r\n")
        if name in ("...", "\u2026"):
            continue
        name = _KEYWORD.sub("", name, count=1).strip(_QUOTES + " \t\r\n").replace("\\_", "_")
        return TextFinish(name, call.start(), end)
    named = _NAMED.search(mask)
    return None if named is None else TextFinish(named[1], named.start(), named.end())


def _calls(pattern: re.Pattern[str], mask: str) -> Iterator[tuple[re.Match[str], int]]:
    """Return the calls that finish, with their ends, and not those that are only spoken of."""
    spare = _READ_AGAIN * len(mask)
    for call in islice(pattern.finditer(mask), _CALLS_MAX):
        if not _finishes(call, mask):
            continue
        end = _end_of_call(mask, call.end())
        spare -= (len(mask) if end is None else end) - call.start()
        if end is not None and not _CONDITION.match(mask, end, end + _CLAUSE_CHARS_MAX):
            yield call, end
        if spare < 0:
            return


def _finishes(call: re.Match[str], mask: str) -> bool:
    begin = max(0, call.start() - _CLAUSE_CHARS_MAX)
    begin = max(begin, mask.rfind("\n", begin, call.start()) + 1)
    before = mask[begin : call.start()]
    bare = before.rstrip("_")
    if bare and (bare[-1].isalnum() or bare[-1] == "\0" or (bare[-1] == "." and bare == before.rstrip())):
        return bare.endswith("\0")  # else part of a name
    clause = before.strip(_EMPHASIS)
    if call[0][-2] in " \t" and clause:  # the FINAL (and best) version
        return False
    clause = _SENTENCE_END.split(clause)[-1]
    if _CODE_IN_JSON.search(before):
        return False
    if _SAYS_ANSWER.search(clause) and not _CONDITIONAL.search(clause):
        return True
    if _INTRODUCED.search(clause) and not _UNTIL.search(clause):
        return True
    if concludes := _CONCLUDES.search(clause):
        clause = clause[: concludes.start()]
    if _SUPPOSED.search(clause):
        return False
    return not _INTENDED.search(clause) or _NOW.search(clause) is not None


def _end_of_call(mask: str, start: int) -> int | None:
    """Return where the call whose argument begins at `start` ends, or None if it does not."""
    end = _balanced(mask, start, _MARK) or _balanced(mask, start, _PARENTHESIS)
    if end is None:
        # A parenthesis of the answer's own that is never closed: the last one of the line closes the call.
        stop = mask.find("\n", start)
        line = mask[start : stop if stop >= 0 else len(mask)].rstrip(_EMPHASIS + ".!")
        end = start + len(line) if line.endswith(")") else None
    return end


def _balanced(mask: str, start: int, marks: re.Pattern[str]) -> int | None:
    depth, at = 1, start
    unended = {"'": start, '"': start, "'''": start, '"""': start}  # up to where no string of a kind ends
    while mark := marks.search(mask, at):
        at = mark.end()
        if mark[0] == "(":
            depth += 1
        elif mark[0] == ")":
            depth -= 1
            if not depth:
                return at
        elif at > unended[mark[0]]:
            if string := _STRINGS[mark[0]].match(mask, at):
                at = string.end()
            else:
                line_end = mask.find("\n", at) if len(mark[0]) == 1 else -1
                unended[mark[0]] = len(mask) if line_end < 0 else line_end
    return None


def _answer(argument: str) -> str:
    """Return what is answered: the argument, without the keyword of a call, and its quotes."""
    keyword = _ANSWER_KEYWORD.match(argument)
    text = argument[keyword.end() :] if keyword else argument
    literal = _LITERAL.match(text)
    if literal and (behind := text[literal.end() :]):
        further = keyword is not None and _MORE_ARGUMENTS.fullmatch(behind)
        text = literal[0] if further or behind.strip() == "," else text
    return _unquoted(text)


def _unquoted(text: str) -> str:
    """Return the text of a lone string literal, or the text as it is."""
    literal = _LITERAL.fullmatch(text)
    if literal is None:
        return text
    body = next(group for group in literal.groups() if group is not None)
    if text[0] in "rR":
        return body
    return _ESCAPE.sub(lambda escape: _ESCAPED.get(escape[1], escape[1]), body)

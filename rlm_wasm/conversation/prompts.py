"""The prompts of a root model: how to work, what inputs there are, which turn it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from rlm_wasm.conversation.dialect import Dialect
from rlm_wasm.conversation.guidance_section import guidance_section
from rlm_wasm.guidance import NO_GUIDANCE, Guidance
from rlm_wasm.limits import ObservationLimits

PEEK_CHARS_MAX: Final = 500
CHILD_QUESTION_CHARS_MAX: Final = 4_000
# Of a folder, so many files are listed, and so much is written of each name and of all of them.
FILES_SHOWN_MAX: Final = 50
_PATH_CHARS_MAX: Final = 200
_LISTING_CHARS_MAX: Final = 8_000


@dataclass(frozen=True, slots=True)
class FileFacts:
    """What the model is told of a file of a folder: its path, its characters, of a table its first line.

    `what` says what it is, where there is more to say than that it is a text.
    """

    path: str
    length: int
    first_line: str = ""
    what: str = ""


@dataclass(frozen=True, slots=True)
class ContextFacts:
    """What the model is told about one context variable instead of its content."""

    name: str
    type_name: str
    length: int
    unit: str
    peek: str
    # Characters or bytes of what holds it, where that is not its length.
    size: int | None = None
    # Its name in /inputs, if it is a file as well, and whether it stays there because it is too large.
    file: str = ""
    lazy: bool = False
    # What that file is, where there is more to say than its name.
    what: str = ""
    # Of a folder: its first files. The variable is a dict of the texts of all.
    listing: tuple[FileFacts, ...] = ()


_WORK: Final = """\
You answer a question about material that is too large to read. It is not in this conversation: it is in \
variables of a Python session, and you get at it by writing code.

Write code in blocks like this one:

```repl
print(len(context))
print(context[:300])
```

The blocks of a reply run in order, in one session that lasts until you finish: variables, functions and \
imports stay, and what you assigned before an error stays too. After your reply you are shown what the \
blocks printed, the value of the last expression, any traceback, and the names you have defined. You see \
at most about {bytes_max} bytes of that per block, so print what you need to know, not everything you have.

It is Python 3 with its whole standard library, sqlite3 and the time zones among it, in a box of its \
own.{packages} There is no network, no shell and no other process, and nothing can be installed. Files that \
you write, say to /tmp, stay in the session like variables; those that were asked for belong in /out. \
Threads, timers and pools do their work in order, one piece after the other.{clock}

The session has, besides the Python standard library:
- the context variables that the first message lists. Each is also a read-only file in /inputs, for open, \
csv, zipfile and whatever else takes a file;
- llm_query(prompt, model=None) -> str: ask another language model. It sees the prompt and nothing else, so \
put the text to read into the prompt. A failure raises an exception. An answer that reached the most tokens \
it may have ends in the middle: such a str is a CutAnswer, `isinstance(text, CutAnswer)`;
- llm_query_batched(prompts, model=None) -> list[str]: the same for many prompts at once, answered in \
parallel and returned in order. Prefer it to a loop. What asyncio.gather awaits, and what a pool of threads \
asks, is answered in parallel as well;
{recursion}{tools}- budget() -> dict: what is left of the calls, tokens, money, turns, computing and time of \
this task.

How to go about it: look at the form and size of the context first. Let code do what code can do exactly: \
search, split, count, sort. Use llm_query where text has to be understood, on pieces of moderate size, and \
gather the results in variables. Check what you found before you finish.
"""

_PACKAGES: Final = " These packages are installed as well: {}."
_VIRTUAL_CLOCK: Final = (
    " The clock is virtual: it starts at a fixed date and runs with computing, so it does not tell today's "
    "date, and a sleep takes no time."
)
_RECURSION: Final = """\
- rlm_query(prompt, model=None) -> str: have somebody like you answer. It gets a session of its own with \
`context` = the prompt, writes code and asks models there, and sees nothing of this session. Put the task \
and the material into the prompt. It costs many calls: use it for parts that need code or many queries \
themselves, and llm_query for the rest;
- rlm_query_batched(prompts, model=None) -> list[str]: the same for several prompts, in parallel. What \
failed raises an exception, as with all of these;
"""

_TOOLS: Final = """\
- these functions of the program that asks; help(name) tells more of each. Arguments and results are plain \
values, and a failure raises a ToolError. What asyncio.gather awaits, a pool of threads calls or \
name.map([…]) is given is done in parallel:
{}"""
_TOOLS_CHARS_MAX: Final = 16_000

_IN_PIECES: Final = (
    "That is too much to work on as a whole: the memory holds no second copy of it, nor a list of its words. "
    "Take it in pieces: slices, or the matches of re.finditer one by one."
)
_LAZY: Final = (
    "It is the file {path}, and stays there: it may be larger than the memory. These read only what they "
    "need of it: `{name}[a:b]`, `for line in {name}`, `{name}.find(s)`, `{name}.count(s)`, `s in {name}`, "
    "`{name}.finditer(pattern)`, `len({name})`, `{name}.size` (bytes, at once), and `open({path})`. What "
    "would take all of it into memory raises a MemoryError."
)
_FOLDER: Final = (
    "It is a folder: `{name}[path]` is the text of a file, a str, by its path in there. Each is a file as "
    "well, in the folder {path}. Its files:"
)
_TYPED: Final = """\
Your answer is checked. It has to be a value that this JSON Schema describes:

<schema>
{}
</schema>

Finish with the value itself (a dict, list, number, str, None), not with a text that has its JSON or its \
repr. As plain text outside of code, FINAL(...) holds its JSON. What does not fit is not accepted: you are \
told where, and go on.
"""
_FINISH_ANSWER: Final = """\
To finish, run a block that sets
answer["content"] = ...   # your answer, or a variable that holds it
answer["ready"] = True
You may set answer["content"] earlier as a draft. FINAL(value) and FINAL_VAR("name"), called in a block, \
finish as well, also where you gave the name `answer` to something else. The first finish counts: nothing \
after it runs.
"""

_FINISH_FINAL: Final = """\
To finish, call FINAL(value) or FINAL_VAR("name") in a block, or write one of them as plain text at the \
start of a line outside any block: FINAL(your answer), or FINAL_VAR(name) to return a variable of the \
session. Do not write FINAL(...) as text in a reply that also has code: you have not seen what the code \
finds. The first finish counts: nothing after it runs.
"""

_FINISH: Final[dict[Dialect, str]] = {
    Dialect.ANSWER: _FINISH_ANSWER,
    Dialect.FINAL: _FINISH_FINAL,
    Dialect.BOTH: _FINISH_ANSWER + "\n" + _FINISH_FINAL,
}


def system_prompt(
    dialect: Dialect,
    limits: ObservationLimits,
    *,
    recursive: bool = False,
    virtual_clock: bool = False,
    packages: Sequence[str] = (),
    guidance: Guidance = NO_GUIDANCE,
    tools: Sequence[str] = (),
    schema: str = "",
) -> str:
    """Return the standing instructions; they do not depend on question or context, so they cache well.

    What is said beside them stands between how to work and how to finish, so that the latter comes last.

    `recursive`: whether this run may have children. One that may not is told nothing of them.
    `virtual_clock`: whether the session's clock is not the world's. `packages`: what it has beside the
    standard library. `tools`: a line about each function of the host's that code may call. `schema`: what the
    answer is to be, in one line of JSON, which can hold no line that ends it.
    """
    recursion = _RECURSION if recursive else ""
    clock = _VIRTUAL_CLOCK if virtual_clock else ""
    installed = _PACKAGES.format(", ".join(packages)) if packages else ""
    work = _WORK.format(
        bytes_max=limits.bytes_max,
        recursion=recursion,
        tools=_tool_lines(tools),
        clock=clock,
        packages=installed,
    )
    own = guidance_section(guidance)
    typed = _TYPED.format(schema) if schema else ""
    return "\n".join(filter(None, (work, own, typed, _FINISH[dialect])))


def _tool_lines(tools: Sequence[str]) -> str:
    lines, left = [], _TOOLS_CHARS_MAX
    for tool in tools:
        # Of the others at least the name: help() has the rest.
        line = f"  - {tool if len(tool) <= left else tool.partition('(')[0]};\n"
        left -= len(line)
        lines.append(line)
    return _TOOLS.format("".join(lines)) if lines else ""


def first_user_message(
    question: str, contexts: Sequence[ContextFacts], whole_length_max: int | None = None
) -> str:
    """Return the question and what is known of each context variable: type, size and a peek.

    Of more than `whole_length_max` characters in all, it says that they do not fit the memory twice.
    """
    lines = [f"Question: {question}", ""]
    if not contexts:
        lines.append("There is no context variable; answer from the question, with code where it helps.")
    for facts in contexts:
        lines.append(f"`{facts.name}` is a {facts.type_name} of {facts.length} {facts.unit}.")
        lines += _file_lines(facts)
        if facts.peek:
            lines.append(f"It begins: {facts.peek[:PEEK_CHARS_MAX]!r}")
    sizes = (facts.length if facts.size is None else facts.size for facts in contexts)
    if whole_length_max is not None and sum(sizes) > whole_length_max:
        lines += ["", _IN_PIECES]
    return "\n".join(lines)


def _file_lines(facts: ContextFacts) -> list[str]:
    if not facts.file:
        return []
    # The name is whoever's who named the file: as Python writes it, in one line.
    path = repr(f"/inputs/{facts.file}")
    if facts.listing:
        return [_FOLDER.format(name=facts.name, path=path), *_listing(facts)]
    if facts.lazy:
        return [_LAZY.format(name=facts.name, path=path)]
    return [f"It is the file {path} as well{f': {facts.what}' if facts.what else ''}."]


def _listing(facts: ContextFacts) -> list[str]:
    lines, left = [], _LISTING_CHARS_MAX
    for file in facts.listing[:FILES_SHOWN_MAX]:
        # Names and first lines are whoever's who made the files: as Python writes them, in one line each.
        path = repr(file.path) if len(file.path) <= _PATH_CHARS_MAX else f"{file.path[:_PATH_CHARS_MAX]!r}…"
        first = f", whose first line is {file.first_line[:_PATH_CHARS_MAX]!r}" if file.first_line else ""
        what = f", {file.what}" if file.what else ""
        line = f"- {path}: {file.length} characters{what}{first}"
        left -= len(line)
        if left < 0:
            break
        lines.append(line)
    if (more := facts.length - len(lines)) > 0:
        lines.append(f"- and {more} more: sorted({facts.name}) has all paths")
    return lines


def child_question(prompt: str) -> str:
    """Return the question of a child run, whose `context` is the prompt it was asked with.

    A short prompt is its own question. A long one holds the material as well: then the question says
    where to read, and shows both ends, where the task usually is.
    """
    if len(prompt) <= CHILD_QUESTION_CHARS_MAX:
        return prompt
    begin, end = prompt[:PEEK_CHARS_MAX], prompt[-PEEK_CHARS_MAX:]
    return (
        "What you are asked is in `context`, together with the material it is about. Read it, do what it "
        f"asks, and finish with the result. It begins: {begin!r} and ends: {end!r}"
    )


def last_prompt(reason: str) -> str:
    """Return what asks for the best answer there is of a run that a limit ends."""
    return (
        f"This task must end now ({reason}): no more code runs and nothing more can be asked. Answer the "
        "question as well as you can from what you have seen, as plain text and nothing else. Say what you "
        "could not check."
    )


def turn_prompt(turn: int, turns_max: int) -> str:
    """Return the line that asks for the next reply."""
    line = f"Turn {turn}/{turns_max}:"
    if turn == 1:
        return (
            f"Nothing has run yet and you have not seen the context. Look at it before you answer.\n\n{line}"
        )
    return line

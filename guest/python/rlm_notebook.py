"""What a notebook has and a cell here has not: lines for its shell and its commands, and names that it defines.

Such a line is no Python, so the cell does not compile; who wrote it is told what to do instead.
"""

import ast
import builtins
import re
import warnings

import rlm_display
import rlm_missing

# Looked at in a cell that does not compile, from its first line on.
LINES_TRIED = 8
_LINE_END = re.compile(r"\r\n|\r|\n")
# The same in codeop, which a session does not load otherwise.
_ALLOW_INCOMPLETE_INPUT = 0x4000
_INSTALLING = re.compile(
    r"[!%]*\s*(?:sudo\s+)?(?:python[\d.]*\s+-m\s+)?(?:uv\s+)?(?:pip[\d.]*|conda|mamba|apt|apt-get|npm|poetry|uv)\s+"
    r"(?:-\S+\s+)*(?:install|add|download)\b"
)
_ASSIGNED = re.compile(r"[\w.,\s\[\]]+?=\s*([!%].*)")
_SHELL = re.compile(r"!|%%?(?:bash|sh|sx|system|script|cd|ls|cat|cp|mv|rm|mkdir)\b")
_HELP = re.compile(r"\?{1,2}\s*[\w.*]+\s*$|[\w.]+\s*\?{1,2}$")


def explained(source, filename):
    """Return the error for a cell that does not compile because of such a line, or None where it is another reason."""
    lines = _LINE_END.split(source)
    tried = 0
    for at, line in enumerate(lines):
        sentence = _sentence(line.strip())
        if sentence is None:
            continue
        if _begins_a_statement(lines[:at], line[: len(line) - len(line.lstrip())]):
            begin = len(line) - len(line.lstrip()) + 1
            place = (filename, at + 1, begin, line, at + 1, len(line.rstrip()) + 1)
            return SyntaxError(f"invalid syntax: {sentence}", place)
        tried += 1
        if tried == LINES_TRIED:
            return None
    return None


def _sentence(text):
    """What is told of a line, if it is one of those. None of them is Python where a statement may begin."""
    if _INSTALLING.match(text):
        return rlm_missing.NO_INSTALLING
    assigned = _ASSIGNED.match(text)
    if assigned:
        text = assigned[1]
    if _SHELL.match(text):
        return rlm_missing.NO_PROCESSES
    if text.startswith("%"):
        return rlm_missing.NO_NOTEBOOK
    return rlm_missing.NO_QUESTION if _HELP.match(text) else None


def _begins_a_statement(before, indent):
    """Whether a statement may begin behind these lines: not inside of a string, of parentheses, or behind a mistake."""
    return _parsed([*before, indent + "pass"]) is not False and _parsed([*before, indent + "!"]) is False


def _parsed(lines):
    """True if it is Python, None if it could become it, else False."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compile("\n".join(lines), "<lines>", "exec", flags=ast.PyCF_ONLY_AST | _ALLOW_INCOMPLETE_INPUT)
    except builtins._IncompleteInputError:
        return None
    except (SyntaxError, ValueError, RecursionError):
        return False
    return True


def display(*values, **ignored):
    """Show values as a notebook does, one below the other."""
    for value in values:
        print(rlm_display.show(value))


def add_sentence(error):
    """Tell what to do to who asked for what a notebook defines. Whoever looks first whether the name is there gets the
    answer that he would get anywhere, so there is no such function."""
    if type(error) is NameError and error.name == "get_ipython" and len(error.args) == 1:
        error.args = (f"{error.args[0]}: {rlm_missing.NO_NOTEBOOK}",)


def install():
    builtins.display = display

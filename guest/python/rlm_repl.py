"""The REPL: one persistent namespace, one cell at a time.

A cell's streams: 1 stdout, 2 stderr, 3 the shown last expression, 4 the error (JSON), 5 the
report (JSON), 6 the last expression as a value (`rlm_values`). The host bounds each of them again.
"""

import ast
import builtins
import inspect
import io
import json
import linecache
import random
import signal
import sys
import types

import _rlm
import rlm_asyncio
import rlm_awaits
import rlm_display
import rlm_inputs
import rlm_notebook
import rlm_pending
import rlm_queries
import rlm_threads
import rlm_tools
import rlm_values

STREAM_RESULT, STREAM_ERROR, STREAM_REPORT = 3, 4, 5
# How far a cell got, as the host reads it.
COMPILING, RUNNING = 1, 2
# What the host asks for beside a cell's text, as bits of one number.
VARIABLES, VALUE = 1, 2
CELLS_REMEMBERED = 64
VARIABLES_REPORTED = 200
_FLAGS = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
# First words that no expression has.
_STATEMENTS = frozenset(("import", "from", "pass", "del", "raise", "assert", "global", "for", "if"))
# Where a cell that awaits leaves the value of its last expression.
_LAST = "__rlm_last__"
NAME_CHARS = 200
DRAFT_CHARS = 32_768
RESERVE_BYTES = 1 << 20

# What is given a number of the host's before the first cell of a session and of a fork.
reseeds = [random.seed]
_dumps = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
main = types.ModuleType("__main__")
namespace = main.__dict__
# Of each input the identity: whether a cell has put something else in its place.
_inputs = {}
# Of which functions a cell was told that their names are its own now.
_told_names = set()
_cells = 0
_finished = False
# Whether the host wants the answer as a value, and says after the cell if it is none of those that it wants.
_typed = False
# The best answer so far, for a run that ends without one: what the host was not told yet, and was told last.
_draft = _draft_told = None
_told = False
_live = False
_progress = _rlm.progress
# Given back when a cell runs out of memory: without it the next cell, `del big`, could not even be parsed.
_reserve = None


class _Stream(io.RawIOBase):
    def __init__(self, number):
        self._number = number
        self.dead = False

    def writable(self):
        return True

    def fileno(self):
        return self._number

    def isatty(self):
        return False

    def write(self, data):
        return len(data) if self.dead else _rlm.emit(self._number, data)


def _text_stream(number, name):
    raw = _Stream(number)
    raw.name = f"<{name}>"
    _raws[name] = raw
    buffered = io.BufferedWriter(raw, 8192)
    return io.TextIOWrapper(buffered, encoding="utf-8", errors="backslashreplace", newline="\n")


# -- what a cell finds in its namespace ----------------------------------------------------------


def FINAL(value=None):
    """End the run with this answer."""
    global _finished, _draft
    if _is_answer(value):
        value = value["content"]
    text, as_json = _answer_form(value)
    try:
        rlm_queries.finish(text, as_json)
    except rlm_queries.LimitExceeded:
        _draft = rlm_display.cut(text, DRAFT_CHARS)
        raise
    _finished = True
    raise rlm_queries.Finished


def _answer_form(value):
    """The answer as text, and whether that is its JSON: where a value is wanted, all but a str goes as that."""
    for name, own in _SCAFFOLD.items():
        if value is own:
            raise ValueError(f"the value is the session's own function {name}, not an answer")
    if _typed:
        if issubclass(type(value), str):
            return str.__str__(value), False
        return rlm_values.answer_text(value), True
    if value is None or type(value) is str and not value.strip():
        raise ValueError(f"there is nothing to answer with: the value is {value!r}; FINAL(value) takes the answer")
    return str(value), False


def FINAL_VAR(name):
    """End the run with the value of a variable, given by its name or as it is.

    A str that is the name of a variable means that variable. Any other is an answer itself where a
    variable holds it, or where it could not be meant for a name.
    """
    if type(name) is str:
        key = name.strip().strip("'\"").strip()
        if key in namespace:
            name = namespace[key]
        elif _is_expression(key) and not any(type(v) is str and v == name for v in namespace.values()):
            raise NameError(
                f"FINAL_VAR: there is no variable {key!r}; SHOW_VARS() lists what there is. "
                "To answer with a value, call FINAL(value)"
            )
    FINAL(name)


def _is_expression(text):
    """Whether this is the name of something, or code that gives a value: no answer by itself."""
    if len(text) > NAME_CHARS:
        return False
    try:
        tree = ast.parse(text, mode="eval")
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return False
    return type(tree.body) is not ast.Constant


def SHOW_VARS():
    """The variables made so far: a dict of name to type name."""
    return {name: type(namespace[name]).__name__ for name in _variables()}


def _exit(code=None):
    raise SystemExit(code)


# What a cell assigns to any of these names stays, a wrapped llm_query as well as a number called budget; what it
# deletes comes back, except an input, which would have to be kept for that.
_SCAFFOLD = {
    "llm_query": rlm_queries.llm_query,
    "llm_query_batched": rlm_queries.llm_query_batched,
    "rlm_query": rlm_queries.rlm_query,
    "rlm_query_batched": rlm_queries.rlm_query_batched,
    "FINAL": FINAL,
    "FINAL_VAR": FINAL_VAR,
    "SHOW_VARS": SHOW_VARS,
    "CutAnswer": rlm_queries.CutAnswer,
    "QueryError": rlm_queries.QueryError,
    "LimitExceeded": rlm_queries.LimitExceeded,
    "BudgetExceeded": rlm_queries.BudgetExceeded,
    "ProviderError": rlm_queries.ProviderError,
    "QueryTimeout": rlm_queries.QueryTimeout,
    "QueryCancelled": rlm_queries.QueryCancelled,
    "DepthExceeded": rlm_queries.DepthExceeded,
    "ChildFailed": rlm_queries.ChildFailed,
    "budget": rlm_queries.budget,
}
_NAMES = frozenset(_SCAFFOLD)
# Under this name the host says which tools the session has; what they raise is theirs to name.
_TOOLS = "__rlm_tools__"
_TOOL_ERRORS = (rlm_queries.ToolError, rlm_queries.ToolArgumentError, rlm_queries.ToolTimeout)
_tools = {}
# Under this one it says that the answer is to be a value.
_OUTPUT = "__rlm_output__"
# Whatever a cell does to these, they come back before the next one: what the host finishes by, and the session's
# own functions whose names were taken. Without them nothing could ask or finish any more.
_reserved = {"__FINAL_VAR__": FINAL_VAR}


def _new_answer():
    return {"content": "", "ready": False}


def _is_answer(value):
    return type(value) is dict and len(value) == 2 and "content" in value and "ready" in value


def _variables():
    # Most of what a short session has is the scaffold's own, so that is looked at first.
    ours, other = _SCAFFOLD.get, object()
    return [
        name for name, value in namespace.items()
        if type(name) is str and ours(name, other) is not value
        and 0 < len(name) <= NAME_CHARS and name[0] != "_"
        and not (name in _inputs and _inputs[name] == id(value))
        and not (name == "answer" and _is_answer(value))
    ]


def _restore():
    """Bring back what cells need, the streams and `__main__`, whatever the last cell did."""
    sys.modules["__main__"] = main
    namespace["__name__"] = "__main__"
    namespace["__builtins__"] = builtins
    namespace.update(_reserved)
    # Here and below without a set of its own: a session copies every page that it writes.
    if not namespace.keys() >= _NAMES:
        for name in _NAMES.difference(namespace):
            namespace[name] = _SCAFFOLD[name]
    if "answer" not in namespace:
        namespace["answer"] = _new_answer()
    for number, name in ((1, "stdout"), (2, "stderr")):
        if not _usable(getattr(sys, name, None), name):
            _streams[name] = _text_stream(number, name)
            setattr(sys, name, _streams[name])


def _tell_of_names(variables):
    """Say once of each function that a cell took the name of, where the session's own is."""
    if _NAMES.isdisjoint(variables):
        return
    for name in sorted(_NAMES.intersection(variables)):
        reserved = f"__{name}__"
        if name == "budget" or reserved in _told_names:
            continue  # as good a name for a value as any: nobody needs to be told
        _told_names.add(reserved)
        _reserved[reserved] = namespace[reserved] = _SCAFFOLD[name]
        print(f"note: {name} is what you assigned, from now on; the session's own is {reserved}", file=sys.stderr)


def _usable(stream, name):
    try:
        return stream is not None and stream is _streams.get(name) and not stream.closed
    except ValueError:  # detached
        return False


_streams = {}
_raws = {}
sys.stdin = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
builtins.exit = builtins.quit = _exit


def set_context(name, value):
    """Bind an input of the run. Nothing else holds it, so a cell that drops it has its memory.

    Under a name that begins with `json:` comes the text of a value, after `input:` what is to be known of one
    that is a file of the host's, too; `live:` is no input, and says that the
    output of the next cell is wanted while it runs.
    """
    global _live, _typed
    kind, mark, rest = name.partition(":")
    if kind == "live" and mark:
        _live = True
        return
    about = None
    if kind == "input" and mark:
        about = rlm_inputs.read_document(rest)
        name, mark = about["name"], about["json"]
    elif mark:
        name = rest
    if mark:
        value = rlm_values.read(value)
    if name == _TOOLS:
        _set_tools(value)
        return
    if name == _OUTPUT:
        _typed = True
        return
    if about is not None:
        value = rlm_inputs.add(about, value)
    _inputs[name] = id(value)
    namespace[name] = value


def _set_tools(descriptions):
    """Give the session these functions of the host's, and take away those that it has no more.

    What a cell put in the place of one that stays, stays; a new one takes its name.
    """
    global _NAMES
    made = rlm_tools.install(descriptions)
    if made:
        made.update({error.__name__: error for error in _TOOL_ERRORS})
    for name, function in _tools.items():
        if name not in made:
            del _SCAFFOLD[name]
            _told_names.discard(f"__{name}__")
            _reserved.pop(f"__{name}__", None)
            namespace.pop(f"__{name}__", None)
        if name not in made or made[name] is not function:
            if namespace.get(name) is function:
                del namespace[name]
    for name, function in made.items():
        if name not in _tools or name not in namespace:
            namespace[name] = function
        if f"__{name}__" in _reserved:
            _reserved[f"__{name}__"] = namespace[f"__{name}__"] = function
    _SCAFFOLD.update(made)
    _NAMES = frozenset(_SCAFFOLD)
    _tools.clear()
    _tools.update(made)


def take_input(name):
    """Give up an input: what the host sent is of no use to a cell as a variable."""
    _inputs.pop(name, None)
    return namespace.pop(name)


def reset():
    """Back to the state of a fresh session. Used once, after the warm-up before the image is taken."""
    global _cells, _reserve
    _reserve = None
    namespace.clear()
    _inputs.clear()
    _told_names.clear()
    set_context("context", "")
    _streams.clear()
    linecache.cache.clear()
    rlm_asyncio.forget_cell_loop()
    _cells = 0
    _restore()


def settle():
    """The last step of all, after every object of the image was made immortal: this one must not be."""
    global _reserve
    _reserve = bytes(RESERVE_BYTES)


# -- one cell ----------------------------------------------------------------------------------


class CellInterrupted(KeyboardInterrupt):
    """The host ends the cell. A KeyboardInterrupt, so that asyncio and `except Exception` let it through."""


class FuelExhausted(CellInterrupted):
    """The cell's fuel is almost used up; what is left is for cleaning up."""


class DeadlineExceeded(CellInterrupted):
    """The cell's time is almost over; what is left is for cleaning up."""


class OutputExceeded(CellInterrupted):
    """The cell wrote more than it may; what it writes from now on is dropped."""


class RequestsExceeded(CellInterrupted):
    """The cell asks and asks, and catches every refusal; nothing that it asks is looked at any more."""


class CellCancelled(CellInterrupted):
    """Somebody outside cancelled the cell."""


_INTERRUPTS = {1: FuelExhausted, 2: DeadlineExceeded, 3: OutputExceeded, 4: CellCancelled, 5: RequestsExceeded}


def _on_interrupt(number, frame):
    # The host has written a reason and the flags of a signal into this guest's memory.
    raise _INTERRUPTS.get(_rlm.take_interrupt(), KeyboardInterrupt)


signal.signal(signal.SIGINT, _on_interrupt)


def run_cell(source, seed, report):
    """Run one cell; 0 if it ran to its end, 1 if it raised. Raises a MemoryError only, where there is no
    room to tell of it."""
    global _told, _reserve
    _told = False
    try:
        return _run_cell(source, seed, report)
    except BaseException as error:
        # An interrupt, or the end of the memory, between the cell's own code and the end of its report.
        if issubclass(type(error), MemoryError):  # asking the exception itself would run its code
            _reserve = None
        if not _told:
            _tell(error)
        return 1


def _tell(error):
    global _told
    _flush()
    name, message, text = rlm_display.describe(error)
    document = _document({"type": name, "message": message, "traceback": text})
    # Before it is sent: sent twice, both would be unreadable.
    _told = True
    _rlm.emit(STREAM_ERROR, document)


def _run_cell(source, seed, report):
    global _cells, _finished, _reserve, _live
    _finished = False
    status = 0
    try:
        if seed is not None:
            number = int.from_bytes(seed, "little")
            for reseed in reseeds:
                reseed(number)
        _cells += 1
        _restore()
        if _live:
            _write_by_lines(True)
        rlm_threads.begin_cell()
        rlm_queries.begin_cell(source)
        result = _executed(source, f"<cell {_cells}>")
        if result is not None:
            namespace["_"] = result
            _send(STREAM_RESULT, rlm_display.show(result))
            if report & VALUE:
                rlm_values.tell(result, rlm_values.SHOWN_ROOM)
        rlm_threads.end_cell()
        if not _finished:
            _finish_if_ready()
    except rlm_queries.Finished:
        rlm_pending.drop()
    except BaseException as error:
        status = 1
        if issubclass(type(error), MemoryError):
            _reserve = None
        _let_go(issubclass(type(error), Exception))
        rlm_notebook.add_sentence(error)
        _tell(error)
        error = None
    variables = None
    if report & VARIABLES:
        variables = _variables()
        _tell_of_names(variables)
    _flush()
    if _live:
        _live = False
        _write_by_lines(False)
    if status == 0 and _reserve is None:
        try:
            _reserve = bytes(RESERVE_BYTES)
        except MemoryError:
            pass
    if report & VARIABLES:
        _rlm.emit(STREAM_REPORT, _document(_report(variables)))
    return status


def _executed(source, filename):
    """Run the cell, and bring to its end what it began and waited for nowhere: from now on somebody may want it."""
    try:
        result = _execute(source, filename)
    except SystemExit as end:
        # How a program ends that has done what it was to do.
        if not (end.code is None or type(end.code) in (int, bool) and end.code == 0):
            raise
        result = None
    rlm_threads.settle()
    return result


def _let_go(by_itself):
    """The cell failed, `by_itself` or interrupted: what it began is not sent any more, and not paid for."""
    try:
        if not by_itself:
            rlm_pending.drop_kept()
        dropped = rlm_pending.drop()
        if dropped:
            told = f"note: of the queries that were begun, {dropped} were not sent: the cell failed first"
            print(told, file=sys.stderr)
    except BaseException:
        pass  # of the two errors, the cell's own is told


def _finish_if_ready():
    answer = namespace.get("answer")
    if type(answer) is not dict:
        return
    try:
        if not answer.get("ready"):
            return
        content = answer.get("content")
        if content is None or type(content) is str and not content.strip():
            answer["ready"] = False
            print('answer["ready"] was set while answer["content"] is empty: not finished. Set both.', file=sys.stderr)
            return
        FINAL(content)
    except rlm_queries.Finished:
        if _typed:  # the host may want another one, and no later cell is to give this one again
            answer["ready"] = False
    except rlm_queries.LimitExceeded:
        answer["ready"] = False
        raise
    except BaseException:
        # An answer that cannot be read would fail every later cell too.
        namespace["answer"] = _new_answer()
        raise


def _report(variables):
    """What the host is told after a cell: the variables, and the draft of an answer if there is a new one."""
    global _draft, _draft_told
    report = {"variables": variables[:VARIABLES_REPORTED]}
    answer = namespace.get("answer")
    if _draft is None and _is_answer(answer) and type(answer["content"]) in (str, int, float):
        _draft = rlm_display.cut(str(answer["content"]), DRAFT_CHARS)
    if _draft and _draft != _draft_told:
        report["draft"] = _draft_told = _draft
    _draft = None
    return report


def _execute(source, filename):
    global _reserve
    _progress(COMPILING)
    try:
        codes, in_loop = _compiled(source, filename)
    except MemoryError:
        # An earlier cell filled the memory and lived with it. This one may be the `del` that helps.
        if _reserve is None:
            raise
        _reserve = None
        codes, in_loop = _compiled(source, filename)
    _progress(RUNNING)
    if in_loop:
        return rlm_asyncio.run_cell_coroutine(_in_loop(codes))
    result = None
    for code in codes:
        result = eval(code, namespace)
    return result


async def _in_loop(codes):
    result = None
    for code in codes:
        result = eval(code, namespace)
        if code.co_flags & inspect.CO_COROUTINE:
            result = await result
    return namespace.pop(_LAST, result)


def _compiled(source, filename):
    """The cell's code objects, its statements and its last expression if it ends with one; and whether an
    event loop is to run them. What awaits is one piece: it runs in one task."""
    linecache.cache[filename] = (len(source), None, source.splitlines(True), filename)
    if _cells > CELLS_REMEMBERED:
        linecache.cache.pop(f"<cell {_cells - CELLS_REMEMBERED}>", None)
    asks, makes_tasks = rlm_awaits.concerns(source), "create_task(" in source
    simple = not asks and not makes_tasks and "\n" not in source and "=" not in source
    if simple and source.partition(" ")[0] not in _STATEMENTS:
        try:
            # The commonest cell is one expression, and needs no syntax tree to be taken apart.
            code = compile(source, filename, "eval", flags=_FLAGS, dont_inherit=True)
        except SyntaxError:
            pass
        else:
            return [code], bool(code.co_flags & inspect.CO_COROUTINE)
    try:
        tree = ast.parse(source, filename, "exec")
    except SyntaxError:
        told = rlm_notebook.explained(source, filename)
        if told is None:
            raise
        raise told from None
    if asks:
        rlm_awaits.rewrite(tree, namespace)
    makes_tasks = makes_tasks and rlm_awaits.makes_tasks(tree)
    last = None
    if tree.body and type(tree.body[-1]) is ast.Expr:
        last = tree.body[-1]
    if "await" in source or "async" in source:
        if last is not None:
            store = ast.copy_location(ast.Name(_LAST, ast.Store()), last)
            tree.body[-1] = ast.copy_location(ast.Assign([store], last.value), last)
        code = _compile(tree, filename, "exec")
        if makes_tasks or code.co_flags & inspect.CO_COROUTINE:
            return [code], True
    if last is not None:
        tree.body.pop()
    codes = [_compile(tree, filename, "exec")] if tree.body else []
    if last is not None:
        codes.append(_compile(ast.Expression(last.value), filename, "eval"))
    return codes, makes_tasks


def _compile(tree, filename, mode):
    return compile(tree, filename, mode, flags=_FLAGS, dont_inherit=True)


def _send(stream, text):
    _rlm.emit(stream, text.encode("utf-8", "backslashreplace"))


def _document(value):
    # Not escaped: a lone surrogate would be valid as \ud800 in JSON's grammar and refused by the host.
    return _dumps(value).encode("utf-8", "replace")


def _write_by_lines(wanted):
    """Whether a line goes to the host as soon as it is written."""
    for name in ("stdout", "stderr"):
        try:
            getattr(sys, name).reconfigure(line_buffering=wanted)
        except Exception:
            pass  # a stream of the cell's own


def _flush():
    for name in ("stdout", "stderr"):
        try:
            getattr(sys, name).flush()
        except BaseException:
            # What it still holds belongs to this cell; the next one gets a stream of its own.
            raw = _raws.get(name)
            if raw is not None:
                raw.dead = True
            _streams.pop(name, None)

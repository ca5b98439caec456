"""The REPL: one persistent namespace, one cell at a time.

A cell's streams: 1 stdout, 2 stderr, 3 the shown last expression, 4 the error (JSON), 5 the
report (JSON). The host bounds each of them again.
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
import rlm_display
import rlm_queries

STREAM_RESULT, STREAM_ERROR, STREAM_REPORT = 3, 4, 5
# How far a cell got, as the host reads it.
COMPILING, RUNNING = 1, 2
CELLS_REMEMBERED = 64
VARIABLES_REPORTED = 200
_FLAGS = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
# First words that no expression has.
_STATEMENTS = frozenset(("import", "from", "pass", "del", "raise", "assert", "global", "for", "if"))
NAME_CHARS = 200
RESERVE_BYTES = 1 << 20

_dumps = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
main = types.ModuleType("__main__")
namespace = main.__dict__
_contexts = {}
_cells = 0
_finished = False
_told = False
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


def FINAL(value=""):
    """End the run with this answer."""
    global _finished
    _finished = True
    rlm_queries.finish(value)
    raise rlm_queries.Finished


def FINAL_VAR(name):
    """End the run with the value of a variable, named by a str."""
    if type(name) is str:
        key = name.strip().strip("'\"")
        if key not in namespace:
            raise NameError(f"FINAL_VAR: there is no variable {key!r}; SHOW_VARS() lists what there is")
        name = namespace[key]
    FINAL(name)


def SHOW_VARS():
    """The variables made so far: a dict of name to type name."""
    return {name: type(namespace[name]).__name__ for name in _variables()}


def _exit(code=None):
    raise SystemExit(code)


_RESERVED = {
    "llm_query": rlm_queries.llm_query,
    "llm_query_batched": rlm_queries.llm_query_batched,
    "rlm_query": rlm_queries.rlm_query,
    "rlm_query_batched": rlm_queries.rlm_query_batched,
    "budget": rlm_queries.budget,
    "FINAL": FINAL,
    "FINAL_VAR": FINAL_VAR,
    "SHOW_VARS": SHOW_VARS,
    "QueryError": rlm_queries.QueryError,
    "BudgetExceeded": rlm_queries.BudgetExceeded,
    "ProviderError": rlm_queries.ProviderError,
    "QueryTimeout": rlm_queries.QueryTimeout,
    "QueryCancelled": rlm_queries.QueryCancelled,
    "DepthExceeded": rlm_queries.DepthExceeded,
    "ChildFailed": rlm_queries.ChildFailed,
}


def _variables():
    hidden = _RESERVED.keys() | _contexts.keys() | {"answer"}
    return [
        n for n in namespace
        if type(n) is str and 0 < len(n) <= NAME_CHARS and not n.startswith("_") and n not in hidden
    ]


def _restore():
    """Bring back the reserved names, the streams and `__main__`, whatever the last cell did."""
    sys.modules["__main__"] = main
    namespace["__name__"] = "__main__"
    namespace["__builtins__"] = builtins
    namespace.update(_RESERVED)
    namespace.update(_contexts)
    if type(namespace.get("answer")) is not dict:
        namespace["answer"] = {"content": "", "ready": False}
    for number, name in ((1, "stdout"), (2, "stderr")):
        if not _usable(getattr(sys, name, None), name):
            _streams[name] = _text_stream(number, name)
            setattr(sys, name, _streams[name])


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
    """Bind an input of the run; it comes back before each cell if a cell overwrites it."""
    _contexts[name] = value
    namespace[name] = value


def reset():
    """Back to the state of a fresh session. Used once, after the warm-up before the image is taken."""
    global _cells, _reserve
    _reserve = None
    namespace.clear()
    _contexts.clear()
    _contexts["context"] = ""
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


class CellCancelled(CellInterrupted):
    """Somebody outside cancelled the cell."""


_INTERRUPTS = {1: FuelExhausted, 2: DeadlineExceeded, 3: OutputExceeded, 4: CellCancelled}


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
    global _cells, _finished, _reserve
    _finished = False
    status = 0
    try:
        if seed is not None:
            random.seed(int.from_bytes(seed, "little"))
        _cells += 1
        _restore()
        result = _execute(source, f"<cell {_cells}>")
        if result is not None:
            namespace["_"] = result
            _send(STREAM_RESULT, rlm_display.show(result))
        if not _finished:
            _finish_if_ready()
    except rlm_queries.Finished:
        pass
    except BaseException as error:
        status = 1
        if issubclass(type(error), MemoryError):
            _reserve = None
        _tell(error)
        error = None
    _flush()
    if status == 0 and _reserve is None:
        try:
            _reserve = bytes(RESERVE_BYTES)
        except MemoryError:
            pass
    if report:
        _rlm.emit(STREAM_REPORT, _document({"variables": _variables()[:VARIABLES_REPORTED]}))
    return status


def _finish_if_ready():
    answer = namespace.get("answer")
    if type(answer) is not dict:
        return
    try:
        if answer.get("ready"):
            rlm_queries.finish(answer.get("content", ""))
    except BaseException:
        # An answer that cannot be read would fail every later cell too.
        namespace["answer"] = {"content": "", "ready": False}
        raise


def _execute(source, filename):
    global _reserve
    _progress(COMPILING)
    try:
        codes = _compiled(source, filename)
    except MemoryError:
        # An earlier cell filled the memory and lived with it. This one may be the `del` that helps.
        if _reserve is None:
            raise
        _reserve = None
        codes = _compiled(source, filename)
    _progress(RUNNING)
    result = None
    for code in codes:
        result = _evaluate(code)
    return result


def _compiled(source, filename):
    """The cell's code objects: its statements, and its last expression if it ends with one."""
    linecache.cache[filename] = (len(source), None, source.splitlines(True), filename)
    if _cells > CELLS_REMEMBERED:
        linecache.cache.pop(f"<cell {_cells - CELLS_REMEMBERED}>", None)
    if "\n" not in source and "=" not in source and source.partition(" ")[0] not in _STATEMENTS:
        try:
            # The commonest cell is one expression, and needs no syntax tree to be taken apart.
            code = compile(source, filename, "eval", flags=_FLAGS, dont_inherit=True)
        except SyntaxError:
            pass
        else:
            return [code]
    tree = ast.parse(source, filename, "exec")
    last = None
    if tree.body and type(tree.body[-1]) is ast.Expr:
        last = ast.Expression(tree.body.pop().value)
    codes = [_compile(tree, filename, "exec")] if tree.body else []
    if last is not None:
        codes.append(_compile(last, filename, "eval"))
    return codes


def _compile(tree, filename, mode):
    return compile(tree, filename, mode, flags=_FLAGS, dont_inherit=True)


def _evaluate(code):
    value = eval(code, namespace)
    if code.co_flags & inspect.CO_COROUTINE:
        return rlm_asyncio.run_cell_coroutine(value)
    return value


def _send(stream, text):
    _rlm.emit(stream, text.encode("utf-8", "backslashreplace"))


def _document(value):
    # Not escaped: a lone surrogate would be valid as \ud800 in JSON's grammar and refused by the host.
    return _dumps(value).encode("utf-8", "replace")


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

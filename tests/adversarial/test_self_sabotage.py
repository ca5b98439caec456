"""Code that takes its own REPL apart: it gets what it asked for, typed, in its own session only.

Nothing in the guest defends the guest from itself. Where the cell ends the guest, the session goes back
by itself; where it does not, the owner's snapshot from before still does.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from rlm_wasm.errors import GuestError
from rlm_wasm.protocol.cell import Cell
from rlm_wasm.results import CellResult
from rlm_wasm.vm import operations
from rlm_wasm.vm.checkpoints import Checkpoints
from rlm_wasm.vm.session import Operation, Session, drive
from tests.support.hostile_cells import (
    DONE,
    EXCEPTION,
    MEMORY_BYTES,
    TRAP,
    Hostile,
    assert_survived,
    assert_typed,
    run_hostile,
)
from tests.support.sandbox_facts import cell_limits, completed, echo

pytestmark = [pytest.mark.guest, pytest.mark.threat("T-022")]

# The REPL brings these back before each cell, or does not use them, or the guest ends and goes back.
REPAIRED = {
    "builtins are emptied": Hostile("import builtins\nbuiltins.__dict__.clear()", TRAP, restored=True),
    "builtins are None": Hostile(
        "import builtins\nfor n in list(vars(builtins)): setattr(builtins, n, None)", TRAP, restored=True
    ),
    "import is broken": Hostile("import builtins\nbuiltins.__import__ = lambda *a, **k: 1/0", DONE),
    "exceptions are ints": Hostile(
        "import builtins\nbuiltins.BaseException = builtins.MemoryError = int", DONE
    ),
    "classes cannot be made": Hostile("import builtins\nbuiltins.__build_class__ = None", DONE),
    "main is another": Hostile(
        "import sys\nsys.modules['__main__'] = None\n__name__ = 5\n__builtins__ = {}", DONE
    ),
    "main is deleted": Hostile("import sys, gc\ndel sys.modules['__main__']\ngc.collect()", DONE),
    "main is a hostile module": Hostile(
        "import sys, types\nclass M(types.ModuleType):\n def __getattribute__(s, n): raise SystemExit\n"
        "sys.modules['__main__'].__class__ = M",
        DONE,
    ),
    "variables that are no str": Hostile("globals()[5] = 6\nglobals()[None] = 1", DONE),
    "llm_query and FINAL are overwritten": Hostile("llm_query = FINAL = budget = print = None", DONE),
    "json is gone": Hostile(
        "import json\njson.JSONEncoder.encode = json.dumps = json.loads = None\n"
        "import rlm_queries; rlm_queries._loads = lambda x: 5\nllm_query('x')",
        (EXCEPTION, DONE),
    ),
    "traceback is gone": Hostile(
        "import traceback\ntraceback.StackSummary = traceback.format_exception_only = None\n1/0",
        EXCEPTION,
    ),
    "random cannot be seeded": Hostile("import random\nrandom.seed = None", DONE),
    "no module is known": Hostile("import sys\nsys.modules.clear()", DONE),
    "every module is None": Hostile("import sys\nfor n in list(sys.modules): sys.modules[n] = None", DONE),
    "every module is deleted": Hostile(
        "import sys, gc\nfor n in list(sys.modules):\n"
        " if n not in ('sys', 'builtins'): del sys.modules[n]\ngc.collect()",
        DONE,
    ),
    "nothing can be found": Hostile("import sys\nsys.path = sys.meta_path = sys.path_hooks = None", DONE),
    "codecs are gone": Hostile(
        "import codecs, encodings\ncodecs.register(lambda n: 1/0)\nencodings._cache.clear()", DONE
    ),
    "the REPL's module is emptied": Hostile(
        "import rlm_repl\nvars(rlm_repl).clear()", TRAP, restored=True, says="REPL is broken"
    ),
    "the way to the host is cut": Hostile(
        "import sys, _rlm\nvars(_rlm).clear()\ndel sys.modules['_rlm']", TRAP, restored=True
    ),
    "everything the collector knows is emptied": Hostile(
        "import gc\ngc.unfreeze()\nfor o in gc.get_objects():\n try: o.clear()\n except BaseException: pass",
        (TRAP, DONE),
        restored=None,
    ),
    "all that refers to a module is emptied": Hostile(
        "import gc\nfor o in gc.get_referrers(gc):\n try: o.clear()\n except Exception: pass",
        (TRAP, DONE),
        restored=None,
    ),
}

# These live on into the next cells, as the code wanted, until one of those does not even get to its code.
LASTING = {
    "len and type lie": "import builtins\nbuiltins.len = lambda x: -1\nbuiltins.type = lambda *a: 5",
    "an audit hook that raises": "import sys\ndef hook(*a): raise SystemExit\nsys.addaudithook(hook)",
    "an audit hook that loops": "import sys\ndef hook(*a):\n while True: pass\nsys.addaudithook(hook)",
    "an audit hook for the compiler": "import sys\ndef hook(e, a):\n if e == 'compile': raise KeyError\n"
    "sys.addaudithook(hook)",
    "run_cell is None": "import rlm_repl\nrlm_repl.run_cell = rlm_repl._run_cell = None",
    "nothing is restored": "import rlm_repl\nrlm_repl._restore = None",
    "restoring loops": "import rlm_repl\ndef r():\n while True: pass\nrlm_repl._restore = r",
    "cells do nothing": "import rlm_repl\nrlm_repl.run_cell.__code__ = (lambda a, b, c: 0).__code__",
    "cells end with a status of their own": "import rlm_repl\n"
    "rlm_repl.run_cell.__code__ = (lambda a, b, c: 10**30).__code__",
    "cells have one result": "import rlm_repl\nrlm_repl._execute.__code__ = (lambda s, f: 'always').__code__",
    "errors are not told": "import rlm_repl\nrlm_repl._tell = lambda e: None",
    "errors are nonsense": "import rlm_repl\nrlm_repl._dumps = lambda d: '{' * 1000",
    "no source is parsed": "import ast\nast.parse = lambda *a: 5",
    "parsing loops": "import ast\ndef p(*a):\n while True: pass\nast.parse = p",
    "the source cache is None": "import linecache\nlinecache.cache = None",
    "no stream can be made": "import io\nio.TextIOWrapper = io.BufferedWriter = None\n"
    "import sys; sys.stdout = None",
    "sys is emptied": "import sys\nvars(sys).clear()",
    "sys.modules is an int": "import sys\nsys.modules = 5",
    "the variables are gone": "globals().clear()",
    "every dict holds None": "import gc\ngc.unfreeze()\nfor o in gc.get_objects():\n"
    " if type(o) is dict:\n  for k in list(o): o[k] = None",
    "the REPL is loaded again": "import importlib, rlm_repl\nimportlib.reload(rlm_repl)",
    "the boot is run again": "import importlib, rlm_boot\nimportlib.reload(rlm_boot)",
}


# Of these nothing is noticed: the next cells run, and do what the code wanted.
UNNOTICED = {
    "len and type lie",
    "the variables are gone",
    "the REPL is loaded again",
    "the boot is run again",
}
# Noticed only by a cell that needs what is broken, and undone only as far as the cell before that one.
LATE = {"no source is parsed", "parsing loops", "errors are not told"}
# The first cell that meets them is not enough to tell: it could have been its own fault.
LIMITS = {"an audit hook that loops", "restoring loops"}


@pytest.fixture
def small_session(make_session: Callable[..., Session]) -> Session:
    return make_session(memory_bytes_max=MEMORY_BYTES)


@pytest.mark.parametrize("case", REPAIRED.values(), ids=REPAIRED.keys())
def test_the_next_cell_works_although_its_repl_was_taken_apart(small_session: Session, case: Hostile) -> None:
    assert_survived(small_session, case)


@pytest.mark.parametrize("source", LASTING.values(), ids=LASTING.keys())
def test_a_broken_repl_answers_in_types_and_a_snapshot_from_before_is_whole(
    small_session: Session, make_session: Callable[..., Session], source: str
) -> None:
    completed(small_session, "kept = 'here'")
    before = drive(small_session.snapshot())
    assert before is not None
    for cell in (source, "1", "1/0"):
        assert_typed(run_hostile(small_session, cell))
    small_session.restore(before)
    assert completed(small_session, "kept, 6 * 7").result == "('here', 42)"
    assert completed(make_session(), "6 * 7").result == "42"


@pytest.mark.parametrize("name", [name for name in LASTING if name not in UNNOTICED | LATE])
def test_what_an_earlier_cell_broke_is_undone_as_soon_as_a_cell_does_not_get_to_its_code(
    small_session: Session, name: str
) -> None:
    completed(small_session, "kept = 'here'")
    run_hostile(small_session, "kept = kept.upper()")
    run_hostile(small_session, LASTING[name])
    failed = [run_hostile(small_session, "x = 1") for _ in range(2 if name in LIMITS else 1)]
    for result in failed:
        assert_typed(result)
    after = run_hostile(small_session, "kept, 6 * 7")
    assert (after.outcome, after.result) == (DONE, "('HERE', 42)"), (name, failed)


@pytest.mark.parametrize("name", sorted(LATE))
def test_a_session_that_cannot_be_mended_is_given_up_and_not_kept_broken(
    small_session: Session, name: str
) -> None:
    """Two cells in a row that fail this way: it works again, or it is lost, and the run makes another."""
    completed(small_session, "kept = 'here'")
    run_hostile(small_session, LASTING[name])
    for _ in range(4):
        result = run_hostile(small_session, "x = 1\nraise KeyError(x)")
        assert_typed_or_lost(result)
        if small_session.lost or "KeyError" in str(result.error):
            break
    else:
        pytest.fail(f"still broken: {result}")


def assert_typed_or_lost(result: CellResult) -> None:
    assert isinstance(result.error, GuestError), result


def test_a_syntax_error_or_a_cell_that_runs_out_of_memory_undoes_nothing(small_session: Session) -> None:
    """What fails before it runs because of itself is no sign of a broken REPL."""
    completed(small_session, "kept = 'here'")
    long = "x" * 100_000 + "\n1" * 1000
    for source in ("def f(:", "x = '\0'", "(" * 1000, "'" + "\\N{nothing}" + "'", long):
        for _ in range(2):
            result = run_hostile(small_session, source)
            assert (result.outcome, result.session_state) == (EXCEPTION, "alive"), result
    assert completed(small_session, "kept").result == "'here'"


def test_a_cell_cancelled_before_it_began_undoes_no_other(small_session: Session) -> None:
    checkpoints = Checkpoints()

    def begin(source: str) -> Operation[object]:
        return operations.run_cell(small_session, Cell(source, cell_limits()), MEMORY_BYTES, checkpoints)

    for source in ("kept = 'here'", "other = 1"):
        drive(begin(source), echo)
    for _ in range(3):
        operation = begin("x = [" + "1+1," * 50_000 + "]")
        next(operation)
        small_session.interrupt()
        result = drive(operation)
        assert isinstance(result, CellResult)
        assert result.outcome == "cancelled"
    assert completed(small_session, "kept, other").result == "('here', 1)"


def test_without_checkpoints_a_session_with_a_broken_repl_is_lost(small_session: Session) -> None:
    completed(small_session, LASTING["run_cell is None"])
    cell = Cell("1", cell_limits())
    result = drive(operations.run_cell(small_session, cell, 0, Checkpoints()), echo)
    assert isinstance(result, CellResult)
    assert (result.outcome, result.session_state) == (TRAP, "lost")
    assert small_session.lost


def test_a_rebase_forgets_the_states_of_the_old_origin(small_session: Session) -> None:
    checkpoints = Checkpoints()

    def run(source: str) -> CellResult:
        cell = Cell(source, cell_limits())
        result = drive(operations.run_cell(small_session, cell, MEMORY_BYTES, checkpoints), echo)
        assert isinstance(result, CellResult)
        return result

    run("kept = 'here'")
    drive(operations.rebase(small_session, checkpoints))
    completed(small_session, LASTING["run_cell is None"])
    result = run("1")
    assert (result.outcome, result.session_state) == (TRAP, "lost")

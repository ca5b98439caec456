"""Objects whose own methods fight back where the REPL touches them: as a result, an error, an answer, a
stream, a hook. Each ends typed, and the next cell works.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from rlm_wasm.errors import GuestException
from rlm_wasm.vm.session import Session
from tests.support.hostile_cells import (
    DONE,
    EXCEPTION,
    FUEL_OUT,
    MEMORY_BYTES,
    MEMORY_OUT,
    TRAP,
    VIOLATION,
    Hostile,
    assert_survived,
    run_hostile,
)
from tests.support.sandbox_facts import Recorder, completed, run_cell

pytestmark = [pytest.mark.guest, pytest.mark.threat("T-022")]


def shown(methods: str) -> str:
    """Return a cell that shows an object of a class with these methods."""
    return f"class H:\n {methods}\nH()"


def raised(members: str, base: str = "Exception") -> str:
    """Return a cell that raises an exception of a class with these members."""
    return f"class E({base}):\n {members}\nraise E"


SWALLOW = "while True:\n   try:\n    while True: pass\n   except BaseException: pass"

RESULTS = {
    "repr raises SystemExit": Hostile(shown("def __repr__(s): raise SystemExit(3)"), EXCEPTION),
    "repr gives an int": Hostile(shown("def __repr__(s): return 5"), EXCEPTION, says="TypeError"),
    "repr gives a str that lies": Hostile(
        "class S(str):\n def __str__(s): return S('y')\n def __len__(s): return -5\n"
        " def encode(s, *a): return 7\n def __getitem__(s, i): raise MemoryError\n"
        + shown("def __repr__(s): return S('x' * 100)"),
        DONE,
    ),
    "repr loops": Hostile(shown("def __repr__(s):\n  while True: pass"), FUEL_OUT),
    "repr loops and swallows": Hostile(shown(f"def __repr__(s):\n  {SWALLOW}"), FUEL_OUT, restored=True),
    "repr leaves the process": Hostile(
        shown("def __repr__(s):\n  import os; os._exit(0)"), TRAP, restored=True, says="status 0"
    ),
    "repr shows itself": Hostile("x = []; x.append(x); x", DONE),
    "class raises": Hostile(shown("__class__ = property(lambda s: 1/0)"), DONE),
    "class lies": Hostile(shown("__class__ = property(lambda s: MemoryError)"), DONE),
    "every attribute raises": Hostile(shown("def __getattribute__(s, n): raise BaseException(n)"), DONE),
    "comparing and hashing raise": Hostile(
        shown("__eq__ = __bool__ = lambda *a: exit()\n def __hash__(s): return 1/0"), DONE
    ),
    "the metaclass raises": Hostile(
        "class M(type):\n def __getattribute__(c, n): raise BaseException\n"
        " __name__ = property(lambda c: 1/0)\n def __repr__(c): raise SystemExit\n"
        " __eq__ = __hash__ = __instancecheck__ = lambda *a: exit()\n"
        "class H(metaclass=M): pass\nH()",
        EXCEPTION,
    ),
    "half-made objects of every type": Hostile(
        "def walk(t, seen=set()):\n if t in seen: return\n seen.add(t)\n yield t\n"
        " for s in type.__subclasses__(t): yield from walk(s)\n"
        "for t in list(walk(object)):\n"
        " try: o = t.__new__(t); repr(o); hash(o); o == o; iter(o); str(o); dir(o)\n"
        " except BaseException: pass",
        DONE,
    ),
}

ERRORS = {
    "str raises SystemExit": Hostile(
        raised("def __str__(s): raise SystemExit"), EXCEPTION, says="could not be made"
    ),
    "str gives an int": Hostile(raised("__repr__ = __str__ = lambda s: 5"), EXCEPTION),
    "str loops": Hostile(raised("def __str__(s):\n  while True: pass"), (FUEL_OUT, EXCEPTION), restored=None),
    "str loops and swallows": Hostile(raised(f"def __str__(s):\n  {SWALLOW}"), FUEL_OUT, restored=True),
    "every attribute raises": Hostile(
        raised("def __getattribute__(s, n): raise E", "BaseException"), EXCEPTION
    ),
    "cause, context and traceback lie": Hostile(
        raised(
            "__cause__ = property(lambda s: 5)\n __context__ = property(lambda s: s)\n"
            " __suppress_context__ = property(lambda s: 1/0)\n __traceback__ = property(lambda s: 'no')"
        ),
        EXCEPTION,
    ),
    "a cause that always has a cause": Hostile(raised("__cause__ = property(lambda s: E())"), EXCEPTION),
    "a traceback without end": Hostile(
        "class T:\n tb_next = property(lambda s: s)\n tb_lineno = 1\n"
        " class tb_frame:\n  class f_code: co_filename = '<cell 9>'; co_name = 'x'\n"
        + raised("__traceback__ = T()"),
        (EXCEPTION, FUEL_OUT),
        restored=None,
    ),
    "a name of ten megabytes": Hostile(
        "class M(type): __name__ = 'x' * 10**7\nclass E(Exception, metaclass=M): pass\nraise E", EXCEPTION
    ),
    "a message that is no UTF-8": Hostile("raise ValueError('\\ud800')", EXCEPTION, says="?"),
    "notes without end": Hostile(
        "class N(list):\n def __iter__(s):\n  while True: yield 'x'\n"
        "e = ValueError('x')\ne.__notes__ = N()\nraise e",
        (EXCEPTION, FUEL_OUT),
        restored=None,
    ),
    "a syntax error that lies": Hostile(
        "e = SyntaxError('x')\ne.text = 'a' * 10**6\ne.lineno = 10**30\ne.offset = -5\n"
        "e.filename = object()\nraise e",
        EXCEPTION,
    ),
    "suggestions that loop": Hostile(
        "class O:\n def __dir__(s):\n  while True: pass\nO().x", (EXCEPTION, FUEL_OUT), restored=None
    ),
    "GeneratorExit": Hostile("raise GeneratorExit", EXCEPTION),
    "KeyboardInterrupt": Hostile("raise KeyboardInterrupt", EXCEPTION),
    "the REPL's own way to end a cell": Hostile("import rlm_queries\nraise rlm_queries.Finished", DONE),
    "hooks for exceptions": Hostile(
        "import sys\nsys.excepthook = sys.unraisablehook = sys.displayhook = lambda *a: sys.exit()\n1/0",
        EXCEPTION,
        says="ZeroDivisionError",
    ),
}

ANSWERS = {
    "its class is not dict": Hostile(
        "class A(dict):\n def get(s, *a): raise SystemExit\nanswer = A(ready=True)", DONE
    ),
    "its content cannot be read": Hostile(
        "class C:\n def __str__(s): raise SystemExit\nanswer['content'] = C(); answer['ready'] = True",
        EXCEPTION,
    ),
    "its content is read for ever": Hostile(
        "class C:\n def __str__(s):\n  while True: pass\nanswer['content'] = C(); answer['ready'] = True",
        FUEL_OUT,
    ),
    "its readiness cannot be told": Hostile(
        "class C:\n def __bool__(s): raise MemoryError\nanswer['ready'] = C()", MEMORY_OUT
    ),
    "its keys compare for ever": Hostile(
        "class K(str):\n def __eq__(s, o):\n  while True: pass\n def __hash__(s): return hash('ready')\n"
        "answer.clear(); answer[K('ready')] = 1",
        FUEL_OUT,
    ),
    "its content is too large": Hostile(
        "answer['content'] = 'x' * 1_000_000; answer['ready'] = True", EXCEPTION, says="LimitExceeded"
    ),
    "its content is no UTF-8": Hostile("answer['content'] = '\\ud800'; answer['ready'] = True", DONE),
    "it hides behind a hostile variable name": Hostile(
        "class K(str):\n def __eq__(s, o): raise SystemExit(1)\n def __hash__(s): return hash('answer')\n"
        "globals()[K('answer')] = 1",
        EXCEPTION,
    ),
    "FINAL gets what cannot be read": Hostile(
        "class C:\n def __str__(s): return 'a' * 10**7\nFINAL(C())",
        (MEMORY_OUT, EXCEPTION, FUEL_OUT),
        restored=None,
    ),
    "a prompt that is a str of its own kind": Hostile(
        "class S(str):\n def __str__(s): return s\n def encode(s, *a): return b'no'\nllm_query(S('x'))", DONE
    ),
}

STREAMS = {
    "stdout is closed": Hostile("import sys\nsys.stdout.close()\nprint('x')", EXCEPTION),
    "stdout and stderr are None": Hostile("import sys\nsys.stdout = sys.stderr = None\nprint('x')", DONE),
    "both are detached": Hostile("import sys\nsys.stdout.detach()\nsys.stderr.detach()", DONE),
    "the buffer below is closed": Hostile("import sys\nsys.stdout.buffer.raw.close()\nprint('x')", EXCEPTION),
    "stdout raises what it likes": Hostile(
        "import sys\nclass S:\n def write(s, x): raise SystemExit(1)\n flush = property(lambda s: 1/0)\n"
        " def __getattr__(s, n): raise KeyboardInterrupt\nsys.stdout = sys.stderr = S()\nprint('x')",
        EXCEPTION,
    ),
    "stdout prints to itself": Hostile(
        "import sys\nclass S:\n def write(s, x): print(x)\n def flush(s): s.flush()\n"
        "sys.stdout = S()\nprint('x')",
        EXCEPTION,
        says="RecursionError",
    ),
    "every descriptor is closed": Hostile(
        "import os\nfor i in range(100):\n try: os.close(i)\n except OSError: pass", DONE
    ),
    "a buffer writes while it is written": Hostile(
        "import _rlm\nclass B:\n def __buffer__(s, f):\n  _rlm.emit(1, b'in')\n"
        "  return memoryview(b'out')\n_rlm.emit(1, B())",
        DONE,
    ),
    "streams nobody has": Hostile(
        "import _rlm\nfor i in range(-5, 300): _rlm.emit(i, b'x')", VIOLATION, restored=True
    ),
}

HOOKS = {
    "settrace raises": Hostile(
        "import sys\ndef t(*a): raise SystemExit(1)\nsys.settrace(t)\n(lambda: 1)()", EXCEPTION
    ),
    "settrace loops": Hostile(
        "import sys\ndef t(*a):\n while True: pass\nsys.settrace(t)\n(lambda: 1)()", FUEL_OUT, restored=None
    ),
    "settrace is left on": Hostile("import sys\ndef t(*a): return t\nsys.settrace(t)", DONE),
    "setprofile raises": Hostile("import sys\ndef t(*a): raise KeyError\nsys.setprofile(t)", EXCEPTION),
    "setprofile loops and swallows": Hostile(
        f"import sys\ndef t(*a):\n  {SWALLOW}\nsys.setprofile(t)", FUEL_OUT, restored=True
    ),
    "monitoring raises in the REPL": Hostile(
        "import sys\nm = sys.monitoring\nm.use_tool_id(2, 'x')\ndef cb(*a): raise KeyError\n"
        "m.register_callback(2, m.events.PY_START, cb)\nm.set_events(2, m.events.PY_START)",
        (TRAP, EXCEPTION, DONE),
        restored=None,
    ),
    "monitoring loops": Hostile(
        "import sys\nm = sys.monitoring\nm.use_tool_id(2, 'x')\ndef cb(*a):\n while True: pass\n"
        "m.register_callback(2, m.events.CALL, cb)\nm.set_events(2, m.events.CALL)\nint()",
        FUEL_OUT,
        restored=None,
    ),
    "a line that a tracer jumps to": Hostile(
        "import sys\ndef t(f, e, a):\n if e == 'line': f.f_lineno = 1\n return t\n"
        "def f():\n x = 1\n return x\nsys.settrace(t); f()",
        EXCEPTION,
    ),
    "atexit, run by hand": Hostile(
        "import atexit, sys\natexit.register(sys.exit, 3)\natexit._run_exitfuncs()", DONE
    ),
    "a handler for every signal": Hostile(
        "import signal\nfor i in range(1, 65):\n try: signal.signal(i, signal.SIG_IGN)\n"
        " except (OSError, ValueError): pass",
        DONE,
    ),
    "a handler that answers the interrupt": Hostile(
        "import signal\nsignal.signal(signal.SIGINT, lambda *a: 1/0)\nwhile True: pass",
        EXCEPTION,
        says="ZeroDivisionError",
    ),
    "SIGINT raised by hand": Hostile("import signal\nsignal.raise_signal(signal.SIGINT)", EXCEPTION),
    "SIGTERM raised by hand": Hostile("import signal\nsignal.raise_signal(15)", TRAP, restored=True),
    "a thread": Hostile("import _thread\n_thread.start_new_thread(print, ())", DONE),
    "ten thousand threads": Hostile(
        "import threading\nfor _ in range(10_000): threading.Thread(target=int).start()", DONE
    ),
    "collector callbacks that raise": Hostile(
        "import gc\ngc.callbacks.append(lambda *a: 1/0)\ngc.collect()", DONE
    ),
    "collector callbacks that loop": Hostile(
        "import gc\ndef cb(*a):\n while True: pass\ngc.callbacks.append(cb)\ngc.collect()",
        (FUEL_OUT, DONE),
        restored=None,
    ),
    "collector callbacks that are none": Hostile(
        "import gc\ngc.callbacks[:] = [None, 5, gc]\ngc.collect()", DONE
    ),
    "the collector at every object": Hostile(
        "import gc\ngc.set_threshold(1, 1, 1)\nx = [[] for _ in range(100_000)]", (DONE, FUEL_OUT)
    ),
    "faulthandler's own crash": Hostile("import faulthandler\nfaulthandler._sigsegv()", TRAP, restored=True),
    "faulthandler's read at zero": Hostile(
        "import faulthandler\nfaulthandler._read_null()", (DONE, TRAP), None
    ),
    "abort": Hostile("import os\nos.abort()", TRAP, restored=True),
    "exit of the process": Hostile("import os\nos._exit(0)", TRAP, restored=True, says="status 0"),
}

# CPython promises nothing for any of these. Inside the guest's memory they may do what they want.
ANYTHING = (DONE, EXCEPTION, TRAP, FUEL_OUT, MEMORY_OUT)
MEMORY_GAMES = {
    "opcodes that are none": "f = lambda: 0\n"
    "f.__code__ = f.__code__.replace(co_code=b'\\x7f\\xff' * 50, co_stacksize=1)\nf()",
    "constants that are not there": "f = lambda: 1\n"
    "f.__code__ = f.__code__.replace(co_code=bytes([101, 200, 83, 200, 100, 250] * 8), co_consts=())\nf()",
    "random bytecode": "import random, types\nrandom.seed(5)\ndef f(a, b): return [a + b for a in range(b)]\n"
    "while True:\n c = bytearray(f.__code__.co_code)\n c[random.randrange(len(c))] = random.randrange(256)\n"
    " try: types.FunctionType(f.__code__.replace(co_code=bytes(c)), {})(1, 2)\n except Exception: pass",
    "marshalled code with flipped bits": "import marshal, random\nrandom.seed(7)\n"
    "d = marshal.dumps((lambda: 0).__code__)\nfor i in range(3000):\n e = bytearray(d)\n"
    " e[random.randrange(len(e))] ^= 1 << random.randrange(8)\n"
    " try: exec(marshal.loads(bytes(e)))\n except BaseException: pass",
    # A freed buffer that a memoryview still sees: the known way to an object made of chosen bytes.
    "a list of invented pointers": "import io\nclass File(io.RawIOBase):\n def readinto(self, buf):\n"
    "  global view\n  view = buf\n def readable(self): return True\nf = io.BufferedReader(File())\n"
    "f.read(1)\ndel f\nview = view.cast('P')\nL = [None] * len(view)\n"
    "for i in range(len(view)): view[i] = 0x41414141\nL",
    "freed memory overwritten": "import gc, io\nclass File(io.RawIOBase):\n def readinto(self, buf):\n"
    "  global view\n  view = buf\n def readable(self): return True\nf = io.BufferedReader(File())\n"
    "f.read(1)\ndel f\ngc.collect()\nx = [bytearray(8192) for _ in range(50)]\n"
    "view[:] = b'\\xff' * len(view)\nx = None\n[object() for _ in range(10000)]",
    "an index that frees what it indexes": "b = bytearray(100)\nm = memoryview(b)\nclass U:\n"
    " def __index__(self):\n  m.release()\n  b.clear()\n  return 1\nm[U()] = 5",
    "an item that empties its array": "import array\na = array.array('b', [1] * 100)\nclass X:\n"
    " def __index__(s):\n  del a[:]\n  return 1\na[50] = X()",
    "a sort whose key empties the list": "x = list(range(1000))\nx.sort(key=lambda v: x.clear() or v)",
    "a comparison that empties the dict": "class K:\n def __hash__(s): return 1\n"
    " def __eq__(s, o): d.clear(); return False\nd = {}\nfor _ in range(100): d[K()] = 1",
    "an order of bases that lies": "class M(type):\n def mro(c): return [object] * 1000\n"
    "class X(metaclass=M): pass\nX()",
    "a generator whose code is another's": "def g():\n yield 1\n yield 2\nx = g(); next(x)\n"
    "g.__code__ = (lambda: 0).__code__\nx.gi_frame.f_lineno",
}


def named(cases: dict[str, Hostile]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", cases.values(), ids=cases.keys())


@pytest.fixture
def small_session(make_session: Callable[..., Session]) -> Session:
    return make_session(memory_bytes_max=MEMORY_BYTES)


@named(RESULTS)
def test_a_hostile_last_expression_harms_nothing(small_session: Session, case: Hostile) -> None:
    assert_survived(small_session, case)


@named(ERRORS)
def test_a_hostile_exception_is_still_told(small_session: Session, case: Hostile) -> None:
    assert_survived(small_session, case)


@named(ANSWERS)
def test_a_hostile_answer_fails_its_own_cell_only(small_session: Session, case: Hostile) -> None:
    assert_survived(small_session, case)


@named(STREAMS)
def test_the_next_cell_can_write_whatever_became_of_the_streams(
    small_session: Session, case: Hostile
) -> None:
    assert_survived(small_session, case)
    assert (
        completed(small_session, "import sys; print('out'); print('err', file=sys.stderr)").stdout == "out\n"
    )


@named(HOOKS)
def test_hooks_and_signals_do_not_outlive_the_limits(small_session: Session, case: Hostile) -> None:
    assert_survived(small_session, case)


@pytest.mark.threat("T-001")
@pytest.mark.parametrize("source", MEMORY_GAMES.values(), ids=MEMORY_GAMES.keys())
def test_guest_memory_broken_from_inside_stays_the_guests_own_trouble(
    small_session: Session, make_session: Callable[..., Session], source: str
) -> None:
    other = make_session()
    completed(other, "mine = [object() for _ in range(1000)]")
    assert_survived(small_session, Hostile(source, ANYTHING, restored=None))
    assert completed(other, "len(mine)").result == "1000"


def test_an_exception_that_only_has_the_name_of_a_limit_is_the_guests_own(small_session: Session) -> None:
    for name in ("FuelExhausted", "DeadlineExceeded", "OutputExceeded", "CellCancelled"):
        result = run_hostile(small_session, f"class {name}(Exception): pass\nraise {name}('no')")
        assert isinstance(result.error, GuestException)
        assert result.error.type_name == name


def test_an_answer_that_could_not_be_read_can_be_given_again(small_session: Session) -> None:
    host = Recorder()
    run_hostile(small_session, ANSWERS["its content cannot be read"].source)
    run_cell(small_session, "answer['content'] = 'better'; answer['ready'] = True", host)
    assert host.requests == [{"type": "finish", "answer": "better"}]

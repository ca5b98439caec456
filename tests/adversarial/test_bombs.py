"""Cells that eat memory, fuel, output or stack in every way we know: each ends typed, the next one works.

Where the guest is lost with the cell, the session goes back to the state before it, as in a run.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from rlm_wasm.vm.session import Session
from tests.support.hostile_cells import (
    DEADLINE,
    DONE,
    EXCEPTION,
    FUEL_OUT,
    MEMORY_BYTES,
    MEMORY_OUT,
    OUTPUT_OUT,
    TRAP,
    VIOLATION,
    Hostile,
    assert_survived,
)

pytestmark = [pytest.mark.guest, pytest.mark.threat("T-002", "T-003", "T-004", "T-006")]

MEMORY = {
    "tuples in a list": Hostile("x = []\nwhile True: x.append((1, 2, [3]))", MEMORY_OUT),
    "a linked list": Hostile("x = None\nwhile True: x = [x]", MEMORY_OUT),
    "a doubling str": Hostile("s = 'ab'\nwhile True: s += s", MEMORY_OUT),
    "a growing bytearray": Hostile("b = bytearray()\nwhile True: b += b'x' * 1_000_000", MEMORY_OUT),
    "a bytearray of a gigabyte": Hostile("bytearray(10**9)", MEMORY_OUT),
    "a bytearray beyond any address": Hostile("bytearray(2**40)", EXCEPTION, says="OverflowError"),
    "an array beyond the cap": Hostile("import array\narray.array('i', [0]) * (10**9)", MEMORY_OUT),
    "a list of a range beyond any index": Hostile("list(range(10**10))", EXCEPTION, says="OverflowError"),
    "a tuple of a range": Hostile("tuple(range(10**8))", MEMORY_OUT),
    "a set of a range": Hostile("set(range(10**9))", MEMORY_OUT),
    "a sorted range": Hostile("sorted(range(10**8), key=lambda x: -x)", MEMORY_OUT),
    "a dict of tuples": Hostile(
        "d = {}\ni = 0\nwhile True:\n d[i, i + 1] = (i,) * 10; i += 1", (FUEL_OUT, MEMORY_OUT)
    ),
    "all permutations": Hostile("import itertools\nlist(itertools.permutations(range(12)))", MEMORY_OUT),
    "a tee that is never read": Hostile(
        "import itertools\na, b = itertools.tee(itertools.count())\nfor _ in a: pass", MEMORY_OUT
    ),
    "generators kept half-read": Hostile(
        "x = []\ndef g():\n yield\nwhile True:\n i = g(); next(i); x.append(i)", (FUEL_OUT, MEMORY_OUT)
    ),
    "coroutines never awaited": Hostile("async def c(): pass\nfor _ in range(3000): c()", DONE),
    "interned strings": Hostile(
        "import sys\nfor i in range(10**7): sys.intern('s%d' % i)", (FUEL_OUT, MEMORY_OUT)
    ),
    "attributes without end": Hostile(
        "class A: pass\na = A()\nfor i in range(10**7): setattr(a, 'n%d' % i, None)", (FUEL_OUT, MEMORY_OUT)
    ),
    "types without end": Hostile(
        "x = []\nfor i in range(10**7): x.append(type('T', (), {}))", (FUEL_OUT, MEMORY_OUT)
    ),
    "variables without end": Hostile("for i in range(100_000): globals()['v%d' % i] = i", DONE),
    "cycles with the collector off": Hostile(
        "import gc\ngc.disable()\nwhile True:\n x = []; x.append(x)", MEMORY_OUT
    ),
    "a format width": Hostile("'{:>1000000000}'.format(5)", MEMORY_OUT),
    "a percent width": Hostile("'%1000000000d' % 5", MEMORY_OUT),
    "a struct of a gigabyte": Hostile("import struct\nstruct.pack('1000000000x')", MEMORY_OUT),
    "wide characters": Hostile("'\\U0010ffff' * 10**8", MEMORY_OUT),
    "a str that doubles in upper case": Hostile("('ß' * 2 * 10**7).upper()", MEMORY_OUT),
    "a compressed bomb": Hostile(
        "import zlib\nb = zlib.compress(b'\\0' * 10**7)\nwhile True: b = zlib.decompress(b) * 9",
        (FUEL_OUT, MEMORY_OUT, EXCEPTION),
        restored=None,  # zlib looks at no interrupt: the hard limit may come first
    ),
    "a nested entity bomb": Hostile(
        "import xml.etree.ElementTree as e\ndefs = ''.join('<!ENTITY %s \"%s\">' % (chr(98 + i), "
        "('&%s;' % chr(97 + i)) * 10) for i in range(12))\n"
        "e.fromstring('<!DOCTYPE l [<!ENTITY a \"ha\">' + defs + ']><l>&l;</l>')",
        (FUEL_OUT, MEMORY_OUT, EXCEPTION),
        restored=None,
    ),
    "a pickle that asks for a huge memo": Hostile(
        "import pickle\npickle.loads(b'\\x80\\x04N' + b'r\\xff\\xff\\xff\\x1f.')", (MEMORY_OUT, EXCEPTION)
    ),
    "a prompt of ten megabytes": Hostile("llm_query('x' * 10_000_000)", (MEMORY_OUT, VIOLATION), None),
}

FULL = {
    "it meets the cap and goes on": Hostile(
        "x = []\ntry:\n while True: x.append(bytearray(1000))\nexcept MemoryError: pass\nlen(x) > 0",
        (DONE, MEMORY_OUT),
    ),
    "it swallows every MemoryError": Hostile(
        "x = []\nwhile True:\n try: x.append([1] * 100)\n except MemoryError: pass", (FUEL_OUT, MEMORY_OUT)
    ),
    "it fills the last bytes it can get": Hostile(
        "x = []\nn = 2**24\nwhile n > 1:\n try: x.append(bytearray(n))\n except MemoryError: n //= 2", DONE
    ),
    "nothing at all is left": Hostile(
        "x = []\nfor n in (10**7, 10**6, 10**5, 10**4, 10**3, 100, 10):\n"
        " try:\n  while True: x.append(b'a' * n)\n except MemoryError: pass\n"
        "try:\n while True: x = (x,)\nexcept MemoryError: pass",
        (TRAP, MEMORY_OUT, DONE),
        restored=None,
    ),
    "finalizers that need memory when there is none": Hostile(
        "class D:\n def __del__(self): bytearray(10**8)\nx = [D() for _ in range(100)]\n"
        "while True: x.append(bytearray(10**6))",
        MEMORY_OUT,
    ),
    "each handler asks for more": Hostile(
        "def f():\n try: bytearray(10**8)\n except MemoryError: f()\nf()", (EXCEPTION, MEMORY_OUT)
    ),
    "the shown result does not fit": Hostile(
        "class H:\n def __repr__(s): return 'x' * 60_000_000\nH()", MEMORY_OUT
    ),
}

COMPUTING = {
    "nested quantifiers": Hostile("import re\nre.match(r'(a*)*b', 'a' * 60)", FUEL_OUT),
    "nested quantifiers in a sub": Hostile("import re\nre.sub(r'(x+x+)+y', '', 'x' * 50)", FUEL_OUT),
    "a pattern nested too deep": Hostile(
        "import re\nre.compile('(' * 10_000 + ')' * 10_000)", EXCEPTION, says="RecursionError"
    ),
    "patterns without end": Hostile("import re\nfor i in range(10**6): re.compile('x%d' % i)", FUEL_OUT),
    "a power of two": Hostile("2 ** (2 ** 40)", (FUEL_OUT, MEMORY_OUT)),
    "a power of powers": Hostile("9 ** 9 ** 9", (FUEL_OUT, MEMORY_OUT)),
    "a shift": Hostile("1 << (10 ** 10)", MEMORY_OUT),
    "a factorial": Hostile("import math\nmath.factorial(10**7)", FUEL_OUT),
    "digits of a large integer": Hostile("str(10 ** 100_000)", EXCEPTION, says="ValueError"),
    "digits without the limit": Hostile(
        "import sys\nsys.set_int_max_str_digits(0)\nstr(7 ** 3_000_000)", FUEL_OUT
    ),
    "an integer out of digits": Hostile(
        "import sys\nsys.set_int_max_str_digits(0)\nint('7' * 10_000_000)", FUEL_OUT
    ),
    "an exact fraction": Hostile("import fractions\nfractions.Fraction('1e1000000000')", FUEL_OUT),
    "equal hashes": Hostile(
        "class K:\n def __init__(s, i): s.i = i\n def __hash__(s): return 1\n"
        " def __eq__(s, o): return s.i == o.i\nd = {K(i): i for i in range(100_000)}",
        FUEL_OUT,
    ),
    # C loops that look for no signal end at the hard limit, and cost the guest.
    "a sum that never looks up": Hostile("sum(range(10**12))", FUEL_OUT, restored=True),
    "an iterator eaten in C": Hostile(
        "import collections, itertools\ncollections.deque(itertools.repeat(1), maxlen=0)",
        FUEL_OUT,
        restored=True,
    ),
    "tasks that only yield": Hostile(
        "import asyncio\nasync def c():\n while True: await asyncio.sleep(0)\n"
        "await asyncio.gather(*(c() for _ in range(1000)))",
        FUEL_OUT,
    ),
    "waiting for what never comes": Hostile(
        "import asyncio\nawait asyncio.Future()", EXCEPTION, says="deadlock"
    ),
    "a lock taken twice": Hostile(
        "import threading\nl = threading.Lock(); l.acquire(); l.acquire()", (TRAP, EXCEPTION), restored=None
    ),
    "a queue nobody fills": Hostile("import queue\nqueue.Queue().get()", (TRAP, EXCEPTION), restored=None),
    "a sleep of a fortnight": Hostile("import time\ntime.sleep(10**6)", DEADLINE),
    "requests without end": Hostile(
        "while True:\n try: llm_query('x')\n except BaseException: pass", VIOLATION, restored=True
    ),
}

OUTPUT = {
    "a million prints": Hostile("for i in range(10**6): print(i)", OUTPUT_OUT),
    "a million prints of nothing": Hostile("for i in range(10**6): print(end='')", FUEL_OUT),
    "a million flushes": Hostile("for i in range(10**6): print(flush=True)", (OUTPUT_OUT, FUEL_OUT)),
    "exceptions nobody sees": Hostile(
        "class D:\n def __del__(self): raise ValueError('no')\nfor _ in range(2000): D()", OUTPUT_OUT
    ),
    "a message of twenty megabytes": Hostile(
        "raise ValueError('x' * 20_000_000)", EXCEPTION, says="chars..."
    ),
    "notes of twenty megabytes": Hostile(
        "e = ValueError('x')\ne.__notes__ = ['n' * 10**6] * 20\nraise e", EXCEPTION
    ),
    "a traceback of 900 frames": Hostile(
        "def f(n):\n if n == 0: raise ValueError('deep')\n f(n - 1)\nf(900)", EXCEPTION, says="deep"
    ),
    "a chain of 400 exceptions": Hostile(
        "def f(n):\n try: raise ValueError(n)\n except ValueError as e:\n  if n: f(n - 1)\n"
        "  raise KeyError(n)\nf(400)",
        EXCEPTION,
    ),
    "a chain that bites its tail": Hostile(
        "a, b = ValueError(1), ValueError(2)\na.__context__ = b; b.__context__ = a\nraise a", EXCEPTION
    ),
    "groups in groups": Hostile(
        "e = ValueError()\nfor _ in range(20_000): e = ExceptionGroup('g', [e])\nraise e",
        (EXCEPTION, FUEL_OUT),
        restored=None,
    ),
    "a codec handler that multiplies": Hostile(
        "import codecs\ncodecs.register_error('backslashreplace', lambda e: ('x' * 10**7, e.end))\n"
        "print('\\ud800')",
        (OUTPUT_OUT, DONE),
    ),
    "a codec handler that goes back": Hostile(
        "import codecs\ncodecs.register_error('backslashreplace', lambda e: ('', 0))\nprint('\\ud800')",
        (DONE, FUEL_OUT),
        restored=None,
    ),
}

FINALIZERS = {
    "it makes another": Hostile("class D:\n def __del__(self): D()\nD()", (DONE, EXCEPTION, FUEL_OUT)),
    "it resurrects": Hostile(
        "class D:\n def __del__(self):\n  global k; k = self\nfor _ in range(10**5): k = D(); del k", DONE
    ),
    "it recurses": Hostile(
        "class D:\n def __del__(self):\n  def f(): f()\n  f()\nfor _ in range(20): D()", DONE
    ),
    "it loops": Hostile(
        "class D:\n def __del__(self):\n  while True: pass\nx = D(); del x", (DONE, FUEL_OUT), restored=None
    ),
    "a chain of 200,000": Hostile(
        "class N:\n def __init__(s, n): s.n = n\n def __del__(s): pass\n"
        "x = None\nfor _ in range(200_000): x = N(x)\ndel x",
        (DONE, FUEL_OUT),
        restored=None,
    ),
    "it exits": Hostile("import sys\nclass D:\n def __del__(s): sys.exit(3)\nD(); 5", DONE),
    "it aborts": Hostile(
        "import os\nclass D:\n def __del__(s): os.abort()\nx = D(); del x", TRAP, restored=True
    ),
    "a weak reference's callback loops": Hostile(
        "import weakref\nclass O: pass\ndef cb(r):\n while True: pass\n"
        "o = O(); r = weakref.ref(o, cb); del o",
        (DONE, FUEL_OUT),
        restored=None,
    ),
    "a generator that will not close": Hostile(
        "def g():\n while True:\n  try: yield\n  except BaseException: pass\ni = g(); next(i); del i", DONE
    ),
    "the hook for unraisable exceptions loops": Hostile(
        "import sys\ndef h(u):\n while True: pass\nsys.unraisablehook = h\n"
        "class D:\n def __del__(s): 1/0\nx = D(); del x",
        (DONE, FUEL_OUT),
        restored=None,
    ),
}

STACK = {
    "no recursion limit": Hostile(
        "import sys\nsys.setrecursionlimit(10**9)\ndef f(): f()\nf()",
        (EXCEPTION, FUEL_OUT, MEMORY_OUT),
        restored=None,
    ),
    "a recursion limit of one": Hostile("import sys\nsys.setrecursionlimit(1)", EXCEPTION),
    "no recursion limit, through repr": Hostile(
        "import sys; sys.setrecursionlimit(10**9)\nclass A:\n def __repr__(s): return repr(s)\nA()",
        EXCEPTION,
        says="RecursionError",
    ),
    "no recursion limit, through ==": Hostile(
        "import sys; sys.setrecursionlimit(10**9)\nclass A:\n def __eq__(s, o): return s == o\nA() == A()",
        EXCEPTION,
        says="RecursionError",
    ),
    "a small limit left behind": Hostile(
        "import sys\nsys.setrecursionlimit(60)\ndef f(n): return n and f(n-1)\nf(1000)",
        EXCEPTION,
        says="RecursionError",
    ),
    "coroutines awaiting themselves": Hostile(
        "async def c(): await c()\nawait c()", EXCEPTION, says="RecursionError"
    ),
    "generators in generators": Hostile(
        "def g(i):\n yield from i\ni = iter([1])\nfor _ in range(100_000): i = g(i)\nnext(i)",
        (DONE, EXCEPTION),
    ),
    "a cache that calls itself": Hostile(
        "import functools\n@functools.lru_cache(None)\ndef f(n): return f(n + 1)\nf(0)",
        EXCEPTION,
        says="RecursionError",
    ),
}


def named(cases: dict[str, Hostile]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", cases.values(), ids=cases.keys())


@pytest.fixture
def small_session(make_session: Callable[..., Session]) -> Session:
    return make_session(memory_bytes_max=MEMORY_BYTES)


@named(MEMORY)
def test_a_cell_that_wants_too_much_memory_costs_no_variable(small_session: Session, case: Hostile) -> None:
    assert_survived(small_session, case)


@named(FULL)
def test_after_a_full_memory_the_next_cell_runs(small_session: Session, case: Hostile) -> None:
    assert_survived(small_session, case)


@named(COMPUTING)
def test_a_cell_that_computes_or_waits_without_end_is_ended(small_session: Session, case: Hostile) -> None:
    assert_survived(small_session, case)


@named(OUTPUT)
def test_a_cell_that_says_too_much_is_cut(small_session: Session, case: Hostile) -> None:
    assert_survived(small_session, case)


@named(FINALIZERS)
def test_finalizers_end_with_their_cell_or_with_its_limits(small_session: Session, case: Hostile) -> None:
    assert_survived(small_session, case)


@named(STACK)
def test_no_recursion_limit_a_cell_sets_takes_the_guest_away(small_session: Session, case: Hostile) -> None:
    assert_survived(small_session, case)

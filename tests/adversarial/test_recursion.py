"""However deep a program recurses or nests its data, it ends in a Python exception or a result.

Never in a trap, which would cost the session, and never in a MemoryError while there is memory. Two
stacks could overflow: the one in linear memory and the fiber's own. Most cases here trapped once.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from rlm_wasm.errors import GuestException
from rlm_wasm.outcomes import SessionState
from rlm_wasm.vm.session import Session
from tests.support.sandbox_facts import MIB, completed, run_cell

pytestmark = pytest.mark.guest

PRELUDE = """
import ast, collections, copy, functools, gc, io, itertools, json, marshal, operator, pickle, re, sys
import types, typing, weakref
import _imp, _sre, csv, xml.etree.ElementTree as E
sys.setrecursionlimit(10**9)  # no help from Python's own limit
def nest(make, seed, n=200_000):
    for _ in range(n): seed = make(seed)
    return seed
K = dict(lineno=1, col_offset=1, end_lineno=1, end_col_offset=1)
a = ast.Name('a', ast.Load(), **K)
class A: pass
class Coroutine:
    @staticmethod
    @types.coroutine
    def pause(): yield
"""

ITERATORS = {
    "map": "lambda x: map(str, x)",
    "filter": "lambda x: filter(None, x)",
    "zip": "zip",
    "enumerate": "enumerate",
    "chain": "itertools.chain",
    "chain.from_iterable": "itertools.chain.from_iterable",
    "islice": "lambda x: itertools.islice(x, 5)",
    "accumulate": "itertools.accumulate",
    "takewhile": "lambda x: itertools.takewhile(bool, x)",
    "dropwhile": "lambda x: itertools.dropwhile(bool, x)",
    "filterfalse": "lambda x: itertools.filterfalse(None, x)",
    "starmap": "lambda x: itertools.starmap(max, x)",
    "compress data": "lambda x: itertools.compress(x, [1])",
    "compress selectors": "lambda x: itertools.compress([1], x)",
    "cycle": "itertools.cycle",
    "zip_longest": "itertools.zip_longest",
    "pairwise": "itertools.pairwise",
    "batched": "lambda x: itertools.batched(x, 1)",
    "groupby": "itertools.groupby",
    "tee": "lambda x: itertools.tee(map(str, x))[0]",
    "iter of a callable": "lambda x: iter(x.__next__, 7)",
    "csv.reader": "csv.reader",
}
HASHES = {
    "tuple": "lambda x: (x,)",
    "slice": "slice",
    "mappingproxy": "types.MappingProxyType",
    "generic alias": "lambda x: types.GenericAlias(x, (int,))",
    "arguments of generic aliases": "lambda x: types.GenericAlias(list, (x,))",
    "namedtuple": "collections.namedtuple('N', 'a')",
}

PROXY = "x = nest(types.MappingProxyType, {1: 1})\n"
ALIAS = "x = nest(lambda x: types.GenericAlias(x, (int,)), list)\n"
METHOD = "x = nest(lambda x: types.MethodType(x, 1), len)\n"
CONSTANT = "x = nest(lambda x: (x,), 'abc')\n"
# A chain of `yield from` or `await`, run to its innermost pause.
DELEGATES = "def g(n):\n    if n: yield from g(n - 1)\n    else: yield\nx = g(100_000)\nnext(x)\n"
AWAITS = "async def f(n): await (f(n - 1) if n else Coroutine.pause())\nx = f(100_000)\nx.send(None)\n"
# Classes whose method resolution order does not name their bases can be chained without end.
CLASSES = (
    "class M(type):\n    def mro(c): return (c, object)\nclass R(metaclass=M): pass\nx = R\n"
    "for _ in range(4_000): x = M('X', (x,), {})\n"
)
CYCLES = {
    "len": "a.__len__ = types.MethodType(len, o)\nlen(o)",
    "bool": "a.__bool__ = types.MethodType(bool, o)\nbool(o)",
    "hash": "a.__hash__ = types.MethodType(hash, o)\nhash(o)",
    "iter": "a.__iter__ = types.MethodType(iter, o)\niter(o)",
    "next": "a.__next__ = types.MethodType(next, o)\nnext(o)",
    "add": "a.__add__ = types.MethodType(operator.add, o)\no + 1",
    "index": "a.__index__ = types.MethodType(operator.index, o)\n[1][o]",
    "contains": "a.__contains__ = types.MethodType(operator.contains, o)\n1 in o",
    "eq": "a.__eq__ = types.MethodType(operator.eq, o)\no == 1",
    "getattr": "a.__getattr__ = types.MethodType(getattr, o)\no.z",
    "setattr": "a.__setattr__ = types.MethodType(setattr, o)\no.z = 1",
    "call": "a.__call__ = o\no()",
    "getitem": "a.__getitem__ = operator.itemgetter(o)\no[o]",
    "class_getitem": "a.__class_getitem__ = operator.itemgetter(a)\na[a]",
    "attrgetter": "a.z = property(operator.attrgetter('z'))\no.z",
    "methodcaller": "a.z = property(operator.methodcaller('z'))\no.z()",
    "weakref.proxy": "a.z = property(operator.attrgetter('z'))\nweakref.proxy(o).z",
    "repr that is str": "a.__repr__ = object.__str__\nrepr(o)",
    "missing": "class D(dict): pass\nd = D()\nD.__missing__ = d.__getitem__\nd[1]",
    "chain of itself": "l = []\nm = itertools.chain.from_iterable(l)\nl.append(m)\nnext(m)",
}
EXPRESSIONS = {
    "UnaryOp": "ast.UnaryOp(ast.USub(), e, **K)",
    "BinOp": "ast.BinOp(e, ast.Add(), a, **K)",
    "Attribute": "ast.Attribute(e, 'b', ast.Load(), **K)",
    "Tuple": "ast.Tuple([e], ast.Load(), **K)",
    "IfExp": "ast.IfExp(e, a, a, **K)",
    "Lambda": "ast.Lambda(ast.arguments([], [], None, [], [], None, []), e, **K)",
    "FString": "ast.JoinedStr([ast.FormattedValue(a, -1, ast.JoinedStr([e], **K), **K)], **K)",
}
USES = {
    "expression": "ast.Expression(e)",
    "condition": "ast.Expression(ast.IfExp(e, a, a, **K))",
    "annotation": "ast.Expression(ast.Lambda(ast.arguments([], [ast.arg('z', e, **K)],"
    " None, [], [], None, []), a, **K))",
}

RAISES = {
    "call": "def f(n): return next(map(f, [n]))\nf(0)",
    "__getattr__": "class G:\n    def __getattr__(s, n): return getattr(s, n + 'x')\nG().q",
    "sort key": "def k(x): return sorted([1, 2], key=k)\nk(1)",
    "comparison of a sort": "def c(x, y): return sorted([1, 2], key=functools.cmp_to_key(c))\nc(1, 2)",
    "error in an error": "class X(Exception):\n    def __init__(s, *o): raise X\nraise X",
    "deep data in an error thrown into a generator": "x = nest(lambda x: [x], [])\n"
    "class X(Exception):\n    def __init__(s, *o): repr(x)\n"
    "def g(): yield\ni = g()\nnext(i)\ni.throw(X)",
    "errors thrown into generators": "class X(Exception):\n    def __init__(s, *o): start()\n"
    "def g(): yield\ndef start():\n    i = g()\n    next(i)\n    i.throw(X)\nstart()",
    "repr": "repr(nest(lambda x: [x], None))",
    "repr of a generic alias": "repr(nest(lambda x: types.GenericAlias(list, (x,)), int))",
    "repr of lists in a generic alias": "repr(types.GenericAlias(list, (nest(lambda x: [x], int),)))",
    "str of a method": METHOD + "str(x)",
    "comparison of lists": "nest(lambda x: [x], 1) == nest(lambda x: [x], 1)",
    "comparison of tuples": "nest(lambda x: (x,), 1) < nest(lambda x: (x,), 2)",
    "comparison of sets": "make = lambda x: frozenset([x])\nnest(make, 1, 100_000) == nest(make, 1, 100_000)",
    "hash of a method": METHOD + "hash(x)",
    "format": "'%s' % nest(lambda x: [x], None)",
    "isinstance": "isinstance(1, nest(lambda x: (x,), int))",
    "issubclass": "issubclass(bool, nest(lambda x: (x,), int))",
    "set": "{nest(lambda x: (x,), 1)}",
    "lookup": "{}[nest(lambda x: (x,), 1)]",
    "pickle": "pickle.dumps(nest(lambda x: [x], None))",
    "unpickled hash": r"pickle.loads(b'})' + b'\x85' * 200_000 + b'Ns.')",
    "json.loads": "json.loads('[' * 1_000_000)",
    "json.dumps": "json.dumps(nest(lambda x: [x], None))",
    "xml copy": "r = x = E.Element('a')\nfor _ in range(100_000): x = E.SubElement(x, 'a')\ncopy.deepcopy(r)",
    "exception groups": "nest(lambda x: ExceptionGroup('a', [x]), ValueError(), 50_000).split(KeyError)",
    "partial with an attribute": "def make(f):\n    p = functools.partial(f)\n    p.z = 1\n    return p\n"
    "nest(make, int)()",
    "attribute of a method": METHOD + "x.z",
    "attribute of a generic alias": ALIAS + "x.append",
    "call of a generic alias": ALIAS + "x()",
    "parameters of a generic alias": "T = typing.TypeVar('T')\n"
    "types.GenericAlias(list, (nest(lambda x: [x], T, 50_000),)).__parameters__",
    "property of property": "nest(property, int).__isabstractmethod__",
    "properties through attrgetter": "for i in range(40_000):\n"
    "    setattr(A, f'z{i}', property(operator.attrgetter(f'z{i + 1}')))\nA().z0",
    "mappingproxy item": PROXY + "x[1]",
    "mappingproxy len": PROXY + "len(x)",
    "mappingproxy in": PROXY + "1 in x",
    "mappingproxy iter": PROXY + "iter(x)",
    "mappingproxy or": PROXY + "x | {}",
    "mappingproxy get": PROXY + "x.get(1)",
    "mappingproxy translate": "'a'.translate(nest(types.MappingProxyType, {97: 98}))",
    "throw into yield from": DELEGATES + "x.throw(ValueError)",
    "close of yield from": DELEGATES + "x.close()",
    "throw into await": AWAITS + "x.throw(ValueError)",
    "close of await": AWAITS + "x.close()",
    "anext with a default": "class N:\n    def __init__(s, x): s.x = x\n    def __anext__(s): return s.x\n"
    "nest(lambda x: anext(N(x), 1), iter([])).__await__().send(None)",
    "constants of code": CONSTANT + "(lambda: 1).__code__.replace(co_consts=(x,))",
    "constant in a syntax tree": CONSTANT + "compile(ast.Expression(ast.Constant(x, **K)), 'a', 'eval')",
    "200,000 terms": "compile('+'.join(['1'] * 200_000), 'a', 'eval')",
    "syntax tree of 200,000 attributes": "ast.parse('a' + '.a' * 200_000)",
    "ast.literal_eval": "ast.literal_eval('+'.join(['1'] * 200_000))",
    "source of minus signs": "eval('-' * 100_000 + '1')",
    "source of powers": "compile('**'.join(['a'] * 100_000), 'a', 'eval')",
    "source of lambdas": "compile('lambda:' * 100_000 + '1', 'a', 'eval')",
    **{
        f"hash of {name}": f"hash(nest({make}, 1))" for name, make in HASHES.items() if name != "mappingproxy"
    },
    "hash of mappingproxy": PROXY + "hash(x)",
    **{f"next of {name}": f"next(nest({make}, iter([1, 2])))" for name, make in ITERATORS.items()},
    **{f"cycle through {name}": f"a, o = A, A()\n{text}" for name, text in CYCLES.items()},
    **{
        f"{use} of nested {name}": f"e = a\nfor _ in range(40_000): e = {make}\ncompile({tree}, 'a', 'eval')"
        for name, make in EXPRESSIONS.items()
        for use, tree in USES.items()
    },
}

# Deep, and yet no recursion: these must not even raise.
COMPLETES = {
    "freed lists": "x = nest(lambda x: [x], None, 1_000_000)\ndel x",
    "freed tuples": "x = nest(lambda x: (x,), None)\ndel x",
    "freed iterators": "x = nest(lambda x: map(str, x), iter([1]))\ndel x",
    "freed objects": "class N:\n    __slots__ = 'n'\n    def __init__(s, n): s.n = n\n"
    "x = nest(N, None)\ndel x",
    "freed objects with __del__": "class N:\n    def __init__(s, n): s.n = n\n    def __del__(s): pass\n"
    "x = nest(N, None, 30_000)\ndel x",
    "freed closures": "x = nest(lambda f: lambda: f, None)\ndel x",
    "freed generators": DELEGATES.replace("100_000", "30_000") + "del x",
    "freed code": "c = (lambda: 1).__code__\nx = nest(lambda c: c.replace(co_consts=(c,)), c, 50_000)\ndel x",
    "freed syntax tree": "x = nest(lambda e: ast.UnaryOp(ast.USub(), e), ast.Constant(1), 100_000)\ndel x",
    "freed xml": "r = x = E.Element('a')\nfor _ in range(100_000): x = E.SubElement(x, 'a')\ndel r, x",
    "garbage": "def make(x):\n    o = A()\n    o.x, o.self = x, o\n    return o\n"
    "x = nest(make, None)\ndel x\ngc.collect()",
    "deep classes": CLASSES + "R.z = 1\nR.__len__ = lambda s: 1\nx(); dir(x); hasattr(x, 'q')\n"
    "class Q(metaclass=M): pass\nclass B(metaclass=M): pass\nx.__bases__[0].__bases__ = (B,)\ndel x, R",
    "names of files in code": "c = (lambda: 1).__code__\n"
    "x = nest(lambda c: c.replace(co_consts=(c,)), c, 50_000)\n_imp._fix_co_filename(x, 'z')",
    "context of an error": "e = ValueError()\nfor _ in range(50_000):\n"
    "    n = ValueError()\n    n.__context__ = e\n    e = n\ndel e, n",
    "pickle.loads": r"x = pickle.loads(b']' * 200_000 + b'a' * 199_999 + b'.')",
    "xml": "E.fromstring('<a>' * 100_000 + '</a>' * 100_000)",
    "regular expression": "re.match('(?:a|b)*', 'a' * 1_000_000).end()",
    "nested regular expression": "re.compile('(?:' * 1_000 + 'a' + ')*' * 1_000).match('a')",
    "attrgetter of names": "try: operator.attrgetter('a.' * 100_000 + 'a')(1)\nexcept AttributeError: pass",
    "generators over generators": "def g(x):\n    for y in x: yield y\nlist(nest(g, [1], 50_000))",
    "yield from": "def g(x): yield from x\nlist(nest(g, [1], 50_000))",
    "copy.deepcopy": "x = copy.deepcopy(nest(lambda x: [x], None, 10_000))",
    "closures": "nest(lambda f: lambda: f(), int, 50_000)()",
    "views of views": "m = memoryview(b'1')\nfor _ in range(100_000): m = m[:]\nm.tobytes()",
    "recursion that is caught": "class N:\n    def __repr__(s):\n        try: return repr([s])\n"
    "        except RecursionError: return 'z'\nrepr(N())",
}


def deep_session(make_session: Callable[..., Session]) -> Session:
    """A session with enough memory that a MemoryError would be a lie."""
    session = make_session(memory_bytes_max=512 * MIB)
    completed(session, PRELUDE)
    return session


@pytest.mark.parametrize("name", RAISES)
def test_recursion_is_an_error_in_python(make_session: Callable[..., Session], name: str) -> None:
    session = deep_session(make_session)
    result = run_cell(session, RAISES[name])
    assert isinstance(result.error, GuestException), (result.outcome, result.error)
    assert result.error.type_name == "RecursionError", result.error.traceback[-500:]
    assert result.session_state is SessionState.ALIVE
    assert completed(session, "1 + 1").result == "2"


@pytest.mark.parametrize("name", COMPLETES)
def test_depth_without_recursion_is_no_error(make_session: Callable[..., Session], name: str) -> None:
    session = deep_session(make_session)
    completed(session, COMPLETES[name])
    assert completed(session, "1 + 1").result == "2"

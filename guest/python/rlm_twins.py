"""Functions of cells that ask models, compiled a second time as coroutines that give way where they ask.

What is submitted to a pool runs at once here, and a query in it would hold up all that follows. So where a cell's
function asks, its twin runs instead: the same source, with an `await` before each call that asks. All twins that
were started come to their queries, these are sent together, and each twin goes on from its own answer. As with
threads, others run while one waits; so a query inside of a `with` (it may be a lock), or in an addition to what
others see, stays where it is, and is answered at once.
"""

import ast
import inspect
import linecache
import types

STEP = "__rlm_step__"
_OTHER_KINDS = inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR
# By code object: the twin's, or None where there is none.
_twins = {}
_TWINS_KEPT = 256


def twin_of(function, queries, owner=None):
    """The function's twin, or None if it asks nothing, or its source is not known; `owner` is the class of
    the object that it is a method of."""
    if not asks(function, queries, owner):
        return None
    code = function.__code__
    if (code, owner) not in _twins:
        if len(_twins) >= _TWINS_KEPT:
            _twins.clear()
        try:
            _twins[code, owner] = _compiled(function, queries, owner)
        except (SyntaxError, ValueError, RecursionError):
            _twins[code, owner] = None
    twin = _twins[code, owner]
    if twin is None:
        return None
    cells = dict(zip(code.co_freevars, function.__closure__ or ()))
    closure = tuple(cells[name] for name in twin.co_freevars)
    made = types.FunctionType(twin, function.__globals__, function.__name__, function.__defaults__, closure)
    made.__kwdefaults__ = function.__kwdefaults__
    made.__qualname__ = function.__qualname__
    return made


def asks(function, queries, owner=None):
    """Whether a function of a cell calls one of the queries by its name, or a function or method that does."""
    seen, look = set(), [function]
    while look:
        function = look.pop()
        if type(function) is not types.FunctionType or not function.__code__.co_filename.startswith("<cell "):
            continue
        if function.__code__ in seen:
            continue
        seen.add(function.__code__)
        for name in function.__code__.co_names:
            value = function.__globals__.get(name)
            if _is_query(value, queries):
                return True
            look.append(value)
            look.append(_method(owner, name))
        look += _around(function).values()
    return False


def _method(owner, name):
    """The function behind a method of a class, without running anything of it."""
    if owner is None:
        return None
    for each in _MRO(owner):
        if name in _NAMESPACE(each):
            found = _NAMESPACE(each)[name]
            return found.__func__ if type(found) in (staticmethod, classmethod) else found
    return None


_MRO = type.__dict__["__mro__"].__get__
_NAMESPACE = type.__dict__["__dict__"].__get__


def _around(function):
    """What a function sees of the functions around it, as a decorator's does of what it decorates."""
    found = {}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or ()):
        try:
            found[name] = cell.cell_contents
        except ValueError:
            pass
    return found


def _compiled(function, queries, owner):
    code = function.__code__
    node = _source_of(code)
    if node is None or code.co_flags & _OTHER_KINDS or "__class__" in code.co_freevars:
        return None
    if getattr(node, "type_params", None) or any(_keeps_it_serial(inner) for inner in ast.walk(node)):
        return None
    known, around = function.__globals__, _around(function)
    local = {*code.co_varnames, *code.co_cellvars, *code.co_freevars}
    alone = set(code.co_varnames) - set(code.co_cellvars)
    wanted = {
        name for name in code.co_names
        if name not in local and (asks(known.get(name), queries) or _is_query(known.get(name), queries))
    }
    wanted.update(name for name in around if asks(around[name], queries) or _is_query(around[name], queries))
    methods = {name for name in code.co_names if owner and asks(_method(owner, name), queries, owner)}
    turn = _Turn(wanted, alone, code.co_varnames[0] if methods and code.co_argcount else None, methods)
    body = [turn.visit(part) for part in node.body] if type(node) is ast.FunctionDef else None
    if body is None:
        body = [ast.Return(turn.visit(node.body))]
    if not turn.turned:
        return None
    plain = ast.arguments(
        posonlyargs=[ast.arg(a.arg) for a in node.args.posonlyargs],
        args=[ast.arg(a.arg) for a in node.args.args],
        vararg=node.args.vararg and ast.arg(node.args.vararg.arg),
        kwonlyargs=[ast.arg(a.arg) for a in node.args.kwonlyargs],
        kw_defaults=[None] * len(node.args.kwonlyargs),
        kwarg=node.args.kwarg and ast.arg(node.args.kwarg.arg),
        defaults=[],
    )
    name = "twin" if type(node) is ast.Lambda else node.name
    twin = ast.AsyncFunctionDef(name=name, args=plain, body=body, decorator_list=[], type_params=[])
    tree = ast.Module([twin], [])
    if code.co_freevars:
        frame = ast.arguments([], [ast.arg(name) for name in code.co_freevars], None, [], [], None, [])
        outer = ast.FunctionDef(name="around", args=frame, body=[twin], decorator_list=[], type_params=[])
        tree = ast.Module([outer], [])
    for new in ast.walk(tree):
        if "lineno" in new._attributes and not hasattr(new, "lineno"):
            ast.copy_location(new, node)
    made = compile(tree, code.co_filename, "exec", dont_inherit=True)
    for _ in range(2 if code.co_freevars else 1):
        made = next(constant for constant in made.co_consts if type(constant) is types.CodeType)
    return made.replace(co_name=code.co_name, co_qualname=code.co_qualname)


def _is_query(value, queries):
    return type(value) is types.FunctionType and value in queries


def _source_of(code):
    """The one function or lambda of the cell's source that this code was made from, or None."""
    entry = linecache.cache.get(code.co_filename)
    if entry is None or len(entry) != 4:
        return None
    found = [
        node for node in ast.walk(ast.parse("".join(entry[2])))
        if type(node) is ast.FunctionDef and node.name == code.co_name
        and min([node.lineno, *(each.lineno for each in node.decorator_list)]) == code.co_firstlineno
        or type(node) is ast.Lambda and code.co_name == "<lambda>" and node.lineno == code.co_firstlineno
    ]
    return found[0] if len(found) == 1 else None


def _keeps_it_serial(node):
    """A lock taken by hand, or a name that means another one outside of its class."""
    if isinstance(node, ast.Attribute):
        return node.attr == "acquire" or node.attr.startswith("__") and not node.attr.endswith("__")
    return False


class _Turn(ast.NodeTransformer):
    """Puts an `await` before the calls that ask, where others may run meanwhile."""

    def __init__(self, wanted, alone, itself, methods):
        # The names of what to await, and the variables that nobody else sees; the methods of the object itself.
        self._wanted, self._alone = wanted, alone
        self._itself, self._methods = itself, methods
        self.turned = 0

    def visit_Call(self, node):
        self.generic_visit(node)
        called = node.func
        if isinstance(called, ast.Attribute) and isinstance(called.value, ast.Name):
            if called.value.id != self._itself or called.attr not in self._methods:
                return node
        elif not (isinstance(called, ast.Name) and called.id in self._wanted):
            return node
        self.turned += 1
        step = ast.copy_location(ast.Name(STEP, ast.Load()), node.func)
        call = ast.copy_location(ast.Call(step, [node.func, *node.args], node.keywords), node)
        return ast.copy_location(ast.Await(call), node)

    def visit_AugAssign(self, node):
        target = node.target
        return self.generic_visit(node) if isinstance(target, ast.Name) and target.id in self._alone else node

    def _as_it_is(self, node):
        return node

    visit_FunctionDef = visit_AsyncFunctionDef = visit_Lambda = visit_ClassDef = _as_it_is
    visit_GeneratorExp = visit_With = _as_it_is

"""Functions of cells that ask models, compiled a second time as coroutines that give way where they ask.

What is submitted to a pool runs at once here, and a query in it would hold up all that follows. So where a cell's
function asks, its twin runs instead: the same source, with an `await` before each call that asks. All twins that
were started come to their queries, these are sent together, and each twin goes on from its own answer. As with
threads, others run while one waits; so a query inside of a `with` (it may be a lock), or in an addition to what
others see, stays where it is, and is answered at once.

A thread's twin also gives way where it would wait for another thread: in `q.get()`, `event.wait()` and the like.
"""

import ast
import collections
import inspect
import linecache
import types

# What a twin gives way at: the functions that ask or wait, names of methods that may wait, and the name of what
# stands in the place of such a call.
Kind = collections.namedtuple("Kind", "functions methods step")
_FUNCTIONS = (types.FunctionType, types.BuiltinFunctionType, staticmethod)
# What a thread's twin calls with a lock before it takes that.
FREE = "__rlm_free__"
# Where a loop over iter(q.get, None) keeps what it got.
_GOT = "__rlm_got__"
_OTHER_KINDS = inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR
# By code object: the twin's, or None where there is none.
_twins = {}
_TWINS_KEPT = 256


def twin_of(function, kind, owner=None):
    """The function's twin, or None if it asks nothing, or its source is not known; `owner` is the class of
    the object that it is a method of."""
    if not asks(function, kind, owner):
        return None
    code = function.__code__
    key = (code, owner, kind.step)
    if key not in _twins:
        if len(_twins) >= _TWINS_KEPT:
            _twins.clear()
        try:
            _twins[key] = _compiled(function, kind, owner)
        except (SyntaxError, ValueError, RecursionError):
            _twins[key] = None
    twin = _twins[key]
    if twin is None:
        return None
    cells = dict(zip(code.co_freevars, function.__closure__ or ()))
    closure = tuple(cells[name] for name in twin.co_freevars)
    made = types.FunctionType(twin, function.__globals__, function.__name__, function.__defaults__, closure)
    made.__kwdefaults__ = function.__kwdefaults__
    made.__qualname__ = function.__qualname__
    return made


def asks(function, kind, owner=None):
    """Whether a function of a cell calls one of these by its name, or a function or method that does."""
    seen, look = set(), [function]
    while look:
        function = look.pop()
        if type(function) is not types.FunctionType or not function.__code__.co_filename.startswith("<cell "):
            continue
        if function.__code__ in seen:
            continue
        seen.add(function.__code__)
        if not kind.methods.isdisjoint(function.__code__.co_names):
            return True
        for name in function.__code__.co_names:
            value = function.__globals__.get(name)
            if _is_query(value, kind):
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


def _compiled(function, kind, owner):
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
        if name not in local and (asks(known.get(name), kind) or _is_query(known.get(name), kind))
    }
    wanted.update(name for name in around if asks(around[name], kind) or _is_query(around[name], kind))
    methods = {name for name in code.co_names if owner and asks(_method(owner, name), kind, owner)}
    turn = _Turn(kind, wanted, alone, code.co_varnames[0] if methods and code.co_argcount else None, methods)
    body = node.body if type(node) is ast.FunctionDef else [ast.Return(node.body)]
    body = turn.generic_visit(ast.Module(body, [])).body
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
    _place(tree, node)
    made = compile(tree, code.co_filename, "exec", dont_inherit=True)
    for _ in range(2 if code.co_freevars else 1):
        made = next(constant for constant in made.co_consts if type(constant) is types.CodeType)
    return made.replace(co_name=code.co_name, co_qualname=code.co_qualname)


def _place(tree, at):
    """Give what is new in a tree the place of what is around it."""
    for new in ast.iter_child_nodes(tree):
        if "lineno" in new._attributes and not hasattr(new, "lineno"):
            ast.copy_location(new, at)
        _place(new, new if hasattr(new, "lineno") else at)


def _is_query(value, kind):
    return type(value) in _FUNCTIONS and value in kind.functions


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

    def __init__(self, kind, wanted, alone, itself, methods):
        # The names of what to await, and the variables that nobody else sees; the methods of the object itself.
        self._kind, self._wanted, self._alone = kind, wanted, alone
        self._itself, self._methods = itself, methods
        # Of the one `with` that it is in, what that is about.
        self._inside = None
        self.turned = 0

    def visit_Call(self, node):
        self.generic_visit(node)
        called = node.func
        if self._inside is not None and not self._may_wait(called, node.args):
            return node
        if isinstance(called, ast.Attribute):
            own = isinstance(called.value, ast.Name) and called.value.id == self._itself
            if not (own and called.attr in self._methods or self._may_wait(called, node.args)):
                return node
        elif not (isinstance(called, ast.Name) and called.id in self._wanted):
            return node
        return self._awaited(called, node.args, node.keywords, node)

    def _may_wait(self, called, args=()):
        if not isinstance(called, ast.Attribute) or called.attr not in self._kind.methods:
            return False
        if self._inside is not None:
            return called.attr in ("wait", "wait_for") and ast.dump(called.value) == self._inside
        if called.attr == "get" and args and type(getattr(args[0], "value", None)) is not bool:
            return False  # a dict's
        return not isinstance(called.value, (ast.Constant, ast.JoinedStr))  # "".join

    def _awaited(self, called, args, keywords, node):
        self.turned += 1
        step = ast.copy_location(ast.Name(self._kind.step, ast.Load()), called)
        call = ast.copy_location(ast.Call(step, [called, *args], keywords), node)
        return ast.copy_location(ast.Await(call), node)

    def visit_For(self, node):
        """A loop over iter(q.get, None) gets each value by itself."""
        call = node.iter
        self.generic_visit(node)
        if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "iter"):
            return node
        if len(call.args) != 2 or call.keywords or not self._may_wait(call.args[0]):
            return node
        function, last = call.args
        got = ast.NamedExpr(ast.Name(_GOT, ast.Store()), self._awaited(function, [], [], call))
        more = ast.UnaryOp(ast.Not(), ast.Compare(got, [ast.Eq()], [last]))
        take = ast.Assign([node.target], ast.Name(_GOT, ast.Load()))
        return ast.copy_location(ast.While(more, [take, *node.body], node.orelse), node)

    def visit_AugAssign(self, node):
        target = node.target
        return self.generic_visit(node) if isinstance(target, ast.Name) and target.id in self._alone else node

    def visit_With(self, node):
        """What is inside stays as it is. But a thread takes a lock when that is free, and waits for its condition."""
        if not self._kind.methods or self._inside is not None:
            return node
        before = []
        for item in node.items:
            lock = item.context_expr
            if isinstance(lock, (ast.Name, ast.Attribute)):
                free = ast.Await(ast.Call(ast.Name(FREE, ast.Load()), [lock], []))
                before.append(ast.Expr(free))
            if item.optional_vars is not None:
                break
        if len(node.items) == len(before) == 1:
            self._inside = ast.dump(node.items[0].context_expr)
            node.body = [self.visit(part) for part in node.body]
            self._inside = None
        return [*before, node]

    def _as_it_is(self, node):
        return node

    visit_FunctionDef = visit_AsyncFunctionDef = visit_Lambda = visit_ClassDef = _as_it_is
    visit_GeneratorExp = _as_it_is

"""Calls of `llm_query` whose result a cell awaits, found in its syntax.

`llm_query` returns a str, at once. But `await llm_query(p)` and `asyncio.gather(*[llm_query(p) for p in ps])` mean
another thing: the query is to begin, and its answer to be waited for. Where a cell says so, the call is turned
into one of `later`, which makes a coroutine for the session's own functions and calls any other as it is. It has
to be certain: code that gets a coroutine and wanted a str fails. Where it is not, the call stays what it is, and
its str can be awaited all the same (`rlm_queries.Answer`): right, only not in parallel.
"""

import ast
import builtins

LATER = "__rlm_later__"
_QUERIES = {"llm_query", "llm_query_batched", "rlm_query", "rlm_query_batched"}
_OWN = frozenset(_QUERIES)
# What takes awaitables: all of its arguments, or the first.
_TAKES_ALL = frozenset(("gather",))
_TAKES_FIRST = frozenset(("as_completed", "ensure_future", "run", "shield", "wait", "wait_for"))
_METHODS = frozenset(("create_task", "run_until_complete"))
_CONTAINERS = frozenset(("list", "tuple", "set", "iter", "reversed"))
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)


def know(names):
    """From now on these are functions that ask, too; others that were are none any more."""
    _QUERIES.intersection_update(_OWN)
    _QUERIES.update(names)


def concerns(source):
    """Whether a cell may await queries; no cell that does is left out."""
    asks = "m_query" in source or len(_QUERIES) > len(_OWN) and any(name in source for name in _QUERIES)
    return asks and any(
        word in source for word in ("await", "asyncio", "create_task", "run_until_complete", "gather", "as_completed")
    )


def rewrite(tree, namespace):
    """Turn the calls of a cell that are awaited into calls of `later`."""
    try:
        _Cell(tree, namespace).rewrite()
    except RecursionError:
        pass  # nested too deep to look at. What was not found stays as it is


def makes_tasks(tree):
    """Whether a cell itself, not only a function in it, makes a task of the running loop, and so needs one."""
    return any(
        isinstance(node, ast.Call) and _method(node) == "create_task" and _name(node.func.value) == "asyncio"
        for node in _own_nodes(tree)
    )


def install(later):
    # Functions keep the name for as long as they live, whatever becomes of the namespace.
    setattr(builtins, LATER, later)


def _elements(node):
    """The expressions that a collection consists of, or the expression itself."""
    if isinstance(node, (ast.List, ast.Tuple, ast.Set)):
        for element in node.elts:
            yield from _elements(element)
    elif isinstance(node, (ast.ListComp, ast.SetComp, ast.GeneratorExp)):
        yield from _elements(node.elt)
    elif isinstance(node, (ast.Starred, ast.NamedExpr)):
        yield from _elements(node.value)
    elif isinstance(node, ast.DictComp):
        yield from _elements(node.value)
    elif isinstance(node, ast.Dict):
        for element in node.values:
            yield from _elements(element)
    elif isinstance(node, ast.IfExp):
        yield from _elements(node.body)
        yield from _elements(node.orelse)
    elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        yield from _elements(node.left)
        yield from _elements(node.right)
    elif isinstance(node, ast.Call) and _name(node.func) in _CONTAINERS and len(node.args) == 1:
        yield from _elements(node.args[0])
    elif isinstance(node, ast.Call) and _method(node) == "values" and isinstance(node.func.value, ast.Name):
        yield node.func.value
    elif isinstance(node, ast.Subscript):
        yield from _elements(node.value)
    else:
        yield node


def _name(node):
    return node.id if isinstance(node, ast.Name) else None


def _method(call):
    return call.func.attr if isinstance(call.func, ast.Attribute) else None


class _Cell:
    def __init__(self, tree, namespace):
        self._tree, self._namespace = tree, namespace
        self._parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
        # Names that are asyncio itself, or functions of it.
        self._modules, self._functions = {"asyncio"}, {}
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                self._modules.update(a.asname for a in node.names if a.name == "asyncio" and a.asname)
            elif isinstance(node, ast.ImportFrom) and node.module == "asyncio":
                self._functions.update({a.asname or a.name: a.name for a in node.names})
        self._awaited = set()  # nodes whose value is awaited, or put where it is

    def rewrite(self):
        for node in ast.walk(self._tree):
            if isinstance(node, ast.Await):
                self._awaited.update(_elements(node.value))
            elif isinstance(node, ast.Call):
                for argument in self._taken(node):
                    self._awaited.update(_elements(argument))
        for node in list(self._awaited):
            _turn(node)
        scopes = [node for node in ast.walk(self._tree) if isinstance(node, _FUNCTIONS)]
        for scope in (self._tree, *scopes):
            self._through_variables(scope)

    def _taken(self, call):
        """The arguments of a call that it awaits."""
        name, method = _name(call.func), _method(call)
        if method in _METHODS:
            return call.args[:1]
        if method is not None:
            base = _name(call.func.value)
            function = method if base in self._modules or self._means(base, "asyncio") else None
        elif name in self._functions:
            function = self._functions[name]
        else:
            function = name if self._means(name, f"asyncio.tasks.{name}", f"asyncio.runners.{name}") else None
        if function in _TAKES_ALL:
            return call.args
        return call.args[:1] if function in _TAKES_FIRST or function in _METHODS else []

    def _means(self, name, *wanted):
        """Whether an earlier cell gave a name to a module or function of asyncio."""
        value = self._namespace.get(name)
        if type(value) is type(ast):
            return value.__name__ in wanted
        return type(value) is type(rewrite) and f"{value.__module__}.{value.__qualname__}" in wanted

    def _through_variables(self, scope):
        """Queries that get to an await by way of a variable that is used for nothing else."""
        given = {}
        for node in _own_nodes(scope):
            for name, value, keyed in _stores(node):
                given.setdefault(name, []).append((value, keyed))
        for name, values in given.items():
            queries = [e for value, _ in values for e in _elements(value) if _is_query(e)]
            if not queries:
                continue
            keyed = any(k or isinstance(v, (ast.Dict, ast.DictComp)) for v, k in values)
            if self._only_awaited(scope, name, keyed, 3):
                for query in queries:
                    _turn(query)

    def _only_awaited(self, scope, name, keyed, depth):
        """Whether every use of a variable awaits what it holds, and there is one."""
        uses = [
            self._use(scope, node, keyed, depth)
            for node in ast.walk(scope)
            if isinstance(node, ast.Name) and node.id == name and isinstance(node.ctx, ast.Load)
        ]
        return "awaited" in uses and "other" not in uses

    def _use(self, scope, node, keyed, depth):
        if node in self._awaited:
            return "awaited"
        parent = self._parents[node]
        if isinstance(parent, ast.Attribute):
            if parent.attr in ("append", "extend", "keys", "clear", "add"):
                return "neutral"
            node, parent = parent, self._parents[parent]  # x.items(), as what a loop is over
            if not (isinstance(parent, ast.Call) and parent.func is node and node.attr in ("items", "values")):
                return "other"
            node, parent = parent, self._parents[parent]
        elif isinstance(parent, ast.Subscript) and isinstance(parent.ctx, ast.Store):
            return "neutral"
        elif isinstance(parent, ast.Call) and _name(parent.func) == "len":
            return "neutral"
        if keyed and not isinstance(node, ast.Call):
            return "neutral"  # its keys
        element = self._loop_variable(node, parent)
        if element is None or depth == 0:
            return "other"
        return "awaited" if self._only_awaited(scope, element, False, depth - 1) else "other"

    def _loop_variable(self, node, parent):
        """The name that a loop over this expression, or over a zip or enumerate of it, gives to each element."""
        at = 1 if isinstance(node, ast.Call) and _method(node) == "items" else None
        if isinstance(parent, ast.Call) and _name(parent.func) in ("zip", "enumerate") and node in parent.args:
            at = parent.args.index(node) + (_name(parent.func) == "enumerate")
            node, parent = parent, self._parents[parent]
        if not (isinstance(parent, (ast.For, ast.AsyncFor, ast.comprehension)) and parent.iter is node):
            return None
        target = parent.target
        if at is not None:
            target = target.elts[at] if isinstance(target, ast.Tuple) and at < len(target.elts) else None
        return _name(target)


def _own_nodes(scope):
    """The nodes of a scope without those of the functions in it."""
    nodes = list(ast.iter_child_nodes(scope))
    while nodes:
        node = nodes.pop()
        yield node
        if not isinstance(node, _FUNCTIONS):
            nodes.extend(ast.iter_child_nodes(node))


def _stores(node):
    """What is put into a variable: its name, the value, and whether under a key of it."""
    if isinstance(node, ast.Assign):
        for target in node.targets:
            if isinstance(target, ast.Name):
                yield target.id, node.value, False
            elif isinstance(target, ast.Subscript) and isinstance(target.value, ast.Name):
                yield target.value.id, node.value, True
    elif isinstance(node, (ast.AnnAssign, ast.AugAssign, ast.NamedExpr)):
        if isinstance(node.target, ast.Name) and node.value is not None:
            yield node.target.id, node.value, False
    elif isinstance(node, ast.Call) and _method(node) in ("append", "add", "extend") and node.args:
        if isinstance(node.func.value, ast.Name):
            yield node.func.value.id, node.args[0], False


def _is_query(node):
    if not isinstance(node, ast.Call):
        return False
    if _name(node.func) == "map" and node.args:
        return _name(node.args[0]) in _QUERIES
    return _name(node.func) in _QUERIES


def _turn(node):
    if not _is_query(node):
        return
    function = node.args[0] if _name(node.func) == "map" else node.func
    later = ast.copy_location(ast.Name(LATER, ast.Load()), function)
    if function is node.func:
        node.func = later
        node.args.insert(0, function)
    else:
        of = ast.copy_location(ast.Attribute(later, "of", ast.Load()), function)
        node.args[0] = ast.copy_location(ast.Call(of, [function], []), function)

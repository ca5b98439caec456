"""The host's tools as functions of the session: with their signatures, awaited and batched like queries.

The host says which there are, and looks at every call again: a function here is a way to ask, and no right to.
"""

import dataclasses
import datetime
import enum
import inspect
import json
import sys
import types

import rlm_awaits
import rlm_pending
import rlm_queries
import rlm_values

_KINDS = {
    "positional": inspect.Parameter.POSITIONAL_ONLY,
    "either": inspect.Parameter.POSITIONAL_OR_KEYWORD,
    "keyword": inspect.Parameter.KEYWORD_ONLY,
}
_TYPES = {kind.__name__: kind for kind in (str, int, float, bool, list, dict, tuple, set, bytes)} | {"None": None}
_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
# Function by name, and what the host said of it.
_made = {}


def install(descriptions):
    """Return the functions of these tools, by name; one that was there as it is stays the same function."""
    kept = {}
    for about in descriptions:
        name = about["name"]
        before = _made.pop(name, None)
        kept[name] = before if before is not None and before[1] == about else (_tool(about), about)
        if before is not None and kept[name] is not before:
            _forget(before[0])
    for function, _ in _made.values():
        _forget(function)
    _made.clear()
    _made.update(kept)
    rlm_awaits.know(kept)
    return {name: function for name, (function, _) in kept.items()}


def _forget(function):
    rlm_pending.queries.pop(function, None)
    rlm_queries.awaited.pop(function, None)


class _Shown:
    """What stands in a signature for something that only the host has."""

    def __init__(self, text):
        self._text = text

    def __repr__(self):
        return self._text


def _signature(about):
    parameters = [
        inspect.Parameter(
            each["name"], _KINDS[each["kind"]], default=_default(each), annotation=_annotation(each["annotation"])
        )
        for each in about["parameters"]
    ]
    return inspect.Signature(parameters, return_annotation=_annotation(about["returns"]))


def _annotation(text):
    if not text:
        return inspect.Parameter.empty
    return _TYPES[text] if text in _TYPES else _Shown(text)


def _default(parameter):
    if parameter["required"]:
        return inspect.Parameter.empty
    return _Shown(parameter["shown"]) if "shown" in parameter else parameter["default"]


def _tool(about):
    name, signature = about["name"], _signature(about)

    def tool(*args, **kwargs):
        call = name, _arguments(name, signature, args, kwargs)
        if rlm_pending.is_last_act(sys._getframe(1), tool.__code__):
            return rlm_pending.Pending(_GROUP, call)
        return rlm_queries.given(_result(_one(call)))

    async def awaited(*args, **kwargs):
        call = name, _arguments(name, signature, args, kwargs)
        return _result((await rlm_queries.answered(_GROUP, [call]))[0])

    async def in_turn(*args, **kwargs):
        call = name, _arguments(name, signature, args, kwargs)
        return _result(await rlm_pending.give_way(rlm_pending.Pending(_GROUP, call)))

    def side_by_side(*iterables, return_exceptions=False):
        for each in iterables:
            if each is None or issubclass(type(each), (str, bytes, bytearray, dict)):
                raise TypeError(f"{name}.map takes lists of arguments, not {rlm_queries._kind(each)}")
        calls = [(name, _arguments(name, signature, args, {})) for args in zip(*iterables)]
        return rlm_queries.given(rlm_queries._results(_outcomes(calls) if calls else [], return_exceptions))

    for function in (tool, awaited, in_turn):
        # Of its own, so that a traceback has the tool's name in it.
        function.__code__ = function.__code__.replace(co_name=name, co_qualname=name)
        function.__name__ = function.__qualname__ = name
    tool.__doc__ = about["doc"]
    tool.__module__ = "__main__"
    tool.__signature__ = signature
    tool.__annotations__ = {
        each.name: each.annotation for each in signature.parameters.values() if each.annotation is not each.empty
    }
    side_by_side.__name__, side_by_side.__qualname__ = "map", f"{name}.map"
    side_by_side.__doc__ = f"""Call {name} for each of these, as map does, side by side; results in order.

    The first failure is raised, with `.results` holding every result (or exception) in order; with
    `return_exceptions=True` that list is returned instead.
    """
    tool.map = side_by_side
    rlm_pending.queries[tool] = in_turn
    rlm_queries.awaited[tool] = awaited
    return tool


def _arguments(name, signature, args, kwargs):
    """The JSON text of a call's arguments, by name; without those that were not given."""
    try:
        given = signature.bind(*args, **kwargs).arguments
    except TypeError as wrong:
        raise TypeError(f"{name}() {wrong}") from None
    try:
        try:
            rlm_values.check(given)
        except rlm_values.NoForm:
            given = {key: _plain(value) for key, value in given.items()}
            rlm_values.check(given)
        return _encode(given)
    except rlm_values.NoForm as why:
        raise TypeError(f"{name}(): {why}") from None


def _plain(value):
    """The same of what JSON has, where there is a usual way; else as it is, to be refused by its place."""
    kind = type(value)
    if issubclass(kind, enum.Enum):
        return _plain(value.value)
    if issubclass(kind, (datetime.date, datetime.time)):
        return value.isoformat()
    if dataclasses.is_dataclass(kind):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(kind)}
    if issubclass(kind, dict):
        return {key: _plain(item) for key, item in dict.items(value)}
    if issubclass(kind, (list, tuple, set, frozenset)):
        return [_plain(item) for item in value]
    return value


def _one(call):
    name, text = call
    return _outcome(rlm_queries._ask({"type": "tool_call", "tool": name, "arguments": text}))


def _many(calls):
    tools, texts = zip(*calls)
    return rlm_queries._ask({"type": "tool_call_batch", "tools": tools, "arguments": texts})


def _outcome(item):
    return item["value"] if item["status"] == "completed" else rlm_queries._failure(item)


def _outcomes(calls):
    """What each call came to, in as few requests as the host's limits allow."""
    return rlm_queries.in_parts(calls, _one, _many, _outcome)


_GROUP = (_outcomes,)
_result = rlm_queries._result

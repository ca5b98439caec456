"""`ArgumentsSchema`: what the arguments of a tool may be, by its type hints; the gate for what a guest sends.

What comes is JSON text of a guest's: bounded here before it is decoded, and only then read by the schema.
"""

from __future__ import annotations

import typing
import warnings
from collections.abc import Callable, Iterator
from itertools import accumulate
from typing import Any, Final, Protocol

from rlm_wasm.errors import LimitExceeded, ToolArgumentError, UsageError
from rlm_wasm.json_text import outside_strings
from rlm_wasm.limits import ToolLimits
from rlm_wasm.tools.signature import ToolSignature
from rlm_wasm.values import NESTING_MAX

_PROBLEMS_MAX: Final = 8
_PROBLEM_CHARS_MAX: Final = 400
_NOT_BRACKETS: Final = bytes(set(range(256)) - set(b"[]{}"))
_STEPS: Final = {byte: 1 if byte in b"[{" else -1 for byte in b"[]{}"}


class ArgumentsSchema(Protocol):
    """What reads the JSON text of a call's arguments."""

    def json_schema(self) -> dict[str, Any]:
        """Return the JSON Schema of the object that the arguments are."""

    def read(self, text: bytes) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return positional and named arguments. Raises ToolArgumentError."""


class SignatureSchema:
    """The schema of a function: pydantic's reading of its type hints."""

    def __init__(self, function: Callable[..., object], name: str, signature: ToolSignature) -> None:
        # Loaded by whoever has a tool: a policy and a sandbox without one do not wait for it.
        import pydantic
        from pydantic.errors import PydanticUserError

        self._invalid: Final = pydantic.ValidationError
        hints = _hints(function, name)
        # Names of our own, so that no parameter meets one of the model's; the alias is the parameter's.
        fields: dict[str, Any] = {}
        self._names: Final[dict[str, str]] = {}
        for at, each in enumerate(signature.parameters):
            default = ... if each.required else each.default
            field = pydantic.Field(default, alias=each.name)
            fields[f"a{at}"] = (hints.get(each.name, Any), field)
            self._names[f"a{at}"] = each.name
        self._positional: Final = sum(each.kind == "positional" for each in signature.parameters)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # of a default that its own type would not take
                self._model: Final[Any] = pydantic.create_model(
                    name, __config__=pydantic.ConfigDict(extra="forbid"), **fields
                )
                self._model.model_json_schema()
        except (PydanticUserError, TypeError, NameError) as error:
            raise UsageError(
                f"the tool {name} has a parameter that no JSON can be checked against: {error}",
                hint="use types that JSON has, dataclasses or pydantic models",
            ) from error

    def json_schema(self) -> dict[str, Any]:
        """Return the JSON Schema of the object that the arguments are."""
        schema: dict[str, Any] = self._model.model_json_schema()
        return schema

    def read(self, text: bytes) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return positional and named arguments. Raises ToolArgumentError."""
        try:
            made = self._model.model_validate_json(text)
        except self._invalid as error:
            problems = error.errors(include_url=False, include_context=False, include_input=False)
            message = "; ".join(_problems(problems))
        else:
            given = made.model_fields_set
            named = {self._names[field]: getattr(made, field) for field in self._names if field in given}
            positional = tuple(
                named.pop(name) for name in list(self._names.values())[: self._positional] if name in named
            )
            return positional, named
        # Outside the handler: the library's error, which holds the input, stays out of the chain.
        raise ToolArgumentError(message)


def json_schema_of(kind: type) -> dict[str, Any]:
    """Return the JSON Schema of a dataclass of ours, as what it is written as."""
    import pydantic

    schema: dict[str, Any] = pydantic.TypeAdapter(kind).json_schema(mode="serialization")
    return schema


def check_arguments(arguments: str, limits: ToolLimits) -> bytes:
    """Return the text of a call's arguments for its schema, or refuse it undecoded.

    Raises:
        LimitExceeded: it is longer than the policy allows.
        ToolArgumentError: it is nested deeper than a value may be.
    """
    text = arguments.encode("utf-8", "replace")
    most = limits.arguments_bytes_max
    if len(text) > most:
        key = "tools.arguments_bytes_max"
        raise LimitExceeded(f"arguments of {len(text)} bytes", key=key, size=len(text), limit=most)
    bare = outside_strings(text, text.count(b'"')) or b""
    brackets = bare.translate(None, _NOT_BRACKETS)
    if len(brackets) > NESTING_MAX and max(accumulate(map(_STEPS.__getitem__, brackets))) > NESTING_MAX:
        raise ToolArgumentError(f"the arguments are nested deeper than {NESTING_MAX}")
    return text


def _hints(function: Callable[..., object], name: str) -> dict[str, Any]:
    hinted: Any = function
    while hasattr(hinted, "func"):  # functools.partial's
        hinted = hinted.func
    if isinstance(hinted, type):
        hinted = vars(hinted).get("__init__", hinted)
    elif not hasattr(hinted, "__annotations__"):
        hinted = type(hinted).__call__
    try:
        return typing.get_type_hints(hinted, include_extras=True)
    except (NameError, TypeError, SyntaxError) as error:
        raise UsageError(f"the tool {name} has a type hint that means nothing: {error}") from error


def _problems(errors: list[Any]) -> Iterator[str]:
    for each in errors[:_PROBLEMS_MAX]:
        place = "".join(f"[{part}]" if at else str(part) for at, part in enumerate(each["loc"]))
        text = f"{place}: {each['msg']}" if place else str(each["msg"])
        yield text if len(text) <= _PROBLEM_CHARS_MAX else text[:_PROBLEM_CHARS_MAX] + "…"
    if len(errors) > _PROBLEMS_MAX:
        yield f"and {len(errors) - _PROBLEMS_MAX} more"

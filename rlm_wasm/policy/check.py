"""The check of data against the classes of its tables: these keys, of these kinds, within these bounds."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from types import MappingProxyType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from pydantic_core import CoreSchema, SchemaValidator, ValidationError, core_schema

from rlm_wasm.limits import Range
from rlm_wasm.policy.marks import CheckedBy, Entries, Text
from rlm_wasm.policy.problems import Places, explain, policy_error

Table = TypeVar("Table")


def checked(table: type[Table], data: Mapping[str, Any], origin: str, places: Places) -> Table:
    """Return `data` as that table, the tables in it as theirs; raise one PolicyError with every problem."""
    try:
        found: Table = _validator(cast(Hashable, table)).validate_python(dict(data))
        return found
    except ValidationError as exc:
        error = policy_error(explain(exc, table), origin, places)
    # Outside the handler: the library's error, which holds the input, stays out of the chain.
    raise error


@cache
def _validator(table: Hashable) -> SchemaValidator:
    return SchemaValidator(_schema(table))


def _schema(hint: Any) -> CoreSchema:
    """Return what checks that data is what a type promises, with no coercion, and makes that of it.

    Pydantic's core is told directly. Every class is there already: models of pydantic itself would be another
    set of them, and to load it and make those takes longer than all else that reads a policy.
    """
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        match args:
            case (_, Range(gt=gt, ge=ge, lt=lt, le=le)):
                return core_schema.int_schema(gt=gt, ge=ge, lt=lt, le=le, strict=True)
            case (_, Text(pattern=pattern, least=least, most=most)):
                return core_schema.str_schema(pattern=pattern, min_length=least, max_length=most, strict=True)
            case (kind, Entries() as bound):
                return _entries_schema(kind, bound)
            case (_, CheckedBy(check=check)):
                return core_schema.no_info_plain_validator_function(check)
    if isinstance(hint, type) and is_dataclass(hint):
        return _table_schema(hint)
    if origin in (Union, UnionType) and args[1:] == (type(None),):
        return core_schema.nullable_schema(_schema(args[0]))
    if origin is Literal:
        return core_schema.literal_schema(list(args))
    # A number or a text without a bound is nothing that a policy may hold.
    assert hint is bool, hint
    return core_schema.bool_schema(strict=True)


def _table_schema(table: type) -> CoreSchema:
    hints = get_type_hints(table, include_extras=True)
    keys = {
        field.name: core_schema.typed_dict_field(
            _schema(hints[field.name]),
            required=field.default is MISSING and field.default_factory is MISSING,
        )
        for field in fields(table)
    }
    data = core_schema.typed_dict_schema(keys, strict=True, extra_behavior="forbid")
    return core_schema.no_info_after_validator_function(lambda found: table(**found), data)


def _entries_schema(kind: Any, bound: Entries) -> CoreSchema:
    origin, args = get_origin(kind), get_args(kind)
    if origin is tuple:
        array = core_schema.list_schema(
            _schema(args[0]), min_length=bound.least, max_length=bound.most, strict=True
        )
        return core_schema.no_info_after_validator_function(tuple, array)
    assert origin is Mapping, kind
    keys, values = map(_schema, args)
    free = core_schema.dict_schema(keys, values, min_length=bound.least, max_length=bound.most, strict=True)
    return core_schema.no_info_after_validator_function(MappingProxyType, free)

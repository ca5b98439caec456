"""docs/api.md: every public name, from its docstring: `python -m tests.support.api_page` writes it."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import rlm_wasm
from rlm_wasm import errors

PAGE = Path(__file__).parents[2] / "docs" / "api.md"
HEAD = """\
# API reference

Made from the docstrings by `just docs`. Everything here is imported from `rlm_wasm`, the errors from
`rlm_wasm.errors`; all else may change without notice. Times are in the unit that a name ends with, sizes in
bytes unless it says otherwise.
"""


def public_names() -> list[str]:
    """Return what the package promises."""
    return [name for name in rlm_wasm.__all__ if not name.startswith("__")]


def error_classes() -> list[type[Exception]]:
    """Return every error class, in the order of its module."""
    members = vars(errors).values()
    return [each for each in members if inspect.isclass(each) and each.__module__ == errors.__name__]


def members(kind: type) -> Iterator[tuple[str, Any]]:
    """Yield a class's own public methods and properties, in the order of its source."""
    for name, member in vars(kind).items():
        plain = member.__func__ if isinstance(member, classmethod | staticmethod) else member
        if not name.startswith("_") and (inspect.isfunction(plain) or isinstance(plain, property)):
            yield name, plain


class _Bare(str):
    """An annotation that shows itself without quotes."""

    def __repr__(self) -> str:
        return str(self)


def signature(function: Any) -> str:
    """Return a function's parameters and result as its source says them, without `self`."""
    parts = inspect.signature(function)
    kept = [
        each.replace(annotation=_Bare(each.annotation))
        for name, each in parts.parameters.items()
        if name not in ("self", "cls")
    ]
    return str(parts.replace(parameters=kept, return_annotation=_Bare(parts.return_annotation)))


def fields(kind: type) -> list[str]:
    """Return the fields of a record, with their types."""
    if not (hasattr(kind, "__dataclass_fields__") or hasattr(kind, "__struct_fields__")):
        return []
    return [f"{name}: {_plain(each)}" for name, each in kind.__annotations__.items() if name[0] != "_"]


def _plain(annotation: object) -> str:
    bare = re.sub(r"Annotated\[(.*), msgspec\.Meta\([^)]*\)\]", r"\1", str(annotation))
    return bare.replace("_Count", "int").replace("_Name", "str")


def _block(text: str | None) -> str:
    return inspect.cleandoc(text or "").replace("\nRaises:\n", "\nRaises:\n\n").strip() + "\n"


def _class(kind: type) -> Iterator[str]:
    yield _block(kind.__doc__)
    if issubclass(kind, BaseException):
        return
    if found := fields(kind):
        yield "".join(f"- `{each}`\n" for each in found)
    elif "__call__" in vars(kind):
        yield f"`{signature(vars(kind)['__call__'])}`\n"
    elif "__init__" in vars(kind):
        yield f"`{kind.__name__}{signature(kind.__init__).replace(' -> None', '')}`\n"  # type: ignore[misc]
    for name, member in members(kind):
        if isinstance(member, property):
            yield f"### `{kind.__name__}.{name}`\n\n{_block(member.__doc__)}"
        else:
            word = "async " if inspect.iscoroutinefunction(member) else ""
            yield f"### `{word}{kind.__name__}.{name}{signature(member)}`\n\n{_block(member.__doc__)}"


def _alias(name: str) -> Iterator[str]:
    """Yield what a type's name stands for, and the comment above it."""
    source = inspect.getsource(import_module(rlm_wasm._WHERE[name]))
    found = re.search(rf"((?:^# .*\n)+){name}(?:: TypeAlias)? = (\((?:.|\n)+?^\)|.+)$", source, re.MULTILINE)
    assert found is not None, f"{name} has no comment"
    comment = " ".join(line[2:] for line in found[1].splitlines())
    stands_for = found[2]
    if "\n" in stands_for:  # in brackets, over several lines
        stands_for = " ".join(line.strip() for line in stands_for[1:-1].strip().splitlines())
    yield f"{comment}\n\n`{stands_for}`\n"


def page() -> str:
    """Return the whole page."""
    parts = [HEAD]
    for name in public_names():
        thing = getattr(rlm_wasm, name)
        parts.append(f"## {name}\n")
        if inspect.isfunction(thing):
            parts.append(f"`{name}{signature(thing)}`\n\n{_block(thing.__doc__)}")
        else:
            parts += _class(thing) if inspect.isclass(thing) else _alias(name)
    parts.append("# Errors\n")
    for kind in error_classes():
        base = kind.__mro__[1].__name__
        parts.append(f"## {kind.__name__}\n\nA {base}. {_block(kind.__doc__)}")
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page())

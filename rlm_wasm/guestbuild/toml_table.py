"""A strict view of a TOML table of ours: typed values, and errors that name the key."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from rlm_wasm.errors import ArtifactError

T = TypeVar("T")


class Table:
    """A table of the file at `path`; `where` is the dotted name of what lies above, for errors."""

    def __init__(self, path: Path, where: str, values: Mapping[str, Any]) -> None:
        self._path, self._where, self._values = path, where, values

    def fail(self, key: str, problem: str) -> ArtifactError:
        return ArtifactError(f"{self._path}: {self._where}{key}: {problem}")

    def only(self, *known: str) -> Table:
        """Return this table if it has no other keys than `known`."""
        for key in self._values:
            if key not in known:
                raise self.fail(key, "unknown key")
        return self

    def get(self, key: str, kind: type[T]) -> T:
        value = self._values.get(key)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise self.fail(key, f"must be a {kind.__name__}")
        return value

    def has(self, key: str) -> bool:
        return key in self._values

    def text(self, key: str) -> str:
        return self.get(key, str)

    def integer(self, key: str) -> int:
        return self.get(key, int)

    def strings(self, key: str) -> tuple[str, ...]:
        values = self.get(key, list)
        if not all(isinstance(value, str) for value in values):
            raise self.fail(key, "must be a list of strings")
        return tuple(values)

    def table(self, key: str) -> Table:
        return Table(self._path, f"{self._where}{key}.", self.get(key, dict))

    def each(self, key: str, make: Callable[[Table], T]) -> tuple[T, ...]:
        entries = self.get(key, list)
        if not entries or not all(isinstance(entry, dict) for entry in entries):
            raise self.fail(key, "must be a list of at least one table")
        return tuple(
            make(Table(self._path, f"{self._where}{key}[{index}].", entry))
            for index, entry in enumerate(entries)
        )

    def record(self, kind: type[T], **others: Callable[[str], object]) -> T:
        """Return this table as a dataclass: its fields are the keys, all of them and no more.

        Text, integers and lists of text are read by the fields' types; `others` reads the other fields.
        """
        types = get_type_hints(kind)
        self.only(*types)
        readers = {str: self.text, int: self.integer, tuple[str, ...]: self.strings}
        return kind(**{name: (others.get(name) or readers[types[name]])(name) for name in types})

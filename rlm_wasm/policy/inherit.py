"""A policy that says in `extends` which other one it changes: read, followed and merged into one document.

Below this module nothing knows of it: what is checked, shown, hashed and logged is the whole policy.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from rlm_wasm.errors import PolicyError
from rlm_wasm.policy.builtin import builtin_names
from rlm_wasm.policy.document import Document, read_document
from rlm_wasm.policy.extends import EXTENDS, EXTENDS_DEPTH_MAX, extended_path
from rlm_wasm.policy.lines import HEAD, TAIL, Remark
from rlm_wasm.policy.problems import Key, Place, Problem, dotted, policy_error, quoted

_PATH_CHARS_MAX: Final = 1024


@dataclass(frozen=True, slots=True)
class InheritedDocument(Document):
    """A document with what it inherits in it. `chain` names what it extends, nearest first."""

    chain: tuple[str, ...] = ()


def read_inherited(path: Path) -> InheritedDocument:
    """Read `path` and what it extends; the only exception out is PolicyError, which points at the line.

    A table is merged key by key, also one with keys of its own such as the prices; whatever else a key holds
    is replaced as a whole. The name of a built-in policy means that policy; any other is a path, relative to
    the folder of the file that says so.
    """
    documents = [read_document(path)]
    names: list[str] = []
    seen = [path.resolve()]
    while (parent := _parent(documents[-1], path)) is not None:
        name, path = parent
        names.append(name)
        if len(documents) > EXTENDS_DEPTH_MAX:
            raise _refused(documents[-1], f"goes on for more than {EXTENDS_DEPTH_MAX} policies")
        document = _read_parent(documents[-1], name, path)
        if (own := path.resolve()) in seen:
            raise _refused(documents[-1], f"goes in a circle: {' -> '.join(map(_quoted, names))}")
        seen.append(own)
        documents.append(document)
    whole = InheritedDocument(
        documents[-1].origin, documents[-1].data, documents[-1].places, documents[-1].remarks
    )
    for document in reversed(documents[:-1]):
        whole = _merged(whole, document)
    return replace(whole, chain=tuple(names))


def _parent(document: Document, path: Path) -> tuple[str, Path] | None:
    if EXTENDS not in document.data:
        return None
    name = document.data[EXTENDS]
    if not isinstance(name, str):
        raise _refused(document, f"must be a string (got {quoted(name)})")
    if not 0 < len(name) <= _PATH_CHARS_MAX:
        raise _refused(document, f"must be a name or path of 1 to {_PATH_CHARS_MAX} characters")
    return name, extended_path(name, path)


def _read_parent(document: Document, name: str, path: Path) -> Document:
    try:
        return read_document(path)
    except PolicyError as error:
        # One that cannot be read is this file's mistake; one that can and is wrong has lines of its own.
        reason = error.message.rpartition(": cannot be read: ")[2]
        if reason == error.message:
            raise
        message = f"names {_quoted(name)}, which cannot be read: {reason}"
    hint = f"a path is relative to the file that says it; built-in policies: {', '.join(builtin_names())}"
    raise _refused(document, message, hint)


def _refused(document: Document, message: str, hint: str | None = None) -> PolicyError:
    error = policy_error([Problem((EXTENDS,), message)], document.origin, document.places)
    return PolicyError(error.message, hint=hint)


def _quoted(name: str) -> str:
    return dotted((name,))


def _merged(base: InheritedDocument, over: Document) -> InheritedDocument:
    own = {key: value for key, value in over.data.items() if key != EXTENDS}
    given = set(_leaves(own, ()))
    remarks = {key: remark for key, remark in base.remarks.items() if key not in given}
    remarks |= {key: remark for key, remark in over.remarks.items() if key != (EXTENDS,)}
    remarks[HEAD] = _joined(over.remarks, (HEAD, (EXTENDS,)), base.remarks.get(HEAD, Remark()))
    remarks[TAIL] = _joined(over.remarks, (TAIL,), base.remarks.get(TAIL, Remark()))
    return InheritedDocument(over.origin, _merge(base.data, own), _places(base, over, given), remarks)


def _places(base: Document, over: Document, given: set[Key]) -> dict[Key, Place]:
    # What stood in a value that was replaced has no place any more.
    places = {
        key: replace(place, level=place.level + 1)
        for key, place in base.places.items()
        if not _prefixes(key) & given
    }
    return places | {key: place for key, place in over.places.items() if key != (EXTENDS,)}


def _prefixes(key: Key) -> set[Key]:
    return {key[:end] for end in range(1, len(key) + 1)}


def _joined(remarks: Mapping[Key, Remark], keys: tuple[Key, ...], below: Remark) -> Remark:
    """Return what one file says at some keys, and under it what it inherits."""
    found = [remarks[key] for key in keys if key in remarks]
    own = [line for remark in found for line in (*remark.above, remark.behind) if line]
    return Remark((*own, *(("#",) if own and below.above else ()), *below.above))


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        both_tables = isinstance(below, dict) and isinstance(value, dict)
        merged[key] = _merge(merged[key], value) if both_tables else value
    return merged


def _leaves(data: Mapping[str, Any], path: Key) -> Iterator[Key]:
    for key, value in data.items():
        if isinstance(value, dict):
            yield from _leaves(value, (*path, key))
        else:
            yield (*path, key)

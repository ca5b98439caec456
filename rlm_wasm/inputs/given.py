"""An input as it was read: its value, and what is known of where it came from."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from rlm_wasm.inputs.documents import DocumentFacts


@dataclass(frozen=True, slots=True)
class FileRead:
    """A file that was read: its name as it was given, or below its folder, and what it was.

    `bytes` are those that were read, `unpacked_bytes` what came out of them, the same where it is not packed.
    `encoding` is None of bytes, and of a document, of which `document` says what its text was made of.
    """

    path: str
    bytes: int
    unpacked_bytes: int
    packing: str | None = None
    encoding: str | None = None
    # It was being written to: what came after its end at that moment is not in it.
    grew: bool = False
    document: DocumentFacts | None = None


@dataclass(slots=True)
class LeftOutFiles:
    """Files or folders that were left out for one reason: how many, and which came first."""

    count: int
    first: str


@dataclass(frozen=True, slots=True)
class InputRead:
    """An input: the variable it is bound to, its value, the file or folder it came from.

    `value` is None of a file that stays where it is, too large for a guest to hold. `kind` is text, json,
    jsonl, bytes or folder. `file` is the real name, without folders, of the file or folder (of a document
    that of its text, ``report.pdf.txt``), and `source` how it was given. `note` is what there is to say of it
    besides its type and size. Of a folder, `left_out` says what was not read: how many files, and the first
    of them, by the reason.
    `place` is the folder that the paths of `files` are below, and empty of a file.
    """

    name: str
    value: str | bytes | None
    kind: str
    source: str
    file: str
    note: str
    files: tuple[FileRead, ...]
    left_out: Mapping[str, LeftOutFiles] = field(default_factory=dict)
    place: str = ""

    @property
    def paths(self) -> list[str]:
        """Every file that was read, by a path from here; ``-`` is standard input."""
        return [os.path.join(self.place, file.path) for file in self.files]

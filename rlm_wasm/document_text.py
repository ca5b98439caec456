"""The kinds of documents that are turned into text in a guest, and how such a text is recognized afterwards.

A text of the document ``report.pdf`` is called ``report.pdf.txt``, with a form feed between two pages (of a
workbook sheets, of a presentation slides). That is all that there is to know of it: a replay, which has names
and texts alone, tells a model the same.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

SUFFIX: Final = ".txt"
BREAK: Final = "\f"


class DocumentKind(Enum):
    """A kind of document: the ends of such files' names, what it is called, what its parts are."""

    PDF = ((".pdf",), "a PDF", "page", "")
    DOCX = ((".docx", ".docm", ".dotx", ".dotm"), "a Word document", "", "")
    XLSX = (
        (".xlsx", ".xlsm", ".xltx", ".xltm"),
        "an Excel workbook",
        "sheet",
        "; the first line of a sheet is its name, the others are CSV",
    )
    PPTX = ((".pptx", ".pptm", ".ppsx", ".potx"), "a PowerPoint presentation", "slide", "")

    def __init__(self, suffixes: tuple[str, ...], called: str, part: str, form: str) -> None:
        self.suffixes: Final = suffixes
        self.called: Final = called  # for people and models
        self.part: Final = part  # what it has one or more of; an empty text of one that has none
        self.form: Final = form  # what else there is to say of its text

    @property
    def word(self) -> str:
        """What it is called in data."""
        return self.name.lower()

    def counted(self, parts: int) -> str:
        """Return what it is, with the number of its parts."""
        return (
            f"{self.called} of {parts} {self.part}{'' if parts == 1 else 's'}" if self.part else self.called
        )


def kind_of_name(file: str) -> DocumentKind | None:
    """Return what document a file is by the end of its name; None: none."""
    name = file.lower()
    return next((kind for kind in DocumentKind if name.endswith(kind.suffixes)), None)


def text_name(file: str, kind: DocumentKind) -> str:
    """Return what the text of a document is called."""
    return file + ("" if kind_of_name(file) is kind else kind.suffixes[0]) + SUFFIX


def told_of(name: str, text: str) -> str:
    """Return what a model is told of the text of a document; an empty text of any other."""
    kind = kind_of_name(name.removesuffix(SUFFIX)) if name.endswith(SUFFIX) else None
    if kind is None:
        return ""
    parts = text.count(BREAK) + 1
    apart = f", a form feed ('\\f') between two {kind.part}s" if kind.part and parts > 1 else ""
    return f"the text of {kind.counted(parts)}{apart}{kind.form}"

"""The counts of a training as a text among the sources: a function a line, and equal counts written once.

The compiler's own text has a line for each of some hundred thousand counters, nearly all of them 0. Here
the fields of a function follow each other on one line, `0*95` stands for 95 that say 0, and a source file is
named once, above its own functions. Nothing is lost: the compiler makes the same profile of what
`unpack_counts` returns.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import groupby
from typing import Final

from rlm_wasm.errors import ArtifactError

# The counters are those of the compiler's intermediate language.
_HEAD: Final = ":ir"
_RUN: Final = re.compile(r"(.*)\*([1-9][0-9]{0,6})")
# A function that no other file sees is called by its file as well.
_OF_FILE: Final = ";"
# Some ten times what CPython has.
_FIELDS_MAX: Final = 2_000_000


def pack_counts(text: str) -> str:
    """Return the lines that stand for a text of `llvm-profdata merge --text`.

    Raises:
        ArtifactError: it is no such text.
    """
    first, *records = (
        [line for line in record.splitlines() if line and not line.startswith("#")]
        for record in text.split("\n\n")
    )
    if first[:1] != [_HEAD]:
        raise ArtifactError("what was counted is not in the form that is known")
    return "".join(_packed([first[1:], *records]))


def unpack_counts(lines: str) -> str:
    """Return the compiler's text that `lines` stand for.

    Raises:
        ArtifactError: they stand for no such text.
    """
    out, file = [_HEAD], ""
    for number, line in enumerate(lines.splitlines(), 1):
        if "\t" not in line:
            file = line
            continue
        name, *fields = line.split("\t")
        out.append(file + name if name.startswith(_OF_FILE) else name)
        for field in fields:
            run = _RUN.fullmatch(field)
            out += [run[1]] * int(run[2]) if run else [field]
            if len(out) > _FIELDS_MAX:
                raise ArtifactError(f"line {number} stands for more than CPython has")
        out.append("")
    return "\n".join(out) + "\n"


def _packed(records: list[list[str]]) -> Iterator[str]:
    above = ""
    for record in records:
        if not record:
            continue
        name, *fields = record
        file, mark, function = name.partition(_OF_FILE)
        if mark and file != above:
            above = file
            yield f"{file}\n"
        yield "\t".join([mark + function if mark else name, *_runs(fields)]) + "\n"


def _runs(fields: list[str]) -> Iterator[str]:
    for field, same in groupby(fields):
        if _RUN.fullmatch(field):
            raise ArtifactError(f"what was counted has a field that looks like a run: {field}")
        times = len(list(same))
        yield f"{field}*{times}" if times > 1 else field

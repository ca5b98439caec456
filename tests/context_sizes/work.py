"""Texts of every width, what models do to a text as a whole, and what that takes in a real guest."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from random import Random
from typing import Final

from rlm_wasm.inline.guest_loader import load_guest_program
from rlm_wasm.policy.model import Policy
from rlm_wasm.protocol.cell import Cell
from rlm_wasm.vm.cell_decoding import decode_cell
from rlm_wasm.vm.session import Session, drive

_LATIN: Final = "abcdefghijklmnopqrstuvwxyz"
_EMOJI: Final = "".join(map(chr, range(0x1F600, 0x1F640)))


@dataclass(frozen=True, slots=True)
class Language:
    """What a text is made of: its letters, how long its words are, and one sign more at its beginning."""

    letters: str
    lengths: tuple[int, ...] = (2, 3, 4, 5, 5, 6, 7, 8)
    sign: str = ""


LANGUAGES: Final = {
    "ASCII": Language(_LATIN),
    "accented": Language(_LATIN + "\u00e9\u00e8\u00fc\u00f1\u00df"),
    "one dash": Language(_LATIN, sign="\u2014"),
    "Cyrillic": Language("".join(map(chr, range(0x430, 0x450)))),
    "CJK": Language("".join(map(chr, range(0x4E00, 0x55D0))), (2, 3, 4)),
    "one emoji": Language(_LATIN, sign=_EMOJI[0]),
    "emoji": Language(_EMOJI + _LATIN[:10]),
}


@dataclass(frozen=True, slots=True)
class Operation:
    """Code that works on all of `context`, a text in this form, and keeps what it made."""

    form: str
    code: str


OPERATIONS: Final = {
    "lower()": Operation("prose", "made = context.lower()"),
    "upper()": Operation("prose", "made = context.upper()"),
    "replace": Operation("prose", "made = context.replace('a', 'bc')"),
    "encode()": Operation("prose", "made = context.encode()"),
    "split()": Operation("prose", "made = context.split()"),
    "splitlines()": Operation("prose", "made = context.splitlines()"),
    "re.findall": Operation("prose", "import re\nmade = re.findall(r'\\w+', context)"),
    "sorted(set())": Operation("prose", "made = sorted(set(context.split()))"),
    "Counter": Operation(
        "prose", "import collections\nmade = collections.Counter(context.lower().split()).most_common()"
    ),
    "csv.reader": Operation("table", "import csv, io\nmade = list(csv.reader(io.StringIO(context)))"),
    "csv.DictReader": Operation("table", "import csv, io\nmade = list(csv.DictReader(io.StringIO(context)))"),
    "json.loads": Operation("records", "import json\nmade = json.loads(context)"),
}


def text_of(language: Language, form: str, chars: int, seed: int = 5) -> str:
    """Return a text of exactly so many characters, or just below where a record must not be cut."""
    random = Random(seed)
    words = [
        "".join(random.choices(language.letters, k=random.choice(language.lengths))) for _ in range(20_000)
    ]
    # Some sentences begin with a capital, so that lower() has something to do.
    words += [word.capitalize() for word in words[:2_000]]
    unit = {"prose": _prose, "table": _table, "records": _records}[form](random, words, min(chars, 1 << 20))
    if form == "records":
        most = max(1, (chars - 2) // (len(unit) + 2))
        return "[" + ",\n".join([unit.replace("* ", language.sign, 1), *[unit] * (most - 1)]) + "]"
    text = (unit * (chars // len(unit) + 1))[: chars - len(language.sign)]
    return language.sign + text


def _prose(random: Random, words: list[str], chars: int) -> str:
    lines, size = [], 0
    while size < chars:
        lines.append(" ".join(random.choices(words, k=12)))
        size += len(lines[-1]) + 1
    return "\n".join(lines) + "\n"


def _table(random: Random, words: list[str], chars: int) -> str:
    lines, size = [], 0
    while size < chars:
        cells = [str(len(lines)), *random.choices(words, k=3), f"{random.random():.4f}"]
        lines.append(",".join([*cells, " ".join(random.choices(words, k=5))]))
        size += len(lines[-1]) + 1
    return "\n".join(lines) + "\n"


def _records(random: Random, words: list[str], chars: int) -> str:
    lines, size = [], 0
    while size < chars:
        record = {
            "id": len(lines),
            "name": random.choice(words),
            "tags": random.choices(words, k=2),
            "score": round(random.random(), 4),
            "text": "* " + " ".join(random.choices(words, k=20)),
        }
        lines.append(json.dumps(record, ensure_ascii=False))
        size += len(lines[-1]) + 2
    return ",\n".join(lines)


@dataclass(frozen=True, slots=True)
class Cost:
    """What one operation took for each character of its text: bytes of memory, and fuel."""

    memory_bytes: float
    fuel: float


def measure(operation: Operation, text: str) -> Cost:
    """Load `text` into a session of its own, work on it there, and say what both took together.

    Memory is counted from where the guest has none left that is free: it grows by what is used.
    """
    policy, loaded = Policy.builtin("standard"), load_guest_program()
    limits, boundary = policy.session_limits(), policy.boundary
    session = Session(loaded.program, loaded.facts, limits, boundary, os.urandom)
    try:
        drive(session.load("filler", b"x" * (8 << 20)))
        before = session.memory_bytes
        drive(session.load("context", text))
        ended = decode_cell(drive(session.run(Cell(operation.code, policy.cell))))
        if ended.error is not None:
            raise AssertionError(f"{operation.code!r}: {ended.outcome}: {ended.error}")
        return Cost((session.memory_bytes - before) / len(text), ended.fuel_used / len(text))
    finally:
        session.close()

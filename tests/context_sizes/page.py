"""docs/context-sizes.md: what is measured, and the table of it that the tests hold against a real guest."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from rlm_wasm.policy.model import Policy
from rlm_wasm.policy.rules import BYTES_PER_CHAR, CHAR_BYTES_MAX, GUEST_BYTES
from tests.context_sizes.work import LANGUAGES, OPERATIONS, Cost

PAGE: Final = Path(__file__).parents[2] / "docs" / "context-sizes.md"
Costs = Mapping[tuple[str, str], Cost]

_HEAD: Final = """\
# How large a context may be

<!-- Written by `just context-sizes --write`; tests/context_sizes holds it against a real guest. -->

`sandbox.context_bytes_max` is what may be loaded. A Python str takes one byte for each character where all
are ASCII or Latin-1, two where any is beyond (one dash is enough), {char} where any is beyond those too (one
emoji).

`sandbox.whole_context_chars_max` is a promise: a context of up to so many characters may be worked on as a
whole, in every language, by each operation of the table. A policy that promises more than its memory holds is
refused, by `rlm-wasm policy check` too:

    memory_bytes_max  >= {guest:,} + {each} * whole_context_chars_max
    context_bytes_max >= {char} * whole_context_chars_max

| policy | `memory_bytes_max` | `context_bytes_max` | `whole_context_chars_max` |
|---|---|---|---|
{policies}

Of a longer context the model is told to take it in pieces. Slicing, `re.finditer` and `find` take next to
nothing, whatever the size.

## What work on a whole text takes

Bytes of memory for each character, the text itself and the result included, rounded up. The last column is
fuel for each character, at most: `cell.fuel_max` of `strict` has {fuel:,} for each of its {chars:,}.

{table}

"One dash" and "one emoji" are English with a single such sign in it. The words are of common lengths; prose
has 12 to a line, the table for `csv` six cells, the records for `json` five keys. Small pieces cost most: a
list of all characters takes up to 36 bytes for each, and JSON that is all `[]` some 12.
"""


def page(costs: Costs) -> str:
    """Return the page for these figures."""
    strict = Policy.builtin("strict")
    rows = []
    for name in ("strict", "container", "standard"):
        box = Policy.builtin(name).sandbox
        sizes = (box.memory_bytes_max, box.context_bytes_max, box.whole_context_chars_max)
        rows.append(f"| `{name}` | " + " | ".join(f"{size:,}" for size in sizes) + " |")
    return _HEAD.format(
        char=CHAR_BYTES_MAX,
        guest=GUEST_BYTES,
        each=BYTES_PER_CHAR,
        policies="\n".join(rows),
        fuel=strict.cell.fuel_max // strict.sandbox.whole_context_chars_max,
        chars=strict.sandbox.whole_context_chars_max,
        table=_table(costs),
    )


def _table(costs: Costs) -> str:
    lines = ["| | " + " | ".join(LANGUAGES) + " | fuel |", "|---" * (len(LANGUAGES) + 2) + "|"]
    for name in OPERATIONS:
        # The guest's memory grows in steps; less than a twentieth of a byte is no more than that.
        cells = [str(math.ceil(costs[name, language].memory_bytes - 0.05)) for language in LANGUAGES]
        fuel = max(costs[name, language].fuel for language in LANGUAGES)
        lines.append(f"| `{name}` | " + " | ".join(cells) + f" | {math.ceil(fuel / 50) * 50} |")
    return "\n".join(lines)


def told() -> dict[tuple[str, str], Cost]:
    """Return what the page says: of each operation and language the bytes, and of the operation the fuel."""
    found = {}
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if cells[0].strip("`") in OPERATIONS:
            name, *numbers = cells
            for language, number in zip(LANGUAGES, numbers, strict=False):
                found[name.strip("`"), language] = Cost(int(number), int(numbers[-1]))
    return found

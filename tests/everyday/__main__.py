"""Run the everyday cells and print how many of each area work; --write brings the expectations up to date.

What is new among the failures gets what was told of it as its reason, to be replaced by a better one.
"""

from __future__ import annotations

import json
import sys
from collections import Counter

from tests.everyday.trial import EXPECTATIONS, failing, run_all, trials

_HEAD = """\
# The everyday cells that do not work yet, and why. A cell that works while it stands here fails the tests, so
# this list stays true: `python -m tests.everyday --write` takes out what works, and adds what does not.

[failing]
"""


def main(arguments: list[str]) -> int:
    """Print a table of areas; return 1 if anything is not as expected."""
    chosen = trials()
    verdicts, known = run_all(chosen), failing()
    all_of, works = (
        Counter(t.area for t in chosen),
        Counter(t.area for t in chosen if verdicts[t.title] is None),
    )
    for area in all_of:
        print(f"{area:<20}{works[area]:>4} of {all_of[area]:>3}")
    print(f"{'all':<20}{works.total():>4} of {all_of.total():>3}")
    failed = {title: verdict for title, verdict in verdicts.items() if verdict is not None}
    if "--write" in arguments:
        lines = [_line(title, known.get(title) or told) for title, told in failed.items()]
        EXPECTATIONS.write_text(_HEAD + "".join(lines), "utf-8")
        return 0
    for title in sorted(failed.keys() ^ known.keys()):
        print(f"NOT AS EXPECTED {title}: {failed.get(title, 'it works')}")
    return int(failed.keys() != known.keys())


def _line(title: str, reason: str) -> str:
    reason = reason.partition(" Traceback")[0].strip()
    return f"{json.dumps(title, ensure_ascii=False)} = {json.dumps(reason, ensure_ascii=False)}\n"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

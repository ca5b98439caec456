"""threat_model/grades.toml, from the table of attempts: `python -m tests.support.grades_page` writes it."""

from __future__ import annotations

from pathlib import Path

from rlm_wasm.lockdown import LAYERS_OF, Grade
from tests.support.attacks import ATTACKS, WORKS

PAGE = Path(__file__).parents[2] / "threat_model" / "grades.toml"

_HEAD = """\
# What a worker's attempts meet whose native code belongs to an attacker, under each grade of lock-down:
# an error, a signal, or "works". Made from tests/support/attacks.py by `python -m tests.support.grades_page`;
# do not edit. tests/adversarial/test_locked_worker.py makes every attempt under every grade.
#
# locked: with the system-call filter, under each grade the same. The others: without the filter, what stands
# behind it: "full" with every layer, "namespaced" without a namespace of users, "filtered" without any
# namespace. As Linux 6.12 and later answer, whose Landlock knows signals and abstract sockets.
"""


def residual() -> list[str]:
    """Return the attempts that behind the filter only namespaces stop."""
    return [
        name
        for name, row in ATTACKS.items()
        if row.behind_the_filter(Grade.FILTERED) == WORKS != row.behind_the_filter(Grade.FULL)
    ]


def page() -> str:
    """Return the whole file."""
    lines = [_HEAD, "# Behind the filter, only namespaces stop these: residual risk of the grade filtered."]
    lines += ["residual = [", *(f'  "{name}",' for name in residual()), "]", "", "[attempts]"]
    for name, row in ATTACKS.items():
        cells = {"locked": row.locked} | {g.value: row.behind_the_filter(g) for g in LAYERS_OF}
        told = ", ".join(f'{word} = "{outcome}"' for word, outcome in cells.items())
        lines.append(f'"{name}" = {{ {told} }}')
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")

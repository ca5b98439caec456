"""docs/modules.md, made from the modules' docstrings: `python -m tests.support.modules_page` writes it."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Final

import rlm_wasm

ROOT: Final = Path(rlm_wasm.__file__).parent
PAGE: Final = ROOT.parent / "docs" / "modules.md"

# Where the code of a package runs; what is said of it is ARCHITECTURE.md's.
PROCESS: Final[dict[str, str]] = {
    "api": "host",
    "artifacts": "host",
    "audit": "host",
    "bench": "host",
    "cli": "host",
    "compat": "host",
    "conversation": "host",
    "engine": "host",
    "guestbuild": "build",
    "conformance": "build",
    "host": "host",
    "images": "build",
    "inline": "host",
    "inputs": "host",
    "integrations": "host",
    "mcp": "host",
    "jail": "worker",
    "policy": "host",
    "protocol": "host and worker",
    "providers": "host",
    "replay": "host",
    "scheduler": "host",
    "system": "host and worker",
    "answers": "host",
    "tools": "host",
    "vm": "worker, or the host with `inline`",
}

_HEAD: Final = """\
# Modules

Every module, its zone and the process that it runs in.

<!-- Made from the docstrings by `python -m tests.support.modules_page`; do not edit. -->
"""


def page() -> str:
    """Return the page as it should be.

    Raises:
        ValueError: a module has no docstring, or a package no process.
    """
    zones: dict[str, list[str]] = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        if parts[-1] == "__init__" or parts[0].startswith("_"):
            continue
        told = (ast.get_docstring(ast.parse(path.read_text())) or "").partition("\n")[0]
        if not told:
            raise ValueError(f"{path} has no docstring")
        zones.setdefault(parts[0] if len(parts) > 1 else "", []).append(
            f"| `{'.'.join(parts[1:] or parts)}` | {told.replace('|', chr(92) + '|')} |"
        )
    missing = set(zones) - set(PROCESS) - {""}
    if missing:
        raise ValueError(f"no process is named for {sorted(missing)}")
    text = [_HEAD]
    for zone, rows in sorted(zones.items()):
        title = f"`{zone}/`: {PROCESS[zone]}" if zone else "Leaves: every process"
        text += [f"## {title}\n", "| module | what |", "|---|---|", *rows, ""]
    return "\n".join(text)


if __name__ == "__main__":
    PAGE.write_text(page())

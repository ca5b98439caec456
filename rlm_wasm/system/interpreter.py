"""The command of a process of ours: an isolated interpreter that finds what this one finds."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Final

# Isolated, without site: no variable, no .pth file and no user folder decides what is loaded.
_BOOT: Final = (
    "import json, sys; sys.path += [p for p in json.loads(sys.argv[1]) if p not in sys.path]; "
    "from {module} import main; main(*json.loads(sys.argv[2]))"
)


def interpreter_command(module: str, *arguments: int | str) -> list[str] | None:
    """Return the command that runs `main(*arguments)` of a module; None if Python does not know its own.

    To be started with an empty environment.
    """
    if not sys.executable:
        return None
    package = str(Path(__file__).resolve().parents[2])
    paths = [package, *(os.path.abspath(path) for path in sys.path if path and os.path.isdir(path))]
    boot = _BOOT.format(module=module)
    return [sys.executable, "-I", "-S", "-c", boot, json.dumps(paths), json.dumps(arguments)]

"""`rlm-wasm` as a process of its own, the way a person runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-W", "error", "-m", "rlm_wasm"]
SECONDS_MAX = 120


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), **more}


def rlm_wasm(
    *arguments: str | Path, stdin: bytes | str = b"", **more: str
) -> subprocess.CompletedProcess[bytes]:
    """Run the command to its end."""
    data = stdin.encode() if isinstance(stdin, str) else stdin
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        input=data, capture_output=True, timeout=SECONDS_MAX, env=environment(**more),
    )  # fmt: skip


def start(*arguments: str | Path, **pipes: Any) -> subprocess.Popen[bytes]:
    """Start the command; the test ends it."""
    return subprocess.Popen([*COMMAND, *map(str, arguments)], env=environment(), **pipes)


def document(ended: subprocess.CompletedProcess[bytes]) -> dict[str, Any]:
    """Return the one JSON document on stdout."""
    found = json.loads(ended.stdout)
    assert isinstance(found, dict)
    return found

"""The systems that guests run on, and the way out on one where they do not."""

from __future__ import annotations

from typing import Final

_WAYS: Final = {
    "darwin": "macOS: run it in a Linux virtual machine or container there (docs/hosts.md)",
    "win32": "Windows: run it in WSL 2, a virtual machine or a container there (docs/hosts.md)",
}


def not_supported(platform: str) -> tuple[str, str] | None:
    """Return what to say on a system where nothing of this runs, and what to do; None where it runs.

    `platform` is as `sys.platform` says it.
    """
    if platform == "linux":
        return None
    way = _WAYS.get(platform, f"{platform}: run it in a Linux virtual machine or container")
    return (
        "rlm-wasm runs on Linux: inline as well as in processes, guests need its memory files and /proc",
        f"on {way}",
    )

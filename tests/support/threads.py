"""A process that the kernel gives no thread any more."""

from __future__ import annotations

from typing import Any, NoReturn


async def no_thread(*arguments: Any, **more: Any) -> NoReturn:
    """Stand for `anyio.to_thread.run_sync` there."""
    raise RuntimeError("can't start new thread")

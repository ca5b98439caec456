"""The event loops that an embedding program may have."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest

NAMES = ("asyncio", "trio", "uvloop")


def backend_of(name: str) -> tuple[str, dict[str, Any]]:
    """Return anyio's name for an event loop, and the options that choose it."""
    return ("asyncio", {"use_uvloop": True}) if name == "uvloop" else (name, {})


def backends() -> list[Any]:
    """Return a parameter for each event loop; one that is not installed is skipped with that reason."""
    missing = pytest.mark.skipif(importlib.util.find_spec("uvloop") is None, reason="uvloop is not installed")
    return [
        pytest.param(backend_of(name), id=name, marks=[missing] if name == "uvloop" else []) for name in NAMES
    ]

"""What tests over MCP need: the mark of those that need the package, and what is read of its results."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest

MISSING = importlib.util.find_spec("mcp") is None or importlib.util.find_spec("uvicorn") is None
needs_mcp = pytest.mark.skipif(MISSING, reason="the extra is not installed: pip install 'rlm-wasm[mcp]'")


def problem_of(result: Any) -> dict[str, Any]:
    """Return what a call's result says went wrong."""
    assert result.is_error, result
    found = result.structured_content["problem"]
    assert isinstance(found, dict)
    return found

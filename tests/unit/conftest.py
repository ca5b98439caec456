"""Folders of a test's own for cache and state, so that nothing touches the user's."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Point cache and state into the test's folder; return it."""
    monkeypatch.setenv("RLM_WASM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("RLM_WASM_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("RLM_WASM_SHARED_CACHE", "")
    monkeypatch.delenv("RLM_WASM_GUEST", raising=False)
    return tmp_path

"""A valid policy's text, and a way to break it in a named place."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from rlm_wasm.errors import PolicyError
from rlm_wasm.policy.builtin import builtin_path
from rlm_wasm.policy.model import Policy

Edit = Callable[..., Path]


@pytest.fixture
def strict_text() -> str:
    return builtin_path("strict").read_text(encoding="utf-8")


@pytest.fixture
def edited(strict_text: str, tmp_path: Path) -> Edit:
    """Return a function that writes strict.toml with (old, new) pairs applied, each exactly once."""

    def edit(*pairs: tuple[str, str]) -> Path:
        text = strict_text
        for old, new in pairs:
            assert text.count(old) == 1, f"{old!r} must occur once"
            text = text.replace(old, new)
        path = tmp_path / "p.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return edit


@pytest.fixture
def problems_of() -> Callable[[Path], list[str]]:
    """Return a function that loads a bad policy and gives its problems without the folder's name."""

    def load(path: Path) -> list[str]:
        with pytest.raises(PolicyError) as caught:
            Policy.load(path)
        return [line.removeprefix(f"{path.parent}/") for line in caught.value.message.splitlines()]

    return load


@pytest.fixture
def line_of(strict_text: str) -> Callable[[str], int]:
    """Return a function that finds the one line of strict.toml with this text in it."""

    def find(needle: str) -> int:
        lines = [number for number, line in enumerate(strict_text.splitlines(), 1) if needle in line]
        assert len(lines) == 1, f"{needle!r} is on lines {lines}"
        return lines[0]

    return find

"""`rlm-wasm guest` where there is nothing yet, and for what is not pinned."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlm_wasm.cli.main import invoke


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RLM_WASM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("RLM_WASM_STATE", str(tmp_path / "state"))


@pytest.mark.usefixtures("own_folders")
@pytest.mark.parametrize("command", ["info", "verify"])
def test_without_a_guest_the_command_that_builds_it_is_named(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert invoke(["guest", command]) == 2
    shown = capsys.readouterr()
    assert "no guest is built" in shown.err
    assert "rlm-wasm guest build" in shown.err
    assert shown.out == ""


def test_a_series_that_is_not_pinned_is_refused_before_anything_is_fetched(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert invoke(["guest", "build", "--python", "3.9"]) == 2
    assert "no CPython 3.9 is pinned (there is: 3.14, 3.13)" in capsys.readouterr().err
    assert not (tmp_path / "cache" / "downloads").exists()


def test_a_missing_compiler_is_one_error_with_the_line_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    assert invoke(["guest", "build"]) == 2
    shown = capsys.readouterr().err
    assert "no C compiler is installed" in shown
    assert "sudo apt-get install --no-install-recommends gcc libc6-dev" in shown
    assert list((tmp_path / "cache").glob("downloads/*")) == []

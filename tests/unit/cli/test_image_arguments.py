"""`rlm-wasm guest image`: what is wrong with its arguments is said before anything is waited for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from rlm_wasm.artifacts.held_lock import held_lock
from rlm_wasm.cli import image
from rlm_wasm.cli.main import invoke


@pytest.fixture(autouse=True)
def another_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Another build holds the cache for as long as the test takes."""
    monkeypatch.setenv("RLM_WASM_CACHE", str(tmp_path))
    monkeypatch.setattr(image, "WAIT_SECONDS_MAX", 0)
    (tmp_path / "build").mkdir()
    with held_lock(tmp_path / "build" / "lock"):
        yield


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["data", "--with", "six"], "the image data is built in"),
        (["data", "--preload", "six"], "the image data is built in"),
        (["mine"], "the image mine needs packages"),
        (["mine", "--with", "six", "--lock", "LOCK"], "the image mine needs packages"),
        (["mine", "--with", "-r /etc/passwd"], "'-r /etc/passwd' is not a package"),
        (["mine", "--with", "six", "--with", "./six.whl"], "is not a package"),
        (["mine", "--lock", "LOCK", "--preload", "six"], "--preload goes with --with"),
        (["mine", "--lock", "LOCK"], "LOCK: format"),
        (["mine", "--with", "six", "--preload", "a b"], "'a b' is not the name of a module"),
        (["mine", "--with", "six", "--write-lock", "none/lock.toml"], "--write-lock: there is no folder"),
        (["a/b", "--with", "six"], "a/b"),
    ],
)
def test_what_is_wrong_with_the_arguments_is_said_first(
    arguments: list[str],
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "LOCK").write_text("format = 7\nguest = 'base'\npreload = []\npackage = []\n")
    assert invoke(["guest", "image", *arguments]) == 2
    shown = capsys.readouterr().err
    assert told in shown
    assert "another build" not in shown


def test_the_control_another_build_is_waited_for(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image, "find_guest", lambda: None)
    assert invoke(["guest", "image", "mine", "--with", "six"]) == 2
    assert "another build is running on this cache" in capsys.readouterr().err

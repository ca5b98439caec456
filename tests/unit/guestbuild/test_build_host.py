"""A machine that lacks something is told once, with the line that installs it."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlm_wasm.errors import GuestBuildError
from rlm_wasm.guestbuild.build_host import find_compiler, find_make


def test_no_compiler_is_one_error_with_the_apt_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(GuestBuildError, match="no C compiler is installed") as missing:
        find_compiler()
    assert "apt-get install --no-install-recommends gcc libc6-dev" in str(missing.value.hint)


def test_a_compiler_without_headers_is_the_same_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler = tmp_path / "gcc"
    compiler.write_text("#!/bin/sh\necho 'program.c:1: fatal error: stdio.h: No such file' >&2\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(GuestBuildError, match=r"cannot build a program: .*stdio\.h") as broken:
        find_compiler()
    assert "apt-get install" in str(broken.value.hint)


def test_a_machine_without_make_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_make() is None

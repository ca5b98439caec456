"""Build commands: what they say is kept, and nothing of them outlives an interrupt."""

from __future__ import annotations

import os
import select
from pathlib import Path
from time import monotonic

import pytest

from rlm_wasm.errors import GuestBuildError
from rlm_wasm.guestbuild.build_host import clean_env
from rlm_wasm.guestbuild.command import TAIL_LINES, BuildCommands


def shell(script: str, folder: Path, **more: object) -> None:
    BuildCommands().run(
        ["/bin/sh", "-c", script], what="a test", cwd=folder, env=clean_env(), log=folder / "log", **more
    )  # type: ignore[arg-type]


def test_output_goes_to_the_log_and_each_line_is_counted(tmp_path: Path) -> None:
    lines: list[int] = []
    shell("echo one; echo two >&2", tmp_path, on_line=lambda line: lines.append(1))
    assert (tmp_path / "log").read_text().splitlines()[-2:] == ["one", "two"]
    assert len(lines) == 2


def test_a_failure_shows_the_last_lines_and_the_logs_path(tmp_path: Path) -> None:
    with pytest.raises(GuestBuildError) as failed:
        shell("for n in $(seq 1 50); do echo line $n; done; exit 3", tmp_path)
    shown = failed.value.message.splitlines()
    assert shown[0] == "a test failed (exit status 3)"
    assert shown[1:] == [f"  | line {number}" for number in range(51 - TAIL_LINES, 51)]
    assert failed.value.hint == f"the whole log: {tmp_path / 'log'}"
    assert "line 1\n" in (tmp_path / "log").read_text()


def test_a_command_that_a_signal_ended_says_so(tmp_path: Path) -> None:
    with pytest.raises(GuestBuildError, match="signal SIGKILL"):
        shell("kill -9 $$", tmp_path)


def test_a_compiler_that_filled_the_disk_is_reported_as_that(tmp_path: Path) -> None:
    with pytest.raises(GuestBuildError, match="the disk is full: a test") as full:
        shell("echo 'cc: fatal error: No space left on device'; exit 1", tmp_path)
    assert "RLM_WASM_CACHE" in str(full.value.hint)


def test_a_missing_program_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(GuestBuildError, match="a test: cannot run /nonexistent/cc: No such file"):
        BuildCommands().run(["/nonexistent/cc"], what="a test", cwd=tmp_path, env={}, log=tmp_path / "log")


def test_the_users_flags_and_locale_do_not_reach_a_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CFLAGS", "-march=native")
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    shell("env", tmp_path)
    text = (tmp_path / "log").read_text()
    assert "CFLAGS" not in text
    assert "LC_ALL=C\n" in text


@pytest.mark.parametrize("stubborn", ["", "trap '' TERM; "], ids=["willing", "ignores-sigterm"])
def test_an_interrupt_ends_the_whole_process_group(tmp_path: Path, stubborn: str) -> None:
    """The grandchild holds a pipe open: that the pipe hangs up is proof that the process is gone."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)

    def interrupt(line: bytes) -> None:
        raise KeyboardInterrupt

    script = f"{stubborn}(exec 9>{fifo}; echo x >&9; echo ready; exec sleep 100) & wait"
    started = monotonic()
    with pytest.raises(KeyboardInterrupt):
        shell(script, tmp_path, on_line=interrupt)
    assert monotonic() - started < 50
    with os.fdopen(reader, "rb") as stream:
        assert stream.read(2) == b"x\n"
        poller = select.poll()
        poller.register(stream, select.POLLHUP)
        assert poller.poll(5000)

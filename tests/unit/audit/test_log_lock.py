"""Event logs that somebody writes or takes up, and those of which nobody can know."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

import pytest

from rlm_wasm.audit.log_lock import hold, taken_up, why_not_taken_up
from rlm_wasm.audit.reader import EventLogError, read_events
from rlm_wasm.errors import UsageError


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "events.jsonl"
    path.write_bytes(b"")
    return path


def test_one_alone_takes_a_log_up_and_nobody_writes_it_meanwhile(log: Path) -> None:
    with log.open("rb") as reader, log.open("wb") as writer:
        with taken_up(str(log)):
            with pytest.raises(UsageError, match="writes this log, or takes it up"), taken_up(str(log)):
                pytest.fail("taken up twice")
            assert "takes it up" in (why_not_taken_up(reader.fileno()) or "")
            assert not hold(writer.fileno())
        assert why_not_taken_up(reader.fileno()) is None
        fcntl.flock(reader, fcntl.LOCK_UN)
        assert hold(writer.fileno())
        with pytest.raises(UsageError, match="a process writes this log"), taken_up(str(log)):
            pytest.fail("taken up while it is written")


def test_a_log_that_may_not_be_written_is_taken_up_all_the_same(log: Path) -> None:
    log.chmod(0o400)
    with taken_up(str(log)), pytest.raises(UsageError, match="takes it up"), taken_up(str(log)):
        pytest.fail("taken up twice")


def test_a_log_that_is_gone_is_refused(log: Path) -> None:
    log.unlink()
    with pytest.raises(UsageError, match="cannot be read"), taken_up(str(log)):
        pytest.fail("there is nothing to take up")


def test_where_nothing_can_be_locked_a_log_is_written_and_not_taken_up(
    log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its run may be alive: two would ask, and pay, for the same."""
    fd = os.open(log, os.O_PATH)  # which the kernel locks as little as such a file system does
    try:
        assert hold(fd)
        why = why_not_taken_up(fd)
    finally:
        os.close(fd)
    assert why is not None
    assert "nobody knows whether its run still writes it" in why

    def flock(fd: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(EventLogError, match=r"cannot be locked \(No locks available\)") as refused:
        list(read_events(log, killed=True))
    assert "\n" not in refused.value.message
    with pytest.raises(UsageError, match="copy the log to where files can be locked"), taken_up(str(log)):
        pytest.fail("taken up without a lock")

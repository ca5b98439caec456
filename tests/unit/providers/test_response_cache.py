"""The cache of answers: bounded, each tenant's own, and of no harm whatever its file is."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from rlm_wasm.errors import ArtifactError, CacheUnusable
from rlm_wasm.limits import CacheLimits, TenantLimits
from rlm_wasm.providers.response_cache import _OF_ALL, _OF_TENANT, ResponseCache

pytestmark = pytest.mark.anyio

SECRET = bytes(range(32))
ALL = TenantLimits(share_percent=100, cells_max=1, runs_max=1)


@contextmanager
def opened(file: Path | str = "", **over: Any) -> Iterator[ResponseCache]:
    tenants = over.pop("tenants", ALL)
    secret = over.pop("secret", lambda: SECRET)
    answer_bytes_max = over.pop("answer_bytes_max", 10_000)
    limits = CacheLimits(**{"entries_max": 100, "bytes_max": 100_000} | over)
    cache = ResponseCache(limits, tenants, str(file), secret, answer_bytes_max)
    try:
        yield cache
    finally:
        cache.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "answers.db"


@pytest.mark.parametrize("kept", ["memory", "file"])
async def test_what_was_kept_is_there_for_who_asks_the_same(path: Path, kept: str) -> None:
    with opened(path if kept == "file" else "") as cache:
        assert await cache.get("a", b"x") is None
        await cache.put("a", b"x", "Bern \U0001f43b\ud800")
        await cache.put("a", b"y", "")
        assert await cache.get("a", b"x") == "Bern \U0001f43b?"
        assert await cache.get("a", b"y") == ""
        await cache.put("a", b"x", "Basel")
        assert await cache.get("a", b"x") == "Basel"
        assert cache.fault is None
    assert await cache.get("a", b"x") is None, "it is closed"


async def test_a_file_outlives_who_wrote_it_and_is_its_owners_alone(path: Path) -> None:
    with opened(path) as first, opened(path) as second:
        await first.put("a", b"x", "Bern")
        assert await second.get("a", b"x") == "Bern"
    with opened(path) as third:
        assert await third.get("a", b"x") == "Bern"
    assert os.stat(path).st_mode & 0o777 == 0o600


@pytest.mark.threat("T-244")
@pytest.mark.parametrize("kept", ["memory", "file"])
async def test_no_tenant_learns_of_anothers_answers(path: Path, kept: str) -> None:
    with opened(path if kept == "file" else "") as cache:
        await cache.put("a", b"x", "a's own")
        for other in ("", "b", "A", "a "):
            assert await cache.get(other, b"x") is None
        await cache.put("b", b"x", "b's own")
        assert await cache.get("a", b"x") == "a's own"


async def test_it_keeps_so_many_and_those_that_were_used_last() -> None:
    with opened(entries_max=3) as cache:
        for name in (b"1", b"2", b"3"):
            await cache.put("a", name, "x")
        assert await cache.get("a", b"1") == "x"
        await cache.put("a", b"4", "x")
        assert [await cache.get("a", name) for name in (b"1", b"2", b"3", b"4")] == ["x", None, "x", "x"]


async def test_it_keeps_so_many_bytes_and_none_that_are_more_by_themselves() -> None:
    with opened(bytes_max=5_000) as cache:
        await cache.put("a", b"1", "x" * 2_000)
        await cache.put("a", b"2", "x" * 2_000)
        await cache.put("a", b"3", "x" * 2_000)
        found = [await cache.get("a", name) is not None for name in (b"1", b"2", b"3")]
        assert found == [False, True, True]
        await cache.put("a", b"4", "x" * 9_000)
        assert await cache.get("a", b"4") is None
        assert await cache.get("a", b"3") is not None


@pytest.mark.threat("T-244")
async def test_who_fills_a_share_puts_out_nobodys_answers_but_its_own() -> None:
    half = TenantLimits(share_percent=50, cells_max=1, runs_max=1)
    with opened(entries_max=10, tenants=half) as cache:
        await cache.put("b", b"x", "b's")
        for number in range(50):
            await cache.put("a", str(number).encode(), "a's")
        assert await cache.get("b", b"x") == "b's"
        assert [await cache.get("a", str(n).encode()) for n in range(44, 50)] == [None, *["a's"] * 5]


def damaged(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[100:] = os.urandom(len(raw) - 100)
    path.write_bytes(raw)


def no_database(path: Path) -> None:
    path.write_bytes(b"no database" * 1_000)


def other_tables(path: Path) -> None:
    path.unlink()
    path.touch(0o600)
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE answers (key, answer)")
    database.close()


def a_trigger_more(path: Path) -> None:
    with sqlite3.connect(path) as database:
        database.execute("CREATE TRIGGER t AFTER UPDATE ON answers BEGIN DELETE FROM answers; END")
    database.close()


def another_answer(path: Path) -> None:
    with sqlite3.connect(path) as database:
        database.execute("UPDATE answers SET answer = ?", (b"Geneva",))
    database.close()


def an_answer_of_another_kind(path: Path) -> None:
    with sqlite3.connect(path) as database:
        database.execute("UPDATE answers SET answer = 7")
    database.close()


def an_answer_that_is_no_text(path: Path) -> None:
    with sqlite3.connect(path) as database:
        database.execute("UPDATE answers SET answer = CAST(x'ff' AS TEXT)")
    database.close()


def a_huge_text(path: Path) -> None:
    with sqlite3.connect(path) as database:
        database.execute("UPDATE answers SET answer = CAST(zeroblob(150000) AS TEXT)")
    database.close()


def a_huge_seal(path: Path) -> None:
    with sqlite3.connect(path) as database:
        database.execute("UPDATE answers SET seal = zeroblob(150000)")
    database.close()


def a_huge_file(path: Path) -> None:
    with path.open("ab") as stream:
        stream.truncate(10_000_000)


def for_all_to_write(path: Path) -> None:
    path.chmod(0o666)


def a_link(path: Path) -> None:
    path.rename(path.with_suffix(".other"))
    path.symlink_to(path.with_suffix(".other"))


def a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path, 0o600)


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


BAD = (
    damaged, no_database, other_tables, a_trigger_more, another_answer, an_answer_of_another_kind,
    an_answer_that_is_no_text, a_huge_text, a_huge_seal, a_huge_file, for_all_to_write,
    a_link, a_pipe, a_folder,
)  # fmt: skip


@pytest.mark.threat("T-245")
@pytest.mark.parametrize("spoil", BAD)
async def test_a_file_that_is_none_of_ours_is_told_and_nothing_of_it_is_used(path: Path, spoil: Any) -> None:
    with opened(path) as cache:
        await cache.put("a", b"x", "Bern")
    spoil(path)
    with opened(path) as cache:
        assert await cache.get("a", b"x") is None
        assert isinstance(cache.fault, CacheUnusable)
        assert str(path) in cache.fault.message
        await cache.put("a", b"y", "Basel")  # and nothing is written to it
        assert await cache.get("a", b"y") is None


@pytest.mark.threat("T-245")
@pytest.mark.parametrize("length", [10_001, 70_000, 150_000])
async def test_an_answer_longer_than_this_policy_takes_is_none(path: Path, length: int) -> None:
    """Another policy may have kept it; a file may as well claim it. Either way it is not read."""
    with opened(path, answer_bytes_max=200_000, bytes_max=400_000) as other:
        await other.put("a", b"x", "x" * length)
        await other.put("a", b"y", "Basel")
        assert other.fault is None
    with opened(path, bytes_max=400_000) as cache:
        assert await cache.get("a", b"x") is None
        assert await cache.get("a", b"y") == "Basel"
        await cache.put("a", b"x", "Bern")
        assert await cache.get("a", b"x") == "Bern"
        assert cache.fault is None


async def test_a_file_that_we_have_filled_is_one_that_we_open(path: Path) -> None:
    """Also where its entries say that they are small, and so none goes before the last page is full."""
    most = 4 * 20_000 + 64 * 4_096
    with opened(path, entries_max=100_000, bytes_max=20_000) as cache:
        for number in range(60):
            await cache.put("a", str(number).encode(), "x" * 8_000)
            assert cache.fault is None
            assert await cache.get("a", str(number).encode()) is not None
            with closing(sqlite3.connect(path)) as other, suppress(sqlite3.OperationalError), other:
                other.execute(f"PRAGMA max_page_count = {most // 4_096}")
                other.execute("UPDATE answers SET size = 0")
    assert most - 4 * 4_096 < os.stat(path).st_size <= most
    with opened(path, bytes_max=20_000) as cache:
        assert await cache.get("a", b"59") == "x" * 8_000
        assert cache.fault is None


@pytest.mark.parametrize("queries", [_OF_TENANT, _OF_ALL])
async def test_no_answer_is_looked_at_to_know_how_much_there_is(path: Path, queries: tuple[str, str]) -> None:
    with opened(path) as cache:
        await cache.put("a", b"x", "Bern")
    with closing(sqlite3.connect(path)) as database:
        parameters = (b"",) * queries[0].count("?")
        plan = database.execute(f"EXPLAIN QUERY PLAN {queries[0]}", parameters).fetchall()
        assert len(plan) == 1
        assert "USING COVERING INDEX" in plan[0][-1]
        (oldest,) = database.execute(f"EXPLAIN QUERY PLAN {queries[1]}", parameters).fetchall()
        assert "USING INDEX" in oldest[-1], "and nothing is sorted"


@pytest.mark.threat("T-245")
async def test_a_file_without_this_machines_seal_is_told(path: Path) -> None:
    with opened(path) as cache:
        await cache.put("a", b"x", "Bern")
    with opened(path, secret=lambda: bytes(32)) as other:
        assert await other.get("a", b"x") is None, "another key, other names"

    def none() -> bytes:
        raise ArtifactError("no key here")

    with opened(path, secret=none) as keyless:
        assert await keyless.get("a", b"x") is None
        assert keyless.fault is not None
        assert "no key here" in keyless.fault.message


@pytest.mark.threat("T-245")
async def test_a_file_that_is_locked_is_told_and_used_again_once_it_is_not(path: Path) -> None:
    with opened(path) as cache:
        await cache.put("a", b"x", "Bern")
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN EXCLUSIVE")
        assert await cache.get("a", b"x") is None
        await cache.put("a", b"y", "Basel")
        assert cache.fault is not None
        assert "locked by another process" in cache.fault.message
        other.execute("ROLLBACK")
        other.close()
        assert await cache.get("a", b"x") == "Bern"
        assert cache.fault is None
        assert await cache.get("a", b"y") is None
        await cache.put("a", b"y", "Basel")
        assert await cache.get("a", b"y") == "Basel"


async def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with opened(tmp_path / "none" / "answers.db") as cache:
        assert await cache.get("a", b"x") is None
        assert cache.fault is not None

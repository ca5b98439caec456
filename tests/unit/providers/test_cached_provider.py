"""What a cached provider does beside giving answers again: it works once, and loses nothing that has come."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import anyio
import pytest

from rlm_wasm.limits import CacheLimits, TenantLimits
from rlm_wasm.providers.base import Completion, Query
from rlm_wasm.providers.cached_provider import CachedProvider, PreparedQuery
from rlm_wasm.providers.http_provider import HttpProvider
from rlm_wasm.providers.registry import open_provider
from rlm_wasm.providers.response_cache import ResponseCache
from rlm_wasm.scheduler.messages import FinishReason
from tests.support.provider_loopback import (
    KEY,
    KEY_VARIABLE,
    Loopback,
    completion_body,
    http,
    policy_for,
    query,
)

pytestmark = pytest.mark.anyio

ALL = TenantLimits(share_percent=100, cells_max=1, runs_max=1)


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[ResponseCache]:
    limits = CacheLimits(entries_max=100, bytes_max=100_000)
    file = str(tmp_path / "answers.db")
    with closing(ResponseCache(limits, ALL, file, lambda: bytes(32), 10_000)) as made:
        yield made


async def test_a_body_is_written_once_whether_or_not_it_is_found(
    server: Loopback, cache: ResponseCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[Query] = []
    body = HttpProvider._body

    def counted(provider: HttpProvider, query: Query) -> bytes:
        written.append(query)
        return body(provider, query)

    monkeypatch.setattr(HttpProvider, "_body", counted)
    choice = {"index": 0, "message": {"content": "Bern"}, "finish_reason": "stop"}
    server.behaviour = lambda _seen, write: write(http("200 OK", completion_body(choices=[choice])))
    provider, _ = open_provider("openai:gpt-5-mini", policy_for(server.url), {KEY_VARIABLE: KEY})
    try:
        for sampled, uses in ((False, [None]), (True, ["miss", "hit"])):
            cached = CachedProvider(provider, cache, "a", sampled=sampled)
            for use in uses:
                written.clear()
                completion = await cached.complete(query())
                assert (completion.text, completion.cache) == ("Bern", use)
                assert len(written) == 1
    finally:
        await provider.aclose()
    assert len(server.requests) == 2
    assert server.requests[0].body == server.requests[1].body


class CancelledAfterwards:
    """A provider whose asker is cancelled in the moment in which the answer has come."""

    def __init__(self, scope: anyio.CancelScope) -> None:
        self._scope = scope

    async def complete(self, query: Query) -> Completion:
        self._scope.cancel()
        return Completion("Bern", 1, 1, FinishReason.STOP)

    def prepare(self, query: Query) -> PreparedQuery:
        return PreparedQuery(b"x", False, lambda: self.complete(query))

    async def aclose(self) -> None:
        pass


async def test_an_answer_that_has_come_is_kept_although_its_asker_is_cancelled(cache: ResponseCache) -> None:
    completion = None
    with anyio.CancelScope() as scope:
        completion = await CachedProvider(CancelledAfterwards(scope), cache, "a", sampled=False).complete(
            query()
        )
    assert completion == Completion("Bern", 1, 1, FinishReason.STOP, cache="miss")
    assert await cache.get("a", b"x") == "Bern"


@pytest.mark.threat("T-245")
async def test_an_answer_that_cannot_be_put_away_is_an_answer(cache: ResponseCache, tmp_path: Path) -> None:
    await cache.put("a", b"y", "Basel")
    completion = None
    with closing(sqlite3.connect(tmp_path / "answers.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with anyio.CancelScope() as scope:
            provider = CancelledAfterwards(scope)
            completion = await CachedProvider(provider, cache, "a", sampled=False).complete(query())
    assert completion == Completion("Bern", 1, 1, FinishReason.STOP, cache="unusable")
    assert await cache.get("a", b"x") is None

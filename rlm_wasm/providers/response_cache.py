"""Answers that models gave before, kept for whoever asks exactly the same again: in memory or in a file.

The file is data from outside: it may be damaged, locked, or somebody else's work. What is read of it counts
only with a seal by this machine's key, and whatever goes wrong makes the cache unusable and nothing more: a
run goes on as if there were none. Tenants share the room and nothing else: the tenant is part of each key.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import sqlite3
import stat
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final, TypeVar

import anyio
import anyio.to_thread

from rlm_wasm.errors import ArtifactError, CacheUnusable
from rlm_wasm.limits import CacheLimits, TenantLimits

T = TypeVar("T")

KEY_BYTES: Final = 32
_MAC_BYTES: Final = 32
_SCHEMA: Final = (
    "CREATE TABLE answers (key BLOB PRIMARY KEY, tenant BLOB NOT NULL, used INTEGER NOT NULL, "
    "size INTEGER NOT NULL, answer BLOB NOT NULL, seal BLOB NOT NULL)",
    # With the size, so that they are added up without a look at the answers.
    "CREATE INDEX by_tenant ON answers (tenant, used, size)",
    "CREATE INDEX by_use ON answers (used, size)",
)
# How much there is, and what of it was used longest ago.
_OF_TENANT: Final = (
    "SELECT COUNT(*), TOTAL(size) FROM answers WHERE tenant = ?",
    "SELECT key, size FROM answers WHERE tenant = ? ORDER BY used LIMIT 1",
)
_OF_ALL: Final = (
    "SELECT COUNT(*), TOTAL(size) FROM answers",
    "SELECT key, size FROM answers ORDER BY used LIMIT 1",
)
# What an entry takes beside its answer: key, seal, numbers, its places in the indexes.
_ENTRY_BYTES: Final = 256
# How many times as large as its answers a file may be: pages that are half full, and those of indexes.
_FILE_OVERHEAD: Final = 4
_PAGE_BYTES: Final = 4_096
# How long another process may hold the file.
_LOCKED_S_MAX: Final = 0.2
# Instructions of SQLite's machine that one step may take: no file keeps us busy for long.
_INSTRUCTIONS: Final = 100_000
_STEPS_MAX: Final = 500
_IN_MEMORY: Final = ":memory:"


class ResponseCache:
    """At most `entries_max` answers of `bytes_max` bytes, of which a tenant may have its share.

    It is opened when it is first asked. `secret` gives the key of the seals, and may raise ArtifactError.
    """

    def __init__(
        self,
        limits: CacheLimits,
        tenants: TenantLimits,
        file: str,
        secret: Callable[[], bytes],
        answer_bytes_max: int,
    ) -> None:
        self._limits: Final = limits
        self._tenants: Final = tenants
        self._file: Final = file
        self._secret: Final = secret
        self._answer_bytes_max: Final = answer_bytes_max
        # One at a time, in a thread that nothing else of the process waits for.
        self._turn: Final = anyio.CapacityLimiter(1)
        self._lock: Final = threading.Lock()
        self._key = b""
        self._database: sqlite3.Connection | None = None
        self._steps = 0
        self._times_locked = 0
        self._closed = False
        # Why it is of no use now. One that is only locked may be of use again.
        self.fault: CacheUnusable | None = None
        self._broken = False

    async def get(self, tenant: str, digest: bytes) -> str | None:
        """Return what was answered, or None; also where the cache is of no use: `fault` says so.

        Cancelled, it waits no longer for those before it; what it has begun itself it ends.
        """
        return await self._do(lambda: self._get(tenant, digest))

    async def put(self, tenant: str, digest: bytes, text: str) -> None:
        """Keep an answer, in the place of those that were used longest ago. Of cancellations: as `get`."""
        await self._do(lambda: self._put(tenant, digest, text.encode("utf-8", "replace")))

    def close(self) -> None:
        """Close it for good, waiting for nobody; calling it twice is harmless."""
        self._closed = True
        self._close_unless_used()

    def _close_unless_used(self) -> None:
        if self._lock.acquire(blocking=False):  # else whoever has it closes it
            try:
                self._forget()
            finally:
                self._lock.release()

    async def _do(self, act: Callable[[], T]) -> T | None:
        if self._broken or self._closed:
            return None
        times_locked = self._times_locked
        return await anyio.to_thread.run_sync(self._guarded, act, times_locked, limiter=self._turn)

    def _guarded(self, act: Callable[[], T], times_locked: int) -> T | None:
        """Do something with the database, unless it was found locked since `times_locked`.

        So who waited while one found it locked does not wait for that once more.
        """
        try:
            with self._lock:
                if self._broken or self._closed or times_locked != self._times_locked:
                    return None
                return self._tried(act)
        finally:
            if self._closed:
                self._close_unless_used()

    def _tried(self, act: Callable[[], T]) -> T | None:
        """Do something with the database; whatever it raises is a fault of the cache, never of a run."""
        try:
            self._steps = 0
            if self._database is None:
                self._database = self._open()
            result = self._done(act)
        except sqlite3.OperationalError as error:
            if _is(error, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                self._times_locked += 1
                self._failed("is locked by another process", broken=False)
            else:
                self._failed(str(error), broken=True)
        except (sqlite3.Error, OSError, ArtifactError, OverflowError, TypeError, ValueError) as error:
            self._failed(error.message if isinstance(error, ArtifactError) else str(error), broken=True)
        else:
            self.fault = None
            return result
        return None

    def _done(self, act: Callable[[], T]) -> T:
        try:
            return act()
        except sqlite3.OperationalError as error:
            if self._database is None or not _is(error, sqlite3.SQLITE_FULL):
                raise
            # It has all its pages, which its entries should not have taken: begun anew it has room again.
            self._roll_back()
            self._database.execute("DELETE FROM answers")
            return act()

    def _failed(self, why: str, *, broken: bool) -> None:
        what = f"the response cache {self._file!a}" if self._file else "the response cache"
        hint = "remove the file; a new one is made" if broken and self._file else None
        self.fault = CacheUnusable(f"{what} cannot be used: {why[:200]}", hint=hint)
        self._broken = broken
        if broken:
            self._forget()
        else:
            with suppress(sqlite3.Error):
                self._roll_back()

    def _roll_back(self) -> None:
        if self._database is not None and self._database.in_transaction:
            self._database.execute("ROLLBACK")

    def _forget(self) -> None:
        database, self._database = self._database, None
        if database is not None:
            with suppress(sqlite3.Error):
                database.close()

    # -- the database -------------------------------------------------------------------------------

    def _open(self) -> sqlite3.Connection:
        self._key = self._secret()
        if self._file:
            _make_private(Path(self._file), self._file_bytes_max)
        database = sqlite3.connect(
            self._file or _IN_MEMORY, timeout=_LOCKED_S_MAX, isolation_level=None, check_same_thread=False
        )
        try:
            self._prepare(database)
        except BaseException:  # one that was only locked too: it is not used before all of it was looked at
            database.close()
            raise
        return database

    def _prepare(self, database: sqlite3.Connection) -> None:
        # Before anything is read: nothing in a file is trusted, run or let grow.
        database.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, self._answer_bytes_max + 64 * 1024)
        database.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
        database.set_progress_handler(self._takes_too_long, _INSTRUCTIONS)
        for setting in ("trusted_schema = OFF", "cell_size_check = ON", "mmap_size = 0", "synchronous = OFF"):
            database.execute(f"PRAGMA {setting}")
        found = self._schema(database)
        if not found:
            database.execute("BEGIN IMMEDIATE")
            if not self._schema(database):  # nobody was first
                for statement in _SCHEMA:
                    database.execute(statement)
            database.execute("COMMIT")
            found = self._schema(database)
        if found != sorted(_SCHEMA):
            raise CacheUnusable("it is no cache of ours")
        page_bytes = database.execute("PRAGMA page_size").fetchone()[0]
        database.execute(f"PRAGMA max_page_count = {self._file_bytes_max // page_bytes}")

    @property
    def _file_bytes_max(self) -> int:
        return _FILE_OVERHEAD * self._limits.bytes_max + 64 * _PAGE_BYTES

    def _schema(self, database: sqlite3.Connection) -> list[str]:
        rows = database.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL LIMIT 8")
        return sorted(str(sql) for (sql,) in rows)

    def _takes_too_long(self) -> bool:
        self._steps += 1
        return self._steps > _STEPS_MAX

    def _get(self, tenant: str, digest: bytes) -> str | None:
        assert self._database is not None
        owner, key = self._names(tenant, digest)
        # Another policy may keep longer ones than this one takes. Their length is known without reading them.
        found = "SELECT answer, seal FROM answers WHERE key = ? AND length(answer) <= ?"
        row = self._database.execute(found, (key, self._answer_bytes_max)).fetchone()
        if row is None:
            return None
        answer, seal = row
        if not (isinstance(answer, bytes) and isinstance(seal, bytes)):
            raise CacheUnusable("it holds what is none of ours")
        if not hmac.compare_digest(seal, self._mac(b"answer", key, owner, answer)):
            raise CacheUnusable("it holds an answer without this machine's seal")
        text = answer.decode()
        self._note_use(key)
        return text

    def _note_use(self, key: bytes) -> None:
        """Note that an answer was used, if that can be done at once: nobody's answer is lost for it."""
        assert self._database is not None
        self._database.execute("PRAGMA busy_timeout = 0")
        try:
            self._database.execute("UPDATE answers SET used = ? WHERE key = ?", (self._next_use(), key))
        except sqlite3.OperationalError as error:
            if not _is(error, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL):
                raise
            self._roll_back()
        finally:
            self._database.execute(f"PRAGMA busy_timeout = {round(_LOCKED_S_MAX * 1000)}")

    def _put(self, tenant: str, digest: bytes, answer: bytes) -> None:
        assert self._database is not None
        limits, size = self._limits, len(answer) + _ENTRY_BYTES
        if len(answer) > self._answer_bytes_max or size > self._tenants.share_of(limits.bytes_max):
            return
        owner, key = self._names(tenant, digest)
        self._database.execute("BEGIN IMMEDIATE")
        self._database.execute("DELETE FROM answers WHERE key = ?", (key,))
        share_of = self._tenants.share_of
        self._make_room(_OF_TENANT, (owner,), share_of(limits.entries_max), share_of(limits.bytes_max) - size)
        self._make_room(_OF_ALL, (), limits.entries_max, limits.bytes_max - size)
        row = (key, owner, self._next_use(), size, answer, self._mac(b"answer", key, owner, answer))
        self._database.execute("INSERT INTO answers VALUES (?, ?, ?, ?, ?, ?)", row)
        self._database.execute("COMMIT")

    def _make_room(
        self, queries: tuple[str, str], owner: tuple[bytes, ...], entries_max: int, bytes_max: int
    ) -> None:
        """Take out those that were used longest ago, until there is room for one more entry."""
        assert self._database is not None
        counted, oldest = queries
        entries, taken = self._database.execute(counted, owner).fetchone()
        while entries and (entries >= entries_max or taken > bytes_max):
            key, freed = self._database.execute(oldest, owner).fetchone()
            self._database.execute("DELETE FROM answers WHERE key = ?", (key,))
            entries, taken = entries - 1, taken - freed

    def _next_use(self) -> int:
        assert self._database is not None
        (last,) = self._database.execute("SELECT MAX(used) FROM answers").fetchone()
        return int(last or 0) + 1

    def _names(self, tenant: str, digest: bytes) -> tuple[bytes, bytes]:
        """Return what stands for a tenant and for its request: neither can be told from the file."""
        owner = self._mac(b"tenant", tenant.encode("utf-8", "surrogatepass"))
        return owner, self._mac(b"request", owner, digest)

    def _mac(self, purpose: bytes, *parts: bytes) -> bytes:
        made = hashlib.blake2b(key=self._key, person=purpose, digest_size=_MAC_BYTES)
        for part in parts:
            made.update(len(part).to_bytes(8, "little") + part)
        return made.digest()


def _is(error: sqlite3.OperationalError, *codes: int) -> bool:
    """Say whether SQLite raised it for one of these reasons. Some are of Python's module, without any."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in codes


def _make_private(path: Path, bytes_max: int) -> None:
    """Make a file that nobody else reads, or raise CacheUnusable for one that is there and is another's."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
    try:
        facts = os.fstat(descriptor)
    finally:
        os.close(descriptor)
    if not stat.S_ISREG(facts.st_mode):
        raise CacheUnusable("it is no regular file")
    if facts.st_uid != os.geteuid() or facts.st_mode & 0o077:
        raise CacheUnusable("others may read or write it, or it is another user's; chmod 600 if it is yours")
    if facts.st_size > bytes_max:
        raise CacheUnusable(f"it has {facts.st_size} bytes, and cache.bytes_max makes {bytes_max} at most")

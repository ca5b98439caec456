"""`Snapshot`: a session's state, to fork as often as wanted, or to keep in a file."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Awaitable, Callable
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Final

from rlm_wasm.api.fork_streams import fork_stream
from rlm_wasm.api.forks import Forks, check_count, make_forks
from rlm_wasm.api.opening import ForksOpening, SessionOpening
from rlm_wasm.api.snapshot_key import snapshot_key
from rlm_wasm.artifacts.process_guest import process_guest
from rlm_wasm.engine.isolation import restorable_snapshot
from rlm_wasm.errors import UsageError
from rlm_wasm.host.held_inputs import HeldInputs
from rlm_wasm.policy.model import Policy
from rlm_wasm.protocol.session_snapshot import SessionSnapshot

if TYPE_CHECKING:
    from rlm_wasm.api.sandbox import Sandbox, SandboxSession

_PAGE: Final = 4096
_NUMBER: Final = struct.Struct("<Q")


class Snapshot:
    """The state of one session at one moment: functions, objects, imports, a half-read generator.

    Immutable. Sessions made from it share its memory until they write, and do not see each other.
    """

    def __init__(
        self,
        policy: Policy,
        snapshot: SessionSnapshot,
        tenant: str = "",
        *,
        sandbox: Sandbox | None = None,
        inputs: HeldInputs | None = None,
        stream: int | None = None,
    ) -> None:
        self._policy = policy
        self._sandbox = sandbox
        self._snapshot = snapshot
        self._tenant = tenant
        self._inputs = HeldInputs() if inputs is None else inputs.copy()
        # What the streams of its forks come from; None: from its contents, since it was read from a file.
        self._stream = stream
        self._forks = 0

    @property
    def inputs(self) -> HeldInputs:
        """What of its inputs lies with the host: none of what was read from a file."""
        return self._inputs

    def state_for(self, tenant: str) -> SessionSnapshot:
        """Return what a worker starts a tenant's session from.

        Raises:
            UsageError: the snapshot is another tenant's, whatever the isolation.
        """
        if tenant != self._tenant:
            raise UsageError("the snapshot is another tenant's")
        return self._snapshot

    @property
    def image(self) -> str:
        """The image that it was started from, as `sandbox.image` names it; no other can start it."""
        return self._policy.sandbox.image

    @property
    def bytes_held(self) -> int:
        """The memory that the pages this snapshot adds to its origin take."""
        return self._snapshot.bytes_held

    def digest(self) -> str:
        """Return a SHA-256 of the state: the same for a saved snapshot and what is loaded from it.

        Of what it adds to the guest's base image, of which a log of events has a digest of its own.
        Raises ArtifactError if the worker that made the snapshot did not make one.
        """
        return self._digest

    @cached_property
    def _digest(self) -> str:
        state = self._snapshot
        digest = hashlib.sha256(_NUMBER.pack(state.size) + _NUMBER.pack(state.virtual_ns))
        # By pages: how they are put together into runs is not the state's.
        for offset, data in state.flattened():
            for at in range(0, len(data), _PAGE):
                digest.update(_NUMBER.pack(offset + at))
                digest.update(memoryview(data)[at : at + _PAGE])
        return digest.hexdigest()

    def session(self) -> SessionOpening:
        """Fork a session. The first fork lays the snapshot out in memory; the others take microseconds.

        To be awaited or entered, as `Sandbox.session`, and raises what that raises; UsageError also for what
        a runtime has loaded, which forks it in `ask`.
        """
        return self._open_sandbox().session(snapshot=self, tenant=self._tenant)

    def fork(self, n: int) -> ForksOpening:
        """Make `n` sessions from it, all of them or none, as `SandboxSession.fork` does of a live one.

        Takes and raises what that does; UsageError also for what a runtime has loaded. Under `entropy =
        "seeded"` the forks of a snapshot that was loaded from a file draw the same in each program.
        """
        self._open_sandbox()
        check_count(n, self._policy)

        async def make() -> Forks:
            return await make_forks(n, self.forking(n))

        return ForksOpening(make)

    def forking(self, n: int) -> Callable[[int], Awaitable[SandboxSession]]:
        """Return what makes the next `n` forks, each by its number below that. Raises as `session`."""
        sandbox, streams = self._open_sandbox(), self._next_streams(n)
        return lambda number: sandbox.open_fork(self, self._tenant, streams[number])

    def _next_streams(self, n: int) -> list[int]:
        if self._stream is None:
            # Of its contents, which take a while to look at, where somebody draws from a stream.
            seeded = self._policy.sandbox.entropy == "seeded"
            self._stream = int(self.digest()[:15], 16) if seeded else 0
        first, self._forks = self._forks, self._forks + n
        return [fork_stream(self._stream, first + each) for each in range(n)]

    def _open_sandbox(self) -> Sandbox:
        if self._sandbox is None:
            raise UsageError(
                "a runtime has loaded the snapshot",
                hint="give it to `Runtime.ask(…, snapshot=…)`, or load it with a `Sandbox`",
            )
        return self._sandbox

    def save(self, path: str | Path, *, key: bytes | None = None, tenant: str | None = None) -> None:
        """Write the snapshot to a file, compressed, encrypted and authenticated with `key` (32 bytes).

        It can be loaded only with the same key, for the same tenant, by the same guest build: for the
        snapshot's own tenant, unless the host gives it to another one. Without `key` it is the one in the
        environment variable that `sandbox.snapshot_key_env` names.

        Raises:
            UsageError: there is no key, or it has another length; or the tenant's name is too long.
            ArtifactError: the file cannot be written.
        """
        # Here and not above: most sessions are never saved, and compression and ciphers take time to load.
        from rlm_wasm.artifacts.snapshot_file import write_snapshot_file

        snapshot = self._snapshot
        write_snapshot_file(
            host_path(path),
            snapshot_key(self._policy, key),
            guest=process_guest(self.image, keep=True).identity,
            tenant=self._tenant if tenant is None else tenant,
            size=snapshot.size,
            virtual_ns=snapshot.virtual_ns,
            runs=snapshot.flattened(),
        )


def check_snapshot(snapshot: object, policy: Policy) -> None:
    """Raise UsageError for what is no snapshot, or one of another image than the policy's."""
    if not isinstance(snapshot, Snapshot):
        raise UsageError(
            f"a snapshot is a Snapshot, not a {type(snapshot).__name__}",
            hint="`session.snapshot()` gives one, `load_snapshot(path)` a saved one",
        )
    if snapshot.image != policy.sandbox.image:
        raise UsageError(
            f"the snapshot is one of the image {snapshot.image}, and sandbox.image is {policy.sandbox.image}"
        )


def load_snapshot(
    policy: Policy, path: str | Path, key: bytes | None, tenant: str, *, sandbox: Sandbox | None = None
) -> Snapshot:
    """Read a snapshot that `Snapshot.save` wrote. Raises what `Sandbox.load_snapshot` lists."""
    # Here and not above: most sessions are never saved, and compression and ciphers take time to load.
    from rlm_wasm.artifacts.snapshot_file import read_snapshot_file

    header, runs = read_snapshot_file(
        host_path(path),
        snapshot_key(policy, key),
        guest=process_guest(policy.sandbox.image, keep=True).identity,
        tenant=tenant,
        memory_bytes_max=policy.sandbox.memory_bytes_max,
    )
    state = restorable_snapshot(policy, tenant, runs, size=header.size, virtual_ns=header.virtual_ns)
    return Snapshot(policy, state, tenant, sandbox=sandbox)


def host_path(path: object) -> Path:
    """Return the path of a snapshot's file. Raises UsageError for what is none."""
    if not isinstance(path, str | PathLike) or "\0" in str(path):
        raise UsageError(f"a snapshot's path is a str or a Path without a NUL, not {path!a:.200}")
    return Path(path)

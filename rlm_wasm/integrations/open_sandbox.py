"""`OpenSandbox`: a sandbox for whoever calls, on any thread."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable, Iterable
from typing import Final, ParamSpec, TypeVar

import anyio.to_thread

from rlm_wasm.api.background_loop import BackgroundLoop
from rlm_wasm.api.sandbox import Sandbox, SandboxSession
from rlm_wasm.errors import UsageError
from rlm_wasm.policy.model import Policy
from rlm_wasm.tools.tool import ToolLike, as_tools

_T = TypeVar("_T")
_P = ParamSpec("_P")


class OpenSandbox:
    """A sandbox on an event loop of its own, opened by the first call, until `close`.

    Its sessions live there; what is async about them is called through here.
    """

    def __init__(self, policy: Policy, tools: Iterable[ToolLike] = ()) -> None:
        self._sandbox: Final = Sandbox(policy, tools=tools)
        # Where an event loop runs on the caller's thread, it stands still meanwhile.
        self._loop: Final = BackgroundLoop("the sandbox", instead=None)
        self._lock: Final = threading.Lock()
        self._closed = False
        # Whether all of it was opened: the loop is there before its sandbox is.
        self._is_ready = False

    @property
    def policy(self) -> Policy:
        """What bounds it."""
        return self._sandbox.policy

    @property
    def is_open(self) -> bool:
        """Whether something runs in it."""
        return self._loop.is_open

    def open(self) -> None:
        """Start what runs the sessions, unless it was.

        Raises:
            UsageError: it is closed, or belongs to the process that this one was forked from.
            LockdownError, HostExhausted, ArtifactError: this machine cannot run one.
        """
        with self._lock:
            if self._closed:
                raise UsageError("this sandbox is closed: open another one")
            if not self._loop.is_open:
                self._loop.open(self._sandbox)
                self._is_ready = True

    def close(self) -> None:
        """End all sessions, for good."""
        with self._lock:
            self._closed = True
            self._is_ready = False
            if self._loop.is_open:
                self._loop.close(None, None, None)

    def call(self, function: Callable[_P, Awaitable[_T]], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Call an async function there, and wait for what it returns or raises; interrupted, cancel it."""
        self.open()
        return self._loop.call(function, *args, **kwargs)

    async def wait(self, function: Callable[_P, Awaitable[_T]], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Do what `call` does, for a caller on an event loop, which goes on meanwhile; cancelled, end it."""
        if not self._is_ready:
            await anyio.to_thread.run_sync(self.open)
        return await self._loop.wait(function, *args, **kwargs)

    def check_tools(self, tools: Iterable[ToolLike], tenant: str) -> None:
        """Check that a tenant may have these. Raises UsageError."""
        self._sandbox.grants.of(as_tools(tools), tenant, wanted=True)

    async def session(self, tenant: str = "") -> SandboxSession:
        """Make a session; to be called there. Raises what `Sandbox.session` does."""
        return await self._sandbox.session(tenant=tenant)

"""Models that the package `litellm` knows a way to, for providers of no other kind.

The package is an extra, loaded when a policy has such a provider. It is the one that talks to the network
then, and what holds for our own connections holds here as far as it keeps to it. It is asked once, with the
host's cap and deadline, and what it gives back goes through the gate of every chat completion.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from typing import Any, Final

import anyio

from rlm_wasm.errors import UsageError
from rlm_wasm.policy.model import Policy
from rlm_wasm.policy.provider_tables import ProviderTable
from rlm_wasm.providers.base import Completion, ProviderFailure, Query
from rlm_wasm.providers.chat_answer import completion_of
from rlm_wasm.providers.endpoint import sent_along_of
from rlm_wasm.providers.log_guard import LogGuard
from rlm_wasm.providers.refusals import Trouble, failure_of, refusal
from rlm_wasm.providers.roles import messages_in
from rlm_wasm.providers.secret import Keys, Secret

_REASON_CHARS_MAX: Final = 400
_SAMPLING: Final = ("temperature", "top_p")


def open_litellm(name: str, table: ProviderTable, policy: Policy, keys: Keys) -> LiteLlmProvider:
    """Return the provider that a table of kind `litellm` describes.

    Raises UsageError where the package is not installed, or the key that the table names is not set.
    """
    key = keys.read(table.api_key_env, name) if table.api_key_env else None
    return LiteLlmProvider(name, table, policy, key, _library())


class LiteLlmProvider:
    """Models by the names that the package has for them, such as ``bedrock/NAME``. On asyncio alone."""

    def __init__(
        self, name: str, table: ProviderTable, policy: Policy, key: Secret | None, library: Any
    ) -> None:
        self._name: Final = name
        self._table: Final = table
        self._along, self._along_of = sent_along_of(name, table, policy)
        self._key: Final = key
        self._library: Final = library
        self._guard: Final = None if key is None else LogGuard(key)

    async def complete(self, query: Query) -> Completion:
        """Ask once. Raises ProviderFailure; cancellation abandons the request."""
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            result: Completion | Trouble = Trouble("works on asyncio alone", retryable=False, sent=False)
        else:
            late = f"did not answer within {query.timeout_ms} ms"
            result = Trouble(late, retryable=True)
            with anyio.move_on_after(query.timeout_ms / 1000):
                result = await self._attempt(query)
        # Raised here, outside every handler: the package's exceptions hold requests and their headers.
        if isinstance(result, Trouble):
            raise self._failure(result)
        if self._key is not None and self._key.is_in(result.text):
            raise self._failure(Trouble("sent the API key back in its answer; withheld", retryable=False))
        return result

    async def aclose(self) -> None:
        """Let go of the key. The package keeps its connections to itself."""
        if self._guard is not None:
            self._guard.close()

    async def _attempt(self, query: Query) -> Completion | Trouble:
        try:
            answer = await self._library.acompletion(**self._request(query))
            document = answer.model_dump()
        except Exception as error:  # noqa: BLE001 - the package has exceptions of every provider's own
            return _trouble_of(error)
        return completion_of(document, {})

    def _request(self, query: Query) -> dict[str, Any]:
        table, along = self._table, self._along_of.get(query.model, self._along)
        members = dict(along.members)
        request: dict[str, Any] = {
            # Tried again, and elsewhere, is by the scheduler alone, which pays for it.
            "num_retries": 0,
            "max_retries": 0,
            "model": query.model,
            "messages": messages_in(table.roles or "alternating", query.messages),
            "max_tokens": query.output_tokens_max,
            "stream": False,
            "timeout": query.timeout_ms / 1000,
        }
        request |= {name: members.pop(name) for name in _SAMPLING if name in members}
        if members:
            request["extra_body"] = members
        if along.headers:
            request["extra_headers"] = dict(along.headers)
        if table.base_url is not None:
            request["api_base"] = table.base_url
        if self._key is not None:
            request["api_key"] = self._key.reveal()
        return request

    def _failure(self, trouble: Trouble) -> ProviderFailure:
        reason = trouble.reason if self._key is None else self._key.redact(trouble.reason)
        return failure_of(trouble, f"the provider {self._name}, by litellm, {reason[:_REASON_CHARS_MAX]}")


def _trouble_of(error: Exception) -> Trouble:
    """Return what an exception of the package means: most have the status that came, or one like it."""
    status = getattr(error, "status_code", None)
    if type(status) is not int or not 300 <= status < 600:
        return Trouble(f"failed with {type(error).__name__}", retryable=False)
    headers = getattr(getattr(error, "response", None), "headers", None)
    message = getattr(error, "message", None)
    document = {"error": {"message": message if isinstance(message, str) else type(error).__name__}}
    trouble = refusal(status, headers if isinstance(headers, Mapping) else {}, document)
    # It also says so of a connection that never was: then nobody knows whether work was done.
    return trouble._replace(sent=True) if status >= 500 else trouble


def _library() -> Any:
    # Else it fetches a list of prices when it is loaded.
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    try:
        import litellm
    except ImportError as error:
        raise UsageError(
            "a provider of kind litellm needs the package litellm, which is not installed",
            hint="pip install 'rlm-wasm[litellm]'",
        ) from error
    library: Any = litellm
    library.telemetry = False
    library.suppress_debug_info = True
    return library

"""Any endpoint that speaks OpenAI's /chat/completions, treated as an untrusted peer.

The request goes to one URL and never follows a redirect or a proxy variable. The response is
read up to a cap, uncompressed, and decoded in `openai_response`. The key is put on the wire by
one object, and is withheld from everything that leaves this module.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping
from typing import Any, Final

import anyio
import httpx

from rlm_wasm.errors import ProviderError
from rlm_wasm.policy.tables import OpenAITable
from rlm_wasm.providers.base import Completion, ProviderFailure, Query
from rlm_wasm.providers.log_guard import LogGuard
from rlm_wasm.providers.openai_response import decode_completion, refusal
from rlm_wasm.providers.secret import Secret

_ERROR_BODY_BYTES_MAX: Final = 64 * 1024
_REASON_CHARS_MAX: Final = 400


class OpenAIProvider:
    """Chat completions over HTTP. One client, whose connections `connections_max` bounds.

    `transport` replaces the network, and the bound with it.
    """

    def __init__(
        self,
        endpoint: OpenAITable,
        key: Secret | None,
        *,
        response_bytes_max: int,
        connections_max: int,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._url: Final = endpoint.base_url.rstrip("/") + "/chat/completions"
        self._host: Final = httpx.URL(self._url).host
        self._connect_s: Final = endpoint.connect_timeout_ms / 1000
        self._cap_field: Final = endpoint.output_tokens_field
        self._key: Final = key
        self._response_bytes_max: Final = response_bytes_max
        self._client: Final = httpx.AsyncClient(
            auth=None if key is None else _BearerAuth(key),
            # No compression: a small body cannot grow past the cap while it is being unpacked.
            headers={"Accept": "application/json", "Accept-Encoding": "identity"},
            follow_redirects=False,
            trust_env=False,
            transport=transport,
            limits=httpx.Limits(max_connections=connections_max, max_keepalive_connections=connections_max),
        )
        # Last: what is not made is not closed.
        self._guard: Final = None if key is None else LogGuard(key)

    async def complete(self, query: Query) -> Completion:
        """Send one attempt. Raises ProviderFailure; cancellation closes the connection."""
        exchange = _Exchange()
        with anyio.move_on_after(query.timeout_ms / 1000) as scope:
            result = await self._attempt(query, exchange)
        if scope.cancelled_caught:
            result = self._failure(
                f"did not answer within {query.timeout_ms} ms", retryable=True, sent=exchange.sent
            )
        # Raised here, outside every handler: httpx's exceptions hold the request and its headers.
        if isinstance(result, ProviderFailure):
            raise result
        return result

    async def aclose(self) -> None:
        """Close every connection; calling it twice is harmless."""
        await self._client.aclose()
        if self._guard is not None:
            self._guard.close()

    async def _attempt(self, query: Query, exchange: _Exchange) -> Completion | ProviderFailure:
        try:
            async with self._client.stream(
                "POST",
                self._url,
                content=self._body(query),
                headers={"Content-Type": "application/json"},
                timeout=httpx.Timeout(None, connect=self._connect_s),
                extensions={"trace": exchange.trace},
            ) as response:
                return await self._read(response)
        except httpx.ConnectTimeout:
            reason = f"could not be connected to within {self._connect_s:g} s"
        except httpx.ConnectError:
            reason = "could not be connected to"
        except (httpx.RemoteProtocolError, httpx.ReadError):
            reason = (
                "broke off its answer" if exchange.answered else "closed the connection without an answer"
            )
        except (httpx.HTTPError, httpx.InvalidURL) as exc:
            reason = f"could not be asked ({type(exc).__name__})"
        return self._failure(reason, retryable=True, sent=exchange.sent)

    async def _read(self, response: httpx.Response) -> Completion | ProviderFailure:
        status = response.status_code
        if status != httpx.codes.OK:
            body = await self._capped(response, _ERROR_BODY_BYTES_MAX)
            return refusal(status, response.headers, body, self._failure)
        if response.headers.get("content-encoding", "identity").lower() != "identity":
            return self._failure("compressed its answer although asked not to", retryable=False, sent=True)
        body = await self._capped(response, self._response_bytes_max)
        if body is None:
            return self._failure(
                f"sent more than {self._response_bytes_max} bytes", retryable=False, sent=True
            )
        result = decode_completion(body)
        if isinstance(result, str):
            return self._failure(result, retryable=False, sent=True)
        if self._key is not None and self._key.is_in(result.text):
            return self._failure("sent the API key back in its answer; withheld", retryable=False, sent=True)
        return result

    async def _capped(self, response: httpx.Response, bytes_max: int) -> bytes | None:
        """Read the body, or return None once it is longer than `bytes_max`."""
        body = bytearray()
        with anyio.CancelScope() as enough:
            async for chunk in response.aiter_raw():
                if len(body) + len(chunk) > bytes_max:
                    # Not `break`: that would leave httpx's nested generators to the garbage
                    # collector. A cancellation unwinds them in order and closes the connection.
                    enough.cancel()
                else:
                    body += chunk
        return None if enough.cancel_called else bytes(body)

    def _body(self, query: Query) -> bytes:
        payload = {
            "model": query.model,
            "messages": [{"role": m.role, "content": m.content} for m in query.messages],
            self._cap_field: query.output_tokens_max,
        }
        # "replace": a lone surrogate, which guest code can make, has no UTF-8 form.
        return json.dumps(payload, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")

    def _failure(
        self,
        reason: str,
        *,
        retryable: bool,
        sent: bool,
        retry_after_ms: int | None = None,
        throttled: bool = False,
    ) -> ProviderFailure:
        # Redact, then cut: the other way round, the cut could leave half a key.
        safe = reason if self._key is None else self._key.redact(reason)
        error = ProviderError(f"the provider at {self._host} {safe[:_REASON_CHARS_MAX]}")
        return ProviderFailure(
            error, retryable=retryable, sent=sent, retry_after_ms=retry_after_ms, throttled=throttled
        )


class _BearerAuth(httpx.Auth):
    """Adds the key to a request at the last moment; httpx shows the header as ``[secure]``."""

    def __init__(self, key: Secret) -> None:
        self._key: Final = key

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        request.headers["Authorization"] = f"Bearer {self._key.reveal()}"
        yield request


class _Exchange:
    """How far one attempt got on the wire, as the transport reports it."""

    def __init__(self) -> None:
        self.sent = False
        self.answered = False

    async def trace(self, event: str, _info: Mapping[str, Any]) -> None:
        """Take one of httpcore's trace events, such as ``http11.send_request_headers.started``."""
        if event.endswith(".send_request_headers.started"):
            self.sent = True
        elif event.endswith(".receive_response_headers.complete"):
            self.answered = True

"""Any endpoint over HTTP, treated as an untrusted peer.

The request goes to one URL, by a proxy only if the policy names one, and never follows a redirect. The
response is read up to a cap, uncompressed, in `answer_body`, and decoded in the format of its kind. The key
is put on the wire by one object, and is withheld from everything that leaves this module.
"""

from __future__ import annotations

import hashlib
import json
import ssl
from collections.abc import Callable, Generator, Mapping
from typing import Any, Final

import anyio
import httpx

from rlm_wasm.policy.this_machine import is_loopback, is_this_machine
from rlm_wasm.providers.answer_body import EventBody, WholeBody, body_for
from rlm_wasm.providers.base import Completion, ProviderFailure, Query
from rlm_wasm.providers.cached_provider import PreparedQuery
from rlm_wasm.providers.endpoint import Endpoint
from rlm_wasm.providers.json_body import printable, read_json
from rlm_wasm.providers.log_guard import LogGuard
from rlm_wasm.providers.refusals import Trouble, failure_of, refusal
from rlm_wasm.providers.secret import Secret
from rlm_wasm.providers.unreachable import why_broken_off, why_unreachable
from rlm_wasm.providers.wire_format import KeyHeader, WireFormat

_ERROR_BODY_BYTES_MAX: Final = 64 * 1024
_REASON_CHARS_MAX: Final = 400


class HttpProvider:
    """Models behind one endpoint. One client, whose connections `connections_max` bounds.

    `trust` says which certificates are accepted; without it, the usual ones. `transport` replaces the
    network, and the bound with it.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        wire: WireFormat,
        key: Secret | None,
        *,
        response_bytes_max: int,
        connections_max: int,
        trust: ssl.SSLContext | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._endpoint: Final = endpoint
        self._wire: Final = wire
        self._url: Final = endpoint.url(wire.path)
        url = httpx.URL(self._url)
        self._host: Final = url.host
        self._address: Final = _address(url)
        self._proxy: Final = _address(httpx.URL(endpoint.proxy)) if endpoint.proxy else None
        # Of a connection that fails nobody says which of the two it was.
        self._route: Final = self._address + (f", by the proxy at {self._proxy}," if self._proxy else "")
        # It is free, or has a key in the clear, because it is this machine: so it has to be.
        self._local: Final = endpoint.proxy is None and is_this_machine(self._url)
        self._connect_s: Final = endpoint.connect_timeout_ms / 1000
        self._key: Final = key
        self._response_bytes_max: Final = response_bytes_max
        header = wire.key_header
        if endpoint.api_key_header is not None:
            own = endpoint.api_key_header
            header = KeyHeader(own, "Bearer " if own.lower() == "authorization" else "")
        self._client: Final = httpx.AsyncClient(
            auth=None if key is None else _KeyAuth(key, header),
            # No compression: a small body cannot grow past the cap while it is being unpacked.
            headers={"Accept": "application/json", "Accept-Encoding": "identity", **wire.headers},
            follow_redirects=False,
            trust_env=False,
            verify=True if trust is None else trust,
            proxy=endpoint.proxy,
            transport=transport,
            limits=httpx.Limits(max_connections=connections_max, max_keepalive_connections=connections_max),
        )
        # Last: what is not made is not closed.
        self._guard: Final = None if key is None else LogGuard(key)

    async def complete(self, query: Query) -> Completion:
        """Send one attempt. Raises ProviderFailure; cancellation closes the connection."""
        return await self._complete(query, self._body(query))

    async def _complete(self, query: Query, body: bytes) -> Completion:
        exchange = _Exchange(local=self._local)
        with anyio.move_on_after(query.timeout_ms / 1000) as scope:
            result = await self._attempt(query, body, exchange)
        if scope.cancelled_caught:
            late = f"did not answer within {query.timeout_ms} ms"
            result = self._failure(Trouble(late, retryable=True, sent=exchange.sent))
        # Raised here, outside every handler: httpx's exceptions hold the request and its headers.
        if isinstance(result, ProviderFailure):
            raise result
        return result

    async def aclose(self) -> None:
        """Close every connection; calling it twice is harmless."""
        await self._client.aclose()
        if self._guard is not None:
            self._guard.close()

    async def _attempt(self, query: Query, body: bytes, exchange: _Exchange) -> Completion | ProviderFailure:
        along = self._endpoint.sent_along(query.model)
        try:
            async with self._client.stream(
                "POST",
                self._url,
                content=body,
                headers={**along.headers, "Content-Type": "application/json"},
                timeout=httpx.Timeout(None, connect=self._connect_s),
                extensions={"trace": exchange.trace},
            ) as response:
                return await self._read(response)
        except _Elsewhere as error:
            reason = f"is not on this machine, as its name says: that is {error}; nothing was sent to it"
            return self._failure(Trouble(reason, retryable=False, sent=False), at=self._address)
        except httpx.ConnectTimeout:
            late = f"could not be connected to within {self._connect_s:g} s"
            return self._failure(Trouble(late, retryable=True, sent=exchange.sent), at=self._route)
        except httpx.ConnectError as error:
            reason, retryable = why_unreachable(error)
            return self._failure(Trouble(reason, retryable=retryable, sent=exchange.sent), at=self._route)
        except httpx.ProxyError as error:
            # Its text is the status of the proxy's own refusal, to open a way: the request was not sent.
            reason = f"was not reached: the proxy at {self._proxy} answered {printable(str(error))}"
            return self._failure(Trouble(reason, retryable=True, sent=False), at=self._address)
        except (httpx.RemoteProtocolError, httpx.ReadError) as error:
            reason, retryable = why_broken_off(error, answered=exchange.answered)
            return self._failure(Trouble(reason, retryable=retryable, sent=exchange.sent))
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            reason = f"could not be asked ({type(error).__name__})"
            return self._failure(Trouble(reason, retryable=True, sent=exchange.sent))

    async def _read(self, response: httpx.Response) -> Completion | ProviderFailure:
        status, headers = response.status_code, response.headers
        if not 200 <= status < 300:
            error = WholeBody(_ERROR_BODY_BYTES_MAX)
            await _fill(response, lambda _: error)
            return self._failure(refusal(status, headers, read_json(error.body or b"")))
        if headers.get("content-encoding", "identity").lower() != "identity":
            return self._failure(Trouble("compressed its answer although asked not to", retryable=False))
        most, content_type = self._response_bytes_max, headers.get("content-type", "")
        pieces = self._wire.pieces()
        body = await _fill(response, lambda start: body_for(content_type, start, most, pieces))
        body = body or WholeBody(most)
        document = body.document()
        result = (
            document
            if isinstance(document, Trouble)
            else self._wire.answer(document, headers, body.thought_bytes)
        )
        if isinstance(result, Trouble):
            return self._failure(result)
        if self._key is not None and self._key.is_in(result.text):
            return self._failure(Trouble("sent the API key back in its answer; withheld", retryable=False))
        return result

    def prepare(self, query: Query) -> PreparedQuery:
        """Return one attempt with a digest of what goes where, the key aside."""
        along, endpoint = self._endpoint.sent_along(query.model), self._endpoint
        sent = {**self._wire.headers, **along.headers}
        where = [self._url, endpoint.proxy, endpoint.api_key_header, sorted(sent.items())]
        digest = hashlib.sha256(json.dumps([type(self._wire).__name__, *where]).encode())
        body = self._body(query)
        digest.update(b"\0" + body)
        temperature = along.members.get("temperature")
        chance = isinstance(temperature, bool) or temperature != 0
        return PreparedQuery(digest.digest(), chance, lambda: self._complete(query, body))

    def _body(self, query: Query) -> bytes:
        along = self._endpoint.sent_along(query.model).members
        # What the host writes goes last: nothing else decides what is asked, and what it may cost.
        payload = {**along, **self._wire.body(self._endpoint, query)}
        # "replace": a lone surrogate, which guest code can make, has no UTF-8 form.
        return json.dumps(payload, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")

    def _failure(self, trouble: Trouble, *, at: str | None = None) -> ProviderFailure:
        # Redact, then cut: the other way round, the cut could leave half a key.
        reason = trouble.reason if self._key is None else self._key.redact(trouble.reason)
        return failure_of(trouble, f"the provider at {at or self._host} {reason[:_REASON_CHARS_MAX]}")


class _KeyAuth(httpx.Auth):
    """Adds the key to a request at the last moment."""

    def __init__(self, key: Secret, header: KeyHeader) -> None:
        self._key: Final = key
        self._header: Final = header

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        request.headers[self._header.name] = self._header.before + self._key.reveal()
        yield request


class _Elsewhere(Exception):
    """A name that means this machine has led to another one. Its text is the address."""


class _Exchange:
    """How far one attempt got on the wire, as the transport reports it. `local`: to this machine alone."""

    def __init__(self, *, local: bool) -> None:
        self._local: Final = local
        self.sent = False
        self.answered = False

    async def trace(self, event: str, info: Mapping[str, Any]) -> None:
        """Take one of httpcore's trace events, such as ``http11.send_request_headers.started``.

        Raises _Elsewhere, before anything is sent, for a connection that leaves the machine and must not.
        """
        if self._local and event.endswith(".connect_tcp.complete"):
            stream = info["return_value"]
            other_end = stream.get_extra_info("server_addr")
            address = str(other_end[0]) if other_end else "unknown"
            if not is_loopback(address):
                await stream.aclose()  # nobody else has it yet
                raise _Elsewhere(address)
        if event.endswith(".send_request_headers.started"):
            self.sent = True
        elif event.endswith(".receive_response_headers.complete"):
            self.answered = True


async def _fill(
    response: httpx.Response, open_body: Callable[[bytes], WholeBody | EventBody]
) -> WholeBody | EventBody | None:
    """Read a body into what `open_body` returns for its start, as far as that wants; None: it is empty."""
    body: WholeBody | EventBody | None = None
    with anyio.CancelScope() as enough:
        async for chunk in response.aiter_raw():
            body = body or open_body(chunk)
            if not body.take(chunk):
                # Not `break`: that would leave httpx's nested generators to the garbage
                # collector. A cancellation unwinds them in order and closes the connection.
                enough.cancel()
    return body


def _address(url: httpx.URL) -> str:
    host = f"[{url.host}]" if ":" in url.host else url.host
    return f"{host}:{url.port or (443 if url.scheme == 'https' else 80)}"

"""`CellHook`: answers the frames of one cell of a session by its program's own functions."""

from __future__ import annotations

from rlm_wasm.api.cell_requests import CellRequests
from rlm_wasm.api.query_hook import QueryHook
from rlm_wasm.engine.request_reader import RequestReader
from rlm_wasm.errors import QueryError
from rlm_wasm.protocol.guest_frames import (
    Budget,
    Finish,
    ToolCall,
    ToolCallBatch,
    encode_finish_response,
    encode_response,
    encode_tool_batch_response,
    encode_tool_response,
)
from rlm_wasm.scheduler.request import Denied, Response
from rlm_wasm.tools.calls import ToolCalls
from rlm_wasm.tools.granted import GrantedTools


class CellHook:
    """Reads each frame, and has its queries answered by `queries`, its tools called by `calls`."""

    def __init__(
        self,
        reader: RequestReader,
        requests: CellRequests,
        queries: QueryHook | None,
        calls: ToolCalls,
        tools: GrantedTools,
    ) -> None:
        self._reader = reader
        self._requests = requests
        self._queries = queries
        self._calls = calls
        self._tools = tools
        # The first answer that the code declares.
        self.finish: str | None = None

    async def __call__(self, frame: bytes) -> bytes:
        """Return the response frame. Raises the GuestError that ends the cell, and what is the caller's."""
        request = self._reader.read(frame)
        match request:
            case QueryError():
                return encode_response(Denied(request))
            case ToolCall(tool=tool, arguments=arguments):
                return encode_tool_response((await self._called([(tool, arguments)]))[0])
            case ToolCallBatch(tools=tools, arguments=texts):
                return encode_tool_batch_response(await self._called(list(zip(tools, texts, strict=True))))
            case Finish(answer=answer):
                if self.finish is None:
                    self.finish = answer
                return encode_finish_response()
            case Budget():
                return encode_response(Denied(QueryError("this session has no budget: it is no run's")))
        if self._queries is None:
            return encode_response(Denied(QueryError("this session has no model to ask")))
        return await self._queries.answer(request)

    async def _called(self, items: list[tuple[str, str]]) -> list[Response]:
        bytes_max = self._reader.boundary.response_bytes_max // len(items)

        async def call(item: tuple[str, str]) -> Response:
            return await self._calls.call(self._tools, *item, bytes_max)

        return await self._requests.answers(items, call, "what the tool waited for was cancelled")

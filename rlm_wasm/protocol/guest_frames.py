"""The gate between guest and host: request frames in, response frames out.

A frame is JSON made by hostile code. What passes `decode_request` is typed and bounded. What does not is
refused in one of two ways, and no message quotes the frame: a request that is only too large, as anyone's
mistake may be, is a QueryError for the code that made it; a frame that the guest's own modules could never
send is a BoundaryViolation, which ends the cell. A frame says what is asked, never who asks: depth, run and
session are the host's to know.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Final, TypeAlias

import msgspec

from rlm_wasm.errors import BoundaryViolation, ChildFailed, LimitExceeded, ProviderError, QueryError
from rlm_wasm.limits import BoundaryLimits, BudgetLimits, ceilings
from rlm_wasm.scheduler.ledger import Dimension, DimensionView
from rlm_wasm.scheduler.messages import FinishReason
from rlm_wasm.scheduler.pricing import utf8_bytes
from rlm_wasm.scheduler.request import Completed, Response, error_of

# Every honest frame has these keys and values as strings, and its prompts: {"type": "llm_query_batch",
# "model": "m", "prompts": [...]}, and a child's request a budget of up to ten dimensions. Counted before
# decoding, so that nobody can make us build millions.
_STRINGS_BESIDE_PROMPTS: Final = 20
_CONTAINERS_MAX: Final = 1_024  # arrays and objects of a frame, all together
_MODEL_CHARS_MAX: Final = 256
TOOL_NAME_CHARS_MAX: Final = 64
# Of an error in a response, and what stands beside an answer or a partial one, whose own bytes are counted.
_MESSAGE_CHARS_MAX: Final = 4_000
_ITEM_BYTES_MAX: Final = 6 * _MESSAGE_CHARS_MAX + 256
_AMOUNT_MAX: Final = max(ceilings(BudgetLimits).values())


class LlmQuery(msgspec.Struct, frozen=True, tag_field="type", tag="llm_query", forbid_unknown_fields=True):
    """Ask a model one thing. Without `model` the policy's sub-model answers."""

    prompt: str
    model: str | None = None


class LlmQueryBatch(
    msgspec.Struct, frozen=True, tag_field="type", tag="llm_query_batch", forbid_unknown_fields=True
):
    """Ask a model several things at once; the answers come back in order."""

    prompts: tuple[str, ...]
    model: str | None = None


Amount: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=_AMOUNT_MAX)]
# What a child may use of its run's budget, by dimension; not there or None: as much as there is.
ChildBudget: TypeAlias = dict[Dimension, Amount | None]


class RlmQuery(msgspec.Struct, frozen=True, tag_field="type", tag="rlm_query", forbid_unknown_fields=True):
    """Have a child run answer. Without `model` the policy's model for its depth drives it."""

    prompt: str
    model: str | None = None
    budget: ChildBudget | None = None


class RlmQueryBatch(
    msgspec.Struct, frozen=True, tag_field="type", tag="rlm_query_batch", forbid_unknown_fields=True
):
    """Have child runs answer several prompts at once; `budget` is for each of them."""

    prompts: tuple[str, ...]
    model: str | None = None
    budget: ChildBudget | None = None


class Finish(msgspec.Struct, frozen=True, tag_field="type", tag="finish", forbid_unknown_fields=True):
    """End the run with this answer, a text; or, with `json`, the JSON of a value."""

    answer: str
    json: bool = False


class Budget(msgspec.Struct, frozen=True, tag_field="type", tag="budget", forbid_unknown_fields=True):
    """Ask what is left."""


class ToolCall(msgspec.Struct, frozen=True, tag_field="type", tag="tool_call", forbid_unknown_fields=True):
    """Call a tool. `arguments` is JSON text of its own, which `tools.validation` reads."""

    tool: str
    arguments: str


class ToolCallBatch(
    msgspec.Struct, frozen=True, tag_field="type", tag="tool_call_batch", forbid_unknown_fields=True
):
    """Call several tools, or one several times, side by side; what they give comes back in order."""

    tools: tuple[str, ...]
    arguments: tuple[str, ...]


Request: TypeAlias = (
    LlmQuery | LlmQueryBatch | RlmQuery | RlmQueryBatch | ToolCall | ToolCallBatch | Finish | Budget
)

_DECODER: Final[msgspec.json.Decoder[Request]] = msgspec.json.Decoder(
    LlmQuery | LlmQueryBatch | RlmQuery | RlmQueryBatch | ToolCall | ToolCallBatch | Finish | Budget
)
_ENCODER: Final = msgspec.json.Encoder()


def decode_request(frame: bytes, limits: BoundaryLimits) -> Request:
    """Decode one request.

    Time and memory are linear in the frame, whose size `frame_bytes_max` bounds. Of a key that
    occurs twice the last value counts; there is no second decoder that could see it otherwise.

    Raises:
        QueryError: the request is larger than the policy allows (`LimitExceeded`), or names a model that
            cannot be. The guest's code is told.
        BoundaryViolation: the guest's modules send no such frame. Nothing else leaves this function.
    """
    try:
        try:
            check_shape(
                frame,
                bytes_max=limits.frame_bytes_max,
                nesting_max=limits.nesting_max,
                # Of a call there are two: the tool's name and its arguments.
                strings_max=2 * limits.batch_items_max + _STRINGS_BESIDE_PROMPTS,
            )
        except _TooManyStrings as many:
            _check_items(many.items, limits, many.noun)
            raise BoundaryViolation(many.message) from None
        request = _DECODER.decode(frame)
        _check_size(request, frame, limits)
    except (BoundaryViolation, QueryError):
        raise
    except Exception as exc:  # noqa: BLE001 - whatever a decoder raises, the guest did it
        # Not chained: the decoder's message may quote the frame.
        raise BoundaryViolation(f"the request frame is malformed ({type(exc).__name__})") from None
    return request


class _TooManyStrings(BoundaryViolation):
    """A frame with more strings than it may have; it would be about so many requests, of a kind."""

    def __init__(self, message: str, items: int, noun: str) -> None:
        super().__init__(message)
        self.items: Final = items
        self.noun: Final = noun


_STRING: Final = re.compile(rb'"[^"]*"?')
_NOT_BRACKETS: Final = bytes(set(range(256)) - set(b"[]{}"))


def check_shape(frame: bytes, *, bytes_max: int, nesting_max: int, strings_max: int) -> None:
    """Refuse a frame that is too long or too deep or has too many parts, without decoding it."""
    if len(frame) > bytes_max:
        raise BoundaryViolation(f"a frame of {len(frame)} bytes, {bytes_max} allowed")
    # With those inside of strings there are no fewer quotes and brackets than counted below: a frame with
    # so few of them is within every bound. Those of most queries are.
    quotes, brackets_at_most = frame.count(b'"'), len(frame.translate(None, _NOT_BRACKETS))
    if (quotes + 1) // 2 <= strings_max and brackets_at_most <= min(nesting_max, 2 * _CONTAINERS_MAX):
        return
    # Backslashes come in pairs, or one escapes a quote. Without both, a quote is a string's border.
    bare = frame.replace(b"\\\\", b"").replace(b'\\"', b"")
    strings = (bare.count(b'"') + 1) // 2
    if strings > strings_max:
        raise _TooManyStrings(f"a frame with {strings} strings, {strings_max} allowed", *_items_in(bare))
    brackets = _STRING.sub(b"", bare).translate(None, _NOT_BRACKETS)
    if len(brackets) > 2 * _CONTAINERS_MAX:
        raise BoundaryViolation(f"a frame with {len(brackets)} brackets, {2 * _CONTAINERS_MAX} allowed")
    depth = 0
    for bracket in brackets:
        depth += 1 if bracket in b"[{" else -1
        if depth > nesting_max:
            raise BoundaryViolation(f"a frame nested deeper than {nesting_max}")


def _items_in(bare: bytes) -> tuple[int, str]:
    """Count the requests of a batch as the guest's modules write one; 0 if it is none.

    For a sentence only, about a frame that is refused anyway: it is not worth decoding.
    """
    _, key, rest = bare.partition(b'"tools":[')
    if key:
        return rest.partition(b"]")[0].count(b'"') // 2, "calls"
    _, key, rest = bare.partition(b'"prompts":[')
    prompts, model, _ = rest.partition(b'],"model":')
    if not model:
        prompts = rest.rpartition(b"]")[0]
    return prompts.count(b'"') // 2 if key else 0, "prompts"


def _check_items(count: int, limits: BoundaryLimits, noun: str = "prompts") -> None:
    if count > limits.batch_items_max:
        key = "boundary.batch_items_max"
        raise LimitExceeded(f"a batch of {count} {noun}", key=key, size=count, limit=limits.batch_items_max)


def _check_size(request: Request, frame: bytes, limits: BoundaryLimits) -> None:
    match request:
        case LlmQuery(prompt=prompt, model=model) | RlmQuery(prompt=prompt, model=model):
            _check_model(model)
            _check_prompt("the prompt", prompt, limits)
        case LlmQueryBatch(prompts=prompts, model=model) | RlmQueryBatch(prompts=prompts, model=model):
            if not prompts:
                raise BoundaryViolation("a batch of nothing")
            _check_items(len(prompts), limits)
            _check_model(model)
            for at, prompt in enumerate(prompts):
                _check_prompt(f"prompts[{at}]", prompt, limits)
        case ToolCall(tool=tool):
            _check_tool(tool)
        case ToolCallBatch(tools=tools, arguments=arguments):
            if not tools or len(tools) != len(arguments):
                raise BoundaryViolation(f"a batch of {len(tools)} tools with {len(arguments)} arguments")
            _check_items(len(tools), limits, "calls")
            for tool in tools:
                _check_tool(tool)
        case Finish():
            pass  # an answer may be as long as a frame
        case Budget():
            if len(frame) > limits.control_frame_bytes_max:
                raise BoundaryViolation(
                    f"a control frame of {len(frame)} bytes, {limits.control_frame_bytes_max} allowed"
                )


def _check_prompt(what: str, prompt: str, limits: BoundaryLimits) -> None:
    # Four bytes a character at most: most prompts need not be counted.
    if 4 * len(prompt) > limits.prompt_bytes_max and (size := utf8_bytes(prompt)) > limits.prompt_bytes_max:
        key = "boundary.prompt_bytes_max"
        raise LimitExceeded(
            f"{what} has {size} bytes of UTF-8", key=key, size=size, limit=limits.prompt_bytes_max
        )


def _check_model(model: str | None) -> None:
    # Every other name that is none is refused by whoever knows them, and told which there are.
    if model is not None and len(model) > _MODEL_CHARS_MAX:
        raise QueryError(f"no model has a name of {len(model)} characters")


def _check_tool(tool: str) -> None:
    # No tool of the guest's own functions has such a name; which there are is for whoever has them to say.
    if len(tool) > TOOL_NAME_CHARS_MAX:
        raise BoundaryViolation(f"no tool has a name of {len(tool)} characters")


def text_bytes(text: str, at_most: int) -> int:
    """Return what a text takes in a response frame; no more than `at_most` need not be exact."""
    # A character takes six bytes at most: most texts need not be encoded to see that they fit.
    bound = 6 * len(text)
    return bound if bound <= at_most else len(_ENCODER.encode(_encodable(text)))


def response_bytes_max(limits: BoundaryLimits) -> int:
    """Return what a response frame of ours can take: the answers, and what stands beside each."""
    return limits.response_bytes_max + limits.batch_items_max * _ITEM_BYTES_MAX


def encode_response(response: Response) -> bytes:
    """Encode the answer to LlmQuery: `status`, and `text` or `error` with its type and message.

    A text that its cap on tokens cut off is marked as `cut`.
    """
    return _ENCODER.encode(_response_document(response))


def encode_batch_response(
    responses: Sequence[Response], refusals: Iterable[tuple[Response, int]] = ()
) -> bytes:
    """Encode the answer to LlmQueryBatch: each item ends in its own way, and behind them so many the same."""
    items = [_ENCODER.encode(_response_document(response)) for response in responses]
    for response, times in refusals:
        items += [_ENCODER.encode(_response_document(response))] * times
    return b'{"status":"completed","items":[' + b",".join(items) + b"]}"


def encode_tool_response(response: Response) -> bytes:
    """Encode the answer to ToolCall. The text of one that completed is the JSON of its `value`."""
    return _tool_item(response)


def encode_tool_batch_response(
    responses: Sequence[Response], refusals: Iterable[tuple[Response, int]] = ()
) -> bytes:
    """Encode the answer to ToolCallBatch: each call ends in its own way, and behind them so many the same."""
    items = [_tool_item(response) for response in responses]
    for response, times in refusals:
        items += [_tool_item(response)] * times
    return b'{"status":"completed","items":[' + b",".join(items) + b"]}"


def _tool_item(response: Response) -> bytes:
    if isinstance(response, Completed):
        return b'{"status":"completed","value":' + response.text.encode("utf-8", "replace") + b"}"
    return _ENCODER.encode(_response_document(response))


def encode_budget_response(view: Mapping[str, DimensionView]) -> bytes:
    """Encode the answer to Budget: limit, spent, reserved and available of each dimension."""
    budget = {str(dimension): line._asdict() for dimension, line in view.items()}
    return _ENCODER.encode({"status": "completed", "budget": budget})


def encode_finish_response() -> bytes:
    """Encode the answer to Finish."""
    return _ENCODER.encode({"status": "completed"})


def _response_document(response: Response) -> dict[str, object]:
    if isinstance(response, Completed):
        document: dict[str, object] = {"status": response.status, "text": _encodable(response.text)}
        return document | {"cut": True} if response.finish is FinishReason.LENGTH else document
    error = error_of(response)
    message = str(error)
    if len(message) > _MESSAGE_CHARS_MAX:
        message = message[:_MESSAGE_CHARS_MAX] + "…"
    # The guest knows no kinds of it.
    kind = ProviderError if isinstance(error, ProviderError) else type(error)
    told: dict[str, object] = {"type": kind.__name__, "message": _encodable(message)}
    if isinstance(error, LimitExceeded):
        # For code that can keep to the limit: a batch is sent again in parts.
        told |= {"key": error.key, "limit": error.limit}
    if isinstance(error, ChildFailed) and error.partial is not None:
        told["partial"] = _encodable(error.partial)
    return {"status": response.status, "error": told}


def _encodable(text: str) -> str:
    """Replace lone surrogates, which a provider's answer may hold and UTF-8 cannot."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()

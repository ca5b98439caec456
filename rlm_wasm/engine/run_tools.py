"""The tools of a run: what its guests and its models are told of them, and who makes their calls."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from rlm_wasm.errors import ToolError, UsageError
from rlm_wasm.scheduler.request import Completed, Denied
from rlm_wasm.scheduler.scheduler import CallTool, ToolFinished, ToolTerms
from rlm_wasm.tools.calls import call_tool
from rlm_wasm.tools.granted import GrantedTools
from rlm_wasm.values import JsonText

_DOC_CHARS_MAX: Final = 1_000


@dataclass(frozen=True, slots=True)
class ToolFacts:
    """What a run has of its tools beside the functions: all that its log needs to hold of them."""

    # One for each: what the guest is told of it, and its terms.
    told: tuple[Mapping[str, Any], ...]
    terms: Mapping[str, ToolTerms]

    @classmethod
    def of(cls, granted: GrantedTools) -> ToolFacts:
        """Return those of the tools that a tenant has."""
        told, terms = [], {}
        for name, each in granted.by_name.items():
            told.append(each.tool.told())
            terms[name] = ToolTerms(each.tool.cost_microdollars, each.calls_max, each.timeout_ms)
        return cls(tuple(told), terms)

    @classmethod
    def recorded(cls, text: str, where: str) -> ToolFacts:
        """Return what a log holds of a run's tools. Raises UsageError: it is nothing that a run wrote."""
        try:
            rows = json.loads(text)
            terms = {row["told"]["name"]: ToolTerms(*row["terms"]) for row in rows}
            return cls(tuple(row["told"] for row in rows), terms)
        except (ValueError, TypeError, KeyError) as error:
            raise UsageError(f"{where}: what the log holds of the tools is damaged") from error

    def __bool__(self) -> bool:
        return bool(self.told)

    def document(self) -> str:
        """Return what the log holds of them."""
        rows = [{"told": dict(told), "terms": list(self.terms[told["name"]])} for told in self.told]
        return str(JsonText.of(rows, "the tools"))

    def for_guest(self) -> JsonText:
        """Return what the guest is told."""
        return JsonText.of(self.told, "the tools")

    def for_model(self) -> tuple[str, ...]:
        """Return a line about each for the models that write code."""
        return tuple(_line(told) for told in self.told)


NO_TOOL_FACTS: Final = ToolFacts((), {})


class ToolCaller(Protocol):
    """Who makes the calls of a run. Must not raise; cancellation gives a call up."""

    async def __call__(self, effect: CallTool) -> ToolFinished:
        """Return what became of a call."""


class GrantedCaller:
    """Makes the calls to the program's own functions."""

    def __init__(self, granted: GrantedTools) -> None:
        self._granted: Final = granted

    async def __call__(self, effect: CallTool) -> ToolFinished:
        """Return what became of a call."""
        limits = self._granted.limits
        most = limits.result_bytes_max if effect.answer_bytes_max is None else effect.answer_bytes_max
        made = await call_tool(self._granted.by_name[effect.tool], effect.arguments, limits, most)
        if isinstance(made, Completed):
            return ToolFinished(effect.run_id, effect.request_id, made.text)
        called = not isinstance(made, Denied)
        return ToolFinished(effect.run_id, effect.request_id, error=made.error, called=called)


async def nobody_calls(effect: CallTool) -> ToolFinished:
    """Refuse a call: the run goes on without the program that had its tools."""
    gone = ToolError(
        f"the tool {effect.tool} is not there any more: the run was taken up without its program"
    )
    return ToolFinished(effect.run_id, effect.request_id, error=gone, called=False)


def _line(told: Mapping[str, Any]) -> str:
    doc = str(told["doc"]).partition("\n\n")[0]
    text = " ".join(doc.split())
    if len(text) > _DOC_CHARS_MAX:
        text = text[:_DOC_CHARS_MAX] + "…"
    return f"{told['name']}{told['signature']}" + (f": {text}" if text else "")

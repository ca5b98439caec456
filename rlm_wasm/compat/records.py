"""The records of that library: what a completion returns, and what its log has of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rlm_wasm.results import RunResult


@dataclass
class ModelUsageSummary:
    """What one model was asked, and what that cost in dollars; None: nobody knows its price."""

    total_calls: int
    total_input_tokens: int
    total_output_tokens: int
    total_cost: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return it as the log has it."""
        return _told(
            {
                "total_calls": self.total_calls,
                "total_input_tokens": self.total_input_tokens,
                "total_output_tokens": self.total_output_tokens,
            },
            total_cost=self.total_cost,
        )


@dataclass
class UsageSummary:
    """What each model was asked, by the name that its provider has for it."""

    model_usage_summaries: dict[str, ModelUsageSummary]

    @property
    def total_cost(self) -> float | None:
        """The dollars of all models whose price is known; None: of none."""
        costs = [each.total_cost for each in self.model_usage_summaries.values()]
        known = [cost for cost in costs if cost is not None]
        return sum(known) if known else None

    @property
    def total_input_tokens(self) -> int:
        """The tokens that all models were given."""
        return sum(each.total_input_tokens for each in self.model_usage_summaries.values())

    @property
    def total_output_tokens(self) -> int:
        """The tokens that all models gave."""
        return sum(each.total_output_tokens for each in self.model_usage_summaries.values())

    def to_dict(self) -> dict[str, Any]:
        """Return it as the log has it."""
        models = {name: each.to_dict() for name, each in self.model_usage_summaries.items()}
        return _told({"model_usage_summaries": models}, total_cost=self.total_cost)


@dataclass
class RLMChatCompletion:
    """An answer: of a completion, or of one query of its code.

    `metadata` is the trajectory, where there is a logger. `error` is why a query of code has no answer. `run`
    is the result of ours that a completion comes from, with the transcript; the log does not have it.
    """

    root_model: str
    prompt: Any
    response: str
    usage_summary: UsageSummary
    execution_time: float
    metadata: dict[str, Any] | None = None
    error: str | None = None
    run: RunResult | None = field(default=None, repr=False, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """Return it as the log has it."""
        told = {
            "root_model": self.root_model,
            "prompt": self.prompt,
            "response": self.response,
            "usage_summary": self.usage_summary.to_dict(),
            "execution_time": self.execution_time,
        }
        return _told(told, metadata=self.metadata, error=self.error)


@dataclass
class REPLResult:
    """What a block of code came to. `locals` has the names of its variables: values stay in the guest."""

    stdout: str
    stderr: str
    locals: dict[str, str]
    execution_time: float
    rlm_calls: list[RLMChatCompletion] = field(default_factory=list)
    final_answer: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return it as the log has it."""
        return {
            "stdout": self.stdout,
            "stderr": self.stderr,
            "locals": dict(self.locals),
            "execution_time": self.execution_time,
            "rlm_calls": [call.to_dict() for call in self.rlm_calls],
            "final_answer": self.final_answer,
        }


@dataclass
class CodeBlock:
    """A block of code of a reply, and what it came to."""

    code: str
    result: REPLResult

    def to_dict(self) -> dict[str, Any]:
        """Return it as the log has it."""
        return {"code": self.code, "result": self.result.to_dict()}


@dataclass
class RLMIteration:
    """A turn of a model: what it was shown, what it replied, and what its code came to."""

    prompt: list[dict[str, str]] = field(default_factory=list)
    response: str = ""
    code_blocks: list[CodeBlock] = field(default_factory=list)
    final_answer: str | None = None
    iteration_time: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return it as the log has it."""
        return {
            "prompt": self.prompt,
            "response": self.response,
            "code_blocks": [block.to_dict() for block in self.code_blocks],
            "final_answer": self.final_answer,
            "iteration_time": self.iteration_time,
        }


@dataclass
class RLMMetadata:
    """How an RLM was made, without its keys: the first line of a log."""

    root_model: str
    max_depth: int
    max_iterations: int
    backend: str
    backend_kwargs: dict[str, Any]
    environment_type: str
    environment_kwargs: dict[str, Any]
    other_backends: list[str] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return it as the log has it."""
        return {
            "root_model": self.root_model,
            "max_depth": self.max_depth,
            "max_iterations": self.max_iterations,
            "backend": self.backend,
            "backend_kwargs": dict(self.backend_kwargs),
            "environment_type": self.environment_type,
            "environment_kwargs": dict(self.environment_kwargs),
            "other_backends": self.other_backends,
        }


def _told(told: dict[str, Any], **others: Mapping[str, Any] | float | str | None) -> dict[str, Any]:
    """Return what is told, and of the others those that there are."""
    return told | {name: value for name, value in others.items() if value is not None}

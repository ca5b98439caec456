"""The errors of that library where a limit ends a completion: its names and attributes, of ours."""

from __future__ import annotations

from rlm_wasm.errors import RlmWasmError, RunLimitReached, RunStopped
from rlm_wasm.outcomes import StopKind
from rlm_wasm.results import RunResult

_COST = "budget.cost_microdollars_max"
_TOKENS = ("budget.input_tokens_max", "budget.output_tokens_max")


class CompletionStopped(RlmWasmError):
    """A completion ended without an answer that its model declared; `partial_answer` is the best there is."""

    def __init__(self, message: str, partial_answer: str | None, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.partial_answer = partial_answer


class BudgetExceededError(CompletionStopped):
    """What was to come next did not fit into `budget` dollars, of which `spent` were."""

    def __init__(self, spent: float, budget: float, partial_answer: str | None = None) -> None:
        super().__init__(
            f"budget exceeded: ${spent:.6f} of ${budget:.6f} spent, and what was to come next did not fit",
            partial_answer,
            "give a larger max_budget",
        )
        self.spent = spent
        self.budget = budget


class TimeoutExceededError(CompletionStopped):
    """The completion took all of its `timeout` seconds."""

    def __init__(self, elapsed: float, timeout: float, partial_answer: str | None = None) -> None:
        super().__init__(
            f"timeout exceeded: {elapsed:.1f}s of {timeout:.1f}s", partial_answer, "give a larger max_timeout"
        )
        self.elapsed = elapsed
        self.timeout = timeout


class TokenLimitExceededError(CompletionStopped):
    """All models together used up `token_limit` tokens, or what was to come next might have."""

    def __init__(self, tokens_used: int, token_limit: int, partial_answer: str | None = None) -> None:
        super().__init__(
            f"token limit exceeded: {tokens_used:,} of {token_limit:,} tokens used; a query that may use "
            "more than is left is not sent, and until it is answered a token counts as a byte",
            partial_answer,
            "give a larger max_tokens",
        )
        self.tokens_used = tokens_used
        self.token_limit = token_limit


class ErrorThresholdExceededError(CompletionStopped):
    """So many turns in a row had code that failed."""

    def __init__(
        self, error_count: int, threshold: int, last_error: str | None, partial_answer: str | None = None
    ) -> None:
        super().__init__(
            f"error threshold exceeded: {error_count} turns in a row failed, {threshold} allowed",
            partial_answer,
            "give a larger max_errors",
        )
        self.error_count = error_count
        self.threshold = threshold
        self.last_error = last_error


class CancellationError(CompletionStopped):
    """The completion was cancelled."""


def answer_of(result: RunResult) -> str:
    """Return the answer that a run came to, declared, or its best one where it had its turns.

    Raises:
        BudgetExceededError, TokenLimitExceededError, TimeoutExceededError: that limit ended the run.
        CancellationError: it was cancelled, or its runtime closed.
        RunLimitReached, RunStopped: anything else did; the error says which key of the policy.
    """
    stop, answer = result.stop, result.answer
    if answer is not None and not result.partial:
        return answer
    if result.unwritten is not None and stop.declared:
        result.raise_for_outcome()
    # As in that library, whose last question is asked of a model that has had its turns.
    has_had_its_turns = stop.kind in (StopKind.ITERATIONS, StopKind.REPEATS)
    if answer is not None and (has_had_its_turns or stop.key == "budget.iterations_max"):
        return answer
    spent = result.spent
    if stop.key == _COST:
        raise BudgetExceededError(spent["cost_microdollars"] / 1e6, (stop.limit or 0) / 1e6, answer)
    if stop.key in _TOKENS:
        used = spent["input_tokens"] + spent["output_tokens"]
        raise TokenLimitExceededError(used, stop.limit or 0, answer)
    if stop.kind is StopKind.DEADLINE:
        raise TimeoutExceededError(result.wall_ms / 1e3, (stop.limit or 0) / 1e3, answer)
    if stop.kind in (StopKind.CANCELLED, StopKind.CLOSED):
        raise CancellationError(f"the completion was cancelled: {result.reason}", answer)
    kind = RunLimitReached if stop.is_limit else RunStopped
    raise kind(result.reason, stop, answer)

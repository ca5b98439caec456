"""The public shape of the library `rlms` over this runtime: ``from rlm_wasm.compat import RLM``."""

from rlm_wasm.compat.limits_met import (
    BudgetExceededError,
    CancellationError,
    ErrorThresholdExceededError,
    TimeoutExceededError,
    TokenLimitExceededError,
)
from rlm_wasm.compat.records import ModelUsageSummary, RLMChatCompletion, UsageSummary
from rlm_wasm.compat.rlm import RLM
from rlm_wasm.compat.trajectory_log import RLMLogger

__all__ = [
    "RLM",
    "BudgetExceededError",
    "CancellationError",
    "ErrorThresholdExceededError",
    "ModelUsageSummary",
    "RLMChatCompletion",
    "RLMLogger",
    "TimeoutExceededError",
    "TokenLimitExceededError",
    "UsageSummary",
]

"""How a model is told to work, how its replies are read, how results are shown to it. Pure functions."""

from __future__ import annotations

from rlm_wasm.core.dialects.dialect import Dialect
from rlm_wasm.core.dialects.observations import RanCell, format_observation, observation_messages
from rlm_wasm.core.dialects.prompts import ContextFacts, first_user_message, system_prompt, turn_prompt
from rlm_wasm.core.dialects.replies import ParsedReply, parse_reply

__all__ = [
    "ContextFacts",
    "Dialect",
    "ParsedReply",
    "RanCell",
    "first_user_message",
    "format_observation",
    "observation_messages",
    "parse_reply",
    "system_prompt",
    "turn_prompt",
]

"""Which way of finishing a run is taught and understood."""

from __future__ import annotations

from enum import StrEnum


class Dialect(StrEnum):
    """How the model says that it is done. Both guest callables work in every dialect."""

    ANSWER = "answer"  # the guest dict: answer["content"], answer["ready"] = True
    FINAL = "final"  # FINAL(value) and FINAL_VAR(name), in code or as text outside code
    BOTH = "both"

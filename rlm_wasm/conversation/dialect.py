"""A dialect: the way of finishing a run that is taught and understood."""

from __future__ import annotations

from enum import StrEnum


class Dialect(StrEnum):
    """How the model says that it is done.

    In every dialect both guest callables work, and FINAL_VAR(name) as text outside code: it can only give
    what the session holds. FINAL(text) outside code is an answer only where it is taught.
    """

    ANSWER = "answer"  # the guest dict: answer["content"], answer["ready"] = True
    FINAL = "final"  # FINAL(value) and FINAL_VAR(name), in code or as text outside code
    BOTH = "both"

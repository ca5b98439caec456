"""The inputs of a run as the model is told about them, without their contents."""

from __future__ import annotations

from collections.abc import Mapping
from keyword import iskeyword
from typing import Final
from unicodedata import normalize

from rlm_wasm.conversation.prompts import PEEK_CHARS_MAX, ContextFacts
from rlm_wasm.errors import UsageError

DEFAULT_NAME: Final = "context"
# Names of the REPL's own, which an input would hide or be hidden by.
RESERVED: Final = frozenset(
    {
        *("answer", "budget", "llm_query", "llm_query_batched", "rlm_query", "rlm_query_batched"),
        *("FINAL", "FINAL_VAR", "SHOW_VARS"),
        *("QueryError", "BudgetExceeded", "ProviderError", "QueryTimeout", "QueryCancelled"),
        *("DepthExceeded", "ChildFailed", "LimitExceeded"),
        *("_", "__name__", "__builtins__"),
    }
)
# Characters or bytes from which a session's origin is taken anew after loading them: else what is kept of
# each state would have to have room for them.
REBASE_FROM_UNITS: Final = 1 << 20
Contexts = str | bytes | Mapping[str, str | bytes] | None


def named_contexts(contexts: Contexts) -> dict[str, str | bytes]:
    """Return the inputs by variable name; a single one is called ``context``.

    Raises:
        UsageError: a name is no Python identifier, or a value is neither str nor bytes.
    """
    if contexts is None:
        return {}
    named = {DEFAULT_NAME: contexts} if isinstance(contexts, str | bytes) else dict(contexts)
    for name, value in named.items():
        check_name(name)
        if not isinstance(value, str | bytes):
            raise UsageError(f"the context {name} is a {type(value).__name__}; give a str or bytes")
    return named


def check_name(name: object) -> None:
    """Raise UsageError for a name under which no cell would find an input."""
    if not isinstance(name, str):
        raise UsageError(f"a variable name is a str, not a {type(name).__name__}")
    # Python reads ﬁ as fi, and so would not find a variable whose name is spelt with the former.
    if not name.isidentifier() or iskeyword(name) or normalize("NFKC", name) != name:
        raise UsageError(f"{name!a} is not a variable name")
    if name in RESERVED or (name.startswith("__") and name.endswith("__")):
        raise UsageError(f"{name} is a name of the session's own; call the input something else")


def describe(named: Mapping[str, str | bytes]) -> tuple[ContextFacts, ...]:
    """Return what the model is told: name, type, length, and the first few hundred characters."""
    return tuple(
        ContextFacts(
            name=name,
            type_name=type(value).__name__,
            length=len(value),
            unit="characters" if isinstance(value, str) else "bytes",
            peek=value[:PEEK_CHARS_MAX] if isinstance(value, str) else repr(value[: PEEK_CHARS_MAX // 4]),
        )
        for name, value in named.items()
    )

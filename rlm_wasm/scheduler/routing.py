"""The rules of who answers a query, and who in the place of whom: the policy's, as functions of the query."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Self

from rlm_wasm.scheduler.inputs import QueryReceived
from rlm_wasm.scheduler.pricing import content_bytes


@dataclass(frozen=True, slots=True)
class Routing:
    """The rules of a run.

    `fallback` names, for a model that fails or is at its limit, those that are asked in its place, in order.
    `small` are models for what code asks without naming one, each with the most bytes that a prompt for it
    may have, the smallest first.
    """

    fallback: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    small: tuple[tuple[int, str], ...] = ()

    @classmethod
    def of(cls, fallback: Mapping[str, tuple[str, ...]] | None, small: Mapping[str, int] | None) -> Self:
        """Return the rules as a policy has them; of models with the same bound the first one holds."""
        by_size = sorted(((most, model) for model, most in (small or {}).items()), key=lambda rule: rule[0])
        return cls(dict(fallback or {}), tuple(by_size))

    def candidates(self, query: QueryReceived, known: Collection[str], size: int) -> tuple[str, ...]:
        """Return the models for a query in the order in which they are asked, each once.

        `size` is what prompt_bytes gives for its messages.
        The first is in it whether it is known or not: who asks for one that is not is told so.
        """
        first = query.model
        if query.by_size and self.small:
            text = content_bytes(query.prompt_messages, size)
            first = next((model for most, model in self.small if text <= most), first)
        others = self.fallback.get(first, ())
        if not others:
            return (first,)
        return (first, *dict.fromkeys(model for model in others if model in known and model != first))

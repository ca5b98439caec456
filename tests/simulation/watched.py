"""A scheduler whose every step the books see."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rlm_wasm.engine.broker import Broker
from rlm_wasm.scheduler.effects import Effect
from rlm_wasm.scheduler.inputs import Input
from tests.simulation.books import Books


class Watched:
    """Hands inputs to a scheduler and shows them to the books. Everything else is the scheduler's."""

    def __init__(self, scheduler: Any, books: Books, step: Callable[[], None]) -> None:
        self._scheduler = scheduler
        self._books = books
        self._step = step

    def __getattr__(self, name: str) -> Any:
        return getattr(self._scheduler, name)

    def handle(self, given: Input, now_ns: int) -> list[Effect]:
        """Let the scheduler decide, check what it decided, and call `step`."""
        books = self._books
        try:
            effects: list[Effect] = self._scheduler.handle(given, now_ns)
        except Exception as error:
            books.wrong.append(f"4: the scheduler raised {error!r} at {str(given)[:200]}")
            raise
        try:
            books.took(given, effects, now_ns, self._scheduler.budget_view)
        except Exception as error:  # noqa: BLE001 - a bug of the books must not look like one of the product
            books.wrong.append(f"the books do not understand: {error!r} at {str(given)[:200]}")
        self._step()
        return effects


def watch(broker: Broker, books: Books, step: Callable[[], None]) -> Watched:
    """Put the books between a broker and its scheduler."""
    watched: Any = Watched(broker._scheduler, books, step)
    broker._scheduler = watched  # type: ignore[misc]
    return watched  # type: ignore[no-any-return]

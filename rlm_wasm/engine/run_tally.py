"""`RunTally`: how far a run is and what it has used, in one line, made from its events alone."""

from __future__ import annotations

from rlm_wasm.events import Event
from rlm_wasm.policy.model import Policy


class RunTally:
    """Takes a run's events, and says in a line what they come to."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._iteration = 0
        self._children = 0
        self._calls = 0
        self._waiting = 0
        self._tokens = 0
        self._cost = 0
        self._fuel = 0

    def take(self, event: Event) -> None:
        """Take one event."""
        data = event.data
        match event.kind:
            case "iteration_started" if event.depth == 0:
                self._iteration = _number(data.get("iteration"))
            case "child_started":
                self._children += 1
            case "child_answered":
                self._children = max(0, self._children - 1)
            case "query_received":
                self._waiting += 1
            case "query_answered":
                self._waiting = max(0, self._waiting - 1)
                self._calls += 1
                self._tokens += _number(data.get("input_tokens")) + _number(data.get("output_tokens"))
                self._cost += _number(data.get("cost_microdollars"))
            case "fuel_used":
                self._fuel = _number(data.get("total"))

    def line(self) -> str:
        """Return the line: iteration, children at work, calls, tokens, cost, fuel."""
        budget = self._policy.budget
        children = f" · {self._children} children" if self._children else ""
        waiting = f" ({self._waiting} waiting)" if self._waiting else ""
        return (
            f"turn {self._iteration}/{min(self._policy.run.turns_max, budget.iterations_max)}{children}"
            f" · calls {self._calls}/{budget.calls_max}{waiting}"
            f" · {self._tokens:,} tokens · ${self._cost / 1e6:.4f}"
            f" · fuel {100 * self._fuel / budget.fuel_max:.1f}%"
        )


def _number(value: object) -> int:
    return value if isinstance(value, int) else 0

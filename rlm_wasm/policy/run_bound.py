"""The most that a run under a policy may use and cost, told before anybody is asked."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from typing import Final, Self

from rlm_wasm.limits import BudgetLimits, ModelPrice, QueryLimits, RunLimits

_MTOK: Final = 1_000_000
_COST: Final = "cost_microdollars"
_OUTPUT: Final = "output_tokens"


@dataclass(frozen=True, slots=True)
class RunBound:
    """What the ledger lets a run use at most, by the names that `RunResult.spent` has, and its time.

    `keys` says which keys of the policy bound each. No call is sent that does not fit; a provider whose bill
    is higher than what was reserved for its call ends the run, and that bill alone can stand above this.
    """

    at_most: Mapping[str, int]
    wall_ms: int
    keys: Mapping[str, tuple[str, ...]]

    @classmethod
    def of(
        cls, budget: BudgetLimits, query: QueryLimits, run: RunLimits, prices: Collection[ModelPrice]
    ) -> Self:
        """Return a run's budget, or less of tokens and money where its calls and prices come to less."""
        names = [field.name.removesuffix("_max") for field in fields(budget)]
        at_most = {name: int(getattr(budget, f"{name}_max")) for name in names}
        keys: dict[str, tuple[str, ...]] = {name: (f"budget.{name}_max",) for name in names}
        lengths = {
            "query.output_tokens_max": query.output_tokens_max,
            "query.output_tokens_retry_max": query.output_tokens_retry_max,
        }
        longest = max(lengths, key=lengths.__getitem__)
        if (by_calls := budget.calls_max * lengths[longest]) < budget.output_tokens_max:
            at_most[_OUTPUT] = by_calls
            keys[_OUTPUT] = ("budget.calls_max", longest)
        dearest_input = max(price.input_microdollars_per_mtok for price in prices)
        dearest_output = max(price.output_microdollars_per_mtok for price in prices)
        exact = budget.input_tokens_max * dearest_input + at_most[_OUTPUT] * dearest_output
        # Each call is rounded up to a whole micro-dollar.
        by_tokens = -(-exact // _MTOK) + budget.calls_max if exact else 0
        if by_tokens < budget.cost_microdollars_max:
            at_most[_COST] = by_tokens
            tokens = dict.fromkeys(("budget.input_tokens_max", *keys[_OUTPUT], "budget.calls_max"))
            keys[_COST] = (*tokens, "models.prices")
        keys["wall_ms"] = ("run.wall_ms_max",)
        return cls(at_most, run.wall_ms_max, keys)

    @property
    def cost_microdollars(self) -> int:
        """What it costs at most, in millionths of a dollar."""
        return self.at_most[_COST]

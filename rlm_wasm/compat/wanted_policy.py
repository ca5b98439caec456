"""`WantedPolicy`: the arguments of an RLM as limits and grants of a policy."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from rlm_wasm.compat.backend import Backend
from rlm_wasm.errors import UsageError
from rlm_wasm.integrations.host_functions import TIMEOUT_MS
from rlm_wasm.limits import reserve_of
from rlm_wasm.policy.model import Policy
from rlm_wasm.policy.price_list import listed_price
from rlm_wasm.policy.tables import as_data
from rlm_wasm.policy.this_machine import is_this_machine

_T = TypeVar("_T")
_MICRODOLLARS: Final = 1_000_000
# Of a model that no list has a price of, where no budget is in money.
UNPRICED: Final = "unknown: counted as nothing"


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedPolicy:
    """What an RLM is to be held to. None: what the policy says.

    `is_callers`: the policy is one that the caller gave, whose limits are not raised beyond what an argument
    says.
    """

    root: Backend
    sub: Backend
    turns_max: int
    depth_max: int
    budget: float | None
    tokens: int | None
    timeout_ms: int | None
    permits: int | None
    compact_percent: int | None
    instructions: str
    tools: tuple[str, ...]
    texts: bool
    is_callers: bool

    def over(self, base: Policy) -> Policy:
        """Return the policy that this makes of `base`.

        Raises:
            UsageError: two models are to be held to different limits of a query, or a price is missing.
            PolicyError: a number is out of its range; the message names the key.
        """
        changes: dict[str, Any] = {
            "run": self._run(base),
            "budget": self._budget(base),
            "query": self._query(base),
            "cell": self._cell(base),
            "providers": {each.provider: dict(each.table) for each in (self.root, self.sub)},
            "models": self._models(base),
            "events": {"texts": base.events.texts or self.texts},
        }
        if not self.is_callers:
            changes["tools"] = {"allow": list(self.tools), "timeout_ms_max": TIMEOUT_MS}
            changes["providers"] |= dict.fromkeys(base.providers.keys() - changes["providers"].keys())
        wait_ms = max(base.boundary.host_wait_ms_max, changes["query"]["timeout_ms_max"])
        changes["boundary"] = {"host_wait_ms_max": wait_ms}
        if self.instructions and base.guidance is not None:
            changes["guidance"] = {
                "children": True,
                "instructions_bytes_max": max(
                    base.guidance.instructions_bytes_max,
                    len(self.instructions.encode()) + len(base.guidance.instructions.encode()) + 2,
                ),
            }
        return base.replace(**changes)

    def _run(self, base: Policy) -> dict[str, int]:
        wall_ms = base.run.wall_ms_max if self.timeout_ms is None else self.timeout_ms
        run = {
            "turns_max": self.turns_max,
            "depth_max": self.depth_max,
            "wall_ms_max": wall_ms,
            "child_wall_ms_max": min(base.run.child_wall_ms_max, wall_ms),
        }
        if self.permits is not None:
            run["permits_max"] = self.permits
        if self.compact_percent is not None:
            run |= {"compact_percent": self.compact_percent, "summaries_max": max(1, base.run.summaries_max)}
        return run

    def _budget(self, base: Policy) -> dict[str, int]:
        budget: dict[str, int] = {}
        if not self.is_callers:
            # Room for all turns of the root, and for a query in each.
            budget["iterations_max"] = max(base.budget.iterations_max, self.turns_max)
            budget["calls_max"] = max(base.budget.calls_max, 2 * self.turns_max + 10)
        if self.budget is not None:
            budget["cost_microdollars_max"] = math.ceil(self.budget * _MICRODOLLARS)
        if self.tokens is not None:
            budget |= {"input_tokens_max": self.tokens, "output_tokens_max": self.tokens}
        return budget

    def _query(self, base: Policy) -> dict[str, int]:
        wall_ms = self._run(base)["wall_ms_max"]
        given_ms = self._of_both("timeout", self.root.timeout_ms, self.sub.timeout_ms)
        query = {"timeout_ms_max": min(given_ms or base.query.timeout_ms_max, wall_ms)}
        attempts = self._of_both("max_retries", self.root.attempts_max, self.sub.attempts_max)
        if attempts is not None:
            query["attempts_max"] = attempts
        cap = self._of_both("max_tokens", self.root.output_tokens_max, self.sub.output_tokens_max)
        cap = base.query.output_tokens_max if cap is None else cap
        if self.tokens is not None:
            kept = -(-self.tokens * base.run.reserve_percent // 100)
            if self.tokens - kept < 1 or self.tokens < base.query.input_overhead_tokens:
                raise UsageError(
                    f"max_tokens={self.tokens} is less than one query takes",
                    hint=f"at least {max(2, base.query.input_overhead_tokens)}",
                )
            cap = min(cap, self.tokens - kept)
        elif not self.is_callers:
            kept = reserve_of(base.budget, base.run.reserve_percent).get("output_tokens_max", 0)
            cap = min(cap, base.budget.output_tokens_max - kept)
        query["output_tokens_max"] = cap
        if base.query.output_tokens_retry_max <= cap:
            query["output_tokens_retry_max"] = 0
        return query

    def _cell(self, base: Policy) -> dict[str, int]:
        wall_ms = self._run(base)["wall_ms_max"]
        return {
            "wall_ms_max": min(base.cell.wall_ms_max, wall_ms),
            "sleep_ms_max": min(base.cell.sleep_ms_max, wall_ms),
        }

    def _models(self, base: Policy) -> dict[str, Any]:
        root, sub = self.root, self.sub
        prices: dict[str, Any] = dict(as_data(base.models.prices)) if self.is_callers else {}
        settings = {each.spec: dict(each.settings) for each in (root, sub) if each.settings}
        for each in (root, sub):
            if each.spec not in prices and not _has_price(each):
                if self.budget is not None:
                    raise UsageError(
                        f"max_budget needs a price of {each.spec}, and no list has one for its endpoint",
                        hint="policy=Policy.builtin('strict').replace(models={'prices': {"
                        f"{each.spec!r}: {{'input_microdollars_per_mtok': …, "
                        "'output_microdollars_per_mtok': …}}})",
                    )
                free = {"input_microdollars_per_mtok": 0, "output_microdollars_per_mtok": 0}
                prices[each.spec] = {**free, "source": UNPRICED}
        return {
            "root": root.spec,
            "sub": sub.spec,
            # Children are driven by the root's model there.
            "child": [root.spec],
            "prices": prices,
            "settings": settings or None,
            **({} if self.is_callers else {"windows": None}),
        }

    def _of_both(self, name: str, of_root: _T | None, of_sub: _T | None) -> _T | None:
        if of_root is not None and of_sub is not None and of_root != of_sub:
            raise UsageError(
                f"{name} is {of_root} for one model and {of_sub} for the other",
                hint="give both the same: one limit holds for every query",
            )
        return of_sub if of_root is None else of_root


def _has_price(backend: Backend) -> bool:
    url = str(backend.table["base_url"])
    return is_this_machine(url) or listed_price(backend.model, url) is not None

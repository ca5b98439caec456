"""A policy: every limit and grant of a run, explicit, finite and checked before anything starts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from pydantic import ValidationError, model_validator
from pydantic_core import PydanticCustomError

from rlm_wasm.errors import PolicyError
from rlm_wasm.limits import (
    NO_TENANT_LIMITS,
    BoundaryLimits,
    BudgetLimits,
    CellLimits,
    ModelPrice,
    ObservationLimits,
    PermitLimits,
    QueryLimits,
    RunLimits,
    SessionLimits,
    StreamLimits,
    TenantLimits,
    WorkerLimits,
)
from rlm_wasm.policy import sections as s
from rlm_wasm.policy.builtin import builtin_names, builtin_path
from rlm_wasm.policy.document import read_document
from rlm_wasm.policy.lockdown import required_layers
from rlm_wasm.policy.problems import RULES_ERROR, Lines, dotted, explain, policy_error
from rlm_wasm.policy.rules import SCRIPT_PREFIX, violations

_FREE = ModelPrice(input_microdollars_per_mtok=0, output_microdollars_per_mtok=0)


class Policy(s.Section):
    """What a run may use and do. Immutable; every instance has passed every check."""

    sandbox: s.SandboxSection
    workers: s.WorkersSection
    tenants: s.TenantsSection | None = None
    cell: s.CellSection
    run: s.RunSection
    budget: s.BudgetSection
    permits: s.PermitsSection
    boundary: s.BoundarySection
    observation: s.ObservationSection
    query: s.QuerySection
    events: s.EventsSection
    models: s.ModelsSection
    providers: s.ProvidersSection = s.ProvidersSection()

    @model_validator(mode="after")
    def _keep_rules(self) -> Self:
        if problems := violations(self):
            raise PydanticCustomError(RULES_ERROR, "rules between keys are broken", {"problems": problems})
        return self

    @classmethod
    def open(cls, name_or_path: str | Path) -> Self:
        """Return a built-in policy by its bare name, or the policy in a file. Raises PolicyError."""
        if isinstance(name_or_path, str) and name_or_path in builtin_names():
            return cls.builtin(name_or_path)
        return cls.load(name_or_path)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read the policy in a TOML file. Raises one PolicyError that lists every problem."""
        document = read_document(Path(path))
        return cls.from_mapping(document.data, origin=document.origin, lines=document.lines)

    @classmethod
    def builtin(cls, name: str) -> Self:
        """Return the policy that ships with this package under `name`, such as ``strict``.

        Raises PolicyError if there is none of that name.
        """
        return cls.load(builtin_path(name))

    @classmethod
    def from_mapping(
        cls, data: Mapping[str, Any], *, origin: str = "policy", lines: Lines | None = None
    ) -> Self:
        """Check nested mappings shaped like the file. Raises PolicyError, never pydantic's own error."""
        try:
            return cls.model_validate(dict(data))
        except ValidationError as exc:
            error = policy_error(explain(exc, cls), origin, lines or {})
        # Outside the handler: pydantic's error, which holds the input, stays out of the chain.
        raise error

    def with_models(self, *, root: str | None = None, sub: str | None = None) -> Self:
        """Return this policy with other models, checked again. Raises PolicyError.

        `root` alone replaces all: who names one model wants no other to be asked, or billed.
        """
        if root is None and sub is None:
            return self
        data = self.to_mapping()
        if root is not None:
            data["models"] |= {"root": root, "sub": root, "child": [root]}
        if sub is not None:
            data["models"]["sub"] = sub
        return self.from_mapping(data, origin="model override")

    def to_mapping(self) -> dict[str, Any]:
        """Return the policy as plain nested dicts, in the order of the file; from_mapping reads it back."""
        return self.model_dump(exclude_none=True)

    def required_layers(self) -> tuple[str, ...]:
        """Return the layers of the lock-down without which no worker may start."""
        return required_layers(self.sandbox.lockdown) if self.sandbox.require_lockdown else ()

    def cell_limits(self) -> CellLimits:
        """Return the limits of one cell."""
        return CellLimits(**self.cell.model_dump())

    def session_limits(self) -> SessionLimits:
        """Return the limits and grants of one session."""
        box = self.sandbox
        return SessionLimits(
            memory_bytes_max=box.memory_bytes_max,
            context_bytes_max=box.context_bytes_max,
            checkpoint_bytes_max=box.checkpoint_bytes_max,
            clock=box.clock,
            entropy=box.entropy,
            seed=box.seed,
        )

    def worker_limits(self) -> WorkerLimits:
        """Return the limits of the worker processes."""
        return WorkerLimits(**self.workers.model_dump())

    def boundary_limits(self) -> BoundaryLimits:
        """Return what a request frame may be."""
        return BoundaryLimits(**self.boundary.model_dump())

    def observation_limits(self) -> ObservationLimits:
        """Return how much of a cell the model gets to see."""
        return ObservationLimits(
            bytes_max=self.observation.bytes_max, variables_max=self.observation.variables_max
        )

    def budget_limits(self) -> BudgetLimits:
        """Return what the run may use up."""
        return BudgetLimits(**self.budget.model_dump())

    def run_limits(self) -> RunLimits:
        """Return what bounds the run."""
        return RunLimits(**self.run.model_dump())

    def permit_limits(self) -> PermitLimits:
        """Return what bounds provider I/O over all runs."""
        permits = self.permits.model_dump(exclude={"weights"})
        return PermitLimits(**permits, tenant_max=self.tenant_limits().share_of(self.permits.total_max))

    def tenant_limits(self) -> TenantLimits:
        """Return what one tenant may have of what all share."""
        return NO_TENANT_LIMITS if self.tenants is None else TenantLimits(**self.tenants.model_dump())

    def query_limits(self) -> QueryLimits:
        """Return the limits of one query."""
        return QueryLimits(**self.query.model_dump())

    def stream_limits(self) -> StreamLimits:
        """Return what is kept for a slow reader of events."""
        return StreamLimits(**self.events.model_dump(exclude={"texts"}))

    def price(self, spec: str) -> ModelPrice:
        """Return the price of the model `spec`; raise PolicyError if a run could not budget its cost."""
        if spec.startswith(SCRIPT_PREFIX):
            return _FREE
        price = self.models.prices.get(spec)
        if price is None:
            name = dotted((spec,))
            raise PolicyError(
                f"the policy has no price for the model {name}, so its cost cannot be budgeted",
                hint=f"add the table [models.prices.{name}] to the policy",
            )
        return ModelPrice(**price.model_dump())

    def prices(self) -> dict[str, ModelPrice]:
        """Return the price of every model a run may ask: root, sub, and all that have a price.

        This is the allow-list for model names that come from the guest: a name outside it, a
        ``script:`` path above all, must never reach a provider.
        """
        models = self.models
        return {spec: self.price(spec) for spec in (models.root, models.sub, *models.child, *models.prices)}

"""A policy: every limit and grant of a run, explicit, finite and checked before anything starts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from os import PathLike
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Self

from rlm_wasm.errors import PolicyError
from rlm_wasm.guidance import NO_GUIDANCE, Guidance
from rlm_wasm.limits import (
    COMMON_GUIDANCE_LIMITS,
    COMMON_INPUT_LIMITS,
    COMMON_MCP_LIMITS,
    NO_TENANT_LIMITS,
    GuidanceLimits,
    InputLimits,
    McpLimits,
    ModelPrice,
    PermitCaps,
    PermitLimits,
    SessionLimits,
    TenantLimits,
)
from rlm_wasm.policy.builtin import builtin_names, builtin_path
from rlm_wasm.policy.check import checked
from rlm_wasm.policy.inherit import read_inherited
from rlm_wasm.policy.lockdown import required_layers
from rlm_wasm.policy.pricing import source_of, spelled_out, with_prices
from rlm_wasm.policy.problems import Places, dotted, policy_error
from rlm_wasm.policy.provider_tables import FILE_KINDS, kind_behind
from rlm_wasm.policy.rules import violations
from rlm_wasm.policy.run_bound import RunBound
from rlm_wasm.policy.tables import PriceTable, Tables, as_data, changed, guidance_of
from rlm_wasm.results import PriceInForce

_FREE: Final = ModelPrice(input_microdollars_per_mtok=0, output_microdollars_per_mtok=0)
_NOWHERE: Final[Places] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy(Tables):
    """What a run may use and do. Immutable; every instance has passed every check.

    That holds for whatever makes one: the constructor, `dataclasses.replace`, a copy, a pickle. Each ends
    in the constructor, which takes tables, as objects or as mappings, and raises PolicyError.
    """

    def __post_init__(self) -> None:
        for name, table in _tables(self.to_mapping()).items():
            object.__setattr__(self, name, table)

    def __reduce__(self) -> tuple[Callable[..., Self], tuple[dict[str, Any]]]:
        return type(self).from_mapping, (self.to_mapping(),)

    @classmethod
    def open(cls, name_or_path: str | Path) -> Self:
        """Return a built-in policy by its bare name, or the policy in a file. Raises PolicyError."""
        if isinstance(name_or_path, str) and name_or_path in builtin_names():
            return cls.builtin(name_or_path)
        return cls.load(name_or_path)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read the policy in a TOML file, and those that it extends.

        Raises one PolicyError that lists every problem.
        """
        if not isinstance(path, str | PathLike):
            raise PolicyError(f"a policy's path is a str or a Path, not a {type(path).__name__}")
        document = read_inherited(Path(path))
        return cls.from_mapping(document.data, origin=document.origin, places=document.places)

    @classmethod
    def builtin(cls, name: str) -> Self:
        """Return the policy that ships with this package under `name`, such as ``strict``.

        Raises PolicyError if there is none of that name.
        """
        return cls.load(builtin_path(name))

    @classmethod
    def from_mapping(
        cls, data: Mapping[str, Any], *, origin: str = "policy", places: Places | None = None
    ) -> Self:
        """Check nested mappings shaped like the file. Raises PolicyError, never a library's own error."""
        return cls(**_tables(data, origin, places or _NOWHERE))

    def replace(self, **tables: Mapping[str, Any] | None) -> Self:
        """Return this policy with other values for some keys, checked like a file. Raises PolicyError.

        ``policy.replace(cell={"fuel_max": 10**9})`` changes one key. A table within a table is changed by its
        keys too; what a key holds is replaced as a whole, `weights` and `prices` like any other. None takes
        out what may be absent.
        """
        return self.from_mapping(changed(self, tables), origin="policy.replace")

    def with_models(
        self,
        *,
        root: str | None = None,
        sub: str | None = None,
        prices: Mapping[str, PriceTable] | None = None,
    ) -> Self:
        """Return this policy with other models, and other prices of some, checked again. Raises PolicyError.

        `root` alone replaces all: who names one model wants no other to be asked, or billed.
        """
        if root is None and sub is None and not prices:
            return self
        models: dict[str, Any] = {}
        if root is not None:
            models = {"root": root, "sub": root, "child": [root], "fallback": None, "sub_up_to_bytes": None}
        if sub is not None:
            models |= {"sub": sub, "sub_up_to_bytes": None}
        if prices:
            models["prices"] = {**self.models.prices, **prices}
        return self.from_mapping(changed(self, {"models": models}), origin="model override")

    def to_mapping(self) -> dict[str, Any]:
        """Return the policy as plain nested dicts, in the order of the file; from_mapping reads it back."""
        data: dict[str, Any] = as_data(self)
        return data

    def required_layers(self) -> tuple[str, ...]:
        """Return the layers of the lock-down without which no worker may start."""
        return required_layers(self.sandbox.lockdown) if self.sandbox.require_lockdown else ()

    def session_limits(self) -> SessionLimits:
        """Return the limits and grants of one session, as its worker is told them."""
        told = (field.name for field in fields(SessionLimits) if field.name != "stream")
        return SessionLimits(**{name: getattr(self.sandbox, name) for name in told})

    def permit_limits(self) -> PermitLimits:
        """Return what bounds provider I/O over all runs."""
        caps = {field.name: getattr(self.permits, field.name) for field in fields(PermitCaps)}
        return PermitLimits(**caps, tenant_max=self.tenant_limits().share_of(self.permits.total_max))

    def tenant_limits(self) -> TenantLimits:
        """Return what one tenant may have of what all share."""
        return NO_TENANT_LIMITS if self.tenants is None else self.tenants

    def input_limits(self) -> InputLimits:
        """Return what bounds the reading of inputs, besides their size."""
        return COMMON_INPUT_LIMITS if self.inputs is None else self.inputs

    def mcp_limits(self) -> McpLimits:
        """Return what bounds what crosses over MCP."""
        return COMMON_MCP_LIMITS if self.mcp is None else self.mcp

    def guidance_limits(self) -> GuidanceLimits:
        """Return what bounds own instructions and examples, the policy's and a question's together."""
        return COMMON_GUIDANCE_LIMITS if self.guidance is None else self.guidance

    def own_guidance(self) -> Guidance:
        """Return the policy's own instructions and examples."""
        return NO_GUIDANCE if self.guidance is None else guidance_of(self.guidance)

    def price(self, spec: str) -> ModelPrice:
        """Return the price of the model `spec`; raise PolicyError if a run could not budget its cost."""
        price = self.models.prices.get(spec)
        if price is None:
            if kind_behind(spec, self.providers) in FILE_KINDS:
                return _FREE
            name = dotted((spec,))
            raise PolicyError(
                f"the policy has no price for the model {name}, so its cost cannot be budgeted",
                hint=f"add the table [models.prices.{name}] to the policy",
            )
        return ModelPrice(price.input_microdollars_per_mtok, price.output_microdollars_per_mtok)

    def price_source(self, spec: str) -> str:
        """Return where the price of `spec` is from: "policy", a list and its version, or why it is free."""
        price = self.models.prices.get(spec)
        return "free: answers come from a file" if price is None else source_of(price)

    def windows(self) -> dict[str, int]:
        """Return how many tokens each model holds of which the policy, or the list, says so."""
        models = self.models
        found = {spec: price.window_tokens for spec, price in models.prices.items() if price.window_tokens}
        return found | dict(models.windows or {})

    def prices(self) -> dict[str, ModelPrice]:
        """Return the price of every model a run may ask: those that it names, and all that have a price.

        This is the allow-list for model names that come from the guest: a name outside it, a
        ``script:`` path above all, must never reach a provider.
        """
        models = self.models
        return {spec: self.price(spec) for spec in (*models.asked, *models.prices)}

    def prices_in_force(self) -> dict[str, PriceInForce]:
        """Return the price of every model a run may ask, with where each is from."""
        return {
            spec: PriceInForce(
                price.input_microdollars_per_mtok, price.output_microdollars_per_mtok, self.price_source(spec)
            )
            for spec, price in self.prices().items()
        }

    def run_bound(self) -> RunBound:
        """Return the most that a run may use and cost."""
        return RunBound.of(self.budget, self.query, self.run, self.prices().values())


def _tables(data: Mapping[str, Any], origin: str = "policy", places: Places = _NOWHERE) -> dict[str, Any]:
    """Return the tables of a policy by their names, or raise one PolicyError that lists every problem."""
    tables = with_prices(checked(Tables, spelled_out(data), origin, places))
    # The rules between keys are about keys that are right by themselves.
    if problems := violations(tables):
        raise policy_error(problems, origin, places)
    return {field.name: getattr(tables, field.name) for field in fields(tables)}

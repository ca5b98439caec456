"""`ToolGrants`: which tools a tenant has of those that the program gives, by the policy, and their caps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

from rlm_wasm.errors import UsageError
from rlm_wasm.limits import BoundaryLimits, ToolCaps, ToolLimits
from rlm_wasm.policy.tables import ToolsTable
from rlm_wasm.tools.places import Places
from rlm_wasm.tools.tool import Tool
from rlm_wasm.values import JsonText

_ANY: Final = "*"
_UNCAPPED: Final = ToolCaps()


@dataclass(frozen=True, slots=True)
class GrantedTool:
    """A tool, and the bounds of its calls: the smaller of its own and the policy's."""

    tool: Tool[..., Any]
    timeout_ms: int
    calls_max: int | None
    # One of each is taken for a call, in this order.
    places: tuple[Places, ...]


class GrantedTools:
    """The tools of a session, by their names."""

    def __init__(self, tools: Mapping[str, GrantedTool], limits: ToolLimits | None) -> None:
        self.by_name: Final = tools
        self._limits: Final = limits

    def __bool__(self) -> bool:
        return bool(self.by_name)

    @property
    def limits(self) -> ToolLimits:
        """What bounds what crosses the wall."""
        assert self._limits is not None, "without a table there are no tools"
        return self._limits

    def over(self, others: GrantedTools) -> GrantedTools:
        """Return these and the others; of two with one name, this one's."""
        return GrantedTools({**others.by_name, **self.by_name}, self._limits or others._limits)

    @cached_property
    def told(self) -> JsonText:
        """What the guest is told of them."""
        return JsonText.of([granted.tool.told() for granted in self.by_name.values()], "the tools")


NO_TOOLS: Final = GrantedTools({}, None)


class ToolGrants:
    """What the policy's table says of tools, and the places that all calls under it share."""

    def __init__(self, table: ToolsTable | None, boundary: BoundaryLimits) -> None:
        self._table: Final = table
        self._wait_ms_max: Final = boundary.host_wait_ms_max
        self._places: Final = Places(0 if table is None else table.parallel_max)
        caps = {} if table is None else table.caps or {}
        self._caps: Final[Mapping[str, ToolCaps]] = caps
        self._capped: Final = {
            name: Places(each.parallel_max) for name, each in caps.items() if each.parallel_max is not None
        }

    def check(self, tools: Iterable[Tool[..., Any]]) -> None:
        """Raise UsageError for a tool that no tenant may have."""
        for tool in tools:
            table = self._table
            if table is None or not any(
                self._allows(names, tool.name) for names in (table.allow, *(table.tenants or {}).values())
            ):
                raise _refused(tool.name, "the policy allows nobody")

    def of(self, tools: Sequence[Tool[..., Any]], tenant: str, *, wanted: bool = False) -> GrantedTools:
        """Return those of the tools that a tenant may have.

        Raises UsageError where they are `wanted` for this tenant, and it may not have one.
        """
        if not tools or self._table is None:
            if tools and wanted:
                self.check(tools)
            return NO_TOOLS
        names = (self._table.tenants or {}).get(tenant, self._table.allow)
        allowed = [tool for tool in tools if self._allows(names, tool.name)]
        if wanted and (refused := [tool.name for tool in tools if tool not in allowed]):
            raise _refused(
                refused[0],
                f"the policy does not allow the tenant {tenant!a}" if tenant else "the policy does not allow",
            )
        return GrantedTools({tool.name: self._granted(tool) for tool in allowed}, self._table)

    def _granted(self, tool: Tool[..., Any]) -> GrantedTool:
        assert self._table is not None
        caps = self._caps.get(tool.name, _UNCAPPED)
        capped = self._capped.get(tool.name)
        return GrantedTool(
            tool,
            min(
                tool.timeout_ms,
                self._table.timeout_ms_max,
                self._wait_ms_max,
                caps.timeout_ms_max or self._wait_ms_max,
            ),
            min((most for most in (tool.calls_max, caps.calls_max) if most is not None), default=None),
            # Those that all share come last: who waits for a busy tool holds none of them meanwhile.
            (tool.places, *([] if capped is None else [capped]), self._places),
        )

    @staticmethod
    def _allows(names: Iterable[str], name: str) -> bool:
        return any(each in (_ANY, name) for each in names)


def _refused(name: str, who: str) -> UsageError:
    return UsageError(
        f"{who} the tool {name}",
        hint=f'name it in `tools.allow` or `tools.tenants`: policy.replace(tools={{"allow": ["{name}"]}})',
    )

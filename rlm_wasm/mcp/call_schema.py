"""`CallSchema`: the gate for the arguments of one call, by the signature of its function."""

from __future__ import annotations

from collections.abc import Callable
from types import MethodType
from typing import Any, Final, get_type_hints

from rlm_wasm.mcp.client_calls import ClientCalls
from rlm_wasm.tools.signature import ToolSignature
from rlm_wasm.tools.validation import SignatureSchema


class CallSchema:
    """One call: its name, its description, what its arguments may be and what it returns."""

    def __init__(self, name: str) -> None:
        function: Callable[..., Any] = getattr(ClientCalls, name)
        method = MethodType(function, object())
        self.name: Final = name
        self.description: Final = (function.__doc__ or "").strip().replace("\n        ", "\n")
        self._schema: Final = SignatureSchema(method, name, ToolSignature.of(method, name))
        self._hints: Final = get_type_hints(function, include_extras=True)

    def arguments_schema(self) -> dict[str, Any]:
        """Return the JSON Schema of its arguments, with what each is for."""
        schema = self._schema.json_schema()
        for name, told in schema.get("properties", {}).items():
            told["description"] = self._hints[name].__metadata__[0]
        return schema

    def read(self, text: bytes) -> dict[str, Any]:
        """Return the arguments that a JSON text has. Raises ToolArgumentError."""
        return self._schema.read(text)[1]

    @property
    def result_type(self) -> type:
        """What it returns."""
        kind: type = self._hints["return"]
        return kind

"""`ToolSignature`: how a tool is called, as the guest shows it and as its arguments are named."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from rlm_wasm.errors import NoJsonForm, UsageError
from rlm_wasm.values import JsonText

# Of what stands in a signature for a default that JSON cannot say.
_SHOWN_CHARS: Final = 200
_KINDS: Final[Mapping[Any, Literal["positional", "either", "keyword"]]] = {
    inspect.Parameter.POSITIONAL_ONLY: "positional",
    inspect.Parameter.POSITIONAL_OR_KEYWORD: "either",
    inspect.Parameter.KEYWORD_ONLY: "keyword",
}


@dataclass(frozen=True, slots=True)
class ToolParameter:
    """One parameter: `annotation` is text, for people and models; `default` is of one not required."""

    name: str
    kind: Literal["positional", "either", "keyword"] = "either"
    annotation: str = ""
    required: bool = True
    default: object = None

    def description(self) -> dict[str, object]:
        """Return what the guest is told of it."""
        about: dict[str, object] = {
            "name": self.name,
            "kind": self.kind,
            "annotation": self.annotation,
            "required": self.required,
        }
        if not self.required:
            try:
                about["default"] = json.loads(JsonText.of(self.default))
            except NoJsonForm:
                about["shown"] = repr(self.default)[:_SHOWN_CHARS]
        return about


@dataclass(frozen=True, slots=True)
class ToolSignature:
    """The parameters of a tool, and what it returns as text."""

    parameters: tuple[ToolParameter, ...]
    returns: str = ""

    @classmethod
    def of(cls, function: Callable[..., object], name: str) -> ToolSignature:
        """Return a function's. Raises UsageError: it takes any number of arguments, or does not say what."""
        try:
            found = inspect.signature(function)
        except (TypeError, ValueError) as error:
            raise UsageError(f"the tool {name} does not say what it takes: {error}") from error
        parameters = []
        for each in found.parameters.values():
            kind = _KINDS.get(each.kind)
            if kind is None:
                raise UsageError(
                    f"the tool {name} takes any number of arguments (*{each.name})",
                    hint="give it parameters with names; a list or a dict can hold any number",
                )
            required = each.default is inspect.Parameter.empty
            annotation = annotation_text(each.annotation)
            default = None if required else each.default
            parameters.append(ToolParameter(each.name, kind, annotation, required, default))
        return cls(tuple(parameters), annotation_text(found.return_annotation))

    def __str__(self) -> str:
        """Return it as Python writes it."""
        parts: list[str] = []
        kinds = [each.kind for each in self.parameters]
        for at, each in enumerate(self.parameters):
            if each.kind == "keyword" and (at == 0 or kinds[at - 1] != "keyword"):
                parts.append("*")
            text = f"{each.name}: {each.annotation}" if each.annotation else each.name
            if not each.required:
                spaced = " = " if each.annotation else "="
                text += f"{spaced}{repr(each.default)[:_SHOWN_CHARS]}"
            parts.append(text)
            if each.kind == "positional" and kinds[at + 1 : at + 2] != ["positional"]:
                parts.append("/")
        return f"({', '.join(parts)})" + (f" -> {self.returns}" if self.returns else "")


def annotation_text(annotation: object) -> str:
    """Return an annotation as it was written, or nothing where there is none."""
    if annotation is inspect.Parameter.empty:
        return ""
    if annotation is None:
        return "None"
    return annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)

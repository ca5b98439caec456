"""Everyday cells of model-written code: read from `cells/`, each run in a session of its own, and judged."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import anyio

from rlm_wasm import Policy, Sandbox
from rlm_wasm.errors import GuestException, QueryError
from rlm_wasm.limits import BASE_IMAGE, BoundaryLimits
from rlm_wasm.outcomes import SessionState
from rlm_wasm.protocol.guest_frames import (
    LlmQuery,
    LlmQueryBatch,
    decode_request,
    encode_batch_response,
    encode_response,
)
from rlm_wasm.results import CellResult
from rlm_wasm.scheduler.request import Completed, Denied

HERE: Final = Path(__file__).parent
EXPECTATIONS: Final = HERE / "expectations.toml"


@dataclass(frozen=True)
class Trial:
    """Some cells of one session, and what the last of them must come to."""

    area: str
    name: str
    cells: tuple[str, ...]
    context: str | None
    image: str
    want: dict[str, Any]

    @property
    def title(self) -> str:
        """What expectations know it by."""
        return f"{self.area}: {self.name}"


@dataclass
class Model:
    """Answers a prompt with itself in capitals, and counts what it was asked."""

    limits: BoundaryLimits
    asked: int = 0
    together: int = 0
    refused: list[str] = field(default_factory=list)

    async def answer(self, frame: bytes) -> bytes:
        """Turn a request frame into a response frame, within the policy's limits."""
        try:
            request = decode_request(frame, self.limits)
        except QueryError as refusal:
            self.refused.append(str(refusal))
            return encode_response(Denied(refusal))
        match request:
            case LlmQuery(prompt=prompt):
                return encode_response(self._said([prompt])[0])
            case LlmQueryBatch(prompts=prompts):
                return encode_batch_response(self._said(prompts))
            case _:
                return encode_response(Denied(QueryError(f"no {type(request).__name__} here")))

    def _said(self, prompts: Sequence[str]) -> list[Completed]:
        self.asked += len(prompts)
        self.together = max(self.together, len(prompts))
        return [Completed(prompt.upper(), None) for prompt in prompts]


def trials() -> list[Trial]:
    """Read all of them. A key that nobody knows is a mistake."""
    found = []
    for file in sorted((HERE / "cells").glob("*.toml")):
        for cell in tomllib.loads(file.read_text("utf-8"))["cell"]:
            cells = cell.pop("cells", None) or [cell.pop("code")]
            area = cell.pop("area", file.stem)
            context, image = cell.pop("context", None), cell.pop("image", BASE_IMAGE)
            found.append(Trial(area, cell.pop("name"), tuple(cells), context, image, cell))
            unknown = cell.keys() - _CHECKS.keys()
            assert not unknown, (file.name, unknown)
            assert cell.keys() - {"fails_before_the_last"}, f"{found[-1].title} wants nothing"
    assert len({trial.title for trial in found}) == len(found), "two trials have one title"
    return found


def failing() -> dict[str, str]:
    """Read which trials are known to fail, and why."""
    known: dict[str, str] = tomllib.loads(EXPECTATIONS.read_text("utf-8"))["failing"]
    return known


def run_all(chosen: Sequence[Trial]) -> dict[str, str | None]:
    """Run trials in this process, in one sandbox for each image. Return for each why it failed, or None."""
    return anyio.run(_run_all, chosen)


def policy(image: str) -> Policy:
    """Return strict, without the process that this needs no other of."""
    return Policy.builtin("strict").replace(
        sandbox={"isolation": "inline", "require_lockdown": False, "image": image}
    )


async def _run_all(chosen: Sequence[Trial]) -> dict[str, str | None]:
    verdicts: dict[str, str | None] = {}
    for image in sorted({trial.image for trial in chosen}):
        async with Sandbox(policy(image)) as sandbox:
            verdicts |= {t.title: await _run(sandbox, t) for t in chosen if t.image == image}
    return verdicts


async def _run(sandbox: Sandbox, trial: Trial) -> str | None:
    model = Model(sandbox.policy.boundary)
    async with await sandbox.session() as session:
        if trial.context is not None:
            await session.load("context", trial.context)
        for source in trial.cells[:-1]:
            result = await session.exec(source, answer_frames=model.answer)
            if result.error is not None and not trial.want.get("fails_before_the_last"):
                return _cut(f"an earlier cell: {_told(result)}")
        result = await session.exec(trial.cells[-1], answer_frames=model.answer)
    if result.session_state is not SessionState.ALIVE:
        return _cut(f"the session was lost: {_told(result)}")
    if result.error is not None and not trial.want.keys() & {"raises", "told", "shows"}:
        return _cut(_told(result))
    for key, wanted in trial.want.items():
        if not _CHECKS[key](result, model, wanted):
            return _cut(f"{key} should be {wanted!r}; {_got(key, result, model)}")
    return None


def _shown(result: CellResult) -> str:
    return result.stdout + result.stderr + (_told(result) if result.error is not None else "")


_CHECKS: Final[dict[str, Any]] = {
    "want": lambda result, model, wanted: result.result == wanted,
    "prints": lambda result, model, wanted: result.stdout == wanted,
    "prints_parts": lambda result, model, wanted: all(part in result.stdout for part in wanted),
    "shows": lambda result, model, wanted: all(part in _shown(result) for part in wanted),
    "outcome": lambda result, model, wanted: result.outcome == wanted,
    "raises": lambda result, model, wanted: (
        isinstance(result.error, GuestException) and result.error.type_name == wanted
    ),
    "told": lambda result, model, wanted: all(part in _told(result) for part in wanted),
    "asked": lambda result, model, wanted: model.asked == wanted,
    "together": lambda result, model, wanted: model.together == wanted,
    "fails_before_the_last": lambda result, model, wanted: True,
}


def _told(result: CellResult) -> str:
    error = result.error
    if isinstance(error, GuestException):
        return f"{error.type_name}: {error.guest_message}\n{error.traceback}"
    return f"{result.outcome}: {error}"


def _got(key: str, result: CellResult, model: Model) -> str:
    if key in ("asked", "together"):
        return f"asked {model.asked}, {model.together} together"
    return f"result {result.result}, stdout {result.stdout!r}, {_told(result)}"


def _cut(text: str) -> str:
    return re.sub(r"\s+", " ", text)[:300]

"""`AnswerCheck`: checks the answers that a run's root declares, or repeats what a log says of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeAlias

from rlm_wasm.answers.answer_type import AnswerKind, AnswerType
from rlm_wasm.conversation.loop import CheckAnswer
from rlm_wasm.conversation.typed_answer import FittingAnswer, UnfitAnswer
from rlm_wasm.errors import UsageError
from rlm_wasm.scheduler.pricing import utf8_bytes
from rlm_wasm.system.threads import in_thread

# What a log says of the answer with this number, from 0: its problems, none if it fits; None: nothing.
RecalledChecks: TypeAlias = Callable[[int], "tuple[str, ...] | None"]


@dataclass(frozen=True, slots=True)
class RecordedOutput:
    """What the answer of a recorded run was to be, what its log says of each, and who can check others."""

    kind: AnswerKind
    schema: str
    recalled: RecalledChecks
    live: AnswerType | None


class AnswerCheck:
    """Checks one answer after the other, on a thread: a check may take a second."""

    def __init__(self, output: AnswerType | RecordedOutput, bytes_max: int) -> None:
        recorded = output if isinstance(output, RecordedOutput) else None
        self.kind: Final = output.kind
        self.schema: Final = output.schema
        self._recalled: Final = None if recorded is None else recorded.recalled
        self._type: Final = output.live if isinstance(output, RecordedOutput) else output
        self._bytes_max: Final = bytes_max
        self._checks = 0

    async def check(self, effect: CheckAnswer) -> FittingAnswer | UnfitAnswer:
        """Say whether an answer fits. Raises what a validator of the caller's own raises."""
        problems = None if self._recalled is None else self._recalled(self._checks)
        self._checks += 1
        if problems:
            return UnfitAnswer(problems)
        if self._type is None:
            # Nobody here can make a value of it.
            return FittingAnswer(None) if problems == () else UnfitAnswer(("$: the log has no verdict",))
        found = await in_thread(self._type.check, effect.text, effect.form, self._bytes_max)
        if problems == () and isinstance(found, UnfitAnswer):
            raise UsageError("output is another one than the run was begun with: it refuses its answer")
        return found


def checked_data(
    effect: CheckAnswer, found: FittingAnswer | UnfitAnswer, *, texts: bool
) -> dict[str, object]:
    """Return the data of `answer_checked`."""
    problems = list(found.problems) if isinstance(found, UnfitAnswer) else []
    data: dict[str, object] = {
        "fits": isinstance(found, FittingAnswer),
        "form": effect.form.value,
        "answer_bytes": utf8_bytes(effect.text),
        "problems": len(problems),
    }
    return data | {"problem_texts": problems} if texts else data

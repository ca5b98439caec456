"""The transcript of a run: every turn of its root, as it comes and in the result."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlm_wasm import Runtime
from rlm_wasm.errors import UsageError
from rlm_wasm.outcomes import Outcome
from rlm_wasm.results import CellRecord, TurnRecord
from tests.support.runtime_facts import Script, running, small_policy

pytestmark = [pytest.mark.guest, pytest.mark.anyio, pytest.mark.usefixtures("guest", "healthy_host")]


async def test_turns_and_cells_are_told_as_they_come_and_are_in_the_result(tmp_path: Path) -> None:
    script = Script(tmp_path).reply("root", "print(1)\n1/0", turn=1).reply("root", "FINAL(2)", turn=2)
    steps: list[TurnRecord | CellRecord] = []
    async with running(small_policy(), script.spec) as runtime:
        result = await runtime.ask("?", watch=steps.append)
    first, second = result.transcript
    assert [type(step).__name__ for step in steps] == ["TurnRecord", "CellRecord"] * 2
    assert (first.number, first.cells, second.cells) == (1, (steps[1],), (steps[3],))
    (cell,) = first.cells
    assert (cell.turn, cell.code.strip(), cell.outcome) == (1, "print(1)\n1/0", Outcome.GUEST_EXCEPTION)
    assert cell.observation.startswith("1\n")
    assert "ZeroDivisionError" in cell.observation
    assert cell.fuel_used > 0
    assert [cell.code.strip() for cell in second.cells] == ["FINAL(2)"]


async def test_what_a_watcher_raises_ends_the_run_and_is_raised(tmp_path: Path) -> None:
    class Enough(Exception):
        pass

    def stop(step: object) -> None:
        raise Enough

    async def waits(step: object) -> None:
        raise AssertionError("nobody awaits this")

    script = Script(tmp_path).reply("root", "FINAL(2)")
    async with running(small_policy(), script.spec) as runtime:
        with pytest.raises(Enough):
            await runtime.ask("?", watch=stop)
        assert (await runtime.ask("?")).answer == "2"
        with pytest.raises(UsageError, match="watch is called on the event loop's thread"):
            await runtime.ask("?", watch=waits)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
def test_code_that_is_not_async_watches_too_and_may_end_its_program(
    tmp_path: Path, kind: type[BaseException]
) -> None:
    def stop(step: object) -> None:
        raise kind

    async def waits(step: object) -> None:
        raise AssertionError("nobody awaits this")

    steps: list[object] = []
    script = Script(tmp_path).reply("root", "FINAL(2)")
    with Runtime(small_policy(), model=script.spec).sync() as runtime:
        with pytest.raises(kind):
            runtime.ask("?", watch=stop)
        assert runtime.ask("?", watch=steps.append).answer == "2"
        assert len(steps) == 2
        with pytest.raises(UsageError, match="watch is called on the event loop's thread"):
            runtime.ask("?", watch=waits)  # type: ignore[arg-type]

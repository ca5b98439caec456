"""The model of a run is told which packages its sessions have, by what the image in use says of itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlm_wasm.engine.packages import packages_of
from rlm_wasm.inline.guest_loader import load_guest_program
from tests.support.images import made_data
from tests.support.runtime_facts import running, small_policy

pytestmark = [pytest.mark.guest, pytest.mark.usefixtures("data", "healthy_host")]

# Answers with the version of PyYAML that it was told of, and the one that its session imports.
MODEL = """\
def reply(messages, model):
    told = messages[0]['content'].partition('PyYAML ')[2].partition(',')[0]
    return f'```repl\\nimport yaml\\nFINAL({told!r} + " " + yaml.__version__)\\n```'
"""


@pytest.fixture(scope="module")
def data() -> None:
    """Load the image: a process keeps it, like the guest without packages."""
    made_data()
    load_guest_program("data")


@pytest.mark.anyio
async def test_a_run_over_an_image_has_its_packages_and_its_model_is_told_so(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text(MODEL)
    policy = small_policy(sandbox={"image": "data"})
    async with running(policy, f"script:{tmp_path / 'model.py'}") as runtime:
        assert (await runtime.ask("Which?")).answer == "6.0.2 6.0.2"


def test_the_base_image_has_none_and_what_is_linked_into_a_guest_is_named() -> None:
    assert packages_of("base") == ()
    assert packages_of("numpy") == ("numpy",)


def test_of_an_image_that_is_not_there_nothing_is_said() -> None:
    assert packages_of("never-made") == ()

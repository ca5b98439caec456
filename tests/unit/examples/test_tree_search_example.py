"""The tree search example: it solves its puzzle by forks of live sessions, and leaves none."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from rlm_wasm import Sandbox, SandboxSession
from tests.support.runtime_facts import small_policy

pytestmark = [pytest.mark.anyio, pytest.mark.guest, pytest.mark.usefixtures("guest", "healthy_host")]
PATH = Path(__file__).resolve().parents[3] / "examples" / "tree_search" / "search.py"
MOVES = ["right", "down", "down", "right"]


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("tree_search_example", PATH)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where its dataclasses look
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("isolation", ["inline", "session"])
async def test_it_finds_the_moves_that_solve_the_puzzle(example: Any, isolation: str) -> None:
    policy = small_policy(sandbox={"isolation": isolation, "require_lockdown": False})
    assert await example.main(policy) == MOVES
    board = [0, 1, 3, 4, 2, 6, 7, 5, 8]
    for move in MOVES:  # by rules of our own
        hole = board.index(0)
        other = hole + {"up": -3, "down": 3, "left": -1, "right": 1}[move]
        board[hole], board[other] = board[other], board[hole]
    assert board == [1, 2, 3, 4, 5, 6, 7, 8, 0]


async def test_it_ends_where_there_is_no_way_and_no_session_is_left(example: Any) -> None:
    policy = small_policy()
    async with Sandbox(policy) as box, box.session() as root:
        await root.exec(example.PREPARE)
        # Two tiles the other way round: no moves solve that.
        await root.exec("board[:] = [2, 1, 3, 4, 5, 6, 7, 8, 0]")
        assert await example.search(root, example.STEPS, width=1, depth_max=3) is None
        assert isinstance(root, SandboxSession)
        assert (await root.exec("path")).value == []


async def test_a_step_that_fails_is_a_node_less(example: Any) -> None:
    async with Sandbox(small_policy()) as box, box.session() as root:
        await root.exec(example.PREPARE)
        nodes = await example.grown(await example.looked_at(root), example.STEPS)
        assert sorted(node.state for node in nodes) == [
            "[1, 0, 3, 4, 2, 6, 7, 5, 8]",
            "[4, 1, 3, 0, 2, 6, 7, 5, 8]",
        ]

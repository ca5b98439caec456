"""A tree search over live sessions: every node is a fork of the one above it, with all of its state.

    python examples/tree_search/search.py [POLICY]

The state here is a sliding puzzle that the guest holds, a step is one of its moves, and the best few nodes of
each level are grown further. For a task of your own, `PREPARE` loads what every attempt needs, the steps come
from a model, and `LOOK` runs your checks: nothing of the state has to be copied, written down or done again.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

import anyio

from rlm_wasm import Policy, Sandbox, SandboxSession

PREPARE = """
board = [0, 1, 3, 4, 2, 6, 7, 5, 8]
path = []

def move(name):
    row, column = divmod(board.index(0), 3)
    down, right = {"up": (-1, 0), "down": (1, 0), "left": (0, -1), "right": (0, 1)}[name]
    to_row, to_column = row + down, column + right
    if not (0 <= to_row < 3 and 0 <= to_column < 3):
        raise ValueError(f"there is a wall {name}")
    here, there = 3 * row + column, 3 * to_row + to_column
    board[here], board[there] = board[there], board[here]
    path.append(name)

def distance():
    pairs = ((divmod(board.index(n), 3), divmod(n - 1, 3)) for n in range(1, 9))
    return sum(abs(here[0] - goal[0]) + abs(here[1] - goal[1]) for here, goal in pairs)
"""
STEPS = ("move('up')", "move('down')", "move('left')", "move('right')")
LOOK = "[distance(), str(board)]"


@dataclass(frozen=True)
class Node:
    """A live session, how far it is from the goal, and what it looks like."""

    session: SandboxSession
    distance: int
    state: str


async def looked_at(session: SandboxSession) -> Node:
    """Return a session as a node. Raises what its code raises."""
    distance, state = (await session.exec(LOOK)).raise_for_outcome().value  # type: ignore[misc]
    return Node(session, int(distance), str(state))


async def grown(node: Node, steps: Sequence[str]) -> list[Node]:
    """Try each step in a fork of its own, all of them at once; return those that could be taken."""
    forks = await node.session.fork(len(steps))
    found: list[Node | None] = [None] * len(steps)

    async def take(number: int) -> None:
        result = await forks[number].exec(steps[number])
        if result.error is None:
            found[number] = await looked_at(forks[number])
        else:
            await forks[number].aclose()

    async with anyio.create_task_group() as tasks:
        for number in range(len(steps)):
            tasks.start_soon(take, number)
    return [each for each in found if each is not None]


async def search(root: SandboxSession, steps: Sequence[str], *, width: int, depth_max: int) -> Node | None:
    """Return the first node that is at its goal. The best `width` nodes of each level are grown further."""
    level = [await looked_at(root)]
    seen = {level[0].state}
    for _ in range(depth_max):
        nodes = [each for node in level for each in await grown(node, steps)]
        new = {node.state: node for node in reversed(nodes) if node.state not in seen}
        seen |= set(new)
        best = sorted(new.values(), key=lambda node: (node.distance, node.state))[:width]
        solved = bool(best) and best[0].distance == 0
        kept = best[:1] if solved else best
        await close([node for node in (*level, *nodes) if node not in kept], root)
        if solved or not kept:
            return kept[0] if kept else None
        level = kept
    await close(level, root)
    return None


async def close(nodes: Sequence[Node], root: SandboxSession) -> None:
    """Free what is not looked at any more; where the search began is the caller's."""
    for node in nodes:
        if node.session is not root:
            await node.session.aclose()


async def main(policy: Policy) -> list[str]:
    """Solve the puzzle and return its moves."""
    async with Sandbox(policy) as sandbox, sandbox.session() as root:
        (await root.exec(PREPARE)).raise_for_outcome()
        found = await search(root, STEPS, width=2, depth_max=12)
        if found is None:
            raise SystemExit("no way was found")
        return [str(each) for each in await found.session.get("path")]  # type: ignore[union-attr]


if __name__ == "__main__":
    print(" ".join(anyio.run(main, Policy.builtin(sys.argv[1] if len(sys.argv) > 1 else "strict"))))
